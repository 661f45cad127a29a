//! What the delivery client makes of answers, right and wrong ones: each is read whole, byte by byte, cut in two at every
//! place, and behind a good answer.

use proptest::prelude::*;
use ringest::http::client::{
    ChunkFault, Event, FramingFault, Head, MediaType, RequestHead, RequestHeadError, ResponseError, ResponseReader,
    RetryAfter,
};

const GOOD: &str = "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ngood";

/// One answer as its owner saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    head: Head,
    body: Vec<u8>,
    /// `None` as long as it is not over.
    reusable: Option<bool>,
}

/// All that came of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    answers: Vec<Answer>,
    error: Option<ResponseError>,
    /// Bytes left behind the last answer.
    left: usize,
    idle: bool,
}

impl Outcome {
    fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.head.status).collect()
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Head(head) => self.answers.push(Answer { head, body: Vec::new(), reusable: None }),
            Event::Body(bytes) => {
                assert!(!bytes.is_empty());
                self.answers.last_mut().expect("a head came first").body.extend_from_slice(bytes);
            }
            Event::End { reusable } => self.answers.last_mut().expect("a head came first").reusable = Some(reusable),
        }
    }
}

/// Reads `pieces`, then the end of the connection if `eof`.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, eof: bool) -> Outcome {
    let mut reader = ResponseReader::new();
    let mut outcome = Outcome::default();
    'pieces: for piece in pieces {
        let mut input = piece;
        loop {
            match reader.next(&mut input) {
                Ok(Some(event)) => outcome.take(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next(&mut b"HTTP/1.1 ".as_slice()), Err(error), "an error stays");
                    assert_eq!(reader.handle_eof(), Err(error));
                    outcome.error = Some(error);
                    break 'pieces;
                }
            }
        }
        outcome.left += input.len();
    }
    outcome.idle = reader.is_idle();
    if eof && outcome.error.is_none() {
        match reader.handle_eof() {
            Ok(Some(event)) => outcome.take(event),
            Ok(None) => {}
            Err(error) => outcome.error = Some(error),
        }
    }
    outcome
}

/// Reads `bytes` in many ways, which must all come to the same, and once more behind a good answer.
fn read_all_ways(bytes: impl AsRef<[u8]>, eof: bool) -> Outcome {
    let bytes = bytes.as_ref();
    let whole = read([bytes], eof);
    assert_eq!(read(bytes.chunks(1), eof), whole, "byte by byte");
    if bytes.len() < 1000 {
        for split in 1..bytes.len() {
            let (first, second) = bytes.split_at(split);
            assert_eq!(read([first, second], eof), whole, "split at {split}");
        }
    }
    let behind = [GOOD.as_bytes(), bytes].concat();
    for outcome in [read([behind.as_slice()], eof), read(behind.chunks(1), eof)] {
        assert_eq!(outcome.answers[0].body, b"good");
        assert_eq!(
            (&outcome.answers[1..], outcome.error),
            (whole.answers.as_slice(), whole.error),
            "behind a good one"
        );
    }
    whole
}

fn head(status: u16) -> Head {
    Head { status, keep_alive: true, retry_after: None, content_length: None, content_type: MediaType::default() }
}

/// A 201 with a body of three bytes and more header fields.
fn created(fields: &str) -> String {
    format!("HTTP/1.1 201 Created\r\nServer: x\r\nContent-Length: 3\r\n{fields}\r\nabc")
}

fn error_of(bytes: impl AsRef<[u8]>) -> ResponseError {
    let outcome = read_all_ways(bytes, false);
    assert_eq!(outcome.answers, [], "no answer came of it");
    outcome.error.expect("an error")
}

#[test]
fn answers_that_came_out_wrong_once_are_read_and_the_connection_goes_on() {
    for bytes in
        [&include_bytes!("cases/http/r01-obs-fold.raw")[..], include_bytes!("cases/http/r05-space-before-colon.raw")]
    {
        let outcome = read_all_ways(bytes, false);
        assert_eq!((outcome.statuses(), outcome.error, outcome.left, outcome.idle), (vec![201], None, 0, true));
        assert_eq!((&outcome.answers[0].body[..], outcome.answers[0].reusable), (&b"ok"[..], Some(true)));
    }
}

#[test]
fn c1_interim_answers_are_skipped_up_to_sixteen() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for count in [0, 1, 8] {
        let outcome = read_all_ways(format!("{}{GOOD}", interim.repeat(count)), false);
        assert_eq!((outcome.statuses(), outcome.error, outcome.idle), (vec![201], None, true));
    }
    let sixteen = interim.repeat(8);
    let two_answers = format!("{sixteen}{GOOD}{sixteen}{GOOD}");
    assert_eq!(read_all_ways(two_answers, false).statuses(), [201, 201], "they are counted for each answer");
    assert_eq!(error_of(format!("{sixteen}HTTP/1.1 102 \r\n\r\n{GOOD}")), ResponseError::Interim { max: 16 });
    assert_eq!(error_of("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), ResponseError::SwitchesProtocols);
    assert_eq!(read_all_ways("HTTP/1.1 100 \r\n\r\n", true).error, Some(ResponseError::HeadCut));
    assert!(!read_all_ways("HTTP/1.1 100 \r\n\r\n", false).idle);
}

#[test]
fn c2_an_answer_is_known_once_its_head_is_whole() {
    let by_length = created("");
    let chunked =
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nT: u\r\n\r\n";
    let head_bytes = by_length.len() - 3;
    let outcome = read([&by_length.as_bytes()[..head_bytes - 1]], false);
    assert_eq!(outcome.answers, []);
    let outcome = read([&by_length.as_bytes()[..head_bytes]], false);
    let known = Head { content_length: Some(3), ..head(201) };
    assert_eq!(outcome.answers, [Answer { head: known, body: Vec::new(), reusable: None }]);
    assert!(!outcome.idle);

    let whole = |head, reusable| vec![Answer { head, body: b"abc".to_vec(), reusable: Some(reusable) }];
    let outcome = read_all_ways(&by_length, false);
    assert_eq!((outcome.answers, outcome.idle), (whole(known, true), true));
    let outcome = read_all_ways(chunked, false);
    assert_eq!((outcome.answers, outcome.idle), (whole(head(201), true), true));
    let until_close = read_all_ways("HTTP/1.1 201 Created\r\n\r\nabc", true);
    assert_eq!(until_close.answers, whole(Head { keep_alive: false, ..head(201) }, false));
    assert_eq!(until_close.error, None);
    let open = read_all_ways("HTTP/1.1 201 Created\r\n\r\nabc", false);
    assert_eq!(open.answers[0].reusable, None, "only the close ends it");
    assert!(!open.idle);
}

#[test]
fn c2_an_answer_without_a_body_ends_with_its_head() {
    for (bytes, reusable) in [
        ("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", false),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", true),
    ] {
        let outcome = read_all_ways(bytes, false);
        assert_eq!(outcome.answers[0].reusable, Some(reusable), "{bytes}");
        assert_eq!((outcome.answers[0].body.as_slice(), outcome.error), (b"".as_slice(), None));
        assert_eq!(outcome.idle, reusable);
    }
}

#[test]
fn c3_every_status_is_passed_on() {
    for status in 200..=599 {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(read([answer.as_bytes()], false).statuses(), [status]);
        assert_eq!(read(answer.as_bytes().chunks(1), false).statuses(), [status]);
    }
    for line in ["HTTP/1.1 201", "HTTP/1.1 201 ", "HTTP/1.1 201 \u{e9}\t", "HTTP/1.2 201 Created"] {
        assert_eq!(read_all_ways(format!("{line}\r\nContent-Length: 0\r\n\r\n"), false).statuses(), [201], "{line}");
    }
    for line in [
        "HTTP/1.1  201",
        "HTTP/1.1 2010",
        "HTTP/1.1 20",
        "HTTP/1.1 20x",
        "HTTP/1.1 +20",
        "HTTP/1.1 099",
        "HTTP/1.1 600",
        "HTTP/1.1201 x",
        "HTTP/1.x 201",
        "HTTP/1.11 201",
        "HTTP/1.1 201 a\0",
        "HTTP/1.1\t201",
    ] {
        assert_eq!(error_of(format!("{line}\r\nContent-Length: 0\r\n\r\n")), ResponseError::StatusLine, "{line}");
    }
    for bytes in
        ["http/1.1 201 x\r\n\r\n", "HTTP/2.0 201 x\r\n\r\n", "\r\nHTTP/1.1 201 x\r\n\r\n", "x", "ICY 200 OK\r\n"]
    {
        assert_eq!(error_of(bytes), ResponseError::NotHttp, "{bytes}");
    }
}

#[test]
fn c4_an_answer_without_a_certain_end_is_no_answer() {
    let answer = |fields: &str| format!("HTTP/1.1 201 Created\r\n{fields}\r\n3\r\nabc\r\n0\r\n\r\n");
    for value in ["+5", "-5", "0x5", "5_0", "5 5", "", "5,", "5, +5", "18446744073709551616"] {
        let error = error_of(answer(&format!("Content-Length: {value}\r\n")));
        assert_eq!(error, ResponseError::Framing(FramingFault::ContentLength), "{value}");
    }
    for (fields, fault) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", FramingFault::ContentLengths),
        ("Content-Length: 5, 6\r\n", FramingFault::ContentLengths),
        ("Content-Length: 5\r\n 6\r\n", FramingFault::ContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: identity, chunked\r\n", FramingFault::Both),
        ("Transfer-Encoding: identity\r\n", FramingFault::UnknownCoding),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", FramingFault::Both),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", FramingFault::Both),
        ("Transfer-Encoding: gzip\r\n", FramingFault::UnknownCoding),
        ("Transfer-Encoding: gzip, chunked\r\n", FramingFault::UnknownCoding),
        ("Transfer-Encoding: chunked, gzip\r\n", FramingFault::ChunkedNotLast),
        ("Transfer-Encoding: chunked, chunked\r\n", FramingFault::ChunkedNotLast),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", FramingFault::ChunkedNotLast),
        ("Transfer-Encoding: \r\n", FramingFault::EmptyCoding),
    ] {
        assert_eq!(error_of(answer(fields)), ResponseError::Framing(fault), "{fields}");
    }
    for (body, fault) in [
        ("g\r\n", ChunkFault::Size),
        ("00000000000000003\r\nabc", ChunkFault::SizeDigits),
        ("3\nabc", ChunkFault::SizeLineEnd),
        ("3\r\nabcd", ChunkFault::DataEnd),
    ] {
        let outcome = read_all_ways(format!("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), false);
        assert_eq!((outcome.statuses(), outcome.error), (vec![201], Some(ResponseError::Chunks(fault))), "{body}");
    }
}

#[test]
fn c4_malformed_heads_are_no_answers() {
    for fields in ["X\r\n", ": x\r\n", "X y: x\r\n", "X: a\0b\r\n", "X: \x7f\r\n", "X: a\r\n \0\r\n", "X\u{e9}: x\r\n"]
    {
        assert_eq!(error_of(created(fields)), ResponseError::Field, "{fields:?}");
    }
    assert_eq!(error_of("HTTP/1.1 201 Created\r\n X: folded into nothing\r\n\r\n"), ResponseError::Field);
    for fields in ["X: y\rz\r\n", "X: y\r\r\n", "\rX: y\r\n"] {
        assert_eq!(error_of(created(fields)), ResponseError::BareCr, "{fields:?}");
    }
    let fields = |count: usize| created(&"X: y\r\n".repeat(count));
    assert_eq!(read_all_ways(fields(126), false).statuses(), [201]);
    assert_eq!(error_of(fields(127)), ResponseError::Fields { max: 128 });
}

#[test]
fn c4_what_breaks_a_rule_and_leaves_no_doubt_is_read() {
    let good = |fields: &str| format!("HTTP/1.1 201 Created\r\n{fields}\r\nabc");
    for bytes in [
        good("X-Long: a\r\n b\r\nContent-Length: 3\r\n"),
        good("Content-Length:\r\n\t3\r\n"),
        good("Content-Length: 3\r\n \r\n"),
        good("X-Odd : a\r\nContent-Length: 3\r\n"),
        good("Content-Length \t: 3\r\n"),
        good("Content-Length: 3\r\nContent-Length: 3\r\n"),
        good("Content-Length: 3, 03\r\n"),
        good("X: y\nContent-Length: 3\r\n"),
        good("Content-Length: 3\r\n").replace("\r\n", "\n"),
        good("Content-Length: 3\r\n").replace("\r\n\r\n", "\r\n\n"),
    ] {
        let outcome = read_all_ways(&bytes, false);
        let read = outcome.answers.first().expect("an answer");
        assert_eq!(
            (read.head.status, read.body.as_slice(), read.reusable),
            (201, &b"abc"[..], Some(true)),
            "{bytes:?}"
        );
        assert_eq!((outcome.error, outcome.idle), (None, true));
    }
    // What is meant is clear, but nothing that follows would be.
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    for bytes in [
        format!("HTTP/1.0 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        format!("HTTP/1.0 201 Created\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        good("Transfer-Encoding: identity\r\nContent-Length: 3\r\n"),
        good("Content-Length: 3\r\nTransfer-Encoding: Identity\r\n"),
    ] {
        let outcome = read_all_ways(&bytes, false);
        let read = outcome.answers.first().expect("an answer");
        assert_eq!(
            (read.head.status, read.body.as_slice(), read.reusable),
            (201, &b"abc"[..], Some(false)),
            "{bytes:?}"
        );
    }
}

#[test]
fn c5_what_is_cut_short_is_an_error() {
    let answer = created("");
    let head_bytes = answer.len() - 3;
    assert_eq!(read([], true), Outcome { idle: true, ..Outcome::default() }, "nothing came");
    for cut in 1..answer.len() {
        let outcome = read([&answer.as_bytes()[..cut]], true);
        if cut < head_bytes {
            assert_eq!((outcome.statuses(), outcome.error), (vec![], Some(ResponseError::HeadCut)), "cut at {cut}");
        } else {
            assert_eq!((outcome.statuses(), outcome.error), (vec![201], Some(ResponseError::BodyCut)), "cut at {cut}");
        }
    }
    let chunked = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for cut in chunked.len() - 13..chunked.len() {
        let outcome = read([&chunked.as_bytes()[..cut]], true);
        assert_eq!((outcome.statuses(), outcome.error), (vec![201], Some(ResponseError::BodyCut)), "cut at {cut}");
    }
    assert_eq!(read_all_ways(&answer, true).error, None);
}

#[test]
fn c6_what_comes_behind_an_answer_stays_in_the_input() {
    let mut reader = ResponseReader::new();
    assert!(reader.is_idle());
    let bytes = format!("{GOOD}{GOOD}");
    let mut input = bytes.as_bytes();
    while reader.next(&mut input).unwrap() != Some(Event::End { reusable: true }) {}
    assert!(reader.is_idle());
    assert_eq!(input, GOOD.as_bytes(), "the owner decides whether a second answer was asked for");
    assert!(matches!(reader.next(&mut &input[..5]), Ok(None)));
    assert!(!reader.is_idle());

    let closing = format!("{}{GOOD}", created("Connection: close\r\n"));
    let outcome = read([closing.as_bytes()], true);
    assert_eq!((outcome.statuses(), outcome.left, outcome.idle), (vec![201], GOOD.len(), false));
    assert_eq!(outcome.error, None);
}

#[test]
fn heads_that_come_again_are_read_as_at_first() {
    let answer = |status: u16, fields: &str, body: &str| {
        format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
    };
    let long = format!("X-Trace: {}\r\n", "t".repeat(2000));
    let kinds = [
        answer(201, "", "good"),
        answer(200, "Content-Type: application/json\r\n", "{\"id\": 7}"),
        answer(503, "Retry-After: 3\r\n", ""),
        answer(201, &long, "good"),
        answer(201, "", "fine"),
    ];
    let order = [0, 0, 1, 0, 1, 2, 1, 3, 3, 4, 0, 2, 2, 1];
    let outcome = read_all_ways(order.map(|kind: usize| &*kinds[kind]).concat(), false);
    let alone: Vec<Answer> = order.iter().flat_map(|kind| read_all_ways(&kinds[*kind], false).answers).collect();
    assert_eq!(outcome.answers, alone);
    assert_eq!((outcome.error, outcome.idle), (None, true));
}

#[test]
fn c9_a_connection_that_ends_is_not_used_again() {
    for (bytes, reusable) in [
        (created(""), true),
        (created("Connection: keep-alive\r\n"), true),
        (created("Connection: close\r\n"), false),
        (created("connection: x , CLOSE\r\n"), false),
        (created("Connection: x\r\nConnection: close\r\n"), false),
        (created("X-Connection: close\r\n"), true),
        (created("").replace("HTTP/1.1", "HTTP/1.0"), false),
        (created("Connection: Keep-Alive\r\n").replace("HTTP/1.1", "HTTP/1.0"), true),
        (created("Connection: keep-alive, close\r\n").replace("HTTP/1.1", "HTTP/1.0"), false),
    ] {
        let outcome = read([bytes.as_bytes()], false);
        assert_eq!(outcome, read(bytes.as_bytes().chunks(1), false));
        assert_eq!(outcome.answers[0].head.keep_alive, reusable, "{bytes}");
        assert_eq!(outcome.answers[0].reusable, Some(reusable), "{bytes}");
    }
}

#[test]
fn c10_heads_and_bodies_have_bounds() {
    let filler =
        |bytes: usize| format!("HTTP/1.1 201 Created\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "x".repeat(bytes - 48));
    assert_eq!(filler(100).len(), 100);
    assert_eq!(read_all_ways(filler(65_536), false).statuses(), [201]);
    assert_eq!(error_of(filler(65_537)), ResponseError::HeadBytes { max: 65_536 });
    assert_eq!(error_of(format!("HTTP/1.1 201 {}", "x".repeat(70_000))), ResponseError::HeadBytes { max: 65_536 });

    let megabyte = 1 << 20;
    let too_large = Some(ResponseError::BodyBytes { max: megabyte as u64 });
    let by_length = |bytes: usize| format!("HTTP/1.1 201 \r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
    let until_close = |bytes: usize| format!("HTTP/1.1 201 \r\n\r\n{}", "x".repeat(bytes));
    let chunked = |bytes: usize| {
        let half = "x".repeat(bytes / 2);
        let rest = "x".repeat(bytes - bytes / 2);
        let head = "HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{half}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", half.len(), rest.len())
    };
    for make in [&by_length as &dyn Fn(usize) -> String, &until_close, &chunked] {
        for pieces in [usize::MAX, 10_007] {
            let fits = read(make(megabyte).as_bytes().chunks(pieces), true);
            assert_eq!((fits.error, fits.answers[0].body.len()), (None, megabyte));
            let endless = read(make(megabyte + 1).as_bytes().chunks(pieces), true);
            assert_eq!((endless.statuses(), endless.error), (vec![201], too_large), "its head was known before");
        }
    }
    let announced = read_all_ways("HTTP/1.1 201 \r\nContent-Length: 18446744073709551615\r\n\r\n", false);
    assert_eq!((announced.statuses(), announced.error), (vec![201], too_large));
}

#[test]
fn c16_retry_after_is_seconds_or_a_date_and_nonsense_is_ignored() {
    for (fields, expected) in [
        ("Retry-After: 120\r\n", Some(RetryAfter::Seconds(120))),
        ("retry-after:0\r\n", Some(RetryAfter::Seconds(0))),
        ("Retry-After: 99999999999999999999999\r\n", Some(RetryAfter::Seconds(u32::MAX))),
        ("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", Some(RetryAfter::Date(784_111_777))),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: -1\r\n", None),
        ("Retry-After: 1.5\r\n", None),
        ("Retry-After: \r\n", None),
        ("Retry-After: soon\r\nRetry-After: 7\r\n", Some(RetryAfter::Seconds(7))),
        ("", None),
    ] {
        let answer = format!("HTTP/1.1 503 Busy\r\n{fields}Content-Length: 0\r\n\r\n");
        assert_eq!(read_all_ways(answer, false).answers[0].head.retry_after, expected, "{fields}");
    }
}

#[test]
fn a_request_is_written_behind_what_is_there_with_one_growth() {
    let headers = [("Authorization".to_owned(), "Token t".to_owned())];
    let head = RequestHead::post("/films/?a=b", "127.0.0.1:8000", "application/json", &headers).unwrap();
    let mut out = b"before".to_vec();
    head.write("0af3-1", "-seq", b"{}", &mut out);
    let expected = "beforePOST /films/?a=b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n\
        Authorization: Token t\r\nIdempotency-Key: 0af3-1-seq\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    let body = vec![b'x'; 1234];
    let mut out = Vec::new();
    head.write_head("k", "", body.len(), &mut out);
    let (place, room) = (out.as_ptr(), out.capacity() - out.len());
    assert!(room >= body.len());
    out.extend_from_slice(&body);
    assert_eq!(out.as_ptr(), place, "the body found room");
    let mut whole = Vec::new();
    head.write("k", "", &body, &mut whole);
    assert_eq!(whole, out);
    let text = String::from_utf8(whole).unwrap();
    assert!(text.contains("\r\nIdempotency-Key: k\r\nContent-Length: 1234\r\n\r\nxxx"));
}

#[test]
fn c11_what_would_break_a_request_is_refused() {
    let post = |target: &str, host: &str, content_type: &str, name: &str, value: &str| {
        RequestHead::post(target, host, content_type, &[(name.to_owned(), value.to_owned())]).unwrap_err()
    };
    for target in ["", "films", "/a b", "/a\r\nX: y", "/\u{e9}"] {
        assert_eq!(post(target, "a", "b/c", "X", "y"), RequestHeadError::Target { target: target.to_owned() });
    }
    assert_eq!(post("/", "a\r", "b/c", "X", "y"), RequestHeadError::Value { name: "Host".to_owned(), byte: b'\r' });
    let content_type = "Content-Type".to_owned();
    assert_eq!(post("/", "a", "b\nc", "X", "y"), RequestHeadError::Value { name: content_type, byte: b'\n' });
    assert_eq!(post("/", "a", "b/c", "X", "y\0"), RequestHeadError::Value { name: "X".to_owned(), byte: 0 });
    for name in ["", "X Y", "X:", "X\r\n"] {
        assert_eq!(post("/", "a", "b/c", name, "y"), RequestHeadError::Name { name: name.to_owned() });
    }
    for name in ["content-length", "Transfer-Encoding", "Idempotency-Key", "HOST", "Connection", "Expect"] {
        assert_eq!(post("/", "a", "b/c", name, "y"), RequestHeadError::Reserved { name: name.to_owned() });
    }
}

/// Cuts `bytes` at these places, counted round.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes that look like answers, with mistakes.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop_oneof![
        8 => prop::sample::select(vec![
            "HTTP/1.1 201 Created\r\n", "HTTP/1.1 201 Created\r\n", "HTTP/1.1 100 Continue\r\n", "HTTP/1.0 200\r\n", "HTTP/1.1 ",
            "HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 503 x\r\n", "Content-Length: 5\r\n", "Content-Length: 5\r\n",
            "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip\r\n", "Connection: close\r\n",
            "Connection: keep-alive\r\n", "Retry-After: 5\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "hello", "hello",
            "5\r\nhello\r\n", "0\r\n\r\n", "0\r\n", "ff;a=b\r\n", "X: y\r\n", ": ", "\t", " ", "\0",
        ]).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(GOOD.as_bytes().to_vec()),
        1 => Just(b"HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()),
    ];
    prop::collection::vec(parts, 0..25).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn answers_read_the_same_however_they_are_cut(
        bodies in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0usize..30, 200u16..600), 1..6),
        fields in prop::collection::vec(("X-[a-zA-Z]{1,9}", "[ -~\t\u{e9}]{0,40}"), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for (body, chunk, status) in bodies {
            let bare = matches!(status, 204 | 304);
            let chunked = chunk > 0 && !bare;
            wire.extend(format!("HTTP/1.1 {status} x\r\n{fields}").bytes());
            if chunked {
                wire.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for data in body.chunks(chunk) {
                    wire.extend(format!("{:x}\r\n", data.len()).bytes());
                    wire.extend(data);
                    wire.extend(b"\r\n");
                }
                wire.extend(b"0\r\n\r\n");
            } else {
                let length = if bare { 0 } else { body.len() };
                wire.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
                wire.extend(&body[..length]);
            }
            let body = if bare { Vec::new() } else { body };
            let content_length = (!chunked).then_some(body.len() as u64);
            expected.push(Answer { head: Head { content_length, ..head(status) }, body, reusable: Some(true) });
        }
        let outcome = read(pieces(&wire, &cuts), true);
        prop_assert_eq!(outcome.error, None);
        prop_assert!(outcome.idle);
        prop_assert_eq!(outcome.answers, expected);
    }

    #[test]
    fn whatever_comes_reads_the_same_however_it_is_cut(
        wire in soup(),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
        eof in any::<bool>(),
    ) {
        let whole = read([wire.as_slice()], eof);
        prop_assert_eq!(&read(pieces(&wire, &cuts), eof), &whole);
        prop_assert_eq!(&read(wire.chunks(1), eof), &whole);
    }

    #[test]
    fn random_bytes_never_panic(
        start in prop::sample::select(vec!["", "HTTP/1.1 201 ", "HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..1000),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let wire = [start.as_bytes(), &bytes].concat();
        let outcome = read(pieces(&wire, &cuts), true);
        prop_assert!(outcome.answers.iter().map(|answer| answer.body.len()).sum::<usize>() <= wire.len());
    }
}
