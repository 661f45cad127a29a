//! A bare io_uring as the floors use it: `SINGLE_ISSUER | DEFER_TASKRUN`, one group of provided buffers, no framing, no
//! journal, nothing asynchronous around it.
//!
//! Memory that operations name is leaked, so it is valid until the process ends; what remains for the callers to keep is
//! that bytes being sent are not changed before the answer says that they arrived.
#![allow(unsafe_code)] // submission entries carry raw addresses; buffers are shared with the kernel

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32_768;
const GROUP: u16 = 0;

/// A completion, copied out of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Cqe {
    /// What the operation was submitted with.
    pub tag: Tag,
    /// Bytes, or an errno below zero.
    pub result: i32,
    flags: u32,
}

impl Cqe {
    /// The provided buffer that holds the bytes.
    pub fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether more completions of the operation follow.
    pub fn more(self) -> bool {
        cqueue::more(self.flags)
    }
}

/// Kind and index of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub index: usize,
}

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A multishot accept on a listener.
    Accept,
    /// A multishot read of a machine's connection or port.
    Machine,
    /// A multishot read of a connection to the API.
    Api,
    /// A send.
    Send,
    /// The end was asked for.
    Stop,
    /// A write to a file.
    Write,
}

const KINDS: [Kind; 6] = [Kind::Accept, Kind::Machine, Kind::Api, Kind::Send, Kind::Stop, Kind::Write];

impl Tag {
    /// An operation.
    pub fn new(kind: Kind, index: usize) -> Self {
        Self { kind, index }
    }

    fn pack(self) -> u64 {
        (self.kind as u64) << 56 | self.index as u64
    }

    fn unpack(user_data: u64) -> Self {
        Self { kind: KINDS[(user_data >> 56) as usize], index: (user_data & 0x00ff_ffff_ffff_ffff) as usize }
    }
}

/// The provided buffers.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    count: u16,
    bytes: usize,
    tail: u16,
}

/// One io_uring with its provided buffers.
pub struct Ring {
    uring: IoUring,
    buffers: Buffers,
    min_wait: Option<Duration>,
    /// Calls of io_uring_enter(2).
    pub enters: u64,
    /// Multishot operations that ended for want of buffers.
    pub exhausted: u64,
}

/// Page-aligned, prefaulted, zeroed memory, valid until the process ends.
pub fn pages(bytes: usize) -> io::Result<&'static mut [u8]> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice, never unmapped.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: mapped for good and zeroed; nobody else has it.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), bytes) })
}

impl Ring {
    /// A ring of the calling thread, with `buffers` provided buffers (a power of two) of `buffer_bytes` each.
    pub fn new(buffers: u16, buffer_bytes: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let entries = pages(usize::from(buffers) * size_of::<BufRingEntry>())?.as_mut_ptr();
        let memory = pages(usize::from(buffers) * buffer_bytes)?.as_mut_ptr();
        // SAFETY: the entries are mapped until the process ends.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries as u64, buffers, GROUP, 0)? };
        let buffers = Buffers { entries: entries.cast(), memory, count: buffers, bytes: buffer_bytes, tail: 0 };
        let mut ring = Self { uring, buffers, min_wait: None, enters: 0, exhausted: 0 };
        for id in 0..ring.buffers.count {
            ring.give_back(id);
        }
        Ok(ring)
    }

    /// From now on [`Ring::wait`] waits for up to `wanted` completions as long as this, if one has come (Linux 6.12).
    pub fn set_min_wait(&mut self, min_wait: Option<Duration>) {
        self.min_wait = min_wait;
    }

    /// Hands a buffer to the kernel; seen with the next [`Ring::publish`].
    #[inline]
    pub fn give_back(&mut self, id: u16) {
        let Buffers { entries, memory, count, bytes, tail } = self.buffers;
        assert!(id < count);
        // SAFETY: within the mapping, since the slot is below the count.
        let entry = unsafe { entries.add(usize::from(tail & (count - 1))) };
        // SAFETY: mapped, zeroed, and not the kernel's before the tail passes it.
        let entry = unsafe { &mut *entry };
        // SAFETY: within the mapping, since the id is below the count.
        let address = unsafe { memory.add(usize::from(id) * bytes) };
        entry.set_addr(address as u64);
        entry.set_len(bytes as u32);
        entry.set_bid(id);
        self.buffers.tail = tail.wrapping_add(1);
    }

    /// The first `bytes` bytes of a buffer that a completion named.
    #[inline]
    pub fn bytes(&self, id: u16, bytes: usize) -> &'static [u8] {
        assert!(id < self.buffers.count && bytes <= self.buffers.bytes);
        // SAFETY: within the mapping.
        let start = unsafe { self.buffers.memory.add(usize::from(id) * self.buffers.bytes) };
        // SAFETY: ours until the buffer is given back; callers drop the slice before.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// Shows the kernel the buffers given back.
    #[inline]
    fn publish(&mut self) {
        // SAFETY: the address of the first entry, which is initialised.
        let tail = unsafe { BufRingEntry::tail(self.buffers.entries) };
        // SAFETY: aligned, mapped for good, and only read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.buffers.tail, Ordering::Release);
    }

    /// Queues an operation; submits first if there is no room.
    ///
    /// # Safety
    /// The memory that the entry names must be valid until the operation has ended.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: as the caller promises.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enters += 1;
            self.uring.submit().expect("io_uring_enter");
        }
    }

    /// Accepts connections until the ring ends.
    pub fn accept(&mut self, listener: RawFd, tag: Tag) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).build().user_data(tag.pack());
        // SAFETY: names no memory.
        unsafe { self.push(&entry) };
    }

    /// Receives from a socket until it ends.
    pub fn receive(&mut self, socket: RawFd, tag: Tag) {
        let entry = opcode::RecvMulti::new(Fd(socket), GROUP).build().user_data(tag.pack());
        // SAFETY: names no memory but the provided buffers, which are mapped for good.
        unsafe { self.push(&entry) };
    }

    /// Reads from a tty until it ends.
    pub fn read(&mut self, tty: RawFd, tag: Tag) {
        let entry = opcode::ReadMulti::new(Fd(tty), 0, GROUP).build().user_data(tag.pack());
        // SAFETY: as above.
        unsafe { self.push(&entry) };
    }

    /// Waits for a descriptor to be readable, once.
    pub fn poll(&mut self, fd: RawFd, tag: Tag) {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build().user_data(tag.pack());
        // SAFETY: names no memory.
        unsafe { self.push(&entry) };
    }

    /// Sends all of `bytes`. With `quiet` there is a completion only if it fails.
    ///
    /// # Safety
    /// The bytes must stay where they are and what they are until the send completed, or the peer answered all of it.
    pub unsafe fn send(&mut self, socket: RawFd, bytes: &[u8], quiet: bool, tag: Tag) {
        let send = opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32);
        let flags = if quiet { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
        let entry = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build().flags(flags).user_data(tag.pack());
        // SAFETY: as the caller promises.
        unsafe { self.push(&entry) };
    }

    /// Writes to a file.
    pub fn write(&mut self, file: RawFd, bytes: &'static [u8], offset: u64, tag: Tag) {
        let write = opcode::Write::new(Fd(file), bytes.as_ptr(), bytes.len() as u32).offset(offset);
        // SAFETY: the bytes are static.
        unsafe { self.push(&write.build().user_data(tag.pack())) };
    }

    /// Submits, and waits for `wanted` completions, or for one if that takes longer than the minimal wait.
    pub fn wait(&mut self, wanted: usize) {
        self.publish();
        self.enters += 1;
        let entered = match self.min_wait {
            None => self.uring.submitter().submit_and_wait(wanted),
            Some(min_wait) => {
                let forever = Timespec::new().sec(3600);
                let args = SubmitArgs::new().timespec(&forever).min_wait_usec(min_wait.as_micros() as u32);
                self.uring.submitter().submit_with_args(wanted.max(32), &args)
            }
        };
        tolerate(entered);
    }

    /// Submits, and waits for `wanted` completions, but no longer than `limit`.
    pub fn wait_up_to(&mut self, wanted: usize, limit: Duration) {
        self.publish();
        self.enters += 1;
        let time = Timespec::from(limit);
        let entered = self.uring.submitter().submit_with_args(wanted, &SubmitArgs::new().timespec(&time));
        tolerate(entered);
    }

    /// Moves all completions to `batch`.
    pub fn take(&mut self, batch: &mut Vec<Cqe>) {
        for cqe in self.uring.completion() {
            if cqe.result() == -libc::ENOBUFS {
                self.exhausted += 1;
            }
            batch.push(Cqe { tag: Tag::unpack(cqe.user_data()), result: cqe.result(), flags: cqe.flags() });
        }
    }
}

/// Interrupted and timed-out waits are none of a bench's business; anything else ends it.
fn tolerate(entered: io::Result<usize>) {
    if let Err(error) = entered {
        let code = error.raw_os_error();
        assert!(
            matches!(code, Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)),
            "io_uring_enter: {error}"
        );
    }
}
