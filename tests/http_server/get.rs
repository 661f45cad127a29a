//! Rows 52 and 56 where a GET is a record: its query, decoded, and nothing else of it.

use super::access::{bearer, with_tokens};
use super::rows::check_with;
use super::*;

fn forms() -> Forms {
    Forms { get: true, ..Forms::default() }
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// A GET whose query is this.
fn asks(query: &str) -> String {
    get(&format!("/v1/records/a?{query}"), "")
}

fn check(cases: &[Case]) {
    check_with((&Access::default(), &forms()), GOOD, cases);
}

#[test]
fn row_52_the_query_of_a_get_is_the_record_percent_decoded() {
    check(&[
        taken("52", asks("temperature=21.5&unit=C"), "temperature=21.5&unit=C"),
        taken("52", asks("%7B%22t%22%3a21.5%7d"), "{\"t\":21.5}"),
        taken("52 a plus is a plus", asks("a+b%20c%2Bd"), "a+b c+d"),
        taken("52 only the first ? begins it", asks("a?b=?"), "a?b=?"),
        taken("52 once", asks("%2541"), "%41"),
        taken("52 absolute", get("http://a/v1/records/a?x", ""), "x"),
        taken("52 no length is a length", get("/v1/records/a?x", "Content-Length: 0\r\n"), "x"),
        taken("52 fields of a body say nothing", get("/v1/records/a?x", "Content-Type: multipart/x\r\n"), "x"),
        taken("52 fields of a body say nothing", get("/v1/records/a?x", "Content-Encoding: br\r\n"), "x"),
        taken("61", get("/v1/records/a?x", "Expect: 100-continue\r\n"), "x"),
        Case { closes: true, ..taken("43", "GET /v1/records/a?x HTTP/1.0\r\n\r\n", "x") },
        Case {
            statuses: vec![201; 3],
            bodies: vec![b"1".to_vec(), b"2".to_vec(), b"3".to_vec()],
            ..taken("2", asks("1") + &asks("2") + &asks("3"), "")
        },
    ]);
    let bytes = run_as(&forms(), [asks("%00%ff%0D%0A").as_bytes()]);
    assert_eq!(bytes.bodies(), [[0, 0xFF, b'\r', b'\n']]);
}

#[test]
fn rows_52_and_56_a_get_that_is_no_record_is_refused_and_its_body_is_never_a_request() {
    let body = |framing: &str, body: &str| get("/v1/records/a?x", framing) + body;
    let smuggled = format!("Content-Length: {}\r\n", GOOD.len());
    check(&[
        refused("52", get("/v1/records/a", ""), 400),
        refused("52", asks(""), 400),
        refused("52", asks("50%"), 400),
        refused("52", asks("50%2"), 400),
        refused("52", asks("50%+2"), 400),
        refused("52", asks("%2g"), 400),
        refused("56", body(&smuggled, GOOD), 400),
        refused("56", body("Transfer-Encoding: chunked\r\n", HELLO), 400),
        closed("56", body("Content-Length: 65537\r\n", "x"), 400),
        refused("64", get("/v1/records/a?x", "Expect: x\r\n"), 417),
        refused("52", get("/v1/records/a?x", "Idempotency-Key:\r\n"), 400),
        refused("52", get("/v1/records/a?x", "Sec-Purpose: prefetch;prerender\r\n"), 403),
        refused("52", get("/v1/records/a?x", "Purpose: Prefetch\r\n"), 403),
        refused("55", get("/favicon.ico?x", ""), 404),
        refused("52", asks("x").replace("GET", "DELETE"), 405),
        closed("49", asks(&"x".repeat(8_000)), 414),
        // A POST is what it was.
        refused("52", asks("x").replace("GET", "POST"), 400),
    ]);
    // Whoever does not say that a GET is a record reads 405.
    check_with((&Access::default(), &Forms::default()), GOOD, &[refused("52", asks("x"), 405)]);
    let limits = Limits { body_bytes: 4, ..Limits::default() };
    for (query, status) in [("%41%41%41%41", 201), ("%41%41%41%41%41", 414)] {
        let mut machine = Machine::with_limits(limits.clone());
        machine.forms = forms();
        machine.feed(asks(query).as_bytes());
        assert_eq!(machine.outcome.statuses(), [status]);
    }
}

#[test]
fn an_answer_to_a_get_is_kept_by_nobody_and_allow_names_get() {
    let head = "HEAD /v1/records/a?x HTTP/1.1\r\nHost: a\r\n\r\n";
    let requests = [
        asks("x"),
        asks(""),
        get("/elsewhere", ""),
        GOOD.to_owned(),
        head.replace("HEAD", "DELETE"),
        head.replace("HEAD", "OPTIONS"),
        head.to_owned(),
    ];
    let outcome = run_as(&forms(), [requests.concat().as_bytes()]);
    let answers = outcome.answers(&[6]);
    let shown: Vec<_> = answers.iter().map(|a| (a.status, a.field("cache-control"), a.field("allow"))).collect();
    let allow = Some("GET, POST, PUT, OPTIONS");
    assert_eq!(
        shown,
        [
            (201, Some("no-store"), None),
            (400, Some("no-store"), None),
            (404, Some("no-store"), None),
            (201, None, None),
            (405, None, allow),
            (204, None, allow),
            (405, None, allow),
        ]
    );
    assert_eq!(answers[0].body, r#"{"accepted":1}"#);
    assert!(answers[1].body.contains("?RECORD"), "{}", answers[1].body);
}

#[test]
fn the_key_and_the_kept_headers_of_a_get_are_those_of_a_post() {
    let mut keeps = ringest::http::server::Keeps::default();
    keeps.add("X-Lot");
    let forms = Forms { keeps: Some(std::sync::Arc::new(keeps)), ..forms() };
    let fields = "Idempotency-Key: lot-7\r\nX-Lot: 9\r\nContent-Type: text/plain\r\n";
    let request = get("/v1/records/a?x%20y", fields);
    let same = run_as(&forms, [post("Idempotency-Key: lot-7\r\nX-Lot: 9\r\nContent-Length: 3\r\n", "x y").as_bytes()]);
    for way in [vec![request.as_bytes()], request.as_bytes().chunks(1).collect()] {
        assert_eq!(run_as(&forms, way).journaled, same.journaled);
    }
}

#[test]
fn row_73_a_token_in_the_query_lets_nobody_in() {
    let access = with_tokens();
    let token = bearer(access::TOKEN);
    let good = GOOD.replace("Content", &format!("{token}Content"));
    let value = &token["Authorization: Bearer ".len()..token.len() - 2];
    let cases = [
        taken("73", get("/v1/records/a?x", &token), "x"),
        refused("73", get("/v1/records/press?x", &token), 403),
        closed("73", asks("x"), 401),
        closed("73", asks(&format!("access_token={value}")), 401),
        closed("73", asks(&format!("token={value}&Authorization=Bearer%20{value}")), 401),
        refused("73", get("/v1/records/a?x", &format!("{token}Sec-Fetch-Site: cross-site\r\n")), 403),
    ];
    check_with((&access, &forms()), &good, &cases);
    let mut machine = Machine { access, ..Machine::new() };
    machine.forms = forms();
    machine.feed(asks(value).as_bytes());
    let answer = machine.outcome.answers(&[]).remove(0);
    assert_eq!((answer.status, answer.field("cache-control")), (401, Some("no-store")));
    assert!(!answer.body.contains(value), "{}", answer.body);
}
