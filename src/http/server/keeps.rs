//! Headers that a source keeps with its records: which, and what a request has of them.

use super::answer::Refusal;
use super::forms::Details;
use crate::ground::{KEPT_NAME_BYTES_MAX, KEPT_VALUES_BYTES_MAX, KeptHeaders};
use crate::http::fields::{is_token, trim};
use httparse::Header;

/// Fields that carry secrets: they would stand in the journal, and wherever a record is shown.
const SECRETS: [&str; 9] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-amz-security-token",
];
/// Fields about the message and its connection (RFC 9110 sections 7.6.1, 8.4, 8.6 and 10.1, RFC 9112 section 6).
const FRAMING: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Names of headers, each once, whatever its case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeps(Vec<Box<str>>);

/// Why a header is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// Not a token (RFC 9110 section 5.1), or too long.
    #[error("this is no header name of 1 to 64 characters")]
    Name,
    /// It is a secret.
    #[error("this header carries a secret, which would stand in the journal and be shown with each record")]
    Secret,
    /// It says where a message ends, or how it is passed on.
    #[error("this header is about the message and its connection, and says nothing of a record")]
    Framing,
    /// The machine's own key.
    #[error("the Idempotency-Key of a machine is kept with each record anyway")]
    Key,
}

impl Keeps {
    /// Whether a header may be kept.
    ///
    /// # Errors
    /// Why not.
    pub fn check(name: &str) -> Result<(), NotKept> {
        let is_in = |list: &[&str]| list.iter().any(|listed| name.eq_ignore_ascii_case(listed));
        if !is_token(name.as_bytes()) || name.len() > KEPT_NAME_BYTES_MAX {
            Err(NotKept::Name)
        } else if is_in(&SECRETS) {
            Err(NotKept::Secret)
        } else if is_in(&FRAMING) {
            Err(NotKept::Framing)
        } else if name.eq_ignore_ascii_case("idempotency-key") {
            Err(NotKept::Key)
        } else {
            Ok(())
        }
    }

    /// Adds a name that [`Keeps::check`] has let pass, and that is not there yet.
    pub fn add(&mut self, name: &str) {
        self.0.push(name.into());
    }

    /// Whether a header is kept.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|kept| kept.eq_ignore_ascii_case(name))
    }

    /// All of them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// What a head has of them, encoded. Several fields of a name are one list (RFC 9110 section 5.2).
    pub(super) fn gather(&self, fields: &[Header<'_>]) -> Result<Vec<u8>, Refusal> {
        let mut room = KEPT_VALUES_BYTES_MAX;
        let mut found = Vec::new();
        for name in self.names() {
            let mut all: Option<Vec<u8>> = None;
            for field in fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)) {
                let (value, before) = (trim(field.value), all.as_ref().map_or(0, |all| all.len() + 2));
                if before + value.len() > room {
                    return Err(TOO_LONG);
                }
                match &mut all {
                    None => all = Some(value.to_vec()),
                    Some(all) => {
                        all.extend_from_slice(b", ");
                        all.extend_from_slice(value);
                    }
                }
            }
            if let Some(value) = all {
                room -= value.len();
                found.push((name, value));
            }
        }
        Ok(KeptHeaders::encode(found.iter().map(|(name, value)| (*name, &value[..]))))
    }
}

const TOO_LONG: Refusal = Refusal::of(
    431,
    "the headers that are kept with a record have 256 bytes at most, all together",
    &Details { came: "more bytes in them", allowed: "256 bytes in the values of keep_headers of the source" },
);
