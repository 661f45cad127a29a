//! What every part of a world shares: the virtual clock, the queue of events, the seeded randomness, the trace and the
//! counts. Nothing here reads a clock, a thread or the order of a hash map, so a seed gives one run and one only.

use super::event::Event;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::{self, Write};
use std::rc::Rc;

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000_000_000;

/// Events in the order of their time; those of the same time in the order in which they were made.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    made: u64,
}

struct Entry {
    at_ns: u64,
    made: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ns, self.made) == (other.at_ns, other.made)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.made).cmp(&(other.at_ns, other.made))
    }
}

impl Queue {
    pub fn push(&mut self, at_ns: u64, event: Event) {
        self.made += 1;
        self.heap.push(Reverse(Entry { at_ns, made: self.made, event }));
    }

    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.0.at_ns)
    }

    /// The next event, if its time is not after `now_ns`.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Event> {
        if self.next_at()? > now_ns {
            return None;
        }
        self.heap.pop().map(|entry| entry.0.event)
    }
}

/// A hash of all that happened, and its last lines in words.
#[derive(Clone)]
pub struct Trace(Rc<RefCell<TraceState>>);

struct TraceState {
    hash: u64,
    count: u64,
    last: VecDeque<String>,
    scratch: String,
    echo: bool,
}

/// Lines shown when a world fails.
const LAST_LINES: usize = 60;

impl Trace {
    /// With `echo`, every line is printed as it is made.
    pub fn new(echo: bool) -> Self {
        Self(Rc::new(RefCell::new(TraceState {
            hash: 0xcbf2_9ce4_8422_2325,
            count: 0,
            last: VecDeque::with_capacity(LAST_LINES),
            scratch: String::new(),
            echo,
        })))
    }

    pub fn line(&self, now_ns: u64, words: fmt::Arguments<'_>) {
        let state = &mut *self.0.borrow_mut();
        state.scratch.clear();
        let _ = write!(state.scratch, "{:>12.3} ms  {words}", now_ns as f64 / MS as f64);
        for &byte in state.scratch.as_bytes() {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3); // FNV-1a
        }
        state.count += 1;
        if state.echo {
            println!("{}", state.scratch);
        }
        let mut oldest =
            if state.last.len() == LAST_LINES { state.last.pop_front().unwrap_or_default() } else { String::new() };
        oldest.clear();
        oldest.push_str(&state.scratch);
        state.last.push_back(oldest);
    }

    /// Hash and number of all lines so far.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.0.borrow();
        (state.hash, state.count)
    }

    /// Prints the last lines, for a world that failed.
    pub fn print_last(&self) {
        for line in &self.0.borrow().last {
            eprintln!("{line}");
        }
    }
}

/// What happened in a world, or in many.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stats {
    pub worlds: u64,
    /// Records that machines made.
    pub sent: u64,
    /// Rows at the receiver.
    pub delivered: u64,
    pub turns: u64,
    /// Occurrences by name: faults, crashes, and events that worlds must reach.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stats {
    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    pub fn of(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.turns += other.turns;
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, sent, delivered, turns, counts } = self;
        writeln!(
            f,
            "{worlds} worlds: {sent} records sent, {delivered} delivered, {turns} turns of the shard; of these things:"
        )?;
        for (name, count) in counts {
            writeln!(f, "{count:>9} {name}")?;
        }
        Ok(())
    }
}

/// The shared state of a world.
pub struct Context {
    pub now_ns: u64,
    pub rng: fastrand::Rng,
    pub queue: Queue,
    pub trace: Trace,
    pub stats: Stats,
}

impl Context {
    pub fn new(seed: u64, echo: bool) -> Self {
        Self {
            now_ns: S, // not 0, so that "a moment ago" is a valid time
            rng: fastrand::Rng::with_seed(seed),
            queue: Queue::default(),
            trace: Trace::new(echo),
            stats: Stats::default(),
        }
    }

    /// An event `delay_ns` from now.
    pub fn after(&mut self, delay_ns: u64, event: Event) {
        self.queue.push(self.now_ns + delay_ns, event);
    }

    pub fn say(&self, words: fmt::Arguments<'_>) {
        self.trace.line(self.now_ns, words);
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }
}

/// One line of the trace.
#[macro_export]
macro_rules! say {
    ($cx:expr, $($words:tt)*) => { $cx.say(format_args!($($words)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_made() {
        let mut queue = Queue::default();
        for (at, machine) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            queue.push(at, Event::Machine { machine, wake: 0 });
        }
        let mut order = Vec::new();
        assert!(queue.pop_due(2).is_none());
        while let Some(Event::Machine { machine, .. }) = queue.pop_due(5) {
            order.push(machine);
        }
        assert_eq!(order, [1, 3, 0, 2]);
    }

    #[test]
    fn a_trace_tells_lines_that_differ_in_one_byte_or_in_time_apart() {
        let digest = |at, word: &str| {
            let trace = Trace::new(false);
            trace.line(at, format_args!("{word}"));
            trace.digest()
        };
        assert_eq!(digest(1_000_000, "a"), digest(1_000_000, "a"));
        assert_ne!(digest(1_000_000, "a"), digest(1_000_000, "b"));
        assert_ne!(digest(1_000_000, "a"), digest(2_000_000, "a"));
    }
}
