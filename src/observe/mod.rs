//! Counters, histograms, the admin server.
//!
//! A shard publishes a [`snapshot::Snapshot`]; [`report`] makes one picture of all shards; [`metrics`] and [`admin`] show it
//! to Prometheus, to people and to programs. Nothing here runs on a core of the data path.

pub mod admin;
#[cfg(feature = "bench-blind")]
mod blind;
pub mod client;
pub mod histlog;
pub mod loaded;
pub mod metrics;
pub mod process;
pub mod report;
pub mod snapshot;
pub mod token;
