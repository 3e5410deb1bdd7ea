//! The end of reference attention, row by row.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::room::room;
use super::simd::{Kernel, Vector, run, set, total};
use super::slices::with_slices;

/// Rows that a task takes at least.
const LEAST_ROWS: usize = 16;

/// With [feature, mask] = `fused` [B, N, d + 1]: `x` + m feature + (1 - m) `own`, and m.
pub(crate) fn forward(fused: &Tensor, own: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, length, width) = own.dims3()?;
    let (y, mask) = with_slices([fused, own, x], |[fused, own, x]| {
        // SAFETY: every row is written below, and its mask
        let (mut y, mut mask) = unsafe { (room(own.len()), room(batch * length)) };
        let rows = y.par_chunks_mut(width).zip(&mut mask).with_min_len(LEAST_ROWS);
        let given = fused.par_chunks(width + 1).zip(own.par_chunks(width)).zip(x.par_chunks(width));
        rows.zip(given).for_each(|((y, mask), ((fused, own), x))| {
            *mask = fused[width].clamp(0., 1.);
            run(Blend { fused, own, x, mask: *mask, y });
        });
        (y, mask)
    })?;
    let y = Tensor::from_vec(y, own.shape(), own.device())?;
    Ok((y, Tensor::from_vec(mask, (batch, length, 1), own.device())?))
}

/// The gradients of `fused` and `own`.
pub(crate) fn backward(fused: &Tensor, own: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_, _, width) = own.dims3()?;
    let (d_fused, d_own) = with_slices([fused, own, dy], |[fused, own, dy]| {
        // SAFETY: every row of both is written below
        let (mut d_fused, mut d_own) = unsafe { (room(fused.len()), room(own.len())) };
        let rows = d_fused.par_chunks_mut(width + 1).zip(d_own.par_chunks_mut(width)).with_min_len(LEAST_ROWS);
        let given = fused.par_chunks(width + 1).zip(own.par_chunks(width)).zip(dy.par_chunks(width));
        rows.zip(given).for_each(|((d_fused, d_own), ((fused, own), dy))| {
            run(BlendBackward { fused, own, dy, d_fused, d_own });
        });
        (d_fused, d_own)
    })?;
    let d_fused = Tensor::from_vec(d_fused, fused.shape(), dy.device())?;
    Ok((d_fused, Tensor::from_vec(d_own, own.shape(), dy.device())?))
}

/// One row.
struct Blend<'a> {
    fused: &'a [f32],
    own: &'a [f32],
    x: &'a [f32],
    mask: f32,
    y: &'a mut [f32],
}

impl Kernel for Blend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mask = V::splat(self.mask);
        set!(V; self.y, fused in self.fused, own in self.own, x in self.x => {
            x.add(fused.sub(own).fma(mask, own))
        });
    }
}

/// One row's gradients.
struct BlendBackward<'a> {
    fused: &'a [f32],
    own: &'a [f32],
    dy: &'a [f32],
    d_fused: &'a mut [f32],
    d_own: &'a mut [f32],
}

impl Kernel for BlendBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { fused, own, dy, d_fused, d_own } = self;
        let width = own.len();
        let raw = fused[width];
        let mask = V::splat(raw.clamp(0., 1.));
        set!(V; &mut d_fused[..width], dy in dy => dy.mul(mask));
        set!(V; d_own, dy in dy => dy.sub(dy.mul(mask)));
        let fused = &fused[..width];
        d_fused[width] = if (0. ..=1.).contains(&raw) {
            total!(V; fused in fused, own in own, dy in dy => fused.sub(own).mul(dy))
        } else {
            0.
        };
    }
}
