//! The journal's turn (marks, seals, commits, segments made and freed), what its operations came
//! to, and what must hold after it.

use super::format::{BLOCK_HEADER_BYTES, KEY_PREFIX_BYTES, Kind, Position, entry_bytes};
use super::keys::KEY_HASHES_BYTES;
use super::ledger::ORIGIN_ENTRY_BYTES_MAX;
use super::log::Journal;
use super::moving::Moving;
use super::recovery::{Missing, Refusal, Unwritten};
use super::rewriting::{Done, Moved, Rewriting, Said};
use super::scan::{ReadBack, Scan};
use super::trouble::Trouble;
use super::unfinished::Sealed;
use super::window::Location;
use super::writer::Block;
use super::{Completion, NO_LANE, Ops, Purpose, RETRY_AFTER_NS, Rewrite};
use crate::ground::{Now, RecordNumber, SegmentNumber};
use std::ops::Range;

/// Most numbers in one delivered entry.
const MARKS_PER_ENTRY: usize = 512;
/// Most keys in one entry, ...
const KEYS_PER_ENTRY: usize = 512;
/// ... and most that are said again in one turn.
const KEYS_PER_TURN: usize = 4_096;
/// At level `process` a block that is not full is written after this; nobody waits for it.
const PROCESS_WRITE_AFTER_NS: u64 = 1_000_000_000;
/// Blocks that the kernel has not taken for so long are told.
const AGAIN_TOLD_AFTER_NS: u64 = 3_000_000_000;
/// A journal with more origins, extents or segments than these is not checked in each turn ...
const CHECKED_MAX: usize = 1_000;
/// ... but in one of so many.
const CHECK_EVERY: u32 = 1_024;

/// Errnos after which a block is simply written again.
fn is_passing(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::EINTR | libc::ECANCELED)
}

/// Whether a segment must stay though nothing in it waits.
fn needed(
    moving: &Moving,
    rewriting: &Rewriting,
    filled: Option<SegmentNumber>,
    said: &[SegmentNumber],
) -> impl Fn(SegmentNumber) -> bool {
    move |segment| {
        moving.keeps(segment) || rewriting.holds(segment) || filled == Some(segment) || said.contains(&segment)
    }
}

impl Journal {
    /// Writes marks, seals what is due, and asks for commits, segments and frees. `waiting`:
    /// somebody waits for an acknowledgement that needs the open block on disk.
    pub fn turn(&mut self, now: Now, waiting: bool, ops: &mut Ops<'_>) {
        if self.on_disk() {
            self.writer.age_taken_over(now);
            self.define_moved_origins(now);
            self.write_losses(now);
            self.write_marks(now);
            self.say_keys_again(now);
            self.free(now, ops);
            self.rewrite(now, ops);
            if self.is_seal_due(now, waiting) {
                self.seal();
            }
            self.submit_commits(now, ops);
            self.segments.prepare(now, true, ops);
            self.segments.sync(ops);
        }
        self.check_turn();
    }

    /// A clean stop: everything that is in memory goes to disk. Done when [`Journal::is_flushed`].
    pub fn flush(&mut self, now: Now, ops: &mut Ops<'_>) {
        if self.on_disk() {
            self.define_moved_origins(now);
            self.write_left_leased(now);
            self.write_losses(now);
            self.write_marks(now);
            self.free(now, ops);
            self.rewriting.end(ops);
            self.seal();
            self.submit_commits(now, ops);
            self.segments.prepare(now, false, ops);
        }
        self.check_turn();
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        !self.on_disk()
            || self.ledger.is_written()
                && self.writer.is_idle()
                && !self.segments.is_syncing()
                && !self.moving.is_due()
                && !self.rewriting.is_under_way()
                && !self.segments.is_preparing()
    }

    /// When [`Journal::turn`] has something to do though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.on_disk() {
            return None; // blocks go nowhere, so none is ever due
        }
        let (prepare, look) = (self.segments.prepare_deadline_ns(), self.rewriting.look_ns(&self.segments));
        let (commit, free) = (self.writer.retry_ns(), self.segments.free_deadline_ns());
        [self.seal_deadline_ns(), prepare, look, commit, free].into_iter().flatten().min()
    }

    // ---- parts of a turn

    fn write_marks(&mut self, now: Now) {
        let (mut written, mut payload) = (0, Vec::new());
        while written < self.ledger.marks().len() {
            let count = (self.ledger.marks().len() - written).min(MARKS_PER_ENTRY);
            if self.make_room(now, entry_bytes(count * 8), Purpose::Progress).is_err() {
                break; // they stay in memory until there is room: a kill before that means duplicates, not loss
            }
            payload.clear();
            payload.reserve_exact(count * 8);
            for number in &self.ledger.marks()[written..written + count] {
                payload.extend_from_slice(&number.0.to_le_bytes());
            }
            self.writer.write_entry(&self.window, Kind::Delivered, 0, NO_LANE, &[&payload]);
            written += count;
        }
        self.ledger.marks_written(written);
    }

    /// Before the oldest segment is given up, what it says of machines' keys is said again.
    ///
    /// While that alone would keep it, it may stay: the log is as long as what is said again, twice,
    /// so that a key is written no more often than it is worth.
    fn say_keys_again(&mut self, now: Now) {
        let Some(floor) = self.keys.floor() else { return };
        if !self.keys.is_saying() {
            let below = match self.keys.has_unsaid() {
                true => floor.next(),
                false => {
                    let behind = self.segments.first_behind_oldest().filter(|behind| floor < *behind);
                    let Some(behind) = behind.filter(|_| self.is_oldest_kept_by_keys_alone()) else { return };
                    behind
                }
            };
            self.keys.expire(now);
            self.keys.say_again(below);
        }
        let room = self.options.block_bytes as usize - BLOCK_HEADER_BYTES - entry_bytes(KEY_PREFIX_BYTES);
        let max = (room / KEY_HASHES_BYTES).min(KEYS_PER_ENTRY);
        let (mut payload, mut said) = (Vec::new(), 0);
        while said < KEYS_PER_TURN {
            let count = self.keys.next_again(max, &mut payload);
            if count == 0 || self.make_room(now, entry_bytes(payload.len()), Purpose::Progress).is_err() {
                break;
            }
            let (number, _) = self.writer.write_entry(&self.window, Kind::Key, 0, NO_LANE, &[&payload]);
            self.keys.said_again(count, number);
            said += count;
        }
    }

    fn is_oldest_kept_by_keys_alone(&self) -> bool {
        let said = self.segments_of_losses();
        let needed = needed(&self.moving, &self.rewriting, self.filled_segment(), &said);
        let is_long = self.segments.is_tight() || self.segments.bytes_behind_oldest() > 2 * self.keys.bytes();
        is_long && self.segments.is_oldest_settled(needed)
    }

    fn filled_segment(&self) -> Option<SegmentNumber> {
        self.window.current().map(|current| self.window.extent(current).segment)
    }

    /// The segments that hold the losses which count.
    fn segments_of_losses(&self) -> Vec<SegmentNumber> {
        let holder = |number| self.segments.holder(number).map(|holder| holder.number);
        self.ledger.losses.said().filter_map(holder).collect()
    }

    fn is_seal_due(&self, now: Now, waiting: bool) -> bool {
        let Some(due) = self.seal_deadline_ns() else { return false };
        let waits = waiting && self.writer.acknowledges_commits() && self.writer.may_commit();
        waits || now.mono_ns >= due
    }

    /// When the open block is to be written though it is not full.
    fn seal_deadline_ns(&self) -> Option<u64> {
        if self.moving.is_due() {
            return None; // it could not be written yet: what still comes goes into the same block
        }
        self.writer.seal_deadline_ns(&self.segments, self.write_after_ns())
    }

    fn write_after_ns(&self) -> u64 {
        // Without intake nobody waits for the disk, and the room that is left may have to last.
        match self.writer.acknowledges_commits() && !self.troubles.stop_intake() {
            true => self.options.commit_every_ns,
            false => self.options.commit_every_ns.max(PROCESS_WRITE_AFTER_NS),
        }
    }

    fn submit_commits(&mut self, now: Now, ops: &mut Ops<'_>) {
        if self.writer.is_held_back(now) {
            return;
        }
        if self.moving.is_due() && !self.writer.is_writing() {
            self.move_blocks(now);
        }
        if !self.moving.is_due() {
            self.writer.commit(&self.segments, &mut self.counters, ops);
        }
    }

    fn move_blocks(&mut self, now: Now) {
        let Self { window, writer, segments, moving, options, .. } = self;
        let lost = moving.carry_out(now, options.durability, window, writer, segments);
        if lost > 0 {
            self.counters.journal_unsafe_records += lost;
            tracing::error!(
                "journal of core {}: {lost} records that wait to be delivered are no longer in memory as a whole, and a loss of \
                 power may take them",
                self.options.core
            );
        }
    }

    /// Defines the origins of moved records again, as far as there is room.
    fn define_moved_origins(&mut self, now: Now) {
        while let Some(id) = self.moving.next_origin() {
            if let Some(origin) = self.ledger.origin_of(id) {
                if self.make_room(now, ORIGIN_ENTRY_BYTES_MAX, Purpose::Progress).is_err() {
                    break;
                }
                self.define_origin(origin);
            }
            self.moving.origin_defined(self.writer.next_number());
        }
        self.moving.forget_committed(self.writer.committed());
    }

    /// Gives up the oldest segments once they are settled. Their marks may lie in one that is given
    /// up with them, and files are put aside in no order: so a block must first say, as safely as
    /// the level promises, where the log begins now.
    fn free(&mut self, now: Now, ops: &mut Ops<'_>) {
        for segment in self.segments.freeing().replaced() {
            self.window.forget_blocks(segment..=segment);
        }
        self.segments.free_at_once(ops);
        // What was said again of keys must be on disk before a block names another beginning.
        if self.keys.is_said_below(self.writer.committed()) {
            let (filled, said) = (self.filled_segment(), self.segments_of_losses());
            let Self { segments, moving, rewriting, keys, .. } = self;
            let needed = needed(moving, rewriting, filled, &said);
            self.counters.journal_freed += segments.give_up_settled(needed, keys.floor());
        }
        let Some(first) = self.segments.freeing().first_settled() else { return };
        if self.troubles.stop_intake() && self.writer.acknowledges_commits() {
            // Nothing can be said before there is room again, and this is what makes room. One
            // after the other, so that marks are not given up before what they settle.
            if !self.segments.freeing().is_held_back(now) && !self.window.holds_of(first) {
                // With it goes what said that older ones are gone.
                self.window.forget_blocks(SegmentNumber(0)..=first);
                self.segments.freeing().free_alone(ops);
            }
            return;
        }
        if self.say_beginning(now).is_some_and(|said| said < self.durable_below()) {
            self.segments.freeing().free_settled(ops);
        }
    }

    /// Sees to it that a block says where the log begins now; the entry from which on blocks do.
    fn say_beginning(&mut self, now: Now) -> Option<RecordNumber> {
        if let Some(said) = self.segments.freeing().beginning_said() {
            return Some(said);
        }
        self.seal(); // the next block's header names the oldest segment
        self.make_room(now, entry_bytes(0), Purpose::Progress).ok()?;
        let (number, _) = self.writer.write_entry(&self.window, Kind::Delivered, 0, NO_LANE, &[]);
        self.segments.freeing().say_beginning(number);
        Some(number)
    }

    fn rewrite(&mut self, now: Now, ops: &mut Ops<'_>) {
        let are_keys_said = self.keys.is_said_below(self.writer.committed());
        let Self { segments, moving, rewriting, ledger, keys, .. } = self;
        // What is said again elsewhere is not copied, so that must be on disk before.
        let stays = |segment| moving.keeps(segment) || !are_keys_said;
        rewriting.turn(now, segments, Said { ledger, keys }, stays, ops);
    }

    // ---- completions

    /// An operation is over. `scan` is the walk of this journal. Where the records of a run of
    /// segments moved, all places in it are to be forgotten: [`Moved`] tells.
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
    fn handle_committed(&mut self, now: Now, at: Position, result: Result<(), i32>) {
        if let Err(errno) = result {
            if is_passing(errno) {
                return self.put_off_commit(now, at, errno);
            }
            self.writer.commit_failed(at);
            return self.handle_failed_commit(now, at.segment, errno);
        }
        let advanced = self.writer.committed_block(at, &mut self.window, &mut self.segments);
        self.troubles.heal(Trouble::Again);
        if advanced && !self.moving.is_due() {
            self.troubles.heal(Trouble::Write);
        }
    }

    /// The kernel did not take a block: nothing of it is lost, and it is tried again, at longer and
    /// longer intervals.
    fn put_off_commit(&mut self, now: Now, at: Position, errno: i32) {
        self.counters.journal_again += 1;
        let since_ns = self.writer.put_off(now, at);
        if now.mono_ns - since_ns >= AGAIN_TOLD_AFTER_NS && !self.troubles.has(Trouble::Again) {
            self.troubles.fail(Trouble::Again, at.segment, errno);
        }
    }

    /// A block was not written.
    fn handle_failed_commit(&mut self, now: Now, segment: SegmentNumber, errno: i32) {
        if self.troubles.has(Trouble::Write) && !self.moving.is_due() {
            self.writer.hold_back(now.mono_ns + RETRY_AFTER_NS);
        }
        self.moving.demand();
        self.counters.journal_sealed += u64::from(self.segments.fail(segment));
        self.troubles.fail(Trouble::Write, segment, errno);
    }

    /// A segment is ready, or not.
    fn handle_prepared(&mut self, now: Now, segment: SegmentNumber, result: Result<(), i32>) {
        self.segments.prepared(now, segment, result.is_ok());
        match result {
            Ok(()) => self.troubles.heal(Trouble::Make),
            // One that is not needed yet is tried again, and keeps nothing out.
            Err(_) if self.segments.is_next_ready() => self.troubles.count_error(),
            Err(errno) => self.troubles.fail(Trouble::Make, segment, errno),
        }
    }

    /// A segment's writes are durable, or not.
    fn handle_synced(&mut self, segment: SegmentNumber, result: Result<(), i32>) {
        self.segments.end_sync();
        if let Err(errno) = result {
            return self.handle_failed_sync(segment, errno);
        }
        if let Some(durable) = self.segments.synced(segment) {
            self.writer.raise_watermark(durable);
        }
        self.troubles.heal(Trouble::Sync);
    }

    /// A segment's writes may be lost though they completed.
    fn handle_failed_sync(&mut self, segment: SegmentNumber, errno: i32) {
        self.moving.demand();
        self.segments.fail(segment);
        self.counters.journal_sealed += u64::from(self.segments.find(segment).is_some());
        self.troubles.fail(Trouble::Sync, segment, errno);
    }

    /// A segment's file was put aside, or not. Mostly it does not matter: blocks say where the log
    /// begins. Where none could say so, the file is still part of the log, and with the next one
    /// its marks would go, and a hole be left behind it.
    fn handle_freed(&mut self, now: Now, segment: SegmentNumber, result: Result<(), i32>) {
        let is_there = result.is_err_and(|errno| errno != libc::ENOENT);
        self.segments.freeing().freed(segment, is_there, now.mono_ns + RETRY_AFTER_NS);
    }

    /// A step of a rewrite is over.
    fn handle_rewrite(&mut self, now: Now, scan: &mut Scan, work: Rewrite, result: Result<(), i32>) -> Option<Moved> {
        let Self { window, segments, ledger, keys, rewriting, troubles, counters, .. } = self;
        match rewriting.handle(now, work, result, segments, Said { ledger, keys }, troubles) {
            Done::Step => None,
            Done::Moved { run, dense } => {
                let freed = segments.replace(&run, dense);
                counters.journal_rewritten += freed.len() as u64 + 1;
                rewriting.keep(freed);
                window.follow_rewrite(&run);
                scan.follow_rewrite(window, segments, &run);
                Some(Moved::of(&run))
            }
            Done::Durable(freed) => {
                counters.journal_freed += freed.len() as u64;
                segments.end_replace(&freed);
                None
            }
        }
    }

    /// A read is over: the walk goes on in what was read.
    fn handle_read_back(
        &mut self,
        now: Now,
        scan: &mut Scan,
        at: Position,
        buffer: Vec<u8>,
        result: Result<usize, i32>,
    ) {
        let read = scan.read_back(now, &mut self.lend(), at, buffer, result);
        let ReadBack { blank, unreadable } = match read {
            Ok(read) => read,
            Err(errno) => {
                self.troubles.count_error();
                return self.troubles.fail(Trouble::Read, at.segment, errno);
            }
        };
        if !scan.is_failing() {
            self.troubles.heal(Trouble::Read);
        }
        let segment = at.segment;
        for Range { start, end } in &unreadable {
            tracing::error!(
                "journal of core {}: bytes {start} to {end} of segment {segment} cannot be read",
                self.core()
            );
            self.segments.keep_file(segment);
            self.troubles.fail(Trouble::Unreadable, segment, libc::EIO);
        }
        // What the start found it has told, and so is what could not be read.
        let told = !self.segments.is_own(segment) && self.report().torn + self.report().damaged > 0;
        if let Some(Range { start, end }) = blank.filter(|_| !told && unreadable.is_empty()) {
            tracing::error!("journal of core {}: no block at {start} to {end} of segment {segment}", self.core());
            self.troubles.count_error();
        }
    }

    // ---- after a start

    /// Takes over what recovery could not write, at its own place; where the disk has refused that,
    /// it moves at the first turn.
    pub(super) fn take_over(&mut self, unwritten: Unwritten) {
        for blocks in &unwritten.slots {
            let (at, epoch_id) = (blocks[0].header.at, blocks[0].header.epoch_id);
            let start = self.window.take_over(at, epoch_id, blocks.iter().map(|block| &block.bytes[..]));
            self.segments.adopt_unwritten(at.segment, blocks.len() as u32);
            for Sealed { header, seal, bytes } in blocks {
                let place = Location { offset: header.at.offset - at.offset, ..start };
                self.writer.list(Block {
                    at: header.at,
                    extent: place.extent,
                    memory_offset: self.window.memory_offset(place) as u32,
                    bytes: bytes.len() as u32,
                    first_number: header.first_number,
                    end_number: header.first_number.plus(u64::from(seal.entries)),
                    opened_ns: None,
                });
            }
        }
        self.writer.begin_at_first_listed();
        for Missing { number, nonce } in unwritten.missing.into_iter().rev() {
            self.segments.adopt_missing(number, nonce);
        }
        if let Some(Refusal { segment, errno }) = unwritten.refused {
            self.moving.demand();
            self.troubles.fail(Trouble::Write, segment, errno);
        }
    }

    // ---- invariants

    fn check_turn(&mut self) {
        if cfg!(debug_assertions) {
            self.turns = self.turns.wrapping_add(1);
            let size = self.window.size().max(self.segments.count()).max(self.ledger.size());
            if size <= CHECKED_MAX || self.turns.is_multiple_of(CHECK_EVERY) {
                self.check();
            }
        }
    }

    /// Asserts what always holds: of each owner by itself, and that what one counts another has.
    /// Called at the end of each turn in debug builds.
    ///
    /// # Panics
    /// Where something does not hold.
    pub fn check(&self) {
        self.window.check();
        self.segments.check();
        self.writer.check(&self.window, &self.segments);
        self.ledger.check(self.durability(), &self.segments);
        self.keys.check();
        self.rewriting.check(&self.segments);
    }
}
