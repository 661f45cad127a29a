//! A slow reader of HTTP/1.1 messages on the whole stream, of requests as strict as RFC 9112 allows: what this one cannot frame, no
//! parser may accept, and what both frame must end at the same byte. Limits are not its business. In answers it reads what breaks a
//! rule and leaves no doubt: lines that end in LF, folded fields, blanks before a colon, equal lengths.

use std::borrow::Cow;

/// One message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its first line, without CRLF.
    pub line: &'a [u8],
    /// Names as they came, values without white space around them.
    pub fields: Vec<Field<'a>>,
    pub body: Vec<u8>,
    /// Where the next message begins.
    pub end: usize,
    /// The body runs to the end of the stream.
    pub until_close: bool,
}

impl Message<'_> {
    /// The values of a field.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| &**value).collect()
    }

    pub fn http10(&self) -> bool {
        self.line.ends_with(b"HTTP/1.0") || self.line.starts_with(b"HTTP/1.0")
    }
}

/// A name and a value.
type Field<'a> = (&'a [u8], Cow<'a, [u8]>);

/// Which side's messages a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requests,
    /// Requests of which a line of the head may end in LF alone, as a source can allow it.
    LenientRequests,
    Answers,
}

fn is_token(bytes: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(token)
}

/// Visible characters, space, tab, and what is above ASCII.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7F)
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The line at `at`, which must end in CRLF and hold no other control character than tabs; it, and where the next begins.
fn line(stream: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = stream.get(at..)?;
    let end = (0..rest.len()).find(|&end| rest[end..].starts_with(b"\r\n"))?;
    is_text(&rest[..end]).then_some((&rest[..end], at + end + 2))
}

/// The next line of a head.
fn line_of(stream: &[u8], at: usize, side: Side) -> Option<(&[u8], usize)> {
    match side {
        Side::Requests => line(stream, at),
        Side::LenientRequests | Side::Answers => loose_line(stream, at),
    }
}

/// The same where LF alone ends a line, too.
fn loose_line(stream: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = stream.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    is_text(line).then_some((line, at + end + 1))
}

/// Fields up to the empty line, and where that ends.
fn fields(stream: &[u8], mut at: usize, side: Side) -> Option<(Vec<Field<'_>>, usize)> {
    let loose = side == Side::Answers;
    let mut fields: Vec<Field<'_>> = Vec::new();
    loop {
        let (line, next) = line_of(stream, at, side)?;
        at = next;
        if line.is_empty() {
            return Some((fields, at));
        }
        if let (true, Some((_, value)), [b' ' | b'\t', ..]) = (loose, fields.last_mut(), line) {
            let unfolded = [&**value, b" ", trimmed(line)].concat();
            *value = Cow::Owned(trimmed(&unfolded).to_vec());
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let mut name = &line[..colon];
        while let (true, [rest @ .., b' ' | b'\t']) = (loose, name) {
            name = rest;
        }
        if !is_token(name) {
            return None;
        }
        fields.push((name, Cow::Borrowed(trimmed(&line[colon + 1..]))));
    }
}

/// A chunked body, and where it ends.
fn chunked(stream: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let (size, next) = line(stream, at)?;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extensions = &size[digits..];
        if digits > 16 || !extensions.is_empty() && !trimmed(extensions).starts_with(b";") {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(&size[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            let (_, end) = fields(stream, next, Side::Requests)?;
            return Some((body, end));
        }
        let data = stream.get(next..)?.get(..usize::try_from(size).ok()?)?;
        body.extend(data);
        at = next + data.len();
        if !stream[at..].starts_with(b"\r\n") {
            return None;
        }
        at += 2;
    }
}

/// The message at `at`; `None` where none is whole, or where it can be read in two ways.
pub fn message(stream: &[u8], at: usize, side: Side) -> Option<Message<'_>> {
    // A server ignores one empty line.
    let blank = match (side, &stream[at..]) {
        (Side::Requests | Side::LenientRequests, [b'\r', b'\n', ..]) => 2,
        (Side::LenientRequests, [b'\n', ..]) => 1,
        _ => 0,
    };
    let loose = side == Side::Answers;
    let (first, next) = line_of(stream, at + blank, side)?;
    let (fields, at) = fields(stream, next, side)?;
    let mut message = Message { line: first, fields, body: Vec::new(), end: at, until_close: false };
    let (is_sound, no_body) = match side {
        Side::Requests | Side::LenientRequests => {
            let parts: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
            let [method, target, version] = parts[..] else { return None };
            let is_sound = is_token(method) && !target.is_empty() && is_version(version);
            (is_sound, false)
        }
        Side::Answers => {
            let status = first.get(9..12)?;
            let space = first.get(12).is_none_or(|byte| *byte == b' ');
            let is_sound =
                is_version(&first[..8]) && first[8] == b' ' && status.iter().all(u8::is_ascii_digit) && space;
            (is_sound, status[0] == b'1' || status == b"204" || status == b"304")
        }
    };
    if !is_sound {
        return None;
    }
    let lengths = message.all("content-length");
    let codings = message.all("transfer-encoding").join(&b","[..]);
    let is_identity = loose && !lengths.is_empty() && trimmed(&codings).eq_ignore_ascii_case(b"identity");
    let coded = !message.all("transfer-encoding").is_empty() && !is_identity;
    let length = match lengths[..] {
        [] => None,
        // In an answer, a list of equal ones is one; in a request it is not even looked into.
        _ if loose && !coded => {
            let all = lengths.join(&b","[..]);
            Some(equal_lengths(&all.split(|byte| *byte == b',').collect::<Vec<_>>())?)
        }
        [_] if !coded => Some(equal_lengths(&lengths)?),
        _ => return None,
    };
    if coded && (!trimmed(&codings).eq_ignore_ascii_case(b"chunked") || message.http10() && !loose) {
        return None;
    }
    if no_body {
        return Some(message);
    }
    if coded {
        (message.body, message.end) = chunked(stream, at)?;
    } else if let Some(length) = length {
        message.body = stream.get(at..)?.get(..usize::try_from(length).ok()?)?.to_vec();
        message.end += message.body.len();
    } else if side == Side::Answers {
        message.body = stream[at..].to_vec();
        message.end = stream.len();
        message.until_close = true;
    }
    Some(message)
}

/// What all of these say.
fn equal_lengths(lengths: &[&[u8]]) -> Option<u64> {
    let number = |length: &&[u8]| -> Option<u64> {
        let digits = trimmed(length);
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
    };
    let numbers: Option<Vec<u64>> = lengths.iter().map(number).collect();
    numbers.filter(|numbers| numbers.windows(2).all(|pair| pair[0] == pair[1]))?.first().copied()
}

fn is_version(version: &[u8]) -> bool {
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit())
}
