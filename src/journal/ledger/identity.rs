//! Who sends records. There can be one for each record that waits: so each is small, and what many
//! have in common is in memory once.

use crate::ground::decoding::Decoding;
use crate::journal::format::OriginPayload;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Who sends records, and how they are read: what placeholders show of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    kind: Arc<SenderKind>,
    name: Box<str>,
    peer: Option<Peer>,
}

// Each origin has one, and so has each that a start reads.
const _: () = assert!(size_of::<Identity>() <= 48);

/// What senders of a source have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SenderKind {
    source: Box<str>,
    decoding: Decoding,
}

/// The other end of a connection; an address of IPv4 is a mapped one, as on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    address: Ipv6Addr,
    port: u16,
}

impl Identity {
    /// Of no connection, and UTF-8.
    pub fn new(source: &str, name: &str) -> Self {
        Self::of(source, name, None, Decoding::default())
    }

    /// Of a configured source. `name`: what `{{source}}` shows; `peer`: the other end of a connection.
    pub fn of(source: &str, name: &str, peer: Option<SocketAddr>, decoding: Decoding) -> Self {
        let peer = peer.map(|peer| {
            let address = match peer.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            Peer { address, port: peer.port() }
        });
        Self { kind: Arc::new(SenderKind { source: source.into(), decoding }), name: name.into(), peer }
    }

    /// The configured source, which many have.
    pub fn source(&self) -> &str {
        &self.kind.source
    }

    /// What `{{source}}` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The other end of a connection.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(|peer| SocketAddr::new(peer.address.to_canonical(), peer.port))
    }

    /// How the records become text.
    pub fn decoding(&self) -> Decoding {
        self.kind.decoding
    }

    /// What is written down of it, as an origin of this number.
    pub(in crate::journal) fn payload(&self, origin: u32) -> OriginPayload<'_> {
        let (source, name, peer, decoding) = (self.source(), self.name(), self.peer(), self.decoding());
        OriginPayload { origin, source, name, peer, decoding }
    }
}

/// The kinds of senders that are in use, and some that were: each is in memory once.
#[derive(Debug, Default)]
pub(in crate::journal) struct SenderKinds(HashSet<Arc<SenderKind>>);

impl SenderKinds {
    /// Who has the same as others has the one copy of it.
    pub fn share(&mut self, who: Identity) -> Identity {
        if let Some(same) = self.0.get(&who.kind) {
            return Identity { kind: Arc::clone(same), ..who };
        }
        if self.0.len().is_power_of_two() {
            self.0.retain(|kind| Arc::strong_count(kind) > 1);
        }
        self.0.insert(Arc::clone(&who.kind));
        who
    }

    /// Who is meant by what was written down.
    pub fn identity(&mut self, payload: &OriginPayload<'_>) -> Identity {
        let OriginPayload { peer, decoding, source, name, .. } = *payload;
        self.share(Identity::of(source, name, peer, decoding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_in_memory_once_and_goes_when_nobody_has_it() {
        let mut kinds = SenderKinds::default();
        let (first, again) = (kinds.share(Identity::new("press", "a")), kinds.share(Identity::new("press", "b")));
        assert!(Arc::ptr_eq(&first.kind, &again.kind) && first != again);
        let latin = Decoding { encoding: Decoding::encoding_of("latin1").expect("a label"), ..Decoding::default() };
        let other = kinds.share(Identity::of("press", "a", None, latin));
        assert!(!Arc::ptr_eq(&first.kind, &other.kind) && other.decoding() == latin);
        for number in 0..1_000 {
            kinds.share(Identity::new(&format!("source {number}"), "a"));
        }
        assert!(kinds.0.len() <= 4 && kinds.0.contains(&first.kind) && kinds.0.contains(&other.kind), "{kinds:?}");
    }

    #[test]
    fn a_peer_is_what_it_was_made_of() {
        for peer in ["10.0.4.21:9100", "[2001:db8::7]:1", "[::1]:65535"] {
            let peer = Some(peer.parse().expect("an address"));
            assert_eq!(Identity::of("press", "a", peer, Decoding::default()).peer(), peer);
        }
        assert_eq!(Identity::new("press", "a").peer(), None);
    }
}
