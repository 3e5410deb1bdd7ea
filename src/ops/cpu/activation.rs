//! Functions of single values.

use std::marker::PhantomData;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::room::room;
use super::simd::{Kernel, Vector, run, set};
use super::slices::from_slices;
use crate::ops::activation::Curve;

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
    // SAFETY: every row is written below
    let mut y = unsafe { room(x.len() / 2) };
    y.par_chunks_mut(width).with_min_len(8).zip(x.par_chunks(2 * width)).for_each(|(y, x)| run(Geglu { x, y }));
    y
}

/// The gradient of rows of [value, gate] from that of value * gelu(gate).
pub(super) fn geglu_backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
    // SAFETY: every row is written below
    let mut dx = unsafe { room(x.len()) };
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
        set!(V; self.y, value in value, gate in gate => value.mul(gate).mul(below(gate)));
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
        set!(V; d_value, dy in self.dy, gate in gate => dy.mul(gate).mul(below(gate)));
        set!(V; d_gate, dy in self.dy, value in value, gate in gate => {
            dy.mul(value).mul(gate.fma(density(gate), below(gate)))
        });
    }
}

/// The curve's values at `x`.
pub(crate) fn forward(curve: Curve, x: &Tensor) -> Result<Tensor> {
    from_slices([x], x.shape(), |[x]| match curve {
        Curve::Gelu => along::<Gelu>(x, None),
        Curve::QuickGelu => along::<QuickGelu>(x, None),
    })
}

/// The gradient of `x` from that of the curve's values there.
pub(crate) fn backward(curve: Curve, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    from_slices([x, dy], x.shape(), |[x, dy]| match curve {
        Curve::Gelu => along::<Gelu>(x, Some(dy)),
        Curve::QuickGelu => along::<QuickGelu>(x, Some(dy)),
    })
}

fn along<F: Function>(x: &[f32], dy: Option<&[f32]>) -> Vec<f32> {
    // SAFETY: every value is written below
    let mut y = unsafe { room(x.len()) };
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (y, x))| {
        let dy = dy.map(|dy| &dy[i * CHUNK..][..x.len()]);
        run(Along { x, dy, y, function: PhantomData::<F> });
    });
    y
}

/// A function of single values.
trait Function: Send + Sync {
    fn value<V: Vector>(x: V) -> V;
    fn slope<V: Vector>(x: V) -> V;
}

struct QuickGelu;

impl Function for QuickGelu {
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

impl Function for Gelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(below(x))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        x.fma(density(x), below(x))
    }
}

/// Values of a function, or its slopes times a gradient.
struct Along<'a, F> {
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    y: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Function> Kernel for Along<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.dy {
            Some(dy) => set!(V; self.y, x in self.x, dy in dy => dy.mul(F::slope(x))),
            None => set!(V; self.y, x in self.x => F::value(x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::at_every_level;
    use super::super::simd::map;
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
        at_every_level(|| {
            let mut outputs = inputs.clone();
            run(Erf(&mut outputs));
            for (x, y) in inputs.iter().zip(&outputs) {
                let truth = candle_core::cpu::erf::erf_f64(*x as f64);
                assert!((*y as f64 - truth).abs() < 4e-7, "erf({x}) = {y}, not {truth}");
            }
            Ok(())
        });
    }
}
