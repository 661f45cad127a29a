//! What the driver knows of a link: its file, and what is in flight on it.

use super::order::Order;
use super::share::Reads;
use crate::shard::{Fd, LinkId};
use tokio::task::AbortHandle;

/// Where a link is in its life.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Not in use, or its open failed.
    #[default]
    Free,
    /// A connect is under way.
    Connecting(AbortHandle),
    /// The control thread opens the port.
    OpeningPort,
    /// The same, and the core has closed the link meanwhile.
    Unwanted,
    /// Its file is open.
    Open,
    /// The core has closed it; what is in flight is being cancelled.
    Closing,
    /// Its file is being closed.
    Released,
}

/// One link.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) fd: i32,
    pub(super) tty: bool,
    /// How many reads may still end before ACKs are put off anew; `None` where they are not.
    pub(super) late_acks: Option<u8>,
    /// A read is in flight; the end of the last one may still wait to be told.
    pub(super) reading: bool,
    /// What is known of its reads.
    pub(super) reads: Reads,
    /// Its place among its machine's connections.
    pub(super) order: Order,
    /// The core wants to read.
    pub(super) read_wanted: bool,
    /// The core asked for a pause and has not heard of its end.
    pub(super) pausing: bool,
    /// The bytes of the send in flight.
    pub(super) sending: Option<Vec<u8>>,
    /// Shut down when the send is over.
    pub(super) shutdown: bool,
}

impl Link {
    /// Whether the id names this use of the link.
    pub(super) fn is(&self, id: LinkId) -> bool {
        self.generation == id.generation
    }

    /// Whether completions of it reach the core.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether a read is to be started.
    pub(super) fn wants_read(&self) -> bool {
        self.is_open() && self.read_wanted && !self.reading && !self.pausing && !self.order.waits()
    }

    /// Begins a new use.
    pub(super) fn begin(&mut self, id: LinkId, phase: Phase, fd: i32, tty: bool) {
        assert!(matches!(self.phase, Phase::Free), "link {} is used again before it was closed", id.index);
        assert!(!self.reading && self.sending.is_none() && !self.order.is_awaited());
        *self = Self { generation: id.generation, phase, fd, tty, ..Self::default() };
    }

    /// Checks that the core names the file that the link has.
    pub(super) fn check(&self, fd: Fd) {
        assert_eq!(self.fd, fd.0, "a link has one file");
    }

    /// At the end of the process: closes the file of a link that the core left open.
    pub(super) fn close_now(self) {
        match self.phase {
            Phase::Connecting(task) => task.abort(),
            Phase::Open | Phase::Closing => {
                // An error of close(2) has no remedy.
                let _ = nix::unistd::close(self.fd);
            }
            Phase::Free | Phase::OpeningPort | Phase::Unwanted | Phase::Released => {}
        }
    }
}
