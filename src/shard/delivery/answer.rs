//! What the service's answers lead to: a record is settled, its lane tries again later, its step is
//! held back for all lanes, or it is kept aside.

use super::Lent;
use super::connection::ApiLink;
use super::dispatcher::Dispatcher;
use super::failing::UNREADABLE_MAX;
use super::problem::{Advice, Loss, Problem, Unread};
use crate::delivery::route::{Hold, Reaction, reaction};
use crate::delivery::{Answer, InFlight, Said, Step, backoff, token_at, why_no_token};
use crate::ground::count::Stage;
use crate::ground::{ApiId, LaneId, LinkId};
use crate::http::client::{Event, ResponseReader};
use crate::journal::ANSWER_BYTES_MAX;
use crate::shard::store::{Member, Refusal, State};

/// The largest answer of an id step that is looked at.
const ID_BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest answer that is looked at and may show a record: one of the largest size, with every
/// byte escaped, fits in.
const RECORD_BODY_BYTES_MAX: usize = 512 * 1024;

/// Why a connection must close after an answer, and whether what is in flight may be sent again at
/// once.
pub(super) type End = (Loss, bool);

impl Dispatcher {
    /// Bytes of HTTP. Whether the connection goes on.
    pub(super) fn plain_received(
        &mut self,
        lent: &mut Lent<'_, '_>,
        link: LinkId,
        conn: &mut ApiLink,
        bytes: &[u8],
    ) -> bool {
        let mut input = bytes;
        // Moved out so that events may borrow from it while the rest is changed.
        let mut reader = std::mem::take(&mut conn.connection.reader);
        let mut end = None;
        while end.is_none() {
            if conn.connection.in_flight.is_empty() {
                if !input.is_empty() {
                    end = Some((Loss::Unasked, false));
                }
                break;
            }
            let unread = input;
            match reader.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let is_head = matches!(event, Event::Head(_));
                    end = self.answer(lent, conn, event);
                    if is_head {
                        keep_location(conn, &reader);
                    }
                }
                Err(error) => end = Some((Loss::Unreadable { error, said: Said::of_bytes(unread) }, false)),
            }
        }
        conn.connection.reader = reader;
        match end {
            Some((why, resend)) => {
                self.lose_connection(lent, (link, conn), &why, resend);
                false
            }
            None => {
                self.list_connection(lent, link, conn);
                true
            }
        }
    }

    /// Nothing follows on a connection. `is_whole`: nothing was cut off either, so that an answer
    /// may end here.
    pub(super) fn answers_ended(
        &mut self,
        lent: &mut Lent<'_, '_>,
        link: LinkId,
        conn: &mut ApiLink,
        is_whole: bool,
        mut why: Loss,
    ) {
        let mut reader = std::mem::take(&mut conn.connection.reader);
        if is_whole && !conn.connection.in_flight.is_empty() {
            match reader.handle_eof() {
                Ok(Some(event)) => drop(self.answer(lent, conn, event)),
                Ok(None) => {}
                Err(error) => why = Loss::Unreadable { error, said: Said::default() },
            }
        }
        self.lose_connection(lent, (link, conn), &why, true);
    }

    /// One event of the oldest request's answer.
    fn answer(&mut self, lent: &mut Lent<'_, '_>, conn: &mut ApiLink, event: Event<'_>) -> Option<End> {
        let connection = &mut conn.connection;
        let deliver = lent.rules.deliver();
        match event {
            Event::Head(head) => {
                let request = connection.in_flight.front_mut().expect("looked at by the caller");
                (request.status, request.retry_after) = (head.status, head.retry_after);
                connection.answer.body.clear();
                request.typed = lent.rules.answer_type.as_ref().is_none_or(|wanted| *wanted == head.content_type);
                let good = request.step == Step::Record && deliver.success.contains(&head.status) && request.typed;
                if good && deliver.answer_id_at.is_none() {
                    request.delivered = true;
                    let (lane, sent_ns) = (request.lane, request.sent_ns);
                    self.arrived(lent, conn.api, lane, sent_ns);
                } else {
                    connection.answer.media_type = head.content_type;
                }
                None
            }
            Event::Body(bytes) => {
                let request = connection.in_flight.front().expect("looked at by the caller");
                let (most, whole) = match request.step {
                    Step::Id => (ID_BODY_BYTES_MAX, true),
                    Step::Confirm => (RECORD_BODY_BYTES_MAX, true),
                    Step::Record if request.delivered => (0, false),
                    Step::Record if deliver.answer_id_at.is_some() && deliver.success.contains(&request.status) => {
                        (RECORD_BODY_BYTES_MAX, true)
                    }
                    Step::Record => (ANSWER_BYTES_MAX, false),
                };
                let room = most - connection.answer.body.len().min(most);
                if whole && bytes.len() > room {
                    return Some(self.answer_too_long(lent, conn, most));
                }
                connection.answer.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                None
            }
            Event::End { reusable } => self.answer_ended(lent, conn, reusable),
        }
    }

    fn answer_ended(&mut self, lent: &mut Lent<'_, '_>, conn: &mut ApiLink, reusable: bool) -> Option<End> {
        let connection = &mut conn.connection;
        let mut request = connection.in_flight.pop_front().expect("looked at by the caller");
        connection.answered += 1;
        connection.idle_ns = lent.turn.now.mono_ns;
        self.outbox.api_mut(conn.api).request_done();
        let connection = &conn.connection;
        let answer = &connection.answer;
        let arrived = request.step == Step::Record
            && (request.delivered || self.shows_id(lent, conn.api, &mut request, &answer.body));
        match request.step {
            Step::Id => self.id_answered(lent, conn.api, request, answer),
            Step::Record if arrived => {}
            Step::Record => self.refused(lent, conn.api, request, answer),
            Step::Confirm => self.confirm_answered(lent, conn.api, request, answer),
        }
        if request.status >= 300 && connection.sending && connection.in_flight.is_empty() {
            // It need not read the rest of what it has refused, so that would never end (RFC 9112
            // section 9.5).
            return Some((Loss::Early, false));
        }
        (!reusable).then_some((Loss::Closed, true))
    }

    /// The oldest request's answer is longer than what is looked at: its connection closes, and
    /// what was sent behind it goes again.
    fn answer_too_long(&mut self, lent: &mut Lent<'_, '_>, conn: &mut ApiLink, bytes_max: usize) -> End {
        let request = conn.connection.in_flight.pop_front().expect("an answer has its request");
        conn.connection.answered += 1; // the others may go again at once
        conn.connection.idle_ns = lent.turn.now.mono_ns;
        self.outbox.api_mut(conn.api).request_done();
        if request.step == Step::Id {
            let problem = Problem::IdTooLong { status: request.status, bytes_max };
            self.failed(lent, conn.api, request, problem);
        } else {
            self.answer_unread(lent, conn.api, request, &conn.connection.answer.body, bytes_max);
        }
        (Loss::BehindLong, true)
    }

    // ---- what worked

    /// An answer has shown that a step works.
    fn step_worked(&mut self, lent: &mut Lent<'_, '_>, step: Step) {
        self.outbox.step_worked(lent.turn, lent.store, step);
    }

    /// An answer says that a lane's first record has arrived. What is wrong behind its header
    /// changes nothing.
    fn arrived(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, lane: LaneId, sent_ns: u64) {
        self.delivered(lent, lane);
        self.step_worked(lent, Step::Record);
        self.outbox.worked(lent.turn.now, api);
        self.note_success(lent, Step::Record, sent_ns);
    }

    /// Others that are answered otherwise are not answered so by all.
    fn note_success(&mut self, lent: &Lent<'_, '_>, step: Step, sent_ns: u64) {
        if lent.is_by_present_rules() {
            self.outbox.note_success(lent.turn.now, step, sent_ns);
        }
    }

    /// Whether the whole answer of a record step shows the record's id, where that is what success
    /// means.
    fn shows_id(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: &mut InFlight, body: &[u8]) -> bool {
        let deliver = lent.rules.deliver();
        let Some(pointer) = &deliver.answer_id_at else { return false };
        let id = lent.store.lane(request.lane).ids().get(0);
        let good = deliver.success.contains(&request.status) && request.typed;
        if good && id.is_some() && token_at(body, pointer).as_deref() == id {
            request.delivered = true;
            self.arrived(lent, api, request.lane, request.sent_ns);
        }
        request.delivered
    }

    fn id_answered(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, answer: &Answer) {
        if !matches!(request.status, 200..=299) {
            return self.refused(lent, api, request, answer);
        }
        if lent.rules.lease().is_some() {
            return self.lease_answered(lent, api, request, &answer.body);
        }
        let pointer = lent.rules.sequence().map_or("", |sequence| &sequence.id_at);
        let Some(id) = token_at(&answer.body, pointer) else {
            let why = why_no_token(&answer.body, pointer);
            let problem = Problem::NoId { status: request.status, said: Said::of(answer), why };
            return self.attempt_failed(lent, api, request, (problem, Reaction::Unclear));
        };
        let (lane, now) = (request.lane, lent.turn.now);
        if lent.store.append_id(now, lane, 0, &id).is_err() {
            return self.failed(lent, api, request, Problem::NoRoomForId);
        }
        self.step_worked(lent, Step::Id);
        self.note_success(lent, Step::Id, request.sent_ns);
        self.outbox.id_worked(now, api);
        let place = lent.store.lane_mut(lane);
        if let Some(seen) = place.first().seen {
            lent.turn.stages.record(Stage::Id, now.mono_ns.saturating_sub(seen.journaled_ns()));
        }
        place.give_id(id, Some(now.mono_ns));
        self.admit(lent, lane);
    }

    /// The answer to a request for many ids.
    fn lease_answered(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, body: &[u8]) {
        let now = lent.turn.now;
        let mut granted = match self.leases.grant(now, lent.store, lent.rules, body) {
            Ok(granted) => granted,
            Err(fault) => {
                let reaction = if fault.is_of_answer() { Reaction::Unclear } else { Reaction::Retry };
                return self.attempt_failed(lent, api, request, (Problem::Lease(fault), reaction));
            }
        };
        self.step_worked(lent, Step::Id);
        self.note_success(lent, Step::Id, request.sent_ns);
        self.outbox.id_worked(now, api);
        self.leases.end_request(lent.store, request.lane);
        // Whoever asked does not ask again before its own record.
        lent.store.lane_mut(request.lane).was_granted(now.mono_ns);
        self.list(lent, request.lane, false);
        // As many lanes go on as ids were granted, so that no grant has to look at all that wait.
        // If there are more, one of them asks.
        while granted > 0 || !self.leases.is_asked_for() {
            let Some(lane) = self.leases.pop_waiting() else { return };
            self.admit(lent, lane);
            granted = granted.saturating_sub(1);
        }
    }

    /// The first record of a lane is delivered, or the batch that it carries.
    fn delivered(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        assert_eq!(lent.store.lane(lane).state(), State::InFlight);
        let Some(members) = lent.store.lane_mut(lane).take_batch() else {
            return self.records_delivered(lent, Member { lane, records: 1 });
        };
        for member in members {
            self.records_delivered(lent, member);
        }
    }

    fn records_delivered(&mut self, lent: &mut Lent<'_, '_>, Member { lane, records }: Member) {
        lent.store.settle(lent.turn, lane, records);
        self.first_is_gone(lent, lane);
    }

    /// A lane's first record is settled or parked: the next one may go.
    fn first_is_gone(&mut self, lent: &mut Lent<'_, '_>, lane: LaneId) {
        self.failing.forget(lane);
        self.admit(lent, lane);
        lent.store.remove_if_done(lane);
        self.admit_woken(lent);
    }

    // ---- what did not

    /// An answer that is no success.
    fn refused(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, answer: &Answer) {
        let InFlight { status, step, lane, .. } = request;
        let deliver = lent.rules.deliver();
        let led_to = match step {
            // No other record would fare better.
            Step::Id => match reaction(status, &[], &[]) {
                Reaction::Park => Reaction::Pause,
                reaction => reaction,
            },
            Step::Record | Step::Confirm => reaction(status, &[], &deliver.answers.given),
        };
        let (reaction, advice) = match led_to {
            _ if step == Step::Record && deliver.success.contains(&status) => {
                let advice = match &deliver.answer_type {
                    Some(wanted) if !request.typed => Advice::Type(wanted.clone()),
                    _ => Advice::NoId(deliver.answer_id_at.clone().unwrap_or_default()),
                };
                (Reaction::Pause, advice)
            }
            Reaction::Park | Reaction::Confirm if self.split_batch(lent, lane) => {
                lent.turn.counters.api_refusals += 1;
                return self.step_worked(lent, Step::Record);
            }
            Reaction::Park => return self.refuse_record(lent, api, request, answer),
            Reaction::Confirm => return self.ask_what_is_there(lent, request, &answer.body),
            Reaction::Pause => (Reaction::Pause, Advice::OfStatus(status)),
            reaction => (reaction, Advice::None),
        };
        let said = Said::of(answer);
        let problem = match reaction {
            Reaction::Unclear => Problem::Unlisted { status, said, list: with_status(&deliver.success, status) },
            _ => Problem::Answered { status, step, said, advice },
        };
        if matches!(reaction, Reaction::Retry | Reaction::Unclear) && self.parks_as_stuck(lent, &request, &answer.body)
        {
            return;
        }
        self.attempt_failed(lent, api, request, (problem, reaction));
    }

    /// Parks a record that is not taken while those of other lanes are, where the configuration says
    /// so; whether it is parked. A service that fails for all parks nothing.
    fn parks_as_stuck(&mut self, lent: &mut Lent<'_, '_>, request: &InFlight, body: &[u8]) -> bool {
        let answers = &lent.rules.deliver().answers;
        let Some(stuck) = &answers.stuck else { return false };
        let is_single = request.step == Step::Record && !lent.store.lane(request.lane).company().is_carrier();
        // A probe is sent because others fail, too.
        let is_free = self.outbox.is_open(Step::Record) && lent.is_by_present_rules();
        if !is_single || !is_free || lent.turn.terms.parked >= answers.parked_max as u64 {
            return false;
        }
        let attempts = self.failing.attempts(request.lane) + 1;
        if !self.failing.is_over(lent.turn.now, &self.outbox, request, stuck)
            || self.parking.park(lent.turn, lent.store, request.lane, (request.status, body), attempts).is_err()
        {
            return false;
        }
        self.first_is_gone(lent, request.lane);
        true
    }

    /// An answer that refuses the record itself: it is tried again some times, then kept aside, and
    /// the next ones go on.
    fn refuse_record(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, answer: &Answer) {
        lent.turn.counters.api_refusals += 1;
        let InFlight { status, step, .. } = request;
        let problem = Problem::Answered { status, step, said: Said::of(answer), advice: Advice::None };
        self.note_failing(lent, &request, &problem);
        self.step_worked(lent, Step::Record);
        let refusals = lent.store.lane_mut(request.lane).tries_mut().count_refusal();
        if refusals < lent.rules.deliver().answers.attempts {
            self.back_off(lent, request.lane);
        } else {
            self.park(lent, api, request, (request.status, &answer.body));
        }
    }

    /// An answer that says neither yes nor no: the service is asked what it has.
    fn ask_what_is_there(&mut self, lent: &mut Lent<'_, '_>, request: InFlight, body: &[u8]) {
        lent.turn.counters.api_confirms += 1;
        self.step_worked(lent, Step::Record);
        let answer = body[..body.len().min(ANSWER_BYTES_MAX)].into();
        lent.store.lane_mut(request.lane).tries_mut().ask_about(Refusal { status: request.status, answer });
        self.list(lent, request.lane, true);
    }

    /// What the service has under the record's id.
    fn confirm_answered(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, said: &Answer) {
        let InFlight { status, lane, .. } = request;
        let answers = &lent.rules.deliver().answers;
        let confirm = answers.confirm.as_ref().expect("asked for by its path");
        let place = lent.store.lane(lane);
        let (record, origin) = lent.store.record(place, 0);
        let has_it = matches!(status, 200..=299)
            && confirm.shown_at.has(&said.body, origin.who.name(), record.payload.data, origin.who.decoding());
        let may_try = place.tries().refusals() < answers.attempts;
        match reaction(status, &[], &[]) {
            _ if has_it => {
                self.step_worked(lent, Step::Confirm);
                self.delivered(lent, lane);
                self.outbox.worked(lent.turn.now, api);
            }
            // It has nothing there. If it says so again and again, the path or the id is wrong, and
            // an operator must look.
            _ if status == 404 && may_try => {
                let problem = Problem::NotConfirmed { status, said: Said::of(said) };
                self.note_failing(lent, &request, &problem);
                lent.store.lane_mut(lane).set_step(Step::Record);
                self.step_worked(lent, Step::Confirm);
                self.back_off(lent, lane);
            }
            reaction @ (Reaction::Retry | Reaction::Pause) if !matches!(status, 200..=299 | 404) => {
                let problem = Problem::NotConfirmed { status, said: Said::of(said) };
                self.attempt_failed(lent, api, request, (problem, reaction));
            }
            _ => {
                let Refusal { status, answer } = place.tries().refusal().cloned().expect("kept when it was asked");
                self.step_worked(lent, Step::Confirm);
                self.park(lent, api, request, (status, &answer));
            }
        }
    }

    /// An answer that is longer than what is looked at, so that nothing is known of the record: it
    /// is tried again some times, then kept aside. Where no other record arrives either, it is not
    /// the record's fault, and all wait.
    fn answer_unread(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, body: &[u8], bytes_max: usize) {
        let InFlight { status, step, lane, .. } = request;
        lent.turn.counters.api_refusals += 1;
        let unread = Unread { status, step, bytes_max };
        let is_alone = self.fails_while_others_arrive(lent, api, lane);
        if step != Step::Record || is_alone {
            self.note_failing(lent, &request, &Problem::Unread(unread.clone()));
        }
        let tries = lent.store.lane_mut(lane).tries_mut();
        let refusals = tries.count_refusal();
        if step == Step::Record && !is_alone {
            self.attempt_failed(lent, api, request, (Problem::UnreadAll(unread), Reaction::Pause));
        } else if refusals < lent.rules.deliver().answers.attempts {
            self.outbox.note_problem(lent.turn.now, api, Problem::Unread(unread));
            self.step_worked(lent, step);
            self.back_off(lent, lane);
        } else {
            let before = tries.refusal().cloned().unwrap_or_else(|| Refusal { status, answer: body.into() });
            let mut answer = format!("({unread}) ").into_bytes();
            answer.extend_from_slice(&before.answer[..before.answer.len().min(ANSWER_BYTES_MAX - answer.len())]);
            self.step_worked(lent, step);
            self.park(lent, api, request, (before.status, &answer));
        }
    }

    /// Keeps the first record of a lane aside, for an answer of this status.
    fn park(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, answered: (u16, &[u8])) {
        let lane = request.lane;
        let parked_max = lent.rules.deliver().answers.parked_max;
        if lent.turn.terms.parked >= parked_max as u64 {
            let problem = Problem::ParkedFull { status: answered.0, parked_max };
            lent.store.lane_mut(lane).set_step(Step::Record);
            let request = InFlight { step: Step::Record, ..request };
            return self.attempt_failed(lent, api, request, (problem, Reaction::Pause));
        }
        let refusals = lent.store.lane(lane).tries().refusals();
        if self.parking.park(lent.turn, lent.store, lane, answered, refusals).is_err() {
            self.outbox.note_problem(lent.turn.now, api, Problem::NoRoomToPark);
            return self.back_off(lent, lane);
        }
        self.first_is_gone(lent, lane);
    }

    /// An attempt failed without an answer, or with one that cannot be used: the lane tries again
    /// later.
    pub(super) fn failed(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: InFlight, problem: Problem) {
        self.attempt_failed(lent, api, request, (problem, Reaction::Retry));
    }

    fn attempt_failed(
        &mut self,
        lent: &mut Lent<'_, '_>,
        api: ApiId,
        request: InFlight,
        (problem, reaction): (Problem, Reaction),
    ) {
        let lane = request.lane;
        lent.turn.counters.api_failures += 1;
        if !lent.is_by_present_rules() {
            return self.try_by_present_rules(lent, lane);
        }
        let unreadable = self.note_failing(lent, &request, &problem);
        let is_full = matches!(problem, Problem::ParkedFull { .. });
        let reaction = if unreadable >= UNREADABLE_MAX { Reaction::Unclear } else { reaction };
        if !self.failing.is_said(lane) {
            self.outbox.note_problem(lent.turn.now, api, problem);
        }
        let is_of_record = match reaction {
            Reaction::Unclear => self.outbox.is_proven(lent.turn.now, request.step),
            // Where the parked records are too many, all wait.
            Reaction::Pause => request.status > 0 && !is_full && self.failing.is_refuted(lane),
            _ => false,
        };
        if is_of_record {
            return self.stand_still(lent, api, &request);
        }
        let (sent, said) = ((request.step, request.sent_ns), (reaction, request.retry_after));
        let hold = self.outbox.step_failed(lent.turn, lent.store, sent, lent.rules.pace(), said);
        if self.is_to_be_cut(lent, api, &request, reaction) && self.split_batch(lent, lane) {
            return;
        }
        if hold == Hold::No {
            return self.back_off(lent, lane);
        }
        lent.store.lane_mut(lane).tries_mut().count();
        self.list(lent, lane, false);
    }

    /// An answer that another attempt would get again, while records of other lanes arrive: the
    /// step goes on, and this lane waits for long.
    fn stand_still(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: &InFlight) {
        self.step_worked(lent, request.step);
        if self.is_to_be_cut(lent, api, request, Reaction::Retry) && self.split_batch(lent, request.lane) {
            return;
        }
        let wait_ns = backoff::long_delay_ns(lent.turn.rng, lent.rules.pace().max);
        self.back_off_for(lent, request.lane, wait_ns);
    }

    /// Counts a failure of a lane's first record, or of the batch that it carries; how many
    /// unreadable answers in a row that makes.
    fn note_failing(&mut self, lent: &Lent<'_, '_>, request: &InFlight, problem: &Problem) -> u32 {
        let now = lent.turn.now;
        let unreadable = self.failing.note(now, (&self.outbox, lent.store), request, problem);
        self.failing.say(now, &self.outbox, lent.store, request.lane);
        unreadable
    }

    /// Counts a failure of a batch. After some in a row one of its records may be what the service
    /// fails by, and all that are with it would wait for ever. A service that says it is busy
    /// speaks of itself, unless it takes others meanwhile.
    fn is_to_be_cut(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, request: &InFlight, reaction: Reaction) -> bool {
        let Some(batch) = lent.rules.batch() else { return false };
        // Too many requests: half of the batch in each would be more of them.
        if request.step != Step::Record || reaction != Reaction::Retry || request.status == 429 {
            return false;
        }
        let is_busy = request.retry_after.is_some() || request.status == 503;
        let counts = self.fails_while_others_arrive(lent, api, request.lane) || !is_busy;
        lent.store.lane_mut(request.lane).tries_mut().count_failure(counts) >= batch.failures
    }

    /// Whether records of other lanes have arrived since the first record of this one began to
    /// fail, or the batch that it carries.
    fn fails_while_others_arrive(&mut self, lent: &mut Lent<'_, '_>, api: ApiId, lane: LaneId) -> bool {
        let now_ns = lent.turn.now.mono_ns;
        let since_ns = lent.store.lane_mut(lane).tries_mut().failing_since(now_ns);
        self.outbox.api(api).last_success_ns().is_some_and(|at_ns| at_ns > since_ns)
    }
}

/// Where a redirect leads is shown, without its query, which may hold a secret.
fn keep_location(conn: &mut ApiLink, reader: &ResponseReader) {
    let is_redirect = conn.connection.in_flight.front().is_some_and(|request| (300..400).contains(&request.status));
    conn.connection.answer.location.clear();
    if is_redirect {
        let path = reader.location().split(|byte| *byte == b'?').next().unwrap_or_default();
        conn.connection.answer.location.extend_from_slice(path);
        if path.len() < reader.location().len() {
            conn.connection.answer.location.extend_from_slice(b"?...");
        }
    }
}

/// A list of statuses with one more, as a configuration has it.
fn with_status(statuses: &[u16], status: u16) -> String {
    let mut all: Vec<u16> = statuses.iter().copied().chain([status]).collect();
    all.sort_unstable();
    format!("{all:?}")
}
