//! Epoch files: one start of the process, the block file it writes to, and whether it ended in order.

use super::format::{u32_at, u64_at, u128_at};

const EPOCH_MAGIC: [u8; 8] = *b"RINGEPO1";
const COPY_BYTES: usize = 80;

/// What an epoch file says. It stands there twice, so that a bad byte does not cost the block file that it names.
///
/// ```text
/// 0 magic "RINGEPO1"   8 epoch u64   16 epoch id u128   32 boot id u128   48 block file id u128
/// 64 physical u32      68 block bytes u32   72 closed u32   76 crc u32   80 the same again
/// ```
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
        let mut out = Vec::with_capacity(2 * COPY_BYTES);
        out.extend_from_slice(&EPOCH_MAGIC);
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
        let copies: Vec<Self> = bytes.chunks(COPY_BYTES).filter_map(Self::decode_copy).collect();
        copies.first().map(|epoch| (*epoch, bytes.len() == 2 * COPY_BYTES && copies.len() == 2))
    }

    fn decode_copy(bytes: &[u8]) -> Option<Self> {
        let whole = bytes.len() == COPY_BYTES
            && bytes[..8] == EPOCH_MAGIC
            && u32_at(bytes, 76) == crc32c::crc32c(&bytes[..76])
            && u32_at(bytes, 68) > 0;
        whole.then(|| Self {
            number: u64_at(bytes, 8),
            id: u128_at(bytes, 16),
            boot_id: u128_at(bytes, 32),
            file_id: u128_at(bytes, 48),
            physical: u32_at(bytes, 64),
            block_bytes: u32_at(bytes, 68),
            closed: u32_at(bytes, 72) == 1,
        })
    }

    /// Name of what it leaves at its end for the one start that goes on with its ids.
    pub fn token_name(&self) -> String {
        format!("ringest-left-{:032x}", self.id)
    }

    /// Name of its block file.
    pub fn block_name(&self) -> String {
        format!("ringest-{:032x}", self.file_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
