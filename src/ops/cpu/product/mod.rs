//! Matrix products: rows from anywhere in memory times a packed matrix.
//!
//! The rows are not packed: a kernel is told where each of its rows lies, which makes a convolution a product whose
//! rows are pieces of its input, without copying it.

pub(crate) mod block;
mod convert;
pub(crate) mod epilogue;
mod pairs;
pub(crate) mod panels;
pub(crate) mod right;
pub(crate) mod rows;
pub(crate) mod split;
pub(crate) mod tiles;
mod vectors;

use epilogue::Epilogue;
use half::bf16;
use rayon::prelude::*;
use right::{Right, Unpacked};
use rows::Rows;

use super::shared::Shared;
use super::simd::{Level, TILE_ROWS, level, run, run_bf16};

/// Bytes of the left-hand side that a task works on, so that they stay in a core's cache.
const LEFT_BYTES: usize = 256 << 10;
/// Rows of the right-hand side that are taken at a time.
const DEPTH: usize = 1024;
/// Tasks that a product is cut in, if it is large enough.
const TASKS: usize = 32;

/// out [rows, n] = left [rows, k] times right [k, n], on all threads. What is computed does not depend on
/// their number.
pub(crate) fn product<'a>(out: &mut [f32], left: &impl Rows, right: impl Into<Right<'a>>, epilogue: Epilogue) {
    let right = right.into();
    let n = right.n();
    let rows = out.len() / n;
    let (segments, length) = left.shape();
    assert!(segments * length == right.k() && out.len() == rows * n);
    epilogue.check(rows, n);
    if level() == Level::Amx && right.has_pairs() && rows >= TILE_ROWS / 2 {
        return tiles::product(out, left, right, epilogue);
    }
    let block =
        (LEFT_BYTES / 4 / right.k().clamp(1, DEPTH)).next_multiple_of(24).min(rows.div_ceil(4).next_multiple_of(24));
    let blocks = rows.div_ceil(block.max(1));
    let group = right.count().div_ceil(TASKS.div_ceil(blocks.max(1)));
    let groups = right.count().div_ceil(group.max(1));
    let out = Shared::new(out);
    (0..blocks * groups).into_par_iter().with_max_len(1).for_each_init(Spare::default, |spare, task| {
        let (block_index, group_index) = (task / groups, task % groups);
        let share = Share {
            out: &out,
            left,
            right,
            epilogue,
            rows: (block_index * block, rows.min((block_index + 1) * block)),
            panels: (group_index * group, right.count().min((group_index + 1) * group)),
            spare,
        };
        if right.has_pairs() { run_bf16(pairs::Pairs(share)) } else { run(share) }
    });
}

/// The part of a product that a task computes.
struct Share<'a, L> {
    out: &'a Shared<'a, f32>,
    left: &'a L,
    right: Right<'a>,
    epilogue: Epilogue<'a>,
    /// The first row and that after the last; panels likewise.
    rows: (usize, usize),
    panels: (usize, usize),
    spare: &'a mut Spare,
}

/// What a thread's shares convert, one after the other.
#[derive(Default)]
struct Spare {
    right: Unpacked,
    left: Vec<bf16>,
}

#[cfg(test)]
mod tests;
