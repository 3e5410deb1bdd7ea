//! Group and layer normalisation, frozen or trained, the former with its SiLU.

use candle_core::{D, Result, Tensor};

use super::gradient::{gradient_at, recompute, with_backward, with_backward3};
use super::place::{Place, place};
use super::{cpu, cuda};

/// A normalisation.
pub trait Norm: Send + Sync {
    /// Normalises `x`.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
    /// The gradient of the input `x` from that of the result.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;
}

/// Group normalisation of [B, ..., C] with affine `[C]`, trained if it is of variables, optionally followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) silu: bool,
}

impl GroupNorm {
    /// `weight` and `bias` `[C]`.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Self {
        Self { weight, bias, groups, eps: eps as f32, silu: false }
    }

    /// The same with SiLU applied to its result.
    pub fn with_silu(mut self) -> Self {
        self.silu = true;
        self
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
        let grouped = x.reshape((batch, (), self.groups, channels / self.groups))?.transpose(1, 2)?.contiguous()?;
        let normed = standardised(&grouped.flatten_from(2)?, self.eps)?.reshape(grouped.shape())?;
        let normed = normed.transpose(1, 2)?.contiguous()?.reshape(x.shape())?;
        let y = normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?;
        if self.silu { y.silu() } else { Ok(y) }
    }
}

impl Norm for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (norm, kept) = (self.clone(), x.detach());
        let trained = self.weight.track_op();
        let y = match place(x) {
            Place::Cpu => cpu::norm::group_forward(self, &kept)?,
            // candle's operations have the gradients of the affine map
            Place::Cuda | Place::Composed if trained => return self.composed(&x.to_dtype(self.weight.dtype())?),
            Place::Cuda => cuda::norm::group_forward(self, &kept)?,
            Place::Composed => return recompute(x, move |x| norm.composed(x)),
        };
        if trained {
            return with_backward3([x, &self.weight, &self.bias], y, move |_, dy| {
                let [weight, bias] = cpu::norm::group_affine(&norm, &kept, dy)?;
                Ok([Some(norm.backward(&kept, dy)?), Some(weight), Some(bias)])
            });
        }
        with_backward(x, y, move |dy| norm.backward(&kept, dy))
    }

    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        match place(x) {
            Place::Cpu => cpu::norm::group_backward(self, x, dy),
            Place::Cuda => cuda::norm::group_backward(self, x, dy),
            Place::Composed => gradient_at(x, dy, |x| self.composed(x)),
        }
    }
}

/// Layer normalisation over the last axis with affine `[d]`, trained if it is of variables.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f32,
}

impl LayerNorm {
    /// `weight` and `bias` `[d]`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps: eps as f32 }
    }

    /// The gradient of the input `x` from that of the result, and `residual` added to it.
    pub(super) fn backward_plus(&self, x: &Tensor, dy: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match place(x) {
            Place::Cuda => cuda::norm::layer_backward(self, x, dy, Some(residual)),
            Place::Cpu | Place::Composed => self.backward(x, dy)? + residual,
        }
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        standardised(x, self.eps)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (norm, kept) = (self.clone(), x.detach());
        let trained = self.weight.track_op();
        let y = match place(x) {
            Place::Cpu => cpu::norm::layer_forward(self, &kept)?,
            // candle's operations have the gradients of the affine map
            Place::Cuda | Place::Composed if trained => return self.composed(&x.to_dtype(self.weight.dtype())?),
            Place::Cuda => cuda::norm::layer_forward(self, &kept)?,
            Place::Composed => return recompute(x, move |x| norm.composed(x)),
        };
        if trained {
            return with_backward3([x, &self.weight, &self.bias], y, move |_, dy| {
                let [weight, bias] = cpu::norm::layer_affine(&norm, &kept, dy)?;
                Ok([Some(norm.backward(&kept, dy)?), Some(weight), Some(bias)])
            });
        }
        with_backward(x, y, move |dy| norm.backward(&kept, dy))
    }

    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        match place(x) {
            Place::Cpu => cpu::norm::layer_backward(self, x, dy),
            Place::Cuda => cuda::norm::layer_backward(self, x, dy, None),
            Place::Composed => gradient_at(x, dy, |x| self.composed(x)),
        }
    }
}

fn standardised(x: &Tensor, eps: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps as f64)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::testing::{Draw, assert_alike, assert_close, at_every_level};
    use super::*;

    #[test]
    fn kernels_equal_composed_operations() {
        at_every_level(|| {
            let draw = Draw::new("norm");
            let affine = |n: usize| draw.normal(&[n], 0.3)? + 1.;
            for silu in [false, true] {
                for (channels, groups) in [(12, 4), (48, 4), (35, 5)] {
                    let mut norm = GroupNorm::new(affine(channels)?, affine(channels)?, groups, 1e-5);
                    norm.silu = silu;
                    // more rows than a task takes
                    let x = draw.variable(&[2, 25, 40, channels], 2.)?;
                    let (fast, slow) = (norm.forward(&x)?, norm.composed(&x)?);
                    let what = format!("{groups} groups of {channels}, silu {silu}");
                    assert_alike([&fast, &slow], &[&x], &draw, 2e-5, &what)?;
                }
            }
            for width in [40, 64, 7] {
                let norm = LayerNorm::new(affine(width)?, affine(width)?, 1e-5);
                let x = draw.variable(&[2, 7, width], 2.)?;
                let (fast, slow) = (norm.forward(&x)?, norm.composed(&x)?);
                assert_alike([&fast, &slow], &[&x], &draw, 2e-5, &format!("layer of {width}"))?;
            }
            Ok(())
        });
    }

    #[test]
    fn trained_affine_maps_have_gradients() {
        at_every_level(|| {
            let draw = Draw::new("trained norm");
            for (silu, [channels, groups]) in [(false, [12, 4]), (true, [48, 4]), (true, [35, 5])] {
                let (weight, bias) = (draw.variable(&[channels], 1.)?, draw.variable(&[channels], 1.)?);
                let mut norm = GroupNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), groups, 1e-5);
                norm.silu = silu;
                let x = draw.variable(&[2, 25, 40, channels], 2.)?;
                let (fast, slow) = (norm.forward(&x)?, norm.composed(&x)?);
                let what = format!("{groups} groups of {channels}, silu {silu}");
                assert_alike([&fast, &slow], &[&x, &weight, &bias], &draw, 2e-5, &what)?;
            }
            for width in [40, 7] {
                let (weight, bias) = (draw.variable(&[width], 1.)?, draw.variable(&[width], 1.)?);
                let norm = LayerNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 1e-5);
                let x = draw.variable(&[2, 300, width], 2.)?;
                let (fast, slow) = (norm.forward(&x)?, norm.composed(&x)?);
                assert_alike([&fast, &slow], &[&x, &weight, &bias], &draw, 2e-5, &format!("layer of {width}"))?;
            }
            Ok(())
        });
    }

    #[test]
    fn other_precisions_are_composed() -> Result<()> {
        let draw = Draw::new("norm in f64");
        let (x, dy) = (draw.normal(&[2, 6, 8], 2.)?, draw.normal(&[2, 6, 8], 1.)?);
        let (weight, bias) = (draw.normal(&[8], 1.)?, draw.normal(&[8], 1.)?);
        let wide = |t: &Tensor| t.to_dtype(DType::F64);
        let narrow = |t: Tensor| t.to_dtype(DType::F32);
        let group = |weight, bias| GroupNorm::new(weight, bias, 2, 1e-5).with_silu();
        let layer = |weight, bias| LayerNorm::new(weight, bias, 1e-5);
        let pairs: [(Box<dyn Norm>, Box<dyn Norm>); 2] = [
            (Box::new(group(weight.clone(), bias.clone())), Box::new(group(wide(&weight)?, wide(&bias)?))),
            (Box::new(layer(weight.clone(), bias.clone())), Box::new(layer(wide(&weight)?, wide(&bias)?))),
        ];
        for (kernel, composed) in pairs {
            let (x64, dy64) = (wide(&x)?, wide(&dy)?);
            assert_close(&kernel.forward(&x)?, &narrow(composed.forward(&x64)?)?, 1e-5, "result")?;
            assert_close(&kernel.backward(&x, &dy)?, &narrow(composed.backward(&x64, &dy64)?)?, 1e-5, "gradient")?;
        }
        Ok(())
    }

    #[test]
    fn a_large_mean_costs_no_digits() {
        at_every_level(|| {
            let x = (Draw::new("mean").normal(&[1, 300, 32], 1.)? + 1000.)?;
            let (one, zero) = (Tensor::ones(32, x.dtype(), x.device())?, Tensor::zeros(32, x.dtype(), x.device())?);
            let mean_square = GroupNorm::new(one, zero, 4, 1e-5).forward(&x)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
            assert!((mean_square - 1.).abs() < 1e-3, "{mean_square}");
            Ok(())
        });
    }
}
