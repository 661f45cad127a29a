//! Checked settings: what the rest of the crate sees of a configuration. Every limit lives here, or
//! beside what it bounds, with its default.
//!
//! Durations and sizes are resolved, paths are absolute, names are unique: whoever holds a [`Settings`] need not check again.

use super::answers::Answers;
use super::batch::Batch;
use crate::access::Access;
use crate::framing::Framing;
use crate::ground::SourceId;
use crate::ground::decoding::Decoding;
use crate::http;
use crate::tls::{ServerTls, Tls};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[journal]`
    pub journal: Journal,
    /// `[[source]]`, in the order of the file; a source's index is its `SourceId`.
    pub sources: Vec<Source>,
    /// `[sequence]`; without it there is one step and no `{{id}}`.
    pub sequence: Option<Sequence>,
    /// `[deliver]`
    pub deliver: Deliver,
    /// Limits of the engine and of HTTP in; `[limits]`.
    pub limits: Limits,
    /// What sources, and machines that have a name here, are called; sorted. Of the file, whatever else stands in `sources`.
    pub names: Arc<[String]>,
}

impl Settings {
    /// How many connections a listener may have on a core.
    pub fn connections_of(&self, id: SourceId) -> usize {
        let own = self.sources[usize::from(id.0)].access.quotas.connections;
        own.map_or(self.limits.connections, |own| own.min(self.limits.connections))
    }
}

/// `[gateway]`: the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Name in metrics and on the page.
    pub name: String,
    /// The file that all this comes from: what people are told to type names it.
    pub file: PathBuf,
    /// The CPU of each core thread, in order; resolved from `"all"` or a list. Never empty.
    pub cores: Vec<usize>,
    /// Where journals and the lock live.
    pub state_dir: PathBuf,
    /// Where metrics, health and the commands are served; loopback.
    pub admin: SocketAddr,
    /// The least that a busy core waits for more to do. Zero: not at all.
    pub min_wait: Duration,
    /// Whether the kernel may write the memory of the process to disk when it dies, with all secrets in it.
    pub core_dumps: bool,
}

/// When a record counts as safe, and what that survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// No journal; lost with the process.
    Memory,
    /// Survives the process being killed at any moment.
    Process,
    /// Survives loss of power.
    Power,
}

/// What happens when the journal is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// HTTP 503 with Retry-After, TCP and serial stop reading.
    Pause,
    /// HTTP 503, other records are counted as rejected.
    Reject,
}

/// `[journal]`
#[derive(Debug, Clone, PartialEq)]
pub struct Journal {
    /// The level at which a record is acknowledged.
    pub durability: Durability,
    /// The longest time an entry waits in an open block before the block is committed.
    pub commit_every: Duration,
    /// Size of one segment file, a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Bound of all cores' journals together.
    pub max_bytes: u64,
    /// Records kept in memory, per core.
    pub window_bytes: usize,
    /// Directory of the block files, which keep what is not on disk yet when the process is killed.
    pub blocks: PathBuf,
    /// Policy at `max_bytes`.
    pub when_full: WhenFull,
    /// How many of the keys under which HTTP machines sent their records are remembered, and for how long.
    pub machine_keys: MachineKeys,
}

/// `[journal] machine_keys`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineKeys {
    /// Per core; 0: none.
    pub count: usize,
    /// From when a key came.
    pub age: Duration,
}

/// `[[source]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Unique; what `{{source}}` shows (see the kinds for what is added to it).
    pub name: String,
    /// Where its bytes come from.
    pub kind: SourceKind,
    /// How they are cut; unused for HTTP, where a body is a record.
    pub framing: Framing,
    /// How a record becomes text, and what is done with one that is none.
    pub decoding: Decoding,
    /// What a record is.
    pub data_is: DataIs,
    /// Alarm when nothing came for so long.
    pub silence_alarm: Option<Duration>,
    /// What becomes of what precedes the first end of a stream; unused for HTTP.
    pub first: First,
    /// What becomes of a record that its machine ends by closing the connection; of TCP.
    pub on_close: OnClose,
    /// When a connection is over without a word; of `tcp_listen` and `tcp_connect`.
    pub tcp: Tcp,
    /// Who may send, of a listener.
    pub access: Access,
    /// Its machines speak TLS; of `tcp_listen` and `http`.
    pub tls: Option<ListenTls>,
    /// The device server that it connects to speaks TLS; of `tcp_connect`.
    pub connect_tls: Option<Arc<Tls>>,
    /// The forms in which its machines may send; of HTTP.
    pub forms: http::server::Forms,
}

/// When a TCP connection on which nothing comes is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// How long after the last byte the kernel asks the other end whether it is there; whole seconds, TCP_KEEPIDLE in tcp(7).
    pub keepalive: Duration,
    /// How long the other end may owe an answer, to such a probe or to bytes; TCP_USER_TIMEOUT in tcp(7).
    pub user_timeout: Duration,
    /// One that has brought nothing for so long is ended, however well it is: `idle`, of `tcp_connect` `reconnect_after`.
    pub idle: Option<Duration>,
}

impl Tcp {
    /// Probes that follow the first one, where nothing else counts.
    pub const PROBES: u32 = 3;

    /// Whether the kernel is to look after a connection as it does where nothing is said.
    pub fn is_watched_as_usual(&self) -> bool {
        let usual = Self::default();
        (self.keepalive, self.user_timeout) == (usual.keepalive, usual.user_timeout)
    }

    /// How long after a probe the next one goes; whole seconds, TCP_KEEPINTVL in tcp(7).
    pub fn probe_interval(&self) -> Duration {
        Duration::from_secs((self.keepalive.as_secs() / 3).max(1))
    }
}

impl Default for Tcp {
    fn default() -> Self {
        Self { keepalive: Duration::from_secs(30), user_timeout: Duration::from_secs(30), idle: None }
    }
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenTls {
    /// What machines are shown, and which of them may come.
    pub server: Arc<ServerTls>,
    /// A machine is who its certificate says: `name_from = "certificate"`.
    pub names_machines: bool,
}

impl ListenTls {
    /// Whether machines must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.server.clients.is_some()
    }
}

/// What becomes of the bytes before the first end of a stream that may have been joined in the middle of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// They are rejected where they come right behind the open, or behind bytes that were discarded: half a record is none.
    Discard,
    /// They are a record: the machine begins with one.
    Keep,
}

/// What becomes of an unfinished record when its machine closes the connection in order (FIN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClose {
    /// It is rejected as unfinished.
    Discard,
    /// It is a record, flagged as unended.
    Emit,
}

impl Source {
    /// With the defaults of its kind.
    pub fn new(name: &str, kind: SourceKind, framing: Framing) -> Self {
        let first = match kind {
            SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => First::Discard,
            SourceKind::TcpListen { .. } | SourceKind::Http { .. } => First::Keep,
        };
        Self {
            name: name.to_owned(),
            kind,
            framing,
            decoding: Decoding::default(),
            data_is: DataIs::Bytes,
            silence_alarm: None,
            first,
            on_close: OnClose::Discard,
            tcp: Tcp::default(),
            access: Access::default(),
            tls: None,
            connect_tls: None,
            forms: http::server::Forms::default(),
        }
    }
}

/// What the records of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataIs {
    /// Any bytes.
    Bytes,
    /// JSON (RFC 8259); others are rejected.
    Json,
}

/// Where a source's bytes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// A tty.
    Serial(Serial),
    /// A TCP listener; a connection's `{{source}}` is `NAME@ADDRESS`, or `NAME@ADDRESS:PORT` with [`LaneKey::Connection`]; see
    /// [`machine_name`].
    TcpListen {
        /// Bound once per core by SO_REUSEPORT.
        listen: SocketAddr,
        /// What keeps its order.
        lane: LaneKey,
        /// Whether the kernel acknowledges each segment at once: TCP_QUICKACK, tcp(7).
        quick_ack: bool,
        /// What the machines at these addresses are called. An IPv4 address is one, also where it comes as an IPv6 address.
        names: BTreeMap<IpAddr, String>,
    },
    /// An outgoing TCP connection to a device server.
    TcpConnect {
        /// Host and port; resolved again at each connect.
        connect: Authority,
        /// As above.
        quick_ack: bool,
    },
    /// `POST /v1/records/SOURCE`; `{{source}}` is the SOURCE of the path.
    Http {
        /// Bound once per core by SO_REUSEPORT.
        listen: SocketAddr,
        /// What keeps its order.
        lane: LaneKey,
    },
}

impl SourceKind {
    /// What keeps its order; of a line all of it does.
    pub fn lane(&self) -> LaneKey {
        match self {
            Self::TcpListen { lane, .. } | Self::Http { lane, .. } => *lane,
            Self::Serial(_) | Self::TcpConnect { .. } => LaneKey::Source,
        }
    }
}

impl Source {
    /// What machines of it are called that it names itself: a port or a device server is one, and each address with a name.
    pub fn named_machines(&self) -> impl Iterator<Item = &str> {
        let (own, names) = match &self.kind {
            SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => (Some(self.name.as_str()), None),
            SourceKind::TcpListen { names, .. } => (None, Some(names)),
            SourceKind::Http { .. } => (None, None),
        };
        own.into_iter().chain(names.into_iter().flat_map(|names| names.values().map(String::as_str)))
    }
}

/// What `{{source}}` shows of a machine that has connected to a listener.
pub fn machine_name(source: &str, lane: LaneKey, names: &BTreeMap<IpAddr, String>, peer: SocketAddr) -> String {
    match (names.get(&peer.ip().to_canonical()), lane) {
        (Some(name), LaneKey::Connection) => format!("{name}:{}", peer.port()),
        (Some(name), LaneKey::Address | LaneKey::Source) => name.clone(),
        (None, LaneKey::Connection) => format!("{source}@{peer}"),
        (None, LaneKey::Address | LaneKey::Source) => format!("{source}@{}", peer.ip()),
    }
}

/// Whether a machine at the other end of `peer` is called by its connection, as [`machine_name`] does.
pub fn is_of_connection(name: &str, peer: SocketAddr) -> bool {
    name.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(peer.port()))
}

/// What keeps its order on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKey {
    /// Each connection.
    Connection,
    /// All that comes from one IP address, also across reconnects.
    Address,
    /// All that comes under one SOURCE of an HTTP listener, by whichever connection.
    Source,
}

impl LaneKey {
    /// As it stands in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Address => "address",
            Self::Source => "source",
        }
    }
}

/// A serial port's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Serial {
    /// A stable path, such as one under `/dev/serial/by-id`.
    pub path: PathBuf,
    /// Speed and character format.
    pub line: Line,
    /// Flow control.
    pub flow: Flow,
    /// What to do when the port is not there at start.
    pub on_missing: OnMissing,
    /// What to do with a record that came with an error of the line.
    pub on_line_error: OnLineError,
}

/// What to do with a record of which a byte came with a parity or framing error, or in a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLineError {
    /// It is rejected, counted, and kept as a sample.
    Reject,
    /// It is delivered with its flags.
    Deliver,
}

/// Speed and character format, such as `9600 8N1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bits per second; any rate (termios2, BOTHER).
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl Line {
    /// Bits of one character on the line, with its start bit.
    pub fn character_bits(&self) -> u8 {
        1 + self.data_bits + u8::from(self.parity != Parity::None) + self.stop_bits
    }
}

/// The parity bit of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// `N`
    None,
    /// `E`
    Even,
    /// `O`
    Odd,
}

/// Flow control of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// None.
    None,
    /// By the RTS and CTS wires.
    RtsCts,
    /// By XON and XOFF bytes, which then cannot be data.
    XonXoff,
}

/// What to do when a serial port is not there at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// Wait for it to appear.
    Wait,
    /// End with the exit code for a missing port.
    Fail,
}

/// `host:port`, as in a URL (RFC 3986 section 3.2), without userinfo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Name or address; an IPv6 address is without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// An `http://` or `https://` URL of the API, cut as the request line needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `https`: the connection is by TLS.
    pub secure: bool,
    /// Where to connect.
    pub authority: Authority,
    /// The Host header's value: the authority as it was written.
    pub host_header: String,
    /// Path and query, at least `/`; free of CR, LF and space.
    pub target: String,
}

/// `[sequence]`: the id step.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Where `{}` is posted.
    pub url: Url,
    /// JSON pointer (RFC 6901) to the id in the answer.
    pub id_at: String,
    /// Ids asked for at a time; 1 is without a lease.
    pub lease: u32,
    /// JSON pointer to the number of ids that a lease grants, from the one at `id_at` on.
    pub count_at: String,
}

/// `[deliver]`: the record step.
#[derive(Debug, Clone, PartialEq)]
pub struct Deliver {
    /// Where records are posted.
    pub url: Url,
    /// The template of the body, checked: known placeholders only, and no `{{id}}` without `[sequence]`.
    pub body: String,
    /// Whether the body shows records as text.
    pub shows_text: bool,
    /// Content-Type of the body.
    pub content_type: String,
    /// Who is trusted and who we are, where a URL of the API is `https`.
    pub tls: Option<Tls>,
    /// Extra request headers, name and value. A value may be secret: clones of the settings share it.
    pub headers: Vec<(String, Arc<str>)>,
    /// The files that hold the values of some, by name.
    pub header_files: Vec<(String, PathBuf)>,
    /// Statuses that mean delivered.
    pub success: Vec<u16>,
    /// Media type that such an answer must have.
    pub answer_type: Option<String>,
    /// JSON pointer (RFC 6901) at which such an answer must have the record's id.
    pub answer_id_at: Option<String>,
    /// What other answers lead to.
    pub answers: Answers,
    /// Under which key a record is sent.
    pub key: DeliverKey,
    /// Many records in one request.
    pub batch: Option<Batch>,
    /// Connections per core and authority.
    pub connections: usize,
    /// Requests in flight on one connection.
    pub pipeline: usize,
    /// Deadline of a whole answer.
    pub timeout: Duration,
    /// Deadline of a connect.
    pub connect_timeout: Duration,
    /// An idle kept-alive connection is closed after this.
    pub idle: Duration,
    /// A connection takes no more requests after this, and is closed once nothing is on its way on it.
    pub max_connection_age: Duration,
    /// Delay before the first retry.
    pub retry_first: Duration,
    /// Longest delay between retries.
    pub retry_max: Duration,
    /// Longest time for which an answer's Retry-After is obeyed.
    pub retry_after_max: Duration,
    /// How long SIGTERM waits for what can still be delivered.
    pub drain: Duration,
}

/// What is sent as Idempotency-Key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverKey {
    /// The record's, which no other record ever has.
    Record,
    /// The machine's own, where the record came with one.
    Machine,
}

/// Limits of the engine and of HTTP in.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Size of one provided read buffer.
    pub read_buffer_bytes: usize,
    /// Provided read buffers per core, a power of two up to 32,768.
    pub read_buffers: usize,
    /// HTTP in: sizes and deadlines of a request.
    pub http: http::server::Limits,
    /// Connections of one source per core; accepting of it pauses beyond.
    pub connections: usize,
    /// Connections per core of all sources, TCP and HTTP in together. The last quarter is shared out among them.
    pub connections_all: usize,
}

impl Limits {
    /// How many connections all sources may have where one may have `connections`.
    pub fn for_all(connections: usize) -> usize {
        (connections + connections.div_ceil(3)).max(16_384)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_buffer_bytes: 4096,
            read_buffers: 1024,
            http: http::server::Limits::default(),
            connections: 12_288,
            connections_all: 16_384,
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            durability: Durability::Power,
            commit_every: Duration::from_millis(5),
            segment_bytes: 16 << 20,
            max_bytes: 1 << 30,
            window_bytes: 32 << 20,
            blocks: "/dev/shm".into(),
            when_full: WhenFull::Pause,
            machine_keys: MachineKeys { count: 100_000, age: Duration::from_secs(24 * 3_600) },
        }
    }
}
