//! What an Authorization field holds (RFC 6750 section 2.1, RFC 7617 section 2).

use crate::ground::secrets::scope;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest Authorization that is looked into, in bytes.
const VALUE_BYTES_MAX: usize = 4_096;

/// The secret of a request. `Debug` is left out, so that no log can show it.
#[derive(PartialEq, Eq)]
pub(super) enum Credentials<'h> {
    /// A secret alone.
    Bearer(&'h [u8]),
    /// `USER:SECRET`, and where the colon is.
    Basic(Vec<u8>, usize),
}

impl<'h> Credentials<'h> {
    /// The credentials of a field's value; none of another scheme, nor malformed ones.
    pub fn parse(value: &'h [u8]) -> Option<Self> {
        let blank = value.iter().position(|byte| *byte == b' ').filter(|_| value.len() <= VALUE_BYTES_MAX)?;
        let (scheme, rest) = value.split_at(blank);
        let rest = rest.trim_ascii();
        if rest.is_empty() || rest.contains(&b' ') {
            return None;
        }
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Some(Self::Bearer(rest));
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let pair = scope(|| STANDARD.decode(rest)).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Some(Self::Basic(pair, colon))
    }

    pub fn secret(&self) -> &[u8] {
        match self {
            Self::Bearer(secret) => secret,
            Self::Basic(pair, colon) => &pair[colon + 1..],
        }
    }

    /// Who says to have it, and what; of Bearer what stands on both sides of its first colon.
    pub fn named(&self) -> Option<(&[u8], &[u8])> {
        let (both, colon) = match self {
            Self::Bearer(both) => (*both, both.iter().position(|byte| *byte == b':')?),
            Self::Basic(both, colon) => (&both[..], *colon),
        };
        Some((&both[..colon], &both[colon + 1..]))
    }

    /// Who says to have it, of Basic.
    pub fn user(&self) -> Option<&[u8]> {
        match self {
            Self::Bearer(_) => None,
            Self::Basic(pair, colon) => Some(&pair[..*colon]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_give_a_secret_and_basic_its_user() {
        let bearer = Credentials::parse(b"bEaReR  abc.def~+/=").expect("a bearer token");
        assert_eq!((bearer.secret(), bearer.user()), (b"abc.def~+/=".as_slice(), None));
        let basic = Credentials::parse(b"Basic Y2FtOnM6M2NyM3Q=").expect("basic");
        assert_eq!((basic.secret(), basic.user()), (b"s:3cr3t".as_slice(), Some(b"cam".as_slice())));
        assert_eq!((bearer.named(), basic.named()), (None, Some((b"cam".as_slice(), b"s:3cr3t".as_slice()))));
        let typed = Credentials::parse(b"Bearer cam:s:3cr3t").expect("a name and a secret");
        assert_eq!((typed.named(), typed.user()), (Some((b"cam".as_slice(), b"s:3cr3t".as_slice())), None));
    }

    #[test]
    fn what_is_malformed_is_no_credential() {
        for wrong in ["", "Bearer", "Bearer ", "Bearer a b", "Digest a=b", "Basic !!", "Basic YWJj", "BearerX abc"] {
            assert!(Credentials::parse(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
        assert!(Credentials::parse(&[b"Bearer ".as_slice(), &[b'x'; 4_096]].concat()).is_none());
    }
}
