//! Listeners: one socket a core for each listening source.

use super::occupant::occupants;
use crate::config::{LaneKey, Settings, Source, SourceKind, Tcp};
use crate::shard::{LISTEN_BACKLOG, SourceId};
use crate::source::serial::holder_words;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a busy address is tried again: a process that was just killed can hold it for a moment.
const RETRY: Duration = Duration::from_secs(2);

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("{what}: {address} is already in use{}", holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    Busy {
        /// The source, or the admin server.
        what: String,
        /// Its address.
        address: SocketAddr,
        /// Names and PIDs of those who listen there, where they can be seen.
        holder: Option<String>,
    },
    /// Not allowed, such as a port below 1024 without the right to it.
    #[error(
        "{what}: no permission to listen on {address}: {error}: a port below 1024 needs CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit)"
    )]
    Permission {
        /// The source, or the admin server.
        what: String,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Anything else.
    #[error("{what}: cannot listen on {address}: {error}")]
    Other {
        /// The source, or the admin server.
        what: String,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

impl ListenError {
    fn new(what: String, address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => Self::Busy { what, address, holder: holder_words(&occupants(address).holders) },
            ErrorKind::PermissionDenied => Self::Permission { what, address, error },
            _ => Self::Other { what, address, error },
        }
    }
}

/// The listeners of one core.
pub type Listeners = Vec<(SourceId, OwnedFd)>;

/// Binds every listening source once for each of `cores` cores, by SO_REUSEPORT; before that once without it, so that a
/// port in use is noticed. Port 0 lets the kernel choose, the same for all cores.
///
/// Where an address is a lane, the first core accepts for all and hands over: two cores that accept would hand two connections of
/// one address to its owner in any order, and with them the records of a machine that connects anew for each.
///
/// # Errors
/// [`ListenError`]; an address in use is tried for 2 s.
pub fn bind_all(settings: &Settings, cores: usize) -> Result<Vec<Listeners>, ListenError> {
    let mut listeners: Vec<Listeners> = (0..cores).map(|_| Vec::new()).collect();
    for (index, source) in settings.sources.iter().enumerate() {
        for (core, socket) in listeners.iter_mut().zip(bind_source(source, cores, false)?) {
            core.push((SourceId(index as u16), socket));
        }
    }
    Ok(listeners)
}

/// Where a source listens, and on how many of `cores` cores.
pub(super) fn listens(source: &Source, cores: usize) -> Option<(SocketAddr, usize)> {
    match source.kind {
        SourceKind::TcpListen { listen, lane: LaneKey::Address, .. } => Some((listen, 1)),
        SourceKind::TcpListen { listen, .. } | SourceKind::Http { listen, .. } => Some((listen, cores)),
        SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => None,
    }
}

/// The sockets of one source, for the first cores; none for one that does not listen. `beside`: another source of this process
/// still listens there.
///
/// # Errors
/// Those of [`bind_all`].
pub(super) fn bind_source(source: &Source, cores: usize, beside: bool) -> Result<Vec<OwnedFd>, ListenError> {
    let Some((address, count)) = listens(source, cores) else { return Ok(Vec::new()) };
    let bound =
        if beside { share(&address.into(), (address, count), &source.tcp) } else { bind(address, count, &source.tcp) };
    bound.map_err(|error| ListenError::new(format!("source {}", source.name), address, error))
}

/// Binds the admin server's address, for tokio.
///
/// # Errors
/// [`ListenError`]; an address in use is tried for 2 s.
pub(super) fn bind_admin(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = bind_alone(address).and_then(|socket| {
        socket.listen(LISTEN_BACKLOG as i32)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    });
    bound.map_err(|error| ListenError::new("the admin server".to_owned(), address, error))
}

/// `count` sockets that listen on one address.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
fn bind(address: SocketAddr, count: usize, tcp: &Tcp) -> io::Result<Vec<OwnedFd>> {
    let alone = bind_alone(address)?;
    let bound = alone.local_addr()?;
    drop(alone);
    share(&bound, (address, count), tcp)
}

/// `count` sockets that listen at `bound`, beside others of this user that allow it.
fn share(bound: &SockAddr, (address, count): (SocketAddr, usize), tcp: &Tcp) -> io::Result<Vec<OwnedFd>> {
    let listen = |_| {
        let socket = socket(address)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(bound)?;
        // Accepted connections inherit these.
        prepare(&SockRef::from(&socket), tcp)?;
        socket.listen(LISTEN_BACKLOG as i32)?;
        Ok(OwnedFd::from(socket))
    };
    (0..count).map(listen).collect()
}

/// A bound socket that shares its address with no other. It does not listen: whoever connected to it would be reset when it is
/// dropped for those that stay. Beside one that listens bind(2) fails all the same.
fn bind_alone(address: SocketAddr) -> io::Result<Socket> {
    let deadline = Instant::now() + RETRY;
    loop {
        let socket = socket(address)?;
        // Past the connections of an earlier process in TIME_WAIT, but not past a listener.
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` is every address of both families, whatever the system's default is; another IPv6 address is itself.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Sets what every connection has: no delay of small sends, keepalive, an end of waiting for a silent peer. Urgent bytes are bytes of the
/// stream (RFC 6093, section 6), and the kernel's count of what it has received is one of what can be read.
///
/// # Errors
/// Those of setsockopt(2).
pub(super) fn prepare(socket: &SockRef<'_>, tcp: &Tcp) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    watch_over(socket, tcp)
}

/// Sets when a peer that does not answer is gone. The user timeout counts where it is set, and not how many probes were lost (tcp(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub(super) fn watch_over(socket: &SockRef<'_>, tcp: &Tcp) -> io::Result<()> {
    let probes =
        TcpKeepalive::new().with_time(tcp.keepalive).with_interval(tcp.probe_interval()).with_retries(Tcp::PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(tcp.user_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn all_cores_share_one_port_and_accepted_connections_inherit_the_options() {
        let (keepalive, user_timeout) = (Duration::from_secs(100), Duration::from_millis(2_500));
        let tcp = Tcp { keepalive, user_timeout, idle: None };
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3, &tcp).expect("bound");
        let listeners: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
        let address = listeners[0].local_addr().expect("bound");
        assert!(listeners.iter().all(|listener| listener.local_addr().expect("bound") == address));
        let (sender, receiver) = std::sync::mpsc::channel();
        for listener in listeners {
            let sender = sender.clone();
            std::thread::spawn(move || sender.send(listener.accept()));
        }
        let _client = TcpStream::connect(address).expect("connected");
        let (accepted, _) = receiver.recv().expect("one of them accepts").expect("accepted");
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().expect("readable") && accepted.keepalive().expect("readable"));
        assert_eq!(accepted.tcp_user_timeout().expect("readable"), Some(user_timeout));
        assert_eq!(accepted.tcp_keepalive_time().expect("readable"), keepalive);
        assert_eq!(accepted.tcp_keepalive_interval().expect("readable"), Duration::from_secs(33));
        assert_eq!(accepted.tcp_keepalive_retries().expect("readable"), 3);
        watch_over(&accepted, &Tcp::default()).expect("set anew");
        assert_eq!(accepted.tcp_keepalive_interval().expect("readable"), Duration::from_secs(10));
    }

    /// The end is at the first probe that finds the user timeout over since the last byte: with the defaults, 40 s behind it.
    #[test]
    fn a_peer_that_is_gone_without_a_word_is_noticed_by_keepalive_and_user_timeout_together() {
        use socket2::SockFilter;
        use std::io::{Read as _, Write as _};
        let seconds = Duration::from_secs;
        std::thread::scope(|scope| {
            for (keepalive, user_timeout, over) in [(3, 1, 4), (1, 1, 2), (1, 4, 4)] {
                scope.spawn(move || {
                    let tcp = Tcp { keepalive: seconds(keepalive), user_timeout: seconds(user_timeout), idle: None };
                    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, &tcp).expect("bound").remove(0);
                    let listener = TcpListener::from(socket);
                    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
                    let (mut accepted, _) = listener.accept().expect("accepted");
                    let begun = Instant::now();
                    peer.write_all(b"x").expect("sent");
                    accepted.read_exact(&mut [0]).expect("it came");
                    // It drops all that comes, and so answers nothing (BPF_RET, 0 bytes).
                    SockRef::from(&peer).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).expect("a filter");
                    let error = accepted.read(&mut [0]).expect_err("nobody is there");
                    let (took, case) = (begun.elapsed(), (keepalive, user_timeout));
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "{case:?}");
                    let expected = seconds(over) - Duration::from_millis(100)..seconds(over + 10);
                    assert!(expected.contains(&took), "{case:?}: {took:?}");
                });
            }
        });
        let tcp = Tcp::default();
        let (first, then) = (tcp.keepalive.as_secs(), tcp.probe_interval().as_secs());
        assert_eq!((first, then, tcp.user_timeout.as_secs()), (30, 10, 30), "40 s, as README says");
    }

    #[test]
    fn a_connection_of_the_first_moment_is_not_reset() {
        use std::io::Read as _;
        use std::sync::atomic::{AtomicBool, Ordering};
        for _ in 0..50 {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
            let ended = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // Those that connect as soon as anybody listens.
                let machines: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            while !ended.load(Ordering::Relaxed) {
                                match TcpStream::connect(address) {
                                    // One that has connected to itself by chance is none.
                                    Ok(stream) if stream.local_addr().is_ok_and(|own| own != address) => {
                                        return Some(stream);
                                    }
                                    _ => {}
                                }
                            }
                            None
                        })
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(1));
                let listeners = bind(address, 2, &Tcp::default());
                ended.store(listeners.is_err(), Ordering::Relaxed);
                let streams = machines.into_iter().filter_map(|machine| machine.join().expect("no panic"));
                for mut stream in streams {
                    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
                    let error = stream.read(&mut [0]).expect_err("nobody sends or closes");
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                }
                drop(listeners);
            });
        }
    }

    #[test]
    fn an_address_in_use_is_noticed_even_if_its_holder_allows_sharing() {
        let holder = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, &Tcp::default()).expect("bound").remove(0);
        let address = TcpListener::from(holder.try_clone().expect("duplicated")).local_addr().expect("bound");
        let started = Instant::now();
        let refused = bind(address, 1, &Tcp::default()).expect_err("in use");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(started.elapsed() >= RETRY);
        drop(holder);
        bind(address, 1, &Tcp::default()).expect("free again");
    }
}
