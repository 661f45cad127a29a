//! The end of a turn (marks, seals, commits, segments made and freed), and what the operations came to.

use super::trouble::Trouble;
use super::{
    COMMITS_MAX, GivenUp, Journal, MARKS_PER_ENTRY, Moved, NO_LANE, PROCESS_WRITE_AFTER_NS, Purpose, RETRY_AFTER_NS,
    Scan, Write,
};
use crate::config::Durability;
use crate::ground::{Now, SegmentNumber};
use crate::journal::format::{BLOCK_HEADER_BYTES, BlockHeader, Kind, Position, entry_bytes};
use crate::journal::op::{Completion, Op, Ops};
use crate::journal::segment::Segment;
use std::ops::RangeInclusive;

impl Journal {
    /// Writes marks, seals what is due, and asks for commits, segments and frees. `waiting`: somebody waits for an
    /// acknowledgement that needs the open block on disk.
    pub fn turn(&mut self, now: Now, waiting: bool, ops: &mut Ops<'_>) {
        if !self.on_disk() {
            return;
        }
        self.age_taken_over(now);
        self.define_moved_origins(now);
        self.write_marks(now);
        self.free(now, ops);
        self.rewrite(now, ops);
        if self.is_seal_due(now, waiting) {
            self.seal();
        }
        self.submit_commits(now, ops);
        self.prepare(now, true, ops);
        self.sync(ops);
    }

    pub(super) fn write_marks(&mut self, now: Now) {
        let marks = std::mem::take(&mut self.marks);
        let mut written = 0;
        for chunk in marks.chunks(MARKS_PER_ENTRY) {
            if self.make_room(now, entry_bytes(chunk.len() * 8), Purpose::Progress).is_err() {
                break; // they stay in memory until there is room: a kill before that means duplicates, not loss
            }
            let mut payload = [0; MARKS_PER_ENTRY * 8];
            for (place, number) in payload.chunks_exact_mut(8).zip(chunk) {
                place.copy_from_slice(&number.0.to_le_bytes());
            }
            self.write_entry(Kind::Delivered, 0, NO_LANE, &[&payload[..chunk.len() * 8]]);
            written += chunk.len();
        }
        self.marks = marks;
        self.marks.drain(..written);
    }

    pub(super) fn is_seal_due(&self, now: Now, waiting: bool) -> bool {
        let Some(due) = self.seal_deadline_ns() else { return false };
        let waits = waiting && self.options.durability == Durability::Power && self.in_flight.len() < COMMITS_MAX;
        waits || now.mono_ns >= due
    }

    /// When the open block is to be written though it is not full.
    fn seal_deadline_ns(&self) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| open.entries > 0)?;
        // It could not be written yet: what still comes goes into the same block.
        let can_write =
            !self.must_move && self.retry_commits_ns.is_none() && self.is_file_ready(open.header.at.segment);
        can_write.then(|| open.opened_ns + self.write_after_ns())
    }

    pub(super) fn write_after_ns(&self) -> u64 {
        match self.options.durability {
            // Without intake nobody waits for the disk, and the room that is left may have to last.
            Durability::Power if !self.troubles.stop_intake() => self.options.commit_every_ns,
            _ => self.options.commit_every_ns.max(PROCESS_WRITE_AFTER_NS),
        }
    }

    pub(super) fn submit_commits(&mut self, now: Now, ops: &mut Ops<'_>) {
        self.move_if_due(now);
        if self.must_move || self.retry_commits_ns.is_some_and(|at| now.mono_ns < at) {
            return;
        }
        self.retry_commits_ns = None;
        while self.in_flight.len() < COMMITS_MAX {
            let ready = self.sealed.front().is_some_and(|block| self.is_file_ready(block.at.segment));
            let Some(block) = self.sealed.pop_front_if(|_| ready) else { break };
            self.in_flight.push_back(block);
            ops(self.commit(self.in_flight.len() - 1));
        }
    }

    pub(super) fn commit(&mut self, index: usize) -> Op {
        let block = &self.in_flight[index];
        self.counters.journal_writes += 1;
        self.counters.journal_bytes += u64::from(block.bytes);
        Op::Commit {
            memory_offset: block.memory_offset,
            segment: block.at.segment,
            offset: block.at.offset,
            bytes: block.bytes,
            sync: self.options.durability == Durability::Power,
        }
    }

    /// Gives up the oldest segments once they are settled. Their marks may lie in one that is given up with them, and files are
    /// put aside in no order: so a block must first say, as safely as the level promises, where the log begins now.
    pub(super) fn free(&mut self, now: Now, ops: &mut Ops<'_>) {
        // A sync that was asked for before is waited for.
        let syncing = self.syncing;
        self.freeing_replaced.iter().for_each(|freed| self.forget_blocks(freed.segment..=freed.segment));
        let dropped = self.dropped.extract_if(.., |dropped| Some(dropped.segment) != syncing);
        dropped.chain(self.freeing_replaced.drain(..)).map(GivenUp::op).for_each(&mut *ops);
        let before = self.freeing.len();
        while self.segments.len() > 1 {
            let oldest = &self.segments[0];
            let idle = oldest.unsettled == 0 && oldest.unwritten == 0 && oldest.reads == 0;
            let needed = self.unsynced.contains(&oldest.number)
                || self.syncing == Some(oldest.number)
                || self.is_kept_for_move(oldest.number)
                || self.rewriting.holds(oldest.number);
            if !idle || needed || !self.is_file_ready(oldest.number) {
                break;
            }
            if self.current.is_some_and(|current| self.extents[current as usize].segment == oldest.number) {
                break;
            }
            let oldest = self.segments.pop_front().expect("checked above");
            self.rewriting.forget(oldest.number);
            self.counters.journal_freed += 1;
            self.freeing.push_back(GivenUp::of(&oldest));
        }
        if self.freeing.len() > before {
            self.beginning_said = None;
        }
        if self.freeing.is_empty() {
            return;
        }
        if self.troubles.stop_intake() && self.options.durability == Durability::Power {
            // Nothing can be said before there is room again, and this is what makes room. One after the other, so that marks are
            // not given up before what they settle.
            let first = self.freeing[0].segment;
            let waits = self.freed_alone.is_some() || self.retry_free_ns.is_some_and(|at| now.mono_ns < at);
            if !waits && !self.extents.iter().any(|e| e.segment == first && e.held > 0) {
                // With it goes what said that older ones are gone.
                self.forget_blocks(SegmentNumber(0)..=first);
                self.retry_free_ns = None;
                self.freed_alone = self.freeing.pop_front();
                self.freed_alone.map(GivenUp::op).into_iter().for_each(&mut *ops);
            }
            return;
        }
        let said = match self.beginning_said {
            Some(number) => number,
            None => {
                self.seal(); // the next block's header names the oldest segment
                if self.make_room(now, entry_bytes(0), Purpose::Progress).is_err() {
                    return;
                }
                let (number, _) = self.write_entry(Kind::Delivered, 0, NO_LANE, &[]);
                *self.beginning_said.insert(number)
            }
        };
        if said < self.durable_below() {
            self.retry_free_ns = None;
            self.freeing.drain(..).map(GivenUp::op).for_each(ops);
        }
    }

    /// Segments are given up without a word: what the block file still has of them must not pass for some whose files are to
    /// come. All of it is on disk, or was freed.
    fn forget_blocks(&self, segments: RangeInclusive<SegmentNumber>) {
        for slot in 0..self.slots {
            let start = self.memory_offset(slot);
            for at in (start..start + self.options.block_bytes as usize).step_by(self.physical as usize) {
                let found = BlockHeader::decode(self.memory.bytes(at..at + BLOCK_HEADER_BYTES));
                if found.is_some_and(|(header, _)| segments.contains(&header.at.segment)) {
                    self.memory.write(at, &[0; BLOCK_HEADER_BYTES]);
                }
            }
        }
    }

    /// At level `process` the watermark moves only with a sync, and a full segment is a good moment for one.
    pub(super) fn sync(&mut self, ops: &mut Ops<'_>) {
        if self.syncing.is_some() {
            return;
        }
        while let Some(&segment) = self.unsynced.front() {
            let Some(place) = self.segments.iter().find(|s| s.number == segment) else {
                self.unsynced.pop_front();
                continue;
            };
            if place.unwritten > 0 {
                return;
            }
            self.syncing = Some(segment);
            ops(Op::SyncSegment { segment });
            return;
        }
    }

    /// When [`Journal::turn`] has something to do though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.on_disk() {
            return None; // blocks go nowhere, so none is ever due
        }
        let seal = self.seal_deadline_ns();
        let (prepare, look) = (self.prepare_deadline_ns(), self.look_for_run_ns());
        [seal, prepare, look, self.retry_commits_ns, self.retry_free_ns].into_iter().flatten().min()
    }

    /// A clean stop: everything that is in memory goes to disk. Done when [`Journal::is_flushed`].
    pub fn flush(&mut self, now: Now, ops: &mut Ops<'_>) {
        if self.on_disk() {
            self.define_moved_origins(now);
            self.write_left_leased(now);
            self.write_marks(now);
            self.free(now, ops);
            self.end_rewrite(ops);
            self.seal();
            self.submit_commits(now, ops);
            self.prepare(now, false, ops);
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        !self.on_disk()
            || self.marks.is_empty()
                && self.left_leased.is_none()
                && self.open.as_ref().is_none_or(|open| open.entries == 0)
                && self.sealed.is_empty()
                && self.in_flight.is_empty()
                && self.syncing.is_none()
                && !self.must_move
                && !self.rewriting.is_under_way()
                && !self.is_preparing()
    }

    /// An operation is over. `scan` is the walk of this journal. Where the records of a run of segments moved, all places in it are to
    /// be forgotten: [`Moved`] tells.
    pub fn handle(&mut self, now: Now, scan: &mut Scan, completion: Completion) -> Option<Moved> {
        match completion {
            Completion::Committed { segment, offset, result } => {
                self.handle_committed(now, Position { segment, offset }, result);
            }
            Completion::SegmentPrepared { segment, result } => self.handle_prepared(now, segment, result),
            Completion::SegmentSynced { segment, result } => self.handle_synced(segment, result),
            Completion::SegmentFreed { segment, result } => self.handle_freed(now, segment, result),
            Completion::Rewrite { work, result, .. } => return self.handle_rewrite(now, scan, work, result),
            Completion::ReadBack { segment, offset, buffer, result } => {
                self.handle_read_back(now, scan, Position { segment, offset }, buffer, result);
            }
        }
        None
    }

    /// A block was written, or not.
    pub(super) fn handle_committed(&mut self, now: Now, at: Position, result: Result<(), i32>) {
        let block = self.in_flight.iter_mut().find(|block| block.at == at).expect("a commit that is in flight");
        assert_eq!(block.state, Write::Waiting);
        if let Err(errno) = result {
            block.state = Write::Failed;
            self.handle_failed_commit(now, at.segment, errno);
            return;
        }
        block.state = Write::Done;
        let mut popped = false;
        while let Some(block) = self.in_flight.pop_front_if(|block| block.state == Write::Done) {
            popped = true;
            self.committed = block.end_number;
            if self.options.durability == Durability::Power {
                self.watermark = Position { segment: block.at.segment, offset: block.at.offset + block.bytes };
            }
            let place = self.segments.iter_mut().find(|s| s.number == block.at.segment);
            let segment = place.expect("unwritten segments stay");
            segment.unwritten -= 1;
            // Not before all blocks in front of it are on disk: should one of them have to move, this one moves, too.
            self.extents[block.extent as usize].unwritten -= 1;
            self.free_if_unused(block.extent);
        }
        if popped && !self.must_move {
            self.heal(Trouble::Write);
        }
    }

    /// A segment's writes are durable, or not.
    pub(super) fn handle_synced(&mut self, segment: SegmentNumber, result: Result<(), i32>) {
        self.syncing = None;
        if let Err(errno) = result {
            return self.handle_failed_sync(segment, errno);
        }
        self.unsynced.retain(|&other| other != segment);
        // What a failed segment may have lost no later sync makes safe.
        let is_unsafe = |other: &Segment| other.number <= segment && (other.closed || other.failed);
        if let Some(place) = self.segments.iter().find(|s| s.number == segment)
            && !self.segments.iter().any(is_unsafe)
        {
            self.watermark = self.watermark.max(place.end_position());
        }
        self.heal(Trouble::Sync);
    }

    /// A segment's file was put aside, or not. Mostly it does not matter: blocks say where the log begins. Where none could say so,
    /// the file is still part of the log, and with the next one its marks would go, and a hole be left behind it.
    pub(super) fn handle_freed(&mut self, now: Now, segment: SegmentNumber, result: Result<(), i32>) {
        let Some(freed) = self.freed_alone.take_if(|freed| freed.segment == segment) else { return };
        if result.is_err_and(|errno| errno != libc::ENOENT) {
            self.freeing.push_front(freed);
            self.retry_free_ns = Some(now.mono_ns + RETRY_AFTER_NS);
        }
    }
}
