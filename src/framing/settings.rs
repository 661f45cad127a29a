//! How a byte stream is to be cut: what `[framing.NAME]` says, checked.

use std::time::Duration;

/// The largest record of any source, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// `[framing.NAME]`: how a byte stream is cut into records.
#[derive(Debug, Clone, PartialEq)]
pub struct Framing {
    /// How the end of a record is found.
    pub kind: FramingKind,
    /// A record follows these bytes, which are not part of it; what stands before them is garbage. Empty: one record follows
    /// the other.
    pub start: Vec<u8>,
    /// What verifies a record; it follows the end, or the last byte where there is none.
    pub checksum: Checksum,
    /// Silence that ends an unfinished record.
    pub idle: Option<Idle>,
    /// Strip a leading LF and trailing white space.
    pub trim: bool,
    /// Longest record in bytes, without start, end and checksum; at most [`RECORD_BYTES_MAX`].
    pub max_bytes: usize,
    /// What is done with a longer one.
    pub oversized: Oversized,
}

/// How the end of a record is found.
#[derive(Debug, Clone, PartialEq)]
pub enum FramingKind {
    /// A record ends at these bytes (one or more), which are not part of it.
    Delimiter {
        /// The bytes; never empty.
        end: Vec<u8>,
    },
    /// A number in front of a record says how long it is.
    Length(LengthField),
    /// Every record has the same length.
    Fixed {
        /// That length, 1 to `max_bytes`.
        bytes: usize,
    },
    /// A record ends when nothing comes for the time of [`Framing::idle`], which is there.
    IdleGap,
}

/// Where the length of a message stands, and what it counts. A message is: start, header up to the end of this field,
/// payload, checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthField {
    /// Where it begins, from the first byte of the message; at least the length of the start.
    pub offset: usize,
    /// Its own width: 1, 2 or 4.
    pub bytes: usize,
    /// Order of its bytes.
    pub endian: Endian,
    /// What it counts.
    pub counts: LengthCounts,
    /// Whether the header is part of the record.
    pub keep_header: bool,
}

/// Order of the bytes of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// The most significant byte first.
    Big,
    /// The least significant byte first.
    Little,
}

/// What a length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthCounts {
    /// The bytes behind the length, without the checksum.
    Payload,
    /// All bytes behind the length.
    Rest,
    /// All bytes of the message, its start and the length itself included.
    Message,
}

/// What verifies a record: covers all bytes between start and end, untrimmed; binary, least significant byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    None,
    /// One byte: the sum of all bytes, modulo 256.
    Sum8,
    /// One byte: the exclusive or of all bytes.
    Xor8,
    /// Two bytes: the CRC of MODBUS over Serial Line V1.02, section 6.2.2.
    Crc16Modbus,
    /// Four bytes: the CRC of IEEE 802.3, as in zlib and Ethernet.
    Crc32,
}

/// Silence that ends an unfinished record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// So long without a byte.
    pub gap: Duration,
    /// What becomes of the record; [`OnIdle::Emit`] where the gap alone ends records.
    pub policy: OnIdle,
}

/// What becomes of a record that silence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnIdle {
    /// It is rejected.
    Discard,
    /// It is delivered, flagged.
    Emit,
}

/// What is done with a record longer than `max_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// Deliver the first `max_bytes`, flagged; discard up to the next end.
    Cut,
    /// Discard all of it and count it as rejected.
    Drop,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            kind: FramingKind::Delimiter { end: b"\r".to_vec() },
            start: Vec::new(),
            checksum: Checksum::None,
            idle: None,
            trim: true,
            max_bytes: 4096,
            oversized: Oversized::Cut,
        }
    }
}
