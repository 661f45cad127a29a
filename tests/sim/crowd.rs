//! Worlds whose journal is too small for what comes while the service is away: machines that can wait
//! fill it beside lines that cannot.

use super::context::{MS, S};
use super::machines::{Kind, MachinePlan};
use super::plan::{CrashPoint, Fault, FaultKind};
use ringest::config::{Journal, WhenFull};

/// Machines that send more than the journal holds, beside lines whose records fit into what is kept for them.
pub fn crowd(seed: u64, block_bytes: u32, journal: &mut Journal, machines: &mut [MachinePlan]) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x6372_6f77);
    journal.segment_bytes = u64::from(8 * block_bytes).next_multiple_of(4096);
    journal.max_bytes = journal.segment_bytes * rng.u64(5..=6);
    // What is held of lines, a quarter of it, is less than they send while the journal is full. Ids and
    // marks of deliveries take some of what is kept for them.
    journal.window_bytes = 8 * 8192;
    journal.when_full = WhenFull::Pause;
    let lines = machines.iter().filter(|machine| machine.kind == Kind::Serial).count() as u64;
    let others = machines.len() as u64 - lines;
    for machine in machines {
        let is_line = machine.kind == Kind::Serial;
        (machine.quota, machine.bytes_max) = if is_line { (80 / lines, 800) } else { (600 / others, 3000) };
        machine.gap_ns = if is_line { 60 * MS * lines } else { 3 * MS };
        // A line that is joined inside at each hang-up sends more than is counted here.
        machine.fickle = 0;
    }
}

/// The service is away for so long that the journal fills, and one kill before it is full: a start within what is kept leaves the
/// rest of that segment unused.
pub fn crowding_faults(seed: u64) -> [Fault; 2] {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x6177_6179);
    let kind = FaultKind::Outage { swallows: rng.bool() };
    let away = Fault { at_ns: S + rng.u64(50 * MS..500 * MS), lasts_ns: rng.u64(6 * S..10 * S), kind };
    let kill = Fault { at_ns: S + rng.u64(20 * MS..150 * MS), lasts_ns: 0, kind: FaultKind::Kill(CrashPoint::Now) };
    [away, kill]
}

/// Whether what is kept for lines that cannot wait suffices in spite of it: no disk that refuses, no starts, of which each begins
/// a new segment, and no line that sends at once what it would send in minutes.
pub fn leaves_the_reserve(kind: &FaultKind) -> bool {
    use FaultKind::*;
    matches!(kind, Outage { .. } | Status(_) | SlowAnswers(_) | LostAnswers(_) | Reset(_) | Stall(_) | Reload)
}
