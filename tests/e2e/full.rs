//! A disk that is full: what was acknowledged stays, intake stops, delivery goes on, and it heals by itself. Needs root and mount.

use crate::environment::{run, with_own_mounts};
use crate::machines::{HttpMachine, TcpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Site, assert_whole, free_address, numbers, record};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A record of a machine that fills a disk.
fn long_record(number: usize) -> String {
    record(&format!("m-{}", "x".repeat(700)), number)
}

/// A machine that sends as much as it is let.
struct Flood {
    end: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Flood {
    fn start(address: SocketAddr) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut machine = TcpMachine::connect(address);
            machine.0.set_write_timeout(None).expect("a socket");
            let mut sent = 0;
            while !ended.load(Ordering::Relaxed) {
                if machine.send((sent..sent + 50).map(long_record)).is_err() {
                    break; // the gateway was killed
                }
                sent += 50;
            }
            sent
        });
        Self { end, thread }
    }

    /// The number of records sent.
    fn stop(self) -> usize {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("sends to the end")
    }
}

/// Bytes that nobody wants, until the file system of `at` has no room for a page.
fn fill(at: &Path) -> PathBuf {
    let path = at.join("ballast");
    let mut file = fs::File::create(&path).expect("a file");
    for bytes in [1 << 20, 4096] {
        while file.write_all(&vec![7; bytes]).is_ok() {}
    }
    path
}

/// A state directory of its own, on a file system of so many bytes.
fn small_disk(site: &Site, size: &str) -> PathBuf {
    let state = site.path("state");
    fs::create_dir(&state).expect("a directory");
    let size = format!("size={size}");
    let arguments = ["-t", "tmpfs", "-o", &size, "none"].map(OsStr::new);
    run("mount", &[&arguments[..], &[state.as_ref()]].concat());
    state
}

fn problem(gateway: &Gateway) -> Option<String> {
    let status = gateway.status();
    let problems = status.0["problems"].as_array().expect("a list").clone();
    let journal = problems.iter().find(|problem| problem["area"] == "journal")?;
    journal["text"].as_str().map(str::to_owned)
}

fn config(site: &Site, tcp: SocketAddr, http: SocketAddr) -> PathBuf {
    let config = site.config().tcp_listen("servers", tcp).http("cameras", http);
    let config = config.journal("segment_size", "\"1MiB\"").journal("durability", "\"power\"");
    config.journal("max_size", "\"64MiB\"").write(site)
}

/// Waits until neither TCP nor HTTP machines get anything in; the terms then.
fn wait_refusals(gateway: &Gateway, http: SocketAddr) -> crate::process::Terms {
    eventually("the problem to be said", || problem(gateway)?.contains("No space left").then_some(()));
    let answer = eventually("a refusal over HTTP", || {
        let answer = HttpMachine::connect(http).post("cameras", "one 000000").expect("an answer");
        (answer.status == 503).then_some(answer)
    });
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    gateway.settled()
}

#[test]
fn a_full_disk_stops_intake_and_not_delivery_and_heals_by_itself() {
    with_own_mounts(|| {
        let site = Site::new();
        let begun = Instant::now();
        let state = small_disk(&site, "8m");
        let (tcp, http) = (free_address(), free_address());
        let gateway = Gateway::start(&site, &config(&site, tcp, http));
        let flood = Flood::start(tcp);
        gateway.wait_terms("records", |terms| terms.received >= 1000);
        let ballast = fill(&state);
        let before = wait_refusals(&gateway, http);
        assert!(before.pending >= 1000, "{before:?}");

        // Delivery goes on, and what it frees is room for new records: the disk itself is as full as it was.
        let receiver = Receiver::start(&site);
        gateway.wait_terms("the backlog to be delivered", |terms| terms.delivered >= before.received);
        gateway.wait_terms("records to be taken again", |terms| terms.received > before.received + 1000);
        fs::remove_file(&ballast).expect("it is there");
        eventually("no problem to be left", || problem(&gateway).is_none().then_some(()));
        let sent = flood.stop();
        gateway.wait_terms("the rest", |terms| terms.received >= sent as u64 && terms.pending == 0);
        let log = gateway.stop();
        let said = log.lines().filter(|line| line.contains("cannot be made")).count();
        // While it is full, each file that is freed is used at once; one that is missed is tried again a second later.
        let most = 2 + begun.elapsed().as_secs() as usize;
        assert!((1..=most).contains(&said), "{said} lines in {most} s: {log}");
        assert!(log.contains("segments can be made again"), "{log}");
        drop(receiver);
        let rows = site.rows();
        let found = numbers(rows.iter().map(|row| row.data.as_str()).filter(|data| data.starts_with("m-")));
        let (_, numbers) = found.iter().next().expect("records of one machine");
        assert_eq!(assert_whole("m", numbers), sent);
    });
}

#[test]
fn a_gateway_that_is_stopped_and_started_on_a_full_disk_loses_nothing() {
    with_own_mounts(|| {
        let site = Site::new();
        let state = small_disk(&site, "8m");
        let (tcp, http) = (free_address(), free_address());
        let path = config(&site, tcp, http);
        let gateway = Gateway::start(&site, &path);
        let flood = Flood::start(tcp);
        gateway.wait_terms("records", |terms| terms.received >= 1000);
        let ballast = fill(&state);
        wait_refusals(&gateway, http);
        let mut gateway = gateway;
        gateway.process.kill();
        flood.stop();

        // It starts, delivers what there is, and takes nothing.
        let receiver = Receiver::start(&site);
        let mut gateway = Gateway::start(&site, &path);
        let recovered = gateway.terms().recovered;
        assert!(recovered >= 1000, "{recovered}");
        gateway.wait_terms("the backlog to be delivered", |terms| terms.delivered >= recovered);

        // Nor does a stop wait for a disk that stays full: it ends in time, and the next start has all.
        drop(receiver);
        let mut machine = TcpMachine::connect(tcp);
        let begun = Instant::now();
        machine.send((0..20).map(|number| record("late", number))).expect("sent");
        gateway.wait_terms("some more", |terms| terms.received >= 20);
        gateway.process.signal(Signal::SIGTERM);
        let status = gateway.process.wait();
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        assert!(matches!(status.code(), Some(0 | 9)), "{status}\n{}", gateway.process.log());
        fs::remove_file(&ballast).expect("it is there");
        let _receiver = Receiver::start(&site);
        let gateway = Gateway::start(&site, &path);
        gateway.wait_terms("all", |terms| terms.pending == 0 && terms.delivered >= 20);
        gateway.stop();
        let rows = site.rows();
        let found = numbers(rows.iter().map(|row| row.data.as_str()).filter(|data| !data.starts_with("one")));
        assert_eq!(assert_whole("late", &found["late"]), 20);
    });
}

#[test]
fn however_many_connect_at_once_the_limit_of_connections_holds_and_the_others_wait() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = site.config().source("servers", "tcp_listen", &format!("listen = \"{tcp}\"\nlane = \"connection\""));
    let config = config.limit("connections", "3").write(&site);
    let gateway = Gateway::start(&site, &config);
    let open = || gateway.status().0["sources"][0]["open"].as_u64().expect("a number");
    let mut machines: Vec<TcpMachine> = (0..12).map(|_| TcpMachine::connect(tcp)).collect();
    for (number, machine) in machines.iter_mut().enumerate() {
        machine.send([record(&format!("m{number}"), 0)]).expect("the kernel takes it");
    }
    gateway.wait_terms("those that have a connection", |terms| terms.delivered == 3);
    assert_eq!(open(), 3);
    assert!(gateway.process.log().contains("limits.connections"), "{}", gateway.process.log());
    let mut delivered = 3;
    while !machines.is_empty() {
        drop(machines.remove(0));
        delivered = 12.min(delivered + 1);
        gateway.wait_terms("one more", |terms| terms.delivered == delivered);
        assert!(open() <= 3);
    }
    gateway.stop();
}
