//! `https` towards the API, with the real binary and a service of the test's own that speaks TLS.

#[path = "../tls/pki.rs"]
pub mod pki;
#[path = "../tls/service.rs"]
mod service;

use crate::machines::TcpMachine;
use crate::process::{Gateway, PATIENCE, eventually, ringest};
use crate::site::{Config, Site, assert_whole, free_address, numbers, record};
use pki::{Authority, BOTH, Issued, ONLY_1_2, ONLY_1_3};
use ringest::engine::admin::client;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use service::{Answers, answer_by, take_request};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the service does and has seen.
struct Seen {
    config: Arc<ServerConfig>,
    answers: Answers,
    /// One byte of TLS at a time.
    drips: bool,
    connections: usize,
    whole_handshakes: usize,
    /// Bytes of requests.
    heard_bytes: usize,
    ids: u64,
    /// Records by their ids, in the order of their first arrival.
    films: Vec<(u64, String)>,
    /// Most requests that came in one piece.
    pipelined_max: usize,
}

/// A service on a thread for each connection; it ends with the process.
#[derive(Clone)]
struct Service(Arc<Mutex<Seen>>);

impl Service {
    fn start(address: SocketAddr, config: ServerConfig) -> Self {
        let service = Self(Arc::new(Mutex::new(Seen {
            config: Arc::new(config),
            answers: Answers::Kept,
            drips: false,
            connections: 0,
            whole_handshakes: 0,
            heard_bytes: 0,
            ids: 0,
            films: Vec::new(),
            pipelined_max: 0,
        })));
        let listener = TcpListener::bind(address).expect("a free address");
        let of_thread = service.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let service = of_thread.clone();
                std::thread::spawn(move || service.serve(stream));
            }
        });
        service
    }

    fn set(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().expect("no thread has panicked"));
    }

    fn get<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.0.lock().expect("no thread has panicked"))
    }

    /// One connection; what goes wrong on it ends it.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let config = self.get(|seen| Arc::clone(&seen.config));
        self.set(|seen| seen.connections += 1);
        stream.set_nodelay(true).ok()?;
        let mut tls = ServerConnection::new(config).ok()?;
        let (mut bytes, mut heard, mut counted) = ([0; 16 * 1024], Vec::new(), false);
        loop {
            let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
            let mut rest = &bytes[..count];
            let mut good = true;
            while !rest.is_empty() && good {
                tls.read_tls(&mut rest).ok()?;
                good = tls.process_new_packets().is_ok();
                let mut more = [0; 4096];
                while let Ok(count @ 1..) = tls.reader().read(&mut more) {
                    heard.extend_from_slice(&more[..count]);
                    self.set(|seen| seen.heard_bytes += count);
                }
            }
            if !counted && !tls.is_handshaking() {
                counted = true;
                let whole = tls.handshake_kind() != Some(HandshakeKind::Resumed);
                self.set(|seen| seen.whole_handshakes += usize::from(whole));
            }
            let (mut fin, mut requests) = (!good, 0);
            while let Some((target, body)) = take_request(&mut heard).filter(|_| !fin) {
                requests += 1;
                fin = self.answer(&mut tls, &target, body);
            }
            let drips = self.get(|seen| seen.drips);
            self.set(|seen| seen.pipelined_max = seen.pipelined_max.max(requests));
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).ok()?;
            }
            for piece in out.chunks(if drips { 1 } else { 1 << 20 }) {
                stream.write_all(piece).ok()?;
            }
            if fin {
                return None;
            }
        }
    }

    /// Answers one request; whether the connection ends then.
    fn answer(&self, tls: &mut ServerConnection, target: &str, body: String) -> bool {
        let mut seen = self.0.lock().expect("no thread has panicked");
        let answer = if target == "/seq/" {
            seen.ids += 1;
            format!("{{\"id\": {}}}", seen.ids)
        } else {
            let film: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let (id, data) = (film["id"].as_u64().expect("an id"), film["data"].as_str().expect("text"));
            if !seen.films.iter().any(|film| film.0 == id) {
                seen.films.push((id, data.to_owned()));
            }
            body
        };
        answer_by(seen.answers, tls, &answer)
    }

    /// All of the records arrived once, in the order of their machines.
    fn assert_films(&self, machines: usize, count: usize) {
        let films = self.get(|seen| seen.films.clone());
        let by_machine = numbers(films.iter().map(|film| film.1.as_str()));
        assert_eq!(by_machine.len(), machines);
        for (machine, numbers) in by_machine {
            assert_eq!(assert_whole(&machine, &numbers), count, "{machine}");
        }
    }
}

/// Writes the CA's certificate; the configuration trusts it.
fn secured(site: &Site, authority: &Authority) -> Config {
    let ca = site.path("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("a file");
    site.config().secure(&format!("ca = \"{}\"", ca.display()))
}

/// Machines that send `count` records each, over a service that behaves as `set` says; all must arrive.
fn delivers(
    machines: usize,
    count: usize,
    config: ServerConfig,
    authority: &Authority,
    keys: &[(&'static str, &str)],
    set: impl FnOnce(&mut Seen),
) -> (Service, Gateway, Site) {
    let site = Site::new();
    let service = Service::start(site.api, config);
    service.set(set);
    let tcp = free_address();
    let configuration = keys.iter().fold(secured(&site, authority), |config, (key, value)| config.deliver(key, value));
    let gateway = Gateway::start(&site, &configuration.tcp_listen("servers", tcp).write(&site));
    let mut senders: Vec<TcpMachine> = (0..machines).map(|_| TcpMachine::connect(tcp)).collect();
    for (machine, sender) in senders.iter_mut().enumerate() {
        sender.send((0..count).map(|number| record(&format!("m{machine}"), number))).expect("sent");
    }
    gateway.wait_delivered((machines * count) as u64);
    service.assert_films(machines, count);
    (service, gateway, site)
}

const ADDRESS: &[&str] = &["127.0.0.1", "localhost"];

#[test]
fn both_steps_go_over_tls_1_2_and_1_3_and_later_connections_resume_the_first_session() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = authority.issue(ADDRESS).server(versions, None);
        let (service, gateway, _site) = delivers(20, 25, config, &authority, &[], |_| {});
        let (connections, whole) = service.get(|seen| (seen.connections, seen.whole_handshakes));
        assert!((2..=8).contains(&connections), "{connections} connections");
        assert_eq!(whole, 1, "{connections} connections");
        let status = gateway.status();
        assert_eq!(status.counter("api_tls_handshakes"), connections as u64);
        assert_eq!(status.counter("api_tls_resumed"), connections as u64 - 1);
        assert_eq!(status.counter("api_failures"), 0);
        gateway.stop();
    }
}

#[test]
fn pipelined_requests_new_keys_and_dripping_bytes_lose_and_double_nothing() {
    let authority = Authority::new("Plant");
    let config = || authority.issue(ADDRESS).server(ONLY_1_3, None);
    let keys: &[(&str, &str)] = &[("pipeline", "8"), ("connections", "2")];
    let (service, gateway, _site) =
        delivers(40, 25, config(), &authority, keys, |seen| seen.answers = Answers::NewKeys);
    assert!(service.get(|seen| seen.pipelined_max) > 2, "requests are pipelined");
    assert_eq!(gateway.status().counter("api_failures"), 0);
    gateway.stop();
    let (_service, gateway, _site) = delivers(8, 5, config(), &authority, keys, |seen| seen.drips = true);
    assert_eq!(gateway.status().counter("api_failures"), 0);
    gateway.stop();
}

#[test]
fn a_service_that_closes_cleanly_after_each_answer_gets_all() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let config = authority.issue(ADDRESS).server(versions, None);
        let set = |seen: &mut Seen| seen.answers = Answers::Closing;
        let (_service, gateway, _site) = delivers(8, 10, config, &authority, &[], set);
        assert_eq!(gateway.status().0["routes"][0]["problem"], serde_json::Value::Null);
        gateway.stop();
    }
}

#[test]
fn a_client_certificate_is_shown_where_the_service_asks_for_one() {
    let (authority, clients) = (Authority::new("Plant"), Authority::new("Gateways"));
    for versions in [ONLY_1_2, ONLY_1_3] {
        let site = Site::new();
        let service = Service::start(site.api, authority.issue(ADDRESS).server(versions, Some(&clients)));
        let tcp = free_address();
        // Without one nothing gets through, and the remedy is said.
        let config = secured(&site, &authority).deliver("drain", "\"0s\"").tcp_listen("servers", tcp).write(&site);
        let gateway = Gateway::start(&site, &config);
        TcpMachine::connect(tcp).send([record("m", 0)]).expect("sent");
        let problem = problem(&gateway);
        assert!(problem.contains("[deliver.tls] cert"), "{problem}");
        assert_eq!(service.get(|seen| seen.heard_bytes), 0);
        gateway.stop();
        // With one it does, and what waited goes first.
        let ours = clients.issue(&["gateway-3"]);
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| site.path(name));
        std::fs::write(&cert, &ours.pem).expect("a file");
        std::fs::write(&key, &ours.key_pem).expect("a file");
        let tls = format!("ca = {ca:?}, cert = {cert:?}, key = {key:?}");
        let config = site.config().secure(&tls).tcp_listen("servers", tcp).write(&site);
        let gateway = Gateway::start(&site, &config);
        gateway.wait_delivered(1);
        service.assert_films(1, 1);
        gateway.stop();
    }
}

/// The alarm, once there is one.
fn problem(gateway: &Gateway) -> String {
    eventually("the alarm", || gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned))
}

/// A service with a bad certificate gets not one byte of a request; with a good one it gets what has waited.
fn c17(bad: impl Fn(&Authority) -> Issued, said: &str, remedy: &str) {
    let (site, authority) = (Site::new(), Authority::new("Plant"));
    let service = Service::start(site.api, bad(&authority).server(BOTH, None));
    let tcp = free_address();
    let config = secured(&site, &authority).tcp_listen("servers", tcp).write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machines: Vec<TcpMachine> = (0..20).map(|_| TcpMachine::connect(tcp)).collect();
    for (number, machine) in machines.iter_mut().enumerate() {
        machine.send([record(&format!("m{number}"), 0)]).expect("sent");
    }
    let problem = problem(&gateway);
    assert!(problem.contains(said) && problem.contains(remedy), "{problem}");
    let health = client::get(&site.admin.to_string(), "/healthz", PATIENCE).expect("the gateway answers");
    let health = String::from_utf8(health.body).expect("text");
    assert!(health.contains(said) && health.contains(remedy), "{health}");
    eventually("several tries", || (service.get(|seen| seen.connections) > 5).then_some(()));
    assert_eq!(service.get(|seen| seen.heard_bytes), 0, "not one byte of a request");
    let terms = gateway.terms();
    assert_eq!((terms.pending, terms.delivered), (20, 0), "records wait");
    service.set(|seen| seen.config = Arc::new(authority.issue(ADDRESS).server(BOTH, None)));
    gateway.wait_delivered(20);
    service.assert_films(20, 1);
    eventually("the end of the alarm", || gateway.status().0["routes"][0]["problem"].is_null().then_some(()));
    let log = gateway.stop();
    assert!(log.contains(said) && log.contains("delivering again"), "{log}");
}

#[test]
fn c17_expired_certificate_gets_no_request_and_records_wait() {
    c17(|authority| authority.issue_until(ADDRESS, 2020), "its certificate expired on 2020-01-01", "renew");
}

#[test]
fn c17_wrong_host_gets_no_request_and_records_wait() {
    c17(|authority| authority.issue(&["api.example"]), "not for this host, but for api.example", "subjectAltName");
}

#[test]
fn c17_unknown_ca_gets_no_request_and_records_wait() {
    c17(|_| Authority::new("Other").issue(ADDRESS), "signed by an unknown CA", "[deliver.tls] ca");
}

#[test]
fn c17_self_signed_certificate_gets_no_request_and_records_wait() {
    c17(|_| Issued::self_signed(ADDRESS, false), "or by itself", "[deliver.tls] ca");
    c17(|_| Issued::self_signed(ADDRESS, true), "that of a CA", "CA:FALSE");
}

#[test]
fn c18_an_answer_that_is_cut_without_close_notify_is_asked_for_again() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let site = Site::new();
        let service = Service::start(site.api, authority.issue(ADDRESS).server(versions, None));
        service.set(|seen| seen.answers = Answers::UntilCut);
        let tcp = free_address();
        let config = secured(&site, &authority).tcp_listen("servers", tcp).write(&site);
        let gateway = Gateway::start(&site, &config);
        TcpMachine::connect(tcp).send([record("m", 0)]).expect("sent");
        let problem = problem(&gateway);
        assert!(problem.contains("close_notify"), "{problem}");
        eventually("several tries", || (service.get(|seen| seen.ids) > 3).then_some(()));
        assert_eq!(service.get(|seen| seen.films.len()), 0, "an id that may be cut short is none");
        service.set(|seen| seen.answers = Answers::UntilClose);
        gateway.wait_delivered(1);
        service.assert_films(1, 1);
        gateway.stop();
    }
}

#[test]
fn c18_a_whole_201_header_is_an_acknowledgement_without_a_close_notify() {
    let authority = Authority::new("Plant");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let site = Site::new();
        let service = Service::start(site.api, authority.issue(ADDRESS).server(versions, None));
        let tcp = free_address();
        let body = "'{\"id\": 1, \"data\": {{data|json}}}'";
        let config = secured(&site, &authority).one_step().deliver("body", body).tcp_listen("servers", tcp);
        let gateway = Gateway::start(&site, &config.write(&site));
        service.set(|seen| seen.answers = Answers::Half);
        let mut machine = TcpMachine::connect(tcp);
        for number in 0..3 {
            machine.send([record("m", number)]).expect("sent");
            gateway.wait_delivered(number as u64 + 1);
        }
        let status = gateway.status();
        assert_eq!((status.counter("api_requests"), status.counter("api_failures")), (3, 0));
        assert_eq!(service.get(|seen| seen.connections), 3, "none is used again");
        gateway.stop();
    }
}

/// What `check --online` says of the API.
fn online(config: &std::path::Path) -> String {
    let output = ringest().args(["check", "--online"]).arg(config).output().expect("the binary");
    let out = String::from_utf8(output.stdout).expect("text");
    let at = out.find("both steps").unwrap_or_else(|| panic!("no API in {out}"));
    assert_eq!(output.status.code(), Some(0), "{out}");
    out[at..].lines().take(2).collect::<Vec<_>>().join("\n")
}

#[test]
fn check_online_tells_what_is_wrong_with_a_certificate_and_asks_nothing() {
    let (site, authority, clients) = (Site::new(), Authority::new("Plant"), Authority::new("Gateways"));
    let good = || authority.issue(ADDRESS);
    let service = Service::start(site.api, good().server(ONLY_1_3, None));
    let config = secured(&site, &authority).tcp_listen("servers", free_address()).write(&site);
    let said = online(&config);
    assert!(said.contains("takes connections, its certificate is good (TLS 1.3, TLS13_"), "{said}");
    let mut faults = BTreeSet::new();
    for (server, what, remedy) in [
        (good().server(ONLY_1_2, Some(&clients)), "wants one", "[deliver.tls] cert"),
        (good().server(ONLY_1_3, Some(&clients)), "wants one", "[deliver.tls] cert"),
        (authority.issue_until(ADDRESS, 2020).server(BOTH, None), "expired on 2020", "-> renew"),
        (authority.issue(&["a"]).server(BOTH, None), "not for this host, but for a", "-> put one of its names"),
        (Authority::new("Other").issue(ADDRESS).server(BOTH, None), "unknown CA", "-> name the PEM file"),
    ] {
        service.set(|seen| seen.config = Arc::new(server));
        let said = online(&config);
        assert!(said.contains(what) && said.contains(remedy), "{what}: {said}");
        assert!(said.contains("records wait"), "{said}");
        faults.insert(said);
    }
    assert_eq!(faults.len(), 4, "{faults:#?}");
    assert_eq!(service.get(|seen| seen.heard_bytes), 0);
    // What listens there does not speak TLS, or not at all.
    let plain = Site::new();
    let listener = TcpListener::bind(plain.api).expect("a free address");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
        let (stream, _) = listener.accept().expect("a connection");
        std::thread::sleep(Duration::from_millis(300));
        drop(stream);
    });
    let config = secured(&plain, &authority).deliver("connect_timeout", "\"100ms\"");
    let config = config.tcp_listen("servers", free_address()).write(&plain);
    let said = online(&config);
    assert!(said.contains("it does not speak TLS on this port") && said.contains("http://"), "{said}");
    let said = online(&config);
    assert!(said.contains("no whole TLS handshake within 100ms"), "{said}");
    answering.join().expect("it has answered");
}

#[test]
fn a_test_record_goes_over_tls_and_its_answer_is_read_whole() {
    for (versions, drips) in [(ONLY_1_2, false), (ONLY_1_3, false), (ONLY_1_3, true)] {
        let (site, authority) = (Site::new(), Authority::new("Plant"));
        let service = Service::start(site.api, authority.issue(ADDRESS).server(versions, None));
        service.set(|seen| seen.drips = drips);
        let config = secured(&site, &authority).tcp_listen("servers", free_address()).write(&site);
        let output = ringest().args(["check", "--online", "--send-test"]).arg(&config).output().expect("the binary");
        let out = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{out}");
        assert!(out.contains("test record") && out.contains("answered 201"), "{out}");
        let films = service.get(|seen| seen.films.clone());
        assert!(films.len() == 1 && films[0].1.starts_with("RINGEST TEST 20"), "{films:?}");
    }
}

#[test]
fn renewed_files_of_the_same_names_are_used_after_a_reload_and_no_port_closes() {
    let site = Site::new();
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| site.path(name));
    // Another CA on both sides each time.
    let renew = |year: i32| {
        let (authority, clients) = (Authority::new("Plant"), Authority::new("Gateways"));
        let ours = clients.issue_until(&["gateway-3"], year);
        for (path, text) in [(&ca, authority.pem()), (&cert, ours.pem), (&key, ours.key_pem)] {
            std::fs::write(path, text).expect("a file");
        }
        authority.issue(ADDRESS).server(BOTH, Some(&clients))
    };
    let service = Service::start(site.api, renew(2090));
    let tcp = free_address();
    let tls = format!("ca = {ca:?}, cert = {cert:?}, key = {key:?}");
    let config = site.config().secure(&tls).tcp_listen("servers", tcp).write(&site);
    let gateway = Gateway::start(&site, &config);
    let ends = || {
        let answer = client::get(&site.admin.to_string(), "/metrics", PATIENCE).expect("the gateway answers");
        let text = String::from_utf8(answer.body).expect("text");
        let name = "ringest_tls_certificate_expiry_timestamp_seconds{certificate=\"client\"";
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("none in {text}"));
        line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")
    };
    assert_eq!(ends(), 3_786_912_000.0, "2090");
    let mut machine = TcpMachine::connect(tcp);
    for (round, year) in [2091, 2092, 2093].into_iter().enumerate() {
        machine.send((round * 20..(round + 1) * 20).map(|number| record("m0", number))).expect("its connection stays");
        gateway.wait_terms("some", |terms| terms.delivered > (round * 20) as u64);
        let server = renew(year);
        service.set(|seen| seen.config = Arc::new(server));
        let before = ends();
        gateway.process.signal(nix::sys::signal::Signal::SIGHUP);
        eventually("the files to be read again", || (ends() > before).then_some(()));
    }
    gateway.wait_delivered(60);
    service.assert_films(1, 60);
    assert_eq!(gateway.status().open("servers"), 1);
    assert!(service.get(|seen| seen.whole_handshakes) > 1, "by the new certificates");
    gateway.stop();
}
