//! The loop of one core: completions in, operations out, around a sans-IO core.
//!
//! A turn: take up to [`TURN_COMPLETIONS`] completions, give each to the core, carry out what it
//! asks for, end the core's turn, submit everything by one system call. Reads beyond the turn's
//! share wait for the next one (`share`). When nothing is due the loop sleeps in the runtime, until
//! the data ring's eventfd, the mailbox, a cold operation or the core's next deadline wakes it.

mod carry;
mod complete;
mod link;
mod order;
mod reload;
mod share;

use super::clock;
use super::connect::Connector;
use super::control::Request;
use super::ring::{Cqe, Ring, RingOptions};
use super::segments::{SegmentFile, SegmentFiles};
use crate::access::Looked;
use crate::config::{Authority, Settings};
use crate::ground::SegmentNumber;
use crate::ground::count::{Counters, StageHistograms};
use crate::journal::{self, BlockFile};
use crate::observe::losses::{Acknowledged, LossNews};
use crate::observe::machine::MachineState;
use crate::observe::snapshot::{ParkedList, Snapshot};
use crate::shard::{
    ApiId, Completion, ConnectError, Disposal, Fd, JournalId, LinkId, Now, Op, Parcel, Reload, Reloaded, Selection,
    SourceId, Told,
};
use crate::source::serial::{Opened, PortError};
use crate::tls::TicketKeys;
use link::Link;
use share::Share;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, Sleep};

/// Completions handled before the core's turn ends and the runtime has its chance.
pub const TURN_COMPLETIONS: usize = 1024;

/// Completions in a turn from which on a core is busy, and waits with [`Gateway::min_wait`](crate::config::Gateway) for more.
const BUSY_COMPLETIONS: usize = 16;

/// Completions that it waits for: as many as there are requests unanswered, in these bounds. Each answer lets a record come, too, so that
/// is half of what is under way; if it waited for all, its peers and it would take turns in doing nothing.
const GATHERED: RangeInclusive<usize> = 32..=256;

/// Longest sleep while cold operations are under way.
const SUBMIT_AGAIN_NS: u64 = 50_000_000;

/// Turns without a sleep, however small, before the runtime has its chance.
const TURNS_MAX: usize = 16;
/// Spare work waits for so long at most: a core that is never idle goes on with it all the same.
const PUT_OFF_MAX_NS: u64 = 2_000_000;

/// What the driver drives: the shard, or in tests a core of few lines.
pub trait Core {
    /// Intake begins; emits the first operations.
    fn start(&mut self, now: Now);
    /// One completion.
    fn handle(&mut self, now: Now, completion: Completion<'_>);
    /// The end of a turn; also called when the deadline has passed.
    fn turn(&mut self, now: Now);
    /// Whether there is work that can wait until nothing else is to be done.
    fn has_spare_work(&self) -> bool {
        false
    }
    /// A piece of it, between two turns.
    fn work_spare(&mut self, _now: Now) {}
    /// The next operation.
    fn poll_op(&mut self) -> Option<Op>;
    /// When [`Core::turn`] is due at the latest, on the monotonic clock.
    fn next_deadline(&self) -> Option<u64>;
    /// Other settings take the place of the present ones.
    fn reload(&mut self, now: Now, reload: Reload) -> Reloaded;
    /// Intake ends; what can be finished in time is.
    fn stop(&mut self, now: Now);
    /// Whether intake has begun.
    fn is_ready(&self) -> bool;
    /// Whether nothing is left to do.
    fn is_stopped(&self) -> bool;
    /// Whether it has stopped though the disk has not answered: what is in flight is left to the kernel.
    fn has_given_up(&self) -> bool {
        false
    }
    /// Requests that the API has not answered.
    fn in_flight(&self) -> usize {
        0
    }
    /// Whether a link is a machine's that can be held back, so that what it sends may wait for its turn.
    fn can_wait(&self, _link: LinkId) -> bool {
        false
    }
    /// Whether machines wait for the disk since more comes than it takes.
    fn is_disk_behind(&self) -> bool {
        false
    }
    /// What the core shows of itself.
    fn snapshot(&self, now: Now) -> Snapshot;
    /// Its histograms alone.
    fn stages(&self) -> StageHistograms {
        StageHistograms::default()
    }
    /// For the driver's own counts.
    fn counters_mut(&mut self) -> &mut Counters;
    /// Brings parked records back, or deletes them; how many.
    fn dispose(&mut self, _disposal: Disposal, _of: &Selection) -> u64 {
        0
    }
    /// What is parked, and the first `limit` of it.
    fn parked(&self, _limit: usize) -> ParkedList {
        ParkedList::default()
    }
    /// At most so many of the machines that have changed since they were last taken, and whether there are more.
    fn take_machines(&mut self, _most: usize) -> (Vec<MachineState>, bool) {
        (Vec::new(), false)
    }
    /// Nobody has heard of these: they are to be taken again.
    fn untold_machines(&mut self, _untold: &[MachineState]) {}
    /// An operator ends all waits for the API.
    fn wake(&mut self, _now: Now) {}
    /// By what the tickets of machines are sealed from now on.
    fn set_ticket_keys(&mut self, _keys: TicketKeys) {}
    /// An operator knows of losses.
    fn acknowledge(&mut self, _news: &LossNews) -> Acknowledged {
        Acknowledged::default()
    }
    /// Host and port of one of the API's authorities.
    fn destination(&self, api: ApiId) -> Authority;
}

/// What the control thread tells a core.
#[derive(Debug)]
pub enum Message {
    /// Answers [`Request::OpenPort`].
    PortOpened {
        /// The link.
        link: LinkId,
        /// The port, or why not.
        result: Result<Opened, PortError>,
    },
    /// Answers [`Request::ClosePort`].
    PortClosed {
        /// The link.
        link: LinkId,
    },
    /// Answers [`Request::LookAtSecret`].
    SecretLooked {
        /// The link of the request.
        link: LinkId,
        /// What came of it.
        looked: Looked,
    },
    /// Another core accepted a connection of an address that this core owns.
    Accepted {
        /// The listener's source.
        source: SourceId,
        /// The connection; whoever takes the message owns it.
        fd: Fd,
        /// Its peer.
        peer: SocketAddr,
        /// What a proxy has told of it.
        told: Option<Told>,
    },
    /// Another core tells something about a request of an HTTP machine.
    Parcel(Parcel),
    /// A missing port may be there now.
    PortAppeared {
        /// Its source.
        source: SourceId,
    },
    /// Other settings, and the listeners that come and go with them.
    Reload(Box<NewSettings>),
    /// Asks for a snapshot, taken between two turns.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Asks for the histograms alone, as they are between two turns.
    Stages(oneshot::Sender<StageHistograms>),
    /// Asks what is parked.
    Parked {
        /// How many records are shown.
        limit: usize,
        /// Where to.
        answer: oneshot::Sender<ParkedList>,
    },
    /// Asks for machines that have changed since this was asked last.
    Machines {
        /// How many at most.
        most: usize,
        /// Where to, with whether there are more.
        answer: oneshot::Sender<(Vec<MachineState>, bool)>,
    },
    /// Parked records are delivered after all, or deleted.
    Dispose {
        /// Which of the two.
        disposal: Disposal,
        /// Which records.
        of: Selection,
        /// Told how many.
        answer: oneshot::Sender<u64>,
    },
    /// All waits for the API are over.
    Wake,
    /// By what the tickets of machines that speak TLS are sealed from now on.
    TicketKeys(TicketKeys),
    /// Losses are known.
    Acknowledge {
        /// What is known of them.
        news: LossNews,
        /// Told how many there were.
        answer: oneshot::Sender<Acknowledged>,
    },
    /// Stop: intake ends, the loop ends when the core has nothing left to do.
    Stop,
}

/// What a core is told of a new configuration.
#[derive(Debug)]
pub struct NewSettings {
    /// For the core itself.
    pub reload: Reload,
    /// New listeners.
    pub listeners: Vec<(SourceId, OwnedFd)>,
    /// Listeners that stay open and belong to another source from now on: the old one, the new one.
    pub moved: Vec<(SourceId, SourceId)>,
    /// Told when it is done.
    pub answer: oneshot::Sender<Reloaded>,
}

/// A journal's files, as the driver needs them.
pub struct JournalFiles {
    /// The blocks that commits are written from.
    pub memory: BlockFile,
    /// The directory, which [`FsStorage`](super::FsStorage) opened before.
    pub directory: PathBuf,
    /// Whether its file system takes O_DIRECT.
    pub direct: bool,
}

/// All that a driver is given.
pub struct DriverOptions {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Index of the core.
    pub core: u16,
    /// Sizes of the data ring.
    pub ring: RingOptions,
    /// Whether the kernel has READ_MULTISHOT (Linux 6.7); without it a tty is read once at a time.
    pub read_multishot: bool,
    /// The core's listeners.
    pub listeners: Vec<(SourceId, OwnedFd)>,
    /// Its journals, by `JournalId`.
    pub journals: Vec<JournalFiles>,
    /// The mailboxes of all cores, for connections that belong to another one.
    pub peers: Vec<mpsc::UnboundedSender<Message>>,
    /// Told when intake has begun.
    pub ready: Option<oneshot::Sender<()>>,
    /// The control thread.
    pub control: mpsc::UnboundedSender<Request>,
    /// What the control thread and the other cores say. Unbounded, and short: each kind of message has at most one outstanding per
    /// link, source or asking connection; of requests that are passed on each core bounds those that it waits for.
    pub mailbox: mpsc::UnboundedReceiver<Message>,
}

/// A listener and its accepts.
struct Listener {
    source: SourceId,
    /// `None` once intake has ended, or the source is gone.
    socket: Option<OwnedFd>,
    /// The socket is closed once no accept is in flight.
    closing: bool,
    wanted: bool,
    /// One connection is wanted, and no more.
    one: bool,
    /// Accepts in flight.
    armed: usize,
}

impl Listener {
    fn new(source: SourceId, socket: OwnedFd) -> Self {
        Self { source, socket: Some(socket), closing: false, wanted: false, one: false, armed: 0 }
    }
}

struct JournalState {
    memory: BlockFile,
    files: Rc<SegmentFiles>,
}

/// A commit in flight. It keeps alive what the kernel uses: the file and the memory.
struct Commit {
    journal: JournalId,
    segment: SegmentNumber,
    offset: u32,
    bytes: u32,
    memory_offset: u32,
    sync: bool,
    file: SegmentFile,
    memory: BlockFile,
}

/// Something that ended outside the data ring.
enum Event {
    Connected {
        link: LinkId,
        result: Result<OwnedFd, ConnectError>,
    },
    Closed {
        link: LinkId,
    },
    /// A link that waited for an older one was told to wait.
    Paused {
        link: LinkId,
    },
    /// What another core could not be told.
    Parcel(Parcel),
    /// A secret that nobody looks at any more.
    SecretUnknown {
        link: LinkId,
    },
    /// What a cold operation, or a commit that could not start, answers.
    Journal {
        journal: JournalId,
        completion: journal::Completion,
    },
}

/// Events, by the core's own tasks for the core's loop.
#[derive(Default)]
struct Events {
    queue: RefCell<VecDeque<Event>>,
    pushed: Notify,
    /// Cold operations under way.
    cold: Cell<usize>,
}

impl Events {
    fn push(&self, event: Event) {
        self.queue.borrow_mut().push_back(event);
        self.pushed.notify_one();
    }
}

/// The driver of one core. It must be made and run on one thread, in a tokio-uring runtime.
pub struct Driver<C: Core> {
    // Dropped before all that follows: it ends what is in flight, and what the kernel uses is kept below.
    ring: Ring,
    core: C,
    links: Vec<Link>,
    commits: Slab<Commit>,
    listeners: Vec<Listener>,
    journals: Vec<JournalState>,
    settings: Arc<Settings>,
    index: u16,
    read_multishot: bool,
    peers: Vec<mpsc::UnboundedSender<Message>>,
    ready: Option<oneshot::Sender<()>>,
    control: mpsc::UnboundedSender<Request>,
    connector: Connector,
    mailbox: mpsc::UnboundedReceiver<Message>,
    mailbox_open: bool,
    stopping: bool,
    events: Rc<Events>,
    batch: Vec<Cqe>,
    share: Share,
}

/// The loop's timer. It is moved only to come earlier: a wake too many is cheaper than a change at every turn.
struct Timer<'a> {
    sleep: Pin<&'a mut Sleep>,
    set_for: Option<u64>,
}

impl Timer<'_> {
    fn set(&mut self, now: Now, deadline: Option<u64>) {
        let Some(deadline) = deadline else { return };
        if self.set_for.is_none_or(|set_for| deadline < set_for || set_for <= now.mono_ns) {
            let wait = Duration::from_nanos(deadline.saturating_sub(now.mono_ns));
            self.sleep.as_mut().reset(Instant::now() + wait);
            self.set_for = Some(deadline);
        }
    }
}

impl<C: Core> Driver<C> {
    /// Makes the data ring and opens nothing else.
    ///
    /// # Errors
    /// Those of io_uring_setup(2), and of reading the journal directories.
    pub fn new(core: C, options: DriverOptions) -> io::Result<Self> {
        let ring = Ring::new(&options.ring)?;
        let listeners = options.listeners.into_iter();
        let journals = options.journals.into_iter().map(|journal| {
            let files = Rc::new(SegmentFiles::new(journal.directory, journal.direct)?);
            Ok(JournalState { memory: journal.memory, files })
        });
        Ok(Self {
            core,
            ring,
            links: Vec::new(),
            commits: Slab::new(),
            listeners: listeners.map(|(source, socket)| Listener::new(source, socket)).collect(),
            journals: journals.collect::<io::Result<_>>()?,
            settings: options.settings,
            index: options.core,
            read_multishot: options.read_multishot,
            peers: options.peers,
            ready: options.ready,
            connector: Connector::new(options.control.clone()),
            control: options.control,
            mailbox: options.mailbox,
            mailbox_open: true,
            stopping: false,
            events: Rc::default(),
            batch: Vec::with_capacity(TURN_COMPLETIONS),
            share: Share::default(),
        })
    }

    /// Runs until the core has stopped, and hands it back.
    ///
    /// # Errors
    /// Those of io_uring_enter(2) that no later call can mend.
    pub async fn run(mut self) -> io::Result<C> {
        let result = self.run_loop().await;
        if self.core.has_given_up() {
            // The kernel may write from that memory for as long as the device takes.
            std::mem::forget((self.ring, self.commits));
        } else {
            // Ends what is in flight, before the files are closed and the memory is freed.
            drop(self.ring);
        }
        for link in self.links {
            link.close_now();
        }
        result.map(|()| self.core)
    }

    async fn run_loop(&mut self) -> io::Result<()> {
        let eventfd = self.ring.wakes()?;
        let sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let mut timer = Timer { sleep, set_for: None };
        self.core.start(clock::now());
        self.carry();
        let (mut message, mut handled, mut turns) = (None, 0, 0);
        let mut spare_since_ns = None;
        loop {
            let now = clock::now();
            handled += self.turn(now, message.take())?;
            turns += 1;
            if self.core.is_ready()
                && let Some(ready) = self.ready.take()
            {
                // Nobody may wait for it.
                let _ = ready.send(());
            }
            if self.is_finished() {
                return Ok(());
            }
            let deadline = self.core.next_deadline();
            let due = deadline.is_some_and(|deadline| deadline <= now.mono_ns);
            let waits = self.has_reads_waiting(now) || !self.events.queue.borrow().is_empty();
            let is_busy = due || waits || self.ring.has_work();
            let has_spare_work = self.core.has_spare_work();
            let since_ns = *spare_since_ns.get_or_insert(now.mono_ns);
            if has_spare_work && (!is_busy || now.mono_ns >= since_ns + PUT_OFF_MAX_NS) {
                self.core.work_spare(clock::now());
                self.carry();
                spare_since_ns = None;
            } else if !has_spare_work {
                spare_since_ns = None;
            }
            if is_busy || has_spare_work {
                if handled >= TURN_COMPLETIONS || turns >= TURNS_MAX {
                    (handled, turns) = (0, 0);
                    self.give_way(&eventfd).await?;
                }
                continue;
            }
            if !self.ring.prepare_sleep() {
                continue;
            }
            // The turn may have waited.
            let now = clock::now();
            timer.set(now, self.wake_by(now, deadline));
            message = self.sleep(&eventfd, &mut timer).await?;
            (handled, turns) = (0, 0);
            self.ring.woken();
            if self.ring.needs_enter() {
                self.ring.enter(TURN_COMPLETIONS)?;
            }
            self.core.counters_mut().wakes += 1;
        }
    }

    /// When to wake at the latest. tokio-uring submits whenever the runtime parks and does not look whether the kernel took it
    /// (EINTR, EAGAIN): what it did not take has to see another park.
    fn wake_by(&self, now: Now, deadline: Option<u64>) -> Option<u64> {
        let again = (self.events.cold.get() > 0).then(|| now.mono_ns + SUBMIT_AGAIN_NS);
        let reads_on = self.share.has_waiting(false).then(|| self.share.disk_hangs_ns());
        deadline.into_iter().chain(again).chain(reads_on).min()
    }

    /// One turn; how many completions it handled.
    fn turn(&mut self, now: Now, message: Option<Message>) -> io::Result<usize> {
        if let Some(message) = message {
            self.message(now, message);
        }
        while let Ok(message) = self.mailbox.try_recv() {
            self.message(now, message);
        }
        // Events that come while these are handled wait for the next turn.
        let events = self.events.queue.borrow().len();
        for _ in 0..events {
            let event = self.events.queue.borrow_mut().pop_front();
            self.event(now, event.expect("counted, and taken only here"));
        }
        let records = self.settings.deliver.batch.as_ref().map_or(1, |batch| batch.records);
        if !self.core.is_disk_behind() {
            self.share.disk_moved(now);
        }
        self.share.begin_turn(self.core.in_flight(), records, self.holds_floods(now));
        self.read_waiting(now);
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.take(&mut batch, TURN_COMPLETIONS);
        let handled = batch.len();
        for cqe in batch.drain(..) {
            self.complete(now, cqe);
        }
        self.batch = batch;
        self.ring.buffers.publish();
        self.core.turn(now);
        self.carry();
        self.read_unread(now);
        let limit = self.gather_limit(now, handled);
        if !limit.is_zero() {
            let enough = self.core.in_flight().clamp(*GATHERED.start(), *GATHERED.end());
            self.ring.gather(enough, limit)?;
        } else if self.ring.needs_enter() {
            self.ring.enter(TURN_COMPLETIONS)?;
        }
        let enters = self.ring.take_enters();
        let counters = self.core.counters_mut();
        counters.turns += 1;
        counters.completions += handled as u64;
        counters.enters += enters;
        Ok(handled)
    }

    /// Whether reads wait that the next turn takes.
    fn has_reads_waiting(&self, now: Now) -> bool {
        self.share.has_waiting(self.holds_floods(now))
    }

    /// Whether links that flood wait for the disk now.
    fn holds_floods(&self, now: Now) -> bool {
        self.share.holds_floods(now, self.core.is_disk_behind(), self.ring.buffers.in_use())
    }

    /// How long to wait for more: not at all unless the core is busy, and not beyond what is due.
    fn gather_limit(&self, now: Now, handled: usize) -> Duration {
        let min_wait = self.settings.gateway.min_wait;
        let waits = self.has_reads_waiting(now) || !self.events.queue.borrow().is_empty() || self.core.has_spare_work();
        if min_wait.is_zero() || handled < BUSY_COMPLETIONS || waits {
            return Duration::ZERO;
        }
        let until = self.core.next_deadline().map(|deadline| deadline.saturating_sub(now.mono_ns));
        until.map_or(min_wait, |until| min_wait.min(Duration::from_nanos(until)))
    }

    /// Gives a completion to the core and carries out what it asks for then, so that nothing reaches a link that the core
    /// has closed meanwhile.
    fn hear(&mut self, now: Now, completion: Completion<'_>) {
        self.core.handle(now, completion);
        self.carry();
    }

    /// Lets the runtime run its tasks and see its events without sleeping. While cold operations are under way it must
    /// come to its park, since tokio-uring submits them only there: a write to our own eventfd ends the park at once.
    async fn give_way(&mut self, eventfd: &AsyncFd<OwnedFd>) -> io::Result<()> {
        if self.events.cold.get() == 0 {
            tokio::task::yield_now().await;
        } else {
            self.ring.kick();
            eventfd.readable().await?.clear_ready();
        }
        Ok(())
    }

    async fn sleep(&mut self, eventfd: &AsyncFd<OwnedFd>, timer: &mut Timer<'_>) -> io::Result<Option<Message>> {
        let timed = timer.set_for.is_some();
        tokio::select! {
            biased;
            ready = eventfd.readable() => ready?.clear_ready(),
            message = self.mailbox.recv(), if self.mailbox_open => {
                // Without a control thread there is nobody to serve.
                self.mailbox_open = message.is_some();
                return Ok(Some(message.unwrap_or(Message::Stop)));
            }
            () = self.events.pushed.notified() => {}
            () = timer.sleep.as_mut(), if timed => timer.set_for = None,
        }
        Ok(None)
    }

    fn is_finished(&self) -> bool {
        let idle = self.commits.is_empty() && self.events.cold.get() == 0 && self.events.queue.borrow().is_empty();
        self.stopping && self.core.is_stopped() && (idle || self.core.has_given_up())
    }
}
