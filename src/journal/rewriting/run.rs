//! A run of segments that is rewritten: how far it was read, and what of it is of use.

use super::dense::{DenseBlocks, NoRoom};
use super::{Said, Shape};
use crate::ground::{RecordNumber, SegmentNumber};
use crate::journal::NO_LANE;
use crate::journal::format::{
    BlockHeader, Entries, Entry, EntryHeader, KEY_PREFIX_BYTES, Kind, Position, RecordPayload, record_number_at,
    round_up, u32_at,
};
use crate::journal::keys::{KEY_HASHES_BYTES, KeyHashes, KeysHead};
use crate::journal::ledger::{Ledger, Parked};
use crate::journal::op::Rewrite;
use crate::journal::segments::{GivenUp, Segment, Segments};
use std::collections::HashSet;
use std::ops::{Range, RangeInclusive};

/// Most keys that are kept in one entry.
const KEYS_PER_ENTRY: u64 = 64;

/// What comes next, or is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Begin,
    Copy,
    Replace,
    SyncDirectory,
    GiveUp,
}

/// Owns what was read and kept of a run. More fields than most: each is something that a run is or
/// has come to, and it lives for one rewrite only.
#[derive(Debug)]
pub(super) struct Run {
    pub first: SegmentNumber,
    /// The new segment takes its place.
    pub last: SegmentNumber,
    first_number: RecordNumber,
    pub nonce: u64,
    pub step: Step,
    pub in_flight: bool,
    /// Where the next piece begins; behind the run once all is read.
    source: Position,
    out: DenseBlocks,
    finished: bool,
    /// Records kept.
    numbers: Vec<RecordNumber>,
    /// Origins written down.
    origins: HashSet<u32>,
    /// An entry of machines' keys, which is written when something else is: how it begins, and all of
    /// its payload.
    keys_head: Option<KeysHead>,
    keys: Vec<u8>,
    /// Of the last entry read.
    last_number: RecordNumber,
    /// Bytes were met that hold no block or no entry.
    pub damaged: bool,
    /// Files to be freed in the end.
    pub freed: Vec<GivenUp>,
    /// A buffer to be used again.
    pub buffer: Vec<u8>,
}

impl Run {
    /// Of the segments at these places in the list.
    pub fn new(segments: &Segments, run: Range<usize>, nonce: u64, shape: Shape) -> Self {
        let at = |index: usize| segments.at(index).expect("they were found");
        let (first, last) = (at(run.start), at(run.end - 1));
        let before = run.start.checked_sub(1).map(|index| at(index).number);
        let header = BlockHeader {
            nonce,
            at: Position { segment: last.number, offset: 0 },
            first_number: first.first_number,
            epoch_id: shape.maker.epoch_id,
            watermark: Position::default(),
            oldest_segment: if before.is_none() { last.number } else { segments.oldest_named() },
            dense: None,
        };
        // All numbers back to the segment that stays: a file of one that was given up may not be
        // gone yet.
        let covers = last.number.0 - before.map_or(first.number, SegmentNumber::next).0;
        let covers = u32::try_from(covers).unwrap_or(u32::MAX);
        Self {
            first: first.number,
            last: last.number,
            first_number: first.first_number,
            nonce,
            step: Step::Begin,
            in_flight: false,
            source: first.first_position(),
            out: DenseBlocks::new(header, covers, shape.maker.physical, shape.block_bytes, shape.segment_bytes),
            finished: false,
            numbers: Vec::new(),
            origins: HashSet::new(),
            keys_head: None,
            keys: Vec::new(),
            last_number: first.first_number,
            damaged: false,
            freed: Vec::new(),
            buffer: Vec::new(),
        }
    }

    pub fn segments(&self) -> RangeInclusive<SegmentNumber> {
        self.first..=self.last
    }

    /// Whether all of the new segment is written, but for its header.
    pub fn is_written(&self) -> bool {
        self.finished && self.out.sealed_bytes() == 0
    }

    /// What is to be read or written next; `None` once all is.
    pub fn next_copy(&mut self, segments: &Segments, block_bytes: u32) -> Result<Option<Rewrite>, NoRoom> {
        loop {
            let source = segments.at(segments.index_from(self.source.segment)).expect("the last one stays");
            let all_read = source.number > self.last;
            if self.out.sealed_bytes() >= block_bytes || all_read && self.out.sealed_bytes() > 0 {
                let (offset, bytes) = self.out.take_sealed(std::mem::take(&mut self.buffer));
                return Ok(Some(Rewrite::Write { offset, bytes }));
            }
            if all_read {
                if std::mem::replace(&mut self.finished, true) {
                    return Ok(None);
                }
                self.finish()?;
                continue;
            }
            if source.number > self.source.segment || self.source.offset == 0 {
                self.source = source.first_position();
            }
            if self.source.offset >= source.end {
                // All of it moved to another segment.
                self.source = Position { segment: source.number.next(), offset: 0 };
                continue;
            }
            let most = source.block_bytes.max(block_bytes);
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize((source.end - self.source.offset).min(most) as usize, 0);
            return Ok(Some(Rewrite::Read { from: source.number, offset: self.source.offset, buffer }));
        }
    }

    /// The last entry says how far the run's numbers went.
    fn finish(&mut self) -> Result<(), NoRoom> {
        self.write_keys()?;
        let end = EntryHeader { kind: Kind::Delivered, flags: 0, lane: NO_LANE, number: self.last_number };
        self.out.push(end, &[])?;
        self.out.finish();
        Ok(())
    }

    /// Takes what is of use out of a piece, and moves on in the run.
    pub fn copy_piece(&mut self, segments: &Segments, said: Said<'_>, from: u32, bytes: &[u8]) -> Result<(), NoRoom> {
        let index = segments.index_from(self.source.segment);
        let segment = segments.at(index).expect("the last one stays");
        assert!(segment.number == self.source.segment && self.source.offset == from);
        let mut offset = 0;
        while let Some((header, Some(seal))) = bytes.get(offset..).and_then(BlockHeader::decode) {
            let here = Position { segment: segment.number, offset: from + offset as u32 };
            let Some(block) = bytes.get(offset..offset + seal.used as usize) else { break };
            if header.nonce != segment.nonce || header.at != here {
                break;
            }
            self.write_keys()?;
            self.out.enter(header.epoch_id, header.watermark);
            let mut entries = Entries::new(block, header.nonce, here.offset);
            loop {
                for entry in entries.by_ref() {
                    self.copy_entry(segments, said, segment, &entry)?;
                }
                if entries.offset() == block.len() {
                    break;
                }
                self.damaged = true;
                if entries.resynchronise().is_none() {
                    break;
                }
            }
            offset += round_up(seal.used, segment.physical) as usize;
        }
        if offset == 0 {
            self.damaged = true;
            offset = segment.physical as usize;
        }
        self.source.offset += offset as u32;
        if self.source.offset >= segment.end {
            self.source = Position { segment: segment.number.next(), offset: 0 };
        }
        Ok(())
    }

    /// Copies an entry of a segment, if it is still of use.
    fn copy_entry(
        &mut self,
        segments: &Segments,
        said: Said<'_>,
        source: &Segment,
        entry: &Entry<'_>,
    ) -> Result<(), NoRoom> {
        let Entry { header, payload, .. } = *entry;
        let ledger = said.ledger;
        self.last_number = self.last_number.max(header.number);
        match header.kind {
            // After a loss of power a later segment may have records of an origin, and not its
            // definition.
            Kind::Origin | Kind::Origin1 => self.copy_origin(ledger, u32_at(payload, 0), header.number),
            Kind::Record => {
                let holder = segments.holder(header.number).filter(|holder| holder.number == source.number);
                let again = self.numbers.last().is_some_and(|last| *last >= header.number);
                if again || !holder.is_some_and(|holder| holder.is_waiting(header.number)) {
                    let hashes = RecordPayload::decode(payload).hashes;
                    return hashes
                        .map_or(Ok(()), |hashes| self.copy_key(segments, said, source, KeyHashes::decode(hashes)));
                }
                self.write_keys()?;
                self.copy_origin(ledger, RecordPayload::decode(payload).origin, header.number)?;
                self.numbers.push(header.number);
                self.out.push(header, &[payload])
            }
            Kind::Id | Kind::Parked | Kind::Retried => {
                let number = record_number_at(payload, 0);
                let is_said_again =
                    |parked: &Parked| parked.said_in.is_none_or(|said_in| said_in.number != header.number);
                if header.kind == Kind::Parked && ledger.parked_record(number).is_none_or(is_said_again) {
                    return Ok(());
                }
                // A loss of power may bring a record back that was delivered meanwhile: if its
                // entry is still there, its id must be.
                let kept = self.numbers.binary_search(&number).is_ok() || self.is_older(segments, number);
                match kept || segments.holder(number).is_some_and(|holder| holder.is_waiting(number)) {
                    true => self.out.push(header, &[payload]),
                    false => Ok(()),
                }
            }
            Kind::Discarded => match self.is_older(segments, record_number_at(payload, 0)) {
                true => self.out.push(header, &[payload]),
                false => Ok(()),
            },
            Kind::Losses => match ledger.losses.is_said_in(header.number) {
                true => self.out.push(header, &[payload]),
                false => Ok(()),
            },
            Kind::Key => {
                let (_, all) = payload.split_at(KEY_PREFIX_BYTES);
                all.chunks_exact(KEY_HASHES_BYTES)
                    .try_for_each(|hashes| self.copy_key(segments, said, source, KeyHashes::decode(hashes)))
            }
            // Only the last one that a clean end wrote is of use, and only to the start after it.
            Kind::Leased => Ok(()),
            Kind::Delivered => {
                let marks =
                    payload.chunks_exact(8).filter(|number| self.is_older(segments, record_number_at(number, 0)));
                let marks: Vec<&[u8]> = marks.collect();
                if marks.is_empty() { Ok(()) } else { self.out.push(header, &marks) }
            }
        }
    }

    /// Keeps a machine's key that an entry of a segment says, if no later one says it.
    fn copy_key(
        &mut self,
        segments: &Segments,
        Said { keys, .. }: Said<'_>,
        source: &Segment,
        hashes: KeyHashes,
    ) -> Result<(), NoRoom> {
        let is_here = |number| segments.holder(number).is_some_and(|holder| holder.number == source.number);
        let Some(head) = keys.head_if_said(hashes, is_here) else { return Ok(()) };
        let count = (self.keys.len().saturating_sub(KEY_PREFIX_BYTES) / KEY_HASHES_BYTES) as u64;
        let goes_on = self.keys_head.is_some_and(|first| first.goes_on(count, &head));
        if !goes_on || count >= KEYS_PER_ENTRY {
            self.write_keys()?;
            self.keys.extend_from_slice(&head.encode());
            self.keys_head = Some(head);
        }
        self.keys.extend_from_slice(&hashes.encode());
        Ok(())
    }

    /// Writes down the keys that were kept since the last time.
    fn write_keys(&mut self) -> Result<(), NoRoom> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let header = EntryHeader { kind: Kind::Key, flags: 0, lane: NO_LANE, number: self.last_number };
        self.out.push(header, &[&self.keys])?;
        self.keys.clear();
        self.keys_head = None;
        Ok(())
    }

    /// Writes down, once, who sent records that wait.
    fn copy_origin(&mut self, ledger: &Ledger, id: u32, number: RecordNumber) -> Result<(), NoRoom> {
        let Some(origin) = ledger.origin_of(id).filter(|origin| ledger.has_unsettled(*origin)) else { return Ok(()) };
        if !self.origins.insert(id) {
            return Ok(());
        }
        let origin = ledger.origin(origin);
        let payload = origin.payload();
        let header = EntryHeader { kind: Kind::Origin, flags: 0, lane: origin.lane, number };
        let (prefix, [source, name, encoding]) = (payload.encode_prefix(), payload.texts());
        self.out.push(header, &[&prefix, source, name, encoding])
    }

    /// Whether a record may lie in a segment before the run: then its mark is needed.
    fn is_older(&self, segments: &Segments, number: RecordNumber) -> bool {
        segments.holder(number).is_some_and(|holder| holder.number < self.first && holder.may_hold(number))
    }

    /// Whether all that waits in the run was found.
    pub fn has_all(&self, segments: &Segments) -> bool {
        let of_run = segments.iter().filter(|segment| self.segments().contains(&segment.number));
        let waiting: u64 = of_run.map(|segment| segment.unsettled).sum();
        self.waiting(segments).count() as u64 == waiting
    }

    /// The records kept that wait still.
    fn waiting(&self, segments: &Segments) -> impl Iterator<Item = RecordNumber> {
        let waits = |number: &RecordNumber| segments.holder(*number).is_some_and(|holder| holder.is_waiting(*number));
        self.numbers.iter().copied().filter(waits)
    }

    /// The new segment, as it is in memory once its file has its name.
    pub fn dense_segment(&mut self, segments: &Segments, physical: u32) -> Segment {
        let waiting: Vec<RecordNumber> = self.waiting(segments).collect();
        let mut dense = Segment::new(self.last, self.nonce, self.first_number, physical);
        dense.end = self.out.end();
        dense.list(std::mem::take(&mut self.numbers));
        waiting.iter().for_each(|number| dense.add(*number, 0));
        dense
    }
}
