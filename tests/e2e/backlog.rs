//! Much more than memory and journal hold, while nobody takes it.

use crate::api::{Api, Behaviour};
use crate::machines::{HttpMachine, TcpMachine};
use crate::process::{Gateway, Receiver, eventually, within};
use crate::site::{Site, assert_rows, free_address, record};
use std::time::{Duration, Instant};

const MACHINES: usize = 16;
const EACH: usize = 6_250;
const TOTAL: u64 = (MACHINES * EACH) as u64;

#[test]
fn a_backlog_larger_than_the_journal_is_held_back_and_arrives_whole() {
    let site = Site::new();
    let (tcp, http) = (free_address(), free_address());
    let config = site.config().one_step().tcp_listen("servers", tcp).http("cameras", http);
    let config =
        config.journal("segment_size", "\"1MiB\"").journal("max_size", "\"4MiB\"").journal("window", "\"1MiB\"");
    let gateway = Gateway::start(&site, &config.deliver("connections", "16").write(&site));
    let rss_before = gateway.status().rss_bytes();

    let machines = (0..MACHINES).map(|index| {
        let mut machine = TcpMachine::connect(tcp);
        std::thread::spawn(move || {
            let name = format!("machine-{index}");
            let mut number = 0;
            while number < EACH {
                // 100 bytes a record: 10 MB in all, which neither the journal nor the sockets' buffers hold.
                let part = (number..number + 50).map(|number| format!("{name} {:>90} {number:06}", "x"));
                machine.send(part).expect("the gateway takes it in the end");
                number += 50;
            }
            machine
        })
    });
    let machines = machines.collect::<Vec<_>>();
    let problem = eventually("the full journal to be said", || {
        gateway.status().0["shards"][0]["journal"]["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains("full"), "{problem}");
    // Nothing moves any more: the machines wait.
    let full = gateway.settled();
    assert!(full.received > 10_000 && full.received < TOTAL, "{full:?}");
    assert_eq!((full.delivered, full.rejected), (0, 0));
    let mut machine = HttpMachine::connect(http);
    let answer = machine.post("camera", &record("http", 0)).expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let rss = gateway.status().rss_bytes();
    assert!(rss < rss_before + (32 << 20), "{} MiB, {} MiB at the start", rss >> 20, rss_before >> 20);

    let begun = Instant::now();
    let _receiver = Receiver::start(&site);
    let terms = within(Duration::from_secs(120), "everything to be delivered", || {
        let terms = gateway.terms();
        (terms.delivered >= TOTAL).then_some(terms)
    });
    println!("{TOTAL} records delivered in {:?} after the outage", begun.elapsed());
    assert_eq!((terms.delivered, terms.pending, terms.rejected), (TOTAL, 0, 0));
    let open = machines.into_iter().map(|machine| machine.join().expect("it was held back only")).collect::<Vec<_>>();
    assert_eq!(machine.post("camera", &record("http", 0)).expect("an answer").status, 201);
    gateway.wait_delivered(TOTAL + 1);
    let rss = gateway.status().rss_bytes();
    assert!(rss < rss_before + (32 << 20), "{} MiB, {} MiB at the start", rss >> 20, rss_before >> 20);
    drop(open);
    gateway.stop();

    let mut rows = site.rows();
    for row in &mut rows {
        let mut words = row.data.split_whitespace();
        let (machine, number) = (words.next().expect("its name"), words.next_back().expect("its number"));
        row.data = format!("{machine} {number}");
    }
    let names = (0..MACHINES).map(|index| format!("machine-{index}")).collect::<Vec<_>>();
    let mut counts = names.iter().map(|name| (name.as_str(), EACH)).collect::<Vec<_>>();
    counts.push(("http", 1));
    assert_rows(&rows, &counts);
}

#[test]
fn a_backlog_behind_the_window_survives_a_restart_in_order() {
    const COUNT: usize = 30_000;
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("drain", "\"0ms\"");
    let config =
        config.journal("segment_size", "\"1MiB\"").journal("max_size", "\"64MiB\"").journal("window", "\"1MiB\"");
    let config = config.deliver("pipeline", "4").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machines = (0..3).map(|_| TcpMachine::connect(tcp)).collect::<Vec<_>>();
    for first in (0..COUNT / 3).step_by(500) {
        for (index, machine) in machines.iter_mut().enumerate() {
            let records = (first..first + 500).map(|number| record(&format!("m{index}"), number));
            machine.send(records).expect("sent");
        }
    }
    gateway.wait_terms("intake", |terms| terms.received == COUNT as u64);
    let behind = gateway.status().0["shards"][0]["journal"]["behind"].as_u64().expect("a number");
    assert!(behind > 10_000, "{behind} behind the window");
    gateway.stop();
    let mut gateway = Gateway::start(&site, &config);
    assert_eq!(gateway.terms().recovered, COUNT as u64);
    let _receiver = Receiver::start(&site);
    gateway.wait_terms("half of it", |terms| terms.delivered > COUNT as u64 / 2);
    gateway.process.kill();
    let gateway = Gateway::start(&site, &config);
    gateway.wait_terms("the rest", |terms| terms.pending == 0);
    assert_rows(&site.rows(), &[("m0", COUNT / 3), ("m1", COUNT / 3), ("m2", COUNT / 3)]);
}

/// The journal holds 4 MiB: segments of 1 MiB, of which the first would stay for good.
#[test]
fn one_record_that_the_api_never_takes_does_not_stop_the_others() {
    const FLOWING: usize = 8;
    const EACH: usize = 2_500;
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { refuse_data: Some("unwanted"), ..Behaviour::default() });
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).deliver("drain", "\"0ms\"");
    let config = config.deliver("answers", "{ retry = [422] }");
    let config =
        config.journal("segment_size", "\"1MiB\"").journal("max_size", "\"4MiB\"").journal("window", "\"1MiB\"");
    let config =
        config.deliver("connections", "16").deliver("retry", "{ first = \"50ms\", max = \"200ms\" }").write(&site);
    let mut gateway = Gateway::start(&site, &config);
    let mut stalled = TcpMachine::connect(tcp);
    stalled.send(["unwanted 000000".to_owned(), "behind 000000".to_owned()]).expect("sent");
    gateway.wait_terms("the first two", |terms| terms.received == 2);
    let machines = (0..FLOWING).map(|index| {
        let mut machine = TcpMachine::connect(tcp);
        std::thread::spawn(move || {
            for first in (0..EACH).step_by(50) {
                // A kilobyte a record: 20 MB in all, five times what the journal holds.
                let part = (first..first + 50).map(|number| format!("m{index} {:>1000} {number:06}", "x"));
                machine.send(part).expect("intake goes on");
            }
            machine
        })
    });
    let machines = machines.collect::<Vec<_>>();
    let all = (FLOWING * EACH) as u64;
    let terms = within(Duration::from_secs(120), "all others to be delivered", || {
        let terms = gateway.terms();
        (terms.delivered >= all).then_some(terms)
    });
    assert_eq!((terms.delivered, terms.pending, terms.rejected), (all, 2, 0));
    let status = gateway.status();
    let (rewritten, freed) = (status.counter("journal_rewritten"), status.counter("journal_freed"));
    assert!(rewritten >= 4 && freed >= 10, "{rewritten} segments rewritten, {freed} freed");
    let open = machines.into_iter().map(|machine| machine.join().expect("it was held back only")).collect::<Vec<_>>();
    assert_eq!(gateway.status().counter("journal_errors"), 0);
    let files = std::fs::read_dir(site.path("state/core-0")).expect("the journal").count();
    assert!(files < 16, "{files} files");
    drop(open);
    gateway.process.kill();

    let gateway = Gateway::start(&site, &config);
    let terms = gateway.terms();
    assert_eq!((terms.recovered, terms.pending), (2, 2));
    api.relent();
    gateway.wait_terms("the last two", |terms| terms.pending == 0);
    gateway.stop();
    let films = api.films();
    let last: Vec<&str> = films[films.len() - 2..].iter().map(|film| &*film.data).collect();
    assert_eq!(last, ["unwanted 000000", "behind 000000"]);
    assert_eq!(films.len() as u64, all + 2, "each once");
}
