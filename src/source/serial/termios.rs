//! The terminal calls that `nix` lacks: termios2 for any rate, exclusive mode, and flock that outlives its guard.
//!
//! References: termios(3), TCSETS2(2const), TIOCEXCL(2const), flock(2).
#![allow(unsafe_code)] // ioctls and flock take raw descriptors and pointers; each call is one line

use crate::config::{Flow, Line, Parity};
use nix::errno::Errno;
use nix::sys::termios::{ControlFlags, FlowArg, FlushArg, InputFlags, LocalFlags, tcflow, tcflush};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct termios2`: flags as in termios(3), rates as numbers.
pub type Termios2 = libc::termios2;

nix::ioctl_read_bad!(tcgets2, libc::TCGETS2, Termios2);
nix::ioctl_write_ptr_bad!(tcsets2, libc::TCSETS2, Termios2);
nix::ioctl_none_bad!(tiocexcl, libc::TIOCEXCL);
nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
nix::ioctl_read_bad!(tiocgexcl, libc::TIOCGEXCL, libc::c_int);

/// DC1 and DC3.
const XON: u8 = 0x11;
const XOFF: u8 = 0x13;

/// What a port is set to: raw, any rate, errors marked.
///
/// - Input: nothing is translated or stripped; parity errors, framing errors and breaks are marked in the stream
///   (`PARMRK | INPCK`, neither ignored nor turned into signals).
/// - Output and local modes: nothing. A read returns as soon as there is a byte (`VMIN` 1, `VTIME` 0).
/// - Modem lines do not matter (`CLOCAL`), and the receiver is on (`CREAD`).
/// - With RTS/CTS the last close drops RTS and DTR (`HUPCL`), so that a machine waits while no gateway listens. Without
///   it nobody watches those lines but adapters that reset their machine when DTR falls, so they are left alone.
pub fn settings_for(line: &Line, flow: Flow) -> Termios2 {
    let mut input = InputFlags::INPCK | InputFlags::PARMRK;
    let mut control = ControlFlags::CREAD | ControlFlags::CLOCAL;
    control |= match line.data_bits {
        5 => ControlFlags::CS5,
        6 => ControlFlags::CS6,
        7 => ControlFlags::CS7,
        _ => ControlFlags::CS8,
    };
    control |= match line.parity {
        Parity::None => ControlFlags::empty(),
        Parity::Even => ControlFlags::PARENB,
        Parity::Odd => ControlFlags::PARENB | ControlFlags::PARODD,
    };
    control.set(ControlFlags::CSTOPB, line.stop_bits == 2);
    match flow {
        Flow::None => {}
        Flow::RtsCts => control |= ControlFlags::CRTSCTS | ControlFlags::HUPCL,
        Flow::XonXoff => input |= InputFlags::IXON | InputFlags::IXOFF,
    }
    let mut characters = [0; 19];
    characters[libc::VMIN] = 1;
    characters[libc::VTIME] = 0;
    characters[libc::VSTART] = XON;
    characters[libc::VSTOP] = XOFF;
    Termios2 {
        c_iflag: input.bits(),
        c_oflag: 0,
        c_cflag: control.bits() | libc::BOTHER,
        c_lflag: 0,
        c_line: 0, // N_TTY
        c_cc: characters,
        c_ispeed: line.baud,
        c_ospeed: line.baud,
    }
}

/// What the device did otherwise than asked, in words; empty if nothing. A rate within 2 % is as asked.
pub fn refused(asked: &Termios2, got: &Termios2) -> Vec<String> {
    let mut notes = Vec::new();
    let differs = |mask: ControlFlags| (asked.c_cflag ^ got.c_cflag) & mask.bits() != 0;
    if asked.c_ospeed.abs_diff(got.c_ospeed) > asked.c_ospeed / 50 {
        notes.push(format!("{} baud asked, {} set", asked.c_ospeed, got.c_ospeed));
    }
    for (mask, what) in [
        (ControlFlags::CSIZE, "the number of data bits"),
        (ControlFlags::PARENB | ControlFlags::PARODD, "the parity"),
        (ControlFlags::CSTOPB, "the number of stop bits"),
        (ControlFlags::CRTSCTS, "RTS/CTS flow control"),
    ] {
        if differs(mask) {
            notes.push(format!("{what} was refused"));
        }
    }
    let marks = InputFlags::PARMRK | InputFlags::INPCK;
    if (asked.c_iflag ^ got.c_iflag) & marks.bits() != 0 {
        notes.push("marks for line errors were refused".to_owned());
    }
    notes
}

/// Whether bytes that came under the settings `before` are other bytes than they are under those of `now`: translated, swallowed,
/// or, on a line with a rate and a character format (which a pty has not), read wrongly.
pub fn changes_bytes(before: &Termios2, now: &Termios2, is_line: bool) -> bool {
    let translates = InputFlags::ISTRIP
        | InputFlags::INLCR
        | InputFlags::IGNCR
        | InputFlags::ICRNL
        | InputFlags::IUCLC
        | InputFlags::IXON; // swallows XON and XOFF
    let edits = LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN;
    let format = ControlFlags::CSIZE | ControlFlags::PARENB | ControlFlags::PARODD;
    let reads_otherwise = before.c_ospeed != now.c_ospeed || (before.c_cflag ^ now.c_cflag) & format.bits() != 0;
    before.c_iflag & !now.c_iflag & translates.bits() != 0
        || before.c_lflag & edits.bits() != 0
        || is_line && reads_otherwise
}

/// Throws away what was received and not read (`TCIFLUSH`), and tells how many bytes that was. What a driver has not handed
/// to the tty yet is not touched: it is read under the settings of now.
pub fn discard_input(port: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one int into a live int.
    unsafe { fionread(port.as_raw_fd(), &mut bytes) }?;
    tcflush(port, FlushArg::TCIFLUSH)?;
    Ok(bytes as usize)
}

/// Sends XOFF (`hold`) or XON at once, past all output that waits (tcflow(3): `TCIOFF`, `TCION`). Does not wait: the driver has
/// a place of its own for that byte, or takes it as output.
///
/// # Errors
/// EIO after a hang-up.
pub fn hold_line(port: BorrowedFd<'_>, hold: bool) -> Result<(), Errno> {
    tcflow(port, if hold { FlowArg::TCIOFF } else { FlowArg::TCION })
}

/// The port's settings (`TCGETS2`).
pub fn read_settings(port: BorrowedFd<'_>) -> Result<Termios2, Errno> {
    let mut settings = settings_for(&Line { baud: 0, data_bits: 8, parity: Parity::None, stop_bits: 1 }, Flow::None);
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one termios2 into a live termios2.
    unsafe { tcgets2(port.as_raw_fd(), &mut settings) }?;
    Ok(settings)
}

/// Sets the port (`TCSETS2`): at once, without a wait for output and without a flush of input.
pub fn write_settings(port: BorrowedFd<'_>, settings: &Termios2) -> Result<(), Errno> {
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads one termios2 from a live termios2.
    unsafe { tcsets2(port.as_raw_fd(), settings) }.map(drop)
}

/// Keeps others from opening the port (`TIOCEXCL`); processes with CAP_SYS_ADMIN are not kept out.
pub fn set_exclusive(port: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the descriptor is open while it is borrowed, and the call has no argument.
    unsafe { tiocexcl(port.as_raw_fd()) }.map(drop)
}

/// Whether somebody made the port exclusive (`TIOCGEXCL`).
pub fn is_exclusive(port: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut exclusive = 0;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one int into a live int.
    unsafe { tiocgexcl(port.as_raw_fd(), &mut exclusive) }?;
    Ok(exclusive != 0)
}

/// Locks the open file (`LOCK_EX | LOCK_NB`) until its last descriptor is closed: `nix`'s guard would unlock it when the
/// descriptor is handed on. EWOULDBLOCK: another open file holds the lock.
pub fn lock(port: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the descriptor is open while it is borrowed; flock touches no memory of ours.
    Errno::result(unsafe { libc::flock(port.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(baud: u32, data_bits: u8, parity: Parity, stop_bits: u8) -> Line {
        Line { baud, data_bits, parity, stop_bits }
    }

    #[test]
    fn each_character_format_has_its_bits_in_the_argument_of_the_ioctl() {
        // The numbers of asm-generic/termbits.h, in octal as they stand there.
        for (data_bits, size) in [(5, 0o0), (6, 0o20), (7, 0o40), (8, 0o60)] {
            for (parity, parity_bits) in [(Parity::None, 0), (Parity::Even, 0o400), (Parity::Odd, 0o1400)] {
                for (stop_bits, stop) in [(1, 0), (2, 0o100)] {
                    let settings = settings_for(&line(9600, data_bits, parity, stop_bits), Flow::None);
                    let (cread, clocal, bother) = (0o200, 0o4000, 0o10000);
                    assert_eq!(settings.c_cflag, size | parity_bits | stop | cread | clocal | bother);
                }
            }
        }
    }

    #[test]
    fn odd_rates_are_passed_as_numbers() {
        for baud in [50, 1_234, 9_600, 31_250, 74_880, 250_000, 12_000_000] {
            let settings = settings_for(&line(baud, 8, Parity::None, 1), Flow::None);
            assert_eq!((settings.c_ispeed, settings.c_ospeed), (baud, baud));
            assert_eq!(settings.c_cflag & libc::CBAUD, libc::BOTHER);
        }
    }

    #[test]
    fn input_is_raw_and_errors_are_marked() {
        let settings = settings_for(&line(9600, 7, Parity::Even, 1), Flow::None);
        let (inpck, parmrk) = (0o20, 0o10);
        assert_eq!(settings.c_iflag, inpck | parmrk);
        assert_eq!((settings.c_oflag, settings.c_lflag), (0, 0));
        assert_eq!((settings.c_cc[libc::VMIN], settings.c_cc[libc::VTIME]), (1, 0));
    }

    #[test]
    fn flow_control_has_its_bits() {
        let none = settings_for(&line(9600, 8, Parity::None, 1), Flow::None);
        let wires = settings_for(&line(9600, 8, Parity::None, 1), Flow::RtsCts);
        let (crtscts, hupcl) = (0o20_000_000_000, 0o2000);
        assert_eq!(wires.c_cflag, none.c_cflag | crtscts | hupcl);
        assert_eq!(wires.c_iflag, none.c_iflag);
        let bytes = settings_for(&line(9600, 8, Parity::None, 1), Flow::XonXoff);
        let (ixon, ixoff) = (0o2000, 0o10000);
        assert_eq!(bytes.c_iflag, none.c_iflag | ixon | ixoff);
        assert_eq!(bytes.c_cflag, none.c_cflag);
        assert_eq!((bytes.c_cc[libc::VSTART], bytes.c_cc[libc::VSTOP]), (0x11, 0x13));
    }

    #[test]
    fn bytes_of_a_terminal_or_of_another_rate_are_not_those_of_the_machine() {
        let asked = settings_for(&line(19_200, 8, Parity::None, 1), Flow::None);
        let changed = |change: fn(&mut Termios2)| {
            let mut before = asked;
            change(&mut before);
            [true, false].map(|is_line| changes_bytes(&before, &asked, is_line))
        };
        assert_eq!(changed(|_| {}), [false, false]);
        assert_eq!(changed(|before| before.c_iflag = 0), [false, false], "raw as cfmakeraw makes it");
        assert_eq!(changed(|before| before.c_cflag |= ControlFlags::CSTOPB.bits()), [false, false]);
        assert_eq!(changed(|before| before.c_iflag |= InputFlags::ICRNL.bits()), [true, true]);
        assert_eq!(changed(|before| before.c_lflag |= LocalFlags::ICANON.bits()), [true, true]);
        assert_eq!(changed(|before| before.c_ospeed = 9_600), [true, false]);
        assert_eq!(changed(|before| before.c_cflag |= ControlFlags::PARENB.bits()), [true, false]);
        let with_xon = settings_for(&line(19_200, 8, Parity::None, 1), Flow::XonXoff);
        assert!(changes_bytes(&with_xon, &asked, false) && !changes_bytes(&with_xon, &with_xon, false));
    }

    #[test]
    fn what_a_device_refused_is_said() {
        let asked = settings_for(&line(9600, 7, Parity::Even, 2), Flow::RtsCts);
        assert_eq!(refused(&asked, &asked), [""; 0]);
        let mut got = settings_for(&line(9700, 8, Parity::None, 1), Flow::None);
        got.c_iflag = 0;
        let notes = refused(&asked, &got);
        assert_eq!(notes.len(), 5, "{notes:?}"); // the rate is near enough
        got.c_ospeed = 19_200;
        assert_eq!(refused(&asked, &got)[0], "9600 baud asked, 19200 set");
    }
}
