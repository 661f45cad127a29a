//! What keeps its order: one queue of records, one of them in flight.

use super::batch::Batch;
use crate::delivery::Step;
use crate::ground::{LaneNumber, RecordNumber};
use crate::journal::{Location, OriginRef, Position};
use crate::shard::JournalId;
use std::collections::VecDeque;

/// Records of one lane in memory, so that a flood of tiny ones cannot grow the index without bound. At level `memory` there is
/// no other place for them, and `max_size` is the bound.
pub(super) const LANE_RECORDS_MAX: usize = 16_384;

/// A record in memory that is to be delivered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub number: RecordNumber,
    pub at: Location,
    pub origin: OriginRef,
    /// When its first byte was read and when it was journaled, in monotonic nanoseconds; 0 after a start or a read-back.
    pub first_byte_ns: u64,
    pub journaled_ns: u64,
}

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing in memory to deliver.
    Idle,
    /// Listed to be sent.
    Ready,
    /// Its first record is on its way.
    InFlight,
    /// Its first record is tried again later.
    Backoff,
    /// Its step is held back, for all lanes.
    Held,
    /// Another lane carries its first records.
    InBatch,
    /// It waits for a sequence id that another lane has asked for.
    AwaitsId,
    /// Its first record may not be sent before it is durable.
    AwaitsDurable,
    /// An older lane of the same source goes first.
    AwaitsLane,
}

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub generation: u32,
    pub journal: JournalId,
    /// Its number in the journal.
    pub number: LaneNumber,
    pub queue: VecDeque<Waiting>,
    /// Extents that the queue holds, counted in order.
    pub extents: u32,
    /// Records that are not settled, in memory and behind.
    pub pending: u64,
    /// From this record number on, found from this position on, nothing is in `queue`.
    pub behind: Option<(RecordNumber, Position)>,
    /// The running scan passed a record of this lane without taking it.
    pub skipped: bool,
    pub doing: Doing,
    pub step: Step,
    /// The sequence id of the first record.
    pub id: Option<Box<str>>,
    /// Ids of the records behind the first one, as far as they have been sent in a batch.
    pub more_ids: VecDeque<Box<str>>,
    /// The batch that it carries: more than its first record, or more than its own.
    pub batch: Option<Batch>,
    /// So many records, behind those of a batch that it is in, were with them in one that was refused: they go without those of other
    /// lanes, and without more of their own.
    pub cut: usize,
    /// The first record goes alone: a batch with it was refused.
    pub solo: bool,
    /// When the current step could begin: the record was journaled, or its id came.
    pub step_ns: u64,
    pub attempts: u32,
    /// Answers that refused its first record.
    pub refusals: u32,
    /// Failures in a row of the batch that it carries, as far as its records may be to blame.
    pub failures: u32,
    /// When its first record, or that batch, began to fail so, in monotonic nanoseconds.
    pub failing_since_ns: Option<u64>,
    /// The last of the refusals, while the service is asked what it has.
    pub refusal: Option<(u16, Box<[u8]>)>,
    /// The first record was sent again on a new connection since the old one was stale.
    pub resent: bool,
    /// Links and sources that still append to it.
    pub appenders: u32,
    /// A record may be delivered only once it is durable (HTTP).
    pub needs_durable: bool,
    /// Its records were parked: the lane of their machine is another one.
    pub brought_back: bool,
    /// A lane that waits until this one is empty.
    pub successor: Option<u32>,
}

impl Lane {
    pub fn new(generation: u32, journal: JournalId, number: LaneNumber) -> Self {
        Self {
            generation,
            journal,
            number,
            queue: VecDeque::new(),
            extents: 0,
            pending: 0,
            behind: None,
            skipped: false,
            doing: Doing::Idle,
            step: Step::Record,
            id: None,
            more_ids: VecDeque::new(),
            batch: None,
            cut: 0,
            solo: false,
            step_ns: 0,
            attempts: 0,
            refusals: 0,
            failures: 0,
            failing_since_ns: None,
            refusal: None,
            resent: false,
            appenders: 0,
            needs_durable: false,
            brought_back: false,
            successor: None,
        }
    }

    /// Whether nothing of it is sent, for a time that others do not wait for: its memory may be needed more elsewhere.
    pub fn is_stalled(&self) -> bool {
        self.batch.is_none() && matches!(self.doing, Doing::Backoff | Doing::AwaitsLane | Doing::AwaitsId)
    }

    /// Appends a record that the journal holds.
    pub fn push(&mut self, waiting: Waiting) {
        if self.queue.back().is_none_or(|last| last.at.extent != waiting.at.extent) {
            self.extents += 1;
        }
        self.queue.push_back(waiting);
    }

    /// Takes the first record out.
    pub fn pop(&mut self) -> Option<Waiting> {
        let first = self.queue.pop_front()?;
        if self.queue.front().is_none_or(|next| next.at.extent != first.at.extent) {
            self.extents -= 1;
        }
        Some(first)
    }

    /// The first record is settled: what was known of its attempts is of no more use.
    pub fn next_record(&mut self) {
        self.id = self.more_ids.pop_front();
        self.step = Step::Record; // unless it is to ask for an id first
        self.solo = false;
        (self.attempts, self.refusals, self.refusal) = (0, 0, None);
        (self.failures, self.failing_since_ns) = (0, None);
        self.resent = false;
    }

    /// Whether the queue may take a record that lies in `extent`.
    pub fn has_room(&self, extent: u32, extents_max: u32) -> bool {
        let more = u32::from(self.queue.back().is_none_or(|last| last.at.extent != extent));
        self.extents + more <= extents_max && self.queue.len() < LANE_RECORDS_MAX
    }

    /// Whether reading back for it is worth a walk.
    pub fn is_hungry(&self, extents_max: u32) -> bool {
        self.behind.is_some() && self.extents <= extents_max / 2 && self.queue.len() < LANE_RECORDS_MAX / 2
    }

    /// Whether nothing is left of it.
    pub fn is_done(&self) -> bool {
        self.appenders == 0 && self.pending == 0
    }
}
