//! Latencies, rates and times for people.

use crate::ground::text::grouped;

/// Nanoseconds with three digits and a fitting unit.
pub fn latency(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999_500.0 => (ns / 1e3, "µs"),
        ns if ns < 999_500_000.0 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let decimals = if unit == "ns" || value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.decimals$} {unit}")
}

/// A tick of a logarithmic axis, which is 1, 2 or 5 times a power of ten.
pub fn tick(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 0.999e3 => (ns, "ns"),
        ns if ns < 0.999e6 => (ns / 1e3, "µs"),
        ns if ns < 0.999e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{value:.0} {unit}")
}

/// A count, with commas from 10,000 on.
pub fn count(number: f64) -> String {
    let tenths = (number * 10.0).round();
    if tenths < 100.0 && tenths % 10.0 != 0.0 {
        return format!("{:.1}", tenths / 10.0);
    }
    grouped(number.round() as u64)
}

/// How a value relates to that of the first run.
pub fn ratio(value: f64, first: f64) -> String {
    match value / first {
        _ if first <= 0.0 => "-".to_owned(),
        ratio if ratio >= 99.5 => format!("×{ratio:.0}"),
        ratio if ratio >= 0.1 => format!("×{ratio:.2}"),
        ratio => format!("×{ratio:.4}"),
    }
}

/// A length of time.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 5_970.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:02.0} min", (s / 3_600.0).floor(), (s % 3_600.0 / 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_three_digits_and_a_unit() {
        let texts = [0.0, 1.0, 999.0, 1_000.0, 43_520.0, 999_499.0, 999_600.0, 1.25e6, 2.5e9].map(latency);
        assert_eq!(texts, ["0 ns", "1 ns", "999 ns", "1.00 µs", "43.5 µs", "999 µs", "1.00 ms", "1.25 ms", "2.50 s"]);
        assert_eq!([12.34, 125.0, 7_260.0].map(span), ["12.3 s", "2 min 05 s", "2 h 01 min"]);
        assert_eq!([1e3, 2e4, 5e8, 1e9].map(tick), ["1 µs", "20 µs", "500 ms", "1 s"]);
        assert_eq!([0.0, 0.25, 9.0, 1_234.4, 98_765.0].map(count), ["0", "0.3", "9", "1,234", "98,765"]);
        assert_eq!((ratio(3.0, 2.0), ratio(3.0, 0.0)), ("×1.50".to_owned(), "-".to_owned()));
    }
}
