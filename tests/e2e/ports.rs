//! Serial ports that go, come, are missing or belong to somebody else.

use crate::machines::{Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually, refused};
use crate::site::{Site, assert_rows, free_address, numbers, record};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use std::fs::File;

/// What is wrong with the source now.
fn problem(gateway: &Gateway) -> Option<String> {
    gateway.status().source("press")["problem"].as_str().map(str::to_owned)
}

fn wait_open(gateway: &Gateway) {
    eventually("the port to be opened", || (gateway.status().open("press") == 1).then_some(()));
}

#[test]
fn a_port_that_hangs_up_and_comes_back_loses_no_record() {
    const EACH: usize = 50;
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let link = site.path("press");
    let gateway = Gateway::start(&site, &site.config().serial("press", &link).write(&site));
    for round in 0..4 {
        let mut pty = Pty::create(&link);
        wait_open(&gateway);
        // The fourth open follows three that have not lived for 3 s.
        assert_eq!(problem(&gateway).is_some(), round == 3);
        pty.send((round * EACH..(round + 1) * EACH).map(|number| record("m", number)));
        // Its beginning is read, its end never comes.
        pty.send_bytes(b"cut off");
        let bytes = (round + 1) * (EACH * (record("m", 0).len() + 1) + 7);
        eventually("the bytes to be read", || {
            (gateway.status().counter("received_bytes") == bytes as u64).then_some(())
        });
        drop(pty);
        let said = eventually("the hang-up to be said", || problem(&gateway));
        assert!(!said.is_empty());
        let status = gateway.status();
        assert_eq!(status.open("press"), 0);
        assert_eq!(status.counter("lost_sources"), round as u64 + 1);
        // The operator's screen says it, too.
        let problems = status.0["problems"].as_array().expect("a list");
        assert!(
            problems.iter().any(|problem| problem["name"] == "press" && problem["area"] == "source"),
            "{problems:?}"
        );
    }
    let terms = gateway.wait_delivered(4 * EACH as u64);
    assert_eq!((terms.delivered, terms.rejected), (4 * EACH as u64, 4));
    assert_eq!(gateway.status().counter("rejected_unfinished"), 4);
    assert_rows(&site.rows(), &[("m", 4 * EACH)]);
    gateway.stop();
}

#[test]
fn a_port_that_is_missing_at_the_start_is_waited_for() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    // Not even its directory is there, as below /dev/serial without an adapter.
    let link = site.path("serial").join("by-id").join("press");
    let gateway = Gateway::start(&site, &site.config().serial("press", &link).write(&site));
    eventually("the lack to be said", || problem(&gateway));
    std::fs::create_dir_all(link.parent().expect("a directory")).expect("a directory");
    let mut pty = Pty::create(&link);
    wait_open(&gateway);
    assert_eq!(problem(&gateway), None);
    pty.send([record("m", 0)]);
    gateway.wait_delivered(1);
    assert_rows(&site.rows(), &[("m", 1)]);
}

#[test]
fn a_port_that_must_be_there_and_is_not_ends_the_start_with_code_8() {
    let site = Site::new();
    let link = site.path("press");
    let keys = format!("path = \"{}\"\nline = \"9600 8N1\"\non_missing = \"fail\"", link.display());
    let (code, words) = refused(&site, &site.config().source("press", "serial", &keys).write(&site));
    assert_eq!(code, Some(8), "{words}");
    assert!(words.contains("press") && words.contains(&link.display().to_string()), "{words}");
}

#[test]
fn a_busy_port_names_its_holder_and_is_taken_once_it_is_free() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let link = site.path("press");
    let mut pty = Pty::create(&link);
    let slave = File::options().read(true).write(true).open(&link).expect("the port");
    let lock = Flock::lock(slave, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).expect("a lock");
    let holder = format!("PID {}", std::process::id());

    let keys = format!("path = \"{}\"\nline = \"9600 8N1\"\non_missing = \"fail\"", link.display());
    let (code, words) = refused(&site, &site.config().source("press", "serial", &keys).write(&site));
    assert_eq!(code, Some(6), "{words}");
    assert!(words.contains(&holder) && words.contains("press"), "{words}");

    let gateway = Gateway::start(&site, &site.config().serial("press", &link).write(&site));
    let said = eventually("the holder to be said", || problem(&gateway));
    assert!(said.contains(&holder), "{said}");
    drop(lock);
    wait_open(&gateway);
    pty.send([record("m", 0)]);
    gateway.wait_delivered(1);
    assert_rows(&site.rows(), &[("m", 1)]);
}

#[test]
fn one_broken_port_does_not_disturb_the_others() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let no_tty = site.path("no-tty");
    let mut pty = Pty::create(&site.path("press"));
    let config = site.config().serial("press", &site.path("press")).serial("odd", &no_tty);
    let gateway = Gateway::start(&site, &config.serial("gone", &site.path("gone")).write(&site));
    wait_open(&gateway);
    // At the start it would have been refused.
    std::fs::write(&no_tty, "").expect("a file");
    pty.send((0..20).map(|number| record("m", number)));
    gateway.wait_delivered(20);
    eventually("both to be said", || {
        let status = gateway.status();
        let problem = |name: &str| status.source(name)["problem"].as_str().unwrap_or_default().to_owned();
        (problem("odd").contains("not a tty") && !problem("gone").is_empty()).then_some(())
    });
    // The log waits a moment for others that the same befalls.
    let log = eventually("it to be logged", || Some(gateway.process.log()).filter(|log| log.contains("not a tty")));
    assert_eq!(log.lines().filter(|line| line.contains("not a tty")).count(), 1, "{log}");
    assert_rows(&site.rows(), &[("m", 20)]);
}

#[test]
fn ports_that_hang_up_at_the_same_moment_are_one_line_of_the_log_with_their_number() {
    const PORTS: usize = 20;
    let site = Site::new();
    let name = |index: usize| format!("p{index:02}");
    let config = (0..PORTS).fold(site.config(), |config, index| config.serial(&name(index), &site.path(&name(index))));
    let ptys: Vec<Pty> = (0..PORTS).map(|index| Pty::create(&site.path(&name(index)))).collect();
    let gateway = Gateway::start(&site, &config.write(&site));
    eventually("the ports to be opened", || {
        let status = gateway.status();
        (0..PORTS).all(|index| status.open(&name(index)) == 1).then_some(())
    });
    // However slowly they go, the gateway sees that in one moment.
    gateway.process.signal(Signal::SIGSTOP);
    drop(ptys);
    gateway.process.signal(Signal::SIGCONT);
    eventually("all to be lost", || (gateway.status().counter("lost_sources") == PORTS as u64).then_some(()));
    let words = format!("{PORTS} sources (p");
    eventually("it to be logged", || gateway.process.log().contains(&words).then_some(()));
    let log = gateway.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("trying again")).collect();
    // The hang-up, and then that they are missing.
    assert!(lines.len() <= 4, "{} lines: {lines:#?}", lines.len());
    assert!(lines[0].contains(&words) && lines[0].contains(&format!("and {} more)", PORTS - 5)), "{lines:#?}");
}

/// A gateway with one port and a journal that other machines have filled, since nobody takes the records. The port, and how many
/// records the others sent.
fn full_journal(site: &Site, flow: &str) -> (Gateway, Pty, std::thread::JoinHandle<usize>) {
    let link = site.path("press");
    let pty = Pty::create(&link);
    let tcp = free_address();
    let keys = format!("path = \"{}\"\nline = \"115200 8N1\"\nflow = \"{flow}\"", link.display());
    let config = site.config().one_step().source("press", "serial", &keys).tcp_listen("others", tcp);
    let config =
        config.journal("segment_size", "\"1MiB\"").journal("max_size", "\"4MiB\"").journal("window", "\"1MiB\"");
    let gateway = Gateway::start(site, &config.deliver("connections", "8").write(site));
    wait_open(&gateway);
    let others = std::thread::spawn(move || {
        let mut machine = TcpMachine::connect(tcp);
        const COUNT: usize = 2_000;
        for first in (0..COUNT).step_by(20) {
            // 4 KiB each: twice what the journal holds.
            let part = (first..first + 20).map(|number| format!("other{} {number:06}", "x".repeat(4_000)));
            machine.send(part).expect("the gateway takes it in the end");
        }
        COUNT
    });
    eventually("the journal to be full", || {
        gateway.status().0["shards"][0]["journal"]["problem"].as_str().map(str::to_owned)
    });
    // It can be full for a moment, until a block is on disk.
    gateway.settled();
    (gateway, pty, others)
}

#[test]
fn a_line_with_xon_and_xoff_is_told_to_wait_while_the_journal_is_full_and_loses_nothing() {
    const COUNT: usize = 300;
    let site = Site::new();
    let (gateway, mut pty, others) = full_journal(&site, "xonxoff");
    let mut byte = [0];
    assert_eq!(
        (pty.read(&mut byte), byte),
        (1, [0x11]),
        "XON at the open: whoever was there before may have said XOFF"
    );
    pty.send([record("m", 0)]);
    assert_eq!((pty.read(&mut byte), byte), (1, [0x13]), "XOFF");
    // A deaf machine goes on: the tty holds it.
    pty.send((1..10).map(|number| record("m", number)));
    let receiver = Receiver::start(&site);
    assert_eq!((pty.read(&mut byte), byte), (1, [0x11]), "XON");
    pty.send((10..COUNT).map(|number| record("m", number)));
    let sent = others.join().expect("it was held back only") + COUNT;
    let terms = gateway.wait_delivered(sent as u64);
    assert_eq!((terms.delivered, terms.rejected), (sent as u64, 0));
    assert_eq!(gateway.status().source("press")["rejected"], 0);
    let rows = site.rows();
    let found = numbers(rows.iter().map(|row| row.data.as_str()));
    assert_eq!(found["m"], (0..COUNT).collect::<Vec<_>>());
    gateway.stop();
    receiver.stop();
}

#[test]
fn a_line_without_flow_control_is_read_on_while_the_journal_is_full_and_what_is_lost_is_counted() {
    const COUNT: usize = 60_000;
    let site = Site::new();
    let (gateway, mut pty, others) = full_journal(&site, "none");
    // Twice what is kept for it in the journal, and held of one line.
    pty.send((0..COUNT).map(|number| record("m", number)));
    let bytes = COUNT * (record("m", 0).len() + 1);
    let status = eventually("the line to be read to its end", || {
        let status = gateway.status();
        (status.source("press")["bytes"] == bytes).then_some(status)
    });
    let rejected = status.counter("rejected_full");
    assert!(rejected as usize > COUNT / 3, "{rejected} of {COUNT}");
    let press = status.source("press");
    assert_eq!(press["rejected"], rejected);
    let sources = gateway.get("/api/sources");
    let sources = sources["sources"].as_array().expect("a list");
    let samples = &sources.iter().find(|source| source["name"] == "press").expect("the line")["samples"];
    assert_eq!((samples.as_array().map(Vec::len), &samples[0]["reason"]), (Some(8), &"full".into()), "{samples}");
    assert!(samples[0]["text"].as_str().is_some_and(|text| text.starts_with("m ")), "{samples}");
    assert!(press["problem"].as_str().is_some_and(|words| words.contains("flow control")), "{press}");

    let _receiver = Receiver::start(&site);
    let sent = others.join().expect("it was held back only") + COUNT;
    let terms = gateway.wait_delivered(sent as u64);
    assert_eq!((terms.delivered, terms.rejected), (sent as u64 - rejected, rejected));
    assert_eq!(problem(&gateway), None);
    let rows = site.rows();
    let found = &numbers(rows.iter().map(|row| row.data.as_str()))["m"];
    // Those that are there are in order, once; the youngest are.
    assert!(found.is_sorted_by(|earlier, later| earlier < later));
    assert_eq!((found.len() as u64, found.last()), (COUNT as u64 - rejected, Some(&(COUNT - 1))));
}
