//! Records a second over time.

use super::axis::{Frame, Time, step_above};
use super::{Label, SERIES, Size, Svg, label, label_width, legend_height};
use crate::report::{Column, Run, tag_name, unit};

/// Runs that are compared begin at the same place.
pub fn svg(runs: &[Run], tag: Option<&str>, size: Size) -> String {
    let series: Vec<(&str, &[Column])> =
        runs.iter().filter_map(|run| run.tagged(tag).map(|tagged| (run.name.as_str(), &tagged.columns[..]))).collect();
    let title = format!("{}: throughput", tag_name(tag));
    let names: Vec<&str> = series.iter().map(|(name, _)| *name).collect();
    let mut svg = Svg::new(size, &title);
    // One line needs no name.
    let (width, below) = match series.len() {
        1 => (12.0, 0.0),
        _ => (label_width(size, &names), legend_height(size, &names)),
    };
    let frame = Frame::new(size, width, below);
    let columns = || series.iter().flat_map(|(_, columns)| columns.iter());
    let time = Time::new(
        &frame,
        columns().map(|column| column.from_s).fold(f64::INFINITY, f64::min),
        columns().map(|column| column.to_s).fold(0.0, f64::max),
    );
    let highest = columns().map(Column::rate).fold(1.0, f64::max);
    let step = step_above(highest / 5.0);
    let top = (highest / step).ceil() * step;
    let y = |rate: f64| frame.bottom - rate / top * (frame.bottom - frame.top);
    let mut tick = 0.0;
    while tick <= top * 1.000_1 {
        frame.tick_y(&mut svg, y(tick), &unit::count(tick));
        tick += step;
    }
    time.draw(&mut svg, &frame);
    frame.draw(&mut svg, &title, time.title(), "records/s");
    let mut labels = Vec::new();
    for (index, (name, columns)) in series.iter().enumerate() {
        let points = steps(columns, &time, y);
        svg.line(&format!("line s{}", index % SERIES), &points);
        labels.push(Label { series: index, name, end: *points.last().expect("a run has an interval") });
    }
    if labels.len() > 1 {
        label(&mut svg, size, &frame, &labels);
    }
    svg.finish()
}

/// A step a column, down to nothing where there is none.
fn steps(columns: &[Column], time: &Time, y: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut until_s = None;
    for column in columns {
        // A log's times have three decimals.
        if let Some(until_s) = until_s.filter(|until_s| column.from_s - until_s > 0.01) {
            points.extend([(time.x(until_s), y(0.0)), (time.x(column.from_s), y(0.0))]);
        }
        points.extend([(time.x(column.from_s), y(column.rate())), (time.x(column.to_s), y(column.rate()))]);
        until_s = Some(column.to_s);
    }
    points
}
