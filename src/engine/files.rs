//! The files of one journal directory, `STATE_DIR/core-N/`, and their names:
//!
//! ```text
//! segment-%016x        a segment, by its number
//! spare-%016x          a freed segment's file, whole, to be reused
//! *.new                a file being made; left over only by a crash, and removed at start
//! epoch-%08x           an epoch
//! epoch.reserve        room for the next one, should the disk be full then
//! blocks-NAME          where a block file NAME was made, which lives elsewhere and must not outlive its use (`blocks`)
//! quarantine/NAME      bytes that could not be used
//! ```
//! `STATE_DIR/core-N.removed/` is a directory that is being removed.
//!
//! [`FsStorage`] is what the journal sees of it at start and at the end, by plain system calls; while the loop runs, the
//! same files are worked on without blocking by [`SegmentFiles`](super::segments::SegmentFiles).

use super::blocks::{BlockFiles, MappedFile, SHARED_MEMORY, is_own};
use crate::ground::SegmentNumber;
use crate::journal::format::SEGMENT_HEADER_BYTES;
use crate::journal::{BlockFile, BlockMemory, BlockOwner, LeftBlocks, Storage};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Freed files that are kept for reuse, per directory.
pub(super) const SPARES_MAX: usize = 4;

/// How often a long start says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long a start tries to read what cannot be read.
const READ_RETRY: Duration = Duration::from_secs(30);

/// A file of an epoch's size, written ahead: a start needs it where the disk has become full.
const EPOCH_RESERVE: &str = "epoch.reserve";

/// Directory of bytes that could not be used.
pub(super) const QUARANTINE: &str = "quarantine";
/// Bytes of one name in it.
const COPIES_MAX: u32 = 1000;

/// Extension of a directory that is being removed.
const REMOVED_EXTENSION: &str = "removed";

/// Behind the name of a core's directory: it holds records that came back.
const RETURNED_SUFFIX: &str = "-returned";

/// Path of a segment's file.
pub(super) fn segment_path(directory: &Path, segment: SegmentNumber) -> PathBuf {
    directory.join(format!("segment-{segment:016x}"))
}

/// Path of a freed segment's file.
pub(super) fn spare_path(directory: &Path, segment: SegmentNumber) -> PathBuf {
    directory.join(format!("spare-{segment:016x}"))
}

/// Numbers of the spare files.
pub(super) fn spares(directory: &Path) -> io::Result<Vec<SegmentNumber>> {
    let numbers = numbers(directory, "spare-", 16)?;
    Ok(numbers.into_iter().map(SegmentNumber).collect())
}

pub(super) fn epoch_path(directory: &Path, epoch: u64) -> PathBuf {
    directory.join(format!("epoch-{epoch:08x}"))
}

/// The epoch files of a directory, as number and contents.
pub(super) fn read_epochs(directory: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let numbers = numbers(directory, "epoch-", 8)?;
    let read = |epoch| {
        let mut bytes = Vec::new();
        open_file(&epoch_path(directory, epoch))?.read_to_end(&mut bytes)?;
        Ok((epoch, bytes))
    };
    numbers.into_iter().map(read).collect()
}

/// Opens a file for reading. What has its name and is no file (a FIFO, a directory, a link to nothing) is never waited for.
///
/// # Errors
/// Those of open(2); what is no file is named.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let is_file = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && path.is_symlink() => false,
        metadata => metadata?.is_file(),
    };
    if is_file {
        File::open(path)
    } else {
        Err(io::Error::other(format!("{} is no file: move it away", path.display())))
    }
}

/// Whether a quarantine has anything but lists of what is missing.
fn keeps_bytes(quarantine: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(quarantine) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        if !entry?.file_name().to_string_lossy().starts_with("missing-") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Numbers of the files named `PREFIX` and at least `digits` hexadecimal digits, as this module writes them.
fn numbers(directory: &Path, prefix: &str, digits: usize) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(digits_of_name) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        let Ok(number) = u64::from_str_radix(digits_of_name, 16) else { continue };
        if digits_of_name == format!("{number:0digits$x}") {
            found.push(number);
        }
    }
    Ok(found)
}

/// Makes the directory's entries durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates a directory, and those above it, for its owner alone (mode 0700).
///
/// # Errors
/// Those of mkdir(2).
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A directory with a journal: a core's own, or one with records of it that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoreDirectory {
    /// Part of every key in it.
    pub core: u16,
    /// Its records were missing, and became readable.
    pub is_returned: bool,
}

impl CoreDirectory {
    /// A core's own.
    pub fn own(core: u16) -> Self {
        Self { core, is_returned: false }
    }

    fn parse(name: &str) -> Option<Self> {
        let number = name.strip_prefix("core-")?;
        let (number, is_returned) = match number.strip_suffix(RETURNED_SUFFIX) {
            Some(number) => (number, true),
            None => (number, false),
        };
        Some(Self { core: number.parse().ok()?, is_returned })
    }

    /// Whether it is there only until all of it is delivered.
    pub fn is_adopted(self, cores: u16) -> bool {
        self.is_returned || self.core >= cores
    }

    /// Where it is.
    pub fn path(self, state_directory: &Path) -> PathBuf {
        let suffix = if self.is_returned { RETURNED_SUFFIX } else { "" };
        state_directory.join(format!("core-{}{suffix}", self.core))
    }
}

/// The journals' directories in a state directory.
///
/// # Errors
/// Those of reading a directory; a missing one has none.
pub fn core_directories(state_directory: &Path) -> io::Result<Vec<CoreDirectory>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(state_directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(CoreDirectory::parse));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes what is left of directories that a kill kept from being removed in full.
///
/// # Errors
/// Those of the file system.
pub(super) fn remove_half_removed(state_directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_directory)? {
        let path = entry?.path();
        let is_core = path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("core-"));
        if is_core && path.extension().is_some_and(|extension| extension == REMOVED_EXTENSION) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Directory of a core's own journal.
pub fn core_directory(state_directory: &Path, core: u16) -> PathBuf {
    CoreDirectory::own(core).path(state_directory)
}

/// One journal directory of the file system.
#[derive(Debug)]
pub struct FsStorage {
    directory: PathBuf,
    blocks: BlockFiles,
    boot_id: [u8; 16],
    physical_block: u32,
    direct: bool,
    /// What is freed is removed, and not put aside.
    distrusted: bool,
    reading: Reading,
    /// Until then what cannot be read is tried again: one time for a whole start.
    give_up_at: Option<Instant>,
}

/// How far the start has come, for the person who waits for it.
#[derive(Debug)]
struct Reading {
    segments: usize,
    read: usize,
    said: Instant,
}

impl Reading {
    fn begin(segments: usize) -> Self {
        Self { segments, read: 0, said: Instant::now() }
    }

    fn one_more(&mut self, directory: &Path) {
        self.read += 1;
        if self.said.elapsed() >= PROGRESS_EVERY {
            self.said = Instant::now();
            info!("{} is being read: {} of {} segments", directory.display(), self.read, self.segments);
        }
    }
}

impl FsStorage {
    /// Opens a journal directory, creating it where needed, and removes what a crash left half made.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Self::open_with_blocks_in(directory, Path::new(SHARED_MEMORY))
    }

    /// The same, with its block files in `blocks`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open_with_blocks_in(directory: &Path, blocks: &Path) -> io::Result<Self> {
        create_private_directory(directory)?;
        // Ahead: on a full disk a damaged file gets a second name there, for which a directory that is there has room.
        match create_private_directory(&directory.join(QUARANTINE)) {
            Err(error) if is_full(&error) => {}
            made => made?,
        }
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            blocks: BlockFiles::new(directory, blocks),
            boot_id: boot_id()?,
            physical_block: physical_block(directory)?,
            direct: supports_direct(directory)?,
            distrusted: false,
            reading: Reading::begin(0),
            give_up_at: None,
        })
    }

    /// An existing directory to be read and not to be changed; nothing is tried out in it.
    pub(super) fn look_at(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            blocks: BlockFiles::new(directory, Path::new(SHARED_MEMORY)),
            boot_id: boot_id()?,
            physical_block: physical_block(directory)?,
            direct: false,
            distrusted: false,
            reading: Reading::begin(0),
            give_up_at: None,
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the file system takes O_DIRECT; without it commits go through the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Removes the directory, unless it keeps quarantined bytes. It loses its name first: a kill
    /// must not leave a part of it that looks like a journal.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(self) -> io::Result<()> {
        if keeps_bytes(&self.directory.join(QUARANTINE))? {
            return Ok(());
        }
        let removed = self.directory.with_extension(REMOVED_EXTENSION);
        fs::rename(&self.directory, &removed)?;
        fs::remove_dir_all(removed)
    }

    /// Reads physical block by physical block; what cannot be read is tried again for a while, since
    /// a disk may come back. It is zero then, and given back.
    fn read_in_pieces(&mut self, name: &str, file: &File, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        let (unit, bytes) = (self.physical_block as usize, file.metadata()?.len() as usize);
        let give_up_at = *self.give_up_at.get_or_insert_with(|| Instant::now() + READ_RETRY);
        into.clear();
        into.resize(bytes, 0);
        let mut unread: Vec<Range<usize>> = (0..bytes).step_by(unit).map(|at| at..(at + unit).min(bytes)).collect();
        let pieces = unread.len();
        loop {
            let mut failed = Vec::new();
            for range in unread {
                match file.read_exact_at(&mut into[range.clone()], range.start as u64) {
                    Err(error) if is_unreadable(&error) => failed.push(range),
                    result => result?,
                }
            }
            unread = failed;
            if unread.is_empty() || Instant::now() >= give_up_at {
                break;
            }
            warn!(
                "{}: {} of {pieces} blocks of {name} cannot be read (EIO); they are tried again",
                self.directory.display(),
                unread.len(),
            );
            std::thread::sleep(PROGRESS_EVERY);
        }
        for range in &unread {
            into[range.clone()].fill(0);
        }
        Ok(unread)
    }

    /// Whether the disk gives anything of another segment.
    fn can_read_another(&self, segment: SegmentNumber) -> bool {
        let others = numbers(&self.directory, "segment-", 16).unwrap_or_default();
        others.into_iter().map(SegmentNumber).filter(|other| *other != segment).any(|other| {
            let mut first = [0; 512];
            open_file(&segment_path(&self.directory, other)).is_ok_and(|file| {
                // What the page cache has proves nothing of the disk.
                let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
                file.read_exact_at(&mut first, 0).is_ok()
            })
        })
    }

    /// The block file that is in use, if it is a file.
    pub(super) fn mapped(&self) -> Option<Arc<MappedFile>> {
        self.blocks.mapped()
    }
}

impl Storage for FsStorage {
    fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    fn random(&mut self) -> u128 {
        random().expect("/dev/urandom can be read")
    }

    fn physical_block(&self) -> u32 {
        self.physical_block
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        let numbers = numbers(&self.directory, "segment-", 16)?;
        self.reading = Reading::begin(numbers.len());
        Ok(numbers.into_iter().map(SegmentNumber).collect())
    }

    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        self.reading.one_more(&self.directory);
        into.clear();
        let mut file = open_file(&segment_path(&self.directory, segment))?;
        match file.read_to_end(into) {
            Err(error) if is_unreadable(&error) => {
                let name = format!("segment {segment}");
                let unread = self.read_in_pieces(&name, &file, into)?;
                match unread.len() * self.physical_block as usize >= into.len() && !self.can_read_another(segment) {
                    true => Err(error),
                    false => Ok(unread),
                }
            }
            result => result.map(|_| Vec::new()),
        }
    }

    fn read_segment_head(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        let file = open_file(&segment_path(&self.directory, segment))?;
        match file.take(SEGMENT_HEADER_BYTES as u64).read_to_end(into) {
            // It is told when all of it is read.
            Err(error) if is_unreadable(&error) => Ok(()),
            result => result.map(drop),
        }
    }

    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.write_all_at(bytes, u64::from(offset))
    }

    fn sync_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        OpenOptions::new().write(true).open(segment_path(&self.directory, segment))?.sync_data()
    }

    fn keep_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        let directory = self.directory.join(QUARANTINE);
        create_private_directory(&directory)?;
        for copy in 0..COPIES_MAX {
            let kept = directory.join(copy_name(&format!("segment-{segment:016x}"), copy));
            match fs::hard_link(segment_path(&self.directory, segment), &kept) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => {
                    linked?;
                    return sync_directory(&directory);
                }
            }
        }
        Err(too_many_copies(&directory, &format!("segment-{segment:016x}")))
    }

    fn replace_segment(&mut self, segment: SegmentNumber, bytes: &[u8]) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        let new = path.with_extension("new");
        write_synced(&new, bytes)?;
        self.keep_segment(segment)?;
        fs::rename(&new, &path)?;
        sync_directory(&self.directory)
    }

    fn distrust_files(&mut self) -> io::Result<()> {
        self.distrusted = true;
        for spare in spares(&self.directory)? {
            fs::remove_file(spare_path(&self.directory, spare))?;
        }
        Ok(())
    }

    fn free_segment(&mut self, segment: SegmentNumber) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        // One that is kept has two names.
        if fs::metadata(&path)?.nlink() > 1 {
            return fs::remove_file(path);
        }
        if !self.distrusted && spares(&self.directory)?.len() < SPARES_MAX {
            fs::rename(path, spare_path(&self.directory, segment))
        } else {
            fs::remove_file(path)
        }
    }

    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut epochs = Vec::new();
        for epoch in numbers(&self.directory, "epoch-", 8)? {
            let mut bytes = Vec::new();
            let mut file = open_file(&epoch_path(&self.directory, epoch))?;
            match file.read_to_end(&mut bytes) {
                // It stands there twice, in two blocks.
                Err(error) if is_unreadable(&error) => {
                    self.read_in_pieces(&format!("epoch file {epoch}"), &file, &mut bytes).map(drop)?;
                }
                result => result.map(drop)?,
            }
            epochs.push((epoch, bytes));
        }
        Ok(epochs)
    }

    fn write_epoch(&mut self, epoch: u64, bytes: &[u8]) -> io::Result<()> {
        let path = epoch_path(&self.directory, epoch);
        let reserve = self.directory.join(EPOCH_RESERVE);
        let new = path.with_extension("new");
        match write_synced(&new, bytes) {
            Err(error) if is_full(&error) && reserve.exists() => {
                fs::remove_file(&new)?;
                overwrite_synced(&reserve, bytes)?;
                fs::rename(&reserve, &path)?;
            }
            written => {
                written?;
                fs::rename(&new, &path)?;
            }
        }
        sync_directory(&self.directory)?;
        // For the next start; where there is no room for it now there may be at the next one.
        if !reserve.exists() && write_synced(&reserve, &vec![0; bytes.len()]).is_err() {
            let _ = fs::remove_file(&reserve);
        }
        Ok(())
    }

    fn remove_epoch(&mut self, epoch: u64) -> io::Result<()> {
        fs::remove_file(epoch_path(&self.directory, epoch))?;
        sync_directory(&self.directory)
    }

    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>> {
        self.blocks.read(name)
    }

    fn read_blocks_head(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.blocks.read_head(name)
    }

    fn create_blocks(&mut self, name: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        match name {
            Some(name) => self.blocks.create(name, bytes),
            None => Ok(Rc::new(BlockMemory::heap(bytes))),
        }
    }

    fn keeps_blocks(&self) -> bool {
        self.blocks.are_kept()
    }

    fn owner(&self) -> Option<BlockOwner> {
        self.blocks.owner()
    }

    fn remove_blocks(&mut self, name: &str) -> io::Result<()> {
        self.blocks.remove(name)
    }

    fn remove_stray_blocks(&mut self, keep: &str) -> io::Result<()> {
        self.blocks.remove_stray(keep)
    }

    fn leave_token(&mut self, name: &str) -> io::Result<()> {
        let path = self.blocks.token_path(name);
        // Without shared memory there is no place that a copy would not have with it: nothing is left then.
        if let Err(error) = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            info!("leased ids that were not used are given up: {} cannot be made: {error}", path.display());
        }
        Ok(())
    }

    fn take_token(&mut self, name: &str) -> io::Result<bool> {
        let path = self.blocks.token_path(name);
        // One of several that come at once removes it.
        Ok(fs::symlink_metadata(&path).is_ok_and(|metadata| is_own(&metadata)) && fs::remove_file(&path).is_ok())
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let directory = self.directory.join(QUARANTINE);
        create_private_directory(&directory)?;
        // The same damage can be found at several starts; each copy is kept, up to a bound.
        for copy in 0..COPIES_MAX {
            let path = directory.join(copy_name(name, copy));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let mut there = Vec::new();
                    let read = open_file(&path).and_then(|mut file| file.read_to_end(&mut there));
                    if read.is_ok() && there == bytes {
                        return Ok(());
                    }
                }
                file => {
                    let mut file = file?;
                    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
                        // A part of it would pass for all of it.
                        let _ = fs::remove_file(&path);
                        return Err(error);
                    }
                    return sync_directory(&directory);
                }
            }
        }
        Err(too_many_copies(&directory, name))
    }
}

/// Name of bytes in quarantine, where so many have that name already.
fn copy_name(name: &str, copy: u32) -> String {
    if copy == 0 { name.to_owned() } else { format!("{name}.{copy}") }
}

fn too_many_copies(directory: &Path, name: &str) -> io::Error {
    io::Error::other(format!("{} holds {COPIES_MAX} copies of {name}", directory.display()))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes over the bytes that the file has, which needs no room.
fn overwrite_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Whether the disk could not read what is asked for.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// 128 random bits from the operating system.
///
/// # Errors
/// Those of reading `/dev/urandom`.
pub fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(number.to_be_bytes())
}

/// The physical block of the device under a directory (`/sys/dev/block/…/queue/physical_block_size`), or 4096 where
/// there is no such device or no such number.
fn physical_block(directory: &Path) -> io::Result<u32> {
    let device = fs::metadata(directory)?.dev();
    let device = format!("/sys/dev/block/{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    // A partition has no queue of its own; that of its disk is one level up.
    let found = ["queue", "../queue"].iter().find_map(|queue| {
        let text = fs::read_to_string(format!("{device}/{queue}/physical_block_size")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    Ok(found.filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes)).unwrap_or(4096))
}

fn supports_direct(directory: &Path) -> io::Result<bool> {
    let path = directory.join("direct.new");
    let opened =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_DIRECT).open(&path);
    let direct = match opened {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
        Err(error) => return Err(error),
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(direct),
        result => result.map(|()| direct),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(directory: &tempfile::TempDir) -> FsStorage {
        FsStorage::open(&directory.path().join("core-0")).expect("opens")
    }

    #[test]
    fn a_segment_is_read_as_it_was_written_and_freed_into_a_bounded_number_of_spares() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        for segment in (0..6).map(SegmentNumber) {
            fs::write(segment_path(storage.directory(), segment), vec![0; 8192]).expect("written");
        }
        storage.write_segment(SegmentNumber(3), 4096, b"abc").expect("written in place");
        storage.sync_segment(SegmentNumber(3)).expect("synced");
        let mut bytes = vec![1];
        storage.read_segment(SegmentNumber(3), &mut bytes).expect("read");
        assert_eq!((bytes.len(), &bytes[4095..4100]), (8192, &b"\0abc\0"[..]));
        for segment in (0..5).map(SegmentNumber) {
            storage.free_segment(segment).expect("freed");
        }
        assert_eq!(storage.segments().expect("listed"), [SegmentNumber(5)]);
        let mut spares = spares(storage.directory()).expect("listed");
        spares.sort_unstable();
        assert_eq!(spares, [0, 1, 2, 3].map(SegmentNumber));
    }

    #[test]
    fn a_start_makes_room_for_the_next_epoch_file_and_a_full_disk_is_given_that() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        storage.write_epoch(1, b"first").expect("written");
        let reserve = storage.directory().join(EPOCH_RESERVE);
        assert_eq!(fs::read(&reserve).expect("made ahead"), [0; 5]);
        assert_eq!(storage.epochs().expect("listed"), [(1, b"first".to_vec())]);
        overwrite_synced(&reserve, b"2nd").expect("written over");
        assert_eq!(fs::read(&reserve).expect("there"), b"2nd", "nothing of what it was before is left");
        assert!(
            is_full(&io::Error::from_raw_os_error(libc::ENOSPC))
                && is_full(&io::Error::from_raw_os_error(libc::EDQUOT))
        );
    }

    #[test]
    fn names_that_this_module_does_not_write_are_not_segments() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        for name in ["segment-1", "segment-000000000000000A", "segment-0000000000000007.bak", "segment-"] {
            fs::write(storage.directory().join(name), b"").expect("written");
        }
        assert!(storage.segments().expect("listed").is_empty());
    }

    #[test]
    fn an_epoch_replaces_its_earlier_contents_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        storage.write_epoch(1, b"first").expect("written");
        storage.write_epoch(1, b"2nd").expect("written");
        storage.write_epoch(0x1_2345_6789, b"x").expect("written");
        let mut epochs = storage.epochs().expect("read");
        epochs.sort();
        assert_eq!(epochs, [(1, b"2nd".to_vec()), (0x1_2345_6789, b"x".to_vec())]);
        storage.remove_epoch(1).expect("removed");
        assert_eq!(storage.epochs().expect("read").len(), 1);
    }

    #[test]
    fn what_a_crash_left_half_made_is_removed_at_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = storage(&directory).directory().join("epoch-00000002.new");
        fs::write(&path, b"half").expect("written");
        let mut storage = storage(&directory);
        assert!(storage.epochs().expect("read").is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_whose_removal_was_cut_short_is_no_journal_and_goes_at_the_next_start() {
        let directory = tempfile::tempdir().expect("a directory");
        storage(&directory).remove().expect("removed");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
        // As a kill in the middle of it leaves it.
        let left = directory.path().join("core-1.removed");
        fs::create_dir(&left).expect("made");
        fs::write(segment_path(&left, SegmentNumber(1)), b"").expect("written");
        fs::create_dir(directory.path().join("other.removed")).expect("made");
        assert!(core_directories(directory.path()).expect("listed").is_empty());
        remove_half_removed(directory.path()).expect("removed");
        assert!(!left.exists() && directory.path().join("other.removed").exists());
    }

    #[test]
    fn what_has_a_file_s_name_and_is_no_file_is_named_and_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        let path = segment_path(storage.directory(), SegmentNumber(1));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let words = |error: io::Error| error.to_string();
        let mut bytes = Vec::new();
        let refused = storage.read_segment(SegmentNumber(1), &mut bytes).map_err(words);
        assert!(refused.clone().is_err_and(|text| text.contains("segment-0000000000000001 is no file")), "{refused:?}");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("nowhere", &path).expect("made");
        assert!(storage.read_segment_head(SegmentNumber(1), &mut bytes).is_err_and(|e| words(e).contains("no file")));
        fs::remove_file(&path).expect("removed");
        fs::create_dir(epoch_path(storage.directory(), 1)).expect("made");
        assert!(storage.epochs().is_err_and(|error| words(error).contains("epoch-00000001 is no file")));
    }

    #[test]
    fn after_a_kill_no_file_of_the_last_process_is_used_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        let at = storage.directory().to_owned();
        for segment in [1, 2, 3] {
            fs::write(segment_path(&at, SegmentNumber(segment)), b"").expect("written");
        }
        storage.free_segment(SegmentNumber(1)).expect("put aside");
        assert_eq!(spares(&at).expect("listed"), [SegmentNumber(1)]);
        storage.distrust_files().expect("removed");
        storage.free_segment(SegmentNumber(2)).expect("removed");
        assert!(spares(&at).expect("listed").is_empty());
        assert_eq!(storage.segments().expect("listed"), [SegmentNumber(3)]);
        // The next start ends well, and trusts its files.
        let mut next = FsStorage::open(&at).expect("open");
        next.free_segment(SegmentNumber(3)).expect("put aside");
        assert_eq!(spares(&at).expect("listed"), [SegmentNumber(3)]);
    }

    #[test]
    fn a_second_name_for_a_damaged_segment_needs_no_directory_to_be_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        let quarantine = storage.directory().join(QUARANTINE);
        assert!(quarantine.is_dir(), "made with the journal");
        fs::write(segment_path(storage.directory(), SegmentNumber(1)), b"damaged").expect("written");
        storage.keep_segment(SegmentNumber(1)).expect("kept");
        assert_eq!(fs::read(quarantine.join("segment-0000000000000001")).expect("kept"), b"damaged");
        storage.remove().expect("nothing fails");
        assert!(quarantine.exists(), "what is kept keeps its directory");
    }

    #[test]
    fn quarantined_bytes_are_kept_beside_earlier_ones_of_the_same_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        for bytes in [b"a", b"b", b"a"] {
            storage.quarantine("segment-1-at-0", bytes).expect("kept");
        }
        let kept = storage.directory().join("quarantine");
        assert_eq!(fs::read(kept.join("segment-1-at-0")).expect("kept"), b"a");
        assert_eq!(fs::read(kept.join("segment-1-at-0.1")).expect("kept"), b"b");
        assert_eq!(fs::read_dir(kept).expect("listed").count(), 2);
    }

    #[test]
    fn the_machine_names_its_boot_and_its_physical_block() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(&directory);
        assert_ne!(storage.boot_id(), [0; 16]);
        assert!(storage.physical_block().is_power_of_two() && storage.physical_block() >= 512);
        assert_ne!(storage.random(), storage.random());
    }
}
