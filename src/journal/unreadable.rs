//! What a walk along the log cannot read. A disk may come back: a read that fails is tried again for
//! 30 s. Then it is done in pieces of a physical block. What cannot be read twice, though another
//! piece can or another segment, is given up; where nothing can be read the disk is away, and is
//! waited for.
//!
//! ```text
//! reads fail ──30 s──► pieces ──some can be read──► the rest once more ──► given up
//!                        ▲  └──none can──► another segment is asked ──it can──┘
//!                        └───────────1 s──────────────┘ it cannot
//! ```

use super::format::Position;
use super::segments::{Segment, Segments};
use crate::ground::{Now, SegmentNumber};
use std::collections::VecDeque;
use std::ops::Range;

/// What cannot be read is tried again for so long.
const GIVE_UP_AFTER_NS: u64 = 30_000_000_000;

/// Owns what one walk could not read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// What the walk has come to.
    failing: Option<Failing>,
    /// What was given up, in ranges that do not touch: no later walk waits for it.
    given_up: Vec<(SegmentNumber, Range<u32>)>,
}

/// What fails now.
#[derive(Debug)]
struct Failing {
    at: Position,
    since_ns: u64,
    pieces: Option<Pieces>,
}

/// A read that is done piece by piece.
#[derive(Debug)]
struct Pieces {
    /// Zero where nothing was read.
    bytes: Vec<u8>,
    /// Still to be read in this round.
    todo: VecDeque<Range<usize>>,
    /// Could not be read in this round.
    failed: Vec<Range<usize>>,
    /// The disk gives something: what fails in this round is given up.
    is_last_round: bool,
    /// Another segment is being asked.
    asks: bool,
    /// How many were.
    asked: usize,
}

/// What came of a read that did not go as usual.
pub(super) enum Outcome {
    /// It goes on failing, and is tried again after a while.
    Fails,
    /// The next read follows at once.
    GoesOn,
    /// It is as if this had been read; what of it cannot be is zero, and named.
    Decided { bytes: Vec<u8>, given_up: Vec<Range<u32>> },
}

impl Pieces {
    fn new(bytes: usize) -> Self {
        // The first read finds out how large a piece is.
        let (bytes, todo, failed) = (vec![0; bytes], VecDeque::new(), Vec::new());
        Self { bytes, todo, failed, is_last_round: false, asks: false, asked: 0 }
    }

    fn begin_round(&mut self, piece: usize) {
        let bytes = self.bytes.len();
        self.todo = (0..bytes).step_by(piece).map(|start| start..(start + piece).min(bytes)).collect();
        self.failed.clear();
        self.is_last_round = false;
    }

    /// What failed is tried once more: the disk may have come back meanwhile.
    fn begin_last_round(&mut self) {
        self.todo = std::mem::take(&mut self.failed).into();
        self.is_last_round = true;
    }
}

impl Unreadable {
    /// Whether reads fail where the walk is.
    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether something was given up.
    pub fn has_given_up(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Behind the bytes at a place that were given up, if they were.
    pub fn end_at(&self, at: Position) -> Option<u32> {
        let is_here =
            |(segment, range): &&(SegmentNumber, Range<u32>)| *segment == at.segment && range.contains(&at.offset);
        self.given_up.iter().find(is_here).map(|(_, range)| range.end)
    }

    /// Where is read next for a walk that wants so many bytes at a place, and how many; `None` while
    /// nothing can be read.
    pub fn next_read(&mut self, segments: &Segments, at: Position, bytes: usize) -> Option<(Position, usize)> {
        self.failing.take_if(|failing| failing.at != at); // it has moved or was freed
        let Some(pieces) = self.failing.as_mut().and_then(|failing| failing.pieces.as_mut()) else {
            return Some((at, bytes));
        };
        let piece = segments.round_up(1) as usize;
        if pieces.todo.is_empty() && pieces.failed.is_empty() {
            pieces.begin_round(piece);
        }
        if let Some(range) = pieces.todo.front() {
            return Some((Position { offset: at.offset + range.start as u32, ..at }, range.len()));
        }
        // Nothing of it could be read.
        let is_other = |other: &&Segment| other.number != at.segment && segments.is_file_ready(other.number);
        let nth = pieces.asked.checked_rem(segments.iter().filter(is_other).count()).unwrap_or(0);
        let other = segments.iter().filter(is_other).nth(nth).filter(|_| !pieces.asks);
        pieces.asks = other.is_some();
        pieces.asked += usize::from(pieces.asks); // another one each time: its place may be bad, too
        if other.is_none() {
            pieces.failed.clear();
        }
        other.map(|other| (other.first_position(), piece))
    }

    /// A read for a place of the walk is over; `None` where it went as usual.
    pub fn take(&mut self, now: Now, at: Position, buffer: &[u8], result: Result<usize, i32>) -> Option<Outcome> {
        let Some(failing) = &mut self.failing else {
            result.err()?;
            // One wait for a segment, however many places of it are bad.
            let is_known = self.given_up.iter().any(|(segment, _)| *segment == at.segment);
            let pieces = is_known.then(|| Pieces::new(buffer.len()));
            self.failing = Some(Failing { at, since_ns: now.mono_ns, pieces });
            return Some(if is_known { Outcome::GoesOn } else { Outcome::Fails });
        };
        let Some(pieces) = &mut failing.pieces else {
            let Err(errno) = result else {
                self.failing = None;
                return None;
            };
            if errno == libc::EIO && now.mono_ns >= failing.since_ns + GIVE_UP_AFTER_NS {
                failing.pieces = Some(Pieces::new(buffer.len()));
                return Some(Outcome::GoesOn);
            }
            return Some(Outcome::Fails);
        };
        if pieces.asks && pieces.todo.is_empty() {
            if result.is_ok() {
                pieces.begin_last_round();
                pieces.asks = false;
            }
            return Some(Outcome::GoesOn);
        }
        let range = pieces.todo.pop_front().expect("a piece was read");
        match result {
            Ok(read) => pieces.bytes[range][..read].copy_from_slice(&buffer[..read]),
            Err(_) => pieces.failed.push(range),
        }
        let failed: usize = pieces.failed.iter().map(Range::len).sum();
        if !pieces.todo.is_empty() || failed == pieces.bytes.len() && !pieces.is_last_round {
            return Some(Outcome::GoesOn);
        }
        if failed > 0 && !pieces.is_last_round {
            pieces.begin_last_round();
            return Some(Outcome::GoesOn);
        }
        self.decide()
    }

    fn decide(&mut self) -> Option<Outcome> {
        let Failing { at, pieces, .. } = self.failing.take()?;
        let Pieces { bytes, failed, .. } = pieces?;
        let mut given_up: Vec<Range<u32>> =
            failed.iter().map(|range| at.offset + range.start as u32..at.offset + range.end as u32).collect();
        given_up.retain(|range| self.give_up(at.segment, range));
        Some(Outcome::Decided { bytes, given_up })
    }

    /// Gives bytes up; `false` where that is nothing new.
    fn give_up(&mut self, segment: SegmentNumber, range: &Range<u32>) -> bool {
        let here = self.given_up.iter_mut().filter(|(other, _)| *other == segment).map(|(_, known)| known);
        match here.into_iter().find(|known| known.start <= range.start && range.start <= known.end) {
            Some(known) if range.end <= known.end => return false,
            Some(known) => known.end = range.end,
            None => self.given_up.push((segment, range.clone())),
        }
        true
    }

    /// Segments that are gone need not be remembered.
    pub fn forget(&mut self, is_there: impl Fn(SegmentNumber) -> bool) {
        self.given_up.retain(|(segment, _)| is_there(*segment));
    }
}
