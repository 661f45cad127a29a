//! Any bytes at the beginning of a connection: what is said of them does not depend on how they
//! come, and is what a second reader of the PROXY protocol says of the whole. As X-Forwarded-For
//! they never name an address that stands in front of one that is no proxy.

use super::input::Seen;
use ringest::access::{Networks, Proxies};
use ringest::ground::proxy::{HeaderFault, Look, Told, look, recognize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// More than the longest header.
const BYTES_MAX: usize = 600;

/// What a second reader says: a whole header with whom it names and its length, `Some(None)` for
/// what is none, `None` for what is not whole.
type Said = Option<Option<(Told, usize)>>;

fn reference(bytes: &[u8]) -> Said {
    if bytes.starts_with(b"PROXY ") {
        return reference_line(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return reference_binary(bytes);
    }
    match SIGNATURE.starts_with(bytes) || b"PROXY ".starts_with(bytes) {
        true => None,
        false => Some(None),
    }
}

fn reference_line(bytes: &[u8]) -> Said {
    let Some(end) = bytes.iter().take(107).position(|byte| *byte == b'\n') else {
        return if bytes.len() < 107 { None } else { Some(None) };
    };
    let line = String::from_utf8_lossy(&bytes[..=end]).into_owned();
    let Some(text) = line.strip_suffix("\r\n").filter(|text| !text.contains('\r')) else { return Some(None) };
    let words: Vec<&str> = text.split(' ').collect();
    let number = |word: &str| word.parse::<u16>().ok().filter(|port| port.to_string() == word);
    let told = match words[1..] {
        ["UNKNOWN", ..] if std::str::from_utf8(&bytes[..end]).is_ok() => Some(Told::Nobody),
        ["TCP4", source, destination, port, other] => {
            let ends = source.parse::<Ipv4Addr>().ok().zip(destination.parse::<Ipv4Addr>().ok());
            let ports = number(port).zip(number(other));
            ends.zip(ports).map(|((source, _), (port, _))| Told::Machine(SocketAddr::from((source, port))))
        }
        ["TCP6", source, destination, port, other] => {
            let ends = source.parse::<Ipv6Addr>().ok().zip(destination.parse::<Ipv6Addr>().ok());
            let ports = number(port).zip(number(other));
            ends.zip(ports).map(|((source, _), (port, _))| Told::Machine(SocketAddr::new(source.to_canonical(), port)))
        }
        _ => None,
    };
    Some(told.map(|told| (told, end + 1)))
}

fn reference_binary(bytes: &[u8]) -> Said {
    let fixed: Option<[u8; 4]> = bytes.get(12..16).and_then(|fixed| fixed.try_into().ok());
    let wrong = |at: usize, good: &[u8]| bytes.get(at).is_some_and(|byte| !good.contains(byte));
    let is_local = bytes.get(12) == Some(&0x20);
    if wrong(12, &[0x20, 0x21]) || (!is_local && wrong(13, &[0x00, 0x11, 0x21, 0x31])) {
        return Some(None);
    }
    let [_, family, high, low] = fixed?;
    let length = usize::from(high) * 256 + usize::from(low);
    let needed =
        [(0x11, 12), (0x21, 36)].iter().find(|(known, _)| *known == family && !is_local).map_or(0, |(_, n)| *n);
    if length > 536 || length < needed {
        return Some(None);
    }
    let rest = bytes.get(16..16 + length)?;
    let told = match needed {
        12 => {
            let port = u16::from_be_bytes([rest[8], rest[9]]);
            Told::Machine(SocketAddr::from(([rest[0], rest[1], rest[2], rest[3]], port)))
        }
        36 => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(&rest[..16]).expect("16 bytes"));
            Told::Machine(SocketAddr::new(address.to_canonical(), u16::from_be_bytes([rest[32], rest[33]])))
        }
        _ => Told::Nobody,
    };
    Some(Some((told, 16 + length)))
}

fn said(result: Result<Look, HeaderFault>) -> Said {
    match result {
        Ok(Look::More) => None,
        Ok(Look::None) | Err(_) => Some(None),
        Ok(Look::Header { told, bytes }) => Some(Some((told, bytes))),
    }
}

fn forwarded(bytes: &[u8], seen: &mut Seen) {
    let proxies = Proxies(["10.1.0.0/16", "::1"].map(|text| Networks::parse(text).expect("a network")).to_vec());
    let from = SocketAddr::from(([10, 1, 0, 1], 9));
    let fields = || bytes.split(|byte| *byte == b'\n');
    let Ok(client) = proxies.client(from, fields()) else { return seen.count("no address", 1) };
    // Nothing in front of the first address that is no proxy counts.
    let nested: Vec<&[u8]> = std::iter::once(&b"203.0.113.9, nonsense"[..]).chain(fields()).collect();
    if !proxies.have(client.ip()) {
        assert_eq!(proxies.client(from, nested.into_iter()), Ok(client));
        seen.count("forwarded", 1);
    }
    let stranger = SocketAddr::from(([10, 2, 0, 1], 9));
    assert_eq!(proxies.client(stranger, fields()), Ok(stranger), "its word is nothing");
}

/// The first bytes of a connection, and the values of fields, one a line.
pub fn run(data: &[u8], seen: &mut Seen) {
    let bytes = &data[..data.len().min(BYTES_MAX)];
    let mut before = None;
    let (mut recognized, mut whole) = (None, None);
    for length in 0..=bytes.len() {
        let now = said(look(&bytes[..length]));
        assert_eq!(now, reference(&bytes[..length]), "the first {length} bytes");
        assert!(before.is_none() || now == before, "more bytes take nothing back");
        let is_header = recognize(&bytes[..length]);
        assert!(recognized.is_none() || is_header == recognized);
        (before, recognized) = (now, is_header);
        whole = whole.or(now.flatten());
    }
    if let Some((told, bytes)) = whole {
        assert!(bytes <= 16 + 536 && recognized == Some(true) || told == Told::Nobody);
    }
    seen.count("a machine", matches!(whole, Some((Told::Machine(_), _))).into());
    seen.count("nobody", matches!(whole, Some((Told::Nobody, _))).into());
    seen.count("no header", (before == Some(None)).into());
    forwarded(bytes, seen);
}
