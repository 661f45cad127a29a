//! `ringest demo`.

use super::check::print;
use super::{Failure, duration, exit};
use crate::demo::{self, Durability, Event, Options, Progress, report};
use crate::ground::text::grouped;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `ringest demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Machines on ptys
    #[arg(long, value_name = "N", default_value_t = 16)]
    machines: usize,
    /// Machines over TCP as well
    #[arg(long, value_name = "N", default_value_t = 0)]
    tcp: usize,
    /// Machines over HTTP as well
    #[arg(long, value_name = "N", default_value_t = 0)]
    http: usize,
    /// Records per second per machine
    #[arg(long, value_name = "R", default_value = "20", value_parser = super::simulate::rate)]
    rate: f64,
    /// How long the machines send
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// What a kept record survives
    #[arg(long, value_enum, default_value_t = Durability::Power)]
    durability: Durability,
    /// Cores of the gateway
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::simulate::at_least_one)]
    cores: usize,
    /// Fetch an id for each record, then post the record (the default)
    #[arg(long, conflicts_with = "one_step")]
    two_step: bool,
    /// Post each record at once, without an id
    #[arg(long)]
    one_step: bool,
    /// Connections of the gateway to the API, per core
    #[arg(long, value_name = "N", default_value_t = Options::default().connections, value_parser = super::simulate::at_least_one)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = Options::default().pipeline, value_parser = super::simulate::at_least_one)]
    pipeline: usize,
    /// Leave films.sqlite, ledger.csv, configuration and logs in this new directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Show the pages after the end, too, until Ctrl-C
    #[arg(long)]
    hold: bool,
    /// In the middle, kill the gateway with kill -9, stop the service and unplug a line; then verify as always
    #[arg(long)]
    chaos: bool,
    /// One line of JSON on standard output; the result in words goes to standard error then
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Exits with 0 only if every record that the machines sent is in the database once, in order per machine, and with 10 if not.
With --chaos, what was on a serial or TCP line at the kill may be missing, for no line can be asked again: it is counted in the result.
Ctrl-C ends the machines early; what they sent is still delivered and verified. A second Ctrl-C ends everything.";

/// Runs the command.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    if arguments.machines + arguments.tcp + arguments.http == 0 {
        return Err(Failure::new(exit::USAGE, "no machines: use --machines N, --tcp N or --http N"));
    }
    let options = Options {
        machines: arguments.machines,
        tcp: arguments.tcp,
        http: arguments.http,
        rate: arguments.rate,
        duration: arguments.duration,
        durability: arguments.durability,
        cores: arguments.cores,
        two_step: !arguments.one_step,
        connections: arguments.connections,
        pipeline: arguments.pipeline,
        keep: arguments.keep,
        hold: arguments.hold,
        chaos: arguments.chaos,
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut display = Display::new(&options);
    let outcome = demo::run(&options, &stop, &mut |event| display.show(event));
    display.clear();
    let outcome = outcome?;
    let result = report::text(&options, &outcome);
    if arguments.json {
        eprint!("\n{result}")
    } else {
        print(&format!("\n{result}"))?
    }
    if let Some(directory) = &options.keep {
        eprintln!("Kept         {} (database {}, ledger {})", directory.display(), demo::DATABASE, demo::LEDGER);
    }
    if arguments.json {
        println!("{}", report::json(&outcome));
    }
    if outcome.holds() {
        Ok(())
    } else {
        Err(Failure::new(exit::NOT_OK, "the demonstration did not deliver what it should; see above"))
    }
}

/// A moving bar on a terminal, a line a second elsewhere; on standard error.
struct Display {
    bar: Option<ProgressBar>,
    next_line: Instant,
    last: (Duration, u64),
    rate: f64,
}

impl Display {
    fn new(options: &Options) -> Self {
        eprintln!(
            "{} machines on ptys, {} over TCP, {} over HTTP; {} records per second each for {:?}",
            options.machines, options.tcp, options.http, options.rate, options.duration
        );
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} [{bar:24}] {msg}")
                .expect("a valid template")
                .progress_chars("=> ");
            let bar = ProgressBar::new(options.records()).with_style(style).with_message("starting");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, next_line: Instant::now(), last: (Duration::ZERO, 0), rate: 0.0 }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Pages { receiver, gateway } => {
                self.say(&format!("records as they arrive: {receiver}\nthe gateway:            {gateway}"));
            }
            Event::Chaos(words) => self.say(&words),
            Event::Stopping => self.say("ending; once more to end at once"),
            Event::Holding => {
                self.clear();
                eprintln!("all has arrived; the pages stay until Ctrl-C, and the result comes then");
            }
            Event::Progress(progress) => self.progress(&progress),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let Progress { elapsed, sent, terms, draining } = progress;
        let since = elapsed.saturating_sub(self.last.0);
        if since >= Duration::from_millis(900) {
            self.rate = terms.delivered.saturating_sub(self.last.1) as f64 / since.as_secs_f64();
            self.last = (*elapsed, terms.delivered);
        }
        let text = format!(
            "sent {} · received {} · delivered {} · pending {} · {}/s{}",
            grouped(*sent),
            grouped(terms.received),
            grouped(terms.delivered),
            grouped(terms.pending),
            grouped(self.rate as u64),
            if *draining { " · machines done" } else { "" },
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(terms.delivered);
                bar.set_message(text);
            }
            None if Instant::now() >= self.next_line => {
                eprintln!("{:>5.1} s  {text}", elapsed.as_secs_f64());
                self.next_line = Instant::now() + Duration::from_secs(1);
            }
            None => {}
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
