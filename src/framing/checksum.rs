//! What verifies a record: the kinds of sums, how one stands on the line, and what it covers.

use crc::{Crc, Table};

static CRC_8_SMBUS: Crc<u8, Table<16>> = Crc::<u8, Table<16>>::new(&crc::CRC_8_SMBUS);
static CRC_8_MAXIM_DOW: Crc<u8, Table<16>> = Crc::<u8, Table<16>>::new(&crc::CRC_8_MAXIM_DOW);
static CRC_16_MODBUS: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&crc::CRC_16_MODBUS);
static CRC_16_IBM_3740: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&crc::CRC_16_IBM_3740);
static CRC_16_XMODEM: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&crc::CRC_16_XMODEM);
static CRC_16_IBM_SDLC: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&crc::CRC_16_IBM_SDLC);
static CRC_16_KERMIT: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&crc::CRC_16_KERMIT);
static CRC_32_ISO_HDLC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&crc::CRC_32_ISO_HDLC);

/// What verifies a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How the sum is computed.
    pub kind: ChecksumKind,
    /// How it is written.
    pub form: ChecksumForm,
    /// The covered bytes are pairs of hexadecimal characters, and the sum is over their values (MODBUS over Serial Line V1.02,
    /// section 2.5.2.2: the LRC of the ASCII mode).
    pub digits: bool,
    /// What is covered beside the payload.
    pub covers: Covers,
    /// Where it stands.
    pub place: Place,
    /// Stands between the data and the sum, covered by nothing; often empty.
    pub separator: Vec<u8>,
    /// The device may leave it out: what has none is not verified.
    pub optional: bool,
}

/// How a sum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// One byte: the sum of all bytes, modulo 256.
    Sum8,
    /// One byte: the two's complement of [`ChecksumKind::Sum8`].
    NegSum8,
    /// One byte: the exclusive or of all bytes.
    Xor8,
    /// Two bytes: Fletcher's sums modulo 255 (RFC 1145); the second sum is the high byte.
    Fletcher16,
    /// Two bytes: Fletcher's sums modulo 256, as u-blox receivers have it (RFC 1145 too); the second sum is the high byte.
    FletcherUbx,
    /// A cyclic redundancy check.
    Crc(CrcName),
    /// Nobody verifies it: so many bytes are passed over.
    Skip {
        /// 1 to 16.
        bytes: usize,
    },
}

/// A CRC by its name in the RevEng catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrcName {
    /// CRC-8/SMBUS.
    Crc8Smbus,
    /// CRC-8/MAXIM-DOW.
    Crc8MaximDow,
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/IBM-3740, often called CCITT-FALSE.
    Crc16Ibm3740,
    /// CRC-16/XMODEM.
    Crc16Xmodem,
    /// CRC-16/IBM-SDLC, also called X-25.
    Crc16IbmSdlc,
    /// CRC-16/KERMIT, the CCITT's own.
    Crc16Kermit,
    /// CRC-32/ISO-HDLC, as in zlib and Ethernet.
    Crc32IsoHdlc,
}

/// How a sum is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumForm {
    /// As bytes.
    Binary {
        /// The most significant byte first.
        big: bool,
    },
    /// As hexadecimal characters of either case, the most significant first, two for each byte.
    Hex,
}

/// What a sum covers beside the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covers {
    /// The bytes that start the record.
    pub start: bool,
    /// The header with the length.
    pub header: bool,
    /// The bytes that end the record.
    pub end: bool,
}

/// Where a sum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before the bytes that end the record.
    Before,
    /// Behind the bytes that end the record, or behind its last byte where there are none.
    Behind,
}

/// A sum in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    /// Of a CRC, that of the bytes so far; of the others, their sums.
    state: u32,
    /// With [`Checksum::digits`], the first character of a pair, as a value.
    half: Option<u8>,
    /// With [`Checksum::digits`], a character came that is no digit.
    damaged: bool,
}

impl ChecksumKind {
    /// The size of the sum itself, in bytes.
    fn width(self) -> usize {
        match self {
            Self::Sum8 | Self::NegSum8 | Self::Xor8 => 1,
            Self::Fletcher16 | Self::FletcherUbx => 2,
            Self::Crc(name) => name.width(),
            Self::Skip { bytes } => bytes,
        }
    }

    fn begin(self) -> u32 {
        match self {
            Self::Crc(name) => name.begin(),
            _ => 0,
        }
    }

    fn update(self, state: u32, bytes: &[u8]) -> u32 {
        match self {
            Self::Skip { .. } => state,
            Self::Sum8 | Self::NegSum8 => {
                u32::from(bytes.iter().fold(state as u8, |sum, &byte| sum.wrapping_add(byte)))
            }
            Self::Xor8 => u32::from(bytes.iter().fold(state as u8, |sum, &byte| sum ^ byte)),
            Self::Fletcher16 => fletcher16(state, bytes),
            Self::FletcherUbx => {
                let (first, second) = bytes.iter().fold((state as u8, (state >> 8) as u8), |(first, second), &byte| {
                    let first = first.wrapping_add(byte);
                    (first, second.wrapping_add(first))
                });
                u32::from(second) << 8 | u32::from(first)
            }
            Self::Crc(name) => name.update(state, bytes),
        }
    }

    /// The sum of a state after the last byte.
    fn finish(self, state: u32) -> u32 {
        match self {
            Self::NegSum8 => u32::from((state as u8).wrapping_neg()),
            _ => state,
        }
    }
}

/// Fletcher's sums modulo 255. They are reduced once in a while: within 4,096 bytes neither overflows.
fn fletcher16(state: u32, bytes: &[u8]) -> u32 {
    let (mut first, mut second) = (state & 0xFF, state >> 8);
    for piece in bytes.chunks(4096) {
        for &byte in piece {
            first += u32::from(byte);
            second += first;
        }
        (first, second) = (first % 255, second % 255);
    }
    second << 8 | first
}

impl CrcName {
    fn width(self) -> usize {
        match self {
            Self::Crc8Smbus | Self::Crc8MaximDow => 1,
            Self::Crc16Modbus | Self::Crc16Ibm3740 | Self::Crc16Xmodem | Self::Crc16IbmSdlc | Self::Crc16Kermit => 2,
            Self::Crc32IsoHdlc => 4,
        }
    }

    /// The CRC of no bytes.
    fn begin(self) -> u32 {
        match self {
            Self::Crc8Smbus => u32::from(CRC_8_SMBUS.checksum(&[])),
            Self::Crc8MaximDow => u32::from(CRC_8_MAXIM_DOW.checksum(&[])),
            Self::Crc16Modbus => u32::from(CRC_16_MODBUS.checksum(&[])),
            Self::Crc16Ibm3740 => u32::from(CRC_16_IBM_3740.checksum(&[])),
            Self::Crc16Xmodem => u32::from(CRC_16_XMODEM.checksum(&[])),
            Self::Crc16IbmSdlc => u32::from(CRC_16_IBM_SDLC.checksum(&[])),
            Self::Crc16Kermit => u32::from(CRC_16_KERMIT.checksum(&[])),
            Self::Crc32IsoHdlc => CRC_32_ISO_HDLC.checksum(&[]),
        }
    }

    /// The CRC of what has the CRC `crc`, and of `bytes` behind it.
    fn update(self, crc: u32, bytes: &[u8]) -> u32 {
        // A digest begins with a register; the register behind a CRC is that CRC without its final exclusive or, and the
        // crate wants it with its most significant bit first.
        macro_rules! go_on {
            ($table:ident, $width:ty) => {{
                let register = crc as $width ^ $table.algorithm.xorout;
                let initial = if $table.algorithm.refin { register.reverse_bits() } else { register };
                let mut digest = $table.digest_with_initial(initial);
                digest.update(bytes);
                u32::from(digest.finalize())
            }};
        }
        match self {
            Self::Crc8Smbus => go_on!(CRC_8_SMBUS, u8),
            Self::Crc8MaximDow => go_on!(CRC_8_MAXIM_DOW, u8),
            Self::Crc16Modbus => go_on!(CRC_16_MODBUS, u16),
            Self::Crc16Ibm3740 => go_on!(CRC_16_IBM_3740, u16),
            Self::Crc16Xmodem => go_on!(CRC_16_XMODEM, u16),
            Self::Crc16IbmSdlc => go_on!(CRC_16_IBM_SDLC, u16),
            Self::Crc16Kermit => go_on!(CRC_16_KERMIT, u16),
            Self::Crc32IsoHdlc => go_on!(CRC_32_ISO_HDLC, u32),
        }
    }
}

impl Checksum {
    /// How many bytes it has on the line, without its separator.
    pub fn bytes(&self) -> usize {
        match (self.kind, self.form) {
            (ChecksumKind::Skip { bytes }, _) => bytes,
            (kind, ChecksumForm::Binary { .. }) => kind.width(),
            (kind, ChecksumForm::Hex) => 2 * kind.width(),
        }
    }

    /// How many bits it verifies; none where its bytes are passed over.
    pub fn bits(&self) -> u32 {
        match self.kind {
            ChecksumKind::Skip { .. } => 0,
            kind => 8 * kind.width() as u32,
        }
    }

    /// Whether `sum`, as it came, is that of the start, the header, the payload and the end, in this order; what is not
    /// covered may be given or be empty.
    pub fn verifies(&self, covered: [&[u8]; 4], sum: &[u8]) -> bool {
        let [start, header, payload, end] = covered;
        let Covers { start: with_start, header: with_header, end: with_end } = self.covers;
        let parts = [(start, with_start), (header, with_header), (payload, true), (end, with_end)];
        let parts = parts.into_iter().filter(|(_, is_covered)| *is_covered);
        let state = parts.fold(self.begin(), |state, (bytes, _)| self.update(state, bytes));
        self.is_sum_of(state, sum)
    }

    /// The state before the first byte.
    pub(super) fn begin(&self) -> Sum {
        Sum { state: self.kind.begin(), half: None, damaged: false }
    }

    /// The state after `bytes` more, all of which are covered.
    pub(super) fn update(&self, mut sum: Sum, bytes: &[u8]) -> Sum {
        if !self.digits {
            sum.state = self.kind.update(sum.state, bytes);
            return sum;
        }
        for byte in bytes {
            let Some(value) = char::from(*byte).to_digit(16).map(|value| value as u8) else {
                sum.damaged = true;
                continue;
            };
            match sum.half.take() {
                None => sum.half = Some(value),
                Some(high) => sum.state = self.kind.update(sum.state, &[high << 4 | value]),
            }
        }
        sum
    }

    /// Whether `sum`, as it came, is that of a state after the last byte.
    pub(super) fn is_sum_of(&self, state: Sum, sum: &[u8]) -> bool {
        if sum.len() != self.bytes() || state.damaged || state.half.is_some() {
            return false;
        }
        if let ChecksumKind::Skip { .. } = self.kind {
            return true;
        }
        let expected = self.kind.finish(state.state);
        let came = match self.form {
            ChecksumForm::Binary { big: true } => sum.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)),
            ChecksumForm::Binary { big: false } => {
                sum.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
            }
            ChecksumForm::Hex => {
                let number = sum
                    .iter()
                    .try_fold(0, |number, byte| char::from(*byte).to_digit(16).map(|digit| number << 4 | digit));
                let Some(number) = number else { return false };
                number
            }
        };
        came == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [ChecksumKind; 13] = [
        ChecksumKind::Sum8,
        ChecksumKind::NegSum8,
        ChecksumKind::Xor8,
        ChecksumKind::Fletcher16,
        ChecksumKind::FletcherUbx,
        ChecksumKind::Crc(CrcName::Crc8Smbus),
        ChecksumKind::Crc(CrcName::Crc8MaximDow),
        ChecksumKind::Crc(CrcName::Crc16Modbus),
        ChecksumKind::Crc(CrcName::Crc16Ibm3740),
        ChecksumKind::Crc(CrcName::Crc16Xmodem),
        ChecksumKind::Crc(CrcName::Crc16IbmSdlc),
        ChecksumKind::Crc(CrcName::Crc16Kermit),
        ChecksumKind::Crc(CrcName::Crc32IsoHdlc),
    ];

    fn sum_of(checksum: &Checksum, bytes: &[u8]) -> u32 {
        checksum.kind.finish(checksum.update(checksum.begin(), bytes).state)
    }

    /// `sum` as `checksum` has it on the line.
    fn written(checksum: &Checksum, sum: u32) -> Vec<u8> {
        let width = checksum.kind.width();
        match checksum.form {
            ChecksumForm::Binary { big: true } => sum.to_be_bytes()[4 - width..].to_vec(),
            ChecksumForm::Binary { big: false } => sum.to_le_bytes()[..width].to_vec(),
            ChecksumForm::Hex => format!("{sum:0digits$X}", digits = 2 * width).into_bytes(),
        }
    }

    #[test]
    fn each_kind_has_the_check_value_of_its_catalogue() {
        // "123456789" is the check input of the RevEng catalogue. The sums are added by hand: 9 × 0x30 + 45 = 0x1DD.
        let values =
            [0xDD, 0x23, 0x31, 0x1EDE, 0x15DD, 0xF4, 0xA1, 0x4B37, 0x29B1, 0x31C3, 0x906E, 0x2189, 0xCBF4_3926];
        for (kind, value) in KINDS.into_iter().zip(values) {
            let checksum = Checksum::short(kind);
            assert_eq!(sum_of(&checksum, b"123456789"), value, "{kind:?}");
            assert_eq!(checksum.bytes() as u32 * 8, checksum.bits(), "{kind:?}");
        }
        // The published examples of Fletcher's sums modulo 255.
        for (text, value) in [("abcde", 0xC8F0), ("abcdef", 0x2057), ("abcdefgh", 0x0627)] {
            assert_eq!(sum_of(&Checksum::short(ChecksumKind::Fletcher16), text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn messages_of_public_protocols_verify() {
        // MODBUS over Serial Line V1.02: "read holding registers 108 to 110 of device 17", RTU and ASCII.
        let modbus = Checksum::short(ChecksumKind::Crc(CrcName::Crc16Modbus));
        assert!(modbus.verifies([b"", b"", &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03], b""], &[0x76, 0x87]));
        let ascii = Checksum {
            form: ChecksumForm::Hex,
            digits: true,
            place: Place::Before,
            ..Checksum::short(ChecksumKind::NegSum8)
        };
        assert!(ascii.verifies([b":", b"", b"1103006B0003", b"\r\n"], b"7E"));
        assert!(ascii.verifies([b":", b"", b"1103006b0003", b"\r\n"], b"7e"));
        for (damaged, sum) in [(&b"1103006B00037"[..], &b"7E"[..]), (b"1103006B0003G", b"7E"), (b"1103006B0003", b"7")]
        {
            assert!(!ascii.verifies([b"", b"", damaged, b""], sum), "{damaged:?}");
        }
        // NMEA 0183.
        let nmea = Checksum { form: ChecksumForm::Hex, ..Checksum::short(ChecksumKind::Xor8) };
        let sentence = b"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,";
        assert!(nmea.verifies([b"$", b"", sentence, b"\r\n"], b"47"));
        assert!(!nmea.verifies([b"$", b"", sentence, b"\r\n"], b"4g"));
        // u-blox: the poll of MON-VER.
        let ubx = Checksum::short(ChecksumKind::FletcherUbx);
        assert!(ubx.verifies([&[0xB5, 0x62], &[0x0A, 0x04, 0x00, 0x00], b"", b""], &[0x0E, 0x34]));
        // 1-Wire: a ROM of Maxim's application note 27.
        let rom = Checksum::short(ChecksumKind::Crc(CrcName::Crc8MaximDow));
        assert!(rom.verifies([b"", b"", &[0x02, 0x1C, 0xB8, 0x01, 0x00, 0x00, 0x00], b""], &[0xA2]));
        // A scale that covers its ETX.
        let covers = Covers { start: false, header: true, end: true };
        let bcc = Checksum { covers, ..Checksum::short(ChecksumKind::Xor8) };
        assert!(bcc.verifies([b"\x02", b"", b"ab", b"\x03"], &[b'a' ^ b'b' ^ 3]));
        assert!(!bcc.verifies([b"\x02", b"", b"ab", b"\x03"], &[b'a' ^ b'b']));
    }

    #[test]
    fn what_is_passed_over_is_never_wrong_but_for_its_length() {
        let skip = Checksum::short(ChecksumKind::Skip { bytes: 3 });
        assert_eq!((skip.bytes(), skip.bits()), (3, 0));
        assert!(skip.verifies([b"", b"", b"any", b""], b"sum"));
        assert!(!skip.verifies([b"", b"", b"any", b""], b"su"));
    }

    #[test]
    fn a_sum_of_many_of_the_largest_bytes_does_not_overflow() {
        let bytes = [0xFF; 70_000];
        for kind in [ChecksumKind::Fletcher16, ChecksumKind::FletcherUbx] {
            let checksum = Checksum::short(kind);
            let modulus = if kind == ChecksumKind::Fletcher16 { 255 } else { 256 };
            let (mut first, mut second) = (0_u32, 0);
            for byte in bytes {
                first = (first + u32::from(byte)) % modulus;
                second = (second + first) % modulus;
            }
            assert_eq!(sum_of(&checksum, &bytes), second << 8 | first, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn a_sum_verifies_in_each_form_however_it_is_computed_and_no_neighbour_of_it_does(
            kind in prop::sample::select(&KINDS[..]),
            form in prop::sample::select(vec![
                ChecksumForm::Binary { big: false }, ChecksumForm::Binary { big: true }, ChecksumForm::Hex,
            ]),
            covers in (any::<bool>(), any::<bool>(), any::<bool>()),
            parts in prop::array::uniform4(prop::collection::vec(any::<u8>(), 0..40)),
            bit in any::<prop::sample::Index>(),
            digits in any::<bool>(),
        ) {
            let parts = match digits {
                false => parts,
                true => parts.map(|part| part.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()),
            };
            let covers = Covers { start: covers.0, header: covers.1, end: covers.2 };
            let checksum = Checksum { form, covers, digits, ..Checksum::short(kind) };
            let [start, header, payload, end] = &parts;
            let whole: Vec<u8> = [(start, covers.start), (header, covers.header), (payload, true), (end, covers.end)]
                .into_iter()
                .filter(|(_, is_covered)| *is_covered)
                .flat_map(|(part, _)| part.clone())
                .collect();
            let sum = written(&checksum, sum_of(&checksum, &whole));
            prop_assert_eq!(sum.len(), checksum.bytes());
            prop_assert!(checksum.verifies([start, header, payload, end], &sum));
            for at in 0..=whole.len() {
                let (front, back) = whole.split_at(at);
                let state = checksum.update(checksum.update(checksum.begin(), front), back);
                prop_assert!(checksum.is_sum_of(state, &sum), "split at {}", at);
            }
            let mut wrong = sum.clone();
            let bit = bit.index(8 * sum.len());
            wrong[bit / 8] ^= 1 << (bit % 8);
            let is_other_case = form == ChecksumForm::Hex && wrong.eq_ignore_ascii_case(&sum);
            prop_assert_eq!(checksum.verifies([start, header, payload, end], &wrong), is_other_case);
        }
    }
}
