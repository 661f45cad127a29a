//! The first bytes of every file of a journal, at places that never change: which format it is in,
//! and which version of the program wrote it.
//!
//! ```text
//! stamp   0 magic [u8; 8]   8 format u32   12 program [u8; 16], its version as text and zeros
//!        28 crc u32, over what stands before it
//! ```
//!
//! A program reads the formats before its own, too. Files of the first one have no stamp: they have
//! the magic, and what verifies them lies elsewhere. A later format is refused, with all files as
//! they are; a format field that no CRC verifies is damage and no other format.
//!
//! Format 2 brought the stamps, and origins with peer and encoding. Format 3 brought the end mark and
//! the inventory of a clean stop, second copies of an epoch in a block of their own, losses, and the
//! keys of machines. Format 4 brought batches, format 5 the kept headers of requests.

use super::format::u32_at;

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 32;
/// The format that this program writes.
pub const VERSION: u32 = 5;
/// The oldest one that it reads.
pub const OLDEST_VERSION: u32 = 1;
/// The first one whose files have a stamp.
const FIRST_STAMPED: u32 = 2;

const CRC_AT: usize = 28;

/// What a stamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
}

/// Stamps the front of a file.
pub(super) fn write(magic: [u8; 8], out: &mut [u8]) {
    let program = env!("CARGO_PKG_VERSION").as_bytes();
    let shown = &program[..program.len().min(16)];
    out[..STAMP_BYTES].fill(0);
    out[..8].copy_from_slice(&magic);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..12 + shown.len()].copy_from_slice(shown);
    let crc = crc32c::crc32c(&out[..CRC_AT]);
    out[CRC_AT..STAMP_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The stamp at the front of a file; `None` where there is none, or a damaged one.
pub(super) fn read(magic: [u8; 8], bytes: &[u8]) -> Option<Stamp> {
    let stamp = bytes.get(..STAMP_BYTES)?;
    let is_whole = stamp[..8] == magic && u32_at(stamp, CRC_AT) == crc32c::crc32c(&stamp[..CRC_AT]);
    is_whole.then(|| Stamp {
        version: u32_at(stamp, 8),
        program: String::from_utf8_lossy(&stamp[12..CRC_AT]).trim_end_matches('\0').to_owned(),
    })
}

/// The format of a file that this program reads and that has a stamp; the first format had none.
pub(super) fn readable(magic: [u8; 8], bytes: &[u8]) -> Option<u32> {
    read(magic, bytes).map(|stamp| stamp.version).filter(|version| (FIRST_STAMPED..=VERSION).contains(version))
}

/// A format that this program does not read, of a whole stamp.
pub(super) fn unreadable(magic: [u8; 8], bytes: &[u8]) -> Option<Stamp> {
    read(magic, bytes).filter(|stamp| !(OLDEST_VERSION..=VERSION).contains(&stamp.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"RINGTEST";

    #[test]
    fn a_stamp_says_its_format_and_its_program_and_every_flipped_bit_is_damage() {
        let mut bytes = vec![7; 40];
        write(MAGIC, &mut bytes);
        let stamp = Stamp { version: VERSION, program: env!("CARGO_PKG_VERSION").to_owned() };
        assert_eq!(read(MAGIC, &bytes), Some(stamp));
        assert_eq!(readable(MAGIC, &bytes), Some(VERSION));
        assert_eq!(unreadable(MAGIC, &bytes), None);
        assert_eq!(read(*b"RINGELSE", &bytes), None);
        assert_eq!(read(MAGIC, &bytes[..STAMP_BYTES - 1]), None);
        for bit in 0..STAMP_BYTES * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(MAGIC, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn another_format_under_a_right_crc_is_told_apart() {
        for (version, readable) in
            [(0, false), (1, true), (2, true), (3, true), (4, true), (5, true), (6, false), (u32::MAX, false)]
        {
            let mut bytes = vec![0; STAMP_BYTES];
            write(MAGIC, &mut bytes);
            bytes[8..12].copy_from_slice(&u32::to_le_bytes(version));
            let crc = crc32c::crc32c(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(unreadable(MAGIC, &bytes).is_none(), readable, "{version}");
        }
    }
}
