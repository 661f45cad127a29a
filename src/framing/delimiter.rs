//! Records that end at bytes, or at an idle gap, which is no byte, and nothing else: no start, no checksum, one end.
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

use super::scan::{find, straddle};
use super::settings::Framing;
use super::{Framed, Framer, Notes, RejectReason, State, Verdict, deliver, is_white, trim_end, whole};

impl Framer {
    /// Without an `end`, all of `input` is taken.
    pub(super) fn next_delimited<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        end: &[u8],
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
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
        if end.first() != Some(&b'\n') && self.lead_bytes(framing.trim, input.first()) == 1 {
            self.notes.set(Notes::LED);
            *input = &input[1..];
        }
        let bytes = *input;
        let Some(at) = find(bytes, end) else {
            if bytes.is_empty() {
                return None;
            }
            self.begin(now_ns);
            let limit = framing.max_bytes + self.lead_bytes(framing.trim, bytes.first());
            // One copy at most, even of a chunk that is far too long.
            let front = &bytes[..bytes.len().min(limit)];
            self.extend(front, limit + end.len().max(1));
            *input = &bytes[front.len()..];
            return if input.is_empty() { None } else { self.absorb_unended(framing, end, input) };
        };
        self.begin(now_ns);
        let frame = &bytes[..at];
        *input = &bytes[at + end.len()..];
        let lead = self.lead_bytes(framing.trim, frame.first());
        let (first_byte_ns, flags) = (self.first_byte_ns, self.flags);
        self.begin_frame();
        Some(whole(framing, &frame[lead..], false, first_byte_ns, flags))
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

    /// `last` are the frame's last bytes; the delimiter followed.
    fn end_frame(&mut self, framing: &Framing, end: &[u8], last: &[u8]) -> Framed<'_> {
        let lead = self.lead_bytes(framing.trim, self.tail.first().or(last.first()));
        let limit = framing.max_bytes + lead;
        let (_, oversized) = self.absorb(framing, last, 0, limit, end.len());
        let flags = self.flags;
        if self.tail.is_empty() {
            self.tail = Vec::new(); // all of it was delimiter: there is nothing to lend out, so free it now
        }
        self.spent_bytes = self.tail.len() as u32;
        self.begin_frame();
        let record = &self.tail[lead.min(self.tail.len())..];
        whole(framing, record, oversized, self.first_byte_ns, flags)
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
        let (taken, oversized) = self.absorb(framing, input, end.len().saturating_sub(1), limit, end.len());
        *input = &input[taken..];
        if !oversized {
            return None;
        }
        self.state = State::Discarding;
        self.notes.clear(Notes::JOINED);
        self.spent_bytes = limit as u32;
        Some(deliver(framing, &self.tail[lead..limit], true, self.first_byte_ns, self.flags))
    }

    /// Takes bytes of the frame into the tail. The last `held` bytes of all that has come may still turn out not to be of
    /// the frame. Says how many of `part` were taken (all, unless oversized) and whether the frame is known to be
    /// oversized, in which case the tail has `limit` bytes or more.
    fn absorb(&mut self, framing: &Framing, part: &[u8], held: usize, limit: usize, end_bytes: usize) -> (usize, bool) {
        let cap = limit + end_bytes.max(held + 1);
        let fill = part.len().min(limit.saturating_sub(self.tail.len()));
        self.extend(&part[..fill], cap);
        let rest = &part[fill..];
        let beyond = self.tail.len().saturating_sub(limit);
        let known = (beyond + rest.len()).saturating_sub(held);
        let known_in_tail = known.min(beyond);
        let known_in_rest = known - known_in_tail;
        if known > 0 {
            let counts = |&byte: &u8| !framing.trim || !is_white(byte);
            let of_tail = &self.tail[limit..limit + known_in_tail];
            let of_rest = &rest[..known_in_rest];
            let oversized = of_tail.iter().any(counts) || of_rest.iter().any(counts);
            if oversized {
                return (fill, true);
            }
            self.tail.drain(limit..limit + known_in_tail);
        }
        self.extend(&rest[known_in_rest..], cap);
        (part.len(), false)
    }

    /// The frame ends before its end has come, or an idle gap is its end. `None` if there is nothing of it.
    pub(super) fn cut_delimited(&self, framing: &Framing, emit: bool) -> Option<Verdict> {
        let to = if framing.trim { trim_end(&self.tail).len() } else { self.tail.len() };
        let from = self.lead_bytes(framing.trim, self.tail.first()).min(to);
        let verdict = if emit {
            Verdict::Frame { from, to }
        } else {
            Verdict::Rejected { reason: RejectReason::Unfinished, from, to }
        };
        (from < to).then_some(verdict)
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
        let held = end.len().saturating_sub(1);
        if held > 0 {
            let new = &bytes[bytes.len().saturating_sub(held)..];
            let old = held - new.len();
            self.tail.drain(..self.tail.len().saturating_sub(old));
            self.extend(new, held);
        }
        *input = &[];
        false
    }
}
