//! Outgoing TCP connections: resolved by the control thread, connected by the core's runtime, then handed to the data ring.

use super::control::Request;
use super::listen::prepare;
use crate::config::Authority;
use crate::shard::{ConnectAttempt, ConnectError};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Connects to one of the addresses of `to`, trying each for at most `limit`.
///
/// # Errors
/// Host, address and reason of each attempt.
pub(super) async fn connect(
    to: Authority,
    limit: Duration,
    control: mpsc::UnboundedSender<Request>,
) -> Result<OwnedFd, ConnectError> {
    let addresses = match timeout(limit, resolve(to.clone(), control)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(ConnectError::Unresolved { to: shown(&to), reason: error.to_string() }),
        Err(_) => return Err(ConnectError::NameLate { to: shown(&to), within: limit }),
    };
    let mut attempts = Vec::new();
    for address in addresses {
        let reason = match timeout(limit, connect_to(address)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        attempts.push(ConnectAttempt { address, reason });
    }
    Err(match attempts.is_empty() {
        true => ConnectError::NoAddress { to: shown(&to) },
        false => ConnectError::Unreachable { attempts },
    })
}

/// As in a URL: an IPv6 address is in brackets.
fn shown(to: &Authority) -> String {
    if to.host.contains(':') { format!("[{}]:{}", to.host, to.port) } else { format!("{}:{}", to.host, to.port) }
}

async fn resolve(to: Authority, control: mpsc::UnboundedSender<Request>) -> io::Result<Vec<SocketAddr>> {
    // An address needs no thread change.
    if let Ok(address) = to.host.parse() {
        return Ok(vec![SocketAddr::new(address, to.port)]);
    }
    let (answer, answered) = oneshot::channel();
    let ended = || io::Error::other("the gateway is stopping");
    control.send(Request::Resolve { authority: to, answer }).map_err(|_| ended())?;
    answered.await.map_err(|_| ended())?
}

async fn connect_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&SockRef::from(&socket))?;
    let stream = socket.connect(address).await?;
    Ok(OwnedFd::from(stream.into_std()?))
}
