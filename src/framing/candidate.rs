//! A frame that may begin here: whether it is whole, and whether it is right. Pure: it sees a window of bytes and says what
//! it is, or how many it needs.
//!
//! ```text
//!  window  start   header   payload [separator checksum]  end [separator checksum]  trailer
//!          0       start    header                payload                                  bytes   = Parts
//! ```

use super::checksum::{Checksum, ChecksumForm, Place};
use super::scan::{Stop, first_whole, stop, unescaped};
use super::settings::{Framing, FramingKind, LengthCounts, LengthField, NumberForm, Oversized, RECORD_BYTES_MAX};
use super::{OnIdle, RejectReason, is_white, trim_end};

/// White space behind a record that trimming takes off and that does not count against the limit; what has more of it is
/// too long.
const WHITE_BYTES_MAX: usize = 64;

/// A whole frame; positions in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Where the start ends.
    pub start: usize,
    /// Where the header ends.
    pub header: usize,
    /// Where the payload ends; with an escape, its checksum is behind it or in it.
    pub payload: usize,
    /// The end.
    pub end: (usize, usize),
    /// All of the frame.
    pub bytes: usize,
    /// Bytes at the end of the unescaped payload that are its checksum.
    pub sum_inside: usize,
    /// It was verified by its checksum.
    pub verified: bool,
    /// It has no end: silence or the end of the stream cut it short.
    pub unended: bool,
}

/// What stands at the front of a window that begins with a start, or where a frame may begin without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Candidate {
    /// Not to be told yet. Where the length is known: before the window has so many bytes; else, where to go on.
    More(usize),
    Whole(Parts),
    /// It is longer than a record may be. The first so many bytes of the window are those that count.
    TooLong(Parts),
    /// Another frame begins inside of this one.
    Restart {
        at: usize,
    },
    /// `extent` is where it ends, if that is known.
    Damaged {
        reason: RejectReason,
        shown: (usize, usize),
        extent: Option<usize>,
    },
    /// The stream is over and nothing came but what is trimmed.
    Nothing,
}

/// The rules of a framing, and how much of a stream there is.
#[derive(Clone, Copy)]
pub(super) struct Rules<'f> {
    pub framing: &'f Framing,
    /// Nothing follows the window.
    pub last: bool,
    /// Where the start ends; 0 without one.
    pub start: usize,
    /// What the look before has said; see [`Candidate::More`].
    pub mark: usize,
}

impl Rules<'_> {
    /// Judges the candidate at the front of `window`. Adds to `cost` the bytes that were looked at.
    pub fn judge(self, window: &[u8], cost: &mut usize) -> Candidate {
        match &self.framing.kind {
            FramingKind::Delimiter { ends } => self.delimited(window, ends, cost),
            FramingKind::IdleGap => self.silenced(window, cost),
            FramingKind::Length(field) => self.counted(window, Some(field), cost),
            FramingKind::Fixed { .. } => self.counted(window, None, cost),
        }
    }

    /// Bytes of separator and checksum.
    fn sum_bytes(self) -> usize {
        self.framing.checksum.as_ref().map_or(0, |sum| sum.separator.len() + sum.bytes())
    }

    // ---- frames that end at bytes

    fn delimited(self, window: &[u8], ends: &[Vec<u8>], cost: &mut usize) -> Candidate {
        let limit = self.start + raw_bytes_max(self.framing);
        let begun = self.mark.max(self.start).min(window.len());
        let found = stop(self.framing, window, self.start, self.mark);
        let (stop_at, looked) = match found {
            Ok(Stop::End { at, to }) => (at, to),
            Ok(Stop::Start { at } | Stop::Bad { at }) => (at, at),
            Err(mark) => ((mark + 1).saturating_sub(longest(ends).max(longest(&self.framing.starts))), window.len()),
        };
        *cost += looked.saturating_sub(begun);
        if stop_at > limit {
            return self.too_long(limit);
        }
        match found {
            Ok(Stop::End { at, to }) => self.ended(window, ends, (at, to), cost),
            Ok(Stop::Start { at }) => match self.sum_over_start(window, ends, at, cost) {
                Some(judged) => judged,
                None => Candidate::Restart { at },
            },
            Ok(Stop::Bad { at }) => Candidate::Damaged {
                reason: RejectReason::Unfinished,
                shown: (self.start, at),
                extent: (!self.framing.starts.is_empty()).then_some(at),
            },
            Err(_) if self.last => self.unended(window, self.start),
            Err(mark) => Candidate::More(mark),
        }
    }

    fn too_long(self, limit: usize) -> Candidate {
        if self.framing.checksum.is_some() {
            return Candidate::Damaged {
                reason: RejectReason::Oversized,
                shown: (self.start, limit),
                extent: (!self.framing.starts.is_empty()).then_some(limit),
            };
        }
        Candidate::TooLong(self.bare(limit))
    }

    /// A frame that goes up to `to` and has nothing behind its payload.
    fn bare(self, to: usize) -> Parts {
        Parts {
            start: self.start,
            header: self.start,
            payload: to,
            end: (to, to),
            bytes: to,
            sum_inside: 0,
            verified: false,
            unended: false,
        }
    }

    /// The end was found.
    fn ended(self, window: &[u8], ends: &[Vec<u8>], (at, to): (usize, usize), cost: &mut usize) -> Candidate {
        let parts = Parts { end: (at, to), bytes: to, ..self.bare(at) };
        let Some(checksum) = &self.framing.checksum else { return Candidate::Whole(parts) };
        if checksum.place == Place::Behind {
            return self.summed_behind(window, checksum, parts, cost);
        }
        if let Some(whole) = self.summed_before(window, checksum, parts, cost) {
            return Candidate::Whole(whole);
        }
        // A binary sum may contain the end: then the end is a later one.
        if matches!(checksum.form, ChecksumForm::Binary { .. }) {
            match self.later_end(window, ends, (to, at + checksum.bytes()), cost) {
                Ok(Some(whole)) => return Candidate::Whole(whole),
                Ok(None) => {}
                Err(()) => return Candidate::More(if self.framing.escape.is_some() { at } else { to - 1 }),
            }
        }
        Candidate::Damaged { reason: RejectReason::Checksum, shown: (self.start, at), extent: Some(to) }
    }

    /// A start was found where a binary checksum before the end may stand. `None`: there is none.
    fn sum_over_start(self, window: &[u8], ends: &[Vec<u8>], at: usize, cost: &mut usize) -> Option<Candidate> {
        let checksum = self.framing.checksum.as_ref().filter(|sum| sum.place == Place::Before)?;
        if !matches!(checksum.form, ChecksumForm::Binary { .. }) || self.framing.escape.is_some() {
            return None;
        }
        match self.later_end(window, ends, (at, at + checksum.bytes()), cost) {
            Ok(whole) => whole.map(Candidate::Whole),
            Err(()) => Some(Candidate::More(at)),
        }
    }

    /// The first end behind `from` that begins at `to` or before and makes the frame right. The error: more must come.
    fn later_end(
        self,
        window: &[u8],
        ends: &[Vec<u8>],
        (from, to): (usize, usize),
        cost: &mut usize,
    ) -> Result<Option<Parts>, ()> {
        let checksum = self.framing.checksum.as_ref().ok_or(())?;
        let reach = to + longest(ends);
        let near = &window[..window.len().min(reach)];
        let mut from = from;
        while let Some((at, end_to)) = first_whole(ends, near, self.start, from) {
            let parts = Parts { end: (at, end_to), bytes: end_to, ..self.bare(at) };
            if at <= to
                && let Some(whole) = self.summed_before(window, checksum, parts, cost)
            {
                return Ok(Some(whole));
            }
            from = end_to;
        }
        if window.len() < reach && !self.last { Err(()) } else { Ok(None) }
    }

    /// The frame, if its last bytes before the end are its checksum.
    fn summed_before(self, window: &[u8], checksum: &Checksum, parts: Parts, cost: &mut usize) -> Option<Parts> {
        let raw = &window[parts.header..parts.payload];
        let unescaped = unescaped(self.framing.escape, raw);
        let bytes = unescaped.as_deref().unwrap_or(raw);
        *cost += bytes.len();
        let separator = &checksum.separator[..];
        let sums = bytes.len().checked_sub(checksum.bytes()).map(|at| bytes.split_at(at));
        let is_right = |data: &[u8], sum: &[u8]| {
            let end = &window[parts.end.0..parts.end.1];
            checksum.verifies([&window[..self.start], &[], data, end], sum)
        };
        if let Some((before, sum)) = sums
            && let Some(data) = before.strip_suffix(separator)
            && is_right(data, sum)
        {
            return Some(inside(parts, unescaped.is_some(), self.sum_bytes(), checksum.bits() > 0));
        }
        if !checksum.optional || separator.is_empty() {
            return None;
        }
        match memchr::memmem::rfind(bytes, separator) {
            None => Some(parts),
            Some(at) if at + separator.len() == bytes.len() => {
                Some(inside(parts, unescaped.is_some(), separator.len(), false))
            }
            Some(_) => None,
        }
    }

    /// The checksum stands behind the end.
    fn summed_behind(self, window: &[u8], checksum: &Checksum, parts: Parts, cost: &mut usize) -> Candidate {
        let (at, to) = parts.end;
        let mark = if self.framing.escape.is_some() { at } else { to - 1 };
        let behind = &window[to..];
        let separator = &checksum.separator[..];
        let there = behind.len().min(separator.len());
        if checksum.optional && !separator.is_empty() && behind[..there] != separator[..there] {
            return Candidate::Whole(parts);
        }
        let Some(sum) = behind.get(separator.len()..self.sum_bytes()) else {
            let follows = |start: &Vec<u8>| !behind.is_empty() && start.starts_with(behind);
            return match (self.last, checksum.optional) {
                (true, true) if behind.is_empty() => Candidate::Whole(parts),
                (true, _) if checksum.optional && self.framing.starts.iter().any(follows) => Candidate::Whole(parts),
                (true, _) => {
                    let shown = (self.start, at);
                    Candidate::Damaged { reason: RejectReason::Unfinished, shown, extent: Some(window.len()) }
                }
                (false, _) => Candidate::More(mark),
            };
        };
        let raw = &window[self.start..parts.payload];
        let unescaped = unescaped(self.framing.escape, raw);
        *cost += raw.len();
        let covered = [&window[..self.start], &[], unescaped.as_deref().unwrap_or(raw), &window[at..to]];
        if behind.starts_with(separator) && checksum.verifies(covered, sum) {
            let (bytes, verified) = (to + self.sum_bytes(), checksum.bits() > 0);
            return Candidate::Whole(Parts { bytes, verified, ..parts });
        }
        if checksum.optional && self.framing.starts.iter().any(|start| behind.starts_with(start)) {
            return Candidate::Whole(parts);
        }
        Candidate::Damaged {
            reason: RejectReason::Checksum,
            shown: (self.start, at),
            extent: Some(to + self.sum_bytes()),
        }
    }

    /// Nothing more comes, and `from` is where what is shown of the frame begins.
    fn unended(self, window: &[u8], from: usize) -> Candidate {
        let framing = self.framing;
        let shown = if framing.trim { trim_end(&window[from..]) } else { &window[from..] };
        let shown = (from, from + shown.len());
        let is_empty = shown.0 == shown.1 || framing.trim && window[shown.0..shown.1] == *b"\n";
        let emits = framing.checksum.is_none() && framing.idle.is_some_and(|idle| idle.policy == OnIdle::Emit);
        if emits && !is_empty {
            return Candidate::Whole(Parts { unended: true, ..self.bare(window.len()) });
        }
        if is_empty && framing.starts.is_empty() {
            return Candidate::Nothing;
        }
        Candidate::Damaged { reason: RejectReason::Unfinished, shown, extent: Some(window.len()) }
    }

    // ---- frames that end at a silence

    fn silenced(self, window: &[u8], cost: &mut usize) -> Candidate {
        let limit = self.start + raw_bytes_max(self.framing);
        let begun = self.mark.max(self.start).min(window.len());
        *cost += window.len() - begun;
        if self.framing.restart
            && let Ok(Stop::Start { at }) = stop(self.framing, window, self.start, self.mark)
            && at <= limit
        {
            return Candidate::Restart { at };
        }
        if window.len() > limit + self.sum_bytes() {
            return self.too_long(limit);
        }
        if !self.last {
            return Candidate::More(window.len());
        }
        let unended = Parts { unended: true, ..self.bare(window.len()) };
        let Some(checksum) = &self.framing.checksum else {
            let content = &window[self.start..];
            let is_empty = content.is_empty() || self.framing.trim && content.iter().all(|byte| is_white(*byte));
            return if is_empty { Candidate::Nothing } else { Candidate::Whole(unended) };
        };
        let Some(payload) = window.len().checked_sub(self.sum_bytes()).filter(|payload| *payload >= self.start) else {
            let shown = (self.start, window.len());
            return Candidate::Damaged { reason: RejectReason::Unfinished, shown, extent: Some(window.len()) };
        };
        let (data, behind) = (&window[self.start..payload], &window[payload..]);
        let is_right = |sum: &[u8]| checksum.verifies([&window[..self.start], &[], data, &[]], sum);
        if behind.strip_prefix(&checksum.separator[..]).is_some_and(is_right) {
            if data.is_empty() {
                return Candidate::Nothing;
            }
            let verified = checksum.bits() > 0;
            return Candidate::Whole(Parts { payload, end: (payload, payload), verified, ..unended });
        }
        Candidate::Damaged { reason: RejectReason::Checksum, shown: (self.start, payload), extent: Some(window.len()) }
    }

    // ---- frames of a known length

    fn counted(self, window: &[u8], field: Option<&LengthField>, cost: &mut usize) -> Candidate {
        if !self.last && window.len() < self.mark {
            return Candidate::More(self.mark);
        }
        let header = field.map_or(self.start, |field| field.offset + field.bytes);
        *cost += header;
        if window.len() < header {
            let (shown, extent) = ((self.start.min(window.len()), window.len()), Some(window.len()));
            let unfinished = Candidate::Damaged { reason: RejectReason::Unfinished, shown, extent };
            return if self.last { unfinished } else { Candidate::More(header) };
        }
        let keeps = field.is_some_and(|field| field.keep_header);
        let shown_from = if keeps { self.start } else { header };
        let trailer = field.map_or(0, |field| field.trailer_bytes);
        let behind = self.sum_bytes() + trailer;
        let record_max = payload_bytes_max(self.framing);
        let strict = self.framing.checksum.as_ref().is_some_and(|sum| sum.bits() > 0)
            || self.framing.oversized == Oversized::Drop;
        let most = if strict { record_max } else { RECORD_BYTES_MAX };
        let kept = header - shown_from;
        let bytes = match field {
            None => Some(self.fixed_bytes()),
            Some(field) => payload_bytes(field, &window[..header], behind).filter(|bytes| kept + bytes <= most),
        };
        let Some(bytes) = bytes else {
            let shown = (self.start, header);
            return Candidate::Damaged { reason: RejectReason::Length, shown, extent: Some(header) };
        };
        let payload = header + bytes;
        let parts = Parts { header, payload, end: (payload, payload), bytes: payload + behind, ..self.bare(payload) };
        if kept + bytes > record_max {
            let needed = shown_from + record_max;
            return match window.len() {
                has if has >= needed => Candidate::TooLong(Parts { payload: needed, ..parts }),
                _ if self.last => self.uncounted(window, shown_from),
                _ => Candidate::More(needed),
            };
        }
        if window.len() < parts.bytes {
            return if self.last { self.uncounted(window, shown_from) } else { Candidate::More(parts.bytes) };
        }
        let Some(checksum) = &self.framing.checksum else { return Candidate::Whole(parts) };
        *cost += bytes;
        let (separator, sum) = window[payload..payload + self.sum_bytes()].split_at(checksum.separator.len());
        let covered = [&window[..self.start], &window[self.start..header], &window[header..payload], &[]];
        if separator == checksum.separator && checksum.verifies(covered, sum) {
            return Candidate::Whole(Parts { verified: checksum.bits() > 0, ..parts });
        }
        Candidate::Damaged { reason: RejectReason::Checksum, shown: (shown_from, payload), extent: Some(parts.bytes) }
    }

    fn fixed_bytes(self) -> usize {
        if let FramingKind::Fixed { bytes } = self.framing.kind { bytes } else { 0 }
    }

    /// Nothing more comes for a frame of a known length.
    fn uncounted(self, window: &[u8], from: usize) -> Candidate {
        match self.unended(window, from) {
            Candidate::Whole(parts) => Candidate::Whole(Parts { header: from, ..parts }),
            _ => {
                let (shown, extent) = ((from, window.len()), Some(window.len()));
                Candidate::Damaged { reason: RejectReason::Unfinished, shown, extent }
            }
        }
    }
}

/// The checksum's bytes are at the end of the payload.
fn inside(parts: Parts, is_unescaped: bool, bytes: usize, verified: bool) -> Parts {
    if is_unescaped {
        Parts { sum_inside: bytes, verified, ..parts }
    } else {
        Parts { payload: parts.payload - bytes, verified, ..parts }
    }
}

pub(super) fn longest(needles: &[Vec<u8>]) -> usize {
    needles.iter().map(Vec::len).max().unwrap_or(0)
}

/// The longest header and payload that become a record: with what is kept of start and end they are one.
pub(super) fn payload_bytes_max(framing: &Framing) -> usize {
    framing.max_bytes.min(RECORD_BYTES_MAX - framing.kept_bytes_max())
}

/// Bytes between start and end of a frame that is not yet known to be too long.
fn raw_bytes_max(framing: &Framing) -> usize {
    let white = if framing.trim { 1 + WHITE_BYTES_MAX } else { 0 };
    let inside = framing.checksum.as_ref().filter(|sum| sum.place == Place::Before);
    let bytes = payload_bytes_max(framing) + white + inside.map_or(0, |sum| sum.separator.len() + sum.bytes());
    if framing.escape.is_some() { 2 * bytes } else { bytes }
}

/// Most bytes of a window that no look leaves undecided, where no other frame has to confirm it.
pub(super) fn reach_bytes(framing: &Framing) -> usize {
    let sum = framing.checksum.as_ref().map_or(0, |sum| sum.separator.len() + sum.bytes());
    let (ends, counted) = match &framing.kind {
        FramingKind::Delimiter { ends } => (longest(ends), 0),
        FramingKind::Length(field) => (0, field.offset + field.bytes + field.trailer_bytes),
        FramingKind::Fixed { .. } | FramingKind::IdleGap => (0, 0),
    };
    longest(&framing.starts) + raw_bytes_max(framing) + ends.max(longest(&framing.starts)) + counted + 2 * sum + 1
}

/// The payload's length by a whole header; `None` if no message can have it.
fn payload_bytes(field: &LengthField, header: &[u8], behind: usize) -> Option<usize> {
    let before = match field.counts {
        LengthCounts::Payload => 0,
        LengthCounts::Rest => behind,
        LengthCounts::Message => header.len() + behind,
    };
    let number = number(field.form, &header[field.offset..])? & field.mask;
    let bytes = i64::from(number) + i64::from(field.add) - before as i64;
    usize::try_from(bytes).ok().filter(|bytes| *bytes <= RECORD_BYTES_MAX)
}

fn number(form: NumberForm, bytes: &[u8]) -> Option<u32> {
    let fold = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
    let digits = |bytes: &[u8], radix: u32| {
        let mut digits = bytes.iter().map(|byte| char::from(*byte).to_digit(radix));
        digits.try_fold(0u32, |number, digit| number.checked_mul(radix)?.checked_add(digit?))
    };
    match form {
        NumberForm::Big => Some(bytes.iter().fold(0, fold)),
        NumberForm::Little => Some(bytes.iter().rev().fold(0, fold)),
        NumberForm::Hex => digits(bytes, 16),
        NumberForm::Decimal => {
            let zeros = bytes.iter().take_while(|byte| **byte == b' ').count();
            digits(&bytes[zeros..], 10).filter(|_| zeros < bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_each_form() {
        for (form, bytes, expected) in [
            (NumberForm::Big, &[1, 2, 3][..], Some(0x0001_0203)),
            (NumberForm::Little, &[1, 2, 3], Some(0x0003_0201)),
            (NumberForm::Big, &[0xFF; 4], Some(u32::MAX)),
            (NumberForm::Decimal, b"0042", Some(42)),
            (NumberForm::Decimal, b"  42", Some(42)),
            (NumberForm::Decimal, b"4 2", None),
            (NumberForm::Decimal, b"    ", None),
            (NumberForm::Decimal, b"99999999", Some(99_999_999)),
            (NumberForm::Hex, b"fF", Some(255)),
            (NumberForm::Hex, b"fg", None),
        ] {
            assert_eq!(number(form, bytes), expected, "{form:?} {bytes:?}");
        }
    }
}
