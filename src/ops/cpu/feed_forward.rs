//! The feed-forward part of a transformer block, some tokens at a time.

use candle_core::{D, Result, Tensor};

use super::activation::{geglu_backward, geglu_forward};
use super::linear::{rows_times, rows_times_into, turned, with_bias};
use super::product::epilogue::Epilogue;
use super::product::panels::Panels;
use super::room::room;
use super::slices::{from_slices, with_slices};
use crate::ops::Linear;
use crate::ops::feed_forward::Layers;
use crate::ops::norm::Norm;
use crate::ops::weight::Weight;

/// Tokens that go through it together, so that what is between the maps stays in the cache.
const TOKENS: usize = 512;

/// The result for `x` [..., d], and values and gates if they are wanted.
pub(crate) fn forward(layers: &Layers, x: &Tensor, want_gates: bool) -> Result<(Tensor, Option<Tensor>)> {
    let (out, width) = (packed(&layers.out)?, x.dim(D::Minus1)?);
    let (rows, inner) = (x.elem_count() / width, out.k());
    let tokens = x.reshape((rows, width))?;
    // SAFETY: both are written below, some tokens after the other
    let (mut y, mut gates) =
        unsafe { (room(x.elem_count()), room(2 * inner * if want_gates { rows } else { TOKENS.min(rows) })) };
    for first in (0..rows).step_by(TOKENS) {
        let count = TOKENS.min(rows - first);
        let part = tokens.narrow(0, first, count)?;
        let gates = &mut gates[if want_gates { first * 2 * inner } else { 0 }..][..count * 2 * inner];
        fill_gates(layers, &part, gates)?;
        let hidden = geglu_forward(gates, inner);
        let y = &mut y[first * width..][..count * width];
        with_bias(&part, layers.out.bias.as_ref(), |x, bias| {
            rows_times_into(y, &hidden, out, Epilogue { bias, residual: x, ..Epilogue::default() });
        })?;
    }
    let gates = if want_gates { Some(Tensor::from_vec(gates, (rows, 2 * inner), x.device())?) } else { None };
    Ok((Tensor::from_vec(y, x.shape(), x.device())?, gates))
}

/// The gradient of `x` from that of the result; values and gates are computed again if they were not kept.
pub(crate) fn backward(layers: &Layers, x: &Tensor, gates: Option<&Tensor>, dy: &Tensor) -> Result<Tensor> {
    let (proj, out) = (turned(packed(&layers.proj)?), turned(packed(&layers.out)?));
    let (width, inner) = (out.k(), out.n());
    let rows = x.elem_count() / width;
    let part = |t: &Tensor, first: usize| t.reshape((rows, ()))?.narrow(0, first, TOKENS.min(rows - first));
    // SAFETY: written below, some tokens after the other
    let mut dx = unsafe { room(x.elem_count()) };
    for first in (0..rows).step_by(TOKENS) {
        let (x, dy) = (part(x, first)?, part(dy, first)?);
        let d_normed = |gates: &[f32]| {
            from_slices([&dy], x.shape(), |[dy]| {
                let d_hidden = rows_times(dy, &out, Epilogue::default());
                let d_gates = geglu_backward(gates, &d_hidden, inner);
                rows_times(&d_gates, &proj, Epilogue::default())
            })
        };
        let d_normed = match gates {
            Some(gates) => with_slices([&part(gates, first)?], |[gates]| d_normed(gates))??,
            None => {
                // SAFETY: filled in at once
                let mut gates = unsafe { room(2 * inner * x.dim(0)?) };
                fill_gates(layers, &x, &mut gates)?;
                d_normed(&gates)?
            }
        };
        let of_norm = layers.norm.backward(&x, &d_normed)?;
        let dx = &mut dx[first * width..];
        with_slices([&of_norm, &dy], |[of_norm, dy]| {
            dx.iter_mut().zip(of_norm.iter().zip(dy)).for_each(|(dx, (a, b))| *dx = a + b);
        })?;
    }
    Tensor::from_vec(dx, x.shape(), x.device())
}

/// Values and gates of rows `x`.
fn fill_gates(layers: &Layers, x: &Tensor, gates: &mut [f32]) -> Result<()> {
    let normed = layers.norm.forward(x)?;
    let proj = packed(&layers.proj)?;
    with_bias(&normed, layers.proj.bias.as_ref(), |x, bias| {
        rows_times_into(gates, x, proj, Epilogue { bias, ..Epilogue::default() });
    })
}

/// The weight of a map as the CPU's kernels read it.
fn packed(map: &Linear) -> Result<&Panels> {
    match &map.weight {
        Weight::Cpu(panels) => Ok(panels),
        Weight::Cuda(_) | Weight::Plain(_) | Weight::Trained(_) => {
            candle_core::bail!("a map that is not frozen on the CPU")
        }
    }
}
