//! Serial ports, on ptys.

use crate::harness::{CLOSED, LINK, PATIENCE, Remote, pattern, settings, setup};
use ringest::config::{Flow, Line, OnLineError, OnMissing, Parity, Serial, SourceKind};
use ringest::shard::{Op, Readable, SourceId};
use ringest::source::serial::PortError;
use std::io::Write;
use std::path::{Path, PathBuf};

pub struct Pty {
    pub master: std::fs::File,
    pub path: PathBuf,
}

impl Pty {
    pub fn open() -> Self {
        use nix::fcntl::OFlag;
        let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pty");
        nix::pty::grantpt(&master).expect("granted");
        nix::pty::unlockpt(&master).expect("unlocked");
        let path = nix::pty::ptsname_r(&master).expect("named").into();
        let master = std::os::fd::AsFd::as_fd(&master).try_clone_to_owned().expect("duplicated").into();
        Self { master, path }
    }
}

fn serial(path: &Path) -> SourceKind {
    SourceKind::Serial(Serial {
        path: path.to_owned(),
        line: Line { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 },
        flow: Flow::None,
        on_missing: OnMissing::Wait,
        on_line_error: OnLineError::Deliver,
    })
}

fn open_port() -> Op {
    Op::OpenPort { link: LINK, source: SourceId(0) }
}

#[test]
fn a_pty_is_read_to_its_hang_up_and_closed_by_multishot_and_by_single_reads() {
    for read_multishot in [true, false] {
        let mut pty = Pty::open();
        let mut setup = setup(settings(vec![serial(&pty.path)]), Vec::new());
        setup.read_multishot = read_multishot;
        setup.ring.read_buffers = 4;
        setup.ring.read_buffer_bytes = 128;
        let remote = Remote::start(setup, Vec::new());
        remote.ask(open_port());
        assert_eq!(remote.next(), "opened 3.7");
        let fd = remote.fd();
        remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Tty, older: Vec::new() });
        // Without 0xff, which the line discipline doubles.
        let sent: Vec<u8> = pattern(5, 200_000).iter().map(|byte| byte & 0x7f).collect();
        pty.master.write_all(&sent).expect("written");
        let mut received = Vec::new();
        while received.len() < sent.len() {
            received.extend(remote.bytes.recv_timeout(PATIENCE).expect("bytes come"));
        }
        assert!(received == sent);
        drop(pty);
        let ended = remote.next_event();
        assert!(ended.ends_with("end: Closed }") || ended.ends_with("end: Error(5) }"), "{ended}");
        remote.ask(Op::Close { link: LINK, fd: Some(fd) });
        assert_eq!(remote.next(), CLOSED);
        remote.running.stop();
    }
}

#[test]
fn a_quiet_pty_is_closed_and_opened_again() {
    let mut pty = Pty::open();
    let remote = Remote::start(setup(settings(vec![serial(&pty.path)]), Vec::new()), Vec::new());
    for _ in 0..3 {
        remote.ask(open_port());
        assert_eq!(remote.next(), "opened 3.7");
        let fd = remote.fd();
        remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Tty, older: Vec::new() });
        pty.master.write_all(b"one\r").expect("written");
        assert_eq!(remote.next(), "received 3.7");
        remote.ask(Op::Close { link: LINK, fd: Some(fd) });
        assert_eq!(remote.next(), CLOSED);
    }
    // A close before the port was opened.
    remote.ask(open_port());
    remote.ask(Op::Close { link: LINK, fd: None });
    assert_eq!(remote.next(), CLOSED);
    remote.silence();
    remote.running.stop();
}

#[test]
fn a_missing_port_is_told_when_it_appears() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("port");
    let remote = Remote::start(setup(settings(vec![serial(&path)]), Vec::new()), Vec::new());
    remote.ask(open_port());
    assert_eq!(remote.next(), format!("PortOpened {{ link: {LINK:?}, result: Err({:?}) }}", PortError::Missing));
    remote.silence();
    let pty = Pty::open();
    std::os::unix::fs::symlink(&pty.path, &path).expect("linked");
    assert_eq!(remote.next(), "PortAppeared { source: SourceId(0) }");
    remote.ask(open_port());
    assert_eq!(remote.next_event(), "opened 3.7");
    remote.running.stop();
}
