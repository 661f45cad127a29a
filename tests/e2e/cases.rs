//! Answers that came out wrong once, byte for byte as they stand in `tests/cases/http`.

use crate::api::{Api, Behaviour};
use crate::machines::TcpMachine;
use crate::process::{Gateway, eventually};
use crate::rows::script;
use crate::site::{Site, free_address, record};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Gives this answer to each request, until the test ends; how many came.
fn answer_all(address: SocketAddr, answer: &'static [u8]) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).expect("a free address");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, asked) = (stream.expect("a connection"), Arc::clone(&counted));
            std::thread::spawn(move || serve(stream, answer, &asked));
        }
    });
    asked
}

fn serve(mut stream: TcpStream, answer: &[u8], asked: &AtomicUsize) {
    let mut input = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        input.extend(&buffer[..read]);
        while let Some(length) = script::request(&input, false).expect("a request") {
            input.drain(..length);
            asked.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(answer).is_err() {
                return; // the gateway is gone
            }
        }
    }
}

#[test]
fn a_201_in_lines_of_an_old_kind_is_one_and_nothing_is_sent_again() {
    for answer in [
        &include_bytes!("../cases/http/r01-obs-fold.raw")[..],
        include_bytes!("../cases/http/r05-space-before-colon.raw"),
    ] {
        let site = Site::new();
        let asked = answer_all(site.api, answer);
        let tcp = free_address();
        let config = site.config().one_step().tcp_listen("servers", tcp).write(&site);
        let gateway = Gateway::start(&site, &config);
        let mut machine = TcpMachine::connect(tcp);
        machine.send((0..3).map(|number| record("m", number))).expect("sent");
        gateway.wait_delivered(3);
        assert_eq!(asked.load(Ordering::Relaxed), 3, "{}", String::from_utf8_lossy(answer));
        gateway.stop();
    }
}

#[test]
fn a_float_for_an_id_is_told_as_one_and_asked_for_once() {
    let (site, ids) = (Site::new(), free_address());
    let asked = answer_all(ids, include_bytes!("../cases/http/i02-id-float.raw"));
    let api = Api::start(site.api, Behaviour::default());
    let tcp = free_address();
    let config = site.config().sequence_at(ids).tcp_listen("servers", tcp);
    let config = config.deliver("retry", "{ first = \"20ms\", max = \"60s\" }").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..3).map(|number| record("m", number))).expect("sent");
    eventually("it to be told", || {
        let routes = gateway.status().0["routes"].as_array().expect("a list").clone();
        let said = |route: &serde_json::Value| route["problem"].as_str().is_some_and(|text| text.contains("7.0"));
        routes.iter().any(said).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((asked.load(Ordering::Relaxed), api.steps().len()), (1, 0), "half a minute at least is waited");
    gateway.stop();
}
