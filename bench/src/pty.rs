//! Pseudo-terminals: the machines' side, and the reader's side with the gateway's terminal settings.
#![allow(unsafe_code)] // termios2 ioctls, open and write on raw descriptors

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn open(path: &Path) -> io::Result<RawFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path is a string with its end, alive during the call.
    check(unsafe { libc::open(text.as_ptr(), flags) })
}

/// Opens a pty in raw mode and makes the symlink `link` to its slave. The master stays open until the process ends.
pub fn create(link: &Path) -> io::Result<RawFd> {
    let master = open(Path::new("/dev/ptmx"))?;
    let mut locked: libc::c_int = 0;
    // SAFETY: reads one int.
    check(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw mut locked) })?;
    let mut number: libc::c_int = 0;
    // SAFETY: writes one int.
    check(unsafe { libc::ioctl(master, libc::TIOCGPTN, &raw mut number) })?;
    let slave = format!("/dev/pts/{number}");
    // The settings stay with the pty while its master is open; the hang-up stays until a reader comes.
    let first = open_port(Path::new(&slave))?;
    // SAFETY: opened above, and nobody else's.
    check(unsafe { libc::close(first) })?;
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(slave, link)?,
    }
    Ok(master)
}

/// Whether somebody has the slave open.
pub fn has_reader(master: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: master, events: 0, revents: 0 };
    // SAFETY: one struct of ours.
    let result = unsafe { libc::poll(&mut poll, 1, 0) };
    result >= 0 && poll.revents & libc::POLLHUP == 0
}

/// Opens a port with the settings of the gateway: raw, `INPCK | PARMRK`, 8 data bits, VMIN 1.
pub fn open_port(path: &Path) -> io::Result<RawFd> {
    let port = open(path)?;
    let mut settings = MaybeUninit::<libc::termios2>::zeroed();
    // SAFETY: writes one struct of ours.
    check(unsafe { libc::ioctl(port, libc::TCGETS2, settings.as_mut_ptr()) })?;
    // SAFETY: all bits zero are a valid termios2, too.
    let mut settings = unsafe { settings.assume_init() };
    settings.c_iflag = libc::INPCK | libc::PARMRK;
    settings.c_oflag = 0;
    settings.c_lflag = 0;
    settings.c_cflag = libc::CREAD | libc::CLOCAL | libc::CS8 | libc::BOTHER;
    settings.c_cc[libc::VMIN] = 1;
    settings.c_cc[libc::VTIME] = 0;
    (settings.c_ispeed, settings.c_ospeed) = (115_200, 115_200);
    // SAFETY: reads one struct of ours.
    check(unsafe { libc::ioctl(port, libc::TCSETS2, &raw const settings) })?;
    Ok(port)
}

/// Writes without waiting; how many bytes were taken, 0 if there is no room.
pub fn write(master: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes are alive during the call.
    let written = unsafe { libc::write(master, bytes.as_ptr().cast(), bytes.len()) };
    match written {
        0.. => Ok(written as usize),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        },
    }
}
