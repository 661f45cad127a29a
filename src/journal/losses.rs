//! What was found to be missing, until an operator acknowledges it. The list is an entry of the log;
//! the newest one counts, and each new segment gets a copy before the older one may go.

use super::format::{LOSS_BYTES, record_number_at, u64_at};
use crate::ground::{CoreId, RecordNumber};
use crate::observe::losses::LossSnapshot;
use std::collections::VecDeque;

/// Losses that are listed by themselves; older ones are put together.
const LOSSES_MAX: usize = 64;

/// Records that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// When that was found, in nanoseconds since 1970.
    pub found_wall_ns: u64,
    /// The lowest number that is missing.
    pub first: RecordNumber,
    /// The number behind the highest one.
    pub end: RecordNumber,
    /// How many records.
    pub records: u64,
    /// So many are missing; else at most so many.
    pub exact: bool,
}

impl Loss {
    /// As it is shown.
    pub(super) fn shown(&self, core: CoreId) -> LossSnapshot {
        let Self { found_wall_ns, first, end, records, exact } = *self;
        // Of damage that hides how many entries it took no numbers are known.
        let last = end.0.checked_sub(1).filter(|last| first.0 <= *last);
        LossSnapshot { found_wall_ns, core: core.0, first: last.map(|_| first.0), last, records, exact }
    }

    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            found_wall_ns: self.found_wall_ns.min(other.found_wall_ns),
            first: self.first.min(other.first),
            end: self.end.max(other.end),
            records: self.records.saturating_add(other.records),
            exact: self.exact && other.exact,
        }
    }
}

/// The payload of an entry.
fn encode(losses: &[Loss]) -> Vec<u8> {
    let fields = losses
        .iter()
        .flat_map(|loss| [loss.found_wall_ns, loss.first.0, loss.end.0, loss.records, u64::from(loss.exact)]);
    fields.flat_map(u64::to_le_bytes).collect()
}

/// What the payload of an entry says.
pub(super) fn decode(payload: &[u8]) -> Vec<Loss> {
    let decode = |bytes: &[u8]| Loss {
        found_wall_ns: u64_at(bytes, 0),
        first: record_number_at(bytes, 8),
        end: record_number_at(bytes, 16),
        records: u64_at(bytes, 24),
        exact: u64_at(bytes, 32) == 1,
    };
    payload.chunks_exact(LOSS_BYTES).map(decode).collect()
}

/// Owns the losses that nobody has acknowledged, and where that is written down.
#[derive(Debug, Default)]
pub(super) struct Losses {
    list: Vec<Loss>,
    /// The list is to be written: it has changed.
    changed: bool,
    /// Entries that have it, oldest first; the newest one has it as it is now, unless it changed.
    said: VecDeque<RecordNumber>,
    /// An acknowledgement is not durable yet.
    acknowledging: bool,
}

impl Losses {
    /// Those that were found in the log, and one that this start has found.
    pub fn adopt(&mut self, earlier: Vec<Loss>, found: Option<Loss>) {
        self.list = earlier;
        self.list.extend(found);
        while self.list.len() > LOSSES_MAX {
            self.list[1] = self.list[0].and(self.list[1]);
            self.list.remove(0);
        }
        self.changed = !self.list.is_empty();
    }

    pub fn list(&self) -> &[Loss] {
        &self.list
    }

    /// An operator has acknowledged those that are meant: these.
    pub fn acknowledge(&mut self, is_meant: impl FnMut(&Loss) -> bool) -> Vec<Loss> {
        let (meant, rest): (Vec<Loss>, Vec<Loss>) = std::mem::take(&mut self.list).into_iter().partition(is_meant);
        self.list = rest;
        self.changed |= !meant.is_empty();
        self.acknowledging |= !meant.is_empty();
        meant
    }

    /// Whether an acknowledgement is not durable yet.
    pub fn is_acknowledging(&self) -> bool {
        self.acknowledging
    }

    /// What is to be written down now, if anything is. `is_said_there`: whether an entry lies in the
    /// segment that is being filled.
    pub fn payload_due(&mut self, wall_ns: u64, is_said_there: impl FnOnce(RecordNumber) -> bool) -> Option<Vec<u8>> {
        let is_moved_on = self.said.back().is_some_and(|said| !is_said_there(*said));
        if !self.changed && !is_moved_on {
            return None;
        }
        for loss in self.list.iter_mut().filter(|loss| loss.found_wall_ns == 0) {
            loss.found_wall_ns = wall_ns;
        }
        Some(encode(&self.list))
    }

    /// It is written down in an entry.
    pub fn written(&mut self, number: RecordNumber) {
        self.changed = false;
        self.said.push_back(number);
    }

    /// Whether the list as it is now is written down.
    pub fn is_written(&self) -> bool {
        !self.changed
    }

    /// Entries below a number are durable: older copies are of no more use.
    pub fn forget(&mut self, durable_below: RecordNumber) {
        self.acknowledging &= self.changed || self.said.back().is_some_and(|said| durable_below <= *said);
        while self.said.get(1).is_some_and(|next| *next < durable_below) {
            self.said.pop_front();
        }
    }

    /// The entries that are needed.
    pub fn said(&self) -> impl Iterator<Item = RecordNumber> {
        self.said.iter().copied()
    }

    /// Whether an entry is needed.
    pub fn is_said_in(&self, number: RecordNumber) -> bool {
        self.said.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(first: u64, records: u64) -> Loss {
        let (first, end) = (RecordNumber(first), RecordNumber(first + 10));
        Loss { first, end, records, exact: true, ..Loss::default() }
    }

    #[test]
    fn losses_are_dated_when_they_are_written_and_read_as_they_were() {
        let mut losses = Losses::default();
        losses.adopt(vec![Loss { found_wall_ns: 5, ..loss(1, 2) }], Some(loss(100, 3)));
        let payload = losses.payload_due(9, |_| true).expect("changed");
        losses.written(RecordNumber(50));
        assert_eq!(decode(&payload), losses.list());
        assert_eq!(losses.list().iter().map(|loss| loss.found_wall_ns).collect::<Vec<_>>(), [5, 9]);
        assert!(losses.is_written() && losses.payload_due(9, |_| true).is_none());
    }

    #[test]
    fn each_segment_gets_a_copy_and_the_older_one_is_kept_until_that_is_durable() {
        let mut losses = Losses::default();
        losses.adopt(Vec::new(), Some(loss(100, 3)));
        losses.payload_due(1, |_| true).expect("changed");
        losses.written(RecordNumber(50));
        assert!(losses.payload_due(1, |number| number != RecordNumber(50)).is_some());
        losses.written(RecordNumber(90));
        losses.forget(RecordNumber(90));
        assert_eq!(losses.said().collect::<Vec<_>>(), [50, 90].map(RecordNumber));
        losses.forget(RecordNumber(91));
        assert_eq!(losses.said().collect::<Vec<_>>(), [RecordNumber(90)]);
        assert!(losses.is_said_in(RecordNumber(90)) && !losses.is_said_in(RecordNumber(50)));
        assert_eq!(losses.acknowledge(|_| true).len(), 1);
        assert_eq!(losses.payload_due(1, |_| true), Some(Vec::new()));
    }

    #[test]
    fn only_what_is_meant_is_acknowledged_and_that_lasts_until_it_is_durable() {
        let mut losses = Losses::default();
        losses.adopt(vec![loss(1, 2), loss(100, 3)], None);
        losses.payload_due(1, |_| true).expect("changed");
        losses.written(RecordNumber(50));
        assert_eq!(losses.acknowledge(|loss| loss.records == 9), []);
        assert!(losses.is_written() && !losses.is_acknowledging(), "nothing was meant");
        assert_eq!(losses.acknowledge(|loss| loss.records == 3), [Loss { found_wall_ns: 1, ..loss(100, 3) }]);
        losses.forget(RecordNumber(60));
        assert!(losses.is_acknowledging(), "it is not written yet");
        let payload = losses.payload_due(2, |_| true).expect("changed");
        assert_eq!(decode(&payload), [Loss { found_wall_ns: 1, ..loss(1, 2) }]);
        losses.written(RecordNumber(70));
        losses.forget(RecordNumber(70));
        assert!(losses.is_acknowledging(), "it is not durable yet");
        losses.forget(RecordNumber(71));
        assert!(!losses.is_acknowledging());
    }

    #[test]
    fn a_loss_is_shown_with_its_last_number_and_without_numbers_where_none_are_known() {
        let shown = loss(7, 3).shown(CoreId(2));
        assert_eq!((shown.core, shown.first, shown.last, shown.records), (2, Some(7), Some(16), 3));
        let shown = Loss { records: 3, ..Loss::default() }.shown(CoreId(2));
        assert_eq!((shown.first, shown.last), (None, None));
    }

    #[test]
    fn many_losses_are_put_together() {
        let mut losses = Losses::default();
        let earlier = (0..100).map(|number| loss(number * 10, 2)).collect();
        losses.adopt(earlier, None);
        assert_eq!(losses.list().len(), LOSSES_MAX);
        assert_eq!(losses.list().iter().map(|loss| loss.records).sum::<u64>(), 200);
        assert_eq!(losses.list()[0].first, RecordNumber(0));
    }
}
