//! One AdamW step on all trained variables, with clipping of their common gradient norm.

use candle_core::{Result, Tensor, Var};

use super::place::{Place, place};
use super::{cpu, cuda};

/// The optimiser's constants (PyTorch's names and defaults).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The norm of all gradients together is clipped to this; infinite: it is not.
    pub max_grad_norm: f64,
}

impl Settings {
    /// 1 - beta^t of both moments.
    pub(crate) fn corrections(&self, step: usize) -> (f64, f64) {
        (1. - self.betas.0.powi(step as i32), 1. - self.betas.1.powi(step as i32))
    }

    fn update(&self, norm: f64, step: usize, multiplier: f64) -> Update {
        let learning_rate = self.learning_rate * multiplier;
        Update {
            clip: (self.max_grad_norm / (norm + 1e-6)).min(1.),
            betas: self.betas,
            corrections: self.corrections(step),
            learning_rate,
            eps: self.eps,
            decay: 1. - learning_rate * self.weight_decay,
        }
    }
}

/// A variable with what its step needs.
pub struct Trained<'a> {
    /// Its value.
    pub value: &'a Var,
    /// The gradient of its value.
    pub grad: &'a Tensor,
    /// Of the gradient, first and second.
    pub moments: &'a mut [Tensor; 2],
    /// How many times the learning rate it is trained with.
    pub multiplier: f64,
}

/// Step number `step`, from 1, on all of `trained`; the norm of their gradients before clipping, `[1]` in f64. If it is
/// not finite, nothing has changed.
///
/// # Errors
/// If values and gradients do not fit.
pub fn step(trained: &mut [Trained], settings: &Settings, step: usize) -> Result<Tensor> {
    if let Some(first) = trained.first()
        && place(first.value) == Place::Cuda
    {
        return cuda::adamw::step(trained, settings, step);
    }
    let mut square = 0.;
    for Trained { grad, .. } in trained.iter() {
        square += sum_of_squares(grad)?;
    }
    let norm = square.sqrt();
    if norm.is_finite() {
        for Trained { value, grad, moments, multiplier } in trained {
            let update = settings.update(norm, step, *multiplier);
            let [new, first, second] = update.apply(value.as_tensor(), grad, moments)?;
            value.set(&new)?;
            **moments = [first, second];
        }
    }
    Tensor::new(&[norm], &candle_core::Device::Cpu)
}

/// The constants of one step on one variable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// The gradient is multiplied by this.
    pub(crate) clip: f64,
    /// Decay rates of the two moments.
    pub(crate) betas: (f64, f64),
    /// 1 - beta^t of both.
    pub(crate) corrections: (f64, f64),
    /// Learning rate.
    pub(crate) learning_rate: f64,
    /// Added to the root of the second moment.
    pub(crate) eps: f64,
    /// The value is multiplied by this first.
    pub(crate) decay: f64,
}

/// The sum of the squares of `x`, in f64.
fn sum_of_squares(x: &Tensor) -> Result<f64> {
    match place(x) {
        Place::Cpu => cpu::adamw::sum_of_squares(x),
        Place::Cuda | Place::Composed => Ok(x.sqr()?.sum_all()?.to_scalar::<f32>()? as f64),
    }
}

impl Update {
    /// New value and moments of a variable.
    fn apply(&self, value: &Tensor, grad: &Tensor, moments: &[Tensor; 2]) -> Result<[Tensor; 3]> {
        match place(value) {
            Place::Cpu => cpu::adamw::update(self, value, grad, moments),
            Place::Cuda | Place::Composed => self.composed(value, grad, moments),
        }
    }

    fn composed(&self, value: &Tensor, grad: &Tensor, [first, second]: &[Tensor; 2]) -> Result<[Tensor; 3]> {
        let grad = (grad * self.clip)?;
        let first = ((first * self.betas.0)? + (&grad * (1. - self.betas.0))?)?;
        let second = ((second * self.betas.1)? + (grad.sqr()? * (1. - self.betas.1))?)?;
        let scale = ((&second / self.corrections.1)?.sqrt()? + self.eps)?;
        let change = ((&first * (self.learning_rate / self.corrections.0))? / scale)?;
        Ok([((value.detach() * self.decay)? - change)?, first, second])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_close, at_every_level};
    use super::*;

    #[test]
    fn kernel_equals_composed_operations() {
        at_every_level(|| {
            let draw = Draw::new("adamw");
            let update = Update {
                clip: 0.7,
                betas: (0.9, 0.999),
                corrections: (1. - 0.9f64.powi(3), 1. - 0.999f64.powi(3)),
                learning_rate: 1e-2,
                eps: 1e-8,
                decay: 1. - 1e-4,
            };
            // more than a task takes
            let shape = [130, 131];
            let [value, grad, first] = [draw.normal(&shape, 1.)?, draw.normal(&shape, 1.)?, draw.normal(&shape, 0.1)?];
            let moments = [first, draw.normal(&shape, 0.1)?.sqr()?];
            let fast = update.apply(&value, &grad, &moments)?;
            let slow = update.composed(&value, &grad, &moments)?;
            for (i, (fast, slow)) in fast.iter().zip(&slow).enumerate() {
                assert_close(fast, slow, 1e-6, ["value", "first moment", "second moment"][i])?;
            }
            let sum = value.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
            assert!((sum_of_squares(&value)? / sum - 1.).abs() < 1e-12);
            Ok(())
        });
    }
}
