//! What a record has to look like: a regular expression over its raw bytes.

use regex::bytes::{Regex, RegexBuilder};

/// Most memory that a compiled expression takes, in bytes.
const SIZE_BYTES_MAX: usize = 1 << 20;

/// A regular expression that every record of a framing matches. Two are equal if their texts are.
#[derive(Debug, Clone)]
pub struct Matching {
    regex: Regex,
}

impl Matching {
    /// Compiles an expression. It is searched for anywhere in the record unless it is anchored.
    ///
    /// # Errors
    /// What is wrong with it, or that it is larger than 1 MiB when compiled.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        Ok(Self { regex: RegexBuilder::new(text).size_limit(SIZE_BYTES_MAX).build()? })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.regex.as_str()
    }

    /// Whether a record matches.
    pub fn accepts(&self, record: &[u8]) -> bool {
        self.regex.is_match(record)
    }
}

impl PartialEq for Matching {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Matching {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_sees_raw_bytes_and_has_a_bound() {
        let number = Matching::new(r"^[+-]\d{7}$").expect("it is right");
        assert!(number.accepts(b"+0012345") && !number.accepts(b"345") && !number.accepts(b"+0012345 "));
        assert!(Matching::new(r"(?-u)^\xFF.*\x00$").expect("it is right").accepts(b"\xff\xfe\0"));
        assert!(Matching::new("(").is_err());
        assert!(Matching::new(r"(\w{1000}){1000}").is_err());
        assert_eq!(Matching::new("a.b").unwrap(), Matching::new("a.b").unwrap());
        assert_ne!(Matching::new("a.b").unwrap(), Matching::new("a.c").unwrap());
    }
}
