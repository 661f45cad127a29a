//! Batches that the walk meets: where a block may not have been durable, one of which a part is missing is dropped as a whole.

use super::Recovery;
use super::walk::FoundRecord;
use crate::ground::RecordNumber;
use crate::journal::format::{Entry, Kind, batch_of};

/// The batch that is being walked.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// The block may not have been durable.
    is_doubtful: bool,
    /// Where the first record of one stands whose last one is still to come, and the number of the next.
    open: Option<(usize, RecordNumber)>,
    /// What is dropped of it is counted.
    is_counted: bool,
}

impl Recovery {
    /// A block begins; `is_doubtful`: nothing says that it was durable.
    pub(super) fn begin_batches(&mut self, is_doubtful: bool) {
        self.batches = Batches { is_doubtful, ..Batches::default() };
    }

    /// Looks at an entry before it is applied; whether it is a record of a batch of which a part is missing.
    pub(super) fn meet_batch(&mut self, entry: &Entry<'_>, records: &mut Vec<FoundRecord>) -> bool {
        if !self.batches.is_doubtful {
            return false;
        }
        let (number, is_record) = (entry.header.number, entry.header.kind == Kind::Record);
        let (more, behind) = if is_record { batch_of(entry.payload) } else { (false, false) };
        let follows = behind && self.batches.open.is_some_and(|(_, next)| next == number);
        if !follows {
            self.drop_torn_batch(records);
        }
        if behind && !follows {
            self.drop_record(number);
            return true;
        }
        self.batches.is_counted &= behind;
        let first = self.batches.open.map_or(records.len(), |(first, _)| first);
        self.batches.open = more.then(|| (first, number.next()));
        false
    }

    /// Drops what was met of a batch whose next record is not there.
    pub(super) fn drop_torn_batch(&mut self, records: &mut Vec<FoundRecord>) {
        let Some((first, _)) = self.batches.open.take() else { return };
        for record in records.drain(first..) {
            self.drop_record(record.number);
        }
    }

    /// It is settled by a mark, so that no later start takes it for a record, nor counts it; unless a newer segment has all of it.
    fn drop_record(&mut self, number: RecordNumber) {
        if self.seen.contains(number) || self.settled.contains(number) {
            return;
        }
        self.settled.insert(number);
        self.marks_lost.push(number);
        if !std::mem::replace(&mut self.batches.is_counted, true) {
            self.report.torn_batches += 1;
        }
    }
}
