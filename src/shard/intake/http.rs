//! HTTP machines: requests become records, and are answered once the records are as durable as
//! configured. What is decided by another core is passed on to it.

use super::Placement;
use super::access::{Door, Who};
use super::arrivals::Whence;
use super::guests::Sent;
use super::hold::Hold;
use super::queue::{Queued, RoomQueue};
use super::secure::NoSession;
use super::sender::{RETRY_AFTER_S, Sender};
use super::source::Sources;
use super::vetting::Vetting;
use crate::access::{Denial, Looked};
use crate::ground::{CoreId, Fd, LinkId, Moment, RecordNumber, SourceId};
use crate::http::date::HttpDate;
use crate::http::server::{Awaited, Caller, Details, Request, Rules, ServerConnection, Stranger, Turned, Verdict};
use crate::shard::links::{Kind, Table};
use crate::shard::op::{Op, Parcel, PassedOn, Readable, RecvEnd};
use crate::shard::refusals::{Refusal, reason_of};
use crate::shard::store::Store;
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// How long a closed connection is drained before it is given up (RFC 9112 section 9.6).
const LINGER_NS: u64 = 2_000_000_000;
/// Spare buffers for answers; an idle connection keeps none.
const SEND_BUFFERS_MAX: usize = 256;
/// How long a machine waits for its records to be on disk. Then a request that is known by its key is
/// answered 409. Any other connection is closed without an answer, since neither would be true: a
/// 201 for what a loss of power may take, nor a 503 for what will be delivered.
const COMMIT_WAIT_NS: u64 = 30_000_000_000;
/// How long a request is held back at most while room for it is being made.
const ROOM_WAIT_NS: u64 = COMMIT_WAIT_NS;

/// A machine's certificate has another name than its request.
const OTHER_MACHINE: Verdict = Verdict::Refused {
    status: 403,
    rule: "the certificate of a machine is for its SOURCE",
    details: &Details { came: "another SOURCE", allowed: "the name in the certificate (name_from)" },
    part: None,
};

/// How far an HTTP connection is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// It is not.
    No,
    /// The last answer is being sent.
    AfterSend,
    /// FIN was sent; what still comes is thrown away until the peer closes or the time is over.
    Lingering,
}

/// An HTTP machine's connection.
#[derive(Debug)]
pub(super) struct Machine {
    /// The core that it is on.
    here: CoreId,
    /// Where it comes from, if `sender.peer` is not the other end, or may come to be another: a proxy may
    /// tell. Of most connections there is nothing to keep.
    whence: Option<Box<Whence>>,
    sender: Sender,
    connection: ServerConnection,
    sending: bool,
    /// Listed to be looked at when the turn ends.
    dirty: bool,
    /// Since when it is listed to be looked at when something became durable.
    waiting_since: Option<Moment>,
    /// The request that waits for room in the journal.
    hold: Option<Box<Hold>>,
    /// The secret that was looked at last, or is being looked at.
    vetting: Option<Box<Vetting>>,
    closing: Closing,
    /// Reading was stopped, or is being stopped, since too many answers wait, or a request for room.
    paused: bool,
    reading: bool,
    /// When the link's timer is set for.
    timer: Option<Moment>,
    /// Cores that requests were passed on to. With lanes of connections, what follows them to the same SOURCE is, too, with
    /// a key or without, so that its order is kept.
    passed_to: Vec<CoreId>,
}

/// The HTTP machines of a core: what they ask, and what they are answered. They know nothing of
/// what is delivered.
#[derive(Debug)]
pub(super) struct Machines {
    here: CoreId,
    table: Table<Machine>,
    /// Connections to be looked at when the turn ends.
    dirty: Vec<LinkId>,
    /// Buffers of answers that were sent.
    send_buffers: Vec<Vec<u8>>,
    /// Connections whose answers wait for durability, with the number of the first record that is
    /// waited for.
    durable_waiters: BinaryHeap<Reverse<(RecordNumber, LinkId)>>,
    /// What other cores have.
    sent: Sent,
    date: HttpDate,
}

/// What is lent to take requests.
struct Taking<'a, 't> {
    turn: &'a mut Turn<'t>,
    store: &'a mut Store,
    sources: &'a mut Sources,
    placement: &'a Placement,
    sent: &'a mut Sent,
    door: &'a mut Door,
}

impl Machine {
    /// Takes the requests in what was read. One for which there is no room at this moment is held
    /// back, with all behind it.
    fn read(&mut self, lent: &mut Taking<'_, '_>, link: LinkId, bytes: &[u8]) {
        if let Some(hold) = &mut self.hold {
            hold.add(bytes);
            return;
        }
        if let Some(vetting) = self.vetting.as_mut().filter(|vetting| vetting.waits()) {
            vetting.add(bytes);
            return;
        }
        let now_ns = lent.turn.now.mono_ns;
        let settings = lent.turn.settings;
        let rules = Rules { limits: &settings.limits.http, forms: &lent.turn.source(self.sender.source).forms };
        let mut input = bytes;
        loop {
            let Self { whence, sender, passed_to, connection, vetting, .. } = self;
            let id = sender.source;
            let from = whence.as_deref().copied().unwrap_or(Whence::peer(sender.peer));
            let mut judge = |caller: &Caller<'_>| {
                let who = (id, link, from, &mut sender.peer);
                lent.door.judge(lent.turn, lent.sources, who, (caller, &mut *vetting))
            };
            let request = connection.next_request(rules, now_ns, &mut input, &mut judge);
            if sender.peer != from.address() {
                whence.get_or_insert_with(|| Box::new(from));
            }
            let Some(request) = request else { break };
            let lane = (lent.turn.source(id).kind.lane(), sender.peer);
            let verdict = match lent.placement.owner_of_request(lent.store, lane, &request, passed_to) {
                _ if lent.sources.is_another_machine(lent.turn.settings, link, request.source) => {
                    sender.note(lent.turn, &request, OTHER_MACHINE);
                    Some(OTHER_MACHINE)
                }
                Some(owner) => Some(Self::pass_on(sender, passed_to, lent, link, (owner, &request))),
                None => sender.take(lent.turn, lent.store, lent.sources, &request),
            };
            match verdict {
                Some(verdict) => self.connection.respond(verdict),
                None => {
                    lent.turn.counters.http_held_back += 1;
                    self.hold = Some(Box::new(Hold::new(&request, now_ns, input)));
                    lent.sources.queue.push(Queued::Machine(link));
                    break;
                }
            }
        }
        match &mut self.vetting {
            Some(vetting) if vetting.waits() => vetting.add(input),
            vetting => drop(vetting.take_if(|vetting| !vetting.lasts())),
        }
        if !self.wants_read() && self.closing == Closing::No && !self.paused && self.reading {
            self.paused = true;
            lent.turn.emit(Op::PauseRecv { link });
        }
    }

    /// Answers the request that was held back, and goes on with what came behind it.
    fn end_hold(&mut self, lent: &mut Taking<'_, '_>, link: LinkId, hold: Hold, verdict: Verdict) {
        self.connection.respond(verdict);
        let (rest, is_last) = hold.into_rest();
        self.read(lent, link, &rest);
        if is_last {
            self.handle_eof();
        }
    }

    /// Nothing more is to be taken of the peer than what was read.
    fn handle_eof(&mut self) {
        match (&mut self.hold, &mut self.vetting) {
            (Some(hold), _) => hold.end(),
            (None, Some(vetting)) if vetting.waits() => vetting.end(),
            (None, _) => self.connection.handle_eof(),
        }
    }

    fn is_vetting(&self) -> bool {
        self.vetting.as_ref().is_some_and(|vetting| vetting.waits())
    }

    fn whence(&self) -> Whence {
        self.whence.as_deref().copied().unwrap_or(Whence::peer(self.sender.peer))
    }

    fn wants_read(&self) -> bool {
        self.hold.is_none() && !self.is_vetting() && self.connection.wants_read()
    }

    /// The connection is over; its records stay.
    fn end(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        turn.close(link);
        sources.count_out(turn, self.sender.source, link, Some(self.whence().address()));
        self.sender.leave(store);
        for core in std::mem::take(&mut self.passed_to) {
            turn.emit(Op::PassOn { core, parcel: Parcel::Left { core: self.here, link } });
        }
    }

    /// Passes a request on to the core that its SOURCE belongs to.
    fn pass_on(
        sender: &Sender,
        passed_to: &mut Vec<CoreId>,
        lent: &mut Taking<'_, '_>,
        link: LinkId,
        (owner, request): (CoreId, &Request<'_>),
    ) -> Verdict {
        let Some(ticket) = lent.sent.add(request.body.len()) else {
            let verdict = Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
            sender.note(lent.turn, request, verdict);
            return verdict;
        };
        if !passed_to.contains(&owner) {
            passed_to.push(owner);
        }
        let passed_on = PassedOn {
            core: lent.placement.core,
            link,
            ticket,
            source: sender.source,
            peer: sender.peer,
            name: request.source.into(),
            key: request.idempotency_key.map(Into::into),
            headers: request.headers.as_bytes().into(),
            content_type: request.content_type.map(Into::into),
            body: request.body.into(),
            first_byte_ns: request.first_byte_ns,
        };
        lent.turn.emit(Op::PassOn { core: owner, parcel: Parcel::Request(Box::new(passed_on)) });
        Verdict::Elsewhere { ticket, keyed: request.idempotency_key.is_some() }
    }

    fn wake_at(&mut self, turn: &mut Turn<'_>, link: LinkId, due_ns: u64) {
        self.timer = Some(Moment::at(due_ns));
        turn.timers.set(due_ns, Timer::Link(link));
    }

    fn set_timer(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        if self.closing != Closing::No {
            return;
        }
        const NEVER_NS: u64 = u64::MAX;
        let read_ns = self.connection.deadline_ns(&turn.settings.limits.http).unwrap_or(NEVER_NS);
        let written_ns = self.waiting_since.map_or(NEVER_NS, |since| since.ns() + COMMIT_WAIT_NS);
        let room_ns = self.hold.as_ref().map_or(NEVER_NS, |hold| hold.since_ns() + ROOM_WAIT_NS);
        let due_ns = read_ns.min(written_ns).min(room_ns);
        if due_ns < self.timer.map_or(NEVER_NS, Moment::ns) {
            self.wake_at(turn, link, due_ns);
        }
    }

    /// FIN, then what still comes is dropped, so that the peer reads the answer before it sees a
    /// reset.
    fn linger(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId, fd: Fd) {
        if !self.reading && !self.paused {
            // The peer has sent its FIN already.
            self.end(turn, store, sources, link);
            return;
        }
        self.closing = Closing::Lingering;
        turn.emit(Op::Shutdown { link, fd });
        self.wake_at(turn, link, turn.now.mono_ns + LINGER_NS);
    }

    /// Lists it to be looked at when the turn ends.
    fn mark_dirty(&mut self, dirty: &mut Vec<LinkId>, link: LinkId) {
        if !std::mem::replace(&mut self.dirty, true) {
            dirty.push(link);
        }
    }
}

impl Machines {
    pub fn new(here: CoreId) -> Self {
        Self {
            here,
            table: Table::default(),
            dirty: Vec::new(),
            send_buffers: Vec::new(),
            durable_waiters: BinaryHeap::new(),
            sent: Sent::default(),
            date: HttpDate::new(),
        }
    }

    /// A connection was accepted.
    pub fn accept(&mut self, turn: &mut Turn<'_>, link: LinkId, source: SourceId, whence: Whence) {
        let mut machine = Machine {
            here: self.here,
            whence: whence.told.map(|_| Box::new(whence)),
            sender: Sender::new(source, whence.address()),
            connection: ServerConnection::new(turn.now.mono_ns),
            sending: false,
            dirty: false,
            waiting_since: None,
            hold: None,
            vetting: None,
            closing: Closing::No,
            paused: false,
            reading: true,
            timer: None,
            passed_to: Vec::new(),
        };
        machine.set_timer(turn, link);
        self.table.insert(link, machine);
    }

    /// Bytes were read.
    pub fn received(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        (placement, door): (&Placement, &mut Door),
        (link, bytes): (LinkId, &mut [u8]),
    ) {
        let Self { table, sent, .. } = self;
        let machine = table.of(link);
        sources.count_bytes(turn, machine.sender.source, bytes.len());
        let mut lent = Taking { turn: &mut *turn, store, sources: &mut *sources, placement, sent, door: &mut *door };
        machine.read(&mut lent, link, bytes);
        machine.mark_dirty(&mut self.dirty, link);
        match machine.connection.take_stranger() {
            None => {}
            Some(Stranger::TlsHello) => {
                sources.secures.faults.note_hello(turn, machine.sender.source, machine.whence().address());
            }
            Some(Stranger::ProxyHeader) => {
                let who = Who::peer(machine.sender.source, machine.whence().peer);
                door.deny(turn, sources, who, Denial::ProxyHeader, "");
            }
        }
    }

    /// A request that was held back, and whose turn it is, is taken if there is room now; whether it
    /// waits no more. What came behind it waits behind all others.
    pub fn go_on(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        (placement, door): (&Placement, &mut Door),
        link: LinkId,
    ) -> bool {
        if !turn.links.is_open(link, Kind::Http) {
            return true;
        }
        let Self { table, sent, .. } = self;
        let machine = table.of(link);
        // It may have been answered without room meanwhile.
        let Some(hold) = machine.hold.take() else { return true };
        let Some(verdict) = machine.sender.take(turn, store, sources, &hold.request()) else {
            machine.hold = Some(hold);
            sources.queue.push(Queued::Machine(link));
            return false;
        };
        sources.queue.set_asks_first(false);
        machine.end_hold(&mut Taking { turn, store, sources, placement, sent, door }, link, *hold, verdict);
        machine.mark_dirty(&mut self.dirty, link);
        true
    }

    /// It is known what the secret is worth on which a request waits: that goes on, and what came behind it.
    pub fn secret_looked(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        (placement, door): (&Placement, &mut Door),
        (link, looked): (LinkId, Looked),
    ) {
        let Self { table, sent, .. } = self;
        let machine = table.of(link);
        let Some((rest, is_last)) = machine.vetting.as_mut().and_then(|vetting| vetting.looked(looked)) else { return };
        machine.read(&mut Taking { turn, store, sources, placement, sent, door }, link, &rest);
        if is_last {
            machine.handle_eof();
        }
        machine.mark_dirty(&mut self.dirty, link);
    }

    /// Another core tells what became of a request of so many bytes.
    pub fn answered_elsewhere(
        &mut self,
        turn: &Turn<'_>,
        link: LinkId,
        (ticket, bytes): (u64, usize),
        verdict: Verdict,
    ) {
        self.sent.remove(bytes);
        if !turn.links.is_open(link, Kind::Http) {
            return;
        }
        let machine = self.table.of(link);
        if machine.connection.settle(ticket, verdict) == Some(true) {
            machine.waiting_since = None; // if it waits for more, it is listed anew when it is flushed
        }
        machine.mark_dirty(&mut self.dirty, link);
    }

    /// Whether somebody waits for a commit.
    pub fn await_durable(&self) -> bool {
        !self.durable_waiters.is_empty()
    }

    fn pop_durable_waiter(&mut self, durable_below: RecordNumber) -> Option<LinkId> {
        let first = self.durable_waiters.peek_mut().filter(|first| first.0.0 < durable_below)?;
        let Reverse((_, link)) = PeekMut::pop(first);
        Some(link)
    }

    /// What became durable lets answers go.
    pub fn release_durable(&mut self, turn: &Turn<'_>, store: &Store) {
        if self.durable_waiters.is_empty() {
            return;
        }
        let durable_below = store.durable_below();
        while let Some(link) = self.pop_durable_waiter(durable_below) {
            if turn.links.is_open(link, Kind::Http) {
                let machine = self.table.of(link);
                machine.waiting_since = None; // if it waits for more, it is listed anew when it is flushed
                machine.mark_dirty(&mut self.dirty, link);
            }
        }
    }

    /// Sends what may be sent now, once a turn for each connection.
    pub fn flush(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            if turn.links.is_open(link, Kind::Http) {
                self.table.of(link).dirty = false;
                self.flush_one(turn, store, sources, link);
            }
        }
        // To flush lists nothing, so that the list and its memory serve again.
        debug_assert!(self.dirty.is_empty());
        self.dirty = dirty;
    }

    fn flush_one(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        let now = turn.now;
        let machine = self.table.of(link);
        machine.connection.release(store.durable_below().0);
        if machine.waiting_since.is_none()
            && let Some(awaited) = machine.connection.awaits()
        {
            machine.waiting_since = Some(Moment::at(now.mono_ns));
            if let Awaited::Durable(number) = awaited {
                self.durable_waiters.push(Reverse((RecordNumber(number), link)));
            }
        }
        if machine.closing != Closing::No || machine.sending {
            return;
        }
        let fd = turn.links.fd(link).expect("an accepted connection has a file");
        let mut out = self.send_buffers.pop().unwrap_or_default();
        let (source, peer) = (machine.sender.source, Some(machine.sender.peer));
        let mut hear = |heard: Turned<'_>| {
            let Turned { status, rule: words, line, machine } = heard;
            turn.refuse(&Refusal { source, reason: reason_of(status, words), words, peer, machine, line });
        };
        let date = self.date.at(now.wall_ns);
        let output = machine.connection.take_output(now.mono_ns, date, &mut out, &mut hear);
        turn.counters.http_accepted += u64::from(output.accepted);
        turn.counters.http_refused += u64::from(output.refused);
        turn.counters.http_unavailable += u64::from(output.unavailable);
        if output.close {
            machine.closing = Closing::AfterSend;
        }
        match sources.send(turn, (link, fd), out, output.close) {
            Ok((is_sent, buffer)) => {
                self.send_buffers.extend(buffer);
                machine.sending = is_sent;
            }
            Err(NoSession) => return machine.end(turn, store, sources, link),
        }
        if output.close && !machine.sending {
            machine.linger(turn, store, sources, link, fd);
        }
        if machine.paused && machine.wants_read() {
            machine.paused = false;
            if !machine.reading {
                machine.reading = true;
                turn.emit(Op::Recv { link, fd, kind: Readable::Socket, older: Vec::new() });
            }
        }
        machine.set_timer(turn, link);
    }

    /// A send is over.
    pub fn sent(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        link: LinkId,
        (mut bytes, result): (Vec<u8>, Result<(), i32>),
    ) {
        if self.send_buffers.len() < SEND_BUFFERS_MAX {
            bytes.clear();
            self.send_buffers.push(bytes);
        }
        let machine = self.table.of(link);
        machine.sending = false;
        if result.is_err() {
            machine.end(turn, store, sources, link);
        } else if machine.closing == Closing::AfterSend {
            let fd = turn.links.fd(link).expect("an accepted connection has a file");
            machine.linger(turn, store, sources, link, fd);
        } else {
            machine.mark_dirty(&mut self.dirty, link);
        }
    }

    /// The connection ends as it is; its records stay.
    pub fn end(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        self.table.of(link).end(turn, store, sources, link);
    }

    /// A read has ended.
    pub fn read_ended(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        link: LinkId,
        end: RecvEnd,
    ) {
        let machine = self.table.of(link);
        machine.reading = false;
        match end {
            RecvEnd::Paused => {
                // Resumed meanwhile, or resumed when the answers are out: both are looked at when
                // the turn ends.
                if machine.closing == Closing::No && machine.wants_read() {
                    machine.paused = true;
                }
                machine.mark_dirty(&mut self.dirty, link);
            }
            RecvEnd::Error(_) => machine.end(turn, store, sources, link),
            RecvEnd::Closed if machine.closing == Closing::Lingering => machine.end(turn, store, sources, link),
            RecvEnd::Closed => {
                machine.handle_eof();
                machine.paused = false;
                machine.mark_dirty(&mut self.dirty, link);
            }
        }
    }

    pub fn handle_timer(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        (placement, door): (&Placement, &mut Door),
        link: LinkId,
    ) {
        let now_ns = turn.now.mono_ns;
        let Self { table, sent, .. } = self;
        let machine = table.of(link);
        if machine.timer.take_if(|timer| timer.ns() <= now_ns).is_none() {
            return; // an older, earlier setting
        }
        match machine.closing {
            Closing::Lingering => machine.end(turn, store, sources, link),
            Closing::AfterSend => {}
            Closing::No if machine.waiting_since.is_some_and(|since| now_ns >= since.ns() + COMMIT_WAIT_NS) => {
                if machine.connection.give_up() {
                    machine.waiting_since = None;
                    let (source, peer) = (machine.sender.source, Some(machine.sender.peer));
                    let words = "its commit has taken longer than a machine waits";
                    let reason = reason_of(409, words);
                    turn.refuse(&Refusal { source, reason, words, peer, machine: None, line: "" });
                    machine.mark_dirty(&mut self.dirty, link);
                } else {
                    turn.counters.http_unanswered += 1;
                    machine.end(turn, store, sources, link);
                }
            }
            Closing::No => {
                if let Some(hold) = machine.hold.take_if(|hold| now_ns >= hold.since_ns() + ROOM_WAIT_NS) {
                    let verdict = Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
                    machine.sender.note(turn, &hold.request(), verdict);
                    let mut lent = Taking { turn: &mut *turn, store, sources, placement, sent, door };
                    machine.end_hold(&mut lent, link, *hold, verdict);
                }
                let was_open = machine.connection.wants_read();
                machine.connection.handle_deadline(now_ns, &turn.settings.limits.http);
                // Only one that is idle ends without an answer.
                turn.counters.idle_connections_ended += u64::from(was_open && machine.connection.is_finished());
                machine.mark_dirty(&mut self.dirty, link);
                machine.set_timer(turn, link);
            }
        }
    }

    /// Whether no machine waits for an answer.
    pub fn are_answered(&self, turn: &Turn<'_>) -> bool {
        turn.links.of_kind(Kind::Http).all(|link| self.table.get(link).closing == Closing::Lingering)
    }

    /// Intake ends: what was accepted is still answered, then the connection closes.
    pub fn stop(&mut self, link: LinkId) {
        let machine = self.table.of(link);
        machine.handle_eof();
        machine.mark_dirty(&mut self.dirty, link);
    }

    /// The connections of a source, by index.
    pub fn links_of(&self, turn: &Turn<'_>, id: SourceId) -> Vec<LinkId> {
        turn.links.of_kind(Kind::Http).filter(|link| self.table.get(*link).sender.source == id).collect()
    }

    /// Where a connection comes from.
    pub fn whence_of(&self, link: LinkId) -> Whence {
        self.table.get(link).whence()
    }

    /// A link is closed.
    pub fn forget(&mut self, link: LinkId) {
        self.table.forget(link);
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// That nobody is listed who is not marked, and nobody waits whom nobody has listed.
    pub fn check(&self, turn: &Turn<'_>, queue: &RoomQueue) {
        for link in &self.dirty {
            assert!(!turn.links.is_open(*link, Kind::Http) || self.table.get(*link).dirty);
        }
        let held = turn.links.of_kind(Kind::Http).filter(|link| self.table.get(*link).hold.is_some());
        assert!(held.take(64).all(|link| queue.has_machine(link)), "a request that is held back is listed");
        let is_waiting = |link: &LinkId| {
            let machine = self.table.get(*link);
            machine.waiting_since.is_some() && machine.connection.awaits() != Some(Awaited::Elsewhere)
        };
        let waiting = turn.links.of_kind(Kind::Http).filter(is_waiting);
        let listed = |link: &LinkId| self.durable_waiters.iter().any(|Reverse((_, other))| other == link);
        assert!(waiting.take(64).all(|link| listed(&link)), "a machine that waits for a commit is listed");
    }
}
