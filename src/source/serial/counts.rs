//! What a serial driver counted on its line: `TIOCGICOUNT` (TIOCMGET(2const) names it, `linux/serial.h` has the structure).
#![allow(unsafe_code)] // an ioctl takes a raw descriptor and a pointer; the call is one line

use crate::ground::count::DriverCounts;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct serial_icounter_struct` of linux/serial.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SerialIcounter {
    cts: libc::c_int,
    dsr: libc::c_int,
    rng: libc::c_int,
    dcd: libc::c_int,
    rx: libc::c_int,
    tx: libc::c_int,
    frame: libc::c_int,
    overrun: libc::c_int,
    parity: libc::c_int,
    brk: libc::c_int,
    buf_overrun: libc::c_int,
    reserved: [libc::c_int; 9],
}

nix::ioctl_read_bad!(tiocgicount, libc::TIOCGICOUNT, SerialIcounter);

/// Asks the driver for its counts; never waits.
///
/// # Errors
/// ENOTTY or EINVAL where the driver keeps none, as with ptys; EIO after a hang-up.
pub fn driver_counts(port: BorrowedFd<'_>) -> Result<DriverCounts, Errno> {
    let mut counts = SerialIcounter::default();
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one structure into a live one.
    unsafe { tiocgicount(port.as_raw_fd(), &mut counts) }?;
    Ok(DriverCounts {
        received_bytes: counts.rx as u32,
        sent_bytes: counts.tx as u32,
        framing_errors: counts.frame as u32,
        parity_errors: counts.parity as u32,
        overruns: counts.overrun as u32,
        buffer_overruns: counts.buf_overrun as u32,
        breaks: counts.brk as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};
    use std::os::fd::AsFd;

    #[test]
    fn the_structure_is_that_of_the_kernel() {
        assert_eq!(size_of::<SerialIcounter>(), 80);
        assert_eq!(offset_of!(SerialIcounter, rx), 16);
        assert_eq!(offset_of!(SerialIcounter, frame), 24);
        assert_eq!(offset_of!(SerialIcounter, brk), 36);
        assert_eq!(offset_of!(SerialIcounter, buf_overrun), 40);
    }

    #[test]
    fn a_pty_keeps_no_counts() {
        let pty = nix::pty::openpty(None, None).unwrap();
        assert!(matches!(driver_counts(pty.slave.as_fd()), Err(Errno::ENOTTY | Errno::EINVAL)));
    }
}
