//! What was found to be missing, until an operator acknowledges it. The list is an entry of the log;
//! the newest one counts, and each new segment gets a copy before the older one may go.

use super::format::{LOSS_BYTES, record_number_at, u64_at};
use super::returning::Numbers;
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
    /// An operator knows of it. It is kept as long as its place is part of the log, so that no later
    /// start takes it for another one.
    pub acknowledged: bool,
}

const EXACT: u64 = 1;
const ACKNOWLEDGED: u64 = 2;

impl Loss {
    fn flags(&self) -> u64 {
        (if self.exact { EXACT } else { 0 }) | (if self.acknowledged { ACKNOWLEDGED } else { 0 })
    }

    /// Whether a number is among those of which some are missing.
    pub(super) fn covers(&self, number: RecordNumber) -> bool {
        (self.first..self.end).contains(&number)
    }

    /// As it is shown.
    pub(super) fn shown(&self, core: CoreId) -> LossSnapshot {
        let Self { found_wall_ns, first, end, records, exact, .. } = *self;
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
            acknowledged: self.acknowledged && other.acknowledged,
        }
    }
}

/// The payload of an entry.
fn encode(losses: &[Loss]) -> Vec<u8> {
    let fields =
        losses.iter().flat_map(|loss| [loss.found_wall_ns, loss.first.0, loss.end.0, loss.records, loss.flags()]);
    fields.flat_map(u64::to_le_bytes).collect()
}

/// What the payload of an entry says.
pub(super) fn decode(payload: &[u8]) -> Vec<Loss> {
    let decode = |bytes: &[u8]| Loss {
        found_wall_ns: u64_at(bytes, 0),
        first: record_number_at(bytes, 8),
        end: record_number_at(bytes, 16),
        records: u64_at(bytes, 24),
        exact: u64_at(bytes, 32) & EXACT != 0,
        acknowledged: u64_at(bytes, 32) & ACKNOWLEDGED != 0,
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

    /// Those that nobody has acknowledged.
    pub fn open(&self) -> impl Iterator<Item = &Loss> {
        self.list.iter().filter(|loss| !loss.acknowledged)
    }

    /// An operator has acknowledged those that are meant: these.
    pub fn acknowledge(&mut self, mut is_meant: impl FnMut(&Loss) -> bool) -> Vec<Loss> {
        let open = self.list.iter_mut().filter(|loss| !loss.acknowledged);
        let meant: Vec<&mut Loss> = open.filter(|loss| is_meant(loss)).collect();
        self.changed |= !meant.is_empty();
        self.acknowledging |= !meant.is_empty();
        let acknowledge = |loss: &mut Loss| {
            loss.acknowledged = true;
            *loss
        };
        meant.into_iter().map(acknowledge).collect()
    }

    /// Records are not missing any more. A loss of which all are back is acknowledged; how many those
    /// are, and how many records of all came back.
    pub fn bring_back(&mut self, returned: &Numbers, is_meant: impl Fn(&Loss) -> bool) -> (u64, u64) {
        let (mut losses, mut records) = (0, 0);
        for loss in self.list.iter_mut().filter(|loss| !loss.acknowledged && is_meant(loss)) {
            let back = returned.count_in(loss.first, loss.end).min(loss.records);
            loss.records -= back;
            loss.acknowledged = loss.records == 0;
            losses += u64::from(loss.acknowledged);
            records += back;
        }
        self.changed |= records > 0;
        self.acknowledging |= records > 0;
        (losses, records)
    }

    /// Whether an acknowledgement is not durable yet.
    pub fn is_acknowledging(&self) -> bool {
        self.acknowledging
    }

    /// The log begins with this number now: what was acknowledged before it cannot be met again.
    pub fn forget_before(&mut self, number: RecordNumber) {
        let before = self.list.len();
        self.list.retain(|loss| !loss.acknowledged || loss.end > number);
        self.changed |= self.list.len() != before;
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
        assert_eq!(decode(&payload), losses.list);
        assert_eq!(losses.open().map(|loss| loss.found_wall_ns).collect::<Vec<_>>(), [5, 9]);
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
        assert_eq!((losses.acknowledge(|_| true).len(), losses.open().count()), (1, 0));
        let payload = losses.payload_due(1, |_| true).expect("changed");
        assert!(decode(&payload)[0].acknowledged);
        losses.written(RecordNumber(95));
        losses.forget_before(RecordNumber(109));
        assert!(losses.is_written(), "a start may meet it again");
        losses.forget_before(RecordNumber(110));
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
        let acknowledged = Loss { found_wall_ns: 1, acknowledged: true, ..loss(100, 3) };
        assert_eq!(losses.acknowledge(|loss| loss.records == 3), [acknowledged]);
        losses.forget(RecordNumber(60));
        assert!(losses.is_acknowledging(), "it is not written yet");
        let payload = losses.payload_due(2, |_| true).expect("changed");
        assert_eq!(decode(&payload), [Loss { found_wall_ns: 1, ..loss(1, 2) }, acknowledged]);
        losses.written(RecordNumber(70));
        losses.forget(RecordNumber(70));
        assert!(losses.is_acknowledging(), "it is not durable yet");
        losses.forget(RecordNumber(71));
        assert!(!losses.is_acknowledging());
    }

    #[test]
    fn what_comes_back_is_not_missing_any_more() {
        let mut losses = Losses::default();
        losses.adopt(vec![loss(1, 2), loss(100, 3)], None);
        losses.payload_due(1, |_| true).expect("changed");
        losses.written(RecordNumber(50));
        assert_eq!(losses.bring_back(&Numbers(vec![(40, 50)]), |_| true), (0, 0));
        assert!(losses.is_written() && !losses.is_acknowledging());
        assert_eq!(losses.bring_back(&Numbers(vec![(3, 5), (108, 120)]), |_| true), (1, 4));
        assert_eq!(losses.open().map(|loss| (loss.first.0, loss.records)).collect::<Vec<_>>(), [(100, 1)]);
        assert!(!losses.is_written() && losses.is_acknowledging());
        let was_so = |loss: &Loss| loss.records == 3;
        assert_eq!(losses.bring_back(&Numbers(vec![(108, 120)]), was_so), (0, 0), "said twice it changes nothing");
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
        assert_eq!(losses.open().count(), LOSSES_MAX);
        assert_eq!(losses.open().map(|loss| loss.records).sum::<u64>(), 200);
        assert_eq!(losses.list[0].first, RecordNumber(0));
    }
}
