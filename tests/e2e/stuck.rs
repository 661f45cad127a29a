//! Records that no retry helps, and waits that an operator ends: what is told of them, and how soon all goes on.

use crate::api::{Api, Behaviour};
use crate::machines::TcpMachine;
use crate::process::{Gateway, eventually, ringest, within};
use crate::site::{Site, free_address, record};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// The first record of this machine is answered 500 for ever.
const STUCK: Behaviour = Behaviour {
    fail_data: Some(("m0 000000", 500)),
    delay: Duration::ZERO,
    answers_per_connection: 0,
    drop_every: 0,
    refuse_every: 0,
    refuse_data: None,
    long: None,
    conflict: None,
};

/// What a command prints; it must end well.
fn said(arguments: &[&str]) -> String {
    let output = ringest().args(arguments).output().expect("ringest runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn list(config: &Path) -> String {
    said(&["queue", "list", config.to_str().expect("text")])
}

pub fn retry_now(config: &Path) -> String {
    said(&["queue", "retry", config.to_str().expect("text"), "--now"])
}

fn problem(gateway: &Gateway) -> Option<String> {
    gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned)
}

/// Machine 0 and what waits behind its first record, and another one that goes on.
fn machines(gateway: &Gateway, tcp: std::net::SocketAddr) -> (TcpMachine, TcpMachine) {
    let (mut stuck, mut other) = (TcpMachine::connect(tcp), TcpMachine::connect(tcp));
    stuck.send((0..3).map(|number| record("m0", number))).expect("sent");
    other.send([record("m1", 0)]).expect("sent");
    gateway.wait_terms("all to be received", |terms| terms.received == 4);
    (stuck, other)
}

#[test]
fn a_record_that_is_never_taken_while_others_are_is_told_by_its_name_everywhere() {
    let site = Site::new();
    let _api = Api::start(site.api, STUCK);
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).write(&site);
    let gateway = Gateway::start(&site, &config);
    let (_stuck, mut other) = machines(&gateway, tcp);
    let begun = Instant::now();
    let mut number = 1;
    let told = within(Duration::from_secs(5), "it to be told", || {
        other.send([record("m1", number)]).expect("sent");
        number += 1;
        let problems = gateway.status().0["problems"].as_array().cloned().unwrap_or_default();
        problems.into_iter().find(|problem| problem["area"] == "lane")
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
    let text = told["text"].as_str().expect("words");
    assert!(told["name"].as_str().expect("a name").starts_with("servers@127.0.0.1:"), "{told}");
    for part in
        ["is not taken, though those of other machines are", "attempts in", "answered 500", "2 records wait behind it"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(gateway.get("/healthz")["reasons"][0]["area"], "lane", "degraded");
    let status = said(&["status", "--admin", &site.admin.to_string()]);
    let (_, problems) = status.split_once("problems\n").expect("problems");
    assert!(problems.contains("lane servers@127.0.0.1:"), "{status}");
    assert!(problems.lines().all(|line| line.chars().count() <= 80), "{status}");
    let listed = list(&config);
    assert!(listed.contains("attempts in") && listed.contains("answered 500"), "{listed}");
    assert_eq!(gateway.status().0["lanes_stuck"], 1);
    assert!(gateway.status().0["oldest_pending_s"].as_f64().is_some_and(|age_s| age_s > 0.5));
    let log = eventually("the log to tell it", || {
        let log = gateway.process.log();
        log.contains("is not taken, though those of other machines are").then_some(log)
    });
    assert!(log.contains("answered 500"), "{log}");
    gateway.stop();
}

#[test]
fn a_record_that_alone_is_answered_404_holds_up_its_own_lane() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { fail_data: Some(("m0 000000", 404)), ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp);
    let config = config.deliver("retry", "{ first = \"20ms\", max = \"10s\" }").write(&site);
    let gateway = Gateway::start(&site, &config);
    let (_stuck, mut other) = machines(&gateway, tcp);
    let (begun, mut number) = (Instant::now(), 1);
    while begun.elapsed() < Duration::from_secs(4) {
        other.send([record("m1", number)]).expect("sent");
        number += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    gateway.wait_terms("those of the other machine", |terms| terms.pending == 3);
    // One by one it was sent 20 times a second.
    let attempts = api.steps().len() - api.films().len();
    assert!((2..8).contains(&attempts), "{attempts} attempts");
    assert_eq!(gateway.status().0["lanes_stuck"], 1);
    gateway.stop();
}

#[test]
fn a_stuck_record_is_parked_where_that_is_said_and_none_is_while_the_service_fails_for_all() {
    let site = Site::new();
    let api = Api::start(site.api, STUCK);
    let tcp = free_address();
    let answers = "{ stuck = { attempts = 3, after = \"0s\", then = \"park\" } }";
    let config = site.config().tcp_listen("servers", tcp).deliver("answers", answers).write(&site);
    let gateway = Gateway::start(&site, &config);
    api.refuse(Some("500 Internal Server Error"));
    let (_stuck, mut other) = machines(&gateway, tcp);
    eventually("many attempts", || (api.steps().len() > 20).then_some(()));
    assert_eq!((gateway.terms().parked, gateway.terms().delivered), (0, 0));
    api.refuse(None);
    let mut number = 1;
    eventually("the record to be parked", || {
        other.send([record("m1", number)]).expect("sent");
        number += 1;
        (gateway.terms().parked == 1).then_some(())
    });
    gateway.wait_terms("those behind it", |terms| terms.pending == 0 && terms.parked == 1);
    let parked = gateway.get("/api/parked");
    assert_eq!(parked["first"][0]["status"], 500, "{parked}");
    assert!(parked["first"][0]["attempts"].as_u64().is_some_and(|attempts| attempts >= 3), "{parked}");
    gateway.stop();
}

#[test]
fn a_success_that_is_not_listed_pauses_the_step_and_says_what_to_write() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    api.refuse(Some("200 OK\r\nContent-Type: application/json"));
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).deliver("retry", "{ first = \"20ms\", max = \"60s\" }");
    let config = config.write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..3).map(|number| record("m0", number))).expect("sent");
    let told = within(Duration::from_secs(5), "it to be told", || problem(&gateway));
    for part in ["answered 200 to a record (application/json, \"{\"id\":", "success = [200, 201]"] {
        assert!(told.contains(part), "{told}");
    }
    // Half a minute at least passes before the next attempt.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((api.steps().len(), gateway.terms().delivered), (1, 0));
    assert!(gateway.process.log().contains("success = [200, 201]"));
    api.refuse(None);
    let told = retry_now(&config);
    assert!(told.contains("whatever waits for the service is tried now"), "{told}");
    gateway.wait_delivered(3);
    assert_eq!(problem(&gateway), None);
    gateway.stop();
}

#[test]
fn a_service_that_takes_requests_and_never_answers_is_told_long_before_their_deadline() {
    let site = Site::new();
    // The kernel accepts for it.
    let _silent = std::net::TcpListener::bind(site.api).expect("a free address");
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).deliver("timeout", "\"5m\"").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m0", 0)]).expect("sent");
    let told = within(Duration::from_secs(60), "it to be told", || problem(&gateway));
    assert!(told.starts_with("no answer to a request for "), "{told}");
    gateway.stop();
}

#[test]
fn an_operator_ends_the_wait_that_a_service_has_told() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    for (number, by_signal) in [(0, true), (1, false)] {
        api.refuse(Some("503 Service Unavailable\r\nRetry-After: 3600"));
        machine.send([record("m0", number)]).expect("sent");
        let told = eventually("it to be told until when it waits", || {
            let problems = gateway.status().0["problems"].as_array().cloned().unwrap_or_default();
            let text = problems.iter().find(|problem| problem["area"] == "route")?["text"].as_str()?.to_owned();
            text.contains("Retry-After").then_some(text)
        });
        assert!(told.contains("next try in 4 min") || told.contains("next try in 5 min"), "{told}");
        api.refuse(None);
        let begun = Instant::now();
        match by_signal {
            true => gateway.process.signal(Signal::SIGHUP),
            false => drop(retry_now(&config)),
        }
        gateway.wait_delivered(number as u64 + 1);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    gateway.stop();
}

#[test]
fn an_operator_ends_the_wait_of_a_lane_that_waits_by_itself() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { fail_data: Some(("m0 000000", 200)), ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp);
    let config = config.deliver("retry", "{ first = \"60s\", max = \"60s\" }").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut other = TcpMachine::connect(tcp);
    other.send([record("m1", 0)]).expect("sent");
    gateway.wait_delivered(1);
    let mut stuck = TcpMachine::connect(tcp);
    stuck.send([record("m0", 0)]).expect("sent");
    let attempts = || api.steps().len() - api.films().len();
    // The step is not held back: its lane alone waits, for half a minute at least.
    eventually("its answer", || (gateway.status().counter("api_failures") == 1).then_some(()));
    other.send([record("m1", 1)]).expect("sent");
    gateway.wait_terms("the other machine's", |terms| terms.delivered == 2);
    let listed = list(&config);
    assert!(listed.contains("next try in"), "{listed}");
    assert_eq!(attempts(), 1);
    retry_now(&config);
    within(Duration::from_secs(15), "another attempt", || (attempts() == 2).then_some(()));
    gateway.stop();
}

#[test]
fn a_secret_that_is_changed_is_used_without_a_word() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    let secret = site.path("secret");
    std::fs::write(&secret, "Bearer old\n").expect("written");
    let tcp = free_address();
    let headers = format!("{{ Authorization = {{ file = \"{}\" }} }}", secret.display());
    let config = site.config().tcp_listen("servers", tcp).deliver("headers", &headers).write(&site);
    let gateway = Gateway::start(&site, &config);
    api.refuse(Some("401 Unauthorized"));
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m0", 0)]).expect("sent");
    eventually("it to be refused", || problem(&gateway).filter(|problem| problem.contains("401")));
    // The configuration itself is half written, and nobody has asked for it to be read.
    std::fs::write(&config, "[deliver").expect("written");
    std::fs::write(&secret, "Bearer new\n").expect("written");
    within(Duration::from_secs(5), "the new one to be sent", || {
        api.authorizations().contains(&"Bearer new".to_owned()).then_some(())
    });
    api.refuse(None);
    gateway.wait_delivered(1);
    let log = gateway.stop();
    assert!(log.contains("a file of secrets has changed") && !log.contains("Bearer"), "{log}");
}

#[test]
fn the_first_record_goes_out_within_two_seconds_of_the_service_s_return() {
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp);
    let config = config.deliver("retry", "{ first = \"2s\", max = \"60s\" }").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m0", 0)]).expect("sent");
    eventually("some connects to be refused", || (gateway.status().counter("api_connect_failures") > 4).then_some(()));
    let api = Api::start(site.api, Behaviour::default());
    within(Duration::from_secs(2), "the record to go out", || (!api.steps().is_empty()).then_some(()));
    gateway.wait_delivered(1);
    gateway.stop();
}
