//! What the journal needs of a disk when it is opened and closed. The hot path does not come here:
//! it writes by [`Op::Commit`](super::Op). Two implementations: a directory of the file system, and
//! the simulator's disk.

use super::BlockMemory;
use super::stamp::STAMP_BYTES;
use super::unfinished::BlockOwner;
use crate::ground::SegmentNumber;
use std::io;
use std::ops::Range;
use std::rc::Rc;

/// A block file that an earlier start left behind, or a new one.
pub type BlockFile = Rc<BlockMemory>;

/// A block file that an earlier start left behind, as far as it can be read.
#[derive(Debug)]
pub struct LeftBlocks {
    /// Its bytes: zero where they cannot be read.
    pub memory: BlockFile,
    /// How many cannot be read.
    pub unreadable_bytes: usize,
}

impl LeftBlocks {
    /// All of it could be read.
    pub fn whole(memory: BlockFile) -> Self {
        Self { memory, unreadable_bytes: 0 }
    }
}

/// One journal directory, with the block files that belong to it.
pub trait Storage {
    /// Random id of the machine's boot (`/proc/sys/kernel/random/boot_id`).
    fn boot_id(&self) -> [u8; 16];
    /// 128 random bits from the operating system.
    fn random(&mut self) -> u128;
    /// Size and alignment of a write that the device does whole, a power of two, at least 512; 4096
    /// where unknown.
    fn physical_block(&self) -> u32;

    /// Numbers of the segment files, in any order. Spare files are not listed.
    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>>;
    /// Reads a whole segment into `into`, which is cleared first. What cannot be read of it though
    /// its neighbours can is zero there, and given as ranges of physical blocks.
    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>>;
    /// Reads the first bytes of a segment, at least its stamp, into `into`, which is cleared first.
    fn read_segment_head(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<()> {
        self.read_segment(segment, into).map(drop)
    }
    /// Writes in place, into a file that is made where there is none; durable after
    /// [`Storage::sync_segment`], its name after the next [`Storage::write_epoch`].
    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()>;
    /// Makes a segment's writes durable.
    fn sync_segment(&mut self, segment: SegmentNumber) -> io::Result<()>;
    /// Gives a segment's file a second name among the quarantined bytes, which needs no room for
    /// them; its own name it keeps.
    fn keep_segment(&mut self, segment: SegmentNumber) -> io::Result<()>;
    /// Writes a segment into a file of its own again, durably; the old file is kept as by
    /// [`Storage::keep_segment`], untouched.
    fn replace_segment(&mut self, segment: SegmentNumber, bytes: &[u8]) -> io::Result<()>;
    /// The last process was killed, and the kernel may still carry out its writes: files that were
    /// put aside are removed, and so is what this start frees.
    fn distrust_files(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Puts a segment's file aside for reuse, or removes it; one that is kept is removed.
    fn free_segment(&mut self, segment: SegmentNumber) -> io::Result<()>;

    /// The epoch files, as number and contents, in any order.
    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>>;
    /// Writes an epoch file: whole or not at all, and durable when this returns.
    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()>;
    /// Removes an epoch file.
    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()>;

    /// Reads an existing block file; `None` where there is none. An I/O error is no error here:
    /// the bytes that it costs are counted.
    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>>;
    /// The first bytes of a block file, at least its stamp; `None` where there is none.
    fn read_blocks_head(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let left = self.open_blocks(name)?;
        Ok(left.map(|left| left.memory.bytes(0..left.memory.len().min(STAMP_BYTES)).to_vec()))
    }
    /// Makes a block file, allocated in full and zeroed. With `None` as name: anonymous memory.
    fn create_blocks(&mut self, name: Option<&str>, bytes: usize) -> io::Result<BlockFile>;
    /// Whether the block file that was made last is a file. It is anonymous memory where no file
    /// system can be trusted with it: then it is lost with the process.
    fn keeps_blocks(&self) -> bool {
        true
    }
    /// Whose block files these are.
    fn owner(&self) -> Option<BlockOwner> {
        None
    }
    /// Removes a block file, if it is there.
    fn remove_blocks(&mut self, name: &str) -> io::Result<()>;
    /// Removes what block files were made by starts that were killed before their epoch was
    /// written, so that no epoch names them. `keep` is that of this start.
    fn remove_stray_blocks(&mut self, _keep: &str) -> io::Result<()> {
        Ok(())
    }

    /// Leaves something outside of the directory, which no copy of the directory has with it. It is
    /// gone when the machine is started again.
    fn leave_token(&mut self, name: &str) -> io::Result<()> {
        self.create_blocks(Some(name), 4096).map(drop)
    }
    /// Takes it away: whether it was there, which one caller alone is told.
    fn take_token(&mut self, name: &str) -> io::Result<bool> {
        let is_there = self.read_blocks_head(name)?.is_some();
        self.remove_blocks(name)?;
        Ok(is_there)
    }

    /// Keeps bytes that cannot be used, for an operator to look at.
    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// Whether there was no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
