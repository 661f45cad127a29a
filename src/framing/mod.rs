//! Byte streams are cut into records.
//!
//! A [`Framer`] belongs to one port or connection. It sees bytes and `now`, and gives one frame a call; it never reads a
//! clock or a file. A record that lies whole in one chunk is a slice of that chunk; only the unfinished tail of a chunk is
//! copied. What a stream gives does not depend on how it was chunked, but for silences longer than an idle gap.
//!
//! A frame lies between its start and its end ([`Framing::starts`], [`FramingKind`]); the end may be the length of the frame,
//! or a silence. With `trim`, one leading LF and all trailing white space are taken off it; what remains is the record, and
//! its length is what counts against `max_bytes`. An empty frame is no record. A start inside a frame is data, unless the
//! framing restarts: then the end of the frame before was lost.
//!
//! ```text
//!  delimiter   one end and nothing else: the fast way
//!  window      all others: the tail, and what goes into it
//!    search      where the next frame is; what is evidence for it when the framer is out of step
//!      candidate   whether the bytes at one place are a frame: ends, lengths, checksums
//!        scan        starts, ends and escapes in bytes
//! ```
//!
//! A checksum is verified before anything of its frame is delivered. What is longer than a record may be cannot be verified
//! in bounded memory: with a checksum it is rejected.

mod candidate;
mod checksum;
mod delimiter;
mod hints;
mod matching;
mod scan;
mod search;
mod settings;
mod window;

pub use crate::ground::RecordFlags as FrameFlags;
pub use checksum::{Checksum, ChecksumForm, ChecksumKind, Covers, CrcName, Place};
pub use hints::{Hint, Hints, Look};
pub use matching::Matching;
pub use settings::{
    Escape, Framing, FramingKind, Idle, Keep, LengthCounts, LengthField, NumberForm, OnIdle, Oversized,
    RECORD_BYTES_MAX,
};

/// Most bytes that a [`Framed::Rejected`] carries as a sample.
pub const SAMPLE_BYTES: usize = 64;
/// Smallest allocation of a tail.
const TAIL_BYTES_MIN: usize = 64;

/// Why bytes did not become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Longer than `max_bytes`, with [`Oversized::Drop`].
    Oversized,
    /// The stream ended before the record did, or an idle gap came first.
    Unfinished,
    /// Its checksum is another one than that of its bytes.
    Checksum,
    /// Its length says less than the header has, or more than a record may have.
    Length,
    /// The stream was joined inside of it, or bytes of it were lost: what precedes the first end.
    Joined,
    /// It does not match [`Framing::matching`].
    NotMatched,
}

/// One frame of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A record.
    Record {
        /// At least one byte, at most `max_bytes`; a slice of the chunk or of the framer's tail.
        bytes: &'a [u8],
        /// The `now_ns` of the call that brought its first byte.
        first_byte_ns: u64,
        /// What is to be known about it.
        flags: FrameFlags,
    },
    /// Nothing, or nothing but what is trimmed, between two ends.
    Empty,
    /// Bytes that became no record; counted once a frame.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// Its first bytes, at most [`SAMPLE_BYTES`] and at most `max_bytes`.
        sample: &'a [u8],
    },
    /// Bytes outside of all frames. One stretch may come in several pieces.
    Garbage {
        /// The bytes: of the chunk, or equal to those that came earlier.
        bytes: &'a [u8],
        /// How many of them count: with `trim`, white space outside of frames does not.
        count: usize,
    },
}

impl Framed<'_> {
    /// As it is where the end of a stream is the end of no record.
    pub fn cut_off(self) -> Self {
        match self {
            Framed::Record { bytes, flags, .. } if flags.contains(FrameFlags::UNENDED) => {
                Framed::Rejected { reason: RejectReason::Unfinished, sample: &bytes[..bytes.len().min(SAMPLE_BYTES)] }
            }
            other => other,
        }
    }
}

/// Where the framer is between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// What comes next is the next frame, or what stands before it. What the tail holds has not been told yet.
    #[default]
    Between,
    /// The tail is the beginning of a frame; without a window only.
    Gathering,
    /// The frame is dealt with; `quiet` bytes of it are passed over.
    Passing,
    /// The frame is dealt with; its remaining bytes are passed over up to the next end.
    Discarding,
}

/// What is to be remembered of the stream between two calls: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Notes(u8);

impl Notes {
    /// The frame's leading LF was taken off before it entered the tail.
    const LED: Self = Self(1);
    /// The stream was joined inside: what ends next is no whole frame.
    const JOINED: Self = Self(1 << 1);
    /// Out of step; see [`search`].
    const ASTRAY: Self = Self(1 << 2);
    /// Nothing that comes belongs to what the tail holds.
    const CLOSED: Self = Self(1 << 3);
    /// The last search stopped since it has cost what it may.
    const STARVED: Self = Self(1 << 4);
    /// The stream is over.
    const FINISHING: Self = Self(1 << 5);
    /// Bytes were lost behind what the tail holds.
    const LOST: Self = Self(1 << 6);
    /// The stream is over, and what a search cannot afford is passed over.
    const GIVES_UP: Self = Self(1 << 7);

    /// Whether one of these is set.
    fn has(self, notes: Self) -> bool {
        self.0 & notes.0 != 0
    }

    fn set(&mut self, notes: Self) {
        self.0 |= notes.0;
    }

    fn clear(&mut self, notes: Self) {
        self.0 &= !notes.0;
    }
}

impl std::ops::BitOr for Notes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Cuts the stream of one port or connection into records.
///
/// Idle, it is 64 bytes or less and holds no memory beside. A tail in progress holds at most `max_bytes`, and beside them the
/// lengths of start, end, header and checksum, a leading LF and some white space; twice that where the next frame has to
/// confirm one, or where a byte of the record may be two on the line.
#[derive(Debug, Default)]
pub struct Framer {
    /// What has come and is not told yet; see [`delimiter`] and [`window`] for what of it is kept.
    tail: Vec<u8>,
    /// When the first byte of the tail came, with a window; else of the frame.
    first_byte_ns: u64,
    /// When the last byte of the stream came; with an idle gap only.
    last_byte_ns: u64,
    /// So many bytes in front of the tail were lent out by the last call, or are done with.
    spent_bytes: u32,
    /// How far the window was looked at; see [`candidate::Candidate::More`].
    mark: u32,
    /// So many bytes of the window belong to a frame that is rejected already.
    quiet: u32,
    /// Which byte of the window the first and the last one of `flags` were set before.
    flags_from: u32,
    flags_to: u32,
    /// Flags of the unfinished frame.
    flags: FrameFlags,
    state: State,
    notes: Notes,
    way: Way,
}

/// How a framing is followed: found out once a stream, since a framing has many parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Way {
    #[default]
    Unknown,
    /// [`delimiter`]
    Plain,
    /// [`window`]
    Window,
}

// Every connection has one.
const _: () = assert!(size_of::<Framer>() <= 64);

/// How an unfinished frame ends; positions in the tail.
#[derive(Debug)]
enum Verdict {
    /// What is there is delivered.
    Frame {
        from: usize,
        to: usize,
    },
    Rejected {
        reason: RejectReason,
        from: usize,
        to: usize,
    },
}

impl Framer {
    /// A framer at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame. Takes from the front of `input` what that frame needs; `None` means that all of `input` was taken
    /// and the rest is kept as an unfinished tail. `now_ns` is when `input` came; it never goes backwards.
    ///
    /// `framing` must be the same at every call.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
        self.next_within(framing, now_ns, input, &mut { usize::MAX })
    }

    /// As [`Framer::next`], where the search for the next frame of a stream that is out of step may cost `budget`: so many
    /// bytes are looked at or summed, and what they cost is taken off. [`search_bytes_max`] is what a turn may cost. Once
    /// the budget is used up the answer is `None`, with a part of `input` left, and [`Framer::is_starved`]: the caller
    /// keeps that part, and goes on with it, or with nothing if nothing is left, and with a new budget.
    pub fn next_within<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        now_ns: u64,
        input: &mut &'i [u8],
        budget: &mut usize,
    ) -> Option<Framed<'s>> {
        if self.way == Way::Unknown {
            self.way = if framing.is_plain() { Way::Plain } else { Way::Window };
        }
        let is_plain = self.way == Way::Plain;
        debug_assert_eq!(is_plain, framing.is_plain(), "the same framing at every call");
        if is_plain {
            self.drop_spent();
        }
        if framing.idle.is_some() {
            if self.is_overdue(framing, now_ns) {
                if !is_plain {
                    self.close(framing);
                } else if let Some(verdict) = self.cut_short(framing) {
                    return Some(self.lend(framing, verdict, FrameFlags::default()));
                }
            }
            if !input.is_empty() {
                self.last_byte_ns = now_ns;
            }
        }
        if !is_plain {
            return self.next_in_window(framing, now_ns, input, budget);
        }
        // Whatever this call gives ends what was joined inside.
        let joined = self.notes.has(Notes::JOINED);
        let end: &[u8] = if let FramingKind::Delimiter { ends } = &framing.kind { &ends[0] } else { &[] };
        let framed = self.next_delimited(framing, end, now_ns, input);
        if joined { framed.map(|framed| joined_inside(framing, framed)) } else { framed }
    }

    /// Whether the last search stopped since its budget was used up: there may be more to say without another byte.
    pub fn is_starved(&self) -> bool {
        self.notes.has(Notes::STARVED)
    }

    /// The stream is joined inside, or bytes of it were lost: whatever is unfinished, and whatever precedes the first end
    /// (of a framing without one, the first gap), is rejected as [`RejectReason::Joined`]. With a start, only what is
    /// unfinished is: the next frame begins at the next start. With a length or a fixed size and a checksum the framer is
    /// out of step.
    pub fn join_inside(&mut self, framing: &Framing) {
        if !framing.is_plain() {
            self.join_window(framing);
        } else if self.state != State::Discarding {
            self.notes.set(Notes::JOINED);
        }
    }

    /// When [`Framer::handle_deadline`] has something to say unless bytes come before, in the nanoseconds of `now_ns`.
    pub fn deadline_ns(&self, framing: &Framing) -> Option<u64> {
        let idle = framing.idle.as_ref()?;
        // Of what is discarded the next byte will tell.
        let waits = if framing.is_plain() { self.state == State::Gathering } else { self.has_window() };
        waits.then(|| self.last_byte_ns.saturating_add(idle.gap.as_nanos() as u64))
    }

    /// Time has passed without a byte: what an idle gap ended, if it did. It may be several frames: it is called until there
    /// is none. It need not be called: the next calls of [`Framer::next`] say the same, only later.
    pub fn handle_deadline<'s>(&'s mut self, framing: &'s Framing, now_ns: u64) -> Option<Framed<'s>> {
        if framing.is_plain() {
            self.drop_spent();
            if !self.is_overdue(framing, now_ns) {
                return None;
            }
            let verdict = self.cut_short(framing)?;
            return Some(self.lend(framing, verdict, FrameFlags::default()));
        }
        if self.is_overdue(framing, now_ns) {
            self.close(framing);
        }
        if !self.notes.has(Notes::CLOSED) {
            return None;
        }
        self.next_in_window(framing, now_ns, &mut &[][..], &mut { usize::MAX })
    }

    /// The silence begins anew: nothing was read up to now, so nothing is known about it.
    pub fn restart_silence(&mut self, now_ns: u64) {
        self.last_byte_ns = now_ns;
    }

    /// The stream ended: what is unfinished is rejected, or delivered if a gap would have done so, and the framer is at the
    /// beginning of a new stream. It may be several frames: it is called until there is none. `None` if nothing was
    /// unfinished, or nothing but what is trimmed, or the remainder of a record that is dealt with.
    pub fn finish<'s>(&'s mut self, framing: &'s Framing) -> Option<Framed<'s>> {
        self.finish_within(framing, &mut { usize::MAX }, false)
    }

    /// As [`Framer::finish`], where all calls of a turn together may search for `budget`. Once that is used up the answer is
    /// `None`, and [`Framer::is_starved`]: it is called again with a new one. One that `gives_up` has no more turns: what it
    /// cannot afford is garbage.
    pub fn finish_within<'s>(
        &'s mut self,
        framing: &'s Framing,
        budget: &mut usize,
        gives_up: bool,
    ) -> Option<Framed<'s>> {
        if framing.is_plain() {
            self.drop_spent();
            let verdict = self.cut_short(framing);
            if verdict.is_none() {
                self.notes = Notes::default();
            }
            return Some(self.lend(framing, verdict?, FrameFlags::UNENDED));
        }
        if !self.has_window() {
            *self = Self::default();
            return None;
        }
        self.notes.set(Notes::CLOSED | Notes::FINISHING);
        if gives_up {
            self.notes.set(Notes::GIVES_UP);
        }
        self.next_in_window(framing, u64::MAX, &mut &[][..], budget)
    }

    /// Whether what comes next may be the rest of a record, though nothing of it is held.
    pub fn is_inside(&self) -> bool {
        self.notes.has(Notes::JOINED) || matches!(self.state, State::Discarding | State::Passing)
    }

    /// Whether no frame is unfinished.
    pub fn is_empty(&self) -> bool {
        !self.has_window() && self.state == State::Between
    }

    /// Memory held beyond its own size, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.tail.capacity()
    }

    /// Flags the unfinished frame, or the one that the next byte begins: a line error was seen in it.
    pub fn flag(&mut self, flags: FrameFlags) {
        if flags.is_empty() {
            return;
        }
        let at = self.tail.len() as u32 - self.spent_bytes;
        self.flags_from = if self.flags.is_empty() { at } else { self.flags_from.min(at) };
        self.flags_to = at;
        self.flags |= flags;
    }

    /// Drops what the last call lent out, and the memory with it unless a frame goes on.
    fn drop_spent(&mut self) {
        if self.spent_bytes == 0 {
            return;
        }
        let kept = &self.tail[self.spent_bytes as usize..];
        self.tail = kept.to_vec(); // an empty Vec has no memory; what is kept is shorter than a delimiter
        self.spent_bytes = 0;
    }

    /// A frame begins, unless one has begun already.
    fn begin(&mut self, now_ns: u64) {
        if self.state == State::Between {
            self.state = State::Gathering;
            self.first_byte_ns = now_ns;
        }
    }

    /// The state between two frames; the tail is the caller's.
    fn begin_frame(&mut self) {
        self.state = State::Between;
        self.flags = FrameFlags::default();
        self.notes = Notes::default();
    }

    /// Whether there is something that a silence up to now has ended.
    fn is_overdue(&self, framing: &Framing, now_ns: u64) -> bool {
        let Some(idle) = &framing.idle else { return false };
        let begun = if framing.is_plain() {
            self.state != State::Between || self.notes.has(Notes::LED)
        } else {
            self.is_begun() && !self.notes.has(Notes::CLOSED)
        };
        begun && now_ns.saturating_sub(self.last_byte_ns) >= idle.gap.as_nanos() as u64
    }

    /// Nothing more comes for this frame: what becomes of it, for [`Framer::lend`]. `None` if there is nothing to say; the
    /// framer is then between two frames.
    fn cut_short(&mut self, framing: &Framing) -> Option<Verdict> {
        let emits = framing.idle.is_some_and(|idle| idle.policy == OnIdle::Emit);
        let emit = emits || framing.kind == FramingKind::IdleGap; // there, the gap is the end
        let verdict = if self.state == State::Discarding { None } else { self.cut_delimited(framing, emit) };
        if verdict.is_none() {
            self.tail = Vec::new();
            self.begin_frame();
        }
        verdict
    }

    /// Lends out what a verdict is about. `more` are flags for a frame that would have none.
    fn lend<'s>(&'s mut self, framing: &'s Framing, verdict: Verdict, more: FrameFlags) -> Framed<'s> {
        let unended = match framing.kind {
            FramingKind::IdleGap => more,
            _ => FrameFlags::UNENDED,
        };
        let (flags, joined) = (self.flags | unended, self.notes.has(Notes::JOINED));
        self.begin_frame();
        self.spent_bytes = self.tail.len() as u32;
        let framed = match verdict {
            Verdict::Frame { from, to } => whole(framing, &self.tail[from..to], false, self.first_byte_ns, flags),
            Verdict::Rejected { reason, from, to } => {
                Framed::Rejected { reason, sample: sample(&self.tail[from..to], framing.max_bytes) }
            }
        };
        if joined { joined_inside(framing, framed) } else { framed }
    }

    /// How many of a frame's bytes in the tail, or in `first`'s slice, are the leading LF that trimming takes off: 0 or 1.
    fn lead_bytes(&self, trim: bool, first: Option<&u8>) -> usize {
        usize::from(trim && !self.notes.has(Notes::LED) && first == Some(&b'\n'))
    }

    /// Appends to the tail; its capacity doubles up to `cap` bytes, which the caller does not exceed.
    fn extend(&mut self, bytes: &[u8], cap: usize) {
        let needed = self.tail.len() + bytes.len();
        debug_assert!(needed <= cap);
        if needed > self.tail.capacity() {
            let target = needed.max(2 * self.tail.capacity()).max(TAIL_BYTES_MIN).min(cap.max(needed));
            self.tail.reserve_exact(target - self.tail.len());
        }
        self.tail.extend_from_slice(bytes);
    }
}

/// What a frame is that was joined inside.
fn joined_inside<'a>(framing: &Framing, framed: Framed<'a>) -> Framed<'a> {
    match framed {
        Framed::Record { bytes: sample_of, .. } | Framed::Rejected { sample: sample_of, .. } => {
            Framed::Rejected { reason: RejectReason::Joined, sample: sample(sample_of, framing.max_bytes) }
        }
        Framed::Empty | Framed::Garbage { .. } => framed,
    }
}

/// What the search of a link may cost in one turn: in bytes that are looked at or summed.
pub fn search_bytes_max(framing: &Framing) -> usize {
    8 * framing.max_bytes
}

/// Space, HT, LF, VT, FF, CR: what trimming takes off an end.
fn is_white(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| !is_white(byte)).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// The first bytes of a record, of which more than `max_bytes` may not be at hand.
fn sample(bytes: &[u8], max_bytes: usize) -> &[u8] {
    &bytes[..bytes.len().min(SAMPLE_BYTES).min(max_bytes)]
}

/// The frame for a whole frame's bytes behind their leading LF, or for those of them that are kept: `max_bytes` or more if
/// it is `overlong`.
fn whole<'a>(framing: &Framing, bytes: &'a [u8], overlong: bool, first_byte_ns: u64, flags: FrameFlags) -> Framed<'a> {
    let bytes = if framing.trim && !overlong { trim_end(bytes) } else { bytes };
    if bytes.is_empty() {
        return Framed::Empty;
    }
    deliver(framing, bytes, overlong || bytes.len() > framing.max_bytes, first_byte_ns, flags)
}

/// The frame for a record's bytes (trimmed, not empty) of which `max_bytes` or more are at hand.
fn deliver<'a>(
    framing: &Framing,
    bytes: &'a [u8],
    oversized: bool,
    first_byte_ns: u64,
    flags: FrameFlags,
) -> Framed<'a> {
    match (oversized, framing.oversized) {
        (true, Oversized::Drop) => {
            Framed::Rejected { reason: RejectReason::Oversized, sample: sample(bytes, framing.max_bytes) }
        }
        _ if framing
            .matching
            .as_ref()
            .is_some_and(|matching| !matching.accepts(&bytes[..bytes.len().min(framing.max_bytes)])) =>
        {
            Framed::Rejected { reason: RejectReason::NotMatched, sample: sample(bytes, framing.max_bytes) }
        }
        (false, _) => Framed::Record { bytes, first_byte_ns, flags },
        (true, Oversized::Cut) => {
            Framed::Record { bytes: &bytes[..framing.max_bytes], first_byte_ns, flags: flags | FrameFlags::CUT }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_framer_is_small_and_holds_no_memory() {
        assert!(size_of::<Framer>() <= 64, "{} bytes", size_of::<Framer>());
        let framing = Framing::default();
        let mut framer = Framer::new();
        for chunk in [&b"a record in "[..], b"two chunks\r", b"\nand one whole\r\n"] {
            let mut input = chunk;
            while framer.next(&framing, 1, &mut input).is_some() {}
            assert!(input.is_empty());
        }
        assert!(framer.is_empty());
        assert_eq!(framer.tail.capacity(), 0);
    }

    #[test]
    fn a_huge_tail_is_not_kept() {
        let framing = Framing { max_bytes: 1 << 20, ..Framing::default() };
        let mut framer = Framer::new();
        let half = vec![b'x'; 1 << 19];
        assert_eq!(framer.next(&framing, 1, &mut &half[..]), None);
        assert!(framer.tail.capacity() >= 1 << 19);
        let mut input = &b"\rnext"[..];
        assert!(matches!(framer.next(&framing, 2, &mut input), Some(Framed::Record { bytes, .. }) if bytes == half));
        assert_eq!(framer.next(&framing, 3, &mut input), None);
        assert!(framer.tail.capacity() <= 64, "{}", framer.tail.capacity());
        let _ = framer.finish(&framing);
        assert_eq!(framer.finish(&framing), None);
        assert_eq!(framer.tail.capacity(), 0);
    }

    #[test]
    fn trimming_takes_white_space_off_the_end_only() {
        assert_eq!(trim_end(b" a b \t\r\n\x0b\x0c "), b" a b");
        assert_eq!(trim_end(b" \r\n"), b"");
        assert_eq!(trim_end(b"\0\xff\0"), b"\0\xff\0");
    }

    #[test]
    fn the_tail_never_outgrows_its_bound() {
        use proptest::prelude::*;
        let framings = (1usize..6, 1usize..300, any::<bool>(), any::<bool>());
        let chunks =
            prop::collection::vec(prop::collection::vec(prop::sample::select(b"-- \nxy".to_vec()), 0..200), 0..40);
        proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(
            (end_bytes, max_bytes, trim, cut) in framings,
            chunks in chunks,
        )| {
            let framing = Framing {
                kind: FramingKind::Delimiter { ends: vec![vec![b'-'; end_bytes]] },
                trim,
                max_bytes,
                oversized: if cut { Oversized::Cut } else { Oversized::Drop },
                ..Framing::default()
            };
            let bound = (max_bytes + 1 + end_bytes).max(64);
            let mut framer = Framer::new();
            for chunk in &chunks {
                let mut input = &chunk[..];
                while framer.next(&framing, 0, &mut input).is_some() {}
                prop_assert!(framer.tail.capacity() <= bound, "{} > {bound}", framer.tail.capacity());
                prop_assert!(!framer.is_empty() || framer.tail.capacity() == 0);
            }
        });
    }
    #[test]
    fn no_kind_of_framing_outgrows_its_bound_whatever_comes() {
        use crate::framing::{Idle, LengthCounts, LengthField, NumberForm};
        use proptest::prelude::*;
        let length = |bytes, counts, keep_header| {
            FramingKind::Length(LengthField::plain(2, bytes, NumberForm::Big, counts, keep_header))
        };
        let kinds = vec![
            FramingKind::Delimiter { ends: vec![b"--".to_vec()] },
            FramingKind::IdleGap,
            FramingKind::Fixed { bytes: 300 },
            length(1, LengthCounts::Payload, false),
            length(2, LengthCounts::Rest, true),
            length(4, LengthCounts::Message, false),
        ];
        let checksums = vec![None, Some(ChecksumKind::Xor8), Some(ChecksumKind::Crc(CrcName::Crc32IsoHdlc))];
        let framings = (prop::sample::select(kinds), prop::sample::select(checksums), 1usize..300, any::<[bool; 4]>());
        let chunks =
            prop::collection::vec(prop::collection::vec(prop::sample::select(b"-- \n\x02\0x".to_vec()), 0..300), 0..60);
        proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(
            (kind, checksum, max_bytes, [has_start, has_gap, trim, cut]) in framings,
            chunks in chunks,
        )| {
            let max_bytes = if let FramingKind::Fixed { bytes } = kind { bytes } else { max_bytes };
            let gap = std::time::Duration::from_nanos(5);
            let framing = Framing {
                idle: (has_gap || kind == FramingKind::IdleGap).then_some(Idle { gap, policy: OnIdle::Emit }),
                starts: if has_start { vec![vec![2]] } else { Vec::new() },
                checksum: checksum.map(Checksum::short),
                kind, trim, max_bytes,
                oversized: if cut { Oversized::Cut } else { Oversized::Drop },
                ..Framing::default()
            };
            // A frame that the next one has to confirm is kept with it.
            let bound = candidate::reach_bytes(&framing);
            let mut framer = Framer::new();
            for (now_ns, chunk) in chunks.iter().enumerate() {
                let mut input = &chunk[..];
                while framer.next(&framing, now_ns as u64, &mut input).is_some() {}
                prop_assert!(framer.tail.capacity() <= 2 * bound + TAIL_BYTES_MIN, "{}", framer.tail.capacity());
                prop_assert!(!framer.is_empty() || framer.tail.capacity() == 0);
            }
            while framer.handle_deadline(&framing, 1_000).is_some() {}
            prop_assert!(!has_gap || framer.tail.capacity() == 0);
        });
    }
}
