//! TLS towards the API, as a client, and towards machines, as a server: bytes in, plaintext and bytes out, by rustls' unbuffered
//! connections.
//!
//! - `expiry`: when certificates end. `session`: one connection. `tickets`: what lets the next one do without a whole handshake.
//!   `error`: what went wrong, in words, and what to do. `settings`: whom to trust and who we are, which the configuration reads.
//! - `server`: one machine's connection. `hello`: what a machine has offered. `fault`: why its handshake came to nothing.
//!   `ticket_keys`: by what the tickets are sealed that machines resume by. `certificate`: whose a machine's certificate is.
//!   `trial`: whether machines will take what they are shown.
//! - [`Client`] is what all sessions of a shard share. It is built outside of the shard, so that another one can take its place.
//!
//! Nothing here knows a descriptor or a runtime. The time, by which certificates and tickets are judged, is what the owner says
//! ([`Client::set_time`]): a shard has one `now` a turn, and under a virtual clock certificates expire by that clock.

mod certificate;
mod error;
mod expiry;
mod fault;
mod hello;
mod server;
mod session;
mod settings;
mod ticket_keys;
mod tickets;
mod trial;

pub use certificate::{MachineCertificate, machine_certificate};
pub use error::TlsError;
pub use expiry::{Expiry, SOON, Use, expiries, server_expiries};
pub use fault::{Fault, Reason};
pub use hello::Offer;
pub use server::{Server, ServerSession};
pub use session::{ClientSession, Progress};
pub use settings::{Clients, Identity, ServerTls, Tls};
pub use ticket_keys::{NoRandomness, TicketKeys};
pub use trial::{Fit, Unfit, try_server};

use crate::ground::secrets::{HANDSHAKE_STACK_BYTES, apart, scope, wipe_stack};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{Error, InconsistentKeys, RootCertStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tickets::Tickets;

/// The clock of a [`Client`], in seconds since 1970. It has one writer; a reader may see the time of the turn before.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn now_s(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now_s())))
    }
}

/// Why TLS settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A certificate to be trusted is none.
    #[error("certificate number {number} of the file cannot be read: {reason}")]
    Authority {
        /// From 1.
        number: usize,
        /// What the library says.
        reason: String,
    },
    /// Nothing to be trusted.
    #[error("no certificate of any CA is trusted")]
    NoAuthority,
    /// The private key belongs to another certificate.
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    /// Certificate or key cannot be used.
    #[error("certificate and key cannot be used: {reason}")]
    Identity {
        /// What the library says.
        reason: String,
    },
    /// A list of revoked certificates is none.
    #[error("a list of revoked certificates cannot be read: {reason}")]
    Revoked {
        /// What the library says.
        reason: String,
    },
}

/// What all sessions of a shard share: who is trusted, who we are, and tickets of earlier sessions.
///
/// A clone shares all of it. Shards have one each: nothing of it is contended.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    clock: Arc<Clock>,
    tickets: Arc<Tickets>,
}

impl Client {
    /// What `settings` say. TLS 1.2 and 1.3, ALPN `http/1.1`, no early data: a request is sent after the handshake only.
    ///
    /// # Errors
    /// [`SettingsError`]; not for settings that [`config`](crate::config) has checked.
    pub fn new(settings: &Tls) -> Result<Self, SettingsError> {
        with_keys(|| Self::make(settings))
    }

    fn make(settings: &Tls) -> Result<Self, SettingsError> {
        let clock = Arc::new(Clock::default());
        let tickets = Arc::new(Tickets::new(Arc::clone(&clock)));
        let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
        let builder = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), time)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .with_root_certificates(trusted(&settings.authorities)?);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(of_identity)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::store(Arc::clone(&tickets) as Arc<_>);
        Ok(Self { config: Arc::new(config), clock, tickets })
    }

    /// The time by which certificates and tickets are judged, in nanoseconds since 1970.
    pub fn set_time(&self, wall_ns: u64) {
        self.clock.0.store(wall_ns / 1_000_000_000, Ordering::Relaxed);
    }

    /// A session with `server`, by which it must prove to be itself. It begins with bytes to be sent.
    ///
    /// # Errors
    /// If the library has no randomness.
    pub fn session(&self, server: ServerName<'static>) -> Result<ClientSession, TlsError> {
        ClientSession::new(self, server)
    }

    /// How many connections to `server` may begin now, so that each can resume a session; `None`: any number, for what there is serves
    /// more than one, or the server has shown that it resumes none.
    pub fn resumptions(&self, server: &ServerName<'static>) -> Option<usize> {
        self.tickets.left(server)
    }
}

/// Does what has to do with keys: all memory that it takes is that of secrets, and what it leaves on the stack is wiped.
fn with_keys<T>(work: impl FnOnce() -> T) -> T {
    let made = apart(|| scope(work));
    wipe_stack::<HANDSHAKE_STACK_BYTES>();
    made
}

/// What is wrong with a certificate and its key.
fn of_identity(error: Error) -> SettingsError {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => SettingsError::KeyMismatch,
        other => SettingsError::Identity { reason: other.to_string() },
    }
}

/// The store of those who are trusted.
fn trusted(authorities: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, SettingsError> {
    let mut store = RootCertStore::empty();
    for (index, authority) in authorities.iter().enumerate() {
        store
            .add(authority.clone())
            .map_err(|error| SettingsError::Authority { number: index + 1, reason: error.to_string() })?;
    }
    if store.is_empty() { Err(SettingsError::NoAuthority) } else { Ok(Arc::new(store)) }
}

/// The name by which a server must prove itself: the host of its URL, a DNS name or an address.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok()
}
