//! The forms in which machines send: what a source takes, and what is said of a form that it does not.

use super::answer::{Extra, Refusal};
use super::keeps::Keeps;
use super::limits::Limits;
use crate::http::fields::trim;
use crate::http::gzip::GzipFault;
use std::sync::Arc;

/// What a source takes beside one record in a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forms {
    /// What becomes of a request whose target has a query.
    pub query: Query,
    /// A GET is a record: its query, percent-decoded. For devices that can do nothing else.
    pub get: bool,
    /// What a JSON array is.
    pub array: Array,
    /// Lines of a head may end in LF alone.
    pub bare_lf: bool,
    /// Headers that are kept with each record.
    pub keeps: Option<Arc<Keeps>>,
}

static PLAIN: Forms = Forms { query: Query::Refuse, get: false, array: Array::Record, bare_lf: false, keeps: None };

/// What a request is held to: what it may take, and the forms of its source.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'r> {
    /// What it may take.
    pub limits: &'r Limits,
    /// In which forms it may come.
    pub forms: &'r Forms,
}

impl<'r> From<&'r Limits> for Rules<'r> {
    /// Of a source with the default forms.
    fn from(limits: &'r Limits) -> Self {
        Self { limits, forms: &PLAIN }
    }
}

/// What a GET is to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Get {
    /// No request for records.
    Refused,
    /// One.
    Taken,
    /// One, and the request under way is a GET.
    UnderWay,
}

/// What becomes of a request for records whose target has a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Query {
    /// It is refused: what a machine says there would be lost.
    #[default]
    Refuse,
    /// The query is dropped, the body is taken.
    Ignore,
}

/// What a body of `application/json` is that holds an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Array {
    /// One record, as any other body.
    #[default]
    Record,
    /// One record an element.
    Split,
}

/// What an answer says, as JSON, beside the rule that a request breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Details {
    /// What came.
    pub came: &'static str,
    /// What is taken.
    pub allowed: &'static str,
}

/// What a body of records may be.
pub(super) const FORMS: &str = "a body of any other type is one record; application/x-ndjson has one a line";

/// A query on a request for records.
pub(super) const QUERY: Refusal = Refusal::of(
    400,
    "a record is sent in the body, not in the query of the target",
    &Details { came: "a target with a query", allowed: "no query, or query = \"ignore\" in the source" },
);

const MULTIPART: Refusal = Refusal::of(
    415,
    "a form with several parts is no record",
    &Details { came: "Content-Type multipart/…", allowed: FORMS },
);
const URLENCODED: Refusal = Refusal::of(
    415,
    "the fields of a web form are no record",
    &Details { came: "Content-Type application/x-www-form-urlencoded", allowed: FORMS },
);
/// What the query of a GET may be.
const DECODED: &str = "?RECORD behind the SOURCE, with %XX for every byte that a query cannot hold, and %25 for %";

/// A GET without a query, or with an empty one.
pub(super) const NO_QUERY: Refusal = Refusal::of(
    400,
    "the record of a GET is its query",
    &Details { came: "a target without a query, or with an empty one", allowed: DECODED },
);

/// A `%` that stands for nothing: as it is, or as a wrong byte, it would be a guess.
pub(super) const BAD_PERCENT: Refusal = Refusal::of(
    400,
    "a % in a query is followed by two hexadecimal digits",
    &Details { came: "a % with something else behind it", allowed: DECODED },
);

/// A record in a query that is larger than a body may be.
pub(super) const QUERY_TOO_LARGE: Refusal = Refusal::of(
    414,
    "the record in the query is too large",
    &Details { came: "a longer record", allowed: "body in [limits] of the gateway, or a POST" },
);

/// A GET with a body: which of both would be the record?
pub(super) const GET_WITH_BODY: Refusal = Refusal::of(
    400,
    "the record of a GET is its query, and a GET has no body",
    &Details { came: "a GET with a body", allowed: "a GET without one, or a POST with the record in the body" },
);

/// A request that a browser makes in case its user may want the page.
pub(super) const PREFETCH: Refusal = Refusal::of(
    403,
    "a GET is a record here, and none that is made in advance",
    &Details { came: "Purpose or Sec-Purpose: prefetch", allowed: "a GET that is meant" },
);

/// How many bytes a query decodes to; `None` where a `%` stands for nothing.
pub(super) fn decoded_bytes(query: &[u8]) -> Option<usize> {
    let (mut count, mut at) = (0, 0);
    while at < query.len() {
        if query[at] == b'%' {
            query.get(at + 1..at + 3).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))?;
            at += 2;
        }
        (count, at) = (count + 1, at + 1);
    }
    Some(count)
}

/// Appends what a query decodes to (RFC 3986 section 2.1). `+` is a plus: that it may be a blank is a rule of web forms.
pub(super) fn decode(query: &[u8], out: &mut Vec<u8>) {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("looked at before") as u8;
    let mut rest = query;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(digit(rest[at + 1]) << 4 | digit(rest[at + 2]));
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
}

/// A Content-Encoding that is not unpacked.
pub(super) const CODING: Refusal = Refusal {
    extra: Extra::AcceptEncoding,
    ..Refusal::of(
        415,
        "a body may be packed by gzip, once, and by nothing else",
        &Details { came: "another Content-Encoding", allowed: "Content-Encoding gzip, or none" },
    )
};

const PACKED: &str = "one gzip stream that is whole, or a body without Content-Encoding";

/// What is said of a packed body; `None` where it is too large.
pub(super) fn refusal_of_packed(fault: GzipFault) -> Option<Refusal> {
    let details: &'static Details = match fault {
        GzipFault::TooLarge => return None,
        GzipFault::Header => &Details { came: "a body that does not begin as gzip does", allowed: PACKED },
        GzipFault::Deflate => &Details { came: "a gzip stream with damaged bytes", allowed: PACKED },
        GzipFault::Sum => &Details { came: "a gzip stream whose checksum or length does not match", allowed: PACKED },
        GzipFault::Trailing => &Details { came: "bytes behind the end of the gzip stream", allowed: PACKED },
        GzipFault::Cut => &Details { came: "a gzip stream that is cut short", allowed: PACKED },
    };
    Some(Refusal::of(400, "the body is not what Content-Encoding says", details))
}

/// A media type without its parameters.
pub(super) fn essence(content_type: &[u8]) -> &[u8] {
    trim(content_type.split(|byte| *byte == b';').next().unwrap_or_default())
}

/// What is wrong with a Content-Type, which is a media type.
pub(super) fn refusal_of(content_type: &[u8]) -> Option<Refusal> {
    let essence = essence(content_type);
    let is_multipart = essence.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    match is_multipart {
        true => Some(MULTIPART),
        false => essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded").then_some(URLENCODED),
    }
}
