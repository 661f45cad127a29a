//! What was durable, and whether entries are missing between segments.

use crate::ground::RecordNumber;
use crate::journal::format::{BlockHeader, Position};

/// What the blocks walked so far say of what was durable. An unclean end leaves traces that later epochs do not make damage, as
/// far as their watermarks move on: so a place is compared with the watermarks of its own epoch, and with that with which
/// the next one began.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// The last epoch, if it ended with a clean stop: all of it was durable.
    pub(super) closed: Option<u128>,
    pub(super) epoch_id: Option<u128>,
    /// That of the newest block.
    pub(super) newest_epoch: Option<u128>,
    /// Everything before it, in this epoch, was durable; more, where that is the one that was closed.
    watermark: Position,
    /// The lowest that a block of this epoch carries: the one it began with.
    pub(super) first: Position,
    /// The highest of all: that of the newest epoch.
    pub(super) newest: Position,
}

impl Durable {
    /// Whether what was at a place was durable, as far as is known.
    pub(super) fn has(&self, at: Position) -> bool {
        self.epoch_id.is_some() && self.closed == self.epoch_id || at < self.watermark
    }

    pub(super) fn learn(&mut self, header: &BlockHeader) {
        self.newest_epoch.get_or_insert(header.epoch_id);
        if self.epoch_id.is_some_and(|id| id != header.epoch_id) {
            let inherited = Some(self.first).filter(|first| first.segment <= header.at.segment);
            (self.watermark, self.first) = (inherited.unwrap_or_default(), header.watermark);
        } else if self.epoch_id.is_none() {
            self.first = header.watermark;
        }
        self.epoch_id = Some(header.epoch_id);
        self.watermark = self.watermark.max(header.watermark);
        self.first = self.first.min(header.watermark);
        self.newest = self.newest.max(header.watermark);
    }
}

/// Where a segment's entries end.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) epoch_id: u128,
    /// The number behind its last one.
    pub(super) next: RecordNumber,
}

impl End {
    /// Whether nothing is missing between it and a block, as far as numbers tell.
    pub(super) fn is_followed_by(&self, block: &BlockHeader) -> bool {
        self.epoch_id != block.epoch_id || self.next == block.first_number
    }
}

/// The first block of the segment that was walked before. Entries have consecutive numbers in an epoch, so that it tells
/// whether anything is missing in between: a segment's unused tail looks like a damaged block, but leaves no gap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    pub(super) epoch_id: u128,
    pub(super) number: RecordNumber,
    pub(super) at: Position,
    /// It is not where a segment's first block belongs.
    pub(super) gap: bool,
    /// Of that place it was known in its own epoch that it was durable.
    pub(super) certain: bool,
}

impl Neighbour {
    /// Where it begins: the number of its first entry comes next.
    pub(super) fn start(self) -> End {
        End { epoch_id: self.epoch_id, next: self.number }
    }

    /// Whether entries are missing between it and the end of the older segment.
    pub(super) fn is_gap_behind(&self, end: End) -> bool {
        if end.epoch_id == self.epoch_id { end.next != self.number } else { self.gap }
    }
}
