//! Checked settings: what the rest of the crate sees of a configuration. Every limit lives here, with its default.
//!
//! Durations and sizes are resolved, paths are absolute, names are unique: whoever holds a [`Settings`] need not check again.

use super::answers::Answers;
use super::batch::Batch;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The largest record of any source, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

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
}

/// `[gateway]`: the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Name in metrics and on the page.
    pub name: String,
    /// The CPU of each core thread, in order; resolved from `"all"` or a list. Never empty.
    pub cores: Vec<usize>,
    /// Where journals and the lock live.
    pub state_dir: PathBuf,
    /// Where metrics, health and the commands are served; loopback.
    pub admin: SocketAddr,
    /// The least that a busy core waits for more to do. Zero: not at all.
    pub min_wait: Duration,
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
    /// Policy at `max_bytes`.
    pub when_full: WhenFull,
}

/// `[framing.NAME]`: how a byte stream is cut into records.
#[derive(Debug, Clone, PartialEq)]
pub struct Framing {
    /// How the end of a record is found.
    pub kind: FramingKind,
    /// A record follows these bytes, which are not part of it; what stands before them is garbage. Empty: one record follows
    /// the other.
    pub start: Vec<u8>,
    /// What verifies a record; it follows the end, or the last byte where there is none.
    pub checksum: Checksum,
    /// Silence that ends an unfinished record.
    pub idle: Option<Idle>,
    /// Strip a leading LF and trailing white space.
    pub trim: bool,
    /// Longest record in bytes, without start, end and checksum; at most [`RECORD_BYTES_MAX`].
    pub max_bytes: usize,
    /// What is done with a longer one.
    pub oversized: Oversized,
}

/// How the end of a record is found.
#[derive(Debug, Clone, PartialEq)]
pub enum FramingKind {
    /// A record ends at these bytes (one or more), which are not part of it.
    Delimiter {
        /// The bytes; never empty.
        end: Vec<u8>,
    },
    /// A number in front of a record says how long it is.
    Length(LengthField),
    /// Every record has the same length.
    Fixed {
        /// That length, 1 to `max_bytes`.
        bytes: usize,
    },
    /// A record ends when nothing comes for the time of [`Framing::idle`], which is there.
    IdleGap,
}

/// Where the length of a message stands, and what it counts. A message is: start, header up to the end of this field,
/// payload, checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthField {
    /// Where it begins, from the first byte of the message; at least the length of the start.
    pub offset: usize,
    /// Its own width: 1, 2 or 4.
    pub bytes: usize,
    /// Order of its bytes.
    pub endian: Endian,
    /// What it counts.
    pub counts: LengthCounts,
    /// Whether the header is part of the record.
    pub keep_header: bool,
}

/// Order of the bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// The most significant byte first.
    Big,
    /// The least significant byte first.
    Little,
}

/// What a length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthCounts {
    /// The bytes behind the length, without the checksum.
    Payload,
    /// All bytes behind the length.
    Rest,
    /// All bytes of the message, its start and the length itself included.
    Message,
}

/// What verifies a record: covers all bytes between start and end, untrimmed; binary, least significant byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    None,
    /// One byte: the sum of all bytes, modulo 256.
    Sum8,
    /// One byte: the exclusive or of all bytes.
    Xor8,
    /// Two bytes: the CRC of MODBUS over Serial Line V1.02, section 6.2.2.
    Crc16Modbus,
    /// Four bytes: the CRC of IEEE 802.3, as in zlib and Ethernet.
    Crc32,
}

/// Silence that ends an unfinished record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// So long without a byte.
    pub gap: Duration,
    /// What becomes of the record; [`OnIdle::Emit`] where the gap alone ends records.
    pub policy: OnIdle,
}

/// What becomes of a record that silence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIdle {
    /// It is rejected.
    Discard,
    /// It is delivered, flagged.
    Emit,
}

/// What is done with a record longer than `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// Deliver the first `max_bytes`, flagged; discard up to the next end.
    Cut,
    /// Discard all of it and count it as rejected.
    Drop,
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
    /// Alarm when nothing came for so long.
    pub silence_alarm: Option<Duration>,
}

/// Where a source's bytes come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// A tty.
    Serial(Serial),
    /// A TCP listener; a connection's `{{source}}` is `NAME@ADDRESS:PORT`, or `NAME@ADDRESS` with [`LaneKey::Address`].
    TcpListen {
        /// Bound once per core by SO_REUSEPORT.
        listen: SocketAddr,
        /// What keeps its order.
        lane: LaneKey,
        /// Whether the kernel acknowledges each segment at once: TCP_QUICKACK, tcp(7).
        quick_ack: bool,
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
    },
}

/// What keeps its order on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKey {
    /// Each connection.
    Connection,
    /// All that comes from one IP address, also across reconnects.
    Address,
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
    /// Content-Type of the body.
    pub content_type: String,
    /// Who is trusted and who we are, where a URL of the API is `https`.
    pub tls: Option<Tls>,
    /// Extra request headers, name and value.
    pub headers: Vec<(String, String)>,
    /// Statuses that mean delivered.
    pub success: Vec<u16>,
    /// Media type that such an answer must have.
    pub answer_type: Option<String>,
    /// JSON pointer (RFC 6901) at which such an answer must have the record's id.
    pub answer_id_at: Option<String>,
    /// What other answers lead to.
    pub answers: Answers,
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
    /// Delay before the first retry.
    pub retry_first: Duration,
    /// Longest delay between retries.
    pub retry_max: Duration,
    /// How long SIGTERM waits for what can still be delivered.
    pub drain: Duration,
}

/// `[deliver.tls]`: what the files hold that it names. It is for both steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// Certificates of the CAs that may sign the API's: those of `ca`, or this machine's own. Never empty.
    pub authorities: Vec<CertificateDer<'static>>,
    /// They are those of `ca`.
    pub is_named: bool,
    /// The client certificate, if there is one.
    pub identity: Option<Identity>,
}

/// A certificate and its private key, which `Debug` does not show.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The certificate, then those that lead to its CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// Limits of the engine and of HTTP in.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Size of one provided read buffer.
    pub read_buffer_bytes: usize,
    /// Provided read buffers per core, a power of two up to 32,768.
    pub read_buffers: usize,
    /// HTTP in: start line and headers.
    pub header_bytes: usize,
    /// HTTP in: header fields.
    pub header_fields: usize,
    /// HTTP in: request target.
    pub target_bytes: usize,
    /// HTTP in: body, after chunked decoding.
    pub body_bytes: usize,
    /// HTTP in: from a request's first byte to its last header byte.
    pub header_timeout: Duration,
    /// HTTP in: from a request's last header byte to its last body byte.
    pub body_timeout: Duration,
    /// HTTP in: an idle connection is closed after this.
    pub idle_timeout: Duration,
    /// Connections per core, TCP and HTTP in together; accepting pauses beyond.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_buffer_bytes: 4096,
            read_buffers: 1024,
            header_bytes: 16 * 1024,
            header_fields: 100,
            target_bytes: 8_000,
            body_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            connections: 16_384,
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
            when_full: WhenFull::Pause,
        }
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            kind: FramingKind::Delimiter { end: b"\r".to_vec() },
            start: Vec::new(),
            checksum: Checksum::None,
            idle: None,
            trim: true,
            max_bytes: 4096,
            oversized: Oversized::Cut,
        }
    }
}
