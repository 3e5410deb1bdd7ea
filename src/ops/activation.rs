//! Activation functions with gradients that keep only their input.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::backward::{recompute, with_backward};
use super::slices::{from_slices, on_cpu};

/// e^x for f32 in a form that compilers vectorise; relative error below 3e-7, 0 below -87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that the reduced argument stays exact
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // adding 1.5 * 2^23 rounds to the nearest integer, which then sits in the low mantissa bits
    const ROUND: f32 = 12_582_912.;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.;
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    y * power
}

/// The error function; absolute error below 2e-7 (Abramowitz and Stegun 7.1.26 refined to f32 by a
/// longer rational exponent: Numerical Recipes' erfc).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let z = x.abs();
    let t = 1. / (1. + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let complement = t * exp(p - z * z);
    if x >= 0. { 1. - complement } else { complement - 1. }
}

/// The normal distribution function, and the density.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3;
    (0.5 * (1. + erf(x * std::f32::consts::FRAC_1_SQRT_2)), DENSITY * exp(-0.5 * x * x))
}

/// GEGLU: `x` [..., 2n] is split in a value and a gate, value * gelu(gate) [..., n] with the exact
/// (erf) GELU, as diffusers has it.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    if !on_cpu(x) {
        return recompute(x, move |x| {
            x.narrow(D::Minus1, 0, width)? * x.narrow(D::Minus1, width, width)?.contiguous()?.gelu_erf()?
        });
    }
    let kept = x.detach();
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = from_slices([&kept], shape, |[x]| {
        let mut y = vec![0f32; x.len() / 2];
        y.par_chunks_mut(width).with_min_len(16).zip(x.par_chunks(2 * width)).for_each(|(y, x)| {
            let (value, gate) = x.split_at(width);
            for ((y, v), g) in y.iter_mut().zip(value).zip(gate) {
                *y = v * g * normal(*g).0;
            }
        });
        y
    })?;
    with_backward(x, y, move |dy| {
        from_slices([&kept, dy], kept.shape(), |[x, dy]| {
            let mut dx = vec![0f32; x.len()];
            let inputs = x.par_chunks(2 * width).zip(dy.par_chunks(width));
            dx.par_chunks_mut(2 * width).with_min_len(16).zip(inputs).for_each(|(dx, (x, dy))| {
                let (value, gate) = x.split_at(width);
                let (d_value, d_gate) = dx.split_at_mut(width);
                for i in 0..width {
                    let (v, g) = (value[i], gate[i]);
                    let (below, density) = normal(g);
                    d_value[i] = dy[i] * g * below;
                    d_gate[i] = dy[i] * v * (below + g * density);
                }
            });
            dx
        })
    })
}

/// x * sigmoid(1.702 x), the GELU of CLIP.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    recompute(x, |x| x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)
}

/// The exact GELU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    recompute(x, |x| x.gelu_erf())
}

/// Clamps to [0, 1] with gradient 1 on the closed interval, as PyTorch 2.0 had it: a value that sits
/// exactly on a bound still learns.
pub fn clamp_unit(x: &Tensor) -> Result<Tensor> {
    let kept = x.detach();
    let y = kept.clamp(0f32, 1f32)?;
    with_backward(x, y, move |dy| dy * (kept.ge(0f32)? * kept.le(1f32)?)?.to_dtype(dy.dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn exp_and_normal_are_accurate() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let truth = (x as f64).exp();
            assert!((exp(x) as f64 - truth).abs() <= 4e-7 * truth, "exp({x})");
            let erf_truth = candle_core::cpu::erf::erf_f64(x as f64);
            assert!((erf(x) as f64 - erf_truth).abs() < 4e-7, "erf({x}) = {}, not {erf_truth}", erf(x));
        }
        assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn geglu_equals_composed_operations() -> Result<()> {
        let x = Var::from_tensor(&Tensor::randn(0f32, 2., (3, 5, 16), &Device::Cpu)?)?;
        let dy = Tensor::randn(0f32, 1., (3, 5, 8), &Device::Cpu)?;
        let slow = (x.narrow(2, 0, 8)? * x.narrow(2, 8, 8)?.contiguous()?.gelu_erf()?)?;
        let fast = geglu(x.as_tensor())?;
        let gap = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        assert!(gap(&fast, &slow)? < 2e-6);
        let grad = |y: Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
        assert!(gap(&grad(fast)?, &grad(slow)?)? < 5e-6);
        Ok(())
    }
}
