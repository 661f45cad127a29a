//! The body of a request: a template, cut into parts once and filled in for each record.
//!
//! Rendering appends to a buffer of the caller; only text of another encoding than UTF-8 allocates more. It asks no clock and cannot
//! fail.

use crate::ground::decoding::{Decoding, OnUndecodable};
use crate::ground::text::{nearest, rfc3339_micros, write_base64, write_decimal, write_hex};
use crate::ground::{KeptHeaders, RecordFlags};
use encoding_rs::UTF_8;
use std::io::Write as _;
use std::net::SocketAddr;

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Field(Field),
    /// A header that was kept with the record.
    Header {
        name: Box<str>,
        form: HeaderForm,
    },
}

/// How a header is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderForm {
    /// As a JSON string with its quotes.
    Quoted,
    /// Inside of a JSON string, whose quotes are the template's.
    Inside,
    /// As it is.
    Raw,
}

/// What a placeholder of a header begins with; the header's name follows.
const HEADER: &str = "header.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    SourceJson,
    Source,
    DataJson,
    DataBase64,
    DataHex,
    Data,
    ReceivedAt,
    Key,
    MachineKeyJson,
    MachineKey,
    SourceNameJson,
    SourceName,
    AddressJson,
    Address,
    Port,
    FlagsJson,
}

/// Every placeholder, as it is written between the braces. The order is that of messages.
const PLACEHOLDERS: [(&str, Field); 17] = [
    ("id", Field::Id),
    ("source|json", Field::SourceJson),
    ("source", Field::Source),
    ("data|json", Field::DataJson),
    ("data|base64", Field::DataBase64),
    ("data|hex", Field::DataHex),
    ("data", Field::Data),
    ("received_at", Field::ReceivedAt),
    ("key", Field::Key),
    ("machine_key|json", Field::MachineKeyJson),
    ("machine_key", Field::MachineKey),
    ("source_name|json", Field::SourceNameJson),
    ("source_name", Field::SourceName),
    ("address|json", Field::AddressJson),
    ("address", Field::Address),
    ("port", Field::Port),
    ("flags|json", Field::FlagsJson),
];

/// What is filled in.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// The sequence id: a JSON token as the service gave it, a number or a quoted string. `None` only for a template
    /// that was parsed without ids.
    pub id: Option<&'a str>,
    /// What the machine is called.
    pub source: &'a str,
    /// The configured source.
    pub source_name: &'a str,
    /// The machine's end of its connection, if it has one.
    pub peer: Option<SocketAddr>,
    /// How the bytes become text.
    pub decoding: Decoding,
    /// What is to be known about the record.
    pub flags: RecordFlags,
    /// The record's bytes.
    pub data: &'a [u8],
    /// Nanoseconds since 1970 at the record's first byte.
    pub received_wall_ns: u64,
    /// The record's key.
    pub key: &'a str,
    /// The machine's own Idempotency-Key, or nothing.
    pub machine_key: &'a [u8],
    /// Headers of the request that brought it.
    pub headers: KeptHeaders<'a>,
}

/// What became of a record while it was rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendered {
    /// `{{data|json}}` met bytes that are not text in the record's encoding: it wrote U+FFFD for them, or digits for all.
    pub lossy: bool,
}

/// Why a template cannot be used. Offsets are bytes from the template's start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without its `}}`.
    #[error("the placeholder that begins at byte {offset} has no closing }}}}")]
    Unclosed {
        /// Where `{{` stands.
        offset: usize,
    },
    /// Nothing of that name.
    #[error("there is no placeholder {{{{{given}}}}} (byte {offset})")]
    UnknownPlaceholder {
        /// Where its `{{` stands.
        offset: usize,
        /// What stands between the braces.
        given: String,
        /// The placeholder that was most likely meant.
        nearest: Option<&'static str>,
    },
    /// The placeholder is known, what follows its `|` is not.
    #[error("{{{{{placeholder}}}}} has no filter {given:?} (byte {offset})")]
    UnknownFilter {
        /// Where its `{{` stands.
        offset: usize,
        /// The part before `|`.
        placeholder: String,
        /// The part behind `|`.
        given: String,
        /// The placeholder with the filter that was most likely meant.
        nearest: Option<&'static str>,
    },
    /// `{{id}}`, but no id is fetched.
    #[error("{{{{id}}}} needs a [sequence] section, which fetches the ids (byte {offset})")]
    NoSequence {
        /// Where its `{{` stands.
        offset: usize,
    },
}

impl TemplateError {
    /// The placeholder that was most likely meant, without its braces.
    pub fn nearest(&self) -> Option<&'static str> {
        match self {
            Self::UnknownPlaceholder { nearest, .. } | Self::UnknownFilter { nearest, .. } => *nearest,
            Self::Unclosed { .. } | Self::NoSequence { .. } => None,
        }
    }
}

impl Template {
    /// Cuts a template into its parts. Blanks inside the braces do not count; `}}` outside a placeholder is text.
    ///
    /// # Errors
    /// The first problem, see [`TemplateError`]; `{{id}}` is one unless `has_id`.
    pub fn parse(text: &str, has_id: bool) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let offset = text.len() - rest.len() + start;
            let inside = &rest[start + 2..];
            let end = inside.find("}}").ok_or(TemplateError::Unclosed { offset })?;
            let part = parse_placeholder(&inside[..end], offset)?;
            if part == Part::Field(Field::Id) && !has_id {
                return Err(TemplateError::NoSequence { offset });
            }
            if start > 0 {
                parts.push(Part::Text(rest.as_bytes()[..start].into()));
            }
            parts.push(part);
            rest = &inside[end + 2..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.as_bytes().into()));
        }
        let mut template = Self { parts };
        if template.headers().next().is_some() && template.is_json() {
            template.quote_headers();
        }
        Ok(template)
    }

    /// What a machine sends cannot end a string of a body that is JSON.
    fn quote_headers(&mut self) {
        for part in &mut self.parts {
            if let Part::Header { form: form @ HeaderForm::Raw, .. } = part {
                *form = HeaderForm::Inside;
            }
        }
    }

    /// The headers that it shows.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Header { name, .. } => Some(&**name),
            _ => None,
        })
    }

    /// Every placeholder without its braces, but for those of headers, whose names are the user's.
    pub fn placeholders() -> impl Iterator<Item = &'static str> {
        PLACEHOLDERS.iter().map(|(name, _)| *name)
    }

    /// Whether the template shows the sequence id.
    pub fn uses_id(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Id))
    }

    /// Whether the template shows the record's source, in any form.
    pub fn uses_source(&self) -> bool {
        [Field::SourceJson, Field::Source].into_iter().any(|field| self.parts.contains(&Part::Field(field)))
    }

    /// Whether the template shows the record's bytes, in any form.
    pub fn uses_data(&self) -> bool {
        [Field::DataJson, Field::DataBase64, Field::DataHex, Field::Data]
            .into_iter()
            .any(|field| self.parts.contains(&Part::Field(field)))
    }

    /// Whether the template shows the record as text.
    pub fn uses_text(&self) -> bool {
        self.parts.contains(&Part::Field(Field::DataJson))
    }

    /// Whether the template shows the record's bytes as they are.
    pub fn uses_raw_data(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Data))
    }

    /// Whether the template shows the record's key.
    pub fn uses_key(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Key))
    }

    /// Whether the body can be JSON: every placeholder stands where what it shows can stand. A raw `{{data}}` is taken for
    /// an object: a machine that sends JSON may send any.
    pub fn is_json(&self) -> bool {
        let mut body = Vec::new();
        for part in &self.parts {
            body.extend_from_slice(match part {
                Part::Text(text) => text,
                Part::Header { form: HeaderForm::Quoted, .. } => b"\"a\"",
                Part::Header { .. } => b"ab",
                Part::Field(Field::Id | Field::Port) => b"1",
                Part::Field(Field::Data) => b"{\"a\":1}",
                Part::Field(Field::FlagsJson) => b"[]",
                Part::Field(
                    Field::SourceJson
                    | Field::DataJson
                    | Field::SourceNameJson
                    | Field::AddressJson
                    | Field::MachineKeyJson,
                ) => b"\"a\"",
                // Letters, which need quotes around them.
                Part::Field(
                    Field::Source
                    | Field::SourceName
                    | Field::Address
                    | Field::DataBase64
                    | Field::DataHex
                    | Field::ReceivedAt
                    | Field::Key
                    | Field::MachineKey,
                ) => b"ab",
            });
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok()
    }

    /// Appends the filled-in template to `out`. The same fields give the same bytes.
    ///
    /// # Panics
    /// If the template shows `{{id}}` and `fields.id` is `None`.
    pub fn render(&self, fields: &Fields<'_>, out: &mut Vec<u8>) -> Rendered {
        let mut lossy = false;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Field(Field::Id) => {
                    out.extend_from_slice(fields.id.expect("a template with ids is rendered with one").as_bytes());
                }
                Part::Field(Field::SourceJson) => {
                    write_json(fields.source.as_bytes(), out);
                }
                Part::Field(Field::Source) => out.extend_from_slice(fields.source.as_bytes()),
                Part::Field(Field::DataJson) => lossy |= write_text(fields.data, fields.decoding, out),
                Part::Field(Field::DataBase64) => write_base64(fields.data, out),
                Part::Field(Field::DataHex) => write_hex(fields.data, out),
                Part::Field(Field::Data) => out.extend_from_slice(fields.data),
                Part::Field(Field::ReceivedAt) => out.extend_from_slice(&rfc3339_micros(fields.received_wall_ns)),
                Part::Field(Field::Key) => out.extend_from_slice(fields.key.as_bytes()),
                Part::Field(other) => render_origin(*other, fields, out),
                Part::Header { name, form } => render_header(name, *form, fields, out),
            }
        }
        Rendered { lossy }
    }
}

/// What is known of the machine beside its name, and of the record beside its bytes.
fn render_origin(field: Field, fields: &Fields<'_>, out: &mut Vec<u8>) {
    let address = fields.peer.map(|peer| peer.ip().to_canonical());
    match (field, address) {
        (Field::SourceNameJson, _) => drop(write_json(fields.source_name.as_bytes(), out)),
        (Field::SourceName, _) => out.extend_from_slice(fields.source_name.as_bytes()),
        (Field::MachineKeyJson, _) => drop(write_json(fields.machine_key, out)),
        (Field::MachineKey, _) => out.extend_from_slice(fields.machine_key),
        (Field::AddressJson, Some(address)) => write!(out, "\"{address}\"").expect("a Vec takes all"),
        (Field::Address, Some(address)) => write!(out, "{address}").expect("a Vec takes all"),
        // A port or a file has no address.
        (Field::Address, None) => {}
        (Field::AddressJson, None) => out.extend_from_slice(b"null"),
        (Field::Port, _) => match fields.peer {
            Some(peer) => write_decimal(u64::from(peer.port()), out),
            None => out.extend_from_slice(b"null"),
        },
        (Field::FlagsJson, _) => {
            out.push(b'[');
            for (place, word) in fields.flags.words().enumerate() {
                write!(out, "{}\"{word}\"", if place > 0 { "," } else { "" }).expect("a Vec takes all");
            }
            out.push(b']');
        }
        (other, _) => unreachable!("{other:?} has a place of its own"),
    }
}

/// A header as it was kept with the record; nothing, where it was not.
fn render_header(name: &str, form: HeaderForm, fields: &Fields<'_>, out: &mut Vec<u8>) {
    let value = fields.headers.value(name);
    if form == HeaderForm::Raw {
        out.extend_from_slice(value);
        return;
    }
    let start = out.len();
    write_text(value, fields.decoding.of_headers(), out);
    if form == HeaderForm::Inside {
        out.pop();
        out.remove(start); // what moves is short
    }
}

/// Writes a record's text as a JSON string. Returns whether it was not all text.
pub fn write_text(bytes: &[u8], decoding: Decoding, out: &mut Vec<u8>) -> bool {
    let is_hex = decoding.on_undecodable == OnUndecodable::Hex;
    // Nearly all records.
    if decoding.encoding == UTF_8 && !is_hex {
        return write_json(bytes, out);
    }
    let (text, has_errors) = decoding.decode(bytes);
    if has_errors && is_hex {
        out.push(b'"');
        write_hex(bytes, out);
        out.push(b'"');
    } else {
        write_json(text.as_bytes(), out);
    }
    has_errors
}

/// What stands between `{{` and `}}`, which begins at `offset`.
fn parse_placeholder(inside: &str, offset: usize) -> Result<Part, TemplateError> {
    let (name, filter) = match inside.split_once('|') {
        Some((name, filter)) => (name.trim(), Some(filter.trim())),
        None => (inside.trim(), None),
    };
    let given = filter.map_or_else(|| name.to_owned(), |filter| format!("{name}|{filter}"));
    if let Some((_, field)) = PLACEHOLDERS.iter().find(|(known, _)| *known == given) {
        return Ok(Part::Field(*field));
    }
    if let Some(header) = name.strip_prefix(HEADER).filter(|header| !header.is_empty()) {
        let form = match filter {
            None => HeaderForm::Raw,
            Some("json") => HeaderForm::Quoted,
            Some(other) => {
                let (placeholder, given) = (name.to_owned(), other.to_owned());
                return Err(TemplateError::UnknownFilter { offset, placeholder, given, nearest: None });
            }
        };
        return Ok(Part::Header { name: header.into(), form });
    }
    match filter {
        Some(filter) if PLACEHOLDERS.iter().any(|(known, _)| *known == name) => {
            // Only forms of the same placeholder; if none is near, all that it lacks is a filter.
            let forms = || Template::placeholders().filter(|known| known.split('|').next() == Some(name));
            let nearest = nearest(&given, forms().filter(|known| known.contains('|'))).or_else(|| forms().next());
            Err(TemplateError::UnknownFilter {
                offset,
                placeholder: name.to_owned(),
                given: filter.to_owned(),
                nearest,
            })
        }
        _ => {
            let nearest = nearest(&given, Template::placeholders());
            Err(TemplateError::UnknownPlaceholder { offset, given, nearest })
        }
    }
}

/// Writes bytes as a JSON string with its quotes (RFC 8259 section 7). Valid UTF-8 passes; each maximal piece of an invalid
/// sequence becomes one U+FFFD, as in [`String::from_utf8_lossy`]. Returns whether there was one.
pub fn write_json(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let mut lossy = false;
    out.push(b'"');
    // Nearly all records.
    if bytes.is_ascii() {
        escape_json(bytes, out);
        out.push(b'"');
        return false;
    }
    for chunk in bytes.utf8_chunks() {
        escape_json(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
            lossy = true;
        }
    }
    out.push(b'"');
    lossy
}

/// Copies runs of plain bytes at once; only quotes, backslashes and control characters need more.
fn escape_json(mut text: &[u8], out: &mut Vec<u8>) {
    loop {
        let run = plain_run(text);
        out.extend_from_slice(&text[..run]);
        let Some(&byte) = text.get(run) else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(&[byte], out);
            }
        }
        text = &text[run + 1..];
    }
}

/// How many bytes from the start need no escape. Whole groups are tested without a branch a byte, which compiles to
/// vector instructions.
fn plain_run(text: &[u8]) -> usize {
    const GROUP: usize = 16;
    let needs_escape = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
    let groups = text.chunks_exact(GROUP);
    let clean =
        groups.take_while(|group| !group.iter().fold(false, |found, byte| found | needs_escape(byte))).count() * GROUP;
    clean + text[clean..].iter().position(needs_escape).unwrap_or(text.len() - clean)
}

#[cfg(test)]
mod tests;
