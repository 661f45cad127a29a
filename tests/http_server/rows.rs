//! One row of the table of right and wrong requests after the other.

use super::*;

fn check_outcome(case: &Case, way: &str, outcome: &Outcome, good_before: bool) {
    let context =
        format!("row {} {way}: {}", case.row, String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(200)]));
    let mut statuses = if good_before { vec![201] } else { vec![] };
    let mut bodies: Vec<&[u8]> = if good_before { vec![b"good"] } else { vec![] };
    statuses.extend(&case.statuses);
    bodies.extend(case.bodies.iter().map(Vec::as_slice));
    if !case.closes {
        statuses.push(201);
        bodies.push(b"good");
    }
    let answers = outcome.answers(&[]);
    assert_eq!(outcome.statuses(), statuses, "{context}");
    assert_eq!(outcome.bodies(), bodies, "{context}");
    assert_eq!(outcome.closed, case.closes, "{context}");
    let closing: Vec<usize> =
        (0..answers.len()).filter(|index| answers[*index].field("connection") == Some("close")).collect();
    assert_eq!(closing, if case.closes { vec![answers.len() - 1] } else { vec![] }, "{context}");
    let accepted = statuses.iter().filter(|status| (200..300).contains(*status)).count();
    assert_eq!((outcome.accepted, outcome.refused), (accepted as u32, (statuses.len() - accepted) as u32), "{context}");
}

fn check(cases: &[Case]) {
    check_at(&Access::default(), GOOD, cases);
}

/// At a listener that lets such in; `good` is a request that it takes.
pub(super) fn check_at(access: &Access, good: &str, cases: &[Case]) {
    check_with((access, &Forms::default()), good, cases);
}

/// At a listener that lets such in, and takes these forms.
pub(super) fn check_with((access, forms): (&Access, &Forms), good: &str, cases: &[Case]) {
    let run = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut machine = Machine { access: access.clone(), ..Machine::new() };
        machine.forms = forms.clone();
        pieces.for_each(|piece| machine.feed(piece));
        machine.outcome
    };
    for case in cases {
        let alone = [&case.bytes, good.as_bytes()].concat();
        check_outcome(case, "whole", &run(&mut [alone.as_slice()].into_iter()), false);
        check_outcome(case, "byte by byte", &run(&mut alone.chunks(1)), false);
        let behind = [good.as_bytes(), &alone].concat();
        check_outcome(case, "pipelined", &run(&mut [behind.as_slice()].into_iter()), true);
        check_outcome(case, "pipelined, byte by byte", &run(&mut behind.chunks(1)), true);
        if alone.len() < 1000 {
            for split in 1..alone.len() {
                let (first, second) = alone.split_at(split);
                check_outcome(case, &format!("split at {split}"), &run(&mut [first, second].into_iter()), false);
            }
        }
    }
}

#[test]
fn rows_1_to_3_a_record_is_taken_and_answered_once_it_is_durable() {
    check(&table::rows_1_to_3());
    let mut machine = Machine::new();
    machine.receive(0, with_length("5").repeat(3).as_bytes());
    assert_eq!(machine.flush(0), Output::default());
    assert_eq!(machine.connection.deadline_ns(&machine.limits), None, "a record's answer waits without a deadline");
    machine.connection.release(2);
    assert_eq!(machine.flush(0), Output { accepted: 2, ..Output::default() });
    machine.connection.release(3);
    machine.connection.release(1);
    assert!(machine.connection.has_output(), "what is durable stays durable");
    machine.flush(0);
    assert_eq!(machine.outcome.statuses(), [201, 201, 201]);
    assert_eq!(machine.outcome.answers(&[])[2].body, r#"{"accepted":1}"#);
}

#[test]
fn rows_4_to_12_content_length() {
    check(&table::rows_4_to_12());
}

#[test]
fn rows_13_to_20_transfer_encoding() {
    check(&table::rows_13_to_20());
}

#[test]
fn rows_21_to_30_chunks() {
    check(&table::rows_21_to_30());
}

#[test]
fn row_31_what_the_stream_ends_in_the_middle_of_is_dropped() {
    for request in [with_length("5"), chunked("5;a\r\nhello\r\n0\r\nT: u\r\n\r\n")] {
        for cut in 1..request.len() {
            let mut machine = Machine::new();
            machine.feed(&request.as_bytes()[..cut]);
            machine.connection.handle_eof();
            assert!(machine.connection.is_finished(), "cut at {cut}");
            assert_eq!(machine.connection.held_bytes(), 0);
            assert_eq!(machine.outcome, Outcome::default(), "cut at {cut}");
            assert!(machine.flush(0).close);
        }
    }
}

#[test]
fn row_32_a_chunked_body_is_refused_at_the_byte_that_passes_the_limit() {
    let limits = Limits { body_bytes: 10, ..Limits::default() };
    let mut machine = Machine::with_limits(limits.clone());
    machine.feed(chunked("4\r\n0123\r\n8\r\n456789").as_bytes());
    assert!(machine.connection.wants_read() && machine.outcome.sent.is_empty());
    machine.feed(b"x");
    assert_eq!(machine.outcome.statuses(), [413]);
    assert!(machine.outcome.closed && machine.outcome.journaled.is_empty());
    let fits = chunked("4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n");
    assert_eq!(run_with(limits.clone(), [fits.as_bytes()]).bodies(), [b"0123456789"]);
    assert_eq!(run_with(limits, fits.as_bytes().chunks(1)).bodies(), [b"0123456789"]);
    check(&[closed("32", chunked(&format!("10001\r\n{}\r\n0\r\n\r\n", "x".repeat(65_537))), 413)]);
}

#[test]
fn rows_33_to_39_lines_and_fields() {
    check(&table::rows_33_to_39());
}

#[test]
fn rows_40_to_47_request_lines_and_hosts() {
    check(&table::rows_40_to_47());
}

#[test]
fn row_48_a_tls_client_hello_is_closed_without_an_answer() {
    let mut machine = Machine::new();
    machine.feed(&[0x16, 3, 1, 2, 0, 1]);
    assert!(machine.connection.is_finished() && machine.connection.saw_tls_hello());
    assert!(machine.outcome.sent.is_empty() && machine.outcome.closed);
    machine.feed(GOOD.as_bytes());
    assert!(machine.outcome.journaled.is_empty());
    let behind = run([[GOOD.as_bytes(), &[0x16, 3, 1]].concat().as_slice()]);
    assert_eq!((behind.statuses(), behind.closed), (vec![201], true));
}

#[test]
fn rows_49_to_51_targets_and_header_sizes() {
    check(&table::rows_49_to_51());
}

#[test]
fn rows_52_to_56_other_methods_and_paths() {
    let line = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    check(&table::rows_52_to_56());
    for request in [line("GET", "/v1/records/a"), line("TRACE", "/"), line("OPTIONS", "*")] {
        let outcome = run([request.as_bytes()]);
        assert_eq!(outcome.answers(&[])[0].field("allow"), Some("POST, PUT, OPTIONS"), "{request}");
    }
    let heads = [line("HEAD", "/v1/records/a"), line("HEAD", "/x"), GOOD.to_owned()].concat();
    for pieces in [vec![heads.as_bytes()], heads.as_bytes().chunks(1).collect()] {
        let answers = run(pieces).answers(&[0, 1]);
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [405, 404, 201]);
    }
    let bad_head = "HEAD / HTTP/1.1\r\n\r\n";
    assert_eq!(run([bad_head.as_bytes()]).answers(&[0])[0].status, 400);
}

#[test]
fn rows_57_to_59_what_a_record_may_be() {
    let with = |field: &str| post(&format!("{field}\r\nContent-Length: 5\r\n"), "hello");
    check(&table::rows_57_to_60());
    let answer = run([with("Content-Encoding: deflate").as_bytes()]).answers(&[]).remove(0);
    assert_eq!(answer.field("accept-encoding"), Some("gzip"));
    let malformed = run([with("Content-Type: text").as_bytes()]);
    assert_eq!(malformed.journaled[0].content_type, None, "taken as octet-stream");
    let answer = run([with("Content-Type: multipart/form-data; boundary=b").as_bytes()]).answers(&[]).remove(0);
    assert_eq!(answer.field("content-type"), Some("application/json"));
    let start =
        r#"{"rule":"a form with several parts is no record","came":"Content-Type multipart/…","allowed":"a body of"#;
    assert!(answer.body.starts_with(start) && answer.body.ends_with("\"}\n"), "{}", answer.body);
    let request = with(&format!("Content-Type: application/x-ndjson\r\nidempotency-key: {}", "k".repeat(255)));
    for pieces in [vec![request.as_bytes()], request.as_bytes().chunks(1).collect()] {
        let outcome = run(pieces);
        assert_eq!(outcome.journaled[0].content_type.as_deref(), Some(b"application/x-ndjson".as_slice()));
        assert_eq!(outcome.journaled[0].idempotency_key.as_deref(), Some([b'k'; 255].as_slice()));
    }
}

#[test]
fn rows_61_to_64_expectations() {
    let head = post("Expect: 100-continue\r\nContent-Length: 5\r\n", "");
    let chunks = post("Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", "");
    for (head, body) in [(&head, "hello"), (&chunks, HELLO)] {
        let mut machine = Machine::new();
        machine.feed(head.as_bytes());
        assert_eq!(machine.outcome.statuses(), [100]);
        machine.feed(format!("{body}{GOOD}").as_bytes());
        assert_eq!(machine.outcome.statuses(), [100, 201, 201], "row 61");
        assert_eq!(machine.outcome.bodies(), [b"hello".as_slice(), b"good"]);
        assert_eq!(run([format!("{head}{body}").as_bytes()]).statuses(), [201], "row 61, the body did not wait");
        let bytewise = run(format!("{GOOD}{head}{body}").as_bytes().chunks(1));
        assert_eq!(bytewise.statuses(), [201, 100, 201], "row 61, byte by byte");
    }
    for (field, status) in [("Content-Type: multipart/x\r\n", 415), ("Content-Length: 65537\r\n", 413)] {
        let length = if status == 413 { "" } else { "Content-Length: 5\r\n" };
        let head = post(&format!("Expect: 100-continue\r\n{field}{length}"), "");
        let mut machine = Machine::new();
        machine.feed(head.as_bytes());
        assert_eq!((machine.outcome.statuses(), machine.outcome.closed), (vec![status], true), "row 62");
        machine.feed(GOOD.as_bytes());
        assert_eq!(machine.outcome.statuses(), [status]);
    }
    let old = head.replace("HTTP/1.1", "HTTP/1.0");
    let mut machine = Machine::new();
    machine.feed(old.as_bytes());
    assert!(machine.outcome.sent.is_empty(), "row 63");
    machine.feed(b"hello");
    assert_eq!((machine.outcome.statuses(), machine.outcome.closed), (vec![201], true));
    check(&table::row_64());
}

#[test]
fn row_65_connection_close_ends_the_connection_behind_its_answer() {
    check(&table::row_65());
}

#[test]
fn row_66_an_idle_connection_is_closed_quietly() {
    let mut machine = Machine::new();
    let idle_ns = machine.limits.idle_timeout.as_nanos() as u64;
    assert_eq!(machine.connection.deadline_ns(&machine.limits), Some(idle_ns));
    machine.receive(SECOND_NS, GOOD.as_bytes());
    machine.connection.release(1);
    machine.flush(3 * SECOND_NS);
    let deadline_ns = idle_ns + 3 * SECOND_NS;
    machine.receive(5 * SECOND_NS, b"\r\n");
    assert_eq!(machine.connection.deadline_ns(&machine.limits), Some(deadline_ns), "an empty line is no request");
    machine.connection.handle_deadline(deadline_ns - 1, &machine.limits);
    assert!(machine.connection.wants_read());
    machine.connection.handle_deadline(deadline_ns, &machine.limits);
    assert!(machine.connection.is_finished() && !machine.connection.has_output());
    assert_eq!(machine.outcome.statuses(), [201]);
}

#[test]
fn row_67_a_request_that_drips_is_answered_408() {
    let limits = Limits::default();
    let header_ns = limits.header_timeout.as_nanos() as u64;
    let body_ns = limits.body_timeout.as_nanos() as u64;
    let byte_ns = SECOND_NS / limits.body_rate_bytes as u64;
    for (bytes, late, deadline_ns) in [
        ("P", "OST /v1", SECOND_NS + header_ns),
        ("POST /v1/records/a HTTP/1.1\r\nHost", ": a\r\n", SECOND_NS + header_ns),
        (&post("Content-Length: 5\r\n", "hel"), "l", SECOND_NS + body_ns + byte_ns),
        (&chunked("5\r\n"), "hello", SECOND_NS + body_ns + 5 * byte_ns),
        ("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "l", SECOND_NS + body_ns + byte_ns),
    ] {
        let mut machine = Machine::new();
        machine.receive(SECOND_NS, bytes.as_bytes());
        machine.receive(2 * SECOND_NS, late.as_bytes());
        assert_eq!(machine.connection.deadline_ns(&limits), Some(deadline_ns), "{bytes}");
        machine.connection.handle_deadline(deadline_ns, &limits);
        machine.flush(deadline_ns);
        assert_eq!((machine.outcome.statuses(), machine.outcome.closed), (vec![408], true), "{bytes}");
        machine.receive(deadline_ns, GOOD.as_bytes());
        assert!(machine.outcome.journaled.is_empty() && machine.connection.held_bytes() == 0);
    }
}

/// Sends a body in pieces, one each so many milliseconds, and looks at the deadline before each. The statuses, and when the last came.
fn drip(request: &str, piece_bytes: usize, every_ms: u64) -> (Vec<u16>, u64) {
    let mut machine = Machine::new();
    let head = request.find("\r\n\r\n").expect("a head") + 4;
    machine.receive(0, &request.as_bytes()[..head]);
    let mut now_ns = 0;
    for piece in request.as_bytes()[head..].chunks(piece_bytes) {
        now_ns += every_ms * 1_000_000;
        machine.connection.handle_deadline(now_ns, &machine.limits);
        if machine.connection.has_output() {
            break;
        }
        machine.receive(now_ns, piece);
    }
    machine.connection.release(u64::MAX);
    machine.flush(now_ns);
    (machine.outcome.statuses(), now_ns / SECOND_NS)
}

#[test]
fn row_67_a_slow_but_steady_body_is_taken_and_one_under_the_least_rate_is_not() {
    let body = "b".repeat(30_000);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for request in [post("Content-Length: 30000\r\n", &body), chunked(&chunks)] {
        // 120 bytes a second, also in pieces that are seconds apart.
        assert_eq!(drip(&request, 12, 100), (vec![201], 250));
        assert_eq!(drip(&request, 2_400, 20_000).0, [201]);
        // Half the rate loses half a second of the 30 a second.
        let (statuses, seconds) = drip(&request, 5, 100);
        assert_eq!((statuses, seconds), (vec![408], 59));
        assert_eq!(drip(&request, 1, 10_000).0, [408]);
        // A quick beginning saves nothing up: silence is not longer than the timeout.
        let mut machine = Machine::new();
        machine.receive(SECOND_NS, &request.as_bytes()[..29_000]);
        machine.receive(2 * SECOND_NS, &request.as_bytes()[29_000..29_900]);
        let deadline_ns = 2 * SECOND_NS + machine.limits.body_timeout.as_nanos() as u64;
        assert_eq!(machine.connection.deadline_ns(&machine.limits), Some(deadline_ns));
    }
}

#[test]
fn a_query_is_refused_unless_the_source_ignores_it() {
    let request = with_length("5").replace("/v1/records/a ", "/v1/records/a?temperature=21.5 ");
    check(&[
        refused("query", &request, 400),
        refused("query", request.replace('?', "?x=1&").replace("POST", "PUT"), 400),
        refused("query", request.replace("temperature=21.5", ""), 400),
        refused("query", request.replace("POST", "GET"), 405),
    ]);
    let answer = run([request.as_bytes()]).answers(&[]).remove(0);
    assert!(answer.body.contains(r#""allowed":"no query, or query = \"ignore\" in the source""#), "{}", answer.body);
    let forms = Forms { query: Query::Ignore, ..Forms::default() };
    for way in [vec![request.as_bytes()], request.as_bytes().chunks(1).collect()] {
        let outcome = run_as(&forms, way);
        assert_eq!((outcome.statuses(), outcome.bodies()), (vec![201], vec![b"hello".as_slice()]));
    }
}

#[test]
fn row_43_a_peer_of_http_1_0_is_told_that_its_connection_goes_on() {
    let old = "POST /v1/records/a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello";
    let outcome = run([[old, GOOD, &old.replace("keep-alive", "x")].concat().as_bytes()]);
    let told: Vec<_> = outcome.answers(&[]).iter().map(|a| a.field("connection").map(str::to_owned)).collect();
    assert_eq!(told, [Some("keep-alive".to_owned()), None, Some("close".to_owned())]);
    let refused = old.replace("/v1/records/a", "/x").replace("POST", "OPTIONS").replace("/x", "*");
    let answer = run([refused.as_bytes()]).answers(&[]).remove(0);
    assert_eq!((answer.status, answer.field("connection")), (204, Some("keep-alive")));
}

#[test]
fn lines_of_a_head_may_end_in_lf_alone_where_the_source_allows_it() {
    let forms = Forms { bare_lf: true, ..Forms::default() };
    let bare = with_length("5").replace("\r\n", "\n");
    let plc = "POST /v1/records/a HTTP/1.0\nContent-Length: 5\nConnection: keep-alive\n\nhello".to_owned();
    let mixed = with_length("5").replacen("\r\n", "\n", 1);
    for request in [bare.clone(), plc, mixed, format!("\n{bare}"), format!("\r\n{bare}"), with_length("5")] {
        let both = [request.as_str(), GOOD].concat();
        for way in [vec![both.as_bytes()], both.as_bytes().chunks(1).collect()] {
            let outcome = run_as(&forms, way);
            assert_eq!(outcome.bodies(), [b"hello".as_slice(), b"good"], "{request:?}");
        }
        for split in 1..both.len() {
            let (first, second) = both.as_bytes().split_at(split);
            assert_eq!(run_as(&forms, [first, second]).statuses(), [201, 201], "{request:?} at {split}");
        }
    }
    for wrong in [
        with_length("5").replace("\r\n", "\r"),
        post("X: a\rb\nContent-Length: 5\r\n", "hello"),
        post("X: a\n b\nContent-Length: 5\n", "hello"),
        post("Transfer-Encoding: chunked\n", "5\nhello\r\n0\r\n\r\n"),
        bare.replace("5", "05, 5"),
    ] {
        for way in [vec![wrong.as_bytes()], wrong.as_bytes().chunks(1).collect()] {
            let outcome = run_as(&forms, way);
            assert_eq!((outcome.statuses(), outcome.closed), (vec![400], true), "{wrong:?}");
        }
    }
}

#[test]
fn row_67_a_408_stands_behind_the_answers_before_it() {
    let mut machine = Machine::new();
    machine.receive(0, format!("{GOOD}P").as_bytes());
    machine.connection.handle_deadline(u64::MAX, &machine.limits);
    assert!(!machine.connection.has_output() && !machine.connection.is_finished());
    machine.connection.release(1);
    machine.flush(0);
    assert_eq!(machine.outcome.statuses(), [201, 408]);
    assert!(machine.outcome.closed);
}

#[test]
fn row_68_requests_are_answered_after_a_half_close() {
    let mut machine = Machine::new();
    machine.receive(0, format!("{GOOD}{GOOD}POST").as_bytes());
    machine.connection.handle_eof();
    assert!(!machine.connection.is_finished() && !machine.connection.wants_read());
    assert_eq!(machine.connection.deadline_ns(&machine.limits), None);
    machine.connection.release(1);
    assert!(!machine.flush(0).close);
    machine.connection.release(2);
    assert!(machine.flush(0).close);
    let answers = machine.outcome.answers(&[]);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [201, 201]);
    assert_eq!((answers[0].field("connection"), answers[1].field("connection")), (None, Some("close")));
}

#[test]
fn row_70_and_other_verdicts_are_answered_in_order() {
    let mut connection = ServerConnection::new(0);
    let limits = Limits::default();
    let requests = GOOD.repeat(4);
    let mut input = requests.as_bytes();
    const NO_JSON: Details = Details { came: "an empty line", allowed: "JSON" };
    let verdicts = [
        Verdict::Accepted { last_number: 7, records: 120, keyed: false },
        Verdict::Unavailable { retry_after_s: 30 },
        Verdict::KeyReused,
        Verdict::Refused { status: 400, rule: "a record is JSON", details: &NO_JSON, part: Some(Part::Line(3)) },
    ];
    for verdict in verdicts {
        assert!(connection.next_request((&limits).into(), 0, &mut input, &mut Ruling::everybody).is_some());
        connection.respond(verdict);
    }
    assert!(!connection.has_output(), "all stand behind a record that is not durable");
    connection.release(8);
    let mut outcome = Outcome::default();
    let mut date = HttpDate::new();
    let output = connection.take_output(0, date.at(784_111_777 * SECOND_NS), &mut outcome.sent, &mut |_| ());
    assert_eq!(output, Output { close: false, accepted: 1, refused: 2, unavailable: 1 });
    let answers = outcome.answers(&[]);
    assert_eq!(outcome.statuses(), [201, 503, 422, 400]);
    assert_eq!(answers[0].body, r#"{"accepted":120}"#);
    assert_eq!(answers[1].field("retry-after"), Some("30"));
    let said = r#"{"rule":"a record is JSON","came":"an empty line","allowed":"JSON","line":3}"#;
    assert_eq!(answers[3].body.trim_end(), said);
}

#[test]
fn a_proxy_header_that_does_not_count_is_named_and_nothing_behind_it_is_looked_at() {
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[10; 12]].concat();
    let headers =
        [&b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2\r\n"[..], b"PROXY TCP6 ::1 ::1 1 2\r\n", b"PROXY UNKNOWN\r\n", &binary];
    let mut cases: Vec<Case> = headers.iter().map(|header| closed("43", header, 400)).collect();
    cases.push(closed("43", "\r\n\r\n\0\r\nQUIX", 400));
    cases.push(closed("43", "\r\n\r\nPOST", 400));
    cases.push(closed("43", "PROXY TCP4 \r\n", 400));
    cases.push(refused("43", "PROXY /v1/records/a HTTP/1.1\r\nHost: a\r\n\r\n", 501));
    check(&cases);
    for header in headers {
        let mut machine = Machine::new();
        machine.feed(header);
        let said = String::from_utf8(machine.outcome.sent.clone()).expect("text");
        assert!(said.contains("{\"rule\":\"a PROXY header ") && said.contains("not in proxies"), "{said}");
        assert_eq!(machine.connection.take_stranger(), Some(Stranger::ProxyHeader));
    }
}

#[test]
fn the_owner_hears_of_each_refusal_with_the_first_line_and_without_its_query() {
    let long = format!("PO{} /v1/records/a HTTP/1.1\r\n", "S".repeat(200));
    let cut = format!("{} /v1/records/a HTTP/1.1", &long[..100]);
    let cases: [(&[u8], u16, &str); 11] = [
        (b"GET /v1/records/a?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "GET /v1/records/a?\u{2026} HTTP/1.1"),
        (b"POST /x?secret HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 404, "POST /x?\u{2026} HTTP/1.1"),
        (b"POST /v1/records/a HTTP/1.1\r\n\r\n", 400, "POST /v1/records/a HTTP/1.1"),
        (b"POST /?secret", 400, "POST /?\u{2026}"),
        (b"POST /v1/records/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx", 400, "/v1/records/a"),
        (b"\xff\x01?secret", 400, "\\xff\\x01?\u{2026}"),
        (long.as_bytes(), 400, &cut),
        (
            b"POST /v1/records/a HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n",
            413,
            "POST /v1/records/a HTTP/1.1",
        ),
        (
            b"POST http://user:secret@h/v1/records/a?secret HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "POST http://\u{2026}@h/v1/records/a?\u{2026} HTTP/1.1",
        ),
        (b"CONNECT user:secret@h:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "CONNECT \u{2026}@h:443 HTTP/1.1"),
        (b"Authorization: Bearer secret\r\n\r\n", 400, "Authorization:\u{2026}"),
    ];
    for (bytes, status, line) in cases {
        let mut machine = Machine::new();
        machine.feed(bytes);
        machine.connection.handle_deadline(u64::MAX, &Limits::default());
        machine.flush(0);
        let status = if bytes == b"POST /?secret" { 408 } else { status };
        assert_eq!(machine.outcome.heard, [(status, line.to_owned())]);
    }
}
