//! The on-disk format: segment headers, blocks, entries. All numbers are little-endian. Pure: bytes in, bytes out.
//!
//! ```text
//! segment file   | header, one physical block | block | block | … | zeros |
//!
//! segment header   0 stamp, magic "RINGSEG1" (see `stamp`)   32 core u32          36 physical u32
//!                 40 segment u64       48 nonce u64         56 bytes u64
//!                 64 epoch u64         72 epoch id u128     88 nonce u64 again  96 crc u32
//!
//! block            0 magic u32           4 zero u32          8 nonce u64         16 segment u64
//!                 24 offset u32         28 flags u32        32 first number u64  40 epoch id u128
//!                 56 watermark segment u64   64 watermark offset u32   68 covers u32
//!                 72 oldest segment u64 80 open crc u32     84 used u32 (header included)
//!                 88 entries u32        92 seal crc u32     96 entries …, padded to the physical block
//!
//! entry            0 crc u32             4 payload u32       8 kind u8   9 flags u8   10 zero u16
//!                 12 lane u32           16 number u64       24 payload …, padded to 8
//!
//! record payload   0 first byte at u64 (ns since 1970)       8 frame µs u32      12 origin u32
//!                 16 key length u16     18 flags u16        20 body hash u32
//!                 24 where flag 1 is set: hash of SOURCE and key u128, hash of the body u128; then key …, data …
//!                 flag 2: the next entry is a record of the same batch; flag 4: the one before is (see `batch`)
//!                 flag 8: kept headers stand before the key (see `ground::KeptHeaders`)
//! origin payload   0 origin u32          4 source length u16 6 name length u16   8 encoding length u8
//!                  9 on undecodable u8  10 port u16         12 address [u8; 16] (IPv6; IPv4 mapped; zero: no peer)
//!                 28 source …, name …, encoding …
//! id payload       0 record number u64   8 id …
//! delivered        n × record number u64
//! parked           0 record number u64   8 parked at u64 (ns since 1970)        16 status u16
//!                 18 zero u16           20 attempts u32     24 answer …
//! retried          0 record number u64
//! discarded        0 record number u64
//! leased           0 origin u64          8 left by u64      16 n × (first id u64, the id behind the last u64)
//! key              0 taken at u64 (ns since 1970)            8 place of the first u64, the others have those that follow
//!                 16 n × (hash of SOURCE and key u128, hash of the body u128)
//! losses           n × (found at u64 (ns since 1970), first number u64, the number behind the last u64, records u64, exact u64)
//! ```
//!
//! A block begins at a multiple of the physical block. The part before *open crc* is written when the block is opened, the rest when
//! it is sealed: a process killed in between leaves an open block, whose entries are walked until the first that is not whole.
//! A segment that was rewritten *densely* holds what still waited in a run of segments and has the number of the last of them. Flag 1
//! is set in all of its blocks, flag 2 in the last one; *covers* counts the segment numbers below its own that it stands for. Its
//! entries keep their numbers, so these have gaps; the last entry has the number of the run's last one.
//!
//! Format 1 differs in the segment header (magic, version u32 = 1, core u32, segment u64, nonce u64, bytes u64, physical u32, zero
//! u32, epoch u64, epoch id u128, nonce u64 again, crc u32) and has origins of another kind (origin u32, source length u16, name
//! length u16, source …, name …). Formats 1 and 2 have no keys, no losses, and no flags in a record, format 3 has no batches, format 4
//! no kept headers. All are read; a start writes new segments in its own format.
//!
//! The nonce of a segment's life and the offset seed every CRC-32C, so that an entry of an earlier life, or a payload that
//! looks like an entry, is never taken for real.

use super::keys::KEY_HASHES_BYTES;
use super::stamp;
pub use super::stamp::VERSION;
use crate::ground::decoding::{Decoding, OnUndecodable};
use crate::ground::{KeptHeaders, LaneNumber, RecordNumber, SegmentNumber};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 96;
/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// Bytes of a record's payload before key and data.
pub const RECORD_PREFIX_BYTES: usize = 24;
/// Bytes of a key entry's payload before the hashes.
pub const KEY_PREFIX_BYTES: usize = 16;
/// Bytes of a parked entry's payload before the answer.
pub const PARKED_PREFIX_BYTES: usize = 24;
/// Bytes of a leased entry's payload before the ids.
pub const LEASED_PREFIX_BYTES: usize = 16;
/// Bytes of one loss in a payload.
pub const LOSS_BYTES: usize = 40;
/// Bytes of a segment's header that mean something; the rest of its physical block is zero.
pub const SEGMENT_HEADER_BYTES: usize = 100;
/// Bytes of an origin's payload before source, name and encoding.
pub const ORIGIN_PREFIX_BYTES: usize = 28;
/// The same in format 1.
const ORIGIN_1_PREFIX_BYTES: usize = 8;
/// As [`SEGMENT_HEADER_BYTES`], in format 1.
const SEGMENT_1_HEADER_BYTES: usize = 84;

/// In the flags of a record's payload: hashes follow.
const RECORD_FLAG_HASHES: u16 = 1;
/// The next entry is of the same batch.
pub(super) const RECORD_FLAG_MORE: u16 = 2;
/// The entry before is of the same batch.
pub(super) const RECORD_FLAG_BEHIND: u16 = 4;
/// Headers of the request follow, behind the hashes.
const RECORD_FLAG_HEADERS: u16 = 8;
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"RINGSEG1";
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"RBLK");

/// Rounds up to a multiple of `unit`, a power of two.
pub const fn round_up(bytes: u32, unit: u32) -> u32 {
    (bytes + unit - 1) & !(unit - 1)
}

/// Bytes that an entry takes in a block.
pub const fn entry_bytes(payload: usize) -> usize {
    (ENTRY_HEADER_BYTES + payload + 7) & !7
}

/// Reads a u16 at an offset.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

/// Reads a u32 at an offset.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// Reads a u64 at an offset.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// Reads a record's number at an offset.
pub(super) fn record_number_at(bytes: &[u8], offset: usize) -> RecordNumber {
    RecordNumber(u64_at(bytes, offset))
}

/// Reads a u128 at an offset.
pub(super) fn u128_at(bytes: &[u8], offset: usize) -> u128 {
    u128::from_le_bytes(bytes[offset..offset + 16].try_into().expect("sixteen bytes"))
}

/// What a CRC at `offset` of a segment's life starts from.
fn seed(nonce: u64, offset: u32) -> u32 {
    (nonce as u32) ^ ((nonce >> 32) as u32) ^ offset.wrapping_mul(0x9E37_79B1)
}

/// The head of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The core whose directory it was made in.
    pub core: u32,
    /// Its number; the file is named by it.
    pub segment: SegmentNumber,
    /// Random for each life of the file.
    pub nonce: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Unit of all block offsets and lengths.
    pub physical: u32,
    /// The epoch that began it.
    pub epoch: u64,
    /// That epoch's random id.
    pub epoch_id: u128,
}

impl SegmentHeader {
    /// One physical block, zero behind the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; self.physical as usize];
        stamp::write(SEGMENT_MAGIC, &mut out);
        out[32..36].copy_from_slice(&self.core.to_le_bytes());
        out[36..40].copy_from_slice(&self.physical.to_le_bytes());
        out[40..48].copy_from_slice(&self.segment.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.nonce.to_le_bytes());
        out[56..64].copy_from_slice(&self.bytes.to_le_bytes());
        out[64..72].copy_from_slice(&self.epoch.to_le_bytes());
        out[72..88].copy_from_slice(&self.epoch_id.to_le_bytes());
        out[88..96].copy_from_slice(&self.nonce.to_le_bytes());
        let crc = crc32c::crc32c(&out[..96]);
        out[96..100].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` where the bytes are no whole header of a format that this program reads.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if stamp::readable(SEGMENT_MAGIC, bytes).is_none() {
            return Self::decode_1(bytes);
        }
        let head = bytes.get(..SEGMENT_HEADER_BYTES)?;
        let (nonce, physical) = (u64_at(head, 48), u32_at(head, 36));
        let whole = u32_at(head, 96) == crc32c::crc32c(&head[..96]) && u64_at(head, 88) == nonce;
        (whole && is_physical(physical)).then(|| Self {
            core: u32_at(head, 32),
            segment: SegmentNumber(u64_at(head, 40)),
            nonce,
            bytes: u64_at(head, 56),
            physical,
            epoch: u64_at(head, 64),
            epoch_id: u128_at(head, 72),
        })
    }

    /// A header of format 1.
    fn decode_1(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..SEGMENT_1_HEADER_BYTES)?;
        let (nonce, physical) = (u64_at(head, 24), u32_at(head, 40));
        let whole = head[..8] == SEGMENT_MAGIC
            && u32_at(head, 8) == 1
            && u32_at(head, 80) == crc32c::crc32c(&head[..80])
            && u64_at(head, 72) == nonce;
        (whole && is_physical(physical)).then(|| Self {
            core: u32_at(head, 12),
            segment: SegmentNumber(u64_at(head, 16)),
            nonce,
            bytes: u64_at(head, 32),
            physical,
            epoch: u64_at(head, 48),
            epoch_id: u128_at(head, 56),
        })
    }
}

fn is_physical(bytes: u32) -> bool {
    bytes.is_power_of_two() && bytes >= 512
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number.
    pub segment: SegmentNumber,
    /// Offset in its file.
    pub offset: u32,
}

/// The part of a block's header that is written when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Of the segment's life.
    pub nonce: u64,
    /// Where the block begins.
    pub at: Position,
    /// No entry of the block has a lower number.
    pub first_number: RecordNumber,
    /// The epoch in which its records were received: part of their keys.
    pub epoch_id: u128,
    /// Everything before it is durable: a bad byte there is damage.
    pub watermark: Position,
    /// Segments with lower numbers are not part of the log any more.
    pub oldest_segment: SegmentNumber,
    /// In a segment that was rewritten densely.
    pub dense: Option<Dense>,
}

/// What the blocks of a densely rewritten segment say of it. All of such a segment was durable before it became part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense {
    /// So many segment numbers directly below its own are not part of the log any more: it stands for them.
    pub covers: u32,
    /// No block of the segment follows.
    pub last: bool,
}

impl Dense {
    const FLAG: u32 = 1;
    const FLAG_LAST: u32 = 2;
}

/// The part of a block's header that is written when it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Bytes of header and entries.
    pub used: u32,
    /// Number of entries.
    pub entries: u32,
}

impl BlockHeader {
    /// The header of an open block; the seal is zero.
    pub fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[0..4].copy_from_slice(&BLOCK_MAGIC.to_le_bytes());
        out[8..16].copy_from_slice(&self.nonce.to_le_bytes());
        out[16..24].copy_from_slice(&self.at.segment.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.at.offset.to_le_bytes());
        if let Some(Dense { covers, last }) = self.dense {
            let flags = if last { Dense::FLAG | Dense::FLAG_LAST } else { Dense::FLAG };
            out[28..32].copy_from_slice(&flags.to_le_bytes());
            out[68..72].copy_from_slice(&covers.to_le_bytes());
        }
        out[32..40].copy_from_slice(&self.first_number.0.to_le_bytes());
        out[40..56].copy_from_slice(&self.epoch_id.to_le_bytes());
        out[56..64].copy_from_slice(&self.watermark.segment.0.to_le_bytes());
        out[64..68].copy_from_slice(&self.watermark.offset.to_le_bytes());
        out[72..80].copy_from_slice(&self.oldest_segment.0.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(self.nonce, self.at.offset), &out[..80]);
        out[80..84].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header of a sealed block.
    pub fn encode_sealed(&self, seal: Seal) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = self.encode();
        out[84..88].copy_from_slice(&seal.used.to_le_bytes());
        out[88..92].copy_from_slice(&seal.entries.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(self.nonce, self.at.offset), &out[..92]);
        out[92..96].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the front of `bytes`, and its seal where that is whole; `None` where no block begins.
    pub fn decode(bytes: &[u8]) -> Option<(Self, Option<Seal>)> {
        let head = bytes.get(..BLOCK_HEADER_BYTES)?;
        if u32_at(head, 0) != BLOCK_MAGIC {
            return None;
        }
        let nonce = u64_at(head, 8);
        let offset = u32_at(head, 24);
        let seed = seed(nonce, offset);
        if u32_at(head, 80) != crc32c::crc32c_append(seed, &head[..80]) {
            return None;
        }
        let flags = u32_at(head, 28);
        let dense = Dense { covers: u32_at(head, 68), last: flags & Dense::FLAG_LAST != 0 };
        let header = Self {
            nonce,
            at: Position { segment: SegmentNumber(u64_at(head, 16)), offset },
            first_number: record_number_at(head, 32),
            epoch_id: u128_at(head, 40),
            watermark: Position { segment: SegmentNumber(u64_at(head, 56)), offset: u32_at(head, 64) },
            oldest_segment: SegmentNumber(u64_at(head, 72)),
            dense: (flags & Dense::FLAG != 0).then_some(dense),
        };
        let sealed = u32_at(head, 92) == crc32c::crc32c_append(seed, &head[..92]);
        let seal = Seal { used: u32_at(head, 84), entries: u32_at(head, 88) };
        // A walk goes on behind the block: it must not stand still nor run over.
        let possible = (BLOCK_HEADER_BYTES..=i32::MAX as usize).contains(&(seal.used as usize));
        Some((header, (sealed && possible).then_some(seal)))
    }
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Names the origin that later records of the segment refer to, as format 1 wrote it.
    Origin1 = 1,
    /// A record.
    Record = 2,
    /// The sequence id of a record, written before its record step.
    Id = 3,
    /// Records that the API took.
    Delivered = 4,
    /// A record kept aside, with the answer that parked it.
    Parked = 5,
    /// A parked record that an operator deleted.
    Discarded = 6,
    /// A parked record that is to be delivered after all.
    Retried = 7,
    /// Sequence ids that the service gave ahead and that are not used yet; the newest counts.
    Leased = 8,
    /// Names the origin that later records of the segment refer to.
    Origin = 9,
    /// Machines' keys whose records need not be there any more.
    Key = 10,
    /// What was found to be missing and is not acknowledged; the newest counts.
    Losses = 11,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Origin1,
            2 => Self::Record,
            3 => Self::Id,
            4 => Self::Delivered,
            5 => Self::Parked,
            6 => Self::Discarded,
            7 => Self::Retried,
            8 => Self::Leased,
            9 => Self::Origin,
            10 => Self::Key,
            11 => Self::Losses,
            _ => return None,
        })
    }
}

/// An entry's header, but for its CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// What it says.
    pub kind: Kind,
    /// Of a record: the frame flags.
    pub flags: u8,
    /// Of a record or origin: what keeps its order.
    pub lane: LaneNumber,
    /// Counts all entries of a directory; kept when an entry is rewritten.
    pub number: RecordNumber,
}

impl EntryHeader {
    /// Encodes the header of an entry at `offset` of a segment's life, whose payload is the parts one after the other.
    pub fn encode(&self, nonce: u64, offset: u32, parts: &[&[u8]]) -> [u8; ENTRY_HEADER_BYTES] {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
        out[8] = self.kind as u8;
        out[9] = self.flags;
        out[12..16].copy_from_slice(&self.lane.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.0.to_le_bytes());
        let mut crc = crc32c::crc32c_append(seed(nonce, offset), &out[4..]);
        for part in parts {
            crc = crc32c::crc32c_append(crc, part);
        }
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// A whole entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its header.
    pub header: EntryHeader,
    /// Where it begins, from the block's first byte.
    pub offset: usize,
    /// Its payload.
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The entry at `offset` of a block's bytes, if it is whole there. `base` is the block's offset in the segment.
    pub fn decode(block: &'a [u8], offset: usize, nonce: u64, base: u32) -> Option<Self> {
        let head = block.get(offset..offset + ENTRY_HEADER_BYTES)?;
        let payload = block.get(offset + ENTRY_HEADER_BYTES..)?.get(..u32_at(head, 4) as usize)?;
        let kind = Kind::from_byte(head[8])?;
        let crc = crc32c::crc32c_append(seed(nonce, base.wrapping_add(offset as u32)), &head[4..]);
        if u32_at(head, 0) != crc32c::crc32c_append(crc, payload) {
            return None;
        }
        let header = EntryHeader {
            kind,
            flags: head[9],
            lane: LaneNumber(u32_at(head, 12)),
            number: record_number_at(head, 16),
        };
        payload_fits(kind, payload).then_some(Self { header, offset, payload })
    }

    /// Bytes that it takes in the block.
    pub fn bytes(&self) -> usize {
        entry_bytes(self.payload.len())
    }
}

/// Whether a payload is long enough for its kind, so that the views below never panic.
pub(super) fn payload_fits(kind: Kind, payload: &[u8]) -> bool {
    match kind {
        Kind::Origin1 => {
            let names = |payload| u16_at(payload, 4) as usize + u16_at(payload, 6) as usize;
            payload.len() >= ORIGIN_1_PREFIX_BYTES && payload.len() == ORIGIN_1_PREFIX_BYTES + names(payload)
        }
        Kind::Origin => {
            let texts =
                |payload: &[u8]| u16_at(payload, 4) as usize + u16_at(payload, 6) as usize + payload[8] as usize;
            payload.len() >= ORIGIN_PREFIX_BYTES && payload.len() == ORIGIN_PREFIX_BYTES + texts(payload)
        }
        Kind::Record => {
            payload.len() >= RECORD_PREFIX_BYTES
                && headers_bytes(payload).is_some_and(|headers| {
                    let behind = hashes_bytes(payload) + headers + u16_at(payload, 16) as usize;
                    payload.len() >= RECORD_PREFIX_BYTES + behind
                })
        }
        Kind::Id | Kind::Discarded | Kind::Retried => payload.len() >= 8,
        Kind::Delivered => payload.len().is_multiple_of(8),
        Kind::Key => payload.len() % KEY_HASHES_BYTES == KEY_PREFIX_BYTES,
        Kind::Losses => payload.len().is_multiple_of(LOSS_BYTES),
        Kind::Leased => payload.len() >= LEASED_PREFIX_BYTES && payload.len().is_multiple_of(16),
        Kind::Parked => payload.len() >= PARKED_PREFIX_BYTES,
    }
}

/// Bytes of the hashes in a record's payload.
fn hashes_bytes(payload: &[u8]) -> usize {
    if u16_at(payload, 18) & RECORD_FLAG_HASHES != 0 { KEY_HASHES_BYTES } else { 0 }
}

/// Bytes of the kept headers in a record's payload; `None` where they are not whole.
fn headers_bytes(payload: &[u8]) -> Option<usize> {
    if u16_at(payload, 18) & RECORD_FLAG_HEADERS == 0 {
        return Some(0);
    }
    KeptHeaders::bytes_at(payload.get(RECORD_PREFIX_BYTES + hashes_bytes(payload)..)?)
}

/// Whether a record says that the next entry is of its batch, and the one before.
pub(super) fn batch_of(payload: &[u8]) -> (bool, bool) {
    let flags = u16_at(payload, 18);
    (flags & RECORD_FLAG_MORE != 0, flags & RECORD_FLAG_BEHIND != 0)
}

/// The entries of one block, in order, up to the first that is not whole.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    block: &'a [u8],
    nonce: u64,
    base: u32,
    offset: usize,
}

impl<'a> Entries<'a> {
    /// `block` begins with its header and ends with what may be entries.
    pub fn new(block: &'a [u8], nonce: u64, base: u32) -> Self {
        Self { block, nonce, base, offset: BLOCK_HEADER_BYTES }
    }

    /// Where the next entry would begin.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Looks for the next whole entry behind a damaged one; the bytes in between.
    pub fn resynchronise(&mut self) -> Option<Range<usize>> {
        let from = self.offset;
        let found = (from + 8..self.block.len())
            .step_by(8)
            .find(|&offset| Entry::decode(self.block, offset, self.nonce, self.base).is_some())?;
        self.offset = found;
        Some(from..found)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let entry = Entry::decode(self.block, self.offset, self.nonce, self.base)?;
        self.offset += entry.bytes();
        Some(entry)
    }
}

/// A record entry's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPayload<'a> {
    /// When its first byte was read, in nanoseconds since 1970.
    pub first_byte_wall_ns: u64,
    /// From its first byte to the end of its frame, in microseconds.
    pub frame_us: u32,
    /// Who sent it.
    pub origin: u32,
    /// The machine's own Idempotency-Key, or nothing.
    pub key: &'a [u8],
    /// CRC-32C of the data where there is a key, else 0.
    pub body_hash: u32,
    /// Where keys are remembered: what this one is known by, encoded. Few who look at a record ask for it.
    pub hashes: Option<&'a [u8; KEY_HASHES_BYTES]>,
    /// Headers of its request.
    pub headers: KeptHeaders<'a>,
    /// The record.
    pub data: &'a [u8],
}

impl<'a> RecordPayload<'a> {
    /// What stands before hashes, headers, key and data.
    pub fn encode_prefix(&self) -> [u8; RECORD_PREFIX_BYTES] {
        let mut out = [0; RECORD_PREFIX_BYTES];
        out[0..8].copy_from_slice(&self.first_byte_wall_ns.to_le_bytes());
        out[8..12].copy_from_slice(&self.frame_us.to_le_bytes());
        out[12..16].copy_from_slice(&self.origin.to_le_bytes());
        out[16..18].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        out[18] = if self.hashes.is_some() { RECORD_FLAG_HASHES as u8 } else { 0 };
        out[18] |= if self.headers.is_empty() { 0 } else { RECORD_FLAG_HEADERS as u8 };
        out[20..24].copy_from_slice(&self.body_hash.to_le_bytes());
        out
    }

    /// Reads the payload of a record entry.
    pub fn decode(payload: &'a [u8]) -> Self {
        let behind = &payload[RECORD_PREFIX_BYTES..];
        let (hashes, rest) = match hashes_bytes(payload) {
            0 => (None, behind),
            _ => behind.split_first_chunk().map(|(hashes, rest)| (Some(hashes), rest)).expect("a payload that fits"),
        };
        let (headers, rest) = rest.split_at(headers_bytes(payload).expect("a payload that fits"));
        let (key, data) = rest.split_at(u16_at(payload, 16) as usize);
        Self {
            first_byte_wall_ns: u64_at(payload, 0),
            frame_us: u32_at(payload, 8),
            origin: u32_at(payload, 12),
            key,
            body_hash: u32_at(payload, 20),
            hashes,
            headers: KeptHeaders::of(headers),
            data,
        }
    }
}

/// An origin entry's payload: who sent the records that refer to it, and how they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginPayload<'a> {
    /// Its number in the directory.
    pub origin: u32,
    /// The configured source.
    pub source: &'a str,
    /// What `{{source}}` shows.
    pub name: &'a str,
    /// Who was at the other end of a connection.
    pub peer: Option<SocketAddr>,
    /// How the records become text.
    pub decoding: Decoding,
}

impl<'a> OriginPayload<'a> {
    /// What stands before source, name and the encoding's name.
    pub fn encode_prefix(&self) -> [u8; ORIGIN_PREFIX_BYTES] {
        let mut out = [0; ORIGIN_PREFIX_BYTES];
        out[0..4].copy_from_slice(&self.origin.to_le_bytes());
        out[4..6].copy_from_slice(&(self.source.len() as u16).to_le_bytes());
        out[6..8].copy_from_slice(&(self.name.len() as u16).to_le_bytes());
        out[8] = self.decoding.encoding.name().len() as u8;
        out[9] = self.decoding.on_undecodable as u8;
        if let Some(peer) = self.peer {
            out[10..12].copy_from_slice(&peer.port().to_le_bytes());
            let address = match peer.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            out[12..28].copy_from_slice(&address.octets());
        }
        out
    }

    /// What stands behind the prefix, in parts.
    pub fn texts(&self) -> [&'a [u8]; 3] {
        [self.source.as_bytes(), self.name.as_bytes(), self.decoding.encoding.name().as_bytes()]
    }

    /// Reads the payload of an origin entry of either kind; `None` where it is no text, or names an
    /// encoding that is not known.
    pub fn decode(kind: Kind, payload: &'a [u8]) -> Option<Self> {
        let origin = u32_at(payload, 0);
        let prefix = if kind == Kind::Origin { ORIGIN_PREFIX_BYTES } else { ORIGIN_1_PREFIX_BYTES };
        let text = std::str::from_utf8(&payload[prefix..]).ok()?;
        let (source, text) = text.split_at_checked(u16_at(payload, 4) as usize)?;
        let (name, encoding) = text.split_at_checked(u16_at(payload, 6) as usize)?;
        if kind == Kind::Origin1 {
            return Some(Self { origin, source, name, peer: None, decoding: Decoding::default() });
        }
        let on_undecodable = OnUndecodable::from_byte(payload[9])?;
        let decoding = Decoding { encoding: Decoding::encoding_of(encoding)?, on_undecodable };
        let octets: [u8; 16] = payload[12..28].try_into().expect("sixteen bytes");
        let address = Ipv6Addr::from(octets).to_canonical();
        let peer = (octets != [0; 16]).then(|| SocketAddr::new(address, u16_at(payload, 10)));
        Some(Self { origin, source, name, peer, decoding })
    }
}

/// A parked entry's payload: why a record is kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedPayload<'a> {
    /// The record.
    pub number: RecordNumber,
    /// When it was put aside, in nanoseconds since 1970.
    pub parked_wall_ns: u64,
    /// The answer's status.
    pub status: u16,
    /// How often it was refused.
    pub attempts: u32,
    /// The beginning of the answer's body.
    pub answer: &'a [u8],
}

impl<'a> ParkedPayload<'a> {
    /// What stands before the answer.
    pub fn encode_prefix(&self) -> [u8; PARKED_PREFIX_BYTES] {
        let mut out = [0; PARKED_PREFIX_BYTES];
        out[0..8].copy_from_slice(&self.number.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.parked_wall_ns.to_le_bytes());
        out[16..18].copy_from_slice(&self.status.to_le_bytes());
        out[20..24].copy_from_slice(&self.attempts.to_le_bytes());
        out
    }

    /// Reads the payload of a parked entry.
    pub fn decode(payload: &'a [u8]) -> Self {
        Self {
            number: record_number_at(payload, 0),
            parked_wall_ns: u64_at(payload, 8),
            status: u16_at(payload, 16),
            attempts: u32_at(payload, 20),
            answer: &payload[PARKED_PREFIX_BYTES..],
        }
    }
}
