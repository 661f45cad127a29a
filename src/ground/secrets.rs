//! Memory of secrets: keys, tokens, and what holds them while they come and go. What is allocated within [`scope`] lies in an
//! arena of its own, which is in no core dump (madvise(2), MADV_DONTDUMP) and is wiped when it is given back.
//!
//! [`Allocator`] is the global allocator of a program that has secrets; without it a scope changes nothing. It serves
//! whoever is in no scope from the system's allocator. Which of both a block is of tells its address, so that one may be
//! freed or grown anywhere: a block of the arena stays in the arena.
//!
//! What a scope does not cover: memory that was made outside of it, and the stack, which [`wipe_stack`] is for.
#![allow(unsafe_code)] // an allocator cannot be without

mod arena;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::ptr::null_mut;

thread_local! {
    /// How many scopes this thread is in. It needs no memory, and none is given back at the thread's end.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Leaves the scope also where the work panics.
struct Inside;

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Does some work of which all allocations of this thread are secrets.
#[inline]
pub fn scope<T>(work: impl FnOnce() -> T) -> T {
    let _inside = Inside::enter();
    work()
}

/// The same of a future: while it is polled.
pub async fn scoped<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| scope(|| future.as_mut().poll(context))).await
}

/// Overwrites the stack below the caller as far as work with secrets reaches down: of what a library has put there nothing is
/// left. `BYTES` must be free there.
#[inline(never)]
pub fn wipe_stack<const BYTES: usize>() {
    let mut below = [0_u8; BYTES];
    std::hint::black_box(&mut below);
}

/// Does some work in a frame of its own, so that [`wipe_stack`] reaches all that it leaves there.
#[inline(never)]
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Leaves the stack of this thread out of core dumps from now on: for threads on which a library works on secrets for long.
pub fn hide_stack() {
    let (mut attributes, mut start, mut bytes) = (MaybeUninit::uninit(), null_mut(), 0);
    // SAFETY: it always succeeds.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: it fills in the attributes of the calling thread, or fails.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: it has succeeded.
    let mut attributes = unsafe { attributes.assume_init() };
    // SAFETY: they are whole; both places are of this frame.
    let result = unsafe { libc::pthread_attr_getstack(&attributes, &mut start, &mut bytes) };
    if result == 0 {
        // SAFETY: the thread's own stack, of which no byte is changed. That of a main thread is not mapped
        // in full: what is mapped of it is left out.
        unsafe { libc::madvise(start, bytes, libc::MADV_DONTDUMP) };
    }
    // SAFETY: they are used no more.
    unsafe { libc::pthread_attr_destroy(&mut attributes) };
}

/// The stack that a handshake, or the loading of a key, reaches down to at most.
pub const HANDSHAKE_STACK_BYTES: usize = 96 * 1024;

/// The global allocator of a program that has secrets.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: each block comes from one of two allocators and goes back to it, which its address tells: the arena has a range of
// addresses that the system's allocator never gives out.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if DEPTH.get() == 0 {
            // SAFETY: the caller's promise about the layout.
            return unsafe { System.alloc(layout) };
        }
        let block = arena::take(layout);
        // SAFETY: as above. Without room in the arena, a secret that can be dumped is better than none.
        if block.is_null() { unsafe { System.alloc(layout) } } else { block }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if DEPTH.get() == 0 {
            // SAFETY: the caller's promise about the layout.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // All that the arena gives out is zeroed.
        let block = arena::take(layout);
        // SAFETY: as above.
        if block.is_null() { unsafe { System.alloc_zeroed(layout) } } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if arena::has(block) {
            // SAFETY: it is the arena's, and the caller's promise is that it has this layout and is given back once.
            unsafe { arena::give_back(block, layout) }
        } else {
            // SAFETY: it is the system's, and the caller's promise.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let is_secret = arena::has(block);
        if !is_secret && DEPTH.get() == 0 {
            // SAFETY: it is the system's, and the caller's promise.
            return unsafe { System.realloc(block, layout, bytes) };
        }
        // SAFETY: the caller's promise: not zero, and no overflow when rounded up to the alignment.
        let grown = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        // SAFETY: it is the arena's and has this layout.
        if is_secret && unsafe { arena::resize_in_place(block, layout, grown) } {
            return block;
        }
        let mut other = arena::take(grown);
        if other.is_null() {
            // SAFETY: as for `alloc`.
            other = unsafe { System.alloc(grown) };
        }
        if !other.is_null() {
            // SAFETY: both are at least so long, and different.
            unsafe { std::ptr::copy_nonoverlapping(block, other, layout.size().min(bytes)) };
            // SAFETY: the caller's promise; nobody uses it any more.
            unsafe { self.dealloc(block, layout) };
        }
        other
    }
}
