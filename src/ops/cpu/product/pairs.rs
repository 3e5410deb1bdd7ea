//! Products of bf16 pairs, summed in f32.

// as in the module of vectors
#![allow(clippy::needless_range_loop)]

use half::bf16;

use super::super::simd::{Avx512, Kernel, Vector, dot_pairs, to_bf16};
use super::Share;
use super::panels::columns;
use super::rows::Rows;

/// A share of a product whose right side is kept in pairs. Its vectors are always [`Avx512`].
pub(super) struct Pairs<'a, L>(pub(super) Share<'a, L>);

impl<L: Rows> Kernel for Pairs<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let share = self.0;
        let k = share.right.k();
        let (first, last) = share.rows;
        let mut left = std::mem::take(&mut share.spare.left);
        left.resize((last - first) * k, bf16::ZERO);
        let (segments, length) = share.left.shape();
        for (row, left) in left.chunks_mut(k).enumerate() {
            for (segment, left) in left.chunks_mut(length).enumerate().take(segments) {
                // SAFETY: the processor has the products of this kernel
                unsafe { to_bf16(share.left.piece(first + row, segment), left) };
            }
        }
        for panel in share.panels.0..share.panels.1 {
            let Some(right) = share.right.pairs(panel) else { continue };
            match columns(panel, share.right.n()).2 / Avx512::LANES {
                1 => share.panel_of_pairs::<1>(panel, &left, right),
                2 => share.panel_of_pairs::<2>(panel, &left, right),
                _ => share.panel_of_pairs::<3>(panel, &left, right),
            }
        }
        share.spare.left = left;
    }
}

impl<L: Rows> Share<'_, L> {
    #[inline(always)]
    fn panel_of_pairs<const C: usize>(&self, panel: usize, left: &[bf16], right: &[bf16]) {
        const R: usize = 8;
        let k = self.right.k();
        let (first, last) = self.rows;
        assert!(left.len() >= (last - first) * k && right.len() >= k * C * Avx512::LANES && k.is_multiple_of(2));
        for row in (first..last).step_by(R) {
            let mut sums = [[Avx512::splat(0.); C]; R];
            let mut rows = [std::ptr::null(); R];
            for (i, pointer) in rows.iter_mut().enumerate() {
                *pointer = left[((row + i).min(last - 1) - first) * k..].as_ptr();
            }
            for pair in 0..k / 2 {
                // SAFETY: rows have k values, panels k / 2 rows of C vectors of pairs; the products are there
                unsafe {
                    let right = right.as_ptr().add(pair * C * 2 * Avx512::LANES);
                    for i in 0..R {
                        for j in 0..C {
                            let right = right.add(j * 2 * Avx512::LANES);
                            sums[i][j] = dot_pairs(sums[i][j], rows[i].add(2 * pair), right);
                        }
                    }
                }
            }
            self.finish(panel, row, sums);
        }
    }
}
