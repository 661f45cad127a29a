//! What is counted and measured: the terms of the accounting identity, events, latencies, and what
//! drivers count on a line.
//!
//! A counter belongs to one thread, which adds to it. It never says when it was read: that is a
//! snapshot's.

#[cfg(feature = "bench-blind")]
mod blind;
mod line;
mod stage;

pub use line::{DriverCounts, LineCounts};
pub use stage::{Stage, StageHistograms};

use serde::Serialize;

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
use blind::Count;

macro_rules! counters {
    ($($(#[doc = $help:literal])+ pub $name:ident: u64,)*) => {
        /// Event counts since the process started. Each is a Prometheus counter of the same name
        /// with `ringest_` before and `_total` behind; the comment is its help text.
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
    /// Records delivered without an end of their own: an idle gap cut them short, or the stream
    /// ended.
    pub unended_records: u64,
    /// Records rejected because the stream ended inside them, or an idle gap cut them short.
    pub rejected_unfinished: u64,
    /// Records rejected because their checksum did not match.
    pub rejected_checksum: u64,
    /// Records rejected because their length field was impossible.
    pub rejected_length: u64,
    /// Records rejected because the stream was joined inside of them, or bytes of them were lost.
    pub rejected_joined: u64,
    /// Records rejected because they do not match the framing's expression.
    pub rejected_unmatched: u64,
    /// Bytes outside of all frames, before a start.
    pub garbage_bytes: u64,
    /// Records rejected because the journal was full.
    pub rejected_full: u64,
    /// Records rejected because they came with a parity or framing error or a break.
    pub rejected_line_error: u64,
    /// Records rejected because they were no text in their source's encoding.
    pub rejected_undecodable: u64,
    /// Records rejected because they were not JSON.
    pub rejected_not_json: u64,
    /// Records that were no text in their source's encoding, and are delivered.
    pub undecodable_records: u64,
    /// Breaks seen on serial lines.
    pub line_breaks: u64,
    /// Bytes received with a parity or framing error on serial lines.
    pub line_errors: u64,
    /// Records sent for the first time whose data was no text in its encoding where the template asks
    /// for text.
    pub lossy_records: u64,
    /// Connections accepted from machines.
    pub accepted_connections: u64,
    /// Times that a listener stopped accepting, since it or the gateway had as many connections as it may.
    pub accepts_paused: u64,
    /// Connections and requests of machines that were turned away, for who sent them.
    pub denied: u64,
    /// Requests without a good token whose answers were held back, since their address has failed often.
    pub denied_late: u64,
    /// Secrets that people type which were looked at.
    pub secrets_looked_at: u64,
    /// Requests that were put off by 503, since too many such secrets waited to be looked at.
    pub secrets_put_off: u64,
    /// Times a serial port or an outgoing source was opened.
    pub opened_sources: u64,
    /// Times a serial port hung up or an outgoing source was lost.
    pub lost_sources: u64,
    /// Connections that were ended since nothing came on them for as long as they may be silent.
    pub idle_connections_ended: u64,
    /// HTTP requests answered with 2xx.
    pub http_accepted: u64,
    /// HTTP requests answered with 4xx or 501, 505.
    pub http_refused: u64,
    /// HTTP requests answered with 503.
    pub http_unavailable: u64,
    /// HTTP requests that were held back for want of room, for a moment.
    pub http_held_back: u64,
    /// HTTP requests that were known by their keys, and are no records of their own.
    pub http_repeated: u64,
    /// HTTP connections closed without an answer, since their records were not on disk after 30 s;
    /// they are delivered once they are.
    pub http_unanswered: u64,
    /// TLS handshakes with machines that were completed.
    pub tls_handshakes: u64,
    /// Those of them that resumed an earlier session, which costs little.
    pub tls_resumed: u64,
    /// TLS handshakes with machines that waited for a later turn, since too many begin at once.
    pub tls_put_off: u64,
    /// Connections of machines that spoke something else where TLS is spoken.
    pub tls_failed_plain: u64,
    /// TLS handshakes with machines that offer too old a version, or nothing that is taken.
    pub tls_failed_offer: u64,
    /// TLS handshakes with machines without a certificate that is accepted.
    pub tls_failed_certificate: u64,
    /// TLS handshakes with machines that do not accept the certificate of their source.
    pub tls_failed_untrusted: u64,
    /// TLS handshakes with machines that did not end in time.
    pub tls_failed_late: u64,
    /// TLS handshakes that machines left in their middle.
    pub tls_failed_left: u64,
    /// TLS sessions with machines that failed otherwise.
    pub tls_failed_other: u64,
    /// Connections of machines that began TLS where none is spoken.
    pub tls_hellos_on_plain_ports: u64,
    /// Requests sent to the API.
    pub api_requests: u64,
    /// Requests to the API that were sent again on a new connection because a kept-alive one was
    /// stale.
    pub api_resent: u64,
    /// Answers of the API that were no success, and requests without an answer; each leads to a
    /// retry.
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
    /// Segments whose unsettled records were rewritten densely into one, so that the others could
    /// be freed.
    pub journal_rewritten: u64,
    /// Errors of journal files.
    pub journal_errors: u64,
    /// Writes of blocks that the kernel did not take (EAGAIN), and that were asked for again.
    pub journal_again: u64,
    /// Segments that were sealed for good after an error of a write or sync.
    pub journal_sealed: u64,
    /// Waiting records that a loss of power may take, since their segment could not be synced and
    /// they had left memory.
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
