//! Products of vectors of f32: a few rows and a few vectors of columns at a time, whose sums stay in registers.

// loops over indices: what iterators are made of is not always inlined, and then not compiled for the
// processor's vectors
#![allow(clippy::needless_range_loop)]

use super::super::simd::{Kernel, Vector};
use super::block::multiply;
use super::epilogue::{load_column, store_column};
use super::panels::columns;
use super::rows::Rows;
use super::{DEPTH, Share};

impl<L: Rows> Kernel for Share<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        // registers: 8 x 3 sums of 32, or 6 x 2 of 16; the vectors of a panel's row, and one of the left side
        if V::LANES == 16 { self.with_rows::<V, 8>() } else { self.with_rows::<V, 6>() }
    }
}

impl<L: Rows> Share<'_, L> {
    #[inline(always)]
    fn with_rows<V: Vector, const R: usize>(self) {
        let (segments, length) = self.left.shape();
        // a step takes some whole segments, or a part of one
        let per_step = (DEPTH / length).max(1);
        let mut unpacked = std::mem::take(&mut self.spare.right);
        let mut from = 0;
        while from < segments * length {
            let (segment, offset) = (from / length, from % length);
            let depth =
                if length > DEPTH { DEPTH.min(length - offset) } else { per_step.min(segments - segment) * length };
            let step = Step { segment, offset, depth, first: from == 0, last: from + depth == segments * length };
            for panel in self.panels.0..self.panels.1 {
                let right = self.right.rows(panel, from, depth, &mut unpacked);
                match columns(panel, self.right.n()).2 / V::LANES {
                    1 => self.panel::<V, R, 1>(panel, right, step),
                    3 if V::LANES == 16 => self.panel::<V, R, 3>(panel, right, step),
                    _ => self.panel::<V, R, 2>(panel, right, step),
                }
            }
            from += depth;
        }
        self.spare.right = unpacked;
    }

    #[inline(always)]
    fn panel<V: Vector, const R: usize, const C: usize>(&self, panel: usize, right: &[f32], step: Step) {
        let (_, length) = self.left.shape();
        let (first, last) = self.rows;
        for row in (first..last).step_by(R) {
            let mut sums = [[V::splat(0.); C]; R];
            if !step.first {
                self.load(panel, row, &mut sums);
            }
            let (mut segment, mut done) = (step.segment, 0);
            while done < step.depth {
                // rows beyond the last repeat it; they are not stored
                let mut left: [&[f32]; R] = [&[]; R];
                for (i, left) in left.iter_mut().enumerate() {
                    *left = &self.left.piece((row + i).min(last - 1), segment)[step.offset..];
                }
                let depth = (step.depth - done).min(length - step.offset);
                multiply(&mut sums, left, &right[done * C * V::LANES..], depth);
                done += depth;
                segment += 1;
            }
            if step.last { self.finish(panel, row, sums) } else { self.store(panel, row, sums) }
        }
    }

    /// The part of row `row` of the result that panel `panel` computes.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    fn out(&self, panel: usize, row: usize) -> &mut [f32] {
        let n = self.right.n();
        let (first, count, _) = columns(panel, n);
        // SAFETY: the rows of the panels are this share's alone, and used one after the other
        unsafe { self.out.part(row * n + first, count) }
    }

    #[inline(always)]
    fn load<V: Vector, const R: usize, const C: usize>(&self, panel: usize, row: usize, sums: &mut [[V; C]; R]) {
        for i in 0..R.min(self.rows.1 - row) {
            let from = self.out(panel, row + i);
            for j in 0..C {
                sums[i][j] = load_column(from, j);
            }
        }
    }

    #[inline(always)]
    fn store<V: Vector, const R: usize, const C: usize>(&self, panel: usize, row: usize, sums: [[V; C]; R]) {
        for i in 0..R.min(self.rows.1 - row) {
            let to = self.out(panel, row + i);
            for j in 0..C {
                store_column(to, j, sums[i][j]);
            }
        }
    }

    /// Writes sums that are complete.
    #[inline(always)]
    pub(super) fn finish<V: Vector, const R: usize, const C: usize>(
        &self,
        panel: usize,
        row: usize,
        sums: [[V; C]; R],
    ) {
        let n = self.right.n();
        let (first, count, _) = columns(panel, n);
        for i in 0..R.min(self.rows.1 - row) {
            let to = self.out(panel, row + i);
            for j in 0..C {
                store_column(to, j, self.epilogue.of(sums[i][j], (row + i, n), (first, count), j));
            }
        }
    }
}

/// A step through the depth of a product.
#[derive(Clone, Copy)]
struct Step {
    segment: usize,
    offset: usize,
    depth: usize,
    first: bool,
    last: bool,
}
