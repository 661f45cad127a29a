//! The answers: what each says, and its bytes.

use crate::ground::text::write_decimal;
use crate::http::chunked::ChunkFault;
use crate::http::fields::FramingFault;

use super::door::{Denied, write_origin, write_preflight};
use super::forms::{Details, Get};
use super::keeps::Keeps;
use std::sync::Arc;

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
    /// A sentence for the person who meets it; the body, or the rule in it.
    pub(super) text: &'static str,
    /// With these the body is JSON.
    pub(super) details: Option<&'static Details>,
    /// Which part of the body it is about.
    pub(super) part: Option<Part>,
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
    pub(super) const fn new(status: u16, text: &'static str) -> Self {
        Self { status, extra: Extra::None, text, details: None, part: None }
    }

    pub(super) const fn with(self, details: &'static Details) -> Self {
        Self { details: Some(details), ..self }
    }

    pub(super) const fn bad(text: &'static str) -> Self {
        Self::new(400, text)
    }

    pub(super) const fn method(text: &'static str) -> Self {
        Self { extra: Extra::Allow, ..Self::new(405, text) }
    }
}

/// What cannot be framed for certain is 400, a coding that is not implemented 501 (RFC 9112 section 6.1).
impl From<FramingFault> for Refusal {
    fn from(fault: FramingFault) -> Self {
        match fault {
            FramingFault::ContentLength => Self::bad("Content-Length is not a decimal number below 2^64"),
            FramingFault::ContentLengths => Self::bad("more than one Content-Length"),
            FramingFault::Both => Self::bad("both Content-Length and Transfer-Encoding"),
            FramingFault::EmptyCoding => Self::bad("Transfer-Encoding is empty or has an empty element"),
            FramingFault::ChunkedNotLast => Self::bad("chunked must be the last transfer coding, and stand there once"),
            FramingFault::UnknownCoding => Self::new(501, "only the transfer coding chunked is supported"),
            FramingFault::Http10 => Self::bad("Transfer-Encoding in HTTP/1.0"),
        }
    }
}

impl From<ChunkFault> for Refusal {
    fn from(fault: ChunkFault) -> Self {
        match fault {
            ChunkFault::Size => Self::bad("the chunk size is not a hexadecimal number"),
            ChunkFault::SizeDigits => Self::bad("the chunk size has more than 16 digits"),
            ChunkFault::SizeLineEnd => Self::bad("the chunk-size line does not end in CRLF"),
            ChunkFault::Extension => Self::bad("a chunk extension holds a control character"),
            ChunkFault::ExtensionBytes => Self::bad("the chunk extensions are over 4 KiB"),
            ChunkFault::DataEnd => Self::bad("the chunk data is not followed by CRLF"),
            ChunkFault::Trailer => Self::bad("a trailer field is malformed"),
            ChunkFault::TrailerBytes => Self::new(431, "the trailers are over 8 KiB"),
        }
    }
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
#[derive(Debug, Clone)]
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
    /// 204 to OPTIONS, with what a page may send besides.
    Options { keeps: Option<Arc<Keeps>> },
    /// Anything else; without its body if it answers a HEAD.
    Refused { refusal: Refusal, head_only: bool },
    /// To who is not let in; likewise.
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
            Self::Options { .. } => 204,
            Self::Refused { refusal, .. } => refusal.status,
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
                write_text("no room for records now, try again later", false, out);
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
            Self::Refused { refusal, head_only } => {
                out.extend_from_slice(match refusal.extra {
                    Extra::None => b"",
                    Extra::Allow => allow(envelope.get),
                    Extra::AcceptEncoding => b"\r\nAccept-Encoding: gzip",
                    Extra::RetrySoon => b"\r\nRetry-After: 1",
                });
                match refusal.details {
                    None => write_text(refusal.text, head_only, out),
                    Some(details) => write_json(&refusal, details, head_only, out),
                }
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

fn write_text(text: &str, head_only: bool, out: &mut Vec<u8>) {
    write_body("text/plain; charset=utf-8", text, head_only, out);
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

/// The rule, what came, what is allowed. None of these has a character that JSON escapes but for a quotation mark.
fn write_json(refusal: &Refusal, details: &Details, head_only: bool, out: &mut Vec<u8>) {
    let mut body = String::with_capacity(256);
    let mut push = |name: &str, text: &str| {
        body.push_str(if body.is_empty() { "{\"" } else { ",\"" });
        body.push_str(name);
        body.push_str("\":\"");
        body.push_str(&text.replace('"', "\\\""));
        body.push('"');
    };
    push("rule", refusal.text);
    push("came", details.came);
    push("allowed", details.allowed);
    match refusal.part {
        None => {}
        Some(Part::Line(number)) => body.push_str(&format!(",\"line\":{number}")),
        Some(Part::Element(number)) => body.push_str(&format!(",\"element\":{number}")),
    }
    body.push('}');
    out.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: ");
    write_decimal(body.len() as u64 + 1, out);
    out.extend_from_slice(b"\r\n\r\n");
    if !head_only {
        out.extend_from_slice(body.as_bytes());
        out.push(b'\n');
    }
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
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        other => unreachable!("no answer has the status {other}"),
    }
}
