//! The API goes away, comes back, was never there, or closes its connections.

use crate::api::{Api, Behaviour};
use crate::machines::{HttpMachine, Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Site, assert_rows, assert_whole, free_address, numbers, record};
use std::time::Duration;

const EACH: usize = 200;

/// Machines of three kinds.
struct Line {
    pty: Pty,
    tcp: TcpMachine,
    http: HttpMachine,
}

impl Line {
    /// Each sends its records `from` to `to`.
    fn send(&mut self, from: usize, to: usize) {
        self.pty.send((from..to).map(|number| record("pty", number)));
        self.tcp.send((from..to).map(|number| record("tcp", number))).expect("sent");
        for number in from..to {
            assert_eq!(self.http.post("camera", &record("http", number)).expect("an answer").status, 201);
        }
    }
}

fn start(site: &Site) -> (Gateway, Line) {
    let (tcp, http) = (free_address(), free_address());
    let pty = Pty::create(&site.path("press"));
    let config = site.config().serial("press", &site.path("press")).tcp_listen("servers", tcp).http("cameras", http);
    let gateway = Gateway::start(site, &config.write(site));
    eventually("the pty to be opened", || (gateway.status().open("press") == 1).then_some(()));
    (gateway, Line { pty, tcp: TcpMachine::connect(tcp), http: HttpMachine::connect(http) })
}

fn route_problem(gateway: &Gateway) -> Option<String> {
    gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned)
}

#[test]
fn records_that_come_while_the_receiver_is_away_arrive_in_order_when_it_is_back() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (gateway, mut line) = start(&site);
    line.send(0, EACH);
    gateway.wait_delivered(3 * EACH as u64);
    receiver.stop();
    line.send(EACH, 2 * EACH);
    let terms = gateway.wait_terms("intake goes on", |terms| terms.received == 6 * EACH as u64);
    assert!(terms.pending >= 3 * EACH as u64 - 3, "{terms:?}");
    eventually("the outage to be said", || route_problem(&gateway));
    let receiver = Receiver::start(&site);
    line.send(2 * EACH, 3 * EACH);
    gateway.wait_delivered(9 * EACH as u64);
    assert_eq!(route_problem(&gateway), None);
    assert_rows(&site.rows(), &[("pty", 3 * EACH), ("tcp", 3 * EACH), ("http", 3 * EACH)]);
    gateway.stop();
    receiver.stop();
}

#[test]
fn a_receiver_that_is_killed_under_load_gets_every_record_once() {
    let site = Site::new();
    let mut receiver = Receiver::start(&site);
    let (gateway, mut line) = start(&site);
    for round in 0..4 {
        let delivered = gateway.terms().delivered;
        line.pty.send((round * EACH..(round + 1) * EACH).map(|number| record("pty", number)));
        line.tcp.send((round * EACH..(round + 1) * EACH).map(|number| record("tcp", number))).expect("sent");
        gateway.wait_terms("deliveries under way", |terms| terms.delivered > delivered + 20);
        receiver.process.kill();
        receiver = Receiver::start(&site);
    }
    gateway.wait_delivered(8 * EACH as u64);
    assert_rows(&site.rows(), &[("pty", 4 * EACH), ("tcp", 4 * EACH)]);
}

#[test]
fn a_receiver_that_is_down_at_the_start_does_not_keep_records_out() {
    let site = Site::new();
    let (gateway, mut line) = start(&site);
    line.send(0, EACH);
    let terms = gateway.wait_terms("intake", |terms| terms.received == 3 * EACH as u64);
    assert_eq!((terms.delivered, terms.pending), (0, 3 * EACH as u64));
    eventually("the outage to be said", || route_problem(&gateway));
    let _receiver = Receiver::start(&site);
    gateway.wait_delivered(3 * EACH as u64);
    assert_rows(&site.rows(), &[("pty", EACH), ("tcp", EACH), ("http", EACH)]);
}

#[test]
fn a_stale_kept_alive_connection_costs_one_resend_and_no_error() {
    let site = Site::new();
    // Two answers a connection, then it is closed without a word, as servers do with idle connections.
    let api = Api::start(site.api, Behaviour { answers_per_connection: 2, ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).deliver("connections", "1");
    // A resend is at once: with these delays between retries the test would not end in time.
    let config = config.deliver("retry", "{ first = \"60s\", max = \"60s\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..EACH).map(|number| record("m", number))).expect("sent");
    gateway.wait_delivered(EACH as u64);
    let status = gateway.status();
    assert_eq!(status.counter("api_failures"), 0, "{}", status.0["counters"]);
    assert_eq!(status.counter("api_connect_failures"), 0, "{}", status.0["counters"]);
    assert!(api.connections() >= EACH, "{} connections", api.connections());
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(assert_whole("m", &found["m"]), EACH);
}

#[test]
fn a_connection_that_the_service_drops_after_the_request_costs_one_resend_under_the_same_key() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { drop_every: 10, ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("connections", "1");
    let config = config.deliver("retry", "{ first = \"60s\", max = \"60s\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..EACH).map(|number| record("m", number))).expect("sent");
    gateway.wait_delivered(EACH as u64);
    let status = gateway.status();
    assert!(status.counter("api_resent") >= EACH as u64 / 10, "{}", status.0["counters"]);
    assert_eq!(status.counter("api_failures"), 0, "{}", status.0["counters"]);
    let mut films = api.films();
    let doubles = films.len() - EACH;
    assert!(doubles >= EACH / 10, "{doubles} doubles");
    // A double stands right behind its first, with the same key and the same bytes.
    films.dedup();
    assert_eq!(films.len(), EACH);
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(assert_whole("m", &found["m"]), EACH);
}

#[test]
fn an_answer_is_late_after_the_timeout_also_where_idle_connections_are_kept_for_longer() {
    let site = Site::new();
    let _api = Api::start(site.api, Behaviour { delay: Duration::from_secs(600), ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("idle", "\"10m\"");
    let config = config.deliver("timeout", "\"300ms\"").deliver("drain", "\"0ms\"");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m", 0)]).expect("sent");
    eventually("the answer to be late", || (gateway.status().counter("api_failures") > 0).then_some(()));
}

#[test]
fn what_was_pipelined_behind_the_last_answer_of_a_connection_is_no_failure() {
    const MACHINES: usize = 24;
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { answers_per_connection: 3, ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("pipeline", "8");
    let config = config.deliver("connections", "2").deliver("retry", "{ first = \"60s\", max = \"60s\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machines = (0..MACHINES).map(|_| TcpMachine::connect(tcp)).collect::<Vec<_>>();
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.send((0..20).map(|number| record(&format!("m{index}"), number))).expect("sent");
    }
    gateway.wait_delivered(20 * MACHINES as u64);
    let status = gateway.status();
    assert_eq!(status.counter("api_failures"), 0, "{}", status.0["counters"]);
    assert!(status.counter("api_resent") > 0, "{}", status.0["counters"]);
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(found.values().map(|numbers| assert_whole("m", numbers)).sum::<usize>(), 20 * MACHINES);
}

#[test]
fn a_service_that_fails_and_works_by_turns_does_not_flood_the_log() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { refuse_every: 3, ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp);
    let config = config.deliver("retry", "{ first = \"1ms\", max = \"2ms\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..EACH).map(|number| record("m", number))).expect("sent");
    gateway.wait_delivered(EACH as u64);
    let failures = gateway.status().counter("api_failures");
    assert!(failures >= EACH as u64 / 3, "{failures} failures");
    let log = gateway.process.log();
    let said = log.lines().filter(|line| line.contains("records wait") || line.contains("delivering again")).count();
    assert!((1..20).contains(&said), "{said} lines of {failures} failures");
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(assert_whole("m", &found["m"]), EACH);
}
