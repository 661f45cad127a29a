//! Sequence ids given ahead: one request of the id step brings many, and records take them in order.
//!
//! One lane asks on behalf of all (the *carrier*); those that find no id wait. A grant is written down before an id of it is used,
//! and each id before the record that has it is sent. What is left at a clean end is used by the next start; after any other end it is
//! not known which ids were used, so none is used again.

use super::lane::Doing;
use super::{Now, Shard};
use crate::config::Settings;
use crate::delivery::{InFlight, Step};
use crate::journal::Leased;
use crate::shard::ApiId;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;

/// Ids given ahead.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ids: VecDeque<Range<u64>>,
    /// Which service gives them.
    origin: u64,
    /// How many are asked for at a time by the configuration in force, if they are.
    in_force: Option<u64>,
    /// The lane that asks for more, and its generation.
    carrier: Option<(u32, u32)>,
    /// Grants so far: part of the key under which the next one is asked for.
    grants: u64,
    /// Lanes that wait for an id, with their generations, the first one first. While there are any, one lane asks.
    waiting: VecDeque<(u32, u32)>,
}

impl Leases {
    /// Whether ids are asked for ahead.
    pub fn are_in_force(&self) -> bool {
        self.in_force.is_some()
    }

    /// Whether this lane asks on behalf of all.
    pub fn is_carrier(&self, lane: u32, generation: u32) -> bool {
        self.carrier == Some((lane, generation))
    }

    fn left(&self) -> u64 {
        self.ids.iter().map(|ids| ids.end - ids.start).sum()
    }

    fn take(&mut self) -> Option<u64> {
        let ids = self.ids.front_mut()?;
        let id = ids.start;
        ids.start += 1;
        if ids.is_empty() {
            self.ids.pop_front();
        }
        Some(id)
    }

    fn put_back(&mut self, id: u64) {
        match self.ids.front_mut().filter(|ids| ids.start == id + 1) {
            Some(ids) => ids.start = id,
            None => self.ids.push_front(id..id + 1),
        }
    }
}

/// Runs of ids in stock at most, beyond which nobody asks ahead: all of them are written down with each grant.
const RANGES_MAX: usize = 64;

/// What tells one service that gives ids from another: a hash of where they are asked for (FNV-1a, 64 bits). Never 0.
fn origin_of(settings: &Settings) -> u64 {
    let Some(sequence) = &settings.sequence else { return 0 };
    let url = &sequence.url;
    let text = format!("{} {} {} {}", url.secure, url.authority.host, url.authority.port, url.target);
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.max(1)
}

/// Ids that a configuration asks for at a time.
fn lease_of(settings: &Settings) -> Option<u64> {
    settings.sequence.as_ref().map(|sequence| u64::from(sequence.lease)).filter(|lease| *lease > 1)
}

impl Shard {
    /// Ids asked for at a time; `None` where each record asks for its own. Whatever answers are looked at, it is what is in force.
    fn lease(&self) -> Option<u64> {
        self.leases.in_force
    }

    /// Takes over how ids are asked for. The lane that asks goes on if its request is under way as a lease; else another one asks anew, under
    /// a key of its own. Lanes that wait for an id.
    pub(super) fn change_leases(&mut self, old: &Settings) -> Vec<u32> {
        self.leases.in_force = lease_of(&self.settings);
        let origin = origin_of(&self.settings);
        let is_other = std::mem::replace(&mut self.leases.origin, origin) != origin;
        if is_other && !self.leases.ids.is_empty() {
            tracing::warn!("{} leased ids are not used: another service gives them now", self.leases.left());
            self.leases.ids.clear();
        }
        let is_asking = |(lane, generation): (u32, u32)| {
            let lane = self.lanes.get(lane as usize).filter(|lane| lane.generation == generation);
            lane.is_some_and(|lane| lane.doing == Doing::InFlight && lane.step == Step::Id)
        };
        let goes_on =
            self.leases.in_force.is_some() && lease_of(old).is_some() && self.leases.carrier.is_some_and(is_asking);
        let same_count = lease_of(old) == self.leases.in_force;
        if !(goes_on && same_count && !is_other) && self.leases.carrier.take().is_some() {
            self.leases.grants += 1;
        }
        let waits = |(index, generation): (u32, u32)| {
            let lane = self.lanes.get(index as usize).filter(|lane| lane.generation == generation)?;
            (lane.doing == Doing::AwaitsId).then_some(index)
        };
        std::mem::take(&mut self.leases.waiting).into_iter().filter_map(waits).collect()
    }

    /// What an earlier run left.
    pub(super) fn adopt_leases(&mut self) {
        self.leases.in_force = lease_of(&self.settings);
        self.leases.origin = origin_of(&self.settings);
        for state in &mut self.journals {
            let Some(Leased { origin, ids }) = state.journal.take_leased() else { continue };
            if origin == self.leases.origin {
                self.leases.ids.extend(ids);
            } else if !ids.is_empty() {
                let count: u64 = ids.iter().map(|ids| ids.end - ids.start).sum();
                tracing::warn!(
                    "{count} leased ids that the last run left are not used: another service gives them now"
                );
            }
        }
    }

    /// A clean end: what is left is written down for the next start, and nothing else is.
    pub(super) fn leave_leases(&mut self) {
        let is_leasing = self.lease().is_some();
        let mut left = Vec::from_iter(self.leases.ids.iter().cloned());
        let origin = self.leases.origin;
        for state in &mut self.journals {
            state.journal.leave_leased(Leased { origin, ids: std::mem::take(&mut left) }, is_leasing);
        }
    }

    /// Ids that were given ahead and are not used: the first and the last of each run.
    pub(super) fn unused_ids(&self) -> Vec<(u64, u64)> {
        self.leases.ids.iter().map(|ids| (ids.start, ids.end - 1)).collect()
    }

    /// Decides the step of a lane whose first record has no id: it takes one when it is sent, asks for more, or waits (`false`).
    pub(super) fn find_id(&mut self, index: u32) -> bool {
        let Some(lease) = self.lease() else { return true };
        let left = self.leases.left();
        let me = (index, self.lanes[index as usize].generation);
        // Half a grant ahead of need, so that the others go on meanwhile.
        let wanted = left <= (lease / 2).max(self.leases.waiting.len() as u64);
        let ahead = left == 0 || self.leases.ids.len() < RANGES_MAX;
        if self.leases.carrier == Some(me) || self.leases.carrier.is_none() && wanted && ahead {
            self.leases.carrier = Some(me);
            self.lanes[index as usize].step = Step::Id;
            true
        } else if left > 0 {
            self.lanes[index as usize].step = Step::Record;
            true
        } else {
            self.lanes[index as usize].doing = Doing::AwaitsId;
            self.leases.waiting.push_back(me);
            false
        }
    }

    /// Gives a lane's first record an id, if it needs one and there is one; else the lane is listed where it gets one.
    pub(super) fn take_leased_id(&mut self, now: Now, index: u32) -> bool {
        let lane = &self.lanes[index as usize];
        if lane.id.is_some() || self.lease().is_none() {
            return true;
        }
        let first = lane.queue.front().expect("a ready lane has a record in memory");
        let recovered = self.journals[lane.journal.0 as usize].journal.recovered_id(first.number).map(Into::into);
        if recovered.is_some() {
            self.lanes[index as usize].id = recovered;
            return true;
        }
        let Some(id) = self.leases.take() else {
            if self.find_id(index) {
                self.list_ready(index, true);
            }
            return false;
        };
        let text = id.to_string();
        let journal = &mut self.journals[lane.journal.0 as usize].journal;
        if journal.append_id(now, first.number, &text).is_err() {
            self.leases.put_back(id);
            self.back_off(now, index);
            return false;
        }
        self.lanes[index as usize].id = Some(text.into());
        true
    }

    /// Gives a record behind a lane's first one an id, if there is one.
    pub(super) fn take_id_ahead(&mut self, now: Now, index: u32, place: usize) -> bool {
        let lane = &self.lanes[index as usize];
        debug_assert_eq!(place, lane.more_ids.len() + 1);
        let number = lane.queue[place].number;
        let journal = &mut self.journals[lane.journal.0 as usize].journal;
        if let Some(id) = journal.recovered_id(number) {
            let id = id.into();
            self.lanes[index as usize].more_ids.push_back(id);
            return true;
        }
        if self.settings.sequence.as_ref().is_none_or(|sequence| sequence.lease < 2) {
            return false;
        }
        let Some(id) = self.leases.take() else { return false };
        let text = id.to_string();
        if journal.append_id(now, number, &text).is_err() {
            self.leases.put_back(id);
            return false;
        }
        self.lanes[index as usize].more_ids.push_back(text.into());
        true
    }

    /// Appends the request for more ids, under a key of its own: the same until it is granted, and never that of another run.
    pub(super) fn lease_request(&mut self) -> Option<String> {
        let lease = self.lease()?;
        let journal = &self.journals[0].journal;
        self.key.clear();
        let (epoch, core, grants) = (journal.epoch_id(), journal.core(), self.leases.grants);
        write!(self.key, "{epoch:032x}-{core}-lease-{grants}").expect("a String takes all");
        Some(format!("{{\"count\": {lease}}}"))
    }

    /// The answer to that. `false` where ids are not leased.
    pub(super) fn lease_answered(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8]) -> bool {
        let Some(lease) = lease_of(&self.settings) else { return false };
        if origin_of(&self.settings) != self.leases.origin {
            self.failed(now, api, request, "its ids are not used: another service gives them now".to_owned());
            return true;
        }
        let sequence = self.settings.sequence.as_ref().expect("a lease is configured there");
        let granted = match granted(body, &sequence.id_at, &sequence.count_at, lease) {
            Ok(granted) => granted,
            Err(problem) => {
                self.failed(now, api, request, problem);
                return true;
            }
        };
        let count = granted.end - granted.start;
        let mut ids = self.leases.ids.clone();
        match ids.back_mut().filter(|last| last.end == granted.start) {
            Some(last) => last.end = granted.end,
            None => ids.push_back(granted),
        }
        if self.journals[0].journal.append_leased(now, self.leases.origin, ids.iter().cloned()).is_err() {
            self.failed(now, api, request, "the journal has no room for ids".to_owned());
            return true;
        }
        self.route_worked(Step::Id);
        self.id_api_worked(now, api);
        self.leases.ids = ids;
        // After a reload another one may ask, under another key.
        if self.leases.is_carrier(request.lane, request.generation) {
            self.leases.grants += 1;
            self.leases.carrier = None;
        }
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        lane.attempts = 0;
        lane.resent = false;
        lane.step = Step::Record; // whoever asked does not ask again before its own record
        lane.step_ns = now.mono_ns;
        self.list_ready(request.lane, false);
        self.share_leased(count);
        true
    }

    /// Lets as many lanes go on as ids were granted, so that no grant has to look at all that wait. If there are more, one of them asks.
    fn share_leased(&mut self, mut granted: u64) {
        while granted > 0 || self.leases.carrier.is_none() {
            let Some(lane) = self.pop_waiting_for_id() else { return };
            self.make_ready(lane);
            granted = granted.saturating_sub(1);
        }
    }

    fn pop_waiting_for_id(&mut self) -> Option<u32> {
        while let Some((index, generation)) = self.leases.waiting.pop_front() {
            let lane = self.lanes.get(index as usize);
            if lane.is_some_and(|lane| lane.generation == generation && lane.doing == Doing::AwaitsId) {
                return Some(index);
            }
        }
        None
    }
}

/// The ids that an answer grants; without a count it is one.
fn granted(body: &[u8], id_at: &str, count_at: &str, lease: u64) -> Result<Range<u64>, String> {
    let answer: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| format!("its answer to a lease of ids is no JSON: {error}"))?;
    let first = answer.pointer(id_at).and_then(serde_json::Value::as_u64);
    let first = first.ok_or_else(|| format!("no whole number at {id_at} of its answer to a lease of ids"))?;
    let count = match answer.pointer(count_at) {
        None => 1,
        Some(count) => count.as_u64().filter(|count| *count > 0).ok_or_else(|| {
            format!("{count} at {count_at} of its answer to a lease of ids, where their number should be")
        })?,
    };
    let end = first.checked_add(count.min(lease)).ok_or("its ids are beyond 64 bits")?;
    Ok(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_in_order_and_what_could_not_be_used_comes_first_again() {
        let mut leases = Leases { ids: VecDeque::from([5..7, 9..10]), ..Leases::default() };
        assert_eq!((leases.left(), leases.take(), leases.take()), (3, Some(5), Some(6)));
        leases.put_back(6);
        assert_eq!(leases.take(), Some(6));
        assert_eq!((leases.take(), leases.take()), (Some(9), None));
        leases.put_back(9);
        assert_eq!((leases.left(), leases.take()), (1, Some(9)));
    }

    #[test]
    fn a_grant_is_what_the_service_says_and_no_more_than_was_asked_for() {
        let of = |body: &str| granted(body.as_bytes(), "/id", "/n", 100);
        assert_eq!(of(r#"{"id": 7, "n": 30}"#), Ok(7..37));
        assert_eq!(of(r#"{"id": 7, "n": 300}"#), Ok(7..107));
        assert_eq!(of(r#"{"id": 7}"#), Ok(7..8), "it knows no leases");
        for wrong in [r#"{"id": "a7", "n": 3}"#, r#"{"id": 7, "n": 0}"#, r#"{"id": 7, "n": "3"}"#, "[]", "<html>"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(of(r#"{"id": 18446744073709551615, "n": 3}"#).is_err());
    }
}
