//! What a stream's framer may spend in a turn on finding its step again, and how the stream goes on in the next one.
//!
//! A framer that is out of step looks for a frame at each byte. A stream that makes this as dear as it can must not cost the
//! others their turn. So a turn has a budget. Once it is used up, the stream holds what it has read, reading pauses, and its
//! timer brings it back in the next turn.

use super::stream::{Lent, Stream};
use crate::config::Flow;
use crate::framing::{Framing, search_bytes_max};
use crate::ground::LinkId;
use crate::shard::op::Op;
use crate::shard::timer::Timer;
use crate::shard::turn::{Phase, Turn};

/// The budget of a stream.
#[derive(Debug, Default)]
pub(super) struct SearchBudget {
    /// The turn that it is for.
    turn_ns: u64,
    /// What is left of it, in bytes.
    pub left_bytes: usize,
    /// It is used up: the stream waits for its next turn.
    pub waits: bool,
}

impl SearchBudget {
    /// A turn has its own. Nothing holds a stream back when intake ends.
    pub fn renew(&mut self, turn: &Turn<'_>, framing: &Framing) {
        if turn.phase != Phase::Running {
            self.left_bytes = usize::MAX;
        } else if self.turn_ns != turn.now.mono_ns {
            self.turn_ns = turn.now.mono_ns;
            self.left_bytes = search_bytes_max(framing);
        }
    }
}

impl Stream {
    /// The framer has used its budget up and left `rest`, which came at `at_ns`.
    pub(super) fn wait_for_turn(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, at_ns: u64, rest: &[u8]) {
        self.pressure.hold(at_ns, rest);
        self.search.waits = true;
        // Not in this turn, and behind those that have waited for theirs.
        lent.turn.timers.set(lent.turn.now.mono_ns + 2, Timer::Link(link));
        if self.reading && self.pressure.flow != Some(Flow::None) {
            lent.turn.emit(Op::PauseRecv { link });
        }
        self.shed(lent, link);
    }

    /// The next turn of a search.
    pub(super) fn go_on_searching(&mut self, lent: &mut Lent<'_, '_>, link: LinkId) {
        let now_ns = lent.turn.now.mono_ns;
        // One a turn: many such streams cost the others no more than one does.
        if std::mem::replace(&mut lent.shared.searched_ns, now_ns) == now_ns {
            lent.turn.timers.set(now_ns + 1, Timer::Link(link));
            return;
        }
        self.search.waits = false;
        self.frame_all_held(lent, link);
        if self.pressure.flow != Some(Flow::None) {
            // Nothing was read meanwhile, so nothing is known of a silence.
            self.framer.restart_silence(lent.turn.now.mono_ns);
        }
        if !self.search.waits && !self.pressure.paused {
            self.resume(lent, link);
        }
    }
}
