//! The ledger: who sends records and how many of each are unsettled, which are kept aside, which
//! ids were given, and which marks are still to be written. It never knows where a record lies, on
//! disk or in memory.

mod identity;
mod parked;

pub use identity::Identity;
pub(super) use identity::SenderKinds;
pub use parked::{ANSWER_BYTES_MAX, Lies, Parked, Refused, Unparked};
pub(super) use parked::{SaidIn, shown};

use super::format::{ORIGIN_PREFIX_BYTES, OriginPayload, Position, entry_bytes};
use super::losses::Losses;
use super::segments::Segments;
use crate::config::Durability;
use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Longest source or name of an origin.
const ORIGIN_NAME_BYTES_MAX: usize = 256;
/// Room for an origin entry, which may come before a record.
pub(super) const ORIGIN_ENTRY_BYTES_MAX: usize =
    entry_bytes(ORIGIN_PREFIX_BYTES + 2 * ORIGIN_NAME_BYTES_MAX + ENCODING_NAME_BYTES_MAX);
/// Longest name of an encoding.
const ENCODING_NAME_BYTES_MAX: usize = 16;

/// Ids that a service gave ahead and that are not used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// Tells services apart.
    pub origin: u64,
    /// In the order in which they are to be used.
    pub ids: Vec<Range<u64>>,
}

/// Names an origin of this journal while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginRef(pub u32);

/// Where an origin was written down: in two blocks of each segment, so that the loss of one does not
/// take who sent the records of the others.
#[derive(Debug, Clone, Copy)]
struct Defined {
    /// The block that has it, or the later one of two.
    segment: SegmentNumber,
    offset: u32,
    twice: bool,
}

impl Defined {
    /// Whether a record in the block at `at` needs another one before it.
    #[inline]
    fn is_enough_for(self, at: Position) -> bool {
        self.segment == at.segment && (self.twice || self.offset == at.offset)
    }
}

/// Who sends records, and what keeps their order.
#[derive(Debug)]
pub struct Origin {
    /// Its number in the directory.
    pub id: u32,
    /// The lane's number in the directory.
    pub lane: LaneNumber,
    /// Who that is.
    pub who: Identity,
    /// Where it was last written down.
    defined: Option<Defined>,
    /// Records of it that are not settled.
    unsettled: u64,
    /// Of those, the ones that are kept aside; they are in memory.
    parked: u32,
    /// Whether somebody still appends to it.
    open: bool,
}

// There is one for each connection whose records wait.
const _: () = assert!(size_of::<Origin>() <= 88);

impl Origin {
    /// What is written down of it.
    pub(super) fn payload(&self) -> OriginPayload<'_> {
        self.who.payload(self.id)
    }

    /// Records of it that are kept aside.
    pub fn parked(&self) -> u64 {
        u64::from(self.parked)
    }

    /// Records of it that wait to be delivered.
    fn pending(&self) -> u64 {
        self.unsettled - u64::from(self.parked)
    }
}

/// What is known of ids that were given ahead.
#[derive(Debug, Default)]
struct Leases {
    /// Those that the last run left.
    found: Option<Leased>,
    /// There is a list of such ids on disk, which is not to be read again.
    is_on_disk: bool,
    /// What a clean end has to write down of them.
    to_leave: Option<Leased>,
    /// There are some.
    leaves_ids: bool,
}

/// Owns origins, sequence ids, records kept aside, losses, and marks that are to be written.
#[derive(Debug)]
pub(super) struct Ledger {
    next_origin: u32,
    next_lane: LaneNumber,
    origins: Slab<Origin>,
    kinds: SenderKinds,
    origin_ids: HashMap<u32, OriginRef>,
    /// Ids of earlier starts, and of records that were kept aside, by record.
    ids: HashMap<RecordNumber, Box<str>>,
    parked: BTreeMap<RecordNumber, Parked>,
    /// Settled records whose mark is in no block yet.
    marks: Vec<RecordNumber>,
    leases: Leases,
    /// What was found to be missing.
    pub losses: Losses,
}

impl Ledger {
    /// An empty one; numbers go on with these.
    pub fn new(next_origin: u32, next_lane: LaneNumber) -> Self {
        Self {
            next_origin,
            next_lane,
            origins: Slab::new(),
            kinds: SenderKinds::default(),
            origin_ids: HashMap::new(),
            ids: HashMap::new(),
            parked: BTreeMap::new(),
            marks: Vec::new(),
            leases: Leases::default(),
            losses: Losses::default(),
        }
    }

    // ---- what a start found

    /// An origin of records that wait.
    pub fn adopt_origin(&mut self, id: u32, lane: LaneNumber, who: Identity, unsettled: u64) {
        let origin = self.add_origin(id, lane, who, false);
        self.origins[origin.0 as usize].unsettled = unsettled;
    }

    /// The ids of records that wait.
    pub fn adopt_ids(&mut self, ids: HashMap<RecordNumber, Box<str>>) {
        self.ids = ids;
    }

    /// A record that was kept aside, and the number of its origin. Origins and ids are known by
    /// now; one without its record was settled, or is lost.
    pub fn adopt_parked(&mut self, number: RecordNumber, origin: u32, parked: impl FnOnce(OriginRef) -> Parked) {
        let Some(origin) = self.origin_of(origin) else { return };
        let id = self.ids.remove(&number);
        self.origins[origin.0 as usize].parked += 1;
        self.parked.insert(number, Parked { id, ..parked(origin) });
    }

    /// There is a list of ids that were given ahead, and these of it are left to this start.
    pub fn adopt_leased(&mut self, left: Option<Leased>) {
        (self.leases.found, self.leases.is_on_disk) = (left, true);
    }

    // ---- origins

    /// A new lane's number.
    pub fn new_lane(&mut self) -> LaneNumber {
        let lane = self.next_lane;
        self.next_lane = lane.next();
        lane
    }

    /// A new origin in a lane.
    pub fn open_origin(&mut self, lane: LaneNumber, who: Identity) -> OriginRef {
        assert!(who.source().len() <= ORIGIN_NAME_BYTES_MAX && who.name().len() <= ORIGIN_NAME_BYTES_MAX);
        let id = self.next_origin;
        self.next_origin = id.wrapping_add(1);
        self.add_origin(id, lane, who, true)
    }

    fn add_origin(&mut self, id: u32, lane: LaneNumber, who: Identity, open: bool) -> OriginRef {
        let who = self.kinds.share(who);
        let origin = Origin { id, lane, who, defined: None, unsettled: 0, parked: 0, open };
        let reference = OriginRef(self.origins.insert(origin) as u32);
        self.origin_ids.insert(id, reference);
        reference
    }

    /// Nobody appends to it any more; it goes with its last record.
    pub fn close_origin(&mut self, origin: OriginRef) {
        self.origins[origin.0 as usize].open = false;
        self.drop_origin_if_done(origin);
    }

    fn drop_origin_if_done(&mut self, reference: OriginRef) {
        let origin = &self.origins[reference.0 as usize];
        if !origin.open && origin.unsettled == 0 {
            let origin = self.origins.remove(reference.0 as usize);
            self.origin_ids.remove(&origin.id);
        }
    }

    /// An origin in use.
    pub fn origin(&self, origin: OriginRef) -> &Origin {
        &self.origins[origin.0 as usize]
    }

    /// The origin of this number, if it is in use.
    pub fn origin_of(&self, id: u32) -> Option<OriginRef> {
        self.origin_ids.get(&id).copied()
    }

    /// All origins, and how many records of each wait to be delivered.
    pub fn origins(&self) -> impl Iterator<Item = (OriginRef, &Origin, u64)> {
        self.origins.iter().map(|(index, origin)| (OriginRef(index as u32), origin, origin.pending()))
    }

    /// Records of an origin that wait to be delivered.
    pub fn pending_of(&self, origin: OriginRef) -> u64 {
        self.origin(origin).pending()
    }

    /// Who has records that are neither delivered nor discarded.
    pub fn waiting_origins(&self) -> impl Iterator<Item = &Origin> {
        self.origins.iter().map(|(_, origin)| origin).filter(|origin| origin.unsettled > 0)
    }

    /// Whether an origin has records that are neither delivered nor discarded.
    pub fn has_unsettled(&self, origin: OriginRef) -> bool {
        self.origin(origin).unsettled > 0
    }

    /// Records that are neither delivered nor discarded.
    pub fn unsettled(&self) -> u64 {
        self.origins.iter().map(|(_, origin)| origin.unsettled).sum()
    }

    /// Counts a new record in. Its origin, and whether that is to be written down first, in the
    /// block that is at `at`.
    #[inline]
    pub fn count_in(&mut self, reference: OriginRef, at: Position) -> (&Origin, bool) {
        let origin = &mut self.origins[reference.0 as usize];
        origin.unsettled += 1;
        let is_new = !origin.defined.is_some_and(|defined| defined.is_enough_for(at));
        (origin, is_new)
    }

    /// An origin is written down, in the block that is at `at`.
    pub fn define(&mut self, origin: OriginRef, at: Position) -> &Origin {
        let origin = &mut self.origins[origin.0 as usize];
        let Position { segment, offset } = at;
        let twice = origin.defined.is_some_and(|before| before.segment == segment && before.offset != offset);
        origin.defined = Some(Defined { segment, offset, twice });
        origin
    }

    /// Counts a record out. It was delivered.
    #[inline]
    pub fn settle(&mut self, number: RecordNumber, origin: OriginRef) {
        if !self.ids.is_empty() {
            self.ids.remove(&number); // only ids of earlier starts: mostly there are none
        }
        self.origins[origin.0 as usize].unsettled -= 1;
        self.drop_origin_if_done(origin);
    }

    // ---- ids

    /// The id that an earlier start wrote down for a record.
    pub fn id(&self, number: RecordNumber) -> Option<&str> {
        self.ids.get(&number).map(|id| &**id)
    }

    /// A list of ids that were given ahead is written down.
    pub fn note_leased(&mut self) {
        self.leases.is_on_disk = true;
    }

    /// What a clean end is to write down of ids that were given ahead, if anything was or is.
    pub fn leave_leased(&mut self, leased: Leased, is_leasing: bool) {
        if is_leasing || self.leases.is_on_disk || !leased.ids.is_empty() {
            self.leases.leaves_ids = !leased.ids.is_empty();
            self.leases.to_leave = Some(leased);
        }
    }

    /// What a clean end is still to write down.
    pub fn left_to_write(&mut self) -> &mut Option<Leased> {
        &mut self.leases.to_leave
    }

    /// Whether a clean end leaves ids.
    pub fn leaves_ids(&self) -> bool {
        self.leases.leaves_ids
    }

    /// Ids that the last run left; they are not here a second time.
    pub fn take_leased(&mut self) -> Option<Leased> {
        self.leases.found.take()
    }

    // ---- marks

    /// A record is settled: its mark is to be written.
    #[inline]
    pub fn mark(&mut self, number: RecordNumber) {
        self.marks.push(number);
    }

    /// Marks that are in no block yet.
    pub fn marks(&self) -> &[RecordNumber] {
        &self.marks
    }

    /// The first of them are in a block.
    pub fn marks_written(&mut self, count: usize) {
        self.marks.drain(..count);
    }

    /// Whether all is written down that is to be.
    pub fn is_written(&self) -> bool {
        self.marks.is_empty() && self.leases.to_leave.is_none() && self.losses.is_written()
    }

    // ---- invariants

    /// How many origins and parked records there are.
    pub fn size(&self) -> usize {
        self.origins.len() + self.parked.len()
    }

    /// Asserts that what is counted of each origin is what there is, here and in the segments.
    pub fn check(&self, durability: Durability, segments: &Segments) {
        let mut parked = HashMap::new();
        for (number, record) in &self.parked {
            *parked.entry(record.origin.0).or_insert(0) += 1;
            assert_eq!(record.held.is_some(), durability == Durability::Memory, "record {number}: {record:?}");
            let waits = segments.iter().any(|segment| segment.is_waiting(*number));
            assert!(record.held.is_some() || waits, "record {number} is kept aside, and does not wait");
        }
        assert_eq!(self.origin_ids.len(), self.origins.len(), "each origin is found by its number");
        for (index, origin) in &self.origins {
            assert_eq!(self.origin_of(origin.id), Some(OriginRef(index as u32)), "{origin:?}");
            assert_eq!(origin.parked, parked.remove(&(index as u32)).unwrap_or(0), "parked records of {origin:?}");
            assert!(u64::from(origin.parked) <= origin.unsettled, "{origin:?}");
            assert!(origin.open || origin.unsettled > 0, "done, and not dropped: {origin:?}");
        }
        assert!(parked.is_empty(), "records of origins that there are not are kept aside: {parked:?}");
        let of_segments: u64 = segments.iter().map(|segment| segment.unsettled).sum();
        assert!(durability == Durability::Memory || of_segments == self.unsettled(), "unsettled records");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Options;
    use crate::journal::segments::{Maker, Segment};

    /// An origin with one record, which waits in a segment.
    fn one_waits() -> (Ledger, Segments) {
        let mut segment = Segment::new(SegmentNumber(3), 1, RecordNumber(10), 512);
        segment.add(RecordNumber(12), 40);
        let maker = Maker { epoch: 1, epoch_id: 7, physical: 512 };
        let segments =
            Segments::new(&Options::of_view(crate::ground::CoreId(0)), maker, vec![segment], SegmentNumber(6), 1);
        let mut ledger = Ledger::new(5, LaneNumber(5));
        ledger.adopt_origin(4, LaneNumber(4), Identity::new("source", "name"), 1);
        ledger.check(Durability::Power, &segments);
        (ledger, segments)
    }

    #[test]
    #[should_panic(expected = "unsettled records")]
    fn a_record_that_only_the_ledger_knows_is_found() {
        let (mut ledger, segments) = one_waits();
        ledger.origins[0].unsettled = 2;
        ledger.check(Durability::Power, &segments);
    }

    #[test]
    #[should_panic(expected = "parked records of")]
    fn a_parked_record_that_is_counted_and_not_listed_is_found() {
        let (mut ledger, segments) = one_waits();
        ledger.origins[0].parked = 1;
        ledger.check(Durability::Power, &segments);
    }
}
