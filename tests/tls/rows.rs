//! The table of right and wrong requests over TLS, through a whole shard: what comes of each is what comes of it on a plain connection.

use crate::machines::{Files, HOST, HTTP, Machine, Maker, World};
use crate::pki::{Authority, BOTH, ONLY_1_2};
use crate::table::{Case, GOOD, all};

/// Longer ones come in larger pieces: each piece is a TLS record, or a read.
const BYTEWISE_BYTES_MAX: usize = 2_000;
const PIECE_BYTES: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Whole,
    /// A TLS record for each byte.
    RecordByRecord,
    /// Its TLS records come byte by byte.
    ByteByByte,
    /// Behind a good one, in one TLS record as far as one may hold both.
    Pipelined,
}

/// Statuses of the answers. The words of some have the version in them, too.
fn statuses(machine: &Machine) -> Vec<u16> {
    let text = String::from_utf8_lossy(&machine.heard).into_owned();
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn play(world: &mut World, maker: &Maker, case: &Case, way: Way) {
    let context =
        format!("row {} {way:?}: {}", case.row, String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(200)]));
    let mut wire = [&case.bytes, GOOD.as_bytes()].concat();
    if way == Way::Pipelined {
        wire.splice(..0, GOOD.bytes());
    }
    let piece = if wire.len() > BYTEWISE_BYTES_MAX { PIECE_BYTES } else { 1 };
    let mut machine = maker.machine(world, 0);
    machine.tls.set_buffer_limit(None);
    machine.exchange(world);
    assert_eq!(machine.error, None, "{context}");
    match way {
        Way::RecordByRecord => {
            for piece in wire.chunks(piece) {
                machine.say(piece).exchange(world);
            }
        }
        Way::ByteByByte => {
            machine.piece = piece;
            machine.say(&wire).exchange(world);
        }
        Way::Whole | Way::Pipelined => drop(machine.say(&wire).exchange(world)),
    }
    let mut expected = case.statuses.clone();
    let mut bodies: Vec<String> =
        case.bodies.iter().map(|body| String::from_utf8(body.clone()).expect("text")).collect();
    for _ in 0..usize::from(way == Way::Pipelined) + usize::from(!case.closes) {
        bodies.push("good".to_owned());
    }
    if way == Way::Pipelined {
        expected.insert(0, 201);
    }
    if !case.closes {
        expected.push(201);
    }
    assert_eq!(statuses(&machine), expected, "{context}");
    assert_eq!(world.has_ended(machine.fd), case.closes, "{context}");
    world.hang_up(machine.fd);
    // Records of different SOURCEs have no order among each other.
    let mut delivered: Vec<String> =
        world.delivered.drain(..).filter_map(|body| Some(body.split_once(' ')?.1.to_owned())).collect();
    delivered.sort_unstable();
    bodies.sort_unstable();
    assert_eq!(delivered, bodies, "{context}");
}

#[test]
fn every_row_over_tls_is_what_it_is_on_a_plain_connection() {
    let authority = Authority::new("Plant");
    let files = Files { ours: &authority.issue(&[HOST]), client_ca: None, revoked: None };
    let mut played = 0;
    for (versions, ways) in [
        (BOTH, &[Way::Whole, Way::RecordByRecord, Way::ByteByByte, Way::Pipelined][..]),
        (ONLY_1_2, &[Way::Whole, Way::RecordByRecord]),
    ] {
        let mut world = World::new(HTTP, &files);
        let maker = Maker::new(&authority, None, versions);
        for case in all() {
            for way in ways {
                play(&mut world, &maker, &case, *way);
                played += 1;
            }
        }
    }
    assert!(played > 500, "{played}");
}
