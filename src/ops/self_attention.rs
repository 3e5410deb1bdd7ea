//! Self-attention with its norm, its maps and its residual: as one operation if it is frozen.

use candle_core::{Result, Tensor};

use super::attention::{Options, Sizes, attend};
use super::cpu;
use super::cpu::attention::Kept;
use super::gradient::{recompute, with_backward};
use super::norm::Norm;
use super::place::{Place, place};
use super::{Keep, LayerNorm, Linear};

/// The parts of a self-attention.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    /// Before the maps.
    pub norm: LayerNorm,
    /// To queries, keys and values [d -> d].
    pub to_q: Linear,
    /// See `to_q`.
    pub to_k: Linear,
    /// See `to_q`.
    pub to_v: Linear,
    /// After the heads [d -> d].
    pub to_out: Linear,
    /// Number of heads.
    pub heads: usize,
}

impl SelfAttention {
    /// x + out(attention(norm(x))) of `x` [B, N, d]. Queries, keys and values are kept for the gradient or
    /// computed again; the heads' result is kept.
    pub fn forward(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        match place(x) {
            Place::Cpu if !self.to_out.is_trained() => self.as_one(x, keep),
            // its parts know their gradients
            Place::Cuda if !self.to_out.is_trained() && !keep.inside(x) => {
                let block = self.clone();
                recompute(x, move |x| block.composed(x))
            }
            _ => self.composed(x),
        }
    }

    fn options(&self) -> Options {
        Options { heads: self.heads, ..Options::default() }
    }

    fn as_one(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        let kept_x = x.detach();
        let projected = self.projected(&kept_x)?;
        let [q, k, v] = projected.each_ref();
        let sizes = Sizes::of(q, k, v, &self.options())?;
        let (seen, statistics) = cpu::attention::forward(sizes, [q, k, v], None)?;
        let y = self.to_out.forward_plus(&seen, Some(&kept_x))?;
        let projected = keep.inside(x).then_some(projected);
        let block = self.clone();
        with_backward(x, y, move |dy| {
            let again;
            let projected = match &projected {
                Some(projected) => projected,
                None => {
                    again = block.projected(&kept_x)?;
                    &again
                }
            };
            block.backward(&kept_x, sizes, projected, (&seen, &statistics), dy)
        })
    }

    fn projected(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let normed = self.norm.forward(x)?;
        Ok([self.to_q.forward(&normed)?, self.to_k.forward(&normed)?, self.to_v.forward(&normed)?])
    }

    fn backward(
        &self,
        x: &Tensor,
        sizes: Sizes,
        projected: &[Tensor; 3],
        (seen, statistics): (&Tensor, &Kept),
        dy: &Tensor,
    ) -> Result<Tensor> {
        let d_seen = self.to_out.backward(dy, None)?;
        let grads = cpu::attention::backward(sizes, projected.each_ref(), None, statistics, [seen, &d_seen])?;
        drop(d_seen);
        let mut d_normed = None;
        for (map, grad) in [&self.to_q, &self.to_k, &self.to_v].into_iter().zip(grads) {
            d_normed = Some(map.backward(&grad, d_normed.as_ref())?);
        }
        let dx = d_normed.map_or_else(|| x.zeros_like(), |d_normed| self.norm.backward(x, &d_normed))?;
        dx + dy
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let [q, k, v] = self.projected(x)?;
        self.to_out.forward_plus(&attend(&q, &k, &v, &self.options())?, Some(x))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, at_every_level};
    use super::*;
    use crate::ops::Precision;

    #[test]
    fn one_operation_equals_its_parts() {
        at_every_level(|| {
            let draw = Draw::new("self-attention");
            let random = |shape: &[usize]| draw.normal(shape, 0.4);
            let linear = || Linear::new(random(&[24, 24])?, Some(random(&[24])?), Precision::F32);
            let norm = LayerNorm::new(random(&[24])?, random(&[24])?, 1e-5);
            let block =
                SelfAttention { norm, to_q: linear()?, to_k: linear()?, to_v: linear()?, to_out: linear()?, heads: 3 };
            let x = draw.variable(&[2, 70, 24], 0.4)?;
            let slow = block.composed(&x)?;
            for keep in [Keep::ALL, Keep::INPUTS] {
                let fast = block.forward(&x, keep)?;
                assert_alike([&fast, &slow], &[&x], &draw, 2e-5, &format!("{keep:?}"))?;
            }
            Ok(())
        });
    }
}
