//! Segments whose files are to be made. Number and nonce are chosen when a segment is wanted, so that blocks can be built for it
//! before its file is there: ids and marks go on while a disk is full or refuses, and are committed when it is ready. Records
//! are taken only into a segment that is ready, and only while the next one is no reason for worry.

use super::trouble::Trouble;
use super::{GivenUp, Journal, RETRY_AFTER_NS};
use crate::config::Durability;
use crate::ground::{Now, RecordNumber, SegmentNumber};
use crate::journal::format::SegmentHeader;
use crate::journal::op::{Op, Ops};
use crate::journal::segment::Segment;

/// A segment's file on its way.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) number: SegmentNumber,
    pub(super) nonce: u64,
    /// Blocks are built for it.
    pub(super) begun: bool,
    pub(super) file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// To be asked for, not before this time.
    Wanted {
        not_before_ns: u64,
    },
    /// Asked for.
    Asked,
    /// Asked for, and no longer of any use.
    Unwanted,
    Ready,
}

impl Journal {
    /// Whether commits may go to a segment.
    pub(super) fn is_file_ready(&self, segment: SegmentNumber) -> bool {
        self.coming.iter().all(|coming| coming.number != segment || coming.file == File::Ready)
    }

    fn next_coming(&self) -> Option<&Coming> {
        self.coming.iter().find(|coming| !coming.begun && coming.file != File::Unwanted)
    }

    /// Whether the segment behind the last one is ready.
    pub(super) fn is_next_ready(&self) -> bool {
        self.next_coming().is_some_and(|coming| coming.file == File::Ready)
    }

    /// Whether there is a segment that records could go to.
    pub(super) fn is_first_ready(&self) -> bool {
        self.is_next_ready() || self.current_segment_open() && self.is_file_ready(self.current_segment_number())
    }

    /// Whether records may be taken as far as segments are concerned.
    pub(super) fn takes_records(&self) -> bool {
        if self.segments.len() >= self.options.segments_max() || self.troubles.stop_intake() || self.must_move {
            return false;
        }
        self.is_first_ready() && (!self.current_segment_open() || self.is_file_ready(self.current_segment_number()))
    }

    fn want_segment(&mut self) {
        let number = self.next_segment;
        self.next_segment = self.next_segment.next();
        let file = File::Wanted { not_before_ns: 0 };
        self.coming.push_back(Coming { number, nonce: self.rng.u64(..), begun: false, file });
    }

    /// The log goes on in the next segment, ready or not; its number.
    pub(super) fn begin_segment(&mut self, first_number: RecordNumber) -> SegmentNumber {
        if self.current_segment_open() && self.options.durability == Durability::Process {
            self.unsynced.push_back(self.current_segment_number());
        }
        if self.next_coming().is_none() {
            self.want_segment();
        }
        let next = self.coming.iter_mut().find(|coming| !coming.begun && coming.file != File::Unwanted);
        let next = next.expect("wanted above");
        next.begun = true;
        let (number, nonce) = (next.number, next.nonce);
        self.coming.retain(|coming| !coming.begun || coming.file != File::Ready);
        self.rewriting.note_change();
        self.segments.push_back(Segment::new(number, nonce, first_number, self.physical));
        number
    }

    /// Asks for the next file that is missing. `ahead`: also for the segment that is to be begun next.
    pub(super) fn prepare(&mut self, now: Now, ahead: bool, ops: &mut Ops<'_>) {
        if ahead && self.next_coming().is_none() {
            self.want_segment();
        }
        if self.is_preparing() {
            return;
        }
        let wanted = |coming: &&mut Coming| coming.file != File::Ready && (ahead || coming.begun);
        let Some(next) = self.coming.iter_mut().find(wanted) else { return };
        if matches!(next.file, File::Wanted { not_before_ns } if now.mono_ns < not_before_ns) {
            return;
        }
        next.file = File::Asked;
        let header = SegmentHeader {
            core: self.options.core,
            segment: next.number,
            nonce: next.nonce,
            bytes: u64::from(self.options.segment_bytes),
            physical: self.physical,
            epoch: self.epoch,
            epoch_id: self.epoch_id,
        };
        ops(Op::PrepareSegment {
            segment: next.number,
            bytes: header.bytes,
            header: header.encode(),
            sync: self.options.durability == Durability::Power,
        });
    }

    /// Whether a file is being made.
    pub(super) fn is_preparing(&self) -> bool {
        self.coming.iter().any(|coming| matches!(coming.file, File::Asked | File::Unwanted))
    }

    /// When a file is to be asked for again.
    pub(super) fn prepare_deadline_ns(&self) -> Option<u64> {
        let next = self.coming.iter().find(|coming| coming.file != File::Ready)?;
        match next.file {
            File::Wanted { not_before_ns } if not_before_ns > 0 => Some(not_before_ns),
            _ => None,
        }
    }

    /// A segment of which nothing is of any use any more.
    pub(super) fn drop_segment(&mut self, segment: &Segment) {
        let Some(index) = self.coming.iter().position(|coming| coming.number == segment.number) else {
            self.dropped.push(GivenUp::of(segment));
            return;
        };
        if self.coming[index].file == File::Asked {
            self.coming[index].file = File::Unwanted;
        } else {
            self.coming.remove(index);
        }
    }

    /// A segment is ready, or not.
    pub(super) fn handle_prepared(&mut self, now: Now, segment: SegmentNumber, result: Result<(), i32>) {
        let Some(index) = self.coming.iter().position(|coming| coming.number == segment) else { return };
        let Coming { begun, file, .. } = &mut self.coming[index];
        let unwanted = *file == File::Unwanted;
        match result {
            Ok(()) => {
                *file = File::Ready;
                if *begun || unwanted {
                    self.coming.remove(index);
                }
                if unwanted {
                    self.dropped.push(GivenUp { segment, reuse: true });
                }
                self.heal(Trouble::Make);
            }
            Err(errno) => {
                *file = File::Wanted { not_before_ns: now.mono_ns + RETRY_AFTER_NS };
                if unwanted {
                    self.coming.remove(index);
                }
                self.fail(Trouble::Make, segment, errno);
            }
        }
    }
}
