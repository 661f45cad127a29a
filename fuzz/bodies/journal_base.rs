//! The genuine journals that edits are made on: small, the same in every run, made through the public interface.

use super::disk::Disk;
use super::world::{Kept, World, options};
use ringest::config::Durability;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::format::{BlockHeader, Entries, Kind, SegmentHeader, round_up};
use ringest::journal::{Identity, Location, Options, OriginRef, Position};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes before the first slot of a block file.
pub const SLOTS_AT: usize = 4096;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;
/// An epoch file is two of these.
pub const EPOCH_COPY_BYTES: usize = 136;
/// Records that are held in memory, and can be settled.
const HELD: usize = 6;
const PHYSICAL: u32 = 512;

/// A journal as its process left it.
pub struct Base {
    pub disk: Disk,
    pub options: Options,
    /// Every record that was ever written.
    pub written: BTreeMap<RecordNumber, Kept>,
    /// Those still to be delivered, and where they are.
    pub waiting: BTreeMap<RecordNumber, Copies>,
    /// The blocks of the last epoch in segments, and what each says.
    pub marks: Vec<Mark>,
    last_epoch: u128,
}

impl Base {
    pub fn is_of_last_epoch(&self, number: RecordNumber) -> bool {
        self.written[&number].epoch_id == self.last_epoch
    }
}

/// Where a record's block is.
#[derive(Debug, Clone)]
pub struct Copies {
    pub segment: SegmentNumber,
    /// In that segment's file.
    pub on_disk: Option<Range<usize>>,
    /// In the block file.
    pub in_blocks: Vec<Range<usize>>,
}

/// What a block on disk says of all before it.
#[derive(Debug)]
pub struct Mark {
    pub segment: SegmentNumber,
    pub block: Range<usize>,
    pub watermark: Position,
}

thread_local! {
    pub static BASES: Vec<Base> = vec![
        killed(Durability::Process, 1),
        killed(Durability::Power, 2),
        closed(3),
        reused(4),
    ];
}

struct Builder {
    world: World,
    written: BTreeMap<RecordNumber, Kept>,
    waiting: BTreeMap<RecordNumber, (OriginRef, Option<Location>)>,
    origins: Vec<OriginRef>,
    size: usize,
}

impl Builder {
    fn new(durability: Durability, seed: u64) -> Self {
        let small = Options { segment_bytes: 16 * 1024, block_bytes: 4096, ..options(durability, 8, 8) };
        let small = Options { max_bytes: 8 * u64::from(small.segment_bytes), window_bytes: 8 * SLOT_BYTES, ..small };
        let mut world = World::new(small, PHYSICAL, seed);
        world.open_whole();
        world.quiesce();
        let mut builder =
            Self { world, written: BTreeMap::new(), waiting: BTreeMap::new(), origins: Vec::new(), size: 0 };
        builder.open_origins();
        builder
    }

    fn open_origins(&mut self) {
        self.origins.clear();
        for index in 0..3 {
            let journal = self.world.journal();
            let lane = journal.new_lane();
            self.origins.push(journal.open_origin(lane, Identity::new("source", &format!("source@10.0.0.{index}:9"))));
        }
    }

    fn append(&mut self) {
        self.size += 1;
        let origin = self.origins[self.size % self.origins.len()];
        let data: Vec<u8> = (0..self.size * 37 % 500).map(|index| (index * self.size) as u8).collect();
        let key: &[u8] = if self.size.is_multiple_of(4) { b"a key of the machine" } else { b"" };
        let (kept, at) = self.world.append(origin, &data, key).expect("room");
        self.world.journal().hold(at);
        self.waiting.insert(kept.number, (origin, Some(at)));
        self.release_all_but(HELD);
        if self.size.is_multiple_of(3) {
            let now = self.world.now;
            self.world.journal().append_id(now, kept.number, &format!("id-{}", kept.number)).expect("room");
            self.written.insert(kept.number, Kept { id: Some(format!("id-{}", kept.number)), ..kept });
        } else {
            self.written.insert(kept.number, kept);
        }
        self.world.now.mono_ns += 2_000_000;
    }

    fn settle(&mut self, number: RecordNumber) {
        let (origin, at) = self.waiting.remove(&number).expect("it waits");
        self.world.journal().settle(number, origin, at.expect("it is in memory"));
    }

    /// Of what waits only the newest is kept in memory, so that slots are used again.
    fn release_all_but(&mut self, held: usize) {
        for (_, at) in self.waiting.values_mut().rev().skip(held) {
            if let Some(at) = at.take() {
                self.world.journal().release(at);
            }
        }
    }

    /// Records until there are so many segments, every second of them settled, all on disk.
    fn fill(&mut self, segments: u64) {
        while self.world.segments() < segments {
            self.append();
            if self.size.is_multiple_of(2) {
                let held = self.waiting.iter().filter(|(_, (_, at))| at.is_some()).map(|(number, _)| *number);
                let number = held.take(1 + self.size % 3).last().expect("some are held");
                self.settle(number);
            }
            self.world.quiesce();
        }
        self.world.rest();
    }

    /// Records that only the block file has, with the writes under way.
    fn append_unwritten(&mut self) {
        self.release_all_but(0);
        for _ in 0..12 {
            self.append();
        }
        self.world.turn(true);
        for _ in 0..3 {
            self.append();
        }
        self.world.turn(false);
        assert_eq!(self.world.journal().marks_in_memory(), 0);
        self.world.kill();
    }

    fn finish(self) -> Base {
        let Self { world, written, waiting, .. } = self;
        let (disk, options) = (world.disk.image(), world.options.clone());
        let mut copies = BTreeMap::new();
        let mut marks = Vec::new();
        for (&segment, file) in &disk.segments {
            let Some(life) = SegmentHeader::decode(&file.data) else { continue };
            walk(&file.data, PHYSICAL as usize, |header, block, numbers| {
                if header.nonce != life.nonce
                    || header.at.segment != segment
                    || header.at.offset as usize != block.start
                {
                    return;
                }
                for number in numbers {
                    let place = Copies { segment, on_disk: Some(block.clone()), in_blocks: Vec::new() };
                    assert!(copies.insert(number, place).is_none());
                }
                marks.push((header.epoch_id, Mark { segment, block, watermark: header.watermark }));
            });
        }
        let last_epoch = written.last_key_value().expect("records").1.epoch_id;
        marks.retain(|(epoch_id, _)| *epoch_id == last_epoch);
        for file in disk.blocks.values() {
            let bytes = file.bytes(0..file.len());
            walk(bytes, SLOTS_AT, |header, block, numbers| {
                for number in numbers {
                    let segment = header.at.segment;
                    let place =
                        copies.entry(number).or_insert(Copies { segment, on_disk: None, in_blocks: Vec::new() });
                    if place.segment == segment {
                        place.in_blocks.push(block.clone());
                    }
                }
            });
        }
        let waiting = waiting.into_keys().map(|number| (number, copies[&number].clone())).collect();
        Base { disk, options, written, waiting, marks: marks.into_iter().map(|(_, mark)| mark).collect(), last_epoch }
    }
}

/// All blocks in `bytes`, open ones too, with the numbers of their records.
fn walk(bytes: &[u8], mut at: usize, mut visit: impl FnMut(BlockHeader, Range<usize>, Vec<RecordNumber>)) {
    while at < bytes.len() {
        let Some((header, seal)) = BlockHeader::decode(&bytes[at..]) else {
            at += PHYSICAL as usize;
            continue;
        };
        let limit = seal.map_or(bytes.len(), |seal| (at + seal.used as usize).min(bytes.len()));
        let mut entries = Entries::new(&bytes[at..limit], header.nonce, header.at.offset);
        let records = entries.by_ref().filter(|entry| entry.header.kind == Kind::Record);
        let numbers = records.map(|entry| entry.header.number).collect();
        let end = at + round_up(entries.offset() as u32, PHYSICAL) as usize;
        visit(header, at..end, numbers);
        at = end;
    }
}

/// Two segments on disk and more in the block file alone, some of it half written.
fn killed(durability: Durability, seed: u64) -> Base {
    let mut builder = Builder::new(durability, seed);
    builder.fill(2);
    builder.append_unwritten();
    let base = builder.finish();
    assert!(base.waiting.values().any(|copies| copies.on_disk.is_none()), "some are in the block file alone");
    assert!(base.waiting.values().any(|copies| copies.in_blocks.is_empty()), "some are on disk alone");
    base
}

/// A clean stop, after an epoch that had none.
fn closed(seed: u64) -> Base {
    let mut builder = Builder::new(Durability::Power, seed);
    builder.fill(2);
    builder.world.kill();
    builder.world.open_whole();
    // The process that held them is gone.
    let earlier = std::mem::take(&mut builder.waiting);
    builder.world.quiesce();
    builder.open_origins();
    let before = builder.world.segments();
    builder.fill(before + 1);
    assert!(builder.world.close());
    builder.waiting.extend(earlier);
    builder.finish()
}

/// Segments whose files had an earlier life, with marks that settle records of older segments.
fn reused(seed: u64) -> Base {
    let mut builder = Builder::new(Durability::Process, seed);
    builder.fill(4);
    builder.release_all_but(0);
    builder.waiting.clear();
    builder.world.settle_all();
    builder.open_origins();
    assert!(builder.world.disk.spares.len() >= 2, "files to be used again");
    builder.fill(2);
    builder.append_unwritten();
    assert!(builder.world.seen["reused"] > 0);
    builder.finish()
}
