//! Epoch files: one start of the process, the block file it writes to, and whether it ended in
//! order; then also what it left.

use super::format::{Position, record_number_at, u32_at, u64_at, u128_at};
use super::inventory::Inventory;
use super::stamp::{self, STAMP_BYTES, Stamp};
use crate::ground::{RecordNumber, SegmentNumber};

pub(super) const EPOCH_MAGIC: [u8; 8] = *b"RINGEPO1";
const COPY_BYTES: usize = 136;
/// The second copy lies in another physical block.
const SECOND_COPY_AT: usize = 4096;
/// Behind the copies.
const INVENTORY_AT: usize = 8192;
/// Bytes of a copy in formats 2 and 1, where the second one followed at once.
const COPY_2_BYTES: usize = 104;
const COPY_1_BYTES: usize = 80;

/// What an epoch file says. It stands there twice, so that a bad byte, or a block that cannot be
/// read, does not cost the block file that it names, nor the end mark.
///
/// ```text
///   0 stamp, magic "RINGEPO1"   32 epoch u64         40 epoch id u128   56 boot id u128
///  72 block file id u128        88 physical u32      92 block bytes u32
///  96 closed u32               100 segments u32     104 next number u64
/// 112 end segment u64          120 end offset u32   124 pending u64   132 crc u32   zeros
/// 4096 the same again, zeros
/// 8192 inventory bytes u64, crc u32, inventory (see `inventory`): of the start, or of the clean stop; not where the disk was full
/// ```
/// A block file id of 0: the blocks are in memory of the process.
///
/// What stands at 100 to 132 is the end mark; it is zero until a clean stop. Format 2 ends with its
/// crc at 100, and the same again at 104. In format 1 the magic stands alone in front: 0 magic,
/// 8 epoch … 72 closed, 76 crc, 80 the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    pub number: u64,
    pub id: u128,
    pub boot_id: u128,
    pub file_id: u128,
    pub physical: u32,
    pub block_bytes: u32,
    pub closed: bool,
    /// `None` before a clean stop, and in formats that had none.
    pub end: Option<EndMark>,
}

/// What a clean stop leaves, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndMark {
    /// The number behind the last entry.
    pub next: RecordNumber,
    /// Where the log ends.
    pub at: Position,
    pub segments: u32,
    /// Records that are neither delivered nor discarded.
    pub pending: u64,
}

impl Epoch {
    pub fn encode(&self) -> Vec<u8> {
        let copy = self.encode_copy();
        let mut out = copy.clone();
        out.resize(SECOND_COPY_AT, 0);
        out.extend_from_slice(&copy);
        out
    }

    /// With an inventory behind it.
    pub fn encode_with(&self, inventory: &[u8]) -> Vec<u8> {
        let mut out = self.encode();
        out.resize(INVENTORY_AT, 0);
        out.extend_from_slice(&(inventory.len() as u64).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(inventory).to_le_bytes());
        out.extend_from_slice(inventory);
        out
    }

    fn encode_copy(&self) -> Vec<u8> {
        let mut out = vec![0; STAMP_BYTES];
        stamp::write(EPOCH_MAGIC, &mut out);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.boot_id.to_le_bytes());
        out.extend_from_slice(&self.file_id.to_le_bytes());
        out.extend_from_slice(&self.physical.to_le_bytes());
        out.extend_from_slice(&self.block_bytes.to_le_bytes());
        out.extend_from_slice(&u32::from(self.closed).to_le_bytes());
        let nothing = EndMark { next: RecordNumber(0), at: Position::default(), segments: 0, pending: 0 };
        let EndMark { next, at, segments, pending } = self.end.unwrap_or(nothing);
        out.extend_from_slice(&segments.to_le_bytes());
        out.extend_from_slice(&next.0.to_le_bytes());
        out.extend_from_slice(&at.segment.0.to_le_bytes());
        out.extend_from_slice(&at.offset.to_le_bytes());
        out.extend_from_slice(&pending.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The epoch, and whether all of its file is whole; `None` where neither copy is.
    pub fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let copies = [0, SECOND_COPY_AT].map(|at| Self::decode_copy(bytes.get(at..at + COPY_BYTES)?));
        let [first, second] = copies;
        let Some(epoch) = first.or(second) else { return Self::decode_earlier(bytes) };
        let end = SECOND_COPY_AT + COPY_BYTES;
        let is_zero = |range: &[u8]| range.iter().all(|byte| *byte == 0);
        let is_padded = bytes.get(COPY_BYTES..SECOND_COPY_AT).is_some_and(is_zero);
        let has_inventory =
            || bytes.get(end..INVENTORY_AT).is_some_and(is_zero) && Self::inventory_bytes(bytes).is_some();
        let is_ended = bytes.len() == end || has_inventory();
        Some((epoch, first == second && is_padded && is_ended))
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        let crc_at = COPY_BYTES - 4;
        let is_whole =
            stamp::readable(EPOCH_MAGIC, copy)? > 2 && u32_at(copy, crc_at) == crc32c::crc32c(&copy[..crc_at]);
        if !is_whole {
            return None;
        }
        let epoch = Self::decode_fields(&copy[STAMP_BYTES..])?;
        let end = EndMark {
            segments: u32_at(copy, 100),
            next: record_number_at(copy, 104),
            at: Position { segment: SegmentNumber(u64_at(copy, 112)), offset: u32_at(copy, 120) },
            pending: u64_at(copy, 124),
        };
        Some(Self { end: epoch.closed.then_some(end), ..epoch })
    }

    /// An epoch of format 2 or 1.
    fn decode_earlier(bytes: &[u8]) -> Option<(Self, bool)> {
        let decode = |copy_bytes: usize, front: usize| {
            let is_known = |copy: &[u8]| match front {
                STAMP_BYTES => stamp::readable(EPOCH_MAGIC, copy) == Some(2),
                _ => copy.starts_with(&EPOCH_MAGIC),
            };
            let is_whole = |copy: &&[u8]| {
                let crc_at = copy_bytes - 4;
                copy.len() == copy_bytes && is_known(copy) && u32_at(copy, crc_at) == crc32c::crc32c(&copy[..crc_at])
            };
            let copies: Vec<Self> = bytes
                .chunks(copy_bytes)
                .filter(is_whole)
                .filter_map(|copy| Self::decode_fields(&copy[front..]))
                .collect();
            copies.first().map(|epoch| (*epoch, bytes.len() == 2 * copy_bytes && copies.len() == 2))
        };
        decode(COPY_2_BYTES, STAMP_BYTES).or_else(|| decode(COPY_1_BYTES, EPOCH_MAGIC.len()))
    }

    /// What all formats have in common.
    fn decode_fields(fields: &[u8]) -> Option<Self> {
        let epoch = Self {
            number: u64_at(fields, 0),
            id: u128_at(fields, 8),
            boot_id: u128_at(fields, 24),
            file_id: u128_at(fields, 40),
            physical: u32_at(fields, 56),
            block_bytes: u32_at(fields, 60),
            closed: u32_at(fields, 64) == 1,
            end: None,
        };
        (epoch.block_bytes > 0).then_some(epoch)
    }

    fn inventory_bytes(bytes: &[u8]) -> Option<&[u8]> {
        let behind = bytes.get(INVENTORY_AT..)?;
        let inventory = behind.get(12..)?;
        let is_whole = u64_at(behind, 0) == inventory.len() as u64 && u32_at(behind, 8) == crc32c::crc32c(inventory);
        is_whole.then_some(inventory)
    }

    /// What was written behind the copies, if it is whole.
    pub fn inventory(bytes: &[u8]) -> Option<Inventory> {
        Self::inventory_bytes(bytes).and_then(Inventory::decode)
    }

    /// The format that this program does not read, of either copy.
    pub fn unreadable(bytes: &[u8]) -> Option<Stamp> {
        let copies = [0, SECOND_COPY_AT, bytes.len() / 2];
        copies.into_iter().find_map(|at| stamp::unreadable(EPOCH_MAGIC, bytes.get(at..)?))
    }

    /// Name of what it leaves at its end for the one start that goes on with its ids.
    pub fn token_name(&self) -> String {
        format!("ringest-left-{:032x}", self.id)
    }

    /// Whether its blocks are in a file, and not in memory that is lost with the process.
    pub fn has_block_file(&self) -> bool {
        self.file_id != 0
    }

    /// Name of its block file.
    pub fn block_name(&self) -> String {
        format!("ringest-{:032x}", self.file_id)
    }
}

/// Names of the block files that a next start would read or that a running gateway writes, by the
/// epoch files of its directory; `None` where one of those cannot be understood.
pub fn needed_block_files(epochs: &[(u64, Vec<u8>)], boot_id: [u8; 16]) -> Option<Vec<String>> {
    let mut needed = Vec::new();
    for (number, bytes) in epochs {
        let (epoch, _) = Epoch::decode(bytes).filter(|(epoch, _)| epoch.number == *number)?;
        if !epoch.closed && epoch.boot_id == u128::from_le_bytes(boot_id) {
            needed.push(epoch.block_name());
        }
    }
    Some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Epoch = Epoch {
        number: 7,
        id: 1 << 99,
        boot_id: 2,
        file_id: 3,
        physical: 512,
        block_bytes: 4096,
        closed: false,
        end: None,
    };

    fn closed() -> Epoch {
        let at = Position { segment: SegmentNumber(9), offset: 1024 };
        Epoch { closed: true, end: Some(EndMark { next: RecordNumber(77), at, segments: 2, pending: 5 }), ..OPEN }
    }

    #[test]
    fn an_epoch_that_has_not_ended_needs_its_block_file_until_the_machine_is_started_again() {
        let (boot_id, other_boot) = ([1; 16], [2; 16]);
        let open = Epoch {
            number: 7,
            id: 1,
            boot_id: u128::from_le_bytes(boot_id),
            file_id: 3,
            physical: 512,
            block_bytes: 4096,
            closed: false,
            end: None,
        };
        let files = |epoch: Epoch| vec![(7, epoch.encode())];
        assert_eq!(needed_block_files(&files(open), boot_id), Some(vec![open.block_name()]));
        assert_eq!(needed_block_files(&files(open), other_boot), Some(Vec::new()));
        assert_eq!(needed_block_files(&files(Epoch { closed: true, ..open }), boot_id), Some(Vec::new()));
        let damaged = vec![(7, open.encode()), (8, vec![0; 208])];
        assert_eq!(needed_block_files(&damaged, boot_id), None, "nobody knows what that one needs");
    }

    #[test]
    fn a_flipped_bit_costs_one_copy_and_two_cost_the_epoch() {
        for (epoch, bytes) in [(OPEN, OPEN.encode()), (closed(), closed().encode_with(&[7; 40]))] {
            assert_eq!(Epoch::decode(&bytes), Some((epoch, true)));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Epoch::decode(&flipped), Some((epoch, false)), "bit {bit}");
                if bit / 8 < COPY_BYTES {
                    flipped[SECOND_COPY_AT + bit / 8] ^= 0x80;
                    assert_eq!(Epoch::decode(&flipped), None);
                }
            }
            for length in 0..bytes.len() {
                // The inventory may be missing: the disk was full.
                let is_whole = length == SECOND_COPY_AT + COPY_BYTES;
                let expected = (length >= COPY_BYTES).then_some((epoch, is_whole));
                assert_eq!(Epoch::decode(&bytes[..length]), expected, "{length}");
            }
        }
    }
}
