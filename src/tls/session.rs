//! One connection to a server: what it received becomes plaintext, what is to be sent becomes TLS records (RFC 8446, RFC 5246).

use super::{Client, TlsError, with_keys};
use crate::ground::secrets::scope;
use rustls::{HandshakeKind, ProtocolVersion};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use std::fmt;
use std::sync::Arc;

/// Most that waits for the rest of a TLS record or of a handshake message (at most 64 KiB, in records of 16 KiB and their frames), and
/// what is received together with it.
const INCOMING_BYTES_MAX: usize = 256 * 1024;
/// Most that one call answers to what was received: certificates of ours are the longest.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// What a TLS record adds to its plaintext, at most (RFC 5246 section 6.2.3), and the longest plaintext.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 64;
pub(super) const RECORD_PLAIN_BYTES: usize = 16 * 1024;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The other side has not yet proved who it is; nothing of ours may be sent.
    Handshaking,
    /// The handshake is complete and the certificate was found good.
    Open,
    /// The other side has ended its half by a close_notify; all that it sent has been received.
    Closed,
}

/// The client's side of a TLS connection.
///
/// Buffers are the caller's, but for an unfinished record, which is kept here and bounded.
pub struct ClientSession {
    connection: UnbufferedClientConnection,
    server: ServerName<'static>,
    client: Client,
    /// Received and not yet used: less than a TLS record, or pieces of a handshake message.
    incoming: Vec<u8>,
    progress: Progress,
    failed: Option<TlsError>,
}

impl ClientSession {
    pub(super) fn new(client: &Client, server: ServerName<'static>) -> Result<Self, TlsError> {
        let connection = with_keys(|| UnbufferedClientConnection::new(Arc::clone(&client.config), server.clone()))?;
        let (client, incoming) = (client.clone(), Vec::new());
        Ok(Self { connection, server, client, incoming, progress: Progress::Handshaking, failed: None })
    }

    /// Appends what begins the handshake to `out`; to be called once, first.
    ///
    /// # Errors
    /// Those of [`ClientSession::receive`].
    pub fn start(&mut self, out: &mut Vec<u8>) -> Result<Progress, TlsError> {
        self.receive(&mut [], &mut Vec::new(), out)
    }

    /// Takes all of `bytes`, which are changed; appends plaintext to `plain`, and to `out` what is to be sent in answer, which may be
    /// an alert that goes with an error. `plain` is good also then: it came before what is wrong.
    ///
    /// # Errors
    /// The certificate or the protocol; the connection is to be closed after `out` was sent. The error stays.
    pub fn receive(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, TlsError> {
        match self.progress {
            Progress::Handshaking => with_keys(|| self.take(bytes, plain, out)),
            _ => scope(|| self.take(bytes, plain, out)),
        }
    }

    fn take(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
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
        let bounded = self.incoming.len() <= INCOMING_BYTES_MAX && out.len() - before <= ANSWER_BYTES_MAX;
        let result = result.and_then(|progress| if bounded { Ok(progress) } else { Err(TlsError::Flood) });
        match &result {
            Ok(progress) => self.advance(*progress),
            Err(error) => {
                self.incoming = Vec::new();
                self.failed = Some(error.clone());
                self.client.tickets.forget(&self.server);
            }
        }
        result
    }

    fn advance(&mut self, progress: Progress) {
        if self.progress == Progress::Handshaking && progress != Progress::Handshaking && !self.is_resumed() {
            self.client.tickets.note_seen(&self.server);
        }
        if progress == Progress::Closed {
            self.incoming = Vec::new();
        }
        self.progress = progress;
    }

    /// Works through `input`; how many of its bytes are used up.
    fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Progress, TlsError>) {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut input[used..]);
            let done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        None => break None,
                        Some(Ok(record)) => {
                            plain.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Some(Err(error)) => break Some(Err(error.into())),
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
                Ok(other) => Some(Err(TlsError::Library { reason: format!("the state {other:?}") })),
                Err(error) => {
                    used += discard;
                    self.take_alert(out);
                    return (used, Err(error.into()));
                }
            };
            used += discard;
            if let Some(result) = done {
                return (used, result);
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
        mut write: impl FnMut(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
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

    /// As [`Client::set_time`], for the client that it was made by.
    pub fn set_time(&self, wall_ns: u64) {
        self.client.set_time(wall_ns);
    }

    /// An answer has come: whatever tickets the server gives were before it.
    pub fn note_answered(&self) {
        self.client.tickets.note_answered(&self.server);
    }

    /// Where it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the handshake resumed an earlier session, in which the certificate was looked at.
    pub fn is_resumed(&self) -> bool {
        matches!(self.connection.handshake_kind(), Some(HandshakeKind::Resumed))
    }

    /// Version and cipher suite, such as `TLS 1.3, TLS13_AES_256_GCM_SHA384`, once they are agreed on.
    pub fn agreed(&self) -> Option<String> {
        let version = match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "TLS 1.3",
            _ => "TLS 1.2",
        };
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version}, {}", suite.as_str().unwrap_or("an unknown suite")))
    }

    /// Whether the server can still refuse our certificate: in TLS 1.3 it says so after the handshake (RFC 8446 section 4.4.2.4).
    pub fn may_be_refused(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) && self.tickets_received() == 0
    }

    /// Tickets that this session has brought, by which a TLS 1.3 server shows that it has accepted ours.
    pub fn tickets_received(&self) -> u32 {
        self.connection.tls13_tickets_received()
    }

    /// Memory held beyond its own size and that of the library's connection, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.incoming.capacity()
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, progress, failed, .. } = self; // the connection has keys
        f.debug_struct("ClientSession")
            .field("server", server)
            .field("progress", progress)
            .field("failed", failed)
            .finish()
    }
}

/// Appends a message of the handshake, or an alert.
pub(super) fn encode<Side>(mut data: EncodeTlsData<'_, Side>, out: &mut Vec<u8>) {
    append(out, |buffer| {
        data.encode(buffer).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => size.required_size,
            EncodeError::AlreadyEncoded => unreachable!("it is encoded once"),
        })
    });
}

/// Appends what `write` puts into the buffer that it is given; it may say that it needs a larger one, of so many bytes.
pub(super) fn append(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let begin = out.len();
    let mut room = out.capacity() - begin;
    loop {
        out.resize(begin + room, 0);
        match write(&mut out[begin..]) {
            Ok(bytes) => return out.truncate(begin + bytes),
            Err(needed) => {
                assert!(needed > room, "the library asks for more room only where there is too little");
                room = needed;
            }
        }
    }
}
