//! Tables for a terminal: of one run a line a tag, of several runs a column a run.

use super::{QUANTILES, Run, Tagged, at, describe, tag_name, tags, unit};

/// The figures of a run under a tag: the name of each, its value, and its text.
pub fn figures(run: &Run, tagged: &Tagged) -> Vec<(&'static str, f64, String)> {
    let whole = &tagged.whole;
    let rate = whole.len() as f64 / run.length_s();
    let mut figures =
        vec![("count", whole.len() as f64, unit::count(whole.len() as f64)), ("rate", rate, unit::count(rate) + "/s")];
    let latencies = [("mean", whole.mean())]
        .into_iter()
        .chain(QUANTILES.map(|(quantile, name, _)| (name, at(whole, quantile) as f64)))
        .chain([("max", whole.max() as f64)]);
    figures.extend(latencies.map(|(name, ns)| (name, ns, unit::latency(ns))));
    figures
}

/// All of it, with notes below.
pub fn text(runs: &[Run]) -> String {
    let mut text = match runs {
        [run] => one(run),
        runs => several(runs),
    };
    for run in runs {
        for note in &run.notes {
            text.push_str(&format!("{}: {note}\n", run.file));
        }
    }
    text
}

fn one(run: &Run) -> String {
    let mut rows = Vec::new();
    for tagged in &run.tags {
        let figures = figures(run, tagged);
        if rows.is_empty() {
            let names = figures.iter().map(|(name, ..)| (*name).to_owned());
            rows.push([String::new()].into_iter().chain(names).collect());
        }
        rows.push([tagged.name().to_owned()].into_iter().chain(figures.into_iter().map(|(.., text)| text)).collect());
    }
    format!("{}: {}\n\n{}", run.name, unit::span(run.length_s()), aligned(&rows))
}

fn several(runs: &[Run]) -> String {
    let mut text = String::new();
    for tag in tags(runs) {
        let description = describe(tag).map_or(String::new(), |words| format!(": {words}"));
        text.push_str(&format!("{}{description}\n\n", tag_name(tag)));
        text.push_str(&aligned(&compared(runs, tag)));
        text.push('\n');
    }
    text
}

/// A column a run, each but the first with its ratio to the first.
fn compared(runs: &[Run], tag: Option<&str>) -> Vec<Vec<String>> {
    let columns: Vec<_> = runs.iter().map(|run| run.tagged(tag).map(|tagged| figures(run, tagged))).collect();
    let names = columns.iter().flatten().next().expect("a tag of one of them").iter().map(|(name, ..)| *name);
    let mut rows = vec![vec![String::new()]];
    for (index, run) in runs.iter().enumerate() {
        rows[0].push(run.name.clone());
        if index > 0 {
            rows[0].push(String::new());
        }
    }
    for (row, name) in names.enumerate() {
        let mut cells = vec![name.to_owned()];
        let first = columns[0].as_ref().map(|figures| figures[row].1);
        for (index, column) in columns.iter().enumerate() {
            let figure = column.as_ref().map(|figures| &figures[row]);
            cells.push(figure.map_or("-".to_owned(), |(.., text)| text.clone()));
            if index > 0 {
                let ratio = figure.zip(first).map(|((_, value, _), first)| unit::ratio(*value, first));
                cells.push(ratio.unwrap_or_default());
            }
        }
        rows.push(cells);
    }
    rows
}

/// The first column to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("  {:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
