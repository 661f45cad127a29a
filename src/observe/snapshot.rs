//! What a shard shows of itself: taken between two turns of its loop, so that its numbers belong together.

use super::losses::LossSnapshot;
use crate::access::{Denial, DenialCounts};
use crate::ground::count::{Counters, LineCounts, StageHistograms, Terms};
use crate::ground::text::about_seconds;
use crate::ground::{FlagCounts, RecordFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Records that a shard keeps aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ParkedList {
    /// All of them.
    pub total: u64,
    /// How many, by source and status.
    pub groups: Vec<ParkedGroup>,
    /// The first of them, by number.
    pub first: Vec<ParkedRecord>,
    /// What was decided about some of them is not done yet, or not durable.
    pub is_disposing: bool,
    /// That what is missing was acknowledged is not durable yet.
    #[serde(skip)]
    pub is_acknowledging: bool,
}

impl ParkedList {
    /// Adds another shard's list.
    pub fn add(&mut self, other: Self) {
        self.total += other.total;
        for group in other.groups {
            match self.groups.iter_mut().find(|own| own.source == group.source && own.status == group.status) {
                Some(own) => own.records += group.records,
                None => self.groups.push(group),
            }
        }
        self.first.extend(other.first);
        self.is_disposing |= other.is_disposing;
        self.is_acknowledging |= other.is_acknowledging;
    }
}

/// Records of one source that the same status parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedGroup {
    /// The configured source.
    pub source: String,
    /// The status.
    pub status: u16,
    /// How many.
    pub records: u64,
}

/// A record that is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedRecord {
    /// CORE-NUMBER, unique in the state directory.
    pub record: String,
    /// The configured source.
    pub source: String,
    /// What `{{source}}` shows.
    pub name: String,
    /// Its sequence id, a JSON token.
    pub id: Option<String>,
    /// Status of the answer that parked it.
    pub status: u16,
    /// How often it was refused.
    pub attempts: u32,
    /// The beginning of that answer.
    pub answer: String,
    /// When its first byte was read, in nanoseconds since 1970.
    pub received_wall_ns: u64,
    /// When it was parked, in nanoseconds since 1970.
    pub parked_wall_ns: u64,
}

/// A record whose delivery has failed, the first one of its lane: it is tried again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailingRecord {
    /// CORE-NUMBER, unique in the state directory.
    pub record: String,
    /// The configured source.
    pub source: String,
    /// What `{{source}}` shows.
    pub name: String,
    /// Failures so far, in this run.
    pub attempts: u32,
    /// Seconds since the first of them.
    pub failing_s: f64,
    /// The last answer's status, if there was one.
    pub status: Option<u16>,
    /// By what it failed last, in words.
    pub answer: String,
    /// Seconds until it is tried again; `None` while it is on its way, or waits for others.
    pub next_s: Option<f64>,
    /// Records of its lane that wait behind it.
    pub behind: u64,
    /// Records of other lanes have arrived since it began to fail.
    pub stuck: bool,
}

impl FailingRecord {
    /// What there is to be known, but for the machine's name.
    pub fn words(&self) -> String {
        let (record, answer) = (&self.record, &self.answer);
        let others = if self.stuck { "is not taken, though those of other machines are" } else { "is not taken" };
        let waiting = match self.behind {
            0 => String::new(),
            1 => "; 1 record waits behind it".to_owned(),
            count => format!("; {count} records wait behind it"),
        };
        format!("record {record} {others}: {}, last: {answer}; {}{waiting}", self.tries(), self.next())
    }

    /// How often it was tried.
    pub fn tries(&self) -> String {
        let times = if self.attempts == 1 { "attempt" } else { "attempts" };
        format!("{} {times} in {}", self.attempts, about_seconds(self.failing_s))
    }

    /// When it is tried again.
    pub fn next(&self) -> String {
        self.next_s.map_or("being tried now".to_owned(), |next_s| format!("next try in {}", about_seconds(next_s)))
    }
}

/// Why bytes did not become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// Longer than the limit.
    Oversized,
    /// The stream ended inside of it, or an idle gap cut it short.
    Unfinished,
    /// The checksum did not match.
    Checksum,
    /// The length field was impossible.
    Length,
    /// The stream was joined inside of it, or bytes of it were lost.
    Joined,
    /// It does not match the framing's expression.
    NotMatched,
    /// Outside of all frames.
    Garbage,
    /// The journal was full.
    Full,
    /// It came with an error of the line, and `on_line_error` rejects it.
    LineError,
    /// It is no text in its source's encoding, and `on_undecodable` rejects it.
    Undecodable,
    /// It is not JSON, where `data_is` says that it must be.
    NotJson,
}

/// The first bytes of something that did not become a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of the Unix epoch.
    pub at_wall_ns: u64,
    /// Why.
    pub reason: Refused,
    /// What was known about it.
    pub flags: RecordFlags,
    /// At most 64 bytes.
    pub bytes: Vec<u8>,
}

impl Serialize for Sample {
    /// As an object: `at` as RFC 3339, `reason`, `flags` as words, `text` with escapes for what is not printable ASCII, `hex`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use crate::ground::text::{hex, rfc3339};
        use serde::ser::SerializeStruct;
        let mut sample = serializer.serialize_struct("Sample", 5)?;
        sample.serialize_field("at", &rfc3339(self.at_wall_ns))?;
        sample.serialize_field("reason", &self.reason)?;
        sample.serialize_field("flags", &self.flags.words().collect::<Vec<_>>())?;
        sample.serialize_field("text", &self.bytes.escape_ascii().to_string())?;
        sample.serialize_field("hex", &hex(&self.bytes))?;
        sample.end()
    }
}

/// Connections and requests of one listener that were refused for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RefusalSnapshot {
    /// The label.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// How many of them, by the SOURCE that the request named; of those that named none nothing is here.
    pub machines: BTreeMap<String, u64>,
    /// The last of them, oldest first; at most 4.
    pub last: Vec<RefusalSample>,
}

impl RefusalSnapshot {
    /// Adds what another core refused.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        for (machine, count) in &other.machines {
            *self.machines.entry(machine.clone()).or_default() += count;
        }
        self.last.extend(other.last.iter().cloned());
        self.last.sort_by_key(|sample| sample.at_wall_ns);
        self.last.drain(..self.last.len().saturating_sub(4));
    }
}

fn counts<S: serde::Serializer>(refused: &[RefusalSnapshot], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(refused.iter().map(|refused| (&refused.reason, refused.count)))
}

/// What was seen of a connection or a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalSample {
    /// When it was last refused, in nanoseconds of the Unix epoch.
    pub at_wall_ns: u64,
    /// How often in a row.
    pub times: u64,
    /// The address that it came from.
    pub peer: Option<IpAddr>,
    /// The SOURCE that it named.
    pub machine: Option<String>,
    /// Its first line without a query, or what came instead of one.
    pub line: String,
    /// The rule that it broke, in words.
    pub rule: String,
}

impl Serialize for RefusalSample {
    /// As an object, with `at` as RFC 3339.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut sample = serializer.serialize_struct("RefusalSample", 6)?;
        sample.serialize_field("at", &crate::ground::text::rfc3339(self.at_wall_ns))?;
        sample.serialize_field("times", &self.times)?;
        sample.serialize_field("peer", &self.peer)?;
        sample.serialize_field("machine", &self.machine)?;
        sample.serialize_field("line", &self.line)?;
        sample.serialize_field("rule", &self.rule)?;
        sample.end()
    }
}

/// What happened on a serial line while its port was open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LineSnapshot {
    /// Breaks that the tty marked in the stream.
    pub breaks: u64,
    /// Bytes that the tty marked as received with a parity or framing error.
    pub errors: u64,
    /// What the driver counted; `None` where it keeps no counts, as with ptys.
    pub driver: Option<LineCounts>,
}

/// One configured source, as one shard sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SourceSnapshot {
    /// Configured name.
    pub name: String,
    /// `serial`, `tcp_listen`, `tcp_connect` or `http`.
    pub kind: &'static str,
    /// Open ports or connections now.
    pub open: u64,
    /// Records received, rejected ones included.
    pub received: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records kept that have a flag, by flag.
    pub flagged: FlagCounts,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes outside of all frames.
    pub garbage_bytes: u64,
    /// Bytes that were read and wait to be framed until the journal has room.
    pub held_bytes: u64,
    /// The last of what did not become a record, oldest first; at most 8.
    pub samples: Vec<Sample>,
    /// Who was turned away, of a listener: by reason.
    pub denied: DenialCounts,
    /// What was refused, of a listener: by reason, for who sent it or for what it was. Shown here are the counts.
    #[serde(serialize_with = "counts")]
    pub refused: Vec<RefusalSnapshot>,
    /// Seconds since the last byte, if there was one.
    pub silent_s: Option<f64>,
    /// Nothing has come for longer than `silence_alarm`.
    pub silent: bool,
    /// What is wrong with it now, in words for the operator: missing, busy, silent …
    pub problem: Option<String>,
    /// Of a `serial` source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineSnapshot>,
}

impl SourceSnapshot {
    /// For what somebody can be turned away by such a source.
    pub fn reasons_to_deny(&self) -> &'static [Denial] {
        match self.kind {
            "http" => &Denial::ALL,
            "tcp_listen" => &[Denial::Network],
            _ => &[],
        }
    }
}

/// Delivery, as one shard sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteSnapshot {
    /// The URL's authority.
    pub authority: String,
    /// Open connections.
    pub connections: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Why deliveries fail now, in words; `None` while they succeed.
    pub problem: Option<String>,
    /// Seconds since the last success, if there was one.
    pub last_success_s: Option<f64>,
    /// Seconds until something is sent again, where all wait; on several cores, until the first one does.
    pub waits_s: Option<f64>,
    /// It is the service that said for how long, by Retry-After.
    pub waits_as_told: bool,
}

/// The journal of one shard.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JournalSnapshot {
    /// Segment files in use.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of records in memory.
    pub window_bytes: u64,
    /// Records that lie behind the window, to be read back.
    pub behind: u64,
    /// How long the oldest block has waited to be on disk, in seconds; 0 where none waits.
    pub commit_age_s: f64,
    /// Whether intake pauses because the journal is full or failed, in words.
    pub problem: Option<String>,
    /// What is missing in them and nobody has acknowledged; `/api/status` shows those of all cores.
    #[serde(skip)]
    pub losses: Vec<LossSnapshot>,
    /// That a block file was removed while it is in use, in words.
    pub block_file_lost: Option<String>,
}

/// All of one shard.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Index of the core thread.
    pub core: u16,
    /// The identity's terms.
    pub terms: Terms,
    /// Event counts.
    pub counters: Counters,
    /// Latencies.
    pub stages: StageHistograms,
    /// The sources that this shard runs, in configured order.
    pub sources: Vec<SourceSnapshot>,
    /// The API's authorities.
    pub routes: Vec<RouteSnapshot>,
    /// Its journals together.
    pub journal: JournalSnapshot,
    /// Lanes in memory: those behind the window that nobody sends into are not.
    pub lanes: u64,
    /// Lanes that stand still while others get through.
    pub lanes_stuck: u64,
    /// The records that fail, those of such lanes first; at most 100.
    pub failing: Vec<FailingRecord>,
    /// Age in seconds of the oldest record in memory that waits to be delivered, of each source that has one.
    pub oldest_pending_s: BTreeMap<String, f64>,
    /// Sequence ids that were given ahead and are not used: the first and the last of each run of them.
    pub unused_ids: Vec<(u64, u64)>,
}
