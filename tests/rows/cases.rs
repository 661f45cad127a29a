//! The rows C1 to C21 of the delivery client, but for what needs certificates (C17, C18), names (C19) or only a configuration (C11).

use super::Act::{AwaitClose, AwaitDelivered, Drip, Endless, Fin, Pause, Reset, Send, Store, Vanish};
use super::{Act, Case, Place, Row};
use std::ops::RangeInclusive;

const BODY: &str = "{\"ok\":true}";

/// An answer whose length is told ahead.
pub fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The ordinary success.
pub fn created() -> Vec<u8> {
    answer("201 Created", "Content-Type: application/json\r\n", BODY)
}

/// The same in chunks, with an extension and a trailer.
pub fn chunked() -> Vec<u8> {
    let head = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}4;a=\"b\"\r\n{{\"ok\r\n7\r\n\":true}}\r\n0\r\nX-Row: 2\r\n\r\n").into_bytes()
}

/// One that ends with the connection.
pub fn unframed() -> Vec<u8> {
    format!("HTTP/1.1 201 Created\r\nServer: old\r\n\r\n{BODY}").into_bytes()
}

fn head_bytes(answer: &[u8]) -> usize {
    answer.windows(4).position(|at| at == b"\r\n\r\n").expect("a head") + 4
}

fn refused(status: &str, fields: &str) -> Vec<Act> {
    vec![Send(answer(status, fields, "{\"detail\": \"no\"}"))]
}

/// In two pieces.
fn split(bytes: &[u8], at: usize) -> Vec<Act> {
    vec![Store, Send(bytes[..at].to_vec()), Pause(1), Send(bytes[at..].to_vec())]
}

pub fn c01() -> Row {
    const INTERIM: [&str; 3] = [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nServer: x\r\n\r\n",
    ];
    let many = |count: usize| (0..count).map(|index| INTERIM[index % 3]).collect::<String>().into_bytes();
    let mut cases = Vec::new();
    for count in [1, 2, 3, 15, 16] {
        let bytes = [many(count), created()].concat();
        cases.push(Case::taken(format!("{count} interim answers"), vec![Store, Send(bytes)]).kept(true));
    }
    let whole = [many(2), created()].concat();
    for at in 1..whole.len() {
        cases.push(Case::taken(format!("interim answers in two pieces at {at}"), split(&whole, at)).kept(true));
    }
    for status in ["101 Switching Protocols\r\nUpgrade: h2c", "101 \r\nConnection: upgrade"] {
        let bytes = [format!("HTTP/1.1 {status}\r\n\r\n").into_bytes(), created()].concat();
        cases.push(Case::again(format!("{status:?}"), vec![Send(bytes), AwaitClose(2_000)]).moves(true));
    }
    let bytes = [many(17), created()].concat();
    cases.push(Case::again("17 interim answers", vec![Send(bytes), AwaitClose(2_000)]).moves(true));
    for at in [0, many(1).len() - 2, many(1).len(), many(2).len()] {
        let acts = vec![Send(many(2)[..at].to_vec()), Fin];
        cases.push(Case::again(format!("an end after {at} bytes of interim answers"), acts).moves(true));
    }
    Row::new(cases)
}

pub fn c02() -> Row {
    let mut cases = Vec::new();
    for (what, bytes, kept) in [
        ("a length", created(), true),
        ("no bytes", answer("201 Created", "", ""), true),
        ("chunks", chunked(), true),
        ("no chunk", b"HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), true),
        ("the close", unframed(), false),
    ] {
        let end = || if kept { Vec::new() } else { vec![Fin] };
        for at in 1..bytes.len() {
            let acts = [split(&bytes, at), end()].concat();
            cases.push(Case::taken(format!("{what}, in two pieces at {at}"), acts).kept(kept));
        }
        let acts = [vec![Store, Drip(bytes.clone(), 0)], end()].concat();
        cases.push(Case::taken(format!("{what}, byte by byte"), acts).kept(kept));
        let (head, body) = bytes.split_at(head_bytes(&bytes));
        if !body.is_empty() {
            let acts = vec![Store, Send(head.to_vec()), AwaitDelivered, Send(body.to_vec())];
            let what = format!("{what}, the body when the record counts as delivered");
            cases.push(Case::taken(what, [acts, end()].concat()).kept(kept));
        }
    }
    Row::new(cases)
}

pub fn c03() -> Row {
    // Another attempt would get the same: each wait is a long one, before the first success (all wait) and behind it (one does).
    let gap = || 200..=1_500;
    let mut cases = Vec::new();
    for status in ["200 OK", "202 Accepted", "203 Non-Authoritative", "206 Partial Content"] {
        cases.push(Case::again(status, vec![Send(answer(status, "", BODY))]).moves(false).kept(true).gap(gap()));
    }
    for bytes in [&b"HTTP/1.1 204 No Content\r\n\r\n"[..], b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"] {
        cases.push(Case::again("204", vec![Send(bytes.to_vec())]).moves(false).kept(true).gap(gap()));
    }
    let several = ["200 OK", "204 No Content", "202 Accepted"].map(|status| vec![Send(answer(status, "", ""))]);
    let several = Case::of("one after the other", several.to_vec(), 4);
    cases.push(several.moves(false).gap(gap()).gap(gap()).gap(gap()));
    Row::new(cases).key("retry", "{ first = \"1ms\", max = \"400ms\" }")
}

/// All statuses of success are listed in one word, and no other is.
pub fn c03_all_listed() -> Row {
    let mut cases: Vec<Case> = ["200 OK", "201 Created", "202 Accepted", "226 IM Used", "299 Odd"]
        .into_iter()
        .map(|status| Case::taken(status, vec![Store, Send(answer(status, "", BODY))]).kept(true))
        .collect();
    cases.push(Case::again("302", vec![Send(answer("302 Found", "", BODY))]));
    Row::new(cases).key("success", "[\"2xx\"]")
}

pub fn c04() -> Row {
    let framings = [
        "Content-Length: 11\r\nContent-Length: 12\r\n",
        "Content-Length: 11, 12\r\n",
        "Content-Length: +11\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x0b\r\n",
        "Content-Length: 1_1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: \r\n",
        "Content-Length: eleven\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: 11\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 11\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \r\n",
        " Content-Length: 11\r\n",
        "Content-Length: 11\r\n folded: 1\r\n",
        "X: a\rb\r\nContent-Length: 11\r\n",
        "X: \0\r\nContent-Length: 11\r\n",
        "no colon\r\n",
        ": no name\r\n",
    ];
    let mut cases = Vec::new();
    for fields in framings {
        let bytes = format!("HTTP/1.1 201 Created\r\n{fields}\r\n{BODY}").into_bytes();
        // Taken or not: the client cannot know, and the key tells the receiver.
        for took in [true, false] {
            let store = if took { vec![Store] } else { Vec::new() };
            let acts = [store, vec![Send(bytes.clone()), AwaitClose(2_000)]].concat();
            cases.push(Case::again(format!("{fields:?}"), acts).moves(true));
        }
    }
    // What leaves no doubt is read, whatever rule it breaks.
    for fields in [
        "X-Long: a\r\n b\r\nContent-Length: 11\r\n",
        "X-Odd : a\r\nContent-Length: 11\r\n",
        "Content-Length : 11\r\n",
        "X: y\nContent-Length: 11\r\n",
        "Content-Length: 11\r\nContent-Length: 11\r\n",
        "Content-Length: 11, 11\r\n",
    ] {
        let bytes = format!("HTTP/1.1 201 Created\r\n{fields}\r\n{BODY}").into_bytes();
        cases.push(Case::taken(format!("{fields:?}"), vec![Store, Send(bytes)]).kept(true));
    }
    // So it is here, but for what would follow.
    for (line, fields, body) in [
        ("HTTP/1.0 201 Created", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ("HTTP/1.0 201 Created", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ("HTTP/1.1 201 Created", "Transfer-Encoding: identity\r\nContent-Length: 11\r\n", BODY),
    ] {
        let bytes = format!("{line}\r\n{fields}\r\n{body}").into_bytes();
        let acts = vec![Store, Send(bytes), AwaitClose(2_000)];
        cases.push(Case::taken(format!("{line} {fields:?}"), acts).kept(false));
        let bytes = format!("{}\r\n{fields}\r\n{body}", line.replace("201 Created", "503 Busy")).into_bytes();
        cases.push(Case::again(format!("{line} {fields:?}, busy"), vec![Send(bytes), AwaitClose(2_000)]).moves(true));
    }
    for line in ["HTTP/2 201", "HTTP/1.1 2O1", "HTTP/1.1 20", "HTTP/1.1 600 x", "HTTP/1.1  201", "<html>", "ICY 201 OK"]
    {
        let bytes = format!("{line}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        cases.push(Case::again(format!("{line:?}"), vec![Send(bytes), AwaitClose(2_000)]).moves(true));
    }
    // The head has said it all; what is wrong behind it ends the connection, and nothing else.
    for body in ["x\r\n", "5\r\nab", "-1\r\n", "0x5\r\n", "11111111111111111\r\n", "2\r\nabc\r\n", "2\nab\r\n"] {
        let bytes = format!("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
        let acts = vec![Store, Send(bytes), Fin];
        cases.push(Case::taken(format!("chunks that begin with {body:?}"), acts).kept(false));
        let bytes = format!("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
        let acts = vec![Send(bytes), Fin];
        cases.push(Case::again(format!("a refusal in chunks that begin with {body:?}"), acts).moves(true));
    }
    Row::new(cases)
}

/// What stays unreadable is so for the third time, and waits for long from then on.
pub fn c04_again() -> Row {
    let odd = || vec![Send(b"HTTP/1.1 201 Created\r\nContent-Length: eleven\r\n\r\n".to_vec()), AwaitClose(2_000)];
    let case = |what: &str| {
        let answers = vec![odd(), odd(), odd(), odd()];
        Case::of(what, answers, 5).moves(true).gap(0..=1_000).gap(0..=1_000).gap(400..=2_500).gap(400..=2_500)
    };
    let cases = vec![
        case("while all wait"),
        case("while it waits alone"),
        Case::taken("the next one", vec![Store, Send(created())]),
    ];
    Row::new(cases).key("retry", "{ first = \"1ms\", max = \"800ms\" }")
}

pub fn c05() -> Row {
    let mut cases = Vec::new();
    for bytes in [created(), chunked()] {
        let head = head_bytes(&bytes);
        for at in 0..=bytes.len() {
            for end in [Fin, Reset] {
                let what = format!("{at} of {} bytes ({head} of the head), then {end:?}", bytes.len());
                let (front, end) = (Send(bytes[..at].to_vec()), end.clone());
                cases.push(match (at < head, &end) {
                    (true, _) => Case::again(what, vec![front, end]).moves(true).kept(true),
                    (false, Fin) => Case::taken(what, vec![Store, front, end]).kept(false),
                    // A reset may overtake what was sent before it.
                    (false, _) => Case::taken(what, vec![Store, front, end]).requests(1..=2),
                });
            }
        }
    }
    // Taken by the receiver, whose answer says so too late: once.
    for at in [0, 1, 20, head_bytes(&created()) - 1] {
        let acts = vec![Store, Send(created()[..at].to_vec()), Fin];
        cases.push(Case::again(format!("taken, {at} bytes of the head"), acts).moves(true));
    }
    // A refusal that is cut short.
    let bytes = answer("503 Busy", "", BODY);
    for at in 0..bytes.len() {
        let acts = vec![Send(bytes[..at].to_vec()), Fin];
        cases.push(Case::again(format!("{at} of {} bytes of a refusal", bytes.len()), acts).moves(true));
    }
    Row::new(cases)
}

pub fn c06() -> Row {
    let second = answer("201 Created", "", "");
    let mut cases = Vec::new();
    for at in 1..=second.len() {
        let more = second[..at].to_vec();
        let together = [created(), more.clone()].concat();
        let what = format!("{at} bytes behind the answer");
        cases.push(Case::taken(what, vec![Store, Send(together), AwaitClose(2_000)]).kept(false));
        let what = format!("{at} bytes on an idle connection");
        let acts = vec![Store, Send(created()), Pause(5), Send(more), AwaitClose(2_000)];
        cases.push(Case::taken(what, acts).kept(false));
    }
    for more in [&b"\r\n"[..], b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 408 Timeout\r\n\r\n", b"\0"] {
        let acts = vec![Store, Send(created()), Pause(5), Send(more.to_vec()), AwaitClose(2_000)];
        cases.push(Case::taken(format!("{more:?}"), acts).kept(false));
    }
    Row::new(cases).paced()
}

pub fn c07() -> Row {
    // What is not sent again at once comes after a minute.
    let mut cases = vec![Case::taken("the first one", vec![Store, Send(created())]).kept(true)];
    for end in [Fin, Reset] {
        for pause in [0, 3] {
            let what = format!("{end:?} {pause} ms after a request");
            let acts = vec![Pause(pause), end.clone()];
            cases.push(Case::again(what, acts).moves(true).kept(true).gap(0..=2_000));
            // What it had taken before it went, it knows by its key.
            let acts = vec![Store, Pause(pause), end.clone()];
            cases.push(Case::again("the same, and it was taken", acts).moves(true).kept(true).gap(0..=2_000));
        }
        for pause in [0, 1, 3] {
            // The next request may cross it.
            let what = format!("{end:?} {pause} ms after an answer");
            let case = Case::taken(what, vec![Store, Send(created()), Pause(pause), end.clone()]);
            cases.push(match end {
                // It may overtake the answer.
                Reset => case.requests(1..=2),
                _ => case.kept(false),
            });
            cases.push(Case::taken("the next one", vec![Store, Send(created())]).kept(true));
        }
    }
    Row::new(cases).key("retry", "{ first = \"60s\", max = \"60s\" }")
}

pub fn c08(place: Place) -> Row {
    let mut cases = Vec::new();
    let mut ends = vec![vec![AwaitClose(2_000)], vec![Pause(20), Reset]];
    if place == Place::Simulator {
        // The send fails before the answer is read; where packets are real it may be lost.
        ends.push(vec![Reset]);
    }
    for fields in ["", "Connection: close\r\n"] {
        for end in &ends {
            let acts = |status: &str| [vec![Send(answer(status, fields, "no"))], end.clone()].concat();
            let what = format!("413 {fields:?} {end:?}");
            cases.push(Case::of(what, vec![acts("413 Content Too Large"); 3], 3).moves(true).parked(413));
            let what = format!("503 {fields:?} {end:?}");
            let answers = vec![acts("503 Busy"), acts("413 Content Too Large"), acts("413 Content Too Large")];
            let answers = [answers, vec![acts("413 Content Too Large")]].concat();
            cases.push(Case::of(what, answers, 4).moves(true).parked(413));
        }
    }
    let mut row = Row::new(cases).paced().key("timeout", "\"30s\"");
    (row.early, row.record_bytes) = (true, 60_000);
    row
}

pub fn c09() -> Row {
    let mut cases = Vec::new();
    for fields in [
        "Connection: close\r\n",
        "connection:CLOSE\r\n",
        "Connection: x, close\r\n",
        "Connection: x\r\nConnection: close\r\n",
    ] {
        let acts = vec![Store, Send(answer("201 Created", fields, BODY)), AwaitClose(2_000)];
        cases.push(Case::taken(format!("{fields:?}"), acts).kept(false));
        let acts = vec![Send(answer("500 No", fields, BODY)), AwaitClose(2_000)];
        cases.push(Case::again(format!("a refusal with {fields:?}"), acts).moves(true));
    }
    let old = format!("HTTP/1.0 201 Created\r\nContent-Length: 11\r\n\r\n{BODY}").into_bytes();
    cases.push(Case::taken("HTTP/1.0", vec![Store, Send(old), AwaitClose(2_000)]).kept(false));
    let old = format!("HTTP/1.0 201 Created\r\n\r\n{BODY}").into_bytes();
    cases.push(Case::taken("HTTP/1.0 without a length", vec![Store, Send(old), Fin]).kept(false));
    Row::new(cases)
}

pub fn c10() -> Row {
    const HEAD_BYTES_MAX: usize = 64 * 1024;
    let head = |bytes: usize| {
        let frame = "HTTP/1.1 201 Created\r\nX: \r\nContent-Length: 0\r\n\r\n".len();
        format!("HTTP/1.1 201 Created\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(bytes - frame)).into_bytes()
    };
    let text = |text: &str| Send(text.as_bytes().to_vec());
    let block = || Endless(vec![b'x'; 8192]);
    let close = || AwaitClose(5_000);
    let cases = vec![
        Case::taken("a header of 64 KiB", vec![Store, Send(head(HEAD_BYTES_MAX))]).kept(true),
        Case::again("one byte more", vec![Send(head(HEAD_BYTES_MAX + 1)), close()]).moves(true),
        Case::again("a header without end", vec![text("HTTP/1.1 201 Created\r\nX: "), block()]).moves(true),
        Case::again("lines without end", vec![text("HTTP/1.1 201 \r\n"), Endless(b"X: y\r\n".repeat(100))]).moves(true),
        Case::again("a reason without end", vec![text("HTTP/1.1 201 "), block()]).moves(true),
        Case::again("interim answers without end", vec![Endless(b"HTTP/1.1 100 \r\n\r\n".repeat(50))]).moves(true),
        Case::taken("a body without end", vec![Store, text("HTTP/1.1 201 \r\n\r\n"), block()]).kept(false),
        Case::taken(
            "a body of 1 TiB",
            vec![Store, text("HTTP/1.1 201 \r\nContent-Length: 1099511627776\r\n\r\n"), block()],
        )
        .kept(false),
        Case::taken(
            "chunks without end",
            vec![
                Store,
                text("HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n"),
                Endless(b"3\r\nabc\r\n".repeat(500)),
            ],
        )
        .kept(false),
        Case::taken(
            "extensions without end",
            vec![Store, text("HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n1;"), block()],
        )
        .kept(false),
        Case::taken(
            "trailers without end",
            vec![
                Store,
                text("HTTP/1.1 201 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
                Endless(b"X: y\r\n".repeat(500)),
            ],
        )
        .kept(false),
        Case::again("a refusal without end", vec![text("HTTP/1.1 503 \r\n\r\n"), block()]).moves(true),
        Case::again(
            "a refusal of 1 MiB and a byte",
            vec![text("HTTP/1.1 503 \r\nContent-Length: 1048577\r\n\r\n"), close()],
        )
        .moves(true),
        Case::taken("the next one", vec![Store, Send(created())]),
    ];
    Row::new(cases)
}

pub fn c12() -> Row {
    let gap = || 290..=1_500;
    let late = |bytes: Vec<u8>| vec![Drip(bytes, 20), AwaitClose(1_000)];
    let whole = created();
    let (head, _) = whole.split_at(head_bytes(&whole));
    let long = answer("503 Busy", "", &"x".repeat(100));
    let (refusal, body) = long.split_at(head_bytes(&long));
    let cases = vec![
        Case::again("a head byte by byte", late(whole.clone())).moves(true).gap(gap()),
        Case::again("interim answers again and again", {
            let interim = [Send(b"HTTP/1.1 100 \r\n\r\n".to_vec()), Pause(60)];
            interim.iter().cycle().take(20).cloned().chain([AwaitClose(1_000)]).collect()
        })
        .moves(true)
        .gap(gap()),
        Case::again(
            "all of the head but its last byte",
            vec![Send(head[..head.len() - 1].to_vec()), AwaitClose(1_000)],
        )
        .moves(true)
        .gap(gap()),
        Case::again("the body of a refusal byte by byte", [vec![Send(refusal.to_vec())], late(body.to_vec())].concat())
            .moves(true)
            .gap(gap()),
        Case::taken(
            "the body of a success byte by byte",
            vec![
                Store,
                Send(answer("201 Created", "", &"x".repeat(100))[..60].to_vec()),
                Drip(vec![b'x'; 40], 20),
                AwaitClose(1_000),
            ],
        )
        .kept(false),
        Case::again("nothing", vec![AwaitClose(1_000)]).moves(true).gap(gap()),
        Case::again("nothing, though it was taken", vec![Store, AwaitClose(1_000)]).moves(true).gap(gap()),
        Case::taken("in time, but slowly", vec![Store, Pause(150), Send(created())]).kept(true),
    ];
    Row::new(cases).key("timeout", "\"300ms\"")
}

/// Answers about the API itself: all waits, and one probes.
fn paused(statuses: &[&str], fields: &str) -> Row {
    let case = |status: &&str| {
        let answers = vec![refused(status, fields); 3];
        Case::of(*status, answers, 4).moves(false).gap(0..=1_500).gap(0..=1_500)
    };
    Row::new(statuses.iter().map(case).collect()).key("retry", "{ first = \"10ms\", max = \"30ms\" }")
}

pub fn c13() -> Row {
    // Whoever follows it asks the receiver for what it does not have.
    paused(
        &["300 Choices", "301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"],
        "Location: /elsewhere/\r\n",
    )
}

pub fn c14() -> Row {
    paused(&["401 Unauthorized", "403 Forbidden", "404 Not Found"], "WWW-Authenticate: Basic\r\n")
}

pub fn c15() -> Row {
    let mut cases = Vec::new();
    for (line, status) in [("400 Bad", 400), ("413 Large", 413), ("415 Type", 415), ("422 Unprocessable", 422)] {
        cases.push(Case::of(line, vec![refused(line, ""); 3], 3).moves(false).kept(true).parked(status));
        cases.push(Case::taken("the next one", vec![Store, Send(created())]).kept(true));
        cases.push(Case::of(format!("{line} twice"), vec![refused(line, ""); 2], 3).moves(false));
        // An answer that is not whole refuses nothing.
        let bytes = answer(line, "", BODY);
        let cut = vec![Send(bytes[..bytes.len() - 1].to_vec()), Fin];
        let answers = vec![cut, refused(line, ""), refused(line, ""), refused(line, "")];
        cases.push(Case::of(format!("{line}, cut short the first time"), answers, 4).parked(status));
    }
    // 409 without a question that is configured.
    cases.push(Case::of("409", vec![refused("409 Conflict", ""); 3], 3).parked(409));
    Row::new(cases)
}

pub fn c16(place: Place) -> Row {
    let mut cases = Vec::new();
    for status in ["408 Timeout", "429 Too Many", "500 No", "502 Bad", "503 Busy", "504 Late", "599 Odd"] {
        cases.push(Case::again(status, refused(status, "")).moves(false).gap(0..=1_000));
    }
    let mut told = |value: &str, ms: RangeInclusive<u64>| {
        let fields = format!("Retry-After: {value}\r\n");
        cases.push(Case::again(value, refused("503 Busy", &fields)).gap(ms));
    };
    told("1", 1_000..=2_500);
    told("0", 0..=1_000);
    // A date has whole seconds: what is left of this one is not waited for.
    told("@DATE+2@", 1_000..=3_500);
    for nonsense in ["soon", "-5", "1.5", "1e3", "", "1 2", "Sun, 32 Nov 2026 08:49:37 GMT", "@DATE-100@"] {
        told(nonsense, 0..=1_000);
    }
    told("soon\r\nRetry-After: 1", 1_000..=2_500);
    if place == Place::Simulator {
        told("40", 40_000..=40_600);
        told("@DATE+200@", 198_900..=200_600);
        for longer in ["300", "301", "3600", "86400", "99999999999999999999999", "@DATE+86400@"] {
            told(longer, 300_000..=300_600);
        }
    }
    Row::new(cases)
}

/// The longest wait is configured.
pub fn c16_capped() -> Row {
    let told = |value: &str| refused("503 Busy", &format!("Retry-After: {value}\r\n"));
    let longer = ["2", "3600", "@DATE+3600@"];
    let cases = longer.map(|value| Case::again(value, told(value)).gap(1_000..=2_500)).to_vec();
    Row::new(cases).key("retry_after_max", "\"1s\"")
}

/// The peer is gone without a word; only the whole answer's deadline ends it.
pub fn c20() -> Row {
    let head = created()[..20].to_vec();
    let cases = vec![
        Case::taken("the first one", vec![Store, Send(created())]).kept(true),
        Case::again("before the answer", vec![Vanish]).moves(true).gap(0..=30_000),
        Case::again("before the answer, but taken", vec![Store, Vanish]).moves(true).gap(0..=30_000),
        Case::again("within the answer", vec![Send(head), Vanish]).moves(true).gap(0..=30_000),
        Case::taken("between two requests", vec![Store, Send(created()), Vanish]),
        Case::taken("the last one", vec![Store, Send(created())]).requests(1..=1),
    ];
    Row::new(cases).key("timeout", "\"15s\"")
}

/// What a GET finds.
pub fn found(row: &Row, number: usize) -> Vec<u8> {
    answer("200 OK", "", &format!("{{\"data\": \"{}\"}}", row.record(number)))
}

pub fn c21() -> Row {
    let empty = Row::new(Vec::new());
    let mut cases: Vec<Case> = Vec::new();
    let conflict = || vec![Store, Send(answer409())];
    let untaken = || refused("409 Conflict", "");
    // Cut at every byte, what it has is asked for again.
    let whole = found(&empty, 0);
    for at in 0..whole.len() {
        let bytes = found(&empty, cases.len());
        let answers = vec![conflict(), vec![Send(bytes[..at].to_vec()), Fin], vec![Send(bytes)]];
        cases.push(Case::of(format!("{at} bytes of what it has"), answers, 3));
    }
    for status in ["500 No", "503 Busy", "429 Many", "401 Who", "302 Found"] {
        let bytes = found(&empty, cases.len());
        cases.push(Case::of(
            format!("{status} to the question"),
            vec![conflict(), refused(status, ""), vec![Send(bytes)]],
            3,
        ));
    }
    let bytes = found(&empty, cases.len());
    cases.push(Case::of("the same data", vec![conflict(), vec![Send(bytes)]], 2).kept(true));
    for status in ["201 Odd", "203 Odd"] {
        let text = String::from_utf8(found(&empty, cases.len())).expect("text").replace("200 OK", status);
        cases.push(Case::of(status, vec![conflict(), vec![Send(text.into_bytes())]], 2).kept(true));
    }
    for body in ["{\"data\": \"m\"}", "{}", "", "<html>", "{\"data\": 7}"] {
        let answers = vec![untaken(), vec![Send(answer("200 OK", "", body))]];
        cases.push(Case::of(format!("other data: {body:?}"), answers, 2).parked(409));
    }
    let missing = || refused("404 Not Found", "");
    cases.push(Case::of("nothing there", vec![untaken(), missing()], 3));
    cases.push(Case::of("nothing there, twice", vec![untaken(), missing(), untaken(), missing()], 5));
    let answers = (0..3).flat_map(|_| [untaken(), missing()]).collect();
    cases.push(Case::of("nothing there, again and again", answers, 6).parked(409));
    cases.push(Case::of("400 to the question", vec![untaken(), refused("400 Bad", "")], 2).parked(409));
    let bytes = found(&empty, cases.len());
    let answers = vec![vec![Store, Send(answer("202 Accepted", "", BODY))], vec![Send(bytes)]];
    cases.push(Case::of("a status that is mapped to the question", answers, 2));
    cases.push(Case::taken("the next one", vec![Store, Send(created())]));
    Row::new(cases).key("confirm", "{ path = \"/films/{{key}}\" }").key("answers", "{ confirm = [409, 202] }")
}

/// Where ids collide, another machine's record can have the same data.
pub fn c21_of_a_machine() -> Row {
    let empty = Row::new(Vec::new());
    let conflict = || vec![Store, Send(answer409())];
    // As long as it lasts: the machine's name is filled in.
    let shows = |number: usize, machine: &str| {
        let record = empty.record(number);
        let body = format!("{{\"data\": \"{record}\", \"of\": {{\"machine\": {machine}}}}}");
        vec![Send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}").into_bytes()), Fin]
    };
    let mut cases = vec![Case::of("of this machine", vec![conflict(), shows(0, "\"@MACHINE@\"")], 2)];
    for machine in ["\"another\"", "\"@MACHINE@0\"", "null", "7"] {
        let answers = vec![refused("409 Conflict", ""), shows(cases.len(), machine)];
        cases.push(Case::of(format!("of {machine}"), answers, 2).parked(409));
    }
    let answers = vec![refused("409 Conflict", ""), vec![Send(found(&empty, cases.len()))]];
    cases.push(Case::of("of no machine", answers, 2).parked(409));
    cases.push(Case::taken("the next one", vec![Store, Send(created())]));
    Row::new(cases).key("confirm", "{ path = \"/films/{{key}}\", source_at = \"/of/machine\" }")
}

/// What is longer than a record of the largest size can be in any form is not read.
pub fn c21_too_long() -> Row {
    const BYTES_MAX: usize = 512 * 1024;
    let empty = Row::new(Vec::new());
    let conflict = || vec![Store, Send(answer409())];
    let shows = |number: usize, bytes: usize| {
        let record = format!("{{\"data\": \"{}\"}}", empty.record(number));
        vec![Send(answer("200 OK", "", &(record.clone() + &" ".repeat(bytes - record.len()))))]
    };
    let too_long = |number: usize| shows(number, BYTES_MAX + 1);
    let endless = || vec![Send(b"HTTP/1.1 200 \r\n\r\n".to_vec()), Endless(vec![b' '; 8192])];
    let cases = vec![
        Case::of("as long as can be", vec![conflict(), shows(0, BYTES_MAX)], 2),
        Case::of("longer once", vec![conflict(), too_long(1), shows(1, BYTES_MAX)], 3),
        Case::of("longer each time", vec![conflict(), too_long(2), too_long(2)], 3).parked(409),
        Case::of("without end", vec![conflict(), endless(), endless()], 3).parked(409),
        Case::taken("the next one", vec![Store, Send(created())]),
    ];
    Row::new(cases).key("confirm", "{ path = \"/films/{{key}}\" }")
}

/// All of it at once, drawn by a seed: several machines, connections and requests in flight.
pub fn mix(seed: u64) -> Row {
    let mut rng = fastrand::Rng::with_seed(seed);
    let rng = &mut rng;
    let pool: Vec<Case> = [c01(), c02(), c03(), c04(), c05(), c07(), c09(), c13(), c14()]
        .into_iter()
        .flat_map(|row| row.cases)
        .filter(|case| !case.answers.concat().iter().any(|act| matches!(act, AwaitDelivered | AwaitClose(_))))
        .collect();
    let count = 160;
    let mut confirms = Vec::new();
    let mut cases: Vec<Case> = (0..count)
        .map(|number| {
            let mut answers = Vec::new();
            let mut what = String::new();
            while rng.u8(..3) == 0 && answers.len() < 4 {
                match rng.u8(..12) {
                    0 => answers.push(vec![Store, Pause(600), Send(created())]),
                    1 => answers.push(vec![Store, Send(created()[..30].to_vec()), Drip(created()[30..].to_vec(), 20)]),
                    2 => answers.push(refused("503 Busy", "Retry-After: 0\r\n")),
                    3 => answers.push(refused("422 No", "")),
                    4 => confirms.push(number),
                    5 => answers.push(vec![Pause(rng.u64(1..100)), Reset]),
                    _ => {
                        let case = rng.choice(&pool).expect("many");
                        what += &case.what;
                        answers.extend(case.answers.clone());
                    }
                }
            }
            Case::taken(format!("{number}: {what} {answers:?}"), Vec::new()).requests(1..=60).with(answers)
        })
        .collect();
    let first = format!("\"{}ms\"", rng.u8(1..20));
    let mut row = Row::new(Vec::new())
        .key("timeout", "\"400ms\"")
        .key("connections", &rng.u8(1..=4).to_string())
        .key("pipeline", rng.choice(&["1", "1", "4", "16"]).expect("some"))
        .key("retry", &format!("{{ first = {first}, max = \"40ms\" }}"))
        .key("confirm", "{ path = \"/films/{{key}}\" }")
        .key("answers", "{ confirm = [409], attempts = 1000 }");
    row.machines = rng.usize(1..=12);
    for number in confirms {
        // Whatever comes before, the answer to the question is found behind the conflict.
        let answer = vec![Send(found(&row, number))];
        cases[number].answers = vec![vec![Store, Send(answer409())], answer];
    }
    row.cases = cases;
    row
}

fn answer409() -> Vec<u8> {
    answer("409 Conflict", "", BODY)
}
