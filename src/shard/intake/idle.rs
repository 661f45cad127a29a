//! TCP connections on which nothing comes: `idle` of a `tcp_listen` source, `reconnect_after` of a `tcp_connect` one.
//!
//! ```text
//! read ── nothing for so long ─► told (close_notify, FIN) ── closed by the peer, or silent for
//! LEAVE_NS ─► over, as closed by the peer
//!   └─ not read for want of room: nothing is known of a silence
//! ```
//!
//! What comes behind our FIN counts: who goes on sending is read on. What is unfinished at the end becomes of it what a close of
//! the peer would have made of it.

use super::Intake;
use super::stream::{Lent, Stream};
use crate::ground::{Fd, LinkId, SourceId};
use crate::shard::links::Kind;
use crate::shard::op::Op;
use crate::shard::timer::Timer;
use crate::shard::turn::{Phase, Turn};

/// How long what a machine has sent already may still come after it was told that its connection
/// ends.
const LEAVE_NS: u64 = 1_000_000_000;

/// Why such a connection is over.
pub(super) const IDLE: &str = "nothing had come for as long as reconnect_after allows";

/// The peer was told that a connection ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// When it is closed, in monotonic nanoseconds.
    pub until_ns: u64,
    /// It was idle; else its source is retired.
    pub is_idle: bool,
}

/// How long nothing has come on a connection.
#[derive(Debug)]
pub(super) struct Idling {
    /// When something last came, or nothing could.
    heard_ns: u64,
    /// When the link's timer looks.
    look_ns: u64,
}

impl Stream {
    /// Sets the link's timer for its limit of silence, if it has one. Where it had none, its time begins now.
    pub(super) fn watch_idle(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        let Some(after) = turn.source(self.sender.source).tcp.idle else {
            self.idling = None;
            return;
        };
        let now_ns = turn.now.mono_ns;
        let idling = self.idling.get_or_insert_with(|| Box::new(Idling { heard_ns: now_ns, look_ns: 0 }));
        idling.look_ns = idling.heard_ns.saturating_add(after.as_nanos() as u64).max(now_ns + 1);
        turn.timers.set(idling.look_ns, Timer::Link(link));
    }

    /// Something has come, or could not.
    #[inline]
    pub(super) fn hear(&mut self, now_ns: u64) {
        if let Some(idling) = &mut self.idling {
            idling.heard_ns = now_ns;
        }
    }

    /// Whether it is not read though something may have come.
    pub(super) fn is_held_up(&self) -> bool {
        !self.reading || self.ended || self.pressure.paused || self.pressure.holds() || self.search.waits
    }

    /// Its limit of silence may be over.
    pub(super) fn look_whether_idle(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        let now_ns = lent.turn.now.mono_ns;
        if self.is_held_up() {
            self.hear(now_ns);
        }
        let Some(idling) = self.idling.as_ref().filter(|idling| idling.look_ns <= now_ns) else { return };
        if self.leaving.is_some() {
            return;
        }
        let after_ns = lent.turn.source(self.sender.source).tcp.idle.map_or(u64::MAX, |after| after.as_nanos() as u64);
        let is_idle = idling.heard_ns.saturating_add(after_ns) <= now_ns;
        match lent.turn.links.fd(link) {
            Some(fd) if is_idle && lent.turn.phase == Phase::Running => {
                lent.sources.end_idle(lent.turn, self.sender.source, self.sender.peer);
                lent.sources.secures.farewell(lent.turn, link);
                self.begin_to_leave(lent.turn, (link, fd), true);
            }
            _ => self.watch_idle(lent.turn, link),
        }
    }

    /// The peer is told that this is the end.
    pub(super) fn begin_to_leave(&mut self, turn: &mut Turn<'_>, (link, fd): (LinkId, Fd), is_idle: bool) {
        if self.leaving.is_none() {
            turn.emit(Op::Shutdown { link, fd });
        }
        let until_ns = turn.now.mono_ns + LEAVE_NS;
        self.leaving = Some(Leaving { until_ns, is_idle });
        turn.timers.set(until_ns, Timer::Link(link));
    }

    /// The time for what is still to come is over.
    pub(super) fn leave(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, leaving: Leaving) {
        if self.is_held_up() {
            self.hear(lent.turn.now.mono_ns); // something may wait to be read
        }
        let quiet_ns = self.idling.as_ref().map_or(0, |idling| idling.heard_ns) + LEAVE_NS;
        if leaving.is_idle && !self.ended && lent.turn.now.mono_ns < quiet_ns {
            self.leaving = Some(Leaving { until_ns: quiet_ns, ..leaving });
            lent.turn.timers.set(quiet_ns, Timer::Link(link));
        } else if !self.ended {
            self.leaving = Some(Leaving { until_ns: u64::MAX, ..leaving });
            self.closed |= leaving.is_idle;
            self.end_retired(lent, link);
        }
    }
}

impl Intake {
    /// What says when connections of a source are over has changed.
    pub(super) fn watch_over(&mut self, turn: &mut Turn<'_>, id: SourceId) {
        self.streams.watch_over(turn, id);
        let is_of_source = |link: &LinkId| self.proxied.get(*link).source == id;
        let proxied: Vec<LinkId> = turn.links.of_kind(Kind::Proxied).filter(is_of_source).collect();
        for link in proxied {
            if let Some(fd) = turn.links.fd(link) {
                turn.emit(Op::WatchOver { link, fd, source: id });
            }
            self.proxied.get(link).watch_idle(turn, link);
        }
    }
}
