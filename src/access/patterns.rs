//! Patterns of SOURCEs: `cam-*`.

use std::fmt;

/// Longest pattern, in bytes; a SOURCE has at most 64.
const PATTERN_BYTES_MAX: usize = 64;

/// Names with `*` for any signs, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no pattern of SOURCEs")]
pub struct PatternFault;

impl Pattern {
    /// What a pattern may be.
    pub const ALLOWED: &'static str = "1 to 64 of A-Z a-z 0-9 . _ -, and * for any of them, such as \"cam-*\"";

    /// A pattern.
    ///
    /// # Errors
    /// If a sign cannot stand in a SOURCE, or there are too few or too many.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
        let is_good = (1..=PATTERN_BYTES_MAX).contains(&text.len()) && text.bytes().all(known);
        if is_good { Ok(Self(text.into())) } else { Err(PatternFault) }
    }

    /// Whether a SOURCE is one of these. The time is at most the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut seen) = (0, 0);
        // The last star, and how much of the name it stands for.
        let mut star = None;
        while seen < name.len() {
            if pattern.get(at) == Some(&b'*') {
                star = Some((at, seen));
                at += 1;
            } else if pattern.get(at) == Some(&name[seen]) {
                (at, seen) = (at + 1, seen + 1);
            } else if let Some((star_at, taken)) = star {
                star = Some((star_at, taken + 1));
                (at, seen) = (star_at + 1, taken + 1);
            } else {
                return false;
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Several patterns; a SOURCE must be one of any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(pub Vec<Pattern>);

impl Patterns {
    /// Whether one of the patterns has a SOURCE.
    pub fn have(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// As texts, for an answer.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_signs_and_for_none() {
        let cases = [
            ("cam-*", "cam-1", true),
            ("cam-*", "cam-", true),
            ("cam-*", "cam", false),
            ("cam-*", "xcam-1", false),
            ("*", "anything", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*-left", "cam-1-left", true),
            ("*-left", "cam-1-left2", false),
            ("**", "x", true),
            ("press-4", "press-4", true),
            ("press-4", "press-40", false),
            ("press.4", "press-4", false),
            ("Cam-*", "cam-1", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_cannot_stand_in_a_source_is_no_pattern() {
        for wrong in ["", "cam 1", "cam/1", "cam?", "ü", &"x".repeat(65)] {
            assert_eq!(Pattern::parse(wrong), Err(PatternFault), "{wrong:?}");
        }
    }

    #[test]
    fn many_stars_do_not_take_long() {
        let pattern = Pattern::parse(&"*a".repeat(31)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(63))));
        assert!(pattern.matches(&"a".repeat(64)));
    }
}
