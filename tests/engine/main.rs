//! The engine against the real kernel: sockets, ptys, files. But for [`gateway`], a core of few lines drives it in the
//! shard's place.

mod echo;
mod files;
mod gateway;
mod harness;
mod links;
mod order;
mod ports;
