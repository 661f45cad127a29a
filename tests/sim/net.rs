//! The network and the wires: connections whose bytes arrive in chunks of any size after delays of any length, or never.
//!
//! A serial port is a connection too, whose buffer towards the shard is as small as a tty's and which loses what lies
//! in it when it hangs up. The peers (machines and receiver) write and read whole pipes; the shard's end goes
//! through reads and sends as the contract of its operations has them.

use super::context::{Context, US};
use super::event::{ConnId, End, Event};
use crate::say;
use ringest::shard::{LinkId, Readable};
use std::collections::VecDeque;

pub const EPIPE: i32 = 32;
pub const ECONNRESET: i32 = 104;
pub const EIO: i32 = 5;
/// What a tty holds before its writer must wait.
pub const TTY_BYTES: usize = 11_980;
const SOCKET_BYTES: usize = 64 * 1024;

/// Who is at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The API's receiver.
    Receiver,
    /// A machine.
    Machine(usize),
}

/// How bytes travel in this world.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Longest ordinary delay of a chunk.
    pub delay_ns: u64,
    /// How often, in a hundred, a chunk is small.
    pub small_chunks: u32,
    /// How often, in a thousand, a chunk comes late by up to `late_ns`.
    pub late: u32,
    pub late_ns: u64,
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    travelling: VecDeque<u8>,
    arrived: VecDeque<u8>,
    /// The sender has no more.
    fin: bool,
    /// And that is known at the far end.
    fin_arrived: bool,
    stalled_until_ns: u64,
    /// A flow event is under way.
    flowing: bool,
}

/// The shard's read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Off,
    Armed,
    /// Cancelled, not yet said so.
    Pausing,
    /// Ended for good.
    Ended,
}

/// A connection.
pub struct Conn {
    pub peer: Peer,
    pub kind: Readable,
    pub link: Option<LinkId>,
    pub read: Read,
    readable_due: bool,
    send: Option<Vec<u8>>,
    send_done: usize,
    send_due: bool,
    shutdown: bool,
    to_shard: Pipe,
    to_peer: Pipe,
    /// Torn down: what has not arrived will not.
    pub reset: bool,
    hang_up_errno: Option<i32>,
    pub shard_open: bool,
    pub peer_open: bool,
    /// Bytes handed to the shard so far.
    pub handed_bytes: u64,
    /// Connections that it follows, each of which is handed so many bytes before; and those that follow it.
    older: Vec<(ConnId, u64)>,
    newer: Vec<ConnId>,
}

/// What the shard's read gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(Vec<u8>),
    Closed,
    Error(i32),
}

/// What a peer sees when it looks.
#[derive(Debug, Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub fin: bool,
    pub reset: bool,
}

pub struct Net {
    pub conns: Vec<Conn>,
    pub weather: Weather,
    pub read_buffer_bytes: usize,
}

impl Net {
    pub fn new(weather: Weather, read_buffer_bytes: usize) -> Self {
        Self { conns: Vec::new(), weather, read_buffer_bytes }
    }

    /// A new connection, open at both ends.
    pub fn open(&mut self, peer: Peer, kind: Readable) -> ConnId {
        self.conns.push(Conn {
            peer,
            kind,
            link: None,
            read: Read::Off,
            readable_due: false,
            send: None,
            send_done: 0,
            send_due: false,
            shutdown: false,
            to_shard: Pipe::default(),
            to_peer: Pipe::default(),
            reset: false,
            hang_up_errno: None,
            shard_open: true,
            peer_open: true,
            handed_bytes: 0,
            older: Vec::new(),
            newer: Vec::new(),
        });
        self.conns.len() - 1
    }

    /// Whether the shard will hear no more bytes of a connection.
    pub fn is_read_out(&self, conn: ConnId) -> bool {
        !self.conns[conn].shard_open || self.conns[conn].read == Read::Ended
    }

    /// Whether all that the peer sent is at the shard's end, and its own end with it.
    pub fn has_arrived(&self, conn: ConnId) -> bool {
        let pipe = &self.conns[conn].to_shard;
        self.is_read_out(conn) || self.conns[conn].reset || (pipe.travelling.is_empty() && pipe.fin_arrived)
    }

    /// A connection is not read before what an older one has received by now; one that its peer has ended, to its end.
    pub fn order_behind(&mut self, conn: ConnId, older: ConnId) {
        let state = &self.conns[older];
        let is_over = state.reset || state.to_shard.fin_arrived;
        let until = if is_over { u64::MAX } else { state.handed_bytes + state.to_shard.arrived.len() as u64 };
        if !self.is_read_out(older) && state.handed_bytes < until {
            self.conns[conn].older.push((older, until));
            self.conns[older].newer.push(conn);
        }
    }

    /// Whether a connection waits for an older one.
    fn waits(&self, conn: ConnId) -> bool {
        let is_due = |older: ConnId, until: u64| !self.is_read_out(older) && self.conns[older].handed_bytes < until;
        self.conns[conn].older.iter().any(|(older, until)| is_due(*older, *until))
    }

    fn wake_newer(&mut self, cx: &mut Context, conn: ConnId) {
        for newer in self.conns[conn].newer.clone() {
            self.wake_read(cx, newer);
        }
    }

    fn delay(&self, cx: &mut Context) -> u64 {
        let late = cx.rng.u32(..1000) < self.weather.late;
        let most = if late { self.weather.late_ns } else { self.weather.delay_ns };
        cx.rng.u64(US..=most.max(2 * US))
    }

    fn chunk(&self, cx: &mut Context, most: usize) -> usize {
        if most > 1 && cx.rng.u32(..100) < self.weather.small_chunks { cx.rng.usize(1..=most.min(24)) } else { most }
    }

    fn start_flow(&mut self, cx: &mut Context, conn: ConnId, to: End) {
        let delay = self.delay(cx);
        let pipe = self.pipe(conn, to);
        if !pipe.flowing {
            pipe.flowing = true;
            cx.after(delay, Event::Flow { conn, to });
        }
    }

    fn pipe(&mut self, conn: ConnId, to: End) -> &mut Pipe {
        let conn = &mut self.conns[conn];
        if to == End::Shard { &mut conn.to_shard } else { &mut conn.to_peer }
    }

    /// [`Event::Flow`]. True if the peer has something to look at.
    pub fn flow(&mut self, cx: &mut Context, conn: ConnId, to: End) -> bool {
        let room = match (to, self.conns[conn].kind) {
            (End::Shard, Readable::Tty) => TTY_BYTES,
            _ => SOCKET_BYTES,
        };
        let now = cx.now_ns;
        let pipe = self.pipe(conn, to);
        pipe.flowing = false;
        if pipe.stalled_until_ns > now {
            pipe.flowing = true;
            let until = pipe.stalled_until_ns;
            cx.queue.push(until, Event::Flow { conn, to });
            return false;
        }
        if self.conns[conn].reset {
            return to == End::Peer;
        }
        let travelling = self.pipe(conn, to).travelling.len();
        let free = room.saturating_sub(self.pipe(conn, to).arrived.len());
        let chunk = self.chunk(cx, travelling.min(free));
        let pipe = self.pipe(conn, to);
        let moved = pipe.travelling.drain(..chunk);
        pipe.arrived.extend(moved);
        pipe.fin_arrived = pipe.fin && pipe.travelling.is_empty();
        if (!pipe.travelling.is_empty() && pipe.arrived.len() < room) || (pipe.fin && !pipe.fin_arrived) {
            self.start_flow(cx, conn, to);
        }
        match to {
            End::Shard => {
                self.wake_read(cx, conn);
                false
            }
            End::Peer => {
                self.pump_send(cx, conn);
                true
            }
        }
    }

    /// Holds a direction back until a time.
    pub fn stall(&mut self, conn: ConnId, to: End, until_ns: u64) {
        let pipe = self.pipe(conn, to);
        pipe.stalled_until_ns = pipe.stalled_until_ns.max(until_ns);
    }

    // The peer's end.

    /// Bytes that the peer can write now.
    pub fn room(&self, conn: ConnId) -> usize {
        let state = &self.conns[conn];
        let most = if state.kind == Readable::Tty { TTY_BYTES } else { SOCKET_BYTES };
        most.saturating_sub(state.to_shard.travelling.len() + state.to_shard.arrived.len())
    }

    /// Bytes that the peer wrote and the shard has not read.
    pub fn unread(&self, conn: ConnId) -> usize {
        let pipe = &self.conns[conn].to_shard;
        pipe.travelling.len() + pipe.arrived.len()
    }

    pub fn write(&mut self, cx: &mut Context, conn: ConnId, bytes: &[u8]) {
        let state = &mut self.conns[conn];
        assert!(state.peer_open && !state.to_shard.fin, "a peer writes on what it closed");
        if state.reset || !state.shard_open {
            return; // the peer will hear of it
        }
        state.to_shard.travelling.extend(bytes);
        self.start_flow(cx, conn, End::Shard);
    }

    /// These are there already when the shard begins to read.
    pub fn find(&mut self, conn: ConnId, bytes: &[u8]) {
        self.conns[conn].to_shard.arrived.extend(bytes);
    }

    /// The peer sends no more, but reads on.
    pub fn finish(&mut self, cx: &mut Context, conn: ConnId) {
        self.conns[conn].to_shard.fin = true;
        self.start_flow(cx, conn, End::Shard);
    }

    /// The peer closes: what it wrote arrives, what comes for it later is answered with a reset.
    pub fn close_peer(&mut self, cx: &mut Context, conn: ConnId) {
        if self.conns[conn].peer_open {
            self.finish(cx, conn);
            self.conns[conn].peer_open = false;
        }
    }

    /// All that has arrived at the peer.
    pub fn look(&mut self, cx: &mut Context, conn: ConnId) -> Seen {
        let state = &mut self.conns[conn];
        let bytes: Vec<u8> = state.to_peer.arrived.drain(..).collect();
        if !state.peer_open {
            if !bytes.is_empty() && !state.reset {
                self.tear(cx, conn);
            }
            return Seen::default();
        }
        let state = &self.conns[conn];
        Seen { bytes, fin: state.to_peer.fin_arrived, reset: state.reset }
    }

    /// The connection is torn down by the peer or the network. What had arrived may still be read.
    pub fn tear(&mut self, cx: &mut Context, conn: ConnId) {
        let lose = cx.rng.bool();
        let state = &mut self.conns[conn];
        if state.reset {
            return;
        }
        state.reset = true;
        for pipe in [&mut state.to_shard, &mut state.to_peer] {
            pipe.travelling.clear();
            if lose {
                pipe.arrived.clear();
            }
        }
        self.wake_read(cx, conn);
        self.pump_send(cx, conn);
        self.start_flow(cx, conn, End::Peer);
    }

    /// A tty goes away: what was not read is lost. `errno` is what the next read gives, or 0 bytes.
    pub fn hang_up(&mut self, cx: &mut Context, conn: ConnId, errno: Option<i32>) {
        let state = &mut self.conns[conn];
        state.to_shard.travelling.clear();
        state.to_shard.arrived.clear();
        state.hang_up_errno = errno;
        state.reset = true;
        state.peer_open = false;
        self.wake_read(cx, conn);
        self.pump_send(cx, conn);
    }

    // The shard's end.

    /// Schedules what an armed read has to say.
    pub fn wake_read(&mut self, cx: &mut Context, conn: ConnId) {
        if self.waits(conn) {
            return;
        }
        let state = &mut self.conns[conn];
        let something = !state.to_shard.arrived.is_empty() || state.to_shard.fin_arrived || state.reset;
        let reading = state.shard_open && matches!(state.read, Read::Armed | Read::Pausing);
        if something && reading && !state.readable_due {
            state.readable_due = true;
            let delay = cx.rng.u64(..20 * US);
            cx.after(delay, Event::Readable { conn });
        }
    }

    /// [`Event::Readable`]: what the read gives, if it still reads.
    pub fn read(&mut self, cx: &mut Context, conn: ConnId) -> Option<Got> {
        let state = &mut self.conns[conn];
        state.readable_due = false;
        if !state.shard_open || !matches!(state.read, Read::Armed | Read::Pausing) {
            return None;
        }
        let most = state.to_shard.arrived.len().min(self.read_buffer_bytes);
        if most == 0 {
            let got = match state {
                Conn { reset: true, kind: Readable::Tty, hang_up_errno: Some(errno), .. } => Got::Error(*errno),
                Conn { reset: true, kind: Readable::Tty, .. } => Got::Closed,
                Conn { reset: true, .. } => Got::Error(ECONNRESET),
                Conn { to_shard: Pipe { fin_arrived: true, .. }, .. } => Got::Closed,
                _ => return None,
            };
            state.read = Read::Ended;
            self.wake_newer(cx, conn);
            return Some(got);
        }
        let chunk = self.chunk(cx, most);
        let state = &mut self.conns[conn];
        let bytes: Vec<u8> = state.to_shard.arrived.drain(..chunk).collect();
        state.handed_bytes += bytes.len() as u64;
        self.wake_read(cx, conn);
        self.wake_newer(cx, conn);
        if !self.conns[conn].to_shard.travelling.is_empty() {
            self.start_flow(cx, conn, End::Shard);
        }
        Some(Got::Bytes(bytes))
    }

    /// Takes over a send; [`Event::Sent`] follows.
    pub fn send(&mut self, cx: &mut Context, conn: ConnId, bytes: Vec<u8>) {
        let state = &mut self.conns[conn];
        assert!(state.send.is_none() && !state.shutdown);
        state.send = Some(bytes);
        state.send_done = 0;
        self.pump_send(cx, conn);
    }

    /// Whether a send is in flight.
    pub fn sending(&self, conn: ConnId) -> bool {
        self.conns[conn].send.is_some()
    }

    fn pump_send(&mut self, cx: &mut Context, conn: ConnId) {
        let state = &mut self.conns[conn];
        let Some(bytes) = &state.send else { return };
        if state.send_due {
            return;
        }
        let broken = state.reset;
        if !broken {
            let room = SOCKET_BYTES.saturating_sub(state.to_peer.travelling.len());
            let end = bytes.len().min(state.send_done + room);
            state.to_peer.travelling.extend(&bytes[state.send_done..end]);
            state.send_done = end;
        }
        if broken || state.send_done == bytes.len() {
            state.send_due = true;
            let delay = cx.rng.u64(US..100 * US);
            cx.after(delay, Event::Sent { conn });
        }
        if !broken {
            self.start_flow(cx, conn, End::Peer);
        }
    }

    /// [`Event::Sent`]: the buffer and the result, if the link is still open.
    pub fn sent(&mut self, cx: &mut Context, conn: ConnId) -> Option<(Vec<u8>, Result<(), i32>)> {
        let state = &mut self.conns[conn];
        state.send_due = false;
        if !state.shard_open {
            return None;
        }
        let bytes = state.send.take()?;
        let result = if state.send_done == bytes.len() {
            Ok(())
        } else if cx.rng.bool() {
            Err(EPIPE)
        } else {
            Err(ECONNRESET)
        };
        if self.conns[conn].shutdown {
            self.conns[conn].to_peer.fin = true;
            self.start_flow(cx, conn, End::Peer);
        }
        Some((bytes, result))
    }

    /// The shard sends no more.
    pub fn shutdown(&mut self, cx: &mut Context, conn: ConnId) {
        self.conns[conn].shutdown = true;
        if self.conns[conn].send.is_none() {
            self.conns[conn].to_peer.fin = true;
            self.start_flow(cx, conn, End::Peer);
        }
    }

    /// Whether the shard has shut down its sending half.
    pub fn is_shut_down(&self, conn: ConnId) -> bool {
        self.conns[conn].shutdown
    }

    /// The shard's end is closed, by the shard or by its death. With bytes unread, the peer sees a reset.
    pub fn close_shard(&mut self, cx: &mut Context, conn: ConnId) {
        let state = &mut self.conns[conn];
        if !state.shard_open {
            return;
        }
        state.shard_open = false;
        state.link = None;
        state.read = Read::Ended;
        state.send = None;
        let unread = !state.to_shard.arrived.is_empty() || !state.to_shard.travelling.is_empty();
        state.to_shard.travelling.clear();
        state.to_shard.arrived.clear();
        self.wake_newer(cx, conn);
        let state = &mut self.conns[conn];
        if state.reset {
            return;
        }
        if unread && state.kind != Readable::Tty {
            state.reset = true;
            let lose = cx.rng.bool();
            if lose {
                self.conns[conn].to_peer.travelling.clear();
                self.conns[conn].to_peer.arrived.clear();
            }
            self.start_flow(cx, conn, End::Peer);
        } else {
            self.conns[conn].to_peer.fin = true;
            self.start_flow(cx, conn, End::Peer);
        }
        say!(cx, "conn {conn} closed by the shard");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(seed: u64) -> (Context, Net) {
        let weather = Weather { delay_ns: 3_000_000, small_chunks: 40, late: 20, late_ns: 50_000_000 };
        (Context::new(seed, false), Net::new(weather, 1000))
    }

    /// Runs all events; what the shard read, what the peer saw, and the results of sends.
    fn run(cx: &mut Context, net: &mut Net, conn: ConnId) -> (Vec<u8>, Vec<Got>, Seen, usize) {
        let (mut read, mut ends, mut all, mut sent) = (Vec::new(), Vec::new(), Seen::default(), 0);
        while let Some(at) = cx.queue.next_at() {
            cx.now_ns = at;
            match cx.queue.pop_due(at) {
                Some(Event::Flow { conn, to }) => {
                    if net.flow(cx, conn, to) {
                        let seen = net.look(cx, conn);
                        all.bytes.extend(seen.bytes);
                        (all.fin, all.reset) = (seen.fin, seen.reset);
                    }
                }
                Some(Event::Readable { conn }) => match net.read(cx, conn) {
                    Some(Got::Bytes(bytes)) => read.extend(bytes),
                    Some(end) => ends.push(end),
                    None => {}
                },
                Some(Event::Sent { .. }) => sent += usize::from(net.sent(cx, conn).is_some_and(|(_, r)| r.is_ok())),
                other => panic!("{other:?}"),
            }
        }
        (read, ends, all, sent)
    }

    #[test]
    fn bytes_arrive_whole_and_in_order_both_ways_in_any_weather() {
        let bytes: Vec<u8> = (0..100_000u32).map(|index| (index * 7 % 251) as u8).collect();
        for seed in 0..20 {
            let (mut cx, mut net) = net(seed);
            let conn = net.open(Peer::Receiver, Readable::Socket);
            net.conns[conn].read = Read::Armed;
            net.write(&mut cx, conn, &bytes);
            net.finish(&mut cx, conn);
            net.send(&mut cx, conn, bytes.clone());
            net.stall(conn, End::Peer, cx.now_ns + 1_000_000_000);
            let (read, ends, seen, sent) = run(&mut cx, &mut net, conn);
            assert!(read == bytes && seen.bytes == bytes && !seen.reset);
            assert_eq!((ends, sent), (vec![Got::Closed], 1));
            assert!(cx.now_ns > 1_000_000_000);
        }
    }

    #[test]
    fn a_torn_connection_gives_a_prefix_and_then_an_error_on_both_ends() {
        let bytes = vec![5; 50_000];
        for seed in 0..20 {
            let (mut cx, mut net) = net(seed);
            let conn = net.open(Peer::Receiver, Readable::Socket);
            net.conns[conn].read = Read::Armed;
            net.write(&mut cx, conn, &bytes);
            net.send(&mut cx, conn, vec![7; 200_000]);
            net.tear(&mut cx, conn);
            let (read, ends, seen, sent) = run(&mut cx, &mut net, conn);
            assert!(read.len() < bytes.len() && seen.bytes.len() < 200_000 && seen.reset);
            assert_eq!((ends, sent), (vec![Got::Error(ECONNRESET)], 0));
        }
    }

    #[test]
    fn closing_with_bytes_unread_resets_and_else_it_is_an_end() {
        for unread in [false, true] {
            let (mut cx, mut net) = net(1);
            let conn = net.open(Peer::Machine(0), Readable::Socket);
            if unread {
                net.write(&mut cx, conn, b"x");
            }
            net.close_shard(&mut cx, conn);
            let (read, ends, seen, _) = run(&mut cx, &mut net, conn);
            assert!(read.is_empty() && ends.is_empty());
            assert_eq!((seen.fin, seen.reset), (!unread, unread));
        }
    }

    #[test]
    fn a_hang_up_loses_what_was_not_read_and_a_tty_holds_little() {
        let (mut cx, mut net) = net(1);
        let conn = net.open(Peer::Machine(0), Readable::Tty);
        assert_eq!(net.room(conn), TTY_BYTES);
        net.write(&mut cx, conn, &[1; TTY_BYTES]);
        assert_eq!(net.room(conn), 0);
        run(&mut cx, &mut net, conn);
        net.conns[conn].read = Read::Armed;
        net.hang_up(&mut cx, conn, Some(EIO));
        let (read, ends, ..) = run(&mut cx, &mut net, conn);
        assert_eq!((read, ends), (vec![], vec![Got::Error(EIO)]));
    }
}
