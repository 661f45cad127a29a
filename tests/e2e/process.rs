//! Children of a test: the gateway and the film API, which end with it.

use crate::site::Site;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringest::engine::admin::client;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Nothing that is waited for takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
const LOG_LINES_SHOWN: usize = 60;

/// Looks again and again until there is something; `what` says what was missing when there never was.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// As [`eventually`], with a patience of its own.
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// A command of the binary. Dropped, it is killed; if the test fails, the end of its log is shown.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, whose output goes to the end of `log`.
    pub fn start(name: &'static str, log: &Path, command: &mut Command) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log");
        let copy = file.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name, child, log: log.to_owned() }
    }

    /// Waits until it has written `file`.
    pub fn wait_ready(&mut self, file: &Path) {
        let begun = Instant::now();
        while !file.exists() {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("{} ended before it was ready: {status}\n{}", self.name, self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "{} is not ready", self.name);
            std::thread::sleep(POLL);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name;
        eventually(&format!("the end of {name}"), || self.child.try_wait().expect("a child"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// `kill -9`; returns when the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// All that it and its predecessors wrote.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines = log.lines().collect::<Vec<_>>();
            eprintln!("--- {}:", self.name);
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("    {line}");
            }
        }
    }
}

/// `ringest` with arguments.
pub fn ringest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringest"))
}

/// `ringest run`.
pub struct Gateway {
    pub process: Process,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts it and waits until it takes records.
    pub fn start(site: &Site, config: &Path) -> Self {
        let mut gateway = Self::spawn(site, config);
        gateway.process.wait_ready(&site.path("run.ready"));
        gateway
    }

    /// Starts it only.
    pub fn spawn(site: &Site, config: &Path) -> Self {
        Self::spawn_by(site, config, ringest())
    }

    /// Starts it only, by a command that takes `run` and its arguments.
    pub fn spawn_by(site: &Site, config: &Path, mut command: Command) -> Self {
        let ready = site.path("run.ready");
        let _ = std::fs::remove_file(&ready);
        command.arg("run").arg(config).arg("--ready-file").arg(&ready);
        Self { process: Process::start("run", &site.path("run.log"), &mut command), admin: site.admin }
    }

    /// A document of the admin server.
    pub fn get(&self, path: &str) -> Value {
        let answer = client::get(&self.admin.to_string(), path, PATIENCE).expect("the gateway answers");
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    pub fn status(&self) -> Status {
        let status = Status(self.get("/api/status"));
        assert_eq!(status.0["balanced"], true, "the accounting does not balance: {}", status.0);
        assert!(status.terms().balance(), "the accounting does not balance: {}", status.0["terms"]);
        status
    }

    pub fn terms(&self) -> Terms {
        self.status().terms()
    }

    /// Waits for terms.
    pub fn wait_terms(&self, what: &str, mut good: impl FnMut(&Terms) -> bool) -> Terms {
        let mut last = Terms::default();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            last = self.terms();
            if good(&last) {
                return last;
            }
            std::thread::sleep(POLL);
        }
        panic!("not within {PATIENCE:?}: {what}; the terms are {last:?}")
    }

    /// The terms once they have not changed for half a second.
    pub fn settled(&self) -> Terms {
        let mut last = (Instant::now(), self.terms());
        eventually("the terms to stand still", || {
            let terms = self.terms();
            if terms != last.1 {
                last = (Instant::now(), terms);
            }
            (last.0.elapsed() > Duration::from_millis(500)).then_some(last.1)
        })
    }

    /// Waits until `count` records were received or recovered, and all of them delivered.
    pub fn wait_delivered(&self, count: u64) -> Terms {
        self.wait_terms(&format!("{count} records received and delivered"), |terms| {
            terms.received + terms.recovered >= count && terms.pending == 0
        })
    }

    /// SIGTERM; it must end with 0.
    pub fn stop(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.process.log());
        self.process.log()
    }
}

/// Runs a gateway that must end by itself; returns its exit code and what it wrote.
pub fn refused(site: &Site, config: &Path) -> (Option<i32>, String) {
    refused_by(site, config, ringest())
}

/// As [`refused`], by a command that takes `run` and its arguments.
pub fn refused_by(site: &Site, config: &Path, mut command: Command) -> (Option<i32>, String) {
    let log = site.path("refused.log");
    let _ = std::fs::remove_file(&log);
    let mut process = Process::start("the refused run", &log, command.arg("run").arg(config));
    let status = process.wait();
    (status.code(), process.log())
}

/// The document of `/api/status`.
#[derive(Debug)]
pub struct Status(pub Value);

impl Status {
    pub fn terms(&self) -> Terms {
        Terms::deserialize(&self.0["terms"]).expect("the terms")
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    pub fn source(&self, name: &str) -> &Value {
        let mut sources = self.0["sources"].as_array().expect("the sources").iter();
        sources.find(|source| source["name"] == name).unwrap_or_else(|| panic!("no source {name}"))
    }

    /// Open ports or connections of a source.
    pub fn open(&self, source: &str) -> u64 {
        self.source(source)["open"].as_u64().expect("a number")
    }

    pub fn rss_bytes(&self) -> u64 {
        self.0["process"]["rss_bytes"].as_u64().expect("a number")
    }
}

/// The identity's terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Terms {
    pub received: u64,
    pub recovered: u64,
    pub delivered: u64,
    pub pending: u64,
    pub parked: u64,
    pub rejected: u64,
    pub discarded: u64,
}

impl Terms {
    fn balance(&self) -> bool {
        self.received + self.recovered == self.delivered + self.pending + self.parked + self.rejected + self.discarded
    }
}

/// `ringest receive` on the site's address and database.
pub struct Receiver {
    pub process: Process,
}

impl Receiver {
    pub fn start(site: &Site) -> Self {
        let ready = site.path("receive.ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = ringest();
        command.args(["receive", "--sync", "off", "--listen"]).arg(site.api.to_string());
        command.arg("--database").arg(site.database()).arg("--ready-file").arg(&ready);
        let mut process = Process::start("receive", &site.path("receive.log"), &mut command);
        process.wait_ready(&ready);
        Self { process }
    }

    /// SIGTERM; it must end with 0.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        assert_eq!(self.process.wait().code(), Some(0));
    }
}
