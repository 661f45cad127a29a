//! `length = { … }`: a number in front of a record says how long it is.

use super::super::problem::Refusal;
use super::super::walk::Section;
use crate::framing::{LengthCounts, LengthField, NumberForm};
use std::ops::RangeInclusive;

/// Largest offset of a length.
const OFFSET_MAX: usize = 64;
/// What may be added to a length: a record is not longer.
const ADD: RangeInclusive<i64> = -65_536..=65_536;
/// Largest trailer.
const TRAILER_BYTES_MAX: usize = 16;

/// What a length counts, by its word.
pub(super) const COUNTS: [(&str, LengthCounts); 3] =
    [("payload", LengthCounts::Payload), ("rest", LengthCounts::Rest), ("message", LengthCounts::Message)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Decimal,
    Hex,
}

pub(super) fn length(section: Section<'_, '_>, start_bytes: usize) -> LengthField {
    let offset = section.integer("offset", start_bytes, 0..=OFFSET_MAX);
    if offset < start_bytes {
        let what = format!("the length would lie in the start, which has {start_bytes} bytes");
        section
            .refuse("offset", Refusal::new(what, format!("{start_bytes} or more, from the first byte of the start")));
    }
    let forms = [("binary", Form::Binary), ("decimal", Form::Decimal), ("hex", Form::Hex)];
    let form = section.choice("form", &forms, Form::Binary);
    let bytes_max = if form == Form::Binary { 4 } else { 8 };
    let bytes = section.integer("bytes", 2, 1..=bytes_max);
    let form = match form {
        Form::Binary => {
            let orders = [("big", NumberForm::Big), ("little", NumberForm::Little)];
            section.choice("endian", &orders, NumberForm::Big)
        }
        written => {
            section.misplaced(
                "endian",
                "a length that is written in characters begins with its first digit",
                "leave it out",
            );
            if written == Form::Hex { NumberForm::Hex } else { NumberForm::Decimal }
        }
    };
    let mask = match section.get("mask") {
        None => u32::MAX,
        Some(entry) => {
            let remedy = "the bits that count, as a number such as 0x3FFF, without quotes";
            entry.integer(1..=i64::from(u32::MAX), remedy).map_or(u32::MAX, |mask| mask as u32)
        }
    };
    let add = section.signed("add", 0, ADD) as i32;
    let counts = section.choice("counts", &COUNTS, LengthCounts::Payload);
    let trailer_bytes = section.integer("trailer", 0, 0..=TRAILER_BYTES_MAX);
    let keep_header = section.choice("header", &[("drop", false), ("keep", true)], false);
    section.finish();
    LengthField { offset: offset.max(start_bytes), bytes, form, mask, add, counts, trailer_bytes, keep_header }
}
