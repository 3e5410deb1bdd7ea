//! Products of mapped inputs and filters, mapped back to pixels.

// as in the module of products
#![allow(clippy::needless_range_loop)]

use super::super::super::product::epilogue::{Epilogue, store_column};
use super::super::super::product::panels::columns;
use super::super::super::product::right::{Right, Unpacked};
use super::super::super::room::{Line, grown};
use super::super::super::shared::Shared;
use super::super::super::simd::{Kernel, Vector};
use super::super::input::Input;
use super::maps::{map_back, map_filters};
use super::{CELL, GAP, Multiplier, PLACES, cells};

/// Channels whose filters are mapped at a time: they stay in a core's cache.
const DEPTH: usize = 64;

/// What a thread's tasks compute with, one after the other.
#[derive(Default)]
pub(super) struct Spare {
    taps: [Unpacked; 9],
    filters: Vec<f32>,
    sums: Vec<f32>,
    pairs: Vec<Line>,
}

/// Products of some cells with a panel of filters, mapped back.
pub(super) struct Outputs<'a, M> {
    pub(super) out: &'a Shared<'a, f32>,
    pub(super) input: &'a Input<'a>,
    pub(super) multiplier: &'a M,
    pub(super) filters: Right<'a>,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) panel: usize,
    /// The first cell in the chunk, and that after the last.
    pub(super) cells: (usize, usize),
    /// The number of the chunk's first cell in the input.
    pub(super) first: usize,
    pub(super) spare: &'a mut Spare,
}

impl<M: Multiplier> Kernel for Outputs<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.input.channels;
        let (from, to) = self.cells;
        let cells = to - from;
        let width = columns(self.panel, self.filters.n()).2;
        let Spare { taps: mut unpacked, mut filters, mut sums, mut pairs } = std::mem::take(self.spare);
        for c in (0..channels).step_by(DEPTH) {
            let depth = DEPTH.min(channels - c);
            let mut taps: [&[f32]; 9] = [&[]; 9];
            for (tap, (rows, unpacked)) in taps.iter_mut().zip(&mut unpacked).enumerate() {
                *rows = self.filters.rows(self.panel, tap * channels + c, depth, unpacked);
            }
            // SAFETY: `map_filters` writes all but the gaps, which nobody looks at
            let filters = unsafe { grown(&mut filters, PLACES * (depth + GAP) * width) };
            map_filters::<V>(taps, filters, depth * width, (depth + GAP) * width);
            let length = PLACES * (cells + GAP) * width;
            // SAFETY: the first channels' products write all but the gaps; they grow no more afterwards
            let sums = if c == 0 { unsafe { grown(&mut sums, length) } } else { &mut sums[..length] };
            self.multiplier.multiply::<V>(sums, filters, self.cells, (c, depth), &mut pairs);
        }
        for cell in 0..cells {
            for j in 0..width / V::LANES {
                let sums = &sums[cell * width + j * V::LANES..];
                self.finish(self.first + from + cell, j, map_back::<V>(sums, (cells + GAP) * width));
            }
        }
        *self.spare = Spare { taps: unpacked, filters, sums, pairs };
    }
}

impl<M> Outputs<'_, M> {
    /// Writes the outputs of vector `j` of the panel.
    #[inline(always)]
    fn finish<V: Vector>(&self, cell: usize, j: usize, outputs: [[V; CELL]; CELL]) {
        let Self { input, epilogue, .. } = self;
        let (rows, across) = cells(input);
        let (sample, y, x) = (cell / (rows * across), cell / across % rows * CELL, cell % across * CELL);
        let n = self.filters.n();
        let (first, count, _) = columns(self.panel, n);
        let (first, count) = (first + j * V::LANES, (count - j * V::LANES).min(V::LANES));
        for i in 0..CELL.min(input.height - y) {
            for k in 0..CELL.min(input.width - x) {
                let pixel = (sample * input.height + y + i) * input.width + x + k;
                let output = epilogue.of(outputs[i][k], (pixel, n), (first, count), 0);
                // SAFETY: these columns of the cell's pixels are this task's alone
                store_column(unsafe { self.out.part(pixel * n + first, count) }, 0, output);
            }
        }
    }
}
