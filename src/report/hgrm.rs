//! The percentile distribution as text that HdrHistogram's plotter and others read (`.hgrm`), values in milliseconds.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// Steps for each halving of the distance to 100 %, as in HdrHistogram's own tools.
const STEPS_PER_HALF: u32 = 5;
const MS: f64 = 1e6;

/// The distribution of a histogram of nanoseconds.
pub fn text(histogram: &Histogram<u64>) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(STEPS_PER_HALF) {
        total += step.count_since_last_iteration();
        let (value, quantile) =
            (step.value_iterated_to().min(histogram.max()) as f64 / MS, step.quantile_iterated_to());
        let _ = write!(text, "{value:12.6} {quantile:14.12} {total:10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let (mean, deviation) = (histogram.mean() / MS, histogram.stdev() / MS);
    let _ = writeln!(text, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]");
    let _ =
        writeln!(text, "#[Max     = {:12.6}, Total count    = {:12}]", histogram.max() as f64 / MS, histogram.len());
    let halves = histogram.distinct_values();
    let digits = histogram.sigfig();
    let _ = writeln!(text, "#[Buckets = {halves:12}, SubBuckets     = {:12}]", sub_buckets(digits));
    text
}

/// How many values of the first bucket are kept apart at so many digits.
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(u32::from(digits))).next_power_of_two()
}
