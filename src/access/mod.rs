//! Who may send: what a listener asks of a peer before anything of it is read, and of a request once
//! its head is whole.
//!
//! It owns the rules as they are configured: networks, proxies, patterns of SOURCEs, tokens, origins. It never
//! reads a file, sees no clock, and counts nothing: it is given bytes and the moment, and says yes or
//! why not.

mod credentials;
mod denial;
mod judge;
mod networks;
mod patterns;
mod proxies;
mod quotas;
pub mod tokens;
mod typed;

pub use denial::{Denial, DenialCounts};
pub use judge::{Admitted, Judged, Names, Turned};
pub use networks::{NetworkFault, Networks};
pub use patterns::{Pattern, PatternFault, Patterns};
pub use proxies::{ForwardedFault, Proxies};
pub use quotas::Quotas;
pub use tokens::Tokens;
pub use typed::{Looked, NEW_SALT_BYTES, SecretCheck, TYPED_CHARS_MIN, TypedHash, Vetted};

use std::path::PathBuf;
use std::sync::Arc;

/// Who may send to one listener. The default lets everybody in, but for web pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Which peers may connect, and which machines that a proxy tells of.
    pub networks: Networks,
    /// Which of them tell the machine behind them.
    pub proxies: Proxies,
    /// Which SOURCEs there are; empty: all that no other source is called.
    pub sources: Patterns,
    /// Who must say who they are; `None`: nobody.
    pub tokens: Option<TokensFile>,
    /// Whether Basic (RFC 7617) is taken, too.
    pub basic: bool,
    /// The origins whose pages may send.
    pub origins: Vec<Arc<String>>,
    /// How much each of them may.
    pub quotas: Quotas,
}

/// Tokens, and the file that they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokensFile {
    /// Read again while the gateway runs.
    pub path: PathBuf,
    /// As they were read last.
    pub tokens: Arc<Tokens>,
}
