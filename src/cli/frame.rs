//! `ringest frame`: a framing tried on captured bytes.

use super::check::print;
use super::{Failure, exit};
use crate::config::{self, show_framing};
use crate::framing::Framing;
use crate::framing::{FrameFlags, Framed, Framer, RejectReason};
use crate::ground::text::hex;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of a frame that the text output shows.
const SHOWN_BYTES_MAX: usize = 64;
/// Bytes of one line of hexadecimal digits.
const LINE_BYTES: usize = 16;
/// Between two captures there is silence longer than any idle gap.
const BETWEEN_CAPTURES_NS: u64 = 7_200_000_000_000;

/// Arguments of `ringest frame`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Captured bytes, "-" for standard input; between two files there is a silence
    #[arg(required = true)]
    captures: Vec<PathBuf>,
    /// Name of a [framing.NAME] section; without it, the framing is made of the options below
    #[arg(long, value_name = "NAME", conflicts_with_all = INLINE)]
    framing: Option<String>,
    /// The configuration file of --framing
    #[arg(long, value_name = "FILE", default_value = "/etc/ringest.toml", requires = "framing")]
    config: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inline: Inline,
}

/// The options that stand for the keys of a section.
const INLINE: [&str; 14] = [
    "start",
    "end",
    "length_offset",
    "length_bytes",
    "length_endian",
    "length_counts",
    "length_header",
    "fixed",
    "checksum",
    "trim",
    "max",
    "oversized",
    "idle_gap",
    "on_idle",
];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The framing (see `ringest config example`)")]
struct Inline {
    /// Start bytes: text with \r \n \t \\ \xHH, or 0x…
    #[arg(long, value_name = "BYTES")]
    start: Option<String>,
    /// End bytes, likewise [default: \r]
    #[arg(long, value_name = "BYTES")]
    end: Option<String>,
    /// Where the length stands, from the first byte of the message
    #[arg(long, value_name = "N")]
    length_offset: Option<u16>,
    /// Bytes of the length: 1, 2 or 4
    #[arg(long, value_name = "N")]
    length_bytes: Option<u16>,
    /// big or little
    #[arg(long, value_name = "ORDER")]
    length_endian: Option<String>,
    /// payload, rest or message
    #[arg(long, value_name = "WHAT")]
    length_counts: Option<String>,
    /// drop or keep
    #[arg(long, value_name = "WHAT")]
    length_header: Option<String>,
    /// Length of every record
    #[arg(long, value_name = "N")]
    fixed: Option<u32>,
    /// none, sum8, xor8, crc16-modbus or crc32
    #[arg(long, value_name = "KIND")]
    checksum: Option<String>,
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

/// Runs the command.
///
/// # Errors
/// [`exit::CONFIG`] if the framing cannot be used; [`exit::NOT_OK`] if there is no record in the captures.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let framing = match &arguments.framing {
        Some(name) => configured(&arguments.config, name)?,
        None => arguments.inline.framing()?,
    };
    let mut trial = Trial { framing: &framing, frames: Vec::new(), bytes: 0, begin: 0 };
    let mut framer = Framer::new();
    for (index, path) in arguments.captures.iter().enumerate() {
        let mut capture = read(path)?;
        framing.prepare(&mut capture);
        trial.run(&mut framer, index as u64 * BETWEEN_CAPTURES_NS, &capture);
    }
    trial.finish(&mut framer);
    let summary = Summary::of(&trial);
    print(&if arguments.json {
        format!("{}\n", json!({ "framing": show_framing(&framing), "frames": trial.frames, "summary": summary }))
    } else {
        text(&framing, &trial.frames, &summary)
    })?;
    if summary.records == 0 {
        return Err(Failure::new(exit::NOT_OK, "there is no record in these bytes"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let result = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    result.map_err(|error| Failure::new(exit::FAILURE, format!("{}: {error}", path.display())))
}

fn configured(path: &Path, name: &str) -> Result<Framing, Failure> {
    let refuse = |problems: config::Problems| Failure::new(exit::CONFIG, problems.to_string());
    let text = config::read(path).map_err(refuse)?;
    let mut framings = config::parse_framings(&text, &path.display().to_string()).map_err(refuse)?;
    framings.remove(name).ok_or_else(|| {
        let known: Vec<&str> = framings.keys().map(String::as_str).collect();
        let near = config::nearest(name, known.iter().copied());
        let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        let known =
            if known.is_empty() { "this file has none".to_owned() } else { format!("known: {}", known.join(", ")) };
        Failure::new(
            exit::CONFIG,
            format!("{}: there is no section [framing.{name}]{near}\n    {known}", path.display()),
        )
    })
}

impl Inline {
    /// The options go through the configuration's own checks, as a section of a document.
    fn framing(&self) -> Result<Framing, Failure> {
        use toml_edit::{InlineTable, Item, Table, value};
        let mut table = Table::new();
        for (key, given) in [("start", &self.start), ("end", &self.end)] {
            if let Some(given) = given {
                let bytes =
                    unescape(given).map_err(|what| Failure::new(exit::USAGE, format!("--{key} {given:?}: {what}")))?;
                table.insert(key, value(format!("0x{}", hex(&bytes))));
            }
        }
        let mut length = InlineTable::new();
        let numbers = [("offset", self.length_offset), ("bytes", self.length_bytes)];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            length.insert(key, i64::from(number).into());
        }
        let words = [("endian", &self.length_endian), ("counts", &self.length_counts), ("header", &self.length_header)];
        for (key, word) in words.into_iter().filter_map(|(key, word)| Some((key, word.as_ref()?))) {
            length.insert(key, word.into());
        }
        if !length.is_empty() {
            table.insert("length", value(length));
        }
        let keys = [
            ("checksum", &self.checksum),
            ("max", &self.max),
            ("oversized", &self.oversized),
            ("idle_gap", &self.idle_gap),
            ("on_idle", &self.on_idle),
        ];
        for (key, word) in keys.into_iter().filter_map(|(key, word)| Some((key, word.as_ref()?))) {
            table.insert(key, value(word));
        }
        if let Some(fixed) = self.fixed {
            table.insert("fixed", value(i64::from(fixed)));
        }
        if let Some(trim) = self.trim {
            table.insert("trim", value(trim));
        }
        let mut framings = Table::new();
        framings.insert("inline", Item::Table(table));
        let mut document = toml_edit::DocumentMut::new();
        document.insert("framing", Item::Table(framings));
        let framings = config::parse_framings(&document.to_string(), "command line").map_err(|mut problems| {
            for problem in &mut problems.list {
                // The person wrote options and no file.
                problem.place = None;
                let key = problem.key.trim_start_matches("framing.inline.").replace(['.', '_'], "-");
                problem.key = format!("--{key}");
            }
            Failure::new(exit::CONFIG, problems.to_string())
        })?;
        Ok(framings.into_values().next().expect("one section was written"))
    }
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

/// A frame as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    /// Where it begins in all captures together: its first byte, or where that is not known any more, the end of the frame
    /// before.
    offset: usize,
    /// `record`, `empty`, `rejected` or `garbage`.
    kind: &'static str,
    /// Why, of a rejected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `cut`, `unended`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<&'static str>,
    /// How many bytes; of a rejected one, of its sample.
    bytes: usize,
    /// With escapes for what is not printable ASCII.
    text: String,
    hex: String,
    #[serde(skip)]
    raw: Vec<u8>,
}

/// A framing at work.
struct Trial<'f> {
    framing: &'f Framing,
    frames: Vec<Shown>,
    /// Of all captures so far.
    bytes: usize,
    /// Where the last frame ended.
    begin: usize,
}

impl Trial<'_> {
    /// One capture, as one chunk that comes at `now_ns`.
    fn run(&mut self, framer: &mut Framer, now_ns: u64, capture: &[u8]) {
        let (framing, before) = (self.framing, self.bytes);
        let mut input = capture;
        while let Some(framed) = framer.next(framing, now_ns, &mut input) {
            // A slice of the capture tells its place; what was kept from earlier begins where the frame before ended.
            let offset = bytes_of(&framed)
                .and_then(|bytes| (bytes.as_ptr() as usize).checked_sub(capture.as_ptr() as usize))
                .filter(|offset| *offset < capture.len());
            self.show(offset.map_or(self.begin, |offset| before + offset), &framed);
            self.begin = before + capture.len() - input.len();
        }
        self.bytes += capture.len();
    }

    /// The captures are over.
    fn finish(&mut self, framer: &mut Framer) {
        while let Some(framed) = framer.finish(self.framing) {
            self.show(self.begin, &framed);
        }
    }

    fn show(&mut self, offset: usize, framed: &Framed<'_>) {
        let (kind, reason, flags) = match framed {
            Framed::Record { flags, .. } => ("record", None, *flags),
            Framed::Empty => ("empty", None, FrameFlags::default()),
            Framed::Rejected { reason, .. } => ("rejected", Some(reason_word(*reason)), FrameFlags::default()),
            Framed::Garbage { .. } => ("garbage", None, FrameFlags::default()),
        };
        let words = [(FrameFlags::CUT, "cut"), (FrameFlags::UNENDED, "unended")];
        let flags = words.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| word).collect();
        let raw = bytes_of(framed).unwrap_or_default().to_vec();
        let (text, hex) = (raw.escape_ascii().to_string(), hex(&raw));
        self.frames.push(Shown { offset, kind, reason, flags, bytes: raw.len(), text, hex, raw });
    }
}

fn bytes_of<'a>(framed: &Framed<'a>) -> Option<&'a [u8]> {
    match framed {
        Framed::Record { bytes, .. } | Framed::Garbage { bytes, .. } => Some(bytes),
        Framed::Rejected { sample, .. } => Some(sample),
        Framed::Empty => None,
    }
}

fn reason_word(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Oversized => "oversized",
        RejectReason::Unfinished => "unfinished",
        RejectReason::Checksum => "checksum",
        RejectReason::Length => "length",
        RejectReason::Joined => "joined",
        RejectReason::NotMatched => "not_matched",
    }
}

/// What came of the captures.
#[derive(Debug, Serialize)]
struct Summary {
    bytes: usize,
    records: usize,
    cut: usize,
    unended: usize,
    empty: usize,
    rejected: BTreeMap<&'static str, usize>,
    garbage_bytes: usize,
}

impl Summary {
    fn of(trial: &Trial<'_>) -> Self {
        let count = |is: &dyn Fn(&&Shown) -> bool| trial.frames.iter().filter(is).count();
        let mut rejected = BTreeMap::new();
        for reason in trial.frames.iter().filter_map(|frame| frame.reason) {
            *rejected.entry(reason).or_default() += 1;
        }
        Self {
            bytes: trial.bytes,
            records: count(&|frame| frame.kind == "record"),
            cut: count(&|frame| frame.flags.contains(&"cut")),
            unended: count(&|frame| frame.flags.contains(&"unended")),
            empty: count(&|frame| frame.kind == "empty"),
            rejected,
            garbage_bytes: trial.frames.iter().filter(|frame| frame.kind == "garbage").map(|frame| frame.bytes).sum(),
        }
    }
}

fn text(framing: &Framing, frames: &[Shown], summary: &Summary) -> String {
    let mut out = format!("framing: {}\n\n", show_framing(framing));
    for frame in frames {
        let mut what = frame.kind.to_owned();
        for word in frame.reason.iter().chain(&frame.flags) {
            write!(what, " ({word})").expect("a string takes any text");
        }
        let line = format!("{:>8}  {what:<22}  {:>5} B  \"{}\"", frame.offset, frame.bytes, shown_text(&frame.raw));
        out.push_str(if frame.kind == "empty" { line.trim_end_matches("\"\"").trim_end() } else { &line });
        out.push('\n');
        for bytes in frame.raw[..frame.raw.len().min(SHOWN_BYTES_MAX)].chunks(LINE_BYTES) {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{:>10}{}", "", hex.join(" ")).expect("a string takes any text");
        }
        if frame.raw.len() > SHOWN_BYTES_MAX {
            writeln!(out, "{:>10}… and {} bytes more", "", frame.raw.len() - SHOWN_BYTES_MAX)
                .expect("a string takes any text");
        }
    }
    let rejected: Vec<String> = summary.rejected.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let rejected = if rejected.is_empty() { "0".to_owned() } else { rejected.join(", ") };
    let Summary { bytes, records, cut, unended, empty, garbage_bytes, .. } = summary;
    write!(
        out,
        "\n{bytes} bytes: {records} records ({cut} cut, {unended} unended), {empty} empty frames; rejected: {rejected}; \
         garbage: {garbage_bytes} bytes\n"
    )
    .expect("a string takes any text");
    out
}

fn shown_text(bytes: &[u8]) -> String {
    let more = if bytes.len() > SHOWN_BYTES_MAX { "…" } else { "" };
    format!("{}{more}", bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii())
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
