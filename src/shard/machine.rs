//! HTTP machines: requests become records, and are answered once the records are as durable as configured.

use super::lane::{Doing, Waiting};
use super::link::{Closing, HttpMachine, State};
use super::timer::Timer;
use super::{Fd, LinkId, Now, Op, Phase, Readable, RecvEnd, Shard, SourceId};
use crate::config::Durability;
use crate::ground::RecordNumber;
use crate::http::server::{Request, ServerConnection, Verdict};
use crate::journal::{Appended, NewRecord};
use crate::observe::snapshot::Stage;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;

/// How long a closed connection is drained before it is given up (RFC 9112 section 9.6).
const LINGER_NS: u64 = 2_000_000_000;
/// Spare buffers for answers; an idle connection keeps none.
const SEND_BUFFERS_MAX: usize = 256;
/// What a machine is told to wait when the journal is full.
const RETRY_AFTER_S: u32 = 1;
/// How long a machine waits for its records to be on disk. Then the connection is closed without an answer, since neither would
/// be true: a 201 for what a loss of power may take, nor a 503 for what will be delivered.
const COMMIT_WAIT_NS: u64 = 30_000_000_000;

impl Shard {
    pub(super) fn accept_machine(&mut self, now: Now, source: SourceId, fd: Fd) -> LinkId {
        let machine = HttpMachine {
            source,
            connection: ServerConnection::new(now.mono_ns),
            lane: None,
            origin: None,
            sending: false,
            dirty: false,
            waiting: false,
            waiting_since_ns: 0,
            closing: Closing::No,
            paused: false,
            reading: true,
            timer_ns: u64::MAX,
        };
        let link = self.links.insert(Some(fd), State::Http(Box::new(machine)));
        if let Some((_, State::Http(mut machine))) = self.links.take(link) {
            self.set_machine_timer(link, &mut machine);
            self.links.put(link, State::Http(machine));
        }
        link
    }

    pub(super) fn machine_received(
        &mut self,
        now: Now,
        link: LinkId,
        mut machine: Box<HttpMachine>,
        bytes: &mut [u8],
    ) -> State {
        self.count_bytes(now, machine.source, bytes.len());
        let settings = std::sync::Arc::clone(&self.settings);
        let mut input: &[u8] = bytes;
        // Moved out so that a request may borrow from it while the rest is changed.
        let mut connection = std::mem::replace(&mut machine.connection, ServerConnection::new(0));
        while let Some(request) = connection.next_request(&settings.limits, now.mono_ns, &mut input) {
            let verdict = self.accept_request(now, &mut machine, &request);
            connection.respond(verdict);
        }
        machine.connection = connection;
        if !machine.connection.wants_read() && machine.closing == Closing::No && !machine.paused && machine.reading {
            machine.paused = true;
            self.ops.push_back(Op::PauseRecv { link });
        }
        self.mark_dirty(link, &mut machine);
        State::Http(machine)
    }

    /// Journals the body of a request as a record.
    fn accept_request(&mut self, now: Now, machine: &mut HttpMachine, request: &Request<'_>) -> Verdict {
        let key = request.idempotency_key.unwrap_or_default();
        let full = !self.journal().can_append(now, key.len() + request.body.len());
        if full || self.phase != Phase::Running {
            return Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
        }
        let lane = match machine.lane {
            Some(lane) => lane,
            None => {
                let lane = self.new_lane();
                self.lanes[lane as usize].needs_durable = self.journal().durability() == Durability::Power;
                machine.lane = Some(lane);
                lane
            }
        };
        let same = machine.origin.filter(|origin| &*self.journals[0].journal.origin(*origin).name == request.source);
        let origin = match same {
            Some(origin) => origin,
            None => {
                let origin = self.open_origin(lane, machine.source, request.source);
                if let Some(older) = machine.origin.replace(origin) {
                    // The connection goes on under another name, in the same lane.
                    self.leave_lane(lane, older);
                }
                origin
            }
        };
        let frame_ns = now.mono_ns - request.first_byte_ns;
        let record = NewRecord {
            origin,
            flags: 0,
            first_byte_wall_ns: now.wall_ns.saturating_sub(frame_ns),
            frame_us: (frame_ns / 1000) as u32,
            key,
            data: request.body,
        };
        let Appended { number, at } = self.journal().append_record(now, record).expect("room was made");
        self.source(machine.source).received += 1;
        let first_byte_ns = request.first_byte_ns;
        self.stages.record(Stage::Frame, frame_ns);
        self.stages.record(Stage::Journaled, 0);
        self.enqueue(now, lane, Waiting { number, at, origin, first_byte_ns, journaled_ns: now.mono_ns });
        Verdict::Accepted { last_number: number.0, records: 1 }
    }

    fn mark_dirty(&mut self, link: LinkId, machine: &mut HttpMachine) {
        if !machine.dirty {
            machine.dirty = true;
            self.dirty_machines.push(link);
        }
    }

    fn pop_durable_waiter(&mut self, durable_below: RecordNumber) -> Option<LinkId> {
        let first = self.durable_waiters.peek_mut().filter(|first| first.0.0 < durable_below.0)?;
        let Reverse((_, link)) = PeekMut::pop(first);
        Some(link)
    }

    /// What became durable lets answers and deliveries go.
    pub(super) fn release_durable(&mut self) {
        if self.durable_waiters.is_empty() && self.durable_lanes.is_empty() {
            return;
        }
        let durable_below = self.journals[0].journal.durable_below();
        while let Some(link) = self.pop_durable_waiter(durable_below) {
            let Some((_, State::Http(mut machine))) = self.links.take(link) else { continue };
            machine.waiting = false; // if it waits for more, it is listed anew when it is flushed
            self.mark_dirty(link, &mut machine);
            self.links.put(link, State::Http(machine));
        }
        while let Some((_, index, generation)) = self.durable_lanes.pop_front_if(|(number, ..)| *number < durable_below)
        {
            let lane = self.lanes.get(index as usize).filter(|lane| lane.generation == generation);
            if lane.is_some_and(|lane| lane.doing == Doing::AwaitsDurable) {
                self.make_ready(index);
            }
        }
    }

    /// Sends what may be sent now, once a turn for each connection.
    pub(super) fn flush_machines(&mut self, now: Now) {
        let mut dirty = std::mem::take(&mut self.dirty_machines);
        for link in dirty.drain(..) {
            let Some((fd, state)) = self.links.take(link) else { continue };
            let State::Http(mut machine) = state else { unreachable!("only HTTP links are listed") };
            machine.dirty = false;
            self.flush_machine(now, link, fd, &mut machine);
            self.links.put(link, State::Http(machine));
        }
        // To flush lists nothing, so that the list and its memory serve again.
        debug_assert!(self.dirty_machines.is_empty());
        self.dirty_machines = dirty;
    }

    fn flush_machine(&mut self, now: Now, link: LinkId, fd: Option<Fd>, machine: &mut HttpMachine) {
        let durable_below = self.journals[0].journal.durable_below();
        machine.connection.release(durable_below.0);
        if !machine.waiting
            && let Some(number) = machine.connection.awaits()
        {
            machine.waiting = true;
            machine.waiting_since_ns = now.mono_ns;
            self.durable_waiters.push(Reverse((number, link)));
        }
        if machine.closing != Closing::No || machine.sending {
            return;
        }
        let fd = fd.expect("an accepted connection has a file");
        let mut out = self.send_buffers.pop().unwrap_or_default();
        let output = machine.connection.take_output(now.mono_ns, self.date.at(now.wall_ns), &mut out);
        self.counters.http_accepted += u64::from(output.accepted);
        self.counters.http_refused += u64::from(output.refused);
        self.counters.http_unavailable += u64::from(output.unavailable);
        if output.close {
            machine.closing = Closing::AfterSend;
        }
        if !out.is_empty() {
            machine.sending = true;
            self.ops.push_back(Op::Send { link, fd, bytes: out });
        } else {
            self.send_buffers.push(out);
            if output.close {
                self.linger(now, link, fd, machine);
            }
        }
        if machine.paused && machine.connection.wants_read() {
            machine.paused = false;
            if !machine.reading {
                machine.reading = true;
                self.ops.push_back(Op::Recv { link, fd, kind: Readable::Socket });
            }
        }
        self.set_machine_timer(link, machine);
    }

    /// FIN, then what still comes is dropped, so that the peer reads the answer before it sees a reset.
    fn linger(&mut self, now: Now, link: LinkId, fd: Fd, machine: &mut HttpMachine) {
        if !machine.reading && !machine.paused {
            // The peer has sent its FIN already.
            self.end_machine(link, machine);
            return;
        }
        machine.closing = Closing::Lingering;
        self.ops.push_back(Op::Shutdown { link, fd });
        machine.timer_ns = now.mono_ns + LINGER_NS;
        self.timers.set(machine.timer_ns, Timer::link(link));
    }

    pub(super) fn machine_sent(
        &mut self,
        now: Now,
        link: LinkId,
        mut machine: Box<HttpMachine>,
        mut bytes: Vec<u8>,
        result: Result<(), i32>,
    ) -> State {
        machine.sending = false;
        if self.send_buffers.len() < SEND_BUFFERS_MAX {
            bytes.clear();
            self.send_buffers.push(bytes);
        }
        if result.is_err() {
            self.end_machine(link, &mut machine);
        } else if machine.closing == Closing::AfterSend {
            let fd = self.links.find(link).and_then(|found| found.fd).expect("an accepted connection has a file");
            self.linger(now, link, fd, &mut machine);
        } else {
            self.mark_dirty(link, &mut machine);
        }
        State::Http(machine)
    }

    pub(super) fn machine_ended(&mut self, link: LinkId, mut machine: Box<HttpMachine>, end: RecvEnd) -> State {
        machine.reading = false;
        match end {
            RecvEnd::Paused => {
                // Resumed meanwhile, or resumed when the answers are out: both are looked at when the turn ends.
                if machine.closing == Closing::No && machine.connection.wants_read() {
                    machine.paused = true;
                }
                self.mark_dirty(link, &mut machine);
            }
            RecvEnd::Error(_) => self.end_machine(link, &mut machine),
            RecvEnd::Closed if machine.closing == Closing::Lingering => self.end_machine(link, &mut machine),
            RecvEnd::Closed => {
                machine.connection.handle_eof();
                machine.paused = false;
                self.mark_dirty(link, &mut machine);
            }
        }
        State::Http(machine)
    }

    /// The connection is over; its records stay.
    fn end_machine(&mut self, link: LinkId, machine: &mut HttpMachine) {
        self.close(link);
        self.count_out(machine.source);
        if let (Some(lane), Some(origin)) = (machine.lane.take(), machine.origin.take()) {
            self.leave_lane(lane, origin);
        }
    }

    fn set_machine_timer(&mut self, link: LinkId, machine: &mut HttpMachine) {
        if machine.closing != Closing::No {
            return;
        }
        let unwritten = machine.waiting.then_some(machine.waiting_since_ns + COMMIT_WAIT_NS);
        let deadlines = [machine.connection.deadline_ns(&self.settings.limits), unwritten];
        if let Some(due) = deadlines.into_iter().flatten().min()
            && due < machine.timer_ns
        {
            machine.timer_ns = due;
            self.timers.set(due, Timer::link(link));
        }
    }

    pub(super) fn machine_timer(&mut self, now: Now, link: LinkId, mut machine: Box<HttpMachine>) -> State {
        if now.mono_ns < machine.timer_ns {
            return State::Http(machine); // an older, earlier setting
        }
        machine.timer_ns = u64::MAX;
        match machine.closing {
            Closing::Lingering => self.end_machine(link, &mut machine),
            Closing::AfterSend => {}
            Closing::No if machine.waiting && now.mono_ns >= machine.waiting_since_ns + COMMIT_WAIT_NS => {
                self.counters.http_unanswered += 1;
                self.end_machine(link, &mut machine);
            }
            Closing::No => {
                machine.connection.handle_deadline(now.mono_ns, &self.settings.limits);
                self.mark_dirty(link, &mut machine);
                self.set_machine_timer(link, &mut machine);
            }
        }
        State::Http(machine)
    }

    /// Whether no machine waits for an answer.
    pub(super) fn machines_are_answered(&self) -> bool {
        self.links.iter().all(|(_, link)| match &link.state {
            State::Http(machine) => machine.closing == Closing::Lingering,
            _ => true,
        })
    }

    /// Intake ends: what was accepted is still answered, then the connection closes.
    pub(super) fn stop_machine(&mut self, link: LinkId, mut machine: Box<HttpMachine>) -> State {
        machine.connection.handle_eof();
        self.mark_dirty(link, &mut machine);
        State::Http(machine)
    }
}
