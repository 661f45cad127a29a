//! How a machine's bytes become text: its encoding, by a label of the WHATWG Encoding Standard, and
//! what is done with bytes that are none of it. Framing never decodes: it works on bytes.

use encoding_rs::{
    BIG5, EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_2022_JP, REPLACEMENT, SHIFT_JIS, UTF_8, UTF_16BE, UTF_16LE,
};
use std::borrow::Cow;

/// What is done with a record that is not text in its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(u8)]
pub enum OnUndecodable {
    /// What cannot be decoded becomes U+FFFD.
    #[default]
    Replace = 0,
    /// The record is rejected.
    Reject = 1,
    /// The record is delivered as hexadecimal digits.
    Hex = 2,
}

impl OnUndecodable {
    /// What a number on disk means; one that is not known was never written.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Replace,
            1 => Self::Reject,
            2 => Self::Hex,
            _ => return None,
        })
    }
}

/// An encoding, and what is done with what is not of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// Of the Encoding Standard. A byte-order mark is text like any other.
    pub encoding: &'static Encoding,
    /// What is done with other bytes.
    pub on_undecodable: OnUndecodable,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { encoding: UTF_8, on_undecodable: OnUndecodable::default() }
    }
}

impl Decoding {
    /// How the fields of a request's head become text: they are in the encoding of its records, unless that has no ASCII.
    pub fn of_headers(self) -> Self {
        if self.encoding.is_ascii_compatible() { self } else { Self { encoding: UTF_8, ..self } }
    }

    /// The encoding of a label (Encoding Standard, section 4.2), in any case, with blanks around.
    /// `None` where there is no such label, or where it stands for the replacement encoding, which
    /// decodes nothing.
    pub fn encoding_of(label: &str) -> Option<&'static Encoding> {
        Encoding::for_label(label.as_bytes()).filter(|encoding| *encoding != REPLACEMENT)
    }

    /// Whether all of a record's bytes are text in its encoding.
    #[inline]
    pub fn decodes(&self, bytes: &[u8]) -> bool {
        if self.encoding == UTF_8 {
            return bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
        }
        self.encoding.decode_without_bom_handling_and_without_replacement(bytes).is_some()
    }

    /// A record's text, with U+FFFD for what is not text, and whether there was any.
    pub fn decode<'b>(&self, bytes: &'b [u8]) -> (Cow<'b, str>, bool) {
        self.encoding.decode_without_bom_handling(bytes)
    }

    /// Bytes of one code unit.
    pub fn unit_bytes(&self) -> usize {
        if [UTF_16LE, UTF_16BE].contains(&self.encoding) { 2 } else { 1 }
    }

    /// Whether a byte can stand inside of a character: there, an end or a start that begins with it
    /// would cut the character in two. Encoding Standard, sections 9 to 14; of UTF-16 only the
    /// place of a byte tells, so none can.
    pub fn may_lie_inside(&self, byte: u8) -> bool {
        let encoding = self.encoding;
        if encoding == UTF_8 {
            matches!(byte, 0x80..=0xBF)
        } else if encoding == BIG5 {
            matches!(byte, 0x40..=0x7E | 0xA1..=0xFE)
        } else if encoding == GBK || encoding == GB18030 {
            // The second and fourth of four bytes are digits.
            matches!(byte, 0x30..=0x39 | 0x40..=0x7E | 0x80..=0xFE)
        } else if encoding == SHIFT_JIS {
            matches!(byte, 0x40..=0x7E | 0x80..=0xFC)
        } else if encoding == EUC_JP {
            matches!(byte, 0xA1..=0xFE)
        } else if encoding == EUC_KR {
            matches!(byte, 0x41..=0x5A | 0x61..=0x7A | 0x81..=0xFE)
        } else if encoding == ISO_2022_JP {
            // Between escape sequences all is pairs of these, and the sequences themselves.
            matches!(byte, 0x21..=0x7E)
        } else {
            false
        }
    }

    /// Whether bit 7 of a byte is part of its text, so that a line of seven data bits cannot carry
    /// it.
    pub fn needs_eight_bits(&self) -> bool {
        self.encoding != UTF_8 && self.encoding != ISO_2022_JP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoding(label: &str) -> Decoding {
        Decoding { encoding: Decoding::encoding_of(label).expect("a label"), ..Decoding::default() }
    }

    #[test]
    fn labels_are_those_of_the_standard() {
        for (label, name) in
            [("big5", "Big5"), (" Latin1 ", "windows-1252"), ("iso-8859-1", "windows-1252"), ("sjis", "Shift_JIS")]
        {
            assert_eq!(decoding(label).encoding.name(), name);
        }
        for label in ["big6", "", "iso-2022-kr", "replacement"] {
            assert_eq!(Decoding::encoding_of(label), None, "{label}");
        }
    }

    #[test]
    fn text_of_each_encoding_comes_back_and_what_is_none_is_told() {
        let cases: [(&str, &[u8], &str, bool); 12] = [
            ("big5", b"\xb7\xc5\xab\xd7\xb9L\xb0\xaa", "溫度過高", false),
            ("big5", b"\xb3\x5c\xa5\x5c\xbb\x5c", "許功蓋", false),
            ("big5", b"ok\xff", "ok\u{fffd}", true),
            ("gbk", b"\xc4\xa4", "膜", false),
            ("gb18030", b"\x81\x30\x81\x30", "\u{80}", false),
            ("shift_jis", b"\x83\x5c", "ソ", false),
            ("euc-kr", b"\xbf\xc2\xb5\xb5", "온도", false),
            ("windows-1252", b"\x80 5\xb0", "€ 5°", false),
            ("utf-16le", b"a\0\xac\x20", "a€", false),
            ("utf-16le", b"a\0b", "a\u{fffd}", true),
            ("utf-8", b"\xef\xbb\xbfa", "\u{feff}a", false),
            ("utf-8", b"\xc4\xa4\xff", "Ĥ\u{fffd}", true),
        ];
        for (label, bytes, text, has_errors) in cases {
            let decoding = decoding(label);
            assert_eq!(decoding.decode(bytes), (Cow::Borrowed(text), has_errors), "{label}");
            assert_eq!(decoding.decodes(bytes), !has_errors, "{label}");
        }
    }

    /// Every pair, and for GB18030 every sequence of four, against the decoder itself.
    #[test]
    fn bytes_inside_of_characters_are_those_that_the_decoder_takes_there() {
        for label in ["big5", "gbk", "shift_jis", "euc-jp", "euc-kr", "windows-1252", "utf-8"] {
            let decoding = decoding(label);
            for second in 0..=255 {
                let is_one = |bytes: &[u8]| {
                    let (text, has_errors) = decoding.decode(bytes);
                    !has_errors && text.chars().count() < bytes.len()
                };
                let of_two = (0x80..=255).any(|first| is_one(&[first, second]));
                // The third bytes of EUC-JP and UTF-8 are of the same ranges as the second ones.
                let of_three = label == "utf-8" && (0xE0..=0xEF).any(|first| is_one(&[first, 0xA5, second]));
                let of_four = label == "gbk" && is_one(&[0x81, second, 0x81, 0x30]);
                let found = of_two || of_three || of_four;
                assert_eq!(decoding.may_lie_inside(second), found, "{label} {second:#04x}");
            }
        }
    }
}
