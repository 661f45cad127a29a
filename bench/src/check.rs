//! What the receiver checks: that each record is whole, that none comes twice, and in which order they come. The cost and
//! the memory of it are bounded: 24 bytes a machine.

use crate::record::Record;

/// Sequences behind the newest that are still told apart.
const WINDOW: u64 = 64;

#[derive(Debug, Clone, Copy, Default)]
struct Machine {
    /// One more than the highest sequence that came.
    next: u64,
    /// Bit i: sequence `next - 1 - i` came.
    seen: u64,
    /// A hash of the last record's Idempotency-Key; 0 for none.
    key: u64,
}

/// Counts of what was wrong, and of what came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that came for the first time.
    pub distinct: u64,
    /// Records that came again, under the key of the time before: a retry, which a receiver recognises.
    pub repeated: u64,
    /// Records that came again under another key, or too late to tell: doubles.
    pub doubled: u64,
    /// Records that came for the first time after a later one of their machine.
    pub disordered: u64,
    /// Bodies without a whole record in them, or of a machine that does not exist.
    pub corrupt: u64,
}

/// The checks of all machines.
#[derive(Debug)]
pub struct Checker {
    machines: Vec<Machine>,
    /// What was found so far.
    pub counts: Counts,
}

impl Checker {
    /// For machines 0 to `machines` - 1.
    pub fn new(machines: usize) -> Self {
        Self { machines: vec![Machine::default(); machines], counts: Counts::default() }
    }

    /// Takes a record that arrived under a key (0 is none); whether it came for the first time.
    #[inline]
    pub fn take(&mut self, record: Record, key: u64) -> bool {
        let Some(machine) = self.machines.get_mut(record.machine as usize) else {
            self.counts.corrupt += 1;
            return false;
        };
        if record.sequence >= machine.next {
            let ahead = record.sequence - machine.next + 1;
            machine.seen = if ahead < WINDOW { machine.seen << ahead } else { 0 } | 1;
            machine.next = record.sequence + 1;
        } else {
            let behind = machine.next - 1 - record.sequence;
            let bit = 1 << (behind % WINDOW);
            if behind >= WINDOW || machine.seen & bit != 0 {
                let same = behind == 0 && key != 0 && machine.key == key;
                *if same { &mut self.counts.repeated } else { &mut self.counts.doubled } += 1;
                return false;
            }
            machine.seen |= bit;
            self.counts.disordered += 1;
        }
        machine.key = key;
        self.counts.distinct += 1;
        true
    }

    /// Sequences below the highest of their machine that never came.
    pub fn missing(&self) -> u64 {
        self.machines.iter().map(|machine| machine.next).sum::<u64>() - self.counts.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(machine: u32, sequence: u64) -> Record {
        Record { machine, sequence, scheduled_ns: 0 }
    }

    #[test]
    fn in_order_nothing_is_wrong() {
        let mut checker = Checker::new(2);
        for sequence in 0..1000 {
            assert!(checker.take(record(0, sequence), sequence));
            assert!(checker.take(record(1, sequence), sequence));
        }
        assert_eq!(checker.counts, Counts { distinct: 2000, ..Counts::default() });
        assert_eq!(checker.missing(), 0);
    }

    #[test]
    fn a_record_that_comes_again_is_told_from_a_retry_by_its_key() {
        let mut checker = Checker::new(1);
        checker.take(record(0, 0), 7);
        assert!(!checker.take(record(0, 0), 7));
        assert!(!checker.take(record(0, 0), 8));
        assert_eq!(checker.counts, Counts { distinct: 1, repeated: 1, doubled: 1, ..Counts::default() });
    }

    #[test]
    fn without_a_key_a_record_that_comes_again_is_a_double() {
        let mut checker = Checker::new(1);
        checker.take(record(0, 0), 0);
        assert!(!checker.take(record(0, 0), 0));
        assert_eq!((checker.counts.repeated, checker.counts.doubled), (0, 1));
    }

    #[test]
    fn what_is_overtaken_is_disordered_once_and_missing_until_it_comes() {
        let mut checker = Checker::new(1);
        for sequence in [0, 3, 2] {
            assert!(checker.take(record(0, sequence), 0));
        }
        assert_eq!((checker.counts.disordered, checker.missing()), (1, 1));
        assert!(checker.take(record(0, 1), 0));
        assert!(!checker.take(record(0, 1), 0));
        assert_eq!((checker.counts.disordered, checker.counts.doubled, checker.missing()), (2, 1, 0));
    }

    #[test]
    fn a_gap_beyond_the_window_is_missing_and_an_unknown_machine_is_corrupt() {
        let mut checker = Checker::new(1);
        checker.take(record(0, 0), 0);
        checker.take(record(0, 500), 0);
        assert_eq!(checker.missing(), 499);
        assert!(!checker.take(record(0, 1), 0), "too late to tell");
        checker.take(record(1, 0), 0);
        assert_eq!((checker.counts.doubled, checker.counts.corrupt), (1, 1));
    }
}
