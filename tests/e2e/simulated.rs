//! `ringest simulate` against the real gateway, in each way in which its machines speak: what its ledger says was taken is in the
//! database, once and in order.

use crate::cores::cpus;
use crate::process::{Gateway, Receiver, ringest};
use crate::site::{Config, Site, free_address};
use ringest::simulate::ledger::{self, Entry, Status};
use ringest::simulate::{Summary, machine_name, record};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `{{data}}` of a batch is a JSON string.
const JSON_BODY: &str = "'{\"id\": {{id}}, \"machine\": \"{{source}} {{address}}\", \"data\": {{data}}}'";
const TEXT_BODY: &str = "'{\"id\": {{id}}, \"machine\": \"{{source}} {{address}}\", \"data\": {{data|json}}}'";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command in a directory, which must succeed; what it printed.
#[track_caller]
fn done(directory: &Path, arguments: &[&str]) -> String {
    let output = ringest().args(arguments).current_dir(directory).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A gateway with a certificate and tokens, of which machines have one.
struct Plant {
    site: Site,
    gateway: Gateway,
    _receiver: Receiver,
    to: SocketAddr,
    runs: usize,
}

impl Plant {
    /// `config`: adds the source that listens at an address. Files of certificates and tokens are in the site's directory.
    fn start(config: impl FnOnce(Config, SocketAddr, &Site) -> Config) -> Self {
        let site = Site::new();
        let directory = site.path("");
        done(&directory, &["cert", "ca", "Plant 7"]);
        done(&directory, &["cert", "server", "127.0.0.1"]);
        done(&directory, &["cert", "client", "press"]);
        let draw = ["token", "plant", "--sources", "machine-*", "--until", "2099-12-31", "--add", "tokens"];
        std::fs::write(site.path("token"), done(&directory, &draw)).expect("written");
        let to = free_address();
        let receiver = Receiver::start(&site);
        let config = config(site.config(), to, &site).write(&site);
        let gateway = Gateway::start(&site, &config);
        Self { site, gateway, _receiver: receiver, to, runs: 0 }
    }

    fn command(&mut self, arguments: &str) -> (Command, PathBuf) {
        self.runs += 1;
        let path = self.site.path(&format!("ledger-{}.csv", self.runs));
        let mut command = ringest();
        command.arg("simulate").args(arguments.replace("TO", &self.to.to_string()).split(' '));
        command.args(["--json", "--ledger"]).arg(&path).current_dir(self.site.path("")).env_remove("RINGEST_TOKEN");
        (command, path)
    }

    /// Runs machines to their end; what it came to, and the ledger.
    #[track_caller]
    fn simulate(&mut self, arguments: &str) -> (Summary, Vec<Entry>) {
        let (mut command, path) = self.command(arguments);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        let summary = serde_json::from_slice(&output.stdout).expect("a summary");
        (summary, ledger::read(&path).expect("a ledger"))
    }

    /// As [`Plant::simulate`], where the machines never come to send.
    fn fail(&mut self, arguments: &str) -> Output {
        self.command(arguments).0.output().expect("it runs")
    }

    /// What must have arrived has, once and in each machine's order, and nothing else. The names and addresses of each machine.
    #[track_caller]
    fn assert_arrived(&self, machines: usize, entries: &[Entry]) -> Vec<String> {
        let must: Vec<_> = entries.iter().filter(|entry| entry.status.must_arrive()).collect();
        self.gateway.wait_delivered(must.len() as u64);
        let rows = self.site.rows();
        let mut names = Vec::new();
        for machine in (0..machines).map(machine_name) {
            let expected = must.iter().filter(|entry| entry.machine == machine);
            let expected: Vec<_> = expected.map(|entry| (entry.sequence, entry.scheduled_ns)).collect();
            let of_machine = rows.iter().filter_map(|row| {
                let found = record::parse(row.data.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", row.data));
                (found.source == machine).then_some((&row.machine, (found.sequence, found.scheduled_ns)))
            });
            let (mut called, found): (Vec<_>, Vec<_>) = of_machine.unzip();
            assert_eq!(found, expected, "{machine}");
            assert!(!found.is_empty(), "{machine}");
            called.dedup();
            names.extend(called.into_iter().cloned());
        }
        assert_eq!(rows.len(), must.len());
        assert_eq!(names.len(), machines, "each has one name: {names:?}");
        names
    }
}

fn tls(site: &Site, more: &str) -> String {
    let path = |name: &str| site.path(name).display().to_string();
    format!("{{ certificate = {:?}, key = {:?}{more} }}", path("server.pem"), path("server.key"))
}

/// HTTPS with tokens, and records that are JSON.
fn secure(config: Config, to: SocketAddr, site: &Site) -> Config {
    let config = config.deliver("body", JSON_BODY).http("plant", to).of_source("tls", &tls(site, ""));
    config
        .of_source("tokens_file", &format!("{:?}", site.path("tokens").display().to_string()))
        .of_source("data_is", "\"json\"")
}

#[test]
fn tls_a_token_ndjson_and_gzip_go_together() {
    let mut plant = Plant::start(secure);
    let (summary, entries) = plant.simulate(
        "--http 3 --to-http TO --rate 50 --for 2s --batch 8 --gzip --tls-ca ca.pem --token-file token --cut 0.2 --hang-up 0.1 --away 5ms",
    );
    assert_eq!((summary.sent, summary.acknowledged, summary.refused, summary.unsent), (300, 300, 0, 0));
    assert!(summary.cut_requests > 0 && summary.hang_ups > 0, "{summary:?}");
    assert!(entries.iter().all(|entry| entry.bytes == 64 && entry.status == Status::Acknowledged));
    plant.assert_arrived(3, &entries);
    let status = plant.gateway.status();
    assert_eq!(status.counter("http_accepted"), 3 * 100_u64.div_ceil(8), "eight records a request, and what is left");
    assert!(status.counter("tls_handshakes") > 3, "over TLS, also after a hang-up");
    let bytes = status.source("plant")["bytes"].as_u64().expect("a number");
    assert!(bytes < 26_000, "{bytes}: lines alone would be 20,100, and heads of requests 10,000");
}

#[test]
fn a_token_may_come_from_the_environment_and_without_one_all_is_refused() {
    let mut plant = Plant::start(secure);
    const MACHINES: &str = "--http 2 --to-http TO --rate 20 --for 500ms --batch 1 --tls-ca ca.pem";
    let (summary, entries) = plant.simulate(MACHINES);
    assert_eq!((summary.sent, summary.refused), (0, 20));
    assert!(entries.iter().all(|entry| entry.status == Status::Refused));
    let (mut command, path) = plant.command(MACHINES);
    let token = std::fs::read_to_string(plant.site.path("token")).expect("a token");
    let output = command.env("RINGEST_TOKEN", token.trim()).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    plant.assert_arrived(2, &ledger::read(&path).expect("a ledger"));
    std::fs::write(plant.site.path("empty"), "\n").expect("written");
    let output = plant.fail(&format!("{MACHINES} --token-file empty"));
    assert!(!output.status.success() && text(&output.stderr).contains("the token in empty: it is empty"));
}

#[test]
fn a_server_that_is_not_trusted_is_sent_nothing_and_the_reason_is_said() {
    let mut plant = Plant::start(secure);
    let other = plant.site.path("other");
    std::fs::create_dir(&other).expect("a directory");
    done(&other, &["cert", "ca", "Another plant"]);
    for (options, said) in [
        ("--tls-ca other/ca.pem", "TLS: invalid peer certificate"),
        ("--tls-ca ca.pem --tls-name gateway.plant", "TLS: invalid peer certificate"),
        ("--tls-ca nowhere.pem", "nowhere.pem: "),
        ("--tls-ca token", "there is no certificate in this file"),
    ] {
        let output = plant.fail(&format!("--http 1 --to-http TO --token-file token --wait-for-reader 1s {options}"));
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains(said), "{options}: {stderr}");
    }
    assert_eq!(plant.gateway.terms().received, 0);
    let output = ringest().args(["simulate", "--ptys", "1", "--dir", "x", "--tls-ca", "ca.pem"]).output();
    let stderr = text(&output.expect("it runs").stderr);
    assert!(stderr.contains("--tls-ca is for --tcp N or --http N"), "{stderr}");
}

#[test]
fn tcp_machines_with_certificates_count_as_sent_only_what_the_gateway_takes() {
    for versions in ["", "--connection-per-record"] {
        let mut plant = Plant::start(|config, to, site| {
            let ca = format!(", client_ca = {:?}", site.path("ca.pem").display().to_string());
            let config = config.deliver("body", TEXT_BODY).tcp_listen("hall", to).of_source("tls", &tls(site, &ca));
            config.of_source("proxies", "[\"127.0.0.1\"]").of_source("allow", "[\"127.0.0.1\", \"10.0.0.0/8\"]")
        });
        let machines = format!("--tcp 3 --to TO --rate 20 --for 1s --proxy v2 --tls-ca ca.pem {versions}");
        let arguments = format!("{} --tls-cert press.pem --tls-key press.key", machines.trim_end());
        let (summary, entries) = plant.simulate(&arguments);
        assert_eq!((summary.sent, summary.lost_connections, summary.unread_ports), (60, 0, 0));
        plant.gateway.wait_delivered(60);
        let rows = plant.site.rows();
        assert_eq!(rows.len(), entries.len());
        assert!(rows.iter().all(|row| record::parse(row.data.as_bytes()).is_ok()));
        // Without a certificate nobody comes to send, and the ledger does not say so.
        let output = plant.fail(&format!("{} --wait-for-reader 1s", machines.trim_end()));
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains("could not connect"), "{stderr}");
        assert_eq!(plant.gateway.settled().received, 60);
    }
}

#[test]
fn a_connection_for_each_record_keeps_the_order_of_a_machine() {
    let mut plant = Plant::start(|config, to, _| config.cores(&cpus(2)).deliver("body", TEXT_BODY).http("plant", to));
    let (summary, entries) = plant.simulate("--http 4 --to-http TO --rate 40 --for 2s --connection-per-record");
    assert_eq!((summary.sent, summary.hang_ups, summary.lost_connections), (320, 0, 0));
    let names = plant.assert_arrived(4, &entries);
    assert_eq!(names[3], "machine-0003 127.0.0.1");
    assert_eq!(plant.gateway.status().counter("accepted_connections"), 320);
}

#[test]
fn behind_a_proxy_each_machine_has_an_address_of_its_own() {
    const PROXIES: &str = "[\"127.0.0.1\"]";
    let mut hall = Plant::start(|config, to, _| {
        let keys = format!("listen = \"{to}\"\nfirst = \"keep\"\nallow = [\"127.0.0.1\", \"10.0.0.0/8\"]");
        config
            .cores(&cpus(2))
            .deliver("body", TEXT_BODY)
            .source("hall", "tcp_listen", &keys)
            .of_source("proxies", PROXIES)
    });
    let (summary, entries) = hall.simulate("--tcp 3 --to TO --rate 40 --for 1s --proxy v2 --connection-per-record");
    assert_eq!(summary.sent, 120);
    let names = hall.assert_arrived(3, &entries);
    assert_eq!(names, ["1", "2", "3"].map(|last| format!("hall@10.0.0.{last} 10.0.0.{last}")));
    assert!(hall.gateway.status().counter("accepted_connections") >= 120);
    let mut plant = Plant::start(|config, to, site| secure(config, to, site).of_source("proxies", PROXIES));
    let (summary, entries) = plant.simulate(
        "--http 3 --to-http TO --rate 40 --for 1s --proxy v1 --connection-per-record --tls-ca ca.pem --token-file token --batch 5",
    );
    assert_eq!(summary.acknowledged, 120);
    let names = plant.assert_arrived(3, &entries);
    assert_eq!(names[2], "machine-0002 10.0.0.3");
    assert_eq!(plant.gateway.status().counter("accepted_connections"), 24);
}

#[test]
fn the_plant_in_the_readme_runs_as_it_stands() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let section = readme.split("\n### A plant to try it with\n").nth(1).expect("its section");
    let script = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its commands");
    let site = Site::new();
    let api = site.api.to_string();
    let mut script = script.replace("ringest receive &", &format!("ringest receive --listen {api} &"));
    for (stands, here) in [("127.0.0.1:8000", api), ("127.0.0.1:9600", site.admin.to_string())] {
        assert!(script.contains(stands), "{stands}");
        script = script.replace(stands, &here);
    }
    let script = script.replace("127.0.0.1:8443", &free_address().to_string()).replace("--for 10s", "--for 1s");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_ringest"));
    let directory = program.parent().expect("a directory").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.arg("-ec").arg(format!("{script}\nkill $(jobs -p); wait")).current_dir(site.path(""));
    let output = command.env("PATH", format!("{directory}:{path}")).output().expect("bash");
    let said = text(&output.stderr);
    assert!(said.contains("100 machines sent 1000 records (1000 acknowledged)"), "{}\n{said}", text(&output.stdout));
}

#[test]
fn the_camera_in_the_readme_becomes_a_row() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let section = readme.split("\n### A camera on the plant network\n").nth(1).expect("its section");
    let block = |kind: &str, at: usize| {
        section.split(&format!("```{kind}\n")).nth(at).and_then(|rest| rest.split("```").next()).expect("a block")
    };
    let (config, commands, camera) = (block("toml", 1), block("sh", 1), block("sh", 2));
    assert_eq!((config.lines().count(), commands.lines().count()), (10, 2));
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let here = site.path("").display().to_string();
    let address = free_address().to_string();
    let set = |text: &str| {
        let text = text.replace("/etc/ringest.toml", "/etc/ringest/camera.toml").replace("/etc/ringest/", &here);
        let text = text.replace("10.0.0.5:8443", &address).replace("127.0.0.1:8000", &site.api.to_string());
        let text = text.replace("10.0.4.0/24", "127.0.0.0/8").replace("/var/lib/ringest", &format!("{here}state"));
        text.replace("state\" }", &format!("state\", admin = \"{}\" }}", site.admin))
    };
    std::fs::write(site.path("camera.toml"), set(config)).expect("written");
    let setup = "ringest cert ca 'Plant 7' > /dev/null; ringest cert server 127.0.0.1 > /dev/null";
    let run = set(commands);
    let (draw, run) = run.split_once('\n').expect("two commands");
    let post = set(camera).replace("TOKEN", "$TOKEN").replacen(
        "curl",
        "curl -sS --retry-connrefused --retry 20 --retry-delay 1",
        1,
    );
    let script = format!("{setup}\nTOKEN=$({draw})\n{} &\n{post}\nsleep 0.2; kill -INT $!; wait", run.trim());
    let program = PathBuf::from(env!("CARGO_BIN_EXE_ringest"));
    let path =
        format!("{}:{}", program.parent().expect("a directory").display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-ec", &script])
        .current_dir(site.path(""))
        .env("PATH", path)
        .output()
        .expect("bash");
    assert!(text(&output.stdout).contains("{\"accepted\":1}"), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let rows = site.rows();
    assert_eq!(rows.len(), 1);
    assert!(format!("{rows:?}").contains("cam-7") && format!("{rows:?}").contains("lot 7, good"), "{rows:?}");
}
