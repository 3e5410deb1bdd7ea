//! Activation functions with gradients that keep only their input.

use candle_core::{D, Result, Tensor};

use super::gradient::{recompute, with_backward};
use super::place::{Place, place};
use super::{cpu, cuda};

/// A function of single values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Curve {
    /// x times the normal distribution function.
    Gelu,
    /// x * sigmoid(1.702 x).
    QuickGelu,
}

impl Curve {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        match place(x) {
            Place::Cpu => {
                let kept = x.detach();
                let y = cpu::activation::forward(self, &kept)?;
                with_backward(x, y, move |dy| cpu::activation::backward(self, &kept, dy))
            }
            Place::Cuda => {
                let kept = x.detach();
                let y = cuda::activation::forward(self, &kept)?;
                with_backward(x, y, move |dy| cuda::activation::backward(self, &kept, dy))
            }
            Place::Composed => recompute(x, move |x| self.composed(x)),
        }
    }

    fn composed(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Curve::Gelu => x.gelu_erf(),
            Curve::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        }
    }
}

/// x * sigmoid(1.702 x), the GELU of CLIP.
///
/// # Errors
/// If shapes do not fit.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Curve::QuickGelu.of(x)
}

/// The exact GELU.
///
/// # Errors
/// If shapes do not fit.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Curve::Gelu.of(x)
}

/// GEGLU of candle operations: `x` [..., 2n] is split in a value and a gate, value * gelu(gate) [..., n]
/// with the exact (erf) GELU, as diffusers has it.
pub(super) fn geglu_composed(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, width)? * x.narrow(D::Minus1, width, width)?.contiguous()?.gelu_erf()?
}

/// Clamps to [0, 1] with gradient 1 on the closed interval, as PyTorch 2.0 had it: a value that sits
/// exactly on a bound still learns.
///
/// # Errors
/// If shapes do not fit.
pub fn clamp_unit(x: &Tensor) -> Result<Tensor> {
    let kept = x.detach();
    let y = kept.clamp(0f32, 1f32)?;
    with_backward(x, y, move |dy| dy * (kept.ge(0f32)? * kept.le(1f32)?)?.to_dtype(dy.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, at_every_level};
    use super::*;

    #[test]
    fn kernels_equal_composed_operations() {
        at_every_level(|| {
            let draw = Draw::new("activation");
            let x = draw.variable(&[3, 5, 17], 2.)?;
            for curve in [Curve::Gelu, Curve::QuickGelu] {
                let (fast, slow) = (curve.of(&x)?, curve.composed(&x)?);
                assert_alike([&fast, &slow], &[&x], &draw, 3e-6, &format!("{curve:?}"))?;
            }
            Ok(())
        });
    }
}
