//! `checksum = …`: what verifies a record.

use super::super::nearest::nearest;
use super::super::problem::Refusal;
use super::super::units;
use super::super::walk::{Entry, Section};
use super::ends::Ends;
use super::{END_BYTES_MAX, Ending};
use crate::framing::{Checksum, ChecksumForm, ChecksumKind, Covers, CrcName, Escape, Place};

/// Most bytes that are passed over.
const SKIP_BYTES_MAX: i64 = 16;

/// The kinds by their names. The first of several names is the one that is shown.
const KINDS: [(&str, ChecksumKind); 15] = [
    ("sum8", ChecksumKind::Sum8),
    ("neg-sum8", ChecksumKind::NegSum8),
    ("xor8", ChecksumKind::Xor8),
    ("fletcher16", ChecksumKind::Fletcher16),
    ("fletcher-ubx", ChecksumKind::FletcherUbx),
    ("crc16-modbus", ChecksumKind::Crc(CrcName::Crc16Modbus)),
    ("crc32", ChecksumKind::Crc(CrcName::Crc32IsoHdlc)),
    ("CRC-8/SMBUS", ChecksumKind::Crc(CrcName::Crc8Smbus)),
    ("CRC-8/MAXIM-DOW", ChecksumKind::Crc(CrcName::Crc8MaximDow)),
    ("CRC-16/MODBUS", ChecksumKind::Crc(CrcName::Crc16Modbus)),
    ("CRC-16/IBM-3740", ChecksumKind::Crc(CrcName::Crc16Ibm3740)),
    ("CRC-16/XMODEM", ChecksumKind::Crc(CrcName::Crc16Xmodem)),
    ("CRC-16/IBM-SDLC", ChecksumKind::Crc(CrcName::Crc16IbmSdlc)),
    ("CRC-16/KERMIT", ChecksumKind::Crc(CrcName::Crc16Kermit)),
    ("CRC-32/ISO-HDLC", ChecksumKind::Crc(CrcName::Crc32IsoHdlc)),
];
const NONE: &str = "none";

/// The name of a kind; `None` for bytes that are passed over.
pub(super) fn name(kind: ChecksumKind) -> Option<&'static str> {
    KINDS.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name)
}

fn parse_kind(text: &str, others: &[&'static str]) -> Result<ChecksumKind, Refusal> {
    if let Some((_, kind)) = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Ok(*kind);
    }
    let names = || others.iter().copied().chain(KINDS.iter().map(|(name, _)| *name));
    let quoted: Vec<String> = names().map(|name| format!("{name:?}")).collect();
    let near = match text.to_ascii_lowercase().as_str() {
        "bcc" | "xor" => Some("xor8"),
        "lrc" => Some("neg-sum8"),
        "sum" => Some("sum8"),
        "ubx" => Some("fletcher-ubx"),
        "crc-ccitt-false" | "ccitt-false" => Some("CRC-16/IBM-3740"),
        "x25" | "x-25" => Some("CRC-16/IBM-SDLC"),
        _ => nearest(text, names()),
    };
    Err(Refusal::new("this word is not known here", format!("one of {}", quoted.join(", "))).with_nearest(near))
}

/// The checksum of a framing: a name, or a table.
pub(super) fn checksum(section: &Section<'_, '_>, ending: Ending, ends: &Ends) -> Option<Checksum> {
    let entry = section.get("checksum")?;
    // What is escaped to the end has nothing behind it.
    let is_slip = ends.escape == Some(Escape::Slip);
    let default_place = if is_slip { Place::Before } else { Place::Behind };
    if entry.item.is_table_like() {
        let checksum = from_table(&entry, ending, ends, default_place)?;
        if is_slip && checksum.place == Place::Behind {
            let what = "nothing but the next record stands behind the end of SLIP";
            entry.refuse(Refusal::new(what, "place = \"before\""));
        }
        return Some(checksum);
    }
    let text = entry.item.as_str().or_else(|| {
        entry.wrong_type("a string or a table", "a name such as \"xor8\", or { kind = \"xor8\", … }");
        None
    })?;
    if text == NONE {
        return None;
    }
    match parse_kind(text, &[NONE]) {
        Ok(kind) => Some(Checksum { place: default_place, ..Checksum::short(kind) }),
        Err(refusal) => {
            entry.refuse(refusal);
            None
        }
    }
}

fn from_table(entry: &Entry<'_, '_>, ending: Ending, ends: &Ends, default_place: Place) -> Option<Checksum> {
    let section = entry.section("{ kind = \"xor8\", … }")?;
    let has = |key| entry.item.as_table_like().is_some_and(|table| table.contains_key(key));
    let kind = if has("bytes") && !has("kind") { skip(&section) } else { kind(&section) };
    let mut checksum = Checksum::short(kind.unwrap_or(ChecksumKind::Xor8));
    if has("bytes") && !has("kind") {
        for key in ["form", "endian", "digits", "covers"] {
            section.misplaced(
                key,
                "bytes are passed over here, and nothing is verified",
                "leave it out, or a kind instead of bytes",
            );
        }
    } else {
        checksum.form = form(&section);
        checksum.digits = section.boolean("digits", false);
        checksum.covers = covers(&section, ending, ends, checksum.digits);
    }
    let places = [("behind", Place::Behind), ("before", Place::Before)];
    checksum.place = section.choice("place", &places, default_place);
    if checksum.place == Place::Before && ending != Ending::End {
        let what = "there is no end that it could stand before";
        section.refuse("place", Refusal::new(what, "\"behind\", which is behind the last byte here"));
    }
    let separator =
        section.parsed("separator", "a string, such as \"*\"", |text| units::parse_bytes(text, END_BYTES_MAX));
    checksum.separator = separator.unwrap_or_default();
    checksum.optional = section.boolean("optional", false);
    if checksum.optional && checksum.place == Place::Behind {
        let what =
            "whether a checksum follows an end is known only when the next record comes, so each would wait for it";
        section.refuse("optional", Refusal::new(what, "place = \"before\", or optional = false"));
    }
    if checksum.optional && section.get("separator").is_none() {
        let what = "without a separator nobody can tell whether it is there";
        section.refuse("optional", Refusal::new(what, "separator = \"*\", or whatever the device puts before it"));
    }
    section.finish();
    kind.map(|_| checksum)
}

/// What is computed.
fn kind(section: &Section<'_, '_>) -> Option<ChecksumKind> {
    let what = "a kind says already how many bytes it has";
    section.misplaced("bytes", what, "leave it out, or bytes without a kind to pass over them");
    let Some(entry) = section.get("kind") else {
        section.missing("kind", "kind = \"xor8\" or another one; or bytes = N to pass over N bytes");
        return None;
    };
    match parse_kind(entry.string("a name such as \"xor8\"")?, &[]) {
        Ok(kind) => Some(kind),
        Err(refusal) => {
            entry.refuse(refusal);
            None
        }
    }
}

/// How much is passed over.
fn skip(section: &Section<'_, '_>) -> Option<ChecksumKind> {
    let remedy = format!("a whole number, 1 to {SKIP_BYTES_MAX}: so many bytes are passed over");
    let bytes = section.get("bytes")?.integer(1..=SKIP_BYTES_MAX, &remedy)?;
    Some(ChecksumKind::Skip { bytes: bytes as usize })
}

fn form(section: &Section<'_, '_>) -> ChecksumForm {
    if section.choice("form", &[("binary", false), ("hex", true)], false) {
        let what = "hexadecimal characters have the most significant one first";
        section.misplaced("endian", what, "leave it out");
        return ChecksumForm::Hex;
    }
    ChecksumForm::Binary { big: section.choice("endian", &[("little", false), ("big", true)], false) }
}

/// What is covered beside the payload: by default the header, where there is one.
fn covers(section: &Section<'_, '_>, ending: Ending, ends: &Ends, digits: bool) -> Covers {
    const REMEDY: &str = "a list of \"start\", \"header\" and \"end\", each or not";
    let Some(entry) = section.get("covers") else { return Covers { start: false, header: true, end: false } };
    let mut covers = Covers { start: false, header: false, end: false };
    for (word, span) in entry.strings(REMEDY) {
        let (part, is_there) = match word {
            "start" => (&mut covers.start, !ends.starts.is_empty()),
            "header" => (&mut covers.header, ending == Ending::Length),
            "end" => (&mut covers.end, ending == Ending::End),
            _ => {
                let near = nearest(word, ["start", "header", "end"]);
                entry.refuse_element(&span, Refusal::new("this word is not known here", REMEDY).with_nearest(near));
                continue;
            }
        };
        *part = true;
        if !is_there {
            let what = format!("this framing has no {word}");
            entry.refuse_element(&span, Refusal::new(what, "leave it out of the list"));
        } else if digits && word != "header" {
            let what = format!("with digits = true the {word} would have to be hexadecimal characters, too");
            entry.refuse_element(&span, Refusal::new(what, "leave it out of the list"));
        }
    }
    covers
}
