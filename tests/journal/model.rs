//! Random sequences of actions against a reference model of what the journal must hold.

use super::world::{BLOCK_BYTES, Kept, World, options, segment_of};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use ringest::config::Durability;
use ringest::ground::count::Counters;
use ringest::ground::{LaneNumber, RecordNumber, SegmentNumber};
use ringest::journal::{Identity, Lies, Location, OriginRef, Position, Refused, Step};
use ringest::journal::{Op, Rewrite};
use ringest::observe::snapshot::JournalSnapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

const LANES: usize = 5;
/// Records of a lane that a walk keeps in memory.
const HELD_PER_LANE: usize = 6;

#[derive(Debug, Clone)]
enum Action {
    Append { lane: usize, count: u8, bytes: usize },
    Id { lane: usize },
    Settle { lane: usize, count: u8 },
    Park { lane: usize },
    Unpark { index: usize },
    Discard { index: usize },
    Turn { waiting: bool },
    Complete { index: usize, fails: bool },
    CompleteAll,
    Pass { ms: u64 },
    Walk { steps: u8 },
    Forget { lane: usize },
    Refuse { commits: bool, segments: bool, syncs: bool, at_start: bool },
    Mend,
    Kill,
    PowerCut,
    Close,
}

fn action() -> impl Strategy<Value = Action> {
    let lane = 0..LANES;
    prop_oneof![
        48 => (lane.clone(), 1u8..16, 0usize..1500).prop_map(|(lane, count, bytes)| Action::Append { lane, count, bytes }),
        12 => lane.clone().prop_map(|lane| Action::Id { lane }),
        48 => (lane.clone(), 1u8..16).prop_map(|(lane, count)| Action::Settle { lane, count }),
        12 => lane.clone().prop_map(|lane| Action::Park { lane }),
        8 => any::<usize>().prop_map(|index| Action::Unpark { index }),
        3 => any::<usize>().prop_map(|index| Action::Discard { index }),
        32 => any::<bool>().prop_map(|waiting| Action::Turn { waiting }),
        40 => (any::<usize>(), 0u8..20).prop_map(|(index, fails)| Action::Complete { index, fails: fails == 0 }),
        12 => Just(Action::CompleteAll),
        20 => (1u64..1500).prop_map(|ms| Action::Pass { ms }),
        36 => (1u8..20).prop_map(|steps| Action::Walk { steps }),
        1 => lane.prop_map(|lane| Action::Forget { lane }),
        1 => any::<[bool; 4]>().prop_map(|[commits, segments, syncs, at_start]| {
            Action::Refuse { commits, segments, syncs, at_start }
        }),
        2 => Just(Action::Mend),
        2 => Just(Action::Kill),
        1 => Just(Action::PowerCut),
        1 => Just(Action::Close),
    ]
}

/// A record that waits, as far as the model knows.
struct Waiting {
    kept: Kept,
    origin: OriginRef,
    held: Option<Location>,
    /// The segment it was seen in.
    segment: SegmentNumber,
}

/// What the disk does not do for now.
#[derive(Default)]
struct Refusals {
    commits: bool,
    segments: bool,
    syncs: bool,
}

struct Model {
    world: World,
    refused: Refusals,
    lanes: Vec<Lane>,
    waiting: BTreeMap<RecordNumber, Waiting>,
    /// Records that are kept aside.
    parked: BTreeMap<RecordNumber, Waiting>,
    /// Of those, what was deleted.
    discarded: Vec<Kept>,
    /// Settled records, in the order in which they were.
    settled: Vec<Kept>,
    /// Settled before, or lost by a loss of power.
    past: BTreeMap<(u128, RecordNumber), Kept>,
    /// A walk is under way; the number that it has come to.
    walk: Option<RecordNumber>,
    seen: BTreeSet<RecordNumber>,
    /// Segments whose sync completed.
    synced: BTreeSet<SegmentNumber>,
    /// Segments found at start: where they reach the limit, one more is made for ids and marks.
    found: u64,
}

#[derive(Clone, Copy)]
struct Lane {
    number: LaneNumber,
    origin: OriginRef,
}

impl Model {
    fn new(durability: Durability, segments: u64, physical: u32, seed: u64) -> Self {
        let mut model = Self {
            world: World::new(options(durability, segments, 8), physical, seed),
            refused: Refusals::default(),
            lanes: Vec::new(),
            waiting: BTreeMap::new(),
            parked: BTreeMap::new(),
            discarded: Vec::new(),
            settled: Vec::new(),
            past: BTreeMap::new(),
            walk: None,
            seen: BTreeSet::new(),
            synced: BTreeSet::new(),
            found: 0,
        };
        model.world.open_whole();
        model.open_lanes();
        model
    }

    fn open_lanes(&mut self) {
        let journal = self.world.journal();
        self.lanes = (0..LANES)
            .map(|index| {
                let number = journal.new_lane();
                Lane {
                    number,
                    origin: journal.open_origin(number, Identity::new("source", &format!("lane {index} of {number}"))),
                }
            })
            .collect();
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Append { lane, count, bytes } => {
                (0..count).for_each(|index| self.append(lane, bytes / (1 + usize::from(index) % 3)));
            }
            Action::Id { lane } => self.append_id(lane),
            Action::Settle { lane, count } => (0..count).for_each(|_| self.settle(lane)),
            Action::Park { lane } => self.park(lane),
            Action::Unpark { index } => self.unpark(index),
            Action::Discard { index } => self.discard(index),
            Action::Turn { waiting } => self.turn(waiting),
            Action::Complete { index, fails } => {
                if !self.world.pending.is_empty() {
                    let index = index % self.world.pending.len();
                    self.complete(index, fails);
                }
            }
            Action::CompleteAll => {
                while !self.world.pending.is_empty() {
                    self.complete(0, false);
                }
            }
            Action::Pass { ms } => self.world.now.mono_ns += ms * 1_000_000,
            Action::Walk { steps } => (0..steps).for_each(|_| self.walk_on()),
            Action::Forget { lane } => self.forget(lane),
            Action::Refuse { commits, segments, syncs, at_start } => {
                self.refused = Refusals { commits, segments, syncs };
                self.world.disk.refuses_writes = at_start;
            }
            Action::Mend => self.mend(),
            Action::Kill => self.kill(),
            Action::PowerCut => self.lose_power(),
            Action::Close => self.close(),
        }
        self.check();
    }

    fn on_disk(&self) -> bool {
        self.world.options.durability != Durability::Memory
    }

    fn append(&mut self, lane: usize, bytes: usize) {
        let Lane { origin, number: lane } = self.lanes[lane];
        let data: Vec<u8> = (0..bytes).map(|index| (index as u64 * 31 + self.world.now.mono_ns) as u8).collect();
        let room = self.world.journal().has_window_room();
        let Some((kept, at)) = self.world.append(origin, &data, if bytes.is_multiple_of(2) { b"" } else { b"key" })
        else {
            return self.world.count("full");
        };
        assert_eq!(kept.lane, lane);
        if self.on_disk() {
            let max = self.world.options.segments_max() as u64;
            assert!(self.world.segments() < max, "a record was taken into the last of {max} segments");
        }
        // As the window does: what comes behind something that is not in memory is not kept there either.
        let behind = self.waiting.values().any(|other| other.kept.lane == lane && other.held.is_none());
        let held = (!self.on_disk() || room && !behind).then_some(at);
        if held.is_some() {
            self.world.journal().hold(at);
        } else {
            self.world.count("behind the window");
        }
        let segment = self.world.journal().position(at).segment;
        self.waiting.insert(kept.number, Waiting { kept, origin, held, segment });
    }

    fn append_id(&mut self, lane: usize) {
        let (lane, now, on_disk) = (self.lanes[lane].number, self.world.now, self.on_disk());
        let first = self.waiting.values_mut().find(|record| record.kept.lane == lane && record.kept.id.is_none());
        let Some(record) = first.filter(|record| record.held.is_some()) else { return };
        let id = format!("{}", record.kept.number.0 * 7);
        if self.world.journal().append_id(now, record.kept.number, &id).is_err() {
            self.world.count("full for ids");
        } else if on_disk {
            record.kept.id = Some(id);
        }
    }

    fn settle(&mut self, lane: usize) {
        let lane = self.lane_of(lane);
        let Some((&number, record)) = self.waiting.iter().find(|(_, record)| record.kept.lane == lane) else {
            return;
        };
        let Some(at) = record.held else { return };
        let origin = record.origin;
        let record = self.waiting.remove(&number).expect("found");
        self.world.journal().settle(number, origin, at);
        self.settled.push(record.kept);
    }

    fn park(&mut self, lane: usize) {
        let (lane, now) = (self.lane_of(lane), self.world.now);
        let Some((&number, record)) = self.waiting.iter().find(|(_, record)| record.kept.lane == lane) else {
            return;
        };
        let Some(at) = record.held else { return };
        let (origin, id) = (record.origin, record.kept.id.clone());
        let answer = vec![b'!'; number.0 as usize % 2000];
        let refused = Refused { status: 422, attempts: 3, answer: &answer };
        if self.world.journal().park(now, number, (origin, at), id.as_deref(), refused).is_err() {
            return self.world.count("full for parking");
        }
        let record = self.waiting.remove(&number).expect("found");
        self.parked.insert(number, Waiting { held: None, ..record });
        self.world.count("parked");
    }

    fn one_parked(&self, index: usize) -> Option<RecordNumber> {
        self.parked.keys().nth(index % self.parked.len().max(1)).copied()
    }

    fn unpark(&mut self, index: usize) {
        let (Some(number), now) = (self.one_parked(index), self.world.now) else { return };
        let Ok(unparked) = self.world.journal().unpark(now, number) else {
            return self.world.count("full for parking");
        };
        let unparked = unparked.expect("it is kept aside");
        let record = self.parked.remove(&number).expect("found");
        let held = match unparked.at {
            Lies::Behind(_) => None,
            Lies::Held(at) => Some(at),
        };
        assert_eq!(held.is_some(), !self.on_disk(), "at level memory it is held");
        let record = Waiting { origin: unparked.origin, held, ..record };
        // In this model it goes before its lane's later ones, whose memory it may need.
        let (lane, on_disk) = (record.kept.lane, record.held.is_none());
        for other in self.waiting.values_mut().filter(|other| on_disk && other.kept.lane == lane) {
            if let Some(at) = other.held.take() {
                self.world.journal().release(at);
            }
        }
        self.waiting.insert(number, record);
        self.seen.insert(number); // a walk may be past it
        self.world.count("unparked");
    }

    fn discard(&mut self, index: usize) {
        let (Some(number), now) = (self.one_parked(index), self.world.now) else { return };
        match self.world.journal().discard(now, number) {
            Ok(true) => self.discarded.push(self.parked.remove(&number).expect("found").kept),
            Ok(false) => panic!("record {number} is kept aside"),
            Err(_) => return self.world.count("full for parking"),
        }
        self.world.count("discarded");
    }

    /// Lanes of this start, and at times one that an earlier start left.
    fn lane_of(&mut self, lane: usize) -> LaneNumber {
        match self.waiting.values().find(|record| record.kept.lane < self.lanes[0].number) {
            Some(old) if lane == 0 => old.kept.lane,
            _ => self.lanes[lane].number,
        }
    }

    fn turn(&mut self, waiting: bool) {
        if !self.on_disk() {
            return;
        }
        self.world.turn(waiting);
        let mut counters = Counters::default();
        self.world.journal().take_counters(&mut counters);
        for (count, what) in [(counters.journal_sealed, "sealed"), (counters.journal_unsafe_records, "unsafe")] {
            if count > 0 {
                self.world.count(what);
            }
        }
        let (segments, max) = (self.world.segments(), self.world.options.segments_max() as u64);
        // Ids and marks may go beyond the limit, intake may not (see `append`). A turn writes marks of a few records here.
        assert!(segments <= max.max(self.found) + 4, "{segments} segments, of {max}, {} at start", self.found);
        self.found = self.found.min(segments);
    }

    fn complete(&mut self, index: usize, fails: bool) {
        let op = &self.world.pending[index].op;
        let directory = matches!(op, Op::Rewrite { work: Rewrite::SyncDirectory, .. });
        let fails = match op {
            Op::Rewrite { work: Rewrite::GiveUp, .. } => false,
            Op::Commit { .. } => fails || self.refused.commits,
            Op::PrepareSegment { .. } => fails || self.refused.segments,
            Op::SyncSegment { .. } => fails || self.refused.syncs,
            _ => fails || directory && self.world.disk.rng.u8(..8) == 0,
        };
        if !fails {
            if let Op::SyncSegment { segment, .. } | Op::Rewrite { segment, work: Rewrite::SyncDirectory, .. } = *op {
                self.synced.insert(segment);
            }
            let op = &self.world.pending[index].op;
            if let Op::FreeSegment { .. } = *op {
                let freed = segment_of(op).expect("a segment");
                let live: Vec<RecordNumber> = self
                    .waiting
                    .values()
                    .chain(self.parked.values())
                    .filter(|r| r.segment == freed)
                    .map(|r| r.kept.number)
                    .collect();
                if !live.is_empty() {
                    // They may have moved, since a write or sync of it failed: then they are found elsewhere.
                    let mut other = self.world.killed_here();
                    let found = other.scan_all();
                    let aside = other.journal().parked().map(|(number, _)| number);
                    let found: BTreeSet<RecordNumber> = aside.chain(found.iter().map(|kept| kept.number)).collect();
                    assert!(live.iter().all(|number| found.contains(number)), "{freed} is freed: {live:?} wait in it");
                    self.world.count("freed after its records had moved");
                }
            }
        }
        self.world.complete(index, if fails { Err(5) } else { Ok(()) });
        for moved in std::mem::take(&mut self.world.moved) {
            for record in self.waiting.values_mut().chain(self.parked.values_mut()) {
                record.segment = moved.position(Position { segment: record.segment, offset: 1 }).segment;
            }
            // The walk may begin again where the run does now.
            self.walk = self.walk.map(|_| RecordNumber(0));
        }
    }

    // ---- walking

    /// A walk that lets no waiting record out, from the oldest to the tail.
    fn walk_on(&mut self) {
        if self.walk.is_none() {
            let oldest = self.world.journal().oldest();
            self.world.start_scan(oldest);
            (self.walk, self.seen) = (Some(RecordNumber(0)), BTreeSet::new());
        }
        let mut found = Vec::new();
        let step = self.world.step(&mut found);
        for record in found {
            let known = self.waiting.get(&record.number).expect("only what waits is found");
            let kept = known.kept.clone();
            self.world.journal().hold(record.at);
            let mut view = self.world.view(record.origin, record.at);
            view.id.clone_from(&kept.id); // only ids of earlier starts are kept
            assert_eq!(view, kept);
            let last = self.walk.replace(record.number).expect("a walk");
            assert!(last < record.number, "{last} is found before {}", record.number);
            self.seen.insert(record.number);
            let ahead =
                self.waiting.values().filter(|other| other.kept.lane == kept.lane && other.kept.number < record.number);
            let (before, in_memory) =
                ahead.fold((0, true), |(count, all), other| (count + 1, all && other.held.is_some()));
            let known = self.waiting.get_mut(&record.number).expect("it waits");
            known.segment = self.world.journal().position(record.at).segment;
            if known.held.is_none() && in_memory && before < HELD_PER_LANE {
                known.held = Some(record.at);
                known.origin = record.origin;
                self.world.count("brought back");
            } else {
                self.world.journal().release(record.at);
            }
        }
        if step == Step::Tail {
            let missed: Vec<RecordNumber> =
                self.waiting.keys().copied().filter(|number| !self.seen.contains(number)).collect();
            assert!(missed.is_empty() || !self.on_disk(), "at the tail {missed:?} were not seen");
            self.walk = None;
            self.world.count("tail");
        }
    }

    /// A lane that cannot be delivered gives its memory back.
    fn forget(&mut self, lane: usize) {
        if !self.on_disk() {
            return;
        }
        let lane = self.lane_of(lane);
        for record in self.waiting.values_mut().filter(|record| record.kept.lane == lane) {
            if let Some(at) = record.held.take() {
                self.world.journal().release(at);
            }
        }
    }

    fn mend(&mut self) {
        self.refused = Refusals::default();
        self.world.disk.refuses_writes = false;
    }

    /// Whatever is held says what it always said.
    fn check(&mut self) {
        for record in self.waiting.values() {
            if let Some(at) = record.held {
                let view = self.world.view(record.origin, at);
                assert_eq!(Kept { id: record.kept.id.clone(), ..view }, record.kept);
            }
        }
        assert_eq!(self.world.journal().unsettled(), (self.waiting.len() + self.parked.len()) as u64);
        let aside: Vec<RecordNumber> = self.world.journal().parked().map(|(number, _)| number).collect();
        assert_eq!(aside, self.parked.keys().copied().collect::<Vec<_>>());
    }

    // ---- ends and starts

    fn kill(&mut self) {
        if !self.on_disk() {
            return;
        }
        let unmarked = self.world.journal().marks_in_memory();
        // Records whose mark was in no block wait again.
        for kept in self.settled.split_off(self.settled.len() - unmarked) {
            let (number, origin) = (kept.number, OriginRef(u32::MAX));
            self.waiting.insert(number, Waiting { kept, origin, held: None, segment: SegmentNumber(0) });
        }
        let may_be_gone: BTreeSet<RecordNumber> = {
            // Their segments may have been freed already, which settles them too.
            let last = self.waiting.keys().copied().filter(|number| self.waiting[number].origin == OriginRef(u32::MAX));
            last.collect()
        };
        let late = self.world.kill();
        self.world.open_whole();
        for pending in late {
            if let Op::Commit { segment, offset, .. } = pending.op
                && self.world.disk.segments.contains_key(&segment)
            {
                self.world.disk.write(segment, offset as usize, &pending.data, false);
            }
        }
        let aside: Vec<RecordNumber> = self.parked.keys().copied().collect();
        let missing = self.start_again(true);
        assert_eq!(aside, self.parked.keys().copied().collect::<Vec<_>>(), "kept aside before and after a kill");
        assert!(missing.is_subset(&may_be_gone), "{missing:?} are lost by a kill");
        self.world.count("kill");
    }

    fn lose_power(&mut self) {
        if !self.on_disk() {
            return;
        }
        let power = self.world.options.durability == Durability::Power;
        let durable = self.world.journal().durable_below();
        // A record may be kept aside again or not any more, but it is there.
        self.waiting.append(&mut self.parked);
        let safe: Vec<RecordNumber> = self
            .waiting
            .iter()
            .filter(|(number, record)| if power { **number < durable } else { self.synced.contains(&record.segment) })
            .map(|(number, _)| *number)
            .collect();
        // Settled records may come back: their marks were not durable.
        let deleted = std::mem::take(&mut self.discarded);
        for kept in std::mem::take(&mut self.settled).into_iter().chain(deleted) {
            // An empty journal begins its numbers anew, in another epoch.
            if self.waiting.get(&kept.number).is_some_and(|newer| newer.kept.epoch_id != kept.epoch_id) {
                self.past.insert((kept.epoch_id, kept.number), kept);
                continue;
            }
            self.waiting
                .insert(kept.number, Waiting { kept, origin: OriginRef(0), held: None, segment: SegmentNumber(0) });
        }
        self.world.kill();
        self.world.disk.lose_power();
        self.world.open_whole();
        let missing = self.start_again(false);
        assert!(safe.iter().all(|number| !missing.contains(number)), "{safe:?} were durable, {missing:?} are missing");
        self.world.count("loss of power");
    }

    fn close(&mut self) {
        if !self.on_disk() {
            return;
        }
        self.mend();
        self.end_walk();
        if !self.world.close() {
            // A full journal may have no room for the last marks; nothing else can keep it from its end.
            assert!(
                self.world.journal().marks_in_memory() > 0
                    && self.world.segments() as usize >= self.world.options.segments_max()
            );
            return self.kill();
        }
        assert!(self.world.disk.blocks.is_empty());
        self.world.open_whole();
        let report = self.world.journal().report().clone();
        assert!(report.clean && report.finished_blocks == 0, "{report:?}");
        let aside: Vec<RecordNumber> = self.parked.keys().copied().collect();
        let missing = self.start_again(true);
        assert_eq!(aside, self.parked.keys().copied().collect::<Vec<_>>(), "kept aside before and after a stop");
        assert!(missing.is_empty(), "{missing:?} are lost by a clean stop");
        self.world.count("clean stop");
    }

    fn end_walk(&mut self) {
        while let Some(read) = self.world.pending.iter().position(|pending| matches!(pending.op, Op::ReadBack { .. })) {
            self.complete(read, false);
        }
        self.walk = None;
        self.world.start_scan(Position::default());
    }

    /// After an open: takes over what was recovered. The numbers of known records that are not there.
    fn start_again(&mut self, all_ids: bool) -> BTreeSet<RecordNumber> {
        let report = self.world.journal().report().clone();
        // After a loss of power below level `power` a block can be there without the one that names its origins.
        let refuses = self.world.disk.refuses_writes;
        let known = |alarm: &&String| alarm.starts_with("who sent") || refuses && alarm.contains("cannot be synced");
        let alarms = report.alarms.iter().filter(|alarm| !known(alarm)).count();
        assert_eq!((report.damaged, alarms), (0, 0), "{report:?}");
        if report.unwritten_blocks > 0 {
            self.world.count("taken over");
        }
        (self.walk, self.found) = (None, self.world.segments());
        let found = self.world.scan_all();
        let aside: Vec<(RecordNumber, Option<String>, String)> = {
            let journal = self.world.journal();
            let name = |origin| journal.origin(origin).who.name().to_owned();
            let aside = journal.parked();
            aside
                .map(|(number, parked)| (number, parked.id.as_deref().map(str::to_owned), name(parked.origin)))
                .collect()
        };
        assert_eq!(report.recovered, (found.len() + aside.len()) as u64);
        let mut before = std::mem::take(&mut self.waiting);
        before.append(&mut self.parked);
        for (number, id, name) in aside {
            let Some(mut known) = before.remove(&number) else {
                // Below level `power` segments can come back that were freed, without the marks in later ones.
                assert!(self.world.options.durability == Durability::Process && self.world.disk.lost_power);
                let past = self.past.keys().copied().rfind(|(_, past)| *past == number);
                let kept = self.past.remove(&past.expect("it was a record once")).expect("found");
                self.parked
                    .insert(number, Waiting { kept, origin: OriginRef(0), held: None, segment: SegmentNumber(0) });
                continue;
            };
            assert!(name == known.kept.name || self.world.disk.lost_power, "{name}, not {}", known.kept.name);
            if known.kept.name != name {
                // Nobody knows any more who sent it.
                (known.kept.source, known.kept.name) = (name.clone(), name);
            }
            assert!(id == known.kept.id || !all_ids, "{id:?}, not {:?}", known.kept.id);
            known.kept.id = id;
            self.parked
                .insert(number, Waiting { origin: OriginRef(0), held: None, segment: SegmentNumber(0), ..known });
        }
        for kept in found {
            // Below level `power` segments can come back that were freed, without the marks in later ones.
            let unsafe_level = self.world.options.durability == Durability::Process && self.world.disk.lost_power;
            // Where the last numbers were lost they are given again, in another epoch.
            let same = before.get(&kept.number).is_some_and(|known| known.kept.epoch_id == kept.epoch_id);
            let mut known = before.remove(&kept.number).filter(|_| same || !unsafe_level).unwrap_or_else(|| {
                let past = self.past.remove(&(kept.epoch_id, kept.number)).filter(|_| unsafe_level);
                let kept = past.unwrap_or_else(|| panic!("{kept:?} is invented"));
                Waiting { kept, origin: OriginRef(0), held: None, segment: SegmentNumber(0) }
            });
            if kept.source == "unknown" && self.world.disk.lost_power {
                (known.kept.source, known.kept.name) = (kept.source.clone(), kept.name.clone());
            }
            let id = known.kept.id.clone().filter(|_| kept.id.is_none() && !all_ids);
            assert_eq!(Kept { id: kept.id.clone().or(id), ..kept.clone() }, known.kept);
            self.waiting
                .insert(kept.number, Waiting { kept, origin: OriginRef(0), held: None, segment: SegmentNumber(0) });
        }
        let origins: Vec<(OriginRef, LaneNumber)> =
            self.world.journal().origins().map(|(at, origin, _)| (at, origin.lane)).collect();
        for record in self.waiting.values_mut() {
            record.origin = origins.iter().find(|(_, lane)| *lane == record.kept.lane).expect("an origin").0;
        }
        self.open_lanes();
        self.synced.clear();
        let missing = before.keys().copied().collect();
        let lost = before.into_values().map(|record| ((record.kept.epoch_id, record.kept.number), record.kept));
        self.past.extend(lost);
        missing
    }

    /// However much is held: once the disk is done there is memory for ids and marks.
    fn assert_progress(&mut self) {
        if !self.on_disk() {
            return;
        }
        self.world.rest();
        let (now, number) = (self.world.now, self.waiting.keys().next().copied().unwrap_or(RecordNumber(0)));
        if self.world.segments() < self.world.options.segments_max() as u64 {
            let mut snapshot = JournalSnapshot::default();
            self.world.journal().snapshot(now, &mut snapshot);
            assert!(self.world.journal().append_id(now, number, "an id").is_ok(), "{snapshot:?}");
        }
    }

    /// Everything can be delivered in the end, and then nothing is left.
    fn drain(&mut self) {
        self.mend();
        self.assert_progress();
        for _ in 0..20_000 {
            (0..self.parked.len()).for_each(|_| self.unpark(0));
            if self.waiting.is_empty() && self.parked.is_empty() {
                break;
            }
            self.turn(false);
            while !self.world.pending.is_empty() {
                self.complete(0, false);
            }
            self.world.now.mono_ns += 300_000_000;
            let lanes: BTreeSet<LaneNumber> = self.waiting.values().map(|record| record.kept.lane).collect();
            for lane in lanes {
                while let Some((&number, Waiting { held: Some(at), origin, .. })) =
                    self.waiting.iter().find(|(_, record)| record.kept.lane == lane)
                {
                    self.world.journal().settle(number, *origin, *at);
                    self.settled.push(self.waiting.remove(&number).expect("found").kept);
                }
            }
            if self.on_disk() {
                self.walk_on();
            }
        }
        assert!(self.waiting.is_empty() && self.parked.is_empty(), "{} records are never found", self.waiting.len());
        self.end_walk();
        if self.on_disk() {
            self.world.rest();
            assert_eq!(self.world.journal().marks_in_memory(), 0);
            assert!(self.world.segments() <= 1);
        }
        // No memory is left behind but for the block that is being filled.
        let (now, mut snapshot) = (self.world.now, JournalSnapshot::default());
        self.world.journal().snapshot(now, &mut snapshot);
        assert!(snapshot.window_bytes <= u64::from(BLOCK_BYTES), "{snapshot:?}");
        let before = self.waiting.len();
        self.append(0, BLOCK_BYTES as usize / 2);
        assert_eq!(self.waiting.len(), before + 1, "there is room again");
    }
}

static SEEN: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

fn run(durability: Durability, segments: u64, physical: u32, seed: u64, actions: &[Action]) {
    let mut model = Model::new(durability, segments, physical, seed);
    for action in actions {
        model.act(action);
    }
    model.drain();
    let mut seen = SEEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (what, count) in model.world.seen {
        *seen.entry(what).or_default() += count;
    }
}

#[test]
fn the_journal_does_what_the_model_says() {
    let durability =
        prop_oneof![3 => Just(Durability::Process), 2 => Just(Durability::Power), 1 => Just(Durability::Memory)];
    let physical = prop_oneof![Just(512u32), Just(4096u32)];
    let actions = prop::collection::vec(action(), 1..400);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(durability in durability, segments in 4u64..=8, physical in physical, seed: u64, actions in actions)| {
        run(durability, segments, physical, seed, &actions);
    });
    let seen = SEEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("{seen:?}");
    for what in [
        "behind the window",
        "brought back",
        "clean stop",
        "committed",
        "directory not synced",
        "discarded",
        "failed operation",
        "freed",
        "full",
        "kill",
        "killed in a rewrite",
        "loss of power",
        "parked",
        "prepared",
        "read back",
        "reused",
        "rewrite given up",
        "rewritten",
        "sealed",
        "synced",
        "tail",
        "taken over",
        "unparked",
        "unsafe",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 5), "{what} hardly ever happened: {seen:?}");
    }
}

#[test]
fn a_walk_that_keeps_all_it_finds_leaves_memory_for_ids_and_marks() {
    let mut world = World::new(options(Durability::Process, 64, 8), 512, 4);
    world.open_whole();
    world.rest();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("source", "name"));
    let mut held = BTreeMap::new();
    let mut last = 0;
    for round in 0..200 {
        let room = world.journal().has_window_room();
        let Some((kept, at)) = world.append(origin, &[round; 900], b"") else {
            let now = world.now;
            assert!(
                world.journal().append_id(now, RecordNumber(last), "an id").is_ok(),
                "after {} records",
                held.len()
            );
            world.quiesce();
            continue;
        };
        if room && last + 1 == kept.number.0 {
            world.journal().hold(at);
            held.insert(kept.number, at);
            last = kept.number.0;
        }
        // The tail is in memory: it is found there, and kept there.
        let start = world.journal().position(at);
        world.start_scan(start);
        for _ in 0..20 {
            let mut found = Vec::new();
            let step = world.step(&mut found);
            for record in found {
                if let std::collections::btree_map::Entry::Vacant(place) = held.entry(record.number) {
                    world.journal().hold(record.at);
                    place.insert(record.at);
                    assert_eq!(world.view(origin, record.at).number, record.number);
                }
            }
            if step != Step::Block {
                break;
            }
        }
        world.now.mono_ns += 10_000_000;
        world.quiesce();
        let now = world.now;
        assert!(world.journal().append_id(now, kept.number, "an id").is_ok(), "after {} records", held.len());
    }
    for (number, at) in held {
        let (kept, journal) = (world.view(origin, at), world.journal());
        assert_eq!(kept.number, number);
        journal.settle(number, origin, at);
    }
    world.settle_all();
}
