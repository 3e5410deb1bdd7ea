//! Group and layer normalisation.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{D, DType, Result, Tensor};

use super::launch::{Launch, Module, module, plain, room, typed};
use crate::ops::norm::{GroupNorm, LayerNorm};

const NORM: Module = module!("norm");

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Norming {
    pixels: i32,
    channels: i32,
    groups: i32,
    rows: i32,
    eps: f32,
    silu: i32,
}

// SAFETY: plain numbers
unsafe impl DeviceRepr for Norming {}

/// A group normalisation of one tensor: its sizes, and each sample's statistics.
pub(crate) struct Group {
    norming: Norming,
    samples: usize,
    parts: usize,
    /// [B, groups, 2]
    statistics: Tensor,
    /// Gains and lifts of the channels [B, 2, C].
    pub(super) line: Tensor,
}

/// Threads of a block that goes through the channels of some pixels.
const THREADS: usize = 256;

impl Group {
    /// Of `x` [B, ..., C], contiguous.
    pub(super) fn new(norm: &GroupNorm, x: &Tensor) -> Result<Self> {
        let (samples, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
        let pixels = x.elem_count() / samples / channels;
        // enough parts for all multiprocessors, enough pixels in each for its sums
        let rows = (pixels / 64).clamp(4, 64);
        let parts = pixels.div_ceil(rows);
        let norming = Norming {
            pixels: pixels as i32,
            channels: channels as i32,
            groups: norm.groups as i32,
            rows: rows as i32,
            eps: norm.eps,
            silu: norm.silu as i32,
        };
        // SAFETY: the kernels write all of them
        let (moments, statistics, line) = unsafe {
            (
                room(x, (samples, parts, 2, channels), DType::F32)?,
                room(x, (samples, norm.groups, 2), DType::F32)?,
                room(x, (samples, 2, channels), DType::F32)?,
            )
        };
        let launch = Launch::new(&NORM, &typed("group_moments", x.dtype())?, x)?.tensor(x)?.tensor(&moments)?;
        // SAFETY: the kernel's arguments
        unsafe { launch.value(norming).run([parts, samples, 1], THREADS, 0)? };
        let launch = Launch::new(&NORM, "group_line", x)?.tensor(&moments)?.value(parts as i32);
        let launch = launch.tensor(&norm.weight)?.tensor(&norm.bias)?.tensor(&statistics)?.tensor(&line)?;
        // SAFETY: the kernel's arguments
        unsafe { launch.value(norming).run([norm.groups, samples, 1], 32, 0)? };
        Ok(Self { norming, samples, parts, statistics, line })
    }

    /// The gradient of `x` from that of `norm` of it.
    pub(crate) fn backward(&self, norm: &GroupNorm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (x, dy) = (&plain(x, x.dtype())?, plain(dy, x.dtype())?);
        let &Self { norming, samples, parts, .. } = self;
        let (channels, groups) = (norming.channels as usize, norm.groups);
        // SAFETY: the kernels write all of them
        let (sums, slopes, dx) = unsafe {
            (
                room(x, (samples, parts, 2, channels), DType::F32)?,
                room(x, (samples, groups, 2), DType::F32)?,
                room(x, x.shape(), x.dtype())?,
            )
        };
        let launch = Launch::new(&NORM, &typed("group_sums", x.dtype())?, x)?.tensor(x)?.tensor(&dy)?;
        let launch = launch.tensor(&self.statistics)?.tensor(&self.line)?.tensor(&norm.weight)?.tensor(&sums)?;
        // SAFETY: the kernel's arguments
        unsafe { launch.value(norming).run([parts, samples, 1], THREADS, 0)? };
        let launch = Launch::new(&NORM, "group_slopes", x)?.tensor(&sums)?.value(parts as i32);
        // SAFETY: the kernel's arguments
        unsafe { launch.tensor(&self.statistics)?.tensor(&slopes)?.value(norming).run([groups, samples, 1], 32, 0)? };
        let launch = Launch::new(&NORM, &typed("group_backward", x.dtype())?, x)?.tensor(x)?.tensor(&dy)?;
        let launch = launch.tensor(&self.statistics)?.tensor(&self.line)?.tensor(&norm.weight)?;
        let launch = launch.tensor(&slopes)?.tensor(&dx)?.value(norming);
        // SAFETY: the kernel's arguments
        unsafe { launch.run([parts, samples, 1], THREADS, 0)? };
        Ok(dx)
    }
}

/// `norm` of `x` [B, ..., C].
pub(crate) fn group_forward(norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
    let x = plain(x, x.dtype())?;
    let group = Group::new(norm, &x)?;
    // SAFETY: the kernel writes all of it
    let y = unsafe { room(&x, x.shape(), x.dtype())? };
    let launch = Launch::new(&NORM, &typed("group_apply", x.dtype())?, &x)?.tensor(&x)?.tensor(&group.line)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.tensor(&y)?.value(group.norming).run([group.parts, group.samples, 1], THREADS, 0)? };
    Ok(y)
}

/// The gradient of `x` from that of `norm` of it.
pub(crate) fn group_backward(norm: &GroupNorm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    Group::new(norm, &plain(x, x.dtype())?)?.backward(norm, x, dy)
}

/// `norm` of `x` [..., d].
pub(crate) fn layer_forward(norm: &LayerNorm, x: &Tensor) -> Result<Tensor> {
    let x = plain(x, x.dtype())?;
    let (rows, width) = rows(&x)?;
    // SAFETY: the kernel writes all of it
    let y = unsafe { room(&x, x.shape(), x.dtype())? };
    let launch = Launch::new(&NORM, &typed("layer", x.dtype())?, &x)?.tensor(&x)?.tensor(&norm.weight)?;
    let launch = launch.tensor(&norm.bias)?.tensor(&y)?.value(rows as i32).value(width as i32).value(norm.eps);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([rows.div_ceil(4), 1, 1], 128, 0)? };
    Ok(y)
}

/// The gradient of `x` from that of `norm` of it, and `residual` added to it.
pub(crate) fn layer_backward(norm: &LayerNorm, x: &Tensor, dy: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let (x, dy) = (plain(x, x.dtype())?, plain(dy, x.dtype())?);
    let residual = residual.map(|residual| plain(residual, x.dtype())).transpose()?;
    let (rows, width) = rows(&x)?;
    // SAFETY: the kernel writes all of it
    let dx = unsafe { room(&x, x.shape(), x.dtype())? };
    let launch = Launch::new(&NORM, &typed("layer_backward", x.dtype())?, &x)?.tensor(&x)?.tensor(&dy)?;
    let launch = launch.tensor(&norm.weight)?.maybe(residual.as_ref())?.tensor(&dx)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(rows as i32).value(width as i32).value(norm.eps).run([rows.div_ceil(4), 1, 1], 128, 0)? };
    Ok(dx)
}

fn rows(x: &Tensor) -> Result<(usize, usize)> {
    let width = x.dim(D::Minus1)?;
    Ok((x.elem_count() / width, width))
}
