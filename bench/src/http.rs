//! Just enough of HTTP/1.1 for both ends of the bench: Content-Length, keep-alive, pipelining.

use memchr::{memchr, memmem};

/// The receiver's answer to a record.
pub const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
/// What stands before the number in the answer of the id step; ids have [`ID_DIGITS`] digits.
pub const ID_HEAD: &[u8] =
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"id\":";
/// Digits of an id, so that all answers have one length.
pub const ID_DIGITS: usize = 10;
/// The first id.
pub const ID_FIRST: u64 = 1_000_000_000;
/// Length of an answer of the id step.
pub const ID_ANSWER_BYTES: usize = ID_HEAD.len() + ID_DIGITS + 1;

/// How many ids a request of the id step asks for: the `count` of its body, 1 without one; `None` if it is no number above 0.
pub fn ids_asked(body: &[u8]) -> Option<u64> {
    let name = b"\"count\":";
    let Some(at) = memmem::find(body, name) else { return Some(1) };
    let value = body[at + name.len()..].trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok().filter(|count| *count > 0)
}

/// Answers the id step: the first id, and with a lease the count of those that it begins.
pub fn write_ids(out: &mut Vec<u8>, first: u64, count: u64) {
    use std::io::Write;
    if count == 1 {
        out.extend_from_slice(ID_HEAD);
        let _ = write!(out, "{first}}}");
        return;
    }
    let body = format!("{{\"id\":{first},\"count\":{count}}}");
    let _ = write!(
        out,
        "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}
/// The floor's answer to a machine: as the gateway's.
pub const ACCEPTED: &[u8] =
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"accepted\":1}";

/// Head and body of a message at the head of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The start line, without its end.
    pub start: &'a [u8],
    /// The value of Idempotency-Key; empty if there is none.
    pub key: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// Length of all of it.
    pub bytes: usize,
}

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// More bytes are needed.
    Unfinished,
    /// A start line or a field that this bench does not read.
    Malformed,
}

/// Reads a message whose length is given by Content-Length (0 without one).
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Error> {
    let line_end = |from: usize| match memchr(b'\n', &bytes[from..]) {
        Some(length) if length > 0 && bytes[from + length - 1] == b'\r' => Ok(from + length),
        Some(_) => Err(Error::Malformed),
        None => Err(Error::Unfinished),
    };
    let first = line_end(0)?;
    let (mut key, mut length, mut at): (&[u8], _, _) = (&[], 0, first + 1);
    loop {
        let end = line_end(at)?;
        let line = &bytes[at..end - 1];
        at = end + 1;
        match line.len() {
            0 => break,
            _ if has_name(line, b"content-length:") => {
                let digits = line[15..].trim_ascii();
                length = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Error::Malformed)?;
            }
            _ if has_name(line, b"idempotency-key:") => key = line[16..].trim_ascii(),
            _ if has_name(line, b"transfer-encoding:") => return Err(Error::Malformed),
            _ => {}
        }
    }
    let body = bytes.get(at..at + length).ok_or(Error::Unfinished)?;
    Ok(Message { start: &bytes[..first - 1], key, body, bytes: at + length })
}

#[inline]
fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

/// Gives `each` the bytes from the start of each record of a body: one record, lines with one each, or an array of them.
/// `false` if a line (or the body) has none. `finder` looks for what a record begins with.
#[inline]
pub fn each_record(finder: &memmem::Finder<'_>, body: &[u8], mut each: impl FnMut(&[u8])) -> bool {
    let (start, mut hint) = (finder.needle(), 0);
    let mut rest = body;
    loop {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        // Lines are alike, so their records stand at one place.
        let found = line.get(hint..).filter(|at| at.starts_with(start)).map(|_| hint);
        let Some(at) = found.or_else(|| finder.find(line)) else { return false };
        hint = at;
        let mut record = &line[at..];
        loop {
            each(record);
            record = &record[record.len().min(crate::record::BYTES)..];
            let Some(next) = finder.find(record) else { break };
            record = &record[next..];
        }
        if rest.len() <= end + 1 {
            return true;
        }
        rest = &rest[end + 1..];
    }
}

/// A POST as the gateway sends it with its default template. `body` must be of the length it will always have.
pub fn request(target: &str, host: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_at_its_last_byte_and_not_before() {
        let mut bytes = request("/films/", "127.0.0.1:80", "k-1", "{\"data\": 1}");
        let length = bytes.len();
        bytes.extend_from_slice(b"POST");
        for end in 0..length {
            assert_eq!(parse(&bytes[..end]), Err(Error::Unfinished), "{end} bytes");
        }
        let message = parse(&bytes).unwrap();
        assert_eq!((message.key, message.body, message.bytes), (&b"k-1"[..], &b"{\"data\": 1}"[..], length));
        assert_eq!(message.start, b"POST /films/ HTTP/1.1");
    }

    #[test]
    fn the_fixed_answers_say_their_length() {
        for answer in [CREATED, ACCEPTED] {
            assert_eq!(parse(answer).unwrap().bytes, answer.len());
        }
        let id = [ID_HEAD, ID_FIRST.to_string().as_bytes(), b"}"].concat();
        assert_eq!(parse(&id).unwrap().bytes, ID_ANSWER_BYTES);
    }

    #[test]
    fn ids_are_asked_for_one_by_one_or_by_their_count() {
        assert_eq!(
            (ids_asked(b"{}"), ids_asked(b"{\"count\": 100}"), ids_asked(b"{\"count\":7}")),
            (Some(1), Some(100), Some(7))
        );
        assert_eq!((ids_asked(b"{\"count\": 0}"), ids_asked(b"{\"count\": \"x\"}")), (None, None));
        let mut answer = Vec::new();
        write_ids(&mut answer, ID_FIRST, 1);
        assert_eq!(answer.len(), ID_ANSWER_BYTES);
        answer.clear();
        write_ids(&mut answer, ID_FIRST, 100);
        let message = parse(&answer).unwrap();
        assert_eq!((message.body, message.bytes), (&b"{\"id\":1000000000,\"count\":100}"[..], answer.len()));
    }

    #[test]
    fn each_record_of_a_body_is_found_and_a_line_without_one_is_noticed() {
        let finder = memmem::Finder::new(crate::record::START);
        let record = |sequence| {
            let mut out = [0; crate::record::BYTES];
            crate::record::write(&mut out, crate::record::Record { machine: 1, sequence, scheduled_ns: 1 });
            String::from_utf8(out.to_vec()).unwrap()
        };
        let sequences = |body: &str| {
            let mut found = Vec::new();
            let whole =
                each_record(&finder, body.as_bytes(), |at| found.push(crate::record::parse(at).map(|r| r.sequence)));
            (whole, found)
        };
        let (a, b, c) = (record(0), record(1), record(2));
        assert_eq!(sequences(&a), (true, vec![Some(0)]));
        assert_eq!(
            sequences(&format!("{{\"d\": \"{a}\"}}\n{{\"data\": \"{b}\"}}\n{c}")),
            (true, vec![Some(0), Some(1), Some(2)])
        );
        assert_eq!(sequences(&format!("{{\"films\": [\"{a}\", \"{b}\"]}}\n")), (true, vec![Some(0), Some(1)]));
        assert_eq!(sequences(&format!("{a}\n{{}}\n{b}\n")), (false, vec![Some(0)]));
        assert_eq!(sequences(&format!("{a}\n{}", &b[..40])), (true, vec![Some(0), None]));
        assert_eq!(sequences(""), (false, vec![]));
    }

    #[test]
    fn chunked_messages_and_bare_line_feeds_are_refused() {
        assert_eq!(parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Error::Malformed));
        assert_eq!(parse(b"POST / HTTP/1.1\n\n"), Err(Error::Malformed));
    }
}
