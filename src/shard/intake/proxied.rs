//! Connections of proxies, until it is known which machine is behind each: from its PROXY header,
//! or over HTTP from the first bytes that begin none.
//!
//! ```text
//!            http without a header
//! Header ──────────────────────────────────────────────────────────────────────► the machine's
//! (`arrivals`)
//!   │  └─ a header ─┬─ of a machine of this core, without older connections ─────►
//!   │               ├─ of one with them ─► Ending ─► Behind them ────────────────►
//!   │               ├─ of another core's ─► Ending ─► handed over, with what was read
//!   │               └─ of nobody, tcp_listen ─► Nobody ─ bytes ─► as a machine at the proxy's own address
//!   │                                              └─ closed: a health check, of which nothing is told
//!   └─ no header, a broken one, the deadline ─► closed, counted, told; closed before a byte: nothing
//! ```
//!
//! A read in flight gives what it likes. So where bytes behind the header must wait, or go
//! elsewhere, the read is ended first.

use super::access::Who;
use super::arrivals::{Reading, Whence};
use super::{Intake, LaneKey};
use crate::access::Denial;
use crate::config::SourceKind;
use crate::ground::proxy::{Look, Told, look};
use crate::ground::{CoreId, LinkId, SourceId};
use crate::shard::links::{Kind, Links};
use crate::shard::op::{self, Op, RecvEnd};
use crate::shard::store::Store;
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use std::net::SocketAddr;
use std::time::Duration;

/// What is waited for.
#[derive(Debug)]
enum State {
    /// The rest of its header, until a moment in monotonic nanoseconds.
    Header { until_ns: u64 },
    /// Bytes behind a header that has told of nobody, since a moment in monotonic nanoseconds.
    Nobody { since_ns: u64 },
    /// The end of its read: where it comes from is known, and the older connections of that
    /// machine.
    Ending(Whence, Vec<LinkId>),
    /// What these have received comes before what is held.
    Behind(Whence, Vec<LinkId>),
}

/// A connection whose machine is not known yet, or not free to be read.
#[derive(Debug)]
pub(super) struct Proxied {
    pub source: SourceId,
    pub peer: SocketAddr,
    /// What of a header has come, or what came behind it.
    pub held: Vec<u8>,
    state: State,
    /// It is listed among the connections of its address.
    pub has_entered: bool,
    /// Its older connections are read, but for those that wait here themselves.
    has_waited: bool,
    /// Its read has ended for good.
    end: Option<RecvEnd>,
}

impl Proxied {
    /// At its beginning.
    pub fn new(turn: &mut Turn<'_>, link: LinkId, source: SourceId, peer: SocketAddr) -> Self {
        let limits = &turn.settings.limits.http;
        // Over HTTP a proxy keeps connections for later; of TCP it sends the header at once.
        let within = match turn.source(source).kind {
            SourceKind::Http { .. } => limits.idle_timeout,
            _ => limits.header_timeout,
        };
        let mut proxied = Self {
            source,
            peer,
            held: Vec::new(),
            state: State::Nobody { since_ns: turn.now.mono_ns },
            has_entered: false,
            has_waited: false,
            end: None,
        };
        proxied.wait(turn, link, within);
        proxied
    }

    /// One that another core has handed over, behind older ones of its machine.
    pub fn behind(source: SourceId, whence: Whence, older: Vec<LinkId>, held: Vec<u8>) -> Self {
        Self {
            source,
            peer: whence.peer,
            held,
            state: State::Behind(whence, older),
            has_entered: true,
            has_waited: false,
            end: None,
        }
    }

    /// Waits for a header for so long.
    fn wait(&mut self, turn: &mut Turn<'_>, link: LinkId, within: Duration) {
        let until_ns = turn.now.mono_ns.saturating_add(within.as_nanos() as u64);
        self.state = State::Header { until_ns };
        turn.timers.set(until_ns, Timer::Link(link));
    }

    /// When it is over, where it may not say nothing for ever.
    fn idle_ns(&self, turn: &Turn<'_>) -> Option<u64> {
        let State::Nobody { since_ns } = self.state else { return None };
        turn.source(self.source).tcp.idle.map(|after| since_ns.saturating_add(after.as_nanos() as u64))
    }

    /// Sets the link's timer for that.
    pub(super) fn watch_idle(&self, turn: &mut Turn<'_>, link: LinkId) {
        if let Some(at_ns) = self.idle_ns(turn) {
            turn.timers.set(at_ns, Timer::Link(link));
        }
    }

    /// Whether an older connection of its machine is not read yet itself.
    fn is_behind_proxied(&self, links: &Links) -> bool {
        let is_proxied = |other: &LinkId| links.is_open(*other, Kind::Proxied);
        matches!(&self.state, State::Behind(_, older) | State::Ending(_, older) if older.iter().any(is_proxied))
    }
}

impl Intake {
    /// Bytes of a connection whose machine is not known.
    pub(super) fn proxied_received(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, bytes: &[u8]) {
        let proxied = self.proxied.of(link);
        let is_first = proxied.held.is_empty();
        proxied.held.extend_from_slice(bytes);
        match proxied.state {
            State::Header { .. } => self.look_for_header(turn, store, link, is_first),
            State::Nobody { .. } => {
                let peer = proxied.peer;
                self.settle(turn, store, link, Whence { peer, told: Some(peer) });
            }
            State::Ending(..) | State::Behind(..) => {}
        }
    }

    fn look_for_header(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, is_first: bool) {
        let proxied = self.proxied.of(link);
        let (id, peer) = (proxied.source, proxied.peer);
        let is_http = matches!(turn.source(id).kind, SourceKind::Http { .. });
        let nobody = Whence { peer, told: Some(peer) };
        match look(&proxied.held) {
            Ok(Look::More) if is_first => {
                let within = turn.settings.limits.http.header_timeout;
                proxied.wait(turn, link, within);
            }
            Ok(Look::More) => {}
            Ok(Look::None) if is_http => self.settle(turn, store, link, Whence::peer(peer)),
            Ok(Look::None) => self.refuse_proxied(turn, link, "its first bytes are none"),
            Ok(Look::Header { told, bytes }) => {
                proxied.held.drain(..bytes);
                match told {
                    Told::Machine(address) => self.settle(turn, store, link, Whence { peer, told: Some(address) }),
                    Told::Nobody if is_http || !proxied.held.is_empty() => self.settle(turn, store, link, nobody),
                    Told::Nobody => {
                        proxied.state = State::Nobody { since_ns: turn.now.mono_ns };
                        proxied.watch_idle(turn, link);
                    }
                }
            }
            Err(fault) => self.refuse_proxied(turn, link, &fault.to_string()),
        }
    }

    /// It is known where a connection comes from.
    fn settle(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, whence: Whence) {
        let id = self.proxied.get(link).source;
        let address = whence.address();
        if !turn.source(id).access.networks.admits(address.ip()) {
            self.door.deny_peer(turn, &mut self.sources, id, address);
            return self.end_proxied(turn, link);
        }
        let is_told = whence.told.is_some_and(|told| told != whence.peer);
        if is_told && !self.sources.quotas.admits(&turn.source(id).access.quotas, id, address.ip()) {
            self.door.deny_crowd(turn, &mut self.sources, id, address);
            return self.end_proxied(turn, link);
        }
        let is_elsewhere = self.owner_of(turn, id, address) != self.placement.core;
        let older = if is_elsewhere { Vec::new() } else { self.sources.older(turn, id, address.ip()) };
        if !is_elsewhere && older.is_empty() {
            return self.admit_proxied(turn, store, (link, id, whence), (Vec::new(), Reading::IsUnderWay));
        }
        self.proxied.of(link).state = State::Ending(whence, older);
        if !is_elsewhere {
            self.proxied.of(link).has_entered = true; // what comes after it is behind it
            self.sources.enter_address(turn, id, link, address);
        }
        turn.emit(Op::PauseRecv { link });
    }

    /// The core that has the lane of an address.
    pub(super) fn owner_of(&self, turn: &Turn<'_>, id: SourceId, address: SocketAddr) -> CoreId {
        let source = turn.source(id);
        match &source.kind {
            SourceKind::TcpListen { lane: LaneKey::Address, names, .. } => {
                self.placement.owner(&source.name, names, address)
            }
            _ => self.placement.core,
        }
    }

    /// A read of it has ended, or what it waited for is read.
    pub(super) fn proxied_ended(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, end: RecvEnd) {
        let proxied = self.proxied.of(link);
        if end != RecvEnd::Paused {
            proxied.end = Some(end);
        }
        let (is_behind, has_held) = (proxied.is_behind_proxied(turn.links), !proxied.held.is_empty());
        match &mut proxied.state {
            State::Ending(whence, older) => {
                let (whence, older) = (*whence, std::mem::take(older));
                self.read_has_ended(turn, store, link, (whence, older));
            }
            State::Behind(..) if end != RecvEnd::Paused => {} // told when its turn has come
            State::Behind(..) if is_behind => {
                proxied.has_waited = true;
                turn.timers.set(turn.now.mono_ns + 1, Timer::Link(link));
            }
            State::Behind(whence, older) => {
                let (whence, older) = (*whence, std::mem::take(older));
                self.read_on(turn, store, (link, whence), older);
            }
            State::Header { .. } | State::Nobody { .. } if end == RecvEnd::Paused => {}
            State::Header { .. } if has_held => {
                self.refuse_proxied(turn, link, "it closed the connection in the middle of it");
            }
            State::Header { .. } | State::Nobody { .. } => self.end_proxied(turn, link),
        }
    }

    /// Nothing is in flight on it: it goes to its core, or waits for its older ones.
    fn read_has_ended(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        link: LinkId,
        (whence, older): (Whence, Vec<LinkId>),
    ) {
        let id = self.proxied.get(link).source;
        let fd = turn.links.fd(link).expect("an accepted connection has a file");
        let owner = self.owner_of(turn, id, whence.address());
        if owner != self.placement.core {
            let told = op::Told { address: whence.address(), bytes: std::mem::take(&mut self.proxied.of(link).held) };
            turn.emit(Op::HandOver { source: id, fd, peer: whence.peer, core: owner, told: Some(told) });
            return self.end_proxied(turn, link); // of the other core's there is a duplicate
        }
        let proxied = self.proxied.of(link);
        if proxied.held.is_empty()
            && proxied.end.is_none()
            && !older.iter().any(|other| turn.links.is_open(*other, Kind::Proxied))
        {
            return self.read_on(turn, store, (link, whence), older);
        }
        proxied.state = State::Behind(whence, older.clone());
        turn.emit(Op::AwaitOlder { link, fd, older });
    }

    /// What its older ones had received is read, or nothing of it has come: it becomes its
    /// machine's, and is read.
    fn read_on(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, whence): (LinkId, Whence),
        older: Vec<LinkId>,
    ) {
        let proxied = self.proxied.get(link);
        let (id, end) = (proxied.source, proxied.end);
        let kind = Self::kind_of(&turn.source(id).kind);
        // The read begins before what was held is given: that may pause it.
        let begins = if end.is_none() { Reading::Begins } else { Reading::IsUnderWay };
        self.admit_proxied(turn, store, (link, id, whence), (older, begins));
        if let Some(end) = end
            && turn.links.is_open(link, kind)
        {
            self.handle_recv_ended(turn, store, (link, kind), end);
        }
    }

    /// Its deadline may be over, or the older ones that it waits for may be read.
    pub(super) fn proxied_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId) {
        let proxied = self.proxied.get(link);
        match proxied.state {
            State::Behind(..) if proxied.has_waited => self.proxied_ended(turn, store, link, RecvEnd::Paused),
            State::Header { until_ns } if until_ns <= turn.now.mono_ns => {
                let is_http = matches!(turn.source(proxied.source).kind, SourceKind::Http { .. });
                match proxied.held.is_empty() && is_http {
                    true => self.end_proxied(turn, link),
                    false => self.refuse_proxied(turn, link, "it did not come in time"),
                }
            }
            State::Nobody { .. } if proxied.idle_ns(turn).is_some_and(|at_ns| at_ns <= turn.now.mono_ns) => {
                let who = (proxied.source, proxied.peer);
                self.sources.end_idle(turn, who.0, Some(who.1));
                self.end_proxied(turn, link);
            }
            State::Header { .. } | State::Nobody { .. } | State::Ending(..) | State::Behind(..) => {}
        }
    }

    /// There is no header, or a broken one.
    fn refuse_proxied(&mut self, turn: &mut Turn<'_>, link: LinkId, why: &str) {
        let proxied = self.proxied.get(link);
        let who = Who::peer(proxied.source, proxied.peer);
        self.door.deny(turn, &mut self.sources, who, Denial::NoProxyHeader, why);
        self.end_proxied(turn, link);
    }

    /// Who may send has changed: those that may not end here, and those whose headers would be of
    /// nobody's word.
    pub(super) fn end_denied_proxied(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        let access = &turn.source(id).access;
        let is_denied = |link: &LinkId| {
            let proxied = self.proxied.get(*link);
            let peer = proxied.peer;
            let whence = match proxied.state {
                State::Behind(whence, _) | State::Ending(whence, _) => whence,
                State::Header { .. } | State::Nobody { .. } => Whence { peer, told: Some(peer) },
            };
            proxied.source == id && !whence.is_let_in(access)
        };
        let denied: Vec<LinkId> = turn.links.of_kind(Kind::Proxied).filter(is_denied).collect();
        denied.into_iter().for_each(|link| self.end_proxied(turn, link));
    }

    /// Intake of these connections ends. What machines have sent behind their headers is framed by
    /// their streams, which end next; the others end here.
    pub(super) fn end_proxied_of(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId) {
        let is_of_source = |link: &LinkId| self.proxied.get(*link).source == id;
        let mut links: Vec<LinkId> = turn.links.of_kind(Kind::Proxied).filter(is_of_source).collect();
        while !links.is_empty() {
            // The older ones of a machine first.
            let is_next = |link: &LinkId| !self.proxied.get(*link).is_behind_proxied(turn.links);
            let link = links.remove(links.iter().position(is_next).unwrap_or_default());
            let placed = match &mut self.proxied.of(link).state {
                State::Behind(whence, older) | State::Ending(whence, older) => Some((*whence, std::mem::take(older))),
                State::Header { .. } | State::Nobody { .. } => None,
            };
            match placed {
                Some((whence, older)) if self.owner_of(turn, id, whence.address()) == self.placement.core => {
                    self.admit_proxied(turn, store, (link, id, whence), (older, Reading::IsUnderWay));
                }
                _ => self.end_proxied(turn, link),
            }
        }
    }

    /// The connection ends, and nothing is told.
    fn end_proxied(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        let proxied = self.proxied.get(link);
        let entered = match proxied.state {
            State::Behind(whence, _) | State::Ending(whence, _) if proxied.has_entered => Some(whence.address()),
            _ => None,
        };
        turn.close(link);
        self.sources.count_out(turn, proxied.source, link, entered);
    }
}
