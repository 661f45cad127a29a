//! The sans-IO conductor of all that one core does: it sees completions and `now`, and emits
//! operations.
//!
//! ```text
//!   machines ──► intake ──records──► store ──lanes──► delivery ──► the API
//!                   ◄──what is durable──┘ ◄──settled──┘
//! ```
//!
//! Three owners do the work, and none of them knows another but the store, which is lent to both
//! sides:
//! - `intake`: what machines send; it never sees an API.
//! - `store`: every record between its journal and its answer; the only writer of a lane.
//! - `delivery`: what leaves; it never sees a source.
//!
//! The shard gives each completion to its owner, keeps the order of a turn, and starts, drains and
//! stops. What all owners write to (`turn`) is lent to one of them for one call: operations,
//! `timer`s, `links`, counters.

mod delivery;
mod intake;
mod links;
mod machines;
mod op;
mod refusals;
mod show;
mod store;
mod timer;
mod turn;

pub use delivery::{Disposal, Selection};
pub use intake::OpenFailure;
pub use op::*;

use crate::config::{Authority, Settings};
use crate::ground::LaneId;
use crate::ground::count::{Counters, StageHistograms, Terms};
use crate::journal::{self, Journal};
use crate::observe::losses::{Acknowledged, LossNews};
use crate::observe::machine::MachineState;
use crate::observe::snapshot::ParkedList;
use crate::tls;
use delivery::Delivery;
use intake::{Intake, Placement, needs_reserve};
use links::{Kind, Links};
use machines::Machines;
use refusals::Refusals;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use store::{BLOCKS_PER_TURN, Store};
use timer::{Timer, Timers};
use turn::{Phase, Turn};

/// How long a stop waits for the disk: when it works, ...
const FLUSH_MAX_NS: u64 = 20_000_000_000;
/// ... and when it refuses.
const FLUSH_IN_TROUBLE_MAX_NS: u64 = 3_000_000_000;
const FLUSH_LOOK_NS: u64 = 250_000_000;

/// What a shard is made of.
pub struct Setup {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Index of the core thread.
    pub core: CoreId,
    /// Number of core threads.
    pub cores: u16,
    /// Sources that this core runs: its listeners, its share of ports and outgoing connections.
    pub sources: Vec<SourceId>,
    /// Its own journal, then adopted ones.
    pub journals: Vec<Journal>,
    /// Which core owns a `NAME@ADDRESS` with records from before the start; others are spread by
    /// hash.
    pub owners: Arc<HashMap<String, CoreId>>,
    /// For jitter.
    pub seed: u64,
    /// The time.
    pub now: Now,
}

/// What takes the place of a shard's settings. Sources keep their ids; one that is removed is
/// *retired*: it takes no more connections, those that it has are ended in order, its records are
/// delivered. Its place is free for another source once [`Reloaded::in_use`] no longer names it. A
/// source that is to be opened anew ([`SourceChange`](crate::config::SourceChange)) is retired, and
/// begins under another id.
#[derive(Debug)]
pub struct Reload {
    /// The new settings. In [`Settings::sources`] every source that goes on, and every retired one
    /// that is still in use, stands where it stood.
    pub settings: Arc<Settings>,
    /// Sources to be retired, of all cores.
    pub retired: Vec<SourceId>,
    /// Sources that begin on this core.
    pub started: Vec<SourceId>,
    /// Sources, of all cores, that keep their ports and connections and have other keys.
    pub adjusted: Vec<SourceId>,
}

/// What became of a [`Reload`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// It is in force; not if the shard is about to stop.
    pub applied: bool,
    /// Records that were tried before under another template or another way to an id.
    pub tried: u64,
    /// Retired sources whose connections or records still need their place.
    pub in_use: Vec<SourceId>,
}

/// How a stop gets on.
#[derive(Debug, Default)]
struct Flush {
    /// Since when the shard only writes what is to be written.
    since_ns: u64,
    given_up: bool,
}

/// All that one core owns: three owners, and what they share, which `Turn` lends as one.
pub struct Shard {
    intake: Intake,
    store: Store,
    delivery: Delivery,
    settings: Arc<Settings>,
    phase: Phase,
    flush: Flush,
    ops: VecDeque<Op>,
    timers: Timers,
    links: Links,
    rng: fastrand::Rng,
    terms: Terms,
    counters: Counters,
    refusals: Refusals,
    machines: Machines,
    stages: StageHistograms,
}

/// The owners, as they are lent beside a turn.
struct Owners<'s> {
    intake: &'s mut Intake,
    store: &'s mut Store,
    delivery: &'s mut Delivery,
}

impl Owners<'_> {
    /// The delivery takes over what the others have woken.
    fn admit(&mut self, turn: &mut Turn<'_>) {
        self.delivery.admit_woken(turn, self.store);
    }
}

impl Shard {
    /// A shard at rest. [`Shard::start`] sets it going.
    pub fn new(setup: Setup) -> Self {
        let Setup { settings, core, cores, sources, journals, owners, seed, now } = setup;
        let machines = Machines::new(cores, journals.len());
        let mut store = Store::new(journals, settings.journal.durability);
        store.set_reserve(needs_reserve(&settings, &sources));
        let mut shard = Self {
            delivery: Delivery::new(Arc::clone(&settings), &mut store),
            intake: Intake::new(Placement { core, cores, owners }, &sources, &settings, now),
            store,
            settings,
            phase: Phase::Starting,
            flush: Flush::default(),
            ops: VecDeque::new(),
            timers: Timers::default(),
            links: Links::default(),
            rng: fastrand::Rng::with_seed(seed),
            terms: Terms::default(),
            counters: Counters::default(),
            refusals: Refusals::default(),
            machines,
            stages: StageHistograms::new(),
        };
        let (mut turn, Owners { intake, store, .. }) = shard.lend(now);
        let (settings, names) = (turn.settings, Cell::new(0));
        for id in store.oldest_first() {
            let found = store.adopt(&mut turn, id, |who| intake.goes_on_with(settings, who, &names));
            intake.adopt_lanes(&turn, store, found);
        }
        shard.expect_machines(&sources);
        shard
    }

    /// Machines that sources name, whether they ever send or not.
    fn expect_machines(&mut self, sources: &[SourceId]) {
        for id in sources {
            let source = &self.settings.sources[usize::from(id.0)];
            for name in source.named_machines() {
                self.machines.expect(&source.name, name);
            }
        }
    }

    /// What is lent for one call, and to whom.
    fn lend(&mut self, now: Now) -> (Turn<'_>, Owners<'_>) {
        let turn = Turn {
            now,
            settings: &self.settings,
            phase: self.phase,
            ops: &mut self.ops,
            timers: &mut self.timers,
            links: &mut self.links,
            rng: &mut self.rng,
            terms: &mut self.terms,
            counters: &mut self.counters,
            refusals: &mut self.refusals,
            machines: &mut self.machines,
            stages: &mut self.stages,
        };
        (turn, Owners { intake: &mut self.intake, store: &mut self.store, delivery: &mut self.delivery })
    }

    /// Sets the shard going; intake begins once the journal is ready.
    pub fn start(&mut self, now: Now) {
        self.turn(now);
    }

    /// Whether intake has begun.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The API's authorities; an index is an [`ApiId`].
    pub fn destinations(&self) -> Vec<Authority> {
        self.delivery.destinations()
    }

    /// Requests that the API has not answered.
    pub fn in_flight(&self) -> usize {
        self.delivery.in_flight()
    }

    /// Whether what a link brings may wait for a later turn: it is a machine's, and the moment of it
    /// means nothing.
    pub fn can_wait(&self, link: LinkId) -> bool {
        self.links.kind(link).is_some_and(|kind| self.intake.can_wait(&self.settings, link, kind))
    }

    /// Whether more comes than the disk takes: whoever sends next would wait for all of it.
    pub fn is_disk_behind(&self) -> bool {
        self.phase == Phase::Running && self.store.own().is_disk_behind()
    }

    /// For the driver's own counts.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Ends the shard; what is not flushed is left to the next start.
    pub fn into_journals(self) -> Vec<Journal> {
        self.store.into_journals()
    }

    /// A journal's block memory, for [`journal::Op::Commit`].
    pub fn block_memory(&self, journal: JournalId) -> &journal::BlockFile {
        self.store.block_memory(journal)
    }

    /// What connections to the API that begin from now on are made by; those that are open go on as
    /// they are. To be called before [`Shard::start`] where a URL is `https`, and again when
    /// certificates or keys have changed.
    pub fn set_tls(&mut self, client: Option<tls::Client>) {
        self.delivery.set_tls(client);
    }

    /// By what the tickets of machines are sealed from now on. Until it is told, machines cannot resume their sessions.
    pub fn set_ticket_keys(&mut self, keys: tls::TicketKeys) {
        self.intake.set_ticket_keys(keys);
    }

    /// What the open connections to the API and those to come are made by differs.
    pub fn needs_tls(&self, settings: &Settings) -> bool {
        self.delivery.needs_tls(settings)
    }

    /// Brings parked records back, or deletes them, some in each turn from now on; how many.
    pub fn dispose(&mut self, disposal: Disposal, of: &Selection) -> u64 {
        self.delivery.dispose(&self.store, disposal, of)
    }

    /// How many records are kept aside, by source and status, and the first of them.
    pub fn parked(&self, limit: usize) -> ParkedList {
        let list = self.delivery.parked(&self.store, limit);
        ParkedList { is_acknowledging: self.store.is_acknowledging(), ..list }
    }

    /// At most so many of the machines that have changed since they were last taken, and whether there are more.
    pub fn take_machines(&mut self, most: usize) -> (Vec<MachineState>, bool) {
        self.machines.take_changed(most)
    }

    /// Nobody has heard of these: they are to be taken again.
    pub fn untold_machines(&mut self, untold: &[MachineState]) {
        untold.iter().for_each(|machine| self.machines.expect(&machine.source, &machine.name));
    }

    /// All machines.
    pub fn machines(&self) -> impl Iterator<Item = MachineState> {
        self.machines.all().cloned()
    }

    /// An operator knows of losses, or records of them came back; how much that was.
    pub fn acknowledge(&mut self, news: &LossNews) -> Acknowledged {
        self.store.acknowledge_losses(news)
    }

    // ---- completions

    /// One completion.
    pub fn handle(&mut self, now: Now, completion: Completion<'_>) {
        let (mut turn, mut owners) = self.lend(now);
        let Owners { intake, store, delivery } = &mut owners;
        let turn = &mut turn;
        match completion {
            Completion::Accepted { source, fd, peer } => intake.handle_accepted(turn, store, source, (fd, peer)),
            Completion::HandedOver { source, fd, peer, told } => {
                intake.handle_handed_over(turn, store, source, (fd, peer, told));
            }
            Completion::AcceptFailed { source, errno } => intake.handle_accept_failed(turn, source, errno),
            Completion::Received { link, bytes } => match turn.links.kind(link) {
                Some(Kind::Api) => return delivery.handle_received(turn, store, link, bytes),
                Some(kind) => intake.handle_received(turn, store, (link, kind), bytes),
                None => {}
            },
            Completion::RecvEnded { link, end } => match turn.links.kind(link) {
                Some(Kind::Api) => return delivery.handle_recv_ended(turn, store, link, end),
                Some(kind) => intake.handle_recv_ended(turn, store, (link, kind), end),
                None => {}
            },
            Completion::Sent { link, bytes, result } => match turn.links.kind(link) {
                Some(Kind::Api) => return delivery.handle_sent(turn, store, link, (bytes, result)),
                Some(kind) => intake.handle_sent(turn, store, (link, kind), (bytes, result)),
                None => {}
            },
            Completion::Connected { link, result } => match turn.links.kind(link) {
                Some(Kind::Api) => delivery.handle_connected(turn, store, link, result),
                Some(Kind::Stream) => {
                    intake.handle_opened(turn, link, result.map(OpenPort::from).map_err(OpenFailure::from));
                }
                // The driver closes what comes after a close was asked for.
                Some(Kind::Http | Kind::Proxied) | None => {}
            },
            Completion::PortOpened { link, result } => {
                if turn.links.is_open(link, Kind::Stream) {
                    intake.handle_opened(turn, link, result.map_err(OpenFailure::from));
                }
            }
            Completion::PortAppeared { source } => intake.handle_port_appeared(turn, source),
            Completion::SecretLooked { link, looked } => intake.handle_secret_looked(turn, store, link, looked),
            Completion::Parcel { parcel } => intake.handle_parcel(turn, store, parcel),
            Completion::Closed { link } => {
                turn.links.remove(link);
                intake.forget_link(link);
                delivery.forget_link(link);
                intake.link_closed(turn, link);
            }
            Completion::Journal { journal, completion } => return store.handle_journal(turn, journal, completion),
        }
        // The delivery takes over at once what it wakes itself.
        owners.admit(turn);
    }

    fn handle_timer(&mut self, now: Now, timer: Timer) {
        let phase = self.phase;
        let (mut turn, mut owners) = self.lend(now);
        let Owners { intake, store, delivery } = &mut owners;
        let turn = &mut turn;
        match timer {
            Timer::Lane(lane) => delivery.handle_lane_timer(turn, store, lane),
            Timer::Link(link) => match turn.links.kind(link) {
                Some(Kind::Api) => delivery.handle_link_timer(turn, store, link),
                Some(kind) => intake.handle_link_timer(turn, store, link, kind),
                None => {}
            },
            Timer::Reopen(source) => intake.reopen_due(turn, source),
            Timer::Tell => intake.tell(),
            Timer::Tls => intake.tell_faults(turn),
            Timer::Silence(source) => intake.check_silence(turn, source),
            Timer::Accept(source) => intake.resume_accept(turn, source),
            Timer::Api(_) | Timer::ReadOn => {} // who goes on looks at the time itself
            Timer::Route(step) => delivery.probe(turn, store, step),
            Timer::Drain if phase == Phase::Draining => return self.end_drain(now),
            Timer::Drain => {}
            Timer::Flush => return self.check_flush(now),
        }
        owners.admit(turn);
    }

    // ---- the turn

    /// Ends a turn: what the completions made possible is done, operations are emitted. Also called
    /// when [`Shard::next_deadline`] has passed.
    pub fn turn(&mut self, now: Now) {
        // Before the timers: one of them gives up machines that have waited for a commit for too
        // long.
        let (mut turn, mut owners) = self.lend(now);
        owners.intake.release_durable(&mut turn, owners.store);
        owners.store.release_durable();
        owners.admit(&mut turn);
        while let Some(timer) = self.timers.pop_due(now.mono_ns) {
            self.handle_timer(now, timer);
        }
        self.advance_phase(now);
        let flush = self.phase == Phase::Stopping;
        let (mut turn, mut owners) = self.lend(now);
        let turn = &mut turn;
        owners.intake.bury(turn, owners.store);
        owners.intake.resume_paused(turn, owners.store);
        owners.admit(turn);
        owners.delivery.advance_disposals(turn, owners.store);
        owners.admit(turn);
        Self::read_back(turn, &mut owners);
        // Machines first: they wait for this, and a send takes its time.
        owners.intake.flush_machines(turn, owners.store);
        owners.admit(turn);
        owners.delivery.dispatch(turn, owners.store);
        let waiting = owners.intake.awaits_durable();
        owners.store.end_turn(turn, waiting, flush);
        for link in turn.links.take_ended() {
            owners.intake.forget_link(link);
            owners.delivery.forget_link(link);
        }
        if cfg!(debug_assertions) {
            self.check(now);
        }
    }

    /// Whether there is work that can wait until nothing else is to be done: ClientHellos of machines.
    pub fn has_spare_work(&self) -> bool {
        self.intake.has_handshakes()
    }

    /// A piece of such work, between two turns: one ClientHello, a third of a millisecond.
    pub fn work_spare(&mut self, now: Now) {
        let (mut turn, mut owners) = self.lend(now);
        owners.intake.begin_handshake(&mut turn, owners.store);
        owners.admit(&mut turn);
    }

    /// Brings back what lies behind the window, as far as there is room.
    fn read_back(turn: &mut Turn<'_>, owners: &mut Owners<'_>) {
        for journal in owners.store.journal_ids() {
            let mut blocks = 0;
            while blocks < BLOCKS_PER_TURN && owners.store.read_back(turn, journal) {
                owners.admit(turn);
                blocks += 1;
            }
            owners.store.end_read_back(journal, blocks);
        }
    }

    /// What must be true between two turns.
    fn check(&mut self, now: Now) {
        assert!(self.terms.balance(), "{:?}", self.terms);
        let pending = self.terms.pending;
        let (turn, Owners { intake, store, delivery }) = self.lend(now);
        if store.check(pending) {
            turn.links.check();
            intake.check(&turn);
            delivery.check(&turn, store);
            turn.machines.check(turn.terms);
        }
    }

    /// The next operation.
    pub fn poll_op(&mut self) -> Option<Op> {
        self.ops.pop_front()
    }

    /// When [`Shard::turn`] has something to do though nothing happens, in monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        let all = [self.timers.next_ns(), self.store.deadline_ns(), self.delivery.deadline_ns()];
        all.into_iter().flatten().min()
    }

    // ---- start, drain, stop

    fn advance_phase(&mut self, now: Now) {
        match self.phase {
            Phase::Starting if self.store.is_ready() => {
                self.phase = Phase::Running;
                let (mut turn, mut owners) = self.lend(now);
                owners.intake.start(&mut turn, owners.store);
                owners.admit(&mut turn);
            }
            Phase::Draining if self.terms.pending == self.store.unread() => {
                let (turn, owners) = self.lend(now);
                if owners.intake.machines_are_answered(&turn) {
                    self.end_drain(now);
                }
            }
            _ => {}
        }
    }

    /// SIGTERM: intake ends now, delivery when everything is delivered or `drain` is over.
    pub fn stop(&mut self, now: Now) {
        if self.phase.is_ending() {
            return;
        }
        self.phase = Phase::Draining;
        let drain_ns = self.settings.deliver.drain.as_nanos() as u64;
        let (mut turn, mut owners) = self.lend(now);
        owners.intake.accept_early(&mut turn, owners.store); // closes them
        turn.timers.set(now.mono_ns + drain_ns, Timer::Drain);
        owners.intake.stop(&mut turn, owners.store);
        owners.admit(&mut turn);
        self.turn(now);
    }

    fn end_drain(&mut self, now: Now) {
        self.phase = Phase::Stopping;
        self.flush.since_ns = now.mono_ns;
        self.check_flush(now);
        let (mut turn, owners) = self.lend(now);
        owners.delivery.end(&mut turn, owners.store);
        let links: Vec<LinkId> = turn.links.ids().collect();
        for link in links {
            turn.close(link);
        }
    }

    /// Whether everything is closed, and on disk as far as it can be: those journals that are
    /// flushed may be closed.
    pub fn is_stopped(&self) -> bool {
        let is_written = self.flush.given_up || self.store.is_flushed();
        self.phase == Phase::Stopping && self.links.len() == 0 && is_written
    }

    /// Whether it has stopped though operations of a journal have not ended, and nobody waits for
    /// them any more.
    pub fn has_given_up(&self) -> bool {
        self.flush.given_up
    }

    /// A disk that refuses or hangs does not keep the gateway from its end: the block files keep
    /// what is not written.
    fn check_flush(&mut self, now: Now) {
        let waited_ns = now.mono_ns - self.flush.since_ns;
        let refuses = self.store.is_in_trouble();
        if waited_ns >= FLUSH_MAX_NS || waited_ns >= FLUSH_IN_TROUBLE_MAX_NS && refuses {
            self.flush.given_up = !self.store.is_flushed();
        } else {
            self.timers.set(now.mono_ns + FLUSH_LOOK_NS, Timer::Flush);
        }
    }

    /// An operator ends all waits for the API, between two turns.
    pub fn wake(&mut self, now: Now) {
        let (mut turn, mut owners) = self.lend(now);
        owners.delivery.wake(&mut turn, owners.store);
        owners.admit(&mut turn);
    }

    // ---- another configuration

    /// Takes over other settings, between two turns. What needs a restart must be as it was.
    pub fn reload(&mut self, now: Now, reload: Reload) -> Reloaded {
        if self.phase.is_ending() {
            return Reloaded::default();
        }
        let Reload { settings, retired, started, adjusted } = reload;
        let old = std::mem::replace(&mut self.settings, Arc::clone(&settings));
        let (mut turn, mut owners) = self.lend(now);
        let named: Vec<SourceId> = started.iter().chain(&adjusted).copied().collect();
        owners.intake.retire(&mut turn, owners.store, retired);
        owners.admit(&mut turn);
        owners.intake.adjust(&mut turn, owners.store, &old, adjusted);
        owners.intake.reload(&mut turn, owners.store, &old, started);
        owners.delivery.recall(&mut turn, owners.store);
        owners.admit(&mut turn);
        let tried = owners.delivery.reload(&mut turn, owners.store, &settings);
        self.expect_machines(&named);
        Reloaded { applied: true, tried, in_use: self.intake.retired() }
    }
}
