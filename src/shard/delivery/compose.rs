//! Requests as they are sent: the key and the body of one record, or of many.
//!
//! Many records go in one request, of many lanes, and of each lane in order. The lane that a batch
//! was begun for *carries* it through all that can happen to a request; the others stand still
//! until it is settled. A batch without an answer is sent again as it is, under its key: what was
//! sent in it is never mixed anew before its answer.

use super::Lent;
use super::lease::{Claim, Leases};
use super::outbox::Outbox;
use crate::config::BatchForm;
use crate::delivery::Step;
use crate::delivery::template::Fields;
use crate::ground::{LaneId, RecordFlags};
use crate::journal::{Origin, RecordView};
use crate::shard::store::{Batch, Lane, Member, State, Store};
use std::collections::VecDeque;
use std::fmt::Write as _;

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

/// What templates show of a record.
pub(super) fn fields_of<'a>(
    record: &RecordView<'a>,
    origin: &'a Origin,
    id: Option<&'a str>,
    key: &'a str,
) -> Fields<'a> {
    let who = &origin.who;
    Fields {
        id,
        source: who.name(),
        source_name: who.source(),
        peer: who.peer(),
        decoding: who.decoding(),
        flags: RecordFlags(record.flags),
        data: record.payload.data,
        received_wall_ns: record.payload.first_byte_wall_ns,
        key,
        machine_key: record.payload.key,
        headers: record.payload.headers,
    }
}

/// Builds requests, in two buffers that are used again and again.
#[derive(Debug, Default)]
pub(super) struct Composer {
    pub key: String,
    pub body: Vec<u8>,
}

/// Gives a lane's first record an id, if it needs one and there is one; else the lane is listed
/// where it gets one.
pub(super) fn claim_id(outbox: &mut Outbox, leases: &mut Leases, lent: &mut Lent<'_, '_>, lane: LaneId) -> bool {
    let Lent { turn, store, rules, .. } = lent;
    match leases.claim(turn.now, store, lane) {
        Claim::Has => return true,
        Claim::NoRoom => {
            store.back_off(turn, lane, rules.retry());
        }
        Claim::NoneLeft => {
            if leases.find(store, lane) {
                outbox.list(turn, store, lane, true);
            }
        }
    }
    false
}

impl Composer {
    /// Writes the key of a lane's first record, which is that of a batch's first one, too.
    pub fn write_first_key(&mut self, store: &Store, lane: &Lane) {
        self.key.clear();
        store.record(lane, 0).0.write_key(store.core_of(lane), &mut self.key);
    }

    /// Puts a lane's first record into the body, its key into the key; `false` if its data was not
    /// valid UTF-8 where that is wanted.
    pub fn write_first(&mut self, lent: &Lent<'_, '_>, lane: &Lane) -> bool {
        let (record, origin) = lent.store.record(lane, 0);
        self.key.clear();
        record.write_key(lent.store.core_of(lane), &mut self.key);
        let fields = fields_of(&record, origin, lane.ids().get(0), &self.key);
        self.body.clear();
        !lent.rules.template.render(&fields, &mut self.body).lossy
    }

    /// Puts the records of a batch into the body, the key of it into the key. `false` if the lane
    /// has no record to send after all.
    pub fn write_batch(
        &mut self,
        outbox: &mut Outbox,
        leases: &mut Leases,
        lent: &mut Lent<'_, '_>,
        carrier: LaneId,
    ) -> bool {
        let rules = lent.rules;
        let around = match rules.batch().map(|batch| &batch.form) {
            Some(BatchForm::Array { before, behind }) => Some((before.as_bytes(), behind.as_bytes())),
            _ => None,
        };
        self.body.clear();
        if let Some((before, _)) = around {
            self.body.extend_from_slice(before);
            self.body.push(b'[');
        }
        let mut composition = Composition::new();
        let members = match lent.store.lane_mut(carrier).take_batch() {
            Some(members) => {
                for member in &members {
                    let added = self.add_records(outbox, leases, lent, *member, &mut composition, true);
                    debug_assert_eq!(added, member.records);
                }
                members
            }
            None => self.gather(outbox, leases, lent, carrier, &mut composition),
        };
        if let Some((_, behind)) = around {
            self.body.push(b']');
            self.body.extend_from_slice(behind);
        }
        let records: usize = members.iter().map(|member| member.records).sum();
        if records == 0 {
            return false;
        }
        self.write_first_key(lent.store, lent.store.lane(carrier));
        if records > 1 {
            write!(self.key, "-b{records}-{:016x}", composition.0).expect("a String takes all");
            for member in &members[1..] {
                lent.store.lane_mut(member.lane).join();
            }
            lent.store.lane_mut(carrier).carry(members);
        }
        true
    }

    /// Takes records of the lane, then of other lanes that are listed to be sent.
    fn gather(
        &mut self,
        outbox: &mut Outbox,
        leases: &mut Leases,
        lent: &mut Lent<'_, '_>,
        carrier: LaneId,
        composition: &mut Composition,
    ) -> Batch {
        let batch = lent.rules.batch().expect("batches are configured");
        let (records_max, bytes_max) = (batch.records, batch.bytes);
        let lane = lent.store.lane_mut(carrier);
        let alone = lane.goes_alone();
        let apart = if alone { None } else { lane.take_apart() };
        let api = outbox.record_api();
        let mut ready = outbox.api_mut(api).take_ready();
        // Each lane its share, so that one with many records does not fill every batch.
        let share = match (alone, apart) {
            (true, _) => 1,
            (false, None) => (records_max / (ready.len() + 1)).max(1),
            (false, Some(apart)) => apart,
        };
        let (mut members, mut passed) = (Vec::new(), VecDeque::new());
        let (mut next, mut left) = (Some(carrier), if alone { 1 } else { records_max });
        while let Some(lane) = next {
            let wanted = Member { lane, records: share.min(left) };
            let records = self.add_records(outbox, leases, lent, wanted, composition, false);
            if records > 0 {
                members.push(Member { lane, records });
                left -= records;
            } else if lane != carrier && is_ready_as_it_was(lent.store.lane(lane)) {
                passed.push_back(lane);
            }
            if records == 0 || left == 0 || apart.is_some() || self.body.len() >= bytes_max {
                break;
            }
            next = None;
            while let Some(lane) = ready.pop_front() {
                if lent.store.lane(lane).is_batchable() {
                    next = Some(lane);
                    break;
                }
                passed.push_back(lane);
            }
        }
        passed.append(&mut ready);
        // A lane that found no id may have been listed meanwhile, in front.
        outbox.api_mut(api).append_ready(passed);
        members
    }

    /// Appends so many of a lane's first records to the body, or fewer: as many as may go, have ids
    /// and fit in. `again`: all of them were sent before.
    fn add_records(
        &mut self,
        outbox: &mut Outbox,
        leases: &mut Leases,
        lent: &mut Lent<'_, '_>,
        of: Member,
        composition: &mut Composition,
        again: bool,
    ) -> usize {
        let rules = lent.rules;
        let batch = rules.batch().expect("batches are configured");
        let (bytes_max, is_array) = (batch.bytes, matches!(batch.form, BatchForm::Array { .. }));
        let sendable_below = lent.store.sendable_below(of.lane);
        let may_go = |number| again || sendable_below.is_none_or(|below| number < below);
        for place in 0..of.records {
            let lane = lent.store.lane(of.lane);
            if lane.records().get(place).is_none_or(|waiting| !may_go(waiting.number)) {
                return place;
            }
            if !again && rules.has_ids() {
                let has_id = match place {
                    0 => claim_id(outbox, leases, lent, of.lane),
                    _ if place <= lane.ids().behind() => true,
                    _ => leases.claim_behind(lent.turn.now, lent.store, of.lane, place),
                };
                if !has_id {
                    return place;
                }
            }
            let lane = lent.store.lane(of.lane);
            let (record, origin) = lent.store.record(lane, place);
            self.key.clear();
            record.write_key(lent.store.core_of(lane), &mut self.key);
            let before = self.body.len();
            if is_array && self.body.last() != Some(&b'[') {
                self.body.push(b',');
            }
            let fields = fields_of(&record, origin, lane.ids().get(place), &self.key);
            let rendered = rules.template.render(&fields, &mut self.body);
            if !is_array {
                self.body.push(b'\n');
            }
            // The first one of all goes whatever its size is; before it there is at most what
            // stands around.
            if !again && self.body.len() > bytes_max && !composition.is_empty() {
                self.body.truncate(before);
                return place;
            }
            composition.add(&self.key);
            let is_first_try = !again && lane.tries().attempts() == 0;
            lent.turn.counters.lossy_records += u64::from(rendered.lossy && is_first_try);
        }
        of.records
    }
}

/// Whether a lane was taken from the list for a batch, found no room in it, and is on no other list
/// since.
fn is_ready_as_it_was(lane: &Lane) -> bool {
    lane.state() == State::Ready && lane.step() == Step::Record
}
