//! A shard, its machines and an API that answers when it is told to. Operations are kept as words.

use ringest::config::{self, Durability, Settings};
use ringest::ground::SegmentNumber;
use ringest::ground::count::Terms;
use ringest::journal::{self, BlockFile, BlockMemory, LeftBlocks, Storage};
use ringest::shard::{
    Completion, CoreId, Destination, Fd, LinkId, Now, Op, OpenPort, RecvEnd, Reload, Reloaded, Setup, Shard, SourceId,
};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

pub const MS: u64 = 1_000_000;

/// What a journal without a disk needs, and nothing else.
struct NoDisk;

impl Storage for NoDisk {
    fn boot_id(&self) -> [u8; 16] {
        [0; 16]
    }
    fn random(&mut self) -> u128 {
        7
    }
    fn physical_block(&self) -> u32 {
        4096
    }
    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        unreachable!("there is no disk")
    }
    fn read_segment(&mut self, _: SegmentNumber, _: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        unreachable!("there is no disk")
    }
    fn write_segment(&mut self, _: SegmentNumber, _: u32, _: &[u8]) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn sync_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn keep_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn replace_segment(&mut self, _: SegmentNumber, _: &[u8]) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn free_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        unreachable!("there is no disk")
    }
    fn write_epoch(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn remove_epoch(&mut self, _: u64) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn open_blocks(&mut self, _: &str) -> io::Result<Option<LeftBlocks>> {
        unreachable!("there is no disk")
    }
    fn create_blocks(&mut self, _: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        Ok(Rc::new(BlockMemory::heap(bytes)))
    }
    fn remove_blocks(&mut self, _: &str) -> io::Result<()> {
        unreachable!("there is no disk")
    }
    fn quarantine(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        unreachable!("there is no disk")
    }
}

pub struct World {
    pub shard: Shard,
    now_ns: u64,
    /// Every operation in words, but for reads, sends and those of the API's own connections at their end.
    pub ops: Vec<String>,
    /// Sources whose listeners accept.
    accepting: HashSet<u16>,
    /// The links of machines and ports, by their index.
    links: HashMap<u32, LinkId>,
    /// The link of an accepted connection, by its descriptor.
    by_fd: HashMap<i32, u32>,
    /// The link of a source's port or outgoing connection.
    ports: HashMap<u16, u32>,
    /// Ports and outgoing connections whose opening has no answer.
    pub opening: Vec<LinkId>,
    /// Opening is answered at once.
    pub opens: bool,
    /// Bytes are thrown away at each open of a port.
    pub discarded: bool,
    /// Sends to the API that have no answer yet.
    pub unanswered: Vec<LinkId>,
    /// The API answers at once.
    pub answers: bool,
    /// Connections to the API that were opened.
    pub connections: usize,
    sent: Vec<String>,
    pub keys: Vec<String>,
    /// The records that the API was sent and answered with 201, in order.
    pub delivered: Vec<String>,
    sending: HashMap<u32, String>,
}

fn settings(text: &str, max_bytes: u64) -> Settings {
    // A retired source keeps its name beside its heir, which no file could have.
    let mut parts = text.split("[[source]]").map(str::to_owned).collect::<Vec<_>>();
    let mut names = Vec::new();
    for (index, part) in parts.iter_mut().enumerate().skip(1) {
        let name = part.split('"').nth(1).expect("a name").to_owned();
        *part = part.replacen(&format!("\"{name}\""), &format!("\"s{index}\""), 1);
        *part = part.replacen(&format!("/dev/{name}"), &format!("/dev/{name}{index}"), 1);
        names.push(name);
    }
    let text = parts.join("[[source]]");
    let mut settings = config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"));
    for (source, name) in settings.sources.iter_mut().zip(names) {
        if let config::SourceKind::Serial(port) = &mut source.kind {
            port.path = format!("/dev/{name}").into();
        }
        source.name = name;
    }
    settings.journal.durability = Durability::Memory;
    settings.journal.max_bytes = max_bytes;
    settings
}

impl World {
    /// A shard that takes records.
    pub fn new(text: &str) -> Self {
        Self::small(text, 64 << 20)
    }

    /// As [`World::new`], with a limit of its journal.
    pub fn small(text: &str, max_bytes: u64) -> Self {
        let mut world = Self::with(settings(text, max_bytes));
        world.start();
        world
    }

    /// As [`World::new`], with so many connections of all sources at most.
    pub fn crowded(text: &str, connections_all: usize) -> Self {
        let mut settings = settings(text, 64 << 20);
        settings.limits.connections_all = connections_all;
        let mut world = Self::with(settings);
        world.start();
        world
    }

    /// A shard that was not started.
    pub fn bare(text: &str) -> Self {
        Self::with(settings(text, 64 << 20))
    }

    fn with(settings: Settings) -> Self {
        let journal = journal::open(&mut NoDisk, &journal::Options::new(&settings.journal, CoreId(0), 1)).unwrap();
        let shard = Shard::new(Setup {
            sources: (0..settings.sources.len()).map(|index| SourceId(index as u16)).collect(),
            settings: Arc::new(settings),
            core: CoreId(0),
            cores: 1,
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 1,
            now: Now::default(),
        });
        Self {
            shard,
            now_ns: MS,
            ops: Vec::new(),
            accepting: HashSet::new(),
            links: HashMap::new(),
            by_fd: HashMap::new(),
            ports: HashMap::new(),
            opening: Vec::new(),
            opens: true,
            discarded: false,
            unanswered: Vec::new(),
            answers: true,
            connections: 0,
            sent: Vec::new(),
            keys: Vec::new(),
            delivered: Vec::new(),
            sending: HashMap::new(),
        }
    }

    pub fn start(&mut self) {
        self.shard.start(self.now());
        self.settle();
    }

    pub fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: 1_767_323_045_000_000_000 + self.now_ns }
    }

    /// Gives the shard other settings, as a driver does: between two turns.
    pub fn reload(&mut self, text: &str, retired: &[u16], started: &[u16]) -> Reloaded {
        self.reload_all(text, (retired, started, &[]))
    }

    /// As [`World::reload`], where sources keep what they have open.
    pub fn adjust(&mut self, text: &str, adjusted: &[u16]) {
        assert!(self.reload_all(text, (&[], &[], adjusted)).applied);
    }

    /// `sources`: those that are retired, that begin, and that are adjusted.
    fn reload_all(&mut self, text: &str, (retired, started, adjusted): (&[u16], &[u16], &[u16])) -> Reloaded {
        let ids = |list: &[u16]| list.iter().copied().map(SourceId).collect();
        let settings = Arc::new(settings(text, 64 << 20));
        let reload = Reload { settings, retired: ids(retired), started: ids(started), adjusted: ids(adjusted) };
        let reloaded = self.shard.reload(self.now(), reload);
        self.settle();
        reloaded
    }

    /// Carries out what the shard asks for until it asks for nothing more.
    pub fn settle(&mut self) {
        loop {
            self.shard.turn(self.now());
            let mut quiet = true;
            while let Some(op) = self.shard.poll_op() {
                quiet = false;
                self.carry(op);
            }
            while self.answers && !self.unanswered.is_empty() {
                quiet = false;
                self.reply(0, 201);
            }
            if quiet {
                return;
            }
        }
    }

    fn carry(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Accept { source } | Op::AcceptOne { source } => {
                if self.accepting.insert(source.0) {
                    self.ops.push(format!("accept {}", source.0));
                }
            }
            Op::PauseAccept { source } => {
                self.accepting.remove(&source.0);
                self.ops.push(format!("pause accept {}", source.0));
            }
            Op::Recv { link, fd, .. } => {
                if fd.0 >= 20 {
                    self.by_fd.insert(fd.0, link.index);
                    self.links.insert(link.index, link);
                }
            }
            Op::OpenPort { link, source } | Op::Connect { link, to: Destination::Source(source) } => {
                let is_port = matches!(op, Op::OpenPort { .. });
                self.ops.push(format!("{} {}", if is_port { "open port" } else { "connect source" }, source.0));
                self.links.insert(link.index, link);
                self.ports.insert(source.0, link.index);
                if !self.opens {
                    self.opening.push(link);
                } else if is_port {
                    let port = OpenPort { fd: Fd(9), discarded: self.discarded };
                    self.shard.handle(now, Completion::PortOpened { link, result: Ok(port) });
                } else {
                    self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(9)) });
                }
            }
            Op::Connect { link, to: Destination::Api(api) } => {
                self.connections += 1;
                self.ops.push(format!("connect api {}", api.0));
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(10)) });
            }
            Op::Send { link, bytes, .. } => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let (head, body) = text.split_once("\r\n\r\n").expect("a whole request");
                let key = head.lines().find_map(|line| line.strip_prefix("Idempotency-Key: ")).expect("a key");
                self.keys.push(key.to_owned());
                self.sent.push(body.to_owned());
                self.sending.insert(link.index, body.to_owned());
                self.unanswered.push(link);
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
            }
            Op::PauseRecv { link } => {
                self.ops.push(format!("pause {}", link.index));
                self.shard.handle(now, Completion::RecvEnded { link, end: RecvEnd::Paused });
            }
            Op::WatchOver { link, .. } => self.ops.push(format!("watch over {}", link.index)),
            Op::Shutdown { link, .. } => self.ops.push(format!("shutdown {}", link.index)),
            Op::Close { link, .. } => {
                self.ops.push(format!("close {}", link.index));
                self.unanswered.retain(|other| *other != link);
                // One of a machine is closed when the test says so.
                match self.links.get(&link.index) {
                    Some(known) if *known == link => {}
                    _ if self.awaits_close(link) => drop(self.links.insert(link.index, link)),
                    _ => self.shard.handle(now, Completion::Closed { link }),
                }
            }
            op => panic!("{op:?} without a disk"),
        }
    }

    /// A connection that was turned away has had no operation but its close.
    fn awaits_close(&self, link: LinkId) -> bool {
        !self.sending.contains_key(&link.index)
    }

    /// The file of a link is closed.
    pub fn closed(&mut self, index: u32) {
        let link = self.links.remove(&index).expect("a link");
        self.shard.handle(self.now(), Completion::Closed { link });
        self.settle();
    }

    /// A machine connects; the index of its link.
    pub fn accept(&mut self, source: u16, fd: i32) -> u32 {
        let before: Vec<u32> = self.links.keys().copied().collect();
        self.accept_unknown(source, fd);
        let new = self.links.keys().find(|index| !before.contains(index));
        *new.expect("it is read or closed")
    }

    pub fn accept_unknown(&mut self, source: u16, fd: i32) {
        let peer = format!("127.0.0.1:{}", 40_000 + fd).parse().unwrap();
        self.shard.handle(self.now(), Completion::Accepted { source: SourceId(source), fd: Fd(fd), peer });
        self.settle();
    }

    /// The link of a source's port or outgoing connection.
    pub fn port(&self, source: u16) -> u32 {
        self.ports[&source]
    }

    pub fn bytes(&mut self, index: u32, text: &str) {
        let (link, mut bytes) = (self.links[&index], text.as_bytes().to_vec());
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes });
        self.settle();
    }

    /// The machine with this descriptor sends a record.
    pub fn record(&mut self, fd: i32, text: &str) {
        self.bytes(self.by_fd[&fd], &format!("{text}\r"));
    }

    pub fn end(&mut self, index: u32, end: RecvEnd) {
        let link = self.links[&index];
        self.shard.handle(self.now(), Completion::RecvEnded { link, end });
        self.settle();
    }

    /// Answers a request that waits.
    pub fn answer(&mut self, place: usize, status: u16) {
        self.reply(place, status);
        self.settle();
    }

    fn reply(&mut self, place: usize, status: u16) {
        let link = self.unanswered.remove(place);
        let sent = self.sending.get(&link.index).expect("it was sent").clone();
        let body = "{\"id\": 7}";
        let mut answer =
            format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        if status == 201 && sent != "{}" {
            let data = sent.trim_matches(['<', '>', '(', ')']);
            self.delivered.push(data.strip_prefix("7:").unwrap_or(data).to_owned());
        }
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut answer });
    }

    /// Answers all that waits, and what comes of that, with success.
    pub fn answer_all(&mut self) {
        let answers = std::mem::replace(&mut self.answers, true);
        self.settle();
        self.answers = answers;
    }

    /// Time passes, and nobody looks.
    pub fn stall(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// How often something was opened or connected.
    pub fn opened(&self) -> usize {
        self.ops.iter().filter(|op| op.starts_with("open port") || op.starts_with("connect source")).count()
    }

    /// Time passes; the shard is woken when it wants to be.
    pub fn pass(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        let mut wakes = 0;
        while let Some(due_ns) = self.shard.next_deadline().filter(|due_ns| *due_ns <= end_ns) {
            self.now_ns = due_ns.max(self.now_ns);
            self.settle();
            wakes += 1;
            assert!(wakes < 1_000, "a deadline that does not move");
        }
        self.now_ns = end_ns;
    }

    pub fn terms(&self) -> Terms {
        let terms = self.shard.terms();
        assert!(terms.balance(), "{terms:?}");
        terms
    }

    /// The bodies that were sent, in order.
    pub fn bodies(&self) -> &[String] {
        &self.sent
    }

    /// How often accepting began.
    pub fn accepts(&self) -> usize {
        self.ops.iter().filter(|op| op.starts_with("accept")).count()
    }

    pub fn lanes(&self) -> u64 {
        self.shard.snapshot(self.now()).lanes
    }

    /// The authorities that are shown.
    pub fn routes(&self) -> Vec<String> {
        self.shard.snapshot(self.now()).routes.into_iter().map(|route| route.authority).collect()
    }

    /// How many sources of a name are shown.
    pub fn shown(&self, name: &str) -> usize {
        self.shard.snapshot(self.now()).sources.iter().filter(|source| source.name == name).count()
    }

    /// The source as `/api/sources` shows it.
    pub fn source(&self, name: &str) -> Value {
        let sources = self.shard.snapshot(self.now()).sources;
        serde_json::to_value(sources.iter().find(|source| source.name == name).expect("it is shown")).unwrap()
    }
}
