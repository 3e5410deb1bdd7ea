//! Self-attention with its norm, its maps and its residual: as one operation if it is frozen.

use candle_core::{Result, Tensor};

use super::attention::{Kept, Options, Sizes, attend};
use super::gradient::{recompute, with_backward, with_backward3};
use super::norm::Norm;
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
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        if self.to_out.is_trained() {
            return self.composed(x);
        }
        let x = &self.to_out.suited(x)?;
        if Sizes::of(x, x, x, &self.options())?.have_kernel(x) {
            return self.as_one(x, keep);
        }
        match keep.inside(x) {
            true => self.composed(x),
            false => {
                let block = self.clone();
                recompute(x, move |x| block.composed(x))
            }
        }
    }

    /// The queries of norm(x), and what they see of its keys and values, both [B, N, d]: what comes before the output map.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn queries_and_seen(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let x = &self.to_out.suited(x)?;
        let sizes = Sizes::of(x, x, x, &self.options())?;
        if self.to_out.is_trained() || !sizes.have_kernel(x) {
            let [q, k, v] = self.projected(x)?;
            let seen = attend(&q, &k, &v, &self.options())?;
            return Ok([q, seen]);
        }
        let kept = x.detach();
        let [q, k, v] = self.projected(&kept)?;
        let (block, kept_x) = (self.clone(), kept.clone());
        let queries = with_backward(x, q, move |dq| block.norm.backward(&kept_x, &block.to_q.backward(dq, None)?))?;
        let projected = [queries.detach(), k, v];
        let (seen, statistics) = sizes.run(projected.each_ref(), None)?;
        let (block, kept_x) = (self.clone(), kept.clone());
        let seen = with_backward3([x, &kept, &kept], seen, move |seen, d_seen| {
            let d_normed = block.of_normed(sizes, &projected, &statistics, [seen, d_seen])?;
            Ok([Some(block.norm.backward(&kept_x, &d_normed)?), None, None])
        })?;
        Ok([queries, seen])
    }

    fn options(&self) -> Options {
        Options { heads: self.heads, ..Options::default() }
    }

    fn as_one(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        let kept_x = x.detach();
        let projected = self.projected(&kept_x)?;
        let [q, k, v] = projected.each_ref();
        let sizes = Sizes::of(q, k, v, &self.options())?;
        let (seen, statistics) = sizes.run([q, k, v], None)?;
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
        let d_normed = self.of_normed(sizes, projected, statistics, [seen, &d_seen])?;
        drop(d_seen);
        self.norm.backward_plus(x, &d_normed, dy)
    }

    /// The gradient of norm(x) from that of what is seen.
    fn of_normed(
        &self,
        sizes: Sizes,
        projected: &[Tensor; 3],
        statistics: &Kept,
        [seen, d_seen]: [&Tensor; 2],
    ) -> Result<Tensor> {
        let [dq, dk, dv] = sizes.run_backward(projected.each_ref(), None, statistics, [seen, d_seen])?;
        let of_queries = self.to_q.backward(&dq, None)?;
        self.to_v.backward(&dv, Some(&self.to_k.backward(&dk, Some(&of_queries))?))
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
