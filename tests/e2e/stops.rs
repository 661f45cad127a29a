//! Stop, start, and every start that is refused, with its exit code.

use crate::api::{Api, Behaviour};
use crate::forbid;
use crate::machines::TcpMachine;
use crate::process::{Gateway, Receiver, eventually, refused};
use crate::site::{Site, assert_rows, assert_whole, free_address, numbers, record};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

const COUNT: usize = 150;

/// A gateway that has received [`COUNT`] records of one machine.
fn filled(site: &Site, tcp: SocketAddr, drain: &str) -> (Gateway, TcpMachine) {
    let config = site.config().tcp_listen("servers", tcp).deliver("drain", drain).write(site);
    let gateway = Gateway::start(site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("m", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == COUNT as u64);
    (gateway, machine)
}

fn keeps_the_rest(signal: Signal) {
    let site = Site::new();
    let tcp = free_address();
    let (mut gateway, _machine) = filled(&site, tcp, "\"1s\"");
    let begun = Instant::now();
    gateway.process.signal(signal);
    let status = gateway.process.wait();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{}", gateway.process.log());
    assert!(took >= Duration::from_secs(1), "it ended after {took:?}, before drain was over");
    assert!(took < Duration::from_secs(4), "it ended after {took:?}, long after drain was over");
    let log = gateway.process.log();
    assert!(log.contains(&format!("received {COUNT} + recovered 0 = delivered 0 + pending {COUNT}")), "{log}");

    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &site.path("ringest.toml"));
    let terms = gateway.wait_delivered(COUNT as u64);
    assert_eq!(terms.recovered, COUNT as u64);
    assert_rows(&site.rows(), &[("m", COUNT)]);
    // Delivered records do not come back.
    gateway.stop();
    let gateway = Gateway::start(&site, &site.path("ringest.toml"));
    assert_eq!(gateway.terms().recovered, 0);
}

#[test]
fn sigterm_with_a_dead_receiver_waits_for_drain_and_keeps_the_rest() {
    keeps_the_rest(Signal::SIGTERM);
}

#[test]
fn ctrl_c_with_a_dead_receiver_waits_for_drain_and_keeps_the_rest() {
    keeps_the_rest(Signal::SIGINT);
}

#[test]
fn sigterm_ends_intake_and_delivers_what_is_there() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { delay: Duration::from_millis(2), ..Behaviour::default() });
    let tcp = free_address();
    let (gateway, mut machine) = filled(&site, tcp, "\"20s\"");
    assert!(gateway.terms().pending > 0, "it was over before the stop");
    let begun = Instant::now();
    let log = gateway.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}: it waited for more than the last record",
        begun.elapsed()
    );
    assert!(log.contains(&format!("received {COUNT} + recovered 0 = delivered {COUNT} + pending 0")), "{log}");
    eventually("the end of the connection", || machine.send([record("m", COUNT)]).err());
    let films = api.films();
    assert_eq!(assert_whole("m", &numbers(films.iter().map(|film| film.data.as_str()))["m"]), COUNT);
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_keeps_the_rest() {
    let site = Site::new();
    let (mut gateway, _machine) = filled(&site, free_address(), "\"600s\"");
    gateway.process.signal(Signal::SIGINT);
    eventually("the first to be obeyed", || gateway.process.log().contains("stopping (Ctrl-C)").then_some(()));
    gateway.process.signal(Signal::SIGINT);
    assert_eq!(gateway.process.wait().code(), Some(130), "{}", gateway.process.log());
    let _receiver = Receiver::start(&site);
    let gateway = Gateway::start(&site, &site.path("ringest.toml"));
    gateway.wait_delivered(COUNT as u64);
    assert_rows(&site.rows(), &[("m", COUNT)]);
}

#[test]
fn a_second_gateway_on_the_same_state_is_refused_with_code_5_and_told_who_runs() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    let gateway = Gateway::start(&site, &config);
    let (code, words) = refused(&site, &config);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains(&format!("process {}", gateway.process.pid())), "{words}");
    assert!(words.contains(&site.path("state").display().to_string()), "{words}");
    gateway.stop();
}

#[test]
fn an_address_in_use_is_refused_with_code_6() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    for config in [site.config().tcp_listen("servers", address), site.config().http("cameras", address)] {
        let (code, words) = refused(&site, &config.cores("[0]").write(&site));
        assert_eq!(code, Some(6), "{words}");
        assert!(words.contains(&address.to_string()), "{words}");
        assert!(words.contains(&format!("(PID {})", std::process::id())), "the holder is named: {words}");
    }
    let admin = TcpListener::bind(site.admin).expect("a port");
    let (code, words) = refused(&site, &site.config().tcp_listen("servers", free_address()).write(&site));
    assert_eq!(code, Some(6), "{words}");
    assert!(words.contains(&site.admin.to_string()), "{words}");
    drop(admin);
}

#[test]
fn a_broken_configuration_is_refused_with_code_3_and_every_problem() {
    let site = Site::new();
    let config =
        site.config().tcp_listen("servers", free_address()).deliver("drian", "\"5s\"").limit("header", "\"1MB\"");
    let path = config.write(&site);
    let (code, words) = refused(&site, &path);
    assert_eq!(code, Some(3), "{words}");
    for part in ["drian", "drain", "1MB", "header", "ringest.toml"] {
        assert!(words.contains(part), "no {part:?} in {words}");
    }
    assert!(!site.path("state").exists(), "nothing is touched");
    let (code, words) = refused(&site, &site.path("none.toml"));
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains("none.toml"), "{words}");
}

#[test]
fn a_kernel_that_forbids_io_uring_is_one_clear_line_and_code_4() {
    for (errno, word) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "io_uring")] {
        // The filter stays with the thread for as long as it lives.
        let refused = std::thread::spawn(move || {
            let site = Site::new();
            let config = site.config().tcp_listen("servers", free_address()).write(&site);
            forbid::io_uring_setup(errno);
            refused(&site, &config)
        });
        let (code, words) = refused.join().expect("no panic");
        assert_eq!(code, Some(4), "{words}");
        assert_eq!(words.trim_end().lines().count(), 1, "{words}");
        assert!(words.contains(word), "{words}");
    }
}

/// A signal while the gateway waits for something: it ends at once, with 0.
fn obeys_while_it_waits(mut gateway: Gateway, signal: Signal) {
    let begun = Instant::now();
    gateway.process.signal(signal);
    let status = gateway.process.wait();
    assert_eq!(status.code(), Some(0), "{}", gateway.process.log());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let log = gateway.process.log();
    let reason = if signal == Signal::SIGINT { "Ctrl-C" } else { "SIGTERM" };
    assert_eq!(log.lines().last(), Some(&*format!("ringest: stopped ({reason}) before it took records")), "{log}");
}

/// A file that nobody else can open for 45 s: a very slow disk. fcntl(2), F_SETLEASE.
#[allow(unsafe_code)] // F_SETLEASE has no safe wrapper
fn lease(path: &Path) -> File {
    let file = File::create(path).expect("a file");
    // SAFETY: a signal that is ignored runs no code.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    // SAFETY: the descriptor is open.
    let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    assert_eq!(leased, 0, "{}", io::Error::last_os_error());
    file
}

/// Waits until it has a file open whose path ends so.
fn wait_for_file(gateway: &Gateway, name: &str) {
    eventually(&format!("the file {name} to be open"), || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", gateway.process.pid())).ok()?;
        files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()).find(|path| path.ends_with(name))
    });
}

#[test]
fn signals_are_obeyed_while_another_gateways_lock_is_waited_for() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let config = site.config().tcp_listen("servers", free_address()).write(&site);
        let first = Gateway::start(&site, &config);
        let second = Gateway::spawn(&site, &config);
        wait_for_file(&second, "state/lock");
        obeys_while_it_waits(second, signal);
        first.stop();
    }
}

#[test]
fn signals_are_obeyed_while_a_busy_address_is_waited_for() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let config = site.config().tcp_listen("servers", taken.local_addr().expect("bound")).write(&site);
        let gateway = Gateway::spawn(&site, &config);
        // The lock comes before the address.
        eventually("the lock to be taken", || {
            let pid = std::fs::read_to_string(site.path("state/lock")).ok()?;
            (pid.trim() == gateway.process.pid().to_string()).then_some(())
        });
        obeys_while_it_waits(gateway, signal);
    }
}

#[test]
fn signals_are_obeyed_while_a_journal_is_read() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let _receiver = Receiver::start(&site);
        let tcp = free_address();
        let config = site.config().tcp_listen("servers", tcp).write(&site);
        Gateway::start(&site, &config).stop();
        let slow = site.path("state/core-0/epoch-000000ff");
        let lease = lease(&slow);
        let gateway = Gateway::spawn(&site, &config);
        eventually("the journal to be opened", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.process.pid())).ok()?;
            let mut names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            names.any(|name| name.trim() == "core-0").then_some(())
        });
        obeys_while_it_waits(gateway, signal);
        // Nothing was harmed.
        drop(lease);
        std::fs::remove_file(&slow).expect("a file");
        let gateway = Gateway::start(&site, &config);
        TcpMachine::connect(tcp).send([record("m", 0)]).expect("sent");
        gateway.wait_delivered(1);
        gateway.stop();
    }
}
