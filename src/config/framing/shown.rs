//! A framing in words.

use super::super::units::{show_bytes, show_duration, show_size};
use super::checksum::name;
use super::length::COUNTS;
use crate::framing::{
    Checksum, ChecksumForm, Covers, Escape, Framing, FramingKind, Idle, LengthField, NumberForm, OnIdle, Oversized,
    Place,
};
use std::fmt::Write as _;

/// A framing in words, such as `end "\r", trimmed, dropped beyond 4KiB`.
pub fn show_framing(framing: &Framing) -> String {
    let Framing { kind, starts, keep, restart, escape, checksum, ignore, strip_bit7, .. } = framing;
    let Framing { idle, trim, max_bytes, oversized, matching, .. } = framing;
    let mut text = String::new();
    let mut part = |part: &str| {
        let gap = if text.is_empty() { "" } else { ", " };
        write!(text, "{gap}{part}").expect("a string takes any text");
    };
    if *strip_bit7 {
        part("bit 7 stripped");
    }
    if !starts.is_empty() {
        part(&format!("start {}", show_list(starts, keep.start)));
    }
    match kind {
        FramingKind::Delimiter { ends } => part(&format!("end {}", show_list(ends, keep.end))),
        FramingKind::Fixed { bytes } => part(&format!("{bytes} bytes each")),
        FramingKind::IdleGap => {}
        FramingKind::Length(field) => part(&show_length(field)),
    }
    match escape {
        None => {}
        Some(Escape::Dle) => part("DLE doubled in data"),
        Some(Escape::Slip) => part("SLIP's escapes"),
    }
    if *restart {
        part("a start inside a record begins anew");
    }
    if let Some(checksum) = checksum {
        part(&show_checksum(checksum, matches!(kind, FramingKind::Length(_))));
    }
    if !ignore.is_empty() {
        part(&format!("{} between records ignored", show_bytes(ignore)));
    }
    match idle {
        Some(idle) if *kind == FramingKind::IdleGap => part(&format!("end {} of silence", show_duration(idle.gap))),
        Some(Idle { gap, policy: OnIdle::Discard }) => {
            part(&format!("discarded after {} of silence", show_duration(*gap)));
        }
        Some(Idle { gap, policy: OnIdle::Emit }) => {
            part(&format!("delivered after {} of silence", show_duration(*gap)));
        }
        None => {}
    }
    if *trim {
        part("trimmed");
    }
    if let Some(matching) = matching {
        part(&format!("matching {:?}", matching.text()));
    }
    if !matches!(kind, FramingKind::Fixed { .. }) {
        let oversized = match oversized {
            Oversized::Cut => "cut",
            Oversized::Drop => "dropped",
        };
        part(&format!("{oversized} beyond {}", show_size(*max_bytes as u64)));
    }
    text
}

fn show_list(list: &[Vec<u8>], is_kept: bool) -> String {
    let shown: Vec<String> = list.iter().map(|bytes| show_bytes(bytes)).collect();
    format!("{}{}", shown.join(" or "), if is_kept { " (kept)" } else { "" })
}

fn show_length(field: &LengthField) -> String {
    let LengthField { offset, bytes, form, mask, add, trailer_bytes, keep_header, .. } = field;
    let counts = COUNTS.iter().find(|(_, it)| *it == field.counts).map_or("", |(word, _)| *word);
    let (unit, form) = match form {
        NumberForm::Big => ("byte", "big endian"),
        NumberForm::Little => ("byte", "little endian"),
        NumberForm::Decimal => ("character", "decimal"),
        NumberForm::Hex => ("character", "hexadecimal"),
    };
    let mut text = format!("{bytes}-{unit} length of the {counts} at {offset}, {form}");
    let mut part = |part: String| write!(text, ", {part}").expect("a string takes any text");
    if *mask != u32::MAX {
        part(format!("masked by 0x{mask:X}"));
    }
    match add.signum() {
        0 => {}
        1 => part(format!("plus {add}")),
        _ => part(format!("minus {}", add.unsigned_abs())),
    }
    if *trailer_bytes > 0 {
        part(format!("a trailer of {trailer_bytes} bytes"));
    }
    if *keep_header {
        part("header kept".to_owned());
    }
    text
}

fn show_checksum(checksum: &Checksum, has_header: bool) -> String {
    let Checksum { kind, form, digits, covers, place, separator, optional } = checksum;
    let Some(name) = name(*kind) else {
        return format!("{} bytes{} passed over", checksum.bytes(), show_place(*place, separator));
    };
    let mut text = format!("checksum {name}");
    let mut part = |part: &str| write!(text, " {part}").expect("a string takes any text");
    match form {
        ChecksumForm::Hex => part("in hexadecimal"),
        ChecksumForm::Binary { big: true } if checksum.bytes() > 1 => part("in big endian"),
        ChecksumForm::Binary { .. } => {}
    }
    let Covers { start, header, end } = *covers;
    let parts = [("start", start), ("end", end)].into_iter().filter(|(_, is_covered)| *is_covered);
    let parts: Vec<&str> = parts.map(|(word, _)| word).collect();
    if !parts.is_empty() {
        part(&format!("with {}", parts.join(" and ")));
    }
    if has_header && !header {
        part("without header");
    }
    if *digits {
        part("over pairs of digits");
    }
    if !show_place(*place, separator).is_empty() {
        part(show_place(*place, separator).trim_start());
    }
    if *optional {
        part("if it is there");
    }
    text
}

fn show_place(place: Place, separator: &[u8]) -> String {
    let mut text = if place == Place::Before { " before the end".to_owned() } else { String::new() };
    if !separator.is_empty() {
        write!(text, " behind {}", show_bytes(separator)).expect("a string takes any text");
    }
    text
}
