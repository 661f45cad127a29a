//! Where requests go and whether they may: the API's authorities, the lanes that are ready for
//! each, and the breaker of each step.

use super::problem::Problem;
use super::rules::Rules;
use super::secure::Handshakes;
use crate::config::{Authority, Url};
use crate::delivery::Step;
use crate::delivery::route::{Hold, Pace, Reaction, Route};
use crate::ground::{ApiId, LaneId, LinkId, Now};
use crate::http::client::RetryAfter;
use crate::shard::store::{State, Store};
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// An API that fails and works by turns is logged at most once in this time.
const SAY_EVERY_NS: u64 = 10_000_000_000;
/// Longest wait between connects that fail: the first record is on its way within 2 s of the
/// service's return.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(1_500);
/// So long an answer as it should be shows that another one is not the API's fault.
const PROVEN_NS: u64 = 60_000_000_000;
/// Authorities that an [`ApiId`] can tell apart.
pub(super) const APIS_MAX: usize = 256;

/// What is wrong with an API, and what of it was said.
#[derive(Debug, Default)]
struct Trouble {
    problem: Option<Problem>,
    /// The problem was logged, so its end will be.
    said: bool,
    /// When the next one may be logged.
    say_ns: u64,
}

/// Connects to an API that have failed.
#[derive(Debug, Default)]
struct Failures {
    /// In a row; those of one turn, which fail together, are one failure.
    count: u32,
    /// When that was last counted: a connect that had begun before adds nothing.
    counted_ns: u64,
    /// No connect before this time.
    retry_ns: u64,
}

/// One authority of the API: its connections, and the lanes that want it.
#[derive(Debug)]
pub(super) struct Api {
    authority: Authority,
    /// Connections to it are by TLS; see `secure`.
    tls: Option<Handshakes>,
    /// Open and connecting.
    connections: Vec<LinkId>,
    /// Connecting, TLS handshakes included.
    connecting: usize,
    /// Connections with room for another request; the last one used is used first, so that spare
    /// ones go idle.
    available: Vec<LinkId>,
    /// Lanes that are to be sent next, in this order.
    ready: VecDeque<LaneId>,
    failures: Failures,
    /// When a batch that waits for more records was last to be sent.
    batch_due_ns: Option<u64>,
    trouble: Trouble,
    last_success_ns: Option<u64>,
    in_flight: u64,
}

impl Api {
    fn new(url: &Url) -> Self {
        Self {
            authority: url.authority.clone(),
            tls: url.secure.then(|| Handshakes::with(&url.authority)),
            connections: Vec::new(),
            connecting: 0,
            available: Vec::new(),
            ready: VecDeque::new(),
            failures: Failures::default(),
            batch_due_ns: None,
            trouble: Trouble::default(),
            last_success_ns: None,
            in_flight: 0,
        }
    }

    /// Whether it is where a URL leads to.
    fn serves(&self, url: &Url) -> bool {
        self.authority == url.authority && self.tls.is_some() == url.secure
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its handshakes, where connections to it are by TLS.
    pub fn tls(&self) -> Option<&Handshakes> {
        self.tls.as_ref()
    }

    pub fn tls_mut(&mut self) -> Option<&mut Handshakes> {
        self.tls.as_mut()
    }

    /// Open and connecting.
    pub fn connections(&self) -> &[LinkId] {
        &self.connections
    }

    /// How many of them are connecting, TLS handshakes included.
    pub fn connecting(&self) -> usize {
        self.connecting
    }

    /// A connection begins.
    pub fn connect_begun(&mut self, link: LinkId) {
        self.connections.push(link);
        self.connecting += 1;
    }

    /// One that was connecting is open, or is not any more.
    pub fn connect_done(&mut self) {
        self.connecting -= 1;
    }

    /// One that is open counts as one that has not got through.
    pub fn connect_is_in_vain(&mut self) {
        self.connecting += 1;
    }

    /// A connection has room for another request.
    pub fn offer(&mut self, link: LinkId) {
        self.available.push(link);
    }

    /// It takes no more requests.
    pub fn take_back(&mut self, link: LinkId) {
        self.available.retain(|other| *other != link);
    }

    /// The connection that the next requests go on.
    pub fn next_available(&mut self) -> Option<LinkId> {
        self.available.pop()
    }

    /// Lanes that are to be sent next, in this order.
    pub fn ready(&self) -> &VecDeque<LaneId> {
        &self.ready
    }

    /// Takes the first of them off the list.
    pub fn next_ready(&mut self) -> Option<LaneId> {
        self.ready.pop_front()
    }

    /// Takes all of them off the list, to choose some.
    pub fn take_ready(&mut self) -> VecDeque<LaneId> {
        std::mem::take(&mut self.ready)
    }

    /// Puts those back that were not chosen, behind what was listed meanwhile.
    pub fn append_ready(&mut self, mut lanes: VecDeque<LaneId>) {
        self.ready.append(&mut lanes);
    }

    /// Requests without their whole answer.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// A request is on its way.
    pub fn request_sent(&mut self) {
        self.in_flight += 1;
    }

    /// A request has come to something.
    pub fn request_done(&mut self) {
        self.in_flight -= 1;
    }

    /// When it last did what was asked, in monotonic nanoseconds.
    pub fn last_success_ns(&self) -> Option<u64> {
        self.last_success_ns
    }

    /// Whether connects to it fail.
    pub fn is_failing(&self) -> bool {
        self.failures.count > 0
    }

    /// Whether a connect may begin.
    pub fn may_connect(&self, now: Now) -> bool {
        now.mono_ns >= self.failures.retry_ns
    }

    /// Connects do not fail any more, or what made them fail may have changed.
    pub fn forget_failures(&mut self) {
        self.failures.count = 0;
    }

    /// Connects may begin at once, as if none had failed.
    pub fn try_at_once(&mut self) {
        (self.failures.count, self.failures.retry_ns) = (0, 0);
    }

    /// A batch waits for more records until then: whether that is another time than before.
    pub fn wait_for_batch(&mut self, due_ns: u64) -> bool {
        self.batch_due_ns.replace(due_ns) != Some(due_ns)
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        self.trouble.problem.as_ref().map(ToString::to_string)
    }

    /// A connection of it is over.
    pub fn forget(&mut self, link: LinkId) {
        self.connections.retain(|other| *other != link);
        self.available.retain(|other| *other != link);
    }
}

/// Whether a step's requests go out, and the lanes that wait until they do.
#[derive(Debug, Default)]
struct Breaker {
    route: Route,
    held: VecDeque<LaneId>,
    /// When a record was last answered by the present rules as it should be.
    success_ns: Option<u64>,
    /// When the latest request that was answered so had been sent.
    asked_ns: Option<u64>,
}

/// Where requests go, and whether they may. Each lane that is `Ready` or `Held` is on one list of
/// it.
#[derive(Debug)]
pub(super) struct Outbox {
    apis: Vec<Api>,
    record_api: ApiId,
    id_api: ApiId,
    /// By [`Step`].
    breakers: [Breaker; 3],
}

impl Outbox {
    pub fn new(rules: &Rules) -> Self {
        let mut outbox = Self {
            apis: vec![Api::new(&rules.deliver().url)],
            record_api: ApiId(0),
            id_api: ApiId(0),
            breakers: Default::default(),
        };
        if let Some(sequence) = rules.sequence().filter(|sequence| !outbox.apis[0].serves(&sequence.url)) {
            outbox.apis.push(Api::new(&sequence.url));
            outbox.id_api = ApiId(1);
        }
        outbox
    }

    // ---- authorities

    pub fn api(&self, id: ApiId) -> &Api {
        &self.apis[usize::from(id.0)]
    }

    pub fn api_mut(&mut self, id: ApiId) -> &mut Api {
        &mut self.apis[usize::from(id.0)]
    }

    pub fn apis(&self) -> impl Iterator<Item = (ApiId, &Api)> {
        self.apis.iter().enumerate().map(|(index, api)| (ApiId(index as u8), api))
    }

    pub fn ids(&self) -> impl Iterator<Item = ApiId> + use<> {
        (0..self.apis.len()).map(|index| ApiId(index as u8))
    }

    pub fn record_api(&self) -> ApiId {
        self.record_api
    }

    pub fn api_of(&self, step: Step) -> ApiId {
        if step == Step::Id { self.id_api } else { self.record_api }
    }

    /// Whether something is sent to it by the present rules.
    pub fn is_current(&self, api: ApiId) -> bool {
        api == self.record_api || api == self.id_api
    }

    /// The API that a URL leads to, if there is one.
    pub fn find(&self, url: &Url) -> Option<ApiId> {
        self.apis.iter().position(|api| api.serves(url)).map(|index| ApiId(index as u8))
    }

    /// A new one, in the place of one that is of no more use, or behind all.
    pub fn add(&mut self, url: &Url, place: Option<ApiId>) -> ApiId {
        let api = Api::new(url);
        match place {
            Some(id) => *self.api_mut(id) = api,
            None => self.apis.push(api),
        }
        place.unwrap_or(ApiId((self.apis.len() - 1) as u8))
    }

    /// Where requests go from now on.
    pub fn set_record_api(&mut self, api: ApiId) {
        self.record_api = api;
    }

    /// As above, of the id step.
    pub fn set_id_api(&mut self, api: ApiId) {
        self.id_api = api;
    }

    /// A connect that had begun at `begun_ns` has failed, or its handshake has.
    pub fn connect_failed(
        &mut self,
        turn: &mut Turn<'_>,
        (link, id): (LinkId, ApiId),
        begun_ns: u64,
        retry: (Duration, Duration),
        problem: Problem,
    ) {
        turn.counters.api_connect_failures += 1;
        // Nothing is asked of a service that does not listen, so it may be looked for often.
        let max = if matches!(problem, Problem::Connect(_)) { retry.1.min(CONNECT_WAIT_MAX) } else { retry.1 };
        let api = self.api_mut(id);
        api.connecting -= 1;
        api.connections.retain(|other| *other != link);
        let failures = &mut api.failures;
        if failures.count == 0 || begun_ns > failures.counted_ns {
            failures.count += 1;
            failures.counted_ns = turn.now.mono_ns;
            let wait_ns = turn.delay_ns(retry.0, max, failures.count).max(1_000_000);
            failures.retry_ns = turn.now.mono_ns + wait_ns;
            turn.timers.set(failures.retry_ns, Timer::Api(id));
        }
        self.note_problem(turn.now, id, problem);
    }

    /// Something is wrong with an API; it is logged unless it was a moment ago.
    pub fn note_problem(&mut self, now: Now, id: ApiId, problem: Problem) {
        let Api { authority, trouble, .. } = self.api_mut(id);
        if trouble.said && trouble.problem.as_ref() == Some(&problem) {
            trouble.problem = Some(problem); // what it says may be another text
            return;
        }
        if now.mono_ns >= trouble.say_ns {
            tracing::warn!("API at {}:{}: {problem}; records wait", authority.host, authority.port);
            (trouble.said, trouble.say_ns) = (true, now.mono_ns + SAY_EVERY_NS);
        }
        trouble.problem = Some(problem);
    }

    /// An API has done what was asked of it.
    pub fn worked(&mut self, now: Now, id: ApiId) {
        let Api { authority, trouble, last_success_ns, .. } = self.api_mut(id);
        *last_success_ns = Some(now.mono_ns);
        trouble.problem = None;
        if std::mem::take(&mut trouble.said) {
            tracing::info!("API at {}:{}: delivering again", authority.host, authority.port);
        }
    }

    /// An id shows that a server works that gives nothing but ids; of the other one a record must.
    pub fn id_worked(&mut self, now: Now, id: ApiId) {
        if id != self.record_api {
            self.worked(now, id);
        }
    }

    // ---- lists

    fn breaker(&mut self, step: Step) -> &mut Breaker {
        &mut self.breakers[step as usize]
    }

    /// Whether a step's requests go out freely.
    pub fn is_open(&self, step: Step) -> bool {
        self.breakers[step as usize].route.is_open()
    }

    /// A request that was sent at `sent_ns` was answered as it should be, by the present rules.
    pub fn note_success(&mut self, now: Now, step: Step, sent_ns: u64) {
        let breaker = self.breaker(step);
        breaker.success_ns = Some(now.mono_ns);
        breaker.asked_ns = breaker.asked_ns.max(Some(sent_ns));
    }

    /// Whether a request that was sent after a moment was answered so. An answer that was only late says nothing of it.
    pub fn has_worked_since(&self, step: Step, moment_ns: u64) -> bool {
        self.breakers[step as usize].asked_ns.is_some_and(|asked_ns| asked_ns > moment_ns)
    }

    /// When that was, in monotonic nanoseconds, if it was at all.
    pub fn last_success_ns(&self, step: Step) -> Option<u64> {
        self.breakers[step as usize].success_ns
    }

    /// Whether that was a short time ago.
    pub fn is_proven(&self, now: Now, step: Step) -> bool {
        self.last_success_ns(step).is_some_and(|at_ns| now.mono_ns - at_ns <= PROVEN_NS)
    }

    /// When a step that is held back may send a probe, in monotonic nanoseconds.
    pub fn held_until_ns(&self, step: Step) -> Option<u64> {
        self.breakers[step as usize].route.held_until_ns()
    }

    /// Until when nothing is sent to an API: its connects fail, or a step of it is held back and
    /// lanes wait; whether an answer's Retry-After said so.
    pub fn waits_until(&self, id: ApiId) -> Option<(u64, bool)> {
        let api = self.api(id);
        let connect_ns = (api.is_failing() && api.connecting == 0).then_some((api.failures.retry_ns, false));
        let steps = [Step::Id, Step::Record, Step::Confirm].into_iter().filter(|step| self.api_of(*step) == id);
        let held = steps.map(|step| &self.breakers[step as usize]).filter(|breaker| !breaker.held.is_empty());
        let held = held.filter_map(|Breaker { route, .. }| Some((route.held_until_ns()?, route.is_told())));
        connect_ns.into_iter().chain(held).max()
    }

    /// Whether a request that was sent at `sent_ns` is its step's probe.
    pub fn is_probe(&self, step: Step, sent_ns: u64) -> bool {
        self.breakers[step as usize].route.is_probe(sent_ns)
    }

    /// Lists a lane to be sent, in front or behind, unless its step is held back.
    pub fn list(&mut self, turn: &mut Turn<'_>, store: &mut Store, lane: LaneId, front: bool) {
        let place = store.lane_mut(lane);
        let step = place.step();
        let Breaker { route, held, .. } = self.breaker(step);
        if route.is_open() {
            return self.push(store, lane, front);
        }
        place.hold();
        held.push_back(lane);
        if let (1, Some(until_ns)) = (held.len(), route.held_until_ns()) {
            turn.timers.set(until_ns, Timer::Route(step));
        }
    }

    /// Lists a lane to be sent though its step may be held back.
    pub fn push(&mut self, store: &mut Store, lane: LaneId, front: bool) {
        let place = store.lane_mut(lane);
        place.list();
        let api = self.api_of(place.step());
        let ready = &mut self.api_mut(api).ready;
        if front { ready.push_front(lane) } else { ready.push_back(lane) }
    }

    /// A step that is held back sends one request, if its time has come and a lane waits.
    pub fn probe(&mut self, now: Now, store: &mut Store, step: Step) {
        let Breaker { route, held, .. } = self.breaker(step);
        if !held.is_empty() && route.take_probe(now.mono_ns) {
            let lane = held.pop_front().expect("looked at above");
            self.push(store, lane, true);
        }
    }

    /// The lane that was to probe a step has nothing to send after all: another one does.
    pub fn give_probe_back(&mut self, turn: &mut Turn<'_>, step: Step) {
        // While one probes, all others of its step are held: none but the probe can be on its way
        // to be sent.
        if let Some(until_ns) = self.breaker(step).route.give_back(turn.now.mono_ns) {
            turn.timers.set(until_ns, Timer::Route(step));
        }
    }

    /// An answer has shown that a step works: whoever waits for that goes on.
    pub fn step_worked(&mut self, turn: &mut Turn<'_>, store: &mut Store, step: Step) {
        let Breaker { route, held, .. } = self.breaker(step);
        if route.worked() {
            for lane in std::mem::take(held) {
                self.list(turn, store, lane, false);
            }
        }
    }

    /// A request of a step that was sent at `sent_ns` has failed: whether its lane alone waits, or
    /// all of the step.
    pub fn step_failed(
        &mut self,
        turn: &mut Turn<'_>,
        store: &mut Store,
        (step, sent_ns): (Step, u64),
        pace: Pace,
        (reaction, retry_after): (Reaction, Option<RetryAfter>),
    ) -> Hold {
        let told = retry_after.map(|after| match after {
            RetryAfter::Seconds(seconds) => Duration::from_secs(seconds.into()),
            RetryAfter::Date(second) => Duration::from_secs(second.saturating_sub(turn.now.wall_ns / 1_000_000_000)),
        });
        let hold = self.breaker(step).route.failed(turn.now.mono_ns, sent_ns, turn.rng, pace, reaction, told);
        if let Hold::Until(until_ns) = hold {
            turn.counters.api_holds += 1;
            self.hold_back(turn, store, step, until_ns);
        }
        hold
    }

    /// Takes back what is listed to be sent in a step that is held back from now on.
    fn hold_back(&mut self, turn: &mut Turn<'_>, store: &mut Store, step: Step, until_ns: u64) {
        let api = self.api_of(step);
        let ready = std::mem::take(&mut self.api_mut(api).ready);
        let (of_step, others): (VecDeque<LaneId>, _) =
            ready.into_iter().partition(|lane| store.lane(*lane).step() == step);
        self.api_mut(api).ready = others;
        for lane in of_step {
            self.list(turn, store, lane, false);
        }
        turn.timers.set(until_ns, Timer::Route(step));
    }

    /// A lane was told to wait for another one: it is on no list any more.
    pub fn recall(&mut self, turn: &mut Turn<'_>, store: &Store, lane: LaneId) {
        let is_listed = self.apis.iter().any(|api| api.ready.contains(&lane));
        self.apis.iter_mut().for_each(|api| api.ready.retain(|other| *other != lane));
        if is_listed {
            self.give_probe_back(turn, store.lane(lane).step());
        }
        self.breakers.iter_mut().for_each(|breaker| breaker.held.retain(|other| *other != lane));
    }

    /// Takes all lanes that are ready off their lists.
    pub fn take_ready(&mut self) -> Vec<LaneId> {
        self.apis.iter_mut().flat_map(|api| std::mem::take(&mut api.ready)).collect()
    }

    /// Opens the breakers, and takes the lanes that they held back off their lists.
    pub fn release_held(&mut self) -> Vec<LaneId> {
        self.breakers.iter_mut().flat_map(|breaker| std::mem::take(breaker).held).collect()
    }

    /// Opens the breakers of an API's steps, but for those that the service told to wait unless
    /// `told`, and takes the lanes that they held back off their lists.
    pub fn release_steps(&mut self, id: ApiId, told: bool) -> Vec<LaneId> {
        let mut released = Vec::new();
        for step in [Step::Id, Step::Record, Step::Confirm] {
            let is_of = self.api_of(step) == id;
            let breaker = self.breaker(step);
            if is_of && (told || !breaker.route.is_told()) {
                breaker.route = Route::default();
                released.extend(std::mem::take(&mut breaker.held));
            }
        }
        released
    }

    /// That each list has the lanes whose states name it.
    pub fn check(&self, store: &Store) {
        let mut listed: HashMap<LaneId, (State, Option<ApiId>)> = HashMap::new();
        for (id, api) in self.apis() {
            for lane in &api.ready {
                assert!(listed.insert(*lane, (State::Ready, Some(id))).is_none(), "a lane is listed once");
            }
        }
        for (step, breaker) in [Step::Id, Step::Record, Step::Confirm].into_iter().zip(&self.breakers) {
            for lane in &breaker.held {
                assert!(listed.insert(*lane, (State::Held, None)).is_none(), "a lane is listed once");
                assert_eq!(store.lane(*lane).step(), step, "a lane is held with its step");
            }
        }
        for (id, lane) in store.lanes() {
            let expected = match lane.state() {
                State::Ready => Some((State::Ready, Some(self.api_of(lane.step())))),
                State::Held => Some((State::Held, None)),
                _ => None,
            };
            assert_eq!(listed.remove(&id), expected, "a lane that is {:?}", lane.state());
        }
        assert!(listed.is_empty(), "lanes that are gone are not listed");
    }
}
