//! The connection of a machine: TCP, a PROXY header in front where there is a proxy, TLS where that is spoken.

use super::proxy::{self, ProxyVersion};
use super::socket;
use super::tls::Tls;
use nix::poll::PollFlags;
use rustls::{ClientConnection, ProtocolVersion};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// How long a server that may still refuse the machine is waited for. One that gives tickets has let it in then.
const VERDICT_NS: u64 = 1_000_000_000;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// It can be written to.
    Open,
    /// Something is to come, at the latest at this time.
    Waits(u64),
}

/// See the module. Nothing here blocks.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What is sent before all else, as it is.
    header: Vec<u8>,
    is_connected: bool,
    /// The server may refuse what it was shown until this time; none before the handshake is over.
    verdict_ns: Option<u64>,
    /// What is written is to be taken: the server's last word on who we are is waited for.
    awaits_verdict: bool,
    /// Nothing more is sent.
    is_closing: bool,
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Wire {
    /// Begins a connect. `machine`: the address that a proxy tells of is of this index. `awaits_verdict`: nothing answers what is
    /// written, so that it must not be written to a server which may still refuse the machine.
    pub(super) fn connect(
        to: SocketAddr,
        tls: Option<&Tls>,
        (proxy, machine): (Option<ProxyVersion>, usize),
        awaits_verdict: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            stream: socket::connect(to)?,
            tls: tls.map(|tls| Box::new(tls.session(to.ip()))),
            header: proxy.map(|version| proxy::header(version, machine, to)).unwrap_or_default(),
            is_connected: false,
            verdict_ns: None,
            awaits_verdict,
            is_closing: false,
        })
    }

    /// Goes on with connect, header and handshake; `until_ns`: when that is given up.
    pub(super) fn open(&mut self, now_ns: u64, until_ns: u64) -> io::Result<Opening> {
        if !self.is_connected {
            let flags = super::pty::ready(self.stream.as_fd(), PollFlags::POLLOUT);
            if flags.is_empty() {
                return self.waits(now_ns, until_ns);
            }
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.is_connected = true;
        }
        if !self.flush()? {
            return self.waits(now_ns, until_ns);
        }
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            if !self.receive()? {
                return self.waits(now_ns, until_ns);
            }
            self.flush()?;
        }
        if !self.may_be_refused() {
            return Ok(Opening::Open);
        }
        let verdict_ns = *self.verdict_ns.get_or_insert(now_ns + VERDICT_NS);
        while self.may_be_refused() && now_ns < verdict_ns {
            if !self.receive()? {
                return Ok(Opening::Waits(verdict_ns));
            }
        }
        Ok(Opening::Open)
    }

    fn waits(&self, now_ns: u64, until_ns: u64) -> io::Result<Opening> {
        match now_ns < until_ns {
            true => Ok(Opening::Waits(until_ns)),
            false => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// In TLS 1.3 the machine is done before the server has looked for its certificate.
    fn may_be_refused(&self) -> bool {
        let Some(tls) = self.tls.as_ref().filter(|_| self.awaits_verdict) else { return false };
        tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) && tls.tls13_tickets_received() == 0
    }

    /// Takes bytes of TLS; `false` if there are none.
    fn receive(&mut self) -> io::Result<bool> {
        let tls = self.tls.as_mut().expect("asked by the caller");
        match tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server has closed the connection")),
            Ok(_) => {}
            Err(error) if is_later(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        match tls.process_new_packets() {
            Ok(_) => Ok(true),
            Err(error) => {
                let _ = tls.write_tls(&mut self.stream); // the alert that tells the server why
                Err(io::Error::new(ErrorKind::InvalidData, format!("TLS: {error}")))
            }
        }
    }

    /// Writes what can be written of `bytes` from `written` on; whether all of it is with the kernel.
    pub(super) fn write(&mut self, bytes: &[u8], written: &mut usize) -> io::Result<bool> {
        loop {
            if !self.flush()? {
                return Ok(false);
            }
            if *written == bytes.len() {
                return Ok(true);
            }
            let result = match &mut self.tls {
                Some(tls) => tls.writer().write(&bytes[*written..]),
                None => self.stream.write(&bytes[*written..]),
            };
            match result {
                Ok(0) => return Ok(false),
                Ok(count) => *written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_later(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the kernel what waits; whether that is all.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.header.is_empty() {
            match self.stream.write(&self.header) {
                Ok(count) => drop(self.header.drain(..count)),
                Err(error) if is_later(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if is_later(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// What the server says; 0 at its end.
    pub(super) fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(tls) = &mut self.tls else { return self.stream.read(input) };
            match tls.reader().read(input) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !self.receive()? {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Reads and forgets; whether the server has closed.
    pub(super) fn is_at_end(&mut self, input: &mut [u8]) -> bool {
        loop {
            match self.read(input) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }

    /// Nothing more is sent; repeating it does no harm.
    pub(super) fn shutdown(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|_| !self.is_closing) {
            tls.send_close_notify();
        }
        self.is_closing = true;
        if !matches!(self.flush(), Ok(false)) {
            let _ = self.stream.shutdown(Shutdown::Write); // of a connection that is gone nothing is left to end
        }
    }

    /// Whether the server's kernel has all bytes.
    pub(super) fn is_acknowledged(&self) -> bool {
        socket::is_acknowledged(&self.stream)
    }

    /// Closes with a reset.
    pub(super) fn reset(self) {
        socket::reset(self.stream);
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
