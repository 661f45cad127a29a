//! Backpressure: what streams do while the journal has no room, and how they go on.

use super::link::{Held, State, Stream};
use super::{Fd, LinkId, Now, Op, Readable, Shard};
use crate::config::WhenFull;

impl Shard {
    pub(super) fn pause_stream(&mut self, link: LinkId, stream: &mut Stream) {
        if !stream.paused {
            stream.paused = true;
            if stream.reading {
                self.ops.push_back(Op::PauseRecv { link });
            }
            self.paused_links.push(link);
        }
    }

    /// Links that stopped reading go on once the journal takes records again.
    pub(super) fn resume_paused(&mut self, now: Now) {
        let largest = self.settings.sources.iter().map(|source| source.framing.max_bytes).max().unwrap_or(0);
        if self.paused_links.is_empty() || !self.journal().can_append(now, largest) {
            return;
        }
        for link in std::mem::take(&mut self.paused_links) {
            let Some((fd, state)) = self.links.take(link) else { continue };
            let State::Stream(mut stream) = state else {
                self.links.put(link, state);
                continue;
            };
            stream.paused = false;
            for Held { at_ns, bytes } in std::mem::take(&mut stream.held) {
                self.frame_held(now, link, &mut stream, at_ns, &bytes);
            }
            // Nothing was read meanwhile, so nothing is known of a silence.
            stream.framer.restart_silence(now.mono_ns);
            self.watch_silence(link, &mut stream);
            if !stream.paused {
                self.resume_stream(now, link, fd, &mut stream);
            }
            self.links.put(link, State::Stream(stream));
        }
    }

    pub(super) fn resume_stream(&mut self, now: Now, link: LinkId, fd: Option<Fd>, stream: &mut Stream) {
        if stream.ended {
            self.finish_stream(now, link, stream, "the line was lost while the journal was full");
        } else if !stream.reading
            && let Some(fd) = fd
        {
            stream.reading = true;
            let kind = if stream.parmrk.is_some() { Readable::Tty } else { Readable::Socket };
            self.ops.push_back(Op::Recv { link, fd, kind });
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
}

impl Stream {
    /// Keeps bytes that came at `at_ns` until the journal has room.
    pub(super) fn hold(&mut self, at_ns: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.held.push(Held { at_ns, bytes: bytes.to_vec() });
        }
    }
}
