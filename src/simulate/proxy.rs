//! What a proxy in front of a machine sends first: the PROXY header, version 1 or 2 (haproxy's proxy-protocol.txt). Each machine has
//! an address of its own.

use std::net::{Ipv4Addr, SocketAddr};

/// How the header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, PROXY; TCP over IPv4; length of the addresses.
const V2_TCP4: [u8; 4] = [0x21, 0x11, 0, 12];
/// Of every machine: it is the address that tells them apart.
const PORT: u16 = 40_000;

/// The address of a machine by its index: 10.0.0.1 and so on.
pub fn machine_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + (index as u32 & 0x00FF_FFFF) % 0x00FF_FFFE)
}

/// The header of a connection to `to`.
pub(super) fn header(version: ProxyVersion, machine: usize, to: SocketAddr) -> Vec<u8> {
    let from = machine_address(machine);
    let SocketAddr::V4(to) = to else {
        // Both addresses of a header are of one family, and of ours nothing depends on it.
        return header(version, machine, SocketAddr::from((Ipv4Addr::LOCALHOST, to.port())));
    };
    match version {
        ProxyVersion::V1 => format!("PROXY TCP4 {from} {} {PORT} {}\r\n", to.ip(), to.port()).into_bytes(),
        ProxyVersion::V2 => {
            let addresses = [from.octets(), to.ip().octets()].concat();
            [&SIGNATURE[..], &V2_TCP4, &addresses, &PORT.to_be_bytes(), &to.port().to_be_bytes()].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_an_address_of_its_own_in_both_versions() {
        let to = "127.0.0.1:4001".parse().unwrap();
        assert_eq!(header(ProxyVersion::V1, 0, to), b"PROXY TCP4 10.0.0.1 127.0.0.1 40000 4001\r\n");
        assert_eq!(
            header(ProxyVersion::V2, 255, to),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\x01\0\x7f\0\0\x01\x9c\x40\x0f\xa1"
        );
        let last = header(ProxyVersion::V1, 0x00FF_FFFD, "[::1]:80".parse().unwrap());
        assert_eq!(last, b"PROXY TCP4 10.255.255.254 127.0.0.1 40000 80\r\n");
    }
}
