//! What the allocator keeps of freed memory. Only glibc is told; others have no such calls.
#![allow(unsafe_code)] // calls of the C library without a safe wrapper

/// Threads that open ports and look names up come and go. glibc would give each an arena of its own,
/// and keep what they freed in it: resident memory grew by 2 MiB an hour. To be called before any
/// other thread runs; `MALLOC_ARENA_MAX` in the environment goes before.
pub(super) fn share_arenas(cores: usize) {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // Two cores do not wait for each other.
        let arenas = if cores == 1 { 1 } else { cores + 1 };
        // SAFETY: mallopt(3) takes two numbers.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas as i32);
        }
    }
}

/// Gives the system back what is free (malloc_trim(3)): recovery of a journal with hundreds of
/// thousands of records needs far more memory than running does.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
