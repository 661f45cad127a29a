//! `ringest report`: percentile tables and plots of histogram logs.

use super::check::print;
use super::{Failure, exit, tell};
use crate::report::{Run, read, table, to_json, write};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Arguments of `ringest report`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Histogram logs, each with a name for tables and plots if the file's own is not to be it
    #[arg(required = true, value_name = "[NAME=]FILE")]
    logs: Vec<String>,
    /// Write report.html, a .hgrm file for each log and tag, and each plot as .svg into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of tables: times in seconds, latencies in nanoseconds
    #[arg(long)]
    json: bool,
    /// Leave out what begins before so many seconds after a log's start, such as a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    from: f64,
    /// Leave out what begins so many seconds after a log's start, or later
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    to: Option<f64>,
    /// This tag alone; can be given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The unit of the logs' values
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Unit::Ns)]
    unit: Unit,
    /// Title of the page
    #[arg(long, value_name = "TEXT", default_value = "Latency report")]
    title: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Unit {
    /// Nanoseconds
    Ns,
    /// Microseconds
    Us,
    /// Milliseconds
    Ms,
}

const HELP: &str = "\
Logs are what `ringest run --histogram-log` writes, or any HdrHistogram interval log whose histograms are in encoding V2, deflated or not, with
or without tags. Several logs are compared: the ratios are to the first. A last line that a crash broke off is told and left out.
Percentiles are exact to the log's precision: 1 % in logs of ringest.
The page needs nothing from elsewhere; .hgrm files are what HdrHistogram's plotter reads, in milliseconds.
  ringest report --out report latency.hlog
  ringest report --from 5 --out report before=a.hlog after=b.hlog";

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or_else(|| "no number of seconds".to_owned())
}

/// Runs the command.
///
/// # Errors
/// A log that cannot be read, a directory that cannot be written.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let runs = read_all(&arguments)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&to_json(&runs)).expect("numbers and texts");
        print(&format!("{text}\n"))?;
    } else {
        print(&table::text(&runs))?;
    }
    if let Some(directory) = &arguments.out {
        let written = write::write(directory, &runs, &arguments.title)
            .map_err(|(path, error)| Failure::new(exit::FAILURE, format!("{}: {error}", path.display())))?;
        tell(&format!("{} and {} more files\n", written[0].display(), written.len() - 1));
    }
    Ok(())
}

fn read_all(arguments: &Arguments) -> Result<Vec<Run>, Failure> {
    let unit_ns = match arguments.unit {
        Unit::Ns => 1,
        Unit::Us => 1_000,
        Unit::Ms => 1_000_000,
    };
    let options = read::Options { from_s: arguments.from, to_s: arguments.to.unwrap_or(f64::INFINITY), unit_ns };
    let named: Vec<(String, PathBuf)> = arguments.logs.iter().map(|log| named(log)).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (name, path) in &named {
        // Files of the same name in several directories are told apart by these.
        let is_double = named.iter().filter(|(other, _)| other == name).count() > 1;
        let file = path.display().to_string();
        let name = if is_double { &file } else { name };
        if runs.iter().any(|run| run.name == *name) {
            return Err(Failure::new(exit::USAGE, format!("{name} is given twice")));
        }
        let log = File::open(path).map_err(|error| Failure::new(exit::FAILURE, format!("{file}: {error}")))?;
        let mut run = read::read(BufReader::new(log), name, &file, options)?;
        if !arguments.tag.is_empty() {
            let wanted = |name: &str| arguments.tag.iter().any(|tag| tag == name);
            let found: Vec<String> = run.tags.iter().map(|tagged| tagged.name().to_owned()).collect();
            run.tags.retain(|tagged| wanted(tagged.name()));
            if run.tags.is_empty() {
                let found = found.join(", ");
                return Err(Failure::new(exit::FAILURE, format!("{file}: no such tag; it has {found}")));
            }
        }
        runs.push(run);
    }
    Ok(runs)
}

/// A log's name and path. What is there as a file needs no name.
fn named(log: &str) -> (String, PathBuf) {
    if !Path::new(log).exists()
        && let Some((name, path)) = log.split_once('=')
        && !name.is_empty()
    {
        return (name.to_owned(), PathBuf::from(path));
    }
    let stem = Path::new(log).file_stem().map_or(log.into(), |stem| stem.to_string_lossy());
    (stem.into_owned(), PathBuf::from(log))
}
