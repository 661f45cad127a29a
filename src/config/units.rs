//! Values with units: durations, sizes, byte strings, the character format of a serial line; both ways.

use super::problem::Refusal;
use super::settings::{Line, Parity};
use crate::ground::text::hex;
use std::time::Duration;

const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number and one of `us ms s m h d`, such as `5ms`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    quantity(text, &DURATIONS, "duration", "us, ms, s, m, h or d").map(Duration::from_nanos)
}

/// A whole number and one of `B KiB MiB GiB TiB`, such as `16MiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    quantity(text, &SIZES, "size", "B, KiB, MiB, GiB or TiB")
}

fn quantity(text: &str, units: &[(&str, u64)], noun: &str, names: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("a {noun} begins with a whole number"));
    }
    if unit.is_empty() {
        return Err(format!("a {noun} needs a unit: {names}"));
    }
    if unit.starts_with(['.', ',']) {
        return Err(format!("a {noun} is a whole number: use a smaller unit ({names})"));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        // Decimal prefixes and case are the usual slips; a guess would be off by a factor.
        let near = match unit.trim() {
            "K" | "k" | "KB" | "kB" | "kb" | "kib" => "KiB",
            "M" | "MB" | "mb" | "mib" => "MiB",
            "G" | "GB" | "gb" | "gib" => "GiB",
            "b" => "B",
            "sec" | "S" => "s",
            "min" => "m",
            "µs" => "us",
            trimmed if units.iter().any(|(name, _)| *name == trimmed) => {
                return Err(format!("write the unit next to the number, without a blank: {number}{trimmed}"));
            }
            _ => return Err(format!("{unit:?} is no unit of a {noun}: {names}")),
        };
        if !units.iter().any(|(name, _)| *name == near) {
            return Err(format!("{unit:?} is no unit of a {noun}: {names}"));
        }
        return Err(format!("{unit:?} is no unit of a {noun}, did you mean {number}{near}?"));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| format!("this {noun} is too large"))
}

/// A duration as a configuration has it, in the largest unit that shows it whole.
pub fn show_duration(duration: Duration) -> String {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if ns == 0 {
        return "0s".to_owned();
    }
    match DURATIONS.iter().find(|(_, factor)| ns.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", ns / factor),
        None => format!("{}us", ns / 1_000),
    }
}

/// A size as a configuration has it, in the largest unit that shows it whole.
pub fn show_size(bytes: u64) -> String {
    let (unit, factor) =
        SIZES.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Bytes for a message: as text where they are printable or have a short escape, else as `0x…`.
pub fn show_bytes(bytes: &[u8]) -> String {
    if bytes.iter().all(|byte| is_text(*byte)) {
        format!("{:?}", String::from_utf8_lossy(bytes))
    } else {
        format!("0x{}", hex(bytes).to_uppercase())
    }
}

/// Whether a byte is one that text consists of: printable ASCII, TAB, CR, LF.
pub(super) fn is_text(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')
}

/// Bytes as text, or in hexadecimal behind `0x`; never empty, at most `bytes_max`.
pub(super) fn parse_bytes(text: &str, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    let remedy = format!("1 to {bytes_max} bytes: as text, such as \"\\r\", or in hexadecimal, such as \"0x0D0A\"");
    let bytes = match text.strip_prefix("0x") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let digits = digits.as_bytes();
            if let Some(wrong) = digits.iter().find(|digit| !digit.is_ascii_hexdigit()) {
                return Err(Refusal::new(format!("{:?} is no hexadecimal digit", char::from(*wrong)), remedy));
            }
            if digits.len() % 2 == 1 {
                return Err(Refusal::new("a byte has two hexadecimal digits; one is missing", remedy));
            }
            let value = |digit: u8| char::from(digit).to_digit(16).expect("checked above") as u8;
            digits.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
        }
    };
    if bytes.is_empty() {
        return Err(Refusal::new("there are no bytes here", remedy));
    }
    if bytes.len() > bytes_max {
        return Err(Refusal::new(format!("these are {} bytes", bytes.len()), remedy));
    }
    if text.len() > 1
        && text.starts_with('\\')
        && text.chars().skip(1).all(|c| "rnt\\0x123456789abcdefABCDEF".contains(c))
    {
        let remedy = "TOML keeps a backslash in single quotes: write \"\\r\" in double quotes, or \"0x0D\"; \
                      a real backslash is \"0x5C\"";
        return Err(Refusal::new(format!("this is a backslash and {:?}", &text[1..]), remedy));
    }
    Ok(bytes)
}

/// A rate and a character format, such as `9600 8N1`; also as other programs write it: `9600,n,8,1`, `9600-8-N-1`, `9600/8N1`.
pub(super) fn parse_line(text: &str) -> Result<Line, Refusal> {
    const BAUD_MIN: u32 = 50;
    const BAUD_MAX: u32 = 12_000_000;
    let refuse = |what: String| {
        let remedy = format!(
            "a rate of {BAUD_MIN} to {BAUD_MAX} bits per second and a format of data bits (5 to 8), parity (N, E or O) and \
             stop bits (1 or 2), such as \"9600 8N1\" or \"115200 7E1\""
        );
        Err(Refusal::new(what, remedy))
    };
    let is_gap = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | '-' | '/');
    let Some((baud, format)) = text.trim_ascii().split_once(is_gap) else {
        return refuse("a line has two parts, a rate and a format".to_owned());
    };
    let baud = match baud.parse::<u32>() {
        Ok(rate) if (BAUD_MIN..=BAUD_MAX).contains(&rate) && !baud.starts_with('+') => rate,
        _ => return refuse(format!("{baud:?} is no rate")),
    };
    let characters: String = format.split(is_gap).collect();
    let &[first, second, stop] = characters.as_bytes() else {
        return refuse(format!("{format:?} is no format"));
    };
    // With commas the parity comes first.
    let (data, parity) = if first.is_ascii_alphabetic() { (second, first) } else { (first, second) };
    let parity = match parity.to_ascii_uppercase() {
        b'N' => Parity::None,
        b'E' => Parity::Even,
        b'O' => Parity::Odd,
        _ => return refuse(format!("{:?} is no parity", char::from(parity))),
    };
    if !(b'5'..=b'8').contains(&data) {
        return refuse(format!("{:?} is no number of data bits", char::from(data)));
    }
    if !(b'1'..=b'2').contains(&stop) {
        return refuse(format!("{:?} is no number of stop bits", char::from(stop)));
    }
    Ok(Line { baud, data_bits: data - b'0', parity, stop_bits: stop - b'0' })
}

/// A line as a configuration has it.
pub fn show_line(line: Line) -> String {
    let parity = match line.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    format!("{} {}{parity}{}", line.baud, line.data_bits, line.stop_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        assert_eq!(parse_duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for (text, what) in [
            ("5", "a duration needs a unit: us, ms, s, m, h or d"),
            ("ms", "a duration begins with a whole number"),
            ("-5ms", "a duration begins with a whole number"),
            ("1.5s", "a duration is a whole number: use a smaller unit (us, ms, s, m, h or d)"),
            ("5 ms", "write the unit next to the number, without a blank: 5ms"),
            ("5min", "\"min\" is no unit of a duration, did you mean 5m?"),
            ("5MiB", "\"MiB\" is no unit of a duration: us, ms, s, m, h or d"),
            ("99999999999d", "this duration is too large"),
        ] {
            assert_eq!(parse_duration(text), Err(what.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_need_a_binary_unit() {
        assert_eq!(parse_size("16MiB"), Ok(16 << 20));
        assert_eq!(parse_size("8000B"), Ok(8_000));
        assert_eq!(parse_size("16MB"), Err("\"MB\" is no unit of a size, did you mean 16MiB?".to_owned()));
        assert_eq!(parse_size("16s"), Err("\"s\" is no unit of a size: B, KiB, MiB, GiB or TiB".to_owned()));
        assert_eq!(parse_size("16µs"), Err("\"µs\" is no unit of a size: B, KiB, MiB, GiB or TiB".to_owned()));
    }

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(parse_bytes("\r", 16), Ok(vec![13]));
        assert_eq!(parse_bytes("0x0D0a", 16), Ok(vec![13, 10]));
        assert_eq!(parse_bytes("ü", 16), Ok(vec![0xc3, 0xbc]));
        assert_eq!(parse_bytes("\\", 16), Ok(vec![b'\\']));
        assert_eq!(parse_bytes("0x5C7F", 16), Ok(vec![b'\\', 0x7f]), "no escape in quotes");
        for wrong in ["", "0x", "0x0", "0xZZ", "\\r", "\\r\\n", "\\x03", "12345678901234567"] {
            assert!(parse_bytes(wrong, 16).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn bytes_are_shown_as_they_can_be_written() {
        assert_eq!(show_bytes(b"\r\n"), "\"\\r\\n\"");
        assert_eq!(show_bytes(&[3, 0xab]), "0x03AB");
    }

    #[test]
    fn a_line_is_a_rate_and_a_format() {
        let line = Line { baud: 115_200, data_bits: 7, parity: Parity::Even, stop_bits: 2 };
        assert_eq!(parse_line("115200 7E2"), Ok(line));
        assert_eq!(parse_line(&show_line(line)), Ok(line));
        for other in ["115200,e,7,2", "115200,7,E,2", "115200-7-E-2", "115200/7e2", " 115200, 7E2 ", "115200 7 E 2"] {
            assert_eq!(parse_line(other), Ok(line), "{other:?}");
        }
        let wrong = [
            "",
            "9600",
            "9600 8N",
            "9600 9N1",
            "9600 8X1",
            "9600 8N3",
            "49 8N1",
            "+9600 8N1",
            "fast 8N1",
            "9600 8N1 x",
        ];
        for wrong in
            wrong.into_iter().chain(["-9600 8N1", "9600,n,8", "9600,n,8,1,x", "9600,,", "9600 N81x", "9600 ü1"])
        {
            assert!(parse_line(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(us in 0..=u64::MAX / 1_000, bytes in any::<u64>(), text in prop::collection::vec(any::<u8>(), 1..16)) {
            let duration = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
            if text.iter().any(|byte| !is_text(*byte)) {
                prop_assert_eq!(parse_bytes(&show_bytes(&text), 16), Ok(text));
            }
        }
    }
}
