//! How the shard comes and goes: starts, recovery, clean stops, kills and power cuts.

use super::context::MS;
use super::disk::Disk;
use super::driver::Seen;
use super::event::Event;
use super::machines::Machine;
use super::net::Peer;
use super::plan::{CrashPoint, Level, Tampering};
use super::world::{Tampered, World};
use crate::say;
use ringest::config::{Settings, Url};
use ringest::ground::count::Terms;
use ringest::journal;
use ringest::shard::{CoreId, Op, Reload, Setup, Shard, SourceId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a start found, in words that do not follow the names in the code.
fn found_words(found: &journal::Report) -> String {
    format!(
        "epoch {}, clean {}, {} segments of {} B, {} recovered, {} parked, {} blocks finished and {} unwritten, {} damaged, \
         {} torn, alarms: {}",
        found.epoch,
        found.clean,
        found.segments,
        found.bytes,
        found.recovered,
        found.parked,
        found.finished_blocks,
        found.unwritten_blocks,
        found.damaged,
        found.torn,
        found.alarms.join("; ")
    )
}

/// The account, in the order of its identity.
fn terms_words(terms: &Terms) -> String {
    format!(
        "{} received + {} recovered = {} delivered + {} pending + {} parked + {} rejected + {} discarded",
        terms.received, terms.recovered, terms.delivered, terms.pending, terms.parked, terms.rejected, terms.discarded
    )
}

impl World {
    pub fn core_of(&self, directory: usize) -> u32 {
        directory as u32
    }

    pub fn restart(&mut self) -> Result<(), String> {
        self.life += 1;
        self.begin_anew();
        // The first start may be that of another core, whose directory is then adopted.
        let adopts = self.plan.adopts;
        let directories: Vec<usize> = match (adopts, self.life) {
            (false, _) => vec![0],
            (true, 1) => vec![1],
            (true, _) => vec![0, 1],
        };
        say!(self.cx, "start {} with directories {directories:?}", self.life);
        let mut journals = Vec::new();
        let (mut recovered, mut unwritten) = (0, 0);
        for &directory in &directories {
            let options = self.plan.options(self.core_of(directory));
            let disk = &mut self.disks[directory];
            if self.life > 1 && self.cx.chance(15) {
                disk.fuse = Some(self.cx.rng.u32(1..20));
            }
            let burning = disk.fuse.is_some();
            let is_there = self.tampered.told_in.iter().any(|segment| disk.segments.contains_key(segment));
            if !burning && self.cx.chance(5) {
                refuses_a_newer_format(disk, &options)?;
                self.cx.stats.count("newer format refused");
            }
            match journal::open(disk, &options) {
                Ok(journal) => {
                    disk.fuse = None;
                    say!(self.cx, "journal {directory}: {}", found_words(journal.report()));
                    recovered += journal.report().recovered;
                    unwritten += journal.report().unwritten_blocks;
                    if disk.block_files() != usize::from(self.plan.has_disk()) {
                        return Err(format!("{} block files after a start", disk.block_files()));
                    }
                    self.check_torn(journal.report())?;
                    let told = journal.report().damaged > 0 || journal.report().finished_blocks > 0;
                    if self.tampered.told && is_there && self.tampered.directory == Some(directory) && !told {
                        return Err(format!("damage below what was durable is not told: {:?}", journal.report()));
                    }
                    let report = journal.report().clone();
                    self.check_missing(directory, &report)?;
                    let excused = |alarm: &&String| {
                        let sender = self.oracle.was_cut && alarm.starts_with("who sent ");
                        let refused = self.disks[directory].errors > 0 && alarm.contains(" cannot be ");
                        // Where a disk takes nothing segments are freed before anything can say so.
                        let freed = self.disks[directory].errors > 0 && alarm.starts_with("nothing is left of ");
                        sender || refused || freed || self.tampered.perhaps || self.tampered.ever
                    };
                    if let Some(alarm) = journal.report().alarms.iter().find(|alarm| !excused(alarm)) {
                        return Err(format!("alarm without a reason: {alarm}"));
                    }
                    journals.push(journal);
                }
                Err(error) if burning => {
                    say!(self.cx, "killed while opening the journal: {error}");
                    self.cx.stats.count("kill during recovery");
                    self.tampered.told = false; // it may have mended what it found
                    self.pending_at_stop.clear();
                    drop(journals);
                    for disk in &mut self.disks {
                        disk.crash(&mut self.cx, false);
                    }
                    let delay = self.cx.rng.u64(MS..200 * MS);
                    self.cx.after(delay, Event::Restart);
                    return Ok(());
                }
                Err(error) if self.disks[directory].call_failed => {
                    say!(self.cx, "the journal does not open: {error}");
                    self.cx.stats.count("start failed: disk");
                    self.tampered.told = false;
                    self.pending_at_stop.clear();
                    for disk in &mut self.disks {
                        disk.call_failed = false;
                    }
                    let delay = self.cx.rng.u64(MS..500 * MS);
                    self.cx.after(delay, Event::Restart);
                    return Ok(());
                }
                Err(error) => return Err(format!("the journal does not open: {error}")),
            }
        }
        self.check_recovered(recovered)?;
        // What the last process left was made durable now, at every level that has a disk; where the disk refuses, later.
        self.ailing = unwritten > 0;
        if self.plan.has_disk() && unwritten == 0 && !self.disks.iter().any(Disk::has_doomed) {
            (self.safe_ns, self.marked_safe) = (self.cx.now_ns, self.marked_before);
        }
        let tampered = std::mem::take(&mut self.tampered);
        self.tampered = Tampered { told: false, perhaps: false, directory: None, told_in: Vec::new(), ..tampered };
        self.directories = directories;
        let setup = Setup {
            settings: Arc::clone(&self.plan.settings),
            core: CoreId(0),
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

    /// What came in one request is dropped where the disk has a part of it, but only at the level
    /// where nobody was answered before.
    fn check_torn(&mut self, report: &journal::Report) -> Result<(), String> {
        if report.torn_batches == 0 {
            return Ok(());
        }
        say!(self.cx, "{} requests were torn", report.torn_batches);
        self.cx.stats.count("torn body of records dropped");
        if !self.plan.forms.is_batched() || self.plan.level != Level::Power {
            return Err(format!("{} requests are dropped as torn", report.torn_batches));
        }
        Ok(())
    }

    /// After a clean stop all is there that waited, or is told to be missing, with its number.
    fn check_missing(&mut self, directory: usize, report: &journal::Report) -> Result<(), String> {
        let loss = report.loss.filter(|loss| loss.records > 0);
        let missing = loss.map_or(0, |loss| loss.records);
        let Some(pending) = self.pending_at_stop.remove(&directory) else { return Ok(()) };
        if loss.is_some_and(|loss| !loss.exact) || report.recovered + missing != pending {
            return Err(format!("{pending} records waited at the clean stop, but {report:?}"));
        }
        if missing > 0 {
            self.cx.stats.count("loss told exactly");
        }
        Ok(())
    }

    /// What a start finds must be all that was counted and not delivered, and nothing that was counted as delivered.
    fn check_recovered(&self, recovered: u64) -> Result<(), String> {
        if !self.plan.has_disk() {
            return Ok(());
        }
        let (kept, delivered) = (self.kept_before, self.marked_before);
        let rows = self.oracle.rows + self.parked.discarded_before;
        let (possible, due) = (self.oracle.possible(), self.oracle.due());
        let (least, most) = (kept.saturating_sub(rows).max(due), possible - delivered);
        if recovered < least || recovered > most {
            return Err(format!(
                "recovered {recovered}, not between {least} and {most}: {kept} counted, {possible} handed in, {rows} rows, \
                 {delivered} marked as delivered, {due} due"
            ));
        }
        Ok(())
    }

    pub fn crash_now(&mut self, point: CrashPoint) -> bool {
        let hit = self.shard.is_some() && self.crash_at == Some(point);
        if hit {
            self.kill();
        }
        hit
    }

    pub fn crashes_on(&mut self, op: &Op) -> bool {
        let disk = matches!(
            op,
            Op::Journal {
                op: journal::Op::Commit { .. }
                    | journal::Op::PrepareSegment { .. }
                    | journal::Op::FreeSegment { .. }
                    | journal::Op::SyncSegment { .. },
                ..
            }
        );
        let api = matches!(op, Op::Send { fd, .. } if self.is_api(*fd));
        match self.crash_at {
            Some(CrashPoint::AmongOperations) => self.cx.rng.u8(..3) == 0,
            Some(CrashPoint::OnDiskOperation) => disk,
            Some(CrashPoint::OnApiSend) => api,
            Some(CrashPoint::OnRewrite) => matches!(op, Op::Journal { op: journal::Op::Rewrite { .. }, .. }),
            Some(CrashPoint::OnReadBack) => matches!(op, Op::Journal { op: journal::Op::ReadBack { .. }, .. }),
            _ => false,
        }
    }

    /// kill -9: the process is gone, with all that the kernel had of it.
    pub fn kill(&mut self) {
        self.crash(false);
    }

    pub fn crash(&mut self, power: bool) {
        let what = if power { "power cut" } else { "killed" };
        say!(self.cx, "{what}: {:?}, {}", self.crash_at, terms_words(&self.terms));
        self.cx.stats.count(if power { "power cut while running" } else { "kill -9" });
        if self.terms.pending >= 100 {
            self.cx.stats.count("kill -9 with 100 records pending");
        }
        self.crash_at = None;
        self.tamper_when_stopped = None;
        self.shard = None;
        self.gone();
        for disk in &mut self.disks {
            disk.crash(&mut self.cx, power);
        }
        if self.disks.iter().any(|disk| disk.lost_doomed) {
            (self.tampered.ever, self.tampered.aside) = (true, true);
            self.excuse_keys();
        }
        if power || !self.plan.has_disk() {
            self.forget();
        }
    }

    /// What was in memory alone is lost, and the oracle does not ask for it.
    ///
    /// Writes that are still under way are over by then: a record that is lost here, and lands behind the next start, is taken for
    /// settled, but its machine's key is known.
    fn forget(&mut self) {
        self.disks.iter_mut().for_each(Disk::end_late_writes);
        say!(self.cx, "what came after {} ms need not have survived", self.safe_ns / MS);
        self.oracle.power_cut(self.safe_ns);
        self.receiver.power_cut(self.cx.now_ns, self.safe_ns);
        // At level `power` a record is on disk before it is delivered, and its key is in it.
        if self.plan.level != Level::Power {
            self.excuse_keys();
        }
        (self.kept_before, self.marked_before) = (0, self.marked_before.min(self.marked_safe));
    }

    fn excuse_keys(&mut self) {
        self.machines.iter_mut().for_each(Machine::excuse_keys);
    }

    /// With the shard down, files change by themselves.
    pub fn tamper(&mut self, tampering: &Tampering) {
        let directory = self.cx.rng.choice(&self.directories).copied().unwrap_or(0);
        let core = self.core_of(directory);
        let disk = &mut self.disks[directory];
        if matches!(tampering, Tampering::FlipSegments(_) | Tampering::HideBlocks(_)) {
            self.oracle.asides_damaged(None);
            self.machines.iter_mut().for_each(Machine::excuse_keys);
        }
        match *tampering {
            Tampering::FlipSegments(count) | Tampering::HideBlocks(count) => {
                for _ in 0..count {
                    let hides = matches!(tampering, Tampering::HideBlocks(_));
                    let Some(cost) = disk.damage_segment(&mut self.cx, core, hides) else { continue };
                    if hides {
                        self.cx.stats.count("block that cannot be read");
                    }
                    self.cx.stats.count(if cost.records.is_empty() {
                        "bit flipped"
                    } else {
                        "bit of a record flipped"
                    });
                    (self.tampered.ever, self.tampered.aside) = (true, true);
                    // Where no block of a segment is whole it passes for one that was never used.
                    let fresh = self.tampered.flipped.insert((directory, cost.segment.0));
                    self.tampered.told = fresh && (self.tampered.told || cost.told);
                    self.tampered.directory = Some(directory);
                    self.tampered.told_in.extend(cost.told.then_some(cost.segment));
                    cost.records.iter().for_each(|(name, record)| self.oracle.damaged(name, record));
                    self.receiver.excuse(self.cx.now_ns, &cost.keys);
                    self.marked_before = self.marked_before.saturating_sub(cost.marks);
                    self.marked_safe = self.marked_safe.saturating_sub(cost.marks);
                    self.kept_before = 0;
                }
            }
            Tampering::FlipEpoch { both } => {
                if both {
                    self.pending_at_stop.clear();
                }
                self.cx.stats.count(if both { "epoch file lost" } else { "bit of an epoch file flipped" });
                disk.flip_epoch(&mut self.cx, both);
                self.oracle.asides_damaged(None);
                (self.tampered.perhaps, self.tampered.aside) = (true, true);
                if both {
                    self.forget();
                }
            }
            Tampering::LoseBlockFile => {
                say!(self.cx, "the block file is gone");
                if disk.lose_block_file() {
                    self.cx.stats.count("block file lost");
                    self.tampered.perhaps = true;
                    self.forget();
                }
            }
        }
    }

    /// After the end of a process, however it came.
    fn gone(&mut self) {
        self.delivered_before += self.terms.delivered;
        self.marked_before += std::mem::take(&mut self.marked);
        self.marked_at.clear();
        self.kept_before += self.terms.received - self.terms.rejected;
        self.parked.gone(self.terms.discarded);
        self.terms = Terms::default();
        self.repeated = 0;
        let [http, streams] = std::mem::take(&mut self.turned_away).map(|count| count > 0);
        self.turned_away_before = [0; 2];
        self.short = false;
        self.oracle.gone(http, streams);
        self.stopping = false;
        self.wake_at = None;
        self.links.clear();
        self.generations.clear();
        self.seen = Seen::default();
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

    /// The shard, or its next start, is given other settings of delivery.
    pub fn reload(&mut self) {
        let mut settings = Settings::clone(&self.plan.settings);
        let rng = &mut self.cx.rng;
        let deliver = &mut settings.deliver;
        deliver.connections = *rng.choice(&[1, 2, 8]).expect("some");
        deliver.pipeline = *rng.choice(&[1, 8]).expect("some");
        deliver.timeout = Duration::from_millis(*rng.choice(&[400, 2000]).expect("some"));
        deliver.headers = vec![("X-Plant".into(), rng.u32(..100).to_string().into())];
        let to = |url: &mut Url, port: u16| {
            url.authority.port = port;
            url.host_header = format!("{}:{port}", url.authority.host);
        };
        if rng.bool() {
            to(&mut deliver.url, *rng.choice(&[8000, 8002, 8004]).expect("some"));
        }
        if let Some(sequence) = settings.sequence.as_mut().filter(|_| rng.bool()) {
            to(&mut sequence.url, *rng.choice(&[8000, 8001, 8002]).expect("some"));
        }
        let lease = settings.sequence.as_ref().map(|sequence| (sequence.url.authority.port, sequence.lease));
        let batch = settings.deliver.batch.as_ref().map(|batch| (batch.records, batch.bytes));
        say!(
            self.cx,
            "reload: to {}, {} connections of {}, ids {lease:?}, batches {batch:?}, body {:08x}",
            settings.deliver.url.authority.port,
            settings.deliver.connections,
            settings.deliver.pipeline,
            crc32c::crc32c(settings.deliver.body.as_bytes())
        );
        self.receiver.reload(&settings);
        self.begin_anew();
        self.connections_max = self.connections_max.max(settings.deliver.connections);
        self.pipeline_max = self.pipeline_max.max(settings.deliver.pipeline);
        let settings = Arc::new(settings);
        self.plan.settings = Arc::clone(&settings);
        let now = self.now();
        if let Some(shard) = &mut self.shard {
            let reload = Reload { settings, retired: Vec::new(), started: Vec::new(), adjusted: Vec::new() };
            if shard.reload(now, reload).applied {
                self.cx.stats.count("reload while running");
            }
            self.told += 1;
        }
    }

    pub fn stop(&mut self) {
        let now = self.now();
        let Some(shard) = &mut self.shard else { return };
        say!(self.cx, "asked to stop");
        self.stopping = true;
        shard.stop(now);
        self.wake_at = Some(self.cx.now_ns);
    }

    /// The shard has stopped: its journals are closed.
    pub fn stopped(&mut self) -> Result<(), String> {
        let shard = self.shard.take().expect("it has just stopped");
        say!(self.cx, "stopped: {}", terms_words(&self.terms));
        for (journal, &directory) in shard.into_journals().into_iter().zip(&self.directories) {
            let pending = journal.unsettled();
            if let Err(error) = journal.close(&mut self.disks[directory]) {
                if !self.disks[directory].call_failed {
                    return Err(format!("the journal does not close: {error}"));
                }
                say!(self.cx, "the journal does not close: {error}");
                self.cx.stats.count("stop failed: disk");
                self.disks[directory].call_failed = false;
                continue;
            }
            self.pending_at_stop.insert(directory, pending);
            if self.disks[directory].block_files() > 0 {
                return Err("a clean stop leaves its block file behind".into());
            }
        }
        self.cx.stats.count("stopped cleanly");
        self.disks.iter_mut().for_each(Disk::forget_process);
        self.disks.iter_mut().for_each(Disk::end_late_writes);
        self.gone();
        if let Some(tampering) = self.tamper_when_stopped.take() {
            self.cx.stats.count("damage after a clean stop");
            self.tamper(&tampering);
        }
        Ok(())
    }
}

/// A newer version has written one of the files, as far as its stamp says: the journal must not open, and nothing may change.
fn refuses_a_newer_format(disk: &mut Disk, options: &journal::Options) -> Result<(), String> {
    let Some((&number, bytes)) = disk.epochs.iter_mut().next_back() else { return Ok(()) };
    let own = bytes.clone();
    if !own.starts_with(b"RINGEPO1") || own[28..32] != crc32c::crc32c(&own[..28]).to_le_bytes() {
        return Ok(()); // damaged before
    }
    bytes[8..12].copy_from_slice(&(journal::format::VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let newer = bytes.clone();
    let files =
        |disk: &Disk| (disk.segments.keys().copied().collect::<Vec<_>>(), disk.epochs.len(), disk.block_files());
    let before = files(disk);
    match journal::open(disk, options) {
        Err(journal::OpenError::Format { .. }) if files(disk) == before && disk.epochs[&number] == newer => {}
        Err(_) if disk.call_failed => disk.call_failed = false,
        Err(error) => return Err(format!("a newer format is refused with changes, or not told: {error}")),
        Ok(_) => return Err("a newer format is opened".to_owned()),
    }
    disk.epochs.insert(number, own);
    Ok(())
}
