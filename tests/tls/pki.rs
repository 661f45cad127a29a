//! Certificates of a test's own, and servers that show them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

pub const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
pub const ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub const ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A CA.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For what else it signs.
    #[allow(dead_code)] // of one of the programs that share this file
    pub fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.0
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A server's certificate for `names`, which may be addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 2090)
    }

    /// One that is over at the beginning of a year.
    pub fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(names);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let made = params.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            certificate: made.der().clone(),
            pem: made.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("names")
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    key: Vec<u8>,
}

impl Issued {
    /// One that signed itself, as a CA's (`openssl req -x509` makes such) or not.
    pub fn self_signed(names: &[&str], authority: bool) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(names);
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let made = params.self_signed(&key).expect("a certificate");
        Self {
            certificate: made.der().clone(),
            pem: made.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// A server that shows it, and with `clients` takes those alone whose certificate that CA has signed.
    pub fn server(&self, versions: &[&'static SupportedProtocolVersion], clients: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der()).expect("a certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], self.key()).expect("they match");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}
