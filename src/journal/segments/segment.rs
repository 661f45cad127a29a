//! What is known in memory of one segment file: its life, how far it is written, which of its
//! records are settled. One bit for each entry, so that memory does not grow with the records that
//! wait on disk.

use crate::ground::{RecordNumber, SegmentNumber};
use crate::journal::format::Position;
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// A segment of the log. Others read it; recovery builds it, and from then on
/// [`Segments`](super::Segments) alone changes it. It has 16 fields: each is one fact about one
/// file, and all of them begin and end with it.
#[derive(Debug)]
pub(in crate::journal) struct Segment {
    pub number: SegmentNumber,
    pub nonce: u64,
    /// Unit of its blocks: a directory can move to a disk with another.
    pub physical: u32,
    /// Where its first block begins: behind the header, but where a kill came while blocks were
    /// moved here, the last ones first.
    pub start: u32,
    /// Size of its largest block, where that was written by an earlier start.
    pub block_bytes: u32,
    /// No entry in it has a lower number.
    pub first_number: RecordNumber,
    /// Behind the last sealed block.
    pub end: u32,
    /// Blocks sealed but not yet written.
    pub unwritten: u32,
    /// Reads under way.
    pub reads: u32,
    /// Nothing more goes into it, though there is room.
    pub closed: bool,
    /// A write or sync of it failed: its file is not used again.
    pub failed: bool,
    /// It holds bytes that nobody could read, or a killed process may still write to it: its file is not
    /// used again.
    pub unfit: bool,
    /// Records that are neither delivered nor discarded.
    pub unsettled: u64,
    /// Bytes of their entries.
    pub live_bytes: u64,
    /// Records still to be delivered: a bit for each entry number from `first_number`, or for each
    /// of `listed`.
    waiting: Bits,
    /// Of a densely rewritten segment: the numbers of all of its records, in order. They are few
    /// and far between.
    listed: Option<Box<[RecordNumber]>>,
}

impl Segment {
    pub fn new(number: SegmentNumber, nonce: u64, first_number: RecordNumber, physical: u32) -> Self {
        Self {
            number,
            nonce,
            physical,
            start: physical,
            block_bytes: 0,
            first_number,
            end: physical,
            unwritten: 0,
            reads: 0,
            closed: false,
            failed: false,
            unfit: false,
            unsettled: 0,
            live_bytes: 0,
            waiting: Bits::default(),
            listed: None,
        }
    }

    /// Makes it one whose records have these numbers, in order; none is counted in yet.
    pub fn list(&mut self, numbers: Vec<RecordNumber>) {
        debug_assert!(self.unsettled == 0 && numbers.is_sorted());
        self.listed = Some(numbers.into());
    }

    /// The bit of a number; `None` where it is certain that no record here has it.
    fn bit(&self, number: RecordNumber) -> Option<u64> {
        match &self.listed {
            Some(numbers) => numbers.binary_search(&number).ok().map(|index| index as u64),
            None => number.since(self.first_number),
        }
    }

    /// Counts a record in, whose entry takes so many bytes.
    pub fn add(&mut self, number: RecordNumber, bytes: usize) {
        let bit = self.bit(number).expect("a record's number is in the segment's range");
        self.waiting.set(bit);
        self.unsettled += 1;
        self.live_bytes += bytes as u64;
    }

    /// Counts a record out. `false` where it was not in.
    pub fn settle(&mut self, number: RecordNumber, bytes: usize) -> bool {
        let Some(bit) = self.bit(number).filter(|bit| self.waiting.contains(*bit)) else { return false };
        self.waiting.clear(bit);
        self.unsettled -= 1;
        self.live_bytes -= bytes as u64;
        true
    }

    /// Whether a record is still to be delivered.
    pub fn is_waiting(&self, number: RecordNumber) -> bool {
        self.bit(number).is_some_and(|bit| self.waiting.contains(bit))
    }

    /// The records still to be delivered.
    pub fn waiting(&self) -> impl Iterator<Item = RecordNumber> {
        self.waiting.iter().map(|bit| match &self.listed {
            Some(numbers) => numbers[bit as usize],
            None => self.first_number.plus(bit),
        })
    }

    /// Whether a record of this number may lie here, settled or not, if it lies in no later
    /// segment.
    pub fn may_hold(&self, number: RecordNumber) -> bool {
        self.bit(number).is_some()
    }

    /// Asserts that it counts what waits in it.
    pub fn check(&self) {
        assert_eq!(self.waiting.count(), self.unsettled, "unsettled records of segment {}", self.number);
        assert!(self.start <= self.end, "{self:?}");
    }

    /// Where its first block begins.
    pub fn first_position(&self) -> Position {
        Position { segment: self.number, offset: self.start }
    }

    /// Where it ends now.
    pub fn end_position(&self) -> Position {
        Position { segment: self.number, offset: self.end }
    }
}

/// A growing set of small numbers.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, index: u64) {
        let word = (index / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }

    fn clear(&mut self, index: u64) {
        if let Some(word) = self.0.get_mut((index / 64) as usize) {
            *word &= !(1 << (index % 64));
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let bits = |word: u64| (0..64).filter(move |bit| word & 1 << bit != 0);
        (0..).zip(&self.0).flat_map(move |(index, word)| bits(*word).map(move |bit| index * 64 + bit))
    }

    fn contains(&self, index: u64) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word & 1 << (index % 64) != 0)
    }
}

/// A set of numbers spread over a wide range but dense where they are: settled records, while a
/// journal is recovered. Each record that is read asks for some of them, and their numbers are the
/// journal's own: a fast hash serves.
#[derive(Debug, Default)]
pub(in crate::journal) struct SparseBits(HashMap<u64, Box<[u64; 64]>, FixedState>);

impl SparseBits {
    /// Adds a number; `false` where it was in already.
    pub fn insert(&mut self, number: RecordNumber) -> bool {
        let chunk = self.0.entry(number.0 / 4096).or_insert_with(|| Box::new([0; 64]));
        let word = &mut chunk[(number.0 % 4096 / 64) as usize];
        let bit = 1 << (number.0 % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether a number is in.
    pub fn contains(&self, number: RecordNumber) -> bool {
        self.0
            .get(&(number.0 / 4096))
            .is_some_and(|chunk| chunk[(number.0 % 4096 / 64) as usize] & 1 << (number.0 % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_counts_each_record_out_once() {
        let mut segment = Segment::new(SegmentNumber(3), 7, RecordNumber(1000), 4096);
        segment.add(RecordNumber(1000), 40);
        segment.add(RecordNumber(1500), 56);
        assert_eq!((segment.unsettled, segment.live_bytes), (2, 96));
        assert!(
            segment.is_waiting(RecordNumber(1500))
                && !segment.is_waiting(RecordNumber(1499))
                && !segment.is_waiting(RecordNumber(2))
        );
        assert!(segment.settle(RecordNumber(1500), 56));
        assert!(!segment.settle(RecordNumber(1500), 56));
        assert!(!segment.settle(RecordNumber(99_999), 56));
        assert_eq!((segment.unsettled, segment.live_bytes), (1, 40));
        assert!(
            segment.may_hold(RecordNumber(1500))
                && segment.may_hold(RecordNumber(1200))
                && !segment.may_hold(RecordNumber(999))
        );
    }

    #[test]
    fn a_dense_segment_knows_only_the_records_that_it_was_made_of() {
        let mut segment = Segment::new(SegmentNumber(3), 7, RecordNumber(1000), 4096);
        segment.list([1001, 5000, 1 << 40].map(RecordNumber).to_vec());
        segment.add(RecordNumber(1001), 40);
        segment.add(RecordNumber(1 << 40), 40);
        assert!(
            segment.is_waiting(RecordNumber(1001))
                && segment.is_waiting(RecordNumber(1 << 40))
                && !segment.is_waiting(RecordNumber(5000))
        );
        assert!(
            segment.may_hold(RecordNumber(5000))
                && !segment.may_hold(RecordNumber(5001))
                && !segment.may_hold(RecordNumber(1000))
        );
        assert!(
            segment.settle(RecordNumber(1 << 40), 40)
                && !segment.settle(RecordNumber(1 << 40), 40)
                && !segment.settle(RecordNumber(5001), 40)
        );
        assert_eq!((segment.unsettled, segment.live_bytes), (1, 40));
    }

    #[test]
    fn sparse_bits_hold_far_numbers() {
        let mut bits = SparseBits::default();
        assert!(
            bits.insert(RecordNumber(5))
                && !bits.insert(RecordNumber(5))
                && bits.insert(RecordNumber(u64::MAX))
                && bits.insert(RecordNumber(1 << 40))
        );
        assert!(
            bits.contains(RecordNumber(5))
                && bits.contains(RecordNumber(u64::MAX))
                && bits.contains(RecordNumber(1 << 40))
                && !bits.contains(RecordNumber(6))
        );
    }
}
