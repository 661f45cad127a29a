//! Headers that a source keeps: they come with each record to the service, through kills and stops, across cores, out of batches, and
//! when a record was parked.

use crate::api::{Api, Behaviour};
use crate::cores::cpus;
use crate::machines::{Answer, HttpMachine, TcpMachine};
use crate::process::{Gateway, eventually};
use crate::queue::{json, queue};
use crate::site::{Config, Site, free_address};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const BODY: &str = r#"'''{"machine": {{source|json}}, "data": {{data|json}}, "lot": "{{header.X-Lot}}",
    "shift": {{header.x-shift|json}}, "address": "{{address}}", "mk": {{machine_key|json}}}'''"#;
const SOURCES: usize = 8;

fn config(site: &Site, http: SocketAddr, level: &str) -> Config {
    let config = site.config().one_step().journal("durability", &format!("\"{level}\"")).deliver("body", BODY);
    config.http("cameras", http).of_source("keep_headers", "[\"X-Lot\", \"X-Shift\"]")
}

fn post(http: SocketAddr, source: &str, fields: &str, data: &str) -> Answer {
    let mut machine = HttpMachine::connect(http);
    let head = format!("POST /v1/records/{source} HTTP/1.1\r\nHost: gateway\r\n{fields}");
    machine.send(&format!("{head}Content-Length: {}\r\n\r\n{data}", data.len())).expect("sent");
    machine.answer().expect("an answer")
}

/// What the service got: its bodies without the data, by the data.
fn bodies(api: &Api) -> BTreeMap<String, Value> {
    let films = api.films().into_iter().map(|film| {
        let mut body: Value = serde_json::from_str(&film.body).expect("JSON");
        body.as_object_mut().expect("an object").remove("data");
        (film.data, body)
    });
    films.collect()
}

#[test]
fn what_is_kept_comes_with_each_record_through_a_kill_across_cores_and_out_of_a_batch() {
    for level in ["process", "power"] {
        let site = Site::new();
        let (http, tcp) = (free_address(), free_address());
        let write = || config(&site, http, level).cores(&cpus(2)).tcp_listen("servers", tcp).write(&site);
        let place = write();
        let place = place.to_str().expect("a path");
        let mut gateway = Gateway::start(&site, &write());
        let mut expected = BTreeMap::new();
        let body = |source: &str, lot: &str, shift: &str, key: &str| json!({ "machine": source, "lot": lot, "shift": shift, "address": "127.0.0.1", "mk": key });
        for index in 0..SOURCES {
            // A request with a key is journaled by the core that its SOURCE belongs to, whichever its connection is on.
            let (source, lot) = (format!("cam-{index}"), format!("L-{index}"));
            let (keyed, plain, bare) = (format!("keyed {index}"), format!("plain {index}"), format!("bare {index}"));
            let key = format!("k-{index}");
            let fields = format!("x-lot: {lot}\r\nIdempotency-Key: {key}\r\nX-Shift: 1\r\nX-SHIFT: 2\r\n");
            assert_eq!(post(http, &source, &fields, &keyed).status, 201);
            assert_eq!(post(http, &source, &fields.replace(&lot, "another"), &keyed).status, 201, "it is known");
            assert_eq!(post(http, &source, &format!("X-Lot: {lot}\"\r\n"), &plain).status, 201);
            assert_eq!(post(http, &source, "X-Other: 1\r\n", &bare).status, 201);
            let lines: Vec<String> = (0..5).map(|line| format!("line {index} {line}")).collect();
            let fields = format!("X-Lot: {lot}\r\nContent-Type: application/x-ndjson\r\n");
            assert_eq!(post(http, &source, &fields, &lines.join("\n")).body, "{\"accepted\":5}");
            expected.insert(keyed, body(&source, &lot, "1, 2", &key));
            expected.insert(plain, body(&source, &format!("{lot}\""), "", ""));
            expected.insert(bare, body(&source, "", "", ""));
            expected.extend(lines.into_iter().map(|line| (line, body(&source, &lot, "", ""))));
        }
        let mut machine = TcpMachine::connect(tcp);
        machine.send(["by wire".to_owned()]).expect("sent");
        let received = expected.len() as u64 + 1;
        gateway.wait_terms("all", |terms| terms.received == received);
        let list = json(&["list", place, "--json", "--limit", "1000"], &site);
        let shown = |data: &str, records: &[Value]| {
            let record = records.iter().find(|record| record["text"] == data).expect(data);
            record["headers"].clone()
        };
        let records = list["first"].as_array().expect("a list");
        assert_eq!(shown("keyed 3", records), json!({ "X-Lot": "L-3", "X-Shift": "1, 2" }));
        assert_eq!((shown("bare 3", records), shown("by wire", records)), (json!({}), json!({})));
        let (code, text) = queue(&["export", place], &site);
        assert_eq!(code, 0, "{text}");
        let exported: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(shown("line 2 4", &exported), json!({ "X-Lot": "L-2" }));
        let wanted = exported.iter().find(|record| record["text"] == "keyed 5").expect("it waits");
        let (code, text) = queue(&["show", place, wanted["record"].as_str().expect("text")], &site);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("X-Lot: L-5") && text.contains("X-Shift: 1, 2"), "{text}");

        // A kill, and then a stop: both times nothing is delivered before it.
        gateway.process.kill();
        let gateway = Gateway::start(&site, &write());
        assert_eq!(gateway.terms().recovered, received, "{level}");
        gateway.stop();
        let gateway = Gateway::start(&site, &write());
        let api = Api::start(site.api, Behaviour::default());
        gateway.wait_delivered(received);
        gateway.stop();
        let mut got = bodies(&api);
        let by_wire = got.remove("by wire").expect("delivered");
        assert_eq!(
            (&by_wire["lot"], &by_wire["shift"], &by_wire["address"]),
            (&json!(""), &json!(""), &json!("127.0.0.1"))
        );
        assert_eq!(got, expected, "{level}");
    }
}

#[test]
fn a_parked_record_has_its_headers_when_it_is_retried_at_every_level() {
    for level in ["memory", "process", "power"] {
        let site = Site::new();
        let http = free_address();
        let api = Api::start(site.api, Behaviour { refuse_data: Some("bad"), ..Behaviour::default() });
        let place = config(&site, http, level).write(&site);
        let mut gateway = Gateway::start(&site, &place);
        let place_text = place.to_str().expect("a path");
        for number in 0..4 {
            let data = if number == 1 { "bad".to_owned() } else { format!("good {number}") };
            assert_eq!(post(http, "cam", &format!("X-Lot: L-{number}\r\n"), &data).status, 201);
        }
        gateway.wait_terms("one to be parked", |terms| terms.parked == 1 && terms.pending == 0);
        if level != "memory" {
            gateway.process.kill();
            gateway = Gateway::start(&site, &place);
            let list = json(&["list", place_text, "--parked", "--json"], &site);
            assert_eq!(list["first"][0]["headers"], json!({ "X-Lot": "L-1" }), "{level}");
        }
        api.relent();
        let text = eventually("the decision", || {
            let (code, text) = queue(&["retry", place_text, "--all"], &site);
            (code == 0).then_some(text)
        });
        eventually("the retried record", || (api.films().len() == 4).then_some(()));
        assert_eq!(bodies(&api)["bad"]["lot"], "L-1", "{level}: {text}");
        assert_eq!(bodies(&api)["good 3"]["lot"], "L-3", "{level}");
        gateway.stop();
    }
}

#[test]
fn too_much_to_keep_is_refused_with_the_rule_and_a_reload_changes_what_is_kept() {
    let site = Site::new();
    let http = free_address();
    let api = Api::start(site.api, Behaviour::default());
    let gateway = Gateway::start(&site, &config(&site, http, "process").write(&site));
    let answer = post(http, "cam", &format!("X-Lot: {}\r\nX-Shift: 2\r\n", "7".repeat(256)), "too long");
    assert_eq!(answer.status, 431);
    let told: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert!(told["rule"].as_str().is_some_and(|rule| rule.contains("256 bytes")), "{told}");
    assert_eq!(gateway.terms().received, 0);
    assert_eq!(post(http, "cam", &format!("X-Lot: {}\r\n", "7".repeat(256)), "long").status, 201);
    gateway.wait_delivered(1);
    // Another list takes effect without a restart, and for an open connection, too.
    let mut machine = HttpMachine::connect(http);
    let request = "POST /v1/records/cam HTTP/1.1\r\nHost: g\r\nX-Lot: L-7\r\nX-Line: 4\r\nContent-Length: 4\r\n\r\n";
    machine.send(&format!("{request}one ")).expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 201);
    gateway.wait_delivered(2);
    let body = BODY.replace("header.x-shift", "header.X-Line");
    let changed = config(&site, http, "process").of_source("keep_headers", "[\"X-Line\", \"X-Lot\"]");
    let text = std::fs::read_to_string(changed.deliver("body", &body).write(&site)).expect("the file");
    std::fs::write(site.path("ringest.toml"), text.replace("keep_headers = [\"X-Lot\", \"X-Shift\"]\n", ""))
        .expect("written");
    gateway.process.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("the other list", || {
        machine.send(&format!("{request}two ")).expect("sent");
        assert_eq!(machine.answer().expect("an answer").status, 201);
        gateway.settled();
        let films = api.films();
        films.last().is_some_and(|film| film.body.contains("\"shift\": \"4\"")).then_some(())
    });
    assert_eq!(bodies(&api)["one "]["shift"], "");
    assert_eq!(bodies(&api)["long"]["lot"].as_str().map(str::len), Some(256));
    gateway.stop();
}
