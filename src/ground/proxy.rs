//! The header of the PROXY protocol, versions 1 and 2 (proxy-protocol.txt of haproxy, sections 2.1
//! and 2.2).
//!
//! ```text
//! v1   PROXY SP ( TCP4 | TCP6 ) SP source SP destination SP source port SP destination port CR LF
//!      PROXY SP UNKNOWN [ SP anything ] CR LF                                at most 107 bytes in all
//!
//! v2   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A | version and command 1 | family and protocol 1 | length 2
//!      source | destination | source port 2 | destination port 2 | fields that are passed over
//! ```
//!
//! It holds no bytes and no connection, and does not know whose word counts. What is said of some
//! bytes depends on them alone, and not on the pieces in which they came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE_1: &[u8] = b"PROXY ";
/// By what version 2 is known.
pub const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its CRLF.
const LINE_BYTES_MAX: usize = 107;
/// What is there of each header of version 2.
const FIXED_BYTES: usize = 16;
/// Most that may follow it: two paths have 216 bytes, and the rest is for fields.
const REST_BYTES_MAX: usize = 536;
/// Two IPv4 addresses with their ports, and two IPv6 ones.
const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;

/// Whom a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The machine that has connected to the proxy. An IPv4 address is told as one.
    Machine(SocketAddr),
    /// Nobody: the proxy speaks for itself, as in a health check, or does not know.
    Nobody,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// They may become a header.
    More,
    /// They begin none.
    None,
    /// A whole header.
    Header {
        /// Whom it names.
        told: Told,
        /// Its length; what follows is the machine's.
        bytes: usize,
    },
}

/// Why a header that has begun is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Version 1: no CRLF in time.
    #[error("the line of its PROXY header has no CRLF within 107 bytes")]
    Long,
    /// Version 1: a line of another form.
    #[error(
        "the line of its PROXY header is not PROXY TCP4 or TCP6 with two addresses and two ports, nor PROXY UNKNOWN"
    )]
    Line,
    /// Version 2: neither LOCAL nor PROXY, or another version.
    #[error("its PROXY header is of version 2 by its first bytes, and has the version and command {0:#04x}")]
    Command(u8),
    /// Version 2: a family or transport that no connection has.
    #[error("its PROXY header names the address family {0:#04x}, which no TCP connection has")]
    Family(u8),
    /// Version 2: more than is taken.
    #[error("its PROXY header has {0} bytes behind the first 16, and 536 are taken")]
    Large(u16),
    /// Version 2: less than its addresses need.
    #[error("its PROXY header has {0} bytes behind the first 16, which are too few for its addresses")]
    Short(u16),
}

/// Looks at the first bytes of a connection, from its beginning on.
///
/// # Errors
/// [`HeaderFault`] once they are known to be no header, though they begin as one.
pub fn look(bytes: &[u8]) -> Result<Look, HeaderFault> {
    let begins = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    if begins(SIGNATURE_1) {
        look_at_line(bytes)
    } else if begins(SIGNATURE_2) {
        look_at_binary(bytes)
    } else {
        Ok(Look::None)
    }
}

/// So many first bytes tell whether a stream begins with a header.
pub const RECOGNIZED_BYTES: usize = 13;

/// Whether bytes begin with enough of a header to be called one, wherever they came; `None` while
/// it takes more of them.
pub fn recognize(bytes: &[u8]) -> Option<bool> {
    const STARTS: [&[u8]; 4] = [SIGNATURE_2, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
    if STARTS.iter().any(|start| bytes.starts_with(start)) {
        return Some(true);
    }
    if STARTS.iter().any(|start| start.starts_with(bytes)) { None } else { Some(false) }
}

fn look_at_line(bytes: &[u8]) -> Result<Look, HeaderFault> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() < LINE_BYTES_MAX { Ok(Look::More) } else { Err(HeaderFault::Long) };
    };
    let told = window[..end].strip_suffix(b"\r").and_then(line).ok_or(HeaderFault::Line)?;
    Ok(Look::Header { told, bytes: end + 1 })
}

/// What a line of version 1 says, without its CRLF.
fn line(line: &[u8]) -> Option<Told> {
    let text = std::str::from_utf8(line.strip_prefix(SIGNATURE_1)?).ok()?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return (!text.contains('\r')).then_some(Told::Nobody);
    }
    let mut words = text.split(' ');
    let mut next = || words.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let source_port = port(next()?)?;
    port(next()?)?; // ours
    let address = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            IpAddr::V4(source.parse().ok()?)
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            IpAddr::V6(source.parse().ok()?)
        }
        _ => return None,
    };
    next().is_none().then(|| machine(address, source_port))
}

/// A port as the protocol writes it: no sign, and no zero in front.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn look_at_binary(bytes: &[u8]) -> Result<Look, HeaderFault> {
    let at = |index: usize| bytes.get(index).copied();
    let Some(command) = at(12) else { return Ok(Look::More) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(HeaderFault::Command(other)),
    };
    let Some(family) = at(13) else { return Ok(Look::More) };
    // Nobody is told: no address (0x00), or a socket of the proxy's own machine (0x31). What LOCAL
    // says here is passed over.
    let needed = match family {
        _ if is_local => 0,
        0x00 | 0x31 => 0,
        0x11 => INET_BYTES,
        0x21 => INET6_BYTES,
        other => return Err(HeaderFault::Family(other)),
    };
    let (Some(high), Some(low)) = (at(14), at(15)) else { return Ok(Look::More) };
    let length = u16::from_be_bytes([high, low]);
    let rest = usize::from(length);
    if rest > REST_BYTES_MAX {
        return Err(HeaderFault::Large(length));
    }
    if rest < needed {
        return Err(HeaderFault::Short(length));
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..FIXED_BYTES + rest) else { return Ok(Look::More) };
    let told = match needed {
        INET_BYTES => inet(addresses),
        INET6_BYTES => inet6(addresses),
        _ => Told::Nobody,
    };
    Ok(Look::Header { told, bytes: FIXED_BYTES + rest })
}

fn inet(addresses: &[u8]) -> Told {
    let source: [u8; 4] = addresses[..4].try_into().expect("its length was looked at");
    machine(source.into(), u16::from_be_bytes([addresses[8], addresses[9]]))
}

fn inet6(addresses: &[u8]) -> Told {
    let source: [u8; 16] = addresses[..16].try_into().expect("its length was looked at");
    machine(source.into(), u16::from_be_bytes([addresses[32], addresses[33]]))
}

fn machine(address: IpAddr, port: u16) -> Told {
    Told::Machine(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of version 2.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE_2, &[command, family], &length, rest].concat()
    }

    fn machine(text: &str) -> Told {
        Told::Machine(text.parse().expect("an address and a port"))
    }

    fn inet_rest() -> Vec<u8> {
        [&[10, 0, 4, 21, 10, 0, 0, 5][..], &[0xDC, 0x04, 0x0F, 0xA1]].concat()
    }

    fn inet6_rest(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().expect("an address");
        [&source.octets()[..], &[0; 16], &[0xDC, 0x04, 0x0F, 0xA1]].concat()
    }

    #[test]
    fn each_form_of_a_header_tells_its_machine_or_nobody_however_it_is_cut() {
        let fields = [&inet_rest()[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        let cases: Vec<(Vec<u8>, Told)> = vec![
            (b"PROXY TCP4 10.0.4.21 10.0.0.5 56324 4001\r\n".to_vec(), machine("10.0.4.21:56324")),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(), machine("255.255.255.255:65535")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 0\r\n".to_vec(), machine("[2001:db8::7]:56324")),
            (b"PROXY TCP6 ::ffff:10.0.4.21 ::1 1 2\r\n".to_vec(), machine("10.0.4.21:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Told::Nobody),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), Told::Nobody),
            (binary(0x21, 0x11, &inet_rest()), machine("10.0.4.21:56324")),
            (binary(0x21, 0x11, &fields), machine("10.0.4.21:56324")),
            (binary(0x21, 0x21, &inet6_rest("2001:db8::7")), machine("[2001:db8::7]:56324")),
            (binary(0x21, 0x21, &inet6_rest("::ffff:10.0.4.21")), machine("10.0.4.21:56324")),
            (binary(0x20, 0x00, &[]), Told::Nobody),
            (binary(0x20, 0x11, &inet_rest()), Told::Nobody),
            (binary(0x20, 0x77, &[1, 2, 3]), Told::Nobody),
            (binary(0x21, 0x00, &[]), Told::Nobody),
            (binary(0x21, 0x31, &[b'/'; 216]), Told::Nobody),
            (binary(0x21, 0x11, &[&inet_rest()[..], &[0; 524]].concat()), machine("10.0.4.21:56324")),
        ];
        for (header, told) in cases {
            for length in 0..header.len() {
                assert_eq!(
                    look(&header[..length]),
                    Ok(Look::More),
                    "{length} of {:?}",
                    header.escape_ascii().to_string()
                );
            }
            let whole = Ok(Look::Header { told, bytes: header.len() });
            assert_eq!(look(&header), whole, "{:?}", header.escape_ascii().to_string());
            assert_eq!(look(&[&header[..], b"W+1.0\r\nPROXY "].concat()), whole, "what follows is the machine's");
            assert_eq!(recognize(&header), Some(true));
        }
    }

    #[test]
    fn what_begins_as_a_header_and_is_none_is_named() {
        let lines: &[&[u8]] = &[
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 10.0.4.21 10.0.0.5 1 2\r\n",
            b"PROXY tcp4 10.0.4.21 10.0.0.5 1 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2\r\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2 \r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 1 2 3\r\n",
            b"PROXY  TCP4 10.0.4.21 10.0.0.5 1 2\r\n",
            b"PROXY TCP4 10.0.4.021 10.0.0.5 1 2\r\n",
            b"PROXY TCP4 10.0.4 10.0.0.5 1 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.x 1 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 65536 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 +1 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 01 2\r\n",
            b"PROXY TCP4 10.0.4.21 10.0.0.5 1 -2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 10.0.4.21 ::1 1 2\r\n",
            b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            b"PROXY TCP6 [::1] ::1 1 2\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY UNKNOWN a\rb\r\n",
            b"PROXY TCP4 \xFF 10.0.0.5 1 2\r\n",
        ];
        for line in lines {
            assert_eq!(look(line), Err(HeaderFault::Line), "{:?}", line.escape_ascii().to_string());
        }
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 91]].concat();
        assert_eq!(look(&[&long[..], b"\r\n"].concat()), Ok(Look::Header { told: Told::Nobody, bytes: 107 }));
        assert_eq!(look(&[&long[..], b"x"].concat()), Ok(Look::More));
        assert_eq!(look(&[&long[..], b"x\r\n"].concat()), Err(HeaderFault::Long));
        for (header, fault) in [
            (binary(0x11, 0x11, &inet_rest()), HeaderFault::Command(0x11)),
            (binary(0x22, 0x11, &inet_rest()), HeaderFault::Command(0x22)),
            (binary(0x21, 0x12, &inet_rest()), HeaderFault::Family(0x12)),
            (binary(0x21, 0x10, &inet_rest()), HeaderFault::Family(0x10)),
            (binary(0x21, 0x41, &inet_rest()), HeaderFault::Family(0x41)),
            (binary(0x21, 0x11, &inet_rest()[..11]), HeaderFault::Short(11)),
            (binary(0x21, 0x21, &inet_rest()), HeaderFault::Short(12)),
            (binary(0x21, 0x11, &[0; 537]), HeaderFault::Large(537)),
            (binary(0x20, 0x00, &[0; 537]), HeaderFault::Large(537)),
        ] {
            assert_eq!(look(&header[..header.len().min(16)]), Err(fault), "before its addresses are there");
            assert_eq!(look(&header), Err(fault));
        }
    }

    #[test]
    fn other_bytes_are_let_go_at_once() {
        for other in [
            &b"POST /v1/records/a HTTP/1.1\r\n"[..],
            b"PROXX",
            b"PROXY\t",
            b"proxy ",
            b"\r\nPOST",
            b"\r\n\r\n\x01",
            b"\r\n\r\n\0\r\nQUIX",
            b"\x16\x03\x01",
            b"W",
        ] {
            assert_eq!(look(other), Ok(Look::None), "{other:?}");
            assert_eq!(recognize(other), Some(false));
        }
        assert_eq!(recognize(b"PROXY /v1/records/a HTTP/1.1\r\n"), Some(false), "a method of that name");
        for start in [&b"PROXY TCP4 "[..], b"PROXY UNKNOWN", SIGNATURE_2] {
            assert!(start.len() <= RECOGNIZED_BYTES);
            let last = start.len() - 1;
            assert_eq!((recognize(&start[..last]), recognize(start)), (None, Some(true)));
        }
    }

    proptest! {
        /// More bytes never change what was said of fewer, and a header is never longer than the
        /// bounds.
        #[test]
        fn more_bytes_take_nothing_back(
            start in prop_oneof![Just(SIGNATURE_1.to_vec()), Just(SIGNATURE_2.to_vec()), Just(b"PROXY TCP4 ".to_vec()), Just(vec![])],
            rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\r'), Just(b'\n'), 0x10u8..0x40], 0..700),
        ) {
            let bytes = [start, rest].concat();
            let mut said = Ok(Look::More);
            for length in 0..=bytes.len() {
                let now = look(&bytes[..length]);
                prop_assert!(said == Ok(Look::More) || now == said, "{said:?} became {now:?} by byte {length}");
                if let Ok(Look::Header { bytes, .. }) = now {
                    prop_assert!(bytes <= length && bytes <= FIXED_BYTES + REST_BYTES_MAX);
                }
                prop_assert!(now != Ok(Look::More) || length < FIXED_BYTES + REST_BYTES_MAX);
                said = now;
            }
        }
    }
}
