//! What this machine offers: kernel, io_uring, limits, ptys, the state directory's disk, where block files can be.
//!
//! Nothing is changed and nothing is left behind. `run` asks [`io_uring()`] before anything else; `doctor` prints a whole
//! [`Report`].

use io_uring::{IoUring, opcode, register};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::getegid;
use serde::{Serialize, Serializer};
use std::fs;
use std::io;
use std::path::Path;

mod storage;
mod surroundings;

pub use storage::{BlockDirectory, StateDirectory};
pub use surroundings::EndsWith;

/// The oldest kernel, for `SINGLE_ISSUER` with `DEFER_TASKRUN`.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// What the kernel's io_uring can do; see io_uring_setup(2) and io_uring_enter(2).
///
/// The ring was made with `SINGLE_ISSUER | DEFER_TASKRUN`. A kernel that takes those (6.1) also has provided buffer rings
/// and multishot accept (5.19) and multishot recv (6.0), which no query tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Features {
    /// A tty is read by one READ_MULTISHOT (Linux 6.7); without it by single reads.
    pub read_multishot: bool,
}

/// Why io_uring cannot be used here: one line each, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The sysctl is 2.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {setting}): \
         `sysctl -w kernel.io_uring_disabled=0` allows it, and a file in /etc/sysctl.d keeps it so"
    )]
    Disabled {
        /// The sysctl's value.
        setting: u8,
    },
    /// The sysctl is 1, and this process is neither privileged nor in the group.
    #[error(
        "io_uring is kept for privileged processes (kernel.io_uring_disabled = 1): \
         `sysctl -w kernel.io_uring_disabled=0` allows it to all, or kernel.io_uring_group (now {group}) to a group of this user"
    )]
    Restricted {
        /// kernel.io_uring_group; -1 is none.
        group: i64,
    },
    /// The kernel's own settings allow it, so a filter forbids it.
    #[error(
        "io_uring is forbidden by a sandbox ({call}: {errno}): allow the system calls io_uring_setup, io_uring_enter and \
         io_uring_register, for a container by its seccomp profile (`--security-opt seccomp=...`), in a systemd unit by \
         SystemCallFilter="
    )]
    Sandboxed {
        /// The system call that was refused.
        call: &'static str,
        /// EPERM or EACCES, in words.
        errno: String,
    },
    /// ENOSYS.
    #[error(
        "this kernel ({release}) has no io_uring (ENOSYS): Linux 6.1 or newer with CONFIG_IO_URING is needed; \
         a sandbox that emulates the kernel hides it too"
    )]
    Absent {
        /// `uname -r`
        release: String,
    },
    /// EINVAL, or an operation is missing.
    #[error("this kernel ({release}) is too old: it lacks {missing} of io_uring; Linux 6.1 or newer is needed")]
    TooOld {
        /// `uname -r`
        release: String,
        /// What was asked for in vain.
        missing: String,
    },
    /// EMFILE, ENFILE or ENOMEM.
    #[error("a limit forbids io_uring ({call}: {errno}): {remedy}")]
    Limit {
        /// The system call.
        call: &'static str,
        /// The error in words.
        errno: String,
        /// What raises it.
        remedy: &'static str,
    },
    /// Anything else.
    #[error("io_uring cannot be used ({call}: {errno})")]
    Other {
        /// The system call.
        call: &'static str,
        /// The error in words.
        errno: String,
    },
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The kernel.
    pub kernel: Kernel,
    /// io_uring, or why not.
    #[serde(serialize_with = "found_or_problem")]
    pub io_uring: Result<Features, ProbeError>,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// RLIMIT_NOFILE.
    pub open_files: OpenFiles,
    /// Unix98 ptys; `None` where /proc does not tell.
    pub ptys: Option<Ptys>,
    /// The state directory.
    pub state_directory: StateDirectory,
    /// Where block files would live; `None` if there is no such directory.
    pub blocks: Option<BlockDirectory>,
}

/// The kernel.
#[derive(Debug, Serialize)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// At least [`KERNEL_MIN`], by its number; distributions may bring features to older numbers.
    pub recent: bool,
}

/// RLIMIT_NOFILE, in descriptors. `run` raises the soft limit to the hard one.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OpenFiles {
    /// In force.
    pub soft: u64,
    /// Up to which a process may raise it.
    pub hard: u64,
}

/// kernel.pty.max and kernel.pty.nr.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ptys {
    /// Most that can be open.
    pub max: u64,
    /// Open now.
    pub open: u64,
}

/// Looks at everything. `blocks` is the directory of the block files.
pub fn report(state_dir: &Path, blocks: &Path) -> Report {
    let release = release();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    let ptys = (number("/proc/sys/kernel/pty/max"), number("/proc/sys/kernel/pty/nr"));
    Report {
        kernel: Kernel { recent: version(&release).is_some_and(|version| version >= KERNEL_MIN), release },
        io_uring: io_uring(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        open_files: OpenFiles { soft, hard },
        ptys: ptys.0.zip(ptys.1).map(|(max, open)| Ptys { max, open }),
        state_directory: storage::state_directory(state_dir),
        blocks: storage::blocks(blocks),
    }
}

/// Makes a ring as the engine does, asks what it can do, and closes it.
pub fn io_uring() -> Result<Features, ProbeError> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(|error| refusal("io_uring_setup", &error, Machine::now()))?;
    let mut probe = register::Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| refusal("io_uring_register", &error, Machine::now()))?;
    for (code, name) in [
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Read::CODE, "READ"),
        (opcode::Recv::CODE, "RECV"),
        (opcode::Send::CODE, "SEND"),
        (opcode::Write::CODE, "WRITE"),
    ] {
        if !probe.is_supported(code) {
            return Err(ProbeError::TooOld { release: release(), missing: format!("the operation {name}") });
        }
    }
    Ok(Features { read_multishot: probe.is_supported(opcode::ReadMulti::CODE) })
}

/// What decides how a refusal is read.
#[derive(Debug, Clone)]
struct Machine {
    release: String,
    /// kernel.io_uring_disabled (Linux 6.6).
    disabled: Option<u64>,
    /// kernel.io_uring_group.
    group: i64,
    /// CAP_SYS_ADMIN, or a member of the group.
    privileged: bool,
}

impl Machine {
    fn now() -> Self {
        let group = fs::read_to_string("/proc/sys/kernel/io_uring_group");
        let group = group.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1);
        let member = nix::unistd::getgroups().unwrap_or_default().into_iter().chain([getegid()]);
        Self {
            release: release(),
            disabled: number("/proc/sys/kernel/io_uring_disabled"),
            group,
            privileged: is_admin() || member.into_iter().any(|gid| i64::from(gid.as_raw()) == group),
        }
    }
}

fn refusal(call: &'static str, error: &io::Error, machine: Machine) -> ProbeError {
    let errno = || nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let words = || format!("{:?}, {}", errno(), errno().desc());
    match (error.raw_os_error().unwrap_or(0), machine.disabled) {
        (libc::EPERM, Some(setting @ 2..)) => ProbeError::Disabled { setting: setting.min(255) as u8 },
        (libc::EPERM, Some(1)) if !machine.privileged => ProbeError::Restricted { group: machine.group },
        (libc::EPERM | libc::EACCES, _) => ProbeError::Sandboxed { call, errno: words() },
        (libc::ENOSYS, _) => ProbeError::Absent { release: machine.release },
        (libc::EINVAL, _) => {
            ProbeError::TooOld { release: machine.release, missing: "SINGLE_ISSUER with DEFER_TASKRUN".to_owned() }
        }
        (libc::ENOMEM, _) => {
            let remedy =
                "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`; and the memory limit of the service";
            ProbeError::Limit { call, errno: words(), remedy }
        }
        (libc::EMFILE | libc::ENFILE, _) => {
            ProbeError::Limit { call, errno: words(), remedy: "LimitNOFILE= in the unit, or `ulimit -Hn`" }
        }
        _ => ProbeError::Other { call, errno: words() },
    }
}

/// CAP_SYS_ADMIN (bit 21) in the effective set, from proc_pid_status(5).
fn is_admin() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 << 21 != 0)
}

fn release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor of a release such as `6.18.44-lts`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn found_or_problem<S: Serializer>(found: &Result<Features, ProbeError>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Outcome<'a> {
        Features(&'a Features),
        Problem(String),
    }
    match found {
        Ok(features) => Outcome::Features(features),
        Err(error) => Outcome::Problem(error.to_string()),
    }
    .serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32, disabled: Option<u64>, privileged: bool) -> ProbeError {
        let machine = Machine { release: "5.15.0-generic".to_owned(), disabled, group: -1, privileged };
        refusal("io_uring_setup", &io::Error::from_raw_os_error(errno), machine)
    }

    #[test]
    fn each_refusal_is_told_by_what_causes_it() {
        assert_eq!(refused(libc::EPERM, Some(2), true), ProbeError::Disabled { setting: 2 });
        assert_eq!(refused(libc::EPERM, Some(1), false), ProbeError::Restricted { group: -1 });
        assert!(matches!(refused(libc::EPERM, Some(1), true), ProbeError::Sandboxed { .. }));
        assert!(matches!(refused(libc::EPERM, Some(0), false), ProbeError::Sandboxed { .. }));
        assert!(matches!(refused(libc::EPERM, None, false), ProbeError::Sandboxed { .. }));
        assert!(matches!(refused(libc::EACCES, Some(0), false), ProbeError::Sandboxed { .. }));
        assert!(matches!(refused(libc::ENOSYS, Some(0), true), ProbeError::Absent { .. }));
        assert!(matches!(refused(libc::EINVAL, None, true), ProbeError::TooOld { .. }));
        assert!(refused(libc::EMFILE, None, true).to_string().contains("LimitNOFILE="));
        assert!(refused(libc::ENOMEM, None, true).to_string().contains("LimitMEMLOCK=infinity"));
        assert!(matches!(refused(libc::EIO, None, true), ProbeError::Other { .. }));
    }

    #[test]
    fn each_refusal_is_one_line_that_says_what_to_do() {
        for (error, words) in [
            (refused(libc::EPERM, Some(2), false), "sysctl -w kernel.io_uring_disabled=0"),
            (refused(libc::EPERM, Some(1), false), "kernel.io_uring_group (now -1)"),
            (refused(libc::EPERM, Some(0), false), "seccomp"),
            (refused(libc::ENOSYS, None, false), "CONFIG_IO_URING"),
            (refused(libc::EINVAL, None, false), "5.15.0-generic"),
            (refused(libc::EMFILE, None, false), "LimitNOFILE"),
        ] {
            let text = error.to_string();
            assert!(text.contains(words) && !text.contains('\n') && !text.contains("  "), "{text}");
        }
    }

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.18.44-lts"), Some((6, 18)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version("5.14.0-362.8.1.el9_3.x86_64"), Some((5, 14)));
        assert_eq!(version("unknown"), None);
    }
}
