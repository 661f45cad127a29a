//! What a shard shows of itself.

use super::link::State;
use super::{ApiId, Now, Shard, SourceId};
use crate::config::SourceKind;
use crate::observe::snapshot::{
    JournalSnapshot, LineSnapshot, RouteSnapshot, Snapshot, SourceSnapshot, StageHistograms, Terms,
};

fn seconds_since(now: Now, then_ns: u64) -> f64 {
    now.mono_ns.saturating_sub(then_ns) as f64 / 1e9
}

impl Shard {
    /// The identity's terms alone, which cost next to nothing; call it between two turns.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// The histograms alone, whose copy costs the same however many machines there are; call it between two turns.
    pub fn stages(&self) -> &StageHistograms {
        &self.stages
    }

    /// Everything at this moment; call it between two turns.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let mut journal = JournalSnapshot::default();
        for state in &self.journals {
            state.journal.snapshot(now, &mut journal);
        }
        let in_memory: u64 = self.lanes.iter().map(|(_, lane)| lane.queue.len() as u64).sum();
        journal.behind = self.terms.pending - in_memory;
        if journal.problem.is_none() && !self.paused_links.is_empty() {
            journal.problem = self.journals[0].journal.why_paused(now);
        }
        let mut held = vec![0; self.sources.len()];
        for link in self.paused_links.iter().filter_map(|id| self.links.get(*id)) {
            if let State::Stream(stream) = &link.state
                && let Some(index) = self.source_index[stream.source.0 as usize]
            {
                held[index] += stream.held.iter().map(|held| held.bytes.len() as u64).sum::<u64>();
            }
        }
        Snapshot {
            core: self.core,
            terms: self.terms,
            counters: self.counters,
            stages: self.stages.clone(),
            sources: self
                .sources
                .iter()
                .zip(held)
                .map(|(source, held)| self.show_source(now, source.id, held))
                .collect(),
            routes: self
                .apis
                .iter()
                .enumerate()
                .filter(|(index, api)| self.is_current(ApiId(*index as u8)) || !api.connections.is_empty())
                .map(|(_, api)| RouteSnapshot {
                    authority: format!("{}:{}", api.authority.host, api.authority.port),
                    connections: api.connections.len() as u64,
                    in_flight: api.in_flight,
                    problem: api.problem.clone(),
                    last_success_s: api.last_success_ns.map(|then| seconds_since(now, then)),
                })
                .collect(),
            journal,
            lanes: self.lanes.len() as u64,
            unused_ids: self.unused_ids(),
        }
    }

    fn show_source(&self, now: Now, id: SourceId, held_bytes: u64) -> SourceSnapshot {
        let configured = &self.settings.sources[id.0 as usize];
        let source = &self.sources[self.source_index[id.0 as usize].expect("a source of this core")];
        let silent_s = source.any_byte.then(|| seconds_since(now, source.last_byte_ns));
        let silence = source.silent.then(|| format!("silent for {:.0} s", seconds_since(now, source.last_byte_ns)));
        SourceSnapshot {
            name: configured.name.clone(),
            kind: match configured.kind {
                SourceKind::Serial(_) => "serial",
                SourceKind::TcpListen { .. } => "tcp_listen",
                SourceKind::TcpConnect { .. } => "tcp_connect",
                SourceKind::Http { .. } => "http",
            },
            open: source.open + u64::from(source.connected),
            received: source.received,
            rejected: source.rejected,
            bytes: source.bytes,
            garbage_bytes: source.garbage_bytes,
            held_bytes,
            samples: source.samples.list(),
            silent_s,
            problem: source.problem.clone().or(silence),
            line: matches!(configured.kind, SourceKind::Serial(_)).then_some(LineSnapshot {
                breaks: source.line_breaks,
                errors: source.line_errors,
                driver: None, // known to the control thread alone
            }),
        }
    }
}
