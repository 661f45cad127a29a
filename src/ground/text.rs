//! Bytes, numbers and moments as text: one place for each form. Appending to a buffer of the caller
//! allocates nothing else.

use super::calendar::civil;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// A path as it can be typed in a shell.
pub fn typed(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Appends bytes as lower-case hexadecimal.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// Each byte in two digits.
pub static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = Vec::new();
    write_hex(bytes, &mut digits);
    String::from_utf8(digits).expect("digits are ASCII")
}

/// Appends bytes as base64 with padding (RFC 4648 section 4).
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let length = base64::encoded_len(bytes.len(), true).expect("a record's length has room for a third more");
    out.resize(begin + length, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[begin..]).expect("the room is what it asked for");
    assert_eq!(written, length);
}

/// Appends a number in decimal.
pub fn write_decimal(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A number and what is counted, such as "1 record" and "2 records".
pub fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Columns of a terminal that everybody has.
pub const COLUMNS: usize = 80;

/// Appends text in lines of at most 80 columns: behind `head`, which has so many columns, and then
/// behind so many blanks. A longer word, a number and its unit, and the command that helps stay
/// whole.
pub fn fold(out: &mut String, (head, head_columns): (&str, usize), indent: usize, text: &str) {
    let (words, command) = match text.rsplit_once(": ringest ") {
        Some((words, command)) => (format!("{words}:"), Some(format!("ringest {command}"))),
        None => (text.to_owned(), None),
    };
    out.push_str(head);
    let (mut columns, mut is_begun) = (head_columns, false);
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b','));
    let mut pieces: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match pieces.last_mut().filter(|before| is_number(before)) {
            Some(number) => *number = format!("{number} {word}"),
            None => pieces.push(word.to_owned()),
        }
    }
    for piece in pieces.into_iter().chain(command) {
        let more = piece.chars().count() + usize::from(is_begun);
        if is_begun && columns + more > COLUMNS {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            columns = indent + more - 1;
        } else {
            out.push_str(if is_begun { " " } else { "" });
            columns += more;
        }
        out.push_str(&piece);
        is_begun = true;
    }
    out.push('\n');
}

/// As [`fold`], of a sum: no line ends behind a sign, or between a term and its number.
pub fn fold_sum(out: &mut String, head: (&str, usize), indent: usize, text: &str) {
    let begun = out.len();
    let is_begin = |word: &str| matches!(word, "+" | "=") || word.starts_with('(');
    let mut words = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        words.push_str(if words.is_empty() {
            ""
        } else if is_begin(word) {
            " "
        } else {
            "\u{a0}"
        });
        words.push_str(word);
    }
    fold(out, head, indent, &words);
    let folded = out.split_off(begun).replace('\u{a0}', " ");
    out.push_str(&folded);
}

/// `12,345,678`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2026-01-02T03:04:05.123456Z` (RFC 3339) of nanoseconds since 1970, cut to microseconds. A `u64`
/// ends in the year 2554, so the year always has four digits.
pub fn rfc3339_micros(wall_ns: u64) -> [u8; 27] {
    let (days, ns_of_day) = (wall_ns / 86_400_000_000_000, wall_ns % 86_400_000_000_000);
    let (year, month, day) = civil(days);
    let seconds = ns_of_day / 1_000_000_000;
    let mut out = *b"0000-00-00T00:00:00.000000Z";
    for (at, digits, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 6, ns_of_day / 1_000 % 1_000_000),
    ] {
        let mut value = value;
        for place in out[at..at + digits].iter_mut().rev() {
            *place = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    out
}

/// As [`rfc3339_micros`], to be shown.
pub fn rfc3339(wall_ns: u64) -> String {
    String::from_utf8(rfc3339_micros(wall_ns).to_vec()).expect("a date is ASCII")
}

/// The one of `known` that is near enough to `given` to be what a slip of the pen has made of it.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&given, &word.to_lowercase()), word))
        .filter(|(similarity, _)| *similarity >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// A length of time for people, in seconds, minutes, hours or days.
pub fn about_seconds(seconds: f64) -> String {
    match seconds as u64 {
        0 if seconds > 0.0 => "less than a second".to_owned(),
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn forms_are_appended_to_what_is_there() {
        let mut out = b"a ".to_vec();
        write_hex(&[0, 0xff, 0x1a], &mut out);
        out.push(b' ');
        write_base64(b"fooba", &mut out);
        out.push(b' ');
        write_base64(b"", &mut out);
        write_decimal(u64::MAX, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "a 00ff1a Zm9vYmE= 18446744073709551615");
        assert_eq!(hex(&[0, 0xff, 0x1a]), "00ff1a");
    }

    #[test]
    fn a_slip_finds_its_word_and_a_foreign_word_finds_none() {
        let known = ["commit_every", "segment_size", "max_size", "window"];
        assert_eq!(nearest("comit_every", known), Some("commit_every"));
        assert_eq!(nearest("Windows", known), Some("window"));
        assert_eq!(nearest("jkl", known), None);
    }

    proptest! {
        #[test]
        fn moments_are_shown_as_another_implementation_shows_them(ns in any::<u64>()) {
            let micros = i64::try_from(ns / 1_000).unwrap();
            let expected = jiff::Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(rfc3339(ns), expected.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
        }
    }

    #[test]
    fn lines_are_folded_at_80_columns_and_the_command_that_helps_stays_whole() {
        let mut out = String::new();
        let words = "missing records: 12 records are missing in the journal of core 0 (numbers 1048577 to 1048600), \
                     found 2026-11-28T19:00:00Z: ringest queue acknowledge CONFIG";
        fold(&mut out, ("  ", 2), 4, words);
        let expected = "  missing records: 12 records are missing in the journal of core 0 (numbers\n    \
                        1048577 to 1048600), found 2026-11-28T19:00:00Z:\n    ringest queue acknowledge CONFIG\n";
        assert_eq!(out, expected);
        out.clear();
        fold(&mut out, ("  ", 2), 4, "source oven: no such port");
        assert_eq!(out, "  source oven: no such port\n");
        out.clear();
        fold(&mut out, ("  ", 2), 4, &format!("source oven: {}", "x".repeat(100)));
        assert_eq!(out, format!("  source oven:\n    {}\n", "x".repeat(100)));
        out.clear();
        fold(&mut out, ("", 0), 2, &format!("{} 67.1 GiB free", "x".repeat(74)));
        assert_eq!(out, format!("{}\n  67.1 GiB free\n", "x".repeat(74)));
        out.clear();
        fold_sum(
            &mut out,
            ("", 0),
            2,
            &format!("received {} = delivered {} + pending 7", "1".repeat(40), "2".repeat(18)),
        );
        assert_eq!(out, format!("received {} = delivered {}\n  + pending 7\n", "1".repeat(40), "2".repeat(18)));
    }
}
