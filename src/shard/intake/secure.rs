//! TLS of machines: bytes of a source with `tls` become plaintext before anything else sees them, and answers become TLS records.
//!
//! ```text
//!            ClientHello, when the core has nothing else to do        close_notify
//! Handshaking ─────────────────────────────────────────────► Open ───────────────────► Closed, its half
//!      └─ fault, deadline ─► Refused: alert, FIN, and what still comes is dropped until the peer closes or 2 s are over
//! ```
//!
//! What a session needs stands here, by its link. Machines and streams know nothing of it: they are given plaintext, and what they
//! send is sealed on its way. A link has one send in flight at a time, so that all sends of such a link are made here.

use super::Intake;
use super::faults::Faults;
use super::source::Sources;
use crate::config::{ListenTls, Settings, SourceKind};
use crate::ground::{Fd, LinkId, Now, SourceId};
use crate::shard::links::{Kind, Table};
use crate::shard::op::{Op, RecvEnd};
use crate::shard::store::Store;
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use crate::tls::{
    Client, ClientSession, Fault, MachineCertificate, Progress, Reason, Server, ServerSession, TicketKeys, TlsError,
    server_name,
};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// How long the handshake of a `tcp_listen` source may take; over HTTP that of a header counts.
const HANDSHAKE_NS: u64 = 10_000_000_000;
/// How long a refused connection is drained, so that the machine reads the alert before it sees a reset.
const LINGER_NS: u64 = 2_000_000_000;
/// Most that waits of a machine whose turn has not come: a ClientHello, and what was sent behind it in good hope.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// A buffer for plaintext that is larger than this is given back.
const PLAIN_BYTES_KEPT: usize = 64 * 1024;
/// What a connection that is not closed in order is to whoever reads it: ECONNRESET.
const CUT_SHORT: i32 = 104;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until the monotonic time at which it is given up.
    Handshaking {
        until_ns: u64,
    },
    Open,
    /// The machine has sent a close_notify.
    Closed,
    /// Until the monotonic time at which it is closed.
    Refused {
        until_ns: u64,
    },
}

/// One end of TLS.
#[derive(Debug)]
enum Session {
    /// Of a machine that has connected.
    Taken(ServerSession),
    /// With a device server that we have connected to.
    Called(ClientSession),
}

impl Session {
    fn receive(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Fault> {
        match self {
            Self::Taken(session) => session.receive(bytes, plain, out),
            Self::Called(session) => {
                session.receive(bytes, plain, out).map_err(|error| Fault::new(Reason::Other, device(&error)))
            }
        }
    }

    fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), NoSession> {
        match self {
            Self::Taken(session) => session.send(plain, out).map_err(|_| NoSession),
            Self::Called(_) => Err(NoSession), // device servers are told nothing
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Taken(session) => session.close(out),
            Self::Called(session) => session.close(out),
        }
    }

    fn certificate(&self) -> Option<MachineCertificate> {
        match self {
            Self::Taken(session) => session.certificate(),
            Self::Called(_) => None,
        }
    }

    fn is_resumed(&self) -> bool {
        match self {
            Self::Taken(session) => session.is_resumed(),
            Self::Called(session) => session.is_resumed(),
        }
    }

    /// Whether what costs the most is still to be done.
    fn is_hello_due(&self) -> bool {
        matches!(self, Self::Taken(session) if session.is_hello_due())
    }
}

/// What is wrong with a device server's TLS, and what to do about it.
fn device(error: &TlsError) -> String {
    error.advice().replace("[deliver.tls]", "in tls of this source:")
}

/// The TLS of one machine's connection.
#[derive(Debug)]
struct Secure {
    session: Session,
    source: SourceId,
    /// Of one that has connected.
    peer: Option<SocketAddr>,
    state: State,
    /// Who the machine is, where it has shown a certificate.
    certificate: Option<Box<MachineCertificate>>,
    /// Bytes that wait for the turn of its ClientHello.
    waiting: Vec<u8>,
    /// TLS records for the next send.
    out: Vec<u8>,
    /// A send is under way.
    sending: bool,
    /// Something of the machine's owner is among what is sent: it is to hear of the end.
    owed: bool,
    /// Something has come.
    any_byte: bool,
    /// FIN was asked for, since it is refused.
    fin: bool,
}

/// The session cannot go on.
#[derive(Debug)]
pub(super) struct NoSession;

/// What came of bytes.
enum Heard {
    /// More is needed, or it is not its turn.
    Nothing,
    /// Its handshake is complete.
    Opened,
    /// Plaintext, or nothing.
    Data,
    /// It has closed its half in order.
    Closed,
    Failed(Fault),
}

/// What came of the end of a send.
enum Sent {
    /// It was of the session itself.
    Own,
    /// What the owner of the link has sent is on its way.
    Owners(Vec<u8>),
    Failed,
}

/// All TLS connections of machines on one core, and what they begin with.
#[derive(Debug, Default)]
pub(super) struct Secures {
    servers: HashMap<SourceId, Server>,
    /// Of sources that connect.
    callers: HashMap<SourceId, Client>,
    keys: Option<TicketKeys>,
    sessions: Table<Secure>,
    /// Links whose ClientHello waits for its turn, in their order, and the monotonic time since when.
    queue: VecDeque<(LinkId, u64)>,
    /// Its allocation serves one call after the other.
    plain: Vec<u8>,
    pub faults: Faults,
}

impl Secure {
    /// Sends what the session has to say, unless a send is under way: then it goes out behind that. FIN follows where the session is
    /// refused.
    fn flush(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        let fd = turn.links.fd(link).expect("an accepted connection has a file");
        if !self.sending && !self.out.is_empty() {
            self.sending = true;
            turn.emit(Op::Send { link, fd, bytes: std::mem::take(&mut self.out) });
        }
        if matches!(self.state, State::Refused { .. }) && self.out.is_empty() && !self.fin {
            self.fin = true;
            turn.emit(Op::Shutdown { link, fd }); // behind the send
        }
    }

    /// Bytes of TLS; plaintext is appended to `plain`.
    fn receive(&mut self, turn: &mut Turn<'_>, link: LinkId, bytes: &mut [u8], plain: &mut Vec<u8>) -> Heard {
        let result = self.session.receive(bytes, plain, &mut self.out);
        let is_handshaking = matches!(self.state, State::Handshaking { .. });
        let heard = match result {
            Err(fault) => return Heard::Failed(fault), // with its alert
            Ok(Progress::Handshaking) => Heard::Nothing,
            Ok(progress) if is_handshaking => {
                self.certificate = self.session.certificate().map(Box::new);
                if let Some(fault) = self.certificate.as_deref().and_then(|of| over(of, turn.now)) {
                    return Heard::Failed(fault);
                }
                self.state = if progress == Progress::Closed { State::Closed } else { State::Open };
                Heard::Opened
            }
            // A session may outlive its machine's certificate.
            Ok(_) if let Some(fault) = self.certificate.as_deref().and_then(|of| over(of, turn.now)) => {
                plain.clear();
                return Heard::Failed(fault);
            }
            Ok(Progress::Closed) => {
                self.state = State::Closed;
                Heard::Closed
            }
            Ok(Progress::Open) => Heard::Data,
        };
        self.flush(turn, link);
        heard
    }
}

/// How long a machine may take for its handshake, without the time that it waits for its turn.
fn handshake_ns(turn: &Turn<'_>, source: SourceId) -> u64 {
    match turn.source(source).kind {
        SourceKind::Http { .. } => turn.settings.limits.http.header_timeout.as_nanos() as u64,
        _ => HANDSHAKE_NS,
    }
}

/// That a certificate is over.
fn over(certificate: &MachineCertificate, now: Now) -> Option<Fault> {
    let is_over = certificate.not_after_s < (now.wall_ns / 1_000_000_000) as i64;
    is_over.then(|| Fault::new(Reason::Certificate, "its certificate has expired: renew it"))
}

impl Secures {
    /// With the sources that a core runs.
    pub fn new(ids: &[SourceId], settings: &Settings) -> Self {
        let mut secures = Self::default();
        ids.iter().for_each(|id| secures.configure(*id, settings));
        secures
    }

    /// Connections of a source that begin from now on are made by these settings.
    pub fn configure(&mut self, id: SourceId, settings: &Settings) {
        let source = &settings.sources[usize::from(id.0)];
        self.callers.remove(&id);
        if let Some(tls) = &source.connect_tls {
            self.callers.insert(id, Client::new(tls).expect("settings are checked"));
        }
        let Some(ListenTls { server, .. }) = &source.tls else {
            self.servers.remove(&id);
            return;
        };
        let server = Server::new(&source.name, server).expect("settings are checked");
        if let Some(keys) = &self.keys {
            server.set_ticket_keys(keys);
        }
        self.servers.insert(id, server);
    }

    /// By what tickets are sealed from now on.
    pub fn set_ticket_keys(&mut self, keys: TicketKeys) {
        self.servers.values().for_each(|server| server.set_ticket_keys(&keys));
        self.keys = Some(keys);
    }

    /// Whether a link is by TLS.
    #[inline]
    pub fn has(&self, link: LinkId) -> bool {
        self.sessions.find(link).is_some()
    }

    /// Who a machine is by its certificate, where that is what it is called by.
    pub fn name(&self, settings: &Settings, link: LinkId) -> Option<&str> {
        let secure = self.sessions.find(link)?;
        let tls = settings.sources[usize::from(secure.source.0)].tls.as_ref()?;
        // One without a name is nobody.
        tls.names_machines.then(|| secure.certificate.as_ref().and_then(|of| of.name.as_deref()).unwrap_or_default())
    }

    /// A connection was accepted. Its bytes are those of a handshake, if its source has TLS.
    pub fn begin(&mut self, turn: &mut Turn<'_>, link: LinkId, source: SourceId, peer: SocketAddr) {
        let Some(server) = self.servers.get(&source) else { return };
        let until_ns = turn.now.mono_ns + handshake_ns(turn, source);
        let session = Session::Taken(server.session().expect("settings are checked"));
        self.insert(turn, link, (source, Some(peer)), session, until_ns);
    }

    /// A device server was connected to: if its source has TLS, the handshake begins.
    pub fn call(&mut self, turn: &mut Turn<'_>, link: LinkId, source: SourceId) {
        let Some(client) = self.callers.get(&source) else { return };
        let SourceKind::TcpConnect { connect, .. } = &turn.source(source).kind else { return };
        client.set_time(turn.now.wall_ns);
        let name = server_name(&connect.host).expect("settings are checked");
        let mut session = client.session(name).expect("settings are checked");
        let mut out = Vec::new();
        session.start(&mut out).expect("nothing was received that could be wrong");
        self.insert(turn, link, (source, None), Session::Called(session), turn.now.mono_ns + HANDSHAKE_NS);
        let secure = self.sessions.of(link);
        secure.out = out;
        secure.flush(turn, link);
    }

    fn insert(
        &mut self,
        turn: &mut Turn<'_>,
        link: LinkId,
        (source, peer): (SourceId, Option<SocketAddr>),
        session: Session,
        until_ns: u64,
    ) {
        let secure = Secure {
            session,
            source,
            peer,
            state: State::Handshaking { until_ns },
            certificate: None,
            waiting: Vec::new(),
            out: Vec::new(),
            sending: false,
            owed: false,
            any_byte: false,
            fin: false,
        };
        self.sessions.insert(link, secure);
        turn.timers.set(until_ns, Timer::Link(link));
    }

    fn received(&mut self, turn: &mut Turn<'_>, link: LinkId, bytes: &mut [u8], plain: &mut Vec<u8>) -> Heard {
        let secure = self.sessions.of(link);
        secure.any_byte = true;
        if matches!(secure.state, State::Refused { .. } | State::Closed) {
            return Heard::Nothing;
        }
        match &secure.session {
            Session::Taken(_) => {
                self.servers.get(&secure.source).into_iter().for_each(|server| server.set_time(turn.now.wall_ns))
            }
            Session::Called(session) => session.set_time(turn.now.wall_ns),
        }
        secure.receive(turn, link, bytes, plain)
    }

    /// Whether what has come is a ClientHello or a part of one, which waits until the core has nothing else to
    /// do: it costs a third of a millisecond, and those that are connected would wait for it.
    fn must_wait(&self, link: LinkId) -> bool {
        let waits =
            |secure: &Secure| matches!(secure.state, State::Handshaking { .. }) && secure.session.is_hello_due();
        self.sessions.find(link).is_some_and(waits)
    }

    fn wait(&mut self, turn: &mut Turn<'_>, link: LinkId, bytes: &[u8]) -> Heard {
        let secure = self.sessions.of(link);
        secure.any_byte = true;
        if secure.waiting.is_empty() {
            turn.counters.tls_put_off += u64::from(!self.queue.is_empty());
            self.queue.push_back((link, turn.now.mono_ns));
        }
        secure.waiting.extend_from_slice(bytes);
        match secure.waiting.len() > WAITING_BYTES_MAX {
            true => Heard::Failed(Fault::new(Reason::Other, "it sends on and on before its handshake has begun")),
            false => Heard::Nothing,
        }
    }

    /// The next one whose turn has come, and what it has sent. The time that it has waited is not its own.
    fn next_waiting(&mut self, turn: &mut Turn<'_>) -> Option<(LinkId, Vec<u8>)> {
        while let Some((link, since_ns)) = self.queue.pop_front() {
            if turn.links.kind(link).is_none() || !self.has(link) {
                continue;
            }
            let secure = self.sessions.of(link);
            let bytes = std::mem::take(&mut secure.waiting);
            if let (State::Handshaking { until_ns }, false) = (&mut secure.state, bytes.is_empty()) {
                *until_ns += turn.now.mono_ns - since_ns;
                turn.timers.set(*until_ns, Timer::Link(link));
                return Some((link, bytes));
            }
        }
        None
    }

    /// Seals what the owner of the link says, and sends it; with `close` nothing follows. Whether anything is on its way.
    ///
    /// # Errors
    /// If the session cannot go on: a TLS 1.2 session's keys last for 2^24 records.
    pub fn send(&mut self, turn: &mut Turn<'_>, link: LinkId, plain: &[u8], close: bool) -> Result<bool, NoSession> {
        let secure = self.sessions.of(link);
        if matches!(secure.state, State::Handshaking { .. } | State::Refused { .. }) {
            return Ok(false);
        }
        if !plain.is_empty() {
            secure.session.send(plain, &mut secure.out)?;
        }
        if close {
            secure.session.close(&mut secure.out);
        }
        secure.owed = !secure.out.is_empty();
        let is_owed = secure.owed;
        secure.flush(turn, link);
        Ok(is_owed)
    }

    /// The connection is about to end in order: the machine is told.
    pub fn farewell(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        if self.has(link) {
            let secure = self.sessions.of(link);
            secure.session.close(&mut secure.out);
            secure.flush(turn, link);
        }
    }

    /// A send is over.
    fn sent(&mut self, turn: &mut Turn<'_>, link: LinkId, (bytes, result): (Vec<u8>, Result<(), i32>)) -> Sent {
        let secure = self.sessions.of(link);
        secure.sending = false;
        if result.is_err() {
            return Sent::Failed;
        }
        if !secure.out.is_empty() {
            secure.flush(turn, link);
            return Sent::Own;
        }
        if std::mem::take(&mut secure.owed) { Sent::Owners(bytes) } else { Sent::Own }
    }

    /// The session is of no use: the machine is told why by an alert, the log by words.
    fn refuse(&mut self, turn: &mut Turn<'_>, link: LinkId, fault: &Fault) {
        let secure = self.sessions.of(link);
        let (id, peer) = (secure.source, secure.peer);
        let is_http = matches!(turn.source(id).kind, SourceKind::Http { .. });
        match fault.reason {
            Reason::Plain if is_http => secure.out = PLAIN_ANSWER.to_vec(),
            Reason::Proxy if is_http => secure.out = PROXY_ANSWER.to_vec(),
            _ => {}
        }
        let until_ns = turn.now.mono_ns + LINGER_NS;
        secure.state = State::Refused { until_ns };
        secure.waiting = Vec::new();
        secure.flush(turn, link);
        turn.timers.set(until_ns, Timer::Link(link));
        self.faults.note(turn, id, peer, fault);
    }

    /// What of it has changed by the passing of time.
    fn handle_timer(&mut self, now: Now, link: LinkId) -> Option<Late> {
        let secure = self.sessions.find(link)?;
        match secure.state {
            // We have kept it waiting.
            State::Handshaking { .. } if !secure.waiting.is_empty() => None,
            State::Handshaking { until_ns } if until_ns <= now.mono_ns => Some(Late::Handshake),
            State::Refused { until_ns } if until_ns <= now.mono_ns => Some(Late::Linger),
            _ => None,
        }
    }

    /// A link is being closed.
    pub fn forget(&mut self, link: LinkId) {
        self.sessions.forget(link);
    }

    /// A certificate that a machine has shown: whether it ends soon is told.
    fn note_certificate(&mut self, turn: &Turn<'_>, link: LinkId) {
        let secure = self.sessions.get(link);
        if let Some(certificate) = &secure.certificate {
            self.faults.note_certificate(turn, secure.source, certificate);
        }
    }
}

/// What a machine is told that speaks HTTP where TLS is spoken.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\n\
    Content-Length: 101\r\n\r\n{\"rule\":\"this port speaks TLS\",\"came\":\"HTTP without TLS\",\
    \"allowed\":\"a URL that begins with https://\"}";

/// What a proxy is told whose header does not count where TLS is spoken.
const PROXY_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\n\
    Content-Length: 170\r\n\r\n{\"rule\":\"a PROXY header counts only from a peer in proxies\",\
    \"came\":\"a PROXY header; this peer is not in proxies\",\
    \"allowed\":\"TLS; or its address in proxies of the source\"}";

/// What is late.
enum Late {
    Handshake,
    /// A refused connection, which is to be closed now.
    Linger,
}

impl Intake {
    /// Bytes of a link that is by TLS.
    pub(super) fn secure_received(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        bytes: &mut [u8],
    ) {
        if !self.sources.secures.must_wait(link) {
            return self.unseal(turn, store, (link, kind), bytes);
        }
        if let Heard::Failed(fault) = self.sources.secures.wait(turn, link, bytes) {
            self.secure_failed(turn, store, (link, kind), &fault);
        }
    }

    fn unseal(&mut self, turn: &mut Turn<'_>, store: &mut Store, (link, kind): (LinkId, Kind), bytes: &mut [u8]) {
        let mut plain = std::mem::take(&mut self.sources.secures.plain);
        plain.clear();
        let mut heard = self.sources.secures.received(turn, link, bytes, &mut plain);
        if matches!(heard, Heard::Opened)
            && let Err(fault) = self.opened(turn, link, kind)
        {
            heard = Heard::Failed(fault);
        } else if !plain.is_empty() {
            self.plain_received(turn, store, (link, kind), &mut plain);
        }
        let is_closed =
            matches!(self.sources.secures.sessions.find(link).map(|secure| secure.state), Some(State::Closed));
        if turn.links.is_open(link, kind) {
            match heard {
                Heard::Closed => self.half_closed(turn, store, link, kind),
                Heard::Opened if is_closed => self.half_closed(turn, store, link, kind),
                Heard::Failed(fault) => self.secure_failed(turn, store, (link, kind), &fault),
                Heard::Nothing | Heard::Opened | Heard::Data => {}
            }
        }
        if plain.capacity() <= PLAIN_BYTES_KEPT {
            self.sources.secures.plain = plain;
        }
    }

    /// The machine has shown who it is, and has seen who we are.
    fn opened(&mut self, turn: &mut Turn<'_>, link: LinkId, kind: Kind) -> Result<(), Fault> {
        let secures = &mut self.sources.secures;
        turn.counters.tls_handshakes += 1;
        turn.counters.tls_resumed += u64::from(secures.sessions.get(link).session.is_resumed());
        secures.note_certificate(turn, link);
        let name = secures.name(turn.settings, link);
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(Fault::new(Reason::Certificate, nameless(name)));
        }
        if kind == Kind::Stream {
            let stream = self.streams.table.of(link);
            stream.sender.name = name.map(Into::into);
            stream.begin(turn, link, false);
        }
        Ok(())
    }

    /// A close_notify: nothing follows, and what was asked for is still answered.
    fn half_closed(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, kind: Kind) {
        match kind {
            Kind::Http => self.machines.stop(link),
            _ => self.streams.read_ended(turn, store, &mut self.sources, link, RecvEnd::Closed),
        }
    }

    fn secure_failed(&mut self, turn: &mut Turn<'_>, store: &mut Store, (link, kind): (LinkId, Kind), fault: &Fault) {
        if self.sources.secures.sessions.get(link).peer.is_none() {
            return self.call_failed(turn, store, link, &fault.words);
        }
        let secures = &mut self.sources.secures;
        let is_open = matches!(secures.sessions.get(link).state, State::Open);
        secures.refuse(turn, link, fault);
        if is_open && kind == Kind::Stream {
            // What came is framed; the close was not the machine's.
            self.streams.read_ended(turn, store, &mut self.sources, link, RecvEnd::Error(CUT_SHORT));
        }
    }

    /// A device server's TLS came to nothing: it is lost, as one that hangs up, and called again.
    fn call_failed(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, why: &str) {
        turn.counters.tls_failed_other += 1;
        self.sources.secures.sessions.of(link).flush(turn, link); // the alert that tells it why
        self.streams.end(turn, store, &mut self.sources, link, &format!("no TLS with it: {why}"));
    }

    /// A read of such a link has ended. Whether its owner is to hear of it, and how.
    pub(super) fn secure_ended(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        end: RecvEnd,
    ) {
        let secures = &mut self.sources.secures;
        let secure = secures.sessions.get(link);
        let end = match secure.state {
            State::Refused { .. } if end == RecvEnd::Paused => return,
            State::Refused { .. } => return self.end_refused(turn, store, link, kind),
            State::Handshaking { .. } if end != RecvEnd::Paused && secure.peer.is_none() => {
                return self.call_failed(turn, store, link, "it closed the connection in the middle of the handshake");
            }
            State::Handshaking { .. } if end != RecvEnd::Paused => {
                // Who connects and goes without a word looks whether the port is open.
                if secure.any_byte {
                    let fault = Fault::new(Reason::Left, LEFT);
                    let (id, peer) = (secure.source, secure.peer);
                    secures.faults.note(turn, id, peer, &fault);
                }
                return self.end_refused(turn, store, link, kind);
            }
            // What comes without a close_notify may be cut short (RFC 8446 section 6.1). A request says itself where it ends.
            State::Open if end == RecvEnd::Closed && kind == Kind::Stream => RecvEnd::Error(CUT_SHORT),
            State::Closed if end != RecvEnd::Paused => RecvEnd::Closed,
            _ => end,
        };
        self.plain_ended(turn, store, (link, kind), end);
    }

    /// A send of such a link is over.
    pub(super) fn secure_sent(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (link, kind): (LinkId, Kind),
        sent: (Vec<u8>, Result<(), i32>),
    ) {
        match self.sources.secures.sent(turn, link, sent) {
            Sent::Own => {}
            Sent::Owners(bytes) if kind == Kind::Http => {
                self.machines.sent(turn, store, &mut self.sources, link, (bytes, Ok(())));
            }
            Sent::Owners(_) => {}
            Sent::Failed => self.end_refused(turn, store, link, kind),
        }
    }

    /// A deadline of TLS may be over.
    pub(super) fn secure_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, kind: Kind) {
        match self.sources.secures.handle_timer(turn.now, link) {
            None => {}
            Some(Late::Linger) => self.end_refused(turn, store, link, kind),
            Some(Late::Handshake) if self.sources.secures.sessions.get(link).peer.is_none() => {
                self.call_failed(turn, store, link, "its handshake did not end in time");
            }
            Some(Late::Handshake) => {
                let fault = Fault::new(Reason::Late, "its handshake did not end in time");
                self.sources.secures.refuse(turn, link, &fault);
            }
        }
    }

    /// The connection ends as it is.
    fn end_refused(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, kind: Kind) {
        match kind {
            Kind::Http => self.machines.end(turn, store, &mut self.sources, link),
            _ => self.plain_ended(turn, store, (link, kind), RecvEnd::Error(CUT_SHORT)),
        }
    }

    /// Whether a ClientHello waits.
    pub fn has_handshakes(&self) -> bool {
        !self.sources.secures.queue.is_empty()
    }

    /// Works through the ClientHello that has waited the longest.
    pub fn begin_handshake(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        let Some((link, mut bytes)) = self.sources.secures.next_waiting(turn) else { return };
        let kind = turn.links.kind(link).expect("looked at by the caller");
        self.unseal(turn, store, (link, kind), &mut bytes);
    }

    /// By what tickets are sealed from now on.
    pub fn set_ticket_keys(&mut self, keys: TicketKeys) {
        self.sources.secures.set_ticket_keys(keys);
    }
}

/// Whether it can be a machine's: that is what a SOURCE may be.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn nameless(name: &str) -> String {
    const REMEDY: &str = "make one whose first DNS name is the machine's: 1 to 64 of A-Z a-z 0-9 . _ -";
    match name {
        "" => format!("its certificate has no name, and name_from = \"certificate\" calls it by that: {REMEDY}"),
        name => format!(
            "the name in its certificate, {:?}, cannot be a machine's: {REMEDY}",
            name.escape_debug().to_string()
        ),
    }
}

const LEFT: &str = "it closed the connection in the middle of the handshake: most likely it does not accept this gateway's \
    certificate, and then it needs that of the CA which has signed it";

impl Sources {
    /// Whether a request to a SOURCE is another machine's by its certificate.
    pub fn is_another_machine(&self, settings: &Settings, link: LinkId, source: &str) -> bool {
        self.secures.name(settings, link).is_some_and(|name| name != source)
    }

    /// Sends what the owner of a link says, over TLS sealed; with `close` nothing follows. Whether anything is on its way. The
    /// buffer comes back at once, or with the end of the send.
    ///
    /// # Errors
    /// If the session cannot go on.
    pub fn send(
        &mut self,
        turn: &mut Turn<'_>,
        (link, fd): (LinkId, Fd),
        mut bytes: Vec<u8>,
        close: bool,
    ) -> Result<(bool, Option<Vec<u8>>), NoSession> {
        if self.secures.has(link) {
            let is_sent = self.secures.send(turn, link, &bytes, close)?;
            bytes.clear();
            return Ok((is_sent, Some(bytes)));
        }
        if bytes.is_empty() {
            return Ok((false, Some(bytes)));
        }
        turn.emit(Op::Send { link, fd, bytes });
        Ok((true, None))
    }
}
