//! Batches: records that came in one request, all of which are kept, or none.
//!
//! A batch lies in one block, so that it becomes durable at once. Two things could tear it. A kill between two of its entries: so
//! its first entry is written last, and a walk over an open block ends at the first entry that is not whole. A loss of power
//! in the middle of the block's write: so where a commit is what acknowledges, its records say that they are of a batch, and a
//! start drops what is left of one that is not whole, where nothing says that its block was durable.

use super::format::{
    BLOCK_HEADER_BYTES, RECORD_FLAG_BEHIND, RECORD_FLAG_MORE, RECORD_PREFIX_BYTES, RecordPayload, entry_bytes,
};
use super::keys::{KEY_HASHES_BYTES, KeyHashes};
use super::ledger::ORIGIN_ENTRY_BYTES_MAX;
use super::log::{Appended, Journal, NewRecord};
use super::writer::Unwritten;
use super::{Claim, Full, Purpose};
use crate::ground::Now;

/// Room for the records of a batch in the open block, as long as nothing else is asked of the journal.
#[derive(Debug)]
#[must_use = "room is given to the next batch"]
pub struct BatchRoom {
    /// Of the entries.
    bytes: usize,
}

/// Bytes of the entries of a batch, of records with so many bytes each, headers included.
fn bytes_of(records: impl Iterator<Item = usize>) -> usize {
    let entries: usize = records.map(|bytes| entry_bytes(RECORD_PREFIX_BYTES + bytes)).sum();
    entries + KEY_HASHES_BYTES + ORIGIN_ENTRY_BYTES_MAX
}

impl Journal {
    /// Whether a batch of records with so many bytes each fits into a block.
    pub fn holds_batch(&self, records: impl Iterator<Item = usize>) -> bool {
        BLOCK_HEADER_BYTES + bytes_of(records) <= self.options.block_bytes as usize
    }

    /// Room for a batch of records with so many bytes each, which [`Journal::holds_batch`].
    ///
    /// # Errors
    /// [`Full`]: none of them is taken now.
    pub fn room_for_batch(
        &mut self,
        now: Now,
        claim: Claim,
        records: impl Iterator<Item = usize>,
    ) -> Result<BatchRoom, Full> {
        let bytes = bytes_of(records);
        self.make_room(now, bytes, Purpose::Intake(claim))?;
        Ok(BatchRoom { bytes })
    }

    /// Copies the records of a batch into the open block. They are of one origin, and have no key of their own; `hashes` is what the
    /// whole is known by from now on. From now on they survive what the level promises, all of them or none.
    pub fn append_batch(
        &mut self,
        now: Now,
        room: BatchRoom,
        records: &[NewRecord<'_>],
        hashes: Option<&KeyHashes>,
    ) -> Vec<Appended> {
        let Some(first) = records.first() else { return Vec::new() };
        let sizes = records.iter().map(|record| record.headers.as_bytes().len() + record.data.len());
        assert!(bytes_of(sizes) <= room.bytes, "a batch in room of its own");
        let mut is_new = false;
        for record in records {
            assert!(record.key.is_empty() && record.hashes.is_none() && record.origin == first.origin);
            is_new |= self.ledger.count_in(record.origin, self.writer.open_at()).1;
        }
        if is_new {
            self.define_origin(first.origin);
        }
        let encoded = hashes.map(|hashes| hashes.encode());
        // What a copy acknowledges is answered before its block is written: nothing of it is dropped later.
        let says_so = self.writer.acknowledges_commits();
        let origin = self.ledger.origin(first.origin);
        let (id, lane) = (origin.id, origin.lane);
        let prefixes: Vec<_> = (0..records.len())
            .map(|index| {
                let is_last = index + 1 == records.len();
                let record = &records[index];
                let payload = RecordPayload {
                    first_byte_wall_ns: record.first_byte_wall_ns,
                    frame_us: record.frame_us,
                    origin: id,
                    key: &[],
                    body_hash: 0,
                    hashes: encoded.as_ref().filter(|_| is_last),
                    headers: record.headers,
                    data: record.data,
                };
                let mut prefix = payload.encode_prefix();
                if says_so {
                    prefix[18] |= if is_last { 0 } else { RECORD_FLAG_MORE as u8 };
                    prefix[18] |= if index == 0 { 0 } else { RECORD_FLAG_BEHIND as u8 };
                }
                prefix
            })
            .collect();
        let entries: Vec<Unwritten<'_>> = records
            .iter()
            .zip(&prefixes)
            .enumerate()
            .map(|(index, (record, prefix))| {
                let is_last = index + 1 == records.len();
                let hashes = encoded.as_ref().filter(|_| is_last).map_or(&[][..], |hashes| &hashes[..]);
                Unwritten { flags: record.flags, parts: [&prefix[..], hashes, record.headers.as_bytes(), record.data] }
            })
            .collect();
        let written = self.writer.write_batch(&self.window, lane, &entries);
        if let (Some(hashes), Some((last, _))) = (hashes, written.last()) {
            self.keys.take(now, *hashes, *last);
        }
        for (entry, (number, _)) in entries.iter().zip(&written) {
            self.segments.add(*number, entry_bytes(entry.bytes()));
        }
        written.into_iter().map(|(number, at)| Appended { number, at }).collect()
    }
}

#[cfg(test)]
mod tests;
