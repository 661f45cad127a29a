//! What operators decide about parked records, and that they know what is missing: told to the cores of a running gateway, or left in
//! a file for the next start. Nothing but a gateway's own cores ever writes a journal.

use super::driver::Message;
use crate::ground::RecordName;
use crate::ground::text::counted;
use crate::observe::losses::{Acknowledged, LossNews, LossSnapshot};
use crate::observe::snapshot::ParkedList;
use crate::shard::{Disposal, Selection};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

/// How often it is looked whether the cores have done what was left.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// As often where somebody waits for it.
const LOOK_AT_ONCE: Duration = Duration::from_millis(5);

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Decision {
    /// About parked records.
    Parked {
        /// Whether they are delivered after all, or deleted.
        decision: Disposal,
        /// Their names, CORE-NUMBER.
        records: Vec<String>,
    },
    /// What is missing is known.
    Missing {
        /// The losses that the operator has seen. One that only the next start finds is not among them.
        acknowledge: Vec<LossSnapshot>,
    },
    /// Records that were missing are there again.
    Returned {
        /// The core whose they are.
        core: u16,
        /// Their first numbers, and those behind the last.
        returned: Vec<(u64, u64)>,
        /// The losses as they were told before: one that shrank since has been told already.
        losses: Vec<LossSnapshot>,
    },
}

fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("decisions")
}

/// Leaves a decision for the next start, durably. The caller holds the lock of the state directory.
///
/// # Errors
/// Those of the file.
pub fn leave_decision(state_directory: &Path, decision: &Decision) -> io::Result<()> {
    let mut line = serde_json::to_vec(decision).map_err(io::Error::other)?;
    line.push(b'\n');
    let path = path(state_directory);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    // A kill may have cut the last one short: a line of its own is skipped alone.
    if file.metadata()?.len() > 0 {
        file.write_all(b"\n")?;
    }
    file.write_all(&line)?;
    file.sync_all()?;
    File::open(state_directory)?.sync_all()
}

/// What was left for the next start, in its order.
///
/// # Errors
/// Those of the file.
pub fn decisions_left(state_directory: &Path) -> io::Result<Vec<Decision>> {
    let bytes = match fs::read(path(state_directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The cores, asked about what is parked and told what was decided.
#[derive(Debug, Clone)]
pub(super) struct AskedCores {
    pub(super) mailboxes: Vec<mpsc::UnboundedSender<Message>>,
}

impl AskedCores {
    /// The answers, and whether all cores gave one.
    async fn ask<T>(&self, message: impl Fn(oneshot::Sender<T>) -> Message) -> (Vec<T>, bool) {
        let mut asked = Vec::new();
        for mailbox in &self.mailboxes {
            let (answer, answered) = oneshot::channel();
            if mailbox.send(message(answer)).is_ok() {
                asked.push(answered);
            }
        }
        let mut answers = Vec::new();
        for answered in asked {
            answers.extend(answered.await);
        }
        let all = answers.len() == self.mailboxes.len();
        (answers, all)
    }

    /// Has all that waits for the service tried at once.
    pub(super) fn wake(&self) {
        for mailbox in &self.mailboxes {
            let _ = mailbox.send(Message::Wake); // a core that has ended waits for nothing
        }
    }

    pub(super) async fn list(&self, limit: usize) -> ParkedList {
        let (lists, answered) = self.ask(|answer| Message::Parked { limit, answer }).await;
        // What a core that has ended has not done is still to be done.
        let mut all = ParkedList { is_disposing: !answered, is_acknowledging: !answered, ..ParkedList::default() };
        lists.into_iter().for_each(|list| all.add(list));
        all.first.truncate(limit);
        all
    }

    pub(super) async fn dispose(&self, disposal: Disposal, of: Selection) -> u64 {
        self.ask(|answer| Message::Dispose { disposal, of: of.clone(), answer }).await.0.into_iter().sum()
    }

    /// Tells the cores that what is missing is known: all of it. Done once that is durable.
    pub(super) async fn acknowledge(&self, by: &str) -> Acknowledged {
        let all = self.tell(LossNews::All, by).await;
        while all.losses > 0 && self.list(0).await.is_acknowledging {
            tokio::time::sleep(LOOK_AT_ONCE).await;
        }
        all
    }

    /// Tells the cores what is known of losses.
    async fn tell(&self, news: LossNews, by: &str) -> Acknowledged {
        let (answers, _) = self.ask(|answer| Message::Acknowledge { news: news.clone(), answer }).await;
        let mut all = Acknowledged::default();
        answers.into_iter().for_each(|acknowledged| all.add(acknowledged));
        match news {
            LossNews::Returned { .. } if all.records > 0 => info!("{} came back ({by})", all.words()),
            LossNews::All | LossNews::Seen(_) if all.losses > 0 => {
                info!("{}: acknowledged by an operator ({by})", all.words());
            }
            _ => {}
        }
        all
    }

    /// Does what was decided while no gateway ran. The file goes when the cores have written it down: a kill before that makes it
    /// be done again, which changes nothing.
    pub(super) async fn do_what_was_left(self, state_directory: PathBuf) {
        let left = match decisions_left(&state_directory) {
            Ok(left) => left,
            Err(problem) => {
                let path = path(&state_directory);
                return error!("{}: what was decided while no gateway ran cannot be read: {problem}", path.display());
            }
        };
        if left.is_empty() {
            return;
        }
        for decision in left {
            match decision {
                Decision::Parked { decision, records } => {
                    let records: Vec<RecordName> = records.iter().filter_map(|name| RecordName::parse(name)).collect();
                    let chosen = Selection { records: Some(records), ..Selection::default() };
                    let count = self.dispose(decision, chosen).await;
                    info!("{}: {}", counted(count, "parked record"), decision.words());
                }
                Decision::Missing { acknowledge } => {
                    self.tell(LossNews::Seen(acknowledge), "ringest queue acknowledge, before this start").await;
                }
                Decision::Returned { core, returned, losses } => {
                    let news = LossNews::Returned { core, records: returned, losses };
                    self.tell(news, "ringest queue verify --reread, before this start").await;
                }
            }
        }
        loop {
            let list = self.list(0).await;
            if !list.is_disposing && !list.is_acknowledging {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let Err(problem) = fs::remove_file(path(&state_directory)) {
            let path = path(&state_directory);
            error!("{}: cannot be removed, and is obeyed again at the next start: {problem}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_read_in_the_order_in_which_they_were_left_and_a_line_cut_short_is_skipped() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(decisions_left(directory.path()).expect("none"), []);
        let first = Decision::Parked { decision: Disposal::Retry, records: vec!["0-5".into(), "1-7".into()] };
        let second = Decision::Parked { decision: Disposal::Discard, records: vec!["0-5".into()] };
        leave_decision(directory.path(), &first).expect("left");
        let mut file = OpenOptions::new().append(true).open(path(directory.path())).expect("opened");
        file.write_all(b"{\"decision\":\"disc").expect("written");
        leave_decision(directory.path(), &second).expect("left");
        let loss = LossSnapshot { found_wall_ns: 0, core: 1, first: Some(7), last: Some(9), records: 2, exact: true };
        let third = Decision::Missing { acknowledge: vec![loss] };
        leave_decision(directory.path(), &third).expect("left");
        let fourth = Decision::Returned { core: 1, returned: vec![(7, 9), (12, 13)], losses: Vec::new() };
        leave_decision(directory.path(), &fourth).expect("left");
        assert_eq!(decisions_left(directory.path()).expect("read"), [first, second, third, fourth]);
    }

    #[test]
    fn a_decision_of_an_earlier_version_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(path(directory.path()), "{\"decision\":\"retry\",\"records\":[\"0-5\"]}\n").expect("written");
        let expected = Decision::Parked { decision: Disposal::Retry, records: vec!["0-5".into()] };
        assert_eq!(decisions_left(directory.path()).expect("read"), [expected]);
    }
}
