//! What an answer says beside its status: kept while it is read, and shown where it is complained of.

use crate::http::client::MediaType;
use std::fmt;

/// Characters of an answer that are shown.
const SHOWN_MAX: usize = 80;

/// What an answer says beside its status, as far as it is of use.
#[derive(Debug, Default)]
pub struct Answer {
    /// The beginning of its body.
    pub body: Vec<u8>,
    /// Its Content-Type.
    pub media_type: MediaType,
    /// Its Location, of a redirect alone.
    pub location: Vec<u8>,
}

/// An answer's beginning in words, for the person who must mend what it complains of.
///
/// All are equal: an answer that says `{"id": 7}` and one that says `{"id": 8}` are the same problem.
#[derive(Debug, Clone, Default, Eq)]
pub struct Said(Box<str>);

impl Said {
    /// Media type, the first 80 characters of the body, and where a redirect leads.
    pub fn of(answer: &Answer) -> Self {
        let media_type = answer.media_type.show();
        let mut parts = Vec::new();
        if !media_type.is_empty() {
            parts.push(media_type);
        }
        if !answer.body.is_empty() {
            parts.push(format!("\"{}\"", beginning(&answer.body)));
        }
        if !answer.location.is_empty() {
            parts.push(format!("to {}", beginning(&answer.location)));
        }
        Self(if parts.is_empty() { "".into() } else { format!(" ({})", parts.join(", ")).into() })
    }
}

impl Said {
    /// The beginning of bytes that are no answer.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let shown = beginning(bytes);
        Self(if shown.is_empty() { "".into() } else { format!(" (\"{shown}\")").into() })
    }
}

impl PartialEq for Said {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first characters of what should be text, on one line; `…` stands for the rest.
pub fn beginning(bytes: &[u8]) -> String {
    // A character has at most four bytes; a line of blanks counts as one.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16 * SHOWN_MAX)]);
    // Some characters would turn what stands behind them round, or cannot be seen.
    let is_unseen = |c| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let is_gap = |c: char| c.is_whitespace() || c.is_control() || is_unseen(c);
    let words = text.split(is_gap).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_on_one_line_of_eighty_characters() {
        let said = |body: &[u8], media_type: &str, location: &str| {
            let media_type = MediaType::parse(media_type.as_bytes());
            Said::of(&Answer { body: body.to_vec(), media_type, location: location.into() }).to_string()
        };
        assert_eq!(said(b"{\"id\":\r\n  7}", "application/json", ""), " (application/json, \"{\"id\": 7}\")");
        assert_eq!(said(b"", "text/html", "/login"), " (text/html, to /login)");
        assert_eq!(said(b"\x1b[2Jno\0", "", ""), " (\"[2Jno\")");
        assert_eq!(said(b"", "", ""), "");
        assert_eq!(beginning(&[b'x'; 80]), "x".repeat(80));
        assert_eq!(beginning("ü".repeat(500).as_bytes()), format!("{}…", "ü".repeat(80)));
        assert_eq!(beginning(b"a\xff"), "a\u{fffd}");
    }
}
