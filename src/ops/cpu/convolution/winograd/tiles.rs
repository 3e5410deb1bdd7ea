//! The products of Winograd's way on a unit that multiplies tiles of bf16.

use half::bf16;

use super::{GAP, Multiplier, PLACES};
use crate::ops::cpu::product::panels::{Line, Precision, lines};
use crate::ops::cpu::product::tiles::{EXACT, Parts, Products};
use crate::ops::cpu::simd::amx::{ROWS, Tiles, split, split_pairs};
use crate::ops::cpu::simd::{Avx512, Vector};

/// Both sides to 16 bits: finer by far than weights in bf16.
const COARSE: Products = &[(1, 0), (0, 1), (0, 0)];

/// Mapped inputs in parts: [PLACES * chunk, channels], the tiles of a place in whole blocks of rows.
pub struct Tiled {
    mapped: Parts,
    chunk: usize,
    products: Products,
}

impl Tiled {
    /// Room for `chunk` tiles, to be multiplied with kernels that are kept in `precision`.
    pub fn new(chunk: usize, channels: usize, precision: Precision) -> Self {
        // tasks begin anywhere, and read whole blocks of rows
        let chunk = chunk.next_multiple_of(8) + ROWS;
        let (products, parts) = if precision == Precision::Bf16 { (COARSE, 2) } else { (EXACT, 3) };
        Self { mapped: Parts::new(PLACES * chunk, channels, parts), chunk, products }
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
        let unit = unsafe { Tiles::take() };
        let width = C * Avx512::LANES;
        let (tiles, apart) = (to - from, pairs.len() / self.parts());
        let mut last = [0f32; ROWS * 3 * Avx512::LANES];
        for place in 0..PLACES {
            for tile in (0..tiles).step_by(ROWS) {
                let sums = &mut sums[(place * (tiles + GAP) + tile) * width..];
                let whole = tiles - tile >= ROWS;
                let rows = ROWS.min(tiles - tile) * width;
                // sums of a last block that is not whole pass through a place of their own
                let at = if whole { sums.as_mut_ptr() } else { last.as_mut_ptr() };
                if c == 0 {
                    unit.clear();
                } else {
                    if !whole {
                        last[..rows].copy_from_slice(&sums[..rows]);
                    }
                    // SAFETY: there are that many sums
                    unsafe { unit.load::<C>(at, width) };
                }
                for &(i, j) in self.products {
                    let left = self.mapped.at(i, place * self.chunk + from + tile, c);
                    let right = pairs[j * apart + place * (depth + GAP) * width..].as_ptr();
                    // SAFETY: the inputs have whole blocks of rows, the kernels `depth` rows at each place
                    unsafe { unit.multiply::<C>(left, self.mapped.stride(), right, depth) };
                }
                // SAFETY: as above
                unsafe { unit.store::<C>(at, width) };
                if !whole {
                    sums[..rows].copy_from_slice(&last[..rows]);
                }
            }
        }
    }

    fn parts(&self) -> usize {
        if self.products.len() == COARSE.len() { 2 } else { 3 }
    }
}

impl Multiplier for Tiled {
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, place: usize, tile: usize, c: usize, value: V) {
        let mut values = [0f32; 16];
        let (to, apart) = (self.mapped.at(0, place * self.chunk + tile, c), self.mapped.apart());
        // SAFETY: no vector is longer; the rest is the caller's
        unsafe {
            value.store(values.as_mut_ptr());
            match self.parts() {
                2 => split::<2>(values.as_ptr(), V::LANES, to, apart),
                _ => split::<3>(values.as_ptr(), V::LANES, to, apart),
            }
        }
    }

    #[inline(always)]
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        kernels: &[f32],
        tiles: (usize, usize),
        channels: (usize, usize),
        scratch: &mut Vec<Line>,
    ) {
        let width = kernels.len() / (PLACES * (channels.1 + GAP));
        let parts = self.parts();
        let needed = parts * kernels.len() / Line::VALUES;
        if scratch.len() < needed {
            *scratch = lines(needed);
        }
        let pairs = &mut Line::values_mut(scratch)[..parts * kernels.len()];
        for (i, pair) in kernels.chunks_exact(2 * width).enumerate() {
            let (even, odd) = pair.split_at(width);
            let to = pairs[2 * i * width..].as_mut_ptr();
            // SAFETY: this way was chosen for the level; there is room for all parts
            unsafe {
                match parts {
                    2 => split_pairs::<2>(even.as_ptr(), odd.as_ptr(), width, to, kernels.len()),
                    _ => split_pairs::<3>(even.as_ptr(), odd.as_ptr(), width, to, kernels.len()),
                }
            }
        }
        match width / Avx512::LANES {
            1 => self.products::<1>(sums, pairs, tiles, channels),
            2 => self.products::<2>(sums, pairs, tiles, channels),
            _ => self.products::<3>(sums, pairs, tiles, channels),
        }
    }
}
