//! `ringest check --online`: what it says, the code that it ends with, and that it disturbs nothing.

use crate::api::{Api, Behaviour};
use crate::machines::{Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually, ringest};
use crate::site::{Site, free_address, record};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Exit code, standard output, standard error.
fn check(config: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let output = ringest().args(["check", "--online"]).args(options).arg(config).output().expect("the binary");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The lines of the table from `first` on, without what the machine and not the test decides.
fn table(out: &str, first: &str) -> String {
    let at = out.find(first).unwrap_or_else(|| panic!("no {first:?} in {out}"));
    out[at..].to_owned()
}

/// The line of one thing.
fn line<'a>(out: &'a str, what: &str) -> &'a str {
    let marks = ["ok ", "warning ", "problem "];
    let is_it = |line: &&str| {
        marks.iter().any(|mark| line.strip_prefix(mark).is_some_and(|rest| rest.trim_start().starts_with(what)))
    };
    out.lines().find(is_it).unwrap_or_else(|| panic!("no {what:?} in {out}"))
}

fn port_keys(path: &Path, on_missing: &str) -> String {
    format!("path = \"{}\"\nline = \"9600 8N1\"\non_missing = \"{on_missing}\"", path.display())
}

/// Counts the opens of a port from now on.
fn watch_opens(path: &Path) -> Inotify {
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    watch.add_watch(path, AddWatchFlags::IN_OPEN).expect("the port");
    watch
}

#[test]
fn each_thing_has_a_line_with_what_is_wrong_and_the_remedy_and_nothing_is_disturbed() {
    let site = Site::new();
    let (free, held, gone) = (site.path("free"), site.path("held"), site.path("gone"));
    let (_free_pty, _held_pty) = (Pty::create(&free), Pty::create(&held));
    let lock = File::options().read(true).write(true).open(&held).expect("the port");
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).expect("a lock");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_address = taken.local_addr().expect("bound");
    let open = free_address();
    let config = site
        .config()
        .source("free", "serial", &port_keys(&free, "wait"))
        .source("held", "serial", &port_keys(&held, "wait"))
        .source("gone", "serial", &port_keys(&gone, "wait"))
        .tcp_listen("open", open)
        .tcp_listen("taken", taken_address)
        .tcp_listen("elsewhere", "192.0.2.1:4001".parse().expect("an address"))
        .tcp_connect("called", "127.0.0.1:9".parse().expect("an address"))
        .write(&site);
    let watches = [watch_opens(&free), watch_opens(&held)];

    let (code, out, err) = check(&config, &[]);
    let own = File::open("/proc/self/comm").and_then(std::io::read_to_string).expect("a name");
    let own = format!("{} (PID {})", own.trim(), std::process::id());
    let (admin, api) = (site.admin, site.api);
    let [free, held, gone] = [&free, &held, &gone].map(|path| path.display());
    let expected = format!(
        "ok       admin server      {admin} is free
ok       source free       {free} may be opened; it was not, so line and machine are not tried
warning  source held       {held}: in use by {own}; it is waited for
                           -> end that process
warning  source gone       {gone}: no such port; it is waited for
                           -> plug it in, or take one of the names that `ringest ports` shows
ok       source open       {open} is free
problem  source taken      {taken_address} is already in use by {own}
                           -> end that process, or choose another address
problem  source elsewhere  192.0.2.1:4001 is no address of this machine
                           -> use one of `ip address`, or 0.0.0.0 for all of them
ok       source called     127.0.0.1:9 is 127.0.0.1:9; it was not called, since many device servers take one connection only
warning  both steps        cannot connect to {api}: Connection refused (os error 111); records wait, 1.0 GiB of them at most
                           -> start the service, correct the URL, or open the firewall

ringest run would not start: 2 problems; "
    );
    let shown = table(&out, "ok       admin server");
    assert!(shown.starts_with(&expected), "expected\n{expected}\nbut\n{shown}");
    assert_eq!(code, Some(6), "{out}{err}");
    assert_eq!(
        err,
        format!(
            "ringest: source taken: {taken_address} is already in use by {own}: end that process, or choose another address\n"
        )
    );
    for watch in watches {
        assert!(watch.read_events().is_err(), "a port was opened");
    }
    assert!(!site.path("state").exists(), "nothing is made");
    assert!(line(&out, "state directory").contains("is not there yet"), "{out}");
    assert!(line(&out, "lock").ends_with("free") && line(&out, "io_uring").starts_with("ok"), "{out}");

    let (code, out, _) = check(&config, &["--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["ok"], &report["online"]["exit_code"]), (Some(6), &false.into(), &6.into()));
    let checks = report["online"]["checks"].as_array().expect("a list");
    let taken = checks.iter().find(|check| check["what"] == "source taken").expect("its check");
    assert_eq!((&taken["level"], &taken["exit_code"]), (&"problem".into(), &6.into()));
    assert_eq!(taken["remedy"], "end that process, or choose another address");
    drop(lock);
}

#[test]
fn what_must_be_there_and_is_not_is_a_problem_with_the_code_of_a_start() {
    let site = Site::new();
    let gone = site.path("gone");
    let config = site.config().source("gone", "serial", &port_keys(&gone, "fail")).write(&site);
    let (code, out, _) = check(&config, &[]);
    assert_eq!(code, Some(8), "{out}");
    assert_eq!(line(&out, "source gone"), format!("problem  source gone      {}: no such port", gone.display()));
    let broken = site.config().tcp_listen("servers", free_address()).deliver("drian", "\"5s\"").write(&site);
    let (code, out, err) = check(&broken, &[]);
    assert_eq!((code, out.as_str()), (Some(3), ""), "a file that cannot be used is looked at no further");
    assert!(err.contains("drian"), "{err}");
}

#[test]
fn a_test_record_is_posted_on_request_and_what_came_back_is_told() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    let (code, out, err) = check(&config, &["--send-test"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let told = line(&out, "test record");
    assert!(told.starts_with("ok ") && told.contains("answered 201") && told.contains("counts as delivered"), "{told}");
    let rows = site.rows();
    assert_eq!((rows.len(), rows[0].machine.as_str()), (1, "ringest-test"));
    assert!(rows[0].data.starts_with("RINGEST TEST 20"), "{}", rows[0].data);
    drop(receiver);

    let (code, out, _) = check(&config, &["--send-test"]);
    assert_eq!(code, Some(10), "{out}");
    assert!(line(&out, "test record").contains("there is no answer: Connection refused"), "{out}");

    let api = Api::start(site.api, Behaviour::default());
    for (status, parts) in [
        ("200 OK", ["would be sent again for ever", "write success = [200, 201] in [deliver]"]),
        ("401 Unauthorized", ["all records would wait", "see to the credentials in [deliver.headers]"]),
        ("302 Found\r\nLocation: /login", ["to /login", "put the new address into url in [deliver]"]),
        ("422 Unprocessable Content", ["refuses this record", "change body in [deliver]"]),
        ("503 Service Unavailable", ["it would be sent again", "busy"]),
    ] {
        api.refuse(Some(status));
        let one_step = site.config().one_step().tcp_listen("servers", free_address()).write(&site);
        let (code, out, err) = check(&one_step, &["--send-test"]);
        assert_eq!(code, Some(10), "{status}: {out}");
        assert!(parts.iter().all(|part| out.contains(part)), "{status}: {out}");
        assert!(err.starts_with("ringest: test record: answered "), "{err}");
    }
    let (code, _, err) = check(&config, &["--json", "--send-test"]);
    assert!(code == Some(10) && err.contains("test record: answered 503"), "{err}");
}

#[test]
fn beside_a_running_gateway_what_it_uses_is_ok_and_goes_on() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let press = site.path("press");
    let mut pty = Pty::create(&press);
    let config = site.config().source("press", "serial", &port_keys(&press, "fail")).tcp_listen("servers", tcp);
    let config = config.http("cameras", http).write(&site);
    let gateway = Gateway::start(&site, &config);
    eventually("the port to be opened", || (gateway.status().open("press") == 1).then_some(()));
    let (code, out, err) = check(&config, &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let pid = gateway.process.pid();
    assert!(line(&out, "lock").ends_with(&format!("state is in use by ringest (PID {pid})")), "{out}");
    let running = |what: &str| assert!(line(&out, what).ends_with("is in use by the gateway that runs"), "{out}");
    ["admin server", "source press", "source servers", "source cameras"].into_iter().for_each(running);
    let api: SocketAddr = site.api;
    assert!(line(&out, "both steps").ends_with(&format!("{api} takes connections; nothing was asked")), "{out}");
    assert!(out.contains("ringest run would start; "), "{out}");
    pty.send([record("m", 0)]);
    TcpMachine::connect(tcp).send([record("n", 0)]).expect("sent");
    gateway.wait_delivered(2);
    gateway.stop();
    let (code, out, _) = check(&config, &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(line(&out, "lock").ends_with("free"), "{out}");
}
