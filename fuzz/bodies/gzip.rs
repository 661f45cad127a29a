//! Any bytes as a packed body: any pieces are taken, refused or too large alike, as a second decoder says of the whole.

use super::input::{Input, Seen, pieces};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use ringest::http::date::HttpDate;
use ringest::http::server::{Limits, Ruling, ServerConnection, Verdict};
use std::io::{Read, Write};

/// The status, and the body if it was taken.
type Outcome = (u16, Option<Vec<u8>>);

/// What `flate2` says of the whole, read up to the limit.
fn reference(packed: &[u8], limit: usize) -> Outcome {
    if packed.len() > limit {
        return (413, None);
    }
    let mut decoder = MultiGzDecoder::new(packed);
    let (mut out, mut piece) = (Vec::new(), [0; 512]);
    loop {
        match decoder.read(&mut piece) {
            Ok(0) if out.is_empty() => return (400, None),
            Ok(0) => return (201, Some(out)),
            Ok(count) => out.extend(&piece[..count]),
            Err(_) => return (400, None),
        }
        if out.len() > limit {
            return (413, None);
        }
    }
}

fn read<'a>(limits: &Limits, head: &'a str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut connection = ServerConnection::new(0);
    let mut taken = None;
    for mut piece in std::iter::once(head.as_bytes()).chain(pieces) {
        while let Some(request) = connection.next_request(limits.into(), 0, &mut piece, &mut Ruling::everybody) {
            assert!(taken.is_none() && request.body.len() <= limits.body_bytes);
            taken = Some(request.body.to_vec());
            connection.respond(Verdict::Taken { records: 1 });
        }
    }
    let mut sent = Vec::new();
    connection.take_output(0, HttpDate::new().at(0), &mut sent, &mut |_| ());
    assert_eq!(connection.held_bytes(), 0, "nothing stays behind the end");
    let status = std::str::from_utf8(&sent[9..12]).expect("a status line").parse().expect("a status");
    (status, taken)
}

/// Bits (0 the stream is packed first, 1 a small limit), cuts, the stream.
pub fn run(data: &[u8], seen: &mut Seen) {
    let mut input = Input::new(data);
    let bits = input.byte();
    let cuts = input.cuts();
    let stream = input.stream(bits & 1 != 0);
    let limits = Limits { body_bytes: if bits & 2 != 0 { 20 } else { 64 * 1024 }, ..Limits::default() };
    let mut packed = stream.clone();
    if bits & 1 != 0 {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&stream).expect("a vector takes all");
        packed = encoder.finish().expect("a vector takes all");
    }
    if packed.is_empty() {
        return;
    }
    let head = format!(
        "POST /v1/records/a HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        packed.len()
    );
    let expected = reference(&packed, limits.body_bytes);
    assert_eq!(read(&limits, &head, [&packed[..]]), expected);
    assert_eq!(read(&limits, &head, packed.chunks(1)), expected);
    assert_eq!(read(&limits, &head, pieces(&packed, cuts)), expected);
    seen.count("taken", (expected.0 == 201).into());
    seen.count("damaged", (expected.0 == 400).into());
    seen.count("too large", (expected.0 == 413).into());
}
