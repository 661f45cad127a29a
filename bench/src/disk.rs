//! Files of the commit loop.

use std::io::{self, Write};
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file for direct, synchronous writes, zero-filled the same way so that its blocks are allocated and written.
pub fn direct_file(path: &Path, bytes: usize) -> io::Result<RawFd> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
    let mut file = options.open(path)?;
    let zeros = crate::ring::pages(1 << 20)?;
    for _ in 0..bytes.div_ceil(zeros.len()) {
        file.write_all(zeros)?;
    }
    Ok(file.into_raw_fd())
}
