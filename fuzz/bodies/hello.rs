//! Any bytes as what a machine has sent of its handshake: what is said of its offer is what a second reader says, whatever stands
//! behind it, and what the library says that decides by it. The words for the log are short.

use super::input::Seen;
use ringest::tls::Offer;
use rustls::server::Acceptor;

/// Inputs are looked at at each length, so longer ones take too long.
const BYTES_MAX: usize = 700;
/// What a log line may have of it.
const WORDS_BYTES_MAX: usize = 400;

/// GREASE (RFC 8701).
fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0F == 0x0A
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    let pairs = bytes.chunks(2).filter(|pair| pair.len() == 2);
    pairs.map(|pair| u16::from(pair[0]) * 256 + u16::from(pair[1])).filter(|number| !is_grease(*number)).collect()
}

/// A part that follows its own length of so many bytes, and where it ends.
fn part(bytes: &[u8], at: usize, length_bytes: usize) -> Option<(&[u8], usize)> {
    let begin = at + length_bytes;
    let length = bytes.get(at..begin)?.iter().fold(0_usize, |sum, byte| sum * 256 + usize::from(*byte));
    Some((bytes.get(begin..begin + length)?, begin + length))
}

/// What a second reader says: whole records are joined until the handshake message that comes first is whole.
fn reference(bytes: &[u8]) -> Option<Offer> {
    let (mut joined, mut at) = (Vec::new(), 0);
    let message = loop {
        if joined.first().is_some_and(|kind| *kind != 1) {
            return None;
        }
        if let Some((message, _)) = part(&joined, 1, 3) {
            break message.to_vec();
        }
        if bytes.get(at) != Some(&22) {
            return None;
        }
        let (record, end) = part(bytes, at + 3, 2)?;
        joined.extend(record);
        at = end;
    };
    let version = u16::from(*message.first()?) * 256 + u16::from(*message.get(1)?);
    let (_, at) = part(&message, 34, 1)?;
    let (suites, at) = part(&message, at, 2)?;
    let (_, at) = part(&message, at, 1)?;
    let mut versions = numbers(&[version.to_be_bytes()[0], version.to_be_bytes()[1]]);
    if let Some((extensions, _)) = part(&message, at, 2) {
        let mut at = 0;
        while let (Some(kind), Some((value, end))) = (extensions.get(at..at + 2), part(extensions, at + 2, 2)) {
            if kind == [0, 43] {
                versions = numbers(part(value, 0, 1)?.0);
            }
            at = end;
        }
    }
    Some(Offer { versions, suites: numbers(suites) })
}

/// What the library has for suites, where it takes these bytes for a ClientHello.
fn taken_by_the_library(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {}
    let accepted = acceptor.accept().ok()??;
    Some(accepted.client_hello().cipher_suites().iter().map(|suite| u16::from(*suite)).collect())
}

/// The first bytes of a connection.
pub fn run(data: &[u8], seen: &mut Seen) {
    let bytes = &data[..data.len().min(BYTES_MAX)];
    let mut before = None;
    for length in 0..=bytes.len() {
        let now = Offer::of(&bytes[..length]);
        assert_eq!(now, reference(&bytes[..length]), "the first {length} bytes");
        assert!(before.is_none() || now == before, "more bytes take nothing back");
        before = now;
    }
    // The library may pass over an alert that comes first.
    if let Some(suites) = taken_by_the_library(bytes).filter(|_| bytes.first() == Some(&22)) {
        let offer = before.as_ref().expect("the library takes no more than this reads");
        assert_eq!(offer.suites, suites.into_iter().filter(|suite| !is_grease(*suite)).collect::<Vec<_>>());
        seen.count("taken by the library", 1);
    }
    let Some(offer) = before else { return seen.count("no offer", 1) };
    let words = offer.words();
    assert!(words.len() <= WORDS_BYTES_MAX && !words.contains(char::is_control), "{words:?}");
    seen.count("offer", 1);
    seen.count("old", offer.is_old().into());
    seen.count("RSA alone", offer.is_rsa_alone().into());
    seen.count("no version", offer.versions.is_empty().into());
}
