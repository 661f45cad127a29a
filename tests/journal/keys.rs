//! Machines' keys outlive the records that they came with: the newest of them are known after a kill or a loss of power at any
//! moment, whatever was freed, rewritten or moved meanwhile.

use super::world::{BLOCK_BYTES, SEGMENT_BYTES, World, options};
use ringest::config::Durability;
use ringest::ground::{KeptHeaders, Now, RecordNumber};
use ringest::journal::{Identity, KeyHashes, KeyLimits, Known, Location, NewRecord, Options, OriginRef};
use std::collections::VecDeque;

const COUNT: usize = 300;
const AGE_NS: u64 = 3_600_000_000_000;

fn key(number: u64) -> KeyHashes {
    KeyHashes::of("press-4", &number.to_le_bytes(), b"body")
}

/// What a machine sends, and what has become of it.
struct Story {
    world: World,
    origin: OriginRef,
    /// Keys that were taken.
    taken: u64,
    /// Their records that wait to be delivered, with the key.
    waiting: VecDeque<(u64, RecordNumber, Location)>,
    /// Keys below this one are as durable as the level says.
    answered: u64,
    stalls: bool,
}

impl Story {
    fn new(options: Options, seed: u64) -> Self {
        let mut world = World::new(options, if seed.is_multiple_of(2) { 4096 } else { 512 }, seed);
        world.open_whole();
        world.quiesce();
        let lane = world.journal().new_lane();
        let origin = world.journal().open_origin(lane, Identity::new("cameras", "press-4"));
        let stalls = seed.is_multiple_of(3);
        Self { world, origin, taken: 0, waiting: VecDeque::new(), answered: 0, stalls }
    }

    /// One more record, if there is room; those that may be are delivered. One of the first is never, if it stalls.
    fn step(&mut self, bytes: usize) {
        self.world.now.mono_ns += 3_000_000;
        self.world.now.wall_ns += 3_000_000;
        let (now, data) = (self.world.now, vec![7; bytes]);
        let record = NewRecord {
            origin: self.origin,
            flags: 0,
            first_byte_wall_ns: now.wall_ns,
            frame_us: 0,
            key: &self.taken.to_le_bytes(),
            hashes: Some(&key(self.taken)),
            headers: KeptHeaders::default(),
            data: &data,
        };
        if let Ok(appended) = self.world.journal().append_record(now, record) {
            self.world.journal().hold(appended.at);
            self.waiting.push_back((self.taken, appended.number, appended.at));
            self.taken += 1;
        }
        let durable_below = self.world.journal().durable_below();
        let all = std::mem::take(&mut self.waiting);
        for (number, record, at) in all {
            if record < durable_below {
                self.answered = self.answered.max(number + 1);
            }
            match record < durable_below && !(self.stalls && number == 3) {
                true => self.world.journal().settle(record, self.origin, at),
                false => self.waiting.push_back((number, record, at)),
            }
        }
        self.world.turn(true);
    }

    /// The keys that must be known: the newest that were answered.
    fn known(&self) -> std::ops::Range<u64> {
        // Those that were taken after them count, too.
        self.taken.saturating_sub(COUNT as u64).min(self.answered)..self.answered
    }

    fn assert_known(&self, other: &mut World, when: &str) {
        let now = Now { mono_ns: 1, wall_ns: self.world.now.wall_ns };
        for number in self.known() {
            let found = other.journal().find_key(now, key(number));
            assert!(matches!(found, Some(Known::Same(_))), "key {number} of {} {when}", self.taken);
            let reused = KeyHashes { body: 1, ..key(number) };
            assert_eq!(other.journal().find_key(now, reused), Some(Known::Other), "{when}");
        }
        assert_eq!(other.journal().find_key(now, key(self.taken + 1)), None);
    }
}

fn limited(durability: Durability, segments: u64) -> Options {
    Options { keys: KeyLimits { count: COUNT, age_ns: AGE_NS }, ..options(durability, segments, 16) }
}

fn flow(durability: Durability, segments: u64, seed: u64) {
    let mut story = Story::new(limited(durability, segments), seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut refused = 0;
    for step in 0..4_000 {
        let before = story.taken;
        story.step(rng.usize(20..900));
        refused += u64::from(story.taken == before);
        while story.world.pending.len() > rng.usize(0..5) {
            let index = rng.usize(..story.world.pending.len());
            story.world.complete(index, Ok(()));
        }
        if step % 97 == 0 {
            let mut other = story.world.killed_here();
            story.assert_known(&mut other, "after a kill");
            if durability == Durability::Power {
                let mut image = story.world.disk.image();
                image.lose_power();
                let mut other = World::on(image, story.world.options.clone());
                other.open_whole();
                story.assert_known(&mut other, "after a loss of power");
            }
        }
    }
    assert!(story.world.seen.get("freed").is_some_and(|freed| *freed > 10), "{:?}", story.world.seen);
    // Where a block of one record takes 4 KiB, a record that stays costs that many without keys, too.
    assert!(refused < 2_400, "{refused} of 4000 found no room");
    assert_eq!(story.stalls, story.world.seen.contains_key("rewritten"), "{:?}", story.world.seen);
    story.world.quiesce();
    let segments = story.world.segments();
    assert!(story.stalls || segments <= 2, "with nothing to deliver {segments} segments stay");
    if !story.stalls {
        assert!(story.world.close());
        story.world.open_whole();
        let mut other = story.world.killed_here();
        story.assert_known(&mut other, "after a clean stop");
    }
}

#[test]
fn keys_are_known_after_a_kill_or_a_loss_of_power_though_their_segments_were_freed_or_rewritten() {
    for seed in 1..=6 {
        flow(Durability::Power, 12, seed);
        flow(Durability::Process, 12, seed + 6);
    }
}

#[test]
fn keys_that_take_up_half_of_a_small_journal_do_not_stop_it() {
    // 300 keys come to 21,600 B, as they are counted, of 65,536 B in a segment.
    for seed in [1, 2, 4] {
        flow(Durability::Power, 4, seed);
    }
    assert!(COUNT as u64 * 72 < u64::from(SEGMENT_BYTES) && COUNT * 32 > BLOCK_BYTES as usize);
}

#[test]
fn at_level_memory_keys_are_known_until_the_process_ends() {
    let mut story = Story::new(limited(Durability::Memory, 12), 1);
    for _ in 0..500 {
        story.step(40);
    }
    let now = story.world.now;
    for number in story.known() {
        assert!(matches!(story.world.journal().find_key(now, key(number)), Some(Known::Same(_))), "{number}");
    }
    assert_eq!(story.world.journal().find_key(now, key(story.taken - COUNT as u64 - 1)), None);
}

#[test]
fn another_journal_takes_keys_over_and_the_first_may_go_then() {
    let mut story = Story::new(limited(Durability::Power, 12), 1);
    for _ in 0..200 {
        story.step(40);
        story.world.quiesce();
    }
    let mut other = World::new(limited(Durability::Power, 12), 512, 77);
    other.open_whole();
    other.now = story.world.now;
    other.journal().import_keys(story.world.journal().found_keys());
    assert!(!other.journal().has_its_keys());
    let now = other.now;
    assert!(matches!(other.journal().find_key(now, key(150)), Some(Known::Same(number)) if number == RecordNumber(0)));
    other.turn(false);
    other.now.mono_ns += 1_000_000_000;
    other.turn(false);
    assert!(!other.journal().has_its_keys(), "they are in memory alone");
    other.quiesce();
    assert!(other.journal().has_its_keys());
    let mut later = World::on(other.disk.image(), other.options.clone());
    later.disk.lose_power();
    later.open_whole();
    story.assert_known(&mut later, "in the other journal");
    story.world.journal().forget_keys();
    assert_eq!(story.world.journal().find_key(now, key(150)), None);
}
