//! The machines whose records this core has: what each has sent, what became of it, and what of it waits.
//!
//! A machine is a configured source and a name in it: a port, a name of a `tcp_listen` source, a SOURCE over
//! HTTP. What changes of one is listed, so that whoever shows machines copies those alone. It never decides
//! anything: it counts what the others do.

use crate::config::is_of_connection;
use crate::ground::count::Terms;
use crate::ground::{Now, RecordFlags};
use crate::journal::{Origin, OriginRef};
use crate::observe::machine::{MachineState, SAMPLE_BYTES_MAX};
use crate::shard::JournalId;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Machines of all cores that have a row of their own. The records of others are counted in one row a source.
pub(super) const MACHINES_MAX: usize = 100_000;
/// What such a row is called. No machine is: a SOURCE and a source's name have no blanks.
pub(super) const OTHERS: &str = "all others";

// What a machine costs on its core beside its name, twice in the tables, and 8 bytes of each of its origins.
const _: () = assert!(size_of::<Machine>() <= 208);

#[derive(Debug)]
struct Machine {
    state: MachineState,
    /// It is listed in `changed`.
    is_listed: bool,
}

/// Names a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct MachineIndex(u32);

/// Names an origin's machine, as long as the origin is the same.
#[derive(Debug, Clone, Copy)]
struct Place {
    origin_id: u32,
    machine: u32,
}

/// All of one core.
#[derive(Debug)]
pub(super) struct Machines {
    list: Vec<Machine>,
    /// By source and name.
    names: HashMap<Arc<str>, HashMap<Arc<str>, u32>>,
    /// By journal and origin.
    places: Vec<Vec<Option<Place>>>,
    /// Those that have changed since they were last shown, in that order.
    changed: VecDeque<u32>,
    most: usize,
}

impl Machines {
    /// Of one of so many cores, with so many journals.
    pub fn new(cores: u16, journals: usize) -> Self {
        Self {
            list: Vec::new(),
            names: HashMap::new(),
            places: vec![Vec::new(); journals],
            changed: VecDeque::new(),
            most: MACHINES_MAX / usize::from(cores.max(1)),
        }
    }

    /// A machine that is known from the configuration, though it may never have sent anything.
    pub fn expect(&mut self, source: &str, name: &str) {
        let machine = self.find(source, name);
        self.change(machine);
    }

    /// A record was journaled.
    #[inline]
    pub fn received(&mut self, now: Now, of: Sender<'_>, (flags, data): (RecordFlags, &[u8])) {
        let state = self.of(of);
        state.received += 1;
        state.pending += 1;
        state.bytes += data.len() as u64;
        state.last_record_wall_ns = now.wall_ns;
        state.last_bytes = data.len().min(u32::MAX as usize) as u32;
        state.flags = flags;
        let sample = data.len().min(SAMPLE_BYTES_MAX);
        state.sample[..sample].copy_from_slice(&data[..sample]);
    }

    /// What a machine sent became no record.
    pub fn rejected(&mut self, now: Now, source: &str, name: &str) {
        let machine = self.find(source, name);
        let state = self.change(machine);
        state.received += 1;
        state.rejected += 1;
        state.last_rejected_wall_ns = now.wall_ns;
    }

    /// Records were delivered.
    #[inline]
    pub fn delivered(&mut self, now: Now, of: Sender<'_>) {
        let state = self.of(of);
        state.pending -= 1;
        state.delivered += 1;
        state.last_delivered_wall_ns = now.wall_ns;
    }

    /// A record was parked after an answer with this status.
    pub fn parked(&mut self, of: Sender<'_>, status: u16) {
        let state = self.of(of);
        state.pending -= 1;
        state.parked += 1;
        state.parked_status = status;
    }

    /// A parked record of [`Machines::find_of`] was deleted.
    pub fn discarded(&mut self, machine: MachineIndex) {
        let state = self.change(machine.0);
        state.parked -= 1;
        state.discarded += 1;
    }

    /// A parked record is to be delivered after all.
    pub fn brought_back(&mut self, of: Sender<'_>) {
        let state = self.of(of);
        state.parked -= 1;
        state.pending += 1;
    }

    /// So many records of an earlier start wait, and so many are kept aside.
    pub fn recovered(&mut self, of: Sender<'_>, pending: u64, parked: u64) {
        let state = self.of(of);
        state.pending += pending;
        state.parked += parked;
    }

    /// At most `most` of those that have changed since they were last taken, and whether there are more.
    pub fn take_changed(&mut self, most: usize) -> (Vec<MachineState>, bool) {
        let count = self.changed.len().min(most);
        let taken = self.changed.drain(..count);
        let states = taken.map(|at| {
            let machine = &mut self.list[at as usize];
            machine.is_listed = false;
            machine.state.clone()
        });
        let states = states.collect();
        (states, !self.changed.is_empty())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &MachineState> {
        self.list.iter().map(|machine| &machine.state)
    }

    /// What must be true between two turns: no record is counted twice, and none is forgotten.
    pub fn check(&self, terms: &Terms) {
        let sum = |count: fn(&MachineState) -> u64| self.all().map(count).sum::<u64>();
        assert_eq!(sum(|state| state.received), terms.received, "records that machines have sent");
        assert_eq!(sum(|state| state.pending), terms.pending, "records of machines that wait");
        assert_eq!(sum(|state| state.parked), terms.parked, "records of machines that are kept aside");
        assert_eq!(sum(|state| state.rejected), terms.rejected, "records of machines that were rejected");
        assert_eq!(sum(|state| state.delivered), terms.delivered, "records of machines that were delivered");
        assert_eq!(self.changed.len(), self.list.iter().filter(|machine| machine.is_listed).count());
    }

    /// Whose the records of an origin are.
    #[inline]
    pub fn find_of(&mut self, of: Sender<'_>) -> MachineIndex {
        let places = &self.places[usize::from(of.journal.0)];
        let known = places.get(of.at.0 as usize).copied().flatten().filter(|place| place.origin_id == of.origin.id);
        MachineIndex(match known {
            Some(place) => place.machine,
            None => self.place(of),
        })
    }

    #[inline]
    fn of(&mut self, of: Sender<'_>) -> &mut MachineState {
        let machine = self.find_of(of);
        self.change(machine.0)
    }

    #[cold]
    fn place(&mut self, of: Sender<'_>) -> u32 {
        let who = &of.origin.who;
        let machine = self.find(who.source(), &machine_of(who.name(), who.peer()));
        let places = &mut self.places[usize::from(of.journal.0)];
        let at = of.at.0 as usize;
        if places.len() <= at {
            places.resize(at + 1, None);
        }
        places[at] = Some(Place { origin_id: of.origin.id, machine });
        machine
    }

    fn find(&mut self, source: &str, name: &str) -> u32 {
        if let Some(known) = self.names.get(source).and_then(|names| names.get(name)) {
            return *known;
        }
        if self.list.len() >= self.most && name != OTHERS {
            return self.find(source, OTHERS);
        }
        let source = match self.names.get_key_value(source) {
            Some((source, _)) => Arc::clone(source),
            None => Arc::from(source),
        };
        let (name, at): (Arc<str>, u32) = (Arc::from(name), self.list.len() as u32);
        let state = MachineState::new(Arc::clone(&source), Arc::clone(&name));
        self.list.push(Machine { state, is_listed: false });
        self.names.entry(source).or_default().insert(name, at);
        at
    }

    #[inline]
    fn change(&mut self, at: u32) -> &mut MachineState {
        let machine = &mut self.list[at as usize];
        if !std::mem::replace(&mut machine.is_listed, true) {
            self.changed.push_back(at);
        }
        &mut machine.state
    }
}

/// What the machine is called of which a record's name is `name`. A connection is no machine: the same one comes again
/// by another. See [`machine_name`](crate::config::machine_name).
fn machine_of(name: &str, peer: Option<SocketAddr>) -> Cow<'_, str> {
    let (Some(peer), Some((machine, _))) = (peer, name.rsplit_once(':')) else { return Cow::Borrowed(name) };
    // The last part of an address is no port.
    let is_address = peer.is_ipv6() && machine.contains('@') && !machine.ends_with(']');
    match is_of_connection(name, peer) && !is_address {
        true if machine.ends_with(']') => Cow::Owned(machine.replace(['[', ']'], "")),
        true => Cow::Borrowed(machine),
        false => Cow::Borrowed(name),
    }
}

/// Who has sent a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'o> {
    pub journal: JournalId,
    pub at: OriginRef,
    pub origin: &'o Origin,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LaneKey, machine_name};
    use std::collections::BTreeMap;

    #[test]
    fn a_machine_has_one_name_however_its_records_are_named() {
        let names = BTreeMap::from([("10.0.0.9".parse().expect("an address"), "press".to_owned())]);
        for address in ["10.0.0.1:5000", "10.0.0.9:5000", "[2001:db8::1]:5000", "[2001:db8::5000]:5000", "[::1]:1"] {
            let peer = address.parse().expect("an address");
            let named = |lane| machine_name("line", lane, &names, peer);
            let (of_address, of_connection) = (named(LaneKey::Address), named(LaneKey::Connection));
            assert_eq!(machine_of(&of_connection, Some(peer)), of_address, "{address}");
            assert_eq!(machine_of(&of_address, Some(peer)), of_address, "{address}");
        }
        assert_eq!(machine_of("cam:5000", None), "cam:5000");
    }

    #[test]
    fn machines_beyond_the_bound_share_a_row_a_source() {
        let mut machines = Machines::new(1, 1);
        machines.most = 3;
        (0..5).for_each(|at| machines.rejected(Now::default(), "http", &format!("cam-{at}")));
        machines.rejected(Now::default(), "line", "line");
        let rows: Vec<_> = machines.all().map(|state| (&*state.source, &*state.name, state.rejected)).collect();
        let own = (0..3).map(|at| format!("cam-{at}")).collect::<Vec<_>>();
        let mut expected: Vec<_> = own.iter().map(|name| ("http", name.as_str(), 1)).collect();
        expected.extend([("http", OTHERS, 2), ("line", OTHERS, 1)]);
        assert_eq!(rows, expected);
        let (taken, has_more) = machines.take_changed(2);
        assert_eq!((taken.len(), has_more), (2, true));
        assert_eq!((machines.take_changed(9).0.len(), machines.take_changed(9).0.len()), (3, 0));
    }
}
