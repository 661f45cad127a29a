//! What is known in memory of one segment file: its life, how far it is written, which of its records are settled.
//! One bit for each entry, so that memory does not grow with the records that wait on disk.

use super::format::Position;

/// A segment of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub nonce: u64,
    /// Unit of its blocks, and where the first begins: a directory can move to a disk with another.
    pub physical: u32,
    /// Size of its largest block, where that was written by an earlier start.
    pub block_bytes: u32,
    /// No entry in it has a lower number.
    pub first_number: u64,
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
    /// A block of it is on disk, and all before it.
    pub committed: bool,
    /// Records that are neither delivered nor discarded.
    pub unsettled: u64,
    /// A bit for each entry number from `first_number`: records still to be delivered.
    waiting: Bits,
}

impl Segment {
    pub fn new(number: u64, nonce: u64, first_number: u64, physical: u32) -> Self {
        Self {
            number,
            nonce,
            physical,
            block_bytes: 0,
            first_number,
            end: physical,
            unwritten: 0,
            reads: 0,
            closed: false,
            failed: false,
            committed: false,
            unsettled: 0,
            waiting: Bits::default(),
        }
    }

    /// Counts a record in.
    pub fn add(&mut self, number: u64) {
        self.waiting.set(number - self.first_number);
        self.unsettled += 1;
    }

    /// Counts a record out. `false` where it was not in.
    pub fn settle(&mut self, number: u64) -> bool {
        let was = self.is_waiting(number);
        if was {
            self.waiting.clear(number - self.first_number);
            self.unsettled -= 1;
        }
        was
    }

    /// Whether a record is still to be delivered.
    pub fn is_waiting(&self, number: u64) -> bool {
        number >= self.first_number && self.waiting.contains(number - self.first_number)
    }

    /// The records that are still to be delivered, in order.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|index| self.first_number + index)
    }

    /// Counts the records from a number on out, since another segment takes them.
    pub fn take_waiting_from(&mut self, number: u64) -> Vec<u64> {
        let taken: Vec<u64> = self.waiting().filter(|waiting| *waiting >= number).collect();
        for number in &taken {
            self.settle(*number);
        }
        taken
    }

    /// Where its first block begins.
    pub fn first_position(&self) -> Position {
        Position { segment: self.number, offset: self.physical }
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

    fn contains(&self, index: u64) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let words = self.0.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(place, word)| {
            (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| place as u64 * 64 + bit)
        })
    }
}

/// A set of numbers spread over a wide range but dense where they are: settled records, while a journal is recovered.
#[derive(Debug, Default)]
pub(super) struct SparseBits(std::collections::HashMap<u64, Box<[u64; 64]>>);

impl SparseBits {
    /// Adds a number; `false` where it was in already.
    pub fn insert(&mut self, number: u64) -> bool {
        let chunk = self.0.entry(number / 4096).or_insert_with(|| Box::new([0; 64]));
        let word = &mut chunk[(number % 4096 / 64) as usize];
        let bit = 1 << (number % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Whether a number is in.
    pub fn contains(&self, number: u64) -> bool {
        self.0.get(&(number / 4096)).is_some_and(|chunk| chunk[(number % 4096 / 64) as usize] & 1 << (number % 64) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_counts_each_record_out_once() {
        let mut segment = Segment::new(3, 7, 1000, 4096);
        segment.add(1000);
        segment.add(1500);
        assert_eq!(segment.unsettled, 2);
        assert!(segment.is_waiting(1500) && !segment.is_waiting(1499) && !segment.is_waiting(2));
        assert!(segment.settle(1500));
        assert!(!segment.settle(1500));
        assert!(!segment.settle(99_999));
        assert_eq!(segment.unsettled, 1);
    }

    #[test]
    fn sparse_bits_hold_far_numbers() {
        let mut bits = SparseBits::default();
        assert!(bits.insert(5) && !bits.insert(5) && bits.insert(u64::MAX) && bits.insert(1 << 40));
        assert!(bits.contains(5) && bits.contains(u64::MAX) && bits.contains(1 << 40) && !bits.contains(6));
    }
}
