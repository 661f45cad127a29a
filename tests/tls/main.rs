//! TLS towards the API without a kernel: sessions by themselves, and a shard whose API is a TLS server in memory.

mod pki;
mod service;
mod session;
mod settings;
mod shard;
