//! Checksums of records: what they are on the line, and whether they match.

/// What verifies a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How it is computed.
    pub kind: ChecksumKind,
    /// How it is written on the line.
    pub form: ChecksumForm,
    /// The covered bytes are pairs of hexadecimal characters, and the sum is over their values.
    pub digits: bool,
    /// What it covers beside the payload.
    pub covers: Covers,
    /// Where it stands.
    pub place: Place,
    /// Stands between data and sum; nothing covers it. Often empty.
    pub separator: Vec<u8>,
    /// The device may leave it out.
    pub optional: bool,
}

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// The sum of all bytes, modulo 256.
    Sum8,
    /// What makes that sum 0: the LRC of Modbus ASCII.
    NegSum8,
    /// The exclusive or of all bytes: a block check character.
    Xor8,
    /// Fletcher's sum of bytes, modulo 255.
    Fletcher16,
    /// The same modulo 256, as in UBX.
    FletcherUbx,
    /// A cyclic redundancy check.
    Crc(CrcName),
    /// So many bytes are passed over and verify nothing.
    Skip {
        /// How many.
        bytes: usize,
    },
}

/// The names of the RevEng catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrcName {
    /// CRC-8/SMBUS.
    Crc8Smbus,
    /// CRC-8/MAXIM-DOW.
    Crc8MaximDow,
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/IBM-3740.
    Crc16Ibm3740,
    /// CRC-16/XMODEM.
    Crc16Xmodem,
    /// CRC-16/IBM-SDLC.
    Crc16IbmSdlc,
    /// CRC-16/KERMIT.
    Crc16Kermit,
    /// CRC-32/ISO-HDLC.
    Crc32IsoHdlc,
}

/// How a checksum is written on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumForm {
    /// As bytes.
    Binary {
        /// The most significant byte first.
        big: bool,
    },
    /// As hexadecimal characters in either case, as many as the sum has nibbles.
    Hex,
}

/// What a checksum covers beside the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covers {
    /// The start.
    pub start: bool,
    /// What stands between start and payload.
    pub header: bool,
    /// The end.
    pub end: bool,
}

/// Where a checksum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind the end, or behind the last byte where there is none.
    Behind,
    /// Before the end.
    Before,
}

impl Checksum {
    /// How many bytes it has on the line, without the separator.
    pub fn bytes(&self) -> usize {
        match (self.kind, self.form) {
            (ChecksumKind::Skip { bytes }, _) => bytes,
            (_, ChecksumForm::Binary { .. }) => self.bits() as usize / 8,
            (_, ChecksumForm::Hex) => self.bits() as usize / 4,
        }
    }

    /// How many bits it verifies.
    pub fn bits(&self) -> u32 {
        match self.kind {
            ChecksumKind::Skip { .. } => 0,
            ChecksumKind::Sum8 | ChecksumKind::NegSum8 | ChecksumKind::Xor8 => 8,
            ChecksumKind::Fletcher16 | ChecksumKind::FletcherUbx => 16,
            ChecksumKind::Crc(name) => match name {
                CrcName::Crc8Smbus | CrcName::Crc8MaximDow => 8,
                CrcName::Crc32IsoHdlc => 32,
                _ => 16,
            },
        }
    }

    /// Whether `sum`, as it came, is that of `covered`: start, header, payload and end in this order, empty where they are
    /// not covered.
    pub fn verifies(&self, covered: [&[u8]; 4], sum: &[u8]) -> bool {
        if sum.len() != self.bytes() {
            return false;
        }
        let bits = self.bits();
        let came = match self.form {
            _ if bits == 0 => return true,
            ChecksumForm::Binary { big: true } => sum.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)),
            ChecksumForm::Binary { big: false } => {
                sum.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
            }
            ChecksumForm::Hex => {
                let mut digits = sum.iter().map(|byte| char::from(*byte).to_digit(16));
                let Some(value) = digits.try_fold(0, |value, digit| Some(value << 4 | digit?)) else { return false };
                value
            }
        };
        let mut bytes = covered.concat();
        if self.digits {
            let value = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let pairs = bytes.chunks(2).map(value).collect::<Option<Vec<u8>>>();
            let Some(values) = pairs.filter(|_| bytes.len().is_multiple_of(2)) else { return false };
            bytes = values;
        }
        self.kind.of(&bytes) == came
    }
}

impl ChecksumKind {
    fn of(self, bytes: &[u8]) -> u32 {
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let fletcher = |modulus: u32| {
            let (low, high) = bytes.iter().fold((0, 0), |(low, high), byte| {
                let low = (low + u32::from(*byte)) % modulus;
                (low, (high + low) % modulus)
            });
            high << 8 | low
        };
        match self {
            Self::Skip { .. } => 0,
            Self::Sum8 => sum.into(),
            Self::NegSum8 => sum.wrapping_neg().into(),
            Self::Xor8 => bytes.iter().fold(0, |sum, byte| sum ^ byte).into(),
            Self::Fletcher16 => fletcher(255),
            Self::FletcherUbx => fletcher(256),
            Self::Crc(name) => match name {
                CrcName::Crc8Smbus => crc(bytes, 8, 0x07, 0),
                CrcName::Crc8MaximDow => reflected(bytes, 0x8C, 0),
                CrcName::Crc16Modbus => reflected(bytes, 0xA001, 0xFFFF),
                CrcName::Crc16Ibm3740 => crc(bytes, 16, 0x1021, 0xFFFF),
                CrcName::Crc16Xmodem => crc(bytes, 16, 0x1021, 0),
                CrcName::Crc16IbmSdlc => reflected(bytes, 0x8408, 0xFFFF) ^ 0xFFFF,
                CrcName::Crc16Kermit => reflected(bytes, 0x8408, 0),
                CrcName::Crc32IsoHdlc => !reflected(bytes, 0xEDB8_8320, u32::MAX),
            },
        }
    }
}

fn reflected(bytes: &[u8], polynomial: u32, state: u32) -> u32 {
    let step = |state: u32, _| (state >> 1) ^ ((state & 1) * polynomial);
    bytes.iter().fold(state, |state, byte| (0..8).fold(state ^ u32::from(*byte), step))
}

fn crc(bytes: &[u8], bits: u32, polynomial: u32, state: u32) -> u32 {
    let top = 1 << (bits - 1);
    let mask = top | (top - 1);
    let step = |state: u32, _| ((state << 1) ^ if state & top == 0 { 0 } else { polynomial }) & mask;
    bytes.iter().fold(state, |state, byte| (0..8).fold(state ^ u32::from(*byte) << (bits - 8), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_check_value() {
        use ChecksumKind::*;
        for (kind, check) in [
            (Sum8, 0xDD),
            (NegSum8, 0x23),
            (Xor8, 0x31),
            (Fletcher16, 0x1EDE),
            (FletcherUbx, 0x15DD),
            (Crc(CrcName::Crc8Smbus), 0xF4),
            (Crc(CrcName::Crc8MaximDow), 0xA1),
            (Crc(CrcName::Crc16Modbus), 0x4B37),
            (Crc(CrcName::Crc16Ibm3740), 0x29B1),
            (Crc(CrcName::Crc16Xmodem), 0x31C3),
            (Crc(CrcName::Crc16IbmSdlc), 0x906E),
            (Crc(CrcName::Crc16Kermit), 0x2189),
            (Crc(CrcName::Crc32IsoHdlc), 0xCBF4_3926),
        ] {
            assert_eq!(kind.of(b"123456789"), check, "{kind:?}");
        }
    }
}
