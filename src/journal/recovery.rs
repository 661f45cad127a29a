//! What happens at start: the epochs are read, the writes that a killed process left unfinished are finished from its block
//! file, the segments are walked from the newest to the oldest (marks lie behind what they settle), and a new epoch begins.
//!
//! An unfinished block is written at its own place: the bytes are those that the dead process submitted or was about to submit,
//! so a late write of it changes nothing, and positions keep the order of numbers. New entries always go to new segments.
//! Where that cannot be done (the segment's file was never made, or the disk refuses), the blocks are taken over into the new
//! block file, and the running log writes them as it writes its own.

mod aside;
mod batches;
mod durable;
mod gone;
mod keys;
mod missing;
mod read;
mod unwritten;
mod walk;

use self::aside::Aside;
use self::batches::Batches;
use self::durable::{Durable, Neighbour};
use self::keys::FoundKeys;
use self::missing::{FoundLosses, Lost, Stop};
use self::unwritten::Refused;
pub(super) use self::unwritten::{Missing, Refusal, Unwritten};
use self::walk::{Torn, Walked};
use super::epoch::Epoch;
use super::format::{BLOCK_HEADER_BYTES, BlockHeader, Position, SEGMENT_MAGIC, Seal};
use super::inventory::Inventory;
use super::keys::Keys;
use super::ledger::{Identity, Ledger, SenderKinds};
use super::log::{Owners, ThisStart};
use super::losses::Loss;
use super::moving::Moving;
use super::returning::Numbers;
use super::rewriting::Rewriting;
use super::segments::{Maker, Segment, Segments, SparseBits};
use super::stamp::{self, OLDEST_VERSION, Stamp, VERSION};
use super::storage::is_full;
use super::unfinished::{self, BLOCK_FILE_HEADER_BYTES, Sealed, head, is_block_file};
use super::window::Window;
use super::writer::Writer;
use super::{BlockFile, Journal, LeftBlocks, Options, Storage};
use crate::config::Durability;
use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use thiserror::Error;

/// After an unclean end, numbers go on this much later, so that one that was lost is not used again.
const NUMBERS_SKIPPED: u64 = 1 << 20;
/// Numbers of origins and lanes, too.
const NAMES_SKIPPED: u32 = 1 << 12;

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
    /// Another version of ringest wrote it.
    #[error(
        "{file} is in format {version}, written by ringest {program}; this is ringest {}, which reads formats {} to {}. \
         Nothing was changed: run the version that wrote it, or a newer one",
        env!("CARGO_PKG_VERSION"), OLDEST_VERSION, VERSION
    )]
    Format {
        /// The file that says so.
        file: String,
        /// The format.
        version: u32,
        /// The version of the program that wrote it.
        program: String,
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
    /// Batches that were dropped, since a part of them was not there: nobody was answered.
    pub torn_batches: u64,
    /// Records that are missing.
    pub loss: Option<Loss>,
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
        let maker = Maker { epoch: 0, epoch_id, physical: storage.physical_block() };
        let start = ThisStart { epoch_id, ..ThisStart::default() };
        return Ok(Recovery::default().finish(options, start, maker, memory, seed, false));
    }
    refuse_other_formats(storage)?;
    let mut recovery = Recovery::default();
    recovery.keys.limit(options.keys.count);
    let (earlier, files) = recovery.read_epochs(storage)?;
    let last = earlier.last().copied();
    if !recovery.report.clean || files.is_empty() {
        doing("remove files that a killed process may still write to", storage.distrust_files())?;
    }
    let blocks = recovery.last_blocks(storage, last)?;
    recovery.read_segments(storage, options, blocks.as_ref().zip(last).map(|(file, epoch)| (&**file, epoch)))?;
    recovery.found_loss = recovery.loss();
    recovery.list_missing(storage, files.iter().max().map_or(1, |number| number + 1))?;
    recovery.report.loss = recovery.found_loss.filter(|loss| loss.records > 0);

    let mut epoch = Epoch {
        // A damaged file's number is not used again either: it is removed below.
        number: files.iter().max().map_or(1, |number| number + 1),
        id: storage.random(),
        boot_id: u128::from_le_bytes(storage.boot_id()),
        file_id: storage.random(),
        physical: storage.physical_block(),
        block_bytes: options.block_bytes,
        closed: false,
        end: None,
    };
    let name = epoch.block_name();
    let unwritten = recovery.take_unwritten(options, epoch.physical, last)?;
    let epochs = unwritten.epochs();
    // What is taken over may not use up the room for what is to come.
    let slots = slots.max(unwritten.slots.len() + slots / 4 + 4);
    let memory = doing("make the block file", storage.create_blocks(Some(&name), file_bytes(slots)))?;
    memory.write(0, &head(epoch.file_id, &epochs, storage.owner().as_ref()));
    let keeps_blocks = storage.keeps_blocks();
    if !keeps_blocks {
        // The old block file goes below: what only memory of this process had of it a kill would take.
        unwritten.refuse_without_file()?;
        epoch.file_id = 0;
    }
    recovery.report.epoch = epoch.number;
    let replaced = std::mem::take(&mut recovery.replaced);
    let is_heir = recovery.is_heir(storage, last)?;
    let start = ThisStart { block_name: Some(name.clone()), epoch_id: epoch.id, record: epoch.encode() };
    let maker = Maker { epoch: epoch.number, epoch_id: epoch.id, physical: epoch.physical };
    let mut journal = recovery.finish(options, start, maker, memory, seed, is_heir);
    if !keeps_blocks {
        journal.acknowledge_commits();
    }
    journal.take_over(unwritten);
    let inventory = journal.inventory().encode();
    doing("write the epoch file", write_epoch(storage, &epoch, &inventory))?;
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

/// Writes an epoch file with what there is; on a full disk there is room for the epoch alone.
pub(super) fn write_epoch(storage: &mut impl Storage, epoch: &Epoch, inventory: &[u8]) -> io::Result<()> {
    match storage.write_epoch(epoch.number, &epoch.encode_with(inventory)) {
        Err(error) if is_full(&error) => storage.write_epoch(epoch.number, &epoch.encode()),
        written => written,
    }
}

/// Looks at the stamp of every file before anything is read or mended: one that a newer version wrote
/// may mean something else by all that follows.
fn refuse_other_formats(storage: &mut impl Storage) -> Result<(), OpenError> {
    let refuse = |file: String, found: Option<Stamp>| match found {
        Some(Stamp { version, program }) => Err(OpenError::Format { file, version, program }),
        None => Ok(()),
    };
    let epochs = doing("read the epoch files", storage.epochs())?;
    for (number, bytes) in &epochs {
        refuse(format!("epoch file {number}"), Epoch::unreadable(bytes))?;
    }
    for (epoch, _) in epochs.iter().filter_map(|(_, bytes)| Epoch::decode(bytes)) {
        let name = epoch.block_name();
        let head = doing("look at the block file", storage.read_blocks_head(&name))?;
        refuse(format!("the block file {name}"), head.as_deref().and_then(unfinished::unreadable))?;
    }
    let mut head = Vec::new();
    for number in doing("list the segments", storage.segments())? {
        doing(format!("read segment {number}"), storage.read_segment_head(number, &mut head))?;
        refuse(format!("segment {number}"), stamp::unreadable(SEGMENT_MAGIC, &head))?;
    }
    Ok(())
}

/// What a walk over the segments gathers: 34 fields, since a start is one walk that sees everything once, and each part of it (in a file
/// of its own) adds to what the next one needs. It lives for one call and hands each owner of the log its part.
#[derive(Default)]
struct Recovery {
    report: Report,
    /// Whether there is any epoch file, whole or not.
    has_epochs: bool,
    /// Oldest first once the walk is done.
    segments: Vec<Segment>,
    settled: SparseBits,
    aside: Aside,
    keys: FoundKeys,
    batches: Batches,
    seen: SparseBits,
    origins: HashMap<u32, FoundOrigin, FixedState>,
    kinds: SenderKinds,
    ids: HashMap<RecordNumber, Box<str>>,
    /// Origins that are defined in an older segment than a record of theirs: a kill came between a move and their definition.
    defined_before: HashSet<u32>,
    durable: Durable,
    oldest_segment: SegmentNumber,
    /// The segments for which the dense one that was read last stands.
    covered: Range<SegmentNumber>,
    /// Those of them whose files are still there.
    replaced: Vec<SegmentNumber>,
    newer: Option<Neighbour>,
    /// The block file's blocks of the segments that were read so far, newest segment first.
    tail: Vec<Sealed>,
    /// From here on blocks are still to be written.
    unwritten_from: Option<Position>,
    missing: Vec<Missing>,
    /// A segment that was read has a file: older ones had one, too.
    follows_file: bool,
    /// A kill came while blocks were moved to the segment that is being read.
    is_move_cut_short: bool,
    refused: Option<Refused>,
    /// From here on writes that were found may not be durable: a sync failed.
    unsynced_from: Option<Position>,
    number_max: RecordNumber,
    segment_max: SegmentNumber,
    origin_max: u32,
    lane_max: LaneNumber,
    /// What the last run left at its clean stop, or found at its start.
    stop: Stop,
    lost: Vec<Lost>,
    losses: FoundLosses,
    /// Records that were delivered, and whose marks are to be written again.
    marks_lost: Vec<RecordNumber>,
    found_loss: Option<Loss>,
    /// Segments without a block, newer than the one that was read last, where some may be missing.
    empty: Vec<SegmentNumber>,
}

/// A segment's life.
#[derive(Debug, Clone, Copy)]
struct Life {
    number: SegmentNumber,
    nonce: u64,
    /// Unit of its blocks.
    physical: u32,
    /// The epoch that began it; 0 where that is not known.
    epoch_id: u128,
}

/// What is to be done with ranges of a segment after its walk.
#[derive(Debug, Default)]
struct Repairs {
    /// To be written.
    mended: Vec<Range<usize>>,
    /// Headers of blocks, to be put in place and written.
    headers: Vec<(usize, [u8; BLOCK_HEADER_BYTES])>,
    /// To be kept for an operator.
    damage: Vec<Range<usize>>,
    /// No damage, as far as is known.
    torn: Vec<Torn>,
    /// The segment's own header, where it was damaged.
    header: Option<Vec<u8>>,
    /// All of the segment was durable before it was part of the log: what is not whole is damage.
    certain: bool,
    /// It holds bytes that nobody could read.
    is_unread: bool,
}

impl Repairs {
    /// A block gets a header that says what was found of it.
    fn seal(&mut self, header: &BlockHeader, walked: &Walked) {
        let sealed = header.encode_sealed(Seal { used: walked.used, entries: walked.entries });
        self.headers.push((header.at.offset as usize, sealed));
    }
}

struct FoundOrigin {
    lane: LaneNumber,
    /// `None` while only records that refer to it were found.
    who: Option<Identity>,
    unsettled: u64,
}

/// Source and name of records whose origin was lost.
const UNKNOWN: &str = "unknown";

impl Recovery {
    /// Beside the files that could not be read to their ends: which records to look for in them. The start of an epoch lists them. An
    /// earlier start may have kept those files, and been killed before it listed anything: so each loss is listed.
    fn list_missing(&mut self, storage: &mut impl Storage, epoch: u64) -> Result<(), OpenError> {
        let is_loss = self.losses.kept || self.found_loss.is_some_and(|loss| loss.records > 0);
        let missing = if is_loss { self.missing() } else { Numbers::default() };
        if missing.count() == 0 {
            return Ok(());
        }
        match storage.quarantine(&format!("missing-{epoch:08x}"), &missing.encode()) {
            Err(error) if is_full(&error) => {
                self.report.alarms.push("no room for a list of what is missing: it cannot come back".to_owned());
                Ok(())
            }
            written => doing("list what is missing", written),
        }
    }

    /// Keeps a file that cannot be used. Where there is no room for that, the start goes on without it: what waits to be delivered
    /// is worth more.
    fn set_file_aside(
        &mut self,
        storage: &mut impl Storage,
        what: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        match storage.quarantine(name, bytes) {
            Err(error) if is_full(&error) => {
                self.report.alarms.push(format!("no room in quarantine for {what}: its bytes are not kept"));
                Ok(())
            }
            kept => doing(format!("quarantine {what}"), kept),
        }
    }

    /// All epochs, oldest first, and the numbers of their files.
    fn read_epochs(&mut self, storage: &mut impl Storage) -> Result<(Vec<Epoch>, Vec<u64>), OpenError> {
        let mut epochs: Vec<Epoch> = Vec::new();
        let mut files = Vec::new();
        let mut readable = true;
        let mut left: Option<(Epoch, Option<Inventory>)> = None;
        for (number, bytes) in doing("read the epoch files", storage.epochs())? {
            files.push(number);
            match Epoch::decode(&bytes).filter(|(epoch, _)| epoch.number == number) {
                Some((epoch, whole)) => {
                    if left.as_ref().is_none_or(|(newest, _)| newest.number < number) {
                        left = Some((epoch, Epoch::inventory(&bytes)));
                    }
                    epochs.push(epoch);
                    if whole {
                        continue;
                    }
                }
                None => readable = false,
            }
            self.report.alarms.push(format!("epoch file {number} is damaged"));
            self.set_file_aside(storage, &format!("epoch file {number}"), &format!("epoch-{number:08x}"), &bytes)?;
        }
        self.has_epochs = !files.is_empty();
        epochs.sort_by_key(|epoch| epoch.number);
        self.report.clean = readable && epochs.last().is_none_or(|epoch| epoch.closed);
        self.durable.closed = epochs.last().filter(|epoch| readable && epoch.closed).map(|epoch| epoch.id);
        if let Some((epoch, inventory)) = left.filter(|_| readable) {
            self.adopt_stop(&epoch, inventory);
        }
        Ok((epochs, files))
    }

    /// The block file that the last start left behind, if it can be trusted. One of another boot is dropped: a loss of power may
    /// have left any part of it, and promises nothing of it.
    fn last_blocks(&mut self, storage: &mut impl Storage, last: Option<Epoch>) -> Result<Option<BlockFile>, OpenError> {
        let boot_id = u128::from_le_bytes(storage.boot_id());
        let Some(epoch) = last.filter(|epoch| !epoch.closed && epoch.boot_id == boot_id) else { return Ok(None) };
        if !epoch.has_block_file() {
            self.report.alarms.push(
                "the last run was killed, and had its blocks in its own memory: what it had received and not yet written is lost"
                    .to_owned(),
            );
            return Ok(None);
        }
        let name = epoch.block_name();
        let Some(LeftBlocks { memory, unreadable_bytes }) = doing("open the block file", storage.open_blocks(&name))?
        else {
            self.report.alarms.push(format!(
                "the block file {name} of the last run is gone, though the machine was not restarted: what it held \
                 and the disk did not is lost"
            ));
            return Ok(None);
        };
        if unreadable_bytes > 0 {
            self.report.alarms.push(format!(
                "{unreadable_bytes} bytes of the block file {name} cannot be read: what they held and the disk did not is lost"
            ));
        }
        // Where its front cannot be read, its blocks say by themselves of which run they are.
        let is_front_lost = unreadable_bytes > 0 && unfinished::is_blank(&memory);
        if is_front_lost || is_block_file(&memory, epoch.file_id) {
            return Ok(Some(memory));
        }
        self.report.alarms.push(format!("the block file {name} is not of this journal: set aside"));
        self.set_file_aside(storage, &format!("the block file {name}"), &name, memory.bytes(0..memory.len()))?;
        Ok(None)
    }

    /// Whether the ids that the last start left are left to this one, and not to one in another copy of the directory.
    fn is_heir(&mut self, storage: &mut impl Storage, last: Option<Epoch>) -> Result<bool, OpenError> {
        let Some(epoch) = last.filter(|epoch| self.report.clean && self.aside.has_ids_of(epoch)) else {
            return Ok(false);
        };
        doing("look for what the last run left", storage.take_token(&epoch.token_name()))
    }

    /// The journal that goes on from what was found. `is_heir`: the last start left its ids to this one.
    fn finish(
        mut self,
        options: &Options,
        start: ThisStart,
        maker: Maker,
        memory: BlockFile,
        seed: u64,
        is_heir: bool,
    ) -> Journal {
        let is_on_disk = options.durability != Durability::Memory;
        // Level `memory` leaves nothing behind, and what it does not leave cannot come back.
        let is_clean = self.report.clean || !is_on_disk;
        let mut ledger = self.ledger(is_heir, is_clean);
        let skipped = if is_clean { 0 } else { NUMBERS_SKIPPED };
        let writer = Writer::new(
            options.durability,
            maker.epoch_id,
            maker.physical,
            self.number_max.plus(1 + skipped),
            self.watermark(),
        );
        if !is_clean {
            self.segments.iter_mut().for_each(|segment| segment.unfit = true);
        }
        let mut moving = Moving::default();
        moving.define_again(self.defined_before);
        ledger.losses.adopt(std::mem::take(&mut self.losses).take(), self.found_loss);
        let owners = Owners {
            window: Window::new(memory, options.block_bytes, maker.physical, is_on_disk),
            writer,
            segments: Segments::new(options, maker, self.segments, self.segment_max.next(), seed),
            ledger,
            keys: Keys::new(options.keys, self.keys.take()),
            moving,
            rewriting: Rewriting::new(options, maker),
        };
        Journal::new(options.clone(), start, owners, self.report)
    }

    /// Every segment was synced, now or by a clean stop. Where something is missing it must not pass for damage later.
    fn watermark(&self) -> Position {
        match self.segments.last() {
            Some(last) if self.report.torn == 0 && self.unwritten_from.is_none() && self.unsynced_from.is_none() => {
                last.end_position()
            }
            _ => self.durable.newest,
        }
    }

    /// Who has records that wait, with which ids, and which of them are kept aside.
    fn ledger(&mut self, is_heir: bool, is_clean: bool) -> Ledger {
        // A write of a killed process that lands now may bring origins and lanes of its own.
        let skipped = if is_clean { 0 } else { NAMES_SKIPPED };
        let mut ledger = Ledger::new(self.origin_max.wrapping_add(1 + skipped), self.lane_max.plus(1 + skipped));
        let waiting = |number: RecordNumber| self.segments.iter().any(|segment| segment.is_waiting(number));
        let ids = std::mem::take(&mut self.ids);
        ledger.adopt_ids(ids.into_iter().filter(|(number, _)| waiting(*number)).collect());
        let origins = std::mem::take(&mut self.origins);
        let mut origins: Vec<_> = origins.into_iter().filter(|(_, origin)| origin.unsettled > 0).collect();
        origins.sort_by_key(|(id, _)| *id);
        for (id, origin) in origins {
            let who = origin.who.or_else(|| self.stop.origins.remove(&id)).unwrap_or_else(|| {
                self.report.alarms.push(format!(
                    "who sent {} records is lost: they are delivered as from \"{UNKNOWN}\"",
                    origin.unsettled
                ));
                Identity::new(UNKNOWN, UNKNOWN)
            });
            ledger.adopt_origin(id, origin.lane, who, origin.unsettled);
        }
        std::mem::take(&mut self.aside).finish(is_heir, &mut ledger);
        self.marks_lost.iter().for_each(|number| ledger.mark(*number));
        ledger
    }
}
