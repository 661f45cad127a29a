//! How a byte stream is to be cut: what `[framing.NAME]` says, checked.
//!
//! ```text
//!  message   start   header (offset … length)   payload   [separator checksum]   end   [separator checksum]   trailer
//! ```
//! A framing has at most one checksum, before or behind its end. Only a framing with a length has a header and a trailer.

use super::checksum::{Checksum, ChecksumForm, ChecksumKind, Covers, Place};
use super::matching::Matching;
use std::time::Duration;

/// The largest record of any source, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// `[framing.NAME]`: how a byte stream is cut into records.
#[derive(Debug, Clone, PartialEq)]
pub struct Framing {
    /// How the end of a record is found.
    pub kind: FramingKind,
    /// A record follows one of these, none of which is empty; what stands before it is garbage. Without any, one record
    /// follows the other.
    pub starts: Vec<Vec<u8>>,
    /// What of start and end is part of the record.
    pub keep: Keep,
    /// A start inside a frame rejects what came and begins a new one.
    pub restart: bool,
    /// How a byte that would be an end is written inside of a record.
    pub escape: Option<Escape>,
    /// What verifies a record.
    pub checksum: Option<Checksum>,
    /// Bytes that mean nothing between records.
    pub ignore: Vec<u8>,
    /// Only the low seven bits of each byte count.
    pub strip_bit7: bool,
    /// Silence that ends an unfinished record.
    pub idle: Option<Idle>,
    /// Strip a leading LF and trailing white space.
    pub trim: bool,
    /// Longest record in bytes, without start, end and checksum; at most [`RECORD_BYTES_MAX`].
    pub max_bytes: usize,
    /// What is done with a longer one.
    pub oversized: Oversized,
    /// A record that does not match is rejected.
    pub matching: Option<Matching>,
}

/// What of start and end is part of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The start.
    pub start: bool,
    /// The end.
    pub end: bool,
}

/// How a byte that would be an end is written inside of a record. Record and checksum are over the bytes that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// DLE (0x10) twice is one of data; starts and ends begin with one. DLE and anything else is damage.
    Dle,
    /// RFC 1055: 0xDB 0xDC is 0xC0, 0xDB 0xDD is 0xDB. 0xDB and anything else is damage.
    Slip,
}

/// How the end of a record is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FramingKind {
    /// A record ends at the first of these.
    Delimiter {
        /// One or more, none of them empty.
        ends: Vec<Vec<u8>>,
    },
    /// A number in front of a record says how long it is.
    Length(LengthField),
    /// Every record has the same length.
    Fixed {
        /// That length, 1 to `max_bytes`.
        bytes: usize,
    },
    /// A record ends when nothing comes for the time of [`Framing::idle`], which is there.
    IdleGap,
}

/// Where the length of a message stands, and what it counts. A message is: start, header up to the end of this field,
/// payload, checksum, trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthField {
    /// Where it begins, from the first byte of the message; at least the length of the longest start.
    pub offset: usize,
    /// Its own width: 1 to 4 bytes, or 1 to 8 characters.
    pub bytes: usize,
    /// How it is written.
    pub form: NumberForm,
    /// Which bits of the number count.
    pub mask: u32,
    /// Added to the number.
    pub add: i32,
    /// What it counts.
    pub counts: LengthCounts,
    /// Bytes behind payload and checksum that belong to the message but not to the record.
    pub trailer_bytes: usize,
    /// Whether the header is part of the record.
    pub keep_header: bool,
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberForm {
    /// Bytes, the most significant one first.
    Big,
    /// Bytes, the least significant one first.
    Little,
    /// Decimal characters; spaces may stand for leading zeros.
    Decimal,
    /// Hexadecimal characters in either case.
    Hex,
}

/// What a length counts, once its mask and its `add` are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthCounts {
    /// The bytes behind the length, without checksum and trailer.
    Payload,
    /// All bytes behind the length.
    Rest,
    /// All bytes of the message, its start and the length itself included.
    Message,
}

/// Silence that ends an unfinished record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// So long without a byte.
    pub gap: Duration,
    /// What becomes of the record; [`OnIdle::Emit`] where the gap alone ends records.
    pub policy: OnIdle,
}

/// What becomes of a record that silence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIdle {
    /// It is rejected.
    Discard,
    /// It is delivered, flagged.
    Emit,
}

/// What is done with a record longer than `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// Deliver the first `max_bytes`, flagged; discard up to the next end.
    Cut,
    /// Discard all of it and count it as rejected.
    Drop,
}

impl Checksum {
    /// The short forms: binary, least significant byte first, behind the end, over header and payload.
    pub const fn short(kind: ChecksumKind) -> Self {
        Self {
            kind,
            form: ChecksumForm::Binary { big: false },
            digits: false,
            covers: Covers { start: false, header: true, end: false },
            place: Place::Behind,
            separator: Vec::new(),
            optional: false,
        }
    }
}

impl LengthField {
    /// A field whose number counts as it stands, before a payload that nothing but a checksum follows.
    pub const fn plain(offset: usize, bytes: usize, form: NumberForm, counts: LengthCounts, keep_header: bool) -> Self {
        Self { offset, bytes, form, mask: u32::MAX, add: 0, counts, trailer_bytes: 0, keep_header }
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            kind: FramingKind::Delimiter { ends: vec![b"\r".to_vec()] },
            starts: Vec::new(),
            keep: Keep::default(),
            restart: false,
            escape: None,
            checksum: None,
            ignore: Vec::new(),
            strip_bit7: false,
            idle: None,
            trim: true,
            max_bytes: 4096,
            oversized: Oversized::Drop,
            matching: None,
        }
    }
}

impl Framing {
    /// The longest record, with what is kept of start and end, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        (self.max_bytes + self.kept_bytes_max()).min(RECORD_BYTES_MAX)
    }

    /// Whether its records end at one delimiter, or at a silence, and nothing else is to be known of it.
    pub(super) fn is_plain(&self) -> bool {
        let is_plain = match &self.kind {
            FramingKind::Delimiter { ends } => ends.len() == 1,
            FramingKind::IdleGap => true,
            FramingKind::Length(_) | FramingKind::Fixed { .. } => false,
        };
        is_plain
            && self.starts.is_empty()
            && self.checksum.is_none()
            && self.escape.is_none()
            && self.ignore.is_empty()
            && !self.keep.end
    }

    /// Whether the next frame can be found behind a false start, from the next byte on.
    pub(super) fn is_searchable(&self) -> bool {
        let is_counted = matches!(self.kind, FramingKind::Length(_) | FramingKind::Fixed { .. });
        !self.starts.is_empty() || is_counted && self.checksum.as_ref().is_some_and(|sum| sum.bits() > 0)
    }

    /// Whether the end of a stream, or a silence, may be the end of a record.
    pub fn gives_at_end(&self) -> bool {
        self.idle.is_some() || !self.is_plain()
    }

    /// Bytes of start and end that are part of a record, at most.
    pub(super) fn kept_bytes_max(&self) -> usize {
        let longest = |list: &[Vec<u8>]| list.iter().map(Vec::len).max().unwrap_or(0);
        let ends = if let FramingKind::Delimiter { ends } = &self.kind { longest(ends) } else { 0 };
        let starts = if self.keep.start { longest(&self.starts) } else { 0 };
        starts + if self.keep.end { ends } else { 0 }
    }

    /// Does to bytes what comes before everything else; see [`Framing::strip_bit7`].
    pub fn prepare(&self, bytes: &mut [u8]) {
        if self.strip_bit7 {
            bytes.iter_mut().for_each(|byte| *byte &= 0x7F);
        }
    }
}
