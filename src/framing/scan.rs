//! Finding starts, ends and escapes in a window of bytes.

use super::settings::{Escape, Framing, FramingKind};

/// DLE of ISO 646: what an [`Escape::Dle`] begins with.
const DLE: u8 = 0x10;
/// ESC of RFC 1055, and what may follow it.
const SLIP_ESC: u8 = 0xDB;
const SLIP_ESC_END: u8 = 0xDC;
const SLIP_ESC_ESC: u8 = 0xDD;

/// What ends the payload of a frame; positions in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    End {
        at: usize,
        to: usize,
    },
    /// A start inside of the frame.
    Start {
        at: usize,
    },
    /// An escape that means nothing.
    Bad {
        at: usize,
    },
}

/// Where `end` begins in `bytes`; nowhere if it is empty.
pub(super) fn find(bytes: &[u8], end: &[u8]) -> Option<usize> {
    match end {
        [] => None,
        [byte] => memchr::memchr(*byte, bytes),
        _ => memchr::memmem::find(bytes, end),
    }
}

/// A delimiter that begins in the tail and ends in `input`: how many of its bytes are in the tail.
pub(super) fn straddle(tail: &[u8], input: &[u8], end: &[u8]) -> Option<usize> {
    (1..end.len())
        .rev()
        .find(|&kept| kept <= tail.len() && tail.ends_with(&end[..kept]) && input.starts_with(&end[kept..]))
}

/// Begin and end of that of `needles` which is whole first: it begins at `base` or later, and its last byte is at `from` or
/// later. Of two that end at the same byte it is the longer one. So nothing depends on what has not come yet.
pub(super) fn first_whole(needles: &[Vec<u8>], window: &[u8], base: usize, from: usize) -> Option<(usize, usize)> {
    if let [only] = needles {
        let from = base.max((from + 1).saturating_sub(only.len()));
        let at = from + find(window.get(from..)?, only)?;
        return Some((at, at + only.len()));
    }
    (from.max(base)..window.len()).find_map(|last| {
        let whole = |needle: &&Vec<u8>| {
            needle.last() == Some(&window[last]) && needle.len() <= last + 1 - base && window[..=last].ends_with(needle)
        };
        let bytes = needles.iter().filter(whole).map(Vec::len).max()?;
        Some((last + 1 - bytes, last + 1))
    })
}

/// How many of the last bytes of a window may be the first ones of a needle.
pub(super) fn beginning(needles: &[Vec<u8>], window: &[u8]) -> usize {
    let most = |needle: &Vec<u8>| {
        let possible = (1..needle.len().min(window.len() + 1)).rev();
        possible.into_iter().find(|&bytes| window.ends_with(&needle[..bytes])).unwrap_or(0)
    };
    needles.iter().map(most).max().unwrap_or(0)
}

/// How many DLEs stand directly before a place.
pub(super) fn dles_before(window: &[u8], at: usize) -> usize {
    window[..at].iter().rev().take_while(|byte| **byte == DLE).count()
}

/// Where the payload of a frame stops that begins at `base`. `from`: where the look before has stopped. `unit`: see
/// [`Framing::unit_bytes`]. The error is where the next one goes on.
pub(super) fn stop(framing: &Framing, unit: usize, window: &[u8], base: usize, from: usize) -> Result<Stop, usize> {
    let ends: &[Vec<u8>] = if let FramingKind::Delimiter { ends } = &framing.kind { ends } else { &[] };
    if let Some(escape) = framing.escape {
        let restarts = framing.restart || escape == Escape::Dle;
        let starts: &[Vec<u8>] = if restarts { &framing.starts } else { &[] };
        return stop_escaped(escape, ends, starts, window, from.max(base));
    }
    // The start first: of many frames in one window each looks no further than to the next one.
    let start = if framing.restart { first_whole(&framing.starts, window, base, from) } else { None };
    let before = &window[..start.map_or(window.len(), |(_, to)| to)];
    let mut end = first_whole(ends, before, base, from);
    while let Some((at, _)) = end.filter(|(at, _)| !(at - base).is_multiple_of(unit)) {
        // The second half of one character and the first half of the next.
        end = first_whole(ends, before, at + 1, at + 1);
    }
    match (start, end) {
        (_, Some((at, to))) => Ok(Stop::End { at, to }),
        (Some((at, _)), None) => Ok(Stop::Start { at }),
        (None, None) => Err(window.len()),
    }
}

fn stop_escaped(
    escape: Escape,
    ends: &[Vec<u8>],
    starts: &[Vec<u8>],
    window: &[u8],
    from: usize,
) -> Result<Stop, usize> {
    let esc = if escape == Escape::Dle { DLE } else { SLIP_ESC };
    let is_first = |byte: u8| byte == esc || ends.iter().chain(starts).any(|it| it.first() == Some(&byte));
    let mut at = from;
    while let Some(more) = window[at..].iter().position(|byte| is_first(*byte)) {
        at += more;
        let rest = &window[at..];
        if rest[0] == esc {
            match (escape, rest.get(1)) {
                (_, None) => return Err(at),
                (Escape::Dle, Some(&DLE)) | (Escape::Slip, Some(&(SLIP_ESC_END | SLIP_ESC_ESC))) => {
                    at += 2;
                    continue;
                }
                (Escape::Dle | Escape::Slip, Some(_)) => {}
            }
        }
        if let Some(end) = ends.iter().find(|end| rest.starts_with(end)) {
            return Ok(Stop::End { at, to: at + end.len() });
        }
        if starts.iter().any(|start| rest.starts_with(start)) {
            return Ok(Stop::Start { at });
        }
        if ends.iter().chain(starts).any(|it| it.starts_with(rest)) {
            return Err(at);
        }
        if rest[0] == esc {
            return Ok(Stop::Bad { at });
        }
        at += 1;
    }
    Err(window.len())
}

/// What the bytes of a payload mean; `None` if they mean themselves. All its escapes are known ones.
pub(super) fn unescaped(escape: Option<Escape>, payload: &[u8]) -> Option<Vec<u8>> {
    let escape = escape?;
    let esc = if escape == Escape::Dle { DLE } else { SLIP_ESC };
    let mut at = memchr::memchr(esc, payload)?;
    let mut bytes = payload[..at].to_vec();
    while let Some(&byte) = payload.get(at) {
        let meant = match (byte == esc, payload.get(at + 1)) {
            (true, Some(&SLIP_ESC_END)) if escape == Escape::Slip => 0xC0,
            (true, Some(_)) => esc,
            (true, None) | (false, _) => byte,
        };
        at += if byte == esc { 2 } else { 1 };
        bytes.push(meant);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(needles: &[&[u8]]) -> Vec<Vec<u8>> {
        needles.iter().map(|needle| needle.to_vec()).collect()
    }

    #[test]
    fn the_needle_that_is_whole_first_is_found_and_the_longer_of_two() {
        let needles = list(&[b"\r\n", b"\n", b"END"]);
        assert_eq!(first_whole(&needles, b"ab\r\ncd", 0, 0), Some((2, 4)));
        assert_eq!(first_whole(&needles, b"ab\ncd", 0, 0), Some((2, 3)));
        assert_eq!(first_whole(&needles, b"abENDcd\n", 0, 0), Some((2, 5)));
        assert_eq!(first_whole(&needles, b"abENDcd\n", 0, 5), Some((7, 8)));
        assert_eq!(first_whole(&needles, b"abENDcd", 3, 0), None);
        assert_eq!(first_whole(&list(&[b"aa"]), b"baaa", 2, 0), Some((2, 4)));
        assert_eq!(first_whole(&[], b"baaa", 0, 0), None);
    }

    #[test]
    fn what_may_be_the_beginning_of_a_needle_is_known() {
        assert_eq!(beginning(&list(&[b"aab"]), b"xaa"), 2);
        assert_eq!(beginning(&list(&[b"aab"]), b"xaab"), 0);
        assert_eq!(beginning(&list(&[b"aab", b"ab"]), b"a"), 1);
        assert_eq!(beginning(&list(&[b"a"]), b"a"), 0);
    }

    #[test]
    fn escapes_are_told_from_ends_and_mean_what_they_say() {
        let dle = |bytes: &[u8]| stop_escaped(Escape::Dle, &list(&[b"\x10\x03"]), &list(&[b"\x10\x02"]), bytes, 0);
        assert_eq!(dle(b"a\x10\x10\x03\x10\x03"), Ok(Stop::End { at: 4, to: 6 }));
        assert_eq!(dle(b"a\x10\x02"), Ok(Stop::Start { at: 1 }));
        assert_eq!(dle(b"a\x10b"), Ok(Stop::Bad { at: 1 }));
        assert_eq!(dle(b"ab\x10"), Err(2));
        assert_eq!(unescaped(Some(Escape::Dle), b"a\x10\x10\x03b").as_deref(), Some(&b"a\x10\x03b"[..]));
        let slip = |bytes: &[u8]| stop_escaped(Escape::Slip, &list(&[b"\xc0"]), &[], bytes, 0);
        assert_eq!(slip(b"a\xdb\xdcb\xdb\xdd\xc0"), Ok(Stop::End { at: 6, to: 7 }));
        assert_eq!(slip(b"a\xdb\xc0"), Ok(Stop::Bad { at: 1 }));
        assert_eq!(unescaped(Some(Escape::Slip), b"a\xdb\xdcb\xdb\xdd").as_deref(), Some(&b"a\xc0b\xdb"[..]));
        assert_eq!(unescaped(Some(Escape::Slip), b"ab"), None);
    }
}
