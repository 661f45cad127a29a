//! Who has how much: connections of addresses and tokens, what SOURCEs send a second, and what of a
//! journal that is nearly full each address has taken.

use super::access::subscriber;
use crate::access;
use crate::ground::{LinkId, SegmentNumber, SourceId};
use crate::shard::store::Scarce;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What a SOURCE may send at once that has sent nothing for a while: as much as in this time.
const BURST_NS: u64 = 1_000_000_000;
/// SOURCEs whose rates are known. Those beyond it that send at the same time have one rate together.
const SOURCES_MAX: usize = 100_000;
/// Addresses whose part of the journal is known, likewise.
const ADDRESSES_MAX: usize = 16_384;
/// An address asks for room that has asked within this time.
const ASKS_NS: u64 = 10_000_000_000;
/// The least that an address has taken is looked for once in this time.
const LEAST_NS: u64 = 5_000_000;

/// What listeners count of each.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    connections: HashMap<(SourceId, IpAddr), u32>,
    /// Connections by the token that they have shown, where that has a bound.
    tokens: HashMap<(SourceId, Arc<str>), u32>,
    shown: HashMap<LinkId, (SourceId, Arc<str>)>,
    rates: HashMap<SourceId, HashMap<Box<str>, Rate>>,
    scarce: Takers,
}

/// What a SOURCE has sent would take until these moments at the rates that it has; in monotonic nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    requests_ns: u64,
    bytes_ns: u64,
}

/// What a SOURCE has sent too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    Requests { wait_ns: u64 },
    Bytes { wait_ns: u64 },
}

impl Quotas {
    /// Whether an address may have one more connection to a listener.
    pub fn admits(&self, allowed: &access::Quotas, id: SourceId, address: IpAddr) -> bool {
        let most = allowed.connections_per_address.unwrap_or(u32::MAX);
        self.connections.get(&(id, subscriber(address))).is_none_or(|count| *count < most)
    }

    /// A connection of an address begins.
    pub fn enter(&mut self, id: SourceId, address: IpAddr) {
        *self.connections.entry((id, subscriber(address))).or_default() += 1;
    }

    /// A connection of an address has ended.
    pub fn leave(&mut self, id: SourceId, address: IpAddr, link: LinkId) {
        let key = (id, subscriber(address));
        let count = self.connections.get_mut(&key).expect("a connection that has begun");
        *count -= 1;
        if *count == 0 {
            self.connections.remove(&key);
        }
        self.hide(link);
    }

    /// A connection shows a token; `false` if as many others do as may.
    pub fn show(&mut self, most: u32, id: SourceId, link: LinkId, token: &str) -> bool {
        if self.shown.get(&link).is_some_and(|(_, shown)| **shown == *token) {
            return true;
        }
        self.hide(link);
        let token: Arc<str> = token.into();
        let count = self.tokens.entry((id, Arc::clone(&token))).or_default();
        let has_room = *count < most;
        if has_room {
            *count += 1;
            self.shown.insert(link, (id, token));
        }
        has_room
    }

    fn hide(&mut self, link: LinkId) {
        let Some(shown) = self.shown.remove(&link) else { return };
        let count = self.tokens.get_mut(&shown).expect("a token that is shown");
        *count -= 1;
        if *count == 0 {
            self.tokens.remove(&shown);
        }
    }

    /// Whether a SOURCE of a listener may send one more request, of so many bytes.
    ///
    /// # Errors
    /// [`Beyond`] where it would be more than is allowed.
    pub fn may_send(
        &self,
        allowed: &access::Quotas,
        (id, name, _): (SourceId, &str, usize),
        now_ns: u64,
    ) -> Result<(), Beyond> {
        if !has_rate(allowed) {
            return Ok(());
        }
        let rate = self.rates.get(&id).and_then(|rates| rates.get(name)).copied().unwrap_or_default();
        let until = |at_ns: u64| (at_ns > now_ns + BURST_NS).then(|| at_ns - now_ns - BURST_NS);
        if let Some(most) = allowed.requests_per_second
            && let Some(wait_ns) = until(rate.requests_ns.max(now_ns) + took_ns(1, u64::from(most)))
        {
            return Err(Beyond::Requests { wait_ns });
        }
        // The last of a burst may be as long as it likes, or a long one would never be taken.
        match until(rate.bytes_ns).filter(|_| allowed.bytes_per_second.is_some()) {
            Some(wait_ns) => Err(Beyond::Bytes { wait_ns }),
            None => Ok(()),
        }
    }

    /// It has sent it.
    pub fn count_sent(&mut self, allowed: &access::Quotas, (id, name, bytes): (SourceId, &str, usize), now_ns: u64) {
        if !has_rate(allowed) {
            return;
        }
        let rates = self.rates.entry(id).or_default();
        if rates.len() >= SOURCES_MAX && !rates.contains_key(name) {
            rates.retain(|_, rate| rate.requests_ns.max(rate.bytes_ns) > now_ns);
            if rates.len() >= SOURCES_MAX {
                return; // so many send at once that none of them is the one that sends too much
            }
        }
        let rate = match rates.get_mut(name) {
            Some(rate) => rate,
            None => rates.entry(name.into()).or_default(),
        };
        if let Some(most) = allowed.requests_per_second {
            rate.requests_ns = rate.requests_ns.max(now_ns) + took_ns(1, u64::from(most));
        }
        if let Some(most) = allowed.bytes_per_second {
            rate.bytes_ns = rate.bytes_ns.max(now_ns) + took_ns(bytes as u64, most);
        }
    }

    /// Whether an address may take more of the journal. `scarce`: where little of it is left.
    pub fn may_take(&mut self, scarce: Option<Scarce>, address: IpAddr, now_ns: u64) -> bool {
        match scarce {
            None => {
                self.scarce.end();
                true
            }
            Some(scarce) => self.scarce.may_take(scarce, subscriber(address), now_ns),
        }
    }

    /// It has taken so many bytes.
    pub fn count_taken(&mut self, address: IpAddr, bytes: usize) {
        self.scarce.count(address, bytes as u64);
    }

    /// Another source has this id now.
    pub fn forget(&mut self, id: SourceId) {
        self.rates.remove(&id);
    }
}

/// So long a count takes at a rate.
fn took_ns(count: u64, per_second: u64) -> u64 {
    count.saturating_mul(1_000_000_000) / per_second.max(1)
}

fn has_rate(allowed: &access::Quotas) -> bool {
    allowed.requests_per_second.is_some() || allowed.bytes_per_second.is_some()
}

/// What addresses have taken of a journal since little of it is left. An address may take more while it
/// has taken no more than what is free, so that there is room for others, or no more than anybody else who
/// asks. When a part of the journal becomes free, what was taken counts less in proportion.
#[derive(Debug, Default)]
struct Takers {
    taken: HashMap<IpAddr, Taken>,
    oldest: Option<SegmentNumber>,
    /// The least that one of them has taken, and until when that is not looked for anew.
    least: u64,
    least_until_ns: u64,
}

/// What one address has taken, and when it asked last.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    bytes: u64,
    asked_ns: u64,
}

impl Takers {
    fn end(&mut self) {
        if self.oldest.take().is_some() {
            self.taken = HashMap::new();
        }
    }

    fn may_take(&mut self, scarce: Scarce, address: IpAddr, now_ns: u64) -> bool {
        let freed = self.oldest.replace(scarce.oldest).map_or(0, |oldest| scarce.oldest.0.saturating_sub(oldest.0));
        if freed > 0 {
            let left = scarce.segments.max(1);
            self.taken.values_mut().for_each(|taken| taken.bytes = taken.bytes * left / (left + freed));
            self.least_until_ns = 0;
        }
        if self.taken.len() >= ADDRESSES_MAX && !self.taken.contains_key(&address) {
            return true; // so many addresses are no flood of one
        }
        let own = self.taken.entry(address).or_default();
        own.asked_ns = now_ns;
        let bytes = own.bytes;
        bytes <= scarce.free_bytes || bytes <= self.least(now_ns)
    }

    /// The least that one of those has taken who have asked lately.
    fn least(&mut self, now_ns: u64) -> u64 {
        if now_ns >= self.least_until_ns {
            self.taken.retain(|_, taken| now_ns < taken.asked_ns + ASKS_NS);
            self.least = self.taken.values().map(|taken| taken.bytes).min().unwrap_or(0);
            self.least_until_ns = now_ns + LEAST_NS;
        }
        self.least
    }

    fn count(&mut self, address: IpAddr, bytes: u64) {
        if self.oldest.is_some()
            && let Some(taken) = self.taken.get_mut(&subscriber(address))
        {
            taken.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn link(index: u32) -> LinkId {
        LinkId { index, generation: 1 }
    }

    #[test]
    fn an_address_has_as_many_connections_as_are_allowed() {
        let (mut quotas, id) = (Quotas::default(), SourceId(0));
        let allowed = access::Quotas { connections_per_address: Some(2), ..access::Quotas::default() };
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 4, last]));
        (0..2).for_each(|_| quotas.enter(id, one));
        assert!(!quotas.admits(&allowed, id, one) && quotas.admits(&allowed, id, other));
        assert!(quotas.admits(&allowed, SourceId(1), one) && quotas.admits(&access::Quotas::default(), id, one));
        quotas.leave(id, one, link(0));
        assert!(quotas.admits(&allowed, id, one));
        quotas.leave(id, one, link(1));
        assert!(quotas.connections.is_empty());
    }

    #[test]
    fn a_token_is_shown_by_as_many_connections_as_may_and_one_shows_one_at_a_time() {
        let (mut quotas, id) = (Quotas::default(), SourceId(0));
        assert!(quotas.show(2, id, link(0), "cams") && quotas.show(2, id, link(1), "cams"));
        assert!(quotas.show(2, id, link(1), "cams"), "the same connection again");
        assert!(!quotas.show(2, id, link(2), "cams") && quotas.show(2, SourceId(1), link(3), "cams"));
        assert!(quotas.show(2, id, link(1), "gauges") && quotas.show(2, id, link(2), "cams"));
        for index in 0..4 {
            quotas.enter(id, IpAddr::from([10, 0, 4, 1]));
            quotas.leave(id, IpAddr::from([10, 0, 4, 1]), link(index));
        }
        assert!(quotas.tokens.is_empty() && quotas.shown.is_empty());
    }

    #[test]
    fn a_source_sends_at_its_rate_after_a_burst_of_a_second() {
        let (mut quotas, id) = (Quotas::default(), SourceId(0));
        let allowed = access::Quotas { requests_per_second: Some(10), ..access::Quotas::default() };
        let mut send = |name, now_ns| {
            let sent = (id, name, 100);
            let said = quotas.may_send(&allowed, sent, now_ns);
            said.inspect(|()| quotas.count_sent(&allowed, sent, now_ns))
        };
        assert_eq!((0..20).filter(|_| send("cam-1", 5).is_ok()).count(), 10);
        assert_eq!(send("cam-1", 5), Err(Beyond::Requests { wait_ns: SECOND_NS / 10 }));
        assert_eq!(send("cam-2", 5), Ok(()), "each has its own");
        assert_eq!(send("cam-1", 5 + SECOND_NS / 10), Ok(()));
        assert_eq!((0..20).filter(|_| send("cam-1", 10 * SECOND_NS).is_ok()).count(), 10, "nothing is saved up");
    }

    #[test]
    fn a_long_body_is_taken_once_and_waited_for_behind_it() {
        let (mut quotas, id) = (Quotas::default(), SourceId(0));
        let allowed = access::Quotas { bytes_per_second: Some(1_000), ..access::Quotas::default() };
        let (long, short) = ((id, "a", 5_000), (id, "a", 1));
        // However often it is asked.
        (0..9).for_each(|_| assert_eq!(quotas.may_send(&allowed, long, 0), Ok(())));
        quotas.count_sent(&allowed, long, 0);
        assert_eq!(quotas.may_send(&allowed, short, 0), Err(Beyond::Bytes { wait_ns: 4 * SECOND_NS }));
        assert_eq!(quotas.may_send(&allowed, short, 4 * SECOND_NS), Ok(()));
    }

    #[test]
    fn no_address_takes_more_of_a_scarce_journal_than_is_left_unless_nobody_has_taken_less() {
        let mut quotas = Quotas::default();
        let [flood, other] = [1, 2].map(|last| IpAddr::from([10, 0, 4, last]));
        let scarce = |oldest, free_bytes| Some(Scarce { oldest: SegmentNumber(oldest), segments: 30, free_bytes });
        let mut now_ns = 0;
        let mut take = |scarce, address| {
            now_ns += LEAST_NS;
            let may = quotas.may_take(scarce, address, now_ns);
            if may {
                quotas.count_taken(address, 100);
            }
            may
        };
        assert!((0..100).all(|_| take(scarce(5, 0), flood)), "it is alone");
        assert!(take(scarce(5, 0), other), "it has taken nothing");
        assert!(!take(scarce(5, 9_999), flood) && take(scarce(5, 10_000), flood));
        // A quarter of what is there becomes free.
        assert!(!take(scarce(5, 8_000), flood) && take(scarce(15, 8_000), flood));
        // Of those who have taken more than is left, the one with the least goes first.
        assert!((0..9).all(|_| take(scarce(15, 0), other)) && !take(scarce(15, 0), flood));
        assert!(take(None, flood));
        assert!(quotas.scarce.taken.is_empty());
    }
}
