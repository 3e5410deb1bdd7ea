//! The program's allocator: large blocks are kept for the next tensor of their size.
//!
//! A pass makes and drops hundreds of tensors of a few sizes. The system would clear and map the pages of
//! every one anew, which takes about as long as the arithmetic of small layers. Blocks lie on huge pages
//! where the system has them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The allocator. The program's, not the library's: see `main.rs`.
pub struct Recycling(Mutex<Large>);

/// Blocks from this size on are kept.
const LARGE: usize = 128 << 10;
/// They begin at multiples of this, the size of a huge page...
const PAGE: usize = 2 << 20;
/// ...and their sizes are multiples of this.
const UNIT: usize = 64 << 10;
/// What is kept makes the program larger than its use alone has made it by this at most.
const SPARE: usize = 48 << 20;
/// So many blocks can be kept.
const SLOTS: usize = 1024;

/// Whether blocks are kept at all.
static KEEPS: AtomicBool = AtomicBool::new(true);

/// From now on all blocks go back to the system: for a program that mostly waits, and should be small meanwhile.
pub fn keep_nothing() {
    KEEPS.store(false, Ordering::Relaxed);
}

/// What is known of the large blocks.
struct Large {
    /// Address and size of those that nobody uses, the one that was given back first in front.
    kept: [(usize, usize); SLOTS],
    count: usize,
    /// Bytes of those, of those in use, and the most that were in use at any time.
    kept_bytes: usize,
    used: usize,
    most_used: usize,
}

impl Large {
    fn remove(&mut self, i: usize) -> (*mut u8, usize) {
        let (address, size) = self.kept[i];
        self.kept.copy_within(i + 1..self.count, i);
        self.count -= 1;
        self.kept_bytes -= size;
        (address as *mut u8, size)
    }

    /// A kept block of exactly that size, or null. Where a new one has to come from the system, older
    /// ones go back.
    fn take(&mut self, size: usize) -> *mut u8 {
        self.used += size;
        self.most_used = self.most_used.max(self.used);
        // the one given back last is the likeliest to be in a cache
        if let Some(i) = (0..self.count).rev().find(|&i| self.kept[i].1 == size) {
            return self.remove(i).0;
        }
        while self.count > 0 && self.used + self.kept_bytes > self.most_used + SPARE {
            self.release_oldest();
        }
        null_mut()
    }

    fn give_back(&mut self, memory: *mut u8, size: usize) {
        if self.count == SLOTS {
            self.release_oldest();
        }
        self.kept[self.count] = (memory as usize, size);
        self.count += 1;
        self.kept_bytes += size;
        self.used -= size;
        while self.count > 0 && !KEEPS.load(Ordering::Relaxed) {
            self.release_oldest();
        }
    }

    fn release_oldest(&mut self) {
        let (oldest, size) = self.remove(0);
        // SAFETY: the list has whole blocks that nobody else knows
        unsafe { pages::unmap(oldest, size) };
    }
}

impl Recycling {
    /// An allocator that keeps nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Large { kept: [(0, 0); SLOTS], count: 0, kept_bytes: 0, used: 0, most_used: 0 }))
    }

    /// The size of the block that serves `layout`, if it is large.
    fn block(layout: Layout) -> Option<usize> {
        let large = layout.size() >= LARGE && layout.align() <= PAGE;
        if large { layout.size().checked_next_multiple_of(UNIT) } else { None }
    }

    fn recycled(&self, size: usize) -> *mut u8 {
        match self.0.lock() {
            Ok(mut large) => large.take(size),
            Err(_) => null_mut(),
        }
    }
}

impl Default for Recycling {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: small blocks are the system's; a large one is a mapping of its own, in the hands of either one
// user or the list
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = Self::block(layout) else {
            // SAFETY: the caller's
            return unsafe { System.alloc(layout) };
        };
        let recycled = self.recycled(size);
        if recycled.is_null() { pages::map(size) } else { recycled }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(size) = Self::block(layout) else {
            // SAFETY: the caller's
            return unsafe { System.alloc_zeroed(layout) };
        };
        let recycled = self.recycled(size);
        if recycled.is_null() {
            return pages::map(size); // zeros already
        }
        // SAFETY: a block of that size that nobody else has
        unsafe { recycled.write_bytes(0, size) };
        recycled
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(size) = Self::block(layout) else {
            // SAFETY: the caller's; the block was the system's
            return unsafe { System.dealloc(memory, layout) };
        };
        match self.0.lock() {
            Ok(mut large) => large.give_back(memory, size),
            // SAFETY: the caller's; the block is a whole mapping
            Err(_) => unsafe { pages::unmap(memory, size) },
        }
    }
}

/// Pages straight from the system: its allocator's own lists would be torn by blocks so large.
#[cfg(all(unix, not(eqdiff_portable)))]
mod pages {
    use super::PAGE;

    /// `size` bytes of zeros at a multiple of [`PAGE`], or null.
    pub(super) fn map(size: usize) -> *mut u8 {
        // SAFETY: a fresh private mapping, of which the parts before and after the block go back
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
            let whole = libc::mmap(std::ptr::null_mut(), size + PAGE, protection, flags, -1, 0);
            if whole == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let before = whole.cast::<u8>().align_offset(PAGE);
            let block = whole.cast::<u8>().add(before);
            if before > 0 {
                libc::munmap(whole, before);
            }
            if before < PAGE {
                libc::munmap(block.add(size).cast(), PAGE - before);
            }
            // advice: an error leaves small pages
            #[cfg(target_os = "linux")]
            libc::madvise(block.cast(), size / PAGE * PAGE, libc::MADV_HUGEPAGE);
            block
        }
    }

    /// # Safety
    /// The block must be one that [`map`] gave, whole, and nobody may use it.
    pub(super) unsafe fn unmap(block: *mut u8, size: usize) {
        // SAFETY: the caller's
        unsafe { libc::munmap(block.cast(), size) };
    }
}

#[cfg(any(not(unix), eqdiff_portable))]
mod pages {
    use std::alloc::{GlobalAlloc, Layout, System};

    use super::PAGE;

    /// `size` bytes of zeros at a multiple of [`PAGE`], or null.
    pub(super) fn map(size: usize) -> *mut u8 {
        // SAFETY: the size is not zero, the alignment a power of two
        unsafe { System.alloc_zeroed(Layout::from_size_align_unchecked(size, PAGE)) }
    }

    /// # Safety
    /// The block must be one that [`map`] gave, whole, and nobody may use it.
    pub(super) unsafe fn unmap(block: *mut u8, size: usize) {
        // SAFETY: the caller's
        unsafe { System.dealloc(block, Layout::from_size_align_unchecked(size, PAGE)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_zeros_are_zeros() {
        let memory = Recycling::new();
        let layout = Layout::from_size_align(3 << 20, 4).expect("a layout");
        // SAFETY: allocated and given back with one layout
        unsafe {
            let first = memory.alloc(layout);
            first.write_bytes(7, layout.size());
            memory.dealloc(first, layout);
            let again = memory.alloc_zeroed(layout);
            assert_eq!(again, first);
            assert!(std::slice::from_raw_parts(again, layout.size()).iter().all(|&byte| byte == 0));
            let other = memory.alloc(layout);
            assert_ne!(other, again);
            let grown = memory.realloc(again, layout, 9 << 20);
            assert_eq!(*grown.add(layout.size() - 1), 0);
            memory.dealloc(grown, Layout::from_size_align(9 << 20, 4).expect("a layout"));
            memory.dealloc(other, layout);
        }
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let memory = Recycling::new();
        let sizes = [400, 100, 300].map(|mib| Layout::from_size_align(mib << 20, 64).expect("a layout"));
        // SAFETY: allocated and given back with one layout
        unsafe {
            for layout in sizes.repeat(3) {
                memory.dealloc(memory.alloc(layout), layout);
            }
        }
        let large = memory.0.lock().expect("no panic");
        assert_eq!((large.used, large.most_used), (0, 400 << 20));
        assert!(large.kept_bytes >= 400 << 20 && large.kept_bytes <= large.most_used + SPARE);
    }
}
