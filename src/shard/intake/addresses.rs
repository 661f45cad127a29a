//! Which addresses are connected to the listeners whose lanes are addresses: two machines behind one address would be one.

use crate::ground::{LinkId, SourceId};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// So many of them a new connection follows at most: as many as a device server has ports. Thousands
/// behind one address are no machine, and each would ask for all.
const LATEST_MAX: usize = 32;

/// Open connections by source and address, oldest first, of listeners with `lane = "address"`.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    open: HashMap<(SourceId, IpAddr), Vec<LinkId>>,
    /// Sources of which it was said that an address has a second connection.
    told: HashSet<SourceId>,
}

impl Addresses {
    /// A connection begins. True for the first one of a source that is not its address' only one.
    pub fn enter(&mut self, id: SourceId, address: IpAddr, link: LinkId) -> bool {
        let open = self.open.entry((id, address)).or_insert_with(|| Vec::with_capacity(1));
        open.push(link);
        open.len() > 1 && self.told.insert(id)
    }

    /// The latest open connections of an address to these sources, each's oldest first.
    pub fn latest(&self, ids: impl Iterator<Item = SourceId>, address: IpAddr) -> Vec<LinkId> {
        let mut latest: Vec<LinkId> = ids.filter_map(|id| self.open.get(&(id, address))).flatten().copied().collect();
        latest.drain(..latest.len().saturating_sub(LATEST_MAX));
        latest
    }

    /// A connection has ended.
    pub fn leave(&mut self, id: SourceId, address: IpAddr, link: LinkId) {
        let open = self.open.get_mut(&(id, address)).expect("a connection that has begun");
        open.retain(|other| *other != link);
        if open.is_empty() {
            self.open.remove(&(id, address));
        }
    }

    /// Another source has this id now.
    pub fn forget(&mut self, id: SourceId) {
        self.told.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_live_connection_of_an_address_is_told_once_a_source() {
        let (a, b) = (SourceId(1), SourceId(2));
        let (one, two) = (IpAddr::from([10, 0, 4, 21]), IpAddr::from([10, 0, 4, 22]));
        let link = |index| LinkId { index, generation: 1 };
        let mut addresses = Addresses::default();
        assert!(!addresses.enter(a, one, link(0)) && !addresses.enter(a, two, link(1)));
        assert!(!addresses.enter(b, one, link(2)));
        addresses.leave(a, one, link(0));
        assert!(!addresses.enter(a, one, link(3)), "one after the other");
        assert!(addresses.enter(a, one, link(0)));
        assert!(!addresses.enter(a, two, link(4)) && !addresses.enter(a, one, link(5)), "once");
        assert!(addresses.enter(b, one, link(6)));
        addresses.forget(a);
        assert!(addresses.enter(a, one, link(7)));
        assert_eq!(addresses.latest([b, a].into_iter(), one), [2, 6, 3, 0, 5, 7].map(link), "oldest first");
        for index in [0, 3, 5, 7] {
            addresses.leave(a, one, link(index));
        }
        assert!(addresses.latest([a].into_iter(), one).is_empty());
        assert_eq!(addresses.open.len(), 2);
        for index in 0..100 {
            addresses.enter(a, one, link(100 + index));
        }
        let latest = addresses.latest([a].into_iter(), one);
        assert_eq!((latest.len(), latest[0], latest[LATEST_MAX - 1]), (LATEST_MAX, link(168), link(199)));
    }
}
