//! A framing made of options, by the configuration's own checks.

use super::super::{Failure, exit};
use crate::config;
use crate::framing::Framing;
use crate::ground::text::hex;
use toml_edit::{Array, InlineTable, Item, Table, Value, value};

/// The options that stand for the keys of a section.
pub(super) const INLINE: [&str; 25] = [
    "preset",
    "start",
    "end",
    "keep",
    "restart",
    "escape",
    "ignore",
    "strip_bit7",
    "length_offset",
    "length_bytes",
    "length_form",
    "length_endian",
    "length_mask",
    "length_add",
    "length_counts",
    "length_trailer",
    "length_header",
    "fixed",
    "checksum",
    "matching",
    "trim",
    "max",
    "oversized",
    "idle_gap",
    "on_idle",
];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The framing (see `ringest config example`)")]
pub(super) struct Inline {
    /// A framing to begin with, such as nmea (see `ringest config presets`); the other options count before it
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Start bytes: text with \r \n \t \\ \xHH, or 0x…; more than once for one of several
    #[arg(long, value_name = "BYTES")]
    start: Vec<String>,
    /// End bytes, likewise [default: \r]
    #[arg(long, value_name = "BYTES")]
    end: Vec<String>,
    /// start or end: it is part of the record; more than once for both
    #[arg(long, value_name = "WHAT")]
    keep: Vec<String>,
    /// Whether a start inside a record begins anew
    #[arg(long, value_name = "true|false")]
    restart: Option<bool>,
    /// none, dle or slip
    #[arg(long, value_name = "HOW")]
    escape: Option<String>,
    /// Bytes that mean nothing between records
    #[arg(long, value_name = "BYTES")]
    ignore: Option<String>,
    /// Clear bit 7 of each byte first
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    strip_bit7: Option<bool>,
    /// Where the length stands, from the first byte of the message
    #[arg(long, value_name = "N")]
    length_offset: Option<u16>,
    /// Bytes of the length: 1 to 4, or as many as 8 characters
    #[arg(long, value_name = "N")]
    length_bytes: Option<u16>,
    /// binary, decimal or hex
    #[arg(long, value_name = "FORM")]
    length_form: Option<String>,
    /// big or little
    #[arg(long, value_name = "ORDER")]
    length_endian: Option<String>,
    /// The bits of it that count, such as 0x3FFF
    #[arg(long, value_name = "BITS", value_parser = number)]
    length_mask: Option<i64>,
    /// What is added to it
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    length_add: Option<i64>,
    /// payload, rest or message
    #[arg(long, value_name = "WHAT")]
    length_counts: Option<String>,
    /// Bytes behind payload and checksum
    #[arg(long, value_name = "N")]
    length_trailer: Option<u16>,
    /// drop or keep
    #[arg(long, value_name = "WHAT")]
    length_header: Option<String>,
    /// Length of every record
    #[arg(long, value_name = "N")]
    fixed: Option<u32>,
    /// none, or a name such as xor8 or CRC-16/MODBUS, or a table: { kind = "xor8", covers = ["end"] }
    #[arg(long, value_name = "KIND")]
    checksum: Option<String>,
    /// A regular expression that each record must match
    #[arg(long = "match", value_name = "REGEX")]
    matching: Option<String>,
    /// Strip a leading LF and trailing white space
    #[arg(long, value_name = "true|false")]
    trim: Option<bool>,
    /// Longest record, such as 4KiB
    #[arg(long, value_name = "SIZE")]
    max: Option<String>,
    /// cut or drop
    #[arg(long, value_name = "POLICY")]
    oversized: Option<String>,
    /// Silence that ends a record, such as 40ms
    #[arg(long, value_name = "TIME")]
    idle_gap: Option<String>,
    /// discard or emit
    #[arg(long, value_name = "POLICY")]
    on_idle: Option<String>,
}

impl Inline {
    /// The options go through the configuration's own checks, as a section of a document.
    pub(super) fn framing(&self) -> Result<Framing, Failure> {
        let mut framings = Table::new();
        framings.insert("inline", Item::Table(self.table()?));
        let mut document = toml_edit::DocumentMut::new();
        document.insert("framing", Item::Table(framings));
        let framings = config::parse_framings(&document.to_string(), "command line").map_err(|mut problems| {
            for problem in &mut problems.list {
                // The person wrote options and no file.
                problem.place = None;
                problem.key = option_of(problem.key.trim_start_matches("framing.inline."));
            }
            Failure::new(exit::CONFIG, problems.to_string())
        })?;
        Ok(framings.into_values().next().expect("one section was written"))
    }

    fn table(&self) -> Result<Table, Failure> {
        let mut table = Table::new();
        for (key, list) in [("start", &self.start), ("end", &self.end)] {
            let bytes = list.iter().map(|given| typed_bytes(key, given)).collect::<Result<Vec<String>, Failure>>()?;
            insert_list(&mut table, key, &bytes);
        }
        insert_list(&mut table, "keep", &self.keep);
        if let Some(given) = &self.ignore {
            table.insert("ignore", value(typed_bytes("ignore", given)?));
        }
        let length = self.length();
        if !length.is_empty() {
            table.insert("length", value(length));
        }
        if let Some(given) = &self.checksum {
            table.insert("checksum", value(word_or_table("checksum", given)?));
        }
        let words = [
            ("preset", &self.preset),
            ("escape", &self.escape),
            ("match", &self.matching),
            ("max", &self.max),
            ("oversized", &self.oversized),
            ("idle_gap", &self.idle_gap),
            ("on_idle", &self.on_idle),
        ];
        for (key, word) in words.into_iter().filter_map(|(key, word)| Some((key, word.as_ref()?))) {
            table.insert(key, value(word));
        }
        if let Some(fixed) = self.fixed {
            table.insert("fixed", value(i64::from(fixed)));
        }
        let switches = [("trim", self.trim), ("restart", self.restart), ("strip_bit7", self.strip_bit7)];
        for (key, switch) in switches.into_iter().filter_map(|(key, switch)| Some((key, switch?))) {
            table.insert(key, value(switch));
        }
        Ok(table)
    }

    fn length(&self) -> InlineTable {
        let mut length = InlineTable::new();
        let numbers = [
            ("offset", self.length_offset.map(i64::from)),
            ("bytes", self.length_bytes.map(i64::from)),
            ("mask", self.length_mask),
            ("add", self.length_add),
            ("trailer", self.length_trailer.map(i64::from)),
        ];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            length.insert(key, number.into());
        }
        let words = [
            ("form", &self.length_form),
            ("endian", &self.length_endian),
            ("counts", &self.length_counts),
            ("header", &self.length_header),
        ];
        for (key, word) in words.into_iter().filter_map(|(key, word)| Some((key, word.as_ref()?))) {
            length.insert(key, word.into());
        }
        length
    }
}

/// The option that stands for a key; a part of a checksum is named behind it.
fn option_of(key: &str) -> String {
    match key.strip_prefix("checksum.") {
        Some(part) => format!("--checksum, {part}"),
        None if key == "match" => "--match".to_owned(),
        None => format!("--{}", key.replace(['.', '_'], "-")),
    }
}

fn insert_list(table: &mut Table, key: &str, list: &[String]) {
    match list {
        [] => {}
        [one] => {
            table.insert(key, value(one));
        }
        _ => {
            table.insert(key, value(list.iter().collect::<Array>()));
        }
    }
}

/// Bytes as the person typed them, as a configuration has them.
fn typed_bytes(key: &str, given: &str) -> Result<String, Failure> {
    let refuse = |what| Failure::new(exit::USAGE, format!("--{key} {given:?}: {what}"));
    unescape(given).map(|bytes| format!("0x{}", hex(&bytes))).map_err(refuse)
}

/// A word, or a table in braces.
fn word_or_table(key: &str, given: &str) -> Result<Value, Failure> {
    if !given.trim_start().starts_with('{') {
        return Ok(given.into());
    }
    given.trim().parse().map_err(|error: toml_edit::TomlError| {
        let what = error.message().replace('\n', "; ");
        let example = "'{ kind = \"xor8\", covers = [\"end\"] }'";
        Failure::new(exit::USAGE, format!("--{key} {given:?}: this is no table of TOML: {what}\n    such as {example}"))
    })
}

/// A number, decimal or behind `0x`.
fn number(text: &str) -> Result<i64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number, such as 0x3FFF".to_owned())
}

/// Bytes as they are typed: `0x…`, or text with the usual escapes.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let digits = |digits: &str| -> Result<u8, String> {
        let good = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        good.then(|| u8::from_str_radix(digits, 16).expect("two digits"))
            .ok_or_else(|| format!("{digits:?} are not two hexadecimal digits"))
    };
    if let Some(hex) = text.strip_prefix("0x") {
        let starts = (0..hex.len()).step_by(2);
        return starts.map(|at| digits(hex.get(at..(at + 2).min(hex.len())).unwrap_or(hex))).collect();
    }
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let (byte, taken) = match escape.bytes().next() {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'0') => (0, 1),
            Some(b'\\') => (b'\\', 1),
            Some(b'x') => (digits(escape.get(1..3).unwrap_or(&escape[1..]))?, 3),
            _ => return Err("known escapes: \\r \\n \\t \\0 \\\\ \\xHH".to_owned()),
        };
        bytes.push(byte);
        rest = &escape[taken..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_typed_as_text_with_escapes_or_in_hexadecimal() {
        for (text, bytes) in [
            (r"\r\n", &b"\r\n"[..]),
            (r"a\x02b\\\t\0", b"a\x02b\\\t\0"),
            ("0x02ff", b"\x02\xff"),
            ("ü", "ü".as_bytes()),
            ("\r", b"\r"),
        ] {
            assert_eq!(unescape(text).as_deref(), Ok(bytes), "{text}");
        }
        for wrong in [r"\", r"\q", r"\x2", r"\x", r"\xüa", "0x1", "0xgg", "0x1ü", "0xü1"] {
            assert!(unescape(wrong).is_err(), "{wrong}");
        }
    }
}
