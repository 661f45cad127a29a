//! Which USB adapter each serial source was opened on last. Adapters with equal serial numbers share a by-id name: when another one
//! takes a name over, its machine's records would go under the name of the machine before.
//!
//! What was found is kept in a file in the state directory, so that a change while the gateway was down is told, too. A change is a
//! warning, and a problem of its source until the configuration is read again or the gateway restarted: by then an operator has seen
//! it.

use crate::observe::snapshot::Snapshot;
use crate::source::serial::Adapter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tracing::warn;

/// The file in the state directory.
const FILE: &str = "adapters.json";

/// The adapters of all serial sources, by the sources' names.
#[derive(Debug, Default)]
pub struct Adapters {
    known: BTreeMap<String, Known>,
    /// What is not acknowledged yet, in words.
    changed: BTreeMap<String, String>,
    /// Where `known` is kept; nowhere in a test.
    file: Option<PathBuf>,
    /// That the file cannot be written was said.
    is_told: bool,
}

/// On which adapter a path led to a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    adapter: Adapter,
}

impl Adapters {
    /// Those that an earlier gateway has written down in its state directory.
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let known = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!("{}: {error}; which USB adapters were there before is not known", file.display());
                BTreeMap::new()
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                warn!("{}: {error}; which USB adapters were there before is not known", file.display());
                BTreeMap::new()
            }
        };
        Self { known, changed: BTreeMap::new(), file: Some(file), is_told: false }
    }

    /// A source's port was opened by this path, on this adapter.
    pub fn opened(&mut self, source: &str, path: &Path, adapter: &Adapter) {
        let path_shown = path.display();
        let now = Known { path: path.to_owned(), adapter: adapter.clone() };
        let before = self.known.insert(source.to_owned(), now.clone());
        if before.as_ref() == Some(&now) {
            return;
        }
        // Another path leads to another port because somebody wrote so.
        if let Some(before) = before.filter(|before| before.path == now.path) {
            let words = format!(
                "{path_shown} is another USB adapter than before: {adapter}, and it was {}: see that it is the machine of this \
                 source; a reload (SIGHUP) or a restart acknowledges it",
                before.adapter
            );
            warn!("source {source}: {words}");
            self.changed.insert(source.to_owned(), words);
        }
        self.write();
    }

    /// An operator has seen it.
    pub fn acknowledge(&mut self) {
        self.changed.clear();
    }

    /// Adds what is not acknowledged to the problems that the cores show of their sources.
    pub fn show(&self, snapshots: &mut [Snapshot]) {
        for shown in snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.sources) {
            let Some(words) = self.changed.get(&shown.name).filter(|_| shown.line.is_some()) else { continue };
            shown.problem = Some(match shown.problem.take() {
                Some(other) => format!("{other}; {words}"),
                None => words.clone(),
            });
        }
    }

    /// A new file takes the name of the old one: some hundred bytes a port.
    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        let fresh = file.with_extension("json.new");
        let text = serde_json::to_vec_pretty(&self.known).expect("names and text");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file));
        self.tell(written);
    }

    fn tell(&mut self, written: io::Result<()>) {
        match written {
            Err(error) if !std::mem::replace(&mut self.is_told, true) => {
                warn!("which USB adapters are there is not kept for the next start: {error}");
            }
            Err(_) => {}
            Ok(()) => self.is_told = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::{LineSnapshot, SourceSnapshot};

    fn adapter(port: &str) -> Adapter {
        Adapter {
            vendor_id: "0403".to_owned(),
            product_id: "6001".to_owned(),
            serial: Some("A5XK3RJT".to_owned()),
            port: port.to_owned(),
        }
    }

    fn problem(adapters: &Adapters) -> Option<String> {
        let line = Some(LineSnapshot { breaks: 0, errors: 0, driver: None });
        let sources =
            ["gauge", "scale"].map(|name| SourceSnapshot { name: name.to_owned(), line, ..Default::default() });
        let mut snapshots = [Snapshot { sources: sources.to_vec(), ..Snapshot::default() }];
        adapters.show(&mut snapshots);
        assert_eq!(snapshots[0].sources[1].problem, None);
        snapshots[0].sources[0].problem.take()
    }

    #[test]
    fn another_adapter_at_a_path_is_a_problem_until_it_is_acknowledged_also_across_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = Path::new("/dev/serial/by-id/usb-FTDI_A5XK3RJT-if00-port0");
        let mut adapters = Adapters::open(directory.path());
        adapters.opened("gauge", path, &adapter("1-1.4:1.0"));
        adapters.opened("gauge", path, &adapter("1-1.4:1.0"));
        assert_eq!(problem(&adapters), None, "the first one, and the same one");
        adapters.opened("gauge", path, &adapter("1-1.3:1.0"));
        let words = problem(&adapters).expect("another one");
        for part in ["0403:6001", "A5XK3RJT", "1-1.3:1.0", "1-1.4:1.0", "SIGHUP"] {
            assert!(words.contains(part), "{part} in {words}");
        }
        adapters.opened("gauge", path, &adapter("1-1.3:1.0"));
        assert!(problem(&adapters).is_some(), "opened again is not acknowledged");
        adapters.acknowledge();
        assert_eq!(problem(&adapters), None);
        // A restart acknowledges, too, and knows what was there.
        adapters.opened("gauge", path, &adapter("1-1.2:1.0"));
        let mut adapters = Adapters::open(directory.path());
        assert_eq!(problem(&adapters), None);
        adapters.opened("gauge", path, &adapter("1-1.2:1.0"));
        assert_eq!(problem(&adapters), None);
        adapters.opened("gauge", path, &adapter("1-1.1:1.0"));
        assert!(problem(&adapters).is_some());
    }

    #[test]
    fn another_path_is_no_change_and_a_damaged_file_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(FILE), "[1").expect("written");
        let mut adapters = Adapters::open(directory.path());
        adapters.opened("gauge", Path::new("/dev/ttyUSB0"), &adapter("1-1.4:1.0"));
        adapters.opened("gauge", Path::new("/dev/ttyUSB1"), &adapter("1-1.3:1.0"));
        assert_eq!(problem(&adapters), None);
        assert!(Adapters::open(directory.path()).known.contains_key("gauge"), "written anew");
    }
}
