//! Activation functions with gradients that keep only their input.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu::product::panels::buffer;
use super::cpu::simd::{Kernel, Vector, map, run};
use super::cpu::slices::{from_slices, on_cpu};
use super::gradient::{recompute, with_backward};

/// Values that a task takes.
const CHUNK: usize = 1 << 13;

/// The error function; absolute error below 2e-7 (Numerical Recipes' erfc, a rational exponent).
#[inline(always)]
fn erf<V: Vector>(x: V) -> V {
    let (zero, one) = (V::splat(0.), V::splat(1.));
    let z = x.max(zero.sub(x));
    let t = one.div(V::splat(0.5).fma(z, one));
    let mut p = V::splat(0.170_872_77);
    for &c in &[
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = p.fma(t, V::splat(c));
    }
    let complement = t.mul(p.sub(z.mul(z)).exp());
    x.select(one.sub(complement), complement.sub(one))
}

/// The normal distribution function.
#[inline(always)]
fn below<V: Vector>(x: V) -> V {
    V::splat(0.5).fma(erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))), V::splat(0.5))
}

/// Its density.
#[inline(always)]
fn density<V: Vector>(x: V) -> V {
    V::splat(0.398_942_3).mul(x.mul(x).mul(V::splat(-0.5)).exp())
}

/// value * gelu(gate) of rows of [value, gate].
pub(super) fn geglu_forward(x: &[f32], width: usize) -> Vec<f32> {
    let mut y = buffer(x.len() / 2);
    y.par_chunks_mut(width).with_min_len(8).zip(x.par_chunks(2 * width)).for_each(|(y, x)| run(Geglu { x, y }));
    y
}

/// The gradient of rows of [value, gate] from that of value * gelu(gate).
pub(super) fn geglu_backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    let mut dx = buffer(x.len());
    let inputs = x.par_chunks(2 * width).zip(dy.par_chunks(width));
    dx.par_chunks_mut(2 * width).with_min_len(8).zip(inputs).for_each(|(dx, (x, dy))| run(GegluBackward { x, dy, dx }));
    dx
}

struct Geglu<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Geglu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (value, gate) = self.x.split_at(self.y.len());
        map!(V; _y in self.y, value in value, gate in gate => value.mul(gate).mul(below(gate)));
    }
}

struct GegluBackward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for GegluBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (value, gate) = self.x.split_at(self.dy.len());
        let (d_value, d_gate) = self.dx.split_at_mut(self.dy.len());
        map!(V; _d in d_value, dy in self.dy, gate in gate => dy.mul(gate).mul(below(gate)));
        map!(V; _d in d_gate, dy in self.dy, value in value, gate in gate => {
            dy.mul(value).mul(gate.fma(density(gate), below(gate)))
        });
    }
}

/// A function of single values.
trait Curve: Send + Sync + 'static {
    fn value<V: Vector>(x: V) -> V;
    fn slope<V: Vector>(x: V) -> V;
}

struct QuickGelu;

impl Curve for QuickGelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(x.mul(V::splat(1.702)).sigmoid())
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        let steep = x.mul(V::splat(1.702));
        let s = steep.sigmoid();
        s.mul(steep.fma(V::splat(1.).sub(s), V::splat(1.)))
    }
}

struct Gelu;

impl Curve for Gelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(below(x))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        x.fma(density(x), below(x))
    }
}

/// Values of a curve, or its slopes times a gradient.
struct Along<'a, C> {
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    y: &'a mut [f32],
    curve: std::marker::PhantomData<C>,
}

impl<C: Curve> Kernel for Along<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.dy {
            Some(dy) => map!(V; _y in self.y, x in self.x, dy in dy => dy.mul(C::slope(x))),
            None => map!(V; _y in self.y, x in self.x => C::value(x)),
        }
    }
}

fn along<C: Curve>(x: &Tensor) -> Result<Tensor> {
    let kept = x.detach();
    let curve = std::marker::PhantomData::<C>;
    let y = from_slices([&kept], x.shape(), |[x]| {
        let mut y = buffer(x.len());
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| run(Along { x, dy: None, y, curve }));
        y
    })?;
    with_backward(x, y, move |dy| {
        from_slices([&kept, dy], kept.shape(), |[x, dy]| {
            let mut dx = buffer(x.len());
            let inputs = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK));
            dx.par_chunks_mut(CHUNK).zip(inputs).for_each(|(y, (x, dy))| run(Along { x, dy: Some(dy), y, curve }));
            dx
        })
    })
}

/// GEGLU of candle operations: `x` [..., 2n] is split in a value and a gate, value * gelu(gate) [..., n]
/// with the exact (erf) GELU, as diffusers has it.
pub(super) fn geglu_composed(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, width)? * x.narrow(D::Minus1, width, width)?.contiguous()?.gelu_erf()?
}

/// x * sigmoid(1.702 x), the GELU of CLIP.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if on_cpu(x) {
        return along::<QuickGelu>(x);
    }
    recompute(x, |x| x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)
}

/// The exact GELU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if on_cpu(x) { along::<Gelu>(x) } else { recompute(x, |x| x.gelu_erf()) }
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

    struct Erf<'a>(&'a mut [f32]);

    impl Kernel for Erf<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector>(self) {
            map!(V; x in self.0 => erf(x));
        }
    }

    #[test]
    fn erf_is_accurate() {
        let inputs: Vec<f32> = (-603..600).map(|i| i as f32 * 0.01).collect();
        let mut outputs = inputs.clone();
        run(Erf(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let truth = candle_core::cpu::erf::erf_f64(*x as f64);
            assert!((*y as f64 - truth).abs() < 4e-7, "erf({x}) = {y}, not {truth}");
        }
    }

    #[test]
    fn kernels_equal_composed_operations() -> Result<()> {
        let x = Var::from_tensor(&Tensor::randn(0f32, 2., (3, 5, 17), &Device::Cpu)?)?;
        let dy = Tensor::randn(0f32, 1., (3, 5, 17), &Device::Cpu)?;
        let gap = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        let grad = |y: Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
        let pairs = [
            (gelu(x.as_tensor())?, x.gelu_erf()?),
            (quick_gelu(x.as_tensor())?, (x.as_tensor() * candle_nn::ops::sigmoid(&(x.as_tensor() * 1.702)?)?)?),
        ];
        for (fast, slow) in pairs {
            assert!(gap(&fast, &slow)? < 2e-6);
            assert!(gap(&grad(fast)?, &grad(slow)?)? < 5e-6);
        }
        Ok(())
    }
}
