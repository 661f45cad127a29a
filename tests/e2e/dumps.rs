//! With `core_dumps = true` a dump holds records and settings, and no key, token or password: not of those that the gateway was
//! given, and not of what machines send, whatever they do at that moment.

use crate::access::draw;
use crate::certs::made;
use crate::dumped::dumped;
use crate::machines::HttpMachine;
use crate::process::{Gateway, PATIENCE, Receiver, eventually};
use crate::site::{Site, free_address, record};
use crate::typed::typed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use ringest::engine::admin::{Token, client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TYPED: &str = "west-7-door-and-window";
const API: &str = "Bearer of-the-api-0123456789-abcdefghij-klmnopqrst";
const UNKNOWN: &str = "a-token-that-somebody-else-has-drawn-98765432109876543210";
const LOOKS: usize = 4;

/// What is looked for, by its name.
type Secrets = BTreeMap<String, Vec<u8>>;

/// Order of P-256 (FIPS 186-4, D.1.2.3).
const ORDER: [u8; 32] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC, 0xE6, 0xFA, 0xAD, 0xA7,
    0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
];

/// Twice a number below the order, modulo the order.
fn doubled(number: [u8; 32]) -> [u8; 32] {
    let (mut twice, mut carry) = ([0; 32], 0);
    for at in (0..32).rev() {
        let sum = u16::from(number[at]) * 2 + carry;
        (twice[at], carry) = (sum as u8, sum >> 8);
    }
    if carry == 0 && twice < ORDER {
        return twice;
    }
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(twice[at]) - i16::from(ORDER[at]) - borrow;
        (twice[at], borrow) = (difference as u8, i16::from(difference < 0));
    }
    twice
}

/// A private key in all the forms in which it may lie somewhere: its file's text, its number as in the file, turned round, and as
/// ring computes with it (times 2^256 modulo the order, the last byte first).
fn add_key(secrets: &mut Secrets, path: &Path) {
    let text = std::fs::read_to_string(path).expect("a key");
    for (line, text) in text.lines().filter(|line| !line.starts_with('-')).enumerate() {
        secrets.insert(format!("line {line} of the key's file"), text.as_bytes()[..32.min(text.len())].to_vec());
    }
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_file(path).expect("a key") else { panic!("PKCS #8") };
    let der = key.secret_pkcs8_der();
    // ECPrivateKey: version 1, then the number (RFC 5915 section 3).
    let at = der.windows(5).position(|window| window == [2, 1, 1, 4, 32]).expect("a key of P-256") + 5;
    let mut number: [u8; 32] = der[at..at + 32].try_into().expect("32 bytes");
    secrets.insert("the key".to_owned(), number.to_vec());
    secrets.insert("the key, turned round".to_owned(), number.iter().rev().copied().collect());
    for _ in 0..256 {
        number = doubled(number);
    }
    secrets.insert("the key as ring has it".to_owned(), number.iter().rev().copied().collect());
}

/// Remembers the secrets of sessions.
#[derive(Debug, Default)]
struct Sessions(Mutex<Secrets>);

impl KeyLog for Sessions {
    fn log(&self, label: &str, _random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().expect("no thread has panicked");
        let name = format!("{label} {}", secrets.len());
        secrets.insert(name, secret.to_vec());
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn connect(ca: &Path, to: SocketAddr, version: &'static SupportedProtocolVersion, log: &Arc<Sessions>) -> Tls {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).expect("a version").with_root_certificates(roots);
    let mut config = builder.with_no_client_auth();
    config.key_log = Arc::clone(log) as Arc<dyn KeyLog>;
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a session"), stream)
}

fn request(source: &str, authorization: &str, number: usize) -> String {
    HttpMachine::request(source, &record(source, number)).replacen(
        "Content",
        &format!("Authorization: {authorization}\r\nContent"),
        1,
    )
}

/// Sends a request in pieces; the status of its answer.
fn ask(stream: &mut (impl Read + Write), request: &str, piece: usize) -> Option<u16> {
    for piece in request.as_bytes().chunks(piece) {
        stream.write_all(piece).ok()?;
        stream.flush().ok()?;
    }
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"}") {
        (stream.read(&mut byte).ok()? == 1).then_some(())?;
        answer.push(byte[0]);
    }
    std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()
}

/// What machines send with while it is looked.
struct Machines<'t> {
    http: SocketAddr,
    https: SocketAddr,
    ca: &'t Path,
    log: &'t Arc<Sessions>,
    token: &'t str,
    ends: &'t AtomicBool,
    rounds: &'t AtomicUsize,
}

impl Machines<'_> {
    /// New connections again and again, until it ends.
    fn send(&self, index: usize) {
        let bearer = format!("Bearer {}", self.token);
        let basic = format!("Basic {}", STANDARD.encode(format!("gate:{TYPED}")));
        let source = format!("cam-{index}");
        let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
        for round in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let mut plain = TcpStream::connect(self.http).expect("it listens");
            plain.set_nodelay(true).expect("an option");
            plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut tls = connect(self.ca, self.https, versions[round % 2], self.log);
            for (number, piece) in [10_000, 50, 7].into_iter().enumerate() {
                let number = round * 3 + number;
                assert_eq!(ask(&mut plain, &request(&source, &bearer, number), piece), Some(201));
                assert_eq!(ask(&mut tls, &request(&source, &bearer, number), piece), Some(201));
            }
            if round % 4 == 0 {
                assert_eq!(ask(&mut tls, &request("gate-1", &basic, round), 10_000), Some(201));
                // Who fails often is answered late.
                if round < 8 {
                    assert_eq!(ask(&mut plain, &request(&source, &format!("Bearer {UNKNOWN}"), 0), 60), Some(401));
                }
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Names of what is found, and whether something is that may be there.
fn look(pid: u32, secrets: &Secrets) -> (Vec<&str>, bool) {
    let (mut found, mut sees) = (Vec::new(), false);
    dumped(pid, |bytes| {
        for (name, secret) in secrets {
            if memchr::memmem::find(bytes, secret).is_some() && !found.contains(&name.as_str()) {
                found.push(name.as_str());
            }
        }
        sees |= memchr::memmem::find(bytes, b"a-source-that-a-dump-shows").is_some();
    });
    (found, sees)
}

#[test]
fn no_key_token_or_password_is_in_a_dump_of_a_gateway_under_load() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let directory = site.path("certificates");
    std::fs::create_dir(&directory).expect("a directory");
    made(&directory, &["ca", "Plant 7"]);
    made(&directory, &["server", "127.0.0.1"]);
    let (tokens, authorization) = (site.path("tokens"), site.path("authorization"));
    let token = draw(&tokens, "cams", "cam-*", "never");
    assert_eq!(typed(&tokens, "gate", "gate-*", TYPED).0, Some(0));
    std::fs::write(&authorization, format!("{API}\n")).expect("a file");
    let (http, https, other) = (free_address(), free_address(), free_address());
    let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
    let lets_in = format!("tokens_file = {tokens:?}");
    let tls = format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\nbasic = true");
    let config = site
        .config()
        .gateway("core_dumps", "true")
        .source("plain", "http", &format!("listen = \"{http}\"\n{lets_in}"))
        .source("secure", "http", &format!("listen = \"{https}\"\n{lets_in}\n{tls}"))
        .tcp_listen("a-source-that-a-dump-shows", other)
        .deliver("headers", &format!("{{ Authorization = {{ file = {authorization:?} }} }}"))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    let (log, ca) = (Arc::new(Sessions::default()), directory.join("ca.pem"));
    let admin = Token::read(&site.path("state")).expect("a token");

    let mut secrets = Secrets::new();
    add_key(&mut secrets, &key);
    for (name, secret) in [
        ("the token", token.as_str()),
        ("the unknown token", UNKNOWN),
        ("the typed secret", TYPED),
        ("the typed secret as Basic", &STANDARD.encode(format!("gate:{TYPED}"))),
        ("the API's token", &API["Bearer ".len()..]),
        ("the admin token", &admin.authorization()["Bearer ".len()..]),
    ] {
        // Where only the end of it is left, that is one half too much.
        let (first, second) = secret.as_bytes().split_at(secret.len() / 2);
        secrets.insert(format!("the first half of {name}"), first.to_vec());
        secrets.insert(format!("the second half of {name}"), second.to_vec());
    }

    // Requests of which a part has come, and stays; sessions that stay, too.
    let mut half = TcpStream::connect(http).expect("it listens");
    half.write_all(&request("cam-half", &format!("Bearer {token}"), 0).as_bytes()[..150]).expect("sent");
    let mut idle = connect(&ca, https, &rustls::version::TLS13, &log);
    idle.write_all(&request("cam-half", &format!("Bearer {token}"), 0).as_bytes()[..150]).expect("sent");
    let mut open = connect(&ca, https, &rustls::version::TLS12, &log);
    assert_eq!(ask(&mut open, &request("cam-open", &format!("Bearer {token}"), 0), 10_000), Some(201));

    let (ends, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let machines = Machines { http, https, ca: &ca, log: &log, token: &token, ends: &ends, rounds: &rounds };
    std::thread::scope(|scope| {
        let machines = &machines;
        let sending: Vec<_> = (0..3).map(|index| scope.spawn(move || machines.send(index))).collect();
        for round in 0..LOOKS {
            let before = rounds.load(Ordering::Relaxed);
            eventually("more traffic", || (rounds.load(Ordering::Relaxed) > before + 4).then_some(()));
            let posted = client::post(&site.admin.to_string(), "/api/parked/retry", &admin, "{}", PATIENCE);
            assert_ne!(posted.expect("the gateway answers").status, 401, "the admin token is looked at");
            if round == 1 {
                gateway.process.signal(Signal::SIGHUP);
                std::thread::sleep(Duration::from_millis(300));
            }
            let mut all = secrets.clone();
            all.extend(log.0.lock().expect("no thread has panicked").clone());
            let (found, sees) = look(gateway.process.pid(), &all);
            if !found.is_empty() || !sees {
                ends.store(true, Ordering::Relaxed);
            }
            assert!(sees, "the test sees what is dumped");
            assert!(found.is_empty(), "look {round} of {} secrets: {found:#?}", all.len());
        }
        ends.store(true, Ordering::Relaxed);
        sending.into_iter().for_each(|machine| machine.join().expect("no machine panicked"));
    });
    drop((half, idle, open));
    gateway.stop();
    receiver.stop();
}
