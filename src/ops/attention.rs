//! Multi-head softmax attention that never stores the N x M map.
//!
//! Where a loss looks at the map, it does so through one more value *column* c [B, M]:
//! sum_j A_ij c_j, averaged over the heads, comes out as the last channel of the result.

use candle_core::{D, Result, Tensor, bail};

use super::gradient::{recompute3, with_backward3};
use super::place::{Place, place};
use super::{cpu, cuda};

/// What an attention has beside queries, keys and values.
#[derive(Clone, Default)]
pub struct Options {
    /// Number of heads; the width is divided among them.
    pub heads: usize,
    /// A query sees only keys up to its own position.
    pub causal: bool,
    /// The extra value column [R, M]; no gradient flows to it.
    pub column: Option<Tensor>,
    /// So many first keys and values of each sample have no gradient.
    pub fixed: usize,
}

/// Sizes of an attention: q [batch, queries, width], k and v [batch / sharing, keys, width].
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    /// Successive samples that share their keys and values; the backward pass wants 1.
    pub(crate) sharing: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// As in [`Options`]; kernels of processors do not know it.
    pub(crate) fixed: usize,
}

/// What a kernel keeps for its backward pass.
pub(super) enum Kept {
    Cpu(cpu::attention::Kept),
    Cuda(cuda::attention::Kept),
}

impl Sizes {
    /// Those of these tensors.
    ///
    /// # Errors
    /// If they do not fit.
    pub(super) fn of(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Self> {
        let (batch, queries, width) = q.dims3()?;
        let (entries, keys, _) = k.dims3()?;
        let sharing = batch / entries.max(1);
        let fits = k.dims() == [entries, keys, width] && v.dims() == k.dims() && entries * sharing == batch;
        if !fits || width % options.heads != 0 {
            bail!("attention of {:?} to keys {:?} and values {:?} with {} heads", q, k, v, options.heads)
        }
        if let Some(column) = &options.column
            && column.dims() != [entries, keys]
        {
            bail!("attention column {:?} for {entries} x {keys} keys", column.dims())
        }
        let &Options { heads, causal, fixed, .. } = options;
        Ok(Self { batch, sharing, queries, keys, width, heads, causal, fixed })
    }

    /// Whether a kernel attends with `q`.
    pub(super) fn have_kernel(&self, q: &Tensor) -> bool {
        match place(q) {
            Place::Cpu => true,
            Place::Cuda => cuda::attention::serves(self, q),
            Place::Composed => false,
        }
    }

    /// The kernel's result, where there is one.
    pub(super) fn run(self, inputs: [&Tensor; 3], column: Option<&Tensor>) -> Result<(Tensor, Kept)> {
        if inputs[0].device().is_cpu() {
            let (y, kept) = cpu::attention::forward(self, inputs, column)?;
            return Ok((y, Kept::Cpu(kept)));
        }
        let (y, kept) = cuda::attention::forward(self, inputs, column)?;
        Ok((y, Kept::Cuda(kept)))
    }

    /// Gradients of queries, keys and values, from the result and its gradient.
    pub(super) fn run_backward(
        self,
        inputs: [&Tensor; 3],
        column: Option<&Tensor>,
        kept: &Kept,
        [y, dy]: [&Tensor; 2],
    ) -> Result<[Tensor; 3]> {
        match kept {
            Kept::Cpu(kept) => cpu::attention::backward(self, inputs, column, kept, [y, dy]),
            Kept::Cuda(kept) => cuda::attention::backward(self, inputs, column, kept, [y, dy]),
        }
    }

    /// Width of a head.
    pub(crate) fn head(&self) -> usize {
        self.width / self.heads
    }

    /// What scores are multiplied with.
    pub(crate) fn scale(&self) -> f32 {
        (self.head() as f32).powf(-0.5)
    }
}

/// Attention of `q` [B, N, d] to `k`, `v` [R, M, d]: [B, N, d], or [B, N, d + 1] with a column. R divides B: each entry
/// of `k` and `v` serves B / R successive samples.
///
/// # Errors
/// If the shapes do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Tensor> {
    let sizes = Sizes::of(q, k, v, options)?;
    let tracked = [q, k, v].iter().any(|t| t.track_op());
    let has_kernel = sizes.have_kernel(q);
    if sizes.sharing > 1 && (tracked || !has_kernel) {
        let times = sizes.sharing;
        let column = options.column.as_ref().map(|column| repeated(column, times)).transpose()?;
        return attend(q, &repeated(k, times)?, &repeated(v, times)?, &Options { column, ..options.clone() });
    }
    if sizes.fixed > 0 && tracked && !(has_kernel && q.device().is_cuda()) {
        let (k, v) = (first_fixed(k, sizes.fixed)?, first_fixed(v, sizes.fixed)?);
        return attend(q, &k, &v, &Options { fixed: 0, ..options.clone() });
    }
    if !has_kernel {
        return composed(q, k, v, options);
    }
    let column = options.column.as_ref().map(Tensor::detach);
    let inputs = [q.detach().contiguous()?, k.detach().contiguous()?, v.detach().contiguous()?];
    let (y, kept) = sizes.run(inputs.each_ref(), column.as_ref())?;
    with_backward3([q, k, v], y, move |y, dy| {
        Ok(sizes.run_backward(inputs.each_ref(), column.as_ref(), &kept, [y, dy])?.map(Some))
    })
}

/// The same, with no gradient for the `count` first tokens of each sample.
fn first_fixed(x: &Tensor, count: usize) -> Result<Tensor> {
    let length = x.dim(1)?;
    Tensor::cat(&[x.narrow(1, 0, count)?.detach(), x.narrow(1, count, length - count)?], 1)
}

/// Each entry of `x` `times` times.
fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    shape.insert(1, times);
    let wide = x.unsqueeze(1)?.expand(shape)?.contiguous()?;
    wide.flatten(0, 1)
}

/// The reference, head by head so that only one map is alive at a time.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Tensor> {
    let (_, queries, width) = q.dims3()?;
    let (keys, heads, head) = (k.dim(1)?, options.heads, width / options.heads);
    let mask = if options.causal { Some(causal_mask(queries, keys, q.device())?.to_dtype(q.dtype())?) } else { None };
    let mut outputs = Vec::with_capacity(heads + 1);
    let mut seen: Option<Tensor> = None;
    for h in 0..heads {
        let part = |t: &Tensor| t.narrow(D::Minus1, h * head, head)?.contiguous();
        let value = match &options.column {
            Some(column) => Tensor::cat(&[part(v)?, column.unsqueeze(2)?.to_dtype(v.dtype())?], 2)?,
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, at_every_level};
    use super::*;

    #[test]
    fn shared_keys_equal_repeated_ones() {
        at_every_level(|| {
            let draw = Draw::new("shared keys");
            let [q, k, v] = [(6, 50), (2, 110), (2, 110)].map(|(batch, n)| draw.variable(&[batch, n, 12], 1.5));
            let (q, k, v) = (q?, k?, v?);
            let column = Some(draw.normal(&[2, 110], 1.)?.abs()?);
            let options = Options { heads: 3, column, ..Options::default() };
            let fast = attend(&q.detach(), &k.detach(), &v.detach(), &options)?;
            // with a gradient, keys and values are repeated
            let slow = attend(&q, &k.detach(), &v.detach(), &options)?;
            assert_eq!((fast - slow)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.);
            Ok(())
        });
    }

    #[test]
    fn blocks_equal_composed_operations() {
        at_every_level(|| {
            let draw = Draw::new("attention");
            for (queries, keys, causal, with_column) in [
                (70, 70, false, true),
                (9, 9, true, false),
                (250, 250, true, true),
                (130, 7, false, true),
                (64, 33, false, false),
                (5, 197, false, false),
            ] {
                let [q, k, v] = [queries, keys, keys].map(|n| draw.variable(&[2, n, 12], 1.5));
                let (q, k, v) = (q?, k?, v?);
                let column = if with_column { Some(draw.normal(&[2, keys], 1.)?.abs()?) } else { None };
                let options = Options { heads: 3, causal, column, fixed: 0 };
                let (fast, slow) = (attend(&q, &k, &v, &options)?, composed(&q, &k, &v, &options)?);
                assert_alike([&fast, &slow], &[&q, &k, &v], &draw, 2e-5, &format!("{queries} x {keys}"))?;
            }
            Ok(())
        });
    }
}
