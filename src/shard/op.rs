//! What the shard asks of the world ([`Op`]) and what it hears back ([`Completion`]). The data ring
//! and the seeded simulator are the two drivers that carry one to the other.
//!
//! Contract of every driver:
//! - [`Op`]s are carried out in the order in which they were emitted, as far as they concern the
//!   same link.
//! - A multishot read that ends for want of buffers, or for any reason but the three of
//!   [`RecvEnd`], is armed again by the driver; no byte is lost and the shard is not told.
//! - A buffer moves into its operation and comes back in its completion. The driver keeps it alive
//!   until the kernel is done.
//! - After [`Op::Close`] no completion of that link but [`Completion::Closed`] reaches the shard
//!   (and [`Completion::SecretLooked`], by which the shard counts), and it comes exactly once;
//!   until then the shard does not use the link's index again.

use crate::access::{Looked, SecretCheck};
use crate::http::server::Verdict;
use crate::journal;
use std::net::SocketAddr;
use std::time::Duration;

use crate::source::serial::PortError;

pub use crate::ground::{ApiId, CoreId, Fd, JournalId, LinkId, Now, SourceId};

/// Where a connect goes; the driver resolves the name anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The API.
    Api(ApiId),
    /// The device server of a `tcp_connect` source.
    Source(SourceId),
}

/// What a read is done on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// A socket: multishot recv.
    Socket,
    /// The same, and the kernel is to wait with its ACKs (tcp(7), TCP_QUICKACK).
    SocketLateAcks,
    /// A tty: READ_MULTISHOT, or single reads before Linux 6.7.
    Tty,
}

/// Connections that wait to be accepted at one listener, at most; the kernel cuts it to
/// net.core.somaxconn.
pub const LISTEN_BACKLOG: usize = 4_096;

/// What the shard asks for.
#[derive(Debug)]
pub enum Op {
    /// Accept connections on a source's listener until [`Op::PauseAccept`]; the driver bound it
    /// before intake.
    Accept {
        /// A `tcp_listen` or `http` source.
        source: SourceId,
    },
    /// Accept one connection and no more: few are left, and [`Op::Accept`] takes several at once.
    AcceptOne {
        /// A `tcp_listen` or `http` source.
        source: SourceId,
    },
    /// Stop accepting; connections already accepted still arrive.
    PauseAccept {
        /// The same source.
        source: SourceId,
    },
    /// Read until the end of the stream, [`Op::PauseRecv`] or [`Op::Close`].
    Recv {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
        /// Socket or tty.
        kind: Readable,
        /// Older connections of the same machine, where it is a new one. It is not read before what
        /// each of them has received by now; one that its peer has ended, to its end. One that is
        /// closed, or whose read has ended, has nothing left.
        older: Vec<LinkId>,
    },
    /// Wait, without reading, for what older connections of the same machine have received by now, as before a read behind
    /// them ([`Op::Recv`]); then [`RecvEnd::Paused`] comes. No read of the link is in flight.
    AwaitOlder {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
        /// The older ones.
        older: Vec<LinkId>,
    },
    /// Stop reading. Bytes already read still arrive, then [`RecvEnd::Paused`].
    PauseRecv {
        /// The link.
        link: LinkId,
    },
    /// Send all of `bytes` (MSG_WAITALL, MSG_NOSIGNAL); one send is in flight on a link at a time.
    Send {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
        /// Comes back in [`Completion::Sent`].
        bytes: Vec<u8>,
    },
    /// Shut down the sending half (FIN); reading goes on.
    Shutdown {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
    },
    /// Watch over a connection as its source's settings say from now on: keepalive and user timeout. Nothing is answered; a
    /// connection that is gone says so to whoever reads.
    WatchOver {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
        /// A `tcp_listen` or `tcp_connect` source.
        source: SourceId,
    },
    /// Cancel what is in flight, wait for it, close the file; answered by [`Completion::Closed`].
    /// `fd` is `None` while an open or a connect is still under way: the file is then closed when
    /// it comes.
    Close {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Option<Fd>,
    },
    /// Open a TCP connection; answered by [`Completion::Connected`].
    Connect {
        /// The link.
        link: LinkId,
        /// Where to.
        to: Destination,
    },
    /// Hand an accepted connection over to the core that owns its address; it arrives there as
    /// [`Completion::Accepted`], or as [`Completion::HandedOver`] where a proxy has told of it. That one
    /// is a link here, and closed behind this: the other core has a duplicate of its file.
    HandOver {
        /// The listener's source.
        source: SourceId,
        /// The connection.
        fd: Fd,
        /// Its peer.
        peer: SocketAddr,
        /// The owning core thread.
        core: CoreId,
        /// What a proxy has told.
        told: Option<Told>,
    },
    /// Look at a secret that somebody has typed, which takes tens of milliseconds: somewhere else, one at a time, in their order. Always
    /// answered by [`Completion::SecretLooked`], also where the link is closed meanwhile.
    LookAtSecret {
        /// The link of the request.
        link: LinkId,
        /// The secret, and its hash.
        check: Box<SecretCheck>,
    },
    /// Tell another core; it hears [`Completion::Parcel`]. What one core tells another arrives in its
    /// order. Where that core has ended, a request comes back as an answer: 503.
    PassOn {
        /// The other core thread.
        core: CoreId,
        /// What it is told.
        parcel: Parcel,
    },
    /// Open a serial port and apply its settings; answered by [`Completion::PortOpened`].
    OpenPort {
        /// The link.
        link: LinkId,
        /// A `serial` source.
        source: SourceId,
    },
    /// Send XOFF (`hold`) or XON on a serial line, so that its machine waits or goes on (tcflow(3):
    /// `TCIOFF`, `TCION`). Nothing is answered, and a failure is only logged: the tty's own flow
    /// control is in force, too.
    HoldLine {
        /// The link.
        link: LinkId,
        /// Its file.
        fd: Fd,
        /// Wait, or go on.
        hold: bool,
    },
    /// What a journal asks for.
    Journal {
        /// The journal.
        journal: JournalId,
        /// The operation, on its directory and its block memory.
        op: journal::Op,
    },
}

/// A connection of a proxy that has told which machine is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The machine's address, or the proxy's own.
    pub address: SocketAddr,
    /// What was read behind the header.
    pub bytes: Vec<u8>,
}

/// What cores tell each other of the requests of HTTP machines.
#[derive(Debug)]
pub enum Parcel {
    /// A request to a SOURCE that belongs to the core which is told.
    Request(Box<PassedOn>),
    /// What became of it.
    Answer {
        /// The connection, which may be over.
        link: LinkId,
        /// The request's.
        ticket: u64,
        /// Bytes of the request's body.
        bytes: usize,
        /// Final: [`Verdict::Taken`] once the record is as durable as configured.
        verdict: Verdict,
    },
    /// A connection of which requests were passed on is over.
    Left {
        /// Its core.
        core: CoreId,
        /// The connection.
        link: LinkId,
    },
}

/// A request whose record another core is to journal.
#[derive(Debug)]
pub struct PassedOn {
    /// The connection's core.
    pub core: CoreId,
    /// The connection.
    pub link: LinkId,
    /// Names the request in the answer.
    pub ticket: u64,
    /// The listener's source.
    pub source: SourceId,
    /// The connection's peer.
    pub peer: SocketAddr,
    /// SOURCE.
    pub name: Box<str>,
    /// The machine's own Idempotency-Key.
    pub key: Option<Box<[u8]>>,
    /// Content-Type.
    pub content_type: Option<Box<[u8]>>,
    /// Headers that its source keeps, encoded.
    pub headers: Box<[u8]>,
    /// The body.
    pub body: Box<[u8]>,
    /// When its first byte came; monotonic nanoseconds, the same on all cores.
    pub first_byte_ns: u64,
}

impl PassedOn {
    /// What its core is told where the other one has ended.
    pub fn undelivered(&self) -> Parcel {
        let verdict = Verdict::Unavailable { retry_after_s: 1 };
        Parcel::Answer { link: self.link, ticket: self.ticket, bytes: self.body.len(), verdict }
    }
}

/// A port or connection that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPort {
    /// Its file.
    pub fd: Fd,
    /// Bytes that came before the line was set were thrown away: what follows them may be the end of
    /// a record.
    pub discarded: bool,
}

impl From<Fd> for OpenPort {
    /// Of which nothing was thrown away.
    fn from(fd: Fd) -> Self {
        Self { fd, discarded: false }
    }
}

/// Why a read ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvEnd {
    /// The peer closed, or a tty hung up (read returned 0).
    Closed,
    /// An errno; EIO on a tty is a hang-up too.
    Error(i32),
    /// After [`Op::PauseRecv`].
    Paused,
}

/// Why a connection could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The name's server was not asked, or has refused.
    #[error("{to}: the name cannot be resolved: {reason}")]
    Unresolved {
        /// Host and port.
        to: String,
        /// The system's words.
        reason: String,
    },
    /// The name's server has not answered.
    #[error("{to}: the name was not resolved within {within:?}")]
    NameLate {
        /// Host and port.
        to: String,
        /// The deadline.
        within: Duration,
    },
    /// The name is known and leads nowhere.
    #[error("{to}: the name has no address")]
    NoAddress {
        /// Host and port.
        to: String,
    },
    /// None of its addresses can be reached.
    #[error("{}", attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// One an address, in the order in which they were tried.
        attempts: Vec<ConnectAttempt>,
    },
}

/// What came of one address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot connect to {address}: {reason}")]
pub struct ConnectAttempt {
    /// The address.
    pub address: SocketAddr,
    /// The system's words, or that there was no answer.
    pub reason: String,
}

/// What the shard hears.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A connection on a listener.
    Accepted {
        /// The listener's source.
        source: SourceId,
        /// The connection.
        fd: Fd,
        /// Its peer.
        peer: SocketAddr,
    },
    /// Another core has accepted a connection of a proxy, and read of which machine it is.
    HandedOver {
        /// The listener's source.
        source: SourceId,
        /// The connection.
        fd: Fd,
        /// Its peer.
        peer: SocketAddr,
        /// What the proxy has told.
        told: Told,
    },
    /// Accepting ended with an errno (EMFILE, ENFILE, ENOMEM …); the shard decides when to try
    /// again.
    AcceptFailed {
        /// The listener's source.
        source: SourceId,
        /// The errno.
        errno: i32,
    },
    /// Bytes of a link, in one of the ring's buffers: valid during the call only, and free to be
    /// changed in place.
    Received {
        /// The link.
        link: LinkId,
        /// At least one byte.
        bytes: &'a mut [u8],
    },
    /// A read ended for good.
    RecvEnded {
        /// The link.
        link: LinkId,
        /// Why.
        end: RecvEnd,
    },
    /// A send is over.
    Sent {
        /// The link.
        link: LinkId,
        /// The buffer of [`Op::Send`].
        bytes: Vec<u8>,
        /// All of it was taken over by the kernel, or an errno (a short send is reported as EPIPE).
        result: Result<(), i32>,
    },
    /// A connect is over.
    Connected {
        /// The link.
        link: LinkId,
        /// The connection, or what went wrong.
        result: Result<Fd, ConnectError>,
    },
    /// A port was opened, or not.
    PortOpened {
        /// The link.
        link: LinkId,
        /// The port, or why not.
        result: Result<OpenPort, PortError>,
    },
    /// Something changed in the directory of a missing port: try again now.
    PortAppeared {
        /// The serial source.
        source: SourceId,
    },
    /// A link's file is closed and nothing of it is in flight.
    Closed {
        /// The link.
        link: LinkId,
    },
    /// A secret was looked at.
    SecretLooked {
        /// The link of [`Op::LookAtSecret`].
        link: LinkId,
        /// What came of it.
        looked: Looked,
    },
    /// Another core tells something.
    Parcel {
        /// What.
        parcel: Parcel,
    },
    /// An operation of a journal is over.
    Journal {
        /// The journal.
        journal: JournalId,
        /// What came of it.
        completion: journal::Completion,
    },
}
