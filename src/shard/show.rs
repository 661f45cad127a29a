//! What a shard shows of itself.

use super::{Now, Shard};
use crate::ground::count::{StageHistograms, Terms};
use crate::observe::snapshot::{JournalSnapshot, Snapshot};

impl Shard {
    /// The identity's terms alone, which cost next to nothing; call it between two turns.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The histograms alone, whose copy costs the same however many machines there are; call it
    /// between two turns.
    pub fn stages(&self) -> &StageHistograms {
        &self.stages
    }

    /// Everything at this moment; call it between two turns.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let mut journal = JournalSnapshot::default();
        self.store.snapshot(now, self.terms.pending, &mut journal);
        // Who waits for a commit may not be read either, outside of the shard.
        let waits = self.intake.is_paused() || self.intake.awaits_durable();
        if journal.problem.is_none() && waits {
            journal.problem = self.store.own().why_paused(now);
        }
        let routes = self.delivery.snapshot(now);
        let is_served = routes.iter().all(|route| route.problem.is_none());
        let mut snapshot = Snapshot {
            core: self.intake.core().0,
            terms: self.terms,
            counters: self.counters,
            stages: self.stages.clone(),
            sources: self.intake.snapshot(now, (&self.settings, &self.links, &self.store), is_served),
            routes,
            journal,
            lanes: self.store.lane_count() as u64,
            unused_ids: self.delivery.unused_ids(),
            oldest_pending_s: self.store.oldest_pending_s(now),
            ..Snapshot::default()
        };
        self.refusals.add_to(&mut snapshot.sources, &self.settings);
        self.delivery.show_failing(now, &self.store, &mut snapshot);
        snapshot
    }
}
