//! Where the next frame is: in step, it is where the one before ended, or at the next start. Out of step it may be anywhere.
//!
//! ```text
//!             a frame that was wrong             what follows
//!  window    ─┤ . . . . . . . . . . . . . . . ├──────────────────
//!             └ its start    each byte behind it may begin the next frame
//! ```
//! Behind a wrong length, a wrong checksum, a loss, or where a silence or the end of the stream came too early, the framer is
//! out of step: what looks like a frame may be part of another one. It counts if its start and its checksum have at least
//! [`EVIDENCE_BITS`] together, or if the next frame fits behind it, or if it ends exactly where the stream does.
//!
//! A frame that ends at bytes tells by its end where the next one begins: only inside of a wrong one is there any doubt.
//!
//! Each look of this search costs the bytes it looks at. The caller says how many there may be, so that a stream of nothing
//! but starts costs no more than others.

use super::candidate::{Candidate, Parts, Rules};
use super::is_white;
use super::scan::{Stop, beginning, dles_before, first_whole, stop};
use super::settings::{Escape, Framing, FramingKind};
use super::{RejectReason, State};

/// So many bits of start, separator and checksum are evidence enough: a false frame has them once in 16 million places.
const EVIDENCE_BITS: usize = 24;

/// What stands at the front of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Not to be told yet; see [`Candidate::More`].
    More(usize),
    /// The search has cost what it may.
    Starved,
    /// Bytes outside of all frames.
    Pass(usize),
    /// Bytes that mean nothing, or that belong to a frame that is dealt with.
    Skip(usize),
    /// Where a frame that was dealt with ends: behind its end, or before the next start.
    Resume {
        bytes: usize,
        ended: bool,
    },
    Frame(Parts),
    /// Longer than a record may be; what follows is passed over.
    TooLong(Parts),
    /// Another frame begins at `at`; what came of this one begins at `start`.
    Restart {
        start: usize,
        at: usize,
    },
    Damaged {
        reason: RejectReason,
        shown: (usize, usize),
        extent: Option<usize>,
    },
}

/// What is known of a stream in front of a window.
#[derive(Clone, Copy)]
pub(super) struct Search<'f> {
    pub framing: &'f Framing,
    pub state: State,
    /// Nothing follows the window.
    pub last: bool,
    /// What a search cannot afford is passed over: the stream is over.
    pub gives_up: bool,
    /// Out of step.
    pub astray: bool,
    /// So many bytes of the window belong to a frame that was wrong.
    pub quiet: usize,
    pub mark: usize,
    /// See [`Framing::unit_bytes`]; 1 where it is not known where the frame began.
    pub unit: usize,
}

impl Search<'_> {
    /// Looks at the front of a window that is not empty. `budget` is what the search may still cost.
    pub fn look(self, window: &[u8], budget: &mut usize) -> Look {
        match self.state {
            State::Discarding => return self.discard(window),
            State::Between | State::Gathering | State::Passing => {}
        }
        let mut at = 0;
        while at < window.len() {
            let start = match self.start(window, at) {
                Ok((begin, end)) => {
                    at += begin;
                    end - begin
                }
                Err(0) if at == 0 => return Look::More(0),
                Err(passed) => return Look::Pass(at + passed),
            };
            let rest = &window[at..];
            if self.framing.starts.is_empty() && at == 0 && !self.astray {
                let ignored = self.ignored(rest);
                if ignored > 0 {
                    return Look::Skip(ignored);
                }
            }
            let in_step = !self.astray && at >= self.quiet;
            if at > 0 && in_step {
                return Look::Pass(at);
            }
            if !in_step && *budget == 0 {
                return match at {
                    _ if self.gives_up => Look::Pass(window.len()),
                    0 => Look::Starved,
                    _ => Look::Pass(at),
                };
            }
            let mark = if at == 0 { self.mark } else { 0 };
            let mut cost = 1;
            let rules = Rules { framing: self.framing, last: self.last, start, mark, unit: self.unit };
            let mut candidate = rules.judge(rest, &mut cost);
            if !in_step {
                candidate = self.confirmed(rest, start, candidate, &mut cost);
                *budget = budget.saturating_sub(cost);
            }
            match candidate {
                _ if at > 0 && !matches!(candidate, Candidate::Damaged { .. } | Candidate::Restart { .. }) => {
                    return Look::Pass(at);
                }
                Candidate::More(mark) => return Look::More(mark),
                Candidate::Whole(parts) => return Look::Frame(parts),
                Candidate::TooLong(parts) => return Look::TooLong(parts),
                Candidate::Nothing => return Look::Skip(rest.len()),
                Candidate::Restart { at: again } if in_step && again == start => return Look::Pass(again),
                Candidate::Restart { at } if in_step => return Look::Restart { start, at },
                Candidate::Restart { at: again } => at += again,
                Candidate::Damaged { reason, shown, extent } if in_step => {
                    return Look::Damaged { reason, shown, extent };
                }
                Candidate::Damaged { .. } => at += 1,
            }
        }
        Look::Pass(at)
    }

    /// Where the next start begins and ends, from `from` on. The error: there is none in so many bytes.
    fn start(self, window: &[u8], from: usize) -> Result<(usize, usize), usize> {
        let starts = &self.framing.starts;
        if starts.is_empty() {
            return Ok((0, 0));
        }
        // A checksum behind the end may end with one itself; but with a checksum no false start passes.
        let doubles = self.framing.escape == Some(Escape::Dle) && self.framing.checksum.is_none();
        let mut at = from;
        while let Some((begin, end)) = first_whole(starts, window, at, at) {
            // The second of two DLEs is data, and so is what follows it.
            if doubles && dles_before(window, begin) % 2 == 1 {
                at = begin + 1;
                continue;
            }
            return Ok((begin - from, end - from));
        }
        let held = match self.last {
            true => 0,
            false if doubles => dles_before(window, window.len()) % 2,
            false => beginning(starts, &window[from..]),
        };
        Err(window.len() - from - held)
    }

    /// Bytes between frames that mean nothing.
    fn ignored(self, window: &[u8]) -> usize {
        window.iter().take_while(|byte| self.framing.ignore.contains(byte)).count()
    }

    /// A candidate that was found out of step. One that nothing confirms is wrong.
    fn confirmed(self, window: &[u8], start: usize, candidate: Candidate, cost: &mut usize) -> Candidate {
        let wrong = Candidate::Damaged { reason: RejectReason::Checksum, shown: (0, 0), extent: None };
        let parts = match candidate {
            Candidate::Whole(parts) => parts,
            Candidate::TooLong(_) => return wrong,
            other => return other,
        };
        if self.evidence_bits(start, parts) >= EVIDENCE_BITS {
            return candidate;
        }
        let behind = &window[parts.bytes..];
        let between = |byte: &&u8| {
            let is_space = !self.framing.starts.is_empty() && is_white(**byte);
            (is_space || self.framing.ignore.contains(byte))
                && !self.framing.starts.iter().any(|start| start.first() == Some(*byte))
        };
        let skipped = behind.iter().take_while(between).count();
        let next = &behind[skipped..];
        if next.is_empty() {
            // Where silence alone ends a frame, every one ends there: that is no evidence.
            return match self.last {
                true if self.framing.kind == FramingKind::IdleGap => wrong,
                true => candidate,
                false => Candidate::More(0),
            };
        }
        let start = match self.start(next, 0) {
            Ok((0, end)) => end,
            Err(0) => return Candidate::More(0),
            Ok(_) | Err(_) => return wrong,
        };
        let rules = Rules { framing: self.framing, last: self.last, start, mark: 0, unit: self.unit };
        match rules.judge(next, cost) {
            Candidate::Whole(next) if !next.unended => candidate,
            Candidate::More(mark) if self.is_counted() => Candidate::More(parts.bytes + skipped + mark),
            Candidate::More(_) => Candidate::More(0),
            // The next frame is cut off by the end of the stream, or by a silence.
            Candidate::Damaged { reason: RejectReason::Unfinished, .. }
                if self.last && start > 0 && self.framing.kind != FramingKind::IdleGap =>
            {
                candidate
            }
            _ => wrong,
        }
    }

    fn is_counted(self) -> bool {
        matches!(self.framing.kind, FramingKind::Length(_) | FramingKind::Fixed { .. })
    }

    /// Bits by which a frame differs from any other bytes at its place.
    fn evidence_bits(self, start: usize, parts: Parts) -> usize {
        let sum = self.framing.checksum.as_ref().filter(|_| parts.verified);
        8 * start + sum.map_or(0, |sum| sum.bits() as usize + 8 * sum.separator.len())
    }

    /// Passes over the remainder of a frame that is dealt with.
    fn discard(self, window: &[u8]) -> Look {
        if self.is_counted() {
            return Look::Pass(window.len());
        }
        let mark = match stop(self.framing, 1, window, 0, self.mark) {
            Ok(Stop::End { to, .. }) => return Look::Resume { bytes: to, ended: true },
            Ok(Stop::Start { at }) => return Look::Resume { bytes: at, ended: false },
            Ok(Stop::Bad { at }) => return Look::Skip(at + 1),
            Err(mark) => mark,
        };
        let ends: &[Vec<u8>] = if let FramingKind::Delimiter { ends } = &self.framing.kind { ends } else { &[] };
        let held = match self.framing.escape {
            _ if self.last => 0,
            Some(_) => window.len() - mark,
            None => beginning(ends, window).max(beginning(&self.framing.starts, window)),
        };
        match window.len() - held {
            0 => Look::More(0),
            passed => Look::Skip(passed),
        }
    }
}
