//! Recovery: whatever the moment of the kill, the unsettled records come back, and only they.

use super::disk::Disk;
use super::world::{Kept, Pending, World, headers_of, options};
use ringest::config::Durability;
use ringest::ground::{KeptHeaders, RecordNumber};
use ringest::journal::Op;
use ringest::journal::{Appended, Claim, Identity, KeyHashes, Location, NewRecord, OriginRef};
use std::collections::{BTreeMap, HashSet};

/// A gateway with a few lanes at work; settled records leave `waiting`.
pub struct Story {
    pub world: World,
    pub waiting: BTreeMap<RecordNumber, (Kept, OriginRef, Location)>,
    /// Of those that are in memory no more.
    forgotten: HashSet<RecordNumber>,
    pub settled: BTreeMap<RecordNumber, Kept>,
    origins: Vec<OriginRef>,
    rng: fastrand::Rng,
}

impl Story {
    pub fn new(world: World, seed: u64) -> Self {
        let mut story = Self {
            world,
            waiting: BTreeMap::new(),
            forgotten: HashSet::new(),
            settled: BTreeMap::new(),
            origins: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        story.world.open_whole();
        story.world.quiesce();
        for index in 0..4 {
            story.add_origin(index);
        }
        story
    }

    fn add_origin(&mut self, index: usize) {
        let journal = self.world.journal();
        let lane = journal.new_lane();
        let who = Identity::new(&format!("source-{index}"), &format!("name-{index}@10.0.0.{index}:9"));
        let origin = journal.open_origin(lane, who);
        self.origins.push(origin);
    }

    /// One record, which stays in memory.
    pub fn append(&mut self, bytes: usize) -> bool {
        let origin = self.origins[self.rng.usize(..self.origins.len())];
        let mut data = vec![0; bytes];
        self.rng.fill(&mut data);
        let key: &[u8] = if self.rng.u8(..3) == 0 { b"a key of the machine" } else { b"" };
        let Some((kept, at)) = self.world.append(origin, &data, key) else { return false };
        self.world.journal().hold(at);
        self.waiting.insert(kept.number, (kept, origin, at));
        true
    }

    /// Records that are kept all or none.
    pub fn append_batch(&mut self, sizes: &[usize]) {
        let origin = self.origins[0];
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|bytes| vec![b'b'; *bytes]).collect();
        let encoded = headers_of(b"lot");
        let records = bodies.iter().map(|data| NewRecord {
            origin,
            flags: 0,
            first_byte_wall_ns: 5,
            frame_us: 6,
            key: b"",
            hashes: None,
            headers: KeptHeaders::of(&encoded),
            data,
        });
        let records: Vec<NewRecord<'_>> = records.collect();
        let now = self.world.now;
        let sizes = sizes.iter().map(|bytes| encoded.len() + bytes);
        let room = self.world.journal().room_for_batch(now, Claim::Waits, sizes).expect("room");
        let hashes = KeyHashes::of_marked("name-0", b"a key of the whole", b"lines", b"the body");
        for Appended { at, .. } in self.world.journal().append_batch(now, room, &records, Some(&hashes)) {
            self.world.journal().hold(at);
            let kept = self.world.view(origin, at);
            assert_eq!(kept.headers, encoded);
            self.waiting.insert(kept.number, (kept, origin, at));
        }
    }

    pub fn settle(&mut self, number: RecordNumber) {
        let (kept, origin, at) = self.waiting.remove(&number).expect("it waits");
        self.settled.insert(number, kept);
        self.world.journal().settle(number, origin, at);
    }

    /// Records give their memory back; they are not to be settled any more.
    pub fn forget(&mut self, which: impl Fn(RecordNumber) -> bool) {
        for (number, (.., at)) in &self.waiting {
            if which(*number) && self.forgotten.insert(*number) {
                self.world.journal().release(*at);
            }
        }
    }

    pub fn append_id(&mut self) {
        let missing = self.waiting.values_mut().find(|(kept, ..)| kept.id.is_none());
        let Some((kept, ..)) = missing else { return };
        let id = format!("id-{}", kept.number);
        let now = self.world.now;
        if self.world.journal().append_id(now, kept.number, &id).is_ok() {
            kept.id = Some(id);
        }
    }

    /// One random operation. `true` where marks of settled records may not be in a block yet.
    fn step(&mut self) -> bool {
        self.world.now.mono_ns += 700_000;
        match self.rng.u8(..12) {
            0..=4 => {
                let bytes = self.rng.usize(..1200);
                self.append(bytes);
            }
            5 => self.append_id(),
            6..=8 => {
                let numbers: Vec<RecordNumber> =
                    self.waiting.keys().copied().take(self.waiting.len().saturating_sub(20)).collect();
                for number in numbers.into_iter().take(3) {
                    self.settle(number);
                }
                return true;
            }
            9 => self.world.turn(false),
            _ => {
                if !self.world.pending.is_empty() {
                    let index = self.rng.usize(..self.world.pending.len());
                    self.world.complete(index, Ok(()));
                }
            }
        }
        false
    }

    pub fn expected(&self) -> Vec<Kept> {
        self.waiting.values().map(|(kept, ..)| kept.clone()).collect()
    }
}

pub fn assert_recovered(world: &mut World, expected: &[Kept]) {
    let found = world.scan_all();
    assert_eq!(found.len(), expected.len(), "{:?}", world.journal().report());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    let report = world.journal().report().clone();
    assert_eq!((report.recovered, world.journal().unsettled()), (expected.len() as u64, expected.len() as u64));
    assert_eq!((report.damaged, &report.alarms[..]), (0, &[][..]));
}

#[test]
fn a_kill_after_any_operation_loses_and_invents_nothing() {
    for (seed, durability) in [(1, Durability::Process), (2, Durability::Power), (3, Durability::Process)] {
        let mut story = Story::new(World::new(options(durability, 8, 16), 4096 >> (3 * (seed % 2)), seed), seed);
        let mut marks_in_memory = false;
        let mut checked = 0;
        for _ in 0..1500 {
            marks_in_memory |= story.step();
            if marks_in_memory {
                story.world.turn(false);
                marks_in_memory = story.world.journal().marks_in_memory() > 0;
            }
            if !marks_in_memory {
                let mut other = story.world.killed_here();
                assert_recovered(&mut other, &story.expected());
                checked += 1;
            }
        }
        let seen = (checked, story.waiting.len(), story.world.segments());
        assert!(checked > 1000, "{seen:?}");
        let count = |what| story.world.seen.get(what).copied().unwrap_or(0);
        assert!(count("freed") > 1 && count("reused") > 0, "{:?}", story.world.seen);
    }
}

#[test]
fn a_second_crash_at_any_call_of_recovery_loses_nothing() {
    let mut story = Story::new(World::new(options(Durability::Process, 8, 16), 512, 11), 11);
    let mut crashes = 0;
    for round in 0..12 {
        for _ in 0..60 {
            story.step();
        }
        story.world.turn(false);
        assert_eq!(story.world.journal().marks_in_memory(), 0);
        let expected = story.expected();
        for fuse in 1.. {
            let mut disk = story.world.disk.image();
            for pending in &story.world.pending {
                land_in_part(&mut disk, pending, round);
            }
            disk.fuse = Some(fuse);
            let mut other = World::on(disk, story.world.options.clone());
            let failed = other.open().is_err();
            // The same again, with the disk mended.
            let mut disk = other.disk.image();
            drop(other);
            disk.fuse = None;
            let mut other = World::on(disk, story.world.options.clone());
            other.open_whole();
            if !failed {
                break;
            }
            crashes += 1;
            let found = other.scan_all();
            assert_eq!(found, expected, "after a crash at call {fuse}");
        }
    }
    assert!(crashes > 100, "{crashes}");
}

fn land_in_part(disk: &mut Disk, pending: &Pending, round: usize) {
    if let Op::Commit { segment, offset, .. } = pending.op {
        let part = pending.data.len() / 512 * round / 12 * 512;
        disk.write(segment, offset as usize, &pending.data[..part], false);
    }
}

#[test]
fn a_write_of_the_dead_process_that_lands_after_recovery_changes_nothing() {
    let mut landed = 0;
    for seed in 0..120 {
        let mut story = Story::new(World::new(options(Durability::Process, 8, 16), 512, seed), seed);
        for _ in 0..300 {
            story.step();
        }
        story.world.turn(false);
        let expected = story.expected();
        let late = story.world.kill();
        story.world.open_whole();
        for pending in late {
            if let Op::Commit { segment, offset, .. } = pending.op
                && story.world.disk.segments.contains_key(&segment)
            {
                story.world.disk.write(segment, offset as usize, &pending.data, false);
                landed += 1;
            }
        }
        assert_eq!(story.world.scan_all(), expected);
        // Nor for the start after that.
        story.world.kill();
        story.world.open_whole();
        assert_eq!(story.world.scan_all(), expected);
    }
    assert!(landed > 10, "{landed}");
}

#[test]
fn a_clean_stop_leaves_nothing_to_be_finished() {
    for durability in [Durability::Process, Durability::Power] {
        let mut story = Story::new(World::new(options(durability, 8, 16), 4096, 5), 5);
        for round in 0..6 {
            for _ in 0..100 {
                story.step();
            }
            let expected = story.expected();
            assert!(story.world.close());
            assert_eq!(story.world.disk.blocks.len(), 0, "the block file is gone");
            // Nothing of it needs the boot, nor what was not synced.
            story.world.disk.lose_power();
            story.world.open_whole();
            let report = story.world.journal().report();
            assert!(report.clean);
            assert_eq!((report.finished_blocks, report.torn), (0, 0), "round {round}");
            assert_recovered(&mut story.world, &expected);
            assert_eq!(story.world.disk.blocks.len(), 1);
            assert_eq!(story.world.disk.epochs.len(), 1);
            assert!(story.world.disk.quarantined.is_empty());
            story.settle_all();
        }
    }
}

/// Marks lie in later segments than what they settle, and files are put aside in no order.
#[test]
fn segments_that_are_freed_together_take_no_marks_away() {
    for durability in [Durability::Process, Durability::Power] {
        let mut story = Story::new(World::new(options(durability, 8, 16), 4096, 17), 17);
        assert!(story.append(50));
        while story.world.segments() < 4 {
            assert!(story.append(700));
            story.world.quiesce();
            let newest = *story.waiting.keys().next_back().expect("some");
            story.settle(newest);
        }
        let oldest = *story.waiting.keys().next().expect("the first");
        story.settle(oldest);
        assert!(story.append(60));
        let expected = story.expected();
        // Every file but the oldest is put aside, then the process is killed.
        for _ in 0..4 {
            story.world.turn(true);
            let oldest = *story.world.disk.segments.keys().next().expect("some");
            while let Some(index) = story
                .world
                .pending
                .iter()
                .position(|pending| !matches!(pending.op, Op::FreeSegment { segment, .. } if segment == oldest))
            {
                story.world.complete(index, Ok(()));
            }
        }
        let waits = |pending: &Pending| matches!(pending.op, Op::FreeSegment { .. });
        assert!(story.world.pending.iter().any(waits) && story.world.seen["freed"] >= 2, "{:?}", story.world.seen);
        let mut other = story.world.killed_here();
        assert_recovered(&mut other, &expected);
    }
}

#[test]
fn a_directory_goes_on_with_another_physical_block_and_smaller_blocks() {
    for (before, after) in [(512, 4096), (4096, 512)] {
        let mut story = Story::new(World::new(options(Durability::Power, 8, 16), before, 23), 23);
        for _ in 0..300 {
            story.step();
        }
        let expected = story.expected();
        assert!(story.world.close());
        story.world.disk.physical = after;
        story.world.options.block_bytes = 4096;
        story.world.open_whole();
        assert_recovered(&mut story.world, &expected);
        let durable = story.world.journal().durable_below();
        assert!(expected.iter().all(|kept| kept.number < durable), "what is recovered is durable");
        story.settle_all();
    }
}

#[test]
fn a_start_without_work_leaves_no_files_behind() {
    let mut world = World::new(options(Durability::Process, 4, 8), 4096, 9);
    for round in 0..20 {
        world.open_whole();
        world.quiesce();
        assert!(world.disk.segments.len() <= 2, "round {round}: {:?}", world.disk.segments.keys());
        if round % 2 == 0 {
            assert!(world.close());
        } else {
            world.kill();
        }
    }
    assert!(world.disk.epochs.len() == 1 && world.disk.blocks.len() <= 1);
}

#[test]
fn two_starts_never_give_equal_keys() {
    let mut keys = HashSet::new();
    let mut story = Story::new(World::new(options(Durability::Process, 8, 16), 512, 21), 21);
    let mut given = 0;
    for round in 0..30 {
        for _ in 0..10 {
            assert!(story.append(40));
        }
        for kept in story.expected() {
            assert!(keys.insert((kept.epoch_id, story.world.journal().core(), kept.number)), "{kept:?}");
            given += 1;
        }
        match round % 3 {
            0 => {
                assert!(story.world.close());
            }
            1 => drop(story.world.kill()),
            _ => {
                story.world.kill();
                story.world.disk.lose_power();
            }
        }
        // A copy of the directory gives other keys too, though its numbers are the same.
        let mut clone = World::on(story.world.disk.image(), story.world.options.clone());
        clone.disk.rng = fastrand::Rng::with_seed(1000 + round);
        clone.open_whole();
        clone.quiesce();
        let lane = clone.journal().new_lane();
        let origin = clone.journal().open_origin(lane, Identity::new("s", "n"));
        let (kept, _) = clone.append(origin, b"x", b"").expect("room");
        assert!(keys.insert((kept.epoch_id, ringest::ground::CoreId(3), kept.number)));
        given += 1;

        story.world.open_whole();
        story.world.quiesce();
        story.settle_all();
        let (kept, ..) = story.world.append(story.origins[0], b"y", b"").expect("room");
        assert!(keys.insert((kept.epoch_id, ringest::ground::CoreId(3), kept.number)));
        given += 1;
        story.world.quiesce();
        story.settle_all();
    }
    assert_eq!(keys.len(), given);
}

impl Story {
    /// Settles whatever there is; new records come from new origins.
    fn settle_all(&mut self) {
        self.waiting.clear();
        self.world.settle_all();
        self.origins.clear();
        for index in 0..3 {
            self.add_origin(index);
        }
    }
}
