//! When a port or a device server is tried again, and how often that is said.
//!
//! | What happened | Tried again |
//! |---|---|
//! | it could not be opened, or ended after it had lived, also by us since it was silent | with growing delays, at most 5 s |
//! | three times in a row it ended within 3 s of its open | after 4 to 5 s, until one lives |
//! | the path leads to no tty | after a minute: only another path helps |
//!
//! A device server that is taken accepts a connection and hangs up, some with a line of text. So it is the life of a
//! connection that counts, and not what it brought.

use crate::config::SourceKind;
use crate::ground::Now;
use crate::shard::turn::Turn;
use std::time::Duration;

/// A port or device server is tried again after at most this long; a change in the port's directory comes sooner.
const REOPEN_MAX: Duration = Duration::from_secs(5);
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_LEAST_NS: u64 = 10_000_000;
/// What ended sooner after its open has not lived.
const LIVED_NS: u64 = 3_000_000_000;
/// So many in a row that have not lived are a fault of their own.
const SHORT_MAX: u32 = 3;
/// The least delay from then on: with those before, at most 18 connects a minute.
const SHORT_LEAST_NS: u64 = 4_000_000_000;
/// A path that leads to no tty.
const HOPELESS_NS: u64 = 60_000_000_000;
/// At most [`LINES_MAX`] lines are logged of what is not well in this time.
const LINES_NS: u64 = 60_000_000_000;
const LINES_MAX: usize = 2;

/// What came of the attempts to keep one port or outgoing connection open.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Since one was last open.
    failures: u32,
    /// In a row that have not lived.
    short: u32,
    /// Since when one is open and has not lived.
    opened_ns: Option<u64>,
    reopen_ns: Option<u64>,
    /// What was logged last, since one last lived.
    told: Option<String>,
    /// When the last lines were logged.
    told_ns: [Option<u64>; LINES_MAX],
}

/// What is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lived {
    /// Those before it had not lived, which was a problem up to now.
    pub ends_problem: bool,
    /// A problem was logged, and nothing since.
    pub is_news: bool,
}

/// How a port or connection came to its end, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It could not be opened, or it was open and is no longer.
    Gone,
    /// We have ended it, since nothing came.
    Idle,
    /// Another attempt leads to nothing before somebody changes the path.
    Hopeless,
}

impl Attempts {
    /// It is open now; when to ask [`Attempts::has_lived`].
    pub fn opened(&mut self, now: Now) -> u64 {
        self.failures = 0;
        self.reopen_ns = None;
        self.opened_ns = Some(now.mono_ns);
        now.mono_ns + LIVED_NS
    }

    /// Whether those before it ended too soon too often: the problem stays until one has lived.
    pub fn is_short_lived(&self) -> bool {
        self.short >= SHORT_MAX
    }

    /// What is open may just have lived long enough to be well; told once.
    pub fn has_lived(&mut self, now: Now) -> Option<Lived> {
        self.opened_ns.take_if(|at_ns| now.mono_ns >= *at_ns + LIVED_NS)?;
        let ends_problem = self.is_short_lived();
        self.short = 0;
        self.told_ns = Default::default();
        Some(Lived { ends_problem, is_news: self.told.take().is_some() })
    }

    /// It is not open, or no longer; when to try again, in monotonic nanoseconds.
    pub fn lost(&mut self, turn: &mut Turn<'_>, loss: Loss) -> u64 {
        let now_ns = turn.now.mono_ns;
        if let Some(opened_ns) = self.opened_ns.take() {
            self.short = if now_ns < opened_ns + LIVED_NS { self.short.saturating_add(1) } else { 0 };
        }
        self.failures = self.failures.saturating_add(1);
        let max_ns = REOPEN_MAX.as_nanos() as u64;
        let wait_ns = match loss {
            Loss::Hopeless => HOPELESS_NS,
            Loss::Gone | Loss::Idle if self.is_short_lived() => turn.rng.u64(SHORT_LEAST_NS..=max_ns),
            Loss::Gone | Loss::Idle => turn.delay_ns(REOPEN_FIRST, REOPEN_MAX, self.failures).max(REOPEN_LEAST_NS),
        };
        *self.reopen_ns.insert(now_ns + wait_ns)
    }

    /// Whether to try again.
    pub fn is_due(&self, now: Now) -> bool {
        self.reopen_ns.is_some_and(|at_ns| at_ns <= now.mono_ns)
    }

    /// It is being tried, or never again.
    pub fn clear_due(&mut self) {
        self.reopen_ns = None;
    }

    /// Whether a problem is news that is to be logged now.
    pub fn is_to_tell(&mut self, now: Now, problem: &str) -> bool {
        if self.told.as_deref() == Some(problem) {
            return false;
        }
        let is_old = |at_ns: &Option<u64>| at_ns.is_none_or(|at_ns| now.mono_ns >= at_ns + LINES_NS);
        let Some(line) = self.told_ns.iter_mut().find(|at_ns| is_old(at_ns)) else { return false };
        *line = Some(now.mono_ns);
        self.told = Some(problem.to_owned());
        true
    }
}

/// What to look for where each connection or open ends soon.
pub(super) fn ends_soon(kind: &SourceKind) -> &'static str {
    match kind {
        SourceKind::Serial(_) => "look at the adapter and its cable",
        _ => "most device servers take one connection and end others, so see who else is connected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ns: u64) -> Now {
        Now { mono_ns, wall_ns: mono_ns }
    }

    #[test]
    fn at_most_two_different_lines_are_logged_a_minute_until_one_has_lived() {
        let mut attempts = Attempts::default();
        assert!(attempts.is_to_tell(at(0), "a"));
        assert!(!attempts.is_to_tell(at(1), "a"), "it was said");
        assert!(attempts.is_to_tell(at(2), "b"));
        assert!(!attempts.is_to_tell(at(LINES_NS - 1), "c"));
        assert!(attempts.is_to_tell(at(LINES_NS), "c"), "a minute after the first");
        assert!(!attempts.is_to_tell(at(LINES_NS + 1), "d"));
        attempts.opened(at(LINES_NS + 2));
        assert_eq!(attempts.has_lived(at(LINES_NS + 1 + LIVED_NS)), None);
        assert_eq!(attempts.has_lived(at(LINES_NS + 2 + LIVED_NS)), Some(Lived { ends_problem: false, is_news: true }));
        assert_eq!(attempts.has_lived(at(LINES_NS + 3 + LIVED_NS)), None, "once");
        assert!(attempts.is_to_tell(at(LINES_NS + 4 + LIVED_NS), "c"));
    }
}
