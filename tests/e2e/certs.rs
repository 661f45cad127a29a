//! `ringest cert`, and what is made by it: the real gateway and clients of other libraries take it.

use crate::process::{Gateway, Receiver, eventually, ringest};
use crate::site::{Site, assert_rows, free_address, record};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Runs `ringest cert` in a directory; its exit code, and what it said.
fn cert(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = ringest().arg("cert").args(arguments).current_dir(directory).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[track_caller]
pub fn made(directory: &Path, arguments: &[&str]) -> String {
    let (code, said) = cert(directory, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    said
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn pem(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("PEM").collect::<Result<_, _>>().expect("certificates")
}

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A machine that trusts the CA in `directory`, and shows the certificate of this name.
fn connect(directory: &Path, name: Option<&str>, to: SocketAddr) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(pem(&directory.join("ca.pem")).remove(0)).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key"))).expect("a key");
            builder.with_client_auth_cert(pem(&directory.join(format!("{name}.pem"))), key).expect("they match")
        }
    };
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a session"), stream)
}

/// The status of an answer to a record.
fn post(client: &mut Client, source: &str, record: &str) -> std::io::Result<u16> {
    let length = record.len();
    write!(client, "POST /v1/records/{source} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n{record}")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).expect("text");
    let length = text.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a length");
    client.read_exact(&mut vec![0; length.parse().expect("a number")])?;
    Ok(text[9..12].parse().expect("a status"))
}

#[test]
fn what_is_made_is_private_and_never_overwritten_unasked() {
    let site = tempfile::tempdir().expect("a directory");
    let directory = site.path();
    let (code, said) = cert(directory, &["client", "cam-1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ca.pem: it cannot be read") && said.contains("ringest cert ca NAME"), "{said}");
    let said = made(directory, &["ca", "Plant 7 machines"]);
    assert!(said.contains("Keep it away from the gateway"), "{said}");
    made(directory, &["server", "gateway.plant", "10.0.0.5"]);
    made(directory, &["client", "cam-1"]);
    for name in ["ca", "server", "cam-1"] {
        assert_eq!(mode(&directory.join(format!("{name}.key"))), 0o600, "{name}");
    }
    let key = std::fs::read(directory.join("ca.key")).expect("a key");
    for arguments in [&["ca", "Another"][..], &["server", "gateway.plant"], &["client", "cam-1"]] {
        let (code, said) = cert(directory, arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is there already") && said.contains("--replace"), "{said}");
    }
    assert_eq!(std::fs::read(directory.join("ca.key")).expect("a key"), key);
    made(directory, &["ca", "Another", "--replace"]);
    assert_ne!(std::fs::read(directory.join("ca.key")).expect("a key"), key);
    assert_eq!(mode(&directory.join("ca.key")), 0o600);
    for (arguments, what) in [
        (&["client", "cam 1"][..], "cannot be a machine's name"),
        (&["client", "../cam"], "cannot be a machine's name"),
        (&["server", "10.0.0.5:8443"], "without a port"),
        (&["server"], "NAMES"),
        (&["ca", ""], "the CA's name"),
    ] {
        let (code, said) = cert(directory, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(what), "{said}");
    }
    // The new CA's key is not the old server's.
    let (code, said) = cert(directory, &["client", "cam-2", "--ca-key", "server.key"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("server.key: this is not the key of ca.pem"), "{said}");
    let (code, said) = cert(directory, &["client", "cam-2", "--ca", "server.pem"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no CA's certificate"), "{said}");
}

#[test]
fn from_a_ca_of_ones_own_to_rows_and_a_revoked_machine_is_out_after_a_reload() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1", "gateway.plant"]);
    made(&directory, &["client", "cam-1"]);
    made(&directory, &["client", "cam-2"]);
    made(&directory, &["client", "cam-9"]);
    made(&directory, &["revoke", "cam-9.pem"]);
    let (https, tcp) = (free_address(), free_address());
    let path = |name: &str| directory.join(name).display().to_string();
    let tls = format!(
        "tls = {{ certificate = {:?}, key = {:?}, client_ca = {:?}, crl = {:?} }}\nname_from = \"certificate\"",
        path("server.pem"),
        path("server.key"),
        path("ca.pem"),
        path("revoked.crl")
    );
    let config = site.config().source("cams", "http", &format!("listen = \"{https}\"\n{tls}"));
    let config = config.source(
        "plc",
        "tcp_listen",
        &format!("listen = \"{tcp}\"\nend = \"\\r\"\n{tls}").replace("end = \"\\r\"\n", ""),
    );
    let config = config.write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut cam = connect(&directory, Some("cam-1"), https);
    for number in 0..20 {
        assert_eq!(post(&mut cam, "cam-1", &record("cam-1", number)).expect("an answer"), 201);
    }
    assert_eq!(post(&mut cam, "cam-2", &record("cam-2", 0)).expect("an answer"), 403);
    let mut plc = connect(&directory, Some("cam-2"), tcp);
    for number in 0..5 {
        write!(plc, "{}\r", record("cam-2", number)).expect("sent");
    }
    gateway.wait_delivered(25);
    assert_rows(&site.rows(), &[("cam-1", 20), ("cam-2", 5)]);
    assert!(site.rows().iter().all(|row| row.data.starts_with(&row.machine)), "each is who its certificate says");
    for name in [None, Some("cam-9")] {
        assert!(post(&mut connect(&directory, name, https), "cam-9", "no").is_err());
    }
    assert_eq!(gateway.status().counter("tls_failed_certificate"), 2);
    // cam-1 is revoked: its connection ends with the reload, and it is not let in again.
    made(&directory, &["revoke", "cam-1.pem"]);
    gateway.process.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("its connection to end", || post(&mut cam, "cam-1", "late").is_err().then_some(()));
    assert!(post(&mut connect(&directory, Some("cam-1"), https), "cam-1", "no").is_err());
    // cam-2 is renewed, and so is the gateway.
    made(&directory, &["renew", "cam-2.pem", "--days", "900"]);
    made(&directory, &["renew", "server.pem"]);
    gateway.process.signal(nix::sys::signal::Signal::SIGHUP);
    let shown = pem(&directory.join("server.pem"));
    let mut renewed = eventually("the renewed certificate", || {
        let mut client = connect(&directory, Some("cam-2"), https);
        let status = post(&mut client, "cam-2", &record("cam-2", 5)).ok()?;
        assert_eq!(status, 201);
        (client.conn.peer_certificates() == Some(&shown[..])).then_some(client)
    });
    assert_eq!(post(&mut renewed, "cam-1", "no").expect("an answer"), 403);
    let log = gateway.stop();
    assert!(log.contains("revoked") && log.contains("no TLS with 127.0.0.1:"), "{log}");
    receiver.stop();
}

#[test]
fn curl_posts_over_tls_and_is_told_where_it_is_wrong() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1"]);
    let https = free_address();
    let path = |name: &str| directory.join(name).display().to_string();
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}", path("server.pem"), path("server.key"));
    let config = site.config().source("cams", "http", &format!("listen = \"{https}\"\n{tls}")).write(&site);
    let gateway = Gateway::start(&site, &config);
    let curl = |arguments: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-w", " %{http_code}", "--cacert"]).arg(directory.join("ca.pem"));
        let output = command.args(arguments).output().expect("curl is installed");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let url = format!("https://{https}/v1/records/cam-1");
    for (number, version) in ["--tlsv1.2", "--tlsv1.3"].into_iter().enumerate() {
        let max = if number == 0 { "1.2" } else { "1.3" };
        let (code, said) =
            curl(&[version, "--tls-max", max, "-d", &record("cam-1", number), &url, "-H", "Content-Type: text/plain"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("{\"accepted\":1} 201"), "{said}");
    }
    gateway.wait_delivered(2);
    assert_rows(&site.rows(), &[("cam-1", 2)]);
    let (_, said) = curl(&["-d", "x", &url.replace("https", "http")]);
    assert!(said.contains("a URL that begins with https://") && said.contains(" 400"), "{said}");
    let (code, said) = curl(&["--tlsv1.2", "--tls-max", "1.2", "--ciphers", "AES128-SHA", "-d", "x", &url]);
    assert_ne!(code, Some(0), "{said}");
    let status = gateway.status();
    assert_eq!((status.counter("tls_failed_plain"), status.counter("tls_failed_offer")), (1, 1));
    // What was not told at once is told within the minute; the first one is.
    let log = gateway.stop();
    assert!(log.contains("spoke HTTP or text without TLS"), "{log}");
    receiver.stop();
}
