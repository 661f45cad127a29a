//! Asking the service what it has: after an answer that says neither yes nor no (409 to an id that is taken), a GET of what
//! stands under the record's id tells whether that is this record.

use super::template::{Fields, write_text};
use crate::ground::decoding::Decoding;
use crate::ground::text::{write_base64, write_hex};
use serde_json::Value;

/// A path (and query) with placeholders, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmPath {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Id,
    Key,
    Source,
}

/// Why a path cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmPathError {
    /// It begins with something else.
    #[error("a path begins with /")]
    NoSlash,
    /// A blank, a line break, a fragment, or what is not ASCII.
    #[error("{0:?} does not belong into a path")]
    Character(char),
    /// `{{` without its `}}`, or nothing of that name.
    #[error("there is no placeholder {{{{{0}}}}} for a path")]
    Placeholder(String),
    /// `{{id}}`, but no id is fetched.
    #[error("{{{{id}}}} needs a [sequence] section, which fetches the ids")]
    NoSequence,
    /// Every record has the same path.
    #[error("without {{{{id}}}} or {{{{key}}}} every record has this path")]
    SameForAll,
}

impl ConfirmPath {
    /// Cuts a path into its parts. `{{id}}` is an error unless `has_id`.
    ///
    /// # Errors
    /// The first problem, see [`ConfirmPathError`].
    pub fn parse(text: &str, has_id: bool) -> Result<Self, ConfirmPathError> {
        if !text.starts_with('/') {
            return Err(ConfirmPathError::NoSlash);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (before, inside) = match rest.split_once("{{") {
                Some((before, inside)) => (before, Some(inside)),
                None => (rest, None),
            };
            // RFC 9112 section 3.2: no blank in a target; a fragment is never sent.
            if let Some(wrong) = before.chars().find(|c| !('!'..='~').contains(c) || *c == '#') {
                return Err(ConfirmPathError::Character(wrong));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let Some(inside) = inside else { break };
            let (name, behind) =
                inside.split_once("}}").ok_or_else(|| ConfirmPathError::Placeholder(inside.to_owned()))?;
            parts.push(match name.trim() {
                "id" if !has_id => return Err(ConfirmPathError::NoSequence),
                "id" => Part::Id,
                "key" => Part::Key,
                "source" => Part::Source,
                other => return Err(ConfirmPathError::Placeholder(other.to_owned())),
            });
            rest = behind;
        }
        if !parts.iter().any(|part| matches!(part, Part::Id | Part::Key)) {
            return Err(ConfirmPathError::SameForAll);
        }
        Ok(Self { parts })
    }

    /// Appends the path of a record.
    ///
    /// # Panics
    /// If it shows `{{id}}` and `fields.id` is `None`.
    pub fn render(&self, fields: &Fields<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                // A JSON token: a string's quotes are not part of the id.
                Part::Id => {
                    let token = fields.id.expect("a path with ids is rendered with one");
                    match serde_json::from_str(token) {
                        Ok(Value::String(text)) => write_percent(text.as_bytes(), out),
                        _ => write_percent(token.as_bytes(), out),
                    }
                }
                Part::Key => write_percent(fields.key.as_bytes(), out),
                Part::Source => write_percent(fields.source.as_bytes(), out),
            }
        }
    }
}

/// All but the unreserved characters of RFC 3986 section 2.3 as %XX.
fn write_percent(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Where an answer shows what makes a record that one and no other. JSON pointers (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownAt {
    /// The data.
    pub data: String,
    /// The source's name, as `{{source}}` shows it: where ids collide, another machine's record can have the same data.
    pub source: Option<String>,
}

impl ShownAt {
    /// Whether an answer's body shows a record of this source with these bytes, which are read in its encoding.
    pub fn has(&self, body: &[u8], source: &str, data: &[u8], decoding: Decoding) -> bool {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return false };
        let is_of_source =
            self.source.as_deref().is_none_or(|at| answer.pointer(at).and_then(Value::as_str) == Some(source));
        is_of_source && answer.pointer(&self.data).is_some_and(|shown| is_data(shown, data, decoding))
    }
}

/// Whether a value is a record's bytes in any of the forms in which they can have been sent: text, base64, hexadecimal digits, or
/// JSON of the machine's own.
fn is_data(shown: &Value, data: &[u8], decoding: Decoding) -> bool {
    let mut form = Vec::new();
    write_text(data, decoding, &mut form);
    if serde_json::from_slice::<Value>(&form).is_ok_and(|text| text == *shown) {
        return true;
    }
    if let Value::String(text) = shown {
        return [write_base64, write_hex].into_iter().any(|write| {
            form.clear();
            write(data, &mut form);
            form == text.as_bytes()
        });
    }
    serde_json::from_slice::<Value>(data).is_ok_and(|value| value == *shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::{KeptHeaders, RecordFlags};

    fn rendered(path: &str, id: &str) -> String {
        let fields = Fields {
            id: Some(id),
            source: "press 4/é",
            source_name: "press",
            peer: None,
            decoding: Decoding::default(),
            flags: RecordFlags::default(),
            data: b"x",
            received_wall_ns: 0,
            key: "ab-0-5",
            machine_key: b"",
            headers: KeptHeaders::default(),
        };
        let mut out = Vec::new();
        ConfirmPath::parse(path, true).expect("a good path").render(&fields, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn ids_keys_and_names_stand_in_a_path_as_they_must() {
        assert_eq!(rendered("/films/{{id}}/", "17"), "/films/17/");
        assert_eq!(rendered("/f?id={{ id }}&k={{key}}", "\"a/b?c\""), "/f?id=a%2Fb%3Fc&k=ab-0-5");
        assert_eq!(rendered("/m/{{source}}/{{id}}", "\"\\u00e9\""), "/m/press%204%2F%C3%A9/%C3%A9");
    }

    #[test]
    fn a_path_that_cannot_be_asked_for_is_refused() {
        use ConfirmPathError::{Character, NoSequence, NoSlash, Placeholder, SameForAll};
        for (path, has_id, error) in [
            ("films/{{id}}", true, NoSlash),
            ("/films/{{id}} /", true, Character(' ')),
            ("/films/\r\nX: {{id}}", true, Character('\r')),
            ("/films/{{id}}#top", true, Character('#')),
            ("/films/{{data}}", true, Placeholder("data".to_owned())),
            ("/films/{{id", true, Placeholder("id".to_owned())),
            ("/films/{{id}}", false, NoSequence),
            ("/films/{{source}}", true, SameForAll),
        ] {
            assert_eq!(ConfirmPath::parse(path, has_id), Err(error), "{path}");
        }
    }

    #[test]
    fn data_is_found_in_each_form_in_which_it_can_have_been_sent() {
        let at = ShownAt { data: "/data".to_owned(), source: None };
        for (body, data) in [
            (r#"{"data": "a\"b"}"#, &b"a\"b"[..]),
            (r#"{"data": "YWI="}"#, b"ab"),
            (r#"{"data": "6162"}"#, b"ab"),
            (r#"{"data": {"b": 1, "a": [2]}}"#, br#"{"a":[2],"b":1}"#),
            (r#"{"data": "\ufffd"}"#, b"\xff"),
        ] {
            assert!(at.has(body.as_bytes(), "a", data, Decoding::default()), "{body}");
        }
        for (body, data) in [
            (r#"{"data": "ab"}"#, &b"ac"[..]),
            (r#"{"dat": "ab"}"#, b"ab"),
            ("<html>", b"ab"),
            (r#"{"data": 5}"#, b"6"),
        ] {
            assert!(!at.has(body.as_bytes(), "a", data, Decoding::default()), "{body}");
        }
    }

    #[test]
    fn text_of_another_encoding_is_found_decoded() {
        let at = ShownAt { data: "/data".to_owned(), source: None };
        let big5 = Decoding { encoding: encoding_rs::BIG5, ..Decoding::default() };
        let data = b"\xb7\xc5\xab\xd7";
        assert!(at.has("{\"data\": \"溫度\"}".as_bytes(), "a", data, big5));
        assert!(!at.has("{\"data\": \"溫度\"}".as_bytes(), "a", data, Decoding::default()));
    }

    #[test]
    fn equal_data_of_another_source_is_not_this_record() {
        let at = ShownAt { data: "/data".to_owned(), source: Some("/of/machine".to_owned()) };
        assert!(at.has(
            br#"{"of": {"machine": "press \u00e9"}, "data": "x"}"#,
            "press \u{e9}",
            b"x",
            Decoding::default()
        ));
        for body in [
            r#"{"of": {"machine": "press 5"}, "data": "x"}"#,
            r#"{"of": {"machine": "press 4"}, "data": "y"}"#,
            r#"{"of": {"machine": 4}, "data": "x"}"#,
            r#"{"machine": "press 4", "data": "x"}"#,
        ] {
            assert!(!at.has(body.as_bytes(), "press 4", b"x", Decoding::default()), "{body}");
        }
    }
}
