//! A shard whose disk refuses, is full or hangs, without a kernel: what machines are told, what is delivered, how a stop ends.

use ringest::config;
use ringest::engine::FsStorage;
use ringest::ground::SegmentNumber;
use ringest::http::server::Verdict;
use ringest::journal;
use ringest::observe::snapshot::JournalSnapshot;
use ringest::shard::{Completion, ConnectError, CoreId, Fd, LinkId, Now, Op, Parcel, PassedOn, Setup, Shard, SourceId};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;
const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const TCP: SourceId = SourceId(0);
const HTTP: SourceId = SourceId(1);

/// What the disk does with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Works,
    Fails(i32),
    Hangs,
}

struct World {
    shard: Shard,
    now_ns: u64,
    commits: Disk,
    segments: Disk,
    /// Operations that hang.
    hung: Vec<Op>,
    files: HashMap<SegmentNumber, Vec<u8>>,
    machines: HashMap<LinkId, Fd>,
    /// What each machine was sent, by its file.
    answers: HashMap<Fd, String>,
    closed: Vec<Fd>,
    paused: bool,
    /// The bodies that the API was sent, in order.
    delivered: Vec<String>,
    /// What other cores were told.
    told: Vec<Parcel>,
    /// Bytes of segments that cannot be read back.
    unreadable: Vec<(SegmentNumber, Range<usize>)>,
    api_is_down: bool,
    _directory: TempDir,
}

impl World {
    fn new(segments: Disk) -> Self {
        Self::with(segments, "pause")
    }

    /// `when_full`: what becomes of records that the journal does not take.
    fn with(segments: Disk, when_full: &str) -> Self {
        Self::at("power", segments, when_full)
    }

    fn at(level: &str, segments: Disk, when_full: &str) -> Self {
        Self::one_of(1, level, segments, when_full)
    }

    /// The first of so many cores.
    fn one_of(cores: u16, level: &str, segments: Disk, when_full: &str) -> Self {
        let text = r#"
            [[source]]
            name = "servers"
            kind = "tcp_listen"
            listen = "127.0.0.1:4001"
            lane = "connection"
            [[source]]
            name = "cameras"
            kind = "http"
            listen = "127.0.0.1:4002"
            [journal]
            window = "2MiB"
            segment_size = "1MiB"
            max_size = "32MiB"
            when_full = "WHEN-FULL"
            durability = "LEVEL"
            [deliver]
            url = "http://127.0.0.1:8000/films/"
            body = "<{{data}}>"
            content_type = "text/plain"
            drain = "1s"
        "#;
        let text = text.replace("WHEN-FULL", when_full).replace("LEVEL", level);
        let settings = Arc::new(config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}")));
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = FsStorage::open_with_blocks_in(directory.path(), directory.path()).expect("a directory");
        let options = journal::Options::new(&settings.journal, CoreId(0), 1);
        let journal = journal::open(&mut storage, &options).expect("an empty journal");
        let now_ns = S;
        let shard = Shard::new(Setup {
            settings,
            core: CoreId(0),
            cores,
            sources: vec![TCP, HTTP],
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 1,
            now: Now { mono_ns: now_ns, wall_ns: now_ns },
        });
        let mut world = Self {
            shard,
            now_ns,
            commits: Disk::Works,
            segments,
            hung: Vec::new(),
            files: HashMap::new(),
            machines: HashMap::new(),
            answers: HashMap::new(),
            closed: Vec::new(),
            paused: false,
            delivered: Vec::new(),
            told: Vec::new(),
            unreadable: Vec::new(),
            api_is_down: false,
            _directory: directory,
        };
        let now = world.now();
        world.shard.start(now);
        world.settle();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: self.now_ns }
    }

    fn settle(&mut self) {
        loop {
            let now = self.now();
            self.shard.turn(now);
            let ops: Vec<Op> = std::iter::from_fn(|| self.shard.poll_op()).collect();
            if ops.is_empty() {
                return;
            }
            ops.into_iter().for_each(|op| self.carry(op));
        }
    }

    /// Time passes, deadline by deadline.
    fn pass(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        while let Some(due) = self.shard.next_deadline().filter(|due| *due <= end) {
            self.now_ns = self.now_ns.max(due);
            self.settle();
        }
        self.now_ns = end;
        self.settle();
    }

    fn carry(&mut self, op: Op) {
        let now = self.now();
        let fate = match op {
            Op::Journal { op: journal::Op::Commit { .. }, .. } => self.commits,
            Op::Journal { op: journal::Op::PrepareSegment { .. }, .. } => self.segments,
            _ => Disk::Works,
        };
        let result = match fate {
            Disk::Works => Ok(()),
            Disk::Fails(errno) => Err(errno),
            Disk::Hangs => return self.hung.push(op),
        };
        match op {
            Op::Journal { journal, op: journal::Op::ReadBack { segment, offset, mut buffer } } => {
                let (from, length) = (offset as usize, buffer.len());
                buffer.copy_from_slice(&self.files[&segment][from..from + length]);
                let is_lost = |(lost, bytes): &(SegmentNumber, Range<usize>)| {
                    *lost == segment && bytes.start < from + length && from < bytes.end
                };
                let result = if self.unreadable.iter().any(is_lost) { Err(EIO) } else { Ok(length) };
                let completion = journal::Completion::ReadBack { segment, offset, buffer, result };
                self.shard.handle(now, Completion::Journal { journal, completion });
            }
            Op::Journal { journal, op: journal::Op::Commit { segment, offset, memory_offset, bytes, .. } } => {
                if result.is_ok() {
                    let from = memory_offset as usize;
                    let block = self.shard.block_memory(journal).bytes(from..from + bytes as usize).to_vec();
                    let file = self.files.get_mut(&segment).expect("a segment that is ready");
                    file[offset as usize..(offset + bytes) as usize].copy_from_slice(&block);
                }
                self.shard.handle(
                    now,
                    Completion::Journal {
                        journal,
                        completion: journal::Completion::Committed { segment, offset, result },
                    },
                );
            }
            Op::Journal { journal, op: journal::Op::PrepareSegment { segment, bytes, header, .. } } => {
                let mut file = header;
                file.resize(bytes as usize, 0);
                self.files.insert(segment, file);
                self.shard.handle(
                    now,
                    Completion::Journal {
                        journal,
                        completion: journal::Completion::SegmentPrepared { segment, result },
                    },
                );
            }
            Op::Journal { journal, op: journal::Op::FreeSegment { segment, .. } } => {
                self.shard.handle(
                    now,
                    Completion::Journal {
                        journal,
                        completion: journal::Completion::SegmentFreed { segment, result: Ok(()) },
                    },
                );
            }
            Op::Recv { link, fd, .. } => drop(self.machines.insert(link, fd)),
            Op::PauseRecv { link } => {
                self.paused = true;
                self.shard.handle(now, Completion::RecvEnded { link, end: ringest::shard::RecvEnd::Paused });
            }
            Op::Connect { link, .. } => {
                let result = if self.api_is_down { Err(refused()) } else { Ok(Fd(1)) };
                self.shard.handle(now, Completion::Connected { link, result });
            }
            Op::Send { link, fd, bytes } => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
                if fd == Fd(1) {
                    let body = text.split("\r\n\r\n").nth(1).expect("a request with a body");
                    self.delivered.push(body.to_owned());
                    let mut answer = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_vec();
                    self.shard.handle(now, Completion::Received { link, bytes: &mut answer });
                } else {
                    *self.answers.entry(fd).or_default() += &text;
                }
            }
            Op::PassOn { parcel, .. } => self.told.push(parcel),
            Op::Close { link, fd } => {
                self.closed.extend(fd);
                self.shard.handle(now, Completion::Closed { link });
            }
            _ => {}
        }
    }

    /// Whatever hung ends well.
    fn wake_disk(&mut self) {
        (self.commits, self.segments) = (Disk::Works, Disk::Works);
        for op in std::mem::take(&mut self.hung) {
            self.carry(op);
        }
        self.settle();
    }

    fn connect(&mut self, source: SourceId, fd: i32) -> LinkId {
        let (peer, fd) = ("127.0.0.1:9".parse().expect("an address"), Fd(fd));
        let now = self.now();
        self.shard.handle(now, Completion::Accepted { source, fd, peer });
        self.settle();
        *self.machines.iter().find(|(_, other)| **other == fd).expect("it is read").0
    }

    fn send(&mut self, link: LinkId, text: &str) {
        let now = self.now();
        self.shard.handle(now, Completion::Received { link, bytes: &mut text.as_bytes().to_vec() });
        self.settle();
    }

    fn post(&mut self, link: LinkId, body: &str) {
        let length = body.len();
        self.send(link, &format!("POST /v1/records/c HTTP/1.1\r\nHost: g\r\nContent-Length: {length}\r\n\r\n{body}"));
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.shard.snapshot(self.now()).counters;
        counters.each().find(|(other, ..)| *other == name).expect("a counter").2
    }

    /// How many of so many machines, by their files from 100 on, have read an answer of this status.
    fn answered(&self, machines: i32, status: u16) -> usize {
        let line = format!("HTTP/1.1 {status} ");
        (100..100 + machines).filter(|fd| self.answer(*fd).starts_with(&line)).count()
    }

    fn post_keyed(&mut self, link: LinkId, source: &str, key: &str, body: &str) {
        let fields = format!("Host: g\r\nIdempotency-Key: {key}\r\nContent-Length: {}", body.len());
        self.send(link, &format!("POST /v1/records/{source} HTTP/1.1\r\n{fields}\r\n\r\n{body}"));
    }

    /// Another core tells something.
    fn hear(&mut self, parcel: Parcel) {
        let now = self.now();
        self.shard.handle(now, Completion::Parcel { parcel });
        self.settle();
    }

    fn status(&self, fd: i32) -> Vec<&str> {
        let answers = self.answer(fd);
        answers.match_indices("HTTP/1.1 ").map(|(at, start)| &answers[at + start.len()..][..3]).collect()
    }

    fn answer(&self, fd: i32) -> &str {
        self.answers.get(&Fd(fd)).map_or("", String::as_str)
    }

    fn journal(&self) -> JournalSnapshot {
        self.shard.snapshot(self.now()).journal
    }
}

#[test]
fn a_machine_whose_block_is_refused_is_answered_once_it_is_written_elsewhere_and_not_before() {
    let mut world = World::new(Disk::Works);
    let machine = world.connect(HTTP, 10);
    world.commits = Disk::Fails(EIO);
    world.post(machine, "one");
    assert_eq!((world.answer(10), &world.delivered[..]), ("", &[][..]), "neither said nor delivered");
    let other = world.connect(HTTP, 11);
    world.post(other, "two");
    assert!(world.answer(11).starts_with("HTTP/1.1 503 "), "{}", world.answer(11));
    assert!(world.answer(11).to_ascii_lowercase().contains("\r\nretry-after: "), "{}", world.answer(11));
    assert!(world.journal().problem.is_some_and(|words| words.contains("cannot be written: Input/output error")));

    world.commits = Disk::Works;
    world.pass(2 * S);
    assert!(world.answer(10).starts_with("HTTP/1.1 201 "), "{}", world.answer(10));
    assert_eq!(world.delivered, ["<one>"]);
    assert_eq!(world.journal().problem, None);
    world.post(other, "three");
    world.pass(S);
    assert!(world.answer(11).contains("HTTP/1.1 201 "), "{}", world.answer(11));
    assert_eq!(world.delivered, ["<one>", "<three>"]);
    assert!(world.shard.terms().balance());
}

#[test]
fn a_disk_that_is_full_at_the_start_refuses_machines_and_heals() {
    let mut world = World::new(Disk::Fails(ENOSPC));
    assert!(world.shard.is_ready(), "it has started all the same");
    let (http, tcp) = (world.connect(HTTP, 10), world.connect(TCP, 11));
    world.post(http, "one");
    assert!(world.answer(10).starts_with("HTTP/1.1 503 "), "{}", world.answer(10));
    world.send(tcp, "kept back\r");
    assert!(world.paused && world.delivered.is_empty());
    assert!(world.journal().problem.is_some_and(|words| words.contains("cannot be made: No space left")));
    world.segments = Disk::Works;
    world.pass(3 * S);
    assert_eq!(world.delivered, ["<kept back>"]);
    assert_eq!(world.journal().problem, None);
}

#[test]
fn deliveries_go_on_while_no_block_can_be_written() {
    let mut world = World::new(Disk::Works);
    let tcp = world.connect(TCP, 10);
    world.send(tcp, "one\r");
    world.commits = Disk::Fails(EIO);
    world.pass(S);
    assert_eq!(world.delivered, ["<one>"]);
    // The marks have nowhere to go, for minutes; segment after segment is tried and given up.
    let sealed = |world: &World| world.shard.snapshot(world.now()).counters.journal_sealed;
    world.pass(120 * S);
    assert!((20..=130).contains(&sealed(&world)), "{} segments in two minutes", sealed(&world));
    assert!(world.journal().segments <= 3, "{:?}", world.journal());
    world.send(tcp, "two\r");
    assert!(world.paused);
    world.commits = Disk::Works;
    world.pass(3 * S);
    assert_eq!(world.delivered, ["<one>", "<two>"]);
    assert_eq!(world.journal().problem, None);
}

#[test]
fn a_journal_that_takes_no_records_rejects_each_record_of_a_read() {
    let mut world = World::with(Disk::Hangs, "reject");
    let first = world.hung.pop().expect("the first segment is being made");
    world.segments = Disk::Works;
    world.carry(first);
    world.segments = Disk::Fails(ENOSPC);
    world.settle();
    let tcp = world.connect(TCP, 10);
    world.pass(S - MS);
    world.send(tcp, "one\r");
    world.pass(2 * MS);
    // The next segment cannot be made. The block that has the first record is open, and has room.
    world.send(tcp, "two\rthree\rfour\r");
    assert_eq!(world.shard.snapshot(world.now()).counters.rejected_full, 3);
    world.segments = Disk::Works;
    world.pass(5 * S);
    assert_eq!(world.delivered, ["<one>"]);
    world.send(tcp, "five\r");
    assert_eq!(world.delivered, ["<one>", "<five>"]);
}

#[test]
fn a_machine_whose_commit_hangs_is_left_without_an_answer_and_its_record_is_delivered_in_the_end() {
    let mut world = World::new(Disk::Works);
    let machine = world.connect(HTTP, 10);
    world.commits = Disk::Hangs;
    world.post(machine, "one");
    let tcp = world.connect(TCP, 11);
    world.send(tcp, "two\r");
    world.pass(29 * S);
    assert_eq!((world.answer(10), world.closed.contains(&Fd(10))), ("", false));
    assert_eq!(world.delivered, ["<two>"], "what is promised to nobody does not wait");
    let age_s = world.journal().commit_age_s;
    assert!((28.0..30.0).contains(&age_s), "{age_s}");
    world.pass(2 * S);
    assert!(world.closed.contains(&Fd(10)) && world.answer(10).is_empty());
    assert_eq!(world.shard.snapshot(world.now()).counters.http_unanswered, 1);
    // Memory stays within its bounds, however much comes.
    for number in 0..20_000 {
        if world.paused {
            break;
        }
        world.send(tcp, &format!("{number:0>900}\r"));
    }
    assert!(world.paused && world.journal().window_bytes <= 2 << 20, "{:?}", world.journal());
    world.wake_disk();
    world.pass(S);
    assert!(world.delivered.contains(&"<one>".to_owned()));
    assert_eq!(world.shard.terms().pending, 0);
    assert!(world.journal().commit_age_s < 1.5);
}

/// A record of 60 KB: two fill a slot of the window of 2 MiB, 34 of them all of it.
fn large(number: i32) -> String {
    format!("{number:0>60000}")
}

#[test]
fn a_request_for_which_room_is_being_made_is_held_back_and_not_refused() {
    let mut world = World::new(Disk::Works);
    world.commits = Disk::Hangs;
    let links: Vec<LinkId> = (100..160).map(|fd| world.connect(HTTP, fd)).collect();
    for (number, link) in (0..).zip(&links) {
        world.post(*link, &large(number));
    }
    assert!(world.count("http_held_back") >= 20, "{}", world.count("http_held_back"));
    assert_eq!(world.answered(60, 503), 0);
    // Some blocks are copied for lanes that are behind.
    assert!(world.journal().window_bytes <= 5 << 19, "{:?}", world.journal());
    // The last one has sent more before its reading stopped, and then its FIN.
    let last = links[59];
    world.post(last, "behind it");
    let now = world.now();
    world.shard.handle(now, Completion::RecvEnded { link: last, end: ringest::shard::RecvEnd::Closed });
    world.settle();
    // One hangs up.
    world.shard.handle(now, Completion::RecvEnded { link: links[58], end: ringest::shard::RecvEnd::Error(104) });
    world.settle();
    world.pass(5 * S);
    assert_eq!((world.answered(60, 503), world.answered(60, 201)), (0, 0), "{:?}", world.journal());
    world.wake_disk();
    world.pass(2 * S);
    assert_eq!((world.answered(60, 503), world.answered(60, 201)), (0, 59));
    assert_eq!(world.answer(159).matches("HTTP/1.1 201 ").count(), 2, "{}", world.answer(159));
    assert_eq!(world.delivered.len(), 60);
    assert_eq!(world.delivered.last().map(String::as_str), Some("<behind it>"), "in their order");
    assert!(world.closed.contains(&Fd(159)), "both ends have said that it is over");
    world.post(links[0], "more");
    world.pass(S);
    assert_eq!(world.answer(100).matches("HTTP/1.1 201 ").count(), 2, "it is read on");
}

#[test]
fn a_request_is_held_back_for_30_s_at_most_and_not_at_all_where_the_disk_refuses() {
    let mut world = World::new(Disk::Works);
    world.commits = Disk::Hangs;
    let links: Vec<LinkId> = (100..160).map(|fd| world.connect(HTTP, fd)).collect();
    for (number, link) in (0..).zip(&links) {
        world.post(*link, &large(number));
    }
    let held = 60 - world.shard.terms().received as usize;
    world.pass(29 * S);
    assert_eq!(world.answered(60, 503), 0);
    world.pass(2 * S);
    assert_eq!(world.answered(60, 503), held);
    assert!(world.answer(159).to_ascii_lowercase().contains("\r\nretry-after: "), "{}", world.answer(159));
    assert_eq!(world.closed.len(), 60 - held, "those whose records are journaled get no answer");
    // Others wait, until it is known that the disk refuses.
    world.post(links[59], &large(0));
    assert_eq!(world.answered(60, 503), held);
    world.commits = Disk::Fails(EIO);
    for op in std::mem::take(&mut world.hung) {
        world.carry(op);
    }
    world.settle();
    assert_eq!(world.answer(159).matches("HTTP/1.1 503 ").count(), 2, "at once");
    world.wake_disk();
    world.pass(3 * S);
    assert_eq!(world.delivered.len(), 60 - held);
    assert!(world.shard.terms().balance() && world.shard.terms().pending == 0);
}

#[test]
fn a_stop_refuses_what_is_held_back() {
    let mut world = World::new(Disk::Works);
    world.commits = Disk::Hangs;
    let links: Vec<LinkId> = (100..160).map(|fd| world.connect(HTTP, fd)).collect();
    for (number, link) in (0..).zip(&links) {
        world.post(*link, &large(number));
    }
    let held = world.count("http_held_back") as usize;
    let now = world.now();
    world.shard.stop(now);
    world.settle();
    assert_eq!(world.answered(60, 503), held);
    world.wake_disk();
    world.pass(5 * S);
    assert_eq!(world.answered(60, 201), 60 - held);
    assert!(world.shard.is_stopped());
}

#[test]
fn a_burst_as_large_as_the_window_waits_for_no_file() {
    let mut world = World::at("process", Disk::Works, "pause");
    world.pass(S);
    // From now on no file is made for a while: those that are there are enough.
    world.segments = Disk::Hangs;
    let links: Vec<LinkId> = (100..134).map(|fd| world.connect(HTTP, fd)).collect();
    for (number, link) in (0..).zip(&links) {
        world.post(*link, &large(number));
    }
    assert_eq!((world.answered(34, 201), world.count("http_held_back")), (34, 0));
    // What goes beyond waits for the next file.
    let mut posted = 34;
    while world.count("http_held_back") == 0 {
        world.post(links[posted % 34], &large(0));
        posted += 1;
        assert!(posted < 200, "a journal needs files");
    }
    world.wake_disk();
    world.pass(S);
    assert_eq!(world.count("http_accepted"), posted as u64);
    assert_eq!(world.count("http_unavailable"), 0);
    assert_eq!(world.delivered.len(), posted);
}

#[test]
fn a_file_that_cannot_be_made_ahead_of_its_time_keeps_nothing_out() {
    let mut world = World::at("process", Disk::Works, "pause");
    world.pass(S);
    world.segments = Disk::Fails(ENOSPC);
    let machine = world.connect(HTTP, 100);
    let mut number = 0;
    while world.count("journal_errors") == 0 {
        world.post(machine, &large(number));
        number += 1;
    }
    assert_eq!((world.count("http_accepted"), world.journal().problem), (number as u64, None));
    // The one that is needed next is missed.
    for number in 0..60 {
        world.post(machine, &large(number));
        world.pass(100 * MS);
    }
    assert!(world.journal().problem.is_some_and(|words| words.contains("cannot be made: No space left")));
    assert!(world.count("http_unavailable") > 0);
}

#[test]
fn a_block_that_the_kernel_does_not_take_is_tried_again_at_longer_and_longer_intervals() {
    let mut world = World::new(Disk::Works);
    let machine = world.connect(HTTP, 100);
    world.commits = Disk::Fails(EAGAIN);
    world.post(machine, "one");
    world.pass(100 * MS);
    let soon = world.count("journal_again");
    assert!((5..=8).contains(&soon), "{soon} attempts in 100 ms: after 1, 2, 4 and so on");
    world.pass(S);
    assert_eq!(world.journal().problem, None, "a matter of a moment");
    world.pass(9 * S);
    let later = world.count("journal_again");
    assert!((95..=115).contains(&later), "{later} attempts in 10 s");
    let problem = world.journal().problem.expect("told");
    assert!(problem.contains("takes no write") && problem.contains("Resource temporarily unavailable"), "{problem}");
    assert_eq!(world.count("journal_errors"), 1, "told once");
    assert_eq!((world.answer(100), world.delivered.len()), ("", 0));
    world.commits = Disk::Works;
    world.pass(200 * MS);
    assert!(world.answer(100).starts_with("HTTP/1.1 201 "), "{}", world.answer(100));
    assert_eq!((world.delivered.len(), world.journal().problem), (1, None));
    assert_eq!(world.count("journal_sealed"), 0, "the segment goes on");
    // The next time begins with short intervals again.
    world.commits = Disk::Fails(EAGAIN);
    world.post(machine, "two");
    world.commits = Disk::Works;
    world.pass(3 * MS);
    assert_eq!(world.answer(100).matches("HTTP/1.1 201 ").count(), 2);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_disk_that_refuses_or_hangs() {
    for (disk, within_s) in [(Disk::Fails(EIO), 4), (Disk::Fails(ENOSPC), 4), (Disk::Hangs, 22)] {
        let mut world = World::new(Disk::Works);
        let tcp = world.connect(TCP, 10);
        (world.commits, world.segments) = (disk, disk);
        world.send(tcp, "one\r");
        let now = world.now();
        world.shard.stop(now);
        world.settle();
        let begun = world.now_ns;
        while !world.shard.is_stopped() {
            world.pass(100 * MS);
            assert!(world.now_ns - begun < (1 + within_s) * S, "{disk:?}: it does not end");
        }
        assert!(world.shard.has_given_up(), "{disk:?}");
        assert!(world.shard.into_journals().iter().all(|journal| !journal.is_flushed()));
    }
    // One that works is waited for, and no longer.
    let mut world = World::new(Disk::Works);
    let tcp = world.connect(TCP, 10);
    world.send(tcp, "one\r");
    let now = world.now();
    world.shard.stop(now);
    world.settle();
    assert!(world.shard.is_stopped() && !world.shard.has_given_up());
}

#[test]
fn row_60_a_repeat_waits_for_the_commit_of_the_first_and_is_409_only_past_the_longest_wait() {
    let mut world = World::new(Disk::Works);
    let (first, second) = (world.connect(HTTP, 10), world.connect(HTTP, 11));
    world.commits = Disk::Hangs;
    world.post_keyed(first, "c", "lot-7", "one");
    world.pass(10 * S);
    world.post_keyed(second, "c", "lot-7", "one");
    let third = world.connect(HTTP, 12);
    world.post_keyed(third, "c", "lot-7", "another");
    assert_eq!(world.status(12), ["422"], "that is known at once");
    world.pass(19 * S);
    assert_eq!((world.answer(10), world.answer(11)), ("", ""));
    world.pass(2 * S);
    assert_eq!((world.status(10), world.answer(11)), (vec!["409"], ""));
    assert!(world.answer(10).contains("Retry-After: 1\r\n") && world.answer(10).contains("Connection: close"));
    world.wake_disk();
    world.pass(S);
    assert_eq!(world.status(11), ["201"]);
    let again = world.connect(HTTP, 13);
    world.post_keyed(again, "c", "lot-7", "one");
    assert_eq!(world.status(13), ["201"]);
    world.pass(S);
    assert_eq!(world.delivered, ["<one>"]);
    let counters = world.shard.snapshot(world.now()).counters;
    assert_eq!((counters.http_unanswered, counters.http_repeated), (0, 2));
}

#[test]
fn a_known_key_is_answered_though_the_journal_is_full_and_a_refused_record_leaves_none() {
    let mut world = World::new(Disk::Works);
    let machine = world.connect(HTTP, 10);
    world.segments = Disk::Fails(ENOSPC);
    let mut taken = 0;
    while !world.status(10).contains(&"503") {
        taken += 1;
        world.post_keyed(machine, "c", &format!("lot-{taken}"), &large(taken));
        world.pass(S);
        assert!(taken < 100, "the journal is full some time");
    }
    let refused = format!("lot-{taken}");
    world.post_keyed(machine, "c", "lot-1", &large(1));
    world.post_keyed(machine, "c", &refused, &large(taken));
    assert_eq!(world.status(10)[taken as usize - 1..], ["503", "201", "503"]);
    world.segments = Disk::Works;
    world.pass(5 * S);
    world.post_keyed(machine, "c", &refused, "other than before");
    world.pass(S);
    assert_eq!(world.status(10).last(), Some(&"201"));
    assert_eq!(world.delivered.len(), taken as usize);
    assert_eq!(world.delivered.last().map(String::as_str), Some("<other than before>"));
}

/// Names of SOURCEs that belong to core 1 of two, and to core 0.
fn sources_of_both() -> (String, String) {
    let name = |core| (0..).map(|n| format!("cam-{n}")).find(|name| journal::owner_of(name, 2) == CoreId(core));
    (name(1).expect("some"), name(0).expect("some"))
}

fn request_of(parcel: &Parcel) -> &PassedOn {
    let Parcel::Request(request) = parcel else { panic!("{parcel:?}") };
    request
}

#[test]
fn a_key_of_another_core_s_source_is_decided_there_and_the_answers_keep_their_turn() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (foreign, own) = sources_of_both();
    let machine = world.connect(HTTP, 10);
    world.post_keyed(machine, &foreign, "a", "one");
    world.post_keyed(machine, &own, "b", "two");
    world.send(machine, &format!("POST /v1/records/{foreign} HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n\r\n3"));
    assert_eq!(world.delivered, ["<two>"]);
    assert_eq!(world.answer(10), "", "answers keep their turn");
    let told: Vec<_> = world.told.iter().map(request_of).map(|r| (&*r.name, r.key.as_deref(), &*r.body)).collect();
    // What follows without a key goes the same way, so that it keeps its order.
    assert_eq!(told, [(&*foreign, Some(&b"a"[..]), &b"one"[..]), (&*foreign, None, &b"3"[..])]);
    let answer = |parcel: &Parcel, verdict| {
        let PassedOn { link, ticket, body, .. } = request_of(parcel);
        Parcel::Answer { link: *link, ticket: *ticket, bytes: body.len(), verdict }
    };
    let (one, three) =
        (answer(&world.told[0], Verdict::KeyReused), answer(&world.told[1], Verdict::Taken { records: 1 }));
    world.hear(three);
    assert_eq!(world.answer(10), "");
    world.hear(one);
    assert_eq!(world.status(10), ["422", "201", "201"]);
    // The end of the connection is told, too.
    let now = world.now();
    world.shard.handle(now, Completion::RecvEnded { link: machine, end: ringest::shard::RecvEnd::Closed });
    world.settle();
    assert!(matches!(world.told[2..], [Parcel::Left { core: CoreId(0), link }] if link == machine), "{:?}", world.told);
}

#[test]
fn another_core_that_does_not_answer_is_waited_for_as_long_as_a_commit() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (foreign, _) = sources_of_both();
    let machine = world.connect(HTTP, 10);
    world.post_keyed(machine, &foreign, "a", "one");
    world.pass(29 * S);
    assert_eq!(world.answer(10), "");
    world.pass(2 * S);
    assert_eq!(world.status(10), ["409"]);
    // An answer that comes now has nobody to go to.
    let PassedOn { link, ticket, .. } = request_of(&world.told[0]);
    let late = Parcel::Answer { link: *link, ticket: *ticket, bytes: 3, verdict: Verdict::Taken { records: 1 } };
    world.hear(late);
    // A core that has ended takes nothing.
    let machine = world.connect(HTTP, 11);
    world.post_keyed(machine, &foreign, "b", "two");
    let undelivered = world.told.iter().rev().find_map(|parcel| match parcel {
        Parcel::Request(request) => Some(request.undelivered()),
        _ => None,
    });
    world.hear(undelivered.expect("it was passed on"));
    assert_eq!(world.status(11), ["503"]);
}

/// The link of another core that [`passed_on`] requests come by.
const GUEST: LinkId = LinkId { index: 4, generation: 9 };

/// A request that core 1 passes on.
fn passed_on(source: &str, ticket: u64, key: &str, body: &str) -> Parcel {
    Parcel::Request(Box::new(PassedOn {
        core: CoreId(1),
        link: GUEST,
        ticket,
        source: HTTP,
        peer: "10.0.4.21:4001".parse().expect("an address"),
        name: source.into(),
        content_type: None,
        key: Some(key.as_bytes().into()),
        headers: Box::default(),
        body: body.as_bytes().into(),
        first_byte_ns: S,
    }))
}

/// What core 1 was told of its requests.
fn verdicts(world: &World) -> Vec<(u64, Verdict)> {
    let answers = world.told.iter().map(|parcel| match parcel {
        Parcel::Answer { ticket, verdict, .. } => (*ticket, *verdict),
        other => panic!("{other:?}"),
    });
    answers.collect()
}

#[test]
fn what_another_core_passes_on_is_held_back_too_while_room_is_being_made() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (_, own) = sources_of_both();
    world.commits = Disk::Hangs;
    for ticket in 1..=60 {
        world.hear(passed_on(&own, ticket, &format!("lot-{ticket}"), &large(ticket as i32)));
    }
    assert!(world.count("http_held_back") >= 20, "{}", world.count("http_held_back"));
    world.hear(passed_on(&own, 61, "lot-60", &large(60)));
    world.pass(5 * S);
    assert_eq!(verdicts(&world), []);
    world.wake_disk();
    world.pass(2 * S);
    let taken: Vec<_> = (1..=61).map(|ticket| (ticket, Verdict::Taken { records: 1 })).collect();
    assert_eq!((verdicts(&world), world.delivered.len()), (taken, 60));
}

#[test]
fn what_another_core_passes_on_is_not_taken_once_its_machine_has_hung_up() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (_, own) = sources_of_both();
    world.commits = Disk::Hangs;
    for ticket in 1..=60 {
        world.hear(passed_on(&own, ticket, &format!("lot-{ticket}"), &large(ticket as i32)));
    }
    let taken = world.shard.terms().received;
    world.hear(Parcel::Left { core: CoreId(1), link: GUEST });
    let unavailable = |(_, verdict): &(u64, Verdict)| matches!(verdict, Verdict::Unavailable { .. });
    assert_eq!(verdicts(&world).iter().filter(|told| unavailable(told)).count() as u64, 60 - taken);
    world.wake_disk();
    world.pass(2 * S);
    assert_eq!(
        (verdicts(&world).len(), world.shard.terms().received, world.delivered.len() as u64),
        (60, taken, taken)
    );
}

#[test]
fn what_other_cores_pass_on_is_a_record_once_and_is_answered_once_it_is_durable() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (_, own) = sources_of_both();
    world.commits = Disk::Hangs;
    world.hear(passed_on(&own, 1, "a", "one"));
    world.hear(passed_on(&own, 2, "a", "one"));
    world.hear(passed_on(&own, 3, "a", "another"));
    assert_eq!(verdicts(&world), [(3, Verdict::KeyReused)]);
    // A connection of this core's own that repeats it.
    let machine = world.connect(HTTP, 10);
    world.post_keyed(machine, &own, "a", "one");
    assert_eq!(world.answer(10), "");
    world.wake_disk();
    world.pass(S);
    let taken = Verdict::Taken { records: 1 };
    assert_eq!(verdicts(&world), [(3, Verdict::KeyReused), (1, taken), (2, taken)]);
    assert_eq!((world.status(10), world.delivered.as_slice()), (vec!["201"], &["<one>".to_owned()][..]));
    world.hear(Parcel::Left { core: CoreId(1), link: GUEST });
    // One that is stopping takes none.
    let now = world.now();
    world.shard.stop(now);
    world.settle();
    world.hear(passed_on(&own, 4, "b", "two"));
    assert_eq!(verdicts(&world)[3].1, Verdict::Unavailable { retry_after_s: 1 });
}

#[test]
fn a_batch_that_another_core_passes_on_is_answered_with_its_count_once_it_is_durable() {
    let mut world = World::one_of(2, "power", Disk::Works, "pause");
    let (_, own) = sources_of_both();
    world.commits = Disk::Hangs;
    for (ticket, key, body) in [(1, "a", "one\ntwo\n"), (2, "a", "one\ntwo\n"), (3, "a", "one\n"), (4, "b", "\n\n")] {
        let Parcel::Request(mut request) = passed_on(&own, ticket, key, body) else { unreachable!("it is a request") };
        request.content_type = Some(b"application/x-ndjson".as_slice().into());
        world.hear(Parcel::Request(request));
    }
    assert_eq!(verdicts(&world)[0], (3, Verdict::KeyReused));
    let is_empty = |verdict| matches!(verdict, Verdict::Refused { status: 400, part: None, .. });
    assert!(verdicts(&world)[1].0 == 4 && is_empty(verdicts(&world)[1].1), "{:?}", verdicts(&world));
    world.wake_disk();
    world.pass(S);
    let taken = Verdict::Taken { records: 2 };
    assert_eq!(verdicts(&world)[2..], [(1, taken), (2, taken)]);
    assert_eq!(world.delivered, ["<one>", "<two>"]);
}

fn refused() -> ConnectError {
    ConnectError::NameLate { to: "127.0.0.1:8000".to_owned(), within: Duration::from_secs(5) }
}

/// A machine's records of 1 KB each that wait behind the window, since the API is down.
fn backlog_of(world: &mut World, records: usize) -> Vec<String> {
    let machine = world.connect(TCP, 11);
    world.api_is_down = true;
    let bodies: Vec<String> = (0..records).map(|number| format!("{number:0>1000}")).collect();
    for bodies in bodies.chunks(8) {
        world.send(machine, &bodies.iter().map(|body| format!("{body}\r")).collect::<String>());
        world.pass(20 * MS);
    }
    assert_eq!(world.shard.terms().pending, records as u64);
    world.api_is_down = false;
    bodies
}

#[test]
fn a_place_that_cannot_be_read_back_costs_30_s_and_what_lies_in_it_and_the_lane_goes_on() {
    let mut world = World::new(Disk::Works);
    let bodies = backlog_of(&mut world, 6_000);
    let segment = SegmentNumber(3);
    assert!(world.files.contains_key(&segment) && world.files.len() > 5, "{:?}", world.files.keys());
    world.unreadable.push((segment, 400_000..400_001));
    world.pass(25 * S);
    let before = world.delivered.len();
    assert!((100..4_000).contains(&before), "{before}");
    assert!(world.journal().problem.is_some_and(|problem| problem.contains("segment 3 cannot be read: ")));
    world.pass(60 * S);
    let missing = bodies.len() - world.delivered.len();
    assert!((1..40).contains(&missing), "{missing}");
    assert_eq!(world.shard.terms().pending, missing as u64);
    let shown: Vec<String> = bodies.iter().map(|body| format!("<{body}>")).collect();
    let gap = world.delivered.iter().zip(&shown).take_while(|(one, other)| one == other).count();
    assert!(world.delivered[gap..] == shown[gap + missing..], "in order, but for a gap");
    assert!(world.journal().problem.is_some_and(|problem| problem.contains("segment 3 cannot be read in places")));
}

#[test]
fn a_disk_that_gives_nothing_is_waited_for() {
    let mut world = World::new(Disk::Works);
    let bodies = backlog_of(&mut world, 6_000);
    let all: Vec<SegmentNumber> = world.files.keys().copied().collect();
    world.unreadable.extend(all.iter().map(|segment| (*segment, 0..1 << 30)));
    world.pass(100 * S);
    assert!(world.delivered.len() < bodies.len() / 2, "{}", world.delivered.len());
    assert!(world.journal().problem.is_some_and(|problem| problem.contains("cannot be read: ")));
    // One segment stays away though the others come back.
    world.unreadable.retain(|(segment, _)| *segment == SegmentNumber(3));
    world.pass(60 * S);
    let delivered = world.delivered.len();
    assert!((bodies.len() - 1_200..bodies.len() - 300).contains(&delivered), "{delivered}");
    assert!(world.delivered.is_sorted(), "in order");
    assert_eq!(world.shard.terms().pending, (bodies.len() - delivered) as u64);
}
