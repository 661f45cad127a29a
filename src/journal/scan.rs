//! A walk along the log that brings back what lies behind the window. It belongs to its caller, who
//! lends it the journal's owners for a step; it changes nothing of them but what it holds of the
//! window, and the reads that keep a segment.

use super::RETRY_AFTER_NS;
use super::format::{BlockHeader, ENTRY_HEADER_BYTES, Entries, Entry, Kind, Position, RecordPayload, round_up};
use super::ledger::{Ledger, OriginRef};
use super::op::{Op, Ops};
use super::rewriting::{Moved, Rewriting};
use super::segments::Segments;
use super::unreadable::{Outcome, Unreadable};
use super::window::{Location, Window};
use super::writer::Writer;
use crate::ground::{Now, RecordNumber, SegmentNumber};
use std::ops::{ControlFlow, Range, RangeInclusive};

/// A record found behind the window.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its number.
    pub number: RecordNumber,
    /// Who sent it.
    pub origin: OriginRef,
    /// Where it is now.
    pub at: Location,
}

/// Owns the place of a walk along the log, and the extent that it holds there.
#[derive(Debug, Default)]
pub struct Scan {
    at: Position,
    /// The next block in the extent under the walk, which it holds.
    place: Option<Location>,
    /// The extent of the last step, where the walk has left it: held until the next one, so that
    /// the caller can hold its records.
    left: Option<u32>,
    /// Lower numbers were passed. Blocks that move while a walk is among them do not bring it back.
    seen_below: RecordNumber,
    reading: bool,
    /// Records that are kept aside are found, too.
    parked_too: bool,
    /// A failed read is tried again after this.
    retry_ns: Option<u64>,
    unreadable: Unreadable,
}

/// What a step of a [`Scan`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One block's waiting records were appended to the list.
    Block,
    /// A read is under way, or memory must become free first.
    Wait,
    /// All that was ever appended has been seen.
    Tail,
}

/// What a journal lends to a walk.
pub(super) struct Log<'a> {
    pub window: &'a mut Window,
    pub segments: &'a mut Segments,
    pub writer: &'a Writer,
    pub ledger: &'a Ledger,
    pub rewriting: &'a Rewriting,
}

/// What came of a read.
#[derive(Debug, Default)]
pub(super) struct ReadBack {
    /// Bytes that hold no block, where nothing else was found.
    pub blank: Option<Range<u32>>,
    /// Bytes that cannot be read, though others of the disk can.
    pub unreadable: Vec<Range<u32>>,
}

impl Scan {
    /// A walk that also finds what is kept aside.
    pub fn of_all() -> Self {
        Self { parked_too: true, ..Self::default() }
    }

    /// When the walk wants another step though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.retry_ns
    }

    /// Whether what it came to cannot be read.
    pub(super) fn is_failing(&self) -> bool {
        self.unreadable.is_failing()
    }

    /// Whether there are places in the log that it could not read and has passed.
    pub fn has_given_up(&self) -> bool {
        self.unreadable.has_given_up()
    }

    /// Whether a read is under way.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Starts at the beginning of a block.
    pub(super) fn start(&mut self, window: &mut Window, segments: &Segments, at: Position) {
        assert!(!self.reading);
        self.release_left(window);
        self.leave(window, segments);
        self.release_left(window);
        (self.at, self.seen_below) = (at, RecordNumber(0));
    }

    fn leave(&mut self, window: &Window, segments: &Segments) {
        if let Some(place) = self.place.take() {
            self.at = window.block_position(segments, place);
            let before = self.left.replace(place.extent);
            debug_assert!(before.is_none(), "a step releases what the one before left");
        }
    }

    fn release_left(&mut self, window: &mut Window) {
        if let Some(extent) = self.left.take() {
            window.release(Location { extent, offset: 0 });
        }
    }

    /// One step: appends the waiting records of the next block to `found`. They are not held yet.
    pub(super) fn step(&mut self, now: Now, log: &mut Log<'_>, found: &mut Vec<Found>, ops: &mut Ops<'_>) -> Step {
        if self.reading || self.retry_ns.is_some_and(|at| now.mono_ns < at) {
            return Step::Wait;
        }
        self.retry_ns = None;
        self.release_left(log.window);
        loop {
            if let Some(place) = self.place
                && let Some(step) = self.look_in_memory(log, place, found)
            {
                return step;
            }
            if let ControlFlow::Break(step) = self.go_on(now, log, ops) {
                return step;
            }
        }
    }

    /// Looks at the block at a place in memory; `None` where the walk leaves the extent without
    /// one.
    fn look_in_memory(&mut self, log: &mut Log<'_>, place: Location, found: &mut Vec<Found>) -> Option<Step> {
        if let Some(bytes) = log.writer.open_bytes(log.window, place) {
            self.collect(log, place, bytes, found);
            self.leave(log.window, log.segments);
            return Some(Step::Tail);
        }
        if place.offset < log.window.extent(place.extent).end {
            let bytes = self.collect_block(log, place, found);
            self.place = Some(Location { offset: place.offset + bytes, ..place });
            return Some(Step::Block);
        }
        let tail = log.window.current() == Some(place.extent);
        self.leave(log.window, log.segments);
        self.release_left(log.window); // this step has found nothing in it
        tail.then_some(Step::Tail)
    }

    /// Finds in memory what is behind the place where the walk stands, or asks for it.
    fn go_on(&mut self, now: Now, log: &mut Log<'_>, ops: &mut Ops<'_>) -> ControlFlow<Step> {
        let Log { window, segments, writer, rewriting, .. } = log;
        // The oldest segments may have been freed under the walk.
        let index = segments.index_from(self.at.segment);
        let Some(segment) = segments.at(index) else { return ControlFlow::Break(Step::Tail) };
        if segment.number > self.at.segment || self.at.offset == 0 {
            self.at = segment.first_position();
        }
        if let Some(place) = window.resident(self.at) {
            // What is found may be held for long. The slots that are kept back must not be, not
            // even the one that is being filled: without them there would be no room for the ids
            // and marks that end the holding.
            let place = if !window.extent(place.extent).is_in_slot() || window.has_room() {
                Some(place)
            } else if writer.is_end(window, place) {
                return ControlFlow::Break(Step::Tail);
            } else {
                window.copy_to_heap(place, writer.open_in(window, place.extent))
            };
            let Some(place) = place else { return ControlFlow::Break(Step::Wait) };
            window.hold(place);
            self.place = Some(place);
            return ControlFlow::Continue(());
        }
        let (segment_end, block_bytes) = (segment.end, segment.block_bytes.max(window.slot_bytes()));
        if self.at.offset >= segment_end {
            let Some(next) = segments.at(index + 1) else { return ControlFlow::Break(Step::Tail) };
            self.at = next.first_position();
            return ControlFlow::Continue(());
        }
        if !segments.is_file_ready(self.at.segment) {
            // Its file was lost and is made again: what memory does not hold of it is nowhere.
            self.at.offset += window.written_behind(self.at, segment_end);
            return ControlFlow::Continue(());
        }
        if let Some(end) = self.unreadable.end_at(self.at) {
            self.at.offset = end;
            return ControlFlow::Continue(());
        }
        if !window.is_heap_full() && !rewriting.is_replacing(self.at.segment) {
            let bytes = window.written_behind(self.at, segment_end).min(block_bytes) as usize;
            let Some((at, bytes)) = self.unreadable.next_read(segments, self.at, bytes) else {
                self.retry_ns = Some(now.mono_ns + RETRY_AFTER_NS);
                return ControlFlow::Break(Step::Wait);
            };
            self.reading = true;
            segments.begin_read(at.segment);
            ops(Op::ReadBack { segment: at.segment, offset: at.offset, buffer: vec![0; bytes] });
        }
        ControlFlow::Break(Step::Wait)
    }

    /// A read is over: the walk goes on in what was read.
    pub(super) fn read_back(
        &mut self,
        now: Now,
        log: &mut Log<'_>,
        at: Position,
        mut buffer: Vec<u8>,
        result: Result<usize, i32>,
    ) -> Result<ReadBack, i32> {
        assert!(self.reading);
        self.reading = false;
        log.segments.end_read(at.segment);
        let at = self.at;
        let mut unreadable = Vec::new();
        let bytes = match self.unreadable.take(now, at, &buffer, result) {
            None => result.expect("it went as usual"),
            Some(Outcome::GoesOn) => return Ok(ReadBack::default()),
            Some(Outcome::Fails) => {
                self.retry_ns = Some(now.mono_ns + RETRY_AFTER_NS);
                return Err(result.expect_err("it fails"));
            }
            Some(Outcome::Decided { bytes, given_up }) => {
                self.unreadable.forget(|segment| log.segments.find(segment).is_some());
                (buffer, unreadable) = (bytes, given_up);
                buffer.len()
            }
        };
        let segment = log.segments.find(at.segment).expect("a segment that is read stays");
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
            self.at.offset = (at.offset + skipped).min(segment_end);
            return Ok(ReadBack { blank: Some(at.offset..at.offset + skipped), unreadable });
        };
        buffer.truncate(end);
        buffer.shrink_to_fit();
        self.place = Some(log.window.add_read(at, epoch_id, buffer));
        Ok(ReadBack { blank: None, unreadable })
    }

    /// Bytes to the next block, too.
    fn collect_block(&mut self, log: &Log<'_>, place: Location, found: &mut Vec<Found>) -> u32 {
        let extent = log.window.extent(place.extent);
        let Some((header, seal)) = BlockHeader::decode(log.window.bytes(place)) else {
            // Forgotten with its segment: nothing of that waits here.
            let to = if place.offset < extent.start { extent.start } else { extent.end };
            return to - place.offset;
        };
        let used = seal.expect("a block below the extent's end is sealed").used;
        self.collect(log, place, used, found);
        match log.segments.find(header.at.segment) {
            Some(segment) => round_up(used, segment.physical),
            // It failed after this block, and is gone; what follows is of another one.
            None if extent.start > place.offset => log.segments.round_up(used),
            // It was freed under the walk: nothing of it waits any more.
            None => extent.end - place.offset,
        }
    }

    fn collect(&mut self, log: &Log<'_>, place: Location, bytes: u32, found: &mut Vec<Found>) {
        let block = &log.window.bytes(place)[..bytes as usize];
        let (block_header, _) = BlockHeader::decode(block).expect("a block begins with its header");
        let BlockHeader { at, nonce, .. } = block_header;
        let Some(segment) = log.segments.find(at.segment).filter(|segment| segment.nonce == nonce) else { return };
        let mut entries = Entries::new(block, nonce, at.offset);
        loop {
            for entry in entries.by_ref() {
                let Entry { header, payload, .. } = entry;
                let waits = header.kind == Kind::Record && segment.is_waiting(header.number);
                let aside = !self.parked_too && log.ledger.parked_record(header.number).is_some();
                if !waits || aside || header.number < self.seen_below {
                    continue;
                }
                if let Some(origin) = log.ledger.origin_of(RecordPayload::decode(payload).origin) {
                    let at = Location { offset: place.offset + entry.offset as u32, ..place };
                    found.push(Found { number: header.number, origin, at });
                    self.seen_below = header.number.next();
                }
            }
            if entries.offset() + ENTRY_HEADER_BYTES > block.len() || entries.resynchronise().is_none() {
                return;
            }
        }
    }

    /// A run of segments was rewritten: a walk that is in it starts again where that begins now.
    pub(super) fn follow_rewrite(
        &mut self,
        window: &mut Window,
        segments: &Segments,
        run: &RangeInclusive<SegmentNumber>,
    ) {
        let at = self.place.map_or(self.at, |place| window.block_position(segments, place));
        // A block that stayed in a failed segment can be in front of others in an extent that has
        // not moved.
        let under = self.place.map(|place| place.extent).filter(|_| run.contains(&at.segment));
        let is_left = |extent: &u32| window.extent(*extent).moved || under == Some(*extent);
        let extents = [self.place.map(|place| place.extent), self.left].into_iter().flatten();
        let released: Vec<u32> = extents.filter(is_left).collect();
        for extent in released {
            self.place.take_if(|place| place.extent == extent);
            self.left.take_if(|other| *other == extent);
            window.release(Location { extent, offset: 0 });
        }
        if self.place.is_none() {
            debug_assert!(!self.reading || !run.contains(&at.segment));
            self.at = Moved::of(run).position(at);
        }
    }
}
