//! One gateway a state directory: a lock file with the holder's PID in it.

use super::error::permission_remedy;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a busy lock is tried again: a process that was just killed can hold it for a moment.
const RETRY: Duration = Duration::from_secs(2);

/// Why the state directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another gateway holds it.
    #[error("{} is in use by another gateway{}", directory.display(), holder.map(|pid| format!(", process {pid}")).unwrap_or_default())]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The PID that the holder wrote.
        holder: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("the lock file {}: {error}{}", path.display(), permission_remedy(error))]
    File {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The lock; let go when dropped or when the process ends, in whatever way.
#[derive(Debug)]
pub struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Locks `directory`, trying for 2 s while another holds it, and writes this process's PID into the file (flock(2)).
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        Self::acquire_within(directory, RETRY)
    }

    fn acquire_within(directory: &Path, limit: Duration) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let failed = |error| LockError::File { path: path.clone(), error };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut file = options.open(&path).map_err(failed)?;
        let deadline = Instant::now() + limit;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut locked) => {
                    write_pid(&mut locked).map_err(failed)?;
                    return Ok(Self { _file: locked });
                }
                Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    file = unlocked;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err((mut unlocked, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Held { directory: directory.to_owned(), holder: read_pid(&mut unlocked) });
                }
                Err((unlocked, Errno::EINTR)) => file = unlocked,
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
    }
}

/// Who has locked a state directory, without taking the lock: the PID that the holder wrote, if it wrote one; `None` if it is free.
/// Nothing is made or changed.
///
/// # Errors
/// Those of open(2) and flock(2); a missing directory or lock file is free.
pub fn lock_holder(directory: &Path) -> io::Result<Option<Option<u32>>> {
    let file = match File::open(directory.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // A shared lock that is let go at once: a gateway that starts at this very moment tries again.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => Ok(Some(read_pid(&mut file))),
        Err((_, error)) => Err(error.into()),
    }
}

/// Always of one length and in place, so that a full disk has room for it.
fn write_pid(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    writeln!(file, "{:<10}", std::process::id())?;
    let end = file.stream_position()?;
    file.set_len(end)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gateway_is_refused_and_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = StateLock::acquire(directory.path()).expect("is free");
        let refused = StateLock::acquire_within(directory.path(), Duration::from_millis(50)).expect_err("is held");
        let own = std::process::id();
        assert!(matches!(&refused, LockError::Held { holder: Some(pid), .. } if *pid == own), "{refused:?}");
        assert!(refused.to_string().ends_with(&format!("another gateway, process {own}")), "{refused}");
        assert_eq!(lock_holder(directory.path()).expect("readable"), Some(Some(own)));
        drop(first);
        assert_eq!(lock_holder(directory.path()).expect("readable"), None);
        StateLock::acquire_within(directory.path(), Duration::ZERO).expect("is free again");
        assert_eq!(lock_holder(&directory.path().join("missing")).expect("is no error"), None);
    }

    #[test]
    fn a_lock_that_is_let_go_within_the_time_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = StateLock::acquire(directory.path()).expect("is free");
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| StateLock::acquire(directory.path()));
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
            second.join().expect("did not panic")
        });
        waiting.expect("was let go");
    }
}
