//! The tokens of a listener, as their file has them: a line each of
//!
//! ```text
//! NAME  DIGEST  SOURCES  UNTIL      # a comment
//! cam-7 sha256:9f86d081884c7d65…  cam-7,cam-7-*  2027-12-31
//! ```
//!
//! NAME is the token's own, for whoever reads the file. DIGEST is `sha256:` and 64 hexadecimal
//! digits, SHA-256 of a token of 32 characters or more, or an argon2id hash of a secret that
//! somebody types ([`TypedHash`]). SOURCES are patterns with commas between them. UNTIL is a day,
//! the last one that counts (UTC), a moment (RFC 3339), or `never`.
//!
//! A token is looked up by its digest, so how long that takes tells nothing of any token.

use super::patterns::{Pattern, Patterns};
use super::typed::TypedHash;
use crate::ground::secrets::{apart, wipe_stack};
use jiff::civil::Date;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use ring::digest::{SHA256, digest};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Entries of one file.
const ENTRIES_MAX: usize = 65_536;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Shortest secret that a plain digest protects: nobody guesses 128 bits, and shorter ones are words.
pub const SECRET_BYTES_MIN: usize = 32;
/// `2027-12-31`
const DAY_BYTES: usize = 10;
/// The stack that a digest reaches down to at most.
const STACK_BYTES: usize = 4 * 1024;
const DIGEST_PREFIX: &str = "sha256:";

/// SHA-256 of something secret.
pub type Digest = [u8; 32];

/// The digest of a secret.
pub fn digest_of(secret: &[u8]) -> Digest {
    let digest = apart(|| digest(&SHA256, secret)).as_ref().try_into().expect("SHA-256 has 32 bytes");
    // The library copies what is less than a block.
    wipe_stack::<STACK_BYTES>();
    digest
}

/// One line of the file, without the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its own name.
    pub name: Box<str>,
    /// What its holder may send.
    pub sources: Patterns,
    /// When it ends, in nanoseconds since 1970; `None`: never.
    pub until_ns: Option<u64>,
}

impl Token {
    /// Whether its time is over.
    pub fn is_expired(&self, wall_ns: u64) -> bool {
        self.until_ns.is_some_and(|until_ns| wall_ns >= until_ns)
    }
}

/// A file of tokens. `Debug` shows none of it.
#[derive(Clone)]
pub struct Tokens {
    text: Digest,
    by_digest: HashMap<Digest, Token>,
    /// Those with secrets that people type, by their names.
    typed: HashMap<Box<str>, (TypedHash, Token)>,
}

/// By what a token's secret is known.
enum Known {
    Digest(Digest),
    Typed(TypedHash),
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.by_digest.len() + self.typed.len())
    }
}

impl PartialEq for Tokens {
    /// Whether both are of the same text.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Tokens {}

/// What is wrong with a line. It shows nothing of the line: somebody may have put a secret there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TokenFault {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
}

const LINE: &str = "NAME DIGEST SOURCES UNTIL, with blanks between: `ringest token` prints such a line";
/// What an end may be.
pub const UNTIL: &str = "a day such as 2027-12-31, a moment such as 2027-12-31T18:00:00Z, or never";

impl Tokens {
    /// The tokens of a text.
    ///
    /// # Errors
    /// All faults.
    pub fn parse(text: &str) -> Result<Self, Vec<TokenFault>> {
        let mut tokens = Self { text: digest_of(text.as_bytes()), by_digest: HashMap::new(), typed: HashMap::new() };
        let (mut names, mut faults) = (HashSet::new(), Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let added = token(text).and_then(|(known, token)| tokens.add(&mut names, known, token));
            faults.extend(added.err().map(|(what, allowed)| TokenFault { line, what, allowed }));
        }
        if faults.is_empty() { Ok(tokens) } else { Err(faults) }
    }

    fn add(&mut self, names: &mut HashSet<Box<str>>, known: Known, token: Token) -> Result<(), Fault> {
        if names.len() == ENTRIES_MAX {
            return Err(("this is a token too many", "at most 65,536 in one file"));
        }
        if !names.insert(token.name.clone()) {
            return Err(("another line has this name already", "a name of its own for each token"));
        }
        let is_there = match known {
            Known::Digest(digest) => self.by_digest.insert(digest, token).is_some(),
            Known::Typed(hash) => self.typed.insert(token.name.clone(), (hash, token)).is_some(),
        };
        match is_there {
            true => Err(("another line has this digest already", "a token of its own for each name")),
            false => Ok(()),
        }
    }

    /// Whether it is made of this text.
    pub fn is_of(&self, text: &str) -> bool {
        self.text == digest_of(text.as_bytes())
    }

    /// The token that is known by this digest.
    pub fn by_digest(&self, digest: &Digest) -> Option<&Token> {
        self.by_digest.get(digest)
    }

    /// The token of this name, where its secret is one that is typed, and the secret's hash. Of a name that is not there the hash
    /// is another one's, so that to look at it takes as long; `None` where no secret is typed.
    pub(super) fn typed_or_any(&self, name: &[u8]) -> Option<(&TypedHash, Option<&Token>)> {
        let found = std::str::from_utf8(name).ok().and_then(|name| self.typed.get(name));
        match found {
            Some((hash, token)) => Some((hash, Some(token))),
            None => self.typed.values().next().map(|(hash, _)| (hash, None)),
        }
    }
}

/// What is wrong, and what is allowed.
type Fault = (&'static str, &'static str);

fn token(text: &str) -> Result<(Known, Token), Fault> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [name, digest, sources, until] = fields[..] else {
        return Err(("a line has four fields", LINE));
    };
    check_name(name)?;
    let sources = sources.split(',').map(Pattern::parse).collect::<Result<_, _>>();
    let known = parse_known(digest)?;
    let token = Token {
        name: name.into(),
        sources: Patterns(sources.map_err(|_| ("the third field is no list of patterns", Pattern::ALLOWED))?),
        until_ns: parse_until(until).ok_or(("the fourth field is no end", UNTIL))?,
    };
    Ok((known, token))
}

/// A name that can stand in the file.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn check_name(name: &str) -> Result<(), (&'static str, &'static str)> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_good = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known);
    if is_good { Ok(()) } else { Err(("this is no name of a token", "1 to 64 of A-Z a-z 0-9 . _ -")) }
}

fn parse_known(text: &str) -> Result<Known, Fault> {
    const ALLOWED: &str = "$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH as `ringest token --argon2id` prints it, m at most 262144, t and p 16";
    if !TypedHash::is_meant(text) {
        return parse_digest(text).map(Known::Digest);
    }
    TypedHash::parse(text).map(Known::Typed).ok_or(("the second field is no argon2id hash that can be used", ALLOWED))
}

fn parse_digest(text: &str) -> Result<Digest, Fault> {
    const ALLOWED: &str = "sha256: and the 64 hexadecimal digits of a token's SHA-256, or an argon2id hash";
    let digits = text.strip_prefix(DIGEST_PREFIX).filter(|digits| digits.len() == 64);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits
        .filter(|digits| hex(digits))
        .and_then(|digits| digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(("the second field is no digest", ALLOWED))
}

/// The end of a token, in nanoseconds since 1970: `Some(None)` is never.
pub fn parse_until(text: &str) -> Option<Option<u64>> {
    if text == "never" {
        return Some(None);
    }
    let moment = match text.len() {
        // The whole day counts.
        DAY_BYTES => text.parse::<Date>().ok()?.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        _ => DateTimeParser::new().parse_timestamp(text).ok()?,
    };
    u64::try_from(moment.as_nanosecond()).ok().map(Some)
}

/// The line that stands for a token of this name.
pub fn line(name: &str, token: &str, sources: &Patterns, until: &str) -> String {
    let digest = crate::ground::text::hex(&digest_of(token.as_bytes()));
    line_of(name, &format!("{DIGEST_PREFIX}{digest}"), sources, until)
}

/// The line that stands for a token whose digest or hash is this.
pub fn line_of(name: &str, digest: &str, sources: &Patterns, until: &str) -> String {
    format!("{name} {digest} {} {until}", sources.texts().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_line_is_read_and_found_by_its_digest() {
        let text = format!("# tokens\n\n cam-7 {DIGEST}  cam-7,cam-7-* 2027-12-31 # the west gate\r\n");
        let tokens = Tokens::parse(&text).unwrap();
        // SHA-256 of "test".
        let token = tokens.by_digest(&digest_of(b"test")).expect("it is there");
        assert_eq!(
            (&*token.name, token.sources.have("cam-7-left"), token.sources.have("cam-8")),
            ("cam-7", true, false)
        );
        // 2028-01-01T00:00:00Z
        let end_ns = 1_830_297_600_000_000_000;
        assert_eq!(token.until_ns, Some(end_ns));
        assert!(!token.is_expired(end_ns - 1) && token.is_expired(end_ns));
        assert!(tokens.by_digest(&digest_of(b"Test")).is_none());
        assert!(tokens.is_of(&text) && !tokens.is_of(""));
        assert_eq!(format!("{tokens:?}"), "Tokens(1)");
    }

    #[test]
    fn every_wrong_line_is_told_and_none_is_shown() {
        let wrong = [
            format!("a {DIGEST} *"),
            format!("a {DIGEST} * never more"),
            format!("a/b {DIGEST} * never"),
            "b s3cr3t * never".to_owned(),
            format!("c {}g * never", &DIGEST[..70]),
            "argon $argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA * never".to_owned(),
            "argon-i $argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA * never".to_owned(),
            format!("d {DIGEST} cam,,x never"),
            format!("e {DIGEST} * tomorrow"),
            format!("f {DIGEST} * 2027-02-30"),
            format!("good {DIGEST} * never"),
            format!("good {} * never", DIGEST.replace('9', "8")),
            format!("same-digest {DIGEST} * never"),
        ];
        let faults = Tokens::parse(&wrong.join("\n")).unwrap_err();
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13]);
        assert!(!format!("{faults:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_secret_that_is_typed_is_found_by_its_name() {
        let text = "gate $argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA gate-* never";
        let tokens = Tokens::parse(text).unwrap();
        let (hash, token) = tokens.typed_or_any(b"gate").expect("it is there");
        assert_eq!(token.map(|token| &*token.name), Some("gate"));
        for unknown in [&b"Gate"[..], b"\xFF"] {
            assert_eq!(tokens.typed_or_any(unknown), Some((hash, None)), "it takes as long");
        }
        assert!(Tokens::parse("").unwrap().typed_or_any(b"gate").is_none());
        assert_eq!(format!("{tokens:?}"), "Tokens(1)");
        assert!(Tokens::parse(&format!("{text}\n{text}")).is_err());
    }

    #[test]
    fn an_end_is_a_day_a_moment_or_never() {
        assert_eq!(parse_until("never"), Some(None));
        assert_eq!(parse_until("1970-01-01"), Some(Some(86_400_000_000_000)));
        assert_eq!(parse_until("1970-01-01T01:00:00+01:00"), Some(Some(0)));
        assert_eq!(parse_until("1969-01-01"), None);
        assert_eq!(parse_until("soon"), None);
    }

    #[test]
    fn the_line_that_is_printed_is_one_that_is_read() {
        let sources = Patterns(vec![Pattern::parse("cam-*").unwrap(), Pattern::parse("x").unwrap()]);
        let text = line("cams", &"t".repeat(64), &sources, "2027-12-31");
        let tokens = Tokens::parse(&text).unwrap();
        let token = tokens.by_digest(&digest_of("t".repeat(64).as_bytes())).unwrap();
        assert_eq!((&*token.name, &token.sources), ("cams", &sources));
    }
}
