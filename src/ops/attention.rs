//! Multi-head softmax attention that never stores the N x M map.
//!
//! Where a loss looks at the map, it does so through one more value *column* c [B, M]:
//! sum_j A_ij c_j, averaged over the heads, comes out as the last channel of the result.

use candle_core::{D, Result, Tensor, bail};

use super::cpu::attention::Shape;
use super::cpu::slices::{on_cpu, with_slices};
use super::gradient::{recompute3, with_backward3};

/// What an attention has beside queries, keys and values.
#[derive(Clone, Default)]
pub struct Options {
    /// Number of heads; the width is divided among them.
    pub heads: usize,
    /// A query sees only keys up to its own position.
    pub causal: bool,
    /// The extra value column [R, M]; no gradient flows to it.
    pub column: Option<Tensor>,
}

/// Attention of `q` [B, N, d] to `k`, `v` [R, M, d]: [B, N, d], or [B, N, d + 1] with a column. R divides B: each entry
/// of `k` and `v` serves B / R successive samples.
///
/// # Errors
/// If the shapes do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, options: &Options) -> Result<Tensor> {
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
    let tracked = [q, k, v].iter().any(|t| t.track_op());
    if sharing > 1 && (tracked || !on_cpu(q)) {
        let column = options.column.as_ref().map(|column| repeated(column, sharing)).transpose()?;
        return attend(q, &repeated(k, sharing)?, &repeated(v, sharing)?, &Options { column, ..options.clone() });
    }
    if !on_cpu(q) {
        return composed(q, k, v, options);
    }
    let shape = Shape { batch, sharing, queries, keys, width, heads: options.heads, causal: options.causal };
    let column = match &options.column {
        Some(column) => column.detach(),
        None => Tensor::zeros(0, q.dtype(), q.device())?,
    };
    let inputs = [q.detach().contiguous()?, k.detach().contiguous()?, v.detach().contiguous()?];
    let [dq, dk, dv] = &inputs;
    let (y, kept) = with_slices([dq, dk, dv, &column], |[q, k, v, c]| shape.forward(q, k, v, c))?;
    let y = Tensor::from_vec(y, (batch, queries, width + options.column.is_some() as usize), q.device())?;

    with_backward3([q, k, v], y, move |y, dy| {
        let [q, k, v] = &inputs;
        let grads =
            with_slices([q, k, v, &column, y, dy], |[q, k, v, c, y, dy]| shape.backward([q, k, v], c, &kept, y, dy))?;
        let mut out = [None, None, None];
        for ((out, grad), like) in out.iter_mut().zip(grads).zip([q, k, v]) {
            *out = Some(Tensor::from_vec(grad, like.shape(), like.device())?);
        }
        Ok(out)
    })
}

/// Each entry of `x` `times` times.
fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    shape.insert(1, times);
    let wide = x.unsqueeze(1)?.expand(shape)?.contiguous()?;
    wide.flatten(0, 1)
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

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn shared_keys_equal_repeated_ones() -> Result<()> {
        let random = |batch, n| Tensor::randn(0f32, 1.5, (batch, n, 12), &Device::Cpu);
        let (q, k, v) = (random(6, 50)?, random(2, 110)?, random(2, 110)?);
        let column = Some(Tensor::rand(0f32, 1., (2, 110), &Device::Cpu)?);
        let options = Options { heads: 3, causal: false, column };
        let fast = attend(&q, &k, &v, &options)?;
        // with a gradient, keys and values are repeated
        let slow = attend(Var::from_tensor(&q)?.as_tensor(), &k, &v, &options)?;
        assert!((fast - slow)?.abs()?.max_all()?.to_scalar::<f32>()? == 0.);
        Ok(())
    }

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
