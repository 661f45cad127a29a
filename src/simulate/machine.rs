//! One simulated machine: a small state machine around one port, advanced by the clock and by events of its descriptor.
//!
//! It never drops a record for want of room: while the port takes no bytes the schedule goes on, and what is due is sent when it can be.

use super::Error;
use super::http::{self, Answer};
use super::ledger::Status;
use super::pty::Pty;
use super::record::{self, Record};
use super::schedule::Draw;
use super::wire::{Opening, Wire};
use super::world::Context;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::unistd;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

const MS: u64 = 1_000_000;
/// A write that found no room is tried again after this even without an event.
const BLOCKED_NS: u64 = 20 * MS;
const CONNECT_TIMEOUT_NS: u64 = 5_000 * MS;
const ANSWER_TIMEOUT_NS: u64 = 30_000 * MS;
const RETRY_FIRST_NS: u64 = 50 * MS;
const RETRY_MAX_NS: u64 = 1_000 * MS;
/// How long a hang-up waits until the reader has read everything.
const LEAVE_TIMEOUT_NS: u64 = 10_000 * MS;
/// Where it cannot be seen whether a pty's reader has read everything, it is given this long.
const UNSEEN_GRACE_NS: u64 = 500 * MS;
const DRAIN_POLL_NS: u64 = 2 * MS;
/// Records that one machine may send before others have their turn.
const BURST: usize = 32;

/// Which way a machine speaks.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through a pty, whose slave is found by this symlink.
    Pty(PathBuf),
    /// Through a TCP connection.
    Tcp(SocketAddr),
    /// By HTTP POST.
    Http(SocketAddr),
}

#[derive(Debug)]
enum Port {
    Pty(Pty),
    Socket(Box<Wire>),
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pty(pty) => pty.as_fd(),
            Self::Socket(wire) => wire.as_fd(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No port; to be opened now.
    Closed,
    /// A pty without a reader.
    Absent,
    /// A socket whose connect is under way.
    Connecting { until_ns: u64 },
    /// Nothing is sent before this time; the port may be closed.
    Pause { until_ns: u64 },
    /// Sending.
    Ready,
    /// An HTTP request is out.
    Awaiting { until_ns: u64 },
    /// Hanging up once the reader has everything; for the last time where `last`.
    Leaving { since_ns: u64, reset: bool, last: bool },
    /// All is sent.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Nothing,
    Garbage,
    Cut,
    Record,
}

#[derive(Debug)]
struct Outgoing {
    what: What,
    buffer: Vec<u8>,
    written: usize,
    /// The length of each record in it, or of a frame of garbage, without delimiter or HTTP head.
    lengths: Vec<usize>,
    /// When the whole of it was first written, wall clock; 0 before.
    sent_ns: u64,
}

enum Step {
    /// Look at the state again.
    Again,
    /// Nothing to do before this time, but on an event.
    Wait(u64),
    /// Nothing to do without an event.
    Rest,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) index: usize,
    pub(super) name: String,
    way: Way,
    port: Option<Port>,
    state: State,
    /// Sequence of the record to be sent next.
    next: u64,
    out: Outgoing,
    /// The faults before record `next` have been made.
    garbage_made: bool,
    cut_made: bool,
    /// The last line was cut off, so that what is sent next is joined to it.
    joined: bool,
    /// Counted as ready for the start.
    was_ready: bool,
    blocked: bool,
    retry_ns: u64,
    answer: Vec<u8>,
    /// Why it could not connect, the last time.
    fault: Option<String>,
    /// The timer that is valid, [`u64::MAX`] for none.
    pub(super) wake_ns: u64,
}

impl Machine {
    pub(super) fn new(index: usize, name: String, way: Way) -> Self {
        let out = Outgoing { what: What::Nothing, buffer: Vec::new(), written: 0, lengths: Vec::new(), sent_ns: 0 };
        Self {
            index,
            name,
            way,
            port: None,
            state: State::Closed,
            next: 0,
            out,
            garbage_made: false,
            cut_made: false,
            joined: false,
            was_ready: false,
            blocked: false,
            retry_ns: RETRY_FIRST_NS,
            answer: Vec::new(),
            fault: None,
            wake_ns: u64::MAX,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What it waits for, for a message about a start that does not come.
    pub(super) fn waits_for(&self) -> String {
        match &self.way {
            Way::Pty(link) => format!("nobody opened {} ({})", link.display(), self.name),
            Way::Tcp(to) | Way::Http(to) => {
                let fault = self.fault.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default();
                format!("{} could not connect to {to}{fault}", self.name)
            }
        }
    }

    /// Whether it was ready to send once.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Opens a pty ahead of its turn, so that all symlinks are there before anybody is told to look.
    pub(super) fn open_early(&mut self, context: &mut Context) -> Result<(), Error> {
        if matches!(self.way, Way::Pty(_)) { self.open(context, 0).map(drop) } else { Ok(()) }
    }

    /// Does what can be done at `now_ns` and returns when to call again. `event`: its descriptor has something to say.
    pub(super) fn advance(&mut self, context: &mut Context, now_ns: u64, event: bool) -> Result<Option<u64>, Error> {
        if event {
            self.notice(context, now_ns);
        }
        for _ in 0..BURST {
            match self.step(context, now_ns)? {
                Step::Again => {}
                Step::Wait(at_ns) => return Ok(Some(at_ns)),
                Step::Rest => return Ok(None),
            }
        }
        Ok(Some(now_ns))
    }

    fn notice(&mut self, context: &mut Context, now_ns: u64) {
        let sending = matches!(self.state, State::Ready | State::Pause { .. });
        let has_closed = match &mut self.port {
            // What the reader sends, such as XOFF, has no meaning here, but must not fill the pty.
            Some(Port::Pty(pty)) => {
                while unistd::read(pty.as_fd(), &mut context.input).is_ok_and(|count| count > 0) {}
                if sending && !pty.has_reader() {
                    self.state = State::Absent;
                }
                false
            }
            Some(Port::Socket(wire)) => sending && wire.is_at_end(&mut context.input),
            None => false,
        };
        if has_closed {
            self.lose_port(context, now_ns);
        }
    }

    fn step(&mut self, context: &mut Context, now_ns: u64) -> Result<Step, Error> {
        match self.state {
            State::Closed => self.open(context, now_ns),
            State::Absent => {
                let Some(Port::Pty(pty)) = &self.port else { unreachable!("only a pty is without a reader") };
                if !pty.has_reader() {
                    return Ok(Step::Wait(now_ns + context.reader_poll_ns));
                }
                // The reader may still change the port's settings.
                self.state = State::Pause { until_ns: now_ns + context.options.settle.as_nanos() as u64 };
                Ok(Step::Again)
            }
            State::Connecting { until_ns } => Ok(self.connecting(context, now_ns, until_ns)),
            State::Pause { .. } if context.options.speech.connection_per_record && self.is_over(context) => {
                self.state = State::Done;
                Ok(Step::Again)
            }
            State::Pause { until_ns } if now_ns < until_ns => Ok(Step::Wait(until_ns)),
            State::Pause { .. } => {
                self.state = if self.port.is_some() { State::Ready } else { State::Closed };
                Ok(Step::Again)
            }
            State::Ready => self.send(context, now_ns),
            State::Awaiting { until_ns } => self.await_answer(context, now_ns, until_ns),
            State::Leaving { since_ns, reset, last } => Ok(self.leave(context, now_ns, since_ns, reset, last)),
            State::Done => Ok(Step::Rest),
        }
    }

    fn open(&mut self, context: &mut Context, now_ns: u64) -> Result<Step, Error> {
        let (port, flags) = match &self.way {
            Way::Pty(link) => {
                self.state = State::Absent;
                (Port::Pty(Pty::create(link)?), EpollFlags::EPOLLIN)
            }
            Way::Tcp(to) | Way::Http(to) => {
                let speech = &context.options.speech;
                let awaits_verdict = matches!(self.way, Way::Tcp(_));
                match Wire::connect(*to, speech.tls.as_ref(), (speech.proxy, self.index), awaits_verdict) {
                    Ok(wire) => {
                        self.state = State::Connecting { until_ns: now_ns + CONNECT_TIMEOUT_NS };
                        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
                        (Port::Socket(Box::new(wire)), flags)
                    }
                    Err(error) => {
                        self.fault = Some(error.to_string());
                        self.lose_port(context, now_ns);
                        return Ok(Step::Again);
                    }
                }
            }
        };
        context.epoll.add(&port, EpollEvent::new(flags | EpollFlags::EPOLLET, self.index as u64))?;
        self.port = Some(port);
        self.joined = false;
        self.blocked = false;
        Ok(Step::Again)
    }

    fn connecting(&mut self, context: &mut Context, now_ns: u64, until_ns: u64) -> Step {
        let Some(Port::Socket(wire)) = &mut self.port else { unreachable!("only a socket connects") };
        match wire.open(now_ns, until_ns) {
            Ok(Opening::Waits(until_ns)) => return Step::Wait(until_ns),
            Ok(Opening::Open) => {
                self.retry_ns = RETRY_FIRST_NS;
                self.state = State::Ready;
            }
            Err(error) => {
                self.fault = Some(error.to_string());
                self.lose_port(context, now_ns);
            }
        }
        Step::Again
    }

    /// The connection is gone, or could not be made: another after a while, and there what was not sent whole, from its start.
    fn lose_port(&mut self, context: &mut Context, now_ns: u64) {
        context.counts.lost_connections += u64::from(self.port.take().is_some());
        self.out.written = 0;
        self.joined = false;
        self.answer.clear();
        self.state = State::Pause { until_ns: now_ns + self.back_off() };
    }

    /// The delay before the next try, with jitter so that thousands do not come back as one.
    fn back_off(&mut self) -> u64 {
        let delay_ns = self.retry_ns / 2 + fastrand::u64(0..=self.retry_ns / 2);
        self.retry_ns = (self.retry_ns * 2).min(RETRY_MAX_NS);
        delay_ns
    }

    fn send(&mut self, context: &mut Context, now_ns: u64) -> Result<Step, Error> {
        if !self.was_ready {
            self.was_ready = true;
            context.ready += 1;
        }
        let Some(start_ns) = context.start_ns else { return Ok(Step::Rest) };
        if self.out.what == What::Nothing {
            let (count, due_ns) = self.batch(context, start_ns);
            if count == 0 {
                self.state = if context.options.hold {
                    State::Done
                } else {
                    State::Leaving { since_ns: now_ns, reset: false, last: true }
                };
                return Ok(Step::Again);
            }
            if due_ns > now_ns {
                return Ok(Step::Wait(due_ns));
            }
            self.compose(context, start_ns, count);
        }
        match self.flush() {
            Ok(true) => self.written(context, now_ns),
            Ok(false) => {
                self.watch_room(context, true)?;
                Ok(Step::Wait(now_ns + BLOCKED_NS))
            }
            Err(_) if matches!(self.port, Some(Port::Socket(_))) => {
                self.lose_port(context, now_ns);
                Ok(Step::Again)
            }
            Err(errno) => Err(Error::Write { machine: self.name.clone(), errno }),
        }
    }

    /// How many records go next, and when the last of them is due; none at the end of the schedule.
    fn batch(&self, context: &Context, start_ns: u64) -> (u64, u64) {
        let most = match self.way {
            Way::Http(_) => context.options.speech.batch.unwrap_or(1) as u64,
            Way::Pty(_) | Way::Tcp(_) => 1,
        };
        let due_ns = |sequence| start_ns + context.schedule.due_ns(self.index, sequence);
        let mut end = context.schedule.records(self.index).min(self.next + most).max(self.next);
        while end > self.next && due_ns(end - 1) >= context.stop_ns {
            end -= 1;
        }
        (end - self.next, due_ns(end.saturating_sub(1)))
    }

    /// Whether nothing more is due to a machine that is not connected.
    fn is_over(&self, context: &Context) -> bool {
        let Some(start_ns) = context.start_ns else { return false };
        self.port.is_none() && self.out.what == What::Nothing && self.batch(context, start_ns).0 == 0
    }

    /// Puts what comes next into the outgoing buffer: garbage before the record, the record cut off, or `count` records.
    fn compose(&mut self, context: &Context, start_ns: u64, count: u64) {
        let schedule = &context.schedule;
        let (index, next) = (self.index, self.next);
        let out = &mut self.out;
        out.buffer.clear();
        out.lengths.clear();
        out.written = 0;
        out.sent_ns = 0;
        let is_http = matches!(self.way, Way::Http(_));
        if !is_http && !self.garbage_made && schedule.happens(index, next, Draw::Garbage) {
            out.what = What::Garbage;
            let seed = schedule.number(index, next, Draw::Garbage);
            out.lengths.push(encode_garbage(&mut out.buffer, seed, &context.options.end));
            return;
        }
        let record = |sequence| {
            let scheduled_ns = context.wall_ns(start_ns + schedule.due_ns(index, sequence));
            Record { source: &self.name, sequence, scheduled_ns }
        };
        let bytes = context.options.record_bytes;
        if let Way::Http(to) = self.way {
            let speech = &context.options.speech;
            let mut body = Vec::with_capacity(bytes * count as usize);
            for sequence in next..next + count {
                // A line of NDJSON is JSON: a string, in which nothing of a record needs an escape.
                let quote: &[u8] = if speech.batch.is_some() { b"\"" } else { b"" };
                body.extend_from_slice(quote);
                out.lengths.push(record::encode(&mut body, &record(sequence), bytes));
                body.extend_from_slice(quote);
                body.extend_from_slice(if speech.batch.is_some() { b"\n" } else { b"" });
            }
            let request = http::Request {
                to,
                machine: &self.name,
                key: &format!("{}-{}-{next}", context.run, self.name),
                token: speech.token.as_ref(),
                is_batch: speech.batch.is_some(),
                gzip: speech.gzip,
                is_only: speech.connection_per_record,
                body: &body,
            };
            http::encode_request(&mut out.buffer, &request);
        } else {
            out.lengths.push(record::encode(&mut out.buffer, &record(next), bytes));
            out.buffer.extend_from_slice(&context.options.end);
        }
        out.what = What::Record;
        if !self.cut_made && schedule.happens(index, next, Draw::Cut) {
            out.what = What::Cut;
            let whole = if is_http { out.buffer.len() } else { out.lengths[0] };
            let kept = 1 + (schedule.unit(index, next, Draw::CutLength) * (whole - 1) as f64) as usize;
            out.buffer.truncate(kept);
        }
    }

    /// Writes what the port takes; `false` if it did not take all.
    fn flush(&mut self) -> Result<bool, Errno> {
        let pty = match &mut self.port {
            None => unreachable!("a machine that sends has a port"),
            Some(Port::Socket(wire)) => {
                let written = wire.write(&self.out.buffer, &mut self.out.written);
                return written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EPIPE as i32)));
            }
            Some(Port::Pty(pty)) => pty,
        };
        while self.out.written < self.out.buffer.len() {
            match unistd::write(pty.as_fd(), &self.out.buffer[self.out.written..]) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(false),
                Ok(count) => self.out.written += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// A pty reports room only while it is asked for: each read of its reader would be an event otherwise.
    fn watch_room(&mut self, context: &Context, watch: bool) -> Result<(), Errno> {
        if let (Some(Port::Pty(pty)), true) = (&self.port, self.blocked != watch) {
            let room = if watch { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | room;
            context.epoll.modify(pty, &mut EpollEvent::new(flags, self.index as u64))?;
            self.blocked = watch;
        }
        Ok(())
    }

    /// All of the outgoing buffer is with the kernel.
    fn written(&mut self, context: &mut Context, now_ns: u64) -> Result<Step, Error> {
        self.watch_room(context, false)?;
        let sent_ns = context.wall_now_ns();
        if self.out.sent_ns == 0 {
            self.out.sent_ns = sent_ns;
        }
        let is_http = matches!(self.way, Way::Http(_));
        match self.out.what {
            What::Nothing => unreachable!("nothing is never written"),
            What::Garbage => {
                self.enter(context, 0, Status::Garbage)?;
                // It was joined to a line cut off before it, if there was one, and ended it.
                self.joined = false;
                self.garbage_made = true;
                self.out.what = What::Nothing;
            }
            What::Cut if is_http => {
                context.counts.cut_requests += 1;
                self.cut_made = true;
                self.out.what = What::Nothing;
                self.hang_up(context, now_ns, false);
            }
            What::Cut => {
                self.enter(context, 0, Status::Damaged)?;
                let hangs_up = context.schedule.happens(self.index, self.next, Draw::CutHangsUp);
                self.finish_record(context, now_ns, hangs_up);
                self.joined = !hangs_up && !context.options.speech.connection_per_record;
            }
            What::Record if is_http => {
                let until_ns = now_ns + ANSWER_TIMEOUT_NS;
                self.state = State::Awaiting { until_ns };
                return Ok(Step::Wait(until_ns));
            }
            What::Record => {
                let status = if self.joined { Status::Damaged } else { Status::Sent };
                self.joined = false;
                self.enter(context, 0, status)?;
                let hangs_up = context.schedule.happens(self.index, self.next, Draw::HangUp);
                self.finish_record(context, now_ns, hangs_up);
            }
        }
        Ok(Step::Again)
    }

    fn finish_record(&mut self, context: &mut Context, now_ns: u64, hangs_up: bool) {
        let sequence = self.next;
        self.next += self.out.lengths.len() as u64;
        self.garbage_made = false;
        self.cut_made = false;
        self.out.what = What::Nothing;
        if hangs_up {
            context.counts.hang_ups += 1;
            let reset = context.schedule.happens(self.index, sequence, Draw::Reset);
            if matches!(self.way, Way::Http(_)) {
                self.hang_up(context, now_ns, reset);
            } else {
                self.state = State::Leaving { since_ns: now_ns, reset, last: false };
            }
        } else if context.options.speech.connection_per_record && matches!(self.way, Way::Tcp(_)) {
            self.state = State::Leaving { since_ns: now_ns, reset: false, last: false };
        } else if context.options.speech.connection_per_record && matches!(self.way, Way::Http(_)) {
            self.hang_up(context, now_ns, false);
        }
    }

    fn enter(&self, context: &mut Context, acknowledged_ns: u64, status: Status) -> io::Result<()> {
        let start_ns = context.start_ns.unwrap_or_default(); // nothing is sent before
        for (sequence, bytes) in (self.next..).zip(&self.out.lengths) {
            let scheduled_ns = context.wall_ns(start_ns + context.schedule.due_ns(self.index, sequence));
            let (name, sent_ns) = (&self.name, self.out.sent_ns);
            context.enter(name, sequence, scheduled_ns, sent_ns, acknowledged_ns, *bytes, status)?;
        }
        Ok(())
    }

    fn await_answer(&mut self, context: &mut Context, now_ns: u64, until_ns: u64) -> Result<Step, Error> {
        let Some(Port::Socket(wire)) = &mut self.port else { unreachable!("an answer comes on a connection") };
        let ended = loop {
            match wire.read(&mut context.input) {
                Ok(0) => break true,
                Ok(count) => self.answer.extend_from_slice(&context.input[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        let (status, keep_alive, retry_after_s) = match http::parse_answer(&self.answer) {
            // One that does not say that it has taken all is none.
            Answer::Whole { status: 200..=299, body_bytes, .. } if !self.says_all(context, body_bytes) => {
                self.lose_port(context, now_ns);
                return Ok(Step::Again);
            }
            Answer::Whole { status, keep_alive, retry_after_s, .. } => (status, keep_alive && !ended, retry_after_s),
            Answer::Unfinished if !ended && now_ns < until_ns => return Ok(Step::Wait(until_ns)),
            Answer::Unfinished | Answer::Malformed => {
                self.lose_port(context, now_ns);
                return Ok(Step::Again);
            }
        };
        self.answer.clear();
        self.state = State::Ready;
        if matches!(status, 408 | 429 | 500..) {
            context.counts.retried += 1;
            self.out.written = 0;
            let delay_ns = retry_after_s.map_or_else(|| self.back_off(), |seconds| seconds * 1_000 * MS);
            self.state = State::Pause { until_ns: now_ns + delay_ns };
        } else {
            self.retry_ns = RETRY_FIRST_NS;
            let status = if (200..300).contains(&status) { Status::Acknowledged } else { Status::Refused };
            let acknowledged_ns = context.wall_now_ns();
            self.enter(context, acknowledged_ns, status)?;
            let hangs_up = context.schedule.happens(self.index, self.next, Draw::HangUp);
            self.finish_record(context, now_ns, hangs_up);
        }
        if !keep_alive {
            self.port = None;
            if self.state == State::Ready {
                self.state = State::Closed;
            }
        }
        Ok(Step::Again)
    }

    /// Whether an answer says that all records of a batch were taken.
    fn says_all(&self, context: &Context, body_bytes: usize) -> bool {
        let records = self.out.lengths.len() as u64;
        context.options.speech.batch.is_none() || http::accepted(&self.answer, body_bytes) == Some(records)
    }

    /// Waits until the reader has all, then hangs up.
    fn leave(&mut self, context: &mut Context, now_ns: u64, since_ns: u64, reset: bool, last: bool) -> Step {
        let waited_ns = now_ns - since_ns;
        let gone = match &mut self.port {
            Some(Port::Pty(pty)) => pty.is_drained().unwrap_or(waited_ns >= UNSEEN_GRACE_NS),
            Some(Port::Socket(wire)) if reset => wire.is_acknowledged(),
            Some(Port::Socket(wire)) => {
                wire.shutdown();
                wire.is_at_end(&mut context.input) // the peer closes when it has read everything
            }
            None => true,
        };
        if !gone && (last || waited_ns < LEAVE_TIMEOUT_NS) {
            return Step::Wait(now_ns + DRAIN_POLL_NS.max(context.reader_poll_ns / 4));
        }
        context.counts.unread_ports += u64::from(!gone);
        if last {
            self.port = None;
            self.state = State::Done;
        } else {
            self.hang_up(context, now_ns, reset);
        }
        Step::Again
    }

    fn hang_up(&mut self, context: &Context, now_ns: u64, reset: bool) {
        match self.port.take() {
            Some(Port::Socket(wire)) if reset => wire.reset(),
            _ => {}
        }
        self.joined = false;
        self.answer.clear();
        self.state = if self.next >= context.schedule.records(self.index) {
            State::Done
        } else if context.options.speech.connection_per_record {
            // It connects when the next one is due. Nobody hangs up before the start.
            let (_, due_ns) = self.batch(context, context.start_ns.unwrap_or_default());
            State::Pause { until_ns: due_ns.max(now_ns) }
        } else {
            State::Pause { until_ns: now_ns + context.options.away.as_nanos() as u64 }
        };
    }

    /// The run ends although this machine is not done: enters what became of its record, and counts what it never sent.
    pub(super) fn abandon(&mut self, context: &mut Context) -> io::Result<()> {
        let is_http = matches!(self.way, Way::Http(_));
        if let State::Leaving { last: true, .. } = self.state {
            context.counts.unread_ports += 1;
        } else if self.out.what != What::Nothing && is_http && self.out.sent_ns != 0 {
            self.enter(context, 0, Status::Unanswered)?;
            self.next += self.out.lengths.len() as u64;
        } else if self.out.what == What::Record && self.out.written > 0 && !is_http {
            self.enter(context, 0, Status::Damaged)?;
            self.next += 1;
        }
        let start_ns = context.start_ns.unwrap_or(u64::MAX);
        let due = (self.next..context.schedule.records(self.index))
            .take_while(|&n| start_ns.saturating_add(context.schedule.due_ns(self.index, n)) < context.stop_ns);
        context.counts.unsent += due.count() as u64;
        self.port = None;
        self.state = State::Done;
        Ok(())
    }
}

/// A frame of 2 to 65 bytes between exclamation marks, any bytes but those of the delimiter, and the delimiter: it has no valid
/// checksum, cannot be taken for white space and harms no record. Returns its length without the delimiter.
fn encode_garbage(buffer: &mut Vec<u8>, seed: u64, end: &[u8]) -> usize {
    let start = buffer.len();
    let mut random = fastrand::Rng::with_seed(seed);
    buffer.push(b'!');
    for _ in 0..random.usize(0..64) {
        let byte = random.u8(..);
        buffer.push(if end.contains(&byte) { b'?' } else { byte });
    }
    buffer.push(b'!');
    let bytes = buffer.len() - start;
    buffer.extend_from_slice(end);
    bytes
}
