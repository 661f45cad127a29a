//! Segment files while the loop runs: made ready, synced, freed and read back on tokio-uring, so that the core's thread
//! waits for none of it. The table of open files also serves the commits, which the data ring writes by descriptor.

use super::files::{SPARES_MAX, segment_path, spare_path, spares};
use crate::ground::SegmentNumber;
use crate::journal::Rewrite;
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::{File, OpenOptions, remove_file, rename};

/// Open files kept for commits and syncs, per journal; the least recently used one is closed beyond.
const OPEN_MAX: usize = 32;

/// One write of zeros.
const FILL_BYTES: usize = 1 << 20;

/// Aligned for O_DIRECT on any device.
#[repr(align(4096))]
struct Aligned([u8; FILL_BYTES]);

static ZEROS: Aligned = Aligned([0; FILL_BYTES]);

/// A segment's file, open for writes by the data ring.
pub(super) type SegmentFile = Rc<std::fs::File>;

/// The segment files of one journal directory.
pub(super) struct SegmentFiles {
    directory: PathBuf,
    direct: bool,
    /// Most recently used last.
    open: RefCell<Vec<(SegmentNumber, SegmentFile)>>,
    /// Files ready to be reused, by the number that they had.
    spares: RefCell<Vec<SegmentNumber>>,
    /// The file that was read last.
    reading: RefCell<Option<(SegmentNumber, Rc<File>)>>,
    /// The file of a rewrite under way.
    dense: RefCell<Option<Rc<File>>>,
}

impl SegmentFiles {
    /// The files of a directory that [`FsStorage`](super::files::FsStorage) opened before.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub(super) fn new(directory: PathBuf, direct: bool) -> io::Result<Self> {
        let spares = RefCell::new(spares(&directory)?);
        Ok(Self {
            directory,
            direct,
            open: RefCell::default(),
            spares,
            reading: RefCell::default(),
            dense: RefCell::default(),
        })
    }

    /// The file to commit to. It is open since it was prepared, but for one that gave way to many others: that one is opened
    /// again here, by a system call that does not wait for a device.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn writable(&self, segment: SegmentNumber) -> io::Result<SegmentFile> {
        let mut open = self.open.borrow_mut();
        if let Some(at) = open.iter().position(|(number, _)| *number == segment) {
            let last = open.len() - 1;
            if at != last {
                let entry = open.remove(at);
                open.push(entry);
            }
            return Ok(Rc::clone(&open[last].1));
        }
        drop(open);
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        let path = segment_path(&self.directory, segment);
        let file = Rc::new(std::fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?);
        self.keep(segment, &file);
        Ok(file)
    }

    fn keep(&self, segment: SegmentNumber, file: &SegmentFile) {
        let mut open = self.open.borrow_mut();
        if open.len() == OPEN_MAX {
            // A commit in flight holds its own reference.
            open.remove(0);
        }
        open.push((segment, Rc::clone(file)));
    }

    /// Makes a segment's file: a spare of the right size or a new one filled with zeros, then the header, then the name.
    /// Under its name a segment always has its header.
    ///
    /// # Errors
    /// Those of the file system; no file is left behind then.
    pub(super) async fn prepare(
        &self,
        segment: SegmentNumber,
        bytes: u64,
        header: Vec<u8>,
        sync: bool,
    ) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        let (file, source) = match self.reuse(bytes).await {
            Some(found) => found,
            None => {
                let new = path.with_extension("new");
                match self.create(&new, bytes).await {
                    Ok(file) => (file, new),
                    Err(error) => {
                        // The error is the one to report; a file that stays is removed at the next start.
                        let _ = remove_file(&new).await;
                        return Err(error);
                    }
                }
            }
        };
        let named = async {
            write_aligned(&file, &header, 0).await?;
            if sync {
                file.sync_all().await?;
            }
            rename(&source, &path).await?;
            if sync {
                self.sync_directory().await?;
            }
            Ok(())
        };
        let named: io::Result<()> = named.await;
        if named.is_err() {
            // Under one name or the other; what failed once is not used again.
            let _ = remove_file(&source).await;
            let _ = remove_file(&path).await;
        }
        named?;
        self.writable(segment).map(drop)
    }

    /// Takes spares until one has the size.
    async fn reuse(&self, bytes: u64) -> Option<(File, PathBuf)> {
        loop {
            let spare = self.spares.borrow_mut().pop()?;
            let path = spare_path(&self.directory, spare);
            if let Ok(file) = self.options().open(&path).await
                && file.statx().await.is_ok_and(|status| status.stx_size == bytes)
            {
                return Some((file, path));
            }
            // Of another size, after a change of the configuration, or not there any more.
            let _ = remove_file(&path).await;
        }
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true);
        tokio_uring_flags(&mut options, self.direct);
        options
    }

    /// A new file of zeros, written through O_DIRECT: space that is only allocated, or that was filled through the page
    /// cache, makes each later commit slower.
    async fn create(&self, path: &PathBuf, bytes: u64) -> io::Result<File> {
        let file = self.options().create(true).truncate(true).open(path).await?;
        let zeros: &'static [u8] = &ZEROS.0;
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(FILL_BYTES as u64) as usize;
            file.write_all_at(zeros.slice(..length), offset).await.0?;
            offset += length as u64;
        }
        file.sync_all().await?;
        Ok(file)
    }

    /// Makes all completed writes of a segment durable.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub(super) async fn sync(&self, segment: SegmentNumber) -> io::Result<()> {
        // An error of an earlier write is reported to a descriptor that was open then: use the one that wrote.
        let file = self.writable(segment)?;
        let duplicate = File::from_std(file.try_clone()?);
        duplicate.sync_data().await
    }

    /// Puts a segment's file aside for reuse, or removes it: where there are enough, and if it is not fit for `reuse`.
    ///
    /// # Errors
    /// Those of rename(2) and unlink(2).
    pub(super) async fn free(&self, segment: SegmentNumber, reuse: bool) -> io::Result<()> {
        self.open.borrow_mut().retain(|(number, _)| *number != segment);
        self.reading.borrow_mut().take_if(|(number, _)| *number == segment);
        let path = segment_path(&self.directory, segment);
        if reuse && self.spares.borrow().len() < SPARES_MAX {
            rename(&path, spare_path(&self.directory, segment)).await?;
            self.spares.borrow_mut().push(segment);
            Ok(())
        } else {
            remove_file(&path).await
        }
    }

    /// A step of rewriting a run of segments; `segment` is the one whose place the new file takes. Its buffer comes back.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) async fn rewrite(&self, segment: SegmentNumber, work: Rewrite) -> (io::Result<()>, Rewrite) {
        match work {
            Rewrite::Begin { bytes } => (self.begin_dense(segment, bytes).await, Rewrite::Begin { bytes }),
            Rewrite::Read { from, offset, buffer } => {
                let (result, buffer) = self.read_back(from, offset, buffer).await;
                let whole = result.and_then(|bytes| whole(bytes == buffer.len()));
                (whole, Rewrite::Read { from, offset, buffer })
            }
            Rewrite::Write { offset, bytes } => {
                let result = match self.dense_file() {
                    Ok(file) => write_aligned(&file, &bytes, u64::from(offset)).await,
                    Err(error) => Err(error),
                };
                (result, Rewrite::Write { offset, bytes })
            }
            Rewrite::Replace { header } => (self.replace(segment, &header).await, Rewrite::Replace { header }),
            Rewrite::SyncDirectory => (self.sync_directory().await, Rewrite::SyncDirectory),
            Rewrite::GiveUp => {
                self.dense.borrow_mut().take();
                // What stays is removed at the next start.
                let _ = remove_file(self.dense_path(segment)).await;
                (Ok(()), Rewrite::GiveUp)
            }
        }
    }

    /// A name that ends in `.new`: a start removes such files.
    fn dense_path(&self, segment: SegmentNumber) -> PathBuf {
        segment_path(&self.directory, segment).with_extension("dense.new")
    }

    fn dense_file(&self) -> io::Result<Rc<File>> {
        self.dense.borrow().clone().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    async fn begin_dense(&self, segment: SegmentNumber, bytes: u64) -> io::Result<()> {
        let path = self.dense_path(segment);
        let file = match self.reuse(bytes).await {
            Some((file, spare)) => {
                rename(&spare, &path).await?;
                file
            }
            None => self.create(&path, bytes).await?,
        };
        *self.dense.borrow_mut() = Some(Rc::new(file));
        Ok(())
    }

    async fn replace(&self, segment: SegmentNumber, header: &[u8]) -> io::Result<()> {
        let file = self.dense_file()?;
        write_aligned(&file, header, 0).await?;
        file.sync_all().await?;
        // Nobody may go on with the old file, and none of its descriptors should be the last of it: that would free its
        // space here instead of in the kernel's worker.
        self.open.borrow_mut().retain(|(number, _)| *number != segment);
        self.reading.borrow_mut().take_if(|(number, _)| *number == segment);
        rename(&self.dense_path(segment), &segment_path(&self.directory, segment)).await?;
        self.dense.borrow_mut().take();
        Ok(())
    }

    async fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory).await?.sync_all().await
    }

    /// Reads `buffer.len()` bytes, fewer at the end of the file.
    pub(super) async fn read_back(
        &self,
        segment: SegmentNumber,
        offset: u32,
        buffer: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let file = match self.readable(segment).await {
            Ok(file) => file,
            Err(error) => return (Err(error), buffer),
        };
        let (mut filled, length, mut buffer) = (0, buffer.len(), buffer);
        while filled < length {
            let at = u64::from(offset) + filled as u64;
            let (read, slice) = file.read_at(buffer.slice(filled..length), at).await;
            buffer = slice.into_inner();
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(filled), buffer)
    }

    async fn readable(&self, segment: SegmentNumber) -> io::Result<Rc<File>> {
        if let Some((number, file)) = &*self.reading.borrow()
            && *number == segment
        {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(File::open(segment_path(&self.directory, segment)).await?);
        *self.reading.borrow_mut() = Some((segment, Rc::clone(&file)));
        Ok(file)
    }
}

fn tokio_uring_flags(options: &mut OpenOptions, direct: bool) {
    options.mode(0o600).custom_flags(if direct { libc::O_DIRECT } else { 0 });
}

/// Writes `bytes` from memory that is aligned for O_DIRECT.
async fn write_aligned(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    const ALIGNMENT: usize = 4096;
    let mut padded: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT);
    let start = padded.as_ptr().align_offset(ALIGNMENT);
    padded.resize(start, 0);
    padded.extend_from_slice(bytes);
    file.write_all_at(padded.slice(start..), offset).await.0
}

fn whole(whole: bool) -> io::Result<()> {
    if whole { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}

/// The descriptor, for the data ring; the caller keeps the file open until its operation was submitted.
pub(super) fn descriptor(file: &SegmentFile) -> i32 {
    file.as_raw_fd()
}
