//! TLS 1.3 for machines and the floor: one suite, by rustls as a library, without tickets.

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection, SideData,
};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..default_provider() })
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(io::Error::other)
}

/// What machines trust: the certificates in a file of PEM.
pub fn client(ca: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    Ok(Arc::new(builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth()))
}

/// What the floor shows: certificate and key, files of PEM.
pub fn server(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_no_client_auth();
    let mut config = builder.with_single_cert(certificates(certificate)?, key).map_err(io::Error::other)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Shakes hands on a connected socket, which blocks until it is done.
///
/// # Safety
/// The descriptor is an open socket of the caller.
#[allow(unsafe_code)] // takes a raw descriptor
pub unsafe fn shake_hands(config: &Arc<ClientConfig>, peer: IpAddr, fd: RawFd) -> io::Result<ClientConnection> {
    let mut session = ClientConnection::new(Arc::clone(config), ServerName::from(peer)).map_err(io::Error::other)?;
    // SAFETY: by the caller's promise; it is given back below.
    let mut stream = unsafe { TcpStream::from_raw_fd(fd) };
    let done = session.complete_io(&mut stream);
    let _ = stream.into_raw_fd();
    done.map(|_| session)
}

/// A new session of the floor.
pub fn accept(config: &Arc<ServerConfig>) -> io::Result<ServerConnection> {
    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)
}

/// Opens what has come, and appends the plaintext.
pub fn open<S: SideData>(session: &mut ConnectionCommon<S>, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        session.read_tls(&mut bytes)?;
        let state = session.process_new_packets().map_err(io::Error::other)?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        session.reader().read_exact(&mut plain[start..])?;
    }
    Ok(())
}

/// Seals bytes; `out` has what is to be sent, from its beginning.
pub fn seal<S: SideData>(session: &mut ConnectionCommon<S>, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    session.writer().write_all(plain)?;
    while session.wants_write() {
        session.write_tls(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_seals_the_other_opens() {
        let directory = std::env::temp_dir().join(format!("ringest-bench-tls-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory");
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let (pem, key) = (directory.join("server.pem"), directory.join("server.key"));
        std::fs::write(&pem, signed.cert.pem()).expect("written");
        std::fs::write(&key, signed.signing_key.serialize_pem()).expect("written");
        let name = ServerName::from("127.0.0.1".parse::<IpAddr>().expect("an address"));
        let mut machine = ClientConnection::new(client(&pem).expect("a client"), name).expect("a session");
        let mut floor = accept(&server(&pem, &key).expect("a server")).expect("a session");
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            seal(&mut machine, b"", &mut sealed).expect("sealed");
            open(&mut floor, &sealed, &mut plain).expect("opened");
            seal(&mut floor, b"", &mut sealed).expect("sealed");
            open(&mut machine, &sealed, &mut plain).expect("opened");
        }
        assert!(!machine.is_handshaking() && !floor.is_handshaking() && plain.is_empty());
        seal(&mut machine, b"a request", &mut sealed).expect("sealed");
        open(&mut floor, &sealed, &mut plain).expect("opened");
        assert_eq!(plain, b"a request");
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
