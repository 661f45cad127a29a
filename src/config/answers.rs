//! `[deliver.answers]` and `[deliver.confirm]`: what an answer that is no success leads to.

use super::deliver::json_pointer;
use super::problem::Refusal;
use super::walk::Section;
use crate::delivery::confirm::{ConfirmPath, ShownAt};
use crate::delivery::route::Reaction;
use crate::delivery::template::Template;
use std::time::Duration;

/// What an answer that is no success leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// Statuses that lead to something else than by default.
    pub given: Vec<(u16, Reaction)>,
    /// Refusals of one record after which it is parked.
    pub attempts: u32,
    /// Records that each core keeps aside; beyond them deliveries wait for an operator.
    pub parked_max: usize,
    /// When a record is parked that is not taken, though those of other lanes are.
    pub stuck: Option<Stuck>,
    /// How the service is asked what it has.
    pub confirm: Option<Confirm>,
}

/// `stuck`: both must be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Answers that are no success, as long as records of other lanes arrive in between.
    pub attempts: u32,
    /// Time since the first of them.
    pub after: Duration,
}

impl Default for Answers {
    fn default() -> Self {
        Self { given: Vec::new(), attempts: ATTEMPTS, parked_max: PARKED_MAX, stuck: None, confirm: None }
    }
}

/// `[deliver.confirm]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    /// What is fetched, from the record step's server.
    pub path: ConfirmPath,
    /// Where the answer shows the record.
    pub shown_at: ShownAt,
}

const ATTEMPTS: u32 = 3;
const PARKED_MAX: usize = 65_536;
const STUCK_ATTEMPTS: usize = 20;
const STUCK_AFTER: Duration = Duration::from_secs(600);
const REMEDY: &str = "a list of HTTP statuses from 200 to 599, such as [400, 422]";

pub(super) fn answers(
    section: Section<'_, '_>,
    confirm: Section<'_, '_>,
    success: &[u16],
    (body, has_sequence): (&str, bool),
) -> Answers {
    let is_said = confirm.is_present();
    let shows_source = Template::parse(body, has_sequence).is_ok_and(|template| template.uses_source());
    let confirm = read_confirm(confirm, has_sequence, shows_source);
    let mut given: Vec<(u16, Reaction)> = Vec::new();
    let lists = [
        ("retry", Reaction::Retry),
        ("park", Reaction::Park),
        ("pause", Reaction::Pause),
        ("confirm", Reaction::Confirm),
    ];
    for (key, reaction) in lists {
        let Some(entry) = section.get(key) else { continue };
        for (value, span) in entry.elements(REMEDY).unwrap_or_default() {
            let Some(status @ 200..600) = value.as_integer() else {
                entry.refuse_element(&span, Refusal::new("this is no status of a final answer", REMEDY));
                continue;
            };
            let status = status as u16;
            if success.contains(&status) {
                let what = "this status means delivered: it stands in success";
                entry.refuse_element(&span, Refusal::new(what, "it belongs into one of the two lists"));
            } else if given.iter().any(|(other, _)| *other == status) {
                let what = "this status leads to something already";
                entry.refuse_element(&span, Refusal::new(what, "each status in one list, once"));
            } else {
                given.push((status, reaction));
            }
        }
        if reaction == Reaction::Confirm && !is_said {
            let what = "nothing says what is to be asked for";
            entry.refuse_key(Refusal::new(what, "[deliver.confirm] with path = \"/films/{{id}}/\""));
        }
    }
    if confirm.is_some() && !given.iter().any(|(status, _)| *status == 409) && !success.contains(&409) {
        given.push((409, Reaction::Confirm));
    }
    let attempts = section.integer("attempts", ATTEMPTS as usize, 1..=1_000) as u32;
    let parked_max = section.integer("parked_max", PARKED_MAX, 1..=1_048_576);
    let stuck = stuck(section.section("stuck"));
    section.finish();
    Answers { given, attempts, parked_max, stuck, confirm }
}

/// `None` without the section.
fn stuck(section: Section<'_, '_>) -> Option<Stuck> {
    let attempts = section.integer("attempts", STUCK_ATTEMPTS, 2..=1_000_000) as u32;
    let day = Duration::from_secs(86_400);
    let after = section.duration("after", STUCK_AFTER, Duration::ZERO..=7 * day);
    let is_said = section.get("then").is_some();
    section.choice("then", &[("park", ())], ());
    if section.is_present() && !is_said {
        section.missing("then", "\"park\": the record is kept aside, and the next ones of its machine go on");
    }
    section.is_present().then(|| section.finish()).map(|()| Stuck { attempts, after })
}

fn read_confirm(section: Section<'_, '_>, has_sequence: bool, shows_source: bool) -> Option<Confirm> {
    const PATH: &str = "a path on the server of [deliver], such as \"/films/{{id}}/\"";
    if section.is_present() && section.get("path").is_none() {
        section.missing("path", PATH);
    }
    let path = section.parsed("path", PATH, |text| {
        ConfirmPath::parse(text, has_sequence).map_err(|error| {
            Refusal::new(error.to_string(), format!("{PATH}; known: {{{{id}}}} {{{{key}}}} {{{{source}}}}"))
        })
    });
    let data_at = section.parsed("data_at", "a JSON pointer such as \"/data\"", json_pointer);
    let source_at = section.parsed("source_at", "a JSON pointer such as \"/machine\"", |text| {
        if !shows_source {
            let what = "the body of [deliver] does not say the source, so that the service cannot show it";
            return Err(Refusal::new(what, "{{source|json}} in the body, or leave it out"));
        }
        json_pointer(text)
    });
    section.finish();
    let data = data_at.unwrap_or_else(|| "/data".to_owned());
    Some(Confirm { path: path?, shown_at: ShownAt { data, source: source_at } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Deliver, parse};

    fn deliver(keys: &str) -> Result<Deliver, String> {
        let source = "[[source]]\nname = \"a\"\nkind = \"serial\"\npath = \"/dev/ttyS0\"\n";
        let text = format!("{source}[deliver]\nurl = \"http://h/\"\n{keys}\n");
        parse(&text, "test").map(|settings| settings.deliver).map_err(|problems| problems.to_string())
    }

    #[test]
    fn all_statuses_of_success_can_be_written_in_one_word() {
        let success = |list: &str| deliver(&format!("success = {list}")).map(|deliver| deliver.success);
        assert_eq!(success("[\"2xx\"]"), Ok((200..300).collect()));
        assert_eq!(success("[409, \"2xx\"]"), Ok([409].into_iter().chain(200..300).collect()));
        for (list, words) in [
            ("[201, \"2xx\"]", "this stands in the list twice"),
            ("[\"2XX\"]", "did you mean \"2xx\"?"),
            ("[\"5xx\"]", "this is no status of a final answer"),
        ] {
            let problems = success(list).expect_err(list);
            assert!(problems.contains(words), "{problems}");
        }
    }

    #[test]
    fn when_a_stuck_record_is_parked_is_checked_key_by_key() {
        let stuck =
            |table: &str| deliver(&format!("answers = {{ stuck = {table} }}")).map(|deliver| deliver.answers.stuck);
        let default = Stuck { attempts: 20, after: Duration::from_secs(600) };
        assert_eq!(stuck("{ then = \"park\" }"), Ok(Some(default)));
        assert_eq!(deliver("").map(|deliver| deliver.answers.stuck), Ok(None));
        for (table, key) in [
            ("{ attempts = 5 }", "deliver.answers.stuck.then"),
            ("{ attempts = 1, then = \"park\" }", "deliver.answers.stuck.attempts"),
            ("{ then = \"drop\" }", "deliver.answers.stuck.then"),
            ("{ atempts = 5, then = \"park\" }", "deliver.answers.stuck.atempts"),
        ] {
            let problems = stuck(table).expect_err(table);
            assert!(problems.contains(key), "{problems}");
        }
    }
}
