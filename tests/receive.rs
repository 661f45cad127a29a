//! The film API of `ringest receive`, over the wire against the real binary: what it promises a gateway.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running `ringest receive` in a fresh directory; killed when dropped.
struct Receive {
    child: Child,
    address: SocketAddr,
}

impl Receive {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let ready: PathBuf = directory.join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringest"))
            .args(["receive", "--listen", "127.0.0.1:0", "--database"])
            .arg(directory.join("films.sqlite3"))
            .arg("--ready-file")
            .arg(&ready)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let start = Instant::now();
        // The file appears whole, so the first look that finds it has the address.
        let address = loop {
            if let Ok(text) = std::fs::read_to_string(&ready) {
                break text.trim().parse().expect("an address");
            }
            assert!(start.elapsed() < DEADLINE, "not ready in time");
            assert!(child.try_wait().expect("a child").is_none(), "it ended before it was ready");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, address }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// SIGTERM, and the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One kept-alive connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream) }
    }

    fn request(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: films\r\n{key}Content-Length: {length}\r\n\r\n{body}");
        self.stream.get_mut().write_all(request.as_bytes()).expect("sent");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a header");
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().expect("a length");
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the whole body");
        (status, String::from_utf8(body).expect("text"))
    }

    fn json(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, Value) {
        let (status, body) = self.request(method, path, key, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    fn next_id(&mut self, key: Option<&str>) -> i64 {
        let (status, body) = self.json("POST", "/seq/", key, "{}");
        assert_eq!(status, 201, "{body}");
        body["id"].as_i64().expect("an integer")
    }

    fn post(&mut self, key: Option<&str>, film: &Value) -> (u16, Value) {
        self.json("POST", "/films/", key, &film.to_string())
    }

    fn films(&mut self) -> Vec<Value> {
        let (mut films, mut after) = (Vec::new(), 0);
        loop {
            let (status, body) = self.json("GET", &format!("/films/?after={after}&limit=1000"), None, "");
            assert_eq!(status, 200);
            let page = body["films"].as_array().expect("a list");
            if page.is_empty() {
                return films;
            }
            films.extend(page.iter().cloned());
            after = body["next"].as_i64().expect("a position");
        }
    }
}

fn film(id: i64, data: &str) -> Value {
    json!({ "id": id, "machine": "press-1", "data": data })
}

#[test]
fn the_two_steps_store_a_record_that_can_be_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    let id = client.next_id(Some("k1-seq"));
    // Everything that JSON can carry comes back as it was sent.
    let data = "width=1.5\t\"quoted\" \\ ü 漢 🎬 \u{0} \u{7f} </script>";
    assert_eq!(client.post(Some("k1"), &film(id, data)), (201, json!({ "id": id })));
    let (status, read) = client.json("GET", &format!("/films/{id}/"), None, "");
    assert_eq!(
        (status, &read["id"], &read["machine"], &read["data"]),
        (200, &json!(id), &json!("press-1"), &json!(data))
    );
    assert!(read["received_at_us"].as_i64().expect("a time") > 1_600_000_000_000_000);
    assert_eq!(client.json("GET", "/films/987654321/", None, "").0, 404);
    assert_eq!(client.json("GET", "/films/x/", None, "").0, 404);
    assert_eq!(client.json("GET", "/nothing", None, "").0, 404);
}

#[test]
fn the_same_key_gets_the_same_id_and_another_key_another_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    let first = client.next_id(Some("a-seq"));
    assert_eq!(client.next_id(Some("a-seq")), first);
    assert_eq!(receive.client().next_id(Some("a-seq")), first, "on another connection too");
    let others = [client.next_id(Some("b-seq")), client.next_id(None), client.next_id(None)];
    let all: HashSet<i64> = others.into_iter().chain([first]).collect();
    assert_eq!(all.len(), 4, "{others:?}");
}

#[test]
fn a_record_sent_again_under_its_key_is_stored_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    let id = client.next_id(None);
    assert_eq!(client.post(Some("k"), &film(id, "a")).0, 201);
    assert_eq!(client.post(Some("k"), &film(id, "a")), (201, json!({ "id": id })));
    // After a loss of power the gateway may have fetched another id; the row that is there is told.
    let other = client.next_id(None);
    assert_eq!(client.post(Some("k"), &film(other, "a")), (201, json!({ "id": id })));
    assert_eq!(client.films().len(), 1);
}

#[test]
fn the_same_id_for_another_record_is_a_conflict() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    assert_eq!(client.post(Some("k1"), &film(7, "a")).0, 201);
    for (key, data) in [(Some("k2"), "b"), (None, "b"), (Some("k2"), "a")] {
        let (status, body) = client.post(key, &film(7, data));
        assert_eq!(status, 409, "{key:?} {data}: {body}");
        assert!(body["error"].as_str().expect("a reason").contains("id 7"), "{body}");
    }
    assert_eq!(client.post(None, &film(7, "a")).0, 201, "the same record again, without a key");
    assert_eq!(client.films().len(), 1);
}

#[test]
fn a_record_without_id_takes_a_number_that_nothing_else_gets() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    let mut ids = HashSet::new();
    // Ids from elsewhere, among them the very next ones.
    let next = client.next_id(None);
    for id in [next + 1, next + 2, next + 5, next + 6, 1 << 40] {
        assert_eq!(client.post(None, &film(id, "foreign")).0, 201);
        ids.insert(id);
    }
    for n in 0..20 {
        let (status, body) = client.post(Some(&format!("n{n}")), &json!({ "machine": "m", "data": n.to_string() }));
        assert_eq!(status, 201, "{body}");
        assert!(ids.insert(body["id"].as_i64().expect("an id")), "{body} came twice");
        assert!(ids.insert(client.next_id(None)));
    }
    let (_, first) = client.post(Some("again"), &json!({ "machine": "m", "data": "x" }));
    assert_eq!(client.post(Some("again"), &json!({ "machine": "m", "data": "x" })), (201, first));
    assert_eq!(client.films().len(), 26);
}

#[test]
fn what_is_no_film_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    let bodies = [
        "",
        "{",
        "[]",
        "{}",
        r#"{"id": 1, "machine": "m"}"#,
        r#"{"id": 1, "data": "d"}"#,
        r#"{"id": "1", "machine": "m", "data": "d"}"#,
        r#"{"id": 1.5, "machine": "m", "data": "d"}"#,
        r#"{"id": -1, "machine": "m", "data": "d"}"#,
        r#"{"id": 9223372036854775808, "machine": "m", "data": "d"}"#,
        r#"{"id": 1, "machine": 2, "data": "d"}"#,
        r#"{"id": 1, "machine": "m", "data": null}"#,
        r#"{"id": 1, "machine": "m", "data": "d"} x"#,
        r#"{"id": 1, "machine": "m", "data": "\ud800"}"#,
    ];
    for body in bodies {
        let (status, answer) = client.json("POST", "/films/", None, body);
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(!answer["error"].as_str().expect("a reason").is_empty());
    }
    let long = "k".repeat(256);
    for key in ["", long.as_str(), "ü"] {
        assert_eq!(client.post(Some(key), &film(1, "a")).0, 400, "key {key:?}");
        assert_eq!(client.json("POST", "/seq/", Some(key), "{}").0, 400, "key {key:?}");
    }
    assert_eq!(client.json("GET", "/films/?after=x", None, "").0, 400);
    assert_eq!(client.films(), Vec::<Value>::new());
}

#[test]
fn films_are_listed_in_the_order_of_their_arrival() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    for id in [30, 10, 20] {
        assert_eq!(client.post(None, &film(id, "a")).0, 201);
    }
    let (_, first) = client.json("GET", "/films/?limit=2", None, "");
    let ids = |page: &Value| {
        page["films"].as_array().expect("a list").iter().map(|film| film["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), [30, 10]);
    let (_, second) = client.json("GET", &format!("/films/?after={}", first["next"]), None, "");
    assert_eq!(ids(&second), [20]);
    let (_, third) = client.json("GET", &format!("/films/?after={}", second["next"]), None, "");
    assert_eq!((ids(&third), &third["next"]), (vec![], &second["next"]), "the cursor stays at the end");
}

#[test]
fn ids_stay_unique_over_a_stop_and_over_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut ids = HashSet::new();
    for round in 0..4 {
        let receive = Receive::start(directory.path());
        let mut client = receive.client();
        for n in 0..50 {
            let id = client.next_id(None);
            assert!(ids.insert(id), "{id} came twice, round {round}");
            if n % 2 == 0 {
                assert_eq!(client.post(Some(&format!("{round}-{n}")), &film(id, "a")).0, 201);
            }
        }
        // A foreign id where a later block will lie.
        assert_eq!(client.post(None, &film(200_000 + round, "foreign")).0, 201);
        ids.insert(200_000 + round);
        if round % 2 == 0 { assert_eq!(receive.stop(), Some(0)) } else { receive.kill() }
    }
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    assert_eq!(client.films().len(), 4 * 26, "every answered row is there after a kill");
    // A key is known after a restart.
    assert_eq!(client.post(Some("3-48"), &film(client_unused(&ids), "a")).0, 201);
    assert_eq!(client.films().len(), 4 * 26);
}

fn client_unused(ids: &HashSet<i64>) -> i64 {
    ids.iter().max().expect("some") + 1
}

#[test]
fn a_clean_stop_wastes_no_numbers() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let last = receive.client().next_id(None);
    assert_eq!(receive.stop(), Some(0));
    let receive = Receive::start_with(directory.path(), &["--sync", "full"]);
    assert_eq!(receive.client().next_id(None), last + 1);
}

#[test]
fn ids_go_on_beyond_a_reserved_block_and_pass_over_rows_in_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start_with(directory.path(), &["--sync", "off"]);
    let mut client = receive.client();
    let first = client.next_id(None);
    let foreign = first + 80_000;
    assert_eq!(client.post(None, &film(foreign, "foreign")).0, 201);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut client = receive.client();
            std::thread::spawn(move || (0..9_000).map(|_| client.next_id(None)).collect::<Vec<_>>())
        })
        .collect();
    let ids: Vec<i64> = threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
    let unique: HashSet<i64> = ids.iter().copied().collect();
    assert_eq!(unique.len(), 72_000, "no id twice");
    assert!(!unique.contains(&foreign));
    assert!(ids.iter().any(|id| *id > foreign), "the block with the foreign row was passed over");
}

#[test]
fn sixty_four_connections_store_all_once_in_the_order_of_each() {
    const CONNECTIONS: usize = 64;
    const RECORDS: usize = 40;
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|machine| {
            let mut client = receive.client();
            std::thread::spawn(move || {
                for n in 0..RECORDS {
                    let key = format!("{machine}-{n}");
                    let id = client.next_id(Some(&format!("{key}-seq")));
                    let film = json!({ "id": id, "machine": format!("m{machine}"), "data": n.to_string() });
                    // Each is sent twice, as after a lost answer.
                    for _ in 0..2 {
                        assert_eq!(client.post(Some(&key), &film), (201, json!({ "id": id })));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    let films = receive.client().films();
    assert_eq!(films.len(), CONNECTIONS * RECORDS);
    for machine in 0..CONNECTIONS {
        let name = json!(format!("m{machine}"));
        let data: Vec<_> =
            films.iter().filter(|film| film["machine"] == name).map(|film| film["data"].clone()).collect();
        let sent: Vec<_> = (0..RECORDS).map(|n| json!(n.to_string())).collect();
        assert_eq!(data, sent, "m{machine}");
    }
}

#[test]
fn the_page_and_its_figures_are_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let mut client = receive.client();
    for (n, machine) in ["m-10", "m-2", "m-2", "<b>"].into_iter().enumerate() {
        let film = json!({ "id": n, "machine": machine, "data": "d" });
        assert_eq!(client.post(None, &film).0, 201);
    }
    let (status, live) = client.json("GET", "/api/live", None, "");
    assert_eq!((status, &live["films"], &live["machine_count"]), (200, &json!(4), &json!(3)));
    let machines: Vec<_> = live["machines"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| (m["name"].as_str(), m["films"].as_u64()))
        .collect();
    assert_eq!(machines, [(Some("<b>"), Some(1)), (Some("m-2"), Some(2)), (Some("m-10"), Some(1))]);
    assert_eq!(live["newest"][0]["machine"], "<b>", "the newest first");
    let (status, page) = client.request("GET", "/", None, "");
    assert_eq!(status, 200);
    // It works offline, and no name of a machine can become markup.
    for forbidden in ["src=\"http", "href=\"http", "url(http", "@import", "innerHTML"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    drop(client);
    // Counts survive a restart.
    assert_eq!(receive.stop(), Some(0));
    let receive = Receive::start(directory.path());
    assert_eq!(receive.client().json("GET", "/api/live", None, "").1["films"], 4);
}

#[test]
fn a_busy_address_and_a_file_that_is_no_database_are_said_plainly() {
    let directory = tempfile::tempdir().expect("a directory");
    let receive = Receive::start(directory.path());
    let run = |listen: &str, database: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringest"))
            .args(["receive", "--listen", listen, "--database"])
            .arg(database)
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, words) = run(&receive.address.to_string(), &directory.path().join("other.sqlite3"));
    assert_eq!(code, Some(i32::from(ringest::cli::exit::BUSY)), "{words}");
    let wrong = directory.path().join("text");
    std::fs::write(&wrong, "this is no database, but it is long enough to be taken for one".repeat(20))
        .expect("written");
    let (code, words) = run("127.0.0.1:0", &wrong);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("text cannot be opened"), "{words}");
}
