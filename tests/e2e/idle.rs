//! TCP connections on which nothing comes, on real sockets.

use crate::machines::TcpMachine;
use crate::process::{Gateway, PATIENCE, Receiver, eventually};
use crate::site::{Site, assert_rows, free_address, record};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// The least that may be configured.
const LIMIT: Duration = Duration::from_secs(5);

/// When the next probe of keepalive goes on a connection of the gateway, of which only its owner could ask the kernel otherwise.
fn probe_in_seconds(port: u16) -> Option<f64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Established, and a timer of kind 2, in hundredths of a second: proc_net_tcp.rst of the kernel.
    let timers = line.filter(|fields| fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"01"));
    let timer = timers.filter_map(|fields| fields.get(5)?.strip_prefix("02:")).next()?.to_owned();
    Some(f64::from(u32::from_str_radix(&timer, 16).ok()?) / 100.0)
}

#[test]
fn a_silent_machine_is_closed_in_order_and_a_silent_device_server_is_connected_to_anew() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (address, device) = (free_address(), TcpListener::bind(free_address()).expect("a free port"));
    let config = site
        .config()
        .tcp_listen("hall", address)
        .of_source("idle", "\"5s\"")
        .tcp_connect("press", device.local_addr().expect("bound"))
        .of_source("reconnect_after", "\"5s\"");
    let gateway = Gateway::start(&site, &config.write(&site));
    let (mut first, _) = device.accept().expect("the gateway connects");
    first.write_all(b"press 000000\rpress 0000").expect("sent");
    let mut machine = TcpMachine::connect(address);
    machine.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    machine.send([record("hall", 0)]).expect("sent");
    machine.0.write_all(b"hall 0000").expect("sent");
    let begun = Instant::now();
    assert_eq!(machine.0.read(&mut [0]).expect("an orderly end"), 0);
    let waited = begun.elapsed();
    assert!(waited > LIMIT - Duration::from_millis(500), "{waited:?}");
    // What it sends behind that is taken.
    machine.0.write_all(b"01\r").expect("it is still read");
    first.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(first.read(&mut [0]).expect("an orderly end"), 0);
    drop(first);
    let (mut second, _) = device.accept().expect("the gateway connects anew");
    eventually("the problem to be shown", || {
        let status = gateway.status();
        let problem = status.source("press")["problem"].as_str()?;
        problem.contains("reconnect_after").then_some(())
    });
    second.write_all(b"press 000001\r").expect("sent");
    gateway.wait_terms("what is unfinished to be counted", |terms| terms.delivered == 4 && terms.rejected == 1);
    assert_rows(&site.rows(), &[("hall", 2), ("press", 2)]);
    let status = gateway.status();
    assert!(status.source("press")["problem"].is_null(), "{}", status.source("press"));
    assert_eq!(status.counter("idle_connections_ended"), 2);
    let log = gateway.process.log();
    for words in ["source hall: 127.0.0.1 has sent nothing for 5s", "source press: nothing has come for 5s"] {
        assert_eq!(log.matches(words).count(), 1, "{words}\n{log}");
    }
    gateway.stop();
}

#[test]
fn keepalive_is_what_the_file_says_also_behind_a_reload_and_of_what_is_open() {
    let site = Site::new();
    let address = free_address();
    let config = |keepalive: &str| {
        let config = site.config().tcp_listen("hall", address);
        config.of_source("keepalive", keepalive).of_source("user_timeout", "\"77s\"").write(&site)
    };
    let gateway = Gateway::start(&site, &config("\"900s\""));
    let machine = TcpMachine::connect(address);
    eventually("the connection to be open", || (gateway.status().open("hall") == 1).then_some(()));
    let shown = probe_in_seconds(address.port()).expect("a timer of keepalive");
    assert!((880.0..=900.0).contains(&shown), "{shown}");
    config("\"100s\"");
    gateway.process.signal(Signal::SIGHUP);
    eventually("the open connection to be watched as the new file says", || {
        probe_in_seconds(address.port()).filter(|shown| (60.0..=100.0).contains(shown))
    });
    assert_eq!(gateway.status().open("hall"), 1, "it was never closed");
    drop(machine);
    eventually("the connection to be gone", || (gateway.status().open("hall") == 0).then_some(()));
    let _again = TcpMachine::connect(address);
    let shown = eventually("a timer of keepalive", || probe_in_seconds(address.port()));
    assert!((60.0..=100.0).contains(&shown), "{shown}");
    gateway.stop();
}
