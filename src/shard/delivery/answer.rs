//! What a failed request leads to: its lane tries again later, or its step is held back for all lanes and one probes.

use super::lane::Doing;
use super::timer::Timer;
use super::{ApiId, Now, Shard};
use crate::delivery::route::{Hold, Reaction, reaction};
use crate::delivery::{InFlight, Step, backoff};
use crate::http::client::RetryAfter;
use std::collections::VecDeque;
use std::time::Duration;

impl Shard {
    /// Lists a lane to be sent, in front or behind, unless its step is held back.
    pub(super) fn list_ready(&mut self, index: u32, front: bool) {
        self.fit_step(index);
        let lane = &mut self.lanes[index as usize];
        let step = lane.step;
        let (route, held) = &mut self.routes[step as usize];
        if !route.is_open() {
            lane.doing = Doing::Held;
            held.push_back(index);
            if let (1, Some(until_ns)) = (held.len(), route.held_until_ns()) {
                self.timers.set(until_ns, Timer::Route(step as u8));
            }
            return;
        }
        self.put_on_list(index, front);
    }

    /// Lists a lane to be sent though its step may be held back.
    pub(super) fn push_ready(&mut self, index: u32, front: bool) {
        self.fit_step(index);
        self.put_on_list(index, front);
    }

    fn put_on_list(&mut self, index: u32, front: bool) {
        let lane = &mut self.lanes[index as usize];
        lane.doing = Doing::Ready;
        let step = lane.step;
        let api = self.api_of(step);
        let ready = &mut self.api(api).ready;
        if front { ready.push_front(index) } else { ready.push_back(index) }
    }

    /// A step that is held back sends one request, if its time has come and a lane waits.
    pub(super) fn probe(&mut self, now: Now, step: u8) {
        let (route, held) = &mut self.routes[usize::from(step)];
        if !held.is_empty() && route.take_probe(now.mono_ns) {
            let lane = held.pop_front().expect("looked at above");
            self.push_ready(lane, true);
        }
    }

    /// The lane that was to probe a step has nothing to send after all: another one does.
    pub(super) fn give_probe_back(&mut self, now: Now, step: Step) {
        // While one probes, all others of its step are held: none but the probe can be on its way to be sent.
        if let Some(until_ns) = self.routes[step as usize].0.give_back(now.mono_ns) {
            self.timers.set(until_ns, Timer::Route(step as u8));
        }
    }

    /// An answer has shown that a step works: whoever waits for that goes on.
    pub(super) fn route_worked(&mut self, step: Step) {
        let (route, held) = &mut self.routes[step as usize];
        if route.worked() {
            for lane in std::mem::take(held) {
                self.list_ready(lane, false);
            }
        }
    }

    /// Takes back what is listed to be sent in a step that is held back from now on.
    fn hold_back(&mut self, step: Step, until_ns: u64) {
        let api = self.api_of(step);
        let ready = std::mem::take(&mut self.api(api).ready);
        let (of_step, others) = ready.into_iter().partition(|lane| self.lanes[*lane as usize].step == step);
        self.api(api).ready = others;
        let of_step: VecDeque<u32> = of_step;
        for lane in of_step {
            self.list_ready(lane, false);
        }
        self.timers.set(until_ns, Timer::Route(step as u8));
    }

    /// An attempt failed without an answer, or with one that cannot be used: the lane tries again later.
    pub(super) fn failed(&mut self, now: Now, api: ApiId, request: InFlight, problem: String) {
        self.attempt_failed(now, api, request, problem, Reaction::Retry);
    }

    /// An answer that is no success.
    pub(super) fn refused(&mut self, now: Now, api: ApiId, request: InFlight, body: &[u8]) {
        let what = if request.step == Step::Id { "the id step" } else { "a record" };
        let deliver = &self.settings.deliver;
        let led_to = match request.step {
            // No other record would fare better.
            Step::Id => match reaction(request.status, &[], &[]) {
                Reaction::Park => Reaction::Pause,
                reaction => reaction,
            },
            Step::Record | Step::Confirm => reaction(request.status, &[], &deliver.answers.given),
        };
        let (reaction, advice) = match led_to {
            // A login page, or the answer of something else that listens there.
            _ if request.step == Step::Record && deliver.success.contains(&request.status) => {
                let advice = match &deliver.answer_type {
                    Some(wanted) if !request.typed => format!(", but its type is not {wanted}: is this the right URL?"),
                    _ => format!(
                        ", but its answer does not have the record's id at {}: is this the right URL?",
                        deliver.answer_id_at.as_deref().unwrap_or_default()
                    ),
                };
                (Reaction::Pause, advice)
            }
            Reaction::Park | Reaction::Confirm if self.split_batch(request.lane) => {
                self.counters.api_refusals += 1;
                return self.route_worked(Step::Record);
            }
            Reaction::Park => return self.refuse_record(now, api, request, body),
            Reaction::Confirm => return self.ask_what_is_there(request, body),
            Reaction::Pause => (Reaction::Pause, advice(request.status).to_owned()),
            reaction => (reaction, String::new()),
        };
        self.attempt_failed(now, api, request, format!("answered {} to {what}{advice}", request.status), reaction);
    }

    pub(super) fn attempt_failed(
        &mut self,
        now: Now,
        api: ApiId,
        request: InFlight,
        problem: String,
        reaction: Reaction,
    ) {
        self.counters.api_failures += 1;
        if self.by_old_rules {
            self.try_by_new_rules(request);
            return;
        }
        self.note_problem(now, api, problem);
        let retry = (self.settings.deliver.retry_first, self.settings.deliver.retry_max);
        let told = request.retry_after.map(|after| match after {
            RetryAfter::Seconds(seconds) => Duration::from_secs(seconds.into()),
            RetryAfter::Date(second) => Duration::from_secs(second.saturating_sub(now.wall_ns / 1_000_000_000)),
        });
        let (route, _) = &mut self.routes[request.step as usize];
        let hold = route.failed(now.mono_ns, request.sent_ns, &mut self.rng, retry, reaction, told);
        if let Hold::Until(until_ns) = hold {
            self.counters.api_holds += 1;
            self.hold_back(request.step, until_ns);
        }
        if self.is_to_be_cut(now, api, &request, reaction) && self.split_batch(request.lane) {
            return;
        }
        let lane = &mut self.lanes[request.lane as usize];
        debug_assert_eq!(lane.generation, request.generation);
        if hold == Hold::No {
            return self.back_off(now, request.lane);
        }
        lane.attempts = lane.attempts.saturating_add(1);
        lane.resent = false;
        self.list_ready(request.lane, false);
    }

    /// Counts a failure of a batch. After some in a row one of its records may be what the service fails by, and all that are with it
    /// would wait for ever. A service that says it is busy speaks of itself, unless it takes others meanwhile.
    fn is_to_be_cut(&mut self, now: Now, api: ApiId, request: &InFlight, reaction: Reaction) -> bool {
        let Some(batch) = &self.settings.deliver.batch else { return false };
        let failures_max = batch.failures;
        // Too many requests: half of the batch in each would be more of them.
        if request.step != Step::Record || reaction != Reaction::Retry || request.status == 429 {
            return false;
        }
        let is_busy = request.retry_after.is_some() || request.status == 503;
        let counts = self.fails_while_others_arrive(now, api, request.lane) || !is_busy;
        let lane = &mut self.lanes[request.lane as usize];
        lane.failures = lane.failures.saturating_add(u32::from(counts));
        lane.failures >= failures_max
    }

    /// Whether records of other lanes have arrived since the first record of this one began to fail, or the batch that it carries.
    pub(super) fn fails_while_others_arrive(&mut self, now: Now, api: ApiId, index: u32) -> bool {
        let last_success_ns = self.api(api).last_success_ns;
        let lane = &mut self.lanes[index as usize];
        let since_ns = *lane.failing_since_ns.get_or_insert(now.mono_ns);
        last_success_ns.is_some_and(|at_ns| at_ns > since_ns)
    }

    /// The first record of a lane is tried again later.
    pub(super) fn back_off(&mut self, now: Now, index: u32) {
        let retry = (self.settings.deliver.retry_first, self.settings.deliver.retry_max);
        let lane = &mut self.lanes[index as usize];
        lane.attempts = lane.attempts.saturating_add(1);
        lane.resent = false;
        lane.doing = Doing::Backoff;
        let wait = backoff::delay_ns(&mut self.rng, retry.0, retry.1, lane.attempts).max(1_000_000);
        self.timers.set(now.mono_ns + wait, Timer::Lane { index, generation: lane.generation });
    }
}

/// What an operator can do about an answer that no record will get past.
fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => ": a redirect is never followed; put the new address into the configuration",
        401 | 403 | 407 => ": see to the credentials in [deliver.headers]",
        404 | 405 | 410 => ": is this the right URL?",
        _ => ": see to the API's configuration",
    }
}
