//! The feed-forward part of a transformer block as one operation.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use super::activation::{geglu_composed, gelu};
use super::gradient::{recompute, with_backward};
use super::norm::Norm;
use super::place::{Place, place};
use super::{Keep, LayerNorm, Linear};
use super::{cpu, cuda};

/// x + W2 geglu(W1 norm(x) + b1) + b2, all frozen or all trained.
#[derive(Clone, Debug)]
pub struct FeedForward {
    layers: Arc<Layers>,
}

/// What it is made of.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) norm: LayerNorm,
    pub(crate) proj: Linear,
    pub(crate) out: Linear,
}

impl FeedForward {
    /// `proj` [d -> 2n] makes the values and their gates, `out` [n -> d].
    pub fn new(norm: LayerNorm, proj: Linear, out: Linear) -> Self {
        Self { layers: Arc::new(Layers { norm, proj, out }) }
    }

    /// Maps `x` [B, N, d]. Values and gates, the largest tensors of a training step, are kept for the
    /// gradient or computed again.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        let layers = Arc::clone(&self.layers);
        if layers.proj.is_trained() {
            return layers.trained(x);
        }
        match place(x) {
            Place::Cpu => {
                let kept = x.detach();
                let (y, gates) = cpu::feed_forward::forward(&layers, &kept, keep.inside(x))?;
                with_backward(x, y, move |dy| cpu::feed_forward::backward(&layers, &kept, gates.as_ref(), dy))
            }
            Place::Cuda => match layers.proj.bias.clone() {
                Some(bias) => layers.on_cuda(bias, x, keep),
                None => recompute(x, move |x| layers.composed(x)),
            },
            Place::Composed => recompute(x, move |x| layers.composed(x)),
        }
    }
}

impl Layers {
    fn trained(&self, x: &Tensor) -> Result<Tensor> {
        let gates = self.proj.after(&self.norm, x)?.chunk(2, D::Minus1)?;
        self.out.forward_plus(&(&gates[0] * gelu(&gates[1].contiguous()?)?)?, Some(x))
    }

    /// The bias of values and gates is added where they are used: between the maps there is one kernel.
    fn on_cuda(self: Arc<Self>, bias: Tensor, x: &Tensor, keep: Keep) -> Result<Tensor> {
        let x = &self.out.suited(x)?;
        let kept = x.detach();
        let gates = self.gates(&kept)?;
        let y = self.out.forward_plus(&cuda::activation::geglu_forward(&gates, &bias)?, Some(&kept))?;
        let gates = keep.inside(x).then_some(gates);
        with_backward(x, y, move |dy| {
            let gates = gates.clone().map_or_else(|| self.gates(&kept), Ok)?;
            let d_gates = cuda::activation::geglu_backward(&gates, &bias, &self.out.backward(dy, None)?)?;
            self.norm.backward_plus(&kept, &self.proj.backward(&d_gates, None)?, dy)
        })
    }

    /// Values and gates without their bias.
    fn gates(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.without_bias().forward(&self.norm.forward(x)?)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let gates = self.proj.forward(&self.norm.forward(x)?)?;
        self.out.forward_plus(&geglu_composed(&gates)?, Some(x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, at_every_level};
    use super::*;
    use crate::ops::Precision;

    #[test]
    fn kernels_equal_composed_operations() {
        at_every_level(|| {
            // of a size at which rounding stays well below the bound
            let draw = Draw::new("feed-forward");
            let random = |shape: &[usize]| draw.normal(shape, 0.25);
            let linear = |from, to| Linear::new(random(&[to, from])?, Some(random(&[to])?), Precision::F32);
            let norm = LayerNorm::new(random(&[24])?, random(&[24])?, 1e-5);
            let block = FeedForward::new(norm, linear(24, 80)?, linear(40, 24)?);
            // more tokens than go through it together
            let x = draw.variable(&[2, 300, 24], 0.25)?;
            let slow = block.layers.composed(&x)?;
            for keep in [Keep::ALL, Keep::INPUTS] {
                let fast = block.forward(&x, keep)?;
                assert_alike([&fast, &slow], &[&x], &draw, 3e-5, &format!("{keep:?}"))?;
            }
            Ok(())
        });
    }
}
