//! Records that the API refuses for good are kept aside, and brought back or deleted when an operator says so.

use super::lane::{Doing, Lane, Waiting};
use super::{ApiId, JournalId, JournalState, Now, Shard};
use crate::delivery::route::{Reaction, reaction};
use crate::delivery::{InFlight, Step};
use crate::ground::RecordNumber;
use crate::journal::{ANSWER_BYTES_MAX, Lies, OriginRef, Parked, Refused, Unparked};
use crate::observe::snapshot::{ParkedGroup, ParkedList, ParkedRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Parked records brought back or deleted in one turn, so that many do not hold up the rest.
const DISPOSED_PER_TURN: usize = 1_024;
/// Parks are logged at most once in this time.
const SAY_EVERY_NS: u64 = 10_000_000_000;

/// What becomes of parked records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposal {
    /// They are delivered after all, under their keys and with their ids.
    Retry,
    /// They are deleted.
    Discard,
}

impl Disposal {
    /// What is done, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Retry => "to be delivered after all",
            Self::Discard => "to be deleted",
        }
    }
}

/// A record's name as lists show it: core of the directory, and number.
pub fn record_name(name: &str) -> Option<(u32, u64)> {
    let (core, number) = name.split_once('-')?;
    Some((core.parse().ok()?, number.parse().ok()?))
}

/// Which parked records; all of the conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Core of the directory, and number.
    pub records: Option<Vec<(u32, u64)>>,
    /// The configured source, or the name that `{{source}}` shows.
    pub source: Option<String>,
    /// The status of the answer that parked them.
    pub status: Option<u16>,
}

/// What the shard keeps of parked records beside its journals.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// To be brought back or deleted, each journal's in the order of their numbers.
    disposals: VecDeque<(Disposal, usize, RecordNumber)>,
    /// Lanes of what is being brought back, by journal and origin, and the last number in each: numbers in a lane rise.
    lanes: HashMap<(usize, u32), (u32, u32, RecordNumber)>,
    /// Of each journal, the number below which all is written down that was decided.
    said_below: Vec<RecordNumber>,
    /// The journal has no room: what frees some will wake the shard.
    blocked: bool,
    /// Parked since the last one that was logged.
    unsaid: u64,
    say_ns: u64,
}

impl Shard {
    /// An answer that refuses the record itself: it is tried again some times, then kept aside, and the next ones go on.
    pub(super) fn refuse_record(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8]) {
        self.counters.api_refusals += 1;
        self.route_worked(Step::Record);
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        lane.refusals += 1;
        if lane.refusals < self.settings.deliver.answers.attempts {
            self.back_off(now, request.lane);
        } else {
            self.park(now, api, request, request.status, body);
        }
    }

    /// An answer that says neither yes nor no: the service is asked what it has.
    pub(super) fn ask_what_is_there(&mut self, request: InFlight, body: &[u8]) {
        self.counters.api_confirms += 1;
        self.route_worked(Step::Record);
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        lane.refusals += 1;
        lane.refusal = Some((request.status, body[..body.len().min(ANSWER_BYTES_MAX)].into()));
        lane.step = Step::Confirm;
        self.list_ready(request.lane, true);
    }

    /// What the service has under the record's id.
    pub(super) fn confirm_answered(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8]) {
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        let confirm = self.settings.deliver.answers.confirm.as_ref().expect("asked for by its path");
        let status = request.status;
        let first = lane.queue.front().expect("a record in flight stays in memory");
        let journal = &self.journals[lane.journal.0 as usize].journal;
        let (source, data) = (&journal.origin(first.origin).name, journal.record(first.at).payload.data);
        let has_it = matches!(status, 200..=299) && confirm.shown_at.has(body, source, data);
        match reaction(status, &[], &[]) {
            _ if has_it => {
                self.route_worked(Step::Confirm);
                self.delivered(now, request.lane, request.generation);
                self.api_worked(now, api);
            }
            // It has nothing there. If it says so again and again, the path or the id is wrong, and an operator must look.
            _ if status == 404 && lane.refusals < self.settings.deliver.answers.attempts => {
                lane.step = Step::Record;
                self.route_worked(Step::Confirm);
                self.back_off(now, request.lane);
            }
            reaction @ (Reaction::Retry | Reaction::Pause) if !matches!(status, 200..=299 | 404) => {
                let problem = format!("answered {status} when it was asked what it has");
                self.attempt_failed(now, api, request, problem, reaction);
            }
            _ => {
                let (status, answer) = lane.refusal.clone().expect("kept when it was asked");
                self.route_worked(Step::Confirm);
                self.park(now, api, request, status, &answer);
            }
        }
    }

    /// An answer that is longer than what is looked at, so that nothing is known of the record: it is tried again some times, then kept
    /// aside. Where no other record arrives either, it is not the record's fault, and all wait.
    pub(super) fn answer_unread(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8], bytes_max: usize) {
        self.counters.api_refusals += 1;
        let asked = if request.step == Step::Confirm { " when it was asked what it has" } else { " to a record" };
        let problem =
            format!("answered {}{asked} with more than {bytes_max} bytes, which are not read", request.status);
        let is_alone = self.fails_while_others_arrive(now, api, request.lane);
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        lane.refusals += 1;
        if request.step == Step::Record && !is_alone {
            self.attempt_failed(now, api, request, format!("{problem}: is this the right URL?"), Reaction::Pause);
        } else if lane.refusals < self.settings.deliver.answers.attempts {
            self.note_problem(now, api, problem);
            self.route_worked(request.step);
            self.back_off(now, request.lane);
        } else {
            let (status, before) = lane.refusal.clone().unwrap_or_else(|| (request.status, body.into()));
            let mut answer = format!("({problem}) ").into_bytes();
            answer.extend_from_slice(&before[..before.len().min(ANSWER_BYTES_MAX - answer.len())]);
            self.route_worked(request.step);
            self.park(now, api, request, status, &answer);
        }
    }

    /// Keeps the first record of a lane aside.
    fn park(&mut self, now: Now, api: ApiId, request: InFlight, status: u16, answer: &[u8]) {
        let parked_max = self.settings.deliver.answers.parked_max;
        if self.terms.parked >= parked_max as u64 {
            let problem = format!(
                "answered {status} to a record, and {parked_max} are parked, which is the most: see to them by `ringest queue`"
            );
            self.lanes[request.lane as usize].step = Step::Record;
            let request = InFlight { step: Step::Record, ..request };
            return self.attempt_failed(now, api, request, problem, Reaction::Pause);
        }
        let lane = &mut self.lanes[request.lane as usize];
        let first = *lane.queue.front().expect("a record in flight stays in memory");
        let index = lane.journal.0 as usize;
        let state = &mut self.journals[index];
        let refused = Refused { status, attempts: lane.refusals, answer };
        let name = state.journal.origin(first.origin).name.clone();
        if state.journal.park(now, first.number, (first.origin, first.at), lane.id.as_deref(), refused).is_err() {
            self.note_problem(now, api, "the journal has no room to keep a refused record aside".to_owned());
            return self.back_off(now, request.lane);
        }
        state.retried.remove(&first.number);
        let core = state.journal.core();
        lane.pop();
        lane.pending -= 1;
        lane.next_record();
        self.terms.pending -= 1;
        self.terms.parked += 1;
        self.counters.parked_records += 1;
        self.say_parked(now, core, first.number, &name, status, answer);
        self.make_ready(request.lane);
        self.remove_lane_if_done(request.lane);
    }

    fn say_parked(&mut self, now: Now, core: u32, number: RecordNumber, name: &str, status: u16, answer: &[u8]) {
        if now.mono_ns < self.parking.say_ns {
            self.parking.unsaid += 1;
            return;
        }
        let shown = answer[..answer.len().min(120)].escape_ascii();
        let unsaid = std::mem::take(&mut self.parking.unsaid);
        let others =
            if unsaid > 0 { format!("; {unsaid} others since the last line like this") } else { String::new() };
        tracing::warn!("record {core}-{number} of {name} is parked: answered {status} \"{shown}\"{others}");
        self.parking.say_ns = now.mono_ns + SAY_EVERY_NS;
    }

    // ---- what an operator decides

    /// Brings parked records back, or deletes them, some in each turn from now on; how many.
    pub fn dispose(&mut self, disposal: Disposal, of: &Selection) -> u64 {
        let before = self.parking.disposals.len();
        if before == 0 {
            self.parking.lanes.clear(); // they may go on by themselves
        }
        let listed: HashSet<(usize, RecordNumber)> =
            self.parking.disposals.iter().map(|(_, index, number)| (*index, *number)).collect();
        for (index, state) in self.journals.iter().enumerate() {
            let core = state.journal.core();
            let named: Option<Vec<RecordNumber>> = of.records.as_ref().map(|records| {
                let mut numbers: Vec<RecordNumber> =
                    records.iter().filter(|(of, _)| *of == core).map(|(_, number)| RecordNumber(*number)).collect();
                numbers.sort_unstable();
                numbers.dedup();
                numbers
            });
            let chosen = |parked: &Parked| {
                let origin = state.journal.origin(parked.origin);
                of.status.is_none_or(|status| status == parked.status)
                    && of.source.as_deref().is_none_or(|name| name == &*origin.source || name == &*origin.name)
            };
            let numbers: Vec<RecordNumber> = match named {
                Some(numbers) => {
                    let is_there = |number: &RecordNumber| state.journal.parked_record(*number).is_some_and(chosen);
                    numbers.into_iter().filter(is_there).collect()
                }
                None => state.journal.parked().filter(|(_, parked)| chosen(parked)).map(|(number, _)| number).collect(),
            };
            let fresh = numbers.into_iter().filter(|number| !listed.contains(&(index, *number)));
            self.parking.disposals.extend(fresh.map(|number| (disposal, index, number)));
        }
        (self.parking.disposals.len() - before) as u64
    }

    /// When there is more to do of it though nothing happens.
    pub(super) fn disposals_deadline_ns(&self) -> Option<u64> {
        (!self.parking.disposals.is_empty() && !self.parking.blocked).then_some(0)
    }

    /// Goes on with what was asked for; what the journal has no room for waits.
    pub(super) fn advance_disposals(&mut self, now: Now) {
        self.parking.blocked = false;
        for _ in 0..DISPOSED_PER_TURN {
            let Some(&(disposal, index, number)) = self.parking.disposals.front() else { return };
            let journal = &mut self.journals[index].journal;
            match disposal {
                Disposal::Discard => match journal.discard(now, number) {
                    Ok(true) => {
                        self.terms.parked -= 1;
                        self.terms.discarded += 1;
                    }
                    Ok(false) => {}
                    Err(_) => self.parking.blocked = true,
                },
                Disposal::Retry => match journal.unpark(now, number) {
                    Ok(Some(unparked)) => self.bring_back(index, number, unparked),
                    Ok(None) => {}
                    Err(_) => self.parking.blocked = true,
                },
            }
            if self.parking.blocked {
                return;
            }
            let said_below = self.journals[index].journal.next_number();
            self.parking.said_below.resize(self.journals.len(), RecordNumber::default());
            self.parking.said_below[index] = said_below;
            self.parking.disposals.pop_front();
        }
    }

    /// A parked record goes into a lane of its own kind: its machine's later records do not wait for it again.
    fn bring_back(&mut self, index: usize, number: RecordNumber, Unparked { origin, at }: Unparked) {
        self.terms.parked -= 1;
        self.terms.pending += 1;
        self.counters.retried_records += 1;
        let lane_index = self.lane_to_bring_back(index, origin, number);
        let state = &mut self.journals[index];
        state.retried.insert(number, lane_index);
        let lane = &mut self.lanes[lane_index as usize];
        lane.pending += 1;
        match at {
            Lies::Behind(place) => {
                if lane.behind.is_none() {
                    lane.behind = Some((number, place));
                    state.backlog.lanes.push(lane_index);
                }
                lane.skipped = true; // a running walk may be past it
            }
            Lies::Held(at) => {
                lane.push(Waiting { number, at, origin, first_byte_ns: 0, journaled_ns: 0 });
                if lane.doing == Doing::Idle {
                    self.make_ready(lane_index);
                }
            }
        }
    }

    fn lane_to_bring_back(&mut self, index: usize, origin: OriginRef, record: RecordNumber) -> u32 {
        if let Some((lane, generation, last)) = self.parking.lanes.get_mut(&(index, origin.0))
            && self.lanes.get(*lane as usize).is_some_and(|lane| lane.generation == *generation)
            && *last < record
        {
            *last = record;
            return *lane;
        }
        self.lane_generation += 1;
        let number = self.journals[index].journal.origin(origin).lane;
        let mut lane = Lane::new(self.lane_generation, JournalId(index as u8), number);
        lane.brought_back = true;
        let lane = self.lanes.insert(lane) as u32;
        self.parking.lanes.insert((index, origin.0), (lane, self.lane_generation, record));
        lane
    }

    /// How many records are kept aside, by source and status, and the first of them.
    pub fn parked(&self, limit: usize) -> ParkedList {
        let mut groups: BTreeMap<(&str, u16), u64> = BTreeMap::new();
        let mut list = ParkedList::default();
        for state in &self.journals {
            let journal = &state.journal;
            for (number, parked) in journal.parked() {
                let origin = journal.origin(parked.origin);
                *groups.entry((&origin.source, parked.status)).or_default() += 1;
                list.total += 1;
                if list.first.len() < limit {
                    list.first.push(ParkedRecord {
                        record: format!("{}-{number}", journal.core()),
                        source: origin.source.to_string(),
                        name: origin.name.to_string(),
                        id: parked.id.as_deref().map(str::to_owned),
                        status: parked.status,
                        attempts: parked.attempts,
                        answer: String::from_utf8_lossy(&parked.answer).into_owned(),
                        received_wall_ns: parked.received_wall_ns,
                        parked_wall_ns: parked.parked_wall_ns,
                    });
                }
            }
        }
        let durable = self.journals.iter().zip(&self.parking.said_below);
        let is_durable = |(state, said): (&JournalState, &RecordNumber)| state.journal.durable_below() >= *said;
        list.is_disposing = !self.parking.disposals.is_empty() || !durable.into_iter().all(is_durable);
        list.groups = groups
            .into_iter()
            .map(|((source, status), records)| ParkedGroup { source: source.to_owned(), status, records })
            .collect();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_records_are_a_core_and_a_number() {
        assert_eq!(record_name("3-1048577"), Some((3, 1_048_577)));
        for wrong in ["", "3", "3-", "-5", "x-5", "3-5-7"] {
            assert_eq!(record_name(wrong), None, "{wrong}");
        }
    }
}
