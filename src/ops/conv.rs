//! A frozen 2-D convolution.

use std::sync::OnceLock;

use candle_core::{Result, Tensor};

use super::backward::with_backward;

/// A convolution with frozen kernel [out, in, k, k] and bias [out]; odd k.
#[derive(Debug)]
pub struct Conv2d {
    kernel: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
    /// The kernel of the input gradient, made when a gradient is first needed.
    flipped: OnceLock<Tensor>,
}

impl Conv2d {
    /// `kernel` [out, in, k, k], `bias` [out]; the padding is the same on all sides.
    pub fn new(kernel: Tensor, bias: Option<Tensor>, stride: usize, padding: usize) -> Self {
        Self { kernel, bias, stride, padding, flipped: OnceLock::new() }
    }

    /// Maps `x` [B, in, h, w] to [B, out, h', w'].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_plus(x, None)
    }

    /// Like [`forward`](Self::forward), with `shift` [B, out] (untracked) added to every pixel.
    pub fn forward_plus(&self, x: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        let mut y = x.detach().contiguous()?.conv2d(&self.kernel, self.padding, self.stride, 1, 1)?;
        let bias = match (&self.bias, shift) {
            (Some(bias), Some(shift)) => Some(shift.broadcast_add(bias)?),
            (Some(bias), None) => Some(bias.unsqueeze(0)?),
            (None, shift) => shift.cloned(),
        };
        if let Some(bias) = bias {
            let (batch, channels) = bias.dims2()?;
            y = y.broadcast_add(&bias.reshape((batch, channels, 1, 1))?)?;
        }
        if !x.track_op() {
            return Ok(y);
        }
        let flipped = self.flipped()?.clone();
        let (stride, padding, size) = (self.stride, self.padding, self.kernel.dim(2)?);
        let (_, _, height, width) = x.dims4()?;
        with_backward(x, y, move |dy| {
            let dy = if stride == 1 { dy.clone() } else { spread(dy, stride, height, width, padding, size)? };
            dy.contiguous()?.conv2d(&flipped, size - 1 - padding, 1, 1, 1)
        })
    }

    /// The kernel flipped in space and transposed in channels: a convolution with it is the input
    /// gradient of a convolution of stride 1.
    fn flipped(&self) -> Result<&Tensor> {
        if let Some(flipped) = self.flipped.get() {
            return Ok(flipped);
        }
        let (_, _, rows, columns) = self.kernel.dims4()?;
        let reversed = |n: usize| Tensor::from_iter((0..n as u32).rev(), self.kernel.device());
        let flipped = self
            .kernel
            .transpose(0, 1)?
            .contiguous()?
            .index_select(&reversed(rows)?, 2)?
            .index_select(&reversed(columns)?, 3)?;
        Ok(self.flipped.get_or_init(|| flipped))
    }
}

/// The gradient of a strided convolution's output with zeros between its values, cut or padded so that
/// the stride-1 convolution that follows yields [height, width].
fn spread(
    dy: &Tensor,
    stride: usize,
    height: usize,
    width: usize,
    padding: usize,
    kernel_size: usize,
) -> Result<Tensor> {
    let (batch, channels, rows, columns) = dy.dims4()?;
    let zeros = Tensor::zeros((batch, channels, rows, columns, stride - 1), dy.dtype(), dy.device())?;
    let wide = Tensor::cat(&[&dy.unsqueeze(4)?, &zeros], 4)?.reshape((batch, channels, rows, columns * stride))?;
    let zeros = Tensor::zeros((batch, channels, rows, stride - 1, columns * stride), dy.dtype(), dy.device())?;
    let spread = Tensor::cat(&[&wide.unsqueeze(3)?, &zeros], 3)?.reshape((
        batch,
        channels,
        rows * stride,
        columns * stride,
    ))?;
    // a stride-1 convolution of an [h, w] input has h + 2 padding - k + 1 rows
    let fit = |x: Tensor, axis: usize, have: usize, side: usize| -> Result<Tensor> {
        let need = side + 2 * padding + 1 - kernel_size;
        if have >= need { x.narrow(axis, 0, need) } else { x.pad_with_zeros(axis, 0, need - have) }
    };
    fit(fit(spread, 2, rows * stride, height)?, 3, columns * stride, width)
}
