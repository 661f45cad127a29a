//! Backpressure: what streams do while the journal has no room, and how they go on.
//!
//! | Stream | While it waits |
//! |---|---|
//! | TCP | reading stops; the kernel's buffer fills, and the sender's window closes |
//! | serial, `flow = "rtscts"` | reading stops; the tty drops RTS when its buffer of 4 KiB is full but for 128 bytes (the kernel's n_tty.c), and raises it when it is read again |
//! | serial, `flow = "xonxoff"` | as above; and XOFF is sent at once, XON at the end: not every driver sends them by itself, a pty does not |
//! | serial, `flow = "none"` | nothing holds it back, and what the kernel has no room for is lost uncounted: so it is read on, its share is held here, and of what comes beyond that the oldest records are rejected: counted, with a sample |

use super::link::{Held, State, Stream};
use super::{Fd, LinkId, Now, Op, Shard, SourceId};
use crate::config::{Flow, Settings, SourceKind, WhenFull};
use crate::framing::FrameFlags;

/// Most that is held of a serial line without flow control: what a tty holds by itself, more than a minute at 9600 baud.
const HELD_BYTES_MAX: usize = 64 << 10;
/// A piece of it that is added to.
const PIECE_BYTES: usize = 1 << 10;
/// Its least share where there are many lines.
const HELD_BYTES_MIN: usize = 4 << 10;

/// A line's share of a quarter of the window: memory is bounded however many lines there are.
pub(super) fn held_bytes_max(settings: &Settings, sources: &[SourceId]) -> usize {
    let is_line = |id: &&SourceId| matches!(settings.sources[id.0 as usize].kind, SourceKind::Serial(_));
    let lines = sources.iter().filter(is_line).count().max(1);
    (settings.journal.window_bytes / 4 / lines).clamp(HELD_BYTES_MIN, HELD_BYTES_MAX)
}

impl Shard {
    pub(super) fn pause_stream(&mut self, link: LinkId, stream: &mut Stream) {
        if stream.paused {
            return;
        }
        stream.paused = true;
        self.paused_links.push(link);
        if stream.flow == Some(Flow::None) {
            return;
        }
        self.hold_line(link, stream, true);
        if stream.reading {
            self.ops.push_back(Op::PauseRecv { link });
        }
    }

    /// Tells the machine at the other end to wait, or to go on, where that takes more than to stop reading.
    fn hold_line(&mut self, link: LinkId, stream: &mut Stream, hold: bool) {
        if stream.flow == Some(Flow::XonXoff)
            && std::mem::replace(&mut stream.told_to_wait, hold) != hold
            && let Some(fd) = self.links.find(link).and_then(|found| found.fd)
        {
            self.ops.push_back(Op::HoldLine { link, fd, hold });
        }
    }

    /// Links that wait for room go on once the journal takes records again. What was read is framed first, and nobody reads on before all
    /// of it is: else each could read a socket's whole buffer for the little room that there was, and with thousands of links that
    /// would be memory without a bound. So no more is held than a turn or two of reads.
    pub(super) fn resume_paused(&mut self, now: Now) {
        if self.paused_links.is_empty() {
            return;
        }
        let largest = self.settings.sources.iter().map(|source| source.framing.max_bytes).max().unwrap_or(0);
        if !self.journal().can_append(now, largest) {
            return;
        }
        let mut empty = Vec::new();
        for link in std::mem::take(&mut self.paused_links) {
            let Some((fd, state)) = self.links.take(link) else { continue };
            let State::Stream(mut stream) = state else {
                self.links.put(link, state);
                continue;
            };
            stream.paused = false;
            self.frame_all_held(now, link, &mut stream);
            if !stream.paused {
                if stream.ended || stream.flow == Some(Flow::None) {
                    self.resume_stream(now, link, fd, &mut stream);
                } else {
                    stream.paused = true;
                    empty.push(link);
                }
            }
            self.links.put(link, State::Stream(stream));
        }
        if !self.paused_links.is_empty() {
            self.paused_links.append(&mut empty);
            return;
        }
        for link in empty {
            let Some((fd, State::Stream(mut stream))) = self.links.take(link) else { continue };
            stream.paused = false;
            // Nothing was read meanwhile, so nothing is known of a silence.
            stream.framer.restart_silence(now.mono_ns);
            self.resume_stream(now, link, fd, &mut stream);
            self.links.put(link, State::Stream(stream));
        }
    }

    pub(super) fn resume_stream(&mut self, now: Now, link: LinkId, fd: Option<Fd>, stream: &mut Stream) {
        self.end_shedding(stream);
        if stream.ended {
            self.finish_stream(now, link, stream, "the line was lost while the journal was full");
            return;
        }
        self.watch_silence(link, stream);
        self.hold_line(link, stream, false);
        if !stream.reading
            && let Some(fd) = fd
        {
            stream.reading = true;
            self.ops.push_back(Op::Recv { link, fd, kind: self.readable(stream.source) });
        }
    }

    /// Whether the end of a stream has to wait, since the journal has no room for what the framer may still give.
    pub(super) fn must_wait(&mut self, now: Now, link: LinkId, stream: &mut Stream) -> bool {
        let framing = &self.settings.sources[stream.source.0 as usize].framing;
        let (may_give, max_bytes) = (framing.idle.is_some() && !stream.framer.is_empty(), framing.max_bytes);
        let rejects = self.settings.journal.when_full == WhenFull::Reject;
        if !stream.paused && may_give && !rejects && !self.journal().can_append(now, max_bytes) {
            self.pause_stream(link, stream);
        }
        stream.paused
    }

    /// Frames what was held, until there is no room again.
    pub(super) fn frame_all_held(&mut self, now: Now, link: LinkId, stream: &mut Stream) {
        stream.held_bytes = 0;
        for Held { at_ns, flags, bytes } in std::mem::take(&mut stream.held) {
            stream.flag(at_ns, flags);
            if !bytes.is_empty() {
                self.frame_held(now, link, stream, at_ns, &bytes);
            }
        }
    }

    /// Where a line that nothing holds back has sent more than its share: rejects its oldest records until the rest fits.
    pub(super) fn shed(&mut self, now: Now, link: LinkId, stream: &mut Stream) {
        if stream.flow != Some(Flow::None) {
            return;
        }
        while stream.held_bytes > self.held_bytes_max
            && let Some(held) = stream.held.pop_front()
        {
            self.begin_shedding(stream);
            stream.held_bytes -= held.cost();
            stream.framer.flag(held.flags);
            let max_bytes = self.settings.sources[stream.source.0 as usize].framing.max_bytes;
            let mut input = &held.bytes[..];
            loop {
                let full = !self.journal().can_append(now, max_bytes);
                if !self.frame_one(now, link, stream, held.at_ns, &mut input, full) {
                    break;
                }
            }
        }
    }

    fn begin_shedding(&mut self, stream: &mut Stream) {
        if !std::mem::replace(&mut stream.shedding, true) {
            let name = &self.settings.sources[stream.source.0 as usize].name;
            let problem = "the journal is full and the line has no flow control: its records are rejected";
            tracing::warn!("source {name}: {problem}");
            self.source(stream.source).problem = Some(problem.to_owned());
        }
    }

    fn end_shedding(&mut self, stream: &mut Stream) {
        if std::mem::take(&mut stream.shedding) {
            let name = &self.settings.sources[stream.source.0 as usize].name;
            tracing::info!("source {name}: the journal has room again");
            self.source(stream.source).problem = None;
        }
    }
}

impl Stream {
    /// Keeps bytes that came at `at_ns` until the journal has room.
    pub(super) fn hold(&mut self, at_ns: u64, bytes: &[u8]) {
        match self.held.back_mut() {
            _ if bytes.is_empty() => {}
            // What was read at one moment is one piece, however the marks of the line cut it. A piece is shed as a whole.
            Some(last) if last.at_ns == at_ns && last.bytes.len() < PIECE_BYTES => {
                last.bytes.extend_from_slice(bytes);
                self.held_bytes += bytes.len();
            }
            _ => self.push_held(Held { at_ns, flags: FrameFlags::default(), bytes: bytes.to_vec() }),
        }
    }

    /// A mark of the line, for the record that what comes next belongs to.
    pub(super) fn flag(&mut self, at_ns: u64, flags: FrameFlags) {
        if self.held.is_empty() {
            self.framer.flag(flags);
        } else if flags != FrameFlags::default() {
            self.push_held(Held { at_ns, flags, bytes: Vec::new() });
        }
    }

    fn push_held(&mut self, held: Held) {
        self.held_bytes += held.cost();
        self.held.push_back(held);
    }
}
