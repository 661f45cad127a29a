//! Segments of which nothing is needed: whose files are still there, and in which order they may
//! go.

use super::Segment;
use crate::ground::{Now, RecordNumber, SegmentNumber};
use crate::journal::op::{Op, Ops};
use std::collections::VecDeque;

/// A segment whose file is still there, though nothing of it is needed.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct GivenUp {
    pub segment: SegmentNumber,
    /// The file is fit to be used again: no write and no sync of it failed, all of it was read, and no
    /// killed process may still write to it.
    reuse: bool,
}

impl GivenUp {
    pub fn of(segment: &Segment) -> Self {
        Self { segment: segment.number, reuse: !segment.failed && !segment.unfit }
    }

    /// One whose file was made and never written to.
    pub fn unused(segment: SegmentNumber) -> Self {
        Self { segment, reuse: true }
    }

    fn op(self) -> Op {
        Op::FreeSegment { segment: self.segment, reuse: self.reuse }
    }
}

/// Owns the segments that were given up and whose files were not put aside yet.
#[derive(Debug, Default)]
pub(in crate::journal) struct Freeing {
    /// The oldest of the log, settled. They go once a block says where the log begins now.
    settled: VecDeque<GivenUp>,
    /// The entry from which on blocks name the oldest segment that is not among them.
    beginning_said: Option<RecordNumber>,
    /// A dense segment stands for them, durably.
    replaced: Vec<GivenUp>,
    /// They hold nothing: freed at once, wherever they stand.
    dropped: Vec<GivenUp>,
    /// One that is being freed while nothing can be written down: the next one waits for it.
    alone: Option<GivenUp>,
    /// That failed: it is tried again then, and nothing else is freed before.
    retry_ns: Option<u64>,
}

impl Freeing {
    /// The oldest segment of the log is settled.
    pub fn settle(&mut self, segment: GivenUp) {
        self.settled.push_back(segment);
        self.beginning_said = None;
    }

    /// A dense segment stands for these.
    pub fn replace(&mut self, segments: &[GivenUp]) {
        self.replaced.extend(segments);
    }

    /// A segment that holds nothing.
    pub fn discard(&mut self, segment: GivenUp) {
        self.dropped.push(segment);
    }

    /// Those for which a dense one stands.
    pub fn replaced(&self) -> impl Iterator<Item = SegmentNumber> {
        self.replaced.iter().map(|freed| freed.segment)
    }

    /// Frees what may go at once. A sync that was asked for before is waited for.
    pub fn free_at_once(&mut self, syncing: Option<SegmentNumber>, ops: &mut Ops<'_>) {
        let dropped = self.dropped.extract_if(.., |dropped| Some(dropped.segment) != syncing);
        dropped.chain(self.replaced.drain(..)).map(GivenUp::op).for_each(ops);
    }

    /// The oldest settled segment.
    pub fn first_settled(&self) -> Option<SegmentNumber> {
        self.settled.front().map(|freed| freed.segment)
    }

    /// Whether one must not be freed alone now: another one is being freed so, or has just failed.
    pub fn is_held_back(&self, now: Now) -> bool {
        self.alone.is_some() || self.retry_ns.is_some_and(|at| now.mono_ns < at)
    }

    /// Frees the oldest settled segment, and none before that is done.
    pub fn free_alone(&mut self, ops: &mut Ops<'_>) {
        self.retry_ns = None;
        self.alone = self.settled.pop_front();
        self.alone.map(GivenUp::op).into_iter().for_each(ops);
    }

    /// The entry from which on blocks name the segment where the log begins now, if one was written
    /// for these.
    pub fn beginning_said(&self) -> Option<RecordNumber> {
        self.beginning_said
    }

    /// Blocks say it from this entry on.
    pub fn say_beginning(&mut self, number: RecordNumber) {
        self.beginning_said = Some(number);
    }

    /// Frees all settled segments: the beginning of the log is known, as safely as the level
    /// promises.
    pub fn free_settled(&mut self, ops: &mut Ops<'_>) {
        self.retry_ns = None;
        self.settled.drain(..).map(GivenUp::op).for_each(ops);
    }

    /// A segment's file was put aside, or not: of one that was freed alone that matters, and it is
    /// tried again then.
    pub fn freed(&mut self, segment: SegmentNumber, is_there: bool, again_ns: u64) {
        let Some(freed) = self.alone.take_if(|freed| freed.segment == segment) else { return };
        if is_there {
            self.settled.push_front(freed);
            self.retry_ns = Some(again_ns);
        }
    }

    /// When a segment is to be freed again.
    pub fn retry_ns(&self) -> Option<u64> {
        self.retry_ns
    }

    /// Asserts that none of these is part of the log, and that each is listed once.
    pub fn check(&self, is_part: impl Fn(SegmentNumber) -> bool) {
        let settled = self.alone.iter().chain(&self.settled);
        assert!(settled.clone().map(|freed| freed.segment).is_sorted(), "{self:?}");
        let mut all: Vec<SegmentNumber> =
            settled.chain(&self.replaced).chain(&self.dropped).map(|freed| freed.segment).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "given up twice: {self:?}");
        assert!(!all.into_iter().any(is_part), "given up, and part of the log: {self:?}");
    }
}
