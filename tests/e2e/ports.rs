//! Serial ports that go, come, are missing or belong to somebody else.

use crate::machines::Pty;
use crate::process::{Gateway, Receiver, eventually, refused};
use crate::site::{Site, assert_rows, record};
use nix::fcntl::{Flock, FlockArg};
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
        assert_eq!(problem(&gateway), None);
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
    std::fs::write(&no_tty, "").expect("a file");
    let mut pty = Pty::create(&site.path("press"));
    let config = site.config().serial("press", &site.path("press")).serial("odd", &no_tty);
    let gateway = Gateway::start(&site, &config.serial("gone", &site.path("gone")).write(&site));
    wait_open(&gateway);
    pty.send((0..20).map(|number| record("m", number)));
    gateway.wait_delivered(20);
    let status = eventually("both to be said", || {
        let status = gateway.status();
        (status.source("odd")["problem"].is_string() && status.source("gone")["problem"].is_string()).then_some(status)
    });
    assert!(status.source("odd")["problem"].as_str().is_some_and(|words| words.contains("not a tty")));
    assert_rows(&site.rows(), &[("m", 20)]);
}
