//! Asks the kernel what this process costs.

use crate::observe::process::ProcessUsage;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// Reads the usage of this process now.
pub fn usage() -> ProcessUsage {
    let (cpu_user_s, cpu_system_s) = getrusage(UsageWho::RUSAGE_SELF).map_or((0.0, 0.0), |usage| {
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        (seconds(usage.user_time()), seconds(usage.system_time()))
    });
    ProcessUsage { rss_bytes: rss_bytes().unwrap_or(0), cpu_user_s, cpu_system_s }
}

fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page_bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_grows_with_work_and_memory_is_seen() {
        let before = usage();
        let memory = vec![1u8; 64 << 20];
        while usage().cpu_s() < before.cpu_s() + 0.01 {
            std::hint::black_box(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        }
        let after = usage();
        assert!(after.rss_bytes >= 64 << 20, "{after:?}");
        drop(memory);
    }
}
