//! The arithmetic of one AdamW step on one variable.

use candle_core::{Result, Tensor};

use super::cpu;
use super::place::{Place, place};

/// The constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The gradient is multiplied by this.
    pub clip: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// 1 - beta^t of both.
    pub corrections: (f64, f64),
    /// Learning rate.
    pub learning_rate: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The value is multiplied by this first.
    pub decay: f64,
}

/// The sum of the squares of `x`, in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    match place(x) {
        Place::Cpu => cpu::adamw::sum_of_squares(x),
        Place::Composed => Ok(x.sqr()?.sum_all()?.to_scalar::<f32>()? as f64),
    }
}

impl Update {
    /// New value and moments of a variable.
    pub fn apply(&self, value: &Tensor, grad: &Tensor, moments: &[Tensor; 2]) -> Result<[Tensor; 3]> {
        match place(value) {
            Place::Cpu => cpu::adamw::update(self, value, grad, moments),
            Place::Composed => self.composed(value, grad, moments),
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
