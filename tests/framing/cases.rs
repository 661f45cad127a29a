//! Captures of devices that came out wrong once.

use crate::reference::{Frame, frames};
use ringest::framing::{
    Checksum, ChecksumKind, Covers, CrcName, Framing, FramingKind, LengthCounts, LengthField, NumberForm, RejectReason,
};

const CRC16: ChecksumKind = ChecksumKind::Crc(CrcName::Crc16Modbus);

/// The frames of a capture, which are the same however it is chunked.
fn frames_of(framing: &Framing, capture: &[u8]) -> Vec<Frame> {
    let whole = frames(framing, [capture]);
    for chunk_bytes in [1, 2, 3, 7, 64, 1000] {
        assert_eq!(frames(framing, capture.chunks(chunk_bytes)), whole, "in chunks of {chunk_bytes}");
    }
    whole
}

fn records(frames: &[Frame]) -> Vec<&[u8]> {
    let record = |frame| if let &Frame::Record(ref bytes, flags) = frame { Some((&bytes[..], flags)) } else { None };
    let records = frames.iter().filter_map(record);
    records.inspect(|(_, flags)| assert!(flags.is_empty())).map(|(bytes, _)| bytes).collect()
}

fn rejected(frames: &[Frame]) -> Vec<RejectReason> {
    let reason = |frame: &Frame| if let Frame::Rejected(reason, _) = frame { Some(*reason) } else { None };
    frames.iter().filter_map(reason).collect()
}

fn stx_etx() -> Framing {
    Framing {
        kind: FramingKind::Delimiter { ends: vec![vec![3]] },
        starts: vec![vec![2]],
        trim: false,
        ..Framing::default()
    }
}

fn length(field: LengthField, start: &[u8], max_bytes: usize) -> Framing {
    Framing {
        kind: FramingKind::Length(field),
        starts: vec![start.to_vec()],
        checksum: Some(Checksum::short(CRC16)),
        trim: false,
        max_bytes,
        ..Framing::default()
    }
}

#[test]
fn case_01_a_start_inside_a_frame_begins_anew() {
    let capture = include_bytes!("cases/01-lost-etx.bin");
    let frames = frames_of(&Framing { restart: true, ..stx_etx() }, capture);
    assert_eq!(records(&frames), [&b"W+009.999"[..], b"W+005.000"]);
    assert_eq!(rejected(&frames), [RejectReason::Unfinished]);
}

#[test]
fn case_02_a_length_above_the_limit_costs_one_record() {
    let capture = include_bytes!("cases/02-length-above-max.bin");
    let field = LengthField::plain(2, 2, NumberForm::Big, LengthCounts::Payload, false);
    let frames = frames_of(&length(field, &[0xAA, 0x55], 256), capture);
    assert_eq!(records(&frames).len(), 4_000);
    assert_eq!(rejected(&frames), [RejectReason::Length]);
}

#[test]
fn case_04_a_false_start_costs_no_record() {
    let capture = include_bytes!("cases/04-false-start.bin");
    let field = LengthField::plain(1, 1, NumberForm::Big, LengthCounts::Payload, false);
    let frames = frames_of(&length(field, &[2], 64), capture);
    assert_eq!(records(&frames).len(), 20, "{frames:?}");
}

#[test]
fn case_05_a_block_check_covers_the_end() {
    let capture = include_bytes!("cases/05-bcc-covers-etx.bin");
    let covers = Covers { start: false, header: true, end: true };
    let checksum = Some(Checksum { covers, ..Checksum::short(ChecksumKind::Xor8) });
    let frames = frames_of(&Framing { checksum, ..stx_etx() }, capture);
    assert_eq!((records(&frames).len(), frames.len()), (1, 1), "{frames:?}");
}

#[test]
fn case_15_without_anything_to_verify_a_lost_byte_shifts_what_follows() {
    let capture = include_bytes!("cases/15-fixed-dropped-byte.bin");
    let framing = Framing { kind: FramingKind::Fixed { bytes: 10 }, trim: false, max_bytes: 10, ..Framing::default() };
    let frames = frames_of(&framing, capture);
    let expected: Vec<&[u8]> = capture.chunks_exact(10).collect();
    assert_eq!(records(&frames), expected);
    assert_eq!(rejected(&frames), [RejectReason::Unfinished]);
}

#[test]
fn case_16_a_parity_bit_is_stripped_before_everything_else() {
    let mut capture = *include_bytes!("cases/16-7e1-on-8n1.bin");
    let framing = Framing { strip_bit7: true, ..Framing::default() };
    assert!(records(&frames(&framing, [&capture[..]])).is_empty());
    framing.prepare(&mut capture);
    let frames = frames_of(&framing, &capture);
    assert_eq!((records(&frames).len(), frames.len()), (1, 1), "{frames:?}");
    assert!(records(&frames)[0].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '), "{frames:?}");
}

#[test]
fn case_18_frames_of_one_size_find_their_step_again() {
    let capture = include_bytes!("cases/18-fixed-lost-byte.bin");
    let framing = Framing {
        kind: FramingKind::Fixed { bytes: 36 },
        checksum: Some(Checksum::short(ChecksumKind::Sum8)),
        trim: false,
        max_bytes: 36,
        ..Framing::default()
    };
    let frames = frames_of(&framing, capture);
    assert_eq!(records(&frames).len(), 49);
    assert_eq!(rejected(&frames), [RejectReason::Checksum]);
}
