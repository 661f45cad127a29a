//! What the owners of a shard have in common, lent to one of them for one call.

use super::links::Links;
use super::machines::Machines;
use super::refusals::{Refusal, Refusals};
use super::timer::Timers;
use super::{LinkId, Now, Op, SourceId};
use crate::config::{Settings, Source};
use crate::delivery::backoff;
use crate::ground::count::{Counters, StageHistograms, Terms};
use std::collections::VecDeque;
use std::time::Duration;

/// What the shard is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the journal's first segment.
    Starting,
    Running,
    /// Intake has ended; what can be delivered is.
    Draining,
    /// Delivery has ended too; the journal is flushed, files are closed.
    Stopping,
}

impl Phase {
    /// Whether nothing new is begun any more.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Draining | Self::Stopping)
    }
}

/// The moment, the settings in force, and what every owner may write to. It owns nothing and
/// decides nothing.
pub(super) struct Turn<'a> {
    pub now: Now,
    pub settings: &'a Settings,
    pub phase: Phase,
    pub ops: &'a mut VecDeque<Op>,
    pub timers: &'a mut Timers,
    pub links: &'a mut Links,
    pub rng: &'a mut fastrand::Rng,
    pub terms: &'a mut Terms,
    pub counters: &'a mut Counters,
    pub refusals: &'a mut Refusals,
    pub machines: &'a mut Machines,
    pub stages: &'a mut StageHistograms,
}

impl<'a> Turn<'a> {
    /// Asks for an operation.
    pub fn emit(&mut self, op: Op) {
        self.ops.push_back(op);
    }

    /// Asks for a link to be closed. Its index is free again when
    /// [`Completion::Closed`](super::Completion::Closed) comes.
    pub fn close(&mut self, link: LinkId) {
        if let Some(fd) = self.links.begin_close(link) {
            self.ops.push_back(Op::Close { link, fd });
        }
    }

    /// A connection or a request is refused.
    pub fn refuse(&mut self, refusal: &Refusal<'_>) {
        self.refusals.note(self.now, refusal);
    }

    /// A configured source.
    pub fn source(&self, id: SourceId) -> &'a Source {
        &self.settings.sources[usize::from(id.0)]
    }

    /// How long to wait after so many failures, in nanoseconds.
    pub fn delay_ns(&mut self, first: Duration, max: Duration, failures: u32) -> u64 {
        backoff::delay_ns(self.rng, first, max, failures)
    }
}
