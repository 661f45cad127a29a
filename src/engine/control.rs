//! The control thread: what can wait is done here and never on a core. It has serial ports opened and closed and names resolved,
//! each by threads of their own, and watches for missing ports, on an ordinary tokio runtime.
#![allow(unsafe_code)] // tokio asks for a promise about the descriptor that it watches

use super::adapters::Adapters;
use super::driver::Message;
use super::lines::Lines;
use super::names::{NameOf, Names};
use super::waiting::Waiting;
use crate::access::{Looked, SecretCheck};
use crate::config::{Authority, Serial, Settings, SourceKind};
use crate::shard::{LinkId, SourceId};
use crate::source::serial::{self, Opened, PortError, Watch};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How often the drivers are asked for their counts, so that little of them is lost when an adapter is unplugged.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often what is found at the open of a source's port is logged.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Ports that are opened, and closed, at once. An open takes milliseconds unless a driver hangs. A close can wait half a minute
/// for a dead line's output, and many adapters may be gone at once.
const OPEN_THREADS: usize = 64;
const CLOSE_THREADS: usize = 256;

/// Secrets that are looked at at once. Each takes tens of milliseconds of a CPU that the cores want, too; a core has 64 of them waiting at
/// most.
const SECRET_THREADS: usize = 1;

/// What a core asks of the control thread.
#[derive(Debug)]
pub enum Request {
    /// Resolve a name.
    Resolve {
        /// Whose name it is.
        of: NameOf,
        /// Host and port.
        authority: Authority,
        /// Its addresses in the system's order, or why there are none.
        answer: oneshot::Sender<Result<Vec<SocketAddr>, String>>,
    },
    /// Open a serial port; answered by [`Message::PortOpened`].
    OpenPort {
        /// The core that asks.
        core: u16,
        /// Its link.
        link: LinkId,
        /// The `serial` source.
        source: SourceId,
    },
    /// Look at a secret; answered by [`Message::SecretLooked`].
    LookAtSecret {
        /// The core that asks.
        core: u16,
        /// The link of the request.
        link: LinkId,
        /// The secret.
        check: Box<SecretCheck>,
    },
    /// Send XOFF (`hold`) or XON on a serial line.
    HoldLine {
        /// A duplicate of the port's descriptor. Requests are served in turn, so it is closed before the port is.
        port: OwnedFd,
        /// XOFF, else XON.
        hold: bool,
    },
    /// Other settings are in force from now on.
    NewSettings {
        /// The settings.
        settings: Arc<Settings>,
        /// Sources whose ports are no longer waited for.
        retired: Vec<SourceId>,
        /// Ports of new sources that are open already.
        opened: HashMap<SourceId, Opened>,
    },
    /// An operator had the configuration read again, and nothing of it has changed.
    Acknowledge,
    /// Close a serial port, which can wait for its output; answered by [`Message::PortClosed`].
    ClosePort {
        /// The core that asks.
        core: u16,
        /// Its link.
        link: LinkId,
        /// The port's descriptor, which is the control thread's from now on.
        fd: i32,
    },
}

/// What a blocking task did.
enum Done {
    Opened { ask: Ask, result: Result<Opened, PortError> },
    Closed { core: u16, link: LinkId },
    Looked { core: u16, link: LinkId, looked: Looked },
}

/// One wish for a port.
#[derive(Debug, Clone, Copy)]
struct Ask {
    core: u16,
    link: LinkId,
    source: SourceId,
    /// The port was missing, or no port; it is watched for, and is tried once more in case it came in between.
    again: bool,
}

/// The control thread's work for the cores.
pub struct Control {
    settings: Arc<Settings>,
    mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    /// Ports that were opened before the cores started.
    opened: HashMap<SourceId, Opened>,
    blocking: JoinSet<Done>,
    opens: Waiting,
    closes: Waiting,
    secrets: Waiting,
    /// Shared with the admin server.
    names: Arc<Names>,
    watch: Option<AsyncFd<Watch>>,
    /// Who waits for a missing path.
    waiting: HashMap<PathBuf, Vec<(u16, SourceId)>>,
    /// Shared with the admin server, which runs on the same thread.
    lines: Arc<Mutex<Lines>>,
    /// When an open port was last told of, by its source.
    told: HashMap<String, Instant>,
}

impl Control {
    /// Control for cores with these mailboxes. `opened` are ports that need not be opened any more the first time.
    /// Must be called in a tokio runtime with I/O.
    ///
    /// # Errors
    /// Threads cannot be made ready.
    pub fn new(
        settings: Arc<Settings>,
        mailboxes: Vec<mpsc::UnboundedSender<Message>>,
        opened: HashMap<SourceId, Opened>,
    ) -> io::Result<Self> {
        let watch = Watch::new().and_then(|watch| {
            // SAFETY: the watch owns its descriptor, and the registration owns the watch.
            let registered = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) };
            registered.map_err(io::Error::from)
        });
        if let Err(error) = &watch {
            warn!("missing ports are only looked for at intervals: inotify: {error}");
        }
        let (blocking, waiting) = (JoinSet::new(), HashMap::new());
        let lines = Arc::new(Mutex::new(Lines::new(Adapters::open(&settings.gateway.state_dir))));
        let (opens, closes) = (Waiting::new("opens", OPEN_THREADS)?, Waiting::new("closes", CLOSE_THREADS)?);
        let secrets = Waiting::new("secrets", SECRET_THREADS)?;
        let (names, watch, told) = (Arc::new(Names::new()?), watch.ok(), HashMap::new());
        Ok(Self { settings, mailboxes, opened, blocking, opens, closes, secrets, names, watch, waiting, lines, told })
    }

    /// What the drivers of the open ports count.
    pub(super) fn lines(&self) -> Arc<Mutex<Lines>> {
        Arc::clone(&self.lines)
    }

    /// What becomes of the names that are looked up.
    pub(super) fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Serves requests until all cores have ended, or for ever where the caller keeps a sender.
    pub async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Some(done) = self.blocking.join_next() => self.done(done.expect("what is done by threads does not panic")),
                changed = changed(self.watch.as_mut()) => self.appeared(changed),
                _ = look.tick() => locked(&self.lines).look_at_all(),
            }
        }
        // Ports that are still being closed get their time.
        while self.blocking.join_next().await.is_some() {}
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Resolve { of, authority, answer } => self.names.find(of, authority, answer),
            Request::OpenPort { core, link, source } => {
                let ask = Ask { core, link, source, again: false };
                match self.opened.remove(&source) {
                    Some(port) => self.done(Done::Opened { ask, result: Ok(port) }),
                    None => self.open(ask),
                }
            }
            Request::LookAtSecret { core, link, check } => {
                let look = move || Done::Looked { core, link, looked: check.run() };
                self.blocking.spawn_blocking_on(look, self.secrets.handle());
            }
            Request::HoldLine { port, hold } => {
                if let Err(errno) = serial::hold_line(port.as_fd(), hold) {
                    warn!("{} cannot be sent on a serial line: {}", if hold { "XOFF" } else { "XON" }, errno.desc());
                }
            }
            Request::NewSettings { settings, retired, opened } => {
                self.settings = settings;
                self.opened.retain(|source, _| !retired.contains(source));
                self.opened.extend(opened);
                self.forget(&retired);
                self.names.keep(&names_of(&self.settings));
                locked(&self.lines).acknowledge();
            }
            Request::Acknowledge => locked(&self.lines).acknowledge(),
            Request::ClosePort { core, link, fd } => {
                locked(&self.lines).closing(core, link);
                let close = move || {
                    // Closing is all that is left to do with it, also after an error.
                    let _ = nix::unistd::close(fd);
                    Done::Closed { core, link }
                };
                self.blocking.spawn_blocking_on(close, self.closes.handle());
            }
        }
    }

    /// Nobody waits for the missing ports of these sources any more.
    fn forget(&mut self, retired: &[SourceId]) {
        self.waiting.retain(|path, waiting| {
            waiting.retain(|(_, source)| !retired.contains(source));
            if waiting.is_empty()
                && let Some(watch) = &mut self.watch
            {
                watch.get_mut().remove(path);
            }
            !waiting.is_empty()
        });
    }

    fn open(&mut self, ask: Ask) {
        let port = self.port(ask.source).clone();
        let open = move || Done::Opened { ask, result: serial::open(&port) };
        self.blocking.spawn_blocking_on(open, self.opens.handle());
    }

    fn port(&self, source: SourceId) -> &Serial {
        match &self.settings.sources[usize::from(source.0)].kind {
            SourceKind::Serial(port) => port,
            kind => panic!("{kind:?} is no serial port"),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Closed { core, link } => self.tell(core, Message::PortClosed { link }),
            Done::Looked { core, link, looked } => self.tell(core, Message::SecretLooked { link, looked }),
            Done::Opened { ask, result } => {
                if let Ok(opened) = &result {
                    self.look_at(ask, opened);
                }
                if !self.watch_for(ask, matches!(result, Err(PortError::Missing | PortError::NoTty { .. }))) {
                    self.tell(ask.core, Message::PortOpened { link: ask.link, result });
                }
            }
        }
    }

    /// What is to be known of a port that is open. A port that hangs up after each open is told of once a minute.
    fn look_at(&mut self, ask: Ask, opened: &Opened) {
        let name = &self.settings.sources[usize::from(ask.source.0)].name;
        let path = self.port(ask.source).path.clone();
        let mut lines = locked(&self.lines);
        lines.opened(ask.core, ask.link, name, opened.port.as_fd());
        if let Some(adapter) = &opened.adapter {
            lines.adapters.opened(name, &path, adapter);
        }
        let now = Instant::now();
        if self.told.get(name).is_some_and(|at| now.duration_since(*at) < TELL_EVERY) {
            return;
        }
        self.told.insert(name.clone(), now);
        for note in &opened.notes {
            warn!("source {name}: {}: {note}", path.display());
        }
        if let Some(adapter) = &opened.adapter {
            info!("source {name}: {} is {adapter}", path.display());
        }
    }

    /// Watches for a missing port, or no longer for one that is there. True if it is to be tried again at once.
    fn watch_for(&mut self, ask: Ask, missing: bool) -> bool {
        let path = self.port(ask.source).path.clone();
        let Some(watch) = &mut self.watch else { return false };
        if !missing {
            if self.waiting.remove(&path).is_some() {
                watch.get_mut().remove(&path);
            }
            return false;
        }
        let waiting = self.waiting.entry(path.clone()).or_default();
        if !waiting.contains(&(ask.core, ask.source)) {
            waiting.push((ask.core, ask.source));
        }
        if ask.again {
            return false;
        }
        if let Err(error) = watch.get_mut().add(&path) {
            warn!("{} is only looked for at intervals: inotify: {error}", path.display());
        }
        self.open(Ask { again: true, ..ask });
        true
    }

    fn appeared(&mut self, changed: io::Result<Vec<PathBuf>>) {
        match changed {
            Ok(paths) => {
                for path in paths {
                    for &(core, source) in self.waiting.get(&path).into_iter().flatten() {
                        self.tell(core, Message::PortAppeared { source });
                    }
                }
            }
            Err(error) => {
                warn!("missing ports are only looked for at intervals from now on: inotify: {error}");
                self.watch = None;
            }
        }
    }

    fn tell(&self, core: u16, message: Message) {
        // A core that has ended needs nothing more; what the message owns is closed.
        let _ = self.mailboxes[usize::from(core)].send(message);
    }
}

/// The names that settings have.
fn names_of(settings: &Settings) -> HashSet<(NameOf, &str)> {
    let urls = settings.sequence.iter().map(|sequence| &sequence.url).chain([&settings.deliver.url]);
    let devices = settings.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::TcpConnect { connect, .. } => Some((NameOf::Device, connect.host.as_str())),
        _ => None,
    });
    urls.map(|url| (NameOf::Api, url.authority.host.as_str())).chain(devices).collect()
}

/// What threads share, also after a panic elsewhere: it is whole at any time.
pub(super) fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The paths that may have come; for ever pending without a watch.
async fn changed(watch: Option<&mut AsyncFd<Watch>>) -> io::Result<Vec<PathBuf>> {
    let Some(watch) = watch else { return std::future::pending().await };
    let mut ready = watch.readable_mut().await?;
    let changed = ready.get_inner_mut().changed();
    ready.clear_ready();
    changed
}
