//! What a journal says of records that were kept aside, and of ids that were given ahead.

use super::Recovery;
use crate::ground::RecordNumber;
use crate::journal::epoch::Epoch;
use crate::journal::format::{LEASED_PREFIX_BYTES, ParkedPayload, entry_bytes, record_number_at, u64_at};
use crate::journal::ledger::{Leased, Ledger, OriginRef, Parked, SaidIn, shown};
use std::collections::HashMap;

/// The newest of the entries that keep a record aside, or bring it back.
struct FoundParked {
    /// The entry's own number.
    said_in: RecordNumber,
    /// `None`: it is to be delivered after all.
    parked: Option<ParkedEntry>,
    /// The record, once its entry is found.
    record: Option<FoundRecord>,
}

/// What an entry says that keeps a record aside.
struct ParkedEntry {
    parked_wall_ns: u64,
    status: u16,
    attempts: u32,
    answer: Box<[u8]>,
    said_in: SaidIn,
}

/// What the record's own entry says.
struct FoundRecord {
    origin: u32,
    received_wall_ns: u64,
    bytes: u32,
}

/// Gathered in a walk that meets entries in no order: the newest counts.
#[derive(Default)]
pub(super) struct Aside {
    parked: HashMap<RecordNumber, FoundParked>,
    /// The newest list of ids that were given ahead.
    leased: Option<FoundLeased>,
}

/// A list of ids that were given ahead.
struct FoundLeased {
    /// The entry's own number.
    said_in: RecordNumber,
    leased: Leased,
    /// The epoch that left them to the next start, by the low half of its id; 0: they were still in use.
    left_by: u64,
}

impl Recovery {
    /// A record is kept aside.
    pub(super) fn apply_parked(&mut self, said_in: RecordNumber, payload: &[u8]) {
        let ParkedPayload { number, parked_wall_ns, status, attempts, answer } = ParkedPayload::decode(payload);
        let bytes = entry_bytes(payload.len()) as u32;
        let said = SaidIn { number: said_in, bytes };
        let parked = ParkedEntry { parked_wall_ns, status, attempts, answer: shown(answer), said_in: said };
        self.say_parked(said_in, number, Some(parked));
    }

    /// A record is to be delivered after all.
    pub(super) fn apply_retried(&mut self, said_in: RecordNumber, payload: &[u8]) {
        self.say_parked(said_in, record_number_at(payload, 0), None);
    }

    fn say_parked(&mut self, said_in: RecordNumber, number: RecordNumber, parked: Option<ParkedEntry>) {
        let newer = self.aside.parked.get(&number).is_none_or(|found| found.said_in <= said_in);
        if newer && !self.settled.contains(number) {
            self.aside.parked.insert(number, FoundParked { said_in, parked, record: None });
        }
    }

    /// Ids that are not used yet.
    pub(super) fn apply_leased(&mut self, said_in: RecordNumber, payload: &[u8]) {
        if self.aside.leased.as_ref().is_none_or(|found| found.said_in <= said_in) {
            let (prefix, ranges) = payload.split_at(LEASED_PREFIX_BYTES);
            let ids = ranges.chunks_exact(16).map(|range| u64_at(range, 0)..u64_at(range, 8)).collect();
            let leased = Leased { origin: u64_at(prefix, 0), ids };
            self.aside.leased = Some(FoundLeased { said_in, leased, left_by: u64_at(prefix, 8) });
        }
    }

    /// An unsettled record was found, whose entry takes so many bytes.
    pub(super) fn count_parked(&mut self, number: RecordNumber, origin: u32, received_wall_ns: u64, bytes: usize) {
        if let Some(found) = self.aside.parked.get_mut(&number).filter(|found| found.parked.is_some()) {
            self.report.parked += 1;
            found.record = Some(FoundRecord { origin, received_wall_ns, bytes: bytes as u32 });
        }
    }
}

impl Aside {
    /// Whether that epoch left ids to the next start. An older list stands for what damage took away, and some of its ids were used.
    pub(super) fn has_ids_of(&self, epoch: &Epoch) -> bool {
        self.leased.as_ref().is_some_and(|found| !found.leased.ids.is_empty() && found.left_by == epoch.id as u64)
    }

    /// Hands all of it to a ledger that knows its origins and ids. `is_heir`: the last start ended in order and left its ids to this one.
    pub(super) fn finish(self, is_heir: bool, ledger: &mut Ledger) {
        if let Some(found) = self.leased {
            // After any other end it is not known which of them were used.
            ledger.adopt_leased(is_heir.then_some(found.leased));
        }
        for (number, FoundParked { parked, record, .. }) in self.parked {
            // Without its record it was settled, or is lost.
            let Some((parked, FoundRecord { origin, received_wall_ns, bytes })) = parked.zip(record) else { continue };
            ledger.adopt_parked(number, origin, |origin| parked.of(origin, received_wall_ns, bytes));
        }
    }
}

impl ParkedEntry {
    fn of(self, origin: OriginRef, received_wall_ns: u64, bytes: u32) -> Parked {
        let Self { parked_wall_ns, status, attempts, answer, said_in } = self;
        let (id, said_in, held) = (None, Some(said_in), None);
        Parked { origin, received_wall_ns, parked_wall_ns, status, attempts, answer, id, bytes, said_in, held }
    }
}
