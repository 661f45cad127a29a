//! The walk over a segment's blocks: entries are applied, records counted, and what is not whole is judged: damage, or the trace of an
//! unclean end.

use super::durable::{End, Neighbour};
use super::gone::lost_between;
use super::{FoundOrigin, Life, Recovery, Repairs};
use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Entries, Entry, Kind, OriginPayload, Position, RecordPayload, Seal,
    record_number_at, round_up,
};
use crate::journal::ledger::Identity;
use crate::journal::segments::Segment;
use std::ops::Range;

/// Where it is not known which entries are missing.
pub(super) const NONE_LOST: Range<RecordNumber> = RecordNumber(0)..RecordNumber(0);

struct FoundRecord {
    number: RecordNumber,
    origin: u32,
    lane: LaneNumber,
    received_wall_ns: u64,
    /// Of its entry.
    bytes: usize,
}

/// What a walk over a block came to.
struct Walked {
    /// Bytes, those lost to damage included where the seal tells.
    used: u32,
    /// Entries, in the same way.
    entries: u32,
    /// Number of the last entry found.
    last: Option<RecordNumber>,
}

impl Recovery {
    /// Walks all blocks of a segment. Blocks without a whole seal are sealed behind their last whole entry (`mended`), so that
    /// they can be read back. `false` where there is no block.
    pub(super) fn walk(&mut self, life: Life, bytes: &mut [u8], repairs: &mut Repairs) -> bool {
        let Life { number, nonce, physical } = life;
        self.report.segments += 1;
        self.report.bytes += bytes.len() as u64;
        repairs.certain = self.learn(life, bytes);
        let mut segment: Option<Segment> = None;
        let mut first: Option<Neighbour> = None;
        let mut next: Option<End> = None;
        let mut cut_off = false;
        let mut records = Vec::new();
        let mut offset = physical as usize;
        let mut end = offset;
        while offset + BLOCK_HEADER_BYTES <= bytes.len() {
            let here = Position { segment: number, offset: offset as u32 };
            let found = BlockHeader::decode(&bytes[offset..]).filter(|(h, _)| h.nonce == nonce && h.at == here);
            let Some((header, seal)) = found else {
                offset += physical as usize;
                continue;
            };
            if self.is_superseded(&header) {
                offset += seal.map_or(physical, |seal| round_up(seal.used, physical)) as usize;
                continue;
            }
            let missing = match header.dense {
                Some(_) => offset > end,
                None => next.is_some_and(|end| end.epoch_id == header.epoch_id && end.next != header.first_number),
            };
            if missing {
                let lost = next.map_or(NONE_LOST, |end| end.next..header.first_number);
                self.note_damage(Position { segment: number, offset: end as u32 }, end..offset, lost, repairs);
            }
            let Walked { used, entries, last } = self.walk_block(life, seal, bytes, offset, &mut records, repairs);
            if seal.is_none() {
                self.note_damage(here, offset..offset + physical as usize, NONE_LOST, repairs);
                let sealed = header.encode_sealed(Seal { used, entries });
                bytes[offset..offset + BLOCK_HEADER_BYTES].copy_from_slice(&sealed);
                repairs.mended.push(offset..offset + physical as usize);
            }
            let segment = segment.get_or_insert_with(|| Segment::new(number, nonce, header.first_number, physical));
            segment.block_bytes = segment.block_bytes.max(round_up(used, physical));
            first.get_or_insert(Neighbour {
                epoch_id: header.epoch_id,
                number: header.first_number,
                at: here,
                gap: offset > physical as usize && header.dense.is_none(),
                certain: self.durable.has(Position { segment: number, offset: physical }),
            });
            // The numbers of a dense segment have gaps, but its last entry has the number of the last one that it stands for.
            let next_number = match header.dense {
                Some(_) => last.map_or(header.first_number, RecordNumber::next),
                None => header.first_number.plus(u64::from(entries)),
            };
            next = Some(End { epoch_id: header.epoch_id, next: next_number });
            cut_off = header.dense.is_some_and(|dense| !dense.last);
            offset += round_up(used, physical) as usize;
            end = offset;
        }
        let (Some(mut segment), Some(first), Some(next)) = (segment, first, next) else { return false };
        (segment.start, segment.end) = (first.at.offset, end as u32);
        let dense = std::mem::replace(&mut repairs.certain, cut_off); // what follows a segment is not of it
        // Where an epoch begins nothing older tells what is missing: it lay in the newer segment, before its first block.
        let other = self.newer.filter(|newer| !cut_off && newer.gap && newer.epoch_id != next.epoch_id);
        if let Some(newer) = other {
            let mut elsewhere = Repairs { certain: newer.certain, ..Repairs::default() };
            let start = Position { offset: 0, ..newer.at };
            self.note_damage(start, 0..newer.at.offset as usize, NONE_LOST, &mut elsewhere);
        } else if cut_off || self.newer.is_some_and(|newer| newer.is_gap_behind(next)) {
            let end = end.min(bytes.len());
            let lost = lost_between(next, self.newer);
            // A dense segment is shorter than what it stands for: how far that was durable its own places do not tell.
            let at = match self.newer.filter(|_| dense && !cut_off) {
                Some(newer) => Position { offset: 0, ..newer.at },
                None => segment.end_position(),
            };
            self.note_damage(at, end..bytes.len(), lost, repairs);
        }
        self.newer = Some(first);
        if dense {
            let mut numbers: Vec<RecordNumber> = records.iter().map(|record| record.number).collect();
            numbers.sort_unstable();
            segment.list(numbers);
        }
        self.count_records(&mut segment, records);
        self.segments.push(segment);
        true
    }

    /// What the headers of a segment's blocks say, before any of its bytes is judged: what lies behind a place tells whether
    /// that was durable. Whether the segment is dense.
    fn learn(&mut self, Life { number, nonce, physical }: Life, bytes: &[u8]) -> bool {
        let mut headers = Vec::new();
        let mut offset = physical as usize;
        while offset + BLOCK_HEADER_BYTES <= bytes.len() {
            let here = Position { segment: number, offset: offset as u32 };
            let found = BlockHeader::decode(&bytes[offset..]).filter(|(h, _)| h.nonce == nonce && h.at == here);
            let used = found.and_then(|(_, seal)| seal).map_or(physical, |seal| seal.used);
            headers.extend(found.map(|(header, _)| header));
            offset += round_up(used, physical) as usize;
        }
        // From the newest to the oldest, as with segments: a dense one can be of several epochs.
        for header in headers.iter().rev() {
            self.durable.learn(header);
            self.oldest_segment = self.oldest_segment.max(header.oldest_segment);
        }
        let dense = headers.iter().find_map(|header| header.dense);
        if let Some(dense) = dense {
            self.covered = SegmentNumber(number.0.saturating_sub(u64::from(dense.covers)))..number;
        }
        dense.is_some()
    }

    /// Applies the whole entries of a block; bytes used and entries, those lost to damage included where the seal tells.
    fn walk_block(
        &mut self,
        life: Life,
        seal: Option<Seal>,
        bytes: &[u8],
        offset: usize,
        records: &mut Vec<FoundRecord>,
        repairs: &mut Repairs,
    ) -> Walked {
        let here = Position { segment: life.number, offset: offset as u32 };
        let limit = seal.map_or(bytes.len(), |seal| (offset + seal.used as usize).min(bytes.len()));
        let mut entries = Entries::new(&bytes[offset..limit], life.nonce, here.offset);
        let (mut count, mut last) = (0, None);
        loop {
            for entry in entries.by_ref() {
                count += 1;
                last = Some(entry.header.number);
                self.apply(&entry, records);
            }
            let cut_short = seal.is_some() && offset + entries.offset() < limit;
            if !cut_short {
                break;
            }
            let lost = entries.resynchronise();
            let range = lost.clone().unwrap_or(entries.offset()..limit - offset);
            self.note_damage(here, offset + range.start..offset + range.end, NONE_LOST, repairs);
            if lost.is_none() {
                break;
            }
        }
        let Seal { used, entries } = seal.unwrap_or(Seal { used: entries.offset() as u32, entries: count });
        Walked { used, entries, last }
    }

    /// Records that are not settled yet, once all of their segment's marks are known.
    fn count_records(&mut self, segment: &mut Segment, records: Vec<FoundRecord>) {
        for FoundRecord { number, origin: id, lane, received_wall_ns, bytes } in records {
            if self.settled.contains(number) || !self.seen.insert(number) || number < segment.first_number {
                continue;
            }
            self.report.recovered += 1;
            self.count_parked(number, id, received_wall_ns, bytes);
            segment.add(number, bytes);
            // Where its definition was lost an older segment may still have it: told once all are read.
            let origin = self.origins.entry(id).or_insert_with(|| FoundOrigin { lane, who: None, unsettled: 0 });
            origin.unsettled += 1;
            if origin.who.is_none() {
                self.defined_before.insert(id);
            }
        }
    }

    /// Bytes that should hold entries (`lost`, by their numbers, where those are known) and do not: damage below the watermark, else
    /// the traces of an unclean end.
    pub(super) fn note_damage(
        &mut self,
        at: Position,
        range: Range<usize>,
        lost: Range<RecordNumber>,
        repairs: &mut Repairs,
    ) {
        if repairs.certain || self.durable.has(at) {
            self.report.damaged += 1;
            let lost = match lost.is_empty() {
                false => format!(": entries {} to {} are lost", lost.start, lost.end.0 - 1),
                true => String::new(),
            };
            self.report.alarms.push(format!(
                "bytes {} to {} of segment {} are damaged, below what was durable{lost}",
                range.start, range.end, at.segment
            ));
            repairs.damage.push(range);
        } else {
            self.report.torn += 1;
        }
    }

    /// Marks at once, records after their segment's marks.
    fn apply(&mut self, entry: &Entry<'_>, records: &mut Vec<FoundRecord>) {
        let (header, payload) = (entry.header, entry.payload);
        self.number_max = self.number_max.max(header.number);
        match header.kind {
            kind @ (Kind::Origin | Kind::Origin1) => {
                let Some(origin) = OriginPayload::decode(kind, payload) else { return };
                self.origin_max = self.origin_max.max(origin.origin);
                self.lane_max = self.lane_max.max(header.lane);
                let found = self.origins.entry(origin.origin).or_insert(FoundOrigin {
                    lane: header.lane,
                    who: None,
                    unsettled: 0,
                });
                found.who.get_or_insert_with(|| {
                    let OriginPayload { peer, decoding, .. } = origin;
                    Identity { peer, decoding, ..Identity::new(origin.source, origin.name) }
                });
            }
            Kind::Record => {
                let RecordPayload { origin, first_byte_wall_ns: received_wall_ns, hashes, .. } =
                    RecordPayload::decode(payload);
                if let Some(hashes) = hashes {
                    self.apply_record_key(header.number, received_wall_ns, hashes);
                }
                self.origin_max = self.origin_max.max(origin);
                self.lane_max = self.lane_max.max(header.lane);
                let (number, lane, bytes) = (header.number, header.lane, entry.bytes());
                records.push(FoundRecord { number, origin, lane, received_wall_ns, bytes });
            }
            Kind::Id => {
                let number = record_number_at(payload, 0);
                if let Ok(id) = std::str::from_utf8(&payload[8..])
                    && !self.settled.contains(number)
                {
                    self.ids.entry(number).or_insert_with(|| id.into());
                }
            }
            Kind::Delivered => {
                for number in payload.chunks_exact(8) {
                    self.settled.insert(record_number_at(number, 0));
                }
            }
            Kind::Parked => self.apply_parked(header.number, payload),
            Kind::Retried => self.apply_retried(header.number, payload),
            Kind::Leased => self.apply_leased(header.number, payload),
            Kind::Key => self.apply_keys(header.number, payload),
            Kind::Discarded => {
                self.settled.insert(record_number_at(payload, 0));
            }
        }
    }
}
