//! One world from its seed to its end: turns of the shard, kills and restarts, and the checks after every turn.

use super::answers::Reached;
use super::aside::Parked;
use super::context::{Context, MS, S, Stats, US};
use super::disk::Disk;
use super::driver::{Link, Seen};
use super::event::{ConnId, Event};
use super::machines::{Doors, Listener, Machine, Port};
use super::net::{Net, Peer, Read};
use super::oracle::Oracle;
use super::plan::{CrashPoint, Level, Plan, Tampering};
use super::receiver::Receiver;
use crate::say;
use ringest::config::SourceKind;
use ringest::ground::SegmentNumber;
use ringest::ground::count::Terms;
use ringest::journal;
use ringest::observe::snapshot::{JournalSnapshot, RouteSnapshot};
use ringest::shard::{ApiId, Shard, SourceId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// After the last fault, a world must come to rest within this.
const REST_NS: u64 = 120 * S;
/// Most turns of a world; beyond, the shard spins.
const TURNS_MAX: u64 = 150_000;

/// A snapshot copies all histograms; the identity's terms alone are looked at in every turn.
const SNAPSHOT_EVERY: u64 = 64;

/// What was done to the files while the shard was down.
#[derive(Default)]
pub struct Tampered {
    /// Something in this directory that the next start must tell.
    pub told: bool,
    pub directory: Option<usize>,
    /// The segments that it is in. A file that was being freed may be gone before the next start, and its damage with it.
    pub told_in: Vec<SegmentNumber>,
    /// Segments with a flipped bit.
    pub flipped: BTreeSet<(usize, u64)>,
    /// Something that it may tell.
    pub perhaps: bool,
    /// Bits of segments: what they cost shows for long.
    pub ever: bool,
    /// Something is put aside for it.
    pub aside: bool,
}

pub struct World {
    pub plan: Plan,
    /// The most of all settings so far.
    pub connections_max: usize,
    pub pipeline_max: usize,
    pub cx: Context,
    pub net: Net,
    pub receiver: Receiver,
    pub reached: Reached,
    pub machines: Vec<Machine>,
    pub doors: Doors,
    pub disks: Vec<Disk>,
    pub oracle: Oracle,
    pub shard: Option<Shard>,
    /// Counts the shard's starts.
    pub life: u32,
    /// The directory of each of the shard's journals.
    pub directories: Vec<usize>,
    pub links: BTreeMap<u32, Link>,
    /// Every use of an index in this life.
    pub generations: BTreeSet<u64>,
    pub seen: Seen,
    /// Accepted connections that no operation has named yet.
    pub accepted: BTreeSet<ConnId>,
    /// Connections and ports that were opened in this turn.
    pub opened: BTreeSet<ConnId>,
    pub api_of: BTreeMap<ConnId, ApiId>,
    pub port_of: BTreeMap<ConnId, SourceId>,
    /// Requests of machines that were handed in and not answered.
    pub asked: BTreeMap<ConnId, u64>,
    /// Completions told in this turn.
    pub told: u32,
    pub wake_at: Option<u64>,
    pub crash_at: Option<CrashPoint>,
    pub stopping: bool,
    /// What is done to the files once the shard has stopped.
    pub tamper_when_stopped: Option<Tampering>,
    /// Records that waited in each directory when it was closed, as long as nothing else has happened to it.
    pub pending_at_stop: BTreeMap<usize, u64>,
    pub terms: Terms,
    pub parked: Parked,
    /// Turned away by a full journal, of HTTP machines and of streams: now, and when all was last accounted for.
    pub turned_away: [u64; 2],
    /// Records of requests that the shard has known by their keys.
    pub repeated: u64,
    pub turned_away_before: [u64; 2],
    /// Not all that was handed in is accounted for.
    pub short: bool,
    /// Delivered, and received but not rejected, as the shard's earlier lives counted it.
    pub delivered_before: u64,
    pub kept_before: u64,
    /// Delivered, with a mark that must have been written: in this life, and in earlier ones.
    pub marked: u64,
    pub marked_before: u64,
    /// All that entered the journal up to then survives a loss of power; and how many of the marks do.
    pub safe_ns: u64,
    pub marked_safe: u64,
    /// A write has failed, and the shard has not said that this is over.
    pub ailing: bool,
    /// What is to be found at the next start.
    pub tampered: Tampered,
    /// How many marks had been written by when, of those that may not be safe yet.
    pub marked_at: VecDeque<(u64, u64)>,
}

impl World {
    pub fn new(seed: u64, echo: bool) -> Self {
        let plan = Plan::of(seed);
        let cx = Context::new(seed, echo);
        let mut receiver = Receiver::new(plan.contract.clone());
        receiver.closes_idle = plan.closes_idle;
        receiver.service_ns = plan.service_ns;
        receiver.long_wait_ns = plan.settings.deliver.retry_max.as_nanos() as u64 / 2;
        let machines: Vec<Machine> =
            plan.machines.iter().enumerate().map(|(index, plan)| Machine::new(index, plan.clone())).collect();
        let mut doors = Doors::default();
        for (index, source) in plan.settings.sources.iter().enumerate() {
            let id = SourceId(index as u16);
            match source.kind {
                SourceKind::Serial(_) => {
                    let machine = machines.iter().position(|m| m.plan.source == id).expect("each source has one");
                    doors.ports.insert(id, Port { present: !plan.missing_at_start[machine], open: false });
                }
                SourceKind::TcpListen { .. } | SourceKind::Http { .. } => {
                    doors.listeners.insert(id, Listener::default());
                }
                SourceKind::TcpConnect { .. } => {}
            }
        }
        let disks = (0..2).map(|index| Disk::new(index, plan.physical, seed * 2 + index as u64)).collect();
        Self {
            net: Net::new(plan.weather.clone(), plan.settings.limits.read_buffer_bytes),
            receiver,
            reached: Reached::default(),
            machines,
            doors,
            disks,
            oracle: Oracle::new(plan.body, plan.level == Level::Power),
            connections_max: plan.settings.deliver.connections,
            pipeline_max: plan.settings.deliver.pipeline,
            shard: None,
            life: 0,
            directories: Vec::new(),
            links: BTreeMap::new(),
            generations: BTreeSet::new(),
            seen: Seen::default(),
            accepted: BTreeSet::new(),
            opened: BTreeSet::new(),
            api_of: BTreeMap::new(),
            port_of: BTreeMap::new(),
            asked: BTreeMap::new(),
            told: 0,
            wake_at: None,
            crash_at: None,
            stopping: false,
            tamper_when_stopped: None,
            pending_at_stop: BTreeMap::new(),
            terms: Terms::default(),
            parked: Parked::default(),
            turned_away: [0; 2],
            repeated: 0,
            turned_away_before: [0; 2],
            short: false,
            delivered_before: 0,
            kept_before: 0,
            marked: 0,
            marked_before: 0,
            safe_ns: 0,
            marked_safe: 0,
            ailing: false,
            tampered: Tampered::default(),
            marked_at: VecDeque::new(),
            cx,
            plan,
        }
    }

    /// Runs the world to its end.
    ///
    /// # Errors
    /// What was not as it must be.
    pub fn run(mut self) -> Result<Stats, String> {
        self.begin();
        loop {
            if self.is_at_rest() {
                break;
            }
            let next = [self.cx.queue.next_at(), self.wake_at].into_iter().flatten().min();
            if next.is_none() && self.cx.now_ns <= self.plan.calm_ns() + S {
                self.cx.now_ns = self.plan.calm_ns() + S + 1;
                continue;
            }
            let Some(next) = next else { return Err(format!("nothing will ever happen again: {}", self.state())) };
            if next > self.plan.calm_ns() + REST_NS || self.cx.stats.turns > TURNS_MAX {
                return Err(format!("no rest: {}", self.state()));
            }
            self.turn(next)?;
        }
        self.end()
    }

    fn begin(&mut self) {
        say!(self.cx, "seed {}: {:?}, {} machines", self.plan.seed, self.plan.level, self.machines.len());
        for disk in &mut self.disks {
            disk.delay_ns = self.plan.disk_delay_ns;
        }
        for index in 0..self.plan.faults.len() {
            let fault = &self.plan.faults[index];
            say!(self.cx, "fault {index}: {:?} at {} ms for {} ms", fault.kind, fault.at_ns / MS, fault.lasts_ns / MS);
            self.cx.queue.push(fault.at_ns, Event::Fault { index });
        }
        for index in 0..self.machines.len() {
            let delay = self.cx.rng.u64(US..50 * MS);
            self.machines[index].wake_in(&mut self.cx, delay);
            if self.plan.missing_at_start[index] {
                let delay = self.cx.rng.u64(100 * MS..S);
                self.cx.stats.count("port missing at start");
                self.cx.after(delay, Event::PortAppeared { source: self.machines[index].plan.source });
            }
        }
        self.cx.after(0, Event::Restart);
        self.cx.after(300 * MS, Event::Operator);
    }

    fn state(&self) -> String {
        let machines: Vec<String> =
            self.machines.iter().map(|m| format!("{:?} {}/{}", m.plan.kind, m.done, m.plan.quota)).collect();
        let journal = self.shard.as_ref().map(|shard| shard.snapshot(self.now()).journal);
        format!(
            "{:?}, {journal:?}, {} rows of {} possible, machines {machines:?}",
            self.terms,
            self.oracle.rows,
            self.oracle.possible()
        )
    }

    fn is_at_rest(&self) -> bool {
        self.cx.now_ns > self.plan.calm_ns() + S
            && self.shard.is_some()
            && !self.stopping
            && self.crash_at.is_none()
            && self.terms.pending == 0
            && self.parked.is_over()
            && !self.short
            && self.machines.iter().all(Machine::is_at_rest)
    }

    // Turns.

    /// One turn of the driver's loop at `at_ns` or a little later, so that several completions fall into it.
    fn turn(&mut self, at_ns: u64) -> Result<(), String> {
        let gather = *self.cx.rng.choice(&[0, 0, 0, 50 * US, 500 * US]).expect("some");
        self.cx.now_ns = self.cx.now_ns.max(at_ns + gather);
        self.told = 0;
        self.opened.clear();
        let life = self.life;
        let most = self.cx.rng.u32(1..=64);
        for _ in 0..most {
            let Some(event) = self.cx.queue.pop_due(self.cx.now_ns) else { break };
            self.event(event)?;
            if self.told > 0 && self.crash_now(CrashPoint::AfterFirstCompletion) {
                return Ok(());
            }
        }
        let due = self.wake_at.is_some_and(|at| at <= self.cx.now_ns);
        if self.shard.is_none() || life != self.life || (self.told == 0 && !due) {
            return Ok(());
        }
        if self.crash_now(CrashPoint::BeforeTurn) {
            return Ok(());
        }
        self.end_of_turn()
    }

    pub fn end_of_turn(&mut self) -> Result<(), String> {
        let now = self.now();
        let Some(shard) = &mut self.shard else { return Ok(()) };
        shard.turn(now);
        self.cx.stats.turns += 1;
        for (conn, (_, kept)) in self.oracle.advance(self.cx.now_ns) {
            if let Peer::Machine(machine) = self.net.conns[conn].peer {
                self.machines[machine].handed(kept);
            }
        }
        self.check()?;
        if self.crash_now(CrashPoint::BeforeOperations) {
            return Ok(());
        }
        while let Some(op) = self.shard.as_mut().and_then(Shard::poll_op) {
            if self.crashes_on(&op) {
                if self.cx.rng.bool() {
                    self.perform(op)?;
                }
                self.kill();
                return Ok(());
            }
            self.perform(op)?;
        }
        self.check_short()?;
        self.check_answers()?;
        // While the disk holds it up, the journal may have no room for marks; what they settle goes out again after a kill.
        if self.ailing {
            // A block that the kernel did not take waits for a while before that is a problem: until it is written, marks may wait.
            let late_s = self.plan.settings.journal.commit_every.as_secs_f64();
            let ails = |journal: JournalSnapshot| journal.problem.is_some() || journal.commit_age_s > late_s;
            self.ailing = self.shard.as_ref().is_some_and(|shard| ails(shard.snapshot(now).journal));
        } else if self.disks.iter().all(Disk::is_calm) {
            self.now_calm();
        }
        if self.cx.stats.turns.is_multiple_of(SNAPSHOT_EVERY) {
            self.check_snapshot()?;
        }
        let Some(shard) = &self.shard else { return Ok(()) };
        self.wake_at = shard.next_deadline().map(|at| at.max(self.cx.now_ns) + US);
        if let Some(at) = &mut self.wake_at {
            *at += *self.cx.rng.choice(&[0, 0, 100 * US, MS]).expect("some");
        }
        if self.stopping && shard.is_stopped() {
            self.stopped()?;
        }
        Ok(())
    }

    /// With nothing in flight that it waits for, all marks are in blocks; and at level `power` a block that was begun
    /// longer ago than `commit_every` has been written.
    fn now_calm(&mut self) {
        if self.terms.delivered > self.marked {
            self.marked = self.terms.delivered;
            self.marked_at.push_back((self.cx.now_ns, self.marked_before + self.marked));
        }
        if self.plan.level == Level::Power {
            let written_ns = self.cx.now_ns - self.plan.settings.journal.commit_every.as_nanos() as u64;
            self.safe_ns = self.safe_ns.max(written_ns);
            while let Some((_, marked)) = self.marked_at.pop_front_if(|(at_ns, _)| *at_ns <= written_ns) {
                self.marked_safe = marked;
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Flow { conn, to } => return self.on_flow(conn, to),
            Event::Readable { conn } => self.on_readable(conn),
            Event::Paused { conn } => self.on_paused(conn),
            Event::Sent { conn } => self.on_sent(conn),
            Event::Connect { life, link, to, lost } => self.on_connect(life, link, to, lost),
            Event::OpenPort { life, link, source } => self.on_open_port(life, link, source),
            Event::Closed { life, link } => self.on_closed(life, link),
            Event::Accept { source } => self.on_accept(source),
            Event::PortAppeared { source } => {
                self.doors.ports.entry(source).or_default().present = true;
                if self.cx.chance(80) {
                    self.on_port_appeared(source); // else the shard finds it by trying
                }
            }
            Event::Machine { machine, wake } => {
                let Self { machines, cx, net, doors, oracle, .. } = self;
                machines[machine].step(cx, net, doors, oracle, wake);
            }
            Event::Answer { conn } => {
                return self.receiver.answer(&mut self.cx, &mut self.net, &mut self.oracle, conn);
            }
            Event::IdleClose { conn, served } => {
                self.receiver.idle_close(&mut self.cx, &mut self.net, conn, served);
            }
            Event::Disk { directory, operation } => return self.on_disk(directory, operation),
            Event::Fault { index } => self.begin_fault(index),
            Event::FaultOver { index } => self.end_fault(index),
            Event::Operator => return self.operate(),
            Event::Restart => return self.restart(),
        }
        Ok(())
    }

    // Checks.

    /// After every turn: the identity, and the counts that the oracle has.
    fn check(&mut self) -> Result<(), String> {
        if let Some(disorder) = self.oracle.disorder.take() {
            return Err(disorder);
        }
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let terms = shard.terms();
        let counters = shard.counters_mut();
        let records = self.plan.forms.records as u64; // requests are counted
        self.turned_away = [records * counters.http_unavailable, counters.rejected_full];
        self.repeated = records * counters.http_repeated;
        let [refused, rejected] = self.turned_away;
        if self.plan.is_crowded {
            if refused > 0 {
                self.cx.stats.count("machines turned away for the reserve's sake");
            }
            if rejected > 0 {
                return Err(format!("a line that cannot wait has lost {rejected} records to others, beside a reserve"));
            }
        }
        let refused = refused + self.repeated;
        self.oracle.rejecting = rejected > self.turned_away_before[1];
        if !terms.balance() {
            return Err(format!("the identity does not hold: {terms:?}"));
        }
        let handed = self.oracle.handed;
        let all = handed.stream_records + handed.http_records;
        let kept = terms.received - terms.rejected;
        if self.stopping {
            // What was unfinished is rejected before the driver is told to close; bytes that cross a close are nothing.
            if kept + refused > all - handed.rejected {
                return Err(format!("kept {kept}, refused {refused}, but {handed:?} was handed in"));
            }
        } else {
            self.short = terms.received + refused < all;
            if terms.received + refused > all || terms.received < self.terms.received {
                return Err(format!("received {}, refused {refused}, but {handed:?} was handed in", terms.received));
            }
            let most = handed.rejected + rejected;
            if terms.rejected > most || (!self.short && terms.rejected != most) {
                return Err(format!("rejected {}, for a full journal {rejected}, but {handed:?}", terms.rejected));
            }
        }
        if terms.recovered != self.terms.recovered {
            return Err(format!("{terms:?} after {:?}", self.terms));
        }
        if self.delivered_before + terms.delivered > self.receiver.accepted {
            return Err(format!("{} delivered, but {} were answered 201", terms.delivered, self.receiver.accepted));
        }
        self.terms = terms;
        self.check_parked()?;
        // A line without flow control is read on, and its oldest records may be turned away while younger ones are held.
        if self.short && self.turned_away[1] > self.turned_away_before[1] {
            self.oracle.doubted();
            self.turned_away_before[1] = self.turned_away[1];
        }
        if !self.short && !self.stopping {
            let [http, streams] = [0, 1].map(|kind| self.turned_away[kind] > self.turned_away_before[kind]);
            self.oracle.counted(self.cx.now_ns, http, streams);
            self.turned_away_before = self.turned_away;
        }
        let journal = &self.plan.settings.journal;
        // One beyond the limit is being prepared, ids and marks may begin a few, and each start takes one of its own. At level
        // `power` an id or a mark that is written alone takes a whole physical block.
        let mut beyond = (4 + u64::from(self.life)) * journal.segment_bytes;
        if self.plan.level == Level::Power {
            beyond += 2 * u64::from(self.plan.physical) * self.oracle.rows.max(terms.received);
        }
        for disk in &self.disks {
            if disk.bytes() as u64 > journal.max_bytes + beyond + disk.errors * journal.segment_bytes {
                return Err(format!("{} B of segments, of {} B", disk.bytes(), journal.max_bytes));
            }
        }
        Ok(())
    }

    /// What is shown belongs together.
    fn check_snapshot(&self) -> Result<(), String> {
        let Some(shard) = &self.shard else { return Ok(()) };
        let shown = shard.snapshot(self.now());
        let received: u64 = shown.sources.iter().map(|source| source.received).sum();
        let rejected: u64 = shown.sources.iter().map(|source| source.rejected).sum();
        let (connections, pipeline) = (self.connections_max as u64, self.pipeline_max as u64);
        let busy = |route: &RouteSnapshot| route.connections > connections || route.in_flight > connections * pipeline;
        let fits = shown.terms == self.terms
            && (received, rejected) == (self.terms.received, self.terms.rejected)
            && shown.journal.behind <= self.terms.pending
            && !shown.routes.iter().any(busy);
        fits.then_some(()).ok_or_else(|| {
            format!("a snapshot whose parts do not fit: {:?}", (shown.terms, shown.sources, shown.routes))
        })
    }

    /// With a turn's operations begun: what was handed in and not counted must be held for a reason.
    fn check_short(&mut self) -> Result<(), String> {
        if !self.short || self.stopping {
            return Ok(());
        }
        let held = |conn: &super::net::Conn| {
            conn.shard_open && conn.link.is_some() && conn.peer != Peer::Receiver && conn.read != Read::Armed
        };
        // A refusal is counted with its answer, which may wait for those of requests that came before it.
        let waiting = self.asked.iter().any(|(&conn, asked)| *asked > 0 && self.net.conns[conn].shard_open);
        let answering = (0..self.net.conns.len()).any(|conn| self.net.sending(conn));
        // A port without flow control is read on.
        let held_back = || self.shard.as_ref().map(|shard| shard.snapshot(self.now()).sources);
        if answering
            || waiting
            || self.net.conns.iter().any(held)
            || held_back().is_some_and(|sources| sources.iter().any(|source| source.held_bytes > 0))
        {
            return Ok(());
        }
        let handed = &mut self.oracle.handed;
        let accounted = self.terms.received + self.turned_away[0] + self.repeated;
        let missing = handed.stream_records + handed.http_records - accounted;
        if missing > self.oracle.unanswered() {
            return Err(format!(
                "{:?} and {:?} turned away, of {:?}",
                self.terms, self.turned_away, self.oracle.handed
            ));
        }
        self.oracle.handed.http_records -= missing;
        let streams = self.turned_away[1] > self.turned_away_before[1];
        self.oracle.counted(self.cx.now_ns, true, streams);
        self.turned_away_before = self.turned_away;
        self.short = false;
        Ok(())
    }

    /// At the end: everything is there; and a last stop and start finds nothing left to do.
    fn end(mut self) -> Result<Stats, String> {
        self.oracle.complete()?;
        if self.oracle.batches_whole()? > 0 {
            self.cx.stats.count("bodies of records lost whole");
        }
        let kept = self.kept_before + self.terms.received - self.terms.rejected;
        if self.oracle.rows + self.parked.discarded_before + self.terms.discarded < kept {
            return Err(format!("{} rows, but {kept} were counted", self.oracle.rows));
        }
        if self.plan.has_disk() && self.cx.stats.of("kill -9") + self.cx.stats.of("power cut while running") == 0 {
            return Err("a world without a crash".into());
        }
        // Where a disk took nothing what was freed may be listed as missing.
        let is_freed = |disk: &Disk, what: &str| disk.errors > 0 && what.starts_with("missing-");
        let kept = |disk: &'_ Disk| disk.quarantined.iter().find(|what| !is_freed(disk, what)).cloned();
        if let Some(what) = self.disks.iter().find_map(kept).filter(|_| !self.tampered.aside) {
            return Err(format!("quarantined without a reason: {what}"));
        }
        let sent: u64 = self.machines.iter().map(Machine::sent).sum();
        if sent < 200 || (self.plan.has_disk() && self.oracle.rows < 20) {
            return Err(format!("a world of {sent} records and {} rows proves little", self.oracle.rows));
        }
        if self.plan.has_disk() && self.cx.rng.bool() {
            self.stop();
            while self.shard.is_some() {
                let next = [self.cx.queue.next_at(), self.wake_at].into_iter().flatten().min();
                self.turn(next.ok_or("a stop that does not end")?)?;
            }
            let core = self.core_of(0);
            let journal =
                journal::open(&mut self.disks[0], &self.plan.options(core)).map_err(|error| error.to_string())?;
            if journal.report().recovered > 0 || !journal.report().clean {
                return Err(format!("after a clean stop with nothing pending: {:?}", journal.report()));
            }
            self.cx.stats.count("clean stop at the end");
        }
        (self.cx.stats.worlds, self.cx.stats.sent) = (1, sent);
        if self.terms.received == 0 && self.life == 1 {
            return Err("nothing was received".into());
        }
        Ok(self.cx.stats)
    }

    /// Whether a descriptor is of a connection to the API.
    pub fn is_api(&self, fd: ringest::shard::Fd) -> bool {
        let conn = usize::try_from(fd.0).ok().and_then(|fd| fd.checked_sub(super::driver::FIRST_FD as usize));
        conn.and_then(|conn| self.net.conns.get(conn)).is_some_and(|conn| conn.peer == Peer::Receiver)
    }
}
