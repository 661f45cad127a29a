//! What is missing: known exactly where the last run ended with a clean stop, else within bounds. And
//! what is still whole of a block whose header is not: its entries are known by their own checksums.

use super::durable::End;
use super::walk::{Course, Walked};
use super::{NUMBERS_SKIPPED, Recovery, Repairs};
use crate::ground::{RecordNumber, SegmentNumber};
use crate::journal::epoch::{EndMark, Epoch};
use crate::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Dense, ENTRY_HEADER_BYTES, Entries, Entry, Kind, Position, RECORD_PREFIX_BYTES,
    record_number_at,
};
use crate::journal::inventory::{Held, Inventory};
use crate::journal::ledger::Identity;
use crate::journal::losses::{self, Loss};
use crate::journal::returning::Numbers;
use crate::journal::segments::SparseBits;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// What the clean stop before this start has left; nothing where there was none.
#[derive(Default)]
pub(super) struct Stop {
    mark: Option<EndMark>,
    epoch_id: u128,
    /// Of the stop, or of the start that ended with a kill; empty where there is no inventory, or a damaged one.
    held: BTreeMap<SegmentNumber, Held>,
    /// They are of the stop.
    has_inventory: bool,
    waiting: SparseBits,
    runs: Vec<(RecordNumber, RecordNumber)>,
    /// Who had records that waited.
    pub origins: HashMap<u32, Identity>,
}

impl Stop {
    /// The segment as the stop left it.
    pub fn held(&self, number: SegmentNumber) -> Option<Held> {
        self.held.get(&number).copied().filter(|_| self.has_inventory)
    }

    /// Whether a segment was free, though its file is left.
    pub fn was_free(&self, number: SegmentNumber) -> bool {
        self.has_inventory && !self.held.contains_key(&number) && self.held.range(number..).next().is_some()
    }

    /// Whether it is known segment by segment.
    pub fn is_known(&self) -> bool {
        self.has_inventory
    }

    /// All segments that the stop has left.
    pub fn segments(&self) -> impl Iterator<Item = SegmentNumber> {
        self.held.keys().copied().filter(|_| self.has_inventory)
    }

    /// Behind the last entry.
    pub fn end(&self) -> Option<End> {
        self.mark.map(|mark| End { epoch_id: self.epoch_id, next: mark.next })
    }

    /// Records that waited.
    pub fn pending(&self) -> Option<u64> {
        self.mark.map(|mark| mark.pending)
    }

    /// The numbers of the entries that lay in a segment.
    pub fn numbers_of(&self, segment: SegmentNumber) -> Option<Range<RecordNumber>> {
        let behind = self.held.range(segment.next()..).next().map(|(_, next)| next.first_number);
        let end = behind.or(self.mark.map(|mark| mark.next)).unwrap_or(RecordNumber(u64::MAX));
        self.held(segment).map(|held| held.first_number..end)
    }

    /// The number of a segment's first entry, where the last start has read it.
    pub fn first_number_of(&self, segment: SegmentNumber) -> Option<RecordNumber> {
        self.held.get(&segment).map(|held| held.first_number)
    }

    /// Records that waited then.
    pub fn waiting_runs(&self) -> impl Iterator<Item = Range<RecordNumber>> {
        self.runs.iter().map(|(first, end)| *first..*end)
    }

    /// Whether any record is missing that waited in a segment.
    pub fn misses_any(&self, segment: SegmentNumber, found: impl Iterator<Item = RecordNumber>) -> bool {
        let Some(range) = self.numbers_of(segment) else { return false };
        let overlap = |(first, end): &(RecordNumber, RecordNumber)| {
            end.0.min(range.end.0).saturating_sub(first.0.max(range.start.0))
        };
        let expected: u64 = self.runs.iter().map(overlap).sum();
        // One that moved can be found twice.
        let found: HashSet<RecordNumber> =
            found.filter(|number| range.contains(number) && self.waiting.contains(*number)).collect();
        (found.len() as u64) < expected
    }

    /// Whether an entry is of use to this start: where it is not, it may be of a block that no start could read.
    fn wants(&self, segment: SegmentNumber, entry: &Entry<'_>) -> bool {
        if self.held(segment).is_none() {
            return true;
        }
        match entry.header.kind {
            Kind::Record => self.waiting.contains(entry.header.number),
            Kind::Id | Kind::Parked | Kind::Retried => self.waiting.contains(record_number_at(entry.payload, 0)),
            Kind::Leased | Kind::Losses | Kind::Key => true,
            Kind::Origin | Kind::Origin1 | Kind::Delivered | Kind::Discarded => false,
        }
    }

    /// Whether a record of a segment that the stop knows, or the start before this one, was delivered or discarded by then. A
    /// segment that it does not name, though it names a later one, was free: only its file was left.
    pub fn was_settled(&self, segment: SegmentNumber, number: RecordNumber) -> bool {
        self.held.range(segment..).next().is_some() && !self.waiting.contains(number)
    }
}

/// Entries that damage has taken.
pub(super) struct Lost {
    /// Among these; empty where none is.
    pub numbers: Range<RecordNumber>,
    /// They had so many bytes; `None` where all of the numbers are meant.
    pub bytes: Option<u64>,
}

/// Bytes that should hold blocks and do not.
pub(super) struct Gap {
    pub bytes: Range<usize>,
    /// What comes before it in the segment, and behind it.
    pub before: Option<End>,
    pub behind: Option<End>,
}

impl Gap {
    /// The epoch of entries with these numbers: it is part of their keys, so that a guess would be worse than none.
    fn epoch_of(&self, course: &Course, first: RecordNumber, last: RecordNumber) -> Option<u128> {
        let epoch = |end: End| end.epoch_id;
        if course.dense.is_some() {
            // Its blocks can be of several epochs.
            return self.before.zip(self.behind).filter(|(a, b)| a.epoch_id == b.epoch_id).map(|(a, _)| a.epoch_id);
        }
        // Blocks of two epochs lie in a segment only where the second one followed a kill: its numbers are much higher.
        let is_near = |low: RecordNumber, high: RecordNumber| high.0.saturating_sub(low.0) < NUMBERS_SKIPPED;
        let before = self.before.filter(|end| is_near(end.next, first)).map(epoch);
        let behind = self.behind.filter(|end| is_near(last, end.next)).map(epoch);
        let alone = Some(course.life.epoch_id).filter(|id| *id != 0 && course.next.is_none());
        before.or(behind).or(alone)
    }
}

/// The newest list of losses in the log.
#[derive(Default)]
pub(super) struct FoundLosses {
    said_in: RecordNumber,
    list: Vec<Loss>,
    /// A file was kept though not all of it could be read.
    pub kept: bool,
}

impl FoundLosses {
    pub fn apply(&mut self, said_in: RecordNumber, payload: &[u8]) {
        if self.said_in <= said_in {
            (self.said_in, self.list) = (said_in, losses::decode(payload));
        }
    }

    /// Whether the list that counts is among these entries.
    pub fn is_said_in(&self, entries: &Range<RecordNumber>) -> bool {
        !self.list.is_empty() && entries.contains(&self.said_in)
    }

    pub fn take(self) -> Vec<Loss> {
        self.list
    }
}

impl Recovery {
    /// Takes what a clean stop says of what it left, or a start of what it found.
    pub(super) fn adopt_stop(&mut self, epoch: &Epoch, inventory: Option<Inventory>) {
        (self.stop.mark, self.stop.epoch_id) = (epoch.end, epoch.id);
        let Some(Inventory { segments, origins, waiting }) = inventory else { return };
        self.stop.has_inventory = epoch.closed;
        self.stop.held = segments.into_iter().map(|held| (held.number, held)).collect();
        for &(first, end) in &waiting {
            for number in first.0..end.0 {
                self.stop.waiting.insert(RecordNumber(number));
            }
        }
        self.stop.runs = waiting;
        for origin in origins {
            self.origin_max = self.origin_max.max(origin.id);
            self.lane_max = self.lane_max.max(origin.lane);
            self.stop.origins.insert(origin.id, origin.who);
        }
        self.number_max = self.number_max.max(RecordNumber(epoch.end.map_or(0, |mark| mark.next.0.saturating_sub(1))));
    }

    /// Takes the whole entries of a gap, as those of one block, whose header is made anew. `false`
    /// where there is none.
    pub(super) fn salvage(&mut self, course: &mut Course, gap: Gap, bytes: &[u8], repairs: &mut Repairs) -> bool {
        let range = gap.bytes.clone();
        let (from, to) = (gap.before.map(|end| end.next), gap.behind.map(|end| end.next));
        if range.len() <= BLOCK_HEADER_BYTES {
            return false;
        }
        let at = course.at(range.start);
        let block = &bytes[range.clone()];
        let mut entries = Entries::new(block, course.life.nonce, at.offset);
        let mut found: Vec<Entry<'_>> = Vec::new();
        loop {
            // A block that moved has left its entries behind: they are in a newer place.
            let is_of_gap =
                |number: RecordNumber| from.is_none_or(|from| from <= number) && to.is_none_or(|to| number < to);
            found.extend(entries.by_ref().filter(|entry| is_of_gap(entry.header.number)));
            if entries.resynchronise().is_none() {
                break;
            }
        }
        found.dedup_by_key(|entry| entry.header.number);
        if !found.iter().any(|entry| self.stop.wants(course.life.number, entry)) {
            return false;
        }
        let (first, last) = (found[0].header.number, found[found.len() - 1].header.number);
        let Some(epoch_id) = gap.epoch_of(course, first, last) else { return false };
        let (used, count) = (found[found.len() - 1].offset + found[found.len() - 1].bytes(), found.len() as u32);
        let mut lost: Vec<Range<RecordNumber>> = Vec::new();
        let mut expected = from.unwrap_or(first);
        for entry in &found {
            let number = entry.header.number;
            if expected < number && course.dense.is_none() {
                lost.push(expected..number);
            }
            expected = number.next();
            self.apply(entry, &mut course.records);
        }
        if let Some(to) = to.filter(|to| last.next() < *to && course.dense.is_none()) {
            lost.push(last.next()..to);
        }
        let first_number = from.unwrap_or(first);
        let dense = course.dense.map(|dense| Dense { last: to.is_none() || dense.last, ..dense });
        let watermark = if self.durable.epoch_id == Some(epoch_id) { self.durable.first } else { Position::default() };
        let header = BlockHeader {
            nonce: course.life.nonce,
            at,
            first_number,
            epoch_id,
            watermark,
            oldest_segment: self.oldest_segment,
            dense,
        };
        // The seal counts what is missing, so that the next block goes on where this one ends.
        let entries = match dense {
            Some(_) => count,
            None => (last.0 + 1 - first_number.0) as u32,
        };
        let walked = Walked { used: used as u32, entries, last: Some(last) };
        self.report.damaged += 1;
        self.report.alarms.push(format!(
            "the header of the block at {} of segment {} is damaged: {} found by their own checksums",
            at.offset,
            at.segment,
            if count == 1 { "1 entry was".to_owned() } else { format!("{count} entries were") }
        ));
        self.lost.extend(lost.into_iter().map(|numbers| Lost { numbers, bytes: None }));
        repairs.damage.push(range);
        repairs.seal(&header, &walked);
        course.pass(&header, &walked, true);
        true
    }

    /// How many records are missing, once all that is there was read. Where it is known that only marks are, that is a loss of no
    /// records, which nobody needs to acknowledge: the next start must not take it for another one.
    pub(super) fn loss(&self) -> Option<Loss> {
        let loss = match self.stop.mark {
            Some(_) if self.stop.has_inventory => self.loss_by_inventory(),
            Some(mark) => self.loss_by_mark(mark),
            None => self.loss_by_damage(),
        };
        let mut numbers = self.lost.iter().map(|lost| &lost.numbers).filter(|numbers| !numbers.is_empty()).peekable();
        if loss.records == 0 && numbers.peek().is_none() {
            return None;
        }
        let loss = numbers.fold(loss, |loss, numbers| Loss {
            first: if loss.end == RecordNumber(0) { numbers.start } else { loss.first.min(numbers.start) },
            end: loss.end.max(numbers.end),
            acknowledged: loss.records == 0,
            ..loss
        });
        Some(loss).filter(|loss| loss.end > loss.first)
    }

    /// Records that may be missing, one by one: so that those can come back that become readable.
    pub(super) fn missing(&self) -> Numbers {
        if self.stop.has_inventory {
            return Numbers::of(self.missing_by_inventory());
        }
        // What lay before the oldest block that can be read was mostly delivered, and its marks are gone with it.
        let bounded = self.lost.iter().map(|lost| &lost.numbers).filter(|numbers| numbers.start > RecordNumber(1));
        let numbers = bounded.flat_map(|numbers| numbers.start.0..numbers.end.0).map(RecordNumber);
        let mut missing: Vec<RecordNumber> = numbers.filter(|number| self.is_missing(*number)).collect();
        missing.sort_unstable();
        missing.dedup();
        Numbers::of(missing)
    }

    /// Whether a record may be missing that damage may have taken. What an earlier start has told is not lost again, unless the
    /// last one has seen it.
    fn is_missing(&self, number: RecordNumber) -> bool {
        let is_told = || self.losses.list.iter().any(|loss| loss.covers(number)) && !self.stop.waiting.contains(number);
        !self.seen.contains(number) && !self.settled.contains(number) && !is_told()
    }

    fn missing_by_inventory(&self) -> impl Iterator<Item = RecordNumber> {
        let numbers = self.stop.runs.iter().flat_map(|(first, end)| first.0..end.0).map(RecordNumber);
        numbers.filter(|number| !self.seen.contains(*number))
    }

    fn loss_by_inventory(&self) -> Loss {
        self.missing_by_inventory().fold(Loss { exact: true, ..Loss::default() }, with)
    }

    fn loss_by_mark(&self, mark: EndMark) -> Loss {
        let records = mark.pending.saturating_sub(self.report.recovered);
        let known = self.loss_by_damage();
        // Where marks are lost, too, delivered records are found again, and hide missing ones.
        let exact = known.records <= records;
        let (first, end) =
            if known.end > known.first { (known.first, known.end) } else { (RecordNumber(1), mark.next) };
        Loss { first, end, records: records.max(known.records.min(mark.pending)), exact, ..Loss::default() }
    }

    /// At most so many: what lies between the numbers that were found may also have been marks.
    fn loss_by_damage(&self) -> Loss {
        let smallest = (ENTRY_HEADER_BYTES + RECORD_PREFIX_BYTES) as u64;
        let mut loss = Loss::default();
        let mut counted = SparseBits::default();
        for Lost { numbers, bytes } in &self.lost {
            let most = bytes.map_or(usize::MAX, |bytes| (bytes / smallest) as usize);
            let missing =
                (numbers.start.0..numbers.end.0).map(RecordNumber).filter(|number| self.is_missing(*number)).take(most);
            loss = missing.filter(|number| counted.insert(*number)).fold(loss, with);
        }
        loss
    }
}

/// One more record is missing.
fn with(loss: Loss, number: RecordNumber) -> Loss {
    let is_first = loss.end == RecordNumber(0);
    Loss {
        first: if is_first { number } else { loss.first.min(number) },
        end: loss.end.max(number.next()),
        records: loss.records + 1,
        ..loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_wait_was_settled_in_all_segments_that_the_stop_could_name() {
        let held =
            |number| Held { number, nonce: 1, first_number: RecordNumber(1), physical: 4096, start: 4096, end: 8192 };
        let held = [5, 12].map(|number| (SegmentNumber(number), held(SegmentNumber(number)))).into();
        let mut stop = Stop { held, ..Stop::default() };
        stop.waiting.insert(RecordNumber(7));
        // 8 was free, and its file is left; 13 was begun since.
        for (segment, number, settled) in [(5, 6, true), (5, 7, false), (8, 6, true), (8, 7, false), (13, 6, false)] {
            assert_eq!(stop.was_settled(SegmentNumber(segment), RecordNumber(number)), settled, "{segment} {number}");
        }
        assert!(!Stop::default().was_settled(SegmentNumber(1), RecordNumber(1)), "nothing is known");
    }
}
