//! One picture of all shards: their snapshots added up, and what is wrong put into words. Pure; no clock, no I/O.

use super::losses::{self, Acknowledged, LossSnapshot};
use super::process::ProcessUsage;
use super::snapshot::{FailingRecord, RouteSnapshot, Snapshot, SourceSnapshot};
use crate::ground::count::{Counters, Stage, StageHistograms, Terms};
use crate::ground::text::{about_seconds, counted, typed};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Most samples of a source, of all cores together.
const SAMPLES_MAX: usize = 8;
/// Stuck lanes that are problems of their own; with more, the rest is one.
const STUCK_SHOWN_MAX: usize = 10;

/// What a problem is about, and with it how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// A core does not answer.
    Core,
    /// The accounting identity does not hold.
    Accounting,
    /// The journal is full or failed; intake pauses.
    Journal,
    /// A block file was removed: the gateway goes on, and a kill would cost what is not on disk.
    BlockFile,
    /// A source is missing, busy or silent; the others go on.
    Source,
    /// The API does not take records; intake goes on.
    Route,
    /// The last attempt to read the configuration again failed; the earlier one is in force.
    Config,
    /// A lane stands still while others get through.
    Lane,
    /// Records are kept aside for an operator.
    Parked,
    /// Records are missing, and no operator has acknowledged that yet.
    Missing,
}

impl Area {
    /// Whether the gateway cannot do its work (health 503), rather than a part of it (200, degraded).
    pub fn is_failing(self) -> bool {
        matches!(self, Self::Core | Self::Accounting | Self::Journal)
    }
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about.
    pub area: Area,
    /// Which one: a source's name, an authority, `core 3`.
    pub name: String,
    /// What is wrong, in words.
    pub text: String,
}

/// Where a problem's text names the configuration file.
const CONFIG: &str = "CONFIG";

/// All shards together.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Sums of the identity's terms.
    pub terms: Terms,
    /// Sums of the event counts.
    pub counters: Counters,
    /// Histograms added up.
    pub stages: StageHistograms,
    /// Sources merged by name, in the order in which they first appear.
    pub sources: Vec<SourceSnapshot>,
    /// Routes merged by authority.
    pub routes: Vec<RouteSnapshot>,
    /// Lanes in memory.
    pub lanes: u64,
    /// Lanes that stand still while others get through.
    pub lanes_stuck: u64,
    /// The records that fail, those of such lanes first; at most 100 of each core.
    pub failing: Vec<FailingRecord>,
    /// Age in seconds of the oldest record in memory that waits to be delivered, of each source.
    pub oldest_pending_s: BTreeMap<String, f64>,
    /// The shards, by core.
    pub shards: Vec<Snapshot>,
    /// What is missing in the journals and nobody has acknowledged, by core.
    pub losses: Vec<LossSnapshot>,
    /// What is wrong now, the failing areas first.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Adds up `shards`. `silent` are the cores that did not answer; their last snapshot, if there was one, is among `shards`,
    /// so that no counter goes backwards.
    pub fn merge(mut shards: Vec<Snapshot>, silent: &[u16]) -> Self {
        shards.sort_by_key(|shard| shard.core);
        let mut report = Self::default();
        for shard in &shards {
            report.terms.add(&shard.terms);
            report.counters.add(&shard.counters);
            report.stages.add(&shard.stages);
            report.lanes += shard.lanes;
            report.lanes_stuck += shard.lanes_stuck;
            report.failing.extend(shard.failing.iter().cloned());
            for (source, age_s) in &shard.oldest_pending_s {
                let oldest_s = report.oldest_pending_s.entry(source.clone()).or_default();
                *oldest_s = oldest_s.max(*age_s);
            }
        }
        report.failing.sort_by(|one, other| {
            (other.stuck, other.failing_s).partial_cmp(&(one.stuck, one.failing_s)).expect("numbers")
        });
        report.sources = merge_sources(&shards);
        report.routes = merge_routes(&shards);
        report.losses = shards.iter().flat_map(|shard| shard.journal.losses.iter().cloned()).collect();
        report.losses.sort_by_key(|loss| loss.core);
        report.problems = problems(&report, &shards, silent);
        report.shards = shards;
        report
    }

    /// What is to be typed names the configuration file.
    pub fn name_file(&mut self, file: &Path) {
        let file = typed(file);
        for problem in self.problems.iter_mut().filter(|problem| problem.text.contains(CONFIG)) {
            problem.text = problem.text.replace(CONFIG, &file);
        }
    }

    /// What is missing, together.
    pub fn missing(&self) -> Acknowledged {
        self.losses.iter().collect()
    }

    /// Whether the gateway as a whole cannot do its work.
    pub fn is_failing(&self) -> bool {
        self.problems.iter().any(|problem| problem.area.is_failing())
    }

    /// The document of `/api/status`. `uptime_s` is in seconds; a stage without a measurement is left out.
    pub fn status(&self, name: &str, durability: &str, uptime_s: f64, process: ProcessUsage) -> Value {
        let received = self.terms.received + self.terms.recovered;
        let per_record = (received > 0).then(|| round(process.cpu_s() * 1e6 / received as f64, 100.0));
        json!({
            "name": name,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": round(uptime_s, 1000.0),
            "durability": durability,
            "terms": self.terms,
            "balanced": self.shards.iter().all(|shard| shard.terms.balance()),
            "stages": self.stage_summaries(),
            "counters": self.counters,
            "lanes": self.lanes,
            "lanes_stuck": self.lanes_stuck,
            "failing": self.failing,
            "oldest_pending_s": self.oldest_pending_s(),
            "shards": self.shards.iter().map(shard_status).collect::<Vec<_>>(),
            "sources": self.sources.iter().map(source_status).collect::<Vec<_>>(),
            "routes": self.routes,
            "missing": {
                "records": self.missing().records, "exact": self.missing().exact, "losses": self.losses,
            },
            "process": {
                "rss_bytes": process.rss_bytes,
                "cpu_user_s": process.cpu_user_s,
                "cpu_system_s": process.cpu_system_s,
                "cpu_us_per_record": per_record,
            },
            "problems": self.problems,
        })
    }

    /// Age in seconds of the oldest record that waits to be delivered, 0 where none does.
    pub fn oldest_pending_s(&self) -> f64 {
        self.oldest_pending_s.values().copied().fold(0.0, f64::max)
    }

    fn stage_summaries(&self) -> Map<String, Value> {
        let measured = Stage::ALL.into_iter().filter(|stage| !self.stages.stage(*stage).is_empty());
        measured
            .map(|stage| {
                let histogram = self.stages.stage(stage);
                let us = |quantile: f64| round(histogram.value_at_quantile(quantile) as f64 / 1e3, 10.0);
                let summary = json!({
                    "count": histogram.len(), "p50_us": us(0.5), "p90_us": us(0.9), "p99_us": us(0.99),
                    "p999_us": us(0.999), "max_us": us(1.0),
                });
                (stage.name().to_owned(), summary)
            })
            .collect()
    }
}

fn shard_status(shard: &Snapshot) -> Value {
    json!({
        "core": shard.core, "terms": shard.terms, "balanced": shard.terms.balance(), "lanes": shard.lanes,
        "journal": shard.journal, "routes": shard.routes, "unused_ids": shard.unused_ids,
    })
}

/// A source without its samples, which `/api/sources` has.
fn source_status(source: &SourceSnapshot) -> Value {
    let mut value = serde_json::to_value(source).expect("names, numbers and texts only");
    value.as_object_mut().expect("a structure").remove("samples");
    value
}

/// Rounds to a fraction, so that JSON shows 12.3 rather than 12.299999999.
fn round(value: f64, fraction: f64) -> f64 {
    (value * fraction).round() / fraction
}

fn merge_sources(shards: &[Snapshot]) -> Vec<SourceSnapshot> {
    let mut merged: Vec<SourceSnapshot> = Vec::new();
    let mut places = HashMap::new();
    for source in shards.iter().flat_map(|shard| &shard.sources) {
        let Some(&place) = places.get(&source.name) else {
            places.insert(source.name.clone(), merged.len());
            merged.push(source.clone());
            continue;
        };
        let own: &mut SourceSnapshot = &mut merged[place];
        own.open += source.open;
        own.received += source.received;
        own.rejected += source.rejected;
        own.bytes += source.bytes;
        own.garbage_bytes += source.garbage_bytes;
        own.denied.add(&source.denied);
        for refused in &source.refused {
            match own.refused.iter_mut().find(|other| other.reason == refused.reason) {
                Some(other) => other.add(refused),
                None => own.refused.push(refused.clone()),
            }
        }
        own.held_bytes += source.held_bytes;
        own.flagged.add(&source.flagged);
        own.samples.extend(source.samples.iter().cloned());
        own.silent_s = shorter(own.silent_s, source.silent_s);
        own.silent |= source.silent;
        join_words(&mut own.problem, source.problem.as_deref());
        own.line = own.line.or(source.line); // a port belongs to one core
    }
    for source in &mut merged {
        source.samples.sort_by_key(|sample| sample.at_wall_ns);
        source.samples.drain(..source.samples.len().saturating_sub(SAMPLES_MAX));
    }
    merged
}

fn merge_routes(shards: &[Snapshot]) -> Vec<RouteSnapshot> {
    let mut merged: Vec<RouteSnapshot> = Vec::new();
    for route in shards.iter().flat_map(|shard| &shard.routes) {
        // A gateway has one or two authorities: a search is enough.
        let Some(own) = merged.iter_mut().find(|own| own.authority == route.authority) else {
            merged.push(route.clone());
            continue;
        };
        own.connections += route.connections;
        own.in_flight += route.in_flight;
        own.last_success_s = shorter(own.last_success_s, route.last_success_s);
        // What the service told is for all cores, whether or not they know it already.
        own.waits_s = match (own.waits_as_told, route.waits_as_told) {
            (false, true) => route.waits_s,
            (true, false) => own.waits_s,
            (true, true) => own.waits_s.into_iter().chain(route.waits_s).reduce(f64::max),
            (false, false) => shorter(own.waits_s, route.waits_s),
        };
        own.waits_as_told |= route.waits_as_told;
        join_words(&mut own.problem, route.problem.as_deref());
    }
    merged
}

fn shorter(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::min)
}

/// Adds words that are not said yet.
fn join_words(own: &mut Option<String>, other: Option<&str>) {
    match (own.as_mut(), other) {
        (_, None) => {}
        (None, Some(other)) => *own = Some(other.to_owned()),
        (Some(words), Some(other)) if words.split("; ").any(|word| word == other) => {}
        (Some(words), Some(other)) => {
            words.push_str("; ");
            words.push_str(other);
        }
    }
}

fn problems(report: &Report, shards: &[Snapshot], silent: &[u16]) -> Vec<Problem> {
    let core_name = |core: u16| format!("core {core}");
    let mut problems = Vec::new();
    for &core in silent {
        let seen = shards.iter().any(|shard| shard.core == core);
        let text = if seen { "does not answer; its last figures are shown" } else { "does not answer" };
        problems.push(Problem { area: Area::Core, name: core_name(core), text: text.to_owned() });
    }
    for shard in shards.iter().filter(|shard| !shard.terms.balance()) {
        let text = "records are missing or counted twice: the accounting does not balance".to_owned();
        problems.push(Problem { area: Area::Accounting, name: core_name(shard.core), text });
    }
    for shard in shards {
        if let Some(text) = &shard.journal.problem {
            problems.push(Problem { area: Area::Journal, name: core_name(shard.core), text: text.clone() });
        }
    }
    for shard in shards {
        if let Some(text) = &shard.journal.block_file_lost {
            problems.push(Problem { area: Area::BlockFile, name: core_name(shard.core), text: text.clone() });
        }
    }
    for of_journal in report.losses.chunk_by(|one, other| one.core == other.core) {
        let words = losses::words(of_journal).expect("a chunk has a loss");
        let text = format!("{words}: ringest queue acknowledge {CONFIG}");
        problems.push(Problem { area: Area::Missing, name: "records".to_owned(), text });
    }
    problems.extend(stuck(report));
    if report.terms.parked > 0 {
        let count = report.terms.parked;
        let (records, them) = if count == 1 { ("record is", "it") } else { ("records are", "them") };
        let text =
            format!("{count} {records} parked, since the API refused {them}: ringest queue list {CONFIG} --parked");
        problems.push(Problem { area: Area::Parked, name: "queue".to_owned(), text });
    }
    for route in &report.routes {
        if let Some(text) = &route.problem {
            let text = format!("{text}{}", waits(route));
            problems.push(Problem { area: Area::Route, name: route.authority.clone(), text });
        }
    }
    // Hundreds of ports can be away at once: what concerns all comes before them.
    for source in &report.sources {
        if let Some(text) = &source.problem {
            problems.push(Problem { area: Area::Source, name: source.name.clone(), text: text.clone() });
        }
    }
    problems
}

/// Lanes that stand still while others get through, each by its machine's name.
fn stuck(report: &Report) -> impl Iterator<Item = Problem> {
    let shown = report.failing.iter().filter(|failing| failing.stuck).take(STUCK_SHOWN_MAX);
    let named = shown.map(|failing| {
        let text = format!("{}: ringest queue list {CONFIG}", failing.words());
        Problem { area: Area::Lane, name: failing.name.clone(), text }
    });
    let more = report.lanes_stuck.saturating_sub(named.clone().count() as u64);
    let others = (more > 0).then(|| {
        let stand = if more == 1 { "stands" } else { "stand" };
        let lanes = counted(more, "other lane");
        let text = format!("{lanes} {stand} still while others get through: ringest queue list {CONFIG}");
        Problem { area: Area::Lane, name: "others".to_owned(), text }
    });
    named.chain(others)
}

/// Until when nothing is sent, and why.
fn waits(route: &RouteSnapshot) -> String {
    match (route.waits_s, route.waits_as_told) {
        (None, _) => String::new(),
        (Some(wait_s), false) => format!("; next try in {}", about_seconds(wait_s)),
        (Some(wait_s), true) => {
            let words =
                format!("as the service told by Retry-After; to try at once: ringest queue retry {CONFIG} --now");
            format!("; next try in {}, {words}", about_seconds(wait_s))
        }
    }
}

#[cfg(test)]
mod tests;
