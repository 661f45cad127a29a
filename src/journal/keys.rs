//! The keys under which machines sent their records (Idempotency-Key), so that the same request is
//! never taken twice: a bounded window of them, by count and age.
//!
//! A record's entry carries the hashes of its key, so that one cannot be there without the other.
//! The window outlives the record: before a segment is given up, what it holds of live keys is
//! written again, into the block that is being filled ([`Kind::Key`](super::format::Kind)). Of each
//! key 32 bytes are kept: a hash of SOURCE and key, and a hash of the body.
//!
//! The hashes are SHA-256, cut: nobody can make two requests that look alike, and no secret has to
//! outlive a start. The highest 16 bits of a key's hash are those of SOURCE alone, so that each core
//! can tell which keys are its own, whichever journal holds them.
//!
//! A key's time is the wall clock's when it was taken, rounded up to a 64th of the age. While the
//! process lives it goes on with the monotonic clock, so that a clock that jumps makes nothing old.

use super::format::{KEY_PREFIX_BYTES, u128_at};
use crate::ground::{CoreId, Now, RecordNumber};
use hashbrown::HashTable;
use ring::digest::{Context, SHA256};
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Bytes of a key, in memory and on disk.
pub const KEY_HASHES_BYTES: usize = 32;
/// Bytes that a key takes in the journal at most, where it is alone in its entry.
pub const KEY_ENTRY_BYTES: u64 = 72;
/// Times are rounded up to this part of the age.
const AGE_STEPS: u64 = 64;
/// No step is shorter.
const STEP_NS_MIN: u64 = 1_000_000;
/// Of a key that is written in no block of this journal yet.
const UNSAID: RecordNumber = RecordNumber(0);

/// How many keys are remembered, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    /// 0: none.
    pub count: usize,
    /// From when a key was taken.
    pub age_ns: u64,
}

/// What a request with a key is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHashes {
    /// Of SOURCE and key.
    pub key: u128,
    /// Of the body.
    pub body: u128,
}

impl KeyHashes {
    /// Of a request to SOURCE.
    pub fn of(source: &str, key: &[u8], body: &[u8]) -> Self {
        let mut both = Context::new(&SHA256);
        both.update(&(source.len() as u32).to_le_bytes());
        both.update(source.as_bytes());
        both.update(key);
        let mut data = Context::new(&SHA256);
        data.update(body);
        let route = u128::from(route_of(source)) << 112;
        Self { key: u128_at(both.finish().as_ref(), 0) >> 16 | route, body: u128_at(data.finish().as_ref(), 0) }
    }

    /// Of a request to SOURCE whose body is several records; `mark` is what tells it from the same bytes as one record.
    pub fn of_marked(source: &str, key: &[u8], mark: &[u8], body: &[u8]) -> Self {
        let mut data = Context::new(&SHA256);
        data.update(mark);
        data.update(body);
        Self { body: u128_at(data.finish().as_ref(), 0), ..Self::of(source, key, &[]) }
    }

    /// As it is written down.
    pub fn encode(self) -> [u8; KEY_HASHES_BYTES] {
        let mut out = [0; KEY_HASHES_BYTES];
        out[..16].copy_from_slice(&self.key.to_le_bytes());
        out[16..].copy_from_slice(&self.body.to_le_bytes());
        out
    }

    /// Reads what [`KeyHashes::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Self {
        Self { key: u128_at(bytes, 0), body: u128_at(bytes, 16) }
    }

    /// The core that owns its SOURCE.
    pub fn owner(self, cores: u16) -> CoreId {
        CoreId((self.key >> 112) as u16 % cores)
    }
}

/// Where SOURCE belongs, the same in every start and version: it is part of what is on disk.
fn route_of(source: &str) -> u16 {
    let crc = crc32c::crc32c(source.as_bytes());
    (crc ^ crc >> 16) as u16
}

/// The core that owns the records and keys of SOURCE.
pub fn owner_of(source: &str, cores: u16) -> CoreId {
    CoreId(route_of(source) % cores)
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It came with this body, in a record that is as durable as all entries up to this number.
    Same(RecordNumber),
    /// It came with another body.
    Other,
}

/// A key that a start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundKey {
    /// What it is known by.
    pub hashes: KeyHashes,
    /// When it was taken, in nanoseconds since 1970.
    pub taken_wall_ns: u64,
    /// Its place among the keys of its journal: it came after all with a lower one.
    pub(super) order: RecordNumber,
    /// The newest entry that says it.
    pub(super) said_in: RecordNumber,
}

/// How an entry begins that says keys which follow each other. Their places are those behind the
/// first one's: no other key has one in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeysHead {
    pub taken_ns: u64,
    order: RecordNumber,
    /// In memory.
    place: u64,
}

impl KeysHead {
    pub fn encode(&self) -> [u8; KEY_PREFIX_BYTES] {
        let mut out = [0; KEY_PREFIX_BYTES];
        out[..8].copy_from_slice(&self.taken_ns.to_le_bytes());
        out[8..].copy_from_slice(&self.order.0.to_le_bytes());
        out
    }

    /// Whether a key comes right behind so many from this one on.
    pub fn is_followed_by(&self, count: u64, place: u64) -> bool {
        self.place + count == place
    }

    /// Whether an entry that has so many keys from this one on may go on with another one.
    pub fn goes_on(&self, count: u64, next: &Self) -> bool {
        self.is_followed_by(count, next.place) && self.taken_ns == next.taken_ns
    }
}

/// Keys that were taken at about the same time.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The place of the first.
    first: u64,
    taken_ns: u64,
}

/// Owns the window of machines' keys. It never knows what a record is, nor where it lies.
#[derive(Debug)]
pub(super) struct Keys {
    limits: KeyLimits,
    step_ns: u64,
    /// Oldest first; the first one has the place `base`.
    hashes: VecDeque<KeyHashes>,
    /// The newest entry that says each.
    said_in: VecDeque<RecordNumber>,
    /// The number of the record that each came with, or near it; never falling.
    orders: VecDeque<RecordNumber>,
    base: u64,
    runs: VecDeque<Run>,
    /// Places by the hash of the key; the low half of them.
    index: HashTable<u32>,
    /// No key is said in an older entry.
    floor: Option<RecordNumber>,
    /// Places of keys that are to be said again.
    again: VecDeque<u64>,
    /// The newest entry that says keys again, or any that a start found.
    last_said: RecordNumber,
    /// What the wall clock was ahead of the monotonic one when this start was first told the time.
    offset_ns: Option<u64>,
}

impl Keys {
    /// Those that a start found.
    pub fn new(limits: KeyLimits, found: Vec<FoundKey>) -> Self {
        let mut keys = Self {
            limits,
            step_ns: (limits.age_ns / AGE_STEPS).max(STEP_NS_MIN),
            hashes: VecDeque::new(),
            said_in: VecDeque::new(),
            orders: VecDeque::new(),
            base: 0,
            runs: VecDeque::new(),
            index: HashTable::new(),
            floor: None,
            again: VecDeque::new(),
            last_said: UNSAID,
            offset_ns: None,
        };
        keys.fill(found);
        keys
    }

    /// Keys of other journals, which this one is to remember from now on.
    pub fn import(&mut self, found: impl Iterator<Item = FoundKey>) {
        let mut all: Vec<FoundKey> = self.found().collect();
        let own = all.len();
        for key in found {
            // Behind those of its time that are here.
            let behind = all[..own].partition_point(|other| other.taken_wall_ns <= key.taken_wall_ns);
            let order = behind.checked_sub(1).map_or(UNSAID, |before| all[before].order);
            all.push(FoundKey { said_in: UNSAID, order, ..key });
        }
        if all.len() > own {
            self.fill(all);
        }
    }

    /// Begins with these: of each key what was said last, oldest first.
    fn fill(&mut self, mut found: Vec<FoundKey>) {
        keep_newest(&mut found, self.limits.count);
        self.hashes.clear();
        self.said_in.clear();
        self.orders.clear();
        self.runs.clear();
        self.index.clear();
        self.base = 0;
        for FoundKey { hashes, taken_wall_ns, order, said_in } in found.into_iter().rev() {
            self.push(hashes, (order, said_in), taken_wall_ns);
        }
        self.find_floor();
        // What a start found in a block file need not be on disk.
        self.last_said = self.said_in.iter().max().copied().unwrap_or(UNSAID);
    }

    /// All of them, as a start finds them.
    pub fn found(&self) -> impl Iterator<Item = FoundKey> {
        self.hashes.iter().enumerate().map(|(index, hashes)| FoundKey {
            hashes: *hashes,
            taken_wall_ns: self.taken_ns(self.base + index as u64),
            order: self.orders[index],
            said_in: self.said_in[index],
        })
    }

    /// Forgets all: another journal remembers them.
    pub fn forget(&mut self) {
        self.fill(Vec::new());
        self.again.clear();
    }

    // ---- requests

    /// Whether keys are remembered.
    pub fn is_on(&self) -> bool {
        self.limits.count > 0
    }

    /// What is known of a key.
    pub fn find(&mut self, now: Now, hashes: KeyHashes) -> Option<Known> {
        self.expire(now);
        let index = self.index_of(hashes.key)?;
        let known = self.hashes[index];
        Some(if known.body == hashes.body { Known::Same(self.said_in[index]) } else { Known::Other })
    }

    /// A key that is not known was taken, with the record of this number.
    pub fn take(&mut self, now: Now, hashes: KeyHashes, number: RecordNumber) {
        if !self.is_on() {
            return;
        }
        debug_assert!(self.index_of(hashes.key).is_none(), "the caller has looked");
        let taken_ns = self.time(now);
        while self.hashes.len() >= self.limits.count {
            self.drop_oldest();
        }
        self.push(hashes, (number, number), taken_ns);
        self.floor = Some(self.floor.map_or(number, |floor| floor.min(number)));
    }

    fn push(&mut self, hashes: KeyHashes, (order, said_in): (RecordNumber, RecordNumber), taken_ns: u64) {
        let taken_ns = taken_ns.div_ceil(self.step_ns) * self.step_ns;
        let place = self.base + self.hashes.len() as u64;
        // A clock that was set back makes nothing older than what came before it.
        if self.runs.back().is_none_or(|run| run.taken_ns < taken_ns) {
            self.runs.push_back(Run { first: place, taken_ns });
        }
        self.hashes.push_back(hashes);
        self.said_in.push_back(said_in);
        self.orders.push_back(order);
        let Self { index, hashes: all, base, .. } = self;
        let hash_of = |place: &u32| all[place.wrapping_sub(*base as u32) as usize].key as u64;
        index.insert_unique(hashes.key as u64, place as u32, hash_of);
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.hashes.front() else { return };
        let place = self.base as u32;
        if let Ok(found) = self.index.find_entry(oldest.key as u64, |other| *other == place) {
            found.remove();
        }
        self.hashes.pop_front();
        self.said_in.pop_front();
        self.orders.pop_front();
        self.base += 1;
        if self.runs.get(1).is_some_and(|next| next.first <= self.base) || self.hashes.is_empty() {
            self.runs.pop_front();
        }
        if self.hashes.is_empty() {
            self.floor = None;
        }
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Now) {
        if self.runs.is_empty() {
            return;
        }
        let now_ns = self.time(now);
        while self.runs.front().is_some_and(|run| run.taken_ns + self.limits.age_ns <= now_ns) {
            self.drop_oldest();
        }
    }

    /// The time that keys are given.
    fn time(&mut self, now: Now) -> u64 {
        if self.offset_ns.is_none() {
            // What seems to come from the future was taken just now, at the latest.
            self.runs.iter_mut().for_each(|run| run.taken_ns = run.taken_ns.min(now.wall_ns));
        }
        let offset_ns = *self.offset_ns.get_or_insert(now.wall_ns.wrapping_sub(now.mono_ns));
        now.mono_ns.wrapping_add(offset_ns)
    }

    fn index_of(&self, key: u128) -> Option<usize> {
        let at = |place: u32| place.wrapping_sub(self.base as u32) as usize;
        let found = self.index.find(key as u64, |place| self.hashes[at(*place)].key == key)?;
        Some(at(*found))
    }

    fn taken_ns(&self, place: u64) -> u64 {
        let behind = self.runs.partition_point(|run| run.first <= place);
        self.runs[behind - 1].taken_ns
    }

    // ---- keys are said again

    /// Bytes that all keys would take, said again.
    pub fn bytes(&self) -> u64 {
        self.hashes.len() as u64 * KEY_ENTRY_BYTES
    }

    /// No key is said in an older entry.
    pub fn floor(&self) -> Option<RecordNumber> {
        self.floor
    }

    /// Whether keys came from other journals that this one has not written down.
    pub fn has_unsaid(&self) -> bool {
        self.floor == Some(UNSAID)
    }

    /// Keys that are said in older entries than this one are to be said again.
    pub fn say_again(&mut self, below: RecordNumber) {
        if self.again.is_empty() && self.floor.is_some_and(|floor| floor < below.max(UNSAID.next())) {
            let below = below.max(UNSAID.next());
            let old = self.said_in.iter().enumerate().filter(|(_, said_in)| **said_in < below);
            self.again.extend(old.map(|(index, _)| self.base + index as u64));
            self.find_floor();
        }
    }

    fn find_floor(&mut self) {
        self.floor = self.said_in.iter().min().copied();
    }

    /// Whether keys are to be said again.
    pub fn is_saying(&self) -> bool {
        !self.again.is_empty()
    }

    /// The next of them, at most `max` that follow each other and are of one time, as an entry's
    /// payload; how many.
    pub fn next_again(&mut self, max: usize, payload: &mut Vec<u8>) -> usize {
        payload.clear();
        while self.again.pop_front_if(|place| *place < self.base).is_some() {}
        let Some(first) = self.again.front() else {
            self.find_floor();
            return 0;
        };
        let head = self.head_of(*first);
        payload.extend_from_slice(&head.encode());
        let is_next =
            |count: u64, place: u64| head.is_followed_by(count, place) && self.taken_ns(place) == head.taken_ns;
        let mut count = 0;
        for &place in self.again.iter().take(max) {
            if !is_next(count, place) {
                break;
            }
            payload.extend_from_slice(&self.hashes[(place - self.base) as usize].encode());
            count += 1;
        }
        count as usize
    }

    /// So many of them are said in an entry.
    pub fn said_again(&mut self, count: usize, number: RecordNumber) {
        for place in self.again.drain(..count) {
            self.said_in[(place - self.base) as usize] = number;
        }
        self.last_said = number;
        if self.again.is_empty() {
            self.find_floor();
        }
    }

    /// Whether all that was said again is in entries below this number.
    pub fn is_said_below(&self, committed: RecordNumber) -> bool {
        self.again.is_empty() && self.last_said < committed
    }

    /// How an entry begins that says the key of an older entry again, if it is live and no newer
    /// entry says it.
    pub fn head_if_said(&self, hashes: KeyHashes, is_here: impl Fn(RecordNumber) -> bool) -> Option<KeysHead> {
        let index = self.index_of(hashes.key)?;
        let is_live = self.hashes[index] == hashes && is_here(self.said_in[index]);
        is_live.then(|| self.head_of(self.base + index as u64))
    }

    fn head_of(&self, place: u64) -> KeysHead {
        let order = self.orders[(place - self.base) as usize];
        KeysHead { taken_ns: self.taken_ns(place), order, place }
    }

    /// The entries that say them.
    pub fn said_in(&self) -> impl Iterator<Item = RecordNumber> {
        self.said_in.iter().copied()
    }

    // ---- invariants

    /// Asserts that each key is found where it is, and that no time and no entry is older than what
    /// is said of all. Only of a window that is small enough.
    pub fn check(&self) {
        const CHECKED_MAX: usize = 256;
        let counts = [self.said_in.len(), self.orders.len(), self.index.len()];
        assert!(counts.iter().all(|count| *count == self.hashes.len()), "machines' keys");
        assert!(self.hashes.len() <= self.limits.count, "machines' keys beyond their limit");
        assert_eq!(self.runs.is_empty(), self.hashes.is_empty(), "times of machines' keys");
        if self.hashes.len() > CHECKED_MAX {
            return;
        }
        for (index, hashes) in self.hashes.iter().enumerate() {
            assert_eq!(self.index_of(hashes.key), Some(index), "a machine's key that is not found");
        }
        assert!(self.runs.iter().is_sorted_by(|a, b| a.first < b.first && a.taken_ns <= b.taken_ns), "{:?}", self.runs);
        assert!(self.orders.iter().is_sorted(), "the order of machines' keys");
        assert!(self.said_in.iter().all(|number| Some(*number) >= self.floor), "a machine's key below the floor");
    }
}

/// Of each key what was said last, and of those the newest `count`, newest first.
pub(super) fn keep_newest(found: &mut Vec<FoundKey>, count: usize) {
    found.sort_unstable_by_key(|found| (found.hashes.key, Reverse(found.said_in)));
    found.dedup_by_key(|found| found.hashes.key);
    found.sort_unstable_by_key(|found| Reverse((found.order, found.taken_wall_ns, found.said_in)));
    found.truncate(count);
}

#[cfg(test)]
mod tests;
