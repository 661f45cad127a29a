//! Who is turned away. What a listener allows stands in its settings; here it is asked, counted by
//! reason, and told. An address that fails often waits for its answers.

use super::arrivals::Whence;
use super::source::Sources;
use super::vetting::Vetting;
use crate::access::{Admitted, Denial, Judged, Names, Turned};
use crate::ground::{LinkId, SourceId};
use crate::http::server::{Caller, Ruling, shown};
use crate::shard::op::Op;
use crate::shard::refusals::Refusal;
use crate::shard::turn::Turn;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// That peers of a listener are turned away is logged at most once in this time.
const SAY_NS: u64 = 60_000_000_000;
/// From one address so many requests a minute may fail for their tokens, ...
const FAILURES_MAX: u32 = 10;
const FAILURES_NS: u64 = 60_000_000_000;
/// ... and the answers to those beyond are held back for so long.
const HOLD_NS: u64 = 2_000_000_000;
/// Addresses that are remembered for it; while there are more, all that fail wait.
const ADDRESSES_MAX: usize = 4_096;

/// Who is turned away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'w> {
    /// The listener.
    pub source: SourceId,
    pub peer: SocketAddr,
    /// The SOURCE that it names.
    pub machine: Option<&'w str>,
    /// The first line of its request.
    pub line: &'w str,
}

impl Who<'_> {
    /// A peer that has not said anything yet.
    pub fn peer(source: SourceId, peer: SocketAddr) -> Self {
        Self { source, peer, machine: None, line: "" }
    }
}
/// Secrets of a core that may wait to be looked at: each takes tens of milliseconds, ...
const LOOKS_MAX: usize = 64;
/// ... and those of one address.
const LOOKS_OF_ADDRESS_MAX: usize = 4;
/// Who comes in between is told to try again after this.
const PUT_OFF_S: u32 = 1;

/// Turns away who may not send on the listeners of a core.
#[derive(Debug, Default)]
pub(super) struct Door {
    failures: Failures,
    /// When each listener may be logged again.
    say_ns: HashMap<SourceId, u64>,
    /// Requests whose secrets are being looked at, and where they come from.
    looks: HashMap<LinkId, IpAddr>,
}

impl Door {
    /// A peer whose address may not connect.
    pub fn deny_peer(&mut self, turn: &mut Turn<'_>, sources: &mut Sources, id: SourceId, peer: SocketAddr) {
        self.deny(turn, sources, Who::peer(id, peer), Denial::Network, "");
    }

    /// A peer that has as many connections as one address may have.
    pub fn deny_crowd(&mut self, turn: &mut Turn<'_>, sources: &mut Sources, id: SourceId, peer: SocketAddr) {
        self.deny(turn, sources, Who::peer(id, peer), Denial::AddressConnections, "");
    }

    /// What is said to a request of a connection, by its head; `peer` becomes the address that the request is of.
    pub fn judge(
        &mut self,
        turn: &mut Turn<'_>,
        sources: &mut Sources,
        (id, link, whence, peer): (SourceId, LinkId, Whence, &mut SocketAddr),
        (caller, vetting): (&Caller<'_>, &mut Option<Box<Vetting>>),
    ) -> Ruling {
        let source = turn.source(id);
        let names = Names { own: &source.name, taken: &turn.settings.names };
        *peer = whence.address();
        let told = match whence.may_forward() {
            true => source.access.client(*peer, caller).map(|client| *peer = client),
            false => Ok(()),
        };
        let vetted = vetting.as_ref().map(|vetting| vetting.vetted());
        let judged = told.and_then(|()| source.access.judge(caller, names, turn.now.wall_ns, vetted));
        let most = source.access.quotas.connections_per_token;
        let judged = judged.and_then(|judged| match (&judged, most) {
            (Judged::In(Admitted { token: Some(token), .. }), Some(most))
                if !sources.quotas.show(most, id, link, &token.name) =>
            {
                Err(Turned::crowded(most))
            }
            _ => Ok(judged),
        });
        match judged {
            Ok(Judged::In(admitted)) => Ruling::Pass(admitted.origin),
            Ok(Judged::Look(check)) if self.may_look(turn.now.mono_ns, peer.ip()) => {
                self.looks.insert(link, peer.ip());
                *vetting = Some(Box::new(Vetting::new(check.vetted())));
                turn.emit(Op::LookAtSecret { link, check });
                Ruling::Wait
            }
            Ok(Judged::Look(_) | Judged::Later) => {
                turn.counters.secrets_put_off += 1;
                let words = "so many secrets are looked at in their turn";
                let (reason, line) = ("secrets", shown(caller.line));
                turn.refuse(&Refusal { source: id, reason, words, peer: Some(*peer), machine: None, line: &line });
                Ruling::Later(PUT_OFF_S)
            }
            Err(Turned { denial, mut answer }) => {
                if answer.status == 401 && self.failures.fail(turn.now.mono_ns, peer.ip()) {
                    answer.held_until_ns = turn.now.mono_ns + HOLD_NS;
                    turn.counters.denied_late += 1;
                }
                let line = shown(caller.line);
                // Of who was not let in, the SOURCE may be invented.
                let machine = caller.source.filter(|_| denial == Denial::TokenSource);
                let who = Who { source: id, peer: *peer, machine, line: &line };
                self.deny(turn, sources, who, denial, "");
                Ruling::Deny(Box::new(answer))
            }
        }
    }

    /// Whether one more secret may be looked at, of a request from there.
    fn may_look(&mut self, now_ns: u64, peer: IpAddr) -> bool {
        let address = subscriber(peer);
        let of_address = self.looks.values().filter(|other| subscriber(**other) == address).count();
        let has_room = self.looks.len() < LOOKS_MAX && of_address < LOOKS_OF_ADDRESS_MAX;
        has_room && self.failures.may_look(now_ns, peer)
    }

    /// A secret was looked at.
    pub fn looked(&mut self, turn: &mut Turn<'_>, link: LinkId) {
        turn.counters.secrets_looked_at += 1;
        let was_looked_at = self.looks.remove(&link);
        debug_assert!(was_looked_at.is_some(), "nobody asked for it");
    }

    /// A peer is turned away; `what`: more of why, in words.
    pub fn deny(&mut self, turn: &mut Turn<'_>, sources: &mut Sources, who: Who<'_>, why: Denial, what: &str) {
        let Who { source: id, peer, machine, line } = who;
        turn.counters.denied += 1;
        sources.of(id).tally.denied.count(why);
        let words = if what.is_empty() { why.words() } else { what };
        turn.refuse(&Refusal { source: id, reason: why.label(), words, peer: Some(peer), machine, line });
        let say_ns = self.say_ns.entry(id).or_default();
        if turn.now.mono_ns >= *say_ns {
            *say_ns = turn.now.mono_ns + SAY_NS;
            let (name, peer, why) = (&turn.source(id).name, peer.ip(), why.words());
            let what = if what.is_empty() { String::new() } else { format!(" ({what})") };
            tracing::warn!(
                "source {name}: {peer} is turned away: {why}{what}; others within a minute are only counted"
            );
        }
    }
}

/// Requests that failed for their tokens, by address.
#[derive(Debug, Default)]
struct Failures(HashMap<IpAddr, Window>);

/// A minute of one address.
#[derive(Debug)]
struct Window {
    since_ns: u64,
    count: u32,
    /// Where it has had too many, no secret of it is looked at before this.
    look_ns: u64,
}

impl Failures {
    /// One more; whether the address has had too many.
    fn fail(&mut self, now_ns: u64, peer: IpAddr) -> bool {
        let is_over = |window: &Window| now_ns >= window.since_ns + FAILURES_NS;
        let address = subscriber(peer);
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&address) {
            self.0.retain(|_, window| !is_over(window));
            if self.0.len() >= ADDRESSES_MAX {
                return true;
            }
        }
        let window = self.0.entry(address).or_insert(Window { since_ns: now_ns, count: 0, look_ns: 0 });
        if is_over(window) {
            *window = Window { since_ns: now_ns, count: 0, look_ns: 0 };
        }
        window.count = window.count.saturating_add(1);
        window.count > FAILURES_MAX
    }

    /// Whether a typed secret of the address may be looked at, which then has its turn. One that has failed
    /// too often has one in the time that its answers wait, on however many connections it tries.
    fn may_look(&mut self, now_ns: u64, peer: IpAddr) -> bool {
        let is_many = |window: &&mut Window| now_ns < window.since_ns + FAILURES_NS && window.count >= FAILURES_MAX;
        let Some(window) = self.0.get_mut(&subscriber(peer)).filter(is_many) else { return true };
        let may = now_ns >= window.look_ns;
        if may {
            window.look_ns = now_ns + HOLD_NS;
        }
        may
    }
}

/// Whoever has one IPv6 address has all of its /64.
pub(super) fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_fail_ten_times_a_minute() {
        let mut failures = Failures::default();
        let (one, other) = (IpAddr::from([10, 0, 4, 1]), IpAddr::from([10, 0, 4, 2]));
        let late = (0..12).map(|at| failures.fail(at, one)).filter(|late| *late).count();
        assert_eq!(late, 2);
        assert!(!failures.fail(12, other));
        assert!(failures.may_look(12, other) && failures.may_look(12, other));
        assert!(failures.may_look(13, one) && !failures.may_look(12 + HOLD_NS, one), "one in the time of an answer");
        assert!(failures.may_look(13 + HOLD_NS, one));
        assert!(failures.fail(FAILURES_NS - 1, one));
        assert!((0..9).all(|_| failures.may_look(FAILURES_NS, one)));
        assert!(!failures.fail(FAILURES_NS, one), "another minute");
        let next = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let late = (0..12).map(|last| failures.fail(0, next(last))).filter(|late| *late).count();
        assert_eq!(late, 2, "a /64 is one subscriber");
    }

    #[test]
    fn what_is_remembered_of_addresses_has_a_bound() {
        let mut failures = Failures::default();
        let address = |index: u32| IpAddr::from(index.to_be_bytes());
        for index in 0..ADDRESSES_MAX as u32 {
            assert!(!failures.fail(0, address(index)));
        }
        assert!(failures.fail(1, address(u32::MAX)), "nothing is known of it, and nothing can be");
        assert_eq!(failures.0.len(), ADDRESSES_MAX);
        assert!(!failures.fail(FAILURES_NS, address(u32::MAX)));
        assert_eq!(failures.0.len(), 1);
    }
}
