//! A proxy in front of HTTP machines: it tells in a PROXY header whom each connection is of, and the
//! service sees that address with each record.

use super::forms::is_of_http;
use super::payload::{Body, Film};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where all connections of machines come from.
pub const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 9, 9));

/// A machine's own address.
pub fn address_of(machine: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, machine as u8 + 1)
}

/// A header of the PROXY protocol, version 1 or 2, as haproxy writes them.
pub fn header(rng: &mut fastrand::Rng, machine: usize, port: u16) -> Vec<u8> {
    let (from, to) = (address_of(machine), Ipv4Addr::LOCALHOST);
    if rng.bool() {
        return format!("PROXY TCP4 {from} {to} {port} 4001\r\n").into_bytes();
    }
    // One in two has a field behind the addresses: the CRC32C of the header, which nobody checks.
    let more: &[u8] = rng.choice(&[&b""[..], &[3, 0, 4, 1, 2, 3, 4]]).expect("some");
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend((12 + more.len() as u16).to_be_bytes());
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(port.to_be_bytes());
    header.extend(4001u16.to_be_bytes());
    header.extend(more);
    header
}

/// Where a machine's connection comes from, and what is said first on it.
pub fn connection(rng: &mut fastrand::Rng, is_proxied: bool, machine: usize, port: u16) -> (SocketAddr, Vec<u8>) {
    match is_proxied {
        true => (SocketAddr::from((PROXY, port)), header(rng, machine, port)),
        false => (SocketAddr::from((address_of(machine), port)), Vec::new()),
    }
}

impl Body {
    /// A template that shows the address of each record's machine, too.
    pub fn with_address(self, template: &str) -> String {
        match self {
            Self::Raw => template.replacen("{{key}}", "{{key}}@{{address}}", 1),
            _ => template.replacen('{', r#"{"address": "{{address}}", "#, 1),
        }
    }
}

impl Film {
    /// Whether it shows the address of its machine, if that is one of HTTP: its name tells which.
    pub fn has_its_address(&self) -> bool {
        let machine = self.source.split('-').nth(1).and_then(|number| number.parse().ok());
        let own = machine.filter(|_| is_of_http(&self.source)).map(|machine| address_of(machine).to_string());
        own.is_none_or(|own| self.address == Some(own))
    }
}
