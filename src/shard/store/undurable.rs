//! When records became durable, for the histogram of [`Stage::Durable`] alone: nothing here decides
//! anything.

use crate::config::Durability;
use crate::ground::count::{Stage, StageHistograms};
use crate::ground::{Now, RecordNumber};
use std::collections::VecDeque;

/// Most runs that are kept apart, so that a disk that hangs cannot make them grow.
const RUNS_MAX: usize = 4_096;

/// Records that were journaled in the same turn, and so at the same reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    journaled_ns: u64,
    /// The number of the last of them.
    last: RecordNumber,
    records: u64,
}

/// Records that are not committed yet, oldest first. They are measured at level `power` only: at
/// the others, nothing is kept here.
#[derive(Debug)]
pub(super) struct Undurable {
    is_measured: bool,
    runs: VecDeque<Run>,
}

impl Undurable {
    pub(super) fn new(durability: Durability) -> Self {
        Self { is_measured: durability == Durability::Power, runs: VecDeque::new() }
    }

    /// A record was journaled.
    #[inline]
    pub(super) fn push(&mut self, number: RecordNumber, now_ns: u64) {
        if !self.is_measured {
            return;
        }
        match self.runs.back_mut() {
            Some(run) if run.journaled_ns == now_ns => {
                run.last = number;
                run.records += 1;
            }
            _ => self.begin(Run { journaled_ns: now_ns, last: number, records: 1 }),
        }
    }

    fn begin(&mut self, run: Run) {
        if self.runs.len() == RUNS_MAX {
            // The disk has been silent for long. Two neighbours become one, the time of the earlier
            // counts: the error is the distance of two runs, which is small beside what they have
            // waited.
            let runs = std::mem::take(&mut self.runs);
            let mut pairs = runs.into_iter();
            while let Some(first) = pairs.next() {
                let (last, records) = pairs.next().map_or((first.last, 0), |second| (second.last, second.records));
                self.runs.push_back(Run { last, records: first.records + records, ..first });
            }
        }
        self.runs.push_back(run);
    }

    /// The next records of which all have a number below `durable_below`: when they were journaled,
    /// and how many.
    fn pop(&mut self, durable_below: RecordNumber) -> Option<(u64, u64)> {
        let run = self.runs.pop_front_if(|run| run.last < durable_below)?;
        Some((run.journaled_ns, run.records))
    }

    /// Measures what a commit has made durable.
    pub(super) fn measure(&mut self, now: Now, durable_below: RecordNumber, stages: &mut StageHistograms) {
        while let Some((journaled_ns, records)) = self.pop(durable_below) {
            stages.record_n(Stage::Durable, now.mono_ns.saturating_sub(journaled_ns), records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(undurable: &mut Undurable, durable_below: u64) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| undurable.pop(RecordNumber(durable_below))).collect()
    }

    #[test]
    fn records_of_a_turn_are_durable_with_the_last_of_them() {
        let mut undurable = Undurable::new(Durability::Power);
        for (number, now_ns) in [(1, 100), (3, 100), (4, 250)] {
            undurable.push(RecordNumber(number), now_ns);
        }
        assert_eq!(drain(&mut undurable, 3), []);
        assert_eq!(drain(&mut undurable, 4), [(100, 2)]);
        assert_eq!(drain(&mut undurable, 9), [(250, 1)]);
        assert_eq!(drain(&mut undurable, 9), []);
    }

    #[test]
    fn a_disk_that_hangs_makes_nothing_grow_and_no_record_is_left_out() {
        let mut undurable = Undurable::new(Durability::Power);
        let count = 20 * RUNS_MAX as u64;
        for number in 0..count {
            undurable.push(RecordNumber(number), 1_000 * number);
            assert!(undurable.runs.len() <= RUNS_MAX);
        }
        let runs = drain(&mut undurable, count);
        assert_eq!(runs.iter().map(|(_, records)| records).sum::<u64>(), count);
        assert!(runs.is_sorted() && runs[0].0 == 0);
    }

    #[test]
    fn only_the_level_power_is_measured() {
        let mut undurable = Undurable::new(Durability::Process);
        undurable.push(RecordNumber(1), 100);
        assert_eq!(drain(&mut undurable, 9), []);
    }
}
