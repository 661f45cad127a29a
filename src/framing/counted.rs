//! Frames of a known length: fixed, or as a number in front of them says.
//!
//! ```text
//!  message   start   header (offset … length)   payload   checksum
//!                    └──────── tail, but of the payload at most max_bytes and one more ────────┘
//!                    └────── the checksum covers these ─────────┘
//! ```
//! Frames with a fixed length have no header. What does not fit into the tail is passed over, but for the running checksum
//! and whether anything of it would remain after trimming. A length that no record can have is damage: with a start, the
//! next one is searched for; else with an idle gap, all is passed over up to the gap; else a frame begins behind the header.

use super::settings::{Framing, FramingKind, LengthCounts, LengthField, NumberForm, RECORD_BYTES_MAX};
use super::{Framed, Framer, RejectReason, State, Verdict, is_white, sample, trim_end, whole};

/// What a framing of known length says about its frames.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    /// Bytes between the start and the payload.
    header: usize,
    /// Bytes of the header that are not part of the record.
    skipped: usize,
    /// Bytes of the checksum.
    sum: usize,
    /// Most bytes of header and payload in the tail.
    kept_max: usize,
}

impl Counted {
    /// Of a framing with a length field or a fixed length.
    pub fn of(framing: &Framing) -> Self {
        let (header, skipped) = match &framing.kind {
            FramingKind::Length(field) => {
                let header = field.offset + field.bytes - framing.start().len();
                (header, if field.keep_header { 0 } else { header })
            }
            _ => (0, 0),
        };
        Self { header, skipped, sum: framing.running().bytes(), kept_max: header + framing.max_bytes + 1 }
    }

    /// How many leading bytes of header and payload are not part of the record.
    fn lead(self, framing: &Framing, frame: &[u8]) -> usize {
        let line_feed = framing.trim && self.skipped == self.header && frame.get(self.header) == Some(&b'\n');
        self.skipped + usize::from(line_feed)
    }
}

impl Framer {
    pub(super) fn next_counted<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'s>> {
        if self.state == State::Discarding {
            *input = &[];
            return None;
        }
        if self.state == State::Between && !framing.start().is_empty() {
            let garbage = self.hunt(framing, now_ns, input);
            if self.state == State::Between {
                return garbage;
            }
        }
        if input.is_empty() {
            return None;
        }
        self.begin(now_ns);
        let counted = Counted::of(framing);
        if self.state == State::Gathering && self.tail.is_empty() && input.len() >= counted.header {
            let bytes = *input;
            let (header, rest) = bytes.split_at(counted.header);
            let Some(payload_bytes) = payload_bytes(framing, counted, header) else {
                *input = rest;
                self.lose_step(framing);
                return Some(bad_length(framing, header));
            };
            if rest.len() >= payload_bytes + counted.sum {
                let (frame, rest) = bytes.split_at(counted.header + payload_bytes);
                let (sum, rest) = rest.split_at(counted.sum);
                *input = rest;
                let (first_byte_ns, flags) = (self.first_byte_ns, self.flags);
                self.begin_frame();
                if !framing.running().verifies(frame, sum) {
                    let sample = sample(&frame[counted.skipped..], framing.max_bytes);
                    return Some(Framed::Rejected { reason: RejectReason::Checksum, sample });
                }
                return Some(whole(framing, &frame[counted.lead(framing, frame)..], false, first_byte_ns, flags));
            }
        }
        if self.state == State::Gathering && !self.gather_header(framing, counted, input) {
            self.lose_step(framing);
            self.spent_bytes = self.tail.len() as u32;
            return Some(bad_length(framing, &self.tail));
        }
        if self.state == State::Counting && self.gather_payload(framing, counted, input) {
            return Some(self.end_counted(framing, counted));
        }
        None
    }

    /// Takes header bytes; once it is whole, the number of bytes to come is known. `false`: that number is impossible.
    fn gather_header(&mut self, framing: &Framing, counted: Counted, input: &mut &[u8]) -> bool {
        let taken = (counted.header - self.tail.len()).min(input.len());
        self.extend(&input[..taken], counted.kept_max + counted.sum);
        *input = &input[taken..];
        if self.tail.len() == counted.header {
            let Some(payload_bytes) = payload_bytes(framing, counted, &self.tail) else { return false };
            self.count = (payload_bytes + counted.sum) as u32;
            self.state = State::Counting;
        }
        true
    }

    /// Takes bytes of payload and checksum. Whether the frame is whole.
    fn gather_payload(&mut self, framing: &Framing, counted: Counted, input: &mut &[u8]) -> bool {
        let payload = (self.count as usize).saturating_sub(counted.sum).min(input.len());
        let (part, rest) = input.split_at(payload);
        let kept = part.len().min(counted.kept_max - self.tail.len().min(counted.kept_max));
        self.extend(&part[..kept], counted.kept_max + counted.sum);
        let passed = &part[kept..];
        if !passed.is_empty() {
            self.overlong |= passed.iter().any(|byte| !framing.trim || !is_white(*byte));
            self.sum_up(framing, counted.kept_max, 0, passed);
        }
        self.count -= payload as u32;
        let mut taken = 0;
        if self.count as usize <= counted.sum {
            taken = (self.count as usize).min(rest.len());
            self.extend(&rest[..taken], counted.kept_max + counted.sum);
            self.count -= taken as u32;
        }
        *input = &rest[taken..];
        self.count == 0
    }

    /// The frame is whole and in the tail, or what is kept of it.
    fn end_counted<'s>(&'s mut self, framing: &'s Framing, counted: Counted) -> Framed<'s> {
        let end = self.tail.len() - counted.sum;
        let state = self.sum_of(framing, &self.tail[..end]);
        let (first_byte_ns, flags, overlong) = (self.first_byte_ns, self.flags, self.overlong);
        self.spent_bytes = self.tail.len() as u32;
        self.begin_frame();
        let (frame, sum) = self.tail.split_at(end);
        if !framing.running().is_sum_of(state, sum) {
            let sample = sample(&frame[counted.skipped..], framing.max_bytes);
            return Framed::Rejected { reason: RejectReason::Checksum, sample };
        }
        whole(framing, &frame[counted.lead(framing, frame)..], overlong, first_byte_ns, flags)
    }

    /// The frame ends before it is whole.
    pub(super) fn cut_counted(&self, framing: &Framing, emit: bool) -> Verdict {
        let counted = Counted::of(framing);
        let kept = if self.overlong || !framing.trim { &self.tail[..] } else { trim_end(&self.tail) };
        let (from, to) = (counted.lead(framing, &self.tail), kept.len());
        if emit && self.state == State::Counting && from < to {
            return Verdict::Frame { from, to };
        }
        let from = if self.state == State::Counting { counted.skipped } else { 0 };
        Verdict::Rejected { reason: RejectReason::Unfinished, from, to: self.tail.len() }
    }

    /// Where the next frame begins is not known.
    fn lose_step(&mut self, framing: &Framing) {
        self.begin_frame();
        if framing.start().is_empty() && framing.idle.is_some() {
            self.state = State::Discarding;
        }
    }
}

fn bad_length<'a>(framing: &Framing, header: &'a [u8]) -> Framed<'a> {
    Framed::Rejected { reason: RejectReason::Length, sample: sample(header, framing.max_bytes) }
}

/// The payload's length by a whole header; `None` if no record can have it.
fn payload_bytes(framing: &Framing, counted: Counted, header: &[u8]) -> Option<usize> {
    let field = match &framing.kind {
        FramingKind::Length(field) => field,
        FramingKind::Fixed { bytes } => return Some(*bytes),
        FramingKind::Delimiter { .. } | FramingKind::IdleGap => unreachable!("frames without a known length"),
    };
    let before = match field.counts {
        LengthCounts::Payload => 0,
        LengthCounts::Rest => counted.sum,
        LengthCounts::Message => framing.start().len() + counted.header + counted.sum,
    };
    number(field, &header[counted.header - field.bytes..])
        .checked_sub(before)
        .filter(|payload| *payload <= RECORD_BYTES_MAX)
}

fn number(field: &LengthField, bytes: &[u8]) -> usize {
    let fold = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
    match field.form {
        NumberForm::Little => bytes.iter().rev().fold(0, fold),
        _ => bytes.iter().fold(0, fold),
    }
}
