//! What a running gateway knows of the attempts to deliver the records that a list shows.

use crate::config;
use crate::engine::admin::client;
use crate::observe::snapshot::FailingRecord;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// A list must come soon, whether the gateway answers or not.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The attempts to deliver one record.
#[derive(Debug)]
pub(super) struct Tried(FailingRecord);

impl Tried {
    /// How often, by what it failed last, and when it is tried again.
    pub(super) fn words(&self) -> String {
        format!("{}, last: {}; {}", self.0.tries(), self.0.answer, self.0.next())
    }

    /// The same as JSON; seconds.
    pub(super) fn json(&self) -> Value {
        let FailingRecord { attempts, failing_s, status, answer, next_s, stuck, .. } = &self.0;
        json!({
            "attempts": attempts, "failing_s": failing_s, "status": status, "answer": answer, "next_s": next_s,
            "stuck": stuck,
        })
    }
}

/// What the gateway of a configuration tells of records that fail, by their names; nothing where it does not run, or is known by its
/// state directory alone.
pub(super) fn tried(place: &Path) -> HashMap<String, Tried> {
    let asked = || {
        let settings = config::load(place).ok()?;
        let answer = client::get(&settings.gateway.admin.to_string(), "/api/status", TIMEOUT).ok()?;
        let status: Value = serde_json::from_slice(&answer.body).ok()?;
        // Another gateway may have this address by now.
        (status["name"] == settings.gateway.name.as_str()).then(|| status["failing"].clone())
    };
    let failing = if place.is_dir() { None } else { asked() };
    let failing: Vec<FailingRecord> =
        failing.and_then(|failing| serde_json::from_value(failing).ok()).unwrap_or_default();
    failing.into_iter().map(|failing| (failing.record.clone(), Tried(failing))).collect()
}
