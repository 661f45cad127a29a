//! What there is, segment by segment and record by record. A clean stop writes it down: from it the
//! next start knows exactly what is missing, who sent what is there, and what had been delivered. A
//! start writes down what it found, so that a kill right behind it does not take that knowledge.
//!
//! ```text
//! inventory   0 segments u32   4 origins u32   segments …, origins …, waiting …
//!
//! segment     0 segment u64    8 nonce u64    16 first number u64   24 physical u32   28 start u32   32 end u32
//! origin      0 lane u32       4 payload u32   8 payload, as of an origin's entry (see `format`)
//! waiting     runs of numbers that wait: numbers passed over, numbers in the run; each in groups of
//!             7 bits, the low ones first, with bit 7 where another group follows (LEB128)
//! ```

use super::format::{Kind, OriginPayload, payload_fits, record_number_at, u32_at, u64_at};
use super::ledger::{Identity, SenderKinds};
use crate::ground::{LaneNumber, RecordNumber, SegmentNumber};

const SEGMENT_BYTES: usize = 36;

/// A segment that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub number: SegmentNumber,
    pub nonce: u64,
    /// No entry in it has a lower number.
    pub first_number: RecordNumber,
    pub physical: u32,
    /// Where its first block begins.
    pub start: u32,
    /// Behind its last block.
    pub end: u32,
}

/// Who has records that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldOrigin {
    pub id: u32,
    pub lane: LaneNumber,
    pub who: Identity,
}

/// What there is at a clean stop, or at a start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Oldest first.
    pub segments: Vec<Held>,
    pub origins: Vec<HeldOrigin>,
    /// First number, and the one behind the last, of each run of records that wait.
    pub waiting: Vec<(RecordNumber, RecordNumber)>,
}

impl Inventory {
    /// Adds a number that waits; they come in any order within a segment, and segments in theirs.
    pub fn add_waiting(&mut self, number: RecordNumber) {
        match self.waiting.last_mut() {
            Some((_, end)) if *end == number => *end = number.next(),
            _ => self.waiting.push((number, number.next())),
        }
    }

    pub fn encode(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.origins.len() as u32).to_le_bytes());
        for held in &self.segments {
            out.extend_from_slice(&held.number.0.to_le_bytes());
            out.extend_from_slice(&held.nonce.to_le_bytes());
            out.extend_from_slice(&held.first_number.0.to_le_bytes());
            for field in [held.physical, held.start, held.end] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for HeldOrigin { id, lane, who } in &self.origins {
            let payload = who.payload(*id);
            let (prefix, texts) = (payload.encode_prefix(), payload.texts());
            let bytes = prefix.len() + texts.iter().map(|text| text.len()).sum::<usize>();
            out.extend_from_slice(&lane.0.to_le_bytes());
            out.extend_from_slice(&(bytes as u32).to_le_bytes());
            out.extend_from_slice(&prefix);
            texts.into_iter().for_each(|text| out.extend_from_slice(text));
        }
        // What moved has lower numbers than what its segment began with.
        self.waiting.sort_unstable();
        let mut behind = 0;
        for (first, end) in &self.waiting {
            write_number(&mut out, first.0 - behind);
            write_number(&mut out, end.0 - first.0);
            behind = end.0;
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(8)?;
        let (segments, origins) = (u32_at(head, 0) as usize, u32_at(head, 4) as usize);
        let (mut found, mut kinds) = (Self::default(), SenderKinds::default());
        for _ in 0..segments {
            let (held, behind) = rest.split_at_checked(SEGMENT_BYTES)?;
            rest = behind;
            found.segments.push(Held {
                number: SegmentNumber(u64_at(held, 0)),
                nonce: u64_at(held, 8),
                first_number: record_number_at(held, 16),
                physical: u32_at(held, 24),
                start: u32_at(held, 28),
                end: u32_at(held, 32),
            });
        }
        for _ in 0..origins {
            let (head, behind) = rest.split_at_checked(8)?;
            let (payload, behind) = behind.split_at_checked(u32_at(head, 4) as usize)?;
            rest = behind;
            let payload = payload_fits(Kind::Origin, payload).then_some(payload)?;
            let payload = OriginPayload::decode(Kind::Origin, payload)?;
            let (id, lane) = (payload.origin, LaneNumber(u32_at(head, 0)));
            found.origins.push(HeldOrigin { id, lane, who: kinds.identity(&payload) });
        }
        let mut behind = 0;
        while !rest.is_empty() {
            let first = read_number(&mut rest)?.checked_add(behind)?;
            behind = read_number(&mut rest)?.checked_add(first)?;
            found.waiting.push((RecordNumber(first), RecordNumber(behind)));
        }
        Some(found)
    }
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (group, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(group & 0x7F) << shift;
        if group & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::decoding::Decoding;

    #[test]
    fn what_is_written_down_is_read_again_and_a_piece_of_it_is_not_taken_for_more() {
        let peer = Some("[::1]:70".parse().expect("an address"));
        let who = Identity::of("line", "press", peer, Decoding::default());
        let segment = |number| Held {
            number: SegmentNumber(number),
            nonce: u64::MAX - number,
            first_number: RecordNumber(number * 100),
            physical: 512,
            start: 512,
            end: 4096,
        };
        let mut inventory = Inventory {
            segments: vec![segment(3), segment(4)],
            origins: vec![HeldOrigin { id: 9, lane: LaneNumber(4), who }],
            waiting: Vec::new(),
        };
        for number in [300, 301, 302, 500, 1 << 62, 290, 291] {
            inventory.add_waiting(RecordNumber(number));
        }
        let bytes = inventory.encode();
        assert_eq!(inventory.waiting.len(), 4);
        assert_eq!(Inventory::decode(&bytes).as_ref(), Some(&inventory));
        let runs = |bytes: &[u8]| Inventory::decode(bytes).map(|found| found.waiting.len());
        for length in 0..bytes.len() {
            assert!(runs(&bytes[..length]).is_none_or(|runs| runs < 4), "{length}");
        }
    }
}
