//! A shard whose machines speak TLS, under a virtual clock: both ends of each connection lie in memory.
//!
//! TLS draws keys at random, so that its bytes differ from run to run; times, requests and outcomes do not.

use crate::pki::{Authority, Issued};
use ringest::config::{self, Durability, Settings};
use ringest::engine::FsStorage;
use ringest::journal;
use ringest::observe::snapshot::{Snapshot, SourceSnapshot};
use ringest::shard::{Completion, CoreId, Destination, Fd, LinkId, Now, Op, RecvEnd, Reload, Setup, Shard, SourceId};
use ringest::tls::TicketKeys;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

pub const SECOND: u64 = 1_000_000_000;
/// 2029-12-31T23:00:00Z
const BEGIN_WALL_NS: u64 = (1_893_456_000 - 3_600) * SECOND;
pub const HOST: &str = "gateway.plant";

/// The gateway's side of a connection, as the kernel would have it.
#[derive(Debug)]
struct Line {
    link: LinkId,
    /// What was sent to the machine and not fetched.
    sent: Vec<u8>,
    /// FIN was sent.
    fin: bool,
    closed: bool,
    /// It is read.
    reading: bool,
}

pub struct World {
    pub shard: Shard,
    pub now_ns: u64,
    lines: BTreeMap<i32, Line>,
    next_fd: i32,
    /// Bodies that the API was sent, in order.
    pub delivered: Vec<String>,
    /// The API answers.
    pub answers: bool,
    /// Links of requests that it has not answered.
    unanswered: Vec<LinkId>,
    /// Connections to device servers, in their order.
    pub called: Vec<i32>,
    settings: Settings,
    directory: tempfile::TempDir,
}

/// Files of a source, and what its `tls` is made of.
pub struct Files<'a> {
    pub ours: &'a Issued,
    pub client_ca: Option<&'a Authority>,
    pub revoked: Option<String>,
}

impl Files<'_> {
    /// Writes them; the value of `tls`.
    pub fn write(&self, directory: &Path) -> String {
        let put = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("a file");
            format!("\"{}\"", path.display())
        };
        let mut tls = format!(
            "certificate = {}, key = {}",
            put("server.pem", &self.ours.pem),
            put("server.key", &self.ours.key_pem)
        );
        if let Some(authority) = self.client_ca {
            tls += &format!(", client_ca = {}", put("clients.pem", &authority.pem()));
        }
        if let Some(revoked) = &self.revoked {
            tls += &format!(", crl = {}", put("clients.crl", revoked));
        }
        format!("{{ {tls} }}")
    }
}

fn parse(source: &str) -> Settings {
    let text = format!(
        "{source}\n[deliver]\nurl = \"http://127.0.0.1:8000/\"\nbody = '{{{{source}}}} {{{{data}}}}'\n\
         content_type = \"text/plain\"\n"
    );
    let mut settings: Settings = config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"));
    settings.journal.durability = Durability::Memory;
    settings.journal.max_bytes = 4 << 20;
    settings
}

fn sources(source: &str, tls: &str) -> Settings {
    parse(&source.replace("TLS", tls))
}

pub const HTTP: &str = "[[source]]\nname = \"cams\"\nkind = \"http\"\nlisten = \"127.0.0.1:8443\"\ntls = TLS";
pub const TCP: &str = "[[source]]\nname = \"plc\"\nkind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\ntls = TLS";

impl World {
    /// `source`: its text, with `TLS` for what `files` are.
    pub fn new(source: &str, files: &Files<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = sources(source, &files.write(directory.path()));
        let mut storage = FsStorage::open_with_blocks_in(directory.path(), directory.path()).expect("a directory");
        let journal =
            journal::open(&mut storage, &journal::Options::new(&settings.journal, CoreId(0), 1)).expect("a journal");
        let shard = Shard::new(Setup {
            settings: Arc::new(settings.clone()),
            core: CoreId(0),
            cores: 1,
            sources: (0..settings.sources.len()).map(|index| SourceId(index as u16)).collect(),
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 7,
            now: Now::default(),
        });
        let mut world = Self {
            shard,
            now_ns: SECOND,
            lines: BTreeMap::new(),
            next_fd: 100,
            delivered: Vec::new(),
            answers: true,
            unanswered: Vec::new(),
            called: Vec::new(),
            settings,
            directory,
        };
        world.shard.set_ticket_keys(TicketKeys::draw().expect("randomness"));
        world.shard.start(world.now());
        world.settle();
        world
    }

    /// Takes over other files, and other keys of the sources.
    pub fn reload(&mut self, source: &str, files: &Files<'_>) {
        use ringest::config::SourceChange::{Adjust, None, Reopen};
        let new = sources(source, &files.write(self.directory.path()));
        let (mut retired, mut started, mut adjusted) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = self.settings.sources.clone();
        for (index, source) in new.sources.iter().enumerate() {
            let id = SourceId(index as u16);
            match config::SourceChange::between(&self.settings.sources[index], source) {
                None => {}
                Adjust => {
                    all[index] = source.clone();
                    adjusted.push(id);
                }
                Reopen => {
                    retired.push(id);
                    started.push(SourceId(all.len() as u16));
                    all.push(source.clone());
                }
            }
        }
        self.settings = Settings { sources: all, ..new };
        let reload = Reload { settings: Arc::new(self.settings.clone()), retired, started, adjusted };
        assert!(self.shard.reload(self.now(), reload).applied);
        self.settle();
    }

    pub fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: BEGIN_WALL_NS + self.now_ns }
    }

    /// A machine connects to a source.
    pub fn accept(&mut self, source: u16) -> i32 {
        self.next_fd += 1;
        let (fd, peer) = (self.next_fd, ([10, 0, 0, 7], self.next_fd as u16).into());
        self.shard.handle(self.now(), Completion::Accepted { source: SourceId(source), fd: Fd(fd), peer });
        self.settle();
        fd
    }

    /// Bytes of a machine come; the turn is not over.
    pub fn come(&mut self, fd: i32, bytes: &[u8]) {
        let link = self.lines[&fd].link;
        if !self.lines[&fd].closed {
            self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes.to_vec() });
        }
    }

    pub fn give(&mut self, fd: i32, bytes: &[u8]) {
        self.come(fd, bytes);
        self.settle();
    }

    /// The machine's FIN.
    pub fn hang_up(&mut self, fd: i32) {
        if !self.lines[&fd].closed {
            let link = self.lines[&fd].link;
            self.shard.handle(self.now(), Completion::RecvEnded { link, end: RecvEnd::Closed });
        }
        self.settle();
    }

    /// What was sent to a machine since.
    pub fn take(&mut self, fd: i32) -> Vec<u8> {
        std::mem::take(&mut self.lines.get_mut(&fd).expect("it is known").sent)
    }

    /// Whether the gateway has ended its half, or all, of a connection.
    pub fn has_ended(&self, fd: i32) -> bool {
        self.lines[&fd].fin || self.is_closed(fd)
    }

    /// Whether what the machine sends is read.
    pub fn is_read(&self, fd: i32) -> bool {
        self.lines[&fd].reading
    }

    pub fn is_closed(&self, fd: i32) -> bool {
        self.lines[&fd].closed
    }

    pub fn settle(&mut self) {
        loop {
            self.shard.turn(self.now());
            let mut quiet = true;
            while let Some(op) = self.shard.poll_op() {
                quiet = false;
                self.carry(op);
            }
            while self.answers
                && let Some(link) = self.unanswered.pop()
            {
                quiet = false;
                let mut answer = *b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
                self.shard.handle(self.now(), Completion::Received { link, bytes: &mut answer });
            }
            if self.shard.has_spare_work() {
                self.shard.work_spare(self.now());
                quiet = false;
            }
            let due = self.shard.next_deadline().is_some_and(|due_ns| due_ns <= self.now_ns + 1);
            self.now_ns += u64::from(due);
            if quiet && !due {
                return;
            }
        }
    }

    /// The turn ends, and what it asks for is done; no other one follows. One ClientHello is worked through behind it.
    pub fn turn(&mut self) {
        self.shard.turn(self.now());
        if self.shard.has_spare_work() {
            self.shard.work_spare(self.now());
        }
        while let Some(op) = self.shard.poll_op() {
            self.carry(op);
        }
    }

    fn line(&mut self, link: LinkId) -> &mut Line {
        self.lines.values_mut().find(|line| line.link == link && !line.closed).expect("an open line")
    }

    fn carry(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Accept { .. } | Op::AcceptOne { .. } | Op::PauseAccept { .. } => {}
            Op::Recv { link, fd: Fd(fd @ 100..), .. } => {
                let new = Line { link, sent: Vec::new(), fin: false, closed: false, reading: true };
                self.lines.entry(fd).or_insert(new).reading = true;
            }
            Op::Recv { .. } => {}
            Op::Connect { link, to: Destination::Source(_) } => {
                self.next_fd += 1;
                self.called.push(self.next_fd);
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(self.next_fd)) });
            }
            Op::Connect { link, .. } => self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(10)) }),
            Op::Send { link, fd: Fd(100..), bytes } => {
                let line = self.line(link);
                assert!(!line.fin, "nothing is sent behind a FIN");
                line.sent.extend_from_slice(&bytes);
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
            }
            Op::Send { link, bytes, .. } => {
                let text = String::from_utf8(bytes.clone()).expect("text");
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
                for request in text.split("POST ").filter(|request| !request.is_empty()) {
                    let (_, body) = request.split_once("\r\n\r\n").expect("a whole request");
                    self.delivered.push(body.to_owned());
                    self.unanswered.push(link);
                }
            }
            Op::Shutdown { link, .. } => self.line(link).fin = true,
            Op::PauseRecv { link } => {
                self.line(link).reading = false;
                self.shard.handle(now, Completion::RecvEnded { link, end: RecvEnd::Paused });
            }
            Op::Close { link, .. } => {
                if let Some(line) = self.lines.values_mut().find(|line| line.link == link) {
                    line.closed = true;
                }
                self.shard.handle(now, Completion::Closed { link });
            }
            op => panic!("{op:?} at level memory"),
        }
    }

    /// Time passes.
    pub fn pass(&mut self, ns: u64) {
        let until_ns = self.now_ns + ns;
        self.settle();
        while let Some(next_ns) = self.shard.next_deadline().filter(|next_ns| *next_ns <= until_ns) {
            self.now_ns = next_ns.max(self.now_ns);
            self.settle();
        }
        self.now_ns = until_ns;
        self.settle();
    }

    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.shard.snapshot(self.now());
        assert!(snapshot.terms.balance(), "{:?}", snapshot.terms);
        snapshot
    }

    /// A counter by its name.
    pub fn count(&self, name: &str) -> u64 {
        let counters = self.snapshot().counters;
        counters.each().find(|(known, ..)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).2
    }

    pub fn source(&self, index: usize) -> SourceSnapshot {
        self.snapshot().sources.swap_remove(index)
    }
}

/// How machines make their connections.
#[derive(Clone)]
pub struct Maker(Arc<ClientConfig>);

impl Maker {
    /// Trusts `authority`, and shows `identity` if there is one.
    pub fn new(
        authority: &Authority,
        identity: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                builder.with_client_auth_cert(vec![issued.certificate.clone()], issued.key()).expect("they match")
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(16);
        Self(Arc::new(config))
    }

    /// Offers another application protocol.
    pub fn offering(&self, protocol: &[u8]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![protocol.to_vec()];
        Self(Arc::new(config))
    }

    pub fn session(&self) -> ClientConnection {
        let name = ServerName::try_from(HOST).expect("a name");
        ClientConnection::new(Arc::clone(&self.0), name).expect("a session")
    }

    pub fn machine(&self, world: &mut World, source: u16) -> Machine {
        let (fd, tls) = (world.accept(source), self.session());
        Machine { fd, tls, heard: Vec::new(), error: None, piece: usize::MAX }
    }
}

/// A machine that speaks TLS.
pub struct Machine {
    pub fd: i32,
    pub tls: ClientConnection,
    /// Plaintext that it has received.
    pub heard: Vec<u8>,
    /// Why it has given up.
    pub error: Option<rustls::Error>,
    /// Its bytes come in pieces of so many.
    pub piece: usize,
}

impl Machine {
    /// Its TLS bytes that are to be sent.
    pub fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// Bytes go to and fro until both ends are quiet.
    pub fn exchange(&mut self, world: &mut World) -> &mut Self {
        loop {
            let bytes = self.bytes();
            for piece in bytes.chunks(self.piece) {
                world.give(self.fd, piece);
            }
            let answer = world.take(self.fd);
            self.hear(&answer);
            if bytes.is_empty() && answer.is_empty() {
                return self;
            }
        }
    }

    pub fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            self.tls.read_tls(&mut bytes).expect("memory");
            match self.tls.process_new_packets() {
                Ok(state) => {
                    let mut heard = vec![0; state.plaintext_bytes_to_read()];
                    self.tls.reader().read_exact(&mut heard).expect("it is there");
                    self.heard.extend(heard);
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    pub fn say(&mut self, text: &[u8]) -> &mut Self {
        self.tls.writer().write_all(text).expect("memory");
        self
    }

    /// Statuses of the answers that it has received.
    pub fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.heard).into_owned();
        text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse().expect("a status")).collect()
    }
}

/// A request with a record.
pub fn post(source: &str, record: &str) -> String {
    let length = record.len();
    format!("POST /v1/records/{source} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{record}")
}
