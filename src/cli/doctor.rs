//! `ringest doctor`: what this machine offers, and what to do about what is missing. It opens no port, and changes nothing but what it is
//! asked to: it removes block files that no gateway will read any more.

use super::checks::{
    Blocks, Check, Level, PortFound, blocks_check, io_uring_check, look_at_port, ok, render, size,
    state_directory_checks, verdict, warning,
};
use super::{Failure, exit};
use crate::engine::probe::{self, KERNEL_MIN, Report};
use crate::engine::{LeftOver, left_over, remove_orphan};
use crate::source::serial;
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

/// Arguments of `ringest doctor`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where journals will live [default: /var/lib/ringest]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A serial port that must be there and usable; may be given more than once
    #[arg(long = "port", value_name = "PATH")]
    ports: Vec<PathBuf>,
    /// Where block files will live (journal.blocks)
    #[arg(long, value_name = "DIR", default_value = BLOCKS)]
    blocks: PathBuf,
    /// Remove block files of this user's killed gateways that nobody needs any more
    #[arg(long)]
    remove_orphans: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const BLOCKS: &str = "/dev/shm";
const STATE_DIR: &str = "/var/lib/ringest";
/// What a core with the default limits opens: 16,384 connections, and its own files.
const OPEN_FILES_PER_CORE: u64 = 16_384 + 256;
/// The default window of a core in memory.
const WINDOW_BYTES: u64 = 32 << 20;
/// Of the state directory: the default bound of the journal.
const JOURNAL_BYTES: u64 = 1 << 30;

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    ok: bool,
    exit_code: u8,
    checks: &'a [Check],
    report: &'a Report,
    /// Block files that no process has in use and no state directory is known to need.
    left_over: &'a [LeftOver],
}

/// Runs the command.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let report = probe::report(arguments.state_dir.as_deref().unwrap_or(Path::new(STATE_DIR)), &arguments.blocks);
    let mut checks = machine_checks(&report, &arguments);
    // A directory that cannot be listed is told already.
    let left = left_over(&arguments.blocks).unwrap_or_default();
    checks.extend(left.iter().map(|left| left_over_check(left, &arguments)));
    checks.extend(port_checks(&arguments.ports));
    let problem = checks.iter().find(|check| check.level == Level::Problem);
    let exit_code = problem.map_or(0, |check| check.exit_code);
    let text = if arguments.json {
        let document = Document { ok: exit_code == 0, exit_code, checks: &checks, report: &report, left_over: &left };
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        format!(
            "ringest {} on Linux {}\n\n{}\n{}",
            env!("CARGO_PKG_VERSION"),
            report.kernel.release,
            render(&checks, std::io::stdout().is_terminal()),
            verdict(&checks, "ringest can run here", "ringest cannot run here as it is"),
        )
    };
    std::io::stdout().write_all(text.as_bytes())?;
    match problem {
        None => Ok(()),
        Some(Check { what, found, remedy: Some(remedy), .. }) => {
            Err(Failure::new(exit_code, format!("{what}: {found}: {remedy}")))
        }
        Some(check) => Err(Failure::new(exit_code, check.found.clone())),
    }
}

fn machine_checks(report: &Report, arguments: &Arguments) -> Vec<Check> {
    let mut checks = vec![kernel_check(report), io_uring_check(&report.io_uring), open_files_check(report)];
    checks.push(match report.ptys {
        Some(ptys) => ok("ptys", format!("{} open of at most {} (kernel.pty.max)", ptys.open, ptys.max)),
        None => warning("ptys", "none", "only simulated machines need them: mount devpts"),
    });
    checks.extend(state_directory_checks(&report.state_directory, arguments.state_dir.is_some(), JOURNAL_BYTES));
    checks.push(blocks_check(&Blocks {
        path: &arguments.blocks,
        found: report.blocks.as_ref(),
        state: &report.state_directory,
        durability: None,
        window_bytes: WINDOW_BYTES,
        cores: report.cpus as u64,
    }));
    checks
}

/// A block file that is left over. It is removed where that is asked for and certain to cost nothing.
fn left_over_check(left: &LeftOver, arguments: &Arguments) -> Check {
    let (path, bytes) = (left.path.display(), size(left.bytes));
    let what = "orphan";
    if !left.is_orphan {
        let remedy = format!("once you know that no gateway needs it: `rm {path}`");
        return warning("block file", format!("{path} takes {bytes}, and {}", left.why), remedy);
    }
    let found = format!("{path} takes {bytes}: {}", left.why);
    if !arguments.remove_orphans {
        let place = match arguments.blocks == Path::new(BLOCKS) {
            true => String::new(),
            false => format!(" --blocks {}", arguments.blocks.display()),
        };
        return warning(what, found, format!("`ringest doctor{place} --remove-orphans` removes it"));
    }
    match remove_orphan(left) {
        Ok(()) => ok(what, format!("{found}; removed")),
        Err(error) if error.kind() == ErrorKind::NotFound => ok(what, format!("{path} is gone, or in use by now")),
        Err(error) => warning(what, format!("{found}; not removed ({error})"), format!("remove it: `rm {path}`")),
    }
}

fn kernel_check(report: &Report) -> Check {
    let release = &report.kernel.release;
    let (major, minor) = KERNEL_MIN;
    if report.kernel.recent {
        return ok("kernel", format!("Linux {release}"));
    }
    let remedy = format!("Linux {major}.{minor} is the oldest that is tested; what counts is io_uring, below");
    warning("kernel", format!("Linux {release}"), remedy)
}

fn open_files_check(report: &Report) -> Check {
    let files = report.open_files;
    let found = format!("soft limit {}, hard limit {}; `run` raises soft to hard", files.soft, files.hard);
    let wanted = OPEN_FILES_PER_CORE * report.cpus as u64;
    if files.hard >= wanted {
        return ok("open files", found);
    }
    warning(
        "open files",
        found,
        format!("for 16,384 connections on each core: LimitNOFILE={wanted} in the unit, or `ulimit -Hn`"),
    )
}

/// The ports that were asked for, where anything missing is a problem; then those found.
fn port_checks(asked: &[PathBuf]) -> Vec<Check> {
    let mut checks: Vec<Check> = asked.iter().map(|path| port_check(path, true)).collect();
    let found = serial::ports(Path::new("/"));
    let found = found.iter().map(|port| &port.path);
    checks.extend(found.filter(|path| !asked.contains(path)).map(|path| port_check(path, false)));
    if checks.is_empty() {
        checks.push(ok("serial ports", "none found"));
    }
    checks
}

fn port_check(path: &Path, asked: bool) -> Check {
    let what = path.display().to_string();
    let (check, code) = match look_at_port(path) {
        PortFound::Free => return ok(&what, "may be opened"),
        PortFound::Held(holders) => {
            let holders = serial::holder_words(&holders).expect("there are some");
            return warning(&what, format!("in use by {holders}"), "end that process, unless it is the gateway");
        }
        PortFound::Missing => (warning(&what, "no such port", "plug it in, or correct the path"), exit::MISSING),
        PortFound::NoPort => {
            (warning(&what, "not a serial port", "name a tty: `ringest ports` lists them"), exit::CONFIG)
        }
        PortFound::Forbidden(remedy) => (warning(&what, "permission denied", remedy), exit::PERMISSION),
    };
    if asked { Check { level: Level::Problem, exit_code: code, ..check } } else { check }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_asked_for_is_a_problem_where_a_found_one_is_a_warning() {
        for (path, code) in [("/dev/no-such-port", exit::MISSING), ("/tmp", exit::CONFIG)] {
            let asked = port_check(Path::new(path), true);
            assert_eq!((asked.level, asked.exit_code), (Level::Problem, code));
            let found = port_check(Path::new(path), false);
            assert_eq!((found.level, found.exit_code), (Level::Warning, 0));
        }
    }
}
