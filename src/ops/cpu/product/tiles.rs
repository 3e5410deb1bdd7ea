//! Products with bf16 matrices on a unit that multiplies tiles of bf16.
//!
//! The left side is f32: two bf16 of 8 bits of mantissa each are its first 16 (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019). Three parts of both sides, in six
//! products, would be all of f32; but over a whole pass that is slower than f32 itself.

use half::bf16;
use rayon::prelude::*;

use super::super::shared::Shared;
use super::super::simd::amx::Tiles;
use super::super::simd::{Avx512, Kernel, TILE_PARTS, TILE_ROWS, Vector, run};
use super::epilogue::{Epilogue, load_column, store_column};
use super::panels::columns;
use super::right::Right;
use super::rows::Rows;
use super::split::Split;

/// Values of a row that are multiplied at a time, with all parts: they stay in the nearest cache.
const STEP: usize = 64;
/// Rows of the right side that are taken at a time.
const DEPTH: usize = 512;
/// Rows of a task.
const TASK_ROWS: usize = 256;
/// Bytes of the left side that are split at a time.
const CHUNK_BYTES: usize = 32 << 20;
/// Tasks that a product is cut in, if it is large enough.
const TASKS: usize = 8;

/// The left side of a product: row r is pieces of `length` values, piece s of which lies in row r + `offsets[s]` of
/// `split`.
pub(crate) struct Left {
    /// The values.
    pub(crate) split: Split,
    /// In rows.
    pub(crate) offsets: Vec<usize>,
    /// A multiple of 32.
    pub(crate) length: usize,
}

/// out [rows, n] = left [rows, k] times right [k, n], which is kept as pairs, on all threads; k is a multiple of 32.
pub(super) fn product(out: &mut [f32], left: &impl Rows, right: Right, epilogue: Epilogue) {
    let (k, n) = (right.k(), right.n());
    let rows = out.len() / n;
    let chunk = (CHUNK_BYTES / (2 * TILE_PARTS * k)).next_multiple_of(TASK_ROWS).min(rows.next_multiple_of(TILE_ROWS));
    // SAFETY: all rows of a chunk are filled in before they are multiplied, but those beyond the last, whose products
    // are not stored
    let split = unsafe { Split::room(chunk, k) };
    let mut chunk_of_left = Left { split, offsets: vec![0], length: k };
    let out = Shared::new(out);
    for first in (0..rows).step_by(chunk) {
        let rows = chunk.min(rows - first);
        let (segments, length) = left.shape();
        chunk_of_left.split.fill(rows, |row, give| {
            for segment in 0..segments {
                give(segment * length, left.piece(first + row, segment));
            }
        });
        multiply(&out, &chunk_of_left, rows, right, epilogue, |row| Some(first + row));
    }
}

/// out = left times right, which is kept as pairs. `target` tells which row of `out` a row of the left side is for, if any;
/// no two are for one.
pub(crate) fn multiply(
    out: &Shared<f32>,
    left: &Left,
    rows: usize,
    right: Right,
    epilogue: Epilogue,
    target: impl Fn(usize) -> Option<usize> + Sync,
) {
    let block = TASK_ROWS.min(rows.div_ceil(2).next_multiple_of(TILE_ROWS));
    let blocks = rows.div_ceil(block);
    let group = right.count().div_ceil(TASKS.div_ceil(blocks));
    let groups = right.count().div_ceil(group);
    (0..blocks * groups).into_par_iter().with_max_len(1).for_each(|task| {
        let (row, panel) = (task / groups * block, task % groups * group);
        TileShare {
            out,
            left,
            right,
            epilogue,
            target: &target,
            rows: (row, rows.min(row + block)),
            panels: (panel, right.count().min(panel + group)),
        }
        .compute();
    });
}

/// The part of a product that a task computes.
struct TileShare<'a, T> {
    out: &'a Shared<'a, f32>,
    left: &'a Left,
    right: Right<'a>,
    epilogue: Epilogue<'a>,
    /// The row of the result that a row of the left side is for.
    target: &'a T,
    /// Rows of the left side.
    rows: (usize, usize),
    panels: (usize, usize),
}

impl<T: Fn(usize) -> Option<usize> + Sync> TileShare<'_, T> {
    fn compute(&self) {
        // SAFETY: the level was detected
        let tiles = unsafe { Tiles::take() };
        let k = self.right.k();
        for from in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - from);
            for panel in self.panels.0..self.panels.1 {
                let width = columns(panel, self.right.n()).2;
                let pairs = self.right.pairs(panel).expect("only pairs are multiplied by tiles");
                let step = Step { from, depth, right: &pairs[from * width..][..depth * width] };
                match width / Avx512::LANES {
                    1 => self.panel::<1>(&tiles, panel, step),
                    2 => self.panel::<2>(&tiles, panel, step),
                    _ => self.panel::<3>(&tiles, panel, step),
                }
            }
        }
    }

    fn panel<const C: usize>(&self, tiles: &Tiles, panel: usize, step: Step) {
        let Step { from, depth, right } = step;
        let Left { split, offsets, length } = self.left;
        let mut sums = [0f32; TILE_ROWS * 3 * Avx512::LANES];
        for row in (self.rows.0..self.rows.1).step_by(TILE_ROWS) {
            tiles.clear();
            let mut at = 0;
            while at < depth {
                let (segment, offset) = ((from + at) / length, (from + at) % length);
                let count = STEP.min(depth - at).min(length - offset);
                let right = &right[at * C * Avx512::LANES..];
                // the greatest last
                for part in (0..TILE_PARTS).rev() {
                    let left = split.at(part, row + offsets[segment], offset);
                    debug_assert!(left.len() >= (TILE_ROWS - 1) * split.stride() + count);
                    debug_assert!(right.len() >= count * C * Avx512::LANES);
                    // SAFETY: the left side has whole blocks of rows; the panel has `depth` rows
                    unsafe { tiles.multiply::<C>(left.as_ptr(), split.stride(), right.as_ptr(), count) };
                }
                at += count;
            }
            // SAFETY: there is room for 32 rows of three vectors
            unsafe { tiles.store::<C>(sums.as_mut_ptr(), C * Avx512::LANES) };
            run(Finish { share: self, panel, row, sums: &sums, start: from == 0, end: from + depth == self.right.k() });
        }
    }
}

/// Takes the sums of a panel's columns and 32 rows to the result.
struct Finish<'a, T> {
    share: &'a TileShare<'a, T>,
    panel: usize,
    row: usize,
    sums: &'a [f32],
    /// Whether these are the first sums, and the last.
    start: bool,
    end: bool,
}

impl<T: Fn(usize) -> Option<usize> + Sync> Kernel for Finish<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let TileShare { out, right, epilogue, target, rows, .. } = self.share;
        let n = right.n();
        let (first, count, width) = columns(self.panel, n);
        for (i, sums) in self.sums.chunks_exact(width).enumerate().take(TILE_ROWS.min(rows.1 - self.row)) {
            let Some(row) = target(self.row + i) else { continue };
            // SAFETY: the columns of this row are this share's alone
            let to = unsafe { out.part(row * n + first, count) };
            for j in 0..width / V::LANES {
                let mut y: V = load_column(sums, j);
                if !self.start {
                    y = y.add(load_column(to, j));
                }
                if self.end {
                    y = epilogue.of(y, (row, n), (first, count), j);
                }
                store_column(to, j, y);
            }
        }
    }
}

/// A step through the depth of a product, and its rows of a panel.
#[derive(Clone, Copy)]
struct Step<'a> {
    from: usize,
    depth: usize,
    right: &'a [bf16],
}
