//! What keeps a gateway from starting, or from ending well, in words for the operator.

use super::listen::ListenError;
use super::lock::LockError;
use super::probe::ProbeError;
use crate::journal::OpenError;
use crate::observe::histlog::HistogramLogError;
use crate::source::serial::PortError;
use std::io;
use std::path::PathBuf;

/// Why the gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel or a sandbox forbids io_uring.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The state directory cannot be made or read.
    #[error("the state directory {}: {error}{}", directory.display(), permission_remedy(error))]
    StateDirectory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another gateway runs on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A port with `on_missing = "fail"` cannot be opened.
    #[error("source {source_name}: {}: {error}", path.display())]
    Port {
        /// The source's name.
        source_name: String,
        /// The port's path.
        path: PathBuf,
        /// Why not.
        error: PortError,
    },
    /// A journal cannot be opened.
    #[error("the journal {}: {error}", directory.display())]
    Journal {
        /// Its directory.
        directory: PathBuf,
        /// Why not.
        error: OpenError,
    },
    /// A journal's files cannot be used.
    #[error("the journal {}: {error}", directory.display())]
    JournalDirectory {
        /// Its directory.
        directory: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A core's ring cannot be made or used.
    #[error("core {core}: io_uring: {error}{}", memory_remedy(error))]
    Ring {
        /// Index of the core.
        core: u16,
        /// What the system says.
        error: io::Error,
    },
    /// It was told to stop before it took records; what a journal holds waits for the next start.
    #[error("stopped ({reason}) before it took records")]
    Stopped {
        /// Who told it.
        reason: &'static str,
    },
    /// The histogram log cannot be written.
    #[error(transparent)]
    HistogramLog(#[from] HistogramLogError),
    /// A thread or the control thread's runtime cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// The ready file cannot be written.
    #[error("the ready file {}: {error}", path.display())]
    ReadyFile {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// What to do where the kernel has no memory for a ring; empty for other errors.
pub(super) fn memory_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => ": LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`, allows the ring's memory",
        _ => "",
    }
}

/// What to do where the state directory is forbidden or cannot be written; empty for other errors.
pub(super) fn permission_remedy(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        return ": mount it writable, StateDirectory= or ReadWritePaths= in a unit, or another state_dir".to_owned();
    }
    if error.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let user = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(user).ok().flatten().map_or(user.to_string(), |user| user.name);
    format!(": `chown -R {user}` the directory, StateDirectory= in a unit, or another state_dir")
}
