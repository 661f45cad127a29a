//! What the API's answers lead to.

use crate::api::{Api, Behaviour};
use crate::machines::TcpMachine;
use crate::process::{Gateway, eventually, ringest, within};
use crate::site::{Config, Site, assert_whole, free_address, numbers, record};
use crate::stuck::retry_now;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MACHINES: usize = 60;

fn start(site: &Site) -> (Gateway, Vec<TcpMachine>) {
    let tcp = free_address();
    let gateway = Gateway::start(site, &site.config().tcp_listen("servers", tcp).write(site));
    let machines = connect(&gateway, tcp);
    (gateway, machines)
}

/// Machines with two records each, which are received.
fn connect(gateway: &Gateway, tcp: SocketAddr) -> Vec<TcpMachine> {
    let machines = (0..MACHINES).map(|index| {
        let mut machine = TcpMachine::connect(tcp);
        machine.send((0..2).map(|number| record(&format!("m{index}"), number))).expect("sent");
        machine
    });
    let machines = machines.collect();
    gateway.wait_terms("all to be received", |terms| terms.received == 2 * MACHINES as u64);
    machines
}

fn assert_all(api: &Api) {
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(found.len(), MACHINES);
    let each: Vec<usize> = found.iter().map(|(machine, numbers)| assert_whole(machine, numbers)).collect();
    assert_eq!(each, [2; MACHINES]);
}

#[test]
fn an_api_that_refuses_everybody_is_asked_by_one_request_at_a_time_until_it_takes_one() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    for refusal in ["401 Unauthorized", "302 Found\r\nLocation: http://127.0.0.1:1/?key=s3cr3t", "404 Not Found"] {
        api.refuse(Some(refusal));
        let (taken, asked) = (api.films().len(), api.steps().len());
        let (gateway, _machines) = start(&site);
        let begun = Instant::now();
        // Each of 60 lanes alone would ask about ten times a second.
        while begun.elapsed() < Duration::from_secs(1) {
            let terms = gateway.terms();
            assert_eq!((terms.delivered, terms.rejected, terms.parked), (0, 0, 0));
        }
        let asked = api.steps().len() - asked;
        assert!((4..=120).contains(&asked), "{asked} requests answered with {refusal}");
        let problem = gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned).expect("it is said");
        assert!(problem.contains(&refusal[..3]) && problem.contains(": "), "{problem}");
        assert!(!problem.contains("s3cr3t"), "a query may hold a secret: {problem}");
        api.refuse(None);
        gateway.wait_delivered(2 * MACHINES as u64);
        assert_eq!(gateway.status().0["routes"][0]["problem"], serde_json::Value::Null);
        assert_eq!(api.films().len() - taken, 2 * MACHINES);
        assert!(!gateway.stop().contains("s3cr3t"), "a query may hold a secret");
        if taken == 0 {
            assert_all(&api);
        }
    }
}

/// A lane or a step that waits for long does so for half a minute at least.
fn patient(site: &Site, config: Config, tcp: SocketAddr) -> PathBuf {
    config.tcp_listen("servers", tcp).deliver("retry", "{ first = \"20ms\", max = \"60s\" }").write(site)
}

#[test]
fn an_unlisted_success_for_everybody_pauses_the_step_and_few_records_are_sent() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    api.refuse(Some("200 OK\r\nContent-Type: application/json"));
    let tcp = free_address();
    let config = patient(&site, site.config().one_step(), tcp);
    let gateway = Gateway::start(&site, &config);
    let _machines = connect(&gateway, tcp);
    eventually("the first answer", || (gateway.status().counter("api_failures") > 0).then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    // Eight connections had one each on its way; each of 60 lanes alone would have sent its own.
    assert!(api.steps().len() <= 9, "{} requests", api.steps().len());
    assert_eq!(gateway.terms().delivered, 0);
    api.refuse(None);
    retry_now(&config);
    gateway.wait_delivered(2 * MACHINES as u64);
    assert_all(&api);
    gateway.stop();
}

#[test]
fn an_unlisted_success_for_one_record_holds_up_its_lane_and_no_other() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { fail_data: Some(("m0 000000", 200)), ..Behaviour::default() });
    let tcp = free_address();
    let gateway = Gateway::start(&site, &patient(&site, site.config().one_step(), tcp));
    let mut machines: Vec<TcpMachine> = (0..MACHINES).map(|_| TcpMachine::connect(tcp)).collect();
    // From here on the service is known to give the success that is listed.
    machines[1].send([record("m1", 0)]).expect("sent");
    gateway.wait_delivered(1);
    machines[0].send((0..3).map(|number| record("m0", number))).expect("sent");
    eventually("its answer", || (gateway.status().counter("api_failures") == 1).then_some(()));
    for (index, machine) in machines.iter_mut().enumerate().skip(1) {
        machine.send((1..11).map(|number| record(&format!("m{index}"), number))).expect("sent");
    }
    let count = 10 * (MACHINES as u64 - 1) + 1;
    within(Duration::from_secs(20), "the others to arrive", || (gateway.terms().delivered == count).then_some(()));
    let mut number = 11;
    within(Duration::from_secs(20), "the lane to be told", || {
        machines[1].send([record("m1", number)]).expect("sent");
        number += 1;
        (gateway.status().0["lanes_stuck"] == 1).then_some(())
    });
    gateway.wait_terms("those of the other machines", |terms| terms.pending == 3);
    assert_eq!(api.steps().len() - api.films().len(), 1, "it is not sent again at speed");
    gateway.stop();
}

#[test]
fn an_answer_of_the_id_step_without_an_id_pauses_it_and_uses_up_no_more_of_them() {
    for (body, said) in [
        ("{\"id\": 7.0}", "the number 7.0 stands at \"/id\""),
        ("{\"id\": \"\"}", "the text \"\" stands at \"/id\""),
        ("\u{feff}{\"id\": 7}", "byte-order mark"),
    ] {
        let site = Site::new();
        let api = Api::start(site.api, Behaviour::default());
        api.answer_ids(Some(body));
        let tcp = free_address();
        let config = patient(&site, site.config().deliver("connections", "1"), tcp);
        let gateway = Gateway::start(&site, &config);
        let _machines = connect(&gateway, tcp);
        eventually("the first answer", || (gateway.status().counter("api_failures") > 0).then_some(()));
        std::thread::sleep(Duration::from_secs(2));
        assert!(api.ids_asked() <= 2, "{body:?}: {} ids were asked for", api.ids_asked());
        assert_eq!(api.steps().len(), 0, "{body:?}: a record goes without its id");
        let problem = gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned).expect("it is said");
        assert!(problem.contains(said), "{problem}");
        api.answer_ids(None);
        retry_now(&config);
        gateway.wait_delivered(2 * MACHINES as u64);
        assert_all(&api);
        gateway.stop();
    }
}

#[test]
fn retry_after_is_obeyed_by_all_lanes() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    api.refuse(Some("503 Service Unavailable\r\nRetry-After: 2"));
    let (gateway, _machines) = start(&site);
    eventually("the first request", || (!api.steps().is_empty()).then_some(()));
    eventually("it to be held against the API", || (gateway.status().counter("api_holds") > 0).then_some(()));
    api.refuse(None);
    gateway.wait_delivered(2 * MACHINES as u64);
    let steps = api.steps();
    let pause = steps.windows(2).map(|pair| pair[1] - pair[0]).max().expect("more than one");
    assert!(pause >= Duration::from_millis(1_900), "{pause:?}");
    // Eight connections had one each on its way.
    assert!(steps.len() <= 2 * MACHINES + 9, "{} requests", steps.len());
    assert_all(&api);
    gateway.stop();
}

#[test]
fn a_login_page_with_the_right_status_is_no_success() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).deliver("answer_type", "\"application/json\"");
    let gateway = Gateway::start(&site, &config.deliver("answer_id_at", "\"/id\"").write(&site));
    let mut machine = TcpMachine::connect(tcp);
    let problem = |gateway: &Gateway| gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned);
    // The media type, then the id, are not those of the film API.
    for (answer, said) in [
        ("201 Created\r\nContent-Type: text/html", "its type is not application/json"),
        ("201 Created\r\nContent-Type: application/json", "does not have the record's id at /id"),
    ] {
        api.refuse(Some(answer));
        machine.send([record("press", 0)]).expect("sent");
        eventually("it to be said", || problem(&gateway).filter(|problem| problem.contains(said)));
        assert_eq!(gateway.terms().delivered, 0);
    }
    api.refuse(None);
    gateway.wait_delivered(2);
    assert_eq!(problem(&gateway), None);
    gateway.stop();
}

#[test]
fn a_success_counts_as_one_however_long_its_answer_is() {
    let site = Site::new();
    let _api = Api::start(site.api, Behaviour { long: Some(("m0 000000", 2 << 20)), ..Behaviour::default() });
    let tcp = free_address();
    let gateway = Gateway::start(&site, &site.config().one_step().tcp_listen("servers", tcp).write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m0", 0)]).expect("sent");
    gateway.wait_delivered(1);
    let route = gateway.status().0["routes"][0].clone();
    assert!(route["last_success_s"].is_number() && route["problem"].is_null(), "{route}");
    let screen = ringest().args(["status", "--admin", &site.admin.to_string()]).output().expect("it runs");
    let screen = String::from_utf8(screen.stdout).expect("text");
    assert!(!screen.contains("never"), "{screen}");
    gateway.stop();
}

#[test]
fn an_answer_too_long_to_be_looked_at_parks_its_record_alone_while_others_arrive() {
    let site = Site::new();
    // 512 KiB are looked at, so that a service may show the largest record.
    let api = Api::start(site.api, Behaviour { long: Some(("m0 000000", 513 << 10)), ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).deliver("answer_id_at", "\"/id\"");
    let config = config.deliver("retry", "{ first = \"10ms\", max = \"50ms\" }");
    let gateway = Gateway::start(&site, &config.write(&site));
    let mut long = TcpMachine::connect(tcp);
    let mut other = TcpMachine::connect(tcp);
    long.send((0..2).map(|number| record("m0", number))).expect("sent");
    // As long as nothing else arrives, it may be another service that listens there.
    let problem = |gateway: &Gateway| gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned);
    eventually("the bound to be said", || {
        problem(&gateway).filter(|problem| problem.contains("more than 524288 bytes"))
    });
    eventually("many attempts", || (api.steps().len() > 6).then_some(()));
    assert_eq!((gateway.terms().parked, gateway.terms().delivered), (0, 0));
    other.send((0..2).map(|number| record("m1", number))).expect("sent");
    gateway.wait_terms("the others to arrive", |terms| terms.delivered == 3 && terms.parked == 1);
    let parked = gateway.get("/api/parked");
    let answer = parked["first"][0]["answer"].as_str().expect("text");
    assert!(answer.contains("more than 524288 bytes") && parked["first"][0]["status"] == 201, "{parked}");
    gateway.stop();
}
