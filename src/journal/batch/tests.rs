//! A kill at any write of a batch, and a loss of power at any sector of its block: all of it is found, or nothing.

use crate::config::Durability;
use crate::ground::KeptHeaders;
use crate::journal::moving::tests::{Disk, NOW, PHYSICAL, carry_out, found, options};
use crate::journal::{self, Claim, Identity, Journal, NewRecord, OriginRef, Position};
use std::collections::VecDeque;
use std::rc::Rc;

/// A journal with one record.
fn begun(disk: &mut Disk, durability: Durability) -> (Journal, OriginRef) {
    let mut journal = journal::open(disk, &options(durability)).expect("opens");
    rest(disk, &mut journal);
    let lane = journal.new_lane();
    let origin = journal.open_origin(lane, Identity::new("source", "name"));
    journal.append_record(NOW, record(origin, b"before")).expect("room");
    (journal, origin)
}

fn record(origin: OriginRef, data: &[u8]) -> NewRecord<'_> {
    NewRecord {
        origin,
        flags: 0,
        first_byte_wall_ns: 1,
        frame_us: 2,
        key: b"",
        hashes: None,
        headers: KeptHeaders::default(),
        data,
    }
}

/// Ends what the journal has to do, its commits included.
fn rest(disk: &mut Disk, journal: &mut Journal) -> Option<Position> {
    let mut last = None;
    for _ in 0..4 {
        let mut ops = VecDeque::new();
        journal.turn(NOW, true, &mut |op| ops.push_back(op));
        carry_out(disk, journal, &mut ops, |at| {
            last = Some(at);
            Ok(())
        });
    }
    last
}

fn bodies(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|index| vec![b'a' + index; 200 + usize::from(index) * 30]).collect()
}

fn append(journal: &mut Journal, origin: OriginRef, bodies: &[Vec<u8>]) {
    let headers = KeptHeaders::encode([("X-Lot", &b"L7"[..])].into_iter());
    let of_body = |body| NewRecord { headers: KeptHeaders::of(&headers), ..record(origin, body) };
    let records: Vec<NewRecord<'_>> = bodies.iter().map(|body| of_body(body)).collect();
    let sizes = || bodies.iter().map(|body| headers.len() + body.len());
    assert!(journal.holds_batch(sizes()));
    let room = journal.room_for_batch(NOW, Claim::Waits, sizes()).expect("room");
    let appended = journal.append_batch(NOW, room, &records, None);
    let numbers: Vec<u64> = appended.iter().map(|appended| appended.number.0).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
}

/// The records that a start finds.
fn start(disk: &mut Disk, durability: Durability) -> (Journal, Vec<Vec<u8>>) {
    let mut journal = journal::open(disk, &options(durability)).expect("opens");
    let found = found(disk, &mut journal).into_iter().map(|(_, data)| data).collect();
    (journal, found)
}

#[test]
fn a_kill_at_any_write_of_a_batch_finds_all_of_it_or_nothing() {
    for durability in [Durability::Process, Durability::Power] {
        let mut disk = Disk::default();
        let (mut journal, origin) = begun(&mut disk, durability);
        let memory = Rc::clone(journal.memory());
        let mut image = memory.bytes(0..memory.len()).to_vec();
        let bodies = bodies(6);
        *memory.trace.borrow_mut() = Some(Vec::new());
        append(&mut journal, origin, &bodies);
        let writes = memory.trace.borrow_mut().take().expect("traced");
        assert!(writes.len() > bodies.len(), "{} writes", writes.len());
        let mut outcomes = [0, 0];
        for (count, (offset, bytes)) in writes.iter().enumerate() {
            for part in [0, bytes.len() / 3, bytes.len()] {
                image[*offset..offset + part].copy_from_slice(&bytes[..part]);
                let mut other = disk.killed(&image);
                let (mut journal, found) = start(&mut other, durability);
                let is_whole = count + 1 == writes.len() && part == bytes.len();
                let mut expected = vec![b"before".to_vec()];
                expected.extend(bodies.iter().filter(|_| is_whole).cloned());
                assert_eq!(found, expected, "{durability:?}: after {count} writes and {part} bytes");
                outcomes[usize::from(is_whole)] += 1;
                assert_eq!((journal.report().torn_batches, journal.report().damaged), (0, 0));
                // And the next start finds the same.
                rest(&mut other, &mut journal);
                let memory = journal.memory().bytes(0..journal.memory().len()).to_vec();
                assert_eq!(start(&mut other.killed(&memory), durability).1, expected);
            }
        }
        assert!(outcomes[0] > 30 && outcomes[1] == 1, "{outcomes:?}");
    }
}

/// The disk after a loss of power that has let so many of the sectors of a block land; nothing of it is in block memory.
fn cut(disk: &Disk, at: Position, landed: u32) -> Disk {
    let mut other = disk.killed(&[0; 64]);
    other.blocks.clear();
    let file = other.segments.get_mut(&at.segment).expect("it was written");
    for (sector, bytes) in file[at.offset as usize..].chunks_mut(PHYSICAL as usize).enumerate() {
        if landed >> sector & 1 == 0 {
            bytes.fill(0);
        }
    }
    other
}

#[test]
fn a_loss_of_power_in_the_middle_of_a_block_leaves_all_of_a_batch_or_nothing() {
    let mut disk = Disk::default();
    let (mut journal, origin) = begun(&mut disk, Durability::Power);
    rest(&mut disk, &mut journal);
    let bodies = bodies(6);
    append(&mut journal, origin, &bodies[..4]);
    append(&mut journal, origin, &bodies[4..]);
    let at = rest(&mut disk, &mut journal).expect("it was committed");
    let (mut whole, mut torn) = (0, 0);
    for landed in 0..1 << 5 {
        let mut other = cut(&disk, at, landed);
        let (mut journal, found) = start(&mut other, Durability::Power);
        assert_eq!(found[0], b"before");
        for batch in [&bodies[..4], &bodies[4..]] {
            let there = batch.iter().filter(|body| found.contains(body)).count();
            assert!(there == 0 || there == batch.len(), "sectors {landed:b}: {there} of {}", batch.len());
            whole += usize::from(there > 0);
        }
        torn += journal.report().torn_batches;
        // What was dropped does not come back with a later start.
        rest(&mut other, &mut journal);
        let mut later = other.killed(&[0; 64]);
        later.blocks.clear();
        let (journal, again) = start(&mut later, Durability::Power);
        assert_eq!((again, journal.report().torn_batches), (found, 0), "sectors {landed:b}");
    }
    assert!(whole > 2 && torn > 5, "{whole} whole, {torn} torn");
}

#[test]
fn what_is_left_of_a_batch_that_was_durable_is_kept() {
    let mut disk = Disk::default();
    let (mut journal, origin) = begun(&mut disk, Durability::Power);
    rest(&mut disk, &mut journal);
    let bodies = bodies(6);
    append(&mut journal, origin, &bodies);
    let at = rest(&mut disk, &mut journal).expect("it was committed");
    for _ in 0..2 {
        journal.append_record(NOW, record(origin, b"behind")).expect("room");
        rest(&mut disk, &mut journal);
    }
    let mut other = cut(&disk, at, !0b100);
    other.keeps_damage = true;
    let (journal, found) = start(&mut other, Durability::Power);
    let left = bodies.iter().filter(|body| found.contains(body)).count();
    assert!((1..bodies.len()).contains(&left), "{left} are left");
    let report = journal.report();
    assert_eq!((report.torn_batches, report.damaged), (0, 1), "{report:?}");
}

#[test]
fn a_batch_that_no_block_holds_is_told_before_it_is_taken() {
    let mut disk = Disk::default();
    let (journal, _) = begun(&mut disk, Durability::Process);
    assert!(journal.holds_batch([1000; 3].into_iter()));
    assert!(!journal.holds_batch([1000; 4].into_iter()));
}
