//! `ringest doctor`: what this machine offers, and what to do about what is missing. It changes nothing and opens no port.

use super::{Failure, exit};
use crate::engine::probe::{self, KERNEL_MIN, ProbeError, Report, SharedMemory, StateDirectory};
use crate::source::serial;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::FileTypeExt;
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
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const STATE_DIR: &str = "/var/lib/ringest";
/// What a core with the default limits opens: 16,384 connections, and its own files.
const OPEN_FILES_PER_CORE: u64 = 16_384 + 256;
/// The default window of a core in memory.
const WINDOW_BYTES: u64 = 32 << 20;
/// Of the state directory: the default bound of the journal.
const JOURNAL_BYTES: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Problem,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    level: Level,
    what: String,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// The exit code of a problem; 0 otherwise.
    exit_code: u8,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    ok: bool,
    exit_code: u8,
    checks: &'a [Check],
    report: &'a Report,
}

/// Runs the command.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let report = probe::report(arguments.state_dir.as_deref().unwrap_or(Path::new(STATE_DIR)));
    let mut checks = machine_checks(&report, arguments.state_dir.is_some());
    checks.extend(port_checks(&arguments.ports));
    let problem = checks.iter().find(|check| check.level == Level::Problem);
    let exit_code = problem.map_or(0, |check| check.exit_code);
    let text = if arguments.json {
        let document = Document { ok: exit_code == 0, exit_code, checks: &checks, report: &report };
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        render(&checks, &report.kernel.release, std::io::stdout().is_terminal())
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

fn ok(what: &str, found: impl Into<String>) -> Check {
    Check { level: Level::Ok, what: what.to_owned(), found: found.into(), remedy: None, exit_code: 0 }
}

fn warning(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { level: Level::Warning, remedy: Some(remedy.into()), ..ok(what, found) }
}

fn problem(what: &str, found: impl Into<String>, exit_code: u8) -> Check {
    Check { level: Level::Problem, exit_code, ..ok(what, found) }
}

fn machine_checks(report: &Report, state_dir_given: bool) -> Vec<Check> {
    let mut checks = vec![kernel_check(report), io_uring_check(&report.io_uring), open_files_check(report)];
    checks.push(match report.ptys {
        Some(ptys) => ok("ptys", format!("{} open of at most {} (kernel.pty.max)", ptys.open, ptys.max)),
        None => warning("ptys", "none", "only simulated machines need them: mount devpts"),
    });
    checks.extend(state_directory_checks(&report.state_directory, state_dir_given));
    checks.push(shared_memory_check(report.shared_memory.as_ref(), report.cpus as u64));
    checks
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

fn io_uring_check(found: &Result<probe::Features, ProbeError>) -> Check {
    let basis = "deferred task work (so buffer rings, multishot accept and recv)";
    match found {
        Ok(probe::Features { read_multishot: true }) => ok("io_uring", format!("{basis}, READ_MULTISHOT")),
        Ok(probe::Features { read_multishot: false }) => warning(
            "io_uring",
            format!("{basis}, no READ_MULTISHOT"),
            "serial ports are read by single reads, at some cost; Linux 6.7 has it",
        ),
        Err(error) => problem("io_uring", error.to_string(), exit::NO_IO_URING),
    }
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

fn state_directory_checks(found: &StateDirectory, given: bool) -> Vec<Check> {
    let what = "state directory";
    let path = found.path.display();
    let examined = found.examined.display();
    let remedy =
        "make it and give it to the user of the service (StateDirectory=ringest in a unit), or name another one";
    let mut checks = Vec::new();
    match &found.write_problem {
        Some(error) if found.exists || given => {
            let text = format!("{examined} cannot be written ({error})");
            checks.push(Check { remedy: Some(remedy.to_owned()), ..problem(what, text, exit::PERMISSION) });
            return checks;
        }
        Some(error) => {
            checks.push(warning(
                what,
                format!("{path} is not there, and {examined} cannot be written ({error})"),
                remedy,
            ));
            return checks;
        }
        None => {}
    }
    let mut text = if found.exists { path.to_string() } else { format!("{path} is not there yet; {examined}") };
    let _ = write!(text, " is on {}", found.file_system.as_deref().unwrap_or("an unknown file system"));
    let free = found.free_bytes.unwrap_or(0);
    let _ = write!(text, ", {} free", size(free));
    checks.push(if free >= JOURNAL_BYTES {
        ok(what, text)
    } else {
        warning(what, text, "the journal may grow to 1 GiB unless max_size is less")
    });
    checks.push(direct_io_check(found));
    checks
}

fn direct_io_check(found: &StateDirectory) -> Check {
    if let Some(error) = &found.direct_io_problem {
        let remedy =
            "blocks are written through the page cache and synced, which takes longer; ext4 and xfs have O_DIRECT";
        return warning("direct I/O", format!("refused ({error})"), remedy);
    }
    let mut text = "O_DIRECT works".to_owned();
    if let (Some(offset), Some(memory)) = (found.offset_align_bytes, found.memory_align_bytes) {
        let _ = write!(text, ", offsets by {offset} B, memory by {memory} B");
    }
    match (found.physical_block_bytes, found.logical_block_bytes) {
        (Some(physical), Some(logical)) => {
            let _ = write!(text, "; blocks of {physical} B (logical {logical} B)");
        }
        _ => text.push_str("; the device does not tell its blocks"),
    }
    ok("direct I/O", text)
}

fn shared_memory_check(found: Option<&SharedMemory>, cores: u64) -> Check {
    let what = "/dev/shm";
    let elsewhere = "blocks go to the state directory instead, and are written back more often";
    let Some(found) = found else { return warning(what, "not there", elsewhere) };
    if let Some(error) = &found.write_problem {
        return warning(what, format!("cannot be written ({error})"), elsewhere);
    }
    let free = found.free_bytes.unwrap_or(0);
    let system = found.file_system.as_deref().unwrap_or("an unknown file system");
    let text = format!("{system}, {} free", size(free));
    if system != "tmpfs" {
        return warning(what, text, "this is no memory: mount a tmpfs there");
    }
    let wanted = WINDOW_BYTES * cores;
    if free < wanted {
        let remedy = format!(
            "{} for each of {cores} cores: `--shm-size` for a container, or a smaller window",
            size(WINDOW_BYTES)
        );
        return warning(what, text, remedy);
    }
    ok(what, text)
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
    let of_level = |check: Check, code| {
        if asked { Check { level: Level::Problem, exit_code: code, ..check } } else { check }
    };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let check = warning(&what, "permission denied", serial::permission_remedy(path));
            return of_level(check, exit::PERMISSION);
        }
        Err(_) => return of_level(warning(&what, "no such port", "plug it in, or correct the path"), exit::MISSING),
    };
    if !meta.file_type().is_char_device() {
        return of_level(
            warning(&what, "not a serial port", "name a tty, such as one of /dev/serial/by-id"),
            exit::CONFIG,
        );
    }
    if faccessat(AT_FDCWD, path, AccessFlags::R_OK | AccessFlags::W_OK, AtFlags::AT_EACCESS).is_err() {
        let check = warning(&what, "permission denied", serial::permission_remedy(path));
        return of_level(check, exit::PERMISSION);
    }
    match serial::holder_of(path) {
        Some(holder) => warning(&what, format!("in use by {holder}"), "end that process, unless it is the gateway"),
        None => ok(&what, "may be opened"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// The report for people: a mark, what, what was found; remedies on lines of their own.
fn render(checks: &[Check], release: &str, colour: bool) -> String {
    let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let mut text = format!("ringest {} on Linux {release}\n\n", env!("CARGO_PKG_VERSION"));
    for check in checks {
        let (mark, code) = match check.level {
            Level::Ok => ("ok", "32"),
            Level::Warning => ("warning", "33"),
            Level::Problem => ("problem", "31;1"),
        };
        let mark = if colour { format!("\x1b[{code}m{mark:<7}\x1b[0m") } else { format!("{mark:<7}") };
        let _ = writeln!(text, "{mark}  {:<width$}  {}", check.what, check.found);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:7}  {:width$}  -> {remedy}", "", "");
        }
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let verdict = match count(Level::Problem) {
        0 => "ringest can run here".to_owned(),
        problems => format!("ringest cannot run here as it is: {}", plural(problems, "problem")),
    };
    let warnings = match count(Level::Warning) {
        0 => String::new(),
        warnings => format!("; {}", plural(warnings, "warning")),
    };
    let _ = writeln!(text, "\n{verdict}{warnings}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_aligned_and_coloured_for_terminals_only() {
        let checks = [
            ok("kernel", "Linux 6.18"),
            warning("/dev/ttyUSB0", "permission denied", "join dialout"),
            problem("io_uring", "forbidden", exit::NO_IO_URING),
        ];
        let plain = render(&checks, "6.18", false);
        assert_eq!(
            plain,
            format!(
                "ringest {} on Linux 6.18\n\n\
                 ok       kernel        Linux 6.18\n\
                 warning  /dev/ttyUSB0  permission denied\n\
                 {:23}-> join dialout\n\
                 problem  io_uring      forbidden\n\n\
                 ringest cannot run here as it is: 1 problem; 1 warning\n",
                env!("CARGO_PKG_VERSION"),
                ""
            )
        );
        assert!(!plain.contains('\x1b'));
        assert!(render(&checks, "6.18", true).contains("\x1b[31;1mproblem\x1b[0m"));
    }

    #[test]
    fn a_port_that_was_asked_for_is_a_problem_where_a_found_one_is_a_warning() {
        for (path, code) in [("/dev/no-such-port", exit::MISSING), ("/tmp", exit::CONFIG)] {
            let asked = port_check(Path::new(path), true);
            assert_eq!((asked.level, asked.exit_code), (Level::Problem, code));
            let found = port_check(Path::new(path), false);
            assert_eq!((found.level, found.exit_code), (Level::Warning, 0));
        }
    }

    #[test]
    fn a_small_or_missing_dev_shm_is_a_warning() {
        let shm = |file_system: &str, free_bytes| SharedMemory {
            file_system: Some(file_system.to_owned()),
            write_problem: None,
            free_bytes: Some(free_bytes),
        };
        assert_eq!(shared_memory_check(Some(&shm("tmpfs", 64 << 20)), 2).level, Level::Ok);
        assert_eq!(shared_memory_check(Some(&shm("tmpfs", 63 << 20)), 2).level, Level::Warning);
        assert_eq!(shared_memory_check(Some(&shm("ext4", 1 << 40)), 2).level, Level::Warning);
        assert_eq!(shared_memory_check(None, 2).level, Level::Warning);
    }
}
