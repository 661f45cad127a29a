//! Links: accepts, sends, shutdowns, closes, connects.

use crate::harness::{CLOSED, LINK, Remote, listening, pattern, settings, setup};
use ringest::config::{Authority, Settings};
use ringest::engine::Listeners;
use ringest::shard::{ApiId, CoreId, Destination, LinkId, Op, Readable, SourceId, Told};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

#[test]
fn a_close_ends_a_read_and_a_send_in_flight_and_is_the_last_that_is_heard() {
    let (settings, listeners, address) = listening();
    let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Socket, older: Vec::new() });
    client.write_all(b"x").expect("written");
    assert_eq!(remote.next(), "received 3.7");
    // More than the socket buffers of both sides take, and nobody reads.
    remote.ask(Op::Send { link: LINK, fd, bytes: pattern(1, 64 << 20) });
    remote.silence();
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    remote.silence();
    let mut received = Vec::new();
    // With nothing unread on our side it is a FIN or a reset, but an end.
    let _ = client.read_to_end(&mut received);
    assert!(pattern(1, 64 << 20).starts_with(&received));
    remote.running.stop();
}

#[test]
fn data_that_races_with_a_close_is_swallowed() {
    let (settings, listeners, address) = listening();
    let remote = Remote::start(setup(settings, listeners), Vec::new());
    remote.ask(Op::Accept { source: SourceId(0) });
    for generation in 1..300 {
        let mut client = TcpStream::connect(address).expect("connected");
        assert_eq!(remote.next(), "accepted");
        let (fd, link) = (remote.fd(), LinkId { index: 0, generation });
        remote.ask(Op::Recv { link, fd, kind: Readable::Socket, older: Vec::new() });
        remote.ask(Op::Close { link, fd: Some(fd) });
        // The peer may be told of the close before it has written.
        let _ = client.write_all(b"late");
        let closed = remote.next_event();
        assert_eq!(closed, format!("Closed {{ link: {link:?} }}"));
    }
    remote.silence();
    remote.running.stop();
}

#[test]
fn a_shutdown_waits_for_the_send_before_it() {
    let (settings, listeners, address) = listening();
    let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Socket, older: Vec::new() });
    remote.ask(Op::Send { link: LINK, fd, bytes: pattern(2, 16 << 20) });
    remote.ask(Op::Shutdown { link: LINK, fd });
    std::thread::sleep(Duration::from_millis(20));
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read to the end");
    assert!(received == pattern(2, 16 << 20));
    assert_eq!(remote.next(), format!("sent 3.7 {} Ok(())", 16 << 20));
    client.write_all(b"still heard").expect("written");
    assert_eq!(remote.next(), "received 3.7");
    drop(client);
    assert_eq!(remote.next_event(), format!("RecvEnded {{ link: {LINK:?}, end: Closed }}"));
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    remote.running.stop();
}

#[test]
fn a_send_to_a_peer_that_is_gone_comes_back_with_its_buffer_and_an_errno() {
    let (settings, listeners, address) = listening();
    let (remote, client, fd) = Remote::accept(address, settings, listeners);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
    drop(client);
    remote.ask(Op::Send { link: LINK, fd, bytes: vec![0; 100] });
    let first = remote.next();
    // The reset may be told by the first send or by the second.
    if first == "sent 3.7 100 Ok(())" {
        std::thread::sleep(Duration::from_millis(50));
        remote.ask(Op::Send { link: LINK, fd, bytes: vec![0; 100] });
        assert!(remote.next().starts_with("sent 3.7 100 Err("));
    } else {
        assert!(first.starts_with("sent 3.7 100 Err("), "{first}");
    }
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    remote.running.stop();
}

#[test]
fn accepting_pauses_and_goes_on() {
    let (settings, listeners, address) = listening();
    let (remote, _client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(Op::PauseAccept { source: SourceId(0) });
    // Once the pause is done: a round trip through the ring after it.
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    let _second = TcpStream::connect(address).expect("the backlog takes it");
    remote.silence();
    remote.ask(Op::Accept { source: SourceId(0) });
    assert_eq!(remote.next(), "accepted");
    // A pause and its end in one turn.
    remote.ask(Op::PauseAccept { source: SourceId(0) });
    remote.ask(Op::Accept { source: SourceId(0) });
    let _third = TcpStream::connect(address).expect("connected");
    assert_eq!(remote.next(), "accepted");
    remote.running.stop();
    assert!(TcpStream::connect(address).is_err(), "after the stop nobody listens");
}

#[test]
fn one_connection_is_accepted_where_one_is_asked_for_though_many_wait() {
    let (settings, listeners, address) = listening();
    let (remote, _client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(Op::PauseAccept { source: SourceId(0) });
    remote.ask(Op::AcceptOne { source: SourceId(0) });
    // Once the pause is done: a round trip through the ring after it.
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    let _waiting: Vec<_> = (0..8).map(|_| TcpStream::connect(address).expect("the backlog takes it")).collect();
    assert_eq!(remote.next(), "accepted");
    remote.silence();
    for _ in 1..3 {
        remote.ask(Op::AcceptOne { source: SourceId(0) });
        assert_eq!(remote.next(), "accepted");
        remote.silence();
    }
    remote.ask(Op::Accept { source: SourceId(0) });
    for _ in 3..8 {
        assert_eq!(remote.next(), "accepted");
    }
    remote.running.stop();
}

#[test]
fn acks_stay_late_where_that_is_asked_for_also_after_the_kernel_has_gone_back_to_its_own_way() {
    for (kind, is_late) in [(Readable::Socket, false), (Readable::SocketLateAcks, true)] {
        let (settings, listeners, address) = listening();
        let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
        // SAFETY: the gateway runs in this process, and closes the connection at its stop.
        #[allow(unsafe_code)]
        let connection = unsafe { BorrowedFd::borrow_raw(fd.0) };
        let connection = SockRef::from(&connection);
        // An ACK that waits its full time ends the lateness, and a busy machine may give it that time before the look.
        let mut is_late_after = |reads: usize| {
            (0..20).any(|_| {
                for _ in 0..reads {
                    client.write_all(b"x").expect("written");
                    assert_eq!(remote.next(), "received 3.7");
                }
                !connection.tcp_quickack().expect("TCP_QUICKACK")
            })
        };
        remote.ask(Op::Recv { link: LINK, fd, kind, older: Vec::new() });
        let late_at_first = is_late_after(1);
        connection.set_tcp_quickack(true).expect("TCP_QUICKACK");
        let late_again = is_late_after(16);
        remote.running.stop();
        assert_eq!((late_at_first, late_again), (is_late, is_late), "{kind:?}");
    }
}

#[test]
fn a_connection_handed_over_arrives_as_an_accepted_one() {
    let (settings, listeners, address) = listening();
    let (remote, client, fd) = Remote::accept(address, settings, listeners);
    let peer = client.local_addr().expect("connected");
    remote.ask(Op::HandOver { source: SourceId(0), fd, peer, core: CoreId(0), told: None });
    assert_eq!(remote.next(), "accepted");
    assert_eq!(remote.fd(), fd);
    remote.running.stop();
}

#[test]
fn a_connection_of_which_a_proxy_has_told_arrives_with_what_was_read_of_it_and_outlives_its_link() {
    let (settings, listeners, address) = listening();
    let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
    let peer = client.local_addr().expect("connected");
    remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Socket, older: Vec::new() });
    client.write_all(b"x").expect("written");
    assert_eq!(remote.next(), "received 3.7");
    remote.ask(Op::PauseRecv { link: LINK });
    assert_eq!(remote.next(), format!("RecvEnded {{ link: {LINK:?}, end: Paused }}"));
    let told = Told { address: "10.0.4.21:9".parse().expect("an address"), bytes: b"behind".to_vec() };
    remote.ask(Op::HandOver { source: SourceId(0), fd, peer, core: CoreId(0), told: Some(told.clone()) });
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    let mut heard = [remote.next(), remote.next()];
    heard.sort();
    assert_eq!(heard[0], format!("Closed {{ link: {LINK:?} }}"));
    assert!(heard[1].starts_with("HandedOver") && heard[1].contains(&format!("{told:?}")), "{heard:?}");
    client.write_all(b"it is open").expect("written");
    remote.running.stop();
}

// ---- connects

fn nowhere() -> (Settings, Listeners) {
    (settings(Vec::new()), Vec::new())
}

fn to(api: u8) -> Op {
    Op::Connect { link: LINK, to: Destination::Api(ApiId(api)) }
}

#[test]
fn a_connect_resolves_names_and_tries_every_address() {
    // Listens on one of the two addresses that localhost may have.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let (settings, listeners) = nowhere();
    let destinations = vec![Authority { host: "localhost".to_owned(), port }];
    let remote = Remote::start(setup(settings, listeners), destinations);
    remote.ask(to(0));
    assert_eq!(remote.next(), "connected 3.7");
    let fd = remote.fd();
    let (mut accepted, _) = listener.accept().expect("accepted");
    remote.ask(Op::Send { link: LINK, fd, bytes: b"hello".to_vec() });
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).expect("read");
    assert_eq!((&hello, remote.next().as_str()), (b"hello", "sent 3.7 5 Ok(())"));
    remote.ask(Op::Close { link: LINK, fd: Some(fd) });
    assert_eq!(remote.next(), CLOSED);
    remote.running.stop();
}

#[test]
fn a_connect_that_fails_says_address_and_reason_or_the_name() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound").local_addr().expect("bound").port();
    let (settings, listeners) = nowhere();
    let host = |host: &str| Authority { host: host.to_owned(), port };
    let remote = Remote::start(setup(settings, listeners), vec![host("localhost"), host("no-such-host.invalid")]);
    remote.ask(to(0));
    let refused = remote.next();
    for part in [format!("127.0.0.1:{port}"), "refused".to_owned()] {
        assert!(refused.contains(&part), "{refused}");
    }
    // A link whose connect failed may be closed, and may be used again.
    remote.ask(Op::Close { link: LINK, fd: None });
    assert_eq!(remote.next(), CLOSED);
    remote.ask(to(1));
    let unknown = remote.next();
    assert!(unknown.contains(&format!("no-such-host.invalid:{port}: the name cannot be resolved")), "{unknown}");
    remote.running.stop();
}

#[test]
fn a_connect_without_an_answer_ends_at_its_deadline_or_at_a_close() {
    // A listener whose backlog is full answers no further connect.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bound");
    socket.listen(0).expect("listening");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    let _filler = TcpStream::connect(address).expect("the one that fits");
    let (mut settings, listeners) = nowhere();
    settings.deliver.connect_timeout = Duration::from_millis(300);
    let authority = Authority { host: "127.0.0.1".to_owned(), port: address.port() };
    let remote = Remote::start(setup(settings, listeners), vec![authority]);
    remote.ask(to(0));
    let timed_out = remote.next();
    assert!(timed_out.contains("no answer within 300ms"), "{timed_out}");
    remote.ask(to(0));
    std::thread::sleep(Duration::from_millis(20));
    remote.ask(Op::Close { link: LINK, fd: None });
    assert_eq!(remote.next(), CLOSED);
    remote.silence();
    remote.running.stop();
}

#[test]
fn without_descriptors_accepting_fails_and_goes_on_later() {
    const CHILD: &str = "RINGEST_TEST_DESCRIPTORS";
    // The limit belongs to the process, so this test has one of its own.
    if std::env::var_os(CHILD).is_none() {
        let name = "without_descriptors_accepting_fails_and_goes_on_later";
        let own = std::env::current_exe().expect("known");
        let child = std::process::Command::new(own).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output();
        let child = child.expect("started");
        assert!(
            child.status.success(),
            "{}{}",
            String::from_utf8_lossy(&child.stdout),
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (settings, listeners, address) = listening();
    let (remote, _first, _fd) = Remote::accept(address, settings, listeners);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("read");
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
    let mut fillers = Vec::new();
    setrlimit(Resource::RLIMIT_NOFILE, client.as_raw_fd() as u64 + 1, hard).expect("set");
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    // An accept that is armed keeps the limit under which it was armed.
    remote.ask(Op::PauseAccept { source: SourceId(0) });
    remote.silence();
    client.connect(&address.into()).expect("the backlog takes it");
    remote.ask(Op::Accept { source: SourceId(0) });
    let failed = remote.next();
    assert_eq!(failed, format!("AcceptFailed {{ source: SourceId(0), errno: {} }}", libc::EMFILE));
    remote.silence();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("set");
    remote.ask(Op::Accept { source: SourceId(0) });
    assert_eq!(remote.next(), "accepted");
    drop(fillers);
    remote.running.stop();
}
