//! What sends: ptys, sockets, HTTP.

use crate::process::PATIENCE;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A pty whose slave has a stable name, as a USB adapter has below `/dev/serial/by-id`.
pub struct Pty {
    master: PtyMaster,
    link: PathBuf,
}

impl Pty {
    /// Opens one in raw mode and leads `link` to it.
    pub fn create(link: &Path) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pty");
        grantpt(&master).expect("a pty");
        unlockpt(&master).expect("a pty");
        let slave = PathBuf::from(ptsname_r(&master).expect("its name"));
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let first = open(&slave, flags, Mode::empty()).expect("its slave");
        let mut termios = tcgetattr(&first).expect("its settings");
        cfmakeraw(&mut termios);
        tcsetattr(&first, SetArg::TCSANOW, &termios).expect("its settings");
        let unfinished = link.with_extension("new");
        std::os::unix::fs::symlink(&slave, &unfinished).expect("a symlink");
        std::fs::rename(&unfinished, link).expect("a symlink");
        Self { master, link: link.to_owned() }
    }

    /// Sends records, each with its delimiter.
    pub fn send(&mut self, records: impl IntoIterator<Item = String>) {
        for record in records {
            self.master.write_all(format!("{record}\r").as_bytes()).expect("the line takes it");
        }
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).expect("the line takes it");
    }

    /// What the gateway sends to the machine, XON and XOFF; waits for it.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut ready = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("a short time");
        assert_eq!(poll(&mut ready, patience), Ok(1), "nothing was said to the machine");
        self.master.read(bytes).expect("the line")
    }
}

impl Drop for Pty {
    /// Unplugs it. The name goes first: the kernel may give the same slave to the next pty.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.link);
    }
}

/// A machine that connects and writes.
pub struct TcpMachine(pub TcpStream);

impl TcpMachine {
    pub fn connect(address: SocketAddr) -> Self {
        Self::from_ip(IpAddr::V4(Ipv4Addr::LOCALHOST), address)
    }

    /// Connects from an address of this host.
    pub fn from_ip(own: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(own, 0).into()).expect("an address of loopback");
        socket.connect(&address.into()).expect("it listens");
        let stream = TcpStream::from(socket);
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    /// Sends records, each with its delimiter, in one write.
    pub fn send(&mut self, records: impl IntoIterator<Item = String>) -> io::Result<()> {
        let bytes = records.into_iter().fold(String::new(), |bytes, record| bytes + &record + "\r");
        self.0.write_all(bytes.as_bytes())
    }
}

/// An answer of the gateway to an HTTP machine.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// A machine with one kept-alive connection.
pub struct HttpMachine {
    pub stream: BufReader<TcpStream>,
}

impl HttpMachine {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("it listens")
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The request that POSTs one record.
    pub fn request(source: &str, data: &str) -> String {
        let length = data.len();
        format!("POST /v1/records/{source} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n{data}")
    }

    pub fn send(&mut self, bytes: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_bytes())
    }

    /// Sends a record and waits for its answer.
    pub fn post(&mut self, source: &str, data: &str) -> io::Result<Answer> {
        self.send(&Self::request(source, data))?;
        self.answer()
    }

    /// The next answer; an error of kind `UnexpectedEof` at the end of the stream.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{status_line:?} is no status line"));
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        answer.body = String::from_utf8(body).expect("text");
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The stream ends here: no byte and no reset.
    #[track_caller]
    pub fn assert_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end of the stream");
        assert!(rest.is_empty(), "{:?} before the end", String::from_utf8_lossy(&rest));
    }
}
