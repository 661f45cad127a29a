//! The histogram log's intervals: the control thread asks the cores for their histograms and has the difference written.
//!
//! Nothing of it runs on a core but one copy of the histograms an interval, between two turns. The file is written on a thread that
//! may wait, so that a disk that hangs holds up the log alone.

use super::driver::Message;
use crate::ground::count::StageHistograms;
use crate::observe::histlog::{HistogramLog, HistogramLogError};
use crate::observe::snapshot::Snapshot;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// How long a core may take to answer; its last histograms count until it does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last interval may take to be written.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The task that writes intervals.
pub(super) struct Histograms {
    finish: oneshot::Sender<Vec<(u16, StageHistograms)>>,
    task: JoinHandle<()>,
}

impl Histograms {
    /// Writes an interval `every` so often. Must be called in a tokio runtime.
    pub(super) fn start(log: HistogramLog, every: Duration, mailboxes: Vec<mpsc::UnboundedSender<Message>>) -> Self {
        let (finish, finished) = oneshot::channel();
        let latest = vec![StageHistograms::default(); mailboxes.len()];
        let writer = Writer { log: Some(log), mailboxes, latest, is_failing: false };
        Self { finish, task: tokio::spawn(writer.run(every, finished)) }
    }

    /// Writes the last interval, up to the cores' last snapshots.
    pub(super) async fn finish(self, last: impl Iterator<Item = &Snapshot>) {
        // It ends by this word alone.
        let _ = self.finish.send(last.map(|snapshot| (snapshot.core, snapshot.stages.clone())).collect());
        if tokio::time::timeout(FINISH_TIMEOUT, self.task).await.is_err() {
            warn!("the last interval of the histogram log is not written: its disk does not answer");
        }
    }
}

struct Writer {
    /// `None` while it is with the thread that writes.
    log: Option<HistogramLog>,
    mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    /// What each core has said last.
    latest: Vec<StageHistograms>,
    is_failing: bool,
}

impl Writer {
    async fn run(mut self, every: Duration, mut finished: oneshot::Receiver<Vec<(u16, StageHistograms)>>) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.ask().await;
                    self.write().await;
                }
                last = &mut finished => {
                    for (core, stages) in last.into_iter().flatten() {
                        self.latest[usize::from(core)] = stages;
                    }
                    return self.write().await;
                }
            }
        }
    }

    /// Asks all cores at once.
    async fn ask(&mut self) {
        let asked = self.mailboxes.iter().map(|mailbox| {
            let (answer, answered) = oneshot::channel();
            mailbox.send(Message::Stages(answer)).ok().map(|()| answered)
        });
        let asked: Vec<_> = asked.collect();
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        for (latest, answered) in self.latest.iter_mut().zip(asked) {
            if let Some(answered) = answered
                && let Ok(Ok(stages)) = tokio::time::timeout_at(deadline, answered).await
            {
                *latest = stages;
            }
        }
    }

    async fn write(&mut self) {
        let at = Instant::now();
        let mut all = StageHistograms::default();
        self.latest.iter().for_each(|stages| all.add(stages));
        let mut log = self.log.take().expect("it comes back from each write");
        let written = tokio::task::spawn_blocking(move || {
            let result = log.write(at, &all);
            (log, result)
        });
        let (log, result) = written.await.expect("writing does not panic");
        self.tell(&log, result);
        self.log = Some(log);
    }

    /// Says once that it fails, and once that it does no more.
    fn tell(&mut self, log: &HistogramLog, result: Result<(), HistogramLogError>) {
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    info!("the histogram log {} is written again; nothing is missing in it", log.path().display());
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!("{error}; the gateway goes on, and the next interval that can be written holds this one");
                }
            }
        }
    }
}
