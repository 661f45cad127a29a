//! All machines of a gateway: what the cores tell of each, added up, with what is known of earlier starts.
//!
//! | State | What it says | Order |
//! |---|---|---|
//! | `refused` | records of it are parked, or one is refused again and again while others are taken | first |
//! | `away` | its port or connection is gone | |
//! | `waiting` | records of it wait for the service or the disk | |
//! | `damaged` | something that it sent was rejected in the last 10 minutes | |
//! | `quiet` | it is silent for longer than `silence_alarm` | |
//! | `never` | nothing has come of it since it was first seen or configured | |
//! | `ok` | all else | last |
//!
//! Where several hold, the first of them is shown.

use super::machine::MachineState;
use super::report::Report;
use super::snapshot::{FailingRecord, SourceSnapshot};
use crate::ground::text::{about_seconds, counted, hex, rfc3339};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Machines that are known, beside those that have a row on a core: beyond that, those of earlier starts that have been silent
/// the longest are forgotten.
const MACHINES_MAX: usize = 100_000;
/// So long a rejected record makes its machine `damaged`.
const DAMAGED_NS: u64 = 600_000_000_000;
/// The time over which a rate is told, and how often it is looked at for that.
const RATE_NS: u64 = 60_000_000_000;
const MARK_NS: u64 = 10_000_000_000;

/// How a machine is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its records are parked or stuck.
    Refused,
    /// Its port or connection is gone.
    Away,
    /// Its records wait for the service or the disk.
    Waiting,
    /// What it sent was rejected.
    Damaged,
    /// It is silent for longer than it may be.
    Quiet,
    /// Nothing has come of it.
    Never,
    /// All is well.
    Ok,
}

impl State {
    /// All of them, the worst first.
    pub const ALL: [Self; 7] =
        [Self::Refused, Self::Away, Self::Waiting, Self::Damaged, Self::Quiet, Self::Never, Self::Ok];

    /// Its word, in documents and on screens.
    pub fn word(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::Damaged => "damaged",
            Self::Quiet => "quiet",
            Self::Never => "never",
            Self::Ok => "ok",
        }
    }
}

/// What is counted of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    received: u64,
    delivered: u64,
    rejected: u64,
    discarded: u64,
    bytes: u64,
    last_record_wall_ns: u64,
    last_rejected_wall_ns: u64,
    last_delivered_wall_ns: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.received = self.received.saturating_add(other.received);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.discarded = self.discarded.saturating_add(other.discarded);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.last_record_wall_ns = self.last_record_wall_ns.max(other.last_record_wall_ns);
        self.last_rejected_wall_ns = self.last_rejected_wall_ns.max(other.last_rejected_wall_ns);
        self.last_delivered_wall_ns = self.last_delivered_wall_ns.max(other.last_delivered_wall_ns);
    }

    fn of(state: &MachineState) -> Self {
        Self {
            received: state.received,
            delivered: state.delivered,
            rejected: state.rejected,
            discarded: state.discarded,
            bytes: state.bytes,
            last_record_wall_ns: state.last_record_wall_ns,
            last_rejected_wall_ns: state.last_rejected_wall_ns,
            last_delivered_wall_ns: state.last_delivered_wall_ns,
        }
    }
}

/// One machine as it is written down: a line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    source: String,
    name: String,
    first_seen_wall_ns: u64,
    #[serde(flatten)]
    totals: Totals,
}

/// One machine.
#[derive(Debug)]
struct Entry {
    /// When it was first seen or configured.
    first_seen_wall_ns: u64,
    /// What earlier starts have counted.
    earlier: Totals,
    /// What each core knows of it.
    cores: Vec<(u16, MachineState)>,
    /// How many records had come, and when that was looked at; the oldest first.
    marks: VecDeque<(u64, u64)>,
}

impl Entry {
    fn new(now_ns: u64) -> Self {
        Self { first_seen_wall_ns: now_ns, earlier: Totals::default(), cores: Vec::new(), marks: VecDeque::new() }
    }

    fn totals(&self) -> Totals {
        let mut all = self.earlier;
        self.cores.iter().for_each(|(_, state)| all.add(&Totals::of(state)));
        all
    }

    fn sum(&self, count: impl Fn(&MachineState) -> u64) -> u64 {
        self.cores.iter().map(|(_, state)| count(state)).sum()
    }

    /// The core that has its last record.
    fn last(&self) -> Option<&MachineState> {
        let last = self.cores.iter().map(|(_, state)| state).max_by_key(|state| state.last_record_wall_ns);
        last.filter(|state| state.last_record_wall_ns > 0)
    }

    fn mark(&mut self, now_ns: u64) {
        if self.marks.back().is_none_or(|(at_ns, _)| now_ns >= at_ns + MARK_NS) {
            let received = self.totals().received;
            self.marks.push_back((now_ns, received));
            while self.marks.get(1).is_some_and(|(at_ns, _)| at_ns + RATE_NS <= now_ns) {
                self.marks.pop_front();
            }
        }
    }

    /// Records a minute, over the last minute or as long as it is known.
    fn rate(&self, now_ns: u64, received: u64) -> f64 {
        match self.marks.front() {
            Some((at_ns, before)) if now_ns > *at_ns => {
                (received - before) as f64 * 60e9 / (now_ns - at_ns).max(MARK_NS) as f64
            }
            _ => 0.0,
        }
    }
}

type Key = (Arc<str>, Arc<str>);

/// All machines that were ever seen, as far as their file remembers them.
#[derive(Debug, Default)]
pub struct Roll {
    entries: BTreeMap<Key, Entry>,
    is_changed: bool,
}

/// A machine as it is shown.
#[derive(Debug, Clone)]
pub struct Row {
    /// The configured source.
    pub source: Arc<str>,
    /// What `{{source}}` shows.
    pub name: Arc<str>,
    /// How it is.
    pub state: State,
    /// Why, in words; nothing where all is well.
    pub why: String,
    /// Records received since it was first seen, rejected ones included.
    pub received: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Records that wait to be delivered.
    pub pending: u64,
    /// Records kept aside.
    pub parked: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records a minute.
    pub rate: f64,
    /// When the last record came, in nanoseconds since 1970; 0 if none ever did.
    pub last_record_wall_ns: u64,
}

impl Row {
    fn document(&self, now_ns: u64) -> Value {
        json!({
            "source": &*self.source,
            "name": &*self.name,
            "state": self.state.word(),
            "why": self.why,
            "received": self.received,
            "delivered": self.delivered,
            "pending": self.pending,
            "parked": self.parked,
            "rejected": self.rejected,
            "rate_per_minute": (self.rate * 10.0).round() / 10.0,
            "last_record": date(self.last_record_wall_ns),
            "last_record_s": (self.last_record_wall_ns > 0).then(|| now_ns.saturating_sub(self.last_record_wall_ns) as f64 / 1e9),
        })
    }
}

fn date(wall_ns: u64) -> Option<String> {
    (wall_ns > 0).then(|| rfc3339(wall_ns))
}

/// By what rows are ordered. Equal ones are in the order of their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The worst first.
    #[default]
    State,
    /// By name.
    Name,
    /// The most received first; so below.
    Received,
    /// Records that wait.
    Pending,
    /// Records kept aside.
    Parked,
    /// Records rejected.
    Rejected,
    /// Records a minute.
    Rate,
    /// The longest silent first.
    LastRecord,
}

impl Sort {
    fn compare(self, one: &Row, other: &Row) -> Ordering {
        let most = |of: fn(&Row) -> u64| Reverse(of(one)).cmp(&Reverse(of(other)));
        let by = match self {
            Self::State => one.state.cmp(&other.state),
            Self::Name => Ordering::Equal,
            Self::Received => most(|row| row.received),
            Self::Pending => most(|row| row.pending),
            Self::Parked => most(|row| row.parked),
            Self::Rejected => most(|row| row.rejected),
            Self::Rate => other.rate.total_cmp(&one.rate),
            Self::LastRecord => one.last_record_wall_ns.cmp(&other.last_record_wall_ns),
        };
        by.then_with(|| (&one.name, &one.source).cmp(&(&other.name, &other.source)))
    }
}

/// Which rows are shown.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// In which order.
    pub sort: Sort,
    /// Those in whose name, source or state this text is; all where it is empty. Upper and lower case are one.
    pub filter: String,
    /// Those behind this one: SOURCE/NAME.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

impl Roll {
    /// What a core tells of machines that have changed. `now_ns`: nanoseconds since 1970.
    pub fn update(&mut self, core: u16, states: Vec<MachineState>, now_ns: u64) {
        self.is_changed |= !states.is_empty();
        for state in states {
            let key = (Arc::clone(&state.source), Arc::clone(&state.name));
            if self.entries.len() >= MACHINES_MAX && !self.entries.contains_key(&key) {
                self.forget_some();
            }
            let entry = self.entries.entry(key).or_insert_with(|| Entry::new(now_ns));
            if entry.marks.is_empty() {
                entry.marks.push_back((now_ns, entry.earlier.received)); // what has come with this is new
            }
            match entry.cores.iter_mut().find(|(of, _)| *of == core) {
                Some((_, known)) => *known = state,
                None => entry.cores.push((core, state)),
            }
        }
    }

    /// All cores have told what has changed.
    pub fn mark(&mut self, now_ns: u64) {
        self.entries.values_mut().for_each(|entry| entry.mark(now_ns));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What an earlier start has written down: a JSON object a line. A line that cannot be read is left out.
    pub fn read(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()).take(MACHINES_MAX) {
            let key = (Arc::from(line.source), Arc::from(line.name));
            let entry = self.entries.entry(key).or_insert_with(|| Entry::new(line.first_seen_wall_ns));
            entry.first_seen_wall_ns = entry.first_seen_wall_ns.min(line.first_seen_wall_ns);
            entry.earlier = line.totals;
        }
    }

    /// Machines of earlier starts that have been silent the longest make room: a tenth of all.
    fn forget_some(&mut self) {
        let of_earlier = self.entries.iter().filter(|(_, entry)| entry.cores.is_empty());
        let mut oldest: Vec<_> =
            of_earlier.map(|(key, entry)| (entry.earlier.last_record_wall_ns, key.clone())).collect();
        oldest.sort();
        for (_, key) in oldest.into_iter().take(MACHINES_MAX / 10) {
            self.entries.remove(&key);
        }
    }

    /// What was asked for by [`Roll::write`] is not written.
    pub fn write_again(&mut self) {
        self.is_changed = true;
    }

    /// What the next start is to know, if that has changed since this was asked last.
    pub fn write(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut text = String::new();
        for ((source, name), entry) in &self.entries {
            let (source, name) = (source.to_string(), name.to_string());
            let line = Line { source, name, first_seen_wall_ns: entry.first_seen_wall_ns, totals: entry.totals() };
            text.push_str(&serde_json::to_string(&line).expect("numbers and text"));
            text.push('\n');
        }
        Some(text)
    }

    /// The machines that are wanted: `{"total", "shown", "states", "machines", "next"}`. `total` are all, `shown` those that the
    /// filter leaves, `next` is what `after` is for those that follow.
    pub fn page(&self, wanted: &Wanted, report: &Report, now_ns: u64) -> Value {
        let judge = Judge::new(report, now_ns);
        let filter = wanted.filter.to_lowercase();
        let mut states = [0_u64; State::ALL.len()];
        let mut rows = Vec::new();
        for (key, entry) in &self.entries {
            let row = judge.row(key, entry);
            states[row.state as usize] += 1;
            let has = |text: &str| text.to_lowercase().contains(&filter);
            if filter.is_empty() || row.state.word() == filter || has(&row.name) || has(&row.source) {
                rows.push(row);
            }
        }
        rows.sort_by(|one, other| wanted.sort.compare(one, other));
        let cursor = |row: &Row| format!("{}/{}", row.source, row.name);
        let begin = match &wanted.after {
            None => 0,
            Some(after) => rows.iter().position(|row| cursor(row) == *after).map_or(rows.len(), |at| at + 1),
        };
        let shown: Vec<&Row> = rows[begin..].iter().take(wanted.limit).collect();
        let is_last = begin + shown.len() == rows.len();
        let states: serde_json::Map<_, _> =
            State::ALL.iter().map(|state| (state.word().to_owned(), json!(states[*state as usize]))).collect();
        json!({
            "total": self.entries.len(),
            "shown": rows.len(),
            "states": states,
            "machines": shown.iter().map(|row| row.document(now_ns)).collect::<Vec<_>>(),
            "next": shown.last().filter(|_| !is_last).map(|row| cursor(row)),
        })
    }

    /// How many are in each state, by its word.
    pub fn states(&self, report: &Report, now_ns: u64) -> Vec<(&'static str, u64)> {
        let judge = Judge::new(report, now_ns);
        let mut counts = State::ALL.map(|state| (state.word(), 0));
        for (key, entry) in &self.entries {
            counts[judge.row(key, entry).state as usize].1 += 1;
        }
        counts.to_vec()
    }

    /// All that is known of machines with this name: one a source. `with_contents`: the last record, too.
    pub fn show(&self, name: &str, with_contents: bool, report: &Report, now_ns: u64) -> Vec<Value> {
        let judge = Judge::new(report, now_ns);
        let named = self.entries.iter().filter(|((_, of), _)| **of == *name);
        let show = |(key, entry): (&Key, &Entry)| {
            let totals = entry.totals();
            let mut document = judge.row(key, entry).document(now_ns);
            document["first_seen"] = json!(rfc3339(entry.first_seen_wall_ns));
            document["bytes"] = json!(totals.bytes);
            document["discarded"] = json!(totals.discarded);
            document["last_delivered"] = json!(date(totals.last_delivered_wall_ns));
            document["last_rejected"] = json!(date(totals.last_rejected_wall_ns));
            document["failing"] = json!(judge.failing.get(&(&*key.0, &*key.1)));
            if let Some(last) = entry.last() {
                let mut record = json!({
                    "at": rfc3339(last.last_record_wall_ns),
                    "bytes": last.last_bytes,
                    "flags": last.flags.words().collect::<Vec<_>>(),
                });
                if with_contents {
                    record["text"] = json!(last.sample().escape_ascii().to_string());
                    record["hex"] = json!(hex(last.sample()));
                }
                document["last"] = record;
            }
            document
        };
        named.map(show).collect()
    }
}

/// What says how machines are.
struct Judge<'r> {
    sources: HashMap<&'r str, &'r SourceSnapshot>,
    failing: HashMap<(&'r str, &'r str), &'r FailingRecord>,
    /// Why nothing can be delivered, or kept.
    stands_still: Option<String>,
    now_ns: u64,
}

impl<'r> Judge<'r> {
    fn new(report: &'r Report, now_ns: u64) -> Self {
        let of_disk = report.shards.iter().find_map(|shard| shard.journal.problem.clone());
        let of_api = || report.routes.iter().find_map(|route| route.problem.clone());
        Self {
            sources: report.sources.iter().map(|source| (source.name.as_str(), source)).collect(),
            failing: report.failing.iter().map(|record| ((&*record.source, &*record.name), record)).collect(),
            stands_still: of_disk.or_else(of_api),
            now_ns,
        }
    }

    fn row(&self, (source, name): &Key, entry: &Entry) -> Row {
        let totals = entry.totals();
        let (pending, parked) = (entry.sum(|state| state.pending), entry.sum(|state| state.parked));
        let (state, why) = self.state((source, name), entry, &totals, (pending, parked));
        Row {
            source: Arc::clone(source),
            name: Arc::clone(name),
            state,
            why,
            received: totals.received,
            delivered: totals.delivered,
            pending,
            parked,
            rejected: totals.rejected,
            rate: entry.rate(self.now_ns, totals.received),
            last_record_wall_ns: totals.last_record_wall_ns,
        }
    }

    fn state(
        &self,
        (source, name): (&str, &str),
        entry: &Entry,
        totals: &Totals,
        (pending, parked): (u64, u64),
    ) -> (State, String) {
        let of_source = self.sources.get(source);
        // A port and a device server are one machine.
        let of_line = of_source.filter(|of| matches!(of.kind, "serial" | "tcp_connect"));
        let failing = self.failing.get(&(source, name));
        if let Some(stuck) = failing.filter(|record| record.stuck) {
            return (State::Refused, stuck.words());
        }
        if parked > 0 {
            let status = entry.cores.iter().map(|(_, state)| state.parked_status).find(|status| *status > 0);
            let answer = status.map_or(String::new(), |status| format!(", lately after an answer {status}"));
            let are = if parked == 1 { "is" } else { "are" };
            return (State::Refused, format!("{} {are} parked{answer}", counted(parked, "record")));
        }
        if let Some(line) = of_line.filter(|line| line.open == 0) {
            return (State::Away, line.problem.clone().unwrap_or_else(|| "it is not open".to_owned()));
        }
        if pending > 0 {
            let why = failing.map(|record| record.words()).or_else(|| self.stands_still.clone());
            if let Some(why) = why {
                return (State::Waiting, why);
            }
        }
        if totals.last_rejected_wall_ns.saturating_add(DAMAGED_NS) > self.now_ns && totals.last_rejected_wall_ns > 0 {
            let since_s = self.now_ns.saturating_sub(totals.last_rejected_wall_ns) as f64 / 1e9;
            let words =
                format!("{} rejected, the last {} ago", counted(totals.rejected, "record"), about_seconds(since_s));
            return (State::Damaged, words);
        }
        if let Some(line) = of_line.filter(|line| line.silent) {
            return (State::Quiet, line.problem.clone().unwrap_or_default());
        }
        if totals.received == 0 {
            let since_s = self.now_ns.saturating_sub(entry.first_seen_wall_ns) as f64 / 1e9;
            return (State::Never, format!("no record since it is known, {} ago", about_seconds(since_s)));
        }
        (State::Ok, String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::RouteSnapshot;

    const S: u64 = 1_000_000_000;
    const NOW: u64 = 1_800_000_000 * S;

    fn machine(source: &str, name: &str, change: impl FnOnce(&mut MachineState)) -> MachineState {
        let mut state = MachineState::new(source.into(), name.into());
        change(&mut state);
        state
    }

    fn source(name: &str, kind: &'static str, open: u64) -> SourceSnapshot {
        SourceSnapshot { name: name.into(), kind, open, ..SourceSnapshot::default() }
    }

    fn sent(records: u64) -> impl FnOnce(&mut MachineState) {
        move |state| (state.received, state.delivered, state.last_record_wall_ns) = (records, records, NOW - S)
    }

    fn shown(roll: &Roll, wanted: &Wanted, report: &Report) -> Vec<(String, String)> {
        let page = roll.page(wanted, report, NOW);
        let of = |row: &Value, key: &str| row[key].as_str().expect("text").to_owned();
        page["machines"].as_array().expect("a list").iter().map(|row| (of(row, "name"), of(row, "state"))).collect()
    }

    fn all() -> Wanted {
        Wanted { limit: 100, ..Wanted::default() }
    }

    #[test]
    fn each_state_is_told_and_the_worst_come_first() {
        let mut report = Report {
            sources: vec![source("com1", "serial", 0), source("com2", "serial", 1), source("http", "http", 9)],
            ..Report::default()
        };
        let mut roll = Roll::default();
        roll.update(
            0,
            vec![
                machine("com1", "com1", sent(3)),
                machine("com2", "com2", |_| {}),
                machine("http", "fine", sent(1)),
                machine("http", "parks", |state| (state.received, state.parked, state.parked_status) = (2, 2, 422)),
                machine("http", "waits", |state| (state.received, state.pending) = (1, 1)),
                machine("http", "breaks", |state| {
                    (state.received, state.rejected, state.last_rejected_wall_ns) = (1, 1, NOW - 60 * S)
                }),
                machine("http", "broke", |state| {
                    (state.received, state.rejected, state.last_rejected_wall_ns) = (1, 1, NOW - 601 * S)
                }),
            ],
            NOW,
        );
        let states = |report: &Report| shown(&roll, &all(), report);
        let named = |rows: &[(&str, &str)]| {
            rows.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect::<Vec<_>>()
        };
        let calm = [
            ("parks", "refused"),
            ("com1", "away"),
            ("breaks", "damaged"),
            ("com2", "never"),
            ("broke", "ok"),
            ("fine", "ok"),
            ("waits", "ok"),
        ];
        assert_eq!(states(&report), named(&calm));
        report.routes =
            vec![RouteSnapshot { problem: Some("it refuses connections".into()), ..RouteSnapshot::default() }];
        assert!(states(&report).contains(&("waits".into(), "waiting".into())));
        report.sources[1].problem = Some("accepting pauses".into());
        assert!(states(&report).contains(&("com2".into(), "never".into())), "another problem is no silence");
        report.sources[1].silent = true;
        assert!(states(&report).contains(&("com2".into(), "quiet".into())));
    }

    #[test]
    fn pages_follow_each_other_and_filters_look_at_name_source_and_state() {
        let mut roll = Roll::default();
        roll.update(0, (0..25).map(|at| machine("http", &format!("cam-{at:02}"), sent(at))).collect(), NOW);
        let report = Report::default();
        let mut wanted = Wanted { limit: 10, sort: Sort::Received, ..Wanted::default() };
        let mut names = Vec::new();
        loop {
            let page = roll.page(&wanted, &report, NOW);
            assert_eq!(page["total"], 25);
            names.extend(shown(&roll, &wanted, &report).into_iter().map(|(name, _)| name));
            match page["next"].as_str() {
                Some(next) => wanted.after = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(names, (0..25).rev().map(|at| format!("cam-{at:02}")).collect::<Vec<_>>());
        let count = |filter: &str| shown(&roll, &Wanted { filter: filter.into(), ..all() }, &report).len();
        assert_eq!((count("CAM-0"), count("http"), count("never"), count("nobody")), (10, 25, 1, 0));
    }

    #[test]
    fn what_several_cores_know_is_added_and_survives_a_restart() {
        let mut roll = Roll::default();
        let state = |records, pending| {
            machine("http", "cam", move |state| {
                sent(records)(state);
                (state.pending, state.bytes) = (pending, 64 * records);
            })
        };
        roll.update(0, vec![state(5, 1)], NOW);
        roll.update(1, vec![state(7, 2)], NOW);
        roll.update(1, vec![state(8, 2)], NOW);
        let row = &roll.page(&all(), &Report::default(), NOW)["machines"][0];
        assert_eq!((&row["received"], &row["pending"]), (&json!(13), &json!(3)));
        let text = roll.write().expect("it has changed");
        assert_eq!(roll.write(), None, "nothing has changed since");

        let mut next = Roll::default();
        next.read(&format!("no JSON\n{text}"));
        next.update(0, vec![state(2, 3)], NOW + S);
        let row = &next.page(&all(), &Report::default(), NOW)["machines"][0];
        assert_eq!((&row["received"], &row["pending"]), (&json!(15), &json!(3)), "what waits is in the journals");
    }

    #[test]
    fn machines_of_earlier_starts_make_room_for_those_of_this_one() {
        let mut earlier = Roll::default();
        earlier.update(
            0,
            (0..MACHINES_MAX as u64).map(|at| machine("http", &format!("old-{at}"), sent(1))).collect(),
            NOW,
        );
        let mut roll = Roll::default();
        roll.read(&earlier.write().expect("it has changed"));
        roll.update(0, (0..20_000).map(|at| machine("http", &format!("new-{at}"), sent(1))).collect(), NOW);
        assert!(roll.len() <= MACHINES_MAX);
        let page = roll.page(&Wanted { filter: "new-".into(), ..all() }, &Report::default(), NOW);
        assert_eq!(page["shown"], 20_000, "none of those that are here now was forgotten");
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut roll = Roll::default();
        roll.update(0, vec![machine("http", "new", sent(5))], NOW);
        roll.mark(NOW);
        let rate = roll.page(&all(), &Report::default(), NOW + 10 * S)["machines"][0]["rate_per_minute"].as_f64();
        assert_eq!(rate, Some(30.0), "what came before the first look counts");

        let mut roll = Roll::default();
        for second in 0..=300 {
            roll.update(0, vec![machine("http", "cam", sent(second * 2))], NOW + second * S);
            roll.mark(NOW + second * S);
        }
        let rate = roll.page(&all(), &Report::default(), NOW + 300 * S)["machines"][0]["rate_per_minute"].as_f64();
        assert!((115.0..=125.0).contains(&rate.expect("a number")), "{rate:?}");
    }

    #[test]
    fn contents_are_shown_to_those_alone_who_may_see_them() {
        let mut roll = Roll::default();
        let state = machine("http", "cam", |state| {
            sent(1)(state);
            state.last_bytes = 3;
            state.sample[..3].copy_from_slice(b"a\x01b");
        });
        roll.update(0, vec![state], NOW);
        let show = |with_contents| roll.show("cam", with_contents, &Report::default(), NOW).remove(0);
        assert_eq!(show(false)["last"]["bytes"], 3);
        assert!(show(false)["last"].get("hex").is_none() && show(false)["last"].get("text").is_none());
        assert_eq!(show(true)["last"]["hex"], "610162");
        assert!(roll.show("nobody", true, &Report::default(), NOW).is_empty());
    }
}
