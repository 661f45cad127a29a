//! Database against ledger: every record that was sent is there, once, in the order of its machine, byte for byte.

use crate::simulate::ledger::{self, Entry, Status};
use crate::simulate::record::{self, Record};
use hdrhistogram::Histogram;
use rusqlite::{Connection, OpenFlags};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

/// Findings that are put into words; all are counted.
const EXAMPLES_MAX: usize = 8;
/// The longest latency kept apart, in microseconds: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::ReadError),
    /// The database.
    #[error("the database cannot be read: {0}")]
    Database(#[from] rusqlite::Error),
}

/// What can be wrong with a row, or with the lack of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// Sent, and not in the database.
    Missing,
    /// In the database more than once.
    Repeated,
    /// Behind a later record of its machine.
    OutOfOrder,
    /// Its bytes are not those that were sent.
    Altered,
    /// Under the name of another machine.
    Misnamed,
    /// A valid record that nobody sent.
    Stray,
    /// No valid record, and more of these than garbage and damaged records were sent.
    Unreadable,
    /// The id of another row.
    SameId,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Repeated => "more than once",
            Self::OutOfOrder => "out of order",
            Self::Altered => "altered",
            Self::Misnamed => "under another machine's name",
            Self::Stray => "never sent",
            Self::Unreadable => "unreadable",
            Self::SameId => "with another row's id",
        })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Verification {
    /// Records in the ledger that must arrive.
    pub expected: u64,
    /// Rows in the database.
    pub rows: u64,
    /// How often each thing was wrong; empty if nothing was.
    pub findings: HashMap<Finding, u64>,
    /// The first of them in words.
    pub examples: Vec<String>,
    /// Records of machines that get no answer, sent while the gateway was killed, and not there:
    /// they were on the line.
    pub lost_on_the_line: u64,
    /// From a record's scheduled time to its row, microseconds.
    pub latency_us: Histogram<u64>,
}

/// A time in which the gateway was killed and started again, nanoseconds since 1970. What a machine
/// that gets no answer sent then may be lost.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// It begins when the gateway may not have read all.
    pub from_ns: u64,
    /// It ends when the gateway reads again.
    pub to_ns: u64,
}

impl Window {
    fn has(&self, entry: &Entry) -> bool {
        entry.status == Status::Sent && (self.from_ns..=self.to_ns).contains(&entry.sent_ns)
    }
}

impl Verification {
    fn new() -> Self {
        Self {
            expected: 0,
            rows: 0,
            findings: HashMap::new(),
            examples: Vec::new(),
            lost_on_the_line: 0,
            latency_us: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("valid bounds"),
        }
    }

    /// Whether every record is there, once, in order, as it was sent.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, finding: Finding, what: impl FnOnce() -> String) {
        *self.findings.entry(finding).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{finding}: {}", what()));
        }
    }
}

/// A row of the table `films`.
struct Row {
    id: i64,
    machine: String,
    data: Vec<u8>,
    received_at_us: i64,
}

/// Compares the database file with the ledger file. `killed`: when the gateway was.
pub fn verify(database: &Path, ledger: &Path, killed: Option<Window>) -> Result<Verification, Error> {
    // A reader that may write takes the log files with it when it closes.
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    compare(&connection, &ledger::read(ledger)?, killed)
}

fn compare(connection: &Connection, entries: &[Entry], killed: Option<Window>) -> Result<Verification, Error> {
    let mut comparison = Comparison::new(entries, killed);
    let mut statement =
        connection.prepare("SELECT id, machine, CAST(data AS BLOB), received_at_us FROM films ORDER BY position")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        comparison.row(&Row { id: row.get(0)?, machine: row.get(1)?, data: row.get(2)?, received_at_us: row.get(3)? });
    }
    Ok(comparison.finish())
}

struct Comparison<'a> {
    result: Verification,
    /// By machine and sequence, without garbage.
    sent: HashMap<&'a str, HashMap<u64, &'a Entry>>,
    seen: HashSet<(&'a str, u64)>,
    /// The last sequence under each name: a machine that connects again begins another order.
    last: HashMap<String, u64>,
    /// Which machine stands behind each name in the database: a connection is one machine.
    names: HashMap<String, &'a str>,
    ids: HashSet<i64>,
    /// Rows that may be unreadable.
    unreadable: u64,
    killed: Option<Window>,
    /// The record as it was sent, built again.
    expected: Vec<u8>,
}

impl<'a> Comparison<'a> {
    fn new(entries: &'a [Entry], killed: Option<Window>) -> Self {
        let mut result = Verification::new();
        let records = entries.iter().filter(|entry| entry.status != Status::Garbage);
        let mut sent = HashMap::<_, HashMap<_, _>>::new();
        for entry in records {
            sent.entry(entry.machine.as_str()).or_default().insert(entry.sequence, entry);
            result.expected += u64::from(entry.status.must_arrive());
        }
        let faults = entries.iter().filter(|entry| matches!(entry.status, Status::Garbage | Status::Damaged)).count();
        // A line that the kill cut inside of a record goes on with the rest of it.
        let cut: HashSet<&str> = entries
            .iter()
            .filter(|entry| killed.is_some_and(|window| window.has(entry)))
            .map(|entry| entry.machine.as_str())
            .collect();
        let unreadable = (faults + cut.len()) as u64;
        Self {
            result,
            sent,
            seen: HashSet::new(),
            last: HashMap::new(),
            names: HashMap::new(),
            ids: HashSet::new(),
            unreadable,
            killed,
            expected: Vec::new(),
        }
    }

    fn row(&mut self, row: &Row) {
        self.result.rows += 1;
        if !self.ids.insert(row.id) {
            self.result.find(Finding::SameId, || format!("id {}", row.id));
        }
        let Ok(record) = record::parse(&row.data) else {
            if self.unreadable > 0 {
                self.unreadable -= 1;
            } else {
                let data = String::from_utf8_lossy(&row.data);
                self.result.find(Finding::Unreadable, || format!("id {} of {}: {data:?}", row.id, row.machine));
            }
            return;
        };
        let Record { source, sequence, .. } = record;
        let of_machine = self.sent.get_key_value(source);
        let Some((&machine, &entry)) = of_machine.and_then(|(machine, sent)| Some((machine, sent.get(&sequence)?)))
        else {
            self.result.find(Finding::Stray, || format!("record {sequence} of {source}"));
            return;
        };
        if !self.seen.insert((machine, sequence)) {
            self.result.find(Finding::Repeated, || format!("record {sequence} of {source}"));
            return;
        }
        self.expected.clear();
        let sent = Record { source, sequence, scheduled_ns: entry.scheduled_ns };
        record::encode(&mut self.expected, &sent, entry.bytes as usize);
        if self.expected != row.data {
            self.result.find(Finding::Altered, || format!("record {sequence} of {source}"));
        }
        // A connection bears the listener's name and its own address, but stays with one machine.
        let named = match self.names.get(row.machine.as_str()) {
            Some(named) => *named == source,
            None => {
                self.names.insert(row.machine.clone(), machine);
                row.machine == source || row.machine.contains('@')
            }
        };
        if !named {
            self.result.find(Finding::Misnamed, || format!("record {sequence} of {source} as {}", row.machine));
        }
        if let Some(last) = self.last.insert(row.machine.clone(), sequence).filter(|last| *last > sequence) {
            self.result.find(Finding::OutOfOrder, || format!("record {sequence} of {source} after {last}"));
        }
        let scheduled_us = (entry.scheduled_ns / 1000) as i64;
        let latency_us = (row.received_at_us - scheduled_us).clamp(1, LATENCY_MAX_US as i64);
        self.result.latency_us.saturating_record(latency_us as u64);
    }

    fn finish(mut self) -> Verification {
        let mut missing = Vec::new();
        for (&machine, sent) in &self.sent {
            let must_arrive = sent.iter().filter(|(_, entry)| entry.status.must_arrive());
            for (&sequence, entry) in must_arrive.filter(|(sequence, _)| !self.seen.contains(&(machine, **sequence))) {
                match self.killed.is_some_and(|window| window.has(entry)) {
                    true => self.result.lost_on_the_line += 1,
                    false => missing.push((machine, sequence)),
                }
            }
        }
        missing.sort_unstable();
        for (machine, sequence) in missing {
            self.result.find(Finding::Missing, || format!("record {sequence} of {machine}"));
        }
        self.result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_767_225_600_000_000_000;

    fn entry(machine: &str, sequence: u64, status: Status) -> Entry {
        let scheduled_ns = START_NS + sequence * 1_000_000;
        Entry {
            machine: machine.into(),
            sequence,
            scheduled_ns,
            sent_ns: scheduled_ns + 10,
            acknowledged_ns: 0,
            bytes: 64,
            status,
        }
    }

    fn line(machine: &str, sequence: u64) -> Vec<u8> {
        let mut line = Vec::new();
        let scheduled_ns = START_NS + sequence * 1_000_000;
        record::encode(&mut line, &Record { source: machine, sequence, scheduled_ns }, 64);
        line
    }

    /// Rows of (name, data) against records 0 to 2 of `m` and 0 of `n`.
    fn findings(rows: &[(&str, Vec<u8>)], more: &[Entry]) -> HashMap<Finding, u64> {
        let connection = Connection::open_in_memory().unwrap();
        let schema = "CREATE TABLE films (position INTEGER PRIMARY KEY, id INTEGER, machine TEXT, data TEXT, received_at_us INTEGER)";
        connection.execute(schema, []).unwrap();
        for (id, (machine, data)) in rows.iter().enumerate() {
            let text = String::from_utf8_lossy(data);
            let row = (id as i64, machine, &text, (START_NS / 1000 + 5_000) as i64);
            connection
                .execute("INSERT INTO films (id, machine, data, received_at_us) VALUES (?, ?, ?, ?)", row)
                .unwrap();
        }
        let mut entries = (0..3).map(|sequence| entry("m", sequence, Status::Sent)).collect::<Vec<_>>();
        entries.push(entry("n", 0, Status::Acknowledged));
        entries.extend_from_slice(more);
        let result = compare(&connection, &entries, None).unwrap();
        assert_eq!(result.rows, rows.len() as u64);
        assert_eq!(result.holds(), result.findings.is_empty());
        result.findings
    }

    /// Name and data of each row.
    type Rows = Vec<(&'static str, Vec<u8>)>;

    fn whole() -> Rows {
        vec![("m", line("m", 0)), ("n", line("n", 0)), ("m", line("m", 1)), ("m", line("m", 2))]
    }

    #[test]
    fn a_whole_database_holds() {
        assert!(findings(&whole(), &[]).is_empty());
        let connections = whole()
            .into_iter()
            .map(|(name, data)| (if name == "m" { "tcp@1:1" } else { "tcp@1:2" }, data))
            .collect::<Vec<_>>();
        assert!(findings(&connections, &[]).is_empty());
    }

    #[test]
    fn each_defect_is_found() {
        type Spoil = fn(&mut Rows);
        let defects: [(Finding, Spoil); 7] = [
            (Finding::Missing, |rows| drop(rows.remove(2))),
            (Finding::Repeated, |rows| rows.push(rows[0].clone())),
            (Finding::OutOfOrder, |rows| rows.swap(2, 3)),
            (Finding::Misnamed, |rows| rows[3].0 = "n"),
            (Finding::Stray, |rows| rows.push(("m", line("m", 3)))),
            (Finding::Unreadable, |rows| rows.push(("m", b"R1 m 3".to_vec()))),
            (Finding::Altered, |rows| {
                rows[0].1.clear();
                let record = Record { source: "m", sequence: 0, scheduled_ns: START_NS + 1 };
                record::encode(&mut rows[0].1, &record, 64);
            }),
        ];
        for (finding, spoil) in defects {
            let mut rows = whole();
            spoil(&mut rows);
            assert_eq!(findings(&rows, &[]), HashMap::from([(finding, 1)]));
        }
    }

    #[test]
    fn damage_and_garbage_are_allowed_for_as_often_as_they_were_sent() {
        let mut rows = whole();
        rows.push(("m", b"!\xff\x00!".to_vec()));
        rows.push(("m", b"R1 m 3 17".to_vec()));
        let faults = [entry("m", 3, Status::Garbage), entry("m", 3, Status::Damaged)];
        assert!(findings(&rows, &faults).is_empty());
        rows.push(("m", b"!!".to_vec()));
        assert_eq!(findings(&rows, &faults), HashMap::from([(Finding::Unreadable, 1)]));
    }
}
