//! Records that are kept aside: the API refuses them for good, and an operator decides. Nothing but a few bytes of each is in
//! memory; the record itself stays in its segment, unsettled, and is read back when it is to be tried again.

use super::{Full, Journal, Location, NO_LANE, OriginRef, Purpose};
use crate::ground::{Now, RecordNumber};
use crate::journal::format::{Kind, PARKED_PREFIX_BYTES, ParkedPayload, Position, entry_bytes, u32_at};

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
    /// The entry that keeps it aside: older ones are of no more use. At level `memory` there is none.
    pub(in crate::journal) said_in: Option<SaidIn>,
    /// At level `memory` there is no other place for it.
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
    /// Where a [`Scan`](super::Scan) that finds it may begin; at level `memory` the record itself, which is held.
    pub at: Result<Position, Location>,
}

/// What stays in memory of an answer.
pub(in crate::journal) fn shown(answer: &[u8]) -> Box<[u8]> {
    answer[..answer.len().min(ANSWER_SHOWN_BYTES)].into()
}

impl Journal {
    /// Keeps a record aside. Its hold is released.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn park(
        &mut self,
        now: Now,
        number: RecordNumber,
        (origin, at): (OriginRef, Location),
        id: Option<&str>,
        refused: Refused<'_>,
    ) -> Result<(), Full> {
        let answer = &refused.answer[..refused.answer.len().min(ANSWER_BYTES_MAX)];
        let Refused { status, attempts, .. } = refused;
        let mut said_in = None;
        if self.on_disk() {
            self.make_room(now, entry_bytes(PARKED_PREFIX_BYTES + answer.len()), Purpose::Progress)?;
            let prefix =
                ParkedPayload { number, parked_wall_ns: now.wall_ns, status, attempts, answer }.encode_prefix();
            let (number, _) = self.write_entry(Kind::Parked, 0, NO_LANE, &[&prefix, answer]);
            let bytes = entry_bytes(PARKED_PREFIX_BYTES + answer.len()) as u32;
            said_in = Some(SaidIn { number, bytes });
        }
        let payload = u32_at(self.extent_memory(at.extent, at.offset as usize), 4) as usize;
        let parked = Parked {
            origin,
            received_wall_ns: self.record(at).payload.first_byte_wall_ns,
            parked_wall_ns: now.wall_ns,
            status,
            attempts,
            answer: shown(answer),
            id: id.or(self.ids.get(&number).map(|id| &**id)).map(Into::into),
            bytes: entry_bytes(payload) as u32,
            said_in,
            held: (!self.on_disk()).then_some(at),
        };
        let held = parked.held.is_some();
        let before = self.parked.insert(number, parked);
        assert!(before.is_none(), "record {number} is parked once");
        self.origins[origin.0 as usize].parked += 1;
        if !held {
            self.release(at);
        }
        Ok(())
    }

    /// Records that are kept aside, by number.
    pub fn parked(&self) -> impl Iterator<Item = (RecordNumber, &Parked)> {
        self.parked.iter().map(|(number, parked)| (*number, parked))
    }

    /// One that is kept aside.
    pub fn parked_record(&self, number: RecordNumber) -> Option<&Parked> {
        self.parked.get(&number)
    }

    /// A record that was kept aside is to be delivered, under its key and with its id. `None` where it is not kept aside.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn unpark(&mut self, now: Now, number: RecordNumber) -> Result<Option<Unparked>, Full> {
        if !self.parked.contains_key(&number) {
            return Ok(None);
        }
        self.append_about(now, Kind::Retried, number)?;
        let parked = self.parked.remove(&number).expect("looked at above");
        self.origins[parked.origin.0 as usize].parked -= 1;
        if let Some(id) = parked.id {
            self.ids.insert(number, id);
        }
        let at = match parked.held {
            Some(at) => Err(at),
            None => Ok(self.holder(number).map_or_else(|| self.oldest(), |segment| segment.first_position())),
        };
        Ok(Some(Unparked { origin: parked.origin, at }))
    }

    /// A record that was kept aside is deleted. Whether it was there.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn discard(&mut self, now: Now, number: RecordNumber) -> Result<bool, Full> {
        if !self.parked.contains_key(&number) {
            return Ok(false);
        }
        self.append_about(now, Kind::Discarded, number)?;
        let parked = self.parked.remove(&number).expect("looked at above");
        if self.on_disk() {
            let settled = self.segments.iter_mut().any(|segment| segment.settle(number, parked.bytes as usize));
            assert!(settled, "record {number} is discarded once");
            self.rewriting.note_change();
        }
        self.ids.remove(&number);
        let origin = &mut self.origins[parked.origin.0 as usize];
        origin.parked -= 1;
        origin.unsettled -= 1;
        self.drop_origin_if_done(parked.origin);
        if let Some(at) = parked.held {
            self.release(at);
        }
        Ok(true)
    }

    fn append_about(&mut self, now: Now, kind: Kind, number: RecordNumber) -> Result<(), Full> {
        if self.on_disk() {
            self.make_room(now, entry_bytes(8), Purpose::Progress)?;
            self.write_entry(kind, 0, NO_LANE, &[&number.0.to_le_bytes()]);
        }
        Ok(())
    }
}
