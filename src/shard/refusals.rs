//! What was refused at the edge: how often, for what, of which machine, and the last of each.

use super::SourceId;
use crate::config::Settings;
use crate::ground::Now;
use crate::observe::snapshot::{RefusalSample, RefusalSnapshot, SourceSnapshot};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

/// The last of each reason that are kept, with what was seen of them.
pub(super) const LAST_MAX: usize = 4;
/// Machines of all sources that are counted apart. What others are refused for is counted without them.
const MACHINES_MAX: usize = 1_024;
/// Longest text of a sample.
const WORDS_BYTES_MAX: usize = 240;

/// A connection or a request that was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'r> {
    /// The listener.
    pub source: SourceId,
    /// The label.
    pub reason: &'static str,
    /// The rule, in words.
    pub words: &'r str,
    pub peer: Option<SocketAddr>,
    /// The SOURCE of a request, where it is known.
    pub machine: Option<&'r str>,
    /// The first line of a request, or what came instead of one; without its query.
    pub line: &'r str,
}

/// The label of an answer, by its status and the rule in it.
pub(super) fn reason_of(status: u16, rule: &str) -> &'static str {
    match status {
        403 => "forbidden",
        404 => "not_found",
        405 => "method",
        408 if rule.contains("header") => "late_header",
        408 => "slow_body",
        409 => "still_written",
        411 => "no_length",
        413 => "too_large",
        414 => "target_too_long",
        415 => "media_type",
        417 => "expectation",
        422 => "key_reused",
        429 => "rate",
        431 => "header_too_large",
        501 => "not_implemented",
        503 => "no_room",
        505 => "version",
        _ => "bad_request",
    }
}

/// Those of one reason.
#[derive(Debug, Default)]
struct Kind {
    count: u64,
    last: VecDeque<RefusalSample>,
}

/// All that this core has refused since the process started.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kinds: BTreeMap<(SourceId, &'static str), Kind>,
    /// How many, by machine.
    machines: BTreeMap<(SourceId, &'static str), HashMap<Box<str>, u64>>,
    /// Entries of `machines`.
    counted_apart: usize,
}

impl Refusals {
    /// Something is refused.
    pub fn note(&mut self, now: Now, refusal: &Refusal<'_>) {
        let key = (refusal.source, refusal.reason);
        let kind = self.kinds.entry(key).or_default();
        kind.count += 1;
        match kind.last.back_mut().filter(|last| is_again(last, refusal)) {
            Some(last) => (last.times, last.at_wall_ns) = (last.times + 1, now.wall_ns),
            None => {
                if kind.last.len() == LAST_MAX {
                    kind.last.pop_front();
                }
                kind.last.push_back(sample(now, refusal));
            }
        }
        if let Some(machine) = refusal.machine {
            let counts = self.machines.entry(key).or_default();
            match counts.get_mut(machine) {
                Some(count) => *count += 1,
                None if self.counted_apart < MACHINES_MAX => {
                    self.counted_apart += 1;
                    counts.insert(machine.into(), 1);
                }
                None => {}
            }
        }
    }

    /// Those of an earlier source in this place are forgotten.
    pub fn forget(&mut self, id: SourceId) {
        self.kinds.retain(|(source, _), _| *source != id);
        self.machines.retain(|(source, _), counts| {
            let stays = *source != id;
            self.counted_apart -= if stays { 0 } else { counts.len() };
            stays
        });
    }

    /// Adds them to what is shown of their sources.
    pub fn add_to(&self, shown: &mut [SourceSnapshot], settings: &Settings) {
        for ((id, reason), kind) in &self.kinds {
            let name = &settings.sources[usize::from(id.0)].name;
            let Some(source) = shown.iter_mut().find(|source| source.name == *name) else { continue };
            let machines = self.machines.get(&(*id, *reason)).into_iter().flatten();
            let refused = RefusalSnapshot {
                reason: (*reason).to_owned(),
                count: kind.count,
                machines: machines.map(|(machine, count)| (machine.to_string(), *count)).collect(),
                last: kind.last.iter().cloned().collect(),
            };
            // A listener that was opened anew has the name of the one before.
            match source.refused.iter_mut().find(|other| other.reason == refused.reason) {
                Some(other) => other.add(&refused),
                None => source.refused.push(refused),
            }
        }
    }
}

/// Whether it is what the last one was.
fn is_again(last: &RefusalSample, refusal: &Refusal<'_>) -> bool {
    last.machine.as_deref() == refusal.machine
        && last.line == cut(refusal.line)
        && last.peer == refusal.peer.map(|peer| peer.ip())
        && last.rule == cut(refusal.words)
}

fn sample(now: Now, refusal: &Refusal<'_>) -> RefusalSample {
    RefusalSample {
        at_wall_ns: now.wall_ns,
        times: 1,
        peer: refusal.peer.map(|peer| peer.ip()),
        machine: refusal.machine.map(str::to_owned),
        line: cut(refusal.line).to_owned(),
        rule: cut(refusal.words).to_owned(),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<'r>(machine: Option<&'r str>, line: &'r str) -> Refusal<'r> {
        let peer = "10.0.4.7:4711".parse().ok();
        Refusal { source: SourceId(0), reason: "bad_request", words: "no Host", peer, machine, line }
    }

    #[test]
    fn the_last_four_are_kept_and_one_that_repeats_counts() {
        let mut refusals = Refusals::default();
        let at = |wall_ns| Now { wall_ns, ..Now::default() };
        for line in 0..6 {
            refusals.note(at(line), &refusal(None, &format!("GET /{line} HTTP/1.1")));
        }
        (10..20).for_each(|wall_ns| refusals.note(at(wall_ns), &refusal(None, "GET /5 HTTP/1.1")));
        let kind = &refusals.kinds[&(SourceId(0), "bad_request")];
        assert_eq!((kind.count, kind.last.len()), (16, LAST_MAX));
        let last = kind.last.back().unwrap();
        assert_eq!((last.times, last.at_wall_ns, last.peer), (11, 19, "10.0.4.7".parse().ok()));
        assert_eq!(kind.last[0].line, "GET /2 HTTP/1.1");
    }

    #[test]
    fn a_listener_that_was_opened_anew_has_each_reason_once() {
        let text = "[[source]]\nname = \"cams\"\nkind = \"http\"\nlisten = \"127.0.0.1:8080\"\n\
                    [deliver]\nurl = \"http://127.0.0.1:8000/films/\"\n";
        let mut settings = crate::config::parse(text, "test").expect("valid");
        settings.sources.push(settings.sources[0].clone());
        let mut refusals = Refusals::default();
        refusals.note(Now::default(), &refusal(Some("cam-1"), ""));
        refusals.note(Now::default(), &Refusal { source: SourceId(1), ..refusal(Some("cam-1"), "") });
        let mut shown = vec![SourceSnapshot { name: "cams".to_owned(), ..SourceSnapshot::default() }];
        refusals.add_to(&mut shown, &settings);
        let refused = &shown[0].refused;
        assert_eq!((refused.len(), refused[0].count, refused[0].machines["cam-1"]), (1, 2, 2));
    }

    #[test]
    fn machines_beyond_a_bound_are_counted_together() {
        let mut refusals = Refusals::default();
        for machine in 0..2 * MACHINES_MAX {
            refusals.note(Now::default(), &refusal(Some(&format!("cam-{machine}")), ""));
        }
        refusals.note(Now::default(), &refusal(Some("cam-0"), ""));
        let counts = &refusals.machines[&(SourceId(0), "bad_request")];
        assert_eq!((counts.len(), counts["cam-0"]), (MACHINES_MAX, 2));
        assert_eq!(refusals.kinds[&(SourceId(0), "bad_request")].count, 2 * MACHINES_MAX as u64 + 1);
        refusals.forget(SourceId(0));
        assert_eq!((refusals.counted_apart, refusals.kinds.len()), (0, 0));
    }
}
