//! The chunked transfer coding (RFC 9112 section 7.1), decoded as it comes in; data is passed on without a copy.
//!
//! ```text
//! 5;name=value CRLF   size in hexadecimal, at most 16 digits; extensions are dropped, at most 4 KiB of them in a message
//! hello CRLF
//! 0 CRLF
//! Name: value CRLF    trailer fields are checked and dropped, at most 8 KiB of them; they never change the framing
//! CRLF
//! ```

use super::fields::{is_token_byte, is_value_byte};

/// Chunk extensions of one message, in bytes.
const EXTENSION_BYTES_MAX: u16 = 4096;
/// Trailer section of one message, in bytes, without its last CRLF.
const TRAILER_BYTES_MAX: u16 = 8192;
/// Digits of a chunk's size.
const SIZE_DIGITS_MAX: u8 = 16;

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// No hexadecimal number where a chunk's size belongs.
    #[error("the chunk size is not a hexadecimal number")]
    Size,
    /// More than 16 digits.
    #[error("the chunk size has more than 16 digits")]
    SizeDigits,
    /// A chunk-size line must end in CRLF.
    #[error("the chunk-size line does not end in CRLF")]
    SizeLineEnd,
    /// A control character, or a bare CR or LF.
    #[error("a chunk extension holds a control character")]
    Extension,
    /// More than 4 KiB in all.
    #[error("the chunk extensions are over 4 KiB")]
    ExtensionBytes,
    /// Chunk data must be followed by CRLF.
    #[error("the chunk data is not followed by CRLF")]
    DataEnd,
    /// Not `name: value` CRLF.
    #[error("a trailer field is malformed")]
    Trailer,
    /// More than 8 KiB in all.
    #[error("the trailers are over 8 KiB")]
    TrailerBytes,
}

/// The next thing in a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk<'a> {
    /// The input is used up.
    More,
    /// Decoded bytes, at least one.
    Data(&'a [u8]),
    /// The body and its trailers are whole.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// White space after the size, which only a `;` may follow.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Decodes one chunked body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder {
    /// Of the size being read, then the bytes of data still to come.
    size: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
    digits: u8,
    state: State,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { size: 0, extension_bytes: 0, trailer_bytes: 0, digits: 0, state: State::Size }
    }

    /// Takes bytes from the front of `input` up to the next data, the end, or the end of the input. Not to be called after
    /// [`Chunk::End`] or an error.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Chunk<'a>, ChunkFault> {
        loop {
            if self.state == State::Data {
                if input.is_empty() {
                    return Ok(Chunk::More);
                }
                let taken = usize::try_from(self.size).map_or(input.len(), |size| size.min(input.len()));
                let (data, rest) = input.split_at(taken);
                *input = rest;
                self.size -= taken as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Chunk::Data(data));
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(Chunk::More) };
            *input = rest;
            if self.state == State::EndLf {
                return if byte == b'\n' { Ok(Chunk::End) } else { Err(ChunkFault::Trailer) };
            }
            self.state = self.after(byte)?;
        }
    }

    /// The state after one byte outside of data.
    fn after(&mut self, byte: u8) -> Result<State, ChunkFault> {
        match self.state {
            State::Size => self.after_size(byte),
            State::SizeSpace | State::Extension => self.after_extension(byte),
            State::SizeLf if byte != b'\n' && self.extension_bytes > 0 => Err(ChunkFault::Extension),
            State::SizeLf if byte != b'\n' => Err(ChunkFault::SizeLineEnd),
            State::SizeLf => {
                self.digits = 0;
                Ok(if self.size == 0 { State::TrailerStart } else { State::Data })
            }
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size),
            State::DataCr | State::DataLf => Err(ChunkFault::DataEnd),
            _ => self.after_trailer(byte),
        }
    }

    fn after_size(&mut self, byte: u8) -> Result<State, ChunkFault> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if self.digits == SIZE_DIGITS_MAX {
                return Err(ChunkFault::SizeDigits);
            }
            self.size = self.size << 4 | u64::from(digit);
            self.digits += 1;
            return Ok(State::Size);
        }
        match byte {
            _ if self.digits == 0 => Err(ChunkFault::Size),
            b'\r' => Ok(State::SizeLf),
            b'\n' => Err(ChunkFault::SizeLineEnd),
            b';' | b' ' | b'\t' => self.after_extension(byte),
            _ => Err(ChunkFault::Size),
        }
    }

    fn after_extension(&mut self, byte: u8) -> Result<State, ChunkFault> {
        if byte == b'\r' && self.state == State::Extension {
            return Ok(State::SizeLf);
        }
        if !is_value_byte(byte) {
            return Err(ChunkFault::Extension);
        }
        if self.extension_bytes == EXTENSION_BYTES_MAX {
            return Err(ChunkFault::ExtensionBytes);
        }
        self.extension_bytes += 1;
        match (self.state, byte) {
            (State::Extension, _) | (_, b';') => Ok(State::Extension),
            (_, b' ' | b'\t') => Ok(State::SizeSpace),
            _ => Err(ChunkFault::Size),
        }
    }

    fn after_trailer(&mut self, byte: u8) -> Result<State, ChunkFault> {
        if self.state == State::TrailerStart && byte == b'\r' {
            return Ok(State::EndLf);
        }
        if self.trailer_bytes == TRAILER_BYTES_MAX {
            return Err(ChunkFault::TrailerBytes);
        }
        self.trailer_bytes += 1;
        match (self.state, byte) {
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(ChunkFault::Trailer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), ChunkFault> {
        let mut decoder = Decoder::new();
        let mut data = Vec::new();
        let mut left = 0;
        let mut ended = false;
        for piece in pieces {
            let mut input = *piece;
            while !ended {
                match decoder.next(&mut input)? {
                    Chunk::More => break,
                    Chunk::Data(bytes) => data.extend_from_slice(bytes),
                    Chunk::End => ended = true,
                }
            }
            left += input.len();
        }
        Ok((data, ended, left))
    }

    #[test]
    fn every_split_gives_the_same_body_and_leaves_what_follows() {
        let wire = b"5;a=b\r\nhello\r\n00a \t;c\r\n0123456789\r\n0\r\nX-Sum: \xff 1\r\nY:\r\n\r\nPOST";
        for split in 0..=wire.len() {
            let (first, second) = wire.split_at(split);
            assert_eq!(decode(&[first, second]), Ok((b"hello0123456789".to_vec(), true, 4)), "split at {split}");
        }
    }

    #[test]
    fn a_size_of_sixteen_digits_is_a_size_and_seventeen_are_not() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.next(&mut b"ffffffffffffffff\r\nx".as_slice()), Ok(Chunk::Data(b"x")));
        assert_eq!(decoder.size, u64::MAX - 1);
        assert_eq!(decode(&[b"00000000000000005\r\n"]), Err(ChunkFault::SizeDigits));
    }

    #[test]
    fn limits_count_over_the_whole_message() {
        let chunk = |extension: usize| [b"1;".as_slice(), &vec![b'e'; extension - 1], b"\r\nx\r\n"].concat();
        assert!(decode(&[&chunk(2048), &chunk(2048), b"0\r\n\r\n"]).is_ok());
        assert_eq!(decode(&[&chunk(2048), &chunk(2049)]), Err(ChunkFault::ExtensionBytes));
        let trailer = |bytes: usize| [b"0\r\nT:".as_slice(), &vec![b't'; bytes - 4], b"\r\n\r\n"].concat();
        assert!(decode(&[&trailer(8192)]).is_ok());
        assert_eq!(decode(&[&trailer(8193)]), Err(ChunkFault::TrailerBytes));
    }
}
