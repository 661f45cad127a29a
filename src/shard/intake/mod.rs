//! What machines send: sources are opened, connections accepted, bytes cut into records, machines
//! answered.
//!
//! - `source`: the configured sources of this core, what is open of each and what it has sent;
//!   `samples` of what was refused; `attempts` to open a port or device server; `addresses` that
//!   are connected.
//! - `arrivals`: connections come in; `proxied`: those of proxies, until it is known which machine is
//!   behind each.
//! - `places`: lanes that go on across connections, of addresses and SOURCEs.
//! - `idle`: connections on which nothing comes.
//! - `stream`: bytes of ports and TCP connections; `pressure`: what they do while the journal has
//!   no room.
//! - `http`: HTTP machines; `sender`: who sends on one connection; `hold`: a request that waits for
//!   room; `guests`: what crosses between cores.
//! - `access`: who is turned away; `vetting`: a request of which it is not known yet.
//! - `queue`: who of all these waits for room, in their order.
//! - `secure`: TLS, which becomes plaintext before the others see it; `faults`: what goes wrong with it.
//!
//! The intake gives each record to the store, and never sees an API.

mod access;
mod addresses;
mod arrivals;
mod attempts;
mod batches;
mod burst;
mod content;
mod faults;
mod guests;
mod hold;
mod http;
mod idle;
mod places;
mod pressure;
mod proxied;
mod queue;
mod quotas;
mod samples;
mod search;
mod secure;
mod sender;
mod source;
mod stream;
mod vetting;

use super::links::{Kind, Links, Table};
use super::op::{Op, OpenPort, Parcel, RecvEnd};
use super::store::Store;
use super::timer::Timer;
use super::turn::{Phase, Turn};
use super::{LaneId, LinkId, Now, SourceId};
use crate::access::Looked;
use crate::config::{self, LaneKey, Settings, SourceKind, machine_name, needs_new_origin};
use crate::ground::CoreId;
use crate::http::server::Request;
use crate::journal::{Identity, owner_of};
use crate::observe::snapshot::SourceSnapshot;
use crate::source::serial::PortError;
use access::Door;
use arrivals::Arrival;
use attempts::Loss;
use guests::Guests;
use http::Machines;
use places::Place;
pub(super) use pressure::needs_reserve;
use proxied::Proxied;
use queue::Queued;
use source::{Accepting, Source, Sources};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use stream::{GoesOn, Streams, leave_source_lane};

/// Which core an address belongs to.
#[derive(Debug)]
pub(super) struct Placement {
    pub core: CoreId,
    /// Number of core threads.
    pub cores: u16,
    /// Which core owns a `NAME@ADDRESS` with records from before the start; others are spread by
    /// hash.
    pub owners: Arc<HashMap<String, CoreId>>,
}

impl Placement {
    /// The other core that decides about a request: the one that its lane is on. Where each connection
    /// has its own lane that is its SOURCE's, if the request has a key, or one before it on its
    /// connection was passed on to that core.
    #[inline]
    fn owner_of_request(
        &self,
        store: &Store,
        (lane, peer): (LaneKey, SocketAddr),
        request: &Request<'_>,
        passed_to: &[CoreId],
    ) -> Option<CoreId> {
        if self.cores == 1 {
            return None;
        }
        let of_source = || owner_of(request.source, self.cores);
        let owner = match lane {
            LaneKey::Source => of_source(),
            LaneKey::Address => self.owner_by_hash(peer.ip()),
            LaneKey::Connection if !store.own().remembers_keys() => return None,
            LaneKey::Connection => {
                let owner = of_source();
                if request.idempotency_key.is_none() && !passed_to.contains(&owner) {
                    return None;
                }
                owner
            }
        };
        (owner != self.core).then_some(owner)
    }

    fn owner_by_hash(&self, address: IpAddr) -> CoreId {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        CoreId((hasher.finish() % u64::from(self.cores)) as u16)
    }

    /// The core that owns an address of a source.
    fn owner(&self, source: &str, names: &BTreeMap<IpAddr, String>, peer: SocketAddr) -> CoreId {
        if self.cores == 1 {
            return self.core;
        }
        // Records from before the address had this name, too.
        let name = machine_name(source, LaneKey::Address, names, peer);
        let unnamed = || machine_name(source, LaneKey::Address, &BTreeMap::new(), peer);
        self.owners
            .get(&name)
            .or_else(|| self.owners.get(&unnamed()))
            .copied()
            .unwrap_or_else(|| self.owner_by_hash(peer.ip()))
    }
}

/// Whether two configurations lead to the same machine's line.
fn is_same_end(one: &SourceKind, other: &SourceKind) -> bool {
    match (one, other) {
        (SourceKind::Serial(one), SourceKind::Serial(other)) => one.path == other.path,
        (SourceKind::TcpConnect { connect: one, .. }, SourceKind::TcpConnect { connect: other, .. }) => one == other,
        _ => false,
    }
}

/// Whose lane the records of a sender are in, where they go before new ones of a source.
fn place_of<'n>(source: &config::Source, who: &'n Identity) -> Option<Place<'n>> {
    if who.source() != source.name {
        return None;
    }
    match &source.kind {
        SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => (who.name() == source.name).then_some(Place::Line),
        SourceKind::TcpListen { lane: LaneKey::Address, names, .. } => {
            let address = who.peer().map(|peer| peer.ip());
            address.or_else(|| address_of(&source.name, names, who.name())).map(Place::Address)
        }
        SourceKind::Http { lane: LaneKey::Source, .. } => Some(Place::Name(who.name())),
        SourceKind::Http { lane: LaneKey::Address, .. } => who.peer().map(|peer| Place::Address(peer.ip())),
        SourceKind::TcpListen { .. } | SourceKind::Http { lane: LaneKey::Connection, .. } => None,
    }
}

/// Lanes with records of several places, from before each place had its own. Nobody goes on with them:
/// who came back to one place would keep the others waiting.
fn mixed<'n>(found: impl Iterator<Item = (Place<'n>, LaneId)>) -> HashSet<LaneId> {
    let mut places = HashMap::new();
    found.filter(|(place, lane)| *places.entry(*lane).or_insert(*place) != *place).map(|(_, lane)| lane).collect()
}

/// Whether a source goes on with lanes that it finds.
fn has_lasting_lanes(kind: &SourceKind) -> bool {
    kind.lane() != LaneKey::Connection
}

/// The address that a machine of a listener is called by, where the journal does not know it.
fn address_of(source: &str, names: &BTreeMap<IpAddr, String>, name: &str) -> Option<IpAddr> {
    let given = names.iter().find(|(_, given)| *given == name).map(|(address, _)| *address);
    given.or_else(|| name.strip_prefix(source)?.strip_prefix('@')?.parse().ok())
}

/// What machines send to one core.
#[derive(Debug)]
pub(super) struct Intake {
    placement: Placement,
    sources: Sources,
    streams: Streams,
    machines: Machines,
    guests: Guests,
    door: Door,
    /// Connections that were handed over while the journal was not ready, or of a source that this
    /// core has not heard of yet.
    early: Vec<(SourceId, Arrival)>,
    /// Connections whose machines are not known yet.
    proxied: Table<Proxied>,
}

impl Intake {
    /// At rest; `sources` are those that this core runs.
    pub fn new(placement: Placement, sources: &[SourceId], settings: &Settings, now: Now) -> Self {
        let machines = Machines::new(placement.core);
        let mut streams = Streams::default();
        streams.set_held_bytes_max(settings, sources);
        Self {
            placement,
            sources: Sources::new(sources, settings, now),
            streams,
            machines,
            guests: Guests::default(),
            door: Door::default(),
            early: Vec::new(),
            proxied: Table::default(),
        }
    }

    /// The core that it is on.
    pub fn core(&self) -> CoreId {
        self.placement.core
    }

    /// Records that were found at a start go before the new ones of their source.
    pub fn adopt_lanes(&mut self, turn: &Turn<'_>, store: &mut Store, mut found: Vec<(Identity, LaneId)>) {
        let mixed = mixed(found.iter().filter_map(|(who, lane)| Some((self.place(turn.settings, who)?, *lane))));
        found.retain(|(_, lane)| !mixed.contains(lane));
        for (who, lane) in found {
            for id in self.sources.ids() {
                self.adopt_lane_for(turn, store, id, &who, lane);
            }
        }
    }

    /// Whether a source has a lane in which what this one sent goes before its new records. `names`: how
    /// many SOURCEs were asked for; those beyond a bound sleep, and have no order to keep.
    pub fn goes_on_with(&self, settings: &Settings, who: &Identity, names: &Cell<usize>) -> bool {
        match self.place(settings, who) {
            Some(Place::Name(_)) => names.replace(names.get() + 1) < places::NAMES_MAX,
            place => place.is_some(),
        }
    }

    /// Where a source goes on with what this one sent.
    fn place<'n>(&self, settings: &Settings, who: &'n Identity) -> Option<Place<'n>> {
        self.sources.iter().find_map(|source| place_of(&settings.sources[usize::from(source.id.0)], who))
    }

    /// A lane holds records that go before the new ones of a source, if that source sent them. What
    /// an address is called may have changed meanwhile.
    fn adopt_lane_for(&mut self, turn: &Turn<'_>, store: &mut Store, id: SourceId, who: &Identity, lane: LaneId) {
        let older = match place_of(turn.source(id), who) {
            None => return,
            Some(Place::Line) => self.sources.of(id).lane.replace(lane),
            Some(place) => self.sources.places.set(id, place, lane),
        };
        store.chain(older, lane);
    }

    /// Intake begins.
    pub fn start(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        for id in self.sources.ids() {
            self.sources.start(turn, &mut self.streams.table, id);
        }
        self.accept_early(turn, store);
    }

    // ---- completions

    pub fn handle_accept_failed(&mut self, turn: &mut Turn<'_>, id: SourceId, errno: i32) {
        if self.sources.runs(id) {
            self.sources.accept_failed(turn, id, errno);
        }
    }

    /// A port or outgoing connection is open, or not.
    pub fn handle_opened(&mut self, turn: &mut Turn<'_>, link: LinkId, result: Result<OpenPort, OpenFailure>) {
        let stream = self.streams.table.of(link);
        let id = stream.sender.source;
        match result {
            Ok(OpenPort { fd, discarded }) => {
                stream.reading = true;
                // We ended the earlier one ourselves, so what is lost in between is ours, too.
                let is_inside = discarded || std::mem::take(&mut self.sources.of(id).is_inside);
                if is_inside || turn.source(id).connect_tls.is_none() {
                    stream.begin(turn, link, is_inside); // over TLS it begins behind the handshake
                }
                self.sources.opened(turn, link, id, fd);
                self.sources.secures.call(turn, link, id);
            }
            Err(problem) => {
                self.sources.of(id).is_inside = false;
                turn.links.remove(link);
                self.streams.table.forget(link);
                let hopeless = matches!(problem, OpenFailure::Port(PortError::NoTty { .. }));
                let loss = if hopeless { Loss::Hopeless } else { Loss::Gone };
                self.sources.lose(turn, id, problem.to_string(), loss);
            }
        }
    }

    /// Something changed in the directory of a missing port: it is opened now.
    pub fn handle_port_appeared(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        if self.sources.runs(id) {
            self.sources.reopen(turn, &mut self.streams.table, id);
        }
    }

    /// Another core passes a request on, or tells what became of one.
    pub fn handle_parcel(&mut self, turn: &mut Turn<'_>, store: &mut Store, parcel: Parcel) {
        match parcel {
            Parcel::Request(passed_on) => self.guests.take(turn, store, &mut self.sources, passed_on),
            Parcel::Answer { link, ticket, bytes, verdict } => {
                self.machines.answered_elsewhere(turn, link, (ticket, bytes), verdict);
            }
            Parcel::Left { core, link } => self.guests.leave(turn, store, core, link),
        }
    }

    /// Bytes of a link of this kind.
    pub fn handle_received(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        bytes: &mut [u8],
    ) {
        match self.sources.secures.has(link) {
            _ if kind == Kind::Proxied => self.proxied_received(turn, store, link, bytes),
            true => self.secure_received(turn, store, (link, kind), bytes),
            false => self.plain_received(turn, store, (link, kind), bytes),
        }
    }

    fn plain_received(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        bytes: &mut [u8],
    ) {
        match kind {
            Kind::Http => {
                let owner = (&self.placement, &mut self.door);
                self.machines.received(turn, store, &mut self.sources, owner, (link, bytes));
            }
            Kind::Stream => self.streams.received(turn, store, &mut self.sources, link, bytes),
            Kind::Proxied | Kind::Api => unreachable!("its bytes are none of a machine"),
        }
    }

    pub fn handle_recv_ended(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        end: RecvEnd,
    ) {
        match self.sources.secures.has(link) {
            _ if kind == Kind::Proxied => self.proxied_ended(turn, store, link, end),
            true => self.secure_ended(turn, store, (link, kind), end),
            false => self.plain_ended(turn, store, (link, kind), end),
        }
    }

    fn plain_ended(&mut self, turn: &mut Turn<'_>, store: &mut Store, (link, kind): (LinkId, Kind), end: RecvEnd) {
        match kind {
            Kind::Http => self.machines.read_ended(turn, store, &mut self.sources, link, end),
            Kind::Stream => self.streams.read_ended(turn, store, &mut self.sources, link, end),
            Kind::Proxied | Kind::Api => unreachable!("its bytes are none of a machine"),
        }
    }

    /// An answer is sent.
    pub fn handle_sent(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        sent: (Vec<u8>, Result<(), i32>),
    ) {
        match kind {
            _ if self.sources.secures.has(link) => self.secure_sent(turn, store, (link, kind), sent),
            Kind::Http => self.machines.sent(turn, store, &mut self.sources, link, sent),
            Kind::Stream | Kind::Proxied | Kind::Api => {
                unreachable!("a machine that is no HTTP machine is sent nothing")
            }
        }
    }

    /// A secret was looked at on which a request waits.
    pub fn handle_secret_looked(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, looked: Looked) {
        self.door.looked(turn, link);
        if turn.links.is_open(link, Kind::Http) {
            let owner = (&self.placement, &mut self.door);
            self.machines.secret_looked(turn, store, &mut self.sources, owner, (link, looked));
        }
    }

    pub fn handle_link_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, kind: Kind) {
        if self.sources.secures.has(link) {
            self.secure_timer(turn, store, link, kind);
            if !turn.links.is_open(link, kind) {
                return;
            }
        }
        match kind {
            Kind::Http => {
                self.machines.handle_timer(turn, store, &mut self.sources, (&self.placement, &mut self.door), link);
            }
            Kind::Stream => self.streams.handle_timer(turn, store, &mut self.sources, link),
            Kind::Proxied => self.proxied_timer(turn, store, link),
            Kind::Api => unreachable!("a connection to the API is the delivery\'s"),
        }
    }

    /// A port is to be tried again.
    pub fn reopen_due(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        if self.sources.runs(id) {
            self.sources.reopen_due(turn, &mut self.streams.table, id);
        }
    }

    /// What has befallen many sources at once is logged.
    pub fn tell(&mut self) {
        self.sources.tell();
    }

    /// What has gone wrong with the TLS of machines is logged.
    pub fn tell_faults(&mut self, turn: &mut Turn<'_>) {
        self.sources.secures.faults.tell_rest(turn);
    }

    /// A source may have been silent for too long.
    pub fn check_silence(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        if self.sources.runs(id) {
            self.sources.check_silence(turn, id);
        }
    }

    /// Accepting goes on after an error.
    pub fn resume_accept(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        if self.sources.runs(id) {
            self.sources.resume_accept(turn, id);
        }
    }

    /// A link is being closed.
    pub fn forget_link(&mut self, link: LinkId) {
        self.streams.table.forget(link);
        self.machines.forget(link);
        self.proxied.forget(link);
        self.sources.secures.forget(link);
    }

    /// A link's file is closed: a source that waits for a port begins.
    pub fn link_closed(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        let of_link = |source: &&mut Source| source.retired && source.link == Some(link);
        let Some(source) = self.sources.iter_mut().find(of_link) else { return };
        let id = source.id;
        source.link = None;
        let is_inside = source.is_inside;
        self.sources.bury_soon();
        let waiting = self.sources.iter_mut().filter(|source| source.waits_for == Some(id));
        let heirs: Vec<SourceId> = waiting
            .map(|source| {
                // Of the same machine what comes is the rest of a record, however late it comes.
                let is_same = is_same_end(&turn.source(id).kind, &turn.source(source.id).kind);
                (source.waits_for, source.is_inside) = (None, is_inside && is_same);
                source.id
            })
            .collect();
        for heir in heirs {
            self.sources.reopen(turn, &mut self.streams.table, heir);
        }
    }

    // ---- the turn

    /// What became durable lets answers go.
    pub fn release_durable(&mut self, turn: &mut Turn<'_>, store: &Store) {
        self.machines.release_durable(turn, store);
        self.guests.release_durable(turn, store);
    }

    /// Places of sources and lanes that are of no more use are free.
    pub fn bury(&mut self, turn: &Turn<'_>, store: &mut Store) {
        if store.has_ended() {
            self.sources.forget_lanes(store.drain_ended());
        }
        self.sources.bury(turn.settings);
    }

    /// Links that wait for room in the journal go on.
    ///
    /// What was read is framed first, and nobody reads on before all who wait have had their turn: else
    /// each could read a socket's whole buffer for the little room that there was, and with thousands of
    /// links that would be memory without a bound. So no more is held than a turn or two of reads.
    pub fn resume_paused(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.sources.queue.set_lasts(false);
        self.sources.queue.end_rest(turn.now.mono_ns);
        if self.sources.queue.is_empty() {
            return;
        }
        self.sources.queue.forget_gone(turn.links, self.guests.held());
        self.sources.queue.set_asks_first(true);
        while let Some(line) = self.sources.queue.pop_line() {
            if self.streams.go_on(turn, store, &mut self.sources, line) == GoesOn::Waits {
                // Not even a small record of another sender goes before it.
                self.sources.queue.set_asks_first(false);
                return self.refuse_queued(turn, store);
            }
        }
        let mut framed = Vec::new();
        while let Some(first) = self.sources.queue.pop() {
            self.sources.queue.set_asks_first(true);
            let waits = match first {
                Queued::Stream(link) => {
                    let goes_on = self.streams.go_on(turn, store, &mut self.sources, link);
                    framed.extend((goes_on == GoesOn::Framed).then_some(link));
                    goes_on == GoesOn::Waits
                }
                Queued::Machine(link) => {
                    let owner = (&self.placement, &mut self.door);
                    !self.machines.go_on(turn, store, &mut self.sources, owner, link)
                }
                Queued::Guest => !self.guests.go_on(turn, store, &mut self.sources),
            };
            if waits {
                break;
            }
        }
        self.sources.queue.set_asks_first(false);
        match self.sources.queue.is_empty() {
            true => {
                let streams = self.sources.queue.share_out(turn.now.mono_ns, framed);
                self.streams.read_on(turn, store, &mut self.sources, streams);
                if let Some(at_ns) = self.sources.queue.wake_ns() {
                    turn.timers.set(at_ns, Timer::ReadOn);
                }
            }
            false => self.sources.queue.append(framed),
        }
        self.refuse_queued(turn, store);
    }

    /// Where the first one waits for room that nobody makes, requests behind it are refused.
    fn refuse_queued(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        if !self.sources.queue.lasts() {
            return;
        }
        for request in self.sources.queue.take_requests() {
            match request {
                Queued::Machine(link) => {
                    self.machines.go_on(turn, store, &mut self.sources, (&self.placement, &mut self.door), link);
                }
                Queued::Guest => drop(self.guests.go_on(turn, store, &mut self.sources)),
                Queued::Stream(_) => unreachable!("a stream is no request"),
            }
        }
    }

    /// Sends machines what may be sent now.
    pub fn flush_machines(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.machines.flush(turn, store, &mut self.sources);
    }

    /// Whether what a link of this kind brings may wait outside for a later turn. Not where its time
    /// means something, and where a line must be told to wait.
    pub fn can_wait(&self, settings: &Settings, link: LinkId, kind: Kind) -> bool {
        match kind {
            Kind::Http => true,
            Kind::Stream => self.streams.table.get(link).is_untimed(settings),
            // Headers count in the order in which they came.
            Kind::Proxied | Kind::Api => false,
        }
    }

    /// Whether a machine waits for a commit.
    pub fn awaits_durable(&self) -> bool {
        self.machines.await_durable() || self.guests.await_durable()
    }

    /// Whether no machine waits for an answer.
    pub fn machines_are_answered(&self, turn: &Turn<'_>) -> bool {
        self.machines.are_answered(turn) && self.guests.are_answered()
    }

    /// Intake ends: nothing more is accepted or read.
    pub fn stop(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.sources.pause_accept(turn, "the gateway is stopping");
        for id in self.sources.ids() {
            self.end_proxied_of(turn, store, id);
        }
        let links: Vec<LinkId> = turn.links.ids().collect();
        for link in links {
            match turn.links.kind(link) {
                Some(Kind::Stream) => {
                    self.sources.secures.farewell(turn, link);
                    self.streams.stop(turn, store, &mut self.sources, link);
                }
                Some(Kind::Http) => self.machines.stop(link),
                Some(Kind::Proxied | Kind::Api) | None => {}
            }
        }
        self.sources.queue.forget_streams();
    }

    // ---- another configuration

    /// Sources take nothing new. `turn` has the new settings, in which they still stand.
    pub fn retire(&mut self, turn: &mut Turn<'_>, store: &mut Store, retired: Vec<SourceId>) {
        self.sources.resize(turn.settings.sources.len());
        for id in retired {
            self.retire_one(turn, store, id);
        }
    }

    /// Takes over other settings, which `turn` has; `old`: those before. Lanes may be recalled by
    /// it.
    pub fn reload(&mut self, turn: &mut Turn<'_>, store: &mut Store, old: &Settings, started: Vec<SourceId>) {
        for id in started {
            self.add_source(turn, store, id);
        }
        if turn.phase == Phase::Running {
            self.accept_early(turn, store);
        }
        self.bury(turn, store);
        let live: Vec<SourceId> =
            self.sources.iter().filter(|source| !source.retired).map(|source| source.id).collect();
        self.streams.set_held_bytes_max(turn.settings, &live);
        store.set_reserve(needs_reserve(turn.settings, &live));
        let all = |settings: &Settings| (settings.limits.connections, settings.limits.connections_all);
        if all(old) != all(turn.settings) {
            self.sources.fit_connections(turn);
        }
    }

    /// Other keys of sources that go on with what they have open; `turn` has the new settings.
    pub fn adjust(&mut self, turn: &mut Turn<'_>, store: &mut Store, old: &Settings, adjusted: Vec<SourceId>) {
        for id in adjusted {
            if !self.sources.runs(id) {
                continue; // a port of another core
            }
            self.sources.adjust(turn, old, id);
            let before = &old.sources[usize::from(id.0)];
            let who = |source: &config::Source| (source.access.networks.clone(), source.access.proxies.clone());
            if who(before) != who(turn.source(id)) {
                self.end_denied(turn, store, id);
            }
            if before.access.quotas.connections != turn.source(id).access.quotas.connections {
                self.sources.fit(turn, id);
            }
            if before.tcp != turn.source(id).tcp {
                self.watch_over(turn, id);
            }
            if before.tls != turn.source(id).tls {
                self.sources.secures.configure(id, turn.settings);
            }
            if needs_new_origin(&old.sources[usize::from(id.0)], turn.source(id)) {
                self.streams.renew_origins(turn, store, &mut self.sources, id);
            }
        }
    }

    /// Connections whose peers may no longer send, or no longer tell who does, end in order.
    fn end_denied(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId) {
        let access = &turn.source(id).access;
        self.end_denied_proxied(turn, id);
        for link in self.streams.links_of(turn, id) {
            let whence = self.streams.table.get(link).sender.whence();
            if let Some(whence) = whence.filter(|whence| !whence.is_let_in(access)) {
                self.door.deny_peer(turn, &mut self.sources, id, whence.address());
                self.streams.retire(turn, store, &mut self.sources, link);
            }
        }
        for link in self.machines.links_of(turn, id) {
            let whence = self.machines.whence_of(link);
            if !whence.is_let_in(access) {
                self.door.deny_peer(turn, &mut self.sources, id, whence.address());
                self.machines.stop(link);
            }
        }
    }

    /// Retired sources whose connections or records still need their place.
    pub fn retired(&self) -> Vec<SourceId> {
        self.sources.iter().filter(|source| source.retired).map(|source| source.id).collect()
    }

    /// A source takes nothing new. What it has received is delivered.
    fn retire_one(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId) {
        if !self.sources.runs(id) {
            return; // a port of another core
        }
        self.sources.bury_soon();
        let source = self.sources.of(id);
        source.retire();
        if std::mem::replace(&mut source.accepting, Accepting::No) != Accepting::No {
            turn.emit(Op::PauseAccept { source: id });
        }
        self.end_proxied_of(turn, store, id);
        for link in self.streams.links_of(turn, id) {
            self.sources.secures.farewell(turn, link);
            self.streams.retire(turn, store, &mut self.sources, link);
        }
        for link in self.machines.links_of(turn, id) {
            self.machines.stop(link);
        }
        if self.sources.of(id).link.is_none() {
            leave_source_lane(store, &mut self.sources, id);
        }
    }

    fn add_source(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId) {
        let name = &turn.source(id).name;
        let mut source = Source::new(id, turn.now);
        // A line has one reader at a time, and the records of the earlier one come first.
        let same = |other: &&Source| other.retired && other.link.is_some() && turn.source(other.id).name == *name;
        source.waits_for = self.sources.iter().find(same).map(|other| other.id);
        self.sources.add(source);
        // Of an earlier one in its place.
        self.sources.secures.faults.forget(id);
        turn.refusals.forget(id);
        self.sources.quotas.forget(id);
        self.sources.secures.configure(id, turn.settings);
        self.find_lanes_of(turn, store, id);
        if turn.phase == Phase::Running {
            self.sources.start(turn, &mut self.streams.table, id);
        }
    }

    /// What the journals still hold of a source of this name goes before its new records.
    fn find_lanes_of(&mut self, turn: &Turn<'_>, store: &mut Store, id: SourceId) {
        let name = &turn.source(id).name;
        if !has_lasting_lanes(&turn.source(id).kind) {
            return;
        }
        let mut seen = HashSet::new();
        for journal in store.oldest_first() {
            let mut found = store.lanes_of(journal, name);
            // Lanes that were at work side by side have no order to keep; what is under way cannot
            // be told to wait.
            found.sort_unstable_by_key(|(number, _, lane)| (!store.lane(*lane).is_under_way(), *number));
            found.dedup();
            let places = found.iter().filter_map(|(_, who, lane)| Some((place_of(turn.source(id), who)?, *lane)));
            let mixed = mixed(places);
            found.retain(|(.., lane)| !mixed.contains(lane));
            for (_, who, lane) in found {
                if seen.insert(who.name().to_owned()) || !store.lane(lane).is_under_way() {
                    self.adopt_lane_for(turn, store, id, &who, lane);
                }
            }
        }
        // Places of which nothing waits at this moment have their lanes, too.
        self.sources.places.inherit(id, |other| other != id && turn.source(other).name == *name);
    }

    // ---- looking at it as a whole

    /// Whether a stream waits for room in the journal.
    pub fn is_paused(&self) -> bool {
        self.sources.queue.has_streams()
    }

    /// Its sources at this moment.
    pub fn snapshot(
        &self,
        now: Now,
        (settings, links, store): (&Settings, &Links, &Store),
        is_served: bool,
    ) -> Vec<SourceSnapshot> {
        let mut shown = self.sources.show(now, settings, &self.streams.held_bytes(links));
        // While the service fails all lanes grow.
        let crowded = if is_served { self.sources.places.crowded(store) } else { Vec::new() };
        for (id, problem) in crowded {
            let name = &settings.sources[usize::from(id.0)].name;
            if let Some(source) = shown.iter_mut().find(|source| source.name == *name) {
                source.problem = Some(source.problem.take().map_or(problem.clone(), |own| format!("{own}; {problem}")));
            }
        }
        shown
    }

    /// What must be true at the end of a turn.
    pub fn check(&self, turn: &Turn<'_>) {
        self.sources.queue.check();
        self.machines.check(turn, &self.sources.queue);
        if turn.phase == Phase::Running {
            self.streams.check(turn, &self.sources.queue);
        }
        // When all is over, links are closed as they are.
        if turn.phase != Phase::Stopping {
            self.sources.check(self.streams.table.len() + self.machines.len() + self.proxied.len());
        }
    }
}

/// Why a port or an outgoing connection is not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// Of a serial port.
    #[error("{0}")]
    Port(#[from] PortError),
    /// Of a connect.
    #[error("{0}")]
    Connect(#[from] super::op::ConnectError),
}
