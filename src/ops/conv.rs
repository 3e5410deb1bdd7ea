//! A 2-D convolution over pixels [B, h, w, C], frozen or trained.

use candle_core::{Result, Tensor};

use super::gradient::{nothing, with_backward2, with_backward3};
use super::norm::{GroupNorm, Norm};
use super::place::{Place, place};
use super::weight::{Precision, Weight};
use super::{cpu, cuda};

/// A convolution with weight [out, in, k, k] and bias `[out]`, trained if they are variables; the same padding on all sides.
#[derive(Debug)]
pub struct Conv2d {
    weight: Weight,
    bias: Option<Tensor>,
    /// Values of a pixel of the input, and of the output.
    from: usize,
    to: usize,
    window: Window,
}

/// Which input pixels an output pixel sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Side.
    pub(crate) size: usize,
    /// From one output pixel to the next.
    pub(crate) stride: usize,
    /// Zeros around the input.
    pub(crate) padding: usize,
}

impl Window {
    /// Outputs along a side.
    pub(crate) fn out(&self, side: usize) -> Result<usize> {
        if side + 2 * self.padding < self.size {
            candle_core::bail!("a side of {side} pixels is too small for a {0}x{0} convolution", self.size);
        }
        Ok((side + 2 * self.padding - self.size) / self.stride + 1)
    }
}

/// What a convolution does beside convolving.
#[derive(Clone, Copy, Default)]
pub struct Around<'a> {
    /// The input is normalised first. Its normalised form is not kept.
    pub norm: Option<&'a GroupNorm>,
    /// Each input pixel stands for two by two: the output has this size, at most twice the input's.
    pub doubled_to: Option<(usize, usize)>,
    /// [B, out], added to every pixel; it has a gradient where the convolution is trained.
    pub shift: Option<&'a Tensor>,
    /// [B, h', w', out], added to the result.
    pub residual: Option<&'a Tensor>,
}

impl Conv2d {
    /// `weight` [out, in, k, k], `bias` `[out]`.
    ///
    /// # Errors
    /// If `weight` has not four dimensions.
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (to, from, size, _) = weight.dims4()?;
        let window = Window { size, stride, padding };
        Ok(Self { weight: Weight::of_convolution(weight, precision)?, bias, from, to, window })
    }

    /// Values of its weight.
    pub fn values(&self) -> usize {
        self.from * self.to * self.window.size.pow(2)
    }

    /// Maps `x` [B, h, w, in] to [B, h', w', out].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Around::default())
    }

    /// Like [`forward`](Self::forward), with something around it. All that is kept for the gradient is
    /// `x` itself.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward_with(&self, x: &Tensor, around: Around) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        if channels != self.from {
            candle_core::bail!("a convolution of {} channels was given {:?}", self.from, x.dims());
        }
        let (tall, wide) = around.doubled_to.unwrap_or((height, width));
        let shape = [batch, self.window.out(tall)?, self.window.out(wide)?, self.to];
        if let Some(residual) = around.residual
            && residual.dims() != shape
        {
            candle_core::bail!("the residual of a convolution to {shape:?} is {residual:?}");
        }
        let x = &self.weight.suited(x)?;
        let residual = around.residual.map(|residual| self.weight.suited(residual)).transpose()?;
        let around = Around { residual: residual.as_ref(), ..around };
        let kept = x.detach();
        let (bias, window) = (self.bias.as_ref(), self.window);
        let (y, statistics) = match &self.weight {
            Weight::Cpu(panels) => {
                let normed = around.norm.map_or(Ok(kept.clone()), |norm| norm.forward(&kept))?;
                (cpu::convolution::forward(&normed, panels, bias, window, &around)?, None)
            }
            Weight::Cuda(filters) => cuda::convolution::forward(&kept, filters, bias, window, &around)?,
            Weight::Trained(weight) if place(x) == Place::Cpu => return self.trained(weight, x, around),
            Weight::Plain(weight) | Weight::Trained(weight) => return self.composed(weight, x, around),
        };
        let tracked = x.track_op();
        let residual = around.residual.unwrap_or(&kept);
        if !tracked && !residual.track_op() {
            return Ok(y);
        }
        let (norm, doubled_to, size) = (around.norm.cloned(), around.doubled_to, (height, width));
        let (weight, kept) = (self.weight.clone(), kept.clone());
        with_backward2([x, residual], y, move |dy| {
            let dx = if tracked {
                let dx = match &weight {
                    Weight::Cpu(panels) => cpu::convolution::backward(dy, panels, window, size, doubled_to)?,
                    Weight::Cuda(filters) => cuda::convolution::backward(dy, filters, window, size, doubled_to)?,
                    Weight::Plain(_) | Weight::Trained(_) => {
                        candle_core::bail!("a composed convolution has its own gradient")
                    }
                };
                Some(match (&norm, &statistics) {
                    (Some(norm), Some(statistics)) => statistics.backward(norm, &kept, &dx)?,
                    (Some(norm), None) => norm.backward(&kept, &dx)?,
                    (None, _) => dx,
                })
            } else {
                None
            };
            Ok([dx, Some(dy.clone())])
        })
    }

    fn trained(&self, weight: &Tensor, x: &Tensor, around: Around) -> Result<Tensor> {
        let x = around.norm.map_or(Ok(x.clone()), |norm| norm.forward(x))?;
        let (window, doubled_to) = (self.window, around.doubled_to);
        let plain = Around { doubled_to, ..Around::default() };
        let (kept, weight_now) = (x.detach(), weight.detach());
        let panels = cpu::convolution::pack(&weight_now)?;
        let y = cpu::convolution::forward(&kept, &panels, self.bias.as_ref(), window, &plain)?;
        drop(panels);
        let none = nothing(&kept)?;
        let inputs = [&x, weight, self.bias.as_ref().unwrap_or(&none)];
        let tracked = inputs.map(Tensor::track_op);
        let (_, height, width, _) = kept.dims4()?;
        let y = with_backward3(inputs, y, move |_, dy| {
            let gradient = |i: usize| -> Result<Option<Tensor>> {
                let of = || match i {
                    0 => {
                        let panels = cpu::convolution::pack(&weight_now)?;
                        cpu::convolution::backward(dy, &panels, window, (height, width), doubled_to)
                    }
                    1 => cpu::convolution::weight_gradient(&kept, dy, window, doubled_to),
                    _ => cpu::linear::column_sums(dy),
                };
                tracked[i].then(of).transpose()
            };
            Ok([gradient(0)?, gradient(1)?, gradient(2)?])
        })?;
        let y = match around.shift {
            Some(shift) => y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?)?,
            None => y,
        };
        around.residual.map_or(Ok(y.clone()), |residual| y + residual)
    }

    fn composed(&self, weight: &Tensor, x: &Tensor, around: Around) -> Result<Tensor> {
        let mut x = match around.norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        if let Some((height, width)) = around.doubled_to {
            let (batch, h, w, channels) = x.dims4()?;
            // a broadcast, whose gradient is a sum; candle's own `upsample_nearest2d` overwrites gradients
            let wide = x.reshape((batch, h, 1, w, 1, channels))?.broadcast_as((batch, h, 2, w, 2, channels))?;
            let wide = wide.contiguous()?.reshape((batch, 2 * h, 2 * w, channels))?;
            x = wide.narrow(1, 0, height)?.narrow(2, 0, width)?;
        }
        let Window { stride, padding, .. } = self.window;
        let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(weight, padding, stride, 1, 1)?;
        let mut y = y.permute((0, 2, 3, 1))?.contiguous()?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(shift) = around.shift {
            y = y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?)?;
        }
        match around.residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, assert_close, at_every_level};
    use super::*;

    struct Case {
        window: Window,
        height: usize,
        width: usize,
        from: usize,
        to: usize,
        doubled: bool,
    }

    const fn case(window: [usize; 3], [height, width]: [usize; 2], [from, to]: [usize; 2], doubled: bool) -> Case {
        let [size, stride, padding] = window;
        Case { window: Window { size, stride, padding }, height, width, from, to, doubled }
    }

    /// Every way that a convolution goes, over sizes that fill neither vectors nor cells.
    const CASES: [Case; 12] = [
        case([3, 1, 1], [7, 5], [5, 60], false),
        case([3, 1, 1], [18, 13], [16, 60], false),
        case([3, 1, 1], [9, 10], [32, 60], true),
        case([3, 1, 1], [3, 2], [4, 60], true),
        case([3, 1, 1], [21, 6], [96, 7], false),
        case([3, 1, 1], [5, 5], [160, 33], false),
        case([3, 2, 1], [8, 6], [4, 60], false),
        case([3, 2, 1], [7, 5], [64, 60], false),
        case([1, 1, 0], [4, 4], [4, 60], false),
        case([1, 1, 0], [5, 7], [64, 60], false),
        case([3, 2, 0], [9, 9], [16, 60], false),
        case([8, 8, 0], [16, 24], [3, 60], false),
    ];

    #[test]
    fn kernels_equal_candles_convolution() {
        at_every_level(|| {
            for Case { window, height, width, from, to, doubled } in CASES {
                let Window { size, stride, padding } = window;
                let draw = Draw::new("convolution");
                let what = format!("{window:?}, {height} x {width}, {from} to {to} channels");
                let (weight, bias) = (draw.normal(&[to, from, size, size], 1.)?, draw.normal(&[to], 1.)?);
                let x = draw.variable(&[2, height, width, from], 1.)?;
                let shift = draw.normal(&[2, to], 1.)?;
                let norm = GroupNorm::new(draw.normal(&[from], 1.)?, draw.normal(&[from], 1.)?, 1, 1e-5).with_silu();
                let doubled_to = doubled.then_some((2 * height - 1, 2 * width));
                let (tall, wide) = doubled_to.unwrap_or((height, width));
                let residual = draw.variable(&[2, window.out(tall)?, window.out(wide)?, to], 1.)?;
                let around = Around { norm: Some(&norm), doubled_to, shift: Some(&shift), residual: Some(&residual) };
                let conv = |precision| Conv2d::new(weight.clone(), Some(bias.clone()), stride, padding, precision);
                let plain = conv(Precision::F32)?;
                let slow = plain.composed(&weight, &x, around)?;
                for (precision, bound) in [(Precision::F32, 2e-5), (Precision::F16, 2e-3), (Precision::Bf16, 2e-2)] {
                    let fast = conv(precision)?.forward_with(&x, around)?;
                    let what = format!("{what}, {precision}");
                    // stride 8 is the patch embedding of the metric models: it is never differentiated
                    if size < 8 {
                        assert_alike([&fast, &slow], &[&x, &residual], &draw, bound, &what)?;
                    } else {
                        assert_close(&fast, &slow, bound, &what)?;
                    }
                }
            }
            Ok(())
        });
    }

    #[test]
    fn trained_kernels_equal_candles_convolution() {
        at_every_level(|| {
            for Case { window, height, width, from, to, doubled } in CASES {
                let Window { size, stride, padding } = window;
                // the patch embedding is never trained
                if size > 3 {
                    continue;
                }
                let draw = Draw::new("trained convolution");
                let what = format!("{window:?}, {height} x {width}, {from} to {to} channels");
                let (weight, bias) = (draw.variable(&[to, from, size, size], 1.)?, draw.variable(&[to], 1.)?);
                let (x, shift) = (draw.variable(&[2, height, width, from], 1.)?, draw.variable(&[2, to], 1.)?);
                let norm = GroupNorm::new(draw.normal(&[from], 1.)?, draw.normal(&[from], 1.)?, 1, 1e-5).with_silu();
                let doubled_to = doubled.then_some((2 * height - 1, 2 * width));
                let (tall, wide) = doubled_to.unwrap_or((height, width));
                let residual = draw.variable(&[2, window.out(tall)?, window.out(wide)?, to], 1.)?;
                let around = Around { norm: Some(&norm), doubled_to, shift: Some(&shift), residual: Some(&residual) };
                let (kernel, offset) = (weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
                let conv = Conv2d::new(kernel.clone(), offset, stride, padding, Precision::F32)?;
                let (fast, slow) = (conv.forward_with(&x, around)?, conv.composed(&kernel, &x, around)?);
                assert_alike([&fast, &slow], &[&x, &weight, &bias, &shift, &residual], &draw, 2e-5, &what)?;
            }
            Ok(())
        });
    }
}
