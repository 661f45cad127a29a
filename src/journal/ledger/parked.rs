//! Records that are kept aside: the API refuses them for good, and an operator decides. Nothing but
//! a few bytes of each is in memory; the record itself stays in its segment, unsettled, and is read
//! back when it is to be tried again. At level `memory` the window keeps a copy of its entry.

use super::{Ledger, OriginRef};
use crate::ground::RecordNumber;
use crate::journal::format::Position;
use crate::journal::window::Location;

/// Bytes of an answer that are journaled.
pub const ANSWER_BYTES_MAX: usize = 1_024;
/// Bytes of an answer that stay in memory.
const ANSWER_SHOWN_BYTES: usize = 160;

/// The answer that parks a record.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Its status.
    pub status: u16,
    /// How often the record was refused.
    pub attempts: u32,
    /// The beginning of its body; what is beyond [`ANSWER_BYTES_MAX`] is dropped.
    pub answer: &'a [u8],
}

/// A record that is kept aside.
#[derive(Debug)]
pub struct Parked {
    /// Who sent it.
    pub origin: OriginRef,
    /// When its first byte was read, in nanoseconds since 1970.
    pub received_wall_ns: u64,
    /// When it was put aside, in nanoseconds since 1970.
    pub parked_wall_ns: u64,
    /// Status of the answer that parked it.
    pub status: u16,
    /// How often it was refused.
    pub attempts: u32,
    /// The beginning of that answer's body.
    pub answer: Box<[u8]>,
    /// The sequence id that it was given.
    pub id: Option<Box<str>>,
    /// Bytes of its entry.
    pub(in crate::journal) bytes: u32,
    /// The entry that keeps it aside: older ones are of no more use. At level `memory` there is
    /// none.
    pub(in crate::journal) said_in: Option<SaidIn>,
    /// At level `memory` there is no other place for it: where its copy is, or its slot.
    pub(in crate::journal) held: Option<Location>,
}

/// An entry that keeps a record aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct SaidIn {
    /// Its own number.
    pub number: RecordNumber,
    pub bytes: u32,
}

/// A record that is to be delivered after all.
#[derive(Debug, Clone, Copy)]
pub struct Unparked {
    /// Who sent it.
    pub origin: OriginRef,
    /// Where it is.
    pub at: Lies,
}

/// Where a record is that is to be delivered after all.
#[derive(Debug, Clone, Copy)]
pub enum Lies {
    /// On disk: a [`Scan`](crate::journal::Scan) that begins here finds it.
    Behind(Position),
    /// In memory, and held: level `memory` has no other place.
    Held(Location),
}

/// What stays in memory of an answer.
pub(in crate::journal) fn shown(answer: &[u8]) -> Box<[u8]> {
    answer[..answer.len().min(ANSWER_SHOWN_BYTES)].into()
}

impl Ledger {
    /// A record is kept aside.
    pub fn park(&mut self, number: RecordNumber, parked: Parked) {
        self.origins[parked.origin.0 as usize].parked += 1;
        let before = self.parked.insert(number, parked);
        assert!(before.is_none(), "record {number} is parked once");
    }

    /// Records that are kept aside, by number.
    pub fn parked(&self) -> impl Iterator<Item = (RecordNumber, &Parked)> {
        self.parked.iter().map(|(number, parked)| (*number, parked))
    }

    /// One that is kept aside.
    pub fn parked_record(&self, number: RecordNumber) -> Option<&Parked> {
        self.parked.get(&number)
    }

    /// A record is to be delivered after all, with its id.
    pub fn unpark(&mut self, number: RecordNumber) -> Parked {
        let mut parked = self.parked.remove(&number).expect("the caller has looked");
        self.origins[parked.origin.0 as usize].parked -= 1;
        if let Some(id) = parked.id.take() {
            self.ids.insert(number, id);
        }
        parked
    }

    /// A record that was kept aside is deleted.
    pub fn discard(&mut self, number: RecordNumber) -> Parked {
        let parked = self.parked.remove(&number).expect("the caller has looked");
        self.ids.remove(&number);
        let origin = &mut self.origins[parked.origin.0 as usize];
        origin.parked -= 1;
        origin.unsettled -= 1;
        self.drop_origin_if_done(parked.origin);
        parked
    }
}
