//! Reading the configuration again: what it changes is worked out, taken (addresses, ports) and then told to the cores, or refused
//! as a whole. It runs on the control thread; what can wait is done on threads of its own.

use super::clock;
use super::control::Request;
use super::driver::{Message, NewSettings};
use super::error::EngineError;
use super::gateway::{leave_descriptors, open_required_port};
use super::listen::{ListenError, bind_source, listens};
use super::placement::Placement;
use crate::config::{self, Change, Changes, Checked, OnMissing, Problems, Settings, Source, SourceChange, SourceKind};
use crate::observe::loaded::Loaded;
use crate::shard::{Reload, Reloaded, SourceId};
use crate::source::serial::{self, Opened};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

/// Ids that a [`SourceId`] can tell apart.
const SOURCES_MAX: usize = 1 << 16;
/// How often the files of secrets are read, to be compared.
const LOOK_AT_SECRETS: Duration = Duration::from_secs(2);
/// A core answers between two turns; one that does not is not waited for any longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A wish to have the configuration read again.
#[derive(Debug)]
pub(super) struct Wish {
    /// Who wishes it, for the log.
    pub(super) by: &'static str,
    /// Told what became of it.
    pub(super) answer: Option<oneshot::Sender<Outcome>>,
}

/// What was done, in words, or why nothing was.
pub(super) type Outcome = Result<String, Arc<ReloadError>>;

/// Why the configuration was not read again. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The settings did not come from a file.
    #[error("it was not read from a file")]
    NoFile,
    /// The gateway is about to end.
    #[error("the gateway is stopping")]
    Stopping,
    /// The file is wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
    /// Something has changed that cannot change while the gateway runs.
    #[error("these keys take effect with a restart only:{}", keys(changes))]
    NeedsRestart { changes: Vec<Change> },
    /// The places of removed sources are not free yet.
    #[error(
        "with the sources that were removed before and still have records or connections these are more than {SOURCES_MAX}: try \
         again later, or restart"
    )]
    TooManySources,
    /// An address of a new source is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A port of a new source that must be there cannot be opened.
    #[error(transparent)]
    Port(Box<EngineError>),
}

fn keys(changes: &[Change]) -> String {
    changes.iter().map(|change| format!("\n    {change}")).collect()
}

/// A place in [`Settings::sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Live,
    /// Retired by the reload of this number. The place is used again after a later one in which no core needed it: by then nothing
    /// that one core said to another about it is under way.
    Retired(u64),
    Free,
}

/// What the reloader begins with.
pub(super) struct Start {
    /// The file; none where the settings did not come from one.
    pub(super) path: Option<PathBuf>,
    /// The settings as the file has them.
    pub(super) file: Settings,
    /// The settings in force, for whoever wants to know them.
    pub(super) running: watch::Sender<Arc<Settings>>,
    pub(super) placement: Placement,
    pub(super) mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    pub(super) control: mpsc::UnboundedSender<Request>,
    pub(super) loaded: Loaded,
    /// Set once the gateway is told to stop.
    pub(super) stopping: Arc<AtomicBool>,
}

/// Whoever reads the configuration again.
pub(super) struct Reloader {
    start: Start,
    places: Vec<Place>,
    /// Counts those that were told to the cores.
    count: u64,
}

/// What is to become of the sources.
#[derive(Debug, PartialEq)]
struct Plan {
    settings: Settings,
    retired: Vec<SourceId>,
    started: Vec<SourceId>,
    adjusted: Vec<SourceId>,
}

/// What was taken for new sources.
#[derive(Debug, Default)]
struct Taken {
    /// By core.
    listeners: Vec<Vec<(SourceId, OwnedFd)>>,
    moved: Vec<(SourceId, SourceId)>,
    ports: HashMap<SourceId, Opened>,
}

impl Reloader {
    pub(super) fn new(start: Start) -> Self {
        let places = vec![Place::Live; start.file.sources.len()];
        Self { start, places, count: 0 }
    }

    /// Serves wishes, one after the other; those that come while one is served are one.
    pub(super) async fn run(mut self, mut wishes: mpsc::UnboundedReceiver<Wish>) {
        loop {
            let wish = tokio::select! {
                wish = wishes.recv() => wish,
                () = tokio::time::sleep(LOOK_AT_SECRETS) => {
                    self.look_at_secrets().await;
                    continue;
                }
            };
            let Some(first) = wish else { return };
            let mut served = vec![first];
            // What is read from now on is new enough for all of these.
            while let Ok(wish) = wishes.try_recv() {
                served.push(wish);
            }
            let by = served[0].by;
            if self.is_stopping() {
                warn!("{by}: the gateway is stopping, and the configuration is not read again");
            }
            let outcome = self.reload(by).await;
            for answer in served.into_iter().filter_map(|wish| wish.answer) {
                // Whoever asked may have gone.
                let _ = answer.send(outcome.clone());
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.start.stopping.load(Ordering::Relaxed)
    }

    async fn reload(&mut self, by: &'static str) -> Outcome {
        let outcome = self.try_reload().await.map_err(Arc::new);
        // Whoever wishes this has mended something, be it the service alone: nobody waits any longer.
        for mailbox in &self.start.mailboxes {
            let _ = mailbox.send(Message::Wake); // a core that has ended waits for nothing
        }
        match &outcome {
            Ok(done) => {
                self.start.loaded.succeed(clock::now().wall_ns);
                self.start.loaded.set_certificates(&self.start.file);
                info!("{by}: the configuration was read again: {done}");
            }
            // It is no fault of the configuration.
            Err(_) if self.is_stopping() => {}
            Err(why) => {
                self.start.loaded.fail(&why.to_string(), clock::now().wall_ns);
                error!("{by}: the configuration was not changed, the earlier one stays in force: {why}");
            }
        }
        outcome
    }

    /// Takes over what the files of secrets hold, if it is other than before: a service that has been given a new one answers 401 or 403
    /// until then. The configuration itself is not read, for nobody has said that it is whole.
    async fn look_at_secrets(&mut self) {
        let Some(secrets) = config::Secrets::of(&self.start.file).filter(|_| !self.is_stopping()) else { return };
        let read = tokio::task::spawn_blocking(move || secrets.read()).await;
        let reread = read.expect("reading does not panic");
        let fault = (!reread.faults.is_empty()).then(|| reread.faults.join("; "));
        if self.start.loaded.set_secret_fault(fault.clone()) {
            let why = fault.unwrap_or_default();
            warn!("a file of secrets cannot be used, the earlier secret stays in force: {why}");
        }
        if !reread.is_changed() {
            return;
        }
        let mut file = self.start.file.clone();
        reread.put_into(&mut file);
        match self.take_over(file).await {
            Ok(done) => info!("a file of secrets has changed: {done}"),
            Err(why) => warn!("a file of secrets has changed, and is not taken over: {why}"),
        }
    }

    async fn try_reload(&mut self) -> Result<String, ReloadError> {
        let path = self.start.path.clone().ok_or(ReloadError::NoFile)?;
        if self.is_stopping() {
            return Err(ReloadError::Stopping);
        }
        let checked = tokio::task::spawn_blocking(move || config::check_here(&path, &serial::look)).await;
        let Checked { settings: file, notes } = checked.expect("checking does not panic")?;
        for note in &notes {
            warn!("{note}");
        }
        self.take_over(file).await
    }

    /// Puts settings into force as far as they differ. What files beside the configuration hold (secrets of headers) was read with it and
    /// is compared as a part of it.
    async fn take_over(&mut self, file: Settings) -> Result<String, ReloadError> {
        let changes = Changes::between(&self.start.file, &file);
        if !changes.restart.is_empty() {
            return Err(ReloadError::NeedsRestart { changes: changes.restart });
        }
        if changes.is_empty() {
            self.start.file = file;
            // It ends with the gateway.
            let _ = self.start.control.send(Request::Acknowledge);
            return Ok("nothing has changed".to_owned());
        }
        let mut plan = self.plan(&file)?;
        leave_descriptors(&mut plan.settings);
        let (taken, plan) = self.take(plan).await?;
        if self.is_stopping() {
            return Err(ReloadError::Stopping);
        }
        let answers = self.tell(plan, taken).await;
        if self.is_stopping() || answers.iter().flatten().any(|answer| !answer.applied) {
            return Err(ReloadError::Stopping);
        }
        for (core, _) in answers.iter().enumerate().filter(|(_, answer)| answer.is_none()) {
            warn!(
                "core {core} has not answered within {ANSWER_MAX:?}; it takes the new configuration over once it can"
            );
        }
        self.start.file = file;
        if changes.keys.iter().any(|change| is_template(&change.key)) {
            let tried: u64 = answers.iter().flatten().map(|answer| answer.tried).sum();
            warn!(
                "what is posted for a record has changed: {tried} record{} tried before and not answered with success; they go out \
                 under the same keys with other content",
                if tried == 1 { " was" } else { "s were" }
            );
        }
        Ok(changes.to_string())
    }

    /// Gives every source of a new configuration its place: the one that it has, if nothing of it needs to be opened anew.
    fn plan(&self, new: &Settings) -> Result<Plan, ReloadError> {
        let mut sources = self.start.running.borrow().sources.clone();
        let live =
            || self.places.iter().enumerate().filter(|(_, place)| **place == Place::Live).map(|(index, _)| index);
        let by_name: HashMap<String, usize> = live().map(|index| (sources[index].name.clone(), index)).collect();
        let mut free: Vec<usize> =
            (0..self.places.len()).rev().filter(|index| self.places[*index] == Place::Free).collect();
        let mut kept = vec![false; sources.len()];
        let (mut started, mut adjusted) = (Vec::new(), Vec::new());
        for source in &new.sources {
            let place = by_name.get(&source.name);
            let change = place.map(|index| (*index, SourceChange::between(&sources[*index], source)));
            match change {
                Some((index, SourceChange::None)) => kept[index] = true,
                Some((index, SourceChange::Adjust)) => {
                    kept[index] = true;
                    sources[index] = source.clone();
                    adjusted.push(SourceId(index as u16));
                }
                Some((_, SourceChange::Reopen)) | None => {
                    let index = free.pop().unwrap_or(sources.len());
                    if index == sources.len() {
                        sources.push(source.clone());
                    } else {
                        sources[index] = source.clone();
                    }
                    started.push(SourceId(u16::try_from(index).map_err(|_| ReloadError::TooManySources)?));
                }
            }
        }
        let retired = live().filter(|index| !kept[*index]).map(|index| SourceId(index as u16)).collect();
        Ok(Plan { settings: Settings { sources, ..new.clone() }, retired, started, adjusted })
    }

    /// Takes addresses and ports that must be there. Each may wait for a moment.
    async fn take(&self, plan: Plan) -> Result<(Taken, Plan), ReloadError> {
        let old = Arc::clone(&self.start.running.borrow());
        let cores = self.start.mailboxes.len();
        let take = move || {
            let retired = plan.retired.iter().map(|id| (*id, &old.sources[usize::from(id.0)])).collect();
            take_new(&plan, retired, cores).map(|taken| (taken, plan))
        };
        tokio::task::spawn_blocking(take).await.expect("taking does not panic")
    }

    /// Tells everybody, and waits until all cores have it in force. The answer of each core, if it gave one.
    async fn tell(&mut self, plan: Plan, taken: Taken) -> Vec<Option<Reloaded>> {
        let Plan { settings, retired, started, adjusted } = plan;
        let settings = Arc::new(settings);
        let Taken { listeners, moved, ports } = taken;
        let request = Request::NewSettings { settings: Arc::clone(&settings), retired: retired.clone(), opened: ports };
        // Before the cores, which may ask for a new port at once. It ends with the gateway.
        let _ = self.start.control.send(request);
        let mut asked = Vec::new();
        for ((core, mailbox), listeners) in (0..).zip(&self.start.mailboxes).zip(listeners) {
            let own = |id: &&SourceId| self.start.placement.runs(core, &settings.sources[usize::from(id.0)]);
            let started = started.iter().filter(own).copied().collect();
            let (retired, adjusted) = (retired.clone(), adjusted.clone());
            let reload = Reload { settings: Arc::clone(&settings), retired, started, adjusted };
            let (answer, answered) = oneshot::channel();
            let new = NewSettings { reload, listeners, moved: moved.clone(), answer };
            // A core that has ended has no answer.
            let _ = mailbox.send(Message::Reload(Box::new(new)));
            asked.push(answered);
        }
        self.start.running.send_replace(settings);
        let mut answers = Vec::new();
        for answered in asked {
            answers.push(tokio::time::timeout(ANSWER_MAX, answered).await.ok().and_then(Result::ok));
        }
        self.settle_places(&retired, &started, &answers);
        answers
    }

    fn settle_places(&mut self, retired: &[SourceId], started: &[SourceId], answers: &[Option<Reloaded>]) {
        let in_use = |index: usize| {
            let needs = |answer: &Option<Reloaded>| {
                answer.as_ref().is_none_or(|answer| answer.in_use.iter().any(|id| usize::from(id.0) == index))
            };
            answers.iter().any(needs)
        };
        for (index, place) in self.places.iter_mut().enumerate() {
            if matches!(place, Place::Retired(_)) && !in_use(index) {
                *place = Place::Free;
            }
        }
        self.places.resize(self.start.running.borrow().sources.len(), Place::Free);
        for id in started {
            self.places[usize::from(id.0)] = Place::Live;
        }
        self.count += 1;
        for id in retired {
            self.places[usize::from(id.0)] = Place::Retired(self.count);
        }
    }
}

/// Whether a key decides what is posted for a record.
fn is_template(key: &str) -> bool {
    matches!(key, "deliver.body" | "deliver.content_type" | "sequence.url")
}

/// Takes what the new sources of a plan need. An address where a retired source listens in the same way is handed on with its
/// listener, so that no machine finds it closed.
fn take_new(plan: &Plan, retired: Vec<(SourceId, &Source)>, cores: usize) -> Result<Taken, ReloadError> {
    let mut taken = Taken { listeners: (0..cores).map(|_| Vec::new()).collect(), ..Taken::default() };
    for &id in &plan.started {
        let source = &plan.settings.sources[usize::from(id.0)];
        if let Some((address, count)) = listens(source, cores) {
            let same = retired.iter().find(|(_, old)| listens(old, cores) == Some((address, count)));
            if let Some((old, _)) = same {
                taken.moved.push((*old, id));
                continue;
            }
            let is_near = |old: &Source| listens(old, cores).is_some_and(|(other, _)| config::overlap(other, address));
            let beside = retired.iter().any(|(_, old)| is_near(old));
            let sockets = bind_source(source, cores, beside)?;
            for (core, socket) in taken.listeners.iter_mut().zip(sockets) {
                core.push((id, socket));
            }
        }
        if let SourceKind::Serial(port) = &source.kind
            && port.on_missing == OnMissing::Fail
        {
            // What this process itself still reads cannot be tried.
            let is_held = |old: &Source| matches!(&old.kind, SourceKind::Serial(other) if other.path == port.path);
            if !retired.iter().any(|(_, old)| is_held(old)) {
                let opened =
                    open_required_port(&source.name, port).map_err(|error| ReloadError::Port(Box::new(error)))?;
                taken.ports.insert(id, opened);
            }
        }
    }
    Ok(taken)
}
