//! An answer's head, read in two ways that give the same: in place, where its bytes have the common shape, and line by line.
//!
//! Of what breaks the rules and leaves no doubt all is read: lines that end in LF alone, folded fields, blanks before a colon,
//! Content-Length given twice. Another attempt would bring the same answer.

use super::response::ResponseError;
use crate::http::date;
use crate::http::fields::{Framing, FramingFields, decimal, is_token, is_token_byte, is_value_byte, list, trim};

/// Longest media type that can be compared; RFC 6838 section 4.2 allows 127 bytes for each half, and none in use has this many.
const MEDIA_TYPE_BYTES_MAX: usize = 63;
/// Bytes of a Location that are kept.
const LOCATION_BYTES_MAX: usize = 2_000;
/// Header fields of one answer.
const FIELDS_MAX: usize = 128;

/// When to try again (RFC 9110 section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So many seconds after the answer.
    Seconds(u32),
    /// At this moment, in seconds after 1970.
    Date(u64),
}

/// A media type without its parameters, in lower case (RFC 9110 section 8.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MediaType {
    bytes: [u8; MEDIA_TYPE_BYTES_MAX],
    length: u8,
}

impl Default for MediaType {
    fn default() -> Self {
        Self { bytes: [0; MEDIA_TYPE_BYTES_MAX], length: 0 }
    }
}

impl MediaType {
    /// Of a Content-Type field's value. One that is too long to be compared is cut: it is equal to no shorter one.
    pub fn parse(value: &[u8]) -> Self {
        let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
        let value = trim(&value[..end]);
        let mut this = Self::default();
        for (place, byte) in this.bytes.iter_mut().zip(value) {
            *place = byte.to_ascii_lowercase();
        }
        this.length = value.len().min(MEDIA_TYPE_BYTES_MAX) as u8;
        this
    }

    /// As text, with escapes for what is no ASCII.
    pub fn show(&self) -> String {
        self.bytes[..usize::from(self.length)].escape_ascii().to_string()
    }
}

impl std::fmt::Debug for MediaType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.show())
    }
}

/// What an answer's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 200 to 599; interim answers are not shown.
    pub status: u16,
    /// Whether the peer keeps the connection after this answer; whether it can be used again also depends on the body, see
    /// [`Event::End`](super::Event::End).
    pub keep_alive: bool,
    /// The first Retry-After that makes sense.
    pub retry_after: Option<RetryAfter>,
    /// Bytes of the body, where they are told ahead.
    pub content_length: Option<u64>,
    /// The last Content-Type; empty where there is none.
    pub content_type: MediaType,
}

/// A head's status line and the fields that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawHead {
    pub(super) status: u16,
    http10: bool,
    close: bool,
    keep_alive: bool,
    retry_after: Option<RetryAfter>,
    content_type: MediaType,
    framing: FramingFields,
}

impl RawHead {
    fn new(status: u16, http10: bool) -> Self {
        let framing = FramingFields::default();
        let content_type = MediaType::default();
        Self { status, http10, close: false, keep_alive: false, retry_after: None, content_type, framing }
    }

    #[inline]
    fn observe(&mut self, name: &[u8], value: &[u8]) {
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            10 if is(b"connection") => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            11 if is(b"retry-after") => self.retry_after = self.retry_after.or_else(|| retry_after(value)),
            12 if is(b"content-type") => self.content_type = MediaType::parse(value),
            14 if is(b"content-length") => self.framing.repeated_content_length(value),
            17 if is(b"transfer-encoding") => self.framing.transfer_encoding(value),
            _ => {}
        }
    }

    /// The head, and how its body ends (RFC 9112 section 6.3); [`Framing::Absent`] means at the close.
    pub(super) fn resolve(&self) -> Result<(Head, Framing), ResponseError> {
        let (framing, is_certain) = self.framing.resolve_answer(self.http10)?;
        let mut keep_alive = is_certain && !self.close && (!self.http10 || self.keep_alive);
        let content_length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Absent | Framing::Chunked => None,
        };
        let framing = match self.status {
            // A 204 that announces a body may be followed by one.
            204 => {
                keep_alive &= matches!(framing, Framing::Absent | Framing::Length(0));
                Framing::Length(0)
            }
            304 => Framing::Length(0),
            _ => framing,
        };
        keep_alive &= framing != Framing::Absent;
        let Self { status, retry_after, content_type, .. } = *self;
        Ok((Head { status, keep_alive, retry_after, content_length, content_type }, framing))
    }
}

fn retry_after(value: &[u8]) -> Option<RetryAfter> {
    if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        let seconds = decimal(value).unwrap_or(u64::MAX);
        return Some(RetryAfter::Seconds(u32::try_from(seconds).unwrap_or(u32::MAX)));
    }
    date::parse(value).map(RetryAfter::Date)
}

/// Whether these may be the first bytes of an answer.
pub(super) fn may_start(bytes: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    let seen = bytes.len().min(START.len());
    bytes[..seen] == START[..seen]
}

/// Reads a status line without its CRLF (RFC 9112 section 4): status, and whether it is HTTP/1.0. A later minor version counts
/// as HTTP/1.1; the reason and the space before it may be missing.
pub(super) fn status_line(line: &[u8]) -> Result<(u16, bool), ResponseError> {
    let (version, rest) = line.split_at_checked(9).ok_or(ResponseError::StatusLine)?;
    let (digits, reason) = rest.split_at_checked(3).ok_or(ResponseError::StatusLine)?;
    let spaced = version[8] == b' ' && reason.first().is_none_or(|byte| *byte == b' ');
    let sound = may_start(version) && version[7].is_ascii_digit() && reason.iter().copied().all(is_value_byte);
    match decimal(digits) {
        Some(status @ 100..=599) if spaced && sound => Ok((status as u16, version[7] == b'0')),
        _ => Err(ResponseError::StatusLine),
    }
}

/// Where an answer's next line ends; remembers what it has seen, so that a head in many pieces is looked at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AnswerLines {
    line_start: u32,
    scanned: u32,
}

/// What [`AnswerLines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnswerLine {
    /// The line is not whole yet.
    More,
    /// A line without its end, which is CRLF or LF (RFC 9112 section 2.2); the next one starts at `next`. An empty one ends the head.
    Whole { start: usize, end: usize, next: usize },
    /// A CR that is not part of an end.
    BareCr,
}

impl AnswerLines {
    /// The next line of `head`, which is the bytes of earlier calls and perhaps more.
    pub(super) fn next(&mut self, head: &[u8]) -> AnswerLine {
        let start = self.line_start as usize;
        let Some(found) = memchr::memchr(b'\n', &head[self.scanned as usize..]) else {
            self.scanned = head.len() as u32;
            return AnswerLine::More;
        };
        let at = self.scanned as usize + found;
        let end = if at > start && head[at - 1] == b'\r' { at - 1 } else { at };
        if memchr::memchr(b'\r', &head[start..end]).is_some() {
            return AnswerLine::BareCr;
        }
        (self.line_start, self.scanned) = (at as u32 + 1, at as u32 + 1);
        AnswerLine::Whole { start, end, next: at + 1 }
    }
}

/// Reads a whole head line by line. It ends with the empty line, and no CR stands in a line.
/// `location` takes what a redirect says.
pub(super) fn parse_slow(head: &[u8], location: &mut Vec<u8>) -> Result<RawHead, ResponseError> {
    location.clear();
    let mut lines = AnswerLines::default();
    let mut raw = None;
    let mut field: Vec<u8> = Vec::new();
    let mut count = 0;
    while let AnswerLine::Whole { start, end, .. } = lines.next(head) {
        let line = &head[start..end];
        let Some(raw) = &mut raw else {
            let (status, http10) = status_line(line)?;
            raw = Some(RawHead::new(status, http10));
            continue;
        };
        if let (Some(b' ' | b'\t'), false) = (line.first(), field.is_empty()) {
            // RFC 9112 section 5.2: folding stands for a blank.
            field.push(b' ');
            field.extend_from_slice(trim(line));
            continue;
        }
        if !field.is_empty() {
            count += 1;
            observe_field(raw, &field, location)?;
        }
        if count > FIELDS_MAX || count == FIELDS_MAX && !line.is_empty() {
            return Err(ResponseError::Fields { max: FIELDS_MAX });
        }
        field.clear();
        field.extend_from_slice(line);
    }
    raw.ok_or(ResponseError::StatusLine)
}

/// Takes one field of a head, unfolded. Blanks before the colon are no part of the name: nobody behind us reads it otherwise.
fn observe_field(raw: &mut RawHead, field: &[u8], location: &mut Vec<u8>) -> Result<(), ResponseError> {
    let colon = memchr::memchr(b':', field).ok_or(ResponseError::Field)?;
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let name_end = field[..colon].iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    let (name, value) = (&field[..name_end], trim(&field[colon + 1..]));
    if !is_token(name) || !value.iter().copied().all(is_value_byte) {
        return Err(ResponseError::Field);
    }
    raw.observe(name, value);
    if (300..400).contains(&raw.status) && name.eq_ignore_ascii_case(b"location") {
        location.clear();
        location.extend_from_slice(&value[..value.len().min(LOCATION_BYTES_MAX)]);
    }
    Ok(())
}

/// Reads a head in place if it lies whole in `bytes` and looks as most do; the head and its length. `None` says nothing:
/// the slow path decides.
pub(super) fn parse_fast(bytes: &[u8]) -> Option<(RawHead, usize)> {
    let start = bytes.get(..13)?;
    let status = decimal(&start[9..12])?;
    // A redirect is rare, and its Location is wanted.
    let is_common = (100..300).contains(&status) || (400..=599).contains(&status);
    if start[..9] != *b"HTTP/1.1 " || !matches!(start[12], b' ' | b'\r') || !is_common {
        return None;
    }
    let mut at = crlf_after_value(bytes, 12)?;
    let mut raw = RawHead::new(status as u16, false);
    for _ in 0..=FIELDS_MAX {
        if bytes[at..].starts_with(b"\r\n") {
            return Some((raw, at + 2));
        }
        let name_end = at + bytes[at..].iter().position(|byte| !is_token_byte(*byte))?;
        if name_end == at || bytes[name_end] != b':' {
            return None;
        }
        let next = crlf_after_value(bytes, name_end + 1)?;
        // All fields that matter have names of 10 bytes or more.
        if name_end - at >= 10 {
            raw.observe(&bytes[at..name_end], trim(&bytes[name_end + 1..next - 2]));
        }
        at = next;
    }
    None
}

/// Where the line after a value starts: the value's bytes, from `at` on, must be followed by CRLF.
fn crlf_after_value(bytes: &[u8], at: usize) -> Option<usize> {
    let end = value_end(bytes, at)?;
    bytes[end..].starts_with(b"\r\n").then_some(end + 2)
}

/// Where the first byte that no value may hold stands, from `at` on; eight bytes at a time.
fn value_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let deleted = word ^ (0x7f * ONES);
        // High bit of each byte: below 0x20, or 0x7f. The lowest one that is set is right; a borrow can only reach those above.
        let found =
            ((word.wrapping_sub(0x20 * ONES) & !word) | (deleted.wrapping_sub(ONES) & !deleted)) & (0x80 * ONES);
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| !is_value_byte(*byte)).map(|found| at + found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    /// What the slow path makes of `bytes`, if a head lies whole in them.
    fn slow(bytes: &[u8]) -> Option<Result<(RawHead, usize), ResponseError>> {
        let mut lines = AnswerLines::default();
        loop {
            match lines.next(bytes) {
                AnswerLine::Whole { start, end, next } if start == end && start > 0 => {
                    return Some(parse_slow(&bytes[..next], &mut Vec::new()).map(|raw| (raw, next)));
                }
                AnswerLine::Whole { .. } => {}
                AnswerLine::More | AnswerLine::BareCr => return None,
            }
        }
    }

    /// The fast path may decline, but never say anything else than the slow one.
    fn agree(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let fast = parse_fast(bytes);
        if let Some(parsed) = fast {
            prop_assert_eq!(slow(bytes), Some(Ok(parsed)), "{}", String::from_utf8_lossy(bytes));
        }
        Ok(fast.is_some())
    }

    fn head() -> impl Strategy<Value = Vec<u8>> {
        let field = prop_oneof![
            prop::sample::select(vec![
                "Content-Length: 5",
                "content-length:\t7 \t",
                "Content-Length: 5, 5",
                "Content-Length:",
                "Transfer-Encoding: chunked",
                "TRANSFER-ENCODING: gzip",
                "Connection: keep-alive",
                "Connection: x,CLOSE",
                "Content-Type: Application/JSON; charset=utf-8",
                "content-type:text/html",
                "Retry-After: 120",
                "Retry-After: soon",
                "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT",
            ])
            .prop_map(str::to_owned),
            "[A-Za-z-]{1,20}:[ \t]{0,2}[ -~\t\u{80}-\u{ff}]{0,60}[ \t]{0,2}",
        ];
        let reason = "( [ -~\u{e9}]{0,20})?";
        (100u16..620, reason, prop::collection::vec(field, 0..12), "[ -~\r\n]{0,20}").prop_map(
            |(status, reason, fields, after)| {
                let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
                format!("HTTP/1.1 {status}{reason}\r\n{fields}\r\n{after}").into_bytes()
            },
        )
    }

    proptest! {
        #[test]
        fn both_paths_agree_on_heads_and_on_all_that_is_cut_off(bytes in head()) {
            let status = decimal(&bytes[9..12]).unwrap();
            let is_common = status < 600 && !(300..400).contains(&status);
            prop_assert_eq!(agree(&bytes)?, is_common, "the fast path takes the common shape");
            for end in 0..bytes.len() {
                agree(&bytes[..end])?;
            }
        }

        #[test]
        fn both_paths_agree_on_changed_heads(
            bytes in head(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = bytes;
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            agree(&bytes)?;
        }
    }

    #[test]
    fn both_paths_agree_on_every_single_byte_changed() {
        let head =
            b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nServer: gunicorn\tx\r\nConnection: keep-alive\r\n\r\nabc";
        assert!(parse_fast(head).is_some());
        for index in 0..head.len() {
            for byte in 0..=255 {
                let mut changed = *head;
                changed[index] = byte;
                agree(&changed).unwrap();
            }
        }
    }

    #[test]
    fn media_types_are_compared_without_case_and_parameters() {
        let json = MediaType::parse(b"application/json");
        assert_eq!(MediaType::parse(b" Application/JSON ;charset=utf-8"), json);
        for other in [&b""[..], b"application/jsonx", b"text/html", &[b'a'; 200]] {
            assert_ne!(MediaType::parse(other), json);
        }
        assert_eq!(MediaType::parse(b"Text/HTML; a=b").show(), "text/html");
    }

    #[test]
    fn a_value_ends_at_the_first_control_character_but_tab() {
        for control in (0u8..=255).filter(|byte| !is_value_byte(*byte)) {
            for before in 0..20 {
                let mut bytes = vec![b'\t'; before];
                bytes.extend([0x80, control, 0xff, b'\r']);
                assert_eq!(value_end(&bytes, 0), Some(before + 1));
            }
        }
        assert_eq!(value_end(b"all good and no end", 0), None);
        assert_eq!(value_end(b"x", 2), None);
    }

    #[test]
    fn fields_are_limited_on_both_paths() {
        let head = |count: usize| ["HTTP/1.1 201 \r\n", &"X: y\r\n".repeat(count), "\r\n"].concat().into_bytes();
        assert!(parse_fast(&head(128)).is_some() && slow(&head(128)).is_some_and(|parsed| parsed.is_ok()));
        assert!(parse_fast(&head(129)).is_none());
        assert_eq!(slow(&head(129)), Some(Err(ResponseError::Fields { max: 128 })));
    }
}
