//! Requests with several records: all of them are kept, or none.

use super::content::judge;
use super::sender::{RETRY_AFTER_S, Sender};
use super::source::Sources;
use crate::ground::RecordFlags;
use crate::ground::count::Stage;
use crate::http::server::{Details, Form, Piece, Request, Verdict};
use crate::journal::{Claim, Full, KeyHashes, Known, NewRecord};
use crate::observe::snapshot::Refused;
use crate::shard::store::Store;
use crate::shard::turn::{Phase, Turn};

pub(super) const NOT_JSON: Details =
    Details { came: "a record that is not JSON", allowed: "JSON (RFC 8259): data_is = \"json\"" };
pub(super) const UNDECODABLE: Details =
    Details { came: "a record that is no text in it", allowed: "text in the encoding of the source" };
const TOO_LARGE: Details =
    Details { came: "more than a block of the journal holds", allowed: "fewer records in a body" };

impl Sender {
    /// Journals the records of a body; `None` while room for them is being made, or while others have waited for room longer. Where
    /// one of them cannot be kept, none is. A body whose key is known is those records again.
    pub fn take_batch(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        sources: &mut Sources,
        (form, request): (Form, &Request<'_>),
    ) -> Option<Verdict> {
        let key = request.idempotency_key.filter(|_| store.own().remembers_keys());
        let hashes = key.map(|key| KeyHashes::of_marked(request.source, key, form.mark(), request.body));
        match hashes.and_then(|hashes| store.find_key(turn.now, hashes)) {
            Some(Known::Same(number)) => {
                turn.counters.http_repeated += 1;
                // It was taken: only its records are counted.
                let records = form.split(request.body, usize::MAX).map_or(0, |pieces| pieces.len() as u32);
                return Some(Verdict::Accepted { last_number: number.0, records, keyed: true });
            }
            Some(Known::Other) => return Some(Verdict::KeyReused),
            None => {}
        }
        let pieces = match form.split(request.body, turn.settings.limits.http.batch_records) {
            Ok(pieces) => pieces,
            Err(verdict) => return Some(verdict),
        };
        let flags = match self.judge_all(turn, sources, (request.source, &pieces)) {
            Ok(flags) => flags,
            Err(verdict) => return Some(verdict),
        };
        let sizes = || pieces.iter().map(|piece| request.headers.as_bytes().len() + piece.bytes.len());
        if !store.holds_batch(sizes()) {
            let rule = "the records of a body fit into one block of the journal";
            return Some(Verdict::Refused { status: 413, rule, details: &TOO_LARGE, part: None });
        }
        let unavailable = Verdict::Unavailable { retry_after_s: RETRY_AFTER_S };
        if turn.phase != Phase::Running {
            return Some(unavailable);
        }
        if !sources.quotas.may_take(store.scarcity(), self.peer.ip(), turn.now.mono_ns) {
            return Some(unavailable);
        }
        let room = match store.room_for_batch(turn.now, Claim::Waits, sizes()) {
            Err(Full::Lasting) => {
                sources.queue.refuse(turn.now.mono_ns);
                return Some(unavailable);
            }
            Ok(room) if !sources.queue.is_before(Claim::Waits) => room,
            Ok(_) | Err(Full::Passing) => return sources.queue.lasts().then_some(unavailable),
        };
        let (lane, origin) = self.enter_lane(turn, store, sources, request.source);
        let (now, first_byte_ns) = (turn.now, request.first_byte_ns);
        let frame_ns = now.mono_ns.saturating_sub(first_byte_ns);
        let mut records = Vec::with_capacity(pieces.len());
        for (piece, flags) in pieces.iter().zip(&flags) {
            records.push(NewRecord {
                origin,
                flags: flags.0,
                first_byte_wall_ns: now.wall_ns.saturating_sub(frame_ns),
                frame_us: (frame_ns / 1000) as u32,
                // The machine's key names all of them together, so it is no record's own.
                key: &[],
                hashes: None,
                headers: request.headers,
                data: piece.bytes,
            });
        }
        let kept = (records.as_slice(), hashes.as_ref());
        let last = store.keep_batch(turn, room, lane, kept, first_byte_ns.min(now.mono_ns));
        sources.quotas.count_taken(self.peer.ip(), sizes().sum());
        for flags in flags {
            sources.count_record(turn, self.source, flags);
            turn.stages.record(Stage::Frame, frame_ns);
            turn.stages.record(Stage::Journaled, 0);
        }
        let last_number = last.expect("a body of records has one at least").0;
        Some(Verdict::Accepted { last_number, records: pieces.len() as u32, keyed: hashes.is_some() })
    }

    /// The flags of all records, or what the request is answered if one of them cannot be kept.
    fn judge_all(
        &self,
        turn: &mut Turn<'_>,
        sources: &mut Sources,
        (name, pieces): (&str, &[Piece<'_>]),
    ) -> Result<Vec<RecordFlags>, Verdict> {
        let mut all = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let none = RecordFlags::default();
            match judge(turn.settings, turn.source(self.source), piece.bytes, none) {
                Ok(flags) => all.push(flags),
                Err(refused) => {
                    sources.refuse(turn, self.source, refused, none, piece.bytes);
                    turn.machines.rejected(turn.now, &turn.source(self.source).name, name);
                    let (rule, details) = match refused {
                        Refused::NotJson => ("each record of the body is JSON", &NOT_JSON),
                        _ => ("each record of the body is text in the encoding of its source", &UNDECODABLE),
                    };
                    return Err(Verdict::Refused { status: 400, rule, details, part: Some(piece.part) });
                }
            }
        }
        Ok(all)
    }
}
