//! The simulated disk does to writes what a real one may do.

use super::*;
use ringest::ground::SegmentNumber;
use ringest::journal::Storage;

const J: JournalId = JournalId(0);

fn commit(memory_offset: u32, segment: u64, offset: u32, bytes: u32) -> Op {
    Op::Commit { memory_offset, segment: SegmentNumber(segment), offset, bytes, sync: false }
}

fn prepare(segment: u64) -> Op {
    Op::PrepareSegment { segment: SegmentNumber(segment), bytes: 8192, header: vec![1; 512], sync: false }
}

/// A disk with segment 1 ready, and block memory full of sevens.
fn disk(seed: u64) -> (Context, Disk, BlockFile) {
    let mut cx = Context::new(seed, false);
    let mut disk = Disk::new(0, 512, seed);
    let memory = disk.create_blocks(Some("b"), 8192).unwrap();
    memory.write(0, &[7; 8192]);
    disk.begin(&mut cx, J, prepare(1), &memory).unwrap();
    disk.finish(&mut cx, 1).unwrap();
    (cx, disk, memory)
}

fn bytes(disk: &mut Disk) -> Vec<u8> {
    let mut into = Vec::new();
    disk.read_segment(SegmentNumber(1), &mut into).unwrap();
    into
}

#[test]
fn a_commit_out_of_place_is_told() {
    let (mut cx, mut disk, memory) = disk(1);
    disk.begin(&mut cx, J, commit(0, 1, 512, 1024), &memory).unwrap();
    for (bad, op) in [
        ("memory in flight", commit(512, 1, 4096, 512)),
        ("over another block", commit(2048, 1, 1024, 512)),
        ("over the header", commit(2048, 1, 0, 512)),
        ("not aligned", commit(2048, 1, 2100, 512)),
        ("memory not aligned", commit(2050, 1, 2048, 512)),
        ("beyond the end", commit(2048, 1, 8192, 512)),
        ("no such segment", commit(2048, 2, 2048, 512)),
        ("prepared twice", prepare(1)),
        ("freed while written", Op::FreeSegment { segment: SegmentNumber(1), reuse: true }),
        ("read while written", Op::ReadBack { segment: SegmentNumber(1), offset: 1024, buffer: vec![0; 512] }),
    ] {
        assert!(disk.begin(&mut cx, J, op, &memory).is_err(), "{bad}");
    }
    memory.write(100, &[8]);
    assert!(disk.finish(&mut cx, 2).is_err(), "the memory changed");
}

#[test]
fn at_a_kill_a_commit_lands_whole_in_part_late_or_not_at_all() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..60 {
        let (mut cx, mut disk, memory) = disk(seed);
        disk.begin(&mut cx, J, commit(0, 1, 512, 1024), &memory).unwrap();
        disk.crash(&mut cx, false);
        let landed = bytes(&mut disk)[512..1536].iter().filter(|&&byte| byte == 7).count();
        cx.now_ns += LATE_NS_MAX;
        assert!(disk.finish(&mut cx, 2).unwrap().is_none(), "nobody hears of it");
        let later = bytes(&mut disk)[512..1536].iter().filter(|&&byte| byte == 7).count();
        assert!(bytes(&mut disk)[1536..].iter().all(|&byte| byte == 0));
        assert!(disk.open_blocks("b").unwrap().is_some());
        outcomes.insert((landed, later));
    }
    let expected = [(0, 0), (0, 1024), (512, 512), (1024, 1024)];
    assert!(outcomes.into_iter().eq(expected), "all four, and no other");
}

#[test]
fn a_loss_of_power_takes_the_block_memory_and_what_was_not_synced() {
    let mut lost = 0;
    for seed in 0..20 {
        let (mut cx, mut disk, memory) = disk(seed);
        disk.begin(&mut cx, J, commit(0, 1, 512, 512), &memory).unwrap();
        disk.begin(&mut cx, J, Op::SyncSegment { segment: SegmentNumber(1) }, &memory).unwrap();
        disk.begin(&mut cx, J, commit(512, 1, 1024, 512), &memory).unwrap();
        for operation in 2..5 {
            disk.finish(&mut cx, operation).unwrap();
        }
        // The third was finished after the sync.
        let boot = disk.boot_id();
        disk.crash(&mut cx, true);
        assert!(disk.open_blocks("b").unwrap().is_none() && disk.boot_id() != boot);
        let bytes = bytes(&mut disk);
        assert!(bytes[512..1024].iter().all(|&byte| byte == 7), "synced");
        lost += usize::from(bytes[1024..1536].iter().all(|&byte| byte == 0));
    }
    assert!((1..20).contains(&lost));
}

#[test]
fn a_burnt_fuse_stops_every_call_until_the_process_is_gone() {
    let (mut cx, mut disk, _memory) = disk(1);
    disk.fuse = Some(2);
    disk.write_epoch(1, b"a").unwrap();
    assert!(disk.sync_segment(SegmentNumber(1)).is_err());
    assert!(disk.segments().is_err() && disk.remove_epoch(1).is_err());
    disk.crash(&mut cx, false);
    assert_eq!(disk.epochs().unwrap(), [(1, b"a".to_vec())]);
}
