//! Delimiter framing: a record ends at one or more bytes that are not part of it.
//!
//! What the tail keeps of a frame, so that memory is bounded and nothing is decided too early:
//! ```text
//!  frame so far   [LF] b b b … b b b w w w … w w w ? ?
//!                 └──── limit bytes ────┘ └ white ┘ └┴─ may be the first bytes of the delimiter
//!  tail           [LF] b b b … b b b                ? ?
//! ```
//! `limit` is `max_bytes`, and one more for a leading LF that trimming will take off. Beyond it, white space is forgotten
//! when trimming (it does not count unless something else follows), and anything else makes the frame oversized at once.
//! The last bytes, fewer than the delimiter has, are kept until it is known whether the delimiter begins there.
//! The last bytes of the tail are therefore always the last bytes of the stream.

use super::{Framed, Framer, State, deliver, is_white, trim_end};
use crate::config::Framing;

/// Smallest allocation of a tail.
const TAIL_BYTES_MIN: usize = 64;

impl Framer {
    pub(super) fn next_delimited<'s, 'i: 's>(
        &'s mut self,
        framing: &Framing,
        end: &[u8],
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
        debug_assert!(!end.is_empty());
        if self.state == State::Discarding && !self.pass_over(end, input) {
            return None;
        }
        if self.tail.is_empty() {
            self.whole_or_begin(framing, end, now_ns, input)
        } else {
            self.go_on(framing, end, input)
        }
    }

    /// Nothing is kept of this frame: if its end is in `input`, it is a slice of it.
    fn whole_or_begin<'s, 'i: 's>(
        &'s mut self,
        framing: &Framing,
        end: &[u8],
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
        // The LF of CR LF comes with the record before and must not count as the first byte of the next one. Where the
        // delimiter itself begins with LF, it is taken off only when the frame is whole.
        if end[0] != b'\n' && self.lead_bytes(framing.trim, input.first()) == 1 {
            self.led = true;
            *input = &input[1..];
        }
        let bytes = *input;
        let Some(at) = find(bytes, end) else {
            if bytes.is_empty() {
                return None;
            }
            self.first_byte_ns = now_ns;
            let limit = framing.max_bytes + self.lead_bytes(framing.trim, bytes.first());
            // One copy at most, even of a chunk that is far too long.
            let front = &bytes[..bytes.len().min(limit)];
            self.extend(front, limit + end.len());
            *input = &bytes[front.len()..];
            return if input.is_empty() { None } else { self.absorb_unended(framing, end, input) };
        };
        *input = &bytes[at + end.len()..];
        let record = &bytes[self.lead_bytes(framing.trim, bytes[..at].first())..at];
        let record = if framing.trim { trim_end(record) } else { record };
        let flags = self.flags;
        self.begin_frame();
        if record.is_empty() {
            return Some(Framed::Empty);
        }
        Some(deliver(framing, record, record.len() > framing.max_bytes, now_ns, flags))
    }

    /// The frame began in an earlier chunk.
    fn go_on<'s, 'i: 's>(&'s mut self, framing: &Framing, end: &[u8], input: &mut &'i [u8]) -> Option<Framed<'s>> {
        let bytes = *input;
        if let Some(kept) = straddle(&self.tail, bytes, end) {
            *input = &bytes[end.len() - kept..];
            self.tail.truncate(self.tail.len() - kept);
            return Some(self.end_frame(framing, end, &[]));
        }
        if let Some(at) = find(bytes, end) {
            *input = &bytes[at + end.len()..];
            return Some(self.end_frame(framing, end, &bytes[..at]));
        }
        self.absorb_unended(framing, end, input)
    }

    /// `last` are the frame's last bytes; the delimiter follows.
    fn end_frame(&mut self, framing: &Framing, end: &[u8], last: &[u8]) -> Framed<'_> {
        let lead = self.lead_bytes(framing.trim, self.tail.first().or(last.first()));
        let limit = framing.max_bytes + lead;
        let (_, oversized) = self.absorb(last, 0, limit, framing.trim, end.len());
        let flags = self.flags;
        if self.tail.is_empty() {
            self.tail = Vec::new(); // all of it was delimiter: there is nothing to lend out, so free it now
        }
        self.spent_bytes = self.tail.len();
        self.begin_frame();
        let record = &self.tail[lead.min(self.tail.len())..];
        if oversized {
            return deliver(framing, record, true, self.first_byte_ns, flags);
        }
        let record = if framing.trim { trim_end(record) } else { record };
        if record.is_empty() {
            return Framed::Empty;
        }
        deliver(framing, record, false, self.first_byte_ns, flags)
    }

    /// No end is in sight: keeps what the tail has to keep; a frame that is now known to be too long is dealt with.
    fn absorb_unended<'s, 'i: 's>(
        &'s mut self,
        framing: &Framing,
        end: &[u8],
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
        let lead = self.lead_bytes(framing.trim, self.tail.first());
        let limit = framing.max_bytes + lead;
        let (taken, oversized) = self.absorb(input, end.len() - 1, limit, framing.trim, end.len());
        *input = &input[taken..];
        if !oversized {
            return None;
        }
        self.state = State::Discarding;
        self.spent_bytes = limit;
        Some(deliver(framing, &self.tail[lead..limit], true, self.first_byte_ns, self.flags))
    }

    /// Takes bytes of the frame into the tail. The last `held` bytes of all that has come may still turn out to be the
    /// delimiter's. Says how many of `part` were taken (all, unless oversized) and whether the frame is oversized, in
    /// which case the tail has `limit` bytes or more.
    fn absorb(&mut self, part: &[u8], held: usize, limit: usize, trim: bool, end_bytes: usize) -> (usize, bool) {
        let cap = limit + end_bytes;
        let fill = part.len().min(limit.saturating_sub(self.tail.len()));
        self.extend(&part[..fill], cap);
        let rest = &part[fill..];
        let beyond = self.tail.len().saturating_sub(limit);
        let known = (beyond + rest.len()).saturating_sub(held);
        let known_in_tail = known.min(beyond);
        let known_in_rest = known - known_in_tail;
        if known > 0 {
            let counts = |&byte: &u8| !trim || !is_white(byte);
            let of_tail = &self.tail[limit..limit + known_in_tail];
            if of_tail.iter().any(counts) || rest[..known_in_rest].iter().any(counts) {
                return (fill, true);
            }
            self.tail.drain(limit..limit + known_in_tail);
        }
        self.extend(&rest[known_in_rest..], cap);
        (part.len(), false)
    }

    /// Passes over the remainder of a frame that is dealt with. Whether its end was found; otherwise all of `input` is
    /// taken and the tail keeps as much as may be the first bytes of the delimiter.
    fn pass_over(&mut self, end: &[u8], input: &mut &[u8]) -> bool {
        let bytes = *input;
        let after = match straddle(&self.tail, bytes, end) {
            Some(kept) => Some(end.len() - kept),
            None => find(bytes, end).map(|at| at + end.len()),
        };
        if let Some(after) = after {
            *input = &bytes[after..];
            self.tail = Vec::new();
            self.begin_frame();
            return true;
        }
        let held = end.len() - 1;
        if held > 0 {
            let new = &bytes[bytes.len().saturating_sub(held)..];
            let old = held - new.len();
            self.tail.drain(..self.tail.len().saturating_sub(old));
            self.extend(new, held);
        }
        *input = &[];
        false
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

/// Where `end` begins in `bytes`.
fn find(bytes: &[u8], end: &[u8]) -> Option<usize> {
    match end {
        [byte] => memchr::memchr(*byte, bytes),
        _ => memchr::memmem::find(bytes, end),
    }
}

/// A delimiter that begins in the tail and ends in `input`: how many of its bytes are in the tail.
fn straddle(tail: &[u8], input: &[u8], end: &[u8]) -> Option<usize> {
    (1..end.len())
        .rev()
        .find(|&kept| kept <= tail.len() && tail.ends_with(&end[..kept]) && input.starts_with(&end[kept..]))
}
