//! The feed-forward part of a transformer block as one operation.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::activation::{geglu_backward, geglu_composed, geglu_forward};
use super::cpu::product::Finish;
use super::cpu::product::panels::buffer;
use super::cpu::slices::{from_slices, on_cpu, with_slices};
use super::gradient::{recompute, with_backward};
use super::linear::{rows_times, rows_times_into};
use super::norm::Norm;
use super::{Keep, LayerNorm, Linear};

/// x + W2 geglu(W1 norm(x) + b1) + b2, all frozen.
#[derive(Clone, Debug)]
pub struct FeedForward {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    norm: LayerNorm,
    proj: Linear,
    out: Linear,
}

/// Tokens that go through it together, so that what is between the maps stays in the cache.
const TOKENS: usize = 512;

impl FeedForward {
    /// `proj` [d -> 2n] makes the values and their gates, `out` [n -> d].
    pub fn new(norm: LayerNorm, proj: Linear, out: Linear) -> Self {
        Self { parts: Arc::new(Parts { norm, proj, out }) }
    }

    /// Maps `x` [B, N, d]. Values and gates, the largest tensors of a training step, are kept for the
    /// gradient or computed again.
    pub fn forward(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        let parts = Arc::clone(&self.parts);
        if !on_cpu(x) {
            return recompute(x, move |x| parts.composed(x));
        }
        let kept = x.detach();
        let (y, gates) = parts.run(&kept, keep.inside(x))?;
        with_backward(x, y, move |dy| parts.backward(&kept, gates.as_ref(), dy))
    }
}

impl Parts {
    /// The result, and values and gates if they are wanted.
    fn run(&self, x: &Tensor, want_gates: bool) -> Result<(Tensor, Option<Tensor>)> {
        let (out, width) = (self.out.packed()?, x.dim(candle_core::D::Minus1)?);
        let (rows, inner) = (x.elem_count() / width, out.k());
        let tokens = x.reshape((rows, width))?;
        let mut y = buffer(x.elem_count());
        let mut gates = buffer(2 * inner * if want_gates { rows } else { TOKENS.min(rows) });
        for first in (0..rows).step_by(TOKENS) {
            let count = TOKENS.min(rows - first);
            let part = tokens.narrow(0, first, count)?;
            let gates = &mut gates[if want_gates { first * 2 * inner } else { 0 }..][..count * 2 * inner];
            self.gates(&part, gates)?;
            let hidden = geglu_forward(gates, inner);
            let y = &mut y[first * width..][..count * width];
            self.out.with_bias(&part, |x, bias| {
                rows_times_into(y, &hidden, out, Finish { bias, residual: x, ..Finish::default() });
            })?;
        }
        let gates = if want_gates { Some(Tensor::from_vec(gates, (rows, 2 * inner), x.device())?) } else { None };
        Ok((Tensor::from_vec(y, x.shape(), x.device())?, gates))
    }

    /// Values and gates of rows `x`.
    fn gates(&self, x: &Tensor, gates: &mut [f32]) -> Result<()> {
        let normed = self.norm.forward(x)?;
        let proj = self.proj.packed()?;
        self.proj.with_bias(&normed, |x, bias| rows_times_into(gates, x, proj, Finish { bias, ..Finish::default() }))
    }

    fn backward(&self, x: &Tensor, gates: Option<&Tensor>, dy: &Tensor) -> Result<Tensor> {
        let (proj, out) = (self.proj.turned()?, self.out.turned()?);
        let (width, inner) = (out.k(), out.n());
        let rows = x.elem_count() / width;
        let part = |t: &Tensor, first: usize| t.reshape((rows, ()))?.narrow(0, first, TOKENS.min(rows - first));
        let mut dx = buffer(x.elem_count());
        for first in (0..rows).step_by(TOKENS) {
            let (x, dy) = (part(x, first)?, part(dy, first)?);
            let d_normed = |gates: &[f32]| {
                from_slices([&dy], x.shape(), |[dy]| {
                    let d_hidden = rows_times(dy, &out, Finish::default());
                    let d_gates = geglu_backward(gates, &d_hidden, inner);
                    rows_times(&d_gates, &proj, Finish::default())
                })
            };
            let d_normed = match gates {
                Some(gates) => with_slices([&part(gates, first)?], |[gates]| d_normed(gates))??,
                None => {
                    let mut gates = buffer(2 * inner * x.dim(0)?);
                    self.gates(&x, &mut gates)?;
                    d_normed(&gates)?
                }
            };
            let of_norm = self.norm.backward(&x, &d_normed)?;
            let dx = &mut dx[first * width..];
            with_slices([&of_norm, &dy], |[of_norm, dy]| {
                dx.iter_mut().zip(of_norm.iter().zip(dy)).for_each(|(dx, (a, b))| *dx = a + b);
            })?;
        }
        Tensor::from_vec(dx, x.shape(), x.device())
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let gates = self.proj.forward(&self.norm.forward(x)?)?;
        self.out.forward_plus(&geglu_composed(&gates)?, Some(x))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::Precision;

    #[test]
    fn kernels_equal_composed_operations() -> Result<()> {
        // always the same numbers, of a size at which rounding stays well below the bound
        let stream = std::cell::RefCell::new(crate::rng::stream(0, "feed-forward", 0));
        let random = |shape: &[usize]| crate::rng::normal(shape, &mut stream.borrow_mut(), &Device::Cpu)? * 0.25;
        let linear = |from, to| Linear::new(random(&[to, from])?, Some(random(&[to])?), Precision::F32);
        let block =
            FeedForward::new(LayerNorm::new(random(&[24])?, random(&[24])?, 1e-5), linear(24, 80)?, linear(40, 24)?);
        let x = Var::from_tensor(&random(&[2, 300, 24])?)?;
        let dy = random(&[2, 300, 24])?;
        let grad = |y: &Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
        let slow = block.parts.composed(x.as_tensor())?;
        for keep in [Keep::ALL, Keep::INPUTS] {
            let fast = block.forward(x.as_tensor(), keep)?;
            for (a, b) in [(grad(&fast)?, grad(&slow)?), (fast, slow.clone())] {
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 3e-5, "{gap}");
            }
        }
        Ok(())
    }
}
