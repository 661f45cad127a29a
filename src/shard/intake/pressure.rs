//! Backpressure: what streams do while the journal has no room, and how they go on.
//!
//! | Stream | While it waits |
//! |---|---|
//! | TCP | reading stops; the kernel's buffer fills, and the sender's window closes |
//! | serial, `flow = "rtscts"` | reading stops; the tty drops RTS when its buffer of 4 KiB is full but for 128 bytes (the kernel's n_tty.c), and raises it when it is read again |
//! | serial, `flow = "xonxoff"` | as above; and XOFF is sent at once, XON at the end: not every driver sends them by itself, a pty does not |
//! | serial, `flow = "none"` | nothing holds it back, and what the kernel has no room for is lost uncounted: so it is read on, its share is held here, and of what comes beyond that the oldest records are rejected: counted, with a sample |
//!
//! Where such a line is configured, the journal keeps room that only such lines get
//! ([`Claim::CannotWait`]): all others wait once what is free comes down to that reserve. Who waits
//! goes on in the order in which they came to wait (`queue`).

use super::source::Sources;
use super::stream::{Lent, Stream, Streams};
use crate::config::{Flow, Settings, SourceKind, WhenFull};
use crate::framing::FrameFlags;
use crate::ground::{LinkId, SourceId};
use crate::journal::Claim;
use crate::shard::op::Op;
use crate::shard::turn::Turn;
use std::collections::VecDeque;

/// Most that is held of a serial line without flow control: what a tty holds by itself, more than a
/// minute at 9600 baud.
const HELD_BYTES_MAX: usize = 64 << 10;
/// A piece of it that is added to.
const PIECE_BYTES: usize = 1 << 10;
/// Its least share where there are many lines.
const HELD_BYTES_MIN: usize = 4 << 10;

/// Whether a source's line has nothing that holds it back.
fn cannot_wait(kind: &SourceKind) -> bool {
    matches!(kind, SourceKind::Serial(port) if port.flow == Flow::None)
}

/// Whether one of these sources cannot be held back, so that room is kept for it.
pub(in crate::shard) fn needs_reserve(settings: &Settings, sources: &[SourceId]) -> bool {
    sources.iter().any(|id| cannot_wait(&settings.sources[usize::from(id.0)].kind))
}

/// A line's share of a quarter of the window: memory is bounded however many lines there are.
pub(super) fn held_bytes_max(settings: &Settings, sources: &[SourceId]) -> usize {
    let is_line = |id: &&SourceId| matches!(settings.sources[id.0 as usize].kind, SourceKind::Serial(_));
    let lines = sources.iter().filter(is_line).count().max(1);
    (settings.journal.window_bytes / 4 / lines).clamp(HELD_BYTES_MIN, HELD_BYTES_MAX)
}

/// Bytes that wait to be framed, behind marks of the line. An idle gap before them is told by when
/// they came.
#[derive(Debug)]
pub(super) struct Held {
    at_ns: u64,
    flags: FrameFlags,
    bytes: Vec<u8>,
}

impl Held {
    /// Memory that it takes, about, in bytes: a line may send single bytes.
    fn cost(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

/// What a stream holds, and how far its machine was told to wait.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Of a tty: what makes its machine wait.
    pub flow: Option<Flow>,
    /// What was read but not framed, since the journal was full; oldest first.
    held: VecDeque<Held>,
    /// What `held` costs; see [`Held::cost`].
    held_bytes: usize,
    /// It waits for room in the journal. Reading was stopped, or is being stopped, unless nothing
    /// holds the line back.
    pub paused: bool,
    /// XOFF was sent, and no XON since.
    told_to_wait: bool,
    /// More came than may be held: records of it were rejected.
    shedding: bool,
}

impl Pressure {
    pub fn new(flow: Option<Flow>) -> Self {
        Self { flow, held: VecDeque::new(), held_bytes: 0, paused: false, told_to_wait: false, shedding: false }
    }

    /// What it is to the journal.
    pub fn claim(&self) -> Claim {
        if self.flow == Some(Flow::None) { Claim::CannotWait } else { Claim::Waits }
    }

    /// Whether something waits to be framed.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes that wait to be framed.
    pub fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.bytes.len() as u64).sum()
    }

    /// Keeps bytes that came at `at_ns` until the journal has room.
    pub fn hold(&mut self, at_ns: u64, bytes: &[u8]) {
        match self.held.back_mut() {
            _ if bytes.is_empty() => {}
            // What was read at one moment is one piece, however the marks of the line cut it. A
            // piece is shed as a whole.
            Some(last) if last.at_ns == at_ns && last.bytes.len() < PIECE_BYTES => {
                last.bytes.extend_from_slice(bytes);
                self.held_bytes += bytes.len();
            }
            _ => self.push(Held { at_ns, flags: FrameFlags::default(), bytes: bytes.to_vec() }),
        }
    }

    /// A mark of the line, behind what is held.
    pub fn flag(&mut self, at_ns: u64, flags: FrameFlags) {
        if flags != FrameFlags::default() {
            self.push(Held { at_ns, flags, bytes: Vec::new() });
        }
    }

    fn push(&mut self, held: Held) {
        self.held_bytes += held.cost();
        self.held.push_back(held);
    }

    fn take_held(&mut self) -> VecDeque<Held> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// The oldest piece, where more is held than may be.
    fn pop_beyond(&mut self, bytes_max: usize) -> Option<Held> {
        if self.held_bytes <= bytes_max {
            return None;
        }
        let held = self.held.pop_front()?;
        self.held_bytes -= held.cost();
        Some(held)
    }
}

impl Stream {
    pub(super) fn pause(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        if self.pressure.paused {
            return;
        }
        self.pressure.paused = true;
        lent.sources.queue.push_stream(link, self.pressure.claim());
        if self.pressure.flow == Some(Flow::None) {
            return;
        }
        self.hold_line(lent.turn, link, true);
        if self.reading {
            lent.turn.emit(Op::PauseRecv { link });
        }
    }

    /// Tells the machine at the other end to wait, or to go on, where that takes more than to stop
    /// reading.
    fn hold_line(&mut self, turn: &mut Turn<'_>, link: LinkId, hold: bool) {
        if self.pressure.flow == Some(Flow::XonXoff)
            && std::mem::replace(&mut self.pressure.told_to_wait, hold) != hold
            && let Some(fd) = turn.links.fd(link)
        {
            turn.emit(Op::HoldLine { link, fd, hold });
        }
    }

    pub(super) fn resume(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        self.end_shedding(lent.turn, lent.sources);
        if self.ended {
            self.finish(lent, link, "the line was lost while bytes of it waited to be framed");
            return;
        }
        self.watch_silence(lent.turn, link);
        self.hear(lent.turn.now.mono_ns); // nothing was read meanwhile
        self.hold_line(lent.turn, link, false);
        if !self.reading && lent.turn.links.fd(link).is_some() {
            self.reading = true;
            Streams::arm(lent.turn, link, self.sender.source);
        }
    }

    /// Whether the end of a stream has to wait, since the journal has no room for what the framer
    /// may still give.
    pub(super) fn must_wait(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) -> bool {
        let framing = &lent.turn.source(self.sender.source).framing;
        let may_give = (framing.gives_at_end() || self.emits_at_close(lent.turn)) && !self.framer.is_empty();
        let rejects = lent.turn.settings.journal.when_full == WhenFull::Reject;
        if !self.pressure.paused
            && may_give
            && !rejects
            && lent.store.room_for(lent.turn.now, self.pressure.claim(), framing.record_bytes_max()).is_none()
        {
            self.pause(lent, link);
        }
        self.pressure.paused || self.search.waits
    }

    /// Frames what was held, until there is no room again.
    pub(super) fn frame_all_held(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        for Held { at_ns, flags, bytes } in self.pressure.take_held() {
            self.flag(at_ns, flags);
            if !bytes.is_empty() {
                self.frame_held(lent, link, at_ns, &bytes);
            }
        }
        // A search that stopped where nothing more was to be read.
        if self.framer.is_starved() && !self.search.waits && !self.pressure.holds() {
            self.frame_held(lent, link, lent.turn.now.mono_ns, &[]);
        }
    }

    /// Where a line that nothing holds back has sent more than its share: rejects its oldest
    /// records until the rest fits.
    pub(super) fn shed(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        if self.pressure.flow != Some(Flow::None) {
            return;
        }
        let max_bytes = lent.turn.source(self.sender.source).framing.record_bytes_max();
        while let Some(held) = self.pressure.pop_beyond(lent.shared.held_bytes_max) {
            if self.pressure.paused {
                self.begin_shedding(lent.turn, lent.sources);
            }
            self.framer.flag(held.flags);
            // What has to go is not searched any longer than that: its records are rejected in any case.
            self.search.left_bytes = usize::MAX;
            let mut input = &held.bytes[..];
            loop {
                let room = lent.store.room_for(lent.turn.now, self.pressure.claim(), max_bytes);
                if !self.frame_one(lent, link, held.at_ns, &mut input, room) {
                    break;
                }
            }
        }
    }

    fn begin_shedding(&mut self, turn: &Turn<'_>, sources: &mut Sources) {
        if !std::mem::replace(&mut self.pressure.shedding, true) {
            let name = &turn.source(self.sender.source).name;
            let problem = "the journal is full and the line has no flow control: its records are rejected";
            tracing::warn!("source {name}: {problem}");
            sources.of(self.sender.source).problem = Some(problem.to_owned());
        }
    }

    fn end_shedding(&mut self, turn: &Turn<'_>, sources: &mut Sources) {
        if std::mem::take(&mut self.pressure.shedding) {
            let name = &turn.source(self.sender.source).name;
            tracing::info!("source {name}: the journal has room again");
            sources.of(self.sender.source).problem = None;
        }
    }
}
