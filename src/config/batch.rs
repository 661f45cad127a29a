//! `[deliver.batch]`: many records in one request.

use super::problem::Refusal;
use super::walk::Section;
use crate::delivery::template::Template;
use std::time::Duration;

/// How records are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What stands around and between them.
    pub form: BatchForm,
    /// Records in one request at most.
    pub records: usize,
    /// Bytes of its body at most; one record is always sent.
    pub bytes: usize,
    /// How long a record waits for others.
    pub wait: Duration,
    /// Failures in a row of the same batch after which it is cut in halves: one of its records may be what the service fails by.
    pub failures: u32,
}

/// What stands around and between the records of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchForm {
    /// Each on a line of its own (application/x-ndjson).
    Ndjson,
    /// A JSON array, with what stands before and behind it.
    Array {
        /// Before its `[`.
        before: String,
        /// Behind its `]`.
        behind: String,
    },
}

const FAILURES: usize = 3;

/// `None` without the section. `body` is the template of one record.
pub(super) fn batch(section: Section<'_, '_>, body: &str, has_sequence: bool) -> Option<Batch> {
    let is_array = section.choice("form", &[("ndjson", false), ("array", true)], false);
    let around = section.parsed("around", "a template such as '{\"films\": {{records}}}'", |text| {
        let remedy = "a JSON text with {{records}} where the array belongs, such as '{\"films\": {{records}}}'";
        let (before, behind) =
            text.split_once("{{records}}").ok_or_else(|| Refusal::new("{{records}} does not occur in it", remedy))?;
        let filled = format!("{before}[]{behind}");
        if behind.contains("{{") || serde_json::from_str::<serde::de::IgnoredAny>(&filled).is_err() {
            return Err(Refusal::new("this is not JSON with an array in the place of {{records}}", remedy));
        }
        Ok((before.to_owned(), behind.to_owned()))
    });
    if around.is_some() && !is_array {
        section.refuse("around", Refusal::new("lines stand alone", "form = \"array\", or leave it out"));
    }
    let records = section.integer("records", 100, 2..=10_000);
    let bytes = section.size("bytes", 256 << 10, 1 << 10..=16 << 20) as usize;
    let wait = section.duration("wait", Duration::from_millis(5), Duration::ZERO..=Duration::from_secs(60));
    let failures = section.integer("failures", FAILURES, 1..=1_000) as u32;
    let is_present = section.is_present();
    if is_present && let Ok(template) = Template::parse(body, has_sequence) {
        if !template.is_json() || template.uses_raw_data() {
            let what = "in a batch each record is JSON of its own, whatever the machine sends";
            section.refuse(
                "form",
                Refusal::new(what, "a JSON body in [deliver] with {{data|json}}, {{data|base64}} or {{data|hex}}"),
            );
        } else if !is_array && body.contains(['\n', '\r']) {
            let what = "a line break in the body of [deliver] would end the record's line";
            section.refuse("form", Refusal::new(what, "a body on one line, or form = \"array\""));
        }
        if !template.uses_key() {
            section.note(
                "form",
                "after a restart, and when a batch has failed some times, records are put together anew: a service that has some of them \
                 knows them only by their keys",
                "\"key\": \"{{key}}\" in the body",
            );
        }
    }
    section.finish();
    let form = match (is_array, around) {
        (false, _) => BatchForm::Ndjson,
        (true, around) => {
            let (before, behind) = around.unwrap_or_default();
            BatchForm::Array { before, behind }
        }
    };
    is_present.then_some(Batch { form, records, bytes, wait, failures })
}
