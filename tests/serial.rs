//! Serial ports on real ptys, and what `ringest doctor` says of them and of the machine.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::unistd::{Uid, setfsuid, ttyname};
use ringest::config::{Flow, Line, OnLineError, OnMissing, Parity, Serial};
use ringest::source::serial::PortError;
use ringest::source::serial::{self, Parmrk, Watch};
use std::fs::{self, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "e2e/forbid.rs"]
mod forbid;

fn settings(path: &Path) -> Serial {
    Serial {
        path: path.to_owned(),
        line: Line { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 },
        flow: Flow::None,
        on_missing: OnMissing::Wait,
        on_line_error: OnLineError::Deliver,
    }
}

/// A machine: the master's side of a pty, and where its port is.
struct Machine {
    master: OwnedFd,
    path: PathBuf,
}

fn machine() -> Machine {
    let pty = openpty(None, None).expect("a pty");
    let path = ttyname(&pty.slave).expect("its name");
    Machine { master: pty.master, path }
}

/// Reads until `bytes` have come, or the end of the stream; at most 5 s between two reads.
fn read(port: &OwnedFd, bytes: usize) -> Result<Vec<u8>, nix::Error> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let mut ready = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(5_000u16)), Ok(1), "{} of {bytes} bytes came", all.len());
        let mut buffer = [0; 4096];
        match nix::unistd::read(port, &mut buffer)? {
            0 => break,
            read => all.extend(&buffer[..read]),
        }
    }
    Ok(all)
}

fn write(machine: &Machine, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = nix::unistd::write(&machine.master, bytes).expect("the machine writes");
        bytes = &bytes[written..];
    }
}

#[test]
fn every_byte_value_passes_through_an_open_port() {
    let machine = machine();
    let port = serial::open(&settings(&machine.path)).unwrap().port;
    let sent: Vec<u8> = (0..=255).chain((0..=255).rev()).chain([0xFF, 0xFF, 0, 0xFF]).collect();
    write(&machine, &sent);
    let doubled = sent.iter().filter(|&&byte| byte == 0xFF).count();
    let mut line = read(&port, sent.len() + doubled).unwrap();
    let decoded = Parmrk::new().decode(&mut line);
    assert_eq!((decoded.breaks, decoded.errors), (0, 0));
    assert_eq!(&line[..decoded.len], sent);
}

#[test]
fn nothing_is_echoed_to_the_machine() {
    let machine = machine();
    let port = serial::open(&settings(&machine.path)).unwrap().port;
    write(&machine, b"12.5\r");
    assert_eq!(read(&port, 5).unwrap(), b"12.5\r");
    let mut ready = [PollFd::new(machine.master.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::ZERO), Ok(0));
}

#[test]
fn bytes_that_wait_in_the_port_are_not_flushed() {
    let machine = machine();
    drop(serial::open(&settings(&machine.path)).unwrap()); // leaves the pty raw
    let keep = serial::open(&settings(&machine.path)).unwrap().port;
    write(&machine, b"waiting\r");
    drop(keep);
    let port = serial::open(&settings(&machine.path)).unwrap().port;
    assert_eq!(read(&port, 8).unwrap(), b"waiting\r");
}

#[test]
fn bytes_that_came_while_the_port_was_a_terminal_are_no_record() {
    let machine = machine(); // a new pty translates CR to LF
    write(&machine, b"one\rtwo\r");
    let port = serial::open(&settings(&machine.path)).unwrap().port;
    write(&machine, b"three\r");
    assert_eq!(read(&port, 6).unwrap(), b"three\r");
}

#[test]
fn the_port_has_the_settings_that_were_asked() {
    let machine = machine();
    let mut settings = settings(&machine.path);
    settings.line = Line { baud: 31_250, data_bits: 8, parity: Parity::None, stop_bits: 2 };
    settings.flow = Flow::XonXoff;
    let port = serial::open(&settings).unwrap().port;
    let asked = serial::settings_for(&settings.line, settings.flow);
    let got = serial::read_settings(port.as_fd()).unwrap();
    assert_eq!((got.c_ispeed, got.c_ospeed), (31_250, 31_250));
    assert_eq!((got.c_iflag, got.c_oflag, got.c_lflag), (asked.c_iflag, 0, 0));
    assert_eq!(got.c_cflag, asked.c_cflag);
    assert_eq!((got.c_cc[libc::VMIN], got.c_cc[libc::VTIME]), (1, 0));
}

#[test]
fn a_busy_port_is_tried_for_two_seconds_and_names_its_holder() {
    let machine = machine();
    let held = serial::open(&settings(&machine.path)).unwrap().port;
    let started = Instant::now();
    let error = serial::open(&settings(&machine.path)).unwrap_err();
    let waited = started.elapsed();
    assert!(waited >= serial::BUSY_WAIT && waited < serial::BUSY_WAIT * 3, "{waited:?}");
    let PortError::Busy { holder: Some(holder) } = &error else { panic!("{error:?}") };
    assert!(holder.contains(&format!("PID {}", std::process::id())), "{holder}");

    // Another process holds it: the lock goes with the open file.
    let mut sleep = Command::new("sleep").arg("60").stdin(Stdio::from(held)).spawn().expect("sleep(1)");
    let error = serial::open(&settings(&machine.path)).unwrap_err();
    sleep.kill().unwrap();
    let pid = sleep.id();
    sleep.wait().unwrap();
    assert_eq!(error, PortError::Busy { holder: Some(format!("sleep (PID {pid})")) });
    assert_eq!(error.to_string(), format!("the port is in use by sleep (PID {pid})"));
    serial::open(&settings(&machine.path)).expect("free again");
}

#[test]
fn a_port_that_is_released_meanwhile_opens() {
    let machine = machine();
    let held = serial::open(&settings(&machine.path)).unwrap().port;
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(held);
    });
    let started = Instant::now();
    serial::open(&settings(&machine.path)).unwrap();
    assert!(started.elapsed() < serial::BUSY_WAIT);
    release.join().unwrap();
}

#[test]
fn a_busy_ports_settings_are_not_touched() {
    let machine = machine();
    let held = serial::open(&settings(&machine.path)).unwrap().port;
    let mut other = settings(&machine.path);
    other.line.baud = 300;
    serial::open(&other).unwrap_err();
    assert_eq!(serial::read_settings(held.as_fd()).unwrap().c_ospeed, 9600);
}

#[test]
fn a_hang_up_ends_the_stream() {
    let machine = machine();
    let port = serial::open(&settings(&machine.path)).unwrap().port;
    drop(machine.master);
    match read(&port, 1) {
        Ok(bytes) => assert!(bytes.is_empty()),
        Err(errno) => assert_eq!(errno, nix::Error::EIO),
    }
}

#[test]
fn a_port_that_comes_back_under_another_name_is_found_through_its_link() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("scale");
    let (first, second) = (machine(), machine());
    assert_ne!(first.path, second.path);
    symlink(&first.path, &link).unwrap();
    let port = serial::open(&settings(&link)).unwrap().port;
    write(&first, b"one\r");
    assert_eq!(read(&port, 4).unwrap(), b"one\r");
    drop(first);
    drop(port);
    fs::remove_file(&link).unwrap();
    assert_eq!(serial::open(&settings(&link)).unwrap_err(), PortError::Missing);
    symlink(&second.path, &link).unwrap();
    let port = serial::open(&settings(&link)).unwrap().port;
    write(&second, b"two\r");
    assert_eq!(read(&port, 4).unwrap(), b"two\r");
}

#[test]
fn what_is_no_serial_port_is_said_to_be_none() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [Path::new("/dev/null"), file.path(), Path::new("/tmp")] {
        let error = serial::open(&settings(path)).unwrap_err();
        assert!(matches!(&error, PortError::NoTty { .. }) && error.to_string().contains("not a tty"), "{error:?}");
    }
    let inside = file.path().join("port");
    assert_eq!(serial::open(&settings(&inside)).unwrap_err(), PortError::Missing);
}

#[test]
fn a_forbidden_port_says_what_to_do() {
    let machine = machine();
    fs::set_permissions(&machine.path, Permissions::from_mode(0o000)).unwrap();
    // Root may open everything; the file system's user is a property of the thread (setfsuid(2)).
    let error = std::thread::spawn(move || {
        setfsuid(Uid::from_raw(65_534));
        serial::open(&settings(&machine.path)).unwrap_err()
    });
    let error = error.join().unwrap();
    let PortError::Permission { remedy } = &error else { panic!("{error:?}") };
    assert!(remedy.contains("mode 000") && remedy.contains("usermod -aG"), "{remedy}");
}

#[tokio::test]
async fn a_watch_wakes_when_a_link_to_a_port_appears() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("by-id/scale");
    let machine = machine();
    let mut watch = Watch::new().unwrap();
    watch.add(&link).unwrap();
    assert_eq!(serial::open(&settings(&link)).unwrap_err(), PortError::Missing);
    let mut watch = watch.into_async().unwrap();

    fs::create_dir(directory.path().join("by-id")).unwrap();
    symlink(&machine.path, &link).unwrap();
    let woken = async {
        loop {
            let mut guard = watch.readable_mut().await.unwrap();
            let changed = guard.get_inner_mut().changed().unwrap();
            guard.clear_ready();
            if !changed.is_empty() {
                return changed;
            }
        }
    };
    let changed = tokio::time::timeout(Duration::from_secs(5), woken).await.expect("the watch wakes");
    assert_eq!(changed, std::slice::from_ref(&link));
    serial::open(&settings(&link)).unwrap();
}

const RINGEST: &str = env!("CARGO_BIN_EXE_ringest");

/// Exit code, standard output and standard error of a command.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} must be installed: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_doctor_finds_a_usable_port_and_leaves_no_trace() {
    let machine = machine();
    let state = tempfile::tempdir().unwrap();
    let mut doctor = Command::new(RINGEST);
    doctor.args(["doctor", "--json", "--port"]).arg(&machine.path).arg("--state-dir").arg(state.path());
    let (code, out, err) = outcome(&mut doctor);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["ok"], true);
    let port = machine.path.to_str().unwrap();
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"] == port).expect("the port is in the report");
    assert_eq!((check["level"].as_str(), check["found"].as_str()), (Some("ok"), Some("may be opened")));
    assert_eq!(document["report"]["state_directory"]["exists"], true);
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);

    let held = serial::open(&settings(&machine.path)).unwrap().port;
    let (code, out, _) = outcome(&mut doctor);
    assert_eq!(code, Some(0));
    assert!(out.contains("in use by ") && out.contains(&format!("(PID {})", std::process::id())), "{out}");
    drop(held);
}

#[test]
fn the_doctor_reports_a_missing_port_by_its_exit_code() {
    let (code, out, err) = outcome(Command::new(RINGEST).args(["doctor", "--port", "/dev/no-such-port"]));
    assert_eq!(code, Some(8), "{out}");
    assert!(out.contains("problem  /dev/no-such-port") && !out.contains('\x1b'), "{out}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn a_refused_io_uring_is_one_clear_line_and_exit_code_4() {
    for (errno, words) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "CONFIG_IO_URING"), (libc::EINVAL, "6.1 or newer")]
    {
        // In a thread of its own, which takes the sandbox with it.
        let run = move || {
            forbid::io_uring_setup(errno);
            outcome(Command::new(RINGEST).arg("doctor"))
        };
        let (code, out, err) = std::thread::spawn(run).join().unwrap();
        assert_eq!(code, Some(4), "{out}{err}");
        assert!(out.contains("problem  io_uring"), "{out}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.starts_with("ringest: ") && err.contains(words), "{err}");
    }
}
