//! What is known of the attempts to deliver a lane's first record, or the batch that it carries.

use crate::delivery::Step;
use crate::ground::Moment;

/// An answer that refused a record: its status and the beginning of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shard) struct Refusal {
    pub status: u16,
    pub answer: Box<[u8]>,
}

/// The attempts so far. It decides nothing: the delivery has it count, and looks here.
#[derive(Debug)]
pub(in crate::shard) struct Tries {
    step: Step,
    /// When the current step could begin: the record was journaled, or its id came. Not known of a
    /// record that a start found or that was read back.
    since: Option<Moment>,
    attempts: u32,
    /// Answers that refused the first record.
    refusals: u32,
    /// The last of the refusals, while the service is asked what it has.
    refusal: Option<Refusal>,
    /// The first record was sent again on a new connection since the old one was stale.
    resent: bool,
    /// Failures in a row of the batch that it carries, as far as its records may be to blame.
    failures: u32,
    /// When its first record, or that batch, began to fail so.
    failing_since: Option<Moment>,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            step: Step::Record,
            since: None,
            attempts: 0,
            refusals: 0,
            refusal: None,
            resent: false,
            failures: 0,
            failing_since: None,
        }
    }
}

impl Tries {
    /// The step that comes next, or is on its way.
    pub fn step(&self) -> Step {
        self.step
    }

    /// When that could begin, where it is known.
    pub fn since(&self) -> Option<Moment> {
        self.since
    }

    /// Attempts of that step.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Answers that refused the first record.
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// The refusal about which the service is asked.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Whether the first record was tried before.
    pub fn any(&self) -> bool {
        self.attempts > 0 || self.resent
    }

    /// Whether nothing is known that the next attempt would need.
    pub fn is_blank(&self) -> bool {
        !self.any()
            && self.refusals == 0
            && self.refusal.is_none()
            && self.failures == 0
            && self.failing_since.is_none()
    }

    /// Another step comes next.
    pub fn set_step(&mut self, step: Step) {
        self.step = step;
    }

    /// A first record is to be sent for the first time; since when it could.
    pub fn begin(&mut self, step: Step, since: Option<Moment>) {
        (self.step, self.since) = (step, since);
    }

    /// An answer refused the record; how many have.
    pub fn count_refusal(&mut self) -> u32 {
        self.refusals += 1;
        self.refusals
    }

    /// The service is to be asked about this refusal.
    pub fn ask_about(&mut self, refusal: Refusal) {
        self.count_refusal();
        (self.refusal, self.step) = (Some(refusal), Step::Confirm);
    }

    /// Nobody is asked about a refusal any more.
    pub fn forget_refusal(&mut self) {
        self.refusal = None;
    }

    /// Whether the request may go again at once, on a new connection: once, or as often as it takes
    /// `behind` another one.
    pub fn resend(&mut self, behind: bool) -> bool {
        let may = behind || !self.resent;
        self.resent |= may && !behind;
        may
    }

    /// Another attempt has come to nothing.
    pub fn count(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.resent = false;
    }

    /// Another failure of its batch; `counts`: its records may be to blame. How many there were in
    /// a row.
    pub fn count_failure(&mut self, counts: bool) -> u32 {
        self.failures = self.failures.saturating_add(u32::from(counts));
        self.failures
    }

    /// Since when it fails: from now on, unless it did before.
    pub fn failing_since(&mut self, now_ns: u64) -> u64 {
        self.failing_since.get_or_insert(Moment::at(now_ns)).ns()
    }

    /// The record step begins.
    pub fn begin_record(&mut self, at_ns: u64) {
        (self.step, self.since) = (Step::Record, Some(Moment::at(at_ns)));
        (self.attempts, self.resent) = (0, false);
    }

    /// A part of the batch goes on its own way: nothing is known against it.
    pub fn begin_again(&mut self) {
        (self.attempts, self.resent) = (0, false);
        (self.failures, self.failing_since) = (0, None);
    }

    /// It goes back to the step before, which it has not tried.
    pub fn begin_at(&mut self, step: Step) {
        (self.step, self.attempts) = (step, 0);
    }

    /// What is known is of no use to the next record.
    pub fn next_record(&mut self) {
        let since = self.since;
        *self = Self { since, ..Self::default() }; // the step is Record, unless it is to ask for an id first
    }
}
