//! Edits on a genuine journal: recovery invents nothing, gives each record once, finds whatever no edit touched, tells what it
//! lost below the watermark, and the next start finds the same.

use super::input::{Input, Seen};
use base::{BASES, Base, Copies, EPOCH_COPY_BYTES};
use disk::Disk;
use ringest::ground::{RecordNumber, SegmentNumber};
use ringest::journal::{BlockMemory, Identity, Position};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use world::{Kept, World};

#[path = "journal_base.rs"]
mod base;
#[path = "../../tests/journal/disk.rs"]
#[allow(dead_code, reason = "the tests of the journal use all of it")]
mod disk;
#[path = "../../tests/journal/world.rs"]
#[allow(dead_code, reason = "the tests of the journal use all of it")]
mod world;

/// Where the two copies of an epoch begin.
const EPOCH_COPIES: [usize; 2] = [0, 4096];
const EDITS_MAX: usize = 24;

/// A file that an edit is about.
#[derive(Debug, Clone, Copy)]
enum Target {
    Segment(SegmentNumber),
    Blocks,
    Epoch,
}

/// What the edits leave of a disk, and what else happens.
struct Edited {
    disk: Disk,
    same_boot: bool,
    /// The first start ends in the middle of this call to the disk.
    fuse: Option<u32>,
    /// Power fails after the first start.
    power_fails: bool,
    /// Parts of a file are elsewhere too. Put aside, that other file can become the one that is lost, with its blocks.
    copied: bool,
}

impl Edited {
    fn target(&self, byte: u8) -> Option<Target> {
        let segments: Vec<SegmentNumber> = self.disk.segments.keys().copied().collect();
        match byte % 8 {
            6 => Some(Target::Blocks),
            7 => Some(Target::Epoch),
            index => Some(Target::Segment(*segments.get(usize::from(index) % segments.len().max(1))?)),
        }
    }

    fn read(&self, target: Target) -> Option<Vec<u8>> {
        match target {
            Target::Segment(number) => self.disk.segments.get(&number).map(|file| file.data.clone()),
            Target::Blocks => self.disk.blocks.values().next().map(|file| file.bytes(0..file.len()).to_vec()),
            Target::Epoch => self.disk.epochs.values().next().cloned(),
        }
    }

    fn write(&mut self, target: Target, bytes: Vec<u8>) {
        match target {
            Target::Segment(number) => self.disk.segments.get_mut(&number).expect("it was read").data = bytes,
            Target::Blocks => {
                let memory = BlockMemory::heap(bytes.len());
                memory.write(0, &bytes);
                *self.disk.blocks.values_mut().next().expect("it was read") = Rc::new(memory);
            }
            Target::Epoch => *self.disk.epochs.values_mut().next().expect("it was read") = bytes,
        }
    }

    /// One edit: a byte for its kind, then what it needs.
    fn edit(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        match kind % 16 {
            11 => {
                if let Some(Target::Segment(number)) = self.target(input.byte()) {
                    self.disk.segments.remove(&number);
                }
            }
            12 => match self.target(input.byte()) {
                Some(Target::Blocks) => self.disk.blocks.clear(),
                Some(Target::Epoch) => self.disk.epochs.clear(),
                // A whole segment under another number.
                Some(Target::Segment(number)) => {
                    self.copied = true;
                    let other = SegmentNumber(input.byte().into());
                    let mut file = self.disk.segments[&number].clone();
                    file.written.clear(); // what is remembered of it is of another segment
                    self.disk.segments.insert(other, file);
                }
                None => {}
            },
            13 => {
                self.disk.boot = [input.byte(); 16];
                self.same_boot = false;
            }
            14 => self.fuse = Some(1 + u32::from(input.byte())),
            15 => self.power_fails = true,
            kind => self.edit_bytes(kind, input),
        }
    }

    fn edit_bytes(&mut self, kind: u8, input: &mut Input<'_>) {
        let Some(target) = self.target(input.byte()) else { return };
        let Some(mut bytes) = self.read(target) else { return };
        let len = bytes.len().max(1);
        let at = input.word() % len;
        let range = |at: usize, count: usize| at.min(len - 1)..(at + count).min(len);
        match kind {
            0..=2 if !bytes.is_empty() => bytes[at] ^= 1 << (input.byte() % 8),
            3 | 4 if !bytes.is_empty() => {
                let count = if kind == 3 { 4 } else { input.byte() };
                let new = input.bytes(count.into());
                let place = range(at, new.len());
                let count = place.len();
                bytes[place].copy_from_slice(&new[..count]);
            }
            5 | 6 if !bytes.is_empty() => {
                let (count, value) = (input.word(), input.byte());
                // All of a physical block, or any bytes.
                let at = if kind == 5 { at / 512 * 512 } else { at };
                bytes[range(at, count)].fill(value);
            }
            7 => bytes.truncate(at),
            8 => bytes.resize((bytes.len() + at).min(1 << 17), input.byte()),
            _ => {
                let Some(source) = self.target(input.byte()).and_then(|source| self.read(source)) else { return };
                if source.is_empty() || bytes.is_empty() {
                    return;
                }
                self.copied = true;
                let (mut from, mut count) = (input.word() % source.len(), input.word());
                let mut at = at;
                if kind == 10 {
                    (from, at, count) = (from / 512 * 512, at / 512 * 512, count / 512 * 512);
                }
                let count = count.min(source.len() - from).min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&source[from..from + count]);
            }
        }
        self.write(target, bytes);
    }
}

/// What of a base's records the edits left whole, and what is known to have been durable.
struct Left<'a> {
    base: &'a Base,
    edited: &'a Disk,
    /// A copy of the epoch file's contents is whole.
    has_epoch: bool,
    /// The block file is there and its epoch says which it is.
    blocks: Option<&'a BlockMemory>,
}

impl<'a> Left<'a> {
    fn new(base: &'a Base, edited: &'a Edited) -> Self {
        let disk = &edited.disk;
        let has_epoch = base.disk.epochs.iter().any(|(number, before)| {
            let after = disk.epochs.get(number).map_or(&[][..], Vec::as_slice);
            EPOCH_COPIES
                .into_iter()
                .any(|at| after.get(at..at + EPOCH_COPY_BYTES) == before.get(at..at + EPOCH_COPY_BYTES))
        });
        let blocks = disk.blocks.iter().next().filter(|(name, file)| {
            let before = &base.disk.blocks[*name];
            has_epoch && edited.same_boot && file.len() > 48 && file.bytes(0..48) == before.bytes(0..48)
        });
        Self { base, edited: disk, has_epoch, blocks: blocks.map(|(_, file)| &**file) }
    }

    fn in_segment(&self, segment: SegmentNumber, range: &Range<usize>) -> bool {
        let before = &self.base.disk.segments[&segment].data[range.clone()];
        self.edited.segments.get(&segment).and_then(|file| file.data.get(range.clone())) == Some(before)
    }

    fn in_blocks(&self, range: &Range<usize>) -> bool {
        let Some(before) = self.base.disk.blocks.values().next() else { return false };
        self.blocks.is_some_and(|file| {
            // Slots that are not there whole are not looked into.
            let slots = (file.len() - file.len().min(base::SLOTS_AT)) / base::SLOT_BYTES * base::SLOT_BYTES;
            range.end <= base::SLOTS_AT + slots && file.bytes(range.clone()) == before.bytes(range.clone())
        })
    }

    /// Whether a record must be found.
    fn has(&self, copies: &Copies) -> bool {
        let segment = copies.segment;
        // From the block file only what belongs to a segment that is there.
        copies.on_disk.as_ref().is_some_and(|range| self.in_segment(segment, range))
            || self.edited.segments.contains_key(&segment) && copies.in_blocks.iter().any(|range| self.in_blocks(range))
    }

    /// Whether a record's place was durable by what a block says that no edit touched, and the place is still there: of
    /// a segment that is gone from an end of the log nobody can know.
    fn was_durable(&self, copies: &Copies) -> bool {
        let Some(range) = &copies.on_disk else { return false };
        let whole = |segment: &SegmentNumber| {
            self.base.marks.iter().any(|mark| mark.segment == *segment && self.in_segment(*segment, &mark.block))
        };
        let watermarks = self.base.marks.iter().filter(|mark| self.in_segment(mark.segment, &mark.block));
        let watermark = watermarks.map(|mark| mark.watermark).max().unwrap_or_default();
        Position { segment: copies.segment, offset: range.start as u32 } < watermark && whole(&copies.segment)
    }
}

/// All that a start found; checks that nothing is invented or altered.
fn recovered(world: &mut World, written: &BTreeMap<RecordNumber, Kept>) -> Vec<Kept> {
    let found = world.scan_all();
    for kept in &found {
        let expected = written.get(&kept.number).unwrap_or_else(|| panic!("{kept:?} is invented"));
        // An id, or who sent a record, can be what was lost; the record itself is whole.
        let kept = Kept { id: kept.id.clone().or_else(|| expected.id.clone()), ..kept.clone() };
        if kept.source == "unknown" {
            assert_eq!(&Kept { source: expected.source.clone(), name: expected.name.clone(), ..kept }, expected);
        } else {
            assert_eq!(&kept, expected);
        }
    }
    assert_eq!(world.journal().unsettled(), found.len() as u64, "what is counted can be found");
    assert_eq!(world.journal().report().recovered, found.len() as u64);
    found
}

/// Which journal, then edits.
pub fn run(data: &[u8], seen: &mut Seen) {
    BASES.with(|bases| {
        let mut input = Input::new(data);
        let base = &bases[usize::from(input.byte()) % bases.len()];
        let mut edited =
            Edited { disk: base.disk.image(), same_boot: true, fuse: None, power_fails: false, copied: false };
        for _ in 0..EDITS_MAX {
            if input.is_empty() {
                break;
            }
            edited.edit(&mut input);
        }
        check(base, edited, seen);
    });
}

fn check(base: &Base, edited: Edited, seen: &mut Seen) {
    let left = Left::new(base, &edited);
    let required: Vec<RecordNumber> =
        base.waiting.iter().filter(|(_, copies)| left.has(copies)).map(|(number, _)| *number).collect();
    let must_be_told: Vec<RecordNumber> = base
        .waiting
        .iter()
        .filter(|it| base.is_of_last_epoch(*it.0) && left.was_durable(it.1))
        .map(|(number, _)| *number)
        .collect();

    let mut world = World::on(edited.disk.image(), base.options.clone());
    world.disk.fuse = edited.fuse;
    if edited.fuse.is_some() {
        let failed = world.open().is_err();
        world = World::on(world.disk.image(), base.options.clone());
        seen.count("failed start", failed.into());
    }
    world.open_whole();
    let report = world.journal().report().clone();
    let found = recovered(&mut world, &base.written);
    let has = |number: &RecordNumber| found.binary_search_by_key(number, |kept| kept.number).is_ok();
    let missing: Vec<_> = required.iter().filter(|number| !has(number)).map(|it| (it, &base.waiting[it])).collect();
    let numbers: Vec<RecordNumber> = found.iter().map(|kept| kept.number).collect();
    assert!(missing.is_empty(), "no edit touched {missing:?}, found {numbers:?}, {report:?}");
    let untold: Vec<&RecordNumber> = must_be_told.iter().filter(|number| !has(number)).collect();
    let told = report.damaged > 0 || !report.alarms.is_empty();
    // Of a directory without segments nobody can know that it ever had any.
    let knows = left.has_epoch || edited.disk.segments.is_empty();
    assert!(knows || told || edited.fuse.is_some(), "how the last run ended is not known, {report:?}");
    assert!(
        untold.is_empty() || told || edited.fuse.is_some(),
        "{untold:?} were durable, found {numbers:?}, {report:?}"
    );

    // What recovery left is whole; and durable, but for blocks whose files are still to be made.
    world.kill();
    if edited.power_fails && report.unwritten_blocks == 0 {
        world.disk.lose_power();
        seen.count("power fails", 1);
    }
    world.open_whole();
    let again = world.scan_all();
    // What the clean stop knew to be settled, though its mark is lost, is marked again in the first turn: there was none.
    let comes_back = |kept: &&Kept| !found.contains(kept) && report.clean && !base.waiting.contains_key(&kept.number);
    let same: Vec<&Kept> = again.iter().filter(|kept| !comes_back(kept)).collect();
    assert!(same.into_iter().eq(&found), "the next start finds the same: {found:?}, then {again:?}, {report:?}");
    assert!(world.journal().report().finished_blocks <= report.unwritten_blocks, "what was finished is whole");
    goes_on(world, &again, edited.copied);

    seen.count("found all", (found.len() >= base.waiting.len()).into());
    seen.count("lost some", base.waiting.keys().any(|number| !has(number)).into());
    seen.count("found none", found.is_empty().into());
    seen.count("settled came back", found.iter().any(|kept| !base.waiting.contains_key(&kept.number)).into());
    seen.count("damaged", (report.damaged > 0).into());
    seen.count("torn", (report.torn > 0).into());
    seen.count("finished blocks", (report.finished_blocks > 0).into());
    seen.count("blocks without a file", (report.unwritten_blocks > 0).into());
    seen.count("alarms", (!report.alarms.is_empty()).into());
    seen.count("quarantined", (!edited.disk.quarantined.is_empty()).into());
}

/// A record more, a kill, and it is there with the others.
fn goes_on(mut world: World, found: &[Kept], copied: bool) {
    world.quiesce();
    let lane = world.journal().new_lane();
    let origin = world.journal().open_origin(lane, Identity::new("after", "after"));
    let (kept, _) = world.append(origin, b"after the damage", b"").expect("room");
    assert!(found.iter().all(|before| before.number < kept.number && before.epoch_id != kept.epoch_id));
    world.kill();
    world.open_whole();
    let mut expected = found.to_vec();
    expected.push(kept);
    let mut again = world.scan_all();
    if copied {
        again.retain(|kept| expected.contains(kept));
    }
    let numbers = |all: &[Kept]| all.iter().map(|kept| kept.number).collect::<Vec<_>>();
    assert_eq!(numbers(&again), numbers(&expected), "{:?}", world.journal().report());
    assert_eq!(again, expected);
}
