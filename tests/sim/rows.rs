//! The rows C1 to C21 of the delivery client in virtual time: one machine, one shard without a disk, and the receiver of
//! `tests/rows`, at a network of one speed. What must be waited for an hour costs nothing here.
//!
//! C11 is about a configuration, C17 and C18 need TLS, and names (C19) are resolved by the real driver alone.

use super::context::{MS, S, US};
use super::disk::Disk;
use ringest::config::{self, Durability, Settings};
use ringest::journal;
use ringest::shard::{Completion, CoreId, Destination, Fd, LinkId, Now, Op, RecvEnd, Setup, Shard, SourceId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

#[allow(dead_code)] // what only the other place plays
#[path = "../rows/mod.rs"]
pub mod script;

use script::{Act, Place, Receiver, Row, cases};

const WALL_S: u64 = 1_767_323_045;
/// One way.
const WAY_NS: u64 = 50 * US;
/// The machine's connection; those to the API come behind.
const MACHINE: Fd = Fd(9);
const ECONNRESET: i32 = 104;
/// Read at once at most.
const READ_BYTES: usize = 4096;
/// Beyond, a row stands still.
const STEPS_MAX: u64 = 3_000_000;

enum What {
    Connected(LinkId),
    /// The kernel took a send over.
    Sent(usize),
    /// The receiver gets bytes.
    Asked(usize, Vec<u8>),
    /// The client gets bytes, or the end.
    Answered(usize, Vec<u8>),
    Ended(usize, RecvEnd),
    /// The receiver does what is next.
    Act(usize),
}

#[derive(Default)]
struct Conn {
    link: Option<LinkId>,
    closed_by_client: bool,
    reading: bool,
    input: Vec<u8>,
    /// The record, and what is left to do about its request.
    acts: Option<(usize, VecDeque<Act>)>,
    /// The receiver reads no more.
    over: bool,
    vanished: bool,
    /// Waits for the client's end until then.
    awaits: Option<u64>,
    sending: Option<Vec<u8>>,
}

struct Stage {
    shard: Shard,
    now_ns: u64,
    /// By their time, and the order in which they were made.
    events: BTreeMap<(u64, u64), What>,
    made: u64,
    conns: Vec<Conn>,
    by_link: BTreeMap<u32, usize>,
    machine: Option<LinkId>,
    receiver: Receiver,
}

impl Stage {
    fn new(row: Row) -> Self {
        let mut text = "[framing.row]\nend = \"\\r\"\nmax = \"64KiB\"\n[[source]]\nname = \"servers\"\n\
                        kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nlane = \"connection\"\nframing = \"row\"\n\
                        [deliver]\nurl = \"http://127.0.0.1:8000/films/\"\n"
            .to_owned();
        for (key, value) in &row.deliver {
            writeln!(text, "{key} = {value}").expect("a String takes all");
        }
        let mut settings: Settings = config::parse(&text, "row").unwrap_or_else(|problems| panic!("{problems}"));
        (settings.journal.durability, settings.journal.max_bytes) = (Durability::Memory, 16 << 20);
        let options = journal::Options::new(&settings.journal, CoreId(0), 1);
        let journal = journal::open(&mut Disk::new(0, 4096, 7), &options).expect("memory");
        let now = Now { mono_ns: S, wall_ns: (WALL_S + 1) * S };
        let mut shard = Shard::new(Setup {
            settings: Arc::new(settings),
            core: CoreId(0),
            cores: 1,
            sources: vec![SourceId(0)],
            journals: vec![journal],
            owners: Arc::new(HashMap::new()),
            seed: 1,
            now,
        });
        shard.start(now);
        let (events, conns, by_link) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let receiver = Receiver::new(row);
        let mut stage = Self { shard, now_ns: S, events, made: 0, conns, by_link, machine: None, receiver };
        stage.turn();
        let peer = ([127, 0, 0, 1], 9).into();
        stage.shard.handle(stage.now(), Completion::Accepted { source: SourceId(0), fd: MACHINE, peer });
        stage.turn();
        stage
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.now_ns, wall_ns: WALL_S * S + self.now_ns }
    }

    fn after(&mut self, ns: u64, what: What) {
        self.made += 1;
        self.events.insert((self.now_ns + ns, self.made), what);
    }

    fn turn(&mut self) {
        self.shard.turn(self.now());
        while let Some(op) = self.shard.poll_op() {
            self.carry(op);
        }
    }

    fn carry(&mut self, op: Op) {
        match op {
            Op::Accept { .. } | Op::AcceptOne { .. } | Op::PauseAccept { .. } => {}
            Op::Recv { link, fd: MACHINE, .. } => self.machine = Some(link),
            Op::Recv { fd, .. } => self.conns[fd.0 as usize - 100].reading = true,
            Op::Connect { link, to: Destination::Api(_) } => self.after(WAY_NS, What::Connected(link)),
            Op::Send { link, bytes, .. } => {
                let conn = self.by_link[&link.index];
                assert!(self.conns[conn].sending.is_none(), "one send at a time");
                if self.receiver.row.early {
                    // The receiver reads little, and the kernels between hold nothing.
                    self.after(WAY_NS, What::Asked(conn, bytes[..bytes.len().min(1024)].to_vec()));
                } else {
                    self.after(10 * US, What::Sent(conn));
                    self.after(WAY_NS, What::Asked(conn, bytes.clone()));
                }
                self.conns[conn].sending = Some(bytes);
            }
            Op::Close { link, .. } => {
                if let Some(conn) = self.by_link.remove(&link.index) {
                    let conn = &mut self.conns[conn];
                    (conn.closed_by_client, conn.link, conn.sending) = (true, None, None);
                }
                self.shard.handle(self.now(), Completion::Closed { link });
            }
            op => panic!("{op:?} in a world without disks and ports"),
        }
    }

    fn handle(&mut self, what: What) {
        let now = self.now();
        match what {
            What::Connected(link) => {
                let conn = self.conns.len();
                self.conns.push(Conn { link: Some(link), ..Conn::default() });
                self.by_link.insert(link.index, conn);
                self.shard.handle(now, Completion::Connected { link, result: Ok(Fd(100 + conn as i32)) });
            }
            What::Sent(conn) => {
                if let (Some(link), Some(bytes)) = (self.conns[conn].link, self.conns[conn].sending.take()) {
                    self.shard.handle(now, Completion::Sent { link, bytes, result: Ok(()) });
                }
            }
            What::Asked(conn, bytes) => self.asked(conn, &bytes),
            What::Answered(conn, mut bytes) => {
                if let Some(link) = self.conns[conn].link {
                    assert!(self.conns[conn].reading);
                    for piece in bytes.chunks_mut(READ_BYTES) {
                        // It may be closed by what comes first.
                        self.shard.handle(now, Completion::Received { link, bytes: piece });
                    }
                }
            }
            What::Ended(conn, end) => {
                if let Some(link) = self.conns[conn].link {
                    self.shard.handle(now, Completion::RecvEnded { link, end });
                }
            }
            What::Act(conn) => self.act(conn),
        }
    }

    /// The receiver gets bytes of a connection.
    fn asked(&mut self, index: usize, bytes: &[u8]) {
        let conn = &mut self.conns[index];
        if conn.vanished || conn.over {
            return;
        }
        if conn.awaits.is_some() {
            self.receiver.complaints.push(format!("a request on connection {index}, which must be closed"));
            return;
        }
        conn.input.extend(bytes);
        self.next_request(index);
    }

    fn next_request(&mut self, index: usize) {
        let early = self.receiver.row.early;
        let conn = &mut self.conns[index];
        if conn.acts.is_some() {
            return;
        }
        let length = script::request(&conn.input, early).unwrap_or_else(|error| panic!("connection {index}: {error}"));
        let Some(length) = length else { return };
        let bytes: Vec<u8> = conn.input.drain(..length).collect();
        let (at_ms, wall_s) = (self.now_ns / MS, self.now().wall_ns / S);
        let (number, acts) = self.receiver.request(index, at_ms, wall_s, &bytes);
        self.conns[index].acts = Some((number, acts.into()));
        self.act(index);
    }

    /// The receiver does what is next on a connection, up to the next pause.
    fn act(&mut self, index: usize) {
        loop {
            let conn = &mut self.conns[index];
            let Some((number, acts)) = &mut conn.acts else { return };
            let number = *number;
            if let Some(until_ns) = conn.awaits {
                if !conn.closed_by_client && self.now_ns < until_ns {
                    self.after(100 * US, What::Act(index));
                    return;
                }
                if !conn.closed_by_client {
                    self.receiver.complaints.push(format!("record {number}: the connection is not closed in time"));
                }
                (conn.over, conn.awaits) = (true, None);
            }
            let Some(act) = acts.pop_front().filter(|_| !conn.over) else {
                conn.acts = None;
                self.receiver.is_over(number);
                if !self.conns[index].over {
                    self.next_request(index);
                }
                return;
            };
            if let Some(wait_ns) = self.perform(index, number, act) {
                self.after(wait_ns, What::Act(index));
                return;
            }
        }
    }

    /// Does it, or a part of it: then the rest waits so long.
    fn perform(&mut self, index: usize, number: usize, act: Act) -> Option<u64> {
        match act {
            Act::Store => self.receiver.store(number),
            Act::Send(bytes) => self.after(WAY_NS, What::Answered(index, bytes)),
            Act::Pause(ms) => return Some(ms * MS + US),
            Act::Drip(mut bytes, ms) => {
                if !bytes.is_empty() {
                    let first = bytes.remove(0);
                    self.push_front(index, Act::Drip(bytes, ms));
                    self.push_front(index, Act::Send(vec![first]));
                    return Some(ms * MS + US);
                }
            }
            Act::Endless(bytes) => {
                if !self.conns[index].closed_by_client {
                    self.push_front(index, Act::Endless(bytes.clone()));
                    self.push_front(index, Act::Send(bytes));
                    return Some(10 * US);
                }
                self.conns[index].over = true;
            }
            Act::Fin => {
                self.after(WAY_NS, What::Ended(index, RecvEnd::Closed));
                self.conns[index].over = true;
            }
            Act::Reset => {
                if let (Some(link), Some(bytes)) = (self.conns[index].link, self.conns[index].sending.take()) {
                    // A send fails before what was received earlier is read.
                    let result = Err(ECONNRESET);
                    self.shard.handle(self.now(), Completion::Sent { link, bytes, result });
                }
                self.after(WAY_NS, What::Ended(index, RecvEnd::Error(ECONNRESET)));
                self.conns[index].over = true;
            }
            Act::AwaitDelivered => {
                assert!(self.now_ns < 3600 * S, "record {number} does not count as delivered");
                if self.shard.terms().delivered <= number as u64 {
                    self.push_front(index, Act::AwaitDelivered);
                    return Some(100 * US);
                }
            }
            Act::AwaitClose(ms) => {
                self.conns[index].awaits = Some(self.now_ns + ms * MS);
                return Some(US);
            }
            Act::Vanish => (self.conns[index].vanished, self.conns[index].over) = (true, true),
        }
        None
    }

    fn push_front(&mut self, index: usize, act: Act) {
        let (_, acts) = self.conns[index].acts.as_mut().expect("in the midst of it");
        acts.push_front(act);
    }

    fn send(&mut self, record: &str) {
        let mut bytes = format!("{record}\r").into_bytes();
        for piece in bytes.chunks_mut(READ_BYTES) {
            let link = self.machine.expect("the machine's bytes are read");
            self.shard.handle(self.now(), Completion::Received { link, bytes: piece });
        }
        self.turn();
    }

    /// Time passes until so many records are settled and the receiver has done its part.
    fn run(&mut self, records: usize) {
        let settled = |stage: &mut Self| {
            let terms = stage.shard.terms();
            assert!(terms.balance(), "{terms:?}");
            terms.delivered + terms.parked == records as u64 && terms.pending == 0 && stage.receiver.rests(records)
        };
        let mut steps = 0;
        while !settled(self) {
            let event = self.events.first_key_value().map(|((at_ns, _), _)| *at_ns);
            let due = [event, self.shard.next_deadline()].into_iter().flatten().min();
            self.now_ns = due.expect("something will happen").max(self.now_ns);
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
                let what = entry.remove();
                self.handle(what);
            }
            self.turn();
            steps += 1;
            assert!(steps < STEPS_MAX, "no rest: {:?}, {:?}", self.shard.terms(), self.receiver.complaints);
        }
    }
}

fn play(row: Row) {
    let mut stage = Stage::new(row.clone());
    let count = row.cases.len();
    if row.paced {
        for number in 0..count {
            stage.send(&row.record(number));
            stage.run(number + 1);
        }
    } else {
        for number in 0..count {
            stage.send(&row.record(number));
        }
        stage.run(count);
    }
    let parked = stage.shard.parked(count).first;
    let statuses: Vec<u16> = parked.iter().map(|record| record.status).collect();
    let numbers: BTreeSet<&String> = parked.iter().map(|record| &record.record).collect();
    assert_eq!(numbers.len(), statuses.len(), "each is parked once");
    stage.receiver.judge(stage.shard.terms().delivered, &statuses);
}

#[test]
fn c01_interim_answers_are_skipped_up_to_sixteen_and_101_is_an_error() {
    play(cases::c01());
}

#[test]
fn c02_a_201_counts_with_its_header_and_its_connection_is_used_again_after_the_body() {
    play(cases::c02());
}

#[test]
fn c03_another_success_is_no_acknowledgement() {
    play(cases::c03());
}

#[test]
fn c03_all_statuses_of_success_can_be_listed_in_one_word() {
    play(cases::c03_all_listed());
}

#[test]
fn c04_an_answer_whose_end_cannot_be_told_is_thrown_away() {
    play(cases::c04());
}

#[test]
fn c04_what_stays_unreadable_is_asked_for_at_long_intervals() {
    play(cases::c04_again());
}

#[test]
fn c05_an_answer_cut_short_at_any_byte_counts_only_with_its_whole_header() {
    play(cases::c05());
}

#[test]
fn c06_bytes_that_nobody_asked_for_are_never_an_answer() {
    play(cases::c06());
}

#[test]
fn c07_a_stale_connection_costs_one_resend_at_once() {
    play(cases::c07());
}

#[test]
fn c08_an_answer_while_the_request_is_still_sent_ends_the_sending() {
    play(cases::c08(Place::Simulator));
}

#[test]
fn c09_a_connection_that_is_to_be_closed_is_not_used_again() {
    play(cases::c09());
}

#[test]
fn c10_an_answer_without_end_is_not_read_to_its_end() {
    play(cases::c10());
}

#[test]
fn c12_the_deadline_is_that_of_the_whole_answer() {
    play(cases::c12());
}

#[test]
fn c13_a_redirect_is_never_followed() {
    play(cases::c13());
}

#[test]
fn c14_answers_about_the_client_pause_the_route() {
    play(cases::c14());
}

#[test]
fn c15_a_record_that_is_refused_three_times_is_parked_and_the_next_ones_go_on() {
    play(cases::c15());
}

#[test]
fn c16_retry_after_is_obeyed_where_it_makes_sense() {
    play(cases::c16(Place::Simulator));
}

#[test]
fn c16_no_retry_after_is_obeyed_beyond_the_configured_time() {
    play(cases::c16_capped());
}

#[test]
fn c20_a_peer_that_vanishes_is_noticed_within_thirty_seconds() {
    play(cases::c20());
}

#[test]
fn c21_after_a_conflict_the_service_is_asked_what_it_has() {
    play(cases::c21());
}

#[test]
fn c21_an_answer_beyond_all_bounds_parks_the_record_after_the_configured_attempts() {
    play(cases::c21_too_long());
}

#[test]
fn c21_equal_data_of_another_machine_is_not_the_record() {
    play(cases::c21_of_a_machine());
}
