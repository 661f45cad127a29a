//! Why deliveries fail, for the person who must mend it. The same problem twice in a row is said
//! once, so each is compared.

use crate::delivery::{NoToken, Said, Step};
use crate::http::client::ResponseError;
use crate::shard::op::ConnectError;
use crate::tls::TlsError;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Why a request came to nothing, or a connection was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::shard) enum Problem {
    #[error("{0}")]
    Connect(ConnectError),
    #[error("{0}")]
    Handshake(HandshakeFault),
    #[error("{0}")]
    Lost(Loss),
    #[error("no whole answer within {0:?}")]
    Late(Duration),
    #[error("answered {status} to {}{said}{advice}", what(*step))]
    Answered { status: u16, step: Step, said: Said, advice: Advice },
    #[error(
        "answered {status} to a record{said}, which success does not have: if that means that the record has arrived, write \
         success = {list} in [deliver]"
    )]
    Unlisted { status: u16, said: Said, list: String },
    #[error("answered {status} when it was asked what it has{said}")]
    NotConfirmed { status: u16, said: Said },
    #[error("answered {status} to the id step with more than {bytes_max} bytes")]
    IdTooLong { status: u16, bytes_max: usize },
    #[error("{0}")]
    Unread(Unread),
    #[error("{0}: is this the right URL?")]
    UnreadAll(Unread),
    #[error(
        "answered {status} to a record, and {parked_max} are parked, which is the most: see to them by `ringest queue`"
    )]
    ParkedFull { status: u16, parked_max: usize },
    #[error("the journal has no room to keep a refused record aside")]
    NoRoomToPark,
    #[error("the journal has no room for an id")]
    NoRoomForId,
    #[error("answered {status} to the id step{said}: {why}: {}", why.advice())]
    NoId { status: u16, said: Said, why: NoToken },
    #[error("{0}")]
    Lease(LeaseFault),
}

/// An answer that is longer than what is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shard) struct Unread {
    pub status: u16,
    pub step: Step,
    pub bytes_max: usize,
}

/// Why leased ids were not given, or cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::shard) enum LeaseFault {
    #[error("its ids are not used: another service gives them now")]
    OtherService,
    #[error("the journal has no room for ids")]
    NoRoom,
    #[error("its answer to a lease of ids: {0}")]
    NoFirst(NoToken),
    #[error("{found} at {pointer} of its answer to a lease of ids, where a whole number should be")]
    NoNumber { found: String, pointer: String },
    #[error("{found} at {pointer} of its answer to a lease of ids, where their number should be")]
    NoCount { found: String, pointer: String },
    #[error("its ids are beyond 64 bits")]
    TooLarge,
}

impl LeaseFault {
    /// Whether it is the answer that is at fault, so that another one would be alike.
    pub fn is_of_answer(&self) -> bool {
        !matches!(self, Self::OtherService | Self::NoRoom)
    }
}

/// Why a TLS handshake was not completed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::shard) enum HandshakeFault {
    #[error("{}", .0.advice())]
    Tls(TlsError),
    #[error("the TLS handshake failed: sending: {}", errno_words(*.errno))]
    Sending { errno: i32 },
    #[error("the TLS handshake failed: {0}")]
    Ended(Loss),
    #[error("it ended the TLS handshake")]
    Closed,
    #[error("no whole TLS handshake within {0:?}")]
    Late(Duration),
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::shard) enum Loss {
    #[error("idle")]
    Idle,
    #[error("it closed the connection")]
    Closed,
    #[error("reading failed: {}", errno_words(*.errno))]
    Reading { errno: i32 },
    #[error("it sent bytes that nobody asked for")]
    Unasked,
    #[error("its answer cannot be read: {error}{said}")]
    Unreadable { error: ResponseError, said: Said },
    #[error("it answered before it had the whole request")]
    Early,
    #[error("an answer before this one was too long")]
    BehindLong,
    #[error("an answer before this one was late")]
    BehindLate,
    /// By the session's words alone.
    #[error("{0}")]
    Sealing(TlsError),
    #[error("{}", .0.advice())]
    Session(TlsError),
    #[error("the configuration has changed")]
    Reconfigured,
}

/// What an operator can do about an answer that no record will get past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shard) enum Advice {
    None,
    /// By the status.
    OfStatus(u16),
    /// A listed status, of another type than this.
    Type(String),
    /// A listed status, but without the record's id at this pointer.
    NoId(String),
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::OfStatus(status) => f.write_str(match status {
                300..=399 => ": a redirect is never followed; put the new address into the configuration",
                401 | 403 | 407 => ": see to the credentials in [deliver.headers]",
                404 | 405 | 410 => ": is this the right URL?",
                _ => ": see to the API's configuration",
            }),
            // A login page, or the answer of something else that listens there.
            Self::Type(wanted) => write!(f, ", but its type is not {wanted}: is this the right URL?"),
            Self::NoId(pointer) => {
                write!(f, ", but its answer does not have the record's id at {pointer}: is this the right URL?")
            }
        }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = if self.step == Step::Confirm { " when it was asked what it has" } else { " to a record" };
        write!(f, "answered {}{asked} with more than {} bytes, which are not read", self.status, self.bytes_max)
    }
}

fn what(step: Step) -> &'static str {
    if step == Step::Id { "the id step" } else { "a record" }
}

fn errno_words(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}
