//! A journal directory that is looked at and never changed, whether its gateway runs or not: what recovery would repair is
//! repaired in memory alone.

use super::files::{FsStorage, core_directories};
use crate::ground::decoding::Decoding;
use crate::ground::{CoreId, KeptHeaders, Now, RecordFlags, SegmentNumber};
use crate::journal::format::SEGMENT_HEADER_BYTES;
use crate::journal::{
    self, BlockFile, BlockMemory, Completion, Journal, LeftBlocks, Op, OpenError, Options, Parked, Scan, Step, Storage,
};
use crate::observe::losses::LossSnapshot;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How often a journal is read again whose gateway frees segments at that moment.
const OPENS_MAX: u32 = 5;

/// A record that waits to be delivered, or is kept aside.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// The Idempotency-Key under which it is sent.
    pub key: &'a str,
    /// The core in whose directory it lies.
    pub core: CoreId,
    /// What keeps its order, a number in that directory.
    pub lane: u32,
    /// The configured source.
    pub source: &'a str,
    /// What `{{source}}` shows.
    pub name: &'a str,
    /// The machine's end of its connection, if it had one.
    pub peer: Option<SocketAddr>,
    /// How its bytes become text.
    pub decoding: Decoding,
    /// Its sequence id, if it has been given one by an earlier start.
    pub id: Option<&'a str>,
    /// Why it is kept aside, if it is.
    pub parked: Option<&'a Parked>,
    /// What is to be known about it.
    pub flags: RecordFlags,
    /// When its first byte was read, in nanoseconds since 1970.
    pub received_wall_ns: u64,
    /// The machine's own Idempotency-Key, or nothing.
    pub machine_key: &'a [u8],
    /// Headers of the request that brought it.
    pub headers: KeptHeaders<'a>,
    /// The record.
    pub data: &'a [u8],
}

/// The journals under a state directory, by core.
///
/// # Errors
/// [`OpenError`] where a file cannot be read.
pub fn open_views(state_directory: &Path) -> Result<Vec<View>, OpenError> {
    let failed = |error| OpenError::Io { action: format!("list {}", state_directory.display()), error };
    let cores = core_directories(state_directory).map_err(failed)?;
    cores.into_iter().map(|of| View::open(&of.path(state_directory), CoreId(of.core))).collect()
}

/// A journal as it is on disk and, after a kill or while its gateway runs, in its block file.
pub struct View {
    directory: PathBuf,
    storage: ViewStorage,
    journal: Journal,
}

impl View {
    fn open(directory: &Path, core: CoreId) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { action: format!("look at {}", directory.display()), error };
        let options = Options::of_view(core);
        let mut attempt = 1;
        let (storage, journal) = loop {
            let mut storage = ViewStorage {
                files: FsStorage::look_at(directory).map_err(failed)?,
                repairs: HashMap::new(),
                headers: HashMap::new(),
                last: None,
                gone: false,
            };
            let journal = journal::open(&mut storage, &options)?;
            // A running gateway freed a segment since it was listed. Mostly all of it was settled, but it may also have moved to a
            // newer one, which was read before.
            if !storage.gone || attempt == OPENS_MAX {
                break (storage, journal);
            }
            attempt += 1;
        };
        Ok(Self { directory: directory.to_owned(), storage, journal })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What recovery would find.
    pub fn report(&self) -> &journal::Report {
        self.journal.report()
    }

    /// What is missing and nobody has acknowledged: what earlier starts have found, and what the next one would.
    pub fn losses(&self) -> Vec<LossSnapshot> {
        self.journal.losses_shown()
    }

    /// Hands over all records that wait to be delivered, lane by lane in their order, until `visit` breaks.
    ///
    /// # Errors
    /// Those of reading a segment; `NotFound` where a running gateway freed or rewrote it in the meantime.
    pub fn each(&mut self, mut visit: impl FnMut(&Pending<'_>) -> ControlFlow<()>) -> io::Result<()> {
        let now = Now::default(); // nothing here waits for a time
        let (mut scan, mut found, mut ops) = (Scan::of_all(), Vec::new(), VecDeque::new());
        let oldest = self.journal.oldest();
        self.journal.start_scan(&mut scan, oldest);
        let mut key = String::new();
        loop {
            let step = self.journal.scan(now, &mut scan, &mut found, &mut |op| ops.push_back(op));
            for record in found.drain(..) {
                self.journal.hold(record.at);
                let (view, origin) = (self.journal.record(record.at), self.journal.origin(record.origin));
                key.clear();
                view.write_key(self.journal.core(), &mut key);
                let parked = self.journal.parked_record(record.number);
                let flow = visit(&Pending {
                    key: &key,
                    core: self.journal.core(),
                    lane: origin.lane.0,
                    source: origin.who.source(),
                    name: origin.who.name(),
                    peer: origin.who.peer(),
                    decoding: origin.who.decoding(),
                    id: parked.and_then(|parked| parked.id.as_deref()).or(self.journal.recovered_id(record.number)),
                    parked,
                    flags: RecordFlags(view.flags),
                    received_wall_ns: view.payload.first_byte_wall_ns,
                    machine_key: view.payload.key,
                    headers: view.payload.headers,
                    data: view.payload.data,
                });
                self.journal.release(record.at);
                if flow.is_break() {
                    return Ok(());
                }
            }
            match step {
                Step::Block => {}
                Step::Tail => return Ok(()),
                Step::Wait => {
                    let Some(Op::ReadBack { segment, offset, mut buffer }) = ops.pop_front() else {
                        unreachable!("a walk over what is on disk waits for nothing but reads");
                    };
                    let bytes = self.storage.read_back(segment, offset, &mut buffer)?;
                    let read = Completion::ReadBack { segment, offset, buffer, result: Ok(bytes) };
                    self.journal.handle(now, &mut scan, read);
                }
            }
        }
    }
}

/// Reads from files, writes to memory.
struct ViewStorage {
    files: FsStorage,
    /// What recovery wrote, by segment.
    repairs: HashMap<SegmentNumber, Vec<(u32, Vec<u8>)>>,
    /// The first bytes of each segment as it was opened: they tell whether it was rewritten since.
    headers: HashMap<SegmentNumber, Vec<u8>>,
    /// The segment that was read last.
    last: Option<(SegmentNumber, Vec<u8>)>,
    /// A segment that was listed was not there any more.
    gone: bool,
}

impl ViewStorage {
    fn read_back(&mut self, segment: SegmentNumber, offset: u32, into: &mut [u8]) -> io::Result<usize> {
        let bytes = match self.last.take() {
            Some((number, bytes)) if number == segment => bytes,
            before => {
                let mut bytes = before.map(|(_, bytes)| bytes).unwrap_or_default();
                match self.files.read_segment(segment, &mut bytes) {
                    // All of it is a repair: its file is gone.
                    Err(error) if error.kind() == ErrorKind::NotFound && self.repairs.contains_key(&segment) => {
                        bytes.clear();
                    }
                    result => {
                        result?;
                        if self.headers.get(&segment).is_some_and(|header| !bytes.starts_with(header)) {
                            return Err(ErrorKind::NotFound.into());
                        }
                    }
                }
                for (at, repair) in self.repairs.get(&segment).into_iter().flatten() {
                    let end = *at as usize + repair.len();
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[*at as usize..end].copy_from_slice(repair);
                }
                bytes
            }
        };
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        self.last = Some((segment, bytes));
        Ok(count)
    }
}

impl Storage for ViewStorage {
    fn boot_id(&self) -> [u8; 16] {
        self.files.boot_id()
    }

    fn random(&mut self) -> u128 {
        self.files.random()
    }

    fn physical_block(&self) -> u32 {
        self.files.physical_block()
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentNumber>> {
        self.files.segments()
    }

    fn read_segment(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        match self.files.read_segment(segment, into) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.gone = true;
                into.clear();
                Ok(Vec::new())
            }
            result => {
                let header = &into[..into.len().min(SEGMENT_HEADER_BYTES)];
                self.headers.insert(segment, header.to_owned());
                result
            }
        }
    }

    fn read_segment_head(&mut self, segment: SegmentNumber, into: &mut Vec<u8>) -> io::Result<()> {
        match self.files.read_segment_head(segment, into) {
            // It is told when all of it is read.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                into.clear();
                Ok(())
            }
            result => result,
        }
    }

    fn write_segment(&mut self, segment: SegmentNumber, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.repairs.entry(segment).or_default().push((offset, bytes.to_owned()));
        Ok(())
    }

    fn sync_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        Ok(())
    }

    fn keep_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        Ok(())
    }

    fn replace_segment(&mut self, segment: SegmentNumber, bytes: &[u8]) -> io::Result<()> {
        self.write_segment(segment, 0, bytes)
    }

    fn free_segment(&mut self, _: SegmentNumber) -> io::Result<()> {
        Ok(())
    }

    fn epochs(&mut self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.files.epochs()
    }

    fn write_epoch(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn remove_epoch(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    /// It is a copy: a running gateway writes on.
    fn open_blocks(&mut self, name: &str) -> io::Result<Option<LeftBlocks>> {
        self.files.open_blocks(name)
    }

    fn read_blocks_head(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.read_blocks_head(name)
    }

    fn create_blocks(&mut self, _: Option<&str>, bytes: usize) -> io::Result<BlockFile> {
        Ok(Rc::new(BlockMemory::heap(bytes)))
    }

    fn remove_blocks(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn quarantine(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
