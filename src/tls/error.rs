//! What goes wrong in TLS, for the person who must mend it.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why a session came to an end. `Display` says what happened, [`TlsError::remedy`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate is over.
    #[error("its certificate expired{}", at(" on ", not_after))]
    Expired {
        /// Seconds since 1970, where the library tells.
        not_after: Option<u64>,
    },
    /// The server's certificate is not valid yet.
    #[error("its certificate is not valid yet{}", at(", but from ", not_before))]
    NotValidYet {
        /// Seconds since 1970, where the library tells.
        not_before: Option<u64>,
    },
    /// The server's certificate is for other names.
    #[error("its certificate is not for this host{}", for_names(names))]
    WrongHost {
        /// The names in it, at most a few.
        names: Vec<String>,
    },
    /// The server's certificate is not signed by a CA that is trusted.
    #[error("its certificate is signed by an unknown CA, or by itself")]
    UnknownIssuer,
    /// The server shows the certificate of a CA as its own.
    #[error("its certificate is that of a CA, which cannot be a server's (most likely one that signed itself)")]
    IsAuthority,
    /// The server's certificate may not be a server's.
    #[error("its certificate is not for servers (extended key usage)")]
    WrongPurpose,
    /// Another fault of the certificate.
    #[error("its certificate cannot be accepted: {reason}")]
    Certificate {
        /// What the library says.
        reason: String,
    },
    /// The server wants a certificate of ours, and none is configured or it did not like it.
    #[error("it does not accept this gateway's certificate, or wants one (alert {alert})")]
    ClientCertificate {
        /// The alert's name.
        alert: String,
    },
    /// Another fatal alert of the server.
    #[error("it ended the TLS session by the alert {alert}")]
    Alert {
        /// The alert's name.
        alert: String,
    },
    /// What the server sends is no TLS.
    #[error("it does not speak TLS on this port")]
    NotTls,
    /// No version, suite or application protocol in common.
    #[error("it has nothing in common with this gateway: {reason}")]
    NothingInCommon {
        /// What the library says.
        reason: String,
    },
    /// The server breaks the protocol, or bytes were changed on the way.
    #[error("it does not keep to TLS: {reason}")]
    Protocol {
        /// What the library says.
        reason: String,
    },
    /// More than a session may take.
    #[error("it sends handshake messages without end")]
    Flood,
    /// The connection ended without a close_notify (RFC 8446 section 6.1): what came may be cut short.
    #[error(
        "it closed the connection without the end that TLS has for it (close_notify), so that an answer may be cut short"
    )]
    Truncated,
    /// So much was sent that other keys are needed, which TLS 1.2 has only for a new connection.
    #[error("the session's keys are used up")]
    KeysUsedUp,
    /// There is no session to send on.
    #[error("the TLS session is not open")]
    NotOpen,
    /// Anything else.
    #[error("TLS failed: {reason}")]
    Library {
        /// What the library says.
        reason: String,
    },
}

impl TlsError {
    /// What to do about it; empty where there is nothing but to try again.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "renew the certificate on the server, or set this machine's clock if that is wrong",
            Self::NotValidYet { .. } => "set this machine's clock, or the server's when it makes certificates",
            Self::WrongHost { .. } => {
                "put one of its names into the URL, or give the server a certificate with the URL's host (subjectAltName)"
            }
            Self::UnknownIssuer => {
                "name the PEM file with the certificate of the CA that signed it: [deliver.tls] ca = \"…\""
            }
            Self::IsAuthority => {
                "give the server a certificate of its own (basicConstraints=CA:FALSE), signed by that CA, and name the CA's in \
                 [deliver.tls] ca"
            }
            Self::WrongPurpose => "give the server a certificate with extendedKeyUsage=serverAuth",
            Self::Certificate { .. } => "see to the certificate on the server",
            Self::ClientCertificate { .. } => {
                "name a certificate that the server accepts, and its key: [deliver.tls] cert = \"…\" and key = \"…\""
            }
            Self::NotTls => "is the port right, or is it an http:// address?",
            Self::NothingInCommon { .. } => "the server must speak TLS 1.2 or 1.3 with a suite of today, and HTTP/1.1",
            Self::Alert { .. } | Self::Protocol { .. } | Self::Flood | Self::Library { .. } => {
                "see the server's log; a proxy in between may be at fault"
            }
            Self::Truncated | Self::KeysUsedUp | Self::NotOpen => "",
        }
    }

    /// What happened and what to do, in one line.
    pub fn advice(&self) -> String {
        match self.remedy() {
            "" => self.to_string(),
            remedy => format!("{self}: {remedy}"),
        }
    }
}

/// Names of a certificate that are shown.
const NAMES_MAX: usize = 4;

fn for_names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names if names.len() > NAMES_MAX => format!(", but for {} and others", names[..NAMES_MAX].join(", ")),
        names => format!(", but for {}", names.join(", ")),
    }
}

fn at(before: &str, second: &Option<u64>) -> String {
    let time = second.and_then(|second| jiff::Timestamp::from_second(i64::try_from(second).ok()?).ok());
    time.map(|time| format!("{before}{time}")).unwrap_or_default()
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        let reason = error.to_string();
        match error {
            Error::InvalidCertificate(fault) => of_certificate(fault),
            Error::AlertReceived(alert) => of_alert(alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                Self::NotTls
            }
            Error::PeerIncompatible(fault) => Self::NothingInCommon { reason: incompatible(&fault) },
            Error::NoApplicationProtocol
            | Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
                Self::NothingInCommon { reason: "no application protocol".to_owned() }
            }
            Error::NoCertificatesPresented => Self::Certificate { reason: "there is none".to_owned() },
            Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::DecryptError
            | Error::PeerSentOversizedRecord => Self::Protocol { reason },
            _ => Self::Library { reason },
        }
    }
}

fn incompatible(fault: &PeerIncompatible) -> String {
    format!("{fault:?}")
}

fn of_certificate(fault: CertificateError) -> TlsError {
    let second = |time: UnixTime| Some(time.as_secs());
    match fault {
        CertificateError::Expired => TlsError::Expired { not_after: None },
        CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired { not_after: second(not_after) },
        CertificateError::NotValidYet => TlsError::NotValidYet { not_before: None },
        CertificateError::NotValidYetContext { not_before, .. } => {
            TlsError::NotValidYet { not_before: second(not_before) }
        }
        CertificateError::NotValidForName => TlsError::WrongHost { names: Vec::new() },
        CertificateError::NotValidForNameContext { presented, .. } => {
            TlsError::WrongHost { names: presented.iter().map(|name| plain_name(name)).collect() }
        }
        CertificateError::UnknownIssuer => TlsError::UnknownIssuer,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => TlsError::WrongPurpose,
        // The library has no variant of its own for it.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => TlsError::IsAuthority,
        other => TlsError::Certificate { reason: other.to_string() },
    }
}

/// The library writes `DnsName("api.example")` and `IpAddress(10.0.0.1)`.
fn plain_name(name: &str) -> String {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inside.trim_matches('"').to_owned()
}

fn of_alert(alert: AlertDescription) -> TlsError {
    use AlertDescription as Alert;
    let name = alert.as_str().map_or_else(|| format!("{alert:?}"), str::to_owned);
    match alert {
        Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::CertificateRequired => TlsError::ClientCertificate { alert: name },
        Alert::ProtocolVersion
        | Alert::HandshakeFailure
        | Alert::InsufficientSecurity
        | Alert::NoApplicationProtocol => TlsError::NothingInCommon { reason: format!("alert {name}") },
        _ => TlsError::Alert { alert: name },
    }
}
