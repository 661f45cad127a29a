//! Who waits for room in the journal, in the order in which they came to wait. Whoever comes later
//! waits behind them, also where there is room by then: a request that is sent again does not go
//! before a line that has waited.
//!
//! Lines that nothing holds back have a queue of their own. They go first, and the journal keeps room
//! for them that the others do not get.

use crate::ground::LinkId;
use crate::journal::Claim;
use crate::shard::links::{Kind, Links};
use std::collections::VecDeque;

/// One who waits, and can be held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    Stream(LinkId),
    /// A request of an HTTP machine.
    Machine(LinkId),
    /// The oldest request of another core that is held back.
    Guest,
}

impl Queued {
    fn is_request(&self) -> bool {
        !matches!(self, Self::Stream(_))
    }
}

/// All of one core who wait for room.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    lines: VecDeque<LinkId>,
    others: VecDeque<Queued>,
    /// How many of these are requests.
    requests: usize,
    /// The first of a queue is being asked whether it can go on: nobody is before it.
    asks_first: bool,
    /// The first one waits for room that nobody makes: who can be told so does not wait behind it.
    lasts: bool,
}

impl RoomQueue {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.others.is_empty()
    }

    /// Whether a stream waits.
    pub fn has_streams(&self) -> bool {
        !self.lines.is_empty() || self.others.len() > self.requests
    }

    /// Whether somebody waits who goes before a sender that asks for room now.
    #[inline]
    pub fn is_before(&self, claim: Claim) -> bool {
        !self.asks_first && (!self.lines.is_empty() || claim == Claim::Waits && !self.others.is_empty())
    }

    /// Whether requests wait.
    pub fn has_requests(&self) -> bool {
        self.requests > 0
    }

    /// Whether who would have to wait is to be told that there is no room.
    pub fn lasts(&self) -> bool {
        self.lasts && !self.is_empty()
    }

    pub fn set_lasts(&mut self, lasts: bool) {
        self.lasts = lasts;
    }

    /// Those who can be told so, out of the queue.
    pub fn take_requests(&mut self) -> Vec<Queued> {
        let requests = self.others.iter().copied().filter(Queued::is_request).collect();
        self.others.retain(|queued| !queued.is_request());
        self.requests = 0;
        requests
    }

    /// A stream has to wait: behind all others, or, where it was the first, in front as before.
    pub fn push_stream(&mut self, link: LinkId, claim: Claim) {
        match (claim, self.asks_first) {
            (Claim::Waits, _) => self.push(Queued::Stream(link)),
            (Claim::CannotWait, true) => self.lines.push_front(link),
            (Claim::CannotWait, false) => self.lines.push_back(link),
        }
    }

    /// One who can be held back has to wait, as above.
    pub fn push(&mut self, queued: Queued) {
        self.requests += usize::from(queued.is_request());
        match self.asks_first {
            true => self.others.push_front(queued),
            false => self.others.push_back(queued),
        }
    }

    pub fn pop_line(&mut self) -> Option<LinkId> {
        self.lines.pop_front()
    }

    pub fn pop(&mut self) -> Option<Queued> {
        let first = self.others.pop_front()?;
        self.requests -= usize::from(first.is_request());
        Some(first)
    }

    /// Nobody is before the one who was taken off last, until this is said to be over.
    pub fn set_asks_first(&mut self, asks_first: bool) {
        self.asks_first = asks_first;
    }

    /// Streams that hold nothing more, and are to be read once nobody waits.
    pub fn append(&mut self, streams: Vec<LinkId>) {
        self.others.extend(streams.into_iter().map(Queued::Stream));
    }

    /// Intake ends: streams wait no more.
    pub fn forget_streams(&mut self) {
        self.lines.clear();
        self.others.retain(Queued::is_request);
    }

    /// Forgets those that have gone meanwhile, where they may be many; `guests`: requests of other cores
    /// that are held back.
    pub fn forget_gone(&mut self, links: &Links, mut guests: usize) {
        if self.others.len() <= 2 * (links.len() + guests) {
            return;
        }
        self.others.retain(|queued| match queued {
            Queued::Stream(link) => links.is_open(*link, Kind::Stream),
            Queued::Machine(link) => links.is_open(*link, Kind::Http),
            Queued::Guest => guests.checked_sub(1).map(|left| guests = left).is_some(),
        });
        self.requests = self.count_requests();
    }

    fn count_requests(&self) -> usize {
        self.others.iter().filter(|queued| queued.is_request()).count()
    }

    /// That the count is right.
    pub fn check(&self) {
        assert_eq!(self.requests, self.count_requests(), "requests that wait for room");
    }

    /// Whether a machine's request is listed.
    pub fn has_machine(&self, link: LinkId) -> bool {
        self.others.contains(&Queued::Machine(link))
    }

    /// Whether a stream is listed.
    pub fn has_stream(&self, link: LinkId) -> bool {
        self.lines.contains(&link) || self.others.contains(&Queued::Stream(link))
    }
}
