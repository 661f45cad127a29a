//! Framings that have a name already, as sections of a document.

use super::super::walk::{Entry, Reader, Section};
use super::{Ending, framing};
use crate::framing::Framing;
use std::sync::LazyLock;
use toml_edit::{Document, TableLike};

/// Each preset as the section that it stands for, with what it is for.
pub const PRESETS: &str = include_str!("presets.toml");

static DOCUMENT: LazyLock<Document<&'static str>> =
    LazyLock::new(|| Document::parse(PRESETS).expect("the presets are TOML: a test holds it"));

fn tables() -> &'static dyn TableLike {
    let framings = DOCUMENT.get("framing").and_then(|item| item.as_table_like());
    framings.expect("the presets are sections of framing: a test holds it")
}

/// The names, in the order of the document.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    tables().iter().map(|(name, _)| name)
}

/// The keys of a preset.
pub(super) fn table(name: &str) -> Option<&'static dyn TableLike> {
    tables().get(name).and_then(|item| item.as_table_like())
}

/// The framing that a preset stands for, if there is one of this name.
pub fn preset(name: &str) -> Option<Framing> {
    let table = table(name)?;
    let reader = Reader::new(PRESETS);
    let path = format!("framing.{name}");
    let section = Section::new(&reader, path.clone(), path, Some(table), None);
    let framing = framing(section, Ending::of(table));
    let (problems, _) = reader.finish();
    assert!(problems.is_empty(), "a preset is valid: {problems:?}");
    Some(framing)
}

/// What a section that begins with a preset takes from it: all that does not say otherwise where a record ends.
pub(super) fn begin<'r, 'd>(
    section: &mut Section<'r, 'd>,
    preset: &Entry<'r, 'd>,
    table: &'static dyn TableLike,
    own: &dyn TableLike,
) -> Ending {
    let ends = [Ending::End, Ending::Length, Ending::Fixed];
    let given = ends.into_iter().find(|ending| own.contains_key(ending.key()));
    let hidden = match given {
        None => Vec::new(),
        Some(given) => ends.into_iter().filter(|other| *other != given).map(Ending::key).collect(),
    };
    section.set_base(table, preset, hidden);
    given.unwrap_or_else(|| Ending::of(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_is_valid_and_is_what_its_section_says() {
        let framings =
            crate::config::parse_framings(PRESETS, "presets").unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(names().count(), framings.len());
        for name in [
            "lines",
            "cr",
            "crlf",
            "stx-etx",
            "stx-etx-bcc",
            "nmea",
            "modbus-rtu",
            "modbus-ascii",
            "slip",
            "dle",
            "ubx",
        ] {
            assert_eq!(preset(name).as_ref(), framings.get(name), "{name}");
            let named = format!("[framing.own]\npreset = {name:?}\n");
            let own = crate::config::parse_framings(&named, "own").unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(own.get("own"), framings.get(name), "{name}");
        }
        assert_eq!(preset("cr"), Some(Framing::default()));
        assert_eq!(preset("line"), None);
    }
}
