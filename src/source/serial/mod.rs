//! Serial ports: opened and set up here, on a thread that may wait; read by the data ring.
//!
//! A port belongs to one gateway: it is locked before any of its settings is touched. Its path is resolved at every open,
//! so a port that comes back under another name is found again through its stable link.

use crate::config::{Flow, Seen, Serial};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Group, Uid, User};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

mod counts;
mod error;
mod holder;
mod parmrk;
mod ports;
mod termios;
mod watch;

pub use counts::driver_counts;
pub use error::PortError;
pub use holder::{Holder, holder_of, holders_of, words as holder_words};
pub use parmrk::{Decoded, Mark, Parmrk, Run};
pub use ports::{Adapter, LATENCY_TIMER_SLOW_MS, Port, Usb, adapter_of, ports};
pub use termios::{Termios2, hold_line, read_settings, settings_for};
pub use watch::Watch;

/// How long a busy port is tried again: a process that was just killed holds it for a moment.
pub const BUSY_WAIT: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Opens a port, locks it and applies its settings. Waits up to [`BUSY_WAIT`] for a busy one, so it is not for a thread
/// that must not wait.
///
/// The descriptor is in non-blocking mode, which io_uring needs on ttys before Linux 6.4 and which does no harm later.
/// It holds the lock until its last duplicate is closed. Bytes that were waiting in the port are not flushed: they may be
/// a record, while noise is at worst one rejected or flagged frame. But those that came while the port was set so that they
/// are no longer what the machine sent are thrown away, and noted: a new port is a terminal at 9600 baud, which makes line
/// feeds of carriage returns, until its settings are in force, and with USB that takes milliseconds.
///
/// What the device refuses (a pty has no parity and no 7-bit characters) is a note.
///
/// # Errors
/// See [`PortError`].
pub fn open(settings: &Serial) -> Result<Opened, PortError> {
    let started = Instant::now();
    let port = loop {
        match claim(&settings.path) {
            Err(PortError::Busy { .. }) if started.elapsed() < BUSY_WAIT => std::thread::sleep(BUSY_PAUSE),
            Err(PortError::Busy { .. }) => return Err(PortError::Busy { holder: holder_of(&settings.path) }),
            Err(error) => return Err(error),
            Ok(port) => break port,
        }
    };
    let asked = settings_for(&settings.line, settings.flow);
    let before = read_settings(port.as_fd()).map_err(set_error)?;
    termios::write_settings(port.as_fd(), &asked).map_err(set_error)?;
    let got = read_settings(port.as_fd()).map_err(set_error)?;
    let device = nix::sys::stat::fstat(&port).map(|stat| stat.st_rdev).map_err(set_error)?;
    let is_line = !is_pty(device);
    let (mut discarded, mut notes) = (false, Vec::new());
    if termios::changes_bytes(&before, &got, is_line) {
        let bytes = termios::discard_input(port.as_fd()).map_err(set_error)?;
        discarded = bytes > 0;
        if discarded {
            notes.push(format!("{bytes} bytes came before the line was set, and were discarded"));
        }
    }
    if settings.flow == Flow::XonXoff {
        // Whoever had the port before may have ended while its machine was told to wait.
        hold_line(port.as_fd(), false).map_err(set_error)?;
    }
    notes.extend(termios::refused(&asked, &got).into_iter().map(|note| format!("{note} by the device")));
    Ok(Opened { port, discarded, notes, adapter: adapter_of(Path::new("/"), device) })
}

/// A port that is open, ours and set.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub port: OwnedFd,
    /// Bytes that had come were thrown away.
    pub discarded: bool,
    /// What is worth a warning.
    pub notes: Vec<String>,
    /// The USB adapter that it belongs to, if it does.
    pub adapter: Option<Adapter>,
}

/// Looks at what stands at a path, and opens nothing: an open raises DTR and RTS, which resets some machines.
pub fn look(path: &Path) -> Seen {
    look_below(Path::new("/"), path)
}

/// As [`look`]; `root` is where `sys` and `dev` are.
pub fn look_below(root: &Path, path: &Path) -> Seen {
    let Ok(meta) = fs::metadata(path) else { return Seen::Nothing };
    let kind = meta.file_type();
    if kind.is_char_device() {
        let (device, stable) = (meta.rdev(), ports::stable_name(root, path));
        return if is_pty(device) || ports::may_be_tty(root, device) {
            Seen::Tty { device, stable }
        } else {
            Seen::NoTty("a device that is no tty")
        };
    }
    Seen::NoTty(if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() {
        "a disk"
    } else {
        "a file"
    })
}

/// Opens a port and makes it ours, or says at once why not. A busy one has no holder yet.
fn claim(path: &Path) -> Result<OwnedFd, PortError> {
    const BUSY: PortError = PortError::Busy { holder: None };
    // Looked at before it is opened, for opening a FIFO or some other device has effects of its own.
    let meta =
        fs::metadata(path).map_err(|error| open_error(path, Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    if !meta.file_type().is_char_device() {
        return Err(not_a_tty(path));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let port = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| open_error(path, errno))?;
    match nix::unistd::isatty(&port) {
        Ok(true) => {}
        Ok(false) | Err(Errno::ENOTTY) => return Err(not_a_tty(path)),
        Err(errno) => return Err(set_error(errno)),
    }
    match termios::lock(port.as_fd()) {
        Ok(()) => {}
        Err(Errno::EWOULDBLOCK) => return Err(BUSY),
        Err(errno) => return Err(PortError::Other(format!("cannot lock the port: {}", errno.desc()))),
    }
    // A pty keeps its exclusive mode for as long as its master is open: after a kill nobody but root could open it again.
    // There the lock alone has to do.
    if !is_pty(meta.rdev()) {
        // Root gets past the exclusive mode of others; taking their bytes away would be no better for that.
        if termios::is_exclusive(port.as_fd()) == Ok(true) {
            return Err(BUSY);
        }
        if let Err(errno) = termios::set_exclusive(port.as_fd()) {
            return Err(PortError::Other(format!("cannot make the port exclusive: {}", errno.desc())));
        }
    }
    Ok(port)
}

/// Whether a device number is a Unix98 pty's slave (majors 136 to 143 of the kernel's devices.txt).
fn is_pty(device: u64) -> bool {
    (136..=143).contains(&libc::major(device))
}

fn not_a_tty(path: &Path) -> PortError {
    PortError::NoTty { path: path.display().to_string() }
}

fn open_error(path: &Path, errno: Errno) -> PortError {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO | Errno::ENODEV => PortError::Missing,
        Errno::EBUSY => PortError::Busy { holder: None },
        Errno::EACCES => PortError::Permission { remedy: permission_remedy(path) },
        Errno::EPERM => PortError::Permission {
            remedy: format!(
                "the sandbox does not allow this device: `--device {0}` for a container, `DeviceAllow={0} rw` in a unit",
                path.display()
            ),
        },
        Errno::EIO => set_error(errno),
        errno => PortError::Other(format!("cannot open {}: {}", path.display(), errno.desc())),
    }
}

fn set_error(errno: Errno) -> PortError {
    match errno {
        Errno::ENODEV | Errno::ENXIO => PortError::Missing, // unplugged meanwhile
        Errno::EIO => PortError::Other("no hardware answers at this port (EIO)".to_owned()),
        errno => PortError::Other(format!("cannot set the line: {}", errno.desc())),
    }
}

/// What to do so that this user may open the port.
pub fn permission_remedy(path: &Path) -> String {
    let Ok(meta) = fs::metadata(path) else {
        return format!("a directory on the way to {} may not be searched by this user", path.display());
    };
    let group = Group::from_gid(meta.gid().into()).ok().flatten().map_or(meta.gid().to_string(), |group| group.name);
    let user = Uid::effective();
    let user = User::from_uid(user).ok().flatten().map_or(user.to_string(), |user| user.name);
    remedy(path, meta.permissions().mode(), &group, &user)
}

fn remedy(path: &Path, mode: u32, group: &str, user: &str) -> String {
    let path = path.display();
    if mode & 0o060 == 0o060 && group != "root" {
        return format!(
            "{path} belongs to group {group}: `usermod -aG {group} {user}`, then log in or start the service again"
        );
    }
    format!(
        "{path} has mode {:03o} and group {group}: give it to a group by a udev rule \
         (GROUP=\"dialout\", MODE=\"0660\"), then `usermod -aG dialout {user}`",
        mode & 0o777
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_port_names_its_group_and_the_command() {
        let text = remedy(Path::new("/dev/ttyUSB0"), 0o020_660, "dialout", "plant");
        assert!(text.contains("group dialout") && text.contains("`usermod -aG dialout plant`"), "{text}");
        for (mode, group) in [(0o020_600, "tty"), (0o020_620, "tty"), (0o020_660, "root")] {
            let text = remedy(Path::new("/dev/ttyS0"), mode, group, "plant");
            assert!(text.contains("udev rule") && text.contains(&format!("mode {:03o}", mode & 0o777)), "{text}");
        }
    }

    #[test]
    fn errors_of_open_are_told_apart() {
        let path = Path::new("/dev/null");
        let of = |errno| open_error(path, errno);
        assert_eq!(of(Errno::ENOENT), PortError::Missing);
        assert_eq!(of(Errno::ENXIO), PortError::Missing);
        assert_eq!(of(Errno::EBUSY), PortError::Busy { holder: None });
        assert!(matches!(of(Errno::EACCES), PortError::Permission { .. }));
        assert!(matches!(of(Errno::EPERM), PortError::Permission { remedy } if remedy.contains("--device /dev/null")));
        assert!(matches!(of(Errno::EMFILE), PortError::Other(_)));
    }
}
