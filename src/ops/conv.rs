//! A frozen 2-D convolution over pictures [B, h, w, C].

use std::sync::Arc;

use candle_core::{Result, Tensor};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::cpu::convolution::tiles as conv_tiles;
use super::cpu::convolution::winograd::{self, Picture};
use super::cpu::product::panels::{Panels, Precision, Right, buffer};
use super::cpu::product::{Finish, Rows, product};
use super::cpu::simd::{Level, level};
use super::cpu::slices::{from_slices, on_cpu, with_slices};
use super::gradient::with_backward2;
use super::norm::{GroupNorm, Norm};

/// A convolution with frozen kernel [out, in, k, k] and bias [out]; the same padding on all sides.
#[derive(Debug)]
pub struct Conv2d {
    kernel: Kernel,
    bias: Option<Tensor>,
    out: usize,
    size: usize,
    stride: usize,
    padding: usize,
}

#[derive(Debug)]
enum Kernel {
    Packed(Arc<Panels>),
    /// As it came, for devices that candle computes on.
    Plain(Tensor),
}

/// What a convolution does beside convolving.
#[derive(Clone, Copy, Default)]
pub struct Around<'a> {
    /// The input is normalised first. Its normalised form is not kept.
    pub norm: Option<&'a GroupNorm>,
    /// Each input pixel stands for two by two: the output has this size, at most twice the input's.
    pub doubled_to: Option<(usize, usize)>,
    /// [B, out], untracked, added to every pixel.
    pub shift: Option<&'a Tensor>,
    /// [B, h', w', out], added to the result.
    pub residual: Option<&'a Tensor>,
}

impl Conv2d {
    /// `kernel` [out, in, k, k], `bias` [out].
    ///
    /// # Errors
    /// If `kernel` has not four dimensions.
    pub fn new(
        kernel: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (out, channels, size, _) = kernel.dims4()?;
        let kernel = if on_cpu(&kernel) {
            let pack = |[kernel]: [&[f32]; 1]| Panels::pack_kernel(kernel, out, channels, size * size);
            // pairs are of values of one tap
            let pairs = level() == Level::Amx && channels.is_multiple_of(32);
            Kernel::Packed(Arc::new(with_slices([&kernel], pack)?.kept_in(precision, pairs)))
        } else {
            Kernel::Plain(kernel)
        };
        Ok(Self { kernel, bias, out, size, stride, padding })
    }

    /// Maps `x` [B, h, w, in] to [B, h', w', out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Around::default())
    }

    /// Like [`forward`](Self::forward), with something around it. All that is kept for the gradient is
    /// `x` itself.
    pub fn forward_with(&self, x: &Tensor, around: Around) -> Result<Tensor> {
        let Kernel::Packed(panels) = &self.kernel else { return self.composed(x, around) };
        let (batch, height, width, channels) = x.dims4()?;
        if channels * self.size * self.size != panels.k() {
            candle_core::bail!("a convolution of {} values was given {:?}", panels.k(), x.dims());
        }
        let kept = x.detach();
        let normed = match around.norm {
            Some(norm) => norm.forward(&kept)?,
            None => kept.clone(),
        };
        let bias = match (&self.bias, around.shift) {
            (Some(bias), Some(shift)) => Some(shift.detach().broadcast_add(bias)?),
            (Some(bias), None) => Some(bias.clone()),
            (None, shift) => shift.map(Tensor::detach),
        };
        let doubled = around.doubled_to.is_some();
        let (tall, wide) = around.doubled_to.unwrap_or((height, width));
        let window = Window { size: self.size, stride: self.stride, padding: self.padding };
        let (rows, columns) = (window.out(tall)?, window.out(wide)?);
        let empty = Tensor::zeros(0, x.dtype(), x.device())?;
        let residual = around.residual.map(Tensor::detach);
        let dims = (batch, rows, columns, self.out);
        if residual.as_ref().is_some_and(|r| r.dims() != [batch, rows, columns, self.out]) {
            candle_core::bail!("the residual of a convolution to {dims:?} is {residual:?}");
        }
        let rows_per_bias = if around.shift.is_some() { rows * columns } else { usize::MAX };
        let inputs = [&normed, bias.as_ref().unwrap_or(&empty), residual.as_ref().unwrap_or(&empty)];
        let y = from_slices(inputs, dims, |[values, bias, residual]| {
            let picture = Picture { values, batch, height: tall, width: wide, channels, doubled };
            window.convolve(picture, (&**panels).into(), Finish { bias, rows_per_bias, residual })
        })?;
        drop(normed);
        let tracked_x = x.track_op();
        let nothing = x.detach();
        let residual = around.residual.unwrap_or(&nothing);
        if !tracked_x && !residual.track_op() {
            return Ok(y);
        }
        let norm = around.norm.cloned();
        let panels = Arc::clone(panels);
        with_backward2([x, residual], y, move |dy| {
            let dx = if tracked_x {
                let turned = Right::turned(&panels, window.size * window.size);
                let dx = window.gradient(dy, turned, (tall, wide))?;
                let dx = if doubled { halved(&dx, height, width)? } else { dx };
                Some(match &norm {
                    Some(norm) => norm.backward(&kept, &dx)?,
                    None => dx,
                })
            } else {
                None
            };
            Ok([dx, Some(dy.clone())])
        })
    }

    /// The same of candle operations.
    fn composed(&self, x: &Tensor, around: Around) -> Result<Tensor> {
        let Kernel::Plain(kernel) = &self.kernel else { candle_core::bail!("a convolution packed for the CPU") };
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
        let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(kernel, self.padding, self.stride, 1, 1)?;
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

/// Which input pixels an output pixel sees.
#[derive(Clone, Copy)]
struct Window {
    size: usize,
    stride: usize,
    padding: usize,
}

impl Window {
    /// Outputs along a side.
    fn out(&self, side: usize) -> Result<usize> {
        if side + 2 * self.padding < self.size {
            candle_core::bail!("a side of {side} pixels is too small for a {0}x{0} convolution", self.size);
        }
        Ok((side + 2 * self.padding - self.size) / self.stride + 1)
    }

    fn convolve(&self, picture: Picture, panels: Right, finish: Finish) -> Vec<f32> {
        let along = |side: usize| (side + 2 * self.padding - self.size) / self.stride + 1;
        let (rows, columns) = (along(picture.height), along(picture.width));
        let mut y = buffer(picture.batch * rows * columns * panels.n());
        let usual = (self.size, self.stride, self.padding) == (3, 1, 1);
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if usual && conv_tiles::serves(&picture, panels) {
            conv_tiles::convolve(&mut y, picture, panels, finish);
            return y;
        }
        if usual && winograd::serves(&picture) {
            winograd::convolve(&mut y, picture, panels, finish);
        } else {
            let zeros = vec![0.; picture.channels * self.size];
            product(&mut y, &Patches { picture, window: *self, rows, columns, zeros: &zeros }, panels, finish);
        }
        y
    }

    /// The gradient of the input, of size (height, width), from that of the output.
    fn gradient(&self, dy: &Tensor, turned: Right, (height, width): (usize, usize)) -> Result<Tensor> {
        let dy = if self.stride == 1 { dy.clone() } else { self.spread(dy, height, width)? };
        let (batch, rows, columns, channels) = dy.dims4()?;
        let window = Window { size: self.size, stride: 1, padding: self.size - 1 - self.padding };
        from_slices([&dy], (batch, height, width, turned.n()), |[values]| {
            let picture = Picture { values, batch, height: rows, width: columns, channels, doubled: false };
            window.convolve(picture, turned, Finish::default())
        })
    }

    /// The gradient of a strided convolution's output with zeros between its values: that of the same
    /// convolution without a stride.
    fn spread(&self, dy: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (batch, rows, columns, channels) = dy.dims4()?;
        let whole = |side: usize| side + 2 * self.padding + 1 - self.size;
        let (tall, wide) = (whole(height), whole(width));
        from_slices([dy], (batch, tall, wide, channels), |[dy]| {
            let mut spread = vec![0.; batch * tall * wide * channels];
            for (i, pixel) in dy.chunks(channels).enumerate() {
                let (sample, y, x) =
                    (i / (rows * columns), i / columns % rows * self.stride, i % columns * self.stride);
                spread[((sample * tall + y) * wide + x) * channels..][..channels].copy_from_slice(pixel);
            }
            spread
        })
    }
}

/// The sum over the two by two pixels that each pixel of a picture of (height, width) stood for.
fn halved(dx: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, tall, wide, channels) = dx.dims4()?;
    from_slices([dx], (batch, height, width, channels), |[dx]| {
        let mut sums = vec![0.; batch * height * width * channels];
        for (i, pixel) in dx.chunks(channels).enumerate() {
            let (sample, y, x) = (i / (tall * wide), i / wide % tall / 2, i % wide / 2);
            let sums = &mut sums[((sample * height + y) * width + x) * channels..][..channels];
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
        sums
    })
}

/// What the window sees at each output pixel, as a row of a matrix.
struct Patches<'a> {
    picture: Picture<'a>,
    window: Window,
    rows: usize,
    columns: usize,
    zeros: &'a [f32],
}

impl Rows for Patches<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        let (size, channels) = (self.window.size, self.picture.channels);
        // without padding, a line of the window lies in one piece
        if self.window.padding == 0 && !self.picture.doubled {
            (size, size * channels)
        } else {
            (size * size, channels)
        }
    }

    #[inline(always)]
    fn piece(&self, row: usize, segment: usize) -> *const f32 {
        let Self { picture, window, .. } = self;
        let whole_lines = window.padding == 0 && !picture.doubled;
        let (i, j) = if whole_lines { (segment, 0) } else { (segment / window.size, segment % window.size) };
        let (line, column) = (row / self.columns, row % self.columns);
        let (sample, line) = (line / self.rows, line % self.rows);
        let y = (line * window.stride + i).wrapping_sub(window.padding);
        let x = (column * window.stride + j).wrapping_sub(window.padding);
        if y < picture.height && x < picture.width {
            picture.values[picture.at(sample, y, x)..].as_ptr()
        } else {
            self.zeros.as_ptr()
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn kernels_equal_candles_convolution() -> Result<()> {
        let cases = [
            (3, 1, 1, 7, 5, 5, false),
            (3, 1, 1, 18, 13, 16, false),
            (3, 1, 1, 9, 10, 32, true),
            (3, 1, 1, 3, 2, 4, true),
            (3, 2, 1, 8, 6, 4, false),
            (3, 2, 1, 7, 5, 4, false),
            (1, 1, 0, 4, 4, 4, false),
            (3, 2, 0, 9, 9, 16, false),
            (8, 8, 0, 16, 24, 3, false),
        ];
        for (size, stride, padding, height, width, channels, doubled) in cases {
            let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
            let (kernel, bias) = (random(&[60, channels, size, size])?, random(&[60])?);
            let x = Var::from_tensor(&random(&[2, height, width, channels])?)?;
            let shift = random(&[2, 60])?;
            let conv = Conv2d::new(kernel.clone(), Some(bias.clone()), stride, padding, Precision::F32)?;
            let plain = Conv2d { kernel: Kernel::Plain(kernel), bias: Some(bias), out: 60, size, stride, padding };
            let norm = GroupNorm::new(random(&[channels])?, random(&[channels])?, 1, 1e-5).with_silu();
            let doubled_to = doubled.then_some((2 * height - 1, 2 * width));
            let around = Around { norm: Some(&norm), doubled_to, shift: Some(&shift), residual: None };
            let residual = Var::from_tensor(&random(conv.forward_with(x.as_tensor(), around)?.dims())?)?;
            let around = Around { residual: Some(residual.as_tensor()), ..around };
            let (fast, slow) = (conv.forward_with(x.as_tensor(), around)?, plain.composed(x.as_tensor(), around)?);
            let dy = random(fast.dims())?;
            let gradients = |y: &Tensor| -> Result<Vec<Tensor>> {
                let grads = (y * &dy)?.sum_all()?.backward()?;
                Ok([&x, &residual].iter().map(|v| grads.get(v).unwrap().clone()).collect())
            };
            let mut pairs = vec![(fast.clone(), slow.clone())];
            // stride 8 is the patch embedding of the metric models: it is never differentiated
            if size < 8 {
                pairs.extend(gradients(&fast)?.into_iter().zip(gradients(&slow)?));
            }
            for (a, b) in pairs {
                let scale = b.abs()?.max_all()?.to_scalar::<f32>()?;
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(
                    gap < 1e-5 * scale.max(1.),
                    "kernel {size}, stride {stride}, {channels} channels: {gap} of {scale}"
                );
            }
        }
        Ok(())
    }
}
