//! The null receiver: takes records by POST, checks them, answers, keeps nothing. It prints what came as one line of JSON
//! when it ends (SIGTERM).
//!
//! A request whose target begins with `/seq` is answered with a fresh id, or as many as its `count` asks for; any other must
//! hold one record in its body, or one in each line, or an array of them.
#![allow(unsafe_code)] // sends from buffers that stay in place

use clap::Parser;
use memchr::memmem::Finder;
use ringest_bench::board::{Board, Word};
use ringest_bench::check::Checker;
use ringest_bench::http::{self, CREATED, ID_FIRST};
use ringest_bench::net;
use ringest_bench::process::{now_ns, raise_open_files, stop_signal, usage};
use ringest_bench::record::{self, START};
use ringest_bench::ring::{Cqe, Kind, Ring, Tag};
use ringest_bench::times::Times;
use serde_json::json;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Takes records by POST, checks them, answers 201, keeps nothing.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Shared memory in which arrivals are counted
    #[arg(long)]
    board: PathBuf,
    /// Count requests and look at nothing in them
    #[arg(long)]
    unchecked: bool,
    /// Write the times from schedule to arrival to this file, as an HdrHistogram interval log
    #[arg(long)]
    histogram_log: Option<PathBuf>,
}

#[derive(Default)]
struct Connection {
    fd: RawFd,
    open: bool,
    /// A request of which the rest has not come.
    rest: Vec<u8>,
    /// Answers on their way; not touched until the send completed.
    sending: Vec<u8>,
    /// Answers that wait for it.
    waiting: Vec<u8>,
    listed: bool,
}

struct Receiver {
    ring: Ring,
    board: Board,
    unchecked: bool,
    checker: Checker,
    latency: Times,
    finder: Finder<'static>,
    connections: Vec<Connection>,
    /// Connections with answers to send.
    answering: Vec<usize>,
    next_id: u64,
    id_requests: u64,
    requests: u64,
    request_bytes: u64,
    malformed: u64,
    sends: u64,
    stopping: bool,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let signal = stop_signal()?;
    raise_open_files();
    let board = Board::open(&arguments.board)?;
    let listener = net::listen(arguments.listen)?;
    let mut receiver = Receiver {
        ring: Ring::new(1024, 8192)?,
        checker: Checker::new(board.machines()),
        board,
        unchecked: arguments.unchecked,
        latency: Times::new(arguments.histogram_log.as_deref(), "arrived"),
        finder: Finder::new(START),
        connections: Vec::new(),
        answering: Vec::new(),
        next_id: ID_FIRST,
        id_requests: 0,
        requests: 0,
        request_bytes: 0,
        malformed: 0,
        sends: 0,
        stopping: false,
    };
    receiver.ring.accept(listener, Tag::new(Kind::Accept, listener as usize));
    receiver.ring.poll(signal, Tag::new(Kind::Stop, 0));
    println!("{{\"listening\": \"{}\"}}", arguments.listen);
    io::stdout().flush()?;
    let mut batch = Vec::new();
    while !receiver.stopping {
        receiver.ring.wait(1);
        receiver.ring.take(&mut batch);
        for cqe in batch.drain(..) {
            receiver.complete(cqe);
        }
        receiver.answer();
    }
    receiver.latency.save(now_ns())?;
    println!("{}", receiver.report());
    Ok(())
}

impl Receiver {
    fn complete(&mut self, cqe: Cqe) {
        match cqe.tag.kind {
            Kind::Accept => self.accepted(cqe),
            Kind::Api => self.received(cqe),
            Kind::Send => {
                let connection = &mut self.connections[cqe.tag.index];
                connection.sending.clear();
                if cqe.result >= 0 && !connection.waiting.is_empty() && !connection.listed {
                    connection.listed = true;
                    self.answering.push(cqe.tag.index);
                }
            }
            Kind::Stop => self.stopping = true,
            kind => unreachable!("{kind:?} is never submitted here"),
        }
    }

    fn accepted(&mut self, cqe: Cqe) {
        if !cqe.more() {
            self.ring.accept(cqe.tag.index as RawFd, cqe.tag);
        }
        if cqe.result < 0 {
            return;
        }
        let index = self.connections.len();
        self.connections.push(Connection { fd: cqe.result, open: true, ..Connection::default() });
        self.ring.receive(cqe.result, Tag::new(Kind::Api, index));
    }

    fn received(&mut self, cqe: Cqe) {
        let index = cqe.tag.index;
        if let Some(id) = cqe.buffer() {
            let bytes = self.ring.bytes(id, cqe.result.max(0) as usize);
            let mut rest = std::mem::take(&mut self.connections[index].rest);
            if rest.is_empty() {
                let used = self.requests(index, bytes);
                rest.extend_from_slice(&bytes[used..]);
            } else {
                rest.extend_from_slice(bytes);
                let used = self.requests(index, &rest);
                rest.drain(..used);
            }
            self.connections[index].rest = rest;
            self.ring.give_back(id);
        }
        if cqe.more() || !self.connections[index].open {
            return;
        }
        if cqe.result > 0 || cqe.result == -libc::ENOBUFS {
            self.ring.receive(self.connections[index].fd, cqe.tag);
        } else {
            self.close(index);
        }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if std::mem::replace(&mut connection.open, false) {
            // SAFETY: accepted here and closed once; the kernel keeps the file for what is in flight.
            unsafe { libc::close(connection.fd) };
        }
    }

    /// Takes all whole requests; how many bytes they had.
    fn requests(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        let now_ns = now_ns();
        while used < bytes.len() {
            let message = match http::parse(&bytes[used..]) {
                Ok(message) => message,
                Err(http::Error::Unfinished) => break,
                Err(http::Error::Malformed) => {
                    self.malformed += 1;
                    self.close(index);
                    return bytes.len();
                }
            };
            used += message.bytes;
            self.requests += 1;
            self.request_bytes += message.bytes as u64;
            if message.start.starts_with(b"POST /seq") {
                let Some(count) = http::ids_asked(message.body) else {
                    self.malformed += 1;
                    self.close(index);
                    return bytes.len();
                };
                http::write_ids(&mut self.connections[index].waiting, self.next_id, count);
                self.next_id += count;
                self.id_requests += 1;
            } else {
                self.records(message.key, message.body, now_ns);
                self.connections[index].waiting.extend_from_slice(CREATED);
            }
            let connection = &mut self.connections[index];
            if !connection.listed {
                connection.listed = true;
                self.answering.push(index);
            }
        }
        used
    }

    fn records(&mut self, key: &[u8], body: &[u8], now_ns: u64) {
        if self.unchecked {
            self.board.count(0, 1);
            return;
        }
        // Keys are different in their last bytes.
        let key = key.rchunks(8).fold(0, |hash: u64, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(25).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(word)
        });
        let measuring = self.board.load(Word::Phase) == 1;
        let (checker, board, latency) = (&mut self.checker, self.board, &mut self.latency);
        let whole = http::each_record(&self.finder, body, |bytes| {
            let Some(record) = record::parse(bytes) else {
                checker.counts.corrupt += 1;
                return;
            };
            if checker.take(record, key) {
                board.count(record.machine as usize, 1);
                if measuring {
                    latency.record(record.scheduled_ns, now_ns);
                }
            }
        });
        if !whole {
            self.checker.counts.corrupt += 1;
        }
    }

    /// One send for all answers of a connection.
    fn answer(&mut self) {
        for index in std::mem::take(&mut self.answering) {
            let connection = &mut self.connections[index];
            connection.listed = false;
            if !connection.open || !connection.sending.is_empty() {
                continue; // listed again when the send completes
            }
            std::mem::swap(&mut connection.sending, &mut connection.waiting);
            self.sends += 1;
            // SAFETY: `sending` is touched only after its completion, and connections are never removed.
            unsafe { self.ring.send(connection.fd, &connection.sending, false, Tag::new(Kind::Send, index)) };
        }
    }

    fn report(&self) -> serde_json::Value {
        let counts = &self.checker.counts;
        json!({
            "requests": self.requests,
            "request_bytes": self.request_bytes,
            "ids": self.next_id - ID_FIRST,
            "id_requests": self.id_requests,
            "records": self.board.load(Word::Arrived),
            "distinct": counts.distinct,
            "repeated": counts.repeated,
            "doubled": counts.doubled,
            "disordered": counts.disordered,
            "corrupt": counts.corrupt,
            "missing": self.checker.missing(),
            "malformed": self.malformed,
            "connections": self.connections.len(),
            "sends": self.sends,
            "enters": self.ring.enters,
            "exhausted": self.ring.exhausted,
            "latency_us": self.latency.report(),
            "usage": usage(),
        })
    }
}
