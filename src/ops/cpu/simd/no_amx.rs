//! The tiles of AMX played on plain arrays, for targets that lack them.

use std::cell::RefCell;

use half::bf16;

use super::{TILE_PARTS, TILE_ROWS};

/// Columns of the widest sums.
const MOST_COLUMNS: usize = 48;

/// No processor of this target has tiles.
pub(super) fn detect() -> bool {
    false
}

/// The sums that the tiles of a thread hold.
pub(crate) struct Tiles(RefCell<Vec<[f32; MOST_COLUMNS]>>);

impl Tiles {
    /// Tiles with sums of no meaning.
    ///
    /// # Safety
    /// None to speak of.
    pub(crate) unsafe fn take() -> Self {
        Self(RefCell::new(vec![[f32::NAN; MOST_COLUMNS]; TILE_ROWS]))
    }

    /// Sets the sums to 0.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().fill([0.; MOST_COLUMNS]);
    }

    /// Adds to the sums [32, 16 C] the product of 32 rows of `left`, `stride` values apart, and `right`, rows of C
    /// times 16 pairs: `depth` values deep.
    ///
    /// # Safety
    /// The pointers must be to that many values.
    pub(crate) unsafe fn multiply<const C: usize>(
        &self,
        left: *const bf16,
        stride: usize,
        right: *const bf16,
        depth: usize,
    ) {
        for (i, sums) in self.0.borrow_mut().iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate().take(16 * C) {
                for k in 0..depth {
                    let (pair, second) = (k / 2, k % 2);
                    // SAFETY: the caller's
                    *sum += unsafe {
                        (*left.add(i * stride + k)).to_f32() * (*right.add((pair * 16 * C + j) * 2 + second)).to_f32()
                    };
                }
            }
        }
    }

    /// Sets the sums to those at `from` [32, 16 C].
    ///
    /// # Safety
    /// They must be there, `stride` values from row to row.
    pub(crate) unsafe fn load<const C: usize>(&self, from: *const f32, stride: usize) {
        for (i, sums) in self.0.borrow_mut().iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate().take(16 * C) {
                // SAFETY: the caller's
                *sum = unsafe { *from.add(i * stride + j) };
            }
        }
    }

    /// Writes the sums to `to` [32, 16 C].
    ///
    /// # Safety
    /// `to` must have room for them, `stride` values from row to row.
    pub(crate) unsafe fn store<const C: usize>(&self, to: *mut f32, stride: usize) {
        for (i, sums) in self.0.borrow().iter().enumerate() {
            for (j, sum) in sums.iter().enumerate().take(16 * C) {
                // SAFETY: the caller's
                unsafe { *to.add(i * stride + j) = *sum };
            }
        }
    }
}

/// The parts of a value, of 8 bits of mantissa each.
fn parts(mut x: f32) -> [bf16; TILE_PARTS] {
    [(); TILE_PARTS].map(|()| {
        let bits = x.to_bits() & 0xffff_0000;
        x -= f32::from_bits(bits);
        bf16::from_bits((bits >> 16) as u16)
    })
}

/// The parts of `count` values at `from`, of 8 bits of mantissa each: part i from `to + i * apart` on.
///
/// # Safety
/// The values must be there, and room for every part.
pub(crate) unsafe fn split(from: *const f32, count: usize, to: *mut bf16, apart: usize) {
    for i in 0..count {
        // SAFETY: the caller's
        unsafe {
            for (part, value) in parts(*from.add(i)).into_iter().enumerate() {
                *to.add(part * apart + i) = value;
            }
        }
    }
}

/// The parts of two rows of `count` values, interleaved.
///
/// # Safety
/// As for [`split`].
pub(crate) unsafe fn split_pairs(even: *const f32, odd: *const f32, count: usize, to: *mut bf16, apart: usize) {
    for i in 0..count {
        // SAFETY: the caller's
        unsafe {
            let pairs = parts(*even.add(i)).into_iter().zip(parts(*odd.add(i)));
            for (part, (even, odd)) in pairs.enumerate() {
                *to.add(part * apart + 2 * i) = even;
                *to.add(part * apart + 2 * i + 1) = odd;
            }
        }
    }
}
