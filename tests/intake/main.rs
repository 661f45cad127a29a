//! A shard without a kernel: idle gaps, their timers, and what is counted and kept of damaged input.

mod order;
mod room;

use ringest::config::{self, Durability, Settings};
use ringest::ground::SegmentNumber;
use ringest::ground::count::Stage;
use ringest::journal::{self, BlockFile, BlockMemory, LeftBlocks, Storage};
use ringest::shard::{Completion, CoreId, Destination, Fd, LinkId, Now, Op, RecvEnd, Setup, Shard, SourceId};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

const MS: u64 = 1_000_000;
const GAP_NS: u64 = 40 * MS;

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

/// A shard with one machine, and an API that answers when it is told to.
struct World {
    shard: Shard,
    now_ns: u64,
    machine: Option<LinkId>,
    /// Sends that have no answer yet.
    unanswered: Vec<(LinkId, Vec<u8>)>,
    answers: bool,
    /// The records that the API was sent, in order.
    delivered: Vec<String>,
    paused: bool,
    /// XOFF (true) and XON, as they were sent.
    holds: Vec<bool>,
    /// Other machines, by their descriptors: what they are read by, and whether they are.
    others: BTreeMap<i32, (LinkId, bool)>,
    /// What they were sent, in order.
    told: Vec<String>,
    /// Links that wait for older ones.
    awaiting: Vec<LinkId>,
}

impl World {
    /// The machine is on TCP.
    fn new(framing: &str, max_bytes: u64) -> Self {
        let mut world =
            Self::with("kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nlane = \"connection\"", framing, max_bytes);
        let (peer, fd) = ("127.0.0.1:9".parse().unwrap(), Fd(9));
        world.shard.handle(world.now(), Completion::Accepted { source: SourceId(0), fd, peer });
        world.settle();
        assert!(world.machine.is_some(), "the machine's bytes are read");
        world
    }

    /// The machine is on a serial line; records end at a carriage return.
    fn serial(flow: &str, max_bytes: u64) -> Self {
        let source = format!(
            "kind = \"serial\"\npath = \"/dev/ttyS0\"\nline = \"9600 8N1\"\nflow = \"{flow}\"\nfirst = \"keep\""
        );
        let world = Self::with(&source, "end = \"\\r\"", max_bytes);
        assert!(world.machine.is_some(), "the port is read");
        world
    }

    fn with(source: &str, framing: &str, max_bytes: u64) -> Self {
        Self::with_body(source, framing, "<{{data}}>", max_bytes)
    }

    fn with_body(source: &str, framing: &str, body: &str, max_bytes: u64) -> Self {
        let text = format!(
            "[framing.f]\n{framing}\n[[source]]\nname = \"m\"\n{source}\nframing = \"f\"\n\
             [deliver]\nurl = \"http://127.0.0.1:8000/\"\nbody = '{body}'\n\
             content_type = \"text/plain\"\n"
        );
        let mut settings: Settings = config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"));
        settings.journal.durability = Durability::Memory;
        settings.journal.max_bytes = max_bytes;
        let journal = journal::open(&mut NoDisk, &journal::Options::new(&settings.journal, CoreId(0), 1)).unwrap();
        let sources = (0..settings.sources.len()).map(|index| SourceId(index as u16)).collect();
        let shard = Shard::new(Setup {
            settings: Arc::new(settings),
            core: CoreId(0),
            cores: 1,
            sources,
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 1,
            now: Now::default(),
        });
        let mut world = Self {
            shard,
            now_ns: MS,
            machine: None,
            unanswered: Vec::new(),
            answers: true,
            delivered: Vec::new(),
            paused: false,
            holds: Vec::new(),
            others: BTreeMap::new(),
            told: Vec::new(),
            awaiting: Vec::new(),
        };
        world.shard.start(world.now());
        world.settle();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: 1_767_323_045_000_000_000 + self.now_ns }
    }

    /// Carries out what the shard asks for until it asks for nothing more.
    fn settle(&mut self) {
        loop {
            self.shard.turn(self.now());
            let mut quiet = true;
            while let Some(op) = self.shard.poll_op() {
                quiet = false;
                self.carry(op);
            }
            if self.answers {
                for (link, bytes) in std::mem::take(&mut self.unanswered) {
                    quiet = false;
                    let text = String::from_utf8_lossy(&bytes);
                    let (_, body) = text.split_once("\r\n\r\n").expect("a whole request");
                    self.delivered.push(body.trim_matches(['<', '>']).to_owned());
                    let mut answer = *b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
                    self.shard.handle(self.now(), Completion::Received { link, bytes: &mut answer });
                }
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
            Op::Recv { link, fd: Fd(9), .. } => (self.machine, self.paused) = (Some(link), false),
            Op::Recv { link, fd: Fd(fd @ 20..), .. } => drop(self.others.insert(fd, (link, true))),
            Op::Recv { .. } => {}
            Op::OpenPort { link, .. } => {
                self.shard.handle(now, Completion::PortOpened { link, result: Ok(Fd(9).into()) });
            }
            Op::HoldLine { fd: Fd(9), hold, .. } => self.holds.push(hold),
            Op::Connect { link, to: Destination::Source(_) } => {
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(9)) });
            }
            Op::Connect { link, to: Destination::Api(_) } => {
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(10)) });
            }
            Op::Send { link, fd: Fd(20..), bytes } => {
                self.told.push(String::from_utf8_lossy(&bytes).into_owned());
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
            }
            Op::Send { link, bytes, .. } => {
                self.unanswered.push((link, bytes.clone()));
                self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
            }
            Op::PauseRecv { link } => {
                match self.others.values_mut().find(|other| other.0 == link) {
                    Some(other) => other.1 = false,
                    None => self.paused = true,
                }
                self.shard.handle(now, Completion::RecvEnded { link, end: RecvEnd::Paused });
            }
            Op::AwaitOlder { link, .. } => self.awaiting.push(link),
            Op::Close { link, .. } => self.shard.handle(now, Completion::Closed { link }),
            op => panic!("{op:?} without a disk and a port"),
        }
    }

    /// Bytes come now.
    fn receive(&mut self, bytes: &[u8]) {
        let (link, mut bytes) = (self.machine.unwrap(), bytes.to_vec());
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes });
        self.settle();
    }

    /// Time passes; the shard is woken when it wants to be. How often that was.
    fn pass(&mut self, ns: u64) -> usize {
        let end_ns = self.now_ns + ns;
        let mut wakes = 0;
        while let Some(due_ns) = self.shard.next_deadline().filter(|due_ns| *due_ns <= end_ns) {
            self.now_ns = due_ns.max(self.now_ns);
            self.settle();
            wakes += 1;
            assert!(wakes < 1_000, "a deadline that does not move");
        }
        self.now_ns = end_ns;
        wakes
    }

    fn hang_up(&mut self) {
        let link = self.machine.unwrap();
        self.shard.handle(self.now(), Completion::RecvEnded { link, end: RecvEnd::Closed });
        self.settle();
    }

    /// The source as `/api/sources` shows it, and the counters; the accounting balances.
    fn show(&self) -> (Value, Value) {
        let snapshot = self.shard.snapshot(self.now());
        assert!(snapshot.terms.balance(), "{:?}", snapshot.terms);
        (serde_json::to_value(&snapshot.sources[0]).unwrap(), serde_json::to_value(snapshot.counters).unwrap())
    }
}

#[test]
fn silence_ends_a_record_by_a_timer_that_costs_nothing_while_bytes_come() {
    let mut world = World::new("idle_gap = \"40ms\"\ntrim = true", 64 << 20);
    // A record in many pieces: one timer a gap, not one a piece.
    let mut wakes = 0;
    for _ in 0..400 {
        world.receive(b"x");
        wakes += world.pass(MS);
    }
    assert!(wakes <= 400 * MS as usize / GAP_NS as usize + 1, "{wakes} wakes");
    assert_eq!(world.delivered, [""; 0]);
    world.pass(GAP_NS - MS - 1);
    assert_eq!(world.delivered, [""; 0], "not before the gap is over");
    world.pass(1);
    assert_eq!(world.delivered, ["x".repeat(400)]);
    world.receive(b"last words");
    world.hang_up();
    let (_, counters) = world.show();
    assert_eq!((&counters["unended_records"], &counters["rejected_unfinished"]), (&0.into(), &1.into()));
}

#[test]
fn a_close_ends_a_record_only_where_the_source_says_so_and_a_silence_before_it_in_any_case() {
    for (keys, half, whole) in [("", 0, 1), ("\non_close = \"emit\"", 1, 1)] {
        let source = format!("kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"{keys}");
        for (passed_ns, expected) in [(0, half), (GAP_NS + 1, whole)] {
            let mut world = World::with(&source, "idle_gap = \"40ms\"", 64 << 20);
            let (peer, fd) = ("127.0.0.1:9".parse().unwrap(), Fd(9));
            world.shard.handle(world.now(), Completion::Accepted { source: SourceId(0), fd, peer });
            world.settle();
            world.receive(b"last words");
            // A busy core: nobody looked at the timers.
            world.now_ns += passed_ns;
            world.hang_up();
            assert_eq!(world.delivered.len(), expected, "{keys} after {passed_ns} ns");
            let (_, counters) = world.show();
            assert_eq!(counters["rejected_unfinished"], 1 - expected as u64);
        }
    }
}

#[test]
fn a_stop_leaves_out_nothing_that_a_search_has_held() {
    let framing = "start = \"0x02\"\nlength = { offset = 1, bytes = 1 }\nchecksum = \"crc16-modbus\"\nmax = \"64B\"";
    let mut world = World::new(framing, 64 << 20);
    let message = [2, 2, b'o', b'k'];
    let crc = message[1..].iter().fold(0xFFFFu16, |state, byte| {
        (0..8).fold(state ^ u16::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * 0xA001))
    });
    world.receive(&[&[2; 2_000][..], &message, &crc.to_le_bytes()].concat());
    assert_eq!(world.delivered, [""; 0], "the search takes many turns");
    world.shard.stop(world.now());
    world.settle();
    assert_eq!(world.delivered, ["ok"]);
    let (source, _) = world.show();
    assert_eq!(source["garbage_bytes"], 2_000 - 6, "all but the false frame of six bytes, which is rejected");
}

#[test]
fn a_silence_that_the_timer_missed_is_seen_when_bytes_come() {
    let mut world = World::new("end = \"\\r\"\nidle_gap = \"40ms\"\non_idle = \"emit\"", 64 << 20);
    world.receive(b"half");
    world.now_ns += 3 * GAP_NS; // a busy core: nobody looked at the timers
    world.receive(b"whole\r");
    assert_eq!(world.delivered, ["half", "whole"]);
    world.pass(10 * GAP_NS);
    assert_eq!(world.delivered.len(), 2);
    assert_eq!(world.show().1["unended_records"], 1);
}

#[test]
fn without_an_idle_gap_there_is_no_timer() {
    let mut world = World::new("end = \"\\r\"", 64 << 20);
    let before = world.shard.next_deadline();
    world.receive(b"half a record");
    assert_eq!(world.shard.next_deadline(), before);
    world.pass(3_600_000 * MS);
    world.receive(b", and the other half\r");
    assert_eq!(world.delivered, ["half a record, and the other half"]);
}

#[test]
fn what_became_no_record_is_counted_by_reason_and_the_last_of_it_is_kept() {
    let framing = "start = \"0x02\"\nend = \"0x03\"\nchecksum = \"xor8\"\nmax = \"8B\"\noversized = \"drop\"\nidle_gap = \"40ms\"";
    let mut world = World::new(framing, 64 << 20);
    world.receive(b"noi");
    world.receive(b"se\x02ok\x03\x04");
    world.receive(b"\x02ok\x03\x05");
    let long = b"much too long";
    let sum = long.iter().fold(0, |sum, byte| sum ^ byte);
    world.receive(&[b"\x02", &long[..], b"\x03", &[sum]].concat());
    world.receive(b"\x02half");
    world.pass(GAP_NS);
    world.receive(b"\xff\x02\x03\0\x02more");
    world.hang_up();
    assert_eq!(world.delivered, ["ok"]);
    let (source, counters) = world.show();
    let counted = ["garbage_bytes", "rejected_checksum", "rejected_oversized", "rejected_unfinished", "empty_frames"];
    assert_eq!(counted.map(|name| counters[name].as_u64().unwrap()), [13, 1, 1, 2, 1]);
    let samples: Vec<[&str; 3]> = source["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| ["reason", "text", "hex"].map(|key| sample[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        samples,
        [
            ["garbage", "noise", "6e6f697365"],
            ["checksum", "ok", "6f6b"],
            ["oversized", "much too", "6d75636820746f6f"],
            ["garbage", " long\\x03m", "206c6f6e67036d"],
            ["unfinished", "half", "68616c66"],
            ["garbage", "\\xff", "ff"],
            ["unfinished", "more", "6d6f7265"],
        ]
    );
    assert_eq!(source["samples"][0]["at"], "2026-01-02T03:04:05.001000Z");
    assert_eq!(
        (&source["garbage_bytes"], &source["rejected"], &source["received"]),
        (&13.into(), &4.into(), &5.into())
    );
}

#[test]
fn lines_that_end_otherwise_are_a_problem_of_their_source_for_an_hour() {
    let mut world = World::new("end = \"\\r\"", 64 << 20);
    for _ in 0..340 {
        world.receive(b"12.345 mm\r\n");
    }
    assert_eq!(world.show().0["problem"], Value::Null, "what fits is no problem");
    let mut world = World::new("end = \"\\r\"", 64 << 20);
    for number in 0..410 {
        assert_eq!(world.show().0["problem"], Value::Null, "after {number} lines of 10 bytes");
        world.receive(b"12.345 mm\n");
    }
    let problem = world.show().0["problem"].as_str().expect("4 KiB have no end").to_owned();
    assert!(
        problem.contains("no end of a record came in 4096 bytes, but 409 LF: end = \"\\n\" in its framing"),
        "{problem}"
    );
    world.pass(3_599_000 * MS);
    assert_eq!(world.show().0["problem"], problem);
    world.pass(1_001 * MS);
    assert_eq!(world.show().0["problem"], Value::Null);
}

#[test]
fn telnet_and_a_parity_in_bit_7_are_told_of_the_source_that_has_them() {
    let mut world = World::with("kind = \"tcp_connect\"\nconnect = \"127.0.0.1:4001\"", "end = \"\\r\"", 64 << 20);
    world.receive(b"\xff");
    assert_eq!(world.show().0["problem"], Value::Null);
    world.receive(b"\xfd\x2c12.5\r");
    let problem = world.show().0["problem"].clone();
    assert!(problem.as_str().is_some_and(|problem| problem.contains("speaks telnet")), "{problem}");

    let mut world = World::serial("none", 64 << 20);
    let line: Vec<u8> = b"W,+001.234kg\r".iter().map(|byte| byte | ((byte.count_ones() as u8 & 1) << 7)).collect();
    for _ in 0..20 {
        world.receive(&line);
    }
    let problem = world.show().0["problem"].clone();
    let told = |words| problem.as_str().is_some_and(|problem| problem.contains(words));
    assert!(told("strip_bit7 = true") && told("line = \"9600 7E1\""), "{problem}");
    // Where bit 7 is stripped there is nothing to tell.
    let mut world = World::new("end = \"\\r\"\nstrip_bit7 = true", 64 << 20);
    for _ in 0..20 {
        world.receive(&line);
    }
    assert_eq!(world.show().0["problem"], Value::Null);
    assert_eq!(world.delivered, ["W,+001.234kg"; 20]);
}

#[test]
fn an_impossible_length_is_counted_too() {
    let mut world = World::new("start = \":\"\nlength = { bytes = 4 }", 64 << 20);
    world.receive(b":\xff\xff\xff\xff:\0\0\0\x02ok");
    // Behind a wrong length a start alone is no evidence: the next frame has to fit.
    assert!(world.delivered.is_empty());
    world.receive(b":\0\0\0\x04next");
    assert_eq!(world.delivered, ["ok", "next"]);
    let (source, counters) = world.show();
    assert_eq!(counters["rejected_length"], 1);
    assert_eq!((&source["samples"][0]["reason"], &source["samples"][0]["hex"]), (&"length".into(), &"ffffffff".into()));
}

#[test]
fn while_the_journal_is_full_silences_are_told_by_when_bytes_came_and_nothing_is_lost() {
    let mut world = World::new("end = \"\\r\"\nmax = \"64KiB\"\nidle_gap = \"40ms\"\non_idle = \"emit\"", 1 << 20);
    world.answers = false;
    let mut sent = 0;
    let record = |number: usize| format!("{number:06}{}", "x".repeat(60_000));
    while !world.paused {
        world.receive(format!("{}\r", record(sent)).as_bytes());
        sent += 1;
        assert!(sent < 1_000, "the journal is never full");
    }
    // What was under way when reading stopped: two pieces of one record, then a silence, then a whole one and a piece.
    world.receive(b"one ");
    world.now_ns += GAP_NS - 1;
    world.receive(b"record");
    world.now_ns += GAP_NS;
    world.receive(b"another\rlast");
    world.pass(100 * GAP_NS);
    assert_eq!(world.delivered, [""; 0]);
    world.answers = true;
    world.settle();
    assert!(!world.paused, "reading goes on");
    let mut expected: Vec<String> = (0..sent).map(record).collect();
    expected.extend(["one record", "another"].map(str::to_owned));
    assert_eq!(world.delivered.len(), expected.len());
    assert!(world.delivered == expected);
    // The rest of the last one waited in the kernel all the time.
    world.receive(b" words");
    world.pass(GAP_NS);
    assert_eq!(world.delivered.last().unwrap(), "last words");
    let (_, counters) = world.show();
    assert_eq!((&counters["unended_records"], &counters["rejected_full"]), (&2.into(), &0.into()));
}

/// Sends records of 1,000 bytes until the API, which does not answer, has left no room. How many that were.
fn fill(world: &mut World) -> usize {
    world.answers = false;
    let full = |world: &World| world.shard.snapshot(world.now()).journal.problem.is_some();
    let mut sent = 0;
    while !full(world) {
        world.receive(format!("{}\r", numbered(sent)).as_bytes());
        sent += 1;
        assert!(sent < 100_000, "the journal is never full");
    }
    sent
}

fn numbered(number: usize) -> String {
    format!("{number:06}{}", "x".repeat(993))
}

fn numbers(delivered: &[String]) -> Vec<usize> {
    delivered.iter().map(|record| record[..6].parse().unwrap()).collect()
}

#[test]
fn a_line_that_nothing_holds_back_is_read_on_and_what_has_no_room_is_counted_with_a_sample() {
    let mut world = World::serial("none", 4 << 20);
    let filled = fill(&mut world);
    // Less than its share of 64 KiB: nothing is lost yet.
    for number in filled..filled + 60 {
        world.receive(format!("{}\r", numbered(number)).as_bytes());
    }
    let (source, counters) = world.show();
    assert_eq!((&counters["rejected_full"], &source["problem"]), (&0.into(), &Value::Null));
    // Ten times as much, the last record unfinished.
    let sent = filled + 700;
    for number in filled + 60..sent {
        world.receive(format!("{}\r", numbered(number)).as_bytes());
    }
    world.receive(b"half a record");
    assert!(!world.paused && world.holds.is_empty(), "it is read on");
    let (source, counters) = world.show();
    let rejected = counters["rejected_full"].as_u64().unwrap();
    assert!((630..=640).contains(&rejected), "{rejected} of 700 in more than 64 KiB");
    assert!(source["problem"].as_str().unwrap().contains("no flow control"), "{source}");
    let samples = source["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &samples[0]["reason"]), (8, &"full".into()));
    let last: usize = samples[7]["text"].as_str().unwrap()[..6].parse().unwrap();
    assert!((sent - 70..sent).contains(&last), "the youngest of the rejected is kept: {last} of {sent}");

    world.answers = true;
    world.settle();
    world.receive(b" and its end\r");
    assert_eq!(world.delivered.pop().unwrap(), "half a record and its end");
    // A gap in the middle, nothing twice, nothing out of order.
    let rejected = rejected as usize;
    let first = numbers(&world.delivered).iter().zip(0..).take_while(|(found, number)| **found == *number).count();
    assert!(first >= filled - 1, "{first} of {filled}");
    let expected: Vec<usize> = (0..first).chain(first + rejected..sent).collect();
    assert_eq!(numbers(&world.delivered), expected);
    let (source, counters) = world.show();
    assert_eq!((&counters["rejected_full"], &source["problem"]), (&rejected.into(), &Value::Null));
}

#[test]
fn a_line_with_xon_and_xoff_is_held_and_let_go_and_loses_nothing() {
    let mut world = World::serial("xonxoff", 4 << 20);
    let sent = fill(&mut world);
    // The last one found no room.
    world.receive(format!("{}\r", numbered(sent)).as_bytes());
    assert!(world.paused, "reading stops");
    assert_eq!(world.holds, [true], "XOFF, once");
    world.receive(format!("{}\r", numbered(sent + 1)).as_bytes()); // was under way
    assert_eq!(world.holds, [true]);
    world.answers = true;
    world.settle();
    assert!(!world.paused);
    let in_turn: Vec<bool> = (0..world.holds.len()).map(|index| index % 2 == 0).collect();
    assert!(world.holds == in_turn && world.holds.ends_with(&[false]), "{:?}", world.holds);
    assert_eq!(numbers(&world.delivered), (0..sent + 2).collect::<Vec<_>>());
    assert_eq!(world.show().1["rejected_full"], 0);
}

#[test]
fn a_line_with_rts_and_cts_is_held_by_not_being_read() {
    let mut world = World::serial("rtscts", 4 << 20);
    let sent = fill(&mut world);
    world.receive(format!("{}\r", numbered(sent)).as_bytes());
    assert!(world.paused && world.holds.is_empty(), "the tty itself drops RTS");
    world.answers = true;
    world.settle();
    assert!(!world.paused);
    assert_eq!(numbers(&world.delivered), (0..=sent).collect::<Vec<_>>());
}

#[test]
fn what_waited_for_room_in_the_journal_is_measured_from_when_it_was_read() {
    let mut world = World::serial("rtscts", 4 << 20);
    let sent = fill(&mut world) as u64;
    world.receive(format!("{}\r", numbered(sent as usize)).as_bytes());
    assert!(world.paused);
    world.now_ns += 300 * MS;
    world.answers = true;
    world.settle();
    let stages = world.shard.stages();
    let (frame, journaled) = (stages.stage(Stage::Frame), stages.stage(Stage::Journaled));
    assert_eq!((frame.len(), journaled.len()), (sent + 1, sent + 1));
    assert!(journaled.count_between(2, u64::MAX) == 1, "one of them has waited");
    assert!(journaled.max().abs_diff(300 * MS) < 3 * MS, "{}", journaled.max());
    assert!(frame.max() < MS, "its frame ended when it was read: {}", frame.max());
}

#[test]
fn a_line_that_is_lost_while_it_is_held_keeps_what_was_read() {
    for flow in ["none", "xonxoff"] {
        let mut world = World::serial(flow, 4 << 20);
        let sent = fill(&mut world);
        for number in sent..sent + 10 {
            world.receive(format!("{}\r", numbered(number)).as_bytes());
        }
        world.hang_up();
        world.answers = true;
        world.settle();
        assert_eq!(numbers(&world.delivered), (0..sent + 10).collect::<Vec<_>>());
        assert_eq!(world.holds.iter().filter(|hold| !**hold).count(), 0, "a line that is gone is not let go");
    }
}

/// A machine on a serial line with these keys, whose records are shown as text with their flags.
fn told(keys: &str) -> World {
    let source = format!("kind = \"serial\"\npath = \"/dev/ttyS0\"\nfirst = \"keep\"\n{keys}");
    World::with_body(
        &source,
        "end = \"\\r\"\noversized = \"cut\"\nmax = \"8B\"",
        "{{data|json}} {{flags|json}}",
        64 << 20,
    )
}

#[test]
fn text_that_cannot_be_decoded_is_delivered_as_the_policy_says_and_told_for_an_hour() {
    let source_of = |world: &World| world.show().0;
    for (keys, delivered) in [
        ("", Some("\"a\u{fffd}\" [\"undecodable\"]")),
        ("on_undecodable = \"hex\"", Some("\"61ff\" [\"undecodable\"]")),
        ("on_undecodable = \"reject\"", None),
    ] {
        let mut world = told(keys);
        world.receive(b"good\r");
        assert!(source_of(&world)["problem"].is_null());
        world.receive(b"a\xff\xff\r");
        world.receive(b"good\r");
        let expected: Vec<&str> = ["\"good\" []"].into_iter().chain(delivered).chain(["\"good\" []"]).collect();
        assert_eq!(world.delivered, expected, "{keys}");
        let problem = source_of(&world)["problem"].as_str().expect("a problem").to_owned();
        assert!(
            problem.contains("1 record was not text in UTF-8") && problem.contains("encoding = \"big5\""),
            "{problem}"
        );
        let (source, counters) = world.show();
        match delivered {
            Some(_) => assert_eq!(counters["undecodable_records"], 1),
            None => {
                assert_eq!(counters["rejected_undecodable"], 1);
                assert_eq!(
                    (&source["samples"][0]["reason"], &source["samples"][0]["hex"]),
                    (&"undecodable".into(), &"61ff".into())
                );
            }
        }
        world.pass(3_600_000 * MS - 1);
        assert!(!source_of(&world)["problem"].is_null());
        world.pass(1);
        assert!(source_of(&world)["problem"].is_null(), "an hour after the last one it is over");
    }
}

#[test]
fn text_of_the_source_s_encoding_is_what_the_service_gets() {
    for (label, bytes, text) in [
        ("big5", &b"\xb7\xc5\xab\xd7\r"[..], "溫度"),
        ("gbk", b"\xc4\xa4\r", "膜"),
        ("gb18030", b"\x81\x30\x84\x36\r", "\u{a5}"),
        ("shift_jis", b"\x83\x5c\r", "ソ"),
        ("euc-kr", b"\xbf\xc2\xb5\xb5\r", "온도"),
        ("windows-1252", b"\x80\xb0\r", "€°"),
    ] {
        let mut world = told(&format!("encoding = \"{label}\""));
        world.receive(bytes);
        assert_eq!(world.delivered, [format!("\"{text}\" []")], "{label}");
        assert!(world.show().0["problem"].is_null());
    }
}

#[test]
fn a_capture_in_big5_is_the_text_that_the_machine_showed() {
    let mut world = told("encoding = \"big5\"");
    let capture = include_bytes!("../framing/cases/12-big5.bin");
    let source = "kind = \"serial\"\npath = \"/dev/ttyS0\"\nfirst = \"keep\"\nencoding = \"big5\"";
    let mut whole = World::with_body(source, "end = \"\\r\"", "{{data|json}}", 64 << 20);
    whole.receive(capture);
    assert_eq!(whole.delivered, ["\"許功蓋,溫度過高,NG\""]);
    // Cut between two characters, it is text as well.
    world.receive(capture);
    assert_eq!(world.delivered, ["\"許功蓋,\u{fffd}\" [\"cut\",\"undecodable\"]"]);
}

#[test]
fn an_end_of_utf_16_begins_at_an_even_place_wherever_its_bytes_come_apart() {
    let source = "kind = \"serial\"\npath = \"/dev/ttyS0\"\nfirst = \"keep\"\nencoding = \"utf-16le\"";
    let framing = "end = \"0x0D00\"\ntrim = false";
    // U+0D61 U+0100 has the end's bytes between its two characters.
    let bytes = b"\x61\x0d\x00\x01\x0d\x00b\0\x0d\x00";
    for split in 0..bytes.len() {
        let mut world = World::with_body(source, framing, "{{data|json}}", 64 << 20);
        world.receive(&bytes[..split]);
        world.receive(&bytes[split..]);
        assert_eq!(world.delivered, ["\"\u{d61}\u{100}\"", "\"b\""], "{split}");
    }
}

#[test]
fn a_body_without_text_asks_for_no_encoding() {
    let mut world = World::with_body(
        "kind = \"serial\"\npath = \"/dev/ttyS0\"\nfirst = \"keep\"",
        "end = \"\\r\"",
        "{{data|hex}}",
        64 << 20,
    );
    world.receive(b"a\xff\xff\r");
    assert_eq!(world.delivered, ["61ff"]);
    assert!(world.show().0["problem"].is_null());
}

#[test]
fn a_record_with_a_line_error_is_rejected_where_there_is_a_parity_and_else_flagged() {
    // PARMRK: FF 00 and the byte that came with an error; FF 00 00 is a break.
    let broken = b"a\xff\x00bc\rgood\r\xff\x00\x00d\rlonger than it may be\r";
    for (keys, expected) in [
        ("line = \"9600 8E1\"", &["\"good\" []", "\"longer t\" [\"cut\"]"][..]),
        (
            "line = \"9600 8N1\"",
            &["\"abc\" [\"line-error\"]", "\"good\" []", "\"d\" [\"break\"]", "\"longer t\" [\"cut\"]"],
        ),
        (
            "line = \"9600 8E1\"\non_line_error = \"deliver\"",
            &["\"abc\" [\"line-error\"]", "\"good\" []", "\"d\" [\"break\"]", "\"longer t\" [\"cut\"]"],
        ),
    ] {
        let mut world = told(keys);
        world.receive(broken);
        assert_eq!(world.delivered, expected, "{keys}");
        let (source, counters) = world.show();
        assert_eq!(counters["rejected_line_error"], 4 - expected.len() as u64, "{keys}");
        if expected.len() == 2 {
            let samples = source["samples"].as_array().expect("samples");
            let shown: Vec<_> = samples.iter().map(|sample| (&sample["text"], &sample["flags"][0])).collect();
            assert_eq!(shown, [(&"abc".into(), &"line-error".into()), (&"d".into(), &"break".into())]);
        }
    }
}

#[test]
fn a_record_that_is_not_json_is_rejected_where_json_is_promised() {
    let source = "kind = \"serial\"\npath = \"/dev/ttyS0\"\nfirst = \"keep\"\ndata_is = \"json\"";
    let mut world = World::with_body(source, "end = \"\\r\"", "{{data}}", 64 << 20);
    world.receive(b"{\"a\": 1}\r{\"a\": 1\r5\rnot\r{\"a\": \"\xb7\xc5\"}\r");
    assert_eq!(world.delivered, ["{\"a\": 1}", "5"]);
    let (source, counters) = world.show();
    assert_eq!(counters["rejected_not_json"], 3);
    assert_eq!(source["samples"][1]["reason"], "not_json");
}

#[test]
fn a_search_goes_on_turn_by_turn_without_another_byte() {
    let framing = "start = \"0x02\"\nlength = { offset = 1, bytes = 1 }\nchecksum = \"crc16-modbus\"\nmax = \"64B\"";
    let mut world = World::new(framing, 64 << 20);
    // Each byte is a start, and the frame at the end is found though nothing comes behind it.
    let message = [2, 2, b'o', b'k'];
    let crc = message[1..].iter().fold(0xFFFFu16, |state, byte| {
        (0..8).fold(state ^ u16::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * 0xA001))
    });
    world.receive(&[&[2; 2_000][..], &message, &crc.to_le_bytes()].concat());
    for _ in 0..1_000 {
        if !world.delivered.is_empty() {
            break;
        }
        assert!(world.shard.next_deadline().is_some(), "it does not sleep");
        world.pass(1);
    }
    assert_eq!(world.delivered, ["ok"]);
    world.receive(&[&message[..], &crc.to_le_bytes()].concat());
    assert_eq!(world.delivered, ["ok", "ok"], "it is read again");
}
