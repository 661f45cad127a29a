//! The HTTP side of a machine: one request at a time on a kept-alive connection (RFC 9112).

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;

/// Longest answer that a machine takes, head and body.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a request is made of.
pub(super) struct Request<'r> {
    pub(super) to: SocketAddr,
    pub(super) machine: &'r str,
    /// Tells retries of one request from two requests.
    pub(super) key: &'r str,
    pub(super) token: Option<&'r Token>,
    /// Its body is a record a line.
    pub(super) is_batch: bool,
    pub(super) gzip: bool,
    /// It is the only one on its connection.
    pub(super) is_only: bool,
    pub(super) body: &'r [u8],
}

/// A secret that every HTTP machine sends with its requests.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Of a text, without the white space around it.
    ///
    /// # Errors
    /// In words, if it cannot stand in a header (RFC 6750 section 2.1).
    pub fn new(text: &str) -> Result<Self, &'static str> {
        match text.trim() {
            "" => Err("it is empty"),
            token if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("a token is one word of printable ASCII, on one line")
            }
            token => Ok(Self(token.to_owned())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Appends `POST /v1/records/MACHINE`.
pub(super) fn encode_request(buffer: &mut Vec<u8>, request: &Request<'_>) {
    let Request { to, machine, key, .. } = request;
    let content_type = if request.is_batch { "application/x-ndjson" } else { "text/plain" };
    let packed = request.gzip.then(|| gzip(request.body));
    let body = packed.as_deref().unwrap_or(request.body);
    write!(
        buffer,
        "POST /v1/records/{machine} HTTP/1.1\r\nHost: {to}\r\nContent-Type: {content_type}\r\nIdempotency-Key: {key}\r\n"
    )
    .expect("a Vec takes all bytes");
    if let Some(Token(token)) = request.token {
        write!(buffer, "Authorization: Bearer {token}\r\n").expect("a Vec takes all bytes");
    }
    if request.gzip {
        buffer.extend_from_slice(b"Content-Encoding: gzip\r\n");
    }
    if request.is_only {
        buffer.extend_from_slice(b"Connection: close\r\n");
    }
    write!(buffer, "Content-Length: {}\r\n\r\n", body.len()).expect("a Vec takes all bytes");
    buffer.extend_from_slice(body);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("a Vec takes all bytes")
}

/// How many records an answer says were accepted, in its last `body_bytes`.
pub(super) fn accepted(answer: &[u8], body_bytes: usize) -> Option<u64> {
    let body = &answer[answer.len() - body_bytes..];
    serde_json::from_slice::<serde_json::Value>(body).ok()?.get("accepted")?.as_u64()
}

/// What the bytes of an answer amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// More bytes are needed.
    Unfinished,
    /// No HTTP answer, or one that is too long.
    Malformed,
    /// A whole answer.
    Whole {
        /// Status code.
        status: u16,
        /// Whether the connection may carry another request.
        keep_alive: bool,
        /// Of the header, in seconds.
        retry_after_s: Option<u64>,
        /// Length of the body, where it is known; the answer ends with it.
        body_bytes: usize,
    },
}

/// Reads an answer. One whose length is not given by Content-Length ends the connection: its status is all that matters.
pub(super) fn parse_answer(bytes: &[u8]) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < ANSWER_BYTES_MAX => return Answer::Unfinished,
        _ => return Answer::Malformed,
    };
    let status = response.code.unwrap_or(0);
    if (100..200).contains(&status) {
        // An interim answer (RFC 9110 section 15.2): the final one follows it.
        return parse_answer(&bytes[head_bytes..]);
    }
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(std::str::from_utf8(header.value).ok()?.trim())
    };
    let retry_after_s = value("retry-after").and_then(|value| value.parse().ok());
    let closes = response.version == Some(0) || value("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let body_bytes = match value("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) if length <= ANSWER_BYTES_MAX => length,
        Some(_) => return Answer::Malformed,
        None if matches!(status, 204 | 304) => 0,
        None => return Answer::Whole { status, keep_alive: false, retry_after_s, body_bytes: 0 },
    };
    if bytes.len() < head_bytes + body_bytes {
        return Answer::Unfinished;
    }
    let is_all = bytes.len() == head_bytes + body_bytes;
    let body_bytes = if is_all { body_bytes } else { 0 };
    Answer::Whole { status, keep_alive: !closes && is_all, retry_after_s, body_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_not_before() {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 14\r\n\r\n{\"accepted\":1}";
        for end in 0..answer.len() {
            assert_eq!(parse_answer(&answer[..end]), Answer::Unfinished, "{end} bytes");
        }
        assert_eq!(
            parse_answer(answer),
            Answer::Whole { status: 201, keep_alive: true, retry_after_s: None, body_bytes: 14 }
        );
        assert_eq!((accepted(answer, 14), accepted(answer, 0)), (Some(1), None));
    }

    #[test]
    fn retry_after_and_close_are_seen() {
        let answer = b"HTTP/1.1 503 No\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(
            parse_answer(answer),
            Answer::Whole { status: 503, keep_alive: false, retry_after_s: Some(2), body_bytes: 0 }
        );
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        assert_eq!(
            parse_answer(interim),
            Answer::Whole { status: 204, keep_alive: true, retry_after_s: None, body_bytes: 0 }
        );
        assert_eq!(parse_answer(b"SSH-2.0-OpenSSH\r\n"), Answer::Malformed);
    }

    #[test]
    fn a_request_names_its_machine_and_its_length() {
        let token = Token::new(" secret\n").unwrap();
        let plain = Request {
            to: "127.0.0.1:80".parse().unwrap(),
            machine: "machine-0007",
            key: "k-1",
            token: None,
            is_batch: false,
            gzip: false,
            is_only: false,
            body: b"data",
        };
        let text = |request: &Request<'_>| {
            let mut buffer = Vec::new();
            encode_request(&mut buffer, request);
            buffer
        };
        let found = String::from_utf8(text(&plain)).unwrap();
        assert!(found.starts_with("POST /v1/records/machine-0007 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert!(found.ends_with("Idempotency-Key: k-1\r\nContent-Length: 4\r\n\r\ndata"));
        let all = text(&Request { token: Some(&token), is_batch: true, gzip: true, is_only: true, ..plain });
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        for line in [
            "Content-Type: application/x-ndjson",
            "Authorization: Bearer secret",
            "Content-Encoding: gzip",
            "Connection: close",
            &format!("Content-Length: {}", all.len() - end),
        ] {
            assert!(head.lines().any(|found| found == line), "{line}\n{head}");
        }
        let mut body = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&all[end..]), &mut body).unwrap();
        assert_eq!(body, "data");
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::new(" \n").is_err() && Token::new("two words").is_err());
    }
}
