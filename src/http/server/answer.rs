//! The answers: what each says, and its bytes.

use crate::ground::text::write_decimal;
use crate::http::chunked::ChunkFault;
use crate::http::fields::FramingFault;

use super::door::{Denied, write_origin, write_preflight};
use super::forms::{Details, Get};
use super::keeps::Keeps;
use serde_json::json;
use std::sync::Arc;

/// The journal has no room. Nothing is wrong with the request.
pub(super) const NO_ROOM: &str = "no room for records now, try again later";
/// A secret that somebody typed is not looked at yet.
pub(super) static MANY_SECRETS: TryLater = TryLater {
    status: 503,
    rule: "so many secrets are looked at in their turn",
    details: Details { came: "one more while others wait", allowed: "the same request, later" },
};

/// So much of a line is shown.
const SHOWN_BYTES_MAX: usize = 100;

/// A field that some refusals carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    /// `Allow` with the methods that the source takes (RFC 9110 section 10.2.1)
    Allow,
    /// `Accept-Encoding: gzip` (RFC 9110 section 15.5.16)
    AcceptEncoding,
    /// `Retry-After: 1` (RFC 9110 section 10.2.3)
    RetrySoon,
}

/// Why a request is not taken: the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) extra: Extra,
    /// The rule that is broken, in words.
    pub(super) rule: &'static str,
    /// What came; `None`: what the request's first line shows.
    pub(super) came: Option<&'static str>,
    pub(super) allowed: &'static str,
    /// Which part of the body it is about.
    pub(super) part: Option<Part>,
}

/// A refusal of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// The answer has no body, since it is to a HEAD.
    pub(super) head_only: bool,
    /// The beginning of the request as it is shown ([`shown`]); `None` where the owner has it.
    pub(super) line: Option<Box<str>>,
    /// Who sends it was let in.
    pub(super) is_judged: bool,
}

/// A part of a body with several records, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A line, empty ones counted.
    Line(u32),
    /// An element of an array.
    Element(u32),
}

impl Refusal {
    pub(super) const fn new(status: u16, rule: &'static str, allowed: &'static str) -> Self {
        Self { status, extra: Extra::None, rule, came: None, allowed, part: None }
    }

    /// One of which it is known what came.
    pub(super) const fn of(status: u16, rule: &'static str, details: &'static Details) -> Self {
        Self { came: Some(details.came), ..Self::new(status, rule, details.allowed) }
    }

    pub(super) const fn bad(rule: &'static str, allowed: &'static str) -> Self {
        Self::new(400, rule, allowed)
    }

    pub(super) const fn method(rule: &'static str, allowed: &'static str) -> Self {
        Self { extra: Extra::Allow, ..Self::new(405, rule, allowed) }
    }
}

/// The first line of what came, as text without what may be a secret: its query, a user's name and
/// password in its target, the value of a field. Of a line that is long, or that has other bytes than
/// ASCII, what shows what it is.
pub fn shown(came: &[u8]) -> Box<str> {
    let line = came.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let text = |bytes: &[u8]| bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string();
    let method = memchr::memchr2(b' ', b'?', line).unwrap_or(line.len());
    if let Some(colon) = memchr::memchr(b':', &line[..method]) {
        // A field where a request line should be.
        return format!("{}:…", text(&line[..colon])).into();
    }
    let (mut shown, mut rest) = (text(&line[..method]), &line[method..]);
    let target_end = memchr::memchr(b' ', rest.get(1..).unwrap_or_default()).map_or(rest.len(), |end| end + 1);
    let target = &rest[..target_end];
    if let Some(at) = memchr::memrchr(b'@', target) {
        let scheme = target.windows(3).position(|three| three == b"://").filter(|scheme| *scheme < at);
        shown.push_str(&text(&target[..scheme.map_or(1, |scheme| scheme + 3)]));
        shown.push('…');
        rest = &rest[at..];
    }
    if let Some(at) = memchr::memchr(b'?', rest) {
        shown.push_str(&text(&rest[..at]));
        shown.push_str("?…");
        rest = memchr::memchr(b' ', &rest[at..]).map_or(&[], |end| &rest[at + end..]);
    }
    shown.push_str(&text(rest));
    shown.into()
}

/// The SOURCE in the path of a line that is shown.
pub(super) fn source_in(line: &str) -> Option<&str> {
    let (_, behind) = line.split_once("/v1/records/")?;
    let end = behind.find([' ', '?']).unwrap_or(behind.len());
    super::head::source_name(&behind.as_bytes()[..end])
}

/// What cannot be framed for certain is 400, a coding that is not implemented 501 (RFC 9112 section 6.1).
impl From<FramingFault> for Refusal {
    fn from(fault: FramingFault) -> Self {
        match fault {
            FramingFault::ContentLength => {
                Self::bad("Content-Length is not a decimal number below 2^64", "decimal digits alone")
            }
            FramingFault::ContentLengths => Self::bad("more than one Content-Length", "one Content-Length"),
            FramingFault::Both => Self::bad("both Content-Length and Transfer-Encoding", "one of the two"),
            FramingFault::EmptyCoding => {
                Self::bad("Transfer-Encoding is empty or has an empty element", "Transfer-Encoding: chunked")
            }
            FramingFault::ChunkedNotLast => Self::bad(
                "chunked must be the last transfer coding, and stand there once",
                "Transfer-Encoding: chunked",
            ),
            FramingFault::UnknownCoding => {
                Self::new(501, "only the transfer coding chunked is supported", "Transfer-Encoding: chunked")
            }
            FramingFault::Http10 => Self::bad("Transfer-Encoding in HTTP/1.0", "Content-Length, or HTTP/1.1"),
        }
    }
}

impl From<ChunkFault> for Refusal {
    fn from(fault: ChunkFault) -> Self {
        match fault {
            ChunkFault::Size => Self::bad("the chunk size is not a hexadecimal number", "1 to 16 hexadecimal digits"),
            ChunkFault::SizeDigits => Self::bad("the chunk size has more than 16 digits", "1 to 16 hexadecimal digits"),
            ChunkFault::SizeLineEnd => Self::bad("the chunk-size line does not end in CRLF", "CRLF"),
            ChunkFault::Extension => {
                Self::bad("a chunk extension holds a control character", "visible characters, or no extension")
            }
            ChunkFault::ExtensionBytes => Self::bad("the chunk extensions are over 4 KiB", "4 KiB in all"),
            ChunkFault::DataEnd => {
                Self::bad("the chunk data is not followed by CRLF", "as many bytes as the chunk size says, then CRLF")
            }
            ChunkFault::Trailer => Self::bad("a trailer field is malformed", "NAME: VALUE, or no trailer"),
            ChunkFault::TrailerBytes => Self::new(431, "the trailers are over 8 KiB", "8 KiB in all"),
        }
    }
}

/// Why a request is to be sent again later.
#[derive(Debug, PartialEq, Eq)]
pub struct TryLater {
    /// 429 or 503.
    pub status: u16,
    /// The rule.
    pub rule: &'static str,
    /// What came, and what is allowed.
    pub details: Details,
}

/// What an answer says beside itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'o> {
    /// The connection ends with it.
    pub(super) close: bool,
    /// A peer of HTTP/1.0 must be told that the connection does not.
    pub(super) keep_alive: bool,
    /// Nobody on the way may keep what answers a GET that may be a record.
    pub(super) get: Get,
    /// Whose pages may read it.
    pub(super) origin: Option<&'o str>,
}

/// An answer that waits for its turn.
#[derive(Debug)]
pub(super) enum Answer {
    /// `100 Continue`, before the final answer of the same request.
    Continue,
    /// 201 once `last_number` is durable. `keyed`: a request that is known by its key, so that 409 may be said when that takes too long.
    Accepted { last_number: u64, records: u32, keyed: bool },
    /// 201.
    Taken { records: u32 },
    /// Whoever has the request answers it by this ticket.
    Elsewhere { ticket: u64, keyed: bool },
    /// 503
    Unavailable { retry_after_s: u32 },
    /// 429 or 503, with Retry-After.
    TryLater { what: &'static TryLater, retry_after_s: u32 },
    /// 204 to OPTIONS, with what a page may send besides.
    Options { keeps: Option<Arc<Keeps>> },
    /// Anything else.
    Refused(Box<Refused>),
    /// To who is not let in; without its body if it answers a HEAD.
    Denied { denied: Box<Denied>, head_only: bool },
}

impl Answer {
    /// Whether it may be sent, with all records below `durable_below` durable.
    pub(super) fn may_go(&self, durable_below: u64) -> bool {
        match self {
            Self::Accepted { last_number, .. } => *last_number < durable_below,
            Self::Elsewhere { .. } => false,
            Self::Denied { denied, .. } => denied.held_until_ns == 0,
            _ => true,
        }
    }

    /// Its status.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Continue => 100,
            Self::Accepted { .. } | Self::Taken { .. } => 201,
            Self::Elsewhere { .. } => unreachable!("it is not answered yet"),
            Self::Unavailable { .. } => 503,
            Self::TryLater { what, .. } => what.status,
            Self::Options { .. } => 204,
            Self::Refused(refused) => refused.refusal.status,
            Self::Denied { denied, .. } => denied.status,
        }
    }

    /// Appends its bytes.
    pub(super) fn write(&self, date: &[u8; 29], envelope: Envelope<'_>, out: &mut Vec<u8>) {
        if let Self::Continue = self {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            return;
        }
        out.reserve(512); // more than nearly any answer has
        out.extend_from_slice(status_line(self.status()));
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        if envelope.close {
            out.extend_from_slice(b"\r\nConnection: close");
        } else if envelope.keep_alive {
            out.extend_from_slice(b"\r\nConnection: keep-alive");
        }
        if envelope.get == Get::UnderWay {
            out.extend_from_slice(b"\r\nCache-Control: no-store");
        }
        if let Some(origin) = envelope.origin {
            write_origin(origin, out);
        }
        match *self {
            Self::Continue | Self::Elsewhere { .. } => unreachable!("written above, or not answered yet"),
            Self::Accepted { records, .. } | Self::Taken { records } => write_accepted(records, out),
            Self::Unavailable { retry_after_s } => {
                out.extend_from_slice(b"\r\nRetry-After: ");
                write_decimal(u64::from(retry_after_s), out);
                write_body("text/plain; charset=utf-8", NO_ROOM, false, out);
            }
            Self::TryLater { what, retry_after_s } => {
                out.extend_from_slice(b"\r\nRetry-After: ");
                write_decimal(u64::from(retry_after_s), out);
                let TryLater { status, rule, details } = what;
                let refusal = Refusal::of(*status, rule, details);
                write_json(&Refused { refusal, head_only: false, line: None, is_judged: true }, out);
            }
            // A 204 has neither Content-Length nor body (RFC 9110 section 8.6).
            Self::Options { ref keeps } => {
                out.extend_from_slice(allow(envelope.get));
                if envelope.origin.is_some() {
                    write_preflight(keeps.as_deref(), out);
                }
                out.extend_from_slice(b"\r\n\r\n");
            }
            Self::Denied { ref denied, head_only } => denied.write(head_only, out),
            Self::Refused(ref refused) => {
                out.extend_from_slice(match refused.refusal.extra {
                    Extra::None => b"",
                    Extra::Allow => allow(envelope.get),
                    Extra::AcceptEncoding => b"\r\nAccept-Encoding: gzip",
                    Extra::RetrySoon => b"\r\nRetry-After: 1",
                });
                write_json(refused, out);
            }
        }
    }
}

fn allow(get: Get) -> &'static [u8] {
    if get != Get::Refused { b"\r\nAllow: GET, POST, PUT, OPTIONS" } else { b"\r\nAllow: POST, PUT, OPTIONS" }
}

fn write_accepted(records: u32, out: &mut Vec<u8>) {
    if records == 1 {
        out.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"accepted\":1}");
        return;
    }
    out.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: ");
    let digits = records.checked_ilog10().unwrap_or(0) + 1;
    write_decimal(u64::from(13 + digits), out);
    out.extend_from_slice(b"\r\n\r\n{\"accepted\":");
    write_decimal(u64::from(records), out);
    out.push(b'}');
}

/// A body, with a line feed behind it, and what is said of it.
pub(super) fn write_body(media_type: &str, text: &str, head_only: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(media_type.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    write_decimal(text.len() as u64 + 1, out);
    out.extend_from_slice(b"\r\n\r\n");
    if !head_only {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// The rule, what came, what is allowed.
fn write_json(refused: &Refused, out: &mut Vec<u8>) {
    let Refusal { rule, came, allowed, part, .. } = refused.refusal;
    let came = came.or(refused.line.as_deref()).unwrap_or_default();
    let mut body = format!("{{\"rule\":{},\"came\":{},\"allowed\":{}", json!(rule), json!(came), json!(allowed));
    match part {
        None => {}
        Some(Part::Line(number)) => body.push_str(&format!(",\"line\":{number}")),
        Some(Part::Element(number)) => body.push_str(&format!(",\"element\":{number}")),
    }
    body.push('}');
    write_body("application/json", &body, refused.head_only, out);
}

fn status_line(status: u16) -> &'static [u8] {
    match status {
        201 => b"HTTP/1.1 201 Created\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        408 => b"HTTP/1.1 408 Request Timeout\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        411 => b"HTTP/1.1 411 Length Required\r\n",
        413 => b"HTTP/1.1 413 Content Too Large\r\n",
        414 => b"HTTP/1.1 414 URI Too Long\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        417 => b"HTTP/1.1 417 Expectation Failed\r\n",
        422 => b"HTTP/1.1 422 Unprocessable Content\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        other => unreachable!("no answer has the status {other}"),
    }
}
