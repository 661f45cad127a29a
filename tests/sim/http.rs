//! Small strict HTTP/1.1 readers of the simulator's own, which share nothing with the crate's: one for the requests that
//! the shard makes, one for the answers that it gives.

/// A request of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub target: String,
    /// GET, else POST.
    pub get: bool,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of all of it.
    pub bytes: usize,
}

/// An answer of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub bytes: usize,
}

impl Request {
    /// The value of a header that must be there once.
    pub fn header(&self, name: &str) -> Result<&str, String> {
        one(&self.headers, name)
    }
}

impl Answer {
    /// Whether the server closes after it.
    pub fn closes(&self) -> bool {
        one(&self.headers, "connection").is_ok_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn one<'a>(headers: &'a [(String, String)], name: &str) -> Result<&'a str, String> {
    let mut values = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(format!("no {name} header")),
        (Some(_), Some(_)) => Err(format!("more than one {name} header")),
    }
}

/// Reads a request from the start of `input`; `None` while it is not whole.
///
/// # Errors
/// Whatever a careful client would not send: anything but POST, HTTP/1.1, CRLF, one Content-Length in plain decimals.
pub fn request(input: &[u8]) -> Result<Option<Request>, String> {
    let Some((first, headers, head)) = head(input)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let get = method == Some("GET");
    if (method, version, words.next()) != (Some(if get { "GET" } else { "POST" }), Some("HTTP/1.1"), None) {
        return Err(format!("request line {first:?}"));
    }
    let target = target.filter(|target| target.starts_with('/')).ok_or_else(|| format!("target in {first:?}"))?;
    if get {
        let bare =
            ["content-length", "transfer-encoding", "content-type"].iter().all(|name| one(&headers, name).is_err());
        let request = Request { target: target.into(), get, headers, body: Vec::new(), bytes: head };
        return if bare { Ok(Some(request)) } else { Err("a GET with a body".into()) };
    }
    if one(&headers, "transfer-encoding").is_ok() {
        return Err("a chunked request, although its length is known".into());
    }
    let length = decimal(one(&headers, "content-length")?)?;
    let Some(body) = input.get(head..head + length) else { return Ok(None) };
    Ok(Some(Request { target: target.into(), get, headers, body: body.to_vec(), bytes: head + length }))
}

/// Reads an answer from the start of `input`; `None` while it is not whole.
///
/// # Errors
/// As [`request`].
pub fn answer(input: &[u8]) -> Result<Option<Answer>, String> {
    let Some((first, headers, head)) = head(input)? else { return Ok(None) };
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).ok_or_else(|| first.clone())?;
    let status: u16 = status.parse().map_err(|_| format!("status line {first:?}"))?;
    let length = decimal(one(&headers, "content-length")?)?;
    let bytes = head + length;
    let body = input.get(head..bytes).map(<[u8]>::to_vec);
    Ok(body.map(|body| Answer { status, headers, body, bytes }))
}

fn decimal(value: &str) -> Result<usize, String> {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| value.parse().ok()).flatten().ok_or_else(|| format!("Content-Length {value:?}"))
}

type Head = (String, Vec<(String, String)>, usize);

/// First line, fields and length of a head that ends in an empty line.
fn head(input: &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if input.len() > 16 * 1024 { Err("a head over 16 KiB".into()) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&input[..end]).map_err(|_| "a head that is not ASCII")?;
    if text.bytes().any(|byte| !byte.is_ascii() || (byte < b' ' && byte != b'\r' && byte != b'\n')) {
        return Err("control characters in a head".into());
    }
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines.clone().chain([first.as_str()]) {
        if line.contains(['\r', '\n']) {
            return Err(format!("a bare CR or LF in {line:?}"));
        }
    }
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("field name {name:?}"));
        }
        headers.push((name.to_owned(), value.trim_matches(' ').to_owned()));
    }
    Ok(Some((first, headers, end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] =
        b"POST /films/ HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\nIdempotency-Key: k\r\n\r\nhelloPOST";

    #[test]
    fn a_request_is_read_once_its_last_byte_is_there_and_not_before() {
        for end in 0..GOOD.len() - 4 {
            assert_eq!(request(&GOOD[..end]), Ok(None), "{end}");
        }
        let read = request(GOOD).unwrap().unwrap();
        assert_eq!(
            (read.target.as_str(), read.body.as_slice(), read.bytes),
            ("/films/", &b"hello"[..], GOOD.len() - 4)
        );
        assert_eq!(read.header("idempotency-key"), Ok("k"));
        assert!(read.header("cookie").is_err());
    }

    #[test]
    fn a_careless_request_is_an_error() {
        for (good, bad) in [
            ("POST", "GET"),
            ("POST", "PUT"),
            ("/1.1", "/1.0"),
            ("\r\nHost", "\nHost"),
            ("Host: ", "Host : "),
            ("Host: a:1", "Host"),
            ("Length: 5", "Length: +5"),
            ("Length: 5", "Length: 5\r\nContent-Length: 5"),
            ("Length: 5", "Length: 5\r\nTransfer-Encoding: chunked"),
            ("Content-Length", "Content-Size"),
            (" /films/", " films"),
            ("films/ ", "films/  "),
        ] {
            let text = std::str::from_utf8(GOOD).unwrap().replacen(good, bad, 1);
            assert!(request(text.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_read_with_its_status_and_length() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        assert_eq!(answer(&text[..text.len() - 1]), Ok(None));
        let read = answer(text).unwrap().unwrap();
        assert_eq!((read.status, read.bytes, read.closes()), (201, text.len(), true));
        assert_eq!(read.body, b"{}");
        assert!(answer(b"HTTP/1.0 201 Created\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
