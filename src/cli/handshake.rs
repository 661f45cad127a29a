//! A TLS handshake with the API, or with a device server, by an ordinary socket, for `ringest check`.

use crate::config::Authority;
use crate::tls::Tls;
use crate::tls::{Client, ClientSession, Progress, TlsError, server_name};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

/// How long a TLS 1.3 server has to refuse our certificate, or to send a ticket, which shows that it has not.
const REFUSAL_MAX: Duration = Duration::from_millis(500);

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The certificate or the protocol.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The connection.
    #[error("the TLS handshake failed: {0}")]
    Connection(#[from] io::Error),
    /// The server closed the connection.
    #[error("it closed the connection in the TLS handshake")]
    Ended,
    /// The server is silent.
    #[error("no whole TLS handshake within {0:?}")]
    Late(Duration),
}

/// A connection whose handshake is complete.
pub(super) struct Sealed {
    pub stream: TcpStream,
    pub session: ClientSession,
    /// What came behind the handshake.
    pub plain: Vec<u8>,
}

impl Sealed {
    /// Says farewell; what was agreed on, in words.
    pub fn close(mut self) -> String {
        let mut out = Vec::new();
        let agreed = self.session.agreed().unwrap_or_default();
        self.session.close(&mut out);
        // A farewell that is not heard changes nothing.
        let _ = self.stream.write_all(&out);
        agreed
    }
}

/// Takes a connection through a handshake.
pub(super) fn handshake(
    mut stream: TcpStream,
    to: &Authority,
    tls: &Tls,
    limit: Duration,
) -> Result<Sealed, HandshakeError> {
    let begun = Instant::now();
    let client = Client::new(tls).expect("settings are checked");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    client.set_time(now.as_nanos() as u64);
    let mut session = client.session(server_name(&to.host).expect("settings are checked"))?;
    let (mut out, mut plain, mut bytes) = (Vec::new(), Vec::new(), vec![0; 16 * 1024]);
    session.start(&mut out)?;
    let mut result = Ok(Progress::Handshaking);
    let mut until = begun + limit;
    loop {
        // What is left of it may be an alert that tells the server why.
        let sent = stream.set_write_timeout(Some(limit)).and_then(|()| stream.write_all(&out));
        out.clear();
        match result? {
            Progress::Handshaking => {}
            Progress::Open if session.may_be_refused() => until = until.min(Instant::now() + REFUSAL_MAX),
            Progress::Open | Progress::Closed => break,
        }
        sent?;
        let left = until.saturating_duration_since(Instant::now());
        let read = if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut bytes))
        };
        match read {
            Ok(0) => return Err(HandshakeError::Ended),
            Ok(count) => {
                result = session.receive(&mut bytes[..count], &mut plain, &mut out).map_err(HandshakeError::from)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => result = Ok(session.progress()),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if session.progress() == Progress::Open => break,
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(HandshakeError::Late(limit)),
                _ => return Err(error.into()),
            },
        }
    }
    Ok(Sealed { stream, session, plain })
}
