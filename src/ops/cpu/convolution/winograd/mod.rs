//! 3x3 convolutions of stride 1 with a quarter of the multiplications.
//!
//! Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2016): cells of 6x6 inputs and the filters are mapped to 36 products each, a matrix product
//! over the channels at each of the 36 places, and the sums are mapped back to cells of 4x4 outputs. The filters
//! are mapped on the fly, since in mapped form they would need four times their memory.

mod maps;
mod outputs;
mod tiles;
mod vectors;

use maps::MapInput;
use outputs::Outputs;
use rayon::prelude::*;

use super::super::product::epilogue::Epilogue;
use super::super::product::right::Right;
use super::super::room::Line;
use super::super::shared::Shared;
use super::super::simd::{Level, TILE_DEPTH, Vector, lanes, level, run};
use super::input::Input;
use crate::ops::weight::Precision;

/// Side of the outputs of a cell.
const CELL: usize = 4;
/// Side of its inputs.
const SIDE: usize = 6;
/// Places at which channels are multiplied.
const PLACES: usize = SIDE * SIDE;
/// Bytes of mapped inputs at a time: they stay in the last cache.
const CHUNK_BYTES: usize = 16 << 20;
/// Cells of a task, for which a panel of filters is mapped once.
const TASK_CELLS: usize = 128;
/// Rows left free between the places of filters and of sums, or all places would share one set of lines of the nearest
/// cache; an even number, for filters in pairs.
const GAP: usize = 2;
/// Fewer cells than this are not worth mapping the filters.
const FEWEST_CELLS: usize = 4;

/// Cells along the sides of an input.
fn cells(input: &Input) -> (usize, usize) {
    (input.height.div_ceil(CELL), input.width.div_ceil(CELL))
}

/// Whether this way serves `input`.
pub(super) fn serves(input: &Input) -> bool {
    let (rows, across) = cells(input);
    input.channels.is_multiple_of(lanes()) && input.batch * rows * across >= FEWEST_CELLS
}

/// What multiplies mapped inputs with mapped filters.
trait Multiplier: Sync {
    /// What takes the mapped inputs of a chunk, all before they are multiplied.
    fn sink(&mut self) -> impl Sink;

    /// sums [PLACES, cells + GAP, width] = the products with `filters` [PLACES, depth + GAP, width] of channels
    /// `c..c + depth` of the cells `from..to`, added to what was there if `c` is not 0.
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        filters: &[f32],
        cells: (usize, usize),
        channels: (usize, usize),
        spare: &mut Vec<Line>,
    );
}

/// Takes mapped inputs.
trait Sink: Sync {
    /// Takes a vector of a mapped input: that of channel `c` on, of cell `cell` of the chunk, at `place`.
    ///
    /// # Safety
    /// Each must be given by one thread.
    unsafe fn put<V: Vector>(&self, place: usize, cell: usize, c: usize, value: V);
}

/// out [batch, height, width, n]: `input` convolved with `filters` [9 * channels, n], padding 1.
pub(super) fn convolve(out: &mut [f32], input: Input, filters: Right, epilogue: Epilogue) {
    let (rows, across) = cells(&input);
    let channels = input.channels;
    let chunk = (CHUNK_BYTES / (4 * PLACES * channels)).next_multiple_of(8).min(input.batch * rows * across);
    if level() == Level::Amx && filters.precision() == Precision::Bf16 && channels.is_multiple_of(TILE_DEPTH) {
        // SAFETY: `convolve_with` maps a chunk before it multiplies it
        let multiplier = unsafe { tiles::Tiles::new(chunk, channels) };
        convolve_with(out, input, filters, epilogue, chunk, multiplier);
    } else {
        // SAFETY: as above
        let multiplier = unsafe { vectors::Vectors::new(chunk, channels) };
        convolve_with(out, input, filters, epilogue, chunk, multiplier);
    }
}

fn convolve_with(
    out: &mut [f32],
    input: Input,
    filters: Right,
    epilogue: Epilogue,
    chunk: usize,
    mut multiplier: impl Multiplier,
) {
    let (rows, across) = cells(&input);
    let (cells, pixels) = (input.batch * rows * across, input.batch * input.height * input.width);
    assert!(filters.k() == 9 * input.channels && out.len() == pixels * filters.n());
    epilogue.check(pixels, filters.n());
    let out = Shared::new(out);
    for first in (0..cells).step_by(chunk) {
        let count = chunk.min(cells - first);
        let sink = multiplier.sink();
        (0..count).into_par_iter().with_min_len(4).for_each(|cell| {
            run(MapInput { input: &input, sink: &sink, cell, of: first + cell });
        });
        drop(sink);
        let groups = count.div_ceil(TASK_CELLS);
        (0..groups * filters.count()).into_par_iter().with_max_len(1).for_each_init(
            outputs::Spare::default,
            |spare, task| {
                let (group, panel) = (task % groups, task / groups);
                let share = count.div_ceil(groups).next_multiple_of(8);
                let cells = (group * share, count.min((group + 1) * share));
                if cells.0 < cells.1 {
                    run(Outputs {
                        out: &out,
                        input: &input,
                        multiplier: &multiplier,
                        filters,
                        epilogue,
                        panel,
                        cells,
                        first,
                        spare,
                    });
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::super::product::panels::Panels;
    use super::*;
    use crate::ops::testing::{Draw, at_every_level, gap};

    /// The convolution in f64 with filters [n, channels, 9], and `rest` added.
    fn reference(input: &Input, filters: &[f32], n: usize, rest: impl Fn(usize) -> f32) -> Vec<f32> {
        let Input { batch, height, width, channels, .. } = *input;
        let mut out = Vec::new();
        for pixel in 0..batch * height * width {
            let (sample, y, x) = (pixel / (height * width), pixel / width % height, pixel % width);
            let mut sums = vec![0f64; n];
            for tap in 0..9 {
                let (y, x) = ((y + tap / 3).wrapping_sub(1), (x + tap % 3).wrapping_sub(1));
                if y < height && x < width {
                    let values = input.from(sample, y, x, channels);
                    for (sum, filter) in sums.iter_mut().zip(filters.chunks(channels * 9)) {
                        let taps = filter.iter().skip(tap).step_by(9);
                        *sum += values.iter().zip(taps).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
                    }
                }
            }
            out.extend(sums.iter().enumerate().map(|(j, sum)| *sum as f32 + rest(pixel * n + j)));
        }
        out
    }

    #[test]
    fn cells_equal_sums_in_f64() {
        at_every_level(|| {
            let draw = Draw::new("winograd");
            let cases: [(usize, usize, usize, usize, usize, bool); 5] = [
                (2, 5, 7, 16, 3, false),
                (1, 9, 14, 32, 50, true),
                // more cells than a task takes, more channels than are mapped at a time, more cells than a chunk
                (3, 29, 27, 16, 5, false),
                (1, 11, 6, 160, 17, false),
                (1, 45, 44, 1024, 2, false),
            ];
            for (batch, height, width, channels, n, doubled) in cases {
                let pixels = batch * height * width;
                let stored = if doubled { batch * height.div_ceil(2) * width.div_ceil(2) } else { pixels };
                let (values, mut filters) = (draw.values(stored * channels), draw.values(n * channels * 9));
                // kept in bf16 they are the same
                filters.iter_mut().for_each(|filter| *filter = bf16::from_f32(*filter).to_f32());
                let (bias, residual) = (draw.values(batch * n), draw.values(pixels * n));
                let input = Input { values: &values, batch, height, width, channels, doubled };
                assert!(serves(&input));
                let rows_per_bias = height * width;
                let rest = |i: usize| bias[i / (n * rows_per_bias) * n + i % n] + residual[i];
                let expected = reference(&input, &filters, n, rest);
                for precision in [Precision::F32, Precision::Bf16] {
                    let packed = Panels::pack_filters(&filters, n, channels, 9);
                    let packed = packed.kept_for_convolutions(precision, channels);
                    let mut out = vec![f32::NAN; pixels * n];
                    let epilogue = Epilogue { bias: &bias, rows_per_bias, residual: &residual };
                    convolve(&mut out, input, (&packed).into(), epilogue);
                    let gap = gap(&out, &expected);
                    // tiles take 16 bits of mapped inputs and filters
                    let tiles =
                        (precision, level()) == (Precision::Bf16, Level::Amx) && channels.is_multiple_of(TILE_DEPTH);
                    let bound = if tiles { 1e-3 } else { 1e-4 };
                    assert!(gap < bound, "{batch} x {height} x {width} x {channels} to {n}, {precision}: {gap}");
                }
            }
            Ok(())
        });
    }
}
