//! ringest: from many machines (serial ports, TCP, HTTP) through framing and a durable journal to a REST API.
//!
//! The map, from the outside in:
//! - [`cli`]: one file a command; [`config`]: a file becomes checked [`config::Settings`].
//! - [`engine`]: threads, data ring, files, the admin server: all that touches the kernel. It drives
//! - [`shard`]: the sans-IO owner of all that one core does. It sees completions and `now`, and emits operations. Inside it:
//! - [`source`], [`framing`], [`http`]: bytes in, records out; [`journal`]: records kept; [`delivery`], [`tls`]: records delivered.
//! - [`access`]: who may send: networks, SOURCEs, tokens, origins.
//! - [`ground`]: the moment, ids, numbers, text, counts: what all else stands on.
//! - [`observe`]: snapshots, metrics, the histogram log; [`report`]: tables and plots of such logs. [`simulate`] and
//!   [`receive`]: both ends of the line, for tests and for [`demo`].

pub mod access;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod demo;
pub mod engine;
pub mod framing;
pub mod ground;
pub mod http;
pub mod journal;
pub mod observe;
pub mod receive;
pub mod report;
pub mod shard;
pub mod simulate;
pub mod source;
pub mod tls;
