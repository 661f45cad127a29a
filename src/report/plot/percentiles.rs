//! Latency by percentile. The horizontal axis is 1/(1 - p), logarithmic, so that each nine takes the same room.

use super::axis::{Frame, Latency};
use super::{Label, Size, Svg, label, label_width, legend_height};
use crate::report::{Run, Tagged, at, describe, tag_name};
use hdrhistogram::Histogram;

/// Points of a curve for each nine.
const POINTS_PER_NINE: usize = 48;
/// The most nines that are shown.
const NINES_MAX: f64 = 7.0;

/// All tags of one run; `None` if none of them is long enough to be seen.
pub fn of_run(run: &Run, size: Size) -> Option<String> {
    let curves: Vec<_> = run.tags.iter().map(|tagged| (tagged.name(), tagged)).collect();
    svg(&format!("{}: latency by percentile", run.name), &curves, size)
}

/// One tag of all runs that have it; `None` if it is not long enough to be seen.
pub fn of_tag(runs: &[Run], tag: Option<&str>, size: Size) -> Option<String> {
    let curves: Vec<_> =
        runs.iter().filter_map(|run| run.tagged(tag).map(|tagged| (run.name.as_str(), tagged))).collect();
    let words = describe(tag).filter(|_| !size.is_narrow).map_or(String::new(), |words| format!(" ({words})"));
    svg(&format!("{}{words}: latency by percentile", tag_name(tag)), &curves, size)
}

/// The nines that a histogram's count resolves.
fn nines(histogram: &Histogram<u64>) -> f64 {
    (histogram.len() as f64).log10().clamp(1.0, NINES_MAX)
}

fn svg(title: &str, curves: &[(&str, &Tagged)], size: Size) -> Option<String> {
    // What takes no time that the clock sees has no curve.
    let (seen, unseen): (Vec<_>, Vec<_>) = curves.iter().enumerate().partition(|(_, (_, tagged))| tagged.is_plotted());
    if seen.is_empty() {
        return None;
    }
    let seen: Vec<_> = seen.into_iter().map(|(series, (name, tagged))| (series, *name, &tagged.whole)).collect();
    let names: Vec<&str> = seen.iter().map(|(_, name, _)| *name).collect();
    let mut svg = Svg::new(size, title);
    let frame = Frame::new(size, label_width(size, &names), legend_height(size, &names));
    let least = seen.iter().map(|(.., histogram)| histogram.min() as f64).fold(f64::INFINITY, f64::min);
    let largest = seen.iter().map(|(.., histogram)| histogram.max() as f64).fold(1.0, f64::max);
    let latency = Latency::new(&frame, least, largest);
    latency.draw(&mut svg, &frame);
    let nines_max = seen.iter().map(|(.., histogram)| nines(histogram)).fold(1.0, f64::max);
    let x = |nines: f64| frame.left + nines / nines_max * (frame.right - frame.left);
    for (nines, text) in ticks(nines_max, size.is_narrow) {
        frame.tick_x(&mut svg, x(nines), &text);
    }
    frame.draw(&mut svg, title, "percentile", "latency");
    let mut labels = Vec::new();
    for (series, name, histogram) in seen {
        let points = curve(histogram, x, &latency);
        let end = *points.last().expect("a curve has two ends");
        svg.line(&format!("line s{}", series % super::SERIES), &points);
        labels.push(Label { series, name, end });
    }
    label(&mut svg, size, &frame, &labels);
    if !unseen.is_empty() {
        let names: Vec<&str> = unseen.iter().map(|(_, (name, _))| *name).collect();
        let text = format!("below 1 µs: {}", names.join(", "));
        svg.text("", frame.left, frame.bottom + 36.0, super::Anchor::Start, &text);
    }
    Some(svg.finish())
}

/// The percentiles that have a tick, by their nines.
fn ticks(nines_max: f64, is_narrow: bool) -> Vec<(f64, String)> {
    let mut ticks = vec![(0.0, "0 %".to_owned())];
    if !is_narrow {
        ticks.extend([(0.5_f64, "50 %"), (0.75, "75 %")].map(|(p, text)| (-(1.0 - p).log10(), text.to_owned())));
        if nines_max > 5.0 {
            ticks.pop();
        }
    }
    for nines in 1..=nines_max as usize {
        let text = match nines {
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            nines => format!("99.{} %", "9".repeat(nines - 2)),
        };
        ticks.push((nines as f64, text));
    }
    if is_narrow && ticks.len() > 5 {
        // The last ones are wide.
        ticks.retain(|(nines, _)| *nines != 1.0 && *nines != 3.0);
    }
    ticks
}

fn curve(histogram: &Histogram<u64>, x: impl Fn(f64) -> f64, latency: &Latency) -> Vec<(f64, f64)> {
    let end = nines(histogram);
    let steps = (end * POINTS_PER_NINE as f64) as usize;
    let mut points: Vec<(f64, f64)> = (0..=steps)
        .map(|step| {
            let nines = step as f64 / steps as f64 * end;
            (x(nines), latency.y(at(histogram, 1.0 - 10_f64.powf(-nines)) as f64))
        })
        .collect();
    points.push((x(end), latency.y(histogram.max() as f64)));
    // Of a flat stretch, the ends are enough.
    let flat = |index: usize| {
        index > 0
            && index + 1 < points.len()
            && points[index - 1].1 == points[index].1
            && points[index].1 == points[index + 1].1
    };
    (0..points.len()).filter(|index| !flat(*index)).map(|index| points[index]).collect()
}
