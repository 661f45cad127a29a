//! A test's own directory, ports, configuration and database.

use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// Below the range from which the kernel takes the ports of outgoing connections (ip_local_port_range), which would else come
/// in between.
const PORT_FIRST: u16 = 10_000;
const PORT_COUNT: u16 = 20_000;

/// An address on loopback that nobody listens on.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of another process at the same time begin elsewhere.
    let first = (std::process::id() as u16).wrapping_mul(64) % PORT_COUNT;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(next < PORT_COUNT, "no free port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_FIRST + (first + next) % PORT_COUNT));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A row of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub machine: String,
    pub data: String,
}

/// A fresh directory, an address for the API and one for the admin server.
pub struct Site {
    directory: TempDir,
    pub api: SocketAddr,
    pub admin: SocketAddr,
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, api: free_address(), admin: free_address() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn database(&self) -> PathBuf {
        self.path("films.sqlite3")
    }

    /// A configuration to be added to: one core, level `process`, two steps, short retries.
    pub fn config(&self) -> Config {
        let state_dir = self.path("state").display().to_string();
        Config {
            gateway: format!("name = \"test\"\nstate_dir = \"{state_dir}\"\nadmin = \"{}\"\n", self.admin),
            cores: "[0]".to_owned(),
            journal: BTreeMap::from([("durability", "\"process\"".to_owned())]),
            deliver: BTreeMap::from([
                ("url", format!("\"http://{}/films/\"", self.api)),
                ("retry", "{ first = \"20ms\", max = \"200ms\" }".to_owned()),
                ("drain", "\"5s\"".to_owned()),
            ]),
            limits: String::new(),
            sources: String::new(),
            sequence: Some(format!("[sequence]\nurl = \"http://{}/seq/\"\nid_at = \"/id\"\n", self.api)),
        }
    }

    /// The block files in shared memory of which this site's journals keep a trace (`src/engine/files.rs`).
    pub fn block_files(&self) -> Vec<PathBuf> {
        let entries = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
            entries.unwrap_or_default()
        };
        let files = entries(&self.path("state")).into_iter().flat_map(|directory| entries(&directory));
        let named = files.filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix("blocks-")?.to_owned();
            Some(Path::new("/dev/shm").join(name))
        });
        named.collect()
    }

    /// The ids of all rows in the order of their arrival.
    pub fn ids(&self) -> Vec<i64> {
        let connection =
            Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database");
        let mut statement = connection.prepare("SELECT id FROM films ORDER BY position").expect("the table");
        let ids = statement.query_map([], |row| row.get(0)).expect("ids");
        ids.collect::<Result<_, _>>().expect("ids")
    }

    /// All rows in the order of their arrival.
    pub fn rows(&self) -> Vec<Row> {
        let connection =
            Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database");
        let mut statement = connection.prepare("SELECT machine, data FROM films ORDER BY position").expect("the table");
        let rows = statement.query_map([], |row| Ok(Row { machine: row.get(0)?, data: row.get(1)? })).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    }
}

impl Drop for Site {
    /// A gateway that was killed leaves the memory of its window to the next start, which does not come here.
    fn drop(&mut self) {
        for path in self.block_files() {
            // That of a gateway that was stopped is gone.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What `ringest run` gets.
pub struct Config {
    gateway: String,
    cores: String,
    journal: BTreeMap<&'static str, String>,
    deliver: BTreeMap<&'static str, String>,
    limits: String,
    sources: String,
    sequence: Option<String>,
}

impl Config {
    /// The CPUs, as in the file.
    pub fn cores(mut self, cores: &str) -> Self {
        self.cores = cores.to_owned();
        self
    }

    /// A key of `[gateway]`, its value as in the file.
    pub fn gateway(mut self, key: &str, value: &str) -> Self {
        writeln!(self.gateway, "{key} = {value}").expect("a String takes all");
        self
    }

    /// Both steps over TLS, with these keys of `[deliver.tls]`.
    pub fn secure(mut self, tls: &str) -> Self {
        let secure = |text: &String| text.replace("http://", "https://");
        self.sequence = self.sequence.as_ref().map(secure);
        let url = secure(&self.deliver["url"]);
        self.deliver("url", &url).deliver("tls", &format!("{{ {tls} }}"))
    }

    /// A key of `[sequence]`, its value as in the file.
    pub fn sequence(mut self, key: &str, value: &str) -> Self {
        let sequence = self.sequence.as_mut().expect("two steps");
        writeln!(sequence, "{key} = {value}").expect("a String takes all");
        self
    }

    /// Without the id step.
    pub fn one_step(mut self) -> Self {
        self.sequence = None;
        self
    }

    /// The id step at another address.
    pub fn sequence_at(mut self, api: SocketAddr) -> Self {
        self.sequence = Some(format!("[sequence]\nurl = \"http://{api}/seq/\"\nid_at = \"/id\"\n"));
        self
    }

    /// A key of `[journal]`, its value as in the file.
    pub fn journal(mut self, key: &'static str, value: &str) -> Self {
        self.journal.insert(key, value.to_owned());
        self
    }

    /// A key of `[deliver]`, its value as in the file.
    pub fn deliver(mut self, key: &'static str, value: &str) -> Self {
        self.deliver.insert(key, value.to_owned());
        self
    }

    /// A key of `[limits]`, its value as in the file.
    pub fn limit(mut self, key: &str, value: &str) -> Self {
        writeln!(self.limits, "{key} = {value}").expect("a String takes all");
        self
    }

    /// A source; `keys` is as in the file.
    pub fn source(mut self, name: &str, kind: &str, keys: &str) -> Self {
        write!(self.sources, "[[source]]\nname = \"{name}\"\nkind = \"{kind}\"\n{keys}\n\n")
            .expect("a String takes all");
        self
    }

    /// A machine that begins with a record.
    pub fn serial(self, name: &str, path: &Path) -> Self {
        self.source(name, "serial", &format!("path = \"{}\"\nline = \"115200 8N1\"\nfirst = \"keep\"", path.display()))
    }

    /// All machines of a test are on one address.
    pub fn tcp_listen(self, name: &str, address: SocketAddr) -> Self {
        let allow = if address.ip().is_loopback() { "" } else { "\nallow = \"127.0.0.0/8\"" };
        let keys = format!("listen = \"{address}\"\nlane = \"connection\"\nfirst = \"keep\"{allow}");
        self.source(name, "tcp_listen", &keys)
    }

    /// A device server that begins with a record.
    pub fn tcp_connect(self, name: &str, address: SocketAddr) -> Self {
        self.source(name, "tcp_connect", &format!("connect = \"{address}\"\nfirst = \"keep\""))
    }

    pub fn http(self, name: &str, address: SocketAddr) -> Self {
        self.source(name, "http", &format!("listen = \"{address}\""))
    }

    /// Another key of the last source, its value as in the file.
    pub fn of_source(mut self, key: &str, value: &str) -> Self {
        self.sources.truncate(self.sources.trim_end().len());
        write!(self.sources, "\n{key} = {value}\n\n").expect("a String takes all");
        self
    }

    /// Writes the file.
    pub fn write(self, site: &Site) -> PathBuf {
        let mut text = format!("[gateway]\n{}cores = {}\n\n[journal]\n", self.gateway, self.cores);
        let lines = |keys: &BTreeMap<_, String>| {
            keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>()
        };
        text += &lines(&self.journal);
        if !self.limits.is_empty() {
            write!(text, "\n[limits]\n{}", self.limits).expect("a String takes all");
        }
        write!(text, "\n{}{}\n\n[deliver]\n", self.sources, self.sequence.unwrap_or_default())
            .expect("a String takes all");
        text += &lines(&self.deliver);
        let path = site.path("ringest.toml");
        std::fs::write(&path, text).expect("the configuration");
        path
    }
}

/// The text of a machine's record.
pub fn record(machine: &str, number: usize) -> String {
    format!("{machine} {number:06}")
}

/// Records by the machine that stands in them, as numbers in the order of their arrival.
pub fn numbers<'a>(records: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Vec<usize>> {
    let mut machines = BTreeMap::<_, Vec<_>>::new();
    for text in records {
        let (machine, number) = text.rsplit_once(' ').unwrap_or_else(|| panic!("{text:?} is no record of a test"));
        let number = number.parse().unwrap_or_else(|_| panic!("{text:?} is no record of a test"));
        machines.entry(machine.to_owned()).or_default().push(number);
    }
    machines
}

/// Every record from 0 on is there, once and in order; returns how many there are.
#[track_caller]
pub fn assert_whole(machine: &str, numbers: &[usize]) -> usize {
    for (expected, number) in numbers.iter().enumerate() {
        assert_eq!(*number, expected, "{machine}: place {expected} of {} has record {number}", numbers.len());
    }
    numbers.len()
}

/// All of `counts` (machine, records) is in `rows`, each once and in order, and nothing else.
#[track_caller]
pub fn assert_rows(rows: &[Row], counts: &[(&str, usize)]) {
    let found = numbers(rows.iter().map(|row| row.data.as_str()));
    for (machine, count) in counts {
        let numbers = found.get(*machine).map_or(&[][..], Vec::as_slice);
        assert_eq!(assert_whole(machine, numbers), *count, "records of {machine}");
    }
    assert_eq!(rows.len(), counts.iter().map(|(_, count)| count).sum::<usize>(), "rows in all");
}
