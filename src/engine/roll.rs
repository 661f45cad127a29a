//! The machines of all cores, kept on the control thread: cores tell of those that have changed, and a file in the state
//! directory remembers them across restarts.

use super::clock;
use super::driver::Message;
use crate::observe::machine::MachineState;
use crate::observe::machines::Roll;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// The file in the state directory: a JSON object a line.
const FILE: &str = "machines";
/// Machines that a core copies at once: what machines send waits meanwhile.
const MOST: usize = 500;
/// How often cores are asked though nobody looks, and at most where many do.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often what has changed is written down; of more machines more rarely.
const WRITE_EVERY: Duration = Duration::from_secs(60);
const MACHINES_A_WRITE: usize = 10_000;
/// What a core has not told within this time is told at the next look.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The machines of a gateway.
#[derive(Debug)]
pub struct MachineRoll {
    roll: Mutex<Roll>,
    /// When the cores were last asked. Held while they are: one asks for all.
    looked: Mutex<Option<Instant>>,
    mailboxes: Vec<mpsc::UnboundedSender<Message>>,
    file: PathBuf,
}

impl MachineRoll {
    /// With those that an earlier gateway has written down in its state directory.
    pub(super) fn open(state_dir: &Path, mailboxes: Vec<mpsc::UnboundedSender<Message>>) -> Self {
        let (file, mut roll) = (state_dir.join(FILE), Roll::default());
        match fs::read_to_string(&file) {
            Ok(text) => roll.read(&text),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn!("{}: {error}; what machines have sent before is not known", file.display()),
        }
        Self { roll: Mutex::new(roll), looked: Mutex::new(None), mailboxes, file }
    }

    /// The machines as they are now. A core that is busy has told less.
    pub(super) async fn look(self: &Arc<Self>) -> MutexGuard<'_, Roll> {
        let roll = Arc::clone(self);
        // Whoever looks may go away; what a core has told is taken all the same.
        let _ = tokio::spawn(async move { roll.ask().await }).await;
        self.roll.lock().await
    }

    async fn ask(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return;
        }
        let until = Instant::now() + ANSWER_TIMEOUT;
        let mut open: Vec<_> = self.mailboxes.iter().enumerate().collect();
        while !open.is_empty() && Instant::now() < until {
            let mut asked = Vec::new();
            for (core, mailbox) in open {
                let (answer, answered) = oneshot::channel();
                // A core that has ended says all at its end.
                if mailbox.send(Message::Machines { most: MOST, answer }).is_ok() {
                    asked.push((core, mailbox, answered));
                }
            }
            open = Vec::new();
            for (core, mailbox, answered) in asked {
                let Ok(Ok((states, has_more))) = timeout_at(until, answered).await else { continue };
                self.roll.lock().await.update(core as u16, states, clock::now().wall_ns);
                if has_more {
                    open.push((core, mailbox));
                }
            }
        }
        self.roll.lock().await.mark(clock::now().wall_ns);
        *looked = Some(Instant::now());
    }

    /// Looks now and then, and writes down what has changed, until `stopped`.
    pub(super) async fn run(self: Arc<Self>, mut stopped: oneshot::Receiver<()>) {
        let mut waited = Duration::ZERO;
        while tokio::time::timeout(LOOK_EVERY, &mut stopped).await.is_err() {
            waited += LOOK_EVERY;
            let machines = self.look().await.len();
            if waited >= WRITE_EVERY * (machines / MACHINES_A_WRITE + 1) as u32 {
                waited = Duration::ZERO;
                self.write().await;
            }
        }
    }

    /// What a core has told at its end.
    pub(super) async fn end(&self, core: u16, states: Vec<MachineState>) {
        self.roll.lock().await.update(core, states, clock::now().wall_ns);
    }

    /// Writes down what has changed.
    pub(super) async fn write(&self) {
        let Some(text) = self.roll.lock().await.write() else { return };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || replace(&file, &text)).await;
        if let Ok(Err(error)) = written {
            self.roll.lock().await.write_again();
            warn!("{}: {error}; the next start does not know what machines have sent since", self.file.display());
        }
    }
}

/// The new text, or the old one if this is cut short.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(new, path)
}
