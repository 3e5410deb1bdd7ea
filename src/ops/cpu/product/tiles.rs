//! Matrix products in f32 on a unit that multiplies bf16 alone, and far faster than any f32 unit.
//!
//! An f32 is the sum of three bf16 of 8 bits of mantissa each. Of the nine products of two numbers' parts, the six
//! greatest give the product to 2^-23, which is what f32 itself gives (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019).

use half::bf16;
use rayon::prelude::*;

use super::super::room::Line;
use super::super::shared::Shared;
use super::super::simd::amx::Tiles;
use super::super::simd::{Avx512, Kernel, TILE_ROWS, Vector, run};
use super::epilogue::{Epilogue, load_column, store_column};
use super::panels::columns;
use super::right::{Right, Unpacked};
use super::rows::Rows;
use super::split::{Split, interleaved};

/// Which parts are multiplied: of the left and of the right side, the greatest last.
pub(crate) type Products = &'static [(usize, usize)];

/// Both sides f32.
pub(crate) const EXACT: Products = &[(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)];
/// The left side to 16 bits, the right side bf16.
const HALF: Products = &[(1, 0), (0, 0)];

/// Values of a row that are multiplied at a time, with all parts: they stay in the nearest cache.
const STEP: usize = 64;
/// Rows of the right side that are split at a time.
const DEPTH: usize = 512;
/// Rows of a task, for which a panel of the right side is split once.
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

/// out [rows, n] = left [rows, k] times right [k, n], on all threads; k is a multiple of 32.
pub(super) fn product(out: &mut [f32], left: &impl Rows, right: Right, epilogue: Epilogue) {
    let (k, n) = (right.k(), right.n());
    let rows = out.len() / n;
    let parts = part_count(right);
    let chunk = (CHUNK_BYTES / (2 * parts * k)).next_multiple_of(TASK_ROWS).min(rows.next_multiple_of(TILE_ROWS));
    // SAFETY: all rows of a chunk are filled in before they are multiplied, but those beyond the last, whose products
    // are not stored
    let split = unsafe { Split::room(chunk, k, parts) };
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

/// The parts that the left side of a product with `right` is split in.
pub(crate) fn part_count(right: Right) -> usize {
    if right.has_pairs() { 2 } else { 3 }
}

/// out = left times right. `target` tells which row of `out` a row of the left side is for, if any; no two are for one.
pub(crate) fn multiply(
    out: &Shared<f32>,
    left: &Left,
    rows: usize,
    right: Right,
    epilogue: Epilogue,
    target: impl Fn(usize) -> Option<usize> + Sync,
) {
    let products = if right.has_pairs() { HALF } else { EXACT };
    let block = TASK_ROWS.min(rows.div_ceil(2).next_multiple_of(TILE_ROWS));
    let blocks = rows.div_ceil(block);
    let group = right.count().div_ceil(TASKS.div_ceil(blocks));
    let groups = right.count().div_ceil(group);
    (0..blocks * groups).into_par_iter().with_max_len(1).for_each_init(Spare::default, |spare, task| {
        let (row, panel) = (task / groups * block, task % groups * group);
        TileShare {
            out,
            left,
            right,
            products,
            epilogue,
            target: &target,
            rows: (row, rows.min(row + block)),
            panels: (panel, right.count().min(panel + group)),
        }
        .compute(spare);
    });
}

/// What a thread's shares convert, one after the other.
#[derive(Default)]
struct Spare {
    rows: Unpacked,
    pairs: Vec<Line>,
}

/// The part of a product that a task computes.
struct TileShare<'a, T> {
    out: &'a Shared<'a, f32>,
    left: &'a Left,
    right: Right<'a>,
    products: Products,
    epilogue: Epilogue<'a>,
    /// The row of the result that a row of the left side is for.
    target: &'a T,
    /// Rows of the left side.
    rows: (usize, usize),
    panels: (usize, usize),
}

impl<T: Fn(usize) -> Option<usize> + Sync> TileShare<'_, T> {
    fn compute(&self, spare: &mut Spare) {
        // SAFETY: the level was detected
        let tiles = unsafe { Tiles::take() };
        let k = self.right.k();
        for from in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - from);
            for panel in self.panels.0..self.panels.1 {
                let width = columns(panel, self.right.n()).2;
                let (right, apart) = match self.right.pairs(panel) {
                    Some(pairs) => (&pairs[from * width..][..depth * width], 0),
                    None => {
                        let rows = self.right.rows(panel, from, depth, &mut spare.rows);
                        // SAFETY: the level was detected
                        (&*unsafe { interleaved(rows, width, 3, &mut spare.pairs) }, depth * width)
                    }
                };
                let step = Step { from, depth, right, apart };
                match width / Avx512::LANES {
                    1 => self.panel::<1>(&tiles, panel, step),
                    2 => self.panel::<2>(&tiles, panel, step),
                    _ => self.panel::<3>(&tiles, panel, step),
                }
            }
        }
    }

    fn panel<const C: usize>(&self, tiles: &Tiles, panel: usize, step: Step) {
        let Step { from, depth, right, apart } = step;
        let Left { split, offsets, length } = self.left;
        let mut sums = [0f32; TILE_ROWS * 3 * Avx512::LANES];
        for row in (self.rows.0..self.rows.1).step_by(TILE_ROWS) {
            tiles.clear();
            let mut at = 0;
            while at < depth {
                let (segment, offset) = ((from + at) / length, (from + at) % length);
                let count = STEP.min(depth - at).min(length - offset);
                for &(i, j) in self.products {
                    let left = split.at(i, row + offsets[segment], offset);
                    let right = &right[j * apart + at * C * Avx512::LANES..];
                    debug_assert!(left.len() >= (TILE_ROWS - 1) * split.stride() + count);
                    debug_assert!(right.len() >= count * C * Avx512::LANES);
                    // SAFETY: the left side has whole blocks of rows; the panel has `depth` rows in each part
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

/// A step through the depth of a product, and its rows of a panel in parts.
#[derive(Clone, Copy)]
struct Step<'a> {
    from: usize,
    depth: usize,
    right: &'a [bf16],
    apart: usize,
}
