//! Records that the API refuses for good are kept aside, and brought back or deleted when an
//! operator says so.

use crate::ground::{JournalId, LaneId, Now, RecordName, RecordNumber};
use crate::journal::{Full, OriginRef, Parked, Refused};
use crate::observe::snapshot::{ParkedGroup, ParkedList, ParkedRecord};
use crate::shard::store::Store;
use crate::shard::turn::Turn;
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

/// Which parked records; all of the conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those of these names.
    pub records: Option<Vec<RecordName>>,
    /// The configured source, or the name that `{{source}}` shows.
    pub source: Option<String>,
    /// The status of the answer that parked them.
    pub status: Option<u16>,
}

/// What was decided about one parked record.
#[derive(Debug, Clone, Copy)]
struct Decision {
    disposal: Disposal,
    journal: JournalId,
    number: RecordNumber,
}

/// A lane of what is being brought back.
#[derive(Debug, Clone, Copy)]
struct Returning {
    lane: LaneId,
    /// The last number in it: numbers in a lane rise.
    last: RecordNumber,
}

/// What a delivery keeps of its parked records beside the store.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// To be brought back or deleted, each journal's in the order of their numbers.
    disposals: VecDeque<Decision>,
    /// Lanes of what is being brought back, by journal and origin.
    lanes: HashMap<(JournalId, OriginRef), Returning>,
    /// Of each journal, the number below which all is written down that was decided.
    said_below: BTreeMap<JournalId, RecordNumber>,
    /// The journal has no room: what frees some will wake the shard.
    blocked: bool,
    /// Parked since the last one that was logged.
    unsaid: u64,
    say_ns: u64,
}

impl Parking {
    /// Keeps the first record of a lane aside, after so many attempts.
    ///
    /// # Errors
    /// [`Full`]: nothing was changed.
    pub fn park(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        lane: LaneId,
        (status, answer): (u16, &[u8]),
        attempts: u32,
    ) -> Result<(), Full> {
        let place = store.lane(lane);
        let core = store.core_of(place);
        let refused = Refused { status, attempts, answer };
        let (number, name) = store.park(turn, lane, refused)?;
        turn.counters.parked_records += 1;
        self.say_parked(turn.now, RecordName { core, number }, &name, (status, answer));
        Ok(())
    }

    fn say_parked(&mut self, now: Now, record: RecordName, name: &str, (status, answer): (u16, &[u8])) {
        if now.mono_ns < self.say_ns {
            self.unsaid += 1;
            return;
        }
        let shown = answer[..answer.len().min(120)].escape_ascii();
        let unsaid = std::mem::take(&mut self.unsaid);
        let others =
            if unsaid > 0 { format!("; {unsaid} others since the last line like this") } else { String::new() };
        tracing::warn!("record {record} of {name} is parked: answered {status} \"{shown}\"{others}");
        self.say_ns = now.mono_ns + SAY_EVERY_NS;
    }

    /// Brings parked records back, or deletes them, some in each turn from now on; how many.
    pub fn dispose(&mut self, store: &Store, disposal: Disposal, of: &Selection) -> u64 {
        let before = self.disposals.len();
        if before == 0 {
            self.lanes.clear(); // they may go on by themselves
        }
        let listed: HashSet<(JournalId, RecordNumber)> =
            self.disposals.iter().map(|decision| (decision.journal, decision.number)).collect();
        for id in store.journal_ids() {
            let journal = store.journal(id);
            let core = journal.core();
            let named: Option<Vec<RecordNumber>> = of.records.as_ref().map(|records| {
                let mut numbers: Vec<RecordNumber> =
                    records.iter().filter(|name| name.core == core).map(|name| name.number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                numbers
            });
            let chosen = |parked: &Parked| {
                let origin = journal.origin(parked.origin);
                of.status.is_none_or(|status| status == parked.status)
                    && of.source.as_deref().is_none_or(|name| name == origin.who.source() || name == origin.who.name())
            };
            let numbers: Vec<RecordNumber> = match named {
                Some(numbers) => {
                    let is_there = |number: &RecordNumber| journal.parked_record(*number).is_some_and(chosen);
                    numbers.into_iter().filter(is_there).collect()
                }
                None => journal.parked().filter(|(_, parked)| chosen(parked)).map(|(number, _)| number).collect(),
            };
            let fresh = numbers.into_iter().filter(|number| !listed.contains(&(id, *number)));
            self.disposals.extend(fresh.map(|number| Decision { disposal, journal: id, number }));
        }
        (self.disposals.len() - before) as u64
    }

    /// When there is more to do of it though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        (!self.disposals.is_empty() && !self.blocked).then_some(0)
    }

    /// Goes on with what was asked for; what the journal has no room for waits.
    pub fn advance(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.blocked = false;
        for _ in 0..DISPOSED_PER_TURN {
            let Some(&decision) = self.disposals.front() else { return };
            if self.carry_out(turn, store, decision).is_err() {
                self.blocked = true;
                return;
            }
            let Decision { journal, .. } = decision;
            self.said_below.insert(journal, store.journal(journal).next_number());
            self.disposals.pop_front();
        }
    }

    fn carry_out(&mut self, turn: &mut Turn<'_>, store: &mut Store, decision: Decision) -> Result<(), Full> {
        let Decision { disposal, journal: id, number } = decision;
        match disposal {
            Disposal::Discard => store.discard(turn, id, number)?,
            Disposal::Retry => {
                if let Some(unparked) = store.unpark(turn.now, id, number)? {
                    turn.counters.retried_records += 1;
                    let lane = self.lane_for(store, id, unparked.origin, number);
                    store.bring_back(turn, id, number, unparked, lane);
                }
            }
        }
        Ok(())
    }

    /// The lane into which a record goes that is brought back: its machine's later records do not
    /// wait for it again.
    fn lane_for(&mut self, store: &mut Store, id: JournalId, origin: OriginRef, number: RecordNumber) -> LaneId {
        if let Some(returning) = self.lanes.get_mut(&(id, origin))
            && store.find(returning.lane).is_some()
            && returning.last < number
        {
            returning.last = number;
            return returning.lane;
        }
        let lane = store.lane_to_bring_back(id, origin);
        self.lanes.insert((id, origin), Returning { lane, last: number });
        lane
    }

    /// How many records are kept aside, by source and status, and the first of them.
    pub fn list(&self, store: &Store, limit: usize) -> ParkedList {
        let mut groups: BTreeMap<(&str, u16), u64> = BTreeMap::new();
        let mut list = ParkedList::default();
        for id in store.journal_ids() {
            let journal = store.journal(id);
            for (number, parked) in journal.parked() {
                let origin = journal.origin(parked.origin);
                *groups.entry((origin.who.source(), parked.status)).or_default() += 1;
                list.total += 1;
                if list.first.len() < limit {
                    list.first.push(ParkedRecord {
                        record: RecordName { core: journal.core(), number }.to_string(),
                        source: origin.who.source().to_owned(),
                        name: origin.who.name().to_owned(),
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
        let is_durable = |(id, said): (&JournalId, &RecordNumber)| store.journal(*id).durable_below() >= *said;
        list.is_disposing = !self.disposals.is_empty() || !self.said_below.iter().all(is_durable);
        list.groups = groups
            .into_iter()
            .map(|((source, status), records)| ParkedGroup { source: source.to_owned(), status, records })
            .collect();
        list
    }
}
