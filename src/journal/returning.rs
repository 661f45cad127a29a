//! Records that a start could not read, that it told as missing, and that can be read now. They get
//! a journal of their own, under their numbers and keys, which the next start goes on with. Pure:
//! the files are read and written by the caller.
//!
//! A start that keeps a file which it could not read to its end lists what was missing then:
//!
//! ```text
//! 0 stamp, magic "RINGMISS"   32 runs u64   40 runs × (first number u64, the number behind the last u64), crc u32
//! ```

use super::epoch::{EndMark, Epoch};
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Dense, Entries, EntryHeader, Kind, OriginPayload, Position, RecordPayload,
    SEGMENT_HEADER_BYTES, SegmentHeader, record_number_at, round_up, u32_at, u64_at,
};
use super::inventory::{Held, HeldOrigin, Inventory};
use super::ledger::SenderKinds;
use super::rewriting::DenseBlocks;
use super::stamp::{self, STAMP_BYTES};
use super::{BLOCK_BYTES, NO_LANE};
use crate::ground::{CoreId, RecordNumber, SegmentNumber};
use std::collections::{BTreeMap, BTreeSet};

const MISSING_MAGIC: [u8; 8] = *b"RINGMISS";
const RUNS_AT: usize = STAMP_BYTES + 8;
const RUN_BYTES: usize = 16;
/// The only segment of such a journal.
const SEGMENT: SegmentNumber = SegmentNumber(1);
/// Where its files may lie: the unit of every disk divides it.
const PHYSICAL: u32 = 4096;

/// Numbers of records, in runs: the first number, and the one behind the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(pub Vec<(u64, u64)>);

impl Numbers {
    /// Of numbers in rising order.
    pub fn of(numbers: impl IntoIterator<Item = RecordNumber>) -> Self {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for RecordNumber(number) in numbers {
            match runs.last_mut() {
                Some((_, end)) if *end == number => *end += 1,
                _ => runs.push((number, number + 1)),
            }
        }
        Self(runs)
    }

    /// Whether a number is among them.
    pub fn contains(&self, number: RecordNumber) -> bool {
        self.0.iter().any(|(first, end)| (*first..*end).contains(&number.0))
    }

    /// Those that are not among others.
    pub fn without(&self, others: &Self) -> Self {
        let all = self.0.iter().flat_map(|(first, end)| (*first..*end).map(RecordNumber));
        Self::of(all.filter(|number| !others.contains(*number)))
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, end)| end - first).sum()
    }

    /// How many lie between two numbers, the second one not included.
    pub fn count_in(&self, from: RecordNumber, to: RecordNumber) -> u64 {
        self.0.iter().map(|(first, end)| (*end).min(to.0).saturating_sub((*first).max(from.0))).sum()
    }

    /// As a file says it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; STAMP_BYTES];
        stamp::write(MISSING_MAGIC, &mut out);
        out.extend_from_slice(&(self.0.len() as u64).to_le_bytes());
        for (first, end) in &self.0 {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// What a file says; `None` where it is damaged, or of another format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        stamp::readable(MISSING_MAGIC, bytes)?;
        let crc_at = bytes.len().checked_sub(4).filter(|at| *at >= RUNS_AT)?;
        let runs = &bytes[RUNS_AT..crc_at];
        let is_whole = u32_at(bytes, crc_at) == crc32c::crc32c(&bytes[..crc_at])
            && u64_at(bytes, STAMP_BYTES) == (runs.len() / RUN_BYTES) as u64
            && runs.len().is_multiple_of(RUN_BYTES);
        is_whole.then(|| Self(runs.chunks_exact(RUN_BYTES).map(|run| (u64_at(run, 0), u64_at(run, 8))).collect()))
    }

    /// The records that wait in a journal of returned ones, by its epoch file; `None` where that is
    /// damaged.
    pub fn of_epoch(bytes: &[u8]) -> Option<Self> {
        let Inventory { waiting, .. } = Epoch::inventory(bytes)?;
        Some(Self(waiting.into_iter().map(|(first, end)| (first.0, end.0)).collect()))
    }
}

/// The files of a journal with returned records.
#[derive(Debug)]
pub struct Returned {
    /// Its segment.
    pub segment: (SegmentNumber, Vec<u8>),
    /// Its epoch file: it was closed in order.
    pub epoch: (u64, Vec<u8>),
    /// The records in it.
    pub numbers: Numbers,
}

/// An entry, and the epoch that it is of.
struct Whole {
    header: EntryHeader,
    epoch_id: u128,
    payload: Vec<u8>,
}

/// What is whole in files that were kept.
struct Salvaged<'a> {
    missing: &'a Numbers,
    records: BTreeMap<RecordNumber, Whole>,
    origins: BTreeMap<u32, Whole>,
    /// Ids, and why records are kept aside, by their own numbers.
    said: BTreeMap<RecordNumber, Whole>,
    /// Records that were delivered or discarded, as far as the same files tell.
    settled: BTreeSet<RecordNumber>,
}

impl Salvaged<'_> {
    /// Takes what is whole in a segment's file.
    fn take(&mut self, bytes: &[u8]) {
        let Some((nonce, physical)) = life_of(bytes) else { return };
        let mut offset = physical as usize;
        while offset + BLOCK_HEADER_BYTES <= bytes.len() {
            let found = BlockHeader::decode(&bytes[offset..]);
            let Some((header, seal)) = found.filter(|(h, _)| h.nonce == nonce && h.at.offset as usize == offset) else {
                offset += physical as usize;
                continue;
            };
            let used = seal.map_or(bytes.len() - offset, |seal| seal.used as usize).min(bytes.len() - offset);
            let mut entries = Entries::new(&bytes[offset..offset + used], nonce, header.at.offset);
            loop {
                for entry in entries.by_ref() {
                    self.take_entry(entry.header, header.epoch_id, entry.payload);
                }
                if entries.resynchronise().is_none() {
                    break;
                }
            }
            offset += seal.map_or(physical, |seal| round_up(seal.used, physical)) as usize;
        }
    }

    fn take_entry(&mut self, header: EntryHeader, epoch_id: u128, payload: &[u8]) {
        let whole = || Whole { header, epoch_id, payload: payload.to_vec() };
        match header.kind {
            Kind::Record if self.missing.contains(header.number) => {
                self.records.insert(header.number, whole());
            }
            Kind::Origin | Kind::Origin1 => {
                self.origins.insert(u32_at(payload, 0), whole());
            }
            Kind::Id | Kind::Parked | Kind::Retried if self.missing.contains(record_number_at(payload, 0)) => {
                self.said.insert(header.number, whole());
            }
            Kind::Delivered => {
                self.settled.extend(payload.chunks_exact(8).map(|number| record_number_at(number, 0)));
            }
            Kind::Discarded => {
                self.settled.insert(record_number_at(payload, 0));
            }
            _ => {}
        }
    }

    /// Leaves out what is settled, and what is said of others than the records that are here.
    fn prune(&mut self) {
        self.records.retain(|number, _| !self.settled.contains(number));
        let records = &self.records;
        let origin_of = |whole: &Whole| RecordPayload::decode(&whole.payload).origin;
        let used: BTreeSet<u32> = records.values().map(origin_of).collect();
        self.origins.retain(|origin, _| used.contains(origin));
        self.said.retain(|_, whole| records.contains_key(&record_number_at(&whole.payload, 0)));
    }
}

/// The nonce of a segment's file, and the unit of its blocks.
fn life_of(bytes: &[u8]) -> Option<(u64, u32)> {
    if let Some(header) = bytes.get(..SEGMENT_HEADER_BYTES).and_then(|_| SegmentHeader::decode(bytes)) {
        return Some((header.nonce, header.physical));
    }
    // Any block tells it, too.
    let is_here = |offset: &usize| {
        BlockHeader::decode(&bytes[*offset..]).is_some_and(|(header, _)| header.at.offset as usize == *offset)
    };
    let first = (512..bytes.len().saturating_sub(BLOCK_HEADER_BYTES)).step_by(512).find(is_here)?;
    BlockHeader::decode(&bytes[first..]).map(|(header, _)| (header.nonce, 512))
}

/// The journal of those records that are missing and whole in files that were kept; `None` where
/// there is none. `kept`: the contents of segments' files, zero where they cannot be read.
/// `random`: 128 random bits.
pub fn returned(kept: &[Vec<u8>], missing: &Numbers, core: CoreId, random: u128) -> Option<Returned> {
    let (records, origins, said) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut salvaged = Salvaged { missing, records, origins, said, settled: BTreeSet::new() };
    kept.iter().for_each(|bytes| salvaged.take(bytes));
    salvaged.prune();
    let (&first_number, _) = salvaged.records.first_key_value()?;
    let (&last_number, _) = salvaged.records.last_key_value()?;
    let nonce = random as u64;
    let header = BlockHeader {
        nonce,
        at: Position { segment: SEGMENT, offset: 0 },
        first_number,
        epoch_id: 0,
        watermark: Position::default(),
        oldest_segment: SEGMENT,
        dense: Some(Dense { covers: 0, last: false }),
    };
    let mut blocks = DenseBlocks::new(header, 0, PHYSICAL, BLOCK_BYTES, u32::MAX);
    let Salvaged { records, origins, said, .. } = &salvaged;
    // What is said of records comes before them: the last entry of a dense segment has its highest
    // number. It is of no epoch, but each block is.
    let first_epoch = records[&first_number].epoch_id;
    let before = origins.values().chain(said.values()).map(|whole| (first_epoch, whole));
    for (epoch_id, whole) in before.chain(records.values().map(|whole| (whole.epoch_id, whole))) {
        blocks.enter(epoch_id, Position { segment: SEGMENT, offset: 0 });
        blocks.push(whole.header, &[&whole.payload]).ok()?;
    }
    blocks.finish();
    let end = blocks.end();
    let head = SegmentHeader {
        core: u32::from(core.0),
        segment: SEGMENT,
        nonce,
        bytes: u64::from(end),
        physical: PHYSICAL,
        epoch: 1,
        epoch_id: random,
    };
    let mut segment = head.encode();
    segment.extend_from_slice(&blocks.take_sealed(Vec::new()).1);
    let mut inventory = Inventory {
        segments: vec![Held { number: SEGMENT, nonce, first_number, physical: PHYSICAL, start: PHYSICAL, end }],
        origins: origins.iter().filter_map(|(id, whole)| held_origin(*id, whole)).collect(),
        waiting: Vec::new(),
    };
    records.keys().for_each(|number| inventory.add_waiting(*number));
    let epoch = Epoch {
        number: 1,
        id: random,
        boot_id: 0,
        file_id: 0,
        physical: PHYSICAL,
        block_bytes: BLOCK_BYTES,
        closed: true,
        end: Some(EndMark {
            next: last_number.next(),
            at: Position { segment: SEGMENT, offset: end },
            segments: 1,
            pending: records.len() as u64,
        }),
    };
    Some(Returned {
        segment: (SEGMENT, segment),
        epoch: (1, epoch.encode_with(&inventory.encode())),
        numbers: Numbers::of(records.keys().copied()),
    })
}

fn held_origin(id: u32, whole: &Whole) -> Option<HeldOrigin> {
    let payload = OriginPayload::decode(whole.header.kind, &whole.payload)?;
    debug_assert_ne!(whole.header.lane, NO_LANE);
    Some(HeldOrigin { id, lane: whole.header.lane, who: SenderKinds::default().identity(&payload) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written_and_any_flipped_bit_is_damage() {
        let numbers = Numbers::of([3, 4, 5, 9].map(RecordNumber));
        assert_eq!((numbers.count(), &numbers.0[..]), (4, &[(3, 6), (9, 10)][..]));
        let bytes = numbers.encode();
        assert_eq!(Numbers::decode(&bytes), Some(numbers.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Numbers::decode(&flipped), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Numbers::decode(&bytes[..length]), None, "{length}");
        }
        let others = Numbers::of([4, 9, 12].map(RecordNumber));
        assert_eq!(numbers.without(&others), Numbers::of([3, 5].map(RecordNumber)));
    }
}
