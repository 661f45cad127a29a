//! `[framing.NAME]`: how bytes are cut into records.

use super::gateway::{RECORD_BYTES_MAX, check_name};
use super::nearest::nearest;
use super::problem::Refusal;
use super::settings::{Flow, Line};
use super::units::{self, show_bytes, show_duration, show_size};
use super::walk::{Entry, Section};
use crate::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, Idle, LengthCounts, LengthField, NumberForm, OnIdle,
    Oversized,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest start, longest end.
const END_BYTES_MAX: usize = 16;
/// Largest offset of a length.
const OFFSET_MAX: usize = 64;
/// Below it the scheduling of any machine would end records; above it nobody waits.
const IDLE_GAP: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3_600);

const CHECKSUMS: [(&str, Option<ChecksumKind>); 5] = [
    ("none", None),
    ("sum8", Some(ChecksumKind::Sum8)),
    ("xor8", Some(ChecksumKind::Xor8)),
    ("crc16-modbus", Some(ChecksumKind::Crc(CrcName::Crc16Modbus))),
    ("crc32", Some(ChecksumKind::Crc(CrcName::Crc32IsoHdlc))),
];
const COUNTS: [(&str, LengthCounts); 3] =
    [("payload", LengthCounts::Payload), ("rest", LengthCounts::Rest), ("message", LengthCounts::Message)];

/// What ends a record, and with it which keys a framing has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    End,
    Length,
    Fixed,
    Gap,
}

impl Ending {
    fn key(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Length => "length",
            Self::Fixed => "fixed",
            Self::Gap => "idle_gap",
        }
    }
}

/// The framings of a file by name, and which of them a source uses.
pub(super) struct Framings<'d> {
    by_name: HashMap<&'d str, (Framing, bool)>,
}

impl Framings<'_> {
    /// The framings alone.
    pub fn by_name(self) -> BTreeMap<String, Framing> {
        self.by_name.into_iter().map(|(name, (framing, _))| (name.to_owned(), framing)).collect()
    }
}

pub(super) fn framings<'d>(section: &Section<'_, 'd>) -> Framings<'d> {
    let mut by_name = HashMap::new();
    for (name, entry) in section.entries() {
        if !entry.item.is_table_like() {
            entry.refuse(Refusal::new(
                "a framing has a name, and its keys stand below it",
                format!("[framing.NAME] and below it {name} = …; a source then has framing = \"NAME\""),
            ));
            continue;
        }
        if let Err(refusal) = check_name(name) {
            entry.refuse_key(refusal);
        }
        let ending = ending(&entry);
        if let Some(mut inner) = entry.section("a section") {
            inner.rename(format!("framing.{name}"), format!("framing[{}]", ending.key()));
            by_name.insert(name, (framing(inner, ending), false));
        }
    }
    Framings { by_name }
}

/// What the keys of a framing say about the end of its records.
fn ending(entry: &Entry<'_, '_>) -> Ending {
    let has = |key| entry.item.as_table_like().is_some_and(|table| table.contains_key(key));
    let given = [Ending::Length, Ending::Fixed, Ending::End, Ending::Gap].into_iter().find(|ending| has(ending.key()));
    given.unwrap_or(Ending::End)
}

fn framing(section: Section<'_, '_>, ending: Ending) -> Framing {
    for other in [Ending::End, Ending::Fixed].into_iter().filter(|other| *other != ending) {
        let what = format!("{} says already where a record ends", ending.key());
        section.misplaced(other.key(), &what, "one of end, length and fixed; an idle gap may be added to each");
    }
    let given = section.parsed("start", "a string", |text| units::parse_bytes(text, END_BYTES_MAX));
    let start = given.unwrap_or_default();
    let checksum = section.choice("checksum", &CHECKSUMS, None);
    let kind = match ending {
        Ending::End => FramingKind::Delimiter { ends: vec![end(&section, &start)] },
        Ending::Length => FramingKind::Length(length(section.section("length"), start.len())),
        Ending::Fixed => FramingKind::Fixed { bytes: section.integer("fixed", 1, 1..=RECORD_BYTES_MAX as usize) },
        Ending::Gap => FramingKind::IdleGap,
    };
    // White space around a binary end, in a field of a known length, or in front of a silence may well be data.
    let is_text = |bytes: &[u8]| bytes.iter().all(|byte| units::is_text(*byte));
    let trim = section
        .boolean("trim", matches!(&kind, FramingKind::Delimiter { ends } if ends.iter().all(|end| is_text(end))));
    if let FramingKind::Length(LengthField { keep_header: true, .. }) = kind
        && trim
    {
        section
            .refuse("trim", Refusal::new("a header that is kept is no text", "false, or header = \"drop\" in length"));
    }
    let defaults = Framing::default();
    let (max_bytes, oversized) = if let FramingKind::Fixed { bytes } = kind {
        for key in ["max", "oversized"] {
            section.misplaced(key, "every record has the same length here", "leave it out: fixed says it all");
        }
        (bytes, defaults.oversized)
    } else {
        let words = [("cut", Oversized::Cut), ("drop", Oversized::Drop)];
        (
            section.size("max", defaults.max_bytes as u64, 1..=RECORD_BYTES_MAX) as usize,
            section.choice("oversized", &words, defaults.oversized),
        )
    };
    let idle = idle(&section, ending, checksum);
    section.finish_with(|key| {
        // Which keys a framing has depends on how it ends: the other ways to end are known, too.
        let near = nearest(key, ["length", "fixed", "idle_gap"])?;
        (ending == Ending::End).then(|| format!("this key is not known here; did you mean {near:?}?"))
    });
    let starts = if start.is_empty() { Vec::new() } else { vec![start] };
    let checksum = checksum.map(Checksum::short);
    Framing { kind, starts, checksum, idle, trim, max_bytes, oversized, ..defaults }
}

fn end(section: &Section<'_, '_>, start: &[u8]) -> Vec<u8> {
    let Some(entry) = section.get("end") else {
        if !start.is_empty() {
            section.missing("end", "where a record ends: end, length or fixed, or an idle_gap");
        }
        return b"\r".to_vec();
    };
    let remedy = "a string, such as \"\\r\" or \"0x03\"";
    let parsed = section.parsed("end", remedy, |text| units::parse_bytes(text, END_BYTES_MAX));
    let end = parsed.unwrap_or_else(|| b"\r".to_vec());
    if end == start {
        entry.refuse(Refusal::new(
            "start and end are the same, so nobody can tell which one it is",
            "leave out start: each end then begins the next record, and what is empty is skipped",
        ));
    }
    end
}

fn length(section: Section<'_, '_>, start_bytes: usize) -> LengthField {
    let offset = section.integer("offset", start_bytes, 0..=OFFSET_MAX);
    if offset < start_bytes {
        let what = format!("the length would lie in the start, which has {start_bytes} bytes");
        section
            .refuse("offset", Refusal::new(what, format!("{start_bytes} or more, from the first byte of the start")));
    }
    let bytes = section.integer("bytes", 2, 1..=4);
    if bytes == 3 {
        section.refuse("bytes", Refusal::new("a length of three bytes is not known", "1, 2 or 4"));
    }
    let form = section.choice("endian", &[("big", NumberForm::Big), ("little", NumberForm::Little)], NumberForm::Big);
    let counts = section.choice("counts", &COUNTS, LengthCounts::Payload);
    let keep_header = section.choice("header", &[("drop", false), ("keep", true)], false);
    section.finish();
    LengthField::plain(offset.max(start_bytes), bytes, form, counts, keep_header)
}

fn idle(section: &Section<'_, '_>, ending: Ending, checksum: Option<ChecksumKind>) -> Option<Idle> {
    let given = section.get("idle_gap");
    let gap = section.duration_if_given("idle_gap", IDLE_GAP);
    if ending == Ending::Gap {
        section.misplaced("on_idle", "the idle gap ends every record here", "leave it out: every record is delivered");
        return Some(Idle { gap: gap.unwrap_or(*IDLE_GAP.end()), policy: OnIdle::Emit });
    }
    let policy = section.choice("on_idle", &[("discard", OnIdle::Discard), ("emit", OnIdle::Emit)], OnIdle::Discard);
    if section.get("on_idle").is_some() && given.is_none() {
        let refusal =
            Refusal::new("there is no idle_gap, so this never happens", "idle_gap = \"40ms\", or leave this out");
        section.refuse("on_idle", refusal);
    }
    if policy == OnIdle::Emit && checksum.is_some() {
        let what = "a record that silence cut short has no checksum that could verify it";
        section.refuse("on_idle", Refusal::new(what, "\"discard\", or no checksum"));
    }
    gap.map(|gap| Idle { gap, policy })
}

/// The framing that a source names.
pub(super) fn source_framing(section: &Section<'_, '_>, framings: &mut Framings<'_>) -> Option<Framing> {
    if section.get("framing").is_none() {
        return Some(Framing::default());
    }
    section.parsed("framing", "the name of a [framing.NAME] section", |name| {
        if let Some((framing, used)) = framings.by_name.get_mut(name) {
            *used = true;
            return Ok(framing.clone());
        }
        let mut names: Vec<&str> = framings.by_name.keys().copied().collect();
        names.sort_unstable();
        let known =
            if names.is_empty() { "this file has none".to_owned() } else { format!("known: {}", names.join(", ")) };
        let what = format!("there is no section [framing.{}]", name.escape_debug());
        Err(Refusal::new(what, format!("the name of a [framing.NAME] section; {known}"))
            .with_nearest(nearest(name, names.iter().copied())))
    })
}

/// Notes the framings that no source uses.
pub(super) fn note_unused(section: &Section<'_, '_>, framings: &Framings<'_>) {
    let mut unused: Vec<&str> = framings.by_name.iter().filter(|(_, (_, used))| !used).map(|(name, _)| *name).collect();
    unused.sort_unstable();
    for name in unused {
        section.note(name, "no source uses this framing", format!("framing = \"{name}\" in a [[source]]"));
    }
}

/// Notes what a framing needs and a serial line cannot carry.
pub(super) fn check_line(section: &Section<'_, '_>, framing: &Framing, line: Line, flow: Flow) {
    let ends: &[Vec<u8>] = if let FramingKind::Delimiter { ends } = &framing.kind { ends } else { &[] };
    let starts = framing.starts.iter().map(|start| ("start", start));
    let parts = starts.chain(ends.iter().map(|end| ("end", end)));
    let largest = ((1u16 << line.data_bits) - 1) as u8;
    for (part, bytes) in parts {
        if let Some(byte) = bytes.iter().find(|byte| **byte > largest) {
            let what = format!("0x{byte:02X} of the framing's {part} cannot come over {} data bits", line.data_bits);
            section.refuse("line", Refusal::new(what, format!("8 data bits, or a framing whose {part} fits")));
        }
        if flow == Flow::XonXoff && bytes.iter().any(|byte| matches!(byte, 0x11 | 0x13)) {
            let what =
                format!("the framing's {part} contains XON (0x11) or XOFF (0x13), which this flow control takes away");
            let remedy = format!("\"none\" or \"rtscts\", or a framing with another {part}");
            section.refuse("flow", Refusal::new(what, remedy));
        }
    }
    // The exclusive or of bytes with their high bits clear has them clear, too.
    if line.data_bits < 8 && framing.checksum.as_ref().is_some_and(|checksum| checksum.kind != ChecksumKind::Xor8) {
        let what = format!("the framing's checksum cannot come over {} data bits", line.data_bits);
        section.refuse("line", Refusal::new(what, "8 data bits, or a framing with checksum = \"xor8\" or \"none\""));
    }
    let binary = match framing.kind {
        FramingKind::Length(_) => Some("length"),
        _ if framing.checksum.is_some() => Some("checksum"),
        _ => None,
    };
    if let Some(binary) = binary.filter(|_| flow == Flow::XonXoff) {
        let what =
            format!("the framing's {binary} may be XON (0x11) or XOFF (0x13), which this flow control takes away");
        section.refuse("flow", Refusal::new(what, "\"none\" or \"rtscts\""));
    }
}

/// A framing in words, such as `end "\r", trimmed, cut beyond 4KiB`.
pub fn show_framing(framing: &Framing) -> String {
    let Framing { kind, starts, checksum, idle, trim, max_bytes, oversized, .. } = framing;
    let mut text = String::new();
    let mut part = |part: std::fmt::Arguments<'_>| {
        let gap = if text.is_empty() { "" } else { ", " };
        write!(text, "{gap}{part}").expect("a string takes any text");
    };
    for start in starts {
        part(format_args!("start {}", show_bytes(start)));
    }
    match kind {
        FramingKind::Delimiter { ends } => {
            for end in ends {
                part(format_args!("end {}", show_bytes(end)));
            }
        }
        FramingKind::Fixed { bytes } => part(format_args!("{bytes} bytes each")),
        FramingKind::IdleGap => {}
        FramingKind::Length(field) => {
            let counts = COUNTS.iter().find(|(_, it)| *it == field.counts).map_or("", |(word, _)| *word);
            let endian = if field.form == NumberForm::Little { "little" } else { "big" };
            let header = if field.keep_header { ", header kept" } else { "" };
            let LengthField { offset, bytes, .. } = field;
            part(format_args!("{bytes}-byte length of the {counts} at {offset}, {endian} endian{header}"));
        }
    }
    let kind_of_sum = checksum.as_ref().map(|checksum| checksum.kind);
    if let Some((word, _)) = CHECKSUMS.iter().find(|(_, it)| *it == kind_of_sum && it.is_some()) {
        part(format_args!("checksum {word}"));
    }
    match idle {
        Some(idle) if *kind == FramingKind::IdleGap => part(format_args!("end {} of silence", show_duration(idle.gap))),
        Some(Idle { gap, policy: OnIdle::Discard }) => {
            part(format_args!("discarded after {} of silence", show_duration(*gap)));
        }
        Some(Idle { gap, policy: OnIdle::Emit }) => {
            part(format_args!("delivered after {} of silence", show_duration(*gap)));
        }
        None => {}
    }
    if *trim {
        part(format_args!("trimmed"));
    }
    if !matches!(kind, FramingKind::Fixed { .. }) {
        let oversized = match oversized {
            Oversized::Cut => "cut",
            Oversized::Drop => "dropped",
        };
        part(format_args!("{oversized} beyond {}", show_size(*max_bytes as u64)));
    }
    text
}
