//! The slow, obvious way to frame a stream: all of it at once, piece by piece between two silences.

use ringest::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, LengthCounts, LengthField, NumberForm, OnIdle, Oversized,
    RECORD_BYTES_MAX,
};
use ringest::framing::{FrameFlags, Framed, Framer, RejectReason, SAMPLE_BYTES};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Record(Vec<u8>, FrameFlags),
    Empty,
    Rejected(RejectReason, Vec<u8>),
    /// So many bytes between two other frames; the pieces of a stretch are one.
    Garbage(usize),
}

pub fn framing(end: &[u8], trim: bool, max_bytes: usize, oversized: Oversized) -> Framing {
    Framing {
        kind: FramingKind::Delimiter { ends: vec![end.to_vec()] },
        trim,
        max_bytes,
        oversized,
        ..Framing::default()
    }
}

pub fn record(bytes: &[u8]) -> Frame {
    Frame::Record(bytes.to_vec(), FrameFlags::default())
}

/// Adds a frame to those before.
pub fn push(frames: &mut Vec<Frame>, framed: Framed<'_>) {
    match (framed, frames.last_mut()) {
        (Framed::Record { bytes, flags, .. }, _) => frames.push(Frame::Record(bytes.to_vec(), flags)),
        (Framed::Empty, _) => frames.push(Frame::Empty),
        (Framed::Rejected { reason, sample }, _) => frames.push(Frame::Rejected(reason, sample.to_vec())),
        (Framed::Garbage { bytes, count }, last) => {
            assert!(count <= bytes.len() && count > 0);
            match last {
                Some(Frame::Garbage(before)) => *before += count,
                _ => frames.push(Frame::Garbage(count)),
            }
        }
    }
}

/// The frames of a stream whose chunks come at `times_ns`; checks that every chunk is taken whole. Where `ask` says so, the
/// deadline is asked for and kept before the next chunk.
pub fn frames_at<'a>(framing: &Framing, chunks: impl IntoIterator<Item = (u64, &'a [u8], bool)>) -> Vec<Frame> {
    let mut framer = Framer::new();
    let mut frames = Vec::new();
    for (now_ns, chunk, ask) in chunks {
        if let Some(deadline_ns) = framer.deadline_ns(framing).filter(|deadline_ns| ask && *deadline_ns <= now_ns) {
            assert_eq!(framer.handle_deadline(framing, deadline_ns - 1), None, "too early");
            if let Some(framed) = framer.handle_deadline(framing, deadline_ns) {
                push(&mut frames, framed);
            }
            assert_eq!(framer.deadline_ns(framing), None, "said once");
            assert!(framer.is_empty());
        }
        let mut input = chunk;
        while let Some(framed) = framer.next(framing, now_ns, &mut input) {
            push(&mut frames, framed);
        }
        assert!(input.is_empty());
    }
    if let Some(framed) = framer.finish(framing) {
        push(&mut frames, framed);
    }
    assert_eq!(framer.finish(framing), None);
    assert!(framer.is_empty());
    frames
}

/// The frames of a stream that comes in chunks, without a gap.
pub fn frames<'a>(framing: &Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
    frames_at(framing, chunks.into_iter().map(|chunk| (7, chunk, false)))
}

fn is_white(byte: u8) -> bool {
    b" \t\n\x0b\x0c\r".contains(&byte)
}

/// What trimming leaves of a frame.
fn trimmed<'a>(framing: &Framing, frame: &'a [u8]) -> &'a [u8] {
    if !framing.trim {
        return frame;
    }
    let mut frame = frame.strip_prefix(b"\n").unwrap_or(frame);
    while let [front @ .., last] = frame {
        if !is_white(*last) {
            break;
        }
        frame = front;
    }
    frame
}

/// How many bytes the checksum has on the line.
pub fn sum_bytes(framing: &Framing) -> usize {
    framing.checksum.as_ref().map_or(0, Checksum::bytes)
}

/// The start, empty where there is none.
pub fn start(framing: &Framing) -> &[u8] {
    framing.starts.first().map_or(&[], Vec::as_slice)
}

/// The checksum of `bytes` as it is on the line, the slow, obvious way.
pub fn sum(checksum: &Option<Checksum>, bytes: &[u8]) -> Vec<u8> {
    let crc = |start: u32, polynomial: u32| {
        bytes.iter().fold(start, |state, byte| {
            (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * polynomial))
        })
    };
    match checksum.as_ref().map(|checksum| checksum.kind) {
        None => Vec::new(),
        Some(ChecksumKind::Sum8) => vec![bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>() as u8],
        Some(ChecksumKind::Xor8) => vec![bytes.iter().fold(0, |sum, byte| sum ^ byte)],
        Some(ChecksumKind::Crc(CrcName::Crc16Modbus)) => (crc(0xFFFF, 0xA001) as u16).to_le_bytes().to_vec(),
        Some(ChecksumKind::Crc(CrcName::Crc32IsoHdlc)) => (!crc(u32::MAX, 0xEDB8_8320)).to_le_bytes().to_vec(),
        Some(kind) => panic!("{kind:?} is none of the short forms"),
    }
}

/// A message as a machine sends it.
pub fn encode(framing: &Framing, payload: &[u8]) -> Vec<u8> {
    let sum_bytes = sum_bytes(framing);
    let mut covered = Vec::new();
    match &framing.kind {
        FramingKind::Delimiter { .. } | FramingKind::IdleGap => covered.extend(payload),
        FramingKind::Fixed { bytes } => {
            covered.extend(payload);
            covered.resize(*bytes, b'.');
        }
        FramingKind::Length(field) => {
            let before = field.offset - start(framing).len();
            let header_bytes = before + field.bytes;
            let number = payload.len()
                + match field.counts {
                    LengthCounts::Payload => 0,
                    LengthCounts::Rest => sum_bytes,
                    LengthCounts::Message => start(framing).len() + header_bytes + sum_bytes,
                };
            let mut number = number.to_be_bytes()[8 - field.bytes..].to_vec();
            if field.form == NumberForm::Little {
                number.reverse();
            }
            covered.resize(before, b'h');
            covered.extend(number);
            covered.extend(payload);
        }
    }
    let end: &[u8] = if let FramingKind::Delimiter { ends } = &framing.kind { &ends[0] } else { &[] };
    [start(framing), &covered, end, &sum(&framing.checksum, &covered)].concat()
}

fn position(stream: &[u8], needle: &[u8]) -> Option<usize> {
    (0..stream.len()).find(|&at| stream[at..].starts_with(needle))
}

/// What a piece of the stream between two silences still has, and what became of it so far.
struct Reference<'a> {
    framing: &'a Framing,
    stream: &'a [u8],
    frames: Vec<Frame>,
    /// Flags of what ends with the piece.
    end_flags: FrameFlags,
}

impl<'a> Reference<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (front, rest) = self.stream.split_at(bytes);
        self.stream = rest;
        front
    }

    fn garbage(&mut self, bytes: usize) {
        let counts = |byte: &&u8| !self.framing.trim || !is_white(**byte);
        let count = self.take(bytes).iter().filter(counts).count();
        match self.frames.last_mut() {
            _ if count == 0 => {}
            Some(Frame::Garbage(before)) => *before += count,
            _ => self.frames.push(Frame::Garbage(count)),
        }
    }

    fn reject(&mut self, reason: RejectReason, frame: &[u8]) {
        let sample = &frame[..frame.len().min(SAMPLE_BYTES).min(self.framing.max_bytes)];
        self.frames.push(Frame::Rejected(reason, sample.to_vec()));
    }

    fn deliver(&mut self, record: &[u8], flags: FrameFlags) {
        let max_bytes = self.framing.max_bytes;
        if record.is_empty() {
            self.frames.push(Frame::Empty);
        } else if record.len() <= max_bytes {
            self.frames.push(Frame::Record(record.to_vec(), flags));
        } else if self.framing.oversized == Oversized::Cut {
            self.frames.push(Frame::Record(record[..max_bytes].to_vec(), flags | FrameFlags::CUT));
        } else {
            self.reject(RejectReason::Oversized, record);
        }
    }

    /// Delivers `record` if the checksum of `frame` is `sum`.
    fn verify(&mut self, frame: &[u8], shown: &[u8], record: &[u8], sum_came: &[u8], flags: FrameFlags) {
        if sum(&self.framing.checksum, frame) == sum_came {
            self.deliver(record, flags);
        } else {
            self.reject(RejectReason::Checksum, shown);
        }
    }

    fn emits(&self) -> bool {
        self.framing.checksum.is_none() && self.framing.idle.is_some_and(|idle| idle.policy == OnIdle::Emit)
    }

    /// Everything up to the end of the piece.
    fn run(&mut self) {
        let start = start(self.framing);
        while !self.stream.is_empty() {
            if !start.is_empty() {
                let Some(at) = position(self.stream, start) else {
                    self.garbage(self.stream.len());
                    return;
                };
                self.garbage(at);
                self.take(start.len());
            }
            match &self.framing.kind {
                FramingKind::Delimiter { ends } => self.ended(&ends[0]),
                FramingKind::IdleGap => self.silenced(),
                FramingKind::Fixed { bytes } => self.counted(0, 0, *bytes),
                FramingKind::Length(field) => self.length(field),
            }
        }
    }

    fn ended(&mut self, end: &[u8]) {
        let sum_bytes = sum_bytes(self.framing);
        if let Some(at) = position(self.stream, end) {
            let frame = self.take(at);
            self.take(end.len());
            if self.stream.len() >= sum_bytes {
                let sum = self.take(sum_bytes);
                self.verify(frame, frame, trimmed(self.framing, frame), sum, FrameFlags::default());
            } else {
                self.take(self.stream.len());
                self.reject(RejectReason::Unfinished, trimmed(self.framing, frame));
            }
            return;
        }
        let frame = self.take(self.stream.len());
        // The last bytes may be the first ones of a delimiter: they do not make a frame oversized.
        let certain = trimmed(self.framing, &frame[..frame.len().saturating_sub(end.len() - 1)]);
        let record = trimmed(self.framing, frame);
        if certain.len() > self.framing.max_bytes && sum_bytes == 0 {
            self.deliver(certain, FrameFlags::default());
        } else if !record.is_empty() && self.emits() {
            self.deliver(record, FrameFlags::UNENDED);
        } else if !record.is_empty() || !self.framing.starts.is_empty() {
            self.reject(RejectReason::Unfinished, record);
        }
    }

    fn silenced(&mut self) {
        let sum_bytes = sum_bytes(self.framing);
        let all = self.take(self.stream.len());
        let Some(bytes) = all.len().checked_sub(sum_bytes) else {
            self.reject(RejectReason::Unfinished, all);
            return;
        };
        let (frame, sum_came) = all.split_at(bytes);
        let record = trimmed(self.framing, frame);
        let too_long = record.len() > self.framing.max_bytes;
        // Without a checksum, one that is too long is dealt with before its end.
        let flags = if too_long && sum_bytes == 0 { FrameFlags::default() } else { self.end_flags };
        if !record.is_empty() || sum(&self.framing.checksum, frame) != sum_came {
            self.verify(frame, frame, record, sum_came, flags);
        }
    }

    fn length(&mut self, field: &LengthField) {
        let before = start(self.framing).len();
        let header_bytes = field.offset + field.bytes - before;
        let Some(header) = self.stream.get(..header_bytes) else {
            let frame = self.take(self.stream.len());
            self.reject(RejectReason::Unfinished, frame);
            return;
        };
        let mut number = header[header_bytes - field.bytes..].to_vec();
        if field.form == NumberForm::Little {
            number.reverse();
        }
        let number = number.iter().fold(0, |number, byte| number * 256 + i64::from(*byte));
        let sum_bytes = sum_bytes(self.framing) as i64;
        let payload = match field.counts {
            LengthCounts::Payload => number,
            LengthCounts::Rest => number - sum_bytes,
            LengthCounts::Message => number - sum_bytes - (before + header_bytes) as i64,
        };
        if !(0..=RECORD_BYTES_MAX as i64).contains(&payload) {
            self.take(header_bytes);
            self.reject(RejectReason::Length, header);
            if before == 0 && self.framing.idle.is_some() {
                self.take(self.stream.len());
            }
            return;
        }
        self.counted(header_bytes, if field.keep_header { 0 } else { header_bytes }, payload as usize);
    }

    fn counted(&mut self, header: usize, skipped: usize, payload: usize) {
        let sum_bytes = sum_bytes(self.framing);
        if self.stream.len() >= header + payload + sum_bytes {
            let frame = self.take(header + payload);
            let sum = self.take(sum_bytes);
            let shown = &frame[skipped..];
            self.verify(frame, shown, trimmed(self.framing, shown), sum, FrameFlags::default());
            return;
        }
        let all = self.take(self.stream.len());
        let shown = &all[skipped..];
        let record = trimmed(self.framing, shown);
        if self.emits() && !record.is_empty() {
            self.deliver(record, FrameFlags::UNENDED);
        } else {
            self.reject(RejectReason::Unfinished, shown);
        }
    }
}

/// The frames of a stream: the time of each byte, and the byte.
pub fn reference_at(framing: &Framing, stream: &[(u64, u8)]) -> Vec<Frame> {
    let gap_ns = framing.idle.map_or(u64::MAX, |idle| idle.gap.as_nanos() as u64);
    let mut frames = Vec::new();
    let pieces: Vec<Vec<u8>> = stream
        .chunk_by(|(before_ns, _), (at_ns, _)| at_ns - before_ns < gap_ns)
        .map(|piece| piece.iter().map(|(_, byte)| *byte).collect())
        .collect();
    for (index, piece) in pieces.iter().enumerate() {
        let end_flags = if index + 1 == pieces.len() { FrameFlags::UNENDED } else { FrameFlags::default() };
        let mut reference = Reference { framing, stream: piece, frames, end_flags };
        reference.run();
        frames = reference.frames;
    }
    frames
}

/// The frames of a stream without a gap.
pub fn reference(framing: &Framing, stream: &[u8]) -> Vec<Frame> {
    reference_at(framing, &stream.iter().map(|byte| (0, *byte)).collect::<Vec<_>>())
}

/// The stream in pieces whose lengths are `cuts`, again and again.
pub fn chunked<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (chunk, rest) = stream.split_at((*cut).min(stream.len()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks
}
