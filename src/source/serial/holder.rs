//! Who holds a port: looked up in /proc when a port turns out to be in use.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most holders that are named.
const NAMED_MAX: usize = 3;

/// Names and PIDs of the processes that have the port open, such as `minicom (PID 812)`; the one that locked it if that
/// can be told. `None` if there is none that this process may see: other users' processes are visible to root only.
pub fn holder_of(path: &Path) -> Option<String> {
    let mut pids = openers_of(path);
    // The lock names who took it, even where that process' files cannot be seen; but it may have handed the file on.
    if let Some(locker) = locker_of(path)
        && (pids.is_empty() || pids.contains(&locker))
    {
        pids = vec![locker];
    }
    if pids.is_empty() {
        return None;
    }
    let mut text = pids.iter().take(NAMED_MAX).map(|&pid| named(pid)).collect::<Vec<_>>().join(", ");
    if pids.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", pids.len() - NAMED_MAX);
    }
    Some(text)
}

/// The process in /proc/locks (proc_locks(5)) that holds a flock on the file, if it still lives.
fn locker_of(path: &Path) -> Option<u32> {
    let meta = fs::metadata(path).ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 812 00:06:1234 0 EOF
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, locked, ..] = fields[..] else { return None };
        let pid: u32 = pid.parse().ok()?;
        (locked == file && Path::new("/proc").join(pid.to_string()).exists()).then_some(pid)
    })
}

/// The processes with a descriptor on the file.
fn openers_of(path: &Path) -> Vec<u32> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path))
        })
        .collect();
    pids.sort_unstable();
    pids
}

fn named(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    let name = name.as_deref().map_or("a process", str::trim_end);
    let itself = if pid == std::process::id() { ", this process itself" } else { "" };
    format!("{name} (PID {pid}{itself})")
}
