//! The journal: an append-only log of blocks in segments, kept by one shard.

mod blocks;
mod storage;

pub use blocks::BlockMemory;
pub use storage::{BlockFile, Storage};
