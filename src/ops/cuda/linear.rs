//! Linear maps: cuBLAS's product, and what comes after it as one kernel.

use candle_core::{Result, Tensor};

use super::launch::{Launch, Module, module, plain, typed};

const LINEAR: Module = module!("linear");

/// Maps `x` [..., in] to [..., out], of the shape `shape`, and adds `residual`. `weight` is W [out, in].
pub(crate) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    product(x, &weight.t()?, bias, residual, shape)
}

/// The gradient of the input, of the shape `shape`, from that of the result, and `residual` added to it.
pub(crate) fn backward(dy: &Tensor, weight: &Tensor, residual: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    product(dy, weight, None, residual, shape)
}

fn product(
    x: &Tensor,
    right: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    let dtype = right.dtype();
    let y = plain(x, dtype)?.reshape(((), right.dim(0)?))?.matmul(right)?;
    let residual = residual.map(|residual| plain(residual, dtype)).transpose()?;
    if bias.is_some() || residual.is_some() {
        let launch = Launch::new(&LINEAR, &typed("finish", dtype)?, &y)?.tensor(&y)?.maybe(bias)?;
        let launch = launch.maybe(residual.as_ref())?.value(y.elem_count() as u64).value(right.dim(1)? as i32);
        // SAFETY: the kernel's arguments, and nobody else has `y` yet
        unsafe { launch.over(y.elem_count())? };
    }
    y.reshape(shape)
}
