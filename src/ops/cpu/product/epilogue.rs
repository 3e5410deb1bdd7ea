//! What is done to the sums of a product or a convolution on their way to memory.

use super::super::simd::Vector;

/// out = sums + bias + residual. A time shift is a bias of every sample's own.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One value a column; row r takes the part number r / `rows_per_bias` of it. Empty: none.
    pub(crate) bias: &'a [f32],
    /// See `bias`.
    pub(crate) rows_per_bias: usize,
    /// As large as the result. Empty: none.
    pub(crate) residual: &'a [f32],
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: &[], rows_per_bias: usize::MAX, residual: &[] }
    }
}

impl Epilogue<'_> {
    /// Panics unless it is one for a result [rows, n].
    pub(crate) fn check(&self, rows: usize, n: usize) {
        assert!(self.residual.is_empty() || self.residual.len() == rows * n);
        assert!(self.bias.is_empty() || self.bias.len() / n > rows.saturating_sub(1) / self.rows_per_bias);
    }

    /// Vector `j` of the `count` columns from `first` on of row `row` of a result of `n` columns, from its sums.
    #[inline(always)]
    pub(crate) fn of<V: Vector>(
        &self,
        sums: V,
        (row, n): (usize, usize),
        (first, count): (usize, usize),
        j: usize,
    ) -> V {
        let mut y = sums;
        if !self.bias.is_empty() {
            y = y.add(load_column(&self.bias[row / self.rows_per_bias * n + first..][..count], j));
        }
        if !self.residual.is_empty() {
            y = y.add(load_column(&self.residual[row * n + first..][..count], j));
        }
        y
    }
}

/// Vector `j` of a row of columns, of which there may be fewer than the last vector has lanes.
#[inline(always)]
pub(crate) fn load_column<V: Vector>(from: &[f32], j: usize) -> V {
    let from = &from[j * V::LANES..];
    // SAFETY: the length is checked
    if from.len() >= V::LANES { unsafe { V::load(from.as_ptr()) } } else { V::load_part(from) }
}

/// Writes vector `j` of a row of columns.
#[inline(always)]
pub(crate) fn store_column<V: Vector>(to: &mut [f32], j: usize, value: V) {
    let to = &mut to[j * V::LANES..];
    // SAFETY: the length is checked
    if to.len() >= V::LANES { unsafe { value.store(to.as_mut_ptr()) } } else { value.store_part(to) }
}
