//! Reading: from bytes to whole requests, and the answers to those that are wrong.

use super::answer::{Answer, Extra, MANY_SECRETS, Refusal, Refused, shown};
use super::connection::{BlankLine, Drain, Kept, Lasts, Packed, Phase, Request, ServerConnection, Stranger, refused};
use super::door::{Caller, Denied, Ruling};
use super::forms::{self, Get, Rules};
use super::head::{self, Head, Ingest, Route};
use super::limits::Limits;
use crate::ground::KeptHeaders;
use crate::ground::proxy::SIGNATURE_2;
use crate::ground::secrets::scope;
use crate::http::chunked::{Chunk, Decoder};
use crate::http::fields::{Framing, Line, LineScan, append_bounded, is_token_byte};
use crate::http::gzip::{GzipFault, Unpacker};

/// Answers that may wait at all. What was read before the owner could pause is still taken, up to here.
const PENDING_HARD_MAX: usize = 65_536;
/// A refused request's body is read and dropped up to here, so that the connection can go on.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// First byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// A chunked or empty body without a byte of data.
const EMPTY_RECORD: Refusal = Refusal::bad("an empty body is no record", "1 byte or more");
const NO_LENGTH: Refusal =
    Refusal::new(411, "a record needs Content-Length or chunked", "Content-Length, or Transfer-Encoding: chunked");
const BARE_CR: Refusal = Refusal::bad("a bare CR", "CRLF at the end of each line");
const NO_HTTP: Refusal = Refusal::bad("this is no HTTP request", "POST /v1/records/SOURCE HTTP/1.1");
const TOO_MANY: Refusal = Refusal {
    extra: Extra::RetrySoon,
    ..Refusal::new(503, "too many requests wait for their answers", "fewer requests that wait")
};
/// A body over `limits.body_bytes`.
const TOO_LARGE: Refusal = Refusal::new(413, "the body is too large", "body in [limits] of the gateway");

/// What one step of reading came to.
pub(super) enum Step<'a> {
    /// The input is used up.
    More,
    /// The owner must find something out first; the input is left as it is.
    Wait,
    /// Something was settled: look again.
    Again,
    /// A request that lies in the input.
    Lent(Request<'a>),
    /// A request whose head lies in `buffer`, and its body too unless it lies in the input.
    Buffered(Option<&'a [u8]>),
}

impl ServerConnection {
    /// Reads a head, from the input alone if it is whole there.
    pub(super) fn read_head<'a>(
        &mut self,
        scan: LineScan,
        rules: Rules<'_>,
        now_ns: u64,
        input: &mut &'a [u8],
        judge: &mut dyn FnMut(&Caller<'_>) -> Ruling,
    ) -> Step<'a> {
        let (limits, bare_lf) = (rules.limits, rules.forms.bare_lf);
        if self.buffer.is_empty() {
            if !self.begin(now_ns, input, bare_lf) {
                return if self.is_closing() { Step::Again } else { Step::More };
            }
            let window = &input[..input.len().min(limits.header_bytes)];
            return match find_end(scan, window, limits, bare_lf) {
                HeadEnd::Refused(refusal) => {
                    self.refuse_head(refusal, window);
                    Step::Again
                }
                HeadEnd::More(scan) => {
                    // A head may hold a token.
                    scope(|| append_bounded(&mut self.buffer, window, limits.header_bytes));
                    *input = &[];
                    self.phase = Phase::Head(scan);
                    Step::More
                }
                HeadEnd::Whole { line_end, end } => {
                    let (bytes, rest) = input.split_at(end);
                    *input = rest;
                    self.take_head((bytes, line_end), rules, now_ns, input, judge, true)
                }
            };
        }
        if input.is_empty() {
            return Step::More;
        }
        let held = self.buffer.len();
        let window = &input[..input.len().min(limits.header_bytes.saturating_sub(held))];
        scope(|| append_bounded(&mut self.buffer, window, limits.header_bytes));
        match find_end(scan, &self.buffer, limits, bare_lf) {
            HeadEnd::Refused(refusal) => {
                let came = std::mem::take(&mut self.buffer);
                self.refuse_head(refusal, &came);
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
                self.take_head((&bytes[..end], line_end), rules, now_ns, &mut rest, judge, false);
                if self.is_judging() { Step::Wait } else { Step::Again }
            }
        }
    }

    /// Looks at a head again of which it was not known who sends it.
    pub(super) fn judge_again<'a>(
        &mut self,
        line_end: usize,
        rules: Rules<'_>,
        now_ns: u64,
        input: &[u8],
        judge: &mut dyn FnMut(&Caller<'_>) -> Ruling,
    ) -> Step<'a> {
        let bytes = std::mem::take(&mut self.buffer);
        let mut rest = input;
        self.take_head((&bytes, line_end), rules, now_ns, &mut rest, judge, false);
        if self.is_judging() { Step::Wait } else { Step::Again }
    }

    /// Looks at the first bytes of a request; whether a head may start in `input`, which then has at least a byte.
    fn begin(&mut self, now_ns: u64, input: &mut &[u8], bare_lf: bool) -> bool {
        // One empty line before a request is ignored (RFC 9112 section 2.2).
        while let (Some((byte, rest)), BlankLine::None | BlankLine::Cr) = (input.split_first(), self.blank_line) {
            self.blank_line = match (self.blank_line, byte) {
                (BlankLine::None, b'\r') => BlankLine::Cr,
                (BlankLine::Cr, b'\n') => BlankLine::Seen,
                (BlankLine::None, b'\n') if bare_lf => BlankLine::Seen,
                (BlankLine::Cr, _) => {
                    self.refuse_start(BARE_CR, false, input);
                    return false;
                }
                _ => break,
            };
            *input = rest;
        }
        let Some(&byte) = input.first() else { return false };
        if let (BlankLine::Seen, b'\r') | (BlankLine::ProxyHeader(_), _) = (self.blank_line, byte) {
            return self.begin_proxy_header(input);
        }
        self.first_byte_ns = now_ns;
        if byte == TLS_HANDSHAKE {
            self.stranger = Some(Stranger::TlsHello);
            self.stop_reading();
        } else if !is_token_byte(byte) {
            self.refuse_start(NO_HTTP, false, input);
        } else if self.pending() >= PENDING_HARD_MAX {
            self.refuse_start(TOO_MANY, false, input);
        } else {
            return true;
        }
        false
    }

    /// Behind one empty line there is no other one, unless both begin a PROXY header. Where that is whole, or is none, it is
    /// refused; no head begins here in any case.
    fn begin_proxy_header(&mut self, input: &mut &[u8]) -> bool {
        let mut matched = match self.blank_line {
            BlankLine::ProxyHeader(matched) => usize::from(matched),
            _ => 2,
        };
        let taken = input.iter().zip(&SIGNATURE_2[matched..]).take_while(|(came, wanted)| came == wanted).count();
        matched += taken;
        *input = &input[taken..];
        if matched == SIGNATURE_2.len() {
            self.refuse_head(head::PROXY_HEADER, b"PROXY (version 2)");
        } else if !input.is_empty() {
            self.refuse_start(NO_HTTP, false, input);
        } else {
            self.blank_line = BlankLine::ProxyHeader(matched as u8);
        }
        false
    }

    /// Answers a head that cannot be read; nothing behind it can.
    fn refuse_head(&mut self, refusal: Refusal, came: &[u8]) {
        if refusal == head::PROXY_HEADER {
            self.stranger = Some(Stranger::ProxyHeader);
        }
        self.refuse_start(refusal, is_head_request(came), came);
    }

    /// Answers what is wrong before a head is whole. How much of it has come depends on the pieces that it came in, and the
    /// answer must not.
    fn refuse_start(&mut self, refusal: Refusal, head_only: bool, came: &[u8]) {
        // Of a PROXY header its owner is told.
        let line = (refusal != head::PROXY_HEADER).then(|| shown(came));
        let refusal = Refusal { came: refusal.came.or(Some("what this request begins with")), ..refusal };
        self.end_with(Refused { refusal, head_only, line, is_judged: false });
    }

    /// Decides what becomes of a whole head. `lend` is whether `bytes` live as long as the input does.
    fn take_head<'a>(
        &mut self,
        (bytes, line_end): (&'a [u8], usize),
        rules: Rules<'_>,
        now_ns: u64,
        input: &mut &'a [u8],
        judge: &mut dyn FnMut(&Caller<'_>) -> Ruling,
        lend: bool,
    ) -> Step<'a> {
        let limits = rules.limits;
        let takes_get = rules.forms.get;
        self.get = if takes_get { Get::Taken } else { Get::Refused };
        let head = match head::parse(bytes, line_end, rules) {
            Ok(head) => head,
            Err(refusal) => {
                let (head_only, line) = (is_head_request(bytes), Some(shown(bytes)));
                self.end_with(Refused { refusal, head_only, line, is_judged: false });
                return Step::Again;
            }
        };
        self.phase = Phase::Head(LineScan::default());
        self.blank_line = BlankLine::None;
        self.lasts = head.lasts;
        if head.is_get && takes_get {
            self.get = Get::UnderWay;
        }
        self.since_ns = now_ns;
        if let Some(step) = self.ask(&head, (bytes, line_end), input, judge) {
            return step;
        }
        let ingest = match head.route {
            Route::Ingest(ingest) => ingest,
            Route::Tunnel(refusal) => {
                self.close_with(refusal, false, shown(bytes));
                return Step::Again;
            }
            Route::Refused(refusal) => {
                self.decline(&head, refused(refusal, head.head_only, Some(shown(bytes))), input);
                return Step::Again;
            }
            Route::Options => {
                let keeps = rules.forms.keeps.clone();
                self.decline(&head, Answer::Options { keeps }, input);
                return Step::Again;
            }
        };
        if let Some(query) = ingest.query {
            self.take_query((&head, &ingest), (bytes, query), limits);
            return Step::Again;
        }
        match head.framing {
            Framing::Absent => self.finish(refused(NO_LENGTH, false, Some(shown(bytes)))),
            Framing::Length(0) => self.finish(refused(EMPTY_RECORD, false, Some(shown(bytes)))),
            Framing::Length(length) if length > limits.body_bytes as u64 => {
                self.close_with(TOO_LARGE, false, shown(bytes))
            }
            Framing::Length(length)
                if lend && length <= input.len() as u64 && !ingest.is_packed && head.headers.is_empty() =>
            {
                let (body, rest) = input.split_at(length as usize);
                *input = rest;
                return Step::Lent(Request {
                    source: ingest.source,
                    body,
                    content_type: ingest.content_type,
                    idempotency_key: ingest.idempotency_key,
                    headers: KeptHeaders::default(),
                    first_byte_ns: self.first_byte_ns,
                });
            }
            Framing::Length(length) => self.expect_body(&head, &ingest, Phase::Length(length), input),
            Framing::Chunked => self.expect_body(&head, &ingest, Phase::Chunked(Decoder::new()), input),
        }
        Step::Again
    }

    /// Asks the owner of a whole head; what comes of that, unless it is read on.
    fn ask<'a>(
        &mut self,
        head: &Head<'_>,
        (bytes, line_end): (&[u8], usize),
        input: &[u8],
        judge: &mut dyn FnMut(&Caller<'_>) -> Ruling,
    ) -> Option<Step<'a>> {
        // What asks for a tunnel is refused whoever asks.
        if matches!(head.route, Route::Tunnel(_)) {
            return None;
        }
        match judge(&Caller { line: &bytes[..line_end], ..head.caller }) {
            Ruling::Pass(origin) => {
                self.origin = origin;
                return None;
            }
            Ruling::Wait => {
                self.buffer = scope(|| bytes.to_vec());
                self.phase = Phase::Judging(line_end);
                return Some(Step::Wait);
            }
            Ruling::Later(retry_after_s) => {
                self.decline(head, Answer::TryLater { what: &MANY_SECRETS, retry_after_s }, input)
            }
            Ruling::Deny(denied) => self.deny(head, denied, input),
        }
        Some(Step::Again)
    }

    /// The query of a GET becomes the body that its request does not have.
    fn take_query(&mut self, (head, ingest): (&Head<'_>, &Ingest<'_>), (line, query): (&[u8], &[u8]), limits: &Limits) {
        let bytes = forms::decoded_bytes(query).expect("looked at with the head");
        if bytes > limits.body_bytes {
            return self.finish(refused(forms::QUERY_TOO_LARGE, false, Some(shown(line))));
        }
        self.keep_parts(head, ingest, bytes);
        forms::decode(query, &mut self.buffer);
        self.phase = Phase::Length(0);
    }

    /// Keeps what must outlive the head, and asks for a body that is held back.
    fn expect_body(&mut self, head: &Head<'_>, ingest: &Ingest<'_>, phase: Phase, input: &[u8]) {
        if head.expects_continue && input.is_empty() {
            self.push(Answer::Continue);
        }
        self.keep_parts(head, ingest, 0);
        self.packed = ingest.is_packed.then(|| Box::new(Packed { unpacker: Unpacker::new(), bytes: 0 }));
        self.phase = phase;
    }

    /// Keeps what must outlive the head, with room for so many bytes behind it.
    fn keep_parts(&mut self, head: &Head<'_>, ingest: &Ingest<'_>, room_bytes: usize) {
        let content_type = ingest.content_type.unwrap_or_default();
        let key = ingest.idempotency_key.unwrap_or_default();
        self.kept = Kept {
            source: ingest.source.len() as u8,
            content_type: ingest.content_type.map_or(0, |value| value.len() as u16 + 1),
            idempotency_key: ingest.idempotency_key.map_or(0, |value| value.len() as u16 + 1),
            headers: head.headers.len() as u16,
        };
        let mut buffer = Vec::with_capacity(self.kept.bytes() + room_bytes);
        buffer.extend_from_slice(ingest.source.as_bytes());
        buffer.extend_from_slice(content_type);
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(&head.headers);
        self.buffer = buffer;
    }

    /// Answers who is not let in. Of who has not said who they are nothing more is read.
    fn deny(&mut self, head: &Head<'_>, mut denied: Box<Denied>, input: &[u8]) {
        self.origin = denied.origin.take();
        let is_unknown = matches!(denied.status, 401 | 429);
        let answer = Answer::Denied { denied, head_only: head.head_only };
        if is_unknown {
            self.lasts = Lasts::No;
            self.finish(answer);
        } else {
            self.decline(head, answer, input);
        }
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
        if held_back || self.lasts == Lasts::No || matches!(phase, Phase::Closing) {
            self.lasts = Lasts::No;
            return self.finish(answer);
        }
        self.drain = Some(Box::new(Drain { answer, bytes: 0 }));
        self.phase = phase;
    }

    /// Reads a body of known length.
    pub(super) fn read_body<'a>(&mut self, remaining: u64, limits: &Limits, input: &mut &'a [u8]) -> Step<'a> {
        let whole = remaining <= input.len() as u64;
        let (bytes, rest) = input.split_at(if whole { remaining as usize } else { input.len() });
        *input = rest;
        if self.packed.is_some() {
            if !self.take_packed(bytes, limits) {
                return Step::Again;
            }
            if self.packed.is_some() && whole {
                return self.end_packed();
            }
            if self.packed.is_some() {
                self.phase = Phase::Length(remaining - bytes.len() as u64);
                return Step::More;
            }
        }
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

    /// Unpacks bytes of a packed body; `false` if the request is answered. One that is damaged is answered once its rest is dropped.
    fn take_packed(&mut self, bytes: &[u8], limits: &Limits) -> bool {
        let Some(packed) = &mut self.packed else { return true };
        let bound = self.kept.bytes() + limits.body_bytes;
        let room = (limits.body_bytes as u64).saturating_sub(packed.bytes);
        let taken = &bytes[..bytes.len().min(room as usize)];
        packed.bytes += bytes.len() as u64;
        let result = packed.unpacker.unpack(taken, &mut self.buffer, bound);
        let fault = match result {
            Ok(()) if taken.len() == bytes.len() => return true,
            Ok(()) => GzipFault::TooLarge,
            Err(fault) => fault,
        };
        let Some(refusal) = forms::refusal_of_packed(fault) else {
            self.close_body(TOO_LARGE);
            return false;
        };
        let bytes = packed.bytes;
        let drain = Drain { answer: refused(refusal, false, Some(self.line_of_body())), bytes };
        (self.packed, self.buffer) = (None, Vec::new());
        self.kept = Kept::default();
        self.drain = Some(Box::new(drain));
        true
    }

    /// A packed body is over.
    fn end_packed<'a>(&mut self) -> Step<'a> {
        let end = self.packed.take().map_or(Ok(()), |packed| packed.unpacker.finish());
        if let Some(refusal) = end.err().and_then(forms::refusal_of_packed) {
            let line = self.line_of_body();
            self.finish(refused(refusal, false, Some(line)));
        } else if self.buffer.len() == self.kept.bytes() {
            let line = self.line_of_body();
            self.finish(refused(EMPTY_RECORD, false, Some(line)));
        } else {
            return Step::Buffered(None);
        }
        Step::Again
    }

    /// Reads a chunked body, into `buffer` unless it is dropped.
    pub(super) fn read_chunks<'a>(&mut self, mut decoder: Decoder, limits: &Limits, input: &mut &'a [u8]) -> Step<'a> {
        loop {
            match decoder.next(input) {
                Err(fault) => self.close_body(fault.into()),
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
                    } else if self.packed.is_some() {
                        return self.end_packed();
                    } else if self.buffer.len() == self.kept.bytes() {
                        let line = self.line_of_body();
                        self.finish(refused(EMPTY_RECORD, false, Some(line)));
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
        let dropped = if self.packed.is_none() {
            bytes.len() as u64
        } else if !self.take_packed(bytes, limits) {
            return false;
        } else if self.packed.is_some() {
            return true;
        } else {
            0 // it was damaged, and these bytes are counted
        };
        if let Some(drain) = &mut self.drain {
            drain.bytes += dropped;
            let Some(drain) = self.drain.take_if(|drain| drain.bytes > DRAIN_BYTES_MAX) else { return true };
            self.lasts = Lasts::No;
            self.finish(drain.answer);
            return false;
        }
        let bound = self.kept.bytes() + limits.body_bytes;
        if self.buffer.len() + bytes.len() > bound {
            self.close_body(TOO_LARGE);
            return false;
        }
        append_bounded(&mut self.buffer, bytes, bound);
        true
    }

    /// Whether the body being dropped is a HEAD request's.
    pub(super) fn drains_a_head(&self) -> bool {
        match self.drain.as_ref().map(|drain| &drain.answer) {
            Some(Answer::Refused(refused)) => refused.head_only,
            Some(Answer::Denied { head_only, .. }) => *head_only,
            _ => false,
        }
    }

    /// What is shown of a request whose body is read.
    pub(super) fn line_of_body(&self) -> Box<str> {
        match self.drain.as_ref().map(|drain| &drain.answer) {
            Some(Answer::Refused(refused)) => refused.line.clone().unwrap_or_default(),
            Some(_) => "a request that was refused".into(),
            None => {
                let source = self.buffer.get(..usize::from(self.kept.source)).unwrap_or_default();
                format!("/v1/records/{}", source.escape_ascii()).into()
            }
        }
    }

    /// The request whose parts `buffer` holds.
    pub(super) fn buffered_request<'a>(&'a self, body: Option<&'a [u8]>) -> Request<'a> {
        let (source, rest) = self.buffer.split_at(self.kept.source as usize);
        let (content_type, rest) = rest.split_at((self.kept.content_type as usize).saturating_sub(1));
        let (key, rest) = rest.split_at((self.kept.idempotency_key as usize).saturating_sub(1));
        let (headers, rest) = rest.split_at(self.kept.headers as usize);
        Request {
            source: std::str::from_utf8(source).expect("a SOURCE is ASCII"),
            body: body.unwrap_or(rest),
            content_type: (self.kept.content_type > 0).then_some(content_type),
            idempotency_key: (self.kept.idempotency_key > 0).then_some(key),
            headers: KeptHeaders::of(headers),
            first_byte_ns: self.first_byte_ns,
        }
    }
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
fn find_end(mut scan: LineScan, window: &[u8], limits: &Limits, bare_lf: bool) -> HeadEnd {
    let refuse = HeadEnd::Refused;
    loop {
        match scan.next(window, bare_lf) {
            Line::Whole { start: 0, end, .. } => {
                if let Err(refusal) = head::check_line(&window[..end], limits) {
                    return refuse(refusal);
                }
            }
            Line::Whole { start, end, next } if start == end => {
                let line_end = memchr::memchr2(b'\r', b'\n', window).expect("a line ended before");
                return HeadEnd::Whole { line_end, end: next };
            }
            Line::Whole { .. } => {}
            Line::Bare { start, at, byte } => {
                let so_far = if start == 0 { head::check_line_so_far(&window[..at], limits) } else { Ok(()) };
                let text = if byte == b'\n' { "a line ends in a bare LF" } else { "a bare CR" };
                return refuse(so_far.err().unwrap_or(Refusal::bad(text, "CRLF at the end of each line")));
            }
            Line::More { start } => {
                let so_far = if start == 0 { head::check_line_so_far(window, limits) } else { Ok(()) };
                return match so_far {
                    Err(refusal) => refuse(refusal),
                    Ok(()) if window.len() >= limits.header_bytes => {
                        refuse(Refusal::new(431, "the header is too large", "header in [limits], 16 KiB by default"))
                    }
                    Ok(()) => HeadEnd::More(scan),
                };
            }
        }
    }
}
