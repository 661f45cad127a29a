//! What `ringest demo --chaos` does in the middle: it kills the gateway with SIGKILL, stops the
//! service for a while, and has a line unplugged.

use super::{Durability, Options, Window};
use std::time::{Duration, Instant, SystemTime};

/// The service stays away for this share of the time.
const AWAY_SHARE: u32 = 10;
/// What was written to a line so long before the kill may not have been read by then.
const UNREAD: Duration = Duration::from_secs(1);
/// A machine is heard so long after the start at the latest, and writes only then.
const SETTLED: Duration = Duration::from_millis(500);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    KillGateway,
    StopService,
    StartService,
}

/// When each deed is due, after the machines have begun.
#[derive(Debug)]
pub(super) struct Chaos {
    due: Vec<(Duration, Deed)>,
    /// When the gateway was killed.
    killed: Option<(Instant, SystemTime)>,
    /// What may have been lost on a line.
    pub window: Option<Window>,
}

impl Chaos {
    /// Without `--chaos` nothing is due.
    pub fn new(options: &Options) -> Self {
        let whole = options.duration;
        let mut due = Vec::new();
        if options.chaos {
            // The last one first.
            due.push((whole / 2 + whole / AWAY_SHARE, Deed::StartService));
            due.push((whole / 2, Deed::StopService));
            due.push((whole / 4, Deed::KillGateway));
        }
        Self { due, killed: None, window: None }
    }

    /// What is to be done now. At the end of the machines whatever is left of it is.
    pub fn next(&mut self, elapsed: Option<Duration>, is_over: bool) -> Option<Deed> {
        let is_due = |(at, _): &(Duration, Deed)| is_over || elapsed.is_some_and(|elapsed| elapsed >= *at);
        if !self.due.last().is_some_and(is_due) {
            return None;
        }
        self.due.pop().map(|(_, deed)| deed)
    }

    pub fn killed(&mut self) {
        self.killed = Some((Instant::now(), SystemTime::now()));
    }

    /// The gateway is ready again; how long it was away.
    pub fn back(&mut self) -> Duration {
        let (at, wall) = self.killed.expect("it was killed");
        let ns = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        self.window = Some(Window { from_ns: ns(wall - UNREAD), to_ns: ns(SystemTime::now() + SETTLED) });
        at.elapsed()
    }
}

/// When a line is unplugged, after the machines have begun.
pub(super) fn unplug_at(options: &Options) -> Option<Duration> {
    (options.chaos && options.machines > 0).then(|| options.duration * 3 / 4)
}

/// Whether what was received survives the kill.
pub(super) fn is_possible(options: &Options) -> bool {
    !options.chaos || options.durability != Durability::Memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deed_comes_once_in_its_order_and_none_is_left_at_the_end() {
        let options = Options { chaos: true, duration: Duration::from_secs(20), ..Options::default() };
        let mut chaos = Chaos::new(&options);
        let at = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((chaos.next(None, false), chaos.next(at(4), false)), (None, None));
        assert_eq!((chaos.next(at(5), false), chaos.next(at(9), false)), (Some(Deed::KillGateway), None));
        assert_eq!(chaos.next(at(10), false), Some(Deed::StopService));
        assert_eq!((chaos.next(at(10), true), chaos.next(at(10), true)), (Some(Deed::StartService), None));
        assert_eq!(Chaos::new(&Options::default()).next(at(9), true), None);
    }
}
