//! What a running gateway says of itself, as far as a demonstration needs it.

use crate::engine::admin::client;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// The part of `GET /api/status` that is read here.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The identity's terms.
    pub terms: Terms,
    /// Whether the identity holds in every shard.
    pub balanced: bool,
    /// Latencies by stage; a stage without a measurement may be missing.
    #[serde(default)]
    pub stages: HashMap<String, Stage>,
    /// Cost.
    #[serde(default)]
    pub process: Process,
    /// What is wrong, for people.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// As [`crate::ground::count::Terms`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "named and explained where they are counted")]
pub struct Terms {
    pub received: u64,
    pub recovered: u64,
    pub delivered: u64,
    pub pending: u64,
    pub parked: u64,
    pub rejected: u64,
    pub discarded: u64,
}

/// Quantiles of one stage, microseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Stage {
    /// Records measured.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: Option<f64>,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// What the gateway's process costs.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Process {
    /// Resident memory.
    #[serde(default)]
    pub rss_bytes: u64,
}

/// Something an operator should know.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// Which source or route.
    pub name: String,
    /// What is wrong.
    pub text: String,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer.
    #[error(transparent)]
    Get(#[from] client::GetError),
    /// Another answer than 200.
    #[error("the gateway answers {status} to /api/status")]
    Refused {
        /// The answer's status.
        status: u16,
    },
    /// An answer without what is needed.
    #[error("the gateway's status is not understood: {0}")]
    Form(#[from] serde_json::Error),
}

/// Asks once.
pub fn get(admin: SocketAddr) -> Result<Status, Error> {
    let answer = client::get(&admin.to_string(), "/api/status", PATIENCE)?;
    if answer.status != 200 {
        return Err(Error::Refused { status: answer.status });
    }
    Ok(serde_json::from_slice(&answer.body)?)
}
