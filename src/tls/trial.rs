//! The certificate of a listener, tried as its machines will: by a handshake in memory, before any of them comes.

use super::server::Server;
use super::session::Progress;
use super::settings::ServerTls;
use super::{Clock, TlsError, Use, server_expiries, trusted};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Longest handshake, in turns of both sides.
const TURNS_MAX: usize = 20;

/// A certificate that machines take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The names and addresses by which it can be connected to.
    pub names: Vec<String>,
    /// Who must be trusted, as text.
    pub root: String,
    /// The certificate of whom is in the file.
    pub has_root: bool,
}

/// Why no machine would take a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is over, or one that leads to its CA is.
    #[error("{subject} ended on {day}")]
    Expired {
        /// Whose it is.
        subject: String,
        /// Its last day.
        day: String,
    },
    /// No name that machines look at.
    #[error("there is no name in it that a machine could connect to (subjectAltName)")]
    NoName,
    /// The file does not lead from one certificate to the next.
    #[error("{subject} is signed by {issuer}, and no other certificate of the file is the one that signed it")]
    Broken {
        /// Whose the first one is.
        subject: String,
        /// By whom it says to be signed.
        issuer: String,
    },
    /// The key is another one's.
    #[error("the key does not belong to it")]
    Key,
    /// What a machine would say of it.
    #[error("a machine would say: {0}")]
    Other(TlsError),
}

impl Unfit {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "renew it (`ringest cert renew`, or by its CA), then reload (SIGHUP)",
            Self::NoName => "a certificate with the names and addresses that machines connect to",
            Self::Broken { .. } => {
                "in certificate of this source: the server's certificate first, behind it the one that signed it, and so on"
            }
            Self::Key => "in key of this source: the private key of the first certificate in certificate",
            Self::Other(TlsError::NotValidYet { .. }) => "set this machine's clock, or wait",
            Self::Other(TlsError::IsAuthority) => "a certificate of the gateway's own, signed by that CA",
            Self::Other(TlsError::WrongPurpose) => "a certificate with extendedKeyUsage=serverAuth",
            Self::Other(_) => "another certificate",
        }
    }
}

/// Tries what `tls` shows to machines, at `wall_ns` nanoseconds after 1970. Whether they show
/// certificates of theirs does not matter.
///
/// # Errors
/// The first thing by which a machine would refuse it.
///
/// # Panics
/// If settings are such as [`config`](crate::config) refuses.
pub fn try_server(tls: &ServerTls, wall_ns: u64) -> Result<Fit, Unfit> {
    let chain = &tls.identity.chain;
    let parsed = |certificate| x509_parser::parse_x509_certificate(certificate).map(|(_, parsed)| parsed);
    let unreadable = || Unfit::Other(TlsError::Certificate { reason: "it cannot be read".to_owned() });
    let first = parsed(&chain[0]).map_err(|_| unreadable())?;
    let last = parsed(&chain[chain.len() - 1]).map_err(|_| unreadable())?;
    if let Some(expiry) = server_expiries(tls)
        .into_iter()
        .find(|expiry| expiry.of == Use::Server && expiry.not_after_s < (wall_ns / 1_000_000_000) as i64)
    {
        let day = jiff::Timestamp::from_second(expiry.not_after_s).map(|day| day.strftime("%Y-%m-%d").to_string());
        return Err(Unfit::Expired { subject: expiry.subject, day: day.unwrap_or_else(|_| "another day".to_owned()) });
    }
    let names = names(&first);
    let name = names.iter().find_map(|name| server_name_of(name)).ok_or(Unfit::NoName)?;
    // What the last one of the file does not sign itself, machines must have; with one alone nobody knows more.
    let is_alone = chain.len() == 1 && first.issuer() != first.subject();
    let verifier = Verifier::new(&chain[chain.len() - 1], is_alone)?;
    shake_hands(tls, wall_ns, name, Arc::new(verifier)).map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Unfit::Broken { subject: shown(first.subject()), issuer: shown(first.issuer()) }
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => Unfit::Key,
        other => Unfit::Other(other.into()),
    })?;
    let root = if last.issuer() == last.subject() { last.subject() } else { last.issuer() };
    Ok(Fit { names, root: shown(root), has_root: last.issuer() == last.subject() })
}

fn shown(name: &x509_parser::x509::X509Name<'_>) -> String {
    name.to_string().escape_debug().to_string()
}

/// The names and addresses of the extension; no others count (RFC 9110 section 4.3.4).
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let known = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    });
    known.collect()
}

/// A name that a machine could connect to; for `*.plant`, one of those.
fn server_name_of(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.replacen('*', "any", 1)).ok()
}

/// A whole handshake in memory.
fn shake_hands(tls: &ServerTls, wall_ns: u64, name: ServerName<'static>, verifier: Arc<Verifier>) -> Result<(), Error> {
    let shown = ServerTls { identity: tls.identity.clone(), clients: None };
    let server = Server::new("", &shown).expect("settings are checked");
    server.set_time(wall_ns);
    let clock = Clock::default();
    clock.0.store(wall_ns / 1_000_000_000, Ordering::Relaxed);
    let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(clock))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut session = server.session().map_err(|error| Error::General(error.to_string()))?;
    for _ in 0..TURNS_MAX {
        let (mut bytes, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut bytes).map_err(|error| Error::General(error.to_string()))?;
        }
        let progress = session.receive(&mut bytes, &mut plain, &mut out);
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).map_err(|error| Error::General(error.to_string()))?;
            client.process_new_packets()?;
        }
        match progress {
            Ok(Progress::Open) if !client.is_handshaking() => return Ok(()),
            Ok(_) => {}
            Err(fault) => return Err(Error::General(fault.words)),
        }
    }
    Err(Error::General("the handshake has no end".to_owned()))
}

/// Judges as a machine does that trusts the last certificate of the file, or whoever has signed it.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// Who has signed it is not in the file, and is taken to be trusted.
    is_alone: bool,
}

impl Verifier {
    fn new(last: &CertificateDer<'static>, is_alone: bool) -> Result<Self, Unfit> {
        let roots = trusted(std::slice::from_ref(last))
            .map_err(|error| Unfit::Other(TlsError::Certificate { reason: error.to_string() }))?;
        let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::new(ring::default_provider()));
        Ok(Self { inner: builder.build().expect("one is trusted"), is_alone })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        first: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.inner.verify_server_cert(first, others, name, stapled, now) {
            // It comes last of all but the name.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) if self.is_alone => {
                verify_server_name(&ParsedCertificate::try_from(first)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
