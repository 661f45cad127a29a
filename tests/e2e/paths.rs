//! The ways in: pty, TCP listen, TCP connect, HTTP; each to its row, in one step and in two.

use crate::machines::{HttpMachine, Pty, TcpMachine};
use crate::process::{Gateway, Process, Receiver, eventually, ringest};
use crate::site::{Row, Site, assert_rows, free_address, record};
use ringest::demo::verify::verify;
use std::io::Write;
use std::net::TcpListener;

fn row(machine: &str, data: &str) -> Row {
    Row { machine: machine.to_owned(), data: data.to_owned() }
}

/// One record by each way, one after the other, so that the order of the rows is known.
fn one_record_by_each_way(two_step: bool) {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let device_server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut pty = Pty::create(&site.path("press-1"));
    let mut config = site.config();
    if !two_step {
        config = config.one_step();
    }
    let config = config
        .serial("press-1", &site.path("press-1"))
        .tcp_listen("servers", tcp)
        .tcp_connect("gauge-4", device_server.local_addr().expect("bound"))
        .http("cameras", http)
        .write(&site);
    let gateway = Gateway::start(&site, &config);

    eventually("the pty to be opened", || (gateway.status().open("press-1") == 1).then_some(()));
    pty.send_bytes(b"width=1.5 \"\xc3\xbc\"\r");
    gateway.wait_delivered(1);

    let mut tcp = TcpMachine::connect(tcp);
    let from = tcp.0.local_addr().expect("connected");
    tcp.send(["by tcp".to_owned()]).expect("sent");
    gateway.wait_delivered(2);

    let (mut connection, _) = device_server.accept().expect("the gateway connects");
    connection.write_all(b"by device server\r\n").expect("sent");
    gateway.wait_delivered(3);

    let mut machine = HttpMachine::connect(http);
    let answer = machine.post("camera-7", "by http").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (201, "{\"accepted\":1}"));
    assert!(answer.header("date").is_some());
    let terms = gateway.wait_delivered(4);
    assert_eq!((terms.received, terms.delivered, terms.rejected), (4, 4, 0));

    let expected = [
        row("press-1", "width=1.5 \"ü\""),
        row(&format!("servers@{from}"), "by tcp"),
        row("gauge-4", "by device server"),
        row("camera-7", "by http"),
    ];
    assert_eq!(site.rows(), expected);
    drop((tcp, connection, machine));
    gateway.stop();
    receiver.stop();
}

#[test]
fn one_record_by_each_way_becomes_a_row_in_two_steps() {
    one_record_by_each_way(true);
}

#[test]
fn one_record_by_each_way_becomes_a_row_in_one_step() {
    one_record_by_each_way(false);
}

#[test]
fn every_byte_value_but_the_delimiter_passes_a_pty_and_a_socket() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let mut pty = Pty::create(&site.path("press-1"));
    let config = site
        .config()
        .serial("press-1", &site.path("press-1"))
        .tcp_listen("servers", tcp)
        .deliver("body", "'{\"id\": {{id}}, \"machine\": {{source|json}}, \"data\": \"{{data|hex}}\"}'")
        .source("unused", "http", &format!("listen = \"{}\"\n[framing.binary]\nend = \"0x0d\"", free_address()));
    // The framing's section ends the sources, so that the ports above use it by name.
    let path = config.write(&site);
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let text = text.replace("line = \"115200 8N1\"", "line = \"115200 8N1\"\nframing = \"binary\"");
    let text = text.replace(&format!("listen = \"{tcp}\""), &format!("listen = \"{tcp}\"\nframing = \"binary\""));
    std::fs::write(&path, text).expect("the configuration");
    let gateway = Gateway::start(&site, &path);
    eventually("the pty to be opened", || (gateway.status().open("press-1") == 1).then_some(()));

    let data = (0..=255).filter(|byte| *byte != b'\r').chain([0xff, 0xff, 0x00]).collect::<Vec<u8>>();
    let hex = data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    pty.send_bytes(&data);
    pty.send_bytes(b"\r");
    gateway.wait_delivered(1);
    let mut tcp = TcpMachine::connect(tcp);
    tcp.0.write_all(&data).expect("sent");
    tcp.0.write_all(b"\r").expect("sent");
    gateway.wait_delivered(2);
    let rows = site.rows();
    assert_eq!(rows.iter().map(|row| row.data.as_str()).collect::<Vec<_>>(), [&hex, &hex]);
}

#[test]
fn machines_of_all_kinds_together_arrive_once_and_in_order() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let mut config = site.config().tcp_listen("tcp", tcp).http("http", http);
    let ports = site.path("ports");
    for index in 0..6 {
        let name = format!("machine-{index:04}");
        config = config.serial(&name, &ports.join(&name));
    }
    std::fs::create_dir(&ports).expect("a directory");
    let ready = site.path("simulate.ready");
    let mut command = ringest();
    command.args([
        "simulate", "--ptys", "6", "--tcp", "6", "--http", "6", "--rate", "100", "--for", "2s", "--jitter", "0.5",
    ]);
    command.args(["--garbage", "0.01", "--json", "--hold"]);
    command.arg("--dir").arg(&ports).arg("--to").arg(tcp.to_string()).arg("--to-http").arg(http.to_string());
    command.arg("--ledger").arg(site.path("ledger.csv")).arg("--ready-file").arg(&ready);
    let mut machines = Process::start("simulate", &site.path("simulate.log"), &mut command);
    machines.wait_ready(&ready);
    let gateway = Gateway::start(&site, &config.write(&site));

    let summary = eventually("the machines to be done", || {
        assert!(machines.is_running(), "{}", machines.log());
        let log = machines.log();
        let line = log.lines().find(|line| line.starts_with('{'))?.to_owned();
        Some(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"))
    });
    let number = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(number("sent"), 18 * 200, "{summary}");
    assert!(number("garbage") > 0, "{summary}");
    // Garbage is a record as good as any for the gateway.
    let terms = gateway.wait_terms("all that was sent", |terms| {
        terms.received >= number("sent") + number("garbage") && terms.pending == 0
    });
    assert_eq!((terms.delivered, terms.rejected, terms.recovered), (terms.received, 0, 0));
    let log = gateway.stop();
    assert!(log.contains(&format!("received {0} + recovered 0 = delivered {0} + pending 0", terms.received)), "{log}");
    assert!(log.contains("µs of CPU a record") && log.contains("MiB of memory"), "{log}");
    assert!(log.contains("first byte to delivered: p50"), "{log}");
    receiver.stop();

    let judged = verify(&site.database(), &site.path("ledger.csv"), None).expect("database and ledger");
    assert!(judged.holds(), "{:?} {:?}", judged.findings, judged.examples);
    assert_eq!((judged.expected, judged.rows), (number("sent"), terms.delivered));
}

#[test]
fn a_slow_sender_that_cuts_a_record_into_bytes_is_one_record() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let gateway = Gateway::start(&site, &site.config().tcp_listen("servers", tcp).write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.0.set_nodelay(true).expect("a socket");
    let text = record("m", 0) + "\r" + &record("m", 1) + "\r\n";
    for (index, byte) in text.bytes().enumerate() {
        machine.0.write_all(&[byte]).expect("sent");
        // Each byte is read alone: the next one follows when this one has been counted.
        eventually("the byte", || (gateway.status().counter("received_bytes") == index as u64 + 1).then_some(()));
    }
    gateway.wait_delivered(2);
    assert_rows(&site.rows(), &[("m", 2)]);
}
