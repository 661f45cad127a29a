//! By what the tickets are sealed that machines resume their sessions by (RFC 8446 section 4.6.1, RFC 5077).
//!
//! All cores have the same secrets, so that a machine can resume on any of them. Each source has keys of its own, made of the
//! secret, its name, and whom it lets in: a ticket of one source is of no use at another one, and none outlives a change of the
//! client CA or of what that has revoked.

use super::settings::ServerTls;
use super::with_keys;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The names of keys, in front of a ticket.
const NAME_BYTES: usize = 16;
/// What a ticket has besides what is in it: the key's name, a nonce, and a tag of 16 bytes behind.
const OVERHEAD_BYTES: usize = NAME_BYTES + NONCE_LEN + 16;
/// No ticket is longer: the longest thing in it is a machine's certificates.
const TICKET_BYTES_MAX: usize = 64 * 1024;

/// The system gives no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// The secret that tickets are sealed with now, and the one before, by which they are still read.
#[derive(Clone)]
pub struct TicketKeys {
    current: Arc<[u8; 32]>,
    previous: Option<Arc<[u8; 32]>>,
}

impl TicketKeys {
    /// How long tickets are sealed with one secret. One is read twice as long, and no longer.
    pub const ROTATION: Duration = Duration::from_secs(6 * 3_600);

    /// The first one.
    ///
    /// # Errors
    /// Without randomness.
    pub fn draw() -> Result<Self, NoRandomness> {
        with_keys(|| {
            let mut secret = [0; 32];
            SystemRandom::new().fill(&mut secret).map_err(|_| NoRandomness)?;
            Ok(Self { current: Arc::new(secret), previous: None })
        })
    }

    /// The next one; the one before the last is gone.
    ///
    /// # Errors
    /// Without randomness.
    pub fn rotated(&self) -> Result<Self, NoRandomness> {
        Ok(Self { previous: Some(Arc::clone(&self.current)), ..Self::draw()? })
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys") // they are secrets
    }
}

/// A source's key, and its name.
struct Key {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl Key {
    fn new(secret: &[u8; 32], scope: &[u8; 32]) -> Self {
        let derive = |label: &[u8]| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
            context.update(label);
            context.update(scope);
            context.sign()
        };
        let (bytes, given) = (derive(b"ringest ticket key"), derive(b"ringest ticket name"));
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&given.as_ref()[..NAME_BYTES]);
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes.as_ref()).expect("a SHA-256 is as long as a key");
        Self { name, key: LessSafeKey::new(key) }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(self.name));
        let head = [&self.name[..], nonce.as_ref()].concat();
        self.key.seal_in_place_append_tag(nonce, aad, &mut sealed).ok()?;
        Some([head, sealed].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        if name != self.name {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(self.name), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

struct Keys {
    current: Key,
    previous: Option<Key>,
}

/// The tickets of one source on one core. The lock is never contended: one thread uses it.
pub(super) struct Ticketer {
    scope: [u8; 32],
    keys: RwLock<Option<Keys>>,
}

impl Ticketer {
    /// Without keys: there are no tickets until they come.
    pub fn new(source: &str, settings: &ServerTls) -> Self {
        let mut scope = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            scope.update(&(bytes.len() as u64).to_be_bytes());
            scope.update(bytes);
        };
        add(source.as_bytes());
        if let Some(clients) = &settings.clients {
            clients.authorities.iter().for_each(|authority| add(authority));
            add(b"");
            clients.revoked.iter().for_each(|list| add(list));
        }
        let scope = scope.finish();
        Self { scope: scope.as_ref().try_into().expect("a SHA-256"), keys: RwLock::new(None) }
    }

    /// Takes others from now on.
    pub fn set(&self, keys: &TicketKeys) {
        let current = Key::new(&keys.current, &self.scope);
        let previous = keys.previous.as_ref().map(|previous| Key::new(previous, &self.scope));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Keys { current, previous });
    }

    fn with<T>(&self, look: impl FnOnce(&Keys) -> Option<T>) -> Option<T> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(look)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer") // it has secrets
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        self.with(|_| Some(())).is_some()
    }

    fn lifetime(&self) -> u32 {
        2 * TicketKeys::ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        (plain.len() + OVERHEAD_BYTES <= TICKET_BYTES_MAX).then_some(())?;
        self.with(|keys| keys.current.seal(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        (ticket.len() <= TICKET_BYTES_MAX).then_some(())?;
        self.with(|keys| keys.current.open(ticket).or_else(|| keys.previous.as_ref()?.open(ticket)))
    }
}
