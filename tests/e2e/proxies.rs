//! Machines behind proxies, against the real gateway: whom a PROXY header and X-Forwarded-For tell
//! of, whose word counts, and what is said to the others.

use crate::cores::cpus;
use crate::machines::{Answer, HttpMachine, TcpMachine};
use crate::process::{Gateway, PATIENCE, Receiver, eventually};
use crate::site::{Config, Site, free_address, numbers, record};
use nix::sys::signal::Signal;
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PROXY: u8 = 5;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A row's machine is the source and the address.
const BODY: &str = "'{\"id\": {{id}}, \"machine\": \"{{source}} {{address}}\", \"data\": {{data|json}}}'";

/// The line of version 1 for a machine at this address.
fn line(address: &str) -> Vec<u8> {
    let family = if address.contains(':') { "TCP6" } else { "TCP4" };
    let own = if address.contains(':') { "::1" } else { "127.0.0.1" };
    format!("PROXY {family} {address} {own} 40001 4001\r\n").into_bytes()
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

fn binary_of(address: [u8; 4]) -> Vec<u8> {
    let rest = [&address[..], &[127, 0, 0, 1], &40001_u16.to_be_bytes(), &4001_u16.to_be_bytes(), &[4, 0, 2, 0, 0]];
    binary(0x21, 0x11, &rest.concat())
}

/// A connection from 127.0.0.N.
fn connect(n: u8, address: SocketAddr) -> TcpMachine {
    let machine = TcpMachine::from_ip(IpAddr::from([127, 0, 0, n]), address);
    machine.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    machine.0.set_nodelay(true).expect("an option");
    machine
}

fn send(machine: &mut TcpMachine, bytes: &[u8]) {
    machine.0.write_all(bytes).expect("sent");
}

/// The gateway ends the connection, and says nothing before.
#[track_caller]
fn assert_closed(machine: &mut TcpMachine) {
    match machine.0.read(&mut [0; 16]) {
        Ok(0) => {}
        Ok(bytes) => panic!("{bytes} bytes before the end"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

fn http(n: u8, address: SocketAddr, head: &[u8], fields: &str, data: &str) -> Answer {
    let mut stream = connect(n, address);
    let request = HttpMachine::request("cam", data).replacen("Content", &format!("{fields}Content"), 1);
    send(&mut stream, &[head, request.as_bytes()].concat());
    HttpMachine { stream: BufReader::new(stream.0) }.answer().expect("an answer")
}

struct Line {
    site: Site,
    gateway: Gateway,
    _receiver: Receiver,
    tcp: SocketAddr,
    http: SocketAddr,
}

/// Proxies are at 127.0.0.5 and, one behind the other, in 10.1.0.0/16.
fn start(sources: impl FnOnce(Config, SocketAddr, SocketAddr) -> Config) -> Line {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let config = sources(site.config().deliver("body", BODY), tcp, http).write(&site);
    let gateway = Gateway::start(&site, &config);
    Line { site, gateway, _receiver: receiver, tcp, http }
}

fn usual(config: Config, tcp: SocketAddr, http: SocketAddr) -> Config {
    const PROXIES: &str =
        "proxies = [\"127.0.0.5\", \"10.1.0.0/16\"]\nallow = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"2001:db8::/32\"]";
    let keys = format!(
        "listen = \"{tcp}\"\nfirst = \"keep\"\nnames = {{ \"10.0.4.21\" = \"press-4\" }}\n{PROXIES}\ndeny = \"10.0.4.66\""
    );
    config.source("hall", "tcp_listen", &keys).source(
        "cameras",
        "http",
        &format!("listen = \"{http}\"\n{PROXIES}\ndeny = \"10.0.4.66\""),
    )
}

impl Line {
    /// Rows once there are so many, each as `SOURCE ADDRESS` and its data.
    fn rows(&self, count: u64) -> Vec<(String, String)> {
        self.gateway.wait_delivered(count);
        let mut rows: Vec<_> = self.site.rows().into_iter().map(|row| (row.machine, row.data)).collect();
        rows.sort_unstable();
        rows
    }

    fn denied(&self, source: &str, why: &str) -> u64 {
        self.gateway.status().source(source)["denied"][why].as_u64().expect("a count")
    }
}

#[test]
fn a_machine_behind_a_proxy_has_its_own_name_address_and_order() {
    let line_ = start(usual);
    let tcp = line_.tcp;
    let mut expected = Vec::new();
    let cases: [(Vec<u8>, &str); 5] = [
        (line("10.0.4.21"), "press-4 10.0.4.21"),
        (binary_of([10, 0, 4, 22]), "hall@10.0.4.22 10.0.4.22"),
        (line("2001:db8::7"), "hall@2001:db8::7 2001:db8::7"),
        // The proxy speaks for itself.
        (binary(0x20, 0, &[]), "hall@127.0.0.5 127.0.0.5"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "hall@127.0.0.5 127.0.0.5"),
    ];
    for (index, (header, machine)) in cases.iter().enumerate() {
        // In one segment, and byte by byte.
        let mut whole = connect(PROXY, tcp);
        send(&mut whole, &[header, format!("{}\r", record("whole", index)).as_bytes()].concat());
        let mut slow = connect(PROXY, tcp);
        for byte in [header, format!("{}\r", record("slow", index)).as_bytes()].concat() {
            send(&mut slow, &[byte]);
        }
        expected.push(((*machine).to_owned(), record("whole", index)));
        expected.push(((*machine).to_owned(), record("slow", index)));
        line_.gateway.wait_delivered(expected.len() as u64);
    }
    // Who is no proxy is itself.
    let mut direct = connect(9, tcp);
    direct.send([record("direct", 0)]).expect("sent");
    expected.push(("hall@127.0.0.9 127.0.0.9".to_owned(), record("direct", 0)));
    expected.sort_unstable();
    assert_eq!(line_.rows(expected.len() as u64), expected);
    let status = line_.gateway.status();
    assert!(
        status.source("hall")["denied"].as_object().expect("counts").values().all(|count| count == 0),
        "{}",
        status.source("hall")
    );
}

#[test]
fn what_is_no_header_from_a_proxy_and_a_header_from_nobody_become_no_records() {
    let line_ = start(usual);
    let tcp = line_.tcp;
    let faults: [&[u8]; 5] = [
        b"W+001.234 kg\r",
        b"PROXY TCP4 10.0.4.21 127.0.0.1 1\r\n",
        &binary(0x21, 0x11, &[1, 2, 3]),
        &[b'P'; 200],
        &binary(0x21, 0x12, &[0; 12]),
    ];
    for fault in faults {
        let mut machine = connect(PROXY, tcp);
        send(&mut machine, fault);
        assert_closed(&mut machine);
    }
    // In the middle of a header.
    let mut left = connect(PROXY, tcp);
    send(&mut left, b"PROXY TCP4 10.0");
    drop(left);
    eventually("all of them to be counted", || (line_.denied("hall", "no_proxy_header") == 6).then_some(()));
    // A machine that may not send, through a proxy that may.
    let mut denied = connect(PROXY, tcp);
    send(&mut denied, &[line("10.0.4.66"), b"W+001.234 kg\r".to_vec()].concat());
    assert_closed(&mut denied);
    let mut stranger = connect(PROXY, tcp);
    send(&mut stranger, &[line("203.0.113.9"), b"W+001.234 kg\r".to_vec()].concat());
    assert_closed(&mut stranger);
    assert_eq!(line_.denied("hall", "network"), 2);
    // Somebody who is no proxy.
    for header in [line("10.0.4.21"), binary_of([10, 0, 4, 21])] {
        let mut forger = connect(9, tcp);
        send(&mut forger, &[header, b"W+001.234 kg\r".to_vec()].concat());
        assert_closed(&mut forger);
    }
    assert_eq!(line_.denied("hall", "proxy_header"), 2);
    let problem = line_.gateway.status().source("hall")["problem"].to_string();
    assert!(problem.contains("PROXY header") && problem.contains("proxies = "), "{problem}");
    // Health checks: nothing, a header that tells of nobody.
    drop(connect(PROXY, tcp));
    for header in [&b"PROXY UNKNOWN\r\n"[..], &binary(0x20, 0, &[])] {
        let mut check = connect(PROXY, tcp);
        send(&mut check, header);
    }
    let mut machine = connect(PROXY, tcp);
    send(&mut machine, &[line("10.0.4.21"), format!("{}\r", record("m", 0)).into_bytes()].concat());
    assert_eq!(line_.rows(1), [("press-4 10.0.4.21".to_owned(), record("m", 0))]);
    drop(machine);
    eventually("all to be closed", || (line_.gateway.status().open("hall") == 0).then_some(()));
    let terms = line_.gateway.terms();
    assert_eq!((terms.received, terms.rejected), (1, 0));
    let log = line_.gateway.stop();
    assert_eq!(log.matches("did not begin with a PROXY header").count(), 1, "once a minute: {log}");
    assert!(!log.contains("second connection"), "health checks are silent: {log}");
}

#[test]
fn over_http_the_last_address_that_is_no_proxy_counts_and_only_from_a_proxy() {
    let line_ = start(usual);
    let address = line_.http;
    let unknown = || b"PROXY UNKNOWN\r\n".to_vec();
    let cases: [(u8, Vec<u8>, &str, u16, &str); 14] = [
        (PROXY, vec![], "", 201, "127.0.0.5"),
        (PROXY, vec![], "X-Forwarded-For: 10.0.4.21\r\n", 201, "10.0.4.21"),
        (PROXY, vec![], "X-Forwarded-For: 203.0.113.9, 10.0.4.21\r\n", 201, "10.0.4.21"),
        (PROXY, vec![], "X-Forwarded-For: 203.0.113.9\r\nx-forwarded-for: 10.0.4.21, 10.1.0.7\r\n", 201, "10.0.4.21"),
        (PROXY, vec![], "X-Forwarded-For: 203.0.113.9\r\n", 403, "203.0.113.9"),
        (PROXY, vec![], "X-Forwarded-For: 10.0.4.66\r\n", 403, "10.0.4.66"),
        (PROXY, vec![], "X-Forwarded-For: 10.0.4.21, unknown\r\n", 400, "unknown"),
        (9, vec![], "X-Forwarded-For: 10.0.4.66\r\n", 201, "127.0.0.9"),
        (PROXY, line("10.0.4.21"), "", 201, "10.0.4.21"),
        (PROXY, binary_of([10, 0, 4, 22]), "X-Forwarded-For: 10.0.4.66\r\n", 201, "10.0.4.22"),
        (PROXY, line("10.1.0.7"), "X-Forwarded-For: 10.0.4.21\r\n", 201, "10.0.4.21"),
        (PROXY, unknown(), "X-Forwarded-For: 10.0.4.21\r\n", 201, "127.0.0.5"),
        (9, line("10.0.4.21"), "", 400, "proxies"),
        (9, binary_of([10, 0, 4, 21]), "", 400, "proxies"),
    ];
    let mut expected = Vec::new();
    for (index, (n, head, fields, status, said)) in cases.iter().enumerate() {
        let answer = http(*n, address, head, fields, &record("m", index));
        assert_eq!(answer.status, *status, "{fields:?}: {answer:?}");
        if *status == 201 {
            expected.push((format!("cam {said}"), record("m", index)));
            continue;
        }
        let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(["rule", "came", "allowed"].iter().all(|key| body[key].is_string()), "{body}");
        assert!(body.to_string().contains(said), "{body}");
    }
    // A kept connection brings requests of many, and one after a refused one.
    let mut kept = HttpMachine { stream: BufReader::new(connect(PROXY, address).0) };
    for (index, machine) in ["10.0.4.21", "10.0.4.22", "10.0.4.66", "10.0.4.21"].into_iter().enumerate() {
        let request = HttpMachine::request("cam", &record("kept", index));
        kept.send(&request.replacen("Content", &format!("X-Forwarded-For: {machine}\r\nContent"), 1)).expect("sent");
        let status = kept.answer().expect("an answer").status;
        assert_eq!(status, if machine == "10.0.4.66" { 403 } else { 201 });
        if status == 201 {
            expected.push((format!("cam {machine}"), record("kept", index)));
        }
    }
    expected.sort_unstable();
    assert_eq!(line_.rows(expected.len() as u64), expected);
    for (why, count) in [("network", 3), ("forwarded", 1), ("proxy_header", 2), ("no_proxy_header", 0)] {
        assert_eq!(line_.denied("cameras", why), count, "{why}");
    }
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let line_ = start(|config, tcp, http| usual(config, tcp, http).limit("header_timeout", "\"1s\""));
    let mut silent = connect(PROXY, line_.tcp);
    let mut slow = connect(PROXY, line_.tcp);
    send(&mut slow, b"PROXY TCP4 ");
    assert_closed(&mut silent);
    assert_closed(&mut slow);
    let mut slow = connect(PROXY, line_.http);
    send(&mut slow, &SIGNATURE[..5]);
    assert_closed(&mut slow);
    assert_eq!((line_.denied("hall", "no_proxy_header"), line_.denied("cameras", "no_proxy_header")), (2, 1));
    // A header that tells of nobody waits for its machine.
    let mut check = connect(PROXY, line_.tcp);
    send(&mut check, &binary(0x20, 0, &[]));
    std::thread::sleep(Duration::from_millis(1_200));
    check.send([record("m", 0)]).expect("sent");
    assert_eq!(line_.rows(1), [("hall@127.0.0.5 127.0.0.5".to_owned(), record("m", 0))]);
}

#[test]
fn on_several_cores_an_address_keeps_its_order_across_the_connections_of_a_proxy() {
    const MACHINES: usize = 12;
    const CONNECTIONS: usize = 8;
    const EACH: usize = 25;
    let line_ = start(|config, tcp, http| usual(config.cores(&cpus(2)), tcp, http));
    for connection in 0..CONNECTIONS {
        for machine in 0..MACHINES {
            let mut stream = connect(PROXY, line_.tcp);
            let address = [10, 0, 7, machine as u8];
            let mut bytes =
                if machine % 2 == 0 { binary_of(address) } else { line(&IpAddr::from(address).to_string()) };
            for number in 0..EACH {
                let text = record(&format!("m{machine}"), connection * EACH + number);
                bytes.extend_from_slice(format!("{text}\r").as_bytes());
            }
            // Closed at once, so that the next one comes while this one may be on its way to
            // another core.
            send(&mut stream, &bytes);
        }
    }
    line_.gateway.wait_delivered((MACHINES * CONNECTIONS * EACH) as u64);
    let rows = line_.site.rows();
    let found = numbers(rows.iter().map(|row| row.data.as_str()));
    assert_eq!(found.len(), MACHINES);
    for (machine, numbers) in found {
        assert!(numbers.iter().copied().eq(0..CONNECTIONS * EACH), "{machine}: {numbers:?}");
    }
    for row in rows {
        let machine = row.data.split(' ').next().expect("a name").trim_start_matches('m').to_owned();
        assert_eq!(row.machine, format!("hall@10.0.7.{machine} 10.0.7.{machine}"));
    }
}

#[test]
fn a_reload_ends_what_a_proxy_has_told_that_is_none_any_more() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let config = usual(site.config().deliver("body", BODY), tcp, http).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    let mut told = connect(PROXY, tcp);
    send(&mut told, &[line("10.0.4.21"), format!("{}\r", record("m", 0)).into_bytes()].concat());
    gateway.wait_delivered(1);
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("\"127.0.0.5\", ", "")).expect("written");
    gateway.process.signal(Signal::SIGHUP);
    assert_closed(&mut told);
    let answer = self::http(PROXY, http, &[], "X-Forwarded-For: 10.0.4.66\r\n", &record("m", 1));
    assert_eq!(answer.status, 201, "it is nobody's word");
    gateway.wait_delivered(2);
    assert!(gateway.process.is_running());
    gateway.stop();
    receiver.stop();
}
