//! The codec: what is written is read, and nothing else is.

use proptest::prelude::*;
use ringest::ground::decoding::{Decoding, OnUndecodable};
use ringest::ground::{KeptHeaders, LaneNumber, RecordNumber, SegmentNumber};
use ringest::journal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Dense, ENTRY_HEADER_BYTES, Entries, Entry, EntryHeader, Kind, OriginPayload,
    RecordPayload, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, entry_bytes, round_up,
};
use ringest::journal::{KeyHashes, Position};

const KINDS: [Kind; 11] = [
    Kind::Origin,
    Kind::Record,
    Kind::Id,
    Kind::Delivered,
    Kind::Parked,
    Kind::Discarded,
    Kind::Retried,
    Kind::Leased,
    Kind::Origin1,
    Kind::Key,
    Kind::Losses,
];

fn segment_header() -> impl Strategy<Value = SegmentHeader> {
    (any::<(u32, u64, u64, u64, u64, u128)>(), 9u32..14).prop_map(
        |((core, segment, nonce, bytes, epoch, epoch_id), power)| SegmentHeader {
            core,
            segment: SegmentNumber(segment),
            nonce,
            bytes,
            physical: 1 << power,
            epoch,
            epoch_id,
        },
    )
}

fn block_header() -> impl Strategy<Value = BlockHeader> {
    any::<(u64, u64, u32, u64, u128, (u64, u32, u64), Option<(u32, bool)>)>().prop_map(
        |(nonce, segment, offset, first_number, epoch_id, (watermark, watermark_offset, oldest_segment), dense)| {
            BlockHeader {
                nonce,
                at: Position { segment: SegmentNumber(segment), offset },
                first_number: RecordNumber(first_number),
                epoch_id,
                watermark: Position { segment: SegmentNumber(watermark), offset: watermark_offset },
                oldest_segment: SegmentNumber(oldest_segment),
                dense: dense.map(|(covers, last)| Dense { covers, last }),
            }
        },
    )
}

/// A payload that fits its kind, whose views cover it.
fn payload(kind: Kind, bytes: &[u8], split: usize) -> Vec<u8> {
    let split = split.min(bytes.len());
    match kind {
        Kind::Origin => {
            let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(byte % 128)).collect::<String>();
            let (source, name) = (text(&bytes[..split]), text(&bytes[split..]));
            let origin = OriginPayload {
                origin: 7,
                source: &source,
                name: &name,
                peer: (!split.is_multiple_of(3))
                    .then(|| format!("10.0.0.{split}:{}", bytes.len()).parse().expect("an address")),
                decoding: Decoding::default(),
            };
            [&[&origin.encode_prefix()[..]], &origin.texts()[..]].concat().concat()
        }
        Kind::Origin1 => {
            let text: Vec<u8> = bytes.iter().map(|byte| byte % 128).collect();
            let lengths = [split as u16, (bytes.len() - split) as u16].map(u16::to_le_bytes).concat();
            [&7u32.to_le_bytes()[..], &lengths, &text].concat()
        }
        Kind::Record => {
            let (key, data) = bytes.split_at(split);
            let hashes = split.is_multiple_of(2).then(|| KeyHashes::of("press-4", key, data));
            let fields = [("X-Lot", data), ("X-Shift", key)];
            let headers = KeptHeaders::encode(fields.into_iter().filter(|_| split.is_multiple_of(3)));
            let written = hashes.map(KeyHashes::encode);
            let hashed = written.as_ref().map_or(&[][..], |written| &written[..]);
            let record = RecordPayload {
                first_byte_wall_ns: 1,
                frame_us: 2,
                origin: 3,
                key,
                body_hash: 4,
                hashes: written.as_ref(),
                headers: KeptHeaders::of(&headers),
                data,
            };
            let payload = [&record.encode_prefix()[..], hashed, &headers, key, data].concat();
            assert_eq!(RecordPayload::decode(&payload), record);
            payload
        }
        Kind::Leased => [&[1; 16], &bytes[..bytes.len() / 16 * 16]].concat(),
        Kind::Key => [&[1; 16], &bytes[..bytes.len() / 32 * 32]].concat(),
        Kind::Delivered => bytes[..bytes.len() / 8 * 8].to_vec(),
        Kind::Losses => bytes[..bytes.len() / 40 * 40].to_vec(),
        Kind::Id | Kind::Discarded | Kind::Retried => [&[1; 8], bytes].concat(),
        Kind::Parked => [&[1; 24], bytes].concat(),
    }
}

/// An entry of a built block: where it begins, its header, its payload.
type Built = (usize, EntryHeader, Vec<u8>);

/// A sealed block with an entry of each kind, and where the entries begin.
fn block(header: &BlockHeader, datas: &[(Vec<u8>, usize)]) -> (Vec<u8>, Vec<Built>) {
    let mut bytes = vec![0; BLOCK_HEADER_BYTES];
    let mut entries = Vec::new();
    for (index, (data, split)) in datas.iter().enumerate() {
        let kind = KINDS[index % KINDS.len()];
        let entry = EntryHeader {
            kind,
            flags: index as u8,
            lane: LaneNumber(9),
            number: RecordNumber(header.first_number.0.wrapping_add(index as u64)),
        };
        let payload = payload(kind, data, *split);
        let offset = bytes.len();
        bytes.extend_from_slice(&entry.encode(header.nonce, header.at.offset.wrapping_add(offset as u32), &[&payload]));
        bytes.extend_from_slice(&payload);
        bytes.resize(offset + entry_bytes(payload.len()), 0);
        entries.push((offset, entry, payload));
    }
    let seal = Seal { used: bytes.len() as u32, entries: entries.len() as u32 };
    bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&header.encode_sealed(seal));
    (bytes, entries)
}

/// Every view of every decoder over some bytes.
fn look_at(bytes: &[u8], nonce: u64, base: u32) {
    let _ = SegmentHeader::decode(bytes);
    let _ = BlockHeader::decode(bytes);
    let mut entries = Entries::new(bytes, nonce, base);
    loop {
        for entry in entries.by_ref() {
            view(&entry);
        }
        if entries.resynchronise().is_none() {
            break;
        }
    }
}

fn view(entry: &Entry<'_>) {
    match entry.header.kind {
        Kind::Record => {
            let record = RecordPayload::decode(entry.payload);
            let hashes = record.hashes.map_or(0, |hashes| hashes.len());
            let headers = record.headers.as_bytes().len();
            assert!(record.headers.iter().count() <= 255);
            assert_eq!(24 + hashes + headers + record.key.len() + record.data.len(), entry.payload.len());
        }
        kind @ (Kind::Origin | Kind::Origin1) => {
            let _ = OriginPayload::decode(kind, entry.payload);
        }
        _ => {}
    }
}

fn datas() -> impl Strategy<Value = Vec<(Vec<u8>, usize)>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), 0usize..60), 1..12)
}

#[test]
fn an_origin_keeps_its_peer_and_how_its_records_are_read() {
    for (label, on_undecodable) in
        [("utf-8", OnUndecodable::Replace), ("big5", OnUndecodable::Reject), ("utf-16le", OnUndecodable::Hex)]
    {
        let decoding = Decoding { encoding: Decoding::encoding_of(label).expect("a label"), on_undecodable };
        for peer in [None, Some("10.0.4.21:4001"), Some("[2001:db8::7]:65535"), Some("0.0.0.0:0")] {
            let peer = peer.map(|peer| peer.parse().expect("an address"));
            let origin = OriginPayload { origin: 7, source: "press", name: "press@10.0.4.21", peer, decoding };
            let payload = [&[&origin.encode_prefix()[..]], &origin.texts()[..]].concat().concat();
            assert_eq!(OriginPayload::decode(Kind::Origin, &payload), Some(origin));
        }
    }
}

proptest! {
    #[test]
    fn a_segment_header_is_read_as_written_and_no_flipped_bit_is_missed(header in segment_header()) {
        let bytes = header.encode();
        prop_assert_eq!(bytes.len(), header.physical as usize);
        prop_assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        prop_assert_eq!(SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES]), Some(header));
        prop_assert_eq!(SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES - 1]), None);
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHeader::decode(&flipped), None);
        }
    }

    #[test]
    fn a_block_header_is_read_as_written_open_and_sealed(header in block_header(), used in 96u32..1 << 20, entries: u32) {
        let seal = Seal { used, entries };
        let sealed = header.encode_sealed(seal);
        prop_assert_eq!(BlockHeader::decode(&header.encode()), Some((header, None)));
        prop_assert_eq!(BlockHeader::decode(&sealed), Some((header, Some(seal))));
        for bit in 0..BLOCK_HEADER_BYTES * 8 {
            let mut flipped = sealed;
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The part that was written when the block was opened stays whole without its seal.
            let expected = (bit / 8 >= 84).then_some((header, None));
            prop_assert_eq!(BlockHeader::decode(&flipped), expected);
        }
    }

    #[test]
    fn every_kind_of_entry_is_read_as_written(header in block_header(), datas in datas()) {
        let (bytes, written) = block(&header, &datas);
        let mut entries = Entries::new(&bytes, header.nonce, header.at.offset);
        for (offset, expected, payload) in &written {
            let entry = entries.next().expect("whole");
            prop_assert_eq!((entry.offset, entry.header, entry.payload), (*offset, *expected, &payload[..]));
            view(&entry);
        }
        prop_assert!(entries.next().is_none());
        prop_assert_eq!(entries.offset(), bytes.len());
    }

    #[test]
    fn a_flipped_byte_costs_its_entry_and_no_other(header in block_header(), datas in datas(), mask in 1u8..) {
        let (bytes, written) = block(&header, &datas);
        for at in BLOCK_HEADER_BYTES..bytes.len() {
            let (offset, _, payload) = written.iter().rev().find(|(offset, ..)| *offset <= at).expect("an entry");
            let padding = at >= offset + ENTRY_HEADER_BYTES + payload.len();
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            let mut found = Vec::new();
            let mut entries = Entries::new(&flipped, header.nonce, header.at.offset);
            loop {
                found.extend(entries.by_ref().map(|entry| (entry.offset, entry.header, entry.payload.to_vec())));
                if entries.offset() == flipped.len() || entries.resynchronise().is_none() {
                    break;
                }
            }
            let expected: Vec<_> = written.iter().filter(|(other, ..)| padding || other != offset).cloned().collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_entry_of_another_place_or_life_is_not_taken(
        header in block_header(), datas in datas(), shift in 1u32.., other: u64,
    ) {
        let (bytes, written) = block(&header, &datas);
        let folded = |nonce: u64| (nonce as u32) ^ (nonce >> 32) as u32;
        prop_assume!(folded(other) != folded(header.nonce));
        for (offset, ..) in written {
            prop_assert!(Entry::decode(&bytes, offset, header.nonce, header.at.offset).is_some());
            prop_assert!(Entry::decode(&bytes, offset, header.nonce, header.at.offset.wrapping_add(shift)).is_none());
            prop_assert!(Entry::decode(&bytes, offset, other, header.at.offset).is_none());
        }
    }

    #[test]
    fn no_decoder_panics_on_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..400), nonce: u64, base: u32) {
        look_at(&bytes, nonce, base);
        // Once more with what a decoder looks at first.
        for (front, magic) in [(0, &b"RINGSEG1"[..]), (0, b"RBLK"), (104, &[1]), (104, &[2]), (104, &[4])] {
            if let Some(place) = bytes.get_mut(front..front + magic.len()) {
                place.copy_from_slice(magic);
            }
            look_at(&bytes, nonce, base);
        }
    }

    #[test]
    fn no_decoder_panics_on_a_whole_crc_over_any_payload(
        payload in prop::collection::vec(any::<u8>(), 0..80), kind in 0usize..6, nonce: u64, base: u32,
    ) {
        let header = EntryHeader { kind: KINDS[kind], flags: 0, lane: LaneNumber(0), number: RecordNumber(0) };
        let head = header.encode(nonce, base.wrapping_add(BLOCK_HEADER_BYTES as u32), &[&payload]);
        look_at(&[&[0; BLOCK_HEADER_BYTES], &head[..], &payload].concat(), nonce, base);
    }

    #[test]
    fn a_seal_that_no_block_can_have_is_not_taken(header in block_header(), used in prop_oneof![0..96u32, 1u32 << 31..]) {
        let sealed = header.encode_sealed(Seal { used, entries: 0 });
        prop_assert_eq!(BlockHeader::decode(&sealed), Some((header, None)));
    }
}

#[test]
fn a_block_is_padded_to_the_physical_block() {
    assert_eq!([0, 1, 4095, 4096, 4097].map(|bytes| round_up(bytes, 4096)), [0, 4096, 4096, 4096, 8192]);
    assert_eq!([0, 1, 8, 9].map(entry_bytes), [24, 32, 32, 40]);
}
