//! Figures of another implementation (the Python package `hdrhistogram` 0.10.8): of a log that `ringest run` wrote, and of one that it
//! encoded itself. The command must say the same of both.

use crate::{fixture, json};
use serde_json::Value;

fn compare(name: &str) {
    let text = std::fs::read_to_string(fixture(&format!("{name}.json"))).expect("its figures");
    let wanted: Value = serde_json::from_str(&text).expect("JSON");
    let report = json(&[&format!("{name}.hlog")]);
    let tags = report["runs"][0]["tags"].as_array().expect("tags");
    let wanted = wanted["tags"].as_object().expect("tags");
    assert_eq!(tags.len(), wanted.len());
    for tag in tags {
        let wanted = &wanted[tag["tag"].as_str().unwrap_or_default()];
        for (figure, value) in wanted.as_object().expect("figures") {
            assert_eq!(&tag[figure], value, "{figure} of {}", tag["tag"]);
        }
    }
}

#[test]
fn another_implementation_reads_the_same_in_a_log_of_the_gateway() {
    compare("golden");
}

#[test]
fn a_log_of_another_implementation_is_read_as_it_reads_it_itself() {
    compare("foreign");
}
