//! One core thread: it opens its journals, waits to be told its sources, and drives a shard until the shard has stopped.

use super::blocks::MappedFile;
use super::clock;
use super::control::Request;
use super::driver::{Core, Driver, DriverOptions, JournalFiles, Message};
use super::error::EngineError;
use super::files::{CoreDirectory, FsStorage};
use super::listen::Listeners;
use super::ring::RingOptions;
use crate::config::{Authority, Durability, LaneKey, Settings, is_of_connection, machine_name};
use crate::ground::count::{Counters, StageHistograms};
use crate::ground::text::typed;
use crate::journal::{self, FoundKey, Identity, Journal, Storage};
use crate::observe::losses::{self, Acknowledged, LossNews};
use crate::observe::machine::MachineState;
use crate::observe::snapshot::{ParkedList, Snapshot};
use crate::shard::{
    ApiId, Completion, CoreId, Disposal, LinkId, Now, Op, Reload, Reloaded, Selection, Setup, Shard, SourceId,
};
use crate::tls;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as threads;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

impl Core for Shard {
    fn start(&mut self, now: Now) {
        Self::start(self, now);
    }
    fn handle(&mut self, now: Now, completion: Completion<'_>) {
        Self::handle(self, now, completion);
    }
    fn turn(&mut self, now: Now) {
        Self::turn(self, now);
    }
    fn has_spare_work(&self) -> bool {
        Self::has_spare_work(self)
    }
    fn work_spare(&mut self, now: Now) {
        Self::work_spare(self, now);
    }
    fn poll_op(&mut self) -> Option<Op> {
        Self::poll_op(self)
    }
    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }
    fn reload(&mut self, now: Now, reload: Reload) -> Reloaded {
        if self.needs_tls(&reload.settings) {
            self.set_tls(tls_client(&reload.settings));
        }
        Self::reload(self, now, reload)
    }
    fn stop(&mut self, now: Now) {
        Self::stop(self, now);
    }
    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }
    fn is_stopped(&self) -> bool {
        Self::is_stopped(self)
    }
    fn has_given_up(&self) -> bool {
        Self::has_given_up(self)
    }
    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
    fn can_wait(&self, link: LinkId) -> bool {
        Self::can_wait(self, link)
    }
    fn is_disk_behind(&self) -> bool {
        Self::is_disk_behind(self)
    }
    fn snapshot(&self, now: Now) -> Snapshot {
        Self::snapshot(self, now)
    }
    fn stages(&self) -> StageHistograms {
        Self::stages(self).clone()
    }
    fn counters_mut(&mut self) -> &mut Counters {
        Self::counters_mut(self)
    }
    fn dispose(&mut self, disposal: Disposal, of: &Selection) -> u64 {
        Self::dispose(self, disposal, of)
    }
    fn parked(&self, limit: usize) -> ParkedList {
        Self::parked(self, limit)
    }
    fn take_machines(&mut self, most: usize) -> (Vec<MachineState>, bool) {
        Self::take_machines(self, most)
    }
    fn untold_machines(&mut self, untold: &[MachineState]) {
        Self::untold_machines(self, untold);
    }
    fn wake(&mut self, now: Now) {
        Self::wake(self, now);
    }
    fn set_ticket_keys(&mut self, keys: tls::TicketKeys) {
        Self::set_ticket_keys(self, keys);
    }
    fn acknowledge(&mut self, news: &LossNews) -> Acknowledged {
        Self::acknowledge(self, news)
    }
    fn destination(&self, api: ApiId) -> Authority {
        self.destinations().swap_remove(usize::from(api.0))
    }
}

/// What connections to the API are made by, where a URL is `https`.
fn tls_client(settings: &Settings) -> Option<tls::Client> {
    settings.deliver.tls.as_ref().map(|tls| tls::Client::new(tls).expect("checked with the settings"))
}

/// Which core runs what.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    /// The sources of this core.
    pub(super) sources: Vec<SourceId>,
    /// The core of each who has unsettled records, by the names by which they come back.
    pub(super) owners: Arc<HashMap<String, CoreId>>,
    /// Machines' keys that lie in the directories of other cores than those whose they are now.
    pub(super) keys: Arc<[FoundKey]>,
}

/// What a core has found in its journals that concerns the others, too.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By which names those come back who have unsettled records.
    pub(super) names: HashSet<String>,
    /// Machines' keys that belong to other cores.
    pub(super) keys: Vec<FoundKey>,
    /// The block files in use.
    pub(super) files: Vec<Arc<MappedFile>>,
}

impl Found {
    /// Adds the names of somebody with unsettled records. Nobody comes back by the name of a connection:
    /// there can be as many as records, and these names stay in memory.
    fn add_names(&mut self, who: &Identity) {
        // Whatever it is called now, records of an address go where its older ones are.
        self.names.extend(who.peer().map(|peer| machine_name(who.source(), LaneKey::Address, &BTreeMap::new(), peer)));
        if !who.peer().is_some_and(|peer| is_of_connection(who.name(), peer)) {
            self.names.insert(who.name().to_owned());
        }
    }
}

/// All that a core thread is given.
pub(super) struct CoreThread {
    pub(super) settings: Arc<Settings>,
    pub(super) core: u16,
    /// Its CPU.
    pub(super) cpu: usize,
    /// Its journal directories, its own first.
    pub(super) directories: Vec<CoreDirectory>,
    pub(super) read_multishot: bool,
    pub(super) listeners: Listeners,
    pub(super) peers: Vec<mpsc::UnboundedSender<Message>>,
    pub(super) control: mpsc::UnboundedSender<Request>,
    pub(super) mailbox: mpsc::UnboundedReceiver<Message>,
    /// Told what was found once the journals are open.
    pub(super) opened: mpsc::UnboundedSender<(u16, Result<Found, EngineError>)>,
    /// What this core runs; closed without an answer when another core could not open its journals.
    pub(super) assigned: threads::Receiver<Assignment>,
    pub(super) ready: oneshot::Sender<()>,
}

/// What a core leaves to be told.
pub(super) struct Last {
    pub(super) snapshot: Snapshot,
    /// All machines.
    pub(super) machines: Vec<MachineState>,
    /// Of each journal that could not be written to its end, what that means.
    pub(super) unwritten: Vec<String>,
}

/// A journal and the directory that it lives in.
struct Opened {
    storage: FsStorage,
    journal: Journal,
}

/// A panic of one core ends the process: its lanes would stand still, and the others cannot take them over.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ringest: a core has panicked; the journal keeps what was accepted");
            std::process::abort();
        }
    }
}

impl CoreThread {
    /// The thread's whole life.
    pub(super) fn run(self) -> Result<Option<Last>, EngineError> {
        let _guard = EndOnPanic;
        self.settle();
        let (journals, found) = match self.open() {
            Ok(opened) => opened,
            Err(error) => {
                // Who started the cores has ended already if it does not hear this.
                let _ = self.opened.send((self.core, Err(error)));
                return Ok(None);
            }
        };
        let told = self.opened.send((self.core, Ok(found)));
        let assigned = told.ok().and_then(|()| self.assigned.recv().ok());
        let Some(assignment) = assigned else {
            close(self.core, self.settings.gateway.cores.len(), &self.directories, journals)?;
            return Ok(None);
        };
        self.drive(assignment, journals).map(Some)
    }

    /// Pins the thread, and leaves the process's signals to the control thread.
    fn settle(&self) {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        if let Err(error) = signals.thread_block() {
            warn!(core = self.core, "signals cannot be blocked: {error}");
        }
        let mut cpus = CpuSet::new();
        let pinned = cpus.set(self.cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus));
        if let Err(error) = pinned {
            warn!(core = self.core, cpu = self.cpu, "the core's thread is not pinned: {error}");
        }
    }

    fn open(&self) -> Result<(Vec<Opened>, Found), EngineError> {
        let cores = self.settings.gateway.cores.len();
        let mut journals = Vec::new();
        let mut found = Found::default();
        for &of in &self.directories {
            let directory = of.path(&self.settings.gateway.state_dir);
            let failed = |error| EngineError::JournalDirectory { directory: directory.clone(), error };
            let mut storage =
                FsStorage::open_with_blocks_in(&directory, &self.settings.journal.blocks).map_err(failed)?;
            if self.settings.journal.durability == Durability::Memory {
                let left = storage.segments().map_err(failed)?.len();
                if left > 0 {
                    warn!("{} holds {left} segments, which the level memory does not read", directory.display());
                }
            } else if !storage.is_direct() {
                info!(
                    "{} is on a file system without O_DIRECT: commits go through the page cache, which costs a copy and a \
                     kernel worker each",
                    directory.display()
                );
            }
            let options = journal::Options::new(&self.settings.journal, CoreId(of.core), cores);
            let begun = Instant::now();
            let journal = journal::open(&mut storage, &options)
                .map_err(|error| EngineError::Journal { directory: directory.clone(), error })?;
            report(&storage, &journal, begun.elapsed(), &self.settings.gateway.file);
            found.files.extend(storage.mapped());
            let waiting = journal.origins().filter(|found| found.2 > 0).map(|found| &found.1.who);
            waiting.for_each(|who| found.add_names(who));
            let is_foreign = |key: &FoundKey| key.hashes.owner(cores as u16).0 != self.core;
            found.keys.extend(journal.found_keys().filter(is_foreign));
            journals.push(Opened { storage, journal });
        }
        Ok((journals, found))
    }

    fn drive(self, assignment: Assignment, mut opened: Vec<Opened>) -> Result<Last, EngineError> {
        let (core, cores, directories) = (self.core, self.settings.gateway.cores.len(), self.directories);
        let failed = |error| EngineError::Ring { core, error };
        let runtime = super::runtime().map_err(failed)?;
        let is_own = |key: &FoundKey| key.hashes.owner(cores as u16).0 == core;
        opened[0].journal.import_keys(assignment.keys.iter().copied().filter(is_own));
        let (storages, journals): (Vec<_>, Vec<_>) = opened.into_iter().map(|o| (o.storage, o.journal)).unzip();
        let files = storages.iter().zip(&journals).map(|(storage, journal)| JournalFiles {
            memory: journal.memory().clone(),
            directory: storage.directory().to_owned(),
            direct: storage.is_direct(),
        });
        let options = DriverOptions {
            settings: Arc::clone(&self.settings),
            core,
            ring: RingOptions::of(&self.settings),
            read_multishot: self.read_multishot,
            listeners: self.listeners,
            journals: files.collect(),
            peers: self.peers,
            ready: Some(self.ready),
            control: self.control,
            mailbox: self.mailbox,
        };
        let tls = tls_client(&self.settings);
        let mut shard = Shard::new(Setup {
            settings: self.settings,
            core: CoreId(core),
            cores: cores as u16,
            sources: assignment.sources,
            journals,
            owners: assignment.owners,
            seed: super::files::random().map_err(failed)? as u64,
            now: clock::now(),
        });
        shard.set_tls(tls);
        let shard = runtime.block_on(async { Driver::new(shard, options)?.run().await }).map_err(failed)?;
        if shard.has_given_up() {
            // It would wait for what does not end.
            std::mem::forget(runtime);
        }
        let snapshot = shard.snapshot(clock::now());
        let machines = shard.machines().collect();
        let journals = storages.into_iter().zip(shard.into_journals());
        let journals = journals.map(|(storage, journal)| Opened { storage, journal }).collect();
        Ok(Last { snapshot, machines, unwritten: close(core, cores, &directories, journals)? })
    }
}

/// Says what a start found.
fn report(storage: &FsStorage, journal: &Journal, took: Duration, file: &Path) {
    let (directory, found) = (storage.directory().display(), journal.report());
    for alarm in &found.alarms {
        error!("{directory}: {alarm}");
    }
    report_missing(journal, file);
    if found.segments > 0 {
        info!(
            epoch = found.epoch,
            clean = found.clean,
            segments = found.segments,
            recovered = found.recovered,
            parked = found.parked,
            finished_blocks = found.finished_blocks,
            torn = found.torn,
            torn_batches = found.torn_batches,
            damaged = found.damaged,
            "{directory} was read: {} MiB in {} ms",
            found.bytes >> 20,
            took.as_millis(),
        );
    }
}

/// Says what is missing: what this start has found as an error, once, what earlier ones have as a warning.
fn report_missing(journal: &Journal, file: &Path) {
    let remedy = format!("once somebody knows of it: ringest queue acknowledge {}", typed(file));
    let listed = journal.losses_shown();
    let found = usize::from(journal.report().loss.is_some());
    let (earlier, found) = listed.split_at(listed.len().saturating_sub(found));
    if let Some(words) = losses::words(found) {
        error!("{words}. What is whole is delivered; {remedy}");
    }
    if let Some(words) = losses::words(earlier) {
        warn!("not acknowledged yet: {words}; {remedy}");
    }
}

/// Closes the journals. An adopted directory that has nothing left to deliver, nor to tell, is
/// removed. One that could not be written to its end stays as a kill would leave it, for the next
/// start; what that means, in words.
fn close(
    core: u16,
    cores: usize,
    directories: &[CoreDirectory],
    journals: Vec<Opened>,
) -> Result<Vec<String>, EngineError> {
    let mut unwritten = Vec::new();
    // What the adopted ones remember of machines' keys is in the first one, if that is whole.
    let are_keys_safe = journals.first().is_some_and(|own| own.journal.is_flushed() && own.journal.has_its_keys());
    for (of, Opened { mut storage, journal }) in directories.iter().zip(journals) {
        let directory = storage.directory().to_owned();
        let adopted = of.is_adopted(cores as u16);
        let empty =
            journal.durability() != Durability::Memory && journal.unsettled() == 0 && journal.losses().next().is_none();
        let failed = |error| EngineError::JournalDirectory { directory: directory.clone(), error };
        if !journal.is_flushed() {
            let why = journal.trouble().unwrap_or_else(|| "the disk does not answer".to_owned());
            let left = match storage.mapped().is_some_and(|file| !file.is_removed()) {
                true => {
                    "is kept in its block file, and the next start takes it from there, unless the machine is restarted before"
                }
                false => "is lost, since there is no block file that could keep it",
            };
            unwritten.push(format!(
                "the journal {} could not be written to its end: {why}. What is not on disk {left}",
                directory.display()
            ));
            continue;
        }
        journal.close(&mut storage).map_err(failed)?;
        if adopted && empty && are_keys_safe {
            info!(core, "{} has nothing left to deliver and is removed", directory.display());
            storage.remove().map_err(failed)?;
        }
    }
    Ok(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::decoding::Decoding;

    #[test]
    fn who_comes_back_is_found_by_name_and_connections_that_are_over_are_not_kept() {
        let mut found = Found::default();
        for port in 1..1_000 {
            for address in ["10.0.0.1", "[::1]"] {
                let peer = format!("{address}:{port}").parse().expect("an address");
                let name = machine_name("hall", LaneKey::Connection, &BTreeMap::new(), peer);
                found.add_names(&Identity::of("hall", &name, Some(peer), Decoding::default()));
            }
            let peer = format!("10.0.0.2:{port}").parse().expect("an address");
            found.add_names(&Identity::of("hall", "press", Some(peer), Decoding::default()));
        }
        found.add_names(&Identity::new("scale", "scale"));
        let mut names: Vec<&str> = found.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["hall@10.0.0.1", "hall@10.0.0.2", "hall@::1", "press", "scale"]);
    }
}
