//! The second driver of the shard: carries out its operations in the simulated world, holds it to the contract of
//! [`Op`], and brings it the completions.

use super::context::{MS, US};
use super::disk::Done;
use super::event::{ConnId, End, Event};
use super::forms::is_of_http;
use super::http;
use super::machines::Kind;
use super::net::{Got, Peer, Read};
use super::plan::{Level, socket_of};
use super::receiver::films;
use super::world::World;
use crate::say;
use ringest::config::{First, LaneKey, SourceKind};
use ringest::ground::RecordNumber;
use ringest::journal;
use ringest::shard::{Completion, ConnectError, Destination, Fd, LinkId, Now, Op, Readable, RecvEnd, Shard, SourceId};
use ringest::source::serial::PortError;
use std::collections::HashMap;
use std::net::SocketAddr;

/// The first descriptors are taken.
pub const FIRST_FD: i32 = 3;
const EMFILE: i32 = 24;
/// 2026-01-01, plus the virtual clock.
pub const WALL_OFFSET_NS: u64 = 1_767_225_600_000_000_000;

/// What the driver knows of a link of the shard.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    generation: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting(Destination),
    Opening(SourceId),
    /// The connect or open failed and the shard knows.
    Failed,
    Open(ConnId),
    Closing,
}

/// Names of a life's links in the trace: by first appearance, so that how the shard numbers them does not show.
#[derive(Debug, Default)]
pub struct Seen(HashMap<LinkId, usize>);

impl Seen {
    fn name(&mut self, link: LinkId) -> usize {
        let next = self.0.len();
        *self.0.entry(link).or_insert(next)
    }
}

fn fd(conn: ConnId) -> Fd {
    Fd(FIRST_FD + conn as i32)
}

impl World {
    pub fn now(&self) -> Now {
        Now { mono_ns: self.cx.now_ns, wall_ns: WALL_OFFSET_NS + self.cx.now_ns }
    }

    /// Hands the shard a completion.
    fn tell(&mut self, completion: Completion<'_>) {
        let now = self.now();
        if let Some(shard) = &mut self.shard {
            shard.handle(now, completion);
            self.told += 1;
        }
    }

    // Operations.

    /// Carries out one operation.
    ///
    /// # Errors
    /// In words, where it breaks the contract.
    pub fn perform(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Accept { source } => {
                say!(self.cx, "op accept on {}", source.0);
                let listener =
                    self.doors.listeners.get_mut(&source).ok_or("accept on a source that does not listen")?;
                if std::mem::replace(&mut listener.armed, true) && !listener.one {
                    return Err(format!("accept on {} is armed twice", source.0));
                }
                listener.one = false;
                self.wake_accept(source);
            }
            Op::AcceptOne { source } => {
                say!(self.cx, "op accept one on {}", source.0);
                let listener =
                    self.doors.listeners.get_mut(&source).ok_or("accept on a source that does not listen")?;
                (listener.armed, listener.one) = (true, true);
                self.wake_accept(source);
            }
            Op::PauseAccept { source } => {
                say!(self.cx, "op pause accept on {}", source.0);
                let listener = self.doors.listeners.get_mut(&source).ok_or("pause of a source that does not listen")?;
                listener.armed = false;
            }
            Op::Recv { link, fd, kind, older } => {
                let conn = self.open_conn(link, fd)?;
                say!(self.cx, "op recv on {}: conn {conn}", self.seen.name(link));
                let state = &mut self.net.conns[conn];
                if state.read != Read::Off || state.kind != kind {
                    return Err(format!("recv ({kind:?}) on conn {conn}, whose read is {:?}", state.read));
                }
                state.read = Read::Armed;
                self.order_behind(conn, &older);
                self.net.wake_read(&mut self.cx, conn);
            }
            Op::PauseRecv { link } => self.pause_recv(link)?,
            Op::Send { link, fd, bytes } => {
                let conn = self.open_conn(link, fd)?;
                let (name, hash) = (self.seen.name(link), crc32c::crc32c(&bytes));
                say!(self.cx, "op send on {name}: conn {conn}, {} B, {hash:08x}", bytes.len());
                if bytes.is_empty() || self.net.sending(conn) || self.net.is_shut_down(conn) {
                    return Err(format!("send of {} B on conn {conn}, busy, shut down or nothing", bytes.len()));
                }
                match self.net.conns[conn].peer {
                    Peer::Receiver => {
                        self.cx.stats.count("send to the api");
                        self.may_be_sent(&bytes)?;
                    }
                    Peer::Machine(_) => self.answered(conn, &bytes)?,
                }
                self.net.send(&mut self.cx, conn, bytes);
            }
            Op::Shutdown { link, fd } => {
                let conn = self.open_conn(link, fd)?;
                say!(self.cx, "op shutdown on {}: conn {conn}", self.seen.name(link));
                self.net.shutdown(&mut self.cx, conn);
            }
            Op::WatchOver { link, fd, source } => {
                let conn = self.open_conn(link, fd)?;
                say!(self.cx, "op watch over {}: conn {conn} of source {}", self.seen.name(link), source.0);
            }
            Op::Close { link, fd } => self.close(link, fd)?,
            Op::Connect { link, to } => self.connect(link, to)?,
            Op::OpenPort { link, source } => {
                say!(self.cx, "op open port {} as {}", source.0, self.seen.name(link));
                self.claim(link, Phase::Opening(source))?;
                let delay = self.cx.rng.u64(10 * US..5 * MS);
                self.cx.after(delay, Event::OpenPort { life: self.life, link, source });
            }
            Op::HoldLine { .. } => return Err("a line is held that has no XON and XOFF".into()),
            Op::AwaitOlder { .. } => return Err("a connection waits for older ones, but there is no proxy".into()),
            Op::HandOver { .. } => return Err("a connection is handed over, but there is one core".into()),
            Op::LookAtSecret { .. } => return Err("a secret is looked at, and no world has any".into()),
            Op::PassOn { .. } => return Err("something is passed on, but there is one core".into()),
            Op::Journal { journal, op } => {
                let &directory = self.directories.get(usize::from(journal.0)).ok_or("a journal that there is not")?;
                let Some(shard) = &self.shard else { return Ok(()) };
                if !self.plan.has_disk() {
                    return Err(format!("a disk operation at level memory: {op:?}"));
                }
                self.disks[directory].begin(&mut self.cx, journal, op, shard.block_memory(journal))?;
            }
        }
        Ok(())
    }

    /// At level `power` the record of an HTTP machine goes to the API once the machine may be told that it is safe: else it would
    /// come again after a loss of power, under another key.
    fn may_be_sent(&self, mut bytes: &[u8]) -> Result<(), String> {
        while self.plan.level == Level::Power
            && let Some(request) = http::request(bytes)?
        {
            bytes = &bytes[request.bytes..];
            if request.get || request.header("idempotency-key")?.ends_with("-seq") {
                continue;
            }
            for (key, film) in films(&self.plan.contract, &request)? {
                let mut parts = key.split('-');
                let epoch = parts.next().and_then(|part| u128::from_str_radix(part, 16).ok());
                let number = parts.nth(1).and_then(|part| part.parse::<u64>().ok());
                let (Some(epoch), Some(number), None) = (epoch, number, parts.next()) else { continue };
                // What an earlier start left was made durable by this one, but where the disk refuses.
                let known = self.disks.iter().any(|disk| disk.durable.contains(&(epoch, RecordNumber(number))));
                let new = self.disks.iter().any(|disk| disk.epoch_id() == Some(epoch));
                if !known && new && is_of_http(&film.source) {
                    return Err(format!("{key}: sent to the API before it was durable"));
                }
            }
        }
        Ok(())
    }

    /// Whole answers go to a machine, one for each of its requests.
    fn answered(&mut self, conn: ConnId, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(answer) = http::answer(bytes)? {
            bytes = &bytes[answer.bytes..];
            let asked = self.asked.get_mut(&conn).filter(|asked| **asked > 0);
            *asked.ok_or_else(|| format!("conn {conn}: an answer of {} that nobody asked for", answer.status))? -= 1;
        }
        if bytes.is_empty() { Ok(()) } else { Err(format!("conn {conn}: an answer in parts")) }
    }

    /// The connection of an open link, which an accepted one becomes with its first operation.
    fn open_conn(&mut self, link: LinkId, file: Fd) -> Result<ConnId, String> {
        let conn = usize::try_from(file.0 - FIRST_FD).map_err(|_| format!("fd {}", file.0))?;
        let known = self.links.get(&link.index).copied();
        match known {
            Some(Link { generation, phase: Phase::Open(other) }) if generation == link.generation && other == conn => {}
            None | Some(Link { phase: Phase::Failed, .. }) if self.accepted.remove(&conn) => {
                self.claim(link, Phase::Open(conn))?;
                self.net.conns[conn].link = Some(link);
            }
            _ => return Err(format!("link {link:?} with fd {} is {known:?}", file.0)),
        }
        Ok(conn)
    }

    /// One that is closed has nothing left.
    fn order_behind(&mut self, conn: ConnId, older: &[LinkId]) {
        for other in older {
            if let Some(Phase::Open(older)) = self.phase(self.life, *other) {
                self.net.order_behind(conn, older);
            }
        }
    }

    fn claim(&mut self, link: LinkId, phase: Phase) -> Result<(), String> {
        let before = self.links.insert(link.index, Link { generation: link.generation, phase });
        match before {
            None => {}
            Some(Link { phase: Phase::Failed, generation }) if generation != link.generation => {}
            Some(other) => return Err(format!("link {link:?} is used while it is {other:?}")),
        }
        if !self.generations.insert(((link.index as u64) << 32) | u64::from(link.generation)) {
            return Err(format!("link {link:?} was used before"));
        }
        Ok(())
    }

    fn pause_recv(&mut self, link: LinkId) -> Result<(), String> {
        let Some(Link { generation, phase: Phase::Open(conn) }) = self.links.get(&link.index).copied() else {
            return Err(format!("pause of link {link:?}, which is not open"));
        };
        let state = &mut self.net.conns[conn];
        say!(self.cx, "op pause recv on {}: conn {conn} {:?}", self.seen.name(link), state.read);
        match state.read {
            Read::Armed if generation == link.generation => {
                state.read = Read::Pausing;
                let delay = self.cx.rng.u64(US..300 * US);
                self.cx.after(delay, Event::Paused { conn });
            }
            // It crossed the end of the read, or of an earlier pause: nothing to do.
            Read::Off | Read::Ended | Read::Pausing if generation == link.generation => {}
            read => return Err(format!("pause of link {link:?}, whose read is {read:?}")),
        }
        Ok(())
    }

    fn close(&mut self, link: LinkId, file: Option<Fd>) -> Result<(), String> {
        say!(self.cx, "op close {}: {}", self.seen.name(link), if file.is_some() { "open" } else { "not open" });
        // The file may have come in the same turn, after the shard had asked for the close.
        let crossed = match self.links.get(&link.index) {
            Some(Link { phase: Phase::Open(conn), .. }) if self.opened.contains(conn) => Some(fd(*conn)),
            _ => None,
        };
        let file = file.or(crossed);
        if let Some(file) = file {
            let conn = self.open_conn(link, file)?;
            self.net.close_shard(&mut self.cx, conn);
            self.ended(conn);
        }
        let Some(state) = self.links.get_mut(&link.index).filter(|state| state.generation == link.generation) else {
            return Err(format!("close of link {link:?}, which is not in use"));
        };
        match (state.phase, file) {
            (Phase::Open(_), Some(_)) | (Phase::Connecting(_) | Phase::Opening(_) | Phase::Failed, None) => {}
            (phase, _) => return Err(format!("close of link {link:?} with {file:?}, which is {phase:?}")),
        }
        state.phase = Phase::Closing;
        let delay = self.cx.rng.u64(US..MS);
        self.cx.after(delay, Event::Closed { life: self.life, link });
        Ok(())
    }

    fn connect(&mut self, link: LinkId, to: Destination) -> Result<(), String> {
        let name = self.seen.name(link);
        match to {
            Destination::Api(api) => say!(self.cx, "op connect {name} to api {}", api.0),
            Destination::Source(source) => say!(self.cx, "op connect {name} to source {}", source.0),
        }
        self.claim(link, Phase::Connecting(to))?;
        if let Destination::Api(api) = to {
            let same = |state: &Link| match state.phase {
                Phase::Connecting(Destination::Api(other)) => other == api,
                Phase::Open(conn) => {
                    self.net.conns[conn].peer == Peer::Receiver && self.api_of.get(&conn) == Some(&api)
                }
                _ => false,
            };
            let open = self.links.values().filter(|state| same(state)).count();
            if open > self.connections_max {
                return Err(format!("{open} connections to the API at once"));
            }
        }
        let lost = matches!(to, Destination::Api(_)) && self.receiver.trouble.swallows;
        let delay = match lost {
            // The driver gives it up (the engine does, too).
            true => self.plan.settings.deliver.connect_timeout.as_nanos() as u64,
            false => self.cx.rng.u64(50 * US..3 * MS),
        };
        self.cx.after(delay, Event::Connect { life: self.life, link, to, lost });
        Ok(())
    }

    fn wake_accept(&mut self, source: SourceId) {
        let Some(listener) = self.doors.listeners.get_mut(&source) else { return };
        if listener.armed && !listener.due && !listener.backlog.is_empty() {
            listener.due = true;
            let delay = self.cx.rng.u64(US..200 * US);
            self.cx.after(delay, Event::Accept { source });
        }
    }

    /// No more bytes of this connection will reach the shard.
    fn ended(&mut self, conn: ConnId) {
        if let Some(source) = self.port_of.remove(&conn) {
            self.doors.ports.entry(source).or_default().open = false;
            if let Peer::Machine(machine) = self.net.conns[conn].peer
                && self.machines[machine].conn == Some(conn)
            {
                self.machines[machine].lose(&mut self.cx);
            }
        }
        self.oracle.end(conn);
    }

    // Completions.

    fn phase(&self, life: u32, link: LinkId) -> Option<Phase> {
        let state = self.links.get(&link.index)?;
        (life == self.life && state.generation == link.generation).then_some(state.phase)
    }

    /// [`Event::Readable`].
    pub fn on_readable(&mut self, conn: ConnId) {
        let Some(got) = self.net.read(&mut self.cx, conn) else { return };
        let Some(link) = self.net.conns[conn].link else { return };
        match got {
            Got::Bytes(mut bytes) => {
                let total = self.net.conns[conn].handed_bytes;
                say!(self.cx, "received {} B on conn {conn}, {total} in all", bytes.len());
                let records = self.oracle.hand(self.cx.now_ns, conn, &bytes, total);
                if let Peer::Machine(machine) = self.net.conns[conn].peer {
                    self.machines[machine].handed(records.1);
                    if self.machines[machine].plan.kind == Kind::Http {
                        *self.asked.entry(conn).or_default() += records.0;
                    }
                }
                self.tell(Completion::Received { link, bytes: &mut bytes });
            }
            Got::Closed => {
                say!(self.cx, "conn {conn} ended");
                self.oracle.end(conn);
                self.tell(Completion::RecvEnded { link, end: RecvEnd::Closed });
            }
            Got::Error(errno) => {
                say!(self.cx, "conn {conn} failed: {errno}");
                self.oracle.end(conn);
                self.tell(Completion::RecvEnded { link, end: RecvEnd::Error(errno) });
            }
        }
    }

    /// [`Event::Paused`].
    pub fn on_paused(&mut self, conn: ConnId) {
        let state = &mut self.net.conns[conn];
        if let (Read::Pausing, Some(link)) = (state.read, state.link) {
            state.read = Read::Off;
            say!(self.cx, "conn {conn} paused");
            self.cx.stats.count("read paused");
            self.tell(Completion::RecvEnded { link, end: RecvEnd::Paused });
        }
    }

    /// [`Event::Sent`].
    pub fn on_sent(&mut self, conn: ConnId) {
        let link = self.net.conns[conn].link;
        if let (Some((bytes, result)), Some(link)) = (self.net.sent(&mut self.cx, conn), link) {
            say!(self.cx, "sent {} B on conn {conn}: {}", bytes.len(), result.err().unwrap_or(0));
            self.tell(Completion::Sent { link, bytes, result });
        }
    }

    /// [`Event::Connect`].
    pub fn on_connect(&mut self, life: u32, link: LinkId, to: Destination, lost: bool) {
        if self.phase(life, link) != Some(Phase::Connecting(to)) {
            return;
        }
        let conn = match to {
            Destination::Api(api) if !lost && !self.receiver.trouble.refuses => {
                let conn = self.net.open(Peer::Receiver, Readable::Socket);
                let destinations = self.shard.as_ref().map(Shard::destinations).unwrap_or_default();
                let authority = &destinations[usize::from(api.0)];
                self.receiver.accept(conn, format!("{}:{}", authority.host, authority.port));
                self.api_of.insert(conn, api);
                Some(conn)
            }
            Destination::Api(_) => None,
            Destination::Source(source) => self.machine_of(source, Kind::TcpServer).map(|machine| {
                let conn = self.net.open(Peer::Machine(machine), socket_of(Kind::TcpServer, source));
                if let Some(old) = self.machines[machine].conn.take() {
                    self.net.close_peer(&mut self.cx, old);
                }
                self.machines[machine].begin(&mut self.cx, &mut self.net, conn);
                let source = &self.plan.settings.sources[usize::from(source.0)];
                let is_joined = source.first == First::Discard;
                self.oracle.open_stream(conn, &source.name, &source.framing, (false, is_joined));
                conn
            }),
        };
        say!(self.cx, "link {} connected: {conn:?}", self.seen.name(link));
        if let Destination::Api(_) = to {
            self.api_connect(conn.is_some());
        }
        let phase = conn.map_or(Phase::Failed, Phase::Open);
        self.links.insert(link.index, Link { generation: link.generation, phase });
        let refused = || ConnectError::NoAddress { to: "api.example:8000".to_owned() };
        let result = conn.map(fd).ok_or_else(refused);
        if let Some(conn) = conn {
            self.opened.insert(conn);
            self.net.conns[conn].link = Some(link);
        } else {
            self.cx.stats.count(if lost { "connect not answered" } else { "connect refused" });
        }
        self.tell(Completion::Connected { link, result });
    }

    pub fn machine_of(&self, source: SourceId, kind: Kind) -> Option<usize> {
        self.machines.iter().position(|machine| machine.plan.source == source && machine.plan.kind == kind)
    }

    /// [`Event::OpenPort`].
    pub fn on_open_port(&mut self, life: u32, link: LinkId, source: SourceId) {
        if self.phase(life, link) != Some(Phase::Opening(source)) {
            return;
        }
        let port = self.doors.ports.entry(source).or_default();
        let result = if !port.present {
            Err(PortError::Missing)
        } else if self.cx.chance(2) {
            self.cx.stats.count("port busy");
            Err(PortError::Busy { holder: Some("minicom (77)".into()) })
        } else {
            port.open = true;
            let machine = self.machine_of(source, Kind::Serial).expect("every port has its machine");
            let conn = self.net.open(Peer::Machine(machine), Readable::Tty);
            self.port_of.insert(conn, source);
            self.machines[machine].begin(&mut self.cx, &mut self.net, conn);
            let settings = &self.plan.settings.sources[usize::from(source.0)];
            self.oracle.open_stream(conn, &settings.name, &settings.framing, (true, settings.first == First::Discard));
            self.opened.insert(conn);
            self.net.conns[conn].link = Some(link);
            Ok(conn)
        };
        let outcome = match &result {
            Ok(conn) => format!("conn {conn}"),
            Err(error) => error.to_string(),
        };
        say!(self.cx, "link {} port {}: {outcome}", self.seen.name(link), source.0);
        let phase = result.as_ref().map_or(Phase::Failed, |&conn| Phase::Open(conn));
        self.links.insert(link.index, Link { generation: link.generation, phase });
        self.tell(Completion::PortOpened { link, result: result.map(|conn| fd(conn).into()) });
    }

    /// [`Event::Closed`].
    pub fn on_closed(&mut self, life: u32, link: LinkId) {
        if self.phase(life, link) == Some(Phase::Closing) {
            self.links.remove(&link.index);
            say!(self.cx, "link {} closed", self.seen.name(link));
            self.tell(Completion::Closed { link });
        }
    }

    /// [`Event::Accept`].
    pub fn on_accept(&mut self, source: SourceId) {
        let Some(listener) = self.doors.listeners.get_mut(&source) else { return };
        listener.due = false;
        if !listener.armed || self.shard.is_none() {
            return;
        }
        if self.cx.rng.u32(..1000) < self.plan.accept_fails {
            listener.armed = false;
            self.cx.stats.count("accept failed");
            say!(self.cx, "accept on {} fails", source.0);
            self.tell(Completion::AcceptFailed { source, errno: EMFILE });
            return;
        }
        let Some((conn, peer)) = listener.backlog.pop_front() else { return };
        listener.armed &= !listener.one;
        self.wake_accept(source);
        self.open_accepted(source, conn, peer);
        self.accepted.insert(conn);
        say!(self.cx, "accepted conn {conn} from {peer}");
        self.tell(Completion::Accepted { source, fd: fd(conn), peer });
    }

    fn open_accepted(&mut self, source: SourceId, conn: ConnId, peer: SocketAddr) {
        let settings = &self.plan.settings.sources[usize::from(source.0)];
        match &settings.kind {
            SourceKind::TcpListen { lane: LaneKey::Connection, .. } => {
                self.oracle.open_stream(conn, &format!("{}@{peer}", settings.name), &settings.framing, (false, false));
            }
            SourceKind::TcpListen { lane: LaneKey::Address, .. } => {
                self.oracle.open_stream(
                    conn,
                    &format!("{}@{}", settings.name, peer.ip()),
                    &settings.framing,
                    (false, false),
                );
            }
            _ => {} // an HTTP machine names its lane itself
        }
    }

    /// [`Event::Disk`].
    ///
    /// # Errors
    /// In words, if the shard changed memory that is being written.
    pub fn on_disk(&mut self, directory: usize, operation: usize) -> Result<(), String> {
        let Some(done) = self.disks[directory].finish(&mut self.cx, operation)? else { return Ok(()) };
        let Done { journal, completion } = done;
        self.ailing |= match &completion {
            journal::Completion::Committed { result, .. }
            | journal::Completion::SegmentPrepared { result, .. }
            | journal::Completion::SegmentSynced { result, .. }
            | journal::Completion::Rewrite { result, .. } => result.is_err(),
            journal::Completion::SegmentFreed { .. } | journal::Completion::ReadBack { .. } => false,
        };
        self.tell(Completion::Journal { journal, completion });
        Ok(())
    }

    /// Tells the shard that the directory of a port changed.
    pub fn on_port_appeared(&mut self, source: SourceId) {
        say!(self.cx, "port {} appeared", source.0);
        self.tell(Completion::PortAppeared { source });
    }

    /// [`Event::Flow`].
    ///
    /// # Errors
    /// Of the peer that had something to look at.
    pub fn on_flow(&mut self, conn: ConnId, to: End) -> Result<(), String> {
        if !self.net.flow(&mut self.cx, conn, to) {
            return Ok(());
        }
        match self.net.conns[conn].peer {
            Peer::Receiver => self.receiver.look(&mut self.cx, &mut self.net, conn),
            Peer::Machine(machine) => self.machines[machine].look(&mut self.cx, &mut self.net, &mut self.oracle, conn),
        }
    }
}
