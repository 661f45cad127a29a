//! Which core runs which sources: at the start, and for sources that come later.

use super::core::{Assignment, Found};
use crate::config::{Settings, Source, SourceKind};
use crate::journal::FoundKey;
use crate::shard::{CoreId, SourceId};
use std::collections::HashMap;
use std::sync::Arc;

/// Listeners run on all cores; a port or an outgoing connection belongs to the core that holds its unsettled records, or that had
/// it before, and the others are dealt out in turn.
#[derive(Debug)]
pub(super) struct Placement {
    cores: u16,
    /// The core of each who has unsettled records from before the start, by the names by which they come back.
    owners: Arc<HashMap<String, CoreId>>,
    /// Machines' keys that lie in other directories than those of their cores.
    keys: Arc<[FoundKey]>,
    /// The core of each port and outgoing connection that there is or was, by its name.
    placed: HashMap<String, u16>,
    next: u16,
}

impl Placement {
    /// Of what each core has found; at least one core.
    pub(super) fn new(found: Vec<Found>) -> Self {
        let cores = found.len() as u16;
        let (mut owners, mut keys) = (HashMap::new(), Vec::new());
        for (core, found) in found.into_iter().enumerate() {
            keys.extend(found.keys);
            for name in found.names {
                owners.entry(name).or_insert(CoreId(core as u16));
            }
        }
        Self { cores, owners: Arc::new(owners), keys: keys.into(), placed: HashMap::new(), next: 0 }
    }

    /// Whether a core runs a source.
    pub(super) fn runs(&mut self, core: u16, source: &Source) -> bool {
        match source.kind {
            SourceKind::TcpListen { .. } | SourceKind::Http { .. } => true,
            SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => self.core_of(&source.name) == core,
        }
    }

    fn core_of(&mut self, name: &str) -> u16 {
        if let Some(core) = self.placed.get(name) {
            return *core;
        }
        let owner = self.owners.get(name).map(|owner| owner.0);
        let core = owner.unwrap_or_else(|| {
            let core = self.next;
            self.next = (core + 1) % self.cores;
            core
        });
        self.placed.insert(name.to_owned(), core);
        core
    }

    /// What each core runs from the start.
    pub(super) fn assign(&mut self, settings: &Settings) -> Vec<Assignment> {
        let cores = 0..self.cores;
        let assigned = cores.map(|core| {
            let own = settings.sources.iter().enumerate().filter(|(_, source)| self.runs(core, source));
            let sources = own.map(|(index, _)| SourceId(index as u16)).collect();
            Assignment { sources, owners: Arc::clone(&self.owners), keys: Arc::clone(&self.keys) }
        });
        assigned.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::collections::HashSet;

    fn settings(names: [&str; 4]) -> Settings {
        let [a, b, c, d] = names;
        let text = format!(
            r#"
            [[source]]
            name = "{a}"
            kind = "serial"
            path = "/dev/ttyS0"
            [[source]]
            name = "{b}"
            kind = "tcp_listen"
            listen = "127.0.0.1:4001"
            [[source]]
            name = "{c}"
            kind = "tcp_connect"
            connect = "127.0.0.1:4002"
            [[source]]
            name = "{d}"
            kind = "serial"
            path = "/dev/ttyS1"
            [deliver]
            url = "http://127.0.0.1:8000/films/"
            body = "{{{{data}}}}"
            content_type = "text/plain"
            "#
        );
        config::parse(&text, "test").expect("a valid configuration")
    }

    fn nothing(cores: usize) -> Vec<Found> {
        (0..cores).map(|_| Found::default()).collect()
    }

    fn sources(assignments: &[Assignment]) -> Vec<Vec<u16>> {
        assignments.iter().map(|core| core.sources.iter().map(|source| source.0).collect()).collect()
    }

    #[test]
    fn ports_are_dealt_out_and_listeners_run_everywhere() {
        let settings = settings(["a", "b", "c", "d"]);
        assert_eq!(sources(&Placement::new(nothing(1)).assign(&settings)), [[0, 1, 2, 3]]);
        assert_eq!(sources(&Placement::new(nothing(2)).assign(&settings)), [vec![0, 1, 3], vec![1, 2]]);
    }

    #[test]
    fn a_source_stays_with_the_core_that_holds_its_records() {
        let mut found = nothing(2);
        found[0].names = HashSet::from(["c".to_owned()]);
        found[1].names = HashSet::from(["a".to_owned(), "b@127.0.0.1".to_owned()]);
        let assignments = Placement::new(found).assign(&settings(["a", "b", "c", "d"]));
        assert_eq!(sources(&assignments), [vec![1, 2, 3], vec![0, 1]]);
        assert_eq!(assignments[0].owners.get("b@127.0.0.1"), Some(&CoreId(1)));
    }

    #[test]
    fn what_comes_later_is_dealt_out_on_and_what_comes_back_goes_where_it_was() {
        let mut placement = Placement::new(nothing(2));
        placement.assign(&settings(["a", "b", "c", "d"]));
        let later = settings(["e", "b", "c", "f"]);
        let cores = |placement: &mut Placement, index: usize| {
            (0..2).filter(|core| placement.runs(*core, &later.sources[index])).collect::<Vec<u16>>()
        };
        assert_eq!(cores(&mut placement, 3), [1], "after a, c and d");
        assert_eq!(cores(&mut placement, 0), [0]);
        assert_eq!(cores(&mut placement, 1), [0, 1]);
        assert_eq!(cores(&mut placement, 2), [1], "as before");
    }
}
