//! Lanes that sleep: behind the window, left by whoever appended to them, and not in memory. What
//! remains of one is its origins in the journal, which say who sent how many records that wait.
//!
//! A lane falls asleep once nothing is known of it but that it is behind. A scan that meets its next
//! record makes it anew, as long as there are not too many: it is *roused*. Such a lane does not know
//! what lies behind it, and is gone with its last record in memory: if there are more, it sleeps.
//!
//! A lane that a source, an address or a SOURCE goes on with never sleeps: it is *lasting*.

use super::lane::{Lane, State};
use super::lanes::Lanes;
use super::records::Behind;
use super::{Kept, Store};
use crate::ground::{JournalId, LaneId, LaneNumber, Now, RecordNumber};
use crate::journal::{Identity, OriginRef};
use crate::shard::turn::Turn;
use std::collections::{BTreeMap, HashSet};

/// Lanes that nobody appends to any more and that are in memory at the same time; those that wait for
/// themselves come on top. A few in debug builds, so that tests meet more.
pub(super) const LEFT_MAX: usize = if cfg!(debug_assertions) { 8 } else { 4_096 };
/// Those are counted at most this often.
const COUNT_EVERY_NS: u64 = 100_000_000;

impl Kept {
    /// Makes the lane of an origin, of which a record was found.
    pub(super) fn rouse(&mut self, id: JournalId, lanes: &mut Lanes, origin: OriginRef) -> LaneId {
        let mut lane = Lane::roused(id, self.journal.origin(origin).lane);
        // Nobody knows any more whether somebody was promised that it is delivered later.
        if id == JournalId::OWN && self.journal.acknowledges_commits() {
            lane.set_needs_durable();
        }
        self.insert_lane(lanes, lane)
    }

    /// A lane that its origins are to find.
    pub(super) fn insert_lane(&mut self, lanes: &mut Lanes, lane: Lane) -> LaneId {
        let number = lane.number();
        let lane = lanes.insert(lane);
        let before = self.awake.insert(number, lane);
        debug_assert!(before.is_none(), "lane {number} is there once");
        lane
    }
}

impl Store {
    /// Takes over a journal's recovered records. Makes the lanes of those that are `wanted`, since a
    /// source goes on with them, and lets the others sleep; who sent each of the former, in the order
    /// of their origins.
    pub fn adopt(
        &mut self,
        turn: &mut Turn<'_>,
        id: JournalId,
        wanted: impl Fn(&Identity) -> bool,
    ) -> Vec<(Identity, LaneId)> {
        let kept = &mut self.journals[usize::from(id.0)];
        let report = kept.journal.report();
        turn.terms.recovered += report.recovered;
        turn.terms.parked += report.parked;
        turn.terms.pending += report.recovered - report.parked;
        for (at, origin, pending) in kept.journal.origins() {
            let parked = origin.parked();
            if pending + parked > 0 {
                turn.machines.recovered(kept.sender(at), pending, parked);
            }
        }
        let waiting = || {
            kept.journal.origins().filter(|(.., pending)| *pending > 0).map(|(_, origin, pending)| (origin, pending))
        };
        let numbers: HashSet<LaneNumber> =
            waiting().filter(|(origin, _)| wanted(&origin.who)).map(|(origin, _)| origin.lane).collect();
        let of_wanted = waiting().filter(|(origin, _)| numbers.contains(&origin.lane));
        let origins: Vec<_> = of_wanted.map(|(origin, pending)| (origin.lane, origin.who.clone(), pending)).collect();
        let oldest = kept.journal.oldest();
        if waiting().any(|(origin, _)| !numbers.contains(&origin.lane)) {
            kept.backlog.lull(oldest);
        }
        let mut named = Vec::with_capacity(origins.len());
        for (number, who, pending) in origins {
            let lane = match self.journals[usize::from(id.0)].awake.get(&number) {
                Some(lane) => *lane,
                None => self.make_behind(id, number),
            };
            self.lanes[lane].records_mut().count_in(pending);
            named.push((who, lane));
        }
        named
    }

    /// A lasting lane, all of whose records are behind the window.
    fn make_behind(&mut self, id: JournalId, number: LaneNumber) -> LaneId {
        let kept = &mut self.journals[usize::from(id.0)];
        let mut lane = Lane::new(id, number);
        lane.set_lasting();
        lane.records_mut().fall_behind_unless(Behind { from: RecordNumber(0), at: kept.journal.oldest() });
        let lane = kept.insert_lane(&mut self.lanes, lane);
        kept.backlog.list(lane);
        lane
    }

    /// What a journal holds of a configured source that is to go on with it: the number of each lane,
    /// who sent it, the lane, which lasts from now on. It looks at every origin.
    pub fn lanes_of(&mut self, id: JournalId, source: &str) -> Vec<(LaneNumber, Identity, LaneId)> {
        let kept = &self.journals[usize::from(id.0)];
        let origins =
            kept.journal.origins().filter(|(_, origin, pending)| *pending > 0 && origin.who.source() == source);
        let origins: Vec<_> = origins.map(|(_, origin, pending)| (origin.lane, origin.who.clone(), pending)).collect();
        let mut pending: BTreeMap<LaneNumber, u64> = BTreeMap::new();
        for (number, _, records) in &origins {
            *pending.entry(*number).or_default() += records;
        }
        // What was parked and is delivered after all has a lane of its own, and may be all that is
        // left of an origin.
        for (_, lane) in self.lanes.iter().filter(|(_, lane)| lane.is_brought_back() && lane.journal() == id) {
            if let Some(records) = pending.get_mut(&lane.number()) {
                *records -= lane.records().pending().min(*records);
            }
        }
        let pending = pending.into_iter().filter(|(_, records)| *records > 0);
        let lanes: BTreeMap<LaneNumber, LaneId> =
            pending.map(|(number, records)| (number, self.make_last(id, number, records))).collect();
        origins.into_iter().filter_map(|(number, who, _)| Some((number, who, *lanes.get(&number)?))).collect()
    }

    /// The lane of a number, in which so many records wait; it does not sleep any more.
    fn make_last(&mut self, id: JournalId, number: LaneNumber, pending: u64) -> LaneId {
        let Some(lane) = self.journals[usize::from(id.0)].awake.get(&number).copied() else {
            let lane = self.make_behind(id, number);
            self.lanes[lane].records_mut().count_in(pending);
            return lane;
        };
        self.lanes.change_appenders(lane, Lane::set_lasting);
        if self.lanes[lane].records().is_roused() {
            let kept = &mut self.journals[usize::from(id.0)];
            if self.lanes[lane].records_mut().count_again(pending, |at| kept.journal.position(at)) {
                kept.backlog.list(lane);
            }
        }
        lane
    }

    /// A lane that can be found again by its next record is not kept in memory; whether it sleeps.
    pub(super) fn lull_if_idle(&mut self, id: LaneId) -> bool {
        let lane = &self.lanes[id];
        let backlog = &mut self.journals[usize::from(lane.journal().0)].backlog;
        // One that the running scan has passed over would be met at a later record.
        if !lane.can_sleep() || backlog.is_running() && lane.records().is_skipped() {
            return false;
        }
        let behind = lane.records().behind().expect("a lane that sleeps is behind");
        backlog.lull(behind.at);
        self.forget_lane(id);
        true
    }

    /// Counts, at most every 100 ms, the lanes that nobody appends to and that back off, or are empty
    /// and may not sleep: each waits for itself, and must not keep others from being made.
    pub(super) fn count_apart(&mut self, now: Now) {
        let may_matter = self.apart > 0 || self.lanes.left() > LEFT_MAX / 2;
        if may_matter && now.mono_ns >= self.counted_ns + COUNT_EVERY_NS {
            self.counted_ns = now.mono_ns;
            let is_apart = |lane: &Lane| lane.is_left() && matches!(lane.state(), State::Backoff | State::Idle);
            self.apart = self.lanes.iter().filter(|(_, lane)| is_apart(lane)).count();
        }
    }

    /// Whether another lane may be made that nobody appends to.
    pub(super) fn may_rouse(&self) -> bool {
        self.lanes.left() < LEFT_MAX + self.apart
    }

    /// Whether so many lanes may be made that a scan is worth its start.
    pub(super) fn has_room_to_rouse(&self) -> bool {
        self.lanes.left() <= LEFT_MAX / 2 + self.apart
    }

    /// When a lane that sleeps is next looked for though nothing happens.
    pub(super) fn rouse_ns(&self) -> Option<u64> {
        let waits = self.journals.iter().any(|kept| kept.backlog.waits_for_lanes());
        let at_ns = if self.has_room_to_rouse() { 0 } else { self.counted_ns + COUNT_EVERY_NS };
        waits.then_some(at_ns)
    }

    /// Asserts that what waits is in lanes, or sleeps.
    pub(super) fn check_pending(&self, pending: u64) {
        let left = self.lanes.iter().filter(|(_, lane)| lane.is_left()).count();
        assert_eq!(left, self.lanes.left(), "lanes that nobody appends to");
        let mut all = 0;
        for kept in &self.journals {
            let (waiting, backlog) = (kept.journal.pending(), &kept.backlog);
            let lanes = self.lanes.iter().map(|(_, lane)| lane).filter(|lane| lane.journal() == kept.id);
            let (mut counted, mut roused) = (0, false);
            for lane in lanes {
                counted += lane.records().pending();
                roused |= lane.records().is_roused();
            }
            let may_sleep = backlog.waits_for_lanes() || backlog.is_running() || roused;
            // What could not be read may be found after all.
            let is_counted =
                if may_sleep { kept.unread > 0 || counted <= waiting } else { counted + kept.unread == waiting };
            assert!(is_counted, "of {waiting} records that wait, {counted} are in lanes, {} unread", kept.unread);
            all += waiting;
        }
        assert_eq!(all, pending, "pending is the sum over journals");
    }
}
