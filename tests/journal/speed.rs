//! What the journal costs: printed, and bounded far above what a release build takes, so that a debug build on a busy machine
//! passes and a step that became quadratic does not.

use super::world::World;
use ringest::config::{self, Durability};
use ringest::ground::{KeptHeaders, RecordNumber};
use ringest::journal::{Appended, Identity, Location, NewRecord, Options};
use std::time::Instant;

fn full_size(durability: Durability) -> Options {
    let settings = config::Journal { durability, ..config::Journal::default() };
    Options::new(&settings, ringest::ground::CoreId(0), 1)
}

/// Release build, two busy cores: 180 ns and 2 to 26 ns.
#[test]
fn a_record_costs_little_from_append_to_settled() {
    const RECORDS: u64 = 1_000_000;
    const PER_TURN: u64 = 64;
    let mut world = World::new(full_size(Durability::Process), 4096, 1);
    world.open_whole();
    world.quiesce();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("aoi-07", "aoi-07"));
    let data = [7; 64];
    let mut spent_ns = 0;
    let mut turns_ns = 0;
    for turn in 0..RECORDS / PER_TURN {
        let now = world.now;
        let record = NewRecord {
            origin,
            flags: 0,
            first_byte_wall_ns: turn,
            frame_us: 3,
            key: b"",
            hashes: None,
            headers: KeptHeaders::default(),
            data: &data,
        };
        let journal = world.journal();
        let start = Instant::now();
        let nowhere = Location { extent: 0, offset: 0 };
        let mut held = [Appended { number: RecordNumber(0), at: nowhere }; PER_TURN as usize];
        for place in &mut held {
            *place = journal.append_record(now, record).expect("room");
            journal.hold(place.at);
        }
        for Appended { number, at } in held {
            assert_eq!(journal.record(at).payload.data.len(), data.len());
            journal.settle(number, origin, at);
        }
        spent_ns += start.elapsed().as_nanos() as u64;
        let start = Instant::now();
        let mut ops = std::collections::VecDeque::new();
        journal.turn(now, false, &mut |op| ops.push_back(op));
        turns_ns += start.elapsed().as_nanos() as u64;
        world.submit(ops);
        while !world.pending.is_empty() {
            world.complete(0, Ok(()));
        }
        world.now.mono_ns += 1_000_000;
    }
    let (record, turn) = (spent_ns / RECORDS, turns_ns / RECORDS);
    println!("append, hold, read and settle: {record} ns a record; its share of the turn, marks included: {turn} ns");
    assert!(record + turn < 5_000, "{record} + {turn} ns a record");
    assert!(world.seen["freed"] > 5, "{:?}", world.seen);
}

/// Release build, two busy cores: 800 to 880 MB/s.
#[test]
fn recovery_reads_hundreds_of_megabytes_a_second() {
    let options = Options { max_bytes: 320 << 20, ..full_size(Durability::Process) };
    let mut world = World::new(options, 4096, 2);
    world.open_whole();
    world.quiesce();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("aoi-07", "aoi-07"));
    let data = [9; 64];
    let mut records: u64 = 0;
    while world.segments() <= 16 {
        let now = world.now;
        let record = NewRecord {
            origin,
            flags: 0,
            first_byte_wall_ns: 1,
            frame_us: 3,
            key: b"",
            hashes: None,
            headers: KeptHeaders::default(),
            data: &data,
        };
        while world.journal().append_record(now, record).is_ok() {
            records += 1;
        }
        world.quiesce();
    }
    assert!(world.close());
    let start = Instant::now();
    world.open_whole();
    let seconds = start.elapsed().as_secs_f64();
    let report = world.journal().report().clone();
    assert_eq!(report.recovered, records);
    let rate = report.bytes as f64 / seconds / 1e6;
    println!("recovery of {} MiB with {records} records: {seconds:.3} s, {rate:.0} MB/s", report.bytes >> 20);
    assert!(rate > 20.0, "{rate:.0} MB/s");
}
