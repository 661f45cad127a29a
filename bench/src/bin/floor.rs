//! The floors: what a bare io_uring program pays for the same work on the same machine. No framing, no journal, no order,
//! no checks: bytes from a machine are a record, bytes from the API are answers.
//!
//! `pass` takes records from machines (TCP, HTTP or ptys, or makes them up) and posts them (or counts them); `commit` writes
//! blocks with O_DIRECT | O_DSYNC. Each ends at SIGTERM with one line of JSON.
#![allow(unsafe_code)] // sends from memory that stays in place

use clap::{Args, Parser, Subcommand};
use hdrhistogram::Histogram;
use ringest_bench::board::Board;
use ringest_bench::http::{ACCEPTED, CREATED, ID_ANSWER_BYTES, ID_DIGITS, ID_HEAD};
use ringest_bench::process::{raise_open_files, stop_signal, usage};
use ringest_bench::record::{self, BYTES, Record};
use ringest_bench::ring::{self, Cqe, Kind, Ring, Tag};
use ringest_bench::{disk, http, net, pty, tls};
use rustls::{ServerConfig, ServerConnection};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What bare io_uring programs pay for the gateway's work.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records in, POST out
    Pass(Pass),
    /// Synchronous writes of blocks, one at a time
    Commit(Commit),
}

#[derive(Args)]
struct Pass {
    /// Take records from TCP machines that connect here
    #[arg(long, group = "from")]
    tcp: Option<SocketAddr>,
    /// Take records from HTTP machines that connect here
    #[arg(long, group = "from")]
    http: Option<SocketAddr>,
    /// Over TLS, with this certificate and key (PEM)
    #[arg(long, num_args = 2, value_names = ["CERTIFICATE", "KEY"], requires = "http")]
    tls: Option<Vec<PathBuf>>,
    /// Take records from the ports in this directory
    #[arg(long, group = "from")]
    ports: Option<PathBuf>,
    /// How many machines there are
    #[arg(long, default_value_t = 0)]
    machines: usize,
    /// Post them here; without it they are counted
    #[arg(long)]
    post: Option<SocketAddr>,
    /// Connections to the API
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests on a connection in one send
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Fetch an id before each record
    #[arg(long)]
    id_step: bool,
    /// Shared memory in which records are counted that are not posted
    #[arg(long)]
    board: PathBuf,
    /// Switch TCP_QUICKACK off on accepted connections
    #[arg(long)]
    no_quickack: bool,
    /// Minimal wait of the ring
    #[arg(long)]
    min_wait_us: Option<u64>,
    /// Provided buffers, a power of two
    #[arg(long, default_value_t = 1024)]
    buffers: u16,
    /// Size of each
    #[arg(long, default_value_t = 4096)]
    buffer_bytes: usize,
}

#[derive(Args)]
struct Commit {
    /// The file to write, on the file system to measure
    #[arg(long)]
    file: PathBuf,
    /// Bytes of a commit, a multiple of 4096
    #[arg(long, default_value_t = 16_384)]
    bytes: usize,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

fn main() -> io::Result<()> {
    let report = match Arguments::parse().command {
        Command::Pass(pass) => Floor::run(&pass)?,
        Command::Commit(commit) => run_commit(&commit)?,
    };
    println!("{report}");
    Ok(())
}

/// What a connection to the API waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    Ids,
    Records,
}

/// A connection to the API. Its requests are rendered once; only records (and ids) are copied into them. They are not
/// touched before the answers to all of them came.
struct Api {
    fd: RawFd,
    requests: &'static mut [u8],
    id_requests: &'static [u8],
    held: usize,
    waiting: Waiting,
    answers: Vec<u8>,
    answered_bytes: usize,
}

struct Floor {
    ring: Ring,
    board: Board,
    machines: Vec<Machine>,
    /// Sessions of machines, by their index.
    sessions: Vec<Session>,
    tls: Option<Arc<ServerConfig>>,
    plain: Vec<u8>,
    reads_tty: bool,
    answers_machines: bool,
    delays_acks: bool,
    apis: Vec<Api>,
    idle: Vec<usize>,
    records: VecDeque<[u8; BYTES]>,
    /// Without machines the same record is posted for ever.
    makes_up: Option<[u8; BYTES]>,
    request_bytes: usize,
    id_request_bytes: usize,
    record_at: usize,
    id_at: Option<usize>,
    depth: usize,
    taken: u64,
    posted: u64,
    completions: u64,
    sends: u64,
    wakes: u64,
    stopping: bool,
}

/// The TLS of a machine, and the sealed bytes on their way to it.
struct Session {
    connection: ServerConnection,
    sealed: [Vec<u8>; 2],
}

#[derive(Clone, Copy)]
struct Machine {
    fd: RawFd,
    /// Its place on the board, read from its first record where records are only counted.
    number: Option<usize>,
    /// Bytes of a record that is not whole yet.
    partial: [u8; BYTES],
    partial_bytes: usize,
}

impl Floor {
    fn run(pass: &Pass) -> io::Result<Value> {
        let signal = stop_signal()?;
        raise_open_files();
        let mut floor = Self::new(pass)?;
        floor.ring.poll(signal, Tag::new(Kind::Stop, 0));
        floor.connect(pass)?;
        println!("{{\"ready\": true}}");
        let mut batch = Vec::with_capacity(4096);
        while !floor.stopping {
            floor.dispatch();
            floor.ring.wait(1);
            floor.wakes += 1;
            floor.ring.take(&mut batch);
            floor.completions += batch.len() as u64;
            for cqe in batch.drain(..) {
                floor.complete(cqe);
            }
        }
        Ok(json!({
            "taken": floor.taken, "posted": floor.posted, "sends": floor.sends, "enters": floor.ring.enters,
            "wakes": floor.wakes, "completions": floor.completions, "exhausted": floor.ring.exhausted,
            "waiting": floor.records.len(), "usage": usage(),
        }))
    }

    fn new(pass: &Pass) -> io::Result<Self> {
        let mut ring = Ring::new(pass.buffers, pass.buffer_bytes)?;
        ring.set_min_wait(pass.min_wait_us.map(Duration::from_micros));
        let from_nowhere = pass.tcp.is_none() && pass.http.is_none() && pass.ports.is_none();
        let makes_up = from_nowhere.then(|| {
            let mut out = [0; BYTES];
            record::write(&mut out, Record { machine: 0, sequence: 0, scheduled_ns: 1_767_225_600_000_000_000 });
            out
        });
        Ok(Self {
            ring,
            board: Board::open(&pass.board)?,
            machines: Vec::new(),
            sessions: Vec::new(),
            tls: pass.tls.as_deref().map(|files| tls::server(&files[0], &files[1])).transpose()?,
            plain: Vec::new(),
            reads_tty: pass.ports.is_some(),
            answers_machines: pass.http.is_some(),
            delays_acks: pass.no_quickack,
            apis: Vec::new(),
            idle: Vec::new(),
            records: VecDeque::with_capacity(16_384),
            makes_up,
            request_bytes: 0,
            id_request_bytes: 0,
            record_at: 0,
            id_at: None,
            depth: pass.depth,
            taken: 0,
            posted: 0,
            completions: 0,
            sends: 0,
            wakes: 0,
            stopping: false,
        })
    }

    fn connect(&mut self, pass: &Pass) -> io::Result<()> {
        if let Some(to) = pass.post {
            self.prepare_requests(pass, to)?;
        }
        if let Some(address) = pass.tcp.or(pass.http) {
            let listener = net::listen(address)?;
            self.ring.accept(listener, Tag::new(Kind::Accept, listener as usize));
        }
        if let Some(dir) = &pass.ports {
            for index in 0..pass.machines {
                let port = pty::open_port(&dir.join(format!("machine-{index:04}")))?;
                self.add_machine(port);
            }
        }
        Ok(())
    }

    /// Requests of the length of the gateway's.
    fn prepare_requests(&mut self, pass: &Pass, to: SocketAddr) -> io::Result<()> {
        let key = "0123456789abcdef0123456789abcdef-0-12345678";
        let data = "R".repeat(BYTES);
        let id = if pass.id_step { format!("\"id\": {}, ", "0".repeat(ID_DIGITS)) } else { String::new() };
        let body = format!("{{{id}\"machine\": \"machines@127.0.0.1:40000\", \"data\": \"{data}\"}}");
        let request = http::request("/films/", &to.to_string(), key, &body);
        let find = |what: &str| request.windows(what.len()).position(|at| at == what.as_bytes());
        self.record_at = find(&data).expect("written above");
        self.id_at = pass.id_step.then(|| find(&"0".repeat(ID_DIGITS)).expect("written above"));
        self.request_bytes = request.len();
        let id_request = http::request("/seq/", &to.to_string(), &format!("{key}-seq"), "{}");
        self.id_request_bytes = id_request.len();
        for index in 0..pass.connections {
            let requests = ring::pages(request.len() * pass.depth)?;
            requests.copy_from_slice(&request.repeat(pass.depth));
            let fd = net::connect(to)?;
            self.ring.receive(fd, Tag::new(Kind::Api, index));
            self.idle.push(index);
            self.apis.push(Api {
                fd,
                requests,
                id_requests: id_request.repeat(pass.depth).leak(),
                held: 0,
                waiting: Waiting::Nothing,
                answers: Vec::new(),
                answered_bytes: 0,
            });
        }
        Ok(())
    }

    fn add_machine(&mut self, fd: RawFd) {
        let index = self.machines.len();
        if let Some(tls) = &self.tls {
            let connection = tls::accept(tls).expect("a session");
            self.sessions.push(Session { connection, sealed: [Vec::new(), Vec::new()] });
        }
        self.machines.push(Machine { fd, number: None, partial: [0; BYTES], partial_bytes: 0 });
        self.arm(index);
    }

    fn arm(&mut self, index: usize) {
        let (fd, tag) = (self.machines[index].fd, Tag::new(Kind::Machine, index));
        if self.reads_tty { self.ring.read(fd, tag) } else { self.ring.receive(fd, tag) }
    }

    fn complete(&mut self, cqe: Cqe) {
        match cqe.tag.kind {
            Kind::Machine => self.received(cqe),
            Kind::Api => self.answered(cqe),
            Kind::Accept => {
                assert!(cqe.result >= 0, "accept: {}", io::Error::from_raw_os_error(-cqe.result));
                if !cqe.more() {
                    self.ring.accept(cqe.tag.index as RawFd, cqe.tag);
                }
                if self.delays_acks {
                    net::delay_acks(cqe.result).expect("TCP_QUICKACK");
                }
                self.add_machine(cqe.result);
            }
            Kind::Stop => self.stopping = true,
            // Only failures are told; while stopping the peer may be gone.
            Kind::Send => eprintln!("send: {}", io::Error::from_raw_os_error(-cqe.result)),
            Kind::Write => unreachable!("never submitted here"),
        }
    }

    fn received(&mut self, cqe: Cqe) {
        let index = cqe.tag.index;
        if let Some(id) = cqe.buffer() {
            let bytes = self.ring.bytes(id, cqe.result.max(0) as usize);
            if self.tls.is_some() {
                self.plain.clear();
                tls::open(&mut self.sessions[index].connection, bytes, &mut self.plain).expect("a machine speaks TLS");
                let record = self.plain.last_chunk().copied();
                if let Some(record) = record {
                    self.take(index, record);
                }
                self.seal_answer(index, if record.is_some() { ACCEPTED } else { b"" });
            } else if self.answers_machines {
                // A machine waits for its answer, and its record ends the request.
                let (_, record) = bytes.split_last_chunk().expect("a request is longer than a record");
                self.take(index, *record);
                // SAFETY: the bytes are static.
                unsafe { self.ring.send(self.machines[index].fd, ACCEPTED, true, Tag::new(Kind::Send, index)) };
            } else {
                self.lines(index, bytes);
            }
            self.ring.give_back(id);
        }
        if !cqe.more() && (cqe.result > 0 || cqe.result == -libc::ENOBUFS) {
            self.arm(index);
        }
    }

    /// Sends an answer, or the next part of a handshake.
    fn seal_answer(&mut self, index: usize, answer: &[u8]) {
        let session = &mut self.sessions[index];
        session.sealed.rotate_left(1);
        let [out, _] = &mut session.sealed;
        tls::seal(&mut session.connection, answer, out).expect("a session that is open");
        if !out.is_empty() {
            // SAFETY: a machine sends once it has read what was sent before, so that one of two buffers is free.
            unsafe { self.ring.send(self.machines[index].fd, out, true, Tag::new(Kind::Send, index)) };
        }
    }

    /// Records with their delimiters, all of one length; a pty may give them in parts.
    fn lines(&mut self, index: usize, mut bytes: &[u8]) {
        if self.machines[index].partial_bytes == 0 {
            while let Some((record, rest)) = bytes.split_first_chunk().filter(|(_, rest)| !rest.is_empty()) {
                self.take(index, *record);
                bytes = &rest[1..];
            }
        }
        for byte in bytes {
            let machine = &mut self.machines[index];
            if machine.partial_bytes < BYTES {
                machine.partial[machine.partial_bytes] = *byte;
                machine.partial_bytes += 1;
            } else {
                machine.partial_bytes = 0;
                let record = machine.partial;
                self.take(index, record);
            }
        }
    }

    fn take(&mut self, index: usize, record: [u8; BYTES]) {
        self.taken += 1;
        if !self.apis.is_empty() {
            self.records.push_back(record);
            return;
        }
        let number = *self.machines[index]
            .number
            .get_or_insert_with(|| record::parse(&record).expect("machines send records").machine as usize);
        assert!(self.board.count(number, 1), "machine {number} is not on the board");
    }

    fn answered(&mut self, cqe: Cqe) {
        let index = cqe.tag.index;
        if let Some(id) = cqe.buffer() {
            let bytes = cqe.result.max(0) as usize;
            let api = &mut self.apis[index];
            api.answered_bytes += bytes;
            if api.waiting == Waiting::Ids {
                api.answers.extend_from_slice(self.ring.bytes(id, bytes));
            }
            self.ring.give_back(id);
            match api.waiting {
                Waiting::Ids if api.answered_bytes == api.held * ID_ANSWER_BYTES => self.post(index),
                Waiting::Records if api.answered_bytes == api.held * CREATED.len() => {
                    self.posted += api.held as u64;
                    api.waiting = Waiting::Nothing;
                    self.idle.push(index);
                }
                _ => {}
            }
        }
        if !cqe.more() {
            assert!(cqe.result > 0 || cqe.result == -libc::ENOBUFS, "the API closed a connection");
            self.ring.receive(self.apis[index].fd, cqe.tag);
        }
    }

    /// Fills idle connections.
    fn dispatch(&mut self) {
        while let Some(&index) = self.idle.last() {
            let held = if self.makes_up.is_some() { self.depth } else { self.records.len().min(self.depth) };
            if held == 0 {
                return;
            }
            self.idle.pop();
            let api = &mut self.apis[index];
            api.held = held;
            for request in api.requests.chunks_exact_mut(self.request_bytes).take(held) {
                let record = self.makes_up.unwrap_or_else(|| self.records.pop_front().expect("counted above"));
                request[self.record_at..][..BYTES].copy_from_slice(&record);
            }
            if self.id_at.is_none() {
                self.post(index);
                continue;
            }
            api.waiting = Waiting::Ids;
            api.answered_bytes = 0;
            api.answers.clear();
            self.sends += 1;
            let bytes = &api.id_requests[..held * self.id_request_bytes];
            // SAFETY: the bytes are static.
            unsafe { self.ring.send(api.fd, bytes, true, Tag::new(Kind::Send, index)) };
        }
    }

    /// Sends the records that a connection holds, with the ids that came for them.
    fn post(&mut self, index: usize) {
        let api = &mut self.apis[index];
        if let Some(id_at) = self.id_at {
            let requests = api.requests.chunks_exact_mut(self.request_bytes);
            for (request, answer) in requests.zip(api.answers.chunks_exact(ID_ANSWER_BYTES)) {
                request[id_at..][..ID_DIGITS].copy_from_slice(&answer[ID_HEAD.len()..][..ID_DIGITS]);
            }
        }
        api.waiting = Waiting::Records;
        api.answered_bytes = 0;
        self.sends += 1;
        let bytes = &api.requests[..api.held * self.request_bytes];
        // SAFETY: mapped for good, and rewritten only when all of it was answered.
        unsafe { self.ring.send(api.fd, bytes, true, Tag::new(Kind::Send, index)) };
    }
}

fn run_commit(commit: &Commit) -> io::Result<Value> {
    const FILE_BYTES: usize = 16 << 20;
    let file = disk::direct_file(&commit.file, FILE_BYTES)?;
    let mut ring = Ring::new(2, 4096)?;
    let block = ring::pages(commit.bytes)?;
    block.fill(b'x');
    let block = &*block;
    let mut times_ns = Histogram::<u64>::new_with_bounds(1_000, 600_000_000_000, 3).expect("valid bounds");
    let (start, mut batch, mut offset) = (Instant::now(), Vec::new(), 0);
    let before = usage();
    while start.elapsed().as_secs_f64() < commit.seconds {
        let begun = Instant::now();
        ring.write(file, block, offset as u64, Tag::new(Kind::Write, 0));
        ring.wait(1);
        ring.take(&mut batch);
        for cqe in batch.drain(..) {
            assert!(cqe.result == block.len() as i32, "write: {}", io::Error::from_raw_os_error(-cqe.result));
        }
        times_ns.saturating_record(begun.elapsed().as_nanos() as u64);
        offset = (offset + block.len()) % (FILE_BYTES - block.len());
        offset -= offset % 4096;
    }
    std::fs::remove_file(&commit.file)?;
    let us = |quantile: f64| times_ns.value_at_quantile(quantile) as f64 / 1e3;
    let cpu_us = |usage: &Value| usage["user_us"].as_f64().unwrap_or(0.0) + usage["system_us"].as_f64().unwrap_or(0.0);
    let after = usage();
    Ok(json!({
        "bytes": commit.bytes, "commits": times_ns.len(), "mean_us": times_ns.mean() / 1e3,
        "p50_us": us(0.5), "p99_us": us(0.99), "max_us": us(1.0),
        "cpu_us_per_commit": (cpu_us(&after) - cpu_us(&before)) / times_ns.len() as f64, "usage": after,
    }))
}
