//! Framing gives the same records however the stream is chunked, and its memory is bounded.

use proptest::prelude::*;
use ringest::config::{
    Checksum, Endian, Framing, FramingKind, Idle, LengthCounts, LengthField, OnIdle, Oversized, RECORD_BYTES_MAX,
};
use ringest::framing::{FrameFlags, Framed, Framer, RejectReason, SAMPLE_BYTES};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Frame {
    Record(Vec<u8>, FrameFlags),
    Empty,
    Rejected(RejectReason, Vec<u8>),
    /// So many bytes between two other frames; the pieces of a stretch are one.
    Garbage(usize),
}

fn framing(end: &[u8], trim: bool, max_bytes: usize, oversized: Oversized) -> Framing {
    Framing { kind: FramingKind::Delimiter { end: end.to_vec() }, trim, max_bytes, oversized, ..Framing::default() }
}

fn record(bytes: &[u8]) -> Frame {
    Frame::Record(bytes.to_vec(), FrameFlags::default())
}

/// Adds a frame to those before.
fn push(frames: &mut Vec<Frame>, framed: Framed<'_>) {
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
fn frames_at<'a>(framing: &Framing, chunks: impl IntoIterator<Item = (u64, &'a [u8], bool)>) -> Vec<Frame> {
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
fn frames<'a>(framing: &Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
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

/// The checksum of `bytes` as it is on the line, the slow, obvious way.
fn sum(checksum: Checksum, bytes: &[u8]) -> Vec<u8> {
    let crc = |start: u32, polynomial: u32| {
        bytes.iter().fold(start, |state, byte| {
            (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ (state & 1) * polynomial)
        })
    };
    match checksum {
        Checksum::None => Vec::new(),
        Checksum::Sum8 => vec![bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>() as u8],
        Checksum::Xor8 => vec![bytes.iter().fold(0, |sum, byte| sum ^ byte)],
        Checksum::Crc16Modbus => (crc(0xFFFF, 0xA001) as u16).to_le_bytes().to_vec(),
        Checksum::Crc32 => (!crc(u32::MAX, 0xEDB8_8320)).to_le_bytes().to_vec(),
    }
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
        if sum(self.framing.checksum, frame) == sum_came {
            self.deliver(record, flags);
        } else {
            self.reject(RejectReason::Checksum, shown);
        }
    }

    fn emits(&self) -> bool {
        self.framing.checksum == Checksum::None && self.framing.idle.is_some_and(|idle| idle.policy == OnIdle::Emit)
    }

    /// Everything up to the end of the piece.
    fn run(&mut self) {
        let start = &self.framing.start[..];
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
                FramingKind::Delimiter { end } => self.ended(end),
                FramingKind::IdleGap => self.silenced(),
                FramingKind::Fixed { bytes } => self.counted(0, 0, *bytes),
                FramingKind::Length(field) => self.length(field),
            }
        }
    }

    fn ended(&mut self, end: &[u8]) {
        let sum_bytes = self.framing.checksum.bytes();
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
        } else if !record.is_empty() || !self.framing.start.is_empty() {
            self.reject(RejectReason::Unfinished, record);
        }
    }

    fn silenced(&mut self) {
        let sum_bytes = self.framing.checksum.bytes();
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
        if !record.is_empty() || sum(self.framing.checksum, frame) != sum_came {
            self.verify(frame, frame, record, sum_came, flags);
        }
    }

    fn length(&mut self, field: &LengthField) {
        let before = self.framing.start.len();
        let header_bytes = field.offset + field.bytes - before;
        let Some(header) = self.stream.get(..header_bytes) else {
            let frame = self.take(self.stream.len());
            self.reject(RejectReason::Unfinished, frame);
            return;
        };
        let mut number = header[header_bytes - field.bytes..].to_vec();
        if field.endian == Endian::Little {
            number.reverse();
        }
        let number = number.iter().fold(0, |number, byte| number * 256 + i64::from(*byte));
        let sum_bytes = self.framing.checksum.bytes() as i64;
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
        let sum_bytes = self.framing.checksum.bytes();
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
fn reference_at(framing: &Framing, stream: &[(u64, u8)]) -> Vec<Frame> {
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
fn reference(framing: &Framing, stream: &[u8]) -> Vec<Frame> {
    reference_at(framing, &stream.iter().map(|byte| (0, *byte)).collect::<Vec<_>>())
}

/// The stream in pieces whose lengths are `cuts`, again and again.
fn chunked<'a>(mut stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
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

const SAMPLES: [&[u8]; 12] = [
    b"one\rtwo\rthree\r",
    b"one\r\ntwo\r\n\r\nthree\r\n",
    b"one\ntwo\n\n\nthree\nunfinished",
    b"\n\none \t\r  two  \r   \r\n\r",
    b"exactly8\rexactly8 \r\nexactly8   \rexactly9!\r\nexactly9!  \rend",
    b"12345678 \t\t\t\t\t\t\t 9\r12345678                    \r!\r",
    b"a--b-c--d---e----f-\n--\n\n--longer than eight--ok--longer than eight, unended-",
    b"ababac-abababac-abacabac-abababababab",
    b"abababababababababababababac\nabac",
    b"\n\n\n\nx\n\n\n\n\ny\n\n",
    b"",
    b"\r",
];

const ENDS: [&[u8]; 8] = [b"\r", b"\n", b"\r\n", b"\n\n", b"--", b"abac", b"\x03", b"\0\xff\0"];

fn settings() -> impl Iterator<Item = Framing> {
    ENDS.iter().flat_map(|end| {
        [(true, Oversized::Cut), (true, Oversized::Drop), (false, Oversized::Cut), (false, Oversized::Drop)]
            .into_iter()
            .flat_map(move |(trim, oversized)| [1, 8, 4096].map(|max_bytes| framing(end, trim, max_bytes, oversized)))
    })
}

#[test]
fn every_split_in_two_gives_what_the_whole_stream_gives() {
    for framing in settings() {
        for stream in SAMPLES {
            let expected = reference(&framing, stream);
            for at in 0..=stream.len() {
                let (front, back) = stream.split_at(at);
                assert_eq!(frames(&framing, [front, back]), expected, "{framing:?}, {stream:?} split at {at}");
            }
        }
    }
}

#[test]
fn every_split_in_three_gives_what_the_whole_stream_gives() {
    for framing in settings().filter(|framing| framing.max_bytes == 8) {
        for stream in SAMPLES {
            let expected = reference(&framing, stream);
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                    assert_eq!(frames(&framing, chunks), expected, "{framing:?}, {stream:?} at {first}, {second}");
                }
            }
        }
    }
}

#[test]
fn single_bytes_give_what_the_whole_stream_gives() {
    for framing in settings() {
        for stream in SAMPLES {
            let expected = reference(&framing, stream);
            assert_eq!(frames(&framing, stream.chunks(1)), expected, "{framing:?}, {stream:?}");
        }
    }
}

#[test]
fn every_byte_value_but_the_delimiter_passes() {
    let framing = framing(b"\r", false, 4096, Oversized::Cut);
    let all: Vec<u8> = (0..=255).filter(|&byte| byte != b'\r').collect();
    let stream = [&all[..], b"\r"].concat();
    for bytes in 1..=stream.len() {
        let got = frames(&framing, stream.chunks(bytes));
        assert_eq!(got, [record(&all)]);
    }
}

#[test]
fn cr_lf_and_cr_lf_machines_all_work_with_trimming() {
    let both = vec![record(b"12.5 mm"), record(b"13 mm")];
    for (end, stream) in [
        (&b"\r"[..], &b"12.5 mm\r13 mm\r"[..]),
        (b"\r", b"12.5 mm\r\n13 mm\r\n"),
        (b"\n", b"12.5 mm\n13 mm\n"),
        (b"\n", b"12.5 mm\r\n13 mm\r\n"),
    ] {
        let framing = framing(end, true, 7, Oversized::Drop);
        assert_eq!(frames(&framing, [stream]), both, "{end:?}, {stream:?}");
        assert_eq!(frames(&framing, stream.chunks(1)), both, "{end:?}, {stream:?}");
    }
}

#[test]
fn the_first_byte_is_timed_by_the_chunk_that_brought_it() {
    let framing = Framing::default();
    let mut framer = Framer::new();
    let mut times = Vec::new();
    // The LF of a CR LF comes long before the next record: it is not that record's first byte.
    for (now_ns, chunk) in [(10, &b"a\rb"[..]), (20, b"b\rc\r\n"), (30, b"d"), (40, b""), (50, b"d\r\ne\r")] {
        let mut input = chunk;
        while let Some(framed) = framer.next(&framing, now_ns, &mut input) {
            let Framed::Record { bytes, first_byte_ns, .. } = framed else { panic!("{framed:?}") };
            times.push((bytes.to_vec(), first_byte_ns));
        }
    }
    let expected = [("a", 10), ("bb", 10), ("c", 20), ("dd", 30), ("e", 50)];
    assert_eq!(times, expected.map(|(text, ns)| (text.as_bytes().to_vec(), ns)));
}

#[test]
fn records_of_one_chunk_are_slices_of_it() {
    let chunk = b"one\r\ntwo\r\nthr".to_vec();
    let inside = chunk.as_ptr_range();
    let framing = Framing::default();
    let mut framer = Framer::new();
    let mut input = &chunk[..];
    let mut records = 0;
    while let Some(framed) = framer.next(&framing, 0, &mut input) {
        let Framed::Record { bytes, .. } = framed else { panic!("{framed:?}") };
        assert!(inside.contains(&bytes.as_ptr()));
        records += 1;
    }
    assert_eq!(records, 2);
    assert!(!framer.is_empty());
}

#[test]
fn a_flag_is_the_unfinished_records_and_no_others() {
    let framing = framing(b"\r", true, 4, Oversized::Cut);
    let mut framer = Framer::new();
    let mut seen = Vec::new();
    let mut feed = |framer: &mut Framer, chunk: &'static [u8]| {
        let mut input = chunk;
        while let Some(framed) = framer.next(&framing, 0, &mut input) {
            push(&mut seen, framed);
        }
    };
    feed(&mut framer, b"a\rb");
    framer.flag(FrameFlags::LINE_ERROR);
    framer.flag(FrameFlags::BREAK);
    feed(&mut framer, b"b\rc\rlong");
    framer.flag(FrameFlags::LINE_ERROR);
    feed(&mut framer, b"er");
    framer.flag(FrameFlags::BREAK); // in bytes that are passed over
    feed(&mut framer, b"\rd\r");
    let record = |text: &str, flags| Frame::Record(text.as_bytes().to_vec(), flags);
    assert_eq!(
        seen,
        [
            record("a", FrameFlags::default()),
            record("bb", FrameFlags::LINE_ERROR | FrameFlags::BREAK),
            record("c", FrameFlags::default()),
            record("long", FrameFlags::LINE_ERROR | FrameFlags::CUT),
            record("d", FrameFlags::default()),
        ]
    );
}

#[test]
fn an_endless_record_is_reported_once_and_the_next_one_arrives() {
    for (oversized, reported) in [
        (Oversized::Cut, Frame::Record(vec![b'x'; 100], FrameFlags::CUT)),
        (Oversized::Drop, Frame::Rejected(RejectReason::Oversized, vec![b'x'; SAMPLE_BYTES])),
    ] {
        let framing = framing(b"\r\n", true, 100, oversized);
        let noise = vec![b'x'; 1 << 20];
        for chunk_bytes in [1, 99, 100, 101, 4096] {
            let chunks = noise.chunks(chunk_bytes).chain([&b"\r"[..], b"\nok\r", b"\n"]);
            let expected = [reported.clone(), record(b"ok")];
            assert_eq!(frames(&framing, chunks), expected);
        }
    }
}

// ---- all kinds

const CHECKSUMS: [Checksum; 5] =
    [Checksum::None, Checksum::Sum8, Checksum::Xor8, Checksum::Crc16Modbus, Checksum::Crc32];
/// The idle gap of these tests.
const GAP_NS: u64 = 1_000;

fn idle(policy: OnIdle) -> Option<Idle> {
    Some(Idle { gap: Duration::from_nanos(GAP_NS), policy })
}

/// A message as a machine sends it.
fn encode(framing: &Framing, payload: &[u8]) -> Vec<u8> {
    let sum_bytes = framing.checksum.bytes();
    let mut covered = Vec::new();
    match &framing.kind {
        FramingKind::Delimiter { .. } | FramingKind::IdleGap => covered.extend(payload),
        FramingKind::Fixed { bytes } => {
            covered.extend(payload);
            covered.resize(*bytes, b'.');
        }
        FramingKind::Length(field) => {
            let before = field.offset - framing.start.len();
            let header_bytes = before + field.bytes;
            let number = payload.len()
                + match field.counts {
                    LengthCounts::Payload => 0,
                    LengthCounts::Rest => sum_bytes,
                    LengthCounts::Message => framing.start.len() + header_bytes + sum_bytes,
                };
            let mut number = number.to_be_bytes()[8 - field.bytes..].to_vec();
            if field.endian == Endian::Little {
                number.reverse();
            }
            covered.resize(before, b'h');
            covered.extend(number);
            covered.extend(payload);
        }
    }
    let end: &[u8] = if let FramingKind::Delimiter { end } = &framing.kind { end } else { &[] };
    [&framing.start[..], &covered, end, &sum(framing.checksum, &covered)].concat()
}

fn length(offset: usize, bytes: usize, endian: Endian, counts: LengthCounts, keep_header: bool) -> FramingKind {
    FramingKind::Length(LengthField { offset, bytes, endian, counts, keep_header })
}

/// One of each kind, with and without the rest.
fn all_kinds() -> Vec<Framing> {
    let kinds: [(&[u8], FramingKind); 11] = [
        (b"", FramingKind::Delimiter { end: b"\r\n".to_vec() }),
        (b"\x02", FramingKind::Delimiter { end: b"\x03".to_vec() }),
        (b"aab", FramingKind::Delimiter { end: b"ab".to_vec() }),
        (b"", FramingKind::IdleGap),
        (b"::", FramingKind::IdleGap),
        (b"", FramingKind::Fixed { bytes: 5 }),
        (b"\x02\x02", FramingKind::Fixed { bytes: 5 }),
        (b"", length(0, 1, Endian::Big, LengthCounts::Payload, false)),
        (b"\xaa\x55", length(3, 2, Endian::Little, LengthCounts::Message, false)),
        (b"", length(2, 4, Endian::Big, LengthCounts::Rest, true)),
        (b"\x02", length(1, 1, Endian::Big, LengthCounts::Message, true)),
    ];
    let mut framings = Vec::new();
    for (start, kind) in kinds {
        for checksum in CHECKSUMS {
            for (trim, max_bytes, oversized) in
                [(false, 6, Oversized::Cut), (true, 6, Oversized::Drop), (false, 64, Oversized::Drop)]
            {
                let keeps = matches!(kind, FramingKind::Length(LengthField { keep_header: true, .. }));
                let idle = if kind == FramingKind::IdleGap { idle(OnIdle::Emit) } else { None };
                let (kind, start) = (kind.clone(), start.to_vec());
                framings.push(Framing { kind, start, checksum, idle, trim: trim && !keeps, max_bytes, oversized });
            }
        }
    }
    framings
}

/// Garbage before, between and after messages, damage, an unfinished message at the end.
fn sample_stream(framing: &Framing) -> Vec<u8> {
    let mut damaged = encode(framing, b"wrong");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    let unfinished = encode(framing, b"cut");
    [
        b"a\x02 aa\r\n".to_vec(),
        encode(framing, b"one"),
        encode(framing, b"\ntwo \r"),
        b"\r\n \xaa:".to_vec(),
        encode(framing, b"much too long"),
        encode(framing, b""),
        damaged,
        encode(framing, b"last"),
        b"aa\xaa".to_vec(),
        unfinished[..unfinished.len() - 1].to_vec(),
    ]
    .concat()
}

#[test]
fn every_kind_gives_the_same_at_every_split_in_two_and_byte_by_byte() {
    for framing in all_kinds() {
        let stream = sample_stream(&framing);
        let expected = reference(&framing, &stream);
        for at in 0..=stream.len() {
            let (front, back) = stream.split_at(at);
            assert_eq!(frames(&framing, [front, back]), expected, "{framing:?}, {stream:?} split at {at}");
        }
        assert_eq!(frames(&framing, stream.chunks(1)), expected, "{framing:?}, {stream:?}");
    }
}

#[test]
fn every_kind_gives_the_same_at_every_split_in_three() {
    for framing in all_kinds().into_iter().filter(|framing| framing.max_bytes == 6) {
        let stream = sample_stream(&framing);
        let expected = reference(&framing, &stream);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(frames(&framing, chunks), expected, "{framing:?}, {stream:?} at {first}, {second}");
            }
        }
    }
}

#[test]
fn every_kind_delivers_what_was_sent_and_rejects_what_was_damaged() {
    for framing in all_kinds().into_iter().filter(|framing| framing.max_bytes == 64) {
        // Where silence is the end, it must be there.
        let pause =
            |message: &[u8]| if framing.idle.is_some() { (GAP_NS, message.to_vec()) } else { (0, message.to_vec()) };
        let messages: Vec<_> = [b"12345", b"67890"].map(|payload| pause(&encode(&framing, payload))).into();
        let chunks = |messages: &[(u64, Vec<u8>)]| {
            let mut now_ns = 0;
            let timed = messages.iter().map(|(after_ns, message)| {
                now_ns += after_ns;
                (now_ns, message.clone())
            });
            timed.collect::<Vec<_>>()
        };
        let run = |messages: &[(u64, Vec<u8>)]| {
            let chunks = chunks(messages);
            frames_at(&framing, chunks.iter().map(|(at_ns, chunk)| (*at_ns, &chunk[..], true)))
        };
        let got = run(&messages);
        let delivered: Vec<&[u8]> = got
            .iter()
            .map(|frame| if let Frame::Record(bytes, _) = frame { &bytes[..] } else { panic!("{framing:?}: {got:?}") })
            .collect();
        assert_eq!(delivered.len(), 2, "{framing:?}");
        assert!(delivered[0].ends_with(b"12345") && delivered[1].ends_with(b"67890"), "{framing:?}: {got:?}");
        if framing.checksum == Checksum::None {
            continue;
        }
        // One bit of the payload is turned: no checksum lets it pass.
        for bit in 0..8 {
            let mut damaged = messages.clone();
            let at = damaged[0].1.len() - framing.checksum.bytes() - 3;
            damaged[0].1[at] ^= 1 << bit;
            let is_wrong = |frame: &Frame| matches!(frame, Frame::Record(bytes, _) if !delivered.contains(&&bytes[..]));
            let got = run(&damaged);
            assert!(!got.iter().any(is_wrong), "{framing:?}: {got:?}");
            assert!(
                got.iter().any(|frame| matches!(frame, Frame::Rejected(RejectReason::Checksum, _))),
                "{framing:?}: {got:?}"
            );
        }
    }
}

#[test]
fn garbage_around_frames_is_counted_and_the_frames_arrive() {
    let framing =
        Framing { start: b"\x02".to_vec(), checksum: Checksum::Xor8, ..framing(b"\x03", false, 64, Oversized::Cut) };
    // The checksum of "ab" is 0x03, an end that is none; that of "" is 0.
    let stream = b"noise\x02ab\x03\x03more noise\x02\x03\0\x02ab\x03\x04\x02c\x03c\xff";
    let expected = [
        Frame::Garbage(5),
        record(b"ab"),
        Frame::Garbage(10),
        Frame::Empty,
        Frame::Rejected(RejectReason::Checksum, b"ab".to_vec()),
        record(b"c"),
        Frame::Garbage(1),
    ];
    assert_eq!(frames(&framing, [&stream[..]]), expected);
    assert_eq!(frames(&framing, stream.chunks(1)), expected);
}

#[test]
fn white_space_outside_of_frames_is_no_garbage_when_trimming() {
    let framing = Framing { start: b"<".to_vec(), ..framing(b">", true, 64, Oversized::Cut) };
    let stream = b"\r\n<a>\r\n < b >\r\nx y\n<c>\n";
    let expected = [record(b"a"), record(b" b"), Frame::Garbage(2), record(b"c")];
    assert_eq!(frames(&framing, [&stream[..]]), expected);
    assert_eq!(frames(&framing, stream.chunks(1)), expected);
}

#[test]
fn an_impossible_length_is_rejected_and_the_next_start_is_found() {
    let with_start = Framing {
        kind: length(1, 4, Endian::Big, LengthCounts::Payload, false),
        start: b"\x02".to_vec(),
        ..framing(b"", false, 64, Oversized::Cut)
    };
    let stream = b"\x02\xff\xff\xff\xffgarbage\x02\0\0\0\x02ok";
    let bad = |header: &[u8]| Frame::Rejected(RejectReason::Length, header.to_vec());
    let expected = [bad(b"\xff\xff\xff\xff"), Frame::Garbage(7), record(b"ok")];
    assert_eq!(frames(&with_start, [&stream[..]]), expected);
    assert_eq!(frames(&with_start, stream.chunks(1)), expected);

    // A message cannot be shorter than its header. Without a start, a silence is where the next one begins.
    let with_gap = Framing {
        kind: length(0, 1, Endian::Big, LengthCounts::Message, false),
        idle: idle(OnIdle::Discard),
        ..framing(b"", false, 64, Oversized::Cut)
    };
    let chunks: [(u64, &[u8], bool); 4] =
        [(0, b"\0xy", false), (GAP_NS - 1, b"z", false), (2 * GAP_NS, b"\x03o", false), (2 * GAP_NS, b"k", false)];
    assert_eq!(frames_at(&with_gap, chunks), [bad(b"\0"), record(b"ok")]);
}

#[test]
fn a_silence_ends_what_is_unfinished_by_its_policy() {
    let unended = |text: &[u8]| Frame::Record(text.to_vec(), FrameFlags::UNENDED);
    let chunks: [(u64, &[u8], bool); 5] = [
        (0, b"one\rtw", false),
        (GAP_NS - 1, b"o\rlost", false),
        (2 * GAP_NS - 1, b"four\r", false),
        (9 * GAP_NS, b"five\rsi", false),
        (10 * GAP_NS - 1, b"x\r\nsev", false),
    ];
    let line = framing(b"\r", true, 64, Oversized::Cut);
    for (policy, lost, last) in [
        (OnIdle::Emit, unended(b"lost"), unended(b"sev")),
        (
            OnIdle::Discard,
            Frame::Rejected(RejectReason::Unfinished, b"lost".to_vec()),
            Frame::Rejected(RejectReason::Unfinished, b"sev".to_vec()),
        ),
    ] {
        let framing = Framing { idle: idle(policy), ..line.clone() };
        let expected = [record(b"one"), record(b"two"), lost, record(b"four"), record(b"five"), record(b"six"), last];
        assert_eq!(frames_at(&framing, chunks), expected);
        assert_eq!(frames_at(&framing, chunks.map(|(at_ns, chunk, _)| (at_ns, chunk, true))), expected);
    }
    let modbus =
        Framing { kind: FramingKind::IdleGap, checksum: Checksum::Crc16Modbus, idle: idle(OnIdle::Emit), ..line };
    let modbus = Framing { trim: false, ..modbus };
    let chunks: [(u64, &[u8], bool); 4] = [
        (0, &[0x11, 0x03, 0x00, 0x6B], false),
        (GAP_NS - 1, &[0x00, 0x03, 0x76, 0x87], false),
        (3 * GAP_NS, &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x04, 0x76, 0x87], false),
        (4 * GAP_NS, &[0x11], false),
    ];
    let expected = [
        record(&[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03]),
        Frame::Rejected(RejectReason::Checksum, vec![0x11, 0x03, 0x00, 0x6B, 0x00, 0x04]),
        Frame::Rejected(RejectReason::Unfinished, vec![0x11]),
    ];
    assert_eq!(frames_at(&modbus, chunks), expected);
}

#[test]
fn a_deadline_is_there_only_while_silence_would_end_something() {
    let framing = Framing { idle: idle(OnIdle::Emit), ..Framing::default() };
    let mut framer = Framer::new();
    let mut feed =
        |framer: &mut Framer, now_ns, mut input: &[u8]| while framer.next(&framing, now_ns, &mut input).is_some() {};
    assert_eq!(framer.deadline_ns(&framing), None);
    feed(&mut framer, 5, b"whole\r\n");
    assert_eq!(framer.deadline_ns(&framing), None);
    feed(&mut framer, 10, b"ha");
    assert_eq!(framer.deadline_ns(&framing), Some(10 + GAP_NS));
    feed(&mut framer, 20, b"lf");
    assert_eq!(framer.deadline_ns(&framing), Some(20 + GAP_NS));
    framer.restart_silence(500);
    assert_eq!(framer.handle_deadline(&framing, 499 + GAP_NS), None);
    let half = framer.handle_deadline(&framing, 500 + GAP_NS);
    assert!(
        matches!(half, Some(Framed::Record { bytes: b"half", first_byte_ns: 10, flags: FrameFlags::UNENDED })),
        "{half:?}"
    );
    assert_eq!(framer.deadline_ns(&framing), None);
    let plain = Framing::default();
    let mut framer = Framer::new();
    assert_eq!(framer.next(&plain, 1, &mut &b"half"[..]), None);
    assert_eq!(framer.deadline_ns(&plain), None);
    assert_eq!(framer.handle_deadline(&plain, u64::MAX), None);
}

#[test]
fn records_of_all_kinds_are_slices_of_their_chunk_and_timed_by_their_start() {
    for framing in all_kinds().into_iter().filter(|framing| framing.idle.is_none() && framing.max_bytes == 64) {
        let chunk = [encode(&framing, b"12345"), encode(&framing, b"67890")].concat();
        let inside = chunk.as_ptr_range();
        let mut framer = Framer::new();
        let mut input = &chunk[..];
        let mut records = 0;
        while let Some(framed) = framer.next(&framing, 3, &mut input) {
            let Framed::Record { bytes, first_byte_ns: 3, .. } = framed else { panic!("{framing:?}: {framed:?}") };
            assert!(inside.contains(&bytes.as_ptr()), "{framing:?}");
            records += 1;
        }
        assert_eq!(records, 2, "{framing:?}");

        // The first byte behind a start, or of the frame, tells the time.
        for (at_ns, byte) in (10..).zip(&chunk) {
            let mut input = std::slice::from_ref(byte);
            if let Some(framed) = framer.next(&framing, at_ns, &mut input) {
                let expected = 10 + framing.start.len().saturating_sub(1) as u64;
                assert!(
                    matches!(framed, Framed::Record { first_byte_ns, .. } if first_byte_ns == expected),
                    "{framing:?}: {framed:?}"
                );
                break;
            }
        }
    }
}

fn any_kind() -> impl Strategy<Value = Framing> {
    let bytes = |most| prop::collection::vec(prop::sample::select(b"ab\n\x02".to_vec()), 1..most);
    let start = prop_oneof![1 => Just(Vec::new()), 2 => bytes(4)];
    let kind = prop_oneof![
        2 => bytes(4).prop_map(|end| FramingKind::Delimiter { end }),
        1 => Just(FramingKind::IdleGap),
        1 => (1usize..12).prop_map(|bytes| FramingKind::Fixed { bytes }),
        2 => (
            0usize..4,
            prop::sample::select(vec![1, 2, 4]),
            prop::sample::select(vec![Endian::Big, Endian::Little]),
            prop::sample::select(vec![LengthCounts::Payload, LengthCounts::Rest, LengthCounts::Message]),
            any::<bool>(),
        ).prop_map(|(offset, bytes, endian, counts, keep)| length(offset, bytes, endian, counts, keep)),
    ];
    let policy = prop::sample::select(vec![None, Some(OnIdle::Discard), Some(OnIdle::Emit)]);
    let rest = (any::<bool>(), 1usize..20, any::<bool>());
    (start, kind, prop::sample::select(CHECKSUMS.to_vec()), policy, rest).prop_map(
        |(start, mut kind, checksum, policy, (trim, max_bytes, cut))| {
            let mut keeps = false;
            if let FramingKind::Length(field) = &mut kind {
                field.offset += start.len();
                keeps = field.keep_header;
            }
            let max_bytes = if let FramingKind::Fixed { bytes } = kind { bytes } else { max_bytes };
            let policy = if kind == FramingKind::IdleGap { Some(OnIdle::Emit) } else { policy };
            let oversized = if cut { Oversized::Cut } else { Oversized::Drop };
            Framing { kind, start, checksum, idle: policy.and_then(idle), trim: trim && !keeps, max_bytes, oversized }
        },
    )
}

#[derive(Debug, Clone)]
enum Sent {
    Message(Vec<u8>),
    /// One bit of it is turned.
    Damaged(Vec<u8>, prop::sample::Index),
    /// Only so much of it.
    Part(Vec<u8>, prop::sample::Index),
    Noise(Vec<u8>),
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let byte = || prop_oneof![6 => prop::sample::select(b"ab\n\r \x02\0\xff".to_vec()), 1 => any::<u8>()];
    let payload = || prop::collection::vec(byte(), 0..25);
    prop_oneof![
        4 => payload().prop_map(Sent::Message),
        1 => (payload(), any::<prop::sample::Index>()).prop_map(|(payload, bit)| Sent::Damaged(payload, bit)),
        1 => (payload(), any::<prop::sample::Index>()).prop_map(|(payload, at)| Sent::Part(payload, at)),
        1 => prop::collection::vec(byte(), 0..40).prop_map(Sent::Noise),
    ]
}

fn on_the_line(framing: &Framing, sent: &[Sent]) -> Vec<u8> {
    let mut stream = Vec::new();
    for sent in sent {
        match sent {
            Sent::Message(payload) => stream.extend(encode(framing, payload)),
            Sent::Damaged(payload, bit) => {
                let mut message = encode(framing, payload);
                if !message.is_empty() {
                    let bit = bit.index(8 * message.len());
                    message[bit / 8] ^= 1 << (bit % 8);
                }
                stream.extend(message);
            }
            Sent::Part(payload, at) => {
                let message = encode(framing, payload);
                stream.extend(&message[..at.index(message.len() + 1)]);
            }
            Sent::Noise(bytes) => stream.extend(bytes),
        }
    }
    stream
}

fn any_framing() -> impl Strategy<Value = Framing> {
    let end = prop_oneof![
        3 => prop::sample::select(ENDS.to_vec()).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(prop::sample::select(b"\n\r a".to_vec()), 1..5),
    ];
    (end, any::<bool>(), 1usize..20, any::<bool>()).prop_map(|(end, trim, max_bytes, cut)| {
        framing(&end, trim, max_bytes, if cut { Oversized::Cut } else { Oversized::Drop })
    })
}

/// Few byte values, so that delimiters, halves of them and white space are frequent.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![8 => prop::sample::select(b"\n\r -abc\x03\0\xff".to_vec()), 1 => any::<u8>()],
        0..300,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_what_the_reference_gives(
        framing in any_framing(),
        stream in any_stream(),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        prop_assert_eq!(frames(&framing, chunked(&stream, &cuts)), reference(&framing, &stream));
    }
    #[test]
    fn any_framing_in_any_chunks_at_any_times_gives_what_the_reference_gives(
        framing in any_kind(),
        sent in prop::collection::vec(any_sent(), 0..12),
        cuts in prop::collection::vec(1usize..40, 1..20),
        waits in prop::collection::vec(
            (prop::sample::select(vec![0, 0, 0, 1, GAP_NS / 2, GAP_NS - 1, GAP_NS, 5 * GAP_NS]), any::<bool>()),
            1..20,
        ),
    ) {
        let stream = on_the_line(&framing, &sent);
        let mut now_ns = 0;
        let mut chunks = Vec::new();
        let mut timed = Vec::new();
        for (chunk, (wait_ns, ask)) in chunked(&stream, &cuts).into_iter().zip(waits.iter().cycle()) {
            now_ns += wait_ns;
            chunks.push((now_ns, chunk, *ask));
            timed.extend(chunk.iter().map(|byte| (now_ns, *byte)));
        }
        prop_assert_eq!(frames_at(&framing, chunks), reference_at(&framing, &timed));
    }
}
