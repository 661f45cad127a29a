//! Memory that a start needed, and nobody needs any more.
#![allow(unsafe_code)] // one call of the C library without a safe wrapper

/// Gives the system back what the allocator keeps of freed memory (malloc_trim(3)): recovery of a
/// journal with hundreds of thousands of records needs far more than running does. Only glibc has it.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
