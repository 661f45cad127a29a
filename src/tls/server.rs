//! One machine's connection: what it sent becomes plaintext, what it is to be sent becomes TLS records (RFC 8446, RFC 5246).

use super::fault::{Fault, Reason};
use super::hello::Offer;
use super::session::{Progress, RECORD_OVERHEAD_BYTES, RECORD_PLAIN_BYTES, append, encode};
use super::settings::{Clients, ServerTls};
use super::ticket_keys::{TicketKeys, Ticketer};
use super::{Clock, MachineCertificate, SettingsError, TlsError, machine_certificate, of_identity, trusted, with_keys};
use crate::ground::secrets::scope;
use rustls::HandshakeKind;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ServerConfig, ServerConnectionData, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most that waits for the rest of a TLS record or of a handshake message, and what is received together with it.
const INCOMING_BYTES_MAX: usize = 256 * 1024;
/// Most that one call answers to what was received.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// First byte of a TLS handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;

/// What all sessions of a source share on one core: who we are, whom it lets in, and what seals its tickets.
///
/// A clone shares all of it.
#[derive(Debug, Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    clock: Arc<Clock>,
    ticketer: Arc<Ticketer>,
}

impl Server {
    /// What `settings` of `source` say. TLS 1.2 and 1.3, ALPN `http/1.1` and `http/1.0`, no early
    /// data: a request counts after the handshake only.
    ///
    /// # Errors
    /// [`SettingsError`]; not for settings that [`config`](crate::config) has checked.
    pub fn new(source: &str, settings: &ServerTls) -> Result<Self, SettingsError> {
        with_keys(|| Self::make(source, settings))
    }

    fn make(source: &str, settings: &ServerTls) -> Result<Self, SettingsError> {
        let (clock, ticketer) = (Arc::new(Clock::default()), Arc::new(Ticketer::new(source, settings)));
        let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
        let builder = ServerConfig::builder_with_details(Arc::new(ring::default_provider()), time)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions");
        let builder = match &settings.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(verifier(clients)?),
        };
        let (chain, key) = (settings.identity.chain.clone(), settings.identity.key.clone_key());
        let mut config = builder.with_single_cert(chain, key).map_err(of_identity)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        config.ticketer = Arc::clone(&ticketer) as Arc<_>;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A machine has one connection, mostly, and each connection brings the next ticket.
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), clock, ticketer })
    }

    /// The keys of tickets from now on. Without any there are no tickets.
    pub fn set_ticket_keys(&self, keys: &TicketKeys) {
        with_keys(|| self.ticketer.set(keys));
    }

    /// The time by which certificates and tickets are judged, in nanoseconds since 1970.
    pub fn set_time(&self, wall_ns: u64) {
        self.clock.0.store(wall_ns / 1_000_000_000, Ordering::Relaxed);
    }

    /// A session with a machine that has connected.
    ///
    /// # Errors
    /// If the library has no randomness.
    pub fn session(&self) -> Result<ServerSession, TlsError> {
        let connection = scope(|| UnbufferedServerConnection::new(Arc::clone(&self.config)))?;
        Ok(ServerSession { connection, incoming: Vec::new(), progress: Progress::Handshaking, failed: None })
    }
}

fn verifier(clients: &Clients) -> Result<Arc<dyn ClientCertVerifier>, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(trusted(&clients.authorities)?, provider);
    let builder = if clients.revoked.is_empty() { builder } else { builder.with_crls(clients.revoked.iter().cloned()) };
    builder.build().map_err(|error| SettingsError::Revoked { reason: error.to_string() })
}

/// The server's side of a TLS connection.
///
/// Buffers are the caller's, but for an unfinished record, which is kept here and bounded. At rest it keeps none.
pub struct ServerSession {
    connection: UnbufferedServerConnection,
    /// Received and not yet used: less than a TLS record, or pieces of a handshake message.
    incoming: Vec<u8>,
    progress: Progress,
    failed: Option<Fault>,
}

impl ServerSession {
    /// Takes all of `bytes`, which are changed; appends plaintext to `plain`, and to `out` what is to be sent in answer, which may be
    /// an alert that goes with an error. `plain` is good also then: it came before what is wrong.
    ///
    /// # Errors
    /// The certificate or the protocol; the connection is to be closed after `out` was sent. The error stays.
    pub fn receive(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Fault> {
        match self.progress {
            Progress::Handshaking => with_keys(|| self.take(bytes, plain, out)),
            _ => scope(|| self.take(bytes, plain, out)),
        }
    }

    fn take(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        if self.progress == Progress::Closed {
            return Ok(self.progress); // nothing behind a close_notify counts (RFC 8446 section 6.1)
        }
        let before = out.len();
        let result = if self.incoming.is_empty() {
            let (used, result) = self.process(bytes, plain, out);
            self.incoming.extend_from_slice(&bytes[used..]);
            result
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.extend_from_slice(bytes);
            let (used, result) = self.process(&mut incoming, plain, out);
            incoming.drain(..used);
            self.incoming = incoming;
            result
        };
        if self.incoming.is_empty() {
            self.incoming = Vec::new(); // an idle machine costs no buffer
        }
        let bounded = self.incoming.len() <= INCOMING_BYTES_MAX && out.len() - before <= ANSWER_BYTES_MAX;
        let flood = || Fault::new(Reason::Other, "it sends handshake messages without end");
        let result = result.and_then(|progress| if bounded { Ok(progress) } else { Err(flood()) });
        match &result {
            Ok(progress) => self.progress = *progress,
            Err(fault) => (self.incoming, self.failed) = (Vec::new(), Some(fault.clone())),
        }
        if self.progress == Progress::Closed {
            self.incoming = Vec::new();
        }
        result
    }

    /// Works through `input`; how many of its bytes are used up.
    fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, Fault>) {
        if self.is_hello_due() && input.first().is_some_and(|first| *first != HANDSHAKE) {
            return (0, Err(Fault::plain(input)));
        }
        let (mut used, input_bytes) = (0, input.len());
        loop {
            let is_hello = self.is_hello_due();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut input[used..]);
            let done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        // All was plaintext: the library need not be asked what else there is.
                        None if used + discard == input_bytes => break Some(Ok(Progress::Open)),
                        None => break None,
                        Some(Ok(record)) => {
                            plain.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Some(Err(error)) => break Some(Err(Fault::of(error, None))),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, out);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // it lies in `out`
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Ok(Progress::Handshaking)),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Ok(Progress::Open)),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Ok(Progress::Closed)),
                Ok(other) => {
                    Some(Err(Fault::new(Reason::Other, format!("the library is in an unknown state: {other:?}"))))
                }
                Err(error) => {
                    let offer = if is_hello { Offer::of(&input[used..]) } else { None };
                    used += discard;
                    self.take_alert(out);
                    return (used, Err(Fault::of(error, offer)));
                }
            };
            used += discard;
            match done {
                None => {}
                // The library may write before the machine has proved who it is.
                Some(Ok(Progress::Open)) if self.connection.is_handshaking() => {
                    return (used, Ok(Progress::Handshaking));
                }
                Some(result) => return (used, result),
            }
        }
    }

    /// Appends the alert that an error has made. What was received is not looked at again: the library must not be asked for that.
    fn take_alert(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                _ => return,
            }
        }
    }

    /// Appends `plain` as TLS records to `out`.
    ///
    /// # Errors
    /// If the session is not open, or its keys are used up.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.progress == Progress::Handshaking || self.failed.is_some() {
            return Err(TlsError::NotOpen);
        }
        let room = plain.len() + (plain.len() / RECORD_PLAIN_BYTES + 1) * RECORD_OVERHEAD_BYTES;
        scope(|| self.write(out, |traffic, buffer| traffic.encrypt(plain, buffer), room))
    }

    /// Appends a close_notify to `out`: nothing of ours follows. Nothing is appended where a handshake is not complete, or was refused.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.progress != Progress::Handshaking && self.failed.is_none() {
            // A session whose keys are used up cannot say farewell; the connection is closed all the same.
            let _ = self.write(out, |traffic, buffer| traffic.queue_close_notify(buffer), RECORD_OVERHEAD_BYTES);
        }
    }

    /// Lets `write` append to `out`, after what the library has to say first (an answer to a key update).
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
        room: usize,
    ) -> Result<(), TlsError> {
        loop {
            // What was received was worked through: there is no plaintext, and nothing new to be read.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
            debug_assert_eq!(discard, 0);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    out.reserve(room);
                    let mut exhausted = false;
                    append(out, |buffer| match write(&mut traffic, buffer) {
                        Ok(bytes) => Ok(bytes),
                        Err(EncryptError::InsufficientSize(size)) => Err(size.required_size),
                        Err(EncryptError::EncryptExhausted) => {
                            exhausted = true;
                            Ok(0)
                        }
                    });
                    return if exhausted { Err(TlsError::KeysUsedUp) } else { Ok(()) };
                }
                ConnectionState::EncodeTlsData(data) => encode(data, out),
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Err(TlsError::NotOpen),
            }
        }
    }

    /// Where it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the machine's first message is still to be worked through, which costs the most of a handshake.
    pub fn is_hello_due(&self) -> bool {
        self.failed.is_none() && self.connection.handshake_kind().is_none()
    }

    /// Whether the handshake resumed an earlier session, in which the machine's certificate was looked at.
    pub fn is_resumed(&self) -> bool {
        matches!(self.connection.handshake_kind(), Some(HandshakeKind::Resumed))
    }

    /// The machine's certificate, as it was shown in this session or the one that it resumes.
    pub fn certificate(&self) -> Option<MachineCertificate> {
        machine_certificate(self.connection.peer_certificates()?.first()?)
    }

    /// Memory held beyond its own size and that of the library's connection, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.incoming.capacity()
    }
}

impl fmt::Debug for ServerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, failed, .. } = self; // the connection has keys
        f.debug_struct("ServerSession").field("progress", progress).field("failed", failed).finish()
    }
}
