//! A request whose secret is being looked at, which takes a while: it waits, and nothing more is
//! read of its machine. What came of it is remembered for the connection, so that its later
//! requests need not wait.

use crate::access::{Looked, Vetted};
use crate::ground::secrets::scope;

/// What is known of the secrets of one connection, and what waits for it.
#[derive(Debug)]
pub(super) struct Vetting {
    vetted: Vetted,
    waiting: Option<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Bytes behind the head: what was read before reading stopped.
    rest: Vec<u8>,
    /// The peer sends no more, or nothing more is taken of it.
    is_last: bool,
}

impl Vetting {
    /// A request waits for this.
    pub fn new(vetted: Vetted) -> Self {
        Self { vetted, waiting: Some(Waiting::default()) }
    }

    /// What is known.
    pub fn vetted(&self) -> &Vetted {
        &self.vetted
    }

    /// Whether a request waits.
    pub fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it is of use for a later request.
    pub fn lasts(&self) -> bool {
        self.waits() || self.vetted.looked == Looked::Right
    }

    /// More came behind the request that waits.
    ///
    /// # Panics
    /// If none does.
    pub fn add(&mut self, bytes: &[u8]) {
        let rest = &mut self.waiting.as_mut().expect("a request waits").rest;
        scope(|| rest.extend_from_slice(bytes)); // heads of requests are among them
    }

    /// Nothing comes behind what was read.
    ///
    /// # Panics
    /// If no request waits.
    pub fn end(&mut self) {
        self.waiting.as_mut().expect("a request waits").is_last = true;
    }

    /// It was looked at: what came behind the request, and whether nothing more does; `None` where no request waits.
    pub fn looked(&mut self, looked: Looked) -> Option<(Vec<u8>, bool)> {
        let Waiting { rest, is_last } = self.waiting.take()?;
        self.vetted.looked = looked;
        Some((rest, is_last))
    }
}
