//! Byte streams are cut into records.
//!
//! A [`Framer`] belongs to one port or connection. It sees bytes and `now`, and gives one frame a call; it never reads a
//! clock or a file. A record that lies whole in one chunk is a slice of that chunk; only the unfinished tail of a chunk is
//! copied. What a stream gives does not depend on how it was chunked.
//!
//! A frame is what lies between two delimiters. With `trim`, one leading LF and all trailing white space are taken off it
//! first; what remains is the record, and its length is what counts against `max_bytes`. An empty frame is no record.

use crate::config::{Framing, FramingKind, Oversized};

mod delimiter;

/// Most bytes that a [`Framed::Rejected`] carries as a sample.
pub const SAMPLE_BYTES: usize = 64;

/// What is to be known about a record beside its bytes: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct FrameFlags(pub u8);

impl FrameFlags {
    /// Longer than `max_bytes`: these are its first bytes.
    pub const CUT: Self = Self(1);
    /// A byte of it came with a parity or framing error.
    pub const LINE_ERROR: Self = Self(1 << 1);
    /// The line was in the break state while it was received.
    pub const BREAK: Self = Self(1 << 2);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no bit is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for FrameFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for FrameFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Why bytes did not become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Longer than `max_bytes`, with [`Oversized::Drop`].
    Oversized,
    /// The stream ended before the record did.
    Unfinished,
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
}

/// Where the framer is between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// The tail is the beginning of a frame.
    #[default]
    Gathering,
    /// The frame was too long and is dealt with; its remaining bytes are passed over up to the next end.
    Discarding,
}

/// Cuts the stream of one port or connection into records.
///
/// Idle, it is 64 bytes or less and holds no memory beside. A tail in progress holds at most `max_bytes`, the
/// delimiter's length and one byte for a leading LF.
#[derive(Debug, Default)]
pub struct Framer {
    /// The unfinished frame; see [`delimiter`] for what of it is kept.
    tail: Vec<u8>,
    /// So many bytes in front of the tail were lent out by the last call and are dropped by the next one.
    spent_bytes: usize,
    /// When the first byte of the tail came.
    first_byte_ns: u64,
    /// Flags of the unfinished frame.
    flags: FrameFlags,
    state: State,
    /// The frame's leading LF was taken off before it entered the tail.
    led: bool,
}

impl Framer {
    /// A framer at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame. Takes from the front of `input` what that frame needs; `None` means that all of `input` was taken
    /// and the rest is kept as an unfinished tail. `now_ns` is when `input` came.
    ///
    /// `framing` must be the same at every call.
    pub fn next<'s, 'i: 's>(&'s mut self, framing: &Framing, now_ns: u64, input: &mut &'i [u8]) -> Option<Framed<'s>> {
        self.drop_spent();
        match &framing.kind {
            FramingKind::Delimiter { end } => self.next_delimited(framing, end, now_ns, input),
        }
    }

    /// The stream ended: what is unfinished is rejected, and the framer is at the beginning of a new stream. `None` if
    /// nothing was unfinished, or nothing but what is trimmed, or the remainder of a record that is dealt with.
    pub fn finish(&mut self, framing: &Framing) -> Option<Framed<'_>> {
        self.drop_spent();
        let skip = match &framing.kind {
            FramingKind::Delimiter { .. } => self.lead_bytes(framing.trim, self.tail.first()),
        };
        let end = if framing.trim { trim_end(&self.tail).len() } else { self.tail.len() };
        let nothing = self.state == State::Discarding || end <= skip;
        self.begin_frame();
        if nothing {
            self.tail = Vec::new();
            return None;
        }
        self.spent_bytes = self.tail.len();
        Some(Framed::Rejected {
            reason: RejectReason::Unfinished,
            sample: sample(&self.tail[skip..end], framing.max_bytes),
        })
    }

    /// Whether no frame is unfinished.
    pub fn is_empty(&self) -> bool {
        self.tail.len() == self.spent_bytes && self.state == State::Gathering
    }

    /// Flags the unfinished frame, or the one that the next byte begins: a line error was seen in it.
    pub fn flag(&mut self, flags: FrameFlags) {
        self.flags |= flags;
    }

    /// Drops what the last call lent out, and the memory with it unless a frame goes on.
    fn drop_spent(&mut self) {
        if self.spent_bytes == 0 {
            return;
        }
        let kept = &self.tail[self.spent_bytes..];
        self.tail = kept.to_vec(); // an empty Vec has no memory; what is kept is shorter than a delimiter
        self.spent_bytes = 0;
    }

    /// The state at the beginning of a frame; the tail is the caller's.
    fn begin_frame(&mut self) {
        self.state = State::Gathering;
        self.flags = FrameFlags::default();
        self.led = false;
    }

    /// How many of a frame's bytes in the tail, or in `first`'s slice, are the leading LF that trimming takes off: 0 or 1.
    fn lead_bytes(&self, trim: bool, first: Option<&u8>) -> usize {
        usize::from(trim && !self.led && first == Some(&b'\n'))
    }
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

/// The frame for a record's bytes (trimmed, not empty) of which `max_bytes` or more are at hand.
fn deliver<'a>(
    framing: &Framing,
    bytes: &'a [u8],
    oversized: bool,
    first_byte_ns: u64,
    flags: FrameFlags,
) -> Framed<'a> {
    match (oversized, framing.oversized) {
        (false, _) => Framed::Record { bytes, first_byte_ns, flags },
        (true, Oversized::Cut) => {
            Framed::Record { bytes: &bytes[..framing.max_bytes], first_byte_ns, flags: flags | FrameFlags::CUT }
        }
        (true, Oversized::Drop) => {
            Framed::Rejected { reason: RejectReason::Oversized, sample: sample(bytes, framing.max_bytes) }
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
                kind: FramingKind::Delimiter { end: vec![b'-'; end_bytes] },
                trim,
                max_bytes,
                oversized: if cut { Oversized::Cut } else { Oversized::Drop },
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
}
