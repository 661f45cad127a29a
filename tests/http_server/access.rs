//! Row 73: who may send, and what others are answered before anything of their bodies is read.

use super::rows::check_at;
use super::*;
use ringest::access::tokens::{Tokens, line};
use ringest::access::{Pattern, Patterns, TokensFile};
use std::sync::Arc;

/// 64 signs, as a drawn token has.
pub(super) const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OVER: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

fn patterns(list: &[&str]) -> Patterns {
    Patterns(list.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect())
}

/// A listener with two tokens, of which the second is over at 0 ns after 1970.
pub(super) fn with_tokens() -> Access {
    let lines = [
        line("cams", TOKEN, &patterns(&["a", "good", "cam-*"]), "2027-12-31"),
        line("over", OVER, &patterns(&["*"]), "1970-01-01T00:00:00Z"),
    ];
    let tokens = Arc::new(Tokens::parse(&lines.join("\n")).unwrap());
    Access { tokens: Some(TokensFile { path: "tokens".into(), tokens }), ..Access::default() }
}

fn to(source: &str, fields: &str) -> String {
    format!("POST /v1/records/{source} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 5\r\n\r\nhello")
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn good() -> String {
    GOOD.replace("Content", &(bearer(TOKEN) + "Content"))
}

#[test]
fn row_73_a_missing_or_wrong_token_is_401_and_nothing_behind_it_is_read() {
    let fields = [
        String::new(),
        bearer(&TOKEN.replace('0', "1")),
        bearer(&TOKEN[..63]),
        bearer("word"),
        bearer(OVER),
        bearer(TOKEN).repeat(2),
        "Authorization: Basic Y2Ftczp3b3Jk\r\n".to_owned(),
        "Authorization: Digest username=\"cams\"\r\n".to_owned(),
        "Authorization:\r\n".to_owned(),
    ];
    let mut cases: Vec<Case> = fields.iter().map(|fields| closed("73", to("a", fields), 401)).collect();
    cases.extend([
        closed("73 chunked", post("Transfer-Encoding: chunked\r\n", HELLO), 401),
        closed("73, 61", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"), 401),
        closed("73, 52", "GET /v1/records/a HTTP/1.1\r\nHost: a\r\n\r\n", 401),
        closed("73, 55", "POST /elsewhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 401),
        taken("73", to("a", &bearer(TOKEN)), "hello"),
        taken("73", to("cam-7", &bearer(TOKEN).to_lowercase().replace("bearer ", "BEARER  ")), "hello"),
        refused("73, 53", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 204),
    ]);
    check_at(&with_tokens(), &good(), &cases);
}

#[test]
fn row_73_a_401_says_which_scheme_and_a_head_has_no_body() {
    let answer = |request: String, heads: &[usize]| {
        let mut machine = Machine { access: with_tokens(), ..Machine::new() };
        machine.feed(request.as_bytes());
        assert_eq!(machine.outcome.journaled, []);
        machine.outcome.answers(heads).remove(0)
    };
    let missing = answer(to("a", ""), &[]);
    assert_eq!(missing.field("www-authenticate"), Some("Bearer realm=\"ringest\""));
    assert_eq!(missing.field("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_str(&missing.body).unwrap();
    assert_eq!(body["rule"], "tokens_file");
    assert_eq!(body["came"], "no Authorization");
    assert_eq!(body["allowed"], "Authorization: Bearer TOKEN");
    let wrong = answer(to("a", &bearer(&TOKEN[1..])), &[]);
    assert_eq!(wrong.field("www-authenticate"), Some("Bearer realm=\"ringest\", error=\"invalid_token\""));
    assert!(!wrong.body.contains(&TOKEN[1..9]), "{}", wrong.body);
    let head = answer("HEAD /v1/records/a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), &[0]);
    assert_eq!((head.status, head.body.as_str()), (401, ""));
}

#[test]
fn row_73_a_good_token_for_another_source_is_403_and_the_connection_goes_on() {
    let with = |source: &str| to(source, &bearer(TOKEN));
    let chunked =
        with("press-1").replace("Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n") + HELLO;
    let long = with("press-1").replace("Content-Length: 5", "Content-Length: 100000");
    let cases = [
        refused("73", with("press-1"), 403),
        refused("73", with("cam"), 403),
        refused("73 chunked", chunked, 403),
        closed("73 too long to be dropped", long, 403),
        // The name of another source, whatever the token says.
        refused("73", with("gauge"), 404),
    ];
    check_at(&with_tokens(), &good(), &cases);
}

#[test]
fn sources_of_a_listener_bound_what_is_sent_and_the_answer_says_so() {
    let access = Access { sources: patterns(&["cam-*", "good"]), ..Access::default() };
    let cases = [
        taken("sources", to("cam-7", ""), "hello"),
        refused("sources", to("a", ""), 404),
        refused("sources", to("gauge", ""), 404),
    ];
    check_at(&access, GOOD, &cases);
    // Without the key all are taken, but for the names of others.
    check_at(
        &Access::default(),
        GOOD,
        &[taken("sources", to("press", ""), "hello"), refused("sources", to("gauge", ""), 404)],
    );
    let mut machine = Machine { access, ..Machine::new() };
    machine.feed((to("press-4", "") + &to("gauge", "")).as_bytes());
    let bodies: Vec<serde_json::Value> =
        machine.outcome.answers(&[]).iter().map(|answer| serde_json::from_str(&answer.body).unwrap()).collect();
    assert_eq!(bodies[0], serde_json::json!({ "rule": "sources", "came": "press-4", "allowed": ["cam-*", "good"] }));
    assert_eq!(bodies[1]["rule"], "the name of another source");
}

#[test]
fn row_73_a_web_page_is_403_unless_its_origin_is_listed() {
    let none = [
        refused("73", to("a", "Origin: https://plant.example\r\n"), 403),
        refused("73", to("a", "Origin: null\r\n"), 403),
        refused("73", to("a", "Sec-Fetch-Site: cross-site\r\n"), 403),
        refused("73", to("a", "Sec-Fetch-Site: same-site\r\n"), 403),
        refused("73, 53", "OPTIONS /v1/records/a HTTP/1.1\r\nHost: a\r\nOrigin: https://plant.example\r\n\r\n", 403),
        taken("73", to("a", "Sec-Fetch-Site: same-origin\r\n"), "hello"),
        taken("73", to("a", "Sec-Fetch-Site: none\r\n"), "hello"),
    ];
    check_at(&Access::default(), GOOD, &none);
    let origins = vec![Arc::new("https://plant.example".to_owned())];
    let listed = Access { origins, ..Access::default() };
    let cases = [
        taken("73", to("a", "Origin: https://plant.example\r\nSec-Fetch-Site: cross-site\r\n"), "hello"),
        refused("73", to("a", "Origin: https://plant.example\r\n").replacen("Origin", "Origin: x\r\nOrigin", 1), 403),
        refused("73", to("a", "Origin: https://plant.example:8443\r\n"), 403),
        refused("73", to("a", "Origin: http://plant.example\r\n"), 403),
        refused("73", to("a", "Sec-Fetch-Site: cross-site\r\n"), 403),
        refused("73, 53", "OPTIONS /v1/records/a HTTP/1.1\r\nHost: a\r\nOrigin: https://plant.example\r\n\r\n", 204),
    ];
    check_at(&listed, GOOD, &cases);
}

#[test]
fn the_answers_to_a_listed_origin_say_that_its_pages_may_read_them() {
    const ORIGIN: &str = "Origin: https://plant.example\r\n";
    let origins = vec![Arc::new("https://plant.example".to_owned())];
    let mut machine = Machine { access: Access { origins, ..with_tokens() }, ..Machine::new() };
    let preflight =
        format!("OPTIONS /v1/records/a HTTP/1.1\r\nHost: a\r\n{ORIGIN}Access-Control-Request-Method: POST\r\n\r\n");
    let requests = [
        preflight,
        to("a", &(ORIGIN.to_owned() + &bearer(TOKEN))),
        to("press", &(ORIGIN.to_owned() + &bearer(TOKEN))),
        to("a", &bearer(TOKEN)),
        to("a", &(ORIGIN.to_owned() + &bearer(TOKEN))).replace("Content-Length: 5", "Content-Length: 0"),
        to("a", ORIGIN),
    ];
    machine.feed(requests.concat().replace("Content-Length: 0\r\n\r\nhello", "Content-Length: 0\r\n\r\n").as_bytes());
    let answers = machine.outcome.answers(&[]);
    let shown: Vec<(u16, bool)> = answers
        .iter()
        .map(|answer| (answer.status, answer.field("access-control-allow-origin") == Some("https://plant.example")))
        .collect();
    assert_eq!(shown, [(204, true), (201, true), (403, true), (201, false), (400, true), (401, true)]);
    assert_eq!(answers[0].field("access-control-allow-methods"), Some("POST, OPTIONS"));
    assert!(answers[0].field("access-control-allow-headers").unwrap().contains("Authorization"));
    assert!(answers[1].field("access-control-allow-methods").is_none());
    assert!(
        answers.iter().filter(|answer| answer.status != 201).all(|answer| { answer.field("vary") == Some("Origin") })
    );
}

#[test]
fn an_answer_that_is_held_back_goes_when_its_time_has_come() {
    let mut connection = ServerConnection::new(0);
    let limits = Limits::default();
    let mut judge = |_: &Caller<'_>| {
        let answer =
            with_tokens().judge(&Caller::default(), Names { own: "a", taken: &[] }, 0, None).unwrap_err().answer;
        Ruling::Deny(Box::new(ringest::http::server::Denied { held_until_ns: 2 * SECOND_NS, ..answer }))
    };
    let request = to("a", "");
    let mut input = request.as_bytes();
    assert!(connection.next_request((&limits).into(), 5, &mut input, &mut judge).is_none());
    assert!(input.is_empty() && !connection.has_output() && !connection.wants_read());
    assert_eq!(connection.deadline_ns(&limits), Some(2 * SECOND_NS));
    connection.handle_deadline(SECOND_NS, &limits);
    assert!(!connection.has_output());
    connection.handle_deadline(2 * SECOND_NS, &limits);
    let mut sent = Vec::new();
    let output = connection.take_output(0, &[b' '; 29], &mut sent, &mut |_| ());
    assert!(output.close && output.refused == 1 && sent.starts_with(b"HTTP/1.1 401 "));
    assert_eq!(connection.deadline_ns(&limits), None);
}

/// Takes the requests of `pieces` for an owner that must find out of each who sends, and says so when it is asked the next time.
fn found_out<'a>(pieces: impl Iterator<Item = &'a [u8]>, mut found: impl FnMut() -> Ruling) -> (Vec<String>, Vec<u8>) {
    let (mut connection, limits) = (ServerConnection::new(0), Limits::default());
    let (mut bodies, mut sent) = (Vec::new(), Vec::new());
    for mut input in pieces {
        let mut waits = true;
        loop {
            let mut judge = |_: &Caller<'_>| {
                waits = !waits;
                if waits { found() } else { Ruling::Wait }
            };
            if let Some(request) = connection.next_request((&limits).into(), 0, &mut input, &mut judge) {
                bodies.push(String::from_utf8(request.body.to_vec()).unwrap());
                connection.respond(Verdict::Taken { records: 1 });
            } else if !connection.is_judging() {
                break;
            } else {
                assert_eq!(connection.deadline_ns(&limits), None, "the owner has it");
                assert!(connection.held_bytes() <= limits.header_bytes);
            }
        }
        assert!(input.is_empty());
        connection.take_output(0, &[b' '; 29], &mut sent, &mut |_| ());
    }
    (bodies, sent)
}

#[test]
fn a_request_waits_until_its_owner_knows_who_sends_it() {
    let length = to("a", &bearer(TOKEN));
    let chunks = post("Transfer-Encoding: chunked\r\n", HELLO);
    let wire = [length.as_str(), &chunks, &to("b", "")].concat();
    let statuses = |sent: &[u8]| {
        let text = String::from_utf8(sent.to_vec()).unwrap();
        text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect::<Vec<_>>()
    };
    let mut ways: Vec<Vec<&[u8]>> =
        (1..wire.len()).map(|at| vec![&wire.as_bytes()[..at], &wire.as_bytes()[at..]]).collect();
    ways.push(vec![wire.as_bytes()]);
    ways.push(wire.as_bytes().chunks(1).collect());
    for way in ways {
        let (bodies, sent) = found_out(way.iter().copied(), || Ruling::Pass(None));
        assert_eq!((bodies, statuses(&sent)), (vec!["hello".to_owned(); 3], vec!["201".to_owned(); 3]));
        let (bodies, sent) = found_out(way.iter().copied(), || Ruling::Later(7));
        assert_eq!((bodies.len(), statuses(&sent)), (0, vec!["503".to_owned(); 3]));
        assert!(String::from_utf8(sent).unwrap().contains("\r\nRetry-After: 7\r\n"));
        let denied = || {
            let answer =
                with_tokens().judge(&Caller::default(), Names { own: "a", taken: &[] }, 0, None).unwrap_err().answer;
            Ruling::Deny(Box::new(answer))
        };
        let (bodies, sent) = found_out(way.iter().copied(), denied);
        assert_eq!((bodies.len(), statuses(&sent)), (0, vec!["401".to_owned()]), "nothing is looked at behind it");
    }
}
