//! TLS without a kernel: sessions by themselves, a shard whose API is a TLS server in memory, and one whose machines are clients in memory.

mod called;
mod listen;
mod machines;
mod memory;
mod pki;
mod revoked;
mod rows;
mod server;
mod service;
mod session;
mod settings;
mod shard;
#[path = "../http_server/table.rs"]
mod table;
