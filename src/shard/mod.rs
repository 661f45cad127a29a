//! The sans-IO owner of all that one core does: it sees completions and `now`, and emits operations.
//!
//! - `link`: connections and ports by index; `lane`: what keeps its order; `timer`: deadlines.
//! - `intake`, `machine`: bytes become records in the journal and in lanes. `deliver`: records of lanes become requests, answers
//!   settle them; `secure`: those connections over TLS. `retry`: what a failed one leads to; `park`: records kept aside; `batch`: many
//!   records in one request; `lease`: ids given ahead. `backlog`: what lies behind the window comes back from the journal.
//! - `reload`: another configuration takes the place of the present one.

mod backlog;
mod batch;
mod deliver;
mod intake;
mod lane;
mod lease;
mod link;
mod machine;
mod op;
mod park;
mod pressure;
mod reload;
mod retry;
mod samples;
mod secure;
mod show;
mod timer;
mod undurable;

pub use op::*;
pub use park::{Disposal, Selection, record_name};
pub use reload::{Reload, Reloaded};

use crate::config::{Authority, Settings, SourceKind, Url};
use crate::delivery::route::Route;
use crate::delivery::template::Template;
use crate::ground::{LaneNumber, RecordNumber};
use crate::http::client::{GetHead, MediaType, RequestHead};
use crate::http::date::HttpDate;
use crate::journal::{self, Journal};
use crate::observe::snapshot::{Counters, StageHistograms, Terms};
use crate::tls;
use deliver::Api;
use intake::SourceState;
use lane::{Doing, Lane};
use lease::Leases;
use link::{Links, State};
use park::Parking;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use timer::{Timer, Timers};
use undurable::Undurable;

/// How long a stop waits for the disk: when it works, ...
const FLUSH_MAX_NS: u64 = 20_000_000_000;
/// ... and when it refuses.
const FLUSH_IN_TROUBLE_MAX_NS: u64 = 3_000_000_000;
const FLUSH_LOOK_NS: u64 = 250_000_000;

/// What a shard is made of.
pub struct Setup {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Index of the core thread, and the number of them.
    pub core: u16,
    /// Number of core threads.
    pub cores: u16,
    /// Sources that this core runs: its listeners, its share of ports and outgoing connections.
    pub sources: Vec<SourceId>,
    /// Its own journal, then adopted ones.
    pub journals: Vec<Journal>,
    /// Which core owns a `NAME@ADDRESS` with records from before the start; others are spread by hash.
    pub owners: Arc<HashMap<String, u16>>,
    /// For jitter.
    pub seed: u64,
    /// The time.
    pub now: Now,
}

/// What the shard is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the journal's first segment.
    Starting,
    Running,
    /// Intake has ended; what can be delivered is.
    Draining,
    /// Delivery has ended too; the journal is flushed, files are closed.
    Stopping,
}

/// All that one core owns.
pub struct Shard {
    settings: Arc<Settings>,
    core: u16,
    cores: u16,
    owners: Arc<HashMap<String, u16>>,
    rng: fastrand::Rng,
    phase: Phase,
    /// Since when it only writes what is to be written.
    flush_since_ns: u64,
    flush_given_up: bool,
    ops: VecDeque<Op>,
    timers: Timers,
    links: Links,
    lanes: Slab<Lane>,
    lane_generation: u32,
    journals: Vec<JournalState>,
    sources: Vec<SourceState>,
    /// Position in `sources` by `SourceId`.
    source_index: Vec<Option<usize>>,
    /// Something that a retired source was needed for is gone.
    bury_due: bool,
    /// Lanes of addresses, with `lane = "address"`.
    address_lanes: HashMap<(SourceId, IpAddr), u32>,
    machine_connections: usize,
    /// Connections that were handed over while the journal was not ready, or of a source that this core has not heard of yet.
    early: Vec<(SourceId, Fd, SocketAddr)>,
    /// HTTP connections to be looked at when the turn ends.
    dirty_machines: Vec<LinkId>,
    /// Buffers of answers that were sent.
    send_buffers: Vec<Vec<u8>>,
    /// HTTP connections whose answers wait for durability, with the number of the first record that is waited for.
    durable_waiters: BinaryHeap<Reverse<(u64, LinkId)>>,
    /// Lanes whose first record waits for durability, with its number.
    durable_lanes: VecDeque<(RecordNumber, u32, u32)>,
    /// Links that wait for room in the journal.
    paused_links: Vec<LinkId>,
    /// Most that is held of a serial line that nothing holds back, in bytes.
    held_bytes_max: usize,
    apis: Vec<Api>,
    record_api: ApiId,
    /// What an answer that counts must be.
    answer_type: Option<MediaType>,
    /// The answers that are looked at belong to requests of an earlier configuration.
    by_old_rules: bool,
    /// The configuration in force says how the service is asked what it has.
    asks: bool,
    /// By [`Step`](crate::delivery::Step): whether requests go out, and the lanes that wait until they do.
    routes: [(Route, VecDeque<u32>); 3],
    id_api: ApiId,
    /// For connections that begin from now on, where a URL is `https`.
    tls: Option<tls::Client>,
    /// What a TLS connection has received, while it is looked at.
    plain: Vec<u8>,
    template: Template,
    record_head: RequestHead,
    confirm_head: GetHead,
    id_head: Option<RequestHead>,
    key: String,
    body: Vec<u8>,
    date: HttpDate,
    parking: Parking,
    leases: Leases,
    terms: Terms,
    counters: Counters,
    stages: StageHistograms,
    /// Of this core's own journal, into which all new records go.
    undurable: Undurable,
}

/// A journal and what the shard keeps beside it.
struct JournalState {
    journal: Journal,
    /// The lane of each origin, by `OriginRef`.
    origin_lanes: Vec<u32>,
    /// Lanes of records that were parked and are to be delivered after all, by number.
    retried: BTreeMap<RecordNumber, u32>,
    backlog: backlog::Backlog,
}

impl JournalState {
    fn set_origin_lane(&mut self, origin: journal::OriginRef, lane: u32) {
        let index = origin.0 as usize;
        if index >= self.origin_lanes.len() {
            self.origin_lanes.resize(index + 1, u32::MAX);
        }
        self.origin_lanes[index] = lane;
    }
}

impl Shard {
    /// A shard at rest. [`Shard::start`] sets it going.
    pub fn new(setup: Setup) -> Self {
        let Setup { settings, core, cores, sources, journals, owners, seed, now } = setup;
        assert!(!journals.is_empty());
        let mut apis = vec![Api::new(&settings.deliver.url)];
        let record_api = ApiId(0);
        let id_api = match &settings.sequence {
            Some(sequence) if !apis[0].serves(&sequence.url) => {
                apis.push(Api::new(&sequence.url));
                ApiId(1)
            }
            _ => record_api,
        };
        let mut source_index = vec![None; settings.sources.len()];
        for (index, source) in sources.iter().enumerate() {
            source_index[source.0 as usize] = Some(index);
        }
        let held_bytes_max = pressure::held_bytes_max(&settings, &sources);
        let deliver = &settings.deliver;
        let mut shard = Self {
            core,
            cores,
            owners,
            rng: fastrand::Rng::with_seed(seed),
            phase: Phase::Starting,
            flush_since_ns: 0,
            flush_given_up: false,
            ops: VecDeque::new(),
            timers: Timers::default(),
            links: Links::default(),
            lanes: Slab::new(),
            lane_generation: 0,
            journals: Vec::new(),
            sources: sources.into_iter().map(|id| SourceState::new(id, now)).collect(),
            source_index,
            bury_due: false,
            address_lanes: HashMap::new(),
            machine_connections: 0,
            early: Vec::new(),
            dirty_machines: Vec::new(),
            send_buffers: Vec::new(),
            durable_waiters: BinaryHeap::new(),
            durable_lanes: VecDeque::new(),
            paused_links: Vec::new(),
            held_bytes_max,
            apis,
            record_api,
            answer_type: settings.deliver.answer_type.as_ref().map(|name| MediaType::parse(name.as_bytes())),
            by_old_rules: false,
            asks: settings.deliver.answers.confirm.is_some(),
            routes: Default::default(),
            id_api,
            tls: None,
            plain: Vec::new(),
            template: Template::parse(&deliver.body, settings.sequence.is_some()).expect("settings are checked"),
            record_head: request_head(&deliver.url, &deliver.content_type, &deliver.headers),
            confirm_head: GetHead::new(&deliver.url.host_header, &deliver.headers).expect("settings are checked"),
            id_head: settings
                .sequence
                .as_ref()
                .map(|sequence| request_head(&sequence.url, "application/json", &deliver.headers)),
            key: String::new(),
            body: Vec::new(),
            date: HttpDate::new(),
            parking: Parking::default(),
            leases: Leases::default(),
            terms: Terms::default(),
            counters: Counters::default(),
            stages: StageHistograms::new(),
            undurable: Undurable::new(settings.journal.durability),
            settings,
        };
        for journal in journals {
            shard.journals.push(JournalState {
                journal,
                origin_lanes: Vec::new(),
                retried: BTreeMap::new(),
                backlog: backlog::Backlog::default(),
            });
        }
        shard.adopt_leases();
        // What an adopted journal holds of a source is older than what this core has journaled since it adopted it.
        for index in (1..shard.journals.len()).chain([0]) {
            shard.adopt_lanes(JournalId(index as u8));
        }
        shard
    }

    /// Makes the lanes of a journal's recovered records.
    fn adopt_lanes(&mut self, id: JournalId) {
        let journal = &self.journals[id.0 as usize].journal;
        let report = journal.report();
        self.terms.recovered += report.recovered;
        self.terms.parked += report.parked;
        self.terms.pending += report.recovered - report.parked;
        let origins: Vec<_> =
            journal.origins().map(|(origin, o, pending)| (origin, o.lane, o.name.to_string(), pending)).collect();
        let oldest = journal.oldest();
        let mut by_number: HashMap<LaneNumber, u32> = HashMap::new();
        for (origin, number, name, pending) in origins.into_iter().filter(|(.., pending)| *pending > 0) {
            let index = *by_number.entry(number).or_insert_with(|| {
                self.lane_generation += 1;
                let mut lane = Lane::new(self.lane_generation, id, number);
                lane.behind = Some((RecordNumber(0), oldest));
                let index = self.lanes.insert(lane) as u32;
                self.journals[id.0 as usize].backlog.lanes.push(index);
                index
            });
            self.lanes[index as usize].pending += pending;
            self.journals[id.0 as usize].set_origin_lane(origin, index);
            self.adopt_lane_for_source(&name, index);
        }
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
        self.apis.iter().map(|api| api.authority.clone()).collect()
    }

    /// Requests that the API has not answered.
    pub fn in_flight(&self) -> usize {
        self.apis.iter().map(|api| api.in_flight as usize).sum()
    }

    /// For the driver's own counts.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Ends the shard; what is not flushed is left to the next start.
    pub fn into_journals(self) -> Vec<Journal> {
        self.journals.into_iter().map(|state| state.journal).collect()
    }

    /// A journal's block memory, for [`journal::Op::Commit`].
    pub fn block_memory(&self, journal: JournalId) -> &journal::BlockFile {
        self.journals[journal.0 as usize].journal.memory()
    }

    fn journal(&mut self) -> &mut Journal {
        &mut self.journals[0].journal
    }

    /// One completion.
    pub fn handle(&mut self, now: Now, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { source, fd, peer } => self.handle_accepted(now, source, fd, peer),
            Completion::AcceptFailed { source, errno } => self.handle_accept_failed(now, source, errno),
            Completion::Received { link, bytes } => self.handle_received(now, link, bytes),
            Completion::RecvEnded { link, end } => self.handle_recv_ended(now, link, end),
            Completion::Sent { link, bytes, result } => self.handle_sent(now, link, bytes, result),
            Completion::Connected { link, result } => self.handle_connected(now, link, result),
            Completion::PortOpened { link, result } => {
                self.handle_source_opened(now, link, result.map_err(|error| error.to_string()));
            }
            Completion::PortAppeared { source } if self.runs(source) => self.reopen(source),
            Completion::PortAppeared { .. } => {}
            Completion::Closed { link } => {
                self.links.remove(link);
                self.link_closed(link);
            }
            Completion::Journal { journal, completion } => self.handle_journal(now, journal, completion),
        }
    }

    fn handle_journal(&mut self, now: Now, journal: JournalId, completion: journal::Completion) {
        let commit = matches!(completion, journal::Completion::Committed { .. });
        let state = &mut self.journals[journal.0 as usize];
        if let Some(moved) = state.journal.handle(now, &mut state.backlog.scan, completion) {
            self.follow_moved(journal, moved);
        }
        if commit {
            self.measure_durable(now, journal);
        }
    }

    fn handle_received(&mut self, now: Now, link: LinkId, bytes: &mut [u8]) {
        let Some((_, state)) = self.links.take(link) else { return };
        let state = match state {
            State::Stream(stream) => self.stream_received(now, link, stream, bytes),
            State::Http(machine) => self.machine_received(now, link, machine, bytes),
            State::Api(api) => self.by_rules(api, |shard, api| shard.api_received(now, link, api, bytes)),
            State::Free | State::Closing | State::Taken => unreachable!("never taken out"),
        };
        self.links.put(link, state);
    }

    fn handle_recv_ended(&mut self, now: Now, link: LinkId, end: RecvEnd) {
        let Some((_, state)) = self.links.take(link) else { return };
        let state = match state {
            State::Stream(stream) => self.stream_ended(now, link, stream, end),
            State::Http(machine) => self.machine_ended(link, machine, end),
            State::Api(api) => self.by_rules(api, |shard, api| shard.api_ended(now, link, api, end)),
            State::Free | State::Closing | State::Taken => unreachable!("never taken out"),
        };
        self.links.put(link, state);
    }

    fn handle_sent(&mut self, now: Now, link: LinkId, bytes: Vec<u8>, result: Result<(), i32>) {
        let Some((_, state)) = self.links.take(link) else { return };
        let state = match state {
            State::Http(machine) => self.machine_sent(now, link, machine, bytes, result),
            State::Api(api) => self.by_rules(api, |shard, api| shard.api_sent(now, link, api, bytes, result)),
            state => state,
        };
        self.links.put(link, state);
    }

    fn handle_connected(&mut self, now: Now, link: LinkId, result: Result<Fd, String>) {
        match self.links.find(link).map(|found| &found.state) {
            Some(State::Api(_)) => self.api_connected(now, link, result),
            Some(State::Stream(_)) => self.handle_source_opened(now, link, result),
            // The driver closes what comes after a close was asked for.
            _ => {}
        }
    }

    /// Asks for a link to be closed. Its index is free again when [`Completion::Closed`] comes.
    fn close(&mut self, id: LinkId) {
        let Some(link) = self.links.find(id) else { return };
        if matches!(link.state, State::Free | State::Closing) {
            return;
        }
        link.state = State::Closing;
        let fd = link.fd;
        self.ops.push_back(Op::Close { link: id, fd });
    }

    /// Ends a turn: what the completions made possible is done, operations are emitted. Also called when
    /// [`Shard::next_deadline`] has passed.
    pub fn turn(&mut self, now: Now) {
        // Before the timers: one of them gives up machines that have waited for a commit for too long.
        self.release_durable();
        while let Some(timer) = self.timers.pop_due(now.mono_ns) {
            self.handle_timer(now, timer);
        }
        self.advance_phase(now);
        self.bury();
        self.resume_paused(now);
        self.advance_disposals(now);
        self.advance_backlog(now);
        // Machines first: they wait for this, and a send takes its time.
        self.flush_machines(now);
        self.dispatch(now);
        let waiting = !self.durable_waiters.is_empty() || !self.durable_lanes.is_empty();
        for (index, state) in self.journals.iter_mut().enumerate() {
            let journal = JournalId(index as u8);
            let ops = &mut |op| self.ops.push_back(Op::Journal { journal, op });
            if self.phase == Phase::Stopping {
                state.journal.flush(now, ops);
            } else {
                state.journal.turn(now, waiting, ops);
            }
            state.journal.take_counters(&mut self.counters);
        }
        debug_assert!(self.terms.balance(), "{:?}", self.terms);
    }

    fn handle_timer(&mut self, now: Now, timer: Timer) {
        match timer {
            Timer::Lane { index, generation } => {
                let lane = self.lanes.get_mut(index as usize).filter(|lane| lane.generation == generation);
                if lane.is_some_and(|lane| lane.doing == Doing::Backoff) {
                    self.make_ready(index);
                }
            }
            Timer::Link { index, generation } => self.handle_link_timer(now, LinkId { index, generation }),
            // Of a source that is no more.
            Timer::Reopen(source) | Timer::Silence(source) | Timer::Accept(source) if !self.runs(SourceId(source)) => {}
            Timer::Reopen(source) => self.reopen_due(now, SourceId(source)),
            Timer::Silence(source) => self.check_silence(now, SourceId(source)),
            Timer::Accept(source) => self.resume_accept(SourceId(source)),
            Timer::Api(_) => {} // dispatch looks at the time itself
            Timer::Route(step) => self.probe(now, step),
            Timer::Drain => self.end_drain(now),
            Timer::Flush => self.check_flush(now),
        }
    }

    fn handle_link_timer(&mut self, now: Now, link: LinkId) {
        let Some((_, state)) = self.links.take(link) else { return };
        let state = match state {
            State::Stream(stream) => self.stream_timer(now, link, stream),
            State::Http(machine) => self.machine_timer(now, link, machine),
            State::Api(api) => self.by_rules(api, |shard, api| shard.api_timer(now, link, api)),
            state => state,
        };
        self.links.put(link, state);
    }

    /// The next operation.
    pub fn poll_op(&mut self) -> Option<Op> {
        self.ops.pop_front()
    }

    /// When [`Shard::turn`] has something to do though nothing happens, in monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        let journals = self
            .journals
            .iter()
            .flat_map(|state| [state.journal.deadline_ns(), state.backlog.deadline_ns()])
            .flatten()
            .min();
        [self.timers.next_ns(), journals, self.disposals_deadline_ns()].into_iter().flatten().min()
    }

    fn advance_phase(&mut self, now: Now) {
        match self.phase {
            Phase::Starting if self.journals[0].journal.is_ready() => {
                self.phase = Phase::Running;
                self.start_sources(now);
                self.accept_early(now);
            }
            Phase::Draining if self.terms.pending == 0 && self.machines_are_answered() => self.end_drain(now),
            _ => {}
        }
    }

    /// SIGTERM: intake ends now, delivery when everything is delivered or `drain` is over.
    pub fn stop(&mut self, now: Now) {
        if matches!(self.phase, Phase::Draining | Phase::Stopping) {
            return;
        }
        self.phase = Phase::Draining;
        self.accept_early(now); // closes them
        self.timers.set(now.mono_ns + self.settings.deliver.drain.as_nanos() as u64, Timer::Drain);
        self.stop_sources(now);
        self.turn(now);
    }

    fn end_drain(&mut self, now: Now) {
        if self.phase != Phase::Draining {
            return;
        }
        self.phase = Phase::Stopping;
        self.flush_since_ns = now.mono_ns;
        self.leave_leases();
        self.check_flush(now);
        self.close_sessions();
        let links: Vec<LinkId> = self.links.iter().map(|(id, _)| id).collect();
        for link in links {
            self.close(link);
        }
    }

    /// Whether everything is closed, and on disk as far as it can be: those journals that are flushed may be closed.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopping && self.links.len() == 0 && (self.flush_given_up || self.is_flushed())
    }

    fn is_flushed(&self) -> bool {
        self.journals.iter().all(|state| state.journal.is_flushed() && !state.backlog.is_reading())
    }

    /// Whether it has stopped though operations of a journal have not ended, and nobody waits for them any more.
    pub fn has_given_up(&self) -> bool {
        self.flush_given_up
    }

    /// A disk that refuses or hangs does not keep the gateway from its end: the block files keep what is not written.
    fn check_flush(&mut self, now: Now) {
        let waited_ns = now.mono_ns - self.flush_since_ns;
        let refuses = self.journals.iter().any(|state| state.journal.is_in_trouble());
        if waited_ns >= FLUSH_MAX_NS || waited_ns >= FLUSH_IN_TROUBLE_MAX_NS && refuses {
            self.flush_given_up = !self.is_flushed();
        } else {
            self.timers.set(now.mono_ns + FLUSH_LOOK_NS, Timer::Flush);
        }
    }

    fn source_kind(&self, source: SourceId) -> &SourceKind {
        &self.settings.sources[source.0 as usize].kind
    }
}

fn request_head(url: &Url, content_type: &str, headers: &[(String, String)]) -> RequestHead {
    RequestHead::post(&url.target, &url.host_header, content_type, headers).expect("settings are checked")
}
