//! All that touches the kernel: threads, data ring, files.
//!
//! One pinned thread a core runs a [`Driver`]: its data ring (accepts, multishot reads into provided buffers, sends,
//! commits) beside a tokio-uring runtime (timers, mailbox, connects, cold work on files). The thread that calls [`run`]
//! becomes the control thread, which does what can wait. Cores share nothing that changes.

mod adapters;
pub mod admin;
mod blocks;
mod buffers;
mod clock;
mod connect;
mod control;
mod core;
mod driver;
mod error;
mod files;
mod gateway;
mod histograms;
mod lines;
mod listen;
mod lock;
mod memory;
mod names;
mod occupant;
mod parking;
mod placement;
pub mod probe;
mod process;
mod reload;
mod reread;
mod ring;
mod roll;
mod segments;
mod stop;
mod view;
mod waiting;

pub use blocks::orphans::{LeftOver, left_over, remove as remove_orphan};
pub use blocks::unfit;
pub use control::{Control, Request};
pub use driver::{Core, Driver, DriverOptions, JournalFiles, Message, NewSettings, TURN_COMPLETIONS};
pub use error::EngineError;
pub use files::{CoreDirectory, FsStorage, core_directories, core_directory, create_private_directory, random};
pub use gateway::{Options, Summary, are_too_few, connections_allowed, run};
pub use listen::{ListenError, Listeners, bind_all};
pub use lock::{LockError, StateLock, lock_holder};
pub use names::NameOf;
pub use occupant::{Occupants, occupants};
pub use parking::{Decision, decisions_left, leave_decision};
pub use reread::{CameBack, reread};
pub use ring::{RingOptions, try_rings};
pub use view::{Pending, View, open_views};

/// A runtime for one core thread: tokio-uring with the flags that cost least for a ring that one thread uses.
///
/// # Errors
/// Those of io_uring_setup(2) and epoll_create(2).
pub fn runtime() -> std::io::Result<tokio_uring::Runtime> {
    let mut rings = tokio_uring::uring_builder();
    rings.setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.uring_builder(&rings);
    tokio_uring::Runtime::new(&builder)
}
