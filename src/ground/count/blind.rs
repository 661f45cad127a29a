//! Counters that count nothing, in a build that only the bench makes, to measure what counting
//! costs (feature `bench-blind`).

use serde::{Serialize, Serializer};
use std::ops::AddAssign;

/// Takes no space, and is always 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count;

impl AddAssign<u64> for Count {
    #[inline]
    fn add_assign(&mut self, _: u64) {}
}

impl AddAssign for Count {
    #[inline]
    fn add_assign(&mut self, _: Self) {}
}

impl From<Count> for u64 {
    fn from(_: Count) -> Self {
        0
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(0)
    }
}
