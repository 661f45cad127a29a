//! Who sends requests on one connection: each body becomes a record of its SOURCE's lane, or
//! several (`batches`), unless its key says that it is one already. The connection may be another core's.

use super::batches::{NOT_JSON, UNDECODABLE};
use super::content::judge;
use super::places::Place;
use super::quotas::Beyond;
use super::source::Sources;
use crate::config::LaneKey;
use crate::ground::count::Stage;
use crate::ground::{LaneId, RecordFlags, SourceId};
use crate::http::server::{Details, Form, Request, TryLater, Verdict};
use crate::journal::{Claim, Full, Identity, KEY_HASHES_BYTES, KeyHashes, Known, NewRecord, OriginRef};
use crate::observe::snapshot::Refused;
use crate::shard::refusals::{Refusal, reason_of};
use crate::shard::store::Store;
use crate::shard::turn::{Phase, Turn};
use std::net::SocketAddr;

/// What a machine is told to wait when the journal is full.
pub(super) const RETRY_AFTER_S: u32 = 1;

/// Who sends on a connection, and the lane that its records go into.
#[derive(Debug)]
pub(super) struct Sender {
    pub source: SourceId,
    /// The machine of the request that is read: the other end of the connection, or whom a proxy there tells of.
    pub peer: SocketAddr,
    /// The lanes and names under which requests came lately, the last one first. With a lane of the
    /// connection's own it is one.
    entered: Vec<(LaneId, OriginRef)>,
}

static TOO_MANY_REQUESTS: TryLater = TryLater {
    status: 429,
    rule: "a SOURCE sends no more requests a second than its listener takes",
    details: Details {
        came: "more requests",
        allowed: "requests_per_second of the listener, a second's worth at once",
    },
};
static TOO_MANY_BYTES: TryLater = TryLater {
    status: 429,
    rule: "a SOURCE sends no more bytes a second than its listener takes",
    details: Details { came: "more bytes", allowed: "bytes_per_second of the listener, a second's worth at once" },
};

/// What a SOURCE is answered that sends more than it may.
fn too_much(beyond: Beyond) -> Verdict {
    let (what, wait_ns) = match beyond {
        Beyond::Requests { wait_ns } => (&TOO_MANY_REQUESTS, wait_ns),
        Beyond::Bytes { wait_ns } => (&TOO_MANY_BYTES, wait_ns),
    };
    Verdict::TryLater { what, retry_after_s: wait_ns.div_ceil(1_000_000_000) as u32 }
}

/// So many lanes a connection keeps: behind a proxy it may carry the requests of many machines.
const ENTERED_MAX: usize = 64;

impl Sender {
    pub fn new(source: SourceId, peer: SocketAddr) -> Self {
        Self { source, peer, entered: Vec::new() }
    }

    /// It sends no more; its records stay.
    pub fn leave(&mut self, store: &mut Store) {
        for (lane, origin) in std::mem::take(&mut self.entered) {
            store.leave_lane(lane, origin);
        }
    }

    /// Journals the body of a request as a record; `None` while room for it is being made, or while
    /// others have waited for room longer. One whose key is known is that record again: it is
    /// answered as that was, once that is as durable as configured.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        request: &Request<'_>,
    ) -> Option<Verdict> {
        let sent = (self.source, request.source, request.body.len());
        let allowed = &turn.source(self.source).access.quotas;
        let verdict = match sources.quotas.may_send(allowed, sent, turn.now.mono_ns) {
            Err(beyond) => Some(too_much(beyond)),
            Ok(()) => {
                let verdict = self.try_take(turn, store, sources, request);
                // What waits for room is asked again.
                if verdict.is_some() {
                    sources.quotas.count_sent(allowed, sent, turn.now.mono_ns);
                }
                verdict
            }
        };
        if let Some(verdict) = verdict {
            self.note(turn, request, verdict);
        }
        verdict
    }

    /// Tells of a request if it is refused.
    pub fn note(&self, turn: &mut Turn<'_>, request: &Request<'_>, verdict: Verdict) {
        if let Some((status, words)) = verdict.refusal() {
            let line = format!("/v1/records/{}", request.source);
            turn.refuse(&Refusal {
                source: self.source,
                reason: reason_of(status, words),
                words,
                peer: Some(self.peer),
                machine: Some(request.source),
                line: &line,
            });
        }
    }

    fn try_take(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        request: &Request<'_>,
    ) -> Option<Verdict> {
        let form = Form::of(request.content_type, request.body, &turn.source(self.source).forms);
        if form != Form::Record {
            return self.take_batch(turn, store, sources, (form, request));
        }
        let now = turn.now;
        let key = request.idempotency_key.unwrap_or_default();
        let hashes =
            (!key.is_empty() && store.own().remembers_keys()).then(|| KeyHashes::of(request.source, key, request.body));
        match hashes.and_then(|hashes| store.find_key(now, hashes)) {
            Some(Known::Same(number)) => {
                turn.counters.http_repeated += 1;
                return Some(Verdict::Accepted { last_number: number.0, records: 1, keyed: true });
            }
            Some(Known::Other) => return Some(Verdict::KeyReused),
            None => {}
        }
        let configured = turn.source(self.source);
        let flags = match judge(turn.settings, configured, request.body, RecordFlags::default()) {
            Ok(flags) => flags,
            Err(refused) => {
                sources.refuse(turn, self.source, refused, RecordFlags::default(), request.body);
                turn.machines.rejected(turn.now, &configured.name, request.source);
                let (rule, details) = match refused {
                    Refused::NotJson => ("the body is JSON", &NOT_JSON),
                    _ => ("the body is text in the encoding of its source", &UNDECODABLE),
                };
                return Some(Verdict::Refused { status: 400, rule, details, part: None });
            }
        };
        let unavailable = Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
        if turn.phase != Phase::Running {
            return Some(unavailable);
        }
        let headers = request.headers;
        let bytes = hashes.map_or(0, |_| KEY_HASHES_BYTES) + headers.as_bytes().len() + key.len() + request.body.len();
        if !sources.quotas.may_take(store.scarcity(), self.peer.ip(), turn.now.mono_ns) {
            return Some(unavailable);
        }
        let room = match store.room_or_full(now, Claim::Waits, bytes) {
            Err(Full::Lasting) => {
                sources.queue.refuse(now.mono_ns);
                return Some(unavailable);
            }
            Ok(room) if !sources.queue.is_before(Claim::Waits) => room,
            Ok(_) | Err(Full::Passing) => return sources.queue.lasts().then_some(unavailable),
        };
        let (lane, origin) = self.enter_lane(turn, store, sources, request.source);
        let first_byte_ns = request.first_byte_ns;
        let frame_ns = now.mono_ns.saturating_sub(first_byte_ns);
        let record = NewRecord {
            origin,
            flags: flags.0,
            first_byte_wall_ns: now.wall_ns.saturating_sub(frame_ns),
            frame_us: (frame_ns / 1000) as u32,
            key,
            hashes: hashes.as_ref(),
            headers,
            data: request.body,
        };
        let number = store.keep(turn, room, lane, record, first_byte_ns.min(now.mono_ns));
        sources.quotas.count_taken(self.peer.ip(), bytes);
        sources.count_record(turn, self.source, flags);
        turn.stages.record(Stage::Frame, frame_ns);
        turn.stages.record(Stage::Journaled, 0);
        Some(Verdict::Accepted { last_number: number.0, records: 1, keyed: hashes.is_some() })
    }

    /// The lane and the origin of a record under a name.
    pub(super) fn enter_lane(
        &mut self,
        turn: &Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        name: &str,
    ) -> (LaneId, OriginRef) {
        let configured = turn.source(self.source);
        let is_same = |(_, origin): &(LaneId, OriginRef)| {
            let who = &store.own().origin(*origin).who;
            who.name() == name && who.peer() == Some(self.peer) && who.decoding() == configured.decoding
        };
        if let Some(at) = self.entered.iter().position(is_same) {
            self.entered[..=at].rotate_right(1);
            return self.entered[0];
        }
        let place = match configured.kind.lane() {
            LaneKey::Source => Some(Place::Name(name)),
            LaneKey::Address => Some(Place::Address(self.peer.ip())),
            LaneKey::Connection => None,
        };
        let lane = match (place, self.entered.first()) {
            (Some(place), _) => sources.enter_place(store, self.source, place, true),
            (None, Some((lane, _))) => *lane,
            (None, None) => store.new_lane(true),
        };
        let who = Identity::of(&configured.name, name, Some(self.peer), configured.decoding);
        let origin = store.open_origin(lane, who);
        let kept = if place.is_some() { ENTERED_MAX - 1 } else { 0 };
        for (lane, origin) in self.entered.drain(kept.min(self.entered.len())..) {
            store.leave_lane(lane, origin);
        }
        self.entered.insert(0, (lane, origin));
        (lane, origin)
    }
}
