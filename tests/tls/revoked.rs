//! What a CA has revoked.

use crate::pki::{Authority, Issued};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};

impl Authority {
    /// A list of revoked certificates, as PEM.
    pub fn revoke(&self, certificates: &[&Issued]) -> String {
        let revoked = |issued: &&Issued| {
            let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate).expect("a certificate");
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(certificate.raw_serial()),
                revocation_time: date_time_ymd(2025, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(self.issuer()).expect("a list").pem().expect("PEM")
    }
}
