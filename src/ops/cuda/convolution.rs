//! Convolutions over pixels [B, h, w, C] as one product on tensor cores.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::launch::{Launch, Module, module, plain, room, typed};
use super::norm::{Group, group_forward};
use super::weight::OnDevice;
use crate::ops::conv::{Around, Window};

const CONVOLUTION: Module = module!("convolution");

/// Pixels and channels of a block's result, and threads of it.
const PIXELS: usize = 128;
const OUTS: usize = 64;
const THREADS: usize = 128;
/// Bytes of the depth that a block takes at a time, of a row of them in shared memory, and of all of shared memory.
const PIECE: usize = 64;
const SHARED: usize = 3 * (PIXELS + OUTS) * (PIECE + 16);
/// Blocks that keep a large GPU busy; with fewer, the depth is split among several.
const ENOUGH_BLOCKS: usize = 216;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Convolving {
    batch: i32,
    height: i32,
    width: i32,
    channels: i32,
    rows: i32,
    columns: i32,
    out: i32,
    size: i32,
    stride: i32,
    padding: i32,
    tall: i32,
    wide: i32,
    doubled: i32,
    spread: i32,
    steps: i32,
}

// SAFETY: plain numbers
unsafe impl DeviceRepr for Convolving {}

/// What is added to the sums.
#[derive(Default)]
struct After<'a> {
    bias: Option<&'a Tensor>,
    shift: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
}

/// `x` [B, h, w, in] convolved with `filters`, with what is `around` it: [B, h', w', out]; and the statistics of the norm
/// before it, if there is one with a SiLU.
pub(crate) fn forward(
    x: &Tensor,
    filters: &OnDevice,
    bias: Option<&Tensor>,
    window: Window,
    around: &Around,
) -> Result<(Tensor, Option<Group>)> {
    let (batch, height, width, channels) = x.dims4()?;
    let (tall, wide) = around.doubled_to.unwrap_or((height, width));
    let convolving = Convolving {
        batch: batch as i32,
        height: height as i32,
        width: width as i32,
        channels: channels as i32,
        rows: window.out(tall)? as i32,
        columns: window.out(wide)? as i32,
        out: filters.values().dim(0)? as i32,
        size: window.size as i32,
        stride: window.stride as i32,
        padding: window.padding as i32,
        tall: tall as i32,
        wide: wide as i32,
        doubled: around.doubled_to.is_some() as i32,
        spread: 1,
        steps: 0,
    };
    let dtype = filters.values().dtype();
    let x = plain(x, dtype)?;
    let shift = around.shift.map(|shift| plain(shift, DType::F32)).transpose()?;
    let residual = around.residual.map(|residual| plain(residual, dtype)).transpose()?;
    // a norm without its SiLU, which no convolution here has before it, is one of its own
    let (x, group) = match around.norm {
        Some(norm) if norm.silu => (x.clone(), Some(Group::new(norm, &x)?)),
        Some(norm) => (group_forward(norm, &x)?, None),
        None => (x, None),
    };
    let after = After { bias, shift: shift.as_ref(), residual: residual.as_ref() };
    let line = group.as_ref().map(|group| &group.line);
    Ok((convolve(&x, line, filters.values(), filters.exact, convolving, after)?, group))
}

/// The gradient of the input, of size (height, width) doubled or not, from that of the output.
pub(crate) fn backward(
    dy: &Tensor,
    filters: &OnDevice,
    window: Window,
    (height, width): (usize, usize),
    doubled_to: Option<(usize, usize)>,
) -> Result<Tensor> {
    let dtype = filters.values().dtype();
    let dy = plain(dy, dtype)?;
    let (batch, rows, columns, channels) = dy.dims4()?;
    let (tall, wide) = doubled_to.unwrap_or((height, width));
    let turned = filters.turned()?;
    let spread = |side: usize| (side - 1) * window.stride + 1;
    let convolving = Convolving {
        batch: batch as i32,
        height: rows as i32,
        width: columns as i32,
        channels: channels as i32,
        rows: tall as i32,
        columns: wide as i32,
        out: turned.dim(0)? as i32,
        size: window.size as i32,
        stride: 1,
        padding: window.size as i32 - 1 - window.padding as i32,
        tall: spread(rows) as i32,
        wide: spread(columns) as i32,
        doubled: 0,
        spread: window.stride as i32,
        steps: 0,
    };
    let dx = convolve(&dy, None, turned, filters.exact, convolving, After::default())?;
    if doubled_to.is_none() {
        return Ok(dx);
    }
    let from = dx.dim(3)?;
    // SAFETY: the kernel writes all of it
    let sums = unsafe { room(&dx, (batch, height, width, from), dtype)? };
    let mut launch = Launch::new(&CONVOLUTION, &typed("halve", dtype)?, &dx)?.tensor(&dx)?.tensor(&sums)?;
    for size in [batch, height, width, from, tall, wide] {
        launch = launch.value(size as i32);
    }
    // SAFETY: the kernel's arguments
    unsafe { launch.over(sums.elem_count())? };
    Ok(sums)
}

fn convolve(
    x: &Tensor,
    line: Option<&Tensor>,
    filters: &Tensor,
    exact: bool,
    mut c: Convolving,
    after: After,
) -> Result<Tensor> {
    let dtype = x.dtype();
    let shape = [c.batch, c.rows, c.columns, c.out].map(|side| side as usize);
    let (pixels, out) = (shape[0] * shape[1] * shape[2], shape[3]);
    let depth = (c.size * c.size * c.channels) as usize;
    let pieces = depth.div_ceil(PIECE / dtype.size_in_bytes());
    let blocks = pixels.div_ceil(PIXELS) * out.div_ceil(OUTS);
    // a split of fewer than 8 pieces would mostly wait for its first
    let splits = (ENOUGH_BLOCKS / blocks).clamp(1, pieces.div_ceil(8));
    let steps = pieces.div_ceil(splits);
    let splits = pieces.div_ceil(steps);
    c.steps = steps as i32;
    // SAFETY: the kernels write all of it
    let y = unsafe { room(x, shape.as_slice(), dtype)? };
    let parts = if splits > 1 {
        // SAFETY: the kernel writes all of it
        Some(unsafe { room(x, (splits, pixels, out), DType::F32)? })
    } else {
        None
    };
    let precision = match (dtype, exact) {
        (DType::BF16, _) => "bf16",
        (_, true) => "f32",
        (_, false) => "tf32",
    };
    let kernel = format!("convolve_{}{precision}", if line.is_some() { "normed_" } else { "" });
    let mut launch = Launch::new(&CONVOLUTION, &kernel, x)?.tensor(x)?;
    if let Some(line) = line {
        launch = launch.tensor(line)?;
    }
    let After { bias, shift, residual } = after;
    let launch =
        launch.tensor(filters)?.maybe(bias)?.maybe(shift)?.maybe(residual)?.tensor(&y)?.maybe(parts.as_ref())?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(c).run([pixels.div_ceil(PIXELS), out.div_ceil(OUTS), splits], THREADS, SHARED)? };
    if let Some(parts) = &parts {
        let launch = Launch::new(&CONVOLUTION, &typed("add_parts", dtype)?, x)?.tensor(parts)?.value(splits as i32);
        let launch = launch.maybe(bias)?.maybe(shift)?.maybe(residual)?.tensor(&y)?.value(pixels as i32);
        // SAFETY: the kernel's arguments
        unsafe { launch.value(c.rows * c.columns).value(c.out).over(y.elem_count())? };
    }
    Ok(y)
}
