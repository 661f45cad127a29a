//! Deadlines of a shard, on the monotonic clock. Entries are never removed: whoever is woken looks
//! whether it is still due.

use super::{ApiId, LaneId, LinkId, SourceId};
use crate::delivery::Step;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A lane's backoff is over.
    Lane(LaneId),
    /// A connection's own deadline: idle, unfinished request, missing answer, lingering.
    Link(LinkId),
    /// A port or device server is tried again.
    Reopen(SourceId),
    /// What has befallen some sources is to be logged.
    Tell,
    /// Handshakes wait for their turn, or faults of TLS to be logged.
    Tls,
    /// A source may have been silent for too long.
    Silence(SourceId),
    /// Accepting goes on.
    Accept(SourceId),
    /// Streams that left room to requests are read on.
    ReadOn,
    /// The API is tried again.
    Api(ApiId),
    /// A step that is held back may send a probe.
    Route(Step),
    /// The time that a stop may take is over.
    Drain,
    /// Whether what is to be written at the end can still be.
    Flush,
}

/// All deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(u64, Timer)>>);

impl Timers {
    /// Wakes `timer` at a time in monotonic nanoseconds.
    pub fn set(&mut self, at_ns: u64, timer: Timer) {
        self.0.push(Reverse((at_ns, timer)));
    }

    /// The next one that is due.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Timer> {
        let Reverse((at_ns, timer)) = *self.0.peek()?;
        if at_ns > now_ns {
            return None;
        }
        self.0.pop();
        Some(timer)
    }

    /// When the next one is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at_ns, _))| *at_ns)
    }
}
