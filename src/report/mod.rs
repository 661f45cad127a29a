//! Reports of latencies: histogram logs are read, and become tables, JSON, `.hgrm` files, plots and one page.
//!
//! Logs are those of `ringest run --histogram-log` and of any tool that writes HdrHistogram interval logs in V2 encoding. Values are
//! kept in nanoseconds. All but [`read`] and [`mod@write`] is pure.

pub mod hgrm;
pub mod html;
pub mod plot;
pub mod read;
pub mod table;
pub mod unit;
pub mod write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Most columns of a run's time axis. A longer run has wider ones.
pub const COLUMNS_MAX: usize = 160;

/// The least latency that has a place in a plot.
pub const PLOTTED_MIN_NS: u64 = 1_000;

/// The quantiles of tables, with their names for people and in JSON.
pub const QUANTILES: [(f64, &str, &str); 5] = [
    (0.5, "p50", "p50_ns"),
    (0.9, "p90", "p90_ns"),
    (0.99, "p99", "p99_ns"),
    (0.999, "p99.9", "p999_ns"),
    (0.9999, "p99.99", "p9999_ns"),
];

/// A run: what one file holds.
#[derive(Debug, Clone)]
pub struct Run {
    /// What it is called in tables and plots.
    pub name: String,
    /// Where it was read from.
    pub file: String,
    /// Its start, in seconds since 1970; all other times count from here.
    pub start_s: f64,
    /// Where the last interval ends.
    pub end_s: f64,
    /// Intervals that were read, of the tag that has the most.
    pub intervals: u64,
    /// What was wrong with the file and left out, in sentences.
    pub notes: Vec<String>,
    /// By tag, in the order of their first appearance.
    pub tags: Vec<Tagged>,
}

/// The latencies under one tag.
#[derive(Debug, Clone)]
pub struct Tagged {
    /// The tag; `None` of a line without one.
    pub tag: Option<String>,
    /// Intervals that were read.
    pub intervals: u64,
    /// Of all intervals, in nanoseconds.
    pub whole: Histogram<u64>,
    /// Over time, in order, without overlaps. Time that no column covers had no record.
    pub columns: Vec<Column>,
}

/// A piece of a run's time: one interval, or neighbours.
#[derive(Debug, Clone)]
pub struct Column {
    /// From the run's start.
    pub from_s: f64,
    /// From the run's start.
    pub to_s: f64,
    /// In nanoseconds.
    pub histogram: Histogram<u64>,
}

impl Column {
    /// Records a second.
    pub fn rate(&self) -> f64 {
        self.histogram.len() as f64 / (self.to_s - self.from_s).max(1e-3)
    }
}

impl Run {
    /// The latencies under a tag.
    pub fn tagged(&self, tag: Option<&str>) -> Option<&Tagged> {
        self.tags.iter().find(|tagged| tagged.tag.as_deref() == tag)
    }

    /// Seconds from the first interval's start to the last one's end, for rates.
    pub fn length_s(&self) -> f64 {
        let firsts = self.tags.iter().filter_map(|tagged| tagged.columns.first());
        (self.end_s - firsts.map(|column| column.from_s).fold(self.end_s, f64::min)).max(1e-3)
    }
}

impl Tagged {
    /// Whether any of it is long enough for a plot: the clock is read once a turn of the loop, and what takes no turn is 1 ns.
    pub fn is_plotted(&self) -> bool {
        self.whole.max() >= PLOTTED_MIN_NS
    }

    /// The tag for people.
    pub fn name(&self) -> &str {
        tag_name(self.tag.as_deref())
    }
}

/// A tag for people.
pub fn tag_name(tag: Option<&str>) -> &str {
    tag.unwrap_or("untagged")
}

/// What a tag of ringest's own logs measures, in words.
pub fn describe(tag: Option<&str>) -> Option<&'static str> {
    use crate::ground::count::Stage;
    Stage::ALL.into_iter().find(|stage| Some(stage.name()) == tag).map(Stage::description)
}

/// The tags of all runs, in the order of their first appearance.
pub fn tags(runs: &[Run]) -> Vec<Option<&str>> {
    let mut tags = Vec::new();
    for tagged in runs.iter().flat_map(|run| &run.tags) {
        if !tags.contains(&tagged.tag.as_deref()) {
            tags.push(tagged.tag.as_deref());
        }
    }
    tags
}

/// The tag that stands for the whole: `whole` where there is one, else the first.
pub fn main_tag(runs: &[Run]) -> Option<&str> {
    let tags = tags(runs);
    *tags.iter().find(|tag| **tag == Some("whole")).or(tags.first()).unwrap_or(&None)
}

/// The value at a quantile, or the largest at 1.
pub fn at(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    // The upper end of the largest value's bucket is more than was ever measured.
    histogram.value_at_quantile(quantile).min(histogram.max())
}

/// The document of `ringest report --json`: all values in nanoseconds, times in seconds.
pub fn to_json(runs: &[Run]) -> Value {
    let runs = runs.iter().map(|run| {
        let tags = run.tags.iter().map(|tagged| {
            let whole = &tagged.whole;
            let mut value = json!({
                "tag": tagged.tag, "count": whole.len(), "rate_per_s": whole.len() as f64 / run.length_s(),
                "mean_ns": whole.mean(), "stddev_ns": whole.stdev(), "min_ns": whole.min(), "max_ns": whole.max(),
                "significant_digits": whole.sigfig(),
            });
            for (quantile, _, name) in QUANTILES {
                value[name] = at(whole, quantile).into();
            }
            value
        });
        json!({
            "name": run.name, "file": run.file, "start_s": run.start_s, "length_s": run.length_s(), "end_s": run.end_s,
            "intervals": run.intervals, "notes": run.notes, "tags": tags.collect::<Vec<_>>(),
        })
    });
    json!({ "runs": runs.collect::<Vec<_>>() })
}
