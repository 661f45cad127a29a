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
    /// What a JSON array is.
    pub array: Array,
    /// Lines of a head may end in LF alone.
    pub bare_lf: bool,
    /// Headers that are kept with each record.
    pub keeps: Option<Arc<Keeps>>,
}

static PLAIN: Forms = Forms { query: Query::Refuse, array: Array::Record, bare_lf: false, keeps: None };

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
