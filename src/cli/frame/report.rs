//! What came of the captures, as text and as JSON.

use super::Trial;
use crate::config::show_framing;
use crate::framing::{FrameFlags, Framed, Framing, RejectReason};
use crate::ground::text::hex;
use encoding_rs::Encoding;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Bytes of a frame that the text output shows.
const SHOWN_BYTES_MAX: usize = 64;
/// Bytes of one line of hexadecimal digits.
const LINE_BYTES: usize = 16;

/// A frame as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Where it begins in all captures together: its first byte, or where that is not known any more, the end of the frame
    /// before.
    offset: usize,
    /// `record`, `empty`, `rejected` or `garbage`.
    kind: &'static str,
    /// Why, of a rejected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `cut`, `line-error`, `break`, `unended`, `undecodable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<&'static str>,
    /// How many bytes; of a rejected one, of its sample.
    bytes: usize,
    /// With escapes for what is not printable ASCII; decoded, if an encoding is given.
    text: String,
    hex: String,
    #[serde(skip)]
    raw: Vec<u8>,
    #[serde(skip)]
    encoding: Option<&'static Encoding>,
}

impl Shown {
    pub fn new(offset: usize, framed: &Framed<'_>, encoding: Option<&'static Encoding>) -> Self {
        let (kind, reason, mut flags) = match framed {
            Framed::Record { flags, .. } => ("record", None, *flags),
            Framed::Empty => ("empty", None, FrameFlags::default()),
            Framed::Rejected { reason, .. } => ("rejected", Some(reason_word(*reason)), FrameFlags::default()),
            Framed::Garbage { .. } => ("garbage", None, FrameFlags::default()),
        };
        let raw = bytes_of(framed).unwrap_or_default().to_vec();
        let (text, is_whole) = text_of(&raw, encoding);
        if kind == "record" && !is_whole {
            flags |= FrameFlags::UNDECODABLE;
        }
        let flags: Vec<&str> = flags.words().collect();
        let hex = hex(&raw);
        Self { offset, kind, reason, flags, bytes: raw.len(), text, hex, raw, encoding }
    }
}

/// Bytes as text, and whether all of them are.
fn text_of(bytes: &[u8], encoding: Option<&'static Encoding>) -> (String, bool) {
    let Some(encoding) = encoding else { return (bytes.escape_ascii().to_string(), true) };
    let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
    (text.escape_debug().to_string(), !had_errors)
}

pub(super) fn bytes_of<'a>(framed: &Framed<'a>) -> Option<&'a [u8]> {
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
pub(super) struct Summary {
    bytes: usize,
    pub records: usize,
    cut: usize,
    unended: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<usize>,
    empty: usize,
    rejected: BTreeMap<&'static str, usize>,
    garbage_bytes: usize,
}

impl Summary {
    pub fn of(trial: &Trial<'_>) -> Self {
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
            undecodable: trial.encoding.map(|_| count(&|frame| frame.flags.contains(&"undecodable"))),
            empty: count(&|frame| frame.kind == "empty"),
            rejected,
            garbage_bytes: trial.frames.iter().filter(|frame| frame.kind == "garbage").map(|frame| frame.bytes).sum(),
        }
    }
}

pub(super) fn text(framing: &Framing, frames: &[Shown], summary: &Summary, hints: &[String]) -> String {
    let mut out = format!("framing: {}\n\n", show_framing(framing));
    for frame in frames {
        let mut what = frame.kind.to_owned();
        for word in frame.reason.iter().chain(&frame.flags) {
            write!(what, " ({word})").expect("a string takes any text");
        }
        let line = format!("{:>8}  {what:<22}  {:>5} B  \"{}\"", frame.offset, frame.bytes, shown_text(frame));
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
    let undecodable = summary.undecodable.map_or(String::new(), |count| format!(", {count} undecodable"));
    write!(
        out,
        "\n{bytes} bytes: {records} records ({cut} cut, {unended} unended{undecodable}), {empty} empty frames; rejected: \
         {rejected}; garbage: {garbage_bytes} bytes\n"
    )
    .expect("a string takes any text");
    for hint in hints {
        writeln!(out, "hint: {hint}").expect("a string takes any text");
    }
    out
}

fn shown_text(frame: &Shown) -> String {
    if frame.raw.len() <= SHOWN_BYTES_MAX {
        return frame.text.clone();
    }
    format!("{}…", text_of(&frame.raw[..SHOWN_BYTES_MAX], frame.encoding).0)
}
