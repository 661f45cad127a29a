//! The histogram log of a running gateway, and its report.

use crate::machines::TcpMachine;
use crate::process::{Gateway, Receiver, eventually, refused_by, ringest};
use crate::site::{Site, free_address, record};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const COUNT: u64 = 200;

/// `ringest report --json` of a log.
fn report(log: &Path) -> Value {
    let output = ringest().args(["report", "--json"]).arg(log).output().expect("the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Tags and their counts.
fn counts(log: &Path) -> Vec<(String, u64)> {
    let report = report(log);
    let tags = report["runs"][0]["tags"].as_array().expect("tags").iter();
    tags.map(|tag| (tag["tag"].as_str().expect("a tag").to_owned(), tag["count"].as_u64().expect("a count"))).collect()
}

/// `ringest` by which `run` writes a log; more arguments may stand behind the configuration.
fn logging(log: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "run=$1; shift; exec \"$0\" $run \"$@\" --histogram-interval 100ms --histogram-log \"$LOG\""]);
    command.arg(env!("CARGO_BIN_EXE_ringest")).env("LOG", log);
    command
}

#[test]
fn the_log_counts_each_record_in_each_stage_and_goes_on_in_the_next_run() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let log = site.path("latency.hlog");
    let mut delivered = 0;
    for durability in ["\"power\"", "\"process\""] {
        let config = site.config().journal("durability", durability).tcp_listen("servers", tcp).write(&site);
        let mut gateway = Gateway::spawn_by(&site, &config, logging(&log));
        gateway.process.wait_ready(&site.path("run.ready"));
        let mut machine = TcpMachine::connect(tcp);
        for number in 0..COUNT {
            machine.send([record("press", number as usize)]).expect("sent");
        }
        gateway.wait_delivered(COUNT);
        delivered += COUNT;
        // An interval is there while the gateway runs, and the last one at its end.
        eventually("an interval", || std::fs::read_to_string(&log).ok().filter(|text| text.contains("Tag=whole")));
        gateway.stop();
        let counts = counts(&log);
        let count = |tag: &str| counts.iter().find(|(name, _)| name == tag).map_or(0, |(_, count)| *count);
        for tag in ["frame", "journaled", "id", "answered", "whole"] {
            assert_eq!(count(tag), delivered, "{tag} of {counts:?}");
        }
        assert_eq!(count("durable"), COUNT, "at level power only: {counts:?}");
    }
    assert_eq!(std::fs::read_to_string(&log).expect("the log").matches("#[StartTime").count(), 2);
}

#[test]
fn a_log_that_is_full_is_told_once_and_the_gateway_goes_on() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let log = site.path("latency.hlog");
    // No file beyond 4 KiB: at level memory the gateway has no other that grows.
    let config = site.config().journal("durability", "\"memory\"").journal("max_size", "\"64MiB\"");
    let config = config.tcp_listen("servers", tcp).write(&site);
    let mut command = Command::new("sh");
    let script =
        "run=$1; shift; ulimit -f 8; exec \"$0\" $run \"$@\" --histogram-interval 100ms --histogram-log \"$LOG\"";
    command.args(["-c", script]).arg(env!("CARGO_BIN_EXE_ringest")).env("LOG", &log);
    let mut gateway = Gateway::spawn_by(&site, &config, command);
    gateway.process.wait_ready(&site.path("run.ready"));
    let mut machine = TcpMachine::connect(tcp);
    let mut sent = 0;
    eventually("a warning", || {
        machine.send([record("press", sent as usize)]).expect("sent");
        sent += 1;
        gateway.wait_delivered(sent);
        gateway.process.log().contains("the gateway goes on").then_some(())
    });
    gateway.wait_delivered(sent);
    let text = gateway.stop();
    assert_eq!(text.matches("the gateway goes on").count(), 1, "{text}");
    assert!(text.contains("latency.hlog: File too large"), "{text}");
    // What is in it is whole.
    let run = &report(&log)["runs"][0];
    assert_eq!(run["notes"], Value::Array(Vec::new()), "{run}");
    let whole = counts(&log).into_iter().find(|(tag, _)| tag == "whole").expect("the tag").1;
    assert!(whole > 0 && whole < sent, "{whole} of {sent}");
}

#[test]
fn a_log_that_cannot_be_begun_is_said_before_anything_starts() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    let notes = site.path("notes.txt");
    std::fs::write(&notes, "do not touch\n").expect("written");
    let cases = [
        (notes.as_path(), "there is a file of another kind; give another name"),
        (Path::new("/dev/full"), "No space left on device"),
        (Path::new("/nowhere/latency.hlog"), "its directory must be there"),
    ];
    for (log, wanted) in cases {
        let (code, text) = refused_by(&site, &config, logging(log));
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(&format!("ringest: the histogram log {}: ", log.display())) && text.contains(wanted),
            "{text}"
        );
    }
    assert_eq!(std::fs::read_to_string(&notes).expect("there"), "do not touch\n");
}
