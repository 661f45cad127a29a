//! A receiver that does its worst, as tables: each row says byte for byte what it answers to the requests of a record, when it
//! pauses, closes and resets, and what must come of it. The simulator plays a row in virtual time (`tests/sim/rows.rs`), the real
//! binary against sockets (`tests/e2e/rows.rs`); both are judged here.
//!
//! But for mixes, a row's records are those of one machine, so one is in flight at a time.

pub mod cases;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What the receiver does next.
#[derive(Debug, Clone)]
pub enum Act {
    /// Takes the record; a second time under the same key changes nothing.
    Store,
    /// Writes, in one piece. `@DATE+N@` becomes the date in N seconds, `@DATE-N@` one that is over, `@MACHINE@` what the record said.
    Send(Vec<u8>),
    /// In ms.
    Pause(u64),
    /// Writes byte by byte, with so many ms before each.
    Drip(Vec<u8>, u64),
    /// Writes this again and again until the client is gone.
    Endless(Vec<u8>),
    /// Sends no more.
    Fin,
    /// Goes without a farewell: the client's next packet is answered with RST, as what it has sent is dropped.
    Reset,
    /// The record must count as delivered now, before anything else is done.
    AwaitDelivered,
    /// The client must close within so many ms, and send no other request before.
    AwaitClose(u64),
    /// The network drops all packets of the connection from now on, in both directions.
    Vanish,
}

/// How a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Delivered,
    /// With this status.
    Parked(u16),
}

/// One record, and how its requests are answered.
#[derive(Debug, Clone)]
pub struct Case {
    pub what: String,
    /// To its requests, in order; those beyond are taken and answered 201.
    pub answers: Vec<Vec<Act>>,
    /// How many requests it takes.
    pub requests: RangeInclusive<usize>,
    pub end: End,
    /// Whether the last of these requests' connection carries the next record.
    pub kept: Option<bool>,
    /// Whether each repetition comes on another connection.
    pub moves: Option<bool>,
    /// In ms, between its requests, as far as it is given.
    pub gaps: Vec<RangeInclusive<u64>>,
}

impl Case {
    /// A record that is delivered by one request, whose answer is this.
    pub fn taken(what: impl Into<String>, acts: Vec<Act>) -> Self {
        let what = what.into();
        let answers = vec![acts];
        Self { what, answers, requests: 1..=1, end: End::Delivered, kept: None, moves: None, gaps: Vec::new() }
    }

    /// A record whose first request is answered so, and that is delivered by the second.
    pub fn again(what: impl Into<String>, acts: Vec<Act>) -> Self {
        Self { requests: 2..=2, ..Self::taken(what, acts) }
    }

    /// A record whose requests are answered so, and that takes so many.
    pub fn of(what: impl Into<String>, answers: Vec<Vec<Act>>, requests: usize) -> Self {
        Self { answers, requests: requests..=requests, ..Self::taken(what, Vec::new()) }
    }

    pub fn with(mut self, answers: Vec<Vec<Act>>) -> Self {
        self.answers = answers;
        self
    }

    pub fn kept(mut self, kept: bool) -> Self {
        self.kept = Some(kept);
        self
    }

    pub fn moves(mut self, moves: bool) -> Self {
        self.moves = Some(moves);
        self
    }

    pub fn requests(mut self, requests: RangeInclusive<usize>) -> Self {
        self.requests = requests;
        self
    }

    pub fn parked(mut self, status: u16) -> Self {
        self.end = End::Parked(status);
        self
    }

    pub fn gap(mut self, ms: RangeInclusive<u64>) -> Self {
        self.gaps.push(ms);
        self
    }
}

/// Where a row is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Hours cost nothing.
    Simulator,
    Binary,
}

/// A row of the table of cases.
#[derive(Debug, Clone)]
pub struct Row {
    /// Keys of `[deliver]`, as in the file.
    pub deliver: Vec<(&'static str, String)>,
    pub cases: Vec<Case>,
    /// A record comes only when the one before is settled and all that the receiver does about it is over.
    pub paced: bool,
    /// The receiver acts when it has read a request's head, and never reads the body.
    pub early: bool,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// The machines: record n is one of machine n % machines, and has a lane with its others.
    pub machines: usize,
}

impl Row {
    pub fn new(cases: Vec<Case>) -> Self {
        let mut row = Self { deliver: Vec::new(), cases, paced: false, early: false, record_bytes: 9, machines: 1 };
        for (key, value) in [
            ("connections", "1"),
            ("retry", "{ first = \"1ms\", max = \"4ms\" }"),
            ("timeout", "\"10s\""),
            ("idle", "\"60s\""),
            ("drain", "\"0ms\""),
        ] {
            row = row.key(key, value);
        }
        row
    }

    /// A key of `[deliver]`.
    pub fn key(mut self, key: &'static str, value: &str) -> Self {
        self.deliver.retain(|(other, _)| *other != key);
        self.deliver.push((key, value.to_owned()));
        self
    }

    pub fn paced(mut self) -> Self {
        self.paced = true;
        self
    }

    /// The bytes of the nth record, without their end.
    pub fn record(&self, number: usize) -> String {
        let text = format!("m {number:06}");
        format!("{text}{}", "x".repeat(self.record_bytes.saturating_sub(text.len())))
    }
}

/// A request as the receiver saw it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Counts the connections.
    pub connection: usize,
    pub at_ms: u64,
    pub target: String,
    /// The whole request; without its body where that is not read.
    pub bytes: Vec<u8>,
}

/// A request at the start of a connection's input, and its length.
///
/// # Errors
/// If it is none.
pub fn request(input: &[u8], early: bool) -> Result<Option<usize>, String> {
    let Some(head) = input.windows(4).position(|at| at == b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let text = std::str::from_utf8(&input[..head]).map_err(|error| error.to_string())?;
    if text.starts_with("GET /") {
        return Ok(Some(head));
    }
    if !text.starts_with("POST /") {
        return Err(format!("a request that begins with {:?}", text.lines().next()));
    }
    let length: usize = field(text, "content-length").ok_or("no length")?.parse().map_err(|_| "a wrong length")?;
    Ok((early || input.len() >= head + length).then_some(if early { head } else { head + length }))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The receiver's memory, and what it will answer.
pub struct Receiver {
    pub row: Row,
    /// The record of each key.
    pub keys: BTreeMap<String, usize>,
    /// The requests of each key.
    pub asked: BTreeMap<String, Vec<Asked>>,
    /// Records in the order in which they were first taken.
    pub stored: Vec<usize>,
    /// Records of which everything is done that the receiver had to do, so far.
    pub over: BTreeMap<usize, usize>,
    pub complaints: Vec<String>,
}

impl Receiver {
    pub fn new(row: Row) -> Self {
        let (keys, asked, stored, over) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { row, keys, asked, stored, over, complaints: Vec::new() }
    }

    /// A whole request came; the number of its record, and what to do. `wall_s` is in seconds after 1970.
    pub fn request(&mut self, connection: usize, at_ms: u64, wall_s: u64, bytes: &[u8]) -> (usize, Vec<Act>) {
        let text = String::from_utf8_lossy(bytes);
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let key = match target.strip_prefix("/films/") {
            Some("") => field(&text, "idempotency-key").unwrap_or_default().to_owned(),
            // Asked what it has.
            Some(key) => key.to_owned(),
            None => {
                self.complaints.push(format!("a request for {target}"));
                return (0, Vec::new());
            }
        };
        let whole = !self.row.early && target == "/films/";
        // Where the body is not read, and of one machine, the order of the keys is that of the records.
        let order = self.keys.len();
        let shown = text.rsplit_once("\"m ").and_then(|(_, text)| text.get(..6)?.parse().ok());
        let number = *self.keys.entry(key.clone()).or_insert_with(|| shown.filter(|_| whole).unwrap_or(order));
        if whole && !text.ends_with(&format!("\"{}\"}}", self.row.record(number))) {
            self.complaints.push(format!("{key} is that of record {number}: {text}"));
        }
        let taken = match target.as_str() {
            "/films/" => vec![Act::Store, Act::Send(cases::created())],
            _ => vec![Act::Send(cases::found(&self.row, number))],
        };
        let asked = self.asked.entry(key).or_default();
        asked.push(Asked { connection, at_ms, target, bytes: bytes.to_vec() });
        let Some(case) = self.row.cases.get(number) else {
            self.complaints.push("a key too many".to_owned());
            return (number, taken);
        };
        let acts = case.answers.get(asked.len() - 1).cloned().unwrap_or(taken);
        let machine = machine(&asked[0].bytes).unwrap_or_default();
        let acts = acts.into_iter().map(|act| match act {
            Act::Send(bytes) => Act::Send(replaced(dated(bytes, wall_s), "@MACHINE@", &machine)),
            act => act,
        });
        (number, acts.collect())
    }

    pub fn store(&mut self, number: usize) {
        if !self.stored.contains(&number) {
            self.stored.push(number);
        }
    }

    /// All acts of a request are done.
    pub fn is_over(&mut self, number: usize) {
        *self.over.entry(number).or_default() += 1;
    }

    /// Whether everything is over that was asked for about so many records.
    pub fn rests(&self, records: usize) -> bool {
        let done = |(key, number): (&String, &usize)| self.over.get(number) == Some(&self.asked[key].len());
        self.keys.len() == records && self.keys.iter().all(done)
    }

    /// Judges a row that was played to its end. `delivered`: as the gateway counts; `parked`: the statuses, in order.
    #[track_caller]
    pub fn judge(&self, delivered: u64, parked: &[u16]) {
        let Self { row, keys, stored, complaints, .. } = self;
        assert!(complaints.is_empty(), "{complaints:#?}");
        let keys: BTreeMap<usize, &String> = keys.iter().map(|(key, number)| (*number, key)).collect();
        assert_eq!(keys.len(), self.keys.len(), "each record has one key");
        assert_eq!(keys.len(), row.cases.len(), "each record has a key of its own");
        let mut last = None::<(usize, Option<bool>)>;
        for (case, key) in row.cases.iter().zip(keys.into_values()) {
            let what = &case.what;
            let asked = &self.asked[key];
            let shown = || {
                let line = |asked: &Asked| format!("at {} ms on {}: {}", asked.at_ms, asked.connection, asked.target);
                asked.iter().map(line).collect::<Vec<_>>()
            };
            assert!(case.requests.contains(&asked.len()), "{what}: not {:?} requests: {:#?}", case.requests, shown());
            for other in asked {
                let first = asked.iter().find(|first| first.target == other.target).expect("itself at least");
                assert!(first.bytes == other.bytes, "{what}: the same key with other bytes");
            }
            for (place, pair) in asked.windows(2).enumerate() {
                let moved = pair[0].connection != pair[1].connection;
                assert!(case.moves.is_none_or(|moves| moves == moved), "{what}: moved is {moved}: {:#?}", shown());
                let gap = pair[1].at_ms - pair[0].at_ms;
                let good = case.gaps.get(place).is_none_or(|gaps| gaps.contains(&gap));
                assert!(good, "{what}: {gap} ms before request {}, not {:?}", place + 2, case.gaps[place]);
            }
            if let Some((connection, Some(kept))) = last {
                assert_eq!(asked[0].connection == connection, kept, "before {what}: the connection was kept");
            }
            last = Some((asked.last().expect("one at least").connection, case.kept));
        }
        for machine in 0..row.machines {
            let of_machine: Vec<usize> =
                stored.iter().copied().filter(|number| number % row.machines == machine).collect();
            assert!(of_machine.is_sorted(), "the order of first acceptance: {of_machine:?}");
        }
        let numbers = |end: fn(End) -> bool| {
            let cases = row.cases.iter().enumerate().filter(move |(_, case)| end(case.end));
            cases.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let wanted = numbers(|end| end == End::Delivered);
        assert_eq!(delivered, wanted.len() as u64, "delivered");
        assert!(wanted.iter().all(|number| stored.contains(number)), "acknowledged and not taken: {stored:?}");
        let statuses: Vec<u16> = row
            .cases
            .iter()
            .filter_map(|case| match case.end {
                End::Parked(status) => Some(status),
                End::Delivered => None,
            })
            .collect();
        assert_eq!(parked, statuses, "parked");
    }
}

/// The machine that a record's request names.
fn machine(request: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(request).ok()?;
    Some(text.split_once("\"machine\": \"")?.1.split_once('"')?.0.to_owned())
}

fn replaced(bytes: Vec<u8>, mark: &str, with: &str) -> Vec<u8> {
    let Some(at) = bytes.windows(mark.len()).position(|window| window == mark.as_bytes()) else { return bytes };
    [&bytes[..at], with.as_bytes(), &bytes[at + mark.len()..]].concat()
}

/// Puts dates where they are asked for (RFC 9110 section 5.6.7).
fn dated(bytes: Vec<u8>, wall_s: u64) -> Vec<u8> {
    const MARK: &[u8] = b"@DATE";
    let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) else { return bytes };
    let rest = std::str::from_utf8(&bytes[at + MARK.len()..]).expect("text");
    let (ahead, after) = rest.split_once('@').expect("a date ends");
    let ahead: i64 = ahead.parse().expect("seconds");
    let second = jiff::Timestamp::from_second(wall_s as i64 + ahead).expect("a moment");
    let date = second.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    [&bytes[..at], date.as_bytes(), after.as_bytes()].concat()
}
