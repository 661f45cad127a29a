//! `ringest frame`, the real binary on real files.

use std::path::PathBuf;
use std::process::{Command, Output};

fn ringest(arguments: &[&str], files: &[&PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringest")).arg("frame").args(arguments).args(files).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const CONFIG: &str = "[framing.gauge]\nstart = \"0x02\"\nend = \"0x03\"\nchecksum = \"xor8\"\nmax = \"4B\"\noversized = \"cut\"\n\
                      [framing.modbus]\nidle_gap = \"4ms\"\nchecksum = \"crc16-modbus\"\n[gateway]\nname = 1\n";
/// Garbage, "ab", one with a wrong checksum, one that is too long, an empty and an unfinished one.
const CAPTURE: &[u8] = b"noise\x02ab\x03\x03\x02ab\x03\x04\x02abcdef\x03\x07\x02\x03\0\x02a";

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn records_and_what_is_rejected_are_shown_as_text_and_hexadecimal_with_their_places() {
    let files = Files::new();
    // What is wrong elsewhere in the file does not matter for trying a framing.
    let config = files.file("ringest.toml", CONFIG.as_bytes());
    let capture = files.file("capture", CAPTURE);
    let output = ringest(&["--framing", "gauge", "--config", config.to_str().unwrap()], &[&capture]);
    assert!(output.status.success(), "{output:?}");
    let expected = "\
framing: start 0x02, end 0x03, checksum xor8, cut beyond 4B

       0  garbage                     5 B  \"noise\"
          6e 6f 69 73 65
       6  record                      2 B  \"ab\"
          61 62
      11  rejected (checksum)         2 B  \"ab\"
          61 62
      16  rejected (oversized)        4 B  \"abcd\"
          61 62 63 64
      20  garbage                     4 B  \"ef\\x03\\x07\"
          65 66 03 07
      24  empty                       0 B
      27  rejected (unfinished)       1 B  \"a\"
          61

29 bytes: 1 records (0 cut, 0 unended), 1 empty frames; rejected: 1 checksum, 1 oversized, 1 unfinished; garbage: 9 bytes
";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn options_make_the_same_framing_and_json_says_the_same() {
    let files = Files::new();
    let capture = files.file("capture", CAPTURE);
    let options =
        ["--json", "--start", r"\x02", "--end", "0x03", "--checksum", "xor8", "--max", "4B", "--oversized", "cut"];
    let output = ringest(&options, &[&capture]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["framing"], "start 0x02, end 0x03, checksum xor8, cut beyond 4B");
    let kinds: Vec<&str> = report["frames"].as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["garbage", "record", "rejected", "rejected", "garbage", "empty", "rejected"]);
    assert_eq!(
        report["frames"][1],
        serde_json::json!({ "offset": 6, "kind": "record", "bytes": 2, "text": "ab", "hex": "6162" })
    );
    assert_eq!(report["frames"][2]["reason"], "checksum");
    // What is too long cannot be verified: with a checksum it is never cut.
    assert_eq!(report["frames"][3]["reason"], "oversized");
    assert_eq!(
        report["summary"],
        serde_json::json!({
            "bytes": 29, "records": 1, "cut": 0, "unended": 0, "empty": 1, "garbage_bytes": 9,
            "rejected": { "checksum": 1, "oversized": 1, "unfinished": 1 },
        })
    );
}

#[test]
fn each_file_is_a_burst_between_two_silences() {
    let files = Files::new();
    let config = files.file("ringest.toml", CONFIG.as_bytes());
    let request = files.file("request", &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87]);
    let damaged = files.file("damaged", &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x04, 0x76, 0x87]);
    let options = ["--json", "--framing", "modbus", "--config", config.to_str().unwrap()];
    let output = ringest(&options, &[&request, &damaged, &request]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let frames = report["frames"].as_array().unwrap();
    assert_eq!(frames.len(), 3, "{report}");
    assert_eq!((&frames[0]["hex"], &frames[0]["offset"]), (&"1103006b0003".into(), &0.into()));
    assert_eq!((&frames[1]["reason"], &frames[1]["offset"]), (&"checksum".into(), &8.into()));
    assert_eq!((&frames[2]["hex"], &frames[2]["offset"]), (&"1103006b0003".into(), &16.into()));
}

#[test]
fn a_plain_line_needs_no_option_and_a_length_its_own() {
    let files = Files::new();
    let lines = files.file("lines", b"12.5 mm\r\n13 mm\r\n");
    let output = ringest(&[], &[&lines]);
    assert!(text(&output.stdout).contains("16 bytes: 2 records (0 cut, 0 unended)"), "{output:?}");

    let counted = files.file("counted", b"\x02T\x05\0hello\x02T\x02\0ok");
    let options = ["--start", "\x02", "--length-offset", "2", "--length-bytes", "2", "--length-endian", "little"];
    let output = ringest(&options, &[&counted]);
    assert!(text(&output.stdout).contains("       4  record                      5 B  \"hello\""), "{output:?}");
    assert!(text(&output.stdout).contains("2 records"), "{output:?}");
}

#[test]
fn what_cannot_be_used_is_said_with_its_option_and_its_exit_code() {
    let files = Files::new();
    let capture = files.file("capture", b"nothing ends here");
    let config = files.file("ringest.toml", CONFIG.as_bytes());
    let config = config.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--end", "|"], 10, "there is no record in these bytes"),
        (&["--checksum", "crc8", "--length-bytes", "3"], 3, "--length-bytes = 3: a length of three bytes is not known"),
        (&["--end", r"\q"], 2, r"--end"),
        (&["--framing", "guage", "--config", config], 3, "did you mean \"gauge\"?"),
        (&["--framing", "gauge", "--config", "/nonexistent.toml"], 3, "cannot be read"),
        (&["--framing", "gauge", "--end", "x"], 2, "cannot be used with"),
    ];
    for (options, code, words) in cases {
        let output = ringest(options, &[&capture]);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {output:?}");
        assert!(text(&output.stderr).contains(words), "{options:?}: {output:?}");
    }
    let output = ringest(&[], &[&PathBuf::from("/nonexistent")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent: No such file"), "{output:?}");
}
