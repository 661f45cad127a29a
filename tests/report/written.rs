//! What the command prints and writes, against recorded files.

use crate::{fixture, json, printed, refused, report};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The recorded text of a name; what differs is shown whole, so that it can be looked at and recorded.
fn assert_recorded(name: &str, text: &str) {
    let recorded = fs::read_to_string(fixture(name)).unwrap_or_default();
    assert!(recorded == text, "{name} is recorded as\n{recorded}\nand is now\n{text}");
}

/// Writes a report's files; their names.
fn write(directory: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let place = directory.to_str().expect("a path");
    printed(&[&["--out", place], arguments].concat());
    let entries = fs::read_dir(directory).expect("the directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

/// Each element is closed, in order; enough for what has no comments and no script.
fn assert_balanced(name: &str, text: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("{name}: no end of <{tag}"));
        let element = tag.trim_start_matches('/').split([' ', '/']).next().expect("a name");
        let is_void = tag.starts_with(['?', '!']) || tag.ends_with('/') || element == "meta";
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(element), "{name}");
        } else if !is_void {
            open.push(element);
        }
    }
    assert!(open.is_empty(), "{name}: {open:?} stay open");
}

#[test]
fn the_table_of_one_log_is_as_recorded() {
    assert_recorded("table.txt", &printed(&["golden.hlog"]));
}

#[test]
fn logs_are_compared_side_by_side_by_their_names() {
    let text = printed(&["before=golden.hlog", "after=foreign.hlog", "--tag", "whole", "--tag", "untagged"]);
    assert_recorded("compared.txt", &text);
    let runs = json(&["before=golden.hlog", "foreign.hlog"]);
    assert_eq!((&runs["runs"][0]["name"], &runs["runs"][1]["name"]), (&"before".into(), &"foreign".into()));
}

#[test]
fn from_and_to_leave_out_what_begins_elsewhere() {
    let run = &json(&["golden.hlog", "--from", "1", "--to", "3"])["runs"][0];
    assert_eq!((&run["intervals"], &run["tags"][0]["count"]), (&2.into(), &796.into()), "{run}");
    let (code, text) = refused(&["golden.hlog", "--from", "1h"]);
    assert!(code == Some(2) && text.contains("no number of seconds"), "{text}");
}

#[test]
fn a_directory_gets_distributions_plots_and_a_page_that_needs_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("new/report");
    let names = write(&out, &["golden.hlog"]);
    let seen = ["answered", "durable", "id", "whole"];
    let all = ["answered", "durable", "frame", "id", "journaled", "whole"];
    let heats = seen.map(|tag| format!("heat.golden.{tag}.svg"));
    let distributions = all.map(|tag| format!("golden.{tag}.hgrm"));
    let others = ["percentiles.svg", "report.html", "throughput.svg"].map(str::to_owned);
    assert_eq!(names, heats.into_iter().chain(distributions).chain(others).collect());
    assert_recorded("whole.hgrm", &fs::read_to_string(out.join("golden.whole.hgrm")).expect("written"));
    for name in names.iter().filter(|name| !name.ends_with(".hgrm")) {
        let text = fs::read_to_string(out.join(name)).expect("written");
        assert_balanced(name, &text);
        let text = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for elsewhere in
            ["http:", "https:", "<script", "<link", "<img", "src=", "href=", "url(", "@import", "@font-face"]
        {
            assert!(!text.contains(elsewhere), "{name} has {elsewhere}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{name} has a number that is none");
    }
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("name=\"viewport\""));
    assert_eq!(page.matches("<svg").count(), 2 * (1 + 1 + seen.len()), "each plot for wide and for narrow screens");
}

#[test]
fn several_logs_have_a_plot_of_percentiles_a_tag() {
    let directory = tempfile::tempdir().expect("a directory");
    // A name that is neither a file's nor markup.
    let names = write(directory.path(), &["a/<b>=golden.hlog", "b=golden.hlog"]);
    for name in
        ["percentiles.whole.svg", "percentiles.durable.svg", "throughput.svg", "a__b_.whole.hgrm", "heat.b.id.svg"]
    {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    let page = fs::read_to_string(directory.path().join("report.html")).expect("written");
    assert!(page.contains("a/&lt;b&gt;") && !page.contains("<b>"));
    assert_balanced("report.html", &page);
}

#[test]
fn what_cannot_be_reported_is_said_with_its_place() {
    let (code, text) = refused(&["main.rs"]);
    let wanted =
        "ringest: main.rs: line 1: START,LENGTH,MAX,HISTOGRAM are wanted; this is no HdrHistogram interval log\n";
    assert_eq!((code, text.as_str()), (Some(1), wanted));
    let (code, text) = refused(&["golden.hlog", "missing.hlog"]);
    assert!(code == Some(1) && text.starts_with("ringest: missing.hlog: No such file"), "{text}");
    let (code, text) = refused(&["golden.hlog", "--tag", "hole"]);
    let wanted = "ringest: golden.hlog: no such tag; it has frame, journaled, durable, id, answered, whole\n";
    assert_eq!((code, text.as_str()), (Some(1), wanted));
    assert_eq!(refused(&["golden.hlog", "golden.hlog"]).0, Some(2));
    assert_eq!(refused(&[]).0, Some(2));
    let output = report(&["golden.hlog", "--out", "golden.hlog/x"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("golden.hlog/x: Not a directory"), "{text}");
}
