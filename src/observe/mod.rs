//! What is going on, for people and programs: snapshots, reports, metrics, the histogram log.
//!
//! A shard publishes a [`snapshot::Snapshot`], and in it the [`losses`] of its journals; [`report`]
//! makes one picture of all shards; [`metrics`] is that for Prometheus, [`histlog`] keeps
//! latencies. [`machines`] is what is known of each machine. It asks nobody: the admin server, which
//! does, stands with the engine.

pub mod histlog;
pub mod loaded;
pub mod losses;
pub mod machine;
pub mod machines;
pub mod metrics;
pub mod process;
pub mod report;
pub mod snapshot;
