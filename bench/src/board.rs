//! Memory shared by load, receiver (or floor) and harness: how many records of each machine have arrived. It bounds what
//! is outstanding, so that what is measured stays saturated and never builds a backlog. Everything has one writer.
//!
//! ```text
//! offset     0  ready       set by the load when all machines are connected
//!            8  go          set by the harness: the load may send
//!           16  phase       set by the harness: latencies count while it is 1
//!           24  sent        records sent, by the load
//!           32  arrived     records arrived, by the receiver
//!           40  accepted    answers with success to HTTP machines, by the load
//!         4096  u64 × machines: records arrived of each machine, by the receiver
//! ```
//! Native byte order: all are on one machine.
#![allow(unsafe_code)] // memory shared between processes

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

const HEADER_BYTES: usize = 4096;

/// The board, mapped until the process ends.
#[derive(Clone, Copy)]
pub struct Board {
    words: &'static [AtomicU64],
}

/// A word of the header.
#[derive(Debug, Clone, Copy)]
pub enum Word {
    /// All machines are connected.
    Ready = 0,
    /// The load may send.
    Go = 1,
    /// 1 while latencies count.
    Phase = 2,
    /// Records sent.
    Sent = 3,
    /// Records arrived.
    Arrived = 4,
    /// Successful answers to HTTP machines.
    Accepted = 5,
}

impl Board {
    /// Maps the file, which the harness made; its length says how many machines there are.
    ///
    /// # Errors
    /// Those of open(2) and mmap(2); `InvalidData` if the file is shorter than its header.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len() as usize;
        if bytes < HEADER_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice, never unmapped.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: mapped for good, page-aligned, zeroed by the harness, and only ever accessed as atomics.
        let words = unsafe { slice::from_raw_parts(start.cast::<AtomicU64>(), bytes / 8) };
        Ok(Self { words })
    }

    /// How many machines the board has room for.
    pub fn machines(&self) -> usize {
        self.words.len() - HEADER_BYTES / 8
    }

    /// A word of the header.
    #[inline]
    pub fn load(&self, word: Word) -> u64 {
        self.words[word as usize].load(Ordering::Acquire)
    }

    /// Sets a word of the header; only its one writer may.
    #[inline]
    pub fn store(&self, word: Word, value: u64) {
        self.words[word as usize].store(value, Ordering::Release);
    }

    /// Adds to a word of the header; only its one writer may, so it need not be one atomic step.
    #[inline]
    pub fn add(&self, word: Word, value: u64) {
        self.store(word, self.words[word as usize].load(Ordering::Relaxed) + value);
    }

    /// Records of one machine that have arrived.
    #[inline]
    pub fn arrived(&self, machine: usize) -> u64 {
        self.words[HEADER_BYTES / 8 + machine].load(Ordering::Acquire)
    }

    /// Counts records of one machine; false if there is no such machine.
    #[inline]
    pub fn count(&self, machine: usize, records: u64) -> bool {
        let Some(word) = self.words.get(HEADER_BYTES / 8 + machine) else { return false };
        word.store(word.load(Ordering::Relaxed) + records, Ordering::Release);
        self.add(Word::Arrived, records);
        true
    }
}
