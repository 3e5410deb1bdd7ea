//! Frozen group and layer normalisation, the former with its SiLU.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::backward::{recompute, with_backward};
use super::slices::{from_slices, on_cpu};

/// Group normalisation of [B, C, ...] with frozen affine [C], optionally followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f32,
    silu: bool,
}

impl GroupNorm {
    /// `weight` and `bias` [C].
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Self {
        Self { weight, bias, groups, eps: eps as f32, silu: false }
    }

    /// The same with SiLU applied to its result.
    pub fn with_silu(mut self) -> Self {
        self.silu = true;
        self
    }

    /// Normalises `x` [B, C, ...].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let norm = self.clone();
        if !on_cpu(x) {
            return recompute(x, move |x| norm.composed(x));
        }
        let kept = x.detach();
        let (group, groups) = (x.elem_count() / (x.dim(0)? * self.groups), self.groups);
        let y = from_slices([&kept, &self.weight, &self.bias], x.shape(), |[x, weight, bias]| {
            let mut y = vec![0f32; x.len()];
            y.par_chunks_mut(group).zip(x.par_chunks(group)).enumerate().for_each(|(i, (y, x))| {
                norm.affine(weight, bias, i % groups).forward(x, y);
            });
            y
        })?;
        with_backward(x, y, move |dy| {
            from_slices([&kept, dy, &norm.weight, &norm.bias], kept.shape(), |[x, dy, weight, bias]| {
                let mut dx = vec![0f32; x.len()];
                let inputs = x.par_chunks(group).zip(dy.par_chunks(group));
                dx.par_chunks_mut(group).zip(inputs).enumerate().for_each(|(i, (dx, (x, dy)))| {
                    norm.affine(weight, bias, i % groups).backward(x, dy, dx);
                });
                dx
            })
        })
    }

    /// The part of the affine that serves group `i`.
    fn affine<'a>(&self, weight: &'a [f32], bias: &'a [f32], i: usize) -> GroupAffine<'a> {
        let channels = weight.len() / self.groups;
        let range = i * channels..(i + 1) * channels;
        GroupAffine { weight: &weight[range.clone()], bias: &bias[range], eps: self.eps, silu: self.silu }
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels) = (x.dim(0)?, x.dim(1)?);
        let normed = standardised(&x.reshape((batch, self.groups, ()))?, self.eps)?.reshape((batch, channels, ()))?;
        let affine = |t: &Tensor| t.reshape((1, channels, 1));
        let y = normed.broadcast_mul(&affine(&self.weight)?)?.broadcast_add(&affine(&self.bias)?)?;
        let y = y.reshape(x.shape())?;
        if self.silu { y.silu() } else { Ok(y) }
    }
}

/// Layer normalisation over the last axis with frozen affine [d].
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// `weight` and `bias` [d].
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps: eps as f32 }
    }

    /// Normalises `x` [..., d].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let norm = self.clone();
        if !on_cpu(x) {
            return recompute(x, move |x| {
                standardised(x, norm.eps)?.broadcast_mul(&norm.weight)?.broadcast_add(&norm.bias)
            });
        }
        let kept = x.detach();
        let (width, eps) = (x.dim(D::Minus1)?, self.eps);
        let y = from_slices([&kept, &self.weight, &self.bias], x.shape(), |[x, weight, bias]| {
            let mut y = vec![0f32; x.len()];
            y.par_chunks_mut(width).with_min_len(64).zip(x.par_chunks(width)).for_each(|(y, x)| {
                let (mean, scale) = moments(x, eps);
                for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                    *y = (x - mean) * scale * w + b;
                }
            });
            y
        })?;
        with_backward(x, y, move |dy| {
            from_slices([&kept, dy, &norm.weight], kept.shape(), |[x, dy, weight]| {
                let mut dx = vec![0f32; x.len()];
                let inputs = x.par_chunks(width).zip(dy.par_chunks(width));
                dx.par_chunks_mut(width).with_min_len(64).zip(inputs).for_each(|(dx, (x, dy))| {
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w;
                    }
                    standardise_backward(x, dx, eps);
                });
                dx
            })
        })
    }
}

/// The arithmetic of one group: its channels lie one after another.
struct GroupAffine<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    silu: bool,
}

impl GroupAffine<'_> {
    fn forward(&self, x: &[f32], y: &mut [f32]) {
        let (mean, scale) = moments(x, self.eps);
        let pixels = x.len() / self.weight.len();
        for ((y, x), (w, b)) in y.chunks_mut(pixels).zip(x.chunks(pixels)).zip(self.weight.iter().zip(self.bias)) {
            let (gain, shift) = (scale * w, b - mean * scale * w);
            for (y, x) in y.iter_mut().zip(x) {
                let z = x * gain + shift;
                *y = if self.silu { z * sigmoid(z) } else { z };
            }
        }
    }

    fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (mean, scale) = moments(x, self.eps);
        let pixels = x.len() / self.weight.len();
        let channels = dx.chunks_mut(pixels).zip(x.chunks(pixels)).zip(dy.chunks(pixels));
        for (((dx, x), dy), (w, b)) in channels.zip(self.weight.iter().zip(self.bias)) {
            let (gain, shift) = (scale * w, b - mean * scale * w);
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = dy * w;
                if self.silu {
                    let z = x * gain + shift;
                    let s = sigmoid(z);
                    *dx *= s * (1. + z * (1. - s));
                }
            }
        }
        standardise_backward(x, dx, self.eps);
    }
}

/// Turns the gradient of (x - mean) / deviation in `d` into that of `x`.
fn standardise_backward(x: &[f32], d: &mut [f32], eps: f32) {
    let (mean, scale) = moments(x, eps);
    let n = x.len() as f32;
    let (sum, product) = sums(d.iter().zip(x).map(|(&d, &x)| (d, d * (x - mean))));
    let (d_mean, slope) = (sum / n, product * scale * scale / n);
    for (d, x) in d.iter_mut().zip(x) {
        *d = (*d - d_mean - (x - mean) * slope) * scale;
    }
}

/// Mean and 1 / sqrt(variance + eps).
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sums(x.iter().map(|&x| (x, 0.))).0 / n;
    let variance = sums(x.iter().map(|&x| ((x - mean) * (x - mean), 0.))).0 / n;
    (mean, 1. / (variance + eps).sqrt())
}

/// Two sums at once; blocks keep the rounding error of long sums small.
fn sums(pairs: impl Iterator<Item = (f32, f32)>) -> (f32, f32) {
    let (mut total, mut block, mut count) = ((0f64, 0f64), (0f32, 0f32), 0);
    for (a, b) in pairs {
        block = (block.0 + a, block.1 + b);
        count += 1;
        if count == 256 {
            total = (total.0 + block.0 as f64, total.1 + block.1 as f64);
            (block, count) = ((0., 0.), 0);
        }
    }
    ((total.0 + block.0 as f64) as f32, (total.1 + block.1 as f64) as f32)
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + super::activation::exp(-x))
}

fn standardised(x: &Tensor, eps: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps as f64)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn compare(fast: impl Fn(&Tensor) -> Result<Tensor>, slow: impl Fn(&Tensor) -> Result<Tensor>, shape: &[usize]) {
        let x = Var::from_tensor(&Tensor::randn(0.5f32, 2., shape, &Device::Cpu).unwrap()).unwrap();
        let dy = Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap();
        let run = |f: &dyn Fn(&Tensor) -> Result<Tensor>| {
            let y = f(x.as_tensor()).unwrap();
            let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            (y.detach(), grads.get(&x).unwrap().clone())
        };
        let (a, b) = (run(&fast), run(&slow));
        for (a, b) in [(a.0, b.0), (a.1, b.1)] {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(gap < 2e-5, "{gap}");
        }
    }

    #[test]
    fn kernels_equal_composed_operations() -> Result<()> {
        let random = |n: usize| Tensor::randn(1f32, 0.3, n, &Device::Cpu);
        for silu in [false, true] {
            let mut norm = GroupNorm::new(random(12)?, random(12)?, 4, 1e-5);
            norm.silu = silu;
            compare(|x| norm.forward(x), |x| norm.composed(x), &[2, 12, 5, 3]);
        }
        let (weight, bias) = (random(40)?, random(40)?);
        let norm = LayerNorm::new(weight.clone(), bias.clone(), 1e-5);
        let slow = |x: &Tensor| standardised(x, 1e-5)?.broadcast_mul(&weight)?.broadcast_add(&bias);
        compare(|x| norm.forward(x), slow, &[2, 7, 40]);
        Ok(())
    }
}
