//! Linear maps: frozen ones, and those that are trained.

use std::sync::{Arc, OnceLock};

use candle_core::{D, DType, Result, Tensor};

use super::cpu::product::panels::Panels;
use super::gradient::{nothing, with_backward2, with_backward3};
use super::norm::Norm;
use super::place::{Place, place};
use super::weight::{Precision, Weight};
use super::{cpu, cuda};

/// y = x W^T + b with W [out, in] and b `[out]`: frozen, or trained if they are variables.
#[derive(Clone, Debug)]
pub struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
    /// Values of a row of x, and of y.
    from: usize,
    to: usize,
}

impl Linear {
    /// `weight` [out, in], `bias` `[out]`.
    ///
    /// # Errors
    /// If `weight` is no matrix.
    pub fn new(weight: Tensor, bias: Option<Tensor>, precision: Precision) -> Result<Self> {
        let (to, from) = weight.dims2()?;
        let weight = Weight::of_linear(weight, precision)?;
        let bias = bias.map(|bias| weight.suited(&bias)).transpose()?;
        Ok(Self { weight, bias, from, to })
    }

    /// The weight [out, in] in f32, a copy.
    ///
    /// # Errors
    /// If there is no room.
    pub fn weight(&self) -> Result<Tensor> {
        match &self.weight {
            Weight::Cpu(panels) => Tensor::from_vec(panels.unpacked(), (self.to, self.from), &candle_core::Device::Cpu),
            // a copy in any case, since `to_dtype` may give the same tensor
            Weight::Cuda(weight) => weight.values().to_dtype(DType::F32)?.copy(),
            Weight::Plain(weight) | Weight::Trained(weight) => weight.detach().copy(),
        }
    }

    /// Values of a row of its result.
    pub fn width_out(&self) -> usize {
        self.to
    }

    /// Whether it is trained.
    pub(super) fn is_trained(&self) -> bool {
        matches!(self.weight, Weight::Trained(_))
    }

    /// Maps `x` [..., in] to [..., out].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, None)
    }

    /// Maps `x` [..., in] to [..., out] and adds `residual` [..., out]. Nothing is kept for the gradient.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward_plus(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.run(x, None, residual)
    }

    /// Maps `norm` of `x` [..., in] to [..., out]. The normed values are not kept for the gradient.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn after(&self, norm: &(impl Norm + Clone + 'static), x: &Tensor) -> Result<Tensor> {
        self.run(x, Some(Arc::new(norm.clone())), None)
    }

    /// `x` in the type that the map takes.
    pub(super) fn suited(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.suited(x)
    }

    /// The same map without its bias, which comes later.
    pub(super) fn without_bias(&self) -> Self {
        Self { bias: None, ..self.clone() }
    }

    /// The gradient of `x` from that of the result, and `residual`, of the same shape, added to it.
    pub(super) fn backward(&self, dy: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        match &self.weight {
            Weight::Cpu(panels) => cpu::linear::backward(dy, panels, residual, &ending_in(dy, self.from)),
            Weight::Cuda(weight) => cuda::linear::backward(dy, weight.values(), residual, &ending_in(dy, self.from)),
            Weight::Plain(weight) | Weight::Trained(weight) => {
                let dx = plain_product(dy, &weight.detach())?;
                residual.map_or(Ok(dx.clone()), |residual| dx + residual)
            }
        }
    }

    fn run(&self, x: &Tensor, norm: Option<Arc<dyn Norm>>, residual: Option<&Tensor>) -> Result<Tensor> {
        let shape = ending_in(x, self.to);
        if x.dims().last() != Some(&self.from) {
            candle_core::bail!("a linear map from {} to {} was given {:?}", self.from, self.to, x.dims());
        }
        if residual.is_some_and(|residual| residual.dims() != shape) {
            candle_core::bail!("the residual of a linear map to {shape:?} is {residual:?}");
        }
        let x = &self.weight.suited(x)?;
        let residual = residual.map(|residual| self.weight.suited(residual)).transpose()?;
        let residual = residual.as_ref();
        let (kept, bias) = (x.detach(), self.bias.as_ref());
        let normed = || norm.as_ref().map_or(Ok(kept.clone()), |norm| norm.forward(&kept));
        let y = match &self.weight {
            Weight::Cpu(panels) => cpu::linear::forward(&normed()?, panels, bias, residual, &shape)?,
            Weight::Cuda(weight) => cuda::linear::forward(&normed()?, weight.values(), bias, residual, &shape)?,
            Weight::Plain(weight) => return self.composed(weight, x, norm, residual),
            Weight::Trained(weight) => {
                let x = norm.map_or(Ok(x.clone()), |norm| norm.forward(x))?;
                let y = TrainedLinear::new(weight.clone(), self.bias.clone()).forward(&x)?;
                return residual.map_or(Ok(y.clone()), |residual| y + residual);
            }
        };
        let (tracked, map) = (x.track_op(), self.clone());
        // without a norm, the gradient does not ask for the input
        let kept = norm.map(|norm| (norm, kept));
        with_backward2([x, residual.unwrap_or(&x.detach())], y, move |dy| {
            let dx = if tracked {
                let dx = map.backward(dy, None)?;
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

    fn composed(
        &self,
        weight: &Tensor,
        x: &Tensor,
        norm: Option<Arc<dyn Norm>>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let x = norm.map_or(Ok(x.clone()), |norm| norm.forward(x))?;
        let y = plain_product(&x, &weight.t()?)?;
        let y = self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
        residual.map_or(Ok(y.clone()), |residual| y + residual)
    }
}

/// The shape of `x` with another last side.
fn ending_in(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(side) = shape.last_mut() {
        *side = last;
    }
    shape
}

/// x w over the last axis of `x`.
fn plain_product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.reshape(((), w.dim(0)?))?.matmul(w)?.reshape(ending_in(x, w.dim(1)?))
}

/// y = x W^T + b with W [out, in] and b `[out]` that training changes.
#[derive(Clone, Debug)]
pub struct TrainedLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// W^T, once it is used and does not change any more.
    packed: OnceLock<Arc<Panels>>,
}

impl TrainedLinear {
    /// A map with `weight` [out, in] and `bias` `[out]`, variables or what variables had become.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, packed: OnceLock::new() }
    }

    /// Maps `x` [..., in] to [..., out], with the gradients of all.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.beside([x])
    }

    /// Maps [a | b] [..., in], of which `a` and `b` are the halves, to [..., out], with the gradients of all.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn of_halves(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.beside([a, b])
    }

    fn beside<const N: usize>(&self, parts: [&Tensor; N]) -> Result<Tensor> {
        let (to, from) = (self.weight.dim(0)?, self.weight.dim(1)? / N);
        let shape = parts[0].dims();
        if parts.iter().any(|part| part.dims() != shape) || shape.last() != Some(&from) {
            candle_core::bail!("a linear map from {N} x {from} to {to} was given {N} x {shape:?}");
        }
        match place(parts[0]) {
            Place::Cpu => self.on_cpu(parts),
            Place::Cuda => self.on_cuda(parts),
            Place::Composed => self.composed(parts),
        }
    }

    /// Products in the precision of `parts`, from weights and to gradients of f32.
    fn on_cuda<const N: usize>(&self, parts: [&Tensor; N]) -> Result<Tensor> {
        let (x, dtype) = (Tensor::cat(&parts, D::Minus1)?, parts[0].dtype());
        let (kept, weight) = (x.detach(), self.weight.detach().to_dtype(dtype)?);
        let shape = ending_in(&x, self.weight.dim(0)?);
        let bias = self.bias.as_ref().map(|bias| bias.detach().to_dtype(dtype)).transpose()?;
        let y = cuda::linear::forward(&kept, &weight, bias.as_ref(), None, &shape)?;
        let tracked = [x.track_op(), self.weight.track_op(), self.bias.as_ref().is_some_and(Tensor::track_op)];
        let inputs = [&x, &self.weight, self.bias.as_ref().unwrap_or(&x)];
        with_backward3(inputs, y, move |_, dy| {
            let gradient = |i: usize| -> Result<Option<Tensor>> {
                let of = || match i {
                    0 => cuda::linear::backward(dy, &weight, None, kept.dims()),
                    1 => cuda::linear::weight_gradient(&kept, dy),
                    _ => cuda::linear::column_sums(dy),
                };
                tracked[i].then(of).transpose()
            };
            Ok([gradient(0)?, gradient(1)?, gradient(2)?])
        })
    }

    fn composed<const N: usize>(&self, parts: [&Tensor; N]) -> Result<Tensor> {
        let y = plain_product(&Tensor::cat(&parts, D::Minus1)?, &self.weight.t()?)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    fn on_cpu<const N: usize>(&self, parts: [&Tensor; N]) -> Result<Tensor> {
        let weight = &self.weight;
        let to = weight.dim(0)?;
        let kept = parts.map(|part| part.detach());
        let y = cpu::linear::beside(kept.each_ref(), &*self.packed()?, self.bias.as_ref(), &ending_in(parts[0], to))?;
        if let ([x], Some(bias)) = (&parts[..], &self.bias) {
            return self.biased(x, bias, y);
        }
        // an operation has three inputs: weight and bias are one of them
        let trained = match &self.bias {
            Some(bias) if weight.track_op() || bias.track_op() => Tensor::cat(&[&weight.flatten_all()?, bias], 0)?,
            _ => weight.flatten_all()?,
        };
        let (tracked, kept_weight, biased) = (parts.map(Tensor::track_op), weight.detach(), self.bias.is_some());
        let learns = trained.track_op();
        let nothing = nothing(parts[0])?;
        with_backward3([parts[0], parts.get(1).unwrap_or(&&nothing), &trained], y, move |_, dy| {
            let mut grads = [None, None, None];
            let mut of_weight = Vec::with_capacity(N);
            for (i, part) in kept.iter().enumerate() {
                if tracked[i] {
                    grads[i] = Some(cpu::linear::beside_backward(dy, &kept_weight, i, part)?);
                }
                if learns {
                    of_weight.push(cpu::linear::weight_gradient(part, dy)?);
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

    /// `y`, which was made of `x`, with the gradients of all.
    fn biased(&self, x: &Tensor, bias: &Tensor, y: Tensor) -> Result<Tensor> {
        let tracked = [x, &self.weight, bias].map(Tensor::track_op);
        let (kept, weight) = (x.detach(), self.weight.detach());
        with_backward3([x, &self.weight, bias], y, move |_, dy| {
            let gradient = |i: usize| -> Result<Option<Tensor>> {
                let of = || match i {
                    0 => cpu::linear::beside_backward(dy, &weight, 0, &kept),
                    1 => cpu::linear::weight_gradient(&kept, dy),
                    _ => cpu::linear::column_sums(dy),
                };
                tracked[i].then(of).transpose()
            };
            Ok([gradient(0)?, gradient(1)?, gradient(2)?])
        })
    }

    fn packed(&self) -> Result<Arc<Panels>> {
        if let Some(packed) = self.packed.get() {
            return Ok(Arc::clone(packed));
        }
        let packed = Arc::new(cpu::linear::pack(&self.weight)?);
        if self.weight.track_op() {
            return Ok(packed);
        }
        Ok(Arc::clone(self.packed.get_or_init(|| packed)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, assert_close, at_every_level};
    use super::*;

    /// Sizes that fill neither rows nor panels, nor the depth that is taken at a time.
    const SIZES: [(usize, usize, usize); 4] = [(7, 33, 50), (150, 1200, 70), (3, 16, 48), (41, 64, 97)];

    #[test]
    fn frozen_maps_equal_candles_product() {
        at_every_level(|| {
            let draw = Draw::new("frozen linear");
            for (rows, from, to) in SIZES {
                let (x, w) = (draw.variable(&[2, rows, from], 1.)?, draw.normal(&[to, from], 1.)?);
                let (bias, residual) = (draw.normal(&[to], 1.)?, draw.variable(&[2, rows, to], 1.)?);
                let slow = (plain_product(&x, &w.t()?)?.broadcast_add(&bias)? + residual.as_tensor())?;
                for (precision, bound) in [(Precision::F32, 1e-5), (Precision::F16, 2e-3), (Precision::Bf16, 2e-2)] {
                    let what = format!("{rows} x {from} x {to}, {precision}");
                    let frozen = Linear::new(w.clone(), Some(bias.clone()), precision)?;
                    assert_close(&frozen.weight()?, &w, bound, &what)?;
                    let fast = frozen.forward_plus(&x, Some(&residual))?;
                    assert_alike([&fast, &slow], &[&x, &residual], &draw, bound, &what)?;
                }
            }
            Ok(())
        });
    }

    #[test]
    fn trained_maps_equal_candles_product() {
        at_every_level(|| {
            let draw = Draw::new("trained linear");
            for (rows, from, to) in SIZES {
                let what = format!("{rows} x {from} x {to}");
                let (x, w) = (draw.variable(&[2, rows, from], 1.)?, draw.variable(&[to, from], 1.)?);
                let map = TrainedLinear::new(w.as_tensor().clone(), None);
                assert_alike([&map.forward(&x)?, &map.composed([&x])?], &[&x, &w], &draw, 1e-5, &what)?;
                let (shift, residual) = (draw.variable(&[to], 1.)?, draw.variable(&[2, rows, to], 1.)?);
                let map = Linear::new(w.as_tensor().clone(), Some(shift.as_tensor().clone()), Precision::F32)?;
                let slow = (plain_product(&x, &w.t()?)?.broadcast_add(&shift)? + residual.as_tensor())?;
                let fast = map.forward_plus(&x, Some(&residual))?;
                assert_alike([&fast, &slow], &[&x, &w, &shift, &residual], &draw, 1e-5, &format!("{what}, biased"))?;

                let (other, wide) = (draw.variable(&[2, rows, from], 1.)?, draw.variable(&[to, 2 * from], 1.)?);
                let bias = draw.variable(&[to], 1.)?;
                let map = TrainedLinear::new(wide.as_tensor().clone(), Some(bias.as_tensor().clone()));
                let (fast, slow) = (map.of_halves(&x, &other)?, map.composed([&x, &other])?);
                assert_alike([&fast, &slow], &[&x, &other, &wide, &bias], &draw, 1e-5, &format!("{what}, halves"))?;
            }
            Ok(())
        });
    }
}
