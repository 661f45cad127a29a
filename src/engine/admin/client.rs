//! One blocking HTTP request, for commands that ask a running gateway. Never used on the data path.

use super::token::Token;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// No answer of the admin server is larger; more is not read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The address cannot be resolved or is none.
    #[error("{address} is no address: {source}")]
    Address {
        /// As it was given.
        address: String,
        /// The resolver's words.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("nobody listens on {address}")]
    Refused {
        /// As it was given.
        address: String,
    },
    /// The connection failed or timed out.
    #[error("{address} does not answer: {source}")]
    Io {
        /// As it was given.
        address: String,
        /// What failed.
        source: io::Error,
    },
    /// Something answered, but not in HTTP.
    #[error("{address} does not speak HTTP: {reason}")]
    NotHttp {
        /// As it was given.
        address: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Gets `path` (starting with `/`) from `address` (`host:port`). The whole exchange takes at most `timeout`.
///
/// HTTP/1.0 is spoken, so that the answer comes without transfer coding and ends with the connection (RFC 9112 section 6.3).
pub fn get(address: &str, path: &str, timeout: Duration) -> Result<Answer, GetError> {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n"), timeout)
}

/// Posts JSON with a gateway's token, in the same way as [`get`] gets.
pub fn post(address: &str, path: &str, token: &Token, json: &str, timeout: Duration) -> Result<Answer, GetError> {
    let length = json.len();
    let token = token.authorization();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
    );
    ask(address, &format!("{head}Content-Length: {length}\r\n\r\n{json}"), timeout)
}

fn ask(address: &str, request: &str, timeout: Duration) -> Result<Answer, GetError> {
    let deadline = Instant::now() + timeout;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => GetError::Refused { address: address.to_owned() },
        _ => GetError::Io { address: address.to_owned(), source },
    };
    let mut stream = connect(address, deadline, failed)?;
    stream.set_write_timeout(Some(left(deadline).map_err(failed)?)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 * 1024];
    // The deadline is for the whole answer, not for each read.
    loop {
        stream.set_read_timeout(Some(left(deadline).map_err(failed)?)).map_err(failed)?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(failed(timed_out())),
            Err(error) => return Err(failed(error)),
        }
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(failed(io::Error::other("the answer is too large")));
        }
    }
    parse(&bytes).map_err(|reason| GetError::NotHttp { address: address.to_owned(), reason })
}

fn connect(address: &str, deadline: Instant, failed: impl Fn(io::Error) -> GetError) -> Result<TcpStream, GetError> {
    let resolved =
        address.to_socket_addrs().map_err(|source| GetError::Address { address: address.to_owned(), source })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, left(deadline).map_err(&failed)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// What is left until `deadline`; never zero, which sockets do not take as a timeout.
fn left(deadline: Instant) -> io::Result<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or_else(timed_out)
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Err("the header is not complete".to_owned()),
    };
    let body = &bytes[length..];
    let announced = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    if let Some(header) = announced {
        let announced = std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse::<usize>().ok());
        if announced != Some(body.len()) {
            return Err("the body is not complete".to_owned());
        }
    }
    Ok(Answer { status: response.code.unwrap_or_default(), body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn serve_once(answer: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).expect("a request");
            stream.write_all(answer).expect("sent");
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        (address, server)
    }

    #[test]
    fn an_answer_is_read_whole() {
        let (address, server) = serve_once(b"HTTP/1.0 503 No\r\nContent-Length: 3\r\n\r\nabc");
        let answer = get(&address, "/x?y", Duration::from_secs(5)).expect("an answer");
        assert_eq!(answer, Answer { status: 503, body: b"abc".to_vec() });
        let request = server.join().expect("ended");
        assert!(request.starts_with("GET /x?y HTTP/1.0\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nHost: {address}\r\n")), "{request}");
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let (address, server) = serve_once(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc");
        let error = get(&address, "/", Duration::from_secs(5)).expect_err("cut short");
        assert!(matches!(error, GetError::NotHttp { .. }), "{error}");
        server.join().expect("ended");
    }

    #[test]
    fn nobody_there_is_said_plainly() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = get(&address, "/", Duration::from_secs(5)).expect_err("nobody");
        assert_eq!(error.to_string(), format!("nobody listens on {address}"));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let start = Instant::now();
        let error = get(&address, "/", Duration::from_millis(200)).expect_err("silence");
        assert!(matches!(error, GetError::Io { .. }), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(200));
    }
}
