//! Another configuration of the delivery while it runs.
//!
//! What is on its way to the API is judged by the rules that it was sent by; all else goes by the
//! new ones at once, under the keys and ids that it has.

use super::connection::{ApiLink, Earlier};
use super::dispatcher::Dispatcher;
use super::outbox::APIS_MAX;
use super::problem::Loss;
use super::rules::Rules;
use super::{Delivery, Lent};
use crate::config::{Settings, Url};
use crate::delivery::Step;
use crate::ground::{ApiId, LaneId, LinkId};
use crate::shard::links::Kind;
use crate::shard::store::{State, Store};
use crate::shard::turn::Turn;
use std::rc::Rc;
use std::sync::Arc;

impl Delivery {
    /// New rules for what is sent from now on. How many records were tried under another template.
    pub fn reload(&mut self, turn: &mut Turn<'_>, store: &mut Store, settings: &Arc<Settings>) -> u64 {
        if !self.rules.differ(settings) {
            return 0;
        }
        // The place of an API that is not used any more can be another's in a moment.
        let listed = self.dispatcher.outbox.take_ready();
        let old = std::mem::replace(&mut self.rules, Rc::new(Rules::new(Arc::clone(settings))));
        let record_api = self.api_at(turn, store, &old, &settings.deliver.url);
        self.dispatcher.outbox.set_record_api(record_api);
        let id_api = match &settings.sequence {
            Some(sequence) => self.api_at(turn, store, &old, &sequence.url),
            None => record_api,
        };
        self.dispatcher.outbox.set_id_api(id_api);
        self.keep_rules(turn, &old);
        let tried = match self.rules.sends_otherwise(&old) {
            true => store.lanes().filter(|(_, lane)| lane.was_posted()).count() as u64,
            false => 0,
        };
        let for_ids = self.dispatcher.leases.change(store, &old, &self.rules);
        self.list_all(turn, store, &old, [for_ids, listed].concat());
        tried
    }

    /// The API that a URL leads to: one that there is, a free place, or a new one.
    fn api_at(&mut self, turn: &mut Turn<'_>, store: &mut Store, old: &Rules, url: &Url) -> ApiId {
        let outbox = &self.dispatcher.outbox;
        if let Some(id) = outbox.find(url) {
            return id;
        }
        let others: Vec<ApiId> = outbox.ids().filter(|id| !outbox.is_current(*id)).collect();
        let mut free = others.iter().copied().find(|id| outbox.api(*id).connections().is_empty());
        if free.is_none() && outbox.ids().count() == APIS_MAX {
            // So many addresses within the time of an answer: the requests to one of them go out
            // again.
            free = others.last().copied();
            let left = free.map_or(Vec::new(), |id| outbox.api(id).connections().to_vec());
            for link in left.into_iter().filter(|link| turn.links.is_open(*link, Kind::Api)).collect::<Vec<_>>() {
                let Self { rules: present, connections, dispatcher } = self;
                let mut lent = Lent { turn, store, rules: old, present };
                dispatcher.lose_connection(&mut lent, (link, connections.of(link)), &Loss::Reconfigured, true);
            }
        }
        self.dispatcher.outbox.add(url, free)
    }

    /// Connections with requests on them are kept for the answers alone, idle ones to where nothing
    /// is sent any more are closed.
    fn keep_rules(&mut self, turn: &mut Turn<'_>, old: &Rc<Rules>) {
        let Self { rules, connections, dispatcher } = self;
        let other_tls = rules.deliver().tls != old.deliver().tls;
        let links: Vec<LinkId> = turn.links.of_kind(Kind::Api).collect();
        for link in links {
            let conn: &mut ApiLink = connections.of(link);
            if !conn.connection.in_flight.is_empty() {
                dispatcher.outbox.api_mut(conn.api).take_back(link);
                conn.connection.listed = false;
                let earlier = conn.earlier.get_or_insert_with(|| Earlier { rules: Rc::clone(old), other_tls: false });
                earlier.other_tls |= other_tls;
            } else if !dispatcher.outbox.is_current(conn.api)
                || other_tls && dispatcher.outbox.api(conn.api).tls().is_some()
            {
                dispatcher.close_idle(turn, link, conn);
            }
        }
    }

    /// Whatever waits to be sent (`waiting`: on no list) may go now, by the new rules: what held it
    /// back may be what was changed.
    fn list_all(&mut self, turn: &mut Turn<'_>, store: &mut Store, old: &Rules, mut waiting: Vec<LaneId>) {
        let Self { rules: present, dispatcher, .. } = self;
        waiting.extend(dispatcher.outbox.take_ready());
        waiting.extend(dispatcher.outbox.release_held());
        // One in backoff may have given back the record that it waits with.
        waiting.extend(store.lanes().filter(|(_, lane)| lane.state() == State::Backoff).map(|(id, _)| id));
        for id in dispatcher.outbox.ids() {
            dispatcher.outbox.api_mut(id).try_at_once();
        }
        // Their steps are of the old rules.
        let mut lent = Lent { turn, store, rules: old, present };
        for lane in waiting {
            dispatcher.admit(&mut lent, lane);
        }
        fit_unlisted(dispatcher, &mut lent);
    }
}

/// A lane whose record was about to be sent by rules that had another first step takes the present
/// one.
pub(super) fn fit(dispatcher: &mut Dispatcher, lent: &mut Lent<'_, '_>, lane: LaneId) {
    let (has_ids, asks) = (lent.present.has_ids(), lent.present.asks());
    if has_ids && lent.store.lane(lane).ids().get(0).is_none() {
        // Put together when records had no ids.
        dispatcher.dissolve_batch(lent, lane);
    }
    let recovered = match lent.store.lane(lane).records().first() {
        Some(_) if has_ids => lent.store.recovered_id(lane, 0).map(Box::from),
        _ => None,
    };
    let place = lent.store.lane_mut(lane);
    if place.step() == Step::Confirm && !asks {
        place.set_step(Step::Record);
        place.tries_mut().forget_refusal();
    }
    match place.step() {
        Step::Id if !has_ids => place.tries_mut().begin_at(Step::Record),
        Step::Record | Step::Confirm if has_ids && place.ids().get(0).is_none() => {
            if dispatcher.leases.are_in_force() {
                // It takes an id of those that were given ahead when it is sent.
                place.set_step(Step::Record);
            } else if let Some(id) = recovered {
                place.give_id(id, None);
            } else {
                place.tries_mut().begin_at(Step::Id);
                place.tries_mut().forget_refusal();
            }
        }
        _ => {}
    }
}

/// The configuration has changed: lanes that are on no list of it take the present first step when
/// their turn comes.
fn fit_unlisted(dispatcher: &mut Dispatcher, lent: &mut Lent<'_, '_>) {
    let waits = |state| matches!(state, State::AwaitsLane | State::Backoff | State::Idle);
    let lanes: Vec<LaneId> = lent.store.lanes().filter(|(_, lane)| waits(lane.state())).map(|(id, _)| id).collect();
    for lane in lanes {
        fit(dispatcher, lent, lane);
    }
}
