//! The moment.

/// A moment, as the driver read it once for a turn of its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds of the monotonic clock (CLOCK_MONOTONIC); timers live on it.
    pub mono_ns: u64,
    /// Nanoseconds since 1970 (CLOCK_REALTIME); only ever shown, never waited for.
    pub wall_ns: u64,
}
