//! SIGHUP: another configuration takes the place of the present one, and what it does not touch does not notice.

use crate::api::{Api, Behaviour};
use crate::machines::{HttpMachine, Pty, TcpMachine};
use crate::process::{Gateway, PATIENCE, Receiver, Status, eventually};
use crate::site::{Config, Row, Site, assert_rows, assert_whole, free_address, numbers, record};
use nix::sys::signal::Signal;
use ringest::engine::admin::Token;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

impl Gateway {
    /// Writes a configuration and has it read. What became of it, as `/api/status` shows it.
    fn reload(&self, site: &Site, config: Config) -> Value {
        config.write(site);
        self.hang_up()
    }

    /// SIGHUP; returns once it has had its effect.
    fn hang_up(&self) -> Value {
        let shown = |status: Status| status.0["config"].clone();
        let before = shown(self.status());
        self.process.signal(Signal::SIGHUP);
        eventually("the configuration to be read", || {
            let now = shown(self.status());
            (now["loaded_at"] != before["loaded_at"] || now["failed_at"] != before["failed_at"]).then_some(now)
        })
    }

    /// As [`Gateway::reload`], with success.
    #[track_caller]
    fn reloaded(&self, site: &Site, config: Config) {
        let became = self.reload(site, config);
        assert_eq!(became["last_reload_successful"], true, "{became}");
    }

    fn has_source(&self, name: &str) -> bool {
        self.status().0["sources"].as_array().expect("a list").iter().any(|source| source["name"] == name)
    }

    fn wait_open(&self, name: &str) {
        eventually(&format!("{name} to be open"), || {
            (self.has_source(name) && self.status().open(name) == 1).then_some(())
        });
    }
}

/// The inode of what a process has open at `path`, by descriptor: the same one before and after means that it was never closed.
fn descriptors(gateway: &Gateway, path: &Path) -> Vec<String> {
    let target = std::fs::canonicalize(path).expect("the port");
    let directory = format!("/proc/{}/fd", gateway.process.pid());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a process").flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|link| link == target) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// The peer has closed the connection in order.
#[track_caller]
fn assert_ended(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).expect("an orderly end"), 0);
}

fn data<'a>(rows: &'a [Row]) -> BTreeMap<String, Vec<usize>> {
    numbers(rows.iter().map(|row: &'a Row| row.data.as_str()))
}

#[test]
fn sources_come_and_go_while_untouched_ports_and_connections_go_on_without_a_gap() {
    const EACH: usize = 300;
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (tcp, http, later) = (free_address(), free_address(), free_address());
    let (stays, goes) = (site.path("stays"), site.path("goes"));
    let (mut stays_pty, mut goes_pty) = (Pty::create(&stays), Pty::create(&goes));
    let base = || site.config().serial("stays", &stays).tcp_listen("servers", tcp).http("cameras", http);
    let gateway = Gateway::start(&site, &base().serial("goes", &goes).write(&site));
    gateway.wait_open("stays");
    gateway.wait_open("goes");
    let held = descriptors(&gateway, &stays);
    assert!(!held.is_empty());
    let mut server = TcpMachine::connect(tcp);
    let mut camera = HttpMachine::connect(http);
    // Half a record on each: whoever closes something loses it.
    stays_pty.send_bytes(b"stays 00");
    std::io::Write::write_all(&mut server.0, b"server 00").expect("sent");
    camera.send("POST /v1/records/camera HTTP/1.1\r\nHost: gateway\r\nContent-Le").expect("sent");
    goes_pty.send((0..EACH).map(|number| record("goes", number)));
    gateway.wait_delivered(EACH as u64);

    let mut added = Pty::create(&site.path("added"));
    gateway.reloaded(&site, base().serial("added", &site.path("added")).tcp_listen("more", later));
    gateway.wait_open("added");
    eventually("the removed source to be gone", || (!gateway.has_source("goes")).then_some(()));
    assert_eq!(descriptors(&gateway, &goes), [""; 0], "its port is closed");
    assert_eq!(descriptors(&gateway, &stays), held, "it was never closed");
    let log = gateway.process.log();
    let said = "sources: 2 added (added, more), 1 removed (goes), 3 unchanged";
    assert!(log.contains(said), "{log}");
    assert!(!log.contains("open again"), "{log}");

    stays_pty.send_bytes(b"0000\r");
    std::io::Write::write_all(&mut server.0, b"0000\r").expect("the connection is there");
    camera.send("ngth: 13\r\n\r\ncamera 000000").expect("sent");
    assert_eq!(camera.answer().expect("an answer").status, 201);
    stays_pty.send((1..EACH).map(|number| record("stays", number)));
    server.send((1..EACH).map(|number| record("server", number))).expect("the connection is there");
    added.send((0..EACH).map(|number| record("added", number)));
    TcpMachine::connect(later).send((0..EACH).map(|number| record("more", number))).expect("sent");
    let terms = gateway.wait_delivered(5 * EACH as u64 + 1);
    assert_eq!(terms.rejected, 0);
    let counts = [("stays", EACH), ("server", EACH), ("added", EACH), ("more", EACH), ("goes", EACH), ("camera", 1)];
    assert_rows(&site.rows(), &counts);
    let status = gateway.status();
    assert_eq!((status.counter("lost_sources"), status.counter("opened_sources")), (0, 3));
    assert_eq!(status.counter("accepted_connections"), 3);
    gateway.stop();
}

#[test]
fn a_removed_source_is_ended_in_order_and_its_records_still_go_out() {
    const EACH: usize = 50;
    let site = Site::new();
    let (tcp, http, stays) = (free_address(), free_address(), free_address());
    let mut pty = Pty::create(&site.path("press"));
    let base = || site.config().tcp_listen("stays", stays);
    let all = base().serial("press", &site.path("press")).tcp_listen("servers", tcp);
    // Lanes of SOURCEs keep a source until they are empty.
    let all = all.http("cameras", http).of_source("lane", "\"connection\"");
    let gateway = Gateway::start(&site, &all.write(&site));
    gateway.wait_open("press");
    let (mut server, mut camera) = (TcpMachine::connect(tcp), HttpMachine::connect(http));
    // Nobody takes the records yet.
    pty.send((0..EACH).map(|number| record("pty", number)));
    server.send((0..EACH).map(|number| record("tcp", number))).expect("sent");
    for number in 0..EACH {
        assert_eq!(camera.post("camera", &record("http", number)).expect("an answer").status, 201);
    }
    gateway.wait_terms("intake", |terms| terms.received == 3 * EACH as u64);
    gateway.reloaded(&site, base());
    // What is on its way when it hears the end is still taken.
    assert_ended(&mut server.0);
    server.send([record("tcp", EACH)]).expect("it may still say what it has");
    drop(server);
    camera.assert_end();
    for gone in ["press", "servers", "cameras"] {
        eventually("the source to be gone", || (!gateway.has_source(gone)).then_some(()));
    }
    assert!(TcpStream::connect(tcp).is_err() && TcpStream::connect(http).is_err(), "nobody listens there");
    let terms = gateway.terms();
    assert_eq!((terms.pending, terms.delivered), (3 * EACH as u64 + 1, 0), "{terms:?}");
    let _receiver = Receiver::start(&site);
    gateway.wait_delivered(3 * EACH as u64 + 1);
    assert_rows(&site.rows(), &[("pty", EACH), ("tcp", EACH + 1), ("http", EACH)]);
    assert_eq!(gateway.status().0["lanes"], 0, "no lane is left behind");
    gateway.stop();
}

#[test]
fn a_source_that_comes_back_under_its_name_sends_its_old_records_first() {
    const EACH: usize = 100;
    for cores in ["[0]", "[0, 1]"] {
        let site = Site::new();
        let (tcp, stays) = (free_address(), free_address());
        let mut pty = Pty::create(&site.path("press"));
        let base = || site.config().cores(cores).tcp_listen("stays", stays).serial("other", &site.path("other"));
        let whole = || {
            let keys = format!("listen = \"{tcp}\"\nlane = \"address\"");
            base().serial("press", &site.path("press")).source("servers", "tcp_listen", &keys)
        };
        let gateway = Gateway::start(&site, &whole().write(&site));
        for round in 0..3 {
            gateway.wait_open("press");
            pty.send((round * EACH..(round + 1) * EACH).map(|number| record("pty", number)));
            let mut server = TcpMachine::connect(tcp);
            server.send((round * EACH..(round + 1) * EACH).map(|number| record("tcp", number))).expect("sent");
            let expected = 2 * (round as u64 + 1) * EACH as u64;
            gateway.wait_terms("intake", |terms| terms.received == expected);
            gateway.reloaded(&site, base());
            drop(server);
            eventually("the source to be gone", || {
                let gone = !gateway.has_source("press") && TcpStream::connect(tcp).is_err();
                gone.then_some(())
            });
            gateway.reloaded(&site, whole());
        }
        let _receiver = Receiver::start(&site);
        gateway.wait_delivered(6 * EACH as u64);
        assert_rows(&site.rows(), &[("pty", 3 * EACH), ("tcp", 3 * EACH)]);
        gateway.stop();
    }
}

#[test]
fn a_changed_source_begins_anew_with_its_records_in_order_and_its_listener_open() {
    let site = Site::new();
    let tcp = free_address();
    let mut pty = Pty::create(&site.path("press"));
    let config = |line: &str, quick_ack: bool| {
        let press = format!("path = \"{}\"\nline = \"{line}\"\nfirst = \"keep\"", site.path("press").display());
        let servers = format!("listen = \"{tcp}\"\nlane = \"connection\"\nquick_ack = {quick_ack}");
        site.config().source("press", "serial", &press).source("servers", "tcp_listen", &servers)
    };
    let gateway = Gateway::start(&site, &config("9600 8N1", true).write(&site));
    gateway.wait_open("press");
    // The old records wait in their lanes: no order but theirs may come of it.
    pty.send((0..100).map(|number| record("pty", number)));
    let mut first = TcpMachine::connect(tcp);
    first.send((0..100).map(|number| record("tcp", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == 200);
    // One connects again and again: it never finds the door closed.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let knocking = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut knocks = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(TcpStream::connect(tcp).unwrap_or_else(|error| panic!("knock {knocks}: {error}")));
                knocks += 1;
            }
            knocks
        })
    };
    gateway.reloaded(&site, config("19200 8N1", false));
    assert!(gateway.process.log().contains("2 opened anew (press, servers), 0 unchanged"), "{}", gateway.process.log());
    assert_ended(&mut first.0);
    drop(first);
    eventually("the port to be open again", || {
        let status = gateway.status();
        (status.counter("opened_sources") == 2 && status.source("press")["open"] == 1).then_some(())
    });
    let mut second = TcpMachine::connect(tcp);
    second.send((100..200).map(|number| record("tcp", number))).expect("sent");
    pty.send((100..200).map(|number| record("pty", number)));
    gateway.wait_terms("intake", |terms| terms.received == 400);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(knocking.join().expect("it was always open") > 0);
    let receiver = Receiver::start(&site);
    gateway.wait_delivered(400);
    let rows = site.rows();
    assert_eq!(assert_whole("pty", &data(&rows)["pty"]), 200);
    let mut tcp_numbers = data(&rows)["tcp"].clone();
    tcp_numbers.sort_unstable();
    assert_eq!(assert_whole("tcp", &tcp_numbers), 200);
    let status = gateway.status();
    assert_eq!(status.source("press")["received"], 200, "its counts go on");
    assert_eq!(status.source("servers")["received"], 200);
    gateway.stop();
    receiver.stop();
}

#[test]
fn a_new_framing_cuts_what_comes_from_then_on() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = |framing: &str| {
        let text = format!("listen = \"{tcp}\"\nframing = \"f\"\n[framing.f]\n{framing}");
        site.config().source("servers", "tcp_listen", &text)
    };
    let gateway = Gateway::start(&site, &config("end = \"\\r\"").write(&site));
    let mut old = TcpMachine::connect(tcp);
    old.send([record("m", 0)]).expect("sent");
    gateway.wait_delivered(1);
    gateway.reloaded(&site, config("end = \";\""));
    assert_ended(&mut old.0);
    let mut new = TcpMachine::connect(tcp);
    std::io::Write::write_all(&mut new.0, b"m 000001;m 000002;").expect("sent");
    gateway.wait_delivered(3);
    assert_rows(&site.rows(), &[("m", 3)]);
    gateway.stop();
}

#[test]
fn the_url_moves_to_another_receiver_in_the_middle_of_a_load_and_every_record_arrives_once() {
    const COUNT: usize = 4_000;
    for one_step in [false, true] {
        let site = Site::new();
        let (api, moved, tcp) = (free_address(), free_address(), free_address());
        let behaviour = Behaviour { delay: Duration::from_millis(2), ..Behaviour::default() };
        let (first, second) = (Api::start(api, behaviour), Api::start(moved, behaviour));
        let config = |to: std::net::SocketAddr| {
            let config = site.config().tcp_listen("servers", tcp).deliver("url", &format!("\"http://{to}/films/\""));
            if one_step { config.one_step() } else { config.sequence_at(api) }
        };
        let gateway = Gateway::start(&site, &config(api).write(&site));
        let mut machines: Vec<TcpMachine> = (0..10).map(|_| TcpMachine::connect(tcp)).collect();
        for (index, machine) in machines.iter_mut().enumerate() {
            let name = format!("m{index}");
            machine.send((0..COUNT / 10).map(|number| record(&name, number))).expect("sent");
        }
        gateway.wait_terms("deliveries", |terms| terms.delivered > COUNT as u64 / 10);
        gateway.reloaded(&site, config(moved));
        gateway.wait_terms("more deliveries", |terms| terms.delivered > COUNT as u64 / 3);
        let left = first.films().len();
        gateway.wait_delivered(COUNT as u64);
        let (before, after) = (first.films(), second.films());
        assert!(before.len() < COUNT / 2 && before.len() <= left + 8 && after.len() > COUNT / 2, "{}", before.len());
        let found = numbers(before.iter().chain(&after).map(|film| film.data.as_str()));
        assert_eq!(found.len(), 10);
        for (machine, numbers) in found {
            assert_eq!(assert_whole(&machine, &numbers), COUNT / 10);
        }
        let status = gateway.status();
        assert_eq!(status.counter("api_failures"), 0, "what was in flight was waited for");
        let routes = eventually("the old authority to be gone", || {
            let routes = gateway.status().0["routes"].as_array().expect("a list").clone();
            (routes.len() == if one_step { 1 } else { 2 }).then_some(routes)
        });
        assert_eq!(routes.iter().any(|route| route["authority"] == api.to_string()), !one_step, "{routes:?}");
        gateway.stop();
    }
}

#[test]
fn records_that_were_tried_go_out_under_the_same_key_and_id_by_a_new_template_and_their_number_is_said() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    api.refuse(Some("503 Service Unavailable"));
    let tcp = free_address();
    let config = |body: &str| {
        let config = site.config().tcp_listen("servers", tcp).deliver("retry", "{ first = \"20ms\", max = \"50ms\" }");
        config.deliver("body", body)
    };
    let gateway = Gateway::start(&site, &config("'{\"id\": {{id}}, \"data\": {{data|json}}}'").write(&site));
    let mut machines: Vec<TcpMachine> = (0..3).map(|_| TcpMachine::connect(tcp)).collect();
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.send([record(&format!("m{index}"), 0), record(&format!("m{index}"), 1)]).expect("sent");
    }
    eventually("each to be tried", || {
        let refused = api.refused();
        let tried = (0..3).all(|index| refused.iter().any(|film| film.data == record(&format!("m{index}"), 0)));
        tried.then_some(())
    });
    let before = api.refused();
    gateway.reloaded(&site, config("'{\"number\": {{id}}, \"data\": {{data|json}}, \"v\": 2}'"));
    let log = gateway.process.log();
    assert!(log.contains("3 records were tried before"), "{log}");
    api.refuse(None);
    gateway.wait_delivered(6);
    let films = api.films();
    assert_eq!(films.len(), 6);
    for index in 0..3 {
        let data = record(&format!("m{index}"), 0);
        let (old, new) = (
            before.iter().find(|film| film.data == data).expect("tried"),
            films.iter().find(|film| film.data == data).expect("delivered"),
        );
        assert_eq!(old.key, new.key);
        let id =
            |body: &str, name: &str| serde_json::from_str::<Value>(body).expect("JSON")[name].as_u64().expect("an id");
        assert_eq!(id(&old.body, "id"), id(&new.body, "number"));
        assert_eq!(id(&new.body, "v"), 2);
    }
    gateway.stop();
}

#[test]
fn a_route_that_was_refused_for_its_credentials_goes_on_at_once_with_new_ones() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour::default());
    api.refuse(Some("401 Unauthorized"));
    let tcp = free_address();
    let secret = site.path("token");
    std::fs::write(&secret, "Token old\n").expect("a file");
    let config = || {
        let headers = format!("{{ Authorization = {{ file = \"{}\" }} }}", secret.display());
        let config = site.config().tcp_listen("servers", tcp).deliver("headers", &headers);
        config.deliver("retry", "{ first = \"10m\", max = \"10m\" }")
    };
    let gateway = Gateway::start(&site, &config().write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..10).map(|number| record("m", number))).expect("sent");
    eventually("the refusal to be said", || gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned));
    api.refuse(None);
    std::fs::write(&secret, "Token new\n").expect("a file");
    gateway.reloaded(&site, config());
    gateway.wait_delivered(10);
    let log = gateway.process.log();
    assert!(log.contains("deliver.headers.Authorization") && !log.contains("Token"), "{log}");
    gateway.stop();
}

#[test]
fn steps_are_added_and_taken_away_with_records_under_way() {
    let site = Site::new();
    let behaviour = Behaviour { delay: Duration::from_millis(3), ..Behaviour::default() };
    let api = Api::start(site.api, behaviour);
    let tcp = free_address();
    let config = |with_ids: bool| {
        let config = site.config().tcp_listen("servers", tcp).deliver("connections", "2");
        if with_ids { config } else { config.one_step() }
    };
    let gateway = Gateway::start(&site, &config(true).write(&site));
    let mut machines: Vec<TcpMachine> = (0..6).map(|_| TcpMachine::connect(tcp)).collect();
    const EACH: usize = 150;
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.send((0..EACH).map(|number| record(&format!("m{index}"), number))).expect("sent");
    }
    for round in 1..=6 {
        gateway.wait_terms("deliveries", |terms| terms.delivered > round * 60);
        gateway.reloaded(&site, config(round % 2 == 0));
    }
    gateway.wait_delivered(6 * EACH as u64);
    let films = api.films();
    let with_id = films.iter().filter(|film| film.body.contains("\"id\"")).count();
    assert!(with_id > 0 && with_id < films.len(), "{with_id} of {}", films.len());
    for (machine, numbers) in numbers(films.iter().map(|film| film.data.as_str())) {
        assert_eq!(assert_whole(&machine, &numbers), EACH);
    }
    gateway.stop();
}

#[test]
fn a_broken_file_changes_nothing_and_says_why_until_it_is_mended() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = || site.config().tcp_listen("servers", tcp);
    let path = config().write(&site);
    let gateway = Gateway::start(&site, &path);
    assert_eq!(metric(&site, "ringest_config_last_reload_successful"), 1.0);
    let begun_s = metric(&site, "ringest_config_last_reload_success_timestamp_seconds");
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m", 0)]).expect("sent");
    let became = gateway.reload(&site, config().deliver("conections", "4").source("b", "tcp", "listen = \"x\""));
    assert_eq!(became["last_reload_successful"], false);
    for words in [became["error"].as_str().expect("why"), &gateway.process.log()] {
        for part in
            ["deliver.conections", "did you mean \"connections\"", "there is no such kind of source", "2 problems"]
        {
            assert!(words.contains(part), "{part}: {words}");
        }
    }
    let health = gateway.get("/healthz");
    assert_eq!((&health["status"], &health["reasons"][0]["area"]), (&"degraded".into(), &"config".into()));
    assert!(
        health["reasons"][0]["text"].as_str().is_some_and(|text| text.starts_with("last reload failed at ")),
        "{health}"
    );
    assert_eq!(metric(&site, "ringest_config_last_reload_successful"), 0.0);
    assert_eq!(metric(&site, "ringest_config_last_reload_success_timestamp_seconds"), begun_s);
    machine.send([record("m", 1)]).expect("it goes on");
    gateway.wait_delivered(2);
    std::fs::remove_file(&path).expect("a file");
    let became = gateway.hang_up();
    assert!(became["error"].as_str().is_some_and(|why| why.contains("cannot be read")), "{became}");
    gateway.reloaded(&site, config());
    assert_eq!(gateway.get("/healthz")["status"], "ok");
    assert_eq!(metric(&site, "ringest_config_last_reload_successful"), 1.0);
    assert!(metric(&site, "ringest_config_last_reload_success_timestamp_seconds") > begun_s);
    assert_rows(&site.rows(), &[("m", 2)]);
    gateway.stop();
}

/// A metric without labels.
fn metric(site: &Site, name: &str) -> f64 {
    let patience = Duration::from_secs(10);
    let answer = ringest::engine::admin::client::get(&site.admin.to_string(), "/metrics", patience).expect("an answer");
    let text = String::from_utf8(answer.body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

#[test]
fn what_needs_a_restart_is_refused_by_name_and_with_it_all_else() {
    let site = Site::new();
    let (tcp, more) = (free_address(), free_address());
    let config = || site.config().tcp_listen("servers", tcp);
    let gateway = Gateway::start(&site, &config().write(&site));
    let other =
        config().journal("window", "\"8MiB\"").cores("[0, 1]").limit("read_buffers", "64").tcp_listen("more", more);
    let became = gateway.reload(&site, other);
    let why = became["error"].as_str().expect("why");
    for part in
        ["journal.window: 32MiB → 8MiB", "gateway.cores: [0] → [0, 1]", "limits.read_buffers: 1024 → 64", "restart"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(!gateway.has_source("more") && TcpStream::connect(more).is_err(), "the rest waits, too");
    gateway.stop();
}

#[test]
fn what_cannot_be_taken_is_refused_before_anything_is_changed() {
    let site = Site::new();
    let (tcp, other) = (free_address(), free_address());
    let config = || site.config().tcp_listen("servers", tcp);
    let gateway = Gateway::start(&site, &config().write(&site));
    let holder = std::net::TcpListener::bind(other).expect("a free address");
    let keys = format!("path = \"{}\"\nline = \"9600 8N1\"\non_missing = \"fail\"", site.path("gone").display());
    for (added, part) in [
        (site.config().tcp_listen("late", other), "already in use"),
        (site.config().source("late", "serial", &keys), "no such port"),
    ] {
        let became = gateway.reload(&site, added);
        let why = became["error"].as_str().expect("why");
        assert!(why.contains(part) && why.contains("late"), "{why}");
        assert!(gateway.has_source("servers") && !gateway.has_source("late"));
        TcpMachine::connect(tcp);
    }
    drop(holder);
    // Wider than what there is: the same port, which this process has itself.
    let wide = format!("0.0.0.0:{}", tcp.port()).parse().expect("an address");
    gateway.reloaded(&site, site.config().tcp_listen("wide", wide));
    let _receiver = Receiver::start(&site);
    TcpMachine::connect(tcp).send([record("m", 0)]).expect("sent");
    gateway.wait_delivered(1);
    gateway.stop();
}

#[test]
fn a_storm_of_hang_ups_under_load_loses_and_doubles_nothing() {
    const COUNT: usize = 3_000;
    let site = Site::new();
    let behaviour = Behaviour { delay: Duration::from_millis(1), ..Behaviour::default() };
    let api = Api::start(site.api, behaviour);
    let tcp = free_address();
    let mut pty = Pty::create(&site.path("press"));
    let config = |number: usize| {
        let config = site.config().serial("press", &site.path("press")).tcp_listen("servers", tcp);
        let body = format!("'{{\"id\": {{{{id}}}}, \"v\": {number}, \"data\": {{{{data|json}}}}}}'");
        let config = config.deliver("body", &body).deliver("pipeline", &(1 + number % 3).to_string());
        if number.is_multiple_of(2) { config } else { config.serial("odd", &site.path("odd")) }
    };
    let gateway = Gateway::start(&site, &config(0).write(&site));
    gateway.wait_open("press");
    let held = descriptors(&gateway, &site.path("press"));
    let mut machines: Vec<TcpMachine> = (0..5).map(|_| TcpMachine::connect(tcp)).collect();
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.send((0..COUNT / 10).map(|number| record(&format!("m{index}"), number))).expect("sent");
    }
    let line = std::thread::spawn(move || {
        pty.send((0..COUNT / 2).map(|number| record("pty", number)));
        pty
    });
    let mut delivered = 0;
    for number in 1..=20 {
        // A moment passes between two of them, measured in records.
        delivered = gateway.wait_terms("deliveries", |terms| terms.delivered >= delivered + 20).delivered;
        config(number).write(&site);
        gateway.process.signal(Signal::SIGHUP);
        gateway.process.signal(Signal::SIGHUP);
    }
    let _pty = line.join().expect("the line takes it");
    gateway.wait_delivered(COUNT as u64);
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(assert_whole("pty", &found["pty"]), COUNT / 2);
    for index in 0..5 {
        let machine = format!("m{index}");
        assert_eq!(assert_whole(&machine, &found[&machine]), COUNT / 10);
    }
    assert_eq!(descriptors(&gateway, &site.path("press")), held, "it was never closed");
    let status = gateway.status();
    assert_eq!((status.counter("accepted_connections"), status.counter("lost_sources")), (5, 0));
    assert_eq!(status.0["config"]["last_reload_successful"], true, "{}", gateway.process.log());
    gateway.stop();
}

#[test]
fn a_hang_up_while_the_gateway_stops_is_answered_in_the_log_alone() {
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { delay: Duration::from_millis(300), ..Behaviour::default() });
    let (tcp, more) = (free_address(), free_address());
    let config = || site.config().one_step().tcp_listen("servers", tcp).deliver("drain", "\"20s\"");
    let mut gateway = Gateway::start(&site, &config().write(&site));
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..5).map(|number| record("m", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == 5);
    config().tcp_listen("more", more).write(&site);
    gateway.process.signal(Signal::SIGTERM);
    eventually("the stop", || gateway.process.log().contains("stopping (SIGTERM)").then_some(()));
    for _ in 0..20 {
        gateway.process.signal(Signal::SIGHUP);
    }
    eventually("the answer", || gateway.process.log().contains("SIGHUP: the gateway is stopping").then_some(()));
    assert_eq!(gateway.process.wait().code(), Some(0));
    let films = api.films();
    assert_eq!(assert_whole("m", &numbers(films.iter().map(|film| film.data.as_str()))["m"]), 5);
    assert!(!gateway.process.log().contains("more"), "{}", gateway.process.log());
}

#[test]
fn who_cannot_send_a_signal_asks_the_admin_server() {
    let site = Site::new();
    let (tcp, more) = (free_address(), free_address());
    let config = || site.config().tcp_listen("servers", tcp);
    let gateway = Gateway::start(&site, &config().write(&site));
    let ask = |body: &str| {
        let admin = site.admin.to_string();
        let token = Token::read(&site.path("state")).expect("the gateway's token");
        let answer =
            ringest::engine::admin::client::post(&admin, "/api/reload", &token, body, PATIENCE).expect("an answer");
        (answer.status, String::from_utf8(answer.body).expect("text"))
    };
    config().tcp_listen("more", more).write(&site);
    let (status, body) = ask("{}");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("1 added (more)"), "{body}");
    // It is in force once it is answered.
    TcpMachine::connect(more);
    config().journal("window", "\"8MiB\"").write(&site);
    let (status, body) = ask("{}");
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("journal.window"), "{body}");
    assert_ne!(ask("[]").0, 200);
    gateway.stop();
}

#[test]
fn leases_and_batches_come_and_go_while_machines_send() {
    const MACHINES: usize = 12;
    const EACH: usize = 40;
    let site = Site::new();
    let api = Api::start(site.api, Behaviour { delay: Duration::from_millis(1), ..Behaviour::default() });
    let tcp = free_address();
    let lease = "lease = 30";
    let batch = "{ records = 16 }";
    let config = |lease: Option<&str>, batch: Option<&str>| {
        let config = site.config().tcp_listen("servers", tcp).deliver("drain", "\"10s\"");
        let config = lease.into_iter().fold(config, |config, _| config.sequence("lease", "30"));
        batch.into_iter().fold(config, |config, batch| config.deliver("batch", batch))
    };
    let gateway = Gateway::start(&site, &config(None, None).write(&site));
    let mut machines: Vec<TcpMachine> = (0..MACHINES).map(|_| TcpMachine::connect(tcp)).collect();
    let phases = [
        (Some(lease), None),
        (Some(lease), Some(batch)),
        (None, Some(batch)),
        (Some(lease), Some(batch)),
        (Some(lease), None),
        (None, None),
    ];
    for (phase, (lease, batch)) in phases.into_iter().enumerate() {
        for (index, machine) in machines.iter_mut().enumerate() {
            let numbers = phase * EACH..(phase + 1) * EACH;
            machine.send(numbers.map(|number| record(&format!("m{index}"), number))).expect("its connection stays");
        }
        // In the middle of it.
        let some = (phase * EACH * MACHINES + MACHINES) as u64;
        gateway.wait_terms("some deliveries", |terms| terms.delivered >= some);
        gateway.reloaded(&site, config(lease, batch));
    }
    gateway.wait_delivered((phases.len() * EACH * MACHINES) as u64);
    assert!(api.batches().iter().any(|records| *records > 1), "there were batches");
    assert_eq!(gateway.status().0["sources"][0]["open"], MACHINES, "no connection was closed");
    gateway.stop();
    let films = api.films();
    let found = numbers(films.iter().map(|film| film.data.as_str()));
    assert_eq!(found.len(), MACHINES);
    assert!(found.iter().all(|(machine, numbers)| assert_whole(machine, numbers) == phases.len() * EACH));
    let id = |body: &str| serde_json::from_str::<Value>(body).expect("JSON")["id"].as_u64().expect("an id");
    let ids: std::collections::BTreeSet<u64> = films.iter().map(|film| id(&film.body)).collect();
    assert_eq!(
        (ids.len(), films.len()),
        (phases.len() * EACH * MACHINES, ids.len()),
        "each record once, with an id of its own"
    );
}
