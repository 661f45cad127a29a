//! The content coding gzip (RFC 1952, RFC 1951), unpacked as it comes in, so that what it unpacks to is never held beyond its bound.
//!
//! ```text
//! member   1f 8b 08 flags u8   time u32   extra flags u8   system u8
//!          flag 4: length u16, bytes …   flag 8: name, 0   flag 16: comment, 0   flag 2: low half of the header's CRC-32 u16
//!          deflated bytes …
//!          CRC-32 u32, bytes unpacked modulo 2^32 u32
//! stream   one member or more, and nothing else
//! ```

use super::fields::append_bounded;
use flate2::{Crc, Decompress, FlushDecompress, Status};

/// What is unpacked at once: the whole window of deflate, so that no piece hides another one's damage.
const PIECE_BYTES: usize = 32 * 1024 + 1;
/// Memory of an unpacker: its state with the window, and what else an allocation costs, about.
pub(super) const UNPACKER_BYTES: usize = 48 * 1024;

const FLAG_HEADER_CRC: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const FLAGS_RESERVED: u8 = 0xE0;

/// What is wrong with a packed body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GzipFault {
    /// It does not begin with a member's header.
    #[error("no gzip header")]
    Header,
    /// What follows the header is not deflated.
    #[error("damaged deflated bytes")]
    Deflate,
    /// CRC or length of what was unpacked, or of a header, differ.
    #[error("a checksum or length that does not match")]
    Sum,
    /// Something else follows the last member.
    #[error("bytes behind the end")]
    Trailing,
    /// It ends inside of a member.
    #[error("an end inside of the stream")]
    Cut,
    /// It unpacks to more than is allowed.
    #[error("more bytes than allowed")]
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first ten bytes of a header, so many of which have come.
    Fixed(u8),
    ExtraLength(u8),
    Extra(u16),
    Name,
    Comment,
    HeaderCrc(u8),
    Deflate,
    /// CRC and length, so many bytes of which have come.
    Trailer(u8),
    /// Behind a member.
    Between,
}

/// Unpacks one body.
#[derive(Debug)]
pub(super) struct Unpacker {
    state: State,
    flags: u8,
    /// The number that is being read, its first byte lowest.
    number: u64,
    has_member: bool,
    /// Of the header, then of what was unpacked of this member.
    crc: Crc,
    inflate: Decompress,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self {
            state: State::Fixed(0),
            flags: 0,
            number: 0,
            has_member: false,
            crc: Crc::new(),
            inflate: Decompress::new(false),
        }
    }

    /// Unpacks all of `input` behind what `output` holds, which never gets more than `max_bytes` long. What is found depends on
    /// the bytes alone, not on the pieces they come in.
    pub(super) fn unpack(&mut self, mut input: &[u8], output: &mut Vec<u8>, max_bytes: usize) -> Result<(), GzipFault> {
        while !input.is_empty() {
            if self.state == State::Deflate {
                self.inflate(&mut input, output, max_bytes)?;
                continue;
            }
            self.state = self.after(input[0])?;
            input = &input[1..];
        }
        Ok(())
    }

    /// The body ends here.
    pub(super) fn finish(&self) -> Result<(), GzipFault> {
        if self.state == State::Between { Ok(()) } else { Err(GzipFault::Cut) }
    }

    /// Unpacks what lies in `input`, up to the end of the deflated bytes.
    fn inflate(&mut self, input: &mut &[u8], output: &mut Vec<u8>, max_bytes: usize) -> Result<(), GzipFault> {
        loop {
            let room = max_bytes.saturating_sub(output.len());
            let mut piece = [0; PIECE_BYTES];
            let piece = &mut piece[..PIECE_BYTES.min(room + 1)];
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress(input, piece, FlushDecompress::None);
            let taken = (self.inflate.total_in() - before_in) as usize;
            let made = (self.inflate.total_out() - before_out) as usize;
            // Too much is told before damage behind it: a body that comes in other pieces ends there.
            if made > room {
                return Err(GzipFault::TooLarge);
            }
            self.crc.update(&piece[..made]);
            append_bounded(output, &piece[..made], max_bytes);
            *input = &input[taken..];
            match result {
                Err(_) => return Err(GzipFault::Deflate),
                Ok(Status::StreamEnd) => {
                    (self.state, self.number) = (State::Trailer(0), 0);
                    return Ok(());
                }
                // A piece that is not full says that nothing more can be made of the input.
                Ok(_) if made < piece.len() && input.is_empty() => return Ok(()),
                Ok(_) if made == 0 && taken == 0 => return Err(GzipFault::Deflate),
                Ok(_) => {}
            }
        }
    }

    /// The state after one byte that is not deflated.
    fn after(&mut self, byte: u8) -> Result<State, GzipFault> {
        if self.state == State::Between {
            (self.state, self.number) = (State::Fixed(0), 0);
            self.crc.reset();
            self.inflate.reset(false);
        }
        if !matches!(self.state, State::HeaderCrc(_) | State::Trailer(_)) {
            self.crc.update(&[byte]);
        }
        match self.state {
            State::Fixed(at) => self.after_fixed(at, byte),
            State::ExtraLength(0) => {
                self.number = byte.into();
                Ok(State::ExtraLength(1))
            }
            State::ExtraLength(_) => match self.number as u16 | u16::from(byte) << 8 {
                0 => Ok(self.behind(FLAG_EXTRA)),
                bytes => Ok(State::Extra(bytes)),
            },
            State::Extra(1) => Ok(self.behind(FLAG_EXTRA)),
            State::Extra(left) => Ok(State::Extra(left - 1)),
            State::Name if byte == 0 => Ok(self.behind(FLAG_NAME)),
            State::Comment if byte == 0 => Ok(self.behind(FLAG_COMMENT)),
            State::Name | State::Comment => Ok(self.state),
            State::HeaderCrc(0) => {
                self.number = byte.into();
                Ok(State::HeaderCrc(1))
            }
            State::HeaderCrc(_) if self.number as u16 | u16::from(byte) << 8 != self.crc.sum() as u16 => {
                Err(GzipFault::Sum)
            }
            State::HeaderCrc(_) => Ok(self.behind(FLAG_HEADER_CRC)),
            State::Trailer(at) => self.after_trailer(at, byte),
            State::Deflate | State::Between => unreachable!("not read byte by byte"),
        }
    }

    fn after_fixed(&mut self, at: u8, byte: u8) -> Result<State, GzipFault> {
        let is_right = match at {
            0 => byte == 0x1F,
            1 => byte == 0x8B,
            2 => byte == 8,
            3 => byte & FLAGS_RESERVED == 0,
            _ => true,
        };
        if !is_right {
            return Err(if self.has_member { GzipFault::Trailing } else { GzipFault::Header });
        }
        if at == 3 {
            self.flags = byte;
        }
        Ok(if at == 9 { self.behind(0) } else { State::Fixed(at + 1) })
    }

    /// What follows a part of the header: the next one that its flags name.
    fn behind(&mut self, part: u8) -> State {
        let parts = [
            (FLAG_EXTRA, State::ExtraLength(0)),
            (FLAG_NAME, State::Name),
            (FLAG_COMMENT, State::Comment),
            (FLAG_HEADER_CRC, State::HeaderCrc(0)),
        ];
        let done = parts.iter().position(|(flag, _)| *flag == part).map_or(0, |index| index + 1);
        let next = parts[done..].iter().find(|(flag, _)| self.flags & flag != 0);
        next.map_or_else(
            || {
                self.crc.reset();
                State::Deflate
            },
            |(_, state)| *state,
        )
    }

    fn after_trailer(&mut self, at: u8, byte: u8) -> Result<State, GzipFault> {
        self.number |= u64::from(byte) << (8 * at);
        if at < 7 {
            return Ok(State::Trailer(at + 1));
        }
        // `Crc` counts what it was given, modulo 2^32, as the member does.
        if self.number != u64::from(self.crc.sum()) | u64::from(self.crc.amount()) << 32 {
            return Err(GzipFault::Sum);
        }
        self.has_member = true;
        Ok(State::Between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder};
    use std::io::Write;

    fn pack(data: &[u8]) -> Vec<u8> {
        let mut writer = GzBuilder::new().write(Vec::new(), Compression::best());
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    fn unpack(packed: &[u8], piece_bytes: usize, max_bytes: usize) -> Result<Vec<u8>, GzipFault> {
        let (mut unpacker, mut output) = (Unpacker::new(), Vec::new());
        for piece in packed.chunks(piece_bytes) {
            unpacker.unpack(piece, &mut output, max_bytes)?;
            assert!(output.len() <= max_bytes && output.capacity() <= max_bytes);
        }
        unpacker.finish().map(|()| output)
    }

    /// In pieces of all sizes, with one outcome.
    fn outcome(packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, GzipFault> {
        let whole = unpack(packed, packed.len().max(1), max_bytes);
        for piece_bytes in [1, 2, 3, 7, 64, 1000] {
            assert_eq!(unpack(packed, piece_bytes, max_bytes), whole, "pieces of {piece_bytes} bytes");
        }
        whole
    }

    #[test]
    fn what_was_packed_comes_out_again() {
        let noise: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for data in [b"".as_slice(), b"hello", &[b'x'; 60_000], &noise[..40_000]] {
            assert_eq!(outcome(&pack(data), 65_536).as_deref(), Ok(data));
        }
    }

    #[test]
    fn every_part_of_a_header_is_read() {
        for (extra, name, comment) in
            [(true, true, true), (true, false, false), (false, true, false), (false, false, true)]
        {
            let mut builder = GzBuilder::new();
            if extra {
                builder = builder.extra(vec![0, 1, 2, 0x1F, 0x8B]);
            }
            if name {
                builder = builder.filename("a.json");
            }
            if comment {
                builder = builder.comment("of press 4");
            }
            let mut writer = builder.write(Vec::new(), Compression::best());
            writer.write_all(b"hello").unwrap();
            let packed = writer.finish().unwrap();
            assert_eq!(outcome(&packed, 100).as_deref(), Ok(b"hello".as_slice()));
            // With the checksum of the header, which comes last in it.
            let end = packed.len() - pack(b"hello").len() + 10;
            let mut summed = packed[..end].to_vec();
            summed[3] |= FLAG_HEADER_CRC;
            let mut crc = Crc::new();
            crc.update(&summed);
            summed.extend((crc.sum() as u16).to_le_bytes());
            summed.extend(&packed[end..]);
            assert_eq!(outcome(&summed, 100).as_deref(), Ok(b"hello".as_slice()));
            summed[end] ^= 1;
            assert_eq!(outcome(&summed, 100), Err(GzipFault::Sum));
        }
    }

    #[test]
    fn several_members_are_one_stream_and_anything_else_behind_them_is_not() {
        let both = [pack(b"hello "), pack(b""), pack(b"world")].concat();
        assert_eq!(outcome(&both, 100).as_deref(), Ok(b"hello world".as_slice()));
        for garbage in [b"\0".as_slice(), b"\n", b"\x1f", b"\x1f\x8c", b"hello"] {
            let cut = garbage == b"\x1f";
            let fault = if cut { GzipFault::Cut } else { GzipFault::Trailing };
            assert_eq!(outcome(&[&both, garbage].concat(), 100), Err(fault));
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let packed = pack(b"hello hello hello, said the press to the gauge");
        for cut in 0..packed.len() {
            assert_eq!(outcome(&packed[..cut], 100), Err(GzipFault::Cut), "cut at {cut}");
        }
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x20;
            // Time, level, system: anything is right; and so are the bits that fill up the last deflated byte.
            let is_free = (4..10).contains(&at) || at == packed.len() - 9;
            assert_eq!(outcome(&changed, 100).is_ok(), is_free, "byte {at}");
        }
        assert_eq!(outcome(b"hello", 100), Err(GzipFault::Header));
    }

    #[test]
    fn a_bomb_ends_at_the_bound_whatever_follows_it() {
        let bomb = pack(&vec![0; 50 << 20]);
        assert!(bomb.len() < 60_000);
        assert_eq!(unpack(&bomb, bomb.len(), 65_536), Err(GzipFault::TooLarge));
        assert_eq!(unpack(&bomb, 1, 65_536), Err(GzipFault::TooLarge));
        let packed = pack(&[b'x'; 1000]);
        assert_eq!(outcome(&packed, 1000).map(|data| data.len()), Ok(1000));
        assert_eq!(outcome(&packed, 999), Err(GzipFault::TooLarge));
        // Damage behind the bound is not reached, however large the pieces are.
        let mut damaged = pack(&(0..60_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        let end = damaged.len() - 9;
        damaged[end] ^= 0xFF;
        for max_bytes in [100, 30_000, 65_536] {
            assert_eq!(outcome(&damaged, max_bytes), Err(GzipFault::TooLarge));
        }
    }
}
