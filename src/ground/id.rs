//! Ids name things of a running process; numbers are written to disk and shown to people.

use std::fmt;

/// An open file as its driver names it: a descriptor for the data ring, any number for the
/// simulator. Nothing below the driver does more with it than hand it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// Index of a source in [`Settings::sources`](crate::config::Settings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u16);

/// Index of one of the API's authorities (host and port) in
/// [`Shard::destinations`](crate::shard::Shard::destinations).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiId(pub u8);

/// One journal directory of a shard: 0 is its own, the others were adopted from cores that are no
/// more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalId(pub u8);

impl JournalId {
    /// The journal that takes a shard's new records.
    pub const OWN: Self = Self(0);
}

/// A connection or an open port. Stale ids are told by their generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    /// Index into the shard's links.
    pub index: u32,
    /// Counts the uses of the index; below 2^24.
    pub generation: u32,
}

/// A lane of a shard. Stale ids are told by their generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    /// Index into the shard's lanes.
    pub index: u32,
    /// Counts the lanes of the shard; it wraps.
    pub generation: u32,
}

/// Index of a core thread, from 0. It names the journal directory of that core, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// Number of an entry in a journal directory. A record's number, with core and epoch, is its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordNumber(pub u64);

impl RecordNumber {
    /// The number behind `count` entries from this one.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// The next number.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// How many numbers there are from `first` to this one; `None` where this one is lower.
    pub fn since(self, first: Self) -> Option<u64> {
        self.0.checked_sub(first.0)
    }
}

/// A record's name as lists show it, unique in the state directory: `CORE-NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordName {
    /// The core whose directory holds it; that may be a core of an earlier start.
    pub core: CoreId,
    /// Its number there.
    pub number: RecordNumber,
}

impl RecordName {
    /// Reads a name; `None` if it is none.
    pub fn parse(name: &str) -> Option<Self> {
        let (core, number) = name.split_once('-')?;
        Some(Self { core: CoreId(core.parse().ok()?), number: RecordNumber(number.parse().ok()?) })
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.core, self.number)
    }
}

/// Number of a segment in a journal directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The next number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Number of a lane in a journal directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneNumber(pub u32);

impl LaneNumber {
    /// The number `count` behind this one; they are used in a circle.
    #[must_use]
    pub fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The next number.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }
}

macro_rules! shown_as_number {
    ($($name:ident)*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        })*
    };
}

impl fmt::LowerHex for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

shown_as_number! { CoreId RecordNumber SegmentNumber LaneNumber }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_records_are_a_core_and_a_number() {
        let name = RecordName { core: CoreId(3), number: RecordNumber(1_048_577) };
        assert_eq!((name.to_string().as_str(), RecordName::parse("3-1048577")), ("3-1048577", Some(name)));
        for wrong in ["", "3", "3-", "-5", "x-5", "3-5-7"] {
            assert_eq!(RecordName::parse(wrong), None, "{wrong}");
        }
    }
}
