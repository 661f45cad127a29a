//! The share of a turn that intake has while requests are on their way to the API.
//!
//! A turn sends as many requests as there are in flight, however long it takes. So while there are
//! some, a turn has a budget for what machines send, and reads beyond it wait for the next turn: in
//! their order a link, the link's end behind them. Completions of everything else are always taken.
//!
//! What waits is bounded by the provided buffers. A link that is read without pause has one read at a
//! time asked for, and none at all while reads that wait have most of the buffers ([`Share::spares`]): the
//! others, and the API's answers, find one. It is asked again in the order in which it had to wait.
//!
//! Links that were quiet have a budget of their own, and go before those that are read in each turn. These
//! go before links that *flood*, whose reads fill their buffers. A flood is asked for one read at a time:
//! many at once would take all buffers.
//!
//! Where more comes than the disk takes, whoever sends next would wait for all of it: for a commit, or for
//! room. Then links that flood are not read until the disk has caught up, or hangs.

use crate::engine::buffers::InUse;
use crate::engine::ring::Cqe;
use crate::shard::{LinkId, Now};
use std::collections::VecDeque;

/// What a read costs beside its bytes: about what the kernel does for one, in bytes to be framed.
const READ_BYTES: usize = 512;
/// Bytes that a turn takes of machines for each request in flight, as long as a request takes about; of
/// quiet links as many again.
const BYTES_A_REQUEST: usize = 2 << 10;
/// The same for each record that a request may have beside its first.
const BYTES_A_RECORD: usize = 256;
/// With fewer in flight a turn has a budget as with so many: it has costs of its own.
const REQUESTS_MIN: usize = 8;
/// The budget at most, however much is in flight: a quiet machine waits for a turn.
const BUDGET_BYTES_MAX: usize = 128 << 10;
/// Links that flood have this part of the budget: all others wait for as long as a turn takes.
const FLOOD_SHARE: usize = 2;
/// Of links that flood, with nothing in flight: whether the disk is behind is asked once a turn.
const FLOOD_BYTES_MAX: usize = 1 << 20;
/// A disk that ends no commit for so long hangs: links that flood are read again, as far as there is room. A
/// request that nobody reads would run into its deadline.
const DISK_HANGS_NS: u64 = 1_000_000_000;
/// A link is quiet of which nothing was read in so many turns.
const QUIET_TURNS: u32 = 8;

/// How a link is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pace {
    /// Now and then.
    #[default]
    Quiet,
    /// In each turn.
    Busy,
    /// It has sent more than a read takes.
    Flood,
}

/// What is known of a link's reads.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reads {
    /// Completions that wait for a later turn.
    pub waiting: u16,
    /// On which list these are, and how it was read last.
    pub pace: Pace,
    /// The turn of its last read, or in which it was asked for one after it had to wait.
    turn: u32,
    /// Its last read filled the buffer: it has sent more than that.
    is_full: bool,
}

/// Reads that wait for their turn, and what is left of this one.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// By pace.
    lists: [List; 3],
    /// Single reads that were asked for in this turn.
    asked: usize,
    turn: u32,
    is_limited: bool,
    /// Links that flood are not read in this turn.
    holds_floods: bool,
    /// When the disk last ended a commit, or was not behind; in monotonic nanoseconds.
    disk_moved_ns: u64,
}

/// What waits of the links of one pace.
#[derive(Debug, Default)]
struct List {
    waiting: VecDeque<(LinkId, Cqe)>,
    /// Links that are to be read again once there are buffers.
    unread: VecDeque<LinkId>,
    left_bytes: usize,
}

impl List {
    fn has_budget(&self) -> bool {
        self.left_bytes > 0
    }
}

impl Share {
    /// A turn begins, with so many requests in flight of so many records each at most.
    /// `holds_floods`: see [`Share::holds_floods`].
    pub fn begin_turn(&mut self, in_flight: usize, records: usize, holds_floods: bool) {
        self.turn = self.turn.wrapping_add(1);
        self.is_limited = in_flight > 0 || holds_floods;
        self.holds_floods = holds_floods;
        let a_request = BYTES_A_REQUEST + BYTES_A_RECORD * (records - 1);
        let budget = match self.is_limited {
            true => (in_flight.max(REQUESTS_MIN) * a_request).min(BUDGET_BYTES_MAX),
            false => usize::MAX,
        };
        self.asked = 0;
        self.lists.iter_mut().for_each(|list| list.left_bytes = budget);
        let of_floods = if self.is_limited { budget / FLOOD_SHARE } else { FLOOD_BYTES_MAX };
        self.list(Pace::Flood).left_bytes = if holds_floods { 0 } else { of_floods };
    }

    /// Whether links that flood are not read, since the disk is behind. What they have sent already must not
    /// keep the others' buffers meanwhile, so it is taken as far as it does.
    pub fn holds_floods(&self, now: Now, is_disk_behind: bool, buffers: InUse) -> bool {
        is_disk_behind && now.mono_ns < self.disk_hangs_ns() && free_for_busy(buffers, 0) > 0
    }

    /// The disk has ended a commit, or is not behind.
    pub fn disk_moved(&mut self, now: Now) {
        self.disk_moved_ns = now.mono_ns;
    }

    /// When it hangs if it ends no commit until then, in monotonic nanoseconds.
    pub fn disk_hangs_ns(&self) -> u64 {
        self.disk_moved_ns + DISK_HANGS_NS
    }

    /// For the rest of this turn there is no budget.
    pub fn lift(&mut self) {
        (self.is_limited, self.holds_floods) = (false, false);
        self.lists.iter_mut().for_each(|list| list.left_bytes = usize::MAX);
    }

    fn list(&mut self, pace: Pace) -> &mut List {
        &mut self.lists[pace as usize]
    }

    /// Whether something waits that the next turn goes on with, though nothing happens until then.
    /// `holds_floods`: as it is now.
    pub fn has_waiting(&self, holds_floods: bool) -> bool {
        let lists = if holds_floods { &self.lists[..Pace::Flood as usize] } else { &self.lists[..] };
        lists.iter().any(|list| !list.waiting.is_empty() || !list.unread.is_empty())
    }

    /// Whether a completion of a link is handled now; else it waits. `is_full`: it has filled its buffer.
    pub fn takes(&mut self, id: LinkId, reads: &mut Reads, cqe: Cqe, is_full: bool) -> bool {
        // One that found no buffer says nothing.
        if cqe.result > 0 {
            reads.is_full = is_full;
        }
        if reads.waiting == 0 {
            reads.pace = match self.turn.wrapping_sub(reads.turn) > QUIET_TURNS {
                _ if reads.is_full => Pace::Flood,
                true => Pace::Quiet,
                false => Pace::Busy,
            };
        }
        let list = self.list(reads.pace);
        let takes = reads.waiting == 0 && list.waiting.is_empty() && list.has_budget();
        if takes {
            self.spend(reads, cqe);
        } else {
            list.waiting.push_back((id, cqe));
            reads.waiting += 1;
        }
        takes
    }

    /// The next completion that has waited, as long as there is something left for its list.
    pub fn pop(&mut self) -> Option<(LinkId, Cqe)> {
        self.lists.iter_mut().find_map(|list| if list.has_budget() { list.waiting.pop_front() } else { None })
    }

    /// A completion of a link is handled in this turn.
    pub fn spend(&mut self, reads: &mut Reads, cqe: Cqe) {
        reads.turn = self.turn;
        let list = self.list(reads.pace);
        list.left_bytes = list.left_bytes.saturating_sub(READ_BYTES + cqe.result.max(0) as usize);
    }

    /// Whether a link has to wait for its next read, so that others find a buffer; it is listed then.
    pub fn spares(&mut self, id: LinkId, reads: &Reads, buffers: InUse) -> bool {
        let has_none = free_for_busy(buffers, self.asked) == 0;
        let holds = match reads.pace {
            Pace::Quiet => return false,
            Pace::Busy if !self.is_limited => return false,
            Pace::Busy => false,
            Pace::Flood => self.holds_floods,
        };
        let unread = &mut self.list(reads.pace).unread;
        let spares = holds || has_none || !unread.is_empty();
        if spares {
            unread.push_back(id);
        }
        spares
    }

    /// Whether a link is asked for one read alone: it floods, or it is busy and many buffers are in use.
    pub fn asks_once(&mut self, reads: &Reads, buffers: InUse) -> bool {
        let once = match reads.pace {
            Pace::Quiet => false,
            Pace::Busy => self.is_limited && buffers.held > buffers.all / 8,
            Pace::Flood => true,
        };
        self.asked += usize::from(once);
        once
    }

    /// A link that had to wait is asked for its next read: it is no quiet one for that.
    pub fn ask_again(&self, reads: &mut Reads) {
        reads.turn = self.turn;
    }

    /// The next link that can be read again.
    pub fn pop_unread(&mut self, buffers: InUse) -> Option<LinkId> {
        if self.is_limited && free_for_busy(buffers, self.asked) == 0 {
            return None;
        }
        let lists = if self.holds_floods { &mut self.lists[..Pace::Flood as usize] } else { &mut self.lists[..] };
        lists.iter_mut().find_map(|list| list.unread.pop_front())
    }
}

/// How many buffers links may have that are read in each turn: a quarter is for the others. `asked`: reads
/// of this turn that may take one each.
fn free_for_busy(buffers: InUse, asked: usize) -> usize {
    (buffers.all / 4 * 3).saturating_sub(buffers.held + asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFERS: InUse = InUse { held: 0, all: 16 };

    fn link(index: u32) -> LinkId {
        LinkId { index, generation: 1 }
    }

    fn read(bytes: i32) -> Cqe {
        Cqe::of_bytes(bytes)
    }

    #[test]
    fn reads_beyond_the_budget_wait_in_their_order_until_it_is_lifted() {
        let (mut share, mut reads) = (Share::default(), Reads::default());
        share.begin_turn(1, 1, false);
        let taken = (0..64).take_while(|_| share.takes(link(0), &mut reads, read(1_000), false)).count();
        assert!((8..64).contains(&taken), "{taken} reads");
        // There is something left for a link that was quiet, and nothing for the one that waits.
        assert!(!share.takes(link(0), &mut reads, read(1), false));
        assert!(share.has_waiting(false) && share.pop().is_none());
        share.lift();
        let sizes: Vec<i32> = std::iter::from_fn(|| share.pop()).map(|(_, cqe)| cqe.result).collect();
        assert_eq!(sizes, [1_000, 1]);
        assert!(!share.has_waiting(false));
    }

    #[test]
    fn links_that_flood_are_not_read_while_the_disk_is_behind_and_are_all_asked_again_once_that_is_over() {
        let mut share = Share::default();
        let [quiet, busy, floods] =
            [Pace::Quiet, Pace::Busy, Pace::Flood].map(|pace| Reads { pace, ..Reads::default() });
        share.begin_turn(0, 1, true);
        assert!(!share.spares(link(0), &quiet, BUFFERS) && !share.spares(link(0), &busy, BUFFERS));
        assert!(share.spares(link(1), &floods, BUFFERS) && share.spares(link(2), &floods, BUFFERS));
        assert!(share.pop_unread(BUFFERS).is_none() && !share.has_waiting(true) && share.has_waiting(false));
        share.begin_turn(0, 1, false);
        let asked: Vec<LinkId> = std::iter::from_fn(|| share.pop_unread(BUFFERS)).collect();
        assert_eq!(asked, [link(1), link(2)]);
    }

    #[test]
    fn a_link_that_fills_its_buffers_floods_however_long_it_had_to_wait() {
        let (mut share, mut reads) = (Share::default(), Reads::default());
        let wait = |share: &mut Share| (0..2 * QUIET_TURNS).for_each(|_| share.begin_turn(0, 1, false));
        wait(&mut share);
        assert!(share.takes(link(0), &mut reads, read(100), false) && reads.pace == Pace::Quiet);
        assert!(!share.asks_once(&reads, BUFFERS));
        wait(&mut share);
        assert!(share.takes(link(0), &mut reads, read(4_096), true) && reads.pace == Pace::Flood);
        assert!(share.asks_once(&reads, BUFFERS));
        wait(&mut share);
        share.ask_again(&mut reads);
        assert!(share.takes(link(0), &mut reads, read(100), false) && reads.pace == Pace::Busy, "it was not read");
    }

    #[test]
    fn links_that_flood_are_read_again_once_a_disk_that_is_behind_hangs() {
        let mut share = Share::default();
        let at = |mono_ns| Now { mono_ns, ..Now::default() };
        share.disk_moved(at(5));
        assert!(share.holds_floods(at(5), true, BUFFERS) && !share.holds_floods(at(5), false, BUFFERS));
        assert!(share.holds_floods(at(4 + DISK_HANGS_NS), true, BUFFERS));
        assert!(!share.holds_floods(at(5 + DISK_HANGS_NS), true, BUFFERS));
    }
}
