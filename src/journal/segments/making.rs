//! Segments whose files are to be made. Number and nonce are chosen when a segment is wanted, so
//! that blocks can be built for it before its file is there: ids and marks go on while a disk is
//! full or refuses, and are committed when it is ready. Records are taken only into a segment that
//! is ready, and only while the next one is no reason for worry.

use super::RETRY_AFTER_NS;
use crate::ground::{Now, SegmentNumber};
use std::collections::VecDeque;

/// A segment's file on its way.
#[derive(Debug)]
struct Coming {
    number: SegmentNumber,
    nonce: u64,
    /// Blocks are built for it.
    begun: bool,
    file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    /// To be asked for; not before this time, where an attempt has failed.
    Wanted {
        not_before_ns: Option<u64>,
    },
    /// Asked for.
    Asked,
    /// Asked for, and no longer of any use.
    Unwanted,
    Ready,
}

/// Number and nonce of a segment: what is known of it before there is a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub number: SegmentNumber,
    pub nonce: u64,
}

/// Owns segments whose files are not ready, begun or not, and those that are ready and not begun;
/// in order.
#[derive(Debug)]
pub(super) struct Making {
    next: SegmentNumber,
    coming: VecDeque<Coming>,
    rng: fastrand::Rng,
}

impl Making {
    /// Numbers go on with `next`.
    pub fn new(next: SegmentNumber, seed: u64) -> Self {
        Self { next, coming: VecDeque::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// A nonce for a segment's new life.
    pub fn nonce(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// A segment that an earlier start has begun, and whose file was never made.
    pub fn adopt(&mut self, number: SegmentNumber, nonce: u64) {
        self.coming.push_back(Coming { number, nonce, begun: true, file: File::Wanted { not_before_ns: None } });
    }

    /// Whether commits may go to a segment.
    pub fn is_ready(&self, segment: SegmentNumber) -> bool {
        self.coming.iter().all(|coming| coming.number != segment || coming.file == File::Ready)
    }

    fn next(&self) -> Option<&Coming> {
        self.coming.iter().find(|coming| !coming.begun && coming.file != File::Unwanted)
    }

    /// Whether the segment behind the last one is ready.
    pub fn is_next_ready(&self) -> bool {
        self.next().is_some_and(|coming| coming.file == File::Ready)
    }

    fn want(&mut self) {
        let number = self.next;
        self.next = number.next();
        let nonce = self.nonce();
        self.coming.push_back(Coming { number, nonce, begun: false, file: File::Wanted { not_before_ns: None } });
    }

    /// The segment that comes next is begun, ready or not.
    pub fn begin_next(&mut self) -> Named {
        if self.next().is_none() {
            self.want();
        }
        let next = self.coming.iter_mut().find(|coming| !coming.begun && coming.file != File::Unwanted);
        let next = next.expect("wanted above");
        next.begun = true;
        let named = Named { number: next.number, nonce: next.nonce };
        // What could wait before is needed now.
        for coming in &mut self.coming {
            if let File::Wanted { not_before_ns } = &mut coming.file {
                *not_before_ns = None;
            }
        }
        self.coming.retain(|coming| !coming.begun || coming.file != File::Ready);
        named
    }

    /// The next file that is missing, if it is to be asked for now: of segments that are begun, and
    /// of so many `ahead`.
    pub fn ask(&mut self, now: Now, ahead: usize) -> Option<Named> {
        if ahead == 0 {
            // The end: nobody comes back to one that is not made yet.
            self.coming.retain(|coming| coming.begun || !matches!(coming.file, File::Wanted { .. }));
        }
        if self.is_under_way() {
            return None;
        }
        let not_begun = self.coming.iter().filter(|coming| !coming.begun).count();
        if not_begun < ahead && !self.coming.iter().any(|coming| coming.file != File::Ready) {
            self.want();
        }
        let wanted = |coming: &&mut Coming| coming.file != File::Ready && (ahead > 0 || coming.begun);
        let next = self.coming.iter_mut().find(wanted)?;
        if matches!(next.file, File::Wanted { not_before_ns: Some(at) } if now.mono_ns < at) {
            return None;
        }
        next.file = File::Asked;
        Some(Named { number: next.number, nonce: next.nonce })
    }

    /// Whether a file is being made.
    pub fn is_under_way(&self) -> bool {
        self.coming.iter().any(|coming| matches!(coming.file, File::Asked | File::Unwanted))
    }

    /// When a file is to be asked for again.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.coming.iter().find(|coming| coming.file != File::Ready)?.file {
            File::Wanted { not_before_ns } => not_before_ns,
            _ => None,
        }
    }

    /// A segment of which nothing is of any use any more; `false` where its file is there.
    pub fn forget(&mut self, segment: SegmentNumber) -> bool {
        let Some(index) = self.coming.iter().position(|coming| coming.number == segment) else { return false };
        match self.coming[index].file {
            File::Asked | File::Unwanted => self.coming[index].file = File::Unwanted,
            File::Wanted { .. } | File::Ready => drop(self.coming.remove(index)),
        }
        true
    }

    /// A file is ready, or not. Whether it is there and of no use any more.
    pub fn made(&mut self, now: Now, segment: SegmentNumber, is_ready: bool) -> bool {
        let index = self.coming.iter().position(|coming| coming.number == segment).expect("a file that was asked for");
        let Coming { begun, file, .. } = &mut self.coming[index];
        let unwanted = *file == File::Unwanted;
        *file = match is_ready {
            true => File::Ready,
            false => File::Wanted { not_before_ns: Some(now.mono_ns + RETRY_AFTER_NS) },
        };
        if is_ready && *begun || unwanted {
            self.coming.remove(index);
        }
        is_ready && unwanted
    }

    /// Asserts that what is begun is part of the log (`is_part`), and what is not comes behind it.
    pub fn check(&self, last: Option<SegmentNumber>, is_part: impl Fn(SegmentNumber) -> bool) {
        assert!(self.coming.iter().all(|coming| coming.number < self.next), "{self:?}");
        for coming in self.coming.iter().filter(|coming| coming.file != File::Unwanted) {
            match coming.begun {
                true => {
                    assert!(is_part(coming.number) && coming.file != File::Ready, "begun, and not there: {coming:?}")
                }
                false => assert!(last.is_none_or(|last| last < coming.number), "not begun, and passed: {coming:?}"),
            }
        }
        let in_flight = self.coming.iter().filter(|coming| matches!(coming.file, File::Asked | File::Unwanted));
        assert!(in_flight.count() <= 1, "one file is made at a time: {self:?}");
    }
}
