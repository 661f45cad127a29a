//! The arena: one range of addresses, reserved at once and made usable from its front on, a mebibyte at a time.
//!
//! ```text
//! BASE                                   committed             BASE + RESERVED_BYTES
//! | blocks of all classes, in the order in which they were first needed | not usable yet |
//! ```
//!
//! A block has the size of its class: steps of 16 bytes up to 128, then four steps a doubling, so that at most a fifth of it is
//! unused. A block that is given back is wiped and waits in the list of its class, linked by its first word; it is never split,
//! joined or returned. So every block that is taken is zero.

use std::alloc::Layout;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses, not memory: what is not used costs nothing.
#[cfg(target_pointer_width = "64")]
const RESERVED_BYTES: usize = 16 << 30;
#[cfg(not(target_pointer_width = "64"))]
const RESERVED_BYTES: usize = 128 << 20;
/// So much more is made usable at a time.
const STEP_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
/// Smallest block; every class is a multiple of it.
const UNIT_BYTES: usize = 16;
/// Up to here classes are a unit apart: 2 to the power of this.
const FINE_BITS: u32 = 7;
const FINE_CLASSES: usize = (1 << FINE_BITS) / UNIT_BYTES;
/// Beyond 2 to the power of this a block is not the arena's.
const LARGEST_BITS: u32 = 28;
const CLASSES: usize = FINE_CLASSES + ((LARGEST_BITS - FINE_BITS) * 4) as usize;
/// From here on the kernel wipes a block, by taking its memory.
const RETURNED_BYTES_MIN: usize = 256 * 1024;
/// Before there is an arena: no address is less than `RESERVED_BYTES` above it.
const NOWHERE: usize = 0_usize.wrapping_sub(RESERVED_BYTES);

/// Where it begins.
static BASE: AtomicUsize = AtomicUsize::new(NOWHERE);
/// By class, the first of the blocks that were given back; 0: none. One thread at a time: what holds it allocates nothing.
static FREE: [Mutex<usize>; CLASSES] = [const { Mutex::new(0) }; CLASSES];
static FRONT: Mutex<Front> = Mutex::new(Front { next: 0, usable: 0, is_refused: false });

/// What was never used.
struct Front {
    /// The first address of it.
    next: usize,
    /// Where what is usable ends.
    usable: usize,
    /// The kernel gives no such range.
    is_refused: bool,
}

/// A class of blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Class {
    index: usize,
    bytes: usize,
}

impl Class {
    /// That of a layout; `None` where the arena has none.
    fn of(layout: Layout) -> Option<Self> {
        let bytes = match layout.align() {
            ..=UNIT_BYTES => layout.size().max(1),
            align if align > PAGE_BYTES => return None,
            // A power of two is aligned to itself.
            align => layout.size().max(align).checked_next_power_of_two()?,
        };
        if bytes <= 1 << FINE_BITS {
            let index = bytes.div_ceil(UNIT_BYTES) - 1;
            return Some(Self { index, bytes: (index + 1) * UNIT_BYTES });
        }
        if bytes > 1 << LARGEST_BITS {
            return None;
        }
        let bits = (bytes - 1).ilog2();
        let quarter = (bytes - 1 - (1 << bits)) >> (bits - 2);
        let index = FINE_CLASSES + (bits - FINE_BITS) as usize * 4 + quarter;
        Some(Self { index, bytes: (1 << bits) + ((quarter + 1) << (bits - 2)) })
    }

    fn align(self) -> usize {
        if self.bytes.is_power_of_two() { self.bytes.clamp(UNIT_BYTES, PAGE_BYTES) } else { UNIT_BYTES }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an address is the arena's.
#[inline]
pub(super) fn has(block: *mut u8) -> bool {
    block.addr().wrapping_sub(BASE.load(Ordering::Relaxed)) < RESERVED_BYTES
}

/// A zeroed block; null where there is none for this layout.
pub(super) fn take(layout: Layout) -> *mut u8 {
    let Some(class) = Class::of(layout) else { return null_mut() };
    let mut first = locked(&FREE[class.index]);
    if *first == 0 {
        drop(first);
        return locked(&FRONT).carve(class);
    }
    let block = std::ptr::with_exposed_provenance_mut::<usize>(*first);
    // SAFETY: a block of the list is the arena's own: aligned, usable, and used by nobody. Its first word is the link.
    *first = unsafe { block.replace(0) };
    block.cast()
}

/// Takes a block back, and wipes it.
///
/// # Safety
/// `take` gave it out for this layout, and nobody uses it any more.
pub(super) unsafe fn give_back(block: *mut u8, layout: Layout) {
    let Some(class) = Class::of(layout) else { return };
    // SAFETY: the caller's promise.
    unsafe { wipe(block, layout.size()) };
    let mut first = locked(&FREE[class.index]);
    // SAFETY: it is a unit long at least, and aligned to one.
    unsafe { block.cast::<usize>().write(*first) };
    *first = block.expose_provenance();
}

/// Whether the block is of a size for both layouts. What a smaller one has no more is wiped.
///
/// # Safety
/// `take` gave it out for the first of them.
pub(super) unsafe fn resize_in_place(block: *mut u8, before: Layout, after: Layout) -> bool {
    let is_same = Class::of(before).is_some_and(|class| Class::of(after) == Some(class));
    if is_same && after.size() < before.size() {
        // SAFETY: within the block.
        let tail = unsafe { block.add(after.size()) };
        // SAFETY: up to the end of what was in use.
        unsafe { wipe(tail, before.size() - after.size()) };
    }
    is_same
}

/// Zeroes memory.
///
/// # Safety
/// It is the arena's, so long, and used by nobody.
unsafe fn wipe(start: *mut u8, bytes: usize) {
    let (mut at, end) = (start.addr(), start.addr() + bytes);
    if bytes >= RETURNED_BYTES_MIN {
        let (first, last) = (at.next_multiple_of(PAGE_BYTES), end / PAGE_BYTES * PAGE_BYTES);
        // SAFETY: whole pages of the caller's; they are private and of no file, so that they read as zero from now on.
        let is_wiped = unsafe { libc::madvise(start.with_addr(first).cast(), last - first, libc::MADV_DONTNEED) } == 0;
        if is_wiped {
            // SAFETY: in front of the pages.
            unsafe { start.write_bytes(0, first - at) };
            at = last;
        }
    }
    let rest = start.with_addr(at);
    // SAFETY: what is left of it.
    unsafe { rest.write_bytes(0, end - at) };
    // It is read by nobody before it is written again, and must be zero all the same.
    std::hint::black_box(rest);
}

impl Front {
    /// A new block; null at the end of the range.
    fn carve(&mut self, class: Class) -> *mut u8 {
        if self.next == 0 && !self.reserve() {
            return null_mut();
        }
        let start = self.next.next_multiple_of(class.align());
        let end = start + class.bytes;
        if end > self.usable && !self.make_usable(end) {
            return null_mut();
        }
        self.next = end;
        std::ptr::with_exposed_provenance_mut(start)
    }

    /// Reserves the range. It has no memory yet, so that it counts for no limit but that of addresses.
    fn reserve(&mut self) -> bool {
        if self.is_refused {
            return false;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice, which is never unmapped.
        let start = unsafe { libc::mmap(null_mut(), RESERVED_BYTES, libc::PROT_NONE, flags, -1, 0) };
        self.is_refused = start == libc::MAP_FAILED;
        if self.is_refused {
            return false;
        }
        // SAFETY: the whole of the mapping. What it asks for stays with each part that is made
        // usable. A kernel that does not know it (before 3.4) has no io_uring either.
        unsafe { libc::madvise(start, RESERVED_BYTES, libc::MADV_DONTDUMP) };
        let base = start.expose_provenance();
        (self.next, self.usable) = (base, base);
        BASE.store(base, Ordering::Relaxed);
        true
    }

    fn make_usable(&mut self, end: usize) -> bool {
        let base = BASE.load(Ordering::Relaxed);
        let until = base + (end - base).next_multiple_of(STEP_BYTES);
        if until > base + RESERVED_BYTES {
            return false;
        }
        let start = std::ptr::with_exposed_provenance_mut(self.usable);
        // SAFETY: pages of the range that nobody uses yet.
        let result = unsafe { libc::mprotect(start, until - self.usable, libc::PROT_READ | libc::PROT_WRITE) };
        if result == 0 {
            self.usable = until;
        }
        result == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_a_class_that_wastes_a_fifth_at_most() {
        let mut before = Class { index: usize::MAX, bytes: 0 };
        for size in (1..70_000).chain([1 << 20, (1 << 20) + 1, (1 << LARGEST_BITS) - 1, 1 << LARGEST_BITS]) {
            let class = Class::of(Layout::from_size_align(size, 8).expect("a layout")).expect("a class");
            assert!(class.bytes >= size && class.bytes.is_multiple_of(UNIT_BYTES) && class.index < CLASSES, "{size}");
            assert!(class.bytes <= (size + size / 4).max(size + UNIT_BYTES - 1), "{size}: {}", class.bytes);
            assert_eq!(class.index == before.index, class.bytes == before.bytes, "{size}");
            before = class;
        }
        let layout = |size, align| Layout::from_size_align(size, align).expect("a layout");
        assert!(Class::of(layout((1 << LARGEST_BITS) + 1, 8)).is_none() && Class::of(layout(8, 8192)).is_none());
        for align in [32, 64, 256, 4096] {
            let class = Class::of(layout(align + 1, align)).expect("a class");
            assert!(class.align() >= align && class.bytes > align);
        }
    }
}
