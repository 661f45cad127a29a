//! Why a machine's TLS came to nothing, for the person who must mend the machine.

use super::hello::Offer;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// The kinds that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its first bytes are no TLS.
    Plain,
    /// They are a PROXY header, from a peer that is not in `proxies`.
    Proxy,
    /// What it offers is too old, or has nothing in common with what is taken.
    Offer,
    /// Its certificate is missing, or not good.
    Certificate,
    /// It does not accept the server's certificate.
    Untrusted,
    /// The handshake did not end in time.
    Late,
    /// It closed the connection in the middle of the handshake.
    Left,
    /// Anything else: broken messages, other alerts.
    Other,
}

impl Reason {
    /// The label in metrics and snapshots.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plain => "tls_plain",
            Self::Proxy => "proxy_header",
            Self::Offer => "tls_offer",
            Self::Certificate => "tls_certificate",
            Self::Untrusted => "tls_untrusted",
            Self::Late => "tls_late",
            Self::Left => "tls_left",
            Self::Other => "tls_other",
        }
    }
}

/// Why a session with a machine came to an end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Fault {
    /// What it counts as.
    pub reason: Reason,
    /// What happened, and what to do about it.
    pub words: String,
}

impl Fault {
    /// One in words.
    pub fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into() }
    }

    /// Bytes of the first read that are no TLS record.
    pub(super) fn plain(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
            let words = "it began with a PROXY header, and is not in proxies of this source: add its address, or let it send none";
            return Self::new(Reason::Proxy, words);
        }
        let words = match bytes.first() {
            Some(b'A'..=b'Z') => "it spoke HTTP or text without TLS on a TLS port: its URL must begin with https://",
            _ => "it did not speak TLS on a TLS port: see to its settings",
        };
        Self::new(Reason::Plain, words)
    }

    /// What the library has found; `offer`: what the machine has offered, where the fault is in that.
    pub(super) fn of(error: Error, offer: Option<Offer>) -> Self {
        match error {
            Error::InvalidCertificate(fault) => Self::new(Reason::Certificate, of_certificate(&fault)),
            Error::NoCertificatesPresented => Self::new(
                Reason::Certificate,
                "it showed no certificate, and this source has a client_ca: give the machine one that this CA has signed",
            ),
            Error::PeerIncompatible(fault) => Self::new(Reason::Offer, of_offer(&fault, offer)),
            Error::NoApplicationProtocol => Self::new(
                Reason::Offer,
                "it offered other application protocols (ALPN) and not http/1.1: switch HTTP/2 off in the machine",
            ),
            Error::AlertReceived(alert) => of_alert(alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                Self::plain(&[])
            }
            other => Self::new(Reason::Other, format!("it does not keep to TLS: {other}")),
        }
    }
}

fn of_certificate(fault: &CertificateError) -> String {
    let until = |second: u64| {
        let time = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
        time.map(|time| format!(" {time}")).unwrap_or_default()
    };
    match fault {
        CertificateError::Revoked => "its certificate is revoked by the list in crl".to_owned(),
        CertificateError::UnknownRevocationStatus => {
            "no list in crl is of the CA that has signed its certificate: add that CA's list to the file, or leave crl out"
                .to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on{}: renew it", until(not_after.as_secs()))
        }
        CertificateError::Expired => "its certificate is expired: renew it".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is good from{} on only: is a clock wrong?", until(not_before.as_secs()))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet: is a clock wrong?".to_owned(),
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by a CA of client_ca: give the machine one that is".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for clients: make one with extendedKeyUsage=clientAuth".to_owned()
        }
        other => format!("its certificate cannot be accepted: {other}"),
    }
}

/// What such a machine needs.
const OLD: &str = "put haproxy with the PROXY protocol in front of it (README, \"Old devices\")";

fn of_offer(fault: &PeerIncompatible, offer: Option<Offer>) -> String {
    match offer {
        Some(offer) if offer.is_old() => {
            format!("it offered {}, and TLS 1.2 or 1.3 is needed: {OLD}", offer.words())
        }
        Some(offer) => {
            let remedy = if offer.is_rsa_alone() { format!(": {OLD}") } else { String::new() };
            format!("it offered {}, of which nothing is taken here ({fault:?}){remedy}", offer.words())
        }
        None => format!("it has nothing in common with this gateway ({fault:?})"),
    }
}

fn of_alert(alert: AlertDescription) -> Fault {
    use AlertDescription as Alert;
    let name = alert.as_str().map_or_else(|| format!("{alert:?}"), str::to_owned);
    match alert {
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::CertificateRevoked
        | Alert::UnknownCA => Fault::new(
            Reason::Untrusted,
            format!(
                "it does not accept this gateway's certificate (alert {name}): give the machine the certificate of the CA that \
                 has signed it, and let it connect by a name that stands in it"
            ),
        ),
        Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            Fault::new(Reason::Offer, format!("it ended the handshake by the alert {name}: {OLD}"))
        }
        _ => Fault::new(Reason::Other, format!("it ended the session by the alert {name}")),
    }
}
