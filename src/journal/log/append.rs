//! Entries go into the open block of the current extent.

use super::{
    Block, Extent, Full, IN_MEMORY, Journal, Leased, Location, Memory, NO_LANE, NewRecord, ORIGIN_ENTRY_BYTES_MAX,
    OpenBlock, OriginRef, Purpose, Write,
};
use crate::ground::{LaneNumber, Now, RecordNumber, SegmentNumber};
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, EntryHeader, Kind, OriginPayload, RECORD_PREFIX_BYTES,
    RecordPayload, Seal, entry_bytes, round_up, u32_at,
};
use crate::journal::unfinished::BLOCK_FILE_HEADER_BYTES;
use std::ops::Range;

impl Journal {
    /// Whether a record of up to `bytes`, the machine's own key included, would be taken now.
    pub fn can_append(&mut self, now: Now, bytes: usize) -> bool {
        self.make_room(now, entry_bytes(RECORD_PREFIX_BYTES + bytes) + ORIGIN_ENTRY_BYTES_MAX, Purpose::Intake).is_ok()
    }

    /// Copies a record into the open block. From now on it survives what the level promises once
    /// [`Journal::durable_below`] has passed its number.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed; try again when [`Journal::can_append`] holds.
    pub fn append_record(&mut self, now: Now, record: NewRecord<'_>) -> Result<(RecordNumber, Location), Full> {
        let bytes = entry_bytes(RECORD_PREFIX_BYTES + record.key.len() + record.data.len());
        self.make_room(now, bytes + ORIGIN_ENTRY_BYTES_MAX, Purpose::Intake)?;
        let segment = self.current_segment_number();
        let origin = &mut self.origins[record.origin.0 as usize];
        origin.unsettled += 1;
        let (id, lane) = (origin.id, origin.lane);
        if origin.defined_in != Some(segment) {
            self.define_origin(record.origin);
        }
        let body_hash = if record.key.is_empty() { 0 } else { crc32c::crc32c(record.data) };
        let prefix = RecordPayload {
            first_byte_wall_ns: record.first_byte_wall_ns,
            frame_us: record.frame_us,
            origin: id,
            key: record.key,
            body_hash,
            data: record.data,
        }
        .encode_prefix();
        let (number, at) = self.write_entry(Kind::Record, record.flags, lane, &[&prefix, record.key, record.data]);
        if let Some(segment) = self.segments.back_mut() {
            segment.add(number, bytes);
        }
        Ok((number, at))
    }

    /// Writes down who an origin is, in the segment that is being filled. Room was made.
    pub(super) fn define_origin(&mut self, reference: OriginRef) {
        let segment = self.current_segment_number();
        let origin = &mut self.origins[reference.0 as usize];
        origin.defined_in = Some(segment);
        let (id, lane) = (origin.id, origin.lane);
        let (source, name) = (std::mem::take(&mut origin.source), std::mem::take(&mut origin.name));
        let prefix = OriginPayload { origin: id, source: &source, name: &name }.encode_prefix();
        self.write_entry(Kind::Origin, 0, lane, &[&prefix, source.as_bytes(), name.as_bytes()]);
        let origin = &mut self.origins[reference.0 as usize];
        (origin.source, origin.name) = (source, name);
    }

    /// Writes down the sequence id of a record, before it is used.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken; the id must not be used yet.
    pub fn append_id(&mut self, now: Now, number: RecordNumber, id: &str) -> Result<(), Full> {
        if self.on_disk() {
            self.make_room(now, entry_bytes(8 + id.len()), Purpose::Progress)?;
            self.write_entry(Kind::Id, 0, NO_LANE, &[&number.0.to_le_bytes(), id.as_bytes()]);
        }
        Ok(())
    }

    /// Writes down which ids a service gave ahead are not used yet, before one of them is. `origin` tells services apart.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken; none of them must be used yet.
    pub fn append_leased(&mut self, now: Now, origin: u64, ids: impl Iterator<Item = Range<u64>>) -> Result<(), Full> {
        self.write_leased(now, origin, 0, ids)
    }

    /// `left_by`: the epoch that leaves these ids to the next start, by the low half of its id; 0 while ids may still be used.
    fn write_leased(
        &mut self,
        now: Now,
        origin: u64,
        left_by: u64,
        ids: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), Full> {
        let numbers = [origin, left_by].into_iter().chain(ids.flat_map(|ids| [ids.start, ids.end]));
        let payload: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        if self.on_disk() {
            self.make_room(now, entry_bytes(payload.len()), Purpose::Progress)?;
            self.write_entry(Kind::Leased, 0, NO_LANE, &[&payload]);
            self.is_leased = true;
        }
        Ok(())
    }

    /// What a clean end writes down of ids that were given ahead, or that there are none: not before that is done is the journal flushed.
    pub fn leave_leased(&mut self, leased: Leased, is_leasing: bool) {
        if self.on_disk() && (is_leasing || self.is_leased || !leased.ids.is_empty()) {
            self.leaves_ids = !leased.ids.is_empty();
            self.left_leased = Some(leased);
        }
    }

    pub(super) fn write_left_leased(&mut self, now: Now) {
        if let Some(leased) = self.left_leased.take()
            && self.write_leased(now, leased.origin, self.epoch_id as u64, leased.ids.iter().cloned()).is_err()
        {
            self.left_leased = Some(leased);
        }
    }

    /// Ids that the last run was given ahead, did not use, and wrote down at its clean end. They are not here a second time.
    pub fn take_leased(&mut self) -> Leased {
        std::mem::take(&mut self.leased)
    }

    /// The id that an earlier start wrote down for a record.
    pub fn recovered_id(&self, number: RecordNumber) -> Option<&str> {
        self.ids.get(&number).map(|id| &**id)
    }

    /// A record was delivered. Its hold is released; the mark is written at the end of the turn.
    pub fn settle(&mut self, number: RecordNumber, origin: OriginRef, at: Location) {
        let segment = self.extents[at.extent as usize].segment;
        if self.on_disk() {
            let bytes = entry_bytes(u32_at(self.extent_memory(at.extent, at.offset as usize), 4) as usize);
            let index = self.segments.partition_point(|s| s.number < segment);
            // A record that is read from a copy may have moved on since, or may have stayed where its extent began.
            let settled = self.segments.iter_mut().skip(index).any(|s| s.settle(number, bytes))
                || self.segments.iter_mut().take(index).rev().any(|s| s.settle(number, bytes));
            assert!(settled, "record {number} of segment {segment} is settled once");
            self.marks.push(number);
            self.rewriting.note_change();
        }
        if !self.ids.is_empty() {
            self.ids.remove(&number); // only ids of earlier starts: mostly there are none
        }
        self.origins[origin.0 as usize].unsettled -= 1;
        self.drop_origin_if_done(origin);
        self.release(at);
    }

    /// Delivered records whose mark is not in a block yet: those of this turn, and in a full journal more. After a kill
    /// they are delivered again.
    pub fn marks_in_memory(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn current_segment_number(&self) -> SegmentNumber {
        self.segments.back().map_or(IN_MEMORY, |segment| segment.number)
    }

    /// Sees to it that the open block has room for `bytes`.
    pub(super) fn make_room(&mut self, now: Now, bytes: usize, purpose: Purpose) -> Result<(), Full> {
        let block_bytes = self.options.block_bytes;
        assert!(BLOCK_HEADER_BYTES + bytes <= block_bytes as usize, "limits keep entries below a block");
        if purpose == Purpose::Intake && self.on_disk() && !self.takes_records() {
            return Err(Full);
        }
        if let Some(open) = &self.open {
            if (open.start + open.used) as usize + bytes <= block_bytes as usize {
                return Ok(());
            }
            self.seal();
        }
        if let Some(current) = self.current {
            let start = self.extents[current as usize].end;
            if start as usize + BLOCK_HEADER_BYTES + bytes <= block_bytes as usize {
                self.open_block(now, current, start);
                return Ok(());
            }
            self.current = None;
            self.free_if_unused(current);
        }
        let extent = self.next_extent(purpose)?;
        self.open_block(now, extent, 0);
        Ok(())
    }

    /// Takes a free slot for the next piece of the log.
    pub(super) fn next_extent(&mut self, purpose: Purpose) -> Result<u32, Full> {
        // One is for ids and marks, and one for moving what a failed segment did not take.
        let kept_back = usize::from(purpose == Purpose::Intake) + usize::from(self.on_disk());
        if self.free_slots.len() <= kept_back {
            return Err(Full);
        }
        let (segment, base) = if self.on_disk() { self.next_place(purpose)? } else { (IN_MEMORY, 0) };
        let slot = self.free_slots.pop().expect("checked above");
        let extent = self.add_extent(Extent::new(segment, base, self.epoch_id, Memory::Slot(slot)));
        self.current = Some(extent);
        Ok(extent)
    }

    pub(super) fn add_extent(&mut self, extent: Extent) -> u32 {
        self.heap_extents += usize::from(extent.slot().is_none());
        if let Some(index) = self.free_extents.pop() {
            self.extents[index as usize] = extent;
            return index;
        }
        self.extents.push(extent);
        (self.extents.len() - 1) as u32
    }

    /// Segment and offset of the next extent; moves on to the segment that comes next where the last one is full.
    pub(super) fn next_place(&mut self, purpose: Purpose) -> Result<(SegmentNumber, u32), Full> {
        let block_bytes = self.options.block_bytes;
        if self.current_segment_open() {
            let segment = self.segments.back().expect("open");
            if segment.end + block_bytes <= self.options.segment_bytes {
                // Records do not take the second half of a segment before the next one is ready: should that turn out to be
                // impossible, there is room for the ids and marks that make old segments free.
                let second_half = segment.end > self.options.segment_bytes / 2;
                if purpose == Purpose::Intake && second_half && !self.is_next_ready() {
                    return Err(Full);
                }
                return Ok((segment.number, segment.end));
            }
        }
        // Ids, marks and answers that park are never refused for want of segments: without them nothing would be delivered and
        // become free again. They are bounded by the records that they are about, but the segments that they begin may go beyond
        // the limit for a while.
        let full = self.segments.len() + 1 >= self.options.segments_max() || !self.is_next_ready();
        if purpose == Purpose::Intake && full {
            return Err(Full);
        }
        Ok((self.begin_segment(self.next_number), self.physical))
    }

    pub(super) fn open_block(&mut self, now: Now, extent: u32, start: u32) {
        let header = BlockHeader {
            nonce: self.segments.back().map_or(0, |segment| segment.nonce),
            at: self.extents[extent as usize].position(start),
            first_number: self.next_number,
            epoch_id: self.epoch_id,
            watermark: self.watermark,
            oldest_segment: self.oldest_segment(),
            dense: None,
        };
        self.memory.write(self.extent_offset(extent) + start as usize, &header.encode());
        self.open =
            Some(OpenBlock { header, start, used: BLOCK_HEADER_BYTES as u32, entries: 0, opened_ns: now.mono_ns });
    }

    pub(super) fn memory_offset(&self, slot: u32) -> usize {
        assert!(slot < self.slots);
        BLOCK_FILE_HEADER_BYTES + slot as usize * self.options.block_bytes as usize
    }

    /// Where the slot of an extent begins.
    pub(super) fn extent_offset(&self, extent: u32) -> usize {
        self.memory_offset(self.extents[extent as usize].slot().expect("blocks are built in slots"))
    }

    /// Appends an entry to the open block, which has room for it.
    pub(super) fn write_entry(
        &mut self,
        kind: Kind,
        flags: u8,
        lane: LaneNumber,
        parts: &[&[u8]],
    ) -> (RecordNumber, Location) {
        let extent = self.current.expect("room was made");
        let base = self.extent_offset(extent);
        let open = self.open.as_mut().expect("room was made");
        let number = self.next_number;
        let header = EntryHeader { kind, flags, lane, number };
        let offset = open.start + open.used;
        let head = header.encode(open.header.nonce, open.header.at.offset + open.used, parts);
        let mut at = base + offset as usize;
        self.memory.write(at, &head);
        at += head.len();
        for part in parts {
            self.memory.write(at, part);
            at += part.len();
        }
        let bytes = entry_bytes(at - base - offset as usize - ENTRY_HEADER_BYTES) as u32;
        open.used += bytes;
        open.entries += 1;
        self.next_number = self.next_number.next();
        (number, Location { extent, offset })
    }

    /// Ends the open block. It is written when its turn comes and never touched again.
    pub(super) fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        let extent = self.current.expect("an open block lies in the current extent");
        let memory_offset = self.extent_offset(extent) + open.start as usize;
        if open.entries == 0 {
            return; // the header is overwritten by the next block at this place
        }
        let bytes = round_up(open.used, self.physical);
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut pad = open.used;
        while pad < bytes {
            let count = (bytes - pad).min(ZEROS.len() as u32);
            self.memory.write(memory_offset + pad as usize, &ZEROS[..count as usize]);
            pad += count;
        }
        let seal = Seal { used: open.used, entries: open.entries };
        self.memory.write(memory_offset, &open.header.encode_sealed(seal));
        self.extents[extent as usize].end = open.start + bytes;
        if self.on_disk() {
            self.extents[extent as usize].unwritten += 1;
            let segment = self.segments.back_mut().expect("a block lies in a segment");
            segment.end = open.header.at.offset + bytes;
            segment.unwritten += 1;
            self.sealed.push_back(Block {
                at: open.header.at,
                extent,
                memory_offset: memory_offset as u32,
                bytes,
                first_number: open.header.first_number,
                end_number: self.next_number,
                opened_ns: open.opened_ns,
                state: Write::Waiting,
            });
        }
    }
}
