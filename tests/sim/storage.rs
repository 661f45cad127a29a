//! What the journal calls at start and at a clean stop, on the simulated disk. Each call may be the one in which the process is
//! killed (`fuse`), or fail.

use super::disk::{Disk, DiskWork, Segment};
use ringest::ground::SegmentNumber;
use ringest::journal::{BlockFile, BlockMemory, LeftBlocks, Storage};
use std::io;
use std::ops::Range;
use std::rc::Rc;

impl Disk {
    /// The id of the start that last wrote its epoch file, as that has it.
    pub fn epoch_id(&self) -> Option<u128> {
        let (_, bytes) = self.epochs.iter().next_back()?;
        Some(u128::from_le_bytes(bytes.get(40..56)?.try_into().expect("sixteen bytes")))
    }

    /// A call of the journal that changes something; fails once the fuse has burnt down.
    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => self.call(),
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("killed")) } else { Ok(()) }
            }
        }
    }

    fn alive(&mut self) -> io::Result<()> {
        if self.fuse == Some(0) { Err(io::Error::other("killed")) } else { self.call() }
    }

    fn call(&mut self) -> io::Result<()> {
        match self.error(DiskWork::Call) {
            None => Ok(()),
            Some(errno) => {
                self.errors += 1;
                self.call_failed = true;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
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
        self.alive()?;
        self.dense = None; // a start removes it
        let mut numbers: Vec<SegmentNumber> = self.segments.keys().copied().collect();
        self.rng.shuffle(&mut numbers);
        Ok(numbers)
    }

    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        self.alive()?;
        into.clear();
        let file = self.segments.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        into.extend(&file.data);
        for range in &file.unreadable {
            into[range.clone()].fill(0);
        }
        Ok(file.unreadable.clone())
    }

    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let result = self.burn();
        let kept = if result.is_ok() { bytes.len() } else { self.rng.usize(..=bytes.len()) };
        self.inodes += 1;
        let made = Segment { inode: self.inodes, volatile: true, ..Segment::default() };
        let file = self.segments.entry(segment).or_insert(made);
        let from = offset as usize;
        let end = from + bytes.len();
        if file.data.len() < end {
            file.data.resize(end, 0); // as a file grows
        }
        file.undo.push((from, file.data[from..from + kept].to_vec()));
        file.data[from..from + kept].copy_from_slice(&bytes[..kept]);
        result
    }

    fn sync_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        let result = self.burn();
        let file = self.segments.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        match result {
            Ok(()) => self.synced(segment),
            Err(_) if self.call_failed => file.doomed.append(&mut file.undo),
            Err(_) => {}
        }
        result
    }

    fn keep_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.burn()?;
        self.segments.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?.kept = true;
        Ok(())
    }

    fn replace_segment(&mut self, segment: SegmentNumber, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        self.inodes += 1;
        let inode = self.inodes;
        self.segments.insert(segment, Segment { inode, data: bytes.to_vec(), ..Segment::default() });
        Ok(())
    }

    fn distrust_files(&mut self) -> io::Result<()> {
        self.burn()?;
        self.is_distrusted = true;
        self.spares.iter_mut().for_each(|(_, file)| file.removed = true);
        Ok(())
    }

    fn free_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        self.burn()?;
        if self.segments.get(&segment).is_some_and(|file| file.kept) {
            self.segments.remove(&segment);
            return Ok(());
        }
        self.put_aside(segment);
        if let Some((_, file)) = self.spares.last_mut() {
            file.removed = self.is_distrusted;
        }
        Ok(())
    }

    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.alive()?;
        self.is_distrusted = false; // a start begins with this
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

    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>> {
        self.alive()?;
        Ok(self.blocks.get(name).cloned().map(LeftBlocks::whole))
    }

    /// Asked of what is in the cache, so that it draws no fault.
    fn read_blocks_head(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.blocks.get(name).map(|blocks| blocks.bytes(0..blocks.len().min(4096)).to_vec()))
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

    fn leave_token(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        self.tokens.insert(name.to_owned());
        Ok(())
    }

    fn take_token(&mut self, name: &str) -> io::Result<bool> {
        self.burn()?;
        Ok(self.tokens.remove(name))
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        self.quarantined.push(format!("{name}, {} B", bytes.len()));
        Ok(())
    }
}
