//! Times of the measured phase: one histogram of all, and an HdrHistogram interval log (V2), one interval a second, in the
//! format of `ringest run --histogram-log`. The log stays in memory until the end, so that no file is written meanwhile.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

const INTERVAL_NS: u64 = 1_000_000_000;
const LEGEND: &[u8] = b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Times in nanoseconds, from 1 µs to 10 minutes, 3 significant digits.
pub struct Times {
    all: Histogram<u64>,
    log: Option<Log>,
}

struct Log {
    path: PathBuf,
    tag: &'static str,
    lines: Vec<u8>,
    interval: Histogram<u64>,
    /// Start of the log, nanoseconds since 1970.
    base_ns: u64,
    /// Start of the interval; 0 before the first time.
    from_ns: u64,
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("valid bounds")
}

impl Times {
    /// Empty; with a path, intervals go to that file under the tag.
    pub fn new(path: Option<&Path>, tag: &'static str) -> Self {
        Self { all: empty(), log: path.map(|path| Log::new(path, tag)) }
    }

    /// Records the time from `from_ns` until `now_ns`, both nanoseconds since 1970.
    #[inline]
    pub fn record(&mut self, from_ns: u64, now_ns: u64) {
        let time_ns = now_ns.saturating_sub(from_ns);
        self.all.saturating_record(time_ns);
        if let Some(log) = &mut self.log {
            log.record(time_ns, now_ns);
        }
    }

    /// Count, and percentiles in microseconds.
    pub fn report(&self) -> Value {
        let us = |quantile: f64| self.all.value_at_quantile(quantile) as f64 / 1e3;
        json!({
            "count": self.all.len(), "p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p999": us(0.999), "max": us(1.0),
        })
    }

    /// Writes the log, if there is one.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn save(&mut self, now_ns: u64) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.end_interval(now_ns);
        std::fs::write(&log.path, &log.lines)
    }
}

impl Log {
    fn new(path: &Path, tag: &'static str) -> Self {
        let base_ns = crate::process::now_ns();
        let base = UNIX_EPOCH + Duration::from_nanos(base_ns);
        let mut lines = Vec::new();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Logged by the bench of ringest: nanoseconds since the scheduled time]")
            .with_start_time(base)
            .with_base_time(base)
            .begin_log_with(&mut lines, &mut V2DeflateSerializer::new())
            .expect("a Vec takes all");
        lines.extend_from_slice(LEGEND);
        Self { path: path.to_owned(), tag, lines, interval: empty(), base_ns, from_ns: 0 }
    }

    fn record(&mut self, time_ns: u64, now_ns: u64) {
        if self.from_ns == 0 {
            self.from_ns = now_ns;
        } else if now_ns >= self.from_ns + INTERVAL_NS {
            self.end_interval(now_ns);
        }
        self.interval.saturating_record(time_ns);
    }

    fn end_interval(&mut self, now_ns: u64) {
        if self.interval.is_empty() {
            return;
        }
        let since = |from_ns: u64, to_ns: u64| Duration::from_nanos(to_ns.saturating_sub(from_ns));
        let (start, length) = (since(self.base_ns, self.from_ns), since(self.from_ns, now_ns));
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.lines, &mut serializer)
            .expect("nothing is written, and a Vec takes all")
            .write_histogram(&self.interval, start, length, Tag::new(self.tag))
            .expect("a histogram of these bounds can be encoded, and a Vec takes all");
        self.interval.reset();
        self.from_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn the_intervals_of_a_log_add_up_to_the_whole() {
        let path = std::env::temp_dir().join(format!("ringest-bench-times-{}.hlog", std::process::id()));
        let mut times = Times::new(Some(&path), "arrived");
        let start_ns = crate::process::now_ns();
        for i in 0..2_500 {
            let now_ns = start_ns + i * 1_000_000;
            times.record(now_ns - 5_000 - i, now_ns);
        }
        times.save(start_ns + 2_500_000_000).unwrap();
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mut sum, mut intervals) = (empty(), 0);
        for entry in IntervalLogIterator::new(&text) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                assert_eq!(interval.tag().unwrap().as_str(), "arrived");
                let bytes = base64(interval.encoded_histogram());
                sum.add(Deserializer::new().deserialize::<u64, _>(&mut &bytes[..]).unwrap()).unwrap();
                intervals += 1;
            }
        }
        assert_eq!((intervals, sum.len()), (3, 2_500));
        assert_eq!(sum.value_at_quantile(0.99), times.all.value_at_quantile(0.99));
        assert_eq!(times.report()["count"], 2_500);
    }

    fn base64(text: &str) -> Vec<u8> {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.bytes().filter_map(|byte| letters.iter().position(|letter| *letter == byte));
        let (mut out, mut bits, mut held) = (Vec::new(), 0, 0_u32);
        for digit in digits {
            held = held << 6 | digit as u32;
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                out.push((held >> bits) as u8);
                held &= (1 << bits) - 1;
            }
        }
        out
    }
}
