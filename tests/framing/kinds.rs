//! All kinds of framing, with checksums, idle gaps and garbage.

use crate::reference::{
    Frame, chunked, encode, frames, frames_at, framing, record, reference, reference_at, sum_bytes,
};
use proptest::prelude::*;
use ringest::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, Idle, LengthCounts, LengthField, NumberForm, OnIdle,
    Oversized,
};
use ringest::framing::{FrameFlags, Framed, Framer, RejectReason};
use std::time::Duration;

const XOR8: Option<Checksum> = Some(Checksum::short(ChecksumKind::Xor8));
const CRC16: Option<Checksum> = Some(Checksum::short(ChecksumKind::Crc(CrcName::Crc16Modbus)));
const CRC32: Option<Checksum> = Some(Checksum::short(ChecksumKind::Crc(CrcName::Crc32IsoHdlc)));
const CHECKSUMS: [Option<Checksum>; 5] = [None, Some(Checksum::short(ChecksumKind::Sum8)), XOR8, CRC16, CRC32];
/// The idle gap of these tests.
const GAP_NS: u64 = 1_000;

fn idle(policy: OnIdle) -> Option<Idle> {
    Some(Idle { gap: Duration::from_nanos(GAP_NS), policy })
}

fn length(offset: usize, bytes: usize, form: NumberForm, counts: LengthCounts, keep_header: bool) -> FramingKind {
    FramingKind::Length(LengthField::plain(offset, bytes, form, counts, keep_header))
}

fn starts(start: Vec<u8>) -> Vec<Vec<u8>> {
    if start.is_empty() { Vec::new() } else { vec![start] }
}

/// One of each kind, with and without the rest.
fn all_kinds() -> Vec<Framing> {
    let kinds: [(&[u8], FramingKind); 11] = [
        (b"", FramingKind::Delimiter { ends: vec![b"\r\n".to_vec()] }),
        (b"\x02", FramingKind::Delimiter { ends: vec![b"\x03".to_vec()] }),
        (b"aab", FramingKind::Delimiter { ends: vec![b"ab".to_vec()] }),
        (b"", FramingKind::IdleGap),
        (b"::", FramingKind::IdleGap),
        (b"", FramingKind::Fixed { bytes: 5 }),
        (b"\x02\x02", FramingKind::Fixed { bytes: 5 }),
        (b"", length(0, 1, NumberForm::Big, LengthCounts::Payload, false)),
        (b"\xaa\x55", length(3, 2, NumberForm::Little, LengthCounts::Message, false)),
        (b"", length(2, 4, NumberForm::Big, LengthCounts::Rest, true)),
        (b"\x02", length(1, 1, NumberForm::Big, LengthCounts::Message, true)),
    ];
    let mut framings = Vec::new();
    for (start, kind) in kinds {
        for checksum in CHECKSUMS {
            for (trim, max_bytes, oversized) in
                [(false, 6, Oversized::Cut), (true, 6, Oversized::Drop), (false, 64, Oversized::Drop)]
            {
                let keeps = matches!(kind, FramingKind::Length(LengthField { keep_header: true, .. }));
                let idle = if kind == FramingKind::IdleGap { idle(OnIdle::Emit) } else { None };
                let (kind, starts, checksum) = (kind.clone(), starts(start.to_vec()), checksum.clone());
                let trim = trim && !keeps;
                framings.push(Framing {
                    kind,
                    starts,
                    checksum,
                    idle,
                    trim,
                    max_bytes,
                    oversized,
                    ..Framing::default()
                });
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
        if framing.checksum.is_none() {
            continue;
        }
        // One bit of the payload is turned: no checksum lets it pass.
        for bit in 0..8 {
            let mut damaged = messages.clone();
            let at = damaged[0].1.len() - sum_bytes(&framing) - 3;
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
        Framing { starts: vec![b"\x02".to_vec()], checksum: XOR8, ..framing(b"\x03", false, 64, Oversized::Cut) };
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
    let framing = Framing { starts: vec![b"<".to_vec()], ..framing(b">", true, 64, Oversized::Cut) };
    let stream = b"\r\n<a>\r\n < b >\r\nx y\n<c>\n";
    let expected = [record(b"a"), record(b" b"), Frame::Garbage(2), record(b"c")];
    assert_eq!(frames(&framing, [&stream[..]]), expected);
    assert_eq!(frames(&framing, stream.chunks(1)), expected);
}

#[test]
fn an_impossible_length_is_rejected_and_the_next_start_is_found() {
    let with_start = Framing {
        kind: length(1, 4, NumberForm::Big, LengthCounts::Payload, false),
        starts: vec![b"\x02".to_vec()],
        ..framing(b"", false, 64, Oversized::Cut)
    };
    let stream = b"\x02\xff\xff\xff\xffgarbage\x02\0\0\0\x02ok";
    let bad = |header: &[u8]| Frame::Rejected(RejectReason::Length, header.to_vec());
    let expected = [bad(b"\xff\xff\xff\xff"), Frame::Garbage(7), record(b"ok")];
    assert_eq!(frames(&with_start, [&stream[..]]), expected);
    assert_eq!(frames(&with_start, stream.chunks(1)), expected);

    // A message cannot be shorter than its header. Without a start, a silence is where the next one begins.
    let with_gap = Framing {
        kind: length(0, 1, NumberForm::Big, LengthCounts::Message, false),
        idle: idle(OnIdle::Discard),
        ..framing(b"", false, 64, Oversized::Cut)
    };
    let chunks: [(u64, &[u8], bool); 4] =
        [(0, b"\0xy", false), (GAP_NS - 1, b"z", false), (2 * GAP_NS, b"\x03o", false), (2 * GAP_NS, b"k", false)];
    assert_eq!(frames_at(&with_gap, chunks), [bad(b"\0"), Frame::Garbage(3), record(b"ok")]);
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
    let modbus = Framing { kind: FramingKind::IdleGap, checksum: CRC16, idle: idle(OnIdle::Emit), ..line };
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
    let feed =
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

        // The first byte, that of a start or of the frame, tells the time.
        for (at_ns, byte) in (10..).zip(&chunk) {
            let mut input = std::slice::from_ref(byte);
            if let Some(framed) = framer.next(&framing, at_ns, &mut input) {
                let expected = 10;
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
        2 => bytes(4).prop_map(|end| FramingKind::Delimiter { ends: vec![end] }),
        1 => Just(FramingKind::IdleGap),
        1 => (1usize..12).prop_map(|bytes| FramingKind::Fixed { bytes }),
        2 => (
            0usize..4,
            prop::sample::select(vec![1, 2, 4]),
            prop::sample::select(vec![NumberForm::Big, NumberForm::Little]),
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
            let (starts, idle, trim) = (starts(start), policy.and_then(idle), trim && !keeps);
            Framing { kind, starts, checksum, idle, trim, max_bytes, oversized, ..Framing::default() }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

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
