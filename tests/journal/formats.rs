//! Every format that was ever landed is read by this version, and a newer one is refused untouched.
//!
//! `formats/VERSION-STATE.txt` is what that version left on its disk, after a clean stop and after a
//! kill: files as hexadecimal rows without those that are all zero, then the records that wait.
//! `RINGEST_WRITE_FIXTURES=1 cargo test --test journal fixtures` writes those of the present version.

use super::disk::{Disk, File};
use super::recovery::Story;
use super::world::{Kept, World, options};
use ringest::config::Durability;
use ringest::ground::decoding::Decoding;
use ringest::ground::{LaneNumber, RecordNumber, SegmentNumber};
use ringest::journal::{BlockMemory, Identity, OpenError, Refused};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

const ROW_BYTES: usize = 32;
const SEED: u64 = 13;

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/journal/formats"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn write_file(out: &mut String, kind: &str, name: &str, bytes: &[u8]) {
    writeln!(out, "{kind} {name} {}", bytes.len()).expect("a string takes all");
    for (row, bytes) in bytes.chunks(ROW_BYTES).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
        writeln!(out, "  {:x} {}", row * ROW_BYTES, hex(bytes)).expect("a string takes all");
    }
}

fn write_disk(disk: &Disk) -> String {
    let mut out = format!("physical {}\nboot {}\n", disk.physical, hex(&disk.boot));
    for (number, bytes) in &disk.epochs {
        write_file(&mut out, "epoch", &number.to_string(), bytes);
    }
    for (number, file) in &disk.segments {
        write_file(&mut out, "segment", &number.to_string(), &file.data);
    }
    for (name, file) in &disk.blocks {
        write_file(&mut out, "blocks", name, file.bytes(0..file.len()));
    }
    out
}

fn write_record(out: &mut String, kept: &Kept) {
    let Kept { number, lane, source, name, epoch_id, flags, first_byte_wall_ns, frame_us, key, headers, data, id } =
        kept;
    let id = id.as_deref().unwrap_or("-");
    let (key, data, headers) = (hex(key), hex(data), hex(headers));
    write!(
        out,
        "record {number} {lane} {source} {name} {epoch_id:x} {flags} {first_byte_wall_ns} {frame_us} {id} {key}; {data};"
    )
    .expect("a string takes all");
    writeln!(out, " {headers};").expect("a string takes all");
}

fn read_record(text: &str) -> Kept {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    Kept {
        number: RecordNumber(word().parse().expect("a number")),
        lane: LaneNumber(word().parse().expect("a number")),
        source: word().to_owned(),
        name: word().to_owned(),
        epoch_id: u128::from_str_radix(word(), 16).expect("an id"),
        flags: word().parse().expect("flags"),
        first_byte_wall_ns: word().parse().expect("a time"),
        frame_us: word().parse().expect("a time"),
        id: Some(word()).filter(|id| *id != "-").map(str::to_owned),
        key: unhex(word().trim_end_matches(';')),
        data: unhex(word().trim_end_matches(';')),
        // Formats before the fifth have none.
        headers: unhex(word().trim_end_matches(';')),
    }
}

/// A disk as a version left it, and the records that wait on it.
fn read_fixture(name: &str) -> (Disk, Vec<Kept>) {
    let text = std::fs::read_to_string(directory().join(name)).expect("a fixture");
    let mut disk = Disk::new(512, SEED);
    let mut records = Vec::new();
    let mut file: Option<(&str, &str, Vec<u8>)> = None;
    for line in text.lines().chain(["end"]) {
        if let Some(row) = line.strip_prefix("  ") {
            let (at, bytes) = row.split_once(' ').expect("a row");
            let (at, bytes) = (usize::from_str_radix(at, 16).expect("an offset"), unhex(bytes));
            file.as_mut().expect("a file").2[at..at + bytes.len()].copy_from_slice(&bytes);
            continue;
        }
        match file.take() {
            Some(("epoch", number, data)) => drop(disk.epochs.insert(number.parse().expect("a number"), data)),
            Some(("segment", number, data)) => {
                let number = SegmentNumber(number.parse().expect("a number"));
                disk.segments.insert(number, File::of(data));
            }
            Some((_, name, data)) => {
                let memory = BlockMemory::heap(data.len());
                memory.write(0, &data);
                disk.blocks.insert(name.to_owned(), Rc::new(memory));
            }
            None => {}
        }
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "physical" => disk.physical = rest.parse().expect("a number"),
            "boot" => disk.boot = unhex(rest).try_into().expect("sixteen bytes"),
            "record" => records.push(read_record(rest)),
            "end" => {}
            _ => {
                let (name, bytes) = rest.rsplit_once(' ').expect("a file's size");
                file = Some((kind, name, vec![0; bytes.parse().expect("a number")]));
            }
        }
    }
    (disk, records)
}

/// Records that wait, with ids and keys of their machines, settled ones, and one that is parked.
fn story(durability: Durability) -> Story {
    let mut story = Story::new(World::new(options(durability, 8, 16), 512, SEED), SEED);
    for round in 0..40 {
        story.world.now.mono_ns += 6_000_000;
        story.append(20 + round * 17 % 200);
        if round % 5 == 1 {
            story.append_id();
        }
        if round % 3 == 2 {
            let oldest = *story.waiting.keys().next().expect("one waits");
            story.settle(oldest);
        }
        story.world.turn(true);
        while !story.world.pending.is_empty() && round % 7 != 6 {
            story.world.complete(0, Ok(()));
        }
    }
    story.append_batch(&[30, 1, 200]);
    let (number, (kept, origin, at)) = story.waiting.pop_first().expect("one waits");
    let now = story.world.now;
    let refused = Refused { status: 422, attempts: 3, answer: b"no such part" };
    story.world.journal().park(now, number, (origin, at), kept.id.as_deref(), refused).expect("room");
    story.world.turn(true);
    story.waiting.insert(number, (kept, origin, at));
    story
}

fn present_version() -> u32 {
    ringest::journal::format::VERSION
}

#[test]
fn fixtures_of_the_present_version_are_what_it_writes() {
    for (state, durability) in [("killed", Durability::Process), ("clean", Durability::Power)] {
        let mut story = story(durability);
        let records = story.expected();
        if state == "clean" {
            story.world.rest();
            assert!(story.world.close());
        }
        let mut text = write_disk(&story.world.disk.image());
        records.iter().for_each(|kept| write_record(&mut text, kept));
        let path = directory().join(format!("{}-{state}.txt", present_version()));
        if std::env::var_os("RINGEST_WRITE_FIXTURES").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let kept = std::fs::read_to_string(&path).expect("a fixture");
        let differs = text.lines().zip(kept.lines()).position(|(line, kept)| line != kept);
        assert!(
            text == kept,
            "{}: this program writes another text from line {:?} on; a change of the format needs a number of its own",
            path.display(),
            differs.map(|index| index + 1)
        );
    }
}

#[test]
fn every_landed_format_is_read() {
    for version in 1..=present_version() {
        for state in ["clean", "killed"] {
            let (disk, expected) = read_fixture(&format!("{version}-{state}.txt"));
            let mut world = World::on(disk, options(Durability::Power, 8, 16));
            world.open_whole();
            let report = world.journal().report().clone();
            assert_eq!(report.alarms, [""; 0], "{version}-{state}");
            assert_eq!((report.clean, report.recovered, report.parked), (state == "clean", expected.len() as u64, 1));
            let parked: Vec<_> = world.journal().parked().map(|(number, parked)| (number, parked.status)).collect();
            assert_eq!(parked, [(expected[0].number, 422)]);
            let found = world.scan_all();
            assert_eq!(found.len(), expected.len() - 1, "{version}-{state}");
            for (found, expected) in found.iter().zip(&expected[1..]) {
                assert_eq!(found, expected, "{version}-{state}");
            }
        }
    }
}

/// Says another format, under a right CRC.
fn stamp_as(bytes: &mut [u8], version: u32) {
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// All that lies on a disk, to be compared.
fn contents(disk: &Disk) -> String {
    write_disk(disk) + &disk.quarantined.iter().map(|(name, _)| name.as_str()).collect::<String>()
}

#[test]
fn a_newer_format_in_any_file_is_refused_and_nothing_is_changed() {
    let newer = present_version() + 1;
    for state in ["clean", "killed"] {
        for file in ["epoch", "its second copy", "segment", "block file"] {
            if file == "block file" && state == "clean" {
                continue; // a clean stop leaves none
            }
            let (mut disk, _) = read_fixture(&format!("{}-{state}.txt", present_version()));
            let epoch = disk.epochs.values_mut().next_back().expect("an epoch");
            match file {
                "epoch" => stamp_as(epoch, newer),
                "its second copy" => {
                    let second = 4096;
                    epoch[0] ^= 1;
                    stamp_as(&mut epoch[second..], newer);
                }
                "block file" => {
                    let blocks = disk.blocks.values().next().expect("a block file");
                    let mut front = blocks.bytes(0..32).to_vec();
                    stamp_as(&mut front, newer);
                    blocks.write(0, &front);
                }
                _ => stamp_as(&mut disk.segments.values_mut().next_back().expect("a segment").data, newer),
            }
            let before = contents(&disk);
            let mut world = World::on(disk, options(Durability::Power, 8, 16));
            let error = world.open().expect_err("refused");
            assert!(matches!(error, OpenError::Format { version, .. } if version == newer), "{state}, {file}: {error}");
            let text = error.to_string();
            let program = env!("CARGO_PKG_VERSION");
            assert!(text.contains(&format!("in format {newer}, written by ringest {program}")), "{text}");
            assert_eq!(contents(&world.disk), before, "{state}, {file}");
        }
    }
}

#[test]
fn a_damaged_format_field_is_damage_and_no_other_format() {
    for bit in 0..32 {
        let (mut disk, expected) = read_fixture(&format!("{}-clean.txt", present_version()));
        let file = disk.segments.values_mut().next().expect("a segment");
        file.data[8 + bit / 8] ^= 1 << (bit % 8);
        let epoch = disk.epochs.values_mut().next_back().expect("an epoch");
        epoch[8 + bit / 8] ^= 1 << (bit % 8);
        let mut world = World::on(disk, options(Durability::Power, 8, 16));
        world.open_whole();
        let report = world.journal().report().clone();
        assert_eq!(report.recovered, expected.len() as u64, "bit {bit}");
        assert_eq!(report.alarms.len(), 2, "bit {bit}: {:?}", report.alarms);
    }
}

#[test]
fn a_journal_of_the_format_before_goes_on_in_the_present_one() {
    let (disk, expected) = read_fixture("1-killed.txt");
    let mut world = World::on(disk, options(Durability::Power, 8, 16));
    world.open_whole();
    world.quiesce();
    let lane = world.journal().new_lane();
    let decoding = Decoding { encoding: Decoding::encoding_of("big5").expect("a label"), ..Decoding::default() };
    let peer = Some("10.0.4.21:4001".parse().expect("an address"));
    let who = Identity::of("press", "press@10.0.4.21", peer, decoding);
    let origin = world.journal().open_origin(lane, who.clone());
    world.append(origin, b"new", b"").expect("room");
    world.rest();
    let newest = world.disk.segments.values().next_back().expect("a segment");
    assert_eq!(newest.data[8..12], present_version().to_le_bytes());
    world.kill();
    world.open_whole();
    assert_eq!(world.scan_all().len(), expected.len(), "all but the parked one, and the new one");
    let found: Vec<Identity> = world.journal().origins().map(|(_, origin, _)| origin.who.clone()).collect();
    assert!(found.contains(&who), "{found:?}");
    assert!(found.iter().any(|found| found.decoding() == Decoding::default() && found.peer().is_none()));
}
