//! Packed bodies: however they are cut, they are what they unpack to, or refused with the fault, and never larger than a record.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

fn pack(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// A POST of these bytes, of known length or in chunks.
fn packed(bytes: &[u8], chunk_bytes: Option<usize>) -> Vec<u8> {
    let Some(chunk_bytes) = chunk_bytes else {
        return [post(&format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", bytes.len()), "").as_bytes(), bytes]
            .concat();
    };
    let mut request = post("Content-Encoding: X-Gzip\r\nTransfer-Encoding: chunked\r\n", "").into_bytes();
    for chunk in bytes.chunks(chunk_bytes) {
        request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        request.extend([chunk, b"\r\n"].concat());
    }
    [request.as_slice(), b"0\r\n\r\n"].concat()
}

/// Whole, byte by byte, pipelined, and cut in two at every place where that is not much; a good request comes behind.
fn outcomes(request: &[u8]) -> Outcome {
    let run = |pieces: Vec<&[u8]>| {
        let mut machine = Machine::new();
        machine.unpacks = true;
        pieces.into_iter().for_each(|piece| machine.feed(piece));
        assert!(machine.outcome.closed || machine.connection.held_bytes() == 0);
        machine.outcome
    };
    let both = [request, GOOD.as_bytes()].concat();
    let whole = run(vec![&both]);
    assert_eq!(run(both.chunks(1).collect()), whole, "byte by byte");
    assert_eq!(run(both.chunks(1_000).collect()), whole, "in pieces of 1000 bytes");
    if both.len() < 600 {
        for split in 1..both.len() {
            assert_eq!(run(vec![&both[..split], &both[split..]]), whole, "split at {split}");
        }
    }
    let behind = run(vec![&[GOOD.as_bytes(), &both].concat()]);
    assert_eq!(behind.statuses()[1..], whole.statuses());
    whole
}

const WAYS: [Option<usize>; 4] = [None, Some(1), Some(7), Some(100_000)];

#[test]
fn row_58_a_packed_body_is_the_record_that_it_unpacks_to() {
    let large = "temperature 21.5, ".repeat(3_600);
    for data in ["hello", &large, &"x".repeat(65_536)] {
        for way in WAYS {
            let outcome = outcomes(&packed(&pack(data.as_bytes()), way));
            assert_eq!((outcome.statuses(), outcome.closed), (vec![201, 201], false));
            assert_eq!(outcome.bodies(), [data.as_bytes(), b"good"]);
        }
    }
    let two = [pack(b"hel"), pack(b"lo")].concat();
    assert_eq!(outcomes(&packed(&two, None)).bodies(), [b"hello".as_slice(), b"good"]);
}

#[test]
fn row_58_a_damaged_body_is_refused_with_the_fault_and_the_connection_goes_on() {
    let good = pack(b"hello hello hello");
    let mut sum = good.clone();
    sum[good.len() - 8] ^= 1;
    let mut deflated = good.clone();
    deflated[10] = 0xFF;
    for (bytes, came) in [
        (b"hello".to_vec(), "does not begin as gzip does"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        (good[..4].to_vec(), "cut short"),
        ([&good[..], b"garbage".as_slice()].concat(), "bytes behind the end"),
        (sum, "checksum or length does not match"),
        (deflated, "damaged bytes"),
    ] {
        for way in WAYS {
            let outcome = outcomes(&packed(&bytes, way));
            assert_eq!((outcome.statuses(), outcome.closed), (vec![400, 201], false), "{came}");
            assert_eq!(outcome.bodies(), [b"good"], "{came}");
            let answer = outcome.answers(&[]).remove(0);
            assert!(answer.body.contains(came), "{came}: {}", answer.body);
        }
    }
    for way in WAYS {
        assert_eq!(outcomes(&packed(&pack(b""), way)).statuses(), [400, 201], "an empty record");
    }
}

#[test]
fn row_58_a_body_that_unpacks_to_more_than_a_record_is_413_and_costs_no_memory() {
    let noise: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    for data in [vec![b'x'; 65_537], vec![0; 20 << 20], noise] {
        for way in WAYS {
            let outcome = outcomes(&packed(&pack(&data), way));
            assert_eq!((outcome.statuses(), outcome.closed), (vec![413], true), "{} bytes", data.len());
            assert!(outcome.journaled.is_empty());
        }
    }
}
