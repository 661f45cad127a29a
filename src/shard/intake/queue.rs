//! Who waits for room in the journal, in the order in which they came to wait. Whoever comes later
//! waits behind them, also where there is room by then: a request that is sent again does not go
//! before a line that has waited.
//!
//! Lines that nothing holds back have a queue of their own. They go first, and the journal keeps room
//! for them that the others do not get.
//!
//! A request that is refused does not wait here: it is sent again, and streams that are read at once
//! would have the room by then. So room that comes free after the journal was full is taken by turns.
//! When all who wait have had theirs, either streams are read on, or they *rest* first, until the
//! requests that were refused should be back.

use crate::ground::LinkId;
use crate::journal::Claim;
use crate::shard::intake::sender::RETRY_AFTER_S;
use crate::shard::links::{Kind, Links};
use std::collections::VecDeque;

/// How long after its refusal a request should be back: it was told when to come, and has a way.
const BACK_NS: u64 = RETRY_AFTER_S as u64 * 1_500_000_000;

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
    turns: Turns,
}

/// Whose turn it is to take room that came free.
#[derive(Debug, Default)]
struct Turns {
    /// The journal was full since somebody last had a turn.
    was_full: bool,
    /// When the requests that were refused should be back, in monotonic nanoseconds.
    back_ns: u64,
    /// The last turn was that of requests.
    requests_were_last: bool,
    /// Until when requests have theirs, in monotonic nanoseconds.
    until_ns: u64,
    /// Streams that hold nothing, and are read again after that.
    resting: Vec<LinkId>,
    /// When somebody is woken for that, in monotonic nanoseconds.
    woken_ns: u64,
}

impl Turns {
    /// Who of the resting is read on now.
    fn share_out(&mut self, now_ns: u64) -> Vec<LinkId> {
        if !self.resting.is_empty() && std::mem::take(&mut self.was_full) {
            let is_theirs = !self.requests_were_last && now_ns < self.back_ns;
            self.requests_were_last = is_theirs;
            self.until_ns = if is_theirs { self.back_ns } else { now_ns };
        }
        if now_ns < self.until_ns { Vec::new() } else { std::mem::take(&mut self.resting) }
    }
}

impl RoomQueue {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.others.is_empty()
    }

    /// Whether a stream waits.
    pub fn has_streams(&self) -> bool {
        !self.lines.is_empty() || self.others.len() > self.requests || !self.turns.resting.is_empty()
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
        self.turns.was_full |= lasts;
    }

    /// A request is refused, since the journal is full: it should be back soon.
    pub fn refuse(&mut self, now_ns: u64) {
        self.turns.was_full = true;
        self.turns.back_ns = now_ns + BACK_NS;
    }

    /// Nobody waits: those of the streams that are read on now. `framed`: streams that hold nothing any
    /// more.
    pub fn share_out(&mut self, now_ns: u64, framed: Vec<LinkId>) -> Vec<LinkId> {
        self.turns.resting.extend(framed);
        self.turns.share_out(now_ns)
    }

    /// When streams that rest are to be read on, if nobody was told so yet; in monotonic nanoseconds.
    pub fn wake_ns(&mut self) -> Option<u64> {
        let Turns { resting, until_ns, woken_ns, .. } = &mut self.turns;
        let is_new = !resting.is_empty() && std::mem::replace(woken_ns, *until_ns) != *until_ns;
        is_new.then_some(*until_ns)
    }

    /// Streams whose rest is over wait as all others do: requests may come without an end, and the queue
    /// never be empty.
    pub fn end_rest(&mut self, now_ns: u64) {
        if now_ns >= self.turns.until_ns {
            self.others.extend(self.turns.resting.drain(..).map(Queued::Stream));
        }
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
        self.turns.resting.clear();
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
        let rests = || self.turns.resting.contains(&link);
        self.lines.contains(&link) || self.others.contains(&Queued::Stream(link)) || rests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32) -> LinkId {
        LinkId { index, generation: 1 }
    }

    #[test]
    fn room_that_comes_free_is_taken_by_turns_while_requests_are_refused() {
        let mut queue = RoomQueue::default();
        assert_eq!(queue.share_out(0, vec![link(1)]), [link(1)], "nobody was refused");
        queue.refuse(10);
        assert_eq!(queue.share_out(20, vec![link(1), link(2)]), [], "requests are awaited");
        assert!(queue.has_streams() && queue.has_stream(link(2)));
        assert_eq!((queue.wake_ns(), queue.wake_ns()), (Some(10 + BACK_NS), None));
        assert_eq!(queue.share_out(10 + BACK_NS, vec![link(3)]), [link(1), link(2), link(3)]);
        // The streams have filled the journal since.
        queue.set_lasts(true);
        queue.refuse(2 * BACK_NS);
        assert_eq!(queue.share_out(2 * BACK_NS, vec![link(1)]), [link(1)], "the turn of streams");
        queue.refuse(3 * BACK_NS);
        assert_eq!(queue.share_out(3 * BACK_NS, vec![link(1)]), []);
        // Requests took all of it.
        queue.refuse(3 * BACK_NS + 1);
        assert_eq!(queue.share_out(3 * BACK_NS + 2, vec![]), [link(1)], "the turn of streams comes at once");
    }

    #[test]
    fn requests_that_are_not_back_in_time_are_not_awaited() {
        let mut queue = RoomQueue::default();
        queue.refuse(10);
        assert_eq!(queue.share_out(10 + BACK_NS, vec![link(1)]), [link(1)]);
    }
}
