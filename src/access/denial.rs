//! Why somebody was turned away, as it is counted.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

macro_rules! denials {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal $words:literal,)*) => {
        /// Why a connection or a request was turned away.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Denial {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Denial {
            /// All of them.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// The label in metrics and snapshots.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// For a log.
            pub fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }
        }
    };
}

denials! {
    /// The peer's address is not one of those that may connect.
    Network = "network" "its address may not connect (allow, deny)",
    /// A PROXY header came from a peer that is not in `proxies`.
    ProxyHeader = "proxy_header" "it began with a PROXY header, and is not one of proxies",
    /// A connection of a proxy did not begin with a whole PROXY header.
    NoProxyHeader = "no_proxy_header" "it is one of proxies, and its connection did not begin with a PROXY header",
    /// A proxy told something in X-Forwarded-For that is no address.
    Forwarded = "forwarded" "it is one of proxies, and its X-Forwarded-For does not end in an address",
    /// The request is of a web page whose origin is not one of those that may send.
    Origin = "origin" "it sends for a web page whose origin is not allowed (origins)",
    /// There is no token where one is needed.
    NoToken = "no_token" "it has no token (tokens_file)",
    /// The token is not known, is no longer, or is too short to be safe.
    WrongToken = "wrong_token" "its token is not known or too short (tokens_file)",
    /// The time of the token is over.
    ExpiredToken = "expired_token" "the time of its token is over (tokens_file)",
    /// The token is not for this SOURCE.
    TokenSource = "token_source" "its token is not for the SOURCE that it names (tokens_file)",
    /// The listener has no such SOURCE.
    Source = "source" "the SOURCE that it names is none of this listener (sources)",
    /// The address has as many connections as it may have.
    AddressConnections = "address_connections" "it has as many connections as one address may have (connections_per_address)",
    /// As many connections show the token as may.
    TokenConnections = "token_connections" "as many connections as may show its token already (connections_per_token)",
    /// The SOURCE is the name of another source of the configuration.
    OtherSource = "other_source" "the SOURCE that it names is another source of the configuration",
}

/// How often each [`Denial`] was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DenialCounts([u64; Denial::ALL.len()]);

impl DenialCounts {
    /// Somebody was turned away.
    pub fn count(&mut self, denial: Denial) {
        self.0[denial as usize] += 1;
    }

    /// How often this was said.
    pub fn of(&self, denial: Denial) -> u64 {
        self.0[denial as usize]
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }
}

impl Serialize for DenialCounts {
    /// As an object: the count by label.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Denial::ALL.len()))?;
        for denial in Denial::ALL {
            map.serialize_entry(denial.label(), &self.of(denial))?;
        }
        map.end()
    }
}
