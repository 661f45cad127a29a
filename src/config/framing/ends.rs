//! Where a record starts and ends: the bytes of both, and what is done with them.

use super::super::nearest::nearest;
use super::super::problem::Refusal;
use super::super::units::{self, show_bytes};
use super::super::walk::{Entry, Section};
use super::{END_BYTES_MAX, Ending};
use crate::framing::{Escape, Keep};

/// Most starts, most ends.
const LIST_MAX: usize = 8;
/// Most bytes that mean nothing.
const IGNORE_BYTES_MAX: usize = 16;
const DLE: u8 = 0x10;
/// The END of RFC 1055.
const SLIP_END: u8 = 0xC0;

/// What was found.
pub(super) struct Ends {
    pub starts: Vec<Vec<u8>>,
    /// None where something else ends a record.
    pub ends: Vec<Vec<u8>>,
    pub keep: Keep,
    pub escape: Option<Escape>,
    pub ignore: Vec<u8>,
    pub strip_bit7: bool,
}

pub(super) fn ends(section: &Section<'_, '_>, ending: Ending) -> Ends {
    let escape = if ending == Ending::End {
        let words = [("none", None), ("dle", Some(Escape::Dle)), ("slip", Some(Escape::Slip))];
        section.choice("escape", &words, None)
    } else {
        section.misplaced("escape", "only a record that ends at bytes needs to escape them", "end, or leave it out");
        None
    };
    let starts = starts(section, escape);
    let ends = if ending == Ending::End { end_list(section, &starts, escape) } else { Vec::new() };
    let keep = keep(section, !starts.is_empty(), !ends.is_empty());
    let ignore = ignore(section, ending, &starts);
    let strip_bit7 = section.boolean("strip_bit7", false);
    for (key, list) in [("start", &starts), ("end", &ends)] {
        if let Some(bytes) = list.iter().find(|bytes| strip_bit7 && bytes.iter().any(|byte| *byte > 0x7F)) {
            let what = format!("{} cannot come: strip_bit7 clears bit 7 of each byte first", show_bytes(bytes));
            section.refuse(key, Refusal::new(what, "bytes up to 0x7F, or strip_bit7 = false"));
        }
    }
    Ends { starts, ends, keep, escape, ignore, strip_bit7 }
}

/// A string or a list of them, as bytes.
fn byte_strings(entry: &Entry<'_, '_>, remedy: &str) -> Vec<Vec<u8>> {
    let mut list: Vec<Vec<u8>> = Vec::new();
    for (text, span) in entry.strings(remedy) {
        match units::parse_bytes(text, END_BYTES_MAX) {
            Ok(bytes) if list.contains(&bytes) => {
                entry.refuse_element(&span, Refusal::new("this is in the list already", "each of them once"));
            }
            Ok(bytes) => list.push(bytes),
            Err(refusal) => entry.refuse_element(&span, refusal),
        }
    }
    if list.len() > LIST_MAX {
        entry.refuse(Refusal::new(format!("these are {}", list.len()), format!("at most {LIST_MAX}")));
    }
    list
}

fn starts(section: &Section<'_, '_>, escape: Option<Escape>) -> Vec<Vec<u8>> {
    if escape == Some(Escape::Slip) {
        section.misplaced("start", "SLIP has no start", "leave it out: what is empty between two ends is skipped");
        return Vec::new();
    }
    let Some(entry) = section.get("start") else {
        return if escape == Some(Escape::Dle) { vec![vec![DLE, 0x02]] } else { Vec::new() };
    };
    let starts = byte_strings(&entry, "a string such as \"0x02\", or a list of them; [] for none");
    check_dle(&entry, escape, &starts);
    starts
}

/// What a DLE escapes begins with one, and goes on with a byte of its own.
fn check_dle(entry: &Entry<'_, '_>, escape: Option<Escape>, list: &[Vec<u8>]) {
    let is_escaped = |bytes: &Vec<u8>| matches!(bytes[..], [DLE, second] if second != DLE);
    if escape == Some(Escape::Dle)
        && let Some(wrong) = list.iter().find(|bytes| !is_escaped(bytes))
    {
        let what = format!("{} is not DLE (0x10) and one other byte", show_bytes(wrong));
        entry.refuse(Refusal::new(what, "such as \"0x1002\" to start and \"0x1003\" to end, or escape = \"none\""));
    }
}

fn end_list(section: &Section<'_, '_>, starts: &[Vec<u8>], escape: Option<Escape>) -> Vec<Vec<u8>> {
    let default = match escape {
        None => vec![b'\r'],
        Some(Escape::Dle) => vec![DLE, 0x03],
        Some(Escape::Slip) => vec![SLIP_END],
    };
    let Some(entry) = section.get("end") else {
        if !starts.is_empty() && escape.is_none() {
            section.missing("end", "where a record ends: end, length or fixed, or an idle_gap");
        }
        return vec![default];
    };
    let mut ends = byte_strings(&entry, "a string such as \"\\r\" or \"0x03\", or a list of them");
    if entry.item.as_array().is_some_and(|array| array.is_empty()) {
        entry.refuse(Refusal::new(
            "a record would never end",
            "a string such as \"\\r\" or \"0x03\", or a list of them",
        ));
    }
    if ends.is_empty() {
        ends.push(default);
    }
    if ends.iter().any(|end| starts.contains(end)) {
        entry.refuse(Refusal::new(
            "start and end are the same, so nobody can tell which one it is",
            "leave out start: each end then begins the next record, and what is empty is skipped",
        ));
    }
    check_dle(&entry, escape, &ends);
    if escape == Some(Escape::Slip) && ends[..] != [vec![SLIP_END]] {
        entry.refuse(Refusal::new("the end of SLIP is 0xC0", "leave it out"));
    }
    ends
}

fn keep(section: &Section<'_, '_>, has_start: bool, has_end: bool) -> Keep {
    const REMEDY: &str = "\"start\", \"end\", or a list of both: what of them is part of the record";
    let mut keep = Keep::default();
    let Some(entry) = section.get("keep") else { return keep };
    for (word, span) in entry.strings(REMEDY) {
        let (part, is_there) = match word {
            "start" => (&mut keep.start, has_start),
            "end" => (&mut keep.end, has_end),
            _ => {
                let near = nearest(word, ["start", "end"]);
                entry.refuse_element(&span, Refusal::new("this word is not known here", REMEDY).with_nearest(near));
                continue;
            }
        };
        *part = true;
        if !is_there {
            entry.refuse_element(&span, Refusal::new(format!("this framing has no {word}"), "leave it out"));
        }
    }
    keep
}

fn ignore(section: &Section<'_, '_>, ending: Ending, starts: &[Vec<u8>]) -> Vec<u8> {
    if ending == Ending::Gap {
        section.misplaced("ignore", "where silence ends a record, no byte stands between two of them", "leave it out");
        return Vec::new();
    }
    let parse = |text| units::parse_bytes(text, IGNORE_BYTES_MAX);
    let ignore = section.parsed("ignore", "a string: the bytes, such as \"0x00\"", parse).unwrap_or_default();
    if let Some(start) = starts.iter().find(|start| ignore.contains(&start[0])) {
        let what = format!("{} would never start a record: its first byte is ignored", show_bytes(start));
        section.refuse("ignore", Refusal::new(what, "bytes that start no record"));
    }
    ignore
}

/// Whether all bytes are text or control characters: a protocol of characters.
fn is_ascii(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte < 0x80)
}

/// Whether a start inside a frame begins anew. `may_be_data`: bytes of any value stand before the end.
pub(super) fn restart(section: &Section<'_, '_>, ending: Ending, ends: &Ends, may_be_data: bool) -> bool {
    if ending != Ending::End {
        let what = "only where bytes end a record can its end be lost without a trace";
        section.misplaced("restart", what, "leave it out: a checksum or an idle gap finds the next record here");
        return false;
    }
    // A start that is escaped is a start wherever it stands.
    let is_control = |start: &Vec<u8>| matches!(start[..], [byte] if byte.is_ascii_control());
    // Of such an end the start would be seen first.
    let has = |end: &Vec<u8>, start: &Vec<u8>| end[..end.len() - 1].windows(start.len()).any(|part| part == &start[..]);
    let is_in_end = |start: &Vec<u8>| ends.ends.iter().any(|end| has(end, start));
    let clashes = ends.escape.is_none() && ends.starts.iter().any(is_in_end);
    let by_itself = ends.escape == Some(Escape::Dle)
        || !clashes && !may_be_data && ends.starts.iter().all(is_control) && ends.ends.iter().all(|end| is_ascii(end));
    let restart = section.boolean("restart", by_itself && !ends.starts.is_empty());
    if restart && clashes {
        let what = "an end of this framing contains a start, which would begin a record before each end is whole";
        section.refuse("restart", Refusal::new(what, "false, or leave this out"));
    }
    if restart && ends.starts.is_empty() {
        section.refuse("restart", Refusal::new("this framing has no start", "start = \"0x02\", or leave this out"));
    }
    restart
}
