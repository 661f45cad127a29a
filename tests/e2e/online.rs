//! `ringest check --online`: what it says, the code that it ends with, and that it disturbs nothing.

use crate::api::{Api, Behaviour};
use crate::certs::made;
use crate::machines::{Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually, ringest};
use crate::site::{Site, free_address, record};
use crate::tls::pki::{Authority, Issued};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A device server that takes one connection after the other, shows a certificate where it has one, and says `12.5`.
fn device(tls: Option<rustls::ServerConfig>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            counted.fetch_add(1, Ordering::Relaxed);
            // Who calls may go at any moment.
            let _ = match &tls {
                None => stream.write_all(b"12.5\r"),
                Some(config) => {
                    let session = rustls::ServerConnection::new(Arc::new(config.clone())).expect("a session");
                    let mut sealed = rustls::StreamOwned::new(session, stream);
                    sealed.write_all(b"12.5\r").and_then(|()| sealed.read_to_end(&mut Vec::new()).map(drop))
                }
            };
        }
    });
    (address, calls)
}

/// A server that shows the certificate which stands in a directory.
fn server(directory: &Path) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let chain = CertificateDer::pem_file_iter(directory.join("server.pem")).expect("PEM");
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).expect("a key");
    builder.with_single_cert(chain, key).expect("they match")
}

#[test]
fn a_device_server_with_tls_is_called_unless_a_gateway_runs_and_what_is_wrong_with_it_is_told() {
    let site = Site::new();
    let directories = ["good", "other-name", "other-ca"].map(|name| site.path(name));
    for (directory, name) in directories.iter().zip(["127.0.0.1", "press-5.plant", "127.0.0.1"]) {
        std::fs::create_dir(directory).expect("a directory");
        let ca = ["--ca".to_owned(), directories[0].join("ca.pem").display().to_string()];
        let key = ["--ca-key".to_owned(), directories[0].join("ca.key").display().to_string()];
        if directory.ends_with("other-name") {
            made(directory, &["server", name, &ca[0], &ca[1], &key[0], &key[1]]);
        } else {
            made(directory, &["ca", &format!("CA of {}", directory.display())]);
            made(directory, &["server", name]);
        }
    }
    let [good, other_name, other_ca] = directories.each_ref().map(|directory| device(Some(server(directory))));
    let plain = device(None);
    let gone = free_address();
    let ca = directories[0].join("ca.pem");
    let mut config = site.config();
    for (name, address) in
        [("good", good.0), ("named", other_name.0), ("signed", other_ca.0), ("plain", plain.0), ("gone", gone)]
    {
        let keys = format!("connect = \"{address}\"\nfirst = \"keep\"\ntls = {{ ca = {ca:?} }}");
        config = config.source(name, "tcp_connect", &keys);
    }
    let config = config.write(&site);
    let (code, out, err) = check(&config, &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    let good_line = line(&out, "source good");
    assert!(good_line.contains("takes connections, its certificate is good (TLS 1.3"), "{good_line}");
    for (what, said, remedy) in [
        ("source named", "not for this host, but for press-5.plant", "give the server a certificate"),
        (
            "source signed",
            "signed by an unknown CA, or by itself",
            "-> name the PEM file with the certificate of the CA",
        ),
        ("source plain", "it does not speak TLS on this port", "-> is the port right, or is it a port without TLS?"),
        (
            "source gone",
            "Connection refused (os error 111); it is tried again and again",
            "-> switch the device server on",
        ),
    ] {
        let told = table(&out, &format!("warning  {what}"));
        let told: String = told.lines().take(2).collect();
        assert!(told.contains(said) && told.contains(remedy), "{what}: {told}");
        assert!(!told.contains("[deliver.tls]"), "{told}");
    }
    let only_good = site.config().source(
        "good",
        "tcp_connect",
        &format!("connect = \"{}\"\nfirst = \"keep\"\ntls = {{ ca = {ca:?} }}", good.0),
    );
    let config = only_good.write(&site);
    let gateway = Gateway::start(&site, &config);
    eventually("the device server to be called", || (gateway.status().open("good") == 1).then_some(()));
    let calls = good.1.load(Ordering::Relaxed);
    let (code, out, _) = check(&config, &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(line(&out, "source good").contains("not called, since the gateway that runs may have"), "{out}");
    assert_eq!(good.1.load(Ordering::Relaxed), calls);
    gateway.stop();
}

#[test]
fn what_listeners_show_is_tried_as_machines_will_and_each_fault_is_a_sentence() {
    let site = Site::new();
    let (authority, other) = (Authority::new("Plant 7"), Authority::new("Elsewhere"));
    let good = authority.issue(&["127.0.0.1", "gateway.plant"]);
    let chain = |issued: &Issued, behind: &str| (issued.pem.clone() + behind, issued.key_pem.clone());
    let address = "127.0.0.1";
    let unfit = "warning  certificate of NAME: no machine will take it: ";
    let cases = [
        (
            "alone",
            chain(&good, ""),
            "ok       certificate of NAME: its key fits, machines must trust CN=Plant 7, and it is for 127.0.0.1, gateway.plant"
                .to_owned(),
        ),
        (
            "whole",
            chain(&good, &authority.pem()),
            "ok       certificate of NAME: its key fits, it leads to CN=Plant 7, and it is for".to_owned(),
        ),
        ("broken", chain(&good, &other.pem()), format!("{unfit}CN=rcgen self signed cert is signed by CN=Plant 7, and no other")),
        ("over", chain(&authority.issue_until(&[address], 2020), ""), format!("{unfit}CN=rcgen self signed cert ended on 2020-01-01")),
        ("nameless", chain(&authority.issue(&[]), ""), format!("{unfit}there is no name in it")),
        (
            "a-ca",
            chain(&Issued::self_signed(&[address], true), ""),
            format!("{unfit}a machine would say: its certificate is that of a CA,"),
        ),
        (
            "itself",
            chain(&Issued::self_signed(&[address], false), ""),
            "ok       certificate of NAME: its key fits, it leads to CN=rcgen self signed cert, and it is for 127.0.0.1".to_owned(),
        ),
        (
            "by-name",
            chain(&authority.issue(&["gateway.plant"]), ""),
            "ok       certificate of NAME: its key fits, machines must trust CN=Plant 7, and it is for gateway.plant, \
             but not for 127.0.0.1: machines must connect to a name"
                .to_owned(),
        ),
        (
            "elsewhere",
            chain(&authority.issue(&["10.9.9.9"]), ""),
            "warning  certificate of NAME: its key fits, machines must trust CN=Plant 7, and it is for 10.9.9.9, \
             but this source listens on 127.0.0.1: no machine"
                .to_owned(),
        ),
    ];
    let mut config = site.config();
    for (name, (certificate, key), _) in &cases {
        let paths = [("pem", certificate), ("key", key)].map(|(ending, text)| {
            let path = site.path(&format!("{name}.{ending}"));
            std::fs::write(&path, text).expect("a file");
            path
        });
        let tls = format!("tls = {{ certificate = {:?}, key = {:?} }}", paths[0], paths[1]);
        config = config.source(name, "http", &format!("listen = \"{}\"\n{tls}", free_address()));
    }
    let (code, out, err) = check(&config.write(&site), &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    for (name, _, expected) in &cases {
        let found = line(&out, &format!("certificate of {name}"));
        let words: Vec<&str> = found.split_whitespace().collect();
        let expected = expected.replace("NAME:", name);
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert!(words.starts_with(&expected), "expected\n{}\nbut\n{found}", expected.join(" "));
    }
    let remedies = out.lines().filter(|line| line.contains("-> ") && line.contains("certificate")).count();
    assert!(remedies >= 4, "{out}");
}
