//! The block files of one journal directory: where one can be, and what is done about what lies there instead.
//!
//! A block file is `journal.blocks/NAME`, mostly in `/dev/shm`, or `NAME` beside the segments where that cannot hold it. Beside the
//! segments lies `blocks-NAME`, too, which says where the file was made: a start that is told another directory still finds it.
//!
//! Stores into the mapping must never find the disk full, for that is a SIGBUS. So the file is allocated in full, and it lies on a file
//! system that writes in place. Where there is none of those, blocks are in memory of the process, which a kill takes with it.

pub(super) mod orphans;
pub(super) mod watch;

use crate::journal::{BlockFile, BlockMemory, BlockOwner, LeftBlocks};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, posix_fallocate};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{info, warn};

/// Where block files live when it can hold them: memory that survives the process, and no disk behind it.
pub const SHARED_MEMORY: &str = "/dev/shm";

/// Before a block file's name.
const TRACE_PREFIX: &str = "blocks-";
/// What is read at once, and what a read error costs.
const READ_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 4096;
/// The front of a block file.
const HEAD_BYTES: usize = 4096;

/// File systems that write in place, so that a store into an allocated file needs no room (statfs(2)).
const IN_PLACE: [i64; 4] = [TMPFS, RAMFS, 0xEF53, 0x5846_5342];
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// The block files of one journal directory.
#[derive(Debug)]
pub(super) struct BlockFiles {
    directory: PathBuf,
    /// Where they are to be.
    wanted: PathBuf,
    /// What was made last.
    made: Made,
}

#[derive(Debug)]
enum Made {
    Nothing,
    File { name: String, file: Arc<MappedFile> },
    Memory,
}

/// A block file that is in use. It is locked, so that nobody takes it for one that nobody needs.
#[derive(Debug)]
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    file: Flock<File>,
    is_over: AtomicBool,
}

impl MappedFile {
    /// Whether somebody else has removed it: then nothing of it is left after the process.
    pub(super) fn is_removed(&self) -> bool {
        !self.is_over.load(Ordering::Acquire) && self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

/// What has the name of a block file.
pub(super) enum Found {
    Nothing,
    Own(File, Metadata),
    /// What it is, in words.
    Foreign(String),
}

impl BlockFiles {
    pub(super) fn new(directory: &Path, wanted: &Path) -> Self {
        Self { directory: directory.to_owned(), wanted: wanted.to_owned(), made: Made::Nothing }
    }

    /// Path of the file that stands for a block file.
    fn trace_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{TRACE_PREFIX}{name}"))
    }

    /// Where a block file of this name can be.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        let said = fs::read(self.trace_path(name)).ok();
        let said = said.as_deref().map(<[u8]>::trim_ascii).filter(|said| said.starts_with(b"/"));
        let said = said.map(|said| PathBuf::from(std::ffi::OsStr::from_bytes(said)));
        let mut paths: Vec<PathBuf> = Vec::new();
        for place in said.iter().chain([&self.wanted, &self.directory]) {
            let path = place.join(name);
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// Reads a block file into memory. It is not mapped: a bad sector would end the process.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<LeftBlocks>> {
        for path in self.paths(name) {
            match look(&path)? {
                // A file that a crash left without its size holds nothing.
                Found::Own(file, metadata) if metadata.len() > 0 => {
                    return read_pieces(metadata.len() as usize, |into, at| file.read_at(into, at)).map(Some);
                }
                Found::Foreign(what) => {
                    warn!("{} is left alone: {what}", path.display())
                }
                Found::Own(..) | Found::Nothing => {}
            }
        }
        Ok(None)
    }

    /// The front of a block file.
    pub(super) fn read_head(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        for path in self.paths(name) {
            if let Found::Own(file, metadata) = look(&path)? {
                let mut head = vec![0; HEAD_BYTES.min(metadata.len() as usize)];
                let read = file.read_exact_at(&mut head, 0);
                return Ok(read.ok().map(|()| head));
            }
        }
        Ok(None)
    }

    /// Makes a block file where it can be.
    pub(super) fn create(&mut self, name: &str, bytes: usize) -> io::Result<BlockFile> {
        let wanted = self.wanted.display().to_string();
        let elsewhere = match self.create_in(&self.wanted.clone(), name, bytes) {
            Ok(memory) => return Ok(memory),
            Err(error) => error,
        };
        let beside = match self.create_in(&self.directory.clone(), name, bytes) {
            Ok(memory) => {
                let text = format!(
                    "{}: the block file is kept in the state directory, which costs some write-back, since {wanted} cannot hold it: \
                     {elsewhere}",
                    self.directory.display()
                );
                // Whoever has named a directory wants to know.
                if self.wanted == Path::new(SHARED_MEMORY) {
                    info!("{text}")
                } else {
                    warn!("{text}")
                }
                return Ok(memory);
            }
            Err(error) => error,
        };
        if !matches!(beside.kind(), ErrorKind::Unsupported | ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return Err(beside);
        }
        warn!(
            "{}: blocks are in memory of this process, so that a kill costs what is not yet written to disk, and at level process a \
             201 waits for that. {wanted} cannot hold them: {elsewhere}. Nor can the state directory: {beside}. Make room in \
             {wanted}, or name a directory in memory, on ext4 or on xfs as journal.blocks",
            self.directory.display()
        );
        self.made = Made::Memory;
        Ok(Rc::new(BlockMemory::heap(bytes)))
    }

    fn create_in(&mut self, place: &Path, name: &str, bytes: usize) -> io::Result<BlockFile> {
        if let Some(why) = unfit(place)? {
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        // Before the block file: one that is killed in between leaves a trace without a file, not a file without a trace.
        let mut trace = File::create(self.trace_path(name))?;
        // A full disk may have no room for it. Then the file is looked for where the next start would make it.
        let _ = trace.write_all(place.as_os_str().as_bytes());
        let path = place.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let made = lock(file).and_then(|file| {
            allocate(&file, bytes)?;
            Ok((BlockMemory::map(&file, bytes)?, file))
        });
        match made {
            Ok((memory, file)) => {
                let file = Arc::new(MappedFile { path, file, is_over: AtomicBool::new(false) });
                self.made = Made::File { name: name.to_owned(), file };
                Ok(Rc::new(memory))
            }
            Err(error) => {
                fs::remove_file(&path)?;
                Err(error)
            }
        }
    }

    /// Whether what was made last survives the process.
    pub(super) fn are_kept(&self) -> bool {
        !matches!(self.made, Made::Memory)
    }

    /// What was made last, if it is a file.
    pub(super) fn mapped(&self) -> Option<Arc<MappedFile>> {
        match &self.made {
            Made::File { file, .. } => Some(Arc::clone(file)),
            Made::Nothing | Made::Memory => None,
        }
    }

    /// Removes a block file. What is not this user's stays. So does what lies where nothing can be removed: at the next start
    /// that is tried again.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        if let Made::File { name: own, file } = &self.made
            && own == name
        {
            file.is_over.store(true, Ordering::Release);
        }
        let mut stays = false;
        for path in self.paths(name) {
            // Asked first, since a read-only file system refuses to remove what is not even there.
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| is_own(&metadata)) {
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if path.parent() != Some(&self.directory) => {
                    warn!(
                        "the block file {} is of no more use, and stays: it cannot be removed: {error}",
                        path.display()
                    );
                    stays = true;
                }
                result => result?,
            }
        }
        if stays {
            return Ok(());
        }
        match fs::remove_file(self.trace_path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Removes those that starts have made which came to nothing.
    pub(super) fn remove_stray(&self, keep: &str) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let file = entry?.file_name();
            match file.to_str().and_then(|file| file.strip_prefix(TRACE_PREFIX)) {
                Some(name) if name != keep => self.remove(name)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whose they are, as `doctor` can tell later.
    pub(super) fn owner(&self) -> Option<BlockOwner> {
        let path = self.directory.canonicalize().ok()?;
        let metadata = fs::metadata(&path).ok()?;
        Some(BlockOwner {
            directory: path.as_os_str().as_bytes().to_vec(),
            device: metadata.dev(),
            inode: metadata.ino(),
            namespace: mount_namespace()?,
        })
    }

    /// Where something can be left that a copy of the directory does not have with it, and that a restart of the machine takes.
    pub(super) fn token_path(&self, name: &str) -> PathBuf {
        let is_memory = |place: &Path| file_system_magic(place).is_ok_and(|magic| [TMPFS, RAMFS].contains(&magic));
        let place = if is_memory(&self.wanted) { &self.wanted } else { Path::new(SHARED_MEMORY) };
        place.join(name)
    }
}

/// Number of this process's mount namespace.
pub(super) fn mount_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/mnt").ok().map(|metadata| metadata.ino())
}

/// Whether it is an ordinary file of this user.
pub(super) fn is_own(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.uid() == nix::unistd::geteuid().as_raw()
}

/// Looks at what has a name, in a place where any user can put something of that name. Nothing is waited for, and no device is opened.
pub(super) fn look(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Ok(Found::Foreign(format!("it cannot be looked at: {error}"))),
        Ok(metadata) if !is_own(&metadata) => return Ok(Found::Foreign(describe(&metadata))),
        Ok(_) => {}
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if is_damage(&error) => return Ok(Found::Foreign(format!("it cannot be opened: {error}"))),
        file => file?,
    };
    // Another one may have come in between.
    let metadata = file.metadata()?;
    Ok(if is_own(&metadata) { Found::Own(file, metadata) } else { Found::Foreign(describe(&metadata)) })
}

fn describe(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_file() {
        "a file"
    } else {
        "no file"
    };
    format!("it is {what} of user {}, and no block file of this gateway", metadata.uid())
}

/// Reads `bytes` by `read_at`. Where the device refuses, what cannot be read is zero, piece by piece.
fn read_pieces(bytes: usize, mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<LeftBlocks> {
    let memory = BlockMemory::heap(bytes);
    let mut buffer = vec![0; READ_BYTES.min(bytes)];
    let (mut at, mut unreadable_bytes, mut limit) = (0, 0, READ_BYTES);
    while at < bytes {
        // Up to a border, so that pieces are those of the device.
        let wanted = (limit - at % limit).min(bytes - at);
        match read_at(&mut buffer[..wanted], at as u64) {
            Ok(0) => {
                unreadable_bytes += bytes - at;
                break;
            }
            Ok(read) => {
                memory.write(at, &buffer[..read]);
                at += read;
                limit = if at % READ_BYTES == 0 { READ_BYTES } else { limit };
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_damage(&error) && limit > PIECE_BYTES => limit = PIECE_BYTES,
            Err(error) if is_damage(&error) => {
                unreadable_bytes += wanted;
                at += wanted;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(LeftBlocks { memory: Rc::new(memory), unreadable_bytes })
}

/// Whether a read failed for what is stored there, and not for how it was asked.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG | libc::EUCLEAN | libc::EREMOTEIO)
    )
}

/// Whether no process has a block file in use. The lock that tells is let go at once.
pub(super) fn is_unused(file: File) -> bool {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

/// Nobody takes the file for one that is not used. The lock is another's for a moment at most.
fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno.into())
}

fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    loop {
        match posix_fallocate(file, 0, bytes as i64) {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

fn file_system_magic(place: &Path) -> io::Result<i64> {
    let found = nix::sys::statfs::statfs(place).map_err(io::Error::from)?;
    #[allow(clippy::unnecessary_cast)] // its type is the platform's
    Ok(found.filesystem_type().0 as i64)
}

/// Why no block file may lie in a directory, in words.
///
/// # Errors
/// Those of statfs(2).
pub fn unfit(place: &Path) -> io::Result<Option<String>> {
    let magic = file_system_magic(place)?;
    Ok((!IN_PLACE.contains(&magic)).then(|| match magic {
        0x9123_683E => "btrfs copies on write".to_owned(),
        0x2FC1_2FC1 => "zfs copies on write".to_owned(),
        0xCA45_1A4E => "bcachefs copies on write".to_owned(),
        0xF2F5_2010 => "f2fs writes elsewhere each time".to_owned(),
        0x794C_7630 => "nobody can tell what an overlay does when the disk is full".to_owned(),
        _ => format!("its file system ({magic:#x}) is not known to write in place"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one of these directories holds, by name.
    fn left(path: &Path) -> Vec<String> {
        let names = fs::read_dir(path).expect("listed").map(|entry| entry.expect("listed").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// A journal's directory and one for block files.
    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let (core, blocks) = (directory.path().join("core-0"), directory.path().join("blocks"));
        fs::create_dir(&core).and_then(|()| fs::create_dir(&blocks)).expect("made");
        (directory, core, blocks)
    }

    #[test]
    fn a_block_file_keeps_its_bytes_for_the_next_start_in_shared_memory_or_without_it() {
        let (_directory, core, blocks) = places();
        for place in [&blocks, Path::new("/nowhere")] {
            let mut files = BlockFiles::new(&core, place);
            let memory = files.create("blocks", 8192).expect("made");
            assert!(files.are_kept());
            memory.write(100, b"record");
            drop(memory);
            let left = files.read("blocks").expect("read").expect("is there");
            assert_eq!((left.memory.len(), left.memory.bytes(100..106)), (8192, &b"record"[..]));
            assert_eq!(left.unreadable_bytes, 0);
            let path = if place.exists() { place.join("blocks") } else { core.join("blocks") };
            assert_eq!(fs::metadata(path).expect("is there").mode() & 0o777, 0o600);
            files.remove("blocks").expect("removed");
            files.remove("blocks").expect("nothing to remove is no error");
            assert!(files.read("blocks").expect("looked for").is_none());
        }
    }

    #[test]
    fn a_start_that_is_told_another_directory_finds_the_block_file_of_the_last_one() {
        let (directory, core, blocks) = places();
        let memory = BlockFiles::new(&core, &blocks).create("blocks", 8192).expect("made");
        memory.write(0, b"record");
        let files = BlockFiles::new(&core, directory.path());
        let found = files.read("blocks").expect("read").expect("is there");
        assert_eq!(found.memory.bytes(0..6), b"record");
        assert_eq!(files.read_head("blocks").expect("read").map(|head| head.len()), Some(4096));
        files.remove("blocks").expect("removed");
        assert!(left(&blocks).is_empty() && left(&core).is_empty());
    }

    #[test]
    fn a_block_file_of_a_start_that_came_to_nothing_is_removed_by_the_next() {
        let (_directory, core, blocks) = places();
        for name in ["killed-1", "killed-2"] {
            BlockFiles::new(&core, &blocks).create(name, 8192).expect("made");
        }
        let mut files = BlockFiles::new(&core, &blocks);
        files.create("running", 8192).expect("made");
        files.remove_stray("running").expect("removed");
        assert_eq!((left(&blocks), left(&core)), (vec!["running".to_owned()], vec!["blocks-running".to_owned()]));
        files.remove("running").expect("removed");
        assert!(left(&blocks).is_empty() && left(&core).is_empty());
    }

    #[test]
    fn what_is_no_file_of_this_user_under_the_name_is_left_alone_and_stops_nothing() {
        let (_directory, core, blocks) = places();
        let path = blocks.join("blocks");
        type Make = fn(&Path);
        let kinds: [(&str, Make); 5] = [
            ("directory", |path| fs::create_dir(path).expect("made")),
            ("link", |path| std::os::unix::fs::symlink("/etc/hostname", path).expect("made")),
            ("link to nothing", |path| std::os::unix::fs::symlink("/nowhere", path).expect("made")),
            // Nobody writes into it: whoever opened it to read would wait for ever.
            ("FIFO", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("made")),
            ("socket", |path| drop(std::os::unix::net::UnixListener::bind(path).expect("made"))),
        ];
        for (kind, make) in kinds {
            make(&path);
            let files = BlockFiles::new(&core, &blocks);
            assert!(files.read("blocks").expect(kind).is_none(), "{kind}");
            assert!(files.read_head("blocks").expect(kind).is_none(), "{kind}");
            files.remove("blocks").expect(kind);
            assert_eq!(left(&blocks), ["blocks"], "{kind}");
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        }
        // Only root can make this one, and root alone would read it.
        if nix::unistd::geteuid().is_root() {
            fs::write(&path, b"of another").expect("written");
            std::os::unix::fs::chown(&path, Some(65_534), None).expect("given away");
            let files = BlockFiles::new(&core, &blocks);
            assert!(files.read("blocks").expect("a file").is_none());
            files.remove("blocks").expect("a file");
            assert_eq!(fs::read(&path).expect("still there"), b"of another");
        }
    }

    #[test]
    fn pieces_that_the_device_refuses_are_zero_and_counted_and_the_others_are_read() {
        let bytes = 3 * READ_BYTES + 5_000;
        let bad = [READ_BYTES + 2 * PIECE_BYTES, 3 * READ_BYTES + PIECE_BYTES];
        for errno in [libc::EIO, libc::ENODATA] {
            let found = read_pieces(bytes, |into, at| {
                let range = at as usize..at as usize + into.len();
                if bad.iter().any(|bad| range.contains(bad)) {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                into.fill(7);
                Ok(into.len().min(300_000)) // a read may come back with less
            })
            .expect("read");
            let zero: Vec<usize> = (0..bytes).filter(|at| found.memory.bytes(*at..at + 1) == [0]).collect();
            let expected: Vec<usize> = (bad[0]..bad[0] + PIECE_BYTES).chain(bad[1]..bytes).collect();
            assert_eq!(zero, expected);
            assert_eq!(found.unreadable_bytes, expected.len());
        }
        let refused = read_pieces(bytes, |_, _| Err(io::Error::from_raw_os_error(libc::ENOMEM)));
        assert!(refused.is_err(), "nothing is lost by another try");
    }

    #[test]
    fn a_file_system_that_is_not_known_to_write_in_place_holds_no_block_file() {
        assert_eq!(unfit(Path::new("/dev/shm")).expect("looked at"), None);
        let why = unfit(Path::new("/proc")).expect("looked at").expect("it cannot");
        assert!(why.contains("not known to write in place"), "{why}");
        assert!(unfit(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_mapped_file_that_somebody_removes_is_noticed_and_one_that_the_end_removes_is_not() {
        let (_directory, core, blocks) = places();
        for by_the_end in [false, true] {
            let mut files = BlockFiles::new(&core, &blocks);
            let _memory = files.create("blocks", 8192).expect("made");
            let mapped = files.mapped().expect("a file");
            assert!(!mapped.is_removed());
            if by_the_end {
                files.remove("blocks").expect("removed");
            } else {
                fs::remove_file(&mapped.path).expect("removed");
            }
            assert_eq!(mapped.is_removed(), !by_the_end);
        }
    }

    #[test]
    fn a_block_file_in_use_is_locked() {
        let (_directory, core, blocks) = places();
        let mut files = BlockFiles::new(&core, &blocks);
        let memory = files.create("blocks", 8192).expect("made");
        let open = || File::open(blocks.join("blocks")).expect("opens");
        assert!(!is_unused(open()));
        drop((files, memory));
        assert!(is_unused(open()));
    }
}
