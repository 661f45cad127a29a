//! What keeps its order: one lane's records, one of them (or one batch) on its way at a time.
//!
//! A lane is in one state, and on the one list that the state names:
//!
//! | State | Where it is listed | Left by |
//! |---|---|---|
//! | `Idle` | nowhere: nothing is in memory | `wake` |
//! | `Woken` | the store's woken lanes | *admit* |
//! | `Ready` | its API's list of ready lanes | `send`, `join`, `back_off`, *admit* |
//! | `Held` | its step's breaker | *admit*, when the step works or probes |
//! | `AwaitsId` | the leases' waiting lanes | *admit*, when ids were granted |
//! | `AwaitsDurable` | the store's list, by number | `wake`, when its record is durable |
//! | `AwaitsLane` | it is an older lane's successor | `wake`, when that lane is done |
//! | `Backoff` | a timer | *admit*, when the time is over |
//! | `InFlight` | a connection's requests | `back_off`, *admit* |
//! | `InBatch` | the batch of the lane that carries it | *admit*, when the batch is settled or cut |
//!
//! *Admit* is what the delivery decides when a lane may go on: `list` (to `Ready`), `hold` (to
//! `Held`), `await_id`, `await_durable`, or `rest` (to `Idle`) where nothing is in memory.
//!
//! ```text
//!          wake           admit            send
//!   Idle ───────► Woken ────────► Ready ─────────► InFlight ──► settled: the next record, by admit
//!    ▲              │              │  ▲ └─ join ──► InBatch ──┘
//!    │ admit        │ admit        │  │ admit
//!    └──────────────┤              ▼  │
//!                   └──► Held, AwaitsId, Backoff          AwaitsDurable, AwaitsLane ── wake ──► Woken
//! ```
//!
//! A lane that is behind, and of which nothing else is known, *sleeps*: there is none. The next scan
//! that meets a record of it makes it anew, `Idle`.
//!
//! `AwaitsLane` is entered from everywhere but `InFlight` and `InBatch`, unless others wait for the
//! lane: it carries a batch, or asks for the ids of all.

use super::company::{Batch, Company};
use super::records::{Records, Waiting};
use super::tries::Tries;
use crate::delivery::Step;
use crate::ground::{JournalId, LaneId, LaneNumber, Moment};
use std::collections::VecDeque;

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum State {
    /// Nothing in memory to deliver.
    Idle,
    /// It has something to deliver, and the delivery is to hear of it.
    Woken,
    /// Listed to be sent.
    Ready,
    /// Its step is held back, for all lanes.
    Held,
    /// It waits for a sequence id that another lane has asked for.
    AwaitsId,
    /// Its first record may not be sent before it is durable.
    AwaitsDurable,
    /// An older lane of the same source goes first.
    AwaitsLane,
    /// Its first record is tried again later.
    Backoff,
    /// Its first record is on its way.
    InFlight,
    /// Another lane carries its first records.
    InBatch,
}

/// Sequence ids of the first records.
#[derive(Debug, Default)]
pub(in crate::shard) struct Ids {
    /// Of the first record.
    first: Option<Box<str>>,
    /// Of the records behind it, as far as they have been sent in a batch.
    behind: VecDeque<Box<str>>,
}

impl Ids {
    /// The id of the record at a place.
    pub fn get(&self, place: usize) -> Option<&str> {
        match place.checked_sub(1) {
            None => self.first.as_deref(),
            Some(behind) => self.behind.get(behind).map(|id| &**id),
        }
    }

    /// Whether so many of the first records have one.
    pub fn cover(&self, records: usize) -> bool {
        self.first.is_some() && self.behind.len() + 1 >= records
    }

    /// How many of the records behind the first one have one.
    pub fn behind(&self) -> usize {
        self.behind.len()
    }
}

/// One lane: where it stands, what it has to deliver, and what is known of the attempts to do so.
#[derive(Debug)]
pub(in crate::shard) struct Lane {
    journal: JournalId,
    /// Its number in the journal.
    number: LaneNumber,
    records: Records,
    state: State,
    /// With whom its first records go. What was sent stays so until it is answered.
    company: Company,
    /// Ids that were sent stay through every transition but the one to the next record.
    ids: Ids,
    tries: Tries,
    /// Links and sources that still append to it.
    appenders: u32,
    /// A record may be delivered only once it is durable (HTTP).
    needs_durable: bool,
    /// Its records were parked: the lane of their machine is another one.
    brought_back: bool,
    /// A source or an address goes on with it: whoever comes back finds it.
    lasting: bool,
    /// It asks for the ids of all lanes: others may wait for it.
    asks_for_all: bool,
    /// A lane that waits until this one is empty.
    successor: Option<LaneId>,
}

impl Lane {
    /// A lane at rest.
    pub fn new(journal: JournalId, number: LaneNumber) -> Self {
        Self {
            journal,
            number,
            records: Records::default(),
            state: State::Idle,
            company: Company::default(),
            ids: Ids::default(),
            tries: Tries::default(),
            appenders: 0,
            needs_durable: false,
            brought_back: false,
            lasting: false,
            asks_for_all: false,
            successor: None,
        }
    }

    /// A lane that slept: the first record of it was found.
    pub fn roused(journal: JournalId, number: LaneNumber) -> Self {
        Self { records: Records::roused(), ..Self::new(journal, number) }
    }

    // ---- looking

    pub fn journal(&self) -> JournalId {
        self.journal
    }

    pub fn number(&self) -> LaneNumber {
        self.number
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn company(&self) -> &Company {
        &self.company
    }

    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    pub fn tries(&self) -> &Tries {
        &self.tries
    }

    pub fn step(&self) -> Step {
        self.tries.step()
    }

    pub fn is_brought_back(&self) -> bool {
        self.brought_back
    }

    pub fn asks_for_all(&self) -> bool {
        self.asks_for_all
    }

    pub(super) fn needs_durable(&self) -> bool {
        self.needs_durable
    }

    /// Senders that append to it: connections, mostly.
    pub fn appenders(&self) -> u32 {
        self.appenders
    }

    pub(super) fn successor(&self) -> Option<LaneId> {
        self.successor
    }

    /// The first record, which a lane that is listed or on its way has in memory.
    pub fn first(&self) -> &Waiting {
        self.records.first().expect("a lane that is sent has a record in memory")
    }

    /// Whether its first record goes by itself.
    pub fn goes_alone(&self) -> bool {
        matches!(self.company, Company::Alone { .. } | Company::Carrier { .. }) || self.tries.any()
    }

    /// Whether its first record may go with others: it was never sent alone, and nothing is known
    /// against it.
    pub fn is_batchable(&self) -> bool {
        self.step() == Step::Record && self.company.may_grow() && !self.goes_alone()
    }

    /// Whether nothing of it is sent, for a time that others do not wait for: its memory may be
    /// needed more elsewhere.
    pub fn is_stalled(&self) -> bool {
        let waits = matches!(self.state, State::Backoff | State::AwaitsLane | State::AwaitsId);
        waits && !self.company.is_carrier()
    }

    /// Whether others may wait for it, so that it cannot be told to wait for another one.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::InFlight | State::InBatch) || self.company.is_carrier() || self.asks_for_all
    }

    /// Whether its first record may have reached the service already.
    pub fn was_posted(&self) -> bool {
        self.step() != Step::Id && (self.tries.any() || matches!(self.state, State::InFlight | State::InBatch))
    }

    /// Whether nobody appends to it any more, now or later: it goes with its records.
    pub fn is_left(&self) -> bool {
        self.appenders == 0 && !self.lasting && !self.brought_back
    }

    /// Whether nothing is left of it that this process can deliver, as far as is known.
    pub fn is_done(&self) -> bool {
        let unread = self.records.unread();
        let is_empty = self.records.pending() == unread && (unread == 0 || self.state == State::Idle);
        let may_be_behind = self.records.is_roused() && self.records.behind().is_some();
        self.appenders == 0 && is_empty && !may_be_behind
    }

    /// Whether it is of no use in memory until a scan meets its next record: nobody names it, and
    /// nothing is known of it but that it is behind.
    pub(super) fn can_sleep(&self) -> bool {
        let is_at_rest = self.state == State::Idle && self.successor.is_none() && !self.asks_for_all;
        let is_blank = self.tries.is_blank() && self.ids.first.is_none() && self.company.may_grow();
        let is_behind = self.records.behind().is_some() && self.records.first().is_none();
        self.is_left() && is_at_rest && is_blank && is_behind && self.records.unread() == 0
    }

    // ---- transitions

    /// Goes over to a state; a lane that leaves a batch of another one may go with any again.
    fn enter(&mut self, from: &[State], to: State) {
        assert!(from.contains(&self.state), "a lane goes from {:?} to {to:?}", self.state);
        if self.state == State::InBatch {
            self.company.leave();
        }
        self.state = to;
    }

    /// It has something to deliver, or may go on: the delivery is to hear of it.
    pub(super) fn wake(&mut self) {
        self.enter(&[State::Idle, State::AwaitsDurable, State::AwaitsLane], State::Woken);
    }

    /// Nothing is in memory to deliver.
    pub(super) fn rest(&mut self) {
        debug_assert!(self.records.first().is_none());
        self.enter(&ADMITTABLE, State::Idle);
    }

    /// Its first record may not be sent before it is durable.
    pub(super) fn await_durable(&mut self) {
        self.enter(&ADMITTABLE, State::AwaitsDurable);
    }

    /// An older lane goes first.
    pub(super) fn await_lane(&mut self) {
        assert!(!self.is_under_way(), "a lane that others wait for waits for none");
        self.enter(&MOVABLE, State::AwaitsLane);
    }

    /// It waits for a sequence id that another lane has asked for.
    pub fn await_id(&mut self) {
        self.enter(&ADMITTABLE, State::AwaitsId);
    }

    /// It is listed to be sent.
    pub fn list(&mut self) {
        self.enter(&ADMITTABLE, State::Ready);
    }

    /// Its step is held back.
    pub fn hold(&mut self) {
        self.enter(&ADMITTABLE, State::Held);
    }

    /// Its current request is on its way.
    pub fn send(&mut self) {
        self.enter(&[State::Ready], State::InFlight);
    }

    /// Another lane carries its first records.
    pub fn join(&mut self) {
        if self.state == State::InBatch {
            return; // and has done so before
        }
        self.enter(&[State::Ready], State::InBatch);
        self.company.join();
    }

    /// Its first record is tried again later.
    pub(super) fn back_off(&mut self) {
        self.enter(&[State::InFlight, State::Ready], State::Backoff);
    }

    // ---- company

    /// It carries a batch, of which its own part is the first.
    pub fn carry(&mut self, batch: Batch) {
        self.company.carry(batch);
    }

    /// It carries its batch no longer.
    pub fn take_batch(&mut self) -> Option<Batch> {
        self.company.take_batch()
    }

    /// So many records behind those of its batch go apart from others.
    pub fn part_behind(&mut self, records: usize) {
        self.company.part_behind(records);
    }

    /// How many of its first records go apart, without those of other lanes; they may go with
    /// others again afterwards.
    pub fn take_apart(&mut self) -> Option<usize> {
        self.company.take_apart()
    }

    /// A batch with its first record was refused: that one goes alone.
    pub fn go_alone(&mut self) {
        self.company.go_alone();
    }

    // ---- the first record

    /// The first record is to be sent for the first time: which step comes first, and since when it
    /// could.
    pub fn begin_step(&mut self, step: Step, recovered_id: Option<&str>) {
        let since = self.first().seen.map(|seen| Moment::at(seen.journaled_ns()));
        self.tries.begin(if recovered_id.is_some() { Step::Record } else { step }, since);
        if let Some(id) = recovered_id {
            self.ids.first = Some(id.into());
        }
    }

    /// The step that comes next is another one.
    pub fn set_step(&mut self, step: Step) {
        self.tries.set_step(step);
    }

    /// Its first record has an id now; `at_ns`: an answer has brought it, so that the record step
    /// begins.
    pub fn give_id(&mut self, id: Box<str>, at_ns: Option<u64>) {
        self.ids.first = Some(id);
        if let Some(at_ns) = at_ns {
            self.tries.begin_record(at_ns);
        }
    }

    /// The record behind those that have ids has one now.
    pub fn give_id_behind(&mut self, id: Box<str>) {
        self.ids.behind.push_back(id);
    }

    /// It has got ids for all.
    pub fn was_granted(&mut self, at_ns: u64) {
        self.tries.begin_record(at_ns);
    }

    /// It asks for the ids of all lanes, or does not any more.
    pub fn ask_for_all(&mut self, asks: bool) {
        self.asks_for_all = asks;
    }

    /// What is known of the attempts changes, and nothing else.
    pub fn tries_mut(&mut self) -> &mut Tries {
        &mut self.tries
    }

    /// The first record is settled or parked: what was known of its attempts is of no more use.
    pub(super) fn next_record(&mut self) -> Waiting {
        self.ids.first = self.ids.behind.pop_front();
        self.company.next_record();
        self.tries.next_record();
        self.records.settle()
    }

    // ---- what the store alone does

    pub(super) fn records_mut(&mut self) -> &mut Records {
        &mut self.records
    }

    pub(super) fn count_appender(&mut self) {
        self.appenders += 1;
    }

    pub(super) fn leave_appender(&mut self) {
        self.appenders -= 1;
    }

    pub(super) fn set_needs_durable(&mut self) {
        self.needs_durable = true;
    }

    pub(super) fn set_brought_back(&mut self) {
        self.brought_back = true;
    }

    pub(super) fn set_lasting(&mut self) {
        self.lasting = true;
    }

    pub(super) fn is_lasting(&self) -> bool {
        self.lasting
    }

    pub(super) fn follow_by(&mut self, lane: LaneId) {
        self.successor = Some(lane);
    }

    pub(super) fn check(&self) {
        self.records.check();
        let is_member = matches!(self.company, Company::Member { .. });
        assert_eq!(self.state == State::InBatch, is_member, "{:?} with {:?}", self.state, self.company);
        let sends = matches!(self.state, State::Ready | State::Held | State::InFlight | State::InBatch);
        assert!(!sends || self.records.first().is_some(), "{:?} without a record in memory", self.state);
        assert!(self.state != State::Idle || self.records.first().is_none(), "a lane at rest has records");
        assert!(self.ids.first.is_some() || self.ids.behind.is_empty(), "ids behind a record that has none");
        if let Company::Carrier { batch, .. } = &self.company {
            assert!(batch.iter().map(|member| member.records).sum::<usize>() > 1, "a batch of one record");
        }
    }
}

/// From where a lane is admitted.
const ADMITTABLE: [State; 7] =
    [State::Woken, State::Ready, State::Held, State::AwaitsId, State::Backoff, State::InFlight, State::InBatch];

/// From where a lane can be told to wait for an older one.
const MOVABLE: [State; 8] = [
    State::Idle,
    State::Woken,
    State::Ready,
    State::Held,
    State::AwaitsId,
    State::AwaitsDurable,
    State::AwaitsLane,
    State::Backoff,
];

#[cfg(test)]
mod tests {
    use super::super::records::Behind;
    use super::*;
    use crate::ground::RecordNumber;
    use crate::journal::Position;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const STATES: [State; 10] = [
        State::Idle,
        State::Woken,
        State::Ready,
        State::Held,
        State::AwaitsId,
        State::AwaitsDurable,
        State::AwaitsLane,
        State::Backoff,
        State::InFlight,
        State::InBatch,
    ];

    fn lane_in(state: State) -> Lane {
        let mut lane = Lane::new(JournalId::OWN, LaneNumber(1));
        lane.state = state;
        if state == State::InBatch {
            lane.company = Company::Member { apart: 0 };
        }
        lane
    }

    /// The states in which a transition is legal, and that it leads to `to` from each.
    fn legal(transition: impl Fn(&mut Lane), to: State) -> Vec<State> {
        let leads = |state: &State| {
            let mut lane = lane_in(*state);
            let is_legal = catch_unwind(AssertUnwindSafe(|| transition(&mut lane))).is_ok();
            assert!(!is_legal || lane.state == to, "from {state:?}");
            assert!(is_legal || lane.state == *state, "what is refused changes nothing");
            is_legal
        };
        STATES.into_iter().filter(leads).collect()
    }

    #[test]
    fn each_transition_refuses_what_the_table_does_not_have() {
        let all_but = |left_out: &[State]| -> Vec<State> {
            STATES.into_iter().filter(|state| !left_out.contains(state)).collect()
        };
        let admittable = all_but(&[State::Idle, State::AwaitsDurable, State::AwaitsLane]);
        assert_eq!(legal(Lane::wake, State::Woken), [State::Idle, State::AwaitsDurable, State::AwaitsLane]);
        assert_eq!(legal(Lane::rest, State::Idle), admittable);
        assert_eq!(legal(Lane::list, State::Ready), admittable);
        assert_eq!(legal(Lane::hold, State::Held), admittable);
        assert_eq!(legal(Lane::await_id, State::AwaitsId), admittable);
        assert_eq!(legal(Lane::await_durable, State::AwaitsDurable), admittable);
        assert_eq!(legal(Lane::send, State::InFlight), [State::Ready]);
        assert_eq!(legal(Lane::join, State::InBatch), [State::Ready, State::InBatch]);
        assert_eq!(legal(Lane::back_off, State::Backoff), [State::Ready, State::InFlight]);
        let movable = all_but(&[State::InFlight, State::InBatch]);
        assert_eq!(legal(Lane::await_lane, State::AwaitsLane), movable);
    }

    #[test]
    fn a_lane_that_others_wait_for_waits_for_none() {
        let mut lane = lane_in(State::Backoff);
        lane.ask_for_all(true);
        assert!(catch_unwind(AssertUnwindSafe(|| lane.await_lane())).is_err());
        lane.ask_for_all(false);
        lane.carry(Batch::new());
        assert!(catch_unwind(AssertUnwindSafe(|| lane.await_lane())).is_err());
    }

    #[test]
    fn a_lane_that_leaves_a_batch_of_another_one_may_go_with_any_again() {
        let mut lane = lane_in(State::InBatch);
        lane.part_behind(2);
        lane.list();
        assert_eq!(*lane.company(), Company::Apart { records: 2 });
    }

    #[test]
    fn a_lane_sleeps_only_where_nothing_is_lost_with_it() {
        let behind = Behind { from: RecordNumber(7), at: Position::default() };
        let asleep = || {
            let mut lane = Lane::new(JournalId::OWN, LaneNumber(1));
            lane.records_mut().count_in(1);
            lane.records_mut().fall_behind(behind, false);
            lane
        };
        assert!(asleep().can_sleep());
        type Change = fn(&mut Lane);
        let changes: [(&str, Change); 9] = [
            ("somebody appends", Lane::count_appender),
            ("a source goes on with it", Lane::set_lasting),
            ("it is of what was parked", Lane::set_brought_back),
            ("another one waits for it", |lane| lane.follow_by(LaneId { index: 5, generation: 1 })),
            ("it asks for all", |lane| lane.ask_for_all(true)),
            ("its record was tried", |lane| lane.tries_mut().count()),
            ("its record has an id", |lane| lane.give_id("9".into(), None)),
            ("its records go apart", |lane| lane.go_alone()),
            ("it is on a list", |lane| lane.wake()),
        ];
        for (what, change) in changes {
            let mut lane = asleep();
            change(&mut lane);
            assert!(!lane.can_sleep(), "{what}");
        }
        assert!(!Lane::new(JournalId::OWN, LaneNumber(1)).can_sleep(), "no scan would find it");
    }
}
