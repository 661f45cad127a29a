//! Rewriting a run of segments densely. Segments are freed oldest first; where one old record stays
//! unsettled (a lane that stands still), all behind it would stay. So when the journal is more than
//! three quarters full, the longest run of segments whose unsettled records fit into one segment is
//! read piece by piece, and what is still of use is written to a new file, which then takes the
//! place of the run's last segment. The others are freed.
//!
//! What is of use: unsettled records, who sent them, their ids, machines' keys that are remembered,
//! and marks that settle records of older segments. Numbers, epochs and order stay. Each block of the new segment says which
//! segments it stands for, and the file has its name only when all of it is durable: whatever comes
//! in between, a start finds the old run or the new segment. The old files are freed once the name
//! is durable, too.
//!
//! It reads segments and the ledger. Of the segments it changes nothing but the mark that a run is
//! to be looked for: the change of places is the journal's, by [`Done::Moved`].
//!
//! Memory is bounded by one piece that is read, the blocks that are made of it, and 8 bytes a
//! record kept.

mod dense;
mod run;

pub(super) use dense::DenseBlocks;

use super::Options;
use super::format::{ORIGIN_PREFIX_BYTES, Position, entry_bytes};
use super::keys::{KEY_ENTRY_BYTES, Keys};
use super::ledger::{Ledger, SaidIn};
use super::op::{Op, Ops, Rewrite};
use super::segments::{GivenUp, Maker, Segment, Segments};
use super::trouble::{Trouble, Troubles, describe};
use crate::ground::{CoreId, Now, SegmentNumber};
use run::{Run, Step};
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

/// A run is looked for at most this often.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// After an attempt that came to nothing the next is made this much later; twice as long after each
/// further one.
const PAUSE_NS: u64 = 5_000_000_000;
/// How often the pause is doubled at most: then it is 5 minutes.
const PAUSE_DOUBLINGS_MAX: u32 = 6;
/// A run is chosen so that its records fill the new segment so far, in eighths: blocks are not
/// filled to their last byte.
const FILL_EIGHTHS: u64 = 7;
/// Taken for the id of a record, in a guess of what a run comes to.
const ID_ENTRY_BYTES: usize = 64;

/// Positions in a run of segments that was rewritten: all of them are now at the beginning of its
/// last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    from: SegmentNumber,
    to: SegmentNumber,
}

impl Moved {
    pub(super) fn of(run: &RangeInclusive<SegmentNumber>) -> Self {
        Self { from: *run.start(), to: *run.end() }
    }

    /// Where to look for what was at a place.
    pub fn position(&self, at: Position) -> Position {
        match (self.from..=self.to).contains(&at.segment) {
            true => Position { segment: self.to, offset: 0 },
            false => at,
        }
    }
}

/// What tells which entries are of use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub ledger: &'a Ledger,
    pub keys: &'a Keys,
}

/// What a step of a rewrite came to.
pub(super) enum Done {
    /// It goes on, or was given up.
    Step,
    /// The new file has the name of the run's last segment: so it is to be in memory.
    Moved { run: RangeInclusive<SegmentNumber>, dense: Segment },
    /// The new name is durable: these are to be freed.
    Durable(Vec<GivenUp>),
}

/// What stays as it is.
#[derive(Debug, Clone, Copy)]
struct Shape {
    core: CoreId,
    segment_bytes: u32,
    block_bytes: u32,
    maker: Maker,
}

/// Owns the run of segments that is being rewritten, and decides when the next one is looked for.
#[derive(Debug)]
pub(super) struct Rewriting {
    shape: Shape,
    run: Option<Box<Run>>,
    /// When the next one may be looked for.
    look_ns: u64,
    fill_eighths: u64,
    failures: u32,
    /// No run is rewritten any more: the journal is being closed, or its directory could not be
    /// synced.
    ended: bool,
}

impl Rewriting {
    pub fn new(options: &Options, maker: Maker) -> Self {
        let Options { core, segment_bytes, block_bytes, .. } = *options;
        Self {
            shape: Shape { core, segment_bytes, block_bytes, maker },
            run: None,
            look_ns: 0,
            fill_eighths: FILL_EIGHTHS,
            failures: 0,
            ended: false,
        }
    }

    /// Whether a segment must stay, though all of its records are settled.
    pub fn holds(&self, segment: SegmentNumber) -> bool {
        self.run.as_ref().is_some_and(|run| run.step < Step::SyncDirectory && run.segments().contains(&segment))
    }

    /// Whether a segment's file is about to be another: then it is not read.
    pub fn is_replacing(&self, segment: SegmentNumber) -> bool {
        self.run.as_ref().is_some_and(|run| run.step == Step::Replace && run.segments().contains(&segment))
    }

    /// Whether an operation of a rewrite is in flight, or one must follow.
    pub fn is_under_way(&self) -> bool {
        self.run.is_some()
    }

    /// When a run should be looked for though nothing happens.
    pub fn look_ns(&self, segments: &Segments) -> Option<u64> {
        let looks = self.run.is_none() && segments.has_changed() && !self.ended && segments.is_tight();
        looks.then_some(self.look_ns)
    }

    /// Looks for a run if one is needed, and asks for the next step of a rewrite that is under way.
    /// `stays`: what may not be part of a run.
    pub fn turn(
        &mut self,
        now: Now,
        segments: &mut Segments,
        said: Said<'_>,
        stays: impl Fn(SegmentNumber) -> bool,
        ops: &mut Ops<'_>,
    ) {
        if self.run.is_none() {
            if self.look_ns(segments).is_none_or(|at| at > now.mono_ns) {
                return;
            }
            segments.set_changed(false);
            self.look_ns = now.mono_ns + LOOK_EVERY_NS;
            self.run = self.find_run(segments, said, stays).map(|run| self.new_run(segments, run));
        }
        let Some(mut run) = self.run.take_if(|run| !run.in_flight) else { return };
        if let Some(work) = self.next_work(&mut run, segments) {
            run.in_flight = true;
            ops(Op::Rewrite { segment: run.last, work });
        }
        self.run = Some(run);
    }

    /// A clean stop: what is under way is given up. The next start finds the run as it is.
    pub fn end(&mut self, ops: &mut Ops<'_>) {
        self.ended = true;
        let Some(run) = self.run.as_mut().filter(|run| !run.in_flight) else { return };
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

    /// The longest run, at least two segments, whose unsettled records fit into one; the oldest of
    /// them. Nothing is in flight on its segments but reads, and the last segment, which grows, is
    /// not among them.
    fn find_run(
        &self,
        segments: &Segments,
        said: Said<'_>,
        stays: impl Fn(SegmentNumber) -> bool,
    ) -> Option<Range<usize>> {
        let extra = |origin: &super::Origin| {
            let texts = origin.payload().texts().map(<[u8]>::len);
            entry_bytes(ORIGIN_PREFIX_BYTES + texts.iter().sum::<usize>()) + ID_ENTRY_BYTES
        };
        let extra: usize = said.ledger.waiting_origins().map(extra).sum();
        let room = u64::from(self.shape.segment_bytes - self.shape.maker.physical) * self.fill_eighths / 8;
        let capacity = room.checked_sub(extra as u64)?;
        let aside = bytes_aside(segments, said);
        let live_of = |segment: &Segment| segment.live_bytes + aside.get(&segment.number).copied().unwrap_or(0);
        let (mut start, mut live, mut best) = (0, 0, 0..0);
        for (index, segment) in segments.iter().enumerate().take(segments.count().saturating_sub(1)) {
            if stays(segment.number) || !segments.is_at_rest(segment) {
                (start, live) = (index + 1, 0);
                continue;
            }
            live += live_of(segment);
            while live > capacity {
                live -= live_of(segments.at(start).expect("before this one"));
                start += 1;
            }
            if index + 1 - start > best.len() {
                best = start..index + 1;
            }
        }
        (best.len() >= 2).then_some(best)
    }

    fn new_run(&self, segments: &mut Segments, run: Range<usize>) -> Box<Run> {
        let nonce = segments.nonce();
        Box::new(Run::new(segments, run, nonce, self.shape))
    }

    // ---- the steps

    /// The next operation; `None` while others must end first.
    fn next_work(&mut self, run: &mut Run, segments: &Segments) -> Option<Rewrite> {
        if run.step == Step::Copy {
            match run.next_copy(segments, self.shape.block_bytes) {
                Ok(Some(work)) => return Some(work),
                Ok(None) => run.step = Step::Replace,
                Err(_) => return Some(self.give_up_full(run)),
            }
        }
        match run.step {
            Step::Begin => Some(Rewrite::Begin { bytes: u64::from(self.shape.segment_bytes) }),
            Step::Copy => unreachable!("asked above"),
            Step::Replace => {
                let reads =
                    segments.iter().any(|segment| segment.reads > 0 && run.segments().contains(&segment.number));
                (!reads).then(|| Rewrite::Replace { header: segments.header(run.last, run.nonce).encode() })
            }
            Step::SyncDirectory => Some(Rewrite::SyncDirectory),
            Step::GiveUp => Some(Rewrite::GiveUp),
        }
    }

    fn give_up_full(&mut self, run: &mut Run) -> Rewrite {
        let fill = &mut self.fill_eighths;
        tracing::info!(
            "journal of core {}: segments {} to {} do not fit into one; {fill} eighths were to be filled",
            self.shape.core,
            run.first,
            run.last
        );
        *fill = (*fill - 1).max(1);
        run.step = Step::GiveUp;
        Rewrite::GiveUp
    }

    /// A step of a rewrite is over.
    pub fn handle(
        &mut self,
        now: Now,
        work: Rewrite,
        result: Result<(), i32>,
        segments: &mut Segments,
        said: Said<'_>,
        troubles: &mut Troubles,
    ) -> Done {
        let mut run = self.run.take().expect("a step of a run that is being rewritten");
        assert!(run.in_flight);
        run.in_flight = false;
        let mut done = Done::Step;
        match (work, result) {
            (Rewrite::GiveUp, _) => {
                self.pause(now, segments);
                return Done::Step;
            }
            (Rewrite::SyncDirectory, result) => return self.end_run(*run, result, troubles),
            (work, Err(errno)) => self.fail_run(&mut run, &work, errno, troubles),
            (Rewrite::Begin { .. }, Ok(())) => run.step = Step::Copy,
            (Rewrite::Read { offset, buffer, .. }, Ok(())) => {
                if run.copy_piece(segments, said, offset, &buffer).is_err() {
                    self.give_up_full(&mut run);
                }
                run.buffer = buffer;
            }
            (Rewrite::Write { bytes, .. }, Ok(())) => run.buffer = bytes,
            (Rewrite::Replace { .. }, Ok(())) => {
                run.step = Step::SyncDirectory;
                done =
                    Done::Moved { run: run.segments(), dense: run.dense_segment(segments, self.shape.maker.physical) };
            }
        }
        if run.step == Step::Copy && run.is_written() && !self.is_whole(&run, segments, troubles) {
            run.step = Step::GiveUp;
        }
        self.run = Some(run);
        done
    }

    /// The run's other segments, whose files stay until the new name is durable.
    pub fn keep(&mut self, freed: Vec<GivenUp>) {
        self.run.as_mut().expect("it has just taken its place").freed = freed;
    }

    fn fail_run(&mut self, run: &mut Run, work: &Rewrite, errno: i32, troubles: &mut Troubles) {
        let doing = match work {
            Rewrite::Begin { .. } => "no file can be made for what is left of them",
            Rewrite::Read { .. } => "reading failed",
            _ => "writing failed",
        };
        tracing::warn!(
            "journal of core {}: segments {} to {} stay as they are for now: {doing}: {}",
            self.shape.core,
            run.first,
            run.last,
            describe(errno)
        );
        troubles.count_error();
        run.step = Step::GiveUp;
    }

    fn pause(&mut self, now: Now, segments: &mut Segments) {
        segments.set_changed(true);
        self.look_ns = now.mono_ns + (PAUSE_NS << self.failures);
        self.failures = (self.failures + 1).min(PAUSE_DOUBLINGS_MAX);
    }

    /// The new name is durable, or not.
    fn end_run(&mut self, run: Run, result: Result<(), i32>, troubles: &mut Troubles) -> Done {
        match result {
            Ok(()) => {
                (self.fill_eighths, self.failures) = (FILL_EIGHTHS, 0);
                Done::Durable(run.freed)
            }
            Err(errno) => {
                // A later sync that succeeds would prove nothing. The old files stay: whatever the
                // next start finds, all is there.
                troubles.fail(Trouble::Directory, run.last, errno);
                self.ended = true;
                Done::Step
            }
        }
    }

    /// Whether all that waits in the run was found.
    fn is_whole(&self, run: &Run, segments: &Segments, troubles: &mut Troubles) -> bool {
        let whole = run.has_all(segments);
        if run.damaged || !whole {
            troubles.count_error();
            let outcome = if whole { "hold damaged bytes, but no record is lost by it" } else { "are damaged" };
            tracing::error!("journal of core {}: segments {} to {} {outcome}", self.shape.core, run.first, run.last);
        }
        whole
    }

    /// Asserts that the run is part of the log, unless another file is about to take its place.
    pub fn check(&self, segments: &Segments) {
        let Some(run) = self.run.as_ref().filter(|run| run.step < Step::SyncDirectory) else { return };
        let is_there = |number| segments.find(number).is_some();
        assert!(
            is_there(run.first) && is_there(run.last),
            "segments {} to {} are being rewritten",
            run.first,
            run.last
        );
    }
}

/// Bytes that entries about parked records take in each segment, beside the records (their answers
/// and ids), and what machines' keys take.
fn bytes_aside(segments: &Segments, Said { ledger, keys }: Said<'_>) -> HashMap<SegmentNumber, u64> {
    let mut bytes = HashMap::new();
    for SaidIn { number, bytes: answer } in ledger.parked().filter_map(|(_, parked)| parked.said_in) {
        if let Some(holder) = segments.holder(number) {
            *bytes.entry(holder.number).or_default() += u64::from(answer) + ID_ENTRY_BYTES as u64;
        }
    }
    for holder in keys.said_in().filter_map(|number| segments.holder(number)) {
        *bytes.entry(holder.number).or_default() += KEY_ENTRY_BYTES;
    }
    bytes
}
