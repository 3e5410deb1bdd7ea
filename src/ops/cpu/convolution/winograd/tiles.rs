//! The products of Winograd's way with filters in bf16, on a unit that multiplies tiles of bf16.

use half::bf16;

use super::super::super::product::split::{Split, Writer, interleaved};
use super::super::super::room::Line;
use super::super::super::simd::{Avx512, TILE_PARTS, TILE_ROWS, Vector, amx};
use super::{GAP, Multiplier, PLACES, Sink};

/// Which parts of mapped inputs and filters are multiplied, the greatest last: both sides to 16 bits, finer by far than
/// weights in bf16.
const PRODUCTS: [(usize, usize); 3] = [(1, 0), (0, 1), (0, 0)];

/// Mapped inputs in parts: [PLACES * chunk, channels], the cells of a place in whole blocks of rows.
pub(super) struct Tiles {
    mapped: Split,
    chunk: usize,
}

impl Tiles {
    /// Room for `chunk` cells.
    ///
    /// # Safety
    /// Cells must be put in before they are multiplied.
    pub(super) unsafe fn new(chunk: usize, channels: usize) -> Self {
        // tasks begin anywhere, and read whole blocks of rows
        let chunk = chunk.next_multiple_of(8) + TILE_ROWS;
        // SAFETY: the caller's; the products of rows beyond the last cell are not looked at
        Self { mapped: unsafe { Split::room(PLACES * chunk, channels) }, chunk }
    }

    #[inline(always)]
    fn products<const C: usize>(
        &self,
        sums: &mut [f32],
        pairs: &[bf16],
        (from, to): (usize, usize),
        (c, depth): (usize, usize),
    ) {
        // SAFETY: this way was chosen for the level
        let unit = unsafe { amx::Tiles::take() };
        let width = C * Avx512::LANES;
        let (cells, apart) = (to - from, pairs.len() / TILE_PARTS);
        let mut last = [0f32; TILE_ROWS * 3 * Avx512::LANES];
        for place in 0..PLACES {
            for cell in (0..cells).step_by(TILE_ROWS) {
                let sums = &mut sums[(place * (cells + GAP) + cell) * width..];
                let whole = cells - cell >= TILE_ROWS;
                let rows = TILE_ROWS.min(cells - cell) * width;
                // sums of a last block that is not whole pass through a place of their own
                if !whole && c > 0 {
                    last[..rows].copy_from_slice(&sums[..rows]);
                }
                let at = if whole { &mut *sums } else { &mut last[..] };
                assert!(at.len() >= TILE_ROWS * width);
                if c == 0 {
                    unit.clear();
                } else {
                    // SAFETY: there are that many sums
                    unsafe { unit.load::<C>(at.as_ptr(), width) };
                }
                for (i, j) in PRODUCTS {
                    let left = self.mapped.at(i, place * self.chunk + from + cell, c);
                    let right = &pairs[j * apart + place * (depth + GAP) * width..];
                    debug_assert!(left.len() >= (TILE_ROWS - 1) * self.mapped.stride() + depth);
                    debug_assert!(right.len() >= depth * width);
                    // SAFETY: the inputs have whole blocks of rows, the filters `depth` rows at each place
                    unsafe { unit.multiply::<C>(left.as_ptr(), self.mapped.stride(), right.as_ptr(), depth) };
                }
                // SAFETY: there is room for that many sums
                unsafe { unit.store::<C>(at.as_mut_ptr(), width) };
                if !whole {
                    sums[..rows].copy_from_slice(&last[..rows]);
                }
            }
        }
    }
}

impl Multiplier for Tiles {
    fn sink(&mut self) -> impl Sink {
        TileSink { chunk: self.chunk, mapped: self.mapped.writer() }
    }

    #[inline(always)]
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        filters: &[f32],
        cells: (usize, usize),
        channels: (usize, usize),
        spare: &mut Vec<Line>,
    ) {
        let width = filters.len() / (PLACES * (channels.1 + GAP));
        // SAFETY: this way was chosen for the level
        let pairs = unsafe { interleaved(filters, width, spare) };
        match width / Avx512::LANES {
            1 => self.products::<1>(sums, pairs, cells, channels),
            2 => self.products::<2>(sums, pairs, cells, channels),
            _ => self.products::<3>(sums, pairs, cells, channels),
        }
    }
}

struct TileSink<'a> {
    mapped: Writer<'a>,
    chunk: usize,
}

impl Sink for TileSink<'_> {
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, place: usize, cell: usize, c: usize, value: V) {
        let mut values = [0f32; 16];
        // SAFETY: no vector is longer; the rest is the caller's
        unsafe {
            value.store(values.as_mut_ptr());
            self.mapped.write(place * self.chunk + cell, c, &values[..V::LANES]);
        }
    }
}
