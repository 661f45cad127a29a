//! The journal: an append-only log of blocks in segments, kept by one shard. See [`mod@format`] for what lies on disk,
//! [`open`] for what happens at start, [`Journal`] for the running log. It does no input or output of its own: it asks for
//! operations, and at start and stop it uses a [`Storage`].

mod blocks;
mod epoch;
pub mod format;
mod log;
mod op;
mod recovery;
mod segment;
mod storage;
mod unfinished;

pub use blocks::BlockMemory;
pub use format::Position;
pub use log::{
    ANSWER_BYTES_MAX, Found, Full, Journal, Leased, Location, Moved, NewRecord, Origin, OriginRef, Parked, RecordView,
    Refused, Scan, Step, Unparked,
};
pub use op::{Completion, Op, Ops, Rewrite};
pub use recovery::{OpenError, Report, open};
pub use storage::{BlockFile, Storage};

use crate::config::{self, Durability};

/// Bytes of a block at most, and of a slot of the block file; the largest record fits twice.
pub const BLOCK_BYTES: u32 = 128 * 1024;

/// One journal's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The core whose directory it is; part of every key.
    pub core: u32,
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
}

impl Options {
    /// One core's share of the configured limits.
    pub fn new(settings: &config::Journal, core: u32, cores: usize) -> Self {
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
        }
    }

    /// For a journal that is looked at and not written to.
    pub fn of_view(core: u32) -> Self {
        let settings = config::Journal { window_bytes: 32 * BLOCK_BYTES as usize, ..config::Journal::default() };
        Self::new(&settings, core, 1)
    }

    /// Segments at most; the last one, and in need more, is for ids and marks.
    pub fn segments_max(&self) -> usize {
        (self.max_bytes / u64::from(self.segment_bytes)).max(3) as usize
    }
}
