//! The configured sources of one core: what is open of each, what it has sent, what is wrong with
//! it.

use super::addresses::Addresses;
use super::attempts::{Attempts, Loss, ends_soon};
use super::burst::Burst;
use super::content::Undecodable;
use super::places::Places;
use super::queue::RoomQueue;
use super::quotas::Quotas;
use super::samples::Samples;
use super::secure::Secures;
use super::stream::Stream;
use crate::access::DenialCounts;
use crate::config::{LaneKey, Settings, SourceKind, show_duration};
use crate::framing::{Hint, RejectReason};
use crate::ground::{Fd, FlagCounts, LaneId, LinkId, Now, RecordFlags, SourceId};
use crate::journal::OriginRef;
use crate::observe::snapshot::{LineSnapshot, Refused, SourceSnapshot};
use crate::shard::links::{Kind, Table};
use crate::shard::op::{Destination, LISTEN_BACKLOG, Op, Readable};
use crate::shard::timer::Timer;
use crate::shard::turn::{Phase, Turn};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// So many connections in a row of which nothing came but a record without its beginning are a
/// problem: their machine begins with a record.
const JOINED_ONLY_MAX: u32 = 3;
/// That a source has all its connections is logged at most once in this time.
const CROWD_SAY_NS: u64 = 60_000_000_000;
/// And that connections of a listener are ended since they are idle.
const IDLE_SAY_NS: u64 = 60_000_000_000;
/// After an error of accept(2), such as no descriptors left.
const ACCEPT_PAUSE_NS: u64 = 500_000_000;

/// How long a hint about a source's framing is a problem of it.
const HINT_NS: u64 = 3_600_000_000_000;

/// What one source has sent, since the process started.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub received: u64,
    pub rejected: u64,
    pub bytes: u64,
    /// Bytes outside of all frames.
    pub garbage_bytes: u64,
    /// Of records kept.
    pub flagged: FlagCounts,
    pub undecodable: Undecodable,
    /// Marked in the stream of a serial line, as in [`Counters`](crate::ground::count::Counters).
    pub line_breaks: u64,
    pub line_errors: u64,
    pub samples: Samples,
    pub denied: DenialCounts,
    /// Connections in a row of which nothing came but what was rejected as joined.
    joined_only: u32,
}

/// What came of one connection or open port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Brought {
    /// No record, and none that was rejected.
    #[default]
    Nothing,
    /// Nothing but a record that was joined inside.
    Joined,
    More,
}

/// How a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    No,
    /// All that come.
    All,
    /// One, after which it is told anew: few are left, and the driver takes several at once.
    One,
}

/// Whether a source is silent.
#[derive(Debug)]
struct Silence {
    last_byte_ns: u64,
    any_byte: bool,
    silent: bool,
    /// When it is looked at.
    look_ns: u64,
}

/// A configured source on this core. A port and a listener are one thing to an operator, and half of
/// the fields are those of either.
#[derive(Debug)]
pub(super) struct Source {
    pub id: SourceId,
    /// Of a port or an outgoing connection.
    pub link: Option<LinkId>,
    /// Whether that link's file is open.
    pub connected: bool,
    /// Its lane, across reopens, and that lane's origin while something appends to it. The lane may
    /// be gone.
    pub lane: Option<LaneId>,
    pub origin: Option<OriginRef>,
    /// To open its port or connection.
    attempts: Attempts,
    pub accepting: Accepting,
    /// It does not accept for want of room.
    crowded: bool,
    /// Before this it is not logged again.
    crowd_say_ns: u64,
    /// That idle connections are ended is not logged before this.
    idle_say_ns: u64,
    /// How many bytes had come when its connection was last ended since it was idle: while that is so, it is connected to in vain.
    idle_since_bytes: Option<u64>,
    /// Connections of a listener.
    pub open: u64,
    pub tally: Tally,
    silence: Silence,
    pub problem: Option<String>,
    /// What its first bytes said about its framing, once, and when.
    hint: Option<(String, u64)>,
    /// It is no longer in the configuration: it takes nothing new.
    pub retired: bool,
    /// A retired source whose port or connection is to be closed before this one opens its own.
    pub waits_for: Option<SourceId>,
    /// The end of a retired one came inside of a record: its rest comes first at the next open.
    pub is_inside: bool,
}

impl Source {
    fn accept(&mut self, turn: &mut Turn<'_>, how: Accepting) {
        self.accepting = how;
        turn.emit(match how {
            Accepting::One => Op::AcceptOne { source: self.id },
            _ => Op::Accept { source: self.id },
        });
    }

    /// It does not accept until it has room again.
    fn crowd(&mut self, now: Now, settings: &Settings) {
        self.crowded = true;
        let why = match self.open >= settings.connections_of(self.id) as u64 {
            true => {
                "the limit of connections of one source is reached (connections in it, or limits.connections for all)"
            }
            false => {
                "the limit of connections of all sources is reached, and this one has its share; a higher LimitNOFILE= in the unit \
                 or limits.connections allows more"
            }
        };
        let problem = format!("accepting pauses: {why}");
        // It comes and goes with each connection.
        if now.mono_ns >= self.crowd_say_ns {
            tracing::warn!("source {}: {problem}", settings.sources[usize::from(self.id.0)].name);
            self.crowd_say_ns = now.mono_ns + CROWD_SAY_NS;
        }
        self.problem = Some(problem);
    }

    pub fn new(id: SourceId, now: Now) -> Self {
        let silence = Silence { last_byte_ns: now.mono_ns, any_byte: false, silent: false, look_ns: 0 };
        Self {
            id,
            link: None,
            connected: false,
            lane: None,
            origin: None,
            attempts: Attempts::default(),
            accepting: Accepting::No,
            crowded: false,
            crowd_say_ns: 0,
            idle_say_ns: 0,
            idle_since_bytes: None,
            open: 0,
            tally: Tally::default(),
            silence,
            problem: None,
            hint: None,
            retired: false,
            waits_for: None,
            is_inside: false,
        }
    }

    /// It takes nothing new from now on.
    pub fn retire(&mut self) {
        (self.retired, self.problem) = (true, None);
        self.attempts.clear_due();
        self.silence.silent = false;
    }

    /// Goes on with the counts of an earlier source of the same name.
    pub fn inherit(&mut self, earlier: Self) {
        self.tally.received += earlier.tally.received;
        self.tally.rejected += earlier.tally.rejected;
        self.tally.bytes += earlier.tally.bytes;
        self.tally.garbage_bytes += earlier.tally.garbage_bytes;
        self.tally.flagged.add(&earlier.tally.flagged);
        self.tally.undecodable.inherit(&earlier.tally.undecodable);
        self.tally.line_breaks += earlier.tally.line_breaks;
        self.tally.line_errors += earlier.tally.line_errors;
        if !self.silence.any_byte {
            self.silence.any_byte = earlier.silence.any_byte;
            self.silence.last_byte_ns = earlier.silence.last_byte_ns.max(self.silence.last_byte_ns);
        }
        self.tally.denied.add(&earlier.tally.denied);
        self.tally.samples.inherit(earlier.tally.samples);
    }

    fn show(&self, now: Now, settings: &Settings, held_bytes: u64) -> SourceSnapshot {
        let configured = &settings.sources[usize::from(self.id.0)];
        let since_s = now.mono_ns.saturating_sub(self.silence.last_byte_ns) as f64 / 1e9;
        let hint = self.hint.as_ref().filter(|(_, at_ns)| now.mono_ns < at_ns + HINT_NS);
        let hint = hint.map(|(words, _)| words.clone());
        let undecodable = self.tally.undecodable.problem(now, configured);
        let joined = (self.tally.joined_only >= JOINED_ONLY_MAX).then(|| JOINED_ONLY.to_owned());
        let idle = (self.problem.is_none() && self.idle_since_bytes == Some(self.tally.bytes)).then(|| IDLE.to_owned());
        let mut problems: Vec<String> =
            [self.problem.clone(), idle, undecodable, hint, joined].into_iter().flatten().collect();
        if problems.is_empty() && self.silence.silent {
            problems.push(format!("silent for {since_s:.0} s"));
        }
        SourceSnapshot {
            name: configured.name.clone(),
            kind: match configured.kind {
                SourceKind::Serial(_) => "serial",
                SourceKind::TcpListen { .. } => "tcp_listen",
                SourceKind::TcpConnect { .. } => "tcp_connect",
                SourceKind::Http { .. } => "http",
            },
            open: self.open + u64::from(self.connected),
            received: self.tally.received,
            rejected: self.tally.rejected,
            flagged: self.tally.flagged,
            bytes: self.tally.bytes,
            garbage_bytes: self.tally.garbage_bytes,
            held_bytes,
            samples: self.tally.samples.list(),
            denied: self.tally.denied,
            refused: Vec::new(), // the shard has them
            silent_s: self.silence.any_byte.then_some(since_s),
            silent: self.silence.silent,
            problem: (!problems.is_empty()).then(|| problems.join("; ")),
            line: matches!(configured.kind, SourceKind::Serial(_)).then_some(LineSnapshot {
                breaks: self.tally.line_breaks,
                errors: self.tally.line_errors,
                driver: None, // known to the control thread alone
            }),
        }
    }
}

/// What [`JOINED_ONLY_MAX`] connections or opens in a row were.
const JOINED_ONLY: &str = "nothing has come for some connections in a row but one record each, rejected since ringest \
    may have joined inside of it: first = \"keep\" in this source takes it, if its machine begins with a record";

/// What a source is while each connection to its device server is ended by `reconnect_after`.
const IDLE: &str = "nothing has come since it was connected to anew for its silence (reconnect_after)";

/// From so many connections on each listener has its share of the others.
fn scarce_from(all: usize) -> usize {
    all - all / 4
}

/// Whether a source is a listener.
pub(super) fn is_listener(kind: &SourceKind) -> bool {
    matches!(kind, SourceKind::TcpListen { .. } | SourceKind::Http { .. })
}

/// The sources that this core runs: it opens, accepts, counts, and looks for silence. It sees no
/// byte of a record.
#[derive(Debug)]
pub(super) struct Sources {
    list: Vec<Source>,
    /// Position in `list` by `SourceId`.
    index: Vec<Option<usize>>,
    /// Something that a retired source was needed for is gone.
    bury_due: bool,
    /// Connections of all listeners.
    connections: usize,
    addresses: Addresses,
    /// What was lost, and what is open again, and is not logged yet.
    lost: Burst,
    back: Burst,
    /// Who of them waits for room. It stands here since all that sends is lent its sources.
    pub queue: RoomQueue,
    /// TLS of their connections, for the same reason.
    pub secures: Secures,
    /// The lanes that they go on with.
    pub places: Places,
    /// How much each that sends has.
    pub quotas: Quotas,
}

impl Sources {
    pub fn new(ids: &[SourceId], settings: &Settings, now: Now) -> Self {
        let list: Vec<Source> = ids.iter().map(|id| Source::new(*id, now)).collect();
        let mut sources = Self {
            list,
            index: vec![None; settings.sources.len()],
            bury_due: false,
            connections: 0,
            addresses: Addresses::default(),
            lost: Burst::default(),
            back: Burst::default(),
            queue: RoomQueue::default(),
            secures: Secures::new(ids, settings),
            places: Places::default(),
            quotas: Quotas::default(),
        };
        sources.make_index();
        sources
    }

    fn make_index(&mut self) {
        self.index.fill(None);
        for (index, source) in self.list.iter().enumerate() {
            self.index[usize::from(source.id.0)] = Some(index);
        }
    }

    /// A source that this core runs.
    pub fn of(&mut self, id: SourceId) -> &mut Source {
        let index = self.index[usize::from(id.0)].expect("a completion of a source that this core runs");
        &mut self.list[index]
    }

    /// Whether this core has heard of a source, which may be retired.
    pub fn knows(&self, id: SourceId) -> bool {
        self.index.get(usize::from(id.0)).copied().flatten().is_some()
    }

    /// Whether this core runs a source, which is not retired.
    pub fn runs(&self, id: SourceId) -> bool {
        let index = self.index.get(usize::from(id.0)).copied().flatten();
        index.is_some_and(|index| !self.list[index].retired)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        self.list.iter_mut()
    }

    pub fn ids(&self) -> Vec<SourceId> {
        self.list.iter().map(|source| source.id).collect()
    }

    /// There is room for so many ids.
    pub fn resize(&mut self, count: usize) {
        self.index.resize(count, None);
    }

    /// A source that begins.
    pub fn add(&mut self, source: Source) {
        self.index[usize::from(source.id.0)] = Some(self.list.len());
        self.addresses.forget(source.id);
        self.list.push(source);
    }

    /// How a listener may accept. Once three quarters of all connections are taken, each has its
    /// share of the last quarter: idle machines of one source do not lock out another's.
    fn may_accept(&self, settings: &Settings, source: &Source) -> Accepting {
        let (own, all) = (settings.connections_of(source.id), settings.limits.connections_all);
        let is_scarce = self.connections >= scarce_from(all);
        let most = if is_scarce { self.share(settings).min(own as u64) } else { own as u64 };
        if source.open >= most || self.connections >= all {
            return Accepting::No;
        }
        // All that wait can come before any is counted.
        let is_near = |open: usize, most: usize| open + LISTEN_BACKLOG >= most;
        let is_near = is_near(source.open as usize, own) || is_near(self.connections, scarce_from(all));
        if is_near { Accepting::One } else { Accepting::All }
    }

    /// Whether a listener has room for a connection that was accepted.
    pub fn has_room(&self, settings: &Settings, id: SourceId) -> bool {
        let index = self.index[usize::from(id.0)].expect("a source that this core runs");
        self.may_accept(settings, &self.list[index]) != Accepting::No
    }

    /// What each listener has of the last quarter of all connections; at least one. One that is
    /// alone has all of them.
    fn share(&self, settings: &Settings) -> u64 {
        let all = settings.limits.connections_all;
        let is_live =
            |source: &&Source| !source.retired && is_listener(&settings.sources[usize::from(source.id.0)].kind);
        match self.list.iter().filter(is_live).count() {
            0 | 1 => all as u64,
            count => ((all - scarce_from(all)) / count).max(1) as u64,
        }
    }

    pub fn bury_soon(&mut self) {
        self.bury_due = true;
    }

    /// Frees the places of retired sources that nothing belongs to any more. Their counts go on in
    /// the source that has their name.
    pub fn bury(&mut self, settings: &Settings) {
        if !std::mem::take(&mut self.bury_due) {
            return;
        }
        let places = &self.places;
        let needed =
            |source: &Source| !source.retired || source.link.is_some() || source.open > 0 || places.has(source.id);
        let (kept, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.list).into_iter().partition(needed);
        self.list = kept;
        self.make_index();
        for done in done {
            let configured = &settings.sources;
            let name = &configured[usize::from(done.id.0)].name;
            let of_name = |source: &&mut Source| configured[usize::from(source.id.0)].name == *name;
            if let Some(heir) = self.list.iter_mut().find(of_name) {
                heir.inherit(done);
            }
        }
    }

    /// As they are now; `held_bytes`: bytes that wait to be framed.
    pub fn show(&self, now: Now, settings: &Settings, held_bytes: &HashMap<SourceId, u64>) -> Vec<SourceSnapshot> {
        let held_bytes = |source: &Source| held_bytes.get(&source.id).copied().unwrap_or(0);
        let shown = self.list.iter().map(|source| (source.id, source.show(now, settings, held_bytes(source))));
        shown.map(|(id, shown)| self.secures.faults.add_to(shown, now, id)).collect()
    }

    // ---- opening

    /// A source begins: it is opened, or accepts.
    pub fn start(&mut self, turn: &mut Turn<'_>, streams: &mut Table<Stream>, id: SourceId) {
        if self.of(id).retired {
            return;
        }
        if is_listener(&turn.source(id).kind) {
            self.resume_accept(turn, id);
        } else {
            self.reopen(turn, streams, id);
        }
        self.watch_silence(turn, turn.now.mono_ns, id);
    }

    /// What a source opens may have lived long enough to be well, or is to be tried again.
    pub fn reopen_due(&mut self, turn: &mut Turn<'_>, streams: &mut Table<Stream>, id: SourceId) {
        let source = self.of(id);
        if let Some(lived) = source.attempts.has_lived(turn.now) {
            if lived.ends_problem {
                source.problem = None;
            }
            if lived.is_news
                && let Some(at_ns) = self.back.note(turn.now, &turn.source(id).name, "open again")
            {
                turn.timers.set(at_ns, Timer::Tell);
            }
        }
        if self.of(id).attempts.is_due(turn.now) {
            self.reopen(turn, streams, id);
        }
    }

    /// Opens a port or connects to a device server, unless that is done or under way.
    pub fn reopen(&mut self, turn: &mut Turn<'_>, streams: &mut Table<Stream>, id: SourceId) {
        let source = self.of(id);
        if source.link.is_some() || source.waits_for.is_some() || turn.phase != Phase::Running {
            return;
        }
        let flow = match &turn.source(id).kind {
            SourceKind::Serial(port) => Some(port.flow),
            _ => None,
        };
        let link = turn.links.open(Kind::Stream, None);
        streams.insert(link, Stream::new(id, None, flow));
        source.link = Some(link);
        source.attempts.clear_due();
        turn.emit(match flow {
            Some(_) => Op::OpenPort { link, source: id },
            None => Op::Connect { link, to: Destination::Source(id) },
        });
    }

    /// A port or outgoing connection is open: it is read.
    pub fn opened(&mut self, turn: &mut Turn<'_>, link: LinkId, id: SourceId, fd: Fd) {
        turn.links.set_fd(link, fd);
        turn.counters.opened_sources += 1;
        let source = self.of(id);
        source.connected = true;
        if !source.attempts.is_short_lived() {
            source.problem = None;
        }
        let lived_ns = source.attempts.opened(turn.now);
        turn.timers.set(lived_ns, Timer::Reopen(id));
        if !turn.source(id).tcp.is_watched_as_usual() {
            turn.emit(Op::WatchOver { link, fd, source: id });
        }
        turn.emit(Op::Recv { link, fd, kind: readable(&turn.source(id).kind), older: Vec::new() });
    }

    /// A port or device server is not there, or no longer: it is tried again later.
    pub fn lose(&mut self, turn: &mut Turn<'_>, id: SourceId, problem: String, loss: Loss) {
        let name = &turn.source(id).name;
        let source = self.of(id);
        source.link = None;
        let was_open = std::mem::take(&mut source.connected);
        let reopen_ns = source.attempts.lost(turn, loss);
        turn.timers.set(reopen_ns, Timer::Reopen(id));
        let problem = match (was_open, source.attempts.is_short_lived()) {
            (true, true) => {
                format!("{problem} within 3 s, three times in a row or more: {}", ends_soon(&turn.source(id).kind))
            }
            _ => problem,
        };
        if loss == Loss::Idle {
            source.problem = Some(problem);
            return; // told when it was ended
        }
        let is_joined = source.tally.joined_only >= JOINED_ONLY_MAX;
        let said = if is_joined { format!("{problem}; {JOINED_ONLY}") } else { problem.clone() };
        let is_to_tell = source.attempts.is_to_tell(turn.now, &said);
        source.problem = Some(problem);
        if is_to_tell && let Some(at_ns) = self.lost.note(turn.now, name, &format!("{said}; trying again")) {
            turn.timers.set(at_ns, Timer::Tell);
        }
    }

    /// A connection is ended since nothing came on it for too long. Of a listener that is logged once a minute, of a device server once
    /// until it sends again.
    pub fn end_idle(&mut self, turn: &mut Turn<'_>, id: SourceId, peer: Option<SocketAddr>) {
        turn.counters.idle_connections_ended += 1;
        let configured = turn.source(id);
        let after = show_duration(configured.tcp.idle.unwrap_or_default());
        let source = self.of(id);
        match peer {
            Some(peer) if turn.now.mono_ns >= source.idle_say_ns => {
                source.idle_say_ns = turn.now.mono_ns + IDLE_SAY_NS;
                let (name, peer) = (&configured.name, peer.ip());
                tracing::info!(
                    "source {name}: {peer} has sent nothing for {after}, and its connection is closed (idle); others within a minute are \
                     only counted"
                );
            }
            Some(_) => {}
            None => {
                if source.idle_since_bytes.replace(source.tally.bytes) != Some(source.tally.bytes) {
                    let name = &configured.name;
                    tracing::warn!("source {name}: nothing has come for {after}; connecting anew (reconnect_after)");
                }
            }
        }
    }

    /// Logs what was lost and what is open again.
    pub fn tell(&mut self) {
        self.lost.take().for_each(|line| tracing::warn!("{line}"));
        self.back.take().for_each(|line| tracing::info!("{line}"));
    }

    /// A connection or an open port has ended.
    pub fn end_stream(&mut self, turn: &Turn<'_>, id: SourceId, brought: Brought) {
        let joined_only = &mut self.of(id).tally.joined_only;
        match brought {
            Brought::Nothing => {}
            Brought::More => *joined_only = 0,
            Brought::Joined => {
                *joined_only = joined_only.saturating_add(1);
                // Of a port or outgoing connection it is said with its loss.
                if *joined_only == JOINED_ONLY_MAX && is_listener(&turn.source(id).kind) {
                    tracing::warn!("source {}: {JOINED_ONLY}", turn.source(id).name);
                }
            }
        }
    }

    /// A record of a source was kept.
    #[inline]
    pub fn count_record(&mut self, turn: &mut Turn<'_>, id: SourceId, flags: RecordFlags) {
        let tally = &mut self.of(id).tally;
        tally.received += 1;
        tally.joined_only = 0;
        tally.flagged.count(flags);
        if flags.contains(RecordFlags::UNDECODABLE) {
            self.count_undecodable(turn, id);
        }
    }

    /// Other keys of a source are in force; what is open stays.
    pub fn adjust(&mut self, turn: &mut Turn<'_>, old: &Settings, id: SourceId) {
        if old.sources[usize::from(id.0)].silence_alarm != turn.source(id).silence_alarm {
            let silence = &mut self.of(id).silence;
            silence.silent = false;
            let from_ns = silence.last_byte_ns;
            self.watch_silence(turn, from_ns, id);
        }
        // What was told is mended, or is to be told anew.
        if old.sources[usize::from(id.0)].decoding != turn.source(id).decoding {
            self.of(id).tally.undecodable = Undecodable::default();
        }
    }

    // ---- accepting

    /// It is known which machine a connection is of.
    pub fn enter_address(&mut self, turn: &Turn<'_>, id: SourceId, link: LinkId, peer: SocketAddr) {
        self.quotas.enter(id, peer.ip());
        if let SourceKind::TcpListen { lane: LaneKey::Address, .. } = turn.source(id).kind
            && self.addresses.enter(id, peer.ip(), link)
        {
            tracing::warn!(
                "source {}: {} has a second connection while its first is open; they are taken for one machine, with one name \
                 and one order: lane = \"connection\" in this source tells machines behind one address apart",
                turn.source(id).name,
                peer.ip()
            );
        }
    }

    /// A connection of a listener begins.
    pub fn count_in(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        turn.counters.accepted_connections += 1;
        self.connections += 1;
        let source = self.of(id);
        source.open += 1;
        // What was accepted before accepting paused can still come.
        if source.accepting != Accepting::No {
            source.problem = None;
        }
        let all = turn.settings.limits.connections_all;
        match self.connections == all || self.connections == scarce_from(all) {
            true => self.fit_connections(turn),
            false => self.fit(turn, id),
        }
    }

    /// A machine's connection is gone; `peer`: where it came from, if that was known.
    pub fn count_out(&mut self, turn: &mut Turn<'_>, id: SourceId, link: LinkId, peer: Option<SocketAddr>) {
        if let Some(peer) = peer {
            self.quotas.leave(id, peer.ip(), link);
            if let SourceKind::TcpListen { lane: LaneKey::Address, .. } = &turn.source(id).kind {
                self.addresses.leave(id, peer.ip(), link);
            }
        }
        let source = self.of(id);
        source.open -= 1;
        let retired = source.retired;
        self.bury_due |= retired;
        self.connections -= 1;
        let all = turn.settings.limits.connections_all;
        match self.connections + 1 == all || self.connections + 1 == scarce_from(all) {
            true => self.fit_connections(turn),
            false if !retired => self.fit(turn, id),
            false => {}
        }
    }

    /// What a new connection of an address follows, oldest first; also of retired sources of its name.
    pub fn older(&self, turn: &Turn<'_>, id: SourceId, address: IpAddr) -> Vec<LinkId> {
        let is_same = |other: &&Source| other.retired && turn.source(other.id).name == turn.source(id).name;
        self.addresses.latest(self.list.iter().filter(is_same).map(|other| other.id).chain([id]), address)
    }

    pub fn accept_failed(&mut self, turn: &mut Turn<'_>, id: SourceId, errno: i32) {
        let reason = std::io::Error::from_raw_os_error(errno).to_string();
        let source = self.of(id);
        source.accepting = Accepting::No;
        let problem = format!("cannot accept connections: {reason}");
        if source.problem.as_ref() != Some(&problem) {
            tracing::warn!("source {}: {problem}; pausing", turn.source(id).name);
            source.problem = Some(problem);
        }
        turn.timers.set(turn.now.mono_ns + ACCEPT_PAUSE_NS, Timer::Accept(id));
    }

    pub fn pause_accept(&mut self, turn: &mut Turn<'_>, why: &str) {
        for source in &mut self.list {
            if source.accepting != Accepting::No {
                source.accepting = Accepting::No;
                source.problem = Some(format!("accepting pauses: {why}"));
                turn.emit(Op::PauseAccept { source: source.id });
            }
        }
    }

    pub fn resume_accept(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        let index = self.index[usize::from(id.0)].expect("a source that this core runs");
        let how = self.may_accept(turn.settings, &self.list[index]);
        let source = &mut self.list[index];
        if turn.phase != Phase::Running || source.accepting != Accepting::No || source.retired {
            return;
        }
        match how {
            Accepting::No => {
                turn.counters.accepts_paused += 1;
                source.crowd(turn.now, turn.settings);
            }
            how => source.accept(turn, how),
        }
    }

    /// Connections, or their limit, have come to where another listener may accept, or may not.
    pub fn fit_connections(&mut self, turn: &mut Turn<'_>) {
        for id in self.ids() {
            if is_listener(&turn.source(id).kind) && self.runs(id) {
                self.fit(turn, id);
            }
        }
    }

    /// Lets a listener accept as it has room, and pauses it where it has none.
    pub fn fit(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        let index = self.index[usize::from(id.0)].expect("a source that this core runs");
        let how = self.may_accept(turn.settings, &self.list[index]);
        let source = &mut self.list[index];
        match (source.accepting, how) {
            (Accepting::No, Accepting::All | Accepting::One) if source.crowded => {
                (source.crowded, source.problem) = (false, None);
                self.resume_accept(turn, id);
            }
            (Accepting::All | Accepting::One, Accepting::No) => {
                source.accepting = Accepting::No;
                turn.counters.accepts_paused += 1;
                source.crowd(turn.now, turn.settings);
                turn.emit(Op::PauseAccept { source: id });
            }
            (Accepting::All, Accepting::One) => {
                turn.emit(Op::PauseAccept { source: id });
                source.accept(turn, how);
            }
            (Accepting::One, Accepting::All | Accepting::One) => source.accept(turn, how),
            _ => {}
        }
    }

    // ---- bytes and silence

    pub fn count_bytes(&mut self, turn: &mut Turn<'_>, id: SourceId, bytes: usize) {
        turn.counters.received_bytes += bytes as u64;
        let source = self.of(id);
        source.tally.bytes += bytes as u64;
        source.silence.last_byte_ns = turn.now.mono_ns;
        source.silence.any_byte = true;
        source.silence.silent = false;
    }

    /// The first bytes of a stream do not fit the framing of its source: told once.
    pub fn hint(&mut self, turn: &Turn<'_>, id: SourceId, hint: Hint) {
        let configured = turn.source(id);
        let baud = match &configured.kind {
            SourceKind::Serial(port) => Some(port.line.baud),
            _ => None,
        };
        let source = self.of(id);
        if source.hint.is_none() {
            let words = hint.words(baud);
            tracing::warn!("source {}: {words}", configured.name);
            source.hint = Some((words, turn.now.mono_ns));
        }
    }

    /// Looks for silence of a source in time.
    fn watch_silence(&mut self, turn: &mut Turn<'_>, from_ns: u64, id: SourceId) {
        if let Some(after) = turn.source(id).silence_alarm {
            let due_ns = from_ns + after.as_nanos() as u64;
            self.of(id).silence.look_ns = due_ns;
            turn.timers.set(due_ns, Timer::Silence(id));
        }
    }

    pub fn check_silence(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        let Some(after) = turn.source(id).silence_alarm else { return };
        let silence = &mut self.of(id).silence;
        if turn.now.mono_ns < silence.look_ns {
            return; // of a source that had this id before
        }
        let from_ns = silence.last_byte_ns;
        if turn.now.mono_ns < from_ns + after.as_nanos() as u64 {
            self.watch_silence(turn, from_ns, id);
            return;
        }
        if !std::mem::replace(&mut silence.silent, true) {
            tracing::warn!("source {}: silent for {after:?}", turn.source(id).name);
        }
        self.watch_silence(turn, turn.now.mono_ns, id);
    }

    // ---- what became no record

    /// Bytes outside of all frames.
    pub fn count_garbage(&mut self, turn: &mut Turn<'_>, id: SourceId, link: LinkId, bytes: &[u8], count: usize) {
        turn.counters.garbage_bytes += count as u64;
        let tally = &mut self.of(id).tally;
        tally.garbage_bytes += count as u64;
        tally.samples.push_garbage(turn.now, link, bytes);
    }

    fn count_undecodable(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        turn.counters.undecodable_records += 1;
        let (now, configured) = (turn.now, turn.source(id));
        self.of(id).tally.undecodable.count(now, configured);
    }

    /// A record that is not kept for what it is.
    pub fn refuse(&mut self, turn: &mut Turn<'_>, id: SourceId, why: Refused, flags: RecordFlags, record: &[u8]) {
        match why {
            Refused::LineError => turn.counters.rejected_line_error += 1,
            Refused::NotJson => turn.counters.rejected_not_json += 1,
            Refused::Undecodable => {
                turn.counters.rejected_undecodable += 1;
                let (now, configured) = (turn.now, turn.source(id));
                self.of(id).tally.undecodable.count(now, configured);
            }
            other => unreachable!("{other:?} is told by the framer or the journal"),
        }
        self.count_rejected(turn, id, why, flags, record);
    }

    /// A frame that became no record.
    pub fn reject(&mut self, turn: &mut Turn<'_>, id: SourceId, reason: RejectReason, sample: &[u8]) {
        let (counter, reason) = match reason {
            RejectReason::Oversized => (&mut turn.counters.rejected_oversized, Refused::Oversized),
            RejectReason::Unfinished => (&mut turn.counters.rejected_unfinished, Refused::Unfinished),
            RejectReason::Checksum => (&mut turn.counters.rejected_checksum, Refused::Checksum),
            RejectReason::Length => (&mut turn.counters.rejected_length, Refused::Length),
            RejectReason::Joined => (&mut turn.counters.rejected_joined, Refused::Joined),
            RejectReason::NotMatched => (&mut turn.counters.rejected_unmatched, Refused::NotMatched),
        };
        *counter += 1;
        self.count_rejected(turn, id, reason, RecordFlags::default(), sample);
    }

    /// A record that the journal has no room for.
    pub fn reject_full(&mut self, turn: &mut Turn<'_>, id: SourceId, record: &[u8]) {
        turn.counters.rejected_full += 1;
        self.count_rejected(turn, id, Refused::Full, RecordFlags::default(), record);
    }

    fn count_rejected(
        &mut self,
        turn: &mut Turn<'_>,
        id: SourceId,
        reason: Refused,
        flags: RecordFlags,
        sample: &[u8],
    ) {
        turn.terms.received += 1;
        turn.terms.rejected += 1;
        let tally = &mut self.of(id).tally;
        tally.received += 1;
        tally.rejected += 1;
        tally.samples.push(turn.now, reason, flags, sample);
    }

    /// `entries`: of streams and machines.
    pub fn check(&self, entries: usize) {
        let ports = self.list.iter().filter(|source| source.link.is_some() && !source.retired).count();
        let open: u64 = self.list.iter().map(|source| source.open).sum();
        assert_eq!(open, self.connections as u64, "connections of all listeners");
        assert!(ports + self.connections <= entries, "every connection has its entry");
    }
}

/// How what a source opens or accepts is read.
pub(super) fn readable(kind: &SourceKind) -> Readable {
    match kind {
        SourceKind::Serial(_) => Readable::Tty,
        SourceKind::TcpListen { quick_ack: false, .. } | SourceKind::TcpConnect { quick_ack: false, .. } => {
            Readable::SocketLateAcks
        }
        SourceKind::TcpListen { .. } | SourceKind::TcpConnect { .. } | SourceKind::Http { .. } => Readable::Socket,
    }
}
