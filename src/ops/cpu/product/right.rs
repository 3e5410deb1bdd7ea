//! The right-hand sides of products.

use half::bf16;

use super::super::room::grown;
use super::super::simd::transpose;
use super::panels::{Panels, columns, panel_columns};
use crate::ops::weight::Precision;

/// The right-hand side of a product: a packed matrix as it is, or turned.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    panels: &'a Panels,
    /// Number of blocks that the matrix is turned in.
    turned: Option<usize>,
}

/// Rows in another form than they are kept in.
#[derive(Default)]
pub(crate) struct Unpacked {
    rows: Vec<f32>,
    block: Vec<f32>,
}

impl<'a> From<&'a Panels> for Right<'a> {
    fn from(panels: &'a Panels) -> Self {
        Self { panels, turned: None }
    }
}

impl<'a> Right<'a> {
    /// The matrix of `taps` blocks [c, n] with every block transposed and their order reversed: the
    /// right-hand side of the input gradient of a convolution. It is turned panel by panel while it is
    /// read.
    pub(crate) fn turned(panels: &'a Panels, taps: usize) -> Self {
        Self { panels, turned: Some(taps) }
    }

    /// Rows of the matrix.
    pub(crate) fn k(&self) -> usize {
        self.turned.map_or(self.panels.k(), |taps| taps * self.panels.n())
    }

    /// Columns of the matrix.
    pub(crate) fn n(&self) -> usize {
        self.turned.map_or(self.panels.n(), |taps| self.panels.k() / taps)
    }

    /// How its values are kept.
    pub(crate) fn precision(&self) -> Precision {
        self.panels.precision()
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n().div_ceil(panel_columns())
    }

    /// The pairs of panel `panel`, if they are kept as pairs.
    pub(crate) fn pairs(&self, panel: usize) -> Option<&'a [bf16]> {
        self.panels.pairs(panel).filter(|_| self.turned.is_none())
    }

    /// Whether [`pairs`](Self::pairs) has any.
    pub(crate) fn has_pairs(&self) -> bool {
        self.panels.has_pairs() && self.turned.is_none()
    }

    /// Rows `first..first + count` of panel `panel` in f32.
    pub(crate) fn rows<'b>(&self, panel: usize, first: usize, count: usize, unpacked: &'b mut Unpacked) -> &'b [f32]
    where
        'a: 'b,
    {
        if self.turned.is_none() {
            return self.panels.rows(panel, first, count, &mut unpacked.rows);
        }
        let length = count * columns(panel, self.n()).2;
        let mut rows = std::mem::take(&mut unpacked.rows);
        // SAFETY: all of them are filled in at once
        self.fill_turned(panel, (first, count), unsafe { grown(&mut rows, length) }, unpacked);
        unpacked.rows = rows;
        &unpacked.rows[..length]
    }

    /// Fills `out` with rows of the turned matrix, which may be of several blocks.
    pub(super) fn fill_turned(
        &self,
        panel: usize,
        (first, count): (usize, usize),
        out: &mut [f32],
        unpacked: &mut Unpacked,
    ) {
        let Self { panels, turned } = self;
        let taps = turned.unwrap_or(1);
        let (c, n) = (panels.k() / taps, panels.n());
        let (row, rows, width) = columns(panel, c);
        let mut at = first;
        while at < first + count {
            let (tap, column) = (at / n, at % n);
            let from = column / panel_columns();
            let (start, columns_there, width_from) = columns(from, n);
            let end = (at - column + start + columns_there).min(first + count);
            let block = panels.rows(from, (taps - 1 - tap) * c + row, rows, &mut unpacked.block);
            let out = &mut out[(at - first) * width..(end - first) * width];
            transpose(&block[column - start..], width_from, out, width, rows);
            at = end;
        }
    }
}
