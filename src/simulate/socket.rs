//! What the simulator asks of a TCP socket beyond the standard library.
#![allow(unsafe_code)] // one ioctl without a safe wrapper: SIOCOUTQ

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);

/// Starts a connect that does not block; the socket becomes writable when it is done.
pub(super) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from(OwnedFd::from(socket))),
    }
}

/// Whether the peer's kernel has all bytes (SIOCOUTQ is 0, tcp(7)): a reset after that loses none of them on Linux, which
/// keeps a receive queue readable.
pub(super) fn is_acknowledged(stream: &TcpStream) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes one int, which lives until the call returns; the descriptor is open, since `stream` owns it.
    let result = unsafe { siocoutq(stream.as_raw_fd(), &mut bytes) };
    result.is_err() || bytes == 0
}

/// Closes with a reset.
pub(super) fn reset(stream: TcpStream) {
    // Should it fail, the close is an orderly one.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
