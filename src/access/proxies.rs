//! The proxies of a listener: who may tell which machine is behind it, by a PROXY header
//! (`ground::proxy`) or by X-Forwarded-For. Of anybody else neither counts.
//!
//! X-Forwarded-For is a list of addresses, to which each proxy adds the one that has connected to
//! it. Only what a proxy of the list has added can be believed, so it is read from its end, and no
//! further than the first address that is no proxy.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// The proxies of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(pub Vec<IpNet>);

impl Proxies {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what this address tells counts. An IPv4 address is one, also where it comes as an
    /// IPv6 address.
    pub fn have(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who sends a request that came from `from`; `fields` are the values of X-Forwarded-For, in
    /// their order. The port is 0 where none is told.
    ///
    /// # Errors
    /// [`ForwardedFault`]: a proxy has told something that is no address. Nobody can say then whose
    /// request it is.
    pub fn client<'h>(
        &self,
        from: SocketAddr,
        fields: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> Result<SocketAddr, ForwardedFault> {
        let mut client = from;
        for element in fields.rev().flat_map(|field| field.rsplit(|byte| *byte == b',')) {
            if !self.have(client.ip()) {
                break;
            }
            let element = element.trim_ascii();
            if !element.is_empty() {
                client = address(element).ok_or(ForwardedFault)?;
            }
        }
        Ok(client)
    }
}

/// What a proxy has put into X-Forwarded-For is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("X-Forwarded-For of a proxy does not end in an address")]
pub struct ForwardedFault;

/// An address as proxies write it: alone, or with a port; IPv6 with brackets or without.
fn address(element: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let alone = |text: &str| text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address.to_canonical(), 0));
    let bracketed =
        |text: &str| text.strip_prefix('[')?.strip_suffix(']').filter(|inner| inner.contains(':')).and_then(alone);
    let with_port = |text: &str| {
        let address = text.parse::<SocketAddr>().ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    alone(text).or_else(|| bracketed(text)).or_else(|| with_port(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Networks;

    fn told(from: &str, fields: &[&str]) -> Result<String, ForwardedFault> {
        let proxies = ["10.0.0.5", "10.1.0.0/16", "2001:db8::5"].map(|text| Networks::parse(text).expect(text));
        let fields = fields.iter().map(|field| field.as_bytes());
        let from = SocketAddr::new(from.parse().expect("an address"), 9);
        let client = Proxies(proxies.to_vec()).client(from, fields)?;
        Ok(client.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxy_counts() {
        for (from, fields, client) in [
            ("10.0.0.5", &[][..], "10.0.0.5:9"),
            ("10.0.0.5", &[""], "10.0.0.5:9"),
            ("10.0.0.5", &["10.0.4.21"], "10.0.4.21:0"),
            ("::ffff:10.0.0.5", &["10.0.4.21"], "10.0.4.21:0"),
            ("10.0.0.5", &["203.0.113.9, 10.0.4.21"], "10.0.4.21:0"), // what stands in front is the machine's own word
            ("10.0.0.5", &["nonsense, 10.0.4.21"], "10.0.4.21:0"),
            ("10.0.0.5", &["203.0.113.9", "10.0.4.21"], "10.0.4.21:0"), // haproxy adds a field, nginx an element
            ("10.0.0.5", &["203.0.113.9, 10.0.4.21 ,10.1.2.3"], "10.0.4.21:0"), // a chain
            ("10.0.0.5", &["10.0.4.21,\t10.1.2.3", "10.1.0.1"], "10.0.4.21:0"),
            ("10.0.0.5", &["10.1.2.3, 10.1.0.1"], "10.1.2.3:0"), // proxies alone: the first of them
            ("10.0.0.5", &["10.0.4.21, , "], "10.0.4.21:0"),
            ("10.0.0.5", &["10.0.4.21:4711"], "10.0.4.21:4711"),
            ("10.0.0.5", &["2001:db8::7"], "[2001:db8::7]:0"),
            ("10.0.0.5", &["[2001:db8::7]"], "[2001:db8::7]:0"),
            ("10.0.0.5", &["[2001:db8::7]:4711"], "[2001:db8::7]:4711"),
            ("10.0.0.5", &["::ffff:10.0.4.21"], "10.0.4.21:0"),
            ("2001:db8::5", &["10.0.4.21, 2001:db8::5"], "10.0.4.21:0"),
            // It is no proxy, so that its word is nothing.
            ("10.0.4.21", &["203.0.113.9"], "10.0.4.21:9"),
            ("10.0.4.21", &["nonsense"], "10.0.4.21:9"),
        ] {
            assert_eq!(told(from, fields).as_deref(), Ok(client), "{fields:?} from {from}");
        }
    }

    #[test]
    fn what_a_proxy_tells_must_be_an_address() {
        for wrong in [
            "unknown",
            "_hidden",
            "10.0.4",
            "10.0.4.21:x",
            "[10.0.4.21]",
            "2001:db8::7]",
            "fe80::1%eth0",
            "10.0.4.21 10.0.4.22",
        ] {
            assert_eq!(told("10.0.0.5", &["10.0.4.22", wrong]), Err(ForwardedFault), "{wrong}");
            assert_eq!(told("10.0.0.5", &[wrong, "10.1.0.1"]), Err(ForwardedFault), "{wrong}");
        }
    }
}
