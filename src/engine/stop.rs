//! Signals that end the gateway or have it read its configuration again.

use super::reload::Wish;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Exit code after a second Ctrl-C: that of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;
/// The same for SIGTERM.
const TERMINATED: i32 = 143;

/// What ends the gateway: the signals that it obeys, and whoever runs it inside another program.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    asked: Option<oneshot::Receiver<()>>,
    /// Takes wishes to have the configuration read again; they are served once the cores run.
    wish: mpsc::UnboundedSender<Wish>,
}

/// Who wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Terminate,
    Interrupt,
    Asked,
}

impl Reason {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "Ctrl-C",
            Self::Asked => "asked to",
        }
    }

    /// Of a process that is ended by a second one.
    pub(super) fn exit_code(self) -> Option<i32> {
        match self {
            Self::Terminate => Some(TERMINATED),
            Self::Interrupt => Some(INTERRUPTED),
            Self::Asked => None,
        }
    }
}

impl Stop {
    pub(super) fn new(asked: Option<oneshot::Receiver<()>>, wish: mpsc::UnboundedSender<Wish>) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            asked,
            wish,
        })
    }

    /// The next wish to stop. Loses none when it is dropped before.
    pub(super) async fn wanted(&mut self) -> Reason {
        loop {
            let asked = async {
                match &mut self.asked {
                    Some(asked) => drop(asked.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return Reason::Terminate,
                _ = self.interrupt.recv() => return Reason::Interrupt,
                _ = self.hang_up.recv() => {
                    // Whoever serves them ends with the gateway.
                    let _ = self.wish.send(Wish { by: "SIGHUP", answer: None });
                }
                () = asked => {
                    self.asked = None;
                    return Reason::Asked;
                }
            }
        }
    }
}
