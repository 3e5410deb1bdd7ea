//! Linear maps: frozen ones, and those that are trained.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use super::backward::{with_backward2, with_backward3};
use super::gemm::{Finish, Matrix, product};
use super::norm::Norm;
use super::panels::{Panels, Precision, Strides, buffer};
use super::slices::{from_slices, on_cpu, with_slices};

/// y = x W^T + b with frozen W [out, in] and b [out].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

#[derive(Clone, Debug)]
enum Weight {
    /// W^T.
    Packed(Arc<Panels>),
    /// W, for devices that candle computes on.
    Plain(Tensor),
}

impl Linear {
    /// `weight` [out, in], `bias` [out].
    ///
    /// # Errors
    /// If `weight` is no matrix.
    pub fn new(weight: Tensor, bias: Option<Tensor>, precision: Precision) -> Result<Self> {
        let (to, from) = weight.dims2()?;
        let weight = if on_cpu(&weight) {
            let strides = Strides { row: 1, column: from };
            let packed = with_slices([&weight], |[weight]| Panels::pack(weight, from, to, strides))?;
            Weight::Packed(Arc::new(packed.kept_in(precision, true)))
        } else {
            Weight::Plain(weight)
        };
        Ok(Self { weight, bias })
    }

    /// The weight [out, in] in f32, a copy.
    pub fn weight(&self) -> Result<Tensor> {
        match &self.weight {
            Weight::Packed(panels) => {
                Tensor::from_vec(panels.unpacked(), (panels.n(), panels.k()), &candle_core::Device::Cpu)
            }
            Weight::Plain(weight) => weight.copy(),
        }
    }

    /// Maps `x` [..., in] to [..., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, None)
    }

    /// Maps `x` [..., in] to [..., out] and adds `residual` [..., out]. Nothing is kept for the gradient.
    pub fn forward_plus(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.run(x, None, residual)
    }

    /// Maps `norm` of `x` [..., in] to [..., out]. The normed values are not kept for the gradient.
    pub fn after(&self, norm: &(impl Norm + Clone + 'static), x: &Tensor) -> Result<Tensor> {
        self.run(x, Some(Arc::new(norm.clone())), None)
    }

    fn run(&self, x: &Tensor, norm: Option<Arc<dyn Norm>>, residual: Option<&Tensor>) -> Result<Tensor> {
        let panels = match &self.weight {
            Weight::Packed(panels) => Arc::clone(panels),
            Weight::Plain(weight) => {
                let x = norm.map_or(Ok(x.clone()), |norm| norm.forward(x))?;
                let y = plain_product(&x, &weight.t()?)?;
                let y = self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
                return residual.map_or(Ok(y.clone()), |residual| y + residual);
            }
        };
        let mut shape = x.dims().to_vec();
        if shape.last() != Some(&panels.k()) {
            candle_core::bail!("a linear map from {} to {} was given {shape:?}", panels.k(), panels.n());
        }
        if let Some(last) = shape.last_mut() {
            *last = panels.n();
        }
        if residual.is_some_and(|residual| residual.dims() != shape) {
            candle_core::bail!("the residual of a linear map to {shape:?} is {residual:?}");
        }
        let empty = Tensor::zeros(0, x.dtype(), x.device())?;
        let residual = residual.unwrap_or(&empty);
        let normed = norm.as_ref().map_or(Ok(x.detach()), |norm| norm.forward(&x.detach()))?;
        let inputs = [&normed, &residual.detach(), self.bias.as_ref().unwrap_or(&empty)];
        let y = from_slices(inputs, &shape[..], |[x, residual, bias]| {
            rows_times(x, &panels, Finish { bias, residual, ..Finish::default() })
        })?;
        drop(normed);
        let (tracked, width) = (x.track_op(), x.shape().clone());
        // without a norm, the gradient does not ask for the input
        let kept = norm.map(|norm| (norm, x.detach()));
        with_backward2([x, residual], y, move |dy| {
            let dx = if tracked {
                let turned = turned(&panels);
                let dx = from_slices([dy], &width, |[dy]| rows_times(dy, &turned, Finish::default()))?;
                Some(match &kept {
                    Some((norm, x)) => norm.backward(x, &dx)?,
                    None => dx,
                })
            } else {
                None
            };
            Ok([dx, Some(dy.clone())])
        })
    }

    /// What `f` makes of the values of `x` and the bias, which may be empty.
    pub(super) fn with_bias<T>(&self, x: &Tensor, f: impl FnOnce(&[f32], &[f32]) -> T) -> Result<T> {
        match &self.bias {
            Some(bias) => with_slices([x, bias], |[x, bias]| f(x, bias)),
            None => with_slices([x], |[x]| f(x, &[])),
        }
    }

    /// W^T as the CPU's kernels read it.
    pub(super) fn packed(&self) -> Result<&Panels> {
        match &self.weight {
            Weight::Packed(panels) => Ok(panels),
            Weight::Plain(_) => candle_core::bail!("a map that is not on the CPU"),
        }
    }

    /// W as the CPU's kernels read it, for gradients.
    pub(super) fn turned(&self) -> Result<Panels> {
        self.packed().map(turned)
    }
}

/// The right-hand side of the input gradient, in the precision of the map.
fn turned(panels: &Panels) -> Panels {
    let turned = panels.transposed();
    if panels.has_pairs() { turned.kept_in(Precision::Bf16, true) } else { turned }
}

/// Rows `x` times a packed matrix.
pub(super) fn rows_times(x: &[f32], right: &Panels, finish: Finish) -> Vec<f32> {
    let rows = x.len() / right.k();
    let mut y = buffer(rows * right.n());
    product(&mut y, &Matrix::new(x, rows, right.k(), right.k()), right, finish);
    y
}

/// x w over the last axis of `x`.
fn plain_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = w.dim(1)?;
    }
    x.reshape(((), w.dim(0)?))?.matmul(w)?.reshape(shape)
}

/// y = x W^T for a *trained* W [out, in], with the gradients of both.
pub fn trained(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (to, from) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&from) {
        candle_core::bail!("a linear map from {from} to {to} was given {shape:?}");
    }
    if !on_cpu(x) {
        return plain_product(x, &weight.t()?);
    }
    if let Some(last) = shape.last_mut() {
        *last = to;
    }
    let (kept_x, kept_weight) = (x.detach(), weight.detach());
    let y = from_slices([&kept_x, &kept_weight], shape, |[x, weight]| {
        rows_times(x, &Panels::pack(weight, from, to, Strides { row: 1, column: from }), Finish::default())
    })?;
    let nothing = Tensor::zeros(0, x.dtype(), x.device())?;
    let tracked = x.track_op();
    with_backward3([x, weight, &nothing], y, move |_, dy| {
        let dx = if tracked {
            let right = |[dy, weight]: [&[f32]; 2]| {
                rows_times(dy, &Panels::pack(weight, to, from, Strides { row: from, column: 1 }), Finish::default())
            };
            Some(from_slices([dy, &kept_weight], kept_x.shape(), right)?)
        } else {
            None
        };
        Ok([dx, Some(weight_gradient(&kept_x, dy)?), None])
    })
}

/// dy^T x [out, in] of `x` [..., in] and `dy` [..., out].
fn weight_gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (from, to) = (x.dim(D::Minus1)?, dy.dim(D::Minus1)?);
    let rows = x.elem_count() / from;
    let turned = dy.reshape((rows, to))?.t()?.contiguous()?;
    from_slices([x, &turned], (to, from), |[x, turned]| {
        rows_times(turned, &Panels::pack(x, rows, from, Strides { row: from, column: 1 }), Finish::default())
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn kernels_equal_candles_product() -> Result<()> {
        let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
        for (rows, from, to) in [(7, 33, 50), (150, 1200, 70), (3, 16, 48)] {
            let (x, w) = (Var::from_tensor(&random(&[2, rows, from])?)?, Var::from_tensor(&random(&[to, from])?)?);
            let (bias, dy) = (random(&[to])?, random(&[2, rows, to])?);
            let residual = Var::from_tensor(&random(&[2, rows, to])?)?;
            let slow = plain_product(x.as_tensor(), &w.t()?)?;
            let with_rest = (slow.broadcast_add(&bias)? + residual.as_tensor())?;
            for (precision, bound) in [(Precision::F32, 1e-5), (Precision::F16, 2e-3), (Precision::Bf16, 2e-2)] {
                let frozen = Linear::new(w.detach(), Some(bias.clone()), precision)?;
                assert!(gap(&frozen.weight()?, w.as_tensor())? < bound);
                let fast = frozen.forward_plus(x.as_tensor(), Some(residual.as_tensor()))?;
                assert!(gap(&fast, &with_rest)? < bound, "{precision:?}: {}", gap(&fast, &with_rest)?);
                for variable in [&x, &residual] {
                    let grad = |y: &Tensor| -> Result<Tensor> {
                        Ok((y * &dy)?.sum_all()?.backward()?.get(variable).unwrap().clone())
                    };
                    assert!(gap(&grad(&fast)?, &grad(&with_rest)?)? < bound, "{precision:?}");
                }
            }
            let fast = trained(x.as_tensor(), w.as_tensor())?;
            assert!(gap(&fast, &slow)? < 1e-5);
            for variable in [&x, &w] {
                let grad = |y: &Tensor| -> Result<Tensor> {
                    Ok((y * &dy)?.sum_all()?.backward()?.get(variable).unwrap().clone())
                };
                assert!(gap(&grad(&fast)?, &grad(&slow)?)? < 1e-5);
            }
        }
        Ok(())
    }

    /// The greatest difference, as a share of the greatest value.
    fn gap(a: &Tensor, b: &Tensor) -> Result<f32> {
        let greatest = |t: &Tensor| t.abs()?.max_all()?.to_scalar::<f32>();
        Ok(greatest(&(a - b)?)? / greatest(b)?)
    }
}
