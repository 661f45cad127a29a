//! Where the journal would live: whether its directory is writable, and how its disk takes direct writes.
#![allow(unsafe_code)] // statx(2), which nix lacks, takes raw pointers

use super::surroundings::{EndsWith, Surroundings};
use crate::engine::blocks::unfit;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Written to try O_DIRECT: no device in use has larger physical blocks.
const BLOCK_BYTES: usize = 4096;

/// The state directory and its disk.
#[derive(Debug, Serialize)]
pub struct StateDirectory {
    /// As it was asked for.
    pub path: PathBuf,
    /// Whether it is there.
    pub exists: bool,
    /// What was looked at: the directory, or the nearest one above it that exists.
    pub examined: PathBuf,
    /// Type of its file system, such as `ext4`.
    pub file_system: Option<String>,
    /// Why no file can be made in it, in words; `None` if one can.
    pub write_problem: Option<String>,
    /// Why no block could be written with O_DIRECT, in words; `None` if one was.
    pub direct_io_problem: Option<String>,
    /// Alignment of offsets for O_DIRECT by statx(2), if the file system tells (STATX_DIOALIGN, Linux 6.1).
    pub offset_align_bytes: Option<u32>,
    /// Alignment of memory for O_DIRECT, likewise.
    pub memory_align_bytes: Option<u32>,
    /// Physical block of the device, where there is one device.
    pub physical_block_bytes: Option<u64>,
    /// Logical block of the device.
    pub logical_block_bytes: Option<u64>,
    /// Free for this user.
    pub free_bytes: Option<u64>,
    /// Why no block file may be in it, in words.
    pub block_file_problem: Option<String>,
}

/// Where blocks that survive the process are kept.
#[derive(Debug, Serialize)]
pub struct BlockDirectory {
    /// As it was asked for.
    pub path: PathBuf,
    /// Type of its file system: `tmpfs`, unless somebody made an ordinary directory there.
    pub file_system: Option<String>,
    /// Why no file can be made in it, in words; `None` if one can.
    pub write_problem: Option<String>,
    /// Free bytes.
    pub free_bytes: Option<u64>,
    /// Why no block file may be in it, in words.
    pub block_file_problem: Option<String>,
    /// What takes its files before the machine is started again.
    pub ends_with: Option<EndsWith>,
}

pub(super) fn state_directory(path: &Path) -> StateDirectory {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let examined = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned();
    let file = scratch(&examined, 0);
    let direct = scratch(&examined, libc::O_DIRECT).and_then(|file| write_block(&file).map(|()| file));
    let align = direct.as_ref().ok().or(file.as_ref().ok()).and_then(direct_align);
    let device = fs::metadata(&examined).map(|meta| meta.dev()).ok();
    StateDirectory {
        exists: path.is_dir(),
        file_system: file_system(&examined),
        write_problem: file.err().map(|error| error.to_string()),
        direct_io_problem: direct.err().map(|error| error.to_string()),
        offset_align_bytes: align.map(|(_, offset)| offset),
        memory_align_bytes: align.map(|(memory, _)| memory),
        physical_block_bytes: device.and_then(|device| queue(device, "physical_block_size")),
        logical_block_bytes: device.and_then(|device| queue(device, "logical_block_size")),
        free_bytes: free_bytes(&examined),
        block_file_problem: block_file_problem(&examined),
        path,
        examined,
    }
}

pub(super) fn blocks(path: &Path) -> Option<BlockDirectory> {
    path.is_dir().then(|| {
        let file_system = file_system(path);
        BlockDirectory {
            path: path.to_owned(),
            write_problem: scratch(path, 0).err().map(|error| error.to_string()),
            free_bytes: free_bytes(path),
            block_file_problem: block_file_problem(path),
            ends_with: Surroundings::now().end(path, file_system.as_deref()),
            file_system,
        }
    })
}

fn block_file_problem(directory: &Path) -> Option<String> {
    unfit(directory).unwrap_or_else(|error| Some(error.to_string()))
}

/// A file without a name; where the file system has none of those, one whose name is taken away at once.
fn scratch(directory: &Path, flags: i32) -> io::Result<File> {
    let open = |flags: i32| OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(directory);
    match open(libc::O_TMPFILE | flags) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = directory.join(format!(".ringest-probe-{}", std::process::id()));
            let file =
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path);
            // An open that fails for O_DIRECT may have made the file before.
            if file.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::AlreadyExists) {
                let _ = fs::remove_file(&path);
            }
            file
        }
        result => result,
    }
}

fn write_block(file: &File) -> io::Result<()> {
    let memory = vec![0; 2 * BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    file.write_all_at(&memory[start..start + BLOCK_BYTES], 0)
}

/// Alignments of memory and offset for O_DIRECT, both above 0; `None` where the file system does not tell.
fn direct_align(file: &File) -> Option<(u32, u32)> {
    // SAFETY: statx is a struct of integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the file is open for the whole call, the path is an empty C string, and `found` is a live statx.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut found) };
    let told = result == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0 && found.stx_dio_offset_align != 0;
    told.then_some((found.stx_dio_mem_align, found.stx_dio_offset_align))
}

/// A figure of a block device's queue; a partition's is that of its disk. `None` for file systems without one device.
fn queue(device: u64, figure: &str) -> Option<u64> {
    let device = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    [format!("{device}/queue/{figure}"), format!("{device}/../queue/{figure}")]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn free_bytes(directory: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(directory).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

fn file_system(directory: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system_in(&mounts, &directory.canonicalize().ok()?)
}

/// The type of the mount that a path is in: the last of the longest mount points above it (proc_pid_mountinfo(5)).
fn file_system_in(mounts: &str, path: &Path) -> Option<String> {
    // 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        path.starts_with(&point).then_some((point.len(), system.split(' ').next()?))
    });
    mounts.max_by_key(|(bytes, _)| *bytes).map(|(_, system)| system.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_last_and_longest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                      2 1 8:2 / /var rw - xfs /dev/b rw\n\
                      3 1 0:9 / /var/lib rw shared:3 - btrfs /dev/c rw\n\
                      4 1 0:9 / /var/lib rw - tmpfs none rw\n\
                      5 1 0:7 / /with\\040space rw - overlay none rw\n";
        for (path, expected) in [
            ("/etc", "ext4"),
            ("/variety", "ext4"),
            ("/var/log", "xfs"),
            ("/var/lib/ringest", "tmpfs"),
            ("/with space/x", "overlay"),
        ] {
            assert_eq!(file_system_in(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn examining_a_directory_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("state/journal");
        let found = state_directory(&missing);
        assert!(!found.exists);
        assert_eq!((found.path.as_path(), found.examined.as_path()), (missing.as_path(), directory.path()));
        assert_eq!(found.write_problem, None);
        assert!(found.free_bytes > Some(0) && found.file_system.is_some());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(state_directory(directory.path()).exists);
    }

    #[test]
    fn a_directory_that_takes_no_files_says_why() {
        let found = state_directory(Path::new("/proc/self"));
        assert!(found.write_problem.is_some() && found.direct_io_problem.is_some());
    }
}
