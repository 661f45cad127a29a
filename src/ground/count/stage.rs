//! The stages of a record's way, and how long they take.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A stage of a record's way. The clock is read once a turn of the loop, so what begins and ends in
/// one turn has taken no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// First byte to the read that brought the frame's end.
    Frame,
    /// That read to the copy in the journal's block: no time, unless the journal had no room.
    Journaled,
    /// The copy to committed; measured at level `power` only. Only HTTP machines' records wait for
    /// it: with the others it runs beside the next stages.
    Durable,
    /// In the block to the id's answer, waiting in the lane included; with `[sequence]` only.
    Id,
    /// The id (or the block, without `[sequence]`) to the answer that delivered it.
    Answered,
    /// First byte to the answer that delivered it.
    Whole,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 6] = [Self::Frame, Self::Journaled, Self::Durable, Self::Id, Self::Answered, Self::Whole];

    /// Name in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Journaled => "journaled",
            Self::Durable => "durable",
            Self::Id => "id",
            Self::Answered => "answered",
            Self::Whole => "whole",
        }
    }

    /// What it is measured from and to, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::Frame => "first byte to frame end",
            Self::Journaled => "to the journal's block",
            Self::Durable => "to committed",
            Self::Id => "block to the id's answer",
            Self::Answered => "to the record's answer",
            Self::Whole => "first byte to the answer",
        }
    }
}

/// One histogram a stage, in nanoseconds, 2 significant digits, up to an hour; longer is recorded
/// as an hour.
#[derive(Debug, Clone)]
pub struct StageHistograms([Histogram<u64>; Stage::ALL.len()]);

impl StageHistograms {
    /// The largest value kept apart, in nanoseconds.
    pub const MAX_NS: u64 = 3_600_000_000_000;

    /// Empty histograms.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Histogram::new_with_bounds(1, Self::MAX_NS, 2).expect("valid bounds")))
    }

    /// Records one duration.
    #[inline]
    pub fn record(&mut self, stage: Stage, ns: u64) {
        if cfg!(feature = "bench-blind") {
            return;
        }
        self.0[stage as usize].saturating_record(ns.clamp(1, Self::MAX_NS));
    }

    /// Records one duration of `count` records.
    #[inline]
    pub fn record_n(&mut self, stage: Stage, ns: u64, count: u64) {
        if cfg!(feature = "bench-blind") {
            return;
        }
        self.0[stage as usize].saturating_record_n(ns.clamp(1, Self::MAX_NS), count);
    }

    /// A stage's histogram.
    pub fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.0[stage as usize]
    }

    /// Adds another shard's histograms.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            own.add(other).expect("all have the same bounds");
        }
    }
}

impl Default for StageHistograms {
    fn default() -> Self {
        Self::new()
    }
}
