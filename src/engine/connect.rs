//! Outgoing TCP connections: resolved by the control thread, connected by the core's runtime, then handed to the data ring.
//!
//! The addresses of a name race (RFC 8305): the next one is tried [`NEXT_AFTER`] behind the last, or at once when one fails. The
//! first that connects wins, and the others are closed. Whoever asked hears of one connect, however many addresses it took.

use super::control::Request;
use super::listen::prepare;
use super::names::{NameOf, known_without_look_up};
use crate::config::{Authority, Tcp};
use crate::shard::{ConnectAttempt, ConnectError};
use socket2::SockRef;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long an address has before the next one is tried beside it (RFC 8305 section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// While another address of the name is silent, one that has failed is tried again after this: a
/// service that returns there need not wait for the end of the race.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Addresses of one name that are tried at most: each is a descriptor.
const ADDRESSES_MAX: usize = 16;

/// Connects for one core.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    control: mpsc::UnboundedSender<Request>,
    /// The address that the last connect to an authority has reached. It is tried first.
    reached: Rc<RefCell<HashMap<Authority, SocketAddr>>>,
}

impl Connector {
    pub(super) fn new(control: mpsc::UnboundedSender<Request>) -> Self {
        Self { control, reached: Rc::default() }
    }

    /// Forgets which addresses have worked: the configuration may name others.
    pub(super) fn forget(&self) {
        self.reached.borrow_mut().clear();
    }

    /// Connects to one of the addresses of a name. `limit` is for resolving and all attempts together.
    ///
    /// # Errors
    /// Host, address and reason of each attempt.
    pub(super) async fn connect(self, to: Authority, of: NameOf, limit: Duration) -> Result<OwnedFd, ConnectError> {
        let last = self.reached.borrow().get(&to).copied();
        let connected = connect(&to, of, limit, (last, self.control)).await;
        let mut reached = self.reached.borrow_mut();
        match connected {
            Ok((connection, address)) => {
                reached.insert(to, address);
                Ok(connection)
            }
            Err(error) => {
                reached.remove(&to);
                Err(error)
            }
        }
    }
}

async fn connect(
    to: &Authority,
    of: NameOf,
    limit: Duration,
    (last, control): (Option<SocketAddr>, mpsc::UnboundedSender<Request>),
) -> Result<(OwnedFd, SocketAddr), ConnectError> {
    let deadline = Instant::now() + limit;
    let addresses = match timeout_at(deadline, resolve(to.clone(), of, control)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(reason)) => return Err(ConnectError::Unresolved { to: shown(to), reason }),
        Err(_) => return Err(ConnectError::NameLate { to: shown(to), within: limit }),
    };
    match in_order(addresses, last).as_slice() {
        [] => Err(ConnectError::NoAddress { to: shown(to) }),
        addresses => race(addresses, deadline, limit).await,
    }
}

/// As in a URL: an IPv6 address is in brackets.
fn shown(to: &Authority) -> String {
    if to.host.contains(':') { format!("[{}]:{}", to.host, to.port) } else { format!("{}:{}", to.host, to.port) }
}

async fn resolve(
    to: Authority,
    of: NameOf,
    control: mpsc::UnboundedSender<Request>,
) -> Result<Vec<SocketAddr>, String> {
    if let Some(addresses) = known_without_look_up(&to) {
        return Ok(addresses);
    }
    let (answer, answered) = oneshot::channel();
    let ended = || "the gateway is stopping".to_owned();
    control.send(Request::Resolve { of, authority: to, answer }).map_err(|_| ended())?;
    answered.await.map_err(|_| ended())?
}

/// The address that worked last, then those of both families by turns, each family in the system's order (RFC 8305 section 4).
fn in_order(found: Vec<SocketAddr>, last: Option<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for address in found {
        let family = if address.is_ipv6() == first_is_v6 { &mut first } else { &mut second };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut ordered = Vec::new();
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let before = ordered.len();
        ordered.extend(first.next());
        ordered.extend(second.next());
        if ordered.len() == before {
            break;
        }
    }
    if let Some(place) = ordered.iter().position(|address| Some(*address) == last) {
        ordered[..=place].rotate_right(1);
    }
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

/// Tries the addresses in this order until one connects. What is under way at the end is closed.
async fn race(
    addresses: &[SocketAddr],
    deadline: Instant,
    limit: Duration,
) -> Result<(OwnedFd, SocketAddr), ConnectError> {
    // A short limit leaves some time for the last address, too.
    let left = deadline.saturating_duration_since(Instant::now());
    let next_after = NEXT_AFTER.min(left / (addresses.len() as u32 + 1));
    // Dropped with the race, which ends what is in it.
    let mut attempts = JoinSet::new();
    let mut reasons: Vec<Option<String>> = Vec::new();
    let mut next_at = Instant::now();
    let mut again: VecDeque<(Instant, usize)> = VecDeque::new();
    let late = || format!("no answer within {limit:?}");
    loop {
        let is_due = Instant::now() >= next_at || attempts.is_empty();
        if let Some(&address) = addresses.get(reasons.len()).filter(|_| is_due) {
            let index = reasons.len();
            attempts.spawn(async move { (index, connect_to(address).await) });
            reasons.push(None);
            next_at = Instant::now() + next_after;
        }
        if reasons.len() == addresses.len() && reasons.iter().all(Option::is_some) {
            break; // each has failed once
        }
        while let Some(&(_, index)) = again.front().filter(|(at, _)| *at <= Instant::now()) {
            again.pop_front();
            let address = addresses[index];
            attempts.spawn(async move { (index, connect_to(address).await) });
        }
        let again_at = again.front().map_or(deadline, |(at, _)| *at);
        let has_more = reasons.len() < addresses.len();
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended.expect("connecting does not panic") {
                (index, Ok(connection)) => return Ok((connection, addresses[index])),
                (index, Err(error)) => {
                    let is_first = reasons[index].replace(error.to_string()).is_none();
                    if is_first {
                        next_at = Instant::now();
                    }
                    again.push_back((Instant::now() + AGAIN_AFTER, index));
                }
            },
            () = sleep_until(next_at), if has_more => {}
            () = sleep_until(again_at), if again_at < deadline => {}
            () = sleep_until(deadline) => break,
        }
    }
    let attempts = addresses.iter().zip(reasons);
    let attempts =
        attempts.map(|(&address, reason)| ConnectAttempt { address, reason: reason.unwrap_or_else(late) }).collect();
    Err(ConnectError::Unreachable { attempts })
}

async fn connect_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&SockRef::from(&socket), &Tcp::default())?;
    let stream = socket.connect(address).await?;
    Ok(OwnedFd::from(stream.into_std()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::{TcpListener, TcpStream};

    /// Far beyond what a connect takes on a loaded machine.
    const LIMIT: Duration = Duration::from_secs(60);

    /// An address that swallows each SYN: its backlog is full.
    struct Silent {
        _listener: Socket,
        _fillers: Vec<TcpStream>,
        address: SocketAddr,
    }

    impl Silent {
        fn new() -> Self {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
            listener.listen(0).expect("it listens");
            let address = listener.local_addr().expect("bound").as_socket().expect("an address");
            let fillers = vec![TcpStream::connect(address).expect("the one that fits")];
            Self { _listener: listener, _fillers: fillers, address }
        }
    }

    fn good() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    async fn race_to(addresses: &[SocketAddr], limit: Duration) -> Result<(OwnedFd, SocketAddr), ConnectError> {
        race(addresses, Instant::now() + limit, limit).await
    }

    #[tokio::test]
    async fn an_address_that_swallows_syns_costs_a_quarter_of_a_second_and_is_given_up_when_another_connects() {
        let (silent, (_listener, address)) = (Silent::new(), good());
        let begun = Instant::now();
        let (_connection, reached) = race_to(&[silent.address, address], LIMIT).await.expect("the second one answers");
        let took = begun.elapsed();
        assert_eq!(reached, address);
        assert!((NEXT_AFTER..NEXT_AFTER + Duration::from_secs(5)).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn a_refusal_lets_the_next_address_begin_at_once_and_the_limit_is_that_of_all_together() {
        let silent: Vec<_> = std::iter::repeat_with(Silent::new).take(3).collect();
        let refusing = good().1;
        let mut addresses = vec![refusing];
        addresses.extend(silent.iter().map(|silent| silent.address));
        let limit = Duration::from_secs(1);
        let begun = Instant::now();
        let error = race_to(&addresses, limit).await.expect_err("nobody answers");
        let took = begun.elapsed();
        // One after the other they would take three times as long.
        assert!((limit..limit * 2).contains(&took), "{took:?}");
        let ConnectError::Unreachable { attempts } = error else { panic!("{error}") };
        let reasons: Vec<_> = attempts.iter().map(|attempt| (attempt.address, attempt.reason.as_str())).collect();
        assert_eq!(reasons.len(), 4, "{reasons:?}");
        assert!(reasons[0].0 == refusing && reasons[0].1.contains("refused"), "{reasons:?}");
        assert!(reasons[1..].iter().all(|(_, reason)| *reason == "no answer within 1s"), "{reasons:?}");
        let begun = Instant::now();
        let (_listener, address) = good();
        assert!(race_to(&[refusing, address], LIMIT).await.is_ok());
        assert!(begun.elapsed() < LIMIT / 2);
    }

    #[tokio::test]
    async fn a_service_that_returns_is_found_while_another_address_is_silent() {
        let silent = Silent::new();
        let refusing = good().1;
        let begun = Instant::now();
        let returns = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            TcpListener::bind(refusing).expect("nobody has it")
        });
        let (_connection, reached) = race_to(&[refusing, silent.address], LIMIT).await.expect("it is back");
        assert_eq!(reached, refusing);
        let took = begun.elapsed();
        assert!(took >= AGAIN_AFTER && took < AGAIN_AFTER + Duration::from_secs(10), "{took:?}");
        drop(returns.join());
    }

    #[test]
    fn families_take_turns_and_the_address_that_worked_comes_first() {
        let of = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let [a, b, c] = ["[2001:db8::1]:80", "[2001:db8::2]:80", "192.0.2.1:80"].map(of);
        assert_eq!(in_order(vec![a, b, a, c], None), [a, c, b]);
        assert_eq!(in_order(vec![c, a, b], None), [c, a, b]);
        assert_eq!(in_order(vec![a, b, c], Some(b)), [b, a, c]);
        assert_eq!(in_order(vec![a, b, c], Some(of("192.0.2.9:80"))), [a, c, b]);
        assert!(in_order(Vec::new(), Some(a)).is_empty());
        let many = (1..=40).map(|last| SocketAddr::from(([192, 0, 2, last], 80))).collect();
        assert_eq!(in_order(many, None).len(), ADDRESSES_MAX);
    }
}
