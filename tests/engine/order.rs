//! Connections of one machine: a newer one is read once what its older one had received by then is read.

use crate::harness::{Input, PATIENCE, Remote, listening, setup, start};
use ringest::shard::{Completion, Fd, LinkId, Op, Readable, SourceId};
use socket2::SockRef;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

const OLDER: LinkId = LinkId { index: 0, generation: 1 };
const NEWER: LinkId = LinkId { index: 1, generation: 1 };

/// A machine with two connections, of which the older one is not read.
struct Machine {
    remote: Remote,
    address: SocketAddr,
    older: (TcpStream, Fd),
    newer: (TcpStream, Fd),
}

impl Machine {
    /// The older connection has received something since its read was paused; then the newer one is to be read, which has something, too.
    fn new() -> Self {
        let (settings, listeners, address) = listening();
        let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
        remote.ask(read(OLDER, fd, &[]));
        client.write_all(b"read").expect("written");
        assert_eq!(remote.next(), "received 0.1");
        remote.ask(Op::PauseRecv { link: OLDER });
        assert_eq!(remote.next(), paused(OLDER));
        client.write_all(b"unread").expect("written");
        let (mut newer, newer_fd) = connect(&remote, address);
        newer.write_all(b"newer").expect("written");
        remote.ask(read(NEWER, newer_fd, &[OLDER]));
        Self { remote, address, older: (client, fd), newer: (newer, newer_fd) }
    }

    fn read_older(&self) {
        self.remote.ask(read(OLDER, self.older.1, &[]));
        assert_eq!(self.remote.next(), "received 0.1");
    }
}

fn connect(remote: &Remote, address: SocketAddr) -> (TcpStream, Fd) {
    let client = TcpStream::connect(address).expect("connected");
    assert_eq!(remote.next(), "accepted");
    (client, remote.fd())
}

fn read(link: LinkId, fd: Fd, older: &[LinkId]) -> Op {
    Op::Recv { link, fd, kind: Readable::Socket, older: older.to_vec() }
}

fn paused(link: LinkId) -> String {
    format!("RecvEnded {{ link: {link:?}, end: Paused }}")
}

#[test]
fn a_newer_connection_is_read_when_what_the_older_one_had_received_is_read() {
    let mut machine = Machine::new();
    machine.remote.silence();
    machine.read_older();
    assert_eq!(machine.remote.next(), "received 1.1");
    // From here on neither waits for the other.
    machine.remote.ask(Op::PauseRecv { link: OLDER });
    assert_eq!(machine.remote.next(), paused(OLDER));
    machine.older.0.write_all(b"later").expect("written");
    machine.newer.0.write_all(b"later").expect("written");
    assert_eq!(machine.remote.next(), "received 1.1");
    machine.remote.running.stop();
}

#[test]
fn a_newer_connection_is_read_when_an_older_one_that_its_peer_has_ended_is_read_to_its_end_or_closed() {
    for closes in [false, true] {
        let Machine { remote, older: (client, fd), newer: _newer, .. } = Machine::new();
        drop(client);
        remote.silence();
        if closes {
            remote.ask(Op::Close { link: OLDER, fd: Some(fd) });
        } else {
            remote.ask(read(OLDER, fd, &[]));
            assert_eq!(remote.next(), "received 0.1");
        }
        // Which of the two comes first depends on when the peer has ended it.
        let mut heard = [remote.next(), remote.next()];
        heard.sort();
        let end = match closes {
            true => format!("Closed {{ link: {OLDER:?} }}"),
            false => format!("RecvEnded {{ link: {OLDER:?}, end: Closed }}"),
        };
        assert_eq!(heard, [end, "received 1.1".to_owned()]);
        remote.running.stop();
    }
}

#[test]
fn the_end_of_an_older_connection_comes_before_a_newer_one_that_came_behind_it() {
    let Machine { remote, address, older: (client, fd), newer: _newer } = Machine::new();
    drop(client);
    let (mut third, third_fd) = connect(&remote, address);
    third.write_all(b"third").expect("written");
    let link = LinkId { index: 2, generation: 1 };
    remote.ask(read(link, third_fd, &[OLDER, NEWER]));
    remote.silence();
    remote.ask(read(OLDER, fd, &[]));
    let heard: Vec<String> = (0..4).map(|_| remote.next()).collect();
    let place = |what: &str| heard.iter().position(|heard| heard == what).expect("heard");
    let end = place(&format!("RecvEnded {{ link: {OLDER:?}, end: Closed }}"));
    assert_eq!(place("received 0.1"), 0);
    assert!(end < place("received 2.1") && place("received 1.1") < place("received 2.1"), "{heard:?}");
    remote.running.stop();
}

#[test]
fn nothing_is_waited_for_where_all_is_read_urgent_bytes_too() {
    let (settings, listeners, address) = listening();
    let (remote, client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(read(OLDER, fd, &[]));
    SockRef::from(&client).send_out_of_band(b"abc").expect("written");
    let mut read_bytes = Vec::new();
    while read_bytes.len() < 3 {
        assert_eq!(remote.next(), "received 0.1");
        read_bytes.extend(remote.bytes.recv().expect("received"));
    }
    assert_eq!(read_bytes, b"abc");
    let (mut newer, newer_fd) = connect(&remote, address);
    newer.write_all(b"newer").expect("written");
    remote.ask(read(NEWER, newer_fd, &[OLDER]));
    assert_eq!(remote.next(), "received 1.1");
    remote.running.stop();
}

#[test]
fn a_connection_that_waits_for_an_older_one_can_be_paused_and_closed() {
    let Machine { remote, address, older, newer: (_newer, fd) } = Machine::new();
    remote.silence();
    remote.ask(Op::PauseRecv { link: NEWER });
    assert_eq!(remote.next(), paused(NEWER));
    let (mut third, third_fd) = connect(&remote, address);
    third.write_all(b"third").expect("written");
    let link = LinkId { index: 2, generation: 1 };
    remote.ask(read(link, third_fd, &[OLDER]));
    remote.ask(Op::Close { link, fd: Some(third_fd) });
    assert_eq!(remote.next(), format!("Closed {{ link: {link:?} }}"));
    // Its place is another's, which waits for nothing.
    let (mut fourth, fourth_fd) = connect(&remote, address);
    fourth.write_all(b"fourth").expect("written");
    remote.ask(read(LinkId { generation: 2, ..link }, fourth_fd, &[]));
    assert_eq!(remote.next(), "received 2.2");
    remote.ask(read(OLDER, older.1, &[]));
    assert_eq!(remote.next(), "received 0.1");
    remote.silence();
    remote.ask(read(NEWER, fd, &[]));
    assert_eq!(remote.next(), "received 1.1");
    remote.running.stop();
}

#[test]
fn a_connection_that_is_not_read_hears_when_what_its_older_one_had_received_is_read() {
    let (settings, listeners, address) = listening();
    let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(read(OLDER, fd, &[]));
    client.write_all(b"read").expect("written");
    assert_eq!(remote.next(), "received 0.1");
    remote.ask(Op::PauseRecv { link: OLDER });
    assert_eq!(remote.next(), paused(OLDER));
    client.write_all(b"unread").expect("written");
    let (mut newer, newer_fd) = connect(&remote, address);
    remote.ask(Op::AwaitOlder { link: NEWER, fd: newer_fd, older: vec![OLDER] });
    newer.write_all(b"newer").expect("written");
    remote.silence();
    remote.ask(read(OLDER, fd, &[]));
    assert_eq!(remote.next(), "received 0.1");
    assert_eq!(remote.next(), paused(NEWER));
    // There is nothing to wait for.
    remote.ask(Op::AwaitOlder { link: NEWER, fd: newer_fd, older: vec![OLDER] });
    assert_eq!(remote.next(), paused(NEWER));
    remote.ask(read(NEWER, newer_fd, &[]));
    assert_eq!(remote.next(), "received 1.1");
    remote.running.stop();
}

#[test]
fn a_stop_does_not_wait_for_a_connection_that_waits() {
    let Machine { remote, .. } = Machine::new();
    remote.silence();
    remote.running.stop();
}

#[test]
fn what_waits_for_its_turn_comes_before_what_a_newer_connection_brings() {
    // Less than a connection may send before anything is read of it, and more than a turn takes.
    const SENT_BYTES: usize = 48 << 10;
    let (settings, listeners, address) = listening();
    let (tell, told) = mpsc::channel();
    let (mut links, mut older_bytes) = (Vec::new(), 0);
    let running = start(setup(settings, listeners), move |world, _, input| match input {
        Input::Start => {
            world.in_flight = 1;
            world.push(Op::Accept { source: SourceId(0) });
        }
        Input::Stop => world.finished = true,
        Input::Completion(Completion::Accepted { fd, .. }) => {
            let link = LinkId { index: links.len() as u32, generation: 1 };
            world.push(read(link, *fd, &links));
            links.push(link);
        }
        Input::Completion(Completion::Received { link: OLDER, bytes }) => {
            // So that the newer one comes meanwhile.
            std::thread::sleep(Duration::from_millis(30));
            older_bytes += bytes.len();
        }
        Input::Completion(Completion::Received { .. }) => tell.send(older_bytes).expect("the test goes on"),
        _ => {}
    });
    let mut older = TcpStream::connect(address).expect("connected");
    older.write_all(&[7; SENT_BYTES]).expect("written");
    let mut newer = TcpStream::connect(address).expect("connected");
    newer.write_all(b"newer").expect("written");
    assert_eq!(told.recv_timeout(PATIENCE), Ok(SENT_BYTES));
    running.stop();
}
