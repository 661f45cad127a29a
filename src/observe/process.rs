//! What this process costs: CPU time and memory, as the kernel counts them.

use serde::Serialize;

/// Cost of the whole process, all threads together, since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ProcessUsage {
    /// Resident memory in bytes (`/proc/self/statm`, proc(5)); 0 where `/proc` is not mounted.
    pub rss_bytes: u64,
    /// Seconds of CPU in user mode (getrusage(2)).
    pub cpu_user_s: f64,
    /// Seconds of CPU in the kernel on the process's behalf.
    pub cpu_system_s: f64,
}

impl ProcessUsage {
    /// CPU of both modes, in seconds.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}
