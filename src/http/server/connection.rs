//! One machine's connection: bytes in, requests out; verdicts in, answers out.

use super::limits::Limits;
use crate::ground::KeptHeaders;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Envelope, Extra, NO_ROOM, Part, Refusal, Refused, TryLater, shown, source_in};
use super::door::{Caller, Ruling};
use super::forms::{Details, Get, Rules};
use super::reading::Step;
use crate::http::chunked::Decoder;
use crate::http::fields::LineScan;
use crate::http::gzip::{UNPACKER_BYTES, Unpacker};

/// Answers that may wait before [`ServerConnection::wants_read`] says no.
const PENDING_MAX: usize = 64;

/// A whole request for records, lent until the next call.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// SOURCE of `/v1/records/SOURCE`: 1 to 64 of `A-Za-z0-9._-`.
    pub source: &'a str,
    /// The decoded body, 1 byte to `limits.body_bytes`.
    pub body: &'a [u8],
    /// Content-Type, with parameters.
    pub content_type: Option<&'a [u8]>,
    /// Idempotency-Key, 1 to 255 bytes as they came.
    pub idempotency_key: Option<&'a [u8]>,
    /// Headers that its source keeps.
    pub headers: KeptHeaders<'a>,
    /// When its first byte came; monotonic nanoseconds.
    pub first_byte_ns: u64,
}

/// What the owner makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 201 `{"accepted":records}` once the record with `last_number` is durable.
    Accepted {
        /// Number of the request's last record.
        last_number: u64,
        /// How many records it held.
        records: u32,
        /// The request is known by its key.
        keyed: bool,
    },
    /// 201 `{"accepted":records}`: all of it is durable.
    Taken {
        /// How many records it held.
        records: u32,
    },
    /// Somebody else has the request: [`ServerConnection::settle`] tells what became of it.
    Elsewhere {
        /// By this name.
        ticket: u64,
        /// The request is known by its key.
        keyed: bool,
    },
    /// 422: its key came with another body before.
    KeyReused,
    /// 503 with Retry-After.
    Unavailable {
        /// Seconds.
        retry_after_s: u32,
    },
    /// 429 or 503 with Retry-After.
    TryLater {
        /// Why.
        what: &'static TryLater,
        /// Seconds.
        retry_after_s: u32,
    },
    /// 4xx with the rule, what came, what is allowed, and where, as JSON.
    Refused {
        /// The status.
        status: u16,
        /// The rule that is broken.
        rule: &'static str,
        /// What came, and what is allowed.
        details: &'static Details,
        /// Where in the body.
        part: Option<Part>,
    },
}

/// A request that was refused for what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turned<'a> {
    /// The status of the answer.
    pub status: u16,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
    /// The beginning of the request, as it is shown.
    pub line: &'a str,
    /// The SOURCE that it names, where who sends it was let in.
    pub machine: Option<&'a str>,
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// That the record of this number is durable.
    Durable(u64),
    /// Somebody else.
    Elsewhere,
}

/// What [`ServerConnection::take_output`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Output {
    /// After these bytes: FIN, then read and drop what still comes for a while (lingering close, RFC 9112 section 9.6).
    pub close: bool,
    /// Answers with 2xx.
    pub accepted: u32,
    /// Answers with 4xx, 501 or 505.
    pub refused: u32,
    /// Answers with 503.
    pub unavailable: u32,
}

/// What is being read.
#[derive(Debug)]
pub(super) enum Phase {
    /// A head, or nothing yet; `buffer` holds what came of it.
    Head(LineScan),
    /// A body with so many bytes to come; `buffer` holds [`Kept`] and what came.
    Length(u64),
    /// A chunked body; `buffer` as before.
    Chunked(Decoder),
    /// The owner has to find out who sends; `buffer` holds the head, whose request line ends here.
    Judging(usize),
    /// The owner looks at the request.
    Verdict,
    /// Nothing more is read.
    Closing,
}

/// Lengths of the parts of a head that `buffer` starts with while a body is read: source, Content-Type, Idempotency-Key,
/// headers that are kept. The two in the middle count from 1, with 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) source: u8,
    pub(super) idempotency_key: u16,
    pub(super) headers: u16,
    /// A head has 64 KiB at most.
    pub(super) content_type: u16,
}

impl Kept {
    pub(super) fn bytes(self) -> usize {
        self.source as usize
            + (self.content_type as usize).saturating_sub(1)
            + (self.idempotency_key as usize).saturating_sub(1)
            + self.headers as usize
    }
}

/// The body of a refused request, being dropped.
#[derive(Debug)]
pub(super) struct Drain {
    /// Sent after it.
    pub(super) answer: Answer,
    /// What came of it, if it is chunked.
    pub(super) bytes: u64,
}

/// A packed body, being read.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) unpacker: Unpacker,
    /// What came of it.
    pub(super) bytes: u64,
}

/// An answer, and what it says beside itself.
#[derive(Debug)]
struct Pending {
    answer: Answer,
    origin: Option<Arc<String>>,
    keep_alive: bool,
    get: Get,
}

/// Whether a connection goes on behind the request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    No,
    Yes,
    /// The request is of HTTP/1.0, and its peer must be told.
    Told,
}

/// How much of an empty line came before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlankLine {
    None,
    Cr,
    Seen,
    /// What follows it may go on as a PROXY header of version 2, whose first four bytes are two empty lines: so many have come.
    ProxyHeader(u8),
}

/// What a peer has begun that is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// TLS: the connection is closed without an answer.
    TlsHello,
    /// The PROXY protocol, where it does not count.
    ProxyHeader,
}

/// The state of one connection. It holds memory beyond its own size only while a request is unfinished or more than one
/// answer waits.
///
/// The owner gives it bytes until [`next_request`](Self::next_request) returns `None`, answers each request by
/// [`respond`](Self::respond), and takes the output whenever [`has_output`](Self::has_output).
#[derive(Debug)]
pub struct ServerConnection {
    pub(super) buffer: Vec<u8>,
    first: Option<Pending>,
    /// Those behind it; of most connections there are none.
    #[allow(clippy::box_collection)] // a quarter of its size in a connection that is idle
    rest: Option<Box<VecDeque<Pending>>>,
    pub(super) phase: Phase,
    /// Set while the body of a refused request is dropped.
    pub(super) drain: Option<Box<Drain>>,
    /// Set while a packed body is read; `buffer` then holds what was unpacked.
    pub(super) packed: Option<Box<Packed>>,
    durable_below: u64,
    pub(super) first_byte_ns: u64,
    /// Start of being idle; of a body, the moment that it would have begun at, had it come at the least rate.
    pub(super) since_ns: u64,
    pub(super) kept: Kept,
    pub(super) lasts: Lasts,
    pub(super) blank_line: BlankLine,
    pub(super) stranger: Option<Stranger>,
    /// Whose pages may read the answer to the request under way.
    pub(super) origin: Option<Arc<String>>,
    pub(super) get: Get,
}

// Ten thousand of them are idle on a core.
const _: () = assert!(size_of::<ServerConnection>() <= 160);

impl ServerConnection {
    /// A connection accepted at `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self {
            buffer: Vec::new(),
            first: None,
            rest: None,
            phase: Phase::Head(LineScan::default()),
            drain: None,
            packed: None,
            durable_below: 0,
            first_byte_ns: now_ns,
            since_ns: now_ns,
            kept: Kept::default(),
            lasts: Lasts::Yes,
            blank_line: BlankLine::None,
            stranger: None,
            origin: None,
            get: Get::Refused,
        }
    }

    /// Takes bytes from the front of `input`; the next whole request, or `None` when all of `input`
    /// is taken and more is needed, or when its owner must find out first who sends
    /// ([`Self::is_judging`]). Bytes after a request that ends the connection are dropped unread.
    /// `judge` is asked once a request, when its head is whole and nothing of its body is read.
    ///
    /// # Panics
    /// If the request before has not been answered by [`respond`](Self::respond).
    pub fn next_request<'a, 'i: 'a>(
        &'a mut self,
        rules: Rules<'_>,
        now_ns: u64,
        input: &mut &'i [u8],
        judge: &mut dyn FnMut(&Caller<'_>) -> Ruling,
    ) -> Option<Request<'a>> {
        let limits = rules.limits;
        let body = loop {
            if matches!(self.phase, Phase::Length(_) | Phase::Chunked(_)) {
                self.count_progress(limits, now_ns, input.len());
            }
            let step = match self.phase {
                Phase::Closing => {
                    *input = &[];
                    Step::More
                }
                Phase::Verdict => panic!("the request before has not been answered"),
                Phase::Judging(line_end) => self.judge_again(line_end, rules, now_ns, input, judge),
                Phase::Head(scan) => self.read_head(scan, rules, now_ns, input, judge),
                Phase::Length(remaining) => self.read_body(remaining, limits, input),
                Phase::Chunked(decoder) => self.read_chunks(decoder, limits, input),
            };
            match step {
                Step::More | Step::Wait => return None,
                Step::Again => {}
                Step::Lent(request) => {
                    self.phase = Phase::Verdict;
                    return Some(request);
                }
                Step::Buffered(body) => break body,
            }
        };
        self.phase = Phase::Verdict;
        Some(self.buffered_request(body))
    }

    /// The answer to the request that [`next_request`](Self::next_request) just returned.
    ///
    /// # Panics
    /// If there is none.
    pub fn respond(&mut self, verdict: Verdict) {
        assert!(matches!(self.phase, Phase::Verdict), "there is no request to answer");
        self.finish(answer_of(verdict));
    }

    /// Whether the owner must find out who sends before the connection goes on: by another call of
    /// [`next_request`](Self::next_request), with the bytes that the last one has left. Until then it is given nothing.
    pub fn is_judging(&self) -> bool {
        matches!(self.phase, Phase::Judging(_))
    }

    /// What became of a request that somebody else has. Whether it was the first that waits; `None` where it waits no more.
    pub fn settle(&mut self, ticket: u64, verdict: Verdict) -> Option<bool> {
        let mut is_first = true;
        for Pending { answer, .. } in self.first.iter_mut().chain(self.rest.iter_mut().flat_map(|rest| rest.iter_mut()))
        {
            if matches!(answer, Answer::Elsewhere { ticket: other, .. } if *other == ticket) {
                *answer = answer_of(verdict);
                return Some(is_first);
            }
            is_first &= answer.may_go(self.durable_below);
        }
        None
    }

    /// The first request that waits has waited for too long. Where it is known by its key it is answered 409, and the connection ends;
    /// `false` where nothing true can be said.
    pub fn give_up(&mut self) -> bool {
        let first = self.first.as_mut().filter(|first| !first.answer.may_go(self.durable_below));
        let Some(Pending {
            answer: answer @ (Answer::Accepted { keyed: true, .. } | Answer::Elsewhere { keyed: true, .. }),
            ..
        }) = first
        else {
            return false;
        };
        *answer = refused(STILL_WRITTEN, false, None);
        self.rest = None;
        self.stop_reading();
        true
    }

    /// Records with numbers below `durable_below` are durable: lets waiting 201s go. Never goes back.
    pub fn release(&mut self, durable_below: u64) {
        self.durable_below = self.durable_below.max(durable_below);
    }

    /// What the next of the answers waits for that may not go yet.
    pub fn awaits(&self) -> Option<Awaited> {
        let mut answers =
            self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter())).map(|pending| &pending.answer);
        answers.find_map(|answer| match answer {
            Answer::Accepted { last_number, .. } if !answer.may_go(self.durable_below) => {
                Some(Awaited::Durable(*last_number))
            }
            Answer::Elsewhere { .. } => Some(Awaited::Elsewhere),
            _ => None,
        })
    }

    /// Whether an answer may be sent now.
    pub fn has_output(&self) -> bool {
        self.first.as_ref().is_some_and(|first| first.answer.may_go(self.durable_below))
    }

    /// Appends all answers that may be sent now, in order. `date` is the value of the Date header. `hear` hears of refusals that
    /// are none of the owner's.
    pub fn take_output(
        &mut self,
        now_ns: u64,
        date: &[u8; 29],
        out: &mut Vec<u8>,
        hear: &mut dyn FnMut(Turned<'_>),
    ) -> Output {
        let mut output = Output::default();
        while let Some(Pending { answer, origin, keep_alive, get }) =
            self.first.take_if(|first| first.answer.may_go(self.durable_below))
        {
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
            let (close, origin) = (self.is_finished(), origin.as_deref().map(String::as_str));
            answer.write(date, Envelope { close, keep_alive, get, origin }, out);
            if let Answer::Refused(refused) = &answer
                && let Some(line) = &refused.line
            {
                let machine = source_in(line).filter(|_| refused.is_judged);
                hear(Turned { status: refused.refusal.status, rule: refused.refusal.rule, line, machine });
            }
            match answer.status() {
                100..=199 => {}
                200..=299 => output.accepted += 1,
                503 => output.unavailable += 1,
                _ => output.refused += 1,
            }
            if self.first.is_none() {
                self.rest = None;
                if !self.under_way() {
                    self.since_ns = now_ns;
                }
            }
        }
        output.close = self.is_finished();
        output
    }

    /// Whether more bytes should be read: not once the connection closes, nor while 64 answers wait. Bytes that were read
    /// before the owner could stop are still to be given to [`next_request`](Self::next_request).
    pub fn wants_read(&self) -> bool {
        !self.is_closing() && self.pending() < PENDING_MAX
    }

    /// The peer sends no more (half-close): requests already taken are still answered, an unfinished one is dropped.
    pub fn handle_eof(&mut self) {
        self.stop_reading();
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due: a head or body that is not whole, an idle connection, a last answer
    /// that is held back.
    /// `None` while answers wait and nothing is unfinished.
    pub fn deadline_ns(&self, limits: &Limits) -> Option<u64> {
        let after = |start_ns: u64, limit: Duration| {
            Some(start_ns.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
        };
        match self.phase {
            Phase::Closing => self.held_until_ns(),
            Phase::Verdict | Phase::Judging(_) => None,
            Phase::Length(_) | Phase::Chunked(_) => after(self.since_ns, limits.body_timeout),
            Phase::Head(_) if self.under_way() => after(self.first_byte_ns, limits.header_timeout),
            Phase::Head(_) if self.first.is_some() => None,
            Phase::Head(_) => after(self.since_ns, limits.idle_timeout),
        }
    }

    /// If the deadline is reached: 408 and close for a request under way, a quiet close when idle.
    pub fn handle_deadline(&mut self, now_ns: u64, limits: &Limits) {
        if self.deadline_ns(limits).is_none_or(|deadline_ns| now_ns < deadline_ns) {
            return;
        }
        match self.phase {
            Phase::Closing => self.end_holding(),
            Phase::Head(_) if !self.under_way() => self.stop_reading(),
            Phase::Head(_) => {
                let line = Some(shown(&self.buffer));
                self.end_with(Refused { refusal: LATE_HEADER, head_only: false, line, is_judged: false });
            }
            _ => self.close_body(LATE_BODY),
        }
    }

    /// Nothing more to read and nothing more to answer: close.
    pub fn is_finished(&self) -> bool {
        self.is_closing() && self.first.is_none()
    }

    /// Whether the peer tried to speak TLS; the connection is then closed without an answer.
    pub fn saw_tls_hello(&self) -> bool {
        self.stranger == Some(Stranger::TlsHello)
    }

    /// What the peer has begun instead of a request, told once.
    pub fn take_stranger(&mut self) -> Option<Stranger> {
        self.stranger.take()
    }

    /// Memory held beyond the connection's own size, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
            + self.rest.as_ref().map_or(0, |rest| rest.capacity() * size_of::<Pending>())
            + self.drain.as_ref().map_or(0, |_| size_of::<Drain>())
            + self.packed.as_ref().map_or(0, |_| size_of::<Packed>() + UNPACKER_BYTES)
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Answers that wait.
    pub(super) fn pending(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Whether a part of a request is there.
    fn under_way(&self) -> bool {
        match self.phase {
            Phase::Head(_) => !self.buffer.is_empty(),
            Phase::Length(_) | Phase::Chunked(_) | Phase::Judging(_) => true,
            Phase::Verdict | Phase::Closing => false,
        }
    }

    /// Queues the last answer to a request, frees what was kept of it, and goes on to the next one or closes.
    pub(super) fn finish(&mut self, answer: Answer) {
        self.buffer = Vec::new();
        self.packed = None;
        self.push(answer);
        self.phase = Phase::Head(LineScan::default());
        if self.lasts == Lasts::No {
            self.stop_reading();
        }
    }

    /// Queues an answer after which nothing is read.
    pub(super) fn close_with(&mut self, refusal: Refusal, head_only: bool, line: Box<str>) {
        self.end_with(Refused { refusal, head_only, line: Some(line), is_judged: true });
    }

    pub(super) fn end_with(&mut self, refused: Refused) {
        self.push(Answer::Refused(Box::new(refused)));
        self.stop_reading();
    }

    /// The same within a body.
    pub(super) fn close_body(&mut self, refusal: Refusal) {
        let (head_only, line) = (self.drains_a_head(), self.line_of_body());
        self.close_with(refusal, head_only, line);
    }

    pub(super) fn push(&mut self, answer: Answer) {
        // What comes before the final answer says nothing of origins.
        let origin = if matches!(answer, Answer::Continue) { None } else { self.origin.take() };
        let pending = Pending { answer, origin, keep_alive: self.lasts == Lasts::Told, get: self.get };
        match self.first {
            None => self.first = Some(pending),
            Some(_) => self.rest.get_or_insert_default().push_back(pending),
        }
    }

    /// Until when the last answer is held back, where it is.
    fn held_until_ns(&self) -> Option<u64> {
        match &self.rest.as_ref().and_then(|rest| rest.back()).or(self.first.as_ref())?.answer {
            Answer::Denied { denied, .. } if denied.held_until_ns > 0 => Some(denied.held_until_ns),
            _ => None,
        }
    }

    /// The last answer may go.
    fn end_holding(&mut self) {
        if let Some(Pending { answer: Answer::Denied { denied, .. }, .. }) =
            self.rest.as_mut().and_then(|rest| rest.back_mut()).or(self.first.as_mut())
        {
            denied.held_until_ns = 0;
        }
    }

    /// So many bytes of a body have come: each gives it the time that it has at the least rate, and none can be saved up.
    fn count_progress(&mut self, limits: &Limits, now_ns: u64, bytes: usize) {
        let earned_ns = (bytes as u64).saturating_mul(1_000_000_000) / limits.body_rate_bytes.max(1) as u64;
        self.since_ns = self.since_ns.saturating_add(earned_ns).min(now_ns).max(self.since_ns);
    }

    pub(super) fn stop_reading(&mut self) {
        self.phase = Phase::Closing;
        self.buffer = Vec::new();
        self.drain = None;
        self.packed = None;
    }
}

/// What a request is answered once it is known what became of it.
fn answer_of(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Accepted { last_number, records, keyed } => Answer::Accepted { last_number, records, keyed },
        Verdict::Taken { records } => Answer::Taken { records },
        Verdict::Elsewhere { ticket, keyed } => Answer::Elsewhere { ticket, keyed },
        Verdict::Unavailable { retry_after_s } => Answer::Unavailable { retry_after_s },
        Verdict::TryLater { what, retry_after_s } => Answer::TryLater { what, retry_after_s },
        Verdict::Refused { status, rule, details, part } => {
            refused(Refusal { part, ..Refusal::of(status, rule, details) }, false, None)
        }
        Verdict::KeyReused => refused(KEY_REUSED, false, None),
    }
}

const KEY_REUSED: Refusal = Refusal::of(
    422,
    "an Idempotency-Key comes with one body",
    &Details { came: "a key that came with another body before", allowed: "the same body, or a new key" },
);
const STILL_WRITTEN: Refusal = Refusal {
    extra: Extra::RetrySoon,
    ..Refusal::of(
        409,
        "a request with this Idempotency-Key is still on its way to the disk",
        &Details { came: "the same key again, or an answer that takes too long", allowed: "the same request, later" },
    )
};
const LATE_HEADER: Refusal =
    Refusal::new(408, "the header did not come in time", "a whole header within header_timeout");
const LATE_BODY: Refusal =
    Refusal::new(408, "the body came too slowly", "body_rate bytes a second, body_timeout behind at most");

pub(super) fn refused(refusal: Refusal, head_only: bool, line: Option<Box<str>>) -> Answer {
    Answer::Refused(Box::new(Refused { refusal, head_only, line, is_judged: true }))
}

impl Verdict {
    /// The status and the rule of a refusal.
    pub fn refusal(&self) -> Option<(u16, &'static str)> {
        match *self {
            Self::Refused { status, rule, .. } => Some((status, rule)),
            Self::KeyReused => Some((KEY_REUSED.status, KEY_REUSED.rule)),
            Self::Unavailable { .. } => Some((503, NO_ROOM)),
            Self::TryLater { what, .. } => Some((what.status, what.rule)),
            Self::Accepted { .. } | Self::Taken { .. } | Self::Elsewhere { .. } => None,
        }
    }
}
