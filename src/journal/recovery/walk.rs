//! The walk over a segment's blocks: entries are applied, records counted, and what is not whole is judged: damage, or the trace of an
//! unclean end.

use super::durable::{End, Neighbour};
use super::gone::lost_between;
use super::missing::{Gap, Lost};
use super::{FoundOrigin, Life, Recovery, Repairs};
use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Dense, Entries, Entry, Kind, OriginPayload, Position, RecordPayload, Seal,
    record_number_at, round_up,
};
use crate::journal::segments::Segment;
use std::ops::Range;

/// Where it is not known which entries are missing.
pub(super) const NONE_LOST: Range<RecordNumber> = RecordNumber(0)..RecordNumber(0);

pub(super) struct FoundRecord {
    pub(super) number: RecordNumber,
    origin: u32,
    lane: LaneNumber,
    received_wall_ns: u64,
    /// Of its entry.
    bytes: usize,
}

/// What a walk over a block came to.
pub(super) struct Walked {
    /// Bytes, those lost to damage included where the seal tells.
    pub used: u32,
    /// Entries, in the same way.
    pub entries: u32,
    /// Number of the last entry found.
    pub last: Option<RecordNumber>,
}

/// Bytes that should hold entries and do not, where nothing says that they were ever durable.
#[derive(Debug)]
pub(super) struct Torn {
    at: Position,
    range: Range<usize>,
    lost: Range<RecordNumber>,
}

/// How far the walk over a segment has come.
pub(super) struct Course {
    pub life: Life,
    pub segment: Option<Segment>,
    pub first: Option<Neighbour>,
    /// Behind the last block that was found.
    pub next: Option<End>,
    pub end: usize,
    /// The last block of a dense segment is missing.
    pub cut_off: bool,
    pub records: Vec<FoundRecord>,
    /// What a dense segment's blocks say of it.
    pub dense: Option<Dense>,
}

impl Course {
    pub fn at(&self, offset: usize) -> Position {
        Position { segment: self.life.number, offset: offset as u32 }
    }

    /// Goes on behind a block; `certain`: of the segment's first one it was known that it was durable.
    pub fn pass(&mut self, header: &BlockHeader, walked: &Walked, certain: bool) {
        let Life { number, nonce, physical, .. } = self.life;
        let bytes = round_up(walked.used, physical);
        let segment = self.segment.get_or_insert_with(|| Segment::new(number, nonce, header.first_number, physical));
        segment.block_bytes = segment.block_bytes.max(bytes);
        self.first.get_or_insert(Neighbour {
            epoch_id: header.epoch_id,
            number: header.first_number,
            at: header.at,
            gap: header.at.offset > physical && header.dense.is_none(),
            certain,
        });
        // The numbers of a dense segment have gaps, but its last entry has the number of the last one that it stands for.
        let next = match header.dense {
            Some(_) => walked.last.map_or(header.first_number, RecordNumber::next),
            None => header.first_number.plus(u64::from(walked.entries)),
        };
        self.next = Some(End { epoch_id: header.epoch_id, next });
        self.cut_off = header.dense.is_some_and(|dense| !dense.last);
        self.end = header.at.offset as usize + bytes as usize;
    }
}

impl Recovery {
    /// Walks all blocks of a segment. Blocks without a whole seal are sealed behind their last whole entry (`mended`), so that
    /// they can be read back. `false` where there is no block.
    pub(super) fn walk(&mut self, life: Life, bytes: &[u8], repairs: &mut Repairs) -> bool {
        let Life { number, nonce, physical, .. } = life;
        self.report.segments += 1;
        self.report.bytes += bytes.len() as u64;
        let dense = self.learn(life, bytes);
        let held = self.stop.held(number);
        repairs.certain = dense.is_some();
        let start = held.map_or(physical, |held| held.start) as usize;
        let (segment, first, next, records) = (None, None, None, Vec::new());
        let mut course = Course { life, segment, first, next, end: start, cut_off: false, records, dense };
        let mut offset = physical as usize;
        while offset + BLOCK_HEADER_BYTES <= bytes.len() {
            let here = course.at(offset);
            let found = BlockHeader::decode(&bytes[offset..]).filter(|(h, _)| h.nonce == nonce && h.at == here);
            let Some((header, seal)) = found else {
                offset += physical as usize;
                continue;
            };
            if self.is_superseded(&header) {
                offset += seal.map_or(physical, |seal| round_up(seal.used, physical)) as usize;
                continue;
            }
            self.fill_gap(&mut course, &header, bytes, repairs);
            let walked = self.walk_block(life, &header, seal, bytes, &mut course.records, repairs);
            if seal.is_none() {
                self.note_damage(here, offset..offset + physical as usize, NONE_LOST, repairs);
                repairs.seal(&header, &walked);
            }
            let certain = self.durable.has(course.at(physical as usize));
            course.pass(&header, &walked, certain);
            offset = course.end;
        }
        self.end_walk(course, bytes, repairs)
    }

    /// Bytes before a block that should hold others: what of them is whole is taken, and the rest told.
    fn fill_gap(&mut self, course: &mut Course, header: &BlockHeader, bytes: &[u8], repairs: &mut Repairs) {
        let gap = course.end..header.at.offset as usize;
        let is_missing = match (header.dense, course.next) {
            (Some(_), _) => !gap.is_empty(),
            (None, Some(end)) => !end.is_followed_by(header),
            (None, None) => !gap.is_empty() && self.may_tell(course, gap.start, repairs),
        };
        if !is_missing {
            return;
        }
        let behind = Some(End { epoch_id: header.epoch_id, next: header.first_number });
        let missing = Gap { bytes: gap.clone(), before: course.next, behind };
        let (is_first, at) = (course.next.is_none(), course.at(gap.start));
        let found = self.may_tell(course, gap.start, repairs) && self.salvage(course, missing, bytes, repairs);
        // Before the first block of a segment that no clean stop knows there may be nothing at all.
        let held = self.stop.held(course.life.number);
        if !found && (!is_first || repairs.certain || held.is_some()) {
            let from = course.next.map(|end| end.next).or(held.map(|held| held.first_number));
            let lost = from.map_or(NONE_LOST, |from| from..header.first_number);
            self.note_damage(at, gap, lost, repairs);
        }
    }

    /// Whether entries without a block are looked for: what is there was durable, or a clean stop tells which records it waited for.
    fn may_tell(&self, course: &Course, offset: usize, repairs: &Repairs) -> bool {
        repairs.certain || self.stop.held(course.life.number).is_some() || self.durable.has(course.at(offset))
    }

    /// What follows the last block that was found, and whether that is where the next newer segment goes on.
    fn end_walk(&mut self, mut course: Course, bytes: &[u8], repairs: &mut Repairs) -> bool {
        let held = self.stop.held(course.life.number);
        if let Some(held) = held.filter(|held| course.end < held.end as usize) {
            self.fill_held(&mut course, held.end, bytes, repairs);
        } else if course.segment.is_none() && self.is_to_be_there(&course) {
            let gap = Gap { bytes: course.end..bytes.len(), before: None, behind: self.newer.map(Neighbour::start) };
            self.salvage(&mut course, gap, bytes, repairs);
        }
        self.judge_torn(&course, repairs);
        let (Some(first), Some(next)) = (course.first, course.next) else { return false };
        let is_dense = std::mem::replace(&mut repairs.certain, course.cut_off && held.is_none()); // what follows a segment is not of it
        let is_dense = is_dense && course.dense.is_some();
        // A clean stop says where each segment ends.
        if held.is_none() {
            self.judge_end(&mut course, next, is_dense, bytes, repairs);
        }
        let Course { segment, end, records, .. } = course;
        let mut segment = segment.expect("with its first block");
        (segment.start, segment.end) = (first.at.offset, end as u32);
        segment.unfit = !repairs.damage.is_empty() || repairs.is_unread;
        self.newer = Some(first);
        if is_dense {
            let mut numbers: Vec<RecordNumber> = records.iter().map(|record| record.number).collect();
            numbers.sort_unstable();
            segment.list(numbers);
        }
        self.count_records(&mut segment, records);
        self.segments.push(segment);
        true
    }

    /// Whether a segment without a block should have some: it was durable, and newer ones follow.
    fn is_to_be_there(&self, course: &Course) -> bool {
        self.newer.is_some_and(|newer| newer.at.segment > course.life.number) && self.durable.has(course.at(course.end))
    }

    /// A clean stop has left more of the segment than was found.
    fn fill_held(&mut self, course: &mut Course, end: u32, bytes: &[u8], repairs: &mut Repairs) {
        let at = course.at(course.end);
        let range = course.end..(end as usize).min(bytes.len());
        let behind = self.newer.map(Neighbour::start).or_else(|| self.stop.end());
        let (from, to) = (course.next.map(|end| end.next), behind.map(|end| end.next));
        let gap = Gap { bytes: range.clone(), before: course.next, behind };
        if !self.salvage(course, gap, bytes, repairs) {
            let from = from.or(self.stop.held(course.life.number).map(|held| held.first_number));
            let lost = from.zip(to).map_or(NONE_LOST, |(from, to)| from..to);
            self.note_damage(at, range, lost, repairs);
        }
    }

    /// Whether entries are missing behind a segment's last block, as far as numbers tell.
    fn judge_end(&mut self, course: &mut Course, next: End, is_dense: bool, bytes: &[u8], repairs: &mut Repairs) {
        let cut_off = course.cut_off;
        // Where an epoch begins nothing older tells what is missing: it lay in the newer segment, before its first block.
        let other = self.newer.filter(|newer| !cut_off && newer.gap && newer.epoch_id != next.epoch_id);
        if let Some(newer) = other {
            let mut elsewhere = Repairs { certain: newer.certain, ..Repairs::default() };
            let start = Position { offset: 0, ..newer.at };
            self.note_damage(start, 0..newer.at.offset as usize, next.next..newer.number, &mut elsewhere);
        } else if cut_off || self.newer.is_some_and(|newer| newer.is_gap_behind(next)) {
            let end = course.end.min(bytes.len());
            let lost = lost_between(next, self.newer);
            // A dense segment is shorter than what it stands for: how far that was durable its own places do not tell.
            let at = match self.newer.filter(|_| is_dense && !cut_off) {
                Some(newer) => Position { offset: 0, ..newer.at },
                None => course.at(course.end),
            };
            let gap = Gap { bytes: end..bytes.len(), before: Some(next), behind: self.newer.map(Neighbour::start) };
            let is_certain = repairs.certain || self.durable.has(at);
            if !is_certain || !self.salvage(course, gap, bytes, repairs) {
                self.note_damage(at, end..bytes.len(), lost, repairs);
            }
        }
    }

    /// What the headers of a segment's blocks say, before any of its bytes is judged: what lies behind a place tells whether
    /// that was durable. What the blocks of a dense one say of it.
    fn learn(&mut self, Life { number, nonce, physical, .. }: Life, bytes: &[u8]) -> Option<Dense> {
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
        dense
    }

    /// Applies the whole entries of a block; bytes used and entries, those lost to damage included where the seal tells.
    fn walk_block(
        &mut self,
        life: Life,
        header: &BlockHeader,
        seal: Option<Seal>,
        bytes: &[u8],
        records: &mut Vec<FoundRecord>,
        repairs: &mut Repairs,
    ) -> Walked {
        let (here, offset) = (header.at, header.at.offset as usize);
        let limit = seal.map_or(bytes.len(), |seal| (offset + seal.used as usize).min(bytes.len()));
        let mut entries = Entries::new(&bytes[offset..limit], life.nonce, here.offset);
        let (mut count, mut last) = (0, None);
        self.begin_batches(header.dense.is_none() && !repairs.certain && !self.durable.has(here));
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
            let from = last.map_or(header.first_number, RecordNumber::next);
            let next = lost.is_some().then(|| entries.clone().next()).flatten();
            let count = seal.map_or(0, |seal| seal.entries);
            let numbers =
                from..next.map_or(header.first_number.plus(u64::from(count)).max(from), |entry| entry.header.number);
            self.note_damage(here, offset + range.start..offset + range.end, numbers, repairs);
            if lost.is_none() {
                break;
            }
        }
        self.drop_torn_batch(records);
        self.begin_batches(false);
        let Seal { used, entries } = seal.unwrap_or(Seal { used: entries.offset() as u32, entries: count });
        Walked { used, entries, last }
    }

    /// Records that are not settled yet, once all of their segment's marks are known.
    fn count_records(&mut self, segment: &mut Segment, records: Vec<FoundRecord>) {
        for FoundRecord { number, origin: id, lane, received_wall_ns, bytes } in records {
            if self.settled.contains(number) || number < segment.first_number || self.seen.contains(number) {
                continue;
            }
            if self.stop.was_settled(segment.number, number) {
                // The mark of its delivery is lost, but the clean stop knew of it.
                self.settled.insert(number);
                self.marks_lost.push(number);
                continue;
            }
            self.seen.insert(number);
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
            self.lost.push(Lost { numbers: lost.clone(), bytes: Some(range.len() as u64).filter(|bytes| *bytes > 0) });
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
            repairs.torn.push(Torn { at, range, lost });
        }
    }

    /// Where the clean stop waited for records that are not there, what looks like the trace of an unclean end is damage.
    fn judge_torn(&mut self, course: &Course, repairs: &mut Repairs) {
        let torn = std::mem::take(&mut repairs.torn);
        let found = course.records.iter().map(|record| record.number);
        if torn.is_empty() || !self.stop.misses_any(course.life.number, found) {
            return;
        }
        self.report.torn -= torn.len() as u64;
        let before = std::mem::replace(&mut repairs.certain, true);
        for Torn { at, range, lost } in torn {
            self.note_damage(at, range, lost, repairs);
        }
        repairs.certain = before;
    }

    /// Marks at once, records after their segment's marks.
    pub(super) fn apply(&mut self, entry: &Entry<'_>, records: &mut Vec<FoundRecord>) {
        let (header, payload) = (entry.header, entry.payload);
        self.number_max = self.number_max.max(header.number);
        let is_torn = self.meet_batch(entry, records);
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
                    // Mostly the last run has told the same: two of all would leave holes in memory.
                    let told = self.stop.origins.remove(&origin.origin);
                    told.filter(|who| who.payload(origin.origin) == origin)
                        .unwrap_or_else(|| self.kinds.identity(&origin))
                });
            }
            Kind::Record => {
                let RecordPayload { origin, first_byte_wall_ns: received_wall_ns, hashes, .. } =
                    RecordPayload::decode(payload);
                if let Some(hashes) = hashes.filter(|_| !is_torn) {
                    self.apply_record_key(header.number, received_wall_ns, hashes);
                }
                self.origin_max = self.origin_max.max(origin);
                self.lane_max = self.lane_max.max(header.lane);
                let (number, lane, bytes) = (header.number, header.lane, entry.bytes());
                if is_torn {
                    return;
                }
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
            Kind::Losses => self.losses.apply(header.number, payload),
            Kind::Key => self.apply_keys(header.number, payload),
            Kind::Discarded => {
                self.settled.insert(record_number_at(payload, 0));
            }
        }
    }
}
