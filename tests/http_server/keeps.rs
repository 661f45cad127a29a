//! Headers that a source keeps with its records: what of a request is kept, and what is refused.

use super::*;
use ringest::ground::{KEPT_NAME_BYTES_MAX, KeptHeaders};
use ringest::http::server::{Keeps, NotKept};
use std::sync::Arc;

fn keeping(names: &[&str]) -> Forms {
    let mut keeps = Keeps::default();
    for name in names {
        assert_eq!(Keeps::check(name), Ok(()), "{name}");
        keeps.add(name);
    }
    Forms { keeps: Some(Arc::new(keeps)), ..Forms::default() }
}

/// Names and values.
type Kept = Vec<(String, Vec<u8>)>;

/// Runs bytes whole, byte by byte and cut in two at each place, with a good request behind; what was kept of each request.
fn kept_of(forms: &Forms, request: &[u8]) -> (Vec<Kept>, Outcome) {
    let both = [request, GOOD.as_bytes()].concat();
    let whole = run_as(forms, [&both[..]]);
    assert_eq!(run_as(forms, both.chunks(1)), whole, "byte by byte");
    for split in 1..both.len() {
        assert_eq!(run_as(forms, [&both[..split], &both[split..]]), whole, "split at {split}");
    }
    let fields = |taken: &Taken| {
        let kept = KeptHeaders::of(&taken.headers);
        kept.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    };
    (whole.journaled.iter().map(fields).collect(), whole)
}

fn field(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), value.to_vec())
}

#[test]
fn what_a_source_keeps_is_found_in_any_case_and_nothing_else_is() {
    let forms = keeping(&["X-Lot", "X-Shift"]);
    let request = post("x-LOT: \t L-7 \r\nX-Other: 1\r\nContent-Length: 5\r\n", "hello");
    let (kept, outcome) = kept_of(&forms, request.as_bytes());
    assert_eq!(kept, [vec![field("X-Lot", b"L-7")], vec![]]);
    assert_eq!((outcome.bodies(), outcome.statuses()), (vec![b"hello".as_slice(), b"good"], vec![201, 201]));
    // Nothing is kept unless the source says so.
    assert!(kept_of(&Forms::default(), request.as_bytes()).0.iter().all(Vec::is_empty));
}

#[test]
fn what_is_kept_comes_with_every_kind_of_body_and_beside_the_other_fields() {
    let forms = keeping(&["X-Shift", "X-Lot"]);
    let more = "X-Lot: L-7\r\nContent-Type: text/plain\r\nIdempotency-Key: k\r\nX-Shift: 2\r\n";
    let chunks = "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n";
    let chunked = post(&format!("{more}Transfer-Encoding: chunked\r\n"), chunks);
    let old = post(&format!("{more}Connection: keep-alive\r\nContent-Length: 5\r\n"), "hello")
        .replace("HTTP/1.1", "HTTP/1.0");
    let put = post(&format!("{more}Content-Length: 5\r\n"), "hello").replace("POST", "PUT");
    for request in [post(&format!("{more}Content-Length: 5\r\n"), "hello"), chunked, old, put] {
        let (kept, outcome) = kept_of(&forms, request.as_bytes());
        assert_eq!(kept, [vec![field("X-Shift", b"2"), field("X-Lot", b"L-7")], vec![]], "{request}");
        let taken = &outcome.journaled[0];
        assert_eq!((&taken.body[..], taken.content_type.as_deref()), (&b"hello"[..], Some(&b"text/plain"[..])));
        assert_eq!((taken.idempotency_key.as_deref(), &taken.source[..]), (Some(&b"k"[..]), "a"));
    }
    // A trailer is no header.
    let trailed = post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Lot: L-7\r\n\r\n");
    assert_eq!(kept_of(&forms, trailed.as_bytes()).0, [vec![], vec![]]);
}

#[test]
fn several_fields_of_a_name_are_one_list_in_their_order() {
    let forms = keeping(&["X-Lot"]);
    for (fields, value) in [
        ("X-Lot: 1\r\nx-lot: 2, 3\r\nX-LOT:\r\n", &b"1, 2, 3, "[..]),
        ("X-Lot:\r\n", b""),
        ("X-Lot: a\tb\r\n", b"a\tb"),
    ] {
        let request = post(&format!("{fields}Content-Length: 5\r\n"), "hello");
        assert_eq!(kept_of(&forms, request.as_bytes()).0[0], [field("X-Lot", value)], "{fields:?}");
    }
    // Bytes of no text are kept as they are.
    let request = [P.as_bytes(), b"X-Lot: caf\xe9 \xff\"\r\nContent-Length: 5\r\n\r\nhello"].concat();
    assert_eq!(kept_of(&forms, &request).0[0], [field("X-Lot", b"caf\xe9 \xff\"")]);
}

#[test]
fn more_than_256_bytes_are_431_with_the_rule_and_nothing_is_kept() {
    let names: Vec<String> = (0..8).map(|number| format!("X-{number}")).collect();
    let forms = keeping(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let request = |sizes: &[usize]| {
        let fields: Vec<String> = sizes
            .iter()
            .zip(names.iter().cycle())
            .map(|(bytes, name)| format!("{name}: {}\r\n", "v".repeat(*bytes)))
            .collect();
        post(&format!("{}Content-Length: 5\r\n", fields.concat()), "hello")
    };
    for fits in [&[256][..], &[32; 8], &[0, 256, 0], &[30, 30, 30, 30, 30, 30, 30, 30, 14]] {
        let (kept, outcome) = kept_of(&forms, request(fits).as_bytes());
        assert_eq!(outcome.statuses(), [201, 201], "{fits:?}");
        assert_eq!(kept[0].iter().map(|(_, value)| value.len()).sum::<usize>(), 256, "{fits:?}");
    }
    for over in [&[257][..], &[33, 32, 32, 32, 32, 32, 32, 32], &[256, 1], &[30, 30, 30, 30, 30, 30, 30, 30, 15]] {
        let (kept, outcome) = kept_of(&forms, request(over).as_bytes());
        assert_eq!(
            (outcome.statuses(), outcome.bodies(), outcome.closed),
            (vec![431, 201], vec![b"good".as_slice()], false)
        );
        assert_eq!(kept, [vec![]]);
        let answer = outcome.answers(&[]).remove(0);
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(body["rule"].as_str().is_some_and(|rule| rule.contains("256 bytes at most")), "{body}");
        assert!(body["allowed"].as_str().is_some_and(|allowed| allowed.contains("keep_headers")), "{body}");
    }
    // What a source does not keep may be longer.
    let request = post(&format!("X-Other: {}\r\nContent-Length: 5\r\n", "v".repeat(1_000)), "hello");
    assert_eq!(run_as(&forms, [request.as_bytes()]).statuses(), [201]);
}

#[test]
fn secrets_and_fields_about_the_message_are_no_headers_to_keep() {
    for (name, why) in [
        ("Authorization", NotKept::Secret),
        ("proxy-authorization", NotKept::Secret),
        ("COOKIE", NotKept::Secret),
        ("X-Api-Key", NotKept::Secret),
        ("X-Auth-Token", NotKept::Secret),
        ("Idempotency-Key", NotKept::Key),
        ("Transfer-Encoding", NotKept::Framing),
        ("content-length", NotKept::Framing),
        ("Connection", NotKept::Framing),
        ("", NotKept::Name),
        ("X Lot", NotKept::Name),
        ("X-Lot:", NotKept::Name),
        ("X-Löt", NotKept::Name),
        (&"x".repeat(KEPT_NAME_BYTES_MAX + 1), NotKept::Name),
    ] {
        assert_eq!(Keeps::check(name), Err(why), "{name}");
    }
    for name in ["X-Lot", "Content-Type", "User-Agent", "Host", "X-Forwarded-For", &"x".repeat(KEPT_NAME_BYTES_MAX)] {
        assert_eq!(Keeps::check(name), Ok(()), "{name}");
    }
}

#[test]
fn a_listed_page_is_told_that_it_may_send_what_is_kept() {
    let origins = vec![Arc::new("https://plant.example".to_owned())];
    let mut machine = Machine { access: Access { origins, ..Access::default() }, ..Machine::new() };
    machine.forms = keeping(&["X-Lot", "X-Shift"]);
    machine.feed(b"OPTIONS /v1/records/a HTTP/1.1\r\nHost: a\r\nOrigin: https://plant.example\r\n\r\n");
    let answer = machine.outcome.answers(&[]).remove(0);
    let expected = "Authorization, Content-Type, Idempotency-Key, X-Lot, X-Shift";
    assert_eq!(answer.field("access-control-allow-headers"), Some(expected));
}
