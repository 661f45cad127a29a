//! Blocks of earlier starts that cannot be written where they belong: they are gathered, and taken over by the running log.

use super::{Life, OpenError, Recovery, doing};
use crate::ground::{RecordNumber, SegmentNumber};
use crate::journal::Options;
use crate::journal::epoch::Epoch;
use crate::journal::format::Position;
use crate::journal::segments::Segment;
use crate::journal::unfinished::{EPOCHS_MAX, Left, Sealed, is_whole, pack};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

/// Blocks that are still to be written, as they are put into slots.
#[derive(Debug, Default)]
pub(in crate::journal) struct Unwritten {
    /// In the order of the log.
    pub slots: Vec<Vec<Sealed>>,
    /// Segments whose files are still to be made, the newest first.
    pub missing: Vec<Missing>,
    /// The segment that could not be written, and the errno.
    pub refused: Option<Refusal>,
}

/// A segment whose file is still to be made.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct Missing {
    pub number: SegmentNumber,
    pub nonce: u64,
}

/// An error of a write or a sync.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct Refusal {
    pub segment: SegmentNumber,
    pub errno: i32,
}

/// The same, as a start met it.
pub(super) struct Refused {
    pub segment: SegmentNumber,
    pub error: io::Error,
}

impl Unwritten {
    /// The epochs of the blocks.
    pub(super) fn epochs(&self) -> Vec<u128> {
        let all: BTreeSet<u128> = self.slots.iter().map(|slot| slot[0].header.epoch_id).collect();
        all.into_iter().collect()
    }

    /// Refuses where there are blocks to be kept, and no file for them: the old block file has them.
    pub(super) fn refuse_without_file(&self) -> Result<(), OpenError> {
        let blocks = self.slots.iter().map(Vec::len).sum();
        let refused = self.refused.map(|refused| io::Error::from_raw_os_error(refused.errno).to_string());
        let error = refused.unwrap_or_else(|| "a segment is missing".to_owned());
        let reason =
            "there is no place for a block file: make room in /dev/shm, or name another directory as journal.blocks";
        if blocks == 0 { Ok(()) } else { Err(OpenError::Unfinished { blocks, error, reason }) }
    }
}

impl Recovery {
    /// Puts the block file's blocks where they belong in a segment; the ranges of those that the disk lacks.
    pub(super) fn overlay(&mut self, life: Life, left: Vec<Left>, bytes: &mut [u8]) -> Vec<Range<usize>> {
        let mut unfinished = Vec::new();
        for block in left.into_iter().filter(|block| block.header.nonce == life.nonce) {
            let start = block.header.at.offset as usize;
            if !is_whole(bytes, &block.header) {
                let block = block.finish(bytes.get(start..).unwrap_or_default(), life.physical);
                let Some(place) = bytes.get_mut(start..start + block.len()) else { continue };
                place.copy_from_slice(&block);
                unfinished.push(start..start + block.len());
                self.report.finished_blocks += 1;
            }
            self.tail.extend(Sealed::at(&bytes[start..], life.physical));
        }
        unfinished
    }

    /// The oldest segments whose files are not there were freed, where nothing in them waits and no machine's key nor loss is said
    /// in them alone. Else their files could not be made.
    pub(super) fn drop_missing(&mut self) {
        while let Some(oldest) = self.segments.last().filter(|oldest| oldest.unsettled == 0) {
            let Some(index) = self.missing.iter().position(|missing| missing.number == oldest.number) else { return };
            let number = oldest.number;
            let behind = self.segments.iter().rev().nth(1).map_or(RecordNumber(u64::MAX), |next| next.first_number);
            let entries = oldest.first_number..behind;
            if self.keys.are_said_in(&entries) || self.losses.is_said_in(&entries) {
                return;
            }
            self.missing.remove(index);
            self.segments.pop();
            self.tail.retain(|block| block.header.at.segment != number);
        }
    }

    /// A segment's blocks could not be written or synced: those that are in memory are written later, elsewhere.
    pub(super) fn refuse(
        &mut self,
        number: SegmentNumber,
        from: Option<Position>,
        error: io::Error,
    ) -> Result<(), OpenError> {
        if error.raw_os_error().is_none() && error.kind() != io::ErrorKind::WriteZero {
            return doing(format!("finish the blocks of segment {number}"), Err(error));
        }
        let segment = self.segments.last_mut().expect("walked");
        segment.failed = true;
        if from.is_none() {
            self.report.alarms.push(format!(
                "segment {number} cannot be synced: {error}. What it holds can be read; a loss of power may take it"
            ));
        }
        self.unsynced_from = Some(Position { segment: number, offset: 0 });
        self.unwritten_from = from.or(self.unwritten_from);
        self.refused.get_or_insert(Refused { segment: number, error });
        Ok(())
    }

    /// What is still to be written: from the first block that could not be, all that lies behind it. Where a sync failed, also what
    /// was written before, as far back as all of it is in memory.
    pub(super) fn take_unwritten(
        &mut self,
        options: &Options,
        physical: u32,
        last: Option<Epoch>,
    ) -> Result<Unwritten, OpenError> {
        let mut blocks: Vec<Sealed> = std::mem::take(&mut self.tail);
        blocks.sort_by_key(|block| block.header.at);
        let follows = |a: &Sealed, b: &Sealed| {
            let (end, next) = (a.end_position(), b.header.at);
            let is_first = self.segments.iter().any(|segment| segment.first_position() == next);
            let between = |segment: &&Segment| (end.segment..next.segment).contains(&segment.number);
            let mut rest = self.segments.iter().filter(between);
            let is_last = rest.all(|segment| segment.end_position() <= end.max(segment.first_position()));
            end == next || end.segment < next.segment && is_first && is_last
        };
        let unbroken = blocks.chunk_by(follows).last().map_or(0, <[Sealed]>::len);
        let unbroken_from = blocks.len() - unbroken;
        let index = |from: Position| blocks.partition_point(|block| block.header.at < from);
        let from = self.unwritten_from.map(index);
        let unsynced = self.unsynced_from.map(|from| index(from).max(unbroken_from));
        let Some(first) = [from, unsynced].into_iter().flatten().min().filter(|first| *first < blocks.len()) else {
            return Ok(Unwritten::default());
        };
        let is_broken = first < unbroken_from;
        blocks.drain(..first);
        self.unwritten_from = Some(blocks[0].header.at);
        self.report.unwritten_blocks = blocks.len() as u64;
        let count = blocks.len();
        let refused = self.refused.take();
        let error = refused.as_ref().map_or("a segment is missing".to_owned(), |refused| refused.error.to_string());
        let failed = |reason| Err(OpenError::Unfinished { blocks: count, error: error.clone(), reason });
        // Where the disk works, what is damaged is told, and the rest written.
        if is_broken && refused.is_some() {
            return failed("some of them are damaged");
        }
        if last.is_some_and(|epoch| epoch.physical != physical) {
            return failed("the disk has another physical block than before");
        }
        if blocks.iter().any(|block| block.bytes.len() > options.block_bytes as usize) {
            return failed("blocks were larger then");
        }
        let unwritten = Unwritten {
            slots: pack(blocks, options.block_bytes),
            missing: std::mem::take(&mut self.missing),
            refused: refused.map(|Refused { segment, error }| Refusal {
                segment,
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            }),
        };
        if unwritten.epochs().len() > EPOCHS_MAX {
            return failed("they are of too many runs");
        }
        Ok(unwritten)
    }
}
