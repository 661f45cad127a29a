//! A disk in memory: segment files with their stale contents, epochs, block files that outlive the process and not the boot.

use ringest::ground::SegmentNumber;
use ringest::journal::Rewrite;
use ringest::journal::{BlockFile, BlockMemory, LeftBlocks, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// Unit in which a write tears when power is lost.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
pub struct File {
    pub data: Vec<u8>,
    /// Ranges of blocks written in this life.
    pub written: Vec<(usize, usize)>,
    /// What was there before each write that is not durable.
    undo: Vec<(usize, Vec<u8>)>,
    /// What cannot be read of it.
    pub unreadable: Vec<Range<usize>>,
    /// Would not be there after a loss of power.
    volatile: bool,
    /// What had the name before, and would have it again after a loss of power.
    replaced: Option<Box<File>>,
}

#[derive(Debug)]
pub struct Disk {
    pub physical: u32,
    pub boot: [u8; 16],
    pub rng: fastrand::Rng,
    pub segments: BTreeMap<SegmentNumber, File>,
    pub spares: Vec<Vec<u8>>,
    /// The file of a rewrite.
    pub dense: Option<File>,
    pub epochs: BTreeMap<u64, Vec<u8>>,
    pub blocks: BTreeMap<String, BlockFile>,
    pub quarantined: Vec<(String, Vec<u8>)>,
    /// Segments whose files have a second name there.
    kept: BTreeSet<SegmentNumber>,
    /// Calls that still succeed; then each fails, the first in the middle of its work.
    pub fuse: Option<u32>,
    pub calls: u32,
    pub lost_power: bool,
    /// Segments can be read, and that is all.
    pub refuses_writes: bool,
    /// Of each block file these bytes cannot be read.
    pub unreadable_blocks: Vec<Range<usize>>,
    /// Blocks are in memory of the process.
    pub keeps_no_blocks: bool,
    /// No file can be made or grow, but for an epoch's, for which there is a reserve. Second names need no room.
    pub is_full: bool,
}

const EIO: i32 = 5;

impl File {
    /// A file that was durable long ago.
    pub fn of(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }

    /// Whether its name belonged to another file when the directory was last durable.
    pub fn is_replaced(&self) -> bool {
        self.replaced.is_some()
    }
}

impl Disk {
    pub fn new(physical: u32, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            physical,
            boot: rng.u128(..).to_le_bytes(),
            rng,
            segments: BTreeMap::new(),
            spares: Vec::new(),
            dense: None,
            epochs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            quarantined: Vec::new(),
            kept: BTreeSet::new(),
            fuse: None,
            calls: 0,
            lost_power: false,
            refuses_writes: false,
            unreadable_blocks: Vec::new(),
            keeps_no_blocks: false,
            is_full: false,
        }
    }

    /// What a kill leaves behind at this moment, as a disk of its own.
    pub fn image(&self) -> Self {
        let copy = |file: &BlockFile| {
            let memory = BlockMemory::heap(file.len());
            memory.write(0, file.bytes(0..file.len()));
            Rc::new(memory)
        };
        Self {
            physical: self.physical,
            boot: self.boot,
            rng: self.rng.clone(),
            segments: self.segments.clone(),
            spares: self.spares.clone(),
            dense: self.dense.clone(),
            epochs: self.epochs.clone(),
            blocks: self.blocks.iter().map(|(name, file)| (name.clone(), copy(file))).collect(),
            quarantined: self.quarantined.clone(),
            kept: self.kept.clone(),
            fuse: None,
            calls: 0,
            lost_power: self.lost_power,
            refuses_writes: self.refuses_writes,
            unreadable_blocks: self.unreadable_blocks.clone(),
            keeps_no_blocks: self.keeps_no_blocks,
            is_full: self.is_full,
        }
    }

    pub fn write(&mut self, segment: SegmentNumber, offset: usize, data: &[u8], durable: bool) {
        let file = self.segments.get_mut(&segment).expect("a file that is there");
        if file.data.len() < offset + data.len() {
            file.data.resize(offset + data.len(), 0);
        }
        let place = &mut file.data[offset..offset + data.len()];
        if !durable {
            file.undo.push((offset, place.to_vec()));
        }
        place.copy_from_slice(data);
    }

    pub fn sync(&mut self, segment: SegmentNumber) {
        let file = self.segments.get_mut(&segment).expect("a file that is there");
        file.undo.clear();
        file.volatile = false;
    }

    /// A new life: a spare is taken as it is but for its header.
    pub fn prepare(&mut self, segment: SegmentNumber, bytes: u64, header: &[u8], durable: bool) {
        assert!(!self.segments.contains_key(&segment), "segment {segment} is prepared twice");
        let mut data = self.spares.pop().unwrap_or_default();
        data.resize(bytes as usize, 0);
        data[..header.len()].copy_from_slice(header);
        self.segments.insert(segment, File { data, volatile: !durable, ..File::default() });
    }

    pub fn free(&mut self, segment: SegmentNumber) {
        let file = self.segments.remove(&segment).expect("a file that is there");
        self.spares.push(file.data);
    }

    /// A step of a rewrite; a read is none here.
    pub fn rewrite(&mut self, segment: SegmentNumber, work: &Rewrite) {
        match work {
            Rewrite::Begin { bytes } => {
                let mut data = self.spares.pop().unwrap_or_default();
                data.resize(*bytes as usize, 0);
                self.dense = Some(File { data, ..File::default() });
            }
            Rewrite::Write { offset, bytes } => {
                let file = self.dense.as_mut().expect("it was begun");
                file.data[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
            }
            Rewrite::Replace { header } => {
                let mut file = self.dense.take().expect("it was begun");
                file.data[..header.len()].copy_from_slice(header);
                let old = self.segments.get_mut(&segment).expect("a file that is there");
                file.replaced = Some(Box::new(std::mem::take(old)));
                *old = file;
            }
            Rewrite::SyncDirectory => self.sync_directory(),
            Rewrite::GiveUp => self.dense = None,
            Rewrite::Read { .. } => {}
        }
    }

    fn sync_directory(&mut self) {
        self.segments.values_mut().for_each(|file| file.replaced = None);
    }

    /// Writes that are not durable land whole, in part or not at all; files may be gone; block files are.
    pub fn lose_power(&mut self) {
        self.lost_power = true;
        let rng = &mut self.rng;
        self.segments.retain(|_, file| !file.volatile || rng.u8(..4) > 0);
        for file in self.segments.values_mut() {
            if let Some(old) = file.replaced.take()
                && rng.bool()
            {
                *file = *old;
            }
        }
        for file in self.segments.values_mut() {
            for (offset, before) in std::mem::take(&mut file.undo).into_iter().rev() {
                let fate = rng.u8(..3);
                for (index, sector) in before.chunks(SECTOR_BYTES).enumerate() {
                    if fate == 0 || fate == 1 && rng.bool() {
                        let start = offset + index * SECTOR_BYTES;
                        file.data[start..start + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        self.blocks.clear();
        self.boot = self.rng.u128(..).to_le_bytes();
    }

    /// Counts a call. `Ok(false)`: do half of it and fail.
    fn call(&mut self) -> io::Result<bool> {
        self.calls += 1;
        match &mut self.fuse {
            None => Ok(true),
            Some(0) => Err(io::Error::other("the fuse is blown")),
            Some(left) => {
                *left -= 1;
                Ok(*left > 0)
            }
        }
    }

    fn needs_room(&self) -> io::Result<()> {
        if self.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn whole_call(&mut self) -> io::Result<()> {
        if self.call()? { Ok(()) } else { Err(io::Error::other("the fuse blows")) }
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

    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        self.whole_call()?;
        let mut numbers: Vec<SegmentNumber> = self.segments.keys().copied().collect();
        self.rng.shuffle(&mut numbers);
        Ok(numbers)
    }

    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        self.whole_call()?;
        into.clear();
        let file = &self.segments[&segment];
        into.extend_from_slice(&file.data);
        for range in &file.unreadable {
            into[range.clone()].fill(0);
        }
        Ok(file.unreadable.clone())
    }

    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let whole = self.call()?;
        self.segments.entry(segment).or_insert_with(|| File { volatile: true, ..File::default() });
        if self.refuses_writes {
            let torn = self.rng.usize(..=bytes.len() / SECTOR_BYTES) * SECTOR_BYTES;
            self.write(segment, offset as usize, &bytes[..torn], false);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let part = if whole { bytes } else { &bytes[..bytes.len() / 2] };
        self.write(segment, offset as usize, part, false);
        if whole { Ok(()) } else { Err(io::Error::other("half a write")) }
    }

    fn sync_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.whole_call()?;
        if self.refuses_writes {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.sync(segment);
        Ok(())
    }

    fn keep_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.whole_call()?;
        self.quarantined.push((format!("segment-{segment:016x}"), self.segments[&segment].data.clone()));
        self.kept.insert(segment);
        Ok(())
    }

    fn replace_segment(&mut self, segment: SegmentNumber, bytes: &[u8]) -> io::Result<()> {
        self.whole_call()?;
        self.needs_room()?;
        let old = self.segments.insert(segment, File::of(bytes.to_vec())).expect("a file that is there");
        self.quarantined.push((format!("segment-{segment:016x}"), old.data));
        Ok(())
    }

    fn free_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.whole_call()?;
        if self.kept.remove(&segment) {
            self.segments.remove(&segment);
            return Ok(());
        }
        self.free(segment);
        Ok(())
    }

    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.whole_call()?;
        let mut epochs: Vec<_> = self.epochs.iter().map(|(number, bytes)| (*number, bytes.clone())).collect();
        self.rng.shuffle(&mut epochs);
        Ok(epochs)
    }

    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()> {
        self.whole_call()?;
        self.epochs.insert(epoch, bytes.to_vec());
        self.sync_directory();
        Ok(())
    }

    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()> {
        self.whole_call()?;
        self.epochs.remove(&epoch).expect("an epoch file that is there");
        Ok(())
    }

    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>> {
        self.whole_call()?;
        let Some(file) = self.blocks.get(name) else { return Ok(None) };
        if self.unreadable_blocks.is_empty() {
            return Ok(Some(LeftBlocks::whole(Rc::clone(file))));
        }
        let memory = BlockMemory::heap(file.len());
        memory.write(0, file.bytes(0..file.len()));
        for range in &self.unreadable_blocks {
            memory.write(range.start, &vec![0; range.len()]);
        }
        let unreadable_bytes = self.unreadable_blocks.iter().map(Range::len).sum();
        Ok(Some(LeftBlocks { memory: Rc::new(memory), unreadable_bytes }))
    }

    fn create_blocks(&mut self, name: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        self.whole_call()?;
        let file = Rc::new(BlockMemory::heap(bytes));
        if let Some(name) = name.filter(|_| !self.keeps_no_blocks) {
            let old = self.blocks.insert(name.to_owned(), Rc::clone(&file));
            assert!(old.is_none(), "a block file of that name is there");
        }
        Ok(file)
    }

    fn keeps_blocks(&self) -> bool {
        !self.keeps_no_blocks
    }

    fn remove_blocks(&mut self, name: &str) -> io::Result<()> {
        self.whole_call()?;
        self.blocks.remove(name);
        Ok(())
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.whole_call()?;
        self.needs_room()?;
        self.quarantined.push((name.to_owned(), bytes.to_vec()));
        Ok(())
    }
}
