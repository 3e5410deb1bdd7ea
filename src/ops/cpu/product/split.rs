//! Rows of f32 values split in two bf16 parts, as tiles multiply them.

use half::bf16;
use rayon::prelude::*;

use super::super::room::{Line, room};
use super::super::shared::Shared;
use super::super::simd::amx::{split, split_pairs};
use super::super::simd::{TILE_PARTS, TILE_ROWS};

/// Rows of values in parts.
pub(crate) struct Split {
    lines: Vec<Line>,
    /// Values from row to row.
    stride: usize,
    /// Values from part to part.
    apart: usize,
}

/// Where a row's values come from, piece by piece: what is given each, and where in the row it begins.
pub(crate) type Give<'a> = &'a mut dyn FnMut(usize, &[f32]);

impl Split {
    /// Room for `rows` rows of `length` values.
    ///
    /// # Safety
    /// Values must be written before they are read, but for those of rows whose products nobody looks at.
    pub(crate) unsafe fn room(rows: usize, length: usize) -> Self {
        // an odd number of lines: the rows of a tile do not fight for the same places of a cache
        let stride = (length.div_ceil(Line::VALUES) | 1) * Line::VALUES;
        let apart = rows.next_multiple_of(TILE_ROWS) * stride;
        // SAFETY: the caller's
        Self { lines: unsafe { room(TILE_PARTS * apart / Line::VALUES) }, stride, apart }
    }

    /// Splits the first `count` rows, on all threads: `pieces` is given a row and gives its pieces, or none for a row
    /// of zeros.
    pub(crate) fn fill(&mut self, count: usize, pieces: impl Fn(usize, Give) + Sync) {
        let writer = self.writer();
        (0..count).into_par_iter().with_min_len(8).for_each(|row| {
            let mut empty = true;
            pieces(row, &mut |at, values| {
                empty = false;
                // SAFETY: each row is one task's
                unsafe { writer.write(row, at, values) };
            });
            if empty {
                for part in 0..TILE_PARTS {
                    // SAFETY: each row is one task's
                    unsafe { writer.values.part(part * writer.apart + row * writer.stride, writer.stride) }
                        .fill(bf16::ZERO);
                }
            }
        });
    }

    /// What threads write rows of their own with.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        let &mut Self { ref mut lines, stride, apart } = self;
        Writer { values: Shared::new(Line::values_mut(lines)), stride, apart }
    }

    /// The values of a part from (row, column) on.
    #[inline(always)]
    pub(crate) fn at(&self, part: usize, row: usize, column: usize) -> &[bf16] {
        &Line::values(&self.lines)[part * self.apart + row * self.stride + column..]
    }

    /// Values from row to row.
    #[inline(always)]
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

/// Splits values into the rows of a [`Split`], on several threads.
pub(crate) struct Writer<'a> {
    values: Shared<'a, bf16>,
    stride: usize,
    apart: usize,
}

impl Writer<'_> {
    /// Splits `from` into row `row`, from column `at` on.
    ///
    /// # Safety
    /// Tiles must be there, and nobody else may use these values at the same time.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, row: usize, at: usize, from: &[f32]) {
        assert!(at + from.len() <= self.stride && (row + 1) * self.stride <= self.apart);
        // SAFETY: within each part; the rest is the caller's
        unsafe {
            let to = self.values.start().add(row * self.stride + at);
            split(from.as_ptr(), from.len(), to, self.apart);
        }
    }
}

/// Splits `rows` [depth, width] in parts [depth / 2, width, 2] with interleaved rows, one after the other.
///
/// # Safety
/// Tiles must be there.
#[inline(always)]
pub(crate) unsafe fn interleaved<'a>(rows: &[f32], width: usize, room: &'a mut Vec<Line>) -> &'a mut [bf16] {
    assert!(rows.len().is_multiple_of(2 * width) && width.is_multiple_of(16));
    let count = TILE_PARTS * rows.len();
    // SAFETY: all parts of all rows are written below
    let to = Line::values_mut(unsafe { super::super::room::grown(room, count / Line::VALUES) });
    for (i, pair) in rows.chunks_exact(2 * width).enumerate() {
        let (even, odd) = pair.split_at(width);
        let to = to[2 * i * width..].as_mut_ptr();
        // SAFETY: there is room for all parts; the rest is the caller's
        unsafe { split_pairs(even.as_ptr(), odd.as_ptr(), width, to, rows.len()) }
    }
    to
}
