//! The HTTP side of a machine: one request at a time on a kept-alive connection (RFC 9112).

use std::net::SocketAddr;

/// Longest answer that a machine takes, head and body.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Appends `POST /v1/records/MACHINE` with the record as its body. `key` tells retries of one record from two records.
pub(super) fn encode_request(buffer: &mut Vec<u8>, to: SocketAddr, machine: &str, key: &str, body: &[u8]) {
    use std::io::Write;
    write!(
        buffer,
        "POST /v1/records/{machine} HTTP/1.1\r\nHost: {to}\r\nContent-Type: text/plain\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .expect("a Vec takes all bytes");
    buffer.extend_from_slice(body);
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
        None => return Answer::Whole { status, keep_alive: false, retry_after_s },
    };
    if bytes.len() < head_bytes + body_bytes {
        return Answer::Unfinished;
    }
    let keep_alive = !closes && bytes.len() == head_bytes + body_bytes;
    Answer::Whole { status, keep_alive, retry_after_s }
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
        assert_eq!(parse_answer(answer), Answer::Whole { status: 201, keep_alive: true, retry_after_s: None });
    }

    #[test]
    fn retry_after_and_close_are_seen() {
        let answer = b"HTTP/1.1 503 No\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(parse_answer(answer), Answer::Whole { status: 503, keep_alive: false, retry_after_s: Some(2) });
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        assert_eq!(parse_answer(interim), Answer::Whole { status: 204, keep_alive: true, retry_after_s: None });
        assert_eq!(parse_answer(b"SSH-2.0-OpenSSH\r\n"), Answer::Malformed);
    }

    #[test]
    fn a_request_names_its_machine_and_its_length() {
        let mut buffer = Vec::new();
        encode_request(&mut buffer, "127.0.0.1:80".parse().unwrap(), "machine-0007", "k-1", b"data");
        let text = String::from_utf8(buffer).unwrap();
        assert!(text.starts_with("POST /v1/records/machine-0007 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert!(text.ends_with("Idempotency-Key: k-1\r\nContent-Length: 4\r\n\r\ndata"));
    }
}
