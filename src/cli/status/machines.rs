//! `ringest status --machines`: a line a machine.

use super::{Arguments, Table, ago, get, list, number, print, text};
use crate::cli::Failure;
use crate::ground::text::{counted, fold};
use serde_json::Value;
use std::fmt::Write as _;

/// Machines whose trouble is told in words.
const WHY_MAX: usize = 20;
/// Machines that the gateway is asked for at once.
const PAGE: usize = 1_000;

/// Gets all pages, and prints them as one.
pub(super) fn show(arguments: &Arguments) -> Result<(), Failure> {
    let filter = encoded(arguments.filter.as_deref().unwrap_or_default());
    let mut whole: Option<Value> = None;
    let mut after = String::new();
    loop {
        let path = format!("/api/machines?limit={PAGE}&filter={filter}{after}");
        let page = get(&arguments.admin, &path, |document| document["machines"].is_array())?;
        let next = page["next"].as_str().map(|next| format!("&after={}", encoded(next)));
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => {
                let rows = whole["machines"].as_array_mut().expect("looked at above");
                rows.extend_from_slice(list(&page, "machines"));
                whole["next"] = Value::Null;
            }
        }
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    let whole = whole.expect("one page came at least");
    if arguments.json { print(&format!("{whole}\n")) } else { print(&screen(&whole)) }
}

/// As it may stand in a query (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => write!(out, "%{other:02X}").expect("a string takes all"),
        }
    }
    out
}

fn screen(document: &Value) -> String {
    let mut out = String::new();
    let states = document["states"].as_object().into_iter().flatten();
    let mut states: Vec<(&str, u64)> = states
        .map(|(word, count)| (word.as_str(), count.as_u64().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    states.sort_by_key(|(word, _)| crate::observe::machines::State::ALL.iter().position(|state| state.word() == *word));
    let total = document["total"].as_u64().unwrap_or(0);
    let parts: Vec<String> = states.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    fold(&mut out, ("", 0), 4, &format!("{}{parts}", counted(total, "machine")));
    out.push('\n');
    let rows = list(document, "machines");
    let mut table =
        Table::new(&["machine", "state", ">received", ">waiting", ">parked", ">rejected", ">/min", ">last"]);
    for row in rows {
        let rate = row["rate_per_minute"].as_f64().unwrap_or(0.0);
        table.row(vec![
            text(row, "name").to_owned(),
            text(row, "state").to_owned(),
            number(row, "received"),
            number(row, "pending"),
            number(row, "parked"),
            number(row, "rejected"),
            format!("{rate:.0}"),
            ago(row["last_record_s"].as_f64()),
        ]);
    }
    table.print(&mut out);
    let wrong: Vec<&Value> = rows.iter().filter(|row| !text(row, "why").is_empty()).collect();
    for row in wrong.iter().take(WHY_MAX) {
        let (name, source, state) = (text(row, "name"), text(row, "source"), text(row, "state"));
        let of = if name == source { String::new() } else { format!(" of {source}") };
        fold(&mut out, ("", 0), 4, &format!("{name}{of} is {state}: {}", text(row, "why")));
    }
    if wrong.len() > WHY_MAX {
        let more = counted((wrong.len() - WHY_MAX) as u64, "more machine");
        let _ = writeln!(out, "… and {more}, of which --json tells as much");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn machines_fit_into_eighty_columns_the_worst_with_words() {
        let row = |name: &str, state: &str, why: &str| {
            json!({ "name": name, "source": "line", "state": state, "why": why, "received": 1_234_567, "pending": 3,
                "parked": 208, "rejected": 0, "rate_per_minute": 59.5, "last_record_s": 3.0 })
        };
        let shown = screen(&json!({
            "total": 2,
            "states": { "ok": 1, "refused": 1 },
            "machines": [row("a-machine-whose-name-is-very-long-indeed-0001", "refused", "208 records are parked"), row("aoi-2", "ok", "")],
        }));
        assert!(shown.starts_with("2 machines: 1 refused, 1 ok\n"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.contains("of line is refused: 208 records\n"), "{shown}");
    }

    #[test]
    fn a_filter_stands_in_a_query_as_it_was_typed() {
        assert_eq!(encoded("檢 a&b=c/d"), "%E6%AA%A2%20a%26b%3Dc%2Fd");
    }
}
