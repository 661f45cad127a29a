//! A configuration takes the place of another one while the shard runs.
//!
//! - Sources keep their ids. One that is removed is *retired*: it takes no more connections, those that it has are ended in order, its
//!   records are delivered. Its place is free for another source once [`Reloaded::in_use`] no longer names it. A source of which
//!   anything has changed is retired, and begins anew under another id; a port is opened again once it is closed.
//! - What is on its way to the API is judged by the rules it was sent by ([`Rules`]); all else goes by the new ones at once, under the
//!   keys and ids that it has.

use super::deliver::Api;
use super::intake::SourceState;
use super::lane::{Doing, Lane};
use super::link::{ApiLink, State, Stream};
use super::timer::Timer;
use super::{ApiId, Fd, LinkId, Now, Op, Phase, Shard, SourceId, request_head};
use crate::config::{Flow, LaneKey, Settings, SourceKind, Url};
use crate::delivery::template::Template;
use crate::delivery::{InFlight, Step};
use crate::http::client::{GetHead, MediaType};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// How long what a machine has sent already may still come after it was told that its connection ends.
const LEAVE_NS: u64 = 1_000_000_000;
/// Authorities that an [`ApiId`] can tell apart.
const APIS_MAX: usize = 256;

/// What takes the place of a shard's settings.
#[derive(Debug)]
pub struct Reload {
    /// The new settings. In [`Settings::sources`] every source that goes on, and every retired one that is still in use, stands where
    /// it stood.
    pub settings: Arc<Settings>,
    /// Sources to be retired, of all cores.
    pub retired: Vec<SourceId>,
    /// Sources that begin on this core.
    pub started: Vec<SourceId>,
}

/// What became of a [`Reload`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// It is in force; not if the shard is about to stop.
    pub applied: bool,
    /// Records that were tried before under another template or another way to an id.
    pub tried: u64,
    /// Retired sources whose connections or records still need their place.
    pub in_use: Vec<SourceId>,
}

/// What answers to earlier requests are judged by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Only `[deliver]` and `[sequence]` of it count; the ids of its sources are not the present ones.
    settings: Arc<Settings>,
    answer_type: Option<MediaType>,
    /// What TLS is made by has changed since: the connection is not used again.
    other_tls: bool,
}

impl Shard {
    /// Takes over other settings, between two turns. What needs a restart must be as it was.
    pub fn reload(&mut self, now: Now, reload: Reload) -> Reloaded {
        if matches!(self.phase, Phase::Draining | Phase::Stopping) {
            return Reloaded::default();
        }
        let Reload { settings, retired, started } = reload;
        let old = std::mem::replace(&mut self.settings, settings);
        self.source_index.resize(self.settings.sources.len(), None);
        for id in retired {
            self.retire(now, id);
        }
        for id in started {
            self.add_source(now, id);
        }
        if self.phase == Phase::Running {
            self.accept_early(now);
        }
        self.bury();
        let live: Vec<SourceId> =
            self.sources.iter().filter(|source| !source.retired).map(|source| source.id).collect();
        self.held_bytes_max = super::pressure::held_bytes_max(&self.settings, &live);
        if old.limits.connections != self.settings.limits.connections {
            self.fit_connections();
        }
        let tried = if old.deliver != self.settings.deliver || old.sequence != self.settings.sequence {
            self.change_delivery(now, &old)
        } else {
            0
        };
        let in_use = self.sources.iter().filter(|source| source.retired).map(|source| source.id).collect();
        Reloaded { applied: true, tried, in_use }
    }

    /// Whether this core runs a source, which is not retired.
    pub(super) fn runs(&self, id: SourceId) -> bool {
        let index = self.source_index.get(usize::from(id.0)).copied().flatten();
        index.is_some_and(|index| !self.sources[index].retired)
    }

    /// A connection of a source that this core does not run: retired, or that it will hear of in a moment.
    pub(super) fn handle_accepted_elsewhere(&mut self, id: SourceId, fd: Fd, peer: SocketAddr) {
        let is_known = self.source_index.get(usize::from(id.0)).copied().flatten().is_some();
        if is_known || matches!(self.phase, Phase::Draining | Phase::Stopping) {
            self.turn_away(id, fd, peer);
        } else {
            self.early.push((id, fd, peer));
        }
    }

    // ---- sources

    fn fit_connections(&mut self) {
        if self.machine_connections >= self.settings.limits.connections {
            self.pause_accept("the limit of connections is reached");
            return;
        }
        let ids: Vec<SourceId> = self.sources.iter().map(|source| source.id).collect();
        for id in ids {
            if matches!(self.source_kind(id), SourceKind::TcpListen { .. } | SourceKind::Http { .. }) && self.runs(id) {
                self.source(id).problem = None;
                self.resume_accept(id);
            }
        }
    }

    /// A source takes nothing new. What it has received is delivered.
    fn retire(&mut self, now: Now, id: SourceId) {
        if !self.runs(id) {
            return; // a port of another core
        }
        self.bury_due = true;
        let source = self.source(id);
        (source.retired, source.problem, source.silent, source.reopen_ns) = (true, None, false, None);
        if std::mem::take(&mut source.accepting) {
            self.ops.push_back(Op::PauseAccept { source: id });
        }
        let own = |state: &State| match state {
            State::Stream(stream) => stream.source == id,
            State::Http(machine) => machine.source == id,
            _ => false,
        };
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| own(&link.state)).map(|(id, _)| id).collect();
        for link in links {
            let Some((_, state)) = self.links.take(link) else { continue };
            let state = match state {
                State::Stream(stream) => self.retire_stream(now, link, stream),
                State::Http(machine) => self.stop_machine(link, machine),
                state => state,
            };
            self.links.put(link, state);
        }
        if self.source(id).link.is_none() {
            self.leave_source_lane(id);
        }
    }

    /// A socket's peer is told that this is the end, and what it has sent by then is taken; a port is closed at once. What a full
    /// journal holds back goes first in either case.
    fn retire_stream(&mut self, now: Now, link: LinkId, mut stream: Box<Stream>) -> State {
        let fd = self.links.find(link).and_then(|found| found.fd);
        match fd {
            // Its open or connect is under way.
            None => {
                self.close(link);
                self.leave_source_lane(stream.source);
            }
            Some(_) if stream.ended => {}
            Some(fd) if stream.parmrk.is_none() => {
                self.ops.push_back(Op::Shutdown { link, fd });
                stream.leaving_ns = now.mono_ns + LEAVE_NS;
                self.timers.set(stream.leaving_ns, Timer::link(link));
            }
            Some(_) => self.end_retired_stream(now, link, &mut stream),
        }
        State::Stream(stream)
    }

    /// The end of a stream that no longer belongs to the configuration, now or when the journal has room for what it has sent.
    pub(super) fn end_retired_stream(&mut self, now: Now, link: LinkId, stream: &mut Stream) {
        if !self.must_wait(now, link, stream) {
            self.finish_stream(now, link, stream, "the source was removed");
            return;
        }
        stream.ended = true;
        if stream.flow == Some(Flow::None) && stream.reading {
            self.ops.push_back(Op::PauseRecv { link });
        }
    }

    /// The port or outgoing connection of a retired source is over; its link is still to be closed.
    pub(super) fn retired_stream_ended(&mut self, id: SourceId) {
        self.source(id).connected = false;
        self.leave_source_lane(id);
    }

    fn leave_source_lane(&mut self, id: SourceId) {
        let source = self.source(id);
        if let (Some(lane), Some(origin)) = (source.lane.take(), source.origin.take()) {
            self.leave_lane(lane, origin);
        }
    }

    /// A link's file is closed: a source that waits for a port begins.
    pub(super) fn link_closed(&mut self, link: LinkId) {
        let Some(source) = self.sources.iter_mut().find(|source| source.retired && source.link == Some(link)) else {
            return;
        };
        let id = source.id;
        source.link = None;
        self.bury_due = true;
        let heirs: Vec<SourceId> = self
            .sources
            .iter_mut()
            .filter(|source| source.waits_for == Some(id))
            .map(|source| {
                source.waits_for = None;
                source.id
            })
            .collect();
        for heir in heirs {
            self.reopen(heir);
        }
    }

    fn add_source(&mut self, now: Now, id: SourceId) {
        let name = &self.settings.sources[id.0 as usize].name;
        let mut source = SourceState::new(id, now);
        // A line has one reader at a time, and the records of the earlier one come first.
        let same = |other: &&SourceState| {
            other.retired && other.link.is_some() && self.settings.sources[other.id.0 as usize].name == *name
        };
        source.waits_for = self.sources.iter().find(same).map(|other| other.id);
        self.source_index[id.0 as usize] = Some(self.sources.len());
        self.sources.push(source);
        self.find_lanes_of(now, id);
        if self.phase == Phase::Running {
            self.start_source(now, id);
        }
    }

    /// What the journals still hold of a source of this name goes before its new records.
    fn find_lanes_of(&mut self, now: Now, id: SourceId) {
        let name = self.settings.sources[id.0 as usize].name.clone();
        let mut seen = HashSet::new();
        for journal in (1..self.journals.len()).chain([0]) {
            let state = &self.journals[journal];
            let mut found = Vec::new();
            for (reference, origin, pending) in state.journal.origins() {
                if pending == 0 || *origin.source != *name {
                    continue;
                }
                // What was parked and is delivered after all has a lane of its own, and may be all that is left of an origin.
                let Some(&lane) = state.origin_lanes.get(reference.0 as usize) else { continue };
                let is_there = |lane: &Lane| {
                    !lane.brought_back && usize::from(lane.journal.0) == journal && lane.number == origin.lane
                };
                if self.lanes.get(lane as usize).is_some_and(is_there) {
                    found.push((origin.lane, origin.name.to_string(), lane));
                }
            }
            // Lanes that were at work side by side have no order to keep; what is under way cannot be told to wait.
            found.sort_unstable_by_key(|(number, _, lane)| (!self.is_under_way(*lane), *number));
            found.dedup();
            for (_, name, lane) in found {
                if !seen.insert(name.clone()) && self.is_under_way(lane) {
                    continue;
                }
                self.adopt_lane(id, &name, lane);
                if self.lanes[lane as usize].doing == Doing::AwaitsLane {
                    let is_listed = self.apis.iter().any(|api| api.ready.contains(&lane));
                    self.apis.iter_mut().for_each(|api| api.ready.retain(|other| *other != lane));
                    if is_listed {
                        self.give_probe_back(now, self.lanes[lane as usize].step);
                    }
                    self.routes.iter_mut().for_each(|(_, held)| held.retain(|other| *other != lane));
                }
            }
        }
        // Connections of addresses that have sent nothing lately share their lanes, too.
        let is_lane = |kind: &SourceKind| matches!(kind, SourceKind::TcpListen { lane: LaneKey::Address, .. });
        if is_lane(self.source_kind(id)) {
            let retired = |other: SourceId| other != id && self.settings.sources[other.0 as usize].name == name;
            let found: Vec<(IpAddr, u32)> = self
                .address_lanes
                .iter()
                .filter(|((other, _), _)| retired(*other))
                .map(|((_, address), lane)| (*address, *lane))
                .collect();
            for (address, lane) in found {
                self.address_lanes.entry((id, address)).or_insert(lane);
            }
        }
    }

    /// Whether a lane cannot be told to wait for another one: others may wait for it.
    fn is_under_way(&self, index: u32) -> bool {
        let lane = &self.lanes[index as usize];
        matches!(lane.doing, Doing::InFlight | Doing::InBatch)
            || lane.batch.is_some()
            || self.leases.is_carrier(index, lane.generation)
    }

    /// Frees the places of retired sources that nothing belongs to any more. Their counts go on in the source that has their name.
    pub(super) fn bury(&mut self) {
        if !std::mem::take(&mut self.bury_due) {
            return;
        }
        let addresses = &self.address_lanes;
        let needed = |source: &SourceState| {
            !source.retired
                || source.link.is_some()
                || source.open > 0
                || addresses.keys().any(|(id, _)| *id == source.id)
        };
        let (kept, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sources).into_iter().partition(needed);
        self.sources = kept;
        self.source_index.fill(None);
        for (index, source) in self.sources.iter().enumerate() {
            self.source_index[source.id.0 as usize] = Some(index);
        }
        for done in done {
            let configured = &self.settings.sources;
            let name = &configured[done.id.0 as usize].name;
            let of_name = |source: &&mut SourceState| configured[source.id.0 as usize].name == *name;
            if let Some(heir) = self.sources.iter_mut().find(of_name) {
                heir.inherit(done);
            }
        }
    }

    // ---- delivery

    /// New rules for what is sent from now on. How many records were tried under another template.
    fn change_delivery(&mut self, now: Now, old: &Arc<Settings>) -> u64 {
        // The place of an API that is not used any more can be another's in a moment.
        let listed: Vec<u32> = self.apis.iter_mut().flat_map(|api| std::mem::take(&mut api.ready)).collect();
        let settings = Arc::clone(&self.settings);
        let (deliver, has_ids) = (&settings.deliver, settings.sequence.is_some());
        let answer_type = deliver.answer_type.as_ref().map(|name| MediaType::parse(name.as_bytes()));
        let answer_type = std::mem::replace(&mut self.answer_type, answer_type);
        self.template = Template::parse(&deliver.body, has_ids).expect("settings are checked");
        self.record_head = request_head(&deliver.url, &deliver.content_type, &deliver.headers);
        let id_head = |url| request_head(url, "application/json", &deliver.headers);
        self.confirm_head = GetHead::new(&deliver.url.host_header, &deliver.headers).expect("settings are checked");
        self.asks = deliver.answers.confirm.is_some();
        self.id_head = settings.sequence.as_ref().map(|sequence| id_head(&sequence.url));
        self.record_api = self.api_at(now, &deliver.url);
        self.id_api = match &settings.sequence {
            Some(sequence) => self.api_at(now, &sequence.url),
            None => self.record_api,
        };
        let other_tls = deliver.tls != old.deliver.tls;
        self.keep_rules(Rc::new(Rules { settings: Arc::clone(old), answer_type, other_tls }));
        let is_other = deliver.body != old.deliver.body
            || deliver.content_type != old.deliver.content_type
            || has_ids != old.sequence.is_some();
        let tried = |shard: &Self| {
            let posted = |lane: &Lane| {
                lane.step != Step::Id
                    && (lane.attempts > 0 || lane.resent || matches!(lane.doing, Doing::InFlight | Doing::InBatch))
            };
            shard.lanes.iter().filter(|(_, lane)| posted(lane)).count() as u64
        };
        let tried = if is_other { tried(self) } else { 0 };
        let for_ids = self.change_leases(old);
        self.list_all([for_ids, listed].concat());
        tried
    }

    /// The API that a URL leads to: one that there is, a free place, or a new one.
    fn api_at(&mut self, now: Now, url: &Url) -> ApiId {
        if let Some(index) = self.apis.iter().position(|api| api.serves(url)) {
            return ApiId(index as u8);
        }
        let others = |shard: &Self| {
            (0..shard.apis.len() as u8).map(ApiId).filter(|id| !shard.is_current(*id)).collect::<Vec<_>>()
        };
        let mut free = others(self).into_iter().find(|id| self.api(*id).connections.is_empty());
        if free.is_none() && self.apis.len() == APIS_MAX {
            // So many addresses within the time of an answer: the requests to one of them go out again.
            free = others(self).pop();
            let left = free.map_or(Vec::new(), |id| self.api(id).connections.clone());
            for link in left {
                let Some((_, State::Api(mut conn))) = self.links.take(link) else { continue };
                self.by_old_rules = true;
                self.lose_connection(now, link, &mut conn, "the configuration has changed", true);
                self.by_old_rules = false;
                self.links.put(link, State::Api(conn));
            }
        }
        let api = Api::new(url);
        match free {
            Some(id) => *self.api(id) = api,
            None => self.apis.push(api),
        }
        free.unwrap_or(ApiId((self.apis.len() - 1) as u8))
    }

    pub(super) fn is_current(&self, api: ApiId) -> bool {
        api == self.record_api || api == self.id_api
    }

    /// Connections with requests on them are kept for the answers alone, idle ones to where nothing is sent any more are closed.
    fn keep_rules(&mut self, rules: Rc<Rules>) {
        let is_api = |state: &State| matches!(state, State::Api(_));
        let links: Vec<LinkId> = self.links.iter().filter(|(_, link)| is_api(&link.state)).map(|(id, _)| id).collect();
        for link in links {
            let Some((_, State::Api(mut conn))) = self.links.take(link) else { continue };
            if !conn.connection.in_flight.is_empty() {
                self.api(conn.api).available.retain(|other| *other != link);
                conn.connection.listed = false;
                let rules = match conn.rules.take() {
                    None => Rc::clone(&rules),
                    Some(older) if older.other_tls || !rules.other_tls => older,
                    Some(older) => Rc::new(Rules { other_tls: true, ..Rules::clone(&older) }),
                };
                conn.rules = Some(rules);
            } else if !self.is_current(conn.api) || rules.other_tls && self.api(conn.api).tls.is_some() {
                self.close_api(link, &mut conn);
            }
            self.links.put(link, State::Api(conn));
        }
    }

    /// Closes a connection to the API that nothing is in flight on.
    fn close_api(&mut self, link: LinkId, conn: &mut ApiLink) {
        self.leave_handshake(link, conn);
        let api = self.api(conn.api);
        api.connecting -= usize::from(!conn.connection.open);
        api.connections.retain(|other| *other != link);
        api.available.retain(|other| *other != link);
        self.close(link);
    }

    /// Whether a connection takes no requests: answers to earlier ones are still to come, or it leads to where nothing is sent any more.
    pub(super) fn is_left(&mut self, link: LinkId, conn: &mut ApiLink) -> bool {
        if conn.rules.is_none() {
            return false;
        }
        if !conn.connection.in_flight.is_empty() || conn.connection.sending {
            return true;
        }
        let other_tls = conn.rules.take().is_some_and(|rules| rules.other_tls) && conn.secure.is_some();
        let is_left = other_tls || !self.is_current(conn.api);
        if is_left {
            self.close_api(link, conn);
        }
        is_left
    }

    /// Does `work` on a connection by the rules that its requests were sent by.
    pub(super) fn by_rules<T>(&mut self, conn: Box<ApiLink>, work: impl FnOnce(&mut Self, Box<ApiLink>) -> T) -> T {
        let Some(rules) = conn.rules.clone() else { return work(self, conn) };
        let settings = std::mem::replace(&mut self.settings, Arc::clone(&rules.settings));
        let answer_type = std::mem::replace(&mut self.answer_type, rules.answer_type);
        self.by_old_rules = true;
        let done = work(self, conn);
        self.by_old_rules = false;
        (self.settings, self.answer_type) = (settings, answer_type);
        done
    }

    /// A request of an earlier configuration failed: its record goes out again by the present one.
    pub(super) fn try_by_new_rules(&mut self, request: InFlight) {
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        lane.attempts = lane.attempts.saturating_add(1);
        lane.resent = false;
        self.make_ready(request.lane);
    }

    /// Whatever waits to be sent (`waiting`: on no list) may go now, by the new rules: what held it back may be what was changed.
    fn list_all(&mut self, mut waiting: Vec<u32>) {
        waiting.extend(self.apis.iter_mut().flat_map(|api| std::mem::take(&mut api.ready)));
        for (route, held) in &mut self.routes {
            *route = Default::default();
            waiting.extend(std::mem::take(held));
        }
        // One in backoff may have given back the record that it waits with.
        let in_backoff = self.lanes.iter().filter(|(_, lane)| lane.doing == Doing::Backoff);
        waiting.extend(in_backoff.map(|(index, _)| index as u32));
        for api in &mut self.apis {
            (api.failures, api.retry_ns) = (0, 0);
        }
        for lane in waiting {
            self.make_ready(lane);
        }
    }

    /// What the open connections to the API and those to come are made by differs.
    pub fn needs_tls(&self, settings: &Settings) -> bool {
        self.settings.deliver.tls != settings.deliver.tls
    }

    /// A lane whose record was about to be sent by rules that had another first step takes the present one.
    pub(super) fn fit_step(&mut self, index: u32) {
        let with_ids = self.id_head.is_some();
        let lane = &self.lanes[index as usize];
        if with_ids && lane.id.is_none() && lane.batch.is_some() {
            // Put together when records had no ids.
            self.dissolve_batch(index);
        }
        let lane = &mut self.lanes[index as usize];
        if lane.step == Step::Confirm && !self.asks {
            (lane.step, lane.refusal) = (Step::Record, None);
        }
        match lane.step {
            Step::Id if !with_ids => (lane.step, lane.attempts) = (Step::Record, 0),
            // It takes an id of those that were given ahead when it is sent.
            Step::Record | Step::Confirm if self.leases.are_in_force() && lane.id.is_none() => lane.step = Step::Record,
            Step::Record | Step::Confirm if with_ids && lane.id.is_none() => {
                let first = lane.queue.front().expect("a lane that is listed has a record in memory");
                let recovered = self.journals[lane.journal.0 as usize].journal.recovered_id(first.number);
                lane.id = recovered.map(Into::into);
                if lane.id.is_none() {
                    (lane.step, lane.attempts, lane.refusal) = (Step::Id, 0, None);
                }
            }
            _ => {}
        }
    }
}
