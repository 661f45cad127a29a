//! The load: machines on TCP, HTTP or ptys that send 64-byte records.
//!
//! Without `--rate` it saturates: each machine has up to `--window` records on their way, counted until they arrive at the
//! receiver, so that whatever is in between is the bottleneck and never builds a backlog. With `--rate` the records have a
//! schedule, which stands in them: who is late is late from then on (no coordinated omission).
//!
//! It connects, says so on the board, waits for the word to go, and ends at SIGTERM once what was sent has arrived (or
//! after 10 s). Then it prints one line of JSON.
#![allow(unsafe_code)] // sends from memory that stays in place

use clap::{ArgGroup, Parser};
use ringest_bench::board::{Board, Word};
use ringest_bench::process::{exact_timers, now_ns, raise_open_files, stop_signal, usage};
use ringest_bench::record::{self, BYTES, END, Record};
use ringest_bench::ring::{self, Cqe, Kind, Ring, Tag};
use ringest_bench::times::Times;
use ringest_bench::{http, net, pty, tls};
use rustls::ClientConnection;
use serde_json::json;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Records of a TCP machine that may be on their way with `--rate`.
const SLOTS_AT_RATE: usize = 16;
const DRAIN: Duration = Duration::from_secs(10);
/// How long a machine waits after another answer than 2xx.
const REFUSED_WAIT_NS: u64 = 50_000_000;
const KEY_BYTES: usize = 15;

/// Machines that send 64-byte records.
#[derive(Parser)]
#[command(group(ArgGroup::new("to").required(true).args(["tcp", "http", "ports"])))]
struct Arguments {
    /// Send over TCP connections to this address
    #[arg(long)]
    tcp: Option<SocketAddr>,
    /// Send by HTTP POST on kept-alive connections to this address
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Over TLS; the server's certificate is signed by one in this file of PEM
    #[arg(long, requires = "http")]
    tls_ca: Option<PathBuf>,
    /// The target of the POST; the machine's name is appended
    #[arg(long, default_value = "/v1/records/")]
    target: String,
    /// Make ptys with symlinks machine-0000 … in this directory
    #[arg(long)]
    ports: Option<PathBuf>,
    /// How many machines
    #[arg(long)]
    machines: usize,
    /// The number of the first one; others may be another load's
    #[arg(long, default_value_t = 0)]
    first_machine: usize,
    /// End at once, also while what was sent has not arrived
    #[arg(long)]
    no_drain: bool,
    /// Shared memory in which arrivals are counted
    #[arg(long)]
    board: PathBuf,
    /// Records of a machine that may be on their way
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Records in one write (TCP)
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Records a second of all machines together, on a schedule
    #[arg(long)]
    rate: Option<f64>,
    /// End records with a line feed rather than a carriage return
    #[arg(long)]
    line_feed: bool,
    /// Write the times from schedule to a machine's 201 to this file, as an HdrHistogram interval log
    #[arg(long)]
    histogram_log: Option<PathBuf>,
    /// Longest sleep while saturating
    #[arg(long, default_value_t = 200)]
    tick_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Http,
    Pty,
}

#[derive(Default)]
struct Machine {
    fd: RawFd,
    /// Records sent, which is the next sequence.
    sent: u64,
    /// Records due that were not sent yet, with `--rate`.
    due: VecDeque<u64>,
    /// HTTP: a request is unanswered; its record was scheduled then.
    asked: Option<u64>,
    /// HTTP: the request is sent again at this time.
    again_at: Option<u64>,
    /// HTTP: part of an answer. Pty: what the port had no room for.
    rest: Vec<u8>,
    lost: bool,
    /// Over TLS: its session, and the sealed bytes on their way.
    session: Option<Box<ClientConnection>>,
    sealed: Vec<u8>,
}

struct Load {
    way: Way,
    ring: Ring,
    board: Board,
    machines: Vec<Machine>,
    first: usize,
    /// Slots of all machines one after the other; a slot is rewritten only when its records have arrived.
    memory: &'static mut [u8],
    slot_bytes: usize,
    slots: usize,
    batch: usize,
    window: u64,
    /// Where record and key stand in an HTTP request.
    record_at: usize,
    key_at: usize,
    accepted: Times,
    end: u8,
    refused: u64,
    lost: u64,
    stop: bool,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let signal = stop_signal()?;
    raise_open_files();
    exact_timers();
    let mut load = Load::new(&arguments)?;
    load.ring.poll(signal, Tag::new(Kind::Stop, 0));
    load.connect(&arguments)?;
    println!("{{\"ready\": {}}}", arguments.machines);
    load.board.store(Word::Ready, 1);
    let mut batch = Vec::new();
    while load.board.load(Word::Go) == 0 && !load.stop {
        load.step(&mut batch, 1, Duration::from_millis(2));
    }
    match arguments.rate {
        Some(rate) => load.run_at_rate(rate, &mut batch),
        None => load.run_saturated(&mut batch, Duration::from_micros(arguments.tick_us)),
    }
    let deadline = Instant::now() + if arguments.no_drain { Duration::ZERO } else { DRAIN };
    while Instant::now() < deadline && load.board.load(Word::Arrived) < load.board.load(Word::Sent) {
        load.retry();
        load.step(&mut batch, 1, Duration::from_millis(1));
    }
    load.accepted.save(now_ns())?;
    println!("{}", load.report());
    Ok(())
}

/// What goes over a machine's connection for these bytes.
fn sealed<'b>(session: &mut Option<Box<ClientConnection>>, out: &'b mut Vec<u8>, bytes: &'b [u8]) -> &'b [u8] {
    match session {
        Some(session) => {
            tls::seal(session, bytes, out).expect("a session that is open");
            out
        }
        None => bytes,
    }
}

impl Load {
    fn new(arguments: &Arguments) -> io::Result<Self> {
        let way = match (arguments.tcp, arguments.http) {
            (Some(_), _) => Way::Tcp,
            (_, Some(_)) => Way::Http,
            _ => Way::Pty,
        };
        let board = Board::open(&arguments.board)?;
        assert!(arguments.first_machine + arguments.machines <= board.machines(), "the board is too small");
        assert!(arguments.batch > 0 && arguments.window >= arguments.batch, "a window holds at least one write");
        let slots = match (way, arguments.rate) {
            (Way::Tcp, Some(_)) => SLOTS_AT_RATE,
            (Way::Tcp, None) => arguments.window.div_ceil(arguments.batch),
            _ => 1,
        };
        let mut load = Self {
            way,
            ring: Ring::new(1024, 2048)?,
            board,
            machines: Vec::new(),
            first: arguments.first_machine,
            memory: &mut [],
            slot_bytes: arguments.batch * (BYTES + 1),
            slots,
            batch: if way == Way::Tcp { arguments.batch } else { 1 },
            window: arguments.window as u64,
            record_at: 0,
            key_at: 0,
            accepted: Times::new(arguments.histogram_log.as_deref(), "accepted"),
            end: if arguments.line_feed { b'\n' } else { END },
            refused: 0,
            lost: 0,
            stop: false,
        };
        let requests = arguments.http.map(|to| load.prepare_requests(arguments, to));
        load.memory = ring::pages(load.slot_bytes * load.slots * arguments.machines)?;
        if let Some(requests) = requests {
            for (slot, request) in load.memory.chunks_exact_mut(load.slot_bytes).zip(requests) {
                slot.copy_from_slice(&request);
            }
        }
        Ok(load)
    }

    /// The requests of all machines, with room for key and record.
    fn prepare_requests(&mut self, arguments: &Arguments, to: SocketAddr) -> Vec<Vec<u8>> {
        let (key, body) = ("0".repeat(KEY_BYTES), "R".repeat(BYTES));
        let request = |index: usize| {
            let index = arguments.first_machine + index;
            let name = format!("{}machine-{index:05}", arguments.target);
            http::request(&name, &to.to_string(), &key, &body)
        };
        let first = request(0);
        self.slot_bytes = first.len();
        self.record_at = first.len() - BYTES;
        let name = b"Idempotency-Key: ";
        self.key_at = first.windows(name.len()).position(|at| at == name).expect("written above") + name.len();
        (0..arguments.machines).map(request).collect()
    }

    fn connect(&mut self, arguments: &Arguments) -> io::Result<()> {
        let tls = arguments.tls_ca.as_deref().map(tls::client).transpose()?;
        for index in 0..arguments.machines {
            let fd = match (arguments.tcp.or(arguments.http), &arguments.ports) {
                (Some(to), _) => net::connect(to)?,
                (None, Some(dir)) => pty::create(&dir.join(format!("machine-{index:04}")))?,
                (None, None) => unreachable!("one of the group is required"),
            };
            let session = match (&tls, arguments.http) {
                (Some(tls), Some(to)) => {
                    // SAFETY: it was connected above, and nothing else has it yet.
                    Some(Box::new(unsafe { tls::shake_hands(tls, to.ip(), fd) }?))
                }
                _ => None,
            };
            if self.way == Way::Http {
                self.ring.receive(fd, Tag::new(Kind::Machine, index));
            }
            self.machines.push(Machine { fd, session, ..Machine::default() });
        }
        Ok(())
    }

    /// Submits, waits, handles what came.
    fn step(&mut self, batch: &mut Vec<Cqe>, wanted: usize, limit: Duration) {
        self.ring.wait_up_to(wanted, limit);
        self.ring.take(batch);
        for cqe in batch.drain(..) {
            match cqe.tag.kind {
                Kind::Stop => self.stop = true,
                Kind::Machine => self.answered(cqe),
                Kind::Send => self.lose(cqe.tag.index), // only failures are told
                kind => unreachable!("{kind:?} is never submitted here"),
            }
        }
    }

    fn lose(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if !std::mem::replace(&mut machine.lost, true) {
            self.lost += 1;
        }
    }

    fn answered(&mut self, cqe: Cqe) {
        let index = cqe.tag.index;
        if let Some(id) = cqe.buffer() {
            let bytes = self.ring.bytes(id, cqe.result.max(0) as usize);
            let machine = &mut self.machines[index];
            let is_read = match &mut machine.session {
                Some(session) => tls::open(session, bytes, &mut machine.rest).is_ok(),
                None => {
                    machine.rest.extend_from_slice(bytes);
                    true
                }
            };
            self.ring.give_back(id);
            if !is_read {
                return self.lose(index);
            }
            match http::parse(&machine.rest) {
                Err(http::Error::Unfinished) => {}
                Err(http::Error::Malformed) => self.lose(index),
                Ok(message) => {
                    let success = message.start.get(9) == Some(&b'2');
                    machine.rest.clear();
                    let scheduled_ns = machine.asked.take();
                    let now_ns = now_ns();
                    if success {
                        self.board.add(Word::Accepted, 1);
                        if let (1, Some(scheduled_ns)) = (self.board.load(Word::Phase), scheduled_ns) {
                            self.accepted.record(scheduled_ns, now_ns);
                        }
                    } else {
                        self.refused += 1;
                        machine.asked = scheduled_ns;
                        machine.again_at = Some(now_ns + REFUSED_WAIT_NS);
                    }
                }
            }
        }
        if !cqe.more() {
            if cqe.result > 0 || cqe.result == -libc::ENOBUFS {
                self.ring.receive(self.machines[index].fd, cqe.tag);
            } else {
                self.lose(index);
            }
        }
    }

    /// Sends refused requests again, and what a port had no room for.
    fn retry(&mut self) {
        let now_ns = now_ns();
        for index in 0..self.machines.len() {
            let machine = &mut self.machines[index];
            if machine.again_at.is_some_and(|at| at <= now_ns) {
                machine.again_at = None;
                let bytes = &self.memory[index * self.slot_bytes..][..self.slot_bytes];
                let bytes = sealed(&mut machine.session, &mut machine.sealed, bytes);
                // SAFETY: a machine has one slot, rewritten only when its request was answered.
                unsafe { self.ring.send(machine.fd, bytes, true, Tag::new(Kind::Send, index)) };
            }
            if self.way == Way::Pty && !machine.rest.is_empty() {
                let written = pty::write(machine.fd, &machine.rest).unwrap_or(0);
                machine.rest.drain(..written);
            }
        }
    }

    /// Whether a machine may send `records` more within `window`.
    fn may_send(&self, index: usize, records: u64, window: u64) -> bool {
        let machine = &self.machines[index];
        let free = machine.asked.is_none() && !machine.lost && (self.way != Way::Pty || machine.rest.is_empty());
        free && machine.sent + records <= self.board.arrived(self.first + index) + window
    }

    fn run_saturated(&mut self, batch: &mut Vec<Cqe>, tick: Duration) {
        let records = self.batch as u64;
        // Answers come one by one: let some come together, where there are others to come.
        let wanted = if self.way == Way::Http { 64.min(self.machines.len()) } else { 1 };
        while !self.stop {
            let now_ns = now_ns();
            for index in 0..self.machines.len() {
                if self.may_send(index, records, self.window) {
                    self.send(index, self.batch, now_ns);
                }
            }
            if self.refused > 0 || self.way == Way::Pty {
                self.retry();
            }
            self.step(batch, wanted, tick);
        }
    }

    fn run_at_rate(&mut self, rate: f64, batch: &mut Vec<Cqe>) {
        let interval_ns = 1e9 / rate;
        let start_ns = now_ns() + 1_000_000;
        let mut number = 0_u64;
        // Over TCP a slot is free when its record has arrived; the other ways look at their own answer or room.
        let window = if self.way == Way::Tcp { self.slots as u64 } else { u64::MAX / 2 };
        let mut behind: Vec<usize> = Vec::new();
        while !self.stop {
            let now_ns = now_ns();
            loop {
                let due_ns = start_ns + (number as f64 * interval_ns) as u64;
                if due_ns > now_ns {
                    break;
                }
                let index = number as usize % self.machines.len();
                self.machines[index].due.push_back(due_ns);
                behind.push(index);
                number += 1;
            }
            behind.retain(|index| {
                if !self.may_send(*index, 1, window) {
                    return true;
                }
                let scheduled_ns = self.machines[*index].due.pop_front().expect("listed once for each record due");
                self.send(*index, 1, scheduled_ns);
                false
            });
            if self.refused > 0 || self.way == Way::Pty {
                self.retry();
            }
            let next_ns = start_ns + (number as f64 * interval_ns) as u64;
            let limit = if behind.is_empty() { 10_000_000 } else { 200_000 };
            let sleep_ns = next_ns.saturating_sub(ringest_bench::process::now_ns()).min(limit);
            self.step(batch, 1, Duration::from_nanos(sleep_ns));
        }
    }

    fn send(&mut self, index: usize, records: usize, scheduled_ns: u64) {
        let machine = &mut self.machines[index];
        let number = self.first + index;
        let record = |i: usize| Record { machine: number as u32, sequence: machine.sent + i as u64, scheduled_ns };
        let slot = (machine.sent as usize / records) % self.slots;
        let bytes = &mut self.memory[(index * self.slots + slot) * self.slot_bytes..][..self.slot_bytes];
        let bytes = if self.way == Way::Http {
            let out = bytes[self.record_at..].first_chunk_mut().expect("the record ends the request");
            record::write(out, record(0));
            let mut key = machine.sent * 1_000_000 + number as u64;
            for digit in bytes[self.key_at..][..KEY_BYTES].iter_mut().rev() {
                *digit = b'0' + (key % 10) as u8;
                key /= 10;
            }
            machine.asked = Some(scheduled_ns);
            sealed(&mut machine.session, &mut machine.sealed, bytes)
        } else {
            let bytes = &mut bytes[..records * (BYTES + 1)];
            for (i, line) in bytes.chunks_exact_mut(BYTES + 1).enumerate() {
                record::write(line.first_chunk_mut().expect("a line is longer than a record"), record(i));
                line[BYTES] = self.end;
            }
            &*bytes
        };
        machine.sent += records as u64;
        self.board.add(Word::Sent, records as u64);
        if self.way == Way::Pty {
            match pty::write(machine.fd, bytes) {
                Ok(written) => machine.rest.extend_from_slice(&bytes[written..]),
                Err(_) => self.lose(index),
            }
        } else {
            // SAFETY: the slot is rewritten only when its records have arrived or its request was answered.
            unsafe { self.ring.send(machine.fd, bytes, true, Tag::new(Kind::Send, index)) };
        }
    }

    fn report(&self) -> serde_json::Value {
        json!({
            "sent": self.board.load(Word::Sent),
            "arrived": self.board.load(Word::Arrived),
            "accepted": self.board.load(Word::Accepted),
            "refused": self.refused,
            "lost": self.lost,
            "behind": self.machines.iter().map(|machine| machine.due.len()).sum::<usize>(),
            "enters": self.ring.enters,
            "accepted_us": self.accepted.report(),
            "usage": usage(),
        })
    }
}
