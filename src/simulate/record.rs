//! The text of a simulated record: one fixed format that says who sent it, when it was due, and whether it is whole.
//!
//! ```text
//! R1 machine-0000 17 1767225600000000000 rstuvwxyzabc 5d41402a
//! │  │            │  │                   │            └ CRC-32C of all that precedes these 8 hex digits
//! │  │            │  │                   └ padding, at least 1 letter: letter i is 'a' + (sequence + i) mod 26
//! │  │            │  └ scheduled send time, nanoseconds since 1970, decimal
//! │  │            └ sequence of the source, from 0, decimal
//! │  └ source: no space
//! └ version of this format
//! ```
//! Fields are separated by one space; all is printable ASCII, so that neither CR nor LF ever occurs. The delimiter is not part of it.
//! A record is a pure function of source, sequence, time and length: a verifier can build it again and compare every byte.

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Name of the machine; printable ASCII without a space.
    pub source: &'a str,
    /// Counts the records of the source from 0.
    pub sequence: u64,
    /// When it was due to be sent, nanoseconds since 1970.
    pub scheduled_ns: u64,
}

/// Why a line is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not have the six fields of a record.
    #[error("not of the form \"R1 SOURCE SEQUENCE TIME PADDING CRC\"")]
    Form,
    /// The checksum belongs to other bytes.
    #[error("checksum {found:08x}, but the bytes have {computed:08x}")]
    Checksum {
        /// What the line says.
        found: u32,
        /// CRC-32C of what precedes it.
        computed: u32,
    },
}

const MAGIC: &str = "R1";
const CRC_DIGITS: usize = 8;

/// Appends a record of `bytes` bytes to `buffer`, or of the least length that holds its fields where that is more.
/// Returns the length.
pub fn encode(buffer: &mut Vec<u8>, record: &Record, bytes: usize) -> usize {
    use std::io::Write;
    let start = buffer.len();
    write!(buffer, "{MAGIC} {} {} {} ", record.source, record.sequence, record.scheduled_ns)
        .expect("a Vec takes all bytes");
    let padding = bytes.saturating_sub(buffer.len() - start + 1 + CRC_DIGITS).max(1);
    let first = record.sequence % 26;
    buffer.extend((0..padding as u64).map(|i| b'a' + ((first + i) % 26) as u8));
    buffer.push(b' ');
    let crc = crc32c::crc32c(&buffer[start..]);
    write!(buffer, "{crc:08x}").expect("a Vec takes all bytes");
    buffer.len() - start
}

/// Reads a record and verifies its checksum.
pub fn parse(line: &[u8]) -> Result<Record<'_>, ParseError> {
    let text = std::str::from_utf8(line).map_err(|_| ParseError::Form)?;
    let mut fields = text.split(' ');
    let mut field = || fields.next().filter(|field| !field.is_empty()).ok_or(ParseError::Form);
    let (magic, source, sequence, scheduled, _padding, crc) =
        (field()?, field()?, field()?, field()?, field()?, field()?);
    // A sign would be taken for a part of the number.
    let is_checksum = crc.len() == CRC_DIGITS && crc.bytes().all(|digit| digit.is_ascii_hexdigit());
    if magic != MAGIC || fields.next().is_some() || !is_checksum {
        return Err(ParseError::Form);
    }
    let found = u32::from_str_radix(crc, 16).map_err(|_| ParseError::Form)?;
    let computed = crc32c::crc32c(&line[..line.len() - CRC_DIGITS]);
    if found != computed {
        return Err(ParseError::Checksum { found, computed });
    }
    let number = |text: &str| text.parse().map_err(|_| ParseError::Form);
    Ok(Record { source, sequence: number(sequence)?, scheduled_ns: number(scheduled)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_NS: u64 = 1_767_225_600_000_000_000;

    #[test]
    fn a_record_has_the_length_asked_for() {
        let mut buffer = Vec::new();
        let record = Record { source: "machine-0000", sequence: 17, scheduled_ns: NOW_NS };
        assert_eq!(encode(&mut buffer, &record, 64), 64);
        assert!(buffer.starts_with(b"R1 machine-0000 17 1767225600000000000 rstuvwxyz"));
        buffer.clear();
        assert_eq!(encode(&mut buffer, &record, 1), 49, "the fields and one letter of padding");
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_back(
            source in "[!-~]{1,40}", sequence: u64, scheduled_ns: u64, bytes in 0_usize..300,
        ) {
            let record = Record { source: &source, sequence, scheduled_ns };
            let mut buffer = Vec::new();
            encode(&mut buffer, &record, bytes);
            prop_assert!(buffer.iter().all(|byte| (b' '..=b'~').contains(byte)));
            prop_assert_eq!(parse(&buffer), Ok(record));
        }

        #[test]
        fn one_changed_byte_is_noticed(sequence in 0_u64..100_000, at in 0_usize..64, with: u8) {
            let mut buffer = Vec::new();
            encode(&mut buffer, &Record { source: "machine-0000", sequence, scheduled_ns: NOW_NS }, 64);
            // A hex digit may differ in case alone, which is the same checksum.
            prop_assume!(!buffer[at].eq_ignore_ascii_case(&with));
            buffer[at] = with;
            prop_assert!(parse(&buffer).is_err());
        }

        #[test]
        fn a_sign_is_no_digit_of_a_checksum(sequence in 0_u64..100_000) {
            let mut buffer = Vec::new();
            encode(&mut buffer, &Record { source: "machine-0000", sequence, scheduled_ns: NOW_NS }, 64);
            buffer[56] = b'+';
            prop_assert_eq!(parse(&buffer), Err(ParseError::Form));
        }

        #[test]
        fn every_shorter_line_is_refused(sequence in 0_u64..100_000, end in 0_usize..64) {
            let mut buffer = Vec::new();
            encode(&mut buffer, &Record { source: "machine-0000", sequence, scheduled_ns: NOW_NS }, 64);
            prop_assert!(parse(&buffer[..end]).is_err());
        }
    }
}
