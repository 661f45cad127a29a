//! Requests to the API: a head rendered once, then key, length and body for each record.

use crate::ground::secrets::scope;
use crate::ground::text::write_decimal;
use crate::http::fields::{is_token, is_value_byte};

/// Why a request's head cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestHeadError {
    /// A target must start with `/` and hold visible ASCII only.
    #[error("the target {target:?} is not a path of visible ASCII characters")]
    Target {
        /// What was given.
        target: String,
    },
    /// A field name must be a token (RFC 9110 section 5.1).
    #[error("{name:?} is not a header field's name")]
    Name {
        /// What was given.
        name: String,
    },
    /// A field that this side writes itself, or that would change how the message is framed.
    #[error("the header field {name} is not to be set")]
    Reserved {
        /// What was given.
        name: String,
    },
    /// A field value must be free of control characters such as CR and LF (RFC 9110 section 5.5).
    #[error("the value of the header field {name} holds the control character {byte:#04x}")]
    Value {
        /// The field.
        name: String,
        /// The first wrong byte.
        byte: u8,
    },
}

/// The part of a POST that all records share, up to the value of Idempotency-Key. It may hold a token, and so does each request
/// that is written by it: their memory is that of secrets.
///
/// ```text
/// POST target HTTP/1.1 CRLF Host: … CRLF Content-Type: … CRLF (name: value CRLF)* Idempotency-Key:␠
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    prefix: Vec<u8>,
}

impl RequestHead {
    /// Renders the head of a POST to `target` (path and query) with `host` as the Host field's value.
    ///
    /// # Errors
    /// If a part would not stay in its place: a wrong name, a control character, a field that is written here itself.
    pub fn post(
        target: &str,
        host: &str,
        content_type: &str,
        headers: &[(String, impl AsRef<str>)],
    ) -> Result<Self, RequestHeadError> {
        scope(|| Self::render(target, host, content_type, headers))
    }

    fn render(
        target: &str,
        host: &str,
        content_type: &str,
        headers: &[(String, impl AsRef<str>)],
    ) -> Result<Self, RequestHeadError> {
        if !target.starts_with('/') || !target.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            return Err(RequestHeadError::Target { target: target.to_owned() });
        }
        let mut prefix = format!("POST {target} HTTP/1.1\r\n").into_bytes();
        push_field(&mut prefix, "Host", host)?;
        push_field(&mut prefix, "Content-Type", content_type)?;
        push_fields(&mut prefix, headers)?;
        prefix.extend_from_slice(b"Idempotency-Key: ");
        prefix.shrink_to_fit();
        Ok(Self { prefix })
    }

    /// Appends a whole request with the key `key` followed by `key_suffix`, growing `out` at most once.
    pub fn write(&self, key: &str, key_suffix: &str, body: &[u8], out: &mut Vec<u8>) {
        self.write_head(key, key_suffix, body.len(), out);
        out.extend_from_slice(body);
    }

    /// Appends the head of a request whose body of `body_bytes` the caller appends itself; there is room for it then.
    pub fn write_head(&self, key: &str, key_suffix: &str, body_bytes: usize, out: &mut Vec<u8>) {
        debug_assert!(key.bytes().chain(key_suffix.bytes()).all(|byte| (0x21..=0x7e).contains(&byte)));
        const LENGTH: &[u8] = b"\r\nContent-Length: ";
        let digits_max = 20;
        let needed = self.prefix.len() + key.len() + key_suffix.len() + LENGTH.len() + digits_max + 4 + body_bytes;
        if out.capacity() - out.len() < needed {
            scope(|| out.reserve(needed));
        }
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(key_suffix.as_bytes());
        out.extend_from_slice(LENGTH);
        write_decimal(body_bytes as u64, out);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// What all GETs to one server have in common, behind the target.
#[derive(Debug, Clone)]
pub struct GetHead {
    rest: Vec<u8>,
}

impl GetHead {
    /// Renders it; see [`RequestHead::post`].
    ///
    /// # Errors
    /// If a part would not stay in its place.
    pub fn new(host: &str, headers: &[(String, impl AsRef<str>)]) -> Result<Self, RequestHeadError> {
        scope(|| Self::render(host, headers))
    }

    fn render(host: &str, headers: &[(String, impl AsRef<str>)]) -> Result<Self, RequestHeadError> {
        let mut rest = b" HTTP/1.1\r\n".to_vec();
        push_field(&mut rest, "Host", host)?;
        push_fields(&mut rest, headers)?;
        rest.extend_from_slice(b"\r\n");
        Ok(Self { rest })
    }

    /// Appends a whole request; `target` appends path and query.
    pub fn write(&self, target: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        scope(|| {
            out.extend_from_slice(b"GET ");
            target(out);
            out.extend_from_slice(&self.rest);
        });
    }
}

/// Fields of the configuration, none of which is written here itself.
fn push_fields(out: &mut Vec<u8>, headers: &[(String, impl AsRef<str>)]) -> Result<(), RequestHeadError> {
    for (name, value) in headers {
        const RESERVED: [&str; 9] = [
            "host",
            "content-type",
            "content-length",
            "transfer-encoding",
            "idempotency-key",
            "connection",
            "expect",
            "upgrade",
            "trailer",
        ];
        if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(RequestHeadError::Reserved { name: name.clone() });
        }
        push_field(out, name, value.as_ref())?;
    }
    Ok(())
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), RequestHeadError> {
    if !is_token(name.as_bytes()) {
        return Err(RequestHeadError::Name { name: name.to_owned() });
    }
    if let Some(byte) = value.bytes().find(|byte| !is_value_byte(*byte)) {
        return Err(RequestHeadError::Value { name: name.to_owned(), byte });
    }
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}
