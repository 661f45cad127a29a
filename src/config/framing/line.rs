//! What a framing needs and a serial line cannot carry.

use super::super::problem::Refusal;
use super::super::settings::{Flow, Line};
use super::super::walk::Section;
use super::fits_seven_bits;
use crate::framing::{ChecksumForm, ChecksumKind, Framing, FramingKind, NumberForm};

/// Notes what a framing needs and a serial line cannot carry.
pub(in super::super) fn check_line(section: &Section<'_, '_>, framing: &Framing, line: Line, flow: Flow) {
    let ends: &[Vec<u8>] = if let FramingKind::Delimiter { ends } = &framing.kind { ends } else { &[] };
    let checksum = framing.checksum.as_ref();
    let separator = checksum.map(|checksum| &checksum.separator).filter(|separator| !separator.is_empty());
    let starts = framing.starts.iter().map(|start| ("start", start));
    let parts = starts.chain(ends.iter().map(|end| ("end", end))).chain(separator.map(|bytes| ("separator", bytes)));
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
    if line.data_bits < 8 {
        check_data_bits(section, framing, line.data_bits);
    }
    let is_binary = |form| matches!(form, NumberForm::Big | NumberForm::Little);
    let binary = match framing.kind {
        FramingKind::Length(field) if is_binary(field.form) => Some("length"),
        _ if checksum.is_some_and(|it| it.form != ChecksumForm::Hex) => Some("checksum"),
        _ => None,
    };
    if let Some(binary) = binary.filter(|_| flow == Flow::XonXoff) {
        let what =
            format!("the framing's {binary} may be XON (0x11) or XOFF (0x13), which this flow control takes away");
        section.refuse("flow", Refusal::new(what, "\"none\" or \"rtscts\""));
    }
}

/// Fewer than eight data bits carry text, and no bytes of any value.
fn check_data_bits(section: &Section<'_, '_>, framing: &Framing, data_bits: u8) {
    if let Some(checksum) = framing.checksum.as_ref().filter(|checksum| !fits_seven_bits(checksum)) {
        let what = format!("the framing's checksum cannot come over {data_bits} data bits");
        let remedy = match checksum.kind {
            ChecksumKind::Crc(_) => "8 data bits, or a framing whose checksum has form = \"hex\"",
            _ => "8 data bits, or a framing with checksum = \"xor8\" or \"none\", or with form = \"hex\"",
        };
        section.refuse("line", Refusal::new(what, remedy));
    }
    if framing.strip_bit7 {
        section.note(
            "line",
            "strip_bit7 of the framing changes nothing here: fewer than 8 data bits have no bit 7",
            "",
        );
    }
}
