//! One journal directory on a disk that takes its time and fails: operations end in any order, or with an error, and at a
//! crash those in flight land, land in part, land late, or not at all. Block memory survives the process, and is gone after a loss
//! of power.
//!
//! An error leaves the worst behind that a file system allows: a failed write has changed any of its sectors, a failed sync has
//! lost what was written before it though later ones succeed, a failed preparation may have made the file.

use super::context::{Context, MS, US};
use super::event::Event;
use crate::say;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::BlockFile;
use ringest::journal::format::{BlockHeader, Entries, Kind, Position};
use ringest::journal::{Completion, Op, Rewrite};
use ringest::shard::JournalId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
pub const EAGAIN: i32 = 11;
pub const ENOSPC: i32 = 28;
/// A write that the kernel has is on the disk after this, though its process was killed.
const LATE_NS_MAX: u64 = 3_000 * MS;
/// Unit in which a write without power tears.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
pub struct Segment {
    /// Tells a file from others that have had its name.
    pub inode: u64,
    pub data: Vec<u8>,
    /// Ranges that blocks were written to, or are being.
    pub written: Vec<(u32, u32)>,
    /// What was there before each write that is not durable.
    pub undo: Vec<(usize, Vec<u8>)>,
    /// What cannot be read of it.
    pub unreadable: Vec<Range<usize>>,
    /// It has a second name in quarantine.
    pub kept: bool,
    /// The file itself would not be there after a loss of power.
    pub volatile: bool,
    /// It is not there any more, but for what a loss of power may undo.
    pub removed: bool,
    /// Its process has asked for its end.
    pub given_up: bool,
    /// Put aside, and no loss of power can undo that.
    pub is_aside_for_good: bool,
    /// A write or sync of it has failed: nobody may trust it with more.
    pub failed: bool,
    /// What a failed sync has lost, though the process sees it: no later sync brings it to the disk.
    pub doomed: Vec<(usize, Vec<u8>)>,
    /// What had its name before, and may have it again after a loss of power.
    pub replaced: Option<Box<Segment>>,
}

/// What a fault of the disk makes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskWork {
    Commit,
    Prepare,
    Sync,
    Free,
    ReadBack,
    Rewrite,
    /// A call at start or at a clean stop.
    Call,
}

/// A fault in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTrouble {
    pub work: DiskWork,
    pub errno: i32,
    /// So often, in a hundred.
    pub percent: u32,
    /// So many times at most.
    pub left: u32,
}

/// An operation in flight.
struct Operation {
    journal: JournalId,
    segment: SegmentNumber,
    work: Work,
    /// Its process is dead: it may still land, in this file, and nobody hears of it.
    orphan: bool,
    inode: Option<u64>,
    /// A device that is slow brings it to the file after a kill as late as this.
    lands_ns: u64,
}

enum Work {
    Commit { memory: BlockFile, memory_offset: usize, offset: u32, data: Vec<u8>, sync: bool },
    Prepare { bytes: u64, header: Vec<u8>, sync: bool },
    Sync,
    Free { reuse: bool },
    ReadBack { offset: u32, buffer: Vec<u8> },
    Rewrite(Rewrite),
}

/// What the shard is to hear.
#[derive(Debug)]
pub struct Done {
    pub journal: JournalId,
    pub completion: Completion,
}

pub struct Disk {
    directory: usize,
    pub(super) physical: u32,
    pub(super) boot: [u8; 16],
    pub(super) rng: fastrand::Rng,
    pub(super) segments: BTreeMap<SegmentNumber, Segment>,
    /// Files put aside, and the segments that they were.
    pub(super) spares: Vec<(SegmentNumber, Segment)>,
    /// What is freed at this start is removed.
    pub(super) is_distrusted: bool,
    /// The file of a rewrite.
    pub(super) dense: Option<Segment>,
    pub(super) epochs: BTreeMap<u64, Vec<u8>>,
    pub(super) blocks: BTreeMap<String, BlockFile>,
    /// What clean stops leave for one later start, beside the directory.
    pub(super) tokens: BTreeSet<String>,
    pub quarantined: Vec<String>,
    operations: BTreeMap<usize, Operation>,
    begun: usize,
    pub(super) inodes: u64,
    /// Longest ordinary operation.
    pub delay_ns: u64,
    /// Calls that change something, until the process is killed in the middle of one.
    pub fuse: Option<u32>,
    /// Faults in force, by their index in the plan.
    pub troubles: BTreeMap<usize, DiskTrouble>,
    /// A call at start or stop has failed since the last crash.
    pub call_failed: bool,
    /// Epoch and number of the records that were written and synced.
    pub durable: BTreeSet<(u128, RecordNumber)>,
    /// Blocks with a flipped bit.
    pub(super) damaged: BTreeSet<(SegmentNumber, usize)>,
    /// A loss of power has taken what a failed sync had left in the page cache: later processes took it for durable.
    pub lost_doomed: bool,
    /// Nothing ends before then.
    pub hung_until_ns: u64,
    /// Operations that failed and were told.
    pub errors: u64,
    /// Segments whose preparation failed: they may be asked for again.
    half_made: BTreeSet<SegmentNumber>,
}

impl Disk {
    pub fn new(directory: usize, physical: u32, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let boot = rng.u128(..).to_le_bytes();
        Self {
            directory,
            physical,
            boot,
            rng,
            segments: BTreeMap::new(),
            spares: Vec::new(),
            is_distrusted: false,
            dense: None,
            epochs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            tokens: BTreeSet::new(),
            quarantined: Vec::new(),
            operations: BTreeMap::new(),
            begun: 0,
            inodes: 0,
            delay_ns: MS,
            fuse: None,
            troubles: BTreeMap::new(),
            call_failed: false,
            durable: BTreeSet::new(),
            damaged: BTreeSet::new(),
            lost_doomed: false,
            hung_until_ns: 0,
            errors: 0,
            half_made: BTreeSet::new(),
        }
    }

    /// Takes over an operation of a journal; `memory` is its journal's block memory.
    ///
    /// # Errors
    /// In words, if it breaks the contract.
    pub fn begin(&mut self, cx: &mut Context, journal: JournalId, op: Op, memory: &BlockFile) -> Result<(), String> {
        let operation = match op {
            Op::Commit { memory_offset, segment, offset, bytes, sync } => {
                let memory_offset = memory_offset as usize;
                self.claim(segment, offset, bytes, memory_offset)?;
                self.memory_is_free(memory, memory_offset, bytes as usize)?;
                let data = memory.bytes(memory_offset..memory_offset + bytes as usize).to_vec();
                self.check_watermark(&data)?;
                let work = Work::Commit { memory: Rc::clone(memory), memory_offset, offset, data, sync };
                Operation { journal, segment, work, orphan: false, inode: None, lands_ns: 0 }
            }
            Op::PrepareSegment { segment, bytes, header, sync } => {
                let known = self.segments.contains_key(&segment) && !self.half_made.contains(&segment);
                if known || self.in_flight(segment).next().is_some() {
                    return Err(format!("segment {segment} is prepared twice"));
                }
                if bytes % u64::from(self.physical) != 0 || header.len() != self.physical as usize {
                    return Err(format!("segment {segment}: {bytes} B with a header of {} B", header.len()));
                }
                Operation {
                    journal,
                    segment,
                    work: Work::Prepare { bytes, header, sync },
                    orphan: false,
                    inode: None,
                    lands_ns: 0,
                }
            }
            Op::SyncSegment { segment } => {
                self.exists(segment)?;
                Operation { journal, segment, work: Work::Sync, orphan: false, inode: None, lands_ns: 0 }
            }
            Op::FreeSegment { segment, reuse } => {
                self.exists(segment)?;
                // A walk may be reading it back in vain.
                let harmless = |work: &Work| matches!(work, Work::ReadBack { .. } | Work::Rewrite(_));
                if self.in_flight(segment).any(|other| !harmless(&other.work)) || self.is_replaced_or_copied(segment) {
                    return Err(format!("segment {segment} is freed with operations in flight"));
                }
                if let Some(file) = self.segments.get_mut(&segment) {
                    file.given_up = true;
                }
                Operation { journal, segment, work: Work::Free { reuse }, orphan: false, inode: None, lands_ns: 0 }
            }
            Op::ReadBack { segment, offset, buffer } => {
                self.read_range(segment, offset, buffer.len())?;
                Operation {
                    journal,
                    segment,
                    work: Work::ReadBack { offset, buffer },
                    orphan: false,
                    inode: None,
                    lands_ns: 0,
                }
            }
            Op::Rewrite { segment, work } => {
                self.check_rewrite(segment, &work)?;
                Operation { journal, segment, work: Work::Rewrite(work), orphan: false, inode: None, lands_ns: 0 }
            }
        };
        say!(cx, "disk: begin {}", operation.describe());
        let inode = self.segments.get(&operation.segment).map(|file| file.inode).filter(|inode| *inode != 0);
        let operation = Operation { inode, ..operation };
        self.begun += 1;
        self.operations.insert(self.begun, operation);
        let delay = cx.rng.u64(US..=self.delay_ns);
        cx.after(delay, Event::Disk { directory: self.directory, operation: self.begun });
        Ok(())
    }

    pub(super) fn rewrites_in_flight(&self) -> impl Iterator<Item = (SegmentNumber, &Rewrite)> {
        let alive = self.operations.values().filter(|operation| !operation.orphan);
        alive.filter_map(|operation| match &operation.work {
            Work::Rewrite(work) => Some((operation.segment, work)),
            _ => None,
        })
    }

    /// Whether an operation is in flight on a segment's file.
    pub(super) fn is_used(&self, segment: SegmentNumber) -> bool {
        self.in_flight(segment).next().is_some()
    }

    fn is_replaced_or_copied(&self, segment: SegmentNumber) -> bool {
        self.rewrites_in_flight().any(|(place, work)| match work {
            Rewrite::Read { from, .. } => *from == segment,
            Rewrite::Replace { .. } => place == segment,
            _ => false,
        })
    }

    pub(super) fn exists(&self, segment: SegmentNumber) -> Result<&Segment, String> {
        self.segments.get(&segment).ok_or_else(|| format!("segment {segment} is not there"))
    }

    /// Whether nothing is in flight that room for entries could wait for.
    pub fn is_calm(&self) -> bool {
        let holds_up = |work: &Work| matches!(work, Work::Commit { .. } | Work::Prepare { .. });
        !self.operations.values().any(|operation| !operation.orphan && holds_up(&operation.work))
    }

    fn in_flight(&self, segment: SegmentNumber) -> impl Iterator<Item = &Operation> {
        self.operations.values().filter(move |operation| !operation.orphan && operation.segment == segment)
    }

    /// A block's range must be aligned, inside, and never written before.
    fn claim(&mut self, segment: SegmentNumber, offset: u32, bytes: u32, memory_offset: usize) -> Result<(), String> {
        let unit = self.physical;
        let aligned = |number: u32| number.is_multiple_of(unit);
        if !aligned(offset)
            || !aligned(bytes)
            || !memory_offset.is_multiple_of(unit as usize)
            || bytes == 0
            || offset < unit
        {
            return Err(format!("commit of {bytes} B from {memory_offset} to {segment} at {offset} is not aligned"));
        }
        let file = self.segments.get_mut(&segment).ok_or_else(|| format!("commit to {segment}, which is not ready"))?;
        if file.failed {
            return Err(format!("commit to {segment} at {offset}, though a write or sync of it has failed"));
        }
        let end = offset + bytes;
        if end as usize > file.data.len() {
            return Err(format!("commit to {segment} up to {end}, beyond its {} B", file.data.len()));
        }
        if let Some(other) = file.written.iter().find(|(from, to)| *from < end && offset < *to) {
            return Err(format!("commit to {segment} at {offset}..{end}, over the block at {other:?}"));
        }
        file.written.push((offset, end));
        Ok(())
    }

    /// A block must not say that something is durable whose sync has failed.
    fn check_watermark(&self, block: &[u8]) -> Result<(), String> {
        let Some((BlockHeader { watermark, oldest_segment, .. }, _)) = BlockHeader::decode(block) else {
            return Ok(());
        };
        // What was given up is not part of the log, though its file may still be there.
        let is_part = |segment: SegmentNumber, file: &Segment| segment >= oldest_segment && !file.given_up;
        for (&segment, file) in self.segments.iter().filter(|(number, file)| file.failed && is_part(**number, file)) {
            let lost = file.doomed.iter().map(|(offset, _)| *offset as u32).min();
            if lost.is_some_and(|offset| Position { segment, offset } < watermark) {
                return Err(format!(
                    "a block says that all before {watermark:?} is durable, but a sync of {segment} has failed"
                ));
            }
        }
        Ok(())
    }

    fn memory_is_free(&self, memory: &BlockFile, from: usize, bytes: usize) -> Result<(), String> {
        for operation in self.operations.values() {
            if let Work::Commit { memory: other, memory_offset, data, .. } = &operation.work
                && Rc::ptr_eq(memory, other)
                && *memory_offset < from + bytes
                && from < memory_offset + data.len()
            {
                return Err(format!("commit of memory at {from}, which is in flight"));
            }
        }
        Ok(())
    }

    pub(super) fn read_range(&self, segment: SegmentNumber, offset: u32, bytes: usize) -> Result<(), String> {
        let file = self.exists(segment)?;
        let (from, to) = (offset as usize, offset as usize + bytes);
        if self.rewrites_in_flight().any(|(place, work)| place == segment && matches!(work, Rewrite::Replace { .. })) {
            return Err(format!("read back of {segment}, whose file is being replaced"));
        }
        if bytes == 0 || to > file.data.len() || from % self.physical as usize != 0 {
            return Err(format!("read back of {segment} at {from}..{to} of {} B", file.data.len()));
        }
        for operation in self.in_flight(segment) {
            if let Work::Commit { offset, data, .. } = &operation.work
                && (*offset as usize) < to
                && from < *offset as usize + data.len()
            {
                return Err(format!("read back of {segment} at {from}..{to}, where a commit is in flight"));
            }
        }
        Ok(())
    }

    /// Whether an operation fails now, and how.
    pub(super) fn error(&mut self, work: DiskWork) -> Option<i32> {
        let rng = &mut self.rng;
        let fails =
            |trouble: &&mut DiskTrouble| trouble.work == work && trouble.left > 0 && rng.u32(..100) < trouble.percent;
        let trouble = self.troubles.values_mut().find(fails)?;
        trouble.left -= 1;
        Some(trouble.errno)
    }

    /// [`Event::Disk`]: the operation lands. What the shard is to hear, if it lives.
    ///
    /// # Errors
    /// In words, if the memory under a commit changed.
    pub fn finish(&mut self, cx: &mut Context, index: usize) -> Result<Option<Done>, String> {
        let Some(operation) = self.operations.remove(&index) else { return Ok(None) };
        if cx.now_ns < self.hung_until_ns && !operation.orphan {
            cx.queue.push(self.hung_until_ns, Event::Disk { directory: self.directory, operation: index });
            cx.stats.count("disk operation hung");
            self.operations.insert(index, operation);
            return Ok(None);
        }
        let orphan = operation.orphan;
        if orphan && cx.now_ns < operation.lands_ns {
            cx.queue.push(operation.lands_ns, Event::Disk { directory: self.directory, operation: index });
            self.operations.insert(index, operation);
            return Ok(None);
        }
        if orphan && !self.has_file_of(&operation)? {
            return Ok(None);
        }
        let error = if orphan { None } else { self.error(operation.work.kind()) };
        let how = if orphan { "late " } else { "" };
        say!(cx, "disk: {how}{}{}", operation.describe(), error.map(|e| format!(" fails: {e}")).unwrap_or_default());
        if let Work::Commit { memory, memory_offset, data, .. } = &operation.work
            && !orphan
            && memory.bytes(*memory_offset..memory_offset + data.len()) != data
        {
            return Err(format!("the block at {memory_offset} changed while it was committed"));
        }
        let done = match error {
            Some(errno) => {
                self.errors += u64::from(errno != EAGAIN);
                self.fail(cx, operation, errno)
            }
            None => self.land(cx, operation),
        };
        Ok((!orphan).then_some(done))
    }

    /// Whether the file of a dead process' operation still has its name. One that was removed gets what was on its way to it.
    ///
    /// # Errors
    /// In words, where the file is another segment by now: what lands there may lie over a block.
    fn has_file_of(&self, Operation { segment, work, inode, .. }: &Operation) -> Result<bool, String> {
        let Some(inode) = *inode else { return Ok(false) };
        let found = self.segments.iter().find(|(_, file)| file.inode == inode).map(|(number, _)| *number);
        match (found, work) {
            (Some(other), Work::Commit { offset, .. }) if other != *segment => Err(format!(
                "a write of a killed process to segment {segment} at {offset} lands in segment {other}, which has its file"
            )),
            _ => Ok(found == Some(*segment)),
        }
    }

    fn land(&mut self, cx: &mut Context, operation: Operation) -> Done {
        let Operation { journal, segment, work, .. } = operation;
        let completion = match work {
            Work::Commit { offset, data, sync, .. } => {
                self.write(segment, offset as usize, &data, sync);
                if sync {
                    self.note_records(offset, &data);
                }
                Completion::Committed { segment, offset, result: Ok(()) }
            }
            Work::Prepare { bytes, header, sync } => {
                self.prepare(segment, bytes, &header, sync);
                Completion::SegmentPrepared { segment, result: Ok(()) }
            }
            Work::Sync => {
                self.synced(segment);
                Completion::SegmentSynced { segment, result: Ok(()) }
            }
            Work::Free { reuse } => {
                self.put_aside(segment);
                if let Some((_, file)) = self.spares.last_mut() {
                    file.removed = !reuse;
                }
                cx.stats.count("segment freed");
                Completion::SegmentFreed { segment, result: Ok(()) }
            }
            Work::ReadBack { offset, mut buffer } => {
                let range = offset as usize..offset as usize + buffer.len();
                let overlaps = |hidden: &Range<usize>| hidden.start < range.end && range.start < hidden.end;
                let result = match self.segments.get(&segment) {
                    Some(file) if file.unreadable.iter().any(overlaps) => Err(EIO),
                    Some(file) => {
                        let bytes = buffer.len();
                        buffer.copy_from_slice(&file.data[offset as usize..offset as usize + bytes]);
                        cx.stats.count("read back");
                        Ok(bytes)
                    }
                    None => {
                        cx.stats.count("read back of a segment that was freed meanwhile");
                        Err(ENOENT)
                    }
                };
                Completion::ReadBack { segment, offset, buffer, result }
            }
            Work::Rewrite(mut work) => {
                self.rewrite(cx, segment, &mut work);
                Completion::Rewrite { segment, work, result: Ok(()) }
            }
        };
        Done { journal, completion }
    }

    /// The records of a block that is on disk now.
    fn note_records(&mut self, offset: u32, block: &[u8]) {
        let Some((header, Some(seal))) = BlockHeader::decode(block) else { return };
        let entries = Entries::new(&block[..seal.used as usize], header.nonce, offset);
        let records = entries.filter(|entry| entry.header.kind == Kind::Record);
        self.durable.extend(records.map(|entry| (header.epoch_id, entry.header.number)));
    }

    /// The operation fails, and leaves something behind or not.
    fn fail(&mut self, cx: &mut Context, operation: Operation, errno: i32) -> Done {
        let Operation { journal, segment, work, .. } = operation;
        let completion = match work {
            Work::Commit { offset, .. } if errno == EAGAIN => {
                cx.stats.count("commit not taken");
                if let Some(file) = self.segments.get_mut(&segment) {
                    file.written.retain(|(from, _)| *from != offset); // it comes again
                }
                Completion::Committed { segment, offset, result: Err(errno) }
            }
            Work::Commit { offset, data, .. } => {
                cx.stats.count("commit failed");
                for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    if cx.rng.bool() {
                        self.write(segment, offset as usize + index * SECTOR_BYTES, sector, false);
                    }
                }
                if let Some(file) = self.segments.get_mut(&segment) {
                    file.failed = true;
                }
                Completion::Committed { segment, offset, result: Err(errno) }
            }
            Work::Prepare { bytes, header, .. } => {
                cx.stats.count(if errno == ENOSPC {
                    "segment not prepared: disk full"
                } else {
                    "segment not prepared"
                });
                self.half_made.insert(segment);
                // Its name may have been given before the error.
                if errno != ENOSPC && cx.rng.u8(..4) == 0 {
                    self.prepare(segment, bytes, &header, false);
                }
                Completion::SegmentPrepared { segment, result: Err(errno) }
            }
            Work::Sync => {
                cx.stats.count("sync failed");
                if let Some(file) = self.segments.get_mut(&segment) {
                    // Said once: the next sync succeeds and brings nothing of it to the disk.
                    file.doomed.append(&mut file.undo);
                    file.failed = true;
                }
                Completion::SegmentSynced { segment, result: Err(errno) }
            }
            Work::Free { .. } => {
                cx.stats.count("segment not freed");
                Completion::SegmentFreed { segment, result: Err(errno) }
            }
            Work::ReadBack { offset, buffer } => {
                cx.stats.count("read back failed");
                Completion::ReadBack { segment, offset, buffer, result: Err(errno) }
            }
            Work::Rewrite(work) => {
                cx.stats.count("rewrite failed");
                if matches!(work, Rewrite::GiveUp) {
                    self.dense = None; // the next one begins its file anew
                }
                Completion::Rewrite { segment, work, result: Err(errno) }
            }
        };
        Done { journal, completion }
    }

    fn write(&mut self, segment: SegmentNumber, offset: usize, data: &[u8], sync: bool) {
        let Some(file) = self.segments.get_mut(&segment) else { return };
        let Some(target) = file.data.get_mut(offset..offset + data.len()) else { return };
        if !sync {
            file.undo.push((offset, target.to_vec()));
        }
        target.copy_from_slice(data);
    }

    fn prepare(&mut self, segment: SegmentNumber, bytes: u64, header: &[u8], sync: bool) {
        let (inode, mut data) = self.take_spare(bytes as usize);
        data[..header.len()].copy_from_slice(header);
        self.segments.insert(segment, Segment { inode, data, volatile: !sync, ..Segment::default() });
    }

    /// A file of this size that was put aside, as it is: behind a new header there is still what an earlier life has left.
    /// Where there is none, a new one.
    pub(super) fn take_spare(&mut self, bytes: usize) -> (u64, Vec<u8>) {
        let fits = |(_, file): &(SegmentNumber, Segment)| file.data.len() == bytes && !file.removed;
        if let Some(index) = self.spares.iter().position(fits) {
            let (_, Segment { inode, data, .. }) = self.spares.remove(index);
            return (inode, data);
        }
        self.inodes += 1;
        (self.inodes, vec![0; bytes])
    }

    pub(super) fn synced(&mut self, segment: SegmentNumber) {
        if let Some(file) = self.segments.get_mut(&segment) {
            file.undo.clear();
            file.volatile = false;
        }
    }

    pub(super) fn put_aside(&mut self, segment: SegmentNumber) {
        if let Some(file) = self.segments.remove(&segment) {
            self.spares.push((segment, file));
        }
    }

    /// The process is killed; with `power` the machine goes down.
    pub fn crash(&mut self, cx: &mut Context, power: bool) {
        (self.fuse, self.call_failed) = (None, false);
        for (index, mut operation) in std::mem::take(&mut self.operations) {
            if operation.orphan && !self.has_file_of(&operation).unwrap_or(true) {
                continue;
            }
            let late = !power && cx.chance(30) && matches!(operation.work, Work::Commit { .. } | Work::Sync);
            if late {
                operation.orphan = true; // its event is still due
                if cx.chance(50) {
                    operation.lands_ns = cx.now_ns + cx.rng.u64(..LATE_NS_MAX);
                }
                cx.stats.count("write landed after the kill");
                self.operations.insert(index, operation);
                continue;
            }
            self.abandon(cx, operation, power);
        }
        self.forget_process();
        if power {
            self.lose_power(cx);
        }
    }

    /// A process that runs until a clean stop outlives what one that was killed before it has asked for.
    pub fn end_late_writes(&mut self) {
        self.operations.retain(|_, operation| !operation.orphan);
    }

    /// The next process knows nothing of what failed, and finishes what this one left.
    pub fn forget_process(&mut self) {
        for file in self.segments.values_mut() {
            (file.failed, file.given_up) = (false, false);
            file.written.clear();
        }
    }

    fn abandon(&mut self, cx: &mut Context, operation: Operation, power: bool) {
        let segment = operation.segment;
        let whole = cx.rng.bool();
        say!(cx, "disk: {} {}", operation.describe(), if whole { "lands" } else { "is lost, all or in part" });
        match operation.work {
            Work::Commit { offset, data, .. } => {
                let kept = if whole { data.len() } else { cx.rng.usize(..data.len()) / SECTOR_BYTES * SECTOR_BYTES };
                cx.stats.count(match kept {
                    0 => "commit lost at a crash",
                    kept if kept == data.len() => "commit landed at a crash",
                    _ => "commit torn at a crash",
                });
                self.write(segment, offset as usize, &data[..kept], false);
            }
            Work::Prepare { bytes, header, .. } if whole => self.prepare(segment, bytes, &header, false),
            // A file gets its name once its header is written; but without a sync, the name may be durable before that.
            Work::Prepare { sync, .. } if sync || !power => {}
            Work::Prepare { bytes, .. } => match (cx.rng.u8(..3), self.spares.pop()) {
                (0, _) => {} // not yet there
                (1, Some((_, Segment { data: mut stale, .. }))) => {
                    // Taken from the spares, and zeroed in part: what follows is of an earlier life.
                    let zeroed = cx.rng.usize(..stale.len()) / SECTOR_BYTES * SECTOR_BYTES;
                    stale[..zeroed].fill(0);
                    cx.stats.count("segment half prepared at a crash");
                    self.segments.insert(segment, Segment { data: stale, volatile: true, ..Segment::default() });
                }
                _ => {
                    let data = vec![0; cx.rng.usize(..bytes as usize)];
                    cx.stats.count("segment half prepared at a crash");
                    self.segments.insert(segment, Segment { data, volatile: true, ..Segment::default() });
                }
            },
            Work::Free { .. } if whole => self.put_aside(segment),
            Work::Rewrite(mut work) => {
                cx.stats.count("crash in a rewrite");
                if whole {
                    self.rewrite(cx, segment, &mut work);
                }
            }
            Work::Sync | Work::Free { .. } | Work::ReadBack { .. } => {}
        }
    }

    fn lose_power(&mut self, cx: &mut Context) {
        self.blocks.clear();
        self.tokens.clear();
        self.boot = self.rng.u128(..).to_le_bytes();
        self.segments.retain(|_, file| !file.volatile || cx.rng.u8(..4) > 0);
        self.undo_replaced(cx);
        // That a file was put aside may not have reached the disk either; but file systems keep the order of such changes,
        // so only the last ones are undone.
        while cx.rng.u8(..3) == 0
            && let Some((number, file)) = self.spares.pop_if(|(_, file)| !file.is_aside_for_good)
        {
            cx.stats.count("freed segment back after a power cut");
            self.segments.entry(number).or_insert(Segment { removed: false, ..file });
        }
        self.spares.clear();
        for file in self.segments.values_mut() {
            self.lost_doomed |= !file.doomed.is_empty();
            let lost = std::mem::take(&mut file.doomed).into_iter().chain(std::mem::take(&mut file.undo));
            for (offset, before) in lost.collect::<Vec<_>>().into_iter().rev() {
                for (index, sector) in before.chunks(SECTOR_BYTES).enumerate() {
                    let at = offset + index * SECTOR_BYTES;
                    if cx.rng.bool() {
                        file.data[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            file.volatile = false;
        }
    }

    /// Whether a failed sync has lost something that the process still sees.
    pub fn has_doomed(&self) -> bool {
        self.segments.values().any(|file| !file.doomed.is_empty())
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> usize {
        self.segments.values().chain(&self.dense).map(|file| file.data.len()).sum()
    }

    /// Block files that exist.
    pub fn block_files(&self) -> usize {
        self.blocks.len()
    }
}

impl Work {
    fn kind(&self) -> DiskWork {
        match self {
            Self::Commit { .. } => DiskWork::Commit,
            Self::Prepare { .. } => DiskWork::Prepare,
            Self::Sync => DiskWork::Sync,
            Self::Free { .. } => DiskWork::Free,
            Self::ReadBack { .. } => DiskWork::ReadBack,
            Self::Rewrite(_) => DiskWork::Rewrite,
        }
    }
}

impl Operation {
    fn describe(&self) -> String {
        let Self { journal: JournalId(journal), segment, .. } = self;
        let (what, from, bytes, written) = match &self.work {
            Work::Commit { offset, data, .. } => ("commit", *offset, data.len(), &data[..]),
            Work::Prepare { bytes, header, .. } => ("prepare", 0, *bytes as usize, &header[..]),
            Work::Sync => ("sync", 0, 0, &[][..]),
            Work::Free { .. } => ("free", 0, 0, &[][..]),
            Work::ReadBack { offset, buffer } => ("read back", *offset, buffer.len(), &[][..]),
            Work::Rewrite(Rewrite::Begin { bytes }) => ("rewrite: begin", 0, *bytes as usize, &[][..]),
            Work::Rewrite(Rewrite::Read { offset, buffer, .. }) => ("rewrite: read", *offset, buffer.len(), &[][..]),
            Work::Rewrite(Rewrite::Write { offset, bytes }) => ("rewrite: write", *offset, bytes.len(), &bytes[..]),
            Work::Rewrite(Rewrite::Replace { header }) => ("rewrite: replace", 0, 0, &header[..]),
            Work::Rewrite(Rewrite::SyncDirectory) => ("rewrite: sync directory", 0, 0, &[][..]),
            Work::Rewrite(Rewrite::GiveUp) => ("rewrite: give up", 0, 0, &[][..]),
        };
        let hash = crc32c::crc32c(written);
        format!("{what} j{journal} segment {segment} at {from}, {bytes} B, {hash:08x}")
    }
}

#[cfg(test)]
mod tests;
