//! `[framing.NAME]`: how bytes are cut into records.

mod checksum;
mod ends;
mod length;
mod line;
mod presets;
mod shown;

pub(super) use line::check_line;
pub use presets::{PRESETS, preset};
pub use shown::show_framing;

use super::gateway::{RECORD_BYTES_MAX, check_name};
use super::nearest::nearest;
use super::problem::Refusal;
use super::units;
use super::walk::Section;
use crate::framing::{
    Checksum, ChecksumForm, ChecksumKind, Framing, FramingKind, Idle, LengthField, Matching, OnIdle, Oversized, Place,
};
use ends::Ends;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml_edit::TableLike;

/// Longest start, longest end.
const END_BYTES_MAX: usize = 16;
/// Below it the scheduling of any machine would end records; above it nobody waits.
const IDLE_GAP: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3_600);

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

    /// What the keys of a framing say about the end of its records.
    fn of(table: &dyn TableLike) -> Self {
        let given = [Self::Length, Self::Fixed, Self::End].into_iter().find(|ending| table.contains_key(ending.key()));
        let is_gap = table.contains_key(Self::Gap.key()) && !table.contains_key("escape");
        given.unwrap_or(if is_gap { Self::Gap } else { Self::End })
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
        let Some(table) = entry.item.as_table_like() else {
            entry.refuse(Refusal::new(
                "a framing has a name, and its keys stand below it",
                format!("[framing.NAME] and below it {name} = …; a source then has framing = \"NAME\""),
            ));
            continue;
        };
        if let Err(refusal) = check_name(name) {
            entry.refuse_key(refusal);
        }
        if let Some(mut inner) = entry.section("a section") {
            let path = format!("framing.{name}");
            inner.rename(path.clone(), path.clone());
            let ending = begin(&mut inner, table);
            inner.rename(path, format!("framing[{}]", ending.key()));
            if ending == Ending::End {
                inner.get("preset");
            }
            by_name.insert(name, (framing(inner, ending), false));
        }
    }
    Framings { by_name }
}

/// What ends the records of a section, which may begin with a preset.
fn begin<'d>(section: &mut Section<'_, 'd>, own: &'d dyn TableLike) -> Ending {
    let Some(entry) = own.contains_key("preset").then(|| section.get("preset")).flatten() else {
        return Ending::of(own);
    };
    let Some(name) = entry.string("the name of a preset, such as \"nmea\"") else { return Ending::of(own) };
    match presets::table(name) {
        Some(table) => presets::begin(section, &entry, table, own),
        None => {
            let names: Vec<&str> = presets::names().collect();
            let remedy = format!("one of {}; `ringest config presets` prints what each is", names.join(", "));
            entry.refuse(Refusal::new("there is no preset of this name", remedy).with_nearest(nearest(name, names)));
            Ending::of(own)
        }
    }
}

fn framing(section: Section<'_, '_>, ending: Ending) -> Framing {
    for other in [Ending::End, Ending::Fixed].into_iter().filter(|other| *other != ending) {
        let what = format!("{} says already where a record ends", ending.key());
        section.misplaced(other.key(), &what, "one of end, length and fixed; an idle gap may be added to each");
    }
    let ends = ends::ends(&section, ending);
    let checksum = checksum::checksum(&section, ending, &ends);
    check_seven_bits(&section, &ends, checksum.as_ref());
    let restart = ends::restart(&section, ending, &ends, checksum.as_ref().is_some_and(is_binary_before));
    let start_bytes = ends.starts.iter().map(Vec::len).max().unwrap_or(0);
    let kind = match ending {
        Ending::End => FramingKind::Delimiter { ends: ends.ends.clone() },
        Ending::Length => FramingKind::Length(length::length(section.section("length"), start_bytes)),
        Ending::Fixed => FramingKind::Fixed { bytes: section.integer("fixed", 1, 1..=RECORD_BYTES_MAX as usize) },
        Ending::Gap => FramingKind::IdleGap,
    };
    let trim = trim(&section, &kind, &ends);
    let matching = matching(&section);
    let (max_bytes, oversized) = max(&section, &kind);
    if oversized == Oversized::Cut && checksum.is_some() {
        let what = "a longer record is damage where there is a checksum, and is rejected: nothing verifies what is cut";
        section.note("oversized", what, "\"drop\", or checksum = \"none\"");
    }
    let idle = idle(&section, ending, checksum.is_some());
    if ending == Ending::Fixed
        && start_bytes == 0
        && idle.is_none()
        && checksum.as_ref().is_none_or(|it| it.bits() == 0)
    {
        let what = "one byte that the line loses or adds shifts every record behind it, for ever";
        section.note("fixed", what, "a start, an idle_gap or a checksum, so that the next record is found again");
    }
    section.finish_with(|key| {
        // Which keys a framing has depends on how it ends: the other ways to end are known, too.
        let near = nearest(key, ["length", "fixed", "idle_gap"])?;
        (ending == Ending::End).then(|| format!("this key is not known here; did you mean {near:?}?"))
    });
    let Ends { starts, keep, escape, ignore, strip_bit7, .. } = ends;
    Framing {
        unit_bytes: 1, // until the encoding of a source is known
        kind,
        starts,
        keep,
        restart,
        escape,
        checksum,
        ignore,
        strip_bit7,
        idle,
        trim,
        max_bytes,
        oversized,
        matching,
    }
}

/// Whether bytes of any value stand between start and end, though the data be text.
fn is_binary_before(checksum: &Checksum) -> bool {
    checksum.place == Place::Before && checksum.form != ChecksumForm::Hex
}

/// The exclusive or of bytes with bit 7 clear has it clear, too; other sums need all eight bits.
fn fits_seven_bits(checksum: &Checksum) -> bool {
    let passes = matches!(checksum.kind, ChecksumKind::Xor8 | ChecksumKind::Skip { .. });
    passes || checksum.form == ChecksumForm::Hex
}

fn check_seven_bits(section: &Section<'_, '_>, ends: &Ends, checksum: Option<&Checksum>) {
    if ends.strip_bit7 && checksum.is_some_and(|checksum| !fits_seven_bits(checksum)) {
        let what = "strip_bit7 would clear a bit of this checksum";
        section.refuse("checksum", Refusal::new(what, "kind = \"xor8\", form = \"hex\", or strip_bit7 = false"));
    }
}

/// White space around a binary end, in a field of a known length, or in front of a silence may well be data.
fn trim(section: &Section<'_, '_>, kind: &FramingKind, ends: &Ends) -> bool {
    let is_text = |bytes: &Vec<u8>| bytes.iter().all(|byte| units::is_text(*byte));
    let ends_as_text = matches!(kind, FramingKind::Delimiter { ends } if ends.iter().all(is_text));
    let trim = section.boolean("trim", ends_as_text && !ends.keep.end);
    if let FramingKind::Length(LengthField { keep_header: true, .. }) = kind
        && trim
    {
        section
            .refuse("trim", Refusal::new("a header that is kept is no text", "false, or header = \"drop\" in length"));
    }
    if ends.keep.end && trim {
        let what = "an end that is kept would be stripped where it is white space";
        section.refuse("trim", Refusal::new(what, "false, or keep without \"end\""));
    }
    trim
}

fn matching(section: &Section<'_, '_>) -> Option<Matching> {
    let remedy = "a regular expression in single quotes, such as '^[+-][0-9]{7}$'";
    section.parsed("match", remedy, |text| {
        Matching::new(text).map_err(|error| {
            // The last line of what the crate says tells what is wrong, those before it draw where.
            let error = error.to_string();
            let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Refusal::new(format!("this is no regular expression: {what}"), remedy)
        })
    })
}

fn max(section: &Section<'_, '_>, kind: &FramingKind) -> (usize, Oversized) {
    let defaults = Framing::default();
    if let FramingKind::Fixed { bytes } = *kind {
        for key in ["max", "oversized"] {
            section.misplaced(key, "every record has the same length here", "leave it out: fixed says it all");
        }
        return (bytes, defaults.oversized);
    }
    let words = [("cut", Oversized::Cut), ("drop", Oversized::Drop)];
    let max_bytes = section.size("max", defaults.max_bytes as u64, 1..=RECORD_BYTES_MAX) as usize;
    (max_bytes, section.choice("oversized", &words, defaults.oversized))
}

fn idle(section: &Section<'_, '_>, ending: Ending, has_checksum: bool) -> Option<Idle> {
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
    if policy == OnIdle::Emit && has_checksum {
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
    section.parsed("framing", "the name of a [framing.NAME] section or of a preset", |name| {
        if let Some((framing, used)) = framings.by_name.get_mut(name) {
            *used = true;
            return Ok(framing.clone());
        }
        if let Some(framing) = preset(name) {
            return Ok(framing);
        }
        let mut names: Vec<&str> = framings.by_name.keys().copied().collect();
        names.sort_unstable();
        let known =
            if names.is_empty() { "this file has none".to_owned() } else { format!("known: {}", names.join(", ")) };
        let presets: Vec<&str> = presets::names().collect();
        let what = format!("there is no section [framing.{}], and no preset of this name", name.escape_debug());
        let remedy = format!("the name of a [framing.NAME] section; {known}; or a preset: {}", presets.join(", "));
        Err(Refusal::new(what, remedy).with_nearest(nearest(name, names.iter().copied().chain(presets))))
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
