//! Records that stay in memory until they are delivered.

use super::{Journal, Location, Memory, RecordView};
use crate::journal::format::{ENTRY_HEADER_BYTES, RecordPayload, record_number_at, u32_at};

impl Journal {
    /// Whether a record that is not held is found again by a [`Scan`](super::Scan); at level `memory` there is nothing to read it from.
    pub fn reads_back(&self) -> bool {
        self.on_disk()
    }

    /// Whether the window has room for records that are to stay in memory until they are delivered.
    pub fn has_window_room(&self) -> bool {
        !self.on_disk() || self.free_slots.len() > self.slots_kept_back()
    }

    /// Whether reading back waits for memory.
    pub fn is_window_tight(&self) -> bool {
        self.heap_extents >= self.heap_extents_max()
    }

    /// Slots that are never pinned by waiting records, so that intake and marks go on: a quarter, and the one that a move needs.
    pub(super) fn slots_kept_back(&self) -> usize {
        (self.slots as usize / 4).max(2) + 1
    }

    /// Extents that one lane may pin, so that a stalled one cannot fill the window.
    pub fn lane_extents_max(&self) -> u32 {
        if self.on_disk() { (self.slots / 8).max(2) } else { u32::MAX }
    }

    /// Keeps a record in memory until [`Journal::release`] or [`Journal::settle`].
    pub fn hold(&mut self, at: Location) {
        self.extents[at.extent as usize].held += 1;
    }

    /// The opposite of [`Journal::hold`].
    pub fn release(&mut self, at: Location) {
        let extent = &mut self.extents[at.extent as usize];
        extent.held -= 1;
        if extent.held == 0 {
            self.free_if_unused(at.extent);
        }
    }

    pub(super) fn free_if_unused(&mut self, index: u32) {
        let extent = &mut self.extents[index as usize];
        if extent.held > 0 || extent.unwritten > 0 || self.current == Some(index) {
            return;
        }
        // An extent can be looked at twice, once for its last record and once for its last write.
        match std::mem::replace(&mut extent.memory, Memory::None) {
            Memory::None => return,
            Memory::Slot(slot) => self.free_slots.push(slot),
            Memory::Heap(_) => self.heap_extents -= 1,
        }
        self.free_extents.push(index);
    }

    /// A held record.
    pub fn record(&self, at: Location) -> RecordView<'_> {
        let extent = &self.extents[at.extent as usize];
        debug_assert!(extent.held > 0);
        let bytes = self.extent_memory(at.extent, at.offset as usize);
        let payload = u32_at(bytes, 4) as usize;
        RecordView {
            number: record_number_at(bytes, 16),
            flags: bytes[9],
            epoch_id: extent.epoch_id,
            payload: RecordPayload::decode(&bytes[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + payload]),
        }
    }

    /// An extent's bytes from an offset to its end.
    pub(super) fn extent_memory(&self, index: u32, from: usize) -> &[u8] {
        match &self.extents[index as usize].memory {
            Memory::Heap(bytes) => &bytes[from..],
            Memory::Slot(slot) => self.slot_memory(*slot, from),
            Memory::None => unreachable!("a free extent is not read"),
        }
    }

    /// A slot's bytes from an offset to its end.
    pub(super) fn slot_memory(&self, slot: u32, from: usize) -> &[u8] {
        let start = self.memory_offset(slot);
        self.memory.bytes(start + from..start + self.options.block_bytes as usize)
    }
}
