//! Fields of a request's head that are kept with its records: encoded once, when the head is read, and lent from there on to
//! whoever carries the record, up to the template.
//!
//! ```text
//! kept headers   0 length of what follows u16    2 n × (name length u8, value length u16, name …, value …)
//! ```
//!
//! No header is no bytes at all. Names are as the configuration has them; their case does not count. Values are as they came.

/// Names that one source may keep.
pub const KEPT_NAMES_MAX: usize = 8;
/// Longest name, in bytes.
pub const KEPT_NAME_BYTES_MAX: usize = 64;
/// The values of one request together, in bytes.
pub const KEPT_VALUES_BYTES_MAX: usize = 256;

const LENGTH_BYTES: usize = 2;
/// Of a name and a value, before both.
const FIELD_BYTES: usize = 3;

/// The kept headers of one record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptHeaders<'a>(&'a [u8]);

impl<'a> KeptHeaders<'a> {
    /// Encodes names and values; no bytes where there are none.
    pub fn encode<'f>(fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            assert!(name.len() <= KEPT_NAME_BYTES_MAX && value.len() <= KEPT_VALUES_BYTES_MAX);
            if out.is_empty() {
                out.extend_from_slice(&[0; LENGTH_BYTES]);
            }
            out.push(name.len() as u8);
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
        if let Some((length, fields)) = out.split_first_chunk_mut() {
            *length = (fields.len() as u16).to_le_bytes();
        }
        out
    }

    /// What [`Self::encode`] has made.
    pub fn of(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// How many bytes at the front are kept headers, if so many are there.
    pub fn bytes_at(front: &[u8]) -> Option<usize> {
        let (length, rest) = front.split_first_chunk()?;
        let bytes = usize::from(u16::from_le_bytes(*length));
        (bytes <= rest.len()).then_some(LENGTH_BYTES + bytes)
    }

    /// Encoded.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Names and values. What is no whole field ends them.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut rest = self.0.get(LENGTH_BYTES..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&[name, low, high], behind) = rest.split_first_chunk::<FIELD_BYTES>()?;
            let (name, behind) = behind.split_at_checked(usize::from(name))?;
            let value;
            (value, rest) = behind.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }

    /// The value of a header; nothing where it was not there.
    pub fn value(self, name: &str) -> &'a [u8] {
        self.iter().find(|(kept, _)| kept.eq_ignore_ascii_case(name)).map_or(&[][..], |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_found_by_its_name_in_any_case() {
        let fields: [(&str, &[u8]); 3] = [("X-Lot", b"L\xff7"), ("X-Empty", b""), ("x-shift", b"2, 3")];
        let encoded = KeptHeaders::encode(fields.into_iter());
        let kept = KeptHeaders::of(&encoded);
        assert_eq!(kept.iter().collect::<Vec<_>>(), fields);
        assert_eq!(kept.value("x-LOT"), b"L\xff7");
        assert_eq!(kept.value("X-Shift"), b"2, 3");
        assert!(kept.value("X-Empty").is_empty() && kept.value("X-Other").is_empty());
        assert_eq!(KeptHeaders::bytes_at(&[&encoded[..], &b"data"[..]].concat()), Some(encoded.len()));
    }

    #[test]
    fn no_header_is_no_bytes() {
        assert_eq!(KeptHeaders::encode(std::iter::empty()), b"");
        assert!(KeptHeaders::default().is_empty());
        assert_eq!(KeptHeaders::default().value("X-Lot"), b"");
        assert_eq!(KeptHeaders::default().iter().count(), 0);
    }

    #[test]
    fn no_bytes_whatever_make_a_reader_fail() {
        let encoded = KeptHeaders::encode([("X-Lot", &b"L7"[..]), ("X-Shift", &b"2"[..])].into_iter());
        for end in 0..encoded.len() {
            assert!(KeptHeaders::of(&encoded[..end]).iter().count() < 2);
            assert_eq!(KeptHeaders::bytes_at(&encoded[..end]), None);
        }
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let bytes: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
            assert!(KeptHeaders::of(&bytes).iter().count() <= 13);
            assert!(KeptHeaders::bytes_at(&bytes).is_none_or(|count| count <= bytes.len()));
        }
    }
}
