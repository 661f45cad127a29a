//! With whom a lane's first records go, where many go in one request.
//!
//! | | `join` | `carry` | `leave`, `take_batch` | `go_alone` | `take_apart` | the first record is settled |
//! |---|---|---|---|---|---|---|
//! | `Any` | `Member` | `Carrier` | | `Alone` | stays | stays |
//! | `Apart` | | `Carrier` | | `Alone` | `Any` | stays |
//! | `Alone` | | | | stays | stays | `Apart`, `Any` |
//! | `Carrier` | | stays | `Apart`, `Any` | | | |
//! | `Member` | | `Carrier` | `Apart`, `Any` | `Alone` | | `Apart`, `Any` |
//!
//! What `part_behind` says of the records behind a batch goes through all of these.

use crate::ground::LaneId;

/// A lane's part in a batch: so many of its first records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) struct Member {
    pub lane: LaneId,
    pub records: usize,
}

/// What a lane carries: its own part comes first. At least two records.
pub(in crate::shard) type Batch = Vec<Member>;

/// With whom a lane's first records go. `apart`: so many records, behind those that it speaks of,
/// were with them in a batch that was refused; they go without those of other lanes, and without
/// more of their own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::shard) enum Company {
    /// With those of other lanes.
    #[default]
    Any,
    /// So many go without those of other lanes, and without more of their own. At least one.
    Apart { records: usize },
    /// The first one goes alone: a batch with it was refused.
    Alone { apart: usize },
    /// In the batch that the lane carries.
    Carrier { batch: Batch, apart: usize },
    /// In a batch that another lane carries.
    Member { apart: usize },
}

impl Company {
    fn behind(apart: usize) -> Self {
        if apart > 0 { Self::Apart { records: apart } } else { Self::Any }
    }

    /// How many records behind are to go apart.
    fn apart(&self) -> usize {
        match *self {
            Self::Any => 0,
            Self::Apart { records } => records,
            Self::Alone { apart } | Self::Carrier { apart, .. } | Self::Member { apart } => apart,
        }
    }

    /// Whether the first records may go with those of any other lane.
    pub fn may_grow(&self) -> bool {
        *self == Self::Any
    }

    /// Whether the lane carries a batch.
    pub fn is_carrier(&self) -> bool {
        matches!(self, Self::Carrier { .. })
    }

    /// The batch that it carries.
    pub fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Carrier { batch, .. } => Some(batch),
            _ => None,
        }
    }

    pub(super) fn join(&mut self) {
        assert_eq!(*self, Self::Any, "only a lane that may go with any joins a batch");
        *self = Self::Member { apart: 0 };
    }

    pub(super) fn leave(&mut self) {
        if let Self::Member { apart } = *self {
            *self = Self::behind(apart);
        }
    }

    pub(super) fn carry(&mut self, batch: Batch) {
        assert!(!matches!(self, Self::Alone { .. }), "what goes alone carries nothing");
        *self = Self::Carrier { batch, apart: self.apart() };
    }

    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        let Self::Carrier { apart, .. } = *self else { return None };
        match std::mem::replace(self, Self::behind(apart)) {
            Self::Carrier { batch, .. } => Some(batch),
            _ => unreachable!("looked at above"),
        }
    }

    pub(super) fn part_behind(&mut self, records: usize) {
        match self {
            Self::Any | Self::Apart { .. } => *self = Self::behind(records),
            Self::Alone { apart } | Self::Carrier { apart, .. } | Self::Member { apart } => *apart = records,
        }
    }

    pub(super) fn take_apart(&mut self) -> Option<usize> {
        let Self::Apart { records } = *self else { return None };
        *self = Self::Any;
        Some(records)
    }

    pub(super) fn go_alone(&mut self) {
        assert!(!self.is_carrier(), "what carries a batch does not go alone");
        *self = Self::Alone { apart: self.apart() };
    }

    pub(super) fn next_record(&mut self) {
        if let Self::Alone { apart } = *self {
            *self = Self::behind(apart);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let lane = LaneId { index: 1, generation: 1 };
        vec![Member { lane, records: 2 }]
    }

    #[test]
    fn what_goes_apart_behind_a_batch_goes_through_all_that_happens_to_it() {
        let mut company = Company::Any;
        company.join();
        company.part_behind(3);
        company.carry(batch());
        assert_eq!(company.take_batch(), Some(batch()));
        assert_eq!(company, Company::Apart { records: 3 });
        company.go_alone();
        company.next_record();
        assert_eq!((company.take_apart(), company), (Some(3), Company::Any));
    }

    #[test]
    #[should_panic(expected = "only a lane that may go with any")]
    fn what_goes_apart_joins_no_batch() {
        let mut company = Company::Apart { records: 1 };
        company.join();
    }
}
