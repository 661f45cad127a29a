//! A moment on the monotonic clock that fits into eight bytes even where there may be none.

use std::fmt;
use std::num::NonZeroU64;

/// A moment in monotonic nanoseconds. `Option<Moment>` is as large as a `u64`: "never" and
/// "unknown" cost nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The moment of a reading of the clock.
    ///
    /// # Panics
    /// At `u64::MAX`, 584 years after the clock began.
    pub fn at(mono_ns: u64) -> Self {
        // Stored inverted: so 0, at which a virtual clock may begin, is a moment, too.
        Self(NonZeroU64::new(!mono_ns).expect("a clock that has not run for 584 years"))
    }

    /// In monotonic nanoseconds.
    pub fn ns(self) -> u64 {
        !self.0.get()
    }
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ns().cmp(&other.ns())
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ordered_by_the_clock_and_cost_nothing_where_there_is_none() {
        assert_eq!(size_of::<Option<Moment>>(), 8);
        assert!(Moment::at(0) < Moment::at(1) && Moment::at(1) < Moment::at(u64::MAX - 1));
        assert_eq!([0, 7, u64::MAX - 1].map(|ns| Moment::at(ns).ns()), [0, 7, u64::MAX - 1]);
    }
}
