//! The running journal of one directory: entries go into blocks, blocks into segments, settled segments are freed.
//!
//! Memory is a fixed number of *extents*, each a slot of the block file that mirrors a piece of a segment, plus a few on the
//! heap for what is read back. An extent stays while a block of it is unwritten or a record of it is held by the
//! window ([`Journal::hold`]); nobody keeps a reference into one beyond a call.

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, Entry, EntryHeader, Kind, OriginPayload, Position,
    RECORD_PREFIX_BYTES, RecordPayload, Seal, SegmentHeader, entry_bytes, round_up, u32_at, u64_at,
};
use super::segment::Segment;
use super::{BlockFile, Options, Report};
use crate::config::Durability;
use crate::observe::snapshot::{Counters, JournalSnapshot};
use crate::shard::{JournalId, Now, Op};
use slab::Slab;
use std::collections::{HashMap, VecDeque};

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
/// A failed operation on a file is tried again after this.
const RETRY_AFTER_NS: u64 = 1_000_000_000;
/// Bytes before the first slot of a block file.
pub(super) const BLOCK_FILE_HEADER_BYTES: usize = 4096;

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
    pub lane: u32,
    /// The configured source.
    pub source: Box<str>,
    /// What `{{source}}` shows.
    pub name: Box<str>,
    /// The segment in which it was last written down.
    defined_in: Option<u64>,
    /// Records of it that are not settled.
    unsettled: u64,
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
    pub number: u64,
    /// Frame flags.
    pub flags: u8,
    /// The epoch in which it was received.
    pub epoch_id: u128,
    /// The rest.
    pub payload: RecordPayload<'a>,
}

/// The journal takes no more records for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A record found behind the window.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its number.
    pub number: u64,
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
    reading: bool,
    /// A failed read is tried again after this.
    retry_ns: Option<u64>,
}

impl Scan {
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

#[derive(Debug)]
pub(super) struct Extent {
    segment: u64,
    /// Offset of its first byte in the segment.
    base: u32,
    /// Bytes of whole blocks in it.
    end: u32,
    /// `None`: the slot of the same index. Else memory of its own.
    heap: Option<Vec<u8>>,
    /// Records held by the window, and the scan.
    held: u32,
    /// Sealed blocks not yet written.
    unwritten: u32,
    epoch_id: u128,
    /// Of a copy that took in a block while that was open: where that begins, and its bytes at the time.
    open_copy: Option<(u32, u32)>,
}

impl Extent {
    fn new(segment: u64, base: u32, epoch_id: u128) -> Self {
        Self { segment, base, end: 0, heap: None, held: 0, unwritten: 0, epoch_id, open_copy: None }
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
    /// Entries below this number are in this block or before it.
    end_number: u64,
    state: Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Waiting,
    Done,
    Failed,
}

#[derive(Debug)]
struct Prepared {
    number: u64,
    nonce: u64,
    ready: bool,
    /// Asked for; a failed one is asked for again after this time.
    retry_ns: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Intake,
    /// Ids and marks: room is reserved for them.
    Progress,
}

/// The journal of one directory.
#[derive(Debug)]
pub struct Journal {
    pub(super) options: Options,
    pub(super) id: JournalId,
    pub(super) physical: u32,
    pub(super) memory: BlockFile,
    /// Name of the block file in [`Storage`](super::Storage); `None` at level `memory`.
    pub(super) block_name: Option<String>,
    pub(super) epoch: u64,
    pub(super) epoch_id: u128,
    pub(super) epoch_record: Vec<u8>,
    pub(super) next_number: u64,
    pub(super) next_segment: u64,
    /// Segments below are of earlier starts and never appended to.
    pub(super) first_own_segment: u64,
    pub(super) next_origin: u32,
    pub(super) next_lane: u32,
    pub(super) segments: VecDeque<Segment>,
    pub(super) origins: Slab<Origin>,
    pub(super) origin_ids: HashMap<u32, OriginRef>,
    pub(super) ids: HashMap<u64, Box<str>>,
    pub(super) watermark: Position,
    pub(super) rng: fastrand::Rng,
    /// Entries below are written.
    pub(super) committed: u64,
    extents: Vec<Extent>,
    slots: u32,
    free_slots: Vec<u32>,
    free_heap: Vec<u32>,
    current: Option<u32>,
    open: Option<OpenBlock>,
    sealed: VecDeque<Block>,
    in_flight: VecDeque<Block>,
    retry_commits_ns: Option<u64>,
    prepared: Option<Prepared>,
    /// Settled segments whose files are still there.
    freeing: VecDeque<u64>,
    /// The entry from which on blocks name the oldest segment that is not among them.
    beginning_said: Option<u64>,
    unsynced: VecDeque<u64>,
    syncing: bool,
    /// What a failed sync left unsafe no later one makes safe: the watermark stands still until the next start.
    sync_failed: bool,
    marks: Vec<u64>,
    problem: Option<String>,
    counters: Counters,
    pub(super) report: Report,
}

impl Journal {
    /// A journal over fresh block memory; recovery fills in what the directory holds.
    pub(super) fn new(options: Options, memory: BlockFile, physical: u32, epoch_id: u128, seed: u64) -> Self {
        let slots = ((memory.len() - BLOCK_FILE_HEADER_BYTES) / options.block_bytes as usize) as u32;
        assert!(slots >= 4, "options are checked");
        let extent = |_| Extent::new(0, 0, epoch_id);
        Self {
            id: JournalId(0),
            physical,
            memory,
            block_name: None,
            epoch: 0,
            epoch_id,
            epoch_record: Vec::new(),
            next_number: 1,
            next_segment: 1,
            first_own_segment: 1,
            next_origin: 1,
            next_lane: 1,
            segments: VecDeque::new(),
            origins: Slab::new(),
            origin_ids: HashMap::new(),
            ids: HashMap::new(),
            watermark: Position::default(),
            rng: fastrand::Rng::with_seed(seed),
            committed: 1,
            extents: (0..slots).map(extent).collect(),
            slots,
            free_slots: (0..slots).rev().collect(),
            free_heap: Vec::new(),
            current: None,
            open: None,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            retry_commits_ns: None,
            prepared: None,
            freeing: VecDeque::new(),
            beginning_said: None,
            unsynced: VecDeque::new(),
            syncing: false,
            sync_failed: false,
            marks: Vec::new(),
            problem: None,
            counters: Counters::default(),
            report: Report::default(),
            options,
        }
    }

    /// Its place among a shard's journals, as it stands in operations.
    pub fn set_id(&mut self, id: JournalId) {
        self.id = id;
    }

    /// The block memory; an operation's `memory_offset` counts from its start.
    pub fn memory(&self) -> &BlockFile {
        &self.memory
    }

    /// The core whose directory this is; part of every key.
    pub fn core(&self) -> u32 {
        self.options.core
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

    /// All origins: at start, those of recovered records.
    pub fn origins(&self) -> impl Iterator<Item = (OriginRef, &Origin, u64)> {
        self.origins.iter().map(|(index, origin)| (OriginRef(index as u32), origin, origin.unsettled))
    }

    /// Configured sources that have unsettled records here.
    pub fn unsettled_sources(&self) -> Vec<String> {
        let mut sources: Vec<String> =
            self.origins.iter().filter(|(_, o)| o.unsettled > 0).map(|(_, o)| o.source.to_string()).collect();
        sources.sort();
        sources.dedup();
        sources
    }

    /// Entries below this number have reached the configured level.
    pub fn durable_below(&self) -> u64 {
        match self.options.durability {
            Durability::Memory | Durability::Process => self.next_number,
            Durability::Power => self.committed,
        }
    }

    /// Whether the first segment is ready, so that records can be taken.
    pub fn is_ready(&self) -> bool {
        !self.on_disk() || !self.segments.is_empty() && self.current_segment_open() || self.is_prepared()
    }

    fn is_prepared(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.ready)
    }

    /// Whether the last segment belongs to this epoch, so that blocks may go there.
    fn current_segment_open(&self) -> bool {
        self.segments.back().is_some_and(|segment| segment.number >= self.first_own_segment)
    }

    /// A new lane's number.
    pub fn new_lane(&mut self) -> u32 {
        let lane = self.next_lane;
        self.next_lane = self.next_lane.wrapping_add(1);
        lane
    }

    /// A new origin in a lane. `source` and `name` have at most 256 bytes each.
    pub fn open_origin(&mut self, lane: u32, source: &str, name: &str) -> OriginRef {
        assert!(source.len() <= ORIGIN_NAME_BYTES_MAX && name.len() <= ORIGIN_NAME_BYTES_MAX);
        let id = self.next_origin;
        self.next_origin = self.next_origin.wrapping_add(1);
        self.add_origin(id, lane, source, name, true)
    }

    pub(super) fn add_origin(&mut self, id: u32, lane: u32, source: &str, name: &str, open: bool) -> OriginRef {
        let origin =
            Origin { id, lane, source: source.into(), name: name.into(), defined_in: None, unsettled: 0, open };
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

    /// An origin found at start is appended to again.
    pub fn reopen_origin(&mut self, origin: OriginRef) {
        self.origins[origin.0 as usize].open = true;
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

    // ---- appending

    /// Whether a record of up to `bytes`, the machine's own key included, would be taken now.
    pub fn can_append(&mut self, now: Now, bytes: usize) -> bool {
        self.make_room(now, entry_bytes(RECORD_PREFIX_BYTES + bytes) + ORIGIN_ENTRY_BYTES_MAX, Purpose::Intake).is_ok()
    }

    /// Copies a record into the open block. From now on it survives what the level promises once
    /// [`Journal::durable_below`] has passed its number.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed; try again when [`Journal::can_append`] holds.
    pub fn append_record(&mut self, now: Now, record: NewRecord<'_>) -> Result<(u64, Location), Full> {
        let bytes = entry_bytes(RECORD_PREFIX_BYTES + record.key.len() + record.data.len());
        self.make_room(now, bytes + ORIGIN_ENTRY_BYTES_MAX, Purpose::Intake)?;
        let segment = self.current_segment_number();
        let origin = &mut self.origins[record.origin.0 as usize];
        origin.unsettled += 1;
        let (id, lane) = (origin.id, origin.lane);
        if origin.defined_in != Some(segment) {
            origin.defined_in = Some(segment);
            let (source, name) = (std::mem::take(&mut origin.source), std::mem::take(&mut origin.name));
            let prefix = OriginPayload { origin: id, source: &source, name: &name }.encode_prefix();
            self.write_entry(Kind::Origin, 0, lane, &[&prefix, source.as_bytes(), name.as_bytes()]);
            let origin = &mut self.origins[record.origin.0 as usize];
            (origin.source, origin.name) = (source, name);
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
            segment.add(number);
        }
        Ok((number, at))
    }

    /// Writes down the sequence id of a record, before it is used.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken; the id must not be used yet.
    pub fn append_id(&mut self, now: Now, number: u64, id: &str) -> Result<(), Full> {
        if self.on_disk() {
            self.make_room(now, entry_bytes(8 + id.len()), Purpose::Progress)?;
            self.write_entry(Kind::Id, 0, 0, &[&number.to_le_bytes(), id.as_bytes()]);
        }
        Ok(())
    }

    /// The id that an earlier start wrote down for a record.
    pub fn recovered_id(&self, number: u64) -> Option<&str> {
        self.ids.get(&number).map(|id| &**id)
    }

    /// A record was delivered. Its hold is released; the mark is written at the end of the turn.
    pub fn settle(&mut self, number: u64, origin: OriginRef, at: Location) {
        let segment = self.extents[at.extent as usize].segment;
        if self.on_disk() {
            let index = self.segments.partition_point(|s| s.number < segment);
            let settled = self.segments.get_mut(index).is_some_and(|s| s.number == segment && s.settle(number));
            assert!(settled, "record {number} of segment {segment} is settled once");
            self.marks.push(number);
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

    fn current_segment_number(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.number)
    }

    /// Sees to it that the open block has room for `bytes`.
    fn make_room(&mut self, now: Now, bytes: usize, purpose: Purpose) -> Result<(), Full> {
        let block_bytes = self.options.block_bytes;
        assert!(BLOCK_HEADER_BYTES + bytes <= block_bytes as usize, "limits keep entries below a block");
        if purpose == Purpose::Intake && self.on_disk() && self.segments.len() >= self.options.segments_max() {
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
    fn next_extent(&mut self, purpose: Purpose) -> Result<u32, Full> {
        let kept_back = usize::from(purpose == Purpose::Intake);
        if self.free_slots.len() <= kept_back {
            return Err(Full);
        }
        let (segment, base) = if self.on_disk() { self.next_place(purpose)? } else { (0, 0) };
        let slot = self.free_slots.pop().expect("checked above");
        let extent = &mut self.extents[slot as usize];
        assert!(extent.held == 0 && extent.unwritten == 0);
        *extent = Extent::new(segment, base, self.epoch_id);
        self.current = Some(slot);
        Ok(slot)
    }

    /// Segment and offset of the next extent; moves on to the prepared segment where the last one is full.
    fn next_place(&mut self, purpose: Purpose) -> Result<(u64, u32), Full> {
        let block_bytes = self.options.block_bytes;
        if self.current_segment_open() {
            let segment = self.segments.back().expect("open");
            if segment.end + block_bytes <= self.options.segment_bytes {
                return Ok((segment.number, segment.end));
            }
        }
        // Ids and marks are never refused for want of segments: without them nothing would be delivered and become free
        // again. They are few and short, but the segments that they begin may go beyond the limit for a while.
        let full = purpose == Purpose::Intake && self.segments.len() + 1 >= self.options.segments_max();
        if !self.is_prepared() || full {
            return Err(Full);
        }
        if self.current_segment_open() && self.options.durability == Durability::Process {
            self.unsynced.push_back(self.current_segment_number());
        }
        let prepared = self.prepared.take().expect("checked above");
        self.segments.push_back(Segment::new(prepared.number, prepared.nonce, self.next_number, self.physical));
        Ok((prepared.number, self.physical))
    }

    fn open_block(&mut self, now: Now, extent: u32, start: u32) {
        let place = &self.extents[extent as usize];
        let header = BlockHeader {
            nonce: self.segments.back().map_or(0, |segment| segment.nonce),
            at: Position { segment: place.segment, offset: place.base + start },
            first_number: self.next_number,
            epoch_id: self.epoch_id,
            watermark: self.watermark,
            oldest_segment: self.segments.front().map_or(0, |segment| segment.number),
        };
        self.memory.write(self.memory_offset(extent) + start as usize, &header.encode());
        self.open =
            Some(OpenBlock { header, start, used: BLOCK_HEADER_BYTES as u32, entries: 0, opened_ns: now.mono_ns });
    }

    fn memory_offset(&self, slot: u32) -> usize {
        assert!(slot < self.slots);
        BLOCK_FILE_HEADER_BYTES + slot as usize * self.options.block_bytes as usize
    }

    /// Appends an entry to the open block, which has room for it.
    fn write_entry(&mut self, kind: Kind, flags: u8, lane: u32, parts: &[&[u8]]) -> (u64, Location) {
        let extent = self.current.expect("room was made");
        let base = self.memory_offset(extent);
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
        self.next_number += 1;
        (number, Location { extent, offset })
    }

    /// Ends the open block. It is written when its turn comes and never touched again.
    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        let extent = self.current.expect("an open block lies in the current extent");
        let memory_offset = self.memory_offset(extent) + open.start as usize;
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
                end_number: self.next_number,
                state: Write::Waiting,
            });
        }
    }

    // ---- the end of a turn

    /// Writes marks, seals what is due, and asks for commits, segments and frees. `waiting`: somebody waits for an
    /// acknowledgement that needs the open block on disk.
    pub fn turn(&mut self, now: Now, waiting: bool, ops: &mut VecDeque<Op>) {
        if !self.on_disk() {
            return;
        }
        self.write_marks(now);
        self.free(now, ops);
        if self.is_seal_due(now, waiting) {
            self.seal();
        }
        self.submit_commits(now, ops);
        self.prepare(now, ops);
        self.sync(ops);
    }

    fn write_marks(&mut self, now: Now) {
        let marks = std::mem::take(&mut self.marks);
        let mut written = 0;
        for chunk in marks.chunks(MARKS_PER_ENTRY) {
            if self.make_room(now, entry_bytes(chunk.len() * 8), Purpose::Progress).is_err() {
                break; // they stay in memory until there is room: a kill before that means duplicates, not loss
            }
            let mut payload = [0; MARKS_PER_ENTRY * 8];
            for (place, number) in payload.chunks_exact_mut(8).zip(chunk) {
                place.copy_from_slice(&number.to_le_bytes());
            }
            self.write_entry(Kind::Delivered, 0, 0, &[&payload[..chunk.len() * 8]]);
            written += chunk.len();
        }
        self.marks = marks;
        self.marks.drain(..written);
    }

    fn is_seal_due(&self, now: Now, waiting: bool) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.entries > 0) else { return false };
        let waits = waiting && self.options.durability == Durability::Power && self.in_flight.len() < COMMITS_MAX;
        waits || now.mono_ns >= open.opened_ns + self.write_after_ns()
    }

    fn write_after_ns(&self) -> u64 {
        match self.options.durability {
            Durability::Power => self.options.commit_every_ns,
            _ => self.options.commit_every_ns.max(PROCESS_WRITE_AFTER_NS),
        }
    }

    fn submit_commits(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if self.retry_commits_ns.is_some_and(|at| now.mono_ns >= at) {
            self.retry_commits_ns = None;
            for index in 0..self.in_flight.len() {
                if self.in_flight[index].state == Write::Failed {
                    self.in_flight[index].state = Write::Waiting;
                    ops.push_back(self.commit(index));
                }
            }
        }
        while self.retry_commits_ns.is_none() && self.in_flight.len() < COMMITS_MAX {
            let Some(block) = self.sealed.pop_front() else { break };
            self.in_flight.push_back(block);
            ops.push_back(self.commit(self.in_flight.len() - 1));
        }
    }

    fn commit(&mut self, index: usize) -> Op {
        let block = &self.in_flight[index];
        self.counters.journal_writes += 1;
        self.counters.journal_bytes += u64::from(block.bytes);
        Op::Commit {
            journal: self.id,
            memory_offset: block.memory_offset,
            segment: block.at.segment,
            offset: block.at.offset,
            bytes: block.bytes,
            sync: self.options.durability == Durability::Power,
        }
    }

    fn prepare(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if let Some(prepared) = &mut self.prepared {
            if prepared.retry_ns.is_none_or(|at| now.mono_ns < at) {
                return;
            }
            prepared.retry_ns = None;
        } else {
            let half_full = match self.segments.back() {
                Some(segment) if segment.number >= self.first_own_segment => {
                    segment.end > self.options.segment_bytes / 2
                }
                _ => true,
            };
            if !half_full {
                return;
            }
            let number = self.next_segment;
            self.next_segment += 1;
            self.prepared = Some(Prepared { number, nonce: self.rng.u64(..), ready: false, retry_ns: None });
        }
        let prepared = self.prepared.as_ref().expect("set above");
        let header = SegmentHeader {
            core: self.options.core,
            segment: prepared.number,
            nonce: prepared.nonce,
            bytes: u64::from(self.options.segment_bytes),
            physical: self.physical,
            epoch: self.epoch,
            epoch_id: self.epoch_id,
        };
        ops.push_back(Op::PrepareSegment {
            journal: self.id,
            segment: prepared.number,
            bytes: header.bytes,
            header: header.encode(),
            sync: self.options.durability == Durability::Power,
        });
    }

    /// Gives up the oldest segments once they are settled. Their marks may lie in one that is given up with them, and files are
    /// put aside in no order: so a block must first say, as safely as the level promises, where the log begins now.
    fn free(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        let before = self.freeing.len();
        while self.segments.len() > 1 {
            let oldest = &self.segments[0];
            let idle = oldest.unsettled == 0 && oldest.unwritten == 0 && oldest.reads == 0;
            if !idle || self.unsynced.contains(&oldest.number) {
                break;
            }
            if self.current.is_some_and(|current| self.extents[current as usize].segment == oldest.number) {
                break;
            }
            let oldest = self.segments.pop_front().expect("checked above");
            self.counters.journal_freed += 1;
            self.freeing.push_back(oldest.number);
        }
        if self.freeing.len() > before {
            self.beginning_said = None;
        }
        if self.freeing.is_empty() {
            return;
        }
        let said = match self.beginning_said {
            Some(number) => number,
            None => {
                self.seal(); // the next block's header names the oldest segment
                if self.make_room(now, entry_bytes(0), Purpose::Progress).is_err() {
                    return;
                }
                let (number, _) = self.write_entry(Kind::Delivered, 0, 0, &[]);
                *self.beginning_said.insert(number)
            }
        };
        if said < self.durable_below() {
            let journal = self.id;
            ops.extend(self.freeing.drain(..).map(|segment| Op::FreeSegment { journal, segment }));
        }
    }

    /// At level `process` the watermark moves only with a sync, and a full segment is a good moment for one.
    fn sync(&mut self, ops: &mut VecDeque<Op>) {
        if self.syncing {
            return;
        }
        while let Some(&segment) = self.unsynced.front() {
            let Some(place) = self.segments.iter().find(|s| s.number == segment) else {
                self.unsynced.pop_front();
                continue;
            };
            if place.unwritten > 0 {
                return;
            }
            self.syncing = true;
            ops.push_back(Op::SyncSegment { journal: self.id, segment });
            return;
        }
    }

    /// When [`Journal::turn`] has something to do though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        if !self.on_disk() {
            return None; // blocks go nowhere, so none is ever due
        }
        let seal =
            self.open.as_ref().filter(|open| open.entries > 0).map(|open| open.opened_ns + self.write_after_ns());
        let prepare = self.prepared.as_ref().and_then(|prepared| prepared.retry_ns);
        [seal, prepare, self.retry_commits_ns].into_iter().flatten().min()
    }

    /// A clean stop: everything that is in memory goes to disk. Done when [`Journal::is_flushed`].
    pub fn flush(&mut self, now: Now, ops: &mut VecDeque<Op>) {
        if self.on_disk() {
            self.write_marks(now);
            self.free(now, ops);
            self.seal();
            self.submit_commits(now, ops);
            if !self.marks.is_empty() {
                self.prepare(now, ops); // the last marks need a segment of their own
            }
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        !self.on_disk()
            || self.marks.is_empty()
                && self.open.as_ref().is_none_or(|open| open.entries == 0)
                && self.sealed.is_empty()
                && self.in_flight.is_empty()
                && !self.syncing
                && self.prepared.as_ref().is_none_or(|prepared| prepared.ready || prepared.retry_ns.is_some())
    }

    // ---- completions

    /// A block was written, or not.
    pub fn handle_committed(&mut self, now: Now, at: Position, result: Result<(), i32>) {
        let block = self.in_flight.iter_mut().find(|block| block.at == at).expect("a commit that is in flight");
        assert_eq!(block.state, Write::Waiting);
        if let Err(errno) = result {
            block.state = Write::Failed;
            self.counters.journal_errors += 1;
            self.fail(format!("segment {} cannot be written: {}", at.segment, describe(errno)));
            self.retry_commits_ns = Some(now.mono_ns + RETRY_AFTER_NS);
            return;
        }
        block.state = Write::Done;
        let extent = block.extent;
        self.extents[extent as usize].unwritten -= 1;
        let segment = self.segments.iter_mut().find(|s| s.number == at.segment).expect("unwritten segments stay");
        segment.unwritten -= 1;
        while self.in_flight.front().is_some_and(|block| block.state == Write::Done) {
            let Some(block) = self.in_flight.pop_front() else { break };
            self.committed = block.end_number;
            if self.options.durability == Durability::Power {
                self.watermark = Position { segment: block.at.segment, offset: block.at.offset + block.bytes };
            }
        }
        if self.retry_commits_ns.is_none() && self.prepared.as_ref().is_none_or(|p| p.retry_ns.is_none()) {
            self.problem = None;
        }
        self.free_if_unused(extent);
    }

    /// A segment is ready, or not.
    pub fn handle_prepared(&mut self, now: Now, segment: u64, result: Result<(), i32>) {
        let Some(prepared) = self.prepared.as_mut().filter(|prepared| prepared.number == segment) else { return };
        match result {
            Ok(()) => {
                prepared.ready = true;
                if self.retry_commits_ns.is_none() {
                    self.problem = None;
                }
            }
            Err(errno) => {
                prepared.retry_ns = Some(now.mono_ns + RETRY_AFTER_NS);
                self.counters.journal_errors += 1;
                self.fail(format!("segment {segment} cannot be made: {}", describe(errno)));
            }
        }
    }

    /// A segment's writes are durable, or not.
    pub fn handle_synced(&mut self, segment: u64, result: Result<(), i32>) {
        self.syncing = false;
        self.unsynced.retain(|&other| other != segment);
        match result {
            Ok(()) => {
                if let Some(place) = self.segments.iter().find(|s| s.number == segment)
                    && !self.sync_failed
                {
                    self.watermark = self.watermark.max(place.end_position());
                }
            }
            Err(errno) => {
                self.sync_failed = true;
                self.counters.journal_errors += 1;
                self.fail(format!("segment {segment} cannot be synced: {}", describe(errno)));
            }
        }
    }

    fn fail(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::error!("journal of core {}: {problem}", self.options.core);
            self.problem = Some(problem);
        }
    }

    // ---- the window

    /// Whether a record that is not held is found again by a [`Scan`]; at level `memory` there is nothing to read it from.
    pub fn reads_back(&self) -> bool {
        self.on_disk()
    }

    /// Whether the window has room for records that are to stay in memory until they are delivered.
    pub fn has_window_room(&self) -> bool {
        !self.on_disk() || self.free_slots.len() > self.slots_kept_back()
    }

    /// Whether reading back waits for memory.
    pub fn is_window_tight(&self) -> bool {
        self.heap_extents() >= self.heap_extents_max()
    }

    /// Slots that are never pinned by waiting records, so that intake and marks go on.
    fn slots_kept_back(&self) -> usize {
        (self.slots as usize / 4).max(2)
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

    fn free_if_unused(&mut self, index: u32) {
        let extent = &mut self.extents[index as usize];
        if extent.held > 0 || extent.unwritten > 0 || self.current == Some(index) {
            return;
        }
        if index < self.slots {
            // An extent can be looked at twice, once for its last record and once for its last write.
            if extent.end > 0 || extent.segment > 0 {
                extent.end = 0;
                extent.segment = 0;
                self.free_slots.push(index);
            } else if !self.on_disk() && !self.free_slots.contains(&index) {
                self.free_slots.push(index);
            }
        } else if extent.heap.take().is_some() {
            // Nothing may take it for a piece of the log any more.
            extent.end = 0;
            extent.segment = 0;
            self.free_heap.push(index);
        }
    }

    /// A held record.
    pub fn record(&self, at: Location) -> RecordView<'_> {
        let extent = &self.extents[at.extent as usize];
        debug_assert!(extent.held > 0);
        let bytes = self.extent_memory(at.extent, at.offset as usize);
        let payload = u32_at(bytes, 4) as usize;
        RecordView {
            number: u64_at(bytes, 16),
            flags: bytes[9],
            epoch_id: extent.epoch_id,
            payload: RecordPayload::decode(&bytes[ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + payload]),
        }
    }

    /// An extent's bytes from an offset to its end.
    fn extent_memory(&self, index: u32, from: usize) -> &[u8] {
        match &self.extents[index as usize].heap {
            Some(bytes) => &bytes[from..],
            None => {
                let start = self.memory_offset(index);
                self.memory.bytes(start + from..start + self.options.block_bytes as usize)
            }
        }
    }

    // ---- reading back

    /// Where everything that is still to be delivered begins, or later.
    pub fn oldest(&self) -> Position {
        self.segments.front().map_or(Position::default(), Segment::first_position)
    }

    /// The block in which a record at `at` lies, as a place to start a scan from.
    pub fn position(&self, at: Location) -> Position {
        let extent = &self.extents[at.extent as usize];
        Position { segment: extent.segment, offset: extent.base }
    }

    /// Starts a walk at the beginning of a block.
    pub fn start_scan(&mut self, scan: &mut Scan, at: Position) {
        assert!(!scan.reading);
        self.release_left(scan);
        self.leave(scan);
        self.release_left(scan);
        scan.at = at;
    }

    fn leave(&mut self, scan: &mut Scan) {
        if let Some((extent, offset)) = scan.extent.take() {
            let place = &self.extents[extent as usize];
            scan.at = Position { segment: place.segment, offset: place.base + offset };
            let before = scan.left.replace(extent);
            debug_assert!(before.is_none(), "a step releases what the one before left");
        }
    }

    fn release_left(&mut self, scan: &mut Scan) {
        if let Some(extent) = scan.left.take() {
            self.release(Location { extent, offset: 0 });
        }
    }

    /// One step of a walk: appends the waiting records of the next block to `found`. They are not held yet.
    pub fn scan(&mut self, now: Now, scan: &mut Scan, found: &mut Vec<Found>, ops: &mut VecDeque<Op>) -> Step {
        if scan.reading || scan.retry_ns.is_some_and(|at| now.mono_ns < at) {
            return Step::Wait;
        }
        scan.retry_ns = None;
        self.release_left(scan);
        loop {
            if let Some((extent, offset)) = scan.extent {
                if let Some(bytes) = self.open_bytes(extent, offset) {
                    self.collect(extent, offset, bytes, found);
                    self.leave(scan);
                    return Step::Tail;
                }
                if offset < self.extents[extent as usize].end {
                    let bytes = self.collect_block(extent, offset, found);
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
            if segment.number > scan.at.segment {
                scan.at = segment.first_position();
            }
            if let Some((extent, offset)) = self.resident(scan.at) {
                // What is found may be held for long. The slots that are kept back must not be, not even the one that is being
                // filled: without them there would be no room for the ids and marks that end the holding.
                let place = if extent >= self.slots || self.has_window_room() {
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
            if self.heap_extents() < self.heap_extents_max() {
                scan.reading = true;
                self.segments[index].reads += 1;
                self.counters.journal_read_backs += 1;
                let bytes = self.written_behind(scan.at, segment_end).min(block_bytes);
                ops.push_back(Op::ReadBack {
                    journal: self.id,
                    segment: scan.at.segment,
                    offset: scan.at.offset,
                    buffer: vec![0; bytes as usize],
                });
            }
            return Step::Wait;
        }
    }

    /// Bytes of the open block, if that is at a place; in a copy, if the copy has all of it.
    fn open_bytes(&self, extent: u32, offset: u32) -> Option<u32> {
        let open = self.open.as_ref()?;
        if self.current == Some(extent) {
            return (open.start == offset).then_some(open.used);
        }
        let Extent { segment, base, open_copy, .. } = self.extents[extent as usize];
        let at = Position { segment, offset: base + offset };
        (open_copy == Some((offset, open.used)) && open.header.at == at).then_some(open.used)
    }

    /// Whether a place in a slot is the very end of the log.
    fn is_nothing_behind(&self, extent: u32, offset: u32) -> bool {
        let empty = self.open.as_ref().is_none_or(|open| open.entries == 0);
        self.current == Some(extent) && offset == self.extents[extent as usize].end && empty
    }

    /// The extent in memory that holds a position at which a block begins or will begin.
    fn resident(&self, at: Position) -> Option<(u32, u32)> {
        let found = self.extents.iter().enumerate().find(|(index, extent)| {
            let used = extent.end > 0 || self.current == Some(*index as u32);
            let open_end = extent.base + extent.end + u32::from(self.current == Some(*index as u32));
            used && extent.segment == at.segment && (extent.base..open_end).contains(&at.offset)
        });
        found.map(|(index, extent)| (index as u32, at.offset - extent.base))
    }

    /// Bytes from a place in a segment to its end, or to the next block that is still to be written: of that one a read
    /// would get a part.
    fn written_behind(&self, at: Position, segment_end: u32) -> u32 {
        let unwritten =
            self.extents[..self.slots as usize].iter().filter(|e| e.unwritten > 0 && e.segment == at.segment);
        let next = unwritten.map(|extent| extent.base).filter(|base| *base > at.offset).min();
        next.unwrap_or(segment_end) - at.offset
    }

    fn heap_extents(&self) -> usize {
        self.extents.len() - self.slots as usize - self.free_heap.len()
    }

    fn heap_extents_max(&self) -> usize {
        (self.slots as usize / 4).max(2)
    }

    fn add_heap_extent(&mut self, extent: Extent) -> u32 {
        if let Some(index) = self.free_heap.pop() {
            self.extents[index as usize] = extent;
            return index;
        }
        self.extents.push(extent);
        (self.extents.len() - 1) as u32
    }

    /// Copies a slot's blocks from an offset on, the open one too; the copy and the offset in it.
    fn copy_to_heap(&mut self, index: u32, from: u32) -> Option<(u32, u32)> {
        if self.heap_extents() >= self.heap_extents_max() {
            return None;
        }
        let Extent { segment, base, end, epoch_id, .. } = self.extents[index as usize];
        let open = self.open.as_ref().filter(|_| self.current == Some(index));
        let open_copy = open.map(|open| (open.start - from, open.used));
        let copied_end = open.map_or(end, |open| open.start + open.used);
        let heap = self.extent_memory(index, 0)[from as usize..copied_end as usize].to_vec();
        let copy =
            Extent { end: end - from, heap: Some(heap), open_copy, ..Extent::new(segment, base + from, epoch_id) };
        Some((self.add_heap_extent(copy), 0))
    }

    /// A read is over: the walk goes on in what was read.
    pub fn handle_read_back(
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
                self.fail(format!("segment {} cannot be read: {}", at.segment, describe(errno)));
                return;
            }
        };
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
            // Damage: look for the next block one physical block on.
            tracing::error!(
                "journal of core {}: no block at {} of segment {}",
                self.options.core,
                at.offset,
                at.segment
            );
            self.counters.journal_errors += 1;
            scan.at.offset = (at.offset + physical).min(segment_end);
            return;
        };
        buffer.truncate(end);
        buffer.shrink_to_fit();
        let held = 1; // by the walk
        let place = Extent::new(at.segment, at.offset, epoch_id);
        let extent = Extent { end: end as u32, heap: Some(buffer), held, ..place };
        scan.extent = Some((self.add_heap_extent(extent), 0));
    }

    /// Bytes to the next block, too.
    fn collect_block(&self, extent: u32, offset: u32, found: &mut Vec<Found>) -> u32 {
        let bytes = self.extent_memory(extent, offset as usize);
        let (header, seal) = BlockHeader::decode(bytes).expect("an extent holds whole blocks");
        let used = seal.expect("a block below the extent's end is sealed").used;
        self.collect(extent, offset, used, found);
        match self.segments.iter().find(|s| s.number == header.at.segment) {
            Some(segment) => round_up(used, segment.physical),
            // It was freed under the walk: nothing of it waits any more.
            None => self.extents[extent as usize].end - offset,
        }
    }

    fn collect(&self, extent: u32, offset: u32, bytes: u32, found: &mut Vec<Found>) {
        let place = &self.extents[extent as usize];
        let Some(segment) = self.segments.iter().find(|s| s.number == place.segment) else { return };
        let block = &self.extent_memory(extent, offset as usize)[..bytes as usize];
        let base = place.base + offset;
        let mut entries = super::format::Entries::new(block, segment.nonce, base);
        loop {
            for entry in entries.by_ref() {
                let Entry { header, payload, .. } = entry;
                if header.kind != Kind::Record || !segment.is_waiting(header.number) {
                    continue;
                }
                let id = RecordPayload::decode(payload).origin;
                if let Some(&origin) = self.origin_ids.get(&id) {
                    let at = Location { extent, offset: offset + entry.offset as u32 };
                    found.push(Found { number: header.number, origin, at });
                }
            }
            if entries.offset() + ENTRY_HEADER_BYTES > block.len() || entries.resynchronise().is_none() {
                return;
            }
        }
    }

    // ---- what it shows

    /// Adds its own counts to a shard's and starts again from zero.
    pub fn take_counters(&mut self, into: &mut Counters) {
        into.add(&std::mem::take(&mut self.counters));
    }

    /// Adds what it is now.
    pub fn snapshot(&self, into: &mut JournalSnapshot) {
        into.segments += self.segments.len() as u64;
        into.bytes += self.segments.len() as u64 * u64::from(self.options.segment_bytes);
        let used = self.slots as usize - self.free_slots.len() + self.heap_extents();
        into.window_bytes += used as u64 * u64::from(self.options.block_bytes);
        if into.problem.is_none() {
            into.problem.clone_from(&self.problem);
        }
    }
}

fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
