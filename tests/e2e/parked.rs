//! Records that the API refuses for good: kept aside with the answer, through kills and stops, until an operator decides.

use crate::api::{Api, Behaviour, Conflict};
use crate::machines::TcpMachine;
use crate::process::{Gateway, Terms, ringest};
use crate::queue::{json, queue};
use crate::site::{Site, assert_whole, free_address, numbers, record};
use nix::pty::openpty;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

const COUNT: usize = 20;
pub const POISON: Behaviour = Behaviour {
    delay: std::time::Duration::ZERO,
    answers_per_connection: 0,
    drop_every: 0,
    refuse_every: 0,
    refuse_data: Some("3"),
    conflict: None,
    fail_data: None,
    long: None,
};

fn config(site: &Site, tcp: SocketAddr) -> PathBuf {
    let config = site.config().journal("durability", "\"power\"").tcp_listen("servers", tcp);
    config.deliver("retry", "{ first = \"10ms\", max = \"50ms\" }").write(site)
}

fn wait_parked(gateway: &Gateway, parked: u64) -> Terms {
    gateway.wait_terms("it to be parked", |terms| terms.parked == parked && terms.pending == 0)
}

#[test]
fn a_refused_record_is_parked_with_its_answer_and_delivered_under_its_key_and_id_when_it_is_retried() {
    let site = Site::new();
    let api = Api::start(site.api, POISON);
    let tcp = free_address();
    let config = config(&site, tcp);
    let place = config.to_str().expect("a path");
    let mut gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("press", number))).expect("sent");
    // 3 and 13.
    let terms = wait_parked(&gateway, 2);
    assert_eq!((terms.received, terms.delivered), (COUNT as u64, COUNT as u64 - 2));
    assert_eq!(gateway.status().counter("api_refusals"), 6, "three times each");
    let health = gateway.get("/healthz");
    assert_eq!(health["status"], "degraded");
    assert!(health.to_string().contains("2 records are parked"), "{health}");
    let parked = gateway.get("/api/parked");
    assert_eq!((&parked["total"], &parked["groups"][0]["status"]), (&Value::from(2), &Value::from(422)));

    // What is parked survives a kill, and is not sent again by itself.
    let steps = api.steps().len();
    for _ in 0..2 {
        gateway.process.kill();
        let list = json(&["list", place, "--parked", "--json"], &site);
        assert_eq!((&list["records"], &list["parked"]), (&Value::from(2), &Value::from(2)));
        let first = &list["first"][0];
        assert_eq!((&first["text"], &first["parked"]["status"]), (&record("press", 3).into(), &Value::from(422)));
        assert_eq!(first["parked"]["attempts"], 3);
        gateway = Gateway::start(&site, &config);
        let terms = gateway.settled();
        assert_eq!((terms.recovered, terms.parked, terms.pending), (2, 2, 0));
    }
    assert_eq!(api.steps().len(), steps);

    let list = json(&["list", place, "--parked", "--json"], &site);
    let wanted = |index: usize, name: &str| list["first"][index][name].as_str().expect("text").to_owned();
    assert_eq!(queue(&["retry", place, "0-99"], &site).0, 10, "no such record");
    assert_eq!(queue(&["retry", place], &site).0, 2, "which ones is to be said");
    // Refused again, it is parked again.
    let (code, text) = queue(&["retry", place, &wanted(0, "record")], &site);
    assert_eq!((code, text.trim()), (0, "1 parked record is to be delivered now"));
    gateway.wait_terms("three more attempts", |terms| terms.parked == 2 && api.steps().len() == steps + 3);

    api.relent();
    assert_eq!(queue(&["retry", place, "--status", "400"], &site).0, 10);
    assert_eq!(queue(&["retry", place, "--source", "servers"], &site).0, 0);
    gateway.wait_delivered(2);
    assert_eq!(gateway.get("/healthz")["status"], "ok");
    let films = api.films();
    for index in 0..2 {
        let film = &films[COUNT - 2 + index];
        assert_eq!((&film.key, &film.data), (&wanted(index, "key"), &wanted(index, "text")));
        let body: Value = serde_json::from_str(&film.body).expect("JSON");
        assert_eq!(body["id"].to_string(), wanted(index, "id"));
    }
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    let mut all = found["press"].clone();
    assert!(all[..COUNT - 2].is_sorted(), "the others in their order: {all:?}");
    all.sort_unstable();
    assert_eq!(assert_whole("press", &all), COUNT);
    gateway.stop();
    assert_eq!(json(&["list", place, "--json"], &site)["records"], 0);
}

#[test]
fn decisions_about_a_stopped_gateway_are_carried_out_when_it_starts() {
    let site = Site::new();
    let api = Api::start(site.api, POISON);
    let tcp = free_address();
    let config = config(&site, tcp);
    let place = config.to_str().expect("a path");
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("press", number))).expect("sent");
    wait_parked(&gateway, 2);
    gateway.stop();
    api.relent();
    let list = json(&["list", place, "--parked", "--json"], &site);
    let name = |index: usize| list["first"][index]["record"].as_str().expect("text").to_owned();
    let state = site.path("state");
    let state = state.to_str().expect("a path");
    let (code, text) = queue(&["retry", state, &name(0)], &site);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the gateway is not running: 1 parked record "), "{text}");
    assert_eq!(queue(&["discard", place, &name(1)], &site).0, 0);
    let (_, text) = queue(&["list", place], &site);
    assert!(text.contains("1 parked record: to be delivered after all when the gateway starts"), "{text}");

    let gateway = Gateway::start(&site, &config);
    let terms = gateway.wait_terms("both to be done", |terms| (terms.parked, terms.pending) == (0, 0));
    assert_eq!((terms.recovered, terms.delivered, terms.discarded), (2, 1, 1));
    let (_, text) = queue(&["retry", state, "--all"], &site);
    assert!(text.contains("give its configuration file"), "{text}");
    crate::process::eventually("the decisions to be forgotten", || {
        (!site.path("state/decisions").exists()).then_some(())
    });
    gateway.stop();
    let gateway = Gateway::start(&site, &config);
    let terms = gateway.settled();
    assert_eq!(terms, Terms::default(), "nothing is done twice");
    gateway.stop();
    let datas: Vec<String> = api.films().into_iter().map(|film| film.data).collect();
    assert!(datas.contains(&record("press", 3)) && !datas.contains(&record("press", 13)));
}

#[test]
fn with_as_many_parked_as_may_be_deliveries_wait_and_say_so() {
    let site = Site::new();
    let api = Api::start(site.api, POISON);
    let tcp = free_address();
    let keys = site.config().tcp_listen("servers", tcp).deliver("retry", "{ first = \"10ms\", max = \"50ms\" }");
    let config = keys.deliver("answers", "{ attempts = 1, parked_max = 1 }").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("press", number))).expect("sent");
    let terms = gateway.wait_terms("one to be parked and the next to wait", |terms| {
        terms.parked == 1 && terms.delivered == 12 && gateway.status().counter("api_holds") > 0
    });
    assert_eq!(terms.pending, COUNT as u64 - 13);
    assert!(gateway.get("/healthz").to_string().contains("1 are parked, which is the most"));
    let place = config.to_str().expect("a path");
    // Nobody can be asked in a pipe; what is said then can be typed.
    let (code, text) = queue(&["discard", place, "--all"], &site);
    assert_eq!((code, gateway.terms().parked), (2, 1), "{text}");
    let typed = text.trim().rsplit_once("ringest queue ").expect("a command").1;
    assert!(text.contains("1 parked record would be deleted"), "{text}");
    assert_eq!(queue(&typed.split(' ').collect::<Vec<_>>(), &site).0, 0);
    gateway.wait_terms("the next to be parked", |terms| terms.parked == 1 && terms.discarded == 1);
    api.relent();
    gateway.wait_terms("the rest", |terms| terms.pending == 0);
    gateway.stop();
}

/// As `queue` of a person who types this at a terminal.
fn at_a_terminal(arguments: &[&str], typed: &str) -> (Option<i32>, String) {
    let terminal = openpty(None, None).expect("a pty");
    let mut command = ringest();
    command.arg("queue").args(arguments).stdin(terminal.slave).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    let mut keyboard = File::from(terminal.master);
    keyboard.write_all(format!("{typed}\n").as_bytes()).expect("typed");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn before_all_parked_records_are_deleted_whoever_sits_at_the_terminal_is_asked() {
    let site = Site::new();
    let api = Api::start(site.api, POISON);
    let tcp = free_address();
    let config = config(&site, tcp);
    let all = ["discard", config.to_str().expect("a path"), "--all"];
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("press", number))).expect("sent");
    wait_parked(&gateway, 2);
    for refusal in ["no", "", "yes, but not now"] {
        let (code, said) = at_a_terminal(&all, refusal);
        assert_eq!(code, Some(2), "{refusal:?}: {said}");
        assert!(said.contains("2 parked records of ") && said.contains("Type yes to go on"), "{said}");
        assert!(said.contains("nothing was deleted"), "{said}");
        let terms = gateway.terms();
        assert_eq!((terms.parked, terms.discarded), (2, 0), "{refusal:?}");
    }
    let (code, said) = at_a_terminal(&all, "yes");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Type yes to go on"), "{said}");
    gateway.wait_terms("both to be gone", |terms| (terms.parked, terms.discarded) == (0, 2));
    assert_eq!(api.films().len(), COUNT - 2);
    gateway.stop();
}

#[test]
fn after_409_the_service_is_asked_what_it_has() {
    for (conflict, delivered) in [(Conflict::Stored, true), (Conflict::Missing, true), (Conflict::Other, false)] {
        let site = Site::new();
        let api = Api::start(site.api, Behaviour { conflict: Some(conflict), ..Behaviour::default() });
        let tcp = free_address();
        let keys = site.config().tcp_listen("servers", tcp).deliver("retry", "{ first = \"10ms\", max = \"50ms\" }");
        let config = keys.deliver("confirm", "{ path = \"/films/{{id}}/\" }").write(&site);
        let gateway = Gateway::start(&site, &config);
        let mut machine = TcpMachine::connect(tcp);
        machine.send((0..5).map(|number| record("press", number))).expect("sent");
        let terms = gateway.wait_terms("all to be settled", |terms| terms.received == 5 && terms.pending == 0);
        assert_eq!((terms.delivered, terms.parked), if delivered { (5, 0) } else { (0, 5) }, "{conflict:?}");
        assert_eq!(api.asked().len(), 5);
        let found = numbers(api.films().iter().map(|film| film.data.as_str()));
        assert_eq!(found.get("press").map_or(0, |numbers| assert_whole("press", numbers)), 5 * usize::from(delivered));
        if !delivered {
            assert_eq!(gateway.get("/api/parked")["groups"][0]["status"], 409, "the answer that led to the question");
        }
        gateway.stop();
    }
}
