//! Durations on the command line: a number and its unit, such as `10s` or `500ms`.

use std::time::Duration;

/// Parses `NUMBER UNIT` without a space; the number may have a decimal point, the unit is `ns`, `us`, `ms`, `s`, `m` or `h`.
/// The unit is required. Errors are words for the person at the terminal.
pub fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => return Err(format!("a unit is missing: write {text}s or {text}ms")),
        other => return Err(format!("unknown unit \"{other}\": use ns, us, ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("\"{number}\" is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn units_are_required_and_known() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
        for wrong in ["10", "s", "", "1.2.3s", "5 s", "-1s", "5days"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was taken for a duration");
        }
    }
}
