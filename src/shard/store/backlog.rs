//! What lies behind the window comes back from the journal, in order, when there is room for it.
//!
//! A lane is *behind* from a record number on: nothing from there is in its queue, neither old nor
//! new. A scan walks the log and feeds lanes that have room; a lane that had none when the scan
//! passed waits for the next one. When a scan reaches the tail, the lanes that it never passed over
//! are no longer behind.

use super::lanes::Lanes;
use super::records::{Behind, Waiting};
use super::{Kept, State, Store};
use crate::ground::{JournalId, LaneId};
use crate::journal::{Completion, Found, Journal, Moved, Scan, Step};
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
    /// Lanes that are behind: hundreds of thousands, each of which leaves by itself.
    lanes: BTreeSet<LaneId>,
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
        at_once.or(self.scan.deadline_ns()).filter(|_| !self.lanes.is_empty())
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
    /// Starts where the first lane that has room is behind.
    fn start_scan(&mut self, lanes: &mut Lanes) -> bool {
        let extents_max = self.journal.lane_extents_max();
        let hungry = self.backlog.lanes.iter().filter_map(|lane| {
            let lane = &lanes[*lane];
            let records = lane.records();
            records.behind().filter(|_| records.is_hungry(extents_max) && !lane.is_stalled())
        });
        let Some(at) = hungry.map(|behind| behind.at).min() else { return false };
        for lane in &self.backlog.lanes {
            // The walk would find later records of a lane that is behind from before its start.
            lanes[*lane].records_mut().begin_scan(at);
        }
        self.journal.start_scan(&mut self.backlog.scan, at);
        self.backlog.running = true;
        true
    }

    /// Gives a record that was found to its lane, if it has room; the lane, if it was at rest.
    fn take_found(&mut self, lanes: &mut Lanes, found: Found) -> Option<LaneId> {
        let Found { number, origin, at } = found;
        let lane_id = self.retried.get(&number).copied().or_else(|| self.lane_of(origin))?;
        lanes.get(lane_id)?;
        let lane = &mut lanes[lane_id];
        let records = lane.records_mut();
        let behind = records.behind()?;
        if number < behind.from || records.is_skipped() {
            return None;
        }
        let position = self.journal.position(at);
        if !records.has_room(at.extent, self.journal.lane_extents_max()) {
            records.skip(Behind { from: number, at: position });
            return None;
        }
        self.journal.hold(at);
        records.catch_up(Behind { from: number.next(), at: position });
        records.push(Waiting { number, at, origin, seen: None });
        (lane.state() == State::Idle).then_some(lane_id)
    }

    /// The lanes that are no longer behind, where places could not be read.
    fn end_scan(&mut self, lanes: &mut Lanes) -> Vec<LaneId> {
        self.backlog.running = false;
        let may_miss = self.backlog.scan.has_given_up();
        let mut ended = Vec::new();
        self.backlog.lanes.retain(|lane| {
            let is_behind = lanes[*lane].records_mut().end_scan(may_miss);
            ended.extend((may_miss && !is_behind).then_some(*lane));
            is_behind
        });
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
            if records.fall_behind(Behind { from: first.number, at: self.journal.position(first.at) }) {
                self.backlog.lanes.insert(lane_id);
            }
            while let Some(waiting) = records.pop() {
                self.journal.release(waiting.at);
            }
        }
    }
}

impl Store {
    /// Reads one block back; `false` when there is nothing more to do in this turn. To be called up
    /// to [`BLOCKS_PER_TURN`] times a turn.
    pub fn read_back(&mut self, turn: &mut Turn<'_>, id: JournalId) -> bool {
        let Self { journals, lanes, .. } = self;
        let kept = &mut journals[usize::from(id.0)];
        if kept.backlog.lanes.is_empty() || !kept.backlog.running && !kept.start_scan(lanes) {
            return false;
        }
        let mut found = std::mem::take(&mut kept.backlog.found);
        let ops = &mut |op| turn.ops.push_back(Op::Journal { journal: id, op });
        let step = kept.journal.scan(turn.now, &mut kept.backlog.scan, &mut found, ops);
        for record in found.drain(..) {
            if let Some(lane) = kept.take_found(lanes, record) {
                lanes[lane].wake();
                self.woken.push_back(lane);
            }
        }
        kept.backlog.found = found;
        match step {
            Step::Block => true,
            Step::Wait => {
                kept.unload_stalled(turn.now, id, lanes);
                false
            }
            Step::Tail => {
                let ended = kept.end_scan(lanes);
                ended.into_iter().for_each(|lane| self.remove_if_done(lane));
                true
            }
        }
    }

    /// The turn's reading back is over.
    pub fn end_read_back(&mut self, id: JournalId, blocks: usize) {
        self.journals[usize::from(id.0)].backlog.unfinished = blocks == BLOCKS_PER_TURN;
    }
}
