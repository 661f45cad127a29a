//! What a failed segment did not take moves to another one.
//!
//! After an error of a write or a sync nothing is written to a segment any more: the kernel reports an error once, and a later
//! success says nothing of what was lost. All that is not known to be on disk is copied, block by block, to slots that are
//! encoded for new segments, under the same entry numbers; the extents stay, so that whoever holds a record is not concerned.
//!
//! The copies are made from the last block to the first, and each becomes valid by its header, which is written last. So a
//! kill at any moment leaves the front of the log in the old place and the rest in the new one, and their order is that of their
//! numbers. One free slot is enough, since each copy frees the slot that it was made from.

use super::coming::{Coming, File};
use super::trouble::Trouble;
use super::{Block, Extent, Journal, Memory, ORIGIN_ENTRY_BYTES_MAX, Purpose, RETRY_AFTER_NS, Write};
use crate::config::Durability;
use crate::ground::{Now, RecordNumber, SegmentNumber};
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, Entries, Kind, OriginPayload, Position, RecordPayload, Seal,
    round_up, u32_at,
};
use crate::journal::recovery::{Missing, Refusal, Unwritten};
use crate::journal::segment::Segment;
use crate::journal::unfinished::Sealed;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{Ordering, compiler_fence};

#[cfg(test)]
mod tests;

/// What a move leaves to be looked after.
#[derive(Debug, Default)]
pub(super) struct AfterMove {
    /// Segments from this one on are not freed ...
    segment: SegmentNumber,
    /// ... until all entries below this number are on disk ...
    until: RecordNumber,
    /// ... and these origins are defined again: their definitions may have stayed behind.
    origins: Vec<u32>,
}

/// A waiting record of a block that moves.
struct Moving {
    number: RecordNumber,
    /// Of its entry.
    bytes: usize,
}

/// A sealed block in a slot.
#[derive(Debug, Clone, Copy)]
struct InSlot {
    extent: u32,
    /// Offset in the extent's memory.
    offset: u32,
    header: BlockHeader,
    seal: Seal,
    /// With its padding.
    bytes: u32,
}

impl InSlot {
    fn end_number(&self) -> RecordNumber {
        self.header.first_number.plus(u64::from(self.seal.entries))
    }
}

impl Journal {
    /// Moves what is to be moved, once no write is in flight: until then the kernel reads the slots.
    pub(super) fn move_if_due(&mut self, now: Now) {
        let in_flight = self.in_flight.iter().any(|block| block.state == Write::Waiting);
        let waits = self.retry_commits_ns.is_some_and(|at| now.mono_ns < at);
        if self.must_move && !in_flight && !waits {
            self.move_blocks(now);
        }
    }

    fn move_blocks(&mut self, now: Now) {
        self.must_move = false;
        self.seal();
        let since_ns = self.uncommitted_since_ns().unwrap_or(now.mono_ns);
        let from = self.first_unsafe_number();
        let blocks = self.blocks_from(from);
        let Some(first) = blocks.first() else {
            // A sync failed, and nothing of it is in memory. What comes goes to another segment all the same.
            self.close_segments(None, from, &[]);
            return self.close_current();
        };
        let old_segment = first.header.at.segment;
        let (waiting, undefined) = self.take_records(old_segment, &blocks);
        self.close_segments(Some(old_segment), from, &blocks);
        self.in_flight.clear();
        self.sealed.clear();
        let pieces: Vec<&[InSlot]> = blocks.chunk_by(|a, b| a.extent == b.extent).collect();
        let places: Vec<Position> = pieces.iter().map(|piece| self.place(piece)).collect();
        for Moving { number, bytes } in waiting {
            let segment = self.segments.iter_mut().rev().find(|s| s.first_number <= number);
            segment.expect("begun for it").add(number, bytes);
        }
        for (piece, at) in pieces.iter().zip(&places).rev() {
            self.copy(piece, *at);
        }
        for piece in &pieces {
            self.seal_again(piece, since_ns);
        }
        if self.current.is_some_and(|current| pieces.last().is_none_or(|piece| piece[0].extent != current)) {
            self.leave_current(); // nothing of it moved, and its segment is closed
        }
        self.drop_empty_segments(old_segment);
        let until = blocks.last().expect("there is a first").end_number();
        let mut after = self.after_move.take().unwrap_or(AfterMove { segment: old_segment, ..AfterMove::default() });
        after.segment = after.segment.min(old_segment);
        after.until = until;
        after.origins.extend(undefined);
        after.origins.sort_unstable();
        after.origins.dedup();
        self.after_move = Some(after);
    }

    /// The first entry that is not known to be on disk and can be moved.
    fn first_unsafe_number(&mut self) -> RecordNumber {
        let uncommitted = self.in_flight.front().or(self.sealed.front()).map(|block| block.first_number);
        if self.options.durability == Durability::Power {
            return uncommitted.unwrap_or(self.next_number);
        }
        // What was written since the last good sync moves too, as far as nothing is missing from memory behind it: numbers
        // must stay in their order.
        let unsynced = |at: Position| at >= self.watermark && (at.segment >= self.first_own_segment);
        let in_slots = self.blocks_from(RecordNumber(0));
        let uncommitted = uncommitted.unwrap_or(self.next_number);
        let mut from = uncommitted;
        for block in in_slots.iter().rev().skip_while(|block| block.header.first_number >= uncommitted) {
            if block.end_number() != from || !unsynced(block.header.at) {
                break;
            }
            from = block.header.first_number;
        }
        from
    }

    /// The sealed blocks in slots whose entries have numbers from `number` on, in their order.
    fn blocks_from(&self, number: RecordNumber) -> Vec<InSlot> {
        let mut found = Vec::new();
        for (index, extent) in self.extents.iter().enumerate() {
            // What a freed segment held is on disk, and may be forgotten in memory.
            let is_part = self.segments.iter().any(|segment| segment.number == extent.segment);
            if extent.slot().is_none() || extent.moved || !is_part {
                continue;
            }
            let mut offset = extent.start;
            while offset < extent.end {
                let decoded = BlockHeader::decode(self.extent_memory(index as u32, offset as usize));
                let Some((header, Some(seal))) = decoded else { unreachable!("an extent holds whole blocks") };
                let bytes = round_up(seal.used, self.physical);
                if header.first_number >= number {
                    found.push(InSlot { extent: index as u32, offset, header, seal, bytes });
                }
                offset += bytes;
            }
        }
        found.sort_unstable_by_key(|block| block.header.first_number);
        found
    }

    /// Counts the waiting records of moved blocks out of their segments: number and bytes of their entries. And the origins of
    /// which no moved block says who they are.
    fn take_records(&mut self, from_segment: SegmentNumber, blocks: &[InSlot]) -> (Vec<Moving>, Vec<u32>) {
        let mut waiting = Vec::new();
        let (mut used, mut defined) = (HashSet::new(), HashSet::new());
        for block in blocks {
            let bytes = self.extent_memory(block.extent, block.offset as usize)[..block.seal.used as usize].to_vec();
            for entry in Entries::new(&bytes, block.header.nonce, block.header.at.offset) {
                match entry.header.kind {
                    Kind::Record => {
                        let (number, bytes) = (entry.header.number, entry.bytes());
                        let mut old = self.segments.iter_mut().filter(|segment| segment.number >= from_segment);
                        if old.any(|segment| segment.settle(number, bytes)) {
                            waiting.push(Moving { number, bytes });
                            used.insert(RecordPayload::decode(entry.payload).origin);
                        }
                    }
                    Kind::Origin if OriginPayload::decode(entry.payload).is_some() => {
                        defined.insert(u32_at(entry.payload, 0));
                    }
                    _ => {}
                }
            }
        }
        (waiting, used.difference(&defined).copied().collect())
    }

    /// Ends the segments from one on, whose blocks from entry `from` on move, and those that failed.
    fn close_segments(&mut self, from_segment: Option<SegmentNumber>, from: RecordNumber, blocks: &[InSlot]) {
        let unsafe_from = (self.options.durability == Durability::Process).then_some(self.first_own_segment);
        let is_behind = |segment: SegmentNumber| from_segment.is_some_and(|from| segment >= from);
        let mut lost = 0;
        for segment in self.segments.iter_mut().filter(|s| is_behind(s.number) || s.failed) {
            let is_unsafe =
                unsafe_from.is_some_and(|from| segment.number >= from) && segment.end_position() > self.watermark;
            if !std::mem::replace(&mut segment.closed, true) && is_unsafe {
                lost += segment.unsettled; // what waits in it and does not move
            }
            if !is_behind(segment.number) {
                continue;
            }
            segment.unwritten = 0;
            segment.first_number = segment.first_number.min(from);
            let moved = blocks.iter().map(|block| block.header.at).filter(|at| at.segment == segment.number);
            segment.end = moved.map(|at| at.offset).min().unwrap_or(segment.end);
        }
        self.unsynced.retain(|segment| !is_behind(*segment));
        if lost > 0 {
            self.counters.journal_unsafe_records += lost;
            tracing::error!(
                "journal of core {}: {lost} records that wait to be delivered are no longer in memory as a whole, and a loss of \
                 power may take them",
                self.options.core
            );
        }
    }

    /// Where an extent's moved blocks go. The one that is being filled keeps the room that it has in memory.
    fn place(&mut self, piece: &[InSlot]) -> Position {
        let (first, last) = (piece[0], piece[piece.len() - 1]);
        let end = last.offset + last.bytes;
        let room = if self.current == Some(first.extent) { self.options.block_bytes } else { end } - first.offset;
        let open = self.segments.back().filter(|_| self.current_segment_open());
        if open.is_none_or(|segment| segment.end + room > self.options.segment_bytes) {
            self.begin_segment(first.header.first_number);
        }
        let segment = self.segments.back_mut().expect("begun");
        let at = segment.end_position();
        segment.end += end - first.offset;
        segment.unwritten += piece.len() as u32;
        at
    }

    /// Copies an extent to a free slot, its moved blocks encoded for their new place.
    fn copy(&mut self, piece: &[InSlot], at: Position) {
        let (index, start) = (piece[0].extent, piece[0].offset);
        let old_slot = self.extents[index as usize].slot().expect("in a slot");
        let new_slot = self.free_slots.pop().expect("one is kept for this");
        let target = self.memory_offset(new_slot);
        let nonce = self.segments.iter().find(|s| s.number == at.segment).expect("begun for it").nonce;
        for block in piece.iter().rev() {
            let place = Position { offset: at.offset + (block.offset - start), ..at };
            let old = &self.slot_memory(old_slot, block.offset as usize)[..block.bytes as usize];
            let bytes = self.encode_again(old, block, nonce, place);
            let target = target + block.offset as usize;
            self.memory.write(target + BLOCK_HEADER_BYTES, &bytes[BLOCK_HEADER_BYTES..]);
            // A process that is killed here must not leave a header over what is not yet there.
            compiler_fence(Ordering::SeqCst);
            self.memory.write(target, &bytes[..BLOCK_HEADER_BYTES]);
            compiler_fence(Ordering::SeqCst);
        }
        // What lies before stays where it is on disk; here it is only looked at.
        let before = self.slot_memory(old_slot, 0)[..start as usize].to_vec();
        self.memory.write(target, &before);
        compiler_fence(Ordering::SeqCst);
        let extent = &mut self.extents[index as usize];
        (extent.memory, extent.segment) = (Memory::Slot(new_slot), at.segment);
        (extent.base, extent.start, extent.unwritten) = (at.offset, start, piece.len() as u32);
        self.free_slots.push(old_slot);
    }

    /// A block's bytes for another place: the entries keep their numbers, and all CRCs are new.
    fn encode_again(&self, old: &[u8], block: &InSlot, nonce: u64, at: Position) -> Vec<u8> {
        let mut bytes = old.to_vec();
        let mut entries = Entries::new(&old[..block.seal.used as usize], block.header.nonce, block.header.at.offset);
        for entry in entries.by_ref() {
            let head = entry.header.encode(nonce, at.offset + entry.offset as u32, &[entry.payload]);
            bytes[entry.offset..entry.offset + ENTRY_HEADER_BYTES].copy_from_slice(&head);
        }
        assert_eq!(entries.offset(), block.seal.used as usize, "a block in memory is whole");
        let (watermark, oldest_segment) = (self.watermark, self.oldest_segment());
        let header = BlockHeader { nonce, at, watermark, oldest_segment, ..block.header };
        bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&header.encode_sealed(block.seal));
        bytes
    }

    /// Lists an extent's moved blocks to be written.
    fn seal_again(&mut self, piece: &[InSlot], opened_ns: u64) {
        for block in piece {
            let memory_offset = self.extent_offset(block.extent) as u32 + block.offset;
            self.sealed.push_back(Block {
                at: self.extents[block.extent as usize].position(block.offset),
                extent: block.extent,
                memory_offset,
                bytes: block.bytes,
                first_number: block.header.first_number,
                end_number: block.end_number(),
                opened_ns,
                state: Write::Waiting,
            });
        }
    }

    fn close_current(&mut self) {
        if self.current_segment_open() {
            self.segments.back_mut().expect("open").closed = true;
        }
        self.leave_current();
    }

    fn leave_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.free_if_unused(current);
        }
    }

    /// Segments of this start that have nothing on disk and nothing to wait for go at once: as long as the disk refuses there
    /// would be more and more of them.
    fn drop_empty_segments(&mut self, from: SegmentNumber) {
        let own = self.first_own_segment;
        let empty = |segment: &Segment| {
            segment.closed
                && segment.number >= from.max(own)
                && segment.end_position() == segment.first_position()
                && segment.unsettled == 0
                && segment.reads == 0
        };
        for index in (0..self.segments.len()).rev() {
            if empty(&self.segments[index]) {
                let segment = self.segments.remove(index).expect("in range");
                self.drop_segment(&segment);
            }
        }
    }

    /// After a start: origins whose definitions are in older segments than their records.
    pub(in crate::journal) fn define_again(&mut self, origins: BTreeSet<u32>) {
        if !origins.is_empty() {
            let mut origins: Vec<u32> = origins.into_iter().collect();
            origins.sort_unstable();
            self.after_move = Some(AfterMove { segment: SegmentNumber(0), until: RecordNumber(0), origins });
        }
    }

    /// Defines the origins of moved records again, as far as there is room.
    pub(super) fn define_moved_origins(&mut self, now: Now) {
        let Some(mut moved) = self.after_move.take() else { return };
        while let Some(id) = moved.origins.last() {
            if let Some(&origin) = self.origin_ids.get(id) {
                if self.make_room(now, ORIGIN_ENTRY_BYTES_MAX, Purpose::Progress).is_err() {
                    break;
                }
                self.define_origin(origin);
            }
            moved.origins.pop();
            moved.until = moved.until.max(self.next_number);
        }
        let done = moved.origins.is_empty() && moved.until <= self.committed;
        self.after_move = (!done).then_some(moved);
    }

    /// Whether a segment must stay though nothing in it waits: what was moved from it is not on disk yet.
    pub(super) fn is_kept_for_move(&self, segment: SegmentNumber) -> bool {
        self.after_move.as_ref().is_some_and(|moved| segment >= moved.segment)
    }

    /// Takes over what recovery could not write, at its own place; where the disk has refused that, it moves at the first turn.
    pub(in crate::journal) fn take_over(&mut self, unwritten: Unwritten) {
        for blocks in &unwritten.slots {
            let (at, epoch_id) = (blocks[0].header.at, blocks[0].header.epoch_id);
            let slot = self.free_slots.pop().expect("the block file has room for them");
            let extent = self.add_extent(Extent::new(at.segment, at.offset, epoch_id, Memory::Slot(slot)));
            let segment = self.segments.iter_mut().find(|s| s.number == at.segment).expect("it was read");
            segment.unwritten += blocks.len() as u32;
            for Sealed { header, seal, bytes } in blocks {
                let offset = header.at.offset - at.offset;
                let memory_offset = self.memory_offset(slot) as u32 + offset;
                self.memory.write(memory_offset as usize, bytes);
                self.extents[extent as usize].end = offset + bytes.len() as u32;
                self.extents[extent as usize].unwritten += 1;
                self.sealed.push_back(Block {
                    at: header.at,
                    extent,
                    memory_offset,
                    bytes: bytes.len() as u32,
                    first_number: header.first_number,
                    end_number: header.first_number.plus(u64::from(seal.entries)),
                    opened_ns: 0,
                    state: Write::Waiting,
                });
            }
        }
        if let Some(first) = self.sealed.front() {
            self.committed = first.first_number;
        }
        for Missing { number, nonce } in unwritten.missing.into_iter().rev() {
            let file = File::Wanted { not_before_ns: 0 };
            self.coming.push_back(Coming { number, nonce, begun: true, file });
        }
        if let Some(Refusal { segment, errno }) = unwritten.refused {
            self.must_move = true;
            self.fail(Trouble::Write, segment, errno);
        }
    }

    /// The age of what was taken over counts from the first turn.
    pub(super) fn age_taken_over(&mut self, now: Now) {
        if self.sealed.front().is_some_and(|block| block.opened_ns == 0) {
            self.sealed.iter_mut().for_each(|block| block.opened_ns = block.opened_ns.max(now.mono_ns));
        }
    }

    /// A block was not written.
    pub(super) fn handle_failed_commit(&mut self, now: Now, segment: SegmentNumber, errno: i32) {
        if self.troubles.has(Trouble::Write) && !self.must_move {
            self.retry_commits_ns = Some(now.mono_ns + RETRY_AFTER_NS);
        }
        self.must_move = true;
        if let Some(failed) = self.segments.iter_mut().find(|s| s.number == segment)
            && !std::mem::replace(&mut failed.failed, true)
        {
            self.counters.journal_sealed += 1;
        }
        self.fail(Trouble::Write, segment, errno);
    }

    /// A segment's writes may be lost though they completed.
    pub(super) fn handle_failed_sync(&mut self, segment: SegmentNumber, errno: i32) {
        self.must_move = true;
        if let Some(failed) = self.segments.iter_mut().find(|s| s.number == segment) {
            failed.failed = true;
            self.counters.journal_sealed += 1;
        }
        self.fail(Trouble::Sync, segment, errno);
    }
}
