//! A machine's own Idempotency-Key (row 60 of the HTTP cases): the same POST again is no second record, whichever connection
//! and core it comes by, and whatever ended in between.

use crate::api::{Api, Behaviour};
use crate::cores::cpus;
use crate::machines::{Answer, HttpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Config, Site, free_address, record};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SOURCES: usize = 16;

fn request(source: &str, key: &str, data: &str) -> String {
    format!(
        "POST /v1/records/{source} HTTP/1.1\r\nHost: gateway\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{data}",
        data.len()
    )
}

/// Posts by a connection of its own.
fn post(http: SocketAddr, source: &str, key: &str, data: &str) -> Answer {
    let mut machine = HttpMachine::connect(http);
    machine.send(&request(source, key, data)).expect("sent");
    machine.answer().expect("an answer")
}

fn repeated(gateway: &Gateway) -> u64 {
    gateway.status().counter("http_repeated")
}

/// Each of the sources posts a record under its key.
fn post_all(http: SocketAddr) {
    for index in 0..SOURCES {
        let source = format!("cam-{index}");
        assert_eq!(post(http, &source, "lot-7", &record(&source, 0)).status, 201, "{source}");
    }
}

/// Row 60, of every source: a repeat, another body, another key.
fn assert_known(http: SocketAddr) {
    for index in 0..SOURCES {
        let source = format!("cam-{index}");
        let again = post(http, &source, "lot-7", &record(&source, 0));
        assert_eq!((again.status, again.body.as_str()), (201, "{\"accepted\":1}"), "{source}");
        let other = post(http, &source, "lot-7", &record(&source, 1));
        assert_eq!(other.status, 422, "{source}: {}", other.body);
        assert!(other.body.contains("a key that came with another body before"), "{}", other.body);
    }
}

fn assert_one_row_each(site: &Site) {
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for row in site.rows() {
        *rows.entry(row.data).or_default() += 1;
    }
    let expected = (0..SOURCES).map(|index| (record(&format!("cam-{index}"), 0), 1)).collect();
    assert_eq!(rows, expected);
}

fn config(site: &Site, http: SocketAddr, cores: usize, level: &str) -> Config {
    site.config().cores(&cpus(cores)).journal("durability", &format!("\"{level}\"")).http("cameras", http)
}

/// Through a kill before the delivery, one after it, and a clean stop; with as many cores each time as `cores` says.
fn keys_are_known_through(level: &str, cores: [usize; 4]) {
    let site = Site::new();
    let http = free_address();
    let start = |cores: usize| Gateway::start(&site, &config(&site, http, cores, level).write(&site));
    let mut gateway = start(cores[0]);
    post_all(http);
    assert_known(http);
    assert_eq!(gateway.terms().received, SOURCES as u64);
    assert_eq!(repeated(&gateway), SOURCES as u64);
    gateway.process.kill();

    let mut gateway = start(cores[1]);
    assert_known(http);
    assert_eq!((gateway.terms().recovered, gateway.terms().received), (SOURCES as u64, 0));
    let receiver = Receiver::start(&site);
    gateway.wait_terms("all of it", |terms| terms.delivered == SOURCES as u64);
    assert_known(http);
    gateway.process.kill();

    for cores in &cores[2..] {
        let gateway = start(*cores);
        assert_known(http);
        assert_eq!(gateway.terms().received, 0);
        gateway.wait_terms("what was delivered without a mark", |terms| terms.pending == 0);
        gateway.stop();
    }
    assert_one_row_each(&site);
    receiver.stop();
}

#[test]
fn the_same_post_again_is_one_record_through_kills_and_stops() {
    keys_are_known_through("power", [1; 4]);
}

#[test]
fn the_same_post_again_is_one_record_whichever_of_two_cores_it_comes_to() {
    keys_are_known_through("power", [2; 4]);
}

#[test]
fn the_same_post_again_is_one_record_with_more_cores_and_with_fewer() {
    keys_are_known_through("process", [2, 1, 2, 1]);
}

#[test]
fn on_two_cores_the_records_of_a_connection_keep_their_order_and_answers_theirs() {
    const EACH: usize = 200;
    let site = Site::new();
    let http = free_address();
    let receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &config(&site, http, 2, "power").write(&site));
    let machines = (0..8).map(|index| {
        std::thread::spawn(move || {
            let name = format!("cam-{index}");
            let mut machine = HttpMachine::connect(http);
            for first in (0..EACH).step_by(10) {
                let of_burst = |number: usize| request(&name, &format!("k{number}"), &record(&name, number));
                let mut burst: String = (first..first + 10).map(of_burst).collect();
                // Among them one that is known, with its body and with another, and one that is none.
                burst += &of_burst(first);
                burst += &request(&name, &format!("k{first}"), "another");
                burst += "GET /v1/records/a HTTP/1.1\r\nHost: gateway\r\n\r\n";
                machine.send(&burst).expect("sent");
                let statuses: Vec<u16> = (0..13).map(|_| machine.answer().expect("an answer").status).collect();
                assert_eq!(statuses, [vec![201; 11], vec![422, 405]].concat());
            }
        })
    });
    machines.collect::<Vec<_>>().into_iter().for_each(|machine| machine.join().expect("no machine panics"));
    gateway.wait_delivered(8 * EACH as u64);
    let of_core = |core: usize| gateway.status().0["shards"][core]["terms"]["delivered"].as_u64().expect("a number");
    assert!(of_core(0) > 0 && of_core(1) > 0, "all sources fell to one core");
    let rows = site.rows();
    for index in 0..8 {
        let name = format!("cam-{index}");
        let of_machine: Vec<&str> =
            rows.iter().filter(|row| row.machine == name).map(|row| row.data.as_str()).collect();
        let expected: Vec<String> = (0..EACH).map(|number| record(&name, number)).collect();
        assert_eq!(of_machine, expected, "{name}");
    }
    gateway.stop();
    receiver.stop();
}

#[test]
fn a_machine_that_repeats_what_was_not_answered_makes_no_double_through_kills() {
    const ROUNDS: usize = 6;
    let site = Site::new();
    let http = free_address();
    let api = Api::start(site.api, Behaviour::default());
    let config = config(&site, http, 2, "process").write(&site);
    let mut next = [0; 4];
    for _ in 0..ROUNDS {
        let mut gateway = Gateway::start(&site, &config);
        let machines = next.into_iter().enumerate().map(|(index, mut number): (usize, usize)| {
            std::thread::spawn(move || {
                let name = format!("cam-{index}");
                let mut machine = HttpMachine::connect(http);
                // What has no answer is posted again by the next connection.
                while machine.send(&request(&name, &format!("{number}"), &record(&name, number))).is_ok() {
                    let Ok(answer) = machine.answer() else { break };
                    assert_eq!(answer.status, 201, "{answer:?}");
                    number += 1;
                }
                number
            })
        });
        let machines: Vec<_> = machines.collect();
        gateway.wait_terms("deliveries", |terms| terms.delivered >= 50);
        gateway.process.kill();
        for (next, machine) in next.iter_mut().zip(machines) {
            *next = machine.join().expect("no machine panics");
        }
    }
    let gateway = Gateway::start(&site, &config);
    let mut expected = Vec::new();
    for (index, next) in next.iter().enumerate() {
        let name = format!("cam-{index}");
        assert_eq!(post(http, &name, &next.to_string(), &record(&name, *next)).status, 201);
        expected.extend((0..=*next).map(|number| record(&name, number)));
    }
    gateway.wait_terms("all of it", |terms| terms.pending == 0);
    gateway.stop();
    // The service may see one twice under the gateway's key, which never changes; but no record has two.
    let films: BTreeMap<String, String> = api.films().into_iter().map(|film| (film.key, film.data)).collect();
    let mut found: Vec<String> = films.into_values().collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_key_is_forgotten_by_count_and_by_age_and_a_refused_record_leaves_none() {
    let site = Site::new();
    let http = free_address();
    let receiver = Receiver::start(&site);
    let write = |keys: &str, more: &str| {
        let source = format!("listen = \"{http}\"\n{more}");
        site.config().journal("machine_keys", keys).source("cameras", "http", &source).write(&site)
    };
    let gateway = Gateway::start(&site, &write("{ count = 2, age = \"1s\" }", "data_is = \"json\""));
    assert_eq!(post(http, "cam", "a", "no JSON").status, 400);
    assert_eq!(post(http, "cam", "a", "1").status, 201);
    assert_eq!(post(http, "cam", "a", "1").status, 201);
    assert_eq!(post(http, "cam", "b", "2").status, 201);
    assert_eq!(post(http, "cam", "c", "3").status, 201);
    assert_eq!(post(http, "cam", "a", "4").status, 201, "beyond the count");
    assert_eq!(post(http, "cam", "c", "5").status, 422);
    eventually("a key to be too old", || (post(http, "cam", "c", "6").status == 201).then_some(()));
    let terms = gateway.terms();
    assert_eq!((terms.received, terms.rejected), (6, 1));
    gateway.stop();
    let gateway = Gateway::start(&site, &write("{ count = 0 }", ""));
    for _ in 0..2 {
        assert_eq!(post(http, "cam", "a", "x").status, 201);
    }
    gateway.wait_delivered(2);
    gateway.stop();
    receiver.stop();
}

#[test]
fn the_machine_s_key_stands_in_the_body_and_is_sent_on_where_that_is_wanted() {
    let site = Site::new();
    let http = free_address();
    let api = Api::start(site.api, Behaviour::default());
    let body =
        r#"'{"machine": {{source|json}}, "data": {{data|json}}, "raw": "{{machine_key}}", "k": {{machine_key|json}}}'"#;
    let config = site.config().one_step().http("cameras", http).deliver("body", body).deliver("key", "\"machine\"");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machine = HttpMachine::connect(http);
    assert_eq!(machine.post("cam", "none").expect("an answer").status, 201);
    machine.send(&request("cam", "lot-7", "own")).expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 201);
    machine.send(&request("cam", "lot 8", "blank")).expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 201);
    gateway.wait_delivered(3);
    gateway.stop();
    let films = api.films();
    for (film, key) in films.iter().zip(["", "lot-7", "lot 8"]) {
        assert!(film.body.ends_with(&format!(r#""raw": "{key}", "k": "{key}"}}"#)), "{}", film.body);
    }
    assert_eq!(films[1].key, "lot-7");
    assert!(films[0].key.contains("-0-") && films[2].key.contains("-0-"), "{films:?}");
}
