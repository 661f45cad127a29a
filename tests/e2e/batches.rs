//! Many records in one request.

use crate::api::{Api, Behaviour};
use crate::machines::TcpMachine;
use crate::process::{Gateway, Terms};
use crate::site::{Config, Site, assert_whole, free_address, numbers, record};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const MACHINES: usize = 20;
const EACH: usize = 50;
const ALL: u64 = (MACHINES * EACH) as u64;

fn config(site: &Site, tcp: SocketAddr, batch: &str) -> Config {
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("batch", batch);
    let config = config.deliver("body", r#"'{"machine": {{source|json}}, "key": "{{key}}", "data": {{data|json}}}'"#);
    config.deliver("retry", "{ first = \"10ms\", max = \"50ms\" }")
}

/// All machines send all of theirs at once.
fn send(tcp: SocketAddr) -> Vec<TcpMachine> {
    let machines = (0..MACHINES).map(|index| {
        let mut machine = TcpMachine::connect(tcp);
        machine.send((0..EACH).map(|number| record(&format!("m{index}"), number))).expect("sent");
        machine
    });
    machines.collect()
}

fn assert_all(api: &Api, but: &str) -> BTreeMap<String, Vec<usize>> {
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    let whole = found.iter().filter(|(machine, _)| *machine != but);
    assert_eq!(whole.map(|(machine, numbers)| assert_whole(machine, numbers)).sum::<usize>() % EACH, 0);
    found
}

fn wait(gateway: &Gateway, parked: u64) -> Terms {
    gateway.wait_terms("all to be settled", |terms| terms.delivered + terms.parked == ALL && terms.parked == parked)
}

#[test]
fn records_go_in_batches_each_machines_in_their_order() {
    for (batch, most) in [
        ("{ form = \"ndjson\", records = 100 }", 100),
        ("{ form = \"array\", records = 30, wait = \"0ms\" }", 30),
        (r#"{ form = "array", around = '{"films": {{records}}, "n": 1}', records = 1000, bytes = "1KiB" }"#, 12),
    ] {
        let site = Site::new();
        let api = Api::start(site.api, Behaviour { delay: Duration::from_millis(2), ..Behaviour::default() });
        let tcp = free_address();
        let gateway = Gateway::start(&site, &config(&site, tcp, batch).deliver("connections", "2").write(&site));
        let _machines = send(tcp);
        wait(&gateway, 0);
        gateway.stop();
        assert_eq!(assert_all(&api, "").len(), MACHINES);
        let batches = api.batches();
        assert!(batches.iter().all(|records| *records <= most), "{batches:?}");
        assert!(batches.len() <= 3 * ALL as usize / most, "{} requests: {batches:?}", batches.len());
    }
}

#[test]
fn a_record_waits_for_others_no_longer_than_configured() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    let tcp = free_address();
    let gateway = Gateway::start(&site, &config(&site, tcp, "{ wait = \"3s\", records = 3 }").write(&site));
    let mut machines: Vec<TcpMachine> = (0..2).map(|_| TcpMachine::connect(tcp)).collect();
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.send([record(&format!("m{index}"), 0)]).expect("sent");
    }
    gateway.wait_delivered(2);
    assert_eq!(api.batches(), [2], "the first has waited for the second");
    let begun = std::time::Instant::now();
    machines[0].send((1..4).map(|number| record("m0", number))).expect("sent");
    gateway.wait_delivered(5);
    assert!(begun.elapsed() < Duration::from_millis(2800), "a full batch waits for nothing");
    assert_eq!(api.batches(), [2, 3]);
    gateway.stop();
}

#[test]
fn a_refused_batch_is_cut_until_the_poison_record_alone_is_parked() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { refuse_data: Some("m7 000013"), ..Behaviour::default() });
    let tcp = free_address();
    let gateway = Gateway::start(&site, &config(&site, tcp, "{ records = 64 }").write(&site));
    let _machines = send(tcp);
    wait(&gateway, 1);
    let status = gateway.status();
    assert!((1..=8).contains(&status.counter("batch_splits")), "{}", status.counter("batch_splits"));
    let parked = gateway.get("/api/parked");
    assert_eq!((&parked["first"][0]["status"], &parked["first"][0]["attempts"]), (&422.into(), &3.into()));
    gateway.stop();
    let found = assert_all(&api, "m7");
    let without: Vec<usize> = (0..EACH).filter(|number| *number != 13).collect();
    assert_eq!((found.len(), &found["m7"]), (MACHINES, &without));
}

#[test]
fn a_refused_batch_of_one_machine_is_cut_no_more_often_than_it_can_be_halved() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { refuse_data: Some("m7 000013"), ..Behaviour::default() });
    let tcp = free_address();
    let gateway = Gateway::start(&site, &config(&site, tcp, "{ records = 64, wait = \"1s\" }").write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..64).map(|number| record("m7", number))).expect("sent");
    gateway.wait_terms("all to be settled", |terms| terms.delivered == 63 && terms.parked == 1);
    assert_eq!(gateway.status().counter("batch_splits"), 6);
    gateway.stop();
    assert_eq!(numbers(api.films().iter().map(|film| film.data.as_str()))["m7"].len(), 63);
}

#[test]
fn a_batch_without_an_answer_is_sent_again_as_it_was_and_under_its_key() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { drop_every: 3, ..Behaviour::default() });
    let tcp = free_address();
    let gateway = Gateway::start(&site, &config(&site, tcp, "{ records = 16 }").write(&site));
    let _machines = send(tcp);
    wait(&gateway, 0);
    gateway.stop();
    let mut batches: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for film in api.films() {
        batches.entry(film.key).or_default().push(film.body);
    }
    // A service that honours keys stores the first of equal requests: all of them are equal, and no record is in two different ones.
    let mut repeated = 0;
    let mut seen = std::collections::BTreeSet::new();
    for (key, bodies) in &batches {
        let records = key
            .split("-b")
            .nth(1)
            .map_or(1, |tail| tail.split('-').next().expect("a count").parse().expect("a number"));
        assert_eq!(bodies.len() % records, 0, "{key}");
        assert!(bodies.chunks(records).all(|again| again == &bodies[..records]), "{key} has two different bodies");
        repeated += bodies.len() / records - 1;
        for body in &bodies[..records] {
            assert!(seen.insert(body.clone()), "{body} is in two batches");
        }
    }
    assert_eq!(seen.len() as u64, ALL);
    assert!(repeated > 0, "no answer was lost, so nothing was tested");
}

#[test]
fn leased_ids_are_one_for_each_record_of_a_batch_also_through_refusals_and_lost_answers() {
    let site = Site::new();
    let behaviour = Behaviour { refuse_data: Some("m7 000013"), drop_every: 7, ..Behaviour::default() };
    let api = Api::start(site.api, behaviour);
    let tcp = free_address();
    let config = site.config().sequence("lease", "70").tcp_listen("servers", tcp).deliver("batch", "{ records = 32 }");
    let config = config.deliver("retry", "{ first = \"10ms\", max = \"50ms\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let _machines = send(tcp);
    wait(&gateway, 1);
    gateway.stop();
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for film in api.films() {
        let id = serde_json::from_str::<serde_json::Value>(&film.body).expect("JSON")["id"].to_string();
        // A record that was sent again has the id that it had.
        assert_eq!(ids.entry(film.data.clone()).or_insert_with(|| id.clone()), &id, "{}", film.data);
    }
    let different: std::collections::BTreeSet<&String> = ids.values().collect();
    assert_eq!((ids.len() as u64, different.len()), (ALL - 1, ids.len()));
}

#[test]
fn a_record_that_makes_the_service_fail_is_singled_out_and_only_its_machine_waits() {
    for failure in [500, 0] {
        let site = Site::new();
        let behaviour = Behaviour { fail_data: Some(("m7 000013", failure)), ..Behaviour::default() };
        let api = Api::start(site.api, behaviour);
        let tcp = free_address();
        // One request at a time, with records of all machines.
        let config = config(&site, tcp, "{ records = 64, failures = 2 }").deliver("connections", "1");
        let gateway = Gateway::start(&site, &config.write(&site));
        let _machines = send(tcp);
        gateway.wait_terms("the others", |terms| terms.delivered == ALL - (EACH - 13) as u64);
        let status = gateway.status();
        assert!((1..=8).contains(&status.counter("batch_splits")), "{}", status.counter("batch_splits"));
        let grown = api.batches();
        assert!(grown.iter().rev().take(3).any(|records| *records > 16), "batches are whole again: {grown:?}");
        gateway.stop();
        let found = assert_all(&api, "m7");
        assert_eq!((found.len(), &found["m7"]), (MACHINES, &(0..13).collect()));
    }
}
