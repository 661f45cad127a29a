//! All lanes of a shard, by ids that are told when they are stale.

use super::lane::Lane;
use crate::ground::LaneId;
use slab::Slab;
use std::ops::{Index, IndexMut};

#[derive(Debug)]
struct Entry {
    generation: u32,
    lane: Lane,
}

/// The lanes. It gives ids out and takes them back.
#[derive(Debug, Default)]
pub(in crate::shard) struct Lanes {
    lanes: Slab<Entry>,
    generation: u32,
    /// How many nobody appends to any more.
    left: usize,
}

impl Lanes {
    pub(super) fn insert(&mut self, lane: Lane) -> LaneId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.left += usize::from(lane.is_left());
        LaneId { index: self.lanes.insert(Entry { generation, lane }) as u32, generation }
    }

    pub(super) fn remove(&mut self, id: LaneId) -> Lane {
        let Entry { generation, lane } = self.lanes.remove(id.index as usize);
        assert_eq!(generation, id.generation, "a lane is removed once");
        self.left -= usize::from(lane.is_left());
        lane
    }

    /// Changes who appends to a lane.
    pub(super) fn change_appenders(&mut self, id: LaneId, change: impl FnOnce(&mut Lane)) {
        let lane = &mut self[id];
        let was_left = lane.is_left();
        change(lane);
        let is_left = lane.is_left();
        self.left = self.left + usize::from(is_left) - usize::from(was_left);
    }

    /// How many nobody appends to any more.
    pub fn left(&self) -> usize {
        self.left
    }

    /// A lane, unless its id is stale.
    pub fn get(&self, id: LaneId) -> Option<&Lane> {
        let entry = self.lanes.get(id.index as usize).filter(|entry| entry.generation == id.generation);
        entry.map(|entry| &entry.lane)
    }

    /// All lanes, by index.
    pub fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        let id = |index: usize, generation| LaneId { index: index as u32, generation };
        self.lanes.iter().map(move |(index, entry)| (id(index, entry.generation), &entry.lane))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LaneId, &mut Lane)> {
        let id = |index: usize, generation| LaneId { index: index as u32, generation };
        self.lanes.iter_mut().map(move |(index, entry)| (id(index, entry.generation), &mut entry.lane))
    }

    pub fn len(&self) -> usize {
        self.lanes.len()
    }
}

impl Index<LaneId> for Lanes {
    type Output = Lane;

    fn index(&self, id: LaneId) -> &Lane {
        let entry = &self.lanes[id.index as usize];
        assert_eq!(entry.generation, id.generation, "a lane is named by a fresh id");
        &entry.lane
    }
}

impl IndexMut<LaneId> for Lanes {
    fn index_mut(&mut self, id: LaneId) -> &mut Lane {
        let entry = &mut self.lanes[id.index as usize];
        assert_eq!(entry.generation, id.generation, "a lane is named by a fresh id");
        &mut entry.lane
    }
}
