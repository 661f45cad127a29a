//! A driver with a core of few lines in the shard's place, and the threads around it.

use ringest::config::{self, Authority, LaneKey, Settings, Source, SourceKind};
use ringest::engine::{
    Control, Core, Driver, DriverOptions, FsStorage, JournalFiles, Listeners, Message, Request, RingOptions, bind_all,
};
use ringest::ground::count::Counters;
use ringest::journal::{self, Storage};
use ringest::observe::snapshot::Snapshot;
use ringest::shard::{ApiId, Completion, Fd, LinkId, Now, Op, Reload, Reloaded, SourceId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc as mailbox;

/// Far beyond what anything here takes on a loaded machine; a lost wake ends here.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a test's handler may do.
#[derive(Default)]
pub struct World {
    pub ops: VecDeque<Op>,
    /// Ends the loop once the driver was told to stop.
    pub finished: bool,
    pub deadline: Option<u64>,
    /// By `ApiId`.
    pub destinations: Vec<Authority>,
    /// Requests that an API has not answered; while there are some, what links send may wait for its turn.
    pub in_flight: usize,
}

impl World {
    pub fn push(&mut self, op: Op) {
        self.ops.push_back(op);
    }
}

/// A core made of one function. Without a stop it never ends; with one it ends when the function says `finished`.
pub struct Scripted<H> {
    world: World,
    handle: H,
    counters: Counters,
    stopping: bool,
}

pub enum Input<'a, 'b> {
    Start,
    Completion(&'a mut Completion<'b>),
    Deadline,
    Reload(&'a Reload),
    Stop,
}

impl<H: FnMut(&mut World, Now, Input<'_, '_>)> Core for Scripted<H> {
    fn start(&mut self, now: Now) {
        (self.handle)(&mut self.world, now, Input::Start);
    }
    fn handle(&mut self, now: Now, mut completion: Completion<'_>) {
        (self.handle)(&mut self.world, now, Input::Completion(&mut completion));
    }
    fn turn(&mut self, now: Now) {
        if self.world.deadline.is_some_and(|deadline| deadline <= now.mono_ns) {
            self.world.deadline = None;
            (self.handle)(&mut self.world, now, Input::Deadline);
        }
    }
    fn poll_op(&mut self) -> Option<Op> {
        self.world.ops.pop_front()
    }
    fn next_deadline(&self) -> Option<u64> {
        self.world.deadline
    }
    fn reload(&mut self, now: Now, reload: Reload) -> Reloaded {
        (self.handle)(&mut self.world, now, Input::Reload(&reload));
        Reloaded { applied: true, ..Reloaded::default() }
    }
    fn stop(&mut self, now: Now) {
        self.stopping = true;
        (self.handle)(&mut self.world, now, Input::Stop);
    }
    fn is_ready(&self) -> bool {
        true
    }
    fn is_stopped(&self) -> bool {
        self.stopping && self.world.finished
    }
    fn in_flight(&self) -> usize {
        self.world.in_flight
    }
    fn can_wait(&self, _: LinkId) -> bool {
        true
    }
    fn snapshot(&self, _: Now) -> Snapshot {
        Snapshot { counters: self.counters, ..Snapshot::default() }
    }
    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
    fn destination(&self, api: ApiId) -> Authority {
        self.world.destinations[usize::from(api.0)].clone()
    }
}

pub struct Setup {
    pub settings: Settings,
    pub ring: RingOptions,
    pub read_multishot: bool,
    pub listeners: Listeners,
    pub journal: Option<PathBuf>,
}

pub struct Running {
    pub mailbox: mailbox::UnboundedSender<Message>,
    pub core: JoinHandle<Counters>,
    pub control: JoinHandle<()>,
}

impl Running {
    /// Stops the loop and hands back its counters.
    pub fn stop(self) -> Counters {
        self.mailbox.send(Message::Stop).expect("the core is there");
        let counters = self.core.join().expect("the core did not panic");
        self.control.join().expect("the control thread did not panic");
        counters
    }
}

pub fn settings(sources: Vec<SourceKind>) -> Settings {
    let text = r#"
        [[source]]
        name = "source"
        kind = "tcp_listen"
        listen = "127.0.0.1:4001"
        [deliver]
        url = "http://127.0.0.1:9/"
        body = "{{data}}"
        content_type = "text/plain"
    "#;
    let mut settings = config::parse(text, "test").unwrap_or_else(|problems| panic!("{problems}"));
    let template = settings.sources.remove(0);
    let source = |(index, kind)| Source { name: format!("source-{index}"), kind, ..template.clone() };
    settings.sources = sources.into_iter().enumerate().map(source).collect();
    settings
}

pub fn listening() -> (Settings, Listeners, SocketAddr) {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = settings(vec![SourceKind::TcpListen {
        listen,
        lane: LaneKey::Connection,
        quick_ack: true,
        names: BTreeMap::new(),
    }]);
    let listeners = bind_all(&settings, 1).expect("bound").remove(0);
    let address = TcpListener::from(listeners[0].1.try_clone().expect("duplicated")).local_addr().expect("bound");
    (settings, listeners, address)
}

pub fn setup(settings: Settings, listeners: Listeners) -> Setup {
    Setup { settings, ring: RingOptions::default(), read_multishot: true, listeners, journal: None }
}

pub fn start<H>(setup: Setup, handle: H) -> Running
where
    H: FnMut(&mut World, Now, Input<'_, '_>) + Send + 'static,
{
    let (to_core, mailbox) = mailbox::unbounded_channel();
    let (to_control, requests) = mailbox::unbounded_channel::<Request>();
    let settings = Arc::new(setup.settings);
    let (control_settings, mailboxes) = (Arc::clone(&settings), vec![to_core.clone()]);
    let control = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            Control::new(control_settings, mailboxes, HashMap::new()).expect("threads").run(requests).await
        });
    });
    let peers = vec![to_core.clone()];
    let core = std::thread::spawn(move || {
        let runtime = ringest::engine::runtime().expect("a runtime");
        let journals = setup.journal.iter().map(|directory| {
            let mut storage = FsStorage::open_with_blocks_in(directory, directory).expect("opened");
            let memory = storage.create_blocks(None, 1 << 20).expect("made");
            for at in 0..256 {
                memory.write(at * 4096, &[at as u8 ^ 0x5a; 4096]);
            }
            JournalFiles { memory, directory: directory.clone(), direct: storage.is_direct() }
        });
        let options = DriverOptions {
            settings,
            core: 0,
            ring: setup.ring,
            read_multishot: setup.read_multishot,
            listeners: setup.listeners,
            journals: journals.collect(),
            peers,
            ready: None,
            control: to_control,
            mailbox,
        };
        let core = Scripted { world: World::default(), handle, counters: Counters::default(), stopping: false };
        runtime.block_on(async {
            let driver = Driver::new(core, options).expect("a data ring");
            driver.run().await.expect("the loop ends well").counters
        })
    });
    Running { mailbox: to_core, core, control }
}

/// A handler that reports what it hears and asks what to do, so that a test reads top to bottom.
pub struct Remote {
    pub heard: Receiver<String>,
    pub bytes: Receiver<Vec<u8>>,
    pub accepted: Receiver<i32>,
    pub asks: Sender<Op>,
    pub running: Running,
}

impl Remote {
    pub fn start(setup: Setup, destinations: Vec<Authority>) -> Self {
        let (hear, heard) = mpsc::channel();
        let (put, bytes) = mpsc::channel();
        let (accept, accepted) = mpsc::channel();
        let (asks, asked) = mpsc::channel::<Op>();
        const POLL_NS: u64 = 1_000_000;
        let running = start(setup, move |world, now, input| {
            // Looks for operations every millisecond, which also tries the timer.
            world.ops.extend(asked.try_iter());
            world.deadline = Some(now.mono_ns + POLL_NS);
            match input {
                Input::Start => world.destinations = destinations.clone(),
                Input::Deadline | Input::Reload(_) => {}
                Input::Stop => world.finished = true,
                Input::Completion(completion) => {
                    let said = match completion {
                        Completion::Received { link, bytes } => {
                            put.send(bytes.to_vec()).expect("the test goes on");
                            format!("received {}.{}", link.index, link.generation)
                        }
                        Completion::Accepted { fd, .. } => {
                            accept.send(fd.0).expect("the test goes on");
                            "accepted".to_owned()
                        }
                        Completion::Sent { link, bytes, result } => {
                            format!("sent {}.{} {} {result:?}", link.index, link.generation, bytes.len())
                        }
                        Completion::Connected { link, result: Ok(fd) } => {
                            accept.send(fd.0).expect("the test goes on");
                            format!("connected {}.{}", link.index, link.generation)
                        }
                        Completion::Connected { link, result: Err(error) } => {
                            format!("not connected {}.{}: {error}", link.index, link.generation)
                        }
                        Completion::PortOpened { link, result: Ok(port) } => {
                            accept.send(port.fd.0).expect("the test goes on");
                            format!("opened {}.{}", link.index, link.generation)
                        }
                        Completion::Journal {
                            completion: journal::Completion::ReadBack { buffer, result, .. },
                            ..
                        } => {
                            put.send(buffer.clone()).expect("the test goes on");
                            format!("read back {result:?}")
                        }
                        Completion::Journal { completion, .. } => format!("{completion:?}"),
                        other => format!("{other:?}"),
                    };
                    // The test may have heard enough.
                    let _ = hear.send(said);
                }
            }
        });
        Self { heard, bytes, accepted, asks, running }
    }

    pub fn ask(&self, op: Op) {
        self.asks.send(op).expect("the core is there");
    }

    pub fn next(&self) -> String {
        self.heard.recv_timeout(PATIENCE).expect("something is heard")
    }

    /// The next thing heard that is no receive.
    pub fn next_event(&self) -> String {
        loop {
            let heard = self.next();
            if !heard.starts_with("received") {
                return heard;
            }
        }
    }

    pub fn silence(&self) {
        let heard = self.heard.recv_timeout(Duration::from_millis(100));
        assert_eq!(heard, Err(RecvTimeoutError::Timeout), "nothing more is heard");
    }

    pub fn fd(&self) -> Fd {
        Fd(self.accepted.recv_timeout(PATIENCE).expect("a file"))
    }

    pub fn accept(address: SocketAddr, settings: Settings, listeners: Listeners) -> (Self, TcpStream, Fd) {
        let remote = Self::start(setup(settings, listeners), Vec::new());
        remote.ask(Op::Accept { source: SourceId(0) });
        let client = TcpStream::connect(address).expect("connected");
        assert_eq!(remote.next(), "accepted");
        let fd = remote.fd();
        (remote, client, fd)
    }
}

pub const LINK: LinkId = LinkId { index: 3, generation: 7 };
pub const CLOSED: &str = "Closed { link: LinkId { index: 3, generation: 7 } }";

/// Bytes in which a loss or a swap shows.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}
