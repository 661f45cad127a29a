//! What an operator sees of each machine: in documents, on the screen, and across a restart.

use crate::api::Api;
use crate::machines::{HttpMachine, TcpMachine};
use crate::parked::POISON;
use crate::process::{Gateway, PATIENCE, eventually, ringest};
use crate::site::{Site, free_address};
use ringest::engine::admin::client;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

fn machines(gateway: &Gateway, query: &str) -> Vec<Value> {
    let page = gateway.get(&format!("/api/machines{query}"));
    page["machines"].as_array().unwrap_or_else(|| panic!("no machines: {page}")).clone()
}

fn numbers(row: &Value) -> [u64; 5] {
    ["received", "delivered", "pending", "parked", "rejected"].map(|key| row[key].as_u64().expect("a number"))
}

#[test]
fn every_machine_has_a_row_that_survives_a_restart() {
    let site = Site::new();
    let api = Api::start(site.api, POISON);
    let (tcp, http) = (free_address(), free_address());
    let config = site
        .config()
        .journal("durability", "\"power\"")
        .source(
            "line",
            "tcp_listen",
            &format!("listen = \"{tcp}\"\nframing = \"number\"\nnames = {{ \"127.0.0.9\" = \"spare\" }}"),
        )
        .source("http", "http", &format!("listen = \"{http}\"\n[framing.number]\nmatch = '^[0-9]+$'"))
        .deliver("retry", "{ first = \"10ms\", max = \"50ms\" }")
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    assert_eq!(machines(&gateway, "").len(), 1, "the one with a name in the configuration");

    let mut machine = TcpMachine::connect(tcp);
    machine.send(["1", "2", "no number"].map(str::to_owned)).expect("sent");
    let post = |source: &str, body: &str| {
        let answer = HttpMachine::connect(http).post(source, body).expect("answered");
        assert_eq!(answer.status, 201, "{source}");
    };
    post("cam-1", "7");
    post("cam-2", "3"); // it is refused
    gateway.wait_terms("all to be settled", |terms| terms.parked == 1 && terms.delivered == 3 && terms.rejected == 1);

    let all = eventually("all rows", || Some(machines(&gateway, "")).filter(|all| all.len() == 4));
    let told: Vec<_> =
        all.iter().map(|row| (row["name"].as_str().expect("a name"), row["state"].as_str().expect("one"))).collect();
    assert_eq!(told, [("cam-2", "refused"), ("line@127.0.0.1", "damaged"), ("spare", "never"), ("cam-1", "ok")]);
    assert_eq!(numbers(&all[0]), [1, 0, 0, 1, 0]);
    assert_eq!(numbers(&all[1]), [3, 2, 0, 0, 1]);
    assert_eq!(numbers(&all[3]), [1, 1, 0, 0, 0]);
    assert_eq!(machines(&gateway, "?filter=never")[0]["name"], "spare");
    assert_eq!(machines(&gateway, "?sort=received&limit=1")[0]["name"], "line@127.0.0.1");
    let wrong = client::get(&site.admin.to_string(), "/api/machines?sort=colour", PATIENCE).expect("answered");
    assert!(wrong.status == 400 && String::from_utf8_lossy(&wrong.body).contains("sort (state, name"), "{wrong:?}");

    let metrics = client::get(&site.admin.to_string(), "/metrics", PATIENCE).expect("answered");
    let metrics = String::from_utf8(metrics.body).expect("text");
    assert!(metrics.contains("ringest_machines{state=\"refused\"} 1\n"), "{metrics}");
    assert!(metrics.contains("ringest_machines{state=\"away\"} 0\n"), "{metrics}");

    // What a record contains is for those who show the token.
    let one = gateway.get("/api/machines/cam-1");
    assert_eq!(
        (&one["machines"][0]["last"]["bytes"], &one["machines"][0]["last"]["text"]),
        (&Value::from(1), &Value::Null)
    );

    let token = std::fs::read_to_string(site.path("state").join("admin-token")).expect("the gateway has left it");
    let mut asking = TcpStream::connect(site.admin).expect("it listens");
    let head = format!("GET /api/machines/cam-1 HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", token.trim());
    asking.write_all(head.as_bytes()).expect("sent");
    let mut one = String::new();
    asking.read_to_string(&mut one).expect("answered");
    assert!(one.contains("\"text\":\"7\"") && one.contains("\"hex\":\"37\""), "{one}");

    let shown = ringest().args(["status", "--machines", "--admin", &site.admin.to_string()]).output().expect("it runs");
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.starts_with("4 machines: 1 refused, 1 damaged, 1 never, 1 ok\n"), "{shown}");
    assert!(shown.contains("cam-2 of http is refused: 1 record is parked, lately after an answer"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    drop(machine);
    gateway.stop();
    let gateway = Gateway::start(&site, &config);
    post("cam-1", "8");
    eventually("the record to be delivered", || {
        (numbers(&machines(&gateway, "?filter=cam-1")[0])[1] == 2).then_some(())
    });
    let all = machines(&gateway, "?sort=name");
    let told: Vec<_> = all.iter().map(|row| (row["name"].as_str().expect("a name"), numbers(row))).collect();
    let expected = [
        ("cam-1", [2, 2, 0, 0, 0]),
        ("cam-2", [1, 0, 0, 1, 0]),
        ("line@127.0.0.1", [3, 2, 0, 0, 1]),
        ("spare", [0; 5]),
    ];
    assert_eq!(told, expected);
    gateway.stop();
    drop(api);
}
