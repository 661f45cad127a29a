//! Random requests, and random bytes that look like some: they are read the same however they are cut.

use super::*;
use proptest::prelude::*;

/// A request for a record, and its bytes.
#[derive(Debug, Clone)]
struct Sent {
    source: String,
    body: Vec<u8>,
    content_type: Option<String>,
    wire: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let framing =
        prop_oneof![Just(None), prop::collection::vec((1usize..40, "(;[a-z=\" ]{0,9})?"), 1..6).prop_map(Some),];
    let fields = prop::collection::vec(("X-[a-zA-Z0-9]{1,8}", "[ -~\u{e9}]{0,30}"), 0..20);
    let content_type = prop::option::of("[a-z]{1,9}/[a-z.+-]{1,20}(; ?charset=utf-8)?");
    let body = prop::collection::vec(any::<u8>(), 1..300);
    ("[A-Za-z0-9._-]{1,64}", body, content_type, fields, framing, any::<bool>(), "(X-T: [a-z]{0,5}\r\n){0,2}").prop_map(
        |(source, body, content_type, fields, framing, blank_line, trailers)| {
            let mut wire = if blank_line { b"\r\n".to_vec() } else { Vec::new() };
            wire.extend(format!("POST /v1/records/{source} HTTP/1.1\r\nhOST: a:1\r\n").bytes());
            for (name, value) in fields {
                wire.extend(format!("{name}: {value}\r\n").bytes());
            }
            if let Some(content_type) = &content_type {
                wire.extend(format!("Content-Type:\t{content_type} \r\n").bytes());
            }
            let Some(chunks) = framing else {
                wire.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                wire.extend(&body);
                return Sent { source, body, content_type, wire };
            };
            wire.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            let mut rest = body.as_slice();
            for (bytes, extension) in chunks.iter().cycle() {
                let (data, after) = rest.split_at((*bytes).min(rest.len()));
                wire.extend(format!("{:X}{extension}\r\n", data.len()).bytes());
                if data.is_empty() {
                    break;
                }
                wire.extend(data);
                wire.extend(b"\r\n");
                rest = after;
            }
            wire.extend(format!("{trailers}\r\n").bytes());
            Sent { source, body, content_type, wire }
        },
    )
}

/// Cuts `bytes` at these places, counted round.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Bytes that look like requests, with mistakes.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop_oneof![
        8 => prop::sample::select(vec![
            "POST /v1/records/a HTTP/1.1\r\n", "GET /v1/records/a HTTP/1.1\r\n", "HEAD / HTTP/1.1\r\n", "POST ", "/v1/records/",
            " HTTP/1.0\r\n", "OPTIONS * HTTP/1.1\r\n", "Host: a\r\n", "Host: a\r\n", "Host: u@a\r\n", "Content-Length: 5\r\n",
            "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Content-Length: 900\r\n", "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip\r\n", "Connection: close\r\n", "Content-Type: x\r\n",
            "\r\n", "\r\n", "\r\n", "\n", "\r", "hello", "hello", "5\r\nhello\r\n", "0\r\n\r\n", "0\r\n", "ff;a=b\r\n", "X: y\r\n",
            ": ", "\t", " ", "#", "HTTP/2.0", "\x16", "\0",
        ]).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => Just(GOOD.as_bytes().to_vec()),
        1 => Just(format!("{P}Content-Length: 5\r\n\r\nhello").into_bytes()),
        1 => Just(format!("{P}Transfer-Encoding: chunked\r\n\r\n").into_bytes()),
    ];
    prop::collection::vec(parts, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pipelines_give_the_same_requests_however_they_are_cut(
        requests in prop::collection::vec(sent(), 1..5),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let wire = requests.iter().map(|request| request.wire.as_slice()).collect::<Vec<_>>().concat();
        let outcome = run(pieces(&wire, &cuts));
        prop_assert_eq!(outcome.statuses(), vec![201; requests.len()], "{}", String::from_utf8_lossy(&wire));
        prop_assert!(!outcome.closed);
        for (taken, request) in outcome.journaled.iter().zip(&requests) {
            prop_assert_eq!(&taken.source, &request.source);
            prop_assert_eq!(&taken.body, &request.body);
            prop_assert_eq!(taken.content_type.as_deref(), request.content_type.as_deref().map(str::as_bytes));
        }
    }

    #[test]
    fn whatever_comes_gives_the_same_answers_however_it_is_cut(
        wire in soup(),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let limits = Limits { header_bytes: 300, target_bytes: 60, header_fields: 5, body_bytes: 40, ..Limits::default() };
        // Whether an answer can already tell of the close that a TLS hello behind it brings depends on when that comes.
        let told = |mut outcome: Outcome| {
            // What is shown of a request that is refused is what had come of it.
            outcome.heard.iter_mut().for_each(|(_, line)| line.clear());
            outcome.sent = String::from_utf8(outcome.sent).unwrap().replace("\r\nConnection: close", "").into_bytes();
            outcome
        };
        let whole = told(run_with(limits.clone(), [wire.as_slice()]));
        prop_assert_eq!(&told(run_with(limits.clone(), pieces(&wire, &cuts))), &whole);
        prop_assert_eq!(&told(run_with(limits, wire.chunks(1))), &whole);
    }

    #[test]
    fn random_bytes_never_panic_and_memory_stays_bounded(
        start in prop::sample::select(vec!["", P, "POST /v1/records/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        now_ns in any::<u64>(),
    ) {
        let mut machine = Machine::with_limits(Limits { header_bytes: 512, body_bytes: 256, ..Limits::default() });
        machine.receive(0, start.as_bytes());
        for piece in bytes.chunks(97) {
            machine.receive(now_ns / 2, piece);
            prop_assert!(machine.connection.held_bytes() <= 512 + 256 + 64 * 24 + 256);
        }
        machine.connection.handle_deadline(now_ns, &machine.limits);
        machine.connection.handle_eof();
        machine.connection.release(u64::MAX);
        machine.flush(now_ns);
        prop_assert!(machine.connection.is_finished());
        prop_assert_eq!(machine.connection.held_bytes(), 0);
    }
}
