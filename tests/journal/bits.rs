//! Every bit of what tells where things are, and three values of each of its bytes: after a clean stop what is missing is told
//! exactly; after a kill or a loss of power nothing is invented, and what is missing below the watermark is told within bounds.

use super::damage::{PHYSICAL, SEGMENT_BYTES, recover, story, written};
use super::disk::{Disk, File};
use super::recovery::Story;
use super::world::{Kept, World};
use ringest::config::Durability;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Entries, SEGMENT_HEADER_BYTES, SegmentHeader, round_up,
};
use ringest::journal::{Loss, Numbers, Options, returned};
use ringest::observe::losses::LossNews;
use std::collections::BTreeMap;
use std::ops::Range;

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    PowerLoss,
}

/// A disk as a process left it, and what should be found on it.
struct Left {
    end: End,
    disk: Disk,
    options: Options,
    written: BTreeMap<RecordNumber, Kept>,
    waiting: Vec<RecordNumber>,
    /// Block by block: segment, bytes, first and last entry.
    blocks: Vec<(SegmentNumber, Range<usize>, [Range<usize>; 2])>,
}

impl Left {
    fn new(end: End, durability: Durability, seed: u64) -> Self {
        let mut story: Story = story(durability, seed);
        let (written, options) = (written(&mut story), story.world.options.clone());
        let waiting = story.waiting.keys().copied().collect();
        match end {
            End::Stop => assert!(story.world.close()),
            End::Kill => {}
            End::PowerLoss => {
                let segments: Vec<SegmentNumber> = story.world.disk.segments.keys().copied().collect();
                segments.into_iter().for_each(|segment| story.world.disk.sync(segment));
                story.world.disk.lose_power();
            }
        }
        let disk = story.world.disk.image();
        let blocks = blocks(&disk);
        assert!(blocks.len() > 4);
        Self { end, disk, options, written, waiting, blocks }
    }

    /// Opens a damaged copy; the numbers that are missing, and what was told of that.
    fn open(&self, disk: Disk, what: &str) -> (World, Vec<RecordNumber>, Option<Loss>) {
        let (mut world, found) = recover(disk, &self.options, &self.written, what);
        let missing: Vec<RecordNumber> =
            self.waiting.iter().copied().filter(|number| !found.contains(number)).collect();
        let loss = world.journal().report().loss;
        let told = loss.map_or(0, |loss| loss.records);
        if self.end == End::Stop {
            assert_eq!(told, missing.len() as u64, "{what}: {missing:?} are missing, {loss:?}");
            assert!(loss.is_none_or(|loss| loss.exact), "{what}: {loss:?}");
            // Nothing that was delivered comes back.
            assert_eq!(found.len() + missing.len(), self.waiting.len(), "{what}");
        }
        if let Some(Loss { first, end, .. }) = loss.filter(|loss| loss.exact) {
            assert!(missing.iter().all(|number| (first..end).contains(number)), "{what}: {missing:?}, {loss:?}");
        }
        (world, missing, loss)
    }

    /// What could not be read becomes readable: what is missing gets a journal of its own, under its numbers and keys.
    fn bring_back(&self, disk: &Disk, kept: &[u8], missing: &[RecordNumber], what: &str) {
        let list = disk.quarantined.iter().find(|(name, _)| name.starts_with("missing-"));
        let list = Numbers::decode(&list.unwrap_or_else(|| panic!("{what}: no list")).1).expect("whole");
        assert!(missing.iter().all(|number| list.contains(*number)), "{what}: {missing:?}, {list:?}");
        let back = returned(&[kept.to_vec()], &list, self.options.core, 7 << 64 | 7).expect("some are whole");
        assert_eq!(Numbers::of_epoch(&back.epoch.1), Some(back.numbers.clone()));
        assert_eq!(list.without(&back.numbers).count() + back.numbers.count(), list.count());
        let mut disk = Disk::new(PHYSICAL, 77);
        disk.segments.insert(back.segment.0, File::of(back.segment.1));
        disk.epochs.insert(back.epoch.0, back.epoch.1);
        let (mut world, found) = recover(disk, &self.options, &self.written, what);
        let report = world.journal().report();
        assert!(report.clean && report.alarms.is_empty() && report.loss.is_none(), "{what}: {report:?}");
        assert_eq!(found, missing, "{what}");
    }

    /// Whether a block may lie above the watermark.
    fn is_among_the_last(&self, segment: SegmentNumber, block: &Range<usize>) -> bool {
        self.blocks.iter().rev().take(4).any(|(other, range, _)| (*other, range) == (segment, block))
    }

    fn damaged(&self, segment: SegmentNumber, damage: impl FnOnce(&mut [u8])) -> Disk {
        let mut disk = self.disk.image();
        damage(&mut disk.segments.get_mut(&segment).expect("there").data);
        disk
    }
}

fn blocks(disk: &Disk) -> Vec<(SegmentNumber, Range<usize>, [Range<usize>; 2])> {
    let mut blocks = Vec::new();
    for (&segment, file) in &disk.segments {
        let life = SegmentHeader::decode(&file.data).expect("a header");
        let mut offset = PHYSICAL as usize;
        while let Some((header, Some(seal))) = BlockHeader::decode(&file.data[offset..]) {
            if header.nonce != life.nonce {
                break;
            }
            let bytes = &file.data[offset..offset + seal.used as usize];
            let entries: Vec<Range<usize>> = Entries::new(bytes, header.nonce, offset as u32)
                .map(|entry| offset + entry.offset..offset + entry.offset + entry.bytes())
                .collect();
            let ends = [entries[0].clone(), entries[entries.len() - 1].clone()];
            let end = offset + round_up(seal.used, PHYSICAL) as usize;
            blocks.push((segment, offset..end, ends));
            offset = end;
        }
    }
    blocks
}

/// What each byte becomes: with each of its bits flipped, and three other values.
fn values(byte: u8) -> impl Iterator<Item = u8> {
    let flipped = (0..8).map(move |bit| byte ^ 1 << bit);
    flipped.chain([0, 0xFF, byte.wrapping_add(0x5B)]).filter(move |value| *value != byte)
}

fn try_all_bytes(left: &Left) {
    let mut places: Vec<(SegmentNumber, usize, Option<&Range<usize>>)> = Vec::new();
    for segment in left.disk.segments.keys() {
        places.extend((0..SEGMENT_HEADER_BYTES).map(|at| (*segment, at, None)));
    }
    for (segment, block, ends) in &left.blocks {
        let header = block.start..block.start + BLOCK_HEADER_BYTES;
        let bytes = header.chain(ends[0].clone()).chain(ends[1].clone());
        places.extend(bytes.map(|at| (*segment, at, Some(block))));
    }
    let mut costs = 0;
    for (segment, at, block) in places {
        for value in values(left.disk.segments[&segment].data[at]) {
            let what = format!("{:?}: byte {at} of segment {segment} becomes {value:#x}", left.end);
            let (_, missing, loss) = left.open(left.damaged(segment, |data| data[at] = value), &what);
            costs += missing.len();
            if missing.is_empty() {
                continue;
            }
            let block = block.expect("the header of a segment costs nothing");
            if left.end == End::PowerLoss && left.is_among_the_last(segment, block) {
                continue; // it may not have been durable: a trace of the end
            }
            // A header costs nothing, an entry itself.
            assert!(missing.len() <= 1 && at >= block.start + BLOCK_HEADER_BYTES, "{what}: {missing:?}");
            assert!(loss.is_some_and(|loss| loss.records >= 1), "{what}: {loss:?}");
        }
    }
    assert!(costs > 100 || left.end == End::Kill && costs == 0, "{costs}");
}

#[test]
fn after_a_clean_stop_every_bit_of_a_header_costs_nothing_and_of_an_entry_that_one() {
    try_all_bytes(&Left::new(End::Stop, Durability::Power, 51));
}

#[test]
fn after_a_kill_the_block_file_heals_every_bit() {
    try_all_bytes(&Left::new(End::Kill, Durability::Process, 52));
}

#[test]
fn after_a_loss_of_power_what_damage_costs_below_the_watermark_is_told() {
    try_all_bytes(&Left::new(End::PowerLoss, Durability::Power, 53));
}

#[test]
fn after_a_clean_stop_every_bit_of_the_end_mark_and_the_inventory_costs_nothing() {
    let left = Left::new(End::Stop, Durability::Power, 54);
    let (number, bytes) = left.disk.epochs.iter().next_back().expect("an epoch");
    for at in (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 61 == 0) {
        for value in values(bytes[at]) {
            let mut disk = left.disk.image();
            disk.epochs.get_mut(number).expect("there")[at] = value;
            let (mut world, missing, _) = left.open(disk, &format!("byte {at} of the epoch file becomes {value:#x}"));
            let report = world.journal().report();
            assert!(missing.is_empty() && !report.alarms.is_empty() && report.clean, "byte {at}: {report:?}");
        }
    }
}

/// Told, in the log's next lives, until it is acknowledged.
fn assert_told_until_acknowledged(mut world: World, records: u64) {
    let told = |world: &mut World| world.journal().losses().map(|loss| loss.records).sum::<u64>();
    assert_eq!(told(&mut world), records);
    world.rest();
    world.kill();
    world.open_whole();
    assert_eq!(told(&mut world), records, "after a kill");
    assert!(world.close());
    world.open_whole();
    assert_eq!((told(&mut world), world.journal().report().loss), (records, None), "after a clean stop");
    // Its segments come and go.
    world.settle_all();
    assert_eq!(told(&mut world), records);
    world.journal().acknowledge_losses(&LossNews::All);
    world.rest();
    world.kill();
    world.open_whole();
    assert_eq!(told(&mut world), 0, "acknowledged");
}

#[test]
fn after_a_clean_stop_a_lost_block_is_told_with_its_number_until_that_is_acknowledged() {
    let left = Left::new(End::Stop, Durability::Power, 55);
    let mut told = 0;
    for (segment, block, _) in &left.blocks {
        let disk = left.damaged(*segment, |data| data[block.clone()].fill(0));
        let what = format!("bytes {block:?} of segment {segment} are zero");
        let (mut world, missing, loss) = left.open(disk, &what);
        assert_eq!(missing.is_empty(), loss.is_none(), "{what}");
        assert!(world.journal().report().damaged > 0, "{what}");
        assert!(!world.disk.quarantined.is_empty(), "{what}");
        // What lies in a spare is written over.
        let mut lives = world.disk.spares.iter().filter_map(|spare| SegmentHeader::decode(spare));
        assert!(lives.all(|life| life.segment != *segment), "{what}: the file is a spare");
        told += usize::from(loss.is_some());
        if loss.is_some() {
            assert_told_until_acknowledged(world, missing.len() as u64);
        }
    }
    assert!(told > 4, "{told}");
}

#[test]
fn a_segment_of_which_nothing_is_left_is_told_with_its_number() {
    for (seed, zeroes) in [(56, true), (57, false)] {
        let left = Left::new(End::Stop, Durability::Power, seed);
        let segments: Vec<SegmentNumber> = left.blocks.iter().map(|(segment, ..)| *segment).collect();
        for segment in segments {
            let disk = match zeroes {
                true => left.damaged(segment, |data| data[PHYSICAL as usize..].fill(0)),
                false => {
                    let mut disk = left.disk.image();
                    disk.segments.remove(&segment);
                    disk
                }
            };
            let (mut world, missing, loss) = left.open(disk, &format!("segment {segment} is lost"));
            assert_eq!(missing.is_empty(), loss.is_none());
            assert!(world.journal().report().damaged > 0, "{:?}", world.journal().report());
            assert!(!zeroes || !world.disk.quarantined.is_empty(), "its file is kept");
        }
    }
}

#[test]
fn what_the_disk_cannot_read_is_told_and_the_file_is_kept() {
    for (end, seed) in [(End::Stop, 58), (End::PowerLoss, 59), (End::Kill, 60)] {
        let durability = if end == End::Kill { Durability::Process } else { Durability::Power };
        let left = Left::new(end, durability, seed);
        let mut costs = 0;
        for (segment, file) in &left.disk.segments {
            for start in (0..SEGMENT_BYTES as usize).step_by(PHYSICAL as usize) {
                let range = start..start + PHYSICAL as usize;
                let mut disk = left.disk.image();
                disk.segments.get_mut(segment).expect("there").unreadable.push(range.clone());
                let what = format!("{end:?}: bytes {range:?} of segment {segment} cannot be read");
                let (mut world, missing, loss) = left.open(disk, &what);
                let block = left.blocks.iter().find(|(s, block, _)| s == segment && block.contains(&start));
                let is_told = loss.is_some_and(|loss| loss.records >= missing.len() as u64);
                let is_last = block.is_some_and(|(_, block, _)| left.is_among_the_last(*segment, block));
                assert!(
                    missing.is_empty() || is_told || end == End::PowerLoss && is_last,
                    "{what}: {missing:?}, {loss:?}"
                );
                assert!(end != End::Kill || missing.is_empty(), "{what}: the block file has it");
                let name = format!("segment-{:016x}", segment.0);
                let kept = world.disk.quarantined.iter().find(|(kept, _)| *kept == name);
                let is_live = left.blocks.iter().any(|(s, ..)| s == segment);
                assert!(!is_live || kept.is_some_and(|(_, bytes)| *bytes == file.data), "{what}: the file is kept");
                if is_told && !missing.is_empty() {
                    left.bring_back(&world.disk, &file.data, &missing, &what);
                }
                let again = world.scan_all().len();
                world.rest();
                assert!(world.close());
                world.open_whole();
                assert_eq!(world.scan_all().len(), again, "{what}: it can be read now");
                costs += missing.len();
            }
        }
        assert!(costs > 20 || end == End::Kill, "{end:?}: {costs}");
    }
}
