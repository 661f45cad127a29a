//! What a delivery knows of one of its connections.

use super::problem::Loss;
use super::rules::Rules;
use super::secure::Secure;
use crate::delivery::Connection;
use crate::ground::{ApiId, LinkId};
use crate::shard::op::RecvEnd;
use std::rc::Rc;
use std::time::Duration;

/// The configuration by which a connection's requests were sent, where that is not the present one.
/// It takes no others until they are answered.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    pub rules: Rc<Rules>,
    /// What TLS is made by has changed since: the connection is not used again.
    pub other_tls: bool,
}

/// A connection to the API.
#[derive(Debug)]
pub(super) struct ApiLink {
    pub api: ApiId,
    pub connection: Connection,
    pub earlier: Option<Earlier>,
    /// Where the URL is `https`, from the end of the connect on.
    pub secure: Option<Box<Secure>>,
    /// When it could carry its first request, in monotonic nanoseconds.
    pub opened_ns: u64,
}

impl ApiLink {
    /// Whether it is so old that it takes no more requests: a busy connection would never follow
    /// its name to another address. What was opened in one moment ends in sixteen, so that the
    /// service does not meet all connects at once.
    pub fn is_old(&self, link: LinkId, now_ns: u64, age_max: Duration) -> bool {
        // Asked twice a request: a Duration would divide and multiply in 128 bits.
        let max_ns = age_max.as_secs() * 1_000_000_000 + u64::from(age_max.subsec_nanos());
        let early_ns = max_ns / 256 * u64::from(link.index % 16);
        // One that is in its handshake has no age.
        self.connection.open && now_ns.saturating_sub(self.opened_ns) >= max_ns - early_ns
    }
}

/// How a read ended.
pub(super) struct EndOfRead {
    pub why: Loss,
    /// The peer has closed in order, as far as TCP knows.
    pub is_close: bool,
}

impl EndOfRead {
    pub fn of(end: RecvEnd) -> Self {
        match end {
            RecvEnd::Closed => Self { why: Loss::Closed, is_close: true },
            RecvEnd::Paused => Self { why: Loss::Closed, is_close: false },
            RecvEnd::Error(errno) => Self { why: Loss::Reading { errno }, is_close: false },
        }
    }
}
