//! The segments of the log: which there are, which one is filled, whose files are still to be made,
//! synced or put aside. It counts what waits in each; it never knows what a record is, and touches
//! no block memory.

mod freeing;
mod making;
mod segment;

pub(super) use freeing::{Freeing, GivenUp};
use making::{Making, Named};
pub(super) use segment::{Segment, SparseBits};

use super::format::{Position, SegmentHeader, round_up};
use super::op::{Op, Ops};
use super::{Claim, Full, IN_MEMORY, Options, Purpose, RETRY_AFTER_NS, Scarce};
use crate::config::Durability;
use crate::ground::{CoreId, Now, RecordNumber, SegmentNumber};
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// With so many segments the last quarter is shared out among addresses.
const SHARED_SEGMENTS_MIN: usize = 16;

/// What a segment's header says of the start that made it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maker {
    pub epoch: u64,
    pub epoch_id: u128,
    pub physical: u32,
}

/// Syncs of segments that are full: at level `process` the watermark moves only with them.
#[derive(Debug, Default)]
struct Syncs {
    due: VecDeque<SegmentNumber>,
    under_way: Option<SegmentNumber>,
}

/// Owns the list of segments, and what is on its way to it and from it.
#[derive(Debug)]
pub(super) struct Segments {
    core: CoreId,
    durability: Durability,
    segment_bytes: u32,
    /// Segments at most; the last one, and in need more, is for ids and marks.
    max: usize,
    /// Of what segments may take, so much is for records of senders that cannot wait.
    reserve_bytes: u64,
    /// Files that are to be ready for what comes.
    ahead: usize,
    maker: Maker,
    /// Oldest first.
    list: VecDeque<Segment>,
    /// Those below are of earlier starts and never appended to.
    first_own: SegmentNumber,
    making: Making,
    syncs: Syncs,
    freeing: Freeing,
    /// A dense segment begins the log, but its name is not known to be durable: blocks must name
    /// what it stands for as the oldest.
    oldest_kept: Option<RangeInclusive<SegmentNumber>>,
    /// Records were settled or a segment was begun: there may be a run to rewrite that there was
    /// not.
    has_changed: bool,
}

impl Segments {
    /// The segments that a start found, oldest first; new ones are numbered from `next` on.
    pub fn new(options: &Options, maker: Maker, found: Vec<Segment>, next: SegmentNumber, seed: u64) -> Self {
        Self {
            core: options.core,
            durability: options.durability,
            segment_bytes: options.segment_bytes,
            max: options.segments_max(),
            reserve_bytes: 0,
            ahead: options.segments_ahead(),
            maker,
            list: found.into(),
            first_own: next,
            making: Making::new(next, seed),
            syncs: Syncs::default(),
            freeing: Freeing::default(),
            oldest_kept: None,
            has_changed: true,
        }
    }

    /// A segment that was found, and whose file was never made.
    pub fn adopt_missing(&mut self, number: SegmentNumber, nonce: u64) {
        self.making.adopt(number, nonce);
    }

    /// Blocks of a segment that was found are still to be written.
    pub fn adopt_unwritten(&mut self, number: SegmentNumber, blocks: u32) {
        self.find_mut(number).expect("it was read").unwritten += blocks;
    }

    // ---- the list

    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Bytes of their files.
    pub fn bytes(&self) -> u64 {
        self.list.len() as u64 * u64::from(self.segment_bytes)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Segment> + ExactSizeIterator {
        self.list.iter()
    }

    /// The segment at a place in the list.
    pub fn at(&self, index: usize) -> Option<&Segment> {
        self.list.get(index)
    }

    /// The place in the list of a segment, or of the one behind it.
    pub fn index_from(&self, number: SegmentNumber) -> usize {
        self.list.partition_point(|segment| segment.number < number)
    }

    pub fn find(&self, number: SegmentNumber) -> Option<&Segment> {
        self.list.get(self.index_from(number)).filter(|segment| segment.number == number)
    }

    fn find_mut(&mut self, number: SegmentNumber) -> Option<&mut Segment> {
        let index = self.index_from(number);
        self.list.get_mut(index).filter(|segment| segment.number == number)
    }

    pub fn last(&self) -> Option<&Segment> {
        self.list.back()
    }

    /// The segment in which an entry of this number lies, if it is in any.
    pub fn holder(&self, number: RecordNumber) -> Option<&Segment> {
        let behind = self.list.partition_point(|segment| segment.first_number <= number);
        self.list.get(behind.checked_sub(1)?)
    }

    /// Where everything that is still to be delivered begins, or later.
    pub fn oldest(&self) -> Position {
        self.list.front().map_or(Position::default(), Segment::first_position)
    }

    /// The oldest segment that blocks name.
    pub fn oldest_named(&self) -> SegmentNumber {
        let first = self.list.front().map_or(IN_MEMORY, |segment| segment.number);
        self.oldest_kept.as_ref().map_or(first, |kept| first.min(*kept.start()))
    }

    /// Where blocks go.
    pub fn current_number(&self) -> SegmentNumber {
        self.list.back().map_or(IN_MEMORY, |segment| segment.number)
    }

    /// Whether a segment belongs to this start.
    pub fn is_own(&self, number: SegmentNumber) -> bool {
        number >= self.first_own
    }

    /// Whether the last segment belongs to this start and is not closed, so that blocks may go
    /// there.
    fn is_current_open(&self) -> bool {
        self.list.back().is_some_and(|segment| self.is_own(segment.number) && !segment.closed)
    }

    // ---- limits

    /// Whether records fill all segments but the one that is kept for ids and marks.
    pub fn is_full(&self) -> bool {
        self.list.len() + 1 >= self.max
    }

    /// Whether more than three quarters of what segments may take is taken, with the one that is
    /// kept for ids and marks, and without the reserve.
    pub fn is_tight(&self) -> bool {
        let reserve = self.reserve_bytes.div_ceil(u64::from(self.segment_bytes)) as usize;
        4 * (self.list.len() + 1) > 3 * (self.max - reserve)
    }

    /// What is left for senders that can wait, where the segments are tight. A journal of few segments is
    /// tight nearly always.
    pub fn scarcity(&self) -> Option<Scarce> {
        (self.max >= SHARED_SEGMENTS_MIN && self.is_tight()).then(|| Scarce {
            oldest: self.list.front().map_or(IN_MEMORY, |segment| segment.number),
            segments: self.list.len() as u64,
            free_bytes: self.records_bytes_max().saturating_sub(self.taken_bytes() + self.reserve_bytes),
        })
    }

    /// Whether a part of the segments is kept for senders that cannot wait: an eighth, and one segment
    /// at least, since every start begins a new one. Two and a half stay for the others in any case:
    /// with fewer, one record that stays would stop them.
    pub fn set_reserve(&mut self, is_kept: bool) {
        let segment_bytes = u64::from(self.segment_bytes);
        let share = (self.max as u64 * segment_bytes / 8).max(segment_bytes);
        let most = self.records_bytes_max().saturating_sub(segment_bytes * 5 / 2);
        self.reserve_bytes = if is_kept { share.min(most) } else { 0 };
    }

    /// What records may take: all segments but the one that is kept for ids and marks.
    fn records_bytes_max(&self) -> u64 {
        (self.max as u64 - 1) * u64::from(self.segment_bytes)
    }

    /// Whether what records may take is taken but for the reserve; never where there is none.
    pub fn is_down_to_reserve(&self) -> bool {
        if self.reserve_bytes == 0 {
            return false;
        }
        self.taken_bytes() + self.reserve_bytes >= self.records_bytes_max()
    }

    fn taken_bytes(&self) -> u64 {
        let whole = self.list.len() - usize::from(self.is_current_open());
        let filled = self.list.back().filter(|_| self.is_current_open()).map_or(0, |segment| segment.end);
        whole as u64 * u64::from(self.segment_bytes) + u64::from(filled)
    }

    /// Whether commits may go to a segment.
    pub fn is_file_ready(&self, segment: SegmentNumber) -> bool {
        self.making.is_ready(segment)
    }

    /// Whether there is a segment that records could go to.
    pub fn is_first_ready(&self) -> bool {
        self.making.is_next_ready() || self.is_current_open() && self.is_file_ready(self.current_number())
    }

    /// Whether records may be taken as far as segments are concerned.
    pub fn take_records(&self, claim: Claim) -> Result<(), Full> {
        if self.list.len() >= self.max || claim == Claim::Waits && self.is_down_to_reserve() {
            return Err(Full::Lasting);
        }
        let is_ready = match self.is_current_open() {
            true => self.is_file_ready(self.current_number()),
            false => self.making.is_next_ready(),
        };
        if is_ready { Ok(()) } else { Err(Full::Passing) }
    }

    // ---- records

    /// Counts a new record into the segment that is being filled; at level `memory` there is none.
    pub fn add(&mut self, number: RecordNumber, bytes: usize) {
        if let Some(segment) = self.list.back_mut() {
            segment.add(number, bytes);
        }
    }

    /// Counts a record out, which lies in a segment or near it: one that is read from a copy may
    /// have moved on since, or may have stayed where its extent began.
    pub fn settle(&mut self, number: RecordNumber, bytes: usize, near: SegmentNumber) {
        let index = self.index_from(near);
        let settled = self.list.iter_mut().skip(index).any(|segment| segment.settle(number, bytes))
            || self.list.iter_mut().take(index).rev().any(|segment| segment.settle(number, bytes));
        assert!(settled, "record {number} of segment {near} is settled once");
        self.has_changed = true;
    }

    /// Counts a record out that is not in memory.
    pub fn settle_anywhere(&mut self, number: RecordNumber, bytes: usize) {
        let settled = self.list.iter_mut().any(|segment| segment.settle(number, bytes));
        assert!(settled, "record {number} is discarded once");
        self.has_changed = true;
    }

    /// Counts a waiting record out of one of the segments from `from` on, from which it moves.
    /// `false` where it does not wait.
    pub fn take_record(&mut self, number: RecordNumber, bytes: usize, from: SegmentNumber) -> bool {
        self.list.iter_mut().filter(|segment| segment.number >= from).any(|segment| segment.settle(number, bytes))
    }

    /// Counts a record into the segment to which it moved.
    pub fn put_record(&mut self, number: RecordNumber, bytes: usize) {
        let segment = self.list.iter_mut().rev().find(|segment| segment.first_number <= number);
        segment.expect("begun for it").add(number, bytes);
    }

    /// Whether there may be a run to rewrite that there was not.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// A run was looked for, or one is to be looked for again.
    pub fn set_changed(&mut self, changed: bool) {
        self.has_changed = changed;
    }

    // ---- blocks

    /// A block was sealed in the segment that is being filled, up to an offset.
    pub fn block_sealed(&mut self, end: u32) {
        let segment = self.list.back_mut().expect("a block lies in a segment");
        segment.end = end;
        segment.unwritten += 1;
    }

    /// A block is written, and all before it.
    pub fn block_written(&mut self, number: SegmentNumber) {
        self.find_mut(number).expect("unwritten segments stay").unwritten -= 1;
    }

    /// Where the next slot of blocks goes; the log goes on in the segment that comes next where the
    /// last one is full.
    pub fn next_place(
        &mut self,
        purpose: Purpose,
        next_number: RecordNumber,
        slot_bytes: u32,
    ) -> Result<Position, Full> {
        let is_intake = purpose != Purpose::Progress;
        if self.is_current_open() {
            let segment = self.list.back().expect("open");
            if segment.end + slot_bytes <= self.segment_bytes {
                // Records do not take the second half of a segment before the next one is ready:
                // should that turn out to be impossible, there is room for the ids and marks that
                // make old segments free.
                let second_half = segment.end > self.segment_bytes / 2;
                if is_intake && second_half && !self.making.is_next_ready() {
                    return Err(Full::Passing);
                }
                return Ok(segment.end_position());
            }
        }
        // Ids, marks and answers that park are never refused for want of segments: without them
        // nothing would be delivered and become free again. They are bounded by the records that
        // they are about, but the segments that they begin may go beyond the limit for a while.
        if is_intake && self.is_full() {
            return Err(Full::Lasting);
        }
        if is_intake && !self.making.is_next_ready() {
            return Err(Full::Passing);
        }
        Ok(Position { segment: self.begin(next_number), offset: self.maker.physical })
    }

    /// The log goes on in the next segment, ready or not; its number.
    fn begin(&mut self, first_number: RecordNumber) -> SegmentNumber {
        if self.is_current_open() && self.durability == Durability::Process {
            self.syncs.due.push_back(self.current_number());
        }
        let Named { number, nonce } = self.making.begin_next();
        self.has_changed = true;
        self.list.push_back(Segment::new(number, nonce, first_number, self.maker.physical));
        number
    }

    /// A read of a segment is under way, so that it stays.
    pub fn begin_read(&mut self, number: SegmentNumber) {
        self.find_mut(number).expect("only what is there is read").reads += 1;
    }

    /// A read is over.
    pub fn end_read(&mut self, number: SegmentNumber) {
        self.find_mut(number).expect("a segment that is read stays").reads -= 1;
    }

    // ---- files are made

    /// Asks for the next file that is missing. `ahead`: also for segments that are to be begun next.
    pub fn prepare(&mut self, now: Now, ahead: bool, ops: &mut Ops<'_>) {
        let ahead = if ahead { self.wanted_ahead() } else { 0 };
        let Some(Named { number, nonce }) = self.making.ask(now, ahead) else { return };
        ops(Op::PrepareSegment {
            segment: number,
            bytes: u64::from(self.segment_bytes),
            header: self.header(number, nonce).encode(),
            sync: self.durability == Durability::Power,
        });
    }

    /// How many files are to be there for segments that are not begun: one always, and as many as
    /// the window can fill at once, as far as the limit allows.
    fn wanted_ahead(&self) -> usize {
        let allowed = self.max.saturating_sub(self.list.len() + 1);
        self.ahead.min(allowed).max(1)
    }

    /// Whether records come faster than segments are made. Then the second quarter of the last one is for
    /// senders that send little; there is none for records in its second half.
    pub fn is_making_behind(&self) -> bool {
        let is_used = !self.is_current_open() || self.list.back().is_some_and(|last| last.end > self.segment_bytes / 4);
        is_used && !self.making.is_next_ready() && self.take_records(Claim::Waits) != Err(Full::Lasting)
    }

    /// Whether the segment behind the last one is ready.
    pub fn is_next_ready(&self) -> bool {
        self.making.is_next_ready()
    }

    /// What the header of a segment that this start makes says.
    pub fn header(&self, segment: SegmentNumber, nonce: u64) -> SegmentHeader {
        let Maker { epoch, epoch_id, physical } = self.maker;
        let bytes = u64::from(self.segment_bytes);
        SegmentHeader { core: u32::from(self.core.0), segment, nonce, bytes, physical, epoch, epoch_id }
    }

    /// Rounds up to the physical block of segments that this start makes.
    pub fn round_up(&self, bytes: u32) -> u32 {
        round_up(bytes, self.maker.physical)
    }

    /// A nonce for a segment's new life.
    pub fn nonce(&mut self) -> u64 {
        self.making.nonce()
    }

    /// Whether a file is being made.
    pub fn is_preparing(&self) -> bool {
        self.making.is_under_way()
    }

    /// When a file is to be asked for again.
    pub fn prepare_deadline_ns(&self) -> Option<u64> {
        self.making.deadline_ns()
    }

    /// A segment's file is ready, or not.
    pub fn prepared(&mut self, now: Now, segment: SegmentNumber, is_ready: bool) {
        if self.making.made(now, segment, is_ready) {
            self.freeing.discard(GivenUp::unused(segment));
        }
    }

    // ---- segments fail, and what they did not take moves

    /// A write or a sync of a segment failed. Whether that is new, and it is still part of the log.
    pub fn fail(&mut self, number: SegmentNumber) -> bool {
        self.find_mut(number).is_some_and(|failed| !std::mem::replace(&mut failed.failed, true))
    }

    /// Some of it cannot be read: its file is not used again.
    pub fn keep_file(&mut self, number: SegmentNumber) {
        if let Some(segment) = self.find_mut(number) {
            segment.unfit = true;
        }
    }

    /// Ends the segments from one on, and those that failed. The blocks of the former from entry
    /// `first` on move; in each of them the first one was at `moves_from`. How many waiting records
    /// of what is not known to be on disk (behind `watermark`) do not move.
    pub fn close(
        &mut self,
        from: Option<SegmentNumber>,
        first: RecordNumber,
        watermark: Position,
        moves_from: impl Fn(SegmentNumber) -> Option<u32>,
    ) -> u64 {
        let first_own = self.first_own;
        let is_behind = |number: SegmentNumber| from.is_some_and(|from| number >= from);
        let mut lost = 0;
        for segment in self.list.iter_mut().filter(|segment| is_behind(segment.number) || segment.failed) {
            let is_unsafe = self.durability == Durability::Process
                && segment.number >= first_own
                && segment.end_position() > watermark;
            if !std::mem::replace(&mut segment.closed, true) && is_unsafe {
                lost += segment.unsettled; // what waits in it and does not move
            }
            if is_behind(segment.number) {
                segment.unwritten = 0;
                segment.first_number = segment.first_number.min(first);
                segment.end = moves_from(segment.number).unwrap_or(segment.end);
            }
        }
        self.syncs.due.retain(|number| !is_behind(*number));
        lost
    }

    /// Nothing more goes into the segment that is being filled.
    pub fn close_current(&mut self) {
        if self.is_current_open() {
            self.list.back_mut().expect("open").closed = true;
        }
    }

    /// Where so many blocks of `bytes` together go, the first entry of which is `first`. `room`
    /// bytes are kept for them.
    pub fn place(&mut self, first: RecordNumber, blocks: u32, bytes: u32, room: u32) -> Position {
        let open = self.list.back().filter(|_| self.is_current_open());
        if open.is_none_or(|segment| segment.end + room > self.segment_bytes) {
            self.begin(first);
        }
        let segment = self.list.back_mut().expect("begun");
        let at = segment.end_position();
        segment.end += bytes;
        segment.unwritten += blocks;
        at
    }

    /// Segments of this start that have nothing on disk and nothing to wait for go at once: as long
    /// as the disk refuses there would be more and more of them.
    pub fn drop_empty(&mut self, from: SegmentNumber) {
        let own = self.first_own;
        let empty = |segment: &Segment| {
            segment.closed
                && segment.number >= from.max(own)
                && segment.end_position() == segment.first_position()
                && segment.unsettled == 0
                && segment.reads == 0
        };
        for index in (0..self.list.len()).rev() {
            if empty(&self.list[index]) {
                let segment = self.list.remove(index).expect("in range");
                if !self.making.forget(segment.number) {
                    self.freeing.discard(GivenUp::of(&segment));
                }
            }
        }
    }

    // ---- syncs

    /// Asks for the next sync: a full segment is a good moment for one.
    pub fn sync(&mut self, ops: &mut Ops<'_>) {
        if self.syncs.under_way.is_some() {
            return;
        }
        while let Some(&segment) = self.syncs.due.front() {
            let Some(place) = self.find(segment) else {
                self.syncs.due.pop_front();
                continue;
            };
            if place.unwritten == 0 {
                self.syncs.under_way = Some(segment);
                ops(Op::SyncSegment { segment });
            }
            return;
        }
    }

    /// A sync is over.
    pub fn end_sync(&mut self) {
        self.syncs.under_way = None;
    }

    /// Whether a sync is under way.
    pub fn is_syncing(&self) -> bool {
        self.syncs.under_way.is_some()
    }

    /// A segment's writes are durable; up to where the log is, if that is further. What a failed
    /// segment may have lost no later sync makes safe.
    pub fn synced(&mut self, segment: SegmentNumber) -> Option<Position> {
        self.syncs.due.retain(|&other| other != segment);
        let is_unsafe = |other: &Segment| other.number <= segment && (other.closed || other.failed);
        self.find(segment).filter(|_| !self.list.iter().any(is_unsafe)).map(Segment::end_position)
    }

    // ---- segments are given up

    /// The files that are to be put aside.
    pub fn freeing(&mut self) -> &mut Freeing {
        &mut self.freeing
    }

    /// Puts aside what may go at once.
    pub fn free_at_once(&mut self, ops: &mut Ops<'_>) {
        self.freeing.free_at_once(self.syncs.under_way, ops);
    }

    /// When a segment is to be freed again.
    pub fn free_deadline_ns(&self) -> Option<u64> {
        self.freeing.retry_ns()
    }

    /// Whether the oldest segment is settled and not `needed`, and another one follows.
    pub fn is_oldest_settled(&self, needed: impl Fn(SegmentNumber) -> bool) -> bool {
        let Some(oldest) = self.list.front().filter(|_| self.list.len() > 1) else { return false };
        let idle = oldest.unsettled == 0 && oldest.unwritten == 0 && oldest.reads == 0;
        idle && !self.is_to_be_synced(oldest.number) && !needed(oldest.number) && self.is_file_ready(oldest.number)
    }

    /// The first entry behind the oldest segment.
    pub fn first_behind_oldest(&self) -> Option<RecordNumber> {
        self.list.get(1).map(|second| second.first_number)
    }

    /// Bytes of the segments behind the oldest one.
    pub fn bytes_behind_oldest(&self) -> u64 {
        self.bytes().saturating_sub(u64::from(self.segment_bytes))
    }

    /// Gives up the oldest segments that are settled, not `needed`, and hold no entry from `floor`
    /// on; how many.
    pub fn give_up_settled(&mut self, needed: impl Fn(SegmentNumber) -> bool, floor: Option<RecordNumber>) -> u64 {
        let mut count = 0;
        while self.is_oldest_settled(&needed) {
            if floor.zip(self.first_behind_oldest()).is_some_and(|(floor, behind)| floor < behind) {
                break;
            }
            let oldest = self.list.pop_front().expect("checked above");
            self.oldest_kept.take_if(|kept| *kept.end() <= oldest.number);
            self.freeing.settle(GivenUp::of(&oldest));
            count += 1;
        }
        count
    }

    fn is_to_be_synced(&self, segment: SegmentNumber) -> bool {
        self.syncs.due.contains(&segment) || self.syncs.under_way == Some(segment)
    }

    // ---- dense rewrites

    /// Whether a segment may be part of a run that is rewritten: nothing is in flight on it but
    /// reads.
    pub fn is_at_rest(&self, segment: &Segment) -> bool {
        segment.unwritten == 0 && !self.syncs.due.contains(&segment.number) && self.is_file_ready(segment.number)
    }

    /// A dense segment takes the place of a run, whose last number it has; the others, to be put
    /// aside later.
    pub fn replace(&mut self, run: &RangeInclusive<SegmentNumber>, dense: Segment) -> Vec<GivenUp> {
        let from = self.index_from(*run.start());
        let to = self.list.partition_point(|segment| segment.number <= *run.end());
        let mut dense = dense;
        dense.live_bytes = self.list.range(from..to).map(|segment| segment.live_bytes).sum();
        debug_assert_eq!(dense.unsettled, self.list.range(from..to).map(|segment| segment.unsettled).sum::<u64>());
        let freed = self.list.drain(from..to - 1).map(|segment| GivenUp::of(&segment)).collect();
        self.list[from] = dense;
        if from == 0 {
            self.oldest_kept = Some(run.clone());
        }
        freed
    }

    /// The name of a dense segment is durable: those that it stands for go.
    pub fn end_replace(&mut self, freed: &[GivenUp]) {
        self.oldest_kept = None;
        self.has_changed = true;
        self.freeing.replace(freed);
    }

    // ---- invariants

    /// Asserts that segments follow each other, count what waits in them, and that no number is in
    /// two places.
    pub fn check(&self) {
        for (one, next) in self.list.iter().zip(self.list.iter().skip(1)) {
            assert!(one.number < next.number, "segment {} is before {}", one.number, next.number);
            // What an earlier start left torn can begin with a number that this start uses again,
            // under another epoch.
            let falls = one.first_number > next.first_number && self.is_own(one.number);
            assert!(!falls, "numbers fall from segment {} on", one.number);
        }
        self.list.iter().for_each(Segment::check);
        for own in self.list.iter().filter(|segment| self.is_own(segment.number)) {
            assert!(own.end <= self.segment_bytes, "{own:?}");
        }
        let is_part = |number| self.find(number).is_some();
        self.making.check(self.list.back().map(|segment| segment.number), is_part);
        self.freeing.check(is_part);
        assert!(self.durability == Durability::Process || self.syncs.due.is_empty(), "{:?}", self.syncs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two segments of an earlier start; a record waits in the first.
    fn found() -> Segments {
        let mut first = Segment::new(SegmentNumber(3), 1, RecordNumber(10), 512);
        first.add(RecordNumber(12), 40);
        let second = Segment::new(SegmentNumber(5), 2, RecordNumber(20), 512);
        let maker = Maker { epoch: 1, epoch_id: 7, physical: 512 };
        let segments = Segments::new(&Options::of_view(CoreId(0)), maker, vec![first, second], SegmentNumber(6), 1);
        segments.check();
        segments
    }

    #[test]
    #[should_panic(expected = "unsettled records of segment 3")]
    fn a_record_that_is_counted_and_not_there_is_found() {
        let mut segments = found();
        segments.list[0].unsettled += 1;
        segments.check();
    }

    #[test]
    #[should_panic(expected = "given up, and part of the log")]
    fn a_segment_that_is_given_up_and_still_there_is_found() {
        let mut segments = found();
        segments.freeing.settle(GivenUp::of(&segments.list[0]));
        segments.check();
    }

    #[test]
    #[should_panic(expected = "begun, and not there")]
    fn a_file_that_is_made_for_no_segment_is_found() {
        let mut segments = found();
        segments.begin(RecordNumber(30));
        segments.check();
        segments.list.pop_back();
        segments.check();
    }
}
