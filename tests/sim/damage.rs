//! Bytes of files that change by themselves, and what that may cost: exactly the entries that they lie in.

use super::context::Context;
use super::disk::Disk;
use crate::say;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, ENTRY_HEADER_BYTES, Entries, Entry, Kind, OriginPayload, Position, RecordPayload,
    SegmentHeader, round_up,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a copy of an epoch, and where the second one begins.
const EPOCH_COPY_BYTES: usize = 136;
const SECOND_COPY_AT: usize = 4096;

/// What a flipped bit may cost.
#[derive(Debug, Default)]
pub struct Cost {
    /// Lane and data of records that may be lost, or come from nobody.
    pub records: Vec<(String, Vec<u8>)>,
    /// Keys whose requests may change: their id or their sender may be lost.
    pub keys: Vec<String>,
    /// Records that may be delivered again.
    pub marks: u64,
    /// It is below what the journal says is durable: it must be told.
    pub told: bool,
    pub segment: SegmentNumber,
}

/// A block of a segment, as its header has it.
struct Block {
    segment: SegmentNumber,
    offset: usize,
    header: BlockHeader,
    used: usize,
    padded: usize,
}

impl Block {
    /// Its whole entries, those behind damaged ones too.
    fn entries<'a>(&self, data: &'a [u8]) -> Vec<Entry<'a>> {
        let bytes = &data[self.offset..self.offset + self.used];
        let mut entries = Entries::new(bytes, self.header.nonce, self.offset as u32);
        let mut all = Vec::new();
        loop {
            all.extend(entries.by_ref());
            if entries.offset() >= bytes.len() || entries.resynchronise().is_none() {
                return all;
            }
        }
    }
}

impl Disk {
    /// The whole blocks of all segments that are part of the log.
    fn layout(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (&segment, file) in &self.segments {
            let Some(life) = SegmentHeader::decode(&file.data).filter(|life| life.segment == segment) else { continue };
            let mut offset = life.physical as usize;
            while let Some(rest) = file.data.get(offset..).filter(|rest| rest.len() >= BLOCK_HEADER_BYTES) {
                let found =
                    BlockHeader::decode(rest).filter(|(h, _)| h.nonce == life.nonce && h.at.offset as usize == offset);
                let Some((header, Some(seal))) =
                    found.filter(|(_, seal)| seal.is_some_and(|s| s.used as usize <= rest.len()))
                else {
                    offset += life.physical as usize;
                    continue;
                };
                let (used, padded) = (seal.used as usize, round_up(seal.used, life.physical) as usize);
                blocks.push(Block { segment, offset, header, used, padded });
                offset += padded;
            }
        }
        let oldest = blocks.iter().map(|block| block.header.oldest_segment).max().unwrap_or(SegmentNumber(0));
        // A dense segment stands for a run of others, which may still be there.
        let dense = blocks.iter().filter_map(|block| Some((block.segment, u64::from(block.header.dense?.covers))));
        let covered: Vec<Range<SegmentNumber>> =
            dense.map(|(segment, covers)| SegmentNumber(segment.0.saturating_sub(covers))..segment).collect();
        blocks.retain(|block| block.segment >= oldest && !covered.iter().any(|run| run.contains(&block.segment)));
        // What a failed segment has of blocks that moved to a later one is not part of the log.
        let mut firsts: BTreeMap<u128, RecordNumber> = BTreeMap::new();
        let mut live: Vec<Block> = Vec::new();
        for block in blocks.into_iter().rev() {
            let first = firsts.entry(block.header.epoch_id).or_insert(RecordNumber(u64::MAX));
            if block.header.first_number < *first {
                *first = block.header.first_number;
                live.push(block);
            }
        }
        live.reverse();
        live
    }

    /// Flips one bit of a block, whichever, or lets a piece of it be unreadable. `None` where there is no block.
    pub fn damage_segment(&mut self, cx: &mut Context, core: u32, hides: bool) -> Option<Cost> {
        let blocks = self.layout();
        let block = cx.rng.choice(&blocks)?;
        let epoch = block.header.epoch_id;
        let said =
            blocks.iter().filter(|other| other.header.epoch_id == epoch).map(|other| other.header.watermark).max()?;
        // Mostly where something is.
        let bytes = if cx.chance(90) { block.used } else { block.padded };
        let at = block.offset + cx.rng.usize(..bytes);
        let piece = at / self.physical as usize * self.physical as usize;
        let spot = if hides { piece..piece + self.physical as usize } else { at..at + 1 };
        let names = self.names();
        let data = &self.segments[&block.segment].data;
        // Two in one block may cost all of it: the second one that of what tells where it ends.
        let twice = self.damaged.contains(&(block.segment, block.offset));
        let mut hit: Vec<Entry<'_>> = Vec::new();
        for entry in block.entries(data) {
            // Padding means nothing, and nobody looks at it.
            let start = block.offset + entry.offset;
            let range: Range<usize> = start..start + ENTRY_HEADER_BYTES + entry.payload.len();
            // Without its header none of a block's entries is found; without its seal alone all are.
            if twice || range.start < spot.end && spot.start < range.end || spot.start < block.offset + 84 {
                hit.push(entry);
            }
        }
        let alone = blocks.iter().filter(|other| other.segment == block.segment).count() == 1;
        let mut cost = Cost {
            segment: block.segment,
            told: !hit.is_empty() && !alone && Position { segment: block.segment, offset: block.offset as u32 } < said,
            ..Cost::default()
        };
        let key = |number: RecordNumber, epoch_id: u128| format!("{epoch_id:032x}-{core}-{number}");
        let mut lost_origins = Vec::new();
        for Entry { header, payload, .. } in hit {
            match header.kind {
                Kind::Record => {
                    let record = RecordPayload::decode(payload);
                    cost.keys.push(key(header.number, epoch));
                    let name = names.get(&record.origin).cloned().unwrap_or_default();
                    cost.records.push((name, record.data.to_vec()));
                }
                // Its record may be of an earlier epoch.
                Kind::Id => {
                    let number = RecordNumber(u64::from_le_bytes(payload[..8].try_into().expect("eight bytes")));
                    let epochs = blocks.iter().map(|block| block.header.epoch_id);
                    cost.keys.extend(epochs.map(|epoch_id| key(number, epoch_id)));
                }
                Kind::Delivered => cost.marks += payload.len() as u64 / 8,
                Kind::Origin => {
                    lost_origins.extend(OriginPayload::decode(Kind::Origin, payload).map(|origin| origin.origin))
                }
                Kind::Parked
                | Kind::Retried
                | Kind::Discarded
                | Kind::Leased
                | Kind::Origin1
                | Kind::Key
                | Kind::Losses => {}
            }
        }
        // Records that refer to a lost name, here or in an older segment.
        for other in blocks.iter().filter(|other| other.segment <= block.segment && !lost_origins.is_empty()) {
            for Entry { header, payload, .. } in other.entries(&self.segments[&other.segment].data) {
                if header.kind == Kind::Record
                    && let record = RecordPayload::decode(payload)
                    && lost_origins.contains(&record.origin)
                {
                    cost.keys.push(key(header.number, other.header.epoch_id));
                    cost.records.push((names.get(&record.origin).cloned().unwrap_or_default(), record.data.to_vec()));
                }
            }
        }
        // And those that are in memory alone.
        for (epoch_id, number, record) in self.in_memory() {
            if lost_origins.contains(&record.origin) {
                cost.keys.push(key(number, epoch_id));
                cost.records.push((names.get(&record.origin).cloned().unwrap_or_default(), record.data.to_vec()));
            }
        }
        let (segment, offset, bit) = (block.segment, block.offset, cx.rng.u8(..8));
        say!(
            cx,
            "{}: {} records, {} marks, {} keys, {}",
            if hides {
                format!("bytes {spot:?} of segment {segment} cannot be read")
            } else {
                format!("bit {bit} of byte {at} of segment {segment} flips")
            },
            cost.records.len(),
            cost.marks,
            cost.keys.len(),
            if cost.told { "to be told" } else { "perhaps untold" }
        );
        self.damaged.insert((segment, offset));
        let file = self.segments.get_mut(&segment).expect("listed");
        match hides {
            true => file.unreadable.push(spot),
            false => file.data[at] ^= 1 << bit,
        }
        Some(cost)
    }

    /// Epoch, number and the rest of all records in block files.
    fn in_memory(&self) -> Vec<(u128, RecordNumber, RecordPayload<'_>)> {
        let mut records = Vec::new();
        for memory in self.blocks.values() {
            let bytes = memory.bytes(0..memory.len());
            for at in (0..bytes.len()).step_by(self.physical as usize) {
                let Some((header, seal)) = BlockHeader::decode(&bytes[at..]) else { continue };
                let end = seal.map_or(bytes.len(), |seal| (at + seal.used as usize).min(bytes.len()));
                let entries = Entries::new(&bytes[at..end], header.nonce, header.at.offset);
                let of_records = entries.filter(|entry| entry.header.kind == Kind::Record);
                records.extend(
                    of_records
                        .map(|entry| (header.epoch_id, entry.header.number, RecordPayload::decode(entry.payload))),
                );
            }
        }
        records
    }

    /// All origins that the segments name.
    fn names(&self) -> BTreeMap<u32, String> {
        let mut names = BTreeMap::new();
        for block in self.layout() {
            for entry in block.entries(&self.segments[&block.segment].data) {
                if entry.header.kind == Kind::Origin
                    && let Some(origin) = OriginPayload::decode(Kind::Origin, entry.payload)
                {
                    names.insert(origin.origin, origin.name.to_owned());
                }
            }
        }
        names
    }

    /// Flips a bit of the newest epoch file, or with `both` one in each of its two copies: then nothing says which block file is
    /// that of the last run.
    pub fn flip_epoch(&mut self, cx: &mut Context, both: bool) {
        let Some((number, bytes)) = self.epochs.iter_mut().next_back() else { return };
        let at = cx.rng.usize(..EPOCH_COPY_BYTES);
        bytes[at] ^= 1 << cx.rng.u8(..8);
        if both {
            bytes[SECOND_COPY_AT + at] ^= 1 << cx.rng.u8(..8);
        }
        say!(cx, "byte {at} of epoch file {number} flips{}", if both { ", in both copies" } else { "" });
    }

    /// Somebody cleans up the shared memory. Whether there was a file.
    pub fn lose_block_file(&mut self) -> bool {
        let lost = !self.blocks.is_empty();
        self.blocks.clear();
        lost
    }
}
