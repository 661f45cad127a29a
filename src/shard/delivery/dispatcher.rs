//! Where it is decided which lane is sent next, and what becomes of it: lanes come here when they
//! are woken, and when a request of theirs has come to something.
//!
//! A dispatcher stands apart from the delivery so that one connection can be lent to it beside all
//! else ([`Lent`]). Its methods stand in three files, by what they answer to: here the lanes and
//! the connections' ends, in `answer` what the service says, in `secure` what TLS says.

use super::Lent;
use super::compose::{Composer, claim_id, fields_of};
use super::connection::{ApiLink, EndOfRead};
use super::failing::FailingLanes;
use super::lease::Leases;
use super::outbox::Outbox;
use super::park::Parking;
use super::problem::{HandshakeFault, Loss, Problem};
use super::reload::fit;
use super::rules::Rules;
use crate::config::DeliverKey;
use crate::delivery::{Connection, InFlight, Step};
use crate::ground::{ApiId, LaneId, LinkId, Moment};
use crate::shard::op::RecvEnd;
use crate::shard::store::{Lane, Member, State, Store};
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use crate::tls;

/// What a delivery decides by, all but the connections.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub outbox: Outbox,
    pub leases: Leases,
    pub parking: Parking,
    pub failing: FailingLanes,
    composer: Composer,
    /// For connections that begin from now on, where a URL is `https`.
    pub tls: Option<tls::Client>,
    /// What a TLS connection has received, while it is looked at.
    pub(super) plain: Vec<u8>,
}

impl Dispatcher {
    pub fn new(store: &mut Store, rules: &Rules) -> Self {
        Self {
            outbox: Outbox::new(rules),
            leases: Leases::adopt(store, rules),
            parking: Parking::default(),
            failing: FailingLanes::default(),
            composer: Composer::default(),
            tls: None,
            plain: Vec::new(),
        }
    }

    // ---- lanes

    /// Lists a lane to be sent, if it has a record in memory that may go.
    pub fn admit(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        let has_ids = lent.present.has_ids();
        let Some(place) = lent.store.begin(lane, has_ids) else { return };
        if has_ids && place.ids().get(0).is_none() && !self.leases.find(lent.store, lane) {
            return;
        }
        // Many may wait for what a lane brings that asks for all.
        let front = self.leases.is_asker(lane);
        self.list(lent, lane, front);
    }

    /// Admits all lanes that have been woken.
    pub fn admit_woken(&mut self, lent: &mut Lent<'_, '_>) {
        while let Some(lane) = lent.store.pop_woken() {
            self.admit(lent, lane);
        }
    }

    /// Lists a lane to be sent, in front or behind, unless its step is held back.
    pub(super) fn list(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId, front: bool) {
        self.fit_if_changed(lent, lane);
        self.outbox.list(lent.turn, lent.store, lane, front);
    }

    /// The first record of a lane is tried again later.
    pub(super) fn back_off(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        self.fit_if_changed(lent, lane);
        let until_ns = lent.store.back_off(lent.turn, lane, lent.rules.retry());
        self.failing.waits(lane, until_ns);
    }

    /// As above, after this time in nanoseconds.
    pub(super) fn back_off_for(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId, wait_ns: u64) {
        self.fit_if_changed(lent, lane);
        let until_ns = lent.store.back_off_for(lent.turn, lane, wait_ns);
        self.failing.waits(lane, until_ns);
    }

    /// Between two changes of the configuration there is nothing to fit, but for a batch that was
    /// put together when records had no ids and has waited for one since.
    fn fit_if_changed(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        if !lent.is_by_present_rules() {
            fit(self, lent, lane);
        } else if lent.store.lane(lane).company().is_carrier() && !Self::batch_has_ids(lent, lane) {
            self.dissolve_batch(lent, lane);
        }
    }

    /// What waits for an API goes on at once: its steps, but for those that the service told to wait
    /// unless `told`, and the lanes that wait by themselves.
    pub(super) fn wake(&mut self, lent: &mut Lent<'_, '_>, id: ApiId, told: bool) {
        let mut waiting = self.outbox.release_steps(id, told);
        let waits = |lane: &Lane| lane.state() == State::Backoff && self.outbox.api_of(lane.step()) == id;
        waiting.extend(lent.store.lanes().filter(|(_, lane)| waits(lane)).map(|(lane, _)| lane));
        for lane in waiting {
            self.admit(lent, lane);
        }
    }

    // ---- batches

    /// Batches are not configured any more, or this one cannot be sent as it is: each lane goes on
    /// by itself.
    pub(super) fn dissolve_batch(&mut self, lent: &mut Lent<'_, '_>, carrier: LaneId) {
        for member in lent.store.lane_mut(carrier).take_batch().into_iter().flatten().skip(1) {
            self.admit(lent, member.lane);
        }
    }

    /// A batch was refused, or has failed again and again: its halves, which share no lane, go on
    /// their own ways, and so on, until a record that is alone is dealt with as a record. `false`
    /// where the lane carries none.
    pub(super) fn split_batch(&mut self, lent: &mut Lent<'_, '_>, carrier: LaneId) -> bool {
        let Some(members) = lent.store.lane_mut(carrier).take_batch() else { return false };
        lent.turn.counters.batch_splits += 1;
        let records: usize = members.iter().map(|member| member.records).sum();
        let mut left = records.div_ceil(2);
        let (mut front, mut behind) = (Vec::new(), Vec::new());
        for Member { lane, records } in members {
            match left {
                0 => behind.push(Member { lane, records }),
                // What is left of a lane that is cut waits for its front, and is suspect once that
                // is fine. Not so what an earlier cut left behind it: that batch was refused for a
                // record of this one.
                _ => {
                    if records > left {
                        lent.store.lane_mut(lane).part_behind(records - left);
                    }
                    front.push(Member { lane, records: records.min(left) });
                }
            }
            left -= records.min(left);
        }
        for half in [behind, front] {
            let Some(first) = half.first().map(|member| member.lane) else { continue };
            let lane = lent.store.lane_mut(first);
            lane.tries_mut().begin_again();
            self.failing.forget(first);
            if half.iter().map(|member| member.records).sum::<usize>() == 1 {
                lane.go_alone();
            } else {
                lane.carry(half);
            }
            self.list(lent, first, true);
        }
        true
    }

    /// Whether all records of a batch have the ids that they need.
    fn batch_has_ids(lent: &Lent<'_, '_>, carrier: LaneId) -> bool {
        let covers = |member: &Member| lent.store.lane(member.lane).ids().cover(member.records);
        !lent.rules.has_ids() || lent.store.lane(carrier).company().batch().into_iter().flatten().all(covers)
    }

    /// When a batch that is not full is sent all the same; `None` where nothing is to be waited
    /// for.
    pub fn batch_due_ns(&self, store: &Store, rules: &Rules) -> Option<u64> {
        let batch = rules.batch().filter(|batch| !batch.wait.is_zero())?;
        let ready = self.outbox.api(self.outbox.record_api()).ready();
        let first = store.lane(*ready.front()?);
        if !first.is_batchable() || ready.len() >= batch.records || !self.outbox.is_open(Step::Record) {
            return None;
        }
        let mut records = 0;
        for lane in ready {
            let lane = store.lane(*lane);
            records += if lane.is_batchable() { lane.records().len() } else { batch.records };
            if records >= batch.records {
                return None;
            }
        }
        Some(first.tries().since()?.ns() + batch.wait.as_nanos() as u64)
    }

    // ---- requests

    /// Appends the request of a lane's current step to a connection's output.
    pub fn render(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId, connection: &mut Connection) {
        let rules = lent.rules;
        let step = lent.store.lane(lane).step();
        let is_batched = step == Step::Record && rules.batch().is_some();
        if step == Step::Record && !self.prepare_record(lent, lane, is_batched) {
            return self.outbox.give_probe_back(lent.turn, Step::Record);
        }
        let Self { composer, leases, .. } = self;
        let place = lent.store.lane(lane);
        match step {
            Step::Id => {
                let lease = leases.request(lent.store, &mut composer.key);
                if lease.is_none() {
                    composer.write_first_key(lent.store, place);
                }
                let head = rules.id_head.as_ref().expect("an id step needs [sequence]");
                let body = lease.as_deref().unwrap_or("{}");
                head.write(&composer.key, "-seq", body.as_bytes(), &mut connection.out);
            }
            Step::Record => {
                if !is_batched {
                    let is_lossy = !composer.write_first(lent, place);
                    lent.turn.counters.lossy_records += u64::from(is_lossy && place.tries().attempts() == 0);
                }
                let key = match rules.deliver().key {
                    DeliverKey::Machine if !is_batched => machine_key(lent.store, place).unwrap_or(&composer.key),
                    _ => &composer.key,
                };
                rules.record_head.write(key, "", &composer.body, &mut connection.out);
            }
            Step::Confirm => {
                composer.write_first_key(lent.store, place);
                let confirm = rules.deliver().answers.confirm.as_ref().expect("a lane asks where that is configured");
                let (record, origin) = lent.store.record(place, 0);
                let fields = fields_of(&record, origin, place.ids().get(0), &composer.key);
                rules.confirm_head.write(|out| confirm.path.render(&fields, out), &mut connection.out);
            }
        }
        lent.store.lane_mut(lane).send();
        connection.in_flight.push_back(InFlight {
            lane,
            step,
            sent_ns: lent.turn.now.mono_ns,
            status: 0,
            typed: false,
            delivered: false,
            retry_after: None,
        });
        lent.turn.counters.api_requests += 1;
        let api = self.outbox.api_of(step);
        self.outbox.api_mut(api).request_sent();
    }

    /// Sees to the ids of what is sent next, and puts a batch together; whether there is something
    /// to send.
    fn prepare_record(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId, is_batched: bool) -> bool {
        // Where the configuration has changed, ids may be needed that were not.
        let is_carrier = lent.store.lane(lane).company().is_carrier();
        if is_carrier && (!is_batched || !Self::batch_has_ids(lent, lane)) {
            self.dissolve_batch(lent, lane);
        }
        let Self { outbox, leases, composer, .. } = self;
        match is_batched {
            true => composer.write_batch(outbox, leases, lent, lane),
            false => claim_id(outbox, leases, lent, lane),
        }
    }

    // ---- connections

    /// A connection may carry requests from now on.
    pub(super) fn opened(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        let now_ns = lent.turn.now.mono_ns;
        conn.connection.open = true;
        conn.connection.idle_ns = now_ns;
        conn.opened_ns = now_ns;
        set_timer(lent.turn, link, &mut conn.connection, now_ns + lent.rules.deliver().idle.as_nanos() as u64);
        let api = self.outbox.api_mut(conn.api);
        api.connect_done();
        let is_back = api.is_failing();
        if api.tls().is_none() {
            api.forget_failures();
        }
        if is_back && self.outbox.is_current(conn.api) && lent.is_by_present_rules() {
            self.wake(lent, conn.api, false);
        }
        self.list_connection(lent, link, conn);
    }

    /// Lists a connection that has room, unless it is to take no more requests.
    pub(super) fn list_connection(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        if self.is_left(lent, link, conn) {
            return;
        }
        if conn.connection.has_room(lent.rules.deliver().pipeline) && !conn.connection.listed {
            conn.connection.listed = true;
            self.outbox.api_mut(conn.api).offer(link);
        }
    }

    /// Whether a connection takes no requests: answers to earlier ones are still to come, or it
    /// leads to where nothing is sent any more, or it is too old.
    pub(super) fn is_left(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) -> bool {
        let is_old = conn.is_old(link, lent.turn.now.mono_ns, lent.present.deliver().max_connection_age);
        if conn.earlier.is_none() && !is_old {
            return false;
        }
        if !conn.connection.in_flight.is_empty() || conn.connection.sending {
            return true;
        }
        let other_tls = conn.earlier.take().is_some_and(|earlier| earlier.other_tls) && conn.secure.is_some();
        let is_left = is_old || other_tls || !self.outbox.is_current(conn.api);
        if is_left {
            self.close_idle(lent.turn, link, conn);
        }
        is_left
    }

    /// Closes a connection that nothing is in flight on.
    pub fn close_idle(&mut self, turn: &mut Turn<'_>, link: LinkId, conn: &mut ApiLink) {
        self.leave_handshake(turn, link, conn);
        let api = self.outbox.api_mut(conn.api);
        if !conn.connection.open {
            api.connect_done();
        }
        api.forget(link);
        turn.close(link);
    }

    /// A send is over.
    pub fn sent(
        &mut self,
        lent: &mut Lent<'_, '_>,
        (link, conn): (LinkId, &mut ApiLink),
        (mut bytes, result): (Vec<u8>, Result<(), i32>),
    ) {
        bytes.clear();
        match &mut conn.secure {
            None => conn.connection.out = bytes,
            Some(secure) => secure.sent(bytes),
        }
        conn.connection.sending = false;
        match result {
            Ok(()) if conn.secure.is_some() => self.secure_sent(lent, link, conn),
            Ok(()) => self.list_connection(lent, link, conn),
            Err(errno) if !conn.connection.open => {
                self.handshake_failed(lent, link, conn, HandshakeFault::Sending { errno });
            }
            // What was received before is read first: it can be the answer. The read ends then, or
            // the deadline comes.
            Err(_) => conn.connection.broken = true,
        }
    }

    /// A connection is over. What is in flight on it is sent again at once where the peer may just
    /// have closed an idle connection (RFC 9112 section 9.3.1), and fails otherwise; the key tells
    /// the receiver what it has already.
    pub(super) fn lose_connection(
        &mut self,
        lent: &mut Lent<'_, '_>,
        (link, conn): (LinkId, &mut ApiLink),
        why: &Loss,
        resend: bool,
    ) {
        self.close_session(lent.turn, link, conn);
        lent.turn.close(link);
        let reused = conn.connection.answered > 0;
        self.outbox.api_mut(conn.api).forget(link);
        // The last one first: each goes to the front of the list, where the oldest comes to stand
        // before the others.
        let in_flight = std::mem::take(&mut conn.connection.in_flight);
        for (place, request) in in_flight.into_iter().enumerate().rev() {
            self.outbox.api_mut(conn.api).request_done();
            if request.delivered {
                continue; // delivered with its header
            }
            if !lent.is_by_present_rules() {
                self.try_by_present_rules(lent, request.lane);
                continue;
            }
            // What was pipelined behind another request is not what made the peer close. It goes
            // again as often as it takes: each such connection has brought an answer before.
            let behind = place > 0 || request.sent_ns < conn.connection.idle_ns;
            let may_resend = resend && reused && request.status == 0;
            if may_resend && lent.store.lane_mut(request.lane).tries_mut().resend(behind) {
                lent.turn.counters.api_resent += 1;
                if self.outbox.is_probe(request.step, request.sent_ns) {
                    self.outbox.push(lent.store, request.lane, true);
                } else {
                    self.list(lent, request.lane, true);
                }
            } else {
                self.failed(lent, conn.api, request, Problem::Lost(why.clone()));
            }
        }
    }

    /// A request of an earlier configuration failed: its record goes out again by the present one.
    pub(super) fn try_by_present_rules(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        lent.store.lane_mut(lane).tries_mut().count();
        self.admit(lent, lane);
    }

    /// A read has ended.
    pub fn read_ended(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink, end: RecvEnd) {
        let EndOfRead { mut why, is_close } = EndOfRead::of(end);
        if !conn.connection.open {
            return self.handshake_failed(lent, link, conn, HandshakeFault::Ended(why));
        }
        let is_whole = is_close && conn.secure.is_none();
        if is_close && !is_whole {
            why = Loss::Sealing(tls::TlsError::Truncated);
        }
        self.answers_ended(lent, link, conn, is_whole, why);
    }

    /// A connection's deadline may have come.
    pub fn handle_timer(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        let now_ns = lent.turn.now.mono_ns;
        if conn.connection.timer.take_if(|timer| timer.ns() <= now_ns).is_none() {
            return; // an older setting
        }
        if !conn.connection.open {
            let limit = lent.rules.deliver().connect_timeout;
            self.handshake_failed(lent, link, conn, HandshakeFault::Late(limit));
        } else if now_ns < deadline_ns(lent.rules, &conn.connection) {
            watch(lent, link, &mut conn.connection);
        } else if conn.connection.in_flight.is_empty() {
            self.lose_connection(lent, (link, conn), &Loss::Idle, false);
        } else {
            self.answer_late(lent, link, conn);
        }
    }

    /// The oldest request's whole answer is late: it fails, what was sent behind it is sent again.
    fn answer_late(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        let oldest = conn.connection.in_flight.pop_front().expect("looked at by the caller");
        self.outbox.api_mut(conn.api).request_done();
        if !oldest.delivered {
            self.failed(lent, conn.api, oldest, Problem::Late(lent.rules.deliver().timeout));
        }
        conn.connection.answered += 1; // the others may go again at once
        self.lose_connection(lent, (link, conn), &Loss::BehindLate, true);
    }
}

pub(super) fn set_timer(turn: &mut Turn<'_>, link: LinkId, connection: &mut Connection, at_ns: u64) {
    connection.timer = Some(Moment::at(at_ns));
    turn.timers.set(at_ns, Timer::Link(link));
}

fn deadline_ns(rules: &Rules, connection: &Connection) -> u64 {
    let (timeout, idle) = (rules.deliver().timeout, rules.deliver().idle);
    connection.deadline_ns(timeout.as_nanos() as u64, idle.as_nanos() as u64)
}

/// Sets a connection's timer, unless it is set for an earlier time, at which the deadline is looked
/// at again.
pub(super) fn watch(lent: &mut Lent<'_, '_>, link: LinkId, connection: &mut Connection) {
    let due_ns = deadline_ns(lent.rules, connection);
    if connection.timer.is_none_or(|timer| due_ns < timer.ns()) {
        set_timer(lent.turn, link, connection, due_ns);
    }
}

/// The key of a lane's first record that its machine gave it, where that can stand in a header.
fn machine_key<'s>(store: &'s Store, lane: &Lane) -> Option<&'s str> {
    let key = store.record(lane, 0).0.payload.key;
    let is_visible = !key.is_empty() && key.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(key).ok().filter(|_| is_visible)
}
