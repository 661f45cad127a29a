//! A request that is held back: the journal has no room for it at this moment, and room is being
//! made. The machine waits for its answer a little longer, and nothing more is read of it.

use crate::ground::{KeptHeaders, Moment};
use crate::http::server::Request;

/// A whole request, and what came behind it.
#[derive(Debug)]
pub(super) struct Hold {
    since: Moment,
    source: Box<str>,
    body: Box<[u8]>,
    content_type: Option<Box<[u8]>>,
    idempotency_key: Option<Box<[u8]>>,
    headers: Box<[u8]>,
    first_byte_ns: u64,
    /// Bytes behind it: what was read before reading stopped.
    rest: Vec<u8>,
    /// The peer sends no more, or nothing more is taken of it.
    is_last: bool,
}

impl Hold {
    /// Copies a request, which is lent, and the bytes behind it.
    pub fn new(request: &Request<'_>, now_ns: u64, rest: &[u8]) -> Self {
        Self {
            since: Moment::at(now_ns),
            source: request.source.into(),
            body: request.body.into(),
            content_type: request.content_type.map(Into::into),
            idempotency_key: request.idempotency_key.map(Into::into),
            headers: request.headers.as_bytes().into(),
            first_byte_ns: request.first_byte_ns,
            rest: rest.to_vec(),
            is_last: false,
        }
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            source: &self.source,
            body: &self.body,
            content_type: self.content_type.as_deref(),
            idempotency_key: self.idempotency_key.as_deref(),
            headers: KeptHeaders::of(&self.headers),
            first_byte_ns: self.first_byte_ns,
        }
    }

    /// Since when it waits.
    pub fn since_ns(&self) -> u64 {
        self.since.ns()
    }

    /// More was read before reading stopped.
    pub fn add(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// Nothing comes behind what was read.
    pub fn end(&mut self) {
        self.is_last = true;
    }

    /// What came behind the request, and whether nothing more does.
    pub fn into_rest(self) -> (Vec<u8>, bool) {
        (self.rest, self.is_last)
    }
}
