//! The bodies of the fuzz targets: each takes any bytes, makes something of them, and compares what the code under test does with
//! what it must do. `fuzz_targets` give them libFuzzer's inputs, `tests/fuzz_corpora.rs` those that are kept in `corpus`.

pub mod framing;
pub mod gzip;
pub mod hello;
pub mod http_client;
mod http_reference;
pub mod http_server;
pub mod input;
pub mod journal;
pub mod parmrk;
pub mod proxy;
