//! What lies behind the window comes back from the journal, in order, when there is room for it.
//!
//! A lane is *behind* from a record number on: nothing from there is in its queue, neither old nor new. A scan walks the log
//! and feeds lanes that have room; a lane that had none when the scan passed waits for the next one. When a scan reaches the
//! tail, the lanes that it never passed over are no longer behind.

use super::lane::{Doing, Waiting};
use super::{JournalId, Now, Op, Shard};
use crate::ground::RecordNumber;
use crate::journal::{Found, Location, Moved, Scan, Step};

/// Blocks looked at in one turn, so that reading back does not hold up the rest.
const BLOCKS_PER_TURN: usize = 16;
/// Stalled lanes give their memory back at most this often.
const UNLOAD_EVERY_NS: u64 = 100_000_000;

/// Reading back from one journal.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Lanes that are behind.
    pub lanes: Vec<u32>,
    pub scan: Scan,
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
}

impl Shard {
    pub(super) fn advance_backlog(&mut self, now: Now) {
        for index in 0..self.journals.len() {
            let more =
                |shard: &mut Self| !shard.journals[index].backlog.lanes.is_empty() && shard.advance_scan(now, index);
            self.journals[index].backlog.unfinished = (0..BLOCKS_PER_TURN).all(|_| more(self));
        }
    }

    /// One step; `false` when there is nothing more to do in this turn.
    fn advance_scan(&mut self, now: Now, index: usize) -> bool {
        if !self.journals[index].backlog.running && !self.start_scan(index) {
            return false;
        }
        let state = &mut self.journals[index];
        let mut found = std::mem::take(&mut state.backlog.found);
        let journal = JournalId(index as u8);
        let ops = &mut |op| self.ops.push_back(Op::Journal { journal, op });
        let step = state.journal.scan(now, &mut state.backlog.scan, &mut found, ops);
        for record in found.drain(..) {
            self.take_found(index, record);
        }
        self.journals[index].backlog.found = found;
        match step {
            Step::Block => true,
            Step::Wait => {
                self.unload_stalled(now, index);
                false
            }
            Step::Tail => {
                self.end_scan(index);
                true
            }
        }
    }

    /// Starts where the first lane that has room is behind.
    fn start_scan(&mut self, index: usize) -> bool {
        let state = &mut self.journals[index];
        let extents_max = state.journal.lane_extents_max();
        let lanes = &mut self.lanes;
        let hungry = state.backlog.lanes.iter().filter_map(|lane| {
            let lane = &lanes[*lane as usize];
            lane.behind.filter(|_| lane.is_hungry(extents_max) && !lane.is_stalled())
        });
        let Some(at) = hungry.map(|(_, at)| at).min() else { return false };
        for lane in &state.backlog.lanes {
            let lane = &mut lanes[*lane as usize];
            // The walk would find later records of a lane that is behind from before its start.
            lane.skipped = lane.behind.is_some_and(|(_, position)| position < at);
        }
        state.journal.start_scan(&mut state.backlog.scan, at);
        state.backlog.running = true;
        true
    }

    fn take_found(&mut self, index: usize, found: Found) {
        let state = &mut self.journals[index];
        let retried = state.retried.get(&found.number);
        let Some(&lane_index) = retried.or_else(|| state.origin_lanes.get(found.origin.0 as usize)) else { return };
        let lane = &mut self.lanes[lane_index as usize];
        let Some((from, _)) = lane.behind else { return };
        if found.number < from || lane.skipped {
            return;
        }
        let position = state.journal.position(found.at);
        if !lane.has_room(found.at.extent, state.journal.lane_extents_max()) {
            lane.skipped = true;
            lane.behind = Some((found.number, position));
            return;
        }
        state.journal.hold(found.at);
        lane.behind = Some((found.number.next(), position));
        let (number, at, origin) = (found.number, found.at, found.origin);
        lane.push(Waiting { number, at, origin, first_byte_ns: 0, journaled_ns: 0 });
        if lane.doing == Doing::Idle {
            self.make_ready(lane_index);
        }
    }

    fn end_scan(&mut self, index: usize) {
        let state = &mut self.journals[index];
        state.backlog.running = false;
        let lanes = &mut self.lanes;
        state.backlog.lanes.retain(|lane| {
            let lane = &mut lanes[*lane as usize];
            if !lane.skipped {
                lane.behind = None;
            }
            lane.skipped
        });
    }

    /// The window is full and others wait: lanes that cannot send now give back what they hold; it is read back later. One that waits
    /// for an older lane must, too: that one may be among the others.
    fn unload_stalled(&mut self, now: Now, index: usize) {
        let state = &mut self.journals[index];
        if now.mono_ns < state.backlog.unloaded_ns + UNLOAD_EVERY_NS || !state.journal.is_window_tight() {
            return;
        }
        state.backlog.unloaded_ns = now.mono_ns;
        for (lane_index, lane) in &mut self.lanes {
            // Others may wait for the one that asks for ids.
            let asks = self.leases.is_carrier(lane_index as u32, lane.generation);
            let stalled = lane.is_stalled() && usize::from(lane.journal.0) == index && !asks;
            let Some(first) = lane.queue.front().filter(|_| stalled) else { continue };
            if lane.behind.is_none() {
                state.backlog.lanes.push(lane_index as u32);
            }
            lane.behind = Some((first.number, state.journal.position(first.at)));
            // The running scan is past it, or will not feed a stalled lane twice.
            lane.skipped = true;
            while let Some(waiting) = lane.pop() {
                state.journal.release(waiting.at);
            }
        }
    }

    /// A run of a journal's segments has moved: lanes that are behind there are behind from the new place on.
    pub(super) fn follow_moved(&mut self, journal: JournalId, moved: Moved) {
        for lane in &self.journals[usize::from(journal.0)].backlog.lanes {
            if let Some((_, at)) = &mut self.lanes[*lane as usize].behind {
                *at = moved.position(*at);
            }
        }
    }

    /// A lane is behind from a new record on.
    pub(super) fn set_behind(&mut self, lane_index: u32, number: RecordNumber, at: Location) {
        let lane = &mut self.lanes[lane_index as usize];
        let state = &mut self.journals[lane.journal.0 as usize];
        lane.behind = Some((number, state.journal.position(at)));
        // A running scan may be past this place already.
        lane.skipped = true;
        state.backlog.lanes.push(lane_index);
    }

    /// A lane that is gone is not behind.
    pub(super) fn forget_behind(&mut self, lane_index: u32) {
        let lane = &mut self.lanes[lane_index as usize];
        if lane.behind.take().is_some() {
            self.journals[lane.journal.0 as usize].backlog.lanes.retain(|other| *other != lane_index);
        }
    }
}
