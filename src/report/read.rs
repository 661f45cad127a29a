//! Reading interval logs, line by line and in bounded memory, however long they are.
//!
//! A line is a comment (`#`), the legend (`"StartTimestamp"…`) or `[Tag=T,]START,LENGTH,MAX,HISTOGRAM`, where the histogram is V2
//! encoding, deflated or not, in base64. `#[BaseTime: S]` says what START counts from. Without it, START is in seconds since 1970, or
//! counts from `#[StartTime: S]` if it is more than a year smaller, as HdrHistogram's own reader has it. Both may come again, where a
//! log was appended to.

use super::{COLUMNS_MAX, Column, Run, Tagged};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use std::io::{self, BufRead};

/// Longer lines are no intervals.
const LINE_BYTES_MAX: u64 = 64 << 20;
const YEAR_S: f64 = 365.0 * 86_400.0;

/// Why a log cannot be reported.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// A line is neither comment nor interval.
    #[error("{file}: line {line}: {reason}{}", if *.is_other { "; this is no HdrHistogram interval log" } else { "" })]
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: u64,
        /// What is wrong with it.
        reason: LineError,
        /// No line before it was one of a log.
        is_other: bool,
    },
    /// There is nothing in it, or nothing between `--from` and `--to`.
    #[error("{file}: no interval{}", if *.cut { " between --from and --to" } else { " in it" })]
    Empty {
        /// The file.
        file: String,
        /// Others are in it.
        cut: bool,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is not text.
    #[error("it is not text")]
    Text,
    /// It has not four fields.
    #[error("START,LENGTH,MAX,HISTOGRAM are wanted")]
    Fields,
    /// A field is no number of seconds.
    #[error("{field} is no number of seconds: {value:?}")]
    Number {
        /// Which one.
        field: &'static str,
        /// What is there.
        value: String,
    },
    /// The histogram is not base64.
    #[error("the histogram is not base64, or broken off")]
    Base64,
    /// An older encoding.
    #[error("the histogram is in encoding V{0}; V2 is read")]
    Version(u8),
    /// The histogram cannot be decoded.
    #[error("the histogram cannot be decoded: {0}")]
    Histogram(String),
}

/// What of a log is wanted, and how its values are meant.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Intervals that begin before so many seconds after the start are left out.
    pub from_s: f64,
    /// Intervals that begin so many seconds after the start, or later, are left out.
    pub to_s: f64,
    /// Nanoseconds of one unit of the log's values.
    pub unit_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { from_s: 0.0, to_s: f64::INFINITY, unit_ns: 1 }
    }
}

/// Reads a log. `file` is for errors, `name` for tables.
///
/// A last line that a crash broke off is left out, and a note says so.
///
/// # Errors
/// [`ReadError`], with the line's number.
pub fn read(mut log: impl BufRead, name: &str, file: &str, options: Options) -> Result<Run, ReadError> {
    let mut reading = Reading::new(name, file, options);
    let (mut line, mut number) = (Vec::new(), 0);
    let mut broken: Option<(u64, LineError)> = None;
    loop {
        line.clear();
        let count = io::Read::take(&mut log, LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if count.map_err(|error| ReadError::Io { file: file.to_owned(), error })? == 0 {
            break;
        }
        if let Some((line, reason)) = broken {
            return Err(ReadError::Line { file: file.to_owned(), line, reason, is_other: !reading.is_log });
        }
        number += 1;
        broken = reading.line(&line).err().map(|reason| (number, reason));
    }
    match broken {
        Some((line, reason)) if !reading.is_log => {
            Err(ReadError::Line { file: file.to_owned(), line, reason, is_other: true })
        }
        Some((line, reason)) => {
            reading.run.notes.push(format!("line {line}, the last one, is broken off and left out ({reason})"));
            reading.finish()
        }
        None => reading.finish(),
    }
}

struct Reading {
    run: Run,
    options: Options,
    /// Some line was one of a log.
    is_log: bool,
    start_s: Option<f64>,
    base_s: Option<f64>,
    /// The run's own start is known.
    is_started: bool,
    left_out: u64,
    is_out_of_order: bool,
}

impl Reading {
    fn new(name: &str, file: &str, options: Options) -> Self {
        let run = Run {
            name: name.to_owned(),
            file: file.to_owned(),
            start_s: 0.0,
            end_s: 0.0,
            intervals: 0,
            notes: Vec::new(),
            tags: Vec::new(),
        };
        Self {
            run,
            options,
            is_log: false,
            start_s: None,
            base_s: None,
            is_started: false,
            left_out: 0,
            is_out_of_order: false,
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), LineError> {
        let line = std::str::from_utf8(line).map_err(|_| LineError::Text)?.trim();
        if let Some(comment) = line.strip_prefix('#') {
            let seconds = |key| comment.strip_prefix(key).and_then(first_number);
            if let Some(start_s) = seconds("[StartTime:") {
                (self.start_s, self.base_s) = (Some(start_s), None);
                self.is_log = true;
            }
            if let Some(base_s) = seconds("[BaseTime:") {
                self.base_s = Some(base_s);
                self.is_log = true;
            }
            self.is_log |= comment.starts_with("[Histogram log");
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        if line.starts_with("\"StartTimestamp\"") {
            self.is_log = true;
            return Ok(());
        }
        let interval = Interval::parse(line)?;
        self.is_log = true;
        self.add(interval)
    }

    fn add(&mut self, interval: Interval<'_>) -> Result<(), LineError> {
        let absolute_s = match (self.base_s, self.start_s) {
            (Some(base_s), _) => base_s + interval.start_s,
            (None, Some(start_s)) if interval.start_s < start_s - YEAR_S => start_s + interval.start_s,
            _ => interval.start_s,
        };
        if !std::mem::replace(&mut self.is_started, true) {
            self.run.start_s = self.start_s.unwrap_or(absolute_s).min(absolute_s);
        }
        let from_s = absolute_s - self.run.start_s;
        // A moment more than the rounding of three decimals.
        if from_s < self.options.from_s - 2e-3 || from_s >= self.options.to_s - 2e-3 {
            self.left_out += 1;
            return Ok(());
        }
        let histogram = scaled(decode(interval.histogram)?, self.options.unit_ns)?;
        let column = Column { from_s, to_s: from_s + interval.length_s, histogram };
        self.run.end_s = self.run.end_s.max(column.to_s);
        let tags = &mut self.run.tags;
        let index = tags.iter().position(|tagged| tagged.tag.as_deref() == interval.tag).unwrap_or_else(|| {
            let mut whole = empty(column.histogram.sigfig());
            whole.auto(true);
            tags.push(Tagged { tag: interval.tag.map(str::to_owned), intervals: 0, whole, columns: Vec::new() });
            tags.len() - 1
        });
        let tagged = &mut tags[index];
        tagged.intervals += 1;
        self.run.intervals = self.run.intervals.max(tagged.intervals);
        sum(&mut tagged.whole, &column.histogram);
        self.is_out_of_order |= tagged.push(column);
        Ok(())
    }

    fn finish(mut self) -> Result<Run, ReadError> {
        if self.run.intervals == 0 {
            return Err(ReadError::Empty { file: self.run.file, cut: self.left_out > 0 });
        }
        if self.is_out_of_order {
            let note = "intervals are not in the order of their time: the clock was set, or logs were joined";
            self.run.notes.push(note.to_owned());
        }
        Ok(self.run)
    }
}

impl Tagged {
    /// Adds the next column. True if it does not come behind the others: then it counts as a part of the last one.
    fn push(&mut self, column: Column) -> bool {
        if let Some(last) = self.columns.last_mut()
            && column.from_s < last.to_s - 2e-3
        {
            sum(&mut last.histogram, &column.histogram);
            // That of several writers under the same tag is the same time, not another one.
            return (column.from_s - last.from_s).abs() > 2e-3;
        }
        self.columns.push(column);
        if self.columns.len() > COLUMNS_MAX {
            self.widen();
        }
        false
    }

    /// Makes neighbours one, until there are about half as many.
    fn widen(&mut self) {
        let first = self.columns.iter().map(|column| column.to_s - column.from_s).fold(f64::INFINITY, f64::min);
        let mut width_s = first.max(1e-3);
        while self.columns.len() > COLUMNS_MAX * 2 / 3 {
            width_s *= 2.0;
            let mut wider: Vec<Column> = Vec::new();
            for column in self.columns.drain(..) {
                match wider.last_mut() {
                    Some(last) if column.to_s - last.from_s <= width_s * 1.01 => {
                        last.to_s = column.to_s;
                        sum(&mut last.histogram, &column.histogram);
                    }
                    _ => wider.push(column),
                }
            }
            self.columns = wider;
        }
    }
}

/// An empty histogram that grows.
fn empty(digits: u8) -> Histogram<u64> {
    Histogram::new(digits).expect("digits of another histogram")
}

fn sum(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    if from.sigfig() > into.sigfig() {
        let coarse = std::mem::replace(into, empty(from.sigfig()));
        into.add(coarse).expect("it grows");
    }
    into.auto(true);
    into.add(from).expect("it grows");
}

/// In nanoseconds.
fn scaled(mut histogram: Histogram<u64>, unit_ns: u64) -> Result<Histogram<u64>, LineError> {
    histogram.auto(true);
    if unit_ns == 1 {
        return Ok(histogram);
    }
    let mut scaled = empty(histogram.sigfig());
    for value in histogram.iter_recorded() {
        let ns = histogram.median_equivalent(value.value_iterated_to()).saturating_mul(unit_ns);
        let recorded = scaled.record_n(ns, value.count_at_value());
        recorded.map_err(|error| LineError::Histogram(error.to_string()))?;
    }
    Ok(scaled)
}

/// An interval's line.
#[derive(Debug)]
struct Interval<'a> {
    tag: Option<&'a str>,
    start_s: f64,
    length_s: f64,
    histogram: &'a str,
}

impl<'a> Interval<'a> {
    fn parse(line: &'a str) -> Result<Self, LineError> {
        let (tag, fields) = match line.strip_prefix("Tag=") {
            Some(rest) => {
                let (tag, fields) = rest.split_once(',').ok_or(LineError::Fields)?;
                (Some(tag), fields)
            }
            None => (None, line),
        };
        let fields: Vec<&str> = fields.split(',').map(str::trim).collect();
        let [start, length, max, histogram] = fields[..] else { return Err(LineError::Fields) };
        let start_s = seconds("START", start)?;
        let length_s = seconds("LENGTH", length)?;
        // For people only, in a unit of the writer's choice.
        max.parse::<f64>().map_err(|_| LineError::Fields)?;
        Ok(Self { tag, start_s, length_s, histogram })
    }
}

fn seconds(field: &'static str, text: &str) -> Result<f64, LineError> {
    let number = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    number.ok_or_else(|| LineError::Number { field, value: text.chars().take(40).collect() })
}

fn first_number(text: &str) -> Option<f64> {
    let number = text.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    number[..end].parse().ok()
}

fn decode(text: &str) -> Result<Histogram<u64>, LineError> {
    let bytes = STANDARD.decode(text).map_err(|_| LineError::Base64)?;
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")));
    // The lowest bits but four of the cookie say encoding and version, the other four the word size.
    match word(0).map(|cookie| cookie & !0xf0) {
        Some(0x1c84_9308 | 0x1c84_9309) => return Err(LineError::Version(0)),
        Some(0x1c84_9301 | 0x1c84_9302) => return Err(LineError::Version(1)),
        // Deflated; without its last bytes it would seem whole.
        Some(0x1c84_9304) if word(4).is_none_or(|length| bytes.len() - 8 < length as usize) => {
            return Err(LineError::Base64);
        }
        _ => {}
    }
    let decoded = Deserializer::new().deserialize(&mut bytes.as_slice());
    decoded.map_err(|error| LineError::Histogram(error.to_string()))
}

#[cfg(test)]
mod tests;
