//! Device servers and ports that end each connection at once, against the real gateway.

use crate::process::{Gateway, Receiver, eventually};
use crate::site::Site;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_device_server_that_accepts_and_hangs_up_is_called_seldom_and_its_words_are_no_records() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let (calls, is_free) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, frees) = (Arc::clone(&calls), Arc::clone(&is_free));
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for connection in server.incoming() {
            let mut connection = connection.expect("the gateway connects");
            counted.fetch_add(1, Ordering::Relaxed);
            if frees.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                connection.write_all(b"12.345\r").expect("sent");
                open.push(connection);
            } else {
                // The gateway may be gone.
                let _ = connection.write_all(b"Port already in use\r\n");
            }
        }
    });
    let config = site.config().source("gauge", "tcp_connect", &format!("connect = \"{address}\"")).write(&site);
    let started = Instant::now();
    let gateway = Gateway::start(&site, &config);
    eventually("three calls", || (calls.load(Ordering::Relaxed) >= 3).then_some(()));
    let problem =
        |gateway: &Gateway| gateway.status().source("gauge")["problem"].as_str().unwrap_or_default().to_owned();
    eventually("the problem", || problem(&gateway).contains("three times in a row").then_some(()));
    std::thread::sleep(Duration::from_secs(10).saturating_sub(started.elapsed()));
    let called = calls.load(Ordering::Relaxed);
    assert!((4..=6).contains(&called), "{called} calls in 10 s");
    let lines = || gateway.process.log().lines().filter(|line| line.contains("source gauge")).count();
    assert!(lines() <= 2, "{}", gateway.process.log());
    assert_eq!(gateway.terms().delivered, 0, "no text of a refusal");

    is_free.store(true, Ordering::Relaxed);
    gateway.wait_delivered(1);
    eventually("the problem to end", || problem(&gateway).is_empty().then_some(()));
    let rows: Vec<String> = site.rows().into_iter().map(|row| row.data).collect();
    assert_eq!(rows, ["12.345"]);
    gateway.stop();
    receiver.stop();
}
