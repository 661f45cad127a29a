//! The command line: one file a command. Commands print for people on standard error and results on standard output.

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::process::ExitCode;

pub mod cert;
pub mod check;
mod checks;
pub mod config;
mod decide;
pub mod demo;
pub mod doctor;
mod duration;
pub mod frame;
mod handshake;
mod online;
pub mod ports;
pub mod queue;
pub mod receive;
pub mod report;
pub mod run;
mod send_test;
pub mod simulate;
pub mod status;
mod token;
mod tried;

/// Exit codes of fatal problems, as `--help` documents them.
pub mod exit {
    /// Anything that has no code of its own.
    pub const FAILURE: u8 = 1;
    /// Wrong command line (clap's own code).
    pub const USAGE: u8 = 2;
    /// The configuration cannot be used.
    pub const CONFIG: u8 = 3;
    /// The kernel or a sandbox forbids io_uring, or the kernel is too old.
    pub const NO_IO_URING: u8 = 4;
    /// Another gateway holds the state directory.
    pub const LOCKED: u8 = 5;
    /// A listener's address or a serial port is in use.
    pub const BUSY: u8 = 6;
    /// Permission denied on a port, an address or the state directory.
    pub const PERMISSION: u8 = 7;
    /// A port with `on_missing = "fail"` is not there.
    pub const MISSING: u8 = 8;
    /// The journal cannot be opened or written.
    pub const JOURNAL: u8 = 9;
    /// The command ran, and what it checked does not hold (`demo`, `check`, `frame`, `queue`, `status`).
    pub const NOT_OK: u8 = 10;
}

/// An error for the person at the terminal, with the exit code of its kind.
#[derive(Debug)]
pub struct Failure {
    /// One of [`exit`].
    pub code: u8,
    /// What happened, where, what to do; one or more lines without a trailing newline.
    pub message: String,
}

impl Failure {
    /// A failure with a code and a message.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(exit::FAILURE, error.to_string())
    }
}

const EXIT_CODES: &str = "Exit codes:
  0   done
  1   failed for a reason without a code of its own
  2   wrong command line
  3   the configuration cannot be used
  4   io_uring is forbidden or the kernel is too old
  5   another gateway holds the state directory
  6   an address or a serial port is in use
  7   permission denied
  8   a port with on_missing = \"fail\" is not there
  9   the journal cannot be opened or written
  10  a check did not hold (demo, check, frame, queue, status)";

/// From many machines (serial ports, TCP, HTTP) through a durable journal to a REST API, on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringest", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    Run(run::Arguments),
    /// Simulated machines, gateway and receiver as one command; ends with the accounting and a latency table
    Demo(demo::Arguments),
    /// Simulate machines on ptys, over TCP or over HTTP
    Simulate(Box<simulate::Arguments>),
    /// Serve the film API on SQLite, with a live page
    Receive(receive::Arguments),
    /// Check a configuration and say every problem in it
    Check(check::Arguments),
    /// Try a framing on captured bytes: records, and what is rejected and why
    Frame(Box<frame::Arguments>),
    /// Show what a running gateway does
    Status(status::Arguments),
    /// What waits to be delivered: list, show or export it; check a journal, acknowledge what is missing
    Queue(queue::Arguments),
    /// Percentile tables and plots of histogram logs, one or several compared
    Report(report::Arguments),
    /// Print what this machine offers: kernel, io_uring, limits, file systems, ports
    Doctor(doctor::Arguments),
    /// List serial ports with their stable names, adapters and users, without opening them
    Ports(ports::Arguments),
    /// Draw a token for machines that send by HTTP, and the line that lets them in
    Token(token::Arguments),
    /// Make a CA, certificates for the gateway and its machines, and lists of what was revoked
    Cert(cert::Arguments),
    /// Print a complete, commented configuration
    Config(config::Arguments),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run(arguments) => run::main(arguments),
        Command::Demo(arguments) => demo::main(arguments),
        Command::Simulate(arguments) => simulate::main(*arguments),
        Command::Receive(arguments) => receive::main(arguments),
        Command::Check(arguments) => check::main(arguments),
        Command::Frame(arguments) => frame::main(*arguments),
        Command::Status(arguments) => status::main(arguments),
        Command::Queue(arguments) => queue::main(arguments),
        Command::Report(arguments) => report::main(arguments),
        Command::Doctor(arguments) => doctor::main(arguments),
        Command::Ports(arguments) => ports::main(arguments),
        Command::Token(arguments) => token::main(arguments),
        Command::Cert(arguments) => cert::main(arguments),
        Command::Config(arguments) => config::main(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&format!("ringest: {}\n", failure.message));
            ExitCode::from(failure.code)
        }
    }
}

/// Writes to standard error as far as that can be: `eprint!` panics where it cannot.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
