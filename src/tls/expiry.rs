//! When our certificates end: said in time, since nothing is delivered afterwards.

use super::settings::{ServerTls, Tls};
use rustls::pki_types::CertificateDer;
use std::time::Duration;

/// So long before its end a certificate is spoken of.
pub const SOON: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// It shows the service who we are: the first one of `cert`, or one that leads to its CA.
    Client,
    /// It signs the service's.
    Authority,
    /// It shows machines who we are: the first one of `certificate`, or one that leads to its CA.
    Server,
    /// It signs the machines'.
    ClientAuthority,
}

impl Use {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Authority => "ca",
            Self::Server => "server",
            Self::ClientAuthority => "client_ca",
        }
    }

    /// The key of `[deliver.tls]`, or of `tls` of a source, that names its file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Client => "cert",
            Self::Authority => "ca",
            Self::Server => "certificate",
            Self::ClientAuthority => "client_ca",
        }
    }
}

/// The end of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// What it is for.
    pub of: Use,
    /// Whose it is (RFC 5280 section 4.1.2.6), as text.
    pub subject: String,
    /// The last second in which it is good, in seconds since 1970.
    pub not_after_s: i64,
}

impl Expiry {
    /// What is to be said of it at `wall_ns` nanoseconds after 1970: nothing until its end is near.
    pub fn warning(&self, wall_ns: u64) -> Option<String> {
        let now_s = (wall_ns / 1_000_000_000) as i64;
        let left_s = self.not_after_s - now_s;
        if left_s > SOON.as_secs() as i64 {
            return None;
        }
        let Self { of, subject, not_after_s } = self;
        let what = match of {
            Use::Client => "the client certificate",
            Use::Authority => "the CA certificate",
            Use::Server => "the server certificate",
            Use::ClientAuthority => "the CA certificate of machines",
        };
        let day = jiff::Timestamp::from_second(*not_after_s).map(|end| end.strftime("%Y-%m-%d").to_string());
        let day = day.unwrap_or_else(|_| "a day that no calendar has".to_owned());
        Some(match left_s {
            ..0 => format!("{what} {subject} ended on {day}"),
            _ => format!("{what} {subject} ends on {day}, in {} days", left_s / 86_400),
        })
    }
}

/// The ends of the certificates that the configuration names, the earliest of each subject; not of those that this machine trusts.
pub fn expiries(tls: &Tls) -> Vec<Expiry> {
    let chain = tls.identity.iter().flat_map(|identity| &identity.chain).map(|cert| (Use::Client, cert));
    let authorities = tls.authorities.iter().filter(|_| tls.is_named).map(|cert| (Use::Authority, cert));
    earliest(chain.chain(authorities))
}

/// The same of a source.
pub fn server_expiries(tls: &ServerTls) -> Vec<Expiry> {
    let chain = tls.identity.chain.iter().map(|cert| (Use::Server, cert));
    let authorities = tls.clients.iter().flat_map(|clients| &clients.authorities);
    earliest(chain.chain(authorities.map(|cert| (Use::ClientAuthority, cert))))
}

fn earliest<'c>(certificates: impl Iterator<Item = (Use, &'c CertificateDer<'static>)>) -> Vec<Expiry> {
    let mut found: Vec<Expiry> = certificates.filter_map(|(of, cert)| expiry(of, cert)).collect();
    found.sort_unstable();
    found.dedup_by(|later, first| later.of == first.of && later.subject == first.subject);
    found
}

fn expiry(of: Use, cert: &CertificateDer<'_>) -> Option<Expiry> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    let subject = cert.subject().to_string().escape_debug().to_string();
    Some(Expiry { of, subject, not_after_s: cert.validity().not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_for_a_month_and_afterwards() {
        let expiry = Expiry { of: Use::Client, subject: "CN=line 3".to_owned(), not_after_s: 1_800_000_000 };
        let at = |days: i64| (1_800_000_000 + days * 86_400) as u64 * 1_000_000_000;
        assert_eq!(expiry.warning(at(-31)), None);
        let soon = expiry.warning(at(-30)).expect("near");
        assert_eq!(soon, "the client certificate CN=line 3 ends on 2027-01-15, in 30 days");
        assert!(expiry.warning(at(0)).expect("the last second").ends_with("in 0 days"));
        assert_eq!(expiry.warning(at(1)).expect("over"), "the client certificate CN=line 3 ended on 2027-01-15");
    }
}
