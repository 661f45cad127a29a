//! HTTP machines over real sockets: what concerns connections, time and what is kept. The syntax is tested byte by byte elsewhere.

use crate::machines::HttpMachine;
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Config, Site, assert_rows, free_address, record};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

struct Line {
    site: Site,
    gateway: Gateway,
    http: SocketAddr,
    _receiver: Receiver,
}

fn start(change: impl FnOnce(Config) -> Config) -> Line {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let http = free_address();
    let gateway = Gateway::start(&site, &change(site.config().http("cameras", http)).write(&site));
    Line { site, gateway, http, _receiver: receiver }
}

#[test]
fn a_kept_alive_connection_takes_one_record_after_the_other() {
    let line = start(|config| config);
    let mut machine = HttpMachine::connect(line.http);
    for number in 0..200 {
        assert_eq!(machine.post("camera", &record("m", number)).expect("an answer").status, 201);
    }
    line.gateway.wait_delivered(200);
    assert_eq!(line.gateway.status().counter("accepted_connections"), 1);
    assert_rows(&line.site.rows(), &[("m", 200)]);
}

#[test]
fn ten_pipelined_requests_get_ten_answers_in_their_order() {
    let line = start(|config| config);
    let mut machine = HttpMachine::connect(line.http);
    for round in 0..10 {
        let mut requests =
            (0..9).map(|index| HttpMachine::request("camera", &record("m", round * 9 + index))).collect::<Vec<_>>();
        // An answer of another kind in between shows the order.
        requests.insert(round, "GET /v1/records/camera HTTP/1.1\r\nHost: gateway\r\n\r\n".to_owned());
        machine.send(&requests.concat()).expect("sent");
        let statuses = (0..10).map(|_| machine.answer().expect("an answer").status).collect::<Vec<_>>();
        let expected = (0..10).map(|index| if index == round { 405 } else { 201 }).collect::<Vec<_>>();
        assert_eq!(statuses, expected);
    }
    line.gateway.wait_delivered(90);
    assert_rows(&line.site.rows(), &[("m", 90)]);
}

#[test]
fn connection_close_is_answered_and_ends_without_a_reset_whatever_follows() {
    let line = start(|config| config);
    for (number, junk) in ["", "GET / HTTP/1.1\r\n\r\n", &"x".repeat(60_000)].into_iter().enumerate() {
        let mut machine = HttpMachine::connect(line.http);
        let request = HttpMachine::request("camera", &record("m", number));
        let request = request.replacen("Host:", "Connection: close\r\nHost:", 1);
        machine.send(&(request + junk)).expect("sent");
        let answer = machine.answer().expect("an answer");
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("connection"), Some("close"));
        machine.assert_end();
        line.gateway.wait_delivered(number as u64 + 1);
    }
    assert_rows(&line.site.rows(), &[("m", 3)]);
}

#[test]
fn an_idle_connection_ends_quietly() {
    let line = start(|config| config.limit("idle_timeout", "\"1s\""));
    let begun = Instant::now();
    let mut silent = HttpMachine::connect(line.http);
    let mut machine = HttpMachine::connect(line.http);
    assert_eq!(machine.post("camera", &record("m", 0)).expect("an answer").status, 201);
    machine.assert_end();
    silent.assert_end();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
    eventually("the connections to be gone", || (line.gateway.status().open("cameras") == 0).then_some(()));
}

#[test]
fn a_machine_that_closes_its_half_after_the_request_is_still_answered() {
    let line = start(|config| config);
    let mut machine = HttpMachine::connect(line.http);
    machine.send(&[0, 1, 2].map(|number| HttpMachine::request("camera", &record("m", number))).concat()).expect("sent");
    machine.stream.get_ref().shutdown(Shutdown::Write).expect("a socket");
    for _ in 0..3 {
        assert_eq!(machine.answer().expect("an answer").status, 201);
    }
    machine.assert_end();
    line.gateway.wait_delivered(3);
    assert_rows(&line.site.rows(), &[("m", 3)]);
}

#[test]
fn a_stream_that_ends_inside_a_body_journals_nothing() {
    let line = start(|config| config);
    let head = "POST /v1/records/camera HTTP/1.1\r\nHost: gateway\r\n";
    let cut = [
        format!("{head}Content-Length: 10\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\na\r\nhello"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
        head.to_owned(),
    ];
    for request in cut {
        let mut machine = HttpMachine::connect(line.http);
        machine.send(&request).expect("sent");
        machine.stream.get_ref().shutdown(Shutdown::Write).expect("a socket");
        // With an answer or without, but never one that says that it was kept.
        match machine.answer() {
            Ok(answer) => assert!(answer.status >= 400, "{answer:?} to {request:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{request:?}"),
        }
        machine.assert_end();
    }
    let mut machine = HttpMachine::connect(line.http);
    assert_eq!(machine.post("camera", &record("m", 0)).expect("an answer").status, 201);
    let terms = line.gateway.wait_delivered(1);
    assert_eq!((terms.received, terms.delivered, terms.rejected), (1, 1, 0));
    assert_rows(&line.site.rows(), &[("m", 1)]);
}

#[test]
fn a_header_that_drips_past_its_deadline_is_answered_with_408() {
    let line = start(|config| config.limit("header_timeout", "\"1s\""));
    let mut machine = HttpMachine::connect(line.http);
    let begun = Instant::now();
    let mut dripping = machine.stream.get_ref().try_clone().expect("a socket");
    let drip = std::thread::spawn(move || {
        let request = format!("POST /v1/records/camera HTTP/1.1\r\nHost: gateway\r\nX-Padding: {}", "x".repeat(1_000));
        for byte in request.bytes() {
            if dripping.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let answer = machine.answer().expect("an answer");
    let took = begun.elapsed();
    assert_eq!(answer.status, 408);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    machine.stream.get_ref().shutdown(Shutdown::Both).expect("a socket");
    drip.join().expect("the dripping ends");
    assert_eq!(line.gateway.terms().received, 0);
}

#[test]
fn a_body_that_does_not_come_in_time_is_answered_with_408() {
    let line = start(|config| config.limit("body_timeout", "\"1s\""));
    let mut machine = HttpMachine::connect(line.http);
    machine.send("POST /v1/records/camera HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\nhello").expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 408);
    machine.assert_end();
    assert_eq!(line.gateway.terms().received, 0);
}

#[test]
fn a_machine_beyond_the_limit_of_connections_waits_for_its_turn() {
    let line = start(|config| config.limit("connections", "2"));
    let mut first = HttpMachine::connect(line.http);
    let mut second = HttpMachine::connect(line.http);
    assert_eq!(first.post("camera", &record("first", 0)).expect("an answer").status, 201);
    assert_eq!(second.post("camera", &record("second", 0)).expect("an answer").status, 201);
    let mut third = HttpMachine::connect(line.http);
    third.send(&HttpMachine::request("camera", &record("third", 0))).expect("the kernel takes it");
    assert_eq!(second.post("camera", &record("second", 1)).expect("an answer").status, 201);
    assert_eq!(line.gateway.status().open("cameras"), 2);
    assert_eq!(line.gateway.terms().received, 3);
    drop(first);
    assert_eq!(third.answer().expect("an answer").status, 201);
    line.gateway.wait_delivered(4);
    assert_rows(&line.site.rows(), &[("first", 1), ("second", 2), ("third", 1)]);
}
