//! The writer: entries become blocks, blocks are sealed, written in their order, and counted as
//! committed. It knows how far the log is on disk; it never knows which records wait, and chooses
//! no segment.

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, EntryHeader, Kind, Position, Seal, entry_bytes, round_up,
};
use super::op::{Op, Ops};
use super::segments::Segments;
use super::window::{Location, Window};
use crate::config::Durability;
use crate::ground::count::Counters;
use crate::ground::{LaneNumber, Now, RecordNumber};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{Ordering, compiler_fence};

/// Blocks written at the same time.
const COMMITS_MAX: usize = 4;
/// A block that the kernel did not take is tried again after this, ...
const AGAIN_AFTER_NS: u64 = 1_000_000;
/// ... and at last after this, as long as it takes none.
const AGAIN_AFTER_MAX_NS: u64 = 100_000_000;

/// Where the open block lies in its extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenPlace {
    pub start: u32,
    /// Bytes used, header included.
    pub used: u32,
}

#[derive(Debug)]
struct OpenBlock {
    header: BlockHeader,
    place: OpenPlace,
    entries: u32,
    opened_ns: u64,
}

/// A sealed block that is not known to be on disk with all before it.
#[derive(Debug)]
pub(super) struct Block {
    pub at: Position,
    pub extent: u32,
    pub memory_offset: u32,
    pub bytes: u32,
    pub first_number: RecordNumber,
    /// Entries below this number are in this block or before it.
    pub end_number: RecordNumber,
    /// When its first entry came; of what was taken over from an earlier start, when the first turn
    /// was.
    pub opened_ns: Option<u64>,
}

impl Block {
    fn commit(&self, sync: bool) -> Op {
        let Self { at, memory_offset, bytes, .. } = *self;
        Op::Commit { memory_offset, segment: at.segment, offset: at.offset, bytes, sync }
    }
}

/// With more sealed blocks than these behind those in flight, the disk is behind: where a machine's answer
/// waits for a commit, and elsewhere.
const WAITING_BLOCKS_MAX: usize = 2;
const UNWRITTEN_BLOCKS_MAX: usize = 16;

#[derive(Debug)]
struct InFlight {
    block: Block,
    state: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Waiting,
    /// The kernel did not take it: it is asked for again.
    Again,
    Done,
    Failed,
}

/// An entry of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unwritten<'a> {
    pub flags: u8,
    /// Of the payload.
    pub parts: [&'a [u8]; 4],
}

impl Unwritten<'_> {
    /// Of the payload.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// Commits that the kernel has not taken since the last one that it has.
#[derive(Debug, Clone, Copy)]
struct PutOff {
    since_ns: u64,
    wait_ns: u64,
}

/// Owns the open block, the sealed ones and those in flight, the number that comes next, and how
/// far all is written.
#[derive(Debug)]
pub(super) struct Writer {
    durability: Durability,
    epoch_id: u128,
    physical: u32,
    next_number: RecordNumber,
    /// Entries below are written.
    committed: RecordNumber,
    /// All before it is durable, as blocks say.
    watermark: Position,
    open: Option<OpenBlock>,
    sealed: VecDeque<Block>,
    in_flight: VecDeque<InFlight>,
    /// Commits wait until then: the last ones failed.
    retry_ns: Option<u64>,
    put_off: Option<PutOff>,
    /// It is a commit that brings an entry to the configured level, and no copy: at level `power`,
    /// and at `process` where block memory is lost with the process.
    acknowledges_commits: bool,
}

impl Writer {
    /// A log that goes on with an entry number; all before it is written, and durable up to
    /// `watermark`.
    pub fn new(
        durability: Durability,
        epoch_id: u128,
        physical: u32,
        next_number: RecordNumber,
        watermark: Position,
    ) -> Self {
        Self {
            durability,
            epoch_id,
            physical,
            next_number,
            committed: next_number,
            watermark,
            open: None,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            retry_ns: None,
            put_off: None,
            acknowledges_commits: durability == Durability::Power,
        }
    }

    /// Block memory does not survive the process: nothing in it counts before it is written.
    pub fn acknowledge_commits(&mut self) {
        self.acknowledges_commits = self.durability != Durability::Memory;
    }

    /// Whether whole blocks wait for those in flight: more comes than the disk takes.
    pub fn is_behind(&self) -> bool {
        self.sealed.len() > if self.acknowledges_commits { WAITING_BLOCKS_MAX } else { UNWRITTEN_BLOCKS_MAX }
    }

    /// Whether it is a commit that brings an entry to the configured level, and no copy.
    pub fn acknowledges_commits(&self) -> bool {
        self.acknowledges_commits
    }

    /// The number of the entry that comes next.
    pub fn next_number(&self) -> RecordNumber {
        self.next_number
    }

    /// Entries below this number are written.
    pub fn committed(&self) -> RecordNumber {
        self.committed
    }

    /// Entries below this number have reached the configured level.
    pub fn durable_below(&self) -> RecordNumber {
        if self.acknowledges_commits() { self.committed } else { self.next_number }
    }

    pub fn watermark(&self) -> Position {
        self.watermark
    }

    /// A sync has made all before a place durable.
    pub fn raise_watermark(&mut self, to: Position) {
        self.watermark = self.watermark.max(to);
    }

    fn on_disk(&self) -> bool {
        self.durability != Durability::Memory
    }

    // ---- the open block

    /// Where the open block begins. Room was made.
    pub fn open_at(&self) -> Position {
        self.open.as_ref().expect("room was made").header.at
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the open block has an entry.
    pub fn has_entries(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.entries > 0)
    }

    /// Whether the open block has room for `bytes` in a slot of `slot_bytes`.
    pub fn has_room(&self, bytes: usize, slot_bytes: u32) -> bool {
        let Some(OpenBlock { place, .. }) = self.open else { return false };
        (place.start + place.used) as usize + bytes <= slot_bytes as usize
    }

    /// Opens a block behind what the current extent holds.
    pub fn open(&mut self, now: Now, window: &Window, segments: &Segments) {
        let extent = window.current().expect("a block is opened in the current extent");
        let start = window.extent(extent).end;
        let header = BlockHeader {
            nonce: segments.last().map_or(0, |segment| segment.nonce),
            at: window.extent(extent).position(start),
            first_number: self.next_number,
            epoch_id: self.epoch_id,
            watermark: self.watermark,
            oldest_segment: segments.oldest_named(),
            dense: None,
        };
        window.write(window.memory_offset(Location { extent, offset: start }), &header.encode());
        let place = OpenPlace { start, used: BLOCK_HEADER_BYTES as u32 };
        self.open = Some(OpenBlock { header, place, entries: 0, opened_ns: now.mono_ns });
    }

    /// Appends an entry to the open block, which has room for it.
    pub fn write_entry(
        &mut self,
        window: &Window,
        kind: Kind,
        flags: u8,
        lane: LaneNumber,
        parts: &[&[u8]],
    ) -> (RecordNumber, Location) {
        let extent = window.current().expect("room was made");
        let open = self.open.as_mut().expect("room was made");
        let number = self.next_number;
        let header = EntryHeader { kind, flags, lane, number };
        let offset = open.place.start + open.place.used;
        let head = header.encode(open.header.nonce, open.header.at.offset + open.place.used, parts);
        let start = window.memory_offset(Location { extent, offset });
        let mut at = start;
        window.write(at, &head);
        at += head.len();
        for part in parts {
            window.write(at, part);
            at += part.len();
        }
        open.place.used += entry_bytes(at - start - ENTRY_HEADER_BYTES) as u32;
        open.entries += 1;
        self.next_number = number.next();
        (number, Location { extent, offset })
    }

    /// Appends records to the open block, which has room for them, so that a kill at any moment leaves all of them or none: the
    /// first one is written last, and its header at the very end. A walk ends where an entry is not whole.
    pub fn write_batch(
        &mut self,
        window: &Window,
        lane: LaneNumber,
        entries: &[Unwritten<'_>],
    ) -> Vec<(RecordNumber, Location)> {
        let extent = window.current().expect("room was made");
        let open = self.open.as_mut().expect("room was made");
        let first = self.next_number;
        let mut written = Vec::with_capacity(entries.len());
        for (entry, index) in entries.iter().zip(0..) {
            let offset = open.place.start + open.place.used;
            written.push((first.plus(index), Location { extent, offset }));
            open.place.used += entry_bytes(entry.bytes()) as u32;
        }
        open.entries += entries.len() as u32;
        self.next_number = first.plus(entries.len() as u64);
        for (entry, (number, at)) in entries.iter().zip(&written).rev() {
            let header = EntryHeader { kind: Kind::Record, flags: entry.flags, lane, number: *number };
            let offset = open.header.at.offset + (at.offset - open.place.start);
            let head = header.encode(open.header.nonce, offset, &entry.parts);
            let start = window.memory_offset(*at);
            let mut behind = start + head.len();
            for part in entry.parts {
                window.write(behind, part);
                behind += part.len();
            }
            // The process can be killed between any two stores: the compiler must not put this one before those.
            compiler_fence(Ordering::SeqCst);
            window.write(start, &head);
            compiler_fence(Ordering::SeqCst);
        }
        written
    }

    /// Ends the open block. It is written when its turn comes and never touched again.
    pub fn seal(&mut self, window: &mut Window, segments: &mut Segments) {
        let Some(open) = self.open.take() else { return };
        let extent = window.current().expect("an open block lies in the current extent");
        if open.entries == 0 {
            return; // the header is overwritten by the next block at this place
        }
        let OpenPlace { start, used } = open.place;
        let memory_offset = window.memory_offset(Location { extent, offset: start });
        let bytes = round_up(used, self.physical);
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut pad = used;
        while pad < bytes {
            let count = (bytes - pad).min(ZEROS.len() as u32);
            window.write(memory_offset + pad as usize, &ZEROS[..count as usize]);
            pad += count;
        }
        let seal = Seal { used, entries: open.entries };
        window.write(memory_offset, &open.header.encode_sealed(seal));
        window.seal(start + bytes, self.on_disk());
        if self.on_disk() {
            segments.block_sealed(open.header.at.offset + bytes);
            self.sealed.push_back(Block {
                at: open.header.at,
                extent,
                memory_offset: memory_offset as u32,
                bytes,
                first_number: open.header.first_number,
                end_number: self.next_number,
                opened_ns: Some(open.opened_ns),
            });
        }
    }

    /// Bytes of the open block, if that is at a place; in a copy, if the copy has all of it.
    pub fn open_bytes(&self, window: &Window, at: Location) -> Option<u32> {
        let OpenBlock { header, place, .. } = self.open.as_ref()?;
        if window.current() == Some(at.extent) {
            return (place.start == at.offset).then_some(place.used);
        }
        let is_copy = window.has_open_copy(at, *place) && header.at == window.extent(at.extent).position(at.offset);
        is_copy.then_some(place.used)
    }

    /// Where the open block is, if that is in an extent.
    pub fn open_in(&self, window: &Window, extent: u32) -> Option<OpenPlace> {
        self.open.as_ref().filter(|_| window.current() == Some(extent)).map(|open| open.place)
    }

    /// Whether a place in a slot is the very end of the log.
    pub fn is_end(&self, window: &Window, at: Location) -> bool {
        window.current() == Some(at.extent) && at.offset == window.extent(at.extent).end && !self.has_entries()
    }

    // ---- when

    /// When the open block is to be written though it is not full, `after_ns` behind its first
    /// entry. One that could not be written yet is not due: what still comes goes into the same
    /// block.
    pub fn seal_deadline_ns(&self, segments: &Segments, after_ns: u64) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| open.entries > 0)?;
        let can_write = self.retry_ns.is_none() && segments.is_file_ready(open.header.at.segment);
        can_write.then(|| open.opened_ns + after_ns)
    }

    /// Whether another commit may be in flight.
    pub fn may_commit(&self) -> bool {
        self.in_flight.len() < COMMITS_MAX
    }

    /// Whether commits wait, since the last ones failed.
    pub fn is_held_back(&self, now: Now) -> bool {
        self.retry_ns.is_some_and(|at| now.mono_ns < at)
    }

    /// When commits are tried again.
    pub fn retry_ns(&self) -> Option<u64> {
        self.retry_ns
    }

    /// Commits wait until then.
    pub fn hold_back(&mut self, until_ns: u64) {
        self.retry_ns = Some(until_ns);
    }

    /// When the oldest block was begun that is not on disk yet.
    pub fn uncommitted_since_ns(&self) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| open.entries > 0 && self.on_disk()).map(|open| open.opened_ns);
        self.oldest_uncommitted().map_or(open, |block| block.opened_ns)
    }

    /// The first entry of the sealed blocks that are not known to be on disk.
    pub fn first_uncommitted(&self) -> Option<RecordNumber> {
        self.oldest_uncommitted().map(|block| block.first_number)
    }

    fn oldest_uncommitted(&self) -> Option<&Block> {
        self.in_flight.front().map(|write| &write.block).or(self.sealed.front())
    }

    // ---- commits

    /// Asks for the commits that may be in flight now.
    pub fn commit(&mut self, segments: &Segments, counters: &mut Counters, ops: &mut Ops<'_>) {
        self.retry_ns = None;
        let sync = self.durability == Durability::Power;
        for write in self.in_flight.iter_mut().filter(|write| write.state == Write::Again) {
            write.state = Write::Waiting;
            ops(write.block.commit(sync));
        }
        while self.may_commit() {
            let is_ready = |block: &mut Block| segments.is_file_ready(block.at.segment);
            let Some(block) = self.sealed.pop_front_if(is_ready) else { break };
            counters.journal_writes += 1;
            counters.journal_bytes += u64::from(block.bytes);
            ops(block.commit(sync));
            self.in_flight.push_back(InFlight { block, state: Write::Waiting });
        }
    }

    fn end_write(&mut self, at: Position, state: Write) {
        let write = self.in_flight.iter_mut().find(|write| write.block.at == at).expect("a commit that is in flight");
        assert_eq!(write.state, Write::Waiting);
        write.state = state;
    }

    /// The kernel did not take a block. It is asked for again after a wait, which doubles as long as
    /// none is taken; since when none is.
    pub fn put_off(&mut self, now: Now, at: Position) -> u64 {
        self.end_write(at, Write::Again);
        let is_waiting = self.is_held_back(now); // another one was put off with it
        let PutOff { since_ns, wait_ns } = match self.put_off {
            None => PutOff { since_ns: now.mono_ns, wait_ns: AGAIN_AFTER_NS },
            Some(before) if is_waiting => before,
            Some(before) => PutOff { wait_ns: (before.wait_ns * 2).min(AGAIN_AFTER_MAX_NS), ..before },
        };
        self.put_off = Some(PutOff { since_ns, wait_ns });
        if !is_waiting {
            self.hold_back(now.mono_ns + wait_ns);
        }
        since_ns
    }

    /// A block was not written; it stays until it moves to another segment.
    pub fn commit_failed(&mut self, at: Position) {
        self.end_write(at, Write::Failed);
    }

    /// A block was written. Whether that moved on what is committed: a block counts once all before
    /// it are on disk, for should one of them have to move, it moves, too.
    pub fn committed_block(&mut self, at: Position, window: &mut Window, segments: &mut Segments) -> bool {
        self.end_write(at, Write::Done);
        self.put_off = None;
        let mut advanced = false;
        while let Some(InFlight { block, .. }) = self.in_flight.pop_front_if(|write| write.state == Write::Done) {
            advanced = true;
            // What moves after a failed sync is written once more, and counted already.
            self.committed = self.committed.max(block.end_number);
            if self.durability == Durability::Power {
                self.watermark = Position { segment: block.at.segment, offset: block.at.offset + block.bytes };
            }
            segments.block_written(block.at.segment);
            window.block_written(block.extent);
        }
        advanced
    }

    /// Whether the kernel reads a slot.
    pub fn is_writing(&self) -> bool {
        self.in_flight.iter().any(|write| write.state == Write::Waiting)
    }

    /// All that is not on disk moves: it is listed again where it goes.
    pub fn forget_uncommitted(&mut self) {
        self.in_flight.clear();
        self.sealed.clear();
    }

    /// Lists a block to be written.
    pub fn list(&mut self, block: Block) {
        self.sealed.push_back(block);
    }

    /// What was taken over from an earlier start is listed: it is not committed.
    pub fn begin_at_first_listed(&mut self) {
        if let Some(first) = self.sealed.front() {
            self.committed = first.first_number;
        }
    }

    /// The age of what was taken over counts from the first turn.
    pub fn age_taken_over(&mut self, now: Now) {
        if self.sealed.front().is_some_and(|block| block.opened_ns.is_none()) {
            self.sealed.iter_mut().for_each(|block| block.opened_ns = block.opened_ns.or(Some(now.mono_ns)));
        }
    }

    /// Whether nothing waits to be written, or is being written.
    pub fn is_idle(&self) -> bool {
        !self.has_entries() && self.sealed.is_empty() && self.in_flight.is_empty()
    }

    // ---- invariants

    /// Asserts that blocks lie where extents and segments say, follow each other, and are all
    /// counted there.
    pub fn check(&self, window: &Window, segments: &Segments) {
        assert!(self.in_flight.len() <= COMMITS_MAX, "{} commits in flight", self.in_flight.len());
        assert!(self.committed <= self.next_number, "{} committed of {}", self.committed, self.next_number);
        let (mut of_extents, mut of_segments) = (HashMap::new(), HashMap::new());
        let mut end = None;
        for block in self.in_flight.iter().map(|write| &write.block).chain(&self.sealed) {
            // A start skips numbers behind what it takes over.
            assert!(end.is_none_or(|end| end <= block.first_number), "numbers fall before {block:?}");
            assert!(block.first_number < block.end_number && block.end_number <= self.next_number, "{block:?}");
            // Below level `power` what was written and not synced can have to move, and is written
            // once more.
            let is_new = block.first_number >= self.committed || self.durability != Durability::Power;
            assert!(is_new, "committed, and not written: {block:?}");
            end = Some(block.end_number);
            let extent = window.extent(block.extent);
            let start = window.memory_offset(Location { extent: block.extent, offset: extent.start });
            let offset = (block.memory_offset as usize).checked_sub(start).expect("a block lies in its extent") as u32;
            assert_eq!(extent.position(extent.start + offset), block.at, "{block:?} in {extent:?}");
            assert!(extent.start + offset + block.bytes <= extent.end, "{block:?} in {extent:?}");
            let segment = segments.find(block.at.segment).expect("unwritten segments stay");
            assert!(block.at.offset + block.bytes <= segment.end, "{block:?} in {segment:?}");
            *of_extents.entry(block.extent).or_insert(0) += 1;
            *of_segments.entry(block.at.segment).or_insert(0) += 1;
        }
        for index in 0..window.size() as u32 {
            let blocks = of_extents.get(&index).copied().unwrap_or(0);
            assert_eq!(window.extent(index).unwritten, blocks, "unwritten blocks of extent {index}");
        }
        for segment in segments.iter() {
            let blocks = of_segments.get(&segment.number).copied().unwrap_or(0);
            assert_eq!(segment.unwritten, blocks, "unwritten blocks of segment {}", segment.number);
        }
        if let Some(OpenBlock { place, entries, header, .. }) = &self.open {
            let extent = window.extent(window.current().expect("an open block lies in the current extent"));
            assert_eq!((place.start, header.at), (extent.end, extent.position(extent.end)), "{extent:?}");
            assert_eq!(header.first_number.plus(u64::from(*entries)), self.next_number, "numbers of the open block");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::SegmentNumber;
    use crate::journal::segments::Maker;
    use crate::journal::unfinished::BLOCK_FILE_HEADER_BYTES;
    use crate::journal::{BlockMemory, NO_LANE, Options, Purpose};

    /// One sealed block of one entry, in the first segment of a start.
    fn sealed() -> (Writer, Window, Segments) {
        let options = Options::of_view(crate::ground::CoreId(0));
        let memory = BlockMemory::heap(BLOCK_FILE_HEADER_BYTES + 4 * options.block_bytes as usize);
        let mut window = Window::new(memory.into(), options.block_bytes, 512, true);
        let maker = Maker { epoch: 1, epoch_id: 7, physical: 512 };
        let mut segments = Segments::new(&options, maker, Vec::new(), SegmentNumber(1), 1);
        let mut writer = Writer::new(Durability::Power, 7, 512, RecordNumber(1), Position::default());
        let place = segments.next_place(Purpose::Progress, writer.next_number(), options.block_bytes);
        window.begin(place.expect("room"), 7);
        writer.open(Now::default(), &window, &segments);
        writer.write_entry(&window, Kind::Delivered, 0, NO_LANE, &[]);
        writer.check(&window, &segments);
        writer.seal(&mut window, &mut segments);
        writer.check(&window, &segments);
        (writer, window, segments)
    }

    #[test]
    #[should_panic(expected = "unwritten blocks of extent 0")]
    fn a_block_that_is_forgotten_is_found() {
        let (mut writer, window, segments) = sealed();
        writer.sealed.clear();
        writer.check(&window, &segments);
    }

    #[test]
    #[should_panic(expected = "committed, and not written")]
    fn a_commit_that_is_counted_before_its_time_is_found() {
        let (mut writer, window, segments) = sealed();
        writer.committed = writer.next_number;
        writer.check(&window, &segments);
    }
}
