//! One journal directory on a disk that takes its time: operations end in any order, and at a crash those in flight land,
//! land in part, land late, or not at all. Block memory survives the process, and is gone after a loss of power.

use super::context::{Context, MS, US};
use super::event::Event;
use crate::say;
use ringest::journal::{BlockFile, BlockMemory, Storage};
use ringest::shard::{JournalId, Op, Rewrite};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

const ENOENT: i32 = 2;
/// Unit in which a write without power tears.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
pub struct Segment {
    pub data: Vec<u8>,
    /// Ranges that blocks were written to, or are being.
    pub written: Vec<(u32, u32)>,
    /// What was there before each write that is not durable.
    pub undo: Vec<(usize, Vec<u8>)>,
    /// The file itself would not be there after a loss of power.
    pub volatile: bool,
    /// What had its name before, and may have it again after a loss of power.
    pub replaced: Option<Box<Segment>>,
}

/// An operation in flight.
struct Operation {
    journal: JournalId,
    segment: u64,
    work: Work,
    /// Its process is dead: it may still land, and nobody hears of it.
    orphan: bool,
}

enum Work {
    Commit { memory: BlockFile, memory_offset: usize, offset: u32, data: Vec<u8>, sync: bool },
    Prepare { bytes: u64, header: Vec<u8>, sync: bool },
    Sync,
    Free,
    ReadBack { offset: u32, buffer: Vec<u8> },
    Rewrite(Rewrite),
}

/// What the shard is to hear.
#[derive(Debug)]
pub enum Done {
    Committed { journal: JournalId, segment: u64, offset: u32 },
    Prepared { journal: JournalId, segment: u64 },
    Synced { journal: JournalId, segment: u64 },
    Freed { journal: JournalId, segment: u64 },
    ReadBack { journal: JournalId, segment: u64, offset: u32, buffer: Vec<u8>, result: Result<usize, i32> },
    Rewrite { journal: JournalId, segment: u64, work: Rewrite, result: Result<(), i32> },
}

pub struct Disk {
    directory: usize,
    pub(super) physical: u32,
    boot: [u8; 16],
    rng: fastrand::Rng,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Files put aside, and the segments that they were.
    pub(super) spares: Vec<(u64, Segment)>,
    /// The file of a rewrite.
    pub(super) dense: Option<Segment>,
    epochs: BTreeMap<u64, Vec<u8>>,
    blocks: BTreeMap<String, BlockFile>,
    pub quarantined: Vec<String>,
    operations: Vec<Option<Operation>>,
    /// Longest ordinary operation.
    pub delay_ns: u64,
    /// Calls that change something, until the process is killed in the middle of one.
    pub fuse: Option<u32>,
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
            dense: None,
            epochs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            quarantined: Vec::new(),
            operations: Vec::new(),
            delay_ns: MS,
            fuse: None,
        }
    }

    /// Takes over an operation of the shard; `memory` is its journal's block memory.
    ///
    /// # Errors
    /// In words, if it breaks the contract.
    pub fn begin(&mut self, cx: &mut Context, op: Op, memory: &BlockFile) -> Result<(), String> {
        let operation = match op {
            Op::Commit { journal, memory_offset, segment, offset, bytes, sync } => {
                let memory_offset = memory_offset as usize;
                self.claim(segment, offset, bytes, memory_offset)?;
                self.memory_is_free(memory, memory_offset, bytes as usize)?;
                let data = memory.bytes(memory_offset..memory_offset + bytes as usize).to_vec();
                let work = Work::Commit { memory: Rc::clone(memory), memory_offset, offset, data, sync };
                Operation { journal, segment, work, orphan: false }
            }
            Op::PrepareSegment { journal, segment, bytes, header, sync } => {
                if self.segments.contains_key(&segment) || self.in_flight(segment).next().is_some() {
                    return Err(format!("segment {segment} is prepared twice"));
                }
                if bytes % u64::from(self.physical) != 0 || header.len() != self.physical as usize {
                    return Err(format!("segment {segment}: {bytes} B with a header of {} B", header.len()));
                }
                Operation { journal, segment, work: Work::Prepare { bytes, header, sync }, orphan: false }
            }
            Op::SyncSegment { journal, segment } => {
                self.exists(segment)?;
                Operation { journal, segment, work: Work::Sync, orphan: false }
            }
            Op::FreeSegment { journal, segment, .. } => {
                self.exists(segment)?;
                // A walk may be reading it back in vain.
                let harmless = |work: &Work| matches!(work, Work::ReadBack { .. } | Work::Rewrite(_));
                if self.in_flight(segment).any(|other| !harmless(&other.work)) || self.is_replaced_or_copied(segment) {
                    return Err(format!("segment {segment} is freed with operations in flight"));
                }
                Operation { journal, segment, work: Work::Free, orphan: false }
            }
            Op::ReadBack { journal, segment, offset, buffer } => {
                self.read_range(segment, offset, buffer.len())?;
                Operation { journal, segment, work: Work::ReadBack { offset, buffer }, orphan: false }
            }
            Op::Rewrite { journal, segment, work } => {
                self.check_rewrite(segment, &work)?;
                Operation { journal, segment, work: Work::Rewrite(work), orphan: false }
            }
            other => return Err(format!("not a disk's operation: {other:?}")),
        };
        say!(cx, "disk: begin {}", operation.describe());
        self.operations.push(Some(operation));
        let delay = cx.rng.u64(US..=self.delay_ns);
        cx.after(delay, Event::Disk { directory: self.directory, operation: self.operations.len() - 1 });
        Ok(())
    }

    pub(super) fn rewrites_in_flight(&self) -> impl Iterator<Item = (u64, &Rewrite)> {
        let alive = self.operations.iter().flatten().filter(|operation| !operation.orphan);
        alive.filter_map(|operation| match &operation.work {
            Work::Rewrite(work) => Some((operation.segment, work)),
            _ => None,
        })
    }

    /// Whether an operation is in flight on a segment's file.
    pub(super) fn is_used(&self, segment: u64) -> bool {
        self.in_flight(segment).next().is_some()
    }

    fn is_replaced_or_copied(&self, segment: u64) -> bool {
        self.rewrites_in_flight().any(|(place, work)| match work {
            Rewrite::Read { from, .. } => *from == segment,
            Rewrite::Replace { .. } => place == segment,
            _ => false,
        })
    }

    pub(super) fn exists(&self, segment: u64) -> Result<&Segment, String> {
        self.segments.get(&segment).ok_or_else(|| format!("segment {segment} is not there"))
    }

    /// Whether nothing is in flight that room for entries could wait for.
    pub fn is_calm(&self) -> bool {
        let holds_up = |work: &Work| matches!(work, Work::Commit { .. } | Work::Prepare { .. });
        !self.operations.iter().flatten().any(|operation| !operation.orphan && holds_up(&operation.work))
    }

    fn in_flight(&self, segment: u64) -> impl Iterator<Item = &Operation> {
        self.operations.iter().flatten().filter(move |operation| !operation.orphan && operation.segment == segment)
    }

    /// A block's range must be aligned, inside, and never written before.
    fn claim(&mut self, segment: u64, offset: u32, bytes: u32, memory_offset: usize) -> Result<(), String> {
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

    fn memory_is_free(&self, memory: &BlockFile, from: usize, bytes: usize) -> Result<(), String> {
        for operation in self.operations.iter().flatten() {
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

    pub(super) fn read_range(&self, segment: u64, offset: u32, bytes: usize) -> Result<(), String> {
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

    /// [`Event::Disk`]: the operation lands. What the shard is to hear, if it lives.
    ///
    /// # Errors
    /// In words, if the memory under a commit changed.
    pub fn finish(&mut self, cx: &mut Context, operation: usize) -> Result<Option<Done>, String> {
        let Some(operation) = self.operations[operation].take() else { return Ok(None) };
        say!(cx, "disk: {}{}", if operation.orphan { "late " } else { "" }, operation.describe());
        let Operation { journal, segment, work, orphan } = operation;
        let done = match work {
            Work::Commit { memory, memory_offset, offset, data, sync } => {
                if !orphan && memory.bytes(memory_offset..memory_offset + data.len()) != data {
                    return Err(format!("the block at {memory_offset} changed while it was committed"));
                }
                self.write(segment, offset as usize, &data, sync);
                Done::Committed { journal, segment, offset }
            }
            Work::Prepare { bytes, header, sync } => {
                self.prepare(segment, bytes, &header, sync);
                Done::Prepared { journal, segment }
            }
            Work::Sync => {
                self.synced(segment);
                Done::Synced { journal, segment }
            }
            Work::Free => {
                self.put_aside(segment);
                cx.stats.count("segment freed");
                Done::Freed { journal, segment }
            }
            Work::ReadBack { offset, mut buffer } => {
                let result = match self.segments.get(&segment) {
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
                Done::ReadBack { journal, segment, offset, buffer, result }
            }
            Work::Rewrite(mut work) => {
                self.rewrite(cx, segment, &mut work);
                Done::Rewrite { journal, segment, work, result: Ok(()) }
            }
        };
        Ok((!orphan).then_some(done))
    }

    fn write(&mut self, segment: u64, offset: usize, data: &[u8], sync: bool) {
        let Some(file) = self.segments.get_mut(&segment) else { return };
        let Some(target) = file.data.get_mut(offset..offset + data.len()) else { return };
        if !sync {
            file.undo.push((offset, target.to_vec()));
        }
        target.copy_from_slice(data);
    }

    fn prepare(&mut self, segment: u64, bytes: u64, header: &[u8], sync: bool) {
        if !self.spares.is_empty() {
            self.spares.remove(0); // its file is used again
        }
        let mut data = vec![0; bytes as usize];
        data[..header.len()].copy_from_slice(header);
        self.segments.insert(segment, Segment { data, volatile: !sync, ..Segment::default() });
    }

    fn synced(&mut self, segment: u64) {
        if let Some(file) = self.segments.get_mut(&segment) {
            file.undo.clear();
            file.volatile = false;
        }
    }

    fn put_aside(&mut self, segment: u64) {
        if let Some(file) = self.segments.remove(&segment) {
            self.spares.push((segment, file));
        }
    }

    /// The process is killed; with `power` the machine goes down.
    pub fn crash(&mut self, cx: &mut Context, power: bool) {
        self.fuse = None;
        for index in 0..self.operations.len() {
            let Some(operation) = &mut self.operations[index] else { continue };
            let late = !power && cx.chance(30) && matches!(operation.work, Work::Commit { .. } | Work::Sync);
            if late {
                operation.orphan = true; // its event is still due
                cx.stats.count("write landed after the kill");
                continue;
            }
            if let Some(operation) = self.operations[index].take() {
                self.abandon(cx, operation);
            }
        }
        if power {
            self.lose_power(cx);
        }
    }

    fn abandon(&mut self, cx: &mut Context, operation: Operation) {
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
            Work::Free if whole => self.put_aside(segment),
            Work::Rewrite(mut work) => {
                cx.stats.count("crash in a rewrite");
                if whole {
                    self.rewrite(cx, segment, &mut work);
                }
            }
            Work::Sync | Work::Free | Work::ReadBack { .. } => {}
        }
    }

    fn lose_power(&mut self, cx: &mut Context) {
        self.blocks.clear();
        self.boot = self.rng.u128(..).to_le_bytes();
        self.segments.retain(|_, file| !file.volatile || cx.rng.u8(..4) > 0);
        self.undo_replaced(cx);
        // That a file was put aside may not have reached the disk either; but file systems keep the order of such changes,
        // so only the last ones are undone.
        while cx.rng.u8(..3) == 0
            && let Some((number, file)) = self.spares.pop()
        {
            cx.stats.count("freed segment back after a power cut");
            self.segments.entry(number).or_insert(file);
        }
        self.spares.clear();
        for file in self.segments.values_mut() {
            for (offset, before) in std::mem::take(&mut file.undo).into_iter().rev() {
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

    /// Bytes of all segments.
    pub fn bytes(&self) -> usize {
        self.segments.values().chain(&self.dense).map(|file| file.data.len()).sum()
    }

    /// Block files that exist.
    pub fn block_files(&self) -> usize {
        self.blocks.len()
    }

    /// A call of the journal that changes something; fails once the fuse has burnt down.
    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("killed")) } else { Ok(()) }
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.fuse == Some(0) { Err(io::Error::other("killed")) } else { Ok(()) }
    }
}

impl Operation {
    fn describe(&self) -> String {
        let Self { journal: JournalId(journal), segment, .. } = self;
        let (what, from, bytes) = match &self.work {
            Work::Commit { offset, data, .. } => ("commit", *offset, data.len()),
            Work::Prepare { bytes, .. } => ("prepare", 0, *bytes as usize),
            Work::Sync => ("sync", 0, 0),
            Work::Free => ("free", 0, 0),
            Work::ReadBack { offset, buffer } => ("read back", *offset, buffer.len()),
            Work::Rewrite(Rewrite::Begin { bytes }) => ("rewrite: begin", 0, *bytes as usize),
            Work::Rewrite(Rewrite::Read { offset, buffer, .. }) => ("rewrite: read", *offset, buffer.len()),
            Work::Rewrite(Rewrite::Write { offset, bytes }) => ("rewrite: write", *offset, bytes.len()),
            Work::Rewrite(Rewrite::Replace { .. }) => ("rewrite: replace", 0, 0),
            Work::Rewrite(Rewrite::SyncDirectory) => ("rewrite: sync directory", 0, 0),
            Work::Rewrite(Rewrite::GiveUp) => ("rewrite: give up", 0, 0),
        };
        format!("{what} j{journal} segment {segment} at {from}, {bytes} B")
    }
}

impl Storage for Disk {
    fn boot_id(&self) -> [u8; 16] {
        self.boot
    }

    fn random(&mut self) -> u128 {
        self.rng.u128(..)
    }

    fn physical_block(&self) -> u32 {
        self.physical
    }

    fn segments(&mut self) -> io::Result<Vec<u64>> {
        self.alive()?;
        self.dense = None; // a start removes it
        let mut numbers: Vec<u64> = self.segments.keys().copied().collect();
        self.rng.shuffle(&mut numbers);
        Ok(numbers)
    }

    fn read_segment(&mut self, segment: u64, into: &mut Vec<u8>) -> io::Result<()> {
        self.alive()?;
        into.clear();
        into.extend(&self.segments.get(&segment).ok_or(io::ErrorKind::NotFound)?.data);
        Ok(())
    }

    fn write_segment(&mut self, segment: u64, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let result = self.burn();
        let kept = if result.is_ok() { bytes.len() } else { self.rng.usize(..=bytes.len()) };
        let file = self.segments.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        let from = offset as usize;
        let end = from + bytes.len();
        if file.data.len() < end {
            file.data.resize(end, 0); // as a file grows
        }
        file.undo.push((from, file.data[from..from + kept].to_vec()));
        file.data[from..from + kept].copy_from_slice(&bytes[..kept]);
        result
    }

    fn sync_segment(&mut self, segment: u64) -> io::Result<()> {
        self.burn()?;
        if !self.segments.contains_key(&segment) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.synced(segment);
        Ok(())
    }

    fn free_segment(&mut self, segment: u64) -> io::Result<()> {
        self.burn()?;
        self.put_aside(segment);
        Ok(())
    }

    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.alive()?;
        let mut epochs: Vec<_> = self.epochs.iter().map(|(number, bytes)| (*number, bytes.clone())).collect();
        self.rng.shuffle(&mut epochs);
        Ok(epochs)
    }

    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.burn();
        if result.is_ok() || (self.fuse == Some(0) && self.rng.bool()) {
            self.epochs.insert(epoch, bytes.to_vec());
        }
        if result.is_ok() {
            self.sync_directory();
        }
        result
    }

    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()> {
        self.burn()?;
        self.epochs.remove(&epoch);
        Ok(())
    }

    fn open_blocks(&mut self, name: &str) -> io::Result<Option<BlockFile>> {
        self.alive()?;
        Ok(self.blocks.get(name).cloned())
    }

    fn create_blocks(&mut self, name: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        self.burn()?;
        let file = Rc::new(BlockMemory::heap(bytes));
        if let Some(name) = name {
            if self.blocks.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.blocks.insert(name.to_owned(), Rc::clone(&file));
        }
        Ok(file)
    }

    fn remove_blocks(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        self.blocks.remove(name);
        Ok(())
    }

    fn remove_stray_blocks(&mut self, keep: &str) -> io::Result<()> {
        self.burn()?;
        self.blocks.retain(|name, _| name == keep);
        Ok(())
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        self.quarantined.push(format!("{name}, {} B", bytes.len()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const J: JournalId = JournalId(0);

    fn commit(memory_offset: u32, segment: u64, offset: u32, bytes: u32) -> Op {
        Op::Commit { journal: J, memory_offset, segment, offset, bytes, sync: false }
    }

    fn prepare(segment: u64) -> Op {
        Op::PrepareSegment { journal: J, segment, bytes: 8192, header: vec![1; 512], sync: false }
    }

    /// A disk with segment 1 ready, and block memory full of sevens.
    fn disk(seed: u64) -> (Context, Disk, BlockFile) {
        let mut cx = Context::new(seed, false);
        let mut disk = Disk::new(0, 512, seed);
        let memory = disk.create_blocks(Some("b"), 8192).unwrap();
        memory.write(0, &[7; 8192]);
        disk.begin(&mut cx, prepare(1), &memory).unwrap();
        disk.finish(&mut cx, 0).unwrap();
        (cx, disk, memory)
    }

    fn bytes(disk: &mut Disk) -> Vec<u8> {
        let mut into = Vec::new();
        disk.read_segment(1, &mut into).unwrap();
        into
    }

    #[test]
    fn a_commit_out_of_place_is_told() {
        let (mut cx, mut disk, memory) = disk(1);
        disk.begin(&mut cx, commit(0, 1, 512, 1024), &memory).unwrap();
        for (bad, op) in [
            ("memory in flight", commit(512, 1, 4096, 512)),
            ("over another block", commit(2048, 1, 1024, 512)),
            ("over the header", commit(2048, 1, 0, 512)),
            ("not aligned", commit(2048, 1, 2100, 512)),
            ("memory not aligned", commit(2050, 1, 2048, 512)),
            ("beyond the end", commit(2048, 1, 8192, 512)),
            ("no such segment", commit(2048, 2, 2048, 512)),
            ("prepared twice", prepare(1)),
            ("freed while written", Op::FreeSegment { journal: J, segment: 1, reuse: true }),
            ("read while written", Op::ReadBack { journal: J, segment: 1, offset: 1024, buffer: vec![0; 512] }),
        ] {
            assert!(disk.begin(&mut cx, op, &memory).is_err(), "{bad}");
        }
        memory.write(100, &[8]);
        assert!(disk.finish(&mut cx, 1).is_err(), "the memory changed");
    }

    #[test]
    fn at_a_kill_a_commit_lands_whole_in_part_late_or_not_at_all() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let (mut cx, mut disk, memory) = disk(seed);
            disk.begin(&mut cx, commit(0, 1, 512, 1024), &memory).unwrap();
            disk.crash(&mut cx, false);
            let landed = bytes(&mut disk)[512..1536].iter().filter(|&&byte| byte == 7).count();
            assert!(disk.finish(&mut cx, 1).unwrap().is_none(), "nobody hears of it");
            let later = bytes(&mut disk)[512..1536].iter().filter(|&&byte| byte == 7).count();
            assert!(bytes(&mut disk)[1536..].iter().all(|&byte| byte == 0));
            assert!(disk.open_blocks("b").unwrap().is_some());
            outcomes.insert((landed, later));
        }
        let expected = [(0, 0), (0, 1024), (512, 512), (1024, 1024)];
        assert!(outcomes.into_iter().eq(expected), "all four, and no other");
    }

    #[test]
    fn a_loss_of_power_takes_the_block_memory_and_what_was_not_synced() {
        let mut lost = 0;
        for seed in 0..20 {
            let (mut cx, mut disk, memory) = disk(seed);
            disk.begin(&mut cx, commit(0, 1, 512, 512), &memory).unwrap();
            disk.begin(&mut cx, Op::SyncSegment { journal: J, segment: 1 }, &memory).unwrap();
            disk.begin(&mut cx, commit(512, 1, 1024, 512), &memory).unwrap();
            for operation in 1..4 {
                disk.finish(&mut cx, operation).unwrap();
            }
            // The third was finished after the sync.
            let boot = disk.boot_id();
            disk.crash(&mut cx, true);
            assert!(disk.open_blocks("b").unwrap().is_none() && disk.boot_id() != boot);
            let bytes = bytes(&mut disk);
            assert!(bytes[512..1024].iter().all(|&byte| byte == 7), "synced");
            lost += usize::from(bytes[1024..1536].iter().all(|&byte| byte == 0));
        }
        assert!((1..20).contains(&lost));
    }

    #[test]
    fn a_burnt_fuse_stops_every_call_until_the_process_is_gone() {
        let (mut cx, mut disk, _memory) = disk(1);
        disk.fuse = Some(2);
        disk.write_epoch(1, b"a").unwrap();
        assert!(disk.sync_segment(1).is_err());
        assert!(disk.segments().is_err() && disk.remove_epoch(1).is_err());
        disk.crash(&mut cx, false);
        assert_eq!(disk.epochs().unwrap(), [(1, b"a".to_vec())]);
    }
}
