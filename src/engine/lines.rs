//! What the drivers of open serial ports count. The control thread looks at them now and then, and whenever somebody asks;
//! no core is asked for anything.
//!
//! Each open port is watched through a duplicate of its descriptor. A port stays open, and locked, until its last descriptor
//! is closed: so the duplicate goes first, in [`Lines::closing`].

use super::adapters::Adapters;
use crate::ground::count::{DriverCounts, LineCounts};
use crate::observe::snapshot::Snapshot;
use crate::shard::LinkId;
use crate::source::serial::driver_counts;
use nix::errno::Errno;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tracing::{debug, warn};

/// The counts of all serial sources, by their names.
#[derive(Debug, Default)]
pub struct Lines {
    open: HashMap<Owner, OpenLine>,
    sums: HashMap<Arc<str>, LineCounts>,
    /// Sources whose driver keeps no counts, and of which that was said.
    without: HashSet<String>,
    /// Which adapters the ports are on.
    pub(super) adapters: Adapters,
}

/// The core that a port was opened for, and its link there.
type Owner = (u16, LinkId);

#[derive(Debug)]
struct OpenLine {
    source: Arc<str>,
    port: OwnedFd,
    last: DriverCounts,
}

impl Lines {
    /// No port is open yet; `adapters` are those of earlier.
    pub fn new(adapters: Adapters) -> Self {
        Self { adapters, ..Self::default() }
    }

    /// An operator has looked at what is told of the ports.
    pub fn acknowledge(&mut self) {
        self.adapters.acknowledge();
    }

    /// A port was opened for a core's link: what its driver counts from now on belongs to the source of this name.
    pub fn opened(&mut self, core: u16, link: LinkId, name: &str, port: BorrowedFd<'_>) {
        match driver_counts(port) {
            Ok(last) => {
                let source: Arc<str> = name.into();
                self.sums.entry(Arc::clone(&source)).or_default();
                match port.try_clone_to_owned() {
                    Ok(port) => drop(self.open.insert((core, link), OpenLine { source, port, last })),
                    Err(error) => warn!(source = name, "its line's errors are not counted: {error}"),
                }
            }
            Err(errno) => {
                if self.without.insert(name.to_owned()) {
                    debug!(source = name, "the driver keeps no counts of this line: {}", errno.desc());
                }
            }
        }
    }

    /// A core's port is about to be closed: its driver is asked once more.
    pub fn closing(&mut self, core: u16, link: LinkId) {
        if let Some(mut line) = self.open.remove(&(core, link)) {
            line.look(&mut self.sums);
        }
    }

    /// Asks all drivers. One ioctl a port, none of which waits.
    pub fn look_at_all(&mut self) {
        for line in self.open.values_mut() {
            line.look(&mut self.sums);
        }
    }

    /// The sums of a source, if its driver counts.
    pub fn of(&self, source: &str) -> Option<LineCounts> {
        self.sums.get(source).copied()
    }

    /// Adds the sums, and adapters that are not those of before, to what the cores show of their serial sources.
    pub fn show(&self, snapshots: &mut [Snapshot]) {
        for shown in snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.sources) {
            if let Some(line) = &mut shown.line {
                line.driver = self.of(&shown.name);
            }
        }
        self.adapters.show(snapshots);
    }
}

impl OpenLine {
    fn look(&mut self, sums: &mut HashMap<Arc<str>, LineCounts>) {
        match driver_counts(self.port.as_fd()) {
            Ok(counts) => {
                sums.entry(Arc::clone(&self.source)).or_default().add(&self.last, &counts);
                self.last = counts;
            }
            // Unplugged; the core notices, too, and has the port closed.
            Err(Errno::EIO | Errno::ENODEV) => {}
            Err(errno) => debug!("source {}: the driver's counts: {}", self.source, errno.desc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::{LineSnapshot, SourceSnapshot};

    const LINK: LinkId = LinkId { index: 7, generation: 1 };

    #[test]
    fn a_port_without_counts_is_let_go_at_once_and_shows_none() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut lines = Lines::default();
        for _ in 0..2 {
            lines.opened(0, LINK, "a", pty.slave.as_fd());
        }
        assert!(lines.open.is_empty());
        assert_eq!(lines.without.len(), 1);
        lines.look_at_all();
        lines.closing(0, LINK);
        assert_eq!(lines.of("a"), None);
    }

    #[test]
    fn counts_outlive_the_port_and_are_shown_on_its_source_alone() {
        let counts = LineCounts { breaks: 2, ..LineCounts::default() };
        let lines = Lines { sums: [("a".into(), counts)].into(), ..Lines::default() };
        let source = |name: &str, line| SourceSnapshot { name: name.to_owned(), line, ..SourceSnapshot::default() };
        let line = Some(LineSnapshot { breaks: 1, errors: 0, driver: None });
        let sources = vec![source("a", line), source("b", line), source("c", None)];
        let mut snapshots = [Snapshot { sources, ..Snapshot::default() }];
        lines.show(&mut snapshots);
        let shown: Vec<_> = snapshots[0].sources.iter().map(|source| source.line.map(|line| line.driver)).collect();
        assert_eq!(shown, [Some(Some(counts)), Some(None), None]);
    }
}
