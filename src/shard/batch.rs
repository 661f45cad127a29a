//! Many records in one request, of many lanes, and of each lane in order.
//!
//! The lane that a batch was begun for *carries* it through all that can happen to a request; the others stand still until it is settled.
//! A batch without an answer is sent again as it is, under its key. One that is refused, or that fails some times in a row,
//! is cut in halves that share no lane, and so on, until a record that is alone is dealt with as a record.

use super::lane::{Doing, Lane};
use super::{Now, Shard};
use crate::config::BatchForm;
use crate::delivery::Step;
use crate::delivery::template::Fields;
use crate::ground::RecordNumber;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// A lane's part in a batch: so many of its first records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub lane: u32,
    pub records: usize,
}

/// What a lane carries: its own part comes first. At least two records.
pub(super) type Batch = Vec<Member>;

/// A hash of what a batch is made of, for its key (FNV-1a, 64 bits).
struct Composition(u64);

impl Composition {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn is_empty(&self) -> bool {
        self.0 == Self::new().0
    }

    fn add(&mut self, key: &str) {
        for byte in key.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Lane {
    /// Whether its first record may go with others: it was never sent alone, and nothing is known against it.
    fn is_batchable(&self) -> bool {
        self.step == Step::Record && self.cut == 0 && !self.goes_alone()
    }

    /// Whether its first record goes by itself.
    fn goes_alone(&self) -> bool {
        self.batch.is_some() || self.solo || self.attempts > 0 || self.resent
    }

    /// It was taken from the list for a batch, found no room in it, and is on no other list since.
    fn is_ready_as_it_was(&self) -> bool {
        self.doing == Doing::Ready && self.step == Step::Record
    }
}

impl Shard {
    /// When a batch that is not full is sent all the same; `None` where nothing is to be waited for.
    pub(super) fn batch_due_ns(&self) -> Option<u64> {
        let batch = self.settings.deliver.batch.as_ref().filter(|batch| !batch.wait.is_zero())?;
        let ready = &self.apis[self.record_api.0 as usize].ready;
        let first = &self.lanes[*ready.front()? as usize];
        if !first.is_batchable() || ready.len() >= batch.records || !self.routes[Step::Record as usize].0.is_open() {
            return None;
        }
        let mut records = 0;
        for lane in ready {
            let lane = &self.lanes[*lane as usize];
            records += if lane.is_batchable() { lane.queue.len() } else { batch.records };
            if records >= batch.records {
                return None;
            }
        }
        Some(first.step_ns + batch.wait.as_nanos() as u64)
    }

    /// Puts the records of a batch into the body, the key of it into the key. `false` if the lane has no record to send after all.
    pub(super) fn fill_batch(&mut self, now: Now, carrier: u32) -> bool {
        self.body.clear();
        if let Some(BatchForm::Array { before, .. }) = self.settings.deliver.batch.as_ref().map(|batch| &batch.form) {
            self.body.extend_from_slice(before.as_bytes());
            self.body.push(b'[');
        }
        let mut composition = Composition::new();
        // Where the configuration has changed, ids may be needed that were not.
        if !self.has_ids(carrier) {
            self.dissolve_batch(carrier);
        }
        let members = match self.lanes[carrier as usize].batch.take() {
            Some(members) => {
                for member in &members {
                    let added = self.add_records(now, *member, &mut composition, true);
                    debug_assert_eq!(added, member.records);
                }
                members
            }
            None => self.gather(now, carrier, &mut composition),
        };
        if let Some(BatchForm::Array { behind, .. }) = self.settings.deliver.batch.as_ref().map(|batch| &batch.form) {
            self.body.push(b']');
            self.body.extend_from_slice(behind.as_bytes());
        }
        let records: usize = members.iter().map(|member| member.records).sum();
        if records == 0 {
            return false;
        }
        self.write_first_key(carrier);
        if records > 1 {
            write!(self.key, "-b{records}-{:016x}", composition.0).expect("a String takes all");
            for member in &members[1..] {
                self.lanes[member.lane as usize].doing = Doing::InBatch;
            }
            self.lanes[carrier as usize].batch = Some(members);
        }
        true
    }

    /// Whether all records of a batch have the ids that they need.
    fn has_ids(&self, carrier: u32) -> bool {
        let has = |member: &Member| {
            let lane = &self.lanes[member.lane as usize];
            lane.id.is_some() && lane.more_ids.len() + 1 >= member.records
        };
        self.id_head.is_none() || self.lanes[carrier as usize].batch.iter().flatten().all(has)
    }

    /// Takes records of the lane, then of other lanes that are listed to be sent.
    fn gather(&mut self, now: Now, carrier: u32, composition: &mut Composition) -> Batch {
        let batch = self.settings.deliver.batch.as_ref().expect("batches are configured");
        let (records_max, bytes_max) = (batch.records, batch.bytes);
        let lane = &mut self.lanes[carrier as usize];
        let alone = lane.goes_alone();
        let cut = if alone { 0 } else { std::mem::take(&mut lane.cut) };
        let api = self.record_api;
        let mut ready = std::mem::take(&mut self.api(api).ready);
        // Each lane its share, so that one with many records does not fill every batch.
        let share = match (alone, cut) {
            (true, _) => 1,
            (false, 0) => (records_max / (ready.len() + 1)).max(1),
            (false, cut) => cut,
        };
        let (mut members, mut passed) = (Vec::new(), VecDeque::new());
        let (mut next, mut left) = (Some(carrier), if alone { 1 } else { records_max });
        while let Some(lane) = next {
            let wanted = share.min(left);
            let records = self.add_records(now, Member { lane, records: wanted }, composition, false);
            if records > 0 {
                members.push(Member { lane, records });
                left -= records;
            } else if lane != carrier && self.lanes[lane as usize].is_ready_as_it_was() {
                passed.push_back(lane);
            }
            if records == 0 || left == 0 || cut > 0 || self.body.len() >= bytes_max {
                break;
            }
            next = None;
            while let Some(lane) = ready.pop_front() {
                if self.lanes[lane as usize].is_batchable() {
                    next = Some(lane);
                    break;
                }
                passed.push_back(lane);
            }
        }
        passed.append(&mut ready);
        // A lane that found no id may have been listed meanwhile, in front.
        self.api(api).ready.append(&mut passed);
        members
    }

    /// Appends so many of a lane's first records to the body, or fewer: as many as may go, have ids and fit in. `again`: all of them
    /// were sent before.
    fn add_records(&mut self, now: Now, of: Member, composition: &mut Composition, again: bool) -> usize {
        let batch = self.settings.deliver.batch.as_ref().expect("batches are configured");
        let (bytes_max, is_array) = (batch.bytes, matches!(batch.form, BatchForm::Array { .. }));
        let durable_below = match self.lanes[of.lane as usize].needs_durable {
            true => self.journals[0].journal.durable_below(),
            false => RecordNumber(u64::MAX),
        };
        for place in 0..of.records {
            let lane = &self.lanes[of.lane as usize];
            let Some(record) = lane.queue.get(place).filter(|record| again || record.number < durable_below) else {
                return place;
            };
            let record = *record;
            if !again && !self.find_id_of(now, of.lane, place) {
                return place;
            }
            let lane = &self.lanes[of.lane as usize];
            let journal = &self.journals[lane.journal.0 as usize].journal;
            let view = journal.record(record.at);
            debug_assert_eq!(view.number, record.number);
            self.key.clear();
            view.write_key(journal.core(), &mut self.key);
            let before = self.body.len();
            if is_array && self.body.last() != Some(&b'[') {
                self.body.push(b',');
            }
            let fields = Fields {
                id: if place == 0 { lane.id.as_deref() } else { lane.more_ids.get(place - 1).map(|id| &**id) },
                source: &journal.origin(record.origin).name,
                data: view.payload.data,
                received_wall_ns: view.payload.first_byte_wall_ns,
                key: &self.key,
            };
            let rendered = self.template.render(&fields, &mut self.body);
            if !is_array {
                self.body.push(b'\n');
            }
            // The first one of all goes whatever its size is; before it there is at most what stands around.
            if !again && self.body.len() > bytes_max && !composition.is_empty() {
                self.body.truncate(before);
                return place;
            }
            composition.add(&self.key);
            self.counters.lossy_records += u64::from(rendered.lossy && !again && lane.attempts == 0);
        }
        of.records
    }

    /// Sees to it that a record of a lane has its id, if it needs one.
    fn find_id_of(&mut self, now: Now, index: u32, place: usize) -> bool {
        if self.id_head.is_none() {
            return true;
        }
        if place == 0 {
            return self.take_leased_id(now, index);
        }
        place <= self.lanes[index as usize].more_ids.len() || self.take_id_ahead(now, index, place)
    }

    fn write_first_key(&mut self, index: u32) {
        let lane = &self.lanes[index as usize];
        let journal = &self.journals[lane.journal.0 as usize].journal;
        let first = lane.queue.front().expect("a lane in a batch has its records in memory");
        self.key.clear();
        journal.record(first.at).write_key(journal.core(), &mut self.key);
    }

    /// Batches are not configured any more: each lane goes on by itself.
    pub(super) fn dissolve_batch(&mut self, carrier: u32) {
        for member in self.lanes[carrier as usize].batch.take().into_iter().flatten().skip(1) {
            self.make_ready(member.lane);
        }
    }

    /// A batch was refused, or has failed again and again: its halves go on their own ways. `false` where the lane carries none.
    pub(super) fn split_batch(&mut self, carrier: u32) -> bool {
        let Some(members) = self.lanes[carrier as usize].batch.take() else { return false };
        self.counters.batch_splits += 1;
        let records: usize = members.iter().map(|member| member.records).sum();
        let mut left = records.div_ceil(2);
        let (mut front, mut behind) = (Vec::new(), Vec::new());
        for Member { lane, records } in members {
            match left {
                0 => behind.push(Member { lane, records }),
                // What is left of a lane that is cut waits for its front, and is suspect once that is fine. Not so what an earlier cut left
                // behind it: that batch was refused for a record of this one.
                _ => {
                    if records > left {
                        self.lanes[lane as usize].cut = records - left;
                    }
                    front.push(Member { lane, records: records.min(left) });
                }
            }
            left -= records.min(left);
        }
        for half in [behind, front] {
            let Some(first) = half.first().map(|member| member.lane) else { continue };
            let lane = &mut self.lanes[first as usize];
            lane.attempts = 0;
            (lane.failures, lane.failing_since_ns) = (0, None);
            lane.resent = false;
            if half.iter().map(|member| member.records).sum::<usize>() == 1 {
                lane.solo = true;
            } else {
                lane.batch = Some(half);
            }
            self.list_ready(first, true);
        }
        true
    }
}
