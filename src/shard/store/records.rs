//! A lane's records: those in memory, in order, and from where on none is.

use crate::ground::{Moment, RecordNumber};
use crate::journal::{Location, OriginRef, Position};
use std::collections::VecDeque;

/// Records of one lane in memory, so that a flood of tiny ones cannot grow the index without bound.
/// At level `memory` there is no other place for them, and `max_size` is the bound.
pub(in crate::shard) const LANE_RECORDS_MAX: usize = 16_384;

/// A record in memory that is to be delivered.
#[derive(Debug, Clone, Copy)]
pub(in crate::shard) struct Waiting {
    pub number: RecordNumber,
    pub at: Location,
    pub origin: OriginRef,
    /// When its first byte was read and when it was journaled; not known of one that a start found
    /// or that was read back.
    pub seen: Option<Seen>,
}

/// When a record that this process took in came.
#[derive(Debug, Clone, Copy)]
pub(in crate::shard) struct Seen {
    first_byte: Moment,
    /// So much later it was journaled, in nanoseconds.
    journaled_after_ns: u64,
}

impl Seen {
    /// Of a first byte that was read at `first_byte_ns`, and a record that was journaled at
    /// `journaled_ns`.
    pub fn new(first_byte_ns: u64, journaled_ns: u64) -> Self {
        Self { first_byte: Moment::at(first_byte_ns), journaled_after_ns: journaled_ns - first_byte_ns }
    }

    /// When its first byte was read, in monotonic nanoseconds.
    pub fn first_byte_ns(self) -> u64 {
        self.first_byte.ns()
    }

    /// When it was journaled, in monotonic nanoseconds.
    pub fn journaled_ns(self) -> u64 {
        self.first_byte.ns() + self.journaled_after_ns
    }
}

// A lane holds many.
const _: () = assert!(size_of::<Waiting>() == 40);

/// From which record on a lane has nothing in memory, and where that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) struct Behind {
    pub from: RecordNumber,
    pub at: Position,
}

/// What a lane has to deliver.
#[derive(Debug, Default)]
pub(in crate::shard) struct Records {
    queue: VecDeque<Waiting>,
    /// Extents that the queue holds, counted in order.
    extents: u32,
    /// Records that are not settled, in memory and behind.
    pending: u64,
    /// Of them, what the disk could not give back when a scan passed it.
    unread: u64,
    behind: Option<Behind>,
    /// The running scan passed a record of this lane without taking it.
    skipped: bool,
    /// It has had a record.
    begun: bool,
    /// The lane slept: what lies behind is not in `pending`, but counted in as it is found.
    roused: bool,
}

impl Records {
    /// Of a lane that slept, and of which a record was found.
    pub(super) fn roused() -> Self {
        Self { begun: true, roused: true, ..Self::default() }
    }

    /// The first one in memory.
    pub fn first(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    /// The one at a place in memory.
    pub fn get(&self, place: usize) -> Option<&Waiting> {
        self.queue.get(place)
    }

    /// How many are in memory.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many are not settled, in memory and behind. Of a lane that slept, only those in memory.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// How many of them the disk could not give back.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// From where on nothing is in memory.
    pub fn behind(&self) -> Option<Behind> {
        self.behind
    }

    /// Whether the running scan is of no more use to this lane.
    pub fn is_skipped(&self) -> bool {
        self.skipped
    }

    /// Whether it never had a record.
    pub fn is_new(&self) -> bool {
        !self.begun
    }

    /// Whether the lane slept, so that what lies behind is not counted.
    pub fn is_roused(&self) -> bool {
        self.roused
    }

    /// Whether a scan that has found this record is to bring it.
    pub(super) fn wants(&self, number: RecordNumber) -> bool {
        match self.behind {
            Some(behind) => number >= behind.from && !self.skipped,
            None => self.roused && self.queue.back().is_none_or(|last| last.number < number),
        }
    }

    /// Whether there is room for a record that lies in `extent`.
    pub fn has_room(&self, extent: u32, extents_max: u32) -> bool {
        let more = u32::from(self.queue.back().is_none_or(|last| last.at.extent != extent));
        self.extents + more <= extents_max && self.queue.len() < LANE_RECORDS_MAX
    }

    /// Whether reading back for it is worth a walk.
    pub fn is_hungry(&self, extents_max: u32) -> bool {
        self.behind.is_some() && self.extents <= extents_max / 2 && self.queue.len() < LANE_RECORDS_MAX / 2
    }

    pub(super) fn count_in(&mut self, records: u64) {
        self.pending += records;
        self.begun = true;
    }

    /// Of a lane that slept: so many are not settled. What of them is not in memory is behind, from
    /// the place of the last one that is.
    pub(super) fn count_again(&mut self, pending: u64, place: impl FnOnce(Location) -> Position) -> bool {
        (self.pending, self.roused) = (pending, false);
        let is_behind = pending > self.queue.len() as u64;
        match self.queue.back() {
            Some(last) if is_behind && self.behind.is_none() => {
                self.behind = Some(Behind { from: last.number.next(), at: place(last.at) });
                true
            }
            _ => false,
        }
    }

    /// Appends a record that the journal holds.
    pub(super) fn push(&mut self, waiting: Waiting) {
        if self.queue.back().is_none_or(|last| last.at.extent != waiting.at.extent) {
            self.extents += 1;
        }
        self.queue.push_back(waiting);
    }

    /// Takes the first record out; it still counts as pending.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let first = self.queue.pop_front()?;
        if self.queue.front().is_none_or(|next| next.at.extent != first.at.extent) {
            self.extents -= 1;
        }
        Some(first)
    }

    /// Gives back a record that is read back later; see [`Records::fall_behind`].
    pub(super) fn unload(&mut self) -> Option<Waiting> {
        let first = self.pop()?;
        self.pending -= u64::from(self.roused);
        Some(first)
    }

    /// Takes the first record out, which is settled or parked.
    pub(super) fn settle(&mut self) -> Waiting {
        self.pending -= 1;
        self.pop().expect("a record that is settled is in memory")
    }

    /// Nothing is in memory from `behind` on; whether that is new. `skipped`: a running scan may be
    /// past that place already.
    pub(super) fn fall_behind(&mut self, behind: Behind, skipped: bool) -> bool {
        self.skipped = skipped;
        self.behind.replace(behind).is_none()
    }

    /// As [`Records::fall_behind`], unless it is behind from an earlier record on. A running scan may
    /// be past that place already.
    pub(super) fn fall_behind_unless(&mut self, behind: Behind) -> bool {
        self.skipped = true;
        let is_new = self.behind.is_none();
        self.behind.get_or_insert(behind);
        is_new
    }

    /// A scan has brought the records before this place.
    pub(super) fn catch_up(&mut self, behind: Behind) {
        self.pending += u64::from(self.roused);
        if self.behind.is_some() {
            self.behind = Some(behind);
        }
    }

    /// A scan has stopped at this place: what it has brought lies before it.
    pub(super) fn halt_scan(&mut self, at: Position) {
        if let Some(behind) = self.behind.as_mut().filter(|_| !self.skipped) {
            behind.at = behind.at.max(at);
        }
    }

    /// The place from which a scan goes is now another one.
    pub(super) fn move_behind(&mut self, place: impl FnOnce(Position) -> Position) {
        if let Some(behind) = &mut self.behind {
            behind.at = place(behind.at);
        }
    }

    /// A scan begins at a place: whether it can bring this lane's records in their order.
    pub(super) fn begin_scan(&mut self, at: Position) {
        self.skipped = self.behind.is_some_and(|behind| behind.at < at);
    }

    /// A scan has no room for the record at this place, or for what is behind it; whether it is new
    /// that the lane is behind.
    pub(super) fn skip(&mut self, behind: Behind) -> bool {
        self.fall_behind(behind, true)
    }

    /// A scan has come to the end of the log: whether the lane is still behind. `may_miss`: the
    /// journal has places that cannot be read; what was not found lies there.
    pub(super) fn end_scan(&mut self, may_miss: bool) -> bool {
        if !self.skipped {
            self.behind = None;
            if may_miss {
                self.unread = self.pending - self.queue.len() as u64;
            }
        }
        self.skipped
    }

    /// It is gone, or sleeps: from where on it was behind.
    pub(super) fn forget_behind(&mut self) -> Option<Behind> {
        self.behind.take()
    }

    pub(super) fn check(&self) {
        let extents: Vec<u32> = self.queue.iter().map(|waiting| waiting.at.extent).collect();
        assert_eq!(extents.chunk_by(|a, b| a == b).count(), self.extents as usize, "extents of a lane");
        assert!(self.queue.iter().is_sorted_by(|a, b| a.number < b.number), "the order of a lane");
        let in_memory = self.queue.len() as u64;
        assert!(!self.roused || (self.pending, self.unread) == (in_memory, 0), "a lane that slept counts what it has");
        match self.behind {
            Some(behind) => {
                assert!(self.queue.back().is_none_or(|last| last.number < behind.from), "behind what is in memory");
                assert!(in_memory <= self.pending, "records in memory are pending");
            }
            None => {
                assert_eq!(in_memory + self.unread, self.pending, "a lane that is not behind has all in memory");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u32) -> Position {
        Position { offset, ..Position::default() }
    }

    fn waiting(number: u64) -> Waiting {
        let at = Location { extent: 0, offset: number as u32 };
        Waiting { number: RecordNumber(number), at, origin: OriginRef(1), seen: None }
    }

    fn take(records: &mut Records, number: u64) {
        assert!(records.wants(RecordNumber(number)), "record {number}");
        records.catch_up(Behind { from: RecordNumber(number + 1), at: position(number as u32) });
        records.push(waiting(number));
        records.check();
    }

    #[test]
    fn a_lane_that_slept_takes_each_record_once_and_counts_what_it_has() {
        let mut records = Records::roused();
        take(&mut records, 3);
        take(&mut records, 5);
        assert!(!records.wants(RecordNumber(3)) && !records.wants(RecordNumber(5)), "met again by another scan");
        assert_eq!(records.pending(), 2);
        // Its memory is needed elsewhere.
        assert!(records.fall_behind(Behind { from: RecordNumber(3), at: position(3) }, true));
        while records.unload().is_some() {}
        records.check();
        assert!(records.pending() == 0 && !records.wants(RecordNumber(3)), "the running scan is past it");
        records.begin_scan(position(2));
        take(&mut records, 3);
        records.settle();
        records.check();
    }

    #[test]
    fn a_lane_that_slept_and_lasts_from_now_on_is_behind_for_what_it_has_not() {
        let mut records = Records::roused();
        take(&mut records, 3);
        assert!(records.count_again(4, |at| position(at.offset)));
        assert_eq!(records.behind(), Some(Behind { from: RecordNumber(4), at: position(3) }));
        records.check();
        let mut whole = Records::roused();
        take(&mut whole, 3);
        assert!(!whole.count_again(1, |at| position(at.offset)) && whole.behind().is_none());
        whole.check();
    }

    #[test]
    fn a_scan_that_stops_has_brought_what_lies_before_its_place_but_for_what_it_passed_over() {
        let behind = Behind { from: RecordNumber(9), at: position(4) };
        let (mut fed, mut skipped) = (Records::default(), Records::default());
        fed.fall_behind(behind, false);
        skipped.fall_behind(behind, true);
        for records in [&mut fed, &mut skipped] {
            records.halt_scan(position(7));
        }
        assert_eq!((fed.behind().unwrap().at, skipped.behind().unwrap().at), (position(7), position(4)));
    }
}
