//! One world from its seed to its end: turns of the shard, kills and restarts, and the checks after every turn.

use super::context::{Context, MS, S, Stats, US};
use super::disk::Disk;
use super::driver::Link;
use super::event::{ConnId, End, Event};
use super::machines::{Doors, Kind, Listener, Machine, Port};
use super::net::{Net, Peer, Read};
use super::oracle::Oracle;
use super::plan::{CrashPoint, FaultKind, Plan};
use super::receiver::{Receiver, Trouble};
use crate::say;
use ringest::config::SourceKind;
use ringest::journal;
use ringest::observe::snapshot::Terms;
use ringest::shard::{ApiId, Op, Setup, Shard, SourceId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// After the last fault, a world must come to rest within this.
const REST_NS: u64 = 120 * S;
/// Most turns of a world; beyond, the shard spins.
const TURNS_MAX: u64 = 150_000;

pub struct World {
    pub plan: Plan,
    pub cx: Context,
    pub net: Net,
    pub receiver: Receiver,
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
    /// Accepted connections that no operation has named yet.
    pub accepted: BTreeSet<ConnId>,
    pub api_of: BTreeMap<ConnId, ApiId>,
    pub port_of: BTreeMap<ConnId, SourceId>,
    /// Completions told in this turn.
    pub told: u32,
    wake_at: Option<u64>,
    crash_at: Option<CrashPoint>,
    stopping: bool,
    terms: Terms,
    /// Turned away by a full journal, of HTTP machines and of streams: now, and when all was last accounted for.
    turned_away: [u64; 2],
    turned_away_before: [u64; 2],
    /// Not all that was handed in is accounted for.
    short: bool,
    /// Delivered, and received but not rejected, as the shard's earlier lives counted it.
    delivered_before: u64,
    kept_before: u64,
    /// Delivered, with a mark that must have been written.
    marked_before: u64,
}

impl World {
    pub fn new(seed: u64, echo: bool) -> Self {
        let plan = Plan::of(seed);
        let cx = Context::new(seed, echo);
        let mut receiver = Receiver::new(plan.contract.clone());
        receiver.closes_idle = plan.closes_idle;
        receiver.service_ns = plan.service_ns;
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
            machines,
            doors,
            disks,
            oracle: Oracle::new(plan.body),
            shard: None,
            life: 0,
            directories: Vec::new(),
            links: BTreeMap::new(),
            generations: BTreeSet::new(),
            accepted: BTreeSet::new(),
            api_of: BTreeMap::new(),
            port_of: BTreeMap::new(),
            told: 0,
            wake_at: None,
            crash_at: None,
            stopping: false,
            terms: Terms::default(),
            turned_away: [0; 2],
            turned_away_before: [0; 2],
            short: false,
            delivered_before: 0,
            kept_before: 0,
            marked_before: 0,
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
            && self.machines.iter().all(Machine::is_at_rest)
    }

    // Turns.

    /// One turn of the driver's loop at `at_ns` or a little later, so that several completions fall into it.
    fn turn(&mut self, at_ns: u64) -> Result<(), String> {
        let gather = *self.cx.rng.choice(&[0, 0, 0, 50 * US, 500 * US]).expect("some");
        self.cx.now_ns = self.cx.now_ns.max(at_ns + gather);
        self.told = 0;
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

    fn end_of_turn(&mut self) -> Result<(), String> {
        let now = self.now();
        let Some(shard) = &mut self.shard else { return Ok(()) };
        shard.turn(now);
        self.cx.stats.turns += 1;
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
            Event::Restart => return self.restart(),
        }
        Ok(())
    }

    // Checks.

    /// After every turn: the identity, and the counts that the oracle has.
    fn check(&mut self) -> Result<(), String> {
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let terms = shard.terms();
        let counters = shard.counters_mut();
        self.turned_away = [counters.http_unavailable, counters.rejected_full];
        let [refused, rejected] = self.turned_away;
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
        if terms.parked + terms.discarded > 0 || terms.recovered != self.terms.recovered {
            return Err(format!("{terms:?} after {:?}", self.terms));
        }
        if self.delivered_before + terms.delivered > self.receiver.accepted {
            return Err(format!("{} delivered, but {} were answered 201", terms.delivered, self.receiver.accepted));
        }
        self.terms = terms;
        if !self.short && !self.stopping {
            let [http, streams] = [0, 1].map(|kind| self.turned_away[kind] > self.turned_away_before[kind]);
            self.oracle.counted(http, streams);
            self.turned_away_before = self.turned_away;
        }
        let journal = &self.plan.settings.journal;
        for disk in &self.disks {
            // One beyond the limit is being prepared, and each start takes one of its own, full or not, for marks.
            if disk.bytes() as u64 > journal.max_bytes + (1 + u64::from(self.life)) * journal.segment_bytes {
                return Err(format!("{} B of segments, of {} B", disk.bytes(), journal.max_bytes));
            }
        }
        Ok(())
    }

    /// With a turn's operations begun: what was handed in and not counted must be held for a reason.
    fn check_short(&mut self) -> Result<(), String> {
        if !self.short || self.stopping {
            return Ok(());
        }
        let held = |conn: &super::net::Conn| {
            conn.shard_open && conn.link.is_some() && conn.peer != Peer::Receiver && conn.read != Read::Armed
        };
        let answering = (0..self.net.conns.len()).any(|conn| self.net.sending(conn));
        if answering || self.net.conns.iter().any(held) {
            return Ok(());
        }
        let handed = &mut self.oracle.handed;
        let missing = handed.stream_records + handed.http_records - self.terms.received - self.turned_away[0];
        if missing > self.oracle.unanswered() {
            return Err(format!(
                "{:?} and {:?} turned away, of {:?}",
                self.terms, self.turned_away, self.oracle.handed
            ));
        }
        self.oracle.handed.http_records -= missing;
        let streams = self.turned_away[1] > self.turned_away_before[1];
        self.oracle.counted(true, streams);
        self.turned_away_before = self.turned_away;
        self.short = false;
        Ok(())
    }

    /// At the end: everything is there; and a last stop and start finds nothing left to do.
    fn end(mut self) -> Result<Stats, String> {
        self.oracle.complete()?;
        let kept = self.kept_before + self.terms.received - self.terms.rejected;
        if self.oracle.rows < kept {
            return Err(format!("{} rows, but {kept} were counted", self.oracle.rows));
        }
        if let Some(what) = self.disks.iter().find_map(|disk| disk.quarantined.first()) {
            return Err(format!("quarantined without a reason: {what}"));
        }
        let sent: u64 = self.machines.iter().map(Machine::sent).sum();
        if sent < 200 || self.oracle.rows < 150 {
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
        self.cx.stats.worlds = 1;
        if self.terms.received == 0 && self.life == 1 {
            return Err("nothing was received".into());
        }
        Ok(self.cx.stats)
    }

    // Starts, stops, kills.

    fn core_of(&self, directory: usize) -> u32 {
        directory as u32
    }

    fn restart(&mut self) -> Result<(), String> {
        self.life += 1;
        // The first start may be that of another core, whose directory is then adopted.
        let adopts = self.plan.adopts;
        let directories: Vec<usize> = match (adopts, self.life) {
            (false, _) => vec![0],
            (true, 1) => vec![1],
            (true, _) => vec![0, 1],
        };
        say!(self.cx, "start {} with directories {directories:?}", self.life);
        let mut journals = Vec::new();
        let mut recovered = 0;
        for &directory in &directories {
            let options = self.plan.options(self.core_of(directory));
            let disk = &mut self.disks[directory];
            if self.life > 1 && self.cx.chance(15) {
                disk.fuse = Some(self.cx.rng.u32(1..12));
            }
            let burning = disk.fuse.is_some();
            match journal::open(disk, &options) {
                Ok(journal) => {
                    disk.fuse = None;
                    say!(self.cx, "journal {directory}: {:?}", journal.report());
                    recovered += journal.report().recovered;
                    if let Some(alarm) = journal.report().alarms.first() {
                        return Err(format!("alarm without a reason: {alarm}"));
                    }
                    journals.push(journal);
                }
                Err(error) if burning => {
                    say!(self.cx, "killed while opening the journal: {error}");
                    self.cx.stats.count("kill during recovery");
                    drop(journals);
                    for disk in &mut self.disks {
                        disk.crash(&mut self.cx, false);
                    }
                    let delay = self.cx.rng.u64(MS..200 * MS);
                    self.cx.after(delay, Event::Restart);
                    return Ok(());
                }
                Err(error) => return Err(format!("the journal does not open: {error}")),
            }
        }
        self.check_recovered(recovered)?;
        self.directories = directories;
        let setup = Setup {
            settings: Arc::clone(&self.plan.settings),
            core: 0,
            cores: 1,
            sources: (0..self.plan.settings.sources.len()).map(|index| SourceId(index as u16)).collect(),
            journals,
            owners: Arc::new(HashMap::new()),
            seed: self.cx.rng.u64(..),
            now: self.now(),
        };
        let mut shard = Shard::new(setup);
        shard.start(self.now());
        self.terms = Terms { recovered, ..Terms::default() };
        self.shard = Some(shard);
        self.doors.up = true;
        self.end_of_turn()
    }

    /// What a start finds must be all that was counted and not delivered, and nothing that was counted as delivered.
    fn check_recovered(&self, recovered: u64) -> Result<(), String> {
        let (kept, rows, delivered) = (self.kept_before, self.oracle.rows, self.marked_before);
        let possible = self.oracle.possible();
        let (least, most) = (kept.saturating_sub(rows), possible - delivered);
        if recovered < least || recovered > most {
            return Err(format!(
                "recovered {recovered}, not between {least} and {most}: {kept} counted, {possible} handed in, {rows} rows, \
                 {delivered} marked as delivered"
            ));
        }
        Ok(())
    }

    fn crash_now(&mut self, point: CrashPoint) -> bool {
        let hit = self.shard.is_some() && self.crash_at == Some(point);
        if hit {
            self.kill();
        }
        hit
    }

    fn crashes_on(&mut self, op: &Op) -> bool {
        let disk = matches!(
            op,
            Op::Commit { .. } | Op::PrepareSegment { .. } | Op::FreeSegment { .. } | Op::SyncSegment { .. }
        );
        let api = matches!(op, Op::Send { fd, .. } if self.is_api(*fd));
        match self.crash_at {
            Some(CrashPoint::AmongOperations) => self.cx.rng.u8(..3) == 0,
            Some(CrashPoint::OnDiskOperation) => disk,
            Some(CrashPoint::OnApiSend) => api,
            Some(CrashPoint::OnReadBack) => matches!(op, Op::ReadBack { .. }),
            _ => false,
        }
    }

    /// kill -9: the process is gone, with all that the kernel had of it.
    pub fn kill(&mut self) {
        say!(self.cx, "killed: {:?}, {:?}", self.crash_at, self.terms);
        self.cx.stats.count("kill -9");
        if self.terms.pending >= 100 {
            self.cx.stats.count("kill -9 with 100 records pending");
        }
        self.crash_at = None;
        self.shard = None;
        self.gone();
        for disk in &mut self.disks {
            disk.crash(&mut self.cx, false);
        }
    }

    /// After the end of a process, however it came.
    fn gone(&mut self) {
        self.delivered_before += self.terms.delivered;
        // While the disk holds it up, the journal may have no room for marks; what they settle then goes out again.
        if self.disks.iter().all(Disk::is_calm) {
            self.marked_before += self.terms.delivered;
        }
        self.kept_before += self.terms.received - self.terms.rejected;
        self.terms = Terms::default();
        let [http, streams] = std::mem::take(&mut self.turned_away).map(|count| count > 0);
        self.turned_away_before = [0; 2];
        self.short = false;
        self.oracle.gone(http, streams);
        self.stopping = false;
        self.wake_at = None;
        self.links.clear();
        self.generations.clear();
        self.accepted.clear();
        for conn in 0..self.net.conns.len() {
            if self.net.conns[conn].shard_open {
                self.net.close_shard(&mut self.cx, conn);
            }
        }
        for (conn, source) in std::mem::take(&mut self.port_of) {
            self.doors.ports.entry(source).or_default().open = false;
            if let Peer::Machine(machine) = self.net.conns[conn].peer
                && self.machines[machine].conn == Some(conn)
            {
                self.machines[machine].lose(&mut self.cx);
            }
        }
        self.doors.up = false;
        for listener in self.doors.listeners.values_mut() {
            listener.armed = false;
            listener.backlog.clear(); // closed above, as all connections
        }
        let delay = self.cx.rng.u64(MS..300 * MS);
        self.cx.after(delay, Event::Restart);
    }

    fn stop(&mut self) {
        let now = self.now();
        let Some(shard) = &mut self.shard else { return };
        say!(self.cx, "asked to stop");
        self.stopping = true;
        shard.stop(now);
        self.wake_at = Some(self.cx.now_ns);
    }

    /// The shard has stopped: its journals are closed.
    fn stopped(&mut self) -> Result<(), String> {
        let shard = self.shard.take().expect("it has just stopped");
        say!(self.cx, "stopped: {:?}", self.terms);
        for (journal, &directory) in shard.into_journals().into_iter().zip(&self.directories) {
            journal.close(&mut self.disks[directory]).map_err(|error| error.to_string())?;
            // A start that is killed between making its block file and naming it in an epoch leaves it behind.
            if self.disks[directory].block_files() as u64 > self.cx.stats.of("kill during recovery") {
                return Err("a clean stop leaves its block file behind".into());
            }
        }
        self.cx.stats.count("stopped cleanly");
        self.gone();
        Ok(())
    }

    // Faults.

    fn begin_fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].clone();
        say!(self.cx, "fault {index} begins: {:?}", fault.kind);
        let trouble = &mut self.receiver.trouble;
        match fault.kind {
            FaultKind::Outage { swallows } => {
                (trouble.refuses, trouble.swallows) = (true, swallows);
                self.receiver.down(&mut self.cx, &mut self.net);
            }
            FaultKind::Status(status) => trouble.status = Some(status),
            FaultKind::SlowAnswers(ns) => trouble.slow_ns = ns,
            FaultKind::LostAnswers(percent) => trouble.lost = percent,
            FaultKind::GarbledAnswers(percent) => trouble.garbled = percent,
            FaultKind::HangUp { machine, errno } => self.hang_up(machine, errno),
            FaultKind::Reset(percent) => self.reset_some(percent),
            FaultKind::Stall(percent) => self.stall_some(percent, fault.at_ns + fault.lasts_ns),
            FaultKind::SlowDisk(ns) => {
                for disk in &mut self.disks {
                    disk.delay_ns = ns;
                }
            }
            FaultKind::Kill(CrashPoint::Now) => {
                if self.shard.is_some() {
                    self.crash_at = Some(CrashPoint::Now);
                    self.kill();
                }
            }
            FaultKind::Kill(point) => {
                self.crash_at = Some(point);
                // Where that operation does not come, the kill does.
                self.cx.after(300 * MS, Event::FaultOver { index });
            }
            FaultKind::CleanRestart => {
                if !self.stopping {
                    self.stop();
                }
            }
        }
        self.cx.stats.count(fault.kind.name());
        if fault.lasts_ns > 0 {
            self.cx.after(fault.lasts_ns, Event::FaultOver { index });
        }
    }

    fn end_fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].clone();
        say!(self.cx, "fault {index} is over: {:?}", fault.kind);
        let trouble: &mut Trouble = &mut self.receiver.trouble;
        match fault.kind {
            FaultKind::Outage { .. } => (trouble.refuses, trouble.swallows) = (false, false),
            FaultKind::Status(_) => trouble.status = None,
            FaultKind::SlowAnswers(_) => trouble.slow_ns = 0,
            FaultKind::LostAnswers(_) => trouble.lost = 0,
            FaultKind::GarbledAnswers(_) => trouble.garbled = 0,
            FaultKind::HangUp { machine, .. } => {
                let delay = self.cx.rng.u64(US..MS);
                self.cx.after(delay, Event::PortAppeared { source: self.machines[machine].plan.source });
            }
            FaultKind::SlowDisk(_) => {
                for disk in &mut self.disks {
                    disk.delay_ns = self.plan.disk_delay_ns;
                }
            }
            FaultKind::Kill(point) => {
                if self.crash_at == Some(point) {
                    if self.shard.is_some() { self.kill() } else { self.crash_at = None }
                }
            }
            FaultKind::Reset(_) | FaultKind::Stall(_) | FaultKind::CleanRestart => {}
        }
    }

    fn hang_up(&mut self, machine: usize, errno: Option<i32>) {
        let source = self.machines[machine].plan.source;
        self.doors.ports.entry(source).or_default().present = false;
        if let Some(conn) = self.machines[machine].conn
            && self.machines[machine].plan.kind == Kind::Serial
        {
            self.cx.stats.count("hang-up of an open port");
            self.net.hang_up(&mut self.cx, conn, errno);
            self.machines[machine].lose(&mut self.cx);
        }
    }

    /// Open sockets, oldest first.
    fn open_sockets(&self) -> Vec<ConnId> {
        let open = |&conn: &ConnId| {
            let state = &self.net.conns[conn];
            state.shard_open && state.peer_open && !state.reset && !self.port_of.contains_key(&conn)
        };
        (0..self.net.conns.len()).filter(open).collect()
    }

    fn reset_some(&mut self, percent: u32) {
        for conn in self.open_sockets() {
            if self.cx.chance(percent) {
                say!(self.cx, "conn {conn} is reset");
                self.net.tear(&mut self.cx, conn);
            }
        }
    }

    fn stall_some(&mut self, percent: u32, until_ns: u64) {
        let mut conns = self.open_sockets();
        conns.extend(self.port_of.keys());
        for conn in conns {
            for to in [End::Shard, End::Peer] {
                if self.cx.chance(percent) {
                    say!(self.cx, "conn {conn} stalls towards the {to:?}");
                    self.net.stall(conn, to, until_ns);
                }
            }
        }
    }

    /// Whether a descriptor is of a connection to the API.
    fn is_api(&self, fd: ringest::shard::Fd) -> bool {
        let conn = usize::try_from(fd.0).ok().and_then(|fd| fd.checked_sub(super::driver::FIRST_FD as usize));
        conn.and_then(|conn| self.net.conns.get(conn)).is_some_and(|conn| conn.peer == Peer::Receiver)
    }
}
