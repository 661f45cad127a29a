//! Who holds a port: looked up in /proc when a port turns out to be in use, and when ports are listed.

use serde::Serialize;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most holders that are named.
const NAMED_MAX: usize = 3;

/// A process that has a port open, or listens on an address. Shown as `minicom (PID 812)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The process' name, if it may be read.
    pub name: Option<String>,
}

impl Holder {
    /// A process of `proc`, with its name if that may be read.
    pub fn of(proc: &Path, pid: u32) -> Self {
        Self { pid, name: name_of(proc, pid) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let itself = if self.pid == std::process::id() { ", this process itself" } else { "" };
        write!(f, "{} (PID {}{itself})", self.name.as_deref().unwrap_or("a process"), self.pid)
    }
}

/// Names and PIDs of the processes that have the port open, such as `minicom (PID 812)`; the one that locked it if that
/// can be told. `None` if there is none that this process may see: other users' processes are visible to root only.
pub fn holder_of(path: &Path) -> Option<String> {
    words(&holders_of(path))
}

/// The processes that have the port open, as far as this process may see them; the one that locked it if that can be told.
pub fn holders_of(path: &Path) -> Vec<Holder> {
    holders(Path::new("/"), &[path]).pop().expect("an answer for each path")
}

/// Holders in a row, or `None` for none.
pub fn words(holders: &[Holder]) -> Option<String> {
    if holders.is_empty() {
        return None;
    }
    let mut text = holders.iter().take(NAMED_MAX).map(Holder::to_string).collect::<Vec<_>>().join(", ");
    if holders.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", holders.len() - NAMED_MAX);
    }
    Some(text)
}

/// The holders of each path, from one walk through `proc` below `root`.
pub(super) fn holders(root: &Path, paths: &[&Path]) -> Vec<Vec<Holder>> {
    let proc = root.join("proc");
    let locks = fs::read_to_string(proc.join("locks")).unwrap_or_default();
    let openers = openers_of(&proc, paths);
    paths
        .iter()
        .zip(openers)
        .map(|(path, mut pids)| {
            // The lock names who took it, even where that process' files cannot be seen; but it may have handed the file on.
            if let Some(locker) = locker_of(&proc, &locks, path)
                && (pids.is_empty() || pids.contains(&locker))
            {
                pids = vec![locker];
            }
            pids.into_iter().map(|pid| Holder::of(&proc, pid)).collect()
        })
        .collect()
}

/// The process in /proc/locks (proc_locks(5)) that holds a flock on the file, if it still lives.
fn locker_of(proc: &Path, locks: &str, path: &Path) -> Option<u32> {
    let meta = fs::metadata(path).ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 812 00:06:1234 0 EOF
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, locked, ..] = fields[..] else { return None };
        let pid: u32 = pid.parse().ok()?;
        (locked == file && proc.join(pid.to_string()).exists()).then_some(pid)
    })
}

/// The processes with a descriptor on each of the files, in the order of their ids.
fn openers_of(proc: &Path, paths: &[&Path]) -> Vec<Vec<u32>> {
    let mut openers = vec![Vec::new(); paths.len()];
    let paths: Vec<Option<PathBuf>> = paths.iter().map(|path| path.canonicalize().ok()).collect();
    if paths.iter().all(Option::is_none) {
        return openers;
    }
    let Ok(processes) = fs::read_dir(proc) else { return openers };
    let mut pids: Vec<u32> = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let Ok(files) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { continue };
        for target in files.flatten().filter_map(|file| fs::read_link(file.path()).ok()) {
            for (path, pids) in paths.iter().zip(&mut openers) {
                if path.as_ref() == Some(&target) && pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            }
        }
    }
    openers
}

fn name_of(proc: &Path, pid: u32) -> Option<String> {
    let name = fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
    Some(name.trim_end().to_owned())
}
