//! Counters, histograms, the admin server.
pub mod snapshot;
