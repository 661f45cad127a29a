//! The id in an answer, read without building the document around it.

use super::beginning;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The JSON token at `pointer` (RFC 6901) of `body`: a whole number of at most 64 bits, or a string
/// in its quotes, as it is sent on. `None` if there is none, it is anything else, an empty string
/// included, or `body` has not the shape of JSON: of what is passed over, encoding, depth and the
/// size of numbers are not looked at.
pub fn token_at(body: &[u8], pointer: &str) -> Option<Box<str>> {
    if !(pointer.is_empty() || pointer.starts_with('/')) {
        return None;
    }
    let mut document = serde_json::Deserializer::from_slice(body);
    let found = Finder { pointer }.deserialize(&mut document).ok()?;
    document.end().ok()?;
    found
}

/// Why [`token_at`] finds nothing, for the person who must mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// No byte.
    #[error("the answer has no body, and so nothing at {pointer:?}")]
    Empty {
        /// Where it was looked for.
        pointer: String,
    },
    /// U+FEFF in front, which JSON must not have (RFC 8259 section 8.1).
    #[error("the answer begins with a byte-order mark, which JSON must not have")]
    ByteOrderMark,
    /// Not the shape of JSON.
    #[error("the answer is no JSON: {reason}")]
    NoJson {
        /// The parser's words.
        reason: String,
    },
    /// The pointer leads nowhere.
    #[error("the answer has nothing at {pointer:?}")]
    Nothing {
        /// Where it was looked for.
        pointer: String,
    },
    /// Something that is no token.
    #[error("{found} stands at {pointer:?} of the answer, which is no id: a whole number or a string is one")]
    Other {
        /// What it is, and its beginning.
        found: String,
        /// Where it was looked for.
        pointer: String,
    },
}

impl NoToken {
    /// What to look at in `[sequence]`.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Empty { .. } | Self::NoJson { .. } => "see whether url in [sequence] is the right one",
            Self::ByteOrderMark => "the service must leave it away",
            Self::Nothing { .. } | Self::Other { .. } => "see to id_at in [sequence]",
        }
    }
}

/// Says why [`token_at`] finds no token.
pub fn why_no_token(body: &[u8], pointer: &str) -> NoToken {
    let at = || pointer.to_owned();
    if body.is_empty() {
        return NoToken::Empty { pointer: at() };
    }
    if body.starts_with("\u{feff}".as_bytes()) {
        return NoToken::ByteOrderMark;
    }
    let document: Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(error) => return NoToken::NoJson { reason: error.to_string() },
    };
    let Some(found) = document.pointer(pointer) else { return NoToken::Nothing { pointer: at() } };
    let shown = beginning(found.to_string().as_bytes());
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => shown,
        Value::Number(_) => format!("the number {shown}"),
        Value::String(_) => format!("the text {shown}"),
        Value::Array(_) => format!("the array {shown}"),
        Value::Object(_) => format!("the object {shown}"),
    };
    NoToken::Other { found, pointer: at() }
}

/// Looks for what a pointer names below the value that it is given.
#[derive(Clone, Copy)]
struct Finder<'p> {
    pointer: &'p str,
}

impl<'p> Finder<'p> {
    /// The first reference token, and the look that goes on below it; `None` if the pointer ends here.
    fn step(self) -> Option<(&'p str, Self)> {
        let path = self.pointer.strip_prefix('/')?;
        let end = path.find('/').unwrap_or(path.len());
        Some((&path[..end], Self { pointer: &path[end..] }))
    }

    fn is_here(self) -> bool {
        self.pointer.is_empty()
    }
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = Option<Box<str>>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = Option<Box<str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.is_here().then(|| itoa::Buffer::new().format(number).into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.is_here().then(|| itoa::Buffer::new().format(number).into()))
    }

    fn visit_f64<E: Error>(self, _number: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let is_token = self.is_here() && !text.is_empty();
        Ok(is_token.then(|| Value::from(text).to_string().into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let (name, below) = self.step().unzip();
        while let Some(is_name) = map.next_key_seed(NameIs { name })? {
            match below.filter(|_| is_name) {
                Some(below) => found = map.next_value_seed(below)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let (name, below) = self.step().unzip();
        let place = name.and_then(index);
        let mut at = 0;
        loop {
            let is_next = match below.filter(|_| place == Some(at)) {
                Some(below) => sequence.next_element_seed(below)?.map(|element| found = element),
                None => sequence.next_element::<IgnoredAny>()?.map(drop),
            };
            if is_next.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }
}

/// An array's index: digits without a zero before them (RFC 6901 section 4).
fn index(name: &str) -> Option<usize> {
    let sound = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    name.parse().ok().filter(|_| sound)
}

/// Whether a member's name is a reference token.
struct NameIs<'p> {
    name: Option<&'p str>,
}

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(match self.name {
            Some(token) if token.contains('~') => token.replace("~1", "/").replace("~0", "~") == name,
            token => token == Some(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{token_at, why_no_token};

    /// The same, by way of the whole document.
    fn of_document(body: &[u8], pointer: &str) -> Option<Box<str>> {
        match serde_json::from_slice::<serde_json::Value>(body).ok()?.pointer(pointer)? {
            serde_json::Value::Number(number) if !number.is_f64() => Some(number.to_string().into()),
            text @ serde_json::Value::String(_) if *text != "" => Some(text.to_string().into()),
            _ => None,
        }
    }

    #[test]
    fn whole_numbers_and_strings_are_found_and_nothing_else_is() {
        let body = br#" {"id": 41, "text": "a\"\u00e9", "a": [1, {"b/c": -2, "~": "x"}], "f": 1.5, "n": null, "id2": 1e3, "t": true} "#;
        for (pointer, token) in [
            ("/id", Some("41")),
            ("/text", Some("\"a\\\"é\"")),
            ("/a/0", Some("1")),
            ("/a/1/b~1c", Some("-2")),
            ("/a/1/~0", Some("\"x\"")),
        ] {
            assert_eq!(token_at(body, pointer).as_deref(), token, "{pointer}");
        }
        for nothing in ["", "id", "/", "/a", "/a/2", "/a/00", "/a/+1", "/f", "/n", "/id2", "/t", "/id/x", "/other"] {
            assert_eq!(token_at(body, nothing), None, "{nothing}");
        }
        assert_eq!(token_at(b"\"7\"", "").as_deref(), Some("\"7\""), "the document itself");
    }

    #[test]
    fn a_name_that_comes_again_counts_by_its_last_value() {
        assert_eq!(token_at(br#"{"id": 1, "id": 2}"#, "/id").as_deref(), Some("2"));
        assert_eq!(token_at(br#"{"id": 1, "id": [2]}"#, "/id"), None);
    }

    #[test]
    fn what_is_no_whole_json_has_no_id() {
        for body in [
            &b""[..],
            b"{\"id\": 7",
            b"{\"id\": 7} x",
            b"{\"id\": 07}",
            b"{\"id\": 7,}",
            b"\xff",
            b"{\"id\": 7, \"a\": nul}",
        ] {
            assert_eq!(token_at(body, "/id"), None, "{}", body.escape_ascii());
        }
        for body in [
            &b"{\"id\": 7, \"name\": \"M\xfcller\"}"[..],
            b"{\"a\": \"\\ud800\", \"id\": 7}",
            b"{\"a\": 1e999, \"id\": 7}",
        ] {
            assert_eq!(token_at(body, "/id").as_deref(), Some("7"), "{}", body.escape_ascii());
        }
        // Beyond 64 bits it could only be sent on rounded.
        assert_eq!(token_at(br#"{"id": 18446744073709551616}"#, "/id"), None);
    }

    #[test]
    fn what_is_no_id_is_named_as_what_it_is() {
        for (body, pointer, words) in [
            (&b""[..], "/id", "the answer has no body, and so nothing at \"/id\""),
            (b"\xef\xbb\xbf{\"id\": 7}", "/id", "the answer begins with a byte-order mark, which JSON must not have"),
            (b"<html>", "/id", "the answer is no JSON: expected value at line 1 column 1"),
            (b"{\"no\": 7}", "/id", "the answer has nothing at \"/id\""),
            (b"{\"id\": 7.0}", "/id", "the number 7.0 stands at \"/id\" of the answer"),
            (b"{\"id\": 18446744073709551616}", "/id", "the number 1.844674407370955"),
            (b"{\"id\": \"\"}", "/id", "the text \"\" stands at \"/id\" of the answer"),
            (b"{\"id\": null}", "/id", "null stands at \"/id\""),
            (b"{\"id\": [7]}", "/id", "the array [7] stands at \"/id\""),
        ] {
            assert_eq!(token_at(body, pointer), None);
            let said = why_no_token(body, pointer).to_string();
            assert!(said.starts_with(words), "{said}");
        }
    }

    fn document() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "-?[0-9]{1,21}",
            "[0-9].[0-9]",
            Just("null".to_owned()),
            Just("true".to_owned()),
            "\"[a-c~/0]{0,3}\""
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let member = ("[abc~/01]{0,2}", inner.clone()).prop_map(|(name, value)| format!("\"{name}\" : {value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(", "))),
                prop::collection::vec(member, 0..4).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_the_whole_document_has_there(
            body in document(),
            pointer in "(/([abc01]{0,2}|~0|~1)){0,3}",
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assert_eq!(token_at(body.as_bytes(), &pointer), of_document(body.as_bytes(), &pointer));
            let cut = &body.as_bytes()[..cut.index(body.len() + 1)];
            prop_assert_eq!(token_at(cut, &pointer), of_document(cut, &pointer));
        }
    }
}
