//! Every byte, in order, on many connections: buffers that run out, reads that pause, wakes.

use crate::harness::{Input, PATIENCE, Running, Setup, World, listening, pattern, setup, start};
use ringest::engine::RingOptions;
use ringest::shard::{Completion, Fd, LinkId, Op, Readable, RecvEnd, SourceId};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Sends back what comes, in order, on every connection.
#[derive(Default)]
pub struct Echo {
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
    pub fn input(&mut self, world: &mut World, input: Input<'_, '_>) {
        match input {
            Input::Start => world.push(Op::Accept { source: SourceId(0) }),
            Input::Stop => world.finished = true,
            Input::Deadline => {}
            Input::Reload(reload) => {
                for source in &reload.started {
                    world.push(Op::Accept { source: *source });
                }
            }
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
                world.push(Op::Recv {
                    link: self.id(index as u32),
                    fd: *fd,
                    kind: Readable::Socket,
                    older: Vec::new(),
                });
            }
            Completion::Received { link: id, bytes } => {
                let pause_every = self.pause_every;
                let link = self.link(*id);
                link.waiting.extend_from_slice(bytes);
                link.receives += 1;
                if pause_every.is_some_and(|every| link.receives.is_multiple_of(every)) && !link.pausing {
                    link.pausing = true;
                    world.push(Op::PauseRecv { link: *id });
                }
                self.send(world, *id);
            }
            Completion::RecvEnded { link: id, end } => {
                let link = self.link(*id);
                if *end == RecvEnd::Paused {
                    assert!(std::mem::take(&mut link.pausing), "a pause that nobody asked for");
                    world.push(Op::Recv { link: *id, fd: Fd(link.fd), kind: Readable::Socket, older: Vec::new() });
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
        echo_clients(address, 1000, 600);
        let counters = gateway.stop();
        assert!(counters.buffers_exhausted > 0, "the buffers did run out");
    }
}

#[test]
fn every_byte_arrives_in_order_while_a_busy_core_waits_for_more() {
    for read_buffers in [8, 1024] {
        let (mut settings, listeners, address) = listening();
        settings.gateway.min_wait = Duration::from_micros(250);
        let mut setup = setup(settings, listeners);
        setup.ring = RingOptions { submissions: 64, completions: 256, read_buffers, read_buffer_bytes: 64 };
        let gateway = start_echo(setup, None);
        echo_clients(address, 1000, 600);
        gateway.stop();
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
fn while_requests_are_in_flight_a_turn_takes_its_share_and_every_byte_arrives_in_order() {
    // What one request in flight gives to links that were quiet and to others, and a read beyond each.
    const BUFFER_BYTES: usize = 512;
    const MOST_BYTES: usize = 2 * ((16 << 10) + BUFFER_BYTES);
    for (read_buffers, pause_every) in [(1024, None), (16, None), (64, Some(3))] {
        let (settings, listeners, address) = listening();
        let mut setup = setup(settings, listeners);
        (setup.ring.read_buffers, setup.ring.read_buffer_bytes) = (read_buffers, BUFFER_BYTES);
        let mut echo = Echo { pause_every, ..Echo::default() };
        let most = Arc::new(AtomicUsize::new(0));
        let (seen, mut turn) = (Arc::clone(&most), (0, 0));
        let gateway = start(setup, move |world, now, input| {
            world.in_flight = 1;
            if let Input::Completion(Completion::Received { bytes, .. }) = &input {
                // The clock is read once a turn.
                turn = (now.mono_ns, bytes.len() + if turn.0 == now.mono_ns { turn.1 } else { 0 });
                seen.fetch_max(turn.1, Ordering::Relaxed);
            }
            echo.input(world, input);
        });
        echo_clients(address, 40, 100_000);
        gateway.stop();
        let most = most.load(Ordering::Relaxed);
        assert!(most <= MOST_BYTES, "{most} bytes in a turn with {read_buffers} buffers");
    }
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
