//! What leaves: records of ready lanes become requests on kept-alive connections, answers settle
//! them or bring them back.
//!
//! - `rules`: what requests are made by and answers judged by, of one configuration.
//! - `outbox`: the API's authorities, the lanes that are ready for each, the breaker of each step.
//!   `lease`: ids given ahead. `park`: records kept aside. Each is an owner of its own.
//!   `failing`: lanes whose first record fails, and which of them stand still while others get on.
//! - `compose`: requests as they are sent. `dispatcher`: which lane is sent next and what becomes
//!   of it; `answer`: what answers lead to; `secure`: connections over TLS. `problem`: what goes
//!   wrong, in words.
//! - `reload`: another configuration.
//!
//! A delivery takes lanes from the store and never sees a source. A shard could have several, one
//! for each destination: all that it keeps is its own.

mod answer;
mod compose;
mod connection;
mod dispatcher;
mod failing;
mod lease;
mod outbox;
mod park;
mod problem;
mod reload;
mod rules;
mod secure;

pub use park::{Disposal, Selection};

use super::links::{Kind, Table};
use super::op::{ConnectError, Destination, Op, Readable, RecvEnd};
use super::store::{State, Store};
use super::timer::Timer;
use super::turn::{Phase, Turn};
use super::{ApiId, Fd, LaneId, LinkId, Now};
use crate::config::{Authority, Settings};
use crate::delivery::{Connection, Step};
use crate::ground::text::about_seconds;
use crate::observe::snapshot::{ParkedList, RouteSnapshot, Snapshot};
use crate::tls;
use connection::ApiLink;
use dispatcher::{Dispatcher, watch};
use outbox::Api;
use problem::Problem;
use rules::Rules;
use std::rc::Rc;
use std::sync::Arc;

/// Where nothing is answered, an answer that has not come after this is told, long before its
/// deadline.
const UNANSWERED_NS: u64 = 4_000_000_000;

/// What a delivery is lent for one call, and what it goes by.
pub(super) struct Lent<'w, 't> {
    turn: &'w mut Turn<'t>,
    store: &'w mut Store,
    /// What requests of this call are made by, or were sent by.
    rules: &'w Rules,
    /// What the next requests are made by.
    present: &'w Rules,
}

impl Lent<'_, '_> {
    /// Whether what is looked at was sent by the present rules.
    fn is_by_present_rules(&self) -> bool {
        std::ptr::eq(self.rules, self.present)
    }
}

/// Everything that carries records to one destination: its connections, its rules, its queues and
/// its parked records.
#[derive(Debug)]
pub(super) struct Delivery {
    rules: Rc<Rules>,
    connections: Table<ApiLink>,
    dispatcher: Dispatcher,
}

impl Delivery {
    /// With what an earlier run has left of leased ids.
    pub fn new(settings: Arc<Settings>, store: &mut Store) -> Self {
        let rules = Rc::new(Rules::new(settings));
        Self { dispatcher: Dispatcher::new(store, &rules), connections: Table::default(), rules }
    }

    /// What connections that begin from now on are made by; those that are open go on as they are.
    pub fn set_tls(&mut self, client: Option<tls::Client>) {
        self.dispatcher.tls = client;
    }

    /// Whether what connections are made by differs from other settings.
    pub fn needs_tls(&self, settings: &Settings) -> bool {
        self.rules.deliver().tls != settings.deliver.tls
    }

    /// The API's authorities; an index is an [`ApiId`].
    pub fn destinations(&self) -> Vec<Authority> {
        self.dispatcher.outbox.apis().map(|(_, api)| api.authority().clone()).collect()
    }

    /// Requests that the API has not answered.
    pub fn in_flight(&self) -> usize {
        self.dispatcher.outbox.apis().map(|(_, api)| api.in_flight() as usize).sum()
    }

    // ---- lanes

    /// What is done by the present rules.
    fn by_present<'w, 't, T>(
        &mut self,
        turn: &'w mut Turn<'t>,
        store: &'w mut Store,
        lent: impl FnOnce(&mut Dispatcher, &mut Lent<'_, 't>) -> T,
    ) -> T {
        let rules = &self.rules;
        lent(&mut self.dispatcher, &mut Lent { turn, store, rules, present: rules })
    }

    /// Takes over all lanes that have something to send.
    pub fn admit_woken(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.by_present(turn, store, |dispatcher, lent| dispatcher.admit_woken(lent));
    }

    /// A lane's backoff may be over.
    pub fn handle_lane_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, lane: LaneId) {
        if store.is_in(lane, State::Backoff) && self.dispatcher.failing.is_due(turn.now, lane) {
            self.by_present(turn, store, |dispatcher, lent| dispatcher.admit(lent, lane));
        }
    }

    /// A step that is held back may send a probe.
    pub fn probe(&mut self, turn: &mut Turn<'_>, store: &mut Store, step: Step) {
        self.dispatcher.outbox.probe(turn.now, store, step);
    }

    /// An operator ends all waits: what waits for a time goes on at once.
    pub fn wake(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        for id in self.dispatcher.outbox.ids() {
            self.dispatcher.outbox.api_mut(id).try_at_once();
            self.by_present(turn, store, |dispatcher, lent| dispatcher.wake(lent, id, true));
        }
    }

    /// Lanes that were told to wait for another one are on none of its lists any more.
    pub fn recall(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        for lane in store.take_recalled() {
            self.dispatcher.leases.recall(lane);
            self.dispatcher.outbox.recall(turn, store, lane);
        }
    }

    // ---- sending

    /// Renders what is ready onto connections that have room, one send for all of it on each, and
    /// opens connections.
    pub fn dispatch(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        if turn.phase == Phase::Stopping {
            return;
        }
        for id in self.dispatcher.outbox.ids() {
            if id == self.dispatcher.outbox.record_api()
                && let Some(due_ns) =
                    self.dispatcher.batch_due_ns(store, &self.rules).filter(|at| *at > turn.now.mono_ns)
            {
                if self.dispatcher.outbox.api_mut(id).wait_for_batch(due_ns) {
                    turn.timers.set(due_ns, Timer::Api(id));
                }
            } else {
                self.dispatch_to(turn, store, id);
            }
            self.open_connections(turn, id);
        }
    }

    fn dispatch_to(&mut self, turn: &mut Turn<'_>, store: &mut Store, id: ApiId) {
        let Self { rules, connections, dispatcher } = self;
        let pipeline = rules.deliver().pipeline;
        let mut lent = Lent { turn, store, rules, present: rules };
        while !dispatcher.outbox.api(id).ready().is_empty() {
            let Some(link) = dispatcher.outbox.api_mut(id).next_available() else { return };
            if !lent.turn.links.is_open(link, Kind::Api) {
                continue;
            }
            let conn = connections.of(link);
            conn.connection.listed = false;
            if dispatcher.is_left(&mut lent, link, conn) {
                continue;
            }
            while conn.connection.has_room(pipeline) {
                let Some(lane) = dispatcher.outbox.api_mut(id).next_ready() else { break };
                dispatcher.render(&mut lent, lane, &mut conn.connection);
            }
            if conn.connection.out.is_empty() {
                dispatcher.list_connection(&mut lent, link, conn);
            } else if let Some(bytes) = dispatcher.sealed(&mut lent, link, conn) {
                conn.connection.sending = true;
                lent.turn.counters.api_sends += 1;
                let fd = lent.turn.links.fd(link).expect("an open connection has a file");
                lent.turn.emit(Op::Send { link, fd, bytes });
                watch(&mut lent, link, &mut conn.connection);
            }
        }
    }

    /// Opens what the ready lanes could use; one at a time while connects fail.
    fn open_connections(&mut self, turn: &mut Turn<'_>, id: ApiId) {
        let records = self.rules.batch().map_or(1, |batch| batch.records);
        let per_connection = self.rules.deliver().pipeline * records;
        let outbox = &self.dispatcher.outbox;
        let api = outbox.api(id);
        // While connects fail, one looks whether the service is back though all lanes wait.
        let looks = api.is_failing() && outbox.is_current(id) && turn.terms.pending > 0;
        if !looks && api.ready().is_empty() || !api.may_connect(turn.now) {
            return;
        }
        let wanted = if api.is_failing() { 1 } else { api.ready().len().div_ceil(per_connection) };
        let room = self.rules.deliver().connections.saturating_sub(api.connections().len());
        let mut count = wanted.saturating_sub(api.connecting()).min(room);
        if count > 0 {
            count = count.min(self.dispatcher.handshakes_allowed(turn.now, id));
        }
        for _ in 0..count {
            let connection = Connection { idle_ns: turn.now.mono_ns, ..Connection::default() };
            let link = turn.links.open(Kind::Api, None);
            self.connections.insert(link, ApiLink { api: id, connection, earlier: None, secure: None, opened_ns: 0 });
            turn.counters.api_connects += 1;
            self.dispatcher.outbox.api_mut(id).connect_begun(link);
            turn.emit(Op::Connect { link, to: Destination::Api(id) });
        }
    }

    // ---- completions

    /// Works on a connection, by the rules that its requests were sent by.
    fn on<'t>(
        &mut self,
        turn: &mut Turn<'t>,
        store: &mut Store,
        link: LinkId,
        lent: impl FnOnce(&mut Dispatcher, &mut Lent<'_, 't>, &mut ApiLink),
    ) {
        let Self { rules: present, connections, dispatcher } = self;
        let conn = connections.of(link);
        let earlier = conn.earlier.as_ref().map(|earlier| Rc::clone(&earlier.rules));
        let rules = earlier.as_ref().unwrap_or(present);
        lent(dispatcher, &mut Lent { turn, store, rules, present }, conn);
    }

    /// A connect is over.
    pub fn handle_connected(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        link: LinkId,
        result: Result<Fd, ConnectError>,
    ) {
        let conn = self.connections.of(link);
        match result {
            Ok(fd) => {
                turn.links.set_fd(link, fd);
                turn.emit(Op::Recv { link, fd, kind: Readable::Socket, older: Vec::new() });
                self.on(turn, store, link, |dispatcher, lent, conn| {
                    match dispatcher.outbox.api(conn.api).tls().is_some() {
                        true => dispatcher.begin_handshake(lent, link, conn),
                        false => dispatcher.opened(lent, link, conn),
                    }
                });
            }
            Err(error) => {
                let (api, begun_ns) = (conn.api, conn.connection.idle_ns);
                turn.links.remove(link);
                self.connections.forget(link);
                let problem = Problem::Connect(error);
                self.dispatcher.outbox.connect_failed(turn, (link, api), begun_ns, self.rules.retry(), problem);
            }
        }
    }

    pub fn handle_received(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, bytes: &mut [u8]) {
        self.on(turn, store, link, |dispatcher, lent, conn| {
            if conn.secure.is_some() {
                dispatcher.secure_received(lent, link, conn, bytes);
            } else {
                dispatcher.plain_received(lent, link, conn, bytes);
            }
        });
    }

    pub fn handle_recv_ended(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId, end: RecvEnd) {
        self.on(turn, store, link, |dispatcher, lent, conn| dispatcher.read_ended(lent, link, conn, end));
    }

    pub fn handle_sent(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        link: LinkId,
        sent: (Vec<u8>, Result<(), i32>),
    ) {
        self.on(turn, store, link, |dispatcher, lent, conn| dispatcher.sent(lent, (link, conn), sent));
    }

    pub fn handle_link_timer(&mut self, turn: &mut Turn<'_>, store: &mut Store, link: LinkId) {
        self.on(turn, store, link, |dispatcher, lent, conn| dispatcher.handle_timer(lent, link, conn));
    }

    /// A link is being closed.
    pub fn forget_link(&mut self, link: LinkId) {
        self.connections.forget(link);
    }

    /// Delivery ends: servers are told so, and leased ids that are left are written down.
    pub fn end(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.dispatcher.leases.leave(store);
        let links: Vec<LinkId> =
            self.dispatcher.outbox.apis().flat_map(|(_, api)| api.connections().iter().copied()).collect();
        for link in links {
            if turn.links.is_open(link, Kind::Api) && turn.links.fd(link).is_some() {
                self.dispatcher.close_session(turn, link, self.connections.of(link));
            }
        }
    }

    // ---- parked records

    /// Brings parked records back, or deletes them, some in each turn from now on; how many.
    pub fn dispose(&mut self, store: &Store, disposal: Disposal, of: &Selection) -> u64 {
        self.dispatcher.parking.dispose(store, disposal, of)
    }

    /// Goes on with what was decided about parked records.
    pub fn advance_disposals(&mut self, turn: &mut Turn<'_>, store: &mut Store) {
        self.dispatcher.parking.advance(turn, store);
    }

    /// When there is more to do of it though nothing happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.dispatcher.parking.deadline_ns()
    }

    /// How many records are kept aside, by source and status, and the first of them.
    pub fn parked(&self, store: &Store, limit: usize) -> ParkedList {
        self.dispatcher.parking.list(store, limit)
    }

    // ---- looking at it as a whole

    /// Its authorities at this moment: those that something is sent to, and those that answers are
    /// to come from.
    pub fn snapshot(&self, now: Now) -> Vec<RouteSnapshot> {
        let outbox = &self.dispatcher.outbox;
        let shown = outbox.apis().filter(|(id, api)| outbox.is_current(*id) || !api.connections().is_empty());
        shown
            .map(|(id, api)| RouteSnapshot {
                authority: format!("{}:{}", api.authority().host, api.authority().port),
                connections: api.connections().len() as u64,
                in_flight: api.in_flight(),
                problem: api.problem().or_else(|| self.unanswered(now, api)),
                last_success_s: api.last_success_ns().map(|at_ns| now.mono_ns.saturating_sub(at_ns) as f64 / 1e9),
                waits_s: outbox.waits_until(id).map(|(at_ns, _)| at_ns.saturating_sub(now.mono_ns) as f64 / 1e9),
                waits_as_told: outbox.waits_until(id).is_some_and(|(_, told)| told),
            })
            .collect()
    }

    /// What an authority has not answered for long, though no deadline has come, while it answers
    /// nothing else either.
    fn unanswered(&self, now: Now, api: &Api) -> Option<String> {
        let is_long = |since_ns: u64| now.mono_ns.saturating_sub(since_ns) >= UNANSWERED_NS;
        if api.last_success_ns().is_some_and(|at_ns| !is_long(at_ns)) {
            return None;
        }
        let waits = api.connections().iter().filter_map(|link| self.connections.find(*link)).filter_map(|conn| {
            let conn = &conn.connection;
            match conn.in_flight.front() {
                _ if !conn.open => Some((conn.idle_ns, "a connect")),
                Some(request) => Some((request.sent_ns, "a request")),
                None => None,
            }
        });
        let (since_ns, what) = waits.min().filter(|(since_ns, _)| is_long(*since_ns))?;
        let waited = about_seconds(now.mono_ns.saturating_sub(since_ns) as f64 / 1e9);
        Some(format!("no answer to {what} for {waited}"))
    }

    /// Lanes that stand still, and the records that fail.
    pub fn show_failing(&self, now: Now, store: &Store, into: &mut Snapshot) {
        self.dispatcher.failing.show(now, &self.dispatcher.outbox, store, into);
    }

    /// Ids that were given ahead and are not used: the first and the last of each run.
    pub fn unused_ids(&self) -> Vec<(u64, u64)> {
        self.dispatcher.leases.unused()
    }

    /// What must be true at the end of a turn.
    pub fn check(&self, turn: &Turn<'_>, store: &Store) {
        self.dispatcher.outbox.check(store);
        self.dispatcher.leases.check(store);
        self.dispatcher.failing.check(store);
        // When all is over, connections are closed with what is on them.
        if turn.phase != Phase::Stopping {
            self.check_requests(turn, store);
        }
    }

    /// That each lane which is on its way is so once, and each batch has its members.
    fn check_requests(&self, turn: &Turn<'_>, store: &Store) {
        let mut sent = std::collections::HashMap::new();
        let mut in_flight = vec![0; self.dispatcher.outbox.ids().count()];
        for link in turn.links.of_kind(Kind::Api) {
            let conn = self.connections.get(link);
            in_flight[usize::from(conn.api.0)] += conn.connection.in_flight.len() as u64;
            for request in conn.connection.in_flight.iter().filter(|request| !request.delivered) {
                assert!(sent.insert(request.lane, request.step).is_none(), "a lane has one request on its way");
            }
        }
        for (id, api) in self.dispatcher.outbox.apis() {
            assert_eq!(api.in_flight(), in_flight[usize::from(id.0)], "requests in flight");
        }
        let mut members = std::collections::HashSet::new();
        for (id, lane) in store.lanes() {
            let is_sent = sent.remove(&id);
            assert_eq!(lane.state() == State::InFlight, is_sent.is_some(), "lanes on their way");
            assert!(is_sent.is_none_or(|step| step == lane.step()), "the step of a request");
            for member in lane.company().batch().into_iter().flatten().skip(1) {
                assert!(members.insert(member.lane), "a lane is in one batch");
                assert!(store.lane(member.lane).records().len() >= member.records, "a batch is in memory");
            }
        }
        assert!(sent.is_empty(), "requests of lanes that are gone");
        let standing = store.lanes().filter(|(_, lane)| lane.state() == State::InBatch).map(|(id, _)| id);
        assert_eq!(standing.collect::<std::collections::HashSet<_>>(), members, "lanes in batches of others");
        assert!(self.dispatcher.outbox.is_open(Step::Id) || self.rules.has_ids(), "a step that there is not is open");
    }
}
