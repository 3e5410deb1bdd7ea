//! Frozen group and layer normalisation, the former with its SiLU.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu::product::panels::buffer;
use super::cpu::simd::{Kernel, Vector, map, run, total};
use super::cpu::slices::{from_slices, on_cpu};
use super::gradient::{recompute, with_backward};

/// Bytes of the rows that a task of these kernels takes.
const TASK_BYTES: usize = 64 << 10;

/// Rows of a task.
fn rows_per_task(width: usize) -> usize {
    (TASK_BYTES / 4 / width).max(1)
}

/// A frozen normalisation.
pub trait Norm: Send + Sync {
    /// Normalises `x`.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
    /// The gradient of the input `x` from that of the result; on the CPU only.
    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;
}

/// Group normalisation of [B, ..., C] with frozen affine [C], optionally followed by SiLU.
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

    /// Gain and shift of each channel of one sample.
    fn line(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        affine(&self.statistics(x, weight.len()), weight, bias)
    }

    /// Mean and 1 / sqrt(variance + eps) of each group of one sample.
    fn statistics(&self, x: &[f32], channels: usize) -> Vec<(f32, f32)> {
        let rows = channels * rows_per_task(channels);
        // of each task's rows the mean, and the squares of what differs from it: sums of squares alone
        // would lose all digits where the mean is large
        let parts: Vec<(usize, Vec<f32>)> = x
            .par_chunks(rows)
            .map(|x| {
                let mut sums = vec![0f32; 2 * channels];
                let (mean, square) = sums.split_at_mut(channels);
                run(Moments { x, mean, square });
                (x.len() / channels, sums)
            })
            .collect();
        let each = channels / self.groups;
        let group = |i: usize| {
            let n = (x.len() / self.groups) as f64;
            let of_group = || {
                parts.iter().flat_map(|(rows, part)| {
                    (i * each..(i + 1) * each).map(move |c| (*rows as f64, part[c] as f64, part[channels + c] as f64))
                })
            };
            let mean = of_group().map(|(rows, mean, _)| rows * mean).sum::<f64>() / n;
            let square: f64 = of_group().map(|(rows, m, square)| square + rows * (m - mean) * (m - mean)).sum();
            (mean as f32, (1. / (square / n + self.eps as f64).sqrt()) as f32)
        };
        (0..self.groups).map(group).collect()
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
        let norm = self.clone();
        if !on_cpu(x) {
            return recompute(x, move |x| norm.composed(x));
        }
        let kept = x.detach();
        let sample = x.elem_count() / x.dim(0)?.max(1);
        let y = from_slices([&kept, &self.weight, &self.bias], x.shape(), |[x, weight, bias]| {
            let mut y = buffer(x.len());
            y.par_chunks_mut(sample).zip(x.par_chunks(sample)).for_each(|(y, x)| {
                let (gain, shift) = self.line(x, weight, bias);
                let rows = weight.len() * rows_per_task(weight.len());
                y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
                    run(Apply { x, y, gain: &gain, shift: &shift, silu: self.silu });
                });
            });
            y
        })?;
        with_backward(x, y, move |dy| norm.backward(&kept, dy))
    }

    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let sample = x.elem_count() / x.dim(0)?.max(1);
        from_slices([x, dy, &self.weight, &self.bias], x.shape(), |[x, dy, weight, bias]| {
            let mut dx = buffer(x.len());
            let inputs = x.par_chunks(sample).zip(dy.par_chunks(sample));
            dx.par_chunks_mut(sample).zip(inputs).for_each(|(dx, (x, dy))| {
                let channels = weight.len();
                let statistics = self.statistics(x, channels);
                let (gain, shift) = affine(&statistics, weight, bias);
                let rows = channels * rows_per_task(channels);
                // first the gradient of the normalised values, and its sums over each channel
                let tasks = dx.par_chunks_mut(rows).zip(x.par_chunks(rows).zip(dy.par_chunks(rows)));
                let sums = tasks.map(|(dx, (x, dy))| {
                    let mut sums = vec![0f32; 2 * channels];
                    let (d, product) = sums.split_at_mut(channels);
                    run(Differentiate { x, dy, dx, gain: &gain, shift: &shift, weight, silu: self.silu, d, product });
                    sums
                });
                let sums = added(&sums.collect::<Vec<_>>(), 2 * channels);
                let each = channels / self.groups;
                let n = (x.len() / self.groups) as f64;
                let (mut slope, mut constant) = (vec![0f32; channels], vec![0f32; channels]);
                let mut scale = vec![0f32; channels];
                for (i, &(mean, inverse)) in statistics.iter().enumerate() {
                    let group = i * each..(i + 1) * each;
                    let sum: f64 = sums[group.clone()].iter().sum();
                    let product: f64 = sums[channels..][group.clone()].iter().sum();
                    let (mean, inverse) = (mean as f64, inverse as f64);
                    // sum of d (x - mean)
                    let steep = (product - mean * sum) * inverse.powi(3) / n;
                    slope[group.clone()].fill(-steep as f32);
                    constant[group.clone()].fill((steep * mean - sum * inverse / n) as f32);
                    scale[group].fill(inverse as f32);
                }
                dx.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(dx, x)| {
                    run(Centre { x, dx, scale: &scale, slope: &slope, constant: &constant });
                });
            });
            dx
        })
    }
}

/// Gain and shift of each channel.
fn affine(statistics: &[(f32, f32)], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let each = weight.len() / statistics.len();
    let channel = |(c, (w, b)): (usize, (&f32, &f32))| {
        let (mean, inverse) = statistics[c / each];
        (inverse * w, b - mean * inverse * w)
    };
    weight.iter().zip(bias).enumerate().map(channel).unzip()
}

fn added(parts: &[Vec<f32>], length: usize) -> Vec<f64> {
    let mut sums = vec![0f64; length];
    for part in parts {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += *x as f64;
        }
    }
    sums
}

/// Mean of each channel of some rows, and the sum of the squares of what differs from it.
struct Moments<'a> {
    x: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
}

impl Kernel for Moments<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.mean.len();
        for row in self.x.chunks_exact(channels) {
            map!(V; sum in self.mean, x in row => sum.add(x));
        }
        let share = V::splat(channels as f32 / self.x.len() as f32);
        map!(V; sum in self.mean => sum.mul(share));
        for row in self.x.chunks_exact(channels) {
            map!(V; sum in self.square, x in row, mean in self.mean => {
                let d = x.sub(mean);
                d.fma(d, sum)
            });
        }
    }
}

/// y = x gain + shift, and its SiLU.
struct Apply<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    gain: &'a [f32],
    shift: &'a [f32],
    silu: bool,
}

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.gain.len();
        for (y, x) in self.y.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            if self.silu {
                map!(V; _y in y, x in x, gain in self.gain, shift in self.shift => {
                    let z = x.fma(gain, shift);
                    z.mul(z.sigmoid())
                });
            } else {
                map!(V; _y in y, x in x, gain in self.gain, shift in self.shift => x.fma(gain, shift));
            }
        }
    }
}

/// d = the gradient of the normalised values, and the sums of d and d x of each channel.
struct Differentiate<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    gain: &'a [f32],
    shift: &'a [f32],
    weight: &'a [f32],
    silu: bool,
    d: &'a mut [f32],
    product: &'a mut [f32],
}

impl Kernel for Differentiate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.gain.len();
        let rows =
            self.dx.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels)));
        for (dx, (x, dy)) in rows {
            if self.silu {
                map!(V; _d in dx, x in x, dy in dy, gain in self.gain, shift in self.shift, weight in self.weight => {
                    let z = x.fma(gain, shift);
                    let s = z.sigmoid();
                    let one = V::splat(1.);
                    dy.mul(weight).mul(s.mul(z.fma(one.sub(s), one)))
                });
            } else {
                map!(V; _d in dx, dy in dy, weight in self.weight => dy.mul(weight));
            }
            map!(V; sum in self.d, d in dx => sum.add(d));
            map!(V; sum in self.product, d in dx, x in x => d.fma(x, sum));
        }
    }
}

/// dx = d scale + x slope + constant.
struct Centre<'a> {
    x: &'a [f32],
    dx: &'a mut [f32],
    scale: &'a [f32],
    slope: &'a [f32],
    constant: &'a [f32],
}

impl Kernel for Centre<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.scale.len();
        for (dx, x) in self.dx.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            map!(V; d in dx, x in x, scale in self.scale, slope in self.slope, constant in self.constant => {
                d.fma(scale, x.fma(slope, constant))
            });
        }
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

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        standardised(x, self.eps)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let norm = self.clone();
        if !on_cpu(x) {
            return recompute(x, move |x| norm.composed(x));
        }
        let kept = x.detach();
        let (width, eps) = (x.dim(D::Minus1)?, self.eps);
        let y = from_slices([&kept, &self.weight, &self.bias], x.shape(), |[x, weight, bias]| {
            let mut y = buffer(x.len());
            let rows = width * rows_per_task(width);
            y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
                run(LayerForward { x, y, weight, bias, eps });
            });
            y
        })?;
        with_backward(x, y, move |dy| norm.backward(&kept, dy))
    }

    fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (width, eps) = (x.dim(D::Minus1)?, self.eps);
        from_slices([x, dy, &self.weight], x.shape(), |[x, dy, weight]| {
            let mut dx = buffer(x.len());
            let rows = width * rows_per_task(width);
            dx.par_chunks_mut(rows).zip(x.par_chunks(rows).zip(dy.par_chunks(rows))).for_each(|(dx, (x, dy))| {
                run(LayerBackward { x, dy, dx, weight, eps });
            });
            dx
        })
    }
}

struct LayerForward<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Kernel for LayerForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let (mean, inverse) = moments::<V>(x, self.eps);
            let (scale, shift) = (V::splat(inverse), V::splat(-mean * inverse));
            map!(V; _y in y, x in x, w in self.weight, b in self.bias => x.fma(scale, shift).fma(w, b));
        }
    }
}

struct LayerBackward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for LayerBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        let n = width as f32;
        for (dx, (x, dy)) in
            self.dx.chunks_exact_mut(width).zip(self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)))
        {
            let (mean, inverse) = moments::<V>(x, self.eps);
            map!(V; _d in dx, dy in dy, w in self.weight => dy.mul(w));
            let sum = total!(V; d in dx => d);
            let product = total!(V; d in dx, x in x => d.mul(x.sub(V::splat(mean))));
            let slope = -product * inverse * inverse * inverse / n;
            let constant = -sum * inverse / n - slope * mean;
            let (scale, slope, constant) = (V::splat(inverse), V::splat(slope), V::splat(constant));
            map!(V; d in dx, x in x => d.fma(scale, x.fma(slope, constant)));
        }
    }
}

/// Mean and 1 / sqrt(variance + eps).
#[inline(always)]
fn moments<V: Vector>(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = total!(V; x in x => x) / n;
    let variance = total!(V; x in x => {
        let d = x.sub(V::splat(mean));
        d.mul(d)
    });
    // the last vector is filled up with zeros, of which each has added the mean's square
    let filled = x.len().next_multiple_of(V::LANES) - x.len();
    let variance = (variance - filled as f32 * mean * mean) / n;
    (mean, 1. / (variance + eps).sqrt())
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
            for (channels, groups) in [(12, 4), (48, 4)] {
                let mut norm = GroupNorm::new(random(channels)?, random(channels)?, groups, 1e-5);
                norm.silu = silu;
                compare(|x| norm.forward(x), |x| norm.composed(x), &[2, 5, 40, channels]);
            }
        }
        for width in [40, 64, 7] {
            let norm = LayerNorm::new(random(width)?, random(width)?, 1e-5);
            compare(|x| norm.forward(x), |x| norm.composed(x), &[2, 7, width]);
        }
        Ok(())
    }

    #[test]
    fn a_large_mean_costs_no_digits() -> Result<()> {
        let x = (Tensor::randn(0f32, 1., (1, 300, 32), &Device::Cpu)? + 1000.)?;
        let norm = GroupNorm::new(
            Tensor::ones(32, x.dtype(), x.device())?,
            Tensor::zeros(32, x.dtype(), x.device())?,
            4,
            1e-5,
        );
        let mean_square = norm.forward(&x)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
        assert!((mean_square - 1.).abs() < 1e-3, "{mean_square}");
        Ok(())
    }
}
