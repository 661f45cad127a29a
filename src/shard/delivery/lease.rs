//! Sequence ids given ahead: one request of the id step brings many, and records take them in
//! order.
//!
//! One lane asks on behalf of all (the *carrier*); those that find no id wait. A grant is written
//! down before an id of it is used, and each id before the record that has it is sent. What is left
//! at a clean end is used by the next start; after any other end it is not known which ids were
//! used, so none is used again.

use super::problem::LeaseFault;
use super::rules::Rules;
use crate::delivery::{Step, why_no_token};
use crate::ground::text::counted;
use crate::ground::{LaneId, Now};
use crate::journal::Leased;
use crate::shard::store::{State, Store};
use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;

/// Runs of ids in stock at most, beyond which nobody asks ahead: all of them are written down with
/// each grant.
const RANGES_MAX: usize = 64;

/// Ids given ahead, and the lanes that wait for some.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ids: VecDeque<Range<u64>>,
    /// Which service gives them.
    origin: u64,
    /// How many are asked for at a time by the configuration in force, if they are.
    in_force: Option<u64>,
    /// The lane that asks for more.
    carrier: Option<LaneId>,
    /// Grants so far: part of the key under which the next one is asked for.
    grants: u64,
    /// Lanes that wait for an id, the first one first. While there are any, one lane asks.
    waiting: VecDeque<LaneId>,
}

/// Whether a record has the id that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It has, or needs none.
    Has,
    /// There is none left.
    NoneLeft,
    /// There is one, and it cannot be written down now.
    NoRoom,
}

impl Leases {
    /// What an earlier run left.
    pub fn adopt(store: &mut Store, rules: &Rules) -> Self {
        let mut leases = Self { origin: rules.id_origin(), in_force: rules.lease(), ..Self::default() };
        for Leased { origin, ids } in store.take_leased() {
            if origin == leases.origin {
                leases.ids.extend(ids);
            } else if !ids.is_empty() {
                let count: u64 = ids.iter().map(|ids| ids.end - ids.start).sum();
                let (ids, are) = (counted(count, "leased id"), if count == 1 { "is" } else { "are" });
                tracing::warn!("{ids} that the last run left {are} not used: another service gives them now");
            }
        }
        leases
    }

    /// A clean end: what is left is written down for the next start, and nothing else is.
    pub fn leave(&self, store: &mut Store) {
        let left = Leased { origin: self.origin, ids: Vec::from_iter(self.ids.iter().cloned()) };
        store.leave_leased(left, self.are_in_force());
    }

    /// Whether ids are asked for ahead. Whatever answers are looked at, it is what is in force.
    pub fn are_in_force(&self) -> bool {
        self.in_force.is_some()
    }

    /// Ids that were given ahead and are not used: the first and the last of each run.
    pub fn unused(&self) -> Vec<(u64, u64)> {
        self.ids.iter().map(|ids| (ids.start, ids.end - 1)).collect()
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

    // ---- who asks

    fn set_carrier(&mut self, store: &mut Store, carrier: Option<LaneId>) {
        if let Some(before) = std::mem::replace(&mut self.carrier, carrier).filter(|lane| store.find(*lane).is_some()) {
            store.lane_mut(before).ask_for_all(false);
        }
        if let Some(lane) = carrier {
            store.lane_mut(lane).ask_for_all(true);
        }
    }

    /// Decides the step of a lane whose first record has no id: it takes one when it is sent, asks
    /// for more, or waits (`false`).
    pub fn find(&mut self, store: &mut Store, lane: LaneId) -> bool {
        let Some(lease) = self.in_force else { return true };
        let left = self.left();
        // Half a grant ahead of need, so that the others go on meanwhile.
        let wanted = left <= (lease / 2).max(self.waiting.len() as u64);
        let ahead = left == 0 || self.ids.len() < RANGES_MAX;
        if self.carrier == Some(lane) || self.carrier.is_none() && wanted && ahead {
            self.set_carrier(store, Some(lane));
            store.lane_mut(lane).set_step(Step::Id);
            true
        } else if left > 0 {
            store.lane_mut(lane).set_step(Step::Record);
            true
        } else {
            store.lane_mut(lane).await_id();
            self.waiting.push_back(lane);
            false
        }
    }

    /// Gives a lane's first record an id, if it needs one and there is one.
    pub fn claim(&mut self, now: Now, store: &mut Store, lane: LaneId) -> Claim {
        if self.in_force.is_none() || store.lane(lane).ids().get(0).is_some() {
            return Claim::Has;
        }
        if let Some(id) = store.recovered_id(lane, 0).map(Into::into) {
            store.lane_mut(lane).give_id(id, None);
            return Claim::Has;
        }
        let Some(id) = self.take() else { return Claim::NoneLeft };
        let text = id.to_string();
        if store.append_id(now, lane, 0, &text).is_err() {
            self.put_back(id);
            return Claim::NoRoom;
        }
        store.lane_mut(lane).give_id(text.into(), None);
        Claim::Has
    }

    /// Gives the record at a place behind a lane's first one an id, if there is one.
    pub fn claim_behind(&mut self, now: Now, store: &mut Store, lane: LaneId, place: usize) -> bool {
        debug_assert_eq!(place, store.lane(lane).ids().behind() + 1);
        if let Some(id) = store.recovered_id(lane, place).map(Into::into) {
            store.lane_mut(lane).give_id_behind(id);
            return true;
        }
        if self.in_force.is_none() {
            return false;
        }
        let Some(id) = self.take() else { return false };
        let text = id.to_string();
        if store.append_id(now, lane, place, &text).is_err() {
            self.put_back(id);
            return false;
        }
        store.lane_mut(lane).give_id_behind(text.into());
        true
    }

    /// Writes the key of the request for more ids, which is that request's alone: the same until it
    /// is granted, and never that of another run; its body. `None` where each record asks for its
    /// own.
    pub fn request(&self, store: &Store, key: &mut String) -> Option<String> {
        let lease = self.in_force?;
        let journal = store.own();
        let (epoch, core) = (journal.epoch_id(), journal.core());
        key.clear();
        write!(key, "{epoch:032x}-{core}-lease-{}", self.grants).expect("a String takes all");
        Some(format!("{{\"count\": {lease}}}"))
    }

    /// The answer to that, by the rules that it was sent by: how many ids it grants. They are
    /// written down now.
    pub fn grant(&mut self, now: Now, store: &mut Store, rules: &Rules, body: &[u8]) -> Result<u64, LeaseFault> {
        let (Some(lease), Some(sequence)) = (rules.lease(), rules.sequence()) else {
            unreachable!("a lease was asked for")
        };
        if rules.id_origin() != self.origin {
            return Err(LeaseFault::OtherService);
        }
        let granted = granted(body, &sequence.id_at, &sequence.count_at, lease)?;
        let count = granted.end - granted.start;
        let mut ids = self.ids.clone();
        match ids.back_mut().filter(|last| last.end == granted.start) {
            Some(last) => last.end = granted.end,
            None => ids.push_back(granted),
        }
        store.append_leased(now, self.origin, ids.iter().cloned()).map_err(|_| LeaseFault::NoRoom)?;
        self.ids = ids;
        Ok(count)
    }

    /// A lane has brought a grant. After a reload another one may ask, under another key.
    pub fn end_request(&mut self, store: &mut Store, lane: LaneId) {
        if self.carrier == Some(lane) {
            self.grants += 1;
            self.set_carrier(store, None);
        }
    }

    /// Whether this lane asks on behalf of all.
    pub fn is_asker(&self, lane: LaneId) -> bool {
        self.carrier == Some(lane)
    }

    /// Whether anybody asks.
    pub fn is_asked_for(&self) -> bool {
        self.carrier.is_some()
    }

    /// The next lane that waits for an id.
    pub fn pop_waiting(&mut self) -> Option<LaneId> {
        self.waiting.pop_front()
    }

    /// A lane waits for another one, and no longer for an id.
    pub fn recall(&mut self, lane: LaneId) {
        self.waiting.retain(|other| *other != lane);
    }

    /// Takes over how ids are asked for. The lane that asks goes on if its request is under way as
    /// a lease; else another one asks anew, under a key of its own. Lanes that wait for an id.
    pub fn change(&mut self, store: &mut Store, old: &Rules, rules: &Rules) -> Vec<LaneId> {
        self.in_force = rules.lease();
        let origin = rules.id_origin();
        let is_other = std::mem::replace(&mut self.origin, origin) != origin;
        if is_other && !self.ids.is_empty() {
            tracing::warn!("{} leased ids are not used: another service gives them now", self.left());
            self.ids.clear();
        }
        let is_asking = |lane: LaneId| {
            store.find(lane).is_some_and(|lane| lane.state() == State::InFlight && lane.step() == Step::Id)
        };
        let goes_on = self.in_force.is_some() && old.lease().is_some() && self.carrier.is_some_and(is_asking);
        let same_count = old.lease() == self.in_force;
        if !(goes_on && same_count && !is_other) && self.carrier.is_some() {
            self.set_carrier(store, None);
            self.grants += 1;
        }
        std::mem::take(&mut self.waiting).into()
    }

    /// That those wait whose state says so, and that one asks for them.
    pub fn check(&self, store: &Store) {
        let waiting: HashSet<LaneId> = self.waiting.iter().copied().collect();
        assert_eq!(waiting.len(), self.waiting.len(), "a lane waits once for an id");
        for (id, lane) in store.lanes() {
            assert_eq!(lane.state() == State::AwaitsId, waiting.contains(&id), "lanes that wait for an id");
            assert_eq!(lane.asks_for_all(), self.carrier == Some(id), "the lane that asks for all");
        }
        assert!(self.waiting.is_empty() || self.carrier.is_some(), "while lanes wait for ids, one asks");
    }
}

/// The ids that an answer grants; without a count it is one.
fn granted(body: &[u8], id_at: &str, count_at: &str, lease: u64) -> Result<Range<u64>, LeaseFault> {
    let answer: serde_json::Value =
        serde_json::from_slice(body).map_err(|_| LeaseFault::NoFirst(why_no_token(body, id_at)))?;
    let first = match answer.pointer(id_at) {
        Some(text) if text.is_string() => {
            return Err(LeaseFault::NoNumber { found: text.to_string(), pointer: id_at.to_owned() });
        }
        first => first.and_then(serde_json::Value::as_u64),
    };
    let first = first.ok_or_else(|| LeaseFault::NoFirst(why_no_token(body, id_at)))?;
    let count = match answer.pointer(count_at) {
        None => 1,
        Some(count) => count
            .as_u64()
            .filter(|count| *count > 0)
            .ok_or_else(|| LeaseFault::NoCount { found: count.to_string(), pointer: count_at.to_owned() })?,
    };
    let end = first.checked_add(count.min(lease)).ok_or(LeaseFault::TooLarge)?;
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
