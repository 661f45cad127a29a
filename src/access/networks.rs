//! `allow` and `deny`: which addresses may connect to a listener.

use ipnet::IpNet;
use std::net::IpAddr;

/// The networks of a listener. An IPv4 address is one, also where it comes as an IPv6 address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// Who may connect; empty: all.
    pub allow: Vec<IpNet>,
    /// Who may not, though `allow` has them.
    pub deny: Vec<IpNet>,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// Neither an address nor a network.
    #[error("this is no network")]
    NoNetwork,
    /// Bits beyond the prefix are set.
    #[error("the address has bits beyond the prefix: {network} is the whole network, {address} the one address")]
    HostBits {
        /// What may be meant.
        network: IpNet,
        /// What may be meant, too.
        address: IpAddr,
    },
    /// An IPv4 network as an IPv6 one.
    #[error("IPv4 addresses are written as such: ::ffff:0:0/96 has none of them")]
    Mapped,
}

impl Networks {
    /// Whether a peer may connect: no network of `deny` has its address, and one of `allow` has, where there are some.
    pub fn admits(&self, peer: IpAddr) -> bool {
        if self.allow.is_empty() && self.deny.is_empty() {
            return true;
        }
        let peer = peer.to_canonical();
        let has = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&peer));
        !has(&self.deny) && (self.allow.is_empty() || has(&self.allow))
    }

    /// `10.0.4.0/24`, or an address alone.
    ///
    /// # Errors
    /// [`NetworkFault`].
    pub fn parse(text: &str) -> Result<IpNet, NetworkFault> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| NetworkFault::NoNetwork)?,
        };
        if matches!(network.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            return Err(NetworkFault::Mapped);
        }
        if network.trunc() != network {
            return Err(NetworkFault::HostBits { network: network.trunc(), address: network.addr() });
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(allow: &[&str], deny: &[&str]) -> Networks {
        let parse = |list: &[&str]| list.iter().map(|text| Networks::parse(text).expect(text)).collect();
        Networks { allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn deny_counts_before_allow_and_no_list_lets_all_in() {
        let cases = [
            (networks(&[], &[]), "203.0.113.9", true),
            (networks(&["10.0.4.0/24"], &[]), "10.0.4.255", true),
            (networks(&["10.0.4.0/24"], &[]), "10.0.5.0", false),
            (networks(&["10.0.4.0/24"], &["10.0.4.7"]), "10.0.4.7", false),
            (networks(&["10.0.4.0/24"], &["10.0.4.7"]), "10.0.4.8", true),
            (networks(&[], &["10.0.0.0/8"]), "10.255.0.1", false),
            (networks(&[], &["10.0.0.0/8"]), "11.0.0.1", true),
            // A listener on [::] sees IPv4 peers as IPv6 addresses.
            (networks(&["10.0.4.0/24"], &[]), "::ffff:10.0.4.7", true),
            (networks(&[], &["10.0.4.0/24"]), "::ffff:10.0.4.7", false),
            (networks(&["2001:db8::/32"], &[]), "2001:db8:1::7", true),
            (networks(&["2001:db8::/32"], &[]), "10.0.4.7", false),
            (networks(&["0.0.0.0/0"], &[]), "2001:db8::7", false),
            (networks(&["0.0.0.0/0", "::/0"], &[]), "2001:db8::7", true),
        ];
        for (networks, peer, expected) in cases {
            assert_eq!(networks.admits(peer.parse().unwrap()), expected, "{peer} at {networks:?}");
        }
    }

    #[test]
    fn a_network_has_no_bits_beyond_its_prefix() {
        assert_eq!(Networks::parse("10.0.4.7").unwrap(), "10.0.4.7/32".parse().unwrap());
        assert_eq!(Networks::parse("::1").unwrap(), "::1/128".parse().unwrap());
        let fault = Networks::parse("10.0.4.7/24").unwrap_err().to_string();
        assert!(fault.contains("10.0.4.0/24") && fault.contains("10.0.4.7 the one"), "{fault}");
        for wrong in ["", "10.0.4", "10.0.4.0/33", "10.0.4.0-10.0.4.9", "plant", "10.0.4.0/ 24"] {
            assert_eq!(Networks::parse(wrong), Err(NetworkFault::NoNetwork), "{wrong:?}");
        }
        assert_eq!(Networks::parse("::ffff:10.0.4.0/120"), Err(NetworkFault::Mapped));
    }
}
