//! A frozen linear map.

use candle_core::{D, Result, Tensor};

use super::backward::{with_backward, with_backward3};
use super::gemm::{Matrix, multiply_parallel};
use super::slices::{from_slices, on_cpu};

/// y = x W^T + b with frozen W [out, in] and b [out].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` [out, in], `bias` [out].
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight [out, in].
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Maps `x` [..., in] to [..., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.clone();
        let y = product(&x.detach(), &weight, true, self.bias.as_ref())?;
        with_backward(x, y, move |dy| product(dy, &weight, false, None))
    }
}

/// y = x W^T for a *trained* W [out, in], with the gradients of both.
pub fn trained(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (kept_x, kept_weight) = (x.detach(), weight.detach());
    let y = product(&kept_x, &kept_weight, true, None)?;
    let nothing = Tensor::zeros(0, x.dtype(), x.device())?;
    let tracked = x.track_op();
    with_backward3([x, weight, &nothing], y, move |dy| {
        let dx = if tracked { Some(product(dy, &kept_weight, false, None)?) } else { None };
        Ok([dx, Some(weight_gradient(&kept_x, dy)?), None])
    })
}

/// dy^T x [out, in] of `x` [..., in] and `dy` [..., out].
fn weight_gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (from, to) = (x.dim(D::Minus1)?, dy.dim(D::Minus1)?);
    let rows = x.elem_count() / from;
    if !on_cpu(x) {
        return dy.reshape((rows, to))?.t()?.matmul(&x.reshape((rows, from))?);
    }
    from_slices([x, dy], (to, from), |[x, dy]| {
        let mut gradient = vec![0.; to * from];
        let (x, dy) = (Matrix::new(x, rows, from, from), Matrix::new(dy, rows, to, to));
        multiply_parallel((&mut gradient, from), 0., 1., (dy, true), (x, false));
        gradient
    })
}

/// x W^T + b (`transposed`) or x W over the last axis of `x`.
fn product(x: &Tensor, weight: &Tensor, transposed: bool, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows_w, columns_w) = weight.dims2()?;
    let (from, to) = if transposed { (columns_w, rows_w) } else { (rows_w, columns_w) };
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&from) {
        candle_core::bail!("a linear map from {from} to {to} was given {shape:?}");
    }
    let rows = x.elem_count() / from;
    if let Some(last) = shape.last_mut() {
        *last = to;
    }
    if !on_cpu(x) {
        let weight = if transposed { weight.t()? } else { weight.clone() };
        let y = x.reshape((rows, from))?.matmul(&weight)?;
        return bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?.reshape(shape);
    }
    let empty = Tensor::zeros(0, x.dtype(), x.device())?;
    from_slices([x, weight, bias.unwrap_or(&empty)], shape, |[x, weight, bias]| {
        let mut y = if bias.is_empty() { vec![0.; rows * to] } else { bias.repeat(rows) };
        let x = Matrix::new(x, rows, from, from);
        let weight = Matrix::new(weight, rows_w, columns_w, columns_w);
        let keep = !bias.is_empty() as u8 as f32;
        multiply_parallel((&mut y, to), keep, 1., (x, false), (weight, transposed));
        y
    })
}
