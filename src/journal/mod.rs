//! The journal: an append-only log of blocks in segments, kept by one shard. See [`mod@format`] for
//! what lies on disk, [`open`] for what happens at start, [`Journal`] for the running log. It does
//! no input or output of its own: it asks for operations ([`Op`]), hears of their ends
//! ([`Completion`]), and at start and stop it uses a [`Storage`]. It knows nothing of shards,
//! sources or APIs.
//!
//! ```text
//! log, turn     Journal: the conductor; what needs several owners
//!   window      block memory: slots, extents, who holds them
//!   writer      the open block, sealed ones, commits; how far all is written
//!   segments    the list of segments
//!     segment   one of them: which of its records are settled
//!     making    files that are to be made           freeing   files that are to be put aside
//!   ledger      origins, ids, marks                 parked    records that are kept aside
//!   keys        machines' own keys
//!   rewriting   dense rewrites; run, dense          moving    what a failed segment did not take
//!   trouble     what is wrong with the disk
//! scan          a walk behind the window; it belongs to whoever walks
//!   unreadable  what it cannot read
//! recovery      what a start finds; it hands each owner its part
//! returning     what becomes readable after a start told it as missing
//! op storage    what is asked of a disk             format stamp epoch unfinished blocks   bytes
//! ```

mod batch;
mod blocks;
mod epoch;
pub mod format;
mod inventory;
mod keys;
mod ledger;
mod log;
mod losses;
mod moving;
mod op;
mod recovery;
mod returning;
mod rewriting;
mod scan;
mod segments;
mod stamp;
mod storage;
mod trouble;
mod turn;
mod unfinished;
mod unreadable;
mod window;
mod writer;

pub use batch::BatchRoom;
pub use blocks::BlockMemory;
pub use epoch::needed_block_files;
pub use format::Position;
pub use keys::{FoundKey, KEY_ENTRY_BYTES, KEY_HASHES_BYTES, KeyHashes, KeyLimits, Known, owner_of};
pub use ledger::{ANSWER_BYTES_MAX, Identity, Leased, Lies, Origin, OriginRef, Parked, Refused, Unparked};
pub use log::{Appended, Journal, NewRecord, Room};
pub use losses::Loss;
pub use op::{Completion, Op, Ops, Rewrite};
pub use recovery::{OpenError, Report, open};
pub use returning::{Numbers, Returned, returned};
pub use rewriting::Moved;
pub use scan::{Found, Scan, Step};
pub use storage::{BlockFile, LeftBlocks, Storage};
pub use unfinished::{BlockOwner, block_file_owner};
pub use window::{Location, RecordView};

use crate::config::{self, Durability};
use crate::ground::{CoreId, LaneNumber, SegmentNumber};

/// Bytes of a block at most, and of a slot of the block file; the largest record fits twice.
pub const BLOCK_BYTES: u32 = 128 * 1024;

/// In the header of entries that are of no lane.
const NO_LANE: LaneNumber = LaneNumber(0);
/// At level `memory` there are no segments; blocks say that they are of this one, which no file
/// has.
const IN_MEMORY: SegmentNumber = SegmentNumber(0);
/// A failed operation on a file is tried again after this.
const RETRY_AFTER_NS: u64 = 1_000_000_000;

/// The journal takes no more for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// For a moment: a file is being made, or blocks are being written, and the disk does not
    /// refuse. The end of one of these operations makes room.
    Passing,
    /// Until records are delivered, or the disk works again.
    Lasting,
}

/// Who asks for room for a record. What is kept in reserve is for those that cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A sender that can be held back.
    Waits,
    /// One that nothing holds back: what it sends is read or lost.
    CannotWait,
}

/// What is left of a journal of which little is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scarce {
    /// Its oldest segment. It moves on as segments become free.
    pub oldest: SegmentNumber,
    /// Segments in use.
    pub segments: u64,
    /// Bytes that senders may still take that can be held back.
    pub free_bytes: u64,
}

/// What room is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Intake(Claim),
    /// Ids, marks, and what is said of parked records: room is reserved for them.
    Progress,
}

/// One journal's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The core whose directory it is; part of every key.
    pub core: CoreId,
    /// When a record counts as safe.
    pub durability: Durability,
    /// Longest time that an entry waits in an open block.
    pub commit_every_ns: u64,
    /// Size of a segment file.
    pub segment_bytes: u32,
    /// All segments of this directory together.
    pub max_bytes: u64,
    /// Block memory.
    pub window_bytes: usize,
    /// Size of a slot; a divisor of `window_bytes`, at most [`BLOCK_BYTES`].
    pub block_bytes: u32,
    /// Machines' keys that are remembered.
    pub keys: KeyLimits,
}

impl Options {
    /// One core's share of the configured limits.
    pub fn new(settings: &config::Journal, core: CoreId, cores: usize) -> Self {
        let max_bytes = settings.max_bytes / cores as u64;
        // Without a disk the window is all there is.
        let window_bytes = match settings.durability {
            Durability::Memory => max_bytes as usize,
            _ => settings.window_bytes,
        };
        Self {
            core,
            durability: settings.durability,
            commit_every_ns: settings.commit_every.as_nanos() as u64,
            segment_bytes: settings.segment_bytes as u32,
            max_bytes,
            window_bytes: window_bytes.min(u32::MAX as usize - BLOCK_BYTES as usize),
            block_bytes: BLOCK_BYTES,
            keys: KeyLimits { count: settings.machine_keys.count, age_ns: settings.machine_keys.age.as_nanos() as u64 },
        }
    }

    /// For a journal that is looked at and not written to.
    pub fn of_view(core: CoreId) -> Self {
        let settings = config::Journal { window_bytes: 32 * BLOCK_BYTES as usize, ..config::Journal::default() };
        Self::new(&settings, core, 1)
    }

    /// Segments whose files are made before they are needed: a burst as large as the window goes
    /// into them, though the one that is being filled has no room left. Where segments are small,
    /// four have to do: they are made fast, and a small disk is not taken up by them.
    pub fn segments_ahead(&self) -> usize {
        (self.window_bytes.div_ceil(self.segment_bytes as usize) + 1).min(4)
    }

    /// Segments at most; the last one, and in need more, is for ids and marks.
    pub fn segments_max(&self) -> usize {
        (self.max_bytes / u64::from(self.segment_bytes)).max(3) as usize
    }
}
