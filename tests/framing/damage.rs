//! Streams with damage, held against the records that are truly in them.
//!
//! A machine of each kind sends records. Bytes of its stream are changed, lost, doubled or inserted. All records must come
//! but those that the damage touches, and nothing else. Where a frame is verified by `bits` bits, damage passes for a frame
//! once in 2^`bits` times: of `n` damaged places, `3 n / 2^bits` may do so, and what chance adds to that.
//!
//! `RINGEST_FRAMING_STREAMS` is how many streams there are; `RINGEST_FRAMING_SEED` is where their random numbers begin.

use ringest::framing::{
    Checksum, ChecksumForm, ChecksumKind, Covers, CrcName, Escape, FrameFlags, Framed, Framer, Framing, FramingKind,
    LengthCounts, LengthField, NumberForm, Place, search_bytes_max,
};

const STREAMS: u64 = 10_000;

/// What sends, and what is known of its damage.
pub struct Machine {
    pub name: &'static str,
    pub framing: Framing,
    pub encode: fn(&[u8]) -> Vec<u8>,
    pub payload: fn(&mut fastrand::Rng) -> Vec<u8>,
    /// Bits that verify a record. 0: damage to a record may pass, and only what is beside it is told.
    bits: u32,
    /// Start and checksum are evidence without the next frame: any damage is borne. Else one a stream.
    is_certain: bool,
    /// Where a record begins is told by the end of the one before only: damage to it touches both.
    touches_next: bool,
    /// Records that begin within so many bytes behind damage can be swallowed: nothing tells a wrong length.
    reach_bytes: usize,
}

// ---- checksums, the slow way

fn xor8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

fn sum8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn reflected(bytes: &[u8], polynomial: u32, begin: u32) -> u32 {
    bytes.iter().fold(begin, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * polynomial))
    })
}

fn crc16(bytes: &[u8]) -> [u8; 2] {
    (reflected(bytes, 0xA001, 0xFFFF) as u16).to_le_bytes()
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    (!reflected(bytes, 0xEDB8_8320, u32::MAX)).to_le_bytes()
}

fn ubx(bytes: &[u8]) -> [u8; 2] {
    bytes.iter().fold([0u8, 0], |[low, high], byte| {
        let low = low.wrapping_add(*byte);
        [low, high.wrapping_add(low)]
    })
}

// ---- payloads

fn text(rng: &mut fastrand::Rng) -> Vec<u8> {
    // Long enough that a damaged record is not taken for another one.
    let bytes = rng.usize(6..24);
    (0..bytes).map(|_| if rng.u8(..8) == 0 { b',' } else { rng.alphanumeric() as u8 }).collect()
}

/// With bytes in it that look like starts, ends and lengths.
fn binary(rng: &mut fastrand::Rng, bytes: usize) -> Vec<u8> {
    let looks = [0x02, 0x03, 0x10, 0xAA, 0x55, 0xC0, 0xDB, 0, 0xFF];
    (0..bytes).map(|_| if rng.u8(..4) == 0 { looks[rng.usize(..looks.len())] } else { rng.u8(..) }).collect()
}

fn any_binary(rng: &mut fastrand::Rng) -> Vec<u8> {
    let bytes = rng.usize(1..40);
    binary(rng, bytes)
}

// ---- machines

fn framing(kind: FramingKind, start: &[u8], checksum: Option<Checksum>, max_bytes: usize) -> Framing {
    let starts = if start.is_empty() { Vec::new() } else { vec![start.to_vec()] };
    Framing { kind, starts, checksum, max_bytes, trim: false, ..Framing::default() }
}

fn ends(end: &[u8]) -> FramingKind {
    FramingKind::Delimiter { ends: vec![end.to_vec()] }
}

fn length(offset: usize, bytes: usize, form: NumberForm, counts: LengthCounts) -> LengthField {
    LengthField::plain(offset, bytes, form, counts, false)
}

fn doubled(escape: u8, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| if *byte == escape { vec![escape; 2] } else { vec![*byte] }).collect()
}

fn slip(bytes: &[u8]) -> Vec<u8> {
    let escaped = bytes.iter().flat_map(|byte| match byte {
        0xC0 => vec![0xDB, 0xDC],
        0xDB => vec![0xDB, 0xDD],
        other => vec![*other],
    });
    escaped.chain([0xC0]).collect()
}

pub fn machines() -> Vec<Machine> {
    let short = |kind| Some(Checksum::short(kind));
    let crc16_kind = ChecksumKind::Crc(CrcName::Crc16Modbus);
    let crc32_kind = ChecksumKind::Crc(CrcName::Crc32IsoHdlc);
    let with_end = Covers { start: false, header: true, end: true };
    let before = Place::Before;
    let machine = |name, framing, encode, payload| Machine {
        name,
        framing,
        encode,
        payload,
        bits: 16,
        is_certain: true,
        touches_next: false,
        reach_bytes: 0,
    };
    let mut dle = framing(ends(b"\x10\x03"), b"\x10\x02", short(crc16_kind), 64);
    dle.escape = Some(Escape::Dle);
    let mut slip_framing = framing(ends(&[0xC0]), b"", None, 64);
    slip_framing.escape = Some(Escape::Slip);
    slip_framing.checksum = Some(Checksum { place: before, ..Checksum::short(crc16_kind) });
    let nmea = Checksum {
        form: ChecksumForm::Hex,
        place: before,
        separator: vec![b'*'],
        ..Checksum::short(ChecksumKind::Xor8)
    };
    let lrc =
        Checksum { form: ChecksumForm::Hex, digits: true, place: before, ..Checksum::short(ChecksumKind::NegSum8) };
    let decimal = LengthField { add: 2, trailer_bytes: 1, ..length(1, 3, NumberForm::Decimal, LengthCounts::Payload) };
    vec![
        machine(
            "start, end, crc16",
            framing(ends(&[3]), &[2], short(crc16_kind), 64),
            |data| [&[2], data, &[3], &crc16(data)].concat(),
            text,
        ),
        Machine {
            bits: 8,
            is_certain: false,
            ..machine(
                "start, end, block check over the end",
                framing(
                    ends(&[3]),
                    &[2],
                    Some(Checksum { covers: with_end, ..Checksum::short(ChecksumKind::Xor8) }),
                    64,
                ),
                |data| [&[2], data, &[3, xor8(data) ^ 3]].concat(),
                text,
            )
        },
        Machine {
            bits: 8,
            is_certain: false,
            ..machine(
                "start, sum before the end",
                Framing {
                    restart: true,
                    ..framing(
                        ends(&[3]),
                        &[2],
                        Some(Checksum { place: before, ..Checksum::short(ChecksumKind::Sum8) }),
                        64,
                    )
                },
                |data| [&[2], data, &[sum8(data), 3]].concat(),
                text,
            )
        },
        Machine {
            bits: 8,
            ..machine(
                "nmea",
                framing(ends(b"\r\n"), b"$", Some(nmea), 82),
                |data| [b"$", data, b"*", format!("{:02X}\r\n", xor8(data)).as_bytes()].concat(),
                text,
            )
        },
        Machine {
            bits: 8,
            is_certain: false,
            ..machine(
                "modbus ascii",
                framing(ends(b"\r\n"), b":", Some(lrc), 128),
                |data| {
                    let values: Vec<u8> = data
                        .chunks(2)
                        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                        .collect();
                    [b":", data, format!("{:02X}\r\n", sum8(&values).wrapping_neg()).as_bytes()].concat()
                },
                |rng| any_binary(rng).iter().map(|byte| format!("{byte:02X}")).collect::<String>().into_bytes(),
            )
        },
        machine(
            "length behind two bytes, crc16",
            framing(
                FramingKind::Length(length(2, 2, NumberForm::Big, LengthCounts::Payload)),
                &[0xAA, 0x55],
                short(crc16_kind),
                64,
            ),
            |data| {
                let covered = [&(data.len() as u16).to_be_bytes()[..], data].concat();
                [&[0xAA, 0x55], &covered[..], &crc16(&covered)].concat()
            },
            any_binary,
        ),
        machine(
            "length behind one byte, crc16",
            framing(
                FramingKind::Length(length(1, 1, NumberForm::Big, LengthCounts::Message)),
                &[2],
                short(crc16_kind),
                64,
            ),
            |data| {
                let covered = [&[data.len() as u8 + 4][..], data].concat();
                [&[2], &covered[..], &crc16(&covered)].concat()
            },
            any_binary,
        ),
        machine(
            "ubx",
            framing(
                FramingKind::Length(length(4, 2, NumberForm::Little, LengthCounts::Payload)),
                &[0xB5, 0x62],
                short(ChecksumKind::FletcherUbx),
                64,
            ),
            |data| {
                let covered = [&[1, 7][..], &(data.len() as u16).to_le_bytes(), data].concat();
                [&[0xB5, 0x62], &covered[..], &ubx(&covered)].concat()
            },
            any_binary,
        ),
        // A lost trailer, which nothing verifies, is taken from the next message.
        Machine {
            touches_next: true,
            ..machine(
                "length in characters, crc16, trailer",
                framing(FramingKind::Length(decimal), b"#", short(crc16_kind), 64),
                |data| {
                    let number = data.len() as i32 - 2;
                    let covered = [format!("{:3}", number.max(0)).as_bytes(), data].concat();
                    [b"#", &covered[..], &crc16(&covered), b";"].concat()
                },
                |rng| [b"xy".to_vec(), any_binary(rng)].concat(),
            )
        },
        Machine {
            bits: 32,
            ..machine(
                "length without a start, crc32",
                framing(
                    FramingKind::Length(length(0, 1, NumberForm::Big, LengthCounts::Payload)),
                    b"",
                    short(crc32_kind),
                    64,
                ),
                |data| {
                    let covered = [&[data.len() as u8][..], data].concat();
                    [&covered[..], &crc32(&covered)].concat()
                },
                any_binary,
            )
        },
        Machine {
            bits: 32,
            ..machine(
                "one size, crc32",
                framing(FramingKind::Fixed { bytes: 20 }, b"", short(crc32_kind), 20),
                |data| [data, &crc32(data)].concat(),
                |rng| binary(rng, 20),
            )
        },
        Machine {
            bits: 8,
            is_certain: false,
            ..machine(
                "one size, sum8",
                framing(FramingKind::Fixed { bytes: 36 }, b"", short(ChecksumKind::Sum8), 36),
                |data| [data, &[sum8(data)]].concat(),
                |rng| (0..36).map(|_| rng.u8(..)).collect(),
            )
        },
        machine(
            "dle",
            dle,
            |data| [b"\x10\x02", &doubled(0x10, data)[..], b"\x10\x03", &crc16(data)].concat(),
            any_binary,
        ),
        Machine {
            touches_next: true,
            ..machine("slip", slip_framing, |data| slip(&[data, &crc16(data)].concat()), any_binary)
        },
        Machine {
            bits: 0,
            is_certain: false,
            reach_bytes: 64 + 4,
            ..machine(
                "length behind two bytes, unverified",
                framing(
                    FramingKind::Length(length(2, 2, NumberForm::Big, LengthCounts::Payload)),
                    &[0xAA, 0x55],
                    None,
                    64,
                ),
                |data| [&[0xAA, 0x55], &(data.len() as u16).to_be_bytes()[..], data].concat(),
                text,
            )
        },
        Machine {
            bits: 0,
            ..machine(
                "start and end, restarting",
                Framing { restart: true, ..framing(ends(&[3]), &[2], None, 64) },
                |data| [&[2], data, &[3]].concat(),
                text,
            )
        },
        Machine {
            bits: 0,
            touches_next: true,
            ..machine("lines", framing(ends(b"\r"), b"", None, 64), |data| [data, b"\r"].concat(), text)
        },
        Machine {
            bits: 0,
            touches_next: true,
            ..machine(
                "lines with two ends",
                framing(FramingKind::Delimiter { ends: vec![b"\r".to_vec(), b"\n".to_vec()] }, b"", None, 64),
                |data| [data, b"\n"].concat(),
                text,
            )
        },
    ]
}

/// A stream with damage in it.
struct Stream {
    bytes: Vec<u8>,
    /// Each record, and whether damage touches it.
    records: Vec<(Vec<u8>, bool)>,
    damaged: usize,
}

fn stream(machine: &Machine, rng: &mut fastrand::Rng) -> Stream {
    let count = rng.usize(6..16);
    let mut records: Vec<(Vec<u8>, bool)> = (0..count).map(|_| ((machine.payload)(rng), false)).collect();
    let messages: Vec<Vec<u8>> = records.iter().map(|(data, _)| (machine.encode)(data)).collect();
    let mut bytes = Vec::new();
    let mut owners = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        bytes.extend(message);
        owners.extend(vec![index; message.len()]);
    }
    let places = if machine.is_certain { rng.usize(1..4) } else { 1 };
    for _ in 0..places {
        let at = rng.usize(..bytes.len());
        let owner = owners[at];
        let how = rng.u8(..4);
        let is_between = how == 3 && (at == 0 || owners[at - 1] != owner);
        match how {
            0 => bytes[at] ^= rng.u8(1..),
            1 => {
                let lost = bytes.remove(at);
                owners.remove(at);
                // Nobody can tell the last byte of one record from an equal first byte of the next.
                if bytes.get(at) == Some(&lost) {
                    records[owners[at]].1 = true;
                }
            }
            2 => {
                bytes.insert(at, bytes[at]);
                owners.insert(at, owner);
            }
            _ => {
                bytes.insert(at, rng.u8(..));
                owners.insert(at, owner);
            }
        }
        if !is_between || machine.touches_next || machine.bits == 0 {
            records[owner].1 = true;
        }
        if machine.touches_next && owner + 1 < count {
            records[owner + 1].1 = true;
        }
        let reached = owners[at.min(owners.len())..].iter().take(machine.reach_bytes);
        reached.for_each(|owner| records[*owner].1 = true);
    }
    Stream { bytes, records, damaged: places }
}

/// The records of a stream that comes in pieces.
fn delivered(framing: &Framing, bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut framer = Framer::new();
    let mut records = Vec::new();
    let mut keep = |framed: Framed<'_>| {
        if let Framed::Record { bytes, flags, .. } = framed {
            assert_eq!(flags, FrameFlags::default());
            records.push(bytes.to_vec());
        }
    };
    let mut rest = bytes;
    let most = [1, 5, 100, 1000][rng.usize(..4)];
    while !rest.is_empty() {
        let (mut chunk, after) = rest.split_at(rng.usize(1..=most).min(rest.len()));
        rest = after;
        // Turn by turn, as a stream gives a framer what its search may cost; or without such a bound.
        let is_bound = rng.bool();
        loop {
            let mut budget = if is_bound { search_bytes_max(framing) } else { usize::MAX };
            while let Some(framed) = framer.next_within(framing, 0, &mut chunk, &mut budget) {
                keep(framed);
            }
            if !framer.is_starved() {
                break;
            }
        }
        assert!(chunk.is_empty());
    }
    while let Some(framed) = framer.finish(framing) {
        keep(framed);
    }
    assert!(framer.is_empty() && framer.held_bytes() == 0);
    records
}

/// Records that are missing though nothing touched them, and records that nobody sent.
fn wrong(machine: &Machine, stream: &Stream, delivered: &[Vec<u8>]) -> (usize, usize) {
    let (mut missing, mut invented, mut at) = (0, 0usize, 0);
    let mut sent = &stream.records[..];
    while let Some(record) = delivered.get(at) {
        match sent.iter().position(|(data, _)| data == record) {
            Some(index) if sent[..index].iter().all(|(_, touched)| *touched) => sent = &sent[index + 1..],
            Some(index) => {
                missing += sent[..index].iter().filter(|(_, touched)| !touched).count();
                sent = &sent[index + 1..];
            }
            None => invented += 1,
        }
        at += 1;
    }
    if machine.bits == 0 {
        // Nothing verifies a record that the damage touches: it may come as another one, and no more than that.
        let touched = stream.records.iter().filter(|(_, touched)| *touched).count();
        invented = invented.saturating_sub(touched + stream.damaged);
    }
    (missing + sent.iter().filter(|(_, touched)| !touched).count(), invented)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn damage_costs_the_records_that_it_touches_and_invents_none() {
    let (streams, seed) = (number("RINGEST_FRAMING_STREAMS", STREAMS), number("RINGEST_FRAMING_SEED", 13));
    let machines = machines();
    let mut faults = Vec::new();
    for (index, machine) in machines.iter().enumerate() {
        let (mut events, mut damaged, mut first) = (0, 0, None);
        let (mut swallowed, mut first_swallowed) = (0, None);
        for number in 0..streams / machines.len() as u64 {
            let stream_seed = seed ^ (index as u64) << 40 ^ number << 8;
            let mut rng = fastrand::Rng::with_seed(stream_seed);
            let stream = stream(machine, &mut rng);
            let delivered = delivered(&machine.framing, &stream.bytes, &mut rng);
            damaged += stream.damaged;
            let (missing, invented) = wrong(machine, &stream, &delivered);
            // Mostly a false record that chance has let pass takes another one's place. A damaged one that passes as it was
            // sent does so far less often.
            if missing > 0 && invented == 0 {
                swallowed += 1;
                first_swallowed = first_swallowed.or(Some(stream_seed));
            }
            if missing + invented > 0 {
                events += 1;
                first.get_or_insert_with(|| {
                    let sent: Vec<_> = stream.records.iter().map(|(data, touched)| (data.escape_ascii().to_string(), *touched)).collect();
                    let got: Vec<_> = delivered.iter().map(|data| data.escape_ascii().to_string()).collect();
                    format!("seed {stream_seed}: {missing} missing, {invented} invented\n  line {}\n  sent {sent:?}\n  got {got:?}", stream.bytes.escape_ascii())
                });
            }
        }
        let mean =
            if machine.bits == 0 { 0.0 } else { 3.0 * damaged as f64 / f64::from(2u32).powi(machine.bits as i32) };
        let most = (mean + 5.0 * mean.sqrt()).ceil() as usize;
        println!("{:40} {damaged:6} damaged, {events:4} of at most {most}", machine.name);
        let rare = mean / 12.0;
        let swallowed_most = (rare + 5.0 * rare.sqrt()).ceil() as usize;
        if swallowed > swallowed_most {
            faults.push(format!(
                "{}: {swallowed} of at most {swallowed_most} lack a record that nothing touched, as seed {first_swallowed:?}",
                machine.name
            ));
        }
        if events > most {
            faults.push(format!("{}: {events} of at most {most}; {}", machine.name, first.unwrap_or_default()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn without_damage_every_machine_is_understood() {
    for machine in machines() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let sent: Vec<Vec<u8>> = (0..10).map(|_| (machine.payload)(&mut rng)).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|data| (machine.encode)(data)).collect();
            let all = crate::reference::frames(&machine.framing, [&bytes[..]]);
            assert_eq!(all.len(), sent.len(), "{}, seed {seed}: nothing but records", machine.name);
            let got = delivered(&machine.framing, &bytes, &mut rng);
            assert!(got == sent, "{}, seed {seed}: {sent:x?}, {got:x?}", machine.name);
        }
    }
}
