//! What the first bytes of a stream say about a framing that does not fit it.
//!
//! It looks at the first [`LOOK_BYTES`] of a stream, or as many as a record may have, and mostly at one record: as soon as nothing can
//! be said any more, it is settled. It holds no bytes but the first few.

use super::settings::{Framing, FramingKind};
use crate::ground::proxy::{RECOGNIZED_BYTES, recognize};
use std::fmt::Write as _;

/// So many bytes without an end are told, unless a record may be longer. Looking ends there, too.
const LOOK_BYTES: usize = 4096;
/// Of them so many that end lines: fewer may well be data.
const LINE_ENDS_MIN: u32 = 16;
/// A live stream shows its parity by so many bytes.
const PARITY_BYTES_MIN: usize = 256;
/// Different bytes that must all have the same parity. Bytes of 8 bits have it in one of 256 cases if there are so few of them;
/// and CR, STX, blank and comma have the other one.
const PARITY_VALUES_MIN: u32 = 8;
/// Of them so many with bit 7.
const PARITY_HIGH_MIN: u32 = 2;
/// Telnet's "interpret as command" (RFC 854); WILL, WON'T, DO and DON'T follow it.
const IAC: u8 = 0xFF;
/// Bytes by which a ClientHello of TLS is known (RFC 8446 sections 5.1 and 4).
const HELLO_BYTES: usize = 6;

/// What a stream's first bytes say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// No end came in so many bytes, but many of another one.
    NoEnd {
        /// How many bytes.
        bytes: usize,
        /// What ends lines instead: LF or CR.
        instead: u8,
        /// How many of those came.
        count: u32,
        /// The framing has a start, too.
        has_start: bool,
    },
    /// It begins with a negotiation of telnet.
    Telnet,
    /// It begins with the ClientHello of TLS.
    Tls,
    /// It begins with a PROXY header.
    Proxy,
    /// All bytes have the same parity, and bit 7 is in use: 7 data bits with a parity, read as 8 bits without one.
    Parity {
        /// Odd; else even.
        odd: bool,
    },
}

impl Hint {
    /// What it is, and what to do about it; `baud`: of a serial port.
    pub fn words(&self, baud: Option<u32>) -> String {
        match self {
            Self::NoEnd { bytes, instead, count, has_start } => {
                let (name, key) = if *instead == b'\n' { ("LF", r#"end = "\n""#) } else { ("CR", r#"end = "\r""#) };
                let start = if *has_start { " and no start" } else { "" };
                format!(
                    "no end of a record came in {bytes} bytes, but {count} {name}: {key}{start} in its framing would \
                     cut these lines"
                )
            }
            Self::Telnet => "the other side speaks telnet (it began with IAC, 0xFF): its negotiation is no data; set \
                             the device server's port to raw TCP (\"raw\" in ser2net, often \"TCP server\")"
                .to_owned(),
            Self::Tls => {
                "the machine begins TLS (a ClientHello), and this source has none: give the source its tls, or let the \
                          machine connect without"
                    .to_owned()
            }
            Self::Proxy => {
                "a connection began with a PROXY header, and its peer is not in proxies: it was closed. Give this source \
                 proxies = [\"…\"] with the proxy's address, or let the proxy send no header"
                    .to_owned()
            }
            Self::Parity { odd } => {
                let (word, format) = if *odd { ("odd", "7O1") } else { ("even", "7E1") };
                let mut text = format!(
                    "all bytes have {word} parity: these are 7 data bits and a parity bit; strip_bit7 = true in its framing"
                );
                match baud {
                    Some(baud) => write!(text, ", or line = \"{baud} {format}\", reads them"),
                    None => write!(text, " reads them"),
                }
                .expect("a string takes any text");
                text
            }
        }
    }
}

/// What came of looking at some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// More bytes may say something.
    More,
    /// Nothing will be said: looking ends.
    Settled,
    /// This is said: looking ends.
    Hint(Hint),
}

/// The first bytes of one stream.
#[derive(Debug, Default)]
pub struct Hints {
    bytes: usize,
    first: u8,
    /// The second byte of those that telnet begins with was seen.
    telnet: bool,
    /// One of the first bytes is none of a ClientHello.
    no_hello: bool,
    start: [u8; RECOGNIZED_BYTES],
    line_feeds: u32,
    carriage_returns: u32,
    /// Which values came, by their lower 7 bits: with bit 7 clear, and with it set.
    values: [u128; 2],
    any_even: bool,
    any_odd: bool,
}

impl Hints {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the stream, as they are framed. `framing` must be the same at every call; `connected`: the stream is
    /// a connection that was made by this side, which may have met telnet.
    pub fn look(&mut self, framing: &Framing, connected: bool, bytes: &[u8]) -> Look {
        let look_bytes = LOOK_BYTES.max(framing.max_bytes);
        let bytes = &bytes[..bytes.len().min(look_bytes - self.bytes)];
        for &byte in bytes {
            self.see(byte);
        }
        if connected && self.telnet {
            return Look::Hint(Hint::Telnet);
        }
        if self.bytes >= HELLO_BYTES && !self.no_hello {
            return Look::Hint(Hint::Tls);
        }
        let proxy = recognize(&self.start[..self.bytes.min(RECOGNIZED_BYTES)]);
        if !connected && proxy == Some(true) {
            return Look::Hint(Hint::Proxy);
        }
        if self.bytes >= PARITY_BYTES_MIN
            && let Some(hint) = self.parity()
        {
            return Look::Hint(hint);
        }
        if self.bytes == look_bytes {
            return self.no_end(framing, LINE_ENDS_MIN).map_or(Look::Settled, Look::Hint);
        }
        let may_be_telnet = connected && self.bytes < 2;
        let may_be_stranger = !self.no_hello || (!connected && proxy.is_none());
        let may_have_parity = !(self.any_even && self.any_odd);
        if may_be_telnet || may_be_stranger || may_have_parity || !self.has_end(framing) {
            Look::More
        } else {
            Look::Settled
        }
    }

    /// The stream is over, so that few bytes must do.
    pub fn finish(&self, framing: &Framing) -> Option<Hint> {
        self.parity().or_else(|| self.no_end(framing, 1))
    }

    fn see(&mut self, byte: u8) {
        match self.bytes {
            0 => self.first = byte,
            1 => self.telnet = self.first == IAC && matches!(byte, 0xFB..=0xFE),
            _ => {}
        }
        if let Some(place) = self.start.get_mut(self.bytes) {
            *place = byte;
        }
        // A record of a handshake, its version and length, and the message's type.
        self.no_hello |= match self.bytes {
            0 => byte != 0x16,
            1 => byte != 3,
            2 => byte > 4,
            5 => byte != 1,
            _ => false,
        };
        self.bytes += 1;
        self.line_feeds += u32::from(byte == b'\n');
        self.carriage_returns += u32::from(byte == b'\r');
        self.values[usize::from(byte >> 7)] |= 1 << (byte & 0x7F);
        let is_odd = byte.count_ones() % 2 == 1;
        self.any_odd |= is_odd;
        self.any_even |= !is_odd;
    }

    fn parity(&self) -> Option<Hint> {
        let [low, high] = self.values.map(u128::count_ones);
        let is_one = self.any_even != self.any_odd;
        (is_one && high >= PARITY_HIGH_MIN && low + high >= PARITY_VALUES_MIN)
            .then_some(Hint::Parity { odd: self.any_odd })
    }

    /// Whether an end may have come: all bytes of one did. Where there is no end, or one is CR or LF, nothing is to be said.
    fn has_end(&self, framing: &Framing) -> bool {
        let FramingKind::Delimiter { ends } = &framing.kind else { return true };
        let has_come = |byte: &u8| self.values[usize::from(byte >> 7)] >> (byte & 0x7F) & 1 == 1;
        ends.iter().any(|end| end.iter().all(has_come))
    }

    fn no_end(&self, framing: &Framing, count_min: u32) -> Option<Hint> {
        if self.has_end(framing) {
            return None;
        }
        let counts = [(b'\n', self.line_feeds), (b'\r', self.carriage_returns)];
        let (instead, count) = counts.into_iter().find(|(_, count)| *count >= count_min)?;
        Some(Hint::NoEnd { bytes: self.bytes, instead, count, has_start: !framing.starts.is_empty() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(end: &[u8]) -> Framing {
        Framing { kind: FramingKind::Delimiter { ends: vec![end.to_vec()] }, ..Framing::default() }
    }

    /// What is said of a stream that comes in pieces of `piece` bytes.
    fn said(framing: &Framing, connected: bool, stream: &[u8], piece: usize) -> (Look, usize) {
        let mut hints = Hints::new();
        let mut taken = 0;
        for bytes in stream.chunks(piece) {
            taken += bytes.len();
            let look = hints.look(framing, connected, bytes);
            if look != Look::More {
                return (look, taken);
            }
        }
        (Look::More, taken)
    }

    #[test]
    fn a_client_hello_is_known_by_its_first_bytes_however_they_come() {
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
        for framing in [ending(b"\r"), ending(b"\x03")] {
            for piece in [1, 2, 5] {
                assert_eq!(said(&framing, false, &hello, piece).0, Look::Hint(Hint::Tls), "pieces of {piece}");
            }
            let other = [0x16, 3, 1, 2, 0, 2, 13, 3];
            assert_ne!(said(&framing, false, &other, 1).0, Look::Hint(Hint::Tls));
        }
        assert!(Hint::Tls.words(None).contains("its tls"));
    }

    #[test]
    fn a_proxy_header_is_known_by_its_first_bytes_however_they_come() {
        let binary = [crate::ground::proxy::SIGNATURE_2, &[0x21, 0x11, 0, 12]].concat();
        for header in [&b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2\r\n"[..], b"PROXY UNKNOWN\r\n", &binary] {
            for framing in [ending(b"\n"), ending(b"\x03")] {
                for piece in [1, 5, 100] {
                    assert_eq!(said(&framing, false, header, piece).0, Look::Hint(Hint::Proxy), "pieces of {piece}");
                    assert_ne!(said(&framing, true, header, piece).0, Look::Hint(Hint::Proxy), "this side connected");
                }
            }
        }
        assert_eq!(said(&ending(b"\n"), false, b"PROXY 12.5 mm\n", 1).0, Look::Settled);
        assert!(Hint::Proxy.words(None).contains("proxies = "));
    }

    fn with_parity(text: &[u8], odd: bool) -> Vec<u8> {
        text.iter().map(|byte| byte | u8::from((byte.count_ones() % 2 == 1) != odd) << 7).collect()
    }

    #[test]
    fn lines_that_end_otherwise_are_told_after_4_kib() {
        for (stream, end, instead) in [
            (b"W+001.234 kg\n".repeat(400), &b"\r"[..], b'\n'),
            (b"W+001.234 kg\n".repeat(400), b"\r\n", b'\n'),
            (b"W+001.234 kg\r".repeat(400), b"\n", b'\r'),
            (b"W+001.234 kg\r\n".repeat(400), b"\x03", b'\n'),
        ] {
            for piece in [1, 7, 4096, 9000] {
                let (look, taken) = said(&ending(end), false, &stream, piece);
                let Look::Hint(Hint::NoEnd { bytes: 4096, instead: told, count, .. }) = look else {
                    panic!("{look:?} of {end:?} in pieces of {piece}");
                };
                assert_eq!(told, instead);
                assert!((280..400).contains(&count), "{count}");
                assert!(taken >= 4096 && taken < 4096 + piece, "{taken}");
            }
        }
    }

    #[test]
    fn where_records_may_be_longer_the_lines_in_one_are_not_told() {
        let framing = Framing { max_bytes: 10_000, ..ending(b"\x03") };
        let report = b"W+001.234 kg\r\n".repeat(700);
        assert_eq!(said(&framing, false, &[&report[..], b"\x03"].concat(), 100).0, Look::Settled);
        let (look, taken) = said(&framing, false, &report.repeat(2), 100);
        assert!(matches!(look, Look::Hint(Hint::NoEnd { bytes: 10_000, .. })), "{look:?}");
        assert_eq!(taken, 10_000);
    }

    #[test]
    fn a_stream_that_fits_is_settled_by_its_first_record() {
        let stream = b"W+001.234 kg\r\n".repeat(400);
        for end in [&b"\r"[..], b"\n", b"\r\n"] {
            let (look, taken) = said(&ending(end), true, &stream, 1);
            assert_eq!(look, Look::Settled, "{end:?}");
            assert!(taken <= 14, "{taken} for {end:?}");
        }
        // Of a block of 4 KiB with few LF nothing can be said.
        assert_eq!(said(&ending(b"\x03"), false, &[b'a', b'b'].repeat(3000), 100), (Look::Settled, 4100));
    }

    #[test]
    fn telnet_is_told_of_a_connection_that_this_side_made_and_of_no_other() {
        let stream = [0xFF, 0xFD, 0x2C, 0xFF, 0xFB, 0x00, b'W', b'+', b'1', b'\r'];
        for piece in 1..stream.len() {
            assert_eq!(said(&ending(b"\r"), true, &stream, piece).0, Look::Hint(Hint::Telnet), "{piece}");
            assert_eq!(said(&ending(b"\r"), false, &stream, piece).0, Look::Settled, "{piece}");
        }
        for other in [&b"\xFF\xFF\xFD\r"[..], b"\xFF\xFA\r", b"a\xFF\xFB\r", b"\xFF"] {
            assert!(!matches!(said(&ending(b"\r"), true, other, 1).0, Look::Hint(_)), "{other:?}");
        }
    }

    #[test]
    fn seven_bits_with_a_parity_are_told_and_text_of_eight_bits_is_not() {
        for odd in [false, true] {
            let stream = with_parity(&b"W,+001.234kg\r".repeat(40), odd);
            for piece in [1, 13, 300] {
                let (look, taken) = said(&ending(b"\r"), false, &stream, piece);
                assert_eq!(look, Look::Hint(Hint::Parity { odd }));
                assert!(taken >= 256 && taken < 256 + piece, "{taken}");
            }
        }
        let big5 = b"\xb3\x5c\xa5\x5c\xbb\x5c,\xb7\xc5\xab\xd7\xb9L\xb0\xaa,NG\r";
        let latin = b"\xe4\xf6\xfc \xdf 12,5 \xb5m\r";
        let utf8 = "溫度過高\n".as_bytes();
        for text in [&big5[..], latin, utf8, b"W+001.234 kg\r", &[0xAA, 0x55, 0xCC, 0x33, b'\r', 0xCC]] {
            let mut hints = Hints::new();
            let look = hints.look(&ending(b"\r"), false, &text.repeat(800)[..4096]);
            assert!(!matches!(look, Look::Hint(Hint::Parity { .. })), "{look:?} of {text:?}");
            assert!(!matches!(hints.finish(&ending(b"\r")), Some(Hint::Parity { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_short_capture_is_told_at_its_end() {
        let framing = ending(b"\r");
        let capture = [0xd7, 0xac, 0x2b, 0x30, 0x30, 0xb1, 0x2e, 0xb2, 0x33, 0xb4, 0xeb, 0xe7, 0x8d];
        let mut hints = Hints::new();
        assert_eq!(hints.look(&framing, false, &capture), Look::More);
        assert_eq!(hints.finish(&framing), Some(Hint::Parity { odd: false }));
        let mut hints = Hints::new();
        assert_eq!(hints.look(&framing, false, b"12.5 mm\n"), Look::More);
        assert_eq!(hints.finish(&framing), Some(Hint::NoEnd { bytes: 8, instead: b'\n', count: 1, has_start: false }));
        assert_eq!(Hints::new().finish(&framing), None);
    }

    #[test]
    fn each_hint_names_what_to_write() {
        let words = Hint::Parity { odd: false }.words(Some(9600));
        assert!(words.contains("strip_bit7 = true") && words.contains("line = \"9600 7E1\""), "{words}");
        assert!(!Hint::Parity { odd: true }.words(None).contains("line ="));
        let hint = Hint::NoEnd { bytes: 4096, instead: b'\n', count: 300, has_start: true };
        assert!(hint.words(None).contains(r#"end = "\n" and no start"#), "{}", hint.words(None));
        assert!(Hint::Telnet.words(None).contains("raw TCP"));
    }
}
