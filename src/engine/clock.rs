//! The two clocks, read once a turn of the loop.

use crate::shard::Now;
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC and CLOCK_REALTIME (clock_gettime(2)).
pub fn now() -> Now {
    Now { mono_ns: read(ClockId::CLOCK_MONOTONIC), wall_ns: read(ClockId::CLOCK_REALTIME) }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("both clocks exist on every Linux");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
