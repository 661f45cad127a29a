//! The slow, obvious way to frame a stream: all of it at once, piece by piece between two silences. Records that end at one
//! delimiter, or at a silence, are framed here; of all other framings this holds the engine, which saw the stream in chunks,
//! against itself, when it sees each piece as one. What is right of those is told by `damage`, which knows the true records.

use ringest::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, LengthCounts, NumberForm, OnIdle, Oversized,
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
            while let Some(framed) = framer.handle_deadline(framing, deadline_ns) {
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
    while let Some(framed) = framer.finish(framing) {
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

    fn emits(&self) -> bool {
        self.framing.idle.is_some_and(|idle| idle.policy == OnIdle::Emit)
    }

    /// Everything up to the end of the piece.
    fn run(&mut self) {
        while !self.stream.is_empty() {
            match &self.framing.kind {
                FramingKind::Delimiter { ends } => self.ended(&ends[0]),
                _ => self.silenced(),
            }
        }
    }

    fn ended(&mut self, end: &[u8]) {
        if let Some(at) = position(self.stream, end) {
            let frame = self.take(at);
            self.take(end.len());
            self.deliver(trimmed(self.framing, frame), FrameFlags::default());
            return;
        }
        let frame = self.take(self.stream.len());
        // The last bytes may be the first ones of a delimiter: they do not make a frame oversized.
        let certain = trimmed(self.framing, &frame[..frame.len().saturating_sub(end.len() - 1)]);
        let record = trimmed(self.framing, frame);
        if certain.len() > self.framing.max_bytes {
            self.deliver(certain, FrameFlags::default());
        } else if !record.is_empty() && self.emits() {
            self.deliver(record, FrameFlags::UNENDED);
        } else if !record.is_empty() {
            self.reject(RejectReason::Unfinished, record);
        }
    }

    fn silenced(&mut self) {
        let all = self.take(self.stream.len());
        let record = trimmed(self.framing, all);
        // One that is too long is dealt with before its end.
        let flags = if record.len() > self.framing.max_bytes { FrameFlags::default() } else { self.end_flags };
        if !record.is_empty() {
            self.deliver(record, flags);
        }
    }
}

/// Whether the slow way knows the framing.
fn is_plain(framing: &Framing) -> bool {
    let ends_once = matches!(&framing.kind, FramingKind::Delimiter { ends } if ends.len() == 1);
    (ends_once || framing.kind == FramingKind::IdleGap)
        && framing.starts.is_empty()
        && framing.checksum.is_none()
        && framing.escape.is_none()
        && framing.ignore.is_empty()
        && !framing.keep.end
}

/// The frames of a stream: the time of each byte, and the byte.
pub fn reference_at(framing: &Framing, stream: &[(u64, u8)]) -> Vec<Frame> {
    let gap_ns = framing.idle.map_or(u64::MAX, |idle| idle.gap.as_nanos() as u64);
    let mut frames = Vec::new();
    let pieces: Vec<(u64, Vec<u8>)> = stream
        .chunk_by(|(before_ns, _), (at_ns, _)| at_ns - before_ns < gap_ns)
        .map(|piece| (piece[0].0, piece.iter().map(|(_, byte)| *byte).collect()))
        .collect();
    if !is_plain(framing) {
        return frames_at(framing, pieces.iter().map(|(at_ns, piece)| (*at_ns, &piece[..], false)));
    }
    for (index, (_, piece)) in pieces.iter().enumerate() {
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
