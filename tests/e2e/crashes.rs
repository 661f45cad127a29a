//! `kill -9` of the gateway: what was acknowledged or counted as received arrives, each lane in order and without holes.

use crate::api::{Api, Behaviour};
use crate::machines::{HttpMachine, Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Config, Site, assert_rows, assert_whole, free_address, numbers, record};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Machines that send until the gateway is gone; each ends with its name and the number of acknowledged records.
struct Load {
    machines: Vec<JoinHandle<(String, usize)>>,
}

impl Load {
    fn start(round: usize, tcp: (usize, SocketAddr), http: (usize, SocketAddr)) -> Self {
        let mut machines = Vec::new();
        for index in 0..tcp.0 {
            let name = format!("r{round}-tcp-{index}");
            let mut machine = TcpMachine::connect(tcp.1);
            machines.push(std::thread::spawn(move || {
                let mut number = 0;
                while machine.send((number..number + 3).map(|number| record(&name, number))).is_ok() {
                    number += 3;
                    // Some hundred records/s a machine: what a kill leaves is delivered in a second.
                    std::thread::sleep(Duration::from_millis(5));
                }
                (name, 0)
            }));
        }
        for index in 0..http.0 {
            let name = format!("r{round}-http-{index}");
            let mut machine = HttpMachine::connect(http.1);
            machines.push(std::thread::spawn(move || {
                let mut acknowledged = 0;
                while let Ok(answer) = machine.post(&name, &record(&name, acknowledged)) {
                    assert_eq!(answer.status, 201, "{answer:?}");
                    acknowledged += 1;
                }
                (name, acknowledged)
            }));
        }
        Self { machines }
    }

    /// The acknowledged records by machine, once all have noticed that the gateway is gone.
    fn join(self) -> BTreeMap<String, usize> {
        self.machines.into_iter().map(|machine| machine.join().expect("no machine panics")).collect()
    }
}

/// What was acknowledged is there, and at most the one request more that was under way. Returns the records in all.
fn assert_kept(found: &BTreeMap<String, Vec<usize>>, acknowledged: &BTreeMap<String, usize>) -> usize {
    for (machine, &acknowledged) in acknowledged.iter().filter(|(machine, _)| machine.contains("http")) {
        let there = found.get(machine).map_or(0, Vec::len);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&there),
            "{machine}: {there} of {acknowledged} acknowledged"
        );
    }
    found.iter().map(|(machine, numbers)| assert_whole(machine, numbers)).sum()
}

fn config(site: &Site, tcp: SocketAddr, http: SocketAddr) -> Config {
    site.config().tcp_listen("servers", tcp).http("cameras", http)
}

#[test]
fn a_kill_with_records_pending_loses_none_that_was_acknowledged_or_counted() {
    const OF_PTY: usize = 300;
    let site = Site::new();
    let (tcp, http) = (free_address(), free_address());
    let mut pty = Pty::create(&site.path("press"));
    let config = config(&site, tcp, http).serial("press", &site.path("press")).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    eventually("the pty to be opened", || (gateway.status().open("press") == 1).then_some(()));
    // What a closed port had not handed over is lost with it, so all of this is read before the kill.
    pty.send((0..OF_PTY).map(|number| record("pty", number)));
    eventually("the pty's records", || (gateway.status().source("press")["received"] == OF_PTY).then_some(()));
    let load = Load::start(0, (4, tcp), (4, http));
    let seen = gateway.wait_terms("records pending", |terms| terms.received >= OF_PTY as u64 + 1_000);
    assert!(seen.pending >= 100 && seen.delivered == 0, "{seen:?}");
    let seen = gateway.terms();
    gateway.process.kill();
    let acknowledged = load.join();

    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &config);
    let terms = gateway.wait_delivered(seen.received);
    assert_eq!(terms.recovered, terms.delivered, "{terms:?}");
    let rows = site.rows();
    let found = numbers(rows.iter().map(|row| row.data.as_str()));
    let kept = assert_kept(&found, &acknowledged);
    assert_eq!(found["pty"].len(), OF_PTY);
    assert!(kept as u64 >= seen.received, "{kept} of {} records", seen.received);
    assert!(rows.iter().filter(|row| row.data.starts_with("pty")).all(|row| row.machine == "press"));

    // The lane of the port goes on where it was.
    eventually("the pty to be opened", || (gateway.status().open("press") == 1).then_some(()));
    pty.send((OF_PTY..OF_PTY + 20).map(|number| record("pty", number)));
    gateway.wait_delivered(terms.recovered + 20);
    let rows = site.rows();
    let found = numbers(rows.iter().map(|row| row.data.as_str()));
    assert_eq!(assert_whole("pty", &found["pty"]), OF_PTY + 20);
    gateway.stop();
}

#[test]
fn kills_at_random_moments_under_load_lose_nothing_and_repeat_only_under_the_same_key() {
    const ROUNDS: usize = 6;
    let site = Site::new();
    // Slow enough that requests are in flight whenever the kill comes.
    let api = Api::start(site.api, Behaviour { delay: Duration::from_millis(3), ..Behaviour::default() });
    let (tcp, http) = (free_address(), free_address());
    let config = config(&site, tcp, http).write(&site);
    let (mut acknowledged, mut counted) = (BTreeMap::new(), 0);
    for round in 0..ROUNDS {
        let mut gateway = Gateway::start(&site, &config);
        let load = Load::start(round, (2, tcp), (3, http));
        gateway.wait_terms("deliveries", |terms| terms.delivered >= 20);
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..80_000)));
        counted += gateway.terms().received;
        gateway.process.kill();
        acknowledged.extend(load.join());
    }
    let gateway = Gateway::start(&site, &config);
    gateway.wait_terms("all that was recovered", |terms| terms.pending == 0);
    gateway.stop();

    let films = api.films();
    let mut first = HashMap::new();
    let mut doubles = 0;
    for film in &films {
        let same = first.entry(film.data.as_str()).or_insert(film);
        assert_eq!(*same, film, "a record that is sent again bears the same key, id and bytes");
        doubles += usize::from(!std::ptr::eq(*same, film));
    }
    let keys = first.values().map(|film| film.key.as_str()).collect::<HashSet<_>>();
    assert_eq!(keys.len(), first.len(), "no key is used for two records");
    let mut found = numbers(films.iter().map(|film| film.data.as_str()));
    // A double comes before anything else of its lane.
    found.values_mut().for_each(Vec::dedup);
    let kept = assert_kept(&found, &acknowledged);
    assert_eq!(kept, first.len());
    assert!(kept as u64 >= counted, "{kept} of {counted} records");
    assert!(doubles > 0, "no kill found a request in flight, so nothing was tested");
    // Lanes that an earlier kill left are at work beside the new ones; each connection to the API has one request in flight.
    assert!(doubles <= ROUNDS * 8, "{doubles} doubles: more than one a connection and kill");
}

#[test]
fn a_record_is_kept_once_its_201_was_read() {
    let site = Site::new();
    let http = free_address();
    let config = site.config().http("cameras", http).write(&site);
    for number in 0..6 {
        let mut gateway = Gateway::start(&site, &config);
        let mut machine = HttpMachine::connect(http);
        let answer = machine.post("camera", &record("m", number)).expect("an answer");
        gateway.process.kill();
        assert_eq!(answer.status, 201);
    }
    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &config);
    let terms = gateway.wait_delivered(6);
    assert_eq!(terms.recovered, 6);
    let found = site.rows().into_iter().map(|row| row.data).collect::<Vec<_>>();
    // Six connections, and one SOURCE: one order.
    assert_eq!(found, (0..6).map(|number| record("m", number)).collect::<Vec<_>>());
}

#[test]
fn a_kill_during_the_recovery_of_a_kill_loses_nothing() {
    const COUNT: usize = 2_000;
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("m", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == COUNT as u64);
    gateway.process.kill();
    for _ in 0..8 {
        let mut gateway = Gateway::spawn(&site, &config);
        // Anywhere between exec and the first turns of its loop.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..40_000)));
        gateway.process.kill();
    }
    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &config);
    // Of all these starts only one has memory now.
    assert_eq!(site.block_files().len(), 1);
    let terms = gateway.wait_delivered(COUNT as u64);
    assert_eq!(terms.recovered, COUNT as u64);
    assert_rows(&site.rows(), &[("m", COUNT)]);
}

#[test]
fn the_shared_memory_of_a_killed_gateway_is_given_back_by_the_next_one() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    gateway.process.kill();
    let files = site.block_files();
    let [left] = &files[..] else { panic!("one start, one block file, not {files:?}") };
    assert!(left.exists(), "{} is gone", left.display());
    let gateway = Gateway::start(&site, &config);
    assert!(!left.exists(), "{} is still there", left.display());
    let files = site.block_files();
    let [own] = &files[..] else { panic!("one start, one block file, not {files:?}") };
    assert!(own.exists(), "{} is not there", own.display());
    gateway.stop();
    assert!(!own.exists(), "{} is still there", own.display());
}

#[test]
fn stop_and_kill_under_load_leave_an_account_that_balances() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let config = config(&site, tcp, http).write(&site);
    let scraping = AtomicBool::new(true);
    let mut gateway = Gateway::start(&site, &config);
    let load = Load::start(0, (2, tcp), (2, http));
    std::thread::scope(|scope| {
        // Every status that is read asserts the identity.
        let scraper = scope.spawn(|| {
            let mut count = 0;
            while scraping.load(Ordering::Relaxed) {
                gateway.status();
                count += 1;
            }
            count
        });
        eventually("deliveries", || (gateway.terms().delivered > 2_000).then_some(()));
        scraping.store(false, Ordering::Relaxed);
        assert!(scraper.join().expect("the identity holds") > 10);
    });
    gateway.process.kill();
    let acknowledged = load.join();
    let gateway = Gateway::start(&site, &config);
    gateway.wait_terms("all that was recovered", |terms| terms.pending == 0);
    gateway.stop();
    let rows = site.rows();
    assert_kept(&numbers(rows.iter().map(|row| row.data.as_str())), &acknowledged);
}
