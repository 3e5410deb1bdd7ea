//! A result that tasks write disjoint parts of.

use std::marker::PhantomData;

/// Numbers that several threads write, each its own.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    numbers: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow of numbers, handed out in parts that do not overlap
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Hands out parts of `numbers`.
    pub(crate) fn new(numbers: &'a mut [T]) -> Self {
        Self { start: numbers.as_mut_ptr(), length: numbers.len(), numbers: PhantomData }
    }

    /// Where the numbers begin.
    #[inline(always)]
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }

    /// `count` numbers from number `at` on.
    ///
    /// # Safety
    /// They must be there, and nobody else may use any of them at the same time.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, at: usize, count: usize) -> &mut [T] {
        debug_assert!(at <= self.length && count <= self.length - at);
        // SAFETY: the caller's
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}
