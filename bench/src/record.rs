//! The record of the bench: the format of `ringest simulate` at a fixed length, written and read without an allocation.
//!
//! ```text
//! R1 machine-0007 17 1767225600000000000 rstuvwxyzab 5d41402a
//! ```
//! Version, machine, sequence from 0, scheduled time in nanoseconds since 1970, padding, CRC-32C of all before it.

/// Length of a record, without its delimiter.
pub const BYTES: usize = 64;
/// What ends a record on TCP and serial lines.
pub const END: u8 = b'\r';
/// What a record begins with; nothing else in a request does.
pub const START: &[u8] = b"R1 machine-";

const CRC_DIGITS: usize = 8;
const CRC_AT: usize = BYTES - CRC_DIGITS;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Index of the machine.
    pub machine: u32,
    /// Counts the machine's records from 0.
    pub sequence: u64,
    /// When it was due, nanoseconds since 1970.
    pub scheduled_ns: u64,
}

/// Writes a record.
///
/// # Panics
/// If the numbers are too long for the record: a machine of more than 6 digits, or a sequence of more than 11.
pub fn write(out: &mut [u8; BYTES], record: Record) {
    out[..START.len()].copy_from_slice(START);
    let mut at = START.len();
    at += decimal(&mut out[at..], u64::from(record.machine), 4);
    out[at] = b' ';
    at += 1 + decimal(&mut out[at + 1..], record.sequence, 1);
    out[at] = b' ';
    at += 1 + decimal(&mut out[at + 1..], record.scheduled_ns, 1);
    out[at] = b' ';
    at += 1;
    assert!(at < CRC_AT - 1, "no room for padding");
    let mut letter = (record.sequence % 26) as u8;
    for byte in &mut out[at..CRC_AT - 1] {
        *byte = b'a' + letter;
        letter = if letter == 25 { 0 } else { letter + 1 };
    }
    out[CRC_AT - 1] = b' ';
    seal(out);
}

fn seal(out: &mut [u8; BYTES]) {
    let crc = crc32c::crc32c(&out[..CRC_AT]);
    for (i, byte) in out[CRC_AT..].iter_mut().enumerate() {
        *byte = HEX[(crc >> (28 - 4 * i)) as usize & 15];
    }
}

/// Records of one machine that were due at the same time: only their sequence is written anew, with leading zeros. A flood costs less
/// by them than the reader of it.
#[derive(Debug, Clone)]
pub struct Series {
    line: [u8; BYTES],
    sequence_at: usize,
}

impl Series {
    const DIGITS: usize = 9;

    /// # Panics
    /// If the machine's number has more than 6 digits.
    pub fn new(machine: u32, scheduled_ns: u64) -> Self {
        let mut line = [b'z'; BYTES];
        // The highest sequence makes the room; each that is written replaces it.
        write(&mut line, Record { machine, sequence: 10_u64.pow(Self::DIGITS as u32) - 1, scheduled_ns });
        let digits = line[START.len()..].iter().position(|byte| *byte == b' ').expect("behind the machine");
        Self { line, sequence_at: START.len() + digits + 1 }
    }

    /// Writes the record of a sequence, of at most 9 digits.
    pub fn write(&self, out: &mut [u8; BYTES], mut sequence: u64) {
        *out = self.line;
        for digit in out[self.sequence_at..][..Self::DIGITS].iter_mut().rev() {
            *digit = b'0' + (sequence % 10) as u8;
            sequence /= 10;
        }
        seal(out);
    }
}

/// Reads a record from the head of `bytes` and verifies its checksum; `None` if it is none or not whole.
pub fn parse(bytes: &[u8]) -> Option<Record> {
    let record = bytes.get(..BYTES)?;
    let crc = record[CRC_AT..].iter().try_fold(0, |crc, byte| Some(crc << 4 | (*byte as char).to_digit(16)?))?;
    if crc32c::crc32c(&record[..CRC_AT]) != crc {
        return None;
    }
    let rest = record[..CRC_AT].strip_prefix(START)?;
    let (machine, rest) = number(rest)?;
    let (sequence, rest) = number(rest)?;
    let (scheduled_ns, _) = number(rest)?;
    Some(Record { machine: u32::try_from(machine).ok()?, sequence, scheduled_ns })
}

/// Writes `value` with at least `least` digits; how many it wrote.
fn decimal(out: &mut [u8], mut value: u64, least: usize) -> usize {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while value > 0 {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    let digits = &digits[first.min(20 - least)..];
    out[..digits.len()].copy_from_slice(digits);
    digits.len()
}

/// A decimal number, and what follows the space behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b' ' if i > 0 => return Some((value, &bytes[i + 1..])),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringest::simulate::record as theirs;

    const NOW_NS: u64 = 1_767_225_600_000_000_000;

    fn written(machine: u32, sequence: u64) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        write(&mut out, Record { machine, sequence, scheduled_ns: NOW_NS });
        out
    }

    #[test]
    fn it_is_the_record_of_the_simulator_byte_for_byte() {
        for (machine, sequence) in [(0, 0), (7, 17), (9_999, 25), (10_000, 26), (11_999, 1_234_567)] {
            let mut expected = Vec::new();
            let source = ringest::simulate::machine_name(machine as usize);
            let record = theirs::Record { source: &source, sequence, scheduled_ns: NOW_NS };
            theirs::encode(&mut expected, &record, BYTES);
            assert_eq!(written(machine, sequence).escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_series_is_the_records_of_a_machine() {
        for (machine, sequence) in [(0, 0), (999_999, 7), (64, 999_999_999)] {
            let mut out = [0; BYTES];
            Series::new(machine, NOW_NS).write(&mut out, sequence);
            assert_eq!(parse(&out), Some(Record { machine, sequence, scheduled_ns: NOW_NS }));
        }
    }

    #[test]
    fn what_is_written_parses_back_and_one_changed_byte_is_noticed() {
        let bytes = written(321, 98_765);
        assert_eq!(parse(&bytes), Some(Record { machine: 321, sequence: 98_765, scheduled_ns: NOW_NS }));
        assert_eq!(parse(&bytes[..63]), None);
        for at in 0..BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "byte {at}");
        }
    }
}
