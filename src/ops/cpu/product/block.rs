//! Small products within a kernel that runs already.

// as in the module of vectors
#![allow(clippy::needless_range_loop)]

use super::super::simd::Vector;

/// Rows in plain memory.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// The values.
    pub(crate) values: &'a [f32],
    /// From row to row.
    pub(crate) stride: usize,
    /// Number of rows.
    pub(crate) rows: usize,
}

/// out = left times the `depth` rows of a panel of `width` columns, or out += that.
#[inline(always)]
pub(crate) fn block<V: Vector>(
    out: &mut [f32],
    stride: usize,
    left: Block,
    right: &[f32],
    (depth, width): (usize, usize),
    add: bool,
) {
    let Block { values, stride: left_stride, rows } = left;
    assert!(rows == 0 || values.len() >= (rows - 1) * left_stride + depth);
    assert!(rows == 0 || out.len() >= (rows - 1) * stride + width);
    assert!(right.len() >= depth * width);
    match (V::LANES, width / V::LANES) {
        (16, 1) => block_of::<V, 8, 1>(out, stride, left, right, depth, add),
        (16, 2) => block_of::<V, 8, 2>(out, stride, left, right, depth, add),
        (16, _) => block_of::<V, 8, 3>(out, stride, left, right, depth, add),
        (_, 1) => block_of::<V, 6, 1>(out, stride, left, right, depth, add),
        _ => block_of::<V, 6, 2>(out, stride, left, right, depth, add),
    }
}

#[inline(always)]
fn block_of<V: Vector, const R: usize, const C: usize>(
    out: &mut [f32],
    stride: usize,
    left: Block,
    right: &[f32],
    depth: usize,
    add: bool,
) {
    let last = left.rows.saturating_sub(1);
    for row in (0..left.rows).step_by(R) {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (i, values) in rows.iter_mut().enumerate() {
            // rows beyond the last repeat it; they are not stored
            *values = &left.values[(row + i).min(last) * left.stride..];
        }
        let mut sums = [[V::splat(0.); C]; R];
        let count = R.min(left.rows - row);
        if add {
            for i in 0..count {
                for j in 0..C {
                    // SAFETY: `block` has checked the lengths
                    sums[i][j] = unsafe { V::load(out.as_ptr().add((row + i) * stride + j * V::LANES)) };
                }
            }
        }
        multiply(&mut sums, rows, right, depth);
        for i in 0..count {
            for j in 0..C {
                // SAFETY: `block` has checked the lengths
                unsafe { sums[i][j].store(out.as_mut_ptr().add((row + i) * stride + j * V::LANES)) };
            }
        }
    }
}

/// sums += left right: R rows of `depth` values times `depth` rows of C vectors, at the starts of the slices.
#[inline(always)]
pub(super) fn multiply<V: Vector, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    left: [&[f32]; R],
    right: &[f32],
    depth: usize,
) {
    assert!(right.len() >= depth * C * V::LANES);
    let mut rows = [std::ptr::null(); R];
    for i in 0..R {
        assert!(left[i].len() >= depth);
        rows[i] = left[i].as_ptr();
    }
    // a copy, which stays in registers
    let mut acc = *sums;
    for k in 0..depth {
        // SAFETY: the lengths are checked
        unsafe {
            let right = right.as_ptr().add(k * C * V::LANES);
            let mut vectors = [V::splat(0.); C];
            for j in 0..C {
                vectors[j] = V::load(right.add(j * V::LANES));
            }
            for i in 0..R {
                let x = V::splat(*rows[i].add(k));
                for j in 0..C {
                    acc[i][j] = x.fma(vectors[j], acc[i][j]);
                }
            }
        }
    }
    *sums = acc;
}
