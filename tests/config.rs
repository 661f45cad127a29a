//! Broken configurations: each file in `tests/config` has beside it, as `NAME.txt`, the problems that it must report.
//! With `RINGEST_BLESS=1` in the environment the expected texts are written anew, to be read before they are committed.

use ringest::access::{Access, Networks, Pattern, Patterns};
use ringest::config::{
    self, Answers, Authority, Batch, BatchForm, Confirm, Deliver, DeliverKey, Durability, First, Flow, Gateway,
    Journal, LaneKey, Limits, Line, MachineKeys, OnLineError, OnMissing, Parity, Sequence, Serial, Settings, Source,
    SourceKind, Stuck, Tcp, Url, WhenFull,
};
use ringest::delivery::confirm::{ConfirmPath, ShownAt};
use ringest::delivery::route::Reaction;
use ringest::framing::{
    Checksum, ChecksumForm, ChecksumKind, Covers, CrcName, Escape, Framing, FramingKind, Idle, Keep, LengthCounts,
    LengthField, Matching, NumberForm, OnIdle, Oversized, Place,
};
use ringest::http::server;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// The machine of all tests: messages name its CPUs.
const CPUS: [usize; 2] = [0, 1];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn ringest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringest")).args(arguments).output().unwrap()
}

#[test]
fn every_broken_file_reports_all_of_its_problems_with_their_remedies() {
    let bless = std::env::var_os("RINGEST_BLESS").is_some();
    let names = names();
    assert!(names.len() >= 20, "only {} files", names.len());
    let mut differences = String::new();
    for name in names {
        let text = std::fs::read_to_string(directory().join(format!("{name}.toml"))).unwrap();
        let problems =
            config::parse_on(&text, &format!("{name}.toml"), &CPUS).expect_err(&format!("{name}.toml was accepted"));
        for problem in &problems.list {
            assert!(!problem.remedy.is_empty(), "{name}: no remedy for {problem}");
            assert!(problem.place.is_some() || problem.what.contains("missing"), "{name}: no place for {problem}");
        }
        let report = format!("{problems}\n");
        let expected_path = directory().join(format!("{name}.txt"));
        if bless {
            std::fs::write(&expected_path, &report).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if report != expected {
            differences += &format!("=== {name}: expected\n{expected}=== {name}: reported\n{report}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn every_expected_text_belongs_to_a_file() {
    let names = names();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(names.contains(&stem), "{} has no .toml beside it", path.display());
    }
}

#[test]
fn check_prints_the_problems_and_ends_with_the_code_for_configurations() {
    let path = directory().join("unknown-keys.toml");
    let output = ringest(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("unknown-keys.toml:4:1: gateway.nme: this key is not known here"), "{message}");
    assert!(message.contains("did you mean \"name\"?"), "{message}");

    let output = ringest(&["check", "--json", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"][0]["key"], "gateway.nme");
    assert_eq!(report["problems"][0]["line"], 4);
    assert_eq!(report["problems"][0]["nearest"], "\"name\"");
}

#[test]
fn check_reports_a_file_that_is_not_there() {
    let output = ringest(&["check", "/nonexistent/ringest.toml"]);
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("the file cannot be read"), "{message}");
    assert!(message.contains("ringest config example"), "{message}");
}

#[test]
fn the_printed_example_passes_the_check_which_shows_what_would_run() {
    let example = ringest(&["config", "example"]);
    assert!(example.status.success());
    assert_eq!(std::str::from_utf8(&example.stdout), Ok(config::EXAMPLE));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringest.toml");
    std::fs::write(&path, &example.stdout).unwrap();

    let output = ringest(&["check", path.to_str().unwrap()]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    for expected in [
        "gauge-1  serial  /dev/serial/by-id/usb-FTDI_FT232R_A10K2-if00-port0 9600 8N1  end \"\\r\", trimmed, dropped beyond 4KiB",
        "power: accepted records survive a loss of power",
        "state        /var/lib/ringest",
        "POST http://127.0.0.1:8000/seq/ (id at \"/id\")",
        "POST http://127.0.0.1:8000/films/ (delivered at 201)",
        r#"{"id": 1, "machine": "gauge-1", "data": "12.345 mm"}"#,
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }

    let output = ringest(&["check", "--json", path.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["sources"][0]["kind"], "serial");
    assert_eq!(report["deliver_url"], "http://127.0.0.1:8000/films/");
}

#[test]
fn a_secret_header_comes_from_a_file_and_is_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("authorization");
    std::fs::write(&secret, "Token s3cr3t\n").unwrap();
    let text = format!(
        "source = [{{ name = \"a\", kind = \"tcp_connect\", connect = \"10.0.0.1:1\" }}]\n\
         [deliver]\nurl = \"http://127.0.0.1/\"\nheaders = {{ Authorization = {{ file = {secret:?} }}, X-Plant = \"3\" }}\n"
    );
    let settings = config::parse(&text, "test").unwrap();
    let header = |name: &str, value: &str| (name.to_owned(), value.into());
    assert_eq!(settings.deliver.headers, [header("Authorization", "Token s3cr3t"), header("X-Plant", "3")]);

    let path = directory.path().join("ringest.toml");
    std::fs::write(&path, &text).unwrap();
    for arguments in [&["check", path.to_str().unwrap()][..], &["check", "--json", path.to_str().unwrap()]] {
        let output = ringest(arguments);
        assert!(output.status.success());
        assert!(!String::from_utf8(output.stdout).unwrap().contains("s3cr3t"));
    }

    let inline = text.replace(&format!("{{ file = {secret:?} }}"), "\"Token s3cr3t\"");
    let message = config::parse(&inline, "test").unwrap_err().to_string();
    assert!(message.contains("deliver.headers.Authorization"), "{message}");
    assert!(!message.contains("s3cr3t"), "{message}");
}

/// A file in which nothing has its default.
const WHOLE: &str = r#"
[gateway]
name = "plant 3"
cores = [1]
state_dir = "/srv//ringest/"
admin = "[::1]:9700"
min_wait = "250us"
core_dumps = true

[journal]
durability = "memory"
commit_every = "250us"
segment_size = "1028KiB"
max_size = "8MiB"
window = "1MiB"
blocks = "/run/ringest"
when_full = "reject"
machine_keys = { count = 500, age = "2h" }

[framing.stx]
start = "0x02"
end = "0x0D03"
max = "64KiB"
oversized = "drop"
idle_gap = "40ms"
on_idle = "emit"
[framing.semi]
end = ";"
trim = false
checksum = "xor8"

[[source]]
name = "gauge"
kind = "serial"
path = "/dev/ttyS0"
line = "1200 7O2"
flow = "xonxoff"
on_missing = "fail"
framing = "stx"
silence_alarm = "1h"
[[source]]
name = "tcp"
kind = "tcp_listen"
listen = "0.0.0.0:4001"
lane = "address"
quick_ack = false
framing = "semi"
allow = ["10.0.4.0/24", "fd00::/8"]
deny = "10.0.4.66"
[[source]]
name = "out"
kind = "tcp_connect"
connect = "[fd00::7]:4001"
keepalive = "2m"
user_timeout = "90500ms"
reconnect_after = "5m"
[[source]]
name = "http"
kind = "http"
listen = "10.0.0.1:8080"
allow_remote = "plain"
sources = ["cam-*", "x"]
origins = ["https://plant.example"]
deny = ["10.0.0.66"]

[sequence]
url = "http://api.example/seq/?a=b"
id_at = "/data/0/id"
lease = 50
count_at = "/data/0/n"

[deliver]
url = "http://[::1]:8000"
body = '{"i": {{id}}, "s": {{source|json}}, "d": {{data|json}}}'
content_type = "text/csv"
headers.X-Plant = "3 b"
success = [200, 409]
answer_type = "application/json"
key = "record"
connections = 3
pipeline = 4
timeout = "2s"
connect_timeout = "1s"
idle = "30s"
max_connection_age = "20s"
retry.first = "10ms"
retry.max = "1s"
retry_after_max = "2h"
order = "lane"
drain = "0s"

[deliver.batch]
form = "array"
around = '{"films": {{records}}}'
records = 7
bytes = "2KiB"
wait = "3ms"
failures = 6

[deliver.answers]
retry = [404]
pause = [400]
confirm = [202]
attempts = 5
parked_max = 12
stuck = { attempts = 7, after = "1m", then = "park" }

[deliver.confirm]
path = "/films/{{id}}/"
data_at = "/film/data"
source_at = "/film/machine"

[limits]
read_buffer = "1KiB"
read_buffers = 64
header = "2KiB"
header_fields = 20
target = "200B"
body = "1KiB"
header_timeout = "1s"
body_timeout = "2s"
body_rate = "50B"
batch_records = 70
idle_timeout = "3s"
connections = 7
"#;

#[test]
fn every_key_reaches_its_setting() {
    use std::time::Duration;
    let settings = config::parse_on(WHOLE, "whole", &CPUS).unwrap();
    let Settings { gateway, journal, sources, sequence, deliver, limits, names } = settings;
    assert_eq!(
        gateway,
        Gateway {
            name: "plant 3".to_owned(),
            file: std::path::absolute("whole").unwrap(),
            cores: vec![1],
            state_dir: "/srv/ringest".into(),
            admin: "[::1]:9700".parse().unwrap(),
            min_wait: Duration::from_micros(250),
            core_dumps: true,
        }
    );
    assert_eq!(
        journal,
        Journal {
            durability: Durability::Memory,
            commit_every: Duration::from_micros(250),
            segment_bytes: 1028 << 10,
            max_bytes: 8 << 20,
            window_bytes: 1 << 20,
            blocks: "/run/ringest".into(),
            when_full: WhenFull::Reject,
            machine_keys: MachineKeys { count: 500, age: Duration::from_secs(7_200) },
        }
    );
    let delimiter = |end: &[u8]| FramingKind::Delimiter { ends: vec![end.to_vec()] };
    let sum = |kind| Some(Checksum::short(kind));
    let stx = Framing {
        kind: delimiter(b"\r\x03"),
        starts: vec![vec![2]],
        restart: true,
        idle: Some(Idle { gap: Duration::from_millis(40), policy: OnIdle::Emit }),
        trim: false,
        max_bytes: 64 << 10,
        oversized: Oversized::Drop,
        ..Framing::default()
    };
    let semi = Framing { kind: delimiter(b";"), trim: false, checksum: sum(ChecksumKind::Xor8), ..Framing::default() };
    let source = |name: &str, kind, framing, silence_alarm, first| Source {
        silence_alarm,
        first,
        ..Source::new(name, kind, framing)
    };
    let serial = Serial {
        path: "/dev/ttyS0".into(),
        line: Line { baud: 1200, data_bits: 7, parity: Parity::Odd, stop_bits: 2 },
        flow: Flow::XonXoff,
        on_missing: OnMissing::Fail,
        on_line_error: OnLineError::Reject,
    };
    let listen = SourceKind::TcpListen {
        listen: "0.0.0.0:4001".parse().unwrap(),
        lane: LaneKey::Address,
        quick_ack: false,
        names: BTreeMap::new(),
    };
    let connect =
        SourceKind::TcpConnect { connect: Authority { host: "fd00::7".to_owned(), port: 4001 }, quick_ack: true };
    let tcp = Tcp {
        keepalive: Duration::from_secs(120),
        user_timeout: Duration::from_millis(90_500),
        idle: Some(Duration::from_secs(300)),
    };
    let http = SourceKind::Http { listen: "10.0.0.1:8080".parse().unwrap(), lane: LaneKey::Source };
    let networks = |list: &[&str]| list.iter().map(|text| Networks::parse(text).unwrap()).collect();
    let of_tcp = Access {
        networks: Networks { allow: networks(&["10.0.4.0/24", "fd00::/8"]), deny: networks(&["10.0.4.66"]) },
        ..Access::default()
    };
    let of_http = Access {
        networks: Networks { allow: Vec::new(), deny: networks(&["10.0.0.66"]) },
        sources: Patterns(["cam-*", "x"].map(|text| Pattern::parse(text).unwrap()).into()),
        origins: vec![Arc::new("https://plant.example".to_owned())],
        ..Access::default()
    };
    let expected = [
        source("gauge", SourceKind::Serial(serial), stx, Some(Duration::from_secs(3600)), First::Discard),
        Source { access: of_tcp, ..source("tcp", listen, semi, None, First::Keep) },
        Source { tcp, ..source("out", connect, Framing::default(), None, First::Discard) },
        Source { access: of_http, ..source("http", http, Framing::default(), None, First::Keep) },
    ];
    assert_eq!(sources, expected);
    assert_eq!(*names, ["gauge", "http", "out", "tcp"].map(str::to_owned));
    let url = |host: &str, port, header: &str, target: &str| Url {
        secure: false,
        authority: Authority { host: host.to_owned(), port },
        host_header: header.to_owned(),
        target: target.to_owned(),
    };
    let expected = Sequence {
        url: url("api.example", 80, "api.example", "/seq/?a=b"),
        id_at: "/data/0/id".to_owned(),
        lease: 50,
        count_at: "/data/0/n".to_owned(),
    };
    assert_eq!(sequence, Some(expected));
    assert_eq!(
        deliver,
        Deliver {
            url: url("::1", 8000, "[::1]:8000", "/"),
            body: r#"{"i": {{id}}, "s": {{source|json}}, "d": {{data|json}}}"#.to_owned(),
            shows_text: true,
            content_type: "text/csv".to_owned(),
            tls: None,
            headers: vec![("X-Plant".to_owned(), "3 b".into())],
            header_files: Vec::new(),
            success: vec![200, 409],
            answer_type: Some("application/json".to_owned()),
            answer_id_at: None,
            key: DeliverKey::Record,
            answers: Answers {
                given: vec![(404, Reaction::Retry), (400, Reaction::Pause), (202, Reaction::Confirm),],
                attempts: 5,
                parked_max: 12,
                stuck: Some(Stuck { attempts: 7, after: Duration::from_secs(60) }),
                confirm: Some(Confirm {
                    path: ConfirmPath::parse("/films/{{id}}/", true).unwrap(),
                    shown_at: ShownAt { data: "/film/data".to_owned(), source: Some("/film/machine".to_owned()) },
                }),
            },
            batch: Some(Batch {
                form: BatchForm::Array { before: "{\"films\": ".to_owned(), behind: "}".to_owned() },
                records: 7,
                bytes: 2048,
                wait: Duration::from_millis(3),
                failures: 6,
            }),
            connections: 3,
            pipeline: 4,
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            idle: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(20),
            retry_first: Duration::from_millis(10),
            retry_max: Duration::from_secs(1),
            retry_after_max: Duration::from_secs(7_200),
            drain: Duration::ZERO,
        }
    );
    assert_eq!(
        limits,
        Limits {
            read_buffer_bytes: 1024,
            read_buffers: 64,
            http: server::Limits {
                header_bytes: 2048,
                header_fields: 20,
                target_bytes: 200,
                body_bytes: 1024,
                header_timeout: Duration::from_secs(1),
                body_timeout: Duration::from_secs(2),
                body_rate_bytes: 50,
                batch_records: 70,
                idle_timeout: Duration::from_secs(3),
            },
            connections: 7,
            connections_all: 16_384,
        }
    );
}

#[test]
fn every_way_to_end_a_record_reaches_its_setting() {
    use std::time::Duration;
    let text = r#"
        [framing.a]
        length = { offset = 3, bytes = 4, endian = "little", counts = "message", header = "keep" }
        start = "0xAA55"
        checksum = "crc32"
        max = "1KiB"
        [framing.b]
        start = ":"
        length = { bytes = 1, counts = "rest" }
        [framing.c]
        fixed = 70
        trim = true
        checksum = "sum8"
        idle_gap = "1s"
        [framing.d]
        idle_gap = "5ms"
        checksum = "crc16-modbus"
        oversized = "drop"
        [framing.e]
        length = {}
    "#;
    let framings = config::parse_framings(text, "framings").unwrap();
    let plain = Framing { trim: false, ..Framing::default() };
    let field = |offset, bytes, form, counts, keep_header| {
        FramingKind::Length(LengthField::plain(offset, bytes, form, counts, keep_header))
    };
    let sum = |kind| Some(Checksum::short(kind));
    let gap = |gap_ms, policy| Some(Idle { gap: Duration::from_millis(gap_ms), policy });
    let expected = [
        Framing {
            kind: field(3, 4, NumberForm::Little, LengthCounts::Message, true),
            starts: vec![vec![0xAA, 0x55]],
            checksum: sum(ChecksumKind::Crc(CrcName::Crc32IsoHdlc)),
            max_bytes: 1 << 10,
            ..plain.clone()
        },
        Framing {
            kind: field(1, 1, NumberForm::Big, LengthCounts::Rest, false),
            starts: vec![vec![b':']],
            ..plain.clone()
        },
        Framing {
            kind: FramingKind::Fixed { bytes: 70 },
            checksum: sum(ChecksumKind::Sum8),
            idle: gap(1_000, OnIdle::Discard),
            trim: true,
            max_bytes: 70,
            ..plain.clone()
        },
        Framing {
            kind: FramingKind::IdleGap,
            checksum: sum(ChecksumKind::Crc(CrcName::Crc16Modbus)),
            idle: gap(5, OnIdle::Emit),
            oversized: Oversized::Drop,
            ..plain.clone()
        },
        Framing { kind: field(0, 2, NumberForm::Big, LengthCounts::Payload, false), ..plain },
    ];
    assert_eq!(framings.keys().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    assert!(framings.values().eq(&expected), "{framings:#?}");
    let shown: Vec<String> = expected.iter().map(config::show_framing).collect();
    assert_eq!(
        shown,
        [
            "start 0xAA55, 4-byte length of the message at 3, little endian, header kept, checksum crc32, dropped beyond 1KiB",
            "start \":\", 1-byte length of the rest at 1, big endian, dropped beyond 4KiB",
            "70 bytes each, checksum sum8, discarded after 1s of silence, trimmed",
            "checksum crc16-modbus, end 5ms of silence, dropped beyond 4KiB",
            "2-byte length of the payload at 0, big endian, dropped beyond 4KiB",
        ]
    );
}

#[test]
fn what_may_not_be_meant_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringest.toml");
    let text = "[framing.unused]\nend = \"\\n\"\n\
                [[source]]\nname = \"a\"\nkind = \"http\"\nlisten = \"0.0.0.0:8080\"\nallow_remote = \"plain\"\n\
                [sequence]\nurl = \"http://127.0.0.1/\"\n\
                [deliver]\nurl = \"http://127.0.0.1/\"\nbody = '{{data|json}}'\n";
    std::fs::write(&path, text).unwrap();
    let notes: Vec<_> = config::check(&path).unwrap().notes.into_iter().map(|note| (note.key, note.what)).collect();
    let expected = [
        ("framing.unused", "no source uses this framing"),
        (
            "source \"a\".listen",
            "anyone who reaches this address can write records: there is no TLS, and nobody needs a token",
        ),
        ("deliver.body", "the ids of [sequence] are fetched but not sent"),
    ];
    assert_eq!(notes, expected.map(|(key, what)| (key.to_owned(), what.to_owned())));
    let output = ringest(&["check", path.to_str().unwrap()]);
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(":1:1: framing.unused: no source uses this framing"), "{shown}");
}

#[test]
fn a_machine_with_many_cores_runs_on_the_defaults() {
    let text = "source = [{ name = \"a\", kind = \"tcp_connect\", connect = \"10.0.0.1:1\" }]\n\
                deliver.url = \"http://127.0.0.1/\"\n";
    let cpus: Vec<usize> = (0..256).collect();
    let settings = config::parse_on(text, "many", &cpus).unwrap();
    assert_eq!(settings.gateway.cores, cpus);
    assert_eq!(settings.journal.max_bytes, 256 * 8 * (16 << 20));
    assert_eq!(settings.journal.window_bytes, 32 << 20);
    assert_eq!(settings.deliver.body, r#"{"machine": {{source|json}}, "data": {{data|json}}}"#);
}

#[test]
fn a_small_journal_gets_a_small_window() {
    let text = "source = [{ name = \"a\", kind = \"tcp_connect\", connect = \"10.0.0.1:1\" }]\n\
                deliver.url = \"http://127.0.0.1/\"\njournal = { segment_size = \"1MiB\", max_size = \"8MiB\" }\n";
    let settings = config::parse_on(text, "small", &CPUS).unwrap();
    assert_eq!(settings.journal.window_bytes, 4 << 20);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_accepted() {
    let text = format!("\u{feff}{}", config::EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(config::parse_on(&text, "dos", &CPUS), config::parse_on(config::EXAMPLE, "dos", &CPUS));
}

#[test]
fn every_prefix_of_the_example_is_accepted_or_reported_and_never_panics() {
    for end in (0..config::EXAMPLE.len()).filter(|end| config::EXAMPLE.is_char_boundary(*end)) {
        if let Err(problems) = config::parse_on(&config::EXAMPLE[..end], "prefix", &CPUS) {
            assert!(!problems.list.is_empty());
        }
    }
}

fn framing_of(keys: &str) -> Framing {
    let framings = config::parse_framings(&format!("[framing.x]\n{keys}"), "framing");
    framings.unwrap_or_else(|problems| panic!("{problems}")).remove("x").unwrap()
}

#[test]
fn what_the_machines_of_the_field_need_reaches_its_setting() {
    let text = r#"
        start = ["$", "0x21"]
        end = ["\r\n", "\n"]
        keep = ["end", "start"]
        restart = true
        checksum = { kind = "CRC-16/xmodem", form = "binary", endian = "big", covers = ["start", "end"], place = "before" }
        ignore = "0x0020"
        match = '^\$G'
        oversized = "cut"
    "#;
    let checksum = Checksum {
        form: ChecksumForm::Binary { big: true },
        covers: Covers { start: true, header: false, end: true },
        place: Place::Before,
        ..Checksum::short(ChecksumKind::Crc(CrcName::Crc16Xmodem))
    };
    let expected = Framing {
        kind: FramingKind::Delimiter { ends: vec![b"\r\n".to_vec(), b"\n".to_vec()] },
        starts: vec![b"$".to_vec(), b"!".to_vec()],
        keep: Keep { start: true, end: true },
        restart: true,
        checksum: Some(checksum),
        ignore: b"\0 ".to_vec(),
        matching: Some(Matching::new(r"^\$G").unwrap()),
        trim: false,
        oversized: Oversized::Cut,
        ..Framing::default()
    };
    assert_eq!(framing_of(text), expected);
    assert_eq!(
        config::show_framing(&expected),
        "start \"$\" or \"!\" (kept), end \"\\r\\n\" or \"\\n\" (kept), a start inside a record begins anew, checksum CRC-16/XMODEM \
         in big endian with start and end before the end, 0x0020 between records ignored, matching \"^\\\\$G\", cut beyond 4KiB"
    );

    let length = r#"length = { bytes = 3, mask = 0x3FFF, add = -2, trailer = 4, form = "binary" }
                    checksum = { bytes = 2 }"#;
    let field = LengthField {
        mask: 0x3FFF,
        add: -2,
        trailer_bytes: 4,
        ..LengthField::plain(0, 3, NumberForm::Big, LengthCounts::Payload, false)
    };
    let expected = Framing {
        kind: FramingKind::Length(field),
        checksum: Some(Checksum::short(ChecksumKind::Skip { bytes: 2 })),
        trim: false,
        ..Framing::default()
    };
    assert_eq!(framing_of(length), expected);
    assert_eq!(
        config::show_framing(&expected),
        "3-byte length of the payload at 0, big endian, masked by 0x3FFF, minus 2, a trailer of 4 bytes, 2 bytes passed over, \
         dropped beyond 4KiB"
    );
    for (word, form) in [("decimal", NumberForm::Decimal), ("hex", NumberForm::Hex)] {
        let framing = framing_of(&format!("length = {{ bytes = 8, form = {word:?} }}"));
        let expected = LengthField::plain(0, 8, form, LengthCounts::Payload, false);
        assert_eq!(framing.kind, FramingKind::Length(expected), "{word}");
    }
}

#[test]
fn a_start_that_is_one_control_byte_begins_anew_where_the_end_is_of_characters() {
    for (keys, restart) in [
        ("start = \"0x02\"\nend = \"0x03\"", true),
        ("start = [\"0x02\", \"0x01\"]\nend = [\"0x03\", \"\\r\"]", true),
        ("start = \"0x02\"\nend = \"0x03\"\nrestart = false", false),
        ("start = \"0x02\"\nend = \"0x83\"", false),
        ("start = \"0x0202\"\nend = \"0x03\"", false),
        ("start = \":\"\nend = \"\\r\"", false),
        ("start = \":\"\nend = \"\\r\"\nrestart = true", true),
        ("end = \"\\r\"", false),
        ("start = \"0x02\"\nlength = { bytes = 1 }", false),
        // A binary sum before the end may be a start.
        ("start = \"0x02\"\nend = \"0x03\"\nchecksum = { kind = \"xor8\", place = \"before\" }", false),
        ("start = \"0x02\"\nend = \"0x03\"\nchecksum = { kind = \"xor8\", place = \"before\", form = \"hex\" }", true),
        ("start = \"0x02\"\nend = \"0x03\"\nchecksum = \"xor8\"", true),
    ] {
        assert_eq!(framing_of(keys).restart, restart, "{keys}");
    }
}

#[test]
fn an_escape_brings_its_start_and_end() {
    let dle = framing_of("escape = \"dle\"");
    assert_eq!((dle.escape, dle.restart, dle.trim), (Some(Escape::Dle), true, false));
    assert_eq!((dle.starts, dle.kind), (vec![vec![0x10, 2]], FramingKind::Delimiter { ends: vec![vec![0x10, 3]] }));
    let slip = framing_of("escape = \"slip\"\nchecksum = \"CRC-16/KERMIT\"\nidle_gap = \"40ms\"");
    assert_eq!((slip.escape, slip.restart, slip.trim), (Some(Escape::Slip), false, false));
    assert_eq!((slip.starts, slip.kind), (vec![], FramingKind::Delimiter { ends: vec![vec![0xC0]] }));
    assert_eq!(slip.checksum.unwrap().place, Place::Before);
}

#[test]
fn a_section_may_begin_with_a_preset_and_a_source_may_name_one() {
    let nmea = config::preset("nmea").unwrap();
    let own =
        framing_of("preset = \"nmea\"\nmax = \"100B\"\nstart = []\nkeep = []\nrestart = false\nchecksum = \"none\"");
    let expected = Framing {
        starts: vec![],
        keep: Keep::default(),
        restart: false,
        checksum: None,
        max_bytes: 100,
        ..nmea.clone()
    };
    assert_eq!(own, expected);
    // Another way to end a record takes the place of the preset's.
    let own = framing_of("preset = \"stx-etx\"\nfixed = 12");
    assert_eq!((own.kind, own.starts, own.restart), (FramingKind::Fixed { bytes: 12 }, vec![vec![2]], false));
    let own = framing_of("preset = \"modbus-rtu\"\nidle_gap = \"5ms\"");
    assert_eq!(own.idle.map(|idle| idle.gap), Some(std::time::Duration::from_millis(5)));

    let source = "source = [{ name = \"a\", kind = \"tcp_connect\", connect = \"10.0.0.1:1\", framing = \"nmea\" }]\n\
                  [deliver]\nurl = \"http://127.0.0.1/\"\n";
    assert_eq!(config::parse_on(source, "test", &CPUS).unwrap().sources[0].framing, nmea);
    let of_file = config::parse_on(&format!("{source}[framing.nmea]\nend = \";\"\n"), "test", &CPUS).unwrap();
    assert_eq!(of_file.sources[0].framing.kind, FramingKind::Delimiter { ends: vec![b";".to_vec()] });

    let printed = ringest(&["config", "presets"]);
    assert!(printed.status.success());
    let printed = config::parse_framings(std::str::from_utf8(&printed.stdout).unwrap(), "presets").unwrap();
    assert_eq!(printed.len(), 11);
    assert!(printed.into_iter().all(|(name, framing)| config::preset(&name) == Some(framing)));
}

#[test]
fn check_notes_what_a_framing_says_in_vain_or_cannot_mend() {
    const SHIFTS: (&str, &str) = ("framing.f.fixed", "shifts every record");
    const CUTS: (&str, &str) = ("framing.f.oversized", "damage where there is a checksum");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringest.toml");
    for (keys, expected) in [
        ("fixed = 10", Some(SHIFTS)),
        ("fixed = 10\nchecksum = { bytes = 1 }", Some(SHIFTS)),
        ("fixed = 10\nmatch = '^A'", Some(SHIFTS)),
        ("fixed = 10\nchecksum = \"sum8\"", None),
        ("fixed = 10\nstart = \"0x02\"", None),
        ("fixed = 10\nidle_gap = \"40ms\"", None),
        ("end = \"0x03\"\nchecksum = \"sum8\"\noversized = \"cut\"", Some(CUTS)),
        ("end = \"0x03\"\noversized = \"cut\"", None),
        ("end = \"0x03\"\nchecksum = \"sum8\"", None),
    ] {
        let text = format!(
            "source = [{{ name = \"a\", kind = \"tcp_connect\", connect = \"10.0.0.1:1\", framing = \"f\" }}]\n\
             [deliver]\nurl = \"http://127.0.0.1/\"\n[framing.f]\n{keys}\n"
        );
        std::fs::write(&path, text).unwrap();
        let notes = config::check(&path).unwrap().notes;
        let notes: Vec<_> = notes.iter().filter(|note| note.key.starts_with("framing.")).collect();
        assert_eq!(notes.len(), usize::from(expected.is_some()), "{keys}: {notes:?}");
        if let Some((key, words)) = expected {
            assert!(notes[0].key == key && notes[0].what.contains(words), "{keys}: {notes:?}");
        }
    }
}

#[test]
fn the_table_of_presets_in_the_readme_is_what_they_stand_for() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table =
        readme.split("<!-- presets:").nth(1).and_then(|rest| rest.split("<!-- end of presets -->").next()).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `\"")).collect();
    let expected: Vec<String> = config::PRESETS
        .split("[framing.")
        .skip(1)
        .map(|section| {
            let (name, keys) = section.split_once(']').unwrap();
            let keys = keys.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            let keys: Vec<String> = keys.map(|key| format!("`{key}`")).collect();
            format!("| `\"{name}\"` | {} |", keys.join(", "))
        })
        .collect();
    assert_eq!(rows, expected);
}

/// The keys and words of what is wrong, or of the notes, with one source of these keys.
fn judged(keys: &str, look: config::Look<'_>) -> Vec<String> {
    let text = format!(
        "[framing.stx]\nstart = \"0x02\"\nend = \"0x03\"\n[framing.sum]\nend = \";\"\nchecksum = \"xor8\"\n\
         [framing.fixed]\nfixed = 8\n[framing.line]\nend = \"\\n\"\n\
         [[source]]\nname = \"a\"\n{keys}\n[deliver]\nurl = \"http://127.0.0.1/\"\n"
    );
    let said = |list: Vec<config::Problem>| {
        let of_source = list.into_iter().filter(|problem| problem.key.starts_with("source"));
        of_source.map(|problem| format!("{}: {}: {}", problem.key, problem.what, problem.remedy)).collect()
    };
    match config::parse_checked(&text, "test", &[0], look) {
        Ok(checked) => said(checked.notes),
        Err(problems) => said(problems.list),
    }
}

#[test]
fn a_close_ends_a_record_only_where_nothing_else_says_that_it_is_whole() {
    let emit = |framing: &str| {
        let keys =
            format!("kind = \"tcp_connect\"\nconnect = \"10.0.0.1:1\"\non_close = \"emit\"\nframing = \"{framing}\"");
        judged(&keys, &config::look_at_nothing)
    };
    assert_eq!(emit("line"), [""; 0]);
    for (framing, word) in [("stx", "a start"), ("sum", "a checksum"), ("fixed", "a length")] {
        let said = emit(framing);
        assert!(said.iter().any(|said| said.contains(".on_close: ") && said.contains(word)), "{said:?}");
    }
    let serial = "kind = \"serial\"\npath = \"/dev/ttyS0\"\non_close = \"emit\"";
    let said = judged(serial, &config::look_at_nothing).join("\n");
    assert!(said.contains("it belongs to tcp_listen and tcp_connect"), "{said}");
}

#[test]
fn a_listener_is_told_that_device_servers_may_connect_inside_of_a_record() {
    let listen = |more: &str| {
        let keys = format!("kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\n{more}");
        judged(&keys, &config::look_at_nothing).join("\n")
    };
    assert!(
        listen("").contains("source \"a\".first: ") && listen("").contains("first = \"discard\""),
        "{}",
        listen("")
    );
    for decided in ["first = \"keep\"", "first = \"discard\"", "framing = \"stx\""] {
        assert_eq!(listen(decided), "", "{decided}");
    }
}

#[test]
fn the_names_of_machines_are_good_names_of_one_machine_each() {
    let listen = |names: &str| {
        let keys =
            format!("kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nfirst = \"keep\"\nnames = {{ {names} }}");
        judged(&keys, &config::look_at_nothing).join("\n")
    };
    assert_eq!(listen("\"10.0.4.21\" = \"press-4\", \"fd00::7\" = \"press-5\""), "");
    for (names, words) in [
        ("\"10.0.4\" = \"press-4\"", "this is no IP address"),
        ("\"10.0.4.21\" = \"press 4\"", "cannot stand in a name"),
        ("\"10.0.4.21\" = 4", "not a string"),
        ("\"10.0.4.21\" = \"a\"", "source #1 has this name already"),
        ("\"10.0.4.21\" = \"p\", \"10.0.4.22\" = \"p\"", "has given this name to a machine already"),
        ("\"10.0.4.21\" = \"p\", \"::ffff:10.0.4.21\" = \"q\"", "this address is here twice"),
    ] {
        assert!(listen(names).contains(words), "{names}: {}", listen(names));
    }
    // A source that comes later may not have the name of a machine either.
    let later = "kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nnames = { \"10.0.4.21\" = \"b\" }\n\
                 [[source]]\nname = \"b\"\nkind = \"tcp_connect\"\nconnect = \"10.0.0.1:1\"";
    let said = judged(later, &config::look_at_nothing).join("\n");
    assert!(said.contains("source #2.name: source \"a\" has given this name to a machine already"), "{said}");
}

#[test]
fn what_is_no_port_and_what_is_one_port_twice_is_found() {
    let look = |path: &Path| match path.to_str().unwrap() {
        "/dev/ttyUSB0" => {
            config::Seen::Tty { device: 0xBC00, stable: Some("/dev/serial/by-id/usb-FTDI_A5XK3RJT-if00-port0".into()) }
        }
        "/dev/line-7" => config::Seen::Tty { device: 0xBC00, stable: None },
        "/dev/ttyS0" => config::Seen::Tty { device: 0x0440, stable: None },
        "/dev" => config::Seen::NoTty("a directory"),
        "/run/fifo" => config::Seen::NoTty("a FIFO"),
        _ => config::Seen::Nothing,
    };
    let port = |path: &str| judged(&format!("kind = \"serial\"\npath = \"{path}\""), &look).join("\n");
    assert_eq!(port("/dev/ttyS0"), "");
    assert_eq!(port("/dev/serial/by-id/to-be-plugged-in"), "");
    for (path, words) in [
        ("/dev", "there is a directory at this path"),
        ("/run/fifo", "there is a FIFO at this path"),
        ("/dev/ttyUSB*", "a pattern is not searched for"),
        ("/dev/ttyS[01]", "a pattern is not searched for"),
        ("/dev/ttyUSB0", "path = \"/dev/serial/by-id/usb-FTDI_A5XK3RJT-if00-port0\""),
        ("/dev/ttyACM3", "such names move"),
    ] {
        assert!(port(path).contains(words), "{path}: {}", port(path));
    }
    let twice = "kind = \"serial\"\npath = \"/dev/ttyUSB0\"\n[[source]]\nname = \"b\"\nkind = \"serial\"\npath = \"/dev/line-7\"";
    let said = judged(twice, &look).join("\n");
    let words = "source \"b\".path: source \"a\" reads this port already, by the name /dev/ttyUSB0";
    assert!(said.contains(words), "{said}");
}

#[test]
fn check_looks_at_the_paths_of_this_machine() {
    let directory = tempfile::tempdir().unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    let port = nix::unistd::ttyname(&pty.slave).unwrap();
    let link = directory.path().join("line-7");
    std::os::unix::fs::symlink(&port, &link).unwrap();
    let file = directory.path().join("ringest.toml");
    let check = |paths: &[&Path]| {
        let mut text = "[deliver]\nurl = \"http://127.0.0.1/\"\n".to_owned();
        for (index, path) in paths.iter().enumerate() {
            text += &format!("[[source]]\nname = \"s{index}\"\nkind = \"serial\"\npath = \"{}\"\n", path.display());
        }
        std::fs::write(&file, text).unwrap();
        let output = ringest(&["check", file.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&[&link]).0, Some(0));
    for (paths, words) in [
        (&[&port, &*link][..], "reads this port already, by the name"),
        (&[directory.path()][..], "there is a directory at this path"),
        (&[&*file][..], "there is a file at this path"),
        (&[Path::new("/dev/null")][..], "no serial port"),
    ] {
        let (code, said) = check(paths);
        assert_eq!(code, Some(3), "{paths:?}: {said}");
        assert!(said.contains(words) && said.contains("ringest.toml:"), "{said}");
    }
}

#[test]
fn headers_that_are_kept_reach_their_source_and_the_body_may_show_them() {
    let text = |keep: &str, body: &str| {
        format!(
            "source = [{{ name = \"a\", kind = \"http\", listen = \"127.0.0.1:8080\", {keep} }}]\n\
             [deliver]\nurl = \"http://127.0.0.1/\"\nbody = '{body}'\n"
        )
    };
    let body = r#"{"lot": "{{header.x-lot}}", "shift": {{header.X-SHIFT|json}}, "data": {{data|json}}}"#;
    let settings = config::parse(&text("keep_headers = [\"X-Lot\", \"X-Shift\"]", body), "test").unwrap();
    let keeps = settings.sources[0].forms.keeps.as_ref().expect("some");
    assert_eq!(keeps.names().collect::<Vec<_>>(), ["X-Lot", "X-Shift"]);
    let none = config::parse(&text("keep_headers = []", r#"{"data": {{data|json}}}"#), "test").unwrap();
    assert!(none.sources[0].forms.keeps.is_none());
    let message = config::parse(&text("keep_headers = \"X-Lot\"", body), "test").unwrap_err().to_string();
    assert!(message.contains("no source keeps the header X-SHIFT"), "{message}");
    assert!(message.contains("keep_headers = [\"X-SHIFT\"] in the [[source]]"), "{message}");

    // The example that check prints shows where they stand.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ringest.toml");
    std::fs::write(&path, text("keep_headers = [\"X-Lot\", \"X-Shift\"]", body)).unwrap();
    let output = ringest(&["check", path.to_str().unwrap()]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(r#"{"lot": "EXAMPLE", "shift": "EXAMPLE", "data": "12.345 mm"}"#), "{shown}");
}
