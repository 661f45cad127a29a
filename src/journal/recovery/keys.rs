//! Machines' keys that the walk meets, in records and in entries that say them again.

use super::Recovery;
use crate::ground::RecordNumber;
use crate::journal::format::{KEY_PREFIX_BYTES, record_number_at, u64_at};
use crate::journal::keys::{FoundKey, KEY_HASHES_BYTES, KeyHashes, keep_newest};
use std::ops::Range;

/// Gathered in a walk that meets entries in no order. Of a journal that holds many more than are
/// remembered no more than twice as many are in memory.
#[derive(Default)]
pub(super) struct FoundKeys {
    list: Vec<FoundKey>,
    count_max: usize,
    /// The oldest key of those that were kept last: so many are newer that an older one need not be
    /// kept. Most segments are met newest first, so that most keys are older.
    floor: Option<RecordNumber>,
}

impl FoundKeys {
    /// So many are remembered.
    pub fn limit(&mut self, count_max: usize) {
        self.count_max = count_max;
    }

    /// Whether the newest entry that says any of them is among these.
    pub fn are_said_in(&mut self, entries: &Range<RecordNumber>) -> bool {
        self.keep_newest();
        self.list.iter().any(|found| entries.contains(&found.said_in))
    }

    /// All of them.
    pub fn take(&mut self) -> Vec<FoundKey> {
        self.keep_newest();
        self.floor = None;
        std::mem::take(&mut self.list)
    }

    fn push(&mut self, found: FoundKey) {
        if self.count_max == 0 || self.floor.is_some_and(|floor| found.order < floor) {
            return;
        }
        self.list.push(found);
        if self.list.len() > 2 * self.count_max + 1_024 {
            self.keep_newest();
        }
    }

    fn keep_newest(&mut self) {
        keep_newest(&mut self.list, self.count_max);
        self.floor = self.list.last().filter(|_| self.list.len() == self.count_max).map(|oldest| oldest.order);
    }
}

impl Recovery {
    /// A record came with a key.
    pub(super) fn apply_record_key(
        &mut self,
        number: RecordNumber,
        taken_wall_ns: u64,
        hashes: &[u8; KEY_HASHES_BYTES],
    ) {
        let hashes = KeyHashes::decode(hashes);
        self.keys.push(FoundKey { hashes, taken_wall_ns, order: number, said_in: number });
    }

    /// Keys are said again.
    pub(super) fn apply_keys(&mut self, said_in: RecordNumber, payload: &[u8]) {
        let (taken_wall_ns, first) = (u64_at(payload, 0), record_number_at(payload, 8));
        for (index, hashes) in payload[KEY_PREFIX_BYTES..].chunks_exact(KEY_HASHES_BYTES).enumerate() {
            // Keys that came from another journal can be more than the numbers between.
            let order = RecordNumber(first.0.saturating_add(index as u64)).min(said_in);
            self.keys.push(FoundKey { hashes: KeyHashes::decode(hashes), taken_wall_ns, order, said_in });
        }
    }
}
