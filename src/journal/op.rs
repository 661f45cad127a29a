//! What a journal asks of its directory ([`Op`]) and what it hears back ([`Completion`]). Whoever
//! runs several journals says which one an operation is of.
//!
//! Contract of every driver: operations may complete in any order. A buffer moves into its
//! operation and comes back in its completion.

use crate::ground::SegmentNumber;

/// What a journal asks for.
#[derive(Debug)]
pub enum Op {
    /// Write `bytes` of the journal's block memory, from `memory_offset`, to a segment at `offset`.
    /// That memory is not touched until [`Completion::Committed`]. Commits may complete in any
    /// order.
    Commit {
        /// Offset in the journal's block memory, a multiple of the physical block.
        memory_offset: u32,
        /// The segment's number.
        segment: SegmentNumber,
        /// Offset in the segment, a multiple of the physical block.
        offset: u32,
        /// A multiple of the physical block.
        bytes: u32,
        /// Whether completion means durable (O_DSYNC, or a sync after it).
        sync: bool,
    },
    /// Make a segment file ready: sized, zero-filled, its header written and, if `sync`, durable.
    PrepareSegment {
        /// The new segment's number.
        segment: SegmentNumber,
        /// The file's size.
        bytes: u64,
        /// Its first physical block.
        header: Vec<u8>,
        /// Whether header and directory entry must be durable.
        sync: bool,
    },
    /// Make all completed writes of a segment durable (fdatasync).
    SyncSegment {
        /// The segment.
        segment: SegmentNumber,
    },
    /// Nothing in a segment is needed any more: its file may be used for another one, or is to be
    /// removed.
    FreeSegment {
        /// The segment.
        segment: SegmentNumber,
        /// Whether the file is fit to be used again; after an error it is not.
        reuse: bool,
    },
    /// A step of rewriting a run of segments densely; answered by [`Completion::Rewrite`]. A
    /// journal has one in flight at a time.
    Rewrite {
        /// The segment whose place the new one is to take: the last of the run.
        segment: SegmentNumber,
        /// What to do.
        work: Rewrite,
    },
    /// Read from a segment into `buffer` (its whole length).
    ReadBack {
        /// The segment.
        segment: SegmentNumber,
        /// Where to start.
        offset: u32,
        /// Comes back in [`Completion::ReadBack`].
        buffer: Vec<u8>,
    },
}

/// A step of rewriting a run of segments densely. The new segment's file lies beside the others
/// under a name that no start takes for a segment's, until it is complete.
#[derive(Debug)]
pub enum Rewrite {
    /// Make the new file: sized and allocated in full.
    Begin {
        /// Its size.
        bytes: u64,
    },
    /// Read from a segment of the run into `buffer`, its whole length or EIO.
    Read {
        /// The segment.
        from: SegmentNumber,
        /// Where to start.
        offset: u32,
        /// Comes back in the completion.
        buffer: Vec<u8>,
    },
    /// Write to the new file.
    Write {
        /// A multiple of the physical block.
        offset: u32,
        /// A multiple of the physical block; the buffer comes back in the completion.
        bytes: Vec<u8>,
    },
    /// Write the new file's first physical block, make all of the file durable, then give it the
    /// segment's name in place of the old file, which is gone then. After an error the old file is
    /// still there.
    Replace {
        /// The first physical block.
        header: Vec<u8>,
    },
    /// Make the directory durable, and the new name with it.
    SyncDirectory,
    /// Remove the new file, if there is one.
    GiveUp,
}

/// Takes what a journal asks for, in its order.
pub type Ops<'a> = dyn FnMut(Op) + 'a;

/// What a journal hears.
#[derive(Debug)]
pub enum Completion {
    /// A block was written.
    Committed {
        /// The segment of [`Op::Commit`].
        segment: SegmentNumber,
        /// The offset of [`Op::Commit`]; with the segment it names the block.
        offset: u32,
        /// Or an errno; a short write is EIO.
        result: Result<(), i32>,
    },
    /// A segment is ready.
    SegmentPrepared {
        /// Its number.
        segment: SegmentNumber,
        /// Or an errno.
        result: Result<(), i32>,
    },
    /// A segment's completed writes are durable.
    SegmentSynced {
        /// Its number.
        segment: SegmentNumber,
        /// Or an errno.
        result: Result<(), i32>,
    },
    /// A segment's file was put aside for reuse, or removed.
    SegmentFreed {
        /// Its number.
        segment: SegmentNumber,
        /// Or an errno: it is still there.
        result: Result<(), i32>,
    },
    /// A step of a rewrite is over.
    Rewrite {
        /// The segment of [`Op::Rewrite`].
        segment: SegmentNumber,
        /// The step, with its buffer.
        work: Rewrite,
        /// Or an errno; a short read or write is EIO.
        result: Result<(), i32>,
    },
    /// A read from a segment is over.
    ReadBack {
        /// The segment.
        segment: SegmentNumber,
        /// Where the read started.
        offset: u32,
        /// The buffer of [`Op::ReadBack`].
        buffer: Vec<u8>,
        /// Bytes read, or an errno.
        result: Result<usize, i32>,
    },
}
