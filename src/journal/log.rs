//! The running journal of one directory: entries go into blocks, blocks into segments, settled
//! segments are freed.
//!
//! [`Journal`] is the conductor. It owns no bytes, lists or counts but through its owners, lends
//! one to the other for a call, and does by itself only what needs several. This file is about what
//! is asked of it at any time: new records, marks, ids, holds. The end of a turn, and completions,
//! are in `turn`.

use super::epoch::{EndMark, Epoch};
use super::format::{
    BLOCK_HEADER_BYTES, Kind, PARKED_PREFIX_BYTES, ParkedPayload, Position, RECORD_PREFIX_BYTES, RecordPayload,
    entry_bytes, u32_at,
};
use super::inventory::{Held, HeldOrigin, Inventory};
use super::keys::{FoundKey, KEY_HASHES_BYTES, KeyHashes, Keys, Known};
use super::ledger::{
    ANSWER_BYTES_MAX, Identity, Leased, Ledger, Lies, ORIGIN_ENTRY_BYTES_MAX, Origin, OriginRef, Parked, Refused,
    SaidIn, Unparked, shown,
};
use super::losses::Loss;
use super::moving::Moving;
use super::recovery::write_epoch;
use super::returning::Numbers;
use super::rewriting::Rewriting;
use super::scan::{Found, Log, Scan, Step};
use super::segments::{Segment, Segments};
use super::trouble::Troubles;
use super::window::{Location, RecordView, Window};
use super::writer::Writer;
use super::{BlockFile, Claim, Full, IN_MEMORY, NO_LANE, Ops, Options, Purpose, Report, Scarce, Storage};
use crate::config::Durability;
use crate::ground::count::Counters;
use crate::ground::{CoreId, KeptHeaders, LaneNumber, Now, RecordNumber};
use crate::observe::losses::{Acknowledged, LossNews, LossSnapshot};
use crate::observe::snapshot::JournalSnapshot;
use std::io;
use std::ops::Range;

/// A disk that takes longer for a block is said to be slow, if that keeps records out.
const SLOW_DISK_NS: u64 = 2_000_000_000;

/// A record to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Who sent it.
    pub origin: OriginRef,
    /// Frame flags.
    pub flags: u8,
    /// When its first byte was read, in nanoseconds since 1970.
    pub first_byte_wall_ns: u64,
    /// From its first byte to the end of its frame, in microseconds.
    pub frame_us: u32,
    /// The machine's own Idempotency-Key, or nothing.
    pub key: &'a [u8],
    /// What that is known by from now on, if it is remembered.
    pub hashes: Option<&'a KeyHashes>,
    /// Headers of its request.
    pub headers: KeptHeaders<'a>,
    /// The record.
    pub data: &'a [u8],
}

/// A record that is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub number: RecordNumber,
    /// Where it is.
    pub at: Location,
}

/// Room for one record in the open block, as long as nothing else is asked of the journal.
#[derive(Debug)]
#[must_use = "room is given to the next record"]
pub struct Room {
    /// Of hashes, headers, key and data.
    bytes: usize,
}

/// What says of a directory's start how it ends.
#[derive(Debug, Default)]
pub(super) struct ThisStart {
    /// Name of the block file in [`Storage`]; `None` at level `memory`.
    pub block_name: Option<String>,
    pub epoch_id: u128,
    /// The epoch file's contents.
    pub record: Vec<u8>,
}

/// What a journal begins with.
pub(super) struct Owners {
    pub window: Window,
    pub writer: Writer,
    pub segments: Segments,
    pub ledger: Ledger,
    pub keys: Keys,
    pub moving: Moving,
    pub rewriting: Rewriting,
}

/// The journal of one directory: it lets its owners work together, and owns what is said of all of
/// them.
#[derive(Debug)]
pub struct Journal {
    pub(super) options: Options,
    start: ThisStart,
    pub(super) window: Window,
    pub(super) writer: Writer,
    pub(super) segments: Segments,
    pub(super) ledger: Ledger,
    pub(super) keys: Keys,
    pub(super) rewriting: Rewriting,
    pub(super) moving: Moving,
    pub(super) troubles: Troubles,
    pub(super) counters: Counters,
    report: Report,
    /// Turns, so that a large journal is not checked in each.
    pub(super) turns: u32,
}

/// Bytes of a record's hashes, headers, key and data.
fn bytes_of(record: &NewRecord<'_>) -> usize {
    let hashes_bytes = record.hashes.map_or(0, |_| KEY_HASHES_BYTES);
    hashes_bytes + record.headers.as_bytes().len() + record.key.len() + record.data.len()
}

impl Journal {
    /// A journal over what recovery has made of a directory.
    pub(super) fn new(options: Options, start: ThisStart, owners: Owners, report: Report) -> Self {
        let Owners { window, writer, segments, ledger, keys, moving, rewriting } = owners;
        Self {
            start,
            window,
            writer,
            segments,
            ledger,
            keys,
            rewriting,
            moving,
            troubles: Troubles::new(options.core),
            counters: Counters::default(),
            report,
            turns: 0,
            options,
        }
    }

    // ---- what it is

    /// The block memory; an operation's `memory_offset` counts from its start.
    pub fn memory(&self) -> &BlockFile {
        self.window.memory()
    }

    /// The core whose directory this is; part of every key.
    pub fn core(&self) -> CoreId {
        self.options.core
    }

    /// The random id of this start.
    pub fn epoch_id(&self) -> u128 {
        self.start.epoch_id
    }

    /// What was found at start.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The level.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    pub(super) fn on_disk(&self) -> bool {
        self.options.durability != Durability::Memory
    }

    /// Whether intake may begin: the first segment is ready, or it is known that it cannot be made
    /// for now, and records are refused until it can.
    pub fn is_ready(&self) -> bool {
        !self.on_disk() || self.segments.is_first_ready() || self.troubles.stop_intake()
    }

    /// Whether room is kept for senders that cannot be held back: a share of the segments, and one of
    /// the window.
    pub fn set_reserve(&mut self, is_kept: bool) {
        self.segments.set_reserve(is_kept);
        self.window.set_reserve(is_kept);
    }

    /// Whether more has come than the disk takes at this moment: whoever sends next would wait for a
    /// commit of all that, or for room.
    pub fn is_disk_behind(&self) -> bool {
        let is_behind = self.writer.is_behind() || self.segments.is_making_behind();
        is_behind && self.on_disk() && !self.troubles.stop_intake()
    }

    /// Whether the disk refuses what records need.
    pub fn is_in_trouble(&self) -> bool {
        self.troubles.stop_intake()
    }

    /// What is wrong with the disk, in words.
    pub fn trouble(&self) -> Option<String> {
        self.troubles.describe()
    }

    /// The number of the entry that comes next.
    pub fn next_number(&self) -> RecordNumber {
        self.writer.next_number()
    }

    /// Entries below this number have reached the configured level.
    pub fn durable_below(&self) -> RecordNumber {
        self.writer.durable_below()
    }

    /// What is left of it, where more than three quarters are taken; `None` at level `memory`.
    pub fn scarcity(&self) -> Option<Scarce> {
        if self.on_disk() { self.segments.scarcity() } else { None }
    }

    /// Whether an entry reaches the configured level by a commit, and not by its copy into block
    /// memory.
    pub fn acknowledges_commits(&self) -> bool {
        self.writer.acknowledges_commits()
    }

    /// Block memory is lost with the process.
    pub(super) fn acknowledge_commits(&mut self) {
        self.writer.acknowledge_commits();
    }

    /// Adds its own counts to a shard's and starts again from zero.
    pub fn take_counters(&mut self, into: &mut Counters) {
        self.counters.journal_errors += self.troubles.take_errors();
        into.add(&std::mem::take(&mut self.counters));
    }

    /// Adds what it is now.
    pub fn snapshot(&self, now: Now, into: &mut JournalSnapshot) {
        into.segments += self.segments.count() as u64;
        into.bytes += self.segments.bytes();
        into.window_bytes += self.window.used_bytes();
        if let Some(since_ns) = self.writer.uncommitted_since_ns() {
            into.commit_age_s = into.commit_age_s.max(now.mono_ns.saturating_sub(since_ns) as f64 / 1e9);
        }
        if into.problem.is_none() {
            into.problem = self.troubles.describe();
        }
        into.losses.extend(self.losses_shown());
    }

    /// Why records are not taken though the disk does not refuse, in words; `None` where that is a
    /// matter of a moment.
    pub fn why_paused(&self, now: Now) -> Option<String> {
        let since_ns = self.writer.uncommitted_since_ns();
        let waited_ns = since_ns.map_or(0, |since_ns| now.mono_ns.saturating_sub(since_ns));
        if !self.on_disk() || self.segments.is_full() {
            Some("the journal is full: reading pauses until records are delivered".to_owned())
        } else if self.segments.is_down_to_reserve() {
            Some("the journal is full but for what is kept for lines without flow control: other reading pauses until records are delivered".to_owned())
        } else if waited_ns >= SLOW_DISK_NS {
            let seconds = waited_ns / 1_000_000_000;
            Some(format!(
                "the disk is slow: a block has waited {seconds} s to be written, and reading pauses until it is"
            ))
        } else {
            None
        }
    }

    // ---- origins

    /// A new lane's number.
    pub fn new_lane(&mut self) -> LaneNumber {
        self.ledger.new_lane()
    }

    /// A new origin in a lane. Its source and name have at most 256 bytes each.
    pub fn open_origin(&mut self, lane: LaneNumber, who: Identity) -> OriginRef {
        self.ledger.open_origin(lane, who)
    }

    /// Nobody will append to this origin any more; it goes with its last record.
    pub fn close_origin(&mut self, origin: OriginRef) {
        self.ledger.close_origin(origin);
    }

    /// An origin in use.
    pub fn origin(&self, origin: OriginRef) -> &Origin {
        self.ledger.origin(origin)
    }

    /// All origins, at start those of recovered records, and how many of each wait to be delivered.
    pub fn origins(&self) -> impl Iterator<Item = (OriginRef, &Origin, u64)> {
        self.ledger.origins()
    }

    /// Records of an origin that wait to be delivered.
    pub fn pending_of(&self, origin: OriginRef) -> u64 {
        self.ledger.pending_of(origin)
    }

    /// Records that wait to be delivered. It looks at every origin.
    pub fn pending(&self) -> u64 {
        self.ledger.unsettled() - self.ledger.parked().count() as u64
    }

    /// Records that are neither delivered nor discarded.
    pub fn unsettled(&self) -> u64 {
        self.ledger.unsettled()
    }

    // ---- entries

    /// Room for a record whose headers, key and data, with the hashes of a key that is remembered, come to `bytes` at
    /// most. Asked once a record: [`Journal::append_in`] takes it.
    ///
    /// # Errors
    /// [`Full`]: no record of such a sender is taken now.
    pub fn room_for(&mut self, now: Now, claim: Claim, bytes: usize) -> Result<Room, Full> {
        let bytes_max = entry_bytes(RECORD_PREFIX_BYTES + bytes) + ORIGIN_ENTRY_BYTES_MAX;
        self.make_room(now, bytes_max, Purpose::Intake(claim))?;
        Ok(Room { bytes })
    }

    /// As [`Journal::room_for`], right behind a record for which room was made in the same call:
    /// that has changed nothing but the open block, so nothing else is looked at where that has
    /// room.
    ///
    /// # Errors
    /// [`Full`]: no record is taken now.
    pub fn room_behind(&mut self, now: Now, claim: Claim, bytes: usize) -> Result<Room, Full> {
        let entries_bytes = entry_bytes(RECORD_PREFIX_BYTES + bytes) + ORIGIN_ENTRY_BYTES_MAX;
        match self.writer.is_open() && self.writer.has_room(entries_bytes, self.options.block_bytes) {
            true => Ok(Room { bytes }),
            false => self.room_for(now, claim, bytes),
        }
    }

    /// Whether a record of up to `bytes`, the machine's own key included, would be taken now, of a
    /// sender that can be held back.
    pub fn can_append(&mut self, now: Now, bytes: usize) -> bool {
        self.room_for(now, Claim::Waits, bytes).is_ok()
    }

    /// Copies a record into the open block. From now on it survives what the level promises once
    /// [`Journal::durable_below`] has passed its number.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed; try again when [`Journal::can_append`] holds.
    pub fn append_record(&mut self, now: Now, record: NewRecord<'_>) -> Result<Appended, Full> {
        let room = self.room_for(now, Claim::Waits, bytes_of(&record))?;
        Ok(self.append_in(now, room, record))
    }

    /// As [`Journal::append_record`], into room that was made just before.
    pub fn append_in(&mut self, now: Now, room: Room, record: NewRecord<'_>) -> Appended {
        let bytes = bytes_of(&record);
        assert!(bytes <= room.bytes, "a record of {bytes} bytes, and room for {}", room.bytes);
        let (origin, is_new) = self.ledger.count_in(record.origin, self.writer.open_at());
        let (id, lane) = (origin.id, origin.lane);
        if is_new {
            self.define_origin(record.origin);
        }
        let hashes = record.hashes.map(|hashes| hashes.encode());
        let body_hash = if record.key.is_empty() { 0 } else { crc32c::crc32c(record.data) };
        let prefix = RecordPayload {
            first_byte_wall_ns: record.first_byte_wall_ns,
            frame_us: record.frame_us,
            origin: id,
            key: record.key,
            body_hash,
            hashes: hashes.as_ref(),
            headers: record.headers,
            data: record.data,
        }
        .encode_prefix();
        let (number, at) = match &hashes {
            hashes if !record.headers.is_empty() => {
                let hashes = hashes.as_ref().map_or(&[][..], |hashes| &hashes[..]);
                let parts = [&prefix[..], hashes, record.headers.as_bytes(), record.key, record.data];
                self.writer.write_entry(&self.window, Kind::Record, record.flags, lane, &parts)
            }
            None => {
                let parts = [&prefix[..], record.key, record.data];
                self.writer.write_entry(&self.window, Kind::Record, record.flags, lane, &parts)
            }
            Some(hashes) => {
                let parts = [&prefix[..], hashes, record.key, record.data];
                self.writer.write_entry(&self.window, Kind::Record, record.flags, lane, &parts)
            }
        };
        if let Some(hashes) = record.hashes {
            self.keys.take(now, *hashes, number);
        }
        self.segments.add(number, entry_bytes(RECORD_PREFIX_BYTES + bytes));
        Appended { number, at }
    }

    // ---- machines' keys

    /// Whether machines' keys are remembered.
    pub fn remembers_keys(&self) -> bool {
        self.keys.is_on()
    }

    /// What is known of a machine's key.
    pub fn find_key(&mut self, now: Now, hashes: KeyHashes) -> Option<Known> {
        self.keys.find(now, hashes)
    }

    /// The keys that are remembered, for another journal.
    pub fn found_keys(&self) -> impl Iterator<Item = FoundKey> {
        self.keys.found()
    }

    /// Remembers keys of other journals, too, before anything else is asked of it.
    pub fn import_keys(&mut self, found: impl Iterator<Item = FoundKey>) {
        self.keys.import(found);
    }

    /// Whether all keys that it remembers are on disk in this journal.
    pub fn has_its_keys(&self) -> bool {
        !self.keys.has_unsaid() && self.keys.is_said_below(self.writer.committed())
    }

    /// Another journal remembers its keys.
    pub fn forget_keys(&mut self) {
        self.keys.forget();
    }

    /// Writes down who an origin is, in the block that is being filled. Room was made.
    pub(super) fn define_origin(&mut self, reference: OriginRef) {
        let origin = self.ledger.define(reference, self.writer.open_at());
        let payload = origin.payload();
        let (prefix, [source, name, encoding]) = (payload.encode_prefix(), payload.texts());
        let parts = [&prefix[..], source, name, encoding];
        self.writer.write_entry(&self.window, Kind::Origin, 0, origin.lane, &parts);
    }

    /// Appends an entry that is of no lane, and for which room is reserved; its number. Nothing at
    /// level `memory`, where no start reads it.
    fn write_progress(&mut self, now: Now, kind: Kind, parts: &[&[u8]]) -> Result<Option<RecordNumber>, Full> {
        if !self.on_disk() {
            return Ok(None);
        }
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.make_room(now, entry_bytes(bytes), Purpose::Progress)?;
        let (number, _) = self.writer.write_entry(&self.window, kind, 0, NO_LANE, parts);
        Ok(Some(number))
    }

    /// Writes down the sequence id of a record, before it is used.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken; the id must not be used yet.
    pub fn append_id(&mut self, now: Now, number: RecordNumber, id: &str) -> Result<(), Full> {
        self.write_progress(now, Kind::Id, &[&number.0.to_le_bytes(), id.as_bytes()]).map(drop)
    }

    /// Writes down which ids a service gave ahead are not used yet, before one of them is. `origin`
    /// tells services apart.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken; none of them must be used yet.
    pub fn append_leased(&mut self, now: Now, origin: u64, ids: impl Iterator<Item = Range<u64>>) -> Result<(), Full> {
        self.write_leased(now, origin, 0, ids)
    }

    /// `left_by`: the epoch that leaves these ids to the next start, by the low half of its id; 0
    /// while ids may still be used.
    fn write_leased(
        &mut self,
        now: Now,
        origin: u64,
        left_by: u64,
        ids: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), Full> {
        let numbers = [origin, left_by].into_iter().chain(ids.flat_map(|ids| [ids.start, ids.end]));
        let payload: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        if self.write_progress(now, Kind::Leased, &[&payload])?.is_some() {
            self.ledger.note_leased();
        }
        Ok(())
    }

    /// What a clean end writes down of ids that were given ahead, or that there are none: not
    /// before that is done is the journal flushed.
    pub fn leave_leased(&mut self, leased: Leased, is_leasing: bool) {
        if self.on_disk() {
            self.ledger.leave_leased(leased, is_leasing);
        }
    }

    pub(super) fn write_left_leased(&mut self, now: Now) {
        if let Some(leased) = self.ledger.left_to_write().take()
            && self.write_leased(now, leased.origin, self.start.epoch_id as u64, leased.ids.iter().cloned()).is_err()
        {
            *self.ledger.left_to_write() = Some(leased);
        }
    }

    /// Ids that the last run was given ahead, did not use, and wrote down at its clean end. They
    /// are not here a second time.
    pub fn take_leased(&mut self) -> Option<Leased> {
        self.ledger.take_leased()
    }

    /// The id that an earlier start wrote down for a record.
    pub fn recovered_id(&self, number: RecordNumber) -> Option<&str> {
        self.ledger.id(number)
    }

    /// A record was delivered. Its hold is released; the mark is written at the end of the turn.
    pub fn settle(&mut self, number: RecordNumber, origin: OriginRef, at: Location) {
        if self.on_disk() {
            let bytes = entry_bytes(u32_at(self.window.bytes(at), 4) as usize);
            self.segments.settle(number, bytes, self.window.extent(at.extent).segment);
            self.ledger.mark(number);
        }
        self.ledger.settle(number, origin);
        self.window.release(at);
    }

    /// Delivered records whose mark is not in a block yet: those of this turn, and in a full
    /// journal more. After a kill they are delivered again.
    pub fn marks_in_memory(&self) -> usize {
        self.ledger.marks().len()
    }

    // ---- records that are kept aside

    /// Keeps a record aside. Its hold is released.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn park(
        &mut self,
        now: Now,
        number: RecordNumber,
        (origin, at): (OriginRef, Location),
        id: Option<&str>,
        refused: Refused<'_>,
    ) -> Result<(), Full> {
        let answer = &refused.answer[..refused.answer.len().min(ANSWER_BYTES_MAX)];
        let Refused { status, attempts, .. } = refused;
        let prefix = ParkedPayload { number, parked_wall_ns: now.wall_ns, status, attempts, answer }.encode_prefix();
        let said_in = self.write_progress(now, Kind::Parked, &[&prefix, answer])?;
        let said_bytes = entry_bytes(PARKED_PREFIX_BYTES + answer.len()) as u32;
        let bytes = entry_bytes(u32_at(self.window.bytes(at), 4) as usize);
        let received_wall_ns = self.window.record(at).payload.first_byte_wall_ns;
        // What is not on disk is kept here, but not in its slot, which many others lie in.
        let held = (!self.on_disk()).then(|| self.window.keep_aside(at, bytes));
        let parked = Parked {
            origin,
            received_wall_ns,
            parked_wall_ns: now.wall_ns,
            status,
            attempts,
            answer: shown(answer),
            id: id.or(self.ledger.id(number)).map(Into::into),
            bytes: bytes as u32,
            said_in: said_in.map(|number| SaidIn { number, bytes: said_bytes }),
            held,
        };
        self.ledger.park(number, parked);
        if held.is_none() {
            self.window.release(at);
        }
        Ok(())
    }

    /// Records that are kept aside, by number.
    pub fn parked(&self) -> impl Iterator<Item = (RecordNumber, &Parked)> {
        self.ledger.parked()
    }

    /// One that is kept aside.
    pub fn parked_record(&self, number: RecordNumber) -> Option<&Parked> {
        self.ledger.parked_record(number)
    }

    /// A record that was kept aside is to be delivered, under its key and with its id. `None` where
    /// it is not kept aside.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn unpark(&mut self, now: Now, number: RecordNumber) -> Result<Option<Unparked>, Full> {
        if self.parked_record(number).is_none() {
            return Ok(None);
        }
        self.write_progress(now, Kind::Retried, &[&number.0.to_le_bytes()])?;
        let Parked { origin, held, .. } = self.ledger.unpark(number);
        let behind = || self.segments.holder(number).map_or_else(|| self.oldest(), |segment| segment.first_position());
        Ok(Some(Unparked { origin, at: held.map_or_else(|| Lies::Behind(behind()), Lies::Held) }))
    }

    /// A record that was kept aside is deleted. Whether it was there.
    ///
    /// # Errors
    /// [`Full`] while even the reserved room is taken: nothing was changed.
    pub fn discard(&mut self, now: Now, number: RecordNumber) -> Result<bool, Full> {
        if self.parked_record(number).is_none() {
            return Ok(false);
        }
        self.write_progress(now, Kind::Discarded, &[&number.0.to_le_bytes()])?;
        let parked = self.ledger.discard(number);
        if self.on_disk() {
            self.segments.settle_anywhere(number, parked.bytes as usize);
        }
        if let Some(at) = parked.held {
            self.window.release(at);
        }
        Ok(true)
    }

    // ---- the window

    /// Whether a record that is not held is found again by a [`Scan`]; at level `memory` there is
    /// nothing to read it from.
    pub fn reads_back(&self) -> bool {
        self.on_disk()
    }

    /// Whether the window has room for records that are to stay in memory until they are delivered.
    pub fn has_window_room(&self) -> bool {
        self.window.has_room()
    }

    /// Whether reading back waits for memory.
    pub fn is_window_tight(&self) -> bool {
        self.window.is_heap_full()
    }

    /// Extents that one lane may pin, so that a stalled one cannot fill the window.
    pub fn lane_extents_max(&self) -> u32 {
        self.window.lane_extents_max()
    }

    /// Keeps a record in memory until [`Journal::release`] or [`Journal::settle`].
    pub fn hold(&mut self, at: Location) {
        self.window.hold(at);
    }

    /// The opposite of [`Journal::hold`].
    pub fn release(&mut self, at: Location) {
        self.window.release(at);
    }

    /// A held record.
    pub fn record(&self, at: Location) -> RecordView<'_> {
        self.window.record(at)
    }

    // ---- behind the window

    /// Where everything that is still to be delivered begins, or later.
    pub fn oldest(&self) -> Position {
        self.segments.oldest()
    }

    /// The block in which a record at `at` lies or one before it, as a place to start a scan from.
    pub fn position(&self, at: Location) -> Position {
        self.window.position(&self.segments, at)
    }

    /// Starts a walk at the beginning of a block.
    pub fn start_scan(&mut self, scan: &mut Scan, at: Position) {
        scan.start(&mut self.window, &self.segments, at);
    }

    /// One step of a walk: appends the waiting records of the next block to `found`. They are not
    /// held yet.
    pub fn scan(&mut self, now: Now, scan: &mut Scan, found: &mut Vec<Found>, ops: &mut Ops<'_>) -> Step {
        let was_reading = scan.is_reading();
        let step = scan.step(now, &mut self.lend(), found, ops);
        self.counters.journal_read_backs += u64::from(scan.is_reading() && !was_reading);
        step
    }

    pub(super) fn lend(&mut self) -> Log<'_> {
        let Self { window, segments, writer, ledger, rewriting, .. } = self;
        Log { window, segments, writer, ledger, rewriting }
    }

    // ---- room

    /// Sees to it that the open block has room for `bytes`.
    pub(super) fn make_room(&mut self, now: Now, bytes: usize, purpose: Purpose) -> Result<(), Full> {
        let slot_bytes = self.options.block_bytes;
        assert!(BLOCK_HEADER_BYTES + bytes <= slot_bytes as usize, "limits keep entries below a block");
        if let Purpose::Intake(claim) = purpose {
            self.takes_records(claim)?;
        }
        if self.writer.is_open() {
            if self.writer.has_room(bytes, slot_bytes) {
                return Ok(());
            }
            self.seal();
        }
        if let Some(current) = self.window.current() {
            let start = self.window.extent(current).end;
            if start as usize + BLOCK_HEADER_BYTES + bytes <= slot_bytes as usize {
                self.writer.open(now, &self.window, &self.segments);
                return Ok(());
            }
            self.window.leave_current();
        }
        self.begin_extent(purpose)?;
        self.writer.open(now, &self.window, &self.segments);
        Ok(())
    }

    /// Whether records may be taken, also into a block that has room: it may be one of the reserve.
    fn takes_records(&self, claim: Claim) -> Result<(), Full> {
        let reserve = self.window.reserve_slots();
        if reserve > 0 && claim == Claim::Waits && !self.window.has_slot(reserve + usize::from(self.on_disk())) {
            return Err(self.no_slot());
        }
        if !self.on_disk() {
            return Ok(());
        }
        if self.troubles.stop_intake() {
            return Err(Full::Lasting);
        }
        if self.moving.is_due() {
            return Err(Full::Passing);
        }
        self.segments.take_records(claim)
    }

    /// Waiting records never have all slots, but for level `memory`: the others are being written.
    fn no_slot(&self) -> Full {
        if self.on_disk() { Full::Passing } else { Full::Lasting }
    }

    /// Takes a free slot for the next piece of the log.
    fn begin_extent(&mut self, purpose: Purpose) -> Result<(), Full> {
        // One is for ids and marks, some are for senders that cannot wait, ...
        let behind = match purpose {
            Purpose::Intake(Claim::Waits) => 1 + self.window.reserve_slots(),
            Purpose::Intake(Claim::CannotWait) => 1,
            Purpose::Progress => 0,
        };
        // ... and one is for moving what a failed segment did not take.
        if !self.window.has_slot(behind + usize::from(self.on_disk())) {
            return Err(self.no_slot());
        }
        let next_number = self.writer.next_number();
        let at = match self.on_disk() {
            true => self.segments.next_place(purpose, next_number, self.options.block_bytes)?,
            false => Position { segment: IN_MEMORY, offset: 0 },
        };
        self.window.begin(at, self.start.epoch_id);
        Ok(())
    }

    pub(super) fn seal(&mut self) {
        self.writer.seal(&mut self.window, &mut self.segments);
    }

    // ---- what is missing

    /// Records that were found to be missing, until that is acknowledged.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.ledger.losses.open()
    }

    /// The same, as it is shown.
    pub fn losses_shown(&self) -> Vec<LossSnapshot> {
        self.losses().map(|loss| loss.shown(self.core())).collect()
    }

    /// An operator knows of losses, or records of them came back. It is written down in the next
    /// turn. How much that was.
    pub fn acknowledge_losses(&mut self, news: &LossNews) -> Acknowledged {
        let core = self.core();
        let is_meant = |loss: &Loss| match news {
            LossNews::All => true,
            LossNews::Seen(seen) => seen.iter().any(|seen| seen.is_same(&loss.shown(core))),
            LossNews::Returned { .. } => false,
        };
        if let LossNews::Returned { core: of, records, losses } = news {
            let is_meant = |loss: &Loss| *of == core.0 && losses.iter().any(|was| was.is_same(&loss.shown(core)));
            let (losses, records) = self.ledger.losses.bring_back(&Numbers(records.clone()), is_meant);
            return Acknowledged { losses, records, exact: true };
        }
        let mut acknowledged = Acknowledged::default();
        let meant = self.ledger.losses.acknowledge(is_meant);
        meant.iter().for_each(|loss| acknowledged.count(&loss.shown(core)));
        acknowledged
    }

    /// Whether an acknowledgement is not durable yet.
    pub fn is_acknowledging(&self) -> bool {
        self.ledger.losses.is_acknowledging()
    }

    /// Writes the losses down where that is due. What there is no room for is written later.
    pub(super) fn write_losses(&mut self, now: Now) {
        let current = self.segments.current_number();
        let Self { ledger, segments, .. } = self;
        if let Some(oldest) = segments.at(0) {
            ledger.losses.forget_before(oldest.first_number);
        }
        let is_there = |number| segments.holder(number).is_some_and(|holder| holder.number == current);
        if let Some(payload) = ledger.losses.payload_due(now.wall_ns, is_there)
            && let Ok(Some(number)) = self.write_progress(now, Kind::Losses, &[&payload])
        {
            self.ledger.losses.written(number);
        }
        let durable_below = self.durable_below();
        self.ledger.losses.forget(durable_below);
    }

    // ---- the end

    /// Ends a journal that [`is_flushed`](Self::is_flushed): everything is made durable, the epoch
    /// is closed, its block file removed.
    ///
    /// # Errors
    /// Those of the storage; the next start then recovers as after a kill.
    pub fn close(self, storage: &mut impl Storage) -> io::Result<()> {
        let ThisStart { block_name: Some(name), record, .. } = &self.start else { return Ok(()) };
        // Those of earlier starts too: below level `power` nobody may have synced them.
        for segment in self.segments.iter() {
            match storage.sync_segment(segment.number) {
                // What could be saved of it was, and the rest was told when it failed.
                Err(_) if segment.failed => {}
                result => result?,
            }
        }
        let (mut epoch, _) = Epoch::decode(record).expect("encoded at start");
        epoch.closed = true;
        epoch.end = Some(self.end_mark());
        write_epoch(storage, &epoch, &self.inventory().encode())?;
        if self.ledger.leaves_ids() {
            storage.leave_token(&epoch.token_name())?;
        }
        storage.remove_blocks(name)
    }
    fn end_mark(&self) -> EndMark {
        EndMark {
            next: self.writer.next_number(),
            at: self.segments.last().map_or(Position::default(), Segment::end_position),
            segments: self.segments.count() as u32,
            pending: self.ledger.unsettled(),
        }
    }

    pub(super) fn inventory(&self) -> Inventory {
        let mut inventory = Inventory::default();
        for segment in self.segments.iter() {
            let &Segment { number, nonce, first_number, physical, start, end, .. } = segment;
            inventory.segments.push(Held { number, nonce, first_number, physical, start, end });
            segment.waiting().for_each(|number| inventory.add_waiting(number));
        }
        let origins = self.ledger.waiting_origins();
        inventory.origins =
            origins.map(|origin| HeldOrigin { id: origin.id, lane: origin.lane, who: origin.who.clone() }).collect();
        inventory
    }
}
