//! Ids: handed out from memory, reserved on disk in blocks by the store. Pure but for its lock; no I/O.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Ids reserved at a time; so many numbers can be skipped by a crash.
pub const BLOCK: i64 = 65_536;
/// Keys that are remembered at least; at most twice as many are.
const KEYS: usize = 65_536;

/// The source of ids.
#[derive(Debug, Default)]
pub struct Sequence {
    state: Mutex<State>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Reserved and not handed out; used from the front.
    reserved: VecDeque<Range<i64>>,
    /// A reservation is under way.
    asked: bool,
    /// Why the last reservation failed.
    failed: Option<String>,
    /// Ids by key, the younger and the older half.
    young: HashMap<Box<str>, Range<i64>>,
    old: HashMap<Box<str>, Range<i64>>,
}

/// What came of a request for an id.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Ids(Range<i64>),
    Wait,
    Failed(String),
}

impl Sequence {
    /// The next `count` ids or, at the end of a reservation, fewer; or those that `key` got before.
    /// `ask` must lead to [`Sequence::add`] or [`Sequence::fail`]; it is called when ids run low.
    ///
    /// # Errors
    /// The store's words when no id is left and none can be reserved.
    pub async fn take(&self, key: Option<&str>, count: i64, ask: impl Fn()) -> Result<Range<i64>, String> {
        loop {
            // Made before the look, so that a reservation between look and wait is not missed.
            let more = self.more.notified();
            let (taken, must_ask) = self.try_take(key, count);
            if must_ask {
                ask();
            }
            match taken {
                Taken::Ids(ids) => return Ok(ids),
                Taken::Failed(reason) => return Err(reason),
                Taken::Wait => more.await,
            }
        }
    }

    fn try_take(&self, key: Option<&str>, count: i64) -> (Taken, bool) {
        let mut state = self.state.lock().expect("never poisoned: nothing under the lock panics");
        if let Some(ids) = key.and_then(|key| state.known(key)) {
            return (Taken::Ids(ids), false);
        }
        let taken = match (state.next(count), state.failed.take()) {
            (Some(ids), _) => {
                if let Some(key) = key {
                    state.remember(key, ids.clone());
                }
                Taken::Ids(ids)
            }
            (None, Some(reason)) => Taken::Failed(reason),
            (None, None) => Taken::Wait,
        };
        let left: i64 = state.reserved.iter().map(|range| range.end - range.start).sum();
        let must_ask = left < BLOCK / 2 && !state.asked && !matches!(taken, Taken::Failed(_));
        state.asked |= must_ask;
        (taken, must_ask)
    }

    /// The next id, if one is reserved.
    pub fn next(&self) -> Option<i64> {
        self.state.lock().expect("never poisoned").next(1).map(|ids| ids.start)
    }

    /// Ids that were reserved on disk.
    pub fn add(&self, range: Range<i64>) {
        let mut state = self.state.lock().expect("never poisoned");
        state.asked = false;
        state.failed = None;
        state.reserved.push_back(range);
        drop(state);
        self.more.notify_waiters();
    }

    /// A reservation failed; the next request for an id asks again.
    pub fn fail(&self, reason: String) {
        let mut state = self.state.lock().expect("never poisoned");
        state.asked = false;
        state.failed = Some(reason);
        drop(state);
        self.more.notify_waiters();
    }

    /// A row with an id that was not handed out here: never hand it out.
    pub fn skip(&self, id: i64) {
        let mut state = self.state.lock().expect("never poisoned");
        if let Some(range) = state.reserved.iter_mut().find(|range| range.contains(&id)) {
            range.start = id + 1;
        }
    }

    /// Where the next start may go on, and the end of what was reserved, when what is left is one run up to that end.
    pub fn unused(&self) -> Option<Range<i64>> {
        let state = self.state.lock().expect("never poisoned");
        let last = state.reserved.back()?.clone();
        let start = state
            .reserved
            .iter()
            .rev()
            .skip(1)
            .fold(last.start, |start, range| if range.end == start { range.start } else { start });
        Some(start..last.end)
    }
}

impl State {
    fn next(&mut self, count: i64) -> Option<Range<i64>> {
        while let Some(range) = self.reserved.front_mut() {
            if !range.is_empty() {
                let end = range.end.min(range.start.saturating_add(count));
                return Some(std::mem::replace(&mut range.start, end)..end);
            }
            self.reserved.pop_front();
        }
        None
    }

    fn known(&self, key: &str) -> Option<Range<i64>> {
        self.young.get(key).or_else(|| self.old.get(key)).cloned()
    }

    fn remember(&mut self, key: &str, ids: Range<i64>) {
        if self.young.len() >= KEYS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.into(), ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(sequence: &Sequence, key: Option<&str>) -> i64 {
        match sequence.try_take(key, 1).0 {
            Taken::Ids(ids) => ids.start,
            other => panic!("no id: {other:?}"),
        }
    }

    #[test]
    fn ids_follow_each_other_and_a_key_keeps_its_id() {
        let sequence = Sequence::default();
        sequence.add(1..1 + BLOCK);
        assert_eq!(taken(&sequence, Some("a")), 1);
        assert_eq!(taken(&sequence, Some("b")), 2);
        assert_eq!(taken(&sequence, Some("a")), 1);
        assert_eq!(taken(&sequence, None), 3);
    }

    #[test]
    fn a_key_is_remembered_for_at_least_the_promised_number_of_others() {
        let sequence = Sequence::default();
        sequence.add(1..1_000_000);
        for n in 0..KEYS / 2 {
            taken(&sequence, Some(&format!("before {n}")));
        }
        let first = taken(&sequence, Some("first"));
        for n in 0..KEYS - 1 {
            taken(&sequence, Some(&format!("after {n}")));
        }
        assert_eq!(taken(&sequence, Some("first")), first);
        let state = sequence.state.lock().expect("fine");
        assert!(state.young.len() + state.old.len() <= 2 * KEYS);
    }

    #[test]
    fn it_asks_once_when_ids_run_low() {
        let sequence = Sequence::default();
        sequence.add(1..1 + BLOCK);
        let asks = (0..BLOCK).filter(|_| sequence.try_take(None, 1).1).count();
        assert_eq!(asks, 1);
        assert_eq!(sequence.try_take(None, 1), (Taken::Wait, false));
        sequence.add(500_000..500_000 + BLOCK);
        assert_eq!(taken(&sequence, None), 500_000);
    }

    #[tokio::test]
    async fn a_request_that_found_no_id_goes_on_when_some_are_reserved() {
        let sequence = std::sync::Arc::new(Sequence::default());
        let (asked, asks) = std::sync::mpsc::channel();
        let waiting = sequence.clone();
        let task = tokio::spawn(async move { waiting.take(None, 1, || asked.send(()).expect("the test waits")).await });
        while asks.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished());
        sequence.add(7..9);
        assert_eq!(task.await.expect("no panic"), Ok(7..8));
    }

    #[test]
    fn a_failed_reservation_is_told_once_and_asked_again() {
        let sequence = Sequence::default();
        assert_eq!(sequence.try_take(None, 1), (Taken::Wait, true));
        sequence.fail("disk full".to_owned());
        assert_eq!(sequence.try_take(None, 1), (Taken::Failed("disk full".to_owned()), false));
        assert_eq!(sequence.try_take(None, 1), (Taken::Wait, true));
    }

    #[test]
    fn foreign_ids_are_skipped_and_what_is_left_is_given_back() {
        let sequence = Sequence::default();
        sequence.add(1..100);
        sequence.add(100..200);
        sequence.skip(1);
        sequence.skip(5_000);
        assert_eq!(taken(&sequence, None), 2);
        assert_eq!(sequence.unused(), Some(3..200));
        sequence.add(300..400);
        assert_eq!(sequence.unused(), Some(300..400), "a gap is not given back");
    }

    #[test]
    fn many_are_given_one_after_the_other_and_again_under_the_same_key() {
        let sequence = Sequence::default();
        sequence.add(1..8);
        sequence.add(20..1_000_000);
        let block = |key, count| match sequence.try_take(key, count).0 {
            Taken::Ids(ids) => ids,
            other => panic!("no id: {other:?}"),
        };
        assert_eq!((block(Some("a"), 5), block(Some("b"), 5)), (1..6, 6..8));
        assert_eq!((block(Some("a"), 9), block(None, 100), block(None, 1)), (1..6, 20..120, 120..121));
    }
}
