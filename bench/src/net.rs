//! Sockets of the bench: blocking set-up, then handed to a ring.
#![allow(unsafe_code)] // raw descriptors

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::time::{Duration, Instant};

const BACKLOG: i32 = 16_384;
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);

/// Listens; the descriptor stays open until the process ends. It waits for one that has just ended: a
/// ring gives its sockets back some time later.
pub fn listen(address: SocketAddr) -> io::Result<RawFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let deadline = Instant::now() + LISTEN_PATIENCE;
    while let Err(error) = socket.bind(&SockAddr::from(address)) {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into_raw_fd())
}

/// Connects, without Nagle's delay; tries again while nobody listens yet.
pub fn connect(address: SocketAddr) -> io::Result<RawFd> {
    let deadline = Instant::now() + CONNECT_PATIENCE;
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        match socket.connect(&SockAddr::from(address)) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket.into_raw_fd());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Switches immediate acknowledgements off; the kernel may set them back (tcp(7), TCP_QUICKACK).
pub fn delay_acks(socket: RawFd) -> io::Result<()> {
    // SAFETY: open, and only borrowed for the call.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    SockRef::from(&socket).set_tcp_quickack(false)
}
