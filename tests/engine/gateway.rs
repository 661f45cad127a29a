//! Whole gateways, inside this process: start, stop, and what the next start finds.

use crate::harness::PATIENCE;
use crate::ports::Pty;
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use ringest::config::{self, Settings};
use ringest::engine::{self, EngineError, LockError, Options, Summary};
use ringest::source::serial::PortError;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// An address that nobody listens on now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound")
}

fn settings(state: &Path, cores: usize, api: SocketAddr, source: &str) -> Settings {
    let text = format!(
        r#"
        [gateway]
        name = "test"
        cores = [0]
        state_dir = "{state}"
        admin = "{admin}"
        {source}
        [deliver]
        url = "http://{api}/films/"
        body = "{{{{source}}}} {{{{data}}}}"
        content_type = "text/plain"
        connections = 4
        drain = "200ms"
        "#,
        state = state.display(),
        admin = free_address(),
    );
    let mut settings = config::parse(&text, "test").unwrap_or_else(|problems| panic!("{problems}"));
    // Two threads on one CPU are two cores all the same.
    settings.gateway.cores = vec![0; cores];
    settings.deliver.retry_first = Duration::from_millis(10);
    settings
}

fn tcp(listen: SocketAddr) -> String {
    format!("[[source]]\nname = \"tcp\"\nkind = \"tcp_listen\"\nlisten = \"{listen}\"\nlane = \"connection\"\n")
}

struct Gateway {
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Summary, EngineError>>,
}

impl Gateway {
    fn start(settings: Settings, directory: &Path) -> Self {
        let file = directory.join("ready");
        let _ = std::fs::remove_file(&file);
        let (stop, stopped) = oneshot::channel();
        let options = Options { ready_file: Some(file.clone()), stop: Some(stopped), ..Options::default() };
        let thread = std::thread::spawn(move || engine::run(settings, options));
        let started = Instant::now();
        let text = loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                break text;
            }
            assert!(started.elapsed() < PATIENCE && !thread.is_finished(), "the gateway becomes ready");
            std::thread::sleep(Duration::from_millis(5));
        };
        let admin = text.trim_end().parse().expect("the ready file holds the admin server's address");
        Self { admin, stop, thread }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("connected");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// Waits until a metric has a value.
    fn wait_for(&self, metric: &str, value: u64) {
        let (started, line) = (Instant::now(), format!("\n{metric} {value}\n"));
        loop {
            let metrics = self.get("/metrics");
            if metrics.contains(&line) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{metric} becomes {value}:\n{metrics}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(self) -> Summary {
        self.stop.send(()).expect("it runs");
        self.thread.join().expect("it did not panic").expect("it ends well")
    }
}

/// An API that takes everything and passes the bodies on.
fn serve_api(listener: TcpListener) -> mpsc::Receiver<String> {
    let (put, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let put = put.clone();
            std::thread::spawn(move || answer_all(stream.expect("accepted"), &put));
        }
    });
    bodies
}

fn answer_all(mut stream: TcpStream, put: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(stream.try_clone().expect("duplicated"));
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the whole body");
        // The test may have seen enough.
        let _ = put.send(String::from_utf8(body).expect("text"));
        if stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

const MACHINES: usize = 12;
const RECORDS: usize = 25;

fn send_records(listen: SocketAddr) -> Vec<TcpStream> {
    let machines: Vec<TcpStream> = (0..MACHINES).map(|_| TcpStream::connect(listen).expect("connected")).collect();
    for record in 0..RECORDS {
        for mut machine in &machines {
            write!(machine, "record-{record}\r").expect("written");
        }
    }
    machines
}

#[test]
fn what_two_cores_kept_is_delivered_in_order_by_one_that_adopts_the_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let (listen, api) = (free_address(), free_address());
    let all = (MACHINES * RECORDS) as u64;

    let gateway = Gateway::start(settings(&state, 2, api, &tcp(listen)), directory.path());
    let machines = send_records(listen);
    gateway.wait_for("ringest_received_total", all);
    assert!(gateway.get("/healthz").starts_with("HTTP/1.1 200"));
    let summary = gateway.stop();
    let terms = summary.report.terms;
    assert_eq!((terms.received, terms.pending, terms.delivered), (all, all, 0));
    assert!(summary.report.shards.iter().all(|core| core.terms.received > 0), "both cores accepted machines");
    drop(machines);

    let bodies = serve_api(TcpListener::bind(api).expect("bound"));
    let gateway = Gateway::start(settings(&state, 1, api, &tcp(listen)), directory.path());
    gateway.wait_for("ringest_delivered_total", all);
    let terms = gateway.stop().report.terms;
    assert_eq!((terms.received, terms.recovered, terms.delivered, terms.pending), (0, all, all, 0));
    let mut next: HashMap<String, usize> = HashMap::new();
    for body in bodies.try_iter() {
        let (machine, record) = body.split_once(' ').expect("a source and its record");
        let next = next.entry(machine.to_owned()).or_default();
        assert_eq!(record, format!("record-{next}"), "{machine} is in order");
        *next += 1;
    }
    assert!(next.len() == MACHINES && next.values().all(|count| *count == RECORDS), "{next:?}");
    assert!(state.join("core-0").exists() && !state.join("core-1").exists(), "the adopted directory was emptied");

    let gateway = Gateway::start(settings(&state, 2, api, &tcp(listen)), directory.path());
    let terms = gateway.stop().report.terms;
    assert_eq!((terms.recovered, terms.delivered), (0, 0), "nothing comes twice");
}

#[test]
fn a_second_gateway_on_the_same_state_directory_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let gateway = Gateway::start(settings(&state, 1, free_address(), &tcp(free_address())), directory.path());
    let refused = engine::run(settings(&state, 1, free_address(), &tcp(free_address())), Options::default());
    let refused = refused.expect_err("the directory is locked");
    let own = std::process::id();
    assert!(
        matches!(&refused, EngineError::Lock(LockError::Held { holder: Some(pid), .. }) if *pid == own),
        "{refused}"
    );
    gateway.stop();
}

#[test]
fn a_required_port_that_is_missing_ends_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let source =
        "[[source]]\nname = \"scale\"\nkind = \"serial\"\npath = \"/dev/no-such-port\"\non_missing = \"fail\"\n";
    let refused = engine::run(settings(directory.path(), 1, free_address(), source), Options::default());
    let refused = refused.expect_err("the port is not there");
    assert!(matches!(&refused, EngineError::Port { error: PortError::Missing, .. }), "{refused}");
    assert_eq!(refused.to_string(), "source scale: /dev/no-such-port: no such port");
}

#[test]
fn a_journal_that_cannot_be_opened_ends_the_start_of_all_cores() {
    let directory = tempfile::tempdir().expect("a directory");
    // A file where the second core's directory would be.
    std::fs::write(directory.path().join("core-1"), b"").expect("written");
    let refused = engine::run(settings(directory.path(), 2, free_address(), &tcp(free_address())), Options::default());
    let refused = refused.expect_err("the journal has no directory");
    assert!(matches!(&refused, EngineError::JournalDirectory { .. }), "{refused}");
    std::fs::remove_file(directory.path().join("core-1")).expect("removed");
    let settings = settings(directory.path(), 2, free_address(), &tcp(free_address()));
    Gateway::start(settings, directory.path()).stop();
}

#[test]
fn breaks_and_errors_are_counted_for_the_line_where_they_came() {
    let directory = tempfile::tempdir().expect("a directory");
    let api = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = api.local_addr().expect("bound");
    let bodies = serve_api(api);
    let (noisy, quiet) = (Pty::open(), Pty::open());
    let source = |name: &str, pty: &Pty| {
        let path = pty.path.display();
        format!("[[source]]\nname = \"{name}\"\nkind = \"serial\"\npath = \"{path}\"\nfirst = \"keep\"\n")
    };
    let sources = source("noisy", &noisy) + &source("quiet", &quiet);
    let gateway = Gateway::start(settings(&directory.path().join("state"), 2, address, &sources), directory.path());
    gateway.wait_for("ringest_source_open{source=\"noisy\",kind=\"serial\"}", 1);
    gateway.wait_for("ringest_source_open{source=\"quiet\",kind=\"serial\"}", 1);
    // A pty makes no marks, and doubles 0xFF; without PARMRK it passes marks that are made here.
    let mut termios = tcgetattr(&noisy.master).expect("the settings of the slave");
    termios.input_flags.remove(InputFlags::PARMRK);
    tcsetattr(&noisy.master, SetArg::TCSANOW, &termios).expect("set");
    (&noisy.master).write_all(b"1\xff\0\x002\xff\0\x003\xff\0X\r").expect("written");
    (&quiet.master).write_all(b"fine\r").expect("written");
    let mut got = [(); 2].map(|()| bodies.recv_timeout(PATIENCE).expect("a record"));
    got.sort();
    assert_eq!(got, ["noisy 123X", "quiet fine"]);
    for (source, breaks, errors) in [("noisy", 2, 1), ("quiet", 0, 0)] {
        gateway.wait_for(&format!("ringest_line_marks_total{{source=\"{source}\",mark=\"break\"}}"), breaks);
        gateway.wait_for(&format!("ringest_line_marks_total{{source=\"{source}\",mark=\"error\"}}"), errors);
    }
    let sources = gateway.get("/api/sources");
    assert!(
        sources.contains(r#""line":{"breaks":2,"driver":null,"errors":1}"#),
        "a pty has no driver's counts: {sources}"
    );
    gateway.stop();
}
