//! Threads for calls that may wait for long. Each kind of call has threads of its own, so that one kind that waits for ever
//! takes none from another.

use std::io;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of one kind. They are made when they are needed, and end when they have had nothing to do for some seconds.
#[derive(Debug)]
pub(super) struct Waiting(Option<Runtime>);

impl Waiting {
    /// At most `threads_max` threads of this name. Calls that find none free wait for one, in their order.
    ///
    /// # Errors
    /// Those of a runtime that cannot be made.
    pub(super) fn new(name: &str, threads_max: usize) -> io::Result<Self> {
        // Nothing is run on it: tokio's threads for blocking calls are all that is used.
        Builder::new_current_thread().thread_name(name).max_blocking_threads(threads_max).build().map(Some).map(Self)
    }

    /// For `spawn_blocking`.
    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken at the end only").handle()
    }
}

impl Drop for Waiting {
    /// Nobody waits for calls that do not end.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
