//! The running journal of one directory: entries go into blocks, blocks into segments, settled segments are freed.
//!
//! Memory is a fixed number of *extents*, each a slot of the block file that mirrors a piece of a segment, plus a few on the
//! heap for what is read back. An extent stays while a block of it is unwritten or a record of it is held by the
//! window ([`Journal::hold`]); nobody keeps a reference into one beyond a call. Its slot can change: what a failed segment
//! did not take is copied for another one, see `moving`.
//!
//! A segment can be begun before its file is there (`coming`): ids and marks go on while the disk is full, and their commits
//! wait; records are taken only into a segment that is ready. What is wrong with the disk, and what that means, is said by
//! `trouble`.

mod append;
mod coming;
mod dense;
mod moving;
mod parked;
mod rewrite;
mod scan;
mod trouble;
mod turn;
mod window;

use super::format::{BlockHeader, Position, RecordPayload, entry_bytes};
use super::segment::Segment;
use super::unfinished::BLOCK_FILE_HEADER_BYTES;
use super::{BlockFile, Op, Options, Report};
use crate::config::Durability;
use crate::ground::{LaneNumber, Now, RecordNumber, SegmentNumber};
use crate::observe::snapshot::{Counters, JournalSnapshot};
use coming::Coming;
use moving::AfterMove;
pub use parked::{ANSWER_BYTES_MAX, Parked, Refused, Unparked};
pub(super) use parked::{SaidIn, shown};
pub use rewrite::Moved;
use rewrite::Rewriting;
use slab::Slab;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use trouble::Troubles;

/// Ids that a service gave ahead and that are not used yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leased {
    /// Tells services apart; 0 is none.
    pub origin: u64,
    /// In the order in which they are to be used.
    pub ids: Vec<Range<u64>>,
}

/// In the header of entries that are of no lane.
const NO_LANE: LaneNumber = LaneNumber(0);
/// At level `memory` there are no segments; blocks say that they are of this one, which no file has.
const IN_MEMORY: SegmentNumber = SegmentNumber(0);
/// Blocks written at the same time.
const COMMITS_MAX: usize = 4;
/// Most numbers in one delivered entry.
const MARKS_PER_ENTRY: usize = 512;
/// At level `process` a block that is not full is written after this; nobody waits for it.
const PROCESS_WRITE_AFTER_NS: u64 = 1_000_000_000;
/// Room for an origin entry, which may come before a record.
const ORIGIN_ENTRY_BYTES_MAX: usize = entry_bytes(8 + 2 * ORIGIN_NAME_BYTES_MAX);
/// Longest source or name of an origin.
const ORIGIN_NAME_BYTES_MAX: usize = 256;
/// A disk that takes longer for a block is said to be slow, if that keeps records out.
const SLOW_DISK_NS: u64 = 2_000_000_000;
/// A failed operation on a file is tried again after this.
const RETRY_AFTER_NS: u64 = 1_000_000_000;

/// Where a record lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Index of the extent.
    pub extent: u32,
    /// Offset in it.
    pub offset: u32,
}

/// Names an origin of this journal while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginRef(pub u32);

/// Who sends records: what `{{source}}` shows, and what keeps their order.
#[derive(Debug)]
pub struct Origin {
    /// Its number in the directory.
    pub id: u32,
    /// The lane's number in the directory.
    pub lane: LaneNumber,
    /// The configured source.
    pub source: Box<str>,
    /// What `{{source}}` shows.
    pub name: Box<str>,
    /// The segment in which it was last written down.
    defined_in: Option<SegmentNumber>,
    /// Records of it that are not settled.
    unsettled: u64,
    /// Of those, the ones that are kept aside.
    pub(super) parked: u64,
    /// Whether somebody still appends to it.
    open: bool,
}

/// A record to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Who sent it.
    pub origin: OriginRef,
    /// Frame flags.
    pub flags: u8,
    /// When its first byte was read, in nanoseconds since 1970.
    pub first_byte_wall_ns: u64,
    /// From its first byte to the end of its frame, in microseconds.
    pub frame_us: u32,
    /// The machine's own Idempotency-Key, or nothing.
    pub key: &'a [u8],
    /// The record.
    pub data: &'a [u8],
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
    pub fn write_key(&self, core: u32, key: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let epoch: [u8; 32] = std::array::from_fn(|nth| DIGITS[(self.epoch_id >> (124 - 4 * nth)) as usize & 15]);
        key.push_str(str::from_utf8(&epoch).expect("digits"));
        key.push('-');
        key.push_str(itoa::Buffer::new().format(core));
        key.push('-');
        key.push_str(itoa::Buffer::new().format(self.number.0));
    }
}

/// The journal takes no more records for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

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

/// A walk along the log that brings back what lies behind the window.
#[derive(Debug, Default)]
pub struct Scan {
    at: Position,
    /// The extent under the walk, which it holds, and the offset of the next block in it.
    extent: Option<(u32, u32)>,
    /// The extent of the last step, where the walk has left it: held until the next one, so that the caller can hold its records.
    left: Option<u32>,
    /// Lower numbers were passed. Blocks that move while a walk is among them do not bring it back.
    seen_below: RecordNumber,
    reading: bool,
    /// Records that are kept aside are found, too.
    pub(super) parked_too: bool,
    /// A failed read is tried again after this.
    retry_ns: Option<u64>,
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

    /// Whether a read is under way.
    pub fn is_reading(&self) -> bool {
        self.reading
    }
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

/// Where an extent's bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Memory {
    /// The extent is free.
    None,
    /// A slot of the block file.
    Slot(u32),
    /// What was read back, or a copy.
    Heap(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Extent {
    segment: SegmentNumber,
    /// Offset in the segment of the byte at `start`.
    base: u32,
    /// Offset in memory from which on it mirrors the segment. Blocks before it lie in a segment that failed after them.
    start: u32,
    /// Behind its last whole block, in memory.
    end: u32,
    memory: Memory,
    /// Records held by the window, and the scan.
    held: u32,
    /// Sealed blocks not yet written, or not all before them.
    unwritten: u32,
    epoch_id: u128,
    /// What it mirrored was rewritten densely: its records lie in `segment`, at other places.
    moved: bool,
    /// Of a copy that took in a block while that was open: where that begins, and its bytes at the time.
    open_copy: Option<(u32, u32)>,
}

impl Extent {
    fn new(segment: SegmentNumber, base: u32, epoch_id: u128, memory: Memory) -> Self {
        Self { segment, base, start: 0, end: 0, memory, held: 0, unwritten: 0, epoch_id, moved: false, open_copy: None }
    }

    /// Where an offset in memory, at `start` or behind it, belongs.
    fn position(&self, offset: u32) -> Position {
        Position { segment: self.segment, offset: self.base + (offset - self.start) }
    }

    /// The slot, if it has one.
    fn slot(&self) -> Option<u32> {
        match self.memory {
            Memory::Slot(slot) => Some(slot),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct OpenBlock {
    header: BlockHeader,
    /// Offset in the extent.
    start: u32,
    /// Bytes used, header included.
    used: u32,
    entries: u32,
    opened_ns: u64,
}

#[derive(Debug)]
struct Block {
    at: Position,
    extent: u32,
    memory_offset: u32,
    bytes: u32,
    first_number: RecordNumber,
    /// Entries below this number are in this block or before it.
    end_number: RecordNumber,
    /// When its first entry came.
    opened_ns: u64,
    state: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Waiting,
    Done,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Intake,
    /// Ids, marks, and what is said of parked records: room is reserved for them.
    Progress,
}

/// A segment whose file is still there, though nothing of it is needed.
#[derive(Debug, Clone, Copy)]
struct GivenUp {
    segment: SegmentNumber,
    /// The file is fit to be used again: no write and no sync of it failed.
    reuse: bool,
}

impl GivenUp {
    fn of(segment: &Segment) -> Self {
        Self { segment: segment.number, reuse: !segment.failed }
    }

    fn op(self) -> Op {
        Op::FreeSegment { segment: self.segment, reuse: self.reuse }
    }
}

/// The journal of one directory.
#[derive(Debug)]
pub struct Journal {
    pub(super) options: Options,
    pub(super) physical: u32,
    pub(super) memory: BlockFile,
    /// Name of the block file in [`Storage`](super::Storage); `None` at level `memory`.
    pub(super) block_name: Option<String>,
    pub(super) epoch: u64,
    pub(super) epoch_id: u128,
    pub(super) epoch_record: Vec<u8>,
    pub(super) next_number: RecordNumber,
    pub(super) next_segment: SegmentNumber,
    /// Segments below are of earlier starts and never appended to.
    pub(super) first_own_segment: SegmentNumber,
    pub(super) next_origin: u32,
    pub(super) next_lane: LaneNumber,
    pub(super) segments: VecDeque<Segment>,
    pub(super) origins: Slab<Origin>,
    pub(super) origin_ids: HashMap<u32, OriginRef>,
    pub(super) ids: HashMap<RecordNumber, Box<str>>,
    /// Ids that the last run left.
    pub(super) leased: Leased,
    /// There is a list of such ids on disk, which is not to be read again.
    pub(super) is_leased: bool,
    /// What a clean end has to write down of them.
    left_leased: Option<Leased>,
    /// There are some.
    pub(super) leaves_ids: bool,
    /// Records that are kept aside, by number.
    pub(super) parked: BTreeMap<RecordNumber, Parked>,
    pub(super) watermark: Position,
    pub(super) rng: fastrand::Rng,
    /// Entries below are written.
    pub(super) committed: RecordNumber,
    extents: Vec<Extent>,
    free_extents: Vec<u32>,
    slots: u32,
    free_slots: Vec<u32>,
    heap_extents: usize,
    current: Option<u32>,
    open: Option<OpenBlock>,
    sealed: VecDeque<Block>,
    in_flight: VecDeque<Block>,
    /// Commits wait until then: the last ones failed.
    retry_commits_ns: Option<u64>,
    /// A segment failed: what it did not take moves to another one once no write is in flight.
    must_move: bool,
    /// What the last move left to be looked after.
    after_move: Option<AfterMove>,
    /// Segments whose files are not ready, begun or not, and those ready and not begun; in order.
    coming: VecDeque<Coming>,
    /// Settled segments whose files are still there.
    freeing: VecDeque<GivenUp>,
    /// Segments that a dense one stands for, durably, and whose files are still there.
    freeing_replaced: Vec<GivenUp>,
    /// The entry from which on blocks name the oldest segment that is not among them.
    beginning_said: Option<RecordNumber>,
    /// Segments that hold nothing: freed at once, wherever they stand.
    dropped: Vec<GivenUp>,
    /// A segment that is being freed while nothing can be written down: the next one waits for it.
    freed_alone: Option<GivenUp>,
    /// That failed: it is tried again then, and nothing else is freed before.
    retry_free_ns: Option<u64>,
    unsynced: VecDeque<SegmentNumber>,
    syncing: Option<SegmentNumber>,
    marks: Vec<RecordNumber>,
    rewriting: Rewriting,
    troubles: Troubles,
    counters: Counters,
    pub(super) report: Report,
}

impl Journal {
    /// A journal over fresh block memory; recovery fills in what the directory holds.
    pub(super) fn new(options: Options, memory: BlockFile, physical: u32, epoch_id: u128, seed: u64) -> Self {
        let slots = ((memory.len() - BLOCK_FILE_HEADER_BYTES) / options.block_bytes as usize) as u32;
        assert!(slots >= 4, "options are checked");
        Self {
            physical,
            memory,
            block_name: None,
            epoch: 0,
            epoch_id,
            epoch_record: Vec::new(),
            next_number: RecordNumber(1),
            next_segment: SegmentNumber(1),
            first_own_segment: SegmentNumber(1),
            next_origin: 1,
            next_lane: LaneNumber(1),
            segments: VecDeque::new(),
            origins: Slab::new(),
            origin_ids: HashMap::new(),
            ids: HashMap::new(),
            leased: Leased::default(),
            is_leased: false,
            left_leased: None,
            leaves_ids: false,
            parked: BTreeMap::new(),
            watermark: Position::default(),
            rng: fastrand::Rng::with_seed(seed),
            committed: RecordNumber(1),
            extents: Vec::new(),
            free_extents: Vec::new(),
            slots,
            free_slots: (0..slots).rev().collect(),
            heap_extents: 0,
            current: None,
            open: None,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            retry_commits_ns: None,
            must_move: false,
            after_move: None,
            coming: VecDeque::new(),
            freeing: VecDeque::new(),
            freeing_replaced: Vec::new(),
            beginning_said: None,
            dropped: Vec::new(),
            freed_alone: None,
            retry_free_ns: None,
            unsynced: VecDeque::new(),
            syncing: None,
            marks: Vec::new(),
            rewriting: Rewriting::default(),
            troubles: Troubles::default(),
            counters: Counters::default(),
            report: Report::default(),
            options,
        }
    }

    /// The block memory; an operation's `memory_offset` counts from its start.
    pub fn memory(&self) -> &BlockFile {
        &self.memory
    }

    /// The core whose directory this is; part of every key.
    pub fn core(&self) -> u32 {
        self.options.core
    }

    /// The random id of this start.
    pub fn epoch_id(&self) -> u128 {
        self.epoch_id
    }

    /// What was found at start.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The level.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    fn on_disk(&self) -> bool {
        self.options.durability != Durability::Memory
    }

    /// Records that are neither delivered nor discarded.
    pub fn unsettled(&self) -> u64 {
        self.origins.iter().map(|(_, origin)| origin.unsettled).sum()
    }

    /// All origins, at start those of recovered records, and how many of each wait to be delivered.
    pub fn origins(&self) -> impl Iterator<Item = (OriginRef, &Origin, u64)> {
        self.origins.iter().map(|(index, origin)| (OriginRef(index as u32), origin, origin.unsettled - origin.parked))
    }

    /// The number of the entry that comes next.
    pub fn next_number(&self) -> RecordNumber {
        self.next_number
    }

    /// Entries below this number have reached the configured level.
    pub fn durable_below(&self) -> RecordNumber {
        match self.options.durability {
            Durability::Memory | Durability::Process => self.next_number,
            Durability::Power => self.committed,
        }
    }

    /// Whether intake may begin: the first segment is ready, or it is known that it cannot be made for now, and records are
    /// refused until it can.
    pub fn is_ready(&self) -> bool {
        !self.on_disk() || self.is_first_ready() || self.troubles.stop_intake()
    }

    /// Whether the last segment belongs to this epoch and is not closed, so that blocks may go there.
    fn current_segment_open(&self) -> bool {
        self.segments.back().is_some_and(|segment| segment.number >= self.first_own_segment && !segment.closed)
    }

    /// Whether the disk refuses what records need.
    pub fn is_in_trouble(&self) -> bool {
        self.troubles.stop_intake()
    }

    /// What is wrong with the disk, in words.
    pub fn trouble(&self) -> Option<String> {
        self.troubles.describe()
    }

    /// A new lane's number.
    pub fn new_lane(&mut self) -> LaneNumber {
        let lane = self.next_lane;
        self.next_lane = self.next_lane.next();
        lane
    }

    /// A new origin in a lane. `source` and `name` have at most 256 bytes each.
    pub fn open_origin(&mut self, lane: LaneNumber, source: &str, name: &str) -> OriginRef {
        assert!(source.len() <= ORIGIN_NAME_BYTES_MAX && name.len() <= ORIGIN_NAME_BYTES_MAX);
        let id = self.next_origin;
        self.next_origin = self.next_origin.wrapping_add(1);
        self.add_origin(id, lane, source, name, true)
    }

    pub(super) fn add_origin(&mut self, id: u32, lane: LaneNumber, source: &str, name: &str, open: bool) -> OriginRef {
        let origin = Origin {
            id,
            lane,
            source: source.into(),
            name: name.into(),
            defined_in: None,
            unsettled: 0,
            parked: 0,
            open,
        };
        let reference = OriginRef(self.origins.insert(origin) as u32);
        self.origin_ids.insert(id, reference);
        reference
    }

    pub(super) fn add_unsettled(&mut self, origin: OriginRef) {
        self.origins[origin.0 as usize].unsettled += 1;
    }

    /// Nobody will append to this origin any more; it goes with its last record.
    pub fn close_origin(&mut self, origin: OriginRef) {
        self.origins[origin.0 as usize].open = false;
        self.drop_origin_if_done(origin);
    }

    fn drop_origin_if_done(&mut self, reference: OriginRef) {
        let origin = &self.origins[reference.0 as usize];
        if !origin.open && origin.unsettled == 0 {
            let origin = self.origins.remove(reference.0 as usize);
            self.origin_ids.remove(&origin.id);
        }
    }

    /// An origin in use.
    pub fn origin(&self, origin: OriginRef) -> &Origin {
        &self.origins[origin.0 as usize]
    }

    /// Adds its own counts to a shard's and starts again from zero.
    pub fn take_counters(&mut self, into: &mut Counters) {
        into.add(&std::mem::take(&mut self.counters));
    }

    /// Adds what it is now.
    pub fn snapshot(&self, now: Now, into: &mut JournalSnapshot) {
        into.segments += self.segments.len() as u64;
        into.bytes += self.segments.len() as u64 * u64::from(self.options.segment_bytes);
        let used = self.slots as usize - self.free_slots.len() + self.heap_extents;
        into.window_bytes += used as u64 * u64::from(self.options.block_bytes);
        if let Some(since_ns) = self.uncommitted_since_ns() {
            into.commit_age_s = into.commit_age_s.max(now.mono_ns.saturating_sub(since_ns) as f64 / 1e9);
        }
        if into.problem.is_none() {
            into.problem = self.troubles.describe();
        }
    }

    /// Why records are not taken though the disk does not refuse, in words; `None` where that is a matter of a moment.
    pub fn why_paused(&self, now: Now) -> Option<String> {
        let waited_ns = self.uncommitted_since_ns().map_or(0, |since_ns| now.mono_ns.saturating_sub(since_ns));
        if !self.on_disk() || self.segments.len() + 1 >= self.options.segments_max() {
            Some("the journal is full: reading pauses until records are delivered".to_owned())
        } else if waited_ns >= SLOW_DISK_NS {
            let seconds = waited_ns / 1_000_000_000;
            Some(format!(
                "the disk is slow: a block has waited {seconds} s to be written, and reading pauses until it is"
            ))
        } else {
            None
        }
    }

    /// When the oldest block was begun that is not on disk yet.
    fn uncommitted_since_ns(&self) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| open.entries > 0 && self.on_disk()).map(|open| open.opened_ns);
        self.in_flight.front().or(self.sealed.front()).map(|block| block.opened_ns).or(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_epoch_in_32_digits_the_core_and_the_number() {
        for (epoch_id, core, number) in [(0, 0, 0), (0xab << 64 | 7, 15, 1_234_567), (u128::MAX, u32::MAX, u64::MAX)] {
            let payload =
                RecordPayload { origin: 0, first_byte_wall_ns: 0, frame_us: 0, key: b"", body_hash: 0, data: b"" };
            let mut key = String::new();
            RecordView { number: RecordNumber(number), flags: 0, epoch_id, payload }.write_key(core, &mut key);
            assert_eq!(key, format!("{epoch_id:032x}-{core}-{number}"));
        }
    }
}
