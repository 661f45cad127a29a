//! What is looked at before a start: the checks that `ringest doctor` and `ringest check --online` share, and how they are shown.

use super::exit;
use crate::config::Durability;
use crate::engine::probe::{self, BlockDirectory, EndsWith, ProbeError, StateDirectory};
use crate::ground::text::fold;
use crate::source::serial::{self, Holder};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warning,
    Problem,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
    /// The exit code of a problem, and of a test that has failed; 0 otherwise.
    pub(super) exit_code: u8,
}

pub(super) fn ok(what: &str, found: impl Into<String>) -> Check {
    Check { level: Level::Ok, what: what.to_owned(), found: found.into(), remedy: None, exit_code: 0 }
}

pub(super) fn warning(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { level: Level::Warning, remedy: Some(remedy.into()), ..ok(what, found) }
}

pub(super) fn problem(what: &str, found: impl Into<String>, exit_code: u8) -> Check {
    Check { level: Level::Problem, exit_code, ..ok(what, found) }
}

pub(super) fn io_uring_check(found: &Result<probe::Features, ProbeError>) -> Check {
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

pub(super) fn state_directory_checks(found: &StateDirectory, given: bool, journal_bytes: u64) -> Vec<Check> {
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
    checks.push(if free >= journal_bytes {
        ok(what, text)
    } else {
        warning(what, text, format!("the journal may need {} more, unless max_size is less", size(journal_bytes)))
    });
    checks.push(direct_io_check(found));
    checks
}

pub(super) fn direct_io_check(found: &StateDirectory) -> Check {
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

/// What block files are to be, where, and what is known of the place.
pub(super) struct Blocks<'a> {
    /// Their directory.
    pub(super) path: &'a Path,
    pub(super) found: Option<&'a BlockDirectory>,
    /// Where they go if they cannot be there.
    pub(super) state: &'a StateDirectory,
    /// `None` where the level is not known.
    pub(super) durability: Option<Durability>,
    /// Of each core.
    pub(super) window_bytes: u64,
    pub(super) cores: u64,
}

pub(super) fn blocks_check(blocks: &Blocks<'_>) -> Check {
    let Blocks { path, found, state, window_bytes, cores, .. } = blocks;
    let what = path.display().to_string();
    let elsewhere = match &state.block_file_problem {
        None => "blocks go to the state directory instead, and are written back more often".to_owned(),
        Some(why) => format!(
            "blocks are in memory of the process instead, since of the state directory {why}: a kill costs what is not yet \
             written to disk. Name a directory in memory, on ext4 or on xfs as journal.blocks"
        ),
    };
    let Some(found) = found else { return warning(&what, "not there", elsewhere) };
    if let Some(error) = &found.write_problem {
        return warning(&what, format!("cannot be written ({error})"), elsewhere);
    }
    if let Some(why) = &found.block_file_problem {
        return warning(&what, format!("cannot hold block files: {why}"), elsewhere);
    }
    let free = found.free_bytes.unwrap_or(0);
    let system = found.file_system.as_deref().unwrap_or("an unknown file system");
    let text = format!("{system}, {} free", size(free));
    if *path == Path::new("/dev/shm") && system != "tmpfs" {
        return warning(&what, text, "this is no memory: mount a tmpfs there");
    }
    if free < window_bytes * cores {
        let remedy = format!(
            "{} for each of {cores} cores: `--shm-size` for a container, or a smaller window; else {elsewhere}",
            size(*window_bytes)
        );
        return warning(&what, text, remedy);
    }
    match &found.ends_with {
        None => ok(&what, text),
        Some(end) => end_warning(&what, &text, end, blocks.durability),
    }
}

/// Memory that does not outlive the process.
fn end_warning(what: &str, text: &str, end: &EndsWith, durability: Option<Durability>) -> Check {
    let costs = match durability {
        Some(Durability::Process) => "what was answered 201 and is not on disk yet",
        Some(_) => "what was received and is not on disk yet",
        None => "what is not on disk yet (at level process it was answered 201)",
    };
    let (when, remedy) = match end {
        EndsWith::Container => (
            "it belongs to this container: if that is killed".to_owned(),
            "name a volume on ext4 or xfs as journal.blocks, or share the machine's /dev/shm (`--ipc=host`)".to_owned(),
        ),
        EndsWith::Login { user } => (
            format!("logind empties it when {user} has logged out (RemoveIPC): if the gateway is killed then"),
            format!(
                "`loginctl enable-linger {user}`, RemoveIPC=no in /etc/systemd/logind.conf, a system user for the service, or \
                 another directory as journal.blocks"
            ),
        ),
        EndsWith::Service => (
            "systemd empties it when the service stops (DynamicUser): if that is killed".to_owned(),
            "a user of its own for the service (User=), or a directory that stays as journal.blocks".to_owned(),
        ),
    };
    warning(what, format!("{text}; {when}, {costs} is lost"), remedy)
}

/// What can be seen of a serial port without opening it: an open raises DTR and RTS, which resets some machines.
pub(super) enum PortFound {
    Missing,
    /// Not a character device.
    NoPort,
    /// With what to do about it.
    Forbidden(String),
    Held(Vec<Holder>),
    Free,
}

pub(super) fn look_at_port(path: &Path) -> PortFound {
    match fs::metadata(path) {
        Ok(meta) if !meta.file_type().is_char_device() => return PortFound::NoPort,
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return PortFound::Forbidden(serial::permission_remedy(path));
        }
        Err(_) => return PortFound::Missing,
    }
    if faccessat(AT_FDCWD, path, AccessFlags::R_OK | AccessFlags::W_OK, AtFlags::AT_EACCESS).is_err() {
        return PortFound::Forbidden(serial::permission_remedy(path));
    }
    match serial::holders_of(path) {
        holders if holders.is_empty() => PortFound::Free,
        holders => PortFound::Held(holders),
    }
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// The report for people: a mark, what, what was found; remedies on lines of their own. On a
/// terminal it has colours, and lines of at most 80 columns.
pub(super) fn render(checks: &[Check], is_terminal: bool) -> String {
    let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let (mark, code) = match check.level {
            Level::Ok => ("ok", "32"),
            Level::Warning => ("warning", "33"),
            Level::Problem => ("problem", "31;1"),
        };
        if !is_terminal {
            let _ = writeln!(text, "{mark:<7}  {:<width$}  {}", check.what, check.found);
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "{:7}  {:width$}  -> {remedy}", "", "");
            }
            continue;
        }
        // What is found begins on the same column, unless a long name leaves too little behind it.
        let indent = 11 + width.min(20);
        let head = format!("\x1b[{code}m{mark:<7}\x1b[0m  {:<width$}  ", check.what, width = width.min(20));
        fold(&mut text, (&head, 11 + check.what.chars().count().max(width.min(20))), indent, &check.found);
        if let Some(remedy) = &check.remedy {
            fold(&mut text, (&format!("{:indent$}-> ", ""), indent + 3), indent + 3, remedy);
        }
    }
    text
}

/// The last line: `can` or `cannot`, and how many problems and warnings there are.
pub(super) fn verdict(checks: &[Check], can: &str, cannot: &str) -> String {
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let verdict = match count(Level::Problem) {
        0 => can.to_owned(),
        problems => format!("{cannot}: {}", plural(problems, "problem")),
    };
    let warnings = match count(Level::Warning) {
        0 => String::new(),
        warnings => format!("; {}", plural(warnings, "warning")),
    };
    format!("{verdict}{warnings}\n")
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
        let plain = render(&checks, false);
        assert_eq!(
            plain,
            format!(
                "ok       kernel        Linux 6.18\n\
                 warning  /dev/ttyUSB0  permission denied\n\
                 {:23}-> join dialout\n\
                 problem  io_uring      forbidden\n",
                ""
            )
        );
        assert_eq!(verdict(&checks, "can", "cannot"), "cannot: 1 problem; 1 warning\n");
        assert_eq!(verdict(&checks[..2], "can", "cannot"), "can; 1 warning\n");
        assert!(!plain.contains('\x1b'));
        assert!(render(&checks, true).contains("\x1b[31;1mproblem\x1b[0m"));
    }

    fn state(problem: Option<&str>) -> StateDirectory {
        StateDirectory { block_file_problem: problem.map(str::to_owned), ..probe_of("/nowhere").state_directory }
    }

    fn probe_of(state_dir: &str) -> probe::Report {
        probe::report(Path::new(state_dir), Path::new("/dev/shm"))
    }

    fn shared_memory(file_system: &str, free_bytes: u64) -> BlockDirectory {
        BlockDirectory {
            path: "/dev/shm".into(),
            file_system: Some(file_system.to_owned()),
            write_problem: None,
            free_bytes: Some(free_bytes),
            block_file_problem: None,
            ends_with: None,
        }
    }

    fn checked(found: Option<&BlockDirectory>, state: &StateDirectory, durability: Option<Durability>) -> Check {
        let path = Path::new("/dev/shm");
        blocks_check(&Blocks { path, found, state, durability, window_bytes: 32 << 20, cores: 2 })
    }

    #[test]
    fn a_small_or_missing_dev_shm_is_a_warning() {
        let state = state(None);
        let level = |found: Option<&BlockDirectory>| checked(found, &state, None).level;
        assert_eq!(level(Some(&shared_memory("tmpfs", 64 << 20))), Level::Ok);
        assert_eq!(level(Some(&shared_memory("tmpfs", 63 << 20))), Level::Warning);
        assert_eq!(level(Some(&shared_memory("ext4", 1 << 40))), Level::Warning);
        assert_eq!(level(None), Level::Warning);
    }

    #[test]
    fn where_no_file_can_hold_blocks_it_is_said_what_a_kill_costs() {
        let state = state(Some("btrfs copies on write"));
        assert_eq!(checked(Some(&shared_memory("tmpfs", 64 << 20)), &state, None).level, Level::Ok);
        let on_btrfs = BlockDirectory {
            block_file_problem: Some("btrfs copies on write".to_owned()),
            ..shared_memory("btrfs", 1 << 30)
        };
        for found in [None, Some(&on_btrfs), Some(&shared_memory("tmpfs", 1 << 20))] {
            let check = checked(found, &state, None);
            let remedy = check.remedy.expect("one");
            assert!(check.level == Level::Warning && remedy.contains("a kill costs what is not yet"), "{remedy}");
        }
    }

    #[test]
    fn memory_that_does_not_outlive_the_process_is_told_with_what_it_costs_at_the_level() {
        let state = state(None);
        let login = EndsWith::Login { user: "press".to_owned() };
        for (end, remedy) in [
            (EndsWith::Container, "--ipc=host"),
            (login, "`loginctl enable-linger press`"),
            (EndsWith::Service, "User="),
        ] {
            let found = BlockDirectory { ends_with: Some(end), ..shared_memory("tmpfs", 1 << 30) };
            for (durability, costs) in [(Durability::Process, "was answered 201"), (Durability::Power, "was received")]
            {
                let check = checked(Some(&found), &state, Some(durability));
                assert!(check.level == Level::Warning && check.found.contains(costs), "{check:?}");
                let words = check.remedy.expect("one");
                assert!(words.contains(remedy) && words.contains("journal.blocks"), "{words}");
            }
        }
    }
}
