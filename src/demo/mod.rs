//! A demonstration of the whole line as one command: simulated machines on real ptys, the gateway, and the film API, each a
//! process of its own, in a private directory; then the accounting, a check of database against ledger, and latencies.

mod chaos;
mod child;
mod gateway_config;
pub mod report;
pub mod status;
pub mod verify;

pub use child::Error as ChildError;
pub use verify::Window;

use crate::simulate::Summary;
use chaos::{Chaos, Deed};
use child::Child;
use gateway_config::Addresses;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use serde::Deserialize;
use status::Status;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use verify::Verification;

/// Name of the database in the directory.
pub const DATABASE: &str = "films.sqlite";
/// Name of the ledger in the directory.
pub const LEDGER: &str = "ledger.csv";

const TICK: Duration = Duration::from_millis(100);
/// With chaos, nothing has moved for so long once all is there: what was lost on a line never comes.
const SETTLED: Duration = Duration::from_millis(1_500);
/// How long a child may take to get ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// After the machines' end: how long nothing may arrive before what is pending is given up.
const STALL_PATIENCE: Duration = Duration::from_secs(20);
/// The gateway drains for at most 10 s.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// What `simulate` may take to end after a signal, beyond what it leaves its machines.
const SIMULATE_STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The level at which the gateway keeps records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// No journal
    Memory,
    /// Survives a killed process
    Process,
    /// Survives a loss of power
    Power,
}

impl Durability {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Power => "power",
        }
    }
}

/// What is to be shown.
#[derive(Debug, Clone)]
pub struct Options {
    /// Machines on ptys.
    pub machines: usize,
    /// Machines over TCP.
    pub tcp: usize,
    /// Machines over HTTP.
    pub http: usize,
    /// Records per second per machine.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// Level of the journal.
    pub durability: Durability,
    /// Cores of the gateway.
    pub cores: usize,
    /// Fetch an id for each record first.
    pub two_step: bool,
    /// The gateway's connections to the API per core.
    pub connections: usize,
    /// Requests in flight on each.
    pub pipeline: usize,
    /// Leave database, ledger, configuration and logs here.
    pub keep: Option<PathBuf>,
    /// Keep the pages after the end, until a signal comes.
    pub hold: bool,
    /// Kill the gateway, stop the service and unplug a line in the middle.
    pub chaos: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            machines: 16,
            tcp: 0,
            http: 0,
            rate: 20.0,
            duration: Duration::from_secs(10),
            durability: Durability::Power,
            cores: 1,
            two_step: true,
            connections: 8,
            pipeline: 4,
            keep: None,
            hold: false,
            chaos: false,
        }
    }
}

impl Options {
    /// Records that all machines together are to send.
    pub fn records(&self) -> u64 {
        ((self.machines + self.tcp + self.http) as f64 * self.rate * self.duration.as_secs_f64()).round() as u64
    }
}

/// Why a demonstration could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A child failed.
    #[error(transparent)]
    Child(#[from] child::Error),
    /// The directory.
    #[error("{}: {error}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// The directory to keep has something in it.
    #[error("{} is not empty: --keep wants a new or an empty directory", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// More cores than there are.
    #[error("{wanted} cores are wanted, but this process may run on {available}")]
    Cores {
        /// Asked for.
        wanted: usize,
        /// By the CPU affinity.
        available: usize,
    },
    /// A ready file without an address.
    #[error("the receiver's ready file has no address but {text:?}")]
    Address {
        /// What it has.
        text: String,
    },
    /// The gateway does not say how it is.
    #[error(transparent)]
    Status(#[from] status::Error),
    /// Nothing to compare.
    #[error(transparent)]
    Verify(#[from] verify::Error),
    /// A kill would lose all that waits.
    #[error("--chaos kills the gateway, and durability memory survives no kill: use --durability process or power")]
    NoJournal,
    /// The machines ended without a summary.
    #[error("simulate ended without saying what it sent")]
    NoSummary,
    /// A system call.
    #[error("a system call failed: {0}")]
    System(#[from] Errno),
    /// A port could not be found.
    #[error("no free port on loopback: {0}")]
    Port(#[from] io::Error),
}

/// How far a demonstration is, for whoever shows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Since the machines began to send.
    pub elapsed: Duration,
    /// Records sent.
    pub sent: u64,
    /// The gateway's terms.
    pub terms: status::Terms,
    /// The machines are done; what is pending arrives.
    pub draining: bool,
}

/// What a demonstration tells while it runs.
#[derive(Debug, Clone)]
pub enum Event {
    /// Where to look: the receiver's page and the gateway's.
    Pages {
        /// `http://…/` of the receiver.
        receiver: String,
        /// `http://…/` of the gateway.
        gateway: String,
    },
    /// A few times a second.
    Progress(Progress),
    /// What was done on purpose, in words.
    Chaos(String),
    /// The user asked for an early end.
    Stopping,
    /// All is done; the pages stay until the next signal.
    Holding,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the machines say.
    pub summary: Summary,
    /// The gateway's status after the last record.
    pub status: Status,
    /// Database against ledger.
    pub verification: Verification,
    /// CPU time of the gateway from the first record to the last, all threads.
    pub gateway_cpu: Duration,
    /// Why a child did not end well.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Whether every record that was sent is in the database once, in order per machine; the accounting balances; and all ended well.
    pub fn holds(&self) -> bool {
        self.verification.holds() && self.status.balanced && self.failures.is_empty()
    }
}

/// A directory of one's own, removed with all that is in it unless it is kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn new(keep: Option<&Path>) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::Directory { path, error }
        };
        let directory = match keep {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(at(path))?;
                if std::fs::read_dir(path).map_err(at(path))?.next().is_some() {
                    return Err(Error::NotEmpty { path: path.to_owned() });
                }
                Self { path: path.canonicalize().map_err(at(path))?, keep: true }
            }
            None => {
                let template = std::env::temp_dir().join("ringest-demo-XXXXXX");
                let path = nix::unistd::mkdtemp(&template).map_err(|errno| at(&template)(errno.into()))?;
                Self { path, keep: false }
            }
        };
        for name in ["ports", "state", "logs"] {
            let path = directory.path.join(name);
            std::fs::create_dir(&path).map_err(at(&path))?;
        }
        Ok(directory)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(name).with_extension("log")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// What the machines have said so far, read by a thread from their standard output.
#[derive(Debug, Default)]
struct Said {
    elapsed: Option<Duration>,
    sent: u64,
    summary: Option<Summary>,
}

/// The children, in the order in which they are stopped when dropped.
struct Line {
    gateway: Child,
    machines: Child,
    /// None while the service is stopped on purpose.
    receiver: Option<Child>,
    said: Arc<Mutex<Said>>,
    addresses: Addresses,
    chaos: Chaos,
    /// CPU time of a gateway that was killed.
    cpu_spent: Duration,
}

/// Runs a demonstration. `stop` is read for signals: the first ends the machines early, the second everything.
pub fn run(options: &Options, stop: &SignalFd, show: &mut dyn FnMut(Event)) -> Result<Outcome, Error> {
    if !chaos::is_possible(options) {
        return Err(Error::NoJournal);
    }
    let cores = cores(options.cores)?;
    let directory = Directory::new(options.keep.as_deref())?;
    let mut line = Line::start(options, &cores, &directory, show)?;
    let (summary, cpu_begun) = line.watch_machines(&directory, stop, show)?;
    let status = line.watch_drain(&summary, stop, show)?;
    let gateway_cpu = (line.cpu_spent + line.gateway.cpu_time()?).saturating_sub(cpu_begun);
    if options.hold {
        show(Event::Holding);
        line.hold(stop)?;
    }
    let mut failures = Vec::new();
    // The ports stay open until the gateway is gone, or it would see them hang up.
    let receiver = line.receiver.as_mut().map(|receiver| (receiver, STOP_PATIENCE));
    let children = [(&mut line.gateway, STOP_PATIENCE), (&mut line.machines, SIMULATE_STOP_PATIENCE)];
    for (child, patience) in children.into_iter().chain(receiver) {
        if let Err(error) = child.stop(patience) {
            failures.push(error.to_string());
        }
    }
    let (database, ledger) = (directory.path.join(DATABASE), directory.path.join(LEDGER));
    let verification = verify::verify(&database, &ledger, line.chaos.window)?;
    Ok(Outcome { summary, status, verification, gateway_cpu, failures })
}

impl Line {
    fn start(
        options: &Options,
        cores: &[usize],
        directory: &Directory,
        show: &mut dyn FnMut(Event),
    ) -> Result<Self, Error> {
        crate::simulate::raise_open_files();
        let dir = &directory.path;
        let (receiver, text) = start_receiver(directory, "127.0.0.1:0", "receive")?;
        let address = text.parse().map_err(|_| Error::Address { text })?;
        let [admin, tcp, http] = free_addresses()?;
        let addresses = Addresses { receiver: address, admin, tcp, http };

        let ready = dir.join("simulate.ready");
        let mut machines =
            Child::start("simulate", directory.log("simulate"), machine_arguments(options, dir, &addresses, &ready))?;
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(output) = machines.take_stdout() {
            let said = said.clone();
            std::thread::spawn(move || listen(output, &said));
        }
        machines.wait_ready(&ready, READY_PATIENCE)?;

        let config = dir.join("ringest.toml");
        std::fs::write(&config, gateway_config::text(options, cores, dir, &addresses))
            .map_err(|error| Error::Directory { path: config.clone(), error })?;
        let gateway = start_gateway(directory, "run")?;
        show(Event::Pages { receiver: format!("http://{address}/"), gateway: format!("http://{admin}/") });
        let (receiver, chaos) = (Some(receiver), Chaos::new(options));
        Ok(Self { gateway, machines, receiver, said, addresses, chaos, cpu_spent: Duration::ZERO })
    }

    fn check(&mut self) -> Result<(), Error> {
        if let Some(receiver) = &mut self.receiver {
            receiver.check()?;
        }
        self.gateway.check()?;
        Ok(())
    }

    /// Does on purpose what is due.
    fn disturb(&mut self, directory: &Directory, deed: Deed, show: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let words = match deed {
            Deed::KillGateway => {
                self.cpu_spent += self.gateway.cpu_time()?;
                self.chaos.killed();
                self.gateway.kill();
                self.gateway = start_gateway(directory, "run-after-the-kill")?;
                let away_ms = self.chaos.back().as_millis();
                format!("chaos: the gateway was killed (kill -9) and started again: it reads after {away_ms} ms")
            }
            Deed::StopService => {
                if let Some(mut receiver) = self.receiver.take() {
                    receiver.stop(STOP_PATIENCE)?;
                }
                "chaos: the service is stopped".to_owned()
            }
            Deed::StartService => {
                let address = self.addresses.receiver.to_string();
                self.receiver = Some(start_receiver(directory, &address, "receive-again")?.0);
                "chaos: the service is back".to_owned()
            }
        };
        show(Event::Chaos(words));
        Ok(())
    }

    /// Until the machines have sent everything. Returns their summary and the gateway's CPU time before the first record.
    fn watch_machines(
        &mut self,
        directory: &Directory,
        stop: &SignalFd,
        show: &mut dyn FnMut(Event),
    ) -> Result<(Summary, Duration), Error> {
        let mut cpu_begun = None;
        let mut signals = 0;
        loop {
            let (elapsed, sent, summary) = {
                let said = self.said.lock().expect("no thread panics with it");
                (said.elapsed, said.sent, said.summary.clone())
            };
            if elapsed.is_none() || cpu_begun.is_none() {
                cpu_begun = Some(self.gateway.cpu_time()?);
            }
            while let Some(deed) = self.chaos.next(elapsed, summary.is_some()) {
                self.disturb(directory, deed, show)?;
            }
            if let Some(summary) = summary {
                return Ok((summary, cpu_begun.unwrap_or_default()));
            }
            self.check()?;
            if signals == 0 {
                self.machines.check()?;
            } else if self.machines.check().is_err() {
                return Err(Error::NoSummary);
            }
            if let Some(elapsed) = elapsed {
                let terms = status::get(self.addresses.admin)?.terms;
                // The machines speak less often than the gateway is asked.
                let sent = sent.max(terms.received);
                show(Event::Progress(Progress { elapsed, sent, terms, draining: false }));
            }
            if stop.read_signal()?.is_some() {
                signals += 1;
                if signals > 1 {
                    return Err(Error::NoSummary);
                }
                show(Event::Stopping);
                self.machines.signal(Signal::SIGTERM);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Until a signal comes.
    fn hold(&mut self, stop: &SignalFd) -> Result<(), Error> {
        while stop.read_signal()?.is_none() {
            self.check()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Until all that was sent has been received and nothing is pending, or nothing has moved for long.
    fn watch_drain(
        &mut self,
        summary: &Summary,
        stop: &SignalFd,
        show: &mut dyn FnMut(Event),
    ) -> Result<Status, Error> {
        let begun = Instant::now();
        let mut moved = (Instant::now(), status::Terms::default());
        loop {
            let status = status::get(self.addresses.admin)?;
            let terms = status.terms;
            // A gateway that was started again has not received all of it.
            let all_came = match self.chaos.window {
                Some(_) => moved.0.elapsed() > SETTLED,
                None => terms.received >= summary.sent + summary.garbage,
            };
            let done = all_came && terms.pending == 0;
            if terms != moved.1 {
                moved = (Instant::now(), terms);
            }
            if done || moved.0.elapsed() > STALL_PATIENCE || stop.read_signal()?.is_some() {
                return Ok(status);
            }
            self.check()?;
            let elapsed = Duration::from_millis(summary.elapsed_ms) + begun.elapsed();
            show(Event::Progress(Progress { elapsed, sent: summary.sent, terms, draining: true }));
            std::thread::sleep(TICK);
        }
    }
}

fn start_gateway(directory: &Directory, log: &str) -> Result<Child, Error> {
    let (config, ready) = (directory.path.join("ringest.toml"), directory.path.join(log).with_extension("ready"));
    let arguments = [config.into(), OsString::from("--ready-file"), ready.clone().into()];
    let mut gateway = Child::start("run", directory.log(log), arguments)?;
    gateway.wait_ready(&ready, READY_PATIENCE)?;
    Ok(gateway)
}

/// What it says when it is ready: where it listens.
fn start_receiver(directory: &Directory, listen: &str, log: &str) -> Result<(Child, String), Error> {
    let dir = &directory.path;
    let ready = dir.join(log).with_extension("ready");
    let arguments = ["--listen", listen].map(OsString::from).into_iter().chain([
        "--database".into(),
        dir.join(DATABASE).into(),
        "--ready-file".into(),
        ready.clone().into(),
    ]);
    let mut receiver = Child::start("receive", directory.log(log), arguments)?;
    let text = receiver.wait_ready(&ready, READY_PATIENCE)?;
    Ok((receiver, text))
}

fn machine_arguments(options: &Options, dir: &Path, addresses: &Addresses, ready: &Path) -> Vec<OsString> {
    let mut arguments = Vec::<OsString>::new();
    let mut add = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
    add("--ptys", options.machines.to_string().into());
    add("--dir", dir.join("ports").into());
    add("--tcp", options.tcp.to_string().into());
    add("--to", addresses.tcp.to_string().into());
    add("--http", options.http.to_string().into());
    add("--to-http", addresses.http.to_string().into());
    add("--rate", options.rate.to_string().into());
    add("--for", format!("{}ns", options.duration.as_nanos()).into());
    add("--ledger", dir.join(LEDGER).into());
    add("--ready-file", ready.into());
    if let Some(at) = chaos::unplug_at(options) {
        add("--unplug-at", format!("{}ns", at.as_nanos()).into());
    }
    arguments.extend(["--hold", "--json", "--progress"].map(OsString::from));
    arguments
}

/// Reads what the machines say until they end.
fn listen(output: ChildStdout, said: &Mutex<Said>) {
    #[derive(Deserialize)]
    struct ProgressLine {
        progress: ProgressFields,
    }
    #[derive(Deserialize)]
    struct ProgressFields {
        elapsed_ms: Option<u64>,
        sent: u64,
    }
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let mut said = said.lock().expect("no thread panics with it");
        if let Ok(ProgressLine { progress }) = serde_json::from_str(&line) {
            said.elapsed = progress.elapsed_ms.map(Duration::from_millis);
            said.sent = progress.sent;
        } else if let Ok(summary) = serde_json::from_str(&line) {
            said.summary = Some(summary);
        }
    }
}

/// The first CPUs that this process may run on.
fn cores(wanted: usize) -> Result<Vec<usize>, Error> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cores = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect::<Vec<_>>();
    if wanted > cores.len() {
        return Err(Error::Cores { wanted, available: cores.len() });
    }
    Ok(cores[..wanted].to_vec())
}

/// Addresses on loopback that nobody used a moment ago; all are held until the last is found, so that they differ.
fn free_addresses<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut listeners = Vec::with_capacity(N);
    for _ in 0..N {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&listeners) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}
