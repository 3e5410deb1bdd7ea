//! The program's allocator: large blocks are kept for the next tensor of their size.
//!
//! A pass makes and drops hundreds of tensors of a few sizes. The system would clear and map the pages of
//! every one anew, which takes about as long as the arithmetic of small layers. Blocks lie on huge pages
//! where the system has them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::Mutex;

/// The allocator. The program's, not the library's: see `main.rs`.
pub struct Recycling(Mutex<Large>);

/// Blocks from this size on are kept.
const LARGE: usize = 1 << 20;
/// They begin at multiples of this, the size of a huge page...
const PAGE: usize = 2 << 20;
/// ...and their sizes are multiples of this.
const UNIT: usize = 64 << 10;
/// So many blocks can be kept.
const SLOTS: usize = 1024;

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
    /// ones go back: what is kept never makes the program larger than its use alone has made it.
    fn take(&mut self, size: usize) -> *mut u8 {
        self.used += size;
        self.most_used = self.most_used.max(self.used);
        // the one given back last is the likeliest to be in a cache
        if let Some(i) = (0..self.count).rev().find(|&i| self.kept[i].1 == size) {
            return self.remove(i).0;
        }
        while self.count > 0 && self.used + self.kept_bytes > self.most_used {
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
    }

    fn release_oldest(&mut self) {
        let (oldest, size) = self.remove(0);
        // SAFETY: the list has blocks that were made with this layout, and nobody else knows them
        unsafe { System.dealloc(oldest, Layout::from_size_align_unchecked(size, PAGE)) };
    }
}

impl Recycling {
    /// An allocator that keeps nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Large { kept: [(0, 0); SLOTS], count: 0, kept_bytes: 0, used: 0, most_used: 0 }))
    }

    /// The layout of the block that serves `layout`, if it is large.
    fn block(layout: Layout) -> Option<Layout> {
        if layout.size() < LARGE || layout.align() > PAGE {
            return None;
        }
        Layout::from_size_align(layout.size().checked_next_multiple_of(UNIT)?, PAGE).ok()
    }

    fn recycled(&self, block: Layout) -> *mut u8 {
        match self.0.lock() {
            Ok(mut large) => large.take(block.size()),
            Err(_) => null_mut(),
        }
    }
}

impl Default for Recycling {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every block comes from the system with the layout that it is given back with, and is in the
// hands of either one user or the list
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's, here and below
        let Some(block) = Self::block(layout) else { return unsafe { System.alloc(layout) } };
        let recycled = self.recycled(block);
        if recycled.is_null() { unsafe { huge(System.alloc(block), block.size()) } } else { recycled }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(block) = Self::block(layout) else { return unsafe { System.alloc_zeroed(layout) } };
        let recycled = self.recycled(block);
        if recycled.is_null() {
            // fresh pages are zero already
            return unsafe { huge(System.alloc_zeroed(block), block.size()) };
        }
        unsafe { recycled.write_bytes(0, block.size()) };
        recycled
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(block) = Self::block(layout) else { return unsafe { System.dealloc(memory, layout) } };
        match self.0.lock() {
            Ok(mut large) => large.give_back(memory, block.size()),
            Err(_) => unsafe { System.dealloc(memory, block) },
        }
    }
}

/// Asks for huge pages under the whole ones of a new block.
#[cfg(target_os = "linux")]
unsafe fn huge(memory: *mut u8, size: usize) -> *mut u8 {
    if !memory.is_null() {
        // SAFETY: advice on the caller's own memory; an error leaves it as it is
        unsafe { libc::madvise(memory.cast(), size / PAGE * PAGE, libc::MADV_HUGEPAGE) };
    }
    memory
}

/// Asks for huge pages under a new block.
#[cfg(not(target_os = "linux"))]
unsafe fn huge(memory: *mut u8, _: usize) -> *mut u8 {
    memory
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
    fn keeping_makes_nothing_larger() {
        let memory = Recycling::new();
        let sizes = [40, 10, 30].map(|mib| Layout::from_size_align(mib << 20, 64).expect("a layout"));
        // SAFETY: allocated and given back with one layout
        unsafe {
            for layout in sizes.repeat(3) {
                memory.dealloc(memory.alloc(layout), layout);
            }
        }
        let large = memory.0.lock().expect("no panic");
        // one of 40 was in use at most: beside one of 30, that of 10 can stay
        assert_eq!((large.used, large.most_used, large.kept_bytes), (0, 40 << 20, 40 << 20));
    }
}
