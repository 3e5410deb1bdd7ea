//! A frozen 2-D convolution.

use std::sync::OnceLock;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::backward::with_backward;
use super::gemm::{Matrix, multiply, multiply_parallel};
use super::slices::{from_slices, on_cpu};

/// Pixels of the output that a task computes at least and at most.
const SMALLEST_TASK: usize = 32;
/// See [`SMALLEST_TASK`].
const LARGEST_TASK: usize = 512;

/// A convolution with frozen kernel [out, in, k, k] and bias [out]; the same padding on all sides.
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
    /// `kernel` [out, in, k, k], `bias` [out].
    pub fn new(kernel: Tensor, bias: Option<Tensor>, stride: usize, padding: usize) -> Self {
        Self { kernel, bias, stride, padding, flipped: OnceLock::new() }
    }

    /// Maps `x` [B, in, h, w] to [B, out, h', w'].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_plus(x, None)
    }

    /// Like [`forward`](Self::forward), with `shift` [B, out] (untracked) added to every pixel.
    pub fn forward_plus(&self, x: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
        let bias = match (&self.bias, shift) {
            (Some(bias), Some(shift)) => Some(shift.broadcast_add(bias)?),
            (Some(bias), None) => Some(bias.unsqueeze(0)?.broadcast_as((x.dim(0)?, bias.dim(0)?))?),
            (None, shift) => shift.cloned(),
        };
        let y = convolve(&x.detach(), &self.kernel, bias.as_ref(), self.stride, self.padding)?;
        if !x.track_op() {
            return Ok(y);
        }
        let flipped = self.flipped()?.clone();
        let (stride, padding, size) = (self.stride, self.padding, self.kernel.dim(2)?);
        let (_, _, height, width) = x.dims4()?;
        with_backward(x, y, move |dy| {
            let dy = if stride == 1 { dy.clone() } else { spread(dy, stride, height, width, padding, size)? };
            convolve(&dy, &flipped, None, 1, size - 1 - padding)
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

/// `x` [B, in, h, w] with `kernel` [out, in, k, k] and `bias` [B, out].
fn convolve(x: &Tensor, kernel: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let (out, expected, size, _) = kernel.dims4()?;
    if channels != expected || height + 2 * padding < size || width + 2 * padding < size {
        candle_core::bail!("a convolution with kernel {:?} was given {:?}", kernel.dims(), x.dims());
    }
    if !on_cpu(x) {
        let y = x.contiguous()?.conv2d(kernel, padding, stride, 1, 1)?;
        return bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(&bias.reshape((batch, out, 1, 1))?));
    }
    let shape = Unfold { batch, channels, height, width, size, stride, padding };
    let empty = Tensor::zeros(0, x.dtype(), x.device())?;
    let dims = (batch, out, shape.rows_out(), shape.columns_out());
    from_slices([x, kernel, bias.unwrap_or(&empty)], dims, |[x, kernel, bias]| shape.convolve(x, kernel, bias, out))
}

/// A convolution as a product of the kernel with the unfolded input.
struct Unfold {
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    size: usize,
    stride: usize,
    padding: usize,
}

impl Unfold {
    fn rows_out(&self) -> usize {
        (self.height + 2 * self.padding - self.size) / self.stride + 1
    }

    fn columns_out(&self) -> usize {
        (self.width + 2 * self.padding - self.size) / self.stride + 1
    }

    fn convolve(&self, x: &[f32], kernel: &[f32], bias: &[f32], out: usize) -> Vec<f32> {
        let (pixels, taps) = (self.rows_out() * self.columns_out(), self.channels * self.size * self.size);
        let kernel = Matrix::new(kernel, out, taps, taps);
        let mut y = vec![0f32; self.batch * out * pixels];
        if self.size == 1 && self.stride == 1 && self.padding == 0 {
            for (b, y) in y.chunks_mut(out * pixels).enumerate() {
                let x = Matrix::new(&x[b * taps * pixels..], taps, pixels, pixels);
                multiply_parallel((y, pixels), 0., 1., (kernel, false), (x, false));
            }
            add_bias(&mut y, bias, pixels);
            return y;
        }
        // a task takes some lines of the output; small maps share tasks, so that the products stay large
        let (lines, columns) = (self.batch * self.rows_out(), self.columns_out());
        let share = (lines * columns).div_ceil(rayon::current_num_threads()).clamp(SMALLEST_TASK, LARGEST_TASK);
        let lines_per_task = (share / columns).max(1);
        let tasks: Vec<usize> = (0..lines).step_by(lines_per_task).collect();
        let products: Vec<Vec<f32>> = tasks
            .par_iter()
            .map_init(Vec::new, |unfolded: &mut Vec<f32>, &first| {
                let count = lines_per_task.min(lines - first) * columns;
                unfolded.resize(taps * count, 0.);
                self.unfold(x, first, unfolded);
                let mut product = vec![0f32; out * count];
                let unfolded = Matrix::new(unfolded, taps, count, count);
                multiply((&mut product, count), 0., 1., (kernel, false), (unfolded, false));
                product
            })
            .collect();
        y.par_chunks_mut(pixels).enumerate().for_each(|(map, y)| {
            let (sample, channel) = (map / out, map % out);
            for (row, y) in y.chunks_mut(columns).enumerate() {
                let line = sample * self.rows_out() + row;
                let product = &products[line / lines_per_task];
                let count = product.len() / out;
                y.copy_from_slice(&product[channel * count + line % lines_per_task * columns..][..columns]);
            }
        });
        add_bias(&mut y, bias, pixels);
        y
    }

    /// Fills `unfolded` [channels * k * k, lines * columns]: row (c, i, j) holds the inputs that tap (i, j)
    /// of channel c meets in the lines of the output from line `first` of all samples on.
    fn unfold(&self, x: &[f32], first: usize, unfolded: &mut [f32]) {
        let columns = self.columns_out();
        let count = unfolded.len() / (self.channels * self.size * self.size);
        for (tap, taps) in unfolded.chunks_mut(count).enumerate() {
            let (channel, i, j) = (tap / (self.size * self.size), tap / self.size % self.size, tap % self.size);
            for (n, line) in taps.chunks_mut(columns).enumerate() {
                let (sample, row) = ((first + n) / self.rows_out(), (first + n) % self.rows_out());
                let y = (row * self.stride + i).wrapping_sub(self.padding);
                if y >= self.height {
                    line.fill(0.);
                    continue;
                }
                let source = &x[((sample * self.channels + channel) * self.height + y) * self.width..][..self.width];
                self.unfold_line(source, j, line);
            }
        }
    }

    fn unfold_line(&self, source: &[f32], j: usize, line: &mut [f32]) {
        if self.stride == 1 {
            let left = self.padding.saturating_sub(j).min(line.len());
            let start = (j + left).saturating_sub(self.padding);
            let inside = (source.len().saturating_sub(start)).min(line.len() - left);
            line[..left].fill(0.);
            line[left..left + inside].copy_from_slice(&source[start..start + inside]);
            line[left + inside..].fill(0.);
            return;
        }
        for (column, value) in line.iter_mut().enumerate() {
            let x = (column * self.stride + j).wrapping_sub(self.padding);
            *value = source.get(x).copied().unwrap_or(0.);
        }
    }
}

/// Adds `bias` [B, out], if there is one, to the maps of `pixels` values.
fn add_bias(y: &mut [f32], bias: &[f32], pixels: usize) {
    if !bias.is_empty() {
        y.par_chunks_mut(pixels).zip(bias).for_each(|(y, bias)| y.iter_mut().for_each(|y| *y += bias));
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
    let spread =
        Tensor::cat(&[&wide.unsqueeze(3)?, &zeros], 3)?.reshape((batch, channels, rows * stride, columns * stride))?;
    // a stride-1 convolution of an [h, w] input has h + 2 padding - k + 1 rows
    let fit = |x: Tensor, axis: usize, have: usize, side: usize| -> Result<Tensor> {
        let need = side + 2 * padding + 1 - kernel_size;
        if have >= need { x.narrow(axis, 0, need) } else { x.pad_with_zeros(axis, 0, need - have) }
    };
    fit(fit(spread, 2, rows * stride, height)?, 3, columns * stride, width)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn kernels_equal_candles_convolution() -> Result<()> {
        for (size, stride, padding, height, width) in
            [(3, 1, 1, 7, 5), (3, 2, 1, 8, 6), (3, 2, 1, 7, 5), (1, 1, 0, 4, 4), (3, 2, 0, 9, 9), (8, 8, 0, 16, 24)]
        {
            let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
            let (kernel, bias) = (random(&[6, 4, size, size])?, random(&[6])?);
            let (x, shift) = (Var::from_tensor(&random(&[3, 4, height, width])?)?, random(&[3, 6])?);
            let conv = Conv2d::new(kernel.clone(), Some(bias.clone()), stride, padding);
            let fast = conv.forward_plus(x.as_tensor(), Some(&shift))?;
            let slow = x.conv2d(&kernel, padding, stride, 1, 1)?;
            let slow = slow.broadcast_add(&shift.broadcast_add(&bias)?.reshape((3, 6, 1, 1))?)?;
            let dy = random(fast.dims())?;
            let gradient =
                |y: &Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(&x).unwrap().clone()) };
            // stride 8 is the patch embedding of the metric models: it is never differentiated
            let pairs =
                if size == 8 { vec![(fast, slow)] } else { vec![(gradient(&fast)?, gradient(&slow)?), (fast, slow)] };
            for (a, b) in pairs {
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 1e-4, "kernel {size}, stride {stride}: {gap}");
            }
        }
        Ok(())
    }
}
