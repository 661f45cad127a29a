//! When each record is due, and which faults befall it: pure functions of the seed, the machine and the sequence, so that
//! a run can be repeated and nothing has to be remembered for a backlog.

use std::time::Duration;

/// How often each fault happens, as a probability per record from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// A frame of garbage before the record (not over HTTP, where a request is a record).
    pub garbage: f64,
    /// The record is cut off before its delimiter; over HTTP the request is cut off and made again.
    pub cut: f64,
    /// The port hangs up after the record.
    pub hang_up: f64,
    /// The first machine hangs up once, after the first record that is due at this time or later.
    pub unplug_at: Option<Duration>,
}

/// What is drawn from the seed for a record. Each kind has its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    Jitter = 1,
    Garbage,
    Cut,
    CutLength,
    CutHangsUp,
    HangUp,
    Reset,
}

/// An open-loop schedule: record `n` of machine `i` of `m` is due at `(n + i/m + jitter · u) / rate` after the start, where u in
/// [0, 1) is drawn per record.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) machines: usize,
    /// Records per second per machine.
    pub(super) rate: f64,
    pub(super) duration: Duration,
    /// Share of the interval, 0 to 1.
    pub(super) jitter: f64,
    pub(super) seed: u64,
    pub(super) faults: Faults,
}

impl Schedule {
    /// How many records are due to a machine before the end.
    pub(super) fn records(&self, machine: usize) -> u64 {
        // The product of two short decimals may lie a little above the whole number that is meant.
        (self.duration.as_secs_f64() * self.rate - self.phase(machine) - 1e-9).ceil().max(0.0) as u64
    }

    /// Nanoseconds after the start.
    pub(super) fn due_ns(&self, machine: usize, sequence: u64) -> u64 {
        let jitter = if self.jitter > 0.0 { self.jitter * self.unit(machine, sequence, Draw::Jitter) } else { 0.0 };
        ((sequence as f64 + self.phase(machine) + jitter) / self.rate * 1e9).round() as u64
    }

    fn phase(&self, machine: usize) -> f64 {
        machine as f64 / self.machines as f64
    }

    /// Whether a fault befalls a record.
    pub(super) fn happens(&self, machine: usize, sequence: u64, draw: Draw) -> bool {
        if draw == Draw::HangUp && machine == 0 && self.is_unplugged_behind(sequence) {
            return true;
        }
        let probability = match draw {
            Draw::Garbage => self.faults.garbage,
            Draw::Cut => self.faults.cut,
            Draw::HangUp => self.faults.hang_up,
            Draw::CutHangsUp | Draw::Reset => 0.5,
            Draw::Jitter | Draw::CutLength => unreachable!("{draw:?} is no event"),
        };
        probability > 0.0 && self.unit(machine, sequence, draw) < probability
    }

    fn is_unplugged_behind(&self, sequence: u64) -> bool {
        let Some(at) = self.faults.unplug_at else { return false };
        let is_due = |sequence| self.due_ns(0, sequence) >= at.as_nanos() as u64;
        is_due(sequence) && sequence.checked_sub(1).is_none_or(|before| !is_due(before))
    }

    /// A number in [0, 1).
    pub(super) fn unit(&self, machine: usize, sequence: u64, draw: Draw) -> f64 {
        (self.number(machine, sequence, draw) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 64 random bits.
    pub(super) fn number(&self, machine: usize, sequence: u64, draw: Draw) -> u64 {
        mix(mix(mix(self.seed ^ draw as u64) ^ machine as u64) ^ sequence)
    }
}

/// The finalizer of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(machines: usize, rate: f64, seconds: u64, jitter: f64) -> Schedule {
        let duration = Duration::from_secs(seconds);
        Schedule { machines, rate, duration, jitter, seed: 7, faults: Faults { cut: 0.1, ..Faults::default() } }
    }

    #[test]
    fn every_machine_sends_rate_times_duration() {
        for (machines, rate, seconds, each) in
            [(16, 50.0, 10, 500), (500, 20.0, 7, 140), (9_000, 0.1, 30, 3), (3, 30.0, 10, 300), (1, 0.7, 10, 7)]
        {
            let schedule = schedule(machines, rate, seconds, 0.0);
            for machine in 0..machines {
                assert_eq!(schedule.records(machine), each, "machine {machine} of {machines} at {rate}/s");
                assert!(schedule.due_ns(machine, each - 1) < seconds * 1_000_000_000);
            }
        }
    }

    #[test]
    fn jitter_keeps_the_order_and_stays_in_the_interval() {
        let schedule = schedule(4, 10.0, 10, 1.0);
        for machine in 0..4 {
            for sequence in 0..99 {
                let due = schedule.due_ns(machine, sequence);
                let base = (sequence * 100_000_000) + machine as u64 * 25_000_000;
                assert!((base..base + 100_000_001).contains(&due));
                assert!(due <= schedule.due_ns(machine, sequence + 1));
            }
        }
    }

    #[test]
    fn faults_are_as_frequent_as_asked_and_the_same_for_a_seed() {
        let schedule = schedule(1, 1.0, 1, 0.0);
        let cuts = |schedule: &Schedule| (0..10_000).filter(|&n| schedule.happens(0, n, Draw::Cut)).collect::<Vec<_>>();
        let first = cuts(&schedule);
        assert!((850..1150).contains(&first.len()), "{} of 10,000", first.len());
        assert_eq!(first, cuts(&schedule));
        assert_ne!(first, cuts(&Schedule { seed: 8, ..schedule.clone() }));
        assert!(!(0..1000).any(|n| schedule.happens(0, n, Draw::HangUp)));
    }
}
