//! What a machine has offered in its first message: versions and suites, for the person who must find out why nothing fits.
//!
//! The layout (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2), behind a record's five bytes and a handshake's four:
//!
//! ```text
//! version 2 | random 32 | session id 1+n | suites 2+n | compressions 1+n | extensions 2+n, each: type 2, 2+n
//! ```
//!
//! Only the library decides by it. This reads as far as there is something to be read, and is asked after a refusal alone.

use std::fmt::Write as _;

/// A handshake record, and a ClientHello in it.
const RECORD: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
/// The extension `supported_versions`.
const SUPPORTED_VERSIONS: u16 = 43;
/// Versions and suites that are named, of each.
const SHOWN_MAX: usize = 4;

/// What a ClientHello offers, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Versions, such as 0x0303 for TLS 1.2.
    pub versions: Vec<u16>,
    /// Cipher suites by their numbers.
    pub suites: Vec<u16>,
}

/// Bytes from the front of others.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows its own length of so many bytes.
    fn counted(&mut self, bytes: usize) -> Option<Bytes<'a>> {
        let count = self.number(bytes)?;
        self.take(count).map(Bytes)
    }

    fn pairs(self) -> Vec<u16> {
        self.0.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }
}

impl Offer {
    /// Of the first bytes of a connection; `None` if they are no whole ClientHello.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let message = message(bytes)?;
        let mut hello = Bytes(&message);
        let version = hello.number(2)? as u16;
        hello.take(32)?;
        hello.counted(1)?;
        let suites = hello.counted(2)?.pairs();
        hello.counted(1)?;
        let mut offer = Self { versions: vec![version], suites };
        // SSL 3.0 and some TLS 1.0 devices have none.
        let mut extensions = hello.counted(2).unwrap_or(Bytes(&[]));
        while let (Some(kind), Some(mut value)) = (extensions.number(2), extensions.counted(2)) {
            if kind == usize::from(SUPPORTED_VERSIONS) {
                offer.versions = value.counted(1)?.pairs();
            }
        }
        // Numbers that mean nothing are offered to keep others lenient (RFC 8701).
        let is_grease = |number: &u16| number & 0x0F0F == 0x0A0A && number >> 8 == number & 0xFF;
        offer.versions.retain(|version| !is_grease(version));
        offer.suites.retain(|suite| !is_grease(suite));
        Some(offer)
    }

    /// Whether none of its versions is TLS 1.2 or later.
    pub fn is_old(&self) -> bool {
        self.versions.iter().all(|version| *version < 0x0303)
    }

    /// Whether all of its suites agree on their keys by RSA, without forward secrecy.
    pub fn is_rsa_alone(&self) -> bool {
        let mut suites = self.suites.iter().filter(|suite| !is_signal(**suite)).peekable();
        suites.peek().is_some() && suites.all(|suite| rsa_suite(*suite).is_some())
    }

    /// Versions and suites, in words.
    pub fn words(&self) -> String {
        let mut words = match self.versions.as_slice() {
            [] => "no version".to_owned(),
            versions => listed(versions, version_name),
        };
        let suites: Vec<u16> = self.suites.iter().copied().filter(|suite| !is_signal(*suite)).collect();
        if self.is_rsa_alone() {
            words.push_str(" with RSA key exchange only");
        }
        if !suites.is_empty() {
            write!(words, " ({})", listed(&suites, suite_name)).expect("a string takes any text");
        }
        words
    }
}

/// The first few, and how many more there are.
fn listed(numbers: &[u16], name: fn(u16) -> String) -> String {
    let shown: Vec<String> = numbers.iter().take(SHOWN_MAX).map(|number| name(*number)).collect();
    let more = numbers.len().saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

/// The ClientHello out of the records that it came in. What follows it may be cut anywhere.
fn message(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut records, mut message) = (Bytes(bytes), Vec::new());
    loop {
        let mut handshake = Bytes(&message);
        if handshake.number(1).is_some_and(|kind| kind != usize::from(CLIENT_HELLO)) {
            return None;
        }
        if let Some(hello) = handshake.counted(3) {
            return Some(hello.0.to_vec());
        }
        (records.number(1)? == usize::from(RECORD)).then_some(())?;
        records.take(2)?;
        message.extend_from_slice(records.counted(2)?.0);
    }
}

fn version_name(version: u16) -> String {
    match version {
        0x0304 => "TLS 1.3".to_owned(),
        0x0303 => "TLS 1.2".to_owned(),
        0x0302 => "TLS 1.1".to_owned(),
        0x0301 => "TLS 1.0".to_owned(),
        0x0300 => "SSL 3.0".to_owned(),
        other => format!("version 0x{other:04x}"),
    }
}

/// Numbers that are no suites: TLS_EMPTY_RENEGOTIATION_INFO_SCSV, TLS_FALLBACK_SCSV.
fn is_signal(suite: u16) -> bool {
    matches!(suite, 0x00FF | 0x5600)
}

/// The suites with RSA key exchange of the IANA registry that devices still offer, by their names.
fn rsa_suite(suite: u16) -> Option<&'static str> {
    Some(match suite {
        0x0001 => "TLS_RSA_WITH_NULL_MD5",
        0x0002 => "TLS_RSA_WITH_NULL_SHA",
        0x0004 => "TLS_RSA_WITH_RC4_128_MD5",
        0x0005 => "TLS_RSA_WITH_RC4_128_SHA",
        0x0009 => "TLS_RSA_WITH_DES_CBC_SHA",
        0x000A => "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        0x002F => "TLS_RSA_WITH_AES_128_CBC_SHA",
        0x0035 => "TLS_RSA_WITH_AES_256_CBC_SHA",
        0x003C => "TLS_RSA_WITH_AES_128_CBC_SHA256",
        0x003D => "TLS_RSA_WITH_AES_256_CBC_SHA256",
        0x0041 => "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA",
        0x0084 => "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA",
        0x009C => "TLS_RSA_WITH_AES_128_GCM_SHA256",
        0x009D => "TLS_RSA_WITH_AES_256_GCM_SHA384",
        0xC09C => "TLS_RSA_WITH_AES_128_CCM",
        0xC09D => "TLS_RSA_WITH_AES_256_CCM",
        _ => return None,
    })
}

fn suite_name(suite: u16) -> String {
    let known = rsa_suite(suite).or_else(|| rustls::CipherSuite::from(suite).as_str());
    known.map_or_else(|| format!("0x{suite:04x}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello as a device sends it, in records of so many bytes.
    fn hello(version: u16, suites: &[u16], extensions: &[u8], piece: usize) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([0]);
        body.extend((suites.len() as u16 * 2).to_be_bytes());
        body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        let record = |piece: &[u8]| [&[RECORD, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
        message.chunks(piece).flat_map(record).collect()
    }

    #[test]
    fn an_old_device_is_told_by_what_it_offers_however_its_records_part() {
        for piece in 1..60 {
            let bytes = hello(0x0301, &[0x0035, 0x002F, 0x00FF], &[], piece);
            let offer = Offer::of(&bytes).expect("a whole one");
            assert!(offer.is_old() && offer.is_rsa_alone());
            let words =
                "TLS 1.0 with RSA key exchange only (TLS_RSA_WITH_AES_256_CBC_SHA, TLS_RSA_WITH_AES_128_CBC_SHA)";
            assert_eq!(offer.words(), words);
            for end in 0..bytes.len() {
                assert_eq!(Offer::of(&bytes[..end]), None, "cut at {end}");
            }
            assert_eq!(Offer::of(&[&bytes[..], &[RECORD, 3, 1]].concat()), Some(offer), "a record is begun behind it");
        }
    }

    #[test]
    fn the_extension_counts_before_the_version_field_and_nonsense_is_left_out() {
        // supported_versions: GREASE, 1.3, 1.2.
        let extensions = [0, 11, 0, 43, 0, 7, 6, 0x2A, 0x2A, 3, 4, 3, 3];
        let suites = [0x1A1A, 0x1301, 0xC02F, 0x1302, 0x1303, 0xC030, 0xFE00];
        let offer = Offer::of(&hello(0x0303, &suites, &extensions, 1_000)).expect("a whole one");
        assert_eq!(offer.versions, [0x0304, 0x0303]);
        assert!(!offer.is_old() && !offer.is_rsa_alone());
        let words = offer.words();
        assert!(words.starts_with("TLS 1.3, TLS 1.2 (TLS13_AES_128_GCM_SHA256, ") && words.ends_with(" and 2 more)"));
        let without = Offer::of(&hello(0x0303, &suites, &[], 1_000)).expect("a whole one");
        assert_eq!((without.versions, without.suites), (vec![0x0303], offer.suites), "without extensions, too");
    }

    #[test]
    fn other_bytes_offer_nothing() {
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\n", &[0x16], &[0x16, 3, 1, 0, 4, 2, 0, 0, 0], &[0xFF; 400]] {
            assert_eq!(Offer::of(bytes), None, "{bytes:?}");
        }
    }
}
