//! Whose a machine's certificate is, and until when it is good.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// What a machine's certificate says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineCertificate {
    /// Its first DNS name (RFC 5280 section 4.2.1.6), else its common name; `None` where it has neither.
    pub name: Option<String>,
    /// The last second in which it is good, in seconds since 1970.
    pub not_after_s: i64,
}

/// Looks at the machine's own certificate, which the handshake has found good; `None` if it cannot be read.
pub fn machine_certificate(certificate: &CertificateDer<'_>) -> Option<MachineCertificate> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let first = names.into_iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let common = || certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned);
    Some(MachineCertificate { name: first.or_else(common), not_after_s: certificate.validity().not_after.timestamp() })
}
