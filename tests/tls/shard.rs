//! A shard under a virtual clock whose API is a TLS server in memory: rows C17 and C18 of the client's cases, and what handshakes cost.
//!
//! TLS draws keys at random, so that its bytes differ from run to run; times, requests and outcomes do not.

use crate::pki::{Authority, BOTH, Issued, ONLY_1_2, ONLY_1_3};
use crate::service::{Answers, answer_by, take_request};
use ringest::config::{self, Durability, Settings};
use ringest::engine::FsStorage;
use ringest::journal;
use ringest::observe::snapshot::Snapshot;
use ringest::shard::{Completion, CoreId, Fd, LinkId, Now, Op, RecvEnd, Setup, Shard, SourceId};
use ringest::tls::Client;
use ringest::tls::Tls;
use rustls::{ServerConfig, ServerConnection};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const HOST: &str = "api.example";
/// 2029-12-31T23:00:00Z
const BEGIN_WALL_NS: u64 = (1_893_456_000 - 3_600) * SECOND;

/// The service's side of a connection.
struct Peer {
    tls: ServerConnection,
    /// Requests that are not whole.
    heard: Vec<u8>,
    ended: bool,
}

struct World {
    shard: Shard,
    now_ns: u64,
    server: Arc<ServerConfig>,
    answers: Answers,
    /// Not one byte comes from the service, not even of TLS.
    silent: bool,
    peers: BTreeMap<u32, (LinkId, Peer)>,
    next_fd: i32,
    machines: Vec<LinkId>,
    /// When connections were made.
    connects: Vec<u64>,
    /// Bytes of requests that the service has heard.
    heard_bytes: usize,
    /// Bodies of the record step, in order.
    films: Vec<String>,
    /// The record step is answered 409 though the record is there.
    conflicts: bool,
    /// What was asked for by GET.
    confirmed: Vec<String>,
    /// Ids that were given.
    ids: u64,
    /// Connects without a handshake at any moment.
    handshaking_max: usize,
    _directory: tempfile::TempDir,
}

fn trusting(authority: &Authority) -> Client {
    Client::new(&Tls { authorities: vec![authority.der()], is_named: true, identity: None }).expect("good settings")
}

impl World {
    /// `keys` are those of `[deliver]`, `sections` others.
    fn new(authority: &Authority, server: ServerConfig, keys: &str, sections: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).expect("a file");
        let tls = format!("tls = {{ ca = \"{}\" }}", ca.display());
        let text = format!(
            "[[source]]\nname = \"m\"\nkind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nlane = \"connection\"\n{sections}\n[deliver]\n\
             url = \"https://{HOST}/films/\"\n{tls}\n{keys}\n"
        );
        let mut settings: Settings = config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"));
        settings.journal.durability = Durability::Memory;
        settings.journal.max_bytes = 16 << 20;
        let mut storage = FsStorage::open_with_blocks_in(directory.path(), directory.path()).expect("a directory");
        let journal =
            journal::open(&mut storage, &journal::Options::new(&settings.journal, CoreId(0), 1)).expect("a journal");
        let client = Client::new(settings.deliver.tls.as_ref().expect("a URL is https")).expect("checked");
        let mut shard = Shard::new(Setup {
            settings: Arc::new(settings),
            core: CoreId(0),
            cores: 1,
            sources: vec![SourceId(0)],
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 7,
            now: Now::default(),
        });
        shard.set_tls(Some(client));
        let mut world = Self {
            shard,
            now_ns: SECOND,
            server: Arc::new(server),
            answers: Answers::Kept,
            silent: false,
            peers: BTreeMap::new(),
            next_fd: 100,
            machines: Vec::new(),
            connects: Vec::new(),
            heard_bytes: 0,
            films: Vec::new(),
            conflicts: false,
            confirmed: Vec::new(),
            ids: 0,
            handshaking_max: 0,
            _directory: directory,
        };
        world.shard.start(world.now());
        world.settle();
        world
    }

    /// One step, one machine.
    fn plain(authority: &Authority, server: ServerConfig) -> Self {
        let mut world = Self::new(authority, server, "", "");
        world.add_machines(1);
        world
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: BEGIN_WALL_NS + self.now_ns }
    }

    fn add_machines(&mut self, count: usize) {
        for number in 0..count {
            let (peer, fd) = (([127, 0, 0, 1], 1_000 + number as u16).into(), Fd(10 + number as i32));
            self.shard.handle(self.now(), Completion::Accepted { source: SourceId(0), fd, peer });
        }
        self.settle();
        assert_eq!(self.machines.len(), count);
    }

    /// Each machine sends a record.
    fn send(&mut self, text: &str) {
        for link in self.machines.clone() {
            let mut bytes = format!("{text}\r").into_bytes();
            self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes });
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.shard.turn(self.now());
            let mut quiet = true;
            while let Some(op) = self.shard.poll_op() {
                quiet = false;
                self.carry(op);
            }
            let handshaking = self.peers.values().filter(|(_, peer)| peer.tls.is_handshaking()).count();
            self.handshaking_max = self.handshaking_max.max(handshaking);
            for index in self.peers.keys().copied().collect::<Vec<_>>() {
                quiet &= !self.serve(index);
            }
            if quiet {
                return;
            }
        }
    }

    fn carry(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Accept { .. } | Op::AcceptOne { .. } | Op::PauseAccept { .. } => {}
            Op::Recv { link, fd: Fd(10..100), .. } => self.machines.push(link),
            Op::Recv { .. } => {}
            Op::Connect { link, .. } => {
                self.connects.push(self.now_ns);
                let tls = ServerConnection::new(Arc::clone(&self.server)).expect("a server");
                self.peers.insert(link.index, (link, Peer { tls, heard: Vec::new(), ended: false }));
                self.next_fd += 1;
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(self.next_fd)) });
            }
            Op::Send { link, bytes, .. } => {
                if let Some((_, peer)) = self.peers.get_mut(&link.index) {
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() && !peer.ended {
                        peer.tls.read_tls(&mut rest).expect("memory");
                        // What the client refuses is told by its alert.
                        peer.ended |= peer.tls.process_new_packets().is_err();
                    }
                }
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
            }
            Op::Close { link, .. } => {
                self.peers.remove(&link.index);
                self.shard.handle(now, Completion::Closed { link });
            }
            op => panic!("{op:?} at level memory"),
        }
    }

    /// The service does what it has to; whether there was anything.
    fn serve(&mut self, index: u32) -> bool {
        if self.silent {
            return false;
        }
        let Some((link, peer)) = self.peers.get_mut(&index) else { return false };
        let link = *link;
        let mut fin = false;
        if !peer.ended {
            let mut more = [0; 4096];
            while let Ok(bytes @ 1..) = peer.tls.reader().read(&mut more) {
                self.heard_bytes += bytes;
                peer.heard.extend_from_slice(&more[..bytes]);
            }
            while let Some((target, body)) = take_request(&mut peer.heard) {
                let answer = if target == "/seq/" {
                    self.ids += 1;
                    format!("{{\"id\": {}}}", self.ids)
                } else if target != "/films/" {
                    self.confirmed.push(target);
                    self.films.last().expect("it is asked for what it has").clone()
                } else if self.conflicts {
                    self.films.push(body);
                    let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n";
                    peer.tls.writer().write_all(answer).expect("memory");
                    continue;
                } else {
                    self.films.push(body.clone());
                    body
                };
                fin = answer_by(self.answers, &mut peer.tls, &answer);
                if fin {
                    break;
                }
            }
        }
        let mut bytes = Vec::new();
        while peer.tls.wants_write() {
            peer.tls.write_tls(&mut bytes).expect("memory");
        }
        fin |= peer.ended;
        let now = self.now();
        // In two pieces, wherever they part.
        let middle = bytes.len() / 2;
        let (first, second) = bytes.split_at_mut(middle);
        let mut any = false;
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            any = true;
            self.deliver(now, link, Completion::Received { link, bytes: piece });
        }
        if fin {
            any = true;
            self.deliver(now, link, Completion::RecvEnded { link, end: RecvEnd::Closed });
        }
        any
    }

    /// As every driver: nothing reaches a link that the core has closed.
    fn deliver(&mut self, now: Now, link: LinkId, completion: Completion<'_>) {
        if self.peers.get(&link.index).is_some_and(|(open, _)| *open == link) {
            self.shard.handle(now, completion);
        }
        while let Some(op) = self.shard.poll_op() {
            self.carry(op);
        }
    }

    /// Time passes.
    fn pass(&mut self, ns: u64) {
        let until_ns = self.now_ns + ns;
        self.settle();
        while let Some(next_ns) = self.shard.next_deadline().filter(|next_ns| *next_ns <= until_ns) {
            self.now_ns = next_ns.max(self.now_ns);
            self.settle();
        }
        self.now_ns = until_ns;
        self.settle();
    }

    fn snapshot(&self) -> Snapshot {
        self.shard.snapshot(self.now())
    }

    fn problem(&self) -> Option<String> {
        self.snapshot().routes[0].problem.clone()
    }

    fn delivered(&self) -> u64 {
        self.shard.terms().delivered
    }
}

/// A world whose service shows a bad certificate: an hour with a record that waits, then a good one.
fn c17(bad: impl Fn(&Authority) -> Issued, said: &str, remedy: &str) {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::plain(&authority, bad(&authority).server(versions, None));
        world.send("waits");
        let problem = world.problem().expect("an alarm at once");
        assert!(problem.contains(said) && problem.contains(remedy), "{problem}");
        world.pass(HOUR);
        assert_eq!((world.heard_bytes, world.delivered()), (0, 0), "not one byte of a request");
        assert_eq!(world.shard.terms().pending, 1, "the record waits");
        // Delays are drawn from up to 10 s.
        let tries = world.connects.len();
        assert!((360..1_500).contains(&tries), "{tries} handshakes in an hour");
        assert_eq!(world.handshaking_max, 1, "one tries for all");
        assert_eq!(world.snapshot().counters.api_tls_failures, tries as u64);
        assert_eq!(world.problem().as_ref(), Some(&problem), "the same words as long as it lasts");
        world.server = Arc::new(authority.issue(&[HOST]).server(versions, None));
        world.pass(2 * MINUTE);
        assert_eq!(world.delivered(), 1, "it resumes by itself");
        assert_eq!(world.problem(), None);
    }
}

#[test]
fn c17_expired_nothing_is_sent_and_it_resumes_by_itself() {
    c17(|authority| authority.issue_until(&[HOST], 2029), "expired on 2029-01-01T00:00:00Z", "renew");
}

#[test]
fn c17_wrong_host_nothing_is_sent_and_it_resumes_by_itself() {
    c17(|authority| authority.issue(&["other.example"]), "not for this host, but for other.example", "subjectAltName");
}

#[test]
fn c17_unknown_ca_nothing_is_sent_and_it_resumes_by_itself() {
    c17(|_| Authority::new("Other").issue(&[HOST]), "unknown CA", "[deliver.tls] ca");
}

#[test]
fn c17_self_signed_nothing_is_sent_and_it_resumes_by_itself() {
    c17(|_| Issued::self_signed(&[HOST], false), "by itself", "[deliver.tls] ca");
    c17(|_| Issued::self_signed(&[HOST], true), "that of a CA", "CA:FALSE");
}

#[test]
fn c17_a_certificate_that_expires_while_the_gateway_runs_is_noticed_within_an_hour() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::plain(&authority, authority.issue_until(&[HOST], 2030).server(versions, None));
        // A record a minute; between two the connection goes idle. The certificate is over after an hour.
        for minute in 1..=59 {
            world.send("good");
            assert_eq!(world.delivered(), minute);
            world.pass(MINUTE);
        }
        world.pass(HOUR + MINUTE);
        let (heard, delivered) = (world.heard_bytes, world.delivered());
        world.send("late");
        world.pass(10 * MINUTE);
        assert_eq!((world.heard_bytes, world.delivered()), (heard, delivered));
        assert!(world.problem().is_some_and(|problem| problem.contains("expired")), "{:?}", world.problem());
    }
}

#[test]
fn c18_an_answer_until_the_close_counts_only_behind_a_close_notify() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let sequence = format!("[sequence]\nurl = \"https://{HOST}/seq/\"\n");
        let server = authority.issue(&[HOST]).server(versions, None);
        let mut world = World::new(&authority, server, "answer_id_at = \"/id\"", &sequence);
        world.add_machines(1);
        world.answers = Answers::UntilCut;
        world.send("record");
        world.pass(10 * MINUTE);
        assert!(world.ids > 3, "the id step is tried again: {}", world.ids);
        assert_eq!((world.films.len(), world.delivered()), (0, 0), "an id that may be cut short is none");
        let problem = world.problem().expect("an alarm");
        assert!(problem.contains("close_notify"), "{problem}");
        // The id arrives; the record's own answer is cut.
        world.answers = Answers::UntilClose;
        world.pass(2 * MINUTE);
        assert_eq!(world.delivered(), 1);
        let (ids, films) = (world.ids, world.films.len());
        world.answers = Answers::Kept;
        world.send("another");
        assert_eq!((world.delivered(), world.ids, world.films.len()), (2, ids + 1, films + 1));
        assert_eq!(world.problem(), None);
    }
}

#[test]
fn what_the_service_has_is_asked_for_over_the_same_tls() {
    let authority = Authority::new("Plant");
    let sections = format!(
        "[sequence]\nurl = \"https://{HOST}/seq/\"\n[deliver.confirm]\npath = \"/films/{{{{id}}}}/\"\ndata_at = \"/data\""
    );
    let server = authority.issue(&[HOST]).server(BOTH, None);
    let mut world = World::new(&authority, server, "", &sections);
    world.add_machines(1);
    world.conflicts = true;
    world.send("record");
    assert_eq!((world.delivered(), world.confirmed.as_slice()), (1, &["/films/1/".to_owned()][..]));
    assert_eq!(world.connects.len(), 1);
}

#[test]
fn c18_a_record_whose_answer_is_cut_before_its_id_is_sent_again() {
    let authority = Authority::new("Plant");
    let sequence = format!("[sequence]\nurl = \"https://{HOST}/seq/\"\n");
    let server = authority.issue(&[HOST]).server(BOTH, None);
    let mut world = World::new(&authority, server, "answer_id_at = \"/id\"", &sequence);
    world.add_machines(1);
    world.send("first");
    assert_eq!((world.delivered(), world.films.len()), (1, 1));
    // The id is there already, so that the record step alone meets this.
    world.silent = true;
    world.send("second");
    world.silent = false;
    world.settle();
    assert_eq!(world.delivered(), 2);
    for cut in [Answers::UntilCut, Answers::Half] {
        let (delivered, films) = (world.delivered(), world.films.len());
        world.answers = cut;
        world.send("third");
        world.pass(MINUTE);
        assert_eq!((world.delivered(), world.films.len()), (delivered, films), "{cut:?}");
        world.answers = Answers::Kept;
        world.pass(2 * MINUTE);
        assert_eq!(world.delivered(), delivered + 1);
    }
}

#[test]
fn c18_a_whole_201_header_is_an_acknowledgement_and_the_connection_is_not_used_again() {
    let authority = Authority::new("Plant");
    for (versions, cut) in [(ONLY_1_2, Answers::Half), (ONLY_1_3, Answers::Half), (ONLY_1_3, Answers::UntilCut)] {
        let mut world = World::plain(&authority, authority.issue(&[HOST]).server(versions, None));
        world.answers = cut;
        for number in 1..=3 {
            world.send("record");
            assert_eq!((world.delivered(), world.films.len()), (number, number as usize), "{cut:?}");
            assert_eq!(world.connects.len(), number as usize, "each on a connection of its own");
        }
        assert_eq!(world.snapshot().counters.api_failures, 0);
    }
}

#[test]
fn a_clean_close_after_each_answer_is_an_ordinary_close() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::plain(&authority, authority.issue(&[HOST]).server(versions, None));
        world.answers = Answers::Closing;
        for number in 1..=50 {
            world.send("record");
            assert_eq!(world.delivered(), number);
        }
        let counters = world.snapshot().counters;
        assert_eq!((counters.api_failures, counters.api_tls_failures, world.problem()), (0, 0, None));
        assert_eq!((counters.api_tls_handshakes, counters.api_tls_resumed), (50, 49), "{versions:?}");
    }
}

#[test]
fn a_service_that_changes_its_keys_at_each_answer_gets_every_record() {
    let authority = Authority::new("Plant");
    let mut world = World::new(&authority, authority.issue(&[HOST]).server(ONLY_1_3, None), "pipeline = 8", "");
    world.add_machines(20);
    world.answers = Answers::NewKeys;
    for turn in 1..=20 {
        world.send("record");
        assert_eq!(world.delivered(), 20 * turn);
    }
    assert_eq!(world.snapshot().counters.api_failures, 0);
}

#[test]
fn a_handshake_that_is_not_answered_ends_with_the_connect_timeout() {
    let authority = Authority::new("Plant");
    let mut world = World::plain(&authority, authority.issue(&[HOST]).server(BOTH, None));
    world.silent = true;
    world.send("record");
    world.pass(5 * SECOND - 1);
    let waits = "no answer to a connect for 4 s".to_owned();
    assert_eq!((world.peers.len(), world.problem()), (1, Some(waits)));
    world.pass(1);
    assert_eq!(world.peers.len(), 0);
    assert_eq!(world.problem().as_deref(), Some("no whole TLS handshake within 5s"));
    world.silent = false;
    world.pass(SECOND);
    assert_eq!((world.delivered(), world.problem()), (1, None));
}

#[test]
fn connections_wait_for_the_first_handshake_and_resume_its_session() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(&authority, authority.issue(&[HOST]).server(versions, None), "", "");
        world.add_machines(40);
        for turn in 1..=3 {
            world.send("record");
            assert_eq!(world.delivered(), 40 * turn);
            world.pass(MINUTE); // all are idle and closed
        }
        let counters = world.snapshot().counters;
        assert_eq!(counters.api_tls_handshakes - counters.api_tls_resumed, 1, "{counters:?}");
        assert!(counters.api_tls_handshakes > 4, "{counters:?}");
        assert_eq!((counters.api_failures, world.problem()), (0, None));
    }
}

#[test]
fn a_service_that_resumes_nothing_is_used_by_all_connections_all_the_same() {
    let authority = Authority::new("Plant");
    let mut server = authority.issue(&[HOST]).server(ONLY_1_3, None);
    server.send_tls13_tickets = 0;
    let mut world = World::new(&authority, server, "", "");
    world.add_machines(40);
    world.send("first");
    world.send("second");
    assert_eq!(world.delivered(), 80);
    assert!(world.connects.len() >= 8, "{} connections", world.connects.len());
}

#[test]
fn a_service_that_wants_a_certificate_of_ours_is_not_asked_again_and_again() {
    let (authority, clients) = (Authority::new("Plant"), Authority::new("Gateways"));
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(&authority, authority.issue(&[HOST]).server(versions, Some(&clients)), "", "");
        world.add_machines(20);
        world.send("record");
        world.pass(HOUR);
        let tries = world.connects.len();
        assert!((360..1_500).contains(&tries), "{tries} connections in an hour");
        assert_eq!((world.heard_bytes, world.delivered()), (0, 0));
        let problem = world.problem().expect("an alarm");
        assert!(problem.contains("certificate") && problem.contains("[deliver.tls] cert"), "{problem}");
        world.server = Arc::new(authority.issue(&[HOST]).server(versions, None));
        world.pass(3 * MINUTE);
        assert_eq!((world.delivered(), world.problem()), (20, None));
    }
}

#[test]
fn another_ca_is_trusted_from_the_next_connection_on() {
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    let mut world = World::plain(&old, new.issue(&[HOST]).server(BOTH, None));
    world.send("record");
    world.pass(MINUTE);
    assert_eq!(world.delivered(), 0);
    world.shard.set_tls(Some(trusting(&new)));
    world.pass(2 * MINUTE);
    assert_eq!((world.delivered(), world.problem()), (1, None));
}

#[test]
fn a_connection_that_was_idle_for_long_is_closed_with_a_farewell() {
    let authority = Authority::new("Plant");
    let mut world = World::plain(&authority, authority.issue(&[HOST]).server(BOTH, None));
    world.send("record");
    let (link, _) =
        *world.peers.values().map(|(link, _)| (*link, ())).collect::<Vec<_>>().first().expect("one is open");
    world.now_ns += 2 * SECOND;
    world.shard.turn(world.now());
    let ops: Vec<Op> = std::iter::from_fn(|| world.shard.poll_op()).collect();
    let [Op::Send { bytes, .. }, Op::Close { link: closed, .. }] = ops.as_slice() else { panic!("{ops:?}") };
    assert_eq!(*closed, link);
    let (_, peer) = world.peers.get_mut(&link.index).expect("it is open");
    peer.tls.read_tls(&mut bytes.as_slice()).expect("memory");
    assert!(peer.tls.process_new_packets().expect("a good record").peer_has_closed());
}
