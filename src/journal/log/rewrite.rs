//! Rewriting a run of segments densely. Segments are freed oldest first; where one old record stays unsettled (a lane that stands still),
//! all behind it would stay. So when the journal is more than three quarters full, the longest run of segments whose unsettled
//! records fit into one segment is read piece by piece, and what is still of use is written to a new file, which then takes the place
//! of the run's last segment. The others are freed.
//!
//! What is of use: unsettled records, who sent them, their ids, and marks that settle records of older segments. Numbers, epochs
//! and order stay. Each block of the new segment says which segments it stands for, and the file has its name only when all of
//! it is durable: whatever comes in between, a start finds the old run or the new segment. The old files are freed once the
//! name is durable, too.
//!
//! Memory is bounded by one piece that is read, the blocks that are made of it, and 8 bytes a record kept.

use super::dense::{DenseBlocks, NoRoom};
use super::trouble::{Trouble, describe};
use super::{GivenUp, IN_MEMORY, Journal, Location, NO_LANE, Parked, Scan};
use crate::ground::{Now, RecordNumber, SegmentNumber};
use crate::journal::format::{
    BlockHeader, Entries, Entry, EntryHeader, Kind, OriginPayload, Position, RecordPayload, SegmentHeader, entry_bytes,
    record_number_at, round_up, u32_at,
};
use crate::journal::op::{Op, Ops, Rewrite};
use crate::journal::segment::Segment;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// A run is looked for at most this often.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// After an attempt that came to nothing the next is made this much later; twice as long after each further one.
const PAUSE_NS: u64 = 5_000_000_000;
/// How often the pause is doubled at most: then it is 5 minutes.
const PAUSE_DOUBLINGS_MAX: u32 = 6;
/// A run is chosen so that its records fill the new segment so far, in eighths: blocks are not filled to their last byte.
const FILL_EIGHTHS: u64 = 7;
/// Taken for the id of a record, in a guess of what a run comes to.
const ID_ENTRY_BYTES: usize = 64;

/// Positions in a run of segments that was rewritten: all of them are now at the beginning of its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    from: SegmentNumber,
    to: SegmentNumber,
}

impl Moved {
    /// Where to look for what was at a place.
    pub fn position(&self, at: Position) -> Position {
        match (self.from..=self.to).contains(&at.segment) {
            true => Position { segment: self.to, offset: 0 },
            false => at,
        }
    }
}

/// What the journal keeps of rewrites.
#[derive(Debug)]
pub(super) struct Rewriting {
    run: Option<Box<Run>>,
    /// There may be a run that there was not.
    changed: bool,
    /// When the next one may be looked for.
    look_ns: u64,
    fill_eighths: u64,
    failures: u32,
    /// A new segment begins the log, but its name is not known to be durable: blocks must name what it stands for as the oldest.
    oldest_kept: Option<RangeInclusive<SegmentNumber>>,
    /// No run is rewritten any more: the journal is being closed, or its directory could not be synced.
    ended: bool,
}

impl Default for Rewriting {
    fn default() -> Self {
        Self {
            run: None,
            changed: true,
            look_ns: 0,
            fill_eighths: FILL_EIGHTHS,
            failures: 0,
            oldest_kept: None,
            ended: false,
        }
    }
}

impl Rewriting {
    /// Records were settled or a segment was begun.
    pub fn note_change(&mut self) {
        self.changed = true;
    }

    /// Whether a segment must stay, though all of its records are settled.
    pub fn holds(&self, segment: SegmentNumber) -> bool {
        self.run.as_ref().is_some_and(|run| run.step < Step::SyncDirectory && run.segments().contains(&segment))
    }

    /// A segment is not part of the log any more, and none before it.
    pub fn forget(&mut self, segment: SegmentNumber) {
        self.oldest_kept.take_if(|kept| *kept.end() <= segment);
    }

    /// Whether a segment's file is about to be another: then it is not read.
    pub fn is_replacing(&self, segment: SegmentNumber) -> bool {
        self.run.as_ref().is_some_and(|run| run.step == Step::Replace && run.segments().contains(&segment))
    }

    /// Whether an operation of a rewrite is in flight, or one must follow.
    pub fn is_under_way(&self) -> bool {
        self.run.is_some()
    }
}

/// What comes next, or is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begin,
    Copy,
    Replace,
    SyncDirectory,
    GiveUp,
}

/// A run that is being rewritten.
#[derive(Debug)]
struct Run {
    first: SegmentNumber,
    /// The new segment takes its place.
    last: SegmentNumber,
    first_number: RecordNumber,
    nonce: u64,
    step: Step,
    in_flight: bool,
    /// Where the next piece begins; behind the run once all is read.
    source: Position,
    out: DenseBlocks,
    finished: bool,
    /// Records kept.
    numbers: Vec<RecordNumber>,
    /// Origins written down.
    origins: HashSet<u32>,
    /// Of the last entry read.
    last_number: RecordNumber,
    /// Bytes were met that hold no block or no entry.
    damaged: bool,
    /// Files to be freed in the end.
    freed: Vec<GivenUp>,
    /// A buffer to be used again.
    buffer: Vec<u8>,
}

impl Run {
    fn segments(&self) -> RangeInclusive<SegmentNumber> {
        self.first..=self.last
    }
}

impl Journal {
    /// The oldest segment that blocks name.
    pub(super) fn oldest_segment(&self) -> SegmentNumber {
        let first = self.segments.front().map_or(IN_MEMORY, |segment| segment.number);
        self.rewriting.oldest_kept.as_ref().map_or(first, |kept| first.min(*kept.start()))
    }

    /// Whether more than three quarters of what segments may take is taken, with the one that is kept for ids and marks.
    fn is_tight(&self) -> bool {
        4 * (self.segments.len() + 1) > 3 * self.options.segments_max()
    }

    /// When a run should be looked for though nothing happens.
    pub(super) fn look_for_run_ns(&self) -> Option<u64> {
        let Rewriting { run, changed, look_ns, ended, .. } = &self.rewriting;
        (run.is_none() && *changed && !ended && self.is_tight()).then_some(*look_ns)
    }

    /// Looks for a run if one is needed, and asks for the next step of a rewrite that is under way.
    pub(super) fn rewrite(&mut self, now: Now, ops: &mut Ops<'_>) {
        if self.rewriting.run.is_none() {
            if self.look_for_run_ns().is_none_or(|at| at > now.mono_ns) {
                return;
            }
            self.rewriting.changed = false;
            self.rewriting.look_ns = now.mono_ns + LOOK_EVERY_NS;
            self.rewriting.run = self.find_run().map(|run| self.new_run(run));
        }
        let Some(mut run) = self.rewriting.run.take_if(|run| !run.in_flight) else { return };
        if let Some(work) = self.next_work(&mut run) {
            run.in_flight = true;
            ops(Op::Rewrite { segment: run.last, work });
        }
        self.rewriting.run = Some(run);
    }

    /// A clean stop: what is under way is given up. The next start finds the run as it is.
    pub(super) fn end_rewrite(&mut self, ops: &mut Ops<'_>) {
        self.rewriting.ended = true;
        let Some(run) = self.rewriting.run.as_mut().filter(|run| !run.in_flight) else { return };
        run.in_flight = true;
        let work = match run.step {
            Step::SyncDirectory => Rewrite::SyncDirectory,
            _ => {
                run.step = Step::GiveUp;
                Rewrite::GiveUp
            }
        };
        ops(Op::Rewrite { segment: run.last, work });
    }

    // ---- choosing

    /// The longest run, at least two segments, whose unsettled records fit into one; the oldest of them. Nothing is in flight on its segments
    /// but reads, and the last segment, which grows, is not among them.
    fn find_run(&self) -> Option<std::ops::Range<usize>> {
        let origins = self.origins.iter().filter(|(_, origin)| origin.unsettled > 0);
        let extra: usize = origins.map(|(_, o)| entry_bytes(8 + o.source.len() + o.name.len()) + ID_ENTRY_BYTES).sum();
        let room = u64::from(self.options.segment_bytes - self.physical) * self.rewriting.fill_eighths / 8;
        let capacity = room.checked_sub(extra as u64)?;
        let aside = self.bytes_aside();
        let live_of = |segment: &Segment| segment.live_bytes + aside.get(&segment.number).copied().unwrap_or(0);
        let (mut start, mut live, mut best) = (0, 0, 0..0);
        for (index, segment) in self.segments.iter().enumerate().take(self.segments.len().saturating_sub(1)) {
            let needed = self.unsynced.contains(&segment.number) || self.is_kept_for_move(segment.number);
            if segment.unwritten > 0 || needed || !self.is_file_ready(segment.number) {
                (start, live) = (index + 1, 0);
                continue;
            }
            live += live_of(segment);
            while live > capacity {
                live -= live_of(&self.segments[start]);
                start += 1;
            }
            if index + 1 - start > best.len() {
                best = start..index + 1;
            }
        }
        (best.len() >= 2).then_some(best)
    }

    /// Bytes that entries about parked records take in each segment, beside the records: their answers and ids.
    fn bytes_aside(&self) -> HashMap<SegmentNumber, u64> {
        let mut bytes = HashMap::new();
        for said_in in self.parked().filter_map(|(_, parked)| parked.said_in) {
            if let Some(holder) = self.holder(said_in.number) {
                *bytes.entry(holder.number).or_default() += u64::from(said_in.bytes) + ID_ENTRY_BYTES as u64;
            }
        }
        bytes
    }

    fn new_run(&mut self, run: std::ops::Range<usize>) -> Box<Run> {
        let (first, last) = (&self.segments[run.start], &self.segments[run.end - 1]);
        let before = run.start.checked_sub(1).map(|index| self.segments[index].number);
        let nonce = self.rng.u64(..);
        let header = BlockHeader {
            nonce,
            at: Position { segment: last.number, offset: 0 },
            first_number: first.first_number,
            epoch_id: self.epoch_id,
            watermark: Position::default(),
            oldest_segment: if before.is_none() { last.number } else { self.oldest_segment() },
            dense: None,
        };
        // All numbers back to the segment that stays: a file of one that was given up may not be gone yet.
        let covers = last.number.0 - before.map_or(first.number, SegmentNumber::next).0;
        let covers = u32::try_from(covers).unwrap_or(u32::MAX);
        let (block_bytes, segment_bytes) = (self.options.block_bytes, self.options.segment_bytes);
        Box::new(Run {
            first: first.number,
            last: last.number,
            first_number: first.first_number,
            nonce,
            step: Step::Begin,
            in_flight: false,
            source: first.first_position(),
            out: DenseBlocks::new(header, covers, self.physical, block_bytes, segment_bytes),
            finished: false,
            numbers: Vec::new(),
            origins: HashSet::new(),
            last_number: first.first_number,
            damaged: false,
            freed: Vec::new(),
            buffer: Vec::new(),
        })
    }

    // ---- the steps

    /// The next operation; `None` while others must end first.
    fn next_work(&mut self, run: &mut Run) -> Option<Rewrite> {
        match run.step {
            Step::Begin => Some(Rewrite::Begin { bytes: u64::from(self.options.segment_bytes) }),
            Step::Copy => self.next_copy(run),
            Step::Replace => {
                let reads = self.segments.iter().any(|s| s.reads > 0 && run.segments().contains(&s.number));
                let header = SegmentHeader {
                    core: self.options.core,
                    segment: run.last,
                    nonce: run.nonce,
                    bytes: u64::from(self.options.segment_bytes),
                    physical: self.physical,
                    epoch: self.epoch,
                    epoch_id: self.epoch_id,
                };
                (!reads).then(|| Rewrite::Replace { header: header.encode() })
            }
            Step::SyncDirectory => Some(Rewrite::SyncDirectory),
            Step::GiveUp => Some(Rewrite::GiveUp),
        }
    }

    fn next_copy(&mut self, run: &mut Run) -> Option<Rewrite> {
        let source = self.segments.iter().find(|s| s.number >= run.source.segment).expect("the last one stays");
        let all_read = source.number > run.last;
        if run.out.sealed_bytes() >= self.options.block_bytes || all_read && run.out.sealed_bytes() > 0 {
            let (offset, bytes) = run.out.take_sealed(std::mem::take(&mut run.buffer));
            return Some(Rewrite::Write { offset, bytes });
        }
        if !all_read {
            if source.number > run.source.segment || run.source.offset == 0 {
                run.source = source.first_position();
            }
            if run.source.offset >= source.end {
                // All of it moved to another segment.
                run.source = Position { segment: source.number.next(), offset: 0 };
                return self.next_copy(run);
            }
            let most = source.block_bytes.max(self.options.block_bytes);
            let mut buffer = std::mem::take(&mut run.buffer);
            buffer.resize((source.end - run.source.offset).min(most) as usize, 0);
            return Some(Rewrite::Read { from: source.number, offset: run.source.offset, buffer });
        }
        if !run.finished {
            run.finished = true;
            return match self.finish_copy(run) {
                Ok(()) => self.next_copy(run),
                Err(NoRoom) => Some(self.give_up_full(run)),
            };
        }
        run.step = Step::Replace;
        self.next_work(run)
    }

    /// The last entry says how far the run's numbers went.
    fn finish_copy(&mut self, run: &mut Run) -> Result<(), NoRoom> {
        let end = EntryHeader { kind: Kind::Delivered, flags: 0, lane: NO_LANE, number: run.last_number };
        run.out.push(end, &[])?;
        run.out.finish();
        Ok(())
    }

    fn give_up_full(&mut self, run: &mut Run) -> Rewrite {
        let fill = &mut self.rewriting.fill_eighths;
        tracing::info!(
            "journal of core {}: segments {} to {} do not fit into one; {fill} eighths were to be filled",
            self.options.core,
            run.first,
            run.last
        );
        *fill = (*fill - 1).max(1);
        run.step = Step::GiveUp;
        Rewrite::GiveUp
    }

    /// A step of a rewrite is over. Where that moved the records of a run, all places in it are to be forgotten: `scan` starts again
    /// at the run's new beginning, and [`Moved`] tells others.
    pub(super) fn handle_rewrite(
        &mut self,
        now: Now,
        scan: &mut Scan,
        work: Rewrite,
        result: Result<(), i32>,
    ) -> Option<Moved> {
        let mut run = self.rewriting.run.take().expect("a step of a run that is being rewritten");
        assert!(run.in_flight);
        run.in_flight = false;
        let mut moved = None;
        match (work, result) {
            (Rewrite::GiveUp, _) => {
                self.pause(now);
                return None;
            }
            (Rewrite::SyncDirectory, result) => {
                self.end_run(&run, result);
                return None;
            }
            (work, Err(errno)) => self.fail_run(&mut run, &work, errno),
            (Rewrite::Begin { .. }, Ok(())) => run.step = Step::Copy,
            (Rewrite::Read { offset, buffer, .. }, Ok(())) => {
                if self.copy_piece(&mut run, offset, &buffer).is_err() {
                    self.give_up_full(&mut run);
                }
                run.buffer = buffer;
            }
            (Rewrite::Write { bytes, .. }, Ok(())) => run.buffer = bytes,
            (Rewrite::Replace { .. }, Ok(())) => {
                moved = Some(self.take_place(&mut run, scan));
                run.step = Step::SyncDirectory;
            }
        }
        if run.step == Step::Copy && run.finished && run.out.sealed_bytes() == 0 && !self.is_whole(&run) {
            run.step = Step::GiveUp;
        }
        self.rewriting.run = Some(run);
        moved
    }

    fn fail_run(&mut self, run: &mut Run, work: &Rewrite, errno: i32) {
        let doing = match work {
            Rewrite::Begin { .. } => "no file can be made for what is left of them",
            Rewrite::Read { .. } => "reading failed",
            _ => "writing failed",
        };
        tracing::warn!(
            "journal of core {}: segments {} to {} stay as they are for now: {doing}: {}",
            self.options.core,
            run.first,
            run.last,
            describe(errno)
        );
        self.counters.journal_errors += 1;
        run.step = Step::GiveUp;
    }

    fn pause(&mut self, now: Now) {
        let Rewriting { changed, look_ns, failures, .. } = &mut self.rewriting;
        (*changed, *look_ns) = (true, now.mono_ns + (PAUSE_NS << *failures));
        *failures = (*failures + 1).min(PAUSE_DOUBLINGS_MAX);
    }

    /// The new name is durable, or not.
    fn end_run(&mut self, run: &Run, result: Result<(), i32>) {
        match result {
            Ok(()) => {
                self.rewriting.oldest_kept = None;
                self.rewriting.changed = true;
                (self.rewriting.fill_eighths, self.rewriting.failures) = (FILL_EIGHTHS, 0);
                self.counters.journal_freed += run.freed.len() as u64;
                self.freeing_replaced.extend(&run.freed);
            }
            Err(errno) => {
                // A later sync that succeeds would prove nothing. The old files stay: whatever the next start finds, all is there.
                self.fail(Trouble::Directory, run.last, errno);
                self.rewriting.ended = true;
            }
        }
    }

    // ---- copying

    /// Takes what is of use out of a piece, and moves on in the run.
    fn copy_piece(&mut self, run: &mut Run, from: u32, bytes: &[u8]) -> Result<(), NoRoom> {
        let index = self.segments.partition_point(|s| s.number < run.source.segment);
        let segment = &self.segments[index];
        assert!(segment.number == run.source.segment && run.source.offset == from);
        let mut offset = 0;
        while let Some((header, Some(seal))) = bytes.get(offset..).and_then(BlockHeader::decode) {
            let here = Position { segment: segment.number, offset: from + offset as u32 };
            let Some(block) = bytes.get(offset..offset + seal.used as usize) else { break };
            if header.nonce != segment.nonce || header.at != here {
                break;
            }
            run.out.enter(header.epoch_id, header.watermark);
            let mut entries = Entries::new(block, header.nonce, here.offset);
            loop {
                for entry in entries.by_ref() {
                    self.copy_entry(run, index, &entry)?;
                }
                if entries.offset() == block.len() {
                    break;
                }
                run.damaged = true;
                if entries.resynchronise().is_none() {
                    break;
                }
            }
            offset += round_up(seal.used, segment.physical) as usize;
        }
        if offset == 0 {
            run.damaged = true;
            offset = segment.physical as usize;
        }
        run.source.offset += offset as u32;
        if run.source.offset >= segment.end {
            run.source = Position { segment: segment.number.next(), offset: 0 };
        }
        Ok(())
    }

    /// Copies an entry of the segment at `index`, if it is still of use.
    fn copy_entry(&self, run: &mut Run, index: usize, entry: &Entry<'_>) -> Result<(), NoRoom> {
        let Entry { header, payload, .. } = *entry;
        run.last_number = run.last_number.max(header.number);
        match header.kind {
            // After a loss of power a later segment may have records of an origin, and not its definition.
            Kind::Origin => self.copy_origin(run, u32_at(payload, 0), header.number),
            Kind::Record => {
                let holder = self.holder(header.number).filter(|holder| holder.number == self.segments[index].number);
                let again = run.numbers.last().is_some_and(|last| *last >= header.number);
                if again || !holder.is_some_and(|holder| holder.is_waiting(header.number)) {
                    return Ok(());
                }
                self.copy_origin(run, RecordPayload::decode(payload).origin, header.number)?;
                run.numbers.push(header.number);
                run.out.push(header, &[payload])
            }
            Kind::Id | Kind::Parked | Kind::Retried => {
                let number = record_number_at(payload, 0);
                let is_said_again =
                    |parked: &Parked| parked.said_in.is_none_or(|said_in| said_in.number != header.number);
                if header.kind == Kind::Parked && self.parked_record(number).is_none_or(is_said_again) {
                    return Ok(());
                }
                // A loss of power may bring a record back that was delivered meanwhile: if its entry is still there, its id must be.
                let kept = run.numbers.binary_search(&number).is_ok() || self.is_older(run, number);
                match kept || self.holder(number).is_some_and(|holder| holder.is_waiting(number)) {
                    true => run.out.push(header, &[payload]),
                    false => Ok(()),
                }
            }
            Kind::Discarded => match self.is_older(run, record_number_at(payload, 0)) {
                true => run.out.push(header, &[payload]),
                false => Ok(()),
            },
            // Only the last one that a clean end wrote is of use, and only to the start after it.
            Kind::Leased => Ok(()),
            Kind::Delivered => {
                let marks = payload.chunks_exact(8).filter(|number| self.is_older(run, record_number_at(number, 0)));
                let marks: Vec<&[u8]> = marks.collect();
                if marks.is_empty() { Ok(()) } else { run.out.push(header, &marks) }
            }
        }
    }

    /// Writes down, once, who sent records that wait.
    fn copy_origin(&self, run: &mut Run, id: u32, number: RecordNumber) -> Result<(), NoRoom> {
        let Some(origin) = self.origin_ids.get(&id).map(|origin| &self.origins[origin.0 as usize]) else {
            return Ok(());
        };
        if origin.unsettled == 0 || !run.origins.insert(id) {
            return Ok(());
        }
        let payload = OriginPayload { origin: id, source: &origin.source, name: &origin.name };
        let header = EntryHeader { kind: Kind::Origin, flags: 0, lane: origin.lane, number };
        run.out.push(header, &[&payload.encode_prefix(), origin.source.as_bytes(), origin.name.as_bytes()])
    }

    /// The segment in which a record lies, if it is in any.
    pub(super) fn holder(&self, number: RecordNumber) -> Option<&Segment> {
        let behind = self.segments.partition_point(|s| s.first_number <= number);
        self.segments.get(behind.checked_sub(1)?)
    }

    /// Whether a record may lie in a segment before the run: then its mark is needed.
    fn is_older(&self, run: &Run, number: RecordNumber) -> bool {
        self.holder(number).is_some_and(|holder| holder.number < run.first && holder.may_hold(number))
    }

    /// Whether all that waits in the run was found.
    fn is_whole(&mut self, run: &Run) -> bool {
        let waiting: u64 =
            self.segments.iter().filter(|s| run.segments().contains(&s.number)).map(|s| s.unsettled).sum();
        let found = run.numbers.iter().filter(|number| self.holder(**number).is_some_and(|s| s.is_waiting(**number)));
        let whole = found.count() as u64 == waiting;
        if run.damaged || !whole {
            self.counters.journal_errors += 1;
            let outcome = if whole { "hold damaged bytes, but no record is lost by it" } else { "are damaged" };
            tracing::error!("journal of core {}: segments {} to {} {outcome}", self.options.core, run.first, run.last);
        }
        whole
    }

    // ---- the change

    /// The new file has the name of the run's last segment: so it is in memory.
    fn take_place(&mut self, run: &mut Run, scan: &mut Scan) -> Moved {
        let from = self.segments.partition_point(|s| s.number < run.first);
        let to = self.segments.partition_point(|s| s.number <= run.last);
        let numbers = std::mem::take(&mut run.numbers);
        let waits = |number: &RecordNumber| self.holder(*number).is_some_and(|s| s.is_waiting(*number));
        let waiting: Vec<RecordNumber> = numbers.iter().copied().filter(waits).collect();
        let mut dense = Segment::new(run.last, run.nonce, run.first_number, self.physical);
        dense.end = run.out.end();
        dense.list(numbers);
        waiting.iter().for_each(|number| dense.add(*number, 0));
        dense.live_bytes = self.segments.range(from..to).map(|s| s.live_bytes).sum();
        debug_assert_eq!(dense.unsettled, self.segments.range(from..to).map(|s| s.unsettled).sum::<u64>());
        self.counters.journal_rewritten += (to - from) as u64;
        run.freed = self.segments.drain(from..to - 1).map(|s| GivenUp::of(&s)).collect();
        self.segments[from] = dense;
        if from == 0 {
            self.rewriting.oldest_kept = Some(run.segments());
        }
        for extent in &mut self.extents {
            if run.segments().contains(&extent.segment) {
                debug_assert_eq!(extent.unwritten, 0);
                (extent.segment, extent.moved) = (run.last, true);
            }
        }
        self.restart_scan(run, scan)
    }

    /// A walk that is in the run starts again where that begins now.
    fn restart_scan(&mut self, run: &Run, scan: &mut Scan) -> Moved {
        let moved = Moved { from: run.first, to: run.last };
        let extents = [scan.extent.map(|(extent, _)| extent), scan.left].into_iter().flatten();
        let mut at = scan.at;
        if let Some((extent, offset)) = scan.extent {
            at = self.block_position(extent, offset);
        }
        // A block that stayed in a failed segment can be in front of others in an extent that has not moved.
        let stands_in_run =
            |extent: u32| run.segments().contains(&at.segment) && scan.extent.is_some_and(|(under, _)| under == extent);
        let is_left = |extent: &u32| self.extents[*extent as usize].moved || stands_in_run(*extent);
        let released: Vec<u32> = extents.filter(is_left).collect();
        for extent in released {
            scan.extent.take_if(|(other, _)| *other == extent);
            scan.left.take_if(|other| *other == extent);
            self.release(Location { extent, offset: 0 });
        }
        if scan.extent.is_none() {
            debug_assert!(!scan.reading || !run.segments().contains(&at.segment));
            scan.at = moved.position(at);
        }
        moved
    }
}
