//! The sans-IO shard on a fixed trace, for a count of its instructions: `bench/instructions` runs it under callgrind, which counts
//! what happens inside of [`measured`].
//!
//! 256 machines send 64-byte records; a turn has one record of each of 32 of them, and the answers to the requests of the turn before.
//! Disk and network are this program: they answer at once and keep nothing.

use ringest::config;
use ringest::ground::SegmentNumber;
use ringest::ground::secrets::Allocator;
use ringest::journal::{self, BlockFile, BlockMemory, LeftBlocks, Storage};
use ringest::shard::{Completion, CoreId, Fd, LinkId, Now, Op, Setup, Shard, SourceId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// That of the real program.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const MACHINES: usize = 256;
const RECORDS_A_TURN: usize = 32;
const TURNS: usize = 1000;
const TURN_NS: u64 = 300_000;
/// Descriptors of machines begin here, those of the API's connections behind them.
const MACHINE_FD: i32 = 10;
const API_FD: i32 = 10_000;

/// Holds what an open journal wants to read again, and nothing else.
#[derive(Default)]
struct NoDisk {
    epochs: BTreeMap<u64, Vec<u8>>,
}

impl Storage for NoDisk {
    fn boot_id(&self) -> [u8; 16] {
        [7; 16]
    }
    fn random(&mut self) -> u128 {
        0x0123_4567_89ab_cdef_0123_4567_89ab_cdef
    }
    fn physical_block(&self) -> u32 {
        4096
    }
    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        Ok(Vec::new())
    }
    fn read_segment(&mut self, _segment: SegmentNumber, _into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn write_segment(&mut self, _segment: SegmentNumber, _offset: u32, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn sync_segment(&mut self, _segment: SegmentNumber) -> io::Result<()> {
        Ok(())
    }
    fn keep_segment(&mut self, _segment: SegmentNumber) -> io::Result<()> {
        Ok(())
    }
    fn replace_segment(&mut self, _segment: SegmentNumber, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn free_segment(&mut self, _segment: SegmentNumber) -> io::Result<()> {
        Ok(())
    }
    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        Ok(self.epochs.iter().map(|(number, bytes)| (*number, bytes.clone())).collect())
    }
    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()> {
        self.epochs.insert(epoch, bytes.to_vec());
        Ok(())
    }
    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()> {
        self.epochs.remove(&epoch);
        Ok(())
    }
    fn open_blocks(&mut self, _name: &str) -> io::Result<Option<LeftBlocks>> {
        Ok(None)
    }
    fn create_blocks(&mut self, _name: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        Ok(Rc::new(BlockMemory::heap(bytes)))
    }
    fn remove_blocks(&mut self, _name: &str) -> io::Result<()> {
        Ok(())
    }
    fn quarantine(&mut self, name: &str, _bytes: &[u8]) -> io::Result<()> {
        panic!("nothing was damaged, but {name} is");
    }
}

/// How the machines send, and how the API is asked.
struct Case {
    http: bool,
    two_step: bool,
    depth: usize,
}

fn case(name: &str) -> Option<Case> {
    let (http, two_step, depth) = match name {
        "tcp" => (false, false, 1),
        "tcp-by-8" => (false, false, 8),
        "tcp-two-step" => (false, true, 1),
        "http" => (true, false, 1),
        _ => return None,
    };
    Some(Case { http, two_step, depth })
}

fn settings(case: &Case) -> config::Settings {
    let kind = if case.http { "http" } else { "tcp_listen" };
    let lane = if case.http { "" } else { "lane = \"connection\"\n" };
    let (sequence, id) = match case.two_step {
        true => ("[sequence]\nurl = \"http://127.0.0.1:9/seq/\"\nid_at = \"/id\"", "\"id\": {{id}}, "),
        false => ("", ""),
    };
    let text = format!(
        "[journal]\ndurability = \"process\"\n[[source]]\nname = \"machines\"\nkind = \"{kind}\"\nlisten = \"127.0.0.1:4001\"\n{lane}{sequence}\n[deliver]\n\
         url = \"http://127.0.0.1:9/films/\"\nbody = '{{{id}\"machine\": {{{{source|json}}}}, \"data\": {{{{data|json}}}}}}'\n\
         connections = {}\npipeline = {}\n",
        RECORDS_A_TURN / case.depth,
        case.depth
    );
    config::parse(&text, "trace").unwrap_or_else(|problems| panic!("{problems}"))
}

/// The shard and the world that answers it.
struct World {
    shard: Shard,
    mono_ns: u64,
    /// Completions of the next turn.
    sent: VecDeque<(LinkId, Vec<u8>)>,
    /// With the number of requests, and whether they ask for ids.
    answers: VecDeque<(LinkId, usize, bool)>,
    others: VecDeque<Completion<'static>>,
    machines: Vec<LinkId>,
    connections: i32,
    id: u64,
    answer: Vec<u8>,
    /// Requests answered, of the records' step.
    delivered: usize,
    two_step: bool,
}

impl World {
    fn new(case: &Case) -> Self {
        let settings = settings(case);
        let options = journal::Options::new(&settings.journal, CoreId(0), 1);
        let journal = journal::open(&mut NoDisk::default(), &options).expect("a new journal");
        let mono_ns = 1_000_000_000;
        let shard = Shard::new(Setup {
            settings: Arc::new(settings),
            core: CoreId(0),
            cores: 1,
            sources: vec![SourceId(0)],
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 1,
            now: now(mono_ns),
        });
        let (sent, answers, others) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (machines, answer) = (Vec::with_capacity(MACHINES), Vec::new());
        let (connections, id, delivered, two_step) = (0, 0, 0, case.two_step);
        Self { shard, mono_ns, sent, answers, others, machines, connections, id, answer, delivered, two_step }
    }

    fn start(&mut self) {
        self.shard.start(now(self.mono_ns));
        self.carry();
        for machine in 0..MACHINES as u16 {
            let peer = ([127, 0, 0, 1], 20_000 + machine).into();
            let fd = Fd(MACHINE_FD + i32::from(machine));
            self.shard.handle(now(self.mono_ns), Completion::Accepted { source: SourceId(0), fd, peer });
        }
        self.turn();
        assert_eq!(self.machines.len(), MACHINES);
    }

    /// What the driver does in a turn: completions, the end of the turn, operations.
    fn turn(&mut self) {
        let now = now(self.mono_ns);
        for completion in std::mem::take(&mut self.others) {
            self.shard.handle(now, completion);
        }
        for (link, bytes) in std::mem::take(&mut self.sent) {
            self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
        }
        for (link, requests, ask_ids) in std::mem::take(&mut self.answers) {
            self.answer.clear();
            for _ in 0..requests {
                if ask_ids {
                    self.id += 1;
                    let body = format!("{{\"id\": {}}}", 1_000_000_000 + self.id);
                    self.answer.extend_from_slice(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n",
                    );
                    self.answer.extend_from_slice(body.as_bytes());
                } else {
                    self.answer.extend_from_slice(
                        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                    );
                    self.delivered += 1;
                }
            }
            self.shard.handle(now, Completion::Received { link, bytes: &mut self.answer });
        }
        self.shard.turn(now);
        self.carry();
        self.mono_ns += TURN_NS;
    }

    fn carry(&mut self) {
        while let Some(op) = self.shard.poll_op() {
            match op {
                Op::Recv { link, fd, .. } if fd.0 < API_FD => self.machines.push(link),
                Op::Accept { .. } | Op::AcceptOne { .. } | Op::Recv { .. } => {}
                Op::Connect { link, .. } => {
                    let result = Ok(Fd(API_FD + self.connections));
                    self.connections += 1;
                    self.others.push_back(Completion::Connected { link, result });
                }
                Op::Send { link, fd, bytes } => {
                    if fd.0 >= API_FD {
                        let requests = memchr::memmem::find_iter(&bytes, b"POST /").count();
                        self.answers.push_back((link, requests, bytes.starts_with(b"POST /seq/")));
                    }
                    self.sent.push_back((link, bytes));
                }
                Op::Journal { journal, op: journal::Op::PrepareSegment { segment, .. } } => {
                    self.others.push_back(Completion::Journal {
                        journal,
                        completion: journal::Completion::SegmentPrepared { segment, result: Ok(()) },
                    });
                }
                Op::Journal { journal, op: journal::Op::Commit { segment, offset, .. } } => {
                    self.others.push_back(Completion::Journal {
                        journal,
                        completion: journal::Completion::Committed { segment, offset, result: Ok(()) },
                    });
                }
                Op::Journal { journal, op: journal::Op::SyncSegment { segment } } => {
                    self.others.push_back(Completion::Journal {
                        journal,
                        completion: journal::Completion::SegmentSynced { segment, result: Ok(()) },
                    });
                }
                Op::Journal { journal, op: journal::Op::FreeSegment { segment, .. } } => {
                    self.others.push_back(Completion::Journal {
                        journal,
                        completion: journal::Completion::SegmentFreed { segment, result: Ok(()) },
                    });
                }
                op => panic!("{op:?} is no part of the trace"),
            }
        }
    }
}

fn now(mono_ns: u64) -> Now {
    Now { mono_ns, wall_ns: 1_700_000_000_000_000_000 + mono_ns }
}

/// What is read of each machine: a record, or a request with one.
fn received(case: &Case) -> Vec<Vec<u8>> {
    let record = |machine: usize| format!("R{machine:04} 12.345 mm 0.998 ok {}", "x".repeat(39));
    let bytes = |machine: usize| {
        let record = record(machine);
        assert_eq!(record.len(), 64);
        match case.http {
            true => format!(
                "POST /v1/records/machine-{machine:04} HTTP/1.1\r\nHost: 127.0.0.1:4001\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n{record}"
            ),
            false => record + "\r",
        }
        .into_bytes()
    };
    (0..MACHINES).map(bytes).collect()
}

/// The part of the trace that is counted.
#[inline(never)]
fn measured(world: &mut World, received: &mut [Vec<u8>], turns: usize) {
    run(world, received, turns);
}

fn run(world: &mut World, received: &mut [Vec<u8>], turns: usize) {
    for turn in 0..turns {
        for nth in 0..RECORDS_A_TURN {
            let machine = (turn * RECORDS_A_TURN + nth) % MACHINES;
            let link = world.machines[machine];
            world.shard.handle(now(world.mono_ns), Completion::Received { link, bytes: &mut received[machine] });
        }
        // Depth 1 with an id step takes two turns a record.
        for _ in 0..=usize::from(world.two_step) {
            world.turn();
        }
    }
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(case) = case(&name) else {
        eprintln!("usage: shard tcp|tcp-by-8|tcp-two-step|http");
        std::process::exit(2);
    };
    let mut world = World::new(&case);
    world.start();
    let mut received = received(&case);
    run(&mut world, &mut received, TURNS / 2);
    let before = world.delivered;
    measured(&mut world, &mut received, TURNS);
    let records = world.delivered - before;
    assert_eq!(records, TURNS * RECORDS_A_TURN, "each record was delivered");
    println!("{records}");
}
