//! Functions of single values, and GEGLU.

use candle_core::{D, Result, Tensor};

use super::launch::{Launch, Module, module, plain, room, typed};
use crate::ops::activation::Curve;

const ACTIVATION: Module = module!("activation");

fn name(curve: Curve) -> &'static str {
    match curve {
        Curve::Gelu => "gelu",
        Curve::QuickGelu => "quick_gelu",
    }
}

/// The curve's values at `x`.
pub(crate) fn forward(curve: Curve, x: &Tensor) -> Result<Tensor> {
    let x = plain(x, x.dtype())?;
    // SAFETY: the kernel writes all of it
    let y = unsafe { room(&x, x.shape(), x.dtype())? };
    let launch = Launch::new(&ACTIVATION, &typed(name(curve), x.dtype())?, &x)?.tensor(&x)?.tensor(&y)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(x.elem_count() as u64).over(x.elem_count())? };
    Ok(y)
}

/// The gradient of `x` from that of the curve's values there.
pub(crate) fn backward(curve: Curve, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (x, dy) = (plain(x, x.dtype())?, plain(dy, x.dtype())?);
    // SAFETY: the kernel writes all of it
    let dx = unsafe { room(&x, x.shape(), x.dtype())? };
    let kernel = typed(&format!("{}_backward", name(curve)), x.dtype())?;
    let launch = Launch::new(&ACTIVATION, &kernel, &x)?.tensor(&x)?.tensor(&dy)?.tensor(&dx)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(x.elem_count() as u64).over(x.elem_count())? };
    Ok(dx)
}

/// value gelu(gate) [..., n] of values and gates `x` [..., 2n], to which `bias` `[2n]` is added first.
pub(crate) fn geglu_forward(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let x = plain(x, x.dtype())?;
    let (rows, width) = (x.elem_count() / x.dim(D::Minus1)?, x.dim(D::Minus1)? / 2);
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = width;
    // SAFETY: the kernel writes all of it
    let y = unsafe { room(&x, shape, x.dtype())? };
    let launch = Launch::new(&ACTIVATION, &typed("geglu", x.dtype())?, &x)?.tensor(&x)?.tensor(bias)?.tensor(&y)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(rows as i32).value(width as i32).over(rows * width)? };
    Ok(y)
}

/// The gradient of `x` from that of [`geglu_forward`]'s result.
pub(crate) fn geglu_backward(x: &Tensor, bias: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (x, dy) = (plain(x, x.dtype())?, plain(dy, x.dtype())?);
    let (rows, width) = (x.elem_count() / x.dim(D::Minus1)?, x.dim(D::Minus1)? / 2);
    // SAFETY: the kernel writes all of it
    let dx = unsafe { room(&x, x.shape(), x.dtype())? };
    let launch = Launch::new(&ACTIVATION, &typed("geglu_backward", x.dtype())?, &x)?.tensor(&x)?.tensor(bias)?;
    let launch = launch.tensor(&dy)?.tensor(&dx)?;
    // SAFETY: the kernel's arguments
    unsafe { launch.value(rows as i32).value(width as i32).over(rows * width)? };
    Ok(dx)
}
