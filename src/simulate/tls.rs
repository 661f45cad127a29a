//! The TLS of machines: whose certificates they trust, and their own.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why it cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rustls::pki_types::pem::Error,
    },
    /// There is no certificate in it.
    #[error("{}: there is no certificate in this file; it is to begin with -----BEGIN CERTIFICATE-----", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// What the files hold cannot be used together.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: rustls::Error,
    },
    /// A server cannot be called so.
    #[error("{0:?} is no name of a server, and no address")]
    Name(String),
}

/// What all machines of a run have in common. All show the same certificate.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// What the server's certificate must say; without it the address.
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// `ca`: whose certificates of servers count. `own`: certificate and key that a server may ask for. `name`: what the server's
    /// certificate must say, where that is not its address.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn new(ca: &Path, own: Option<(&Path, &Path)>, name: Option<&str>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| TlsError::Unusable { path: ca.to_owned(), error })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites of TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| TlsError::File { path: key.to_owned(), error })?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| TlsError::Unusable { path: key.to_owned(), error })?
            }
        };
        let name = match name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?),
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// A session with the server at an address.
    pub(super) fn session(&self, to: IpAddr) -> ClientConnection {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(to));
        ClientConnection::new(Arc::clone(&self.config), name).expect("the settings are good for every name")
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(found) }
}
