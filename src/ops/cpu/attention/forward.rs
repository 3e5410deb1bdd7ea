//! The result of attention.

use rayon::prelude::*;

use super::super::product::block::{Block, block};
use super::super::product::panels::panel_columns;
use super::super::room::{grown, room};
use super::super::shared::Shared;
use super::super::simd::{Kernel, Vector, map, run, transpose};
use super::{Kept, head_rows};
use crate::ops::attention::Sizes;

/// Keys of a block of scores.
const KEYS: usize = 96;
/// Queries of a block: panels.
const QUERY_PANELS: usize = 2;
/// Columns of the widest panel.
const MOST_COLUMNS: usize = 48;

impl Sizes {
    /// The values of each head, and the column if there is one, transposed in blocks of keys:
    /// [batch / sharing, heads, blocks, head + extra, KEYS].
    fn turned_values(&self, v: &[f32], column: &[f32]) -> Vec<f32> {
        let (head, extra, keys) = (self.head(), !column.is_empty() as usize, self.keys);
        let of_head = self.turned_length(extra);
        // SAFETY: all is written below but the column's places beyond the last key, which no product reads
        let mut turned = unsafe { room(self.batch / self.sharing * self.heads * of_head) };
        turned.par_chunks_mut(of_head).enumerate().for_each(|(i, turned)| {
            let at = (i / self.heads, i % self.heads);
            let v = head_rows(self, v, keys, at);
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
    pub(super) fn forward(&self, q: &[f32], k: &[f32], v: &[f32], column: &[f32]) -> (Vec<f32>, Kept) {
        let &Sizes { batch, queries, keys, width, heads, .. } = self;
        let extra = !column.is_empty() as usize;
        // SAFETY: each head of each block of queries writes its part of their rows, and the column is added below
        let mut out = unsafe { room(batch * queries * (width + extra)) };
        let mut kept =
            Kept { log_sums: vec![0.; batch * heads * queries], columns: vec![0.; batch * heads * queries * extra] };
        let shared = Shared::new(&mut out);
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
            blocks.enumerate().for_each_init(Spare::default, |spare, (block, (log_sums, of_column))| {
                run(Forward {
                    sizes: self,
                    q: &head_rows(self, q, queries, at)[block * rows * width..],
                    k: head_rows(self, k, keys, shared_at),
                    v,
                    at,
                    first: block * rows,
                    out: &shared,
                    extra,
                    log_sums,
                    of_column,
                    spare,
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

/// What a thread's blocks compute with, one after the other.
#[derive(Default)]
struct Spare {
    turned: Vec<f32>,
    weights: Vec<f32>,
    sums: Vec<f32>,
    rows: Vec<f32>,
}

/// One head's attention of a block of queries. Queries lie along the vectors, so that greatest scores and sums are
/// theirs lane by lane, and no vector is partly empty whatever the width of a head.
struct Forward<'a> {
    sizes: &'a Sizes,
    /// From the block's first query on.
    q: &'a [f32],
    k: &'a [f32],
    /// The head's part of [`Sizes::turned_values`].
    v: &'a [f32],
    at: (usize, usize),
    first: usize,
    out: &'a Shared<'a, f32>,
    extra: usize,
    log_sums: &'a mut [f32],
    of_column: &'a mut [f32],
    spare: &'a mut Spare,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sizes, q, k, v, at, first, out, extra, log_sums, of_column, .. } = self;
        let &Sizes { queries, keys, width, .. } = sizes;
        let (head, across) = (sizes.head(), panel_columns());
        let (values, panels) = (head + extra, log_sums.len().div_ceil(across));
        let Spare { turned, weights, sums, rows } = self.spare;
        // SAFETY: queries are transposed below; of scores and sums, the first block's products write all that is read;
        // the result's rows are transposed to before they are copied
        let (turned, weights, sums, rows) = unsafe {
            (
                grown(turned, panels * head * across),
                grown(weights, KEYS * across),
                grown(sums, panels * values * across),
                grown(rows, across * head),
            )
        };
        for (panel, turned) in turned.chunks_mut(head * across).enumerate() {
            let from = panel * across;
            let count = across.min(log_sums.len() - from);
            transpose(&q[from * width..], width, turned, across, count);
        }
        // in powers of two
        let scale = sizes.scale() * std::f32::consts::LOG2_E;
        let mut tops = [f32::NEG_INFINITY; QUERY_PANELS * MOST_COLUMNS];
        let mut totals = [0f32; QUERY_PANELS * MOST_COLUMNS];
        let end = if sizes.causal { keys.min(first + log_sums.len()) } else { keys };
        for key in (0..end).step_by(KEYS) {
            let count = KEYS.min(keys - key);
            let k = Block { values: &k[key * width..], stride: width, rows: count };
            let v = Block { values: &v[key * values..], stride: KEYS, rows: values };
            for panel in 0..panels {
                let query = first + panel * across;
                if sizes.causal && key >= query + across {
                    continue;
                }
                let right = &turned[panel * head * across..][..head * across];
                block::<V>(weights, across, k, right, (head, across), false);
                if sizes.causal {
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
        for (panel, sums) in sums.chunks_mut(values * across).enumerate() {
            let totals = &totals[panel * across..][..across];
            for sums in sums.chunks_mut(across) {
                map!(V; x in sums, total in totals => x.div(total));
            }
            transpose(sums, across, rows, head, head);
            let from = panel * across;
            for i in 0..across.min(log_sums.len() - from) {
                log_sums[from + i] = (tops[from + i] * scale + totals[i].log2()) * std::f32::consts::LN_2;
                let row = (at.0 * queries + first + from + i) * (width + extra);
                // SAFETY: a head's part of a row is this block's alone
                let to = unsafe { out.part(row + at.1 * head, head) };
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
