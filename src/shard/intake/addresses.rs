//! Which addresses are connected to the listeners whose lanes are addresses: two machines behind one address would be one.

use crate::ground::SourceId;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Open connections by source and address, of listeners with `lane = "address"`.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    open: HashMap<(SourceId, IpAddr), u32>,
    /// Sources of which it was said that an address has a second connection.
    told: HashSet<SourceId>,
}

impl Addresses {
    /// A connection begins. True for the first one of a source that is not its address' only one.
    pub fn enter(&mut self, id: SourceId, address: IpAddr) -> bool {
        let open = self.open.entry((id, address)).or_default();
        *open += 1;
        *open > 1 && self.told.insert(id)
    }

    /// A connection has ended.
    pub fn leave(&mut self, id: SourceId, address: IpAddr) {
        let open = self.open.get_mut(&(id, address)).expect("a connection that has begun");
        *open -= 1;
        if *open == 0 {
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
        let mut addresses = Addresses::default();
        assert!(!addresses.enter(a, one) && !addresses.enter(a, two) && !addresses.enter(b, one));
        addresses.leave(a, one);
        assert!(!addresses.enter(a, one), "one after the other");
        assert!(addresses.enter(a, one));
        assert!(!addresses.enter(a, two) && !addresses.enter(a, one), "once");
        assert!(addresses.enter(b, one));
        addresses.forget(a);
        assert!(addresses.enter(a, one));
        for _ in 0..4 {
            addresses.leave(a, one);
        }
        assert_eq!(addresses.open.len(), 2);
    }
}
