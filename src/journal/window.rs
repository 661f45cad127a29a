//! The window: block memory, and what is in it. It knows extents and their holders; it never knows
//! which records wait, and asks for no operation.
//!
//! Memory is a fixed number of *extents*, each a slot of the block file that mirrors a piece of a
//! segment, plus a few on the heap for what is read back. An extent stays while a block of it is
//! unwritten or a record of it is held; nobody keeps a reference into one beyond a call. Its slot
//! can change: what a failed segment did not take is copied for another one, see
//! [`moving`](super::moving).

use super::BlockFile;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, Position, RecordPayload, Seal, record_number_at, round_up,
    u32_at,
};
use super::segments::Segments;
use super::unfinished::BLOCK_FILE_HEADER_BYTES;
use super::writer::OpenPlace;
use crate::ground::text::HEX;
use crate::ground::{CoreId, RecordNumber, SegmentNumber};
use std::ops::RangeInclusive;
use std::sync::atomic::{Ordering, compiler_fence};

/// Where a record lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Index of the extent.
    pub extent: u32,
    /// Offset in it.
    pub offset: u32,
}

/// A record in memory.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Its number.
    pub number: RecordNumber,
    /// Frame flags.
    pub flags: u8,
    /// The epoch in which it was received.
    pub epoch_id: u128,
    /// The rest.
    pub payload: RecordPayload<'a>,
}

impl RecordView<'_> {
    /// Appends its key: the epoch's random id, the core, its number. No other record ever has it.
    pub fn write_key(&self, core: CoreId, key: &mut String) {
        let epoch = self.epoch_id.to_be_bytes().map(|byte| HEX[usize::from(byte)]);
        key.push_str(str::from_utf8(epoch.as_flattened()).expect("digits"));
        key.push('-');
        key.push_str(itoa::Buffer::new().format(core.0));
        key.push('-');
        key.push_str(itoa::Buffer::new().format(self.number.0));
    }
}

/// Where an extent's bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Memory {
    /// The extent is free.
    None,
    /// A slot of the block file.
    Slot(u32),
    /// What was read back, or a copy.
    Heap(Vec<u8>),
    /// The entry of a record that is kept aside, and of which there is nothing on disk.
    Aside(Vec<u8>),
}

/// A piece of a segment in memory. Others read it; the window alone changes it.
#[derive(Debug)]
pub(super) struct Extent {
    pub segment: SegmentNumber,
    /// Offset in the segment of the byte at `start`.
    pub base: u32,
    /// Offset in memory from which on it mirrors the segment. Blocks before it lie in a segment
    /// that failed after them.
    pub start: u32,
    /// Behind its last whole block, in memory.
    pub end: u32,
    memory: Memory,
    /// Records held by the window, and the scan.
    held: u32,
    /// Sealed blocks not yet written, or not all before them.
    pub unwritten: u32,
    epoch_id: u128,
    /// What it mirrored was rewritten densely: its records lie in `segment`, at other places.
    pub moved: bool,
    /// Of a copy that took in a block while that was open.
    open_copy: Option<OpenPlace>,
}

impl Extent {
    fn new(segment: SegmentNumber, base: u32, epoch_id: u128, memory: Memory) -> Self {
        Self { segment, base, start: 0, end: 0, memory, held: 0, unwritten: 0, epoch_id, moved: false, open_copy: None }
    }

    /// Where an offset in memory, at `start` or behind it, belongs.
    pub fn position(&self, offset: u32) -> Position {
        Position { segment: self.segment, offset: self.base + (offset - self.start) }
    }

    /// The slot, if it has one.
    fn slot(&self) -> Option<u32> {
        match self.memory {
            Memory::Slot(slot) => Some(slot),
            _ => None,
        }
    }

    /// Whether its blocks were built here, and not read back or copied.
    pub fn is_in_slot(&self) -> bool {
        self.slot().is_some()
    }
}

/// A sealed block in a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct InSlot {
    pub extent: u32,
    /// Offset in the extent's memory.
    pub offset: u32,
    pub header: BlockHeader,
    pub seal: Seal,
    /// With its padding.
    pub bytes: u32,
}

impl InSlot {
    pub fn end_number(&self) -> RecordNumber {
        self.header.first_number.plus(u64::from(self.seal.entries))
    }
}

/// Owns block memory: its slots, the extents in them and on the heap, their holders, and which one
/// is being filled.
#[derive(Debug)]
pub(super) struct Window {
    memory: BlockFile,
    block_bytes: u32,
    physical: u32,
    /// What is not in memory can be read back. At level `memory` there is nothing to read it from.
    is_backed: bool,
    extents: Vec<Extent>,
    free_extents: Vec<u32>,
    slots: u32,
    /// Of these, so many are for records of senders that cannot wait.
    reserve_slots: usize,
    free_slots: Vec<u32>,
    heap_extents: usize,
    /// Of entries that are kept aside.
    aside_bytes: usize,
    /// The one that is being filled.
    current: Option<u32>,
}

impl Window {
    /// Over fresh block memory.
    pub fn new(memory: BlockFile, block_bytes: u32, physical: u32, is_backed: bool) -> Self {
        let slots = ((memory.len() - BLOCK_FILE_HEADER_BYTES) / block_bytes as usize) as u32;
        assert!(slots >= 4, "options are checked");
        Self {
            memory,
            block_bytes,
            physical,
            is_backed,
            extents: Vec::new(),
            free_extents: Vec::new(),
            slots,
            reserve_slots: 0,
            free_slots: (0..slots).rev().collect(),
            heap_extents: 0,
            aside_bytes: 0,
            current: None,
        }
    }

    pub fn memory(&self) -> &BlockFile {
        &self.memory
    }

    pub fn extent(&self, index: u32) -> &Extent {
        &self.extents[index as usize]
    }

    /// The extent that is being filled.
    pub fn current(&self) -> Option<u32> {
        self.current
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u32 {
        self.block_bytes
    }

    // ---- limits

    /// Whether there is room for records that are to stay in memory until they are delivered.
    pub fn has_room(&self) -> bool {
        !self.is_backed || self.free_slots.len() > self.slots_kept_back()
    }

    /// Whether reading back waits for memory.
    pub fn is_heap_full(&self) -> bool {
        self.heap_extents >= self.heap_extents_max()
    }

    /// Whether an eighth of the slots is kept for senders that cannot wait.
    pub fn set_reserve(&mut self, is_kept: bool) {
        self.reserve_slots = if is_kept { self.slots as usize / 8 } else { 0 };
    }

    /// Slots that senders that can wait do not take.
    pub fn reserve_slots(&self) -> usize {
        self.reserve_slots
    }

    /// Slots that are never pinned by waiting records, so that intake and marks go on: a quarter, the
    /// reserve, and the one that a move needs.
    fn slots_kept_back(&self) -> usize {
        (self.slots as usize / 4).max(2) + self.reserve_slots + 1
    }

    fn heap_extents_max(&self) -> usize {
        (self.slots as usize / 4).max(2)
    }

    /// Bytes of entries that may be kept aside without a slot: a quarter of the slots' memory.
    fn aside_bytes_max(&self) -> usize {
        self.slots as usize * self.block_bytes as usize / 4
    }

    /// Extents that one lane may pin, so that a stalled one cannot fill the window.
    pub fn lane_extents_max(&self) -> u32 {
        if self.is_backed { (self.slots / 8).max(2) } else { u32::MAX }
    }

    /// Whether another extent may be begun, in a slot. `kept_back` slots stay free.
    pub fn has_slot(&self, kept_back: usize) -> bool {
        self.free_slots.len() > kept_back
    }

    /// Bytes of block memory and heap in use: whole slots, and what is kept aside.
    pub fn used_bytes(&self) -> u64 {
        let used = self.slots as usize - self.free_slots.len() + self.heap_extents;
        used as u64 * u64::from(self.block_bytes) + self.aside_bytes as u64
    }

    // ---- holders

    /// Keeps an extent in memory.
    pub fn hold(&mut self, at: Location) {
        self.extents[at.extent as usize].held += 1;
    }

    /// The opposite of [`Window::hold`].
    pub fn release(&mut self, at: Location) {
        let extent = &mut self.extents[at.extent as usize];
        extent.held -= 1;
        if extent.held == 0 {
            self.free_if_unused(at.extent);
        }
    }

    /// Whether something of a segment is held.
    pub fn holds_of(&self, segment: SegmentNumber) -> bool {
        self.extents.iter().any(|extent| extent.segment == segment && extent.held > 0)
    }

    /// A sealed block is written, and all before it.
    pub fn block_written(&mut self, extent: u32) {
        self.extents[extent as usize].unwritten -= 1;
        self.free_if_unused(extent);
    }

    fn free_if_unused(&mut self, index: u32) {
        let extent = &mut self.extents[index as usize];
        if extent.held > 0 || extent.unwritten > 0 || self.current == Some(index) {
            return;
        }
        // An extent can be looked at twice, once for its last record and once for its last write.
        match std::mem::replace(&mut extent.memory, Memory::None) {
            Memory::None => return,
            Memory::Slot(slot) => self.free_slots.push(slot),
            Memory::Heap(_) => self.heap_extents -= 1,
            Memory::Aside(entry) => self.aside_bytes -= entry.len(),
        }
        self.free_extents.push(index);
    }

    // ---- bytes

    /// A held record.
    pub fn record(&self, at: Location) -> RecordView<'_> {
        let extent = &self.extents[at.extent as usize];
        debug_assert!(extent.held > 0);
        let bytes = self.bytes(at);
        let payload = u32_at(bytes, 4) as usize;
        RecordView {
            number: record_number_at(bytes, 16),
            flags: bytes[9],
            epoch_id: extent.epoch_id,
            payload: RecordPayload::decode(&bytes[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + payload]),
        }
    }

    /// An extent's bytes from a place to its end.
    pub fn bytes(&self, from: Location) -> &[u8] {
        let offset = from.offset as usize;
        match &self.extents[from.extent as usize].memory {
            Memory::Heap(bytes) | Memory::Aside(bytes) => &bytes[offset..],
            Memory::Slot(slot) => self.bytes_of_slot(*slot, offset),
            Memory::None => unreachable!("a free extent is not read"),
        }
    }

    /// A slot's bytes from an offset to its end.
    fn bytes_of_slot(&self, slot: u32, from: usize) -> &[u8] {
        let start = self.slot_offset(slot);
        self.memory.bytes(start + from..start + self.block_bytes as usize)
    }

    fn slot_offset(&self, slot: u32) -> usize {
        assert!(slot < self.slots);
        BLOCK_FILE_HEADER_BYTES + slot as usize * self.block_bytes as usize
    }

    /// Where a place in a slot is in block memory.
    pub fn memory_offset(&self, at: Location) -> usize {
        let slot = self.extents[at.extent as usize].slot().expect("blocks are built in slots");
        self.slot_offset(slot) + at.offset as usize
    }

    /// Copies bytes into block memory.
    pub fn write(&self, memory_offset: usize, bytes: &[u8]) {
        self.memory.write(memory_offset, bytes);
    }

    // ---- extents begin and grow

    fn add(&mut self, extent: Extent) -> u32 {
        match &extent.memory {
            Memory::Heap(_) => self.heap_extents += 1,
            Memory::Aside(entry) => self.aside_bytes += entry.len(),
            Memory::Slot(_) | Memory::None => {}
        }
        if let Some(index) = self.free_extents.pop() {
            self.extents[index as usize] = extent;
            return index;
        }
        self.extents.push(extent);
        (self.extents.len() - 1) as u32
    }

    /// Takes a free slot for the next piece of the log, which is filled from now on.
    pub fn begin(&mut self, at: Position, epoch_id: u128) -> u32 {
        let slot = self.free_slots.pop().expect("the caller has looked");
        let extent = self.add(Extent::new(at.segment, at.offset, epoch_id, Memory::Slot(slot)));
        self.current = Some(extent);
        extent
    }

    /// The extent that was filled is full, or its segment takes no more.
    pub fn leave_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.free_if_unused(current);
        }
    }

    /// A block up to an offset is sealed in the extent that is being filled. `is_unwritten`: it is
    /// to be written.
    pub fn seal(&mut self, end: u32, is_unwritten: bool) {
        let extent = &mut self.extents[self.current.expect("a block lies in the current extent") as usize];
        extent.end = end;
        extent.unwritten += u32::from(is_unwritten);
    }

    /// Puts blocks that recovery could not write into a slot of their own, one behind the other;
    /// the place of the first.
    pub fn take_over<'a>(&mut self, at: Position, epoch_id: u128, blocks: impl Iterator<Item = &'a [u8]>) -> Location {
        let slot = self.free_slots.pop().expect("the block file has room for them");
        let mut extent = Extent::new(at.segment, at.offset, epoch_id, Memory::Slot(slot));
        for bytes in blocks {
            self.memory.write(self.slot_offset(slot) + extent.end as usize, bytes);
            extent.end += bytes.len() as u32;
            extent.unwritten += 1;
        }
        Location { extent: self.add(extent), offset: 0 }
    }

    /// Whole blocks of one epoch that were read from a place; held once, by the walk.
    pub fn add_read(&mut self, at: Position, epoch_id: u128, blocks: Vec<u8>) -> Location {
        let end = blocks.len() as u32;
        let place = Extent::new(at.segment, at.offset, epoch_id, Memory::Heap(blocks));
        Location { extent: self.add(Extent { end, held: 1, ..place }), offset: 0 }
    }

    /// Copies a slot's blocks from an offset on to the heap; where the copy begins. `open`: the
    /// block that is open there.
    pub fn copy_to_heap(&mut self, from: Location, open: Option<OpenPlace>) -> Option<Location> {
        if self.is_heap_full() {
            return None;
        }
        let Extent { end, epoch_id, .. } = self.extents[from.extent as usize];
        let Position { segment, offset: base } = self.extents[from.extent as usize].position(from.offset);
        let copied_end = open.map_or(end, |open| open.start + open.used);
        let heap = self.bytes(from)[..(copied_end - from.offset) as usize].to_vec();
        let open_copy = open.map(|open| OpenPlace { start: open.start - from.offset, ..open });
        let place = Extent::new(segment, base, epoch_id, Memory::Heap(heap));
        let copy = Extent { end: end - from.offset, open_copy, ..place };
        Some(Location { extent: self.add(copy), offset: 0 })
    }

    /// Copies the entry of a held record of `bytes` out of its slot, which would stay as long as
    /// the record; where the copy is, held in its place. Beyond the limit the record stays where it
    /// is.
    pub fn keep_aside(&mut self, at: Location, bytes: usize) -> Location {
        let is_aside = matches!(self.extent(at.extent).memory, Memory::Aside(_));
        if is_aside || self.aside_bytes + bytes > self.aside_bytes_max() {
            return at;
        }
        let entry = self.bytes(at)[..bytes].to_vec();
        let Extent { segment, epoch_id, .. } = self.extents[at.extent as usize];
        let place = Extent::new(segment, 0, epoch_id, Memory::Aside(entry));
        let copy = self.add(Extent { end: bytes as u32, held: 1, ..place });
        self.release(at);
        Location { extent: copy, offset: 0 }
    }

    // ---- where things are

    /// The block in which a record at `at` lies or one before it, as a place to start a scan from.
    pub fn position(&self, segments: &Segments, at: Location) -> Position {
        let extent = self.extent(at.extent);
        match extent.moved {
            true => Position { segment: extent.segment, offset: 0 },
            false if at.offset >= extent.start => extent.position(extent.start),
            false => self.block_position(segments, Location { offset: 0, ..at }),
        }
    }

    /// Where the block at a place belongs; that may be the next block, which is not begun.
    pub fn block_position(&self, segments: &Segments, at: Location) -> Position {
        let extent = self.extent(at.extent);
        if at.offset >= extent.start {
            return extent.position(at.offset);
        }
        // Forgotten with the segment that it was in: what waited there was rewritten, and is looked
        // for from the beginning.
        let Some((header, _)) = BlockHeader::decode(self.bytes(at)) else { return Position::default() };
        // What stayed in a failed segment may have been rewritten since: then it is looked for from
        // its beginning.
        let is_there = segments.find(header.at.segment).is_some_and(|segment| segment.nonce == header.nonce);
        if is_there { header.at } else { Position { offset: 0, ..header.at } }
    }

    /// The place in memory of a position at which a block begins or will begin.
    pub fn resident(&self, at: Position) -> Option<Location> {
        let found = self.extents.iter().enumerate().find(|(index, extent)| {
            let open = u32::from(self.current == Some(*index as u32));
            let open_end = extent.base + (extent.end - extent.start) + open;
            extent.memory != Memory::None
                && !extent.moved
                && extent.segment == at.segment
                && (extent.base..open_end).contains(&at.offset)
        });
        found.map(|(index, extent)| Location { extent: index as u32, offset: extent.start + at.offset - extent.base })
    }

    /// Bytes from a place in a segment to its end, or to the next block that is still to be
    /// written: of that one a read would get a part.
    pub fn written_behind(&self, at: Position, segment_end: u32) -> u32 {
        let unwritten = self.extents.iter().filter(|e| e.unwritten > 0 && e.segment == at.segment);
        let next = unwritten.map(|extent| extent.base).filter(|base| *base > at.offset).min();
        next.unwrap_or(segment_end) - at.offset
    }

    /// Whether a copy's block at a place is one that was open, and has all of it still.
    pub fn has_open_copy(&self, at: Location, open: OpenPlace) -> bool {
        self.extent(at.extent).open_copy == Some(OpenPlace { start: at.offset, ..open })
    }

    // ---- segments come and go

    /// A run of segments was rewritten densely, in the place of the last one.
    pub fn follow_rewrite(&mut self, run: &RangeInclusive<SegmentNumber>) {
        for extent in self.extents.iter_mut().filter(|extent| run.contains(&extent.segment)) {
            debug_assert_eq!(extent.unwritten, 0);
            (extent.segment, extent.moved) = (*run.end(), true);
        }
    }

    /// Segments are given up without a word: what the block file still has of them must not pass
    /// for some whose files are to come. All of it is on disk, or was freed.
    pub fn forget_blocks(&self, segments: RangeInclusive<SegmentNumber>) {
        for slot in 0..self.slots {
            let start = self.slot_offset(slot);
            for at in (start..start + self.block_bytes as usize).step_by(self.physical as usize) {
                let found = BlockHeader::decode(self.memory.bytes(at..at + BLOCK_HEADER_BYTES));
                if found.is_some_and(|(header, _)| segments.contains(&header.at.segment)) {
                    self.memory.write(at, &[0; BLOCK_HEADER_BYTES]);
                }
            }
        }
    }

    /// The sealed blocks in slots whose entries have numbers from `number` on, in their order. What
    /// a freed segment held is on disk, and may be forgotten in memory.
    pub fn blocks_from(&self, segments: &Segments, number: RecordNumber) -> Vec<InSlot> {
        let mut found = Vec::new();
        for (index, extent) in self.extents.iter().enumerate() {
            if !extent.is_in_slot() || extent.moved || segments.find(extent.segment).is_none() {
                continue;
            }
            let mut at = Location { extent: index as u32, offset: extent.start };
            while at.offset < extent.end {
                let decoded = BlockHeader::decode(self.bytes(at));
                let Some((header, Some(seal))) = decoded else { unreachable!("an extent holds whole blocks") };
                let bytes = round_up(seal.used, self.physical);
                if header.first_number >= number {
                    found.push(InSlot { extent: at.extent, offset: at.offset, header, seal, bytes });
                }
                at.offset += bytes;
            }
        }
        found.sort_unstable_by_key(|block| block.header.first_number);
        found
    }

    /// Copies an extent to a free slot, from `piece` on as it is encoded for `at`. The last block
    /// comes first, and each is made valid by its header. What lies before stays where it is on
    /// disk; here it is only looked at.
    pub fn copy_to_slot(
        &mut self,
        piece: &[InSlot],
        at: Position,
        encode: impl Fn(&[u8], &InSlot, Position) -> Vec<u8>,
    ) {
        let (index, start) = (piece[0].extent, piece[0].offset);
        let old_slot = self.extent(index).slot().expect("in a slot");
        let new_slot = self.free_slots.pop().expect("one is kept for this");
        let target = self.slot_offset(new_slot);
        for block in piece.iter().rev() {
            let place = Position { offset: at.offset + (block.offset - start), ..at };
            let old = &self.bytes_of_slot(old_slot, block.offset as usize)[..block.bytes as usize];
            let bytes = encode(old, block, place);
            let target = target + block.offset as usize;
            self.memory.write(target + BLOCK_HEADER_BYTES, &bytes[BLOCK_HEADER_BYTES..]);
            // A process that is killed here must not leave a header over what is not yet there.
            compiler_fence(Ordering::SeqCst);
            self.memory.write(target, &bytes[..BLOCK_HEADER_BYTES]);
            compiler_fence(Ordering::SeqCst);
        }
        let before = self.bytes_of_slot(old_slot, 0)[..start as usize].to_vec();
        self.memory.write(target, &before);
        compiler_fence(Ordering::SeqCst);
        let extent = &mut self.extents[index as usize];
        (extent.memory, extent.segment) = (Memory::Slot(new_slot), at.segment);
        (extent.base, extent.start, extent.unwritten) = (at.offset, start, piece.len() as u32);
        self.free_slots.push(old_slot);
    }

    // ---- invariants

    /// How many extents there are, free ones too.
    pub fn size(&self) -> usize {
        self.extents.len()
    }

    /// Asserts that each slot and each extent is free or used, and never both.
    pub fn check(&self) {
        let mut slots = vec![false; self.slots as usize];
        let mut take = |slot: u32| assert!(!std::mem::replace(&mut slots[slot as usize], true), "slot {slot} twice");
        self.free_slots.iter().for_each(|slot| take(*slot));
        self.extents.iter().filter_map(Extent::slot).for_each(take);
        assert!(slots.iter().all(|used| *used), "a slot is neither free nor used");
        let heap = self.extents.iter().filter(|extent| matches!(extent.memory, Memory::Heap(_))).count();
        assert_eq!(heap, self.heap_extents, "extents on the heap");
        let aside = self.extents.iter().map(|extent| match &extent.memory {
            Memory::Aside(entry) => entry.len(),
            _ => 0,
        });
        assert_eq!(aside.sum::<usize>(), self.aside_bytes, "bytes kept aside");
        assert!(self.aside_bytes <= self.aside_bytes_max(), "{} bytes kept aside", self.aside_bytes);
        assert!(heap <= self.heap_extents_max(), "{heap} extents on the heap");
        let mut free = vec![false; self.extents.len()];
        for index in &self.free_extents {
            assert!(!std::mem::replace(&mut free[*index as usize], true), "extent {index} is free twice");
        }
        for (index, extent) in self.extents.iter().enumerate() {
            assert_eq!(extent.memory == Memory::None, free[index], "extent {index} is free and used: {extent:?}");
            let used = extent.held > 0 || extent.unwritten > 0 || self.current == Some(index as u32);
            assert_eq!(used, !free[index], "extent {index} is kept and of no use, or used and free: {extent:?}");
            // What was read back is of blocks that may have been larger then.
            let is_bounded = extent.end <= self.block_bytes || !extent.is_in_slot();
            assert!(extent.start <= extent.end && is_bounded || free[index], "{extent:?}");
            assert!(extent.unwritten == 0 || extent.is_in_slot(), "blocks are written from slots: {extent:?}");
        }
        assert!(self.current.is_none_or(|current| self.extent(current).is_in_slot()), "filled, and not in a slot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::KeptHeaders;
    use crate::journal::BlockMemory;

    #[test]
    fn a_key_is_the_epoch_in_32_digits_the_core_and_the_number() {
        for (epoch_id, core, number) in [(0, 0, 0), (0xab << 64 | 7, 15, 1_234_567), (u128::MAX, u16::MAX, u64::MAX)] {
            let payload = RecordPayload {
                origin: 0,
                first_byte_wall_ns: 0,
                frame_us: 0,
                key: b"",
                body_hash: 0,
                hashes: None,
                headers: KeptHeaders::default(),
                data: b"",
            };
            let mut key = String::new();
            RecordView { number: RecordNumber(number), flags: 0, epoch_id, payload }.write_key(CoreId(core), &mut key);
            assert_eq!(key, format!("{epoch_id:032x}-{core}-{number}"));
        }
    }

    /// A window of four slots, the first of which is being filled.
    fn filled() -> Window {
        let memory = BlockMemory::heap(BLOCK_FILE_HEADER_BYTES + 4 * 4096);
        let mut window = Window::new(memory.into(), 4096, 512, true);
        window.begin(Position { segment: SegmentNumber(1), offset: 512 }, 7);
        window.check();
        window
    }

    #[test]
    #[should_panic(expected = "slot 0 twice")]
    fn a_slot_that_is_free_and_used_is_found() {
        let mut window = filled();
        window.free_slots.push(0);
        window.check();
    }

    #[test]
    #[should_panic(expected = "is kept and of no use")]
    fn an_extent_that_nobody_holds_and_nobody_frees_is_found() {
        let mut window = filled();
        window.current = None;
        window.check();
    }

    #[test]
    #[should_panic(expected = "extents on the heap")]
    fn an_extent_on_the_heap_that_is_not_counted_is_found() {
        let mut window = filled();
        window.add_read(Position::default(), 7, vec![0; 512]);
        window.check();
        window.heap_extents = 0;
        window.check();
    }
}
