//! Records that are kept aside at level `memory`, where there is no disk to read them back from.

use super::world::{BLOCK_BYTES, World, options};
use ringest::config::Durability;
use ringest::ground::{KeptHeaders, RecordNumber};
use ringest::journal::{Identity, Lies, Location, NewRecord, OriginRef, Refused};

const REFUSED: Refused<'static> = Refused { status: 422, attempts: 3, answer: b"no" };

/// A journal of 64 slots, and who sends.
fn world() -> (World, OriginRef) {
    let mut world = World::new(options(Durability::Memory, 4, 64), 512, 1);
    world.open_whole();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("source", "name"));
    (world, origin)
}

fn data(number: u64) -> Vec<u8> {
    format!("record {number}").into_bytes()
}

/// Appends a record and holds it, if there is room.
fn append(world: &mut World, origin: OriginRef, data: &[u8]) -> Option<(RecordNumber, Location)> {
    let now = world.now;
    let record = NewRecord {
        origin,
        flags: 1,
        first_byte_wall_ns: 7,
        frame_us: 2,
        key: b"k",
        hashes: None,
        headers: KeptHeaders::default(),
        data,
    };
    let appended = world.journal().append_record(now, record).ok()?;
    world.journal().hold(appended.at);
    Some((appended.number, appended.at))
}

fn park(world: &mut World, origin: OriginRef, number: RecordNumber, at: Location) {
    let now = world.now;
    world.journal().park(now, number, (origin, at), Some("9"), REFUSED).expect("room");
}

fn unpark(world: &mut World, number: RecordNumber) -> Location {
    let now = world.now;
    let unparked = world.journal().unpark(now, number).expect("room").expect("it is kept aside");
    match unparked.at {
        Lies::Held(at) => at,
        Lies::Behind(at) => panic!("nothing lies at {at:?}"),
    }
}

#[test]
fn thousands_of_parked_records_leave_the_window_to_others() {
    let (mut world, origin) = world();
    let mut parked = Vec::new();
    // One in twenty is refused, so that parked ones lie in each slot.
    for number in 0..10_000 {
        let (record, at) = append(&mut world, origin, &data(number)).expect("room");
        match number % 20 {
            0 => {
                park(&mut world, origin, record, at);
                parked.push((number, record));
            }
            _ => world.journal().settle(record, origin, at),
        }
        world.turn(false);
    }
    assert_eq!(world.journal().parked().count(), 500);
    let now = world.now;
    assert!(world.journal().can_append(now, 1_000));

    // Each is as it was, is parked once more, and is delivered or discarded in the end.
    let key = |world: &mut World, at: Location| {
        let mut key = String::new();
        let core = world.journal().core();
        world.journal().record(at).write_key(core, &mut key);
        key
    };
    for (number, record) in &parked {
        let at = unpark(&mut world, *record);
        let before = key(&mut world, at);
        park(&mut world, origin, *record, at);
        let at = unpark(&mut world, *record);
        assert_eq!(key(&mut world, at), before);
        let view = world.journal().record(at);
        assert_eq!((view.number, view.flags, view.payload.data), (*record, 1, &data(*number)[..]));
        assert_eq!((view.payload.first_byte_wall_ns, view.payload.key), (7, &b"k"[..]));
        assert_eq!(world.journal().recovered_id(*record), Some("9"));
        if number % 40 == 0 {
            world.journal().settle(*record, origin, at);
        } else {
            park(&mut world, origin, *record, at);
            let now = world.now;
            assert!(world.journal().discard(now, *record).expect("room"));
        }
        world.turn(false);
    }
    assert_eq!(world.journal().unsettled(), 0);
    // The one slot that is being filled.
    let mut snapshot = Default::default();
    let now = world.now;
    world.journal().snapshot(now, &mut snapshot);
    assert_eq!(snapshot.window_bytes, u64::from(BLOCK_BYTES));
}

#[test]
fn what_is_kept_aside_has_a_limit_and_then_the_window_fills() {
    let (mut world, origin) = world();
    let mut parked = 0;
    while let Some((record, at)) = append(&mut world, origin, &[b'x'; 1_000]) {
        park(&mut world, origin, record, at);
        parked += 1;
        assert!(parked < 10_000, "memory has a limit");
        world.turn(false);
    }
    let mut snapshot = Default::default();
    let now = world.now;
    world.journal().snapshot(now, &mut snapshot);
    let window = 64 * u64::from(BLOCK_BYTES);
    assert!(snapshot.window_bytes <= window + window / 4, "{} B", snapshot.window_bytes);
    let numbers: Vec<RecordNumber> = world.journal().parked().map(|(number, _)| number).collect();
    for number in numbers {
        assert!(world.journal().discard(now, number).expect("room"));
    }
    world.turn(false);
    assert!(append(&mut world, origin, b"there is room again").is_some());
}
