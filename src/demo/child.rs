//! The demonstration's children: this executable with other arguments, which die with it and are stopped in order.
#![allow(unsafe_code)] // `CommandExt::pre_exec`: only the child itself can ask for a signal when its parent dies

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::time::ClockId;
use nix::unistd::{Pid, getpid, getppid};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of a child's log that are shown when it fails.
const LINES_SHOWN: usize = 12;
const POLL: Duration = Duration::from_millis(5);

/// Why a child is not there any more, or never was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("{name} cannot be started: {error}")]
    Start {
        /// The command.
        name: &'static str,
        /// What failed.
        error: io::Error,
    },
    /// It ended although it should run.
    #[error("{name} ended ({status}); its last lines:\n{lines}")]
    Ended {
        /// The command.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log, indented.
        lines: String,
    },
    /// It did not get ready in time.
    #[error("{name} was not ready after {waited:?}; its last lines:\n{lines}")]
    NotReady {
        /// The command.
        name: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// The end of its log, indented.
        lines: String,
    },
    /// It did not end after SIGTERM and was killed.
    #[error("{name} did not end within {waited:?} after SIGTERM and was killed; its last lines:\n{lines}")]
    Killed {
        /// The command.
        name: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// The end of its log, indented.
        lines: String,
    },
}

/// A running child. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: std::process::Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `NAME ARGUMENTS…` of this executable; standard error goes to `log`, standard output to a pipe.
    pub(super) fn start<A: AsRef<OsStr>>(
        name: &'static str,
        log: PathBuf,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        let failed = |error| Error::Start { name, error };
        let log_file = File::create(&log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg(name).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
        // In a group of its own, Ctrl-C reaches the demonstration alone, which then ends its children in order.
        command.process_group(0);
        let parent = getpid();
        // SAFETY: the closure makes system calls that neither allocate nor take a lock, so it may run between fork and exec.
        unsafe { command.pre_exec(move || prepare(parent)) };
        let process = command.spawn().map_err(failed)?;
        Ok(Self { name, process, log, ended: None })
    }

    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.poll_end() {
            None => Ok(()),
            Some(status) => Err(Error::Ended { name: self.name, status, lines: self.last_lines() }),
        }
    }

    /// Waits until it has written `file`; returns what it wrote, without white space around it.
    pub(super) fn wait_ready(&mut self, file: &Path, patience: Duration) -> Result<String, Error> {
        let begun = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                return Ok(text.trim().to_owned());
            }
            self.check()?;
            if begun.elapsed() > patience {
                return Err(Error::NotReady { name: self.name, waited: patience, lines: self.last_lines() });
            }
            std::thread::sleep(POLL);
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // It cannot be another process: a child that was not waited for keeps its PID.
            let _ = kill(self.pid(), signal);
        }
    }

    /// SIGTERM, then waits; an error if it has to be killed or ends with a code other than 0.
    pub(super) fn stop(&mut self, patience: Duration) -> Result<(), Error> {
        self.poll_end();
        self.signal(Signal::SIGTERM);
        let begun = Instant::now();
        loop {
            match self.poll_end() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Error::Ended { name: self.name, status, lines: self.last_lines() }),
                None if begun.elapsed() > patience => break,
                None => std::thread::sleep(POLL),
            }
        }
        self.kill();
        Err(Error::Killed { name: self.name, waited: patience, lines: self.last_lines() })
    }

    /// CPU time of all its threads until now.
    pub(super) fn cpu_time(&self) -> Result<Duration, Errno> {
        ClockId::pid_cpu_clock_id(self.pid())?.now().map(Duration::from)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    fn poll_end(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().ok().flatten();
        }
        self.ended
    }

    /// SIGKILL, and waits for its end.
    pub(super) fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.process.kill();
            self.ended = self.process.wait().ok();
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().collect::<Vec<_>>();
        let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        if shown.is_empty() { "  (none)".to_owned() } else { format!("  {}", shown.join("\n  ")) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// In the child: SIGTERM when its parent ends (prctl(2), PR_SET_PDEATHSIG), and none of the parent's blocked signals, which
/// would stay blocked.
fn prepare(parent: Pid) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGTERM)?;
    // It may have ended before the call.
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}
