//! The driver against the real kernel: sockets, ptys, files, with cores of few lines in the shard's place.

use ringest::config::{
    Authority, Deliver, Flow, Framing, Gateway, Journal, LaneKey, Limits, Line, OnMissing, Parity, Serial, Settings,
    Source, SourceKind, Url,
};
use ringest::engine::{
    Control, Core, Driver, DriverOptions, FsStorage, JournalFiles, Listeners, Message, Request, RingOptions, bind_all,
};
use ringest::journal::Storage;
use ringest::observe::snapshot::{Counters, Snapshot};
use ringest::shard::{
    ApiId, Completion, Destination, Fd, JournalId, LinkId, Now, Op, PortError, Readable, RecvEnd, SourceId,
};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as mailbox;

/// Far beyond what anything here takes on a loaded machine; a lost wake ends here.
const PATIENCE: Duration = Duration::from_secs(120);

// ---- a core of few lines

/// What a test's handler may do.
#[derive(Default)]
struct World {
    ops: VecDeque<Op>,
    /// Ends the loop once the driver was told to stop.
    finished: bool,
    deadline: Option<u64>,
    /// By `ApiId`.
    destinations: Vec<Authority>,
}

impl World {
    fn push(&mut self, op: Op) {
        self.ops.push_back(op);
    }
}

/// A core made of one function. Without a stop it never ends; with one it ends when the function says `finished`.
struct Scripted<H> {
    world: World,
    handle: H,
    counters: Counters,
    stopping: bool,
}

enum Input<'a, 'b> {
    Start,
    Completion(&'a mut Completion<'b>),
    Deadline,
    Stop,
}

impl<H: FnMut(&mut World, Now, Input<'_, '_>)> Core for Scripted<H> {
    fn start(&mut self, now: Now) {
        (self.handle)(&mut self.world, now, Input::Start);
    }
    fn handle(&mut self, now: Now, mut completion: Completion<'_>) {
        (self.handle)(&mut self.world, now, Input::Completion(&mut completion));
    }
    fn turn(&mut self, now: Now) {
        if self.world.deadline.is_some_and(|deadline| deadline <= now.mono_ns) {
            self.world.deadline = None;
            (self.handle)(&mut self.world, now, Input::Deadline);
        }
    }
    fn poll_op(&mut self) -> Option<Op> {
        self.world.ops.pop_front()
    }
    fn next_deadline(&self) -> Option<u64> {
        self.world.deadline
    }
    fn stop(&mut self, now: Now) {
        self.stopping = true;
        (self.handle)(&mut self.world, now, Input::Stop);
    }
    fn is_ready(&self) -> bool {
        true
    }
    fn is_stopped(&self) -> bool {
        self.stopping && self.world.finished
    }
    fn snapshot(&self, _: Now) -> Snapshot {
        Snapshot { counters: self.counters, ..Snapshot::default() }
    }
    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
    fn destination(&self, api: ApiId) -> Authority {
        self.world.destinations[usize::from(api.0)].clone()
    }
}

// ---- the harness

struct Setup {
    settings: Settings,
    ring: RingOptions,
    read_multishot: bool,
    listeners: Listeners,
    journal: Option<PathBuf>,
}

struct Running {
    mailbox: mailbox::UnboundedSender<Message>,
    core: JoinHandle<Counters>,
    control: JoinHandle<()>,
}

impl Running {
    /// Stops the loop and hands back its counters.
    fn stop(self) -> Counters {
        self.mailbox.send(Message::Stop).expect("the core is there");
        let counters = self.core.join().expect("the core did not panic");
        self.control.join().expect("the control thread did not panic");
        counters
    }
}

fn settings(sources: Vec<SourceKind>) -> Settings {
    let url = Url {
        authority: Authority { host: "127.0.0.1".to_owned(), port: 9 },
        host_header: "127.0.0.1:9".to_owned(),
        target: "/".to_owned(),
    };
    let source = |(index, kind)| Source {
        name: format!("source-{index}"),
        kind,
        framing: Framing::default(),
        silence_alarm: None,
    };
    Settings {
        gateway: Gateway {
            name: "test".to_owned(),
            cores: vec![0],
            state_dir: "/nonexistent".into(),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        },
        journal: Journal::default(),
        sources: sources.into_iter().enumerate().map(source).collect(),
        sequence: None,
        deliver: Deliver {
            url,
            body: String::new(),
            content_type: String::new(),
            headers: Vec::new(),
            success: vec![201],
            connections: 1,
            pipeline: 1,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(1),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(1),
            drain: Duration::from_secs(1),
        },
        limits: Limits::default(),
    }
}

fn listening() -> (Settings, Listeners, SocketAddr) {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = settings(vec![SourceKind::TcpListen { listen, lane: LaneKey::Connection }]);
    let listeners = bind_all(&settings, 1).expect("bound").remove(0);
    let address = TcpListener::from(listeners[0].1.try_clone().expect("duplicated")).local_addr().expect("bound");
    (settings, listeners, address)
}

fn setup(settings: Settings, listeners: Listeners) -> Setup {
    Setup { settings, ring: RingOptions::default(), read_multishot: true, listeners, journal: None }
}

fn start<H>(setup: Setup, handle: H) -> Running
where
    H: FnMut(&mut World, Now, Input<'_, '_>) + Send + 'static,
{
    let (to_core, mailbox) = mailbox::unbounded_channel();
    let (to_control, requests) = mailbox::unbounded_channel::<Request>();
    let settings = Arc::new(setup.settings);
    let (control_settings, mailboxes) = (Arc::clone(&settings), vec![to_core.clone()]);
    let control = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { Control::new(control_settings, mailboxes, HashMap::new()).run(requests).await });
    });
    let peers = vec![to_core.clone()];
    let core = std::thread::spawn(move || {
        let runtime = ringest::engine::runtime().expect("a runtime");
        let journals = setup.journal.iter().map(|directory| {
            let mut storage = FsStorage::open(directory).expect("opened");
            let memory = storage.create_blocks(None, 1 << 20).expect("made");
            for at in 0..256 {
                memory.write(at * 4096, &[at as u8 ^ 0x5a; 4096]);
            }
            JournalFiles { memory, directory: directory.clone(), direct: storage.is_direct() }
        });
        let options = DriverOptions {
            settings,
            core: 0,
            ring: setup.ring,
            read_multishot: setup.read_multishot,
            listeners: setup.listeners,
            journals: journals.collect(),
            peers,
            ready: None,
            control: to_control,
            mailbox,
        };
        let core = Scripted { world: World::default(), handle, counters: Counters::default(), stopping: false };
        runtime.block_on(async {
            let driver = Driver::new(core, options).expect("a data ring");
            driver.run().await.expect("the loop ends well").counters
        })
    });
    Running { mailbox: to_core, core, control }
}

// ---- an echo

/// Sends back what comes, in order, on every connection.
#[derive(Default)]
struct Echo {
    links: Vec<EchoLink>,
    /// Pauses reading after every so many receives, and reads again when the pause has begun.
    pause_every: Option<u32>,
    pauses: u32,
}

#[derive(Default)]
struct EchoLink {
    fd: i32,
    generation: u32,
    waiting: Vec<u8>,
    sending: bool,
    ended: bool,
    receives: u32,
    pausing: bool,
}

impl Echo {
    fn input(&mut self, world: &mut World, input: Input<'_, '_>) {
        match input {
            Input::Start => world.push(Op::Accept { source: SourceId(0) }),
            Input::Stop => world.finished = true,
            Input::Deadline => {}
            Input::Completion(completion) => self.completion(world, completion),
        }
    }

    fn id(&self, index: u32) -> LinkId {
        LinkId { index, generation: self.links[index as usize].generation }
    }

    fn link(&mut self, id: LinkId) -> &mut EchoLink {
        let link = &mut self.links[id.index as usize];
        assert_eq!(link.generation, id.generation, "a completion of an earlier use of the link");
        link
    }

    fn completion(&mut self, world: &mut World, completion: &mut Completion<'_>) {
        match completion {
            Completion::Accepted { fd, peer, .. } => {
                assert!(peer.ip().is_loopback());
                let index = self.links.iter().position(|link| link.fd == 0).unwrap_or_else(|| {
                    self.links.push(EchoLink::default());
                    self.links.len() - 1
                });
                let generation = self.links[index].generation + 1;
                self.links[index] = EchoLink { fd: fd.0, generation, ..EchoLink::default() };
                world.push(Op::Recv { link: self.id(index as u32), fd: *fd, kind: Readable::Socket });
            }
            Completion::Received { link: id, bytes } => {
                let pause_every = self.pause_every;
                let link = self.link(*id);
                link.waiting.extend_from_slice(bytes);
                link.receives += 1;
                if pause_every.is_some_and(|every| link.receives % every == 0) && !link.pausing {
                    link.pausing = true;
                    world.push(Op::PauseRecv { link: *id });
                }
                self.send(world, *id);
            }
            Completion::RecvEnded { link: id, end } => {
                let link = self.link(*id);
                if *end == RecvEnd::Paused {
                    assert!(std::mem::take(&mut link.pausing), "a pause that nobody asked for");
                    world.push(Op::Recv { link: *id, fd: Fd(link.fd), kind: Readable::Socket });
                    self.pauses += 1;
                } else {
                    link.ended = true;
                    self.send(world, *id);
                }
            }
            Completion::Sent { link: id, result, .. } => {
                let link = self.link(*id);
                link.sending = false;
                link.ended |= result.is_err();
                self.send(world, *id);
            }
            Completion::Closed { link: id } => self.link(*id).fd = 0,
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, world: &mut World, id: LinkId) {
        let link = self.link(id);
        if link.sending {
            return;
        }
        let fd = Fd(link.fd);
        if !link.waiting.is_empty() {
            link.sending = true;
            world.push(Op::Send { link: id, fd, bytes: std::mem::take(&mut link.waiting) });
        } else if link.ended {
            world.push(Op::Close { link: id, fd: Some(fd) });
        }
    }
}

fn start_echo(setup: Setup, pause_every: Option<u32>) -> Running {
    let mut echo = Echo { pause_every, ..Echo::default() };
    start(setup, move |world, _, input| echo.input(world, input))
}

/// Bytes in which a loss or a swap shows.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// Writes the pattern in pieces while it reads it back, on a runtime of its own for many connections.
fn echo_clients(address: SocketAddr, connections: u64, bytes: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for seed in 0..connections {
            clients.spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
                let sent = pattern(seed, bytes);
                let (mut reader, mut writer) = stream.split();
                let write = async {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut rest = &sent[..];
                    while !rest.is_empty() {
                        let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(700)));
                        writer.write_all(piece).await.expect("written");
                        tokio::task::yield_now().await;
                        rest = after;
                    }
                    writer.shutdown().await.expect("shut down");
                };
                let mut received = Vec::new();
                let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
                read.expect("read to the end");
                assert!(received == sent, "connection {seed}: what came back is not what was sent");
            });
        }
        let all = async { while clients.join_next().await.transpose().expect("an echo is whole").is_some() {} };
        tokio::time::timeout(PATIENCE, all).await.expect("every byte comes back in time");
    });
}

#[test]
fn every_byte_arrives_in_order_when_buffers_run_out_all_the_time() {
    for read_buffers in [2, 8] {
        let (settings, listeners, address) = listening();
        let mut setup = setup(settings, listeners);
        setup.ring = RingOptions { submissions: 64, completions: 256, read_buffers, read_buffer_bytes: 64 };
        let gateway = start_echo(setup, None);
        echo_clients(address, 1000, 2000);
        let counters = gateway.stop();
        assert!(counters.buffers_exhausted > 0, "the buffers did run out");
    }
}

#[test]
fn every_byte_arrives_in_order_while_reading_pauses_again_and_again() {
    let (settings, listeners, address) = listening();
    let mut setup = setup(settings, listeners);
    setup.ring.read_buffers = 16;
    setup.ring.read_buffer_bytes = 256;
    let gateway = start_echo(setup, Some(3));
    echo_clients(address, 50, 50_000);
    gateway.stop();
}

#[test]
fn a_hundred_thousand_round_trips_lose_no_wake() {
    let (settings, listeners, address) = listening();
    let gateway = start_echo(setup(settings, listeners), None);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..4 {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connected");
                stream.set_nodelay(true).expect("set");
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                let mut random = fastrand::Rng::with_seed(connection);
                for round in 0..25_000_u32 {
                    let ping = round.to_le_bytes();
                    stream.write_all(&ping).expect("written");
                    let mut pong = [0; 4];
                    stream.read_exact(&mut pong).expect("the gateway was woken");
                    assert_eq!(ping, pong);
                    // So that the gateway is found falling asleep, asleep and awake.
                    for _ in 0..random.u32(..200) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
    });
    let counters = gateway.stop();
    assert!(counters.wakes > 0, "it did sleep");
    println!("100,000 round trips in {:?}: {counters:?}", started.elapsed());
}

// ---- links

/// A handler that reports what it hears and asks what to do, so that a test reads top to bottom.
struct Remote {
    heard: Receiver<String>,
    bytes: Receiver<Vec<u8>>,
    accepted: Receiver<i32>,
    asks: Sender<Op>,
    running: Running,
}

impl Remote {
    fn start(setup: Setup, destinations: Vec<Authority>) -> Self {
        let (hear, heard) = mpsc::channel();
        let (put, bytes) = mpsc::channel();
        let (accept, accepted) = mpsc::channel();
        let (asks, asked) = mpsc::channel::<Op>();
        const POLL_NS: u64 = 1_000_000;
        let running = start(setup, move |world, now, input| {
            // Looks for operations every millisecond, which also tries the timer.
            world.ops.extend(asked.try_iter());
            world.deadline = Some(now.mono_ns + POLL_NS);
            match input {
                Input::Start => world.destinations = destinations.clone(),
                Input::Deadline => {}
                Input::Stop => world.finished = true,
                Input::Completion(completion) => {
                    let said = match completion {
                        Completion::Received { link, bytes } => {
                            put.send(bytes.to_vec()).expect("the test goes on");
                            format!("received {}.{}", link.index, link.generation)
                        }
                        Completion::Accepted { fd, .. } => {
                            accept.send(fd.0).expect("the test goes on");
                            "accepted".to_owned()
                        }
                        Completion::Sent { link, bytes, result } => {
                            format!("sent {}.{} {} {result:?}", link.index, link.generation, bytes.len())
                        }
                        Completion::Connected { link, result: Ok(fd) } => {
                            accept.send(fd.0).expect("the test goes on");
                            format!("connected {}.{}", link.index, link.generation)
                        }
                        Completion::PortOpened { link, result: Ok(fd) } => {
                            accept.send(fd.0).expect("the test goes on");
                            format!("opened {}.{}", link.index, link.generation)
                        }
                        Completion::ReadBack { buffer, result, .. } => {
                            put.send(buffer.clone()).expect("the test goes on");
                            format!("read back {result:?}")
                        }
                        other => format!("{other:?}"),
                    };
                    // The test may have heard enough.
                    let _ = hear.send(said);
                }
            }
        });
        Self { heard, bytes, accepted, asks, running }
    }

    fn ask(&self, op: Op) {
        self.asks.send(op).expect("the core is there");
    }

    fn next(&self) -> String {
        self.heard.recv_timeout(PATIENCE).expect("something is heard")
    }

    /// The next thing heard that is no receive.
    fn next_event(&self) -> String {
        loop {
            let heard = self.next();
            if !heard.starts_with("received") {
                return heard;
            }
        }
    }

    fn silence(&self) {
        let heard = self.heard.recv_timeout(Duration::from_millis(100));
        assert_eq!(heard, Err(RecvTimeoutError::Timeout), "nothing more is heard");
    }

    fn fd(&self) -> Fd {
        Fd(self.accepted.recv_timeout(PATIENCE).expect("a file"))
    }

    fn accept(address: SocketAddr, settings: Settings, listeners: Listeners) -> (Self, TcpStream, Fd) {
        let remote = Self::start(setup(settings, listeners), Vec::new());
        remote.ask(Op::Accept { source: SourceId(0) });
        let client = TcpStream::connect(address).expect("connected");
        assert_eq!(remote.next(), "accepted");
        let fd = remote.fd();
        (remote, client, fd)
    }
}

const LINK: LinkId = LinkId { index: 3, generation: 7 };
const CLOSED: &str = "Closed { link: LinkId { index: 3, generation: 7 } }";

#[test]
fn a_close_ends_a_read_and_a_send_in_flight_and_is_the_last_that_is_heard() {
    let (settings, listeners, address) = listening();
    let (remote, mut client, fd) = Remote::accept(address, settings, listeners);
    remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Socket });
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
        remote.ask(Op::Recv { link, fd, kind: Readable::Socket });
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
    remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Socket });
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
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set");
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
fn a_connection_handed_over_arrives_as_an_accepted_one() {
    let (settings, listeners, address) = listening();
    let (remote, client, fd) = Remote::accept(address, settings, listeners);
    let peer = client.local_addr().expect("connected");
    remote.ask(Op::HandOver { source: SourceId(0), fd, peer, core: 0 });
    assert_eq!(remote.next(), "accepted");
    assert_eq!(remote.fd(), fd);
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
fn a_connect_that_fails_says_host_address_and_reason() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound").local_addr().expect("bound").port();
    let (settings, listeners) = nowhere();
    let host = |host: &str| Authority { host: host.to_owned(), port };
    let remote = Remote::start(setup(settings, listeners), vec![host("localhost"), host("no-such-host.invalid")]);
    remote.ask(to(0));
    let refused = remote.next();
    for part in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "refused".to_owned()] {
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

// ---- ptys

struct Pty {
    master: std::fs::File,
    path: PathBuf,
}

impl Pty {
    fn open() -> Self {
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
        remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Tty });
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
        remote.ask(Op::Recv { link: LINK, fd, kind: Readable::Tty });
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

// ---- files

const JOURNAL: JournalId = JournalId(0);

fn prepare(segment: u64, bytes: u64) -> Op {
    Op::PrepareSegment { journal: JOURNAL, segment, bytes, header: vec![segment as u8; 4096], sync: true }
}

fn prepared(segment: u64) -> String {
    format!("SegmentPrepared {{ journal: JournalId(0), segment: {segment}, result: Ok(()) }}")
}

#[test]
fn segments_are_prepared_committed_to_synced_read_back_and_reused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut setup = setup(settings(Vec::new()), Vec::new());
    setup.journal = Some(directory.path().join("core-0"));
    let remote = Remote::start(setup, Vec::new());
    let bytes = 3 << 20;
    remote.ask(prepare(1, bytes));
    assert_eq!(remote.next(), prepared(1));
    let path = |name: &str| directory.path().join("core-0").join(name);
    let file = std::fs::read(path("segment-0000000000000001")).expect("is there");
    assert_eq!(file.len() as u64, bytes);
    assert!(file[..4096].iter().all(|&byte| byte == 1) && file[4096..].iter().all(|&byte| byte == 0));

    // Four in flight at once, in any order, with and without a sync.
    for (at, sync) in [(1, true), (2, false), (3, true), (4, false)] {
        let offset = at * 8192;
        let (memory_offset, bytes) = (at * 4096, 8192);
        remote.ask(Op::Commit { journal: JOURNAL, memory_offset, segment: 1, offset, bytes, sync });
    }
    let mut committed: Vec<String> = (0..4).map(|_| remote.next()).collect();
    committed.sort();
    let expected =
        |at| format!("Committed {{ journal: JournalId(0), segment: 1, offset: {}, result: Ok(()) }}", at * 8192);
    let mut all: Vec<String> = (1..=4).map(expected).collect();
    all.sort();
    assert_eq!(committed, all);
    remote.ask(Op::SyncSegment { journal: JOURNAL, segment: 1 });
    assert_eq!(remote.next(), "SegmentSynced { journal: JournalId(0), segment: 1, result: Ok(()) }");
    let file = std::fs::read(path("segment-0000000000000001")).expect("is there");
    for at in 1..=4_usize {
        assert!(file[at * 8192..][..4096].iter().all(|&byte| byte == at as u8 ^ 0x5a));
        assert!(file[at * 8192 + 4096..][..4096].iter().all(|&byte| byte == (at + 1) as u8 ^ 0x5a));
    }

    remote.ask(Op::ReadBack { journal: JOURNAL, segment: 1, offset: 8192 - 10, buffer: vec![7; 20] });
    assert_eq!(remote.next(), "read back Ok(20)");
    let read = remote.bytes.recv_timeout(PATIENCE).expect("bytes");
    assert_eq!((&read[..10], &read[10..]), (&[0; 10][..], &[1 ^ 0x5a; 10][..]));
    remote.ask(Op::ReadBack { journal: JOURNAL, segment: 1, offset: bytes as u32 - 5, buffer: vec![7; 20] });
    assert_eq!(remote.next(), "read back Ok(5)");
    remote.ask(Op::ReadBack { journal: JOURNAL, segment: 99, offset: 0, buffer: vec![7; 20] });
    assert_eq!(remote.next(), format!("read back Err({})", libc::ENOENT));

    remote.ask(Op::FreeSegment { journal: JOURNAL, segment: 1 });
    assert_eq!(remote.next(), "SegmentFreed { journal: JournalId(0), segment: 1 }");
    assert!(path("spare-0000000000000001").exists() && !path("segment-0000000000000001").exists());
    // The spare is taken, with its old bytes behind the new header; one of another size is not.
    remote.ask(prepare(2, bytes));
    assert_eq!(remote.next(), prepared(2));
    let file = std::fs::read(path("segment-0000000000000002")).expect("is there");
    assert_eq!((file[0], file[8192], path("spare-0000000000000001").exists()), (2, 1 ^ 0x5a, false));
    remote.ask(Op::FreeSegment { journal: JOURNAL, segment: 2 });
    remote.next();
    remote.ask(prepare(3, 1 << 20));
    assert_eq!(remote.next(), prepared(3));
    let file = std::fs::read(path("segment-0000000000000003")).expect("is there");
    assert_eq!((file.len(), file[8192], path("spare-0000000000000002").exists()), (1 << 20, 0, false));
    // A commit to a segment that is not there is an error, not a panic.
    let lost = Op::Commit { journal: JOURNAL, memory_offset: 0, segment: 9, offset: 4096, bytes: 4096, sync: false };
    remote.ask(lost);
    let errno = libc::ENOENT;
    assert_eq!(
        remote.next(),
        format!("Committed {{ journal: JournalId(0), segment: 9, offset: 4096, result: Err({errno}) }}")
    );
    remote.running.stop();
}

#[test]
fn cold_work_goes_on_while_the_core_is_busy() {
    let directory = tempfile::tempdir().expect("a directory");
    let (settings, listeners, address) = listening();
    let mut setup = setup(settings, listeners);
    setup.journal = Some(directory.path().join("core-0"));
    let (report, prepared) = mpsc::channel();
    let mut echo = Echo::default();
    let mut next = 1;
    let gateway = start(setup, move |world, _, input| match input {
        Input::Completion(Completion::SegmentPrepared { segment, result, .. }) => {
            result.expect("prepared");
            // The test may have counted enough.
            let _ = report.send(*segment);
            next += 1;
            world.push(prepare(next, 1 << 20));
        }
        // The loop ends without the last of them.
        Input::Completion(Completion::SegmentFreed { .. }) => {}
        Input::Start => {
            world.push(prepare(1, 1 << 20));
            echo.input(world, Input::Start);
        }
        input => echo.input(world, input),
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Clients that never let the core rest.
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).expect("connected");
                let mut reader = stream.try_clone().expect("duplicated");
                scope.spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while matches!(reader.read(&mut buffer), Ok(1..)) {}
                });
                let chunk = vec![1; 1 << 16];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match stream.write(&chunk) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                stream.shutdown(std::net::Shutdown::Write).expect("shut down");
            });
        }
        for expected in 1..=20 {
            let segment = prepared.recv_timeout(PATIENCE).expect("segments are prepared all the while");
            assert_eq!(segment, expected);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(prepared);
    // The chain of preparations has no end of its own, so the process's end is its end.
    drop(gateway);
}

// ---- limits

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
