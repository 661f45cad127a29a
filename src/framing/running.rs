//! The checksums that are computed piece by piece while their frame comes.

use super::checksum::{ChecksumKind, CrcName};
use super::settings::Framing;

/// A checksum, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Running {
    None,
    Sum8,
    Xor8,
    Crc16Modbus,
    Crc32,
}

/// The two CRCs are computed with their least significant bit first.
const CRC16_MODBUS: [u32; 256] = crc_table(0xA001);
const CRC32: [u32; 256] = crc_table(0xEDB8_8320);

impl Running {
    /// That of a framing; those of other kinds are not computed.
    pub fn of(framing: &Framing) -> Self {
        match framing.checksum.as_ref().map(|checksum| checksum.kind) {
            Some(ChecksumKind::Sum8) => Self::Sum8,
            Some(ChecksumKind::Xor8) => Self::Xor8,
            Some(ChecksumKind::Crc(CrcName::Crc16Modbus)) => Self::Crc16Modbus,
            Some(ChecksumKind::Crc(CrcName::Crc32IsoHdlc)) => Self::Crc32,
            _ => Self::None,
        }
    }

    /// How many bytes it has on the line.
    pub fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Sum8 | Self::Xor8 => 1,
            Self::Crc16Modbus => 2,
            Self::Crc32 => 4,
        }
    }

    /// The state before the first byte.
    pub(super) fn begin(self) -> u32 {
        match self {
            Self::None | Self::Sum8 | Self::Xor8 => 0,
            Self::Crc16Modbus => 0xFFFF,
            Self::Crc32 => u32::MAX,
        }
    }

    /// The state after `bytes` more.
    pub(super) fn update(self, state: u32, bytes: &[u8]) -> u32 {
        let crc = |table: &[u32; 256]| {
            bytes.iter().fold(state, |state, &byte| (state >> 8) ^ table[usize::from(state as u8 ^ byte)])
        };
        match self {
            Self::None => state,
            Self::Sum8 => u32::from(bytes.iter().fold(state as u8, |sum, &byte| sum.wrapping_add(byte))),
            Self::Xor8 => u32::from(bytes.iter().fold(state as u8, |sum, &byte| sum ^ byte)),
            Self::Crc16Modbus => crc(&CRC16_MODBUS),
            Self::Crc32 => crc(&CRC32),
        }
    }

    /// Whether `sum`, as it came, is that of a state after the last byte.
    pub(super) fn is_sum_of(self, state: u32, sum: &[u8]) -> bool {
        let state = if self == Self::Crc32 { !state } else { state };
        sum == &state.to_le_bytes()[..self.bytes()]
    }

    /// Whether `sum`, as it came, is that of `bytes`.
    pub(super) fn verifies(self, bytes: &[u8], sum: &[u8]) -> bool {
        self.is_sum_of(self.update(self.begin(), bytes), sum)
    }
}

const fn crc_table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut state = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            state = if state & 1 == 1 { (state >> 1) ^ polynomial } else { state >> 1 };
            bit += 1;
        }
        table[byte] = state;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors_verify_and_their_neighbours_do_not() {
        // "123456789" is the check input of the CRC catalogues; the third line is the request of the MODBUS specification's
        // example "read holding registers 108 to 110 of device 17".
        let vectors: [(Running, &[u8], &[u8]); 9] = [
            (Running::Crc16Modbus, b"123456789", &[0x37, 0x4B]),
            (Running::Crc16Modbus, b"", &[0xFF, 0xFF]),
            (Running::Crc16Modbus, &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03], &[0x76, 0x87]),
            (Running::Crc32, b"123456789", &[0x26, 0x39, 0xF4, 0xCB]),
            (Running::Crc32, b"", &[0, 0, 0, 0]),
            (Running::Sum8, b"123456789", &[0xDD]),
            (Running::Sum8, &[0xFF, 0x02], &[0x01]),
            (Running::Xor8, b"123456789", &[0x31]),
            (Running::Xor8, &[0xA5, 0xA5], &[0x00]),
        ];
        for (checksum, bytes, sum) in vectors {
            assert_eq!(sum.len(), checksum.bytes());
            assert!(checksum.verifies(bytes, sum), "{checksum:?} of {bytes:?}");
            for bit in 0..8 * sum.len() {
                let mut wrong = sum.to_vec();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(!checksum.verifies(bytes, &wrong), "{checksum:?} of {bytes:?} with bit {bit} turned");
            }
            for at in 0..=bytes.len() {
                let (front, back) = bytes.split_at(at);
                let state = checksum.update(checksum.update(checksum.begin(), front), back);
                assert!(checksum.is_sum_of(state, sum), "{checksum:?} of {bytes:?} split at {at}");
            }
        }
    }
}
