//! One step's way to the API, as its answers show it: open, or held back while it fails, with one request at a time as a probe.

use std::time::Duration;

use super::backoff;

/// Failed answers in a row, with none that worked in between, after which a step is held back.
const FAILURES_MAX: u32 = 8;

/// After a probe that was not sent the next one may go so much later.
const GIVEN_BACK_NS: u64 = 1_000_000;

/// What a status leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The record has arrived, or the id is there.
    Done,
    /// The record is tried again later; when everything fails, all wait and one probes.
    Retry,
    /// The API refuses this record: after some attempts it is kept aside for an operator, and the next ones go on.
    Park,
    /// The service is asked whether it has the record.
    Confirm,
    /// The API or its configuration is at fault, and every record would be refused alike: all wait and one probes.
    Pause,
    /// The answer says neither that the record has arrived nor that it has not, and another attempt would get the same.
    /// Where others arrive this record alone waits, else all wait and one probes; each wait is a long one.
    Unclear,
}

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// At most, before the first retry.
    pub first: Duration,
    /// At most, before any other one.
    pub max: Duration,
    /// At most, where an answer's Retry-After says how long.
    pub told_max: Duration,
}

/// What a status of the record step leads to. `success`: those that mean delivered; `given`: those that are configured.
pub fn reaction(status: u16, success: &[u16], given: &[(u16, Reaction)]) -> Reaction {
    if let Some((_, reaction)) = given.iter().find(|(other, _)| *other == status) {
        return *reaction;
    }
    match status {
        _ if success.contains(&status) => Reaction::Done,
        200..=299 => Reaction::Unclear,
        400 | 409 | 413 | 415 | 422 => Reaction::Park,
        // A redirect is never followed (the next address might not be the plant's); the others are about who asks, where
        // and how, and no other record would fare better.
        300..=399 | 401..=407 | 410 | 426 | 451 | 501 | 505 | 511 if status != 406 => Reaction::Pause,
        _ => Reaction::Retry,
    }
}

/// Whether requests of a step go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// None before this time, in monotonic nanoseconds; then one.
    /// Nothing sent before counts, if an answer said to wait.
    Held { until_ns: u64, told: bool },
    /// One is on its way.
    Probing { sent_ns: u64 },
}

/// A step's breaker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Route {
    state: State,
    /// Failed answers since the last one that worked.
    failures: u32,
    /// Times that it was held back since then.
    holds: u32,
}

/// What a failed request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing: the record alone is tried again.
    No,
    /// The step was held back before; its record waits with the others.
    Already,
    /// From now on, until this time in monotonic nanoseconds.
    Until(u64),
}

impl Route {
    /// Whether requests go out freely.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether one request may go out as a probe now. It is on its way then.
    pub fn take_probe(&mut self, now_ns: u64) -> bool {
        match self.state {
            State::Held { until_ns, .. } if now_ns >= until_ns => {
                self.state = State::Probing { sent_ns: now_ns };
                true
            }
            _ => false,
        }
    }

    /// The probe was not sent after all: when another one may go.
    pub fn give_back(&mut self, now_ns: u64) -> Option<u64> {
        let State::Probing { .. } = self.state else { return None };
        let until_ns = now_ns + GIVEN_BACK_NS;
        self.state = State::Held { until_ns, told: false };
        Some(until_ns)
    }

    /// Whether a request that was sent at `sent_ns` is the probe.
    pub fn is_probe(&self, sent_ns: u64) -> bool {
        matches!(self.state, State::Probing { sent_ns: probe_ns } if sent_ns >= probe_ns)
    }

    /// An answer shows that the API works; whether requests were held back until now.
    pub fn worked(&mut self) -> bool {
        if matches!(self.state, State::Held { told: true, .. }) {
            return false; // it was on its way before
        }
        let held = !self.is_open();
        *self = Self::default();
        held
    }

    /// A request that was sent at `sent_ns` failed. `told`: the answer's Retry-After.
    pub fn failed(
        &mut self,
        now_ns: u64,
        sent_ns: u64,
        rng: &mut fastrand::Rng,
        pace: Pace,
        reaction: Reaction,
        told: Option<Duration>,
    ) -> Hold {
        let probe = self.is_probe(sent_ns);
        let told = told.map(|told| told.min(pace.told_max));
        match self.state {
            State::Open => {}
            _ if probe => {}
            // On its way since before: it tells nothing new, but may say for how long.
            State::Held { until_ns, .. } => {
                let longer = told.map(|told| now_ns + told.as_nanos() as u64);
                return match longer.filter(|longer| *longer > until_ns) {
                    Some(until_ns) => {
                        self.state = State::Held { until_ns, told: true };
                        Hold::Until(until_ns)
                    }
                    None => Hold::Already,
                };
            }
            State::Probing { .. } => return Hold::Already,
        }
        self.failures = self.failures.saturating_add(1);
        if !probe && told.is_none() && reaction == Reaction::Retry && self.failures < FAILURES_MAX {
            return Hold::No;
        }
        self.holds = self.holds.saturating_add(1);
        let wait_ns = match told {
            // A little later than told, so that not all gateways of a plant come at the same moment.
            Some(told) => told.as_nanos() as u64 + rng.u64(0..=pace.first.as_nanos() as u64),
            None if reaction == Reaction::Unclear => backoff::long_delay_ns(rng, pace.max),
            None => backoff::delay_ns(rng, pace.first, pace.max, self.holds).max(1_000_000),
        };
        self.state = State::Held { until_ns: now_ns + wait_ns, told: told.is_some() };
        Hold::Until(now_ns + wait_ns)
    }

    /// When a probe may go, if requests are held back.
    pub fn held_until_ns(&self) -> Option<u64> {
        match self.state {
            State::Held { until_ns, .. } => Some(until_ns),
            _ => None,
        }
    }

    /// Whether requests are held back for as long as an answer's Retry-After says.
    pub fn is_told(&self) -> bool {
        matches!(self.state, State::Held { told: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const PACE: Pace =
        Pace { first: Duration::from_millis(500), max: Duration::from_secs(60), told_max: Duration::from_secs(300) };

    fn fail(route: &mut Route, now_ns: u64, told: Option<u64>) -> Hold {
        let mut rng = fastrand::Rng::with_seed(now_ns);
        route.failed(now_ns, now_ns, &mut rng, PACE, Reaction::Retry, told.map(Duration::from_secs))
    }

    #[test]
    fn one_record_that_fails_again_and_again_holds_nothing_back_while_others_arrive() {
        let mut route = Route::default();
        for turn in 0..100 {
            assert_eq!(fail(&mut route, turn, None), Hold::No);
            assert!(!route.worked());
        }
    }

    #[test]
    fn after_a_run_of_failures_one_probe_at_a_time_goes_out_until_one_works() {
        let mut route = Route::default();
        for turn in 0..FAILURES_MAX as u64 - 1 {
            assert_eq!(fail(&mut route, turn, None), Hold::No);
        }
        let Hold::Until(mut until_ns) = fail(&mut route, 100, None) else { panic!("it is held") };
        assert_eq!(fail(&mut route, 101, None), Hold::Already, "one that was on its way");
        for _ in 0..20 {
            assert!(!route.is_open() && !route.take_probe(until_ns - 1));
            assert!(route.take_probe(until_ns));
            assert!(!route.take_probe(until_ns + 60 * SECOND), "one at a time");
            let Hold::Until(next_ns) = fail(&mut route, until_ns + 1, None) else { panic!("it is held again") };
            assert!(next_ns <= until_ns + 1 + 60 * SECOND);
            until_ns = next_ns;
        }
        assert!(route.take_probe(until_ns) && route.worked() && route.is_open());
        assert_eq!(fail(&mut route, until_ns, None), Hold::No, "a new count");
    }

    #[test]
    fn retry_after_holds_at_once_for_as_long_as_told_and_at_most_for_the_configured_time() {
        for (told, waits) in [(7, 7), (300, 300), (301, 300), (3_600, 300), (u64::from(u32::MAX), 300)] {
            let mut route = Route::default();
            let Hold::Until(until_ns) = fail(&mut route, SECOND, Some(told)) else { panic!("it is held") };
            assert!((SECOND * (1 + waits)..=SECOND * (1 + waits) + SECOND / 2).contains(&until_ns), "{until_ns}");
        }
        let mut route = Route::default();
        fail(&mut route, SECOND, Some(7));
        assert_eq!(fail(&mut route, SECOND, Some(60)), Hold::Until(61 * SECOND), "the longest counts");
        assert_eq!(fail(&mut route, SECOND, Some(1)), Hold::Already);
        assert!(!route.worked() && !route.is_open(), "what was sent before does not count");
        assert!(route.take_probe(61 * SECOND) && route.worked() && route.is_open());
    }

    #[test]
    fn an_unclear_answer_holds_at_once_and_for_long() {
        for turn in 0..100 {
            let (mut route, mut rng) = (Route::default(), fastrand::Rng::with_seed(turn));
            let Hold::Until(until_ns) = route.failed(0, 0, &mut rng, PACE, Reaction::Unclear, None) else {
                panic!("it is held")
            };
            assert!((30 * SECOND..=60 * SECOND).contains(&until_ns), "{until_ns}");
            assert!(!route.is_told() && route.take_probe(until_ns));
        }
    }

    #[test]
    fn statuses_about_the_api_pause_and_those_about_the_moment_do_not() {
        for status in [301, 302, 307, 401, 403, 404, 405, 410] {
            assert_eq!(reaction(status, &[201], &[]), Reaction::Pause, "{status}");
        }
        for status in [406, 408, 429, 500, 502, 503, 504] {
            assert_eq!(reaction(status, &[201], &[]), Reaction::Retry, "{status}");
        }
        for status in [200, 202, 204, 226, 299] {
            assert_eq!(reaction(status, &[201], &[]), Reaction::Unclear, "{status}");
            assert_eq!(reaction(status, &[201], &[(status, Reaction::Retry)]), Reaction::Retry, "{status}");
        }
        for status in [400, 409, 413, 415, 422] {
            assert_eq!(reaction(status, &[201], &[]), Reaction::Park, "{status}");
        }
        assert_eq!(reaction(302, &[201, 302], &[]), Reaction::Done);
        let given = [(400, Reaction::Pause), (202, Reaction::Confirm)];
        assert_eq!(given.map(|(status, _)| reaction(status, &[201], &given)), given.map(|(_, reaction)| reaction));
    }
}
