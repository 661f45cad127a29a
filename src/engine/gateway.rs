//! The whole gateway: what is checked and taken at start, the core threads, the control thread, the end.

use super::admin::{self, Token};
use super::blocks::watch::BlockWatch;
use super::clock;
use super::control::{Control, Request, locked};
use super::core::{CoreThread, Found, Last};
use super::driver::Message;
use super::error::EngineError;
use super::files::{CoreDirectory, core_directories, create_private_directory, remove_half_removed};
use super::histograms::Histograms;
use super::lines::Lines;
use super::listen::{Listeners, bind_admin, bind_all};
use super::lock::StateLock;
use super::names::Names;
use super::parking::AskedCores;
use super::placement::Placement;
use super::probe;
use super::process;
use super::reload::{ReloadError, Reloader, Start, Wish};
use super::reread;
use super::roll::MachineRoll;
use super::stop::Stop;
use crate::config::{Durability, Limits, OnMissing, Serial, Settings, Source, SourceKind};
use crate::observe::histlog::HistogramLog;
use crate::observe::loaded::Loaded;
use crate::observe::process::ProcessUsage;
use crate::observe::report::Report;
use crate::shard::SourceId;
use crate::source::serial::{self, Opened};
use crate::tls::TicketKeys;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as threads;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

/// Descriptors of a core besides connections and listeners, and of the process besides its cores.
const CORE_FILES: usize = 48;
const PROCESS_FILES: usize = 64 + admin::CONNECTIONS_MAX;

/// Connections of machines on a core that are few.
const CONNECTIONS_FEW: usize = 1_024;

/// Threads for what is read and taken at a reload. What may wait for long has threads of its own (`waiting`).
const BLOCKING_THREADS: usize = 64;

/// How the gateway is run.
#[derive(Debug, Default)]
pub struct Options {
    /// Written, whole or not at all, once all cores take records; it holds the admin server's address and a line feed.
    pub ready_file: Option<PathBuf>,
    /// Where the latencies of each interval are logged, and how long an interval is.
    pub histogram_log: Option<(PathBuf, Duration)>,
    /// The file that the settings came from, which SIGHUP has read again.
    pub config: Option<PathBuf>,
    /// Stops the gateway as SIGTERM does, for whoever runs it inside another program.
    pub stop: Option<oneshot::Receiver<()>>,
}

/// What a run leaves to be told.
#[derive(Debug)]
pub struct Summary {
    /// All cores' last snapshots.
    pub report: Report,
    /// Of each journal that could not be written to its end, what that means, in a sentence; the block file keeps what is missing.
    pub unwritten: Vec<String>,
    /// CPU time and memory.
    pub usage: ProcessUsage,
    /// Most memory that was resident, in bytes.
    pub rss_bytes_max: u64,
    /// From the start to the end.
    pub uptime: Duration,
}

/// Runs the gateway until SIGTERM, Ctrl-C or `options.stop`, then until everything is delivered or `drain` is over.
///
/// # Errors
/// [`EngineError`], most of them before any source is opened.
///
/// A signal is obeyed at once also while another gateway's lock, an address in use or a journal that is being read is waited for:
/// [`EngineError::Stopped`]. The process should end then, for a thread may still read the journal, which is as safe as a kill.
pub fn run(mut settings: Settings, options: Options) -> Result<Summary, EngineError> {
    let started = Instant::now();
    super::memory::share_arenas(settings.gateway.cores.len());
    raise_open_files();
    if !settings.gateway.core_dumps {
        forbid_core_dumps();
    }
    let file = settings.clone();
    leave_descriptors(&mut settings);
    let features = probe::io_uring()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(EngineError::Thread)?;
    // From here on a signal waits until it can be obeyed.
    let (wish, wishes) = mpsc::unbounded_channel();
    let mut stop = runtime.block_on(async { Stop::new(options.stop, wish.clone()) }).map_err(EngineError::Thread)?;
    let settings = Arc::new(settings);
    let Taken { lock, listeners, admin, ports, directories } = take(&runtime, &mut stop, &settings)?;
    let histograms = match options.histogram_log {
        Some((path, every)) => Some((HistogramLog::open(path)?, every)),
        None => None,
    };
    let started_cores = Gateway::start(&settings, listeners, directories, features.read_multishot, &runtime, &mut stop);
    let (gateway, cores) = match started_cores {
        Err(stopped @ EngineError::Stopped { .. }) => {
            // Held to the end of the process: the journals are still being read.
            std::mem::forget(lock);
            return Err(stopped);
        }
        started => started?,
    };
    let reload = Reading { path: options.config, file, wish, wishes };
    let last = gateway.serve(
        &runtime,
        stop,
        cores,
        reload,
        Doors { admin, ports, ready_file: options.ready_file, histograms },
    )?;
    // A close that waits for a dead line's output, or a name server, keeps nobody.
    runtime.shutdown_background();
    let peak = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss() as u64 * 1024);
    let (snapshots, unwritten): (Vec<_>, Vec<_>) = last.into_iter().map(|core| (core.snapshot, core.unwritten)).unzip();
    let unwritten = unwritten.concat();
    if !unwritten.is_empty() {
        // Held to the end of the process: writes may still be under way.
        std::mem::forget(lock);
    }
    Ok(Summary {
        report: Report::merge(snapshots, &[]),
        unwritten,
        usage: process::usage(),
        rss_bytes_max: peak,
        uptime: started.elapsed(),
    })
}

/// What a gateway takes before it starts its cores.
struct Taken {
    lock: StateLock,
    listeners: Vec<Listeners>,
    admin: TcpListener,
    ports: HashMap<SourceId, Opened>,
    /// The journal directories of each core.
    directories: Vec<Vec<CoreDirectory>>,
}

/// Takes lock, addresses and ports. Each may wait for a moment, so that is done on a thread of its own while this one listens for
/// a wish to stop.
fn take(runtime: &Runtime, stop: &mut Stop, settings: &Arc<Settings>) -> Result<Taken, EngineError> {
    let (tell, mut hear) = oneshot::channel();
    let own = Arc::clone(settings);
    let take = move || {
        let directory = &own.gateway.state_dir;
        let unusable = |error| EngineError::StateDirectory { directory: directory.clone(), error };
        create_private_directory(directory).map_err(unusable)?;
        let lock = StateLock::acquire(directory)?;
        remove_half_removed(directory).map_err(unusable)?;
        reread::end_begun(directory).map_err(unusable)?;
        let listeners = bind_all(&own, own.gateway.cores.len())?;
        let admin = bind_admin(own.gateway.admin)?;
        let ports = open_required_ports(&own)?;
        let directories = share_directories(&own, core_directories(directory).map_err(unusable)?);
        Ok(Taken { lock, listeners, admin, ports, directories })
    };
    // Nobody who has stopped needs what was taken: it is let go.
    let run = move || drop(tell.send(take()));
    std::thread::Builder::new().name("start".to_owned()).spawn(run).map_err(EngineError::Thread)?;
    runtime.block_on(async {
        tokio::select! {
            taken = &mut hear => taken.expect("a start does not panic"),
            reason = stop.wanted() => Err(EngineError::Stopped { reason: reason.words() }),
        }
    })
}

/// Each connection is a descriptor, and the soft limit is often 1,024.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        warn!("the limit of open files cannot be raised: {error}");
    }
}

/// A core dump would hold records, keys and tokens.
fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!("core dumps cannot be forbidden: {error}");
    }
}

/// Takes no more machines than leave descriptors for journals, ports and the API: what was accepted could not be delivered else.
pub(super) fn leave_descriptors(settings: &mut Settings) {
    let Ok((_, files)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let allowed = connections_allowed(files, settings);
    if allowed < settings.limits.connections_all {
        if are_too_few(allowed, settings) {
            warn!(
                "the limit of open files, {files}, allows {allowed} connections of machines on each core, not {}; more wait: \
                 LimitNOFILE= in the unit, or `ulimit -Hn`, raises it",
                settings.limits.connections
            );
        }
        settings.limits.connections_all = allowed;
        settings.limits.connections = settings.limits.connections.min(allowed);
    }
}

/// Whether to say that open files allow no more connections: the default is more than most need.
pub fn are_too_few(allowed: usize, settings: &Settings) -> bool {
    let wanted = settings.limits.connections;
    allowed < wanted && (allowed < CONNECTIONS_FEW || wanted != Limits::default().connections)
}

/// Connections of machines on each core that `files` descriptors allow; at least one.
pub fn connections_allowed(files: u64, settings: &Settings) -> usize {
    let is_serial = |source: &&Source| matches!(source.kind, SourceKind::Serial(_));
    // A port has a duplicate for its driver's counts. Each core has listeners, rings, segments and what is read back.
    let ports = 2 * settings.sources.iter().filter(is_serial).count();
    let core = CORE_FILES + settings.sources.len() + 2 * settings.deliver.connections;
    let cores = settings.gateway.cores.len().max(1);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files.saturating_sub(PROCESS_FILES + ports) / cores).saturating_sub(core).max(1)
}

/// Opens the ports without which the gateway is not to start. They stay open, so that no line is dropped and raised again.
fn open_required_ports(settings: &Settings) -> Result<HashMap<SourceId, Opened>, EngineError> {
    let mut opened = HashMap::new();
    for (index, source) in settings.sources.iter().enumerate() {
        if let SourceKind::Serial(port) = &source.kind
            && port.on_missing == OnMissing::Fail
        {
            opened.insert(SourceId(index as u16), open_required_port(&source.name, port)?);
        }
    }
    Ok(opened)
}

/// Opens a port that must be there.
pub(super) fn open_required_port(source: &str, port: &Serial) -> Result<Opened, EngineError> {
    serial::open(port).map_err(|error| {
        let (source_name, path) = (source.to_owned(), port.path.clone());
        EngineError::Port { source_name, path, error }
    })
}

/// The journal directories of each core: its own, then those with records that came back, and by its index those of cores that are
/// no more.
fn share_directories(settings: &Settings, found: Vec<CoreDirectory>) -> Vec<Vec<CoreDirectory>> {
    let cores = settings.gateway.cores.len() as u16;
    let mut directories: Vec<Vec<CoreDirectory>> = (0..cores).map(|core| vec![CoreDirectory::own(core)]).collect();
    // Without a journal nothing is read, so nothing is adopted.
    if settings.journal.durability != Durability::Memory {
        for directory in found.into_iter().filter(|found| found.is_adopted(cores)) {
            directories[usize::from(directory.core % cores)].push(directory);
        }
    }
    directories
}

type Ended = (u16, Result<Option<Last>, EngineError>);

/// The running core threads, seen from the control thread.
struct Gateway {
    settings: Arc<Settings>,
    mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    ready: Vec<oneshot::Receiver<()>>,
    ended: mpsc::UnboundedReceiver<Ended>,
    loaded: Loaded,
    /// `None` until all journals are open.
    blocks: Option<Arc<BlockWatch>>,
}

/// What the control thread needs of the cores that were started.
struct Cores {
    control: mpsc::UnboundedSender<Request>,
    requests: mpsc::UnboundedReceiver<Request>,
    placement: Placement,
}

/// What is needed to read the configuration again.
struct Reading {
    path: Option<PathBuf>,
    /// As it was read first.
    file: Settings,
    wish: mpsc::UnboundedSender<Wish>,
    wishes: mpsc::UnboundedReceiver<Wish>,
}

/// What the control thread holds open, and the file that says so.
struct Doors {
    admin: TcpListener,
    ports: HashMap<SourceId, Opened>,
    ready_file: Option<PathBuf>,
    histograms: Option<(HistogramLog, Duration)>,
}

impl Gateway {
    /// Starts the core threads, waits until all journals are open, and sets them going.
    fn start(
        settings: &Arc<Settings>,
        listeners: Vec<Listeners>,
        directories: Vec<Vec<CoreDirectory>>,
        read_multishot: bool,
        runtime: &Runtime,
        stop: &mut Stop,
    ) -> Result<(Self, Cores), EngineError> {
        let cores = settings.gateway.cores.len();
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::unbounded_channel()).unzip();
        let (control, requests) = mpsc::unbounded_channel();
        let (opened, mut journals) = mpsc::unbounded_channel();
        let (end, ended) = mpsc::unbounded_channel::<Ended>();
        let (mut ready, mut assignments) = (Vec::new(), Vec::new());
        let parts = listeners.into_iter().zip(directories).zip(inboxes).enumerate();
        for (index, ((listeners, directories), mailbox)) in parts {
            let (tell_ready, hear_ready) = oneshot::channel();
            let (give, assigned) = threads::channel();
            let thread = CoreThread {
                settings: Arc::clone(settings),
                core: index as u16,
                cpu: settings.gateway.cores[index],
                directories,
                read_multishot,
                listeners,
                peers: mailboxes.clone(),
                control: control.clone(),
                mailbox,
                opened: opened.clone(),
                assigned,
                ready: tell_ready,
            };
            let end = end.clone();
            let run = move || {
                // The other side stays until all have ended.
                let _ = end.send((thread.core, thread.run()));
            };
            std::thread::Builder::new().name(format!("core-{index}")).spawn(run).map_err(EngineError::Thread)?;
            ready.push(hear_ready);
            assignments.push(give);
        }
        drop(opened);
        let (loaded, blocks) = (Loaded::at(clock::now().wall_ns), None);
        let mut gateway = Self { settings: Arc::clone(settings), mailboxes, ready, ended, loaded, blocks };
        gateway.loaded.set_certificates(settings);
        let gathered = runtime.block_on(async {
            tokio::select! {
                found = gather(&mut journals, cores) => found,
                reason = stop.wanted() => Err(EngineError::Stopped { reason: reason.words() }),
            }
        });
        match gathered {
            // Nobody waits until all journals were read: the next start does that.
            Err(stopped @ EngineError::Stopped { .. }) => Err(stopped),
            Ok(found) => {
                let files = |core: u16| found[usize::from(core)].files.iter().map(move |file| (core, Arc::clone(file)));
                let blocks = (0..found.len() as u16).flat_map(files).collect();
                gateway.blocks = Some(Arc::new(BlockWatch::new(settings.journal.durability, blocks)));
                let mut placement = Placement::new(found);
                for (assignment, give) in placement.assign(settings).into_iter().zip(assignments) {
                    // A core that is gone says so at its end.
                    let _ = give.send(assignment);
                }
                Ok((gateway, Cores { control, requests, placement }))
            }
            Err(error) => {
                // The other cores close their journals again.
                drop((assignments, end));
                while gateway.ended.blocking_recv().is_some() {}
                Err(error)
            }
        }
    }

    /// The control thread's life: requests of the cores, admin server, signals, until all cores have ended.
    fn serve(
        mut self,
        runtime: &Runtime,
        stop: Stop,
        cores: Cores,
        reading: Reading,
        doors: Doors,
    ) -> Result<Vec<Last>, EngineError> {
        let Cores { control: ask, requests, placement } = cores;
        let Doors { admin, ports, ready_file, histograms } = doors;
        let Reading { path, file, wish, wishes } = reading;
        let stopping = Arc::new(AtomicBool::new(false));
        let (running, current) = watch::channel(Arc::clone(&self.settings));
        let reloader = Reloader::new(Start {
            path,
            file,
            running,
            placement,
            mailboxes: self.mailboxes.clone(),
            control: ask,
            loaded: self.loaded.clone(),
            stopping: Arc::clone(&stopping),
        });
        runtime.block_on(async {
            let address = admin.local_addr().map_err(EngineError::Thread)?;
            let admin = tokio::net::TcpListener::from_std(admin).map_err(EngineError::Thread)?;
            let control =
                Control::new(Arc::clone(&self.settings), self.mailboxes.clone(), ports).map_err(EngineError::Thread)?;
            let (close_admin, admin_closed) = oneshot::channel::<()>();
            let machines = Arc::new(MachineRoll::open(&self.settings.gateway.state_dir, self.mailboxes.clone()));
            let mut served = self.admin(control.lines(), control.names(), wish);
            served.machines = Some(Arc::clone(&machines));
            let admin = tokio::spawn(admin::serve(admin, served, async {
                // Closed by a word or by the end of who would say it.
                let _ = admin_closed.await;
            }));
            let control = tokio::spawn(control.run(requests));
            let ready = std::mem::take(&mut self.ready);
            let ready = tokio::spawn(announce(ready, address, ready_file, self.settings.gateway.cores.len()));
            let parked = AskedCores { mailboxes: self.mailboxes.clone() };
            let left = tokio::spawn(parked.do_what_was_left(self.settings.gateway.state_dir.clone()));
            let reloader = tokio::spawn(reloader.run(wishes));
            let certificates = tokio::spawn(watch_certificates(self.loaded.clone()));
            let tickets = tokio::spawn(rotate_ticket_keys(self.mailboxes.clone()));
            let roll = Arc::clone(&machines);
            let (stop_looks, looks_stopped) = oneshot::channel();
            let looks = tokio::spawn(roll.run(looks_stopped));
            let blocks = self.blocks.clone().map(|blocks| tokio::spawn(blocks.run()));
            let stop = tokio::spawn(obey(stop, self.mailboxes.clone(), stopping, current));
            let histograms = histograms.map(|(log, every)| Histograms::start(log, every, self.mailboxes.clone()));
            let ended = self.wait(ready).await;
            if let Some(histograms) = histograms {
                histograms.finish(ended.iter().flatten().map(|core| &core.snapshot)).await;
            }
            stop.abort();
            reloader.abort();
            certificates.abort();
            tickets.abort();
            let _ = stop_looks.send(()); // nobody else ends them
            let _ = looks.await;
            for last in ended.iter().flatten() {
                machines.end(last.snapshot.core, last.machines.clone()).await;
            }
            machines.write().await;
            if let Some(blocks) = blocks {
                blocks.abort();
            }
            left.abort();
            control.abort();
            let _ = close_admin.send(());
            // It ends within its own deadline.
            let _ = admin.await;
            ended
        })
    }

    fn admin(&self, lines: Arc<Mutex<Lines>>, names: Arc<Names>, wish: mpsc::UnboundedSender<Wish>) -> admin::Gateway {
        let mailboxes = self.mailboxes.clone();
        let settings = &self.settings;
        let cores = mailboxes.len() as u16;
        let ask = move |core| {
            let (answer, answered) = oneshot::channel();
            let asked = mailboxes[usize::from(core)].send(Message::Snapshot(answer));
            async move {
                asked.ok()?;
                answered.await.ok()
            }
        };
        let mut gateway =
            admin::Gateway::per_core(settings.gateway.name.clone(), settings.journal.durability, cores, ask);
        gateway.loaded = self.loaded.clone();
        gateway.file = settings.gateway.file.clone();
        gateway.token = Token::leave(&settings.gateway.state_dir)
            .inspect_err(|error| {
                let path = Token::path(&settings.gateway.state_dir);
                warn!("{}: {error}: POST requests on the admin address are refused", path.display());
            })
            .ok();
        gateway.reload = Some(Box::new(move || {
            let (answer, answered) = oneshot::channel();
            let wished = wish.send(Wish { by: "POST /api/reload", answer: Some(answer) });
            Box::pin(async move {
                let stopping = || ReloadError::Stopping.to_string();
                wished.map_err(|_| stopping())?;
                answered.await.map_err(|_| stopping())?.map_err(|why| why.to_string())
            })
        }));
        let asked = AskedCores { mailboxes: self.mailboxes.clone() };
        let (list, disposer, woken) = (asked.clone(), asked.clone(), asked.clone());
        gateway.retry = Some(Box::new(move || woken.wake()));
        gateway.acknowledge = Some(Box::new(move || {
            let cores = asked.clone();
            Box::pin(async move { cores.acknowledge("POST /api/acknowledge").await })
        }));
        gateway.parked = Some(admin::Parked {
            list: Box::new(move |limit| {
                let cores = list.clone();
                Box::pin(async move { cores.list(limit).await })
            }),
            dispose: Box::new(move |disposal, of| {
                let cores = disposer.clone();
                Box::pin(async move { cores.dispose(disposal, of).await })
            }),
        });
        let (ask_cores, blocks) = (gateway.request, self.blocks.clone());
        // The cores know nothing of what the drivers count, nor of what becomes of names.
        gateway.request = Box::new(move || {
            let (asked, lines, names, blocks) = (ask_cores(), Arc::clone(&lines), Arc::clone(&names), blocks.clone());
            Box::pin(async move {
                let mut snapshots = asked.await;
                let mut lines = locked(&lines);
                lines.look_at_all();
                lines.show(&mut snapshots);
                names.show(&mut snapshots);
                if let Some(blocks) = blocks {
                    blocks.show(&mut snapshots);
                }
                snapshots
            })
        });
        gateway
    }

    /// Waits for all cores. The first that fails stops the others.
    async fn wait(
        &mut self,
        mut ready: tokio::task::JoinHandle<Result<(), EngineError>>,
    ) -> Result<Vec<Last>, EngineError> {
        let mut last = Vec::new();
        let mut failed = None;
        let mut announced = false;
        let mut running = self.mailboxes.len();
        while running > 0 {
            let result = tokio::select! {
                ended = self.ended.recv() => {
                    running -= 1;
                    ended.expect("a thread says its end").1.map(|ended| last.extend(ended))
                }
                result = &mut ready, if !announced => {
                    announced = true;
                    result.expect("announcing does not panic")
                }
            };
            if let Err(problem) = result {
                error!("stopping, since {problem}");
                failed.get_or_insert(problem);
                stop_all(&self.mailboxes);
            }
        }
        failed.map_or(Ok(last), Err)
    }
}

/// What each core has found in its journals, or the first error.
async fn gather(
    journals: &mut mpsc::UnboundedReceiver<(u16, Result<Found, EngineError>)>,
    cores: usize,
) -> Result<Vec<Found>, EngineError> {
    let mut all: Vec<Found> = (0..cores).map(|_| Found::default()).collect();
    for _ in 0..cores {
        let Some((core, found)) = journals.recv().await else { break };
        all[usize::from(core)] = found?;
    }
    Ok(all)
}

fn stop_all(mailboxes: &[mpsc::UnboundedSender<Message>]) {
    for mailbox in mailboxes {
        // A core that has ended needs no stop.
        let _ = mailbox.send(Message::Stop);
    }
}

/// Says when all cores take records.
async fn announce(
    ready: Vec<oneshot::Receiver<()>>,
    admin: SocketAddr,
    file: Option<PathBuf>,
    cores: usize,
) -> Result<(), EngineError> {
    for core in ready {
        if core.await.is_err() {
            // It ended before it was ready, and says why.
            return Ok(());
        }
    }
    super::memory::give_back();
    info!("ready on {cores} core{}: http://{admin}/", if cores == 1 { "" } else { "s" });
    if let Some(path) = file {
        write_whole(&path, &format!("{admin}\n")).map_err(|error| EngineError::ReadyFile { path, error })?;
    }
    Ok(())
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

/// Says once a day which certificates end soon; the start and each reload have said it when they read them.
async fn watch_certificates(loaded: Loaded) {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    loop {
        tokio::time::sleep(DAY).await;
        for warning in loaded.certificates().iter().filter_map(|end| end.warning(clock::now().wall_ns)) {
            warn!("{warning}: put its successor into the file, and reload (SIGHUP)");
        }
    }
}

/// Gives all cores the same keys for the tickets of machines, and others every few hours. Those before are still read, so that a machine
/// can resume its session for twice that time, and what was recorded of it can be read by nobody later.
async fn rotate_ticket_keys(mailboxes: Vec<mpsc::UnboundedSender<Message>>) {
    let mut drawn = TicketKeys::draw();
    loop {
        let keys = match drawn {
            Ok(keys) => keys,
            Err(error) => return warn!("machines cannot resume their TLS sessions from now on: {error}"),
        };
        for mailbox in &mailboxes {
            let _ = mailbox.send(Message::TicketKeys(keys.clone())); // a core that has ended needs none
        }
        tokio::time::sleep(TicketKeys::ROTATION).await;
        drawn = keys.rotated();
    }
}

/// Obeys wishes to stop: the first drains the gateway, a second signal ends it at once.
async fn obey(
    mut stop: Stop,
    mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    stops: Arc<AtomicBool>,
    current: watch::Receiver<Arc<Settings>>,
) {
    let mut stopping = false;
    loop {
        let reason = stop.wanted().await;
        if !stopping {
            stops.store(true, Ordering::Relaxed);
            let drain = current.borrow().deliver.drain;
            info!("stopping ({}): intake has ended, deliveries go on for up to {drain:?}", reason.words());
            stop_all(&mailboxes);
        } else if let Some(code) = reason.exit_code() {
            // Nobody may read it.
            let _ = writeln!(io::stderr(), "ringest: ended at once; the journal keeps what was accepted");
            std::process::exit(code);
        }
        stopping = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn settings(cores: usize) -> Settings {
        let text = r#"
            [[source]]
            name = "a"
            kind = "serial"
            path = "/dev/ttyS0"
            [[source]]
            name = "b"
            kind = "tcp_listen"
            listen = "127.0.0.1:4001"
            [[source]]
            name = "c"
            kind = "tcp_connect"
            connect = "127.0.0.1:4002"
            [[source]]
            name = "d"
            kind = "serial"
            path = "/dev/ttyS1"
            [deliver]
            url = "http://127.0.0.1:8000/films/"
            body = "{{data}}"
            content_type = "text/plain"
        "#;
        let mut settings = config::parse(text, "test").expect("a valid configuration");
        settings.gateway.cores = vec![0; cores];
        settings
    }

    #[test]
    fn machines_leave_descriptors_for_the_rest() {
        let mut settings = settings(1);
        assert!(connections_allowed(1 << 20, &settings) > 1_000_000);
        let allowed = connections_allowed(1_024, &settings);
        assert!((800..900).contains(&allowed), "{allowed}");
        assert_eq!(connections_allowed(20, &settings), 1);
        leave_descriptors(&mut settings);
        let Limits { connections, connections_all, .. } = settings.limits;
        assert!(connections <= connections_all && (1..=16_384).contains(&connections_all));
        settings.gateway.cores = vec![0, 1];
        assert!(connections_allowed(1_024, &settings) < allowed / 2);
    }

    #[test]
    fn directories_of_cores_that_are_no_more_are_adopted_by_index() {
        let mut settings = settings(2);
        let own = CoreDirectory::own;
        let returned = |core| CoreDirectory { core, is_returned: true };
        let found = vec![own(0), returned(0), own(1), own(2), own(5), returned(5), own(8)];
        let shared = [vec![own(0), returned(0), own(2), own(8)], vec![own(1), own(5), returned(5)]];
        assert_eq!(share_directories(&settings, found), shared);
        assert_eq!(share_directories(&settings, Vec::new()), [[own(0)], [own(1)]]);
        settings.journal.durability = Durability::Memory;
        assert_eq!(share_directories(&settings, vec![own(0), own(1), own(2), returned(0)]), [[own(0)], [own(1)]]);
    }
}
