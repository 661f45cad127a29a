//! Another configuration of the delivery while it runs.
//!
//! What is on its way to the API is judged by the rules that it was sent by; all else goes by the new ones at once, under the keys and ids
//! that it has.

use super::connection::{ApiLink, Earlier};
use super::outbox::APIS_MAX;
use super::problem::Loss;
use super::rules::Rules;
use super::{Delivery, Lent};
use crate::config::{Settings, Url};
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
        let mut free = others.iter().copied().find(|id| outbox.api(*id).connections.is_empty());
        if free.is_none() && outbox.ids().count() == APIS_MAX {
            // So many addresses within the time of an answer: the requests to one of them go out again.
            free = others.last().copied();
            let left = free.map_or(Vec::new(), |id| outbox.api(id).connections.clone());
            for link in left.into_iter().filter(|link| turn.links.is_open(*link, Kind::Api)).collect::<Vec<_>>() {
                let Self { rules: present, connections, dispatcher } = self;
                let mut lent = Lent { turn, store, rules: old, present };
                dispatcher.lose_connection(&mut lent, (link, connections.of(link)), &Loss::Reconfigured, true);
            }
        }
        self.dispatcher.outbox.add(url, free)
    }

    /// Connections with requests on them are kept for the answers alone, idle ones to where nothing is sent any more are closed.
    fn keep_rules(&mut self, turn: &mut Turn<'_>, old: &Rc<Rules>) {
        let Self { rules, connections, dispatcher } = self;
        let other_tls = rules.deliver().tls != old.deliver().tls;
        let links: Vec<LinkId> = turn.links.of_kind(Kind::Api).collect();
        for link in links {
            let conn: &mut ApiLink = connections.of(link);
            if !conn.connection.in_flight.is_empty() {
                dispatcher.outbox.api_mut(conn.api).available.retain(|other| *other != link);
                conn.connection.listed = false;
                let earlier = conn.earlier.get_or_insert_with(|| Earlier { rules: Rc::clone(old), other_tls: false });
                earlier.other_tls |= other_tls;
            } else if !dispatcher.outbox.is_current(conn.api)
                || other_tls && dispatcher.outbox.api(conn.api).tls.is_some()
            {
                dispatcher.close_idle(turn, link, conn);
            }
        }
    }

    /// Whatever waits to be sent (`waiting`: on no list) may go now, by the new rules: what held it back may be what was changed.
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
        dispatcher.fit_unlisted(&mut lent);
    }
}
