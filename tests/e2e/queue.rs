//! `ringest queue`: what waits in the journal, seen from outside, while the gateway runs, after a kill and after a stop.

use crate::machines::TcpMachine;
use crate::process::{Gateway, Receiver, eventually, ringest};
use crate::site::{Site, assert_rows, free_address, record};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Exit code and standard output.
pub fn queue(arguments: &[&str], site: &Site) -> (i32, String) {
    let output = ringest().arg("queue").args(arguments).output().expect("it runs");
    let code = output.status.code().expect("it ends by itself");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    std::fs::write(site.path("queue.err"), &errors).expect("written");
    (code, String::from_utf8(output.stdout).expect("text") + &errors)
}

pub fn json(arguments: &[&str], site: &Site) -> Value {
    let (code, text) = queue(arguments, site);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Every file below a directory, with its bytes.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).expect("its bytes"));
        }
    }
    found
}

#[test]
fn what_waits_is_listed_shown_and_exported_while_the_gateway_runs_and_after_its_kill() {
    const COUNT: usize = 300;
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().journal("durability", "\"power\"").tcp_listen("servers", tcp).write(&site);
    let place = config.to_str().expect("a path");
    let mut gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("press", number))).expect("sent");
    gateway.wait_terms("all to be received", |terms| terms.received == COUNT as u64);

    let of_running = json(&["list", place, "--json"], &site);
    assert_eq!(of_running["records"], COUNT);
    let (code, text) = queue(&["verify", place], &site);
    assert_eq!(code, 5, "a journal in use is not judged: {text}");
    assert!(text.contains(&format!("process {}", gateway.process.pid())), "{text}");

    gateway.process.kill();
    let before = files(&site.path("state"));
    let list = json(&["list", place, "--json", "--limit", "2"], &site);
    assert_eq!(list["records"], COUNT);
    assert_eq!(list["sources"][0]["source"], "servers");
    assert_eq!(list["first"].as_array().expect("a list").len(), 2);
    let (_, text) = queue(&["list", place, "--limit", "2"], &site);
    assert!(
        text.contains("300 records wait") && text.contains("\"press 000001\"") && text.contains("298 more"),
        "{text}"
    );

    let (code, text) = queue(&["export", place], &site);
    assert_eq!(code, 0, "{text}");
    let exported: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let texts: Vec<&str> = exported.iter().map(|record| record["text"].as_str().expect("text")).collect();
    assert_eq!(texts, (0..COUNT).map(|number| record("press", number)).collect::<Vec<_>>());
    assert_eq!(queue(&["export", place, "--source", "another"], &site), (0, String::new()));

    let wanted = &exported[7];
    for name in ["record", "key"] {
        let (code, text) = queue(&["show", place, wanted[name].as_str().expect("text")], &site);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("press 000007") && text.contains(wanted["key"].as_str().expect("text")), "{text}");
        assert!(text.contains("70 72 65 73 73 20 30"), "its bytes in hexadecimal: {text}");
    }
    assert_eq!(queue(&["show", place, "0-999999"], &site).0, 10);
    let verified = json(&["verify", site.path("state").to_str().expect("a path"), "--json"], &site);
    assert_eq!((&verified["ok"], &verified["journals"][0]["clean"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(verified["journals"][0]["waiting"], COUNT);
    assert!(files(&site.path("state")) == before, "looking has changed a file");

    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &config);
    gateway.wait_delivered(COUNT as u64);
    gateway.stop();
    assert_rows(&site.rows(), &[("press", COUNT)]);
    assert_eq!(json(&["list", place, "--json"], &site)["records"], 0);
    assert_eq!(json(&["verify", place, "--json"], &site)["journals"][0]["clean"], true);
}

#[test]
fn a_flipped_byte_below_what_was_durable_is_found_told_and_left_alone() {
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().journal("durability", "\"power\"").tcp_listen("servers", tcp).write(&site);
    let place = config.to_str().expect("a path");
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    for number in 0..20 {
        machine.send([record("press", number)]).expect("sent");
        gateway.wait_terms("it to be received", |terms| terms.received == number as u64 + 1);
    }
    let bytes = |gateway: &Gateway| gateway.status().counter("journal_bytes");
    let written = bytes(&gateway);
    machine.send([record("press", 20)]).expect("sent");
    eventually("the last record to be committed", || (bytes(&gateway) > written).then_some(()));
    gateway.stop();
    assert_eq!(queue(&["verify", place], &site).0, 0);

    let (path, mut segment) = files(&site.path("state"))
        .into_iter()
        .find(|(_, bytes)| bytes.windows(12).any(|at| at == b"press 000000"))
        .expect("a segment has it");
    let at = segment.windows(12).position(|at| at == b"press 000000").expect("found");
    segment[at] ^= 1;
    std::fs::write(&path, &segment).expect("written");
    let (code, text) = queue(&["verify", place], &site);
    assert_eq!(code, 10, "{text}");
    assert!(text.contains("1 place is damaged") && text.contains("20 records wait"), "{text}");
    assert_eq!(std::fs::read(&path).expect("read"), segment, "nothing is repaired");
    assert!(files(&site.path("state").join("core-0/quarantine")).is_empty());
}
