//! What is to be known about a record beside its bytes.

/// A set of bits. They are journaled with the record: a bit never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    /// Longer than its framing's `max_bytes`: these are its first bytes.
    pub const CUT: Self = Self(1);
    /// A byte of it came with a parity or framing error.
    pub const LINE_ERROR: Self = Self(1 << 1);
    /// The line was in the break state while it was received.
    pub const BREAK: Self = Self(1 << 2);
    /// It has no end of its own: an idle gap cut it short, or the stream ended.
    pub const UNENDED: Self = Self(1 << 3);
    /// It is not text in its source's encoding.
    pub const UNDECODABLE: Self = Self(1 << 4);

    /// Each flag with its word, in the order of the bits.
    const WORDS: [(Self, &str); 5] = [
        (Self::CUT, "cut"),
        (Self::LINE_ERROR, "line-error"),
        (Self::BREAK, "break"),
        (Self::UNENDED, "unended"),
        (Self::UNDECODABLE, "undecodable"),
    ];

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no bit is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its word, of a single flag's place.
    fn word(place: usize) -> &'static str {
        Self::WORDS[place].1
    }

    /// A word for each that is set.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, word)| word)
    }
}

/// How many records had each flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlagCounts([u64; RecordFlags::WORDS.len()]);

impl FlagCounts {
    /// One record more.
    #[inline]
    pub fn count(&mut self, flags: RecordFlags) {
        // Nearly all records.
        if !flags.is_empty() {
            for (place, (flag, _)) in RecordFlags::WORDS.iter().enumerate() {
                self.0[place] += u64::from(flags.contains(*flag));
            }
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }
}

impl serde::Serialize for FlagCounts {
    /// As an object: words of those that occurred, and how often.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seen = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        serializer.collect_map(seen.map(|(place, count)| (RecordFlags::word(place), count)))
    }
}

impl std::ops::BitOr for RecordFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for RecordFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
