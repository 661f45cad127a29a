//! The ring of provided read buffers (io_uring_setup_buf_ring(3)): memory that the kernel picks from when bytes arrive,
//! and that it gets back after the shard has seen them.
//!
//! A buffer is the kernel's until a completion names it, ours until [`Buffers::give_back`] and
//! [`Buffers::publish`], then the kernel's again.
#![allow(unsafe_code)] // the memory is shared with the kernel

use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::os::raw::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Anonymous, zeroed, page-aligned, prefaulted memory. It is in no core dump: requests with tokens are among what is read.
struct Pages {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
}

impl Pages {
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; it stays until drop.
        let start = unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)? };
        let pages = Self { start, bytes };
        // SAFETY: the mapping that was just made; the advice changes no byte of it.
        unsafe { madvise(pages.start, bytes.get(), MmapAdvise::MADV_DONTDUMP)? };
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the owner of the ring sees to it that the kernel is done with it.
        let result = unsafe { munmap(self.start, self.bytes.get()) };
        debug_assert!(result.is_ok());
    }
}

/// How many buffers hold reads that were not handled yet, and how many there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct InUse {
    pub(super) held: usize,
    pub(super) all: usize,
}

/// The provided buffers of one data ring, as one group.
pub(super) struct Buffers {
    entries: Pages,
    memory: Pages,
    count: u16,
    buffer_bytes: u32,
    /// Our own copy of the tail; the kernel sees it after [`Buffers::publish`].
    tail: u16,
    /// Which buffers are ours now: a completion that names any other would be a broken invariant.
    held: Vec<bool>,
    /// How many these are.
    held_count: usize,
}

impl Buffers {
    /// The group's number; a data ring has one.
    pub(super) const GROUP: u16 = 0;

    /// Allocates `count` buffers of `buffer_bytes` each; all of them are handed to the kernel by the first publish.
    ///
    /// # Errors
    /// `InvalidInput` where `count` is not a power of two up to 32,768 or a size is zero; else those of mmap(2).
    pub(super) fn new(count: usize, buffer_bytes: usize) -> io::Result<Self> {
        let valid = count.is_power_of_two() && count <= 1 << 15;
        if !valid || buffer_bytes > 1 << 30 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let entries = Pages::new(count * size_of::<BufRingEntry>())?;
        let memory = Pages::new(count * buffer_bytes)?;
        let mut buffers = Self {
            entries,
            memory,
            count: count as u16,
            buffer_bytes: buffer_bytes as u32,
            tail: 0,
            held: vec![true; count],
            held_count: count,
        };
        for id in 0..buffers.count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Address of the ring of entries, for its registration.
    pub(super) fn entries_address(&self) -> u64 {
        self.entries.start.as_ptr() as u64
    }

    /// Number of buffers.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Size of each.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Takes over a buffer that a completion named.
    pub(super) fn take(&mut self, id: u16) {
        assert!(!self.held[usize::from(id)], "the kernel named buffer {id}, which is not the kernel's");
        self.held[usize::from(id)] = true;
        self.held_count += 1;
    }

    /// How many are ours now, and how many there are.
    pub(super) fn in_use(&self) -> InUse {
        InUse { held: self.held_count, all: usize::from(self.count) }
    }

    /// The first `bytes` of a buffer that was taken over.
    pub(super) fn bytes_mut(&mut self, id: u16, bytes: usize) -> &mut [u8] {
        assert!(self.held[usize::from(id)] && bytes <= self.buffer_bytes as usize);
        let start = self.address(id);
        // SAFETY: within the mapping, initialised, and ours (asserted): the kernel writes to it only after the next publish,
        // which needs `&mut self` and so cannot happen while the slice lives.
        unsafe { std::slice::from_raw_parts_mut(start, bytes) }
    }

    /// Puts a buffer back into the ring; the kernel sees it after [`Buffers::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(self.held[usize::from(id)], "buffer {id} is given back twice");
        self.held[usize::from(id)] = false;
        self.held_count -= 1;
        let address = self.address(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        let first = self.entries.start.cast::<BufRingEntry>().as_ptr();
        // SAFETY: the index is below the count for which the pages were allocated.
        let entry = unsafe { first.add(index) };
        // SAFETY: the kernel reads entries between its head and the published tail only, and this one is at our tail: since
        // there are as many entries as buffers and this buffer was ours, the kernel has consumed the entry before. Only the
        // three fields are set, since the first entry's fourth is the tail itself.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers given back so far.
    pub(super) fn publish(&mut self) {
        let first = self.entries.start.cast::<BufRingEntry>().as_ptr();
        // SAFETY: the address of the first entry of the ring, which is initialised (zeroed or set).
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: aligned to two bytes, alive as long as `self`, and shared with the kernel, which only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count);
        let offset = usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: within the mapping, since the id is below the count.
        unsafe { self.memory.start.cast::<u8>().as_ptr().add(offset) }
    }
}
