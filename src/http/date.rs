//! Dates of HTTP (RFC 9110 section 5.6.7): the Date header's value, written once a second, and the dates of Retry-After.

use crate::ground::calendar::{civil, days_of};

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The current Date header value, an IMF-fixdate such as `Sun, 06 Nov 1994 08:49:37 GMT`, rendered once a second.
#[derive(Debug, Clone)]
pub struct HttpDate {
    second: u64,
    text: [u8; 29],
}

impl Default for HttpDate {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpDate {
    /// Nothing but the start of 1970 is rendered yet.
    pub fn new() -> Self {
        Self { second: 0, text: render(0) }
    }

    /// The date at `wall_ns` nanoseconds after 1970 (CLOCK_REALTIME).
    pub fn at(&mut self, wall_ns: u64) -> &[u8; 29] {
        let second = wall_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.text = render(second);
        }
        &self.text
    }
}

fn render(second: u64) -> [u8; 29] {
    let days = second / 86_400;
    let (year, month, day) = civil(days);
    let of_day = second % 86_400;
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[0..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two_digits(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[month as usize - 1]);
    two_digits(&mut text[12..14], year / 100);
    two_digits(&mut text[14..16], year % 100);
    two_digits(&mut text[17..19], of_day / 3600);
    two_digits(&mut text[20..22], of_day / 60 % 60);
    two_digits(&mut text[23..25], of_day % 60);
    text
}

fn two_digits(at: &mut [u8], number: u64) {
    at[0] = b'0' + (number / 10 % 10) as u8;
    at[1] = b'0' + (number % 10) as u8;
}

/// Reads an HTTP-date of 1970 or later, in any of its three forms (RFC 9110 section 5.6.7); seconds after 1970. The
/// weekday's name is not compared with the date. A two-digit year is 1970 to 2069.
pub fn parse(text: &[u8]) -> Option<u64> {
    let comma = text.iter().position(|byte| *byte == b',');
    let (day, month, year, time) = match comma {
        // Sun, 06 Nov 1994 08:49:37 GMT
        Some(3) if text.len() == 29 && text[25..] == *b" GMT" => {
            let spaced = [text[4], text[7], text[11], text[16]] == [b' '; 4];
            let weekday = spaced && is_weekday(&text[..3]);
            weekday.then_some(())?;
            (number(&text[5..7])?, &text[8..11], number(&text[12..16])?, &text[17..25])
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        Some(comma @ 6..=9) if text.len() == comma + 24 && text[comma + 20..] == *b" GMT" => {
            let rest = &text[comma + 1..];
            let marks = [rest[0], rest[3], rest[7], rest[10]];
            (is_weekday(&text[..3]) && marks == [b' ', b'-', b'-', b' ']).then_some(())?;
            let short = number(&rest[8..10])?;
            (number(&rest[1..3])?, &rest[4..7], if short < 70 { 2000 + short } else { 1900 + short }, &rest[11..19])
        }
        // Sun Nov  6 08:49:37 1994
        None if text.len() == 24 => {
            let spaced = [text[3], text[7], text[10], text[19]] == [b' '; 4];
            (spaced && is_weekday(&text[..3])).then_some(())?;
            let day = if text[8] == b' ' { number(&text[9..10])? } else { number(&text[8..10])? };
            (day, &text[4..7], number(&text[20..24])?, &text[11..19])
        }
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| name.as_slice() == month)? as u64 + 1;
    let (hour, minute, second) = (number(&time[0..2])?, number(&time[3..5])?, number(&time[6..8])?);
    let colons = time[2] == b':' && time[5] == b':';
    if !colons || year < 1970 || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_of(year, month, day);
    (civil(days) == (year, month, day)).then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn is_weekday(name: &[u8]) -> bool {
    DAYS.iter().any(|day| day.as_slice() == name)
}

fn number(digits: &[u8]) -> Option<u64> {
    super::fields::decimal(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_in_its_three_forms() {
        let second = 784_111_777;
        let mut date = HttpDate::new();
        assert_eq!(date.at(second * 1_000_000_000 + 999_999_999), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse(b"Sun, 06 Nov 1994 08:49:37 GMT"), Some(second));
        assert_eq!(parse(b"Sunday, 06-Nov-94 08:49:37 GMT"), Some(second));
        assert_eq!(parse(b"Sun Nov  6 08:49:37 1994"), Some(second));
        assert_eq!(parse(b"Wed Nov 16 08:49:37 1994"), Some(second + 10 * 86_400));
    }

    #[test]
    fn every_day_up_to_2200_is_rendered_and_read_back() {
        let mut date = HttpDate::new();
        for day in 0..84_000u64 {
            let second = day * 86_400 + day % 86_400;
            let text = *date.at(second * 1_000_000_000);
            assert_eq!(parse(&text), Some(second), "{}", String::from_utf8_lossy(&text));
        }
        assert_eq!(date.at(951_782_400_000_000_000), b"Tue, 29 Feb 2000 00:00:00 GMT");
    }

    #[test]
    fn nonsense_is_no_date() {
        for text in [
            b"".as_slice(),
            b"soon",
            b"Sun, 31 Feb 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 24:49:37 GMT",
            b"Sun, 06 Nov 1994 08:49:37 UTC",
            b"Sun, 06 Nov 1969 08:49:37 GMT",
            b"Sun, 06 Now 1994 08:49:37 GMT",
            b"Sun, +6 Nov 1994 08:49:37 GMT",
            b"Xun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
