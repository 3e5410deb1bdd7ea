//! The gradients of the CPU's attention: the scores are computed again, transposed, so that the statistics of the
//! queries lie along the vectors.

use rayon::prelude::*;

use super::super::product::block::{Block, block};
use super::super::product::panels::{Panels, Strides, columns, panel_columns};
use super::super::room::room;
use super::super::shared::Shared;
use super::super::simd::{Kernel, Vector, map, run, transpose};
use super::{Kept, head_rows};
use crate::ops::attention::Sizes;

/// Keys of a block of the backward pass.
const ROWS: usize = 48;
/// Queries of a block of the backward pass: panels.
const PANELS: usize = 4;

/// Queries of a block of the backward pass.
fn block_columns() -> usize {
    PANELS * panel_columns()
}

impl Sizes {
    /// The rows of a head with the column beside them: [rows, head + 1].
    fn with_column(&self, values: &[f32], rows: usize, column: impl Fn(usize) -> f32) -> Vec<f32> {
        let head = self.head();
        // SAFETY: every row is written below
        let mut wide = unsafe { room(rows * (head + 1)) };
        for (i, wide) in wide.chunks_mut(head + 1).enumerate() {
            wide[..head].copy_from_slice(&values[i * self.width..][..head]);
            wide[head] = column(i);
        }
        wide
    }

    /// Gradients of q, k and v, from the result `y` and its gradient.
    pub(super) fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        column: &[f32],
        kept: &Kept,
        y: &[f32],
        dy: &[f32],
    ) -> [Vec<f32>; 3] {
        let &Sizes { batch, queries, keys, width, heads, .. } = self;
        let head = self.head();
        // SAFETY: each head writes its part of every row
        let mut grads = unsafe { [room(q.len()), room(k.len()), room(v.len())] };
        let [dq, dk, dv] = grads.each_mut().map(|grad| Shared::new(grad));
        (0..batch * heads).into_par_iter().with_max_len(1).for_each(|i| {
            let at = (i / heads, i % heads);
            let whole = Backward::new(self, [q, k, v], column, kept, y, dy, at);
            let (dq_head, dk_head, dv_head) = run(whole);
            for (shared, (grad, stride), rows) in [(&dq, dq_head, queries), (&dk, dk_head, keys), (&dv, dv_head, keys)]
            {
                for (row, grad) in grad.chunks(stride).take(rows).enumerate() {
                    // SAFETY: a head's part of a row is this task's alone
                    let to = unsafe { shared.part((at.0 * rows + row) * width + at.1 * head, head) };
                    to.copy_from_slice(&grad[..head]);
                }
            }
        });
        grads
    }
}

/// One head's gradients.
struct Backward<'a> {
    sizes: &'a Sizes,
    /// Keys and, with the column, values: rows and their stride.
    k: (&'a [f32], usize),
    v: (Vec<f32>, usize),
    /// The same as right-hand sides, and the queries and the result's gradient both ways.
    k_rows: Panels,
    q_rows: Panels,
    q_turned: Panels,
    dy_rows: Panels,
    dy_turned: Panels,
    log_sums: &'a [f32],
    /// sum_j A_ij dA_ij of each query.
    means: Vec<f32>,
}

impl<'a> Backward<'a> {
    fn new(
        sizes: &'a Sizes,
        [q, k, v]: [&'a [f32]; 3],
        column: &[f32],
        kept: &'a Kept,
        y: &[f32],
        dy: &[f32],
        at: (usize, usize),
    ) -> Self {
        let &Sizes { queries, keys, width, heads, .. } = sizes;
        let (head, extra) = (sizes.head(), !column.is_empty() as usize);
        let row_of = |data: &'a [f32], rows| head_rows(sizes, data, rows, at);
        let share = |i: usize| dy[(at.0 * queries + i) * (width + extra) + width] / heads as f32;
        let statistics = (at.0 * heads + at.1) * queries..(at.0 * heads + at.1 + 1) * queries;
        // the result and its gradient have rows of width + extra
        let slice_of = |data: &[f32], i: usize| -> (usize, usize) {
            let from = (at.0 * queries + i) * (width + extra) + at.1 * head;
            debug_assert!(from + head <= data.len());
            (from, from + head)
        };
        // SAFETY: every row is written below
        let mut d_out = unsafe { room(queries * (head + extra)) };
        let mut means = vec![0.; queries];
        for (i, (d_out, mean)) in d_out.chunks_mut(head + extra).zip(&mut means).enumerate() {
            let (from, to) = slice_of(dy, i);
            d_out[..head].copy_from_slice(&dy[from..to]);
            *mean = y[from..to].iter().zip(&dy[from..to]).map(|(y, dy)| y * dy).sum();
            if extra == 1 {
                d_out[head] = share(i);
                *mean += share(i) * kept.columns[statistics.start + i];
            }
        }
        let plain = Strides { row: width, column: 1 };
        let turned = Strides { row: 1, column: width };
        let (q, k, v) = (row_of(q, queries), row_of(k, keys), row_of(v, keys));
        let wide = head + extra;
        let v = if extra == 1 {
            sizes.with_column(v, keys, |i| column[at.0 * keys + i])
        } else {
            // SAFETY: every row is written below
            let mut rows = unsafe { room(keys * head) };
            rows.chunks_mut(head).enumerate().for_each(|(i, row)| row.copy_from_slice(&v[i * width..][..head]));
            rows
        };
        Self {
            sizes,
            k: (k, width),
            v: (v, wide),
            k_rows: Panels::pack(k, keys, head, plain),
            q_rows: Panels::pack(q, queries, head, plain),
            q_turned: Panels::pack(q, head, queries, turned),
            dy_rows: Panels::pack(&d_out, queries, wide, Strides { row: wide, column: 1 }),
            dy_turned: Panels::pack(&d_out, wide, queries, Strides { row: 1, column: wide }),
            log_sums: &kept.log_sums[statistics],
            means,
        }
    }
}

/// A gradient and the stride of its rows.
type Gradient = (Vec<f32>, usize);

impl Kernel for Backward<'_> {
    type Output = (Gradient, Gradient, Gradient);

    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        let &Sizes { queries, keys, .. } = self.sizes;
        let (head, scale) = (self.sizes.head(), self.sizes.scale());
        let across = block_columns();
        let (stride, stride_v) = (head.next_multiple_of(V::LANES), self.v.1.next_multiple_of(V::LANES));
        let mut dq = vec![0.; queries * stride];
        let (mut dk, mut dv) = (vec![0.; keys * stride], vec![0.; keys * stride_v]);
        let (mut weights, mut d_weights) = (vec![0.; ROWS * across], vec![0.; ROWS * across]);
        let (mut turned, mut unused) = (vec![0.; ROWS * across], Vec::new());
        for key in (0..keys).step_by(ROWS) {
            let rows = ROWS.min(keys - key);
            let k = Block { values: &self.k.0[key * self.k.1..], stride: self.k.1, rows };
            let v = Block { values: &self.v.0[key * self.v.1..], stride: self.v.1, rows };
            let start = if self.sizes.causal { key / across * across } else { 0 };
            for query in (start..queries).step_by(across) {
                let count = across.min(queries - query);
                for panel in query / (panel_columns())..self.q_turned.count().min((query + across) / (panel_columns()))
                {
                    let (column, _, width) = columns(panel, queries);
                    let right = self.q_turned.rows(panel, 0, head, &mut unused);
                    block::<V>(&mut weights[column - query..], across, k, right, (head, width), false);
                    let right = self.dy_turned.rows(panel, 0, self.v.1, &mut unused);
                    block::<V>(&mut d_weights[column - query..], across, v, right, (self.v.1, width), false);
                }
                let (log_sums, means) = (&self.log_sums[query..][..count], &self.means[query..][..count]);
                let rows_of = weights.chunks_mut(across).zip(d_weights.chunks_mut(across));
                for (i, (weights, d_weights)) in rows_of.enumerate().take(rows) {
                    let weights = &mut weights[..count];
                    map!(V; score in &mut *weights, log_sum in log_sums => {
                        score.fma(V::splat(scale), V::splat(0.).sub(log_sum)).exp()
                    });
                    if self.sizes.causal {
                        let unseen = (key + i).saturating_sub(query).min(count);
                        weights[..unseen].fill(0.);
                    }
                    map!(V; d in &mut d_weights[..count], weight in weights, mean in means => weight.mul(d.sub(mean)));
                }
                let gradients =
                    [(&mut dv, stride_v, &weights, &self.dy_rows), (&mut dk, stride, &d_weights, &self.q_rows)];
                for (gradient, stride, left, right) in gradients {
                    let left = Block { values: left, stride: across, rows };
                    for panel in 0..right.count() {
                        let (column, _, width) = columns(panel, right.n());
                        let right = right.rows(panel, query, count, &mut unused);
                        block::<V>(&mut gradient[key * stride + column..], stride, left, right, (count, width), true);
                    }
                }
                transpose(&d_weights, across, &mut turned[..count * ROWS], ROWS, rows);
                let left = Block { values: &turned, stride: ROWS, rows: count };
                for panel in 0..self.k_rows.count() {
                    let (column, _, width) = columns(panel, head);
                    let right = self.k_rows.rows(panel, key, rows, &mut unused);
                    block::<V>(&mut dq[query * stride + column..], stride, left, right, (rows, width), true);
                }
            }
        }
        for gradient in [&mut dq, &mut dk] {
            map!(V; x in gradient => x.mul(V::splat(scale)));
        }
        ((dq, stride), (dk, stride), (dv, stride_v))
    }
}
