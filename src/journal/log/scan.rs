//! Reading back what lies behind the window.

use super::trouble::Trouble;
use super::{Extent, Found, Journal, Location, Memory, RETRY_AFTER_NS, Scan, Step};
use crate::ground::{Now, RecordNumber};
use crate::journal::format::{
    BlockHeader, ENTRY_HEADER_BYTES, Entries, Entry, Kind, Position, RecordPayload, round_up,
};
use crate::journal::op::{Op, Ops};
use crate::journal::segment::Segment;

impl Journal {
    /// Where everything that is still to be delivered begins, or later.
    pub fn oldest(&self) -> Position {
        self.segments.front().map_or(Position::default(), Segment::first_position)
    }

    /// The block in which a record at `at` lies or one before it, as a place to start a scan from.
    pub fn position(&self, at: Location) -> Position {
        let extent = &self.extents[at.extent as usize];
        match extent.moved {
            true => Position { segment: extent.segment, offset: 0 },
            false if at.offset >= extent.start => extent.position(extent.start),
            false => self.block_position(at.extent, 0),
        }
    }

    /// Where the block at an offset of an extent belongs; that may be the next block, which is not begun.
    pub(super) fn block_position(&self, extent: u32, offset: u32) -> Position {
        let place = &self.extents[extent as usize];
        if offset >= place.start {
            return place.position(offset);
        }
        // Forgotten with the segment that it was in: what waited there was rewritten, and is looked for from the beginning.
        let found = BlockHeader::decode(self.extent_memory(extent, offset as usize));
        let Some((header, _)) = found else { return Position::default() };
        // What stayed in a failed segment may have been rewritten since: then it is looked for from its beginning.
        let is_there = self.segments.iter().any(|s| s.number == header.at.segment && s.nonce == header.nonce);
        if is_there { header.at } else { Position { offset: 0, ..header.at } }
    }

    /// Starts a walk at the beginning of a block.
    pub fn start_scan(&mut self, scan: &mut Scan, at: Position) {
        assert!(!scan.reading);
        self.release_left(scan);
        self.leave(scan);
        self.release_left(scan);
        (scan.at, scan.seen_below) = (at, RecordNumber(0));
    }

    pub(super) fn leave(&mut self, scan: &mut Scan) {
        if let Some((extent, offset)) = scan.extent.take() {
            scan.at = self.block_position(extent, offset);
            let before = scan.left.replace(extent);
            debug_assert!(before.is_none(), "a step releases what the one before left");
        }
    }

    pub(super) fn release_left(&mut self, scan: &mut Scan) {
        if let Some(extent) = scan.left.take() {
            self.release(Location { extent, offset: 0 });
        }
    }

    /// One step of a walk: appends the waiting records of the next block to `found`. They are not held yet.
    pub fn scan(&mut self, now: Now, scan: &mut Scan, found: &mut Vec<Found>, ops: &mut Ops<'_>) -> Step {
        if scan.reading || scan.retry_ns.is_some_and(|at| now.mono_ns < at) {
            return Step::Wait;
        }
        scan.retry_ns = None;
        self.release_left(scan);
        loop {
            if let Some((extent, offset)) = scan.extent {
                if let Some(bytes) = self.open_bytes(extent, offset) {
                    self.collect(scan, extent, offset, bytes, found);
                    self.leave(scan);
                    return Step::Tail;
                }
                if offset < self.extents[extent as usize].end {
                    let bytes = self.collect_block(scan, extent, offset, found);
                    scan.extent = Some((extent, offset + bytes));
                    return Step::Block;
                }
                let tail = self.current == Some(extent);
                self.leave(scan);
                self.release_left(scan); // this step has found nothing in it
                if tail {
                    return Step::Tail;
                }
            }
            // The oldest segments may have been freed under the walk.
            let index = self.segments.partition_point(|s| s.number < scan.at.segment);
            let Some(segment) = self.segments.get(index) else { return Step::Tail };
            if segment.number > scan.at.segment || scan.at.offset == 0 {
                scan.at = segment.first_position();
            }
            if let Some((extent, offset)) = self.resident(scan.at) {
                // What is found may be held for long. The slots that are kept back must not be, not even the one that is being
                // filled: without them there would be no room for the ids and marks that end the holding.
                let place = if self.extents[extent as usize].slot().is_none() || self.has_window_room() {
                    Some((extent, offset))
                } else if self.is_nothing_behind(extent, offset) {
                    return Step::Tail;
                } else {
                    self.copy_to_heap(extent, offset)
                };
                let Some((extent, offset)) = place else { return Step::Wait };
                self.hold(Location { extent, offset: 0 });
                scan.extent = Some((extent, offset));
                continue;
            }
            let (segment_end, block_bytes) = (segment.end, segment.block_bytes.max(self.options.block_bytes));
            if scan.at.offset >= segment_end {
                if index + 1 == self.segments.len() {
                    return Step::Tail;
                }
                scan.at = self.segments[index + 1].first_position();
                continue;
            }
            if !self.is_file_ready(scan.at.segment) {
                // Its file was lost and is made again: what memory does not hold of it is nowhere.
                scan.at.offset += self.written_behind(scan.at, segment_end);
                continue;
            }
            if self.heap_extents < self.heap_extents_max() && !self.rewriting.is_replacing(scan.at.segment) {
                scan.reading = true;
                self.segments[index].reads += 1;
                self.counters.journal_read_backs += 1;
                let bytes = self.written_behind(scan.at, segment_end).min(block_bytes);
                ops(Op::ReadBack { segment: scan.at.segment, offset: scan.at.offset, buffer: vec![0; bytes as usize] });
            }
            return Step::Wait;
        }
    }

    /// Bytes of the open block, if that is at a place; in a copy, if the copy has all of it.
    pub(super) fn open_bytes(&self, extent: u32, offset: u32) -> Option<u32> {
        let open = self.open.as_ref()?;
        if self.current == Some(extent) {
            return (open.start == offset).then_some(open.used);
        }
        let place = &self.extents[extent as usize];
        (place.open_copy == Some((offset, open.used)) && open.header.at == place.position(offset)).then_some(open.used)
    }

    /// Whether a place in a slot is the very end of the log.
    pub(super) fn is_nothing_behind(&self, extent: u32, offset: u32) -> bool {
        let empty = self.open.as_ref().is_none_or(|open| open.entries == 0);
        self.current == Some(extent) && offset == self.extents[extent as usize].end && empty
    }

    /// The extent in memory that holds a position at which a block begins or will begin.
    pub(super) fn resident(&self, at: Position) -> Option<(u32, u32)> {
        let found = self.extents.iter().enumerate().find(|(index, extent)| {
            let open = u32::from(self.current == Some(*index as u32));
            let open_end = extent.base + (extent.end - extent.start) + open;
            extent.memory != Memory::None
                && !extent.moved
                && extent.segment == at.segment
                && (extent.base..open_end).contains(&at.offset)
        });
        found.map(|(index, extent)| (index as u32, extent.start + at.offset - extent.base))
    }

    /// Bytes from a place in a segment to its end, or to the next block that is still to be written: of that one a read
    /// would get a part.
    pub(super) fn written_behind(&self, at: Position, segment_end: u32) -> u32 {
        let unwritten = self.extents.iter().filter(|e| e.unwritten > 0 && e.segment == at.segment);
        let next = unwritten.map(|extent| extent.base).filter(|base| *base > at.offset).min();
        next.unwrap_or(segment_end) - at.offset
    }

    pub(super) fn heap_extents_max(&self) -> usize {
        (self.slots as usize / 4).max(2)
    }

    /// Copies a slot's blocks from an offset on, the open one too; the copy and the offset in it.
    pub(super) fn copy_to_heap(&mut self, index: u32, from: u32) -> Option<(u32, u32)> {
        if self.heap_extents >= self.heap_extents_max() {
            return None;
        }
        let Extent { end, epoch_id, .. } = self.extents[index as usize];
        let Position { segment, offset: base } = self.extents[index as usize].position(from);
        let open = self.open.as_ref().filter(|_| self.current == Some(index));
        let open_copy = open.map(|open| (open.start - from, open.used));
        let copied_end = open.map_or(end, |open| open.start + open.used);
        let heap = self.extent_memory(index, 0)[from as usize..copied_end as usize].to_vec();
        let copy = Extent { end: end - from, open_copy, ..Extent::new(segment, base, epoch_id, Memory::Heap(heap)) };
        Some((self.add_extent(copy), 0))
    }

    /// A read is over: the walk goes on in what was read.
    pub(super) fn handle_read_back(
        &mut self,
        now: Now,
        scan: &mut Scan,
        at: Position,
        mut buffer: Vec<u8>,
        result: Result<usize, i32>,
    ) {
        assert!(scan.reading && scan.at == at);
        scan.reading = false;
        let segment = self.segments.iter_mut().find(|s| s.number == at.segment).expect("a segment that is read stays");
        segment.reads -= 1;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(errno) => {
                self.counters.journal_errors += 1;
                scan.retry_ns = Some(now.mono_ns + RETRY_AFTER_NS);
                self.fail(Trouble::Read, at.segment, errno);
                return;
            }
        };
        self.heal(Trouble::Read);
        let segment = self.segments.iter_mut().find(|s| s.number == at.segment).expect("found above");
        let (nonce, segment_end, physical) = (segment.nonce, segment.end, segment.physical);
        buffer.truncate(bytes);
        let mut end = 0;
        let mut epoch_id = None;
        while let Some((header, Some(seal))) = BlockHeader::decode(&buffer[end..]) {
            let block = round_up(seal.used, physical) as usize;
            let here = Position { segment: at.segment, offset: at.offset + end as u32 };
            let same_epoch = epoch_id.is_none_or(|id| id == header.epoch_id);
            if header.nonce != nonce || header.at != here || end + block > buffer.len() || !same_epoch {
                break;
            }
            epoch_id = Some(header.epoch_id);
            end += block;
            if end == buffer.len() {
                break;
            }
        }
        let Some(epoch_id) = epoch_id else {
            // Damage, or what a loss of power has left behind a hole: on to the next block.
            let is_block = |start: &usize| {
                let here = Position { segment: at.segment, offset: at.offset + *start as u32 };
                BlockHeader::decode(&buffer[*start..])
                    .is_some_and(|(found, _)| found.nonce == nonce && found.at == here)
            };
            let next = (physical as usize..buffer.len()).step_by(physical as usize).find(is_block);
            let skipped = next.unwrap_or(buffer.len()).max(physical as usize) as u32;
            // What the start found it has told.
            let told = at.segment < self.first_own_segment && self.report.torn + self.report.damaged > 0;
            if !told {
                tracing::error!(
                    "journal of core {}: no block at {} to {} of segment {}",
                    self.options.core,
                    at.offset,
                    at.offset + skipped,
                    at.segment
                );
                self.counters.journal_errors += 1;
            }
            scan.at.offset = (at.offset + skipped).min(segment_end);
            return;
        };
        buffer.truncate(end);
        buffer.shrink_to_fit();
        let held = 1; // by the walk
        let place = Extent::new(at.segment, at.offset, epoch_id, Memory::Heap(buffer));
        let extent = Extent { end: end as u32, held, ..place };
        scan.extent = Some((self.add_extent(extent), 0));
    }

    /// Bytes to the next block, too.
    pub(super) fn collect_block(&self, scan: &mut Scan, extent: u32, offset: u32, found: &mut Vec<Found>) -> u32 {
        let place = &self.extents[extent as usize];
        let Some((header, seal)) = BlockHeader::decode(self.extent_memory(extent, offset as usize)) else {
            // Forgotten with its segment: nothing of that waits here.
            return if offset < place.start { place.start - offset } else { place.end - offset };
        };
        let used = seal.expect("a block below the extent's end is sealed").used;
        self.collect(scan, extent, offset, used, found);
        match self.segments.iter().find(|s| s.number == header.at.segment) {
            Some(segment) => round_up(used, segment.physical),
            // It failed after this block, and is gone; what follows is of another one.
            None if place.start > offset => round_up(used, self.physical),
            // It was freed under the walk: nothing of it waits any more.
            None => place.end - offset,
        }
    }

    pub(super) fn collect(&self, scan: &mut Scan, extent: u32, offset: u32, bytes: u32, found: &mut Vec<Found>) {
        let block = &self.extent_memory(extent, offset as usize)[..bytes as usize];
        let (block_header, _) = BlockHeader::decode(block).expect("a block begins with its header");
        let BlockHeader { at, nonce, .. } = block_header;
        let Some(segment) = self.segments.iter().find(|s| s.number == at.segment && s.nonce == nonce) else { return };
        let mut entries = Entries::new(block, nonce, at.offset);
        loop {
            for entry in entries.by_ref() {
                let Entry { header, payload, .. } = entry;
                let waits = header.kind == Kind::Record && segment.is_waiting(header.number);
                let aside = !scan.parked_too && self.parked.contains_key(&header.number);
                if !waits || aside || header.number < scan.seen_below {
                    continue;
                }
                let id = RecordPayload::decode(payload).origin;
                if let Some(&origin) = self.origin_ids.get(&id) {
                    let at = Location { extent, offset: offset + entry.offset as u32 };
                    found.push(Found { number: header.number, origin, at });
                    scan.seen_below = header.number.next();
                }
            }
            if entries.offset() + ENTRY_HEADER_BYTES > block.len() || entries.resynchronise().is_none() {
                return;
            }
        }
    }
}
