//! Delivery: records of ready lanes become requests on kept-alive connections, answers settle them or bring them back.

use super::batch::Member;
use super::lane::Doing;
use super::link::{ApiLink, State};
use super::secure::Handshakes;
use super::timer::Timer;
use super::{ApiId, Destination, Fd, LinkId, Now, Op, Phase, Readable, RecvEnd, Shard};
use crate::config::{Authority, Url};
use crate::delivery::template::Fields;
use crate::delivery::{Connection, InFlight, Step, backoff, token_at};
use crate::ground::RecordNumber;
use crate::http::client::{Event, ResponseError};
use crate::journal::ANSWER_BYTES_MAX;
use crate::observe::snapshot::Stage;
use crate::tls::TlsError;
use std::collections::VecDeque;

/// The largest answer of an id step that is looked at.
const ID_BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest answer that is looked at and may show a record: one of the largest size, with every byte escaped, fits in.
const RECORD_BODY_BYTES_MAX: usize = 512 * 1024;
/// An API that fails and works by turns is logged at most once in this time.
const SAY_EVERY_NS: u64 = 10_000_000_000;

/// One authority of the API: its connections, and the lanes that want it.
#[derive(Debug)]
pub(super) struct Api {
    pub authority: Authority,
    /// Connections to it are by TLS; see `secure`.
    pub tls: Option<Handshakes>,
    /// Open and connecting.
    pub connections: Vec<LinkId>,
    /// Connecting, TLS handshakes included.
    pub connecting: usize,
    /// Connections with room for another request; the last one used is used first, so that spare ones go idle.
    pub available: Vec<LinkId>,
    pub ready: VecDeque<u32>,
    /// Connects failed in a row; those of one turn, which fail together, are one failure.
    pub failures: u32,
    /// When that was last counted: a connect that had begun before adds nothing.
    failed_ns: u64,
    pub retry_ns: u64,
    /// When a batch that waits for more records was last to be sent.
    batch_due_ns: u64,
    pub problem: Option<String>,
    /// The problem was logged, so its end will be.
    said: bool,
    /// When the next one may be logged.
    say_ns: u64,
    pub last_success_ns: Option<u64>,
    pub in_flight: u64,
}

impl Api {
    pub fn new(url: &Url) -> Self {
        Self {
            authority: url.authority.clone(),
            tls: url.secure.then(|| Handshakes::with(&url.authority)),
            connections: Vec::new(),
            connecting: 0,
            available: Vec::new(),
            ready: VecDeque::new(),
            failures: 0,
            failed_ns: 0,
            retry_ns: 0,
            batch_due_ns: 0,
            problem: None,
            said: false,
            say_ns: 0,
            last_success_ns: None,
            in_flight: 0,
        }
    }

    /// Whether it is where a URL leads to.
    pub fn serves(&self, url: &Url) -> bool {
        self.authority == url.authority && self.tls.is_some() == url.secure
    }
}

impl Shard {
    pub(super) fn api(&mut self, id: ApiId) -> &mut Api {
        &mut self.apis[id.0 as usize]
    }

    /// Lists a lane to be sent, if it has a record in memory that may go.
    pub(super) fn make_ready(&mut self, index: u32) {
        let durable_below = match self.lanes[index as usize].needs_durable {
            true => self.journals[0].journal.durable_below(),
            false => RecordNumber(u64::MAX),
        };
        let id_step = self.id_head.is_some();
        let lane = &mut self.lanes[index as usize];
        if lane.doing == Doing::AwaitsLane {
            return;
        }
        let Some(first) = lane.queue.front() else {
            lane.doing = Doing::Idle;
            return;
        };
        if first.number >= durable_below {
            lane.doing = Doing::AwaitsDurable;
            self.durable_lanes.push_back((first.number, index, lane.generation));
            return;
        }
        if lane.attempts == 0 && lane.id.is_none() {
            lane.step = if id_step { Step::Id } else { Step::Record };
            lane.step_ns = first.journaled_ns;
            if id_step && let Some(id) = self.journals[lane.journal.0 as usize].journal.recovered_id(first.number) {
                lane.id = Some(id.into());
                lane.step = Step::Record;
            }
        }
        if id_step && lane.id.is_none() && !self.find_id(index) {
            return;
        }
        // Many may wait for what a lane brings that asks for all.
        let front = self.leases.is_carrier(index, self.lanes[index as usize].generation);
        self.list_ready(index, front);
    }

    pub(super) fn api_of(&self, step: Step) -> ApiId {
        if step == Step::Id { self.id_api } else { self.record_api }
    }

    /// Renders what is ready onto connections that have room, one send for all of it on each, and opens connections.
    pub(super) fn dispatch(&mut self, now: Now) {
        if self.phase == Phase::Stopping {
            return;
        }
        let pipeline = self.settings.deliver.pipeline;
        for index in 0..self.apis.len() {
            let api = ApiId(index as u8);
            if api == self.record_api
                && let Some(due_ns) = self.batch_due_ns().filter(|due_ns| *due_ns > now.mono_ns)
            {
                if std::mem::replace(&mut self.api(api).batch_due_ns, due_ns) != due_ns {
                    self.timers.set(due_ns, Timer::Api(index as u8));
                }
                self.open_connections(now, api);
                continue;
            }
            while !self.apis[index].ready.is_empty() {
                let Some(link) = self.apis[index].available.pop() else { break };
                let Some((fd, state)) = self.links.take(link) else { continue };
                let State::Api(mut conn) = state else { unreachable!("only connections to the API are listed") };
                conn.connection.listed = false;
                while conn.connection.has_room(pipeline) {
                    let Some(lane) = self.apis[index].ready.pop_front() else { break };
                    self.render(now, lane, &mut conn.connection);
                }
                if conn.connection.out.is_empty() {
                    self.list(link, &mut conn);
                } else if let Some(bytes) = self.sealed(now, link, &mut conn) {
                    conn.connection.sending = true;
                    self.counters.api_sends += 1;
                    self.ops.push_back(Op::Send { link, fd: fd.expect("an open connection has a file"), bytes });
                    self.set_api_timer(link, &mut conn.connection);
                }
                self.links.put(link, State::Api(conn));
            }
            self.open_connections(now, api);
        }
    }

    /// Opens what the ready lanes could use; one at a time while connects fail.
    fn open_connections(&mut self, now: Now, id: ApiId) {
        let max = self.settings.deliver.connections;
        let records = self.settings.deliver.batch.as_ref().map_or(1, |batch| batch.records);
        let pipeline = self.settings.deliver.pipeline * records;
        let api = self.api(id);
        if api.ready.is_empty() || now.mono_ns < api.retry_ns {
            return;
        }
        let wanted = if api.failures > 0 { 1 } else { api.ready.len().div_ceil(pipeline) };
        let mut count = wanted.saturating_sub(api.connecting).min(max.saturating_sub(api.connections.len()));
        if count > 0 {
            count = count.min(self.handshakes_allowed(now, id));
        }
        for _ in 0..count {
            let connection = Connection { idle_ns: now.mono_ns, ..Connection::default() };
            let conn = ApiLink { api: id, connection, rules: None, secure: None };
            let link = self.links.insert(None, State::Api(Box::new(conn)));
            self.counters.api_connects += 1;
            let api = self.api(id);
            api.connections.push(link);
            api.connecting += 1;
            self.ops.push_back(Op::Connect { link, to: Destination::Api(id) });
        }
    }

    /// Appends the request of a lane's current step to a connection's output.
    fn render(&mut self, now: Now, index: u32, connection: &mut Connection) {
        let batched = self.lanes[index as usize].step == Step::Record && self.settings.deliver.batch.is_some();
        if self.lanes[index as usize].step == Step::Record {
            if !batched {
                self.dissolve_batch(index);
            }
            let is_there = if batched { self.fill_batch(now, index) } else { self.take_leased_id(now, index) };
            if !is_there {
                return self.give_probe_back(now, Step::Record);
            }
        }
        let lease = if self.lanes[index as usize].step == Step::Id { self.lease_request() } else { None };
        let lane = &mut self.lanes[index as usize];
        let journal = &self.journals[lane.journal.0 as usize].journal;
        let first = lane.queue.front().expect("a ready lane has a record in memory");
        let record = journal.record(first.at);
        debug_assert_eq!(record.number, first.number);
        if lease.is_none() && !batched {
            self.key.clear();
            record.write_key(journal.core(), &mut self.key);
        }
        let origin = journal.origin(first.origin);
        let fields = Fields {
            id: lane.id.as_deref(),
            source: &origin.name,
            data: record.payload.data,
            received_wall_ns: record.payload.first_byte_wall_ns,
            key: &self.key,
        };
        match lane.step {
            Step::Id => {
                let head = self.id_head.as_ref().expect("an id step needs [sequence]");
                let body = lease.as_deref().unwrap_or("{}");
                head.write(&self.key, "-seq", body.as_bytes(), &mut connection.out);
            }
            Step::Record if batched => self.record_head.write(&self.key, "", &self.body, &mut connection.out),
            Step::Record => {
                self.body.clear();
                let rendered = self.template.render(&fields, &mut self.body);
                self.counters.lossy_records += u64::from(rendered.lossy && lane.attempts == 0);
                self.record_head.write(&self.key, "", &self.body, &mut connection.out);
            }
            Step::Confirm => {
                let confirm =
                    self.settings.deliver.answers.confirm.as_ref().expect("a lane asks where that is configured");
                self.confirm_head.write(|out| confirm.path.render(&fields, out), &mut connection.out);
            }
        }
        lane.doing = Doing::InFlight;
        let (generation, step) = (lane.generation, lane.step);
        connection.in_flight.push_back(InFlight {
            lane: index,
            generation,
            step,
            sent_ns: now.mono_ns,
            status: 0,
            typed: false,
            delivered: false,
            retry_after: None,
        });
        self.counters.api_requests += 1;
        let api = self.api_of(step);
        self.api(api).in_flight += 1;
    }

    // ---- connections

    pub(super) fn api_connected(&mut self, now: Now, link: LinkId, result: Result<Fd, String>) {
        let found = self.links.find(link).expect("looked at by the caller");
        let State::Api(conn) = &mut found.state else { unreachable!("looked at by the caller") };
        let (id, begun_ns) = (conn.api, conn.connection.idle_ns);
        match result {
            Ok(fd) => {
                found.fd = Some(fd);
                self.ops.push_back(Op::Recv { link, fd, kind: Readable::Socket });
                let Some((_, State::Api(mut conn))) = self.links.take(link) else { unreachable!("looked at above") };
                if self.api(id).tls.is_some() {
                    self.begin_handshake(now, link, &mut conn);
                } else {
                    self.api_opened(now, link, &mut conn);
                }
                self.links.put(link, State::Api(conn));
            }
            Err(problem) => {
                found.state = State::Closing;
                self.links.remove(link);
                self.connect_failed(now, link, id, begun_ns, problem);
            }
        }
    }

    /// A connection may carry requests from now on.
    pub(super) fn api_opened(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) {
        conn.connection.open = true;
        conn.connection.idle_ns = now.mono_ns;
        conn.connection.timer_ns = now.mono_ns + self.settings.deliver.idle.as_nanos() as u64;
        self.timers.set(conn.connection.timer_ns, Timer::link(link));
        let api = self.api(conn.api);
        api.connecting -= 1;
        if api.tls.is_none() {
            api.failures = 0;
        }
        self.list(link, conn);
    }

    /// A connect that had begun at `begun_ns` has failed, or its handshake has.
    pub(super) fn connect_failed(&mut self, now: Now, link: LinkId, id: ApiId, begun_ns: u64, problem: String) {
        self.counters.api_connect_failures += 1;
        let (first, max) = (self.settings.deliver.retry_first, self.settings.deliver.retry_max);
        let api = &mut self.apis[id.0 as usize];
        api.connecting -= 1;
        api.connections.retain(|other| *other != link);
        if api.failures == 0 || begun_ns > api.failed_ns {
            api.failures += 1;
            api.failed_ns = now.mono_ns;
            let wait = backoff::delay_ns(&mut self.rng, first, max, api.failures).max(1_000_000);
            api.retry_ns = now.mono_ns + wait;
            self.timers.set(now.mono_ns + wait, Timer::Api(id.0));
        }
        self.note_problem(now, id, problem);
    }

    pub(super) fn note_problem(&mut self, now: Now, id: ApiId, problem: String) {
        let api = self.api(id);
        if api.problem.as_ref() == Some(&problem) && api.said {
            return;
        }
        if now.mono_ns >= api.say_ns {
            tracing::warn!("API at {}:{}: {problem}; records wait", api.authority.host, api.authority.port);
            (api.said, api.say_ns) = (true, now.mono_ns + SAY_EVERY_NS);
        }
        api.problem = Some(problem);
    }

    pub(super) fn list(&mut self, link: LinkId, conn: &mut ApiLink) {
        if self.is_left(link, conn) {
            return;
        }
        if conn.connection.has_room(self.settings.deliver.pipeline) && !conn.connection.listed {
            conn.connection.listed = true;
            self.api(conn.api).available.push(link);
        }
    }

    pub(super) fn api_sent(
        &mut self,
        now: Now,
        link: LinkId,
        mut conn: Box<ApiLink>,
        mut bytes: Vec<u8>,
        result: Result<(), i32>,
    ) -> State {
        bytes.clear();
        match &mut conn.secure {
            None => conn.connection.out = bytes,
            Some(secure) => secure.sent(bytes),
        }
        conn.connection.sending = false;
        match result {
            Ok(()) if conn.secure.is_some() => self.secure_sent(link, &mut conn),
            Ok(()) => self.list(link, &mut conn),
            Err(errno) if !conn.connection.open => {
                let reason = std::io::Error::from_raw_os_error(errno);
                self.handshake_failed(now, link, &mut conn, format!("the TLS handshake failed: sending: {reason}"));
            }
            // What was received before is read first: it can be the answer. The read ends then, or the deadline comes.
            Err(_) => conn.connection.broken = true,
        }
        State::Api(conn)
    }

    pub(super) fn api_received(&mut self, now: Now, link: LinkId, mut conn: Box<ApiLink>, bytes: &mut [u8]) -> State {
        if conn.secure.is_some() {
            self.secure_received(now, link, &mut conn, bytes);
        } else {
            self.plain_received(now, link, &mut conn, bytes);
        }
        State::Api(conn)
    }

    /// Bytes of HTTP. Whether the connection goes on.
    pub(super) fn plain_received(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, bytes: &[u8]) -> bool {
        let mut input = bytes;
        // Moved out so that events may borrow from it while the rest is changed.
        let mut reader = std::mem::take(&mut conn.connection.reader);
        let mut end = None;
        while end.is_none() {
            if conn.connection.in_flight.is_empty() {
                if !input.is_empty() {
                    end = Some(("it sent bytes that nobody asked for".to_owned(), false));
                }
                break;
            }
            match reader.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => end = self.answer(now, conn, event),
                Err(error) => end = Some((describe(&error), false)),
            }
        }
        conn.connection.reader = reader;
        match end {
            Some((why, resend)) => {
                self.lose_connection(now, link, conn, &why, resend);
                false
            }
            None => {
                self.list(link, conn);
                true
            }
        }
    }

    /// One event of the oldest request's answer. Why the connection must close after it, and whether what is in flight may
    /// be sent again at once.
    fn answer(&mut self, now: Now, conn: &mut ApiLink, event: Event<'_>) -> Option<(String, bool)> {
        let connection = &mut conn.connection;
        match event {
            Event::Head(head) => {
                let request = connection.in_flight.front_mut().expect("looked at by the caller");
                (request.status, request.retry_after) = (head.status, head.retry_after);
                connection.body.clear();
                let deliver = &self.settings.deliver;
                request.typed = self.answer_type.is_none_or(|wanted| wanted == head.content_type);
                let good = request.step == Step::Record && deliver.success.contains(&head.status) && request.typed;
                if good && deliver.answer_id_at.is_none() {
                    request.delivered = true;
                    let (lane, generation) = (request.lane, request.generation);
                    self.delivered(now, lane, generation);
                    self.route_worked(Step::Record);
                }
                None
            }
            Event::Body(bytes) => {
                let request = connection.in_flight.front().expect("looked at by the caller");
                let deliver = &self.settings.deliver;
                let (most, whole) = match request.step {
                    Step::Id => (ID_BODY_BYTES_MAX, true),
                    Step::Confirm => (RECORD_BODY_BYTES_MAX, true),
                    Step::Record if request.delivered => (0, false),
                    Step::Record if deliver.answer_id_at.is_some() && deliver.success.contains(&request.status) => {
                        (RECORD_BODY_BYTES_MAX, true)
                    }
                    Step::Record => (ANSWER_BYTES_MAX, false),
                };
                let room = most - connection.body.len().min(most);
                if whole && bytes.len() > room {
                    return Some(self.answer_too_long(now, conn, most));
                }
                connection.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                None
            }
            Event::End { reusable } => {
                let mut request = connection.in_flight.pop_front().expect("looked at by the caller");
                connection.answered += 1;
                connection.idle_ns = now.mono_ns;
                let api = self.api(conn.api);
                api.in_flight -= 1;
                let arrived = request.step == Step::Record
                    && (request.delivered || self.shows_id(now, &mut request, &conn.connection.body));
                match request.step {
                    Step::Id => self.id_answered(now, conn.api, request, &conn.connection.body),
                    Step::Record if arrived => self.api_worked(now, conn.api),
                    Step::Record => self.refused(now, conn.api, request, &conn.connection.body),
                    Step::Confirm => self.confirm_answered(now, conn.api, request, &conn.connection.body),
                }
                let connection = &conn.connection;
                if request.status >= 300 && connection.sending && connection.in_flight.is_empty() {
                    // It need not read the rest of what it has refused, so that would never end (RFC 9112 section 9.5).
                    return Some(("it answered before it had the whole request".to_owned(), false));
                }
                (!reusable).then(|| ("it closed the connection".to_owned(), true))
            }
        }
    }

    /// The oldest request's answer is longer than what is looked at: its connection closes, and what was sent behind it goes again.
    fn answer_too_long(&mut self, now: Now, conn: &mut ApiLink, bytes_max: usize) -> (String, bool) {
        let request = conn.connection.in_flight.pop_front().expect("an answer has its request");
        conn.connection.answered += 1; // the others may go again at once
        conn.connection.idle_ns = now.mono_ns;
        self.api(conn.api).in_flight -= 1;
        if request.step == Step::Id {
            let status = request.status;
            self.failed(
                now,
                conn.api,
                request,
                format!("answered {status} to the id step with more than {bytes_max} bytes"),
            );
        } else {
            self.answer_unread(now, conn.api, request, &conn.connection.body, bytes_max);
        }
        ("an answer before this one was too long".to_owned(), true)
    }

    pub(super) fn api_worked(&mut self, now: Now, id: ApiId) {
        let api = self.api(id);
        api.last_success_ns = Some(now.mono_ns);
        api.problem = None;
        if std::mem::take(&mut api.said) {
            tracing::info!("API at {}:{}: delivering again", api.authority.host, api.authority.port);
        }
    }

    /// An id shows that a server works that gives nothing but ids; of the other one a record must.
    pub(super) fn id_api_worked(&mut self, now: Now, api: ApiId) {
        if api != self.record_api {
            self.api_worked(now, api);
        }
    }

    /// Whether the whole answer of a record step shows the record's id, where that is what success means.
    fn shows_id(&mut self, now: Now, request: &mut InFlight, body: &[u8]) -> bool {
        let deliver = &self.settings.deliver;
        let Some(pointer) = &deliver.answer_id_at else { return false };
        let lane = &self.lanes[request.lane as usize];
        let good = deliver.success.contains(&request.status) && request.typed;
        if good && lane.id.is_some() && token_at(body, pointer) == lane.id {
            request.delivered = true;
            self.delivered(now, request.lane, request.generation);
            self.route_worked(Step::Record);
        }
        request.delivered
    }

    fn id_answered(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8]) {
        if matches!(request.status, 200..=299) && self.lease_answered(now, api, request, body) {
            return;
        }
        let pointer = self.settings.sequence.as_ref().map_or("", |sequence| &sequence.id_at);
        let id = match request.status {
            200..=299 => token_at(body, pointer).ok_or_else(|| format!("no id at {pointer} of its answer")),
            _ => return self.refused(now, api, request, body),
        };
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        let first = lane.queue.front().expect("a record in flight stays in memory");
        let written = id.and_then(|id| {
            let journal = &mut self.journals[lane.journal.0 as usize].journal;
            match journal.append_id(now, first.number, &id) {
                Ok(()) => Ok(id),
                Err(_) => Err("the journal has no room for an id".to_owned()),
            }
        });
        match written {
            Ok(id) => {
                self.route_worked(Step::Id);
                self.id_api_worked(now, api);
                let lane = &mut self.lanes[request.lane as usize];
                let first = lane.queue.front().expect("a record in flight stays in memory");
                if first.journaled_ns > 0 {
                    self.stages.record(Stage::Id, now.mono_ns.saturating_sub(first.journaled_ns));
                }
                lane.id = Some(id);
                lane.step = Step::Record;
                lane.step_ns = now.mono_ns;
                lane.attempts = 0;
                lane.resent = false;
                self.make_ready(request.lane);
            }
            Err(problem) => self.failed(now, api, request, problem),
        }
    }

    /// The first record of a lane is delivered, or the batch that it carries.
    pub(super) fn delivered(&mut self, now: Now, index: u32, generation: u32) {
        let lane = &mut self.lanes[index as usize];
        assert!(lane.generation == generation && lane.doing == Doing::InFlight);
        let Some(members) = lane.batch.take() else { return self.first_delivered(now, index, 1) };
        for Member { lane, records } in members {
            self.first_delivered(now, lane, records);
        }
    }

    fn first_delivered(&mut self, now: Now, index: u32, records: usize) {
        for _ in 0..records {
            self.settle_first(now, index);
        }
        self.make_ready(index);
        self.remove_lane_if_done(index);
    }

    fn settle_first(&mut self, now: Now, index: u32) {
        let lane = &mut self.lanes[index as usize];
        let first = lane.pop().expect("a record in flight stays in memory");
        let journal = &mut self.journals[lane.journal.0 as usize].journal;
        let whole_ns = match first.journaled_ns {
            // Read back, or found at start: only the wall clock knows, and the longest ways must not be left out.
            0 => now.wall_ns.saturating_sub(journal.record(first.at).payload.first_byte_wall_ns),
            _ => now.mono_ns - first.first_byte_ns,
        };
        journal.settle(first.number, first.origin, first.at);
        self.journals[lane.journal.0 as usize].retried.remove(&first.number);
        self.stages.record(Stage::Whole, whole_ns);
        if first.journaled_ns > 0 {
            self.stages.record(Stage::Answered, now.mono_ns - lane.step_ns.max(first.journaled_ns));
        }
        lane.pending -= 1;
        lane.next_record();
        self.terms.pending -= 1;
        self.terms.delivered += 1;
    }

    /// A connection is over. What is in flight on it is sent again at once where the peer may just have closed an idle
    /// connection (RFC 9112 section 9.3.1), and fails otherwise; the key tells the receiver what it has already.
    pub(super) fn lose_connection(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, why: &str, resend: bool) {
        self.close_session(link, conn);
        self.close(link);
        let reused = conn.connection.answered > 0;
        let api = self.api(conn.api);
        api.connections.retain(|other| *other != link);
        api.available.retain(|other| *other != link);
        // The last one first: each goes to the front of the list, where the oldest comes to stand before the others.
        let in_flight = std::mem::take(&mut conn.connection.in_flight);
        for (place, request) in in_flight.into_iter().enumerate().rev() {
            self.api(conn.api).in_flight -= 1;
            if request.delivered {
                continue; // delivered with its header
            }
            if self.by_old_rules {
                self.try_by_new_rules(request);
                continue;
            }
            let lane = &mut self.lanes[request.lane as usize];
            // What was pipelined behind another request is not what made the peer close. It goes again as often as it takes: each
            // such connection has brought an answer before.
            let behind = place > 0 || request.sent_ns < conn.connection.idle_ns;
            if resend && reused && request.status == 0 && (behind || !lane.resent) {
                lane.resent |= !behind;
                self.counters.api_resent += 1;
                if self.routes[request.step as usize].0.is_probe(request.sent_ns) {
                    self.push_ready(request.lane, true);
                } else {
                    self.list_ready(request.lane, true);
                }
            } else {
                self.failed(now, conn.api, request, why.to_owned());
            }
        }
    }

    pub(super) fn api_ended(&mut self, now: Now, link: LinkId, mut conn: Box<ApiLink>, end: RecvEnd) -> State {
        let mut why = match end {
            RecvEnd::Closed | RecvEnd::Paused => "it closed the connection".to_owned(),
            RecvEnd::Error(errno) => format!("reading failed: {}", std::io::Error::from_raw_os_error(errno)),
        };
        if !conn.connection.open {
            self.handshake_failed(now, link, &mut conn, format!("the TLS handshake failed: {why}"));
            return State::Api(conn);
        }
        let whole = end == RecvEnd::Closed && conn.secure.is_none();
        if end == RecvEnd::Closed && !whole {
            why = TlsError::Truncated.to_string();
        }
        self.answers_ended(now, link, &mut conn, whole, why);
        State::Api(conn)
    }

    /// Nothing follows on a connection. `whole`: nothing was cut off either, so that an answer may end here.
    pub(super) fn answers_ended(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, whole: bool, mut why: String) {
        let mut reader = std::mem::take(&mut conn.connection.reader);
        if whole && !conn.connection.in_flight.is_empty() {
            match reader.handle_eof() {
                Ok(Some(event)) => drop(self.answer(now, conn, event)),
                Ok(None) => {}
                Err(error) => why = describe(&error),
            }
        }
        self.lose_connection(now, link, conn, &why, true);
    }

    pub(super) fn api_timer(&mut self, now: Now, link: LinkId, mut conn: Box<ApiLink>) -> State {
        if now.mono_ns < conn.connection.timer_ns {
            return State::Api(conn); // an older setting
        }
        conn.connection.timer_ns = 0;
        if !conn.connection.open {
            let limit = self.settings.deliver.connect_timeout;
            self.handshake_failed(now, link, &mut conn, format!("no whole TLS handshake within {limit:?}"));
        } else if now.mono_ns < self.api_deadline_ns(&conn.connection) {
            self.set_api_timer(link, &mut conn.connection);
        } else if conn.connection.in_flight.is_empty() {
            self.lose_connection(now, link, &mut conn, "idle", false);
        } else {
            self.answer_late(now, link, &mut conn);
        }
        State::Api(conn)
    }

    fn api_deadline_ns(&self, connection: &Connection) -> u64 {
        let (timeout, idle) = (self.settings.deliver.timeout, self.settings.deliver.idle);
        connection.deadline_ns(timeout.as_nanos() as u64, idle.as_nanos() as u64)
    }

    /// Sets a connection's timer, unless it is set for an earlier time, at which the deadline is looked at again.
    fn set_api_timer(&mut self, link: LinkId, connection: &mut Connection) {
        let due = self.api_deadline_ns(connection);
        if connection.timer_ns == 0 || due < connection.timer_ns {
            connection.timer_ns = due;
            self.timers.set(due, Timer::link(link));
        }
    }

    /// The oldest request's whole answer is late: it fails, what was sent behind it is sent again.
    fn answer_late(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) {
        let oldest = conn.connection.in_flight.pop_front().expect("looked at by the caller");
        self.api(conn.api).in_flight -= 1;
        if !oldest.delivered {
            let timeout = self.settings.deliver.timeout;
            self.failed(now, conn.api, oldest, format!("no whole answer within {timeout:?}"));
        }
        conn.connection.answered += 1; // the others may go again at once
        self.lose_connection(now, link, conn, "an answer before this one was late", true);
    }
}

fn describe(error: &ResponseError) -> String {
    format!("its answer cannot be read: {error}")
}
