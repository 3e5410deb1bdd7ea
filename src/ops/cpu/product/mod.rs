//! Matrix products on the CPU: rows from anywhere in memory times a packed matrix.
//!
//! The kernel computes tiles of a few rows and a few vectors of columns, and keeps their sums in
//! registers. The rows are not packed: a tile is told where each of its rows lies, which makes a
//! convolution a product whose rows are pieces of the picture, without copying it.

// loops over indices: what iterators are made of is not always inlined, and then not compiled for the
// processor's vectors
#![allow(clippy::needless_range_loop)]

pub mod panels;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod tiles;

use half::bf16;
use rayon::prelude::*;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::simd::amx;
use super::simd::{Kernel, Level, Vector, level, run};
use panels::{Right, columns};

/// Where the rows of a product's left-hand side lie: each is `segments` pieces of `length` values.
pub trait Rows: Sync {
    /// Pieces of a row, and their length.
    fn shape(&self) -> (usize, usize);
    /// The start of a piece.
    fn piece(&self, row: usize, segment: usize) -> *const f32;
}

/// A matrix in plain memory.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    columns: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` values, `stride` apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || data.len() >= (rows - 1) * stride + columns);
        Self { data, columns, stride }
    }
}

impl Rows for Matrix<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        (1, self.columns)
    }
    #[inline(always)]
    fn piece(&self, row: usize, _: usize) -> *const f32 {
        self.data[row * self.stride..].as_ptr()
    }
}

/// What is done to a product on its way to memory: out = product + bias + residual.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// One value a column; row r takes the part number r / `rows_per_bias` of it. Empty: none.
    pub bias: &'a [f32],
    /// See `bias`.
    pub rows_per_bias: usize,
    /// As large as the result. Empty: none.
    pub residual: &'a [f32],
}

impl Default for Finish<'_> {
    fn default() -> Self {
        Self { bias: &[], rows_per_bias: usize::MAX, residual: &[] }
    }
}

/// Bytes of the left-hand side that a task works on, so that they stay in a core's cache.
const LEFT_BYTES: usize = 256 << 10;
/// Rows of the right-hand side that are taken at a time.
const DEPTH: usize = 1024;
/// Tasks that a product is cut in, if it is large enough.
const TASKS: usize = 32;

/// out [rows, n] = left [rows, k] times right [k, n], on all threads. What is computed does not depend on
/// their number.
pub fn product<'a>(out: &mut [f32], left: &impl Rows, right: impl Into<Right<'a>>, finish: Finish) {
    let right = right.into();
    let n = right.n();
    let rows = out.len() / n;
    let (segments, length) = left.shape();
    assert!(segments * length == right.k() && out.len() == rows * n);
    assert!(finish.residual.is_empty() || finish.residual.len() == out.len());
    assert!(finish.bias.is_empty() || finish.bias.len() / n > rows.saturating_sub(1) / finish.rows_per_bias);
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if level() == Level::Amx && right.k().is_multiple_of(amx::DEPTH) && rows >= amx::ROWS / 2 {
        return tiles::product(out, left, right, finish);
    }
    let block =
        (LEFT_BYTES / 4 / right.k().clamp(1, DEPTH)).next_multiple_of(24).min(rows.div_ceil(4).next_multiple_of(24));
    let blocks = rows.div_ceil(block.max(1));
    let group = right.count().div_ceil(TASKS.div_ceil(blocks.max(1)));
    let groups = right.count().div_ceil(group.max(1));
    let shared = Shared(out.as_mut_ptr());
    (0..blocks * groups).into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, task| {
        let (block_index, group_index) = (task / groups, task % groups);
        let task = Task {
            out: &shared,
            left,
            right,
            finish,
            rows: (block_index * block, rows.min((block_index + 1) * block)),
            panels: (group_index * group, right.count().min((group_index + 1) * group)),
            scratch,
        };
        if right.has_pairs() { task.run_pairs() } else { run(task) }
    });
}

/// A result that tasks write disjoint parts of.
pub struct Shared(pub *mut f32);

// SAFETY: whoever shares it gives every task its own part
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer, for closures, which would take the field alone.
    pub fn start(&self) -> *mut f32 {
        self.0
    }
}

#[derive(Default)]
struct Scratch {
    right: panels::Scratch,
    left: Vec<bf16>,
}

struct Task<'a, L> {
    out: &'a Shared,
    left: &'a L,
    right: Right<'a>,
    finish: Finish<'a>,
    rows: (usize, usize),
    panels: (usize, usize),
    scratch: &'a mut Scratch,
}

impl<L: Rows> Kernel for Task<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        // registers: 8 x 3 sums of 32, or 6 x 2 of 16; the vectors of a panel's row, and one of the left side
        if V::LANES == 16 { self.with_rows::<V, 8>() } else { self.with_rows::<V, 6>() }
    }
}

impl<L: Rows> Task<'_, L> {
    #[inline(always)]
    fn with_rows<V: Vector, const R: usize>(self) {
        let (segments, length) = self.left.shape();
        // a step takes some whole segments, or a part of one
        let per_step = (DEPTH / length).max(1);
        let mut scratch = std::mem::take(&mut self.scratch.right);
        let mut from = 0;
        while from < segments * length {
            let (segment, offset) = (from / length, from % length);
            let depth =
                if length > DEPTH { DEPTH.min(length - offset) } else { per_step.min(segments - segment) * length };
            let step = Step { segment, offset, depth, first: from == 0, last: from + depth == segments * length };
            for panel in self.panels.0..self.panels.1 {
                let right = self.right.rows(panel, from, depth, &mut scratch);
                match columns(panel, self.right.n()).2 / V::LANES {
                    1 => self.panel::<V, R, 1>(panel, right, step),
                    3 if V::LANES == 16 => self.panel::<V, R, 3>(panel, right, step),
                    _ => self.panel::<V, R, 2>(panel, right, step),
                }
            }
            from += depth;
        }
        self.scratch.right = scratch;
    }

    #[inline(always)]
    fn panel<V: Vector, const R: usize, const C: usize>(&self, panel: usize, right: &[f32], step: Step) {
        let (_, length) = self.left.shape();
        let (first, last) = self.rows;
        for row in (first..last).step_by(R) {
            let mut sums = [[V::splat(0.); C]; R];
            if !step.first {
                self.load(panel, row, &mut sums);
            }
            let (mut segment, mut done) = (step.segment, 0);
            while done < step.depth {
                // rows beyond the last repeat it; they are not stored
                let mut left = [std::ptr::null(); R];
                for (i, left) in left.iter_mut().enumerate() {
                    *left = self.left.piece((row + i).min(last - 1), segment).wrapping_add(step.offset);
                }
                let depth = (step.depth - done).min(length - step.offset);
                // SAFETY: pieces have `length` values, panels `depth` rows of C vectors
                unsafe { multiply(&mut sums, left, right.as_ptr().add(done * C * V::LANES), depth) };
                done += depth;
                segment += 1;
            }
            if step.last { self.finish(panel, row, sums) } else { self.store(panel, row, sums) }
        }
    }

    /// The part of row `row` of the result that panel `panel` computes.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    fn out(&self, panel: usize, row: usize) -> &mut [f32] {
        let n = self.right.n();
        let (first, count, _) = columns(panel, n);
        // SAFETY: within the result, as `product` has checked, and this task's own
        unsafe { std::slice::from_raw_parts_mut(self.out.0.add(row * n + first), count) }
    }

    #[inline(always)]
    fn load<V: Vector, const R: usize, const C: usize>(&self, panel: usize, row: usize, sums: &mut [[V; C]; R]) {
        for i in 0..R.min(self.rows.1 - row) {
            let from = self.out(panel, row + i);
            for j in 0..C {
                sums[i][j] = load_column(from, j);
            }
        }
    }

    #[inline(always)]
    fn store<V: Vector, const R: usize, const C: usize>(&self, panel: usize, row: usize, sums: [[V; C]; R]) {
        for i in 0..R.min(self.rows.1 - row) {
            let to = self.out(panel, row + i);
            for j in 0..C {
                store_column(to, j, sums[i][j]);
            }
        }
    }

    #[inline(always)]
    fn finish<V: Vector, const R: usize, const C: usize>(&self, panel: usize, row: usize, sums: [[V; C]; R]) {
        let Finish { bias, rows_per_bias, residual } = self.finish;
        let n = self.right.n();
        let (first, count, _) = columns(panel, n);
        for i in 0..R.min(self.rows.1 - row) {
            let row = row + i;
            let to = self.out(panel, row);
            for j in 0..C {
                let mut y = sums[i][j];
                if !bias.is_empty() {
                    y = y.add(load_column(&bias[row / rows_per_bias * n + first..][..count], j));
                }
                if !residual.is_empty() {
                    y = y.add(load_column(&residual[row * n + first..][..count], j));
                }
                store_column(to, j, y);
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run_pairs(self) {
        run(self)
    }

    #[cfg(target_arch = "x86_64")]
    fn run_pairs(self) {
        // SAFETY: panels are kept as pairs only where the processor multiplies them
        unsafe { super::simd::run_bf16(Pairs(self)) }
    }
}

/// A step through the depth of a product.
#[derive(Clone, Copy)]
struct Step {
    segment: usize,
    offset: usize,
    depth: usize,
    first: bool,
    last: bool,
}

/// Vector `j` of a row of columns, of which there may be fewer than the last vector has lanes.
#[inline(always)]
pub fn load_column<V: Vector>(from: &[f32], j: usize) -> V {
    let from = &from[j * V::LANES..];
    // SAFETY: the length is checked
    if from.len() >= V::LANES { unsafe { V::load(from.as_ptr()) } } else { V::load_part(from) }
}

/// Writes vector `j` of a row of columns.
#[inline(always)]
pub fn store_column<V: Vector>(to: &mut [f32], j: usize, value: V) {
    let to = &mut to[j * V::LANES..];
    // SAFETY: the length is checked
    if to.len() >= V::LANES { unsafe { value.store(to.as_mut_ptr()) } } else { value.store_part(to) }
}

/// sums += left right: R rows of `depth` values times `depth` rows of C vectors.
///
/// # Safety
/// The pointers must be to that many values.
#[inline(always)]
pub unsafe fn multiply<V: Vector, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    left: [*const f32; R],
    right: *const f32,
    depth: usize,
) {
    // a copy, which stays in registers
    let mut acc = *sums;
    for k in 0..depth {
        // SAFETY: the caller's
        unsafe {
            let right = right.add(k * C * V::LANES);
            let mut vectors = [V::splat(0.); C];
            for j in 0..C {
                vectors[j] = V::load(right.add(j * V::LANES));
            }
            for i in 0..R {
                let x = V::splat(*left[i].add(k));
                for j in 0..C {
                    acc[i][j] = x.fma(vectors[j], acc[i][j]);
                }
            }
        }
    }
    *sums = acc;
}

/// Rows in plain memory, as a kernel that runs already hands them to [`block`].
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// The values.
    pub values: &'a [f32],
    /// From row to row.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
}

/// out = left times the `depth` rows of a panel of `width` columns, or out += that, within a kernel.
#[inline(always)]
pub fn block<V: Vector>(
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
        let mut pointers = [left.values.as_ptr(); R];
        for (i, pointer) in pointers.iter_mut().enumerate() {
            // rows beyond the last repeat it; they are not stored
            *pointer = left.values[(row + i).min(last) * left.stride..].as_ptr();
        }
        let mut sums = [[V::splat(0.); C]; R];
        let rows = R.min(left.rows - row);
        // SAFETY: `block` has checked the lengths
        unsafe {
            if add {
                for i in 0..rows {
                    for j in 0..C {
                        sums[i][j] = V::load(out.as_ptr().add((row + i) * stride + j * V::LANES));
                    }
                }
            }
            multiply(&mut sums, pointers, right.as_ptr(), depth);
            for i in 0..rows {
                for j in 0..C {
                    sums[i][j].store(out.as_mut_ptr().add((row + i) * stride + j * V::LANES));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Pairs<'a, L>(Task<'a, L>);

#[cfg(target_arch = "x86_64")]
impl<L: Rows> super::simd::Bf16Kernel for Pairs<'_, L> {
    #[inline(always)]
    fn run(self) {
        use super::simd::{Avx512, to_bf16};
        let task = self.0;
        let k = task.right.k();
        let (first, last) = task.rows;
        let mut left = std::mem::take(&mut task.scratch.left);
        left.resize((last - first) * k, bf16::ZERO);
        let (segments, length) = task.left.shape();
        for (row, left) in left.chunks_mut(k).enumerate() {
            for (segment, left) in left.chunks_mut(length).enumerate().take(segments) {
                // SAFETY: pieces have `length` values
                let piece = unsafe { std::slice::from_raw_parts(task.left.piece(first + row, segment), length) };
                to_bf16(piece, left);
            }
        }
        for panel in task.panels.0..task.panels.1 {
            let Some(right) = task.right.pairs(panel) else { continue };
            match columns(panel, task.right.n()).2 / Avx512::LANES {
                1 => task.panel_of_pairs::<1>(panel, &left, right),
                2 => task.panel_of_pairs::<2>(panel, &left, right),
                _ => task.panel_of_pairs::<3>(panel, &left, right),
            }
        }
        task.scratch.left = left;
    }
}

#[cfg(target_arch = "x86_64")]
impl<L: Rows> Task<'_, L> {
    #[inline(always)]
    fn panel_of_pairs<const C: usize>(&self, panel: usize, left: &[bf16], right: &[bf16]) {
        use super::simd::{Avx512, dot_pairs};
        const R: usize = 8;
        let k = self.right.k();
        let (first, last) = self.rows;
        for row in (first..last).step_by(R) {
            let mut sums = [[Avx512::splat(0.); C]; R];
            let mut rows = [std::ptr::null(); R];
            for (i, pointer) in rows.iter_mut().enumerate() {
                *pointer = left[((row + i).min(last - 1) - first) * k..].as_ptr();
            }
            for pair in 0..k / 2 {
                // SAFETY: rows have k values, panels k / 2 rows of C vectors of pairs
                unsafe {
                    let right = right.as_ptr().add(pair * C * 2 * Avx512::LANES);
                    for i in 0..R {
                        for j in 0..C {
                            let right = right.add(j * 2 * Avx512::LANES);
                            sums[i][j] = dot_pairs(sums[i][j], rows[i].add(2 * pair), right);
                        }
                    }
                }
            }
            self.finish(panel, row, sums);
        }
    }
}
