//! The CPU's attention in blocks (Dao, "FlashAttention-2", 2023).
//!
//! A block of scores is turned to weights with the greatest score seen so far and used at once; of the
//! softmax, only the logarithm of each query's sum is kept.

mod backward;

use rayon::prelude::*;

use super::product::panels::{buffer, grow, panel_columns, transpose};
use super::product::{Block, block};
use super::simd::{Kernel, Vector, map, run};

/// Sizes of an attention: q [batch, queries, width], k and v [batch / sharing, keys, width].
#[derive(Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    /// Successive samples that share their keys and values; the backward pass wants 1.
    pub sharing: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub heads: usize,
    pub causal: bool,
}

/// What the backward pass needs beside the inputs and the result.
pub struct Kept {
    /// The logarithm of the softmax's sum [batch, heads, queries].
    pub(super) log_sums: Vec<f32>,
    /// Each head's attention to the column [batch, heads, queries], if there is one.
    pub(super) columns: Vec<f32>,
}

/// Keys of a block of scores.
const KEYS: usize = 96;
/// Queries of a block of the forward pass: panels.
const QUERY_PANELS: usize = 2;
/// Columns of the widest panel.
const MOST_COLUMNS: usize = 48;
impl Shape {
    pub(super) fn head(&self) -> usize {
        self.width / self.heads
    }

    pub(super) fn scale(&self) -> f32 {
        (self.head() as f32).powf(-0.5)
    }

    /// The rows of sample `b` of `data`, from the first column of head `h` on.
    pub(super) fn of_head<'a>(&self, data: &'a [f32], rows: usize, (b, h): (usize, usize)) -> &'a [f32] {
        &data[b * rows * self.width + h * self.head()..]
    }

    /// The values of each head, and the column if there is one, transposed in blocks of keys:
    /// [batch / sharing, heads, blocks, head + extra, KEYS].
    fn turned_values(&self, v: &[f32], column: &[f32]) -> Vec<f32> {
        let (head, extra, keys) = (self.head(), !column.is_empty() as usize, self.keys);
        let of_head = self.turned_length(extra);
        let mut turned = buffer(self.batch / self.sharing * self.heads * of_head);
        turned.par_chunks_mut(of_head).enumerate().for_each(|(i, turned)| {
            let at = (i / self.heads, i % self.heads);
            let v = self.of_head(v, keys, at);
            for (i, turned) in turned.chunks_mut((head + extra) * KEYS).enumerate() {
                let count = KEYS.min(keys - i * KEYS);
                let (values, of_column) = turned.split_at_mut(head * KEYS);
                transpose(&v[i * KEYS * self.width..], self.width, values, KEYS, count);
                if extra == 1 {
                    of_column[..count].copy_from_slice(&column[at.0 * keys + i * KEYS..][..count]);
                }
            }
        });
        turned
    }

    /// Values of one head in [`turned_values`](Self::turned_values).
    fn turned_length(&self, extra: usize) -> usize {
        self.keys.div_ceil(KEYS) * (self.head() + extra) * KEYS
    }

    /// The result [batch, queries, width], with the column's attention as last channel if there is one.
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], column: &[f32]) -> (Vec<f32>, Kept) {
        let &Shape { batch, queries, keys, width, heads, .. } = self;
        let extra = !column.is_empty() as usize;
        let mut out = buffer(batch * queries * (width + extra));
        let mut kept =
            Kept { log_sums: vec![0.; batch * heads * queries], columns: vec![0.; batch * heads * queries * extra] };
        let shared = super::product::Shared(out.as_mut_ptr());
        let mut no_columns = vec![0.; if extra == 0 { batch * heads * queries } else { 0 }];
        let of_column = if extra == 0 { &mut no_columns } else { &mut kept.columns };
        let statistics = kept.log_sums.par_chunks_mut(queries).zip(of_column.par_chunks_mut(queries));
        let rows = QUERY_PANELS * panel_columns();
        let (turned, of_head) = (self.turned_values(v, column), self.turned_length(extra));
        statistics.enumerate().for_each(|(i, (log_sums, of_column))| {
            let at = (i / heads, i % heads);
            let shared_at = (at.0 / self.sharing, at.1);
            let v = &turned[(shared_at.0 * heads + at.1) * of_head..][..of_head];
            let blocks = log_sums.par_chunks_mut(rows).zip(of_column.par_chunks_mut(rows));
            blocks.enumerate().for_each_init(Scratch::default, |scratch, (block, (log_sums, of_column))| {
                run(Forward {
                    shape: self,
                    q: &self.of_head(q, queries, at)[block * rows * width..],
                    k: self.of_head(k, keys, shared_at),
                    v,
                    at,
                    first: block * rows,
                    out: &shared,
                    extra,
                    log_sums,
                    of_column,
                    scratch,
                });
            });
        });
        if extra == 1 {
            for (row, out) in out.chunks_mut(width + 1).enumerate() {
                let (b, i) = (row / queries, row % queries);
                let of_heads = (0..heads).map(|h| kept.columns[(b * heads + h) * queries + i]);
                out[width] = of_heads.sum::<f32>() / heads as f32;
            }
        }
        (out, kept)
    }
}

#[derive(Default)]
struct Scratch {
    turned: Vec<f32>,
    weights: Vec<f32>,
    sums: Vec<f32>,
    rows: Vec<f32>,
}

/// One head's attention of a block of queries. Queries lie along the vectors, so that greatest scores and sums are
/// theirs lane by lane, and no vector is partly empty whatever the width of a head.
struct Forward<'a> {
    shape: &'a Shape,
    /// From the block's first query on.
    q: &'a [f32],
    k: &'a [f32],
    /// The head's part of [`Shape::turned_values`].
    v: &'a [f32],
    at: (usize, usize),
    first: usize,
    out: &'a super::product::Shared,
    extra: usize,
    log_sums: &'a mut [f32],
    of_column: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { shape, q, k, v, at, first, out, extra, log_sums, of_column, .. } = self;
        let Scratch { turned, weights, sums, rows } = self.scratch;
        let &Shape { queries, keys, width, .. } = shape;
        let (head, across) = (shape.head(), panel_columns());
        let (values, panels) = (head + extra, log_sums.len().div_ceil(across));
        grow(turned, panels * head * across);
        grow(weights, KEYS * across);
        grow(sums, panels * values * across);
        grow(rows, across * head);
        for (panel, turned) in turned.chunks_mut(head * across).enumerate().take(panels) {
            let from = panel * across;
            let count = across.min(log_sums.len() - from);
            transpose(&q[from * width..], width, turned, across, count);
        }
        // in powers of two
        let scale = shape.scale() * std::f32::consts::LOG2_E;
        let mut tops = [f32::NEG_INFINITY; QUERY_PANELS * MOST_COLUMNS];
        let mut totals = [0f32; QUERY_PANELS * MOST_COLUMNS];
        let end = if shape.causal { keys.min(first + log_sums.len()) } else { keys };
        for key in (0..end).step_by(KEYS) {
            let count = KEYS.min(keys - key);
            let k = Block { values: &k[key * width..], stride: width, rows: count };
            let v = Block { values: &v[key * values..], stride: KEYS, rows: values };
            for panel in 0..panels {
                let query = first + panel * across;
                if shape.causal && key >= query + across {
                    continue;
                }
                let right = &turned[panel * head * across..][..head * across];
                block::<V>(weights, across, k, right, (head, across), false);
                if shape.causal {
                    for (j, scores) in weights.chunks_mut(across).enumerate().take(count) {
                        let unseen = (key + j).saturating_sub(query).min(across);
                        scores[..unseen].fill(f32::NEG_INFINITY);
                    }
                }
                let sums = &mut sums[panel * values * across..][..values * across];
                let lanes = panel * across..(panel + 1) * across;
                let (tops, totals) = (&mut tops[lanes.clone()], &mut totals[lanes]);
                soften::<V>(&mut weights[..count * across], across, scale, (tops, totals), sums, key == 0);
                block::<V>(sums, across, v, &weights[..count * across], (count, across), key > 0);
            }
        }
        for (panel, sums) in sums.chunks_mut(values * across).enumerate().take(panels) {
            let totals = &totals[panel * across..][..across];
            for sums in sums.chunks_mut(across) {
                map!(V; x in sums, total in totals => x.div(total));
            }
            transpose(sums, across, &mut rows[..across * head], head, head);
            let from = panel * across;
            for i in 0..across.min(log_sums.len() - from) {
                log_sums[from + i] = (tops[from + i] * scale + totals[i].log2()) * std::f32::consts::LN_2;
                // SAFETY: within the result, and this block's own
                let to = unsafe {
                    let row = (at.0 * queries + first + from + i) * (width + extra);
                    std::slice::from_raw_parts_mut(out.0.add(row + at.1 * head), head)
                };
                to.copy_from_slice(&rows[i * head..][..head]);
                if extra == 1 {
                    of_column[from + i] = sums[head * across + i];
                }
            }
        }
    }
}

/// Turns a block of scores, rows of `across` queries, into powers of two of scale (score - top), where `tops` are the
/// greatest scores seen of each query; adds them to `totals`, and scales what was summed before.
#[inline(always)]
fn soften<V: Vector>(
    scores: &mut [f32],
    across: usize,
    scale: f32,
    (tops, totals): (&mut [f32], &mut [f32]),
    sums: &mut [f32],
    start: bool,
) {
    assert!(scores.len().is_multiple_of(across) && sums.len().is_multiple_of(across));
    assert!(tops.len() == across && totals.len() == across && across.is_multiple_of(V::LANES));
    let (count, values) = (scores.len() / across, sums.len() / across);
    let scale = V::splat(scale);
    for at in (0..across).step_by(V::LANES) {
        // SAFETY: all rows have `across` values
        unsafe {
            let scores = scores.as_mut_ptr().add(at);
            let before = V::load(tops.as_ptr().add(at));
            let mut top = before;
            for j in 0..count {
                top = top.max(V::load(scores.add(j * across)));
            }
            let shift = V::splat(0.).sub(top.mul(scale));
            let mut total = V::splat(0.);
            for j in 0..count {
                let weight = V::load(scores.add(j * across)).fma(scale, shift).exp2_below_one();
                weight.store(scores.add(j * across));
                total = total.add(weight);
            }
            top.store(tops.as_mut_ptr().add(at));
            if !start {
                let fade = before.fma(scale, shift).exp2_below_one();
                total = V::load(totals.as_ptr().add(at)).fma(fade, total);
                let sums = sums.as_mut_ptr().add(at);
                for i in 0..values {
                    V::load(sums.add(i * across)).mul(fade).store(sums.add(i * across));
                }
            }
            total.store(totals.as_mut_ptr().add(at));
        }
    }
}
