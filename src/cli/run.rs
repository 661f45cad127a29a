//! `ringest run`: the gateway, until SIGTERM or Ctrl-C.

use super::{Failure, duration, exit, tell};
use crate::config;
use crate::engine::{self, EngineError, ListenError, LockError, Summary};
use crate::ground::count::Stage;
use crate::observe::histlog::HistogramLogError;
use crate::source::serial::{self, PortError};
use nix::sys::signal::{SigSet, Signal};
use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;
use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Arguments of `ringest run`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// The configuration file
    config: PathBuf,
    /// Write this file once records are taken; it holds the admin server's address
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Log the latencies of each stage here, as HdrHistogram V2 interval logs that `ringest report` and others read
    #[arg(long, value_name = "FILE")]
    histogram_log: Option<PathBuf>,
    /// How long an interval of that log is: 1s, 500ms, 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval, requires = "histogram_log")]
    histogram_interval: Duration,
}

const HELP: &str = "\
SIGTERM or Ctrl-C ends intake, delivers what it can within [deliver] drain, keeps the rest for the next start and exits with 0.
A second signal ends at once; what was accepted is kept.
SIGHUP has the configuration read again. Sources that are as they were keep their ports and connections; of removed ones what was
received is delivered. A file with problems, or one that changes [gateway], [journal] (but for when_full) or the read buffers, changes
nothing: why is in the log, in `ringest status` and in the metrics (ringest_config_last_reload_successful).
--histogram-log FILE is appended to: some 2 KiB an interval under load, nothing while no record comes. A tag for each stage: frame (first
byte to frame end), journaled (to the journal's block), durable (to committed; at level power), id (block to the id's answer; with
[sequence]), answered (to the record's answer), whole (first byte to answer). Values are nanoseconds. A file that was renamed or deleted is made
anew within an interval, so rotating it needs no signal. If it cannot be written any more, the log says so, the gateway goes on, and the
next interval that can be written holds what is missing. `ringest report FILE` shows tables and plots.
RUST_LOG sets what is logged (default: info).
`ringest check --online CONFIG` says beforehand what would go wrong.

Exit codes, each with one line that says what to do:
  0   stopped as asked
  1   failed for a reason without a code of its own
  2   wrong command line
  3   the configuration cannot be used
  4   io_uring is forbidden or the kernel is too old
  5   another gateway holds the state directory (its process is named)
  6   an address, or a serial port with on_missing = \"fail\", is in use (by whom is named)
  7   permission denied on the state directory (also where it is read-only), an address, or a serial port with on_missing = \"fail\"
  8   a serial port with on_missing = \"fail\" is not there
  9   the journal cannot be opened, or could not be written to its end: the next start takes the rest from its block file
  130 ended at once by a second Ctrl-C, 143 by a second SIGTERM";

/// Runs the command.
///
/// # Errors
/// With the exit code of its kind, see `--help`.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    start_log();
    // Whoever started this may have blocked them, and a blocked signal would not be heard.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_unblock()?;
    // A file beyond RLIMIT_FSIZE is an error to be handled (EFBIG), not a reason to die: setrlimit(2). Threads inherit this.
    SigSet::from_iter([Signal::SIGXFSZ]).thread_block()?;
    let checked = config::check_here(&arguments.config, &serial::look)
        .map_err(|problems| Failure::new(exit::CONFIG, problems.to_string()))?;
    for note in &checked.notes {
        warn!("{note}");
    }
    let options = engine::Options {
        ready_file: arguments.ready_file,
        histogram_log: arguments.histogram_log.map(|path| (path, arguments.histogram_interval)),
        config: Some(arguments.config),
        stop: None,
    };
    match engine::run(checked.settings, options) {
        Ok(summary) => {
            tell(&text(&summary));
            if !summary.unwritten.is_empty() {
                return Err(Failure::new(exit::JOURNAL, summary.unwritten.join("\n")));
            }
        }
        Err(stopped @ EngineError::Stopped { .. }) => tell(&format!("ringest: {stopped}\n")),
        Err(error) => return Err(Failure::new(code(&error), error.to_string())),
    }
    Ok(())
}

/// How long an interval of the histogram log is.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
    if allowed.contains(&interval) { Ok(interval) } else { Err("100ms to 1h".to_owned()) }
}

/// Lines on standard error. The journal of the system adds its own time.
fn start_log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A log that cannot be written, on a full disk or into a pipe that nobody reads, is no reason to panic.
    let log = log.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    // A second subscriber, in a program that has one already, is not needed.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = log.without_time().try_init();
    } else {
        let _ = log.try_init();
    }
}

/// The exit code of an error.
fn code(error: &EngineError) -> u8 {
    let of_io = |error: &std::io::Error, other| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => exit::PERMISSION,
        _ => other,
    };
    match error {
        EngineError::Probe(_) => exit::NO_IO_URING,
        EngineError::StateDirectory { error, .. } => of_io(error, exit::FAILURE),
        EngineError::Lock(LockError::Held { .. }) => exit::LOCKED,
        EngineError::Lock(LockError::File { error, .. }) => of_io(error, exit::FAILURE),
        EngineError::Listen(ListenError::Busy { .. }) => exit::BUSY,
        EngineError::Listen(ListenError::Permission { .. }) => exit::PERMISSION,
        EngineError::Port { error, .. } => match error {
            PortError::Missing => exit::MISSING,
            PortError::Busy { .. } => exit::BUSY,
            PortError::Permission { .. } => exit::PERMISSION,
            PortError::NoTty { .. } | PortError::Other(_) => exit::FAILURE,
        },
        EngineError::Journal { .. } | EngineError::JournalDirectory { .. } => exit::JOURNAL,
        EngineError::HistogramLog(HistogramLogError::Io { error, .. }) => of_io(error, exit::FAILURE),
        EngineError::Stopped { .. } => 0,
        EngineError::Listen(ListenError::Other { .. })
        | EngineError::HistogramLog(_)
        | EngineError::Ring { .. }
        | EngineError::Thread(_)
        | EngineError::ReadyFile { .. } => exit::FAILURE,
    }
}

/// The last lines of a run: the accounting identity, latencies, cost.
fn text(summary: &Summary) -> String {
    let terms = &summary.report.terms;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "ringest: received {} + recovered {} = delivered {} + pending {} + parked {} + rejected {} + discarded {}{}",
        terms.received,
        terms.recovered,
        terms.delivered,
        terms.pending,
        terms.parked,
        terms.rejected,
        terms.discarded,
        if terms.balance() { "" } else { " DOES NOT HOLD" },
    );
    for (core, (first, last)) in
        summary.report.shards.iter().flat_map(|shard| shard.unused_ids.iter().map(|ids| (shard.core, ids)))
    {
        let _ = writeln!(
            text,
            "ringest: core {core} leased the ids {first} to {last} and did not use them: the next start does"
        );
    }
    let whole = summary.report.stages.stage(Stage::Whole);
    if !whole.is_empty() {
        let at = |quantile| Duration::from_micros(whole.value_at_quantile(quantile) / 1000);
        let _ = writeln!(
            text,
            "ringest: first byte to delivered: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
        );
    }
    let records = terms.received + terms.recovered;
    let per_record = (records > 0).then(|| summary.usage.cpu_s() * 1e6 / records as f64);
    let per_record = per_record.map_or(String::new(), |us| format!(", {us:.1} µs of CPU a record"));
    let _ = writeln!(
        text,
        "ringest: up {:.1} s, {:.2} s of CPU{per_record}, at most {} MiB of memory",
        summary.uptime.as_secs_f64(),
        summary.usage.cpu_s(),
        summary.rss_bytes_max >> 20,
    );
    text
}
