//! `lane = "source"`, the default of HTTP listeners: the records of one SOURCE keep their order, by whichever connection
//! and core they come, through a kill and a stop; and one SOURCE whose records fail stops no other on its connection.

use crate::api::{Api, Behaviour};
use crate::cores::cpus;
use crate::machines::HttpMachine;
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Site, assert_rows, free_address, record};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SOURCES: usize = 6;

/// Each record by a connection of its own, as of a machine that speaks HTTP/1.0.
fn post_all(http: SocketAddr, from: usize, count: usize) {
    for number in from..from + count {
        for index in 0..SOURCES {
            let source = format!("cam-{index}");
            let mut machine = HttpMachine::connect(http);
            assert_eq!(machine.post(&source, &record(&source, number)).expect("an answer").status, 201);
        }
    }
}

#[test]
fn the_order_of_a_source_holds_across_connections_cores_kills_and_stops() {
    for level in ["process", "power"] {
        let site = Site::new();
        let http = free_address();
        let level = format!("\"{level}\"");
        // Many requests are in flight at once: of lanes side by side the later would often be there first.
        let write = |site: &Site| {
            let config = site.config().one_step().journal("durability", &level).cores(&cpus(2));
            config.http("cameras", http).write(site)
        };
        let mut gateway = Gateway::start(&site, &write(&site));
        post_all(http, 0, 20); // the service is away
        gateway.process.kill();
        drop(gateway);
        let gateway = Gateway::start(&site, &write(&site));
        post_all(http, 20, 20);
        gateway.stop();
        let gateway = Gateway::start(&site, &write(&site));
        let receiver = Receiver::start(&site);
        post_all(http, 40, 20);
        gateway.wait_delivered((60 * SOURCES) as u64);
        let names: Vec<String> = (0..SOURCES).map(|index| format!("cam-{index}")).collect();
        assert_rows(&site.rows(), &names.iter().map(|name| (name.as_str(), 60)).collect::<Vec<_>>());
        gateway.stop();
        receiver.stop();
    }
}

#[test]
fn a_source_whose_records_fail_stops_no_other_on_its_connection() {
    let site = Site::new();
    let http = free_address();
    let behaviour = Behaviour { fail_data: Some(("bad 000000", 500)), ..Behaviour::default() };
    let api = Api::start(site.api, behaviour);
    let gateway = Gateway::start(&site, &site.config().one_step().http("cameras", http).write(&site));
    // As a proxy does that keeps one connection for all machines behind it.
    let mut pool = HttpMachine::connect(http);
    for number in 0..30 {
        for source in ["bad", "a", "b", "c", "d", "e", "f", "g", "h", "i"] {
            assert_eq!(pool.post(source, &record(source, number)).expect("an answer").status, 201);
        }
    }
    gateway.wait_terms("the nine others to be delivered", |terms| terms.delivered == 270);
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for film in api.films() {
        let machine = film.data.split(' ').next().expect("a machine").to_owned();
        let next = found.entry(machine.clone()).or_default();
        assert_eq!(film.data, record(&machine, *next), "in their order");
        *next += 1;
    }
    assert!(!found.contains_key("bad") && found.len() == 9, "{found:?}");
    gateway.wait_terms("those of the one that fails to wait", |terms| terms.pending == 30);
    api.relent();
}

#[test]
fn a_change_to_lanes_of_sources_keeps_nobody_waiting() {
    for reloads in [false, true] {
        let site = Site::new();
        let http = free_address();
        let write = |lane: &str| {
            let config = site.config().one_step().http("cameras", http).of_source("lane", &format!("\"{lane}\""));
            config.write(&site)
        };
        let mut gateway = Gateway::start(&site, &write("connection"));
        // The service is away. One connection has records of two SOURCEs, the other of one of them.
        let (mut both, mut one) = (HttpMachine::connect(http), HttpMachine::connect(http));
        for number in 0..5 {
            assert_eq!(both.post("cam-1", &record("cam-1", number)).expect("an answer").status, 201);
            assert_eq!(both.post("cam-2", &record("cam-2", number)).expect("an answer").status, 201);
            assert_eq!(one.post("cam-1", &record("cam-1-too", number)).expect("an answer").status, 201);
        }
        let config = write("source");
        if reloads {
            let loaded_at = || gateway.status().0["config"]["loaded_at"].clone();
            let before = loaded_at();
            gateway.process.signal(Signal::SIGHUP);
            eventually("the reload", || (loaded_at() != before).then_some(()));
        } else {
            gateway.stop();
            gateway = Gateway::start(&site, &config);
        }
        // These stay open: nobody waits for their end.
        let mut stays = HttpMachine::connect(http);
        for source in ["cam-2", "cam-1"] {
            assert_eq!(stays.post(source, &record(source, 5)).expect("an answer").status, 201);
        }
        let _api = Api::start(site.api, Behaviour::default());
        gateway.wait_terms("all to be delivered", |terms| terms.delivered == 17);
        assert_eq!(stays.post("cam-2", &record("cam-2", 6)).expect("an answer").status, 201);
        gateway.wait_terms("the next one", |terms| terms.delivered == 18);
    }
}

#[test]
fn connections_that_share_a_source_are_told_once_its_lane_grows() {
    let site = Site::new();
    let http = free_address();
    let behaviour = Behaviour { fail_data: Some(("shared 000000", 500)), ..Behaviour::default() };
    let _api = Api::start(site.api, behaviour);
    let gateway = Gateway::start(&site, &site.config().one_step().http("cameras", http).write(&site));
    let (mut one, mut other) = (HttpMachine::connect(http), HttpMachine::connect(http));
    for number in 0..505 {
        assert_eq!(one.post("shared", &record("shared", number)).expect("an answer").status, 201);
        assert_eq!(other.post("shared", &record("other", number)).expect("an answer").status, 201);
        assert_eq!(one.post("alone", &record("alone", number)).expect("an answer").status, 201);
    }
    let problem = || gateway.status().source("cameras")["problem"].as_str().map(str::to_owned);
    let told = eventually("the problem", || problem().filter(|told| told.contains("records wait in their one order")));
    assert!(told.contains("2 connections send as SOURCE shared") && told.contains("lane = \"connection\""), "{told}");
}

#[test]
fn lanes_of_connections_and_addresses_are_there_for_who_asks() {
    for (lane, pending) in [("connection", 59), ("address", 60)] {
        let site = Site::new();
        let http = free_address();
        let behaviour = Behaviour { fail_data: Some(("one 000000", 500)), ..Behaviour::default() };
        let _api = Api::start(site.api, behaviour);
        let config = site.config().one_step().http("cameras", http).of_source("lane", &format!("\"{lane}\""));
        let gateway = Gateway::start(&site, &config.write(&site));
        let (mut one, mut other) = (HttpMachine::connect(http), HttpMachine::connect(http));
        for number in 0..30 {
            assert_eq!(one.post("one", &record("one", number)).expect("an answer").status, 201);
            assert_eq!(one.post("two", &record("two", number)).expect("an answer").status, 201);
        }
        assert_eq!(other.post("one", &record("one", 30)).expect("an answer").status, 201);
        // All that came by the first connection waits behind its first record; of an address the other's, too.
        let expected = if lane == "connection" { 1 } else { 0 };
        gateway.wait_terms("what can be delivered", |terms| terms.delivered == expected);
        std::thread::sleep(std::time::Duration::from_millis(500));
        let terms = gateway.terms();
        assert_eq!((terms.delivered, terms.pending), (expected, pending + 1), "{lane}");
    }
}
