//! Many machines at once, at level `process`: what comes faster than a disk takes it is held back for a moment, and not refused.

use crate::machines::HttpMachine;
use crate::process::Gateway;
use crate::site::{Site, free_address, record};
use std::thread;

const MACHINES: usize = 64;
/// Requests of a machine: 100 MB of all, three times the window, a tenth of the journal.
const REQUESTS: usize = 50;
const PIPELINED: usize = 10;
const BYTES: usize = 32_000;

#[test]
fn a_burst_of_thousands_of_requests_is_taken_whole_while_the_journal_is_nearly_empty() {
    let site = Site::new();
    let http = free_address();
    // Nobody takes the records, so that all of them stay.
    let config = site.config().http("cameras", http).deliver("drain", "\"1s\"").write(&site);
    let gateway = Gateway::start(&site, &config);
    let send = |machine: usize| {
        let mut connection = HttpMachine::connect(http);
        for first in (0..REQUESTS).step_by(PIPELINED) {
            let request = |number| {
                let data = record(&format!("m{machine}"), number);
                HttpMachine::request("camera", &format!("{data:x<BYTES$}"))
            };
            let requests: Vec<String> = (first..first + PIPELINED).map(request).collect();
            connection.send(&requests.concat()).expect("sent");
            for _ in 0..PIPELINED {
                let answer = connection.answer().expect("an answer");
                assert_eq!(answer.status, 201, "{answer:?}");
            }
        }
    };
    thread::scope(|scope| {
        for machine in 0..MACHINES {
            scope.spawn(move || send(machine));
        }
    });
    let status = gateway.status();
    let all = (MACHINES * REQUESTS) as u64;
    assert_eq!((status.counter("http_accepted"), status.counter("http_unavailable")), (all, 0));
    assert_eq!(status.terms().pending, all);
    gateway.stop();
}
