//! `ringest status`: one look at a running gateway.

mod machines;

use super::{Failure, exit};
use crate::engine::admin::client;
use crate::ground::text::{COLUMNS, counted, fold, fold_sum};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Sources that are shown with a problem, and without one.
const SOURCES_MAX: usize = 20;
/// SOURCEs that are named of one reason.
const MACHINES_MAX: usize = 8;
/// Blanks between two columns of a table.
const GAP: usize = 2;
/// So many columns a name has at least.
const NAME_COLUMNS_MIN: usize = 12;

/// Arguments of `ringest status`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address of the gateway's admin server, as in the configuration's `gateway.admin`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9600")]
    admin: String,
    /// Print the document of /api/status as it is
    #[arg(long)]
    json: bool,
    /// Show what listeners refused, by source and reason, with the last of each
    #[arg(long)]
    refused: bool,
    /// Show every machine: how it is, what it has sent and what of that waits; the worst first
    #[arg(long, conflicts_with = "refused")]
    machines: bool,
    /// Only machines in whose name, source or state this text is
    #[arg(long, value_name = "TEXT", requires = "machines")]
    filter: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// [`exit::NOT_OK`] when no gateway answers, the accounting does not balance, a core is silent or a journal has a problem.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    if arguments.refused {
        return show_refused(&arguments);
    }
    if arguments.machines {
        return machines::show(&arguments);
    }
    let status = fetch(&arguments.admin)?;
    let shown = if arguments.json { format!("{status}\n") } else { screen(&status) };
    print(&shown)?;
    let failing = failing(&status);
    if failing.is_empty() { Ok(()) } else { Err(Failure::new(exit::NOT_OK, failing.join("\nringest: "))) }
}

/// A reader that went away (`| head`) is no failure of this command.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn show_refused(arguments: &Arguments) -> Result<(), Failure> {
    let document = get(&arguments.admin, "/api/refused", |document| document["refused"].is_array())?;
    if arguments.json { print(&format!("{document}\n")) } else { print(&refused_screen(&document)) }
}

/// What was refused: a line a source and reason, and below it the last of them.
fn refused_screen(document: &Value) -> String {
    let mut out = String::new();
    for kind in list(document, "refused") {
        let times = counted(kind["count"].as_u64().unwrap_or(0), "time");
        let head = format!("{}: {}, {times}", text(kind, "source"), text(kind, "reason"));
        fold(&mut out, ("", 0), 4, &head);
        let machines = kind["machines"].as_object().into_iter().flatten();
        let mut machines: Vec<(&str, u64)> =
            machines.map(|(name, count)| (name.as_str(), count.as_u64().unwrap_or(0))).collect();
        machines.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), name.to_owned()));
        if !machines.is_empty() {
            let shown = machines.iter().take(MACHINES_MAX).map(|(name, count)| format!("{name} {count}"));
            let more = machines.len().saturating_sub(MACHINES_MAX);
            let more = if more > 0 { format!(", and {}", counted(more as u64, "more machine")) } else { String::new() };
            fold(&mut out, ("  ", 2), 4, &format!("by SOURCE: {}{more}", shown.collect::<Vec<_>>().join(", ")));
        }
        for last in list(kind, "last").iter().rev() {
            let times = last["times"].as_u64().unwrap_or(1);
            let times = if times > 1 { format!(" ({times} times in a row)") } else { String::new() };
            let (peer, line) = (last["peer"].as_str().unwrap_or("-"), text(last, "line"));
            let line = if line.is_empty() { String::new() } else { format!(" {line}:") };
            fold(&mut out, ("  ", 2), 4, &format!("{} {peer}{line} {}{times}", text(last, "at"), text(last, "rule")));
        }
    }
    if out.is_empty() {
        out.push_str("nothing was refused since the gateway started\n");
    }
    out
}

/// Gets the document of `/api/status`.
///
/// # Errors
/// [`exit::NOT_OK`] with what to look at when nobody answers, or something that is no gateway.
pub fn fetch(admin: &str) -> Result<Value, Failure> {
    get(admin, "/api/status", |document| document["terms"].is_object())
}

fn get(admin: &str, path: &str, is_ours: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    let not_ok = |message: String| Failure::new(exit::NOT_OK, message);
    let answer = client::get(admin, path, TIMEOUT).map_err(|error| {
        not_ok(format!("{error}: is the gateway running, and is {admin} its [gateway] admin address (see --admin)?"))
    })?;
    let document: Option<Value> = serde_json::from_slice(&answer.body).ok().filter(Value::is_object);
    match document {
        Some(document) if answer.status == 200 && is_ours(&document) => Ok(document),
        _ => Err(not_ok(format!(
            "{admin} answers with status {} and no gateway's document: is it the admin address of a gateway?",
            answer.status
        ))),
    }
}

/// What makes the exit code, in words. The areas are those of [`crate::observe::report::Area::is_failing`].
fn failing(status: &Value) -> Vec<String> {
    let mut failing = Vec::new();
    if status["balanced"] != Value::Bool(true) {
        failing.push("the accounting does not balance".to_owned());
    }
    for problem in list(status, "problems") {
        if matches!(text(problem, "area"), "core" | "journal") {
            failing.push(problem_line(problem));
        }
    }
    failing
}

/// `source oven: no such port`; a core's name says what it is already.
fn problem_line(problem: &Value) -> String {
    let (area, name, words) = (text(problem, "area"), text(problem, "name"), text(problem, "text"));
    if name.starts_with(area) { format!("{name}: {words}") } else { format!("{area} {name}: {words}") }
}

/// The whole screen. Values that the document lacks (an older or newer gateway) show as 0 or `-`.
fn screen(status: &Value) -> String {
    let mut out = String::new();
    let uptime = seconds(status["uptime_s"].as_f64());
    let about = format!("ringest {}, durability {}, up {uptime}", text(status, "version"), text(status, "durability"));
    let _ = writeln!(out, "{}  ({about})\n", text(status, "name"));
    accounting(&mut out, status);
    stages(&mut out, status);
    sources(&mut out, status);
    lines(&mut out, status);
    routes(&mut out, status);
    cores(&mut out, status);
    process(&mut out, status);
    let problems = list(status, "problems");
    if !problems.is_empty() {
        let _ = writeln!(out, "problems");
        // Hundreds of ports can be away at once, and what concerns all stands before them.
        let (of_sources, others): (Vec<_>, Vec<_>) = problems.iter().partition(|problem| problem["area"] == "source");
        for problem in others.iter().chain(of_sources.iter().take(SOURCES_MAX)) {
            fold(&mut out, ("  ", 2), 4, &problem_line(problem));
        }
        if of_sources.len() > SOURCES_MAX {
            let more = counted((of_sources.len() - SOURCES_MAX) as u64, "more source");
            let _ = writeln!(out, "  … and {more} with a problem, which --json shows");
        }
    }
    out
}

fn accounting(out: &mut String, status: &Value) {
    let terms = &status["terms"];
    let term = |name: &str| format!("{name} {}", number(terms, name));
    let sum = ["delivered", "pending", "parked", "rejected", "discarded"].map(term).join(" + ");
    let verdict = if status["balanced"] == Value::Bool(true) { "balanced" } else { "DOES NOT BALANCE" };
    let words = format!("{} + {} = {sum}  ({verdict})", term("received"), term("recovered"));
    fold_sum(out, ("", 0), 4, &words);
    out.push('\n');
}

fn stages(out: &mut String, status: &Value) {
    let Some(stages) = status["stages"].as_object().filter(|stages| !stages.is_empty()) else {
        out.push_str("no record has passed yet\n\n");
        return;
    };
    // JSON objects have no order: the stages come in the order of a record's way, then those that are not known here.
    let known = crate::ground::count::Stage::ALL.map(|stage| stage.name());
    let mut names: Vec<&str> = known.into_iter().filter(|name| stages.contains_key(*name)).collect();
    names.extend(stages.keys().map(String::as_str).filter(|name| !known.contains(name)));
    let mut table = Table::new(&["stage", ">records", ">p50", ">p90", ">p99", ">p99.9", ">max"]);
    for name in names {
        let stage = &stages[name];
        let mut row = vec![name.to_owned(), number(stage, "count")];
        row.extend(["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|key| micros(stage[key].as_f64())));
        table.row(row);
    }
    table.print(out);
}

fn sources(out: &mut String, status: &Value) {
    let sources = list(status, "sources");
    let (wrong, fine): (Vec<&Value>, Vec<&Value>) = sources.iter().partition(|source| source["problem"].is_string());
    let mut table = Table::new(&["source", "kind", ">open", ">received", ">rejected", ">bytes", ">last byte", "state"]);
    for source in wrong.iter().take(SOURCES_MAX).chain(fine.iter().take(SOURCES_MAX)) {
        table.row(vec![
            text(source, "name").to_owned(),
            text(source, "kind").to_owned(),
            number(source, "open"),
            number(source, "received"),
            number(source, "rejected"),
            bytes(source["bytes"].as_u64()),
            ago(source["silent_s"].as_f64()),
            state(source),
        ]);
    }
    table.print(out);
    if wrong.len() > SOURCES_MAX {
        let more = counted((wrong.len() - SOURCES_MAX) as u64, "more source");
        let _ = writeln!(out, "… and {more} with a problem\n");
    }
    if fine.len() > SOURCES_MAX {
        let more = counted((fine.len() - SOURCES_MAX) as u64, "more source");
        let _ = writeln!(out, "… and {more} without a problem\n");
    }
}

/// The serial lines on which something happened; `-` is what a driver does not count.
fn lines(out: &mut String, status: &Value) {
    const MARKED: [&str; 2] = ["breaks", "errors"];
    const COUNTED: [&str; 5] = ["breaks", "framing_errors", "parity_errors", "overruns", "buffer_overruns"];
    let noisy = |line: &Value| {
        let happened = |value: &Value, keys: &[&str]| keys.iter().any(|key| value[*key].as_u64().unwrap_or(0) > 0);
        happened(line, &MARKED) || happened(&line["driver"], &COUNTED)
    };
    let sources = list(status, "sources").iter().filter(|source| source["line"].is_object());
    let (noisy, quiet): (Vec<&Value>, Vec<&Value>) = sources.partition(|source| noisy(&source["line"]));
    let heads = ["line", ">breaks", ">errors", ">driver: breaks", ">framing", ">parity", ">overrun", ">buffer"];
    let mut table = Table::new(&heads);
    for source in noisy.iter().take(SOURCES_MAX) {
        let line = &source["line"];
        let driver = &line["driver"];
        let mut row = vec![text(source, "name").to_owned()];
        row.extend(MARKED.map(|key| number(line, key)));
        row.extend(COUNTED.map(|key| if driver.is_object() { number(driver, key) } else { "-".to_owned() }));
        table.row(row);
    }
    table.print(out);
    if !quiet.is_empty() {
        let lines = if noisy.is_empty() { "serial line" } else { "other serial line" };
        let _ = writeln!(out, "no break and no error on {}\n", counted(quiet.len() as u64, lines));
    }
    if noisy.len() > SOURCES_MAX {
        let more = counted((noisy.len() - SOURCES_MAX) as u64, "more line");
        let _ = writeln!(out, "… and {more} with breaks or errors\n");
    }
}

fn routes(out: &mut String, status: &Value) {
    // What is wrong is long, and stands below.
    let state = |route: &Value| match (route["problem"].is_string(), route["waits_s"].as_f64()) {
        (true, None) => "fails".to_owned(),
        (true, Some(wait_s)) => format!("fails; next try in {}", seconds(Some(wait_s))),
        (false, Some(wait_s)) => format!("next try in {}", seconds(Some(wait_s))),
        (false, None) => "ok".to_owned(),
    };
    let mut table = Table::new(&["api", ">connections", ">in flight", ">last success", "state"]);
    for route in list(status, "routes") {
        table.row(vec![
            text(route, "authority").to_owned(),
            number(route, "connections"),
            number(route, "in_flight"),
            ago(route["last_success_s"].as_f64()),
            state(route),
        ]);
    }
    table.print(out);
}

fn cores(out: &mut String, status: &Value) {
    let mut table = Table::new(&["core", ">lanes", ">segments", ">on disk", ">window", ">behind", "journal"]);
    for shard in list(status, "shards") {
        let journal = &shard["journal"];
        table.row(vec![
            number(shard, "core"),
            number(shard, "lanes"),
            number(journal, "segments"),
            bytes(journal["bytes"].as_u64()),
            bytes(journal["window_bytes"].as_u64()),
            number(journal, "behind"),
            state(journal),
        ]);
    }
    table.print(out);
}

fn process(out: &mut String, status: &Value) {
    let process = &status["process"];
    let cpu_s = |key: &str| process[key].as_f64().unwrap_or(0.0);
    let each = process["cpu_us_per_record"].as_f64().map_or("-".to_owned(), |us| micros(Some(us)));
    let _ = writeln!(
        out,
        "memory {}   CPU {:.1} s user, {:.1} s system, {each} per record\n",
        bytes(process["rss_bytes"].as_u64()),
        cpu_s("cpu_user_s"),
        cpu_s("cpu_system_s"),
    );
}

/// Rows under a heading, each column as wide as its widest cell; a heading that starts with `>` is set right. Where rows would be
/// too long for a terminal the names in the first column are cut, never a number.
struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        Self { rows: vec![heads.iter().map(|head| head.trim_start_matches('>').to_owned()).collect()], right }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints nothing when there is no row but the heading.
    fn print(&self, out: &mut String) {
        if self.rows.len() < 2 {
            return;
        }
        let columns = self.right.len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns).map(width).collect();
        let excess = (widths.iter().sum::<usize>() + GAP * (columns - 1)).saturating_sub(COLUMNS);
        widths[0] = widths[0].min(NAME_COLUMNS_MIN).max(widths[0].saturating_sub(excess));
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let cell = &*within(cell, width);
                let gap = if column == 0 { "" } else { "  " };
                let _ = match self.right[column] {
                    true => write!(line, "{gap}{cell:>width$}"),
                    false => write!(line, "{gap}{cell:<width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
}

/// A name in so many columns: of a longer one the middle is left out.
fn within(name: &str, columns: usize) -> Cow<'_, str> {
    let length = name.chars().count();
    if length <= columns {
        return Cow::Borrowed(name);
    }
    let (head, tail) = (columns / 2, columns - columns / 2 - 1);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

/// A count with its thousands set apart: `1,234,567`.
fn number(value: &Value, key: &str) -> String {
    let digits = value[key].as_u64().unwrap_or(0).to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What is wrong is long, and stands below.
fn state(value: &Value) -> String {
    if value["problem"].is_string() { "fails" } else { "ok" }.to_owned()
}

fn micros(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 10.0 => format!("{us:.1} µs"),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 1e5 => format!("{:.2} ms", us / 1e3),
        Some(us) if us < 1e6 => format!("{:.0} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

fn seconds(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.map(|seconds| seconds as u64) else { return "-".to_owned() };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// In its largest unit: a column has no room for more.
fn ago(age_s: Option<f64>) -> String {
    let Some(age_s) = age_s.map(|age_s| age_s as u64) else { return "never".to_owned() };
    match age_s {
        0..60 => format!("{age_s} s ago"),
        60..3_600 => format!("{} min ago", age_s / 60),
        3_600..172_800 => format!("{} h ago", age_s / 3_600),
        _ => format!("{} days ago", age_s / 86_400),
    }
}

fn bytes(bytes: Option<u64>) -> String {
    let mut value = bytes.unwrap_or(0) as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 10.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_durations_and_sizes_are_written_for_people() {
        let values = json!({ "a": 7, "b": 1234, "c": 1_234_567, "d": 100 });
        assert_eq!(["a", "b", "c", "d"].map(|key| number(&values, key)), ["7", "1,234", "1,234,567", "100"]);
        assert_eq!(
            [3.25, 250.0, 1500.0, 2.5e5, 3e6].map(|us| micros(Some(us))),
            ["3.2 µs", "250 µs", "1.50 ms", "250 ms", "3.00 s"]
        );
        assert_eq!(
            [5.9, 61.0, 7260.0, 200_000.0].map(|s| seconds(Some(s))),
            ["5 s", "1 min 1 s", "2 h 1 min", "2 days"]
        );
        assert_eq!([1, 1023, 1536, 64 << 20].map(|n| bytes(Some(n))), ["1 B", "1023 B", "1.5 KiB", "64 MiB"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">n", "state"]);
        table.row(vec!["a".into(), "1".into(), "ok".into()]);
        table.row(vec!["longer".into(), "1000".into(), "µ".into()]);
        let mut out = String::new();
        table.print(&mut out);
        assert_eq!(out, "name       n  state\na          1  ok\nlonger  1000  µ\n\n");
    }

    #[test]
    fn an_unbalanced_sum_a_silent_core_and_a_journal_problem_fail_and_a_source_does_not() {
        let fine = json!({ "balanced": true, "problems": [{ "area": "source", "name": "a", "text": "missing" }] });
        assert!(failing(&fine).is_empty());
        assert_eq!(failing(&json!({ "balanced": false, "problems": [] })).len(), 1);
        for (area, line) in [("core", "core 0: full"), ("journal", "journal core 0: full")] {
            let wrong = json!({ "balanced": true, "problems": [{ "area": area, "name": "core 0", "text": "full" }] });
            assert_eq!(failing(&wrong), [line]);
        }
        assert_eq!(failing(&json!({})).len(), 1, "a document without a verdict is no good news");
    }

    #[test]
    fn what_is_missing_is_shown_and_does_not_fail() {
        let problem = json!({ "area": "missing", "name": "records", "text": "12 records are missing" });
        let status = json!({ "balanced": true, "problems": [problem] });
        assert!(failing(&status).is_empty());
        assert!(screen(&status).contains("problems\n  missing records: 12 records are missing\n"));
    }

    #[test]
    fn lines_show_what_happened_and_what_their_driver_does_not_count() {
        let counts = json!({ "breaks": 2, "framing_errors": 1, "parity_errors": 0, "overruns": 0, "buffer_overruns": 4,
            "received_bytes": 9, "sent_bytes": 0 });
        let line = |name: &str, breaks: u64, driver: Value| {
            json!({ "name": name, "kind": "serial", "problem": null,
            "line": { "breaks": breaks, "errors": 0, "driver": driver } })
        };
        let tcp = json!({ "name": "tcp", "kind": "tcp_listen" });
        let quiet = line("c", 0, Value::Null);
        let status = json!({ "sources": [line("a", 2, counts), line("b", 1, Value::Null), quiet.clone(), tcp] });
        let mut out = String::new();
        lines(&mut out, &status);
        let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["a", "2", "0", "2", "1", "0", "0", "4"], "{out}");
        assert_eq!(rows[2], ["b", "1", "0", "-", "-", "-", "-", "-"], "{out}");
        assert!(out.ends_with("\n\nno break and no error on 1 other serial line\n\n"), "{out}");
        out.clear();
        lines(&mut out, &json!({ "sources": [quiet] }));
        assert_eq!(out, "no break and no error on 1 serial line\n\n");
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide() {
        let problem = "no such port: /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0 is not there; it is tried again";
        let name = |number: u32| format!("inspection-machine-of-hall-{number}-at-the-far-end");
        let line = json!({ "breaks": 12, "errors": 34_567, "driver": { "breaks": 12, "framing_errors": 123_456, "parity_errors": 7,
            "overruns": 1_234_567, "buffer_overruns": 4 } });
        let source = |number| {
            json!({ "name": name(number), "kind": "tcp_connect", "open": 1, "received": 1_234_567_u64, "rejected": 12_345,
                "bytes": 123_456_789_u64, "silent_s": 3_599.0, "problem": problem, "line": line })
        };
        let sources: Vec<Value> = (0..25).map(source).collect();
        let problems: Vec<Value> =
            (0..25).map(|n| json!({ "area": "source", "name": name(n), "text": problem })).collect();
        let journal = json!({ "segments": 123, "bytes": 1_u64 << 33, "window_bytes": 1 << 25, "behind": 1_234_567, "problem": problem });
        let status = json!({ "balanced": true, "sources": sources, "problems": problems,
            "shards": [{ "core": 0, "lanes": 10_000, "journal": journal }],
            "routes": [{ "authority": "films.example.com:8080", "connections": 64, "in_flight": 64, "last_success_s": 3_599.0,
                "waits_s": 247.0, "problem": problem }] });
        let shown = screen(&status);
        let longest = shown.lines().max_by_key(|line| line.chars().count()).expect("lines");
        assert!(longest.chars().count() <= 80, "{longest}\n{shown}");
        assert!(
            shown.contains("-at-the-far-end") && shown.contains("1,234,567") && shown.contains("5 more sources"),
            "{shown}"
        );
    }

    #[test]
    fn the_screen_stands_a_document_without_anything() {
        assert!(screen(&json!({})).contains("DOES NOT BALANCE"));
    }
}
