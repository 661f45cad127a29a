//! Streams of bytes, from ports and TCP connections: cut into records, which go into the store at
//! once.

use super::arrivals::Whence;
use super::attempts::Loss;
use super::content::judge;
use super::idle::{IDLE, Idling, Leaving};
use super::places::Place;
use super::pressure::Pressure;
use super::queue::RoomQueue;
use super::search::SearchBudget;
use super::source::{Brought, Sources, readable};
use crate::access::Denial;
use crate::config::{First, Flow, LaneKey, OnClose, Settings, Source, SourceKind, WhenFull, machine_name};
use crate::framing::{
    FrameFlags, Framed, Framer, Framing, Hint, Hints, Idle, Look, OnIdle, RejectReason, search_bytes_max,
};
use crate::ground::count::Stage;
use crate::ground::{KeptHeaders, LaneId, LinkId, RecordFlags, SourceId};
use crate::journal::{Claim, Full, Identity, NewRecord, OriginRef, Room};
use crate::shard::links::{Kind, Links, Table};
use crate::shard::op::{Op, RecvEnd};
use crate::shard::refusals::Refusal;
use crate::shard::store::Store;
use crate::shard::timer::Timer;
use crate::shard::turn::{Phase, Turn};
use crate::source::serial::{Mark, Parmrk};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// What comes so soon after an open may be the rest of what a machine was sending.
const JOINED_NS: u64 = 100_000_000;
/// The same in characters of a serial line: a slow one needs longer for the next byte of a record.
const JOINED_CHARACTERS: u64 = 30;

/// What a search may cost when intake ends, in budgets of a turn.
const SEARCHES_AT_STOP: usize = 64;

/// What all streams have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Most that is held of a serial line that nothing holds back, in bytes.
    pub held_bytes_max: usize,
    /// The turn in which a stream has gone on with a search.
    pub searched_ns: u64,
}

/// What a stream is lent for one call.
pub(super) struct Lent<'l, 't> {
    pub turn: &'l mut Turn<'t>,
    pub store: &'l mut Store,
    pub sources: &'l mut Sources,
    pub shared: &'l mut Shared,
}

/// Who sends on a stream, and the lane that its records go into.
#[derive(Debug)]
pub(super) struct Sender {
    pub source: SourceId,
    pub peer: Option<SocketAddr>,
    /// The other end, where that is a proxy which has told of the peer.
    pub proxy: Option<Box<SocketAddr>>,
    /// By its certificate, where that says who it is.
    pub name: Option<Box<str>>,
    lane: Option<(LaneId, OriginRef)>,
    brought: Brought,
}

/// Bytes to be framed. It decides what becomes a record, and when its link is read.
#[derive(Debug)]
pub(super) struct Stream {
    pub sender: Sender,
    pub(super) framer: Framer,
    /// Of a tty.
    parmrk: Option<Parmrk>,
    pub pressure: Pressure,
    /// For finding its step again.
    pub(super) search: SearchBudget,
    /// A read is armed.
    pub reading: bool,
    /// Connections of its machine that began before it, oldest first; some may be over.
    pub older: Vec<LinkId>,
    /// The stream ended while something was held.
    pub ended: bool,
    /// The link's timer is set for an idle gap.
    is_watched: bool,
    /// The peer was told that this is the end.
    pub(super) leaving: Option<Leaving>,
    /// How long nothing has come, where its source has a limit for that.
    pub(super) idling: Option<Box<Idling>>,
    /// What its first bytes say about its framing; one that has sent nothing has no memory for it.
    hints: Option<Box<Hints>>,
    /// That is said or settled.
    is_looked_at: bool,
    /// Nothing has come since the open; until when that is looked at, in monotonic nanoseconds. The
    /// timer alone ends it, behind all that came before: a core that was held up does not take the
    /// rest of a record for a beginning.
    fresh_ns: Option<u64>,
    /// The machine has closed its connection in order, or we have since it is idle.
    pub(super) closed: bool,
}

/// How long after the open of a source's port or connection what comes may be the rest of a record.
fn joined_ns(source: &Source) -> u64 {
    let SourceKind::Serial(port) = &source.kind else { return JOINED_NS };
    let characters_ns = JOINED_CHARACTERS * u64::from(port.line.character_bits()) * 1_000_000_000;
    JOINED_NS.max(characters_ns / u64::from(port.line.baud))
}

impl Sender {
    /// Where its connection comes from, if it was accepted.
    pub fn whence(&self) -> Option<Whence> {
        let address = self.peer?;
        let proxy = self.proxy.as_deref().copied();
        Some(Whence { peer: proxy.unwrap_or(address), told: proxy.map(|_| address) })
    }

    /// One frame of the stream, whose end came at `at_ns`. Without `room` the journal has none for
    /// a record.
    fn take(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, at_ns: u64, framed: Framed<'_>, room: Option<Room>) {
        let Lent { turn, sources, .. } = lent;
        match framed {
            Framed::Empty => turn.counters.empty_frames += 1,
            Framed::Garbage { bytes, count } => sources.count_garbage(turn, self.source, link, bytes, count),
            Framed::Rejected { reason, sample } => {
                if reason != RejectReason::Joined {
                    self.brought = Brought::More;
                } else if self.brought == Brought::Nothing {
                    self.brought = Brought::Joined;
                }
                sources.reject(turn, self.source, reason, sample);
                self.count_rejected(turn);
            }
            Framed::Record { bytes, first_byte_ns, flags } => {
                self.brought = Brought::More;
                let flags = match judge(turn.settings, turn.source(self.source), bytes, RecordFlags(flags.0)) {
                    Ok(flags) => flags,
                    Err(why) => {
                        sources.refuse(turn, self.source, why, RecordFlags(flags.0), bytes);
                        return self.count_rejected(turn);
                    }
                };
                let Some(room) = room else {
                    sources.reject_full(turn, self.source, bytes);
                    return self.count_rejected(turn);
                };
                turn.counters.cut_records += u64::from(flags.contains(RecordFlags::CUT));
                turn.counters.unended_records += u64::from(flags.contains(RecordFlags::UNENDED));
                turn.stages.record(Stage::Frame, at_ns.saturating_sub(first_byte_ns));
                turn.stages.record(Stage::Journaled, turn.now.mono_ns - at_ns);
                self.keep(lent, room, (bytes, flags), first_byte_ns);
            }
        }
    }

    fn keep(&mut self, lent: &mut Lent<'_, '_>, room: Room, (bytes, flags): (&[u8], RecordFlags), first_byte_ns: u64) {
        let (lane, origin) = match self.lane {
            Some(place) => place,
            None => *self.lane.insert(self.find_lane(lent)),
        };
        let now = lent.turn.now;
        let frame_ns = now.mono_ns - first_byte_ns;
        let record = NewRecord {
            origin,
            flags: flags.0,
            first_byte_wall_ns: now.wall_ns.saturating_sub(frame_ns),
            frame_us: (frame_ns / 1000) as u32,
            key: &[],
            hashes: None,
            headers: KeptHeaders::default(),
            data: bytes,
        };
        lent.store.keep(lent.turn, room, lane, record, first_byte_ns);
        lent.sources.count_record(lent.turn, self.source, flags);
    }

    /// Its lane, and a new origin in it.
    fn find_lane(&self, lent: &mut Lent<'_, '_>) -> (LaneId, OriginRef) {
        let Lent { turn, store, sources, .. } = lent;
        let id = self.source;
        let configured = turn.source(id);
        match (&configured.kind, self.peer) {
            (SourceKind::TcpListen { lane: LaneKey::Address, .. }, Some(peer)) => {
                let lane = sources.enter_place(store, id, Place::Address(peer.ip()), false);
                (lane, self.open_origin(store, configured, lane))
            }
            (_, Some(_)) => {
                let lane = store.new_lane(false);
                (lane, self.open_origin(store, configured, lane))
            }
            (_, None) => {
                let source = sources.of(id);
                match (source.lane, source.origin) {
                    (Some(lane), Some(origin)) => (lane, origin),
                    (older, _) => {
                        let lane = store.continue_lane(older, false);
                        let origin = self.open_origin(store, configured, lane);
                        (source.lane, source.origin) = (Some(lane), Some(origin));
                        (lane, origin)
                    }
                }
            }
        }
    }

    fn count_rejected(&self, turn: &mut Turn<'_>) {
        let configured = turn.source(self.source);
        turn.machines.rejected(turn.now, &configured.name, &self.name(configured, false));
    }

    /// What `{{source}}` shows of it. A machine is called so without the port of its connection.
    fn name<'s>(&'s self, configured: &'s Source, with_port: bool) -> Cow<'s, str> {
        let (SourceKind::TcpListen { lane, names, .. }, Some(peer)) = (&configured.kind, self.peer) else {
            return Cow::Borrowed(&configured.name);
        };
        let lane = if with_port { *lane } else { LaneKey::Address };
        match &self.name {
            Some(name) if lane == LaneKey::Connection => Cow::Owned(format!("{name}:{}", peer.port())),
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(machine_name(&configured.name, lane, names, peer)),
        }
    }

    /// A new origin in a lane: what `configured` says of this sender.
    fn open_origin(&self, store: &mut Store, configured: &Source, lane: LaneId) -> OriginRef {
        let name = self.name(configured, true);
        store.open_origin(lane, Identity::of(&configured.name, &name, self.peer, configured.decoding))
    }

    /// What an origin carries has changed: records from now on have another one, in the same lane.
    fn renew_origin(&mut self, lent: &mut Lent<'_, '_>) {
        let Some((lane, origin)) = self.lane else { return };
        let renewed = self.open_origin(lent.store, lent.turn.source(self.source), lane);
        lent.store.leave_lane(lane, origin);
        self.lane = Some((lane, renewed));
        if self.peer.is_none() {
            lent.sources.of(self.source).origin = Some(renewed);
        }
    }
}

impl Stream {
    /// `flow`: of a tty.
    pub fn new(source: SourceId, peer: Option<SocketAddr>, flow: Option<Flow>) -> Self {
        Self {
            sender: Sender { source, peer, proxy: None, name: None, lane: None, brought: Brought::Nothing },
            framer: Framer::new(),
            parmrk: flow.map(|_| Parmrk::default()),
            pressure: Pressure::new(flow),
            search: SearchBudget::default(),
            reading: false,
            older: Vec::new(),
            ended: false,
            is_watched: false,
            leaving: None,
            idling: None,
            hints: None,
            is_looked_at: false,
            fresh_ns: None,
            closed: false,
        }
    }

    /// Whether its bytes mean the same at a later time: it is no line, no silence ends its records,
    /// and they are no longer those right behind the open.
    pub fn is_untimed(&self, settings: &Settings) -> bool {
        let framing = &settings.sources[usize::from(self.sender.source.0)].framing;
        self.pressure.flow.is_none() && framing.idle.is_none() && self.fresh_ns.is_none()
    }

    /// Its file is open. `discarded`: bytes of the stream were thrown away.
    pub fn begin(&mut self, turn: &mut Turn<'_>, link: LinkId, discarded: bool) {
        self.idling = None; // a handshake is none of its bytes
        self.watch_idle(turn, link);
        let source = turn.source(self.sender.source);
        if source.first == First::Keep {
            return;
        }
        if discarded {
            self.framer.join_inside(&source.framing);
        } else {
            let until_ns = turn.now.mono_ns + joined_ns(source);
            self.fresh_ns = Some(until_ns);
            turn.timers.set(until_ns, Timer::Link(link));
        }
    }

    /// Bytes have come: where that is right behind the open, they may be the rest of a record.
    fn look_at_first(&mut self, turn: &Turn<'_>) {
        let source = turn.source(self.sender.source);
        if self.fresh_ns.take().is_some() && source.first == First::Discard {
            self.framer.join_inside(&source.framing);
        }
    }

    /// Bytes were read.
    fn received(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, mut bytes: &mut [u8]) {
        let id = self.sender.source;
        lent.sources.count_bytes(lent.turn, id, bytes.len());
        let now_ns = lent.turn.now.mono_ns;
        self.hear(now_ns);
        loop {
            let Some(parmrk) = &mut self.parmrk else {
                self.look_at_first(lent.turn);
                lent.turn.source(id).framing.prepare(bytes);
                return self.frame(lent, link, bytes);
            };
            let run = parmrk.decode_run(bytes);
            if run.len > 0 {
                self.look_at_first(lent.turn);
            }
            let (decoded, rest) = bytes.split_at_mut(run.taken);
            lent.turn.source(id).framing.prepare(&mut decoded[..run.len]);
            // An error concerns the last decoded byte: it must be known before a record can end
            // with that byte.
            let clean = run.len - usize::from(run.mark == Some(Mark::Error));
            self.frame(lent, link, &decoded[..clean]);
            match run.mark {
                None => return,
                Some(Mark::Break) => {
                    lent.turn.counters.line_breaks += 1;
                    lent.sources.of(id).tally.line_breaks += 1;
                    self.flag(now_ns, FrameFlags::BREAK);
                }
                Some(Mark::Error) => {
                    lent.turn.counters.line_errors += 1;
                    lent.sources.of(id).tally.line_errors += 1;
                    self.flag(now_ns, FrameFlags::LINE_ERROR);
                    self.frame(lent, link, &decoded[clean..run.len]);
                }
            }
            bytes = rest;
        }
    }

    /// Cuts bytes into records. What the journal has no room for is held, and reading stops.
    fn frame(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, bytes: &[u8]) {
        if !self.is_looked_at && self.look(lent, bytes) == Some(Hint::Proxy) && self.sender.peer.is_some() {
            return self.refuse_header(lent, link);
        }
        self.frame_held(lent, link, lent.turn.now.mono_ns, bytes);
        self.watch_silence(lent.turn, link);
    }

    /// A PROXY header of somebody whose word does not count: none of it becomes a record.
    fn refuse_header(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        lent.turn.counters.denied += 1;
        lent.sources.of(self.sender.source).tally.denied.count(Denial::ProxyHeader);
        lent.turn.refuse(&Refusal {
            source: self.sender.source,
            reason: Denial::ProxyHeader.label(),
            words: Denial::ProxyHeader.words(),
            peer: self.sender.peer,
            machine: None,
            line: "a PROXY header",
        });
        self.framer = Framer::new();
        self.finish(lent, link, "it began with a PROXY header");
    }

    /// Looks at the first bytes for what does not fit the framing.
    fn look(&mut self, lent: &mut Lent<'_, '_>, bytes: &[u8]) -> Option<Hint> {
        let Lent { turn, sources, .. } = lent;
        let source = turn.source(self.sender.source);
        let connected = matches!(source.kind, SourceKind::TcpConnect { .. });
        match self.hints.get_or_insert_default().look(&source.framing, connected, bytes) {
            Look::More => None,
            look => {
                (self.hints, self.is_looked_at) = (None, true);
                let Look::Hint(hint) = look else { return None };
                turn.counters.tls_hellos_on_plain_ports += u64::from(hint == Hint::Tls);
                sources.hint(turn, self.sender.source, hint);
                Some(hint)
            }
        }
    }

    /// As [`Stream::frame`], for bytes that came at `at_ns`.
    pub(super) fn frame_held(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, at_ns: u64, bytes: &[u8]) {
        let framing = &lent.turn.source(self.sender.source).framing;
        let max_bytes = framing.record_bytes_max();
        self.search.renew(lent.turn, framing);
        // What was read when intake ends is not read again: it is counted at least.
        let rejects = !may_wait(lent.turn);
        if self.pressure.holds() || self.search.waits {
            self.pressure.hold(at_ns, bytes);
            self.shed(lent, link);
            return;
        }
        // Those that wait go first: the line that one of them has lost may be this one, and then
        // its order is kept.
        let claim = self.pressure.claim();
        let waits = !rejects && lent.sources.queue.is_before(claim);
        let mut input = bytes;
        let mut room = if waits { None } else { lent.store.room_for(lent.turn.now, claim, max_bytes) };
        loop {
            if room.is_none() && !rejects {
                self.pressure.hold(at_ns, input);
                self.pause(lent, link);
                self.shed(lent, link);
                return;
            }
            let had_room = room.is_some();
            if !self.frame_one(lent, link, at_ns, &mut input, room) {
                if self.framer.is_starved() {
                    self.wait_for_turn(lent, link, at_ns, input);
                }
                return;
            }
            // A journal that has refused is asked again in full: its open block may have room.
            room = match had_room {
                true => lent.store.room_behind(lent.turn.now, claim, max_bytes),
                false => lent.store.room_for(lent.turn.now, claim, max_bytes),
            };
        }
    }

    /// Takes the next frame off `input`; false if there is none in it. Without `room` the journal
    /// has none for a record.
    pub(super) fn frame_one(
        &mut self,
        lent: &mut Lent<'_, '_>,
        link: LinkId,
        at_ns: u64,
        input: &mut &[u8],
        room: Option<Room>,
    ) -> bool {
        let framing = &lent.turn.source(self.sender.source).framing;
        let budget = &mut self.search.left_bytes;
        let Some(framed) = self.framer.next_within(framing, at_ns, input, budget) else { return false };
        self.sender.take(lent, link, at_ns, framed, room);
        true
    }

    /// Sets the link's timer for an idle gap, unless it is set: one that comes too early sets
    /// itself anew, so that a stream in full flow costs one timer a gap and none a record.
    pub(super) fn watch_silence(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        let framing = &turn.source(self.sender.source).framing;
        if framing.idle.is_none() || self.is_watched || self.pressure.paused {
            return;
        }
        if let Some(at_ns) = self.framer.deadline_ns(framing) {
            self.is_watched = true;
            turn.timers.set(at_ns, Timer::Link(link));
        }
    }

    /// An idle gap may be over.
    fn handle_timer(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        let now_ns = lent.turn.now.mono_ns;
        self.is_watched = false;
        self.fresh_ns.take_if(|until_ns| *until_ns <= now_ns);
        if let Some(leaving) = self.leaving.filter(|leaving| leaving.until_ns <= now_ns) {
            return self.leave(lent, link, leaving);
        }
        self.look_whether_idle(lent, link);
        if self.search.waits {
            self.go_on_searching(lent, link);
            return;
        }
        let due = self.framer.deadline_ns(&lent.turn.source(self.sender.source).framing);
        if due.is_some_and(|at_ns| at_ns <= now_ns) && !self.pressure.paused {
            self.frame_held(lent, link, now_ns, &[]);
        }
        self.watch_silence(lent.turn, link);
    }

    /// A read has ended.
    fn read_ended(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, end: RecvEnd) {
        self.reading = false;
        // Not the answer to our own FIN, but where that is as good as the machine's.
        let is_own = self.leaving.is_none_or(|leaving| leaving.is_idle);
        self.closed = end == RecvEnd::Closed && self.parmrk.is_none() && is_own;
        match end {
            RecvEnd::Paused if self.pressure.paused || self.search.waits => {}
            // It was resumed before the pause took effect.
            RecvEnd::Paused => self.resume(lent, link),
            RecvEnd::Closed | RecvEnd::Error(_) if self.must_wait(lent, link) => self.ended = true,
            RecvEnd::Closed => self.finish(lent, link, "the other side hung up"),
            RecvEnd::Error(errno) => {
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                self.finish(lent, link, &format!("reading failed: {reason}"));
            }
        }
    }

    /// The stream is over: an unfinished record is rejected (or accepted, by the framing's policy),
    /// the file closed, its lane left to empty itself.
    pub(super) fn finish(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, why: &str) {
        let id = self.sender.source;
        let is_idle = self.leaving.is_some_and(|leaving| leaving.is_idle);
        let mut framing = Cow::Borrowed(&lent.turn.source(id).framing);
        if self.emits_at_close(lent.turn) {
            // The close ends the record as a gap would.
            framing.to_mut().idle = Some(Idle { gap: Duration::MAX, policy: OnIdle::Emit });
        }
        let now_ns = lent.turn.now.mono_ns;
        // No turn follows where intake ends.
        let gives_up = lent.turn.phase != Phase::Running;
        let mut budget = search_bytes_max(&framing) * if gives_up { SEARCHES_AT_STOP } else { 1 };
        loop {
            let Some(room) = self.room_at_end(lent, link, &framing) else { return };
            // A silence that was over before the end.
            let configured = &lent.turn.source(id).framing;
            let Some(framed) = self.framer.next_within(configured, now_ns, &mut &[][..], &mut budget) else { break };
            self.sender.take(lent, link, now_ns, framed, room);
        }
        let mut is_inside = self.framer.is_inside();
        let is_whole = self.emits_at_close(lent.turn) || framing.checksum.is_some();
        loop {
            let Some(room) = self.room_at_end(lent, link, &framing) else { return };
            let Some(framed) = self.framer.finish_within(&framing, &mut budget, gives_up) else { break };
            is_inside = true;
            let framed = if is_whole { framed } else { framed.cut_off() };
            self.sender.take(lent, link, now_ns, framed, room);
        }
        if self.framer.is_starved() {
            self.ended = true;
            return self.wait_for_turn(lent, link, now_ns, &[]);
        }
        let Lent { turn, store, sources, .. } = lent;
        turn.close(link);
        sources.end_stream(turn, id, self.sender.brought);
        if self.sender.peer.is_some() {
            sources.count_out(turn, id, link, self.sender.peer);
            if let Some((lane, origin)) = self.sender.lane.take() {
                store.leave_lane(lane, origin);
            }
        } else if sources.of(id).retired {
            // Its link is still to be closed.
            let source = sources.of(id);
            (source.connected, source.is_inside) = (false, is_inside);
            leave_source_lane(store, sources, id);
        } else {
            turn.counters.lost_sources += 1;
            if turn.phase == Phase::Running {
                let (why, loss) = if is_idle { (IDLE, Loss::Idle) } else { (why, Loss::Gone) };
                sources.lose(turn, id, why.to_owned(), loss);
            } else {
                let source = sources.of(id);
                (source.link, source.connected) = (None, false);
            }
        }
    }

    /// Room for a record that the end of the stream may give; the outer `None`: the end has to wait
    /// for it. What is unfinished can be several records, and there was room for one.
    fn room_at_end(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, framing: &Framing) -> Option<Option<Room>> {
        let room = lent.store.room_for(lent.turn.now, self.pressure.claim(), framing.record_bytes_max());
        if room.is_none() && framing.gives_at_end() && !self.framer.is_empty() && may_wait(lent.turn) {
            self.ended = true;
            self.pause(lent, link);
            return None;
        }
        Some(room)
    }

    /// Whether an unfinished record is delivered at the end of the stream.
    pub(super) fn emits_at_close(&self, turn: &Turn<'_>) -> bool {
        self.closed && turn.source(self.sender.source).on_close == OnClose::Emit
    }

    /// Its source is retired. A socket's peer is told that this is the end, and what it has sent by
    /// then is taken; a port is closed at once. What a full journal holds back goes first in either
    /// case.
    fn retire(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        match lent.turn.links.fd(link) {
            // Its open or connect is under way.
            None => {
                lent.turn.close(link);
                leave_source_lane(lent.store, lent.sources, self.sender.source);
            }
            Some(_) if self.ended => {}
            Some(fd) if self.parmrk.is_none() => self.begin_to_leave(lent.turn, (link, fd), false),
            Some(_) => self.end_retired(lent, link),
        }
    }

    /// The end of a stream that no longer belongs to the configuration, now or when the journal has
    /// room for what it has sent.
    pub(super) fn end_retired(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        if !self.must_wait(lent, link) {
            self.finish(lent, link, "the source was removed");
            return;
        }
        self.ended = true;
        if self.pressure.flow == Some(Flow::None) && self.reading {
            lent.turn.emit(Op::PauseRecv { link });
        }
    }

    /// A mark of the line, for the record that what comes next belongs to.
    pub(super) fn flag(&mut self, at_ns: u64, flags: FrameFlags) {
        if self.pressure.holds() {
            self.pressure.flag(at_ns, flags);
        } else {
            self.framer.flag(flags);
        }
    }
}

/// Whether a record that the journal has no room for waits.
fn may_wait(turn: &Turn<'_>) -> bool {
    turn.settings.journal.when_full == WhenFull::Pause && turn.phase == Phase::Running
}

/// Nothing more of a source's port or connection goes into its lane.
pub(super) fn leave_source_lane(store: &mut Store, sources: &mut Sources, id: SourceId) {
    let source = sources.of(id);
    if let (Some(lane), Some(origin)) = (source.lane.take(), source.origin.take()) {
        store.leave_lane(lane, origin);
    }
}

/// What became of a stream that waited for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoesOn {
    /// It waits again: there is no room, or not enough.
    Waits,
    /// What was read of it is framed, and it may be read on.
    Framed,
    /// It goes on by itself, or is gone.
    Done,
}

/// All streams of a core.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub table: Table<Stream>,
    pub shared: Shared,
}

impl Streams {
    /// A stream, and what it is lent.
    fn lend<'l, 't>(
        &'l mut self,
        turn: &'l mut Turn<'t>,
        store: &'l mut Store,
        sources: &'l mut Sources,
        link: LinkId,
    ) -> (&'l mut Stream, Lent<'l, 't>) {
        (self.table.of(link), Lent { turn, store, sources, shared: &mut self.shared })
    }

    pub fn received(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        link: LinkId,
        bytes: &mut [u8],
    ) {
        let is_behind = self.is_behind_search(turn.links, link);
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        if is_behind && !stream.search.waits {
            let now_ns = lent.turn.now.mono_ns;
            stream.wait_for_turn(&mut lent, link, now_ns, &[]);
        }
        stream.received(&mut lent, link, bytes);
    }

    /// Whether an older connection of a stream's machine holds what it has not searched yet: that comes
    /// before what the stream brings.
    fn is_behind_search(&mut self, links: &Links, link: LinkId) -> bool {
        let mut older = std::mem::take(&mut self.table.of(link).older);
        older.retain(|other| links.is_open(*other, Kind::Stream));
        let is_behind = older.iter().any(|other| self.table.get(*other).search.waits);
        self.table.of(link).older = older;
        is_behind
    }

    /// Whether an older connection of a stream's machine is held up, and the stream with it: it is not read yet.
    fn is_behind_held_up(&self, links: &Links, link: LinkId) -> bool {
        let is_open = |other: &&LinkId| links.is_open(**other, Kind::Stream);
        self.table.get(link).older.iter().filter(is_open).any(|other| self.table.get(*other).is_held_up())
    }

    /// What says when connections of a source are over has changed.
    pub fn watch_over(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        for link in self.links_of(turn, id) {
            let Some(fd) = turn.links.fd(link) else { continue };
            turn.emit(Op::WatchOver { link, fd, source: id });
            self.table.of(link).watch_idle(turn, link);
        }
    }

    pub fn read_ended(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        link: LinkId,
        end: RecvEnd,
    ) {
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        stream.read_ended(&mut lent, link, end);
    }

    pub fn handle_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        if self.table.get(link).search.waits && self.is_behind_search(turn.links, link) {
            turn.timers.set(turn.now.mono_ns + 1, Timer::Link(link));
            return;
        }
        if self.is_behind_held_up(turn.links, link) {
            self.table.of(link).hear(turn.now.mono_ns); // nothing was read, so nothing is known
        }
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        stream.handle_timer(&mut lent, link);
    }

    /// Intake ends: what is held is framed, and the stream with it, behind the older ones of its machine.
    pub fn stop(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        let older = std::mem::take(&mut self.table.of(link).older);
        for link in older.into_iter().chain([link]) {
            if !turn.links.is_open(link, Kind::Stream) {
                continue;
            }
            let (stream, mut lent) = self.lend(turn, store, sources, link);
            // Nothing that was read is left out: no turn follows in which a search could go on.
            stream.search.waits = false;
            stream.frame_all_held(&mut lent, link);
            stream.finish(&mut lent, link, "the gateway is stopping");
        }
    }

    /// The stream cannot go on; what it has brought is framed.
    pub fn end(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId, why: &str) {
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        stream.reading = false;
        match stream.must_wait(&mut lent, link) {
            true => stream.ended = true,
            false => stream.finish(&mut lent, link, why),
        }
    }

    /// The stream's source is retired.
    pub fn retire(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) {
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        stream.retire(&mut lent, link);
    }

    /// The first stream that waits for room is asked to go on. What was read of it is framed; the
    /// caller lets it read on by [`Streams::read_on`].
    pub fn go_on(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, link: LinkId) -> GoesOn {
        if !turn.links.is_open(link, Kind::Stream) {
            return GoesOn::Done;
        }
        let is_behind = self.is_behind_search(turn.links, link);
        let (stream, mut lent) = self.lend(turn, store, sources, link);
        let claim = stream.pressure.claim();
        if is_behind {
            lent.sources.queue.push_stream(link, claim);
            return GoesOn::Waits;
        }
        let bytes_max = lent.turn.source(stream.sender.source).framing.record_bytes_max();
        if let Err(full) = lent.store.room_or_full(lent.turn.now, claim, bytes_max) {
            lent.sources.queue.push_stream(link, claim);
            lent.sources.queue.set_lasts(full == Full::Lasting);
            return GoesOn::Waits;
        }
        let held_nothing = !stream.pressure.holds();
        stream.pressure.paused = false;
        stream.frame_all_held(&mut lent, link);
        // One that searches goes on by its timer.
        if !stream.pressure.paused && !stream.search.waits {
            if !stream.ended && claim == Claim::Waits {
                // Requests may come without an end, and the queue never be empty.
                if !held_nothing || !lent.sources.queue.has_requests() {
                    stream.pressure.paused = true;
                    return GoesOn::Framed;
                }
                // Nothing was read meanwhile, so nothing is known of a silence.
                stream.framer.restart_silence(lent.turn.now.mono_ns);
            }
            stream.resume(&mut lent, link);
        }
        if stream.pressure.paused { GoesOn::Waits } else { GoesOn::Done }
    }

    /// Streams of which nothing is held any more are read again.
    pub fn read_on(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, framed: Vec<LinkId>) {
        for link in framed {
            if !turn.links.is_open(link, Kind::Stream) {
                continue;
            }
            let (stream, mut lent) = self.lend(turn, store, sources, link);
            stream.pressure.paused = false;
            // Nothing was read meanwhile, so nothing is known of a silence.
            stream.framer.restart_silence(lent.turn.now.mono_ns);
            stream.resume(&mut lent, link);
        }
    }

    /// That no stream waits whom nobody has listed.
    pub fn check(&self, turn: &Turn<'_>, queue: &RoomQueue) {
        let paused = turn.links.of_kind(Kind::Stream).filter(|link| self.table.get(*link).pressure.paused);
        assert!(paused.take(64).all(|link| queue.has_stream(link)), "a stream that waits for room is listed");
    }

    /// Arms the read of a link whose file is open.
    pub fn arm(turn: &mut Turn<'_>, link: LinkId, source: SourceId) {
        if let Some(fd) = turn.links.fd(link) {
            let kind = readable(&turn.source(source).kind);
            turn.emit(Op::Recv { link, fd, kind, older: Vec::new() });
        }
    }

    /// The links of a source, open or on their way to be, by index.
    pub fn links_of(&self, turn: &Turn<'_>, id: SourceId) -> Vec<LinkId> {
        turn.links.of_kind(Kind::Stream).filter(|link| self.table.get(*link).sender.source == id).collect()
    }

    /// Records of a source from now on have other origins, in the lanes that they had.
    pub fn renew_origins(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, id: SourceId) {
        for link in self.links_of(turn, id) {
            let (stream, mut lent) = self.lend(turn, store, sources, link);
            stream.sender.renew_origin(&mut lent);
        }
        // A port or device server that is not open, or has sent nothing since.
        let source = sources.of(id);
        if let (Some(lane), Some(origin)) = (source.lane, source.origin)
            && source.link.is_none_or(|link| self.table.get(link).sender.lane.is_none())
        {
            source.origin = None;
            store.leave_lane(lane, origin);
        }
    }

    /// Bytes that wait to be framed, by source.
    pub fn held_bytes(&self, links: &Links) -> HashMap<SourceId, u64> {
        let mut held = HashMap::new();
        for link in links.of_kind(Kind::Stream) {
            let stream = self.table.get(link);
            // What a search has not come to yet waits, too.
            let unsearched = if stream.search.waits { stream.framer.held_bytes() as u64 } else { 0 };
            let bytes = stream.pressure.bytes() + unsearched;
            if bytes > 0 {
                *held.entry(stream.sender.source).or_default() += bytes;
            }
        }
        held
    }

    /// Most that is held of a line, by other settings.
    pub fn set_held_bytes_max(&mut self, settings: &Settings, sources: &[SourceId]) {
        self.shared.held_bytes_max = super::pressure::held_bytes_max(settings, sources);
    }
}
