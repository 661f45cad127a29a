//! The forms in which machines send, by curl: packed bodies, lines, arrays, and what is refused. A batch is there as a whole or not at all,
//! through kills, too.

use crate::cores::cpus;
use crate::machines::{Answer, HttpMachine};
use crate::process::{Gateway, Receiver};
use crate::site::{Config, Site, assert_rows, free_address, record};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BATCH: usize = 40;

/// What curl prints of an answer's body, and the status.
fn curl(arguments: &[&str], http: SocketAddr, source: &str) -> (String, u16) {
    let url = format!("http://{http}/v1/records/{source}");
    let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}"]).args(arguments).arg(url).output();
    let output = output.expect("curl runs");
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (body.trim_end().to_owned(), status.parse().expect("a number"))
}

fn write(site: &Site, name: &str, text: &str) -> String {
    let path = site.path(name);
    std::fs::write(&path, text).expect("written");
    format!("@{}", path.display())
}

/// Packs a file beside itself.
fn gzip(path: &Path) {
    assert!(Command::new("gzip").arg("-kf").arg(path).status().expect("gzip runs").success());
}

fn lines(machine: &str, from: usize, count: usize) -> String {
    (from..from + count).map(|number| record(machine, number) + "\n").collect()
}

#[test]
fn curl_sends_lines_an_array_packed_bodies_and_files_and_each_record_arrives_once() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let http = free_address();
    let config = site.config().http("cameras", http).of_source("array", "\"split\"");
    let gateway = Gateway::start(&site, &config.write(&site));
    let ndjson = ["-H", "Content-Type: application/x-ndjson", "--data-binary"];
    let file = write(&site, "lines.ndjson", &lines("lines", 0, 500));
    assert_eq!(curl(&[&ndjson[..], &[&file]].concat(), http, "a"), ("{\"accepted\":500}".to_owned(), 201));

    write(&site, "packed.ndjson", &lines("packed", 0, 300));
    gzip(&site.path("packed.ndjson"));
    let file = format!("@{}", site.path("packed.ndjson.gz").display());
    let packed = [&["-H", "Content-Encoding: gzip"], &ndjson[..], &[&file]].concat();
    assert_eq!(curl(&packed, http, "b"), ("{\"accepted\":300}".to_owned(), 201));
    let chunked = [&["-H", "Transfer-Encoding: chunked"], &packed[..]].concat();
    write(&site, "packed.ndjson", &lines("chunked", 0, 1));
    gzip(&site.path("packed.ndjson"));
    assert_eq!(curl(&chunked, http, "b"), ("{\"accepted\":1}".to_owned(), 201));

    let elements: Vec<String> = (0..20).map(|number| format!("\"{}\"", record("array", number))).collect();
    let file = write(&site, "array.json", &format!("[\n {}\n]\n", elements.join(" ,\n ")));
    let json = ["-H", "Content-Type: application/json", "--data-binary", &file];
    assert_eq!(curl(&json, http, "c"), ("{\"accepted\":20}".to_owned(), 201));

    let file = write(&site, "one.txt", &record("put", 0));
    assert_eq!(curl(&["-T", &file[1..]], http, "d"), ("{\"accepted\":1}".to_owned(), 201));
    let old = ["--http1.0", "-H", "Connection: keep-alive", "-H", "Content-Type: text/plain", "-d", "old 000000"];
    assert_eq!(curl(&old, http, "d").1, 201);

    gateway.wait_delivered(823);
    let mut rows = site.rows();
    let arrays: Vec<String> = rows.extract_if(.., |row| row.machine == "c").map(|row| row.data).collect();
    assert_eq!(arrays, elements, "as they were sent");
    assert_rows(&rows, &[("lines", 500), ("packed", 300), ("chunked", 1), ("put", 1), ("old", 1)]);
}

#[test]
fn curl_is_told_what_is_wrong_with_a_form_and_nothing_is_kept() {
    let site = Site::new();
    let http = free_address();
    let config = site.config().http("cameras", http).of_source("data_is", "\"json\"").limit("batch_records", "3");
    let gateway = Gateway::start(&site, &config.write(&site));
    let ndjson = ["-H", "Content-Type: application/x-ndjson", "--data-binary"];
    let lines = |text: &'static str| [&ndjson[..], &[text]].concat();
    for (arguments, status, words) in [
        (vec!["-F", "file=hello"], 415, &["\"rule\":\"a form with several parts", "\"allowed\":"][..]),
        (vec!["-d", "a=1"], 415, &["application/x-www-form-urlencoded"]),
        (lines("{}\n{\n{}"), 400, &["\"line\":2", "data_is = \\\"json\\\""]),
        (lines("{}\n\n{}\n{}\n{}\n"), 413, &["\"line\":5", "batch_records"]),
        (lines("\n \r\n"), 400, &["\"came\":\"no record\""]),
        (
            vec!["-H", "Content-Encoding: gzip", "-H", "Content-Type: text/plain", "--data-binary", "{}"],
            400,
            &["does not begin as gzip does"],
        ),
        (
            vec!["-H", "Content-Encoding: br", "-H", "Content-Type: text/plain", "--data-binary", "{}"],
            415,
            &["Content-Encoding gzip, or none"],
        ),
        (vec!["-X", "DELETE"], 405, &["POST or PUT"]),
    ] {
        let (body, told) = curl(&arguments, http, "a");
        assert_eq!(told, status, "{arguments:?}: {body}");
        assert!(words.iter().all(|word| body.contains(word)), "{arguments:?}: {body}");
    }
    let (body, status) = curl(&["-H", "Content-Type: application/json", "--data-binary", "{}"], http, "a?x=1");
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("query = \\\"ignore\\\""), "{body}");
    // The line that is no JSON is counted, as a body that is none would be.
    let terms = gateway.terms();
    assert_eq!((terms.received, terms.rejected), (1, 1));
}

fn batch(source: &str, key: &str, body: &str) -> String {
    let head = "HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/jsonl\r\n";
    format!("POST /v1/records/{source} {head}Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn post(http: SocketAddr, request: &str) -> Answer {
    let mut machine = HttpMachine::connect(http);
    machine.send(request).expect("sent");
    machine.answer().expect("an answer")
}

fn on_two_cores(site: &Site, http: SocketAddr, level: &str) -> Config {
    site.config().cores(&cpus(2)).journal("durability", &format!("\"{level}\"")).http("cameras", http)
}

#[test]
fn a_batch_under_a_key_is_one_thing_through_a_kill_and_a_stop_and_by_every_core() {
    for level in ["process", "power"] {
        let site = Site::new();
        let http = free_address();
        let start = || Gateway::start(&site, &on_two_cores(&site, http, level).write(&site));
        let sources = ["cam-1", "cam-2", "cam-3", "cam-4"];
        let assert_taken = || {
            for source in sources {
                let answer = post(http, &batch(source, "lot-7", &lines(source, 0, 5)));
                assert_eq!((answer.status, answer.body.as_str()), (201, "{\"accepted\":5}"), "{level}, {source}");
                let other = post(http, &batch(source, "lot-7", &lines(source, 0, 4)));
                assert_eq!(other.status, 422, "{level}, {source}: {}", other.body);
                let text = lines(source, 0, 5);
                let one = batch(source, "lot-7", &text).replace("application/jsonl", "text/plain");
                assert_eq!(post(http, &one).status, 422, "{level}, {source}: the same bytes as one record");
            }
        };
        let mut gateway = start();
        assert_taken();
        assert_taken();
        gateway.process.kill();
        let gateway = start();
        assert_taken();
        assert_eq!((gateway.terms().recovered, gateway.terms().received), (20, 0), "{level}");
        let _receiver = Receiver::start(&site);
        gateway.wait_delivered(20);
        gateway.stop();
        let gateway = start();
        assert_taken();
        assert_eq!(gateway.terms().received, 0, "{level}");
        assert_rows(&site.rows(), &sources.map(|source| (source, 5)));
    }
}

#[test]
fn a_kill_in_the_middle_of_many_batches_leaves_each_as_a_whole_or_nothing_of_it() {
    for level in ["process", "power"] {
        let site = Site::new();
        let _receiver = Receiver::start(&site);
        let http = free_address();
        let start = || Gateway::start(&site, &on_two_cores(&site, http, level).write(&site));
        let mut gateway = start();
        let mut sent: BTreeMap<String, bool> = BTreeMap::new();
        for round in 0..4 {
            let machines: Vec<_> = (0..4)
                .map(|index| {
                    let mut machine = HttpMachine::connect(http);
                    std::thread::spawn(move || {
                        let mut sent = Vec::new();
                        for number in 0.. {
                            let name = format!("r{round}-m{index}-b{number}");
                            let request = batch("cam", &name, &lines(&name, 0, BATCH));
                            let answer = machine.send(&request).and_then(|()| machine.answer());
                            sent.push((name, answer.as_ref().is_ok_and(|answer| answer.status == 201)));
                            if answer.is_err() {
                                break;
                            }
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        sent
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(60 + 23 * round));
            gateway.process.kill();
            for machine in machines {
                sent.extend(machine.join().expect("no machine panics"));
            }
            gateway = start();
        }
        gateway.settled();
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for row in site.rows() {
            *found.entry(row.data.rsplit_once(' ').expect("a record of a test").0.to_owned()).or_default() += 1;
        }
        let answered = sent.values().filter(|answered| **answered).count();
        assert!(answered > 10 && found.keys().all(|name| sent.contains_key(name)), "{answered} answered");
        for (name, answered) in &sent {
            let there = found.get(name).copied().unwrap_or(0);
            assert!(
                there == BATCH || there == 0 && !answered,
                "{level}, {name}: {there} of {BATCH}, answered: {answered}"
            );
        }
    }
}
