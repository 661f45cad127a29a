//! The machines: what they send, when, and how they take it when the line is lost.
//!
//! Serial and TCP machines are told nothing: a record on its way when the line is lost is gone, and they go on with the next. Some send
//! without pause: whoever opens their line hears the end of a record first.
//! An HTTP machine sends a record again, under the same key, until it is answered 201.

use super::context::{Context, MS, US};
use super::event::{ConnId, Event};
use super::forms::{self, Forms, Load};
use super::http::{self, Answer};
use super::net::{Net, Peer, Seen};
use super::oracle::Oracle;
use super::payload::{self, Alphabet};
use super::plan::socket_of;
use super::proxy;
use crate::say;
use ringest::framing::{Framing, FramingKind};
use ringest::shard::SourceId;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Serial,
    /// Connects to a `tcp_listen` source.
    TcpOut,
    /// Is connected to by a `tcp_connect` source.
    TcpServer,
    Http,
}

/// What a machine does.
#[derive(Debug, Clone)]
pub struct MachinePlan {
    pub kind: Kind,
    pub source: SourceId,
    /// Records until it has done its share.
    pub quota: u64,
    /// Mean time between records.
    pub gap_ns: u64,
    /// Longest record.
    pub bytes_max: usize,
    pub alphabet: Alphabet,
    /// How its records are framed.
    pub framing: Framing,
    /// Every record has this length.
    pub fixed_bytes: Option<usize>,
    /// It is silent at least so long after each record.
    pub silence_ns: u64,
    /// How often, in a hundred, junk comes before a record, or a byte of it changes on the line.
    pub junk: u32,
    /// How often, in a thousand, it drops its connection after a record (half of the times in the middle of one).
    pub fickle: u32,
    /// HTTP: requests in flight.
    pub depth: usize,
    /// Serial: records are lost while the gateway has the port closed, else they wait.
    pub talks_to_the_wall: bool,
    /// It is in the middle of a record when its line is opened.
    pub is_joined: bool,
    /// Closes its connection when done.
    pub leaves: bool,
    /// Connects again only when all that it sent on the last connection has arrived, read or not: else there is no order to keep.
    pub one_at_a_time: bool,
    /// HTTP: a record that is sent again goes to the SOURCE that it was first sent to, and is the same by its key.
    pub keyed: bool,
    /// HTTP: it gives a lot with its records, in a header.
    pub has_lots: bool,
    pub forms: Forms,
}

/// A request of an HTTP machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Post {
    /// Of its first record.
    number: u64,
    load: Load,
    /// The SOURCE that it was sent to first; empty before that.
    lane: String,
    /// It was sent there by another connection before.
    again: bool,
    /// It was answered 201 before.
    done: bool,
    /// What was known of its key may be lost.
    excused: bool,
}

/// Answered records that a machine may send again.
const DONE_MAX: usize = 60;

/// A listener of the shard, as the world sees it.
#[derive(Debug, Default)]
pub struct Listener {
    pub armed: bool,
    /// Armed for one connection.
    pub one: bool,
    pub due: bool,
    pub backlog: VecDeque<(ConnId, SocketAddr)>,
}

/// A serial port.
#[derive(Debug, Default)]
pub struct Port {
    pub present: bool,
    pub open: bool,
}

/// How machines get at the shard.
#[derive(Debug, Default)]
pub struct Doors {
    /// Listeners are bound.
    pub up: bool,
    pub listeners: BTreeMap<SourceId, Listener>,
    pub ports: BTreeMap<SourceId, Port>,
}

/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

pub struct Machine {
    pub plan: MachinePlan,
    index: usize,
    wake: u32,
    pub conn: Option<ConnId>,
    /// HTTP: connections that it sends on later, with the bytes written on each.
    spare: VecDeque<(ConnId, u64)>,
    sequence: u64,
    last_conn: Option<ConnId>,
    connections: u16,
    /// Stream machines: what is left of the record that is being written.
    out: Vec<u8>,
    /// Records that count towards the quota: handed in, or answered 201.
    pub done: u64,
    /// HTTP: sent and not answered; to be sent again.
    unanswered: VecDeque<Post>,
    again: VecDeque<Post>,
    /// Answered 201 lately.
    done_posts: VecDeque<Post>,
    input: Vec<u8>,
    written: u64,
    lane: String,
    /// HTTP: nothing more is sent on this connection.
    finished: bool,
    /// So many more records come at once.
    pub flood: u32,
}

/// Bytes as the kernel gives them under PARMRK (termios(3)); on a noisy line with errors and breaks.
fn marked(rng: &mut fastrand::Rng, bytes: &[u8], noisy: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for &byte in bytes {
        if noisy && rng.u8(..20) == 0 {
            out.extend([0xFF, 0, 0]);
        }
        if noisy && byte != 0 && rng.u8(..20) == 0 {
            out.extend([0xFF, 0, byte]);
        } else if byte == 0xFF {
            out.extend([0xFF, 0xFF]);
        } else {
            out.push(byte);
        }
    }
    out
}

/// Each record of a request was.
fn acknowledged(oracle: &mut Oracle, Post { load, lane, again, .. }: &Post) -> Result<(), String> {
    load.records.iter().try_for_each(|record| oracle.acknowledged(lane, record, *again))
}

/// A stream machine writes no more while so much of it was not read.
const UNREAD_BYTES_MAX: usize = 6000;

impl Machine {
    pub fn new(index: usize, plan: MachinePlan) -> Self {
        Self {
            plan,
            index,
            wake: 0,
            conn: None,
            spare: VecDeque::new(),
            sequence: 0,
            last_conn: None,
            connections: 0,
            out: Vec::new(),
            done: 0,
            unanswered: VecDeque::new(),
            again: VecDeque::new(),
            done_posts: VecDeque::new(),
            input: Vec::new(),
            written: 0,
            lane: String::new(),
            finished: false,
            flood: 0,
        }
    }

    /// What ends a record.
    fn end(&self) -> &[u8] {
        match &self.plan.framing.kind {
            FramingKind::Delimiter { ends } => &ends[0],
            _ => &[],
        }
    }

    /// A line that is not clean: bytes before the record, or a bit of it.
    fn junk(&mut self, cx: &mut Context) {
        if cx.rng.bool() {
            cx.stats.count("junk before a record");
            let mut junk: Vec<u8> = (0..cx.rng.usize(1..80)).map(|_| cx.rng.u8(..)).collect();
            junk.append(&mut self.out);
            self.out = junk;
        } else {
            cx.stats.count("bit changed on the line");
            let at = cx.rng.usize(..self.out.len());
            self.out[at] ^= 1 << cx.rng.u8(..8);
        }
    }

    pub fn is_done(&self) -> bool {
        self.done >= self.plan.quota
    }

    /// Whether it has done its share and waits for nothing.
    pub fn is_at_rest(&self) -> bool {
        self.is_done() && self.out.is_empty() && self.unanswered.is_empty() && self.again.is_empty()
    }

    /// Records made so far.
    pub fn sent(&self) -> u64 {
        self.sequence
    }

    /// Plans the next step, instead of one planned before.
    pub fn wake_in(&mut self, cx: &mut Context, delay_ns: u64) {
        self.wake += 1;
        cx.after(delay_ns, Event::Machine { machine: self.index, wake: self.wake });
    }

    fn gap(&self, cx: &mut Context) -> u64 {
        // Mostly short gaps, so that records come in bursts, and some long ones.
        let gap = self.plan.gap_ns;
        if cx.chance(70) { cx.rng.u64(US..=gap / 2) } else { cx.rng.u64(gap / 2..=gap * 3) }
    }

    /// [`Event::Machine`].
    pub fn step(&mut self, cx: &mut Context, net: &mut Net, doors: &mut Doors, oracle: &mut Oracle, wake: u32) {
        if wake != self.wake {
            return;
        }
        let Some(conn) = self.conn else {
            self.connect(cx, net, doors, oracle);
            return;
        };
        if self.is_done() && self.out.is_empty() && self.unanswered.is_empty() {
            if self.plan.leaves && matches!(self.plan.kind, Kind::TcpOut | Kind::Http) {
                say!(cx, "machine {} is done and closes conn {conn}", self.index);
                net.close_peer(cx, conn);
                self.conn = None;
                self.close_spare(cx, net);
            }
            return;
        }
        if self.plan.kind == Kind::Http {
            let Some(conn) = self.next_conn(cx, net, doors, oracle, conn) else { return };
            self.step_http(cx, net, oracle, conn);
        } else {
            self.step_stream(cx, net, conn);
        }
    }

    /// A machine with several connections sends on another one, or opens it, once all is answered.
    fn next_conn(
        &mut self,
        cx: &mut Context,
        net: &mut Net,
        doors: &mut Doors,
        oracle: &mut Oracle,
        conn: ConnId,
    ) -> Option<ConnId> {
        if !self.plan.forms.is_spread() || self.finished || !self.unanswered.is_empty() {
            return Some(conn);
        }
        if self.lane.is_empty() {
            net.close_peer(cx, conn);
            self.conn = None;
            self.connect(cx, net, doors, oracle);
            return None;
        }
        self.spare.push_back((conn, self.written));
        if self.spare.len() < self.plan.forms.connections {
            self.conn = None;
            self.connect(cx, net, doors, oracle);
            return None;
        }
        cx.stats.count("SOURCE on its next connection");
        let (conn, written) = self.spare.pop_front()?;
        (self.conn, self.written) = (Some(conn), written);
        Some(conn)
    }

    fn close_spare(&mut self, cx: &mut Context, net: &mut Net) {
        for (conn, _) in std::mem::take(&mut self.spare) {
            net.close_peer(cx, conn);
        }
    }

    fn connect(&mut self, cx: &mut Context, net: &mut Net, doors: &mut Doors, oracle: &mut Oracle) {
        if self.is_done() && self.again.is_empty() {
            return;
        }
        if matches!(self.plan.kind, Kind::Serial | Kind::TcpServer) {
            if self.plan.kind == Kind::Serial && self.plan.talks_to_the_wall {
                self.sequence += 1; // lost on the wire: nobody listens
            }
            let gap = self.gap(cx);
            self.wake_in(cx, gap);
            return;
        }
        let listener = doors.listeners.entry(self.plan.source).or_default();
        let travels = self.plan.one_at_a_time && self.last_conn.is_some_and(|conn| !net.has_arrived(conn));
        if !doors.up || listener.backlog.len() >= BACKLOG || travels {
            let delay = cx.rng.u64(MS..100 * MS);
            self.wake_in(cx, delay);
            return;
        }
        let conn = net.open(Peer::Machine(self.index), socket_of(self.plan.kind, self.plan.source));
        if self.plan.one_at_a_time && self.last_conn.is_some_and(|conn| !net.is_read_out(conn)) {
            cx.stats.count("machine back before its last connection was read");
        }
        self.last_conn = Some(conn);
        self.connections += 1;
        let is_proxied = self.plan.forms.is_proxied && self.plan.kind == Kind::Http;
        let (from, header) = proxy::connection(&mut cx.rng, is_proxied, self.index, 40_000 + self.connections);
        listener.backlog.push_back((conn, from));
        if self.lane.is_empty() || !self.plan.forms.is_spread() {
            self.close_spare(cx, net);
            self.lane = format!("{}{}-{}", self.plan.forms.prefix(), self.index, self.connections);
        }
        say!(cx, "machine {} connects: conn {conn}", self.index);
        if !listener.due && listener.armed {
            listener.due = true;
            let delay = cx.rng.u64(US..MS);
            cx.after(delay, Event::Accept { source: self.plan.source });
        }
        if self.plan.kind == Kind::Http {
            oracle.open_http(conn, &self.lane);
        }
        self.begin(cx, net, conn);
        if is_proxied {
            cx.stats.count("connection of a proxy");
            self.written = header.len() as u64;
            net.write(cx, conn, &header);
        }
    }

    /// A connection or an open port to work with.
    pub fn begin(&mut self, cx: &mut Context, net: &mut Net, conn: ConnId) {
        self.conn = Some(conn);
        self.out.clear();
        self.input.clear();
        self.written = 0;
        self.finished = false;
        if self.plan.is_joined && !self.is_done() {
            cx.stats.count("line opened in the middle of a record");
            let tail = self.tail(cx);
            net.find(conn, &tail);
        }
        let delay = cx.rng.u64(US..2 * MS);
        self.wake_in(cx, delay);
    }

    /// The connection is gone.
    pub fn lose(&mut self, cx: &mut Context) {
        self.conn = None;
        self.out.clear();
        if !self.unanswered.is_empty() {
            // What is sent next must not follow what is still on its way.
            self.lane.clear();
        }
        let keyed = self.plan.keyed;
        for mut post in self.unanswered.drain(..).filter(|post| !post.done) {
            if !keyed || post.excused {
                post = Post { lane: String::new(), again: false, excused: false, ..post };
            }
            self.again.push_back(post);
        }
        self.again.make_contiguous().sort();
        // What has no answer is sent again at once, or long after.
        let late = keyed && !self.again.is_empty() && cx.chance(20);
        let delay = if late { cx.rng.u64(50 * MS..2_000 * MS) } else { cx.rng.u64(MS..50 * MS) };
        self.wake_in(cx, delay);
    }

    fn record(&mut self, cx: &mut Context) -> (u64, Vec<u8>) {
        self.sequence += 1;
        let most = self.plan.bytes_max;
        let bytes = match cx.rng.u8(..10) {
            0 => cx.rng.usize(1..=20),
            1..=5 => cx.rng.usize(30..=most.min(200)),
            _ => cx.rng.usize(30..=most),
        };
        let bytes = if self.flood > 0 { cx.rng.usize(1..=20) } else { bytes };
        let bytes = self.plan.fixed_bytes.unwrap_or(bytes);
        let end = self.end().last().copied();
        (self.sequence, payload::make(&mut cx.rng, self.index, self.sequence, bytes, self.plan.alphabet, end))
    }

    /// The end of a record, as it is on the line: at least a byte of it is gone, and one is left.
    fn tail(&mut self, cx: &mut Context) -> Vec<u8> {
        let record = loop {
            let (_, record) = self.record(cx);
            if record.len() > 1 {
                break record;
            }
        };
        let tail = payload::encode(&self.plan.framing, &record).split_off(cx.rng.usize(1..record.len()));
        if self.plan.kind == Kind::Serial { marked(&mut cx.rng, &tail, false) } else { tail }
    }

    fn step_stream(&mut self, cx: &mut Context, net: &mut Net, conn: ConnId) {
        if self.out.is_empty() {
            if net.unread(conn) >= UNREAD_BYTES_MAX && self.flood == 0 {
                self.wake_in(cx, 5 * MS);
                return;
            }
            let (_, record) = self.record(cx);
            self.out = payload::encode(&self.plan.framing, &record);
            if cx.chance(5) && self.plan.framing.starts.is_empty() {
                let end = self.end().to_vec();
                self.out.extend(end); // an empty frame
            }
            if cx.chance(self.plan.junk) {
                self.junk(cx);
            }
            if self.plan.kind == Kind::Serial {
                let noisy = cx.chance(5);
                self.out = marked(&mut cx.rng, &self.out, noisy);
            }
        }
        let room = net.room(conn).min(self.out.len());
        let now = if cx.chance(80) { room } else { cx.rng.usize(..=room) };
        let bytes: Vec<u8> = self.out.drain(..now).collect();
        net.write(cx, conn, &bytes);
        let leaves = cx.rng.u32(..1000) < self.plan.fickle;
        if leaves && self.plan.kind != Kind::Serial {
            cx.stats.count(if self.out.is_empty() {
                "machine left between records"
            } else {
                "machine left in a record"
            });
            say!(cx, "machine {} leaves conn {conn}", self.index);
            if cx.rng.bool() {
                cx.stats.count("reset by a machine");
                net.tear(cx, conn);
            } else {
                net.close_peer(cx, conn);
            }
            self.lose(cx);
            return;
        }
        let delay = match (self.out.is_empty(), self.flood) {
            (true, 0) => self.gap(cx) + self.plan.silence_ns,
            (true, _) => cx.rng.u64(US..200 * US) + self.plan.silence_ns,
            (false, _) => cx.rng.u64(100 * US..20 * MS),
        };
        self.flood = self.flood.saturating_sub(1);
        self.wake_in(cx, delay);
    }

    /// Records of one of this machine's connections were handed to the shard whole; some of them are to be kept.
    pub fn handed(&mut self, kept: u64) {
        if self.plan.kind != Kind::Http {
            self.done += kept;
        }
    }

    fn step_http(&mut self, cx: &mut Context, net: &mut Net, oracle: &mut Oracle, conn: ConnId) {
        if self.finished {
            return; // the answers are still to come
        }
        let sent = (self.unanswered.len() * self.plan.forms.records) as u64;
        let wanted = self.plan.quota.saturating_sub(self.done + sent);
        if self.unanswered.len() < self.plan.depth && (wanted > 0 || !self.again.is_empty()) {
            let post = self.next_post(cx);
            let Post { number, ref load, .. } = post;
            let request = self.request(cx, &post);
            if net.room(conn) < request.len() {
                if !post.done {
                    self.again.push_front(post);
                }
                self.wake_in(cx, 5 * MS);
                return;
            }
            self.written += request.len() as u64;
            oracle.http_request(conn, self.written, (&post.lane, &load.records), post.again);
            net.write(cx, conn, &request);
            self.unanswered.push_back(post);
            say!(cx, "machine {} posts {number} on conn {conn}", self.index);
            if cx.rng.u32(..1000) < self.plan.fickle {
                match cx.rng.u8(..3) {
                    0 => {
                        cx.stats.count("http machine reset its connection");
                        net.tear(cx, conn);
                        self.lose(cx);
                    }
                    1 => {
                        cx.stats.count("http machine left without its answer");
                        net.close_peer(cx, conn);
                        self.lose(cx);
                    }
                    _ => {
                        cx.stats.count("http machine half-closed");
                        net.finish(cx, conn);
                        self.finished = true;
                    }
                }
                return;
            }
        }
        if self.unanswered.len() < self.plan.depth {
            let gap = self.gap(cx);
            self.wake_in(cx, gap);
        }
    }

    /// What is sent next: something that has no answer, something that has one already, or a new record.
    fn next_post(&mut self, cx: &mut Context) -> Post {
        if self.plan.keyed && !self.done_posts.is_empty() && cx.chance(5) {
            cx.stats.count("answered request repeated under its key");
            let at = cx.rng.usize(..self.done_posts.len());
            return Post { again: true, done: true, ..self.done_posts[at].clone() };
        }
        let lane = self.lane.clone();
        match self.again.pop_front() {
            Some(post) if post.lane.is_empty() => Post { lane, ..post },
            Some(post) => {
                let again = post.again || post.lane != lane;
                if again {
                    cx.stats.count("request repeated under its key");
                }
                Post { again, ..post }
            }
            None => {
                let (number, load) = self.load(cx);
                Post { number, load, lane, again: false, done: false, excused: false }
            }
        }
    }

    fn load(&mut self, cx: &mut Context) -> (u64, Load) {
        let forms = self.plan.forms;
        if !forms.is_batched() {
            let (number, record) = self.record(cx);
            return (number, Load::single(record));
        }
        let first = self.sequence + 1;
        self.sequence += forms.records as u64;
        (first, Load::several(&mut cx.rng, &forms, (self.index, first), self.plan.alphabet))
    }

    /// What the shard knew of keys may be lost.
    pub fn excuse_keys(&mut self) {
        self.done_posts.clear();
        self.unanswered.iter_mut().for_each(|post| post.excused = true);
        for post in &mut self.again {
            (post.lane, post.again) = (String::new(), false);
        }
    }

    fn request(&self, cx: &mut Context, Post { number, load, lane, .. }: &Post) -> Vec<u8> {
        let mut head = format!("POST /v1/records/{lane} HTTP/1.1\r\nHost: gateway:8443\r\n");
        head += &format!("Idempotency-Key: m{}-{number}\r\n", self.index);
        for lot in payload::lots(lane, &load.records[0]).iter().filter(|_| self.plan.has_lots) {
            head += &format!("x-LOT: {lot}\r\n");
        }
        match load.media {
            Some(media) => {
                let is_array = load.body.starts_with(b"[");
                cx.stats.count(if is_array { "records sent as an array" } else { "records sent as lines" });
                head += &format!("Content-Type: {media}\r\n");
            }
            None if cx.rng.bool() => {
                head += "Content-Type: application/octet-stream\r\nUser-Agent: gauge/2.1 (\u{b5}m)\r\n";
            }
            None => {}
        }
        let packed = (self.plan.forms.is_packed && cx.rng.bool()).then(|| forms::pack(&mut cx.rng, &load.body));
        if packed.is_some() {
            cx.stats.count("body packed");
            head += "Content-Encoding: gzip\r\n";
        }
        let body = packed.as_ref().unwrap_or(&load.body);
        if cx.rng.bool() {
            head += &format!("content-length: {}\r\n\r\n", body.len());
            return [head.as_bytes(), &body[..]].concat();
        }
        head += "Transfer-Encoding: chunked\r\n\r\n";
        let mut out = head.into_bytes();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(cx.rng.usize(1..=rest.len()));
            out.extend(format!("{:x}{}\r\n", chunk.len(), if cx.chance(10) { ";a=b" } else { "" }).as_bytes());
            out.extend(chunk);
            out.extend(b"\r\n");
            rest = after;
        }
        out.extend(b"0\r\n\r\n");
        out
    }

    /// Something arrived at the machine, or its connection ended.
    ///
    /// # Errors
    /// In words, for an answer that must not be.
    pub fn look(&mut self, cx: &mut Context, net: &mut Net, oracle: &mut Oracle, conn: ConnId) -> Result<(), String> {
        let seen = net.look(cx, conn);
        if self.conn != Some(conn) {
            if let Some(at) = self.spare.iter().position(|(spare, _)| *spare == conn) {
                self.look_at_spare(cx, net, at, &seen)?;
            }
            return Ok(());
        }
        if self.plan.kind == Kind::Http {
            self.input.extend(&seen.bytes);
            while let Some(answer) = http::answer(&self.input)? {
                self.input.drain(..answer.bytes);
                self.take_answer(cx, oracle, &answer)?;
            }
        }
        if seen.fin || seen.reset {
            say!(cx, "machine {} lost conn {conn}", self.index);
            net.close_peer(cx, conn);
            self.lose(cx);
        }
        Ok(())
    }

    /// Something arrived on a connection that waits for its turn.
    fn look_at_spare(&mut self, cx: &mut Context, net: &mut Net, at: usize, seen: &Seen) -> Result<(), String> {
        if !seen.bytes.is_empty() {
            return Err(format!("machine {}: an answer where nothing was asked", self.index));
        }
        if seen.fin || seen.reset {
            cx.stats.count("connection lost that waited for its turn");
            net.close_peer(cx, self.spare[at].0);
            self.spare.remove(at);
        }
        Ok(())
    }

    fn take_answer(&mut self, cx: &mut Context, oracle: &mut Oracle, answer: &Answer) -> Result<(), String> {
        let Some(post) = self.unanswered.pop_front() else {
            return Err(format!("machine {}: an answer without a request", self.index));
        };
        let Post { number, ref load, ref lane, again, done, .. } = post;
        let (status, records) = (answer.status, load.records.len());
        say!(cx, "machine {}: {number} answered {status}", self.index);
        if status == 201 && answer.body != format!("{{\"accepted\":{records}}}").as_bytes() {
            let body = String::from_utf8_lossy(&answer.body);
            return Err(format!("machine {}: {records} records are answered {body}", self.index));
        }
        match status {
            201 if done => acknowledged(oracle, &post)?,
            201 => {
                self.done += records as u64;
                cx.stats.count("acknowledged over HTTP");
                if records > 1 {
                    cx.stats.count("body of records acknowledged");
                }
                acknowledged(oracle, &post)?;
                if self.plan.keyed && !post.excused {
                    self.done_posts.push_back(post);
                    if self.done_posts.len() > DONE_MAX {
                        self.done_posts.pop_front();
                    }
                }
            }
            // The disk hangs; the connection ends with it.
            409 if self.plan.keyed => {
                cx.stats.count("answered 409: still on its way");
                if !done {
                    self.again.push_back(post);
                }
                self.lane.clear();
            }
            503 if done => load.records.iter().try_for_each(|record| oracle.refused(lane, record, again))?,
            503 => {
                cx.stats.count("refused over HTTP");
                load.records.iter().try_for_each(|record| oracle.refused(lane, record, again))?;
                self.again.push_back(post);
                self.again.make_contiguous().sort();
            }
            status => return Err(format!("machine {}: answered {status}", self.index)),
        }
        let gap = self.gap(cx);
        self.wake_in(cx, gap);
        Ok(())
    }
}
