//! Whether the block files in use still have their names. Who removes one takes what a kill would leave: so it is said while the
//! gateway runs and nothing is lost yet.

use super::MappedFile;
use crate::config::Durability;
use crate::engine::control::locked;
use crate::observe::snapshot::Snapshot;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::error;

/// How often all of them are looked at: one fstat(2) each, which waits for no disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The block files of all cores.
#[derive(Debug)]
pub(in crate::engine) struct BlockWatch {
    durability: Durability,
    files: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    core: u16,
    file: Arc<MappedFile>,
    /// In words, once it is gone.
    lost: Option<String>,
}

impl BlockWatch {
    /// The files that cores of a gateway use, and its level.
    pub(in crate::engine) fn new(durability: Durability, files: Vec<(u16, Arc<MappedFile>)>) -> Self {
        let files = files.into_iter().map(|(core, file)| Watched { core, file, lost: None }).collect();
        Self { durability, files: Mutex::new(files) }
    }

    /// Looks at all, for ever.
    pub(in crate::engine) async fn run(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        for watched in &mut *locked(&self.files) {
            if watched.lost.is_none() && watched.file.is_removed() {
                let text = words(self.durability, &watched.file);
                error!("core {}: {text}", watched.core);
                watched.lost = Some(text);
            }
        }
    }

    /// Puts what is gone into what the cores show.
    pub(in crate::engine) fn show(&self, snapshots: &mut [Snapshot]) {
        for watched in &*locked(&self.files) {
            let shown = snapshots.iter_mut().find(|snapshot| snapshot.core == watched.core);
            if let Some(shown) = shown.filter(|_| watched.lost.is_some()) {
                shown.journal.block_file_lost.clone_from(&watched.lost);
            }
        }
    }
}

fn words(durability: Durability, file: &MappedFile) -> String {
    let costs = match durability {
        Durability::Process => "what was answered 201 and is not on disk yet",
        Durability::Memory | Durability::Power => "what was received and is not on disk yet",
    };
    format!(
        "somebody has removed the block file {}: a kill now costs {costs}. Stop the gateway in order and start it again, which \
         loses nothing. To keep it from happening again: RemoveIPC=no in /etc/systemd/logind.conf, or journal.blocks = a directory \
         that nobody cleans up",
        file.path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::blocks::BlockFiles;

    #[test]
    fn a_block_file_that_somebody_removes_is_a_problem_of_its_core() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = BlockFiles::new(directory.path(), directory.path());
        let _memory = files.create("blocks", 8192).expect("made");
        let watch = BlockWatch::new(Durability::Process, vec![(1, files.mapped().expect("a file"))]);
        let shown = || {
            let mut snapshots = [0, 1].map(|core| Snapshot { core, ..Snapshot::default() });
            watch.show(&mut snapshots);
            snapshots.map(|snapshot| snapshot.journal.block_file_lost)
        };
        watch.look();
        assert_eq!(shown(), [None, None]);
        std::fs::remove_file(directory.path().join("blocks")).expect("removed");
        watch.look();
        let [other, own] = shown();
        let text = own.expect("it is gone");
        assert!(other.is_none() && text.contains("answered 201") && text.contains("journal.blocks"), "{text}");
    }
}
