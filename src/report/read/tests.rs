use super::*;
use crate::report::at;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};

fn encoded(mut serializer: impl Serializer, values: &[u64]) -> String {
    let mut histogram = empty(2);
    values.iter().for_each(|value| histogram.record(*value).expect("it grows"));
    let mut bytes = Vec::new();
    serializer.serialize(&histogram, &mut bytes).expect("a Vec takes all");
    STANDARD.encode(bytes)
}

fn line(tag: &str, start: &str, values: &[u64]) -> String {
    format!("{tag}{start},1.000,0.5,{}\n", encoded(V2DeflateSerializer::new(), values))
}

fn run(log: &str) -> Result<Run, ReadError> {
    read(log.as_bytes(), "a", "a.hlog", Options::default())
}

fn cut(log: &str, from_s: f64, to_s: f64) -> Result<Run, ReadError> {
    read(log.as_bytes(), "a", "a.hlog", Options { from_s, to_s, ..Options::default() })
}

#[test]
fn logs_of_other_tools_are_read() {
    let plain = format!("12,1,0.5,{}\r\n", encoded(V2Serializer::new(), &[7, 9]));
    let log = format!("# a comment\n\n\"StartTimestamp\",\"and so on\"\n{plain}{}", line("", "13.5", &[11]).trim_end());
    let run = run(&log).expect("a log");
    assert_eq!((run.start_s, run.intervals, run.tags.len(), run.notes.len()), (12.0, 2, 1, 0));
    let untagged = run.tagged(None).expect("without a tag");
    assert_eq!((untagged.whole.len(), untagged.whole.max(), untagged.name()), (3, 11, "untagged"));
    let columns: Vec<_> = untagged.columns.iter().map(|column| (column.from_s, column.to_s)).collect();
    assert_eq!(columns, [(0.0, 1.0), (1.5, 2.5)]);
}

#[test]
fn times_count_from_the_base_from_the_start_or_from_1970() {
    let interval = line("Tag=t,", "5.000", &[1]);
    let absolute = line("Tag=t,", "1700000005.000", &[1]);
    let start = "#[StartTime: 1700000000.000 (seconds since epoch), Tue]\n";
    let base = "#[BaseTime: 1700000001.000 (seconds since epoch)]\n";
    let from = |log: String| {
        let run = run(&log).expect("a log");
        (run.start_s, run.tags[0].columns[0].from_s)
    };
    assert_eq!(from(interval.clone()), (5.0, 0.0));
    assert_eq!(from(absolute.clone()), (1_700_000_005.0, 0.0));
    assert_eq!(from(format!("{start}{interval}")), (1_700_000_000.0, 5.0));
    assert_eq!(from(format!("{start}{absolute}")), (1_700_000_000.0, 5.0));
    assert_eq!(from(format!("{start}{base}{interval}")), (1_700_000_000.0, 6.0));
    assert_eq!(from(format!("{base}{interval}")), (1_700_000_006.0, 0.0));
}

#[test]
fn a_log_that_was_appended_to_is_one_run() {
    let head = |s: u32| {
        format!("#[StartTime: 17000000{s:02}.000 (seconds since epoch)]\n#[BaseTime: 17000000{s:02}.000 (x)]\n")
    };
    let log = [head(0), line("Tag=t,", "0.000", &[1]), head(30), line("Tag=t,", "2.000", &[1])].concat();
    let run = run(&log).expect("a log");
    let from: Vec<f64> = run.tags[0].columns.iter().map(|column| column.from_s).collect();
    assert_eq!((from, run.end_s, run.length_s()), (vec![0.0, 32.0], 33.0, 33.0));
}

#[test]
fn a_last_line_that_is_broken_off_is_told_and_left_out() {
    let whole = line("Tag=t,", "0.000", &[1]) + &line("Tag=t,", "1.000", &[2]);
    let first = whole.lines().next().expect("two lines").len() + 1;
    for cut in first + 1..whole.len() - 1 {
        let run = run(&whole[..cut]).unwrap_or_else(|error| panic!("{cut}: {error}"));
        assert_eq!((run.intervals, run.notes.len()), (1, 1), "{cut}");
        assert!(run.notes[0].starts_with("line 2, the last one, is broken off and left out"), "{}", run.notes[0]);
    }
    assert_eq!(run(&whole[..whole.len() - 1]).expect("only the line feed is missing").intervals, 2);
}

#[test]
fn errors_name_the_line_and_what_is_wrong_with_it() {
    let good = line("Tag=t,", "0.000", &[1]);
    let payload = good.trim_end().rsplit(',').next().expect("four fields").to_owned();
    let v1 = STANDARD.encode([0x1c, 0x84, 0x93, 0x12, 0, 0, 0, 0]);
    let cases = [
        (
            "hello world\n".to_owned(),
            "a.hlog: line 1: START,LENGTH,MAX,HISTOGRAM are wanted; this is no HdrHistogram interval log",
        ),
        (
            "hello".to_owned(),
            "a.hlog: line 1: START,LENGTH,MAX,HISTOGRAM are wanted; this is no HdrHistogram interval log",
        ),
        (format!("{good}x,1,1,{payload}\n{good}"), "a.hlog: line 2: START is no number of seconds: \"x\""),
        (format!("{good}1,-1,1,{payload}\n{good}"), "a.hlog: line 2: LENGTH is no number of seconds: \"-1\""),
        (format!("{good}1,1,1,!!!\n{good}"), "a.hlog: line 2: the histogram is not base64, or broken off"),
        (format!("{good}1,1,1,{v1}\n{good}"), "a.hlog: line 2: the histogram is in encoding V1; V2 is read"),
        (
            format!("{good}1,1,1,{}\n{good}", &payload[..payload.len() / 8 * 4]),
            "a.hlog: line 2: the histogram is not base64, or broken off",
        ),
        (format!("{good}1,1,1,AAAAAAAA\n{good}"), "a.hlog: line 2: the histogram cannot be decoded: "),
        ("#[StartTime: 1.0 (seconds since epoch)]\n".to_owned(), "a.hlog: no interval in it"),
        (String::new(), "a.hlog: no interval in it"),
    ];
    for (log, wanted) in cases {
        let error = run(&log).expect_err("no good log").to_string();
        assert!(error.starts_with(wanted), "{error}\nwanted: {wanted}");
    }
    let binary =
        read(&[0xff, 0xfe, b'\n', b'x'][..], "a", "a.hlog", Options::default()).expect_err("binary").to_string();
    assert!(binary.starts_with("a.hlog: line 1: it is not text; this is no"), "{binary}");
}

#[test]
fn from_and_to_cut_by_where_an_interval_begins() {
    let log: String = (0..10).map(|second| line("Tag=t,", &format!("{second}.000"), &[second])).collect();
    let run = cut(&log, 2.0, 5.0).expect("three");
    assert_eq!((run.intervals, run.tags[0].whole.min(), run.tags[0].whole.max(), run.length_s()), (3, 2, 4, 3.0));
    assert_eq!(cut(&log, 20.0, 30.0).expect_err("none").to_string(), "a.hlog: no interval between --from and --to");
}

#[test]
fn other_units_become_nanoseconds() {
    let log = line("", "0.000", &[1_500]);
    let run = read(log.as_bytes(), "a", "a", Options { unit_ns: 1_000, ..Options::default() }).expect("a log");
    let p50 = at(&run.tags[0].whole, 0.5) as f64;
    assert!((p50 / 1.5e6 - 1.0).abs() < 0.02, "{p50}");
}

#[test]
fn a_long_run_has_wider_columns_and_loses_nothing() {
    let log: String = (0..5_000).map(|second| line("Tag=t,", &format!("{second}.000"), &[second, 7])).collect();
    let run = run(&log).expect("a log");
    let columns = &run.tags[0].columns;
    assert!((COLUMNS_MAX / 3..=COLUMNS_MAX).contains(&columns.len()), "{}", columns.len());
    assert_eq!(columns.iter().map(|column| column.histogram.len()).sum::<u64>(), 10_000);
    assert!(columns.windows(2).all(|pair| pair[0].to_s <= pair[1].from_s + 1e-6));
    assert!((columns[0].rate() - 2.0).abs() < 1e-6, "{}", columns[0].rate());
}

#[test]
fn the_longest_idle_time_is_no_column() {
    let log: String = (0..400).map(|n| line("Tag=t,", &format!("{}.000", n * 3600), &[1])).collect();
    let columns = run(&log).expect("a log").tags.remove(0).columns;
    assert!(columns.len() <= COLUMNS_MAX && columns.iter().map(|column| column.histogram.len()).sum::<u64>() == 400);
}
