//! Epoch files: one start of the process, the block file it writes to, and whether it ended in order.

use super::format::{u32_at, u64_at, u128_at};
use super::stamp::{self, STAMP_BYTES, Stamp};

pub(super) const EPOCH_MAGIC: [u8; 8] = *b"RINGEPO1";
const COPY_BYTES: usize = 104;
/// The same in format 1.
const COPY_1_BYTES: usize = 80;

/// What an epoch file says. It stands there twice, so that a bad byte does not cost the block file that it names.
///
/// ```text
///  0 stamp, magic "RINGEPO1"   32 epoch u64         40 epoch id u128   56 boot id u128
/// 72 block file id u128       88 physical u32      92 block bytes u32
/// 96 closed u32              100 crc u32          104 the same again
/// ```
/// A block file id of 0: the blocks are in memory of the process.
///
/// In format 1 the magic stands alone in front: 0 magic, 8 epoch … 72 closed, 76 crc, 80 the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    pub number: u64,
    pub id: u128,
    pub boot_id: u128,
    pub file_id: u128,
    pub physical: u32,
    pub block_bytes: u32,
    pub closed: bool,
}

impl Epoch {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; STAMP_BYTES];
        stamp::write(EPOCH_MAGIC, &mut out);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.boot_id.to_le_bytes());
        out.extend_from_slice(&self.file_id.to_le_bytes());
        out.extend_from_slice(&self.physical.to_le_bytes());
        out.extend_from_slice(&self.block_bytes.to_le_bytes());
        out.extend_from_slice(&u32::from(self.closed).to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_within(..);
        out
    }

    /// The epoch, and whether both copies are whole; `None` where neither is.
    pub fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let decode = |copy_bytes: usize, front: usize| {
            let copies: Vec<Self> =
                bytes.chunks(copy_bytes).filter_map(|copy| Self::decode_copy(copy, copy_bytes, front)).collect();
            copies.first().map(|epoch| (*epoch, bytes.len() == 2 * copy_bytes && copies.len() == 2))
        };
        decode(COPY_BYTES, STAMP_BYTES).or_else(|| decode(COPY_1_BYTES, EPOCH_MAGIC.len()))
    }

    /// A copy of so many bytes, the fields of which begin at `front`.
    fn decode_copy(bytes: &[u8], copy_bytes: usize, front: usize) -> Option<Self> {
        let is_known = match front {
            STAMP_BYTES => stamp::is_present(EPOCH_MAGIC, bytes),
            _ => bytes.starts_with(&EPOCH_MAGIC),
        };
        let crc_at = copy_bytes - 4;
        if bytes.len() != copy_bytes || !is_known || u32_at(bytes, crc_at) != crc32c::crc32c(&bytes[..crc_at]) {
            return None;
        }
        let fields = &bytes[front..];
        let epoch = Self {
            number: u64_at(fields, 0),
            id: u128_at(fields, 8),
            boot_id: u128_at(fields, 24),
            file_id: u128_at(fields, 40),
            physical: u32_at(fields, 56),
            block_bytes: u32_at(fields, 60),
            closed: u32_at(fields, 64) == 1,
        };
        (epoch.block_bytes > 0).then_some(epoch)
    }

    /// The format that this program does not read, of either copy.
    pub fn unreadable(bytes: &[u8]) -> Option<Stamp> {
        let second = || bytes.get(bytes.len() / 2..).and_then(|copy| stamp::unreadable(EPOCH_MAGIC, copy));
        stamp::unreadable(EPOCH_MAGIC, bytes).or_else(second)
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
        let epoch =
            Epoch { number: 7, id: 1 << 99, boot_id: 2, file_id: 3, physical: 512, block_bytes: 4096, closed: true };
        let bytes = epoch.encode();
        assert_eq!(Epoch::decode(&bytes), Some((epoch, true)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Epoch::decode(&flipped), Some((epoch, false)));
            let other = (bit / 8 + COPY_BYTES) % bytes.len();
            flipped[other] ^= 0x80;
            assert_eq!(Epoch::decode(&flipped), None);
        }
        for length in 0..bytes.len() {
            let expected = (length >= COPY_BYTES).then_some((epoch, false));
            assert_eq!(Epoch::decode(&bytes[..length]), expected);
        }
    }
}
