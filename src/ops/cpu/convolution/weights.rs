//! The filters of convolutions that are trained, and their gradient.

use candle_core::{Result, Tensor};

use super::super::product::epilogue::Epilogue;
use super::super::product::panels::{Panels, Strides};
use super::super::product::product;
use super::super::product::rows::Matrix;
use super::super::slices::{from_slices, with_slices};
use super::spread;
use crate::ops::conv::Window;

/// Filters [out, in, k, k] as a convolution reads them.
pub(crate) fn pack(filters: &Tensor) -> Result<Panels> {
    let (out, channels, height, width) = filters.dims4()?;
    with_slices([filters], |[filters]| Panels::pack_filters(filters, out, channels, height * width))
}

/// The gradient of filters [out, in, k, k] from that of the result: `x` [B, h, w, in] was convolved, doubled or not.
///
/// With zeros around it, an input seen through one tap of the window is the same rows of pixels, some places further on: a
/// product of the result's gradient, in rows of that width, with those rows, for each tap.
pub(crate) fn weight_gradient(
    x: &Tensor,
    dy: &Tensor,
    window: Window,
    doubled_to: Option<(usize, usize)>,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (tall, wide) = doubled_to.unwrap_or((height, width));
    let dy = if window.stride == 1 { dy.clone() } else { spread(dy, window, tall, wide)? };
    let (_, rows, columns, out) = dy.dims4()?;
    let Window { size, padding, .. } = window;
    // the frame of a padded sample; beyond the last one, as many zero rows as the last tap looks ahead
    let frame = [tall + 2 * padding, wide + 2 * padding];
    let pixels = batch * frame[0] * frame[1];
    let ahead = (size - 1) * frame[1] + size - 1;
    from_slices([x, &dy], (out, channels, size, size), |[x, dy]| {
        let mut framed = vec![0.; (pixels + ahead) * channels];
        let halves = doubled_to.is_some() as usize;
        for sample in 0..batch {
            for y in 0..tall {
                for column in 0..wide {
                    let from = ((sample * height + (y >> halves)) * width + (column >> halves)) * channels;
                    let to = ((sample * frame[0] + y + padding) * frame[1] + column + padding) * channels;
                    framed[to..to + channels].copy_from_slice(&x[from..from + channels]);
                }
            }
        }
        // dy turned: a row for each filter, zero where the frame has no result
        let mut turned = vec![0.; out * pixels];
        for (i, line) in dy.chunks(columns * out).enumerate() {
            let to = (i / rows * frame[0] + i % rows) * frame[1];
            for (column, values) in line.chunks(out).enumerate() {
                for (filter, value) in values.iter().enumerate() {
                    turned[filter * pixels + to + column] = *value;
                }
            }
        }
        let taps = size * size;
        let (mut of_filters, mut of_tap) = (vec![0.; out * channels * taps], vec![0.; out * channels]);
        for tap in 0..taps {
            let from = (tap / size * frame[1] + tap % size) * channels;
            let seen = Panels::pack(&framed[from..], pixels, channels, Strides { row: channels, column: 1 });
            product(&mut of_tap, &Matrix::new(&turned, pixels), &seen, Epilogue::default());
            for (value, to) in of_tap.iter().zip(of_filters.iter_mut().skip(tap).step_by(taps)) {
                *to = *value;
            }
        }
        of_filters
    })
}
