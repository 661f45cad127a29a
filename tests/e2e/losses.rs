//! Records that damage has taken: told with their number wherever an operator looks, until one acknowledges that.

use crate::machines::TcpMachine;
use crate::process::{Gateway, PATIENCE, Receiver, eventually, refused};
use crate::queue::{files, json, queue};
use crate::site::{Site, assert_rows, free_address, record};
use ringest::engine::admin::client;
use ringest::journal::format::VERSION;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Records of a group, which is one block.
const GROUP: usize = 3;
const GROUPS: usize = 4;
/// Blocks begin at multiples of this.
const SECTOR: usize = 512;

fn place_of(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|at| at == text.as_bytes())
}

/// A gateway that was stopped while nobody took its records.
struct Stopped {
    site: Site,
    config: PathBuf,
}

impl Stopped {
    fn new() -> Self {
        let site = Site::new();
        let tcp = free_address();
        let config = site.config().journal("durability", "\"power\"").tcp_listen("servers", tcp);
        let config = config.deliver("drain", "\"10ms\"").write(&site);
        let gateway = Gateway::start(&site, &config);
        let mut machine = TcpMachine::connect(tcp);
        let bytes = || gateway.status().counter("journal_bytes");
        for group in 0..GROUPS {
            let written = bytes();
            machine.send((group * GROUP..(group + 1) * GROUP).map(|number| record("press", number))).expect("sent");
            eventually("the group to be committed", || (bytes() > written).then_some(()));
        }
        gateway.stop();
        Self { site, config }
    }

    fn place(&self) -> &str {
        self.config.to_str().expect("a path")
    }

    fn state(&self) -> String {
        self.site.path("state").display().to_string()
    }

    /// The segment that has the records, and its bytes.
    fn segment(&self) -> (PathBuf, Vec<u8>) {
        let first = record("press", 0);
        let directory = std::fs::read_dir(self.site.path("state/core-0")).expect("a directory");
        let paths = directory.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        let mut files = paths.map(|path| (path.clone(), std::fs::read(path).expect("its bytes")));
        files.find(|(_, bytes)| place_of(bytes, &first).is_some()).expect("a segment has them")
    }

    /// Takes away all that lies behind the records of the first groups.
    fn keep_groups(&self, groups: usize) {
        let (path, mut bytes) = self.segment();
        let lost = place_of(&bytes, &record("press", groups * GROUP)).expect("there");
        let kept = place_of(&bytes, &record("press", groups * GROUP - 1)).expect("there");
        let begin = lost / SECTOR * SECTOR;
        assert!(kept < begin, "each group has its own block");
        bytes[begin..].fill(0);
        std::fs::write(path, bytes).expect("written");
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.site, &self.config)
    }

    fn metric(&self) -> Option<u64> {
        let answer = client::get(&self.site.admin.to_string(), "/metrics", PATIENCE).expect("the gateway answers");
        let text = String::from_utf8(answer.body).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("ringest_missing_records "));
        line.and_then(|value| value.parse().ok())
    }

    /// How many records are told to be missing, by all that tell it.
    fn told(&self, gateway: &Gateway) -> u64 {
        let status = gateway.status().0;
        let missing = &status["missing"];
        let records = missing["records"].as_u64().expect("a number");
        assert_eq!(missing["exact"], true);
        let of_losses = missing["losses"].as_array().expect("a list").iter().map(|loss| loss["records"].as_u64());
        assert_eq!(of_losses.sum::<Option<u64>>(), Some(records), "{missing}");
        assert_eq!(self.metric(), Some(records));
        let health = gateway.get("/healthz");
        let reasons: Vec<&Value> =
            health["reasons"].as_array().into_iter().flatten().filter(|reason| reason["area"] == "missing").collect();
        if records > 0 {
            let text = reasons[0]["text"].as_str().expect("words");
            assert!(text.starts_with(&format!("{records} records are missing in the journal of core 0 (")), "{text}");
            assert!(text.ends_with(&format!("Z: ringest queue acknowledge {}", self.place())), "{text}");
            assert_eq!(health["status"], "degraded");
        } else {
            assert!(reasons.is_empty(), "{health}");
        }
        records
    }

    fn verify(&self) -> (i32, String) {
        queue(&["verify", &self.state()], &self.site)
    }
}

#[test]
fn what_is_missing_is_told_with_its_number_by_every_start_until_it_is_acknowledged() {
    let stopped = Stopped::new();
    let (site, place) = (&stopped.site, stopped.place());
    assert_eq!(stopped.verify().0, 0);
    stopped.keep_groups(GROUPS - 1);
    let (code, text) = queue(&["verify", place], site);
    assert_eq!(code, 10, "{text}");
    let remedy = format!("ringest queue acknowledge {place}");
    assert!(text.contains("ringest: 3 records are missing in the journal of core 0 (numbers "), "{text}");
    assert!(text.contains(&remedy), "{text}");
    let (_, text) = queue(&["verify", place, "--json"], site);
    let verified: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let loss = &verified["losses"][0];
    assert_eq!((&verified["ok"], &loss["records"], &loss["exact"]), (&json!(false), &json!(3), &json!(true)));
    assert_eq!(loss["last"].as_u64().zip(loss["first"].as_u64()).map(|(last, first)| last - first), Some(2));
    assert_eq!(loss["found_at"], Value::Null, "no start has found it yet");

    // Told by each start, also after a kill.
    let mut gateway = stopped.start();
    assert_eq!(stopped.told(&gateway), 3);
    let found_at = gateway.status().0["missing"]["losses"][0]["found_at"].clone();
    assert!(found_at.is_string(), "{found_at}");
    gateway.process.kill();
    let mut gateway = stopped.start();
    assert_eq!(stopped.told(&gateway), 3);
    assert_eq!(gateway.status().0["missing"]["losses"][0]["found_at"], found_at);
    let log = gateway.process.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let remedy = format!("once somebody knows of it: ringest queue acknowledge {}", stopped.place());
    assert_eq!(
        (lines("ERROR 3 records are missing in the journal of core 0 (numbers "), log.matches(&*remedy).count()),
        (1, 2)
    );
    assert_eq!(
        lines("WARN not acknowledged yet: 3 records are missing in the journal of core 0 (numbers "),
        1,
        "{log}"
    );
    let (code, screen) = status(site);
    assert_eq!(code, 0, "the gateway does its work: {screen}");
    assert!(screen.contains("missing records: 3 records are missing in the journal of core 0 (numbers"), "{screen}");
    gateway.process.kill();
    let gateway = stopped.start();
    gateway.stop();
    let (code, text) = stopped.verify();
    assert!(code == 10 && text.contains("3 records are missing") && !text.contains("damaged"), "{text}");

    // Acknowledged it is gone, for good.
    let mut gateway = stopped.start();
    let (code, text) = queue(&["acknowledge", place], site);
    assert_eq!((code, text.trim()), (0, "3 missing records: acknowledged"));
    gateway.process.kill();
    let gateway = stopped.start();
    assert_eq!(stopped.told(&gateway), 0);
    assert!(gateway.process.log().contains("3 missing records: acknowledged by an operator (POST /api/acknowledge)"));
    let (code, text) = queue(&["acknowledge", place], site);
    assert!(code == 10 && text.contains("nothing is missing that is not acknowledged"), "{text}");
    gateway.stop();
    assert_eq!(json(&["verify", place, "--json"], site)["losses"], json!([]));

    let _receiver = Receiver::start(site);
    let gateway = stopped.start();
    assert_eq!(stopped.told(&gateway), 0);
    gateway.wait_delivered(((GROUPS - 1) * GROUP) as u64);
    gateway.stop();
    assert_rows(&site.rows(), &[("press", (GROUPS - 1) * GROUP)]);
}

fn status(site: &Site) -> (i32, String) {
    let output =
        crate::process::ringest().args(["status", "--admin", &site.admin.to_string()]).output().expect("it runs");
    (output.status.code().expect("it ends by itself"), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn a_journal_of_a_newer_version_is_refused_by_every_command_and_not_changed() {
    let stopped = Stopped::new();
    let (site, place) = (&stopped.site, stopped.place());
    let directory = site.path("state/core-0");
    let is_epoch = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-"));
    let (path, mut epoch) = files(&directory).into_iter().find(|(path, _)| is_epoch(path)).expect("an epoch file");
    // The stamp: magic, format, program, and a CRC over them.
    let newer = VERSION + 1;
    epoch[8..12].copy_from_slice(&newer.to_le_bytes());
    let crc = crc32c::crc32c(&epoch[..28]);
    epoch[28..32].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &epoch).expect("written");
    let before = files(&directory);
    let said = |code: Option<i32>, text: &str, command: &str| {
        assert_eq!(code, Some(9), "{command}: {text}");
        assert!(text.contains(&format!("is in format {newer}, written by ringest ")), "{command}: {text}");
        assert!(files(&directory) == before, "{command} has changed a file");
    };
    let (code, text) = refused(site, &stopped.config);
    said(code, &text, "run");
    for arguments in [["verify", place], ["list", place], ["export", place], ["acknowledge", place]] {
        let (code, text) = queue(&arguments, site);
        said(Some(code), &text, arguments[0]);
    }
    assert!(!site.path("state/decisions").exists());
}

#[test]
fn what_is_acknowledged_while_the_gateway_is_stopped_is_not_told_by_its_next_start() {
    let stopped = Stopped::new();
    let (site, place) = (&stopped.site, stopped.place());
    let (code, text) = queue(&["acknowledge", place], site);
    assert!(code == 10 && text.contains("nothing is missing"), "{text}");
    assert!(!site.path("state/decisions").exists());
    stopped.keep_groups(GROUPS - 1);
    let (code, text) = queue(&["acknowledge", &stopped.state()], site);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("3 missing records: to be acknowledged when the gateway starts"), "{text}");
    let (_, text) = queue(&["list", place], site);
    assert!(text.contains("3 missing records: to be acknowledged when the gateway starts"), "{text}");
    let (code, text) = stopped.verify();
    assert!(code == 10 && text.contains("the journal is damaged") && !text.contains("are missing"), "{text}");

    let mut gateway = stopped.start();
    eventually("the decision to be done", || (!site.path("state/decisions").exists()).then_some(()));
    assert_eq!(stopped.told(&gateway), 0);
    assert!(
        gateway.process.log().contains("3 missing records: acknowledged by an operator (ringest queue acknowledge")
    );
    let (code, text) = queue(&["acknowledge", &stopped.state()], site);
    assert!(code == 5 && text.contains("give its configuration file"), "{text}");
    gateway.process.kill();
    let gateway = stopped.start();
    assert_eq!(stopped.told(&gateway), 0);
    gateway.stop();
    assert_eq!(stopped.verify(), (0, stopped.verify().1));
}

#[test]
fn a_loss_that_nobody_saw_is_not_acknowledged_by_an_earlier_decision() {
    let stopped = Stopped::new();
    stopped.keep_groups(GROUPS - 1);
    assert_eq!(queue(&["acknowledge", stopped.place()], &stopped.site).0, 0);
    stopped.keep_groups(GROUPS - 2);
    let gateway = stopped.start();
    eventually("the decision to be done", || (!stopped.site.path("state/decisions").exists()).then_some(()));
    assert_eq!(stopped.told(&gateway), 6);
    gateway.stop();
}

#[test]
fn the_directory_of_a_core_that_is_no_more_stays_until_what_it_misses_is_acknowledged() {
    let stopped = Stopped::new();
    let directory = stopped.site.path("state/core-3");
    // Without damaged bytes in quarantine nothing else keeps it.
    std::fs::remove_file(stopped.segment().0).expect("removed");
    std::fs::rename(stopped.site.path("state/core-0"), &directory).expect("renamed");
    let missing = |gateway: &Gateway| {
        let missing = gateway.status().0["missing"].clone();
        (missing["records"].as_u64(), missing["losses"][0]["core"].as_u64())
    };
    for _ in 0..2 {
        let gateway = stopped.start();
        assert_eq!(missing(&gateway), (Some((GROUPS * GROUP) as u64), Some(3)));
        gateway.stop();
        assert!(directory.exists(), "all that is left of it is to be told");
    }
    let gateway = stopped.start();
    assert_eq!(queue(&["acknowledge", stopped.place()], &stopped.site).0, 0);
    assert_eq!(missing(&gateway), (Some(0), None));
    gateway.stop();
    assert!(!directory.exists());
}
