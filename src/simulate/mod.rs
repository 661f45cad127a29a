//! Machines on ptys, over TCP and over HTTP: what stands at the far end of the line, for tests, demonstrations and load.
//!
//! One thread drives all machines ([`Simulation::run`]): an open-loop schedule says when each
//! record is due; a port that takes no bytes delays its records but never loses one, and a record's
//! latency counts from when it was due. What was sent stands in a ledger ([`ledger`]) beside the
//! records' own checksums ([`record`]), so that a verifier needs nothing else. Faults are drawn
//! from a seed ([`Faults`]).
//!
//! It never looks at what the gateway does with a record, but for the answers of HTTP.

mod http;
pub mod ledger;
mod machine;
mod proxy;
mod pty;
pub mod record;
mod schedule;
mod socket;
mod tls;
mod wire;
mod world;

pub use http::Token;
pub use proxy::{ProxyVersion, machine_address};
pub use pty::Error as PtyError;
pub use schedule::Faults;
pub use tls::{Tls, TlsError};
pub(crate) use world::raise_open_files;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// How machines on sockets speak.
#[derive(Debug, Clone, Default)]
pub struct Speech {
    /// TLS, of machines over TCP and HTTP.
    pub tls: Option<Tls>,
    /// What a proxy in front of each of them sends first: addresses of their own ([`machine_address`]).
    pub proxy: Option<ProxyVersion>,
    /// A connection for each record or request, made when it is due.
    pub connection_per_record: bool,
    /// What HTTP machines show.
    pub token: Option<Token>,
    /// HTTP machines send so many records in a request, each a JSON string in a line (NDJSON), once the last of them is due; without
    /// it a request is a record.
    pub batch: Option<usize>,
    /// HTTP machines pack their bodies.
    pub gzip: bool,
}

/// What is to be simulated. Machines are named `machine-0000` and so on: first those on ptys, then TCP, then HTTP.
#[derive(Debug, Clone)]
pub struct Options {
    /// Machines on ptys.
    pub ptys: usize,
    /// Where their symlinks are made, one by each machine's name.
    pub dir: PathBuf,
    /// Machines over TCP, and where they connect to.
    pub tcp: (usize, SocketAddr),
    /// Machines by HTTP POST, and where they connect to.
    pub http: (usize, SocketAddr),
    /// Records per second per machine; more than 0.
    pub rate: f64,
    /// How long records are due.
    pub duration: Duration,
    /// Jitter as a share of the interval, 0 to 1.
    pub jitter: f64,
    /// Length of a record without its delimiter; a record is never shorter than its fields.
    pub record_bytes: usize,
    /// The delimiter (ptys and TCP); not empty.
    pub end: Vec<u8>,
    /// How machines over TCP and HTTP speak.
    pub speech: Speech,
    /// What goes wrong on purpose.
    pub faults: Faults,
    /// Decides faults and jitter.
    pub seed: u64,
    /// How long a machine that hung up stays away.
    pub away: Duration,
    /// Where the ledger is written.
    pub ledger: Option<PathBuf>,
    /// How long readers of ptys and listeners are waited for at the start.
    pub wait_for_reader: Duration,
    /// Between a pty's being opened and the first byte, so that its reader can finish the settings.
    pub settle: Duration,
    /// How long what is due may take after the end, until all is sent, read and answered.
    pub drain: Duration,
    /// Keep all ports open after the end, until stopped.
    pub hold: bool,
    /// Called with the summary once all is sent, where `hold` is set.
    pub on_held: fn(&Summary),
}

impl Default for Options {
    /// No machines; 1 record of 64 bytes per second for 10 s, `\r`, no faults.
    fn default() -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            ptys: 0,
            dir: PathBuf::from("."),
            tcp: (0, nowhere),
            http: (0, nowhere),
            rate: 1.0,
            duration: Duration::from_secs(10),
            jitter: 0.0,
            record_bytes: 64,
            end: b"\r".to_vec(),
            speech: Speech::default(),
            faults: Faults::default(),
            seed: 1,
            away: Duration::from_millis(200),
            ledger: None,
            wait_for_reader: Duration::from_secs(60),
            settle: Duration::from_millis(100),
            drain: Duration::from_secs(30),
            hold: false,
            on_held: |_| {},
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// All machines.
    pub machines: usize,
    /// Machines whose port was open at the other end once; the schedule starts when it is all.
    pub ready: usize,
    /// Since the schedule started.
    pub elapsed: Option<Duration>,
    /// As [`Summary::sent`].
    pub sent: u64,
    /// As [`Summary::late_max_us`].
    pub late_max_us: u64,
}

/// What a run came to, in records unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Machines.
    pub machines: u64,
    /// Written whole (ptys, TCP) or acknowledged (HTTP): these must arrive.
    pub sent: u64,
    /// Of these, answered with 2xx.
    pub acknowledged: u64,
    /// Cut off, or joined to one that was.
    pub damaged: u64,
    /// Frames of garbage.
    pub garbage: u64,
    /// Refused with a 4xx.
    pub refused: u64,
    /// HTTP records that may have arrived: no answer came before the end.
    pub unanswered: u64,
    /// Due, but not sent before the end.
    pub unsent: u64,
    /// HTTP requests cut off on purpose and made again.
    pub cut_requests: u64,
    /// HTTP answers that asked for the same record again.
    pub retried: u64,
    /// Hang-ups made on purpose.
    pub hang_ups: u64,
    /// Connections that ended from the other side, or could not be made.
    pub lost_connections: u64,
    /// Ports closed although it is not known that their reader had read everything.
    pub unread_ports: u64,
    /// The longest time by which a record was sent after it was due, microseconds. One in a batch waits for the last of it.
    pub late_max_us: u64,
    /// From the start of the schedule to the end, milliseconds.
    pub elapsed_ms: u64,
    /// CPU time of the process, milliseconds.
    pub cpu_ms: u64,
    /// Ended early by a signal.
    pub stopped: bool,
}

/// Why a simulation cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pty.
    #[error(transparent)]
    Pty(#[from] pty::Error),
    /// Nobody at the other end.
    #[error("after {waited:?}: {first}{}", others(*count))]
    NotReady {
        /// The first machine that waits, in words.
        first: String,
        /// How many wait.
        count: usize,
        /// How long.
        waited: Duration,
    },
    /// A write to a pty failed.
    #[error("{machine} cannot write to its pty: {errno}")]
    Write {
        /// Name of the machine.
        machine: String,
        /// What the kernel says.
        errno: Errno,
    },
    /// The ledger.
    #[error("the ledger cannot be written: {0}")]
    Ledger(#[from] io::Error),
    /// epoll and the like.
    #[error("waiting for events failed: {0}")]
    Wait(#[from] Errno),
}

fn others(count: usize) -> String {
    if count > 1 { format!(" (one of {count} that wait)") } else { String::new() }
}

/// A simulation whose ptys are open and whose symlinks are in place.
pub struct Simulation<'a>(world::World<'a>);

impl<'a> Simulation<'a> {
    /// Makes the machines. `stop` ends the run early once it is readable; `report` is called about five times a second.
    ///
    /// # Panics
    /// If the rate is not above 0, the delimiter is empty, or a batch is of no record.
    pub fn new(
        options: Options,
        stop: Option<BorrowedFd<'a>>,
        report: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        assert!(options.rate > 0.0 && options.rate.is_finite(), "rate {} is no rate", options.rate);
        assert!(!options.end.is_empty(), "a record needs a delimiter");
        assert_ne!(options.speech.batch, Some(0), "a request has a record");
        let schedule = schedule::Schedule {
            machines: options.ptys + options.tcp.0 + options.http.0,
            rate: options.rate,
            duration: options.duration,
            jitter: options.jitter.clamp(0.0, 1.0),
            seed: options.seed,
            faults: options.faults,
        };
        world::World::new(world::Context::new(options, schedule)?, stop, report).map(Self)
    }

    /// Waits for readers, sends everything, and returns what it came to.
    pub fn run(self) -> Result<Summary, Error> {
        self.0.run()
    }
}

/// The name of a machine by its index.
pub fn machine_name(index: usize) -> String {
    world::machine_name(index)
}
