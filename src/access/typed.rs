//! Secrets that people type: short ones, which a plain digest would not protect. A file of tokens
//! holds an argon2id hash of each (RFC 9106), as a PHC string:
//!
//! ```text
//! $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH      both in base64 without padding
//! ```
//!
//! To look at one takes tens of milliseconds and as much memory as the string says. So it is done once a connection, by whoever owns
//! a thread for it; here is what is given to it, and what is remembered of it.

use super::tokens::{Digest, digest_of};
use crate::ground::secrets::{apart, hide_stack, scope, wipe_stack};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt;
use std::sync::Arc;

const PREFIX: &str = "$argon2id$v=19$";
/// What one look may take: memory in KiB, passes, lanes.
const MEMORY_KIB_MAX: u32 = 262_144;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Salts and hashes that are taken, in bytes.
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=48;
const HASH_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// What new hashes take: 19 MiB, two passes (OWASP Password Storage Cheat Sheet).
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// Bytes of a new hash's salt.
pub const NEW_SALT_BYTES: usize = 16;
const NEW_HASH_BYTES: usize = 32;
/// The stack that a look reaches down to at most.
const STACK_BYTES: usize = 64 * 1024;
/// Shortest secret that is made a hash of, in characters.
pub const TYPED_CHARS_MIN: usize = 8;

/// The hash of a secret. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct TypedHash(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl fmt::Debug for TypedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedHash")
    }
}

impl TypedHash {
    /// Whether a field of a file means to be one.
    pub fn is_meant(field: &str) -> bool {
        field.starts_with("$argon2")
    }

    /// Of a PHC string, if it is one of argon2id that costs no more than it may.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_prefix(PREFIX)?.split('$').collect();
        let [costs, salt, hash] = parts[..] else { return None };
        let costs: Vec<&str> = costs.split(',').collect();
        let [memory, passes, lanes] = costs[..] else { return None };
        let number = |text: &str, key: &str, max: u32| {
            text.strip_prefix(key)?.parse::<u32>().ok().filter(|number| (1..=max).contains(number))
        };
        let bytes = |text: &str, range: std::ops::RangeInclusive<usize>| {
            STANDARD_NO_PAD.decode(text).ok().filter(|bytes| range.contains(&bytes.len()))
        };
        let parts = Parts {
            memory_kib: number(memory, "m=", MEMORY_KIB_MAX)?,
            passes: number(passes, "t=", PASSES_MAX)?,
            lanes: number(lanes, "p=", LANES_MAX)?,
            salt: bytes(salt, SALT_BYTES)?,
            hash: bytes(hash, HASH_BYTES)?,
        };
        parts.argon2()?;
        Some(Self(Arc::new(parts)))
    }

    /// The PHC string of a secret, with a salt that nobody has had before. Takes tens of milliseconds.
    pub fn text_of(secret: &[u8], salt: [u8; NEW_SALT_BYTES]) -> String {
        let parts = Parts {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: 1,
            salt: salt.to_vec(),
            hash: vec![0; NEW_HASH_BYTES],
        };
        let hash = parts.hash_of(secret).expect("the costs are good ones");
        let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
        format!("{PREFIX}m={MEMORY_KIB},t={PASSES},p=1${salt}${hash}")
    }

    /// Whether it is that of a secret. Takes tens of milliseconds.
    fn is_of(&self, secret: &[u8]) -> bool {
        let parts = &*self.0;
        // All bytes are looked at: how long it takes says nothing.
        let differs = |hash: Vec<u8>| hash.iter().zip(&parts.hash).fold(0, |sum, (one, other)| sum | (one ^ other));
        parts.hash_of(secret).is_some_and(|hash| differs(hash) == 0)
    }
}

impl Parts {
    fn argon2(&self) -> Option<Argon2<'static>> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(self.hash.len())).ok()?;
        Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }

    fn hash_of(&self, secret: &[u8]) -> Option<Vec<u8>> {
        let mut hash = vec![0; self.hash.len()];
        self.argon2()?.hash_password_into(secret, &self.salt, &mut hash).ok()?;
        Some(hash)
    }
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// It is the secret.
    Right,
    /// It is not.
    Wrong,
    /// Nobody could look.
    Unknown,
}

/// A secret that is to be looked at. `Debug` shows nothing of it.
pub struct SecretCheck {
    hash: TypedHash,
    secret: Box<[u8]>,
    credential: Digest,
}

impl fmt::Debug for SecretCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretCheck")
    }
}

impl SecretCheck {
    pub(super) fn new(hash: &TypedHash, secret: &[u8]) -> Self {
        Self { hash: hash.clone(), secret: scope(|| secret.into()), credential: digest_of(secret) }
    }

    /// Looks. Takes tens of milliseconds, and megabytes. The stack of the thread is in no core dump from then on.
    pub fn run(&self) -> Looked {
        // Meanwhile the library has copies on the stack.
        hide_stack();
        let is_right = apart(|| scope(|| self.hash.is_of(&self.secret)));
        wipe_stack::<STACK_BYTES>();
        if is_right { Looked::Right } else { Looked::Wrong }
    }

    /// What is remembered of it until it is known what came of it, and from then on.
    pub fn vetted(&self) -> Vetted {
        Vetted { hash: self.hash.clone(), credential: self.credential, looked: Looked::Unknown }
    }
}

/// What is known of the last secret that was looked at on a connection. It counts for this secret and this hash alone, so that
/// another line in the file ends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Vetted {
    hash: TypedHash,
    credential: Digest,
    /// What came of it.
    pub looked: Looked,
}

impl fmt::Debug for Vetted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vetted({:?})", self.looked)
    }
}

impl Vetted {
    /// What came of it, if it was this secret and this hash.
    pub(super) fn of(&self, hash: &TypedHash, secret: &[u8]) -> Option<Looked> {
        (self.hash == *hash && self.credential == digest_of(secret)).then_some(self.looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32` (RFC 9106's version 19).
    const REFERENCE: &str = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn a_hash_of_the_reference_implementation_is_that_of_its_secret_alone() {
        let hash = TypedHash::parse(REFERENCE).expect("a hash");
        assert_eq!(SecretCheck::new(&hash, b"password").run(), Looked::Right);
        assert_eq!(SecretCheck::new(&hash, b"Password").run(), Looked::Wrong);
        let check = SecretCheck::new(&hash, b"password");
        let shown = format!("{hash:?} {check:?} {:?}", check.vetted());
        assert_eq!(shown, "TypedHash SecretCheck Vetted(Unknown)");
    }

    #[test]
    fn what_is_made_is_read_and_what_costs_too_much_or_is_another_hash_is_not() {
        let text = TypedHash::text_of(b"gate 7 west", [7; NEW_SALT_BYTES]);
        let hash = TypedHash::parse(&text).expect("a hash");
        assert_eq!(SecretCheck::new(&hash, b"gate 7 west").run(), Looked::Right);
        for wrong in [
            text.replace("argon2id", "argon2i"),
            text.replace("v=19", "v=16"),
            text.replace("m=19456", "m=262145"),
            text.replace("m=19456", "m=4"),
            text.replace("m=19456", "m=-1"),
            text.replace("t=2", "t=17"),
            text.replace("t=2", "t=0"),
            text.replace("p=1", "p=17"),
            text.replace(",p=1", ""),
            text[..text.len() - 30].to_owned(),
            text.rsplit_once('$').expect("a hash").0.to_owned(),
            format!("{text}="),
            format!("{text}$"),
        ] {
            assert!(TypedHash::parse(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_remembered_counts_for_one_secret_and_one_hash() {
        let hash = TypedHash::parse(REFERENCE).expect("a hash");
        let other = TypedHash::parse(&TypedHash::text_of(b"password", [8; NEW_SALT_BYTES])).expect("a hash");
        let vetted = Vetted { looked: Looked::Right, ..SecretCheck::new(&hash, b"password").vetted() };
        assert_eq!(vetted.of(&hash, b"password"), Some(Looked::Right));
        assert_eq!(vetted.of(&hash, b"passwork"), None);
        assert_eq!(vetted.of(&other, b"password"), None);
    }
}
