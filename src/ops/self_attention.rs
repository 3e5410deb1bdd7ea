//! Frozen self-attention with its norm, its maps and its residual as one operation.

use candle_core::{Result, Tensor};

use super::attention::{Options, attend};
use super::cpu::attention::{Kept, Shape};
use super::cpu::product::Finish;
use super::cpu::slices::{from_slices, on_cpu, with_slices};
use super::gradient::with_backward;
use super::linear::rows_times;
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
    pub fn forward(&self, x: &Tensor, keep: Keep) -> Result<Tensor> {
        if !on_cpu(x) {
            return self.composed(x);
        }
        let out = self.to_out.packed()?;
        let kept_x = x.detach();
        let shape = self.shape(x)?;
        let projected = self.projected(&kept_x)?;
        let (seen, statistics) = shape.forward(&projected[0], &projected[1], &projected[2], &[]);
        let y = self
            .to_out
            .with_bias(&kept_x, |x, bias| rows_times(&seen, out, Finish { bias, residual: x, ..Finish::default() }))?;
        let y = Tensor::from_vec(y, x.shape(), x.device())?;
        let projected = keep.inside(x).then_some(projected);
        let parts = self.clone();
        with_backward(x, y, move |dy| {
            let again;
            let projected = match &projected {
                Some(projected) => projected,
                None => {
                    again = parts.projected(&kept_x)?;
                    &again
                }
            };
            parts.backward(&kept_x, shape, projected, &seen, &statistics, dy)
        })
    }

    fn shape(&self, x: &Tensor) -> Result<Shape> {
        let (batch, length, width) = x.dims3()?;
        Ok(Shape { batch, sharing: 1, queries: length, keys: length, width, heads: self.heads, causal: false })
    }

    fn projected(&self, x: &Tensor) -> Result<[Vec<f32>; 3]> {
        let normed = self.norm.forward(x)?;
        let project = |map: &Linear| -> Result<Vec<f32>> {
            let packed = map.packed()?;
            map.with_bias(&normed, |x, bias| rows_times(x, packed, Finish { bias, ..Finish::default() }))
        };
        Ok([project(&self.to_q)?, project(&self.to_k)?, project(&self.to_v)?])
    }

    fn backward(
        &self,
        x: &Tensor,
        shape: Shape,
        [q, k, v]: &[Vec<f32>; 3],
        seen: &[f32],
        statistics: &Kept,
        dy: &Tensor,
    ) -> Result<Tensor> {
        let out = self.to_out.turned()?;
        let d_seen = with_slices([dy], |[dy]| rows_times(dy, &out, Finish::default()))?;
        let grads = shape.backward([q, k, v], &[], statistics, seen, &d_seen);
        drop((d_seen, out));
        let mut sum = Vec::new();
        for (map, grad) in [&self.to_q, &self.to_k, &self.to_v].into_iter().zip(grads) {
            sum = rows_times(&grad, &map.turned()?, Finish { residual: &sum, ..Finish::default() });
        }
        let d_normed = Tensor::from_vec(sum, x.shape(), x.device())?;
        let dx = self.norm.backward(x, &d_normed)?;
        from_slices([&dx, dy], x.shape(), |[dx, dy]| dx.iter().zip(dy).map(|(a, b)| a + b).collect())
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|map| map.forward(&normed));
        let seen = attend(&q?, &k?, &v?, &Options { heads: self.heads, ..Options::default() })?;
        self.to_out.forward_plus(&seen, Some(x))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::Precision;

    #[test]
    fn one_operation_equals_its_parts() -> Result<()> {
        let random = |shape: &[usize]| Tensor::randn(0f32, 0.4, shape, &Device::Cpu);
        let linear = || Linear::new(random(&[24, 24])?, Some(random(&[24])?), Precision::F32);
        let norm = LayerNorm::new(random(&[24])?, random(&[24])?, 1e-5);
        let attention =
            SelfAttention { norm, to_q: linear()?, to_k: linear()?, to_v: linear()?, to_out: linear()?, heads: 3 };
        let x = Var::from_tensor(&random(&[2, 70, 24])?)?;
        let dy = random(&[2, 70, 24])?;
        let grad = |y: &Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
        let slow = attention.composed(x.as_tensor())?;
        for keep in [Keep::ALL, Keep::INPUTS] {
            let fast = attention.forward(x.as_tensor(), keep)?;
            for (a, b) in [(grad(&fast)?, grad(&slow)?), (fast, slow.clone())] {
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 2e-5, "{gap}");
            }
        }
        Ok(())
    }
}
