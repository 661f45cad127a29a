//! Any bytes as what a machine sends over HTTP, in whatever forms its source takes. Any pieces give the same requests and
//! answers as the whole, and no more is held than the limits allow. A request that is taken ends where a strict reader says
//! that it ends, and holds the records that a second reader finds in it. Written anew it is the same.

use super::http_reference::{Message, Side, message};
use super::input::{Input, Seen, pieces};
use flate2::bufread::MultiGzDecoder;
use ringest::http::client::{Event, ResponseReader};
use ringest::http::date::HttpDate;
use ringest::http::server::{
    Array, Form, Forms, Limits, Output, Query, Request, Rules, Ruling, ServerConnection, Verdict,
};
use std::io::Read;

/// A waiting answer and a declined request need a little memory beside the limits.
const HELD_BYTES_BESIDE: usize = 256;
/// Streams up to here are also read byte by byte.
const BYTEWISE_BYTES_MAX: usize = 20_000;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const CLOSE: &[u8] = b"\r\nConnection: close";
const KEEP_ALIVE: &[u8] = b"\r\nConnection: keep-alive";
/// What an unpacker takes while a packed body comes.
const UNPACKER_BYTES: usize = 64 * 1024;
/// Records of one body.
const RECORDS_MAX: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    source: String,
    body: Vec<u8>,
    content_type: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Taken {
    fn new(request: &Request<'_>) -> Self {
        Self {
            source: request.source.to_owned(),
            body: request.body.to_vec(),
            content_type: request.content_type.map(<[u8]>::to_vec),
            key: request.idempotency_key.map(<[u8]>::to_vec),
        }
    }

    /// The same request in its plainest form.
    fn encode(&self) -> Vec<u8> {
        let mut out = format!("POST /v1/records/{} HTTP/1.1\r\nHost: a\r\n", self.source).into_bytes();
        for (name, value) in [("Content-Type", &self.content_type), ("Idempotency-Key", &self.key)] {
            if let Some(value) = value {
                out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
        }
        out.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
        out.extend(&self.body);
        out
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    taken: Vec<Taken>,
    sent: Vec<u8>,
    closed: bool,
    tls: bool,
    accepted: u32,
    refused: u32,
    unavailable: u32,
}

/// Answers that a connection can give beside 201.
const STATUSES: [&str; 13] =
    ["204", "400", "404", "405", "411", "413", "414", "415", "417", "431", "501", "503", "505"];

/// How the owner of a connection behaves.
#[derive(Debug, Clone, Copy)]
struct Owner<'a> {
    limits: &'a Limits,
    forms: &'a Forms,
    /// Two bits a request, again and again.
    verdicts: u8,
    /// Nothing is durable before the end.
    late: bool,
}

/// Gives the pieces to a connection, then the end of the stream. Beside the outcome: where each request that was taken ended.
fn read<'a>(owner: Owner<'_>, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Outcome, Vec<usize>) {
    let limits = owner.limits;
    let rules = Rules { limits, forms: owner.forms };
    let mut connection = ServerConnection::new(0);
    let mut outcome = Outcome::default();
    let (mut ends, mut before, mut numbers) = (Vec::new(), 0, 0);
    for piece in pieces {
        let mut input = piece;
        while let Some(request) = connection.next_request(rules, 0, &mut input, &mut Ruling::everybody) {
            assert!(!request.body.is_empty() && request.body.len() <= limits.body_bytes);
            ends.push(before + piece.len() - input.len());
            outcome.taken.push(Taken::new(&request));
            let form = Form::of(request.content_type, request.body, owner.forms);
            let records = form.split(request.body, RECORDS_MAX).map(|pieces| pieces.len() as u32);
            connection.respond(match (records, owner.verdicts >> (outcome.taken.len() % 4 * 2) & 3) {
                (Err(refused), _) => refused,
                (Ok(records), 0 | 1) => {
                    Verdict::Accepted { last_number: numbers, records, keyed: numbers.is_multiple_of(2) }
                }
                (Ok(_), 2) => Verdict::KeyReused,
                (Ok(_), _) => Verdict::Unavailable { retry_after_s: 7 },
            });
            numbers += 1;
        }
        assert!(input.is_empty(), "all is taken");
        before += piece.len();
        if !owner.late {
            flush(&mut connection, numbers, &mut outcome);
            let bound = limits.header_bytes + limits.body_bytes + HELD_BYTES_BESIDE + UNPACKER_BYTES;
            assert!(connection.held_bytes() <= bound, "{} of {bound} bytes held", connection.held_bytes());
        }
    }
    outcome.tls = connection.saw_tls_hello();
    flush(&mut connection, numbers, &mut outcome);
    outcome.closed = connection.is_finished();
    connection.handle_eof();
    assert!(connection.is_finished() && connection.held_bytes() == 0, "nothing stays behind the end");
    assert!(flush(&mut connection, numbers, &mut outcome).close);
    (outcome, ends)
}

fn flush(connection: &mut ServerConnection, durable_below: u64, outcome: &mut Outcome) -> Output {
    connection.release(durable_below);
    let output = connection.take_output(0, HttpDate::new().at(0), &mut outcome.sent, &mut |_| ());
    assert!(!connection.has_output());
    outcome.accepted += output.accepted;
    outcome.refused += output.refused;
    outcome.unavailable += output.unavailable;
    output
}

/// What was sent, without what depends on when it was sent.
fn timeless(sent: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < sent.len() {
        if let Some(skipped) = [CONTINUE, CLOSE, KEEP_ALIVE].iter().find(|skipped| sent[at..].starts_with(skipped)) {
            at += skipped.len();
        } else {
            out.push(sent[at]);
            at += 1;
        }
    }
    out
}

/// SOURCE of a message's target, and what stands behind its first `?`.
fn target_of<'a>(message: &Message<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let line = &message.line[message.line.iter().position(|byte| *byte == b' ')? + 1..];
    let target = line.split(|byte| *byte == b' ').next()?;
    let path = match target.iter().position(|byte| *byte == b':') {
        Some(colon) if target[0] != b'/' => {
            let authority = target[colon..].strip_prefix(b"://")?;
            &authority[authority.iter().position(|byte| *byte == b'/')?..]
        }
        _ => target,
    };
    let (path, query) = match path.iter().position(|byte| *byte == b'?') {
        Some(mark) => (&path[..mark], Some(&path[mark + 1..])),
        None => (path, None),
    };
    Some((path.strip_prefix(b"/v1/records/")?, query))
}

/// What a query stands for (RFC 3986 section 2.1).
fn decoded(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = query.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => {
                let pair = [*rest.next().expect("a digit"), *rest.next().expect("a digit")];
                u8::from_str_radix(std::str::from_utf8(&pair).expect("digits"), 16).expect("digits")
            }
            byte => *byte,
        });
    }
    out
}

/// The elements of what is a JSON array: what stands between its outermost commas.
fn elements(body: &[u8]) -> Vec<&[u8]> {
    let inner = body.trim_ascii().strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).expect("an array");
    let (mut found, mut depth, mut start, mut at) = (Vec::new(), 0, 0, 0);
    while at < inner.len() {
        match inner[at] {
            b'"' => {
                at += 1;
                while inner[at] != b'"' {
                    at += if inner[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(inner[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    found.push(inner[start..].trim_ascii());
    found
}

/// The records of each body are those that a second reader finds.
fn check_records(taken: &Taken, forms: &Forms, seen: &mut Seen) {
    let form = Form::of(taken.content_type.as_deref(), &taken.body, forms);
    let lines = || {
        let blank = |line: &&[u8]| line.iter().all(|byte| b" \t\r".contains(byte));
        let lines = taken.body.split(|byte| *byte == b'\n').filter(move |line| !blank(line));
        lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect::<Vec<_>>()
    };
    match (form, form.split(&taken.body, RECORDS_MAX)) {
        (Form::Record, pieces) => {
            let pieces = pieces.expect("a body is a record");
            assert!(pieces.len() == 1 && pieces[0].bytes == taken.body);
        }
        (Form::Lines, Ok(pieces)) => {
            assert_eq!(pieces.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), lines());
            seen.count("lines", 1);
        }
        (Form::Lines, Err(_)) => {
            assert!(lines().is_empty() || lines().len() > RECORDS_MAX);
            seen.count("no lines", 1);
        }
        (Form::Array, Ok(pieces)) => {
            assert!(pieces.len() <= RECORDS_MAX);
            assert_eq!(pieces.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), elements(&taken.body));
            seen.count("array", 1);
        }
        // Whether it is JSON at all, the second reader does not know.
        (Form::Array, Err(_)) => seen.count("no array", 1),
    }
}

/// The body without its coding.
fn unpacked(message: &Message<'_>) -> Vec<u8> {
    let is_gzip = |coding: &[u8]| coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip");
    let codings = message.all("content-encoding");
    let mut codings = codings.iter().flat_map(|value| value.split(|byte| *byte == b','));
    if !codings.any(|coding| is_gzip(coding.trim_ascii())) {
        return message.body.clone();
    }
    let mut out = Vec::new();
    MultiGzDecoder::new(&message.body[..]).read_to_end(&mut out).expect("only what is whole is taken");
    out
}

/// `type/subtype`, perhaps with parameters.
fn is_media_type(value: &[u8]) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let token = |part: &[u8]| {
        let marks = b"!#$%&'*+-.^_`|~";
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(byte))
    };
    let mut parts = essence.splitn(2, |byte| *byte == b'/');
    parts.next().is_some_and(token) && parts.next().is_some_and(token)
}

/// No smuggling: each request ends where the strict reader says that one ends, and is that one.
fn check_boundaries(stream: &[u8], forms: &Forms, taken: &[Taken], ends: &[usize], seen: &mut Seen) {
    let side = if forms.bare_lf { Side::LenientRequests } else { Side::Requests };
    let mut at = 0;
    for (taken, end) in taken.iter().zip(ends) {
        let message = loop {
            let begin = at;
            let next = message(stream, begin, side).expect("only what has one reading is taken");
            at = next.end;
            if at >= *end {
                seen.count("bare lf", message(stream, begin, Side::Requests).is_none().into());
                break next;
            }
        };
        let (source, query) = target_of(&message).expect("a target of a record");
        assert_eq!(source, taken.source.as_bytes());
        let is_get = message.line.starts_with(b"GET ");
        if is_get {
            assert!(forms.get && message.body.is_empty() && taken.content_type.is_none());
            assert_eq!((message.end, decoded(query.expect("a query"))), (*end, taken.body.clone()));
        } else {
            assert!([&b"POST "[..], b"PUT "].iter().any(|method| message.line.starts_with(method)));
            assert_eq!((message.end, &unpacked(&message)), (*end, &taken.body));
            let types = message.all("content-type").into_iter().filter(|value| is_media_type(value));
            let types: Vec<_> = types.map(<[u8]>::to_vec).collect();
            assert_eq!(types, Vec::from_iter(taken.content_type.clone()));
            assert!(query.is_none() || forms.query == Query::Ignore);
        }
        seen.count(if is_get { "get" } else { "post" }, 1);
        seen.count("query dropped", (!is_get && query.is_some()).into());
        assert_eq!(message.all("idempotency-key"), taken.key.iter().collect::<Vec<_>>());
        assert!(message.all("host").len() == 1 || message.all("host").is_empty() && message.http10());
    }
}

/// The delivery client understands all answers.
fn check_answers(outcome: &Outcome) {
    let mut reader = ResponseReader::new();
    let mut input = &outcome.sent[..];
    let (mut answers, mut ended) = (0, 0);
    while let Some(event) = reader.next(&mut input).expect("an answer is well-formed") {
        match event {
            Event::Head(_) => answers += 1,
            Event::Body(_) => {}
            Event::End { reusable } => {
                ended += 1;
                assert!(reusable || outcome.closed && input.is_empty(), "only the last answer ends the connection");
            }
        }
    }
    assert!(input.is_empty());
    assert_eq!((answers, ended), (outcome.accepted + outcome.refused + outcome.unavailable, answers));
}

/// What a source takes, by bits 3 to 6.
fn forms_of(bits: u8) -> Forms {
    Forms {
        get: bits & 8 != 0,
        array: if bits & 16 != 0 { Array::Split } else { Array::Record },
        bare_lf: bits & 32 != 0,
        query: if bits & 64 != 0 { Query::Ignore } else { Query::Refuse },
        keeps: None,
    }
}

/// Bits (0 expand, 1 small limits, 2 late, 3 GET, 4 arrays, 5 bare LF, 6 queries are dropped), verdicts, cuts, the stream.
pub fn run(data: &[u8], seen: &mut Seen) {
    let mut input = Input::new(data);
    let (bits, verdicts) = (input.byte(), input.byte());
    let cuts = input.cuts();
    let stream = input.stream(bits & 1 != 0);
    let small = Limits { header_bytes: 200, header_fields: 5, target_bytes: 30, body_bytes: 20, ..Limits::default() };
    let limits = if bits & 2 != 0 { small } else { Limits::default() };
    let forms = forms_of(bits);
    let owner = Owner { limits: &limits, forms: &forms, verdicts, late: bits & 4 != 0 };

    let (whole, ends) = read(owner, [&stream[..]]);
    // A body that is held back is asked for or declined by what has come at that moment.
    let lowered = stream.to_ascii_lowercase();
    let has = |needle: &[u8]| lowered.windows(needle.len()).any(|window| window == needle);
    let expects = has(b"expect");
    let mut ways = vec![pieces(&stream, cuts)];
    if stream.len() <= BYTEWISE_BYTES_MAX {
        ways.push(stream.chunks(1).collect());
    }
    for way in ways {
        let (other, _) = read(owner, way);
        if expects {
            assert!(whole.taken.starts_with(&other.taken), "{other:?}, but whole: {whole:?}");
            assert!(timeless(&whole.sent).starts_with(&timeless(&other.sent)), "{other:?}, but whole: {whole:?}");
        } else {
            let sent = timeless(&other.sent);
            assert_eq!(sent.escape_ascii().to_string(), timeless(&whole.sent).escape_ascii().to_string());
            assert_eq!(Outcome { sent: whole.sent.clone(), ..other }, whole);
        }
    }
    check_boundaries(&stream, &forms, &whole.taken, &ends, seen);
    for taken in &whole.taken {
        check_records(taken, &forms, seen);
    }
    if !has(b"head ") {
        check_answers(&whole);
    }

    // Written anew, the same requests are taken.
    let plain: Vec<u8> = whole.taken.iter().flat_map(Taken::encode).collect();
    let wide = Limits { header_bytes: 2 * limits.header_bytes, ..limits.clone() };
    let (again, _) = read(Owner { limits: &Limits { target_bytes: 100, ..wide }, ..owner }, [&plain[..]]);
    assert_eq!(again.taken, whole.taken);
    assert!(!again.closed);

    seen.count("taken", whole.taken.len());
    seen.count("refused", (whole.refused + whole.unavailable) as usize);
    seen.count("closed", whole.closed.into());
    seen.count("tls", whole.tls.into());
    seen.count("chunked", (!whole.taken.is_empty() && has(b"chunked")).into());
    seen.count("expects", expects.into());
    for status in STATUSES {
        let line = format!("HTTP/1.1 {status} ").into_bytes();
        seen.count(status, whole.sent.windows(line.len()).any(|window| window == line).into());
    }
}
