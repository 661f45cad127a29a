//! Damage on a disk that is full: what is whole is delivered, and a damaged segment is kept under a second name, which needs no room.

use super::damage::{PHYSICAL, layout, recover, story, written};
use super::disk::Disk;
use ringest::config::Durability;
use ringest::ground::RecordNumber;

/// The names of what is kept.
fn kept(disk: &Disk) -> Vec<&str> {
    disk.quarantined.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_damaged_segment_on_a_full_disk_is_kept_whole_and_the_rest_is_delivered() {
    let mut story = story(Durability::Power, 61);
    let (written, options) = (written(&mut story), story.world.options.clone());
    assert!(story.world.close());
    let places = layout(&story.world.disk);
    let (mut costs, mut kept_whole) = (0, 0);
    for (number, place) in places.iter().filter(|(number, _)| story.waiting.contains_key(*number)) {
        let name = format!("segment-{:016x}", place.segment.0);
        // The magic of its block, a byte of its own, and its beginning unreadable.
        let middle = place.entry.start.midpoint(place.entry.end);
        for (at, is_unread) in [(place.block.start, false), (middle, false), (place.entry.start, true)] {
            let mut disk = story.world.disk.image();
            disk.is_full = true;
            let file = disk.segments.get_mut(&place.segment).expect("there");
            if is_unread {
                let start = at / PHYSICAL as usize * PHYSICAL as usize;
                file.unreadable.push(start..start + PHYSICAL as usize);
            } else {
                file.data[at] ^= 1;
            }
            let before = file.data.clone();
            let what = format!("record {number}, byte {at}, unreadable: {is_unread}");
            let (mut world, found) = recover(disk, &options, &written, &what);
            let missing: Vec<RecordNumber> =
                story.waiting.keys().copied().filter(|number| !found.contains(number)).collect();
            let is_hit = |lost: &RecordNumber| {
                let is_beside = places[lost].segment == place.segment && places[lost].block == place.block;
                lost == number || is_unread && is_beside
            };
            assert!(missing.iter().all(is_hit), "{what}: {missing:?}");
            let loss = world.journal().report().loss.map_or(0, |loss| loss.records);
            assert_eq!(loss, missing.len() as u64, "{what}: {:?}", world.journal().report());
            let whole = world.disk.quarantined.iter().find(|(kept, _)| *kept == name);
            let is_kept = whole.is_some_and(|(_, bytes)| *bytes == before);
            // The header of a block says nothing that its entries do not say.
            assert!(is_kept || missing.is_empty(), "{what}: kept are {:?}", kept(&world.disk));
            kept_whole += usize::from(is_kept);
            assert!(kept(&world.disk).iter().all(|kept| !kept.contains("-at-")), "{what}");
            costs += missing.len();
        }
    }
    assert!(costs > 20 && kept_whole >= costs / 2, "{costs} lost, {kept_whole} kept");
}

#[test]
fn a_damaged_epoch_file_on_a_full_disk_is_told_and_stops_no_start() {
    for clean in [true, false] {
        let mut story = story(Durability::Process, 62);
        let (written, options) = (written(&mut story), story.world.options.clone());
        if clean {
            assert!(story.world.close());
        }
        // A byte of the first copy, one of the second, and one of each.
        for places in [&[40][..], &[4096 + 40], &[40, 4096 + 40]] {
            let mut disk = story.world.disk.image();
            disk.is_full = true;
            let epoch = disk.epochs.values_mut().next().expect("an epoch");
            places.iter().for_each(|at| epoch[*at] ^= 1);
            let what = format!("bytes {places:?} of the epoch file, clean: {clean}");
            let (mut world, found) = recover(disk, &options, &written, &what);
            assert!(found.iter().eq(story.waiting.keys()), "{what}");
            let alarms = &world.journal().report().alarms;
            assert!(alarms.iter().any(|alarm| alarm.contains("is damaged")), "{what}: {alarms:?}");
            assert!(alarms.iter().any(|alarm| alarm.contains("no room in quarantine for epoch file")), "{alarms:?}");
        }
    }
}

#[test]
fn a_block_file_of_another_journal_on_a_full_disk_is_told_and_stops_no_start() {
    let mut story = story(Durability::Process, 63);
    let (written, options) = (written(&mut story), story.world.options.clone());
    let mut disk = story.world.disk.image();
    disk.is_full = true;
    disk.blocks.values().next().expect("a block file").write(0, &[0xEE; 64]);
    let (mut world, found) = recover(disk, &options, &written, "a foreign block file");
    assert!(found.iter().eq(story.waiting.keys()), "all of it was in segments");
    let alarms = &world.journal().report().alarms;
    for words in ["is not of this journal", "no room in quarantine for the block file"] {
        assert!(alarms.iter().any(|alarm| alarm.contains(words)), "{alarms:?}");
    }
}
