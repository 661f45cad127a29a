//! What a source's records are: their encoding, what is done with what is none of it, JSON or not.

use super::problem::Refusal;
use super::settings::{DataIs, Flow, Serial};
use super::units::show_bytes;
use super::walk::Section;
use crate::framing::{Escape, Framing, FramingKind};
use crate::ground::decoding::{Decoding, OnUndecodable};

/// Labels for messages: those that machines use most.
const LABELS: &str = "a label of the WHATWG Encoding Standard, such as \"utf-8\", \"big5\", \"gbk\", \"shift_jis\", \"euc-kr\" or \
                      \"windows-1252\"";

/// The keys of a source about what its records are.
pub(super) fn content(section: &Section<'_, '_>) -> (Decoding, DataIs) {
    let encoding = section.parsed("encoding", LABELS, |label| {
        Decoding::encoding_of(label).ok_or_else(|| Refusal::new("there is no such encoding", LABELS))
    });
    let words = [("replace", OnUndecodable::Replace), ("reject", OnUndecodable::Reject), ("hex", OnUndecodable::Hex)];
    let on_undecodable = section.choice("on_undecodable", &words, OnUndecodable::default());
    let data_is = section.choice("data_is", &[("bytes", DataIs::Bytes), ("json", DataIs::Json)], DataIs::Bytes);
    let decoding = Decoding { encoding: encoding.unwrap_or(Decoding::default().encoding), on_undecodable };
    if data_is == DataIs::Json && decoding.encoding != Decoding::default().encoding {
        let what = format!("JSON is UTF-8 (RFC 8259), and the records are said to be {}", decoding.encoding.name());
        section.refuse("data_is", Refusal::new(what, "\"bytes\", or encoding = \"utf-8\""));
    }
    (decoding, data_is)
}

/// Refuses what would cut a character in two, or cannot carry one. `port`: of a serial source.
pub(super) fn check_encoding(section: &Section<'_, '_>, decoding: Decoding, framing: &Framing, port: Option<&Serial>) {
    let name = decoding.encoding.name();
    let ends: &[Vec<u8>] = match &framing.kind {
        FramingKind::Delimiter { ends } => ends,
        _ => &[],
    };
    // SLIP writes an end that is data in another way.
    let is_escaped = framing.escape == Some(Escape::Slip);
    let parts = framing.starts.iter().map(|start| ("start", start)).chain(ends.iter().map(|end| ("end", end)));
    for (part, bytes) in parts {
        if !is_escaped && decoding.may_lie_inside(bytes[0]) {
            let what = format!(
                "the framing's {part} {} can lie inside a character of {name}, which would be cut there",
                show_bytes(bytes)
            );
            section.refuse(
                "encoding",
                Refusal::new(what, "a framing that begins its start and end with a control character"),
            );
        }
        if bytes.len() % decoding.unit_bytes() != 0 {
            let what = format!("the framing's {part} {} is no whole character of {name}", show_bytes(bytes));
            section.refuse(
                "encoding",
                Refusal::new(
                    what,
                    "two bytes for each character, such as \"0x0D00\" for a carriage return of utf-16le",
                ),
            );
        }
    }
    if framing.strip_bit7 && decoding.needs_eight_bits() {
        let what = format!("strip_bit7 takes away the highest bit of each byte, which {name} needs");
        section.refuse("encoding", Refusal::new(what, "\"utf-8\", or a framing without strip_bit7"));
    }
    let is_ignored = |byte: &u8| decoding.unit_bytes() > 1 || *byte >= 0x80 && decoding.needs_eight_bits();
    if let Some(byte) = framing.ignore.iter().find(|byte| is_ignored(byte)) {
        let what = format!("the framing ignores 0x{byte:02X} between records, which can begin a character of {name}");
        section.refuse("encoding", Refusal::new(what, "a framing without ignore, or that ignores control characters"));
    }
    if decoding.unit_bytes() > 1 && framing.trim {
        let what = format!("trim takes single bytes off a record, and a character of {name} has two");
        section.refuse("encoding", Refusal::new(what, "trim = false in the framing"));
    }
    let Some(port) = port else { return };
    if port.line.data_bits < 8 && decoding.needs_eight_bits() {
        let what = format!("{name} cannot come over {} data bits", port.line.data_bits);
        section.refuse("encoding", Refusal::new(what, "line = \"… 8N1\", or \"utf-8\""));
    }
    if port.flow == Flow::XonXoff && decoding.unit_bytes() > 1 {
        let what = format!("a byte of {name} may be XON (0x11) or XOFF (0x13), which this flow control takes away");
        section.refuse("encoding", Refusal::new(what, "flow = \"none\" or \"rtscts\""));
    }
}
