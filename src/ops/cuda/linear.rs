//! Linear maps and their gradients: each is one product.

use candle_core::{DType, Result, Tensor};

use super::product::{Added, Matrix, product};

/// Maps `x` [..., in] to [..., out], of the shape `shape`, and adds `residual`. `weight` is W [out, in]; it and `bias` have
/// the type of the result.
pub(crate) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    let x = x.to_dtype(weight.dtype())?;
    let residual = residual.map(|residual| residual.to_dtype(weight.dtype())).transpose()?;
    let added = Added { bias, residual: residual.as_ref() };
    product(&Matrix::of(&x)?, &Matrix::of(weight)?.turned(), added, weight.dtype())?.reshape(shape)
}

/// The gradient of the input, of the shape `shape`, from that of the result, and `residual` added to it.
pub(crate) fn backward(dy: &Tensor, weight: &Tensor, residual: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    let dy = dy.to_dtype(weight.dtype())?;
    let added = Added { bias: None, residual };
    product(&Matrix::of(&dy)?, &Matrix::of(weight)?, added, weight.dtype())?.reshape(shape)
}

/// The gradient of the weight [out, in] in f32, from the input and the gradient of the result.
pub(crate) fn weight_gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    product(&Matrix::of(dy)?.turned(), &Matrix::of(x)?, Added::default(), DType::F32)
}

/// The sums of the columns of `dy` [..., out] in f32: the gradient of a bias. A product sums in f32, and in a fixed order.
pub(crate) fn column_sums(dy: &Tensor) -> Result<Tensor> {
    let dy = Matrix::of(dy)?;
    let ones = Tensor::ones((1, dy.rows()), dy.values().dtype(), dy.values().device())?;
    product(&Matrix::of(&ones)?, &dy, Added::default(), DType::F32)?.squeeze(0)
}
