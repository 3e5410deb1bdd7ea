//! Convolutions over pixels [B, h, w, C].

pub(crate) mod input;
mod patches;
mod tiles;
mod weights;
mod winograd;

use candle_core::{Result, Tensor};
use input::Input;
use patches::Patches;
pub(crate) use weights::{pack, weight_gradient};

use super::product::epilogue::Epilogue;
use super::product::panels::Panels;
use super::product::product;
use super::product::right::Right;
use super::room::room;
use super::slices::from_slices;
use crate::ops::conv::{Around, Window};

/// `x` [B, h, w, in] convolved with `filters`, with what is `around` it but for the norm: [B, h', w', out].
pub(crate) fn forward(
    x: &Tensor,
    filters: &Panels,
    bias: Option<&Tensor>,
    window: Window,
    around: &Around,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let doubled = around.doubled_to.is_some();
    let (height, width) = around.doubled_to.unwrap_or((height, width));
    let (rows, columns) = (window.out(height)?, window.out(width)?);
    // a time shift is a bias of every sample's own
    let bias = match (bias, around.shift) {
        (Some(bias), Some(shift)) => Some(shift.detach().broadcast_add(bias)?),
        (Some(bias), None) => Some(bias.clone()),
        (None, shift) => shift.map(Tensor::detach),
    };
    let rows_per_bias = if around.shift.is_some() { rows * columns } else { usize::MAX };
    let none = Tensor::zeros(0, x.dtype(), x.device())?;
    let inputs = [x, bias.as_ref().unwrap_or(&none), around.residual.unwrap_or(&none)];
    from_slices(inputs, (batch, rows, columns, filters.n()), |[values, bias, residual]| {
        let input = Input { values, batch, height, width, channels, doubled };
        convolve(input, filters.into(), window, Epilogue { bias, rows_per_bias, residual })
    })
}

/// The gradient of the input, of size (height, width) doubled or not, from that of the output.
pub(crate) fn backward(
    dy: &Tensor,
    filters: &Panels,
    window: Window,
    (height, width): (usize, usize),
    doubled_to: Option<(usize, usize)>,
) -> Result<Tensor> {
    let filters = Right::turned(filters, window.size * window.size);
    let (tall, wide) = doubled_to.unwrap_or((height, width));
    let dy = if window.stride == 1 { dy.clone() } else { spread(dy, window, tall, wide)? };
    let (batch, rows, columns, channels) = dy.dims4()?;
    let window = Window { size: window.size, stride: 1, padding: window.size - 1 - window.padding };
    let dx = from_slices([&dy], (batch, tall, wide, filters.n()), |[values]| {
        let input = Input { values, batch, height: rows, width: columns, channels, doubled: false };
        convolve(input, filters, window, Epilogue::default())
    })?;
    if doubled_to.is_some() { halved(&dx, height, width) } else { Ok(dx) }
}

/// The result, by the way that is fastest for its size.
fn convolve(input: Input, filters: Right, window: Window, epilogue: Epilogue) -> Vec<f32> {
    let Window { size, stride, padding } = window;
    let along = |side: usize| (side + 2 * padding - size) / stride + 1;
    let (rows, columns) = (along(input.height), along(input.width));
    // SAFETY: each of the ways writes every pixel
    let mut y = unsafe { room(input.batch * rows * columns * filters.n()) };
    let usual = (size, stride, padding) == (3, 1, 1);
    if usual && tiles::serves(&input, filters) {
        tiles::convolve(&mut y, input, filters, epilogue);
    } else if usual && winograd::serves(&input) {
        winograd::convolve(&mut y, input, filters, epilogue);
    } else {
        let zeros = vec![0.; Patches::shape(&input, window).1];
        product(&mut y, &Patches { input, window, rows, columns, zeros: &zeros }, filters, epilogue);
    }
    y
}

/// The gradient of a strided convolution's output with zeros between its values: that of the same
/// convolution without a stride over an input of size (height, width).
fn spread(dy: &Tensor, window: Window, height: usize, width: usize) -> Result<Tensor> {
    let (batch, rows, columns, channels) = dy.dims4()?;
    let whole = |side: usize| side + 2 * window.padding + 1 - window.size;
    let (tall, wide) = (whole(height), whole(width));
    from_slices([dy], (batch, tall, wide, channels), |[dy]| {
        let mut spread = vec![0.; batch * tall * wide * channels];
        for (i, pixel) in dy.chunks(channels).enumerate() {
            let (sample, y, x) =
                (i / (rows * columns), i / columns % rows * window.stride, i % columns * window.stride);
            spread[((sample * tall + y) * wide + x) * channels..][..channels].copy_from_slice(pixel);
        }
        spread
    })
}

/// The sum over the two by two pixels that each of (height, width) pixels stood for.
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
