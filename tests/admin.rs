//! The admin server with made-up snapshots, over the wire: metrics that parse, the accounting, health, who may ask.

use ringest::access::DenialCounts;
use ringest::config::Durability;
use ringest::engine::admin::{self, CONNECTIONS_MAX, Gateway, HEADER_TIMEOUT, PARKED_TIMEOUT, Parked, Token, client};
use ringest::ground::count::{LineCounts, Stage, Terms};
use ringest::ground::{FlagCounts, RecordFlags};
use ringest::observe::losses::{Acknowledged, LossSnapshot};
use ringest::observe::snapshot::{
    LineSnapshot, ParkedList, RefusalSample, RefusalSnapshot, Refused, RouteSnapshot, Sample, Snapshot, SourceSnapshot,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What the cores answer now; `None` for a core that does not.
type Cores = Arc<Mutex<Vec<Option<Snapshot>>>>;

/// An admin server on a thread of its own; it ends when this is dropped.
struct Server {
    address: SocketAddr,
    cores: Cores,
    token: Token,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(snapshots: Vec<Option<Snapshot>>) -> Self {
        let count = snapshots.len() as u16;
        let cores: Cores = Arc::new(Mutex::new(snapshots));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let (asked, hung, told) = (cores.clone(), cores.clone(), cores.clone());
        let directory = tempfile::tempdir().expect("a directory");
        let token = Token::leave(directory.path()).expect("left");
        let shown = token.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let ask = move |core: u16| {
                    let snapshot = asked.lock().expect("fine")[core as usize].clone();
                    async move {
                        match snapshot {
                            Some(snapshot) => Some(snapshot),
                            None => std::future::pending().await,
                        }
                    }
                };
                let mut gateway = Gateway::per_core("plant \"3\"".to_owned(), Durability::Process, count, ask);
                gateway.token = Some(shown);
                gateway.parked = Some(parked(hung));
                gateway.acknowledge = Some(Box::new(move || Box::pin(acknowledge(told.clone()))));
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                bound.send(listener.local_addr().expect("bound")).expect("the test waits");
                let shutdown = async move { drop(stopped.await) };
                admin::serve(listener, gateway, shutdown).await.expect("it serves");
            });
        });
        let address = address.recv().expect("bound");
        Self { address, cores, token, stop: Some(stop), thread: Some(thread) }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = client::get(&self.address.to_string(), path, TIMEOUT).expect("an answer");
        (answer.status, String::from_utf8(answer.body).expect("text"))
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    fn set(&self, core: usize, change: impl FnOnce(&mut Option<Snapshot>)) {
        change(&mut self.cores.lock().expect("fine")[core]);
    }

    /// A request as it is given; the whole answer.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn status_command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ringest"))
            .args(["status", "--admin", &self.address.to_string()])
            .args(arguments)
            .output()
            .expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// Takes away what is missing.
async fn acknowledge(cores: Cores) -> Acknowledged {
    let mut cores = cores.lock().expect("fine");
    let losses = cores.iter_mut().flatten().flat_map(|core| std::mem::take(&mut core.journal.losses));
    losses.collect::<Vec<_>>().iter().collect()
}

/// Three records are parked, which is told while all cores answer.
fn parked(cores: Cores) -> Parked {
    async fn answer(cores: Cores) {
        if cores.lock().expect("fine").iter().any(Option::is_none) {
            std::future::pending::<()>().await;
        }
    }
    let asked = cores.clone();
    Parked {
        list: Box::new(move |_| {
            let cores = asked.clone();
            Box::pin(async move {
                answer(cores).await;
                ParkedList { total: 3, ..ParkedList::default() }
            })
        }),
        dispose: Box::new(move |_, _| {
            let cores = cores.clone();
            Box::pin(async move {
                answer(cores).await;
                3
            })
        }),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("started").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn source(name: &str, kind: &'static str, received: u64) -> SourceSnapshot {
    SourceSnapshot {
        name: name.to_owned(),
        kind,
        open: 1,
        received,
        rejected: 1,
        flagged: FlagCounts::default(),
        bytes: 20 * received,
        held_bytes: 0,
        denied: DenialCounts::default(),
        refused: vec![refused(received)],
        garbage_bytes: 0,
        samples: vec![
            Sample {
                at_wall_ns: 1_000_000_000,
                reason: Refused::Checksum,
                flags: RecordFlags::default(),
                bytes: b"a\x02".to_vec()
            };
            5
        ],
        silent: false,
        silent_s: Some(0.25),
        problem: None,
        line: (kind == "serial").then_some(LineSnapshot {
            breaks: 2,
            errors: 3,
            driver: Some(LineCounts { breaks: 4, parity_errors: 5, received_bytes: 6, ..LineCounts::default() }),
        }),
    }
}

/// What a listener refused five times, the last one so late.
fn refused(at_wall_ns: u64) -> RefusalSnapshot {
    let sample = |line: &str, at_wall_ns| RefusalSample {
        at_wall_ns,
        times: 1,
        peer: "10.0.4.7".parse().ok(),
        machine: None,
        line: line.to_owned(),
        rule: "no Host".to_owned(),
    };
    RefusalSnapshot {
        reason: "bad_request".to_owned(),
        count: 5,
        machines: [("cam-1".to_owned(), 2), ("cam-2".to_owned(), 1)].into(),
        last: vec![sample("GET / HTTP/1.1", 0), sample("GET /x?\u{2026}", 1), sample("\\xff", at_wall_ns)],
    }
}

#[test]
fn what_was_refused_is_shown_by_source_and_reason_with_the_last_four_of_all_cores() {
    let server = two_cores();
    let (status, document) = server.json("/api/refused");
    assert_eq!(status, 200);
    let kinds = document["refused"].as_array().expect("a list");
    let shared = kinds.iter().find(|kind| kind["source"] == "shared").expect("a listener of both cores");
    assert_eq!((&shared["reason"], &shared["count"]), (&json!("bad_request"), &json!(10)));
    assert_eq!(shared["machines"], json!({ "cam-1": 4, "cam-2": 2 }));
    let last = shared["last"].as_array().expect("a list");
    assert_eq!(last.len(), 4);
    assert_eq!(last[3]["line"], "\\xff");
    assert_eq!(last[3]["peer"], "10.0.4.7");
    assert_eq!(server.json("/api/status").1["sources"][0]["refused"], json!({ "bad_request": 10 }));
    let families = parse_metrics(&server.get("/metrics").1);
    let counts = ["cam-1", "cam-2", ""].map(|machine| {
        let labels = [("source", "shared"), ("reason", "bad_request"), ("machine", machine)];
        families["ringest_source_refused_total"].value(&labels)
    });
    assert_eq!(counts, [4.0, 2.0, 4.0]);
}

fn snapshot(core: u16) -> Snapshot {
    let mut snapshot = Snapshot { core, lanes: 3, ..Snapshot::default() };
    snapshot.terms =
        Terms { received: 1_000, recovered: 50, delivered: 1_020, pending: 15, parked: 7, rejected: 5, discarded: 3 };
    snapshot.counters.received_bytes = 20_000;
    snapshot.counters.wakes = 77;
    for us in 1..=1_000 {
        snapshot.stages.record(Stage::Frame, us * 1_000);
        snapshot.stages.record(Stage::Whole, us * 1_000_000);
    }
    let strange = "line\n\"quoted\" back\\slash ü {}=,";
    snapshot.sources = vec![source("shared", "tcp_listen", 500), source(strange, "serial", 10)];
    snapshot.routes = vec![RouteSnapshot {
        authority: "127.0.0.1:8000".to_owned(),
        connections: 4,
        in_flight: 2,
        problem: None,
        last_success_s: Some(0.5),
        ..RouteSnapshot::default()
    }];
    snapshot.oldest_pending_s = [("shared".to_owned(), 2.5 + f64::from(core))].into();
    snapshot.journal.segments = 2;
    snapshot.journal.bytes = 32 << 20;
    snapshot
}

fn two_cores() -> Server {
    Server::start(vec![Some(snapshot(0)), Some(snapshot(1))])
}

/// A family of metrics as a strict reader of the text sees it.
#[derive(Debug)]
struct Family {
    kind: String,
    /// Value by sample name and labels.
    samples: BTreeMap<(String, Vec<(String, String)>), f64>,
}

/// Parses the Prometheus text format 0.0.4 and panics at anything that is not as its specification has it: HELP, then TYPE,
/// once for each family; its samples together, none twice; no sample without a family.
fn parse_metrics(text: &str) -> HashMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line ends too");
    let mut families: HashMap<String, Family> = HashMap::new();
    let (mut helped, mut current) = (HashSet::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            assert!(!words.trim().is_empty(), "{name} has no help");
            assert!(helped.insert(name.to_owned()), "HELP twice for {name}");
            current = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(name, current, "TYPE follows its HELP");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            let family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "TYPE twice for {name}");
        } else {
            let (name, labels, value) = parse_sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family for {line}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line} is not of {current}");
            assert!(family.kind != "counter" || name.ends_with("_total"), "{line}");
            assert!(family.samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    families
}

fn parse_sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let is_name = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.starts_with(|c: char| !c.is_ascii_digit())
    };
    let name_end = line.find(['{', ' ']).expect("a name and a value");
    let (name, mut rest) = line.split_at(name_end);
    assert!(!name.is_empty() && is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, behind) = rest.split_once("=\"").expect("a label");
            assert!(!label.is_empty() && is_name(label), "{line}");
            let (value, behind) = parse_quoted(behind);
            assert!(labels.iter().all(|(other, _)| other != label), "label twice: {line}");
            labels.push((label.to_owned(), value));
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect("one space before the value");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

fn parse_quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((place, char)) = chars.next() {
        match char {
            '"' => return (value, &text[place + 1..]),
            '\\' => match chars.next().expect("an escaped character").1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => panic!("no such escape: {other}"),
            },
            other => value.push(other),
        }
    }
    panic!("the quote does not end: {text}")
}

impl Family {
    fn value(&self, labels: &[(&str, &str)]) -> f64 {
        let matches = |sample: &[(String, String)]| {
            labels.iter().all(|(name, value)| sample.iter().any(|(n, v)| n == name && v == value))
        };
        let mut found = self.samples.iter().filter(|((_, sample), _)| matches(sample));
        let value = *found.next().unwrap_or_else(|| panic!("no sample with {labels:?}")).1;
        assert!(found.next().is_none(), "more than one sample with {labels:?}");
        value
    }
}

#[test]
fn metrics_show_the_identity_and_every_counter() {
    let server = two_cores();
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200);
    let families = parse_metrics(&text);
    let value = |name: &str| families.get(name).unwrap_or_else(|| panic!("no {name}")).value(&[]);
    assert_eq!(value("ringest_received_total"), 2_000.0);
    assert_eq!(value("ringest_recovered_total"), 100.0);
    let right = [
        "ringest_delivered_total",
        "ringest_pending",
        "ringest_parked",
        "ringest_rejected_total",
        "ringest_discarded_total",
    ];
    assert_eq!(right.map(value).iter().sum::<f64>(), 2_100.0);
    assert_eq!(value("ringest_balanced"), 1.0);
    assert_eq!((value("ringest_oldest_pending_seconds"), value("ringest_lanes_stuck")), (3.5, 0.0));
    let oldest = &families["ringest_source_oldest_pending_seconds"];
    assert_eq!(oldest.value(&[("source", "shared")]), 3.5);
    for (name, _, expected) in snapshot(0).counters.each() {
        assert_eq!(value(&format!("ringest_{name}_total")), 2.0 * expected as f64, "{name}");
    }
    assert_eq!(families["ringest_source_received_total"].value(&[("source", "shared")]), 1_000.0);
    let strange = [("source", "line\n\"quoted\" back\\slash ü {}=,"), ("kind", "serial")];
    assert_eq!(families["ringest_source_bytes_total"].value(&strange), 400.0);
    let line = |family: &str, name, label| families[family].value(&[strange[0], (name, label)]);
    assert_eq!(["break", "error"].map(|mark| line("ringest_line_marks_total", "mark", mark)), [2.0, 3.0]);
    let events = ["framing_error", "parity_error", "break"];
    assert_eq!(events.map(|event| line("ringest_line_events_total", "event", event)), [0.0, 5.0, 4.0]);
    assert_eq!(line("ringest_line_bytes_total", "direction", "received"), 6.0);
    assert_eq!(families["ringest_route_connections"].value(&[("authority", "127.0.0.1:8000")]), 8.0);
    assert_eq!(families["ringest_journal_segments"].value(&[("core", "1")]), 2.0);
    assert_eq!(families["ringest_build_info"].value(&[("name", "plant \"3\""), ("durability", "process")]), 1.0);
    let cpu_s = &families["ringest_process_cpu_seconds_total"];
    assert!(cpu_s.value(&[("mode", "user")]) + cpu_s.value(&[("mode", "system")]) > 0.0);
    assert!(value("ringest_process_resident_bytes") > 1e6);
}

#[test]
fn histograms_are_cumulative_and_their_last_bucket_is_the_count() {
    let server = two_cores();
    let families = parse_metrics(&server.get("/metrics").1);
    let family = &families["ringest_stage_seconds"];
    assert_eq!(family.kind, "histogram");
    for stage in Stage::ALL {
        let of_stage = |name: &str| {
            let rows = family.samples.iter().filter(|((sample, labels), _)| {
                sample == name && labels.contains(&("stage".to_owned(), stage.name().to_owned()))
            });
            rows.map(|((_, labels), value)| (labels.clone(), *value)).collect::<Vec<_>>()
        };
        let bound = |labels: &[(String, String)]| -> f64 {
            let (_, bound) = labels.iter().find(|(name, _)| name == "le").expect("a bound");
            bound.parse().expect("a number or +Inf")
        };
        let mut buckets: Vec<(f64, f64)> =
            of_stage("ringest_stage_seconds_bucket").iter().map(|(labels, value)| (bound(labels), *value)).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 10);
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{buckets:?}");
        let (count, sum) = (of_stage("ringest_stage_seconds_count")[0].1, of_stage("ringest_stage_seconds_sum")[0].1);
        let last = buckets.last().expect("buckets");
        assert_eq!((last.0, last.1), (f64::INFINITY, count));
        let at = |bound: f64| buckets.iter().find(|bucket| bucket.0 == bound).expect("a bucket").1;
        match stage {
            Stage::Frame => {
                assert_eq!(count, 2_000.0);
                assert!((sum / 1.001 - 1.0).abs() < 0.01, "{sum}");
                assert!((at(5e-4) - 1_000.0).abs() <= 10.0, "{buckets:?}");
            }
            Stage::Whole => assert!((at(0.25) - 500.0).abs() <= 10.0, "{buckets:?}"),
            _ => assert_eq!((count, sum), (0.0, 0.0)),
        }
    }
}

#[test]
fn a_scraper_that_asks_for_openmetrics_gets_it() {
    let server = two_cores();
    let request =
        |accept: &str| server.raw(&format!("GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"));
    let new = request("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1");
    assert!(new.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{new}");
    assert!(new.contains("\n# TYPE ringest_received counter\nringest_received_total 2000\n"), "{new}");
    assert!(new.ends_with("\n# EOF\n"));
    let old = request("*/*");
    assert!(old.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{old}");
}

#[test]
fn the_status_document_adds_the_cores_up() {
    let server = two_cores();
    let (status, document) = server.json("/api/status");
    assert_eq!(status, 200);
    assert_eq!(document["terms"]["delivered"], 2_040);
    assert_eq!(document["balanced"], true);
    assert_eq!(document["durability"], "process");
    assert_eq!(document["shards"].as_array().expect("a list").len(), 2);
    assert_eq!(document["sources"].as_array().expect("a list").len(), 2, "merged by name");
    let lines: Vec<_> = document["sources"].as_array().into_iter().flatten().map(|source| &source["line"]).collect();
    assert!(lines[0].is_null(), "only a serial source has a line");
    assert_eq!((&lines[1]["errors"], &lines[1]["driver"]["parity_errors"]), (&json!(3), &json!(5)));
    assert_eq!(document["routes"][0]["connections"], 8);
    let problems = document["problems"].as_array().expect("a list");
    assert_eq!((problems.len(), &problems[0]["area"]), (1, &json!("parked")));
    assert!(document["process"]["cpu_us_per_record"].as_f64().expect("a number") > 0.0);
    // The samples of what was rejected are where somebody asks for them, and not in what is asked for each second.
    let mut sources = server.json("/api/sources").1["sources"].take();
    for source in sources.as_array_mut().expect("a list") {
        let samples = source.as_object_mut().expect("an object").remove("samples").expect("samples");
        let sample = json!({ "at": "1970-01-01T00:00:01.000000Z", "reason": "checksum", "flags": [], "text": "a\\x02", "hex": "6102" });
        assert_eq!(samples[0], sample);
        assert!(samples.as_array().expect("a list").len() <= 8, "of all cores together");
    }
    assert_eq!(sources, document["sources"]);
}

#[test]
fn health_is_ok_then_degraded_then_failing() {
    let server = two_cores();
    for core in 0..2 {
        server.set(core, |core| {
            let terms = &mut core.as_mut().expect("it answers").terms;
            terms.discarded += std::mem::take(&mut terms.parked);
        });
    }
    assert_eq!(server.json("/healthz"), (200, json!({ "status": "ok" })));
    assert_eq!(server.json("/readyz"), (200, json!({ "status": "ready" })));

    server.set(0, |core| core.as_mut().expect("it answers").sources[1].problem = Some("no such port".to_owned()));
    let (status, health) = server.json("/healthz");
    assert_eq!((status, &health["status"]), (200, &json!("degraded")));
    assert_eq!(health["reasons"][0]["text"], "no such port");
    assert_eq!(server.json("/readyz").0, 200);

    server.set(1, |core| core.as_mut().expect("it answers").journal.problem = Some("no space left".to_owned()));
    let (status, health) = server.json("/healthz");
    assert_eq!((status, &health["status"]), (503, &json!("failing")));
    assert_eq!(health["reasons"][0], json!({ "area": "journal", "name": "core 1", "text": "no space left" }));
    assert_eq!(server.json("/readyz").0, 503);
}

#[test]
fn a_core_that_does_not_answer_fails_health_and_keeps_its_last_figures() {
    let server = two_cores();
    assert_eq!(server.json("/api/status").1["terms"]["received"], 2_000);
    server.set(1, |core| *core = None);
    let (status, health) = server.json("/healthz");
    assert_eq!(status, 503);
    assert_eq!(health["reasons"][0]["name"], "core 1");
    let document = server.json("/api/status").1;
    assert_eq!(document["terms"]["received"], 2_000, "no counter goes backwards");
    assert_eq!(document["balanced"], true);
    server.set(1, |core| *core = Some(snapshot(1)));
    assert_eq!(server.json("/healthz").0, 200, "it recovers");
}

#[test]
fn a_request_by_a_foreign_name_is_refused_everywhere() {
    let server = two_cores();
    for path in ["/", "/metrics", "/api/status", "/api/sources", "/healthz", "/readyz", "/nothing"] {
        for host in ["evil.example", "evil.example:9600", "127.0.0.1.evil.example", "192.0.2.1"] {
            let answer = server.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 403 "), "{path} {host}: {answer}");
        }
        for host in ["localhost", "127.0.0.1:1", "[::1]:9600"] {
            let answer = server.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            let expected = if path == "/nothing" { "HTTP/1.1 404 " } else { "HTTP/1.1 200 " };
            assert!(answer.starts_with(expected), "{path} {host}: {answer}");
        }
    }
    let absolute = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(server.raw(absolute).starts_with("HTTP/1.1 403 "));
}

#[test]
fn the_page_is_self_contained() {
    let server = two_cores();
    let (status, page) = server.get("/");
    assert_eq!(status, 200);
    for forbidden in ["src=\"http", "href=\"http", "url(http", "@import", "innerHTML"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("/api/status"));
}

#[test]
fn the_status_command_prints_a_screen_and_fails_when_the_gateway_does() {
    let server = two_cores();
    let (code, screen, words) = server.status_command(&[]);
    assert_eq!(code, Some(0), "{words}");
    let identity = "received 2,000 + recovered 100 = delivered 2,040 + pending 30 + parked 14\n    + rejected 10 + discarded 6 (balanced)\n";
    assert!(screen.contains(identity), "{screen}");
    for part in ["plant \"3\"", "frame", "whole", "shared", "127.0.0.1:8000", "32 MiB"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let (code, document, _) = server.status_command(&["--json"]);
    assert_eq!(code, Some(0));
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["terms"]["parked"], 14);

    server.set(0, |core| core.as_mut().expect("it answers").sources[0].problem = Some("busy".to_owned()));
    let (code, screen, _) = server.status_command(&[]);
    assert_eq!(code, Some(0), "a source's problem is shown");
    assert!(screen.contains("source shared: busy"), "{screen}");

    server.set(0, |core| core.as_mut().expect("it answers").terms.pending += 1);
    let (code, screen, words) = server.status_command(&[]);
    assert_eq!(code, Some(i32::from(ringest::cli::exit::NOT_OK)));
    assert!(screen.contains("DOES NOT BALANCE") && words.contains("does not balance"), "{screen}{words}");
}

#[test]
fn the_status_command_says_when_nobody_is_there() {
    let server = two_cores();
    let address = server.address.to_string();
    drop(server);
    let output =
        Command::new(env!("CARGO_BIN_EXE_ringest")).args(["status", "--admin", &address]).output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(ringest::cli::exit::NOT_OK)), "{words}");
    assert!(
        words.contains(&format!("nobody listens on {address}")) && words.contains("is the gateway running"),
        "{words}"
    );
}

#[test]
fn whoever_changes_something_must_show_the_token() {
    let server = Server::start(vec![Some(snapshot(0))]);
    let post = |path: &str, fields: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}");
        server.raw(&format!("{head}Content-Length: {length}\r\n\r\n{body}"))
    };
    let all = "{\"all\": true}";
    let good = format!("Authorization: {}\r\n", server.token.authorization());
    for path in ["/api/parked/retry", "/api/parked/discard"] {
        for fields in [
            "",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer 00\r\n",
            &good.replace("Bearer", "Basic"),
            &format!("{good}{good}"),
        ] {
            let answer = post(path, fields, all);
            assert!(
                answer.starts_with("HTTP/1.0 401 ") && answer.contains("admin-token"),
                "{path} {fields:?}: {answer}"
            );
            assert!(answer.to_ascii_lowercase().contains("www-authenticate: bearer"), "{answer}");
        }
        let answer = post(path, &good, all);
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("{\"records\":3}"), "{answer}");
    }
    assert!(post("/api/acknowledge", "", "{}").starts_with("HTTP/1.0 401 "));
    assert!(post("/api/retry", "", "{}").starts_with("HTTP/1.0 401 "));
    assert!(post("/api/retry", &good, "{}").starts_with("HTTP/1.0 503 "), "no core is there");
    assert!(post("/api/reload", "", "{}").starts_with("HTTP/1.0 401 "));
    assert!(post("/api/reload", &good, "{}").starts_with("HTTP/1.0 503 "), "nobody can read it again");
    // Who looks needs none.
    assert_eq!(server.json("/api/parked").1["total"], 3);
    assert_eq!(
        client::post(&server.address.to_string(), "/api/parked/retry", &server.token, all, TIMEOUT)
            .expect("an answer")
            .status,
        200
    );
}

#[test]
fn what_is_missing_is_a_problem_everywhere_until_it_is_acknowledged() {
    let server = two_cores();
    for (core, records, exact) in [(0, 12, true), (1, 3, false)] {
        let loss = LossSnapshot {
            found_wall_ns: 1_795_892_400_000_000_000,
            core,
            first: Some(1_048_577),
            last: Some(1_048_600),
            records,
            exact,
        };
        server.set(usize::from(core), |core| {
            let core = core.as_mut().expect("it answers");
            core.terms.recovered -= std::mem::take(&mut core.terms.parked);
            core.journal.losses = vec![loss];
        });
    }
    let numbers = "(numbers 1048577 to 1048600), found 2026-11-28T19:00:00Z: ringest queue acknowledge CONFIG";
    let exact = format!("12 records are missing in the journal of core 0 {numbers}");
    let bound = format!("at most 3 records are missing in the journal of core 1 {numbers}");
    let reason = |text: &str| json!({ "area": "missing", "name": "records", "text": text });
    let degraded = json!({ "status": "degraded", "reasons": [reason(&exact), reason(&bound)] });
    assert_eq!(server.json("/healthz"), (200, degraded), "no reason to take the gateway out of service");
    assert_eq!(server.get("/readyz").0, 200);
    let missing = server.json("/api/status").1["missing"].take();
    let loss = json!({ "found_at": "2026-11-28T19:00:00.000000Z", "core": 0, "first": 1_048_577, "last": 1_048_600,
        "records": 12, "exact": true });
    assert_eq!((&missing["records"], &missing["exact"], &missing["losses"][0]), (&json!(15), &json!(false), &loss));
    let metric = || parse_metrics(&server.get("/metrics").1)["ringest_missing_records"].value(&[]);
    assert_eq!(metric(), 15.0);
    let (code, screen, _) = server.status_command(&[]);
    assert_eq!(code, Some(0), "the gateway does its work");
    let problems = &screen[screen.find("\nproblems\n").expect("problems")..];
    let words = problems.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&exact) && words.contains(&bound), "{screen}");
    assert!(problems.lines().all(|line| line.chars().count() <= 80), "{problems}");

    let address = server.address.to_string();
    let acknowledge =
        |body| client::post(&address, "/api/acknowledge", &server.token, body, TIMEOUT).expect("answered");
    assert_eq!(acknowledge("{\"all\": true}").status, 422, "it takes no key");
    assert_eq!(metric(), 15.0);
    let answer = acknowledge("{}");
    let done: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((answer.status, done), (200, json!({ "losses": 2, "records": 15, "exact": false })));
    assert_eq!(server.json("/healthz"), (200, json!({ "status": "ok" })));
    assert_eq!(metric(), 0.0);
    assert_eq!(server.json("/api/status").1["missing"]["losses"], json!([]));
}

#[test]
fn a_core_that_hangs_is_told_within_a_bounded_time_to_who_asks_for_parked_records() {
    let server = Server::start(vec![Some(snapshot(0)), None]);
    let begun = std::time::Instant::now();
    let (status, body) = server.json("/api/parked");
    assert_eq!(status, 503, "{body}");
    assert!(body["error"].as_str().expect("words").contains("has not answered within"), "{body}");
    let address = server.address.to_string();
    let answer =
        client::post(&address, "/api/parked/discard", &server.token, "{\"all\": true}", TIMEOUT).expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(begun.elapsed() < 2 * PARKED_TIMEOUT + Duration::from_secs(3), "{:?}", begun.elapsed());
    server.set(1, |core| *core = Some(snapshot(1)));
    assert_eq!(server.json("/api/parked").0, 200);
}

// ---- connections

/// Half of a request, as in the case a01.
const HALF: &[u8] = include_bytes!("cases/http/a01-admin-half-request.raw");

fn half(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(HEADER_TIMEOUT * 8)).expect("a timeout");
    stream.write_all(bytes).expect("sent");
    stream
}

/// Sockets of this process, its own ends and the server's.
fn sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("listed").flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn half_requests_take_sixty_four_connections_at_most_and_nobody_who_asks_in_earnest_waits() {
    const CHILD: &str = "RINGEST_TEST_HALF_REQUESTS";
    // Descriptors belong to the process, so this test has one of its own.
    if std::env::var_os(CHILD).is_none() {
        let name = "half_requests_take_sixty_four_connections_at_most_and_nobody_who_asks_in_earnest_waits";
        let own = std::env::current_exe().expect("known");
        let child = Command::new(own).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().expect("started");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    const HALVES: usize = 400;
    let server = Server::start(vec![Some(snapshot(0))]);
    let before = sockets();
    let halves: Vec<_> = (0..HALVES).map(|_| half(&server, HALF)).collect();
    for _ in 0..20 {
        assert_eq!(server.get("/healthz").0, 200);
    }
    let held = sockets() - before - HALVES;
    assert!(held <= CONNECTIONS_MAX, "{held} connections are held");
    drop(halves);
}

#[test]
fn half_requests_and_idle_connections_are_closed_at_their_deadline() {
    let server = Server::start(vec![Some(snapshot(0))]);
    let token = server.token.authorization();
    let body = format!(
        "POST /api/acknowledge HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\n\r\n{{"
    );
    let whole = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let begun = std::time::Instant::now();
    let streams = [("", HALF), ("408", body.as_bytes()), ("200", whole.as_bytes()), ("", b"")]
        .map(|(status, bytes)| (status, half(&server, bytes)));
    for (status, mut stream) in streams {
        let mut answer = Vec::new();
        // A reset ends it as well.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) || status.is_empty(), "{answer}");
    }
    let took = begun.elapsed();
    assert!((HEADER_TIMEOUT / 2..HEADER_TIMEOUT * 7).contains(&took), "{took:?}");
}
