//! Matrix products in f32 on a unit that multiplies bf16 alone, and far faster than any f32 unit.
//!
//! An f32 is the sum of three bf16 of 8 bits of mantissa each. Of the nine products of two numbers' parts, the six
//! greatest give the product to 2^-23, which is what f32 itself gives (Henry, Tang and Heinecke, "Leveraging the
//! bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019).

use half::bf16;
use rayon::prelude::*;

use super::super::simd::amx::{ROWS, Tiles, split, split_pairs};
use super::super::simd::{Avx512, Vector};
use super::panels::{self, Line, Right, columns, lines};
use super::{Finish, Rows, Shared, load_column, store_column};

/// Which parts are multiplied: of the left and of the right side, the greatest last.
pub type Products = &'static [(usize, usize)];

/// Both sides f32.
pub const EXACT: Products = &[(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)];
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

/// Rows of values in parts.
pub struct Parts {
    lines: Vec<Line>,
    /// Where `lines` begin, for tasks that write rows of their own.
    start: Shared,
    /// Values from row to row.
    stride: usize,
    /// Values from part to part.
    apart: usize,
}

impl Parts {
    /// Room for `rows` rows of `length` values.
    pub fn new(rows: usize, length: usize, parts: usize) -> Self {
        // an odd number of lines: the rows of a tile do not fight for the same places of a cache
        let stride = (length.div_ceil(Line::VALUES) | 1) * Line::VALUES;
        let apart = rows.next_multiple_of(ROWS) * stride;
        let mut lines = lines(parts * apart / Line::VALUES);
        let start = Shared(lines.as_mut_ptr().cast());
        Self { lines, start, stride, apart }
    }

    /// Splits `count` rows, on all threads: `pieces` is given a row and calls its second argument with each of its
    /// pieces, where in the row it begins, and how long it is; or with none for a row of zeros.
    pub fn fill(&mut self, count: usize, pieces: impl Fn(usize, &mut dyn FnMut(usize, Piece)) + Sync) {
        let &mut Self { stride, apart, ref start, .. } = self;
        let parts = Line::VALUES * self.lines.len() / apart;
        (0..count).into_par_iter().with_min_len(8).for_each(|row| {
            let to = start.start().cast::<bf16>().wrapping_add(row * stride);
            pieces(row, &mut |at, piece| {
                // SAFETY: each row has its own place in every part; the level was detected
                unsafe {
                    match piece {
                        Some((from, length)) if parts == 2 => split::<2>(from, length, to.add(at), apart),
                        Some((from, length)) => split::<3>(from, length, to.add(at), apart),
                        None => (0..parts).for_each(|part| to.add(part * apart).write_bytes(0, stride)),
                    }
                }
            });
        });
    }

    /// Where a value of a part lies.
    #[inline(always)]
    pub fn at(&self, part: usize, row: usize, column: usize) -> *mut bf16 {
        self.start.start().cast::<bf16>().wrapping_add(part * self.apart + row * self.stride + column)
    }

    /// Values from row to row.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Values from part to part.
    #[inline(always)]
    pub fn apart(&self) -> usize {
        self.apart
    }
}

/// Values that lie together.
pub type Piece = Option<(*const f32, usize)>;

/// The left side of a product: row r is pieces of `length` values, piece s of which lies in row r + `offsets`[s] of
/// `parts`.
pub struct Left {
    /// The values.
    pub parts: Parts,
    /// In rows.
    pub offsets: Vec<usize>,
    /// A multiple of 32.
    pub length: usize,
}

/// out [rows, n] = left [rows, k] times right [k, n], on all threads; k is a multiple of 32.
pub fn product(out: &mut [f32], left: &impl Rows, right: Right, finish: Finish) {
    let (k, n) = (right.k(), right.n());
    let rows = out.len() / n;
    let count = part_count(right);
    let chunk = (CHUNK_BYTES / (2 * count * k)).next_multiple_of(TASK_ROWS).min(rows.next_multiple_of(ROWS));
    let mut split = Left { parts: Parts::new(chunk, k, count), offsets: vec![0], length: k };
    let shared = Shared(out.as_mut_ptr());
    for first in (0..rows).step_by(chunk) {
        let rows = chunk.min(rows - first);
        let (segments, length) = left.shape();
        split.parts.fill(rows, |row, piece| {
            for segment in 0..segments {
                piece(segment * length, Some((left.piece(first + row, segment), length)));
            }
        });
        multiply(&shared, &split, rows, right, finish, |row| Some(first + row));
    }
}

/// The parts that the left side of a product with `right` is split in.
pub fn part_count(right: Right) -> usize {
    if right.has_pairs() { 2 } else { 3 }
}

/// out = left times right. `target` tells which row of `out` a row of the left side is for, if any.
pub fn multiply(
    out: &Shared,
    left: &Left,
    rows: usize,
    right: Right,
    finish: Finish,
    target: impl Fn(usize) -> Option<usize> + Sync,
) {
    let products = if right.has_pairs() { HALF } else { EXACT };
    let block = TASK_ROWS.min(rows.div_ceil(2).next_multiple_of(ROWS));
    let blocks = rows.div_ceil(block);
    let group = right.count().div_ceil(TASKS.div_ceil(blocks));
    let groups = right.count().div_ceil(group);
    (0..blocks * groups).into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, task| {
        let (row, panel) = (task / groups * block, task % groups * group);
        Task {
            out,
            left,
            right,
            products,
            finish,
            target: &target,
            rows: (row, rows.min(row + block)),
            panels: (panel, right.count().min(panel + group)),
        }
        .run(scratch);
    });
}

#[derive(Default)]
struct Scratch {
    rows: panels::Scratch,
    pairs: Vec<Line>,
}

struct Task<'a, T> {
    out: &'a Shared,
    left: &'a Left,
    right: Right<'a>,
    products: Products,
    finish: Finish<'a>,
    /// The row of the result that a row of the left side is for.
    target: &'a T,
    /// Rows of the left side.
    rows: (usize, usize),
    panels: (usize, usize),
}

impl<T: Fn(usize) -> Option<usize> + Sync> Task<'_, T> {
    fn run(&self, scratch: &mut Scratch) {
        // SAFETY: the level was detected
        let tiles = unsafe { Tiles::take() };
        let k = self.right.k();
        for from in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - from);
            for panel in self.panels.0..self.panels.1 {
                let width = columns(panel, self.right.n()).2;
                let (right, apart) = match self.right.pairs(panel) {
                    Some(pairs) => (pairs[from * width..].as_ptr(), 0),
                    None => {
                        let rows = self.right.rows(panel, from, depth, &mut scratch.rows);
                        (split_right(rows, width, &mut scratch.pairs), depth * width)
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
        let mut sums = [0f32; ROWS * 3 * Avx512::LANES];
        for row in (self.rows.0..self.rows.1).step_by(ROWS) {
            tiles.clear();
            let mut at = 0;
            while at < depth {
                let (segment, offset) = ((from + at) / self.left.length, (from + at) % self.left.length);
                let count = STEP.min(depth - at).min(self.left.length - offset);
                for &(i, j) in self.products {
                    let left = self.left.parts.at(i, row + self.left.offsets[segment], offset);
                    let right = right.wrapping_add(j * apart + at * C * Avx512::LANES);
                    // SAFETY: the left side has whole blocks of rows; the panel has `depth` rows in each part
                    unsafe { tiles.multiply::<C>(left, self.left.parts.stride, right, count) };
                }
                at += count;
            }
            // SAFETY: there is room for 32 rows of three vectors
            unsafe { tiles.store::<C>(sums.as_mut_ptr(), C * Avx512::LANES) };
            let last = from + depth == self.right.k();
            // SAFETY: the level was detected
            unsafe { self.finish::<C>(panel, row, &sums, from == 0, last) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
    fn finish<const C: usize>(&self, panel: usize, row: usize, sums: &[f32], start: bool, end: bool) {
        let Finish { bias, rows_per_bias, residual } = self.finish;
        let n = self.right.n();
        let (column, count, width) = columns(panel, n);
        for (i, sums) in sums.chunks(width).enumerate().take(ROWS.min(self.rows.1 - row)) {
            let Some(row) = (self.target)(row + i) else { continue };
            // SAFETY: within the result, as `product` has checked, and this task's own
            let to = unsafe { std::slice::from_raw_parts_mut(self.out.0.add(row * n + column), count) };
            for j in 0..C {
                let mut y: Avx512 = load_column(sums, j);
                if !start {
                    y = y.add(load_column(to, j));
                }
                if end && !bias.is_empty() {
                    y = y.add(load_column(&bias[row / rows_per_bias * n + column..][..count], j));
                }
                if end && !residual.is_empty() {
                    y = y.add(load_column(&residual[row * n + column..][..count], j));
                }
                store_column(to, j, y);
            }
        }
    }
}

/// A step through the depth of a product, and its rows of a panel in parts.
#[derive(Clone, Copy)]
struct Step {
    from: usize,
    depth: usize,
    right: *const bf16,
    apart: usize,
}

/// Splits `rows` [depth, width] in three parts [depth / 2, width, 2].
fn split_right(rows: &[f32], width: usize, to: &mut Vec<Line>) -> *const bf16 {
    let needed = 3 * rows.len() / Line::VALUES;
    if to.len() < needed {
        *to = lines(needed);
    }
    let start = to.as_mut_ptr().cast::<bf16>();
    for (i, pair) in rows.chunks_exact(2 * width).enumerate() {
        let (even, odd) = pair.split_at(width);
        // SAFETY: the level was detected; there is room for three times the rows
        unsafe { split_pairs::<3>(even.as_ptr(), odd.as_ptr(), width, start.add(2 * i * width), rows.len()) };
    }
    start
}
