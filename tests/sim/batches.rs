//! Records that came in one request: all of them arrive, or none, whatever happens between.
//!
//! That an answered request is kept, and the order of its records, is judged record by record (`oracle`).

use super::oracle::{Lane, Oracle, shorten};
use std::collections::{BTreeMap, BTreeSet};

struct Group {
    lane: usize,
    shown: Vec<Vec<u8>>,
    /// What was lost of it was lost to something that no one promises to withstand.
    is_excused: bool,
}

/// All requests with several records that were handed to the shard.
#[derive(Default)]
pub struct Batches {
    groups: Vec<Group>,
    /// The groups of a record.
    of: BTreeMap<Vec<u8>, BTreeSet<usize>>,
}

impl Batches {
    /// A request was handed over. One that is sent again is the same.
    pub fn add(&mut self, lane: usize, shown: &[Vec<u8>]) {
        let [first, _, ..] = shown else { return };
        let is_known = |group: &usize| self.groups[*group].lane == lane;
        if self.of.get(first).is_some_and(|groups| groups.iter().any(is_known)) {
            return;
        }
        for record in shown {
            self.of.entry(record.clone()).or_default().insert(self.groups.len());
        }
        self.groups.push(Group { lane, shown: shown.to_vec(), is_excused: false });
    }

    /// What becomes of this record tells nothing: it was damaged, or arrived without its name.
    pub fn excuse(&mut self, record: &[u8]) {
        for group in self.of.get(record).into_iter().flatten() {
            self.groups[*group].is_excused = true;
        }
    }

    /// Memory is lost, and with it some of what was only there.
    pub fn excuse_incomplete(&mut self, lanes: &[Lane]) {
        for group in &mut self.groups {
            group.is_excused |= group.settled(&lanes[group.lane]) < group.shown.len();
        }
    }
}

impl Group {
    /// How many of its records have arrived, or were deleted by an operator.
    fn settled(&self, lane: &Lane) -> usize {
        let is_settled = |record: &&Vec<u8>| lane.arrived.contains(*record) || lane.discarded.contains(*record);
        self.shown.iter().filter(is_settled).count()
    }
}

impl Oracle {
    /// At the end: no request has arrived in part. How many have not arrived at all.
    ///
    /// # Errors
    /// Which one is torn.
    pub fn batches_whole(&self) -> Result<u64, String> {
        let mut absent = 0;
        for group in self.batches.groups.iter().filter(|group| !group.is_excused) {
            let lane = &self.lanes[group.lane];
            let (settled, all) = (group.settled(lane), group.shown.len());
            if settled > 0 && settled < all {
                let first = shorten(&group.shown[0]);
                return Err(format!("{}: {settled} of {all} records arrived of a request with {first}", lane.name));
            }
            absent += u64::from(settled == 0);
        }
        Ok(absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Body;

    fn oracle(rows: &[&str]) -> Oracle {
        let mut oracle = Oracle::new(Body::Raw, true);
        oracle.open_http(3, "b-1");
        oracle.http_request(3, 10, ("b-1", &[b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]), false);
        assert_eq!(oracle.hand(0, 3, &[0; 10], 10), (1, 3));
        for row in rows {
            oracle.row("b-1", row.as_bytes()).unwrap();
        }
        oracle
    }

    #[test]
    fn of_a_request_all_records_arrive_or_none() {
        assert_eq!(oracle(&[]).batches_whole(), Ok(1));
        assert_eq!(oracle(&["a", "b", "c"]).batches_whole(), Ok(0));
        for torn in [&["a"][..], &["a", "b"]] {
            assert!(oracle(torn).batches_whole().is_err(), "{torn:?}");
        }
    }

    #[test]
    fn damage_and_lost_memory_excuse_what_they_may_have_torn() {
        let mut damaged = oracle(&["a"]);
        damaged.batches.excuse(b"b");
        assert_eq!(damaged.batches_whole(), Ok(0));
        let mut forgotten = oracle(&["a"]);
        forgotten.batches.excuse_incomplete(&forgotten.lanes);
        assert_eq!(forgotten.batches_whole(), Ok(0));
    }
}
