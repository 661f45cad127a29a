//! Sequence ids that the service gives many at a time.

use crate::machines::TcpMachine;
use crate::process::{Gateway, Receiver};
use crate::site::{Site, assert_rows, free_address, record};
use serde_json::Value;
use std::collections::BTreeSet;

const MACHINES: usize = 10;

fn ids(site: &Site) -> BTreeSet<i64> {
    let all = site.ids();
    let ids: BTreeSet<i64> = all.iter().copied().collect();
    assert_eq!(ids.len(), all.len(), "each id once");
    ids
}

#[test]
fn ids_are_leased_used_in_order_and_the_rest_goes_on_after_a_clean_stop_and_never_after_a_kill() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = site.config().sequence("lease", "100").tcp_listen("servers", tcp).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    let mut sent = 0;
    let mut send = |gateway: &Gateway, each: usize, before: u64| {
        for index in 0..MACHINES {
            let mut machine = TcpMachine::connect(tcp);
            machine.send((0..each).map(|number| record(&format!("m{index}"), sent + number))).expect("sent");
        }
        sent += each;
        gateway.wait_terms("all to be delivered", |terms| terms.delivered == before + (each * MACHINES) as u64);
    };
    send(&gateway, 25, 0);
    let status = gateway.status();
    // 250 records took three grants, and at half of the last one the fourth was asked for.
    let requests = status.counter("api_requests");
    assert!((253..=256).contains(&requests), "{requests} requests");
    let unused = status.0["shards"][0]["unused_ids"].clone();
    assert_eq!(unused.as_array().expect("a list").len(), 1, "{unused}");
    assert_eq!(ids(&site), (1..=250).collect());
    assert_eq!(unused[0][0], 251);

    let summary = gateway.stop();
    assert!(summary.contains("leased the ids 251 to"), "{summary}");
    gateway = Gateway::start(&site, &config);
    send(&gateway, 5, 0);
    assert_eq!(ids(&site), (1..=300).collect(), "what was left is used first");
    let asked = gateway.status().counter("api_requests");
    let next = gateway.status().0["shards"][0]["unused_ids"].clone();
    gateway.process.kill();

    gateway = Gateway::start(&site, &config);
    assert_eq!(
        gateway.status().0["shards"][0]["unused_ids"],
        Value::Array(Vec::new()),
        "of {next}, after {asked} requests"
    );
    send(&gateway, 5, 0);
    let all = ids(&site);
    assert_eq!(all.len(), 350);
    let last = next.as_array().and_then(|runs| runs.last()).and_then(|run| run[1].as_i64()).unwrap_or(300);
    assert!(all.iter().all(|id| *id <= 300 || *id > last), "{all:?}, {next}");
    gateway.stop();
    receiver.stop();
    let names: Vec<String> = (0..MACHINES).map(|index| format!("m{index}")).collect();
    assert_rows(&site.rows(), &names.iter().map(|name| (&**name, 35)).collect::<Vec<_>>());
}

#[test]
fn ids_that_a_run_left_are_used_by_one_later_run_of_the_same_service_alone() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = |url: &str| {
        let path = site.config().sequence("lease", "100").tcp_listen("servers", tcp).write(&site);
        let text = std::fs::read_to_string(&path).expect("written").replace("/seq/", url);
        std::fs::write(&path, text).expect("written");
        path
    };
    let unused = |gateway: &Gateway| gateway.status().0["shards"][0]["unused_ids"].clone();
    let none = Value::Array(Vec::new());
    let gateway = Gateway::start(&site, &config("/seq/"));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..10).map(|number| record("m", number))).expect("sent");
    gateway.wait_delivered(10);
    let left = unused(&gateway);
    assert_eq!(left[0][0], 11, "{left}");
    gateway.stop();
    let (state, copy, other) = (site.path("state"), site.path("copy"), site.path("other"));
    let done = std::process::Command::new("cp").arg("-a").args([&state, &copy]).status().expect("cp runs");
    assert!(done.success());

    let gateway = Gateway::start(&site, &config("/seq/"));
    assert_eq!(unused(&gateway), left, "the first that comes has them");
    gateway.stop();
    std::fs::rename(&state, &other).expect("renamed");
    std::fs::rename(&copy, &state).expect("renamed");
    let gateway = Gateway::start(&site, &config("/seq/"));
    assert_eq!(unused(&gateway), none, "a copy has none");
    gateway.stop();

    std::fs::rename(&state, &copy).expect("renamed");
    std::fs::rename(&other, &state).expect("renamed");
    let gateway = Gateway::start(&site, &config("/seq/?line=3"));
    assert_eq!(unused(&gateway), none, "another service's are not used");
    gateway.stop();
    receiver.stop();
}
