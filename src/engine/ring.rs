//! The data ring: one io_uring of one core thread, with its provided buffers and the eventfd that wakes the runtime.
//!
//! It owns the queues and knows nothing of links or records. `SINGLE_ISSUER | DEFER_TASKRUN`: completions are made only
//! inside [`Ring::enter`], by the thread that created the ring. The kernel runs about 20 of them a call when it is not
//! asked to wait, and says by `IORING_SQ_TASKRUN` that there are more; so `enter` calls again while the flag is up, and the
//! flag is looked at before every sleep. The flag can be stale: who adds work on another CPU sets it after the work is in the
//! list, and by then this thread may have taken the work and cleared the flag. Then it stays up until work comes again, and
//! nothing may wait for it to fall. The eventfd is enabled only for the sleep: signals for what the thread itself
//! just completed would wake it for nothing.
#![allow(unsafe_code)] // submission entries carry raw addresses

use super::buffers::Buffers;
use super::error::memory_remedy;
use crate::config::{Limits, Settings};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long the end of a ring waits for the kernel to let go of memory.
const QUIESCE: Duration = Duration::from_secs(5);

/// Calls of [`Ring::enter`] in a row that make no completion, after which `IORING_SQ_TASKRUN` is taken for stale.
const STALE_ENTERS: usize = 16;

/// Sizes of a data ring.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// Submission entries, a power of two; more wait in user memory.
    pub submissions: u32,
    /// Completion entries, a power of two; more wait in the kernel.
    pub completions: u32,
    /// Provided read buffers, a power of two up to 32,768.
    pub read_buffers: usize,
    /// Size of each.
    pub read_buffer_bytes: usize,
}

impl RingOptions {
    /// Those of a configuration.
    pub(super) fn of(settings: &Settings) -> Self {
        let Limits { read_buffers, read_buffer_bytes, .. } = settings.limits;
        Self { read_buffers, read_buffer_bytes, ..Self::default() }
    }
}

/// Makes the data rings that a configuration needs, all at once, and lets them go.
///
/// # Errors
/// Those of io_uring_setup(2) and io_uring_register(2), and what to do where there is no memory.
pub fn try_rings(settings: &Settings) -> Result<(), String> {
    let rings: io::Result<Vec<Ring>> =
        settings.gateway.cores.iter().map(|_| Ring::new(&RingOptions::of(settings))).collect();
    rings.map(drop).map_err(|error| format!("{error}{}", memory_remedy(&error)))
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { submissions: 4096, completions: 16_384, read_buffers: 1024, read_buffer_bytes: 4096 }
    }
}

/// One completion, copied out of the queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cqe {
    pub(super) user_data: u64,
    pub(super) result: i32,
    flags: u32,
}

impl Cqe {
    /// A read of so many bytes, for tests.
    #[cfg(test)]
    pub(super) fn of_bytes(bytes: i32) -> Self {
        Self { user_data: 0, result: bytes, flags: 0 }
    }

    /// Whether the operation goes on and more completions of it follow.
    pub(super) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that holds the bytes.
    pub(super) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// One data ring.
pub(super) struct Ring {
    // Dropped in this order: the ring first, then what the kernel used through it.
    uring: IoUring,
    pub(super) buffers: Buffers,
    eventfd: EventFd,
    /// Entries for which the submission queue had no room.
    waiting: VecDeque<squeue::Entry>,
    /// Operations whose last completion was not taken yet.
    in_flight: usize,
    enters: u64,
    /// The kernel says that there is more to do, but there is not.
    stale: bool,
}

impl Ring {
    /// Makes a ring that belongs to the calling thread.
    ///
    /// # Errors
    /// Those of io_uring_setup(2) and io_uring_register(2): `PermissionDenied` where io_uring is forbidden.
    pub(super) fn new(options: &RingOptions) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(options.completions)
            .dontfork()
            .build(options.submissions)?;
        let buffers = Buffers::new(options.read_buffers, options.read_buffer_bytes)?;
        // SAFETY: the entries' memory belongs to `buffers`, which is dropped after the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                buffers.entries_address(),
                buffers.count(),
                Buffers::GROUP,
                0,
            )?;
        }
        let eventfd = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        uring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        let mut ring =
            Self { uring, buffers, eventfd, waiting: VecDeque::new(), in_flight: 0, enters: 0, stale: false };
        ring.uring.completion().disable_eventfd();
        Ok(ring)
    }

    /// Queues an operation; it starts with the next [`Ring::enter`].
    ///
    /// # Safety
    /// All memory that the entry names must stay valid, and be neither read nor written in a way that the operation
    /// forbids, until its last completion was taken; and its file must stay open until it was submitted.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if self.waiting.is_empty() {
            // SAFETY: the caller keeps the promise that `push` asks for.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.waiting.push_back(entry);
    }

    /// Asks the kernel to end the operations with this `user_data`; they complete with ECANCELED or with what they did.
    pub(super) fn cancel(&mut self, target: u64, user_data: u64) {
        let entry = opcode::AsyncCancel::new(target).build().user_data(user_data);
        // SAFETY: the entry names no memory and no file.
        unsafe { self.push(entry) };
    }

    /// The same for all operations with this `user_data`.
    pub(super) fn cancel_all(&mut self, target: u64, user_data: u64) {
        let all = types::CancelBuilder::user_data(target).all();
        let entry = opcode::AsyncCancel2::new(all).build().user_data(user_data);
        // SAFETY: the entry names no memory and no file.
        unsafe { self.push(entry) };
    }

    /// Submits what is queued and lets the kernel make completions, at least all that were due when it was called, or
    /// until `enough` wait to be taken.
    ///
    /// # Errors
    /// Any but EINTR, EAGAIN and EBUSY, after which the entries that the kernel did not take are kept for the next call.
    pub(super) fn enter(&mut self, enough: usize) -> io::Result<()> {
        let mut fruitless = 0;
        loop {
            let before = self.completions();
            self.refill();
            let queued = self.uring.submission().len();
            self.enters += 1;
            let submitter = self.uring.submitter();
            // SAFETY: GETEVENTS without a signal mask; entries were checked by those who pushed them.
            let entered =
                unsafe { submitter.enter::<libc::sigset_t>(queued as u32, 0, EnterFlags::GETEVENTS.bits(), None) };
            match entered.map_err(|error| (error.raw_os_error(), error)) {
                Ok(_) => {}
                Err((Some(libc::EINTR), _)) => continue,
                // The kernel lacks memory, or wants completions to be taken first.
                Err((Some(libc::EAGAIN | libc::EBUSY), _)) => return Ok(()),
                Err((_, error)) => return Err(error),
            }
            let taskrun = self.uring.submission().taskrun();
            let completions = self.completions();
            fruitless = if queued == 0 && completions == before { fruitless + 1 } else { 0 };
            self.stale = taskrun && fruitless >= STALE_ENTERS;
            let more = !self.waiting.is_empty() || taskrun;
            if !more || completions >= enough || self.stale {
                return Ok(());
            }
        }
    }

    /// Submits what is queued, and sleeps until `enough` completions beside those of what was queued can be taken, or until
    /// `limit` has passed.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub(super) fn gather(&mut self, enough: usize, limit: Duration) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.enter(1)?;
        }
        // A send is over when it was submitted, and so is not what is waited for.
        let wanted = self.uring.submission().len() + enough;
        let time = types::Timespec::from(limit);
        self.enters += 1;
        let gathered = self.uring.submitter().submit_with_args(wanted, &types::SubmitArgs::new().timespec(&time));
        match gathered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn refill(&mut self) {
        let mut submission = self.uring.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: whoever pushed the entry promised that it stays valid until it completes.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Completions that wait to be taken.
    pub(super) fn completions(&mut self) -> usize {
        self.uring.completion().len()
    }

    /// Appends up to `limit` completions to `batch`. Buffers that they name are ours from then on.
    pub(super) fn take(&mut self, batch: &mut Vec<Cqe>, limit: usize) {
        let mut ended = 0;
        for entry in self.uring.completion().take(limit) {
            let cqe = Cqe { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() };
            if let Some(id) = cqe.buffer() {
                self.buffers.take(id);
            }
            ended += usize::from(!cqe.more());
            batch.push(cqe);
        }
        self.in_flight -= ended;
    }

    /// Calls of io_uring_enter(2) since the last call of this.
    pub(super) fn take_enters(&mut self) -> u64 {
        std::mem::take(&mut self.enters)
    }

    /// Whether [`Ring::enter`] has something to do: entries to submit, completions to make.
    pub(super) fn needs_enter(&mut self) -> bool {
        let stale = self.stale;
        let submission = self.uring.submission();
        let taskrun = submission.taskrun() && !stale;
        !self.waiting.is_empty() || !submission.is_empty() || taskrun || submission.cq_overflow()
    }

    /// Whether there is work that needs no wake: the same, and completions to be taken.
    pub(super) fn has_work(&mut self) -> bool {
        self.completions() > 0 || self.needs_enter()
    }

    /// Enables the eventfd and looks once more. True: nothing is due, and whatever comes from now on writes to the
    /// eventfd. False: the eventfd is disabled again, and the caller must not sleep.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // Either the kernel, which first queues work and then reads the flag, sees it cleared and signals, or the look below
        // sees the work.
        fence(Ordering::SeqCst);
        let due = if cfg!(target_arch = "x86_64") && !self.stale {
            self.has_work()
        } else {
            // Elsewhere the kernel's atomics between the two do not order them for us, and a stale flag says nothing; the
            // kernel's own look does.
            self.enter(1).is_err() || self.has_work()
        };
        if due {
            self.uring.completion().disable_eventfd();
        }
        !due
    }

    /// The eventfd for the runtime: readable once after each signal, for whoever clears its readiness and never reads it.
    ///
    /// # Errors
    /// Those of dup(2) and epoll_ctl(2).
    pub(super) fn wakes(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let duplicate = self.eventfd.as_fd().try_clone_to_owned()?;
        // SAFETY: the registration owns the descriptor and so deregisters before it is closed.
        let registered = unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) };
        registered.map_err(io::Error::from)
    }

    /// Disables the eventfd after a sleep.
    pub(super) fn woken(&mut self) {
        self.stale = false;
        self.uring.completion().disable_eventfd();
    }

    /// Wakes whoever waits for the eventfd, as a completion would.
    pub(super) fn kick(&self) {
        // EAGAIN needs 2^64 kicks.
        let _ = self.eventfd.write(1);
    }

    /// Cancels everything and waits until the kernel has let go of all memory, or until `limit` has passed.
    /// True if nothing is in flight any more.
    fn quiesce(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut batch = Vec::new();
        if self.in_flight > 0 {
            let everything = types::CancelBuilder::any().all();
            // SAFETY: the entry names no memory and no file.
            unsafe { self.push(opcode::AsyncCancel2::new(everything).build()) };
        }
        while self.in_flight > 0 && Instant::now() < deadline {
            if self.enter(usize::MAX).is_err() {
                break;
            }
            self.take(&mut batch, usize::MAX);
            for id in batch.drain(..).filter_map(Cqe::buffer) {
                self.buffers.give_back(id);
            }
            if self.in_flight > 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.in_flight == 0
    }
}

impl Drop for Ring {
    /// Whoever pushed entries keeps their memory until the ring is dropped; then the kernel must be done with it.
    fn drop(&mut self) {
        if !self.quiesce(QUIESCE) {
            // To go on would free memory that the kernel may still write to.
            eprintln!("ringest: {} operations of a data ring do not end", self.in_flight);
            std::process::abort();
        }
    }
}
