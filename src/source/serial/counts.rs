//! What a serial driver counted on its line: `TIOCGICOUNT` (TIOCMGET(2const) names it, `linux/serial.h` has the structure).
#![allow(unsafe_code)] // an ioctl takes a raw descriptor and a pointer; the call is one line

use nix::errno::Errno;
use serde::Serialize;
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

/// A driver's counts of one port. They start with the driver, not with the open, and wrap at 2^32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Bytes received.
    pub received_bytes: u32,
    /// Bytes sent.
    pub sent_bytes: u32,
    /// Characters without a stop bit, such as at a wrong rate.
    pub framing_errors: u32,
    /// Characters with wrong parity.
    pub parity_errors: u32,
    /// Characters lost in the chip, since nobody fetched them in time.
    pub overruns: u32,
    /// Characters lost in the kernel, since nobody read them in time.
    pub buffer_overruns: u32,
    /// Breaks.
    pub breaks: u32,
}

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

/// What drivers counted while a port was open, added up over all of its opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Characters without a stop bit, such as at a wrong rate.
    pub framing_errors: u64,
    /// Characters with wrong parity.
    pub parity_errors: u64,
    /// Characters lost in the chip, since nobody fetched them in time.
    pub overruns: u64,
    /// Characters lost in the kernel, since nobody read them in time.
    pub buffer_overruns: u64,
    /// Breaks.
    pub breaks: u64,
}

impl LineCounts {
    /// Adds what happened between two looks at a driver.
    pub fn add(&mut self, before: &DriverCounts, after: &DriverCounts) {
        let since = |before: u32, after: u32| u64::from(after.wrapping_sub(before));
        self.received_bytes += since(before.received_bytes, after.received_bytes);
        self.sent_bytes += since(before.sent_bytes, after.sent_bytes);
        self.framing_errors += since(before.framing_errors, after.framing_errors);
        self.parity_errors += since(before.parity_errors, after.parity_errors);
        self.overruns += since(before.overruns, after.overruns);
        self.buffer_overruns += since(before.buffer_overruns, after.buffer_overruns);
        self.breaks += since(before.breaks, after.breaks);
    }
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

    #[test]
    fn counts_add_up_over_opens_and_past_the_wrap() {
        let mut sum = LineCounts::default();
        let at = |received_bytes, breaks| DriverCounts { received_bytes, breaks, ..DriverCounts::default() };
        sum.add(&at(u32::MAX - 1, 7), &at(3, 8));
        sum.add(&at(0, 0), &at(10, 1));
        assert_eq!(sum, LineCounts { received_bytes: 15, breaks: 2, ..LineCounts::default() });
    }
}
