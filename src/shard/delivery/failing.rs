//! Lanes whose first record fails: since when, how often and by what. One that stands still while
//! others get through is *stuck*: it is told by its name, and parked where the configuration says
//! so.
//!
//! An entry lives from the first failure of a record, or of the batch that its lane carries, until
//! the record is settled, parked, or goes on in another batch. Whether others get through is the
//! outbox's knowledge, and is asked for.

use super::outbox::Outbox;
use super::problem::{Loss, Problem};
use crate::config::Stuck;
use crate::delivery::{InFlight, Step};
use crate::ground::{LaneId, Now, RecordName};
use crate::observe::snapshot::{FailingRecord, Snapshot};
use crate::shard::store::{Lane, State, Store};
use std::collections::HashMap;

/// Stuck lanes are logged at most once in this time.
const SAY_EVERY_NS: u64 = 10_000_000_000;
/// A lane is stuck once a record of another one has arrived so long after it began to fail: what was
/// on its way when the service went down proves nothing.
const OTHERS_AFTER_NS: u64 = 1_000_000_000;
/// Failures, or ...
const STUCK_ATTEMPTS: u32 = 3;
/// ... time, from which on a lane can be stuck.
const STUCK_NS: u64 = 3_000_000_000;
/// Unreadable answers in a row after which another attempt is thought to get the same.
pub(super) const UNREADABLE_MAX: u32 = 3;
/// Failing records that a snapshot names; all of them are counted.
const SHOWN_MAX: usize = 100;

/// What fails. The lane may have given its bytes back while it waits.
#[derive(Debug)]
struct What {
    record: RecordName,
    source: Box<str>,
    name: Box<str>,
}

/// What was logged of a lane that is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// It is one of those that a later line counts.
    Counted,
    ByName,
}

/// What is known of a lane whose first record fails.
#[derive(Debug)]
struct Failing {
    what: What,
    since_ns: u64,
    last_ns: u64,
    attempts: u32,
    /// Answers that count against the record: the first failure, and each one before which a record
    /// of another lane had been sent, and arrived, since the failure before.
    counted: u32,
    /// Unreadable answers in a row.
    unreadable: u32,
    step: Step,
    status: u16,
    /// By what it failed last.
    words: String,
    /// When it is tried again, where it waits by itself.
    next_ns: u64,
    told: Told,
}

impl Failing {
    fn of(now_ns: u64, store: &Store, request: &InFlight) -> Self {
        let lane = store.lane(request.lane);
        let (record, origin) = store.record(lane, 0);
        Self {
            what: What {
                record: RecordName { core: store.core_of(lane), number: record.number },
                source: origin.who.source().into(),
                name: origin.who.name().into(),
            },
            since_ns: now_ns,
            last_ns: u64::MAX,
            attempts: 0,
            counted: 0,
            unreadable: 0,
            step: request.step,
            status: 0,
            words: String::new(),
            next_ns: now_ns,
            told: Told::Nothing,
        }
    }

    fn is_stuck(&self, now_ns: u64, success_ns: Option<u64>) -> bool {
        let others = success_ns.is_some_and(|at_ns| at_ns >= self.since_ns + OTHERS_AFTER_NS);
        others && (self.attempts >= STUCK_ATTEMPTS || now_ns - self.since_ns >= STUCK_NS)
    }
}

/// All lanes that fail.
#[derive(Debug, Default)]
pub(super) struct FailingLanes {
    lanes: HashMap<LaneId, Failing>,
    /// Stuck since the last one that was logged.
    unsaid: u64,
    say_ns: u64,
}

impl FailingLanes {
    /// A lane's request has failed; how many unreadable answers in a row that makes.
    pub fn note(&mut self, now: Now, (outbox, store): (&Outbox, &Store), request: &InFlight, problem: &Problem) -> u32 {
        let now_ns = now.mono_ns;
        let entry = self.lanes.entry(request.lane).or_insert_with(|| Failing::of(now_ns, store, request));
        if entry.step != request.step {
            // What another step has seen is no witness of this one.
            (entry.step, entry.since_ns, entry.counted, entry.last_ns) = (request.step, now_ns, 0, u64::MAX);
        }
        let is_first = entry.last_ns == u64::MAX;
        let is_witnessed = outbox.has_worked_since(request.step, entry.last_ns);
        entry.counted += u32::from(request.status > 0 && (is_first || is_witnessed));
        entry.attempts = entry.attempts.saturating_add(1);
        entry.unreadable =
            if matches!(problem, Problem::Lost(Loss::Unreadable { .. })) { entry.unreadable + 1 } else { 0 };
        (entry.last_ns, entry.next_ns, entry.status) = (now_ns, now_ns, request.status);
        entry.words = problem.to_string();
        entry.unreadable
    }

    /// A lane that has failed is tried again at this time.
    pub fn waits(&mut self, lane: LaneId, until_ns: u64) {
        if let Some(entry) = self.lanes.get_mut(&lane) {
            entry.next_ns = until_ns;
        }
    }

    /// Whether a lane that waits by itself has waited long enough. A timer of an earlier wait, which
    /// was ended before its time, says nothing of this one.
    pub fn is_due(&self, now: Now, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_none_or(|entry| entry.next_ns <= now.mono_ns)
    }

    /// Whether a lane is known to be stuck, so that its failures say nothing of the API.
    pub fn is_said(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|entry| entry.told != Told::Nothing)
    }

    /// Whether a record of another lane was sent, and taken, between two failures of this lane's
    /// first one: what holds for all cannot be what it fails by.
    pub fn is_refuted(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|entry| entry.counted > 1)
    }

    /// How often a lane's first record has failed.
    pub fn attempts(&self, lane: LaneId) -> u32 {
        self.lanes.get(&lane).map_or(0, |entry| entry.attempts)
    }

    /// Whether one more answer that is no success, now, is one too many.
    pub fn is_over(&self, now: Now, outbox: &Outbox, request: &InFlight, stuck: &Stuck) -> bool {
        let Some(entry) = self.lanes.get(&request.lane).filter(|entry| entry.step == request.step) else {
            return false;
        };
        let is_witnessed = outbox.has_worked_since(request.step, entry.last_ns);
        let is_long = now.mono_ns - entry.since_ns >= stuck.after.as_nanos() as u64;
        is_witnessed && is_long && entry.counted + 1 >= stuck.attempts
    }

    /// Logs a lane that has become stuck.
    pub fn say(&mut self, now: Now, outbox: &Outbox, store: &Store, lane: LaneId) {
        let Some(entry) = self.lanes.get_mut(&lane) else { return };
        if entry.told == Told::ByName || !entry.is_stuck(now.mono_ns, outbox.last_success_ns(entry.step)) {
            return;
        }
        let was_counted = entry.told == Told::Counted;
        if now.mono_ns < self.say_ns {
            entry.told = Told::Counted;
            self.unsaid += u64::from(!was_counted);
            return;
        }
        self.unsaid = self.unsaid.saturating_sub(was_counted.into());
        entry.told = Told::ByName;
        let shown = shown(now, outbox, store, lane, entry);
        let unsaid = std::mem::take(&mut self.unsaid);
        let others =
            if unsaid > 0 { format!("; {unsaid} others since the last line like this") } else { String::new() };
        tracing::warn!("{}: {}{others}", shown.name, shown.words());
        self.say_ns = now.mono_ns + SAY_EVERY_NS;
    }

    /// A lane's first record has come to something, or what is sent with it is another batch.
    pub fn forget(&mut self, lane: LaneId) {
        // Mostly there is none at all.
        if self.lanes.is_empty() {
            return;
        }
        if let Some(Failing { what, attempts, told: Told::ByName, .. }) = self.lanes.remove(&lane) {
            let What { record, name, .. } = what;
            tracing::info!("{name}: record {record} holds up nothing any more, after {attempts} failed attempts");
        }
    }

    /// How many lanes are stuck, and the failing records: stuck ones first, then the oldest.
    pub fn show(&self, now: Now, outbox: &Outbox, store: &Store, into: &mut Snapshot) {
        let is_stuck = |entry: &Failing| entry.is_stuck(now.mono_ns, outbox.last_success_ns(entry.step));
        let mut lanes: Vec<(bool, u64, LaneId)> =
            self.lanes.iter().map(|(id, entry)| (!is_stuck(entry), entry.since_ns, *id)).collect();
        into.lanes_stuck = lanes.iter().filter(|(is_not, ..)| !is_not).count() as u64;
        lanes.sort_unstable_by_key(|(is_not, since_ns, id)| (*is_not, *since_ns, id.index));
        lanes.truncate(SHOWN_MAX);
        into.failing = lanes.iter().map(|(.., id)| shown(now, outbox, store, *id, &self.lanes[id])).collect();
    }

    /// That each entry is of a lane that there is, and of its first record.
    pub fn check(&self, store: &Store) {
        for (id, entry) in &self.lanes {
            let lane = store.find(*id).expect("a lane that fails is there");
            let first = lane.records().first().map(|first| first.number);
            assert!(
                first.is_none_or(|number| number == entry.what.record.number),
                "what fails is a lane's first record"
            );
            let has_record = lane.records().pending() > 0 || lane.records().is_roused();
            assert!(entry.attempts > 0 && has_record, "a lane that fails has a record");
        }
    }
}

/// A failing record, as people see it.
fn shown(now: Now, outbox: &Outbox, store: &Store, id: LaneId, entry: &Failing) -> FailingRecord {
    let lane: &Lane = store.lane(id);
    let next_ns = match lane.state() {
        State::Backoff => Some(entry.next_ns),
        State::Held => outbox.held_until_ns(lane.step()),
        _ => None,
    };
    FailingRecord {
        record: entry.what.record.to_string(),
        source: entry.what.source.to_string(),
        name: entry.what.name.to_string(),
        attempts: entry.attempts,
        failing_s: (now.mono_ns - entry.since_ns) as f64 / 1e9,
        status: (entry.status > 0).then_some(entry.status),
        answer: entry.words.clone(),
        next_s: next_ns.map(|at_ns| at_ns.saturating_sub(now.mono_ns) as f64 / 1e9),
        behind: store.pending_of(lane).saturating_sub(1),
        stuck: entry.is_stuck(now.mono_ns, outbox.last_success_ns(entry.step)),
    }
}
