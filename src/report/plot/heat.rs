//! Latency over time: a column an interval, a row a small range of latencies, the colour says how many records a second.

use super::axis::{Frame, LATENCY_MIN_NS, Latency, Time};
use super::{Anchor, HEATS, Size, Svg, spread};
use crate::report::{Column, Run, Tagged, at, describe, unit};
use std::fmt::Write;

/// Height of a row, in pixels.
const ROW: f64 = 6.0;

/// One run's latencies under a tag, with p50 and p99 of each column.
pub fn svg(run: &Run, tagged: &Tagged, size: Size) -> String {
    let words = describe(tagged.tag.as_deref()).filter(|_| !size.is_narrow);
    let title = format!(
        "{}, {}{}: latency over time",
        run.name,
        tagged.name(),
        words.map_or(String::new(), |words| format!(" ({words})"))
    );
    let mut svg = Svg::new(size, &title);
    let frame = Frame::new(size, if size.is_narrow { 34.0 } else { 44.0 }, 0.0);
    let columns = &tagged.columns[..];
    // A stage of which a few records take no time has no row for each of the powers of ten below.
    let least =
        tagged.whole.iter_recorded().map(|value| value.value_iterated_to() as f64).find(|ns| *ns >= LATENCY_MIN_NS);
    let latency = Latency::new(&frame, least.unwrap_or(LATENCY_MIN_NS), tagged.whole.max() as f64);
    let time = Time::new(&frame, columns[0].from_s, columns.last().map_or(0.0, |column| column.to_s));
    latency.draw(&mut svg, &frame);
    time.draw(&mut svg, &frame);
    frame.draw(&mut svg, &title, time.title(), "latency");
    let cells = Cells::new(columns, &frame, &latency);
    cells.draw(&mut svg, &frame, &time, columns);
    cells.legend(&mut svg, &frame, size.is_narrow);
    over(&mut svg, &frame, &time, &latency, columns);
    svg.finish()
}

/// Records a second in each cell.
struct Cells {
    rows: usize,
    rates: Vec<Vec<f64>>,
    least: f64,
    most: f64,
}

impl Cells {
    fn new(columns: &[Column], frame: &Frame, latency: &Latency) -> Self {
        let rows = ((frame.bottom - frame.top) / ROW).round() as usize;
        let row_of = |ns: f64| {
            let share = (frame.bottom - latency.y(ns)) / (frame.bottom - frame.top);
            ((share * rows as f64) as usize).min(rows - 1)
        };
        let rates = columns.iter().map(|column| {
            let mut rates = vec![0.0; rows];
            for value in column.histogram.iter_recorded() {
                let ns = column.histogram.median_equivalent(value.value_iterated_to()) as f64;
                rates[row_of(ns)] += value.count_at_value() as f64 / (column.to_s - column.from_s).max(1e-3);
            }
            rates
        });
        let rates: Vec<Vec<f64>> = rates.collect();
        let all = || rates.iter().flatten().copied().filter(|rate| *rate > 0.0);
        let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        Self { rows, rates, least: least.min(most), most }
    }

    /// The colour's step, by the logarithm of the rate.
    fn heat(&self, rate: f64) -> usize {
        let range = (self.most / self.least).ln().max(1e-9);
        (((rate / self.least).ln() / range * HEATS as f64) as usize).min(HEATS - 1)
    }

    fn draw(&self, svg: &mut Svg, frame: &Frame, time: &Time, columns: &[Column]) {
        let height = (frame.bottom - frame.top) / self.rows as f64;
        let mut paths = vec![String::new(); HEATS];
        for (column, rates) in columns.iter().zip(&self.rates) {
            let (left, right) = (time.x(column.from_s), time.x(column.to_s));
            // A hair of overlap, so that no seam is seen between neighbours.
            let width = (right - left).max(1.0) + 0.2;
            for (row, rate) in rates.iter().enumerate().filter(|(_, rate)| **rate > 0.0) {
                let y = frame.bottom - height * (row + 1) as f64;
                let _ =
                    write!(paths[self.heat(*rate)], "M{left:.1} {y:.1}h{width:.1}v{:.1}h-{width:.1}z", height + 0.2);
            }
        }
        for (heat, path) in paths.iter().enumerate() {
            svg.path(&format!("h{heat}"), path);
        }
    }

    /// The scale of colours, at the upper right.
    fn legend(&self, svg: &mut Svg, frame: &Frame, is_narrow: bool) {
        let of = if is_narrow { "/s" } else { " records/s a cell" };
        let (most, least) = (unit::count(self.most) + of, unit::count(self.least));
        let (y, width) = (38.0, 14.0);
        let right = frame.right - super::text_width(&most) - 6.0;
        let left = right - width * HEATS as f64;
        svg.text("", frame.right, y, Anchor::End, &most);
        svg.text("", left - 6.0, y, Anchor::End, &least);
        for heat in 0..HEATS {
            let x = left + width * heat as f64;
            svg.path(&format!("h{heat}"), &format!("M{x:.1} {:.1}h{width}v11h-{width}z", y - 10.0));
        }
    }
}

/// The lines of p50 and p99, broken where there was no record.
fn over(svg: &mut Svg, frame: &Frame, time: &Time, latency: &Latency, columns: &[Column]) {
    let quantiles = [(0.5, "p50"), (0.99, "p99")];
    let mut ends = Vec::new();
    for (quantile, _) in quantiles {
        let mut pieces: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        let mut until_s = columns[0].from_s;
        for column in columns {
            let y = latency.y(at(&column.histogram, quantile) as f64);
            if column.from_s - until_s > 0.01 {
                pieces.push(Vec::new());
            }
            until_s = column.to_s;
            let points = [(time.x(column.from_s), y), (time.x(column.to_s), y)];
            pieces.last_mut().expect("there is one").extend(points);
        }
        ends.extend(pieces.last().and_then(|piece| piece.last()).copied());
        for piece in pieces {
            svg.line("under", &piece);
            if quantile == 0.5 { svg.line("over", &piece) } else { svg.dashed("over", &piece) }
        }
    }
    let wanted: Vec<f64> = ends.iter().map(|end| end.1).collect();
    for ((_, name), y) in quantiles.iter().zip(spread(&wanted, 15.0, frame.top, frame.bottom)) {
        svg.text("ink", frame.right + 6.0, y + 4.5, Anchor::Start, name);
    }
}
