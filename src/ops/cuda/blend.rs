//! The end of reference attention.

use candle_core::{Result, Tensor};

use super::launch::{Launch, Module, module, plain, room, typed};

const BLEND: Module = module!("blend");

/// With [feature, mask] = `fused` [B, N, d + 1]: `x` + m feature + (1 - m) `own`, and m.
pub(crate) fn forward(fused: &Tensor, own: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, length, width) = own.dims3()?;
    let dtype = own.dtype();
    let [fused, own, x] = [plain(fused, dtype)?, plain(own, dtype)?, plain(x, dtype)?];
    // SAFETY: the kernel writes both
    let (y, mask) = unsafe { (room(&own, own.shape(), dtype)?, room(&own, (batch, length, 1), dtype)?) };
    let launch = Launch::new(&BLEND, &typed("blend", dtype)?, &own)?.tensor(&fused)?.tensor(&own)?.tensor(&x)?;
    let launch = launch.tensor(&y)?.tensor(&mask)?.value((batch * length) as i32).value(width as i32);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([(batch * length).div_ceil(4), 1, 1], 128, 0)? };
    Ok((y, mask))
}

/// The gradients of `fused` and `own`.
pub(crate) fn backward(fused: &Tensor, own: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, length, width) = own.dims3()?;
    let dtype = own.dtype();
    let [fused, own, dy] = [plain(fused, dtype)?, plain(own, dtype)?, plain(dy, dtype)?];
    // SAFETY: the kernel writes both
    let (d_fused, d_own) = unsafe { (room(&own, fused.shape(), dtype)?, room(&own, own.shape(), dtype)?) };
    let launch = Launch::new(&BLEND, &typed("blend_backward", dtype)?, &own)?.tensor(&fused)?.tensor(&own)?;
    let launch = launch.tensor(&dy)?.tensor(&d_fused)?.tensor(&d_own)?;
    let launch = launch.value((batch * length) as i32).value(width as i32);
    // SAFETY: the kernel's arguments
    unsafe { launch.run([(batch * length).div_ceil(4), 1, 1], 128, 0)? };
    Ok((d_fused, d_own))
}
