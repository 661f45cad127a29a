//! A pseudo-terminal as a machine's end of a serial line, with a stable name for the other end.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Why a pty cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's limit is reached.
    #[error(
        "no more ptys: {in_use} in use, kernel.pty.max is {max} (kernel.pty.reserve of them are kept for the host where /dev/pts is a \
         container's own); raise it with: sysctl -w kernel.pty.max={advice}"
    )]
    Exhausted {
        /// `/proc/sys/kernel/pty/nr`
        in_use: u64,
        /// `/proc/sys/kernel/pty/max`
        max: u64,
        /// A value that would do.
        advice: u64,
    },
    /// A call on the pty failed.
    #[error("a pty cannot be opened: {0}")]
    Open(Errno),
    /// The symlink.
    #[error("{} cannot be made: {error}", path.display())]
    Link {
        /// The stable name.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
}

/// A pty's master, and the symlink that leads to its slave.
#[derive(Debug)]
pub(super) struct Pty {
    master: PtyMaster,
    slave: PathBuf,
    link: PathBuf,
}

impl Pty {
    /// Opens a pty in raw mode and makes (or moves) the symlink `link` to it. No slave is open afterwards.
    pub(super) fn create(link: &Path) -> Result<Self, Error> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .map_err(|errno| if errno == Errno::ENOSPC { exhausted(1) } else { Error::Open(errno) })?;
        grantpt(&master).map_err(Error::Open)?;
        unlockpt(&master).map_err(Error::Open)?;
        let slave = PathBuf::from(ptsname_r(&master).map_err(Error::Open)?);
        // The settings stay with the pty while its master is open. Closing the slave leaves a hang-up on the master until a
        // reader comes, which is how one is noticed.
        let first = open_slave(&slave).map_err(Error::Open)?;
        let mut termios = tcgetattr(&first).map_err(Error::Open)?;
        cfmakeraw(&mut termios);
        tcsetattr(&first, SetArg::TCSANOW, &termios).map_err(Error::Open)?;
        drop(first);
        let pty = Self { master, slave, link: link.to_owned() };
        pty.place_link().map_err(|error| Error::Link { path: link.to_owned(), error })?;
        Ok(pty)
    }

    /// By rename, so that the name never leads nowhere while it is there.
    fn place_link(&self) -> io::Result<()> {
        let temporary = self.link.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(&self.slave, &temporary)?;
        std::fs::rename(&temporary, &self.link)
    }

    /// Whether somebody has the slave open.
    pub(super) fn has_reader(&self) -> bool {
        !ready(self.master.as_fd(), PollFlags::empty()).contains(PollFlags::POLLHUP)
    }

    /// Whether all bytes written have been read, or `None` if it cannot be known: the slave belongs to its reader alone
    /// (TIOCEXCL). Polling the slave counts bytes on their way in the kernel too; TIOCOUTQ on a master is always 0.
    pub(super) fn is_drained(&self) -> Option<bool> {
        let slave = open_slave(&self.slave).ok()?;
        Some(!ready(slave.as_fd(), PollFlags::POLLIN).contains(PollFlags::POLLIN))
    }
}

impl Drop for Pty {
    /// The name goes first: the kernel may give the same slave to the next pty, and nobody may find another machine there.
    fn drop(&mut self) {
        if std::fs::read_link(&self.link).is_ok_and(|target| target == self.slave) {
            let _ = std::fs::remove_file(&self.link);
        }
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

fn open_slave(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
}

/// What `poll` says of a descriptor now.
pub(super) fn ready(fd: BorrowedFd, events: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(fd, events)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => fds[0].revents().unwrap_or(PollFlags::empty()),
        Err(_) => PollFlags::empty(),
    }
}

/// Fails early, with the whole number in the advice, when the kernel's limit leaves too few ptys.
pub(super) fn check_available(wanted: u64) -> Result<(), Error> {
    match (limit("nr"), limit("max")) {
        (Some(in_use), Some(max)) if in_use + wanted > max => Err(exhausted(wanted)),
        _ => Ok(()),
    }
}

fn exhausted(wanted: u64) -> Error {
    let (in_use, max) = (limit("nr").unwrap_or(0), limit("max").unwrap_or(0));
    let advice = in_use + wanted.max(256) + limit("reserve").unwrap_or(1024) + 64;
    Error::Exhausted { in_use, max, advice: advice.max(max + 1024) }
}

fn limit(name: &str) -> Option<u64> {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/pty").join(name)).ok()?.trim().parse().ok()
}
