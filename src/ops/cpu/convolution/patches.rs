//! Convolutions as products whose rows are pieces of the input.

use super::super::product::rows::Rows;
use super::input::Input;
use crate::ops::conv::Window;

/// What the window sees at each output pixel, as a row of a matrix.
pub(super) struct Patches<'a> {
    pub(super) input: Input<'a>,
    pub(super) window: Window,
    /// Output pixels along the sides.
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// As many as a piece is long.
    pub(super) zeros: &'a [f32],
}

impl<'a> Patches<'a> {
    /// Pieces of a row, and their length.
    pub(super) fn shape(input: &Input, window: Window) -> (usize, usize) {
        let (size, channels) = (window.size, input.channels);
        // without padding, a line of the window lies in one piece
        if window.padding == 0 && !input.doubled { (size, size * channels) } else { (size * size, channels) }
    }
}

impl Rows for Patches<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        Self::shape(&self.input, self.window)
    }

    #[inline(always)]
    fn piece(&self, row: usize, segment: usize) -> &[f32] {
        let Self { input, window, zeros, .. } = self;
        let whole_lines = window.padding == 0 && !input.doubled;
        let (i, j) = if whole_lines { (segment, 0) } else { (segment / window.size, segment % window.size) };
        let (line, column) = (row / self.columns, row % self.columns);
        let (sample, line) = (line / self.rows, line % self.rows);
        let y = (line * window.stride + i).wrapping_sub(window.padding);
        let x = (column * window.stride + j).wrapping_sub(window.padding);
        if y < input.height && x < input.width { input.from(sample, y, x, zeros.len()) } else { zeros }
    }
}
