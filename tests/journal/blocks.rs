//! Block files that cannot be had, or not in full: of another boot, with sectors that cannot be read, and none at all.

use super::recovery::{Story, assert_recovered};
use super::world::{BLOCK_BYTES, Pending, World, options};
use ringest::config::Durability;
use ringest::journal::Op;
use ringest::journal::format::{BlockHeader, Entries};

const HEADER_BYTES: usize = 4096;

/// Some records of which the disk has none: no write has ended.
fn story_in_memory(durability: Durability) -> Story {
    let mut story = Story::new(World::new(options(durability, 8, 16), 512, 7), 7);
    for bytes in 0..60 {
        story.world.now.mono_ns += 1_000;
        assert!(story.append(900 + bytes));
        story.world.turn(false);
        let is_commit = |pending: &Pending| matches!(pending.op, Op::Commit { .. });
        while let Some(other) = story.world.pending.iter().position(|pending| !is_commit(pending)) {
            story.world.complete(other, Ok(()));
        }
    }
    story
}

/// One that is killed before any of its writes lands.
fn kill(story: &mut Story) {
    story.world.pending.clear();
    assert!(story.world.kill().is_empty());
}

#[test]
fn a_block_file_of_another_boot_is_dropped_without_a_word() {
    let mut story = story_in_memory(Durability::Power);
    story.world.rest();
    kill(&mut story);
    let expected = story.expected();
    // Beside the segments it outlives the machine, with whatever of it was written back.
    let boot = story.world.disk.boot;
    for file in story.world.disk.blocks.values() {
        file.write(HEADER_BYTES, &[0x5A; 6000]);
    }
    story.world.disk.boot = boot.map(|byte| byte ^ 1);
    story.world.open_whole();
    assert_recovered(&mut story.world, &expected);
    assert!(story.world.disk.quarantined.is_empty());
    assert_eq!(story.world.disk.blocks.len(), 1, "that of this start");
}

#[test]
fn sectors_of_a_block_file_that_cannot_be_read_cost_only_what_lies_in_them_and_are_told() {
    let mut story = story_in_memory(Durability::Process);
    kill(&mut story);
    let expected = story.expected();
    let file = story.world.disk.blocks.values().next().expect("one").clone();
    let slots = (HEADER_BYTES..file.len()).step_by(BLOCK_BYTES as usize);
    let bytes_of = |slot: usize| file.bytes(slot..slot + BLOCK_BYTES as usize).to_vec();
    let used: Vec<usize> = slots.filter(|slot| BlockHeader::decode(&bytes_of(*slot)).is_some()).collect();
    assert!(used.len() > 4, "{used:?}");
    for (index, slot) in used.iter().enumerate() {
        let disk = story.world.disk.image();
        let mut world = World::on(disk, story.world.options.clone());
        world.disk.unreadable_blocks.push(*slot..slot + 4096);
        world.open_whole();
        let report = world.journal().report().clone();
        assert!(report.alarms[0].contains("4096 bytes of the block file"), "{:?}", report.alarms);
        // The whole slot is lost with the header of its block; blocks before and behind it are not.
        let bytes = bytes_of(*slot);
        let (header, _) = BlockHeader::decode(&bytes).expect("one");
        let entries = Entries::new(&bytes, header.nonce, header.at.offset).count() as u64;
        let lost = header.first_number.0..header.first_number.0 + entries;
        let left: Vec<_> = expected.iter().filter(|kept| !lost.contains(&kept.number.0)).cloned().collect();
        assert!(left.len() < expected.len());
        let found: Vec<_> = world.scan_all();
        assert_eq!(found.len(), left.len(), "slot {index}");
        let same =
            found.iter().zip(&left).all(|(found, left)| (found.number, &found.data) == (left.number, &left.data));
        assert!(same, "slot {index}");
        assert!(world.disk.quarantined.is_empty());
    }
}

#[test]
fn a_block_file_whose_front_cannot_be_read_is_still_used() {
    let mut story = story_in_memory(Durability::Process);
    kill(&mut story);
    let expected = story.expected();
    story.world.disk.unreadable_blocks.push(0..HEADER_BYTES);
    story.world.open_whole();
    let alarms = story.world.journal().report().alarms.clone();
    assert!(alarms.len() == 1 && alarms[0].contains("4096 bytes of the block file"), "{alarms:?}");
    let found = story.world.scan_all();
    assert_eq!(found, expected);
}

#[test]
fn blocks_in_memory_of_the_process_acknowledge_nothing_before_it_is_written() {
    for durability in [Durability::Process, Durability::Power] {
        let mut world = World::new(options(durability, 8, 16), 512, 3);
        world.disk.keeps_no_blocks = true;
        let mut story = Story::new(world, 3);
        assert!(story.world.disk.blocks.is_empty());
        assert!(story.append(100));
        let number = *story.waiting.keys().next().expect("one waits");
        assert!(story.world.journal().acknowledges_commits());
        assert!(story.world.journal().durable_below() <= number, "{durability:?}: a kill would take it");
        // Somebody waits for an answer: its block is written at once, not after a second.
        story.world.turn(true);
        assert!(story.world.journal().durable_below() <= number);
        let commit = story.world.pending.iter().position(|pending| matches!(pending.op, Op::Commit { .. }));
        story.world.complete(commit.expect("a commit under way"), Ok(()));
        assert!(story.world.journal().durable_below() > number, "{durability:?}");
        // What was not acknowledged may be lost, and nothing else.
        let expected = story.expected();
        assert!(story.append(100));
        kill(&mut story);
        story.world.open_whole();
        let alarms = story.world.journal().report().alarms.clone();
        assert!(alarms.len() == 1 && alarms[0].contains("not yet written is lost"), "{alarms:?}");
        assert_eq!(story.world.scan_all(), expected, "{durability:?}");
    }
}

#[test]
fn after_a_loss_of_power_nothing_is_said_of_blocks_that_were_in_memory() {
    let mut story = story_in_memory(Durability::Power);
    story.world.disk.keeps_no_blocks = true;
    story.world.rest();
    assert!(story.world.close());
    story.world.open_whole();
    let expected = story.expected();
    kill(&mut story);
    story.world.disk.lose_power();
    story.world.open_whole();
    assert_recovered(&mut story.world, &expected);
}

#[test]
fn a_full_journal_of_blocks_in_memory_is_emptied_by_delivery() {
    let mut world = World::new(options(Durability::Process, 4, 16), 512, 9);
    world.disk.keeps_no_blocks = true;
    let mut story = Story::new(world, 9);
    for round in 0..2 {
        while story.append(900) {
            story.world.now.mono_ns += 1_000;
            story.world.quiesce();
            story.forget(|_| true);
        }
        assert!(story.waiting.len() > 100, "round {round}");
        story.waiting.clear();
        story.world.settle_all();
        story.world.rest();
        assert_eq!(story.world.journal().unsettled(), 0);
    }
}

#[test]
fn what_an_earlier_start_left_stays_in_its_block_file_where_the_next_one_has_none_and_the_disk_refuses() {
    let mut story = story_in_memory(Durability::Process);
    kill(&mut story);
    let expected = story.expected();
    let disk = &mut story.world.disk;
    (disk.keeps_no_blocks, disk.refuses_writes) = (true, true);
    let before: Vec<String> = disk.blocks.keys().cloned().collect();
    for _ in 0..2 {
        let error = story.world.open().expect_err("nowhere to keep them").to_string();
        assert!(error.contains("cannot be written") && error.contains("journal.blocks"), "{error}");
    }
    assert!(story.world.disk.blocks.keys().eq(&before), "what they hold is nowhere else");
    story.world.disk.refuses_writes = false;
    story.world.open_whole();
    assert_eq!(story.world.scan_all(), expected);
    assert!(story.world.disk.blocks.is_empty());
}
