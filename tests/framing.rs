//! Framing gives the same records however the stream is chunked, and its memory is bounded.

use proptest::prelude::*;
use ringest::config::{Framing, FramingKind, Oversized};
use ringest::framing::{FrameFlags, Framed, Framer, RejectReason, SAMPLE_BYTES};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Frame {
    Record(Vec<u8>, FrameFlags),
    Empty,
    Rejected(RejectReason, Vec<u8>),
}

fn framing(end: &[u8], trim: bool, max_bytes: usize, oversized: Oversized) -> Framing {
    Framing { kind: FramingKind::Delimiter { end: end.to_vec() }, trim, max_bytes, oversized }
}

fn end_of(framing: &Framing) -> &[u8] {
    let FramingKind::Delimiter { end } = &framing.kind;
    end
}

fn owned(framed: Framed<'_>) -> Frame {
    match framed {
        Framed::Record { bytes, flags, .. } => Frame::Record(bytes.to_vec(), flags),
        Framed::Empty => Frame::Empty,
        Framed::Rejected { reason, sample } => Frame::Rejected(reason, sample.to_vec()),
    }
}

/// The frames of a stream that comes in chunks; checks that every chunk is taken whole.
fn frames<'a>(framing: &Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
    let mut framer = Framer::new();
    let mut frames = Vec::new();
    for (now_ns, chunk) in chunks.into_iter().enumerate() {
        let mut input = chunk;
        while let Some(framed) = framer.next(framing, now_ns as u64, &mut input) {
            frames.push(owned(framed));
        }
        assert!(input.is_empty());
    }
    frames.extend(framer.finish(framing).map(owned));
    assert_eq!(framer.finish(framing), None);
    assert!(framer.is_empty());
    frames
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

/// The slow, obvious way: the whole stream at once.
fn reference(framing: &Framing, mut stream: &[u8]) -> Vec<Frame> {
    let end = end_of(framing);
    let sample = |record: &[u8]| record[..record.len().min(SAMPLE_BYTES).min(framing.max_bytes)].to_vec();
    let too_long = |record: &[u8]| match framing.oversized {
        Oversized::Cut => Frame::Record(record[..framing.max_bytes].to_vec(), FrameFlags::CUT),
        Oversized::Drop => Frame::Rejected(RejectReason::Oversized, sample(record)),
    };
    let mut frames = Vec::new();
    while let Some(at) = (0..stream.len()).find(|&at| stream[at..].starts_with(end)) {
        let record = trimmed(framing, &stream[..at]);
        frames.push(match record.len() {
            0 => Frame::Empty,
            bytes if bytes > framing.max_bytes => too_long(record),
            _ => Frame::Record(record.to_vec(), FrameFlags::default()),
        });
        stream = &stream[at + end.len()..];
    }
    // The last bytes may be the first ones of a delimiter: they do not make a frame oversized.
    let certain = trimmed(framing, &stream[..stream.len().saturating_sub(end.len() - 1)]);
    let record = trimmed(framing, stream);
    if certain.len() > framing.max_bytes {
        frames.push(too_long(certain));
    } else if !record.is_empty() {
        frames.push(Frame::Rejected(RejectReason::Unfinished, sample(record)));
    }
    frames
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
        assert_eq!(got, [Frame::Record(all.clone(), FrameFlags::default())]);
    }
}

#[test]
fn cr_lf_and_cr_lf_machines_all_work_with_trimming() {
    let record = |text: &str| Frame::Record(text.as_bytes().to_vec(), FrameFlags::default());
    let both = vec![record("12.5 mm"), record("13 mm")];
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
            seen.push(owned(framed));
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
            let expected = [reported.clone(), Frame::Record(b"ok".to_vec(), FrameFlags::default())];
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
