//! Linear maps: frozen ones, and those that are trained.

use std::sync::{Arc, OnceLock};

use candle_core::{D, Result, Tensor};

use super::cpu::product::panels::{Panels, Precision, Strides, buffer};
use super::cpu::product::{Finish, Matrix, Rows, product};
use super::cpu::slices::{from_slices, on_cpu, with_slices};
use super::gradient::{with_backward2, with_backward3};
use super::norm::Norm;

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
    rows_times_into(&mut y, x, right, finish);
    y
}

/// The same into `y`.
pub(super) fn rows_times_into(y: &mut [f32], x: &[f32], right: &Panels, finish: Finish) {
    product(y, &Matrix::new(x, x.len() / right.k(), right.k(), right.k()), right, finish);
}

/// x w over the last axis of `x`.
fn plain_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = w.dim(1)?;
    }
    x.reshape(((), w.dim(0)?))?.matmul(w)?.reshape(shape)
}

/// y = x W^T + b with W [out, in] and b [out] that training changes.
#[derive(Clone, Debug)]
pub struct TrainedLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// W^T, once it is used and does not change any more.
    packed: OnceLock<Arc<Panels>>,
}

impl TrainedLinear {
    /// A map with `weight` [out, in] and `bias` [out], variables or what variables had become.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, packed: OnceLock::new() }
    }

    /// Maps `x` [..., in] to [..., out], with the gradients of all.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.beside([x])
    }

    /// Maps [a | b] [..., in], of which `a` and `b` are the halves, to [..., out], with the gradients of all.
    pub fn of_halves(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.beside([a, b])
    }

    fn beside<const N: usize>(&self, parts: [&Tensor; N]) -> Result<Tensor> {
        let weight = &self.weight;
        let (to, from) = (weight.dim(0)?, weight.dim(1)? / N);
        let mut shape = parts[0].dims().to_vec();
        if parts.iter().any(|part| part.dims() != shape) || shape.last() != Some(&from) {
            candle_core::bail!("a linear map from {N} x {from} to {to} was given {N} x {shape:?}");
        }
        if !on_cpu(parts[0]) {
            let y = plain_product(&Tensor::cat(&parts, D::Minus1)?, &weight.t()?)?;
            return self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias));
        }
        if let Some(last) = shape.last_mut() {
            *last = to;
        }
        let kept = parts.map(|part| part.detach());
        let packed = self.packed()?;
        let nothing = Tensor::zeros(0, parts[0].dtype(), parts[0].device())?;
        let y = with_slices([self.bias.as_ref().unwrap_or(&nothing)], |[bias]| {
            from_slices(kept.each_ref(), shape, |parts| {
                let mut y = buffer(parts[0].len() / from * to);
                product(&mut y, &Beside { parts, width: from }, &*packed, Finish { bias, ..Finish::default() });
                y
            })
        })??;
        // an operation has three inputs: weight and bias are one of them
        let trained = match &self.bias {
            Some(bias) if weight.track_op() || bias.track_op() => Tensor::cat(&[&weight.flatten_all()?, bias], 0)?,
            _ => weight.flatten_all()?,
        };
        let (tracked, kept_weight, biased) = (parts.map(Tensor::track_op), weight.detach(), self.bias.is_some());
        let learns = trained.track_op();
        with_backward3([parts[0], parts.get(1).unwrap_or(&&nothing), &trained], y, move |_, dy| {
            let mut grads = [None, None, None];
            let mut of_weight = Vec::with_capacity(N);
            for (i, part) in kept.iter().enumerate() {
                if tracked[i] {
                    let strides = Strides { row: N * from, column: 1 };
                    let right = |[dy, weight]: [&[f32]; 2]| {
                        rows_times(dy, &Panels::pack(&weight[i * from..], to, from, strides), Finish::default())
                    };
                    grads[i] = Some(from_slices([dy, &kept_weight], part.shape(), right)?);
                }
                if learns {
                    of_weight.push(weight_gradient(part, dy)?);
                }
            }
            if !learns {
                return Ok(grads);
            }
            let mut of_trained = vec![Tensor::cat(&of_weight, 1)?.flatten_all()?];
            if biased {
                of_trained.push(dy.reshape(((), to))?.sum(0)?);
            }
            grads[2] = Some(Tensor::cat(&of_trained, 0)?);
            Ok(grads)
        })
    }

    fn packed(&self) -> Result<Arc<Panels>> {
        if let Some(packed) = self.packed.get() {
            return Ok(Arc::clone(packed));
        }
        let (to, from) = self.weight.dims2()?;
        let strides = Strides { row: 1, column: from };
        let packed = with_slices([&self.weight], |[weight]| Panels::pack(weight, from, to, strides)).map(Arc::new)?;
        if self.weight.track_op() {
            return Ok(packed);
        }
        Ok(Arc::clone(self.packed.get_or_init(|| packed)))
    }
}

/// Rows that are pieces of `width` values of several matrices.
struct Beside<'a, const N: usize> {
    parts: [&'a [f32]; N],
    width: usize,
}

impl<const N: usize> Rows for Beside<'_, N> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize) {
        (N, self.width)
    }
    #[inline(always)]
    fn piece(&self, row: usize, segment: usize) -> *const f32 {
        self.parts[segment][row * self.width..].as_ptr()
    }
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
            let fast = TrainedLinear::new(w.as_tensor().clone(), None).forward(x.as_tensor())?;
            let twice = Tensor::cat(&[x.as_tensor(), &x.sqr()?], 2)?;
            let wide = Var::from_tensor(&random(&[to, 2 * from])?)?;
            let halves = [twice.narrow(2, 0, from)?, twice.narrow(2, from, from)?];
            let trained_bias = Var::from_tensor(&bias)?;
            let map = TrainedLinear::new(wide.as_tensor().clone(), Some(trained_bias.as_tensor().clone()));
            let beside = map.of_halves(&halves[0], &halves[1])?;
            let together = plain_product(&twice, &wide.t()?)?.broadcast_add(&trained_bias)?;
            for (fast, slow, variables) in
                [(fast, slow, &[&x, &w][..]), (beside, together, &[&x, &wide, &trained_bias])]
            {
                assert!(gap(&fast, &slow)? < 1e-5);
                for variable in variables {
                    let grad = |y: &Tensor| -> Result<Tensor> {
                        Ok((y * &dy)?.sum_all()?.backward()?.get(variable).unwrap().clone())
                    };
                    assert!(gap(&grad(&fast)?, &grad(&slow)?)? < 1e-5);
                }
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
