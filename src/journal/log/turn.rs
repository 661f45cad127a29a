//! The end of a turn (marks, seals, commits, segments made and freed), and what the operations came to.

use super::{
    COMMITS_MAX, Journal, MARKS_PER_ENTRY, ORIGIN_ENTRY_BYTES_MAX, PROCESS_WRITE_AFTER_NS, Prepared, Purpose,
    RETRY_AFTER_NS, Write, describe,
};
use crate::config::Durability;
use crate::journal::format::{Kind, Position, SegmentHeader, entry_bytes};
use crate::shard::{Now, Op};
use std::collections::VecDeque;

impl Journal {
    /// Writes marks, seals what is due, and asks for commits, segments and frees. `waiting`: somebody waits for an
    /// acknowledgement that needs the open block on disk.
    pub fn turn(&mut self, now: Now, waiting: bool, ops: &mut VecDeque<Op>) {
        if !self.on_disk() {
            return;
        }
        self.write_marks(now);
        self.write_unnamed(now);
        self.free(now, ops);
        if self.is_seal_due(now, waiting) {
            self.seal();
        }
        self.submit_commits(now, ops);
        self.prepare(now, ops);
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
                place.copy_from_slice(&number.to_le_bytes());
            }
            self.write_entry(Kind::Delivered, 0, 0, &[&payload[..chunk.len() * 8]]);
            written += chunk.len();
        }
        self.marks = marks;
        self.marks.drain(..written);
    }

    /// After a start: origins that no segment names which is as new as their records.
    fn write_unnamed(&mut self, now: Now) {
        while let Some(id) = self.unnamed.last() {
            if let Some(&origin) = self.origin_ids.get(id) {
                if self.make_room(now, ORIGIN_ENTRY_BYTES_MAX, Purpose::Progress).is_err() {
                    return;
                }
                self.write_origin(origin);
            }
            self.unnamed.pop();
        }
    }

    pub(super) fn is_seal_due(&self, now: Now, waiting: bool) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.entries > 0) else { return false };
        let waits = waiting && self.options.durability == Durability::Power && self.in_flight.len() < COMMITS_MAX;
        waits || now.mono_ns >= open.opened_ns + self.write_after_ns()
    }

    pub(super) fn write_after_ns(&self) -> u64 {
        match self.options.durability {
            Durability::Power => self.options.commit_every_ns,
            _ => self.options.commit_every_ns.max(PROCESS_WRITE_AFTER_NS),
        }
    }

    pub(super) fn submit_commits(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if self.retry_commits_ns.is_some_and(|at| now.mono_ns >= at) {
            self.retry_commits_ns = None;
            for index in 0..self.in_flight.len() {
                if self.in_flight[index].state == Write::Failed {
                    self.in_flight[index].state = Write::Waiting;
                    ops.push_back(self.commit(index));
                }
            }
        }
        while self.retry_commits_ns.is_none() && self.in_flight.len() < COMMITS_MAX {
            let Some(block) = self.sealed.pop_front() else { break };
            self.in_flight.push_back(block);
            ops.push_back(self.commit(self.in_flight.len() - 1));
        }
    }

    pub(super) fn commit(&mut self, index: usize) -> Op {
        let block = &self.in_flight[index];
        self.counters.journal_writes += 1;
        self.counters.journal_bytes += u64::from(block.bytes);
        Op::Commit {
            journal: self.id,
            memory_offset: block.memory_offset,
            segment: block.at.segment,
            offset: block.at.offset,
            bytes: block.bytes,
            sync: self.options.durability == Durability::Power,
        }
    }

    pub(super) fn prepare(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if let Some(prepared) = &mut self.prepared {
            if prepared.retry_ns.is_none_or(|at| now.mono_ns < at) {
                return;
            }
            prepared.retry_ns = None;
        } else {
            let half_full = match self.segments.back() {
                Some(segment) if segment.number >= self.first_own_segment => {
                    segment.end > self.options.segment_bytes / 2
                }
                _ => true,
            };
            if !half_full {
                return;
            }
            let number = self.next_segment;
            self.next_segment += 1;
            self.prepared = Some(Prepared { number, nonce: self.rng.u64(..), ready: false, retry_ns: None });
        }
        let prepared = self.prepared.as_ref().expect("set above");
        let header = SegmentHeader {
            core: self.options.core,
            segment: prepared.number,
            nonce: prepared.nonce,
            bytes: u64::from(self.options.segment_bytes),
            physical: self.physical,
            epoch: self.epoch,
            epoch_id: self.epoch_id,
        };
        ops.push_back(Op::PrepareSegment {
            journal: self.id,
            segment: prepared.number,
            bytes: header.bytes,
            header: header.encode(),
            sync: self.options.durability == Durability::Power,
        });
    }

    /// Gives up the oldest segments once they are settled. Their marks may lie in one that is given up with them, and files are
    /// put aside in no order: so a block must first say, as safely as the level promises, where the log begins now.
    pub(super) fn free(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        let before = self.freeing.len();
        while self.segments.len() > 1 && self.unnamed.is_empty() {
            let oldest = &self.segments[0];
            let idle = oldest.unsettled == 0 && oldest.unwritten == 0 && oldest.reads == 0;
            if !idle || self.unsynced.contains(&oldest.number) {
                break;
            }
            if self.current.is_some_and(|current| self.extents[current as usize].segment == oldest.number) {
                break;
            }
            let oldest = self.segments.pop_front().expect("checked above");
            self.counters.journal_freed += 1;
            self.freeing.push_back(oldest.number);
        }
        if self.freeing.len() > before {
            self.beginning_said = None;
        }
        if self.freeing.is_empty() {
            return;
        }
        let said = match self.beginning_said {
            Some(number) => number,
            None => {
                self.seal(); // the next block's header names the oldest segment
                if self.make_room(now, entry_bytes(0), Purpose::Progress).is_err() {
                    return;
                }
                let (number, _) = self.write_entry(Kind::Delivered, 0, 0, &[]);
                *self.beginning_said.insert(number)
            }
        };
        if said < self.durable_below() {
            let journal = self.id;
            ops.extend(self.freeing.drain(..).map(|segment| Op::FreeSegment { journal, segment }));
        }
    }

    /// At level `process` the watermark moves only with a sync, and a full segment is a good moment for one.
    pub(super) fn sync(&mut self, ops: &mut VecDeque<Op>) {
        if self.syncing {
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
            self.syncing = true;
            ops.push_back(Op::SyncSegment { journal: self.id, segment });
            return;
        }
    }

    /// When [`Journal::turn`] has something to do though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.on_disk() {
            return None; // blocks go nowhere, so none is ever due
        }
        let seal =
            self.open.as_ref().filter(|open| open.entries > 0).map(|open| open.opened_ns + self.write_after_ns());
        let prepare = self.prepared.as_ref().and_then(|prepared| prepared.retry_ns);
        [seal, prepare, self.retry_commits_ns].into_iter().flatten().min()
    }

    /// A clean stop: everything that is in memory goes to disk. Done when [`Journal::is_flushed`].
    pub fn flush(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if self.on_disk() {
            self.write_marks(now);
            self.write_unnamed(now);
            self.free(now, ops);
            self.seal();
            self.submit_commits(now, ops);
            if !self.marks.is_empty() {
                self.prepare(now, ops); // the last marks need a segment of their own
            }
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        !self.on_disk()
            || self.marks.is_empty()
                && self.open.as_ref().is_none_or(|open| open.entries == 0)
                && self.sealed.is_empty()
                && self.in_flight.is_empty()
                && !self.syncing
                && self.prepared.as_ref().is_none_or(|prepared| prepared.ready || prepared.retry_ns.is_some())
    }

    /// A block was written, or not.
    pub fn handle_committed(&mut self, now: Now, at: Position, result: Result<(), i32>) {
        let block = self.in_flight.iter_mut().find(|block| block.at == at).expect("a commit that is in flight");
        assert_eq!(block.state, Write::Waiting);
        if let Err(errno) = result {
            block.state = Write::Failed;
            self.counters.journal_errors += 1;
            self.fail(format!("segment {} cannot be written: {}", at.segment, describe(errno)));
            self.retry_commits_ns = Some(now.mono_ns + RETRY_AFTER_NS);
            return;
        }
        block.state = Write::Done;
        let extent = block.extent;
        self.extents[extent as usize].unwritten -= 1;
        let segment = self.segments.iter_mut().find(|s| s.number == at.segment).expect("unwritten segments stay");
        segment.unwritten -= 1;
        while self.in_flight.front().is_some_and(|block| block.state == Write::Done) {
            let Some(block) = self.in_flight.pop_front() else { break };
            self.committed = block.end_number;
            if self.options.durability == Durability::Power {
                self.watermark = Position { segment: block.at.segment, offset: block.at.offset + block.bytes };
            }
        }
        if self.retry_commits_ns.is_none() && self.prepared.as_ref().is_none_or(|p| p.retry_ns.is_none()) {
            self.problem = None;
        }
        self.free_if_unused(extent);
    }

    /// A segment is ready, or not.
    pub fn handle_prepared(&mut self, now: Now, segment: u64, result: Result<(), i32>) {
        let Some(prepared) = self.prepared.as_mut().filter(|prepared| prepared.number == segment) else { return };
        match result {
            Ok(()) => {
                prepared.ready = true;
                if self.retry_commits_ns.is_none() {
                    self.problem = None;
                }
            }
            Err(errno) => {
                prepared.retry_ns = Some(now.mono_ns + RETRY_AFTER_NS);
                self.counters.journal_errors += 1;
                self.fail(format!("segment {segment} cannot be made: {}", describe(errno)));
            }
        }
    }

    /// A segment's writes are durable, or not.
    pub fn handle_synced(&mut self, segment: u64, result: Result<(), i32>) {
        self.syncing = false;
        self.unsynced.retain(|&other| other != segment);
        match result {
            Ok(()) => {
                if let Some(place) = self.segments.iter().find(|s| s.number == segment)
                    && !self.sync_failed
                {
                    self.watermark = self.watermark.max(place.end_position());
                }
            }
            Err(errno) => {
                self.sync_failed = true;
                self.counters.journal_errors += 1;
                self.fail(format!("segment {segment} cannot be synced: {}", describe(errno)));
            }
        }
    }

    pub(super) fn fail(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::error!("journal of core {}: {problem}", self.options.core);
            self.problem = Some(problem);
        }
    }
}
