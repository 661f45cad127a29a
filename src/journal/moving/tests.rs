//! A kill at any moment of a move, and in the middle of any of its writes to the block file:
//! everything is found, once and in order.

use crate::config::Durability;
use crate::ground::{KeptHeaders, Now, RecordNumber, SegmentNumber};
use crate::journal::{
    self, Appended, BlockFile, BlockMemory, Completion, Journal, LeftBlocks, NewRecord, Op, Options, Position, Scan,
    Step, Storage,
};
use crate::journal::{Identity, KeyLimits};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;

pub(in crate::journal) const PHYSICAL: u32 = 512;
const BLOCK_BYTES: u32 = 4096;
pub(in crate::journal) const NOW: Now = Now { mono_ns: 1_000_000_000, wall_ns: 7 };
const EIO: i32 = 5;

/// A disk that does what it is told, or refuses all writes.
#[derive(Default)]
pub(in crate::journal) struct Disk {
    pub(in crate::journal) segments: BTreeMap<SegmentNumber, Vec<u8>>,
    epochs: BTreeMap<u64, Vec<u8>>,
    pub(in crate::journal) blocks: BTreeMap<String, BlockFile>,
    random: u128,
    refuses: bool,
    /// Damage is no surprise.
    pub(in crate::journal) keeps_damage: bool,
}

impl Disk {
    /// What a kill leaves, but with other contents of the block file.
    pub(in crate::journal) fn killed(&self, memory: &[u8]) -> Self {
        let copy = |name: &String| {
            let blocks = BlockMemory::heap(memory.len());
            blocks.write(0, memory);
            (name.clone(), Rc::new(blocks))
        };
        Self {
            segments: self.segments.clone(),
            epochs: self.epochs.clone(),
            blocks: self.blocks.keys().map(copy).collect(),
            random: self.random + 1000,
            refuses: false,
            keeps_damage: false,
        }
    }

    fn written(&self) -> io::Result<()> {
        if self.refuses { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }
}

impl Storage for Disk {
    fn boot_id(&self) -> [u8; 16] {
        [1; 16]
    }
    fn random(&mut self) -> u128 {
        self.random += 1;
        self.random
    }
    fn physical_block(&self) -> u32 {
        PHYSICAL
    }
    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        Ok(self.segments.keys().copied().collect())
    }
    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        into.clone_from(&self.segments[&segment]);
        Ok(Vec::new())
    }
    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.written()?;
        let file = self.segments.entry(segment).or_default();
        file.resize(file.len().max(offset as usize + bytes.len()), 0);
        file[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn sync_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        self.written()
    }
    fn keep_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        Ok(())
    }

    fn replace_segment(&mut self, _: SegmentNumber, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn free_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.segments.remove(&segment).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        Ok(self.epochs.iter().map(|(number, bytes)| (*number, bytes.clone())).collect())
    }
    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()> {
        self.epochs.insert(epoch, bytes.to_vec());
        Ok(())
    }
    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()> {
        self.epochs.remove(&epoch);
        Ok(())
    }
    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>> {
        Ok(self.blocks.get(name).cloned().map(LeftBlocks::whole))
    }
    fn create_blocks(&mut self, name: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        let blocks = Rc::new(BlockMemory::heap(bytes));
        self.blocks.insert(name.expect("on disk").to_owned(), Rc::clone(&blocks));
        Ok(blocks)
    }
    fn remove_blocks(&mut self, name: &str) -> io::Result<()> {
        self.blocks.remove(name);
        Ok(())
    }
    fn quarantine(&mut self, name: &str, _: &[u8]) -> io::Result<()> {
        assert!(self.keeps_damage, "{name} is quarantined");
        Ok(())
    }
}

pub(in crate::journal) fn options(durability: Durability) -> Options {
    Options {
        core: crate::ground::CoreId(0),
        durability,
        commit_every_ns: 5_000_000,
        segment_bytes: 16 * 1024,
        max_bytes: 64 * 16 * 1024,
        window_bytes: 12 * BLOCK_BYTES as usize,
        block_bytes: BLOCK_BYTES,
        keys: KeyLimits { count: 0, age_ns: 0 },
    }
}

/// Ends the journal's operations; commits as `commit` says.
pub(in crate::journal) fn carry_out(
    disk: &mut Disk,
    journal: &mut Journal,
    ops: &mut VecDeque<Op>,
    mut commit: impl FnMut(Position) -> Result<(), i32>,
) {
    while let Some(op) = ops.pop_front() {
        let completion = match op {
            Op::PrepareSegment { segment, bytes, header, .. } => {
                let mut file = vec![0; bytes as usize];
                file[..header.len()].copy_from_slice(&header);
                disk.segments.insert(segment, file);
                Completion::SegmentPrepared { segment, result: Ok(()) }
            }
            Op::Commit { memory_offset, segment, offset, bytes, .. } => {
                let result = commit(Position { segment, offset });
                let from = memory_offset as usize;
                // A write that failed can have landed in part, and then its header is there.
                let landed = if result.is_ok() { bytes } else { bytes / 2 / PHYSICAL * PHYSICAL };
                let block = journal.memory().bytes(from..from + landed as usize).to_vec();
                disk.write_segment(segment, offset, &block).expect("written");
                Completion::Committed { segment, offset, result }
            }
            Op::SyncSegment { segment } => Completion::SegmentSynced { segment, result: Ok(()) },
            Op::FreeSegment { segment, .. } => Completion::SegmentFreed { segment, result: Ok(()) },
            other => panic!("{other:?}"),
        };
        journal.handle(NOW, &mut Scan::default(), completion);
    }
}

/// The numbers of all waiting records, in the order of a walk, and their first bytes.
pub(in crate::journal) fn found(disk: &mut Disk, journal: &mut Journal) -> Vec<(RecordNumber, Vec<u8>)> {
    let (mut scan, mut all, mut ops) = (Scan::default(), Vec::new(), VecDeque::new());
    journal.start_scan(&mut scan, journal.oldest());
    loop {
        let mut records = Vec::new();
        let step = journal.scan(NOW, &mut scan, &mut records, &mut |op| ops.push_back(op));
        for record in records {
            journal.hold(record.at);
            all.push((record.number, journal.record(record.at).payload.data.to_vec()));
            journal.release(record.at);
        }
        match (step, ops.pop_front()) {
            (Step::Tail, _) => return all,
            (_, Some(Op::ReadBack { segment, offset, mut buffer, .. })) => {
                let file = &disk.segments[&segment];
                let bytes = buffer.len().min(file.len() - offset as usize);
                buffer[..bytes].copy_from_slice(&file[offset as usize..offset as usize + bytes]);
                let read = Completion::ReadBack { segment, offset, buffer, result: Ok(bytes) };
                journal.handle(NOW, &mut scan, read);
            }
            (_, None) => {}
            (_, Some(other)) => panic!("{other:?}"),
        }
    }
}

/// A journal whose third block of several segments cannot be written: the disk, and what waits.
fn failed(durability: Durability) -> (Disk, Journal, Vec<(RecordNumber, Vec<u8>)>) {
    let mut disk = Disk::default();
    let mut journal = journal::open(&mut disk, &options(durability)).expect("opens");
    let mut ops = VecDeque::new();
    let settle = |disk: &mut Disk, journal: &mut Journal, ops: &mut VecDeque<Op>| {
        journal.turn(NOW, false, &mut |op| ops.push_back(op));
        carry_out(disk, journal, ops, |_| Ok(()));
    };
    settle(&mut disk, &mut journal, &mut ops);
    let lane = journal.new_lane();
    let origin = journal.open_origin(lane, Identity::new("source", "name"));
    let mut waiting = Vec::new();
    for index in 0..=u8::MAX {
        let data = vec![index; if index < 20 { 100 } else { 300 + usize::from(index) * 3 }];
        let record = NewRecord {
            origin,
            flags: 0,
            first_byte_wall_ns: 1,
            frame_us: 2,
            key: b"",
            hashes: None,
            headers: KeptHeaders::default(),
            data: &data,
        };
        let Ok(Appended { number, at }) = journal.append_record(NOW, record) else { break };
        journal.hold(at); // so that every slot stays in use
        waiting.push((number, data));
        match index {
            10 => settle(&mut disk, &mut journal, &mut ops),
            // Several blocks of one extent are in flight.
            11..15 => journal.turn(NOW, true, &mut |op| ops.push_back(op)),
            _ => {}
        }
    }
    let mut commits = 0;
    journal.turn(NOW, true, &mut |op| ops.push_back(op));
    carry_out(&mut disk, &mut journal, &mut ops, |_| {
        commits += 1;
        if commits == 1 { Ok(()) } else { Err(EIO) }
    });
    assert!(commits > 1 && waiting.len() > 30, "{commits} commits of {} records", waiting.len());
    (disk, journal, waiting)
}

#[test]
fn a_kill_at_any_write_of_a_move_finds_each_record_once_and_in_order() {
    for durability in [Durability::Process, Durability::Power] {
        let (mut disk, mut journal, waiting) = failed(durability);
        let memory = Rc::clone(journal.memory());
        let before = memory.bytes(0..memory.len()).to_vec();
        let segments = disk.segments.len();
        *memory.trace.borrow_mut() = Some(Vec::new());
        let mut ops = VecDeque::new();
        journal.turn(NOW, false, &mut |op| ops.push_back(op));
        let writes = memory.trace.borrow_mut().take().expect("traced");
        assert!(writes.len() > 10, "{} writes", writes.len());
        let mut image = before;
        for (count, (offset, bytes)) in writes.iter().enumerate() {
            for part in [0, bytes.len() / 3, bytes.len()] {
                image[*offset..offset + part].copy_from_slice(&bytes[..part]);
                for refuses in [false, true] {
                    let mut other = disk.killed(&image);
                    other.refuses = refuses;
                    let mut journal = journal::open(&mut other, &options(durability)).expect("opens");
                    let found = found(&mut other, &mut journal);
                    assert_eq!(
                        found, waiting,
                        "{durability:?}: after {count} writes and {part} bytes, refusing {refuses}"
                    );
                    assert_eq!(journal.report().damaged, 0, "{:?}", journal.report());
                }
            }
        }
        // The move itself changes nothing for those who wait, and all of it is written in the end.
        assert_eq!(found(&mut disk, &mut journal), waiting);
        for _ in 0..20 {
            carry_out(&mut disk, &mut journal, &mut ops, |_| Ok(()));
            journal.turn(NOW, true, &mut |op| ops.push_back(op));
        }
        assert!(disk.segments.len() > segments && journal.is_flushed());
        assert_eq!(found(&mut disk, &mut journal), waiting);
        let mut other = disk.killed(&vec![0; memory.len()]);
        other.blocks.clear();
        let mut journal = journal::open(&mut other, &options(durability)).expect("opens");
        assert_eq!(found(&mut other, &mut journal), waiting, "{durability:?}: from the disk alone");
    }
}
