//! Records that end at a delimiter, without anything else.

use crate::reference::{Frame, chunked, frames, framing, push, record, reference};
use proptest::prelude::*;
use ringest::framing::{FrameFlags, Framed, Framer, RejectReason, SAMPLE_BYTES};
use ringest::framing::{Framing, Oversized};

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
}

/// The frames of a stream that is joined inside before its chunk `joined`.
fn frames_joined(framing: &Framing, chunks: &[&'static [u8]], joined: usize) -> Vec<Frame> {
    let mut framer = Framer::new();
    let mut frames = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        if index == joined {
            framer.join_inside(framing);
        }
        let mut input = *chunk;
        while let Some(framed) = framer.next(framing, 0, &mut input) {
            push(&mut frames, framed);
        }
    }
    while let Some(framed) = framer.finish(framing) {
        push(&mut frames, framed);
    }
    frames
}

#[test]
fn what_precedes_the_first_end_of_a_stream_joined_inside_is_no_record() {
    let joined = |bytes: &[u8]| Frame::Rejected(RejectReason::Joined, bytes.to_vec());
    let framing = Framing::default();
    let number = || record(b"+0012345");
    assert_eq!(frames_joined(&framing, &[b"345\r+0012345\r"], 0), [joined(b"345"), number()]);
    assert_eq!(frames_joined(&framing, &[b"3", b"45\r", b"+0012345\r"], 0), [joined(b"345"), number()]);
    assert_eq!(frames_joined(&framing, &[b"\r+0012345\r"], 0), [Frame::Empty, number()]);
    assert_eq!(frames_joined(&framing, &[b"Port already in use"], 0), [joined(b"Port already in use")]);
    // Bytes of the second record were lost, and all between it and the third.
    assert_eq!(
        frames_joined(&framing, &[b"+0012345\r+00", b"345\r+0012345\r"], 1),
        [number(), joined(b"+00345"), number()]
    );
    let small = Framing { max_bytes: 8, ..framing };
    for oversized in [Oversized::Cut, Oversized::Drop] {
        let small = Framing { oversized, ..small.clone() };
        let expected = [joined(b"12345678"), number()];
        assert_eq!(frames_joined(&small, &[b"123456789", b"0\r+0012345\r"], 0), expected);
        assert_eq!(frames_joined(&small, &[b"1234567890\r+0012345\r"], 0), expected);
    }
}
