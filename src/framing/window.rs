//! The general way to frame a stream: a window of it is looked at until it is known what stands at its front.
//!
//! ```text
//!            spent        window
//!  tail    ░░░░░░░░ b b b b b b b b b b   the front of the window is the front of the next frame, or of its search
//!                                      └── what is appended from the chunk, as much as the look needs
//!  chunk               b b b b b b b b b b b b b b b b b b b b b b
//!                                      └── where a frame ends in what was appended, the rest goes back to the chunk
//! ```
//! Where the tail is empty, the window is the chunk, and a frame is a slice of it. Nothing is decided that other bytes could
//! change, so the frames do not depend on how the stream was chunked. A tail holds one frame, and where the next one has to
//! confirm it, two.

use super::candidate::{Parts, payload_bytes_max, reach_bytes};
use super::checksum::Place;
use super::scan::unescaped;
use super::search::{Look, Search};
use super::settings::{Framing, FramingKind, Oversized};
use super::{FrameFlags, Framed, Framer, Notes, RejectReason, State, TAIL_BYTES_MIN, is_white, sample, trim_end};

/// What the tail takes of a chunk, at least.
const PIECE_BYTES: usize = 64;

/// A chunk, and how much of it is in the tail.
struct Chunk<'c, 'i> {
    /// What is left of it.
    input: &'c mut &'i [u8],
    /// What is left of it, with what of it is in the tail.
    all: &'i [u8],
    /// So many first bytes of `all` are the last ones of the tail.
    taken: usize,
    now_ns: u64,
}

/// Where the bytes of a frame are.
#[derive(Clone, Copy)]
enum Site<'i> {
    /// In the tail, from this position on.
    Tail(usize),
    Chunk(&'i [u8]),
}

impl Framer {
    /// The next frame; see [`Framer::next_within`].
    pub(super) fn next_in_window<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        now_ns: u64,
        input: &mut &'i [u8],
        budget: &mut usize,
    ) -> Option<Framed<'s>> {
        let mut chunk = Chunk { all: input, input, taken: 0, now_ns };
        self.notes.clear(Notes::STARVED);
        loop {
            if !self.has_window() {
                self.empty_tail();
                if self.notes.has(Notes::CLOSED) {
                    self.reopen(framing);
                }
            }
            let window = self.window(&chunk);
            if window.is_empty() {
                return None;
            }
            if self.state == State::Passing {
                let passed = window.len().min(self.quiet as usize);
                self.consume(passed, &mut chunk);
                if self.quiet == 0 {
                    self.state = State::Between;
                }
                continue;
            }
            match self.search(framing).look(window, budget) {
                Look::More(mark) => {
                    self.mark = mark as u32;
                    if !self.fill(framing, &mut chunk) {
                        return None;
                    }
                }
                Look::Starved => {
                    self.notes.set(Notes::STARVED);
                    return None;
                }
                Look::Skip(bytes) => self.consume(bytes, &mut chunk),
                Look::Resume { bytes, ended } => {
                    self.consume(bytes, &mut chunk);
                    self.resume(framing, ended);
                }
                Look::Pass(bytes) => {
                    let quiet = bytes.min(self.quiet as usize);
                    let counts = garbage_of(framing, &window[quiet..bytes]).is_some();
                    let site = self.site(&chunk);
                    self.consume(bytes, &mut chunk);
                    if counts {
                        return garbage_of(framing, &self.bytes(site)[quiet..bytes]);
                    }
                }
                look => return Some(self.say(framing, look, &mut chunk)),
            }
        }
    }

    /// What is known in front of the window.
    fn search<'f>(&self, framing: &'f Framing) -> Search<'f> {
        Search {
            framing,
            state: self.state,
            last: self.notes.has(Notes::CLOSED),
            gives_up: self.notes.has(Notes::GIVES_UP),
            astray: self.notes.has(Notes::ASTRAY),
            quiet: self.quiet as usize,
            mark: self.mark as usize,
            unit: if self.notes.has(Notes::JOINED) { 1 } else { framing.unit_bytes },
        }
    }

    /// What becomes of a look that has something to say.
    fn say<'s, 'i: 's>(&'s mut self, framing: &'s Framing, look: Look, chunk: &mut Chunk<'_, 'i>) -> Framed<'s> {
        let joined = self.notes.has(Notes::JOINED);
        let reason = |reason| if joined { RejectReason::Joined } else { reason };
        let site = self.site(chunk);
        self.notes.clear(Notes::JOINED);
        match look {
            Look::Frame(parts) => {
                let (first_byte_ns, flags) = (self.first_byte_ns(chunk), self.flags_of(framing, parts));
                self.notes.clear(Notes::ASTRAY);
                self.consume(parts.bytes, chunk);
                self.quiet = 0;
                if joined && framing.starts.is_empty() {
                    self.stay_out(framing);
                    return self.reject(framing, site, RejectReason::Joined, (parts.start, parts.payload));
                }
                self.give(framing, site, parts, (first_byte_ns, flags))
            }
            Look::TooLong(parts) => {
                let (first_byte_ns, flags) = (self.first_byte_ns(chunk), self.flags_of(framing, parts));
                self.consume(parts.payload, chunk);
                self.leave(framing, parts);
                if joined || framing.oversized == Oversized::Drop {
                    return self.reject(framing, site, reason(RejectReason::Oversized), (parts.start, parts.payload));
                }
                self.give(framing, site, parts, (first_byte_ns, flags | FrameFlags::CUT))
            }
            Look::Restart { start, at } => {
                self.consume(at, chunk);
                self.reject(framing, site, reason(RejectReason::Unfinished), (start, at))
            }
            Look::Damaged { reason: why, shown, extent } => {
                let window_bytes = self.window(chunk).len();
                let passed = self.lose_step(framing, extent, window_bytes);
                self.quiet = if passed == 1 { extent.unwrap_or(window_bytes) as u32 } else { 0 };
                self.advance(passed, chunk);
                self.reject(framing, site, reason(why), shown)
            }
            Look::More(_) | Look::Starved | Look::Pass(_) | Look::Skip(_) | Look::Resume { .. } => {
                unreachable!("it says nothing")
            }
        }
    }

    /// A frame was wrong: how many bytes of it are done with. Of a framing that can find its step again in it, that is one.
    fn lose_step(&mut self, framing: &Framing, extent: Option<usize>, window_bytes: usize) -> usize {
        let is_counted = matches!(framing.kind, FramingKind::Length(_) | FramingKind::Fixed { .. });
        if framing.is_searchable() {
            if is_counted {
                self.notes.set(Notes::ASTRAY);
            }
            return 1;
        }
        match extent {
            Some(extent) => {
                self.stay_out(framing);
                extent.min(window_bytes)
            }
            None => {
                self.state = State::Discarding;
                0
            }
        }
    }

    /// Nothing but a silence tells where the next frame begins.
    fn stay_out(&mut self, framing: &Framing) {
        let is_counted = matches!(framing.kind, FramingKind::Length(_) | FramingKind::Fixed { .. });
        if is_counted && !framing.is_searchable() && framing.idle.is_some() {
            self.state = State::Discarding;
        }
    }

    /// A frame was too long: what follows of it is passed over.
    fn leave(&mut self, framing: &Framing, parts: Parts) {
        self.quiet = 0;
        self.state = match framing.kind {
            FramingKind::Length(_) | FramingKind::Fixed { .. } => {
                self.quiet = (parts.bytes - parts.payload) as u32;
                State::Passing
            }
            FramingKind::Delimiter { .. } | FramingKind::IdleGap => State::Discarding,
        };
    }

    /// What was passed over is over.
    fn resume(&mut self, framing: &Framing, ended: bool) {
        self.state = State::Between;
        if let Some(sum) = framing.checksum.as_ref().filter(|sum| ended && sum.place == Place::Behind && !sum.optional)
        {
            self.quiet = (sum.separator.len() + sum.bytes()) as u32;
            self.state = State::Passing;
        }
    }

    /// All that came before a silence, or before the stream was joined again, is dealt with.
    fn reopen(&mut self, framing: &Framing) {
        let lost = self.notes.has(Notes::LOST);
        self.notes
            .clear(Notes::CLOSED | Notes::LOST | Notes::JOINED | Notes::ASTRAY | Notes::FINISHING | Notes::GIVES_UP);
        (self.state, self.quiet, self.mark) = (State::Between, 0, 0);
        if lost {
            self.stray(framing);
        }
    }

    /// Bytes were lost between two frames.
    fn stray(&mut self, framing: &Framing) {
        match framing.kind {
            FramingKind::Length(_) | FramingKind::Fixed { .. } if framing.is_searchable() => {
                self.notes.set(Notes::ASTRAY);
            }
            _ if framing.starts.is_empty() => self.notes.set(Notes::JOINED),
            _ => {}
        }
    }

    /// See [`Framer::join_inside`].
    pub(super) fn join_window(&mut self, framing: &Framing) {
        if framing.is_searchable() && self.has_window() {
            self.notes.set(Notes::CLOSED | Notes::LOST | Notes::JOINED);
            return;
        }
        if self.state == State::Discarding && framing.starts.is_empty() {
            return; // it goes on up to the first end in any case
        }
        if !self.has_window() {
            (self.state, self.quiet) = (State::Between, 0);
            self.last_byte_ns = u64::MAX; // the silence begins with the first byte
        }
        self.stray(framing);
    }

    /// A silence came, where something had come before it.
    pub(super) fn close(&mut self, framing: &Framing) {
        if self.has_window() {
            self.notes.set(Notes::CLOSED);
        } else {
            self.reopen(framing);
        }
    }

    /// Whether there is anything that a silence changes.
    pub(super) fn is_begun(&self) -> bool {
        self.has_window() || self.state != State::Between || self.notes.has(Notes::ASTRAY | Notes::JOINED)
    }

    // ---- the window

    pub(super) fn has_window(&self) -> bool {
        self.tail.len() > self.spent_bytes as usize
    }

    fn window<'w, 'i: 'w>(&'w self, chunk: &Chunk<'_, 'i>) -> &'w [u8] {
        if self.has_window() { &self.tail[self.spent_bytes as usize..] } else { chunk.input }
    }

    fn site<'i>(&self, chunk: &Chunk<'_, 'i>) -> Site<'i> {
        if self.has_window() { Site::Tail(self.spent_bytes as usize) } else { Site::Chunk(chunk.input) }
    }

    /// The window as it was, at least what of it is done with.
    fn bytes<'s, 'i: 's>(&'s self, site: Site<'i>) -> &'s [u8] {
        match site {
            Site::Tail(at) => &self.tail[at..],
            Site::Chunk(bytes) => bytes,
        }
    }

    fn first_byte_ns(&self, chunk: &Chunk<'_, '_>) -> u64 {
        if self.has_window() { self.first_byte_ns } else { chunk.now_ns }
    }

    pub(super) fn empty_tail(&mut self) {
        if self.spent_bytes > 0 || self.tail.capacity() > 0 {
            (self.tail, self.spent_bytes) = (Vec::new(), 0);
        }
    }

    /// The first `bytes` of the window are done with.
    fn advance(&mut self, bytes: usize, chunk: &mut Chunk<'_, '_>) {
        if self.has_window() {
            self.spent_bytes += bytes as u32;
        } else {
            *chunk.input = &chunk.input[bytes..];
            chunk.all = *chunk.input;
        }
        let bytes = bytes as u32;
        self.mark = 0;
        self.quiet = self.quiet.saturating_sub(bytes);
        if self.flags_to < bytes {
            self.flags = FrameFlags::default();
        }
        self.flags_from = self.flags_from.saturating_sub(bytes);
        self.flags_to = self.flags_to.saturating_sub(bytes);
    }

    /// As [`Framer::advance`]; what is left in the tail and came with this chunk goes back to it.
    fn consume(&mut self, bytes: usize, chunk: &mut Chunk<'_, '_>) {
        let in_tail = self.has_window();
        self.advance(bytes, chunk);
        let left = self.tail.len() - self.spent_bytes as usize;
        if in_tail && left <= chunk.taken {
            self.tail.truncate(self.spent_bytes as usize);
            *chunk.input = &chunk.all[chunk.taken - left..];
            (chunk.all, chunk.taken) = (*chunk.input, 0);
        }
    }

    /// More of the chunk is needed in the tail. Whether there was any that was not looked at.
    fn fill(&mut self, framing: &Framing, chunk: &mut Chunk<'_, '_>) -> bool {
        let has = self.tail.len() - self.spent_bytes as usize;
        if has == 0 {
            // All of it was the window. Nothing of it is a frame, so it is shorter than the longest one.
            self.first_byte_ns = chunk.now_ns;
        }
        let most = 2 * reach_bytes(framing) + PIECE_BYTES;
        let want = match (self.mark as usize).checked_sub(has).filter(|more| *more > 0) {
            _ if has == 0 => chunk.input.len(),
            Some(more) => more,
            None => has.max(PIECE_BYTES).min(most.saturating_sub(has)).max(1),
        };
        let (piece, rest) = chunk.input.split_at(want.min(chunk.input.len()));
        if piece.is_empty() {
            return false;
        }
        self.tail.drain(..self.spent_bytes as usize);
        self.spent_bytes = 0;
        let needed = has + piece.len();
        if needed > self.tail.capacity() {
            let target = needed.max(2 * self.tail.capacity()).max(TAIL_BYTES_MIN).min(most.max(needed));
            self.tail.reserve_exact(target - has);
        }
        self.tail.extend_from_slice(piece);
        *chunk.input = rest;
        if has > 0 {
            chunk.taken += piece.len();
        }
        has > 0
    }

    /// What is to be known of a frame beside its bytes.
    fn flags_of(&self, framing: &Framing, parts: Parts) -> FrameFlags {
        let noted = if (self.flags_from as usize) < parts.bytes { self.flags } else { FrameFlags::default() };
        let is_cut_short = framing.kind != FramingKind::IdleGap || self.notes.has(Notes::FINISHING);
        noted | if parts.unended && is_cut_short { FrameFlags::UNENDED } else { FrameFlags::default() }
    }

    // ---- what is given

    fn reject<'s, 'i: 's>(
        &'s self,
        framing: &Framing,
        site: Site<'i>,
        reason: RejectReason,
        (from, to): (usize, usize),
    ) -> Framed<'s> {
        Framed::Rejected { reason, sample: sample(&self.bytes(site)[from..to], framing.max_bytes) }
    }

    /// The record of a frame, unless there is a reason against it.
    fn give<'s, 'i: 's>(
        &'s mut self,
        framing: &'s Framing,
        site: Site<'i>,
        parts: Parts,
        (first_byte_ns, flags): (u64, FrameFlags),
    ) -> Framed<'s> {
        let (mut flags, most) = (flags, payload_bytes_max(framing));
        let window = self.bytes(site);
        let mut content = content(framing, window, parts);
        let content_bytes = content.bytes(window).len();
        if content_bytes == 0 {
            return Framed::Empty;
        }
        let is_too_long = flags.contains(FrameFlags::CUT) || content_bytes > most;
        if is_too_long {
            if framing.oversized == Oversized::Drop {
                let place = (parts.header, parts.payload);
                return self.reject(framing, site, RejectReason::Oversized, place);
            }
            content.cut(most);
            flags |= FrameFlags::CUT;
        }
        let start = if framing.keep.start { &window[..parts.start] } else { &[] };
        let ends = framing.keep.end && !is_too_long && !parts.unended;
        let end = if ends { &window[parts.end.0..parts.end.1] } else { &[] };
        let range = content.with(parts, start.len(), end.len());
        let bytes: &'s [u8] = match range {
            Some((from, to)) => &self.bytes(site)[from..to],
            None => {
                let record = [start, content.bytes(window), end].concat();
                self.put(site, record)
            }
        };
        if framing.matching.as_ref().is_some_and(|matching| !matching.accepts(bytes)) {
            return Framed::Rejected { reason: RejectReason::NotMatched, sample: sample(bytes, framing.max_bytes) };
        }
        Framed::Record { bytes, first_byte_ns, flags }
    }

    /// Puts a record where its frame was, which is not shorter.
    fn put(&mut self, site: Site<'_>, record: Vec<u8>) -> &[u8] {
        match site {
            Site::Tail(at) => {
                let place = &mut self.tail[at..at + record.len()];
                place.copy_from_slice(&record);
                place
            }
            Site::Chunk(_) => {
                (self.spent_bytes, self.tail) = (record.len() as u32, record);
                &self.tail
            }
        }
    }
}

/// Header, if it is kept, and payload of a frame, trimmed.
enum Content {
    /// In the window.
    Range(usize, usize),
    Own(Vec<u8>),
}

impl Content {
    fn bytes<'a>(&'a self, window: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Range(from, to) => &window[*from..*to],
            Self::Own(bytes) => bytes,
        }
    }

    fn cut(&mut self, most: usize) {
        match self {
            Self::Range(from, to) => *to = (*to).min(*from + most),
            Self::Own(bytes) => bytes.truncate(most),
        }
    }

    /// Its place in the window, together with so many bytes of start and end, if that is one piece.
    fn with(&self, parts: Parts, start: usize, end: usize) -> Option<(usize, usize)> {
        let Self::Range(from, to) = self else { return None };
        let is_one = (start == 0 || *from == parts.start) && (end == 0 || *to == parts.end.0);
        is_one.then_some((from - start, to + end))
    }
}

fn content(framing: &Framing, window: &[u8], parts: Parts) -> Content {
    let keeps = matches!(&framing.kind, FramingKind::Length(field) if field.keep_header);
    let header = if keeps { parts.start } else { parts.header };
    let trimmed = |bytes: &[u8]| {
        if !framing.trim {
            return (0, bytes.len());
        }
        let to = trim_end(bytes).len();
        (usize::from(!keeps && bytes.first() == Some(&b'\n')).min(to), to)
    };
    if let Some(mut bytes) = unescaped(framing.escape, &window[header..parts.payload]) {
        bytes.truncate(bytes.len() - parts.sum_inside);
        let (from, to) = trimmed(&bytes);
        return Content::Own(bytes[from..to].to_vec());
    }
    let (from, to) = trimmed(&window[header..parts.payload]);
    Content::Range(header + from, header + to)
}

/// Bytes outside of a frame, unless they mean nothing or are only what trimming takes off.
fn garbage_of<'a>(framing: &Framing, bytes: &'a [u8]) -> Option<Framed<'a>> {
    let is_nothing = |byte: &u8| framing.trim && is_white(*byte) || framing.ignore.contains(byte);
    let first = bytes.iter().position(|byte| !is_nothing(byte))?;
    let last = bytes.iter().rposition(|byte| !is_nothing(byte))?;
    let bytes = &bytes[first..=last];
    Some(Framed::Garbage { bytes, count: bytes.iter().filter(|byte| !is_nothing(byte)).count() })
}
