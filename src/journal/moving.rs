//! What a failed segment did not take moves to another one.
//!
//! After an error of a write or a sync nothing is written to a segment any more: the kernel reports
//! an error once, and a later success says nothing of what was lost. All that is not known to be on
//! disk is copied, block by block, to slots that are encoded for new segments, under the same entry
//! numbers; the extents stay, so that whoever holds a record is not concerned.
//!
//! The copies are made from the last block to the first, and each becomes valid by its header,
//! which is written last. So a kill at any moment leaves the front of the log in the old place and
//! the rest in the new one, and their order is that of their numbers. One free slot is enough,
//! since each copy frees the slot that it was made from.

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, Entries, Kind, OriginPayload, Position, RecordPayload, u32_at,
};
use super::segments::Segments;
use super::window::{InSlot, Location, Window};
use super::writer::{Block, Writer};
use crate::config::Durability;
use crate::ground::{Now, RecordNumber, SegmentNumber};
use std::collections::HashSet;

#[cfg(test)]
pub(super) mod tests;

/// What a move leaves to be looked after.
#[derive(Debug)]
struct AfterMove {
    /// Segments from this one on are not freed ...
    segment: SegmentNumber,
    /// ... until all entries below this number are on disk ...
    until: RecordNumber,
    /// ... and these origins are defined again: their definitions may have stayed behind.
    origins: Vec<u32>,
}

/// A waiting record of a block that moves.
struct MovingRecord {
    number: RecordNumber,
    /// Of its entry.
    bytes: usize,
}

/// Owns the decision that blocks must move, and what a move leaves to be looked after.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// A segment failed: what it did not take moves to another one once no write is in flight.
    is_due: bool,
    after: Option<AfterMove>,
}

impl Moving {
    /// Whether blocks must move: until then nothing is committed and no record taken.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// A segment failed.
    pub fn demand(&mut self) {
        self.is_due = true;
    }

    /// Whether a segment must stay though nothing in it waits: what was moved from it is not on
    /// disk yet.
    pub fn keeps(&self, segment: SegmentNumber) -> bool {
        self.after.as_ref().is_some_and(|after| segment >= after.segment)
    }

    /// After a start: origins whose definitions are in older segments than their records.
    pub fn define_again(&mut self, origins: HashSet<u32>) {
        let mut origins: Vec<u32> = origins.into_iter().collect();
        origins.sort_unstable();
        if !origins.is_empty() {
            self.after = Some(AfterMove { segment: SegmentNumber(0), until: RecordNumber(0), origins });
        }
    }

    /// The next origin that is to be defined again.
    pub fn next_origin(&self) -> Option<u32> {
        self.after.as_ref()?.origins.last().copied()
    }

    /// That is done, or of no more use; it is on disk once all entries below `until` are.
    pub fn origin_defined(&mut self, until: RecordNumber) {
        if let Some(after) = &mut self.after {
            after.origins.pop();
            after.until = after.until.max(until);
        }
    }

    /// Forgets the last move once it is on disk.
    pub fn forget_committed(&mut self, committed: RecordNumber) {
        self.after.take_if(|after| after.origins.is_empty() && after.until <= committed);
    }

    /// Moves what is to be moved. No write is in flight: else the kernel would read the slots. How
    /// many waiting records are not safe and could not be moved.
    pub fn carry_out(
        &mut self,
        now: Now,
        durability: Durability,
        window: &mut Window,
        writer: &mut Writer,
        segments: &mut Segments,
    ) -> u64 {
        self.is_due = false;
        writer.seal(window, segments);
        let since_ns = writer.uncommitted_since_ns().unwrap_or(now.mono_ns);
        let from = first_unsafe_number(durability, window, writer, segments);
        let blocks = window.blocks_from(segments, from);
        let Some(first) = blocks.first() else {
            // A sync failed, and nothing of it is in memory. What comes goes to another segment all
            // the same.
            let lost = segments.close(None, from, writer.watermark(), |_| None);
            segments.close_current();
            window.leave_current();
            return lost;
        };
        let old_segment = first.header.at.segment;
        let (waiting, undefined) = take_records(window, segments, old_segment, &blocks);
        let moves_from = |segment: SegmentNumber| {
            blocks.iter().map(|block| block.header.at).filter(|at| at.segment == segment).map(|at| at.offset).min()
        };
        let lost = segments.close(Some(old_segment), from, writer.watermark(), moves_from);
        writer.forget_uncommitted();
        let pieces: Vec<&[InSlot]> = blocks.chunk_by(|a, b| a.extent == b.extent).collect();
        let places: Vec<Position> = pieces.iter().map(|piece| place(window, segments, piece)).collect();
        for MovingRecord { number, bytes } in waiting {
            segments.put_record(number, bytes);
        }
        for (piece, at) in pieces.iter().zip(&places).rev() {
            let nonce = segments.find(at.segment).expect("begun for it").nonce;
            let (watermark, oldest_segment) = (writer.watermark(), segments.oldest_named());
            window.copy_to_slot(piece, *at, |old, block, at| {
                encode_again(old, block, BlockHeader { nonce, at, watermark, oldest_segment, ..block.header })
            });
        }
        for block in pieces.iter().copied().flatten() {
            list_again(window, writer, block, since_ns);
        }
        let last = pieces.last().map(|piece| piece[0].extent);
        if window.current() != last {
            window.leave_current(); // nothing of it moved, and its segment is closed
        }
        segments.drop_empty(old_segment);
        let until = blocks.last().expect("there is a first").end_number();
        let before = self.after.take();
        let segment = before.as_ref().map_or(old_segment, |before| before.segment.min(old_segment));
        let mut origins = before.map(|before| before.origins).unwrap_or_default();
        origins.extend(undefined);
        origins.sort_unstable();
        origins.dedup();
        self.after = Some(AfterMove { segment, until, origins });
        lost
    }
}

/// The first entry that is not known to be on disk and can be moved.
fn first_unsafe_number(durability: Durability, window: &Window, writer: &Writer, segments: &Segments) -> RecordNumber {
    let uncommitted = writer.first_uncommitted().unwrap_or(writer.next_number());
    if durability == Durability::Power {
        return uncommitted;
    }
    // What was written since the last good sync moves too, as far as nothing is missing from memory
    // behind it: numbers must stay in their order.
    let unsynced = |at: Position| at >= writer.watermark() && segments.is_own(at.segment);
    let in_slots = window.blocks_from(segments, RecordNumber(0));
    let mut from = uncommitted;
    for block in in_slots.iter().rev().skip_while(|block| block.header.first_number >= uncommitted) {
        if block.end_number() != from || !unsynced(block.header.at) {
            break;
        }
        from = block.header.first_number;
    }
    from
}

/// Counts the waiting records of moved blocks out of their segments. And the origins of which no
/// moved block says who they are.
fn take_records(
    window: &Window,
    segments: &mut Segments,
    from_segment: SegmentNumber,
    blocks: &[InSlot],
) -> (Vec<MovingRecord>, Vec<u32>) {
    let mut waiting = Vec::new();
    let (mut used, mut defined) = (HashSet::new(), HashSet::new());
    for block in blocks {
        let at = Location { extent: block.extent, offset: block.offset };
        let bytes = &window.bytes(at)[..block.seal.used as usize];
        for entry in Entries::new(bytes, block.header.nonce, block.header.at.offset) {
            match entry.header.kind {
                Kind::Record => {
                    let (number, bytes) = (entry.header.number, entry.bytes());
                    if segments.take_record(number, bytes, from_segment) {
                        waiting.push(MovingRecord { number, bytes });
                        used.insert(RecordPayload::decode(entry.payload).origin);
                    }
                }
                kind @ (Kind::Origin | Kind::Origin1) if OriginPayload::decode(kind, entry.payload).is_some() => {
                    defined.insert(u32_at(entry.payload, 0));
                }
                _ => {}
            }
        }
    }
    (waiting, used.difference(&defined).copied().collect())
}

/// Where an extent's moved blocks go. The one that is being filled keeps the room that it has in
/// memory.
fn place(window: &Window, segments: &mut Segments, piece: &[InSlot]) -> Position {
    let (first, last) = (piece[0], piece[piece.len() - 1]);
    let end = last.offset + last.bytes;
    let room_end = if window.current() == Some(first.extent) { window.slot_bytes() } else { end };
    let (bytes, room) = (end - first.offset, room_end - first.offset);
    segments.place(first.header.first_number, piece.len() as u32, bytes, room)
}

/// A block's bytes under another header: the entries keep their numbers, and all CRCs are new.
fn encode_again(old: &[u8], block: &InSlot, header: BlockHeader) -> Vec<u8> {
    let mut bytes = old.to_vec();
    let mut entries = Entries::new(&old[..block.seal.used as usize], block.header.nonce, block.header.at.offset);
    for entry in entries.by_ref() {
        let head = entry.header.encode(header.nonce, header.at.offset + entry.offset as u32, &[entry.payload]);
        bytes[entry.offset..entry.offset + ENTRY_HEADER_BYTES].copy_from_slice(&head);
    }
    assert_eq!(entries.offset(), block.seal.used as usize, "a block in memory is whole");
    bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&header.encode_sealed(block.seal));
    bytes
}

/// Lists a moved block to be written.
fn list_again(window: &Window, writer: &mut Writer, block: &InSlot, opened_ns: u64) {
    let at = Location { extent: block.extent, offset: block.offset };
    writer.list(Block {
        at: window.extent(block.extent).position(block.offset),
        extent: block.extent,
        memory_offset: window.memory_offset(at) as u32,
        bytes: block.bytes,
        first_number: block.header.first_number,
        end_number: block.end_number(),
        opened_ns: Some(opened_ns),
    });
}
