//! The process: what it cost itself, its clock, its limits, and how it is asked to end.
#![allow(unsafe_code)] // system calls that take pointers

use serde_json::{Value, json};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// CPU time in microseconds, context switches, and the greatest resident size in bytes.
pub fn usage() -> Value {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes one struct into memory of ours.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: all bits zero are a valid rusage, too.
    let usage = unsafe { usage.assume_init() };
    let us = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    json!({
        "user_us": us(usage.ru_utime), "system_us": us(usage.ru_stime),
        "voluntary_switches": usage.ru_nvcsw, "involuntary_switches": usage.ru_nivcsw,
        "rss_max_bytes": usage.ru_maxrss * 1024,
    })
}

/// Nanoseconds since 1970.
#[inline]
pub fn now_ns() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: writes one struct into memory of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, time.as_mut_ptr()) };
    // SAFETY: all bits zero are a valid timespec, too.
    let time = unsafe { time.assume_init() };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets timers of this thread end when they are due, rather than up to 50 µs later.
pub fn exact_timers() {
    // SAFETY: sets a number of this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Lets this process open as many files as the system allows.
pub fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct into memory of ours.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads one struct of ours. If it is refused, opening says so later.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// A descriptor that is readable once SIGTERM or SIGINT came; both are blocked from now on.
pub fn stop_signal() -> io::Result<RawFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: initialises a set of ours.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: initialised above; the numbers are valid.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: an initialised set; no other thread runs yet.
    let blocked = unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: an initialised set.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if blocked < 0 || fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}
