//! Requests that cross between cores. A lane and the keys in it belong to one core, the one of its SOURCE
//! or address, whichever core the connection is on: that core journals the record, and tells the
//! connection's core what became of it once it is as durable as configured.
//!
//! `Sent` is the side of the connection: how much is on its way. `Guests` is the side of the owner:
//! senders by their connections, each with a lane, and those who wait for room or a commit. Every
//! request is answered once, whatever has become of its connection.

use super::queue::Queued;
use super::sender::{RETRY_AFTER_S, Sender};
use super::source::Sources;
use crate::ground::{CoreId, KeptHeaders, LinkId, RecordNumber};
use crate::http::server::{Request, Verdict};
use crate::shard::op::{Op, Parcel, PassedOn};
use crate::shard::store::Store;
use crate::shard::turn::Turn;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// What is answered while there is no room.
const UNAVAILABLE: Verdict = Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
/// Requests of one core that others have at the same time, ...
const REQUESTS_MAX: usize = 16_384;
/// ... and the bytes of their bodies.
const BYTES_MAX: usize = 64 << 20;

/// What a core has passed on and was not answered yet.
#[derive(Debug, Default)]
pub(super) struct Sent {
    requests: usize,
    bytes: usize,
    next_ticket: u64,
}

impl Sent {
    /// Names the next request, of so many bytes; `None` while too much is on its way.
    pub fn add(&mut self, bytes: usize) -> Option<u64> {
        if self.requests >= REQUESTS_MAX || self.bytes + bytes > BYTES_MAX {
            return None;
        }
        self.requests += 1;
        self.bytes += bytes;
        self.next_ticket += 1;
        Some(self.next_ticket)
    }

    /// One was answered.
    pub fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

/// Who is to be told, and what of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waiter {
    core: CoreId,
    link: LinkId,
    ticket: u64,
    bytes: usize,
    /// What the request came to.
    records: u32,
}

impl Waiter {
    fn of(passed_on: &PassedOn) -> Self {
        let &PassedOn { core, link, ticket, .. } = passed_on;
        Self { core, link, ticket, bytes: passed_on.body.len(), records: 1 }
    }

    fn tell(self, turn: &mut Turn<'_>, verdict: Verdict) {
        let Self { core, link, ticket, bytes, records: _ } = self;
        turn.emit(Op::PassOn { core, parcel: Parcel::Answer { link, ticket, bytes, verdict } });
    }
}

/// Senders whose connections are other cores'.
#[derive(Debug, Default)]
pub(super) struct Guests {
    senders: HashMap<(CoreId, LinkId), Sender>,
    /// By the number of the record that is waited for.
    waiters: BinaryHeap<Reverse<(RecordNumber, Waiter)>>,
    /// Requests for which room is being made, in their order: no more than all cores may pass on.
    held: VecDeque<Box<PassedOn>>,
}

impl Guests {
    /// Takes a request of another core's connection, or holds it back while room is being made.
    pub fn take(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources, passed_on: Box<PassedOn>) {
        if !self.try_take(turn, store, sources, &passed_on) {
            turn.counters.http_held_back += 1;
            self.held.push_back(passed_on);
            sources.queue.push(Queued::Guest);
        }
    }

    /// The oldest request that was held back, whose turn it is, is taken if there is room now; whether
    /// it waits no more.
    pub fn go_on(&mut self, turn: &mut Turn<'_>, store: &mut Store, sources: &mut Sources) -> bool {
        let Some(first) = self.held.pop_front() else { return true };
        let is_taken = self.try_take(turn, store, sources, &first);
        if !is_taken {
            self.held.push_front(first);
            sources.queue.push(Queued::Guest);
        }
        is_taken
    }

    /// Requests that are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a request is decided; if not, room for it is being made.
    fn try_take(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        passed_on: &PassedOn,
    ) -> bool {
        let PassedOn { core, link, source, peer, name, key, headers, content_type, body, first_byte_ns, .. } =
            passed_on;
        let waiter = Waiter::of(passed_on);
        if !sources.runs(*source) {
            waiter.tell(turn, UNAVAILABLE);
            return true;
        }
        let request = Request {
            source: name,
            body,
            content_type: content_type.as_deref(),
            idempotency_key: key.as_deref(),
            headers: KeptHeaders::of(headers),
            first_byte_ns: *first_byte_ns,
        };
        let sender = self.senders.entry((*core, *link)).or_insert_with(|| Sender::new(*source, *peer));
        sender.peer = *peer; // a proxy's connection has requests of many
        match sender.take(turn, store, sources, &request) {
            None => return false,
            Some(Verdict::Accepted { last_number, records, .. }) if last_number >= store.durable_below().0 => {
                self.waiters.push(Reverse((RecordNumber(last_number), Waiter { records, ..waiter })));
            }
            Some(Verdict::Accepted { records, .. }) => waiter.tell(turn, Verdict::Taken { records }),
            Some(verdict) => waiter.tell(turn, verdict),
        }
        true
    }

    /// A connection of another core is over. Its requests that are held back were never taken.
    pub fn leave(&mut self, turn: &mut Turn<'_>, store: &mut Store, core: CoreId, link: LinkId) {
        self.held.retain(|passed_on| {
            let stays = (passed_on.core, passed_on.link) != (core, link);
            if !stays {
                Waiter::of(passed_on).tell(turn, UNAVAILABLE);
            }
            stays
        });
        if let Some(mut sender) = self.senders.remove(&(core, link)) {
            sender.leave(store);
        }
    }

    /// What became durable is told.
    pub fn release_durable(&mut self, turn: &mut Turn<'_>, store: &Store) {
        let durable_below = store.durable_below();
        while let Some(first) = self.waiters.peek_mut().filter(|first| first.0.0 < durable_below) {
            let Reverse((_, waiter)) = PeekMut::pop(first);
            waiter.tell(turn, Verdict::Taken { records: waiter.records });
        }
    }

    /// Whether somebody waits for a commit.
    pub fn await_durable(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether nobody waits for an answer.
    pub fn are_answered(&self) -> bool {
        self.waiters.is_empty() && self.held.is_empty()
    }
}
