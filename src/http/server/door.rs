//! Who may come in: what a head says of its sender, and what the owner says to that before a body is read.

use super::answer::write_body;
use super::keeps::Keeps;
use std::sync::Arc;

/// A field that counts only where it stands once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Once<'h> {
    /// It is not there.
    #[default]
    Absent,
    /// Its value.
    Value(&'h [u8]),
    /// It is there more than once.
    Several,
}

impl<'h> Once<'h> {
    /// It stands there.
    pub(super) fn see(&mut self, value: &'h [u8]) {
        *self = if *self == Self::Absent { Self::Value(value) } else { Self::Several };
    }
}

/// Fields of one name that are kept.
const FIELDS_MAX: usize = 4;

/// Values of a field that may stand there more than once: the last of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Last<'h> {
    values: [&'h [u8]; FIELDS_MAX],
    count: usize,
}

impl<'h> Last<'h> {
    /// It stands there, behind the others.
    pub(super) fn see(&mut self, value: &'h [u8]) {
        self.values.rotate_left(1);
        self.values[FIELDS_MAX - 1] = value;
        self.count = (self.count + 1).min(FIELDS_MAX);
    }

    /// The last four at most, in their order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &'h [u8]> + Clone + use<'h> {
        self.values.into_iter().skip(FIELDS_MAX - self.count)
    }
}

/// What a whole head says of who sends it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caller<'h> {
    /// SOURCE, where it is a record that is sent.
    pub source: Option<&'h str>,
    /// The request line, with its query: [`shown`](super::shown) makes of it what may be told.
    pub line: &'h [u8],
    /// An OPTIONS request, by which a browser asks beforehand.
    pub is_options: bool,
    /// Authorization (RFC 9110 section 11.6.2).
    pub authorization: Once<'h>,
    /// Origin (RFC 6454 section 7).
    pub origin: Once<'h>,
    /// Sec-Fetch-Site (W3C Fetch Metadata).
    pub fetch_site: Once<'h>,
    /// X-Forwarded-For, which proxies write.
    pub forwarded_for: Last<'h>,
}

/// What the owner says to a caller.
#[derive(Debug)]
pub enum Ruling {
    /// The request is read on. Its answer says that pages of this origin may read it, where there is one.
    Pass(Option<Arc<String>>),
    /// It is not.
    Deny(Box<Denied>),
    /// It is not known yet: no byte more is taken until the owner asks for the next request again.
    Wait,
    /// It cannot be known at this moment: 503 with Retry-After, in seconds.
    Later(u32),
}

impl Ruling {
    /// For an owner that lets everybody in.
    pub fn everybody(_: &Caller<'_>) -> Self {
        Self::Pass(None)
    }
}

/// The answer to a request that is not let in. After a 401 or a 429 the connection is closed, and the body is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// 400, 401, 403, 404 or 429.
    pub status: u16,
    /// The value of WWW-Authenticate.
    pub authenticate: Option<&'static str>,
    /// JSON, for the person who meets it.
    pub body: String,
    /// It is not sent before this moment; monotonic nanoseconds, 0: at once.
    pub held_until_ns: u64,
    /// The origin whose pages may read it, where there is one.
    pub origin: Option<Arc<String>>,
}

impl Denied {
    /// Appends the rest of the answer behind its first fields.
    pub(super) fn write(&self, head_only: bool, out: &mut Vec<u8>) {
        if let Some(schemes) = self.authenticate {
            out.extend_from_slice(b"\r\nWWW-Authenticate: ");
            out.extend_from_slice(schemes.as_bytes());
        }
        write_body("application/json", &self.body, head_only, out);
    }
}

/// Appends the fields by which a browser lets a page of this origin read an answer (the Fetch standard, CORS).
pub(super) fn write_origin(origin: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\nAccess-Control-Allow-Origin: ");
    out.extend_from_slice(origin.as_bytes());
    out.extend_from_slice(b"\r\nVary: Origin");
}

/// Appends what a page may send, where its browser asks beforehand.
pub(super) fn write_preflight(keeps: Option<&Keeps>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\nAccess-Control-Allow-Methods: POST, OPTIONS");
    out.extend_from_slice(b"\r\nAccess-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key");
    for name in keeps.into_iter().flat_map(Keeps::names) {
        out.extend_from_slice(b", ");
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(b"\r\nAccess-Control-Max-Age: 600");
}
