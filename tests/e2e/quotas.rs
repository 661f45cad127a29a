//! How much a listener takes of each, against the real gateway: each bound has its answer and its count.

use crate::machines::{HttpMachine, TcpMachine};
use crate::process::{Gateway, PATIENCE, Receiver, eventually, ringest};
use crate::site::{Site, free_address, record};
use ringest::engine::admin::client;
use std::io::{BufReader, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A machine at 127.0.0.N.
fn machine(n: u8, address: SocketAddr) -> HttpMachine {
    let stream = TcpMachine::from_ip(IpAddr::from([127, 0, 0, n]), address).0;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    HttpMachine { stream: BufReader::new(stream) }
}

/// What the gateway counts of a listener for a reason.
fn refused(site: &Site, listener: &str, reason: &str) -> u64 {
    let answer = client::get(&site.admin.to_string(), "/api/refused", PATIENCE).expect("an answer");
    let document: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let kinds = document["refused"].as_array().expect("a list");
    let of = |kind: &&serde_json::Value| kind["source"] == listener && kind["reason"] == reason;
    kinds.iter().find(of).map_or(0, |kind| kind["count"].as_u64().expect("a number"))
}

#[test]
fn connections_of_a_listener_of_an_address_and_of_a_token_have_their_bounds() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (few, http) = (free_address(), free_address());
    let tokens = site.path("tokens");
    let drawn = ringest()
        .args(["token", "cams", "--sources", "*", "--until", "2099-12-31", "--add"])
        .arg(&tokens)
        .output()
        .expect("it runs");
    let token = String::from_utf8(drawn.stdout).expect("text").trim().to_owned();
    let keys = format!("listen = \"{few}\"\nfirst = \"keep\"\nconnections = 3\nconnections_per_address = 2");
    let of_http = format!("listen = \"{http}\"\ntokens_file = \"{}\"\nconnections_per_token = 2", tokens.display());
    let config = site.config().source("few", "tcp_listen", &keys).source("http", "http", &of_http).write(&site);
    let gateway = Gateway::start(&site, &config);

    let from = |n| TcpMachine::from_ip(IpAddr::from([127, 0, 0, n]), few);
    let mut first: Vec<TcpMachine> = (0..2).map(|_| from(2)).collect();
    for (number, machine) in first.iter_mut().enumerate() {
        machine.send([record("m", number)]).expect("sent");
    }
    gateway.wait_delivered(2);
    let mut third = from(2).0;
    third.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let end = third.read(&mut [0]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "it is closed");
    assert_eq!(refused(&site, "few", "address_connections"), 1);
    let mut other = from(3);
    other.send([record("o", 0)]).expect("sent");
    gateway.wait_delivered(3);
    eventually("the problem", || {
        gateway.status().source("few")["problem"]
            .as_str()
            .is_some_and(|said| said.contains("connections in it"))
            .then_some(())
    });
    drop(first);
    let mut again = from(2);
    again.send([record("m", 2)]).expect("sent");
    gateway.wait_delivered(4);

    let authorization = format!("Authorization: Bearer {token}\r\n");
    let post = |machine: &mut HttpMachine, number| {
        let request = HttpMachine::request("cam-1", &record("h", number));
        machine.send(&request.replacen("Content", &format!("{authorization}Content"), 1)).expect("sent");
        machine.answer().expect("an answer")
    };
    let mut machines: Vec<HttpMachine> = (10..13).map(|n| machine(n, http)).collect();
    let statuses: Vec<u16> =
        machines.iter_mut().enumerate().map(|(index, machine)| post(machine, index).status).collect();
    assert_eq!(statuses, [201, 201, 429]);
    assert_eq!(post(&mut machines[0], 3).status, 201, "the same connection shows it again");
    assert_eq!(refused(&site, "http", "token_connections"), 1);
    machines[2].assert_end();
    drop(machines.remove(0));
    eventually("the place to be free", || (post(&mut machine(13, http), 4).status == 201).then_some(()));
}

#[test]
fn what_a_source_sends_a_second_has_its_bounds_and_others_do_not_feel_it() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (requests, bytes) = (free_address(), free_address());
    let config = site
        .config()
        .source("requests", "http", &format!("listen = \"{requests}\"\nrequests_per_second = 5"))
        .source("bytes", "http", &format!("listen = \"{bytes}\"\nbytes_per_second = \"100B\""))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine_1 = machine(2, requests);
    let answers: Vec<_> = (0..20).map(|number| machine_1.post("a", &record("a", number)).expect("an answer")).collect();
    let taken = answers.iter().filter(|answer| answer.status == 201).count() as u64;
    assert!((5..20).contains(&taken), "{taken} were taken at once");
    let late = answers.iter().find(|answer| answer.status == 429).expect("one is too many");
    assert_eq!(late.header("retry-after"), Some("1"));
    assert!(late.body.contains("requests_per_second"), "{}", late.body);
    assert_eq!(machine(3, requests).post("b", &record("b", 0)).expect("an answer").status, 201);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(machine_1.post("a", &record("a", 20)).expect("an answer").status, 201);
    assert_eq!(refused(&site, "requests", "rate"), 20 - taken);

    let mut machine_2 = machine(2, bytes);
    assert_eq!(machine_2.post("a", &"x".repeat(500)).expect("an answer").status, 201);
    let late = machine_2.post("a", "x").expect("an answer");
    assert_eq!(late.status, 429);
    let wait_s: u64 = late.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((3..=4).contains(&wait_s), "{wait_s} s");
    gateway.wait_delivered(taken + 3);
}
