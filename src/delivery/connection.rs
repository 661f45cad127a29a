//! One kept-alive connection to the API: the requests in flight on it, in order, and the reader of their answers.

use super::Answer;
use crate::ground::{LaneId, Moment};
use crate::http::client::{ResponseReader, RetryAfter};
use std::collections::VecDeque;

/// Which step a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A sequence id is asked for.
    Id,
    /// The record is posted.
    Record,
    /// The service is asked what it has under the record's id.
    Confirm,
}

/// A request without its answer.
#[derive(Debug, Clone, Copy)]
pub struct InFlight {
    /// The lane whose first record it carries.
    pub lane: LaneId,
    /// Which step.
    pub step: Step,
    /// When it was sent, in monotonic nanoseconds.
    pub sent_ns: u64,
    /// The answer's status once its header is whole, else 0.
    pub status: u16,
    /// The answer has the media type that it must have.
    pub typed: bool,
    /// The record is delivered: the header said so, or the body too.
    pub delivered: bool,
    /// When the answer says to try again.
    pub retry_after: Option<RetryAfter>,
}

/// A connection to the API.
#[derive(Debug, Default)]
pub struct Connection {
    /// The connect is over.
    pub open: bool,
    /// Reads answers.
    pub reader: ResponseReader,
    /// Requests without their whole answer, oldest first.
    pub in_flight: VecDeque<InFlight>,
    /// Requests rendered for the next send; its allocation moves into the send and back.
    pub out: Vec<u8>,
    /// A send is under way.
    pub sending: bool,
    /// A send has failed: nothing more is sent.
    pub broken: bool,
    /// Answers so far.
    pub answered: u64,
    /// Listed as having room.
    pub listed: bool,
    /// When the last answer ended, or the connect: since then nothing is in flight on an idle connection. While it connects,
    /// when that began.
    pub idle_ns: u64,
    /// When its timer is set for.
    pub timer: Option<Moment>,
    /// What the oldest request's answer says, so far.
    pub answer: Answer,
}

impl Connection {
    /// Whether another request may be rendered.
    pub fn has_room(&self, pipeline: usize) -> bool {
        self.open && !self.sending && !self.broken && self.in_flight.len() < pipeline
    }

    /// When something must have happened: the oldest answer, or the end of idling.
    pub fn deadline_ns(&self, timeout_ns: u64, idle_ns: u64) -> u64 {
        match self.in_flight.front() {
            Some(request) => request.sent_ns + timeout_ns,
            None => self.idle_ns + idle_ns,
        }
    }
}
