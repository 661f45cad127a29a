//! The loop that drives all machines on one thread: a heap of timers and an epoll instance.

use super::ledger::{self, Status};
use super::machine::{Machine, Way};
use super::schedule::Schedule;
use super::{Error, Options, Progress, Summary, pty};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::{TimeSpec, TimeValLike};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const STOP: u64 = u64::MAX;
const EVENTS: usize = 1024;
const PROGRESS_NS: u64 = 200_000_000;
const LEDGER_NS: u64 = 1_000_000_000;
/// Between the last machine's being ready and the schedule's zero.
const LEAD_NS: u64 = 5_000_000;
/// What a stop by the user leaves to finish what is under way.
const STOP_DRAIN_NS: u64 = 2_000_000_000;

/// What all machines share.
pub(super) struct Context {
    pub(super) epoll: Epoll,
    pub(super) options: Options,
    pub(super) schedule: Schedule,
    pub(super) counts: Summary,
    /// When the schedule began; none while machines are waited for.
    pub(super) start_ns: Option<u64>,
    /// Records due from here on are not sent.
    pub(super) stop_ns: u64,
    /// Machines that were ready to send once.
    pub(super) ready: usize,
    /// How often a pty without a reader is looked at.
    pub(super) reader_poll_ns: u64,
    /// Tells the requests of this run from those of others.
    pub(super) run: String,
    /// Where bytes that mean nothing are read to.
    pub(super) input: Vec<u8>,
    ledger: ledger::Writer,
    zero: Instant,
    /// Wall clock at `zero`, nanoseconds since 1970.
    zero_wall_ns: u64,
}

impl Context {
    pub(super) fn new(options: Options, schedule: Schedule) -> Result<Self, Error> {
        let (zero, zero_wall) = (Instant::now(), SystemTime::now());
        let zero_wall_ns = zero_wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ledger: ledger::Writer::create(options.ledger.as_deref())?,
            counts: Summary::default(),
            start_ns: None,
            stop_ns: u64::MAX,
            ready: 0,
            reader_poll_ns: (schedule.machines as u64 * 20_000).max(2_000_000),
            run: format!("{zero_wall_ns:x}"),
            input: vec![0; 4096],
            options,
            schedule,
            zero,
            zero_wall_ns,
        })
    }

    fn now_ns(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }

    /// A time of this run as nanoseconds since 1970. A step of the wall clock during a run is not followed.
    pub(super) fn wall_ns(&self, ns: u64) -> u64 {
        self.zero_wall_ns + ns
    }

    pub(super) fn wall_now_ns(&self) -> u64 {
        self.wall_ns(self.now_ns())
    }

    /// Counts and writes one line of the ledger.
    #[allow(clippy::too_many_arguments, reason = "the fields of a line, borrowed")]
    pub(super) fn enter(
        &mut self,
        machine: &str,
        sequence: u64,
        scheduled_ns: u64,
        sent_ns: u64,
        acknowledged_ns: u64,
        bytes: usize,
        status: Status,
    ) -> io::Result<()> {
        let counts = &mut self.counts;
        match status {
            Status::Sent => counts.sent += 1,
            Status::Acknowledged => {
                counts.sent += 1;
                counts.acknowledged += 1;
            }
            Status::Damaged => counts.damaged += 1,
            Status::Refused => counts.refused += 1,
            Status::Unanswered => counts.unanswered += 1,
            Status::Garbage => counts.garbage += 1,
        }
        if status != Status::Garbage {
            counts.late_max_us = counts.late_max_us.max(sent_ns.saturating_sub(scheduled_ns) / 1000);
        }
        self.ledger.append(machine, sequence, scheduled_ns, sent_ns, acknowledged_ns, bytes, status)
    }
}

/// All machines and their timers.
pub(super) struct World<'a> {
    context: Context,
    machines: Vec<Machine>,
    /// Time and machine; valid if it is the machine's `wake_ns`.
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    done: usize,
    stop: Option<BorrowedFd<'a>>,
    stopped: bool,
    report: &'a mut dyn FnMut(Progress),
    ledger_due_ns: u64,
    progress_due_ns: u64,
}

impl<'a> World<'a> {
    /// Makes the machines, and all symlinks of those on ptys.
    pub(super) fn new(
        context: Context,
        stop: Option<BorrowedFd<'a>>,
        report: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        raise_open_files();
        let options = &context.options;
        pty::check_available(options.ptys as u64)?;
        if options.ptys > 0 {
            std::fs::create_dir_all(&options.dir)
                .map_err(|error| pty::Error::Link { path: options.dir.clone(), error })?;
        }
        let ways = (0..options.ptys)
            .map(|index| Way::Pty(options.dir.join(machine_name(index))))
            .chain((0..options.tcp.0).map(|_| Way::Tcp(options.tcp.1)))
            .chain((0..options.http.0).map(|_| Way::Http(options.http.1)));
        let machines =
            ways.enumerate().map(|(index, way)| Machine::new(index, machine_name(index), way)).collect::<Vec<_>>();
        if let Some(stop) = stop {
            context.epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, STOP))?;
        }
        let mut world = Self {
            context,
            machines,
            timers: BinaryHeap::new(),
            done: 0,
            stop,
            stopped: false,
            report,
            ledger_due_ns: LEDGER_NS,
            progress_due_ns: 0,
        };
        for machine in &mut world.machines {
            machine.open_early(&mut world.context)?;
        }
        Ok(world)
    }

    /// Runs until all machines are done, or the time for it is over.
    pub(super) fn run(mut self) -> Result<Summary, Error> {
        let begun_ns = self.context.now_ns();
        let give_up_ns = begun_ns + self.context.options.wait_for_reader.as_nanos() as u64;
        self.wake_all(begun_ns);
        loop {
            let now_ns = self.context.now_ns();
            self.run_timers(now_ns)?;
            if self.done == self.machines.len() {
                break;
            }
            if self.context.start_ns.is_none() {
                if self.context.ready == self.machines.len() {
                    // Opening thousands of ports took its time.
                    let now_ns = self.context.now_ns();
                    self.context.start_ns = Some(now_ns + LEAD_NS);
                    self.wake_all(now_ns);
                } else if self.stopped {
                    break;
                } else if now_ns >= give_up_ns {
                    return Err(self.not_ready());
                }
            }
            if now_ns >= self.deadline_ns() {
                break;
            }
            self.tell(now_ns)?;
            self.wait(now_ns)?;
        }
        for machine in self.machines.iter_mut().filter(|machine| !machine.is_done()) {
            machine.abandon(&mut self.context)?;
        }
        self.finish()
    }

    /// When the run ends although machines are not done.
    fn deadline_ns(&self) -> u64 {
        let Some(start_ns) = self.context.start_ns else { return u64::MAX };
        let drain_ns = self.context.options.drain.as_nanos() as u64;
        if self.stopped {
            self.context.stop_ns + drain_ns.min(STOP_DRAIN_NS)
        } else {
            start_ns + self.context.options.duration.as_nanos() as u64 + drain_ns
        }
    }

    fn not_ready(&self) -> Error {
        let waiting = self.machines.iter().filter(|machine| !machine.was_ready());
        let count = waiting.clone().count();
        let first = waiting.map(Machine::waits_for).next().unwrap_or_default();
        Error::NotReady { first, count, waited: self.context.options.wait_for_reader }
    }

    fn wake_all(&mut self, now_ns: u64) {
        for machine in self.machines.iter_mut().filter(|machine| !machine.is_done()) {
            machine.wake_ns = now_ns;
            self.timers.push(Reverse((now_ns, machine.index)));
        }
    }

    fn run_timers(&mut self, now_ns: u64) -> Result<(), Error> {
        // A machine that has more to do asks to be woken at once; the descriptors have their turn in between.
        for _ in 0..self.timers.len() {
            let Some(&Reverse((due_ns, index))) = self.timers.peek() else { break };
            if due_ns > now_ns {
                break;
            }
            self.timers.pop();
            if self.machines[index].wake_ns == due_ns {
                self.advance(index, now_ns, false)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, now_ns: u64, event: bool) -> Result<(), Error> {
        let machine = &mut self.machines[index];
        if machine.is_done() {
            return Ok(());
        }
        let wake_ns = machine.advance(&mut self.context, now_ns, event)?.unwrap_or(u64::MAX);
        // After an event its timer may still be there; the timer that led here is not.
        if wake_ns != u64::MAX && (!event || wake_ns != machine.wake_ns) {
            self.timers.push(Reverse((wake_ns, index)));
        }
        machine.wake_ns = wake_ns;
        self.done += usize::from(machine.is_done());
        Ok(())
    }

    fn wait(&mut self, now_ns: u64) -> Result<(), Error> {
        let next_ns = self.timers.peek().map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns);
        let until_ns = next_ns.min(self.ledger_due_ns).min(self.progress_due_ns).min(self.deadline_ns());
        let timeout = TimeSpec::nanoseconds(until_ns.saturating_sub(now_ns).min(PROGRESS_NS) as i64);
        // epoll_wait counts in milliseconds, which is too coarse for a schedule.
        match ppoll(&mut [PollFd::new(self.context.epoll.0.as_fd(), PollFlags::POLLIN)], Some(timeout), None) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.context.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let now_ns = self.context.now_ns();
        for event in &events[..count] {
            match event.data() {
                STOP => self.stop(now_ns),
                index => self.advance(index as usize, now_ns, true)?,
            }
        }
        Ok(())
    }

    fn stop(&mut self, now_ns: u64) {
        self.stopped = true;
        self.hear();
        self.context.stop_ns = now_ns;
        self.wake_all(now_ns);
    }

    /// Lets others know how far it is.
    fn tell(&mut self, now_ns: u64) -> Result<(), Error> {
        if now_ns >= self.ledger_due_ns {
            self.context.ledger.flush()?;
            self.ledger_due_ns = now_ns + LEDGER_NS;
        }
        if now_ns >= self.progress_due_ns {
            self.progress_due_ns = now_ns + PROGRESS_NS;
            let context = &self.context;
            let elapsed_ns = context.start_ns.map(|start_ns| now_ns.saturating_sub(start_ns));
            (self.report)(Progress {
                machines: self.machines.len(),
                ready: context.ready,
                elapsed: elapsed_ns.map(Duration::from_nanos),
                sent: context.counts.sent,
                late_max_us: context.counts.late_max_us,
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Summary, Error> {
        self.context.ledger.flush()?;
        let mut summary = self.context.counts.clone();
        summary.machines = self.machines.len() as u64;
        let now_ns = self.context.now_ns();
        summary.elapsed_ms = self.context.start_ns.map_or(0, |start_ns| now_ns.saturating_sub(start_ns) / 1_000_000);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            summary.cpu_ms =
                (usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds()).max(0) as u64;
        }
        summary.stopped = self.stopped;
        if self.context.options.hold {
            (self.context.options.on_held)(&summary);
            self.hold()?;
        }
        Ok(summary)
    }

    /// Takes the wish to stop away, so that the next one is seen.
    fn hear(&self) {
        if let Some(stop) = self.stop {
            // Where nothing can be read, as of a closed pipe, the wish stays.
            let _ = nix::unistd::read(stop, &mut [0; 128]);
        }
    }

    /// Keeps all ports open until it is told to stop, once more where that was how it came to its end: a reader may not have all
    /// yet, and a closed pty takes away what was not read.
    fn hold(&self) -> Result<(), Error> {
        let Some(stop) = self.stop else { return Ok(()) };
        loop {
            match ppoll(&mut [PollFd::new(stop, PollFlags::POLLIN)], None, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// `machine-0000`, `machine-0001` and so on, over all ways.
pub(super) fn machine_name(index: usize) -> String {
    format!("machine-{index:04}")
}

/// Thousands of ports need more than the usual soft limit of 1,024. What the hard limit does not allow shows at the port.
pub(crate) fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
