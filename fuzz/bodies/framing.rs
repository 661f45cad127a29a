//! Any framing, any stream in any chunks at any times: the frames are those of the slow reference on the whole.

use super::input::{Input, Seen};
use reference::{Frame, encode, frames_at, reference_at};
use ringest::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, Idle, LengthCounts, LengthField, NumberForm, OnIdle,
    Oversized, RECORD_BYTES_MAX,
};
use ringest::framing::{Framed, Framer, RejectReason};
use std::time::Duration;

#[path = "../../tests/framing/reference.rs"]
#[allow(dead_code, reason = "the tests of framing use all of it")]
mod reference;

const GAP_NS: u64 = 1_000;
const WAITS_NS: [u64; 8] = [0, 0, 0, 1, GAP_NS / 2, GAP_NS - 1, GAP_NS, 5 * GAP_NS];
/// Bytes of a framer beside a record's: start, delimiter or header, checksum, white space; and the smallest allocation.
const HELD_BYTES_BESIDE: usize = 16 + 64 + 8 + 8 + 65 + 64;

/// A framing that the configuration allows.
///
/// ```text
/// 0 kind, 5 of them, then what it is made of: 1 byte    1 bits: trim, cut, gap, emits, start of 0 to 3 bytes, largest record × 256,
///   restarts, which two ends go with
/// 2 checksum   3 largest record - 1   4 end of 1 to 4 bytes   then start, end
/// ```
fn framing(input: &mut Input<'_>) -> Framing {
    let (kind, bits, checksum, max_bytes, end_bytes) =
        (input.byte(), input.byte(), input.byte(), input.byte(), input.byte());
    let has = |bit: u8| bits & 1 << bit != 0;
    let mut start = input.bytes(usize::from(bits >> 4 & 3)).to_vec();
    let mut end = input.bytes(1 + usize::from(end_bytes % 4)).to_vec();
    if end.is_empty() {
        end.push(b'\r');
    }
    let detail = kind / 5;
    let kind = match kind % 5 {
        1 if has(7) => FramingKind::Delimiter { ends: vec![end.clone(), b"\n".to_vec()] },
        0 | 1 => FramingKind::Delimiter { ends: vec![end.clone()] },
        2 => FramingKind::IdleGap,
        3 => FramingKind::Fixed { bytes: 1 + usize::from(detail) },
        _ => FramingKind::Length(LengthField {
            offset: start.len() + usize::from(detail & 3),
            bytes: [1, 2, 4, 4][usize::from(detail >> 2 & 3)],
            form: if end_bytes & 4 == 0 { NumberForm::Big } else { NumberForm::Little },
            mask: u32::MAX,
            add: 0,
            trailer_bytes: 0,
            counts: [LengthCounts::Payload, LengthCounts::Rest, LengthCounts::Message][usize::from(end_bytes >> 3) % 3],
            keep_header: detail & 16 != 0,
        }),
    };
    if matches!(kind, FramingKind::Delimiter { .. }) && start == end {
        start.clear();
    }
    let sums = [ChecksumKind::Sum8, ChecksumKind::Xor8].map(Some);
    let crcs = [CrcName::Crc16Modbus, CrcName::Crc32IsoHdlc].map(ChecksumKind::Crc).map(Some);
    let checksum = [None, sums[0], sums[1], crcs[0], crcs[1]][usize::from(checksum) % 5].map(Checksum::short);
    let emits = kind == FramingKind::IdleGap || has(3) && checksum.is_none();
    let policy = if emits { OnIdle::Emit } else { OnIdle::Discard };
    let keeps = matches!(kind, FramingKind::Length(LengthField { keep_header: true, .. }));
    let max_bytes = match kind {
        FramingKind::Fixed { bytes } => bytes,
        _ => ((1 + usize::from(max_bytes)) * if has(6) { 256 } else { 1 }).min(RECORD_BYTES_MAX),
    };
    Framing {
        idle: (kind == FramingKind::IdleGap || has(2)).then_some(Idle { gap: Duration::from_nanos(GAP_NS), policy }),
        kind,
        restart: has(7),
        starts: if start.is_empty() { Vec::new() } else { vec![start] },
        checksum,
        trim: has(0) && !keeps,
        max_bytes,
        oversized: if has(1) { Oversized::Cut } else { Oversized::Drop },
        ..Framing::default()
    }
}

/// Up to 15 chunk lengths with the waits before them, again and again.
fn schedule(input: &mut Input<'_>) -> Vec<(u64, usize)> {
    let chunks = input.cuts().iter().map(|cut| (WAITS_NS[usize::from(cut >> 5)], usize::from(cut & 31)));
    let mut chunks: Vec<_> = chunks.collect();
    if chunks.iter().all(|(_, bytes)| *bytes == 0) {
        chunks.push((0, 7));
    }
    chunks
}

/// Messages as a machine sends them, whole, damaged and in part, and noise: each behind a byte for kind and length.
fn stream(framing: &Framing, input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() {
        let what = input.byte();
        let bytes = input.bytes(usize::from(what & 63));
        match what >> 6 {
            0 => stream.extend(bytes),
            1 => stream.extend(encode(framing, bytes)),
            2 => {
                let mut message = encode(framing, bytes);
                if !message.is_empty() {
                    let at = input.byte() as usize % message.len();
                    message[at] ^= 1 << (what % 8);
                }
                stream.extend(message);
            }
            _ => stream.extend(bytes.iter().flat_map(|byte| [*byte; 40])),
        }
    }
    stream
}

/// A framing, chunk lengths with waits, the stream.
pub fn run(data: &[u8], seen: &mut Seen) {
    let mut input = Input::new(data);
    let framing = framing(&mut input);
    let schedule = schedule(&mut input);
    let stream = stream(&framing, &mut input);

    let mut chunks: Vec<(u64, &[u8])> = Vec::new();
    let (mut rest, mut now_ns) = (&stream[..], 0);
    for (wait_ns, bytes) in schedule.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        now_ns += wait_ns;
        let (chunk, after) = rest.split_at((*bytes).min(rest.len()));
        chunks.push((now_ns, chunk));
        rest = after;
    }
    let timed: Vec<(u64, u8)> =
        chunks.iter().flat_map(|(at_ns, chunk)| chunk.iter().map(|byte| (*at_ns, *byte))).collect();
    let expected = reference_at(&framing, &timed);
    for ask in [false, true] {
        let got = frames_at(&framing, chunks.iter().map(|(at_ns, chunk)| (*at_ns, *chunk, ask)));
        assert_eq!(got, expected, "{framing:?}, {chunks:x?}, asked for deadlines: {ask}");
    }
    let bytewise = chunks.iter().flat_map(|(at_ns, chunk)| chunk.chunks(1).map(|byte| (*at_ns, byte, false)));
    assert_eq!(frames_at(&framing, bytewise), expected, "{framing:?}, {chunks:x?}, byte by byte");
    check_memory(&framing, &chunks);
    for frame in &expected {
        seen.count(
            match frame {
                Frame::Record(bytes, flags) => {
                    assert!(!bytes.is_empty() && bytes.len() <= framing.max_bytes);
                    if flags.is_empty() { "record" } else { "flagged record" }
                }
                Frame::Empty => "empty",
                Frame::Rejected(RejectReason::Oversized, _) => "oversized",
                Frame::Rejected(RejectReason::Unfinished, _) => "unfinished",
                Frame::Rejected(RejectReason::Checksum, _) => "wrong checksum",
                Frame::Rejected(RejectReason::Length, _) => "impossible length",
                Frame::Rejected(RejectReason::Joined, _) => "joined inside",
                Frame::Rejected(RejectReason::NotMatched, _) => "not matched",
                Frame::Garbage(_) => "garbage",
            },
            1,
        );
    }
}

/// However long a frame is, no more of it is kept than its record may have; twice that where the next one confirms it.
fn check_memory(framing: &Framing, chunks: &[(u64, &[u8])]) {
    let mut framer = Framer::new();
    let bound = 2 * (framing.max_bytes + HELD_BYTES_BESIDE);
    for (now_ns, chunk) in chunks {
        let mut input = *chunk;
        while let Some(framed) = framer.next(framing, *now_ns, &mut input) {
            if let Framed::Record { first_byte_ns, .. } = framed {
                assert!(first_byte_ns <= *now_ns);
            }
        }
        assert!(framer.held_bytes() <= bound, "{} bytes held, {framing:?}", framer.held_bytes());
        assert!(!framer.is_empty() || framer.held_bytes() == 0, "{framing:?}");
    }
}
