//! What a shard shows of itself: taken between two turns of its loop, so that its numbers belong together.

use crate::source::serial::LineCounts;
use hdrhistogram::Histogram;
use serde::Serialize;

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

/// The terms of the accounting identity, counted in records since the process started:
/// received + recovered = delivered + pending + parked + rejected + discarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Records framed from sources, rejected ones included.
    pub received: u64,
    /// Unsettled and parked records found in the journal at start.
    pub recovered: u64,
    /// Answered with success.
    pub delivered: u64,
    /// Kept, on their way.
    pub pending: u64,
    /// Kept aside for an operator.
    pub parked: u64,
    /// Not accepted, by a documented rule.
    pub rejected: u64,
    /// Parked records that an operator deleted.
    pub discarded: u64,
}

impl Terms {
    /// Whether the identity holds.
    pub fn balance(&self) -> bool {
        self.received + self.recovered == self.delivered + self.pending + self.parked + self.rejected + self.discarded
    }

    /// Adds another shard's terms.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.recovered += other.recovered;
        self.delivered += other.delivered;
        self.pending += other.pending;
        self.parked += other.parked;
        self.rejected += other.rejected;
        self.discarded += other.discarded;
    }
}

/// A count of events.
#[cfg(not(feature = "bench-blind"))]
type Count = u64;
/// A count of nothing: what is added to it is gone.
#[cfg(feature = "bench-blind")]
use super::blind::Count;

macro_rules! counters {
    ($($(#[doc = $help:literal])+ pub $name:ident: u64,)*) => {
        /// Event counts since the process started. Each is a Prometheus counter of the same name with `ringest_` before
        /// and `_total` behind; the comment is its help text.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: Count,)*
        }

        impl Counters {
            /// Adds another shard's counters.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Each counter's name, help text and value, in the order of their declaration.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($name), concat!($($help),+).trim_ascii(), u64::from(self.$name)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Bytes read from sources.
    pub received_bytes: u64,
    /// Frames without a byte, which are no records.
    pub empty_frames: u64,
    /// Records longer than the limit that were cut and flagged.
    pub cut_records: u64,
    /// Records rejected because they were longer than the limit.
    pub rejected_oversized: u64,
    /// Records delivered without an end of their own: an idle gap cut them short, or the stream ended.
    pub unended_records: u64,
    /// Records rejected because the stream ended inside them, or an idle gap cut them short.
    pub rejected_unfinished: u64,
    /// Records rejected because their checksum did not match.
    pub rejected_checksum: u64,
    /// Records rejected because their length field was impossible.
    pub rejected_length: u64,
    /// Bytes outside of all frames, before a start.
    pub garbage_bytes: u64,
    /// Records rejected because the journal was full.
    pub rejected_full: u64,
    /// Breaks seen on serial lines.
    pub line_breaks: u64,
    /// Bytes received with a parity or framing error on serial lines.
    pub line_errors: u64,
    /// Records whose data was not valid UTF-8 where the template asks for text.
    pub lossy_records: u64,
    /// Connections accepted from machines.
    pub accepted_connections: u64,
    /// Times a serial port or an outgoing source was opened.
    pub opened_sources: u64,
    /// Times a serial port hung up or an outgoing source was lost.
    pub lost_sources: u64,
    /// HTTP requests answered with 2xx.
    pub http_accepted: u64,
    /// HTTP requests answered with 4xx or 501, 505.
    pub http_refused: u64,
    /// HTTP requests answered with 503.
    pub http_unavailable: u64,
    /// HTTP connections closed without an answer, since their records were not on disk after 30 s; they are delivered once they are.
    pub http_unanswered: u64,
    /// Requests sent to the API.
    pub api_requests: u64,
    /// Requests to the API that were sent again on a new connection because a kept-alive one was stale.
    pub api_resent: u64,
    /// Answers of the API that were no success, and requests without an answer; each leads to a retry.
    pub api_failures: u64,
    /// Batches that were cut in halves, since they were refused.
    pub batch_splits: u64,
    /// Answers that refused a record; it is tried again, and in the end parked.
    pub api_refusals: u64,
    /// Times that the API was asked what it has under a record's id.
    pub api_confirms: u64,
    /// Records that were parked.
    pub parked_records: u64,
    /// Parked records that were brought back to be delivered.
    pub retried_records: u64,
    /// Times that a step was held back: it failed for all, or was told to wait.
    pub api_holds: u64,
    /// Connections opened to the API.
    pub api_connects: u64,
    /// Connects to the API that failed.
    pub api_connect_failures: u64,
    /// TLS handshakes with the API that were completed.
    pub api_tls_handshakes: u64,
    /// Those of them that resumed an earlier session, which costs little.
    pub api_tls_resumed: u64,
    /// TLS handshakes with the API that failed, certificates that were not accepted among them.
    pub api_tls_failures: u64,
    /// Send operations to the API; records per send is the measure of batching.
    pub api_sends: u64,
    /// Blocks written to segments.
    pub journal_writes: u64,
    /// Bytes written to segments.
    pub journal_bytes: u64,
    /// Reads of segments to bring records back into memory.
    pub journal_read_backs: u64,
    /// Segments freed.
    pub journal_freed: u64,
    /// Segments whose unsettled records were rewritten densely into one, so that the others could be freed.
    pub journal_rewritten: u64,
    /// Errors of journal files.
    pub journal_errors: u64,
    /// Segments that were sealed for good after an error of a write or sync.
    pub journal_sealed: u64,
    /// Waiting records that a loss of power may take, since their segment could not be synced and they had left memory.
    pub journal_unsafe_records: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that began with a wake from sleep.
    pub wakes: u64,
    /// Completions handled.
    pub completions: u64,
    /// io_uring_enter calls on the data ring.
    pub enters: u64,
    /// Multishot reads ended for want of buffers, and armed again.
    pub buffers_exhausted: u64,
}

/// A stage of a record's way. The clock is read once a turn of the loop, so what begins and ends in one turn has taken no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// First byte to the read that brought the frame's end.
    Frame,
    /// That read to the copy in the journal's block: no time, unless the journal had no room.
    Journaled,
    /// The copy to committed; measured at level `power` only. Only HTTP machines' records wait for it: with the others it runs
    /// beside the next stages.
    Durable,
    /// In the block to the id's answer, waiting in the lane included; with `[sequence]` only.
    Id,
    /// The id (or the block, without `[sequence]`) to the answer that delivered it.
    Answered,
    /// First byte to the answer that delivered it.
    Whole,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 6] = [Self::Frame, Self::Journaled, Self::Durable, Self::Id, Self::Answered, Self::Whole];

    /// Name in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Journaled => "journaled",
            Self::Durable => "durable",
            Self::Id => "id",
            Self::Answered => "answered",
            Self::Whole => "whole",
        }
    }

    /// What it is measured from and to, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::Frame => "first byte to frame end",
            Self::Journaled => "to the journal's block",
            Self::Durable => "to committed",
            Self::Id => "block to the id's answer",
            Self::Answered => "to the record's answer",
            Self::Whole => "first byte to the answer",
        }
    }
}

/// One histogram a stage, in nanoseconds, 2 significant digits, up to an hour; longer is recorded as an hour.
#[derive(Debug, Clone)]
pub struct StageHistograms([Histogram<u64>; Stage::ALL.len()]);

impl StageHistograms {
    /// The largest value kept apart, in nanoseconds.
    pub const MAX_NS: u64 = 3_600_000_000_000;

    /// Empty histograms.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Histogram::new_with_bounds(1, Self::MAX_NS, 2).expect("valid bounds")))
    }

    /// Records one duration.
    #[inline]
    pub fn record(&mut self, stage: Stage, ns: u64) {
        if cfg!(feature = "bench-blind") {
            return;
        }
        self.0[stage as usize].saturating_record(ns.clamp(1, Self::MAX_NS));
    }

    /// Records one duration of `count` records.
    #[inline]
    pub fn record_n(&mut self, stage: Stage, ns: u64, count: u64) {
        if cfg!(feature = "bench-blind") {
            return;
        }
        self.0[stage as usize].saturating_record_n(ns.clamp(1, Self::MAX_NS), count);
    }

    /// A stage's histogram.
    pub fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.0[stage as usize]
    }

    /// Adds another shard's histograms.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            own.add(other).expect("all have the same bounds");
        }
    }
}

impl Default for StageHistograms {
    fn default() -> Self {
        Self::new()
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
    /// Outside of all frames.
    Garbage,
    /// The journal was full.
    Full,
}

/// The first bytes of something that did not become a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of the Unix epoch.
    pub at_wall_ns: u64,
    /// Why.
    pub reason: Refused,
    /// At most 64 bytes.
    pub bytes: Vec<u8>,
}

impl Serialize for Sample {
    /// As an object: `at` as RFC 3339, `reason`, `text` with escapes for what is not printable ASCII, `hex`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use crate::ground::text::{hex, rfc3339};
        use serde::ser::SerializeStruct;
        let mut sample = serializer.serialize_struct("Sample", 4)?;
        sample.serialize_field("at", &rfc3339(self.at_wall_ns))?;
        sample.serialize_field("reason", &self.reason)?;
        sample.serialize_field("text", &self.bytes.escape_ascii().to_string())?;
        sample.serialize_field("hex", &hex(&self.bytes))?;
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
    /// Bytes read.
    pub bytes: u64,
    /// Bytes outside of all frames.
    pub garbage_bytes: u64,
    /// Bytes that were read and wait to be framed until the journal has room.
    pub held_bytes: u64,
    /// The last of what did not become a record, oldest first; at most 8.
    pub samples: Vec<Sample>,
    /// Seconds since the last byte, if there was one.
    pub silent_s: Option<f64>,
    /// What is wrong with it now, in words for the operator: missing, busy, silent …
    pub problem: Option<String>,
    /// Of a `serial` source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineSnapshot>,
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
    /// Open lanes.
    pub lanes: u64,
    /// Sequence ids that were given ahead and are not used: the first and the last of each run of them.
    pub unused_ids: Vec<(u64, u64)>,
}
