//! What the ingest server makes of requests, right and wrong ones: each is sent whole, byte by byte, and pipelined after a
//! good request, always with a good request behind it, which is answered only where the connection goes on.

mod access;
mod forms;
mod get;
mod keeps;
mod keys;
mod random;
mod rows;
mod table;

use ringest::access::{Access, Judged, Names};
use ringest::http::date::HttpDate;
use ringest::http::server::{
    Caller, Details, Forms, Limits, Output, Part, Query, Rules, Ruling, ServerConnection, Stranger, Turned, Verdict,
};

use table::{Case, GOOD, HELLO, P, chunked, closed, post, refused, taken, with_length};

const SECOND_NS: u64 = 1_000_000_000;

/// One answer as a client would read it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    /// Whoever is refused is told the rule, what came and what is allowed, as JSON.
    fn check_refusal(&self) {
        if self.status < 400 || self.status == 503 {
            return;
        }
        assert_eq!(self.field("content-type"), Some("application/json"), "{self:?}");
        let said: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        for key in ["rule", "came", "allowed"] {
            let told = &said[key];
            assert!(told.is_array() || told.as_str().is_some_and(|words| !words.is_empty()), "{key}: {self:?}");
        }
    }
}

/// A request as its owner saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    source: String,
    body: Vec<u8>,
    content_type: Option<Vec<u8>>,
    idempotency_key: Option<Vec<u8>>,
    /// Kept headers, encoded.
    headers: Vec<u8>,
}

/// All that came of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    journaled: Vec<Taken>,
    sent: Vec<u8>,
    closed: bool,
    accepted: u32,
    refused: u32,
    unavailable: u32,
    /// Refusals that the owner hears of, for it did not say them: the status, and what is shown.
    heard: Vec<(u16, String)>,
}

impl Outcome {
    fn bodies(&self) -> Vec<&[u8]> {
        self.journaled.iter().map(|taken| taken.body.as_slice()).collect()
    }

    /// The answers; `heads` are the indexes of those that answer a HEAD request.
    fn answers(&self, heads: &[usize]) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut rest = self.sent.as_slice();
        while !rest.is_empty() {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer's head is whole");
            let head = std::str::from_utf8(&rest[..end]).expect("answers are UTF-8");
            rest = &rest[end + 4..];
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
            let status: u16 = status[..3].parse().expect("a status");
            let fields: Vec<(String, String)> = lines
                .map(|line| line.split_once(": ").expect("a field"))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let mut answer = Answer { status, fields, body: String::new() };
            if status != 100 {
                assert_eq!(answer.field("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
            }
            if status == 100 || status == 204 {
                assert_eq!(answer.field("content-length"), None);
            } else {
                let length: usize = answer.field("content-length").expect("a length").parse().expect("a number");
                assert!(length > 0);
                if !heads.contains(&answers.len()) {
                    answer.body = String::from_utf8(rest[..length].to_vec()).expect("UTF-8");
                    rest = &rest[length..];
                    answer.check_refusal();
                }
            }
            answers.push(answer);
        }
        answers
    }

    fn statuses(&self) -> Vec<u16> {
        self.answers(&[]).iter().map(|answer| answer.status).collect()
    }
}

/// A connection with an owner that takes every record and makes it durable at once.
struct Machine {
    connection: ServerConnection,
    limits: Limits,
    forms: Forms,
    access: Access,
    outcome: Outcome,
    next_number: u64,
    /// It may be in the middle of a packed body.
    unpacks: bool,
}

impl Machine {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        Self {
            connection: ServerConnection::new(0),
            limits,
            forms: Forms::default(),
            access: Access::default(),
            outcome: Outcome::default(),
            next_number: 0,
            unpacks: false,
        }
    }

    /// Takes the requests of `bytes` without making anything durable.
    fn receive(&mut self, now_ns: u64, bytes: &[u8]) {
        let mut input = bytes;
        let mut judge = |caller: &Caller<'_>| {
            let names = Names { own: "a", taken: &["a".to_owned(), "gauge".to_owned()] };
            match self.access.judge(caller, names, 0, None) {
                Ok(Judged::In(admitted)) => Ruling::Pass(admitted.origin),
                Ok(judged) => panic!("nobody types a secret here: {judged:?}"),
                Err(turned) => Ruling::Deny(Box::new(turned.answer)),
            }
        };
        while let Some(request) = self.connection.next_request(
            Rules { limits: &self.limits, forms: &self.forms },
            now_ns,
            &mut input,
            &mut judge,
        ) {
            assert!(!request.body.is_empty() && request.body.len() <= self.limits.body_bytes);
            self.outcome.journaled.push(Taken {
                source: request.source.to_owned(),
                body: request.body.to_vec(),
                content_type: request.content_type.map(<[u8]>::to_vec),
                idempotency_key: request.idempotency_key.map(<[u8]>::to_vec),
                headers: request.headers.as_bytes().to_vec(),
            });
            self.connection.respond(Verdict::Accepted { last_number: self.next_number, records: 1, keyed: false });
            self.next_number += 1;
        }
        assert!(input.is_empty(), "all input is taken");
        let unpacker = if self.unpacks { 64 * 1024 } else { 0 };
        let bound = self.limits.header_bytes + self.limits.body_bytes + 4096 + unpacker;
        assert!(self.connection.held_bytes() <= bound, "{} bytes held", self.connection.held_bytes());
    }

    fn flush(&mut self, now_ns: u64) -> Output {
        let mut date = HttpDate::new();
        let had_output = self.connection.has_output();
        let before = self.outcome.sent.len();
        let heard = &mut self.outcome.heard;
        let mut hear = |turned: Turned<'_>| heard.push((turned.status, turned.line.to_owned()));
        let output =
            self.connection.take_output(now_ns, date.at(784_111_777 * SECOND_NS), &mut self.outcome.sent, &mut hear);
        assert_eq!(had_output, self.outcome.sent.len() > before);
        assert!(!self.connection.has_output());
        assert_eq!(output.close, self.connection.is_finished());
        self.outcome.closed |= output.close;
        self.outcome.accepted += output.accepted;
        self.outcome.refused += output.refused;
        self.outcome.unavailable += output.unavailable;
        output
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.receive(0, bytes);
        self.connection.release(self.next_number);
        self.flush(0);
    }
}

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    run_with(Limits::default(), pieces)
}

fn run_with<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut machine = Machine::with_limits(limits);
    for piece in pieces {
        machine.feed(piece);
    }
    machine.outcome
}

/// As a source that takes these forms.
fn run_as<'a>(forms: &Forms, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut machine = Machine::new();
    machine.forms = forms.clone();
    for piece in pieces {
        machine.feed(piece);
    }
    machine.outcome
}

#[test]
fn reading_pauses_while_64_answers_wait_and_what_was_read_is_still_taken() {
    let mut machine = Machine::new();
    machine.receive(0, GOOD.repeat(63).as_bytes());
    assert!(machine.connection.wants_read());
    machine.receive(0, GOOD.as_bytes());
    assert!(!machine.connection.wants_read());
    let mut input = GOOD.as_bytes();
    while machine.connection.next_request((&machine.limits).into(), 0, &mut input, &mut Ruling::everybody).is_some() {
        machine.connection.respond(Verdict::Unavailable { retry_after_s: 1 });
    }
    machine.connection.release(64);
    machine.flush(0);
    assert!(machine.connection.wants_read());
    assert_eq!(machine.connection.held_bytes(), 0);
    assert_eq!((machine.outcome.accepted, machine.outcome.unavailable), (64, 1));
}

#[test]
fn a_flood_that_the_owner_does_not_pause_ends_in_503() {
    let mut connection = ServerConnection::new(0);
    let limits = Limits::default();
    let mut taken = 0;
    for _ in 0..70_000 {
        let mut input = GOOD.as_bytes();
        while connection.next_request((&limits).into(), 0, &mut input, &mut Ruling::everybody).is_some() {
            taken += 1;
            connection.respond(Verdict::Accepted { last_number: taken, records: 1, keyed: false });
        }
    }
    assert_eq!(taken, 65_536);
    connection.release(u64::MAX);
    let output = connection.take_output(0, &[b' '; 29], &mut Vec::new(), &mut |_| ());
    assert_eq!(output, Output { close: true, accepted: 65_536, refused: 0, unavailable: 1 });
}

#[test]
fn an_idle_connection_is_small_and_holds_no_buffer() {
    assert!(size_of::<ServerConnection>() <= 208, "{} bytes", size_of::<ServerConnection>());
    let mut machine = Machine::new();
    machine.feed(with_length("5").as_bytes());
    assert_eq!(machine.connection.held_bytes(), 0);
    let request = chunked(HELLO);
    for byte in request.as_bytes().chunks(1) {
        machine.feed(byte);
    }
    machine.feed(GOOD.repeat(3).as_bytes());
    assert_eq!(machine.outcome.statuses(), [201; 5]);
    assert_eq!(machine.connection.held_bytes(), 0);
}

#[test]
fn a_whole_request_is_lent_from_the_bytes_it_came_in() {
    let request = post("Content-Type: a/b\r\nIdempotency-Key: k\r\nContent-Length: 5\r\n", "hello");
    let inside = |part: &[u8]| request.as_bytes().as_ptr_range().contains(&part.as_ptr());
    let limits = Limits::default();
    let mut connection = ServerConnection::new(0);
    let mut input = request.as_bytes();
    let taken = connection.next_request((&limits).into(), 5, &mut input, &mut Ruling::everybody).expect("a request");
    assert!(inside(taken.source.as_bytes()) && inside(taken.body) && inside(taken.content_type.unwrap()));
    assert!(inside(taken.idempotency_key.unwrap()));
    assert_eq!(taken.first_byte_ns, 5);
    connection.respond(Verdict::KeyReused);
    assert_eq!(connection.held_bytes(), 0);
    // A body that comes whole behind its head is lent too.
    let (head, body) = request.as_bytes().split_at(request.len() - 5);
    assert!(connection.next_request((&limits).into(), 6, &mut { head }, &mut Ruling::everybody).is_none());
    assert!(connection.held_bytes() < 64);
    let mut input = body;
    let taken = connection.next_request((&limits).into(), 9, &mut input, &mut Ruling::everybody).expect("a request");
    assert_eq!((taken.source, taken.body, taken.first_byte_ns), ("a", b"hello".as_slice(), 6));
    assert!(inside(taken.body));
}

#[test]
#[should_panic(expected = "has not been answered")]
fn a_request_must_be_answered_before_the_next_one_is_taken() {
    let mut connection = ServerConnection::new(0);
    let requests = GOOD.repeat(2);
    let mut input = requests.as_bytes();
    let limits = Limits::default();
    assert!(connection.next_request((&limits).into(), 0, &mut input, &mut Ruling::everybody).is_some());
    connection.next_request((&limits).into(), 0, &mut input, &mut Ruling::everybody);
}
