//! A machine's session by itself: over every split point of what the machine sends, and what a fault is called.

use crate::machines::{HOST, Maker};
use crate::pki::{Authority, BOTH, Issued, ONLY_1_2, ONLY_1_3};
use ringest::tls::{Clients, Fault, Identity, Progress, Reason, Server, ServerSession, ServerTls};
use rustls::ClientConnection;
use std::io::{Read, Write};
use std::sync::Arc;

/// 2026-07-14.
const NOW_NS: u64 = 1_784_000_000_000_000_000;

fn server(ours: &Issued, clients: Option<&Authority>) -> Server {
    let identity = Identity { chain: vec![ours.certificate.clone()], key: Arc::new(ours.key()) };
    let clients = clients.map(|authority| Clients { authorities: vec![authority.der()], revoked: Vec::new() });
    let server = Server::new("a", &ServerTls { identity, clients }).expect("good settings");
    server.set_time(NOW_NS);
    server
}

/// Both ends, and what is on its way to the session.
struct Pair {
    session: ServerSession,
    client: ClientConnection,
    to_session: Vec<u8>,
    plain: Vec<u8>,
    heard: Vec<u8>,
    error: Option<rustls::Error>,
}

impl Pair {
    fn new(server: &Server, maker: &Maker) -> Self {
        let (session, client) = (server.session().expect("a session"), maker.session());
        let (plain, heard) = (Vec::new(), Vec::new());
        let mut pair = Self { session, client, to_session: Vec::new(), plain, heard, error: None };
        pair.flush();
        pair
    }

    fn flush(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.to_session).expect("memory");
        }
    }

    /// The session takes so many bytes, and the client its answer.
    fn pass(&mut self, count: usize) -> Result<Progress, Fault> {
        let mut bytes: Vec<u8> = self.to_session.drain(..count).collect();
        let mut out = Vec::new();
        let result = self.session.receive(&mut bytes, &mut self.plain, &mut out);
        self.hand_over(&out);
        result
    }

    fn hand_over(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            self.client.read_tls(&mut bytes).expect("memory");
            match self.client.process_new_packets() {
                Ok(state) => {
                    let mut heard = vec![0; state.plaintext_bytes_to_read()];
                    self.client.reader().read_exact(&mut heard).expect("it is there");
                    self.heard.extend(heard);
                }
                Err(error) => self.error = Some(error),
            }
        }
        self.flush();
    }
}

#[test]
fn a_session_is_the_same_over_every_split_point_of_what_the_machine_sends() {
    let (authority, clients) = (Authority::new("Plant"), Authority::new("Machines"));
    let (ours, cam) = (authority.issue(&[HOST]), clients.issue(&["cam-1"]));
    let server = server(&ours, Some(&clients));
    for versions in [ONLY_1_2, ONLY_1_3] {
        let maker = Maker::new(&authority, Some(&cam), versions);
        let mut longest = 0;
        for split in 1.. {
            let mut pair = Pair::new(&server, &maker);
            let (mut passed, mut answered) = (0, false);
            loop {
                if pair.session.progress() == Progress::Open && !answered && !pair.client.is_handshaking() {
                    answered = true;
                    let mut out = Vec::new();
                    pair.session.send(b"an answer", &mut out).expect("an open session");
                    pair.hand_over(&out);
                    pair.client.writer().write_all(b"a request").expect("memory");
                    pair.client.send_close_notify();
                    pair.flush();
                }
                if pair.to_session.is_empty() {
                    break;
                }
                let rest = pair.to_session.len();
                let count = if passed < split { rest.min(split - passed) } else { rest };
                passed += count;
                pair.pass(count).unwrap_or_else(|fault| panic!("split {split}: {fault}"));
            }
            assert_eq!(
                (pair.plain.as_slice(), pair.heard.as_slice()),
                (&b"a request"[..], &b"an answer"[..]),
                "{split}"
            );
            assert_eq!(pair.session.progress(), Progress::Closed);
            assert_eq!(pair.session.held_bytes(), 0, "nothing is held at rest");
            assert_eq!(pair.session.certificate().and_then(|shown| shown.name).as_deref(), Some("cam-1"));
            longest = longest.max(passed);
            if split > longest + 8 {
                break;
            }
        }
        assert!(longest > 600, "{longest} bytes");
    }
}

#[test]
fn a_changed_byte_anywhere_never_becomes_plaintext() {
    let authority = Authority::new("Plant");
    let server = server(&authority.issue(&[HOST]), None);
    for versions in [ONLY_1_2, ONLY_1_3] {
        let maker = Maker::new(&authority, None, versions);
        let mut failures = 0;
        for at in 0..600 {
            let mut pair = Pair::new(&server, &maker);
            let (mut passed, mut said, mut result) = (0, false, Ok(Progress::Handshaking));
            while result.is_ok() && !pair.to_session.is_empty() {
                if let Some(byte) = pair.to_session.get_mut(at.max(passed) - passed)
                    && at >= passed
                {
                    *byte ^= 0x10;
                }
                let count = pair.to_session.len();
                passed += count;
                result = pair.pass(count);
                if !said && pair.session.progress() == Progress::Open && !pair.client.is_handshaking() {
                    said = true;
                    pair.client.writer().write_all(b"a request").expect("memory");
                    pair.flush();
                }
            }
            assert!(pair.plain.is_empty() || pair.plain == b"a request", "byte {at}: {:?}", pair.plain);
            failures += usize::from(result.is_err() || pair.error.is_some());
        }
        assert!(failures > 150, "{failures} changes were noticed");
    }
}

/// What is said of the first bytes of a machine.
fn fault(server: &Server, bytes: &[u8]) -> Fault {
    let mut session = server.session().expect("a session");
    let mut out = Vec::new();
    session.receive(&mut bytes.to_vec(), &mut Vec::new(), &mut out).expect_err("it is refused")
}

fn hello(version: [u8; 2], suites: &[[u8; 2]], extensions: &[u8]) -> Vec<u8> {
    let suites = suites.concat();
    let mut body = [&version[..], &[7; 32], &[0, 0, suites.len() as u8], &suites, &[1, 0]].concat();
    body.extend(extensions);
    let length = (body.len() as u16).to_be_bytes();
    let message = [&[1, 0][..], &length, &body].concat();
    [&[0x16, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

#[test]
fn the_words_of_a_refusal_name_what_was_offered_and_the_remedy() {
    let authority = Authority::new("Plant");
    let server = server(&authority.issue(&[HOST]), None);
    let told = fault(&server, &hello([3, 1], &[[0, 0x35], [0, 0x2F]], &[]));
    assert_eq!(told.reason, Reason::Offer);
    let words = told.to_string();
    assert!(words.contains("TLS 1.0 with RSA key exchange only (TLS_RSA_WITH_AES_256_CBC_SHA"), "{words}");
    assert!(words.contains("haproxy") && words.contains("README"), "{words}");
    let told = fault(&server, &hello([3, 2], &[[0xC0, 0x2F]], &[])).to_string();
    assert!(told.contains("it offered TLS 1.1 ") && told.contains("haproxy"), "{told}");
    // TLS 1.2 with signature algorithms and a curve, but RSA key exchange alone.
    let extensions = [0, 16, 0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 29];
    let told = fault(&server, &hello([3, 3], &[[0, 0x9C]], &extensions)).to_string();
    assert!(told.contains("TLS 1.2 with RSA key exchange only") && told.contains("haproxy"), "{told}");
    let told = fault(&server, b"POST /v1/records/a HTTP/1.1\r\n");
    assert_eq!(told.reason, Reason::Plain);
    assert!(told.to_string().contains("https://"));
    assert_eq!(fault(&server, &[0xAA; 8]).reason, Reason::Plain);
}

#[test]
fn a_machine_that_wants_another_protocol_is_told_so() {
    let authority = Authority::new("Plant");
    let server = server(&authority.issue(&[HOST]), None);
    let mut pair = Pair::new(&server, &Maker::new(&authority, None, BOTH).offering(b"h2"));
    let count = pair.to_session.len();
    let told = pair.pass(count).expect_err("it is refused");
    assert!(told.reason == Reason::Offer && told.words.contains("http/1.1"), "{told}");
}
