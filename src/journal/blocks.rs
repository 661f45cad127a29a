//! The memory in which blocks are built: a mapped block file, or plain memory. It is written by one journal and read by
//! the kernel while a block is committed, so it is handed out by raw copies and never as a lasting `&mut`.
#![allow(unsafe_code)] // the mapping is shared with the kernel and with no other thread

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::raw::c_void;
use std::ptr::NonNull;

/// Page-aligned memory of fixed size.
#[derive(Debug)]
pub struct BlockMemory {
    start: NonNull<u8>,
    bytes: usize,
    owner: Owner,
    /// What is written, in order, once a test asks for it: so that it can stop in between, as a kill does.
    #[cfg(test)]
    pub(super) trace: std::cell::RefCell<Option<Writes>>,
}

/// Offsets, and what was written there.
#[cfg(test)]
pub(super) type Writes = Vec<(usize, Vec<u8>)>;

#[derive(Debug)]
enum Owner {
    Heap(Layout),
    Map,
}

impl BlockMemory {
    /// Plain zeroed memory: level `memory`, and the simulator.
    pub fn heap(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), 4096).expect("page alignment is valid");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self {
            start,
            bytes,
            owner: Owner::Heap(layout),
            #[cfg(test)]
            trace: Default::default(),
        }
    }

    /// The first `bytes` of a file, shared (mmap(2), MAP_SHARED | MAP_POPULATE). The file must be allocated in full:
    /// a write beyond what its file system can hold would end the process with SIGBUS.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(file: &File, bytes: usize) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice; it stays until drop.
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                file,
                0,
            )?
        };
        Ok(Self {
            start: start.cast(),
            bytes,
            owner: Owner::Map,
            #[cfg(test)]
            trace: Default::default(),
        })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the size is zero.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Address of an offset, for a write by the kernel's hand. The memory lives as long as `self`.
    pub fn address(&self, offset: usize) -> *const u8 {
        assert!(offset <= self.bytes);
        // SAFETY: within the allocation, as asserted.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// The bytes of a range. They must not be written while the slice lives; the single-threaded owner sees to it.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        let start = self.address(range.start);
        // SAFETY: within the allocation, which is initialised and lives as long as `self`; `write` is not called meanwhile,
        // since slices do not outlive the expression that reads them in the one thread that owns this memory.
        unsafe { std::slice::from_raw_parts(start, range.len()) }
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.bytes && bytes.len() <= self.bytes - offset);
        #[cfg(test)]
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            trace.push((offset, bytes.to_vec()));
        }
        // SAFETY: within the allocation, as asserted.
        let target = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: source and target do not overlap (the source is never this memory) and both hold that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }
}

impl Drop for BlockMemory {
    fn drop(&mut self) {
        match self.owner {
            Owner::Heap(layout) => {
                // SAFETY: allocated in `heap` with this layout, and no reference outlives `self`.
                unsafe { dealloc(self.start.as_ptr(), layout) }
            }
            Owner::Map => {
                // SAFETY: mapped in `map` with this length, and no reference outlives `self`.
                let result = unsafe { nix::sys::mman::munmap(self.start.cast::<c_void>(), self.bytes) };
                debug_assert!(result.is_ok());
            }
        }
    }
}
