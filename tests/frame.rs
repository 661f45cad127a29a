//! `ringest frame`, the real binary on real files.

use std::path::PathBuf;
use std::process::{Command, Output};

fn ringest(arguments: &[&str], files: &[&PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringest")).arg("frame").args(arguments).args(files).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const CONFIG: &str = "[framing.gauge]\nstart = \"0x02\"\nend = \"0x03\"\nchecksum = \"xor8\"\nmax = \"4B\"\n\
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
framing: start 0x02, end 0x03, a start inside a record begins anew, checksum xor8, dropped beyond 4B

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
    let options = ["--json", "--start", r"\x02", "--end", "0x03", "--checksum", "xor8", "--max", "4B"];
    let output = ringest(&options, &[&capture]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let framing = "start 0x02, end 0x03, a start inside a record begins anew, checksum xor8, dropped beyond 4B";
    assert_eq!(report["framing"], framing);
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
fn flags_of_a_record_are_shown() {
    let files = Files::new();
    let options = ["--end", ";", "--max", "4B", "--oversized", "cut", "--idle-gap", "40ms", "--on-idle", "emit"];
    let output = ringest(&options, &[&files.file("capture", b"abcdef;gh")]);
    assert!(text(&output.stdout).contains("record (cut)                4 B  \"abcd\""), "{output:?}");
    assert!(text(&output.stdout).contains("record (unended)            2 B  \"gh\""), "{output:?}");
    assert!(text(&output.stdout).contains("2 records (1 cut, 1 unended)"), "{output:?}");
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
    let cases: [(&[&str], i32, &str); 12] = [
        (&["--end", "|"], 10, "there is no record in these bytes"),
        (&["--checksum", "crc8", "--length-bytes", "5"], 3, "--length-bytes = 5: out of bounds"),
        (&["--checksum", "{ kind = \"xor9\" }"], 3, "--checksum, kind = \"xor9\": this word is not known here"),
        (&["--checksum", "{ kind = xor8 }"], 2, "this is no table of TOML"),
        (&["--preset", "nmeaa"], 3, "did you mean \"nmea\"?"),
        (&["--encoding", "big6"], 2, "there is no encoding of this label"),
        (&["--gap-at", "17"], 2, "there are only 17 bytes"),
        (&["--match", "("], 3, "--match = \"(\": this is no regular expression"),
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

fn case(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/framing/cases").join(name)
}

/// The report of `ringest frame --json` on one file.
fn report(options: &[&str], file: &PathBuf) -> serde_json::Value {
    let output = ringest(&[&["--json"], options].concat(), &[file]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The texts of the records of a report.
fn records(report: &serde_json::Value) -> Vec<&str> {
    let frames = report["frames"].as_array().unwrap().iter();
    frames.filter(|frame| frame["kind"] == "record").map(|frame| frame["text"].as_str().unwrap()).collect()
}

/// The framings that the captures in `tests/framing/cases` came with.
const OF_CASES: &str = r#"
[framing.stx-etx]
start = "0x02"
end = "0x03"
[framing.len]
start = "0xAA55"
length = { offset = 2, bytes = 2, endian = "big", counts = "payload", header = "drop" }
checksum = "crc16-modbus"
max = "256B"
oversized = "drop"
[framing.len1]
start = "0x02"
length = { offset = 1, bytes = 1 }
checksum = "crc16-modbus"
max = "64B"
oversized = "drop"
[framing.fixed-sum]
fixed = 36
checksum = "sum8"
"#;

fn report_of_case(framing: &str, name: &str) -> serde_json::Value {
    let files = Files::new();
    let config = files.file("ringest.toml", OF_CASES.as_bytes());
    report(&["--framing", framing, "--config", config.to_str().unwrap()], &case(name))
}

#[test]
fn a_lost_end_costs_the_record_that_lost_it_and_no_other() {
    for report in [
        report_of_case("stx-etx", "01-lost-etx.bin"),
        report(&["--preset", "stx-etx"], &case("01-lost-etx.bin")),
        report(&["--start", "0x02", "--end", "0x03"], &case("01-lost-etx.bin")),
    ] {
        assert_eq!(records(&report), ["W+009.999", "W+005.000"], "{report}");
        assert_eq!(report["summary"]["rejected"], serde_json::json!({ "unfinished": 1 }), "{report}");
    }
    let report = report(&["--preset", "stx-etx", "--restart", "false"], &case("01-lost-etx.bin"));
    assert_eq!(records(&report).len(), 2, "{report}");
    assert_eq!(report["summary"]["rejected"], serde_json::json!({}), "{report}");
}

#[test]
fn one_wrong_length_costs_one_record() {
    let report = report_of_case("len", "02-length-above-max.bin");
    assert_eq!(report["summary"]["records"], 4_000, "{}", report["summary"]);
    assert_eq!(report["summary"]["rejected"], serde_json::json!({ "length": 1 }), "{}", report["summary"]);
}

#[test]
fn a_false_start_costs_no_record() {
    let report = report_of_case("len1", "04-false-start.bin");
    assert_eq!(report["summary"]["records"], 20, "{}", report["summary"]);
}

#[test]
fn a_block_check_may_cover_the_end() {
    for options in [
        &["--preset", "stx-etx-bcc"][..],
        &["--start", "0x02", "--end", "0x03", "--checksum", "{ kind = \"xor8\", covers = [\"end\"] }"],
    ] {
        let report = report(options, &case("05-bcc-covers-etx.bin"));
        assert_eq!(records(&report), ["W+001.234"], "{report}");
        assert_eq!(report["framing"].as_str().unwrap().matches("checksum xor8 with end").count(), 1, "{report}");
    }
}

#[test]
fn a_record_is_shown_in_its_encoding_and_what_does_not_fit_it_has_a_flag() {
    let capture = case("12-big5.bin");
    let report_of_big5 = report(&["--encoding", "big5"], &capture);
    assert_eq!(records(&report_of_big5), ["許功蓋,溫度過高,NG"], "{report_of_big5}");
    assert_eq!(report_of_big5["summary"]["undecodable"], 0);
    let output = ringest(&["--encoding", "big5"], &[&capture]);
    assert!(text(&output.stdout).contains("18 B  \"許功蓋,溫度過高,NG\""), "{output:?}");
    let report_of_utf8 = report(&["--encoding", "utf-8"], &capture);
    assert_eq!(report_of_utf8["frames"][0]["flags"], serde_json::json!(["undecodable"]), "{report_of_utf8}");
    assert_eq!(report_of_utf8["summary"]["undecodable"], 1);
    let output = ringest(&["--encoding", "utf-8"], &[&capture]);
    assert!(text(&output.stdout).contains("record (undecodable)"), "{output:?}");
    assert!(text(&output.stdout).contains("1 records (0 cut, 0 unended, 1 undecodable)"), "{output:?}");
    // Without an encoding nothing is said about it.
    assert_eq!(report(&[], &capture)["summary"].get("undecodable"), None);
}

#[test]
fn a_fixed_length_finds_its_step_again_by_its_checksum_and_never_without() {
    let report_of_sum = report_of_case("fixed-sum", "18-fixed-lost-byte.bin");
    assert_eq!(report_of_sum["summary"]["records"], 49, "{}", report_of_sum["summary"]);
    let report = report(&["--fixed", "10"], &case("15-fixed-dropped-byte.bin"));
    assert_eq!(records(&report)[0], "ABCDEFGHI\\n", "{report}");
    assert_eq!(records(&report)[1], "ABCDEFGI\\nA", "{report}");
}

#[test]
fn seven_bits_with_a_parity_are_hinted_at_and_read() {
    let capture = case("16-7e1-on-8n1.bin");
    let output = ringest(&[], &[&capture]);
    assert_eq!(output.status.code(), Some(10));
    assert!(text(&output.stdout).contains("hint: all bytes have even parity"), "{output:?}");
    assert!(text(&output.stdout).contains("strip_bit7 = true"), "{output:?}");
    for options in [&["--strip-bit7"][..], &["--strip-bit7=true"]] {
        let report = report(options, &capture);
        assert_eq!(records(&report), ["W,+001.234kg"], "{report}");
        assert_eq!(report["hints"], serde_json::json!([]), "{report}");
    }
}

#[test]
fn a_silence_can_be_put_before_a_byte() {
    let files = Files::new();
    let request: &[u8] = &[0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87];
    let capture = files.file("capture", &request.repeat(3));
    let options = ["--preset", "modbus-rtu", "--gap-at", "16", "--gap-at", "8"];
    let report_of_gaps = report(&options, &capture);
    let frames = report_of_gaps["frames"].as_array().unwrap();
    let places: Vec<(u64, &str)> =
        frames.iter().map(|frame| (frame["offset"].as_u64().unwrap(), frame["hex"].as_str().unwrap())).collect();
    assert_eq!(places, [(0, "1103006b0003"), (8, "1103006b0003"), (16, "1103006b0003")]);
    assert_eq!(report(&options[..2], &capture)["summary"]["rejected"], serde_json::json!({ "checksum": 1 }));
    // Offsets count over all captures.
    let output =
        ringest(&["--json", "--preset", "modbus-rtu", "--gap-at", "32", "--gap-at", "24"], &[&capture, &capture]);
    let report_of_two: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report_of_two["summary"]["records"], 1, "{report_of_two}");
    assert_eq!(report_of_two["frames"][1]["offset"], 24, "{report_of_two}");
    let report_of_lines = report(&["--gap-at", "1"], &files.file("line", b"12.5\r"));
    assert!(report_of_lines["hints"][0].as_str().unwrap().contains("no idle_gap"), "{report_of_lines}");
}

#[test]
fn presets_read_what_they_are_named_after() {
    let files = Files::new();
    let nmea = b"$GPGLL,5057.970,N,00146.110,E,142451,A*27\r\n!AIVDM,1,1,,A,x,0\r\n$GPGLL,5057.970,N,00146.110,E,142452,A*27\r\n";
    for (preset, capture, expected, rejected) in [
        ("lines", &b"12.5 mm\r\n13 mm\n"[..], &["12.5 mm", "13 mm"][..], 0),
        ("cr", b"12.5 mm\r13 mm\r\n", &["12.5 mm", "13 mm"], 0),
        ("crlf", b"12.5\rmm\r\n13 mm\r\n", &["12.5\\rmm", "13 mm"], 0),
        ("nmea", nmea, &["$GPGLL,5057.970,N,00146.110,E,142451,A", "!AIVDM,1,1,,A,x,0"], 1),
        ("modbus-ascii", b":1103006B00037E\r\n:1103006B00047E\r\n", &["1103006B0003"], 1),
        ("slip", b"\xC0a\xDB\xDCb\xDB\xDDc\xC0", &["a\\xc0b\\xdbc"], 0),
        ("dle", b"\x10\x02a\x10\x10b\x10\x03\x10\x02c\x10\x03", &["a\\x10b", "c"], 0),
        ("ubx", &[0xB5, 0x62, 0x0A, 0x04, 0x00, 0x00, 0x0E, 0x34], &["\\n\\x04\\x00\\x00"], 0),
    ] {
        let report = report(&["--preset", preset], &files.file("capture", capture));
        assert_eq!(records(&report), expected, "{preset}: {report}");
        let counts = report["summary"]["rejected"].as_object().unwrap().values();
        assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), rejected, "{preset}: {report}");
    }
    // A file without such a section leaves the name to the preset.
    let config = files.file("ringest.toml", b"[framing.own]\nend = \";\"\n");
    let options = ["--framing", "lines", "--config", config.to_str().unwrap()];
    assert_eq!(records(&report(&options, &files.file("capture", b"a\nb\n"))), ["a", "b"]);
}

#[test]
fn options_of_a_length_reach_it() {
    let files = Files::new();
    let options =
        ["--start", ":", "--length-form", "hex", "--length-add=-1", "--length-mask", "0xff", "--length-trailer", "2"];
    let report = report(&options, &files.file("capture", b":06hello\r\n"));
    let expected = "2-character length of the payload at 1, hexadecimal, masked by 0xFF, minus 1, a trailer of 2 bytes";
    assert!(report["framing"].as_str().unwrap().contains(expected), "{report}");
    assert_eq!(records(&report), ["hello"], "{report}");
}

#[test]
fn lines_that_end_otherwise_are_hinted_at() {
    let files = Files::new();
    let output = ringest(&[], &[&files.file("capture", &b"12.5 mm\n".repeat(3))]);
    assert!(text(&output.stdout).contains(r#"end = "\n" in its framing"#), "{output:?}");
    let output = ringest(&[], &[&files.file("capture", b"\xFF\xFD\x01login: \r\n")]);
    assert!(text(&output.stdout).contains("hint: the other side speaks telnet"), "{output:?}");
}
