//! The marks that a tty puts into its byte stream under PARMRK (termios(3), `INPCK` and `PARMRK`).
//!
//! ```text
//!  ff ff      the byte ff
//!  ff 00 00   a break (or a byte 00 received with an error: the tty does not tell them apart)
//!  ff 00 xx   the byte xx, received with a parity or framing error
//! ```
//! Decoding is in place, needs nothing but what is at hand, and costs one search where no 0xFF occurs. Every mark is
//! shorter when decoded, so the result always fits, wherever the stream was chunked.

/// Decodes the stream of one port; holds an unfinished mark between chunks.
#[derive(Debug, Clone, Default)]
pub struct Parmrk {
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// After ff.
    Escaped,
    /// After ff 00.
    Marked,
}

/// What was seen on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A break; it stands between two bytes.
    Break,
    /// A parity or framing error of one byte, which is kept.
    Error,
}

/// A stretch of decoded bytes with at most one mark, at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many bytes were taken off the front of the input.
    pub taken: usize,
    /// How many decoded bytes now stand at the front of the input.
    pub len: usize,
    /// What ended the run: an error concerns the last of the `len` bytes, a break comes after it. `None`: all was taken.
    pub mark: Option<Mark>,
}

/// A whole chunk, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decoded {
    /// How many decoded bytes now stand at the front of the chunk.
    pub len: usize,
    /// Breaks seen.
    pub breaks: u32,
    /// Bytes received with an error; they are among the decoded ones.
    pub errors: u32,
}

impl Parmrk {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a chunk in place, up to its end.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Decoded {
        let mut decoded = Decoded::default();
        let mut at = 0;
        loop {
            let run = self.decode_run(&mut bytes[at..]);
            if decoded.len != at {
                bytes.copy_within(at..at + run.len, decoded.len);
            }
            decoded.len += run.len;
            at += run.taken;
            match run.mark {
                None => return decoded,
                Some(Mark::Break) => decoded.breaks += 1,
                Some(Mark::Error) => decoded.errors += 1,
            }
        }
    }

    /// Decodes a chunk in place, up to its first mark or its end: for a caller who wants to know which bytes a mark
    /// concerns. The rest of the chunk, from `taken` on, is as it came.
    pub fn decode_run(&mut self, bytes: &mut [u8]) -> Run {
        let (mut read, mut len) = (0, 0);
        loop {
            if self.state == State::Plain {
                let plain = memchr::memchr(0xFF, &bytes[read..]);
                let end = plain.map_or(bytes.len(), |at| read + at);
                if read != len {
                    bytes.copy_within(read..end, len);
                }
                len += end - read;
                read = end;
                if plain.is_some() {
                    read += 1;
                    self.state = State::Escaped;
                }
            }
            let Some(&byte) = bytes.get(read) else { return Run { taken: read, len, mark: None } };
            read += 1;
            let mark = match (self.state, byte) {
                (State::Escaped, 0) => {
                    self.state = State::Marked;
                    continue;
                }
                (State::Escaped, 0xFF) => None,
                (State::Marked, 0) => Some(Mark::Break),
                // An ff that is neither doubled nor a mark: the tty never sends it; a byte of it is lost, so it is an error.
                (State::Escaped | State::Marked, _) => Some(Mark::Error),
                (State::Plain, _) => unreachable!("the plain stretch goes up to the end or to an ff"),
            };
            self.state = State::Plain;
            if mark != Some(Mark::Break) {
                bytes[len] = byte;
                len += 1;
            }
            if mark.is_some() {
                return Run { taken: read, len, mark };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Item {
        Byte(u8),
        Broken(u8),
        Break,
    }

    fn encode(items: &[Item]) -> (Vec<u8>, Vec<u8>, Decoded) {
        let (mut line, mut plain, mut counts) = (Vec::new(), Vec::new(), Decoded::default());
        for item in items {
            match *item {
                Item::Byte(0xFF) => line.extend([0xFF, 0xFF]),
                Item::Byte(byte) => line.push(byte),
                Item::Broken(byte) => line.extend([0xFF, 0, byte]),
                Item::Break => line.extend([0xFF, 0, 0]),
            }
            match *item {
                Item::Byte(byte) | Item::Broken(byte) => plain.push(byte),
                Item::Break => counts.breaks += 1,
            }
            counts.errors += u32::from(matches!(item, Item::Broken(_)));
        }
        counts.len = plain.len();
        (line, plain, counts)
    }

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Decoded) {
        let mut parmrk = Parmrk::new();
        let (mut plain, mut sum) = (Vec::new(), Decoded::default());
        for chunk in chunks {
            let mut chunk = chunk.to_vec();
            let decoded = parmrk.decode(&mut chunk);
            plain.extend(&chunk[..decoded.len]);
            sum.len += decoded.len;
            sum.breaks += decoded.breaks;
            sum.errors += decoded.errors;
        }
        assert_eq!(parmrk.state, State::Plain);
        (plain, sum)
    }

    #[test]
    fn every_split_of_every_kind_of_mark_decodes_the_same() {
        let items: Vec<Item> = (0..=255)
            .map(Item::Byte)
            .chain((1..=255).map(Item::Broken))
            .chain([Item::Break, Item::Byte(0), Item::Break, Item::Byte(0xFF), Item::Byte(0xFF), Item::Byte(0)])
            .collect();
        let (line, plain, counts) = encode(&items);
        assert_eq!(counts, Decoded { len: plain.len(), breaks: 2, errors: 255 });
        for at in 0..=line.len() {
            let (front, back) = line.split_at(at);
            assert_eq!(decode([front, back]), (plain.clone(), counts), "split at {at}");
        }
        for bytes in 1..8 {
            assert_eq!(decode(line.chunks(bytes)), (plain.clone(), counts), "chunks of {bytes}");
        }
    }

    #[test]
    fn a_run_ends_at_the_byte_that_its_mark_concerns() {
        let mut parmrk = Parmrk::new();
        let mut bytes = *b"ab\xff\xffc\xff\0xyz\xff\0\0w\xff";
        let first = parmrk.decode_run(&mut bytes);
        assert_eq!(first, Run { taken: 8, len: 5, mark: Some(Mark::Error) });
        assert_eq!(&bytes[..5], b"ab\xffcx");
        let second = parmrk.decode_run(&mut bytes[8..]);
        assert_eq!(second, Run { taken: 5, len: 2, mark: Some(Mark::Break) });
        let third = parmrk.decode_run(&mut bytes[13..]);
        assert_eq!(third, Run { taken: 2, len: 1, mark: None });
        assert_eq!(parmrk.decode_run(&mut [0xFF]), Run { taken: 1, len: 1, mark: None });
    }

    #[test]
    fn an_ff_that_is_no_mark_is_an_error_and_the_next_byte_is_kept() {
        for chunks in [&[&b"a\xffb"[..]][..], &[b"a\xff", b"b"]] {
            assert_eq!(decode(chunks.iter().copied()), (b"ab".to_vec(), Decoded { len: 2, breaks: 0, errors: 1 }));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_stream_in_any_chunks_decodes_to_what_was_on_the_line(
            items in prop::collection::vec(
                prop_oneof![
                    4 => any::<u8>().prop_map(Item::Byte),
                    2 => prop::sample::select(vec![0, 0xFF]).prop_map(Item::Byte),
                    1 => (1..=255u8).prop_map(Item::Broken),
                    1 => Just(Item::Break),
                ],
                0..200,
            ),
            bytes in 1usize..50,
        ) {
            let (line, plain, counts) = encode(&items);
            prop_assert_eq!(decode(line.chunks(bytes)), (plain, counts));
        }
    }
}
