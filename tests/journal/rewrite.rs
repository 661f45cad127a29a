//! Dense rewrites: an old record that stays unsettled does not keep the space of all that came after it, and whatever happens on
//! the way, nothing is lost, invented or delivered again.

use super::recovery::{Story, assert_recovered};
use super::world::{Kept, World, options, segment_of};
use ringest::config::Durability;
use ringest::ground::count::Counters;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::format::{BlockHeader, Kind, round_up};
use ringest::journal::{Op, Rewrite};
use ringest::journal::{Position, Step};
use std::collections::BTreeMap;

const SEGMENTS: u64 = 8;

/// Of the records one in so many stays unsettled for good.
#[derive(Clone, Copy)]
struct Stalled(u64);

impl Stalled {
    fn holds(self, number: RecordNumber) -> bool {
        number.0 % self.0 == 1
    }
}

fn story(durability: Durability, seed: u64) -> Story {
    let physical = if seed.is_multiple_of(2) { 4096 } else { 512 };
    Story::new(World::new(options(durability, SEGMENTS, 16), physical, seed), seed)
}

/// A record is taken, older ones are settled, ids are written, now and then. `false` where the journal is full.
fn flow(story: &mut Story, step: u64, stalled: Stalled) -> bool {
    story.world.now.mono_ns += 3_000_000;
    let room = story.append(200 + (step * 37 % 700) as usize);
    let numbers: Vec<RecordNumber> = story.waiting.keys().copied().filter(|number| !stalled.holds(*number)).collect();
    for number in &numbers[..numbers.len().saturating_sub(12)] {
        story.settle(*number);
    }
    // Old records get ids late: these lie in other segments than they do.
    if step.is_multiple_of(40) {
        story.append_id();
    }
    // What cannot be delivered does not stay in memory.
    if step.is_multiple_of(10) {
        story.forget(|number| stalled.holds(number));
    }
    story.world.turn(true);
    room
}

/// Ends the oldest of what is under way.
fn complete_some(story: &mut Story, count: usize) {
    for _ in 0..count {
        if !story.world.pending.is_empty() {
            story.world.complete(0, Ok(()));
        }
    }
}

fn seen(story: &Story, what: &str) -> u64 {
    story.world.seen.get(what).copied().unwrap_or(0)
}

/// The step of a rewrite that is under way.
fn step_of(world: &World) -> Option<&'static str> {
    world.pending.iter().find_map(|pending| match &pending.op {
        Op::Rewrite { work, .. } => Some(match work {
            Rewrite::Begin { .. } => "begin",
            Rewrite::Read { .. } => "read",
            Rewrite::Write { .. } => "write",
            Rewrite::Replace { .. } => "replace",
            Rewrite::SyncDirectory => "sync",
            Rewrite::GiveUp => "give up",
        }),
        _ => None,
    })
}

/// Every segment of the log that was rewritten, and its blocks: offset, bytes, header.
fn dense_blocks(world: &World) -> BTreeMap<SegmentNumber, Vec<(usize, usize, BlockHeader)>> {
    let mut found = BTreeMap::new();
    for (&segment, file) in &world.disk.segments {
        let (mut offset, mut blocks) = (world.disk.physical as usize, Vec::new());
        while let Some((header, Some(seal))) = BlockHeader::decode(&file.data[offset..]) {
            if header.at.segment != segment || header.dense.is_none() {
                break;
            }
            let bytes = round_up(seal.used, world.disk.physical) as usize;
            blocks.push((offset, bytes, header));
            offset += bytes;
        }
        if !blocks.is_empty() {
            found.insert(segment, blocks);
        }
    }
    found
}

#[test]
fn one_record_that_stays_does_not_stop_intake() {
    for durability in [Durability::Process, Durability::Power] {
        let mut story = story(durability, 41);
        assert!(story.append(700));
        let old = *story.waiting.keys().next().expect("it was appended");
        let (mut bytes, mut full) = (0, 0);
        for step in 0..8000 {
            let room = flow(&mut story, step, Stalled(u64::MAX));
            full += u64::from(!room);
            bytes += if room { 200 + step * 37 % 700 } else { 0 };
            let numbers: Vec<RecordNumber> = story.waiting.keys().copied().filter(|number| *number != old).collect();
            numbers.into_iter().for_each(|number| story.settle(number));
            complete_some(&mut story, 3);
            assert!(story.world.segments() <= SEGMENTS, "{}", story.world.segments());
        }
        let max = story.world.options.max_bytes;
        assert!(bytes > 8 * max, "{bytes} bytes went through {max}, {full} records found no room");
        assert!(full < 200, "{full} records found no room");
        let mut counters = Counters::default();
        story.world.journal().take_counters(&mut counters);
        assert!(counters.journal_rewritten > 10 && seen(&story, "rewritten") >= 5, "{:?}", story.world.seen);
        assert_eq!(counters.journal_errors, 0);
        story.world.rest();
        let expected = story.expected();
        assert!(expected.iter().any(|kept| kept.number == old));
        let mut other = story.world.killed_here();
        assert_recovered(&mut other, &expected);
        let numbers: Vec<RecordNumber> = story.waiting.keys().copied().collect();
        numbers.into_iter().for_each(|number| story.settle(number));
        story.world.rest();
        assert!(story.world.segments() <= 1, "{}", story.world.segments());
    }
}

#[test]
fn what_stays_in_every_segment_fills_one_dense_segment_after_the_other() {
    for (seed, durability) in [(51, Durability::Process), (52, Durability::Power)] {
        let mut story = story(durability, seed);
        // More than one segment's worth of records stays.
        let (mut dense, mut step) = (0, 0);
        while dense < 3 || story.waiting.len() < 200 {
            flow(&mut story, step, Stalled(29));
            complete_some(&mut story, 3);
            dense = dense_blocks(&story.world).len();
            step += 1;
            assert!(step < 30_000, "{dense} dense segments, {:?}", story.world.seen);
        }
        story.world.rest();
        let expected = story.expected();
        let ids = expected.iter().filter(|kept| kept.id.is_some()).count();
        assert!(expected.len() > 180 && ids > 50, "{} records stay, {ids} have ids", expected.len());
        let mut other = story.world.killed_here();
        assert_recovered(&mut other, &expected);
        // What was recovered is rewritten, settled and freed like the rest.
        other.settle_all();
        assert!(other.close());
    }
}

#[test]
fn marks_of_older_records_outlive_the_segments_that_they_are_in() {
    for (seed, durability) in [(71, Durability::Process), (72, Durability::Power)] {
        let mut story = Story::new(World::new(options(durability, SEGMENTS, 32), 512, seed), seed);
        // The first segment is full of records that wait: too many for a rewrite to be worth it.
        while story.world.segments() < 2 {
            assert!(story.append(950));
            story.world.turn(false);
            complete_some(&mut story, 3);
        }
        let mut old: Vec<RecordNumber> = story.waiting.keys().copied().collect();
        let kept = old.len() - 4;
        let first = *story.world.disk.segments.keys().next().expect("one");
        // Most of what comes then is settled at once, and now and then one of the first.
        let mut step = 0;
        while seen(&story, "rewritten") < 2 {
            let room = story.append(500);
            let newest = *story.waiting.keys().next_back().expect("some");
            if room && step % 12 > 0 {
                story.settle(newest);
            }
            if step % 12 == 0 {
                story.forget(|number| !old.contains(&number));
            }
            if step % 30 == 0 && old.len() > kept {
                story.settle(old.remove(5));
            }
            story.world.now.mono_ns += 3_000_000;
            story.world.turn(true);
            complete_some(&mut story, 3);
            step += 1;
            assert!(step < 20_000, "{:?}", story.world.seen);
        }
        let dense = dense_blocks(&story.world);
        assert!(old.len() == kept && !dense.contains_key(&first) && story.world.disk.segments.contains_key(&first));
        story.world.rest();
        let expected = story.expected();
        assert_eq!(expected.iter().filter(|record| old.contains(&record.number)).count(), kept);
        assert_recovered(&mut story.world.killed_here(), &expected);
    }
}

#[test]
fn a_segment_that_is_being_replaced_is_not_read_until_it_is() {
    let mut story = story(Durability::Power, 81);
    let mut step = 0;
    while step_of(&story.world) != Some("replace") {
        complete_some(&mut story, 3);
        flow(&mut story, step, Stalled(47));
        step += 1;
        assert!(step < 20_000, "{:?}", story.world.seen);
    }
    while let Some(index) = story.world.pending.iter().position(|other| !matches!(other.op, Op::Rewrite { .. })) {
        story.world.complete(index, Ok(()));
    }
    let Op::Rewrite { segment, .. } = story.world.pending[0].op else { panic!("only the rewrite is left") };
    let mut found = Vec::new();
    story.world.start_scan(Position { segment, offset: story.world.disk.physical });
    while story.world.step(&mut found) == Step::Block {}
    assert_eq!(story.world.pending.len(), 1, "the walk waits for the rewrite and asks for nothing");
    story.world.complete(0, Ok(()));
    assert_eq!(story.world.step(&mut found), Step::Wait);
    let read = |op: &Op| matches!(op, Op::ReadBack { segment: from, .. } if *from == segment);
    assert!(story.world.pending.iter().any(|pending| read(&pending.op)), "then it reads the new one");
    story.world.rest();
    assert_recovered(&mut story.world.killed_here(), &story.expected());
}

#[test]
fn a_kill_at_any_step_of_a_rewrite_loses_and_invents_nothing() {
    for (seed, durability) in [(1, Durability::Process), (2, Durability::Power), (3, Durability::Power)] {
        let mut story = story(durability, seed);
        let mut kills: BTreeMap<&str, u64> = BTreeMap::new();
        for step in 0..4000 {
            complete_some(&mut story, 1 + (step % 2) as usize);
            flow(&mut story, step, Stalled(47));
            if story.world.journal().marks_in_memory() > 0 {
                continue;
            }
            let Some(what) = step_of(&story.world) else { continue };
            for _ in 0..2 {
                let mut other = story.world.killed_here();
                assert_recovered(&mut other, &story.expected());
            }
            *kills.entry(what).or_default() += 1;
        }
        for what in ["begin", "read", "write", "replace", "sync"] {
            assert!(kills.get(what).is_some_and(|count| *count >= 5), "{what} was hardly ever hit: {kills:?}");
        }
    }
}

#[test]
fn a_loss_of_power_at_any_step_of_a_rewrite_loses_nothing() {
    let mut story = story(Durability::Power, 7);
    let mut cuts: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for step in 0..5000 {
        complete_some(&mut story, 1 + (step % 2) as usize);
        flow(&mut story, step, Stalled(47));
        let Some(what) = step_of(&story.world) else { continue };
        let durable = story.world.journal().durable_below();
        for seed in 0..4 {
            let mut disk = story.world.disk.image();
            disk.rng = fastrand::Rng::with_seed(step * 4 + seed);
            for pending in &story.world.pending {
                if let Op::Rewrite { segment, work, .. } = &pending.op
                    && disk.rng.bool()
                {
                    disk.rewrite(*segment, work);
                }
            }
            let renamed = disk.segments.values().any(super::disk::File::is_replaced);
            disk.lose_power();
            let back = !disk.segments.values().any(super::disk::File::is_replaced) && renamed;
            let mut other = World::on(disk, story.world.options.clone());
            // The power fails again while the journal is read.
            if seed > 1 {
                other.disk.fuse = Some(other.disk.rng.u32(1..30));
                let _ = other.open();
                other.disk.fuse = None;
                other.disk.lose_power();
            }
            other.open_whole();
            let found = other.scan_all();
            for kept in &found {
                let known = story.waiting.get(&kept.number).map(|(kept, ..)| kept);
                let known: &Kept = known.or_else(|| story.settled.get(&kept.number)).expect("it is not invented");
                let id = kept.id.clone().or_else(|| known.id.clone());
                assert_eq!(&Kept { id, ..kept.clone() }, known);
            }
            let missing =
                story.waiting.keys().find(|number| **number < durable && !found.iter().any(|f| f.number == **number));
            assert_eq!(missing, None, "at {what}");
            *cuts.entry((what, back)).or_default() += 1;
        }
    }
    for what in
        [("begin", false), ("read", false), ("write", false), ("replace", false), ("replace", true), ("sync", true)]
    {
        assert!(cuts.get(&what).is_some_and(|count| *count >= 5), "{what:?} was hardly ever hit: {cuts:?}");
    }
}

#[test]
fn a_rewrite_that_fails_at_any_step_is_given_up_and_tried_again() {
    for failing in ["begin", "read", "write", "replace"] {
        let mut story = story(Durability::Power, 9);
        let (mut failures, mut step) = (0, 0);
        while seen(&story, "rewritten") < 2 {
            flow(&mut story, step, Stalled(47));
            let index = story.world.pending.iter().position(|pending| matches!(pending.op, Op::Rewrite { .. }));
            match index.filter(|_| failures < 3 && step_of(&story.world) == Some(failing)) {
                Some(index) => {
                    story.world.complete(index, Err(28)); // ENOSPC
                    failures += 1;
                }
                None => complete_some(&mut story, 3),
            }
            step += 1;
            assert!(step < 40_000, "{failing}: {failures} failures, {:?}", story.world.seen);
        }
        assert_eq!((failures, seen(&story, "rewrite given up")), (3, 3), "{failing}");
        story.world.rest();
        let expected = story.expected();
        assert_recovered(&mut story.world.killed_here(), &expected);
    }
}

#[test]
fn a_directory_that_cannot_be_synced_keeps_the_old_files_until_the_next_start() {
    let mut story = story(Durability::Power, 13);
    let mut step = 0;
    let freed = loop {
        flow(&mut story, step, Stalled(47));
        if step_of(&story.world) == Some("sync") {
            let index = story.world.pending.iter().position(|pending| matches!(pending.op, Op::Rewrite { .. }));
            let files: Vec<SegmentNumber> = story.world.disk.segments.keys().copied().collect();
            story.world.complete(index.expect("it is under way"), Err(5));
            break files;
        }
        complete_some(&mut story, 3);
        step += 1;
    };
    for more in 0..400 {
        flow(&mut story, step + more, Stalled(47));
        complete_some(&mut story, 3);
        assert!(step_of(&story.world).is_none(), "no rewrite is begun any more");
    }
    assert!(freed.iter().all(|segment| story.world.disk.segments.contains_key(segment)), "{freed:?}");
    story.world.rest();
    let expected = story.expected();
    for seed in 0..8 {
        let mut disk = story.world.disk.image();
        disk.rng = fastrand::Rng::with_seed(seed);
        if seed > 1 {
            disk.lose_power();
        }
        let mut other = World::on(disk, story.world.options.clone());
        other.open_whole();
        let found = other.scan_all();
        // Settled ones come back where their marks were in the segment that was replaced and is lost with its name.
        let lost = expected.iter().find(|kept| !found.iter().any(|found| found.number == kept.number));
        assert_eq!(lost, None, "seed {seed}");
        other.rest();
        assert!(freed.iter().any(|segment| !other.disk.segments.contains_key(segment)), "the old files are freed");
    }
}

#[test]
fn damage_in_a_dense_segment_is_told_and_costs_only_what_it_hits() {
    let mut story = story(Durability::Power, 15);
    let mut step = 0;
    while dense_blocks(&story.world).values().map(Vec::len).max().unwrap_or(0) < 4 {
        flow(&mut story, step, Stalled(23));
        complete_some(&mut story, 3);
        step += 1;
    }
    story.world.rest();
    let expected = story.expected();
    for (segment, blocks) in dense_blocks(&story.world) {
        for (index, (offset, bytes, header)) in blocks.iter().enumerate() {
            assert_eq!(header.dense.expect("a dense one").last, index + 1 == blocks.len());
            for at in [*offset, offset + 90, offset + 100, offset + bytes / 3] {
                let mut disk = story.world.disk.image();
                let file = disk.segments.get_mut(&segment).expect("it is there");
                file.data[at] ^= 0x55;
                let mut other = World::on(disk, story.world.options.clone());
                other.open_whole();
                let found = other.scan_all();
                let report = other.journal().report().clone();
                assert!(report.damaged > 0 && !report.alarms.is_empty(), "{at} of block {index}: {report:?}");
                assert!(found.iter().all(|kept| expected.iter().any(|known| known.number == kept.number)));
                let block = &story.world.disk.segments[&segment].data[*offset..offset + bytes];
                let entries = ringest::journal::format::Entries::new(block, header.nonce, *offset as u32);
                let hit: Vec<RecordNumber> =
                    entries.filter(|e| e.header.kind == Kind::Record).map(|e| e.header.number).collect();
                let lost = expected.iter().filter(|kept| !found.iter().any(|found| found.number == kept.number));
                let lost: Vec<RecordNumber> = lost.map(|kept| kept.number).collect();
                assert!(lost.iter().all(|number| hit.contains(number)), "{lost:?} of {hit:?}");
            }
        }
        // The header of the segment is made anew, though the block file has other blocks of that number.
        let mut disk = story.world.disk.image();
        disk.segments.get_mut(&segment).expect("it is there").data[30] ^= 1;
        let mut other = World::on(disk, story.world.options.clone());
        other.open_whole();
        assert_eq!(other.scan_all(), expected);
        assert_eq!(other.journal().report().alarms.len(), 1);
    }
}

#[test]
fn a_missing_segment_behind_a_dense_one_is_told() {
    let mut story = story(Durability::Power, 17);
    let behind = |story: &Story| {
        let dense = dense_blocks(&story.world).keys().next_back().copied()?;
        let behind: Vec<SegmentNumber> =
            story.world.disk.segments.keys().copied().filter(|segment| *segment > dense).collect();
        (behind.len() >= 4).then_some(behind)
    };
    let mut step = 0;
    let behind = loop {
        complete_some(&mut story, 3);
        flow(&mut story, step, Stalled(47));
        step += 1;
        assert!(step < 20_000, "{:?}", story.world.seen);
        if let Some(behind) = behind(&story) {
            break behind;
        }
    };
    assert_recovered(&mut story.world.killed_here(), &story.expected());
    let mut disk = story.world.disk.image();
    disk.segments.remove(&behind[0]);
    let mut other = World::on(disk, story.world.options.clone());
    other.open_whole();
    assert!(other.journal().report().damaged > 0, "{:?}", other.journal().report());
}

#[test]
fn a_clean_stop_in_the_middle_of_a_rewrite_leaves_the_run_as_it_is() {
    let mut stops = 0;
    for seed in 0..12 {
        let mut story = story(Durability::Process, 60 + seed);
        let mut step = 0;
        while step_of(&story.world).is_none() || seen(&story, "step of a rewrite") < seed * 4 {
            complete_some(&mut story, 2);
            flow(&mut story, step, Stalled(47));
            step += 1;
            assert!(step < 20_000, "{:?}", story.world.seen);
        }
        let what = step_of(&story.world).expect("looked at");
        let expected = story.expected();
        story.forget(|_| true);
        assert!(story.world.close(), "at {what}");
        story.world.disk.lose_power();
        assert!(story.world.disk.dense.is_none() || what != "give up");
        story.world.open_whole();
        assert_recovered(&mut story.world, &expected);
        assert!(story.world.pending.iter().all(|pending| segment_of(&pending.op) != Some(SegmentNumber(0))));
        stops += 1;
    }
    assert_eq!(stops, 12);
}
