//! Bytes of ports and TCP connections become records: in the journal at once, and in a lane to be delivered.

use super::lane::{Doing, Lane, Waiting};
use super::link::{State, Stream};
use super::samples::Samples;
use super::timer::Timer;
use super::{Destination, Fd, JournalId, LinkId, Now, Op, Phase, Readable, RecvEnd, Shard, SourceId};
use crate::config::{Flow, LaneKey, SourceKind, WhenFull};
use crate::delivery::{Step, backoff};
use crate::framing::{FrameFlags, Framed, Framer};
use crate::journal::{Appended, NewRecord, OriginRef};
use crate::observe::snapshot::Stage;
use crate::source::serial::{Mark, Parmrk};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A port or device server is tried again after at most this long; a change in the port's directory comes sooner.
const REOPEN_MAX: Duration = Duration::from_secs(5);
const REOPEN_FIRST: Duration = Duration::from_millis(100);
/// After an error of accept(2), such as no descriptors left.
const ACCEPT_PAUSE_NS: u64 = 500_000_000;

/// A configured source on this core.
#[derive(Debug)]
pub(super) struct SourceState {
    pub id: SourceId,
    /// Of a port or an outgoing connection.
    pub link: Option<LinkId>,
    /// Whether that link's file is open.
    pub connected: bool,
    /// Its lane, across reopens.
    pub lane: Option<u32>,
    /// That lane's origin.
    pub origin: Option<OriginRef>,
    pub failures: u32,
    pub reopen_ns: Option<u64>,
    pub accepting: bool,
    /// Connections of a listener.
    pub open: u64,
    pub received: u64,
    pub rejected: u64,
    pub bytes: u64,
    /// Bytes outside of all frames.
    pub garbage_bytes: u64,
    pub samples: Samples,
    /// Marked in the stream of a serial line, as in [`Counters`](crate::observe::snapshot::Counters).
    pub line_breaks: u64,
    pub line_errors: u64,
    pub last_byte_ns: u64,
    pub any_byte: bool,
    pub silent: bool,
    pub problem: Option<String>,
    /// When it is looked at for silence.
    silence_ns: u64,
    /// It is no longer in the configuration: it takes nothing new.
    pub retired: bool,
    /// A retired source whose port or connection is to be closed before this one opens its own.
    pub waits_for: Option<SourceId>,
}

impl SourceState {
    pub fn new(id: SourceId, now: Now) -> Self {
        Self {
            id,
            link: None,
            connected: false,
            lane: None,
            origin: None,
            failures: 0,
            reopen_ns: None,
            accepting: false,
            open: 0,
            received: 0,
            rejected: 0,
            bytes: 0,
            garbage_bytes: 0,
            samples: Samples::default(),
            line_breaks: 0,
            line_errors: 0,
            last_byte_ns: now.mono_ns,
            any_byte: false,
            silent: false,
            problem: None,
            silence_ns: 0,
            retired: false,
            waits_for: None,
        }
    }

    /// Goes on with the counts of an earlier source of the same name.
    pub fn inherit(&mut self, earlier: Self) {
        self.received += earlier.received;
        self.rejected += earlier.rejected;
        self.bytes += earlier.bytes;
        self.garbage_bytes += earlier.garbage_bytes;
        self.line_breaks += earlier.line_breaks;
        self.line_errors += earlier.line_errors;
        if !self.any_byte {
            (self.any_byte, self.last_byte_ns) = (earlier.any_byte, earlier.last_byte_ns.max(self.last_byte_ns));
        }
        self.samples.inherit(earlier.samples);
    }
}

impl Shard {
    pub(super) fn source(&mut self, id: SourceId) -> &mut SourceState {
        let index = self.source_index[id.0 as usize].expect("a completion of a source that this core runs");
        &mut self.sources[index]
    }

    pub(super) fn start_sources(&mut self, now: Now) {
        for index in 0..self.sources.len() {
            self.start_source(now, self.sources[index].id);
        }
    }

    pub(super) fn start_source(&mut self, now: Now, id: SourceId) {
        if self.source(id).retired {
            return;
        }
        match self.source_kind(id) {
            SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => self.reopen(id),
            SourceKind::TcpListen { .. } | SourceKind::Http { .. } => self.resume_accept(id),
        }
        self.watch_source(now.mono_ns, id);
    }

    /// Looks for silence of a source in time.
    fn watch_source(&mut self, from_ns: u64, id: SourceId) {
        if let Some(after) = self.settings.sources[id.0 as usize].silence_alarm {
            let due_ns = from_ns + after.as_nanos() as u64;
            self.source(id).silence_ns = due_ns;
            self.timers.set(due_ns, Timer::Silence(id.0));
        }
    }

    /// Connections that other cores handed over before this one took records.
    pub(super) fn accept_early(&mut self, now: Now) {
        for (source, fd, peer) in std::mem::take(&mut self.early) {
            self.handle_accepted(now, source, fd, peer);
        }
    }

    /// Recovered records of a source go before its new ones.
    pub(super) fn adopt_lane_for_source(&mut self, name: &str, lane: u32) {
        for index in 0..self.sources.len() {
            self.adopt_lane(self.sources[index].id, name, lane);
        }
    }

    /// A lane of `name` holds records that go before the new ones of a source, if it is that source's name.
    pub(super) fn adopt_lane(&mut self, id: SourceId, name: &str, lane: u32) {
        let source = &self.settings.sources[id.0 as usize];
        match source.kind {
            SourceKind::Serial(_) | SourceKind::TcpConnect { .. } if source.name == name => {
                let older = self.source(id).lane.replace(lane);
                self.chain(older, lane);
            }
            SourceKind::TcpListen { lane: LaneKey::Address, .. } => {
                let address = name.strip_prefix(&source.name).and_then(|rest| rest.strip_prefix('@'));
                if let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) {
                    let older = self.address_lanes.insert((id, address), lane);
                    self.chain(older, lane);
                }
            }
            _ => {}
        }
    }

    /// `lane` waits until `older` is empty.
    fn chain(&mut self, older: Option<u32>, lane: u32) {
        let Some(older) = older.filter(|older| *older != lane) else { return };
        let mut last = older;
        while let Some(next) = self.lanes[last as usize].successor {
            if next == lane {
                return; // it waits already; a ring of lanes would wait for ever
            }
            last = next;
        }
        self.lanes[last as usize].successor = Some(lane);
        self.lanes[lane as usize].doing = Doing::AwaitsLane;
    }

    // ---- opening and accepting

    pub(super) fn reopen_due(&mut self, now: Now, id: SourceId) {
        if self.source(id).reopen_ns.is_some_and(|at| at <= now.mono_ns) {
            self.reopen(id);
        }
    }

    /// Opens a port or connects to a device server, unless that is done or under way.
    pub(super) fn reopen(&mut self, id: SourceId) {
        let source = self.source(id);
        if source.link.is_some() || source.waits_for.is_some() || self.phase != Phase::Running {
            return;
        }
        let flow = match self.source_kind(id) {
            SourceKind::Serial(port) => Some(port.flow),
            _ => None,
        };
        let state = State::Stream(Box::new(Stream::new(id, None, flow)));
        let link = self.links.insert(None, state);
        let source = self.source(id);
        source.link = Some(link);
        source.reopen_ns = None;
        self.ops.push_back(if flow.is_some() {
            Op::OpenPort { link, source: id }
        } else {
            Op::Connect { link, to: Destination::Source(id) }
        });
    }

    pub(super) fn handle_source_opened(&mut self, now: Now, link: LinkId, result: Result<Fd, String>) {
        let Some(found) = self.links.find(link) else { return };
        let State::Stream(stream) = &mut found.state else { return };
        let id = stream.source;
        match result {
            Ok(fd) => {
                found.fd = Some(fd);
                stream.reading = true;
                let kind = self.readable(id);
                self.counters.opened_sources += 1;
                let source = self.source(id);
                source.connected = true;
                source.failures = 0;
                if source.problem.take().is_some() {
                    tracing::info!("source {}: open again", self.settings.sources[id.0 as usize].name);
                }
                self.ops.push_back(Op::Recv { link, fd, kind });
            }
            Err(problem) => {
                self.links.find(link).expect("found above").state = State::Closing;
                self.links.remove(link);
                self.lose_source(now, id, problem);
            }
        }
    }

    /// How what a source opens or accepts is read.
    pub(super) fn readable(&self, id: SourceId) -> Readable {
        match self.source_kind(id) {
            SourceKind::Serial(_) => Readable::Tty,
            SourceKind::TcpListen { quick_ack: false, .. } | SourceKind::TcpConnect { quick_ack: false, .. } => {
                Readable::SocketLateAcks
            }
            SourceKind::TcpListen { .. } | SourceKind::TcpConnect { .. } | SourceKind::Http { .. } => Readable::Socket,
        }
    }

    /// A port or device server is not there: it is tried again later.
    fn lose_source(&mut self, now: Now, id: SourceId, problem: String) {
        let failures = self.source(id).failures + 1;
        let wait = backoff::delay_ns(&mut self.rng, REOPEN_FIRST, REOPEN_MAX, failures).max(10_000_000);
        let name = self.settings.sources[id.0 as usize].name.clone();
        let source = self.source(id);
        source.link = None;
        source.connected = false;
        source.failures = failures;
        source.reopen_ns = Some(now.mono_ns + wait);
        if source.problem.as_ref() != Some(&problem) {
            tracing::warn!("source {name}: {problem}; trying again");
            source.problem = Some(problem);
        }
        self.timers.set(now.mono_ns + wait, Timer::Reopen(id.0));
    }

    pub(super) fn handle_accepted(&mut self, now: Now, id: SourceId, fd: Fd, peer: SocketAddr) {
        if !self.runs(id) {
            self.handle_accepted_elsewhere(id, fd, peer);
            return;
        }
        if let SourceKind::TcpListen { lane: LaneKey::Address, .. } = self.source_kind(id) {
            let core = self.owner(id, peer.ip());
            if core != self.core {
                self.ops.push_back(Op::HandOver { source: id, fd, peer, core });
                return;
            }
        }
        if self.phase == Phase::Starting {
            // Handed over by a core that takes records already.
            self.early.push((id, fd, peer));
            return;
        }
        if self.phase != Phase::Running {
            self.turn_away(id, fd, peer);
            return;
        }
        self.counters.accepted_connections += 1;
        self.machine_connections += 1;
        let is_http = matches!(self.source_kind(id), SourceKind::Http { .. });
        // What was accepted before accepting paused can still come.
        let is_paused = self.machine_connections > self.settings.limits.connections;
        let source = self.source(id);
        source.open += 1;
        if !is_paused {
            source.problem = None;
        }
        let link = if is_http {
            self.accept_machine(now, id, fd)
        } else {
            let mut stream = Stream::new(id, Some(peer), None);
            stream.reading = true;
            self.links.insert(Some(fd), State::Stream(Box::new(stream)))
        };
        self.ops.push_back(Op::Recv { link, fd, kind: self.readable(id) });
        if self.machine_connections >= self.settings.limits.connections {
            self.pause_accept("the limit of connections is reached");
        }
    }

    /// A connection that came too late: it is closed.
    pub(super) fn turn_away(&mut self, id: SourceId, fd: Fd, peer: SocketAddr) {
        let link = self.links.insert(Some(fd), State::Stream(Box::new(Stream::new(id, Some(peer), None))));
        self.close(link);
    }

    /// The core that owns an address.
    fn owner(&self, id: SourceId, address: IpAddr) -> u16 {
        if self.cores == 1 {
            return self.core;
        }
        let name = format!("{}@{address}", self.settings.sources[id.0 as usize].name);
        self.owners.get(&name).copied().unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            address.hash(&mut hasher);
            (hasher.finish() % u64::from(self.cores)) as u16
        })
    }

    pub(super) fn handle_accept_failed(&mut self, now: Now, id: SourceId, errno: i32) {
        if !self.runs(id) {
            return;
        }
        let reason = std::io::Error::from_raw_os_error(errno).to_string();
        self.source(id).accepting = false;
        let name = self.settings.sources[id.0 as usize].name.clone();
        let source = self.source(id);
        let problem = format!("cannot accept connections: {reason}");
        if source.problem.as_ref() != Some(&problem) {
            tracing::warn!("source {name}: {problem}; pausing");
            source.problem = Some(problem);
        }
        self.timers.set(now.mono_ns + ACCEPT_PAUSE_NS, Timer::Accept(id.0));
    }

    pub(super) fn pause_accept(&mut self, why: &str) {
        for source in &mut self.sources {
            if source.accepting {
                source.accepting = false;
                source.problem = Some(format!("accepting pauses: {why}"));
                self.ops.push_back(Op::PauseAccept { source: source.id });
            }
        }
    }

    pub(super) fn resume_accept(&mut self, id: SourceId) {
        if self.phase != Phase::Running || self.machine_connections >= self.settings.limits.connections {
            return;
        }
        let source = self.source(id);
        if !source.accepting && !source.retired {
            source.accepting = true;
            self.ops.push_back(Op::Accept { source: id });
        }
    }

    /// A machine's connection is gone.
    pub(super) fn count_out(&mut self, id: SourceId) {
        let source = self.source(id);
        source.open -= 1;
        let retired = source.retired;
        self.bury_due |= retired;
        self.machine_connections -= 1;
        if self.machine_connections + 1 == self.settings.limits.connections {
            for index in 0..self.sources.len() {
                let id = self.sources[index].id;
                if matches!(self.source_kind(id), SourceKind::TcpListen { .. } | SourceKind::Http { .. }) {
                    self.sources[index].problem = None;
                    self.resume_accept(id);
                }
            }
        }
    }

    pub(super) fn check_silence(&mut self, now: Now, id: SourceId) {
        let Some(after) = self.settings.sources[id.0 as usize].silence_alarm else { return };
        let name = self.settings.sources[id.0 as usize].name.clone();
        let source = self.source(id);
        if now.mono_ns < source.silence_ns {
            return; // of a source that had this id before
        }
        let from_ns = source.last_byte_ns;
        if now.mono_ns < from_ns + after.as_nanos() as u64 {
            self.watch_source(from_ns, id);
            return;
        }
        if !source.silent {
            source.silent = true;
            tracing::warn!("source {name}: silent for {after:?}");
        }
        self.watch_source(now.mono_ns, id);
    }

    pub(super) fn count_bytes(&mut self, now: Now, id: SourceId, bytes: usize) {
        self.counters.received_bytes += bytes as u64;
        let source = self.source(id);
        source.bytes += bytes as u64;
        source.last_byte_ns = now.mono_ns;
        source.any_byte = true;
        source.silent = false;
    }

    // ---- streams

    pub(super) fn stream_received(
        &mut self,
        now: Now,
        link: LinkId,
        mut stream: Box<Stream>,
        mut bytes: &mut [u8],
    ) -> State {
        self.count_bytes(now, stream.source, bytes.len());
        let Some(mut parmrk) = stream.parmrk.take() else {
            self.frame(now, link, &mut stream, bytes);
            return State::Stream(stream);
        };
        loop {
            let run = parmrk.decode_run(bytes);
            let (decoded, rest) = bytes.split_at_mut(run.taken);
            // An error concerns the last decoded byte: it must be known before a record can end with that byte.
            let clean = run.len - usize::from(run.mark == Some(Mark::Error));
            self.frame(now, link, &mut stream, &decoded[..clean]);
            match run.mark {
                None => break,
                Some(Mark::Break) => {
                    self.counters.line_breaks += 1;
                    self.source(stream.source).line_breaks += 1;
                    stream.flag(now.mono_ns, FrameFlags::BREAK);
                }
                Some(Mark::Error) => {
                    self.counters.line_errors += 1;
                    self.source(stream.source).line_errors += 1;
                    stream.flag(now.mono_ns, FrameFlags::LINE_ERROR);
                    self.frame(now, link, &mut stream, &decoded[clean..run.len]);
                }
            }
            bytes = rest;
        }
        stream.parmrk = Some(parmrk);
        State::Stream(stream)
    }

    /// Cuts bytes into records. What the journal has no room for is held, and reading stops.
    fn frame(&mut self, now: Now, link: LinkId, stream: &mut Stream, bytes: &[u8]) {
        self.frame_held(now, link, stream, now.mono_ns, bytes);
        self.watch_silence(link, stream);
    }

    /// As [`Shard::frame`], for bytes that came at `at_ns`.
    pub(super) fn frame_held(&mut self, now: Now, link: LinkId, stream: &mut Stream, at_ns: u64, bytes: &[u8]) {
        let max_bytes = self.settings.sources[stream.source.0 as usize].framing.max_bytes;
        // What was read when intake ends is not read again: it is counted at least.
        let reject_full = self.settings.journal.when_full == WhenFull::Reject || self.phase != Phase::Running;
        if !stream.held.is_empty() {
            stream.hold(at_ns, bytes);
            self.shed(now, link, stream);
            return;
        }
        // Those that wait go first: the line that one of them has lost may be this one, and then its order is kept.
        let waits = !reject_full && !self.paused_links.is_empty();
        let mut input = bytes;
        loop {
            let full = waits || !self.journal().can_append(now, max_bytes);
            if full && !reject_full {
                stream.hold(at_ns, input);
                self.pause_stream(link, stream);
                self.shed(now, link, stream);
                return;
            }
            if !self.frame_one(now, link, stream, at_ns, &mut input, full) {
                return;
            }
        }
    }

    /// Takes the next frame off `input`; false if there is none in it. `full`: the journal has no room for a record.
    pub(super) fn frame_one(
        &mut self,
        now: Now,
        link: LinkId,
        stream: &mut Stream,
        at_ns: u64,
        input: &mut &[u8],
        full: bool,
    ) -> bool {
        let settings = std::sync::Arc::clone(&self.settings);
        let framing = &settings.sources[stream.source.0 as usize].framing;
        // The framer is moved out so that a record may borrow from it while the rest is changed.
        let mut framer = std::mem::take(&mut stream.framer);
        let framed = framer.next(framing, at_ns, input);
        let is_frame = framed.is_some();
        if let Some(framed) = framed {
            self.handle_framed(now, link, stream, at_ns, framed, full);
        }
        stream.framer = framer;
        is_frame
    }

    /// One frame of a stream, whose end came at `at_ns`. `full`: the journal has no room for a record.
    fn handle_framed(
        &mut self,
        now: Now,
        link: LinkId,
        stream: &mut Stream,
        at_ns: u64,
        framed: Framed<'_>,
        full: bool,
    ) {
        match framed {
            Framed::Empty => self.counters.empty_frames += 1,
            Framed::Garbage { bytes, count } => self.count_garbage(now, stream.source, link, bytes, count),
            Framed::Rejected { reason, sample } => self.reject(now, stream.source, reason, sample),
            Framed::Record { bytes, .. } if full => self.reject_full(now, stream.source, bytes),
            Framed::Record { bytes, first_byte_ns, flags } => {
                self.counters.cut_records += u64::from(flags.contains(FrameFlags::CUT));
                self.counters.unended_records += u64::from(flags.contains(FrameFlags::UNENDED));
                self.stages.record(Stage::Frame, at_ns.saturating_sub(first_byte_ns));
                self.stages.record(Stage::Journaled, now.mono_ns - at_ns);
                self.accept_record(now, stream, bytes, first_byte_ns, flags.0);
            }
        }
    }

    /// Sets the link's timer for an idle gap, unless it is set: one that comes too early sets itself anew, so that a
    /// stream in full flow costs one timer a gap and none a record.
    pub(super) fn watch_silence(&mut self, link: LinkId, stream: &mut Stream) {
        let framing = &self.settings.sources[stream.source.0 as usize].framing;
        if framing.idle.is_none() || stream.is_watched || stream.paused {
            return;
        }
        if let Some(at_ns) = stream.framer.deadline_ns(framing) {
            stream.is_watched = true;
            self.timers.set(at_ns, Timer::link(link));
        }
    }

    /// An idle gap may be over.
    pub(super) fn stream_timer(&mut self, now: Now, link: LinkId, mut stream: Box<Stream>) -> State {
        stream.is_watched = false;
        if stream.leaving_ns <= now.mono_ns {
            stream.leaving_ns = u64::MAX;
            if !stream.ended {
                self.end_retired_stream(now, link, &mut stream);
            }
            return State::Stream(stream);
        }
        let due = stream.framer.deadline_ns(&self.settings.sources[stream.source.0 as usize].framing);
        if due.is_some_and(|at_ns| at_ns <= now.mono_ns) && !stream.paused {
            self.frame_held(now, link, &mut stream, now.mono_ns, &[]);
        }
        self.watch_silence(link, &mut stream);
        State::Stream(stream)
    }

    fn accept_record(&mut self, now: Now, stream: &mut Stream, bytes: &[u8], first_byte_ns: u64, flags: u8) {
        let (lane, origin) = match (stream.lane, stream.origin) {
            (Some(lane), Some(origin)) => (lane, origin),
            _ => self.lane_of_stream(stream),
        };
        let frame_ns = now.mono_ns - first_byte_ns;
        let record = NewRecord {
            origin,
            flags,
            first_byte_wall_ns: now.wall_ns.saturating_sub(frame_ns),
            frame_us: (frame_ns / 1000) as u32,
            key: &[],
            data: bytes,
        };
        let appended = self.journal().append_record(now, record);
        let Appended { number, at } = appended.expect("room was made for a record of the largest size");
        self.source(stream.source).received += 1;
        self.enqueue(now, lane, Waiting { number, at, origin, first_byte_ns, journaled_ns: now.mono_ns });
    }

    /// Counts a record in and gives it to its lane, or leaves it behind the window.
    pub(super) fn enqueue(&mut self, now: Now, lane_index: u32, waiting: Waiting) {
        self.terms.received += 1;
        self.terms.pending += 1;
        self.undurable.push(waiting.number, now.mono_ns);
        let lane = &mut self.lanes[lane_index as usize];
        let journal = &mut self.journals[lane.journal.0 as usize].journal;
        lane.pending += 1;
        if lane.behind.is_some() {
            return;
        }
        let fits = journal.has_window_room() && lane.has_room(waiting.at.extent, journal.lane_extents_max());
        if journal.reads_back() && !fits {
            self.set_behind(lane_index, waiting.number, waiting.at);
            return;
        }
        journal.hold(waiting.at);
        lane.push(waiting);
        if lane.doing == Doing::Idle {
            self.make_ready(lane_index);
        }
    }

    /// A new lane in this core's own journal.
    pub(super) fn new_lane(&mut self) -> u32 {
        let number = self.journal().new_lane();
        self.lane_generation += 1;
        let mut lane = Lane::new(self.lane_generation, JournalId(0), number);
        lane.step = if self.id_head.is_some() { Step::Id } else { Step::Record };
        self.lanes.insert(lane) as u32
    }

    /// A new origin in a lane.
    pub(super) fn open_origin(&mut self, lane: u32, source: SourceId, name: &str) -> OriginRef {
        let number = self.lanes[lane as usize].number;
        self.lanes[lane as usize].appenders += 1;
        let settings = std::sync::Arc::clone(&self.settings);
        let configured = &settings.sources[source.0 as usize].name;
        let origin = self.journal().open_origin(number, configured, name);
        self.journals[0].set_origin_lane(origin, lane);
        origin
    }

    /// The lane that follows an older one of the same source, in this core's own journal.
    fn continue_lane(&mut self, older: Option<u32>) -> u32 {
        match older {
            // A lane that an adopted journal holds cannot take new records: they go to this core's own.
            Some(lane) if self.lanes[lane as usize].journal == JournalId(0) => lane,
            older => {
                let lane = self.new_lane();
                self.chain(older.filter(|older| self.lanes.contains(*older as usize)), lane);
                lane
            }
        }
    }

    fn lane_of_stream(&mut self, stream: &mut Stream) -> (u32, OriginRef) {
        let id = stream.source;
        let settings = std::sync::Arc::clone(&self.settings);
        let configured = &settings.sources[id.0 as usize];
        let (lane, origin) = match (&configured.kind, stream.peer) {
            (SourceKind::TcpListen { lane: LaneKey::Address, .. }, Some(peer)) => {
                let older = self.address_lanes.get(&(id, peer.ip())).copied();
                let lane = self.continue_lane(older);
                self.address_lanes.insert((id, peer.ip()), lane);
                (lane, self.open_origin(lane, id, &format!("{}@{}", configured.name, peer.ip())))
            }
            (_, Some(peer)) => {
                let lane = self.new_lane();
                (lane, self.open_origin(lane, id, &format!("{}@{peer}", configured.name)))
            }
            (_, None) => match (self.source(id).lane, self.source(id).origin) {
                (Some(lane), Some(origin)) => (lane, origin),
                (older, _) => {
                    let lane = self.continue_lane(older);
                    let origin = self.open_origin(lane, id, &configured.name);
                    let source = self.source(id);
                    (source.lane, source.origin) = (Some(lane), Some(origin));
                    (lane, origin)
                }
            },
        };
        stream.lane = Some(lane);
        stream.origin = Some(origin);
        (lane, origin)
    }

    // ---- the end

    pub(super) fn stream_ended(&mut self, now: Now, link: LinkId, mut stream: Box<Stream>, end: RecvEnd) -> State {
        stream.reading = false;
        match end {
            RecvEnd::Paused if stream.paused => {}
            RecvEnd::Paused => {
                // It was resumed before the pause took effect.
                let fd = self.links.find(link).and_then(|found| found.fd);
                self.resume_stream(now, link, fd, &mut stream);
            }
            RecvEnd::Closed | RecvEnd::Error(_) if self.must_wait(now, link, &mut stream) => stream.ended = true,
            RecvEnd::Closed => self.finish_stream(now, link, &mut stream, "the other side hung up"),
            RecvEnd::Error(errno) => {
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                self.finish_stream(now, link, &mut stream, &format!("reading failed: {reason}"));
            }
        }
        State::Stream(stream)
    }

    /// The stream is over: an unfinished record is rejected (or accepted, by the framing's policy), the file closed, its lane left to empty itself.
    pub(super) fn finish_stream(&mut self, now: Now, link: LinkId, stream: &mut Stream, why: &str) {
        let settings = std::sync::Arc::clone(&self.settings);
        let id = stream.source;
        let framing = &settings.sources[id.0 as usize].framing;
        let mut framer = std::mem::take(&mut stream.framer);
        if let Some(framed) = framer.finish(framing) {
            let full = !self.journal().can_append(now, framing.max_bytes);
            self.handle_framed(now, link, stream, now.mono_ns, framed, full);
        }
        self.close(link);
        if stream.peer.is_some() {
            self.count_out(id);
            if let (Some(lane), Some(origin)) = (stream.lane, stream.origin) {
                self.leave_lane(lane, origin);
            }
        } else if self.source(id).retired {
            self.retired_stream_ended(id);
        } else {
            self.counters.lost_sources += 1;
            if self.phase == Phase::Running {
                self.lose_source(now, id, why.to_owned());
            } else {
                let source = self.source(id);
                (source.link, source.connected) = (None, false);
            }
        }
    }

    /// A link appends no more.
    pub(super) fn leave_lane(&mut self, lane: u32, origin: OriginRef) {
        self.journal().close_origin(origin);
        self.lanes[lane as usize].appenders -= 1;
        self.remove_lane_if_done(lane);
    }

    pub(super) fn remove_lane_if_done(&mut self, index: u32) {
        if !self.lanes[index as usize].is_done() {
            return;
        }
        self.forget_behind(index);
        let lane = self.lanes.remove(index as usize);
        assert!(lane.queue.is_empty());
        for source in self.sources.iter_mut().filter(|source| source.lane == Some(index)) {
            source.lane = None; // a recovered lane that its port has not used yet
        }
        if !self.address_lanes.is_empty() {
            self.address_lanes.retain(|_, other| *other != index);
            self.bury_due |= self.sources.iter().any(|source| source.retired);
        }
        if let Some(next) = lane.successor {
            self.lanes[next as usize].doing = Doing::Idle;
            self.make_ready(next);
        }
    }

    /// Intake ends: nothing more is accepted or read.
    pub(super) fn stop_sources(&mut self, now: Now) {
        self.pause_accept("the gateway is stopping");
        let links: Vec<LinkId> = self.links.iter().map(|(id, _)| id).collect();
        for link in links {
            let Some((_, state)) = self.links.take(link) else { continue };
            let state = match state {
                State::Stream(mut stream) => {
                    self.frame_all_held(now, link, &mut stream);
                    self.finish_stream(now, link, &mut stream, "the gateway is stopping");
                    State::Stream(stream)
                }
                State::Http(machine) => self.stop_machine(link, machine),
                state => state,
            };
            self.links.put(link, state);
        }
        self.paused_links.clear();
    }
}

impl Stream {
    /// `flow`: of a tty.
    fn new(source: SourceId, peer: Option<SocketAddr>, flow: Option<Flow>) -> Self {
        Self {
            source,
            peer,
            framer: Framer::new(),
            parmrk: flow.map(|_| Parmrk::default()),
            lane: None,
            origin: None,
            flow,
            held: VecDeque::new(),
            held_bytes: 0,
            paused: false,
            told_to_wait: false,
            shedding: false,
            reading: false,
            ended: false,
            is_watched: false,
            leaving_ns: u64::MAX,
        }
    }
}
