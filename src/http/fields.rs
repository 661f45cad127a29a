//! What both sides need to read a head: lines, tokens, lists, and what Content-Length and Transfer-Encoding say together.

/// The bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    table
};

/// Whether `byte` may be part of a method, a field name or another token.
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `bytes` is a token: at least one byte, and token bytes only.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Whether `byte` may be part of a field value or a chunk extension: visible, space, tab, or 0x80 and up.
pub(super) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `value` without the spaces and tabs around it (OWS, RFC 9110 section 5.6.3).
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// The elements of a comma-separated list, trimmed; empty ones too.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Where a head's next line ends; remembers what it has seen, so that a head in many pieces is looked at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LineScan {
    line_start: u32,
    scanned: u32,
}

/// What [`LineScan::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The line from here on is not whole yet.
    More {
        /// Where it starts.
        start: usize,
    },
    /// A line without its CRLF. An empty one ends the head.
    Whole {
        /// Where it starts.
        start: usize,
        /// Where its CRLF starts.
        end: usize,
        /// Where the next one starts.
        next: usize,
    },
    /// A CR or LF that is not part of a CRLF.
    Bare {
        /// Where its line starts.
        start: usize,
        /// Where it stands.
        at: usize,
        /// CR or LF.
        byte: u8,
    },
}

impl LineScan {
    /// The next line of `head`, which is the bytes of earlier calls and perhaps more. `bare_lf`: a line may end in LF alone.
    pub(super) fn next(&mut self, head: &[u8], bare_lf: bool) -> Line {
        let (start, scanned) = (self.line_start as usize, self.scanned as usize);
        let Some(found) = memchr::memchr2(b'\r', b'\n', &head[scanned..]) else {
            self.scanned = head.len() as u32;
            return Line::More { start };
        };
        let at = scanned + found;
        let next = match (head[at], head.get(at + 1)) {
            (b'\n', _) if bare_lf => at + 1,
            (b'\n', _) => return Line::Bare { start, at, byte: b'\n' },
            (_, Some(b'\n')) => at + 2,
            (_, None) => {
                self.scanned = at as u32;
                return Line::More { start };
            }
            (_, Some(_)) => return Line::Bare { start, at, byte: b'\r' },
        };
        self.line_start = next as u32;
        self.scanned = self.line_start;
        Line::Whole { start, end: at, next }
    }
}

/// How a message's end is told (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Neither Content-Length nor Transfer-Encoding.
    Absent,
    /// `Content-Length`
    Length(u64),
    /// `Transfer-Encoding: chunked`
    Chunked,
}

/// Why a message's end cannot be told for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingFault {
    /// Not a decimal number below 2^64.
    #[error("Content-Length is not a decimal number below 2^64")]
    ContentLength,
    /// More than one Content-Length.
    #[error("more than one Content-Length")]
    ContentLengths,
    /// Both framings.
    #[error("both Content-Length and Transfer-Encoding")]
    Both,
    /// No coding, or an empty element.
    #[error("Transfer-Encoding is empty or has an empty element")]
    EmptyCoding,
    /// `chunked` is there, but not as the last coding, or more than once.
    #[error("chunked must be the last transfer coding, and stand there once")]
    ChunkedNotLast,
    /// A coding other than `chunked`.
    #[error("only the transfer coding chunked is supported")]
    UnknownCoding,
    /// HTTP/1.0 has no Transfer-Encoding.
    #[error("Transfer-Encoding in HTTP/1.0")]
    Http10,
}

/// Gathers a head's Content-Length and Transfer-Encoding fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FramingFields {
    length: Option<u64>,
    length_fault: Option<FramingFault>,
    codings: u32,
    chunked: u32,
    chunked_last: bool,
    empty_coding: bool,
    identity: u32,
}

impl FramingFields {
    /// Takes a Content-Length's value. A repeated one is a fault even where both are equal.
    pub(super) fn content_length(&mut self, value: &[u8]) {
        if self.length.is_some() || self.length_fault.is_some() {
            self.length_fault = Some(FramingFault::ContentLengths);
            return;
        }
        match decimal(value) {
            Some(length) => self.length = Some(length),
            None => self.length_fault = Some(FramingFault::ContentLength),
        }
    }

    /// Takes a Content-Length's value in an answer: equal ones may be repeated, in several lines or in a list (RFC 9110 section 8.6).
    pub(super) fn repeated_content_length(&mut self, value: &[u8]) {
        for element in list(value) {
            let fault = match (decimal(element), self.length) {
                (None, _) => FramingFault::ContentLength,
                (Some(length), Some(before)) if length != before => FramingFault::ContentLengths,
                (Some(length), _) => {
                    self.length = Some(length);
                    continue;
                }
            };
            self.length_fault.get_or_insert(fault);
        }
    }

    /// Takes a Transfer-Encoding's value; several lines are one list.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) {
        for coding in list(value) {
            self.codings += 1;
            self.chunked_last = coding.eq_ignore_ascii_case(b"chunked");
            self.chunked += u32::from(self.chunked_last);
            self.empty_coding |= coding.is_empty();
            self.identity += u32::from(coding.eq_ignore_ascii_case(b"identity"));
        }
    }

    /// How an answer ends, and whether that is certain enough for another one behind it. A chunked answer of HTTP/1.0, and the coding
    /// `identity` with a length, break the rules, and leave no doubt what is meant.
    pub(super) fn resolve_answer(&self, http10: bool) -> Result<(Framing, bool), FramingFault> {
        let is_identity = self.codings == 1 && self.identity == 1;
        match self.length {
            Some(length) if is_identity && self.length_fault.is_none() => Ok((Framing::Length(length), false)),
            _ => Ok((self.resolve(false)?, !http10 || self.codings == 0)),
        }
    }

    /// How the message ends. Two framings, or one that can be read in two ways, are a fault.
    pub(super) fn resolve(&self, http10: bool) -> Result<Framing, FramingFault> {
        if let Some(fault) = self.length_fault {
            return Err(fault);
        }
        if self.codings == 0 {
            return Ok(self.length.map_or(Framing::Absent, Framing::Length));
        }
        if self.length.is_some() {
            return Err(FramingFault::Both);
        }
        if http10 {
            return Err(FramingFault::Http10);
        }
        if self.empty_coding {
            return Err(FramingFault::EmptyCoding);
        }
        match (self.chunked, self.chunked_last, self.codings) {
            (1, true, 1) => Ok(Framing::Chunked),
            (0, _, _) | (1, true, _) => Err(FramingFault::UnknownCoding),
            _ => Err(FramingFault::ChunkedNotLast),
        }
    }
}

/// A decimal number: digits only, leading zeros allowed, below 2^64.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Appends `bytes`, growing by doubling but never past `max_bytes` of capacity, which the caller's checks keep sufficient.
pub(super) fn append_bounded(buffer: &mut Vec<u8>, bytes: &[u8], max_bytes: usize) {
    let needed = buffer.len() + bytes.len();
    if needed > buffer.capacity() {
        let capacity = needed.max((buffer.capacity() * 2).min(max_bytes));
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_empty_elements() {
        let elements: Vec<&[u8]> = list(b" a ,, b\t").collect();
        assert_eq!(elements, [b"a".as_slice(), b"", b"b"]);
    }

    #[test]
    fn decimal_takes_digits_below_two_to_the_64() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"000000000000000000000000000007"), Some(7));
        for wrong in [b"18446744073709551616".as_slice(), b"", b"+5", b"-5", b"0x5", b"5_0", b"5 5", b"5,"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_line_scan_gives_the_same_lines_in_pieces() {
        let head = b"a\r\nbc\r\n\r\n";
        let mut scan = LineScan::default();
        let mut lines = Vec::new();
        for end in 0..=head.len() {
            while let Line::Whole { start, end, .. } = scan.next(&head[..end], false) {
                lines.push((start, end));
            }
        }
        assert_eq!(lines, [(0, 1), (3, 5), (7, 7)]);
    }

    #[test]
    fn a_bare_line_end_is_found_where_it_stands() {
        assert_eq!(LineScan::default().next(b"ab\nc", false), Line::Bare { start: 0, at: 2, byte: b'\n' });
        assert_eq!(LineScan::default().next(b"ab\rc", true), Line::Bare { start: 0, at: 2, byte: b'\r' });
        assert_eq!(LineScan::default().next(b"ab\r", true), Line::More { start: 0 });
    }

    #[test]
    fn a_line_may_end_in_lf_alone_where_that_is_allowed() {
        let head = b"a\nbc\r\n\n";
        let mut scan = LineScan::default();
        let mut lines = Vec::new();
        for end in 0..=head.len() {
            while let Line::Whole { start, end, next } = scan.next(&head[..end], true) {
                lines.push((start, end, next));
            }
        }
        assert_eq!(lines, [(0, 1, 2), (2, 4, 6), (6, 6, 7)]);
    }

    #[test]
    fn a_bounded_buffer_never_outgrows_its_bound() {
        let mut buffer = Vec::new();
        for _ in 0..100 {
            append_bounded(&mut buffer, &[0; 7], 700);
            assert!(buffer.capacity() <= 700);
        }
    }
}
