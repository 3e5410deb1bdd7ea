//! The left-hand sides of products.

/// Where the rows of a product's left-hand side lie: each is `segments` pieces of `length` values.
pub(crate) trait Rows: Sync {
    /// Pieces of a row, and their length.
    fn shape(&self) -> (usize, usize);
    /// A piece, of that length.
    fn piece(&self, row: usize, segment: usize) -> &[f32];
}

/// A matrix in plain memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values.
    pub(crate) fn new(data: &'a [f32], columns: usize) -> Self {
        Self { data, columns }
    }
}

impl Rows for Matrix<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        (1, self.columns)
    }
    #[inline(always)]
    fn piece(&self, row: usize, _: usize) -> &[f32] {
        &self.data[row * self.columns..][..self.columns]
    }
}

/// Rows that are pieces of `width` values of several matrices.
pub(crate) struct Beside<'a, const N: usize> {
    /// The matrices, of rows of `width` values.
    pub(crate) parts: [&'a [f32]; N],
    /// See `parts`.
    pub(crate) width: usize,
}

impl<const N: usize> Rows for Beside<'_, N> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        (N, self.width)
    }
    #[inline(always)]
    fn piece(&self, row: usize, segment: usize) -> &[f32] {
        &self.parts[segment][row * self.width..][..self.width]
    }
}
