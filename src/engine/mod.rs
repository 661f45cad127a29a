//! All that touches the kernel: threads, data ring, files.
