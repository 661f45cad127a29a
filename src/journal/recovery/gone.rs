//! Segments whose files somebody has taken away: told, and given a file again as far as the block file has them.

use super::durable::{End, Neighbour};
use super::missing::Lost;
use super::walk::NONE_LOST;
use super::{Life, OpenError, Recovery, doing};
use crate::ground::RecordNumber;
use crate::journal::format::{Position, SegmentHeader, round_up};
use crate::journal::unfinished::Left;
use crate::journal::{Options, Storage};
use std::ops::Range;

/// Whether these blocks are all of a segment up to the last of them: nothing of one that was never made is missing.
pub(super) fn is_whole_from_its_start(left: &[Left], physical: u32) -> bool {
    let mut at = physical;
    left.iter().all(|block| {
        let follows = block.header.at.offset == at;
        at += round_up(block.used(), physical);
        follows
    })
}

/// Whether these blocks are the last of those that were being moved to a segment: the ones before are still in the older place.
pub(super) fn is_move_cut_short<'a>(left: &[Left], mut older: impl Iterator<Item = &'a Left>) -> bool {
    left.first().is_some_and(|first| older.any(|block| block.end_number() == first.header.first_number))
}

/// What is missing between an entry and the first one of the newer segment, where numbers can tell.
pub(super) fn lost_between(end: End, newer: Option<Neighbour>) -> Range<RecordNumber> {
    newer.filter(|newer| newer.epoch_id == end.epoch_id).map_or(NONE_LOST, |newer| end.next..newer.number)
}

impl Recovery {
    /// Whether segments are gone with which the log began, as its blocks or the last start say. They are told.
    ///
    /// A segment is freed once a block that names a later one is as safe as the level promises: what the blocks that were found name
    /// is there. Only where a disk is full one is freed before, and a loss of power then looks like damage.
    pub(super) fn judge_beginning(&mut self, options: &Options) -> bool {
        if self.stop.is_known() {
            return false; // it has told which ones there were
        }
        let Some(oldest) = self.newer else { return self.judge_emptiness() };
        let covered = Some(self.covered.start).filter(|_| self.covered.end == oldest.at.segment);
        let (named, found) = (self.oldest_segment, covered.unwrap_or(oldest.at.segment));
        if named >= found || !self.durable.has(Position { segment: named, offset: 0 }) {
            return false;
        }
        let first = self.stop.first_number_of(named).filter(|first| *first < oldest.number).unwrap_or(RecordNumber(1));
        self.lost.push(Lost {
            numbers: first..oldest.number,
            bytes: Some((found.0 - named.0).saturating_mul(options.segment_bytes.into())),
        });
        self.report.damaged += 1;
        self.report.alarms.push(format!(
            "nothing is left of segments {named} to {}, with which the log began: entries {first} to {} are lost, unless they were freed while \
             the disk was full",
            found.0 - 1,
            oldest.number.0 - 1
        ));
        true
    }

    /// There is no block at all. Where records waited at the last start, no segment of theirs was freed before another one was written.
    fn judge_emptiness(&mut self) -> bool {
        let is_gone = self.stop.waiting_runs().next().is_some();
        if is_gone {
            let waited = self.stop.waiting_runs().map(|numbers| Lost { numbers, bytes: None });
            self.lost.extend(waited);
            self.report.damaged += 1;
            self.report.alarms.push(
                "nothing is left of the journal that the last start had read: what waited is lost, and what came since, unless all was freed while the disk was full"
                    .to_owned(),
            );
        }
        is_gone
    }

    /// Writes the segment that was walked last into a file of its own again. `false` where nothing of it waits: it was freed, and its
    /// blocks are still in memory.
    pub(super) fn restore(
        &mut self,
        storage: &mut impl Storage,
        options: &Options,
        life: Life,
        bytes: &mut [u8],
    ) -> Result<bool, OpenError> {
        let Life { number, nonce, physical, .. } = life;
        self.missing.retain(|missing| missing.number != number);
        let of_it = |block: &super::Sealed| block.header.at.segment == number;
        let epoch_id = self.tail.iter().find(|block| of_it(block)).map_or(0, |block| block.header.epoch_id);
        self.tail.retain(|block| !of_it(block));
        if self.segments.last().is_none_or(|segment| segment.unsettled == 0) {
            self.segments.pop();
            return Ok(false);
        }
        self.report.damaged += 1;
        self.report.alarms.push(format!(
            "segment {number} is gone, though the log goes on behind it: what the last run's block file has of it is written again"
        ));
        let bytes_of_file = bytes.len() as u64;
        let header = SegmentHeader {
            core: u32::from(options.core.0),
            segment: number,
            nonce,
            bytes: bytes_of_file,
            physical,
            epoch: 0,
            epoch_id,
        };
        bytes[..physical as usize].copy_from_slice(&header.encode());
        let action = || format!("write segment {number} again");
        doing(action(), storage.write_segment(number, 0, bytes))?;
        doing(action(), storage.sync_segment(number))?;
        Ok(true)
    }
}
