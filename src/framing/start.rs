//! Searching for the start of a frame. What stands before it is garbage: lent out, counted by the caller, forgotten.
//!
//! The last bytes of a chunk may be the first ones of the start. They need not be kept, only counted: they are equal to it.

use super::settings::Framing;
use super::{FrameFlags, Framed, Framer, State, find, is_white, straddle};

impl Framer {
    /// Goes on searching. `None`: the frame has begun (the state says so) and `input` is behind the start; or all of `input`
    /// was taken.
    pub(super) fn hunt<'a, 'i: 'a>(
        &mut self,
        framing: &'a Framing,
        now_ns: u64,
        input: &mut &'i [u8],
    ) -> Option<Framed<'a>> {
        debug_assert_eq!(self.state, State::Between);
        let start = framing.start();
        loop {
            let (held, bytes) = (self.count as usize, *input);
            let (garbage, found) = match straddle(&start[..held], bytes, start) {
                Some(kept) => (held - kept, true),
                None => match find(bytes, start) {
                    Some(at) => (held + at, true),
                    None => (held + bytes.len() - beginning(&start[..held], bytes, start), false),
                },
            };
            if garbage == 0 && found {
                *input = &bytes[start.len() - held..];
                self.count = 0;
                self.begin(now_ns);
                return None;
            }
            if garbage == 0 {
                self.count = (held + bytes.len()) as u32;
                *input = &[];
                return None;
            }
            self.flags = FrameFlags::default(); // whatever was noted concerned these bytes
            let piece: &'a [u8] = if held > 0 {
                let piece = &start[..garbage.min(held)];
                self.count -= piece.len() as u32;
                piece
            } else {
                *input = &bytes[garbage..];
                &bytes[..garbage]
            };
            let framed = garbage_of(framing, piece);
            if framed.is_some() {
                return framed;
            }
        }
    }
}

/// Bytes outside of a frame, unless they are only what trimming takes off.
pub(super) fn garbage_of<'a>(framing: &Framing, bytes: &'a [u8]) -> Option<Framed<'a>> {
    if !framing.trim {
        return Some(Framed::Garbage { bytes, count: bytes.len() });
    }
    let count = bytes.iter().filter(|byte| !is_white(**byte)).count();
    let first = bytes.iter().position(|byte| !is_white(*byte))?;
    Some(Framed::Garbage { bytes: super::trim_end(&bytes[first..]), count })
}

/// How many bytes of `start`, but not all, stand at the end of `held` and `bytes` together.
fn beginning(held: &[u8], bytes: &[u8], start: &[u8]) -> usize {
    let most = (start.len() - 1).min(held.len() + bytes.len());
    let is_end = |&count: &usize| match count.checked_sub(bytes.len()) {
        None | Some(0) => bytes.ends_with(&start[..count]),
        Some(of_held) => held.ends_with(&start[..of_held]) && bytes == &start[of_held..count],
    };
    (1..=most).rev().find(is_end).unwrap_or(0)
}
