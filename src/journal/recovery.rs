//! What happens at start: the epochs are read, the writes that a killed process left unfinished are finished from its block
//! file, the segments are walked from the newest to the oldest (marks lie behind what they settle), and a new epoch begins.
//!
//! An unfinished block is written at its own place: the bytes are those that the dead process submitted or was about to submit,
//! so a late write of it changes nothing, and positions keep the order of numbers. New entries always go to new segments.
//! Where that cannot be done (the segment's file was never made, or the disk refuses), the blocks are taken over into the new
//! block file, and the running log writes them as it writes its own.

mod gone;

use self::gone::{is_move_cut_short, is_whole_from_its_start, lost_between};
mod unwritten;

use super::epoch::Epoch;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Entries, Kind, OriginPayload, ParkedPayload, Position, RecordPayload, Seal,
    SegmentHeader, round_up, u64_at,
};
use super::log::{OriginRef, Parked, shown};
use super::segment::{Segment, SparseBits};
use super::unfinished::{BLOCK_FILE_HEADER_BYTES, Left, Sealed, head, is_block_file, unwritten_blocks};
use super::{BlockFile, Journal, Options, Storage};
use crate::config::Durability;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use thiserror::Error;
pub(super) use unwritten::Unwritten;

/// After an unclean end, numbers go on this much later, so that one that was lost is not used again.
const NUMBERS_SKIPPED: u64 = 1 << 20;

/// Why a journal cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was to be done.
        action: String,
        /// Why it failed.
        error: io::Error,
    },
    /// Unfinished blocks cannot be written nor taken over.
    #[error("{blocks} blocks of the last runs cannot be written ({error}), nor kept for later: {reason}")]
    Unfinished {
        /// How many.
        blocks: usize,
        /// Why they cannot be written.
        error: String,
        /// Why they cannot be kept.
        reason: &'static str,
    },
}

/// What was found at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of this start.
    pub epoch: u64,
    /// Whether the last start ended with a clean stop (or there was none).
    pub clean: bool,
    /// Segments read.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records still to be delivered.
    pub recovered: u64,
    /// Of those, parked ones.
    pub parked: u64,
    /// Blocks finished from the block file.
    pub finished_blocks: u64,
    /// Of those, blocks that are still to be written: the disk refused them, or has no file for them yet.
    pub unwritten_blocks: u64,
    /// Places where bytes below the watermark were not whole.
    pub damaged: u64,
    /// Blocks above the watermark that were not whole.
    pub torn: u64,
    /// What an operator must know, in words.
    pub alarms: Vec<String>,
}

fn doing<T>(action: impl Into<String>, result: io::Result<T>) -> Result<T, OpenError> {
    result.map_err(|error| OpenError::Io { action: action.into(), error })
}

/// Opens the journal of one directory: recovers what it holds and begins a new epoch, durable before this returns.
///
/// # Errors
/// [`OpenError`] where a file cannot be read, written or made durable; nothing is lost then.
pub fn open(storage: &mut impl Storage, options: &Options) -> Result<Journal, OpenError> {
    let slots = options.window_bytes / options.block_bytes as usize;
    let file_bytes = |slots: usize| BLOCK_FILE_HEADER_BYTES + slots * options.block_bytes as usize;
    let seed = storage.random() as u64;
    if options.durability == Durability::Memory {
        let memory = doing("reserve memory for the window", storage.create_blocks(None, file_bytes(slots)))?;
        let epoch_id = storage.random();
        return Ok(Journal::new(options.clone(), memory, storage.physical_block(), epoch_id, seed));
    }
    let mut recovery = Recovery::default();
    let (earlier, files) = recovery.read_epochs(storage)?;
    let last = earlier.last().copied();
    let blocks = recovery.last_blocks(storage, last)?;
    recovery.read_segments(storage, options, blocks.as_ref().zip(last).map(|(file, epoch)| (&**file, epoch)))?;

    let epoch = Epoch {
        // A damaged file's number is not used again either: it is removed below.
        number: files.iter().max().map_or(1, |number| number + 1),
        id: storage.random(),
        boot_id: u128::from_le_bytes(storage.boot_id()),
        file_id: storage.random(),
        physical: storage.physical_block(),
        block_bytes: options.block_bytes,
        closed: false,
    };
    let name = epoch.block_name();
    let unwritten = recovery.take_unwritten(options, epoch.physical, last)?;
    let epochs = unwritten.epochs();
    // What is taken over may not use up the room for what is to come.
    let slots = slots.max(unwritten.slots.len() + slots / 4 + 4);
    let memory = doing("make the block file", storage.create_blocks(Some(&name), file_bytes(slots)))?;
    memory.write(0, &head(epoch.file_id, &epochs));
    let mut journal = Journal::new(options.clone(), memory, epoch.physical, epoch.id, seed);
    journal.block_name = Some(name.clone());
    journal.epoch = epoch.number;
    journal.epoch_record = epoch.encode();
    recovery.report.epoch = epoch.number;
    let replaced = std::mem::take(&mut recovery.replaced);
    recovery.finish(&mut journal);
    journal.take_over(unwritten);
    doing("write the epoch file", storage.write_epoch(epoch.number, &epoch.encode()))?;
    // Only now, since that made the directory durable, is it certain that the dense segments which stand for these have their names.
    for segment in replaced {
        doing(format!("free segment {segment}"), storage.free_segment(segment))?;
    }
    // Only now is what the old block file held in segments, durably, or in the new one, and of no more use.
    drop(blocks);
    for old in &earlier {
        doing("remove the old block file", storage.remove_blocks(&old.block_name()))?;
    }
    doing("remove stray block files", storage.remove_stray_blocks(&name))?;
    for old in files {
        doing("remove an old epoch file", storage.remove_epoch(old))?;
    }
    Ok(journal)
}

impl Journal {
    /// Ends a journal that [`is_flushed`](Self::is_flushed): everything is made durable, the epoch is closed, its block file removed.
    ///
    /// # Errors
    /// Those of the storage; the next start then recovers as after a kill.
    pub fn close(self, storage: &mut impl Storage) -> io::Result<()> {
        let Some(name) = &self.block_name else { return Ok(()) };
        // Those of earlier starts too: below level `power` nobody may have synced them.
        for segment in &self.segments {
            match storage.sync_segment(segment.number) {
                // What could be saved of it was, and the rest was told when it failed.
                Err(_) if segment.failed => {}
                result => result?,
            }
        }
        let (mut epoch, _) = Epoch::decode(&self.epoch_record).expect("encoded at start");
        epoch.closed = true;
        storage.write_epoch(epoch.number, &epoch.encode())?;
        storage.remove_blocks(name)
    }
}

/// What a walk over the segments gathers.
#[derive(Default)]
struct Recovery {
    report: Report,
    /// Whether there is any epoch file, whole or not.
    has_epochs: bool,
    /// Oldest first once the walk is done.
    segments: Vec<Segment>,
    settled: SparseBits,
    /// The newest list of ids that were given ahead, and its entry's number.
    leased: (u64, Vec<Range<u64>>),
    /// What the newest entries say about records that were kept aside.
    parked: HashMap<u64, FoundParked>,
    seen: SparseBits,
    origins: HashMap<u32, FoundOrigin>,
    ids: HashMap<u64, Box<str>>,
    /// Origins that are defined in an older segment than a record of theirs: a kill came between a move and their definition.
    defined_before: HashSet<u32>,
    durable: Durable,
    oldest_segment: u64,
    /// The segments for which the dense one that was read last stands.
    covered: Range<u64>,
    /// Those of them whose files are still there.
    replaced: Vec<u64>,
    newer: Option<Neighbour>,
    /// The block file's blocks of the segments that were read so far, newest segment first.
    tail: Vec<Sealed>,
    /// From here on blocks are still to be written.
    unwritten_from: Option<Position>,
    missing: Vec<(u64, u64)>,
    /// A segment that was read has a file: older ones had one, too.
    follows_file: bool,
    /// A kill came while blocks were moved to the segment that is being read.
    is_move_cut_short: bool,
    refused: Option<(u64, io::Error)>,
    /// From here on writes that were found may not be durable: a sync failed.
    unsynced_from: Option<Position>,
    number_max: u64,
    segment_max: u64,
    origin_max: u32,
    lane_max: u32,
}

/// A segment's life.
#[derive(Debug, Clone, Copy)]
struct Life {
    number: u64,
    nonce: u64,
    /// Unit of its blocks.
    physical: u32,
}

/// What is to be done with ranges of a segment after its walk.
#[derive(Debug, Default)]
struct Repairs {
    /// To be written.
    mended: Vec<Range<usize>>,
    /// To be kept for an operator.
    damage: Vec<Range<usize>>,
    /// All of the segment was durable before it was part of the log: what is not whole is damage.
    certain: bool,
}

/// What the blocks walked so far say of what was durable. An unclean end leaves traces that later epochs do not make damage, as
/// far as their watermarks move on: so a place is compared with the watermarks of its own epoch, and with that with which
/// the next one began.
#[derive(Debug, Default)]
struct Durable {
    /// The last epoch, if it ended with a clean stop: all of it was durable.
    closed: Option<u128>,
    epoch_id: Option<u128>,
    /// Everything before it, in this epoch, was durable.
    watermark: Position,
    /// The lowest that a block of this epoch carries: the one it began with.
    first: Position,
    /// The highest of all: that of the newest epoch.
    newest: Position,
}

impl Durable {
    fn learn(&mut self, header: &BlockHeader) {
        if self.epoch_id.is_some_and(|id| id != header.epoch_id) {
            let inherited = Some(self.first).filter(|first| first.segment <= header.at.segment);
            (self.watermark, self.first) = (inherited.unwrap_or_default(), header.watermark);
        } else if self.epoch_id.is_none() {
            self.first = header.watermark;
        }
        self.epoch_id = Some(header.epoch_id);
        let all = Position { segment: u64::MAX, offset: u32::MAX };
        self.watermark = if self.closed == self.epoch_id { all } else { self.watermark.max(header.watermark) };
        self.first = self.first.min(header.watermark);
        self.newest = self.newest.max(header.watermark);
    }
}

/// The first block of the segment that was walked before. Entries have consecutive numbers in an epoch, so that it tells
/// whether anything is missing in between: a segment's unused tail looks like a damaged block, but leaves no gap.
#[derive(Debug, Clone, Copy)]
struct Neighbour {
    epoch_id: u128,
    number: u64,
    at: Position,
    /// It is not where a segment's first block belongs.
    gap: bool,
    /// Of that place it was known in its own epoch that it was durable.
    certain: bool,
}

impl Neighbour {
    /// Whether entries are missing between it and the end of the older segment.
    fn is_gap_behind(&self, (epoch_id, next): (u128, u64)) -> bool {
        if epoch_id == self.epoch_id { next != self.number } else { self.gap }
    }
}

struct FoundOrigin {
    lane: u32,
    /// Source and name; `None` while only records that refer to it were found.
    names: Option<(String, String)>,
    unsettled: u64,
}

/// The newest of the entries that keep a record aside, or bring it back.
struct FoundParked {
    /// The entry's own number.
    said_in: u64,
    /// `None`: it is to be delivered after all.
    parked: Option<Parked>,
    /// The record's origin, once its entry is found.
    origin: Option<u32>,
}

struct FoundRecord {
    number: u64,
    origin: u32,
    lane: u32,
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
    last: Option<u64>,
}

/// Source and name of records whose origin was lost.
const UNKNOWN: &str = "unknown";

impl Recovery {
    /// All epochs, oldest first, and the numbers of their files.
    fn read_epochs(&mut self, storage: &mut impl Storage) -> Result<(Vec<Epoch>, Vec<u64>), OpenError> {
        let mut epochs: Vec<Epoch> = Vec::new();
        let mut files = Vec::new();
        let mut readable = true;
        for (number, bytes) in doing("read the epoch files", storage.epochs())? {
            files.push(number);
            match Epoch::decode(&bytes).filter(|(epoch, _)| epoch.number == number) {
                Some((epoch, whole)) => {
                    epochs.push(epoch);
                    if whole {
                        continue;
                    }
                }
                None => readable = false,
            }
            self.report.alarms.push(format!("epoch file {number} is damaged"));
            doing("quarantine an epoch file", storage.quarantine(&format!("epoch-{number:08x}"), &bytes))?;
        }
        self.has_epochs = !files.is_empty();
        epochs.sort_by_key(|epoch| epoch.number);
        self.report.clean = readable && epochs.last().is_none_or(|epoch| epoch.closed);
        self.durable.closed = epochs.last().filter(|epoch| readable && epoch.closed).map(|epoch| epoch.id);
        Ok((epochs, files))
    }

    /// The block file that the last start left behind, if it can be trusted.
    fn last_blocks(&mut self, storage: &mut impl Storage, last: Option<Epoch>) -> Result<Option<BlockFile>, OpenError> {
        let Some(epoch) = last.filter(|epoch| !epoch.closed) else { return Ok(None) };
        let name = epoch.block_name();
        let same_boot = epoch.boot_id == u128::from_le_bytes(storage.boot_id());
        let found = doing("open the block file", storage.open_blocks(&name))?;
        let Some(file) = found else {
            if same_boot {
                self.report.alarms.push(format!(
                    "the block file {name} of the last run is gone, though the machine was not restarted: what it held \
                     and the disk did not is lost"
                ));
            }
            return Ok(None);
        };
        if same_boot && is_block_file(&file, epoch.file_id) {
            return Ok(Some(file));
        }
        self.report.alarms.push(format!("the block file {name} is not of this boot or not of this journal: set aside"));
        doing("quarantine the block file", storage.quarantine(&name, file.bytes(0..file.len())))?;
        Ok(None)
    }

    fn read_segments(
        &mut self,
        storage: &mut impl Storage,
        options: &Options,
        blocks: Option<(&super::BlockMemory, Epoch)>,
    ) -> Result<(), OpenError> {
        let files: HashSet<u64> = doing("list the segments", storage.segments())?.into_iter().collect();
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
        self.oldest_segment = headers.map(|header| header.oldest_segment).max().unwrap_or(0);
        let mut numbers: Vec<u64> = files.union(&overlay.keys().copied().collect()).copied().collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        self.segment_max = numbers.first().copied().unwrap_or(0);
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
            if !live && exists {
                doing(format!("free segment {number}"), storage.free_segment(number))?;
            }
        }
        self.drop_missing();
        self.segments.reverse();
        if let Some(oldest) = self.newer.filter(|oldest| oldest.gap) {
            let start = Position { offset: 0, ..oldest.at };
            // Where it began nobody knows any more: some of these may have been there, and not been settled.
            self.note_damage(start, 0..oldest.at.offset as usize, 1..oldest.number, &mut Repairs::default());
        }
        Ok(())
    }

    /// Finishes, walks and mends one segment; `false` where it holds no block.
    fn read_segment(
        &mut self,
        storage: &mut impl Storage,
        options: &Options,
        number: u64,
        left: Vec<Left>,
        exists: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, OpenError> {
        bytes.clear();
        if exists {
            doing(format!("read segment {number}"), storage.read_segment(number, bytes))?;
        }
        let file_bytes = bytes.len();
        let mut repairs = Repairs::default();
        let begun = self.is_move_cut_short || is_whole_from_its_start(&left, storage.physical_block());
        let gone = !exists && (self.follows_file || !begun);
        let life = match (exists, left.first()) {
            (false, Some(first)) => {
                bytes.resize(options.segment_bytes as usize, 0);
                self.missing.push((number, first.header.nonce));
                Some(Life { number, nonce: first.header.nonce, physical: storage.physical_block() })
            }
            _ => self
                .identify(number, bytes)
                .or_else(|| self.rebuild_header(number, storage.physical_block(), options, &left, bytes, &mut repairs)),
        };
        let Some(life) = life else { return Ok(false) };
        let unfinished = self.overlay(life, left, bytes);
        let from = unfinished.first().map(|range| Position { segment: number, offset: range.start as u32 });
        if !self.walk(life, bytes, &mut repairs) {
            return Ok(false);
        }
        if gone {
            return self.restore(storage, options, life, bytes);
        }
        if !exists {
            self.unwritten_from = from.or(self.unwritten_from);
            return Ok(true);
        }
        self.follows_file = true;
        let end = self.segments.last().expect("walked").end as usize;
        if end > file_bytes {
            // A file cut short: as far as there are blocks it is made whole, so that they can be read back.
            repairs.mended.push(file_bytes / life.physical as usize * life.physical as usize..end);
        }
        for range in &repairs.damage {
            let name = format!("segment-{number:016x}-at-{}", range.start);
            doing("quarantine damaged bytes", storage.quarantine(&name, &bytes[range.clone()]))?;
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

    /// Whether a block's entries moved to a newer segment, since its own had failed; what is on disk of it is of no more use.
    fn is_superseded(&self, header: &BlockHeader) -> bool {
        self.newer.is_some_and(|newer| header.first_number >= newer.number)
    }

    /// What a segment's header says of its life. A file that was cut short gets its size back, in memory.
    fn identify(&mut self, number: u64, bytes: &mut Vec<u8>) -> Option<Life> {
        let header = SegmentHeader::decode(bytes).filter(|header| header.segment == number)?;
        let size = header.bytes.min(u64::from(u32::MAX)) as usize;
        if bytes.len() < size {
            self.report.alarms.push(format!("segment {number} is cut short: {} of {size} bytes", bytes.len()));
            bytes.resize(size, 0);
        }
        Some(Life { number, nonce: header.nonce, physical: header.physical })
    }

    /// The header is damaged, or of another life: a block of this number tells them apart.
    fn rebuild_header(
        &mut self,
        number: u64,
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
        let block = found.or_else(|| left.first().map(|left| left.header))?;
        if found.is_some() {
            self.report.damaged += 1;
            self.report.alarms.push(format!("the header of segment {number} is damaged"));
        } // else the kill came while the file was being made, and its blocks are all in memory
        let header = SegmentHeader {
            core: options.core,
            segment: number,
            nonce: block.nonce,
            bytes: bytes.len().max(options.segment_bytes as usize) as u64,
            physical,
            epoch: 0, // not known, and of no use once the epoch has ended
            epoch_id: block.epoch_id,
        };
        bytes.resize(header.bytes as usize, 0);
        bytes[..physical as usize].copy_from_slice(&header.encode());
        repairs.mended.push(0..physical as usize);
        Some(Life { number, nonce: block.nonce, physical })
    }

    /// Walks all blocks of a segment. Blocks without a whole seal are sealed behind their last whole entry (`mended`), so that
    /// they can be read back. `false` where there is no block.
    fn walk(&mut self, life: Life, bytes: &mut [u8], repairs: &mut Repairs) -> bool {
        let Life { number, nonce, physical } = life;
        self.report.segments += 1;
        self.report.bytes += bytes.len() as u64;
        repairs.certain = self.learn(life, bytes);
        let mut segment: Option<Segment> = None;
        let mut first: Option<Neighbour> = None;
        let mut next: Option<(u128, u64)> = None;
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
                None => next.is_some_and(|(epoch, next)| epoch == header.epoch_id && next != header.first_number),
            };
            if missing {
                let lost = next.map_or(0..0, |(_, next)| next..header.first_number);
                self.note_damage(Position { segment: number, offset: end as u32 }, end..offset, lost, repairs);
            }
            let Walked { used, entries, last } = self.walk_block(life, seal, bytes, offset, &mut records, repairs);
            if seal.is_none() {
                self.note_damage(here, offset..offset + physical as usize, 0..0, repairs);
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
                certain: Position { segment: number, offset: physical } < self.durable.watermark,
            });
            // The numbers of a dense segment have gaps, but its last entry has the number of the last one that it stands for.
            let next_number = match header.dense {
                Some(_) => last.map_or(header.first_number, |last| last + 1),
                None => header.first_number + u64::from(entries),
            };
            next = Some((header.epoch_id, next_number));
            cut_off = header.dense.is_some_and(|dense| !dense.last);
            offset += round_up(used, physical) as usize;
            end = offset;
        }
        let (Some(mut segment), Some(first), Some(next)) = (segment, first, next) else { return false };
        (segment.start, segment.end) = (first.at.offset, end as u32);
        let dense = std::mem::replace(&mut repairs.certain, cut_off); // what follows a segment is not of it
        // Where an epoch begins nothing older tells what is missing: it lay in the newer segment, before its first block.
        let other = self.newer.filter(|newer| !cut_off && newer.gap && newer.epoch_id != next.0);
        if let Some(newer) = other {
            let mut elsewhere = Repairs { certain: newer.certain, ..Repairs::default() };
            let start = Position { offset: 0, ..newer.at };
            self.note_damage(start, 0..newer.at.offset as usize, 0..0, &mut elsewhere);
        } else if cut_off || self.newer.is_some_and(|newer| newer.is_gap_behind(next)) {
            let end = end.min(bytes.len());
            let lost = lost_between(next, self.newer);
            self.note_damage(segment.end_position(), end..bytes.len(), lost, repairs);
        }
        self.newer = Some(first);
        if dense {
            let mut numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
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
            self.covered = number.saturating_sub(u64::from(dense.covers))..number;
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
            self.note_damage(here, offset + range.start..offset + range.end, 0..0, repairs);
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
            if let Some(found) = self.parked.get_mut(&number)
                && let Some(parked) = &mut found.parked
            {
                self.report.parked += 1;
                found.origin = Some(id);
                (parked.received_wall_ns, parked.bytes) = (received_wall_ns, bytes as u32);
            }
            segment.add(number, bytes);
            // Where its definition was lost an older segment may still have it: told once all are read.
            let origin = self.origins.entry(id).or_insert_with(|| FoundOrigin { lane, names: None, unsettled: 0 });
            origin.unsettled += 1;
            if origin.names.is_none() {
                self.defined_before.insert(id);
            }
        }
    }

    /// Bytes that should hold entries (`lost`, by their numbers, where those are known) and do not: damage below the watermark, else
    /// the traces of an unclean end.
    fn note_damage(&mut self, at: Position, range: Range<usize>, lost: Range<u64>, repairs: &mut Repairs) {
        if repairs.certain || at < self.durable.watermark {
            self.report.damaged += 1;
            let lost = match lost.end.checked_sub(1).filter(|last| *last >= lost.start) {
                Some(last) => format!(": entries {} to {last} are lost", lost.start),
                None => String::new(),
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
    fn apply(&mut self, entry: &super::format::Entry<'_>, records: &mut Vec<FoundRecord>) {
        let (header, payload) = (entry.header, entry.payload);
        self.number_max = self.number_max.max(header.number);
        match header.kind {
            Kind::Origin => {
                let Some(origin) = OriginPayload::decode(payload) else { return };
                self.origin_max = self.origin_max.max(origin.origin);
                self.lane_max = self.lane_max.max(header.lane);
                let found = self.origins.entry(origin.origin).or_insert(FoundOrigin {
                    lane: header.lane,
                    names: None,
                    unsettled: 0,
                });
                found.names.get_or_insert_with(|| (origin.source.to_owned(), origin.name.to_owned()));
            }
            Kind::Record => {
                let RecordPayload { origin, first_byte_wall_ns: received_wall_ns, .. } = RecordPayload::decode(payload);
                self.origin_max = self.origin_max.max(origin);
                self.lane_max = self.lane_max.max(header.lane);
                let (number, lane, bytes) = (header.number, header.lane, entry.bytes());
                records.push(FoundRecord { number, origin, lane, received_wall_ns, bytes });
            }
            Kind::Id => {
                let number = u64_at(payload, 0);
                if let Ok(id) = std::str::from_utf8(&payload[8..])
                    && !self.settled.contains(number)
                {
                    self.ids.entry(number).or_insert_with(|| id.into());
                }
            }
            Kind::Delivered => {
                for number in payload.chunks_exact(8) {
                    self.settled.insert(u64_at(number, 0));
                }
            }
            Kind::Parked => {
                let ParkedPayload { number, parked_wall_ns, status, attempts, answer } = ParkedPayload::decode(payload);
                let parked = Parked {
                    origin: OriginRef(u32::MAX),
                    received_wall_ns: 0,
                    parked_wall_ns,
                    status,
                    attempts,
                    answer: shown(answer),
                    id: None,
                    bytes: 0,
                    held: None,
                };
                self.say_parked(header.number, number, Some(parked));
            }
            Kind::Leased if header.number >= self.leased.0 => {
                let ranges = payload.chunks_exact(16).map(|range| u64_at(range, 0)..u64_at(range, 8));
                self.leased = (header.number, ranges.collect());
            }
            Kind::Leased => {}
            Kind::Retried => self.say_parked(header.number, u64_at(payload, 0), None),
            Kind::Discarded => {
                self.settled.insert(u64_at(payload, 0));
            }
        }
    }

    /// Entries are met in no order: the newest counts.
    fn say_parked(&mut self, said_in: u64, number: u64, parked: Option<Parked>) {
        let newer = self.parked.get(&number).is_none_or(|found| found.said_in <= said_in);
        if newer && !self.settled.contains(number) {
            self.parked.insert(number, FoundParked { said_in, parked, origin: None });
        }
    }

    fn finish(mut self, journal: &mut Journal) {
        let skipped = if self.report.clean { 0 } else { NUMBERS_SKIPPED };
        journal.next_number = self.number_max + 1 + skipped;
        journal.committed = journal.next_number;
        journal.next_segment = self.segment_max + 1;
        journal.first_own_segment = journal.next_segment;
        journal.next_origin = self.origin_max.wrapping_add(1);
        journal.next_lane = self.lane_max.wrapping_add(1);
        // Every segment was synced, now or by a clean stop. Where something is missing it must not pass for damage later.
        journal.watermark = match self.segments.last() {
            Some(last) if self.report.torn == 0 && self.unwritten_from.is_none() && self.unsynced_from.is_none() => {
                last.end_position()
            }

            _ => self.durable.newest,
        };
        let waiting = |number: u64| self.segments.iter().any(|segment| segment.is_waiting(number));
        journal.ids = self.ids.into_iter().filter(|(number, _)| waiting(*number)).collect();
        let mut origins: Vec<_> = self.origins.into_iter().filter(|(_, origin)| origin.unsettled > 0).collect();
        origins.sort_by_key(|(id, _)| *id);
        for (id, origin) in origins {
            if origin.names.is_none() {
                self.report.alarms.push(format!(
                    "who sent {} records is lost: they are delivered as from \"{UNKNOWN}\"",
                    origin.unsettled
                ));
            }
            let (source, name) = origin.names.unwrap_or_else(|| (UNKNOWN.to_owned(), UNKNOWN.to_owned()));
            let reference = journal.add_origin(id, origin.lane, &source, &name, false);
            for _ in 0..origin.unsettled {
                journal.add_unsettled(reference);
            }
        }
        // After any other end it is not known which of them were used.
        journal.is_leased = self.leased.0 > 0;
        journal.leased = if self.report.clean { self.leased.1 } else { Vec::new() };
        journal.segments = self.segments.into();
        for (number, FoundParked { parked, origin, .. }) in self.parked {
            // Without its record it was settled, or is lost.
            let Some((mut parked, origin)) = parked.zip(origin.and_then(|id| journal.origin_ids.get(&id))) else {
                continue;
            };
            parked.origin = *origin;
            parked.id = journal.ids.remove(&number);
            journal.origins[origin.0 as usize].parked += 1;
            journal.parked.insert(number, parked);
        }
        journal.define_again(self.defined_before);
        journal.report = self.report;
    }
}
