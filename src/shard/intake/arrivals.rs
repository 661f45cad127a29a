//! Connections come in: who may, which core has them, and what they are to it. One of a proxy first
//! waits in `proxied` for its header.

use super::proxied::Proxied;
use super::source::readable;
use super::stream::Stream;
use super::{Intake, SourceKind};
use crate::access::Access;
use crate::ground::{Fd, LinkId, SourceId};
use crate::shard::links::Kind;
use crate::shard::op::{Op, Told};
use crate::shard::store::Store;
use crate::shard::turn::{Phase, Turn};
use std::net::SocketAddr;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whence {
    /// The other end.
    pub peer: SocketAddr,
    /// The machine that its PROXY header has told of; the other end itself, where it has told of
    /// nobody. `None` without a header.
    pub told: Option<SocketAddr>,
}

impl Whence {
    /// A connection without a header.
    pub fn peer(peer: SocketAddr) -> Self {
        Self { peer, told: None }
    }

    /// The machine's address, as far as it is known.
    pub fn address(self) -> SocketAddr {
        self.told.unwrap_or(self.peer)
    }

    /// Whether its requests may tell by X-Forwarded-For who sends them. Behind a header that tells
    /// of nobody that would be the word of anybody.
    pub fn may_forward(self) -> bool {
        self.told != Some(self.peer)
    }

    /// Whether who may send still lets it in.
    pub fn is_let_in(self, access: &Access) -> bool {
        let admits = |address: SocketAddr| access.networks.admits(address.ip());
        let is_proxy = || access.proxies.have(self.peer.ip());
        admits(self.peer) && admits(self.address()) && (self.told.is_none() || is_proxy())
    }
}

/// Whether a proxied connection is read when it becomes its machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Its first read is under way, or has ended for good.
    IsUnderWay,
    /// It is read from then on.
    Begins,
}

/// A connection that comes in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub fd: Fd,
    pub whence: Whence,
    /// What was read of it behind a header.
    pub bytes: Vec<u8>,
}

impl Arrival {
    /// One that was accepted.
    pub fn new(fd: Fd, peer: SocketAddr) -> Self {
        Self { fd, whence: Whence::peer(peer), bytes: Vec::new() }
    }
}

impl Intake {
    /// Connections that other cores handed over before this one took records; at the end they are
    /// closed.
    pub fn accept_early(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        for (source, arrival) in std::mem::take(&mut self.early) {
            self.arrive(turn, store, source, arrival);
        }
    }

    /// A connection on a listener, or one that another core has handed over.
    pub fn handle_accepted(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        id: SourceId,
        (fd, peer): (Fd, SocketAddr),
    ) {
        self.arrive(turn, store, id, Arrival::new(fd, peer));
    }

    /// A connection that another core has handed over, of which a proxy has told.
    pub fn handle_handed_over(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        id: SourceId,
        (fd, peer, told): (Fd, SocketAddr, Told),
    ) {
        let Told { address, bytes } = told;
        self.arrive(turn, store, id, Arrival { fd, whence: Whence { peer, told: Some(address) }, bytes });
    }

    fn arrive(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId, arrival: Arrival) {
        let Arrival { fd, whence, .. } = arrival;
        if !self.sources.runs(id) {
            // Retired, or it will hear of it in a moment.
            if self.sources.knows(id) || turn.phase.is_ending() {
                Self::turn_away(turn, fd);
            } else {
                self.early.push((id, arrival));
            }
            return;
        }
        let source = turn.source(id);
        if !source.access.networks.admits(whence.address().ip()) {
            self.door.deny_peer(turn, &mut self.sources, id, whence.address());
            // One that accepts one at a time is told anew.
            self.sources.fit(turn, id);
            return Self::turn_away(turn, fd);
        }
        let awaits_header = whence.told.is_none() && source.access.proxies.have(whence.peer.ip());
        // A proxy has the connections of many.
        if !awaits_header && !self.sources.quotas.admits(&source.access.quotas, id, whence.address().ip()) {
            self.door.deny_crowd(turn, &mut self.sources, id, whence.address());
            self.sources.fit(turn, id);
            return Self::turn_away(turn, fd);
        }
        if !awaits_header {
            let owner = self.owner_of(turn, id, whence.address());
            if owner != self.placement.core {
                let told = whence.told.map(|address| Told { address, bytes: arrival.bytes });
                let is_duplicated = told.is_some();
                turn.emit(Op::HandOver { source: id, fd, peer: whence.peer, core: owner, told });
                if is_duplicated {
                    Self::turn_away(turn, fd);
                }
                return self.sources.fit(turn, id);
            }
        }
        match turn.phase {
            Phase::Running => {}
            // Handed over by a core that takes records already.
            Phase::Starting => return self.early.push((id, arrival)),
            Phase::Draining | Phase::Stopping => return Self::turn_away(turn, fd),
        }
        // The core that has accepted it does not know how many this one has.
        if !self.sources.has_room(turn.settings, id) {
            return Self::turn_away(turn, fd);
        }
        self.sources.count_in(turn, id);
        match awaits_header {
            true => {
                let link = turn.links.open(Kind::Proxied, Some(fd));
                let proxied = Proxied::new(turn, link, id, whence.peer);
                self.proxied.insert(link, proxied);
                turn.emit(Op::Recv { link, fd, kind: readable(&source.kind), older: Vec::new() });
            }
            false => self.take_in(turn, store, id, arrival),
        }
    }

    /// A connection of which it is known where it comes from, with what was read of it.
    fn take_in(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: SourceId, arrival: Arrival) {
        let Arrival { fd, whence, mut bytes } = arrival;
        let source = turn.source(id);
        let (address, kind) = (whence.address(), Self::kind_of(&source.kind));
        let older = self.sources.older(turn, id, address.ip());
        if !bytes.is_empty() && !older.is_empty() {
            let link = turn.links.open(Kind::Proxied, Some(fd));
            self.proxied.insert(link, Proxied::behind(id, whence, older.clone(), bytes));
            self.sources.enter_address(turn, id, link, address);
            turn.emit(Op::AwaitOlder { link, fd, older });
            return;
        }
        let link = turn.links.open(kind, Some(fd));
        self.sources.enter_address(turn, id, link, address);
        self.enter(turn, link, id, (whence, older.clone()));
        turn.emit(Op::Recv { link, fd, kind: readable(&source.kind), older });
        if !bytes.is_empty() {
            self.handle_received(turn, store, (link, kind), &mut bytes);
        }
    }

    pub(super) fn kind_of(source: &SourceKind) -> Kind {
        match source {
            SourceKind::Http { .. } => Kind::Http,
            _ => Kind::Stream,
        }
    }

    /// A link becomes its machine's; `older`: the connections of it that began before.
    fn enter(&mut self, turn: &mut Turn<'_>, link: LinkId, id: SourceId, (whence, older): (Whence, Vec<LinkId>)) {
        let address = whence.address();
        let source = turn.source(id);
        if Self::kind_of(&source.kind) == Kind::Http {
            self.machines.accept(turn, link, id, whence);
        } else {
            let mut stream = Stream::new(id, Some(address), None);
            stream.sender.proxy = whence.told.map(|_| Box::new(whence.peer));
            (stream.reading, stream.older) = (true, older);
            if source.tls.is_none() {
                stream.begin(turn, link, false); // over TLS it begins behind the handshake
            }
            self.streams.table.insert(link, stream);
        }
        self.sources.secures.begin(turn, link, id, address);
    }

    /// A proxied connection becomes its machine's, which is given what was read of it.
    pub(super) fn admit_proxied(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, id, whence): (LinkId, SourceId, Whence),
        (older, reading): (Vec<LinkId>, Reading),
    ) {
        let source = turn.source(id);
        let kind = Self::kind_of(&source.kind);
        let Proxied { mut held, has_entered, .. } = self.proxied.take(link);
        turn.links.turn_into(link, kind);
        if !has_entered {
            self.sources.enter_address(turn, id, link, whence.address());
        }
        self.enter(turn, link, id, (whence, older.clone()));
        if reading == Reading::Begins {
            let fd = turn.links.fd(link).expect("an accepted connection has a file");
            turn.emit(Op::Recv { link, fd, kind: readable(&source.kind), older });
        }
        if !held.is_empty() {
            self.handle_received(turn, store, (link, kind), &mut held);
        }
    }

    /// A connection that came too late: it is closed.
    fn turn_away(turn: &mut Turn<'_>, fd: Fd) {
        let link = turn.links.open(Kind::Stream, Some(fd));
        turn.close(link);
    }
}
