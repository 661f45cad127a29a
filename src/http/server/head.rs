//! A request's head: the request line, read byte for byte, and the fields, read by `httparse`.

use super::limits::Limits;
use httparse::{EMPTY_HEADER, Header, Status};

use super::answer::Refusal;
use super::connection::Lasts;
use super::door::Caller;
use super::forms::{self, Details, Forms, Query, Rules};
use crate::ground::proxy;
use crate::http::fields::{Framing, FramingFields, is_token, is_token_byte, list};

/// Longest method that is looked at, in bytes.
const METHOD_BYTES_MAX: usize = 32;
/// Longest Idempotency-Key, in bytes: it is kept with the record.
const KEY_BYTES_MAX: usize = 255;
/// Fields that a head may have before a larger table is taken.
const FIELDS_COMMON: usize = 16;

/// A whole head whose message can be framed for certain.
#[derive(Debug)]
pub(super) struct Head<'h> {
    pub(super) framing: Framing,
    /// No `Connection: close`, and in HTTP/1.0 `Connection: keep-alive`; there a connection that goes on is said to (RFC 9112
    /// section 9.3, RFC 2068 section 19.7.1).
    pub(super) lasts: Lasts,
    /// The client holds the body back until it hears `100 Continue`.
    pub(super) expects_continue: bool,
    /// A HEAD request, whose answer has no body.
    pub(super) head_only: bool,
    pub(super) is_get: bool,
    pub(super) route: Route<'h>,
    /// Those that are kept with each record of the request, encoded.
    pub(super) headers: Vec<u8>,
    pub(super) caller: Caller<'h>,
}

/// What a request is for.
#[derive(Debug)]
pub(super) enum Route<'h> {
    /// A record, or several.
    Ingest(Ingest<'h>),
    /// OPTIONS.
    Options,
    /// Nothing; the connection can go on once the body is drained.
    Refused(Refusal),
    /// CONNECT: what follows would not be HTTP.
    Tunnel(Refusal),
}

/// What a request of records says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ingest<'h> {
    pub(super) source: &'h str,
    pub(super) content_type: Option<&'h [u8]>,
    pub(super) idempotency_key: Option<&'h [u8]>,
    /// The body is packed by gzip.
    pub(super) is_packed: bool,
    /// The record itself, where it is the query of a GET; every `%` in it stands for a byte.
    pub(super) query: Option<&'h [u8]>,
}

/// The three parts of a request line.
#[derive(Debug)]
struct RequestLine<'h> {
    method: &'h [u8],
    target: &'h [u8],
    http10: bool,
}

/// Whether a request line that is not whole yet can still become one: what is too long is told before its end comes. Asked
/// again for each piece, so it searches no more than it must.
pub(super) fn check_line_so_far(line: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() <= METHOD_BYTES_MAX {
        return Ok(());
    }
    let Some(method_end) = memchr::memchr(b' ', &line[..METHOD_BYTES_MAX + 1]) else {
        return Err(Refusal::bad("the method is over 32 bytes", "POST or PUT"));
    };
    let target = &line[method_end + 1..];
    if target.len() > limits.target_bytes && memchr::memchr(b' ', target).unwrap_or(target.len()) > limits.target_bytes
    {
        return Err(Refusal::new(414, "the target is too long", "target in [limits], 8,000 bytes by default"));
    }
    Ok(())
}

/// A PROXY header where none counts.
pub(super) const PROXY_HEADER: Refusal = Refusal::of(
    400,
    "a PROXY header comes first, once, and from a peer in proxies",
    &Details {
        came: "a PROXY header; this peer is not in proxies, or its header has come before",
        allowed: "HTTP; or the address of this proxy in proxies of the source",
    },
);

const MALFORMED_LINE: &str = "the request line is not METHOD SP TARGET SP VERSION";

/// Checks a whole request line, without its CRLF.
pub(super) fn check_line(line: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if proxy::recognize(line) == Some(true) {
        return Err(PROXY_HEADER);
    }
    check_line_so_far(line, limits)?;
    RequestLine::parse(line).map(|_| ())
}

impl<'h> RequestLine<'h> {
    /// Exactly one SP between the parts (RFC 9112 section 3).
    fn parse(line: &'h [u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::bad(MALFORMED_LINE, "POST /v1/records/SOURCE HTTP/1.1");
        let split = |bytes: &'h [u8]| memchr::memchr(b' ', bytes).map(|at| (&bytes[..at], &bytes[at + 1..]));
        let Some((method, rest)) = split(line) else { return Err(malformed) };
        let Some((target, version)) = split(rest) else { return Err(malformed) };
        if !is_token(method) || target.is_empty() {
            return Err(malformed);
        }
        let http10 = version_is_1_0(version)?;
        // All of them, since a loop without an early end looks at many at once.
        let is_uri = |so_far: bool, byte: &u8| so_far & (0x21..=0x7e).contains(byte) & (*byte != b'#');
        if !target.iter().fold(true, is_uri) {
            return Err(Refusal::bad(
                "the target holds a fragment or a byte that no URI has",
                "visible ASCII without #",
            ));
        }
        Ok(Self { method, target, http10 })
    }
}

/// Whether a version is HTTP/1.0; a later minor version of 1 counts as 1.1 (RFC 9110 section 2.5).
fn version_is_1_0(version: &[u8]) -> Result<bool, Refusal> {
    match version {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => match major {
            b'1' => Ok(*minor == b'0'),
            b'0' => Err(Refusal::bad("HTTP/0 is not spoken here", "HTTP/1.1 or HTTP/1.0")),
            _ => Err(Refusal::new(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", "HTTP/1.1 or HTTP/1.0")),
        },
        _ => Err(Refusal::bad("the version is not HTTP/1.1", "HTTP/1.1 or HTTP/1.0")),
    }
}

/// Reads a whole head: its request line, its fields and the empty line after them, all ended by CRLF and free of bare CR and
/// LF; where the source allows it by LF, too, which `httparse` takes for a line's end. An error is answered and ends the connection.
pub(super) fn parse<'h>(head: &'h [u8], line_end: usize, rules: Rules<'_>) -> Result<Head<'h>, Refusal> {
    let line = RequestLine::parse(&head[..line_end])?;
    let fields = head[line_end..].strip_prefix(b"\r").unwrap_or(&head[line_end..]);
    let fields = fields.strip_prefix(b"\n").expect("a line ends here");
    let mut few = [EMPTY_HEADER; FIELDS_COMMON];
    let allowed = rules.limits.header_fields;
    match httparse::parse_headers(fields, &mut few[..FIELDS_COMMON.min(allowed)]) {
        Err(httparse::Error::TooManyHeaders) if allowed > FIELDS_COMMON => {
            let mut many = vec![EMPTY_HEADER; allowed];
            let parsed = httparse::parse_headers(fields, &mut many);
            interpret(line, parsed, rules.forms)
        }
        parsed => interpret(line, parsed, rules.forms),
    }
}

fn interpret<'h>(
    line: RequestLine<'h>,
    parsed: httparse::Result<(usize, &[Header<'h>])>,
    forms: &Forms,
) -> Result<Head<'h>, Refusal> {
    let fields = match parsed {
        Ok(Status::Complete((_, fields))) => fields,
        Ok(Status::Partial) => unreachable!("the head ends with an empty line"),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, "too many header fields", "header_fields in [limits], 100 by default"));
        }
        Err(httparse::Error::HeaderName) => {
            return Err(Refusal::bad(
                "a header field's name is malformed, or the field is folded",
                "NAME: VALUE on one line",
            ));
        }
        Err(_) => {
            return Err(Refusal::bad(
                "a header field's value holds a control character",
                "visible characters, spaces and tabs",
            ));
        }
    };
    let mut seen = Fields::default();
    for field in fields {
        seen.observe(field)?;
    }
    seen.check_host(line.http10)?;
    let framing = seen.framing.resolve(line.http10)?;
    let path = path_of(&line)?;
    let expects = if line.http10 { Expect::Nothing } else { seen.expect };
    let mut route = route(&line, path, &seen, (expects, framing), forms);
    seen.caller.is_options = line.method == b"OPTIONS";
    if let Route::Ingest(ingest) = &route {
        seen.caller.source = Some(ingest.source);
    }
    let mut headers = Vec::new();
    if let (Route::Ingest(_), Some(keeps)) = (&route, &forms.keeps) {
        match keeps.gather(fields) {
            Ok(kept) => headers = kept,
            Err(refusal) => route = Route::Refused(refusal),
        }
    }
    let lasts = match (seen.close, line.http10) {
        (false, false) => Lasts::Yes,
        (false, true) if seen.keep_alive => Lasts::Told,
        _ => Lasts::No,
    };
    Ok(Head {
        framing,
        lasts,
        expects_continue: expects == Expect::Continue,
        head_only: line.method == b"HEAD",
        is_get: line.method == b"GET",
        caller: seen.caller,
        headers,
        route,
    })
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Nothing,
    Continue,
    Unknown,
}

/// The fields that matter here.
#[derive(Debug, Default)]
struct Fields<'h> {
    hosts: u32,
    framing: FramingFields,
    close: bool,
    keep_alive: bool,
    expect: Expect,
    content_types: u32,
    content_type: Option<&'h [u8]>,
    /// Content codings: those that are gzip, and whether there is another one.
    gzips: u32,
    foreign_encoding: bool,
    keys: u32,
    key: Option<&'h [u8]>,
    is_prefetch: bool,
    caller: Caller<'h>,
}

impl<'h> Fields<'h> {
    fn observe(&mut self, field: &Header<'h>) -> Result<(), Refusal> {
        let (name, value) = (field.name, field.value);
        let is = |expected: &str| name.eq_ignore_ascii_case(expected);
        match name.len() {
            4 if is("host") => {
                self.hosts += 1;
                if !value.is_empty() && !is_authority(value) {
                    return Err(Refusal::bad("Host is not a host and a port", "HOST or HOST:PORT"));
                }
            }
            6 if is("expect") => {
                let known = value.eq_ignore_ascii_case(b"100-continue") && self.expect != Expect::Unknown;
                self.expect = if known { Expect::Continue } else { Expect::Unknown };
            }
            6 if is("origin") => self.caller.origin.see(value),
            7 if is("purpose") => self.see_purpose(value),
            10 if is("connection") => {
                self.close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                self.keep_alive |= list(value).any(|option| option.eq_ignore_ascii_case(b"keep-alive"));
            }
            11 if is("sec-purpose") => self.see_purpose(value),
            12 if is("content-type") => {
                self.content_types += 1;
                self.content_type = Some(value);
            }
            13 if is("authorization") => self.caller.authorization.see(value),
            14 if is("content-length") => self.framing.content_length(value),
            14 if is("sec-fetch-site") => self.caller.fetch_site.see(value),
            15 if is("x-forwarded-for") => self.caller.forwarded_for.see(value),
            15 if is("idempotency-key") => {
                self.keys += 1;
                self.key = Some(value);
            }
            16 if is("content-encoding") => {
                // Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
                for coding in list(value).filter(|coding| !coding.is_empty()) {
                    let is = |name: &[u8]| coding.eq_ignore_ascii_case(name);
                    self.gzips += u32::from(is(b"gzip") || is(b"x-gzip"));
                    self.foreign_encoding |= !(is(b"gzip") || is(b"x-gzip") || is(b"identity"));
                }
            }
            17 if is("transfer-encoding") => self.framing.transfer_encoding(value),
            _ => {}
        }
        Ok(())
    }

    /// `prefetch`, perhaps with parameters (the Fetch standard, Sec-Purpose).
    fn see_purpose(&mut self, value: &[u8]) {
        self.is_prefetch |= list(value).any(|purpose| forms::essence(purpose).eq_ignore_ascii_case(b"prefetch"));
    }

    /// One Host, which only HTTP/1.0 may leave out (RFC 9112 section 3.2).
    fn check_host(&self, http10: bool) -> Result<(), Refusal> {
        match self.hosts {
            1 => Ok(()),
            0 if http10 => Ok(()),
            0 => Err(Refusal::bad("no Host", "one Host")),
            _ => Err(Refusal::bad("more than one Host", "one Host")),
        }
    }

    /// The media type of the body; a Content-Type that is none counts as none.
    fn media_type(&self) -> Option<&'h [u8]> {
        self.content_type.filter(|value| is_media_type(value))
    }

    /// What a request for records leaves to complain about.
    fn complaint(&self, expects: Expect) -> Option<Refusal> {
        if let Some(refusal) = self.complaint_of_any(expects) {
            return Some(refusal);
        }
        if self.foreign_encoding || self.gzips > 1 {
            return Some(forms::CODING);
        }
        if self.content_types > 1 {
            return Some(Refusal::new(415, "more than one Content-Type", "one Content-Type"));
        }
        self.media_type().and_then(forms::refusal_of)
    }

    /// What a GET that is a record leaves to complain about. It has no body of which a field could say anything.
    fn complaint_of_get(&self, expects: Expect, framing: Framing) -> Option<Refusal> {
        if self.is_prefetch {
            return Some(forms::PREFETCH);
        }
        if !matches!(framing, Framing::Absent | Framing::Length(0)) {
            return Some(forms::GET_WITH_BODY);
        }
        self.complaint_of_any(expects)
    }

    fn complaint_of_any(&self, expects: Expect) -> Option<Refusal> {
        if expects == Expect::Unknown {
            return Some(Refusal::new(
                417,
                "only the expectation 100-continue is known",
                "Expect: 100-continue, or none",
            ));
        }
        if self.keys > 1 || self.key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Some(Refusal::bad(
                "Idempotency-Key must stand there once, with 1 to 255 bytes",
                "one Idempotency-Key of 1 to 255 bytes, or none",
            ));
        }
        None
    }
}

/// The path and query of a target in any of its forms (RFC 9112 section 3.2); empty where there is only an authority.
fn path_of<'h>(line: &RequestLine<'h>) -> Result<&'h [u8], Refusal> {
    let target = line.target;
    if target[0] == b'/' || (target == b"*" && line.method == b"OPTIONS") {
        return Ok(target);
    }
    if line.method == b"CONNECT" {
        return Ok(b"");
    }
    let scheme = [b"http://".as_slice(), b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else {
        return Err(Refusal::bad("the target is neither a path nor an http URL", "/v1/records/SOURCE"));
    };
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || !is_authority(authority) {
        return Err(Refusal::bad(
            "the target's authority is not a host and a port",
            "http://HOST:PORT/v1/records/SOURCE",
        ));
    }
    Ok(path)
}

fn route<'h>(
    line: &RequestLine<'h>,
    target: &'h [u8],
    fields: &Fields<'h>,
    (expects, framing): (Expect, Framing),
    takes: &Forms,
) -> Route<'h> {
    let path = memchr::memchr(b'?', target).map_or(target, |at| &target[..at]);
    let query = target.get(path.len() + 1..);
    let source = path.strip_prefix(b"/v1/records/").and_then(source_name);
    match (line.method, source) {
        (b"POST" | b"PUT", Some(_)) if query.is_some() && takes.query == Query::Refuse => Route::Refused(forms::QUERY),
        (b"POST" | b"PUT", Some(source)) => match fields.complaint(expects) {
            Some(refusal) => Route::Refused(refusal),
            None => Route::Ingest(Ingest {
                source,
                content_type: fields.media_type(),
                idempotency_key: fields.key,
                is_packed: fields.gzips > 0,
                query: None,
            }),
        },
        (b"GET", Some(source)) if takes.get => match fields.complaint_of_get(expects, framing) {
            Some(refusal) => Route::Refused(refusal),
            None => route_of_query(source, query.unwrap_or_default(), fields.key),
        },
        (b"CONNECT", _) => Route::Tunnel(Refusal::method("this is no proxy", "POST or PUT")),
        (b"TRACE", _) => Route::Refused(Refusal::method("TRACE is not supported", "POST or PUT")),
        // An absolute-form target without a path asks of the server as a whole (RFC 9112 section 3.2.4).
        (b"OPTIONS", None) if path == b"*" || path.is_empty() => Route::Options,
        (b"OPTIONS", Some(_)) => Route::Options,
        (b"GET" | b"HEAD" | b"DELETE" | b"PATCH", Some(_)) => {
            let (rule, allowed) = match takes.get {
                true => ("records are sent by POST, PUT or GET", "POST, PUT or GET"),
                false => ("records are sent by POST or PUT", "POST or PUT"),
            };
            Route::Refused(Refusal::method(rule, allowed))
        }
        (b"POST" | b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"PATCH" | b"OPTIONS", None) => Route::Refused(
            Refusal::new(404, "records go to /v1/records/SOURCE", "a SOURCE of 1 to 64 of A-Z a-z 0-9 . _ -"),
        ),
        _ => Route::Refused(Refusal::new(501, "the method is not known", "POST or PUT")),
    }
}

/// A GET whose query is the record.
fn route_of_query<'h>(source: &'h str, query: &'h [u8], idempotency_key: Option<&'h [u8]>) -> Route<'h> {
    match forms::decoded_bytes(query) {
        None => Route::Refused(forms::BAD_PERCENT),
        Some(0) => Route::Refused(forms::NO_QUERY),
        Some(_) => {
            Route::Ingest(Ingest { source, content_type: None, idempotency_key, is_packed: false, query: Some(query) })
        }
    }
}

/// SOURCE, if it is 1 to 64 of `A-Za-z0-9._-`.
pub(super) fn source_name(name: &[u8]) -> Option<&str> {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 64 || !name.iter().all(known) {
        return None;
    }
    std::str::from_utf8(name).ok()
}

/// `type/subtype`, perhaps followed by parameters (RFC 9110 section 8.3.1), which are not looked into.
fn is_media_type(value: &[u8]) -> bool {
    let Some(slash) = value.iter().position(|byte| *byte == b'/') else { return false };
    let (kind, rest) = (&value[..slash], &value[slash + 1..]);
    let end = rest.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(rest.len());
    let (subtype, after) = rest.split_at(end);
    let after = crate::http::fields::trim(after);
    is_token(kind) && !subtype.is_empty() && (after.is_empty() || after[0] == b';')
}

/// `host`, `host:port` or `[ipv6]:port` (RFC 3986 section 3.2), without userinfo. A comma, which the grammar would allow in a
/// name, is refused: it is what a proxy makes of two Host fields.
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, after) = (&rest[..end], &rest[end + 1..]);
            let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'-' | b'_' | b'~');
            if address.is_empty() || !address.iter().all(known) {
                return false;
            }
            match after {
                [] => return true,
                [b':', port @ ..] => return port.iter().all(u8::is_ascii_digit),
                _ => return false,
            }
        }
        _ => match value.iter().position(|byte| *byte == b':') {
            Some(colon) => (&value[..colon], &value[colon + 1..]),
            None => (value, b"".as_slice()),
        },
    };
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    !host.is_empty() && host.iter().all(known) && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["a", "a:80", "a:", "10.0.0.1:8443", "[::1]", "[fe80::1]:80", "my_host.example"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for wrong in ["", ":80", "u@a", "a,b", "a b", "a:b", "a:80:80", "[::1", "[]", "[::1]80", "a/b", "a?b", "a#b"] {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_media_type_has_a_type_and_a_subtype() {
        for good in ["text/plain", "application/x-ndjson", "text/plain; charset=utf-8", "text/plain ;a=b"] {
            assert!(is_media_type(good.as_bytes()), "{good}");
        }
        for wrong in ["", "text", "text/", "/plain", "text/plain charset", "te xt/plain", "text/plain, text/html"] {
            assert!(!is_media_type(wrong.as_bytes()), "{wrong}");
        }
    }
}
