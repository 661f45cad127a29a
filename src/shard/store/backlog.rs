//! What lies behind the window comes back from the journal, in order, when there is room for it.
//!
//! A lane is *behind* from a record number on: nothing from there is in its queue, neither old nor
//! new. A scan walks the log and feeds lanes that have room; a lane that had none when the scan
//! passed waits for the next one. When a scan reaches the tail, the lanes that it never passed over
//! are no longer behind.
//!
//! A lane *sleeps* where it is behind, nobody can come back to it, and nothing else is known of it:
//! there is no lane in memory (`asleep`). A scan never passes a record of one: it makes the lane
//! anew, or stops there until there is room for more lanes. So cost goes by the lanes in memory.

use super::asleep::LEFT_MAX;
use super::lanes::Lanes;
use super::records::{Behind, Waiting};
use super::{Kept, State, Store};
use crate::ground::{JournalId, LaneId};
use crate::journal::{Completion, Found, Journal, Moved, Position, Scan, Step};
use crate::shard::turn::Turn;
use crate::shard::{Now, Op};
use std::collections::BTreeSet;

/// Blocks looked at in one turn, so that reading back does not hold up the rest.
pub(in crate::shard) const BLOCKS_PER_TURN: usize = 16;
/// Stalled lanes give their memory back at most this often.
const UNLOAD_EVERY_NS: u64 = 100_000_000;

/// Reading back from one journal.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Lanes that are behind, each of which leaves by itself. Of those that slept only the ones that
    /// the scan has passed over.
    lanes: BTreeSet<LaneId>,
    /// No record of a lane that sleeps lies before this place; `None` where none sleeps. What the
    /// running scan has before it is not looked at.
    asleep_from: Option<Position>,
    /// Lanes may sleep whose records the running scan has before it.
    meets_sleepers: bool,
    /// The scan has met a record of a lane that sleeps, and had no room for more lanes.
    halted: Option<Position>,
    scan: Scan,
    running: bool,
    /// The last turn ended for its limit alone: the walk goes on in the next one, whatever happens.
    unfinished: bool,
    found: Vec<Found>,
    unloaded_ns: u64,
}

impl Backlog {
    pub fn deadline_ns(&self) -> Option<u64> {
        let at_once = self.unfinished.then_some(0);
        // Nobody walks for nobody: a deadline that is never met would keep the loop from sleeping.
        at_once.or(self.scan.deadline_ns()).filter(|_| self.is_wanted())
    }

    /// Whether there is anything to be brought back.
    fn is_wanted(&self) -> bool {
        !self.lanes.is_empty() || self.asleep_from.is_some() || self.running && self.meets_sleepers
    }

    /// Whether lanes sleep that no scan is about to meet.
    pub fn waits_for_lanes(&self) -> bool {
        !self.running && self.asleep_from.is_some()
    }

    /// Whether a scan is under way.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// A lane sleeps, whose records lie at this place or behind it; the running scan has not passed
    /// them.
    pub fn lull(&mut self, at: Position) {
        if self.running {
            self.meets_sleepers = true;
        } else {
            self.asleep_from = Some(self.asleep_from.map_or(at, |from| from.min(at)));
        }
    }

    /// The places from which scans go are now others.
    pub fn move_asleep(&mut self, moved: &Moved) {
        for at in [&mut self.asleep_from, &mut self.halted].into_iter().flatten() {
            *at = moved.position(*at);
        }
    }

    pub fn is_reading(&self) -> bool {
        self.scan.is_reading()
    }

    /// An operation of the journal is over; it may have been a read of this walk, or have moved
    /// what it walks along.
    pub fn handle(&mut self, now: Now, journal: &mut Journal, completion: Completion) -> Option<Moved> {
        journal.handle(now, &mut self.scan, completion)
    }

    /// A lane is behind now.
    pub fn list(&mut self, lane: LaneId) {
        self.lanes.insert(lane);
    }

    /// A lane that is gone is not behind.
    pub fn unlist(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
    }

    /// Lanes that are behind.
    pub fn listed(&self) -> &BTreeSet<LaneId> {
        &self.lanes
    }
}

impl Kept {
    /// Starts where the first lane that has room is behind, or the first one that sleeps, if there
    /// is room for more lanes.
    fn start_scan(&mut self, lanes: &mut Lanes, may_rouse: bool) -> bool {
        let extents_max = self.journal.lane_extents_max();
        let hungry = self.backlog.lanes.iter().filter_map(|lane| {
            let lane = &lanes[*lane];
            let records = lane.records();
            records.behind().filter(|_| records.is_hungry(extents_max) && !lane.is_stalled())
        });
        let hungry = hungry.map(|behind| behind.at).min();
        let at = match (hungry, self.backlog.asleep_from) {
            (hungry, None) => hungry,
            (hungry, Some(asleep)) if may_rouse => Some(hungry.map_or(asleep, |at| at.min(asleep))),
            // It would stop there.
            (hungry, Some(asleep)) => hungry.filter(|at| *at < asleep),
        };
        let Some(at) = at else { return false };
        for lane in &self.backlog.lanes {
            // The walk would find later records of a lane that is behind from before its start.
            lanes[*lane].records_mut().begin_scan(at);
        }
        self.journal.start_scan(&mut self.backlog.scan, at);
        self.backlog.running = true;
        self.backlog.meets_sleepers = self.backlog.asleep_from.take().is_some();
        true
    }

    /// Gives a record that was found to its lane, if it has room; the lane, if it was at rest.
    fn take_found(&mut self, id: JournalId, lanes: &mut Lanes, found: Found, may_rouse: bool) -> Option<LaneId> {
        let Found { number, origin, at } = found;
        let position = self.journal.position(at);
        let lane_id = match self.retried.get(&number) {
            Some(lane) => *lane,
            None => match self.awake.get(&self.journal.origin(origin).lane) {
                Some(lane) => *lane,
                None if may_rouse && self.backlog.halted.is_none() => self.rouse(id, lanes, origin),
                None => {
                    self.backlog.halted.get_or_insert(position);
                    return None;
                }
            },
        };
        lanes.get(lane_id)?;
        let lane = &mut lanes[lane_id];
        let records = lane.records_mut();
        if !records.wants(number) {
            return None;
        }
        if !records.has_room(at.extent, self.journal.lane_extents_max()) {
            if records.skip(Behind { from: number, at: position }) {
                self.backlog.lanes.insert(lane_id);
            }
            return None;
        }
        self.journal.hold(at);
        records.catch_up(Behind { from: number.next(), at: position });
        records.push(Waiting { number, at, origin, seen: None });
        (lane.state() == State::Idle).then_some(lane_id)
    }

    /// The scan is over: lanes that are no longer behind, and those that are and may sleep.
    fn end_scan(&mut self, lanes: &mut Lanes) -> Vec<LaneId> {
        self.backlog.running = false;
        let may_miss = self.backlog.scan.has_given_up();
        let mut ended = Vec::new();
        self.backlog.lanes.retain(|lane| {
            let is_behind = lanes[*lane].records_mut().end_scan(may_miss);
            let may_go = may_miss && !is_behind || is_behind && lanes[*lane].can_sleep();
            ended.extend(may_go.then_some(*lane));
            is_behind
        });
        self.account(lanes, may_miss);
        ended
    }

    /// A scan has come to the end of the log: what waits is in lanes, or cannot be read.
    fn account(&mut self, lanes: &Lanes, may_miss: bool) {
        // Of a lane that slept nobody knows what lies behind.
        let is_uncounted = |lane: &LaneId| lanes[*lane].records().is_roused();
        let may_sleep = self.backlog.asleep_from.is_some() || self.backlog.lanes.iter().any(is_uncounted);
        if may_sleep || !may_miss && !cfg!(debug_assertions) {
            return;
        }
        let lanes = lanes.iter().map(|(_, lane)| lane).filter(|lane| lane.journal() == self.id);
        let counted: u64 = lanes.map(|lane| lane.records().pending()).sum();
        let missing = self.journal.pending() - counted;
        assert!(may_miss || missing == self.unread, "a scan has passed {missing} records of lanes that sleep");
        self.unread = missing;
    }

    /// The scan stops where a lane sleeps that there is no room for; those that may sleep.
    fn halt_scan(&mut self, lanes: &mut Lanes, at: Position) -> Vec<LaneId> {
        self.backlog.running = false;
        self.backlog.asleep_from = Some(at);
        // It holds no memory while it waits.
        self.journal.start_scan(&mut self.backlog.scan, at);
        let mut ended = Vec::new();
        for lane in &self.backlog.lanes {
            lanes[*lane].records_mut().halt_scan(at);
            ended.extend(lanes[*lane].can_sleep().then_some(*lane));
        }
        ended
    }

    /// The window is full and others wait: lanes that cannot send now give back what they hold; it
    /// is read back later. One that waits for an older lane must, too: that one may be among the
    /// others.
    fn unload_stalled(&mut self, now: Now, id: JournalId, lanes: &mut Lanes) {
        if now.mono_ns < self.backlog.unloaded_ns + UNLOAD_EVERY_NS || !self.journal.is_window_tight() {
            return;
        }
        self.backlog.unloaded_ns = now.mono_ns;
        for (lane_id, lane) in lanes.iter_mut() {
            // Others may wait for the one that asks for ids.
            let stalled = lane.is_stalled() && lane.journal() == id && !lane.asks_for_all();
            let Some(first) = lane.records().first().copied().filter(|_| stalled) else { continue };
            let records = lane.records_mut();
            // The running scan is past it, or will not feed a stalled lane twice.
            if records.fall_behind(Behind { from: first.number, at: self.journal.position(first.at) }, true) {
                self.backlog.lanes.insert(lane_id);
            }
            while let Some(waiting) = records.unload() {
                self.journal.release(waiting.at);
            }
        }
    }
}

impl Store {
    /// Reads one block back; `false` when there is nothing more to do in this turn. To be called up
    /// to [`BLOCKS_PER_TURN`] times a turn.
    pub fn read_back(&mut self, turn: &mut Turn<'_>, id: JournalId) -> bool {
        if !self.journals[usize::from(id.0)].backlog.is_wanted() {
            return false;
        }
        self.count_apart(turn.now);
        let may_start = self.has_room_to_rouse();
        let Self { journals, lanes, .. } = self;
        let kept = &mut journals[usize::from(id.0)];
        if !kept.backlog.running && !kept.start_scan(lanes, may_start) {
            return false;
        }
        let mut found = std::mem::take(&mut kept.backlog.found);
        let ops = &mut |op| turn.ops.push_back(Op::Journal { journal: id, op });
        let step = kept.journal.scan(turn.now, &mut kept.backlog.scan, &mut found, ops);
        for record in found.drain(..) {
            let may_rouse = lanes.left() < LEFT_MAX + self.apart;
            if let Some(lane) = kept.take_found(id, lanes, record, may_rouse) {
                lanes[lane].wake();
                self.woken.push_back(lane);
            }
        }
        kept.backlog.found = found;
        let (ended, goes_on) = match (kept.backlog.halted.take(), step) {
            (Some(at), _) => (kept.halt_scan(lanes, at), false),
            (None, Step::Block) => return true,
            (None, Step::Wait) => {
                kept.unload_stalled(turn.now, id, lanes);
                return false;
            }
            (None, Step::Tail) => (kept.end_scan(lanes), true),
        };
        ended.into_iter().for_each(|lane| self.remove_if_done(lane));
        goes_on
    }

    /// The turn's reading back is over.
    pub fn end_read_back(&mut self, id: JournalId, blocks: usize) {
        self.journals[usize::from(id.0)].backlog.unfinished = blocks == BLOCKS_PER_TURN;
    }
}
