//! Group and layer normalisation.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::room::room;
use super::simd::{Kernel, Vector, map, run, set, total};
use super::slices::{from_slices, with_slices};
use crate::ops::norm::{GroupNorm, LayerNorm};

/// Bytes of the rows that a task of these kernels takes.
const TASK_BYTES: usize = 64 << 10;

/// Rows of a task.
fn rows_per_task(width: usize) -> usize {
    (TASK_BYTES / 4 / width).max(1)
}

/// `norm` of `x` [B, ..., C].
pub(crate) fn group_forward(norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
    let sample = x.elem_count() / x.dim(0)?.max(1);
    from_slices([x, &norm.weight, &norm.bias], x.shape(), |[x, weight, bias]| {
        // SAFETY: every row is written below
        let mut y = unsafe { room(x.len()) };
        y.par_chunks_mut(sample).zip(x.par_chunks(sample)).for_each(|(y, x)| {
            let (gain, shift) = line(norm, x, weight, bias);
            let rows = weight.len() * rows_per_task(weight.len());
            y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
                run(Apply { x, y, gain: &gain, shift: &shift, silu: norm.silu });
            });
        });
        y
    })
}

/// The gradient of `x` from that of `norm` of it.
pub(crate) fn group_backward(norm: &GroupNorm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let sample = x.elem_count() / x.dim(0)?.max(1);
    from_slices([x, dy, &norm.weight, &norm.bias], x.shape(), |[x, dy, weight, bias]| {
        // SAFETY: every row is written below
        let mut dx = unsafe { room(x.len()) };
        let inputs = x.par_chunks(sample).zip(dy.par_chunks(sample));
        dx.par_chunks_mut(sample).zip(inputs).for_each(|(dx, (x, dy))| {
            let channels = weight.len();
            let statistics = statistics(norm, x, channels);
            let (gain, shift) = affine(&statistics, weight, bias);
            let rows = channels * rows_per_task(channels);
            // first the gradient of the normalised values, and its sums over each channel
            let tasks = dx.par_chunks_mut(rows).zip(x.par_chunks(rows).zip(dy.par_chunks(rows)));
            let sums = tasks.map(|(dx, (x, dy))| {
                let mut sums = vec![0f32; 2 * channels];
                let (d, product) = sums.split_at_mut(channels);
                run(Differentiate { x, dy, dx, gain: &gain, shift: &shift, weight, silu: norm.silu, d, product });
                sums
            });
            let sums = added(&sums.collect::<Vec<_>>(), 2 * channels);
            let each = channels / norm.groups;
            let n = (x.len() / norm.groups) as f64;
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

/// The gradients of weight and bias `[C]` from that of `norm` of `x`.
pub(crate) fn group_affine(norm: &GroupNorm, x: &Tensor, dy: &Tensor) -> Result<[Tensor; 2]> {
    let sample = x.elem_count() / x.dim(0)?.max(1);
    let both = with_slices([x, dy, &norm.weight, &norm.bias], |[x, dy, weight, bias]| {
        let (channels, each) = (weight.len(), weight.len() / norm.groups);
        let ones = vec![1f32; channels];
        let mut both = [vec![0f64; channels], vec![0f64; channels]];
        for (x, dy) in x.chunks(sample).zip(dy.chunks(sample)) {
            let statistics = statistics(norm, x, channels);
            let (gain, shift) = affine(&statistics, weight, bias);
            let rows = channels * rows_per_task(channels);
            let sums = x.par_chunks(rows).zip(dy.par_chunks(rows)).map(|(x, dy)| {
                // SAFETY: the kernel writes all of it
                let (mut dx, mut sums) = (unsafe { room(x.len()) }, vec![0f32; 2 * channels]);
                let (d, product) = sums.split_at_mut(channels);
                let (gain, shift, weight, dx) = (&gain[..], &shift[..], &ones[..], &mut dx[..]);
                run(Differentiate { x, dy, dx, gain, shift, weight, silu: norm.silu, d, product });
                sums
            });
            let sums = added(&sums.collect::<Vec<_>>(), 2 * channels);
            for c in 0..channels {
                let (mean, inverse) = statistics[c / each];
                both[0][c] += (sums[channels + c] - f64::from(mean) * sums[c]) * f64::from(inverse);
                both[1][c] += sums[c];
            }
        }
        both
    })?;
    in_f32(both)
}

/// Two gradients as tensors.
fn in_f32(both: [Vec<f64>; 2]) -> Result<[Tensor; 2]> {
    let [weight, bias] = both.map(|sums| sums.into_iter().map(|x| x as f32).collect::<Vec<_>>());
    Ok([Tensor::new(weight, &Device::Cpu)?, Tensor::new(bias, &Device::Cpu)?])
}

/// The gradients of weight and bias `[d]` from that of `norm` of `x`.
pub(crate) fn layer_affine(norm: &LayerNorm, x: &Tensor, dy: &Tensor) -> Result<[Tensor; 2]> {
    let (width, eps) = (x.dim(D::Minus1)?, norm.eps);
    let sums = with_slices([x, dy], |[x, dy]| {
        let rows = width * rows_per_task(width);
        let sums = x.par_chunks(rows).zip(dy.par_chunks(rows)).map(|(x, dy)| {
            let mut sums = vec![0f32; 2 * width];
            let (weight, bias) = sums.split_at_mut(width);
            run(LayerAffine { x, dy, weight, bias, eps });
            sums
        });
        added(&sums.collect::<Vec<_>>(), 2 * width)
    })?;
    in_f32([sums[..width].to_vec(), sums[width..].to_vec()])
}

/// Sums over rows of the gradient by the normalised values, and of the gradient.
struct LayerAffine<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
    eps: f32,
}

impl Kernel for LayerAffine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        for (x, dy) in self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)) {
            let (mean, inverse) = moments::<V>(x, self.eps);
            let (scale, shift) = (V::splat(inverse), V::splat(-mean * inverse));
            map!(V; sum in self.weight, x in x, dy in dy => x.fma(scale, shift).fma(dy, sum));
            map!(V; sum in self.bias, dy in dy => sum.add(dy));
        }
    }
}

/// Gain and shift of each channel of one sample.
fn line(norm: &GroupNorm, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
    affine(&statistics(norm, x, weight.len()), weight, bias)
}

/// Mean and 1 / sqrt(variance + eps) of each group of one sample.
fn statistics(norm: &GroupNorm, x: &[f32], channels: usize) -> Vec<(f32, f32)> {
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
    let each = channels / norm.groups;
    let group = |i: usize| {
        let n = (x.len() / norm.groups) as f64;
        let of_group = || {
            parts.iter().flat_map(|(rows, part)| {
                (i * each..(i + 1) * each).map(move |c| (*rows as f64, part[c] as f64, part[channels + c] as f64))
            })
        };
        let mean = of_group().map(|(rows, mean, _)| rows * mean).sum::<f64>() / n;
        let square: f64 = of_group().map(|(rows, m, square)| square + rows * (m - mean) * (m - mean)).sum();
        (mean as f32, (1. / (square / n + norm.eps as f64).sqrt()) as f32)
    };
    (0..norm.groups).map(group).collect()
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
                set!(V; y, x in x, gain in self.gain, shift in self.shift => {
                    let z = x.fma(gain, shift);
                    z.mul(z.sigmoid())
                });
            } else {
                set!(V; y, x in x, gain in self.gain, shift in self.shift => x.fma(gain, shift));
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
                set!(V; dx, x in x, dy in dy, gain in self.gain, shift in self.shift, weight in self.weight => {
                    let z = x.fma(gain, shift);
                    let s = z.sigmoid();
                    let one = V::splat(1.);
                    dy.mul(weight).mul(s.mul(z.fma(one.sub(s), one)))
                });
            } else {
                set!(V; dx, dy in dy, weight in self.weight => dy.mul(weight));
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

/// `norm` of `x` [..., d].
pub(crate) fn layer_forward(norm: &LayerNorm, x: &Tensor) -> Result<Tensor> {
    let (width, eps) = (x.dim(D::Minus1)?, norm.eps);
    from_slices([x, &norm.weight, &norm.bias], x.shape(), |[x, weight, bias]| {
        // SAFETY: every row is written below
        let mut y = unsafe { room(x.len()) };
        let rows = width * rows_per_task(width);
        y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
            run(LayerForward { x, y, weight, bias, eps });
        });
        y
    })
}

/// The gradient of `x` from that of `norm` of it.
pub(crate) fn layer_backward(norm: &LayerNorm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (width, eps) = (x.dim(D::Minus1)?, norm.eps);
    from_slices([x, dy, &norm.weight], x.shape(), |[x, dy, weight]| {
        // SAFETY: every row is written below
        let mut dx = unsafe { room(x.len()) };
        let rows = width * rows_per_task(width);
        dx.par_chunks_mut(rows).zip(x.par_chunks(rows).zip(dy.par_chunks(rows))).for_each(|(dx, (x, dy))| {
            run(LayerBackward { x, dy, dx, weight, eps });
        });
        dx
    })
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
            set!(V; y, x in x, w in self.weight, b in self.bias => x.fma(scale, shift).fma(w, b));
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
            set!(V; dx, dy in dy, w in self.weight => dy.mul(w));
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
