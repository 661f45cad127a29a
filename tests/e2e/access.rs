//! Who may send and who may not, against the real gateway: every refusal has its answer and its count, journals nothing, and no
//! secret is in anything that the gateway says.

use crate::machines::{Answer, HttpMachine, TcpMachine};
use crate::process::{Gateway, PATIENCE, Receiver, eventually, ringest};
use crate::site::{Site, assert_rows, free_address, record};
use ringest::access::tokens::line;
use ringest::access::{Pattern, Patterns};
use ringest::engine::admin::client;
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SHORT: &str = "correct-horse";
const UNKNOWN: &str = "a-token-that-nobody-has-drawn-at-all-0123456789";
const OVER: &str = "a-token-of-which-the-time-is-over-0123456789abc";
const QUERY: &str = "a-secret-that-somebody-puts-into-a-query-1234567";
const END: &str = "HTTP/1.1\r\nHost: g\r\n\r\n";
const PAGE: &str = "https://plant.example";
/// `cams:correct-horse-battery-staple-and-some-more`
const BASIC: &str = "Y2Ftczpjb3JyZWN0LWhvcnNlLWJhdHRlcnktc3RhcGxlLWFuZC1zb21lLW1vcmU=";

/// A gateway with four listeners, a receiver, and a drawn token.
struct Line {
    site: Site,
    gateway: Gateway,
    _receiver: Receiver,
    config: PathBuf,
    token: String,
    /// Nobody needs a token there; SOURCEs `cam-*`, and one origin.
    open: SocketAddr,
    /// Everybody does.
    closed: SocketAddr,
    /// Only 127.0.0.2 may connect to the two of them.
    tcp: SocketAddr,
    net: SocketAddr,
}

/// Draws a token, and adds its line to a file.
pub fn draw(file: &Path, name: &str, sources: &str, until: &str) -> String {
    let mut command = ringest();
    command.args(["token", name, "--sources", sources, "--until", until, "--add"]).arg(file);
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = String::from_utf8(output.stdout).expect("text").trim_end().to_owned();
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "256 bits");
    token
}

fn start() -> Line {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (open, closed, tcp, net) = (free_address(), free_address(), free_address(), free_address());
    let file = site.path("tokens");
    let token = draw(&file, "cams", "cam-*", "2099-12-31");
    assert_eq!(file.metadata().expect("it is made").permissions().mode() & 0o777, 0o600);
    let all = Patterns(vec![Pattern::parse("*").expect("a pattern")]);
    let lines = std::fs::read_to_string(&file).expect("tokens") + &line("over", OVER, &all, "2001-01-01") + "\n";
    std::fs::write(&file, lines).expect("written");
    let config = site
        .config()
        .source("open", "http", &format!("listen = \"{open}\"\nsources = [\"cam-*\"]\norigins = [\"{PAGE}\"]"))
        .source("closed", "http", &format!("listen = \"{closed}\"\ntokens_file = \"{}\"", file.display()))
        .source(
            "gauge",
            "tcp_listen",
            &format!("listen = \"{tcp}\"\nlane = \"connection\"\nfirst = \"keep\"\nallow = [\"127.0.0.2\"]"),
        )
        .source("net", "http", &format!("listen = \"{net}\"\nallow = [\"127.0.0.0/30\"]\ndeny = \"127.0.0.1\""))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    Line { site, gateway, _receiver: receiver, config, token, open, closed, tcp, net }
}

/// A machine at 127.0.0.N.
fn machine(n: u8, address: SocketAddr) -> HttpMachine {
    let stream = TcpMachine::from_ip(IpAddr::from([127, 0, 0, n]), address).0;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    HttpMachine { stream: BufReader::new(stream) }
}

fn to(source: &str, fields: &str) -> String {
    HttpMachine::request(source, &record("m", 0)).replacen("Content", &format!("{fields}Content"), 1)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

struct Case {
    what: &'static str,
    listener: &'static str,
    request: String,
    status: u16,
    denial: &'static str,
}

fn cases(token: &str) -> Vec<Case> {
    let case = |what, listener, request: String, status, denial| Case { what, listener, request, status, denial };
    let with = |fields: &str| bearer(token) + fields;
    let preflight = |origin: &str| format!("OPTIONS /v1/records/cam-1 HTTP/1.1\r\nHost: g\r\nOrigin: {origin}\r\n\r\n");
    let chunked = |fields: &str| {
        let head = format!("POST /v1/records/press HTTP/1.1\r\nHost: g\r\n{fields}Transfer-Encoding: chunked\r\n\r\n");
        head + "5\r\nhello\r\n0\r\n\r\n"
    };
    vec![
        case("a SOURCE of the listener", "open", to("cam-7", ""), 201, ""),
        case("another SOURCE", "open", to("press", ""), 404, "source"),
        case("another SOURCE, chunked", "open", chunked(""), 404, "source"),
        case(
            "a secret in a query",
            "open",
            to("cam-7", "").replacen("cam-7", &format!("cam-7?token={QUERY}"), 1),
            400,
            "",
        ),
        case("a GET with a secret in its query", "open", format!("GET /v1/records/cam-7?{QUERY} {END}"), 405, ""),
        case("the name of a TCP source", "open", to("gauge", ""), 404, "other_source"),
        case("the listener's own name, which is not in sources", "open", to("open", ""), 404, "source"),
        case("the page of another origin", "open", to("cam-1", "Origin: https://evil.example\r\n"), 403, "origin"),
        case("a page without an origin", "open", to("cam-1", "Origin: null\r\n"), 403, "origin"),
        case("another site", "open", to("cam-1", "Sec-Fetch-Site: cross-site\r\n"), 403, "origin"),
        case(
            "a listed page",
            "open",
            to("cam-1", &format!("Origin: {PAGE}\r\nSec-Fetch-Site: cross-site\r\n")),
            201,
            "",
        ),
        case("a listed page beforehand", "open", preflight(PAGE), 204, ""),
        case("another page beforehand", "open", preflight("https://evil.example"), 403, "origin"),
        case("a good token", "closed", to("cam-7", &with("")), 201, ""),
        case(
            "a good token from a page",
            "closed",
            to("cam-7", &with("Origin: https://plant.example\r\n")),
            403,
            "origin",
        ),
        case("no token", "closed", to("cam-7", ""), 401, "no_token"),
        case("no token, body held back", "closed", to("cam-7", "Expect: 100-continue\r\n"), 401, "no_token"),
        case(
            "no token, GET",
            "closed",
            "GET /v1/records/cam-7 HTTP/1.1\r\nHost: g\r\n\r\n".to_owned(),
            401,
            "no_token",
        ),
        case("an unknown token", "closed", to("cam-7", &bearer(UNKNOWN)), 401, "wrong_token"),
        case("a short secret", "closed", to("cam-7", &bearer(SHORT)), 401, "wrong_token"),
        case("Basic", "closed", to("cam-7", &format!("Authorization: Basic {BASIC}\r\n")), 401, "wrong_token"),
        case("two tokens", "closed", to("cam-7", &with(&with(""))), 401, "wrong_token"),
        case("a token whose time is over", "closed", to("cam-7", &bearer(OVER)), 401, "expired_token"),
        case("a token for other SOURCEs", "closed", to("press", &with("")), 403, "token_source"),
        case("a token for other SOURCEs, chunked", "closed", chunked(&with("")), 403, "token_source"),
        case("the name of a TCP source with a token", "closed", to("gauge", &with("")), 404, "other_source"),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Whole,
    ByteByByte,
    BehindAGoodOne,
}

/// All that was said to machines, how often each denial must be counted, and how many records were taken.
#[derive(Default)]
struct Seen {
    said: String,
    denials: BTreeMap<(&'static str, &'static str), u64>,
    taken: u64,
}

impl Seen {
    fn note(&mut self, answer: &Answer) {
        self.said += &format!("{answer:?}");
        self.taken += u64::from(answer.status == 201);
    }

    /// From an address of its own each, since who fails often waits.
    fn play(&mut self, line: &Line, case: &Case, way: Way, n: u8) {
        let address = if case.listener == "open" { line.open } else { line.closed };
        let good = if case.listener == "open" { to("cam-1", "") } else { to("cam-1", &bearer(&line.token)) };
        let mut machine = machine(n, address);
        let context = format!("{} ({way:?})", case.what);
        match way {
            Way::Whole => machine.send(&case.request).expect("sent"),
            Way::ByteByByte => {
                for byte in case.request.chars() {
                    machine.send(&byte.to_string()).expect("sent");
                }
            }
            Way::BehindAGoodOne => {
                machine.send(&(good.clone() + &case.request)).expect("sent");
                let answer = machine.answer().expect("an answer");
                assert_eq!(answer.status, 201, "{context}");
                self.note(&answer);
            }
        }
        let answer = machine.answer().unwrap_or_else(|error| panic!("{context}: {error}"));
        self.note(&answer);
        assert_eq!(answer.status, case.status, "{context}: {answer:?}");
        if !case.denial.is_empty() {
            *self.denials.entry((case.listener, case.denial)).or_default() += 1;
        }
        if case.status >= 400 {
            let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            for key in ["rule", "came", "allowed"] {
                assert!(!body[key].is_null(), "{context}: {body}");
            }
        }
        let challenge = answer.header("www-authenticate").is_some_and(|schemes| schemes.starts_with("Bearer "));
        assert_eq!(challenge, case.status == 401, "{context}");
        let is_held_back = case.request.contains("Expect");
        if case.status == 401 {
            assert_eq!(answer.header("connection"), Some("close"), "{context}");
            machine.assert_end();
        } else if !is_held_back {
            machine.send(&good).expect("sent");
            let answer = machine.answer().expect("an answer");
            assert_eq!(answer.status, 201, "{context}: the connection goes on");
            self.note(&answer);
        }
    }
}

#[test]
fn who_may_and_who_may_not() {
    let line = start();
    let mut seen = Seen::default();
    let mut n = 10;
    for case in cases(&line.token) {
        for way in [Way::Whole, Way::ByteByByte, Way::BehindAGoodOne] {
            seen.play(&line, &case, way, n);
            n += 1;
        }
    }
    // By address: the connection is closed before anything is read.
    for (address, listener, from, may) in [
        (line.net, "net", 2, true),
        (line.net, "net", 1, false),
        (line.net, "net", 9, false),
        (line.tcp, "gauge", 9, false),
    ] {
        let mut machine = machine(from, address);
        let answer = machine.post("cam-1", &record("m", 0));
        assert_eq!(
            answer.as_ref().is_ok_and(|answer| answer.status == 201),
            may,
            "127.0.0.{from} at {listener}: {answer:?}"
        );
        match answer {
            Ok(answer) => seen.note(&answer),
            Err(_) => *seen.denials.entry((listener, "network")).or_default() += 1,
        }
    }
    let mut gauge = TcpMachine::from_ip(IpAddr::from([127, 0, 0, 2]), line.tcp);
    gauge.send([record("g", 0)]).expect("sent");
    seen.taken += 1;

    let terms = line.gateway.wait_delivered(seen.taken);
    assert_eq!((terms.received, terms.rejected), (seen.taken, 0), "what is refused is not journaled");
    assert_eq!(line.site.rows().len() as u64, seen.taken);
    let status = line.gateway.status();
    for listener in ["open", "closed", "net", "gauge"] {
        for (denial, count) in status.source(listener)["denied"].as_object().expect("counts") {
            let expected = seen.denials.iter().find(|((of, why), _)| *of == listener && why == denial);
            assert_eq!(count.as_u64(), Some(expected.map_or(0, |(_, count)| *count)), "{listener} {denial}");
        }
    }
    assert_eq!(status.counter("denied"), seen.denials.values().sum::<u64>());
    let metrics = text(&line, "/metrics");
    let count = seen.denials[&("closed", "no_token")];
    let row = format!("ringest_source_denied_total{{source=\"closed\",reason=\"no_token\"}} {count}");
    assert!(metrics.contains(&row), "{row} is not in\n{metrics}");
    assert_refusals_are_shown(&line, &metrics);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", line.gateway.process.pid())).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_ascii_whitespace().nth(4), Some("0"), "{core}");

    assert_no_secret_is_said(&line, seen.said);
    assert!(line.gateway.stop().contains("is turned away"), "the log tells of it");
}

/// What was refused for what it is has its count by SOURCE, and its first line.
fn assert_refusals_are_shown(line: &Line, metrics: &str) {
    let row = "ringest_source_refused_total{source=\"open\",reason=\"bad_request\",machine=\"cam-7\"} 3";
    assert!(metrics.contains(row), "{row} is not in\n{metrics}");
    let row = "ringest_source_refused_total{source=\"closed\",reason=\"token_source\",machine=\"press\"} 6";
    assert!(metrics.contains(row), "{row} is not in\n{metrics}");
    let admin = line.site.admin.to_string();
    let output = ringest().args(["status", "--refused", "--admin", &admin]).output().expect("it runs");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let flat = shown.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("open: bad_request, 3 times"), "{shown}");
    assert!(flat.contains("POST /v1/records/cam-7?\u{2026} HTTP/1.1: a record is sent in the body"), "{shown}");
    assert!(flat.contains("closed: token_source, 6 times by SOURCE: press 6"), "{shown}");
    assert!(flat.contains("gauge: network, 1 time"), "{shown}");
}

/// In answers, metrics, log, page, documents and commands.
fn assert_no_secret_is_said(line: &Line, answers: String) {
    let log = line.gateway.process.log();
    let mut outputs = vec![("answers", answers), ("metrics", text(line, "/metrics")), ("log", log)];
    for path in ["/", "/api/status", "/api/sources", "/api/refused"] {
        outputs.push((path, text(line, path)));
    }
    let (config, admin) = (line.config.display().to_string(), line.site.admin.to_string());
    let commands = [
        &["check", &config][..],
        &["check", "--json", &config],
        &["status", "--admin", &admin],
        &["status", "--json", "--admin", &admin],
        &["status", "--refused", "--admin", &admin],
        &["status", "--refused", "--json", "--admin", &admin],
    ];
    for arguments in commands {
        let output = ringest().args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("closed"), "{arguments:?}: {said}");
        outputs.push((arguments[0], said));
    }
    for secret in [line.token.as_str(), OVER, UNKNOWN, SHORT, BASIC, QUERY, "correct-horse-battery"] {
        for (what, said) in &outputs {
            assert!(!said.contains(secret), "{what} shows {secret}:\n{said}");
        }
    }
}

fn text(line: &Line, path: &str) -> String {
    let answer = client::get(&line.site.admin.to_string(), path, PATIENCE).expect("the gateway answers");
    String::from_utf8(answer.body).expect("text")
}

#[test]
fn a_token_that_is_removed_or_over_is_refused_at_the_next_request_of_an_open_connection() {
    let line = start();
    let file = line.site.path("tokens");
    let mut machine = machine(10, line.closed);
    machine.send(&to("cam-1", &bearer(&line.token))).expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 201);
    // One that is added counts soon, and its end counts to the second.
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(6);
    let soon = draw(&file, "soon", "*", &end.to_string());
    let tried = |n: u8, token: &str| {
        let mut machine = self::machine(n, line.closed);
        machine.send(&to("cam-1", &bearer(token))).expect("sent");
        let status = machine.answer().expect("an answer").status;
        (machine, status)
    };
    let mut n = 20;
    let mut added = eventually("the added token to count", || {
        n = n % 200 + 17;
        std::thread::sleep(Duration::from_millis(20));
        let (machine, status) = tried(n, &soon);
        (status == 201).then_some(machine)
    });
    eventually("the end of the added token", || {
        added.send(&to("cam-1", &bearer(&soon))).expect("sent");
        let answer = added.answer().expect("an answer");
        let is_over = jiff::Timestamp::now() >= end;
        assert!(answer.status == 201 || is_over && answer.body.contains("time is over"), "{answer:?}");
        (answer.status == 401).then_some(())
    });
    added.assert_end();
    // A file that is none leaves what was before in force, and says so.
    std::fs::write(&file, "cams s3cr3t-in-the-wrong-place * never\n").expect("written");
    let problem = || line.gateway.status().0["problems"].to_string().contains("a file of secrets cannot be used");
    eventually("the problem", || problem().then_some(()));
    machine.send(&to("cam-1", &bearer(&line.token))).expect("sent");
    assert_eq!(machine.answer().expect("an answer").status, 201);
    std::fs::write(&file, "# nobody\n").expect("written");
    eventually("the removed token to be refused", || {
        machine.send(&to("cam-1", &bearer(&line.token))).expect("sent");
        (machine.answer().expect("an answer").status == 401).then_some(())
    });
    machine.assert_end();
    eventually("the problem to end", || (!problem()).then_some(()));
    assert!(!line.gateway.stop().contains("s3cr3t"));
}

#[test]
fn who_fails_more_than_ten_times_a_minute_waits_and_others_do_not() {
    let line = start();
    let tried = |n: u8, token: &str| {
        let begun = Instant::now();
        let mut machine = machine(n, line.closed);
        machine.send(&to("cam-1", &bearer(token))).expect("sent");
        (machine.answer().expect("an answer").status, begun.elapsed())
    };
    for _ in 0..10 {
        let (status, took) = tried(10, UNKNOWN);
        assert!(status == 401 && took < Duration::from_millis(1_500), "{status} in {took:?}");
    }
    let (status, took) = tried(10, UNKNOWN);
    assert!(status == 401 && took >= Duration::from_millis(1_900), "{status} in {took:?}");
    assert_eq!(line.gateway.status().counter("denied_late"), 1);
    let (status, took) = tried(10, &line.token);
    assert!(status == 201 && took < Duration::from_millis(1_500), "a good token never waits: {status} in {took:?}");
    let (status, took) = tried(11, UNKNOWN);
    assert!(status == 401 && took < Duration::from_millis(1_500), "another address: {status} in {took:?}");
    line.gateway.stop();
}

#[test]
fn a_reload_ends_the_connections_of_peers_that_may_no_longer_send() {
    let line = start();
    let mut gauge = TcpMachine::from_ip(IpAddr::from([127, 0, 0, 2]), line.tcp);
    gauge.send([record("g", 0)]).expect("sent");
    let mut machine = machine(2, line.net);
    assert_eq!(machine.post("cam-1", &record("m", 0)).expect("an answer").status, 201);
    line.gateway.wait_delivered(2);
    let text = std::fs::read_to_string(&line.config).expect("the configuration");
    let text = text.replace("allow = [\"127.0.0.2\"]", "allow = [\"127.0.0.7\"]").replace("127.0.0.0/30", "127.0.0.7");
    std::fs::write(&line.config, text).expect("written");
    line.gateway.process.signal(nix::sys::signal::Signal::SIGHUP);
    gauge.0.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    assert_eq!(gauge.0.read(&mut [0]).expect("an orderly end within 5 s"), 0);
    machine.stream.get_ref().set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    machine.assert_end();
    let status = line.gateway.status();
    assert_eq!(status.source("gauge")["denied"]["network"], 1);
    assert_eq!(status.source("net")["denied"]["network"], 1);
    line.gateway.stop();
}

#[test]
fn a_file_that_holds_no_tokens_is_refused_and_nothing_of_it_is_shown() {
    let site = Site::new();
    let file = site.path("tokens");
    let keys = format!("listen = \"{}\"\ntokens_file = \"{}\"", free_address(), file.display());
    let config = site.config().source("closed", "http", &keys).write(&site);
    let check = || {
        let output = ringest().arg("check").arg(&config).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = check();
    assert!(code == Some(3) && said.contains("cannot be read"), "{said}");
    std::fs::write(&file, format!("# tokens\ncams {UNKNOWN} * never\nx y\n")).expect("written");
    let (code, said) = check();
    assert!(
        code == Some(3) && said.contains("line 2: the second field is no digest") && said.contains("line 3"),
        "{said}"
    );
    assert!(!said.contains(UNKNOWN), "{said}");
    std::fs::remove_file(&file).expect("removed");
    draw(&file, "cams", "cam-*", "never");
    assert_eq!(check().0, Some(0));
    assert!(!check().1.contains("everybody on this machine"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("everybody on this machine can read this file (mode 644)"), "{said}");
}

#[test]
fn the_command_that_draws_tokens_refuses_what_would_let_in_nobody_or_is_there_already() {
    let site = Site::new();
    let file = site.path("tokens");
    draw(&file, "cams", "cam-*", "never");
    let before = std::fs::read_to_string(&file).expect("tokens");
    let run = |name: &str, sources: &str, until: &str| {
        let mut command = ringest();
        command.args(["token", name, "--sources", sources, "--until", until, "--add"]).arg(&file);
        let output = command.output().expect("it runs");
        assert_eq!(output.stdout, b"", "no token is drawn in vain");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (name, sources, until, code, words) in [
        ("cams", "*", "never", 3, "another line has this name already"),
        ("a/b", "*", "never", 2, "no name of a token"),
        ("a", "cam 1", "never", 2, "no pattern"),
        ("a", "*", "2001-01-01", 2, "is over already"),
        ("a", "*", "tomorrow", 2, "a day such as"),
    ] {
        let (status, said) = run(name, sources, until);
        assert!(status == Some(code) && said.contains(words), "{name} {sources} {until}: {status:?} {said}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("tokens"), before);
    // Without a file both lines are printed, and no two tokens are one.
    let output =
        ringest().args(["token", "x", "--sources", "a,b-*", "--until", "2099-01-01"]).output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let (token, line) = said.trim_end().split_once('\n').expect("two lines");
    assert!(line.starts_with("x sha256:") && line.ends_with(" a,b-* 2099-01-01"), "{line}");
    assert!(!line.contains(token) && !before.contains(&line[9..73]));
}

#[test]
fn a_listener_that_accepts_one_at_a_time_goes_on_behind_peers_that_it_does_not_keep() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (net, tcp) = (free_address(), free_address());
    // So few are left that each connection is accepted by itself.
    let config = site
        .config()
        .cores("[0, 1]")
        .limit("connections", "2")
        .source("net", "http", &format!("listen = \"{net}\"\ndeny = \"127.0.0.1\""))
        .source("gauge", "tcp_listen", &format!("listen = \"{tcp}\"\nlane = \"address\"\nfirst = \"keep\""))
        .write(&site);
    let gateway = Gateway::start(&site, &config);
    for number in 0..6 {
        assert!(machine(1, net).post("cam-1", &record("m", 0)).is_err(), "it is turned away");
        let answer = machine(2, net).post("cam-1", &record("m", number)).expect("an answer");
        assert_eq!(answer.status, 201);
        // Some of these addresses belong to the other core, and are handed over.
        TcpMachine::from_ip(IpAddr::from([127, 0, 0, 10 + number as u8]), tcp).send([record("g", 0)]).expect("sent");
        gateway.wait_delivered(2 * (number as u64 + 1));
    }
    gateway.stop();
}

#[test]
fn a_device_that_can_only_get_sends_its_records_in_queries_and_no_query_is_shown() {
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let (http, file) = (free_address(), site.path("tokens"));
    let token = draw(&file, "cams", "cam-*", "never");
    let keys = format!("listen = \"{http}\"\nget = true\ntokens_file = \"{}\"", file.display());
    let gateway = Gateway::start(&site, &site.config().source("gets", "http", &keys).write(&site));
    let curl = |arguments: &[&str], query: &str| {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "-i", "--max-time", "20"]).args(arguments);
        let output = command.arg(format!("http://{http}/v1/records/cam-1{query}")).output().expect("curl runs");
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let bearer = format!("Authorization: Bearer {token}");
    let with = ["-H", &bearer];
    let keyed = [&with[..], &["-H", "Idempotency-Key: lot-7"]].concat();
    let mut said = String::new();
    for (arguments, query, status) in [
        (&with[..], "?cam%20000000", "201 "),
        (&keyed, "?cam%20000001", "201 "),
        (&keyed, "?cam%20000001", "201 "),
        (&keyed, "?cam%20000002", "422 "),
        (&with, "", "400 "),
        (&with, "?50%", "400 "),
        (&[&with[..], &["-H", "Sec-Purpose: prefetch"]].concat(), "?cam%20000009", "403 "),
        (&[&with[..], &["-X", "GET", "-d", "cam 000009"]].concat(), "?cam%20000009", "400 "),
        (&[&with[..], &["-I"]].concat(), "?cam%20000009", "405 "),
        (&[], "?s3cr3t-query", "401 "),
        (&[], &format!("?access_token={token}"), "401 "),
    ] {
        let answer = curl(arguments, query);
        assert_eq!(answer.get(9..13), Some(status), "{query}: {answer}");
        let is_get = !arguments.contains(&"-I");
        assert_eq!(answer.contains("Cache-Control: no-store\r\n"), is_get, "{query}: {answer}");
        said += &answer;
    }
    gateway.wait_delivered(2);
    assert_rows(&site.rows(), &[("cam", 2)]);
    let metrics = client::get(&site.admin.to_string(), "/metrics", PATIENCE).expect("the gateway answers").body;
    let shown = said + &String::from_utf8(metrics).expect("text") + &gateway.status().0.to_string() + &gateway.stop();
    assert!(!shown.contains("s3cr3t-query") && !shown.contains(&token), "{shown}");
}
