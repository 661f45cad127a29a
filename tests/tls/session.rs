//! A session against the library's own server, over every split point of what the server sends.

use crate::pki::{Authority, BOTH, Issued, ONLY_1_2, ONLY_1_3};
use ringest::tls::{Client, ClientSession, Progress, TlsError, server_name};
use ringest::tls::{Identity, Tls};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::sync::Arc;

/// 2026-07-14.
const NOW_NS: u64 = 1_784_000_000_000_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;
const HOST: &str = "api.example";

fn client(authority: &Authority, identity: Option<&Issued>) -> Client {
    let identity =
        identity.map(|issued| Identity { chain: vec![issued.certificate.clone()], key: Arc::new(issued.key()) });
    let client =
        Client::new(&Tls { authorities: vec![authority.der()], is_named: true, identity }).expect("good settings");
    client.set_time(NOW_NS);
    client
}

/// Both ends, and what is on its way to the client.
struct Pair {
    session: ClientSession,
    server: ServerConnection,
    to_client: Vec<u8>,
    /// What the client has received.
    plain: Vec<u8>,
    /// What the server has received.
    heard: Vec<u8>,
    /// Whether the server takes what the client sends.
    error: Option<rustls::Error>,
}

impl Pair {
    fn new(client: &Client, config: &Arc<ServerConfig>) -> Self {
        Self::to(client, config, HOST)
    }

    fn to(client: &Client, config: &Arc<ServerConfig>, host: &str) -> Self {
        let mut session = client.session(server_name(host).expect("a name")).expect("a session");
        let server = ServerConnection::new(Arc::clone(config)).expect("a server");
        let mut out = Vec::new();
        assert_eq!(session.start(&mut out), Ok(Progress::Handshaking));
        let (to_client, plain, heard) = (Vec::new(), Vec::new(), Vec::new());
        let mut pair = Self { session, server, to_client, plain, heard, error: None };
        pair.hand_over(&out);
        pair
    }

    /// The server takes bytes and says what it has to say.
    fn hand_over(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            self.server.read_tls(&mut bytes).expect("memory");
            match self.server.process_new_packets() {
                Ok(state) => {
                    let mut heard = vec![0; state.plaintext_bytes_to_read()];
                    self.server.reader().read_exact(&mut heard).expect("it is there");
                    self.heard.extend(heard);
                }
                Err(error) => self.error = Some(error),
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.to_client).expect("memory");
        }
    }

    fn say(&mut self, text: &[u8]) {
        self.server.writer().write_all(text).expect("memory");
        self.flush();
    }

    /// The client takes `count` of the bytes that are on their way.
    fn pass(&mut self, count: usize) -> Result<Progress, TlsError> {
        let mut bytes: Vec<u8> = self.to_client.drain(..count).collect();
        let mut out = Vec::new();
        let result = self.session.receive(&mut bytes, &mut self.plain, &mut out);
        self.hand_over(&out);
        result
    }

    fn pass_all(&mut self) -> Result<Progress, TlsError> {
        let mut progress = Ok(self.session.progress());
        while !self.to_client.is_empty() && progress.is_ok() {
            progress = self.pass(self.to_client.len());
        }
        progress
    }

    fn send(&mut self, text: &[u8]) {
        let mut out = Vec::new();
        self.session.send(text, &mut out).expect("an open session");
        self.hand_over(&out);
    }
}

#[test]
fn a_session_is_the_same_over_every_split_point_of_what_the_server_sends() {
    let authority = Authority::new("Plant");
    let client = client(&authority, None);
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, None));
        let mut longest = 0;
        for split in 1.. {
            let mut pair = Pair::new(&client, &config);
            // The bytes before the split one by one or together, by turns; the byte behind it begins another read.
            let (mut passed, mut answered) = (0, false);
            loop {
                if pair.session.progress() == Progress::Open && !answered && !pair.server.is_handshaking() {
                    answered = true;
                    pair.send(b"a request");
                    pair.say(b"an answer");
                    pair.server.send_close_notify();
                    pair.flush();
                }
                if pair.to_client.is_empty() {
                    break;
                }
                let rest = pair.to_client.len();
                let count = if passed < split { rest.min(split - passed) } else { rest };
                passed += count;
                pair.pass(count).unwrap_or_else(|error| panic!("split {split}: {error}"));
            }
            assert_eq!(
                (pair.plain.as_slice(), pair.heard.as_slice()),
                (&b"an answer"[..], &b"a request"[..]),
                "{split}"
            );
            assert_eq!(pair.session.progress(), Progress::Closed);
            // The second time sessions are resumed, and shorter: each split is tried of a whole one.
            client_forgets(&client, &authority);
            longest = longest.max(passed);
            if split > longest + 8 {
                break;
            }
        }
        assert!(longest > 600, "{longest} bytes");
    }
}

/// An error makes the client forget what it could resume.
fn client_forgets(client: &Client, authority: &Authority) {
    let other = Arc::new(authority.issue(&["other.example"]).server(BOTH, None));
    let mut pair = Pair::new(client, &other);
    if pair.pass_all().is_ok() {
        unreachable!("the certificate is for another host");
    }
}

#[test]
fn a_session_takes_single_bytes_and_holds_no_more_than_it_must() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, None));
        let mut pair = Pair::new(&client(&authority, None), &config);
        let text: Vec<u8> = (0..60_000_u32).map(|number| number as u8).collect();
        let mut said = false;
        while !pair.to_client.is_empty() {
            pair.pass(1).expect("a good server");
            if pair.session.progress() == Progress::Open && !pair.server.is_handshaking() && !said {
                said = true;
                pair.say(&text);
            }
        }
        assert_eq!(pair.plain, text);
        assert!(pair.session.held_bytes() < 64 * 1024, "{}", pair.session.held_bytes());
    }
}

#[test]
fn a_changed_byte_anywhere_never_becomes_plaintext() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, None));
        let mut failures = 0;
        for at in (0..1_400).step_by(3) {
            let mut pair = Pair::new(&client(&authority, None), &config);
            let (mut passed, mut changed, mut said, mut result) = (0, false, false, Ok(Progress::Handshaking));
            while result.is_ok() && !pair.to_client.is_empty() {
                if let Some(byte) = pair.to_client.get_mut(at.max(passed) - passed)
                    && at >= passed
                {
                    *byte ^= 0x10;
                    changed = true;
                }
                let count = pair.to_client.len();
                passed += count;
                result = pair.pass(count);
                if !said && pair.session.progress() == Progress::Open && !pair.server.is_handshaking() {
                    said = true;
                    pair.say(b"an answer");
                }
            }
            let silent = result.is_ok() && pair.plain.is_empty();
            assert!(!changed || result.is_err() || silent || pair.plain == b"an answer", "byte {at}");
            failures += usize::from(result.is_err());
        }
        assert!(failures > 200, "{failures} changes were noticed");
    }
}

#[test]
fn nothing_of_ours_is_sent_before_the_handshake_is_complete() {
    let authority = Authority::new("Plant");
    let config = Arc::new(authority.issue(&[HOST]).server(BOTH, None));
    let mut pair = Pair::new(&client(&authority, None), &config);
    let mut out = Vec::new();
    assert_eq!(pair.session.send(b"a request", &mut out), Err(TlsError::NotOpen));
    pair.session.close(&mut out);
    assert!(out.is_empty());
    assert_eq!(pair.pass_all(), Ok(Progress::Open));
    pair.send(b"a request");
    assert_eq!(pair.heard, b"a request");
}

/// What a client that trusts `authority` says of a server with this certificate, and what the server hears of it.
fn fault(authority: &Authority, issued: &Issued, host: &str) -> TlsError {
    let mut faults = Vec::new();
    for versions in [ONLY_1_2, ONLY_1_3] {
        let client = client(authority, None);
        let mut pair = Pair::to(&client, &Arc::new(issued.server(versions, None)), host);
        let error = pair.pass_all().expect_err("the certificate is not good");
        assert!(matches!(pair.error, Some(rustls::Error::AlertReceived(_))), "{:?}: the server is told", pair.error);
        assert_eq!(pair.heard, b"");
        let mut out = Vec::new();
        assert_eq!(pair.session.send(b"a request", &mut out), Err(TlsError::NotOpen));
        assert_eq!(pair.session.receive(&mut [], &mut Vec::new(), &mut out), Err(error.clone()), "the error stays");
        assert!(out.is_empty());
        faults.push(error);
    }
    assert_eq!(faults[0], faults[1]);
    faults.swap_remove(0)
}

#[test]
fn c17_each_fault_of_a_certificate_has_a_name_and_a_remedy() {
    let (plant, other) = (Authority::new("Plant"), Authority::new("Other"));
    let expired = fault(&plant, &plant.issue_until(&[HOST], 2020), HOST);
    assert_eq!(expired.to_string(), "its certificate expired on 2020-01-01T00:00:00Z");
    let wrong = fault(&plant, &plant.issue(&["a.example", "10.0.0.1"]), HOST);
    assert_eq!(wrong.to_string(), "its certificate is not for this host, but for a.example, 10.0.0.1");
    assert_eq!(
        fault(&plant, &plant.issue(&[HOST]), "127.0.0.1").to_string(),
        "its certificate is not for this host, but for api.example"
    );
    let unknown = fault(&plant, &other.issue(&[HOST]), HOST);
    assert_eq!(unknown, TlsError::UnknownIssuer);
    assert_eq!(fault(&plant, &Issued::self_signed(&[HOST], false), HOST), TlsError::UnknownIssuer);
    assert_eq!(fault(&plant, &Issued::self_signed(&[HOST], true), HOST), TlsError::IsAuthority);
    for error in [expired, wrong, unknown, TlsError::IsAuthority] {
        assert!(!error.remedy().is_empty() && error.advice().contains(error.remedy()));
    }
}

#[test]
fn c17_a_certificate_expires_by_the_clock_that_the_owner_sets() {
    let authority = Authority::new("Plant");
    let config = Arc::new(authority.issue_until(&[HOST], 2030).server(BOTH, None));
    let client = client(&authority, None);
    assert_eq!(Pair::new(&client, &config).pass_all(), Ok(Progress::Open));
    // 2030-01-02; what could be resumed is too old.
    client.set_time(1_893_542_400_000_000_000);
    let error = Pair::new(&client, &config).pass_all().expect_err("it is over");
    assert_eq!(error, TlsError::Expired { not_after: Some(1_893_456_000) });
}

#[test]
fn an_address_is_proved_by_the_addresses_of_a_certificate_and_is_no_server_name_of_the_handshake() {
    let authority = Authority::new("Plant");
    let config = Arc::new(authority.issue(&["127.0.0.1", "::1", HOST]).server(BOTH, None));
    for (host, sent) in [("127.0.0.1", None), ("::1", None), (HOST, Some(HOST)), ("API.example.", Some(HOST))] {
        let mut pair = Pair::to(&client(&authority, None), &config, host);
        assert_eq!(pair.pass_all(), Ok(Progress::Open), "{host}");
        assert_eq!(pair.server.server_name(), sent, "{host}");
        assert_eq!(pair.server.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn new_keys_in_the_middle_are_taken_and_answered() {
    let authority = Authority::new("Plant");
    let config = Arc::new(authority.issue(&[HOST]).server(ONLY_1_3, None));
    let mut pair = Pair::new(&client(&authority, None), &config);
    assert_eq!(pair.pass_all(), Ok(Progress::Open));
    for turn in 0..10_u8 {
        pair.server.refresh_traffic_keys().expect("TLS 1.3");
        pair.say(&[turn]);
        while !pair.to_client.is_empty() {
            pair.pass(1).expect("new keys");
        }
        pair.send(&[turn]);
        assert_eq!(pair.error, None);
    }
    let expected: Vec<u8> = (0..10).collect();
    assert_eq!((&pair.plain, &pair.heard), (&expected, &expected));
}

#[test]
fn behind_a_close_notify_nothing_counts_and_ours_is_heard() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, None));
        let mut pair = Pair::new(&client(&authority, None), &config);
        assert_eq!(pair.pass_all(), Ok(Progress::Open));
        pair.say(b"an answer");
        pair.server.send_close_notify();
        pair.flush();
        pair.to_client.extend([0x17, 3, 3, 0, 1, 0]);
        assert_eq!(pair.pass_all(), Ok(Progress::Closed));
        assert_eq!(pair.plain, b"an answer");
        assert_eq!(pair.session.held_bytes(), 0);
        let mut out = Vec::new();
        pair.session.close(&mut out);
        let mut bytes = out.as_slice();
        pair.server.read_tls(&mut bytes).expect("memory");
        assert!(pair.server.process_new_packets().expect("good").peer_has_closed());
    }
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let authority = Authority::new("Plant");
    let client = client(&authority, None);
    let mut session = client.session(server_name(HOST).expect("a name")).expect("a session");
    session.start(&mut Vec::new()).expect("a hello");
    // A ServerHello that says it has 16 MiB, in records of 16 KiB.
    let mut message = vec![2, 0xff, 0xff, 0xff];
    for count in 0.. {
        message.resize(16 * 1024, 0);
        let mut record = vec![22, 3, 3, 0x40, 0];
        record.append(&mut message);
        if session.receive(&mut record, &mut Vec::new(), &mut Vec::new()).is_err() {
            break;
        }
        assert!(count < 100 && session.held_bytes() < 1 << 20, "{count} records, {} bytes", session.held_bytes());
    }
}

#[test]
fn a_server_that_speaks_plain_http_is_told_from_one_that_speaks_tls() {
    let authority = Authority::new("Plant");
    let mut session = client(&authority, None).session(server_name(HOST).expect("a name")).expect("a session");
    session.start(&mut Vec::new()).expect("a hello");
    let mut answer = *b"HTTP/1.1 400 Bad Request\r\n\r\n";
    assert_eq!(session.receive(&mut answer, &mut Vec::new(), &mut Vec::new()), Err(TlsError::NotTls));
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_asks_for_one() {
    let (authority, clients) = (Authority::new("Plant"), Authority::new("Gateways"));
    let ours = clients.issue(&["gateway-3"]);
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, Some(&clients)));
        let mut pair = Pair::new(&client(&authority, Some(&ours)), &config);
        assert_eq!(pair.pass_all(), Ok(Progress::Open));
        pair.send(b"a request");
        assert_eq!((pair.heard.as_slice(), pair.error), (&b"a request"[..], None));

        let mut pair = Pair::new(&client(&authority, None), &config);
        let error = pair.pass_all().expect_err("it wants a certificate");
        assert!(matches!(error, TlsError::ClientCertificate { .. } | TlsError::NothingInCommon { .. }), "{error:?}");
        assert_eq!(pair.heard, b"");
    }
}

/// Whether a handshake resumes an earlier session.
fn resumes(client: &Client, config: &Arc<ServerConfig>) -> bool {
    let mut pair = Pair::new(client, config);
    assert_eq!(pair.pass_all(), Ok(Progress::Open));
    pair.session.note_answered();
    assert_eq!(pair.session.is_resumed(), pair.server.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
    pair.session.is_resumed()
}

#[test]
fn a_session_is_resumed_for_an_hour_after_its_certificate_was_looked_at() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = Arc::new(authority.issue(&[HOST]).server(versions, None));
        let client = client(&authority, None);
        assert_eq!(client.resumptions(&server_name(HOST).expect("a name")), Some(0));
        assert!(!resumes(&client, &config));
        for minute in [1, 20, 40, 59] {
            client.set_time(NOW_NS + minute * HOUR_NS / 60);
            assert!(resumes(&client, &config), "after {minute} minutes");
        }
        client.set_time(NOW_NS + HOUR_NS + 2_000_000_000);
        assert!(!resumes(&client, &config), "new tickets do not make the certificate any newer");
        assert!(resumes(&client, &config));
    }
}

fn allowance(versions: &[&'static SupportedProtocolVersion], change: impl FnOnce(&mut ServerConfig)) -> Option<usize> {
    let authority = Authority::new("Plant");
    let mut config = authority.issue(&[HOST]).server(versions, None);
    change(&mut config);
    let client = client(&authority, None);
    assert!(!resumes(&client, &Arc::new(config)));
    client.resumptions(&server_name(HOST).expect("a name"))
}

#[test]
fn it_is_known_how_many_connections_can_resume() {
    assert_eq!(allowance(ONLY_1_2, |_| {}), None, "a session of TLS 1.2 serves any number");
    assert_eq!(allowance(ONLY_1_3, |_| {}), Some(2), "a ticket of TLS 1.3 serves once");
    assert_eq!(allowance(ONLY_1_3, |config| config.send_tls13_tickets = 0), None, "there is nothing to wait for");
}
