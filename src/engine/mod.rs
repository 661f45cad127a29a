//! All that touches the kernel: threads, data ring, files.

pub mod probe;
