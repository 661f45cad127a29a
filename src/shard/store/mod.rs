//! Every record between its journal and the answer that settles it: the journals, and the lanes
//! that keep their order.
//!
//! - `lane` is what keeps its order, a state machine; `records` what it has in memory; `company`
//!   with whom its first records go; `tries` what is known of their attempts. `lanes` are all of
//!   them.
//! - `asleep`: lanes behind the window that are not in memory.
//! - `backlog`: what lies behind the window comes back from a journal. `undurable`: when records
//!   became durable, to be measured.
//!
//! The store is the only writer of a lane. It sees neither a source nor an API. It knows senders by
//! their origins. Its list of woken lanes says which have something to send, its list of ended ones
//! which are gone.

mod asleep;
mod backlog;
mod company;
mod lane;
mod lanes;
mod records;
mod tries;
mod undurable;

pub(super) use crate::journal::Scarce;
pub(super) use backlog::BLOCKS_PER_TURN;
pub(super) use company::{Batch, Member};
pub(super) use lane::{Lane, State};
pub(super) use tries::Refusal;

use super::machines::Sender;
use super::timer::Timer;
use super::turn::Turn;
use super::{JournalId, LaneId, Now, Op};
use crate::config::Durability;
use crate::delivery::Step;
use crate::ground::count::Stage;
use crate::ground::{CoreId, LaneNumber, Moment, RecordFlags, RecordNumber};
use crate::journal::{
    self, Appended, BatchRoom, BlockFile, Claim, Full, Identity, Journal, KeyHashes, Known, Leased, Lies, NewRecord,
    Origin, OriginRef, RecordView, Refused, Room, Unparked,
};
use crate::observe::losses::{Acknowledged, LossNews};
use crate::observe::snapshot::JournalSnapshot;
use lanes::Lanes;
use records::{Behind, Seen, Waiting};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;
use undurable::Undurable;

/// A journal and what the store keeps beside it.
#[derive(Debug)]
struct Kept {
    id: JournalId,
    journal: Journal,
    /// Lanes that are in memory, by number; those of what was parked have the number of another one.
    awake: HashMap<LaneNumber, LaneId>,
    /// Lanes of records that were parked and are to be delivered after all, by number.
    retried: BTreeMap<RecordNumber, LaneId>,
    backlog: backlog::Backlog,
    /// Records of lanes that are gone or sleep, which the disk could not give back.
    unread: u64,
}

impl Kept {
    /// Who sent the records of an origin.
    fn sender(&self, at: OriginRef) -> Sender<'_> {
        Sender { journal: self.id, at, origin: self.journal.origin(at) }
    }
}

/// Journals and lanes.
#[derive(Debug)]
pub(super) struct Store {
    journals: Vec<Kept>,
    lanes: Lanes,
    /// Lanes that have something to send now, in the order in which that came about.
    woken: VecDeque<LaneId>,
    /// Lanes whose first record waits for durability, with its number.
    awaiting_durable: VecDeque<(RecordNumber, LaneId)>,
    /// Lanes that were told to wait for an older one, and may still be listed to be sent.
    recalled: Vec<LaneId>,
    /// Lanes that are gone.
    ended: Vec<LaneId>,
    /// Of this core's own journal, into which all new records go.
    undurable: Undurable,
    /// The machines' keys of adopted journals are in the own one.
    are_keys_adopted: bool,
    /// Lanes that nobody appends to and that wait for themselves, when they were last counted.
    apart: usize,
    counted_ns: u64,
    /// Turns since the last full walk of `check`.
    unchecked_turns: u32,
}

impl Store {
    /// The first journal is this core's own.
    pub fn new(journals: Vec<Journal>, durability: Durability) -> Self {
        assert!(!journals.is_empty());
        let kept = |(index, journal): (usize, Journal)| Kept {
            id: JournalId(index as u8),
            journal,
            awake: HashMap::new(),
            retried: BTreeMap::new(),
            backlog: backlog::Backlog::default(),
            unread: 0,
        };
        let mut journals: Vec<Kept> = journals.into_iter().enumerate().map(kept).collect();
        let (own, adopted) = journals.split_at_mut(1);
        own[0].journal.import_keys(adopted.iter().flat_map(|kept| kept.journal.found_keys()));
        Self {
            are_keys_adopted: adopted.is_empty(),
            journals,
            lanes: Lanes::default(),
            woken: VecDeque::new(),
            awaiting_durable: VecDeque::new(),
            recalled: Vec::new(),
            ended: Vec::new(),
            undurable: Undurable::new(durability),
            apart: 0,
            counted_ns: 0,
            unchecked_turns: 0,
        }
    }

    // ---- journals

    pub fn journal(&self, id: JournalId) -> &Journal {
        &self.journals[usize::from(id.0)].journal
    }

    fn journal_mut(&mut self, id: JournalId) -> &mut Journal {
        &mut self.journals[usize::from(id.0)].journal
    }

    /// The journal that takes new records.
    pub fn own(&self) -> &Journal {
        self.journal(JournalId::OWN)
    }

    /// Its journals.
    pub fn journal_ids(&self) -> impl Iterator<Item = JournalId> + use<> {
        (0..self.journals.len() as u8).map(JournalId)
    }

    /// Adopted journals first: what they hold of a source is older than what this core has
    /// journaled since it adopted them.
    pub fn oldest_first(&self) -> impl Iterator<Item = JournalId> + use<> {
        self.journal_ids().skip(1).chain([JournalId::OWN])
    }

    /// A journal's block memory, for commits.
    pub fn block_memory(&self, id: JournalId) -> &BlockFile {
        self.journal(id).memory()
    }

    /// Ends the store; what is not flushed is left to the next start.
    pub fn into_journals(self) -> Vec<Journal> {
        self.journals.into_iter().map(|kept| kept.journal).collect()
    }

    /// Whether intake may begin.
    pub fn is_ready(&self) -> bool {
        self.own().is_ready()
    }

    /// Whether nothing is left to be written or read.
    pub fn is_flushed(&self) -> bool {
        self.journals.iter().all(|kept| kept.journal.is_flushed() && !kept.backlog.is_reading())
    }

    /// Whether a disk refuses.
    pub fn is_in_trouble(&self) -> bool {
        self.journals.iter().any(|kept| kept.journal.is_in_trouble())
    }

    /// Entries of the own journal below this number are as durable as configured.
    pub fn durable_below(&self) -> RecordNumber {
        self.own().durable_below()
    }

    /// The end of a turn: marks, commits, segments. `waiting`: somebody waits for an answer that
    /// needs the open block on disk.
    pub fn end_turn(&mut self, turn: &mut Turn<'_>, waiting: bool, flush: bool) {
        let waiting = waiting || !self.awaiting_durable.is_empty();
        for (index, kept) in self.journals.iter_mut().enumerate() {
            let journal = JournalId(index as u8);
            let ops = &mut |op| turn.ops.push_back(Op::Journal { journal, op });
            if flush {
                kept.journal.flush(turn.now, ops);
            } else {
                kept.journal.turn(turn.now, waiting, ops);
            }
            kept.journal.take_counters(turn.counters);
        }
        if !self.are_keys_adopted && self.own().has_its_keys() {
            self.are_keys_adopted = true;
            self.journals.iter_mut().skip(1).for_each(|kept| kept.journal.forget_keys());
        }
    }

    /// When it has something to do though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        let journals = self.journals.iter();
        let deadlines = journals.flat_map(|kept| [kept.journal.deadline_ns(), kept.backlog.deadline_ns()]);
        deadlines.chain([self.rouse_ns()]).flatten().min()
    }

    /// An operation of a journal is over. Where a run of segments has moved, its lanes are behind
    /// from the new place on.
    pub fn handle_journal(&mut self, turn: &mut Turn<'_>, id: JournalId, completion: journal::Completion) {
        let is_commit = matches!(completion, journal::Completion::Committed { .. });
        let Kept { journal, backlog, .. } = &mut self.journals[usize::from(id.0)];
        if let Some(moved) = backlog.handle(turn.now, journal, completion) {
            for lane in backlog.listed() {
                self.lanes[*lane].records_mut().move_behind(|at| moved.position(at));
            }
            backlog.move_asleep(&moved);
        }
        if is_commit && id == JournalId::OWN {
            self.undurable.measure(turn.now, journal.durable_below(), turn.stages);
        }
    }

    // ---- intake

    /// Whether the journal keeps room for senders that cannot be held back.
    pub fn set_reserve(&mut self, is_kept: bool) {
        self.journal_mut(JournalId::OWN).set_reserve(is_kept);
    }

    /// Room for a record of up to `bytes`, the machine's own key included, if the journal takes one
    /// of such a sender now. Asked once a record.
    pub fn room_for(&mut self, now: Now, claim: Claim, bytes: usize) -> Option<Room> {
        self.journal_mut(JournalId::OWN).room_for(now, claim, bytes).ok()
    }

    /// As [`Store::room_for`].
    ///
    /// # Errors
    /// [`Full`], which says whether that passes.
    pub fn room_or_full(&mut self, now: Now, claim: Claim, bytes: usize) -> Result<Room, Full> {
        self.journal_mut(JournalId::OWN).room_for(now, claim, bytes)
    }

    /// What is left of this core's own journal, where that is little.
    pub fn scarcity(&self) -> Option<Scarce> {
        self.own().scarcity()
    }

    /// What is known of a machine's key.
    pub fn find_key(&mut self, now: Now, hashes: KeyHashes) -> Option<Known> {
        self.journal_mut(JournalId::OWN).find_key(now, hashes)
    }

    /// As [`Store::room_for`], right behind a record that was kept in the same call.
    pub fn room_behind(&mut self, now: Now, claim: Claim, bytes: usize) -> Option<Room> {
        self.journal_mut(JournalId::OWN).room_behind(now, claim, bytes).ok()
    }

    /// A new lane in this core's own journal. `needs_durable`: its records are delivered once they
    /// are durable.
    pub fn new_lane(&mut self, needs_durable: bool) -> LaneId {
        let journal = self.journal_mut(JournalId::OWN);
        let is_commit_awaited = journal.acknowledges_commits();
        let mut lane = Lane::new(JournalId::OWN, journal.new_lane());
        if needs_durable && is_commit_awaited {
            lane.set_needs_durable();
        }
        self.journals[0].insert_lane(&mut self.lanes, lane)
    }

    /// The lane that follows an older one of the same source, in this core's own journal.
    /// `needs_durable`: as for [`Store::new_lane`].
    pub fn continue_lane(&mut self, older: Option<LaneId>, needs_durable: bool) -> LaneId {
        let older = older.filter(|older| self.lanes.get(*older).is_some());
        match older {
            // A lane that an adopted journal holds cannot take new records: they go to this core's
            // own.
            Some(lane) if self.lanes[lane].journal() == JournalId::OWN => {
                if needs_durable && self.own().acknowledges_commits() {
                    self.lanes[lane].set_needs_durable();
                }
                lane
            }
            older => {
                let lane = self.new_lane(needs_durable);
                self.lanes.change_appenders(lane, Lane::set_lasting);
                self.chain(older, lane);
                lane
            }
        }
    }

    /// `lane` waits until `older` is empty.
    pub fn chain(&mut self, older: Option<LaneId>, lane: LaneId) {
        let is_other = |older: &LaneId| *older != lane && self.lanes.get(*older).is_some();
        let Some(mut last) = older.filter(is_other) else { return };
        if self.lanes[lane].state() == State::AwaitsLane {
            return; // it waits already, and a lane waits for one other
        }
        while let Some(next) = self.lanes[last].successor() {
            last = next;
        }
        let mut behind = Some(lane);
        while let Some(next) = behind {
            if next == last {
                return; // the older one waits for this one; a ring of lanes would wait for ever
            }
            behind = self.lanes[next].successor();
        }
        self.lanes[last].follow_by(lane);
        match self.lanes[lane].state() {
            State::Idle => {}
            State::AwaitsDurable => self.awaiting_durable.retain(|(_, other)| *other != lane),
            _ => self.recalled.push(lane),
        }
        self.lanes[lane].await_lane();
    }

    /// A new origin in a lane of this core's own journal.
    pub fn open_origin(&mut self, lane: LaneId, who: Identity) -> OriginRef {
        self.lanes.change_appenders(lane, Lane::count_appender);
        let number = self.lanes[lane].number();
        self.journal_mut(JournalId::OWN).open_origin(number, who)
    }

    /// Keeps a record in room that was made for it, counts it in, and gives it to its lane, or
    /// leaves it behind the window; its number.
    pub fn keep(
        &mut self,
        turn: &mut Turn<'_>,
        room: Room,
        lane: LaneId,
        record: NewRecord<'_>,
        first_byte_ns: u64,
    ) -> RecordNumber {
        let (origin, kept) = (record.origin, (RecordFlags(record.flags), record.data));
        let appended = self.journals[0].journal.append_in(turn.now, room, record);
        self.count_received(turn, origin, kept);
        self.take_in(turn, lane, (origin, appended), first_byte_ns)
    }

    /// As [`Store::keep`], of the records of a batch: all of them or none, whatever happens. The number of the last one.
    pub fn keep_batch(
        &mut self,
        turn: &mut Turn<'_>,
        room: BatchRoom,
        lane: LaneId,
        (records, hashes): (&[NewRecord<'_>], Option<&KeyHashes>),
        first_byte_ns: u64,
    ) -> Option<RecordNumber> {
        let appended = self.journals[0].journal.append_batch(turn.now, room, records, hashes);
        for record in records {
            self.count_received(turn, record.origin, (RecordFlags(record.flags), record.data));
        }
        let kept = records.iter().zip(appended);
        kept.map(|(record, appended)| self.take_in(turn, lane, (record.origin, appended), first_byte_ns)).last()
    }

    /// Whether a batch of records with so many bytes each can be kept at all.
    pub fn holds_batch(&self, records: impl Iterator<Item = usize>) -> bool {
        self.own().holds_batch(records)
    }

    /// Room for such a batch; its records are then to be kept at once.
    ///
    /// # Errors
    /// [`Full`], which says whether that passes.
    pub fn room_for_batch(
        &mut self,
        now: Now,
        claim: Claim,
        records: impl Iterator<Item = usize>,
    ) -> Result<BatchRoom, Full> {
        self.journal_mut(JournalId::OWN).room_for_batch(now, claim, records)
    }

    fn count_received(&self, turn: &mut Turn<'_>, origin: OriginRef, kept: (RecordFlags, &[u8])) {
        turn.machines.received(turn.now, self.journals[0].sender(origin), kept);
    }

    /// A record that was just journaled gets its place in its lane.
    fn take_in(
        &mut self,
        turn: &mut Turn<'_>,
        lane: LaneId,
        (origin, appended): (OriginRef, Appended),
        first_byte_ns: u64,
    ) -> RecordNumber {
        let now = turn.now;
        let may_rouse = self.may_rouse();
        let journal = &mut self.journals[0].journal;
        let Appended { number, at } = appended;
        turn.terms.received += 1;
        turn.terms.pending += 1;
        self.undurable.push(number, now.mono_ns);
        let place = &mut self.lanes[lane];
        debug_assert_eq!(place.journal(), JournalId::OWN);
        // The first record of a lane that may soon be left: there are enough of those in memory.
        let waits = place.records().is_new() && !place.is_lasting() && !may_rouse;
        let records = place.records_mut();
        records.count_in(1);
        if records.behind().is_some() {
            return number;
        }
        let fits = !waits && journal.has_window_room() && records.has_room(at.extent, journal.lane_extents_max());
        if journal.reads_back() && !fits {
            // A running scan has all new records before it.
            records.fall_behind(Behind { from: number, at: journal.position(at) }, false);
            self.journals[0].backlog.list(lane);
            return number;
        }
        journal.hold(at);
        records.push(Waiting { number, at, origin, seen: Some(Seen::new(first_byte_ns, now.mono_ns)) });
        if place.state() == State::Idle {
            self.wake(lane);
        }
        number
    }

    /// A link appends no more.
    pub fn leave_lane(&mut self, lane: LaneId, origin: OriginRef) {
        self.journal_mut(JournalId::OWN).close_origin(origin);
        self.lanes.change_appenders(lane, Lane::leave_appender);
        self.remove_if_done(lane);
    }

    // ---- lanes

    /// A lane that is there.
    pub fn lane(&self, id: LaneId) -> &Lane {
        &self.lanes[id]
    }

    /// A lane that is there, for what the delivery decides about it.
    pub fn lane_mut(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes[id]
    }

    /// A lane, unless its id is stale.
    pub fn find(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(id)
    }

    /// Whether a lane is there and in a state.
    pub fn is_in(&self, id: LaneId, state: State) -> bool {
        self.lanes.get(id).is_some_and(|lane| lane.state() == state)
    }

    /// All lanes that are in memory, by index.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes.iter()
    }

    /// How many are in memory.
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    fn wake(&mut self, lane: LaneId) {
        self.lanes[lane].wake();
        self.woken.push_back(lane);
    }

    /// The next lane that has something to send.
    pub fn pop_woken(&mut self) -> Option<LaneId> {
        self.woken.pop_front()
    }

    /// Lanes that were told to wait for another one though they were listed: they are to be taken
    /// off their lists.
    pub fn take_recalled(&mut self) -> Vec<LaneId> {
        std::mem::take(&mut self.recalled)
    }

    /// Lanes that are gone since this was last asked for.
    pub fn drain_ended(&mut self) -> std::vec::Drain<'_, LaneId> {
        self.ended.drain(..)
    }

    /// Whether it is of any use to look at [`Store::drain_ended`].
    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Wakes lanes whose first record has become durable.
    pub fn release_durable(&mut self) {
        if self.awaiting_durable.is_empty() {
            return;
        }
        let durable_below = self.durable_below();
        while let Some((_, lane)) = self.awaiting_durable.pop_front_if(|(number, _)| *number < durable_below) {
            if self.is_in(lane, State::AwaitsDurable) {
                self.wake(lane);
            }
        }
    }

    /// Entries below this number of a lane's journal may be delivered.
    pub fn sendable_below(&self, lane: LaneId) -> Option<RecordNumber> {
        self.lanes[lane].needs_durable().then(|| self.durable_below())
    }

    /// A lane may go on: the lane, if its first record may be sent now. If not, it waits for more records,
    /// for the disk, or for an older lane. One that was never sent begins at its first step, unless an
    /// earlier start has found its id.
    pub fn begin(&mut self, lane: LaneId, has_ids: bool) -> Option<&Lane> {
        let place = &mut self.lanes[lane];
        if place.state() == State::AwaitsLane {
            return None;
        }
        let Some(number) = place.records().first().map(|first| first.number) else {
            place.rest();
            if place.records().unread() > 0 {
                self.remove_if_done(lane); // nothing of it is left that can be read
            }
            return None;
        };
        let Self { journals, lanes, awaiting_durable, .. } = self;
        let place = &mut lanes[lane];
        if place.needs_durable() && number >= journals[0].journal.durable_below() {
            place.await_durable();
            awaiting_durable.push_back((number, lane));
            return None;
        }
        if place.tries().attempts() == 0 && place.ids().get(0).is_none() {
            let journal = &journals[usize::from(place.journal().0)].journal;
            let recovered = if has_ids { journal.recovered_id(number) } else { None };
            place.begin_step(if has_ids { Step::Id } else { Step::Record }, recovered);
        }
        Some(place)
    }

    /// A lane's first record is tried again later: when, in monotonic nanoseconds.
    pub fn back_off(&mut self, turn: &mut Turn<'_>, lane: LaneId, retry: (Duration, Duration)) -> u64 {
        let attempts = self.lanes[lane].tries().attempts().saturating_add(1);
        let wait_ns = turn.delay_ns(retry.0, retry.1, attempts).max(1_000_000);
        self.back_off_for(turn, lane, wait_ns)
    }

    /// As above, after this time in nanoseconds.
    pub fn back_off_for(&mut self, turn: &mut Turn<'_>, lane: LaneId, wait_ns: u64) -> u64 {
        let place = &mut self.lanes[lane];
        place.tries_mut().count();
        place.back_off();
        let until_ns = turn.now.mono_ns + wait_ns;
        turn.timers.set(until_ns, Timer::Lane(lane));
        until_ns
    }

    /// Records that wait and that the disk could not give back, as far as nothing else of their lanes waits.
    pub fn unread(&self) -> u64 {
        self.journals.iter().map(|kept| kept.unread).sum()
    }

    /// Removes a lane of which nothing is left, or which can sleep; the one that waits for it may go.
    /// It may be gone already.
    pub fn remove_if_done(&mut self, id: LaneId) {
        if self.lanes.get(id).is_none() {
            return;
        }
        if !self.lanes[id].is_done() {
            self.lull_if_idle(id);
            return;
        }
        let lane = self.forget_lane(id);
        self.journals[usize::from(lane.journal().0)].unread += lane.records().unread();
        self.ended.push(id);
        if let Some(next) = lane.successor() {
            self.wake(next);
        }
    }

    /// A lane is no longer in memory.
    fn forget_lane(&mut self, id: LaneId) -> Lane {
        let mut lane = self.lanes.remove(id);
        let kept = &mut self.journals[usize::from(lane.journal().0)];
        if lane.records_mut().forget_behind().is_some() {
            kept.backlog.unlist(id);
        }
        if !lane.is_brought_back() {
            kept.awake.remove(&lane.number());
        }
        assert!(lane.records().first().is_none());
        lane
    }

    // ---- records

    /// The record at a place of a lane, in memory, and who sent it.
    #[inline]
    pub fn record(&self, lane: &Lane, place: usize) -> (RecordView<'_>, &Origin) {
        let waiting = lane.records().get(place).expect("a record that is sent is in memory");
        let journal = self.journal(lane.journal());
        let record = journal.record(waiting.at);
        debug_assert_eq!(record.number, waiting.number);
        (record, journal.origin(waiting.origin))
    }

    /// Age in seconds of the oldest record in memory, of each source that has one. It looks at every
    /// lane.
    pub fn oldest_pending_s(&self, now: Now) -> BTreeMap<String, f64> {
        let mut oldest: HashMap<&str, u64> = HashMap::new();
        for (_, lane) in self.lanes.iter() {
            let Some(first) = lane.records().first() else { continue };
            let age_ns = match first.seen {
                Some(seen) => now.mono_ns.saturating_sub(seen.first_byte_ns()),
                // Of one that a start found only the wall clock knows.
                None => now.wall_ns.saturating_sub(self.record(lane, 0).0.payload.first_byte_wall_ns),
            };
            let source = self.journal(lane.journal()).origin(first.origin).who.source();
            let longest_ns = oldest.entry(source).or_default();
            *longest_ns = age_ns.max(*longest_ns);
        }
        oldest.into_iter().map(|(source, age_ns)| (source.to_owned(), age_ns as f64 / 1e9)).collect()
    }

    /// How many records wait in a lane. Of one that slept those of its first record's origin are
    /// counted, which mostly are all.
    pub fn pending_of(&self, lane: &Lane) -> u64 {
        match lane.records().first().filter(|_| lane.records().is_roused()) {
            Some(first) => self.journal(lane.journal()).pending_of(first.origin),
            None => lane.records().pending(),
        }
    }

    /// The core of a lane's journal, which is part of its records' keys.
    pub fn core_of(&self, lane: &Lane) -> CoreId {
        self.journal(lane.journal()).core()
    }

    /// The id that an earlier start wrote down for the record at a place of a lane.
    pub fn recovered_id(&self, lane: LaneId, place: usize) -> Option<&str> {
        let lane = &self.lanes[lane];
        let waiting = lane.records().get(place).expect("a record that needs an id is in memory");
        self.journal(lane.journal()).recovered_id(waiting.number)
    }

    /// Writes down the id of the record at a place of a lane, before it is used.
    ///
    /// # Errors
    /// [`Full`]: it must not be used.
    pub fn append_id(&mut self, now: Now, lane: LaneId, place: usize, id: &str) -> Result<(), Full> {
        let lane = &self.lanes[lane];
        let waiting = lane.records().get(place).expect("a record that gets an id is in memory");
        self.journals[usize::from(lane.journal().0)].journal.append_id(now, waiting.number, id)
    }

    /// So many of a lane's first records are delivered.
    pub fn settle(&mut self, turn: &mut Turn<'_>, lane: LaneId, records: usize) {
        let now = turn.now;
        let lane = &mut self.lanes[lane];
        let kept = &mut self.journals[usize::from(lane.journal().0)];
        for _ in 0..records {
            let since_ns = lane.tries().since().map_or(0, Moment::ns);
            let first = lane.next_record();
            match first.seen {
                // Only the wall clock knows, and the longest ways must not be left out.
                None => {
                    let received_ns = kept.journal.record(first.at).payload.first_byte_wall_ns;
                    turn.stages.record(Stage::Whole, now.wall_ns.saturating_sub(received_ns));
                }
                Some(seen) => {
                    turn.stages.record(Stage::Whole, now.mono_ns - seen.first_byte_ns());
                    turn.stages.record(Stage::Answered, now.mono_ns - since_ns.max(seen.journaled_ns()));
                }
            }
            turn.machines.delivered(now, kept.sender(first.origin));
            kept.journal.settle(first.number, first.origin, first.at);
            if !kept.retried.is_empty() {
                kept.retried.remove(&first.number); // mostly there are none
            }
            turn.terms.pending -= 1;
            turn.terms.delivered += 1;
        }
    }

    /// A lane's first record is kept aside: its number, and who sent it.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed.
    pub fn park(
        &mut self,
        turn: &mut Turn<'_>,
        lane: LaneId,
        refused: Refused<'_>,
    ) -> Result<(RecordNumber, Box<str>), Full> {
        let lane = &mut self.lanes[lane];
        let kept = &mut self.journals[usize::from(lane.journal().0)];
        let first = *lane.first();
        let name = kept.journal.origin(first.origin).who.name().into();
        let status = refused.status;
        kept.journal.park(turn.now, first.number, (first.origin, first.at), lane.ids().get(0), refused)?;
        turn.machines.parked(kept.sender(first.origin), status);
        kept.retried.remove(&first.number);
        lane.next_record();
        turn.terms.pending -= 1;
        turn.terms.parked += 1;
        Ok((first.number, name))
    }

    /// A parked record is deleted, if it is there.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed.
    pub fn discard(&mut self, turn: &mut Turn<'_>, id: JournalId, number: RecordNumber) -> Result<(), Full> {
        let kept = &mut self.journals[usize::from(id.0)];
        let Some(origin) = kept.journal.parked_record(number).map(|parked| parked.origin) else { return Ok(()) };
        let machine = turn.machines.find_of(kept.sender(origin)); // the origin may go with its last record
        if kept.journal.discard(turn.now, number)? {
            turn.machines.discarded(machine);
            turn.terms.parked -= 1;
            turn.terms.discarded += 1;
        }
        Ok(())
    }

    /// A parked record is to be delivered after all; `None` if it is not there. It goes to a lane
    /// by [`Store::bring_back`].
    ///
    /// # Errors
    /// [`Full`]: nothing was changed.
    pub fn unpark(&mut self, now: Now, id: JournalId, number: RecordNumber) -> Result<Option<Unparked>, Full> {
        self.journal_mut(id).unpark(now, number)
    }

    /// A parked record goes into a lane that is for such.
    pub fn bring_back(
        &mut self,
        turn: &mut Turn<'_>,
        id: JournalId,
        number: RecordNumber,
        Unparked { origin, at }: Unparked,
        lane: LaneId,
    ) {
        turn.terms.parked -= 1;
        turn.terms.pending += 1;
        let kept = &mut self.journals[usize::from(id.0)];
        turn.machines.brought_back(kept.sender(origin));
        kept.retried.insert(number, lane);
        let records = self.lanes[lane].records_mut();
        records.count_in(1);
        match at {
            Lies::Behind(at) => {
                if records.fall_behind_unless(Behind { from: number, at }) {
                    kept.backlog.list(lane);
                }
            }
            Lies::Held(at) => {
                records.push(Waiting { number, at, origin, seen: None });
                if self.lanes[lane].state() == State::Idle {
                    self.wake(lane);
                }
            }
        }
    }

    /// A lane for parked records of an origin that are brought back: their machine's later records
    /// do not wait for them.
    pub fn lane_to_bring_back(&mut self, id: JournalId, origin: OriginRef) -> LaneId {
        let mut lane = Lane::new(id, self.journal(id).origin(origin).lane);
        lane.set_brought_back();
        self.lanes.insert(lane)
    }

    /// Ids that the last run was given ahead and has left, of each journal.
    pub fn take_leased(&mut self) -> Vec<Leased> {
        self.journals.iter_mut().filter_map(|kept| kept.journal.take_leased()).collect()
    }

    /// A clean end: what is left of such ids is written down, in the own journal, and that nothing
    /// is in the others.
    pub fn leave_leased(&mut self, mut leased: Leased, is_leasing: bool) {
        for kept in &mut self.journals {
            let ids = std::mem::take(&mut leased.ids);
            kept.journal.leave_leased(Leased { origin: leased.origin, ids }, is_leasing);
        }
    }

    /// Writes down which ids a service gave ahead and are not used yet.
    ///
    /// # Errors
    /// [`Full`]: none of them must be used.
    pub fn append_leased(&mut self, now: Now, origin: u64, ids: impl Iterator<Item = Range<u64>>) -> Result<(), Full> {
        self.journal_mut(JournalId::OWN).append_leased(now, origin, ids)
    }

    // ---- what is missing

    /// An operator knows of losses, or records of them came back; how much that was. It is written
    /// down in the next turn.
    pub fn acknowledge_losses(&mut self, news: &LossNews) -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        self.journals.iter_mut().for_each(|kept| acknowledged.add(kept.journal.acknowledge_losses(news)));
        acknowledged
    }

    /// Whether an acknowledgement is not durable yet.
    pub fn is_acknowledging(&self) -> bool {
        self.journals.iter().any(|kept| kept.journal.is_acknowledging())
    }

    // ---- looking at it as a whole

    /// Adds what it is now.
    pub fn snapshot(&self, now: Now, pending: u64, into: &mut JournalSnapshot) {
        for kept in &self.journals {
            kept.journal.snapshot(now, into);
        }
        let in_memory: u64 = self.lanes.iter().map(|(_, lane)| lane.records().len() as u64).sum();
        into.behind = pending - in_memory;
    }

    /// What must be true at the end of a turn. With many lanes, or many records, all of them are
    /// looked at every 1,024th turn; whether they were.
    pub fn check(&mut self, pending: u64) -> bool {
        const LANES_MAX: usize = 1_000;
        const PENDING_MAX: u64 = 10_000;
        const TURNS: u32 = 1_024;
        self.unchecked_turns += 1;
        if (self.lanes.len() > LANES_MAX || pending > PENDING_MAX) && self.unchecked_turns < TURNS {
            return false;
        }
        self.unchecked_turns = 0;
        assert!(self.woken.is_empty() && self.recalled.is_empty(), "the delivery has heard of all");
        let awaiting: HashSet<LaneId> = self.awaiting_durable.iter().map(|(_, lane)| *lane).collect();
        assert_eq!(awaiting.len(), self.awaiting_durable.len(), "a lane waits once for the disk");
        let listed =
            |id: JournalId| self.journals[usize::from(id.0)].backlog.listed().iter().map(move |lane| (id, *lane));
        let mut behind: HashSet<(JournalId, LaneId)> = self.journal_ids().flat_map(listed).collect();
        assert_eq!(behind.len(), self.journal_ids().flat_map(listed).count(), "a lane is listed once as behind");
        let mut following = HashSet::new();
        for (id, lane) in self.lanes.iter() {
            lane.check();
            assert_ne!(lane.state(), State::Woken, "the delivery has heard of all");
            assert_eq!(lane.state() == State::AwaitsDurable, awaiting.contains(&id), "lanes that wait for the disk");
            assert!(!lane.is_done(), "a lane of which nothing is left is removed");
            let is_found = self.journals[usize::from(lane.journal().0)].awake.get(&lane.number()) == Some(&id);
            assert_eq!(is_found, !lane.is_brought_back(), "a lane is found by its number");
            assert_eq!(
                lane.records().behind().is_some(),
                behind.remove(&(lane.journal(), id)),
                "lanes that are behind"
            );
            if let Some(next) = lane.successor() {
                assert!(following.insert(next), "a lane waits for one other");
            }
        }
        let waits = self.lanes.iter().filter(|(_, lane)| lane.state() == State::AwaitsLane).map(|(id, _)| id);
        assert_eq!(waits.collect::<HashSet<LaneId>>(), following, "lanes that wait for an older one");
        assert!(behind.is_empty(), "lanes that are gone are not behind");
        self.check_pending(pending);
        true
    }
}
