//! What the shard must make of answers that are neither a success nor a refusal, and of a service that comes back: who is parked,
//! who is told, how soon something is asked again.
//!
//! Only what the client has surely heard counts: whole answers on connections that stay open, in one life and under one
//! configuration. Whatever lets waiting records go at once ([`Heard::forget`]) begins anew.

use super::context::{MS, S};
use super::event::ConnId;
use super::net::Net;
use super::world::World;
use crate::say;
use std::collections::BTreeMap;

/// An answer has surely arrived by then.
const ARRIVES_NS: u64 = 300 * MS;
/// A lane is told once others have got through for longer than this, and ...
const OTHERS_NS: u64 = 1_500 * MS;
/// ... it was refused so often.
const ATTEMPTS: usize = 3;
/// The first record of a service that is back is on its way within this.
const BACK_NS: u64 = 2 * S;

/// A record that fails, as the client must know it.
#[derive(Debug)]
struct Failing {
    first_ns: u64,
    /// When it was answered, and on which connections.
    attempts: Vec<(u64, ConnId)>,
    /// It must be told from then on, if the answer to another record has arrived by this connection.
    told: Option<(u64, ConnId)>,
    /// It was answered by a status of success that is not listed, while others arrive: when, and on which connections.
    unlisted: Option<(u64, [ConnId; 2])>,
}

/// What the client has heard.
#[derive(Debug, Default)]
pub struct Heard {
    failing: BTreeMap<String, Failing>,
    success: Option<(u64, ConnId)>,
    /// Connections before this one were opened under another configuration.
    first_conn: ConnId,
    /// Of each record that was ever answered by another status than 201: how often, and how many were accepted when that began.
    ever: BTreeMap<String, (u32, u64)>,
}

/// Whether a status says neither yes nor no to a record.
fn is_vague(status: u16) -> bool {
    status >= 500 || (200..300).contains(&status) && status != 201
}

impl Heard {
    /// Whatever waits may go at once.
    pub fn forget(&mut self) {
        self.failing.clear();
        self.success = None;
    }

    /// Another configuration is in force; connections from this one on are by it.
    pub fn reload(&mut self, first_conn: ConnId) {
        self.forget();
        self.first_conn = first_conn;
    }

    /// A record alone was answered. `whole`: the answer is, and its connection stays.
    pub fn answered(&mut self, now_ns: u64, conn: ConnId, key: &str, (status, accepted): (u16, u64), whole: bool) {
        if status != 201 {
            // A refusal counts, too.
            let (times, _) = self.ever.entry(key.to_owned()).or_insert((0, accepted));
            *times += 1;
        }
        if !is_vague(status) {
            self.failing.remove(key);
            if status == 201 && whole && conn >= self.first_conn {
                self.success = Some((now_ns, conn));
                let others = self.failing.values_mut().filter(|failing| now_ns > failing.first_ns + OTHERS_NS);
                for failing in others.filter(|failing| failing.attempts.len() >= ATTEMPTS) {
                    failing.told.get_or_insert((now_ns + ARRIVES_NS, conn));
                }
            }
            return;
        }
        if !whole || conn < self.first_conn {
            return;
        }
        let is_recent = |at_ns: u64| now_ns > at_ns + ARRIVES_NS && now_ns < at_ns + 50 * S;
        let proof = self.success.filter(|(at_ns, _)| status < 300 && is_recent(*at_ns));
        let fresh = Failing { first_ns: now_ns, attempts: Vec::new(), told: None, unlisted: None };
        let failing = self.failing.entry(key.to_owned()).or_insert(fresh);
        failing.attempts.push((now_ns, conn));
        failing.unlisted = proof.map(|(_, proof)| (now_ns, [conn, proof]));
    }

    /// A record alone comes. After an answer that another attempt would get again it must not come soon.
    ///
    /// # Errors
    /// If it does.
    pub fn asked(&self, now_ns: u64, net: &Net, key: &str, wait_ns: u64) -> Result<(), String> {
        let Some((at_ns, conns)) = self.failing.get(key).and_then(|failing| failing.unlisted) else { return Ok(()) };
        // On one that is over the answer may not have arrived.
        let is_heard = conns.iter().map(|conn| &net.conns[*conn]).all(|conn| conn.shard_open && !conn.reset);
        if is_heard && now_ns < at_ns + wait_ns {
            return Err(format!("{key}: sent again {} ms after a success that is not listed", (now_ns - at_ns) / MS));
        }
        Ok(())
    }

    /// A record is parked by an answer of this status, where `attempts` are to be made.
    ///
    /// # Errors
    /// If none of another lane was accepted meanwhile, or it was not tried so often.
    pub fn parked(&mut self, key: &str, status: u16, attempts: Option<u32>, accepted: u64) -> Result<(), String> {
        self.failing.remove(key);
        if !is_vague(status) {
            return Ok(());
        }
        let (times, before) = self.ever.get(key).copied().unwrap_or_default();
        match attempts {
            None => Err(format!("{key}: parked by {status}, and nobody said so")),
            Some(attempts) if times < attempts => Err(format!("{key}: parked by {status} after {times} attempts")),
            Some(_) if accepted == before => Err(format!("{key}: parked by {status}, while no other was accepted")),
            Some(_) => Ok(()),
        }
    }
}

/// How the service can be reached, as the shard knows it.
#[derive(Debug, Default)]
pub struct Reached {
    /// The last connect failed.
    pub failed: bool,
    /// Since when the service is back, and has seen no connect.
    pub back_ns: Option<u64>,
}

impl World {
    /// An outage is over.
    pub fn is_back(&mut self) {
        self.reached.back_ns = self.reached.failed.then_some(self.cx.now_ns);
    }

    /// A connect to the API was decided.
    pub fn api_connect(&mut self, open: bool) {
        if open && std::mem::take(&mut self.reached.failed) {
            self.receiver.heard.forget(); // all that wait may go
        }
        self.reached.failed |= !open;
        if open {
            self.reached.back_ns = None;
        }
    }

    /// The shard is another one, or goes by another configuration.
    pub fn begin_anew(&mut self) {
        self.receiver.heard.reload(self.net.conns.len());
        self.reached = Reached::default();
    }

    /// [`Event::Operator`](super::event::Event::Operator): all waits are over.
    ///
    /// # Errors
    /// If something waits all the same.
    pub fn end_waits(&mut self) -> Result<(), String> {
        let now = self.now();
        let Some(shard) = &mut self.shard else { return Ok(()) };
        say!(self.cx, "operator: nobody waits");
        self.cx.stats.count("waits ended by the operator");
        shard.wake(now);
        self.receiver.heard.forget();
        self.wake_at = Some(self.cx.now_ns);
        match shard.snapshot(now).routes.iter().find(|route| route.waits_s.is_some()) {
            Some(route) => Err(format!("something waits though an operator ended that: {route:?}")),
            None => Ok(()),
        }
    }

    /// Who stands still while others get through is told, and a service that is back is found.
    ///
    /// # Errors
    /// If not.
    pub fn check_answers(&mut self) -> Result<(), String> {
        let (now, now_ns) = (self.now(), self.cx.now_ns);
        let Some(shard) = self.shard.as_ref().filter(|_| !self.stopping) else { return Ok(()) };
        if self.terms.pending == 0 {
            self.reached.back_ns = None;
        }
        if let Some(at_ns) = self.reached.back_ns.filter(|at_ns| now_ns > at_ns + BACK_NS) {
            return Err(format!("{} ms after the service's return it is not found", (now_ns - at_ns) / MS));
        }
        if self.plan.contract.batch.is_some() {
            return Ok(()); // who fails is known when a batch was cut
        }
        // A reset takes answers that are on their way.
        let arrived = |conn: ConnId| !self.net.conns[conn].reset;
        let due = |failing: &Failing| {
            let mut attempts = failing.attempts.iter().filter(|(_, conn)| arrived(*conn));
            let Some((first_ns, _)) = attempts.next() else { return false };
            let is_known = |at_ns: u64| at_ns > first_ns + OTHERS_NS && attempts.count() + 1 >= ATTEMPTS;
            failing.told.is_some_and(|(at_ns, conn)| now_ns > at_ns && arrived(conn) && is_known(at_ns))
        };
        let mut told = None;
        for (key, failing) in self.receiver.heard.failing.iter().filter(|(_, failing)| due(failing)) {
            if self.parked.has(key) {
                continue;
            }
            let told = told.get_or_insert_with(|| shard.snapshot(now));
            let is_named = told.failing.iter().any(|shown| shown.stuck && key.ends_with(&format!("-{}", shown.record)));
            if !is_named || told.lanes_stuck == 0 {
                return Err(format!("{key}: {failing:?} and not told: {:?}", told.failing));
            }
            self.cx.stats.count("stuck lane told");
        }
        Ok(())
    }
}
