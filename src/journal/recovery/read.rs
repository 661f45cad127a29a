//! The segments from the newest to the oldest: each is identified, finished from the block file, walked and mended.

use super::durable::Neighbour;
use super::gone::{is_move_cut_short, is_whole_from_its_start};
use super::missing::Lost;
use super::{Life, Missing, OpenError, Recovery, Repairs, doing};
use crate::config::Durability;
use crate::ground::{RecordNumber, SegmentNumber};
use crate::journal::epoch::Epoch;
use crate::journal::format::{BlockHeader, Position, SegmentHeader};
use crate::journal::storage::is_full;
use crate::journal::unfinished::{Left, unwritten_blocks};
use crate::journal::{BlockMemory, Options, Storage};
use std::collections::HashSet;
use std::ops::Range;

impl Recovery {
    pub(super) fn read_segments(
        &mut self,
        storage: &mut impl Storage,
        options: &Options,
        blocks: Option<(&BlockMemory, Epoch)>,
    ) -> Result<(), OpenError> {
        let files: HashSet<SegmentNumber> = doing("list the segments", storage.segments())?.into_iter().collect();
        if !self.has_epochs && !files.is_empty() {
            // Nothing says how the last start ended, nor which its block file was: all that is there is to be made durable.
            self.report.clean = false;
            self.report.alarms.push(
                "there are segments but no epoch file: what the last run's block file held and the disk did not is lost"
                    .to_owned(),
            );
        }
        let mut overlay = blocks.map(|(memory, epoch)| unwritten_blocks(memory, epoch)).unwrap_or_default();
        // Of segments that were freed blocks may still be in memory: later ones say where the log begins.
        let headers = overlay.values().flatten().map(|left| left.header);
        self.oldest_segment = headers.map(|header| header.oldest_segment).max().unwrap_or_default();
        let mut numbers: Vec<SegmentNumber> = files.union(&overlay.keys().copied().collect()).copied().collect();
        // One without a block may have been freed by a start that was killed before it wrote down what it found.
        let has_blocks = |number: &SegmentNumber| self.stop.held(*number).is_some_and(|held| held.end > held.start);
        let is_gone = |number: &SegmentNumber| !files.contains(number) && has_blocks(number);
        let gone: Vec<SegmentNumber> = self.stop.segments().filter(is_gone).collect();
        for gone in gone {
            self.lost.extend(self.stop.numbers_of(gone).map(|numbers| Lost { numbers, bytes: None }));
            self.report.damaged += 1;
            self.report.alarms.push(format!("segment {gone} is gone, though the last run has left it"));
        }
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        self.segment_max = numbers.first().copied().unwrap_or_default();
        let mut bytes = Vec::new();
        for number in numbers {
            let mut left = overlay.remove(&number).unwrap_or_default();
            // What moved to a newer segment is there.
            left.retain(|block| !self.is_superseded(&block.header));
            let exists = files.contains(&number);
            self.is_move_cut_short = is_move_cut_short(&left, overlay.values().flatten());
            if self.covered.contains(&number) {
                self.replaced.extend(exists.then_some(number));
                continue;
            }
            if !exists && (left.is_empty() || number < self.oldest_segment) {
                continue;
            }
            // Otherwise: settled, or made ready and never used, or a file on its way to a new life.
            let live = number >= self.oldest_segment
                && self.read_segment(storage, options, number, left, exists, &mut bytes)?;
            if !live && exists && self.empty.last() != Some(&number) {
                doing(format!("free segment {number}"), storage.free_segment(number))?;
            }
        }
        // At `process` only blocks of the last run name a beginning that is there: a loss of power before it may have taken newer ones.
        let is_of_last_run = |epoch: Epoch| self.durable.newest_epoch == Some(epoch.id);
        let is_named =
            options.durability == Durability::Power || blocks.is_some_and(|(_, epoch)| is_of_last_run(epoch));
        let is_beginning_gone = is_named && self.judge_beginning(options);
        let is_missing = self.stop.pending().is_some_and(|pending| pending > self.report.recovered);
        self.set_empty_aside(storage, is_missing || is_beginning_gone)?;
        self.drop_missing();
        self.segments.reverse();
        if let Some(oldest) = self.newer.filter(|oldest| oldest.gap) {
            let start = Position { offset: 0, ..oldest.at };
            // Where it began nobody knows any more: some of these may have been there, and not been settled.
            self.note_damage(
                start,
                0..oldest.at.offset as usize,
                RecordNumber(1)..oldest.number,
                &mut Repairs::default(),
            );
        }
        Ok(())
    }

    /// Finishes, walks and mends one segment; `false` where it holds no block.
    fn read_segment(
        &mut self,
        storage: &mut impl Storage,
        options: &Options,
        number: SegmentNumber,
        left: Vec<Left>,
        exists: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, OpenError> {
        bytes.clear();
        let unread = match exists {
            true => doing(format!("read segment {number}"), storage.read_segment(number, bytes))?,
            false => Vec::new(),
        };
        let file_bytes = bytes.len();
        let mut repairs = Repairs { is_unread: !unread.is_empty(), ..Repairs::default() };
        let begun = self.is_move_cut_short || is_whole_from_its_start(&left, storage.physical_block());
        let gone = !exists && (self.follows_file || !begun);
        let life = match (exists, left.first()) {
            (false, Some(first)) => {
                bytes.resize(options.segment_bytes as usize, 0);
                self.missing.push(Missing { number, nonce: first.header.nonce });
                let epoch_id = first.header.epoch_id;
                Some(Life { number, nonce: first.header.nonce, physical: storage.physical_block(), epoch_id })
            }
            _ => self
                .identify(number, bytes)
                .or_else(|| self.rebuild_header(number, storage.physical_block(), options, &left, bytes, &mut repairs)),
        };
        let Some(life) = life else {
            self.empty.extend(Some(number).filter(|number| exists && self.is_unread_below(self.newer, *number)));
            return Ok(false);
        };
        let unfinished = self.overlay(life, left, bytes);
        let from = unfinished.first().map(|range| Position { segment: number, offset: range.start as u32 });
        for range in &unread {
            self.report.alarms.push(format!(
                "bytes {} to {} of segment {number} cannot be read: the file is kept in quarantine",
                range.start, range.end
            ));
        }
        let newer = self.newer;
        let lost = self.lost.len();
        if !self.walk(life, bytes, &mut repairs) {
            if exists && (repairs.is_unread || !repairs.damage.is_empty()) {
                self.keep(storage, number)?;
            } else if exists && self.is_unread_below(newer, number) {
                self.empty.push(number);
            }
            return Ok(false);
        }
        // Between this one and the newer one entries are missing: those of segments without a block.
        self.set_empty_aside(storage, self.lost.len() > lost)?;
        if !exists {
            // It has no file, and so no damage that is to be kept.
            for (offset, header) in &repairs.headers {
                bytes[*offset..offset + header.len()].copy_from_slice(header);
            }
        }
        if gone {
            return self.restore(storage, options, life, bytes);
        }
        if !exists {
            self.unwritten_from = from.or(self.unwritten_from);
            return Ok(true);
        }
        self.follows_file = true;
        if self.stop.was_free(number) && self.segments.last().is_none_or(|segment| segment.unsettled == 0) {
            // What waited is in segments that the stop has named.
            self.segments.pop();
            return Ok(false);
        }
        let end = self.segments.last().expect("walked").end as usize;
        if end > file_bytes {
            // A file cut short: as far as there are blocks it is made whole, so that they can be read back.
            repairs.mended.push(file_bytes / life.physical as usize * life.physical as usize..end);
        }
        if unread.is_empty() {
            self.set_aside(storage, number, bytes, &repairs)?;
        }
        for (offset, header) in &repairs.headers {
            bytes[*offset..offset + header.len()].copy_from_slice(header);
            repairs.mended.push(*offset..offset + life.physical as usize);
        }
        if !unread.is_empty() {
            self.losses.kept = true;
            // Nothing is to be read from that file again; what it still holds may become readable.
            return match storage.replace_segment(number, bytes) {
                // Without room for another file it stays where it is; the walk passes what cannot be read of it.
                Err(error) if is_full(&error) => {
                    doing(format!("keep segment {number}"), storage.keep_segment(number)).map(|()| true)
                }
                replaced => doing(format!("write segment {number} into another file"), replaced).map(|()| true),
            };
        }
        let mut write = |range: &Range<usize>| storage.write_segment(number, range.start as u32, &bytes[range.clone()]);
        for range in &repairs.mended {
            doing(format!("mend segment {number}"), write(range))?;
        }
        let mut written = unfinished.iter().try_for_each(&mut write);
        // After a kill writes have landed that nobody synced: they must be durable before the block file goes.
        if written.is_ok() && (!repairs.mended.is_empty() || !unfinished.is_empty() || !self.report.clean) {
            written = storage.sync_segment(number);
        }
        if let Err(error) = written {
            self.refuse(number, from, error)?;
        }
        Ok(true)
    }

    /// Keeps damaged bytes for an operator: as copies, or, where there is no room for them, as the whole file under a second name.
    fn set_aside(
        &self,
        storage: &mut impl Storage,
        number: SegmentNumber,
        bytes: &[u8],
        repairs: &Repairs,
    ) -> Result<(), OpenError> {
        let copy = |storage: &mut _, (offset, bytes): (usize, &[u8])| {
            Storage::quarantine(storage, &format!("segment-{number:016x}-at-{offset}"), bytes)
        };
        let damaged = repairs.damage.iter().map(|range| (range.start, &bytes[range.clone()]));
        let header = repairs.header.iter().map(|header| (0, &header[..]));
        for range in header.chain(damaged) {
            match copy(storage, range) {
                Err(error) if is_full(&error) => {
                    return doing("quarantine a segment", storage.keep_segment(number));
                }
                copied => doing("quarantine damaged bytes", copied)?,
            }
        }
        Ok(())
    }

    /// Frees the segments without a block that newer ones follow. Their files are kept where entries are missing. One that may be
    /// the oldest of all can have been empty: nobody knows after a kill.
    fn set_empty_aside(&mut self, storage: &mut impl Storage, is_missing: bool) -> Result<(), OpenError> {
        for number in std::mem::take(&mut self.empty) {
            if is_missing {
                self.keep(storage, number)?;
            }
            doing(format!("free segment {number}"), storage.free_segment(number))?;
        }
        Ok(())
    }

    /// Keeps the file of a segment without a block.
    fn keep(&mut self, storage: &mut impl Storage, number: SegmentNumber) -> Result<(), OpenError> {
        self.losses.kept = true;
        self.report.alarms.push(format!("nothing of segment {number} can be read: its file is in quarantine"));
        doing(format!("quarantine segment {number}"), storage.keep_segment(number))
    }

    /// Whether a segment without a block lies between others, and was durable.
    fn is_unread_below(&self, newer: Option<Neighbour>, number: SegmentNumber) -> bool {
        let is_between = newer.is_some_and(|newer| newer.at.segment > number);
        // A clean stop says which ones have blocks.
        is_between && !self.stop.is_known() && self.durable.has(Position { segment: number, offset: 0 })
    }

    /// Whether a block's entries moved to a newer segment, since its own had failed; what is on disk of it is of no more use.
    pub(super) fn is_superseded(&self, header: &BlockHeader) -> bool {
        self.newer.is_some_and(|newer| header.first_number >= newer.number)
    }

    /// What a segment's header says of its life. A file that was cut short gets its size back, in memory.
    fn identify(&mut self, number: SegmentNumber, bytes: &mut Vec<u8>) -> Option<Life> {
        let header = SegmentHeader::decode(bytes).filter(|header| header.segment == number)?;
        let size = header.bytes.min(u64::from(u32::MAX)) as usize;
        if bytes.len() < size {
            self.report.alarms.push(format!("segment {number} is cut short: {} of {size} bytes", bytes.len()));
            bytes.resize(size, 0);
        }
        Some(Life { number, nonce: header.nonce, physical: header.physical, epoch_id: header.epoch_id })
    }

    /// The header is damaged, or of another life: a block of this number tells them apart.
    fn rebuild_header(
        &mut self,
        number: SegmentNumber,
        physical: u32,
        options: &Options,
        left: &[Left],
        bytes: &mut Vec<u8>,
        repairs: &mut Repairs,
    ) -> Option<Life> {
        let on_disk = || {
            let mut blocks = bytes.chunks(physical as usize).filter_map(BlockHeader::decode).map(|(header, _)| header);
            blocks.find(|header| header.at.segment == number)
        };
        // Blocks in memory may be those of a segment that was rewritten: the file knows.
        let found = on_disk();
        let held = self.stop.held(number);
        let block = found.or_else(|| left.first().map(|left| left.header));
        let nonce = held.map(|held| held.nonce).or(block.map(|block| block.nonce))?;
        let epoch_id = block.map_or(0, |block| block.epoch_id);
        if found.is_some() || held.is_some() {
            repairs.header = Some(bytes[..bytes.len().min(physical as usize)].to_owned());
            self.report.damaged += 1;
            self.report.alarms.push(format!("the header of segment {number} is damaged"));
        } // else the kill came while the file was being made, and its blocks are all in memory
        let header = SegmentHeader {
            core: u32::from(options.core.0),
            segment: number,
            nonce,
            bytes: bytes.len().max(options.segment_bytes as usize) as u64,
            physical,
            epoch: 0, // not known, and of no use once the epoch has ended
            epoch_id,
        };
        bytes.resize(header.bytes as usize, 0);
        bytes[..physical as usize].copy_from_slice(&header.encode());
        repairs.mended.push(0..physical as usize);
        Some(Life { number, nonce, physical, epoch_id })
    }
}
