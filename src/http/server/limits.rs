//! What a machine's request may take.

use std::time::Duration;

/// Sizes and deadlines of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Start line and headers.
    pub header_bytes: usize,
    /// Header fields.
    pub header_fields: usize,
    /// Request target.
    pub target_bytes: usize,
    /// Body, after chunked decoding.
    pub body_bytes: usize,
    /// From a request's first byte to its last header byte.
    pub header_timeout: Duration,
    /// How far a body may fall behind `body_rate_bytes`.
    pub body_timeout: Duration,
    /// Bytes a second that a body must come at.
    pub body_rate_bytes: usize,
    /// Records that a body may have.
    pub batch_records: usize,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            header_fields: 100,
            target_bytes: 8_000,
            body_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            body_rate_bytes: 100,
            batch_records: 1_000,
            idle_timeout: Duration::from_secs(75),
        }
    }
}
