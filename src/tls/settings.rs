//! Whom a session trusts, and who we are: what `[deliver.tls]` and `tls` of a source say, read and checked.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::sync::Arc;

/// `[deliver.tls]`: what the files hold that it names. It is for both steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// Certificates of the CAs that may sign the API's: those of `ca`, or this machine's own. Never empty.
    pub authorities: Vec<CertificateDer<'static>>,
    /// They are those of `ca`.
    pub is_named: bool,
    /// The client certificate, if there is one.
    pub identity: Option<Identity>,
}

/// A certificate and its private key, which `Debug` does not show.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The certificate, then those that lead to its CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// `tls` of a source: what its machines are shown, and which of them may come.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    /// The server's certificate.
    pub identity: Identity,
    /// Who must have signed a machine's certificate; `None`: machines show none.
    pub clients: Option<Clients>,
}

/// Whose certificates machines must show.
#[derive(Debug, Clone, PartialEq)]
pub struct Clients {
    /// The CAs of `client_ca`. Never empty.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What these have revoked. Empty without `crl`, and then nothing is looked up.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}
