//! Multi-head softmax attention that never stores the N x M map.
//!
//! Queries are taken in tiles; a tile's scores live in a small buffer and are computed again in the
//! backward pass. Where a loss looks at the map, it does so through one more value *column* c [B, M]:
//! sum_j A_ij c_j, averaged over the heads, comes out as the last channel of the result.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::exp;
use super::backward::{recompute3, with_backward3};
use super::gemm::{Matrix, multiply};
use super::slices::{from_slices, on_cpu, with_slices};

/// Queries per tile.
const TILE: usize = 64;

/// What an attention has beside queries, keys and values.
#[derive(Clone, Default)]
pub struct Options {
    /// Number of heads; the width is divided among them.
    pub heads: usize,
    /// A query sees only keys up to its own position.
    pub causal: bool,
    /// The extra value column [B, M]; no gradient flows to it.
    pub column: Option<Tensor>,
}

/// Attention of `q` [B, N, d] to `k`, `v` [B, M, d]: [B, N, d], or [B, N, d + 1] with a column.
///
/// # Errors
/// If the shapes do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    if k.dims() != [batch, keys, width] || v.dims() != k.dims() || width % options.heads != 0 {
        bail!("attention of {:?} to keys {:?} and values {:?} with {} heads", q, k, v, options.heads)
    }
    if let Some(column) = &options.column
        && column.dims() != [batch, keys]
    {
        bail!("attention column {:?} for {batch} x {keys} keys", column.dims())
    }
    if !on_cpu(q) {
        return composed(q, k, v, options);
    }
    let shape = Shape { batch, queries, keys, width, heads: options.heads, causal: options.causal };
    let column = options.column.as_ref().map(|c| c.detach());
    let inputs = [q.detach().contiguous()?, k.detach().contiguous()?, v.detach().contiguous()?];
    let width_out = width + column.is_some() as usize;
    let empty = Tensor::zeros(0, q.dtype(), q.device())?;
    let [dq, dk, dv] = &inputs;
    let y =
        from_slices([dq, dk, dv, column.as_ref().unwrap_or(&empty)], (batch, queries, width_out), |[q, k, v, c]| {
            shape.forward(q, k, v, c)
        })?;
    let tracked = [q, k, v].map(|t| t.track_op());
    with_backward3([q, k, v], y, move |dy| {
        let [q, k, v] = &inputs;
        let column = column.as_ref().unwrap_or(&empty);
        let grads = with_slices([q, k, v, column, dy], |[q, k, v, c, dy]| shape.backward(q, k, v, c, dy))?;
        let mut out = [None, None, None];
        for (((out, grad), like), tracked) in out.iter_mut().zip(grads).zip([q, k, v]).zip(tracked) {
            if tracked {
                *out = Some(Tensor::from_vec(grad, like.shape(), like.device())?);
            }
        }
        Ok(out)
    })
}

/// The same of candle operations, head by head so that only one map is alive at a time.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Tensor> {
    let (_, queries, width) = q.dims3()?;
    let (keys, heads, head) = (k.dim(1)?, options.heads, width / options.heads);
    let mask = if options.causal { Some(causal_mask(queries, keys, q.device())?) } else { None };
    let mut outputs = Vec::with_capacity(heads + 1);
    let mut seen: Option<Tensor> = None;
    for h in 0..heads {
        let part = |t: &Tensor| t.narrow(D::Minus1, h * head, head)?.contiguous();
        let value = match &options.column {
            Some(column) => Tensor::cat(&[part(v)?, column.unsqueeze(2)?], 2)?,
            None => part(v)?,
        };
        let mask = mask.clone();
        let y = recompute3([&part(q)?, &part(k)?, &value], move |[q, k, v]| {
            let mut scores = (q.matmul(&k.t()?.contiguous()?)? * (head as f64).powf(-0.5))?;
            if let Some(mask) = &mask {
                scores = scores.broadcast_add(mask)?;
            }
            candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(v)
        })?;
        outputs.push(y.narrow(2, 0, head)?);
        if options.column.is_some() {
            let share = (y.narrow(2, head, 1)? / heads as f64)?;
            seen = Some(match seen {
                Some(sum) => (sum + share)?,
                None => share,
            });
        }
    }
    outputs.extend(seen);
    Tensor::cat(&outputs, 2)
}

fn causal_mask(queries: usize, keys: usize, device: &candle_core::Device) -> Result<Tensor> {
    let mask = (0..queries).flat_map(|i| (0..keys).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. }));
    Tensor::from_iter(mask, device)?.reshape((1, queries, keys))
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    queries: usize,
    keys: usize,
    width: usize,
    heads: usize,
    causal: bool,
}

impl Shape {
    fn head(&self) -> usize {
        self.width / self.heads
    }

    /// The columns of head `h` in `rows` rows from row `first` of [.., d] data.
    fn head_of<'a>(&self, data: &'a [f32], first: usize, rows: usize, h: usize) -> Matrix<'a> {
        Matrix::new(&data[first * self.width + h * self.head()..], rows, self.head(), self.width)
    }

    fn scale(&self) -> f32 {
        (self.head() as f32).powf(-0.5)
    }

    /// Softmax of the scores of the queries `rows` of `q` against `k`, in `scores` [rows, keys].
    fn probabilities(&self, q: Matrix, k: Matrix, first: usize, scores: &mut [f32]) {
        multiply((scores, self.keys), 0., self.scale(), (q, false), (k, true));
        for (i, row) in scores.chunks_mut(self.keys).enumerate() {
            if self.causal && first + i + 1 < self.keys {
                row[first + i + 1..].fill(f32::NEG_INFINITY);
            }
            softmax(row);
        }
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32], column: &[f32]) -> Vec<f32> {
        let &Shape { queries, keys, width, heads, .. } = self;
        let (head, width_out) = (self.head(), width + !column.is_empty() as usize);
        let mut out = vec![0f32; self.batch * queries * width_out];
        let tiles: Vec<(usize, usize, &mut [f32])> = out
            .chunks_mut(queries * width_out)
            .enumerate()
            .flat_map(|(b, out)| out.chunks_mut(TILE * width_out).enumerate().map(move |(i, out)| (b, i * TILE, out)))
            .collect();
        tiles.into_par_iter().for_each_init(Vec::new, |scores: &mut Vec<f32>, (b, first, out)| {
            let rows = out.len() / width_out;
            scores.resize(rows * keys, 0.);
            for h in 0..heads {
                let at = |data, start, rows| self.head_of(data, start, rows, h);
                self.probabilities(at(q, b * queries + first, rows), at(k, b * keys, keys), first, scores);
                let p = Matrix::new(scores, rows, keys, keys);
                multiply((&mut out[h * head..], width_out), 0., 1., (p, false), (at(v, b * keys, keys), false));
                if !column.is_empty() {
                    let column = &column[b * keys..][..keys];
                    for (out, p) in out.chunks_mut(width_out).zip(scores.chunks(keys)) {
                        out[width] += dot(p, column) / heads as f32;
                    }
                }
            }
        });
        out
    }

    /// Gradients of q, k and v.
    fn backward(&self, q: &[f32], k: &[f32], v: &[f32], column: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let &Shape { batch, queries, keys, width, heads, .. } = self;
        let (head, width_out) = (self.head(), width + !column.is_empty() as usize);
        let per_head: Vec<[Vec<f32>; 3]> = (0..batch * heads)
            .into_par_iter()
            .map(|i| self.backward_head(q, k, v, column, dy, (i / heads, i % heads), width_out))
            .collect();
        let mut grads = [vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]];
        for (i, parts) in per_head.iter().enumerate() {
            let (b, h) = (i / heads, i % heads);
            for ((grad, part), rows) in grads.iter_mut().zip(parts).zip([queries, keys, keys]) {
                for (row, part) in part.chunks(head).enumerate() {
                    grad[(b * rows + row) * width + h * head..][..head].copy_from_slice(part);
                }
            }
        }
        grads
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_head(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        column: &[f32],
        dy: &[f32],
        (b, h): (usize, usize),
        width_out: usize,
    ) -> [Vec<f32>; 3] {
        let &Shape { queries, keys, width, heads, .. } = self;
        let head = self.head();
        let mut grads = [vec![0f32; queries * head], vec![0f32; keys * head], vec![0f32; keys * head]];
        let [dq, dk, dv] = &mut grads;
        let (mut probabilities, mut d_scores) = (Vec::new(), Vec::new());
        for first in (0..queries).step_by(TILE) {
            let rows = TILE.min(queries - first);
            probabilities.resize(rows * keys, 0.);
            d_scores.resize(rows * keys, 0.);
            let at = |data, start, rows| self.head_of(data, start, rows, h);
            let (q, k, v) = (at(q, b * queries + first, rows), at(k, b * keys, keys), at(v, b * keys, keys));
            let dy = &dy[(b * queries + first) * width_out..];
            let d_out = Matrix::new(&dy[h * head..], rows, head, width_out);
            self.probabilities(q, k, first, &mut probabilities);
            let p = Matrix::new(&probabilities, rows, keys, keys);
            multiply((dv, head), 1., 1., (p, true), (d_out, false));
            multiply((&mut d_scores, keys), 0., 1., (d_out, false), (v, true));
            for (i, (ds, p)) in d_scores.chunks_mut(keys).zip(probabilities.chunks(keys)).enumerate() {
                if !column.is_empty() {
                    let share = dy[i * width_out + width] / heads as f32;
                    for (ds, c) in ds.iter_mut().zip(&column[b * keys..][..keys]) {
                        *ds += share * c;
                    }
                }
                let mean = dot(ds, p);
                for (ds, p) in ds.iter_mut().zip(p) {
                    *ds = p * (*ds - mean);
                }
            }
            let ds = Matrix::new(&d_scores, rows, keys, keys);
            multiply((&mut dq[first * head..], head), 0., self.scale(), (ds, false), (k, false));
            multiply((dk, head), 1., self.scale(), (ds, true), (q, false));
        }
        grads
    }
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = exp(*x - top);
    }
    let sum = lanes(row.iter().copied());
    for x in row.iter_mut() {
        *x /= sum;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    lanes(a.iter().zip(b).map(|(a, b)| a * b))
}

/// A sum in eight lanes, which compilers vectorise and which rounds less than one running sum.
fn lanes(values: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0f32; 8];
    for (i, value) in values.enumerate() {
        sums[i % 8] += value;
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn tiles_equal_composed_operations() -> Result<()> {
        for (queries, keys, causal, with_column) in
            [(70, 70, false, true), (9, 9, true, false), (130, 7, false, true), (64, 33, false, false)]
        {
            let random = |n| Tensor::randn(0f32, 1.5, (2, n, 12), &Device::Cpu).and_then(|t| Var::from_tensor(&t));
            let (q, k, v) = (random(queries)?, random(keys)?, random(keys)?);
            let column = with_column.then(|| Tensor::rand(0f32, 1., (2, keys), &Device::Cpu)).transpose()?;
            let options = Options { heads: 3, causal, column };
            let dy = Tensor::randn(0f32, 1., (2, queries, 12 + with_column as usize), &Device::Cpu)?;
            let run = |f: &dyn Fn() -> Result<Tensor>| -> Result<Vec<Tensor>> {
                let y = f()?;
                let grads = (&y * &dy)?.sum_all()?.backward()?;
                Ok([&q, &k, &v].iter().map(|x| grads.get(x).unwrap().clone()).chain([y]).collect())
            };
            let fast = run(&|| attend(q.as_tensor(), k.as_tensor(), v.as_tensor(), &options))?;
            let slow = run(&|| composed(q.as_tensor(), k.as_tensor(), v.as_tensor(), &options))?;
            for (a, b) in fast.iter().zip(&slow) {
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 2e-5, "{queries} x {keys}: {gap}");
            }
        }
        Ok(())
    }
}
