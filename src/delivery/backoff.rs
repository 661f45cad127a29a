//! Delays between attempts: exponential, with full jitter, so that many lanes do not come back at the same moment.

use std::time::Duration;

/// The delay before attempt number `failures + 1`: uniform between 0 and `first` × 2^(failures − 1), at most `max`.
/// In nanoseconds.
pub fn delay_ns(rng: &mut fastrand::Rng, first: Duration, max: Duration, failures: u32) -> u64 {
    let first = first.as_nanos() as u64;
    let doublings = failures.saturating_sub(1).min(32);
    let bound = first.saturating_mul(1 << doublings).clamp(1, (max.as_nanos() as u64).max(1));
    rng.u64(0..=bound)
}

/// A delay between half of `max` and all of it, where an earlier attempt would get the same answer. In nanoseconds, at least a
/// millisecond.
pub fn long_delay_ns(rng: &mut fastrand::Rng, max: Duration) -> u64 {
    let max_ns = (max.as_nanos() as u64).max(2_000_000);
    rng.u64(max_ns / 2..=max_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_fill_their_range() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (first, max) = (Duration::from_millis(500), Duration::from_secs(60));
        for (failures, bound) in [(1, 500_000_000), (2, 1_000_000_000), (5, 8_000_000_000), (90, 60_000_000_000)] {
            let delays: Vec<u64> = (0..1000).map(|_| delay_ns(&mut rng, first, max, failures)).collect();
            assert!(delays.iter().all(|delay| *delay <= bound));
            assert!(delays.iter().any(|delay| *delay > bound / 10 * 9));
            assert!(delays.iter().any(|delay| *delay < bound / 10));
        }
    }
}
