//! A journal over the disk in memory: carries out its operations one at a time, in any order, and checks each.

use super::disk::Disk;
use ringest::config::Durability;
use ringest::ground::{KeptHeaders, LaneNumber, RecordNumber, SegmentNumber};
use ringest::journal::{
    self, Appended, Found, Journal, Location, Moved, NewRecord, Options, OriginRef, Position, Scan, Step,
};
use ringest::journal::{Completion, KeyLimits, Op, Rewrite};
use ringest::observe::snapshot::JournalSnapshot;
use ringest::shard::Now;
use std::collections::{BTreeMap, VecDeque};

pub const SEGMENT_BYTES: u32 = 64 * 1024;
pub const BLOCK_BYTES: u32 = 8192;

/// Small limits, so that everything that can run out does.
pub fn options(durability: Durability, segments: u64, slots: usize) -> Options {
    Options {
        core: ringest::ground::CoreId(3),
        durability,
        commit_every_ns: 5_000_000,
        segment_bytes: SEGMENT_BYTES,
        max_bytes: segments * u64::from(SEGMENT_BYTES),
        window_bytes: slots * BLOCK_BYTES as usize,
        block_bytes: BLOCK_BYTES,
        keys: KeyLimits { count: 1_000, age_ns: 3_600_000_000_000 },
    }
}

/// What a record of this data is appended with: one in four has headers, with bytes of it.
pub fn headers_of(data: &[u8]) -> Vec<u8> {
    let fields = [("X-Lot", &data[..data.len().min(9)]), ("X-Empty", &b""[..])];
    KeptHeaders::encode(fields.into_iter().filter(|_| data.len() % 4 == 3))
}

/// All that a record says.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    pub number: RecordNumber,
    pub lane: LaneNumber,
    pub source: String,
    pub name: String,
    pub epoch_id: u128,
    pub flags: u8,
    pub first_byte_wall_ns: u64,
    pub frame_us: u32,
    pub key: Vec<u8>,
    pub headers: Vec<u8>,
    pub data: Vec<u8>,
    pub id: Option<String>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, lane, name, data, id, .. } = self;
        write!(f, "{number} of lane {lane} ({name}), {} B, id {id:?}, epoch {:x}", data.len(), self.epoch_id as u16)
    }
}

/// An operation under way; of a commit also the bytes as they were handed over.
#[derive(Debug)]
pub struct Pending {
    pub op: Op,
    pub data: Vec<u8>,
}

pub struct World {
    pub disk: Disk,
    pub options: Options,
    journal: Option<Journal>,
    pub pending: Vec<Pending>,
    pub scan: Scan,
    pub now: Now,
    /// Runs that were rewritten since somebody looked.
    pub moved: Vec<Moved>,
    /// How often things happened.
    pub seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(options: Options, physical: u32, seed: u64) -> Self {
        Self::on(Disk::new(physical, seed), options)
    }

    /// A journal that is to be opened on what a disk holds.
    pub fn on(disk: Disk, options: Options) -> Self {
        Self {
            disk,
            options,
            journal: None,
            pending: Vec::new(),
            scan: Scan::default(),
            now: Now { mono_ns: 1_000_000_000, wall_ns: 5 },
            moved: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().expect("open")
    }

    pub fn open(&mut self) -> Result<(), journal::OpenError> {
        self.scan = Scan::default();
        self.disk.dense = None; // a start removes it first
        self.journal = Some(journal::open(&mut self.disk, &self.options)?);
        Ok(())
    }

    pub fn open_whole(&mut self) {
        self.open().expect("opens");
    }

    /// The process is gone. Writes in flight land whole, in part, not at all, or are handed back to land later.
    pub fn kill(&mut self) -> Vec<Pending> {
        self.journal = None;
        if self.disk.dense.is_some() || self.pending.iter().any(|pending| matches!(pending.op, Op::Rewrite { .. })) {
            self.count("killed in a rewrite");
        }
        let mut late = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if let Op::Commit { segment, offset, .. } = pending.op {
                let part = self.disk.rng.usize(..=pending.data.len() / 512) * 512;
                match self.disk.rng.u8(..4) {
                    0 => self.disk.write(segment, offset as usize, &pending.data, false),
                    1 => self.disk.write(segment, offset as usize, &pending.data[..part], false),
                    2 => late.push(pending),
                    _ => {}
                }
            } else if self.disk.rng.bool() {
                self.carry_out(&pending);
            }
        }
        late
    }

    /// What a kill at this moment leaves behind, opened again.
    pub fn killed_here(&self) -> Self {
        let mut other = Self::on(self.disk.image(), self.options.clone());
        for pending in &self.pending {
            if let Op::Rewrite { segment, work, .. } = &pending.op
                && other.disk.rng.bool()
            {
                other.disk.rewrite(*segment, work);
            }
            let Op::Commit { segment, offset, .. } = pending.op else { continue };
            let part = other.disk.rng.usize(..=pending.data.len() / 512) * 512;
            other.disk.write(segment, offset as usize, &pending.data[..part], false);
        }
        other.open_whole();
        other
    }

    // ---- operations

    pub fn turn(&mut self, waiting: bool) {
        let mut ops = VecDeque::new();
        let now = self.now;
        self.journal().turn(now, waiting, &mut |op| ops.push_back(op));
        self.submit(ops);
    }

    pub fn submit(&mut self, ops: VecDeque<Op>) {
        for op in ops {
            let data = self.check(&op);
            self.pending.push(Pending { op, data });
        }
    }

    /// Checks an operation against the disk and those in flight; a commit's bytes.
    fn check(&mut self, op: &Op) -> Vec<u8> {
        assert_ne!(self.options.durability, Durability::Memory, "no operation without a disk");
        match *op {
            Op::Commit { memory_offset, segment, offset, bytes, sync, .. } => {
                let unit = self.disk.physical;
                assert!([memory_offset, offset, bytes].iter().all(|number| number % unit == 0) && bytes > 0);
                assert_eq!(sync, self.options.durability == Durability::Power);
                let (start, end) = (offset as usize, (offset + bytes) as usize);
                let memory = memory_offset as usize..(memory_offset + bytes) as usize;
                for other in &self.pending {
                    if let Op::Commit { memory_offset, segment: other_segment, offset, bytes, .. } = other.op {
                        assert!(
                            memory_offset as usize >= memory.end || (memory_offset + bytes) as usize <= memory.start
                        );
                        assert!(
                            other_segment != segment || offset as usize >= end || (offset + bytes) as usize <= start
                        );
                    }
                }
                let file = self.disk.segments.get_mut(&segment).expect("a commit to a segment that is ready");
                assert!(offset >= unit && end <= file.data.len());
                let range = (start, end);
                let free = file.written.iter().all(|other| *other == range || other.0 >= end || other.1 <= start);
                assert!(free, "a block is never written over another");
                if !file.written.contains(&range) {
                    file.written.push(range);
                }
                self.journal().memory().bytes(memory).to_vec()
            }
            Op::PrepareSegment { segment, bytes, ref header, .. } => {
                assert!(!self.disk.segments.contains_key(&segment) && bytes == u64::from(self.options.segment_bytes));
                assert_eq!(header.len(), self.disk.physical as usize);
                Vec::new()
            }
            Op::SyncSegment { segment, .. } => {
                assert!(self.disk.segments.contains_key(&segment));
                Vec::new()
            }
            Op::FreeSegment { segment, .. } => {
                assert!(self.disk.segments.contains_key(&segment));
                assert!(!self.pending.iter().any(|other| segment_of(&other.op) == Some(segment)), "freed while in use");
                Vec::new()
            }
            Op::ReadBack { segment, offset, ref buffer, .. } => {
                let (start, end) = (offset, offset + buffer.len() as u32);
                assert!(start % 512 == 0 && !buffer.is_empty());
                let replaces = |op: &Op| matches!(op, Op::Rewrite { work: Rewrite::Replace { .. }, .. });
                assert!(
                    !self.pending.iter().any(|other| replaces(&other.op) && segment_of(&other.op) == Some(segment))
                );
                for other in &self.pending {
                    if let Op::Commit { segment: other_segment, offset, bytes, .. } = other.op {
                        let apart = other_segment != segment || offset >= end || offset + bytes <= start;
                        assert!(apart, "a read of {start}..{end} where a block is being written at {offset}");
                    }
                }
                Vec::new()
            }
            Op::Rewrite { segment, ref work, .. } => {
                self.check_rewrite(segment, work);
                Vec::new()
            }
        }
    }

    fn check_rewrite(&self, segment: SegmentNumber, work: &Rewrite) {
        let others = || self.pending.iter().map(|pending| &pending.op);
        assert!(!others().any(|op| matches!(op, Op::Rewrite { .. })), "one step at a time");
        assert!(self.disk.segments.contains_key(&segment));
        match work {
            Rewrite::Begin { bytes } => {
                assert!(self.disk.dense.is_none() && *bytes == u64::from(self.options.segment_bytes));
            }
            Rewrite::Read { from, offset, buffer } => {
                assert!(self.disk.segments.contains_key(from) && offset % 512 == 0 && !buffer.is_empty());
                assert!(buffer.len() <= BLOCK_BYTES as usize, "a piece, not a segment");
                assert!(!others().any(|op| matches!(op, Op::Commit { segment, .. } if segment == from)));
            }
            Rewrite::Write { offset, bytes } => {
                let (unit, offset) = (self.disk.physical as usize, *offset as usize);
                assert!(offset % unit == 0 && bytes.len() % unit == 0 && offset >= unit && !bytes.is_empty());
                assert!(bytes.len() <= 4 * BLOCK_BYTES as usize, "a few blocks at a time");
                let file = self.disk.dense.as_ref().expect("it was begun");
                assert!(offset + bytes.len() <= file.data.len());
            }
            Rewrite::Replace { header } => {
                assert_eq!(header.len(), self.disk.physical as usize);
                assert!(!others().any(|op| segment_of(op) == Some(segment)), "replaced while in use");
            }
            Rewrite::SyncDirectory | Rewrite::GiveUp => {}
        }
    }

    fn carry_out(&mut self, pending: &Pending) {
        match pending.op {
            Op::Commit { segment, offset, sync, .. } => self.disk.write(segment, offset as usize, &pending.data, sync),
            Op::PrepareSegment { segment, bytes, ref header, sync, .. } => {
                if !self.disk.spares.is_empty() {
                    self.count("reused");
                }
                self.disk.prepare(segment, bytes, header, sync);
            }
            Op::SyncSegment { segment, .. } => self.disk.sync(segment),
            Op::FreeSegment { segment, reuse: true, .. } => self.disk.free(segment),
            Op::FreeSegment { segment, .. } => drop(self.disk.segments.remove(&segment).expect("a file that is there")),
            Op::Rewrite { segment, ref work, .. } => self.disk.rewrite(segment, work),
            _ => {}
        }
    }

    /// Ends an operation, with success or an errno. The journal hears of it.
    pub fn complete(&mut self, index: usize, result: Result<(), i32>) {
        let pending = self.pending.swap_remove(index);
        let now = self.now;
        if let Op::Commit { memory_offset, bytes, .. } = pending.op {
            let memory = memory_offset as usize..(memory_offset + bytes) as usize;
            assert!(self.journal().memory().bytes(memory) == pending.data, "a block changed while it was written");
        }
        if result.is_ok() {
            self.carry_out(&pending);
        } else {
            self.count("failed operation");
            if let Op::Commit { segment, offset, .. } = pending.op {
                // Nobody knows what of it is there, nor for how long.
                let part = self.disk.rng.usize(..=pending.data.len() / 512) * 512;
                self.disk.write(segment, offset as usize, &pending.data[..part], false);
            }
        }
        self.count(match pending.op {
            Op::Commit { .. } => "committed",
            Op::PrepareSegment { .. } => "prepared",
            Op::SyncSegment { .. } => "synced",
            Op::FreeSegment { .. } => "freed",
            Op::Rewrite { work: Rewrite::Replace { .. }, .. } if result.is_ok() => "rewritten",
            Op::Rewrite { work: Rewrite::GiveUp, .. } => "rewrite given up",
            Op::Rewrite { work: Rewrite::SyncDirectory, .. } if result.is_err() => "directory not synced",
            Op::Rewrite { .. } => "step of a rewrite",
            _ => "read back",
        });
        let journal = self.journal.as_mut().expect("open");
        let completion = match pending.op {
            Op::Commit { segment, offset, .. } => Completion::Committed { segment, offset, result },
            Op::PrepareSegment { segment, .. } => Completion::SegmentPrepared { segment, result },
            Op::SyncSegment { segment, .. } => Completion::SegmentSynced { segment, result },
            Op::ReadBack { segment, offset, mut buffer } => {
                let result = result.map(|()| {
                    let data = &self.disk.segments[&segment].data;
                    let data = data.get(offset as usize..).unwrap_or_default();
                    let bytes = data.len().min(buffer.len());
                    buffer[..bytes].copy_from_slice(&data[..bytes]);
                    bytes
                });
                Completion::ReadBack { segment, offset, buffer, result }
            }
            Op::FreeSegment { segment, .. } => Completion::SegmentFreed { segment, result },
            Op::Rewrite { segment, mut work } => {
                if let Rewrite::Read { from, offset, buffer } = &mut work {
                    let start = *offset as usize;
                    let data = &self.disk.segments[from].data[start..start + buffer.len()];
                    buffer.copy_from_slice(data);
                }
                Completion::Rewrite { segment, work, result }
            }
        };
        self.moved.extend(journal.handle(now, &mut self.scan, completion));
    }

    /// All operations end, oldest first, until there are none.
    pub fn quiesce(&mut self) {
        for _ in 0..10_000 {
            self.turn(false);
            if self.pending.is_empty() {
                return;
            }
            while !self.pending.is_empty() {
                self.complete(0, Ok(()));
            }
        }
        panic!("there is always something more to do");
    }

    /// Time passes as far as the journal asks for, until it asks for no more.
    pub fn rest(&mut self) {
        for _ in 0..100 {
            self.quiesce();
            let Some(deadline) = self.journal().deadline_ns() else { return };
            self.now.mono_ns = self.now.mono_ns.max(deadline);
        }
        panic!("there is always a time to wait for");
    }

    /// A clean stop. `false` where marks find no room.
    pub fn close(&mut self) -> bool {
        for _ in 0..100 {
            let mut ops = VecDeque::new();
            let now = self.now;
            self.journal().flush(now, &mut |op| ops.push_back(op));
            self.submit(ops);
            while !self.pending.is_empty() {
                let index = self.disk.rng.usize(..self.pending.len());
                self.complete(index, Ok(()));
            }
            if self.journal().is_flushed() {
                let journal = self.journal.take().expect("open");
                journal.close(&mut self.disk).expect("closes");
                return true;
            }
            self.now.mono_ns += 1_000_000_000;
        }
        false
    }

    // ---- what it holds

    pub fn segments(&mut self) -> u64 {
        let mut snapshot = JournalSnapshot::default();
        let now = self.now;
        self.journal().snapshot(now, &mut snapshot);
        snapshot.segments
    }

    /// A record that is held.
    pub fn view(&mut self, origin: OriginRef, at: Location) -> Kept {
        let journal = self.journal();
        let (record, origin) = (journal.record(at), journal.origin(origin));
        Kept {
            number: record.number,
            lane: origin.lane,
            source: origin.who.source().to_owned(),
            name: origin.who.name().to_owned(),
            epoch_id: record.epoch_id,
            flags: record.flags,
            first_byte_wall_ns: record.payload.first_byte_wall_ns,
            frame_us: record.payload.frame_us,
            key: record.payload.key.to_vec(),
            headers: record.payload.headers.as_bytes().to_vec(),
            data: record.payload.data.to_vec(),
            id: journal.recovered_id(record.number).map(str::to_owned),
        }
    }

    pub fn start_scan(&mut self, at: Position) {
        let Self { journal, scan, .. } = self;
        journal.as_mut().expect("open").start_scan(scan, at);
    }

    pub fn step(&mut self, found: &mut Vec<Found>) -> Step {
        let mut ops = VecDeque::new();
        let now = self.now;
        let step = self.journal.as_mut().expect("open").scan(now, &mut self.scan, found, &mut |op| ops.push_back(op));
        self.submit(ops);
        step
    }

    /// All waiting records, in the order of the log. Nothing else may be under way.
    pub fn scan_all(&mut self) -> Vec<Kept> {
        let oldest = self.journal().oldest();
        self.start_scan(oldest);
        let mut all: Vec<Kept> = Vec::new();
        for _ in 0..100_000 {
            let mut found = Vec::new();
            let step = self.step(&mut found);
            for record in found {
                self.journal().hold(record.at);
                let kept = self.view(record.origin, record.at);
                assert_eq!(kept.number, record.number);
                assert!(all.last().is_none_or(|last| last.number < kept.number), "a walk goes forward");
                all.push(kept);
                self.journal().release(record.at);
            }
            match step {
                Step::Block => {}
                Step::Wait => {
                    let read = self.pending.iter().position(|pending| matches!(pending.op, Op::ReadBack { .. }));
                    self.complete(read.expect("a walk waits for a read"), Ok(()));
                }
                Step::Tail => return all,
            }
        }
        panic!("a walk ends");
    }

    /// Reads back and settles whatever waits, until the journal holds nothing.
    pub fn settle_all(&mut self) {
        let oldest = self.journal().oldest();
        self.start_scan(oldest);
        loop {
            let mut found = Vec::new();
            let step = self.step(&mut found);
            for record in found {
                self.journal().hold(record.at);
                self.journal().settle(record.number, record.origin, record.at);
            }
            if step == Step::Tail {
                break;
            }
            while step == Step::Wait && !self.pending.is_empty() {
                self.complete(0, Ok(()));
            }
        }
        self.start_scan(Position::default());
        self.rest();
        assert_eq!((self.journal().unsettled(), self.journal().marks_in_memory()), (0, 0));
        assert!(self.segments() <= 1, "all is settled, and {} segments stay", self.segments());
    }

    /// Appends a record of recognisable content and says what it says.
    pub fn append(&mut self, origin: OriginRef, data: &[u8], key: &[u8]) -> Option<(Kept, Location)> {
        let now = self.now;
        let (flags, first_byte_wall_ns, frame_us) =
            (data.len() as u8, now.mono_ns ^ data.len() as u64, data.len() as u32);
        let encoded = headers_of(data);
        let headers = KeptHeaders::of(&encoded);
        let record = NewRecord { origin, flags, first_byte_wall_ns, frame_us, key, hashes: None, headers, data };
        let room = self.journal().can_append(now, encoded.len() + key.len() + data.len());
        let appended = self.journal().append_record(now, record);
        assert_eq!(appended.is_ok(), room, "can_append tells the truth");
        let Appended { number, at } = appended.ok()?;
        self.journal().hold(at);
        let kept = self.view(origin, at);
        self.journal().release(at);
        let expected = (number, flags, first_byte_wall_ns, frame_us, key, data);
        let got = (kept.number, kept.flags, kept.first_byte_wall_ns, kept.frame_us, &kept.key[..], &kept.data[..]);
        assert_eq!((got, &kept.headers), (expected, &encoded));
        Some((kept, at))
    }
}

pub fn segment_of(op: &Op) -> Option<SegmentNumber> {
    match *op {
        Op::Commit { segment, .. }
        | Op::PrepareSegment { segment, .. }
        | Op::SyncSegment { segment, .. }
        | Op::FreeSegment { segment, .. }
        | Op::ReadBack { segment, .. }
        | Op::Rewrite { segment, work: Rewrite::Replace { .. }, .. }
        | Op::Rewrite { work: Rewrite::Read { from: segment, .. }, .. } => Some(segment),
        Op::Rewrite { .. } => None, // its own file, or none
    }
}
