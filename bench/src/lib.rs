//! What the three programs of the bench share. They are as lean as they can be, so that the gateway is what is measured:
//! one thread, one io_uring, no allocation a record, and no error handling but to end with a message.
//!
//! - [`record`]: the 64-byte record, in the format of `ringest simulate`.
//! - [`http`]: requests and answers of both sides.
//! - [`ring`]: the bare io_uring. [`net`]: sockets. [`pty`]: pseudo-terminals.
//! - [`board`]: memory shared by load, receiver and harness, which bounds what is outstanding.
//! - [`check`]: what the receiver checks of the records.
//! - [`times`]: histograms of times, and their logs.
//! - [`process`]: what a program cost itself, and how it ends. [`disk`]: files of the commit loop.

pub mod board;
pub mod check;
pub mod disk;
pub mod http;
pub mod net;
pub mod process;
pub mod pty;
pub mod record;
pub mod ring;
pub mod times;
pub mod tls;
