//! What can be due at a moment of the virtual clock.

use ringest::shard::{Destination, LinkId, SourceId};

/// Index of a connection or of an open port; never used twice in a world.
pub type ConnId = usize;

/// A half of a connection, or who holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The shard's.
    Shard,
    /// The machine's or the receiver's.
    Peer,
}

/// `life` counts the shard's starts: what belongs to an earlier one is void.
#[derive(Debug)]
pub enum Event {
    /// Bytes move on towards an end.
    Flow { conn: ConnId, to: End },
    /// The shard's read has something: bytes or an end.
    Readable { conn: ConnId },
    /// The shard's read was cancelled.
    Paused { conn: ConnId },
    /// The shard's send is over.
    Sent { conn: ConnId },
    /// A connect is decided, or nobody answered it in time.
    Connect { life: u32, link: LinkId, to: Destination, lost: bool },
    /// The opening of a port is decided.
    OpenPort { life: u32, link: LinkId, source: SourceId },
    /// A link's file is closed.
    Closed { life: u32, link: LinkId },
    /// Somebody is in a listener's backlog.
    Accept { source: SourceId },
    /// The directory of a port changed.
    PortAppeared { source: SourceId },
    /// A machine does its next step, unless it was woken otherwise (`wake` is then old).
    Machine { machine: usize, wake: u32 },
    /// The receiver is done with the oldest request of a connection.
    Answer { conn: ConnId },
    /// The receiver closes a connection on which nothing came since its `served`th answer.
    IdleClose { conn: ConnId, served: u32 },
    /// An operation of a directory's disk is over (its index in the disk's table).
    Disk { directory: usize, operation: usize },
    /// A fault of the plan begins (its index).
    Fault { index: usize },
    /// It ends.
    FaultOver { index: usize },
    /// An operator looks at what is parked.
    Operator,
    /// The shard comes back.
    Restart,
}
