//! Lanes that go on across connections: that of an address, and that of a SOURCE of HTTP machines.
//! Whoever comes back to such a place appends to the lane in which its older records wait.

use super::source::Sources;
use crate::ground::{LaneId, SourceId};
use crate::shard::store::Store;
use std::collections::HashMap;
use std::net::IpAddr;

/// SOURCEs of a core that have a lane at the same time. Who may choose the name of each record must not
/// fill the memory with lanes: those of connections can sleep.
pub(super) const NAMES_MAX: usize = 100_000;
/// With so many records waiting in the lane of a SOURCE it is told that several connections share it.
const CROWDED_RECORDS: u64 = 1_000;

/// What a lane belongs to that a source goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'n> {
    /// A port, or a device server.
    Line,
    Address(IpAddr),
    /// The SOURCE of requests.
    Name(&'n str),
}

/// The lanes of all places of a core but lines, which their sources have.
#[derive(Debug, Default)]
pub(super) struct Places {
    of_addresses: HashMap<(SourceId, IpAddr), LaneId>,
    of_names: HashMap<SourceId, HashMap<Box<str>, LaneId>>,
    /// The names of each lane that has some, mostly one: thousands of others must not be looked at when
    /// it ends. Of connections with lanes of their own there can be several.
    names: HashMap<LaneId, Vec<Box<str>>>,
    /// It was told that there are too many.
    is_told: bool,
}

impl Places {
    /// The lane of a place of a source, which may have ended.
    pub fn find(&self, id: SourceId, place: Place<'_>) -> Option<LaneId> {
        match place {
            Place::Line => None,
            Place::Address(address) => self.of_addresses.get(&(id, address)).copied(),
            Place::Name(name) => self.of_names.get(&id)?.get(name).copied(),
        }
    }

    /// A lane is that of a place from now on; the one that was before.
    pub fn set(&mut self, id: SourceId, place: Place<'_>, lane: LaneId) -> Option<LaneId> {
        match place {
            Place::Line => None,
            Place::Address(address) => self.of_addresses.insert((id, address), lane),
            Place::Name(name) => {
                let names = self.names.entry(lane).or_default();
                if names.iter().all(|known| **known != *name) {
                    names.push(name.into());
                }
                let lanes = self.of_names.entry(id).or_default();
                match lanes.get_mut(name) {
                    Some(before) => Some(std::mem::replace(before, lane)),
                    None => lanes.insert(name.into(), lane),
                }
            }
        }
    }

    /// A source goes on where earlier ones of its name were, with what it has no lane for.
    pub fn inherit(&mut self, id: SourceId, is_earlier: impl Fn(SourceId) -> bool) {
        let of_addresses = self.of_addresses.iter().filter(|((other, _), _)| is_earlier(*other));
        let found: Vec<(IpAddr, LaneId)> = of_addresses.map(|((_, address), lane)| (*address, *lane)).collect();
        for (address, lane) in found {
            self.of_addresses.entry((id, address)).or_insert(lane);
        }
        let of_names = self.of_names.iter().filter(|(other, _)| is_earlier(**other)).flat_map(|(_, lanes)| lanes);
        let found: Vec<(Box<str>, LaneId)> = of_names.map(|(name, lane)| (name.clone(), *lane)).collect();
        for (name, lane) in found {
            self.of_names.entry(id).or_default().entry(name).or_insert(lane);
        }
    }

    /// Lanes that are gone are no place's.
    pub fn forget(&mut self, ended: impl Iterator<Item = LaneId>) {
        let mut of_addresses = std::collections::HashSet::new();
        for lane in ended {
            of_addresses.insert(lane);
            for name in self.names.remove(&lane).into_iter().flatten() {
                for lanes in self.of_names.values_mut() {
                    if lanes.get(&name) == Some(&lane) {
                        lanes.remove(&name);
                    }
                }
            }
        }
        self.of_names.retain(|_, lanes| !lanes.is_empty());
        if !self.of_addresses.is_empty() {
            self.of_addresses.retain(|_, lane| !of_addresses.contains(lane));
        }
    }

    /// Whether there is room for the lane of one more SOURCE. Beyond it each connection has its own.
    fn has_room(&self) -> bool {
        self.names.len() < NAMES_MAX
    }

    /// Of each source with one, the SOURCE in whose lane most waits though several connections send under
    /// it, in words.
    pub fn crowded(&self, store: &Store) -> Vec<(SourceId, String)> {
        let told = self.of_names.iter().filter_map(|(id, lanes)| {
            let found = lanes.iter().filter_map(|(name, lane)| Some((name, store.find(*lane)?)));
            let all = found.map(|(name, lane)| (lane.records().pending(), lane.appenders(), name));
            let crowded = all.filter(|(pending, senders, _)| *pending >= CROWDED_RECORDS && *senders > 1);
            let (pending, senders, name) = crowded.max()?;
            let words = format!(
                "{senders} connections send as SOURCE {name}, and {pending} records wait in their one order: give each machine a \
                 SOURCE of its own, or set lane = \"connection\""
            );
            Some((*id, words))
        });
        told.collect()
    }

    pub fn is_empty(&self) -> bool {
        self.of_addresses.is_empty() && self.of_names.is_empty()
    }

    /// Whether a source has any.
    pub fn has(&self, id: SourceId) -> bool {
        self.of_names.contains_key(&id) || self.of_addresses.keys().any(|(other, _)| *other == id)
    }
}

impl Sources {
    /// The lane in which the records of a place of a source go on; one of its own where there are too
    /// many places. `needs_durable`: as for [`Store::new_lane`].
    pub fn enter_place(&mut self, store: &mut Store, id: SourceId, place: Place<'_>, needs_durable: bool) -> LaneId {
        let older = self.places.find(id, place);
        if older.is_none() && matches!(place, Place::Name(_)) && !self.places.has_room() {
            if !std::mem::replace(&mut self.places.is_told, true) {
                tracing::warn!(
                    "records of more than {NAMES_MAX} SOURCEs wait on this core: further connections keep their own order alone"
                );
            }
            return store.new_lane(needs_durable);
        }
        let lane = store.continue_lane(older, needs_durable);
        if older != Some(lane) {
            self.places.set(id, place, lane);
        }
        lane
    }

    /// Lanes that are gone are no place's.
    pub fn forget_lanes(&mut self, ended: impl Iterator<Item = LaneId>) {
        if self.places.is_empty() {
            return;
        }
        self.places.forget(ended);
        if self.iter().any(|source| source.retired) {
            self.bury_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_names_and_for_one_more_when_one_is_done() {
        let lane = |index| LaneId { index, generation: 1 };
        let mut places = Places::default();
        for index in 0..NAMES_MAX as u32 {
            assert!(places.has_room());
            places.set(SourceId(0), Place::Name(&index.to_string()), lane(index));
        }
        assert!(!places.has_room());
        places.forget([lane(7)].into_iter());
        assert!(places.has_room());
    }

    #[test]
    fn a_place_has_its_lane_until_that_ends_and_a_source_of_the_same_name_goes_on_with_it() {
        let (earlier, later) = (SourceId(1), SourceId(2));
        let lane = |index| LaneId { index, generation: 1 };
        let address = Place::Address(IpAddr::from([10, 0, 0, 1]));
        let mut places = Places::default();
        assert_eq!(places.set(earlier, Place::Name("cam-1"), lane(1)), None);
        assert_eq!(places.set(earlier, Place::Name("cam-2"), lane(2)), None);
        assert_eq!(places.set(earlier, address, lane(3)), None);
        assert_eq!(places.set(earlier, Place::Name("cam-1"), lane(4)), Some(lane(1)), "the older one goes before it");
        places.forget([lane(1)].into_iter());
        assert_eq!(places.find(earlier, Place::Name("cam-1")), Some(lane(4)));
        places.set(later, Place::Name("cam-2"), lane(5));
        places.inherit(later, |id| id == earlier);
        let found = [Place::Name("cam-1"), Place::Name("cam-2"), address].map(|place| places.find(later, place));
        assert_eq!(found, [Some(lane(4)), Some(lane(5)), Some(lane(3))]);
        places.forget([lane(4), lane(3), lane(2)].into_iter());
        assert!(!places.has(earlier) && places.has(later));
        places.forget([lane(5), lane(9)].into_iter());
        assert!(places.is_empty() && places.names.is_empty());
    }
}
