//! One machine's connection: bytes in, requests out; verdicts in, answers out.

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::{Answer, Extra, Refusal};
use super::head::{self, Head, Ingest, Route};
use crate::config::Limits;
use crate::http::chunked::{Chunk, Decoder};
use crate::http::fields::{Framing, Line, LineScan, append_bounded, is_token_byte};

/// Answers that may wait before [`ServerConnection::wants_read`] says no.
const PENDING_MAX: usize = 64;
/// Answers that may wait at all. What was read before the owner could pause is still taken, up to here.
const PENDING_HARD_MAX: usize = 65_536;
/// A refused request's body is read and dropped up to here, so that the connection can go on.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// First byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A whole request for records, lent until the next call.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// SOURCE of `/v1/records/SOURCE`: 1 to 64 of `A-Za-z0-9._-`.
    pub source: &'a str,
    /// The decoded body, 1 byte to `limits.body_bytes`.
    pub body: &'a [u8],
    /// Content-Type, with parameters.
    pub content_type: Option<&'a [u8]>,
    /// Idempotency-Key, 1 to 255 bytes as they came.
    pub idempotency_key: Option<&'a [u8]>,
    /// When its first byte came; monotonic nanoseconds.
    pub first_byte_ns: u64,
}

/// What the owner makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 201 `{"accepted":records}` once the record with `last_number` is durable.
    Accepted {
        /// Number of the request's last record.
        last_number: u64,
        /// How many records it held.
        records: u32,
    },
    /// 404
    UnknownSource,
    /// 503 with Retry-After.
    Unavailable {
        /// Seconds.
        retry_after_s: u32,
    },
    /// 400 with this sentence as its body.
    BadRequest(&'static str),
}

/// What [`ServerConnection::take_output`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Output {
    /// After these bytes: FIN, then read and drop what still comes for a while (lingering close, RFC 9112 section 9.6).
    pub close: bool,
    /// Answers with 2xx.
    pub accepted: u32,
    /// Answers with 4xx, 501 or 505.
    pub refused: u32,
    /// Answers with 503.
    pub unavailable: u32,
}

/// What is being read.
#[derive(Debug)]
enum Phase {
    /// A head, or nothing yet; `buffer` holds what came of it.
    Head(LineScan),
    /// A body with so many bytes to come; `buffer` holds [`Kept`] and what came.
    Length(u64),
    /// A chunked body; `buffer` as before.
    Chunked(Decoder),
    /// The owner looks at the request.
    Verdict,
    /// Nothing more is read.
    Closing,
}

/// Lengths of the parts of a head that `buffer` starts with while a body is read: source, Content-Type, Idempotency-Key.
/// The last two count from 1, with 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    source: u8,
    idempotency_key: u16,
    content_type: u32,
}

impl Kept {
    fn bytes(self) -> usize {
        self.source as usize
            + (self.content_type as usize).saturating_sub(1)
            + (self.idempotency_key as usize).saturating_sub(1)
    }
}

/// The body of a refused request, being dropped.
#[derive(Debug)]
struct Drain {
    /// Sent after it.
    answer: Answer,
    /// What came of it, if it is chunked.
    bytes: u64,
}

/// How much of an empty line came before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlankLine {
    None,
    Cr,
    Seen,
}

/// The state of one connection. It holds memory beyond its own size only while a request is unfinished or more than one
/// answer waits.
///
/// The owner gives it bytes until [`next_request`](Self::next_request) returns `None`, answers each request by
/// [`respond`](Self::respond), and takes the output whenever [`has_output`](Self::has_output).
#[derive(Debug)]
pub struct ServerConnection {
    buffer: Vec<u8>,
    first: Option<Answer>,
    rest: VecDeque<Answer>,
    phase: Phase,
    /// Set while the body of a refused request is dropped.
    drain: Option<Box<Drain>>,
    durable_below: u64,
    first_byte_ns: u64,
    /// Start of the body, or of being idle.
    since_ns: u64,
    kept: Kept,
    keep_alive: bool,
    blank_line: BlankLine,
    tls_hello: bool,
}

/// What one step of reading came to.
enum Step<'a> {
    /// The input is used up.
    More,
    /// Something was settled: look again.
    Again,
    /// A request that lies in the input.
    Lent(Request<'a>),
    /// A request whose head lies in `buffer`, and its body too unless it lies in the input.
    Buffered(Option<&'a [u8]>),
}

impl ServerConnection {
    /// A connection accepted at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self {
            buffer: Vec::new(),
            first: None,
            rest: VecDeque::new(),
            phase: Phase::Head(LineScan::default()),
            drain: None,
            durable_below: 0,
            first_byte_ns: now_ns,
            since_ns: now_ns,
            kept: Kept::default(),
            keep_alive: true,
            blank_line: BlankLine::None,
            tls_hello: false,
        }
    }

    /// Takes bytes from the front of `input`; the next whole request, or `None` when all of `input` is taken and more is
    /// needed. Bytes after a request that ends the connection are dropped unread.
    ///
    /// # Panics
    /// If the request before has not been answered by [`respond`](Self::respond).
    pub fn next_request<'a, 'i: 'a>(
        &'a mut self,
        limits: &Limits,
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Request<'a>> {
        let body = loop {
            let step = match self.phase {
                Phase::Closing => {
                    *input = &[];
                    Step::More
                }
                Phase::Verdict => panic!("the request before has not been answered"),
                Phase::Head(scan) => self.read_head(scan, limits, now_ns, input),
                Phase::Length(remaining) => self.read_body(remaining, input),
                Phase::Chunked(decoder) => self.read_chunks(decoder, limits, input),
            };
            match step {
                Step::More => return None,
                Step::Again => {}
                Step::Lent(request) => {
                    self.phase = Phase::Verdict;
                    return Some(request);
                }
                Step::Buffered(body) => break body,
            }
        };
        self.phase = Phase::Verdict;
        Some(self.buffered_request(body))
    }

    /// The answer to the request that [`next_request`](Self::next_request) just returned.
    ///
    /// # Panics
    /// If there is none.
    pub fn respond(&mut self, verdict: Verdict) {
        assert!(matches!(self.phase, Phase::Verdict), "there is no request to answer");
        let answer = match verdict {
            Verdict::Accepted { last_number, records } => Answer::Accepted { last_number, records },
            Verdict::Unavailable { retry_after_s } => Answer::Unavailable { retry_after_s },
            Verdict::UnknownSource => refused(Refusal::new(404, "there is no such source"), false),
            Verdict::BadRequest(text) => refused(Refusal::bad(text), false),
        };
        self.finish(answer);
    }

    /// Records with numbers below `durable_below` are durable: lets waiting 201s go. Never goes back.
    pub fn release(&mut self, durable_below: u64) {
        self.durable_below = self.durable_below.max(durable_below);
    }

    /// Whether an answer may be sent now.
    pub fn has_output(&self) -> bool {
        self.first.is_some_and(|answer| answer.may_go(self.durable_below))
    }

    /// Appends all answers that may be sent now, in order. `date` is the value of the Date header.
    pub fn take_output(&mut self, now_ns: u64, date: &[u8; 29], out: &mut Vec<u8>) -> Output {
        let mut output = Output::default();
        while let Some(answer) = self.first.filter(|answer| answer.may_go(self.durable_below)) {
            self.first = self.rest.pop_front();
            answer.write(date, self.is_finished(), out);
            match answer.status() {
                100..=199 => {}
                200..=299 => output.accepted += 1,
                503 => output.unavailable += 1,
                _ => output.refused += 1,
            }
            if self.first.is_none() {
                self.rest = VecDeque::new();
                if !self.under_way() {
                    self.since_ns = now_ns;
                }
            }
        }
        output.close = self.is_finished();
        output
    }

    /// Whether more bytes should be read: not once the connection closes, nor while 64 answers wait. Bytes that were read
    /// before the owner could stop are still to be given to [`next_request`](Self::next_request).
    pub fn wants_read(&self) -> bool {
        !self.is_closing() && self.pending() < PENDING_MAX
    }

    /// The peer sends no more (half-close): requests already taken are still answered, an unfinished one is dropped.
    pub fn handle_eof(&mut self) {
        self.stop_reading();
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due: a head or body that is not whole, or an idle connection.
    /// `None` while answers wait and nothing is unfinished.
    pub fn deadline_ns(&self, limits: &Limits) -> Option<u64> {
        let after = |start_ns: u64, limit: Duration| {
            Some(start_ns.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
        };
        match self.phase {
            Phase::Closing | Phase::Verdict => None,
            Phase::Length(_) | Phase::Chunked(_) => after(self.since_ns, limits.body_timeout),
            Phase::Head(_) if self.under_way() => after(self.first_byte_ns, limits.header_timeout),
            Phase::Head(_) if self.first.is_some() => None,
            Phase::Head(_) => after(self.since_ns, limits.idle_timeout),
        }
    }

    /// If the deadline is reached: 408 and close for a request under way, a quiet close when idle.
    pub fn handle_deadline(&mut self, now_ns: u64, limits: &Limits) {
        if self.deadline_ns(limits).is_none_or(|deadline_ns| now_ns < deadline_ns) {
            return;
        }
        match self.phase {
            Phase::Head(_) if !self.under_way() => self.stop_reading(),
            Phase::Head(_) => self.close_with(Refusal::new(408, "the header did not come in time"), false),
            _ => self.close_with(Refusal::new(408, "the body did not come in time"), self.drains_a_head()),
        }
    }

    /// Nothing more to read and nothing more to answer: close.
    pub fn is_finished(&self) -> bool {
        self.is_closing() && self.first.is_none()
    }

    /// Whether the peer tried to speak TLS; the connection is then closed without an answer.
    pub fn saw_tls_hello(&self) -> bool {
        self.tls_hello
    }

    /// Memory held beyond the connection's own size, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
            + self.rest.capacity() * size_of::<Answer>()
            + self.drain.as_ref().map_or(0, |_| size_of::<Drain>())
    }

    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Answers that wait.
    fn pending(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether a part of a request is there.
    fn under_way(&self) -> bool {
        match self.phase {
            Phase::Head(_) => !self.buffer.is_empty(),
            Phase::Length(_) | Phase::Chunked(_) => true,
            Phase::Verdict | Phase::Closing => false,
        }
    }

    /// Reads a head, from the input alone if it is whole there.
    fn read_head<'a>(&mut self, scan: LineScan, limits: &Limits, now_ns: u64, input: &mut &'a [u8]) -> Step<'a> {
        if self.buffer.is_empty() {
            if !self.begin(now_ns, input) {
                return if self.is_closing() { Step::Again } else { Step::More };
            }
            let window = &input[..input.len().min(limits.header_bytes)];
            return match find_end(scan, window, limits) {
                HeadEnd::Refused(refusal) => {
                    self.close_with(refusal, is_head_request(window));
                    Step::Again
                }
                HeadEnd::More(scan) => {
                    append_bounded(&mut self.buffer, window, limits.header_bytes);
                    *input = &[];
                    self.phase = Phase::Head(scan);
                    Step::More
                }
                HeadEnd::Whole { line_end, end } => {
                    let (bytes, rest) = input.split_at(end);
                    *input = rest;
                    self.take_head(bytes, line_end, limits, now_ns, input, true)
                }
            };
        }
        if input.is_empty() {
            return Step::More;
        }
        let held = self.buffer.len();
        let window = &input[..input.len().min(limits.header_bytes.saturating_sub(held))];
        append_bounded(&mut self.buffer, window, limits.header_bytes);
        match find_end(scan, &self.buffer, limits) {
            HeadEnd::Refused(refusal) => {
                self.close_with(refusal, is_head_request(&self.buffer));
                Step::Again
            }
            HeadEnd::More(scan) => {
                *input = &[];
                self.phase = Phase::Head(scan);
                Step::More
            }
            HeadEnd::Whole { line_end, end } => {
                let bytes = std::mem::take(&mut self.buffer);
                *input = &input[end - held..];
                // The head dies with `bytes`: what must outlive it is copied, no request is lent, no input taken.
                let mut rest = *input;
                self.take_head(&bytes[..end], line_end, limits, now_ns, &mut rest, false);
                Step::Again
            }
        }
    }

    /// Looks at the first bytes of a request; whether a head may start in `input`, which then has at least a byte.
    fn begin(&mut self, now_ns: u64, input: &mut &[u8]) -> bool {
        // One empty line before a request is ignored (RFC 9112 section 2.2).
        while let (Some((byte, rest)), false) = (input.split_first(), self.blank_line == BlankLine::Seen) {
            self.blank_line = match (self.blank_line, byte) {
                (BlankLine::None, b'\r') => BlankLine::Cr,
                (BlankLine::Cr, b'\n') => BlankLine::Seen,
                (BlankLine::Cr, _) => {
                    self.close_with(Refusal::bad("a bare CR"), false);
                    return false;
                }
                _ => break,
            };
            *input = rest;
        }
        let Some(&byte) = input.first() else { return false };
        self.first_byte_ns = now_ns;
        if byte == TLS_HANDSHAKE {
            self.tls_hello = true;
            self.stop_reading();
        } else if !is_token_byte(byte) {
            self.close_with(Refusal::bad("this is no HTTP request"), false);
        } else if self.pending() >= PENDING_HARD_MAX {
            let refusal = Refusal::new(503, "too many requests wait for their answers");
            self.close_with(Refusal { extra: Extra::RetrySoon, ..refusal }, false);
        } else {
            return true;
        }
        false
    }

    /// Decides what becomes of a whole head. `lend` is whether `bytes` live as long as the input does.
    fn take_head<'a>(
        &mut self,
        bytes: &'a [u8],
        line_end: usize,
        limits: &Limits,
        now_ns: u64,
        input: &mut &'a [u8],
        lend: bool,
    ) -> Step<'a> {
        let head = match head::parse(bytes, line_end, limits) {
            Ok(head) => head,
            Err(refusal) => {
                self.close_with(refusal, is_head_request(bytes));
                return Step::Again;
            }
        };
        self.phase = Phase::Head(LineScan::default());
        self.blank_line = BlankLine::None;
        self.keep_alive = head.keep_alive;
        self.since_ns = now_ns;
        let ingest = match head.route {
            Route::Ingest(ingest) => ingest,
            Route::Tunnel(refusal) => {
                self.close_with(refusal, false);
                return Step::Again;
            }
            Route::Refused(refusal) => {
                self.decline(&head, refused(refusal, head.head_only), input);
                return Step::Again;
            }
            Route::Options => {
                self.decline(&head, Answer::Options, input);
                return Step::Again;
            }
        };
        match head.framing {
            Framing::Absent => {
                self.finish(refused(Refusal::new(411, "a record needs Content-Length or chunked"), false))
            }
            Framing::Length(0) => self.finish(refused(EMPTY_RECORD, false)),
            Framing::Length(length) if length > limits.body_bytes as u64 => self.close_with(TOO_LARGE, false),
            Framing::Length(length) if lend && length <= input.len() as u64 => {
                let (body, rest) = input.split_at(length as usize);
                *input = rest;
                return Step::Lent(Request {
                    source: ingest.source,
                    body,
                    content_type: ingest.content_type,
                    idempotency_key: ingest.idempotency_key,
                    first_byte_ns: self.first_byte_ns,
                });
            }
            Framing::Length(length) => self.expect_body(&head, &ingest, Phase::Length(length), input),
            Framing::Chunked => self.expect_body(&head, &ingest, Phase::Chunked(Decoder::new()), input),
        }
        Step::Again
    }

    /// Keeps what must outlive the head, and asks for a body that is held back.
    fn expect_body(&mut self, head: &Head<'_>, ingest: &Ingest<'_>, phase: Phase, input: &[u8]) {
        if head.expects_continue && input.is_empty() {
            self.push(Answer::Continue);
        }
        let content_type = ingest.content_type.unwrap_or_default();
        let key = ingest.idempotency_key.unwrap_or_default();
        self.kept = Kept {
            source: ingest.source.len() as u8,
            content_type: ingest.content_type.map_or(0, |value| value.len() as u32 + 1),
            idempotency_key: ingest.idempotency_key.map_or(0, |value| value.len() as u16 + 1),
        };
        let mut buffer = Vec::with_capacity(self.kept.bytes());
        buffer.extend_from_slice(ingest.source.as_bytes());
        buffer.extend_from_slice(content_type);
        buffer.extend_from_slice(key);
        self.buffer = buffer;
        self.phase = phase;
    }

    /// Answers a request that is not for records once its body is dropped; at once where there is none, or where reading on
    /// is not worth it.
    fn decline(&mut self, head: &Head<'_>, answer: Answer, input: &[u8]) {
        let held_back = head.expects_continue && input.is_empty();
        let phase = match head.framing {
            Framing::Absent | Framing::Length(0) => return self.finish(answer),
            Framing::Length(length) if length <= DRAIN_BYTES_MAX => Phase::Length(length),
            Framing::Chunked => Phase::Chunked(Decoder::new()),
            Framing::Length(_) => Phase::Closing,
        };
        if held_back || !self.keep_alive || matches!(phase, Phase::Closing) {
            self.keep_alive = false;
            return self.finish(answer);
        }
        self.drain = Some(Box::new(Drain { answer, bytes: 0 }));
        self.phase = phase;
    }

    /// Reads a body of known length.
    fn read_body<'a>(&mut self, remaining: u64, input: &mut &'a [u8]) -> Step<'a> {
        let whole = remaining <= input.len() as u64;
        let (bytes, rest) = input.split_at(if whole { remaining as usize } else { input.len() });
        *input = rest;
        if let Some(drain) = self.drain.take_if(|_| whole) {
            self.finish(drain.answer);
            return Step::Again;
        }
        let has_body = self.buffer.len() > self.kept.bytes();
        if whole && !has_body && self.drain.is_none() {
            return Step::Buffered(Some(bytes));
        }
        if self.drain.is_none() {
            let bound = self.buffer.len() + remaining as usize;
            append_bounded(&mut self.buffer, bytes, bound);
        }
        if whole {
            return Step::Buffered(None);
        }
        self.phase = Phase::Length(remaining - bytes.len() as u64);
        Step::More
    }

    /// Reads a chunked body, into `buffer` unless it is dropped.
    fn read_chunks<'a>(&mut self, mut decoder: Decoder, limits: &Limits, input: &mut &'a [u8]) -> Step<'a> {
        loop {
            match decoder.next(input) {
                Err(fault) => self.close_with(fault.into(), self.drains_a_head()),
                Ok(Chunk::More) => {
                    self.phase = Phase::Chunked(decoder);
                    return Step::More;
                }
                Ok(Chunk::Data(bytes)) => {
                    if self.take_data(bytes, limits) {
                        continue;
                    }
                }
                Ok(Chunk::End) => {
                    if let Some(drain) = self.drain.take() {
                        self.finish(drain.answer);
                    } else if self.buffer.len() == self.kept.bytes() {
                        self.finish(refused(EMPTY_RECORD, false));
                    } else {
                        return Step::Buffered(None);
                    }
                }
            }
            return Step::Again;
        }
    }

    /// Keeps or drops decoded bytes; `false` if they passed the limit and the request is answered.
    fn take_data(&mut self, bytes: &[u8], limits: &Limits) -> bool {
        if let Some(drain) = &mut self.drain {
            drain.bytes += bytes.len() as u64;
            if drain.bytes > DRAIN_BYTES_MAX {
                let answer = drain.answer;
                self.keep_alive = false;
                self.finish(answer);
                return false;
            }
            return true;
        }
        let bound = self.kept.bytes() + limits.body_bytes;
        if self.buffer.len() + bytes.len() > bound {
            self.close_with(TOO_LARGE, false);
            return false;
        }
        append_bounded(&mut self.buffer, bytes, bound);
        true
    }

    /// Whether the body being dropped is a HEAD request's.
    fn drains_a_head(&self) -> bool {
        let answer = self.drain.as_ref().map(|drain| drain.answer);
        matches!(answer, Some(Answer::Refused { head_only: true, .. }))
    }

    /// The request whose parts `buffer` holds.
    fn buffered_request<'a>(&'a self, body: Option<&'a [u8]>) -> Request<'a> {
        let (source, rest) = self.buffer.split_at(self.kept.source as usize);
        let (content_type, rest) = rest.split_at((self.kept.content_type as usize).saturating_sub(1));
        let (key, rest) = rest.split_at((self.kept.idempotency_key as usize).saturating_sub(1));
        Request {
            source: std::str::from_utf8(source).expect("a SOURCE is ASCII"),
            body: body.unwrap_or(rest),
            content_type: (self.kept.content_type > 0).then_some(content_type),
            idempotency_key: (self.kept.idempotency_key > 0).then_some(key),
            first_byte_ns: self.first_byte_ns,
        }
    }

    /// Queues the last answer to a request, frees what was kept of it, and goes on to the next one or closes.
    fn finish(&mut self, answer: Answer) {
        self.buffer = Vec::new();
        self.push(answer);
        self.phase = Phase::Head(LineScan::default());
        if !self.keep_alive {
            self.stop_reading();
        }
    }

    /// Queues an answer after which nothing is read.
    fn close_with(&mut self, refusal: Refusal, head_only: bool) {
        self.push(refused(refusal, head_only));
        self.stop_reading();
    }

    fn push(&mut self, answer: Answer) {
        match self.first {
            None => self.first = Some(answer),
            Some(_) => self.rest.push_back(answer),
        }
    }

    fn stop_reading(&mut self) {
        self.phase = Phase::Closing;
        self.buffer = Vec::new();
        self.drain = None;
    }
}

const EMPTY_RECORD: Refusal = Refusal::bad("an empty body is no record");
const TOO_LARGE: Refusal = Refusal::new(413, "the body is too large");

fn refused(refusal: Refusal, head_only: bool) -> Answer {
    Answer::Refused { refusal, head_only }
}

fn is_head_request(head: &[u8]) -> bool {
    head.starts_with(b"HEAD ")
}

/// Where a head ends.
enum HeadEnd {
    More(LineScan),
    Whole { line_end: usize, end: usize },
    Refused(Refusal),
}

/// Looks for a head's end in `window`, the first bytes of a request, at most `limits.header_bytes`. What is found wrong
/// depends on the bytes alone, not on the pieces they came in.
fn find_end(mut scan: LineScan, window: &[u8], limits: &Limits) -> HeadEnd {
    let refuse = HeadEnd::Refused;
    loop {
        match scan.next(window) {
            Line::Whole { start: 0, end } => {
                if let Err(refusal) = head::check_line(&window[..end], limits) {
                    return refuse(refusal);
                }
            }
            Line::Whole { start, end } if start == end => {
                let line_end = memchr::memchr(b'\r', window).expect("a line ended before");
                return HeadEnd::Whole { line_end, end: end + 2 };
            }
            Line::Whole { .. } => {}
            Line::Bare { start, at, byte } => {
                let so_far = if start == 0 { head::check_line_so_far(&window[..at], limits) } else { Ok(()) };
                let text = if byte == b'\n' { "a line ends in a bare LF" } else { "a bare CR" };
                return refuse(so_far.err().unwrap_or(Refusal::bad(text)));
            }
            Line::More { start } => {
                let so_far = if start == 0 { head::check_line_so_far(window, limits) } else { Ok(()) };
                return match so_far {
                    Err(refusal) => refuse(refusal),
                    Ok(()) if window.len() >= limits.header_bytes => {
                        refuse(Refusal::new(431, "the header is too large"))
                    }
                    Ok(()) => HeadEnd::More(scan),
                };
            }
        }
    }
}
