//! Records that the receiver refused for good: what the shard says that it keeps aside, what an operator decides about them at
//! random times, and which of them may still arrive.
//!
//! A parked record leaves its lane: the next ones go on. It may come back behind them once it was retried, and never once it was
//! discarded, unless a loss of power or damage took the mark that said so.

use super::context::MS;
use super::event::Event;
use super::oracle::{Expected, Oracle, State, shorten};
use super::world::World;
use crate::say;
use ringest::ground::RecordName;
use ringest::shard::{Disposal, Selection};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Parked,
    Retried,
    Discarded,
}

/// A record that was parked once.
#[derive(Debug)]
pub struct Aside {
    lane: Option<usize>,
    /// Its place among what the lane was handed.
    index: Option<usize>,
    data: Vec<u8>,
    stands: Stands,
    /// Since when.
    since_ns: u64,
    /// What was written down about it since may be lost.
    loose: bool,
    /// The receiver has it.
    arrived: bool,
}

impl Aside {
    fn loosen(&mut self) {
        self.loose = true;
    }
}

impl Oracle {
    /// The shard keeps a record aside from now on. `arrived`: the receiver has it all the same.
    ///
    /// # Errors
    /// If it was not the lane's next, or had been deleted.
    pub fn parked(&mut self, now_ns: u64, key: &str, name: &str, data: &[u8], arrived: bool) -> Result<(), String> {
        if let Some(aside) = self.asides.get_mut(key) {
            if !aside.loose && aside.stands != Stands::Retried {
                return Err(format!("{key}: parked, but it was {:?}", aside.stands));
            }
            (aside.stands, aside.since_ns, aside.loose) = (Stands::Parked, now_ns, false);
            aside.arrived |= arrived;
            return Ok(());
        }
        let lane = self.names.get(name).copied();
        let mut index = None;
        if let Some(lane) = lane.filter(|_| !arrived) {
            let rejecting = self.rejecting;
            let lane = &mut self.lanes[lane];
            let next = lane.next(data, rejecting);
            if !next.is_empty() {
                index = next.last().map(|at| at - 1);
                lane.positions = next;
            } else if !self.was_cut && !lane.repeated.contains_key(data) {
                return Err(format!("parked, and not what is next: {}", lane.mismatch(data)));
            }
        } else if lane.is_none() && !self.was_cut {
            return Err(format!("{key}: parked for a lane that never was: {name}"));
        }
        let (stands, data) = (Stands::Parked, data.to_vec());
        let aside = Aside { lane, index, data, stands, since_ns: now_ns, loose: false, arrived };
        self.asides.insert(key.to_owned(), aside);
        Ok(())
    }

    /// What an operator asked for about a parked record is done.
    fn disposed(&mut self, now_ns: u64, key: &str, disposal: Disposal) {
        let Some(aside) = self.asides.get_mut(key) else { return };
        aside.since_ns = now_ns;
        aside.stands = match disposal {
            Disposal::Retry => Stands::Retried,
            Disposal::Discard => Stands::Discarded,
        };
        if let (Disposal::Discard, Some(lane)) = (disposal, aside.lane) {
            self.lanes[lane].discarded.insert(aside.data.clone());
        }
    }

    /// A row of a record that was parked once; `None` for others. `stale`: of a request that the shard has given up.
    ///
    /// # Errors
    /// If it must not arrive.
    pub fn row_aside(&mut self, key: &str, data: &[u8], stale: bool) -> Option<Result<(), String>> {
        let aside = self.asides.get_mut(key)?;
        if aside.stands != Stands::Retried && !aside.loose && !stale {
            return Some(Err(format!("{key}: it is {:?}, and arrives: {}", aside.stands, shorten(data))));
        }
        if aside.data != data && !self.was_cut {
            return Some(Err(format!("{key}: parked as {}, arrives as {}", shorten(&aside.data), shorten(data))));
        }
        aside.arrived = true;
        let lane = aside.lane;
        self.rows += 1;
        let lane = lane?;
        if let Err(error) = self.once(lane, data) {
            return Some(Err(error));
        }
        if self.lanes[lane].http {
            self.lanes[lane].arrived.insert(data.to_vec());
        }
        Some(Ok(()))
    }

    /// What was not durable at a loss of power may be forgotten.
    pub fn asides_cut(&mut self, safe_ns: u64) {
        for aside in self.asides.values_mut().filter(|aside| aside.since_ns > safe_ns) {
            aside.loosen();
        }
        for aside in self.asides.values_mut().filter(|aside| !aside.arrived) {
            let (Some(lane), Some(index)) = (aside.lane, aside.index) else { continue };
            let entry = &mut self.lanes[lane].expected[index];
            if entry.state != State::Refused && !entry.survives(safe_ns) {
                entry.state = State::Maybe;
                aside.loosen();
            }
        }
    }

    /// Any mark may be damaged; so may be the record that looks so.
    pub fn asides_damaged(&mut self, data: Option<&[u8]>) {
        for aside in self.asides.values_mut() {
            aside.loosen();
            if let (Some(lane), Some(index)) = (aside.lane, aside.index)
                && data == Some(&aside.data)
            {
                self.lanes[lane].expected[index].state = State::Maybe;
            }
        }
    }

    fn is_due(&self, aside: &Aside) -> bool {
        let sure = |entry: &Expected| entry.state == State::Sure;
        let entry = aside.lane.zip(aside.index).map(|(lane, index)| &self.lanes[lane].expected[index]);
        !aside.arrived && aside.stands != Stands::Discarded && entry.is_some_and(sure)
    }

    /// How many of them must still arrive.
    pub fn asides_due(&self) -> u64 {
        self.asides.values().filter(|aside| self.is_due(aside) && !aside.loose).count() as u64
    }

    /// At the end: none is missing.
    ///
    /// # Errors
    /// Which one is.
    pub fn asides_complete(&self) -> Result<(), String> {
        match self.asides.iter().find(|(_, aside)| self.is_due(aside)) {
            Some((key, aside)) => Err(format!("{key}: parked once, and lost: {aside:?}")),
            None => Ok(()),
        }
    }

    /// Whether a start may have forgotten that a record is parked.
    fn may_be_forgotten(&self, key: &str) -> bool {
        self.asides.get(key).is_none_or(|aside| aside.loose)
    }
}

/// What the world knows of parked records, by their names (core and number).
#[derive(Default)]
pub struct Parked {
    /// With their keys.
    keys: BTreeMap<String, String>,
    asked: BTreeMap<String, Disposal>,
    /// Parked, discarded, and retried ones, as they were last counted.
    seen: Option<(u64, u64, u64)>,
    /// Deleted in earlier lives.
    pub discarded_before: u64,
}

impl Parked {
    /// Nothing is left to be decided or done.
    pub fn is_over(&self) -> bool {
        self.keys.is_empty() && self.asked.is_empty()
    }

    /// Whether a record is parked, by its key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.values().any(|other| other == key)
    }

    /// The shard is gone.
    pub fn gone(&mut self, discarded: u64) {
        self.seen = None;
        self.discarded_before += discarded;
    }
}

impl World {
    /// After every turn: what the shard says about parked records follows from what happened.
    pub fn check_parked(&mut self) -> Result<(), String> {
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let terms = shard.terms();
        let seen = (terms.parked, terms.discarded, shard.counters_mut().retried_records);
        let before = self.parked.seen.replace(seen);
        if before == Some(seen) {
            return Ok(());
        }
        let list = shard.parked(usize::MAX).first;
        let statuses: BTreeMap<String, u16> = list.into_iter().map(|record| (record.record, record.status)).collect();
        let names: BTreeSet<String> = statuses.keys().cloned().collect();
        if names.len() as u64 != terms.parked {
            return Err(format!("{} records are parked, {} are listed", terms.parked, names.len()));
        }
        let now_ns = self.cx.now_ns;
        let mut discarded = 0;
        let gone: Vec<String> = self.parked.keys.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            let key = self.parked.keys.remove(&name).expect("listed");
            match self.parked.asked.remove(&name) {
                Some(disposal) => {
                    discarded += u64::from(disposal == Disposal::Discard);
                    say!(self.cx, "record {name} ({key}) is done: {}", disposal.words());
                    self.cx.stats.count(match disposal {
                        Disposal::Retry => "parked record retried",
                        Disposal::Discard => "parked record discarded",
                    });
                    self.oracle.disposed(now_ns, &key, disposal);
                }
                None if before.is_none() && self.oracle.may_be_forgotten(&key) => {}
                None => return Err(format!("{name} ({key}) is not parked any more, and nobody said so")),
            }
        }
        if let Some((_, discarded_before, _)) = before
            && terms.discarded - discarded_before != discarded
        {
            return Err(format!("{} discarded, {discarded} were to be", terms.discarded - discarded_before));
        }
        for name in names.iter().filter(|name| !self.parked.keys.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let Some((key, source, data, stored)) = self.receiver.refused(&name) else {
                return Err(format!("{name} is parked, but the receiver never saw it"));
            };
            say!(self.cx, "record {name} ({key}) of {source} is parked: {}", shorten(&data));
            self.cx.stats.count("record parked");
            let status = statuses[&name];
            if before.is_some() {
                let stuck = self.plan.settings.deliver.answers.stuck.map(|stuck| stuck.attempts);
                self.receiver.heard.parked(&key, status, stuck, self.receiver.accepted)?;
            }
            if !(300..500).contains(&status) {
                self.cx.stats.count("stuck record parked");
            }
            self.oracle.parked(now_ns, &key, &source, &data, stored)?;
            self.parked.keys.insert(name, key);
        }
        if before.is_none() {
            // What was asked for and not done went with the process.
            self.parked.asked.clear();
        }
        Ok(())
    }

    /// [`Event::Operator`]: somebody looks at what is parked.
    ///
    /// # Errors
    /// If the shard does not do what it is told.
    pub fn operate(&mut self) -> Result<(), String> {
        let delay = self.cx.rng.u64(50 * MS..500 * MS);
        self.cx.after(delay, Event::Operator);
        if self.parked.seen.is_some() {
            self.check_parked()?; // what this turn has parked so far
        }
        // Where a service may tell all to wait for an hour, nothing else ends that.
        let calm = self.cx.now_ns > self.plan.calm_ns();
        if self.shard.is_some() && !self.stopping && self.plan.waits_long && self.cx.chance(if calm { 60 } else { 5 }) {
            self.end_waits()?;
        }
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let free: Vec<String> =
            self.parked.keys.keys().filter(|name| !self.parked.asked.contains_key(*name)).cloned().collect();
        if self.stopping || self.parked.seen.is_none() || free.is_empty() {
            return Ok(());
        }
        let (disposal, most) = match self.cx.rng.u8(..10) {
            _ if calm => (Disposal::Retry, usize::MAX),
            0..=3 => return Ok(()),
            4 | 5 => (Disposal::Discard, self.cx.rng.usize(1..=3)),
            6 | 7 => (Disposal::Retry, self.cx.rng.usize(1..=3)),
            _ => (Disposal::Retry, usize::MAX),
        };
        let mut chosen = free;
        self.cx.rng.shuffle(&mut chosen);
        chosen.truncate(most);
        let all = chosen.len() == self.parked.keys.len();
        let records = chosen.iter().map(|name| RecordName::parse(name).expect("a name")).collect();
        let selection =
            if all { Selection::default() } else { Selection { records: Some(records), ..Selection::default() } };
        say!(self.cx, "operator: {} {}", chosen.join(" "), disposal.words());
        let count = shard.dispose(disposal, &selection);
        if count != chosen.len() as u64 {
            return Err(format!("{disposal:?} of {} parked records takes up {count}", chosen.len()));
        }
        self.parked.asked.extend(chosen.into_iter().map(|name| (name, disposal)));
        self.wake_at = Some(self.cx.now_ns);
        Ok(())
    }
}
