//! TLS on more than one core: a machine's connections land on any of them, and its records are one order.

use crate::certs::made;
use crate::cores::cpus;
use crate::process::{Gateway, Receiver};
use crate::site::{Site, assert_rows, free_address, record};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// That all of so many connections fall to one core cannot be.
const CONNECTIONS: usize = 24;
const ROUNDS: usize = 12;

/// A machine that remembers its sessions.
fn machine(ca: &Path, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).expect("a version").with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(machine: &Arc<ClientConfig>, to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        Self(StreamOwned::new(ClientConnection::new(Arc::clone(machine), name).expect("a session"), stream))
    }

    /// One record with its key; the status.
    fn post_keyed(&mut self, source: &str, number: usize) -> u16 {
        self.post(source, number, &format!("Idempotency-Key: {source}-{number}\r\n"))
    }

    /// One record; the status.
    fn post(&mut self, source: &str, number: usize, fields: &str) -> u16 {
        let body = record(source, number);
        let fields = format!("Host: g\r\n{fields}Content-Length: {}", body.len());
        write!(self.0, "POST /v1/records/{source} HTTP/1.1\r\n{fields}\r\n\r\n{body}").expect("sent");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"{\"accepted\":1}") {
            assert_eq!(self.0.read(&mut byte).expect("an answer"), 1, "{}", answer.escape_ascii());
            answer.push(byte[0]);
            assert!(answer.len() < 1_000, "{}", answer.escape_ascii());
        }
        std::str::from_utf8(&answer[9..12]).expect("text").parse().expect("a status")
    }

    fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

#[test]
fn a_machine_resumes_on_any_core_and_what_its_connections_send_is_one_order_and_nothing_twice() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1"]);
    let path = |name: &str| directory.join(name);
    let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}", path("server.pem"), path("server.key"));
    let (apart, cams) = (free_address(), free_address());
    let config = site
        .config()
        .cores(&cpus(2))
        .source("apart", "http", &format!("listen = \"{apart}\"\nlane = \"connection\"\n{tls}"))
        .source("cams", "http", &format!("listen = \"{cams}\"\n{tls}"))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    let of_core = |core: usize| gateway.status().0["shards"][core]["terms"]["received"].as_u64().expect("a number");

    // One connection behind the other. A record without a key stays on the core of its connection here, which tells where that was.
    let mut expected = Vec::new();
    for (name, version) in [("m2", &rustls::version::TLS12), ("m3", &rustls::version::TLS13)] {
        let machine = machine(&path("ca.pem"), version);
        let before = [of_core(0), of_core(1)];
        for number in 0..CONNECTIONS {
            let mut connection = Connection::open(&machine, apart);
            assert_eq!(connection.post(name, number, ""), 201);
            assert_eq!(connection.is_resumed(), number > 0, "{name}: connection {number}");
            gateway.wait_delivered((expected.len() * CONNECTIONS + number) as u64 + 1);
        }
        let came = [of_core(0) - before[0], of_core(1) - before[1]];
        assert!(came.iter().all(|count| *count > 0) && came[0] + came[1] == CONNECTIONS as u64, "{came:?}");
        expected.push((name, CONNECTIONS));
    }
    let status = gateway.status();
    let resumed = 2 * (CONNECTIONS as u64 - 1);
    assert_eq!((status.counter("tls_handshakes"), status.counter("tls_resumed")), (resumed + 2, resumed));

    // All connections at once: the next record goes on the next one, once the last is answered, and some come again.
    for (name, version) in [("cam-2", &rustls::version::TLS12), ("cam-3", &rustls::version::TLS13)] {
        let machine = machine(&path("ca.pem"), version);
        let mut open: Vec<Connection> = (0..CONNECTIONS).map(|_| Connection::open(&machine, cams)).collect();
        for number in 0..ROUNDS * CONNECTIONS {
            assert_eq!(open[number % CONNECTIONS].post_keyed(name, number), 201);
            if number % 5 == 0 {
                assert_eq!(open[(number * 7 + 3) % CONNECTIONS].post_keyed(name, number), 201, "the same again");
            }
        }
        expected.push((name, ROUNDS * CONNECTIONS));
    }
    let all = expected.iter().map(|(_, count)| *count as u64).sum();
    gateway.wait_delivered(all);
    assert_rows(&site.rows(), &expected);
    let again = (2 * ROUNDS * CONNECTIONS).div_ceil(5);
    let repeated = gateway.status().counter("http_repeated");
    assert!((again as u64..=again as u64 + 2).contains(&repeated), "{repeated} of {again}");
    gateway.stop();
    receiver.stop();
}
