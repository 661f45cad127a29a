//! Damage: files cut short, bytes flipped, lives mixed up. What is whole is kept, and nothing is invented.

use super::disk::Disk;
use super::recovery::Story;
use super::world::{Kept, World, options};
use ringest::config::Durability;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::Op;
use ringest::journal::format::{BlockHeader, Entries, Kind, SegmentHeader, round_up};
use ringest::journal::{Identity, Options, Position, Step, Storage};
use std::collections::BTreeMap;
use std::ops::Range;

pub const SEGMENT_BYTES: u32 = 16 * 1024;
pub const PHYSICAL: u32 = 512;

fn small(durability: Durability) -> Options {
    let options = options(durability, 8, 16);
    Options { segment_bytes: SEGMENT_BYTES, block_bytes: 4096, window_bytes: 16 * 4096, ..options }
}

/// A journal of two and a half segments, all on disk and all in block memory, with some records settled.
pub fn story(durability: Durability, seed: u64) -> Story {
    let mut story = Story::new(World::new(small(durability), PHYSICAL, seed), seed);
    let mut size = 0;
    while story.world.segments() < 2 || size % 8 != 0 {
        size += 1;
        assert!(story.append(size * 7 % 700));
        if size % 5 == 0 {
            let number = *story.waiting.keys().nth(size % 3).expect("some wait");
            story.settle(number);
        }
        if size % 3 == 0 {
            story.append_id();
        }
        story.world.quiesce();
        story.world.now.mono_ns += 2_000_000;
    }
    story.world.now.mono_ns += 10_000_000_000;
    story.world.quiesce();
    story
}

/// Where a record's bytes are: its segment, block and entry.
pub struct Place {
    pub segment: SegmentNumber,
    pub block: Range<usize>,
    pub entry: Range<usize>,
}

/// All records that a disk holds, settled ones included.
pub fn layout(disk: &Disk) -> BTreeMap<RecordNumber, Place> {
    let mut places = BTreeMap::new();
    for (&segment, file) in &disk.segments {
        let header = SegmentHeader::decode(&file.data).expect("a header");
        let mut offset = PHYSICAL as usize;
        while let Some((block, Some(seal))) = BlockHeader::decode(&file.data[offset..]) {
            if block.nonce != header.nonce {
                break;
            }
            let end = offset + round_up(seal.used, PHYSICAL) as usize;
            for entry in Entries::new(&file.data[offset..offset + seal.used as usize], block.nonce, offset as u32) {
                if entry.header.kind == Kind::Record {
                    let start = offset + entry.offset;
                    let place = Place { segment, block: offset..end, entry: start..start + entry.bytes() };
                    places.insert(entry.header.number, place);
                }
            }
            offset = end;
        }
    }
    places
}

/// Opens, checks that nothing was invented or altered, and gives the numbers found, settled ones included.
pub fn recover(
    disk: Disk,
    options: &Options,
    written: &BTreeMap<RecordNumber, Kept>,
    what: &str,
) -> (World, Vec<RecordNumber>) {
    let mut world = World::on(disk, options.clone());
    world.open_whole();
    let found = world.scan_all();
    for kept in &found {
        let expected = written.get(&kept.number).unwrap_or_else(|| panic!("{what}: {} is invented", kept.number));
        // An id, or who sent a record, can be what was lost; the record itself is whole.
        let id = kept.id.clone().or_else(|| expected.id.clone());
        let kept = Kept { id, ..kept.clone() };
        if kept.source == "unknown" {
            let named = Kept { source: expected.source.clone(), name: expected.name.clone(), ..kept };
            assert_eq!(&named, expected, "{what}");
        } else {
            assert_eq!(&kept, expected, "{what}");
        }
    }
    assert_eq!(world.journal().unsettled(), found.len() as u64, "{what}: what is counted can be found");
    assert_eq!(world.journal().report().recovered, found.len() as u64, "{what}");
    (world, found.iter().map(|kept| kept.number).collect())
}

/// The journal goes on, can be emptied, and the next start finds nothing of it.
fn assert_goes_on(mut world: World) {
    world.quiesce();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("after", "after"));
    let (kept, at) = world.append(origin, b"after the damage", b"").expect("room");
    world.journal().hold(at);
    world.journal().settle(kept.number, origin, at);
    world.journal().close_origin(origin);
    world.settle_all();
    world.kill();
    world.open_whole();
    assert_eq!(world.scan_all(), []);
}

/// Every record that the story ever wrote.
pub fn written(story: &mut Story) -> BTreeMap<RecordNumber, Kept> {
    let mut all = story.settled.clone();
    all.extend(story.waiting.iter().map(|(number, (kept, ..))| (*number, kept.clone())));
    all
}

#[test]
fn a_newest_segment_cut_at_any_byte_loses_nothing_with_its_block_file() {
    let story = story(Durability::Process, 31);
    let expected = story.expected();
    let newest = layout(&story.world.disk).values().map(|place| place.segment).max().expect("records");
    for cut in 0..=SEGMENT_BYTES as usize {
        let mut disk = story.world.disk.image();
        disk.segments.get_mut(&newest).expect("there").data.truncate(cut);
        let mut world = World::on(disk, story.world.options.clone());
        world.open_whole();
        assert_eq!(world.scan_all(), expected, "cut at {cut}");
        if cut % 61 == 0 {
            // What was finished is whole for the next start too, which has no block file.
            world.disk.lose_power();
            world.kill();
            world.open_whole();
            assert_eq!(world.scan_all(), expected, "cut at {cut}");
            assert_goes_on(world);
        }
    }
}

#[test]
fn a_newest_segment_cut_at_any_byte_keeps_what_is_whole() {
    for durability in [Durability::Process, Durability::Power] {
        let mut story = story(durability, 32);
        let written = written(&mut story);
        let places = layout(&story.world.disk);
        let newest = places.values().map(|place| place.segment).max().expect("records");
        for cut in 0..=SEGMENT_BYTES as usize {
            let mut disk = story.world.disk.image();
            for &segment in story.world.disk.segments.keys() {
                disk.sync(segment);
            }
            disk.lose_power();
            disk.segments.get_mut(&newest).expect("there").data.truncate(cut);
            let (world, found) = recover(disk, &story.world.options, &written, &format!("cut at {cut}"));
            for &number in story.waiting.keys() {
                let place = &places[&number];
                let found = found.contains(&number);
                assert!(found || place.segment == newest && place.entry.end > cut, "record {number}, cut at {cut}");
                // What is missing reads as zeros, as padding does.
                assert!(!found || place.segment < newest || place.entry.start < cut, "record {number}, cut at {cut}");
            }
            if cut % 61 == 0 {
                assert_goes_on(world);
            }
        }
    }
}

#[test]
fn a_flipped_byte_of_a_segment_costs_at_most_its_block() {
    let mut story = story(Durability::Power, 33);
    let (written, places, options) = (written(&mut story), layout(&story.world.disk), story.world.options.clone());
    assert!(story.world.close());
    let disk = &mut story.world.disk;
    let (mut missed, mut seen) = (0, 0);
    let segments: Vec<SegmentNumber> = disk.segments.keys().copied().collect();
    for segment in segments {
        for at in 0..SEGMENT_BYTES as usize {
            let mask = disk.rng.u8(1..);
            let mut disk = disk.image();
            disk.segments.get_mut(&segment).expect("there").data[at] ^= mask;
            let what = format!("byte {at} of segment {segment} flipped by {mask:#x}");
            let (mut world, found) = recover(disk, &options, &written, &what);
            let lost: Vec<RecordNumber> =
                story.waiting.keys().copied().filter(|number| !found.contains(number)).collect();
            for number in &lost {
                let place = &places[number];
                let damaged = place.segment == segment && place.block.contains(&at);
                assert!(damaged, "{what} costs record {number} at {:?} of segment {}", place.entry, place.segment);
            }
            seen += usize::from(world.journal().report().damaged > 0);
            missed += usize::from(!lost.is_empty() && world.journal().report().damaged == 0);
            if at % 61 == 0 {
                assert_goes_on(world);
            }
        }
    }
    // Only the newest block is above the last watermark that was written down.
    assert!(seen > SEGMENT_BYTES as usize / 2, "{seen} are told");
    assert!(missed <= 4096, "{missed} losses without a word");
}

#[test]
fn a_flipped_byte_of_a_segment_costs_nothing_with_its_block_file() {
    let mut story = story(Durability::Process, 34);
    let expected = story.expected();
    let (written, options) = (written(&mut story), story.world.options.clone());
    let newest = layout(&story.world.disk).values().map(|place| place.segment).max().expect("records");
    for at in 0..SEGMENT_BYTES as usize {
        let mut disk = story.world.disk.image();
        let mask = disk.rng.u8(1..);
        disk.segments.get_mut(&newest).expect("there").data[at] ^= mask;
        let (_, found) = recover(disk, &options, &written, &format!("byte {at} flipped"));
        assert!(found.iter().eq(expected.iter().map(|kept| &kept.number)), "byte {at} flipped by {mask:#x}");
    }
}

#[test]
fn a_flipped_byte_of_the_block_file_costs_only_what_the_disk_lacks() {
    let mut story = story(Durability::Process, 35);
    let on_disk: Vec<RecordNumber> = story.waiting.keys().copied().collect();
    for size in 0..20 {
        assert!(story.append(size * 11));
    }
    story.world.turn(false);
    let (written, options) = (written(&mut story), story.world.options.clone());
    let (name, bytes) =
        story.world.disk.blocks.iter().map(|(name, file)| (name.clone(), file.len())).next().expect("one");
    let (mut costs, mut free) = (0, 0);
    for at in (0..bytes).filter(|at| at % 4096 < 2048 || at % 7 == 0) {
        let disk = story.world.disk.image();
        let file = disk.blocks[&name].clone();
        let byte = file.bytes(at..at + 1)[0] ^ 0x10;
        file.write(at, &[byte]);
        let (_, found) = recover(disk, &options, &written, &format!("byte {at} of the block file flipped"));
        assert!(on_disk.iter().all(|number| found.contains(number)), "byte {at} flipped");
        let all = story.waiting.keys().all(|number| found.contains(number));
        costs += usize::from(!all);
        free += usize::from(all);
    }
    assert!(costs > 0 && free > costs, "{costs} {free}");
}

#[test]
fn a_flipped_byte_of_the_block_file_costs_nothing_that_a_torn_write_brought_to_the_disk() {
    let mut story = story(Durability::Power, 41);
    for size in 0..8 {
        assert!(story.append(100 + size));
    }
    story.world.turn(true);
    let written = written(&mut story);
    let commits = story.world.pending.iter().filter_map(|pending| match pending.op {
        Op::Commit { segment, offset, memory_offset, .. } => {
            Some((segment, offset, memory_offset as usize, &pending.data))
        }
        _ => None,
    });
    let largest = commits.max_by_key(|(.., data)| data.len());
    let (segment, offset, memory_offset, data) = largest.expect("a write is under way");
    let (header, seal) = BlockHeader::decode(data).expect("a block");
    let used = seal.expect("sealed").used as usize;
    let mut brought = 0;
    for cut in (512..used).step_by(512) {
        let whole = Entries::new(&data[..cut], header.nonce, offset);
        let whole: Vec<RecordNumber> =
            whole.filter(|e| e.header.kind == Kind::Record).map(|e| e.header.number).collect();
        brought += whole.len();
        for at in (0..used).step_by(13) {
            let mut disk = story.world.disk.image();
            disk.write(segment, offset as usize, &data[..cut], false);
            disk.blocks.values().next().expect("one").write(memory_offset + at, &[data[at] ^ 0x10]);
            let what = format!("{cut} bytes written, byte {at} of the copy flipped");
            let (_, found) = recover(disk, &story.world.options, &written, &what);
            assert!(whole.iter().all(|number| found.contains(number)), "{what}: {whole:?}, found {found:?}");
        }
    }
    assert!(brought > 0);
}

#[test]
fn a_flipped_byte_of_an_epoch_file_costs_nothing() {
    for clean in [true, false] {
        let mut story = story(Durability::Process, 36);
        assert!(story.append(100));
        let expected = story.expected();
        let (written, options) = (written(&mut story), story.world.options.clone());
        if clean {
            assert!(story.world.close());
        }
        let bytes = story.world.disk.epochs.values().next().expect("an epoch").len();
        for at in 0..bytes {
            let mut disk = story.world.disk.image();
            disk.epochs.values_mut().next().expect("an epoch")[at] ^= 1 << (at % 8);
            let (mut world, found) = recover(disk, &options, &written, &format!("byte {at} of the epoch flipped"));
            assert!(found.iter().eq(expected.iter().map(|kept| &kept.number)), "byte {at} flipped, clean: {clean}");
            assert!(!world.journal().report().alarms.is_empty());
            assert_eq!(world.disk.epochs.len(), 1, "the new epoch stands alone");
            assert_goes_on(world);
        }
    }
}

#[test]
fn an_epoch_file_that_cannot_be_read_at_all_is_never_overwritten_by_the_new_one() {
    let mut story = story(Durability::Process, 37);
    let expected = story.expected();
    assert!(story.world.close());
    let disk = &mut story.world.disk;
    disk.epochs.values_mut().for_each(|bytes| bytes.fill(0xEE));
    let mut world = World::on(disk.image(), story.world.options.clone());
    world.open_whole();
    assert_eq!(world.scan_all(), expected);
    assert!(!world.journal().report().clean && !world.disk.quarantined.is_empty());
    world.kill();
    world.open_whole();
    assert!(world.journal().report().alarms.is_empty(), "{:?}", world.journal().report());
    assert_eq!(world.scan_all(), expected);
}

#[test]
fn a_missing_epoch_file_is_told_and_what_is_found_is_made_durable() {
    let story = story(Durability::Process, 40);
    let expected = story.expected();
    let mut disk = story.world.disk.image();
    disk.epochs.clear();
    let mut world = World::on(disk, story.world.options.clone());
    world.open_whole();
    assert_eq!(world.scan_all(), expected, "all of it was in segments, though not synced");
    assert!(!world.journal().report().clean && !world.journal().report().alarms.is_empty());
    world.kill();
    world.disk.lose_power();
    world.open_whole();
    assert_eq!(world.scan_all(), expected);
}

#[test]
fn an_earlier_life_of_a_file_is_never_read() {
    let mut story = story(Durability::Process, 38);
    let expected = story.expected();
    assert!(story.world.close());
    let newest = *story.world.disk.segments.keys().next_back().expect("some");
    for (number, file) in story.world.disk.segments.clone() {
        // The same bytes under another number, with the header of their life and with that of a new one.
        for fresh in [false, true] {
            let mut disk = story.world.disk.image();
            let mut stale = file.clone();
            if fresh {
                let old = SegmentHeader::decode(&stale.data).expect("a header");
                let header = SegmentHeader { segment: newest.next(), nonce: old.nonce ^ 7, ..old };
                stale.data[..PHYSICAL as usize].copy_from_slice(&header.encode());
            }
            disk.segments.insert(newest.next(), stale);
            let mut world = World::on(disk, story.world.options.clone());
            world.open_whole();
            assert_eq!(world.scan_all(), expected, "segment {number} again");
            assert!(!world.disk.segments().expect("listed").contains(&(newest.next())));
        }
    }
}

#[test]
fn a_missing_segment_in_the_middle_is_told() {
    let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 39), 39);
    while story.world.segments() < 4 {
        assert!(story.append(300));
        story.world.quiesce();
    }
    assert!(story.world.close());
    let places = layout(&story.world.disk);
    let middle = *story.world.disk.segments.keys().nth(1).expect("four");
    story.world.disk.segments.remove(&middle);
    story.world.open_whole();
    let found: Vec<RecordNumber> = story.world.scan_all().iter().map(|kept| kept.number).collect();
    let expected: Vec<RecordNumber> = story.waiting.keys().copied().filter(|n| places[n].segment != middle).collect();
    assert_eq!(found, expected);
    assert!(!story.world.journal().report().alarms.is_empty());
}

#[test]
fn who_sent_a_record_is_known_as_long_as_it_waits_though_only_a_freed_segment_named_it() {
    let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 40), 40);
    while story.world.segments() < 3 {
        assert!(story.append(300));
        story.world.quiesce();
    }
    assert!(story.world.close());
    let places = layout(&story.world.disk);
    let first = *story.world.disk.segments.keys().next().expect("three");
    for (_, file) in story.world.disk.segments.iter_mut().filter(|(number, _)| **number != first) {
        let mut offset = PHYSICAL as usize;
        while let Some((block, Some(seal))) = BlockHeader::decode(&file.data[offset..]) {
            let entries = Entries::new(&file.data[offset..offset + seal.used as usize], block.nonce, offset as u32);
            let origins = entries.filter(|entry| entry.header.kind == Kind::Origin);
            let damaged: Vec<usize> = origins.map(|entry| offset + entry.offset + 20).collect();
            damaged.into_iter().for_each(|at| file.data[at] ^= 1);
            offset += round_up(seal.used, PHYSICAL) as usize;
        }
    }
    let world = &mut story.world;
    world.open_whole();
    assert!(world.journal().report().damaged > 0);
    let (oldest, mut settled) = (world.journal().oldest(), 0);
    world.start_scan(oldest);
    loop {
        let mut found = Vec::new();
        let step = world.step(&mut found);
        for record in found.into_iter().filter(|record| places[&record.number].segment == first) {
            world.journal().hold(record.at);
            world.journal().settle(record.number, record.origin, record.at);
            settled += 1;
        }
        if step == Step::Tail {
            break;
        }
        while step == Step::Wait && !world.pending.is_empty() {
            world.complete(0, Ok(()));
        }
    }
    world.start_scan(Position::default());
    world.rest();
    assert!(!world.disk.segments.contains_key(&first), "it is freed");
    world.kill();
    world.open_whole();
    let found = world.scan_all();
    assert_eq!(found.len(), story.waiting.len() - settled);
    assert!(found.iter().all(|kept| kept == &story.waiting[&kept.number].0), "{:?}", found.first());
}

#[test]
fn a_segment_that_is_gone_after_a_kill_is_restored_as_far_as_it_is_in_memory_and_the_rest_told_by_its_numbers() {
    let (mut restored, mut some_lost) = (0, 0);
    // Not the oldest: one of which nothing is in memory looks as if it had been freed.
    for which in 1..5 {
        let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 41), 41);
        while story.world.segments() < 6 {
            assert!(story.append(300));
            story.world.quiesce();
            story.forget(|_| true); // so that the block file has the last segments only
        }
        let places = layout(&story.world.disk);
        let mut held: Vec<SegmentNumber> = places.values().map(|place| place.segment).collect();
        held.dedup();
        let gone = held[which];
        let mut disk = story.world.disk.image();
        disk.segments.remove(&gone);
        let mut world = World::on(disk, story.world.options.clone());
        world.open_whole();
        let found: Vec<RecordNumber> = world.scan_all().iter().map(|kept| kept.number).collect();
        assert!(found.is_sorted() && found.iter().all(|number| story.waiting.contains_key(number)));
        let lost: Vec<RecordNumber> = story.waiting.keys().copied().filter(|number| !found.contains(number)).collect();
        assert!(lost.iter().all(|number| places[number].segment == gone), "{which}: {lost:?} of other segments");
        let alarms = &world.journal().report().alarms;
        let told = |number: &RecordNumber| alarms.iter().any(|alarm| is_in_a_range(alarm, *number));
        assert!(lost.iter().all(told), "{which}: {lost:?} are lost, and told is {alarms:?}");
        restored += places.iter().filter(|(number, place)| place.segment == gone && found.contains(number)).count();
        some_lost += lost.len();
        assert_goes_on(world);
    }
    assert!(restored > 0 && some_lost > 0, "{restored} restored, {some_lost} lost");
}

/// Whether an alarm names a range of entries, "entries A to B", with this number in it.
fn is_in_a_range(alarm: &str, number: RecordNumber) -> bool {
    let Some((_, range)) = alarm.split_once("entries ") else { return false };
    let mut words = range.split(' ');
    let (first, to, last) = (words.next(), words.next(), words.next());
    let parse = |word: Option<&str>| word.and_then(|word| word.parse().ok().map(RecordNumber));
    to == Some("to") && parse(first).zip(parse(last)).is_some_and(|(first, last)| (first..=last).contains(&number))
}

/// How the oldest segments get lost.
#[derive(Debug, Clone, Copy)]
enum Gone {
    Deleted,
    Zeroed,
    Random,
    /// The names of the two oldest are swapped.
    Swapped,
}

#[test]
fn the_oldest_segments_are_told_when_nothing_is_left_of_them_after_a_kill_and_after_a_loss_of_power() {
    for (gone, count, power) in [Gone::Deleted, Gone::Zeroed, Gone::Random, Gone::Swapped]
        .into_iter()
        .flat_map(|gone| [(gone, 1, true), (gone, 2, true), (gone, 1, false), (gone, 2, false)])
    {
        let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 43), 43);
        while story.world.segments() < 6 {
            assert!(story.append(300));
            story.world.quiesce();
            story.forget(|_| true);
        }
        let places = layout(&story.world.disk);
        let oldest: Vec<SegmentNumber> = story.world.disk.segments.keys().copied().take(count.max(2)).collect();
        let mut disk = story.world.disk.image();
        let hurt = if matches!(gone, Gone::Swapped) { &oldest[..] } else { &oldest[..count] };
        for (index, number) in hurt.iter().enumerate() {
            let file = disk.segments.get_mut(number).expect("there");
            match gone {
                Gone::Deleted => drop(disk.segments.remove(number)),
                Gone::Zeroed => file.data.fill(0),
                Gone::Random => {
                    file.data.iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at * 7919) >> 3) as u8);
                }
                Gone::Swapped => file.data = story.world.disk.segments[&oldest[1 - index]].data.clone(),
            }
        }
        if power {
            disk.lose_power();
        }
        let what = format!("{gone:?} {count} {power}");
        let mut world = World::on(disk, story.world.options.clone());
        world.open_whole();
        let found: Vec<RecordNumber> = world.scan_all().iter().map(|kept| kept.number).collect();
        // A loss of power also takes what was never on the disk.
        let is_lost = |number: &RecordNumber| places.contains_key(number) && !found.contains(number);
        let lost: Vec<RecordNumber> = story.waiting.keys().copied().filter(is_lost).collect();
        assert!(
            !lost.is_empty() && lost.iter().all(|number| hurt.contains(&places[number].segment)),
            "{what}: {lost:?}"
        );
        let report = world.journal().report();
        let loss = report.loss.unwrap_or_else(|| panic!("{what}: nothing is told: {:?}", report.alarms));
        assert!(lost.iter().all(|number| (loss.first..loss.end).contains(number)), "{what}: {loss:?}, {lost:?}");
        assert!(loss.records >= lost.len() as u64, "{what}: {loss:?}, and {} are lost", lost.len());
        let kept = if matches!(gone, Gone::Deleted) { 0 } else { hurt.len() };
        assert!(world.disk.quarantined.len() >= kept, "{what}: what is left is kept");
        assert_goes_on(world);
    }
}

#[test]
fn a_journal_of_which_nothing_is_left_is_told_and_one_that_was_emptied_is_not() {
    for zeroed in [false, true] {
        let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 44), 44);
        while story.world.segments() < 3 {
            assert!(story.append(300));
            story.world.quiesce();
        }
        story.world.kill();
        story.world.open_whole();
        story.world.quiesce();
        let mut disk = story.world.disk.image();
        if zeroed {
            disk.segments.values_mut().for_each(|file| file.data.fill(0));
        } else {
            disk.segments.clear();
        }
        disk.lose_power();
        let mut world = World::on(disk, story.world.options.clone());
        world.open_whole();
        let loss = world.journal().report().loss.expect("told");
        assert!(loss.records >= story.waiting.len() as u64, "{loss:?}");
        assert!(story.waiting.keys().all(|number| (loss.first..loss.end).contains(number)), "{loss:?}");
    }
    let mut story = Story::new(World::new(small(Durability::Power), PHYSICAL, 44), 44);
    while story.world.segments() < 3 {
        assert!(story.append(300));
        story.world.quiesce();
    }
    story.world.kill();
    story.world.open_whole();
    story.world.settle_all();
    story.world.disk.lose_power();
    story.world.kill();
    story.world.open_whole();
    assert_eq!(story.world.journal().report().loss, None);
}
